/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *		Windows that are not in memory are filled from the request log.
 *
 * The log is the truth, and shared memory its cache: a subject that is not in
 * memory, since the server was started or it had to make room, gets the
 * windows of its tier back from the log; so does a subject that gets a new
 * window, with a new tier or limit.
 *
 * A session that needs the windows claims the subject (subject->claimed),
 * which stops all others that want to count it; waits until its newest rows
 * are written; reads them; plays them into windows in memory of its own; and
 * puts these, complete, into shared memory.  The others wait meanwhile: so it
 * is done once.
 *
 * Locks: the partition's lock is held to claim the subject and to put the
 * result in place, not in between.
 *
 * The cost is that of reading.  Windows whose slots are shorter than a minute
 * (those of less than window_slots minutes), and those that have to be exact,
 * as their max is within window_slots, have all of their rows read; the others
 * have the newest rows and sums of minutes read.
 *
 * Rows that are later than the clock says are of a clock that was wrong, or of
 * an import.  They count as of now; and so that they do so for good, a row
 * that is queued with the result has the log writer change their times.
 *
 * A session that only looks (peek, usage) does the same without a claim, and
 * keeps the result to itself: that works on a standby, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/settings.h"
#include "common/int.h"
#include "limit/evaluate.h"
#include "limit/rebuild.h"
#include "log/log.h"
#include "storage/ipc.h"
#include "store/claim.h"
#include "store/sweep.h"
#include "utils/timestamp.h"

/* Sums of minutes will do for windows that keep calls together for longer. */
#define COARSEST_SUM USECS_PER_MINUTE

/* Free the windows that rebuild_windows() has built. */
void
rebuild_done(RebuiltWindows *rebuilt)
{
	private_free(&rebuilt->blocks);
}

/*
 * Return since when a window counts: what was decided at that time is not
 * counted any more, what was decided later is.
 */
static TimestampTz
window_since(const CallSubject *part, int i, TimestampTz now)
{
	return part->ids[i].kind == WINDOW_CALENDAR
		? part->current[i].start - 1 : now - part->ids[i].period;
}

/* Count one sum in a window that is built. */
static void
play(Window *window, PrivateBlocks *private, Moment moment, int64 amount)
{
	if (private->spare.count == 0)
		private_grow(private);
	window_advance(window, &private->spare, moment.now);
	window_add(window, &private->spare, moment, amount);
}

/* Return how many units of a kind a sum has. */
static int64
amount_in(const LogSum *sum, Unit unit)
{
	return unit == UNIT_CREDITS ? sum->credits : sum->requests;
}

/*
 * Return the number of the sum from which on the newest window_slots units are
 * found.
 */
static int
first_of_newest(const LogSums *log, Unit unit)
{
	int64		left = tierlimit_window_slots;
	int			i = log->count;

	/* Numbers from the log can be of any size: they must not wrap around. */
	while (i > 0 && left > 0)
		if (pg_sub_s64_overflow(left, amount_in(&log->sums[--i], unit), &left))
			break;
	return i;
}

/*
 * Return how many units were counted after since, up to and including until,
 * and not given back; at most PG_INT64_MAX.
 */
int64
rebuild_sum(const LogSums *log, Unit unit, TimestampTz since, TimestampTz until)
{
	int64		sum = 0;

	for (int i = 0; i < log->count; i++)
	{
		int64		amount = amount_in(&log->sums[i], unit);

		if (log->sums[i].at > since && log->sums[i].at <= until &&
			pg_add_s64_overflow(sum, amount, &sum))
			sum = PG_INT64_MAX;
	}
	return sum;
}

/*
 * Return whether sums of minutes will do for a window.  A slot that is made of
 * them spans up to a minute more than the times of its sums do.
 */
static bool
minutes_will_do(const TierLimit *limit)
{
	return limit->period_us / tierlimit_window_slots >= 2 * COARSEST_SUM &&
		!evaluate_is_exact(limit);
}

