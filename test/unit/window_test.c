/*-------------------------------------------------------------------------
 *
 * window_test.c
 *		Tests of windows and their histories.
 *
 *		window_test [seed [cases]]
 *
 * First come directed tests, which say in numbers what is promised; then
 * random cases, each with a seed of its own, counting from the one given or
 * from the clock.  A failure names the seed that repeats it.
 *
 *-------------------------------------------------------------------------
 */
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CASES 200

/* Seconds; a test or case takes a fraction of one. */
#define TIMEOUT 30

#define SECOND INT64_C(1000000)
#define DAY (86400 * SECOND)

/* What is running, for the report of a failure. */
static const char *running_test;
static uint64_t running_seed;

/*-------------------------------------------------------------------------
 * Directed tests
 *-------------------------------------------------------------------------
 */
static int64_t
used(const Harness *h)
{
	return harness_used(h);
}

static int64_t
resets_at(const Harness *h)
{
	return harness_resets_at(h);
}

/* A call at t is counted from t until just before t + period. */
static void
test_boundaries(void)
{
	static const int64_t starts[] = {0, -SECOND, -1, 816 * DAY * 1000};

	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
	{
		int64_t		t = starts[i];
		Harness		h;

		harness_start(&h, t, SECOND, 4, 4);
		expect(used(&h), 0);
		expect(window_empty_at(&h.window), INT64_MIN);
		expect(harness_free_at(&h, 0), t);
		harness_add(&h, 1);
		h.now = t + 1;
		harness_add(&h, 1);
		expect(used(&h), 2);
		expect(resets_at(&h), t + SECOND);
		expect(harness_free_at(&h, -1), WINDOW_NEVER);
		expect(harness_free_at(&h, 0), t + SECOND + 1);
		expect(harness_free_at(&h, 1), t + SECOND);
		expect(harness_free_at(&h, 2), t + 1);
		h.now = t + SECOND - 1;
		expect(used(&h), 2);
		h.now = t + SECOND;
		expect(used(&h), 1);
		expect(resets_at(&h), t + SECOND + 1);
		harness_compare(&h);
		h.now = t + SECOND + 1;
		expect(used(&h), 0);
		expect(window_empty_at(&h.window), h.now);
		harness_stop(&h);
	}
}

/* One slot, however many calls are in it, costs no block. */
static void
test_open_slot(void)
{
	Harness		h;

	harness_start(&h, 0, SECOND, 4, 4);
	harness_add(&h, 0);
	expect(used(&h), 0);
	expect(harness_take_back(&h, 5), 0);
	for (int i = 1; i <= 10; i++)
	{
		expect(window_add_needs_block(&h.window), false);
		harness_add(&h, i);
	}
	expect(used(&h), 55);
	expect(h.blocks, 0);
	expect(harness_take_back(&h, 0), 0);
	expect(harness_take_back(&h, 54), 54);
	expect(used(&h), 1);
	harness_compare(&h);
	expect(harness_take_back(&h, 2), 1);
	expect(used(&h), 0);
	expect(harness_take_back(&h, 1), 0);

	/* One that has left the window is not to be had back. */
	harness_add(&h, 7);
	h.now += SECOND;
	expect(harness_take_back(&h, 1), 0);
	expect(used(&h), 0);
	harness_stop(&h);
}

/* A few slots cost no block; more cost one for about ninety bytes of them. */
static void
test_few_slots(void)
{
	Harness		h;

	harness_start(&h, 0, DAY, 1000, 1);
	for (int i = 0; i < 8; i++)
	{
		h.now += 60 * SECOND;	/* four bytes */
		harness_add(&h, 1);
		expect(h.blocks, 0);
		harness_compare(&h);
	}
	for (int i = 8; i < 30; i++)
	{
		h.now += 60 * SECOND;
		harness_add(&h, 1);
		expect(h.blocks, 1);
		harness_compare(&h);
	}

	harness_copy(&h);
	harness_compare(&h);

	/* The block goes first, and is not missed. */
	h.now = 25 * 60 * SECOND + DAY;
	harness_compare(&h);
	harness_advance(&h);
	expect(h.blocks, 0);
	expect(h.window.sliding.history.count, 5);
	harness_compare(&h);
	expect(harness_take_back(&h, 3), 3);
	harness_compare(&h);
	harness_stop(&h);
}

