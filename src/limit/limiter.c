/*-------------------------------------------------------------------------
 *
 * limiter.c
 *		Deciding and counting calls.
 *
 * A call goes through four steps under the exclusive lock of its subjects'
 * partitions, of which only the last one counts anything:
 *
 *	1. advance: windows let go of what has left them;
 *	2. evaluate: does the call fit into every limit, and which one governs?
 *	3. gather the blocks that counting it will need, and the room to log it;
 *	4. count it, in all windows of all subjects, and log it, which cannot fail.
 *	   (The row is written to its place in the queue when the locks are
 *	   released: others need not wait for that.)
 *
 * If anything is missing, be it windows of a subject that is not in memory,
 * blocks, or room in the log, the locks are released, it is seen to, and all
 * starts over.  An ERROR can only happen there, with nothing counted.
 *
 * So a call is counted everywhere or nowhere, and nobody who takes the locks
 * sees it half counted.  All of this is outside of transactions: what was
 * counted stays so when the caller's transaction is rolled back.
 *
 * A call is counted in all windows that its subject has, also in those that
 * only another tier has limits for, as long as they hold anything: so a key
 * that changes tiers, to and fro, is counted under each of them.
 *
 * The work is bounded by the windows of the subjects: at most MAX_WINDOWS of
 * its tier, and those of other tiers that it was lately called under.  See
 * window.c for the work in a window.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "limit/evaluate.h"
#include "limit/limiter.h"
#include "limit/rebuild.h"
#include "log/log.h"
#include "store/sweep.h"
#include "utils/timestamp.h"

/* How far an operation came under the lock, and what it lacks. */
typedef enum Outcome
{
	DONE,
	NEEDS_WINDOWS,				/* to be filled from the log */
	NEEDS_BLOCKS,
	NEEDS_LOG,					/* room in the log's queue */
	NEEDS_LOGGED_ANSWER			/* to be read from the log again */
} Outcome;

/* Behind the newest row of ours that has to be on disk before we answer. */
static uint64 durable_position = 0;

/* Step 1: let windows and clocks catch up with the call's time. */
static void
advance_subject(Subject *subject, Clock clock, BlockList *spare)
{
	SubjectWindow *window;

	for (window = subject_window_at(subject->windows); window != NULL;
		 window = subject_window_at(window->next))
		window_advance(&window->window, spare, clock.now);
	subject_move_clock(subject, clock);
}

/* Step 3: how many blocks counting the call may take. */
static uint32
blocks_for(const CallSubject *part)
{
	const SubjectWindow *window;
	uint32		blocks = 0;

	if (part->subject == NULL)
		return 0;
	for (window = subject_window_at(part->subject->windows); window != NULL;
		 window = subject_window_at(window->next))
		blocks += window_add_needs_block(&window->window);
	return blocks;
}

/* Put the blocks for a call into the spare blocks; false if there are not enough. */
static bool
gather_blocks(Call *call, BlockList *spare)
{
	uint32		needed = 0;

	for (int i = 0; i < call->count; i++)
		needed += blocks_for(&call->parts[i]);
	if (call->retry != NULL)
		needed += retry_blocks(call->retry);
	return spare->count >= needed ||
		pool_fill(&store->pool, spare, needed, partition_of(call->hashes[0]));
}

static bool
is_planned(const CallSubject *part, const SubjectWindow *window)
{
	for (int i = 0; i < part->nwindows; i++)
		if (part->windows[i] == window)
			return true;
	return false;
}

/* Count the call in windows that are not the tier's, or drop them if empty. */
static void
count_elsewhere(CallSubject *part, TimestampTz now, int64 cost, BlockList *spare)
{
	SubjectWindow *window = subject_window_at(part->subject->windows);

	while (window != NULL)
	{
		SubjectWindow *next = subject_window_at(window->next);

		if (is_planned(part, window))
			 /* counted already */ ;
		else if (window_empty_at(&window->window) <= now)
			subject_drop_window(part->subject, window, spare);
		else
		{
			Moment		moment = {.now = now};

			if (window->window.kind == WINDOW_CALENDAR)
				moment.current = window->window.calendar.span;
			window_add(&window->window, spare, moment,
					   amount_of(window->unit, cost));
		}
		window = next;
	}
}