/* Return what the windows of a call's subject need of the log. */
static LogSpan
span_of(const CallSubject *part, Clock clock)
{
	TimestampTz now = clock.now;
	LogSpan		span = {
		.no_deletion_after = log_deletions_until(clock),
		.since = now,
		.single_since = DT_NOEND,
		.single = tierlimit_window_slots
	};

	for (int i = 0; i < part->nwindows; i++)
	{
		TimestampTz since = window_since(part, i, now);

		span.since = Min(span.since, since);
		if (part->ids[i].kind == WINDOW_CALENDAR)
			span.borders[span.nborders++] =
				TimestampTzGetDatum(since + 1 - (since + 1) % USECS_PER_MINUTE);
		else if (!minutes_will_do(&part->charge->tier->limits[i]))
			span.single_since = Min(span.single_since, since);
	}
	return span;
}

/*
 * Build window i from the sums of the log, as of now.  The newest units, of
 * which a limit within window_slots can deny, are told apart, however many
 * older ones there are; the older ones are kept together.
 */
static void
build_window(RebuiltWindows *rebuilt, const CallSubject *part, int i, const LogSums *log,
			 TimestampTz now)
{
	const TierLimit *limit = &part->charge->tier->limits[i];
	Window	   *window = &rebuilt->windows[i].window;
	TimestampTz since = window_since(part, i, now);
	int			newest = first_of_newest(log, limit->unit);

	private_init_window(window, limit, &part->ids[i]);
	window_set_exact(window, 0);
	if (limit->kind == WINDOW_SLIDING && minutes_will_do(limit))
		window->sliding.slot_width -= COARSEST_SUM;
	for (int j = 0; j < log->count; j++)
	{
		const LogSum *sum = &log->sums[j];

		if (j == newest)
		{
			window_set_exact(window, PG_UINT32_MAX);
			window->apart = 0;	/* sums of minutes look like single calls */
		}
		if (sum->at > since && amount_in(sum, limit->unit) > 0 &&
			(limit->kind != WINDOW_CALENDAR || sum->at < part->current[i].end))
			play(window, &rebuilt->blocks,
				 moment_of(part, i, sum->at), amount_in(sum, limit->unit));
	}
	window_set_exact(window, limit->exact_slots);
	if (limit->kind == WINDOW_SLIDING && minutes_will_do(limit))
		window->sliding.slot_width += COARSEST_SUM;
}

/*
 * Move the rows that are later than this time by more than CLOCK_TOLERANCE to
 * about this time.  They keep their order, and each gets a time of its own.
 * Sets *any_later to whether there were any, and returns the time to which the
 * rows move a subject's clock: DT_NOBEGIN if there are none.
 */
TimestampTz
rebuild_bring_home(LogSums *log, TimestampTz now, bool *any_later)
{
	TimestampTz clock = DT_NOBEGIN;

	*any_later = false;
	for (int i = 0; i < log->count; i++)
	{
		LogSum	   *sum = &log->sums[i];

		if (sum->at - CLOCK_TOLERANCE > now)
		{
			sum->at = Max(clock + 1, now);
			*any_later = true;
			clock = sum->at;
		}
		else
			/* A row that follows a refund is later than it. */
			clock = sum->at + sum->gave_back;
	}
	if (log->count > 0)
		clock = log->sums[log->count - 1].at + log->sums[log->count - 1].gave_back;
	return clock;
}

/*
 * Build all windows of a call's subject as they are at this time, or at the
 * time of the subject's newest row if that is a little later; in the current
 * memory context.  What was decided at the time until or later is left out
 * (DT_NOEND: nothing is).  rebuild_done() frees the result.  Raises an ERROR
 * if the log can't be read; no lock may be held.
 */
void
rebuild_windows(RebuiltWindows *rebuilt, CallSubject *part, Clock clock,
				TimestampTz until)
{
	TimestampTz now = clock.now;
	LogSpan		span = span_of(part, clock);
	LogSums		log = logread_sums(&part->charge->subject, &span);

	/* Leave out what is too new, and believe no time that can't be. */
	while (until != DT_NOEND && log.count > 0 &&
		   log.sums[log.count - 1].at >= until)
		log.count--;
	memset(&rebuilt->blocks, 0, sizeof(PrivateBlocks));
	rebuilt->rows = log.count;
	rebuilt->clock = rebuild_bring_home(&log, now, &rebuilt->any_later);
	if (rebuilt->clock > now)
	{
		now = rebuilt->clock;
		if (part->charge->tier->has_calendar)
			call_plan(part, now);
	}

	/* Build the windows, in private memory. */
	private_grow(&rebuilt->blocks);
	for (int i = 0; i < part->nwindows; i++)
		build_window(rebuilt, part, i, &log, now);
	if (log.sums != NULL)
		pfree(log.sums);
}