/* A history over several blocks, of records of different lengths. */
static void
fill(Harness *h, int calls)
{
	static const int64_t amounts[] = {1, 1, 2, 1, 127, 128, 300, 1, 70000};

	harness_start(h, 5, DAY, 1000, 1);
	for (int i = 0; i < calls; i++)
	{
		harness_add(h, amounts[i % 9]);
		h->now += 1 + i % 7 * 40 + i % 11 * 100000;
	}
}

/* Take back so much that it ends at, before and after every slot. */
static void
test_refunds(void)
{
	enum
	{
		CALLS = 90
	};
	Harness		h;
	int64_t		sum = 0;

	fill(&h, CALLS);
	require(h.blocks > 3, "the test is too small");
	harness_compare(&h);
	harness_stop(&h);

	for (int taken = 1; taken <= CALLS; taken++)
	{
		int64_t		last = 0;

		for (int64_t change = -1; change <= 1; change++)
		{
			unsigned	blocks;

			fill(&h, CALLS);
			if (change == -1)
			{
				last = h.model.calls[CALLS - taken].amount;
				sum += last;
			}
			blocks = h.blocks;
			expect(harness_take_back(&h, sum + change),
				   taken == CALLS && change == 1 ? sum : sum + change);
			require(h.blocks <= blocks, "a refund needed a block");
			harness_compare(&h);

			/* Once more, then go on counting. */
			harness_take_back(&h, 1 + last);
			harness_compare(&h);
			for (int i = 0; i < 30; i++)
			{
				harness_add(&h, 1 + i % 2);
				h.now += i % 3;
			}
			harness_compare(&h);
			harness_stop(&h);
		}
	}

	/* One after the other until nothing is left. */
	fill(&h, CALLS);
	while (harness_take_back(&h, 9999) > 0)
		harness_compare(&h);
	harness_stop(&h);

	/* What has left the window stays there, even if it is still packed. */
	fill(&h, CALLS);
	h.now = h.model.calls[CALLS / 2].time + DAY;
	sum = used(&h);
	expect(harness_take_back(&h, INT64_MAX), sum);
	expect(used(&h), 0);
	harness_stop(&h);
}

/* Blocks go back as soon as all that is in them has left. */
static void
test_expiry(void)
{
	Harness		h;
	uint32_t	blocks;

	fill(&h, 300);
	blocks = h.blocks;
	for (int i = 0; i < 300; i++)
	{
		h.now = h.model.calls[i].time + DAY - 1;
		harness_advance(&h);
		require(h.blocks <= blocks, "time needed a block");
		blocks = h.blocks;
		expect(h.window.sliding.history.count, 300 - i);
		if (i % 10 == 0)
			harness_compare(&h);
	}
	expect(blocks, 0);
	expect(h.window.sliding.history.count, 1);
	harness_stop(&h);

	/* Many at once, up to the middle of a block. */
	for (int i = 0; i < 300; i += 7)
	{
		fill(&h, 300);
		h.now = h.model.calls[i].time + DAY;
		harness_compare(&h);
		harness_advance(&h);
		harness_compare(&h);
		expect(h.window.sliding.history.count, 299 - i);
		harness_add(&h, 3);
		harness_compare(&h);
		harness_stop(&h);
	}

	/* All of them. */
	fill(&h, 300);
	h.now += DAY;
	harness_advance(&h);
	expect(h.blocks, 0);
	harness_add(&h, 1);
	expect(used(&h), 1);
	harness_stop(&h);
}

