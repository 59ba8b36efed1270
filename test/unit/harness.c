/*-------------------------------------------------------------------------
 *
 * harness.c
 *		A window and its model, driven and compared together.
 *
 * As long as each time has a slot of its own, a window must not differ from
 * its model in anything.  Where calls of different times may share a slot, a
 * call may be counted late, by less than a slot width, and never too short.
 *
 * That bound also holds across refunds, if the model takes back as much as the
 * window did, including what it counts late: the slots divide the calls, in
 * the order of time, into runs; both take from the newest end, so that the
 * same units remain on both sides, and each of those is in the slot that it
 * was in before, whose time is less than a slot width after its own.  So a
 * unit can be named by its rank, counted from the newest, and
 *
 *		used(model) <= used(window) <= used(model, period + slot_width - 1)
 *		free_at(model) <= free_at(window) <= free_at(model) + slot_width - 1
 *
 * for any room, whatever was taken back before.
 *
 *-------------------------------------------------------------------------
 */
#include "harness.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * More than a case does, and so more slots than a window has, even one that is
 * never advanced.  A block that is neither the oldest nor the newest has at
 * least 5 of them: each takes at most 19 bytes, and less than that is free.
 */
#define MAX_OPERATIONS 6000
#define MAX_BLOCKS (MAX_OPERATIONS / 5 + 3)

/* What a block is filled with while it is free, and when it is lent. */
#define BYTE_FREE 0x5a
#define BYTE_LENT 0xa5

unsigned	harness_operation;

/* The one that was started last, for the report of a failure. */
static const Harness *current;

/* All blocks, shared by the windows that live one after the other. */
static MemoryBlock pool[MAX_BLOCKS];
static bool in_use[MAX_BLOCKS];
static BlockNo free_blocks[MAX_BLOCKS];
static uint32_t free_count;

void
harness_fail(const char *file, int line, const char *format,...)
{
	va_list		args;

	fprintf(stderr, "%s:%d: ", file, line);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n(operation %u; %s window, period %lld, "
			"%u exact slots, slot width %lld, now %lld)\n",
			harness_operation,
			current->window.kind == WINDOW_SLIDING ? "sliding" : "calendar",
			(long long) current->period, current->exact_slots,
			(long long) current->slot_width, (long long) current->now);
	abort();
}

static int64_t
min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/*-------------------------------------------------------------------------
 * Blocks
 *-------------------------------------------------------------------------
 */
static bool
filled_with(BlockNo number, uint8_t byte)
{
	for (int i = 0; i < BLOCK_SIZE; i++)
	{
		if (pool[number].bytes[i] != byte)
			return false;
	}
	return true;
}

static void
pool_init(void)
{
	if (free_count > 0)
		return;
	memset(pool, BYTE_FREE, sizeof(pool));
	memset(&pool[NO_BLOCK], 0, sizeof(MemoryBlock));
	for (BlockNo number = MAX_BLOCKS - 1; number > NO_BLOCK; number--)
		free_blocks[free_count++] = number;
}

/* A spare with so many blocks. */
static BlockList
lend(Harness *harness, uint32_t count)
{
	BlockList		spare = {.base = pool};

	while (spare.count < count)
	{
		BlockNo		number;

		require(free_count > 0, "the window has %u blocks", harness->blocks);
		number = free_blocks[--free_count];
		require(filled_with(number, BYTE_FREE),
				"block %u was written to after it had been freed", number);
		memset(&pool[number], BYTE_LENT, sizeof(MemoryBlock));
		in_use[number] = true;
		harness->blocks++;
		blocklist_put(&spare, number);
	}
	return spare;
}

/*
 * Take the spare back: what is in it now must have been in it before or in the
 * window, and the window has all the rest.
 */
