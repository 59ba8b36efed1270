/*-------------------------------------------------------------------------
 *
 * history_check.c
 *		The invariants of a history.
 *
 * What a block looks like is history.c's own affair.  It is included here, and
 * not linked with, so that its private parts can be looked at.
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/window/history.c"

#include "harness.h"

uint32_t
history_chain(const History *history, const MemoryBlock *base, BlockNo *blocks,
			  uint32_t limit)
{
	uint32_t	count = 0;

	for (BlockNo number = history->oldest; number != NO_BLOCK;
		 number = block_at_const(base, number)->next)
	{
		if (count == limit)
			return limit + 1;
		blocks[count++] = number;
	}
	return count;
}

void
history_check(const History *history, const MemoryBlock *base)
{
	BlockNo		prev = NO_BLOCK;
	int64_t		time = INT64_MIN;
	int64_t		sum = 0;
	uint32_t	count = 0;

	for (BlockNo number = history->oldest; number != NO_BLOCK;)
	{
		const HistoryBlock *block = block_at_const(base, number);
		int64_t		block_sum = 0;
		uint16_t	slots = 0;
		uint16_t	at = block->start;

		expect(block->prev, prev);
		require(block->start < block->end && block->end <= sizeof(block->data),
				"records of block %u are at [%u, %u)",
				number, block->start, block->end);
		if (prev != NO_BLOCK)
			expect(block->before, time);
		time = block->before;
		while (at < block->end)
		{
			int64_t		last = time;
			int64_t		amount = read_record(block->data, &at, &time);

			/*
			 * Slots have different times.  Only the very first may stand at
			 * its block's "before": it had no slot before it.
			 */
			require(time > last ||
					(time == last && prev == NO_BLOCK && slots == 0),
					"slot %u of block %u is not younger than the one before",
					slots, number);
			require(amount > 0 && amount <= INT64_MAX - block_sum,
					"amount %lld in block %u", (long long) amount, number);
			if (prev == NO_BLOCK && slots == 0)
				expect(history->oldest_time, time);
			block_sum += amount;
			slots++;
		}
		expect(at, block->end);
		if (block->next == NO_BLOCK)
			expect(history->newest_end, at);
		expect(block->sum, block_sum);
		expect(block->count, slots);
		expect(last_time(history, base, block), time);
		sum += block_sum;
		count += slots;

		/* Else blocks might be wasted. */
		require(block->next == NO_BLOCK ||
				block->end + MAX_RECORD > (int) sizeof(block->data),
				"block %u has room, but is not the newest", number);
		prev = number;
		number = block->next;
	}
	expect(history->newest, prev);

	if (prev != NO_BLOCK)
		expect(history->recent_before, time);
	time = history->recent_end > 0 ? history->recent_before : time;
	require(history->recent_end <= RECENT_SIZE, "%u bytes of recent records",
			history->recent_end);
	for (uint16_t at = 0; at < history->recent_end;)
	{
		int64_t		last = time;
		int64_t		amount = read_record(history->recent, &at, &time);

		require(time > last || (time == last && count == 0),
				"a recent slot is not younger than the one before");
		require(amount > 0 && amount <= INT64_MAX - sum,
				"amount %lld in a recent slot", (long long) amount);
		require(at <= history->recent_end, "a recent record has no end");
		if (count == 0)
			expect(history->oldest_time, time);
		sum += amount;
		count++;
	}
	if (count > 0)
		expect(history->packed_last, time);

	if (history->open_amount == 0)
	{
		expect(history->count, 0);
		expect(history->sum, 0);
		expect(history->oldest, NO_BLOCK);
		expect(history->recent_end, 0);
		return;
	}
	require(history->open_amount > 0, "negative amount in the open slot");
	require(history->open_start <= history->open_last,
			"the open slot ends before it starts");
	require(history->open_last > time,
			"the open slot is not younger than the last packed one");
	if (count == 0)
		expect(history->oldest_time, history->open_last);
	expect(history->sum, sum + history->open_amount);
	expect(history->count, count + 1);
}