static void
test_clear(void)
{
	Harness		h;

	fill(&h, 100);
	harness_clear(&h);
	expect(h.blocks, 0);
	expect(used(&h), 0);
	harness_add(&h, 2);
	h.now++;
	harness_add(&h, 3);
	harness_compare(&h);
	expect(used(&h), 5);
	harness_clear(&h);
	harness_clear(&h);
	harness_stop(&h);

	harness_start(&h, 12, 10, 0, 0);
	harness_add(&h, 2);
	harness_clear(&h);
	expect(used(&h), 0);
	harness_stop(&h);
}

/* Distances and amounts of all lengths that a record can have. */
static void
test_lengths(void)
{
	for (int shift = 0; shift <= 44; shift++)
	{
		for (int64_t change = -1; change <= 1; change++)
		{
			int64_t		distance = (INT64_C(1) << shift) + change;
			Harness		h;

			harness_start(&h, 0, 366 * DAY, 100, 1);
			for (int i = 0; i < 12; i++)
			{
				harness_add(&h, i % 3 == 0 ? 1 : distance + i);
				h.now += distance;
				harness_compare(&h);
			}
			while (harness_take_back(&h, 3 * distance) > 0)
				harness_compare(&h);
			harness_stop(&h);
		}
	}

	/* The longest record of all, at every place in a block. */
	for (int before = 0; before <= 100; before++)
	{
		int64_t		distance = INT64_C(1) << 62;
		Harness		h;

		harness_start(&h, -(INT64_C(1) << 61), distance + 1000, 1000, 1);
		for (int i = 0; i < before; i++)
		{
			harness_add(&h, 1);
			h.now++;
		}
		harness_add(&h, 1);
		h.now += distance;
		harness_add(&h, INT64_MAX / 2);
		h.now++;
		harness_add(&h, 1);
		harness_compare(&h);
		harness_stop(&h);
	}

	/* All of the amounts in one history. */
	for (int64_t change = -1; change <= 1; change++)
	{
		Harness		h;

		harness_start(&h, 0, DAY, 100, 1);
		for (int shift = 1; shift <= 61; shift++)
		{
			harness_add(&h, (INT64_C(1) << shift) + change);
			h.now += shift;
			harness_compare(&h);
		}
		for (int shift = 61; shift >= 1; shift--)
		{
			harness_take_back(&h, INT64_C(1) << shift);
			harness_compare(&h);
		}
		harness_stop(&h);
	}
}

/* There is no counting beyond INT64_MAX, and no wrapping around. */
static void
test_saturation(void)
{
	Harness		h;

	for (int sliding = 0; sliding <= 1; sliding++)
	{
		harness_start(&h, 0, SECOND, 10, sliding);
		harness_add(&h, INT64_MAX);
		expect(used(&h), INT64_MAX);
		expect(harness_free_at(&h, INT64_MAX), 0);
		expect(harness_free_at(&h, INT64_MAX - 1), SECOND);
		harness_add(&h, 1);
		expect(used(&h), INT64_MAX);
		h.now++;
		harness_add(&h, INT64_MAX);
		harness_compare(&h);
		expect(harness_take_back(&h, INT64_MAX - 1), INT64_MAX - 1);
		expect(used(&h), 1);
		harness_add(&h, INT64_MAX - 2);
		expect(used(&h), INT64_MAX - 1);
		h.now++;
		harness_add(&h, 7);
		expect(used(&h), INT64_MAX);
		harness_compare(&h);
		expect(harness_take_back(&h, INT64_MAX), INT64_MAX);
		expect(used(&h), 0);
		harness_stop(&h);
	}

	/* Once there is room again, it counts on. */
	harness_start(&h, 0, SECOND, 10, 1);
	harness_add(&h, INT64_MAX - 1);
	h.now = 1;
	harness_add(&h, 5);
	h.now = SECOND;
	expect(used(&h), 1);
	harness_add(&h, INT64_MAX);
	expect(used(&h), INT64_MAX);
	harness_compare(&h);
	harness_stop(&h);
}