static void
settle(Harness *harness, BlockList *spare)
{
	static BlockNo chain[MAX_BLOCKS];
	uint32_t	length = 0;

	require(spare->count <= harness->blocks,
			"more was taken from the spare than was in it");
	require(filled_with(NO_BLOCK, 0), "block 0 was written to");
	while (spare->count > 0)
	{
		BlockNo		number = blocklist_take(spare);

		require(number > NO_BLOCK && number < MAX_BLOCKS && in_use[number],
				"block %u was freed twice", number);
		memset(&pool[number], BYTE_FREE, sizeof(MemoryBlock));
		in_use[number] = false;
		harness->blocks--;
		free_blocks[free_count++] = number;
	}
	expect(spare->head, NO_BLOCK);

	if (harness->window.kind == WINDOW_SLIDING)
		length = history_chain(&harness->window.sliding.history, pool, chain,
							   harness->blocks);
	require(length == harness->blocks,
			"the window does not have the %u blocks that it should have",
			harness->blocks);
	for (uint32_t i = 0; i < length; i++)
		require(in_use[chain[i]], "block %u of the window is free", chain[i]);
}

/*-------------------------------------------------------------------------
 * Operations
 *-------------------------------------------------------------------------
 */
void
harness_start(Harness *harness, int64_t now, int64_t period,
			  uint32_t exact_slots, uint32_t slots)
{
	pool_init();
	current = harness;
	harness_operation = 0;
	*harness = (Harness)
	{
		.now = now,
		.period = period,
		.exact_slots = exact_slots,
		.forgotten = now - 1,
		.merged = now - period,
		.advanced = now
	};
	if (slots == 0)
		window_init_calendar(&harness->window, period, 0);
	else
	{
		harness->slot_width = period / slots > 1 ? period / slots : 1;
		window_init_sliding(&harness->window, period, exact_slots, slots);
	}
}

void
harness_stop(Harness *harness)
{
	harness_clear(harness);
	expect(harness->blocks, 0);
	expect(free_count, MAX_BLOCKS - 1);
}

Moment
harness_moment(const Harness *harness, int64_t time)
{
	int64_t		into = time % harness->period;
	int64_t		start = time - (into < 0 ? into + harness->period : into);

	if (harness->window.kind == WINDOW_SLIDING)
		return (Moment) {.now = time};
	return (Moment)
	{
		time, {start, start + harness->period}
	};
}

static int64_t
used_at(const Harness *harness, int64_t time)
{
	return window_used(&harness->window, pool, harness_moment(harness, time));
}

int64_t
harness_used(const Harness *harness)
{
	return used_at(harness, harness->now);
}

int64_t
harness_resets_at(const Harness *harness)
{
	return window_resets_at(&harness->window, pool,
							harness_moment(harness, harness->now));
}

int64_t
harness_free_at(const Harness *harness, int64_t room)
{
	return window_free_at(&harness->window, pool,
						  harness_moment(harness, harness->now), room);
}

/*
 * By how much a call after the given time may be counted late: not at all, if
 * all that may share slots came before.
 */
static int64_t
lateness(const Harness *harness, int64_t after)
{
	return harness->merged > after ? harness->slot_width - 1 : 0;
}

/* How many slots the window has at most. */
static size_t
slots_at_most(const Harness *harness)
{
	return model_times_after(&harness->model, harness->forgotten -
							 lateness(harness, harness->forgotten));
}

void
harness_advance(Harness *harness)
{
	BlockList		spare = lend(harness, 0);

	window_advance(&harness->window, &spare, harness->now);
	settle(harness, &spare);
	harness->advanced = harness->now;
	if (harness->forgotten < harness->now - harness->period)
		harness->forgotten = harness->now - harness->period;
}

static void
add(Harness *harness, int64_t amount)
{
	const Model *model = &harness->model;
	int64_t		counted = min64(amount, INT64_MAX - harness_used(harness));
	size_t		slots = slots_at_most(harness);
	BlockList		spare;

	if (counted > 0 && slots > 0 && slots >= harness->exact_slots &&
		model->calls[model->count - 1].time != harness->now)
		harness->merged = harness->now;

	spare = lend(harness, window_add_needs_block(&harness->window));
	window_add(&harness->window, &spare,
			   harness_moment(harness, harness->now), amount);
	settle(harness, &spare);
	model_add(&harness->model, harness->now, counted);
}

void
harness_add(Harness *harness, int64_t amount)
{
	harness_advance(harness);
	add(harness, amount);
}

/*
 * Whether what has left the window, but was not dropped, takes part in the
 * sum that must not overflow, is not promised; we keep away from that.
 */
void
harness_add_late(Harness *harness, int64_t amount)
{
	if (harness->window.kind == WINDOW_SLIDING)
		amount = min64(amount,
					   INT64_MAX - harness->window.sliding.history.sum);
	add(harness, amount);
}