/* Step 4. */
static void
count_call(CallSubject *part, TimestampTz now, int64 cost, BlockList *spare)
{
	const Tier *tier = part->charge->tier;

	for (int i = 0; i < part->nwindows; i++)
	{
		window_require_exact(&part->windows[i]->window,
							 tier->limits[i].exact_slots);
		window_add(&part->windows[i]->window, spare, moment_of(part, i, now),
				   amount_of(tier->limits[i].unit, cost));
	}
	if (part->subject != NULL)
		count_elsewhere(part, now, cost, spare);
}

/*
 * Drop the windows that have too rough an idea to deny by; whether there were
 * any.
 */
static bool
drop_blurred(Call *call, BlockList *spare)
{
	bool		any = false;

	for (int i = 0; i < call->count && !call->sharpened; i++)
	{
		CallSubject *part = &call->parts[i];

		for (int j = 0; j < part->charge->tier->nlimits; j++)
		{
			if (!evaluate_is_blurred(part, j))
				continue;
			subject_drop_window(part->subject, part->windows[j], spare);
			any = true;
		}
	}
	call->sharpened = true;
	return any;
}

/* What is logged of the call's decision. */
static void
fill_row(LogRow *row, const Call *call, const Verdict *verdict)
{
	row->at = verdict->decided_at;
	row->requests = 1;
	row->credits = call->cost;
	row->error_code = verdict->allowed ? 0 : verdict->limit->error_code;
	row->shadow_code = verdict->shadow_code;
	row->waited_for = verdict->allowed && tierlimit_durability == DURABILITY_SYNC;
}

/*
 * There is room for a row: it will be the newest one of the subjects that it
 * concerns, also of those that are not in memory, since nothing limits them
 * now.  It is appended when the locks are released.
 */
static void
note_row(Call *call, const RingPlace *place, const LogRow *row)
{
	store_stats(call->hashes[0])->logged++;
	for (int i = 0; row->error_code == 0 && i < call->count; i++)
		if (call->parts[i].subject != NULL)
			call->parts[i].subject->log_position = place->end;
		else
			store_stats(call->hashes[i])->absent_log_position = place->end;
	if (row->has_address && call->count == 1)
		store_note_address(place->end);
	if (row->waited_for)
		durable_position = Max(durable_position, place->end);
}

/* Who repeats a request waits for its row as the one before did. */
static void
await_record_of(const Retry *retry)
{
	if (tierlimit_durability == DURABILITY_SYNC)
		durable_position = Max(durable_position,
							   subject_find(&retry->subject)->log_position);
}

/* Whether a call of before may be among those that were given back unnamed. */
static bool
has_given_back(const Call *call)
{
	for (int i = 0; i < call->count; i++)
		if (call->parts[i].subject != NULL && call->parts[i].subject->gave_back)
			return true;
	return false;
}

/* Steps 1 to 4 under the lock. */
static Outcome
try_charge(Call *call, LogQueue *queue, LogRow *row, RingPlace *place,
		   Verdict *verdict)
{
	BlockList	spare = {.base = store->blocks};
	PartitionStats *stats = store_stats(call->hashes[0]);
	Outcome		outcome = DONE;

	if (call->retry != NULL)
		switch (retry_look_up(call->retry, call->clock,
							  has_given_back(call)))
		{
			case RETRY_NEW:
				break;
			case RETRY_REPEATED:
				await_record_of(call->retry);
				return DONE;
			case RETRY_UNCERTAIN:
				return NEEDS_LOGGED_ANSWER;
		}
	for (int i = 0; i < call->count; i++)
		if (!call_is_complete(&call->parts[i]))
			return NEEDS_WINDOWS;
	for (int i = 0; i < call->count; i++)
		if (call->parts[i].subject != NULL)
			advance_subject(call->parts[i].subject, call->clock, &spare);

	*verdict = evaluate(call);
	fill_row(row, call, verdict);
	if (!verdict->allowed && drop_blurred(call, &spare))
		outcome = NEEDS_WINDOWS;
	else if (verdict->allowed && !gather_blocks(call, &spare))
		outcome = NEEDS_BLOCKS;
	else if (!log_reserve(queue, row, place))
		outcome = NEEDS_LOG;
	else
	{
		for (int i = 0; verdict->allowed && i < call->count; i++)
			count_call(&call->parts[i], call->clock.now, call->cost, &spare);
		if (verdict->allowed && call->retry != NULL)
			retry_remember(call->retry, verdict, place->end, &spare);
		note_row(call, place, row);
		if (verdict->allowed)
			stats->admitted++;
		else
			stats->denied++;
	}
	pool_return(&store->pool, &spare, partition_of(call->hashes[0]));
	return outcome;
}

