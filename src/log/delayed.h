/*-------------------------------------------------------------------------
 *
 * delayed.h
 *		Denied calls that wait until their second is over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_DELAYED_H
#define TIERLIMIT_DELAYED_H

#include "log/logrow.h"
#include "log/queue.h"

/* Once, before all else here. */
extern void delayed_init(void);

/* Rows that wait. */
extern int	delayed_rows(void);

/*
 * Whether more than max rows wait, or more than may have to be returned to the
 * queue.
 */
extern bool delayed_is_full(const LogQueue *queue, int max);

/* Add a row that was read from the queue for a batch. */
extern void delayed_add(const LogRow *row, uint64 batch);

/*
 * Take up to room rows that are due, or all; returns how many.  They stay valid
 * until delayed_written(), or are returned by delayed_put_back().
 */
extern int	delayed_take(LogRow **rows, int room, bool everything);
extern void delayed_written(void);

/* Have the queue keep room for what may have to be returned to it. */
extern void delayed_keep_room(LogQueue *queue);

/*
 * Return all to the queue, but for what a batch that was not committed has added:
 * that is there yet.
 */
extern void delayed_put_back(LogQueue *queue, uint64 batch);

#endif							/* TIERLIMIT_DELAYED_H */