int64_t
harness_take_back(Harness *harness, int64_t amount)
{
	BlockList		spare = lend(harness, 0);
	int64_t		used = harness_used(harness);
	int64_t		taken = window_take_back(&harness->window, &spare,
										 harness->now, amount);

	settle(harness, &spare);
	expect(taken, min64(amount, used));
	expect(harness_used(harness), used - taken);
	expect(model_take_back(&harness->model, taken), taken);
	return taken;
}

void
harness_copy(Harness *harness)
{
	BlockList		spare = lend(harness, window_blocks(&harness->window, pool));
	Window		copy;

	window_copy(&copy, &spare, &harness->window, pool);
	expect(spare.count, 0);
	window_clear(&harness->window, &spare);
	harness->window = copy;
	settle(harness, &spare);
}

void
harness_clear(Harness *harness)
{
	BlockList		spare = lend(harness, 0);

	window_clear(&harness->window, &spare);
	settle(harness, &spare);
	model_clear(&harness->model);
	expect(harness_used(harness), 0);
	expect(harness->blocks, 0);
	harness->merged = harness->now - harness->period;
}

/*-------------------------------------------------------------------------
 * Comparisons
 *-------------------------------------------------------------------------
 */
static void
compare_use(const Harness *harness, int64_t time)
{
	const Model *model = &harness->model;
	int64_t		period = harness->period;
	Moment		moment = harness_moment(harness, time);
	int64_t		used = window_used(&harness->window, pool, moment);
	int64_t		resets_at = window_resets_at(&harness->window, pool, moment);
	int64_t		late = 0;
	int64_t		least;
	int64_t		most;

	if (harness->window.kind == WINDOW_SLIDING)
	{
		late = lateness(harness, time - period);
		least = model_used(model, time, period);
		most = late == 0 ? least : model_used(model, time, period + late);
	}
	else
		least = most = model_used_between(model, moment.current.start,
										  moment.current.end);

	require(used >= least && used <= most,
			"used is %lld at %lld, but should be in [%lld, %lld]",
			(long long) used, (long long) time, (long long) least,
			(long long) most);
	if (used > 0)
		expect(window_empty_at(&harness->window),
			   window_free_at(&harness->window, pool, moment, 0));
	else
		require(window_empty_at(&harness->window) <= time,
				"nothing is used at %lld, but it is not empty",
				(long long) time);

	if (harness->window.kind == WINDOW_CALENDAR)
		expect(resets_at, moment.current.end);
	else if (used > 0)
	{
		int64_t		oldest;
		int64_t		newest;
		int64_t		amount;

		expect(window_newest(&harness->window, &newest, &amount), true);
		expect(newest + period, window_empty_at(&harness->window));
		expect(window_used(&harness->window, pool,
						   harness_moment(harness, newest + period - 1)),
			   amount);
		expect(resets_at,
			   window_free_at(&harness->window, pool, moment, used - 1));
		if (late == 0 && model_oldest(model, time, period, &oldest))
			expect(resets_at, oldest + period);
	}
}

static void
compare_room(const Harness *harness, int64_t room)
{
	Moment		moment = harness_moment(harness, harness->now);
	int64_t		got = harness_free_at(harness, room);
	int64_t		late = 0;
	int64_t		least;

	if (room < 0)
	{
		expect(got, WINDOW_NEVER);
		return;
	}
	if (harness->window.kind == WINDOW_SLIDING)
	{
		late = lateness(harness, harness->now - harness->period);
		least = model_free_at(&harness->model, harness->now, harness->period,
							  room);
	}
	else
		least = model_free_between(&harness->model, harness->now,
								   moment.current.start, moment.current.end,
								   room);
	require(got >= least && got <= least + late,
			"room %lld is free at %lld, but should be in [%lld, %lld]",
			(long long) room, (long long) got, (long long) least,
			(long long) (least + late));

	/* What it says must be what will be seen then, and not before. */
	require(used_at(harness, got) <= room,
			"room %lld is not free at %lld", (long long) room, (long long) got);
	require(got == harness->now || used_at(harness, got - 1) > room,
			"room %lld is free before %lld", (long long) room,
			(long long) got);
}