/* See to what an operation lacks, which may take time; no lock is held. */
static void
provide(Outcome lacking, Call *call, LogQueue *queue, const LogRow *row)
{
	if (lacking == DONE)
		return;
	call_read_clock(call);
	switch (lacking)
	{
		case DONE:
			break;
		case NEEDS_WINDOWS:
			for (int i = 0; i < call->count; i++)
				rebuild_subject(&call->parts[i], call->clock);
			break;
		case NEEDS_BLOCKS:
			sweep_make_room(call->clock);
			break;
		case NEEDS_LOG:
			log_wait_for_room(queue, row);
			break;
		case NEEDS_LOGGED_ANSWER:
			break;
	}
	call_read_clock(call);
}

Verdict
limiter_charge(const Charge *charges, int count, Clock clock, int64 cost,
			   LogRow *row, Retry *retry)
{
	Call		call;
	Verdict		verdict = {0};
	LogQueue   *queue;
	RingPlace	place = NO_PLACE;
	Outcome		outcome;

	call_begin(&call, charges, count, clock, cost);
	if (retry != NULL)
		call_add_retry(&call, retry);
	do
	{
		queue = log_open();
		call_lock(&call, LW_EXCLUSIVE);
		outcome = try_charge(&call, queue, row, &place, &verdict);
		call_unlock(&call);
		log_append(&place, row);
		provide(outcome, &call, queue, row);
	} while (outcome != DONE && outcome != NEEDS_LOGGED_ANSWER);
	log_nudge(queue);
	return verdict;
}

static bool
any_blurred(const CallSubject *part)
{
	for (int i = 0; i < part->charge->tier->nlimits; i++)
		if (evaluate_is_blurred(part, i))
			return true;
	return false;
}

/*
 * Lock a call's subjects to look at their windows, which are in shared memory
 * or else built from the log for this backend alone.
 */
static void
lock_to_look(Call *call)
{
	call_lock(call, LW_SHARED);
	for (int i = 0; i < call->count; i++)
	{
		CallSubject *part = &call->parts[i];

		if (call_is_complete(part) && !any_blurred(part))
			continue;
		call_unlock(call);
		rebuild_for_backend(call, DT_NOEND);
		partition_lock(call->hashes, call->nlocks, LW_SHARED);
		return;
	}
}

Verdict
limiter_peek(const Charge *charges, int count, Clock clock, int64 cost)
{
	Call		call;
	Verdict		verdict;

	call_begin(&call, charges, count, clock, cost);
	lock_to_look(&call);
	verdict = evaluate(&call);
	call_unlock(&call);
	return verdict;
}

Verdict
limiter_recall(const Charge *charges, int count, TimestampTz at, int64 cost)
{
	Clock		clock = {at, CLOCK_SERVER};
	Call		call;

	call_begin(&call, charges, count, clock, cost);
	rebuild_for_backend(&call, at);
	return evaluate(&call);
}

void
limiter_usage(const Charge *charge, Clock clock, LimitUse *uses)
{
	Call		call;
	CallSubject *part = &call.parts[0];

	call_begin(&call, charge, 1, clock, 0);
	lock_to_look(&call);
	for (int i = 0; i < charge->tier->nlimits; i++)
	{
		uses[i].used = evaluate_used(part, i, call.clock.now);
		uses[i].resets_at = evaluate_resets_at(part, i, call.clock.now,
											   uses[i].used);
	}
	call_unlock(&call);
}

void
limiter_refuse(uint64 hash, LogRow *row)
{
	LogQueue   *queue;
	RingPlace	place = NO_PLACE;
	bool		logged;

	row->requests = 1;
	do
	{
		queue = log_open();
		partition_lock(&hash, 1, LW_EXCLUSIVE);
		logged = log_reserve(queue, row, &place);
		if (logged)
		{
			store_stats(hash)->denied++;
			store_stats(hash)->logged++;
		}
		partition_unlock(&hash, 1);
		log_append(&place, row);
		if (!logged)
			log_wait_for_room(queue, row);
	} while (!logged);
	log_nudge(queue);
}

void
limiter_note_durable(uint64 position)
{
	durable_position = Max(durable_position, position);
}

void
limiter_wait_durable(void)
{
	uint64		position = durable_position;

	durable_position = 0;
	if (position != 0)
		log_wait_durable(position);
}