/* Calls share a slot within less than the slot width, and leave with the last. */
static void
test_merging(void)
{
	Harness		h;

	harness_start(&h, 0, 1000, 0, 10);
	expect(h.window.sliding.slot_width, 100);
	harness_add(&h, 1);
	h.now = 99;
	harness_add(&h, 2);
	expect(h.window.sliding.history.count, 1);
	expect(resets_at(&h), 1099);
	h.now = 100;
	harness_add(&h, 4);
	expect(h.window.sliding.history.count, 2);
	harness_compare(&h);
	expect(harness_free_at(&h, 4), 1099);
	expect(harness_free_at(&h, 3), 1100);
	h.now = 1098;
	expect(used(&h), 7);
	h.now = 1099;
	expect(used(&h), 4);
	harness_stop(&h);

	/* From the second slot on: as before, but the first calls are exact. */
	harness_start(&h, 0, 1000, 2, 10);
	for (int time = 0; time <= 150; time += 10)
	{
		h.now = time;
		harness_add(&h, 1);
		harness_compare(&h);
	}
	expect(h.window.sliding.history.count, 3);
	expect(harness_free_at(&h, 15), 1000);
	expect(harness_free_at(&h, 14), 1100);
	expect(harness_free_at(&h, 5), 1100);
	expect(harness_free_at(&h, 4), 1150);

	/* When they have left, it is exact again. */
	h.now = 1100;
	harness_add(&h, 1);
	harness_compare(&h);
	expect(h.window.sliding.history.count, 2);
	h.now = 1151;
	harness_add(&h, 1);
	expect(h.window.sliding.history.count, 2);
	harness_compare(&h);
	harness_stop(&h);

	/* Slots cannot be narrower than what time is measured in. */
	harness_start(&h, 0, 10, 0, 1000);
	for (int time = 0; time < 10; time++)
	{
		h.now = time;
		harness_add(&h, 1);
	}
	expect(h.window.sliding.history.count, 10);
	harness_compare(&h);
	harness_stop(&h);
}

/*
 * After a refund nothing may join the slot that is the newest again, as when
 * it began is forgotten; or its calls would be counted for too long.
 */
static void
test_merging_after_refund(void)
{
	Harness		h;

	harness_start(&h, 0, 1000, 0, 10);
	harness_add(&h, 1);
	h.now = 99;
	harness_add(&h, 1);
	h.now = 100;
	harness_add(&h, 1);
	expect(harness_take_back(&h, 1), 1);
	expect(h.window.sliding.history.count, 1);
	expect(h.blocks, 0);
	h.now = 101;
	harness_add(&h, 1);
	expect(h.window.sliding.history.count, 2);
	expect(resets_at(&h), 1099);
	harness_compare(&h);

	/* But those of the same microsecond are one slot. */
	h.now = 250;
	harness_add(&h, 1);
	expect(harness_take_back(&h, 1), 1);
	h.now = 250;
	harness_add(&h, 1);
	expect(harness_take_back(&h, 1), 1);
	expect(h.window.sliding.history.count, 2);
	harness_compare(&h);
	harness_stop(&h);

	/* A refund that leaves some of the open slot lets others join. */
	harness_start(&h, 0, 1000, 0, 10);
	harness_add(&h, 3);
	expect(harness_take_back(&h, 2), 2);
	h.now = 99;
	harness_add(&h, 1);
	expect(h.window.sliding.history.count, 1);
	expect(resets_at(&h), 1099);
	harness_compare(&h);
	harness_stop(&h);

	/* To and fro at one slot border does not make more slots than time does. */
	harness_start(&h, 0, 1000, 0, 10);
	for (h.now = 0; h.now < 5000; h.now++)
	{
		harness_add(&h, 1);
		if (h.now % 3 == 0)
			harness_take_back(&h, 2);
		harness_add(&h, 1);
		if (h.now % 50 == 0)
			harness_compare(&h);
		require(h.window.sliding.history.count <= 12, "too many slots");
	}
	harness_stop(&h);
}