/* What became of an attempt to claim a subject. */
typedef enum ClaimResult
{
	CLAIMED,
	CLAIMED_BY_ANOTHER,
	NOTHING_TO_CLAIM,			/* the windows are there */
	NO_ROOM
} ClaimResult;

/* Forget what a subject has counted, and when. */
static void
forget_windows(Subject *subject, BlockList *spare)
{
	subject_drop_windows(subject, spare);
	subject->clock = PG_INT64_MIN;
}

/*
 * Claim the part's subject, which is created if it is not in memory.  What it
 * has counted by a clock that is not to be believed is forgotten first.
 */
static ClaimResult
try_claim(CallSubject *part, Clock clock)
{
	const SubjectName *name = &part->charge->subject;
	BlockList	spare = {.base = store->blocks};
	ClaimResult result = CLAIMED;

	/* Find the subject; forget what it counted if that can't be believed. */
	partition_lock(&name->hash, 1, LW_EXCLUSIVE);
	call_find_windows(part, clock);
	if (part->distrusted && !part->subject->claimed)
	{
		forget_windows(part->subject, &spare);
		call_find_windows(part, clock);
	}

	/* See whether a claim is possible, and needed. */
	if (part->subject != NULL && part->subject->claimed)
		result = CLAIMED_BY_ANOTHER;
	else if (call_is_complete(part))
		result = NOTHING_TO_CLAIM;
	else if (part->subject == NULL)
	{
		if (pool_fill(&store->pool, &spare, subject_blocks(name),
					  partition_of(name->hash)))
			part->subject = subject_create(name, &spare);
		else
			result = NO_ROOM;
	}

	/* From here on no other session changes what the subject has counted. */
	if (result == CLAIMED)
		part->subject->claimed = true;
	pool_return(&store->pool, &spare, partition_of(name->hash));
	partition_unlock(&name->hash, 1);
	return result;
}

/*
 * Put the windows that are missing in place.  The spare has the blocks for
 * that.
 */
static void
install(CallSubject *part, const RebuiltWindows *rebuilt, BlockList *spare)
{
	for (int i = 0; i < part->nwindows; i++)
		if (part->windows[i] == NULL)
			window_copy(&subject_add_window(part->subject, &part->ids[i],
											spare)->window, spare,
						&rebuilt->windows[i].window,
						rebuilt->blocks.spare.base);
}

/* Return how many blocks the windows that are missing take. */
static uint32
blocks_to_install(const CallSubject *part, const RebuiltWindows *rebuilt)
{
	uint32		needed = 0;

	for (int i = 0; i < part->nwindows; i++)
		if (part->windows[i] == NULL)
			needed += 1 + window_blocks(&rebuilt->windows[i].window,
										rebuilt->blocks.spare.base);
	return needed;
}

/* What became of an attempt to put windows in place. */
typedef enum InstallResult
{
	INSTALLED,
	LACKS_BLOCKS,
	LACKS_LOG
} InstallResult;

/*
 * Put the windows that are missing in place, all or none, and with them, if
 * there is a queue, the row that changes the times of others.  The subject is
 * claimed by this session; no lock is held on entry.
 */
static InstallResult
try_install(CallSubject *part, const RebuiltWindows *rebuilt, Clock clock, LogQueue *queue,
			const LogRow *row)
{
	const SubjectName *name = &part->charge->subject;
	BlockList	spare = {.base = store->blocks};
	RingPlace	place = NO_PLACE;
	InstallResult result = INSTALLED;

	/* Find the claimed subject again; it can't have been removed. */
	partition_lock(&name->hash, 1, LW_EXCLUSIVE);
	call_find_windows(part, clock);
	Assert(part->subject != NULL && part->subject->claimed);

	/* Gather the blocks and the room in the log. */
	if (!pool_fill(&store->pool, &spare, blocks_to_install(part, rebuilt),
				   partition_of(name->hash)))
		result = LACKS_BLOCKS;
	else if (queue != NULL && !log_reserve(queue, row, &place))
		result = LACKS_LOG;
	else
	{
		/* Change shared memory, which cannot fail. */
		install(part, rebuilt, &spare);
		subject_move_clock(part->subject, clock);
		if (rebuilt->clock != DT_NOBEGIN)
			store_stats(name->hash)->rebuilds++;
		if (queue != NULL)
			part->subject->log_position = place.end;
	}
	pool_return(&store->pool, &spare, partition_of(name->hash));
	partition_unlock(&name->hash, 1);

	/* Write the row to its place, if it has one, without a lock. */
	log_append(&place, row);
	return result;
}

