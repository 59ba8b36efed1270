/*-------------------------------------------------------------------------
 *
 * limiter.c
 *		Deciding and counting calls.
 *
 * A call goes through four steps under the exclusive locks of its subjects'
 * partitions, of which only the last one counts anything:
 *
 *	1. advance: windows let go of what has left them;
 *	2. evaluate: does the call fit into every limit, and which one governs?
 *	3. gather the blocks that counting it will need, and the room to log it;
 *	4. count it, in all windows of all subjects, and log it, which cannot fail.
 *	   (The row is written to its place in the queue when the locks are
 *	   released: other sessions need not wait for that.)
 *
 * If anything is missing, be it windows of a subject that is not in memory,
 * blocks, or room in the log, the locks are released, what is missing is
 * provided, and all starts over.  An ERROR can only happen there, with nothing
 * counted.
 *
 * So a call is counted everywhere or nowhere, and no session that takes the
 * locks sees it half counted.  All of this is outside of transactions: what
 * was counted stays so when the caller's transaction is rolled back.
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

/* How far a charge came under the lock, and what it lacks. */
typedef enum Outcome
{
	DONE,
	NEEDS_WINDOWS,				/* they have to be filled from the log */
	NEEDS_BLOCKS,
	NEEDS_LOG,					/* room in the log's queue */
	NEEDS_LOGGED_ANSWER			/* the log has to be asked about the retry */
} Outcome;

/*
 * The end position of this session's newest row that has to be on disk before
 * the session answers; 0 if there is none.
 */
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

/* Step 3: return how many blocks counting the call may take. */
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

/*
 * Put the blocks for counting a call into the spare blocks, and those for remembering
 * its retry.  Returns false if there are not enough.
 */
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

/* Return whether a window is one of those that the part was planned with. */
static bool
is_planned(const CallSubject *part, const SubjectWindow *window)
{
	for (int i = 0; i < part->nwindows; i++)
		if (part->windows[i] == window)
			return true;
	return false;
}

/*
 * Count the call in the subject's windows that are not the tier's, and drop
 * those of them that have run empty.
 */
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

/* Step 4: count the call in all windows of a subject. */
static void
count_call(CallSubject *part, TimestampTz now, int64 cost, BlockList *spare)
{
	call_count(part, now, cost, spare);
	if (part->subject != NULL)
		count_elsewhere(part, now, cost, spare);
}

/*
 * Drop the windows that are too rough to deny by, once in a call.  Returns
 * whether there were any.
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

/* Put down in the row what is logged of the call's decision. */
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
 * Note where the row of a decided call will be, now that there is room for it.
 * If the call is admitted, the row is the newest one of its subjects, also of
 * those that are not in memory since nothing limits them now.  The row is
 * appended when the locks are released.
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

/*
 * Have a session that repeats a call wait for the row of that call, as the
 * session that was charged did.  The answer is in memory, and the retry's
 * partition is locked.
 */
static void
await_record_of(const Retry *retry)
{
	if (tierlimit_durability == DURABILITY_SYNC)
		durable_position = Max(durable_position,
							   subject_find(&retry->subject)->log_position);
}

/*
 * Steps 1 to 4.  The call's partitions are locked EXCLUSIVE.  On DONE the
 * verdict is set and the call is counted and logged, unless retry->state says
 * that it was admitted before; on any other outcome nothing is counted.
 */
