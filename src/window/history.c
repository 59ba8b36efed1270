/*-------------------------------------------------------------------------
 *
 * history.c
 *		A queue of (time, amount) slots, packed into blocks.
 *
 * A sliding window has to remember when each of its calls happened.  Sixteen
 * bytes a call would be the obvious way; but the calls of one key follow each
 * other closely and mostly count 1, so a slot is written as the distance from
 * the slot before it, in the variable-length integers that Protocol Buffers
 * and DWARF call base-128 varints (LEB128): three bytes for calls less than a
 * second apart.
 *
 *		record = varint(distance * 2 + (amount is not 1)) [varint(amount)]
 *
 * Records fill blocks, which form a chain from the oldest to the newest.  The
 * youngest ones are not yet there, but in the History itself; when that is
 * full, they move on to the newest block together:
 *
 *		oldest -> block <-> block <-> block <- newest   [recent]   [open slot]
 *
 * So most calls touch no block, which would have to be fetched from memory,
 * and a key with a few calls in its period needs no block.
 *
 * The newest slot is kept unpacked: it is the one that still changes, by calls
 * that join it and by refunds.  A block knows the sum of its slots.  So an
 * operation that has to add up or drop a long history (of a key that comes
 * back after a pause, of a denial that waits for many credits) goes by blocks
 * and decodes no more than one of them, and the recent slots.
 *
 * Invariants, checked by history_check() in the tests:
 *	- open_amount > 0, or the history is empty (count, sum, recent_end and the
 *	  chain);
 *	- sum is the sum of all block sums, the recent slots and open_amount, and
 *	  count the number of all these slots;
 *	- oldest_time is the time of the first slot, so that most calls, which find
 *	  nothing to forget, need not look into a block; newest_end is the newest
 *	  block's end, so that it is known without a look whether there is room;
 *	- no block of the chain is empty, and times increase from slot to slot;
 *	- a block's "before" is the time of the slot that precedes its first one:
 *	  of the last slot of the block before, or of one that has been dropped;
 *	  where there was none, the first slot's own.  recent_before is the same
 *	  for the recent slots.
 *
 *-------------------------------------------------------------------------
 */
#include "window/history.h"

#include <stddef.h>
#include <string.h>

/* A block of a history's chain. */
typedef struct HistoryBlock
{
	BlockNo		next;			/* towards the newest */
	BlockNo		prev;			/* towards the oldest */
	int64_t		before;			/* time that the first record is relative to */
	int64_t		sum;			/* amount of the slots here */
	uint16_t	count;			/* slots here */
	uint16_t	start;			/* offset of the first record */
	uint16_t	end;			/* end of the last record */
	uint8_t		data[BLOCK_SIZE - 30];
} HistoryBlock;

_Static_assert(offsetof(HistoryBlock, data) == 30, "header has no holes");
_Static_assert(sizeof(HistoryBlock) <= BLOCK_SIZE, "fits into a block");

/*
 * A record is two varints: 64 bits of shifted distance and flag, 63 bits of
 * amount.
 */
#define MAX_RECORD 19

_Static_assert(MAX_RECORD <= RECENT_SIZE, "a record fits into a History");
_Static_assert(BLOCK_SIZE <= UINT8_MAX, "newest_end can tell any offset");

/*
 * The open_start of a slot that nothing may join, since its first call is not
 * known.
 */
#define SEALED INT64_MIN

/* Return a block of the chain, to be changed. */
static inline HistoryBlock *
block_at(MemoryBlock *base, BlockNo block)
{
	return (HistoryBlock *) &base[block];
}

/* Return a block of the chain, to be looked at. */
static inline const HistoryBlock *
block_at_const(const MemoryBlock *base, BlockNo block)
{
	return (const HistoryBlock *) &base[block];
}

/* Write a varint at an offset, and return its end. */
static inline uint16_t
put_varint(uint8_t *data, uint16_t at, uint64_t value)
{
	while (value >= 0x80)
	{
		data[at++] = (uint8_t) (value | 0x80);
		value >>= 7;
	}
	data[at++] = (uint8_t) value;
	return at;
}

/* Return how many bytes a varint takes. */
static inline uint16_t
varint_length(uint64_t value)
{
	uint16_t	length = 1;

	while (value >>= 7)
		length++;
	return length;
}