/*
 * Return the row that has the log writer change the times of those rows that
 * were too late for this time.
 */
static LogRow
redating_row(const SubjectName *name, const RebuiltWindows *rebuilt, TimestampTz now)
{
	LogRow		row = {
		.at = rebuilt->clock,
		.credits = now + CLOCK_TOLERANCE,
		.extension_id = name->installation.extension_id,
		.error_code = LOG_REDATES
	};

	return row;
}

/* Fill the windows of a subject that this session has claimed. */
static void
fill_claimed(CallSubject *part, Clock clock)
{
	const SubjectName *name = &part->charge->subject;
	RebuiltWindows rebuilt;
	LogQueue   *queue = NULL;
	LogRow		row;
	InstallResult result;
	TimestampTz since = GetCurrentTimestamp();

	/* Read what is written, and build the windows from it. */
	log_wait_written(claim_log_position(name));
	clock = clock_read_again(clock);
	call_plan(part, clock.now);
	rebuild_windows(&rebuilt, part, clock, DT_NOEND);
	row = redating_row(name, &rebuilt, clock.now);
	clock.now = Max(clock.now, rebuilt.clock);

	/* Put them in place, as soon as there is room for them. */
	do
	{
		/* A session's own clock changes nothing in the log. */
		if (rebuilt.any_later && clock.source == CLOCK_SERVER)
			queue = log_open();
		result = try_install(part, &rebuilt, clock, queue, &row);
		if (result == LACKS_BLOCKS)
			sweep_make_room(clock);
		else if (result == LACKS_LOG)
			log_wait_for_room(queue, &row);
	} while (result != INSTALLED);
	elog(DEBUG1, "tierlimit: \"%.*s\" was filled from %d rows and sums of the request log in %.1f ms",
		 name->length, name->name, rebuilt.rows,
		 (GetCurrentTimestamp() - since) / 1000.0);
	rebuild_done(&rebuilt);
}

/*
 * Fill the windows of a call's subject that are missing in shared memory, or
 * wait until another session has done so, or make room for them.  On return
 * they may be missing still: the caller looks again.  Waits for the log, and
 * raises an ERROR if that takes long or there is no room; no lock may be held.
 */
void
rebuild_subject(CallSubject *part, Clock clock)
{
	const SubjectName *name = &part->charge->subject;

	switch (try_claim(part, clock))
	{
		case NOTHING_TO_CLAIM:
			break;
		case CLAIMED_BY_ANOTHER:
			claim_wait(name);
			break;
		case NO_ROOM:
			sweep_make_room(clock);
			break;
		case CLAIMED:
			PG_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(name));
			{
				fill_claimed(part, clock);
			}
			PG_END_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(name));
			claim_release(name);
			break;
	}
}

/*
 * Return the tier that a subject was last called under, as text; NULL if it
 * never was.  Waits for the log and may raise an ERROR; no lock may be held.
 */
text *
rebuild_tier(const SubjectName *name)
{
	log_wait_written(claim_log_position(name));
	return logread_tier(name);
}

/*
 * Build the windows of all parts of a call for this backend alone, in the
 * current memory context, from what was decided before the time until
 * (DT_NOEND: all), and move the call's clock on to theirs.  Waits for the log,
 * except on a standby, and may raise an ERROR; no lock may be held.
 */
void
rebuild_for_backend(Call *call, TimestampTz until)
{
	for (int i = 0; i < call->count; i++)
	{
		CallSubject *part = &call->parts[i];
		RebuiltWindows *rebuilt = palloc(sizeof(RebuiltWindows));

		if (!RecoveryInProgress())
			log_wait_written(claim_log_position(&part->charge->subject));
		rebuild_windows(rebuilt, part, call->clock, until);
		call->clock.now = Max(call->clock.now, rebuilt->clock);
		part->subject = NULL;
		part->base = rebuilt->blocks.spare.base;
		for (int j = 0; j < part->nwindows; j++)
			part->windows[j] = &rebuilt->windows[j];
	}
	for (int i = 0; i < call->count; i++)
		call_plan(&call->parts[i], call->clock.now);
}
