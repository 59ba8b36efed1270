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
 * Records fill blocks, which form a chain from the oldest to the newest:
 *
 *		oldest -> block <-> block <-> block <- newest      [open slot]
 *
 * The newest slot is kept unpacked in the History itself: it is the one that
 * still changes, by calls that join it and by refunds.  A block knows the sum
 * of its slots, so that what has to add up or drop a long history (a key that
 * comes back after a pause, a denial that waits for many credits) goes by
 * blocks and decodes no more than one of them.
 *
 * A window that runs empty keeps one block, so that a key with a few calls in
 * its period does not give and take one for each of them.
 *
 * Invariants, checked by history_check() in the tests:
 *	- open_amount > 0, or the history is empty (all 0, but for kept);
 *	- sum is the sum of all block sums plus open_amount, count likewise;
 *	- oldest_time is the time of the first slot, so that most calls, which find
 *	  nothing to forget, need not look into a block; newest_end is the newest
 *	  block's end, so that they need not wait for it to append a slot;
 *	- no block of the chain is empty, and times increase from slot to slot;
 *	- a block's "before" is the time of the slot that precedes its first one:
 *	  of the last slot of the block before, or of one that has been dropped;
 *	  where there was none, the first slot's own.
 *
 *-------------------------------------------------------------------------
 */
#include "history.h"

#include <stddef.h>
#include <string.h>

typedef struct HistoryBlock
{
	BlockNo		next;			/* towards the newest */
	BlockNo		prev;			/* towards the oldest */
	int64_t		before;			/* time that the first record is relative to */
	int64_t		sum;			/* amount of the slots here */
	uint16_t	count;			/* slots here */
	uint16_t	start;			/* offset of the first record */
	uint16_t	end;			/* offset behind the last one */
	uint8_t		data[BLOCK_SIZE - 30];
} HistoryBlock;

_Static_assert(offsetof(HistoryBlock, data) == 30, "header has no holes");
_Static_assert(sizeof(HistoryBlock) <= BLOCK_SIZE, "fits into a block");

/* Two varints: 64 bits of shifted distance and flag, 63 bits of amount. */
#define MAX_RECORD 19

/* An open slot that nothing may join, since its first call is not known. */
#define SEALED INT64_MIN

static inline HistoryBlock *
block_at(MemoryBlock *base, BlockNo block)
{
	return (HistoryBlock *) &base[block];
}

static inline const HistoryBlock *
block_at_const(const MemoryBlock *base, BlockNo block)
{
	return (const HistoryBlock *) &base[block];
}

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
 * Read the record at *at: advances *at behind it and *time to its slot's time,
 * returns its amount.
 */
static inline int64_t
read_record(const HistoryBlock *block, uint16_t *at, int64_t *time)
{
	uint64_t	head = get_varint(block->data, at);

	*time += (int64_t) (head >> 1);
	return (head & 1) ? (int64_t) get_varint(block->data, at) : 1;
}

/* Time of the last slot of a block of the chain. */
static inline int64_t
last_time(const History *history, const MemoryBlock *base, const HistoryBlock *block)
{
	return block->next == NO_BLOCK ? history->packed_last
		: block_at_const(base, block->next)->before;
}

static inline bool
newest_has_room(const History *history)
{
	return history->newest != NO_BLOCK && history->newest_end + MAX_RECORD
		<= (int) sizeof(((HistoryBlock *) NULL)->data);
}

bool
history_add_needs_block(const History *history)
{
	return history->open_amount > 0 && history->kept == NO_BLOCK &&
		!newest_has_room(history);
}

/*
 * One block that has become empty is kept for the next that is needed: a key
 * with a few calls in its window goes on with the same block.
 */
static BlockNo
take_block(History *history, Purse *purse)
{
	BlockNo		number = history->kept;

	if (number == NO_BLOCK)
		return purse_take(purse);
	history->kept = NO_BLOCK;
	return number;
}

static void
give_block(History *history, Purse *purse, BlockNo number)
{
	if (history->kept == NO_BLOCK)
		history->kept = number;
	else
		purse_put(purse, number);
}