/* Read the varint at *at, and move *at to its end. */
static inline uint64_t
get_varint(const uint8_t *data, uint16_t *at)
{
	uint64_t	value = 0;
	int			shift = 0;
	uint8_t		byte;

	do
	{
		byte = data[(*at)++];
		value |= (uint64_t) (byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80);
	return value;
}

/*
 * Read the record at *at, and return its amount.  Moves *at to its end, and
 * *time from the slot before to its slot's time.
 */
static inline int64_t
read_record(const uint8_t *data, uint16_t *at, int64_t *time)
{
	uint64_t	head = get_varint(data, at);

	*time += (int64_t) (head >> 1);
	return (head & 1) ? (int64_t) get_varint(data, at) : 1;
}

/* Return the time of the last slot of a block of the chain. */
static inline int64_t
last_time(const History *history, const MemoryBlock *base, const HistoryBlock *block)
{
	return block->next == NO_BLOCK ? history->recent_before
		: block_at_const(base, block->next)->before;
}

/* Return whether no slot but the open one is there. */
static inline bool
nothing_packed(const History *history)
{
	return history->oldest == NO_BLOCK && history->recent_end == 0;
}

/* Return the first varint of the open slot's record. */
static inline uint64_t
open_head(const History *history)
{
	uint64_t	distance = 0;

	if (!nothing_packed(history))
		distance = (uint64_t) (history->open_last - history->packed_last);
	return distance << 1 | (history->open_amount != 1);
}

/* Return how long the open slot's record is: up to MAX_RECORD bytes. */
static inline uint16_t
open_length(const History *history)
{
	uint16_t	length = varint_length(open_head(history));

	if (history->open_amount != 1)
		length += varint_length((uint64_t) history->open_amount);
	return length;
}

/*
 * Return how many bytes of recent records, whole ones, fit into the newest
 * block.
 */
static uint16_t
recent_that_fit(const History *history)
{
	uint16_t	room = 0;
	uint16_t	fit = 0;
	uint16_t	at = 0;
	int64_t		time = 0;

	if (history->newest != NO_BLOCK)
		room = sizeof(((HistoryBlock *) NULL)->data) - history->newest_end;
	if (history->recent_end <= room)
		return history->recent_end;
	while (at <= room)
	{
		fit = at;
		read_record(history->recent, &at, &time);
	}
	return fit;
}

/*
 * Return whether history_add() may need a block from the spare blocks: at most one.
 */
bool
history_add_needs_block(const History *history)
{
	int			end;

	if (history->open_amount == 0)
		return false;
	end = history->recent_end + open_length(history);
	return end > RECENT_SIZE && end - recent_that_fit(history) > RECENT_SIZE;
}

/*
 * Return the block that will be looked at next, if the slots at or before the
 * horizon are forgotten and then one is added; NO_BLOCK if there is probably
 * none.
 */
BlockNo
history_next_block(const History *history, int64_t horizon)
{
	if (history->oldest_time <= horizon)
		return history->oldest;
	return history->recent_end + MAX_RECORD > RECENT_SIZE ? history->newest
		: NO_BLOCK;
}

/* Append an empty block to the chain. */
static void
append_block(History *history, BlockList *spare)
{
	BlockNo		number = blocklist_take(spare);
	HistoryBlock *block = block_at(spare->base, number);

	block->next = NO_BLOCK;
	block->prev = history->newest;
	block->before = history->recent_before;
	block->sum = 0;
	block->count = block->start = block->end = 0;
	if (history->newest == NO_BLOCK)
		history->oldest = number;
	else
		block_at(spare->base, history->newest)->next = number;
	history->newest = number;
	history->newest_end = 0;
}

/* Forget the recent records before this offset. */
static void
drop_recent(History *history, uint16_t to, int64_t before)
{
	history->recent_end -= to;
	memmove(history->recent, history->recent + to, history->recent_end);
	history->recent_before = before;
}

/*
 * Move recent records to the newest block, as many as fit; if none fits, all
 * of them go to another block.
 */
static void
move_recent(History *history, BlockList *spare)
{
	uint16_t	length = recent_that_fit(history);
	uint16_t	at = 0;
	int64_t		time = history->recent_before;
	HistoryBlock *block;

	if (length == 0)
	{
		append_block(history, spare);
		length = history->recent_end;
	}
	block = block_at(spare->base, history->newest);
	memcpy(block->data + block->end, history->recent, length);
	block->end += length;
	history->newest_end = (uint8_t) block->end;
	while (at < length)
	{
		block->sum += read_record(history->recent, &at, &time);
		block->count++;
	}
	drop_recent(history, length, time);
}

/* Make the open slot the youngest of the recent ones. */
static void
pack_open_slot(History *history, BlockList *spare)
{
	uint64_t	head = open_head(history);
	uint16_t	length = open_length(history);
	uint16_t	end;

	if (nothing_packed(history))
		history->recent_before = history->open_last;
	while (history->recent_end + length > RECENT_SIZE)
		move_recent(history, spare);
	end = put_varint(history->recent, history->recent_end, head);
	if (history->open_amount != 1)
		end = put_varint(history->recent, end, (uint64_t) history->open_amount);
	history->recent_end = (uint8_t) end;
	history->packed_last = history->open_last;
}

/*
 * Append an amount > 0 at a time that is not before the newest slot's.  Calls
 * of the same microsecond always share a slot; other calls join the newest
 * slot if its first call is less than join_within microseconds old (0: never).
 * It may take one block of the spare blocks; see history_add_needs_block().
 */
void
history_add(History *history, BlockList *spare, int64_t time, int64_t amount,
			int64_t join_within)
{
	assert(amount > 0);
	assert(history->open_amount == 0 || time >= history->open_last);

	history->sum += amount;
	if (history->open_amount > 0)
	{
		if (time == history->open_last ||
			history->open_start > time - join_within)
		{
			history->open_last = time;
			history->open_amount += amount;
			if (history->count == 1)
				history->oldest_time = time;
			return;
		}
		pack_open_slot(history, spare);
	}
	else
		history->oldest_time = time;
	history->open_start = history->open_last = time;
	history->open_amount = amount;
	history->count++;
}

/* Free a block at an end of the chain, whose slots are not counted any more. */
static void
drop_block(History *history, BlockList *spare, BlockNo number)
{
	HistoryBlock *block = block_at(spare->base, number);

	if (block->prev == NO_BLOCK)
		history->oldest = block->next;
	else
		block_at(spare->base, block->prev)->next = block->next;
	if (block->next == NO_BLOCK)
	{
		history->newest = block->prev;
		history->newest_end = block->prev == NO_BLOCK ? 0
			: (uint8_t) block_at(spare->base, block->prev)->end;
	}
	else
		block_at(spare->base, block->next)->prev = block->prev;
	blocklist_put(spare, number);
}

/* Forget everything; all blocks go to the spare blocks. */
void
history_clear(History *history, BlockList *spare)
{
	while (history->oldest != NO_BLOCK)
		drop_block(history, spare, history->oldest);
	memset(history, 0, sizeof(History));
}

/*
 * Forget slots of the oldest block that are at or before the horizon, or the
 * whole block if it has no others.  Returns whether the oldest slot that is
 * left has been found.
 */
static bool
expire_oldest_block(History *history, BlockList *spare, int64_t horizon)
{
	HistoryBlock *block = block_at(spare->base, history->oldest);

	if (last_time(history, spare->base, block) <= horizon)
	{
		history->sum -= block->sum;
		history->count -= block->count;
		drop_block(history, spare, history->oldest);
		return false;
	}
	for (;;)
	{
		uint16_t	at = block->start;
		int64_t		time = block->before;
		int64_t		amount = read_record(block->data, &at, &time);

		if (time > horizon)
		{
			history->oldest_time = time;
			return true;
		}
		block->start = at;
		block->before = time;
		block->sum -= amount;
		block->count--;
		history->sum -= amount;
		history->count--;
	}
}

/*
 * Forget the recent slots at or before the horizon; the oldest slot that is
 * left may be the open one.
 */
static void
expire_recent(History *history, int64_t horizon)
{
	uint16_t	at = 0;
	int64_t		before = history->recent_before;

	history->oldest_time = history->open_last;
	while (at < history->recent_end)
	{
		uint16_t	next = at;
		int64_t		time = before;
		int64_t		amount = read_record(history->recent, &next, &time);

		if (time > horizon)
		{
			history->oldest_time = time;
			break;
		}
		at = next;
		before = time;
		history->sum -= amount;
		history->count--;
	}
	drop_recent(history, at, before);
}

/*
 * Forget the slots whose time is at or before the horizon.  Blocks that hold
 * nothing else go to the spare blocks.
 */
void
history_expire(History *history, BlockList *spare, int64_t horizon)
{
	if (history->open_amount == 0 || history->oldest_time > horizon)
		return;
	if (history->open_last <= horizon)
	{
		history_clear(history, spare);
		return;
	}
	while (history->oldest != NO_BLOCK)
		if (expire_oldest_block(history, spare, horizon))
			return;
	expire_recent(history, horizon);
}

/* Return the time of the first slot after the horizon, if there is one. */
int64_t
history_oldest_after(const History *history, const MemoryBlock *base,
					 int64_t horizon)
{
	if (history->oldest_time > horizon)
		return history->oldest_time;
	return history_view(history, base, horizon).oldest;
}

/* Return the amount of the slots after the horizon. */
int64_t
history_sum_after(const History *history, const MemoryBlock *base, int64_t horizon)
{
	if (history->open_amount > 0 && history->oldest_time > horizon)
		return history->sum;
	return history_view(history, base, horizon).sum;
}

/*
 * Return a view of the slots after the horizon, which is valid until the
 * history changes; nothing is changed.
 */
HistoryView
history_view(const History *history, const MemoryBlock *base, int64_t horizon)
{
	HistoryView view = {0};
	const uint8_t *data = history->recent;

	if (history->open_amount == 0 || history->open_last <= horizon)
		return view;

	view.sum = history->sum;
	view.block = history->oldest;
	view.before = history->recent_before;

	/* Skip whole blocks that are not after the horizon. */
	while (view.block != NO_BLOCK)
	{
		const HistoryBlock *block = block_at_const(base, view.block);

		if (last_time(history, base, block) > horizon)
		{
			data = block->data;
			view.offset = block->start;
			view.before = block->before;
			view.block_sum = block->sum;
			break;
		}
		view.sum -= block->sum;
		view.block = block->next;
	}

	/* Then skip single slots, of one block or of the recent ones. */
	while (view.block != NO_BLOCK || view.offset < history->recent_end)
	{
		uint16_t	at = view.offset;
		int64_t		amount;

		view.oldest = view.before;
		amount = read_record(data, &at, &view.oldest);
		if (view.oldest > horizon)
			return view;
		view.offset = at;
		view.before = view.oldest;
		view.block_sum -= amount;
		view.sum -= amount;
	}
	view.oldest = history->open_last;
	return view;
}

/*
 * Return the time of the slot with which the amount that has left the view,
 * oldest first, reaches need (0 < need <= view->sum).
 */
int64_t
history_time_of(const History *history, const MemoryBlock *base,
				const HistoryView *view, int64_t need)
{
	BlockNo		number = view->block;
	uint16_t	at = view->offset;
	int64_t		time = view->before;
	int64_t		block_sum = view->block_sum;
	const HistoryBlock *block;
	const uint8_t *data;

	assert(need > 0 && need <= view->sum);

	while (number != NO_BLOCK && block_sum < need)
	{
		need -= block_sum;
		number = block_at_const(base, number)->next;
		at = 0;
		time = history->recent_before;
		if (number != NO_BLOCK)
		{
			block = block_at_const(base, number);
			at = block->start;
			time = block->before;
			block_sum = block->sum;
		}
	}

	data = number == NO_BLOCK ? history->recent
		: block_at_const(base, number)->data;
	while (need > 0)
	{
		if (number == NO_BLOCK && at == history->recent_end)
			return history->open_last;
		need -= read_record(data, &at, &time);
	}
	return time;
}

/* A run of packed slots: the recent ones, or those of a block. */
typedef struct Run
{
	const uint8_t *data;
	uint16_t	start;			/* offset of the first record, */
	uint16_t	end;			/* and end of the last one */
	int64_t		before;			/* time that the first one is relative to */
	int64_t		sum;
	uint32_t	count;
} Run;

/* Return the recent slots as a run. */
static Run
recent_run(const History *history)
{
	int64_t		time = history->recent_before;
	Run			run = {.data = history->recent};

	run.before = time;
	while (run.end < history->recent_end)
	{
		run.sum += read_record(run.data, &run.end, &time);
		run.count++;
	}
	return run;
}

/* Return the run with the newest packed slot; there has to be one. */
static Run
newest_run(const History *history, const MemoryBlock *base)
{
	const HistoryBlock *block = block_at_const(base, history->newest);
	Run			run;

	if (history->recent_end > 0)
		return recent_run(history);

	run.data = block->data;
	run.start = block->start;
	run.end = block->end;
	run.before = block->before;
	run.sum = block->sum;
	run.count = block->count;
	return run;
}

/*
 * Leave only the first slots of the newest run, the last of which is at this
 * time.
 */
static void
shorten_newest_run(History *history, BlockList *spare, const Run *rest,
				   int64_t last)
{
	HistoryBlock *block = block_at(spare->base, history->newest);

	history->packed_last = last;
	if (history->recent_end > 0)
	{
		history->recent_end = (uint8_t) rest->end;
		return;
	}
	history->recent_before = last;
	if (rest->count == 0)
	{
		drop_block(history, spare, history->newest);
		return;
	}
	block->end = rest->end;
	block->sum = rest->sum;
	block->count = (uint16_t) rest->count;
	history->newest_end = (uint8_t) rest->end;
}

/*
 * Make the last packed slot that can keep anything the open one again, when an
 * amount is taken from the newest run.  Slots that give all they have are
 * forgotten.  Returns how much is still to be taken from older runs.
 */
static int64_t
reopen_newest_run(History *history, BlockList *spare, int64_t amount)
{
	Run			run = newest_run(history, spare->base);
	Run			rest = {.end = run.start};
	int64_t		keep = run.sum - amount;
	int64_t		left = keep < 0 ? -keep : 0;
	int64_t		last = run.before;

	/* Keep records up to the one that holds the last unit to be kept. */
	while (keep > 0)
	{
		uint16_t	at = rest.end;
		int64_t		time = last;
		int64_t		slot = read_record(run.data, &at, &time);

		if (slot >= keep)
		{
			history->open_amount = keep;
			history->open_last = time;
			history->open_start = SEALED;
			history->count++;
			break;
		}
		keep -= slot;
		last = time;
		rest.end = at;
		rest.sum += slot;
		rest.count++;
	}
	history->sum += rest.sum + history->open_amount - run.sum;
	history->count += rest.count - run.count;
	shorten_newest_run(history, spare, &rest, last);
	return left;
}

/*
 * Take back up to amount > 0, newest first, and return how much there was.
 * Blocks that hold nothing any more go to the spare blocks.
 */
int64_t
history_take_newest(History *history, BlockList *spare, int64_t amount)
{
	int64_t		left = amount;

	assert(amount > 0);

	if (history->open_amount > amount)
	{
		history->open_amount -= amount;
		history->sum -= amount;
		return amount;
	}
	if (history->sum <= amount)
	{
		left = history->sum;
		history_clear(history, spare);
		return left;
	}

	/* The open slot goes; an older one, perhaps smaller, takes its place. */
	left -= history->open_amount;
	history->sum -= history->open_amount;
	history->count--;
	history->open_amount = 0;
	while (history->open_amount == 0)
		left = reopen_newest_run(history, spare, left);
	return amount;
}

/* Return how many blocks a history has. */
uint32_t
history_blocks(const History *history, const MemoryBlock *base)
{
	uint32_t	blocks = 0;

	for (BlockNo at = history->oldest; at != NO_BLOCK;
		 at = block_at_const(base, at)->next)
		blocks++;
	return blocks;
}

/*
 * Copy a history to blocks of the spare blocks, of which it takes as many as
 * history_blocks() says.  The array of the blocks may be another one.
 */
void
history_copy(History *to, BlockList *spare, const History *from,
			 const MemoryBlock *from_base)
{
	BlockNo		prev = NO_BLOCK;
	BlockNo    *link = &to->oldest;

	*to = *from;
	for (BlockNo at = from->oldest; at != NO_BLOCK;
		 at = block_at_const(from_base, at)->next)
	{
		BlockNo		number = blocklist_take(spare);
		HistoryBlock *block = block_at(spare->base, number);

		*block = *block_at_const(from_base, at);
		block->prev = prev;
		*link = number;
		link = &block->next;
		prev = number;
	}
	*link = NO_BLOCK;
	to->newest = prev;
}
