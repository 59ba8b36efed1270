/*-------------------------------------------------------------------------
 *
 * ring.c
 *		A queue of byte strings in shared memory: many append, one reads.
 *
 * There is no lock.  A process that appends moves the head on by one atomic
 * instruction, which makes the bytes in between its own; fills them; and
 * publishes them by storing their length in front.  The reader stops at a
 * length of 0, which is an entry that is not published yet, and overwrites
 * what it releases with zeros before it moves the tail on.  So the tail never
 * passes an entry that another process is still writing, and entries are read
 * in the order in which they were reserved.
 *
 * An entry is contiguous: where it would cross the end of the buffer, filler
 * goes there and the entry goes to the start.
 *
 * A process that dies between reserving and publishing would stop the reader
 * for ever.  The server starts all shared memory anew when one dies; and what
 * happens in between can raise no ERROR.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "log/ring.h"

#define RING_ALIGN 8
#define MAPPED_AT_ONCE (64 * 1024)

/* The header in front of each entry. */
typedef struct RingHeader
{
	pg_atomic_uint32 length;	/* with this header; 0: not published */
	uint32		filler;			/* nonzero: this is no entry, and is skipped */
} RingHeader;

StaticAssertDecl(sizeof(RingHeader) == RING_ALIGN, "headers keep entries aligned");

/* Return the header at a position. */
static inline RingHeader *
header_at(const Ring *ring, uint64 position)
{
	return (RingHeader *) (ring->bytes + position % ring->size);
}

/* Make an empty ring over size bytes, which are zero. */
void
ring_init(Ring *ring, char *bytes, uint64 size)
{
	ring->bytes = bytes;
	ring->size = size - size % RING_ALIGN;
	pg_atomic_init_u64(&ring->head, 0);
	pg_atomic_init_u64(&ring->tail, 0);
	pg_atomic_init_u64(&ring->kept, 0);
}

/*
 * Let the positions of an empty ring go on from this one, a multiple of 8,
 * which another ring has come to.
 */
void
ring_set_position(Ring *ring, uint64 position)
{
	Assert(ring_head(ring) == ring_tail(ring));
	Assert(position % RING_ALIGN == 0);
	pg_atomic_write_u64(&ring->head, position);
	pg_atomic_write_u64(&ring->tail, position);
}

/* Return the end position of the newest entry. */
uint64
ring_head(Ring *ring)
{
	return pg_atomic_read_u64(&ring->head);
}

/* Return the position of the oldest entry that is not yet released. */
uint64
ring_tail(Ring *ring)
{
	return pg_atomic_read_u64(&ring->tail);
}

/* Return how many bytes of a ring a payload of length bytes takes. */
uint32
ring_entry_size(uint32 length)
{
	return TYPEALIGN(RING_ALIGN, length + sizeof(RingHeader));
}

/*
 * Reserve room for a payload within so many bytes of the ring.  Returns false
 * if there is none.
 */
static inline bool
reserve_within(Ring *ring, uint64 size, uint32 length, RingPlace *place)
{
	uint64		head = ring_head(ring);
	uint64		filler;

	place->length = ring_entry_size(length);

	/*
	 * Move the head on, with filler if the entry would cross the buffer's
	 * end.
	 */
	do
	{
		uint64		to_end = ring->size - head % ring->size;

		filler = to_end < place->length ? to_end : 0;
		place->end = head + filler + place->length;
		if (place->end - ring_tail(ring) > size)
			return false;
	} while (!pg_atomic_compare_exchange_u64(&ring->head, &head, place->end));

	/* Publish the filler: the reader skips it. */
	if (filler > 0)
	{
		header_at(ring, head)->filler = 1;
		pg_write_barrier();
		pg_atomic_write_u32(&header_at(ring, head)->length, (uint32) filler);
	}
	place->entry = (char *) header_at(ring, head + filler);
	return true;
}