/* Compare what takes constant or, in the model, linear time. */
static void
compare_some(const Harness *harness)
{
	int64_t		used = harness_used(harness);
	const SlidingWindow *sliding = &harness->window.sliding;

	compare_use(harness, harness->now);
	compare_room(harness, -1);
	compare_room(harness, 0);
	compare_room(harness, used / 2);
	compare_room(harness, used - 1);
	compare_room(harness, used);
	compare_room(harness, used == INT64_MAX ? used : used + 1);
	compare_room(harness, INT64_MAX);

	if (harness->window.kind != WINDOW_SLIDING)
		return;

	/* Else the chain is longer than what is in it needs. */
	require(harness->blocks <= 3 + sliding->history.count / 5,
			"%u slots have %u blocks", sliding->history.count,
			harness->blocks);
	if (harness->advanced != harness->now)
		return;

	/* What window.c says about its size. */
	require(sliding->history.count <= harness->exact_slots +
			harness->period / harness->slot_width + 2,
			"there are %u slots", sliding->history.count);
	expect(sliding->history.sum, used);
	if (lateness(harness, harness->forgotten) == 0)
		expect(sliding->history.count, slots_at_most(harness));
}

/*
 * Compare at the rooms where the answer changes: with the newest calls, as
 * many as there are, and with one less.  Takes quadratic time.
 */
void
harness_compare(const Harness *harness)
{
	const Model *model = &harness->model;
	int64_t		room = 0;

	compare_some(harness);
	if (harness->window.kind == WINDOW_SLIDING)
		history_check(&harness->window.sliding.history, pool);
	for (size_t i = model->count; i-- > 0;)
	{
		const ModelCall *call = &model->calls[i];

		/* What left the window long ago changes nothing any more. */
		if (call->time < harness->now - harness->period - harness->slot_width ||
			call->amount > INT64_MAX - room)
			break;
		room += call->amount;
		compare_room(harness, room - 1);
		compare_room(harness, room);

		/* And how things will be when this call leaves. */
		for (int64_t time = call->time + harness->period - 1;
			 time <= call->time + harness->period + 1; time++)
		{
			if (time >= harness->now)
				compare_use(harness, time);
		}
	}
}

/*-------------------------------------------------------------------------
 * Random cases
 *-------------------------------------------------------------------------
 */

/* What kind of case it is. */
typedef struct Manner
{
	int64_t		pace;			/* calls are mostly so far apart at most */
	bool		calm;			/* no long pauses */
	unsigned	amounts;		/* see choose_amount() */
	unsigned	refunds;		/* so many of 64 operations take back */
} Manner;

