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

typedef struct Ring
{
	char	   *bytes;			/* all zero where nothing is stored */
	uint64		size;			/* a multiple of 8 */
	pg_atomic_uint64 head;		/* behind the newest entry */
	pg_atomic_uint64 tail;		/* the oldest entry not yet released */
	pg_atomic_uint64 kept;		/* bytes that only ring_reserve_kept() takes */
} Ring;

/* Room for an entry. */
typedef struct RingPlace
{
	char	   *entry;
	uint32		length;			/* of the entry, with its header */
	uint64		end;			/* position behind it */
} RingPlace;

#define NO_PLACE {NULL, 0, 0}

/* An empty ring over size zeroed bytes. */
extern void ring_init(Ring *ring, char *bytes, uint64 size);

/* Let the positions of an empty ring go on from another's. */
extern void ring_set_position(Ring *ring, uint64 position);

/*
 * Copy what lies between two positions of a ring out of it, and into an empty
 * ring of the same size, which has them as its tail and head then.
 */
extern void ring_save(const Ring *ring, uint64 tail, uint64 head, char *bytes);
extern void ring_restore(Ring *ring, uint64 tail, uint64 head,
						 const char *bytes);

/*
 * Reserve room for a payload of length bytes; false if there is none now.  The
 * caller fills ring_payload() and publishes it, without a chance to fail
 * before it did.
 */
extern bool ring_reserve(Ring *ring, uint32 length, RingPlace *place);

/* For the one reader: to append what it has released, in room that it has kept. */
extern bool ring_reserve_kept(Ring *ring, uint32 length, RingPlace *place);

/* How many bytes of a ring a payload of length bytes takes. */
extern uint32 ring_entry_size(uint32 length);
extern void *ring_payload(const RingPlace *place);
extern void ring_publish(const RingPlace *place);

/*
 * For the one reader: the payload at *position, which is moved behind it;
 * NULL if there is none yet.  Start from ring_tail(); what was read stays
 * until ring_release() says up to which position it can go.
 */
extern const void *ring_read(Ring *ring, uint64 *position);
extern void ring_release(Ring *ring, uint64 position);

extern uint64 ring_head(Ring *ring);
extern uint64 ring_tail(Ring *ring);

#endif							/* TIERLIMIT_RING_H */