/* Hang an empty block behind the newest one. */
static HistoryBlock *
append_block(History *history, Purse *purse)
{
	BlockNo		number = take_block(history, purse);
	HistoryBlock *block = block_at(purse->base, number);

	block->next = NO_BLOCK;
	block->prev = history->newest;
	block->sum = 0;
	block->count = block->start = block->end = 0;
	if (history->newest == NO_BLOCK)
	{
		history->oldest = number;
		history->packed_last = history->open_last;
	}
	else
		block_at(purse->base, history->newest)->next = number;
	block->before = history->packed_last;
	history->newest = number;
	history->newest_end = 0;
	return block;
}

/* Move the open slot into the newest block. */
static void
pack_open_slot(History *history, Purse *purse)
{
	HistoryBlock *block;
	uint64_t	distance;
	uint16_t	end;
	bool		counted = history->open_amount != 1;

	block = newest_has_room(history)
		? block_at(purse->base, history->newest)
		: append_block(history, purse);
	distance = (uint64_t) (history->open_last - history->packed_last);
	end = put_varint(block->data, history->newest_end,
					 distance << 1 | counted);
	if (counted)
		end = put_varint(block->data, end, (uint64_t) history->open_amount);
	block->end = history->newest_end = end;
	block->sum += history->open_amount;
	block->count++;
	history->packed_last = history->open_last;
}

void
history_add(History *history, Purse *purse, int64_t time, int64_t amount,
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
		pack_open_slot(history, purse);
	}
	else
		history->oldest_time = time;
	history->open_start = history->open_last = time;
	history->open_amount = amount;
	history->count++;
}

/* Free a block at either end of the chain, with what it holds. */
static void
drop_block(History *history, Purse *purse, BlockNo number)
{
	HistoryBlock *block = block_at(purse->base, number);

	history->sum -= block->sum;
	history->count -= block->count;
	if (block->prev == NO_BLOCK)
		history->oldest = block->next;
	else
		block_at(purse->base, block->prev)->next = block->next;
	if (block->next == NO_BLOCK)
	{
		history->newest = block->prev;
		history->newest_end = block->prev == NO_BLOCK ? 0
			: block_at(purse->base, block->prev)->end;
		history->packed_last = block->before;
	}
	else
		block_at(purse->base, block->next)->prev = block->prev;
	give_block(history, purse, number);
}

void
history_clear(History *history, Purse *purse)
{
	BlockNo		kept;

	/* The last one is kept without a look at it. */
	while (history->oldest != history->newest)
		drop_block(history, purse, history->oldest);
	if (history->oldest != NO_BLOCK)
		give_block(history, purse, history->oldest);
	kept = history->kept;
	memset(history, 0, sizeof(History));
	history->kept = kept;
}

void
history_free(History *history, Purse *purse)
{
	history_clear(history, purse);
	if (history->kept != NO_BLOCK)
		purse_put(purse, history->kept);
	history->kept = NO_BLOCK;
}

void
history_expire(History *history, Purse *purse, int64_t horizon)
{
	if (history->open_amount == 0 || history->oldest_time > horizon)
		return;
	if (history->open_last <= horizon)
	{
		history_clear(history, purse);
		return;
	}
	while (history->oldest != NO_BLOCK)
	{
		HistoryBlock *block = block_at(purse->base, history->oldest);

		if (last_time(history, purse->base, block) <= horizon)
		{
			drop_block(history, purse, history->oldest);
			continue;
		}
		for (;;)
		{
			uint16_t	at = block->start;
			int64_t		time = block->before;
			int64_t		amount = read_record(block, &at, &time);

			if (time > horizon)
			{
				history->oldest_time = time;
				return;
			}
			block->start = at;
			block->before = time;
			block->sum -= amount;
			block->count--;
			history->sum -= amount;
			history->count--;
		}
	}
	history->oldest_time = history->open_last;
}

int64_t
history_oldest_after(const History *history, const MemoryBlock *base,
					 int64_t horizon)
{
	if (history->oldest_time > horizon)
		return history->oldest_time;
	return history_view(history, base, horizon).oldest;
}

int64_t
history_sum_after(const History *history, const MemoryBlock *base, int64_t horizon)
{
	if (history->open_amount > 0 && history->oldest_time > horizon)
		return history->sum;
	return history_view(history, base, horizon).sum;
}