/* A number in [0, limit). */
static uint64_t
choose(Source *source, uint64_t limit)
{
	uint64_t	number = 0;

	if (source->data == NULL)
	{
		/* splitmix64 */
		number = source->state += UINT64_C(0x9e3779b97f4a7c15);
		number = (number ^ number >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
		number = (number ^ number >> 27) * UINT64_C(0x94d049bb133111eb);
		number ^= number >> 31;
	}
	else
	{
		for (uint64_t left = limit - 1; left > 0; left >>= 8)
			number = number << 8 |
				(source->data < source->end ? *source->data++ : 0);
	}
	return number % limit;
}

#define choose_of(source, array) \
	((array)[choose(source, sizeof(array) / sizeof((array)[0]))])

static int64_t
choose_amount(Source *source, unsigned manner)
{
	switch (manner)
	{
		case 0:
			return 1;
		case 1:
			return choose(source, 4);
		case 2:
			return choose(source, 300);
		case 3:
			return choose(source, UINT64_C(1) << choose(source, 41));
		default:
			return INT64_MAX >> choose(source, 63);
	}
}

/* How much time passes until the next operation. */
static int64_t
choose_pause(Source *source, const Harness *harness, const Manner *manner)
{
	unsigned	kind = choose(source, 256);
	int64_t		oldest;
	int64_t		pause;

	if (kind < 140)
		return choose(source, manner->pace + 1);
	if (kind < 200)
		return 0;
	if (kind < 216)
		return 1;
	if (kind < 232)
	{
		pause = choose(source, manner->pace);
		return pause >> choose(source, 44);
	}
	if (kind < 240)
		return harness->slot_width + (int64_t) choose(source, 2);
	if (kind < 246)
		return harness->slot_width > 0 ? harness->slot_width - 1 : 0;
	if (manner->calm)
		return 0;
	if (kind < 252)
	{
		/* To when the oldest call leaves, or just before or after that. */
		if (!model_oldest(&harness->model, harness->now, harness->period,
						  &oldest))
			return 0;
		pause = oldest + harness->period - 1 - harness->now;
		pause += choose(source, 3);
		return pause > 0 ? pause : 0;
	}
	if (kind == 252)
		return harness->period - 1 + choose(source, 3);
	if (kind == 253)
		return choose(source, 2 * harness->period);
	if (kind == 254)
		return choose(source, UINT64_C(1) << choose(source, 45));
	return harness->period / 2;
}

/* How much to take back: with a taste for where slots end. */
static int64_t
choose_refund(Source *source, const Harness *harness, const Manner *manner)
{
	const Model *model = &harness->model;
	int64_t		used = harness_used(harness);
	int64_t		sum = 0;

	switch (choose(source, 8))
	{
		case 0:
			return 1;
		case 1:
			return choose_amount(source, manner->amounts);
		case 2:
			return choose(source, 16) > 0 || used == 0 ? used / 8
				: used - 1 + (int64_t) choose(source, 3) * (used < INT64_MAX);
		default:
			for (uint64_t i = choose(source, 40); i < model->count; i--)
			{
				int64_t		amount = model->calls[model->count - 1 - i].amount;

				sum = amount > INT64_MAX - sum ? INT64_MAX : sum + amount;
				if (i == 0)
					break;
			}
			sum += (int64_t) choose(source, 3) - 1 - (sum == INT64_MAX);
			return sum > 0 ? sum : 0;
	}
}

static void
random_operation(Source *source, Harness *harness, const Manner *manner)
{
	unsigned	kind = choose(source, 64);

	if (kind < manner->refunds)
		harness_take_back(harness, choose_refund(source, harness, manner));
	else if (kind < 50)
		harness_add(harness, choose_amount(source, manner->amounts));
	else if (kind < 56)
		harness_add_late(harness, choose_amount(source, manner->amounts));
	else if (kind < 60)
		harness_advance(harness);
	else if (kind == 60 && choose(source, 32) == 1)
		harness_clear(harness);
	else if (choose(source, 4) == 0)
		harness_copy(harness);
	/* else only time has passed */
}

void
harness_case(Source *source)
{
	static const int64_t periods[] = {
		INT64_C(1), INT64_C(10), INT64_C(5000), INT64_C(999983),
		INT64_C(1000000), INT64_C(60000000), INT64_C(60000000),
		INT64_C(3600000000), INT64_C(86400000000), INT64_C(86400000000),
		INT64_C(30) * 86400000000, INT64_C(366) * 86400000000
	};
	static const uint32_t exact_slots[] = {0, 1, 4, 16, 64, 64, 1024};
	static const uint32_t slots[] = {0, 1, 4, 16, 64, 64, 1024};
	static const int64_t starts[] = {
		0, INT64_C(-86400000000), INT64_C(816000000000000), INT64_C(1) << 60
	};
	Harness		harness;
	Manner		manner;
	int64_t		period = choose_of(source, periods);
	int64_t		start = choose_of(source, starts);
	uint32_t	exact = choose_of(source, exact_slots);
	uint32_t	coarse = choose_of(source, slots);
	unsigned	operations = 200 + 4 * exact + choose(source, 1500);

	harness_start(&harness, start, period, exact, coarse);
	manner.pace = period / (1 + choose(source, 2 * (exact + coarse) + 2)) + 1;
	manner.calm = choose(source, 2);
	manner.amounts = choose(source, 5);
	manner.refunds = choose(source, 2) * choose(source, 20);

	while (harness_operation < operations &&
		   (source->data == NULL || source->data < source->end))
	{
		size_t		count;

		harness_operation++;
		harness.now += choose_pause(source, &harness, &manner);
		random_operation(source, &harness, &manner);

		/* What takes long is done seldom where it takes very long. */
		count = harness.model.count;
		if (choose(source, 1 + count / 4 + count * count / 2048) == 0)
			harness_compare(&harness);
		else
			compare_some(&harness);
	}
	harness_compare(&harness);
	harness_stop(&harness);
}
