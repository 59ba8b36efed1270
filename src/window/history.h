/*-------------------------------------------------------------------------
 *
 * history.h
 *		A queue of (time, amount) slots, packed into blocks.
 *
 * Times are microseconds on any clock that never goes backwards from one call
 * to the next; amounts are positive.  Nothing here locks, allocates by itself
 * or knows what time it is.  See history.c for the layout.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_HISTORY_H
#define TIERLIMIT_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "window/block.h"

/*
 * So many bytes of records are in a History itself: those of half a dozen
 * calls, as many as there is room for in the block that it is a part of
 * (subject.h).
 */
#define RECENT_SIZE 26

/* An all-zero History is an empty one. */
typedef struct History
{
	int64_t		sum;			/* amount of all slots */
	int64_t		open_start;		/* the newest slot, not yet packed: */
	int64_t		open_last;		/* times of its first and last call */
	int64_t		open_amount;	/* 0: there is no slot at all */
	int64_t		packed_last;	/* time of the newest packed slot */
	int64_t		recent_before;	/* time that the first recent record is
								 * relative to */
	int64_t		oldest_time;	/* time of the oldest slot, if there is one */
	BlockNo		oldest;			/* ends of the chain of blocks */
	BlockNo		newest;
	uint32_t	count;			/* slots, the open one included */
	uint8_t		newest_end;		/* bytes used in the newest block */
	uint8_t		recent_end;		/* bytes used here: */
	uint8_t		recent[RECENT_SIZE];	/* the packed slots that are younger
										 * than those in blocks */
} History;

/*
 * The part of a history that is younger than some horizon; see history_view().
 */
typedef struct HistoryView
{
	int64_t		sum;			/* amount of the slots after the horizon */
	int64_t		oldest;			/* time of the first of them, if sum > 0 */
	BlockNo		block;			/* block of that slot; NO_BLOCK: it is among
								 * the recent ones, or the open one */
	uint16_t	offset;			/* place of the slot there */
	int64_t		before;			/* time that its record is relative to */
	int64_t		block_sum;		/* amount from it to the end of the block, if
								 * it is in one */
} HistoryView;

extern BlockNo history_next_block(const History *history, int64_t horizon);
extern bool history_add_needs_block(const History *history);
extern void history_add(History *history, BlockList *spare, int64_t time,
						int64_t amount, int64_t join_within);
extern void history_expire(History *history, BlockList *spare, int64_t horizon);
extern void history_clear(History *history, BlockList *spare);
extern int64_t history_take_newest(History *history, BlockList *spare,
								   int64_t amount);
extern int64_t history_sum_after(const History *history, const MemoryBlock *base,
								 int64_t horizon);
extern int64_t history_oldest_after(const History *history, const MemoryBlock *base,
									int64_t horizon);
extern HistoryView history_view(const History *history, const MemoryBlock *base,
								int64_t horizon);
extern int64_t history_time_of(const History *history, const MemoryBlock *base,
							   const HistoryView *view, int64_t need);
extern uint32_t history_blocks(const History *history, const MemoryBlock *base);
extern void history_copy(History *to, BlockList *spare, const History *from,
						 const MemoryBlock *from_base);

#endif							/* TIERLIMIT_HISTORY_H */