/* An amount belongs to the period [start, end) that it was counted in. */
static void
test_calendar(void)
{
	Harness		h;

	harness_start(&h, 1000, 1000, 0, 0);
	expect(used(&h), 0);
	expect(resets_at(&h), 2000);
	harness_add(&h, 5);
	h.now = 1999;
	harness_add(&h, 2);
	expect(used(&h), 7);
	expect(harness_free_at(&h, 7), 1999);
	expect(harness_free_at(&h, 6), 2000);
	expect(harness_free_at(&h, 0), 2000);
	expect(harness_free_at(&h, -1), WINDOW_NEVER);
	expect(harness_take_back(&h, 3), 3);
	expect(used(&h), 4);
	harness_compare(&h);
	expect(window_empty_at(&h.window), 2000);
	h.now = 2000;
	expect(used(&h), 0);
	expect(harness_take_back(&h, 1), 0);
	expect(resets_at(&h), 3000);
	harness_add(&h, 1);
	expect(used(&h), 1);
	expect(harness_take_back(&h, 9), 1);
	expect(used(&h), 0);
	expect(window_empty_at(&h.window), INT64_MIN);
	harness_compare(&h);
	h.now = 7500;
	harness_add(&h, 1);
	harness_compare(&h);
	expect(resets_at(&h), 8000);
	harness_stop(&h);
}

static const struct
{
	const char *name;
	void		(*run) (void);
}			tests[] = {
	{"boundaries", test_boundaries},
	{"open slot", test_open_slot},
	{"few slots", test_few_slots},
	{"refunds", test_refunds},
	{"expiry", test_expiry},
	{"clear", test_clear},
	{"lengths", test_lengths},
	{"saturation", test_saturation},
	{"merging", test_merging},
	{"merging after a refund", test_merging_after_refund},
	{"calendar", test_calendar},
};

#define TESTS (sizeof(tests) / sizeof(tests[0]))

/*-------------------------------------------------------------------------
 * Running them
 *-------------------------------------------------------------------------
 */

/* Also when an assertion or a sanitizer ends the program, or it hangs. */
static void
tell_where(int signal_number)
{
	if (signal_number == SIGALRM)
		fprintf(stderr, "no end after %d s\n", TIMEOUT);
	if (running_test != NULL)
		fprintf(stderr, "window_test: FAILED in test \"%s\"\n", running_test);
	else
		fprintf(stderr, "window_test: FAILED in operation %u of seed %llu; "
				"to repeat: window_test %llu 1\n", harness_operation,
				(unsigned long long) running_seed,
				(unsigned long long) running_seed);
	_exit(1);
}

int
main(int argc, char **argv)
{
	uint64_t	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t) time(NULL);
	uint64_t	cases = argc > 2 ? strtoull(argv[2], NULL, 0) : CASES;
	unsigned long operations = 0;

	signal(SIGABRT, tell_where);
	signal(SIGSEGV, tell_where);
	signal(SIGALRM, tell_where);
	for (size_t i = 0; i < TESTS; i++)
	{
		running_test = tests[i].name;
		alarm(TIMEOUT);
		tests[i].run();
	}
	running_test = NULL;

	for (uint64_t i = 0; i < cases; i++)
	{
		Source		source = {.state = seed + i};

		running_seed = seed + i;
		alarm(TIMEOUT);
		harness_case(&source);
		operations += harness_operation;
	}

	printf("window_test: %zu tests, %llu random cases from seed %llu on "
		   "(%lu operations): ok\n", TESTS, (unsigned long long) cases,
		   (unsigned long long) seed, operations);
	return 0;
}