/*
 * Reserve room for a payload of length bytes.  Returns false if there is none
 * now.  The caller has to fill ring_payload() and publish it, without a chance
 * to fail before it did.
 */
bool
ring_reserve(Ring *ring, uint32 length, RingPlace *place)
{
	return reserve_within(ring, ring->size - pg_atomic_read_u64(&ring->kept),
						  length, place);
}

/*
 * Reserve room as ring_reserve() does, also in the bytes that are kept.  For
 * the one reader, to append again what it has released.
 */
bool
ring_reserve_kept(Ring *ring, uint32 length, RingPlace *place)
{
	return reserve_within(ring, ring->size, length, place);
}

/*
 * Have the kernel map the pages around an entry.  Where a process writes to a
 * page of shared memory for the first time, the kernel maps that one; where it
 * reads, 16 of them (fault_around_bytes).  So we read each of these before we
 * write to it.
 */
static inline void
map_around(const char *entry)
{
	static uintptr_t mapped = 0;
	uintptr_t	sixteen = (uintptr_t) entry / MAPPED_AT_ONCE;

	if (sixteen != mapped)
		(void) *(const volatile char *) entry;
	mapped = sixteen;
}

/* Return where the payload of a reserved entry goes. */
void *
ring_payload(const RingPlace *place)
{
	map_around(place->entry);
	return place->entry + sizeof(RingHeader);
}

/* Let the reader have an entry, whose payload is complete. */
void
ring_publish(const RingPlace *place)
{
	RingHeader *header = (RingHeader *) place->entry;

	pg_write_barrier();
	pg_atomic_write_u32(&header->length, place->length);
}

/*
 * Return the payload at *position, and move *position to its end; NULL if
 * there is none yet.  For the one reader, which starts from ring_tail().  What
 * was read stays until ring_release() is called.
 */
const void *
ring_read(Ring *ring, uint64 *position)
{
	for (;;)
	{
		RingHeader *header = header_at(ring, *position);
		uint32		length = pg_atomic_read_u32(&header->length);

		/* A full ring has an old entry, not a 0, after its newest one. */
		if (length == 0 || *position == ring_head(ring))
			return NULL;
		pg_read_barrier();
		*position += length;
		if (!header->filler)
			return header + 1;
	}
}

/*
 * Return how many of the bytes from a position on lie before the buffer's end.
 */
static uint64
before_end(const Ring *ring, uint64 position, uint64 length)
{
	return Min(length, ring->size - position % ring->size);
}

/*
 * Release everything up to a position, which may be overwritten then.  For the
 * one reader.
 */
void
ring_release(Ring *ring, uint64 position)
{
	uint64		tail = ring_tail(ring);
	uint64		length = position - tail;
	uint64		first = before_end(ring, tail, length);

	Assert(length <= ring->size);
	memset(ring->bytes + tail % ring->size, 0, first);
	memset(ring->bytes, 0, length - first);
	pg_write_barrier();
	pg_atomic_write_u64(&ring->tail, position);
}

/* Copy what lies between two positions of a ring out of it. */
void
ring_save(const Ring *ring, uint64 tail, uint64 head, char *bytes)
{
	uint64		first = before_end(ring, tail, head - tail);

	memcpy(bytes, ring->bytes + tail % ring->size, first);
	memcpy(bytes + first, ring->bytes, head - tail - first);
}

/*
 * Copy bytes that ring_save() has copied into an empty ring of the same size,
 * which has these positions as its tail and head then.
 */
void
ring_restore(Ring *ring, uint64 tail, uint64 head, const char *bytes)
{
	uint64		first = before_end(ring, tail, head - tail);

	Assert(head - tail <= ring->size);
	memcpy(ring->bytes + tail % ring->size, bytes, first);
	memcpy(ring->bytes, bytes + first, head - tail - first);
	pg_atomic_write_u64(&ring->head, head);
	pg_atomic_write_u64(&ring->tail, tail);
}