static Outcome
try_charge(Call *call, LogQueue *queue, LogRow *row, RingPlace *place,
		   Verdict *verdict)
{
	BlockList	spare = {.base = store->blocks};
	PartitionStats *stats = store_stats(call->hashes[0]);
	Outcome		outcome = DONE;

	/* A retry of a call that was admitted before is not charged again. */
	if (call->retry != NULL)
		switch (retry_look_up(call->retry, call->clock))
		{
			case RETRY_NEW:
				break;
			case RETRY_REPEATED:
				await_record_of(call->retry);
				return DONE;
			case RETRY_UNCERTAIN:
				return NEEDS_LOGGED_ANSWER;
		}

	/* Step 1: all windows have to be there; let them catch up. */
	for (int i = 0; i < call->count; i++)
		if (!call_is_complete(&call->parts[i]))
			return NEEDS_WINDOWS;
	for (int i = 0; i < call->count; i++)
		if (call->parts[i].subject != NULL)
			advance_subject(call->parts[i].subject, call->clock, &spare);

	/* Step 2: decide the call. */
	*verdict = evaluate(call);
	fill_row(row, call, verdict);

	/* Step 3: see that there is all that the decision needs. */
	if (!verdict->allowed && drop_blurred(call, &spare))
		outcome = NEEDS_WINDOWS;
	else if (verdict->allowed && !gather_blocks(call, &spare))
		outcome = NEEDS_BLOCKS;
	else if (!log_reserve(queue, row, place))
		outcome = NEEDS_LOG;
	else
	{
		/* Step 4: from here on nothing can fail. */
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

	/*
	 * Return the blocks that windows have let go of, or that were not needed.
	 */
	pool_return(&store->pool, &spare, partition_of(call->hashes[0]));
	return outcome;
}

/* Provide what a charge lacks, which may take time.  No lock is held. */
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

/*
 * Decide a call of cost >= 0 credits, count it in all windows of all its
 * subjects if it is allowed, and append the decision to the request log.  The
 * row says who calls; the rest of it is filled in here.
 *
 * A retry (NULL: the call has no request_id) of a call that was admitted
 * before is not charged again, nor is one whose admission is uncertain:
 * retry->state says so, and then there is no verdict.
 *
 * Raises an ERROR, with nothing counted, if there is no memory for the call or
 * if it can't be logged.  No lock may be held.
 */
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

	/*
	 * Try until nothing is lacking; what is lacking is provided without a
	 * lock.
	 */
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

/* Return whether any limit of the tier needs a window that is less rough. */
static bool
any_blurred(const CallSubject *part)
{
	for (int i = 0; i < part->charge->tier->nlimits; i++)
		if (evaluate_is_blurred(part, i))
			return true;
	return false;
}

/*
 * Lock a call's subjects SHARED to look at their windows, which are in shared
 * memory or else built from the log for this backend alone.  call_unlock()
 * releases the locks.
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

		/* Something is missing: build all windows here, without a lock. */
		call_unlock(call);
		rebuild_for_backend(call, DT_NOEND);
		partition_lock(call->hashes, call->nlocks, LW_SHARED);
		return;
	}
}

/*
 * Return the verdict on a call of this cost if it came now; nothing is
 * counted, nor changed at all.  May wait for the log and raise an ERROR; no
 * lock may be held.
 */
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

/*
 * Return the verdict on an admitted call of this cost at this time, as the log
 * has it, by what the log says of the time before it.  Nothing is changed.
 * May wait for the log and raise an ERROR; no lock may be held.
 */
Verdict
limiter_recall(const Charge *charges, int count, TimestampTz at, int64 cost)
{
	Clock		clock = {at, CLOCK_SERVER};
	Call		call;

	call_begin(&call, charges, count, clock, cost);
	rebuild_for_backend(&call, at);
	return evaluate(&call);
}

/*
 * Put down what each of the tier's limits holds now, in their order:
 * tier->nlimits of uses.  Nothing is changed.  May wait for the log and raise
 * an ERROR; no lock may be held.
 */
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

/*
 * Log, and count in the statistics, a call that was refused with the row's
 * error code before its limits were looked at.  The hash is that of the
 * subject, whose partition orders its rows.  May wait for the log and raise an
 * ERROR; no lock may be held.
 */
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

		/* Count the refusal if there is room for its row, or neither. */
		partition_lock(&hash, 1, LW_EXCLUSIVE);
		logged = log_reserve(queue, row, &place);
		if (logged)
		{
			store_stats(hash)->denied++;
			store_stats(hash)->logged++;
		}
		partition_unlock(&hash, 1);

		/* Without the lock, write the row, or wait for room for it. */
		log_append(&place, row);
		if (!logged)
			log_wait_for_room(queue, row);
	} while (!logged);
	log_nudge(queue);
}

/*
 * Note that this session has a row up to this end position that
 * limiter_wait_durable() has to wait for.  Any lock may be held.
 */
void
limiter_note_durable(uint64 position)
{
	durable_position = Max(durable_position, position);
}

/*
 * Wait until all that this session has admitted, given back or reset since the
 * last call of this function is on disk, where tierlimit.durability says so.
 * Raises an ERROR, which undoes nothing, if that takes long; no lock may be
 * held.
 */
void
limiter_wait_durable(void)
{
	uint64		position = durable_position;

	durable_position = 0;
	if (position != 0)
		log_wait_durable(position);
}