HistoryView
history_view(const History *history, const MemoryBlock *base, int64_t horizon)
{
	HistoryView view = {0};
	const HistoryBlock *block;

	if (history->open_amount == 0 || history->open_last <= horizon)
		return view;

	view.sum = history->sum;
	view.block = history->oldest;
	while (view.block != NO_BLOCK)
	{
		block = block_at_const(base, view.block);
		if (last_time(history, base, block) > horizon)
			break;
		view.sum -= block->sum;
		view.block = block->next;
	}
	if (view.block == NO_BLOCK)
	{
		view.oldest = history->open_last;
		return view;
	}

	view.offset = block->start;
	view.before = block->before;
	view.block_sum = block->sum;
	for (;;)
	{
		uint16_t	at = view.offset;
		int64_t		amount;

		view.oldest = view.before;
		amount = read_record(block, &at, &view.oldest);
		if (view.oldest > horizon)
			return view;
		view.offset = at;
		view.before = view.oldest;
		view.block_sum -= amount;
		view.sum -= amount;
	}
}

int64_t
history_time_of(const History *history, const MemoryBlock *base,
				const HistoryView *view, int64_t need)
{
	BlockNo		number = view->block;
	uint16_t	at = view->offset;
	int64_t		time = view->before;
	int64_t		block_sum = view->block_sum;
	const HistoryBlock *block;

	assert(need > 0 && need <= view->sum);

	while (number != NO_BLOCK && block_sum < need)
	{
		need -= block_sum;
		number = block_at_const(base, number)->next;
		if (number != NO_BLOCK)
		{
			block = block_at_const(base, number);
			at = block->start;
			time = block->before;
			block_sum = block->sum;
		}
	}
	if (number == NO_BLOCK)
		return history->open_last;

	block = block_at_const(base, number);
	while (need > 0)
		need -= read_record(block, &at, &time);
	return time;
}

/*
 * Make the last packed slot the open one again, shrunk by what of amount it
 * can give; slots that give all they have go with it.  Returns what is still
 * to be taken from the blocks before.
 */
static int64_t
reopen_newest_block(History *history, Purse *purse, int64_t amount)
{
	HistoryBlock *block = block_at(purse->base, history->newest);
	int64_t		keep = block->sum - amount;
	uint16_t	at = block->start;
	int64_t		time = block->before;

	if (keep <= 0)
	{
		amount -= block->sum;
		drop_block(history, purse, history->newest);
		return amount;
	}

	/* Keep records up to the one that holds the last unit to be kept. */
	history->sum -= block->sum;
	history->count -= block->count;
	block->sum = 0;
	block->count = 0;
	for (;;)
	{
		uint16_t	record = at;
		int64_t		before = time;
		int64_t		slot = read_record(block, &at, &time);

		if (slot >= keep)
		{
			block->end = history->newest_end = record;
			history->packed_last = before;
			history->open_amount = keep;
			break;
		}
		keep -= slot;
		block->sum += slot;
		block->count++;
	}
	history->sum += block->sum + history->open_amount;
	history->count += block->count + 1;
	history->open_last = time;
	history->open_start = SEALED;
	if (block->count == 0)
		drop_block(history, purse, history->newest);
	return 0;
}

int64_t
history_take_newest(History *history, Purse *purse, int64_t amount)
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
		history_clear(history, purse);
		return left;
	}

	/* The open slot goes; an older one, perhaps smaller, takes its place. */
	left -= history->open_amount;
	history->sum -= history->open_amount;
	history->count--;
	history->open_amount = 0;
	while (history->open_amount == 0)
		left = reopen_newest_block(history, purse, left);
	return amount;
}

uint32_t
history_blocks(const History *history, const MemoryBlock *base)
{
	uint32_t	blocks = 0;

	for (BlockNo at = history->oldest; at != NO_BLOCK;
		 at = block_at_const(base, at)->next)
		blocks++;
	return blocks;
}

void
history_copy(History *to, Purse *purse, const History *from,
			 const MemoryBlock *from_base)
{
	BlockNo		prev = NO_BLOCK;
	BlockNo    *link = &to->oldest;

	*to = *from;
	to->kept = NO_BLOCK;
	for (BlockNo at = from->oldest; at != NO_BLOCK;
		 at = block_at_const(from_base, at)->next)
	{
		BlockNo		number = purse_take(purse);
		HistoryBlock *block = block_at(purse->base, number);

		*block = *block_at_const(from_base, at);
		block->prev = prev;
		*link = number;
		link = &block->next;
		prev = number;
	}
	*link = NO_BLOCK;
	to->newest = prev;
}
