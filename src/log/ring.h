/*-------------------------------------------------------------------------
 *
 * ring.h
 *		A queue of byte strings in shared memory: many append, one reads.
 *
 * See ring.c.  Positions count all bytes that ever went through a ring, so
 * they only grow, and tell what of it has been released.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_RING_H
#define TIERLIMIT_RING_H

#include "port/atomics.h"

/* A ring; this lives in shared memory. */
typedef struct Ring
{
	char	   *bytes;			/* all zero where nothing is stored */
	uint64		size;			/* a multiple of 8 */
	pg_atomic_uint64 head;		/* end position of the newest entry */
	pg_atomic_uint64 tail;		/* position of the oldest entry not yet
								 * released */
	pg_atomic_uint64 kept;		/* bytes that only ring_reserve_kept() takes */
} Ring;

/* Room that was reserved for an entry. */
typedef struct RingPlace
{
	char	   *entry;
	uint32		length;			/* length of the entry, with its header */
	uint64		end;			/* end position of the entry */
} RingPlace;

#define NO_PLACE {NULL, 0, 0}

extern void ring_init(Ring *ring, char *bytes, uint64 size);
extern void ring_set_position(Ring *ring, uint64 position);
extern void ring_save(const Ring *ring, uint64 tail, uint64 head, char *bytes);
extern void ring_restore(Ring *ring, uint64 tail, uint64 head,
						 const char *bytes);
extern bool ring_reserve(Ring *ring, uint32 length, RingPlace *place);
extern bool ring_reserve_kept(Ring *ring, uint32 length, RingPlace *place);
extern uint32 ring_entry_size(uint32 length);
extern void *ring_payload(const RingPlace *place);
extern void ring_publish(const RingPlace *place);
extern const void *ring_read(Ring *ring, uint64 *position);
extern void ring_release(Ring *ring, uint64 position);
extern uint64 ring_head(Ring *ring);
extern uint64 ring_tail(Ring *ring);

#endif							/* TIERLIMIT_RING_H */
