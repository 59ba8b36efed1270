/*-------------------------------------------------------------------------
 *
 * refund.c
 *		Giving back what was counted.
 *
 * The log gets a row with negative numbers; see logread.c for how it is read.
 * How much there is to give back is what the log says of the time that the
 * longest limit of any tier spans: that is the same whatever is in memory.
 * What was counted in a calendar period that is over is not given back in the
 * next one; but a reset forgets that, too.
 *
 * Mostly memory will do: where units are to be given back to a key of its own
 * whose windows count as many of each unit, the windows give them back, newest
 * first.  Otherwise the subject is claimed (claim.c), so that nothing is
 * counted for it meanwhile; what is written is read; and the row is queued
 * under the same lock under which the subject's windows are dropped.  Its next
 * call fills them from the log, with that row.
 *
 * Locks are taken as by a charge (limiter.c).  A session that holds a claim on
 * a key may wait for one on its account or address, never the other way round.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "config/calendar.h"
#include "limit/address.h"
#include "limit/call.h"
#include "limit/evaluate.h"
#include "limit/limiter.h"
#include "limit/logread.h"
#include "limit/rebuild.h"
#include "limit/refund.h"
#include "limit/retry.h"
#include "log/log.h"
#include "storage/ipc.h"
#include "store/claim.h"
#include "store/sweep.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* So many units of each kind, by Unit. */
typedef struct Units
{
	int64		amount[2];
} Units;

static SpiStatement longest_query = {
	"SELECT pg_catalog.max(period) FROM tierlimit.tier_limit", 0, {0}, NULL
};

/*
 * The call with a request_id, with the tier and the subjects that it was
 * charged to: that of a key, or of who called from an address without one.
 */
#define CALL_OF(caller) { \
	"SELECT at, account, tier, endpoint, ip FROM tierlimit.request_log WHERE " caller \
	" AND request_id COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $2" \
	" AND at OPERATOR(pg_catalog.>) $3 AND at OPERATOR(pg_catalog.<) 'infinity'" \
	" AND " WITHIN_DAYS \
	" AND error_code OPERATOR(pg_catalog.=) 0" \
	" AND requests OPERATOR(pg_catalog.>) 0 ORDER BY at DESC LIMIT 1", \
	3, {TEXTOID, TEXTOID, TIMESTAMPTZOID}, NULL \
}

static SpiStatement call_of_key =
CALL_OF("key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1");

static SpiStatement call_of_anonymous =
CALL_OF("key IS NULL AND ip OPERATOR(pg_catalog.<<=) $1::pg_catalog.inet");

/*
 * Return the time just before the current period of the tier's longest
 * calendar limit; DT_NOBEGIN if the tier has none.
 */
static TimestampTz
current_since(const Charge *charge, TimestampTz now)
{
	const Tier *tier = charge->tier;

	for (int i = tier->nlimits - 1; i >= 0; i--)
		if (tier->limits[i].kind == WINDOW_CALENDAR)
			return calendar_span(&tier->limits[i].period,
								 charge->billing_anchor, charge->timezone,
								 now).start - 1;
	return DT_NOBEGIN;
}

/*
 * Return since when any limit counts, or any call may be retried.  A calendar
 * month or year is taken to be a long one.
 */
static TimestampTz
counted_since(TimestampTz now)
{
	SpiReading	reading;
	Interval   *longest;
	int64		period = 0;

	spi_begin(&reading);
	spi_run(&reading, &longest_query, NULL);
	longest = DatumGetIntervalP(spi_value(0, 1, (Datum) 0));
	if (longest != NULL)
		period = longest->time +
			((int64) longest->month * 31 + longest->day) * USECS_PER_DAY;
	spi_end(&reading);
	return now - Max(period, request_memory());
}

/*
 * Return since when something can be given back: nothing is given back of a
 * period of the tier's longest calendar limit that is over.
 */
static TimestampTz
refunded_since(const Charge *charge, TimestampTz now)
{
	return Max(counted_since(now), current_since(charge, now));
}

/*
 * Return how many units are counted of a subject since a time: those of the
 * row's key, or all if key is NULL.  Sets *newest to the time to which its
 * rows take its clock; DT_NOBEGIN if there are none.
 */
static Units
counted_units(const SubjectName *subject, Clock clock, TimestampTz since, const LogText *key,
			  TimestampTz *newest)
{
	LogSpan		span = {
		.no_deletion_after = log_deletions_until(clock),
		.since = since,
		.single_since = key == NULL ? DT_NOEND : since
	};
	LogSums		log = logread_sums(subject, &span);
	Units		units = {{0}};

	*newest = log.count == 0 ? DT_NOBEGIN
		: log.sums[log.count - 1].at + log.sums[log.count - 1].gave_back;
	for (int i = 0; i < log.count; i++)
	{
		const LogSum *sum = &log.sums[i];

		if (key != NULL && sum->key != logread_hash(key->bytes, key->length))
			continue;
		units.amount[UNIT_REQUESTS] += sum->requests;
		if (pg_add_s64_overflow(units.amount[UNIT_CREDITS], sum->credits,
								&units.amount[UNIT_CREDITS]))
			units.amount[UNIT_CREDITS] = PG_INT64_MAX;
	}
	if (log.sums != NULL)
		pfree(log.sums);
	return units;
}

/* Return whether there are no units. */
static bool
is_nothing(Units units)
{
	return units.amount[UNIT_REQUESTS] == 0 && units.amount[UNIT_CREDITS] == 0;
}

/*
 * Fill in the row that gives so many units back.  Its size does not depend on
 * the numbers.
 */
static void
fill_row(LogRow *row, TimestampTz at, Units units)
{
	row->at = at;
	row->requests = -units.amount[UNIT_REQUESTS];
	row->credits = -units.amount[UNIT_CREDITS];
	row->error_code = 0;
	row->waited_for = tierlimit_durability == DURABILITY_SYNC;
}

/*
 * Note in a subject that a row up to this end position gives something back.
 * Its later rows have to have a later time, to be told from those before it.
 */
static void
note_given_back(Subject *subject, const LogRow *row, uint64 position)
{
	if (logrow_gives_back(row))
		subject->clock = Max(subject->clock, row->at) + 1;
	subject->log_position = position;
	if (row->waited_for)
		limiter_note_durable(position);
}

/*
 * Return whether as many units were counted in the current period of the
 * tier's longest calendar limit, as far as memory knows; true if the tier has
 * none.
 */
static bool
is_of_current_period(const CallSubject *part, TimestampTz now, Units units)
{
	const Tier *tier = part->charge->tier;
	int64		longest = 0;

	for (int i = 0; i < tier->nlimits; i++)
		if (tier->limits[i].kind == WINDOW_CALENDAR)
			longest = tier->limits[i].period_us;
	for (int unit = 0; unit < 2 && longest != 0; unit++)
	{
		int64		used = 0;

		for (int i = 0; i < part->nwindows; i++)
			if (tier->limits[i].kind == WINDOW_CALENDAR &&
				tier->limits[i].period_us == longest &&
				(int) tier->limits[i].unit == unit)
				used = evaluate_used(part, i, now);
		if (used < units.amount[unit])
			return false;
	}
	return true;
}

/*
 * Give units back from the windows in memory, and queue the row.  Returns
 * false, with nothing done, if the windows are not there or do not count as
 * many units, or if there is no room in the log.
 */
static bool
try_in_memory(Call *call, LogQueue *queue, Units units, LogRow *row)
{
	CallSubject *part = &call->parts[0];
	BlockList	spare = {.base = store->blocks};
	RingPlace	place = NO_PLACE;
	Units		there = {{0}};
	SubjectWindow *window;

	/* Find out how many units the windows count. */
	call_lock(call, LW_EXCLUSIVE);
	window = call_is_complete(part) && part->subject != NULL
		? subject_window_at(part->subject->windows) : NULL;
	for (SubjectWindow *w = window; w != NULL; w = subject_window_at(w->next))
	{
		Moment		moment = {.now = call->clock.now};

		if (w->window.kind == WINDOW_CALENDAR &&
			window_empty_at(&w->window) > moment.now)
			moment.current = w->window.calendar.span;
		there.amount[w->unit] = Max(there.amount[w->unit],
									window_used(&w->window, store->blocks, moment));
	}

	/*
	 * All has to be there before anything is changed: units, and room in the
	 * log.
	 */
	if (there.amount[UNIT_REQUESTS] < units.amount[UNIT_REQUESTS] ||
		there.amount[UNIT_CREDITS] < units.amount[UNIT_CREDITS] ||
		window == NULL ||
		!is_of_current_period(part, call->clock.now, units) ||
		!log_reserve(queue, row, &place))
	{
		call_unlock(call);
		return false;
	}

	/* Change the windows and the subject, which cannot fail. */
	for (; window != NULL; window = subject_window_at(window->next))
		(void) window_take_back(&window->window, &spare, call->clock.now,
								units.amount[window->unit]);
	fill_row(row, call->clock.now, units);
	note_given_back(part->subject, row, place.end);
	store_note_refund(call->hashes[0]);
	store_stats(call->hashes[0])->logged++;
	store_stats(call->hashes[0])->refunds++;

	/* Release the blocks and the locks, and write the row to its place. */
	pool_return(&store->pool, &spare, partition_of(call->hashes[0]));
	call_unlock(call);
	log_append(&place, row);
	return true;
}

/*
 * Return the name of a subject that another session has claimed; NULL if there
 * is none.  The one named mine is claimed by this session.  The locks of their
 * partitions are held.
 */
static const SubjectName *
claimed_by_another(const SubjectName *names, int count, const SubjectName *mine)
{
	for (int i = 0; i < count; i++)
	{
		const Subject *subject = subject_find(&names[i]);

		if (&names[i] != mine && subject != NULL && subject->claimed)
			return &names[i];
	}
	return NULL;
}

/*
 * Queue the row, and drop the windows of all subjects that it concerns.  The
 * subject named mine is claimed by this session; NULL: none is.  With a retry,
 * its answer is forgotten.  Waits for claims of other sessions, and for room
 * in the log.
 */
static void
queue_row(const SubjectName *names, int count, const SubjectName *mine,
		  const Retry *retry, LogRow *row)
{
	uint64		hashes[MAX_LOCKS];
	int			nlocks = 0;
	bool		queued = false;

	/* Collect all that is locked together. */
	for (int i = 0; i < count; i++)
		hashes[nlocks++] = names[i].hash;
	if (retry != NULL)
		hashes[nlocks++] = retry->subject.hash;
	while (!queued)
	{
		LogQueue   *queue = log_open();
		const SubjectName *another;
		RingPlace	place = NO_PLACE;
		BlockList	spare = {.base = store->blocks};

		partition_lock(hashes, nlocks, LW_EXCLUSIVE);

		/*
		 * No other session may be reading the subjects, and there has to be
		 * room in the log.
		 */
		another = claimed_by_another(names, count, mine);
		queued = another == NULL && log_reserve(queue, row, &place);

		/*
		 * Then drop the windows: the next calls fill them with this row
		 * counted.
		 */
		for (int i = 0; queued && i < count; i++)
		{
			Subject    *subject = subject_find(&names[i]);

			if (retry == NULL)
				store_note_refund(names[i].hash);
			if (subject == NULL)
			{
				store_stats(names[i].hash)->absent_log_position = place.end;
				continue;
			}
			subject_drop_windows(subject, &spare);
			note_given_back(subject, row, place.end);
		}
		if (queued)
		{
			if (retry != NULL)
				retry_forget(retry, &spare);
			if (row->has_address)
				store_note_address(place.end);
			store_stats(hashes[0])->logged++;
			store_stats(hashes[0])->refunds++;
		}
		pool_return(&store->pool, &spare, partition_of(hashes[0]));
		partition_unlock(hashes, nlocks);
		log_append(&place, row);

		/* Wait for what is lacking, without a lock. */
		if (another != NULL)
			claim_wait(another);
		else if (!queued)
			log_wait_for_room(queue, row);
	}
	sweep_encourage();
}

/*
 * Return the time for a row of a subject that is claimed: it is not before
 * anything that the subject has decided, also by a clock that was wrong, so
 * that the row gives that back.
 */
static TimestampTz
time_after(const SubjectName *name, Clock clock)
{
	Subject    *subject;

	partition_lock(&name->hash, 1, LW_SHARED);
	subject = subject_find(name);
	if (subject != NULL)
		clock.now = Max(clock.now, subject->clock);
	partition_unlock(&name->hash, 1);
	return clock.now;
}

/*
 * Give back up to so many units of those that the log says are counted, of the
 * row's key or of all.  Returns how many were given back.  The subject is
 * claimed by this session.
 */
static Units
give_back_claimed(const Charge *charge, Clock clock, Units wanted, LogRow *row)
{
	const SubjectName *subject = &charge->subject;
	SubjectName names[MAX_CHARGES] = {*subject};
	int			count = 1;
	TimestampTz newest;
	Units		units;

	/* Read what is counted, with all rows of the subject written. */
	log_wait_written(claim_log_position(subject));
	clock = clock_read_again(clock);
	if (row->is_reset)
		row->is_reset = !is_nothing(counted_units(subject, clock, counted_since(clock.now),
												  NULL, &newest));
	units = counted_units(subject, clock, refunded_since(charge, clock.now),
						  row->is_reset || subject->kind != SUBJECT_ACCOUNT
						  ? NULL : &row->texts[LOG_KEY], &newest);
	clock.now = Max(clock.now, newest);

	/* Give back no more than that. */
	for (int unit = 0; unit < 2; unit++)
		units.amount[unit] = Min(units.amount[unit], wanted.amount[unit]);
	fill_row(row, time_after(subject, clock), units);
	if (subject->kind == SUBJECT_ADDRESS)
		names[count++] = subject_name(subject->installation, SUBJECT_ANONYMOUS,
									  subject->name, subject->length);
	queue_row(names, count, &names[0], NULL, row);
	return units;
}

/*
 * Claim the subject, and give back up to so many units of it as the log has
 * them.  Returns how many were given back.
 */
static Units
give_back_by_log(const Charge *charge, Clock clock, Units wanted, LogRow *row)
{
	const SubjectName *subject = &charge->subject;
	Units		units;

	claim_take(subject, clock);
	PG_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(subject));
	{
		units = give_back_claimed(charge, clock, wanted, row);
	}
	PG_END_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(subject));
	claim_release(subject);
	return units;
}

/*
 * Give back the newest counted calls and credits of the row's key, as many as
 * there are; returns the credits.  Where the charge is an address's, units of
 * any caller from there are given back, also of the one that calls from there
 * without a key.  May wait for the log, and raise an ERROR, with nothing given
 * back; no lock may be held.
 */
int64
refund_newest(const Charge *charge, Clock clock, int64 cost, int64 requests,
			  LogRow *row)
{
	Units		wanted;
	Call		call;
	LogQueue   *queue;

	wanted.amount[UNIT_CREDITS] = cost;
	wanted.amount[UNIT_REQUESTS] = requests;

	/* Try in memory first. */
	if (charge->subject.kind == SUBJECT_KEY && charge->tier->nwindows > 0)
	{
		call_begin_refund(&call, charge, clock);
		rebuild_subject(&call.parts[0], clock);
		call_read_clock(&call);
		queue = log_open();
		if (try_in_memory(&call, queue, wanted, row))
		{
			log_nudge(queue);
			sweep_encourage();
			return cost;
		}
	}
	return give_back_by_log(charge, clock, wanted, row).amount[UNIT_CREDITS];
}

/*
 * Return the clock by which a subject has decided last, with the time of that;
 * or this session's clock, if that is not known.
 */
static Clock
clock_of(const SubjectName *name, Clock clock)
{
	Subject    *subject;

	partition_lock(&name->hash, 1, LW_SHARED);
	subject = subject_find(name);
	if (subject != NULL && subject->clock != PG_INT64_MIN &&
		subject->clock_source != clock.source)
	{
		clock.now = subject->clock;
		clock.source = (ClockSource) subject->clock_source;
	}
	partition_unlock(&name->hash, 1);
	return clock;
}

/*
 * Forget all that is counted for the subject.  Where it has decided by another
 * clock than this session's, what it has counted is reset by that clock, too.
 * May wait for the log, and raise an ERROR; no lock may be held.
 */
void
refund_all(const Charge *charge, Clock clock, LogRow *row)
{
	Units		all = {{PG_INT64_MAX, PG_INT64_MAX}};
	Clock		other = clock_of(&charge->subject, clock);

	if (other.source != clock.source)
	{
		row->is_reset = true;
		(void) give_back_by_log(charge, other, all, row);
	}
	row->is_reset = true;
	(void) give_back_by_log(charge, clock, all, row);
}

/* A call as the log has it. */
typedef struct LoggedCall
{
	TimestampTz at;
	bool		is_counted;		/* by any of these subjects */
	Units		units;			/* units that the first of them was not given
								 * back */
	TimestampTz newest;			/* time of its newest row */
	int			count;
	SubjectName subjects[MAX_CHARGES];	/* subjects that it was charged to */
} LoggedCall;

/* Return a text of the query's result, in the caller's memory context. */
static LogText
result_text(int row, int column)
{
	return logrow_text(spi_text(row, column));
}

/*
 * Set the address that the call was charged to as well, and put it into the
 * row.
 */
static void
set_address(LoggedCall *call, const SubjectName *caller, LogRow *row,
			const inet *address)
{
	char	   *name = SPI_palloc(MAX_ADDRESS_NAME);

	row->has_address = true;
	row->address = address_of_host(address);
	call->subjects[call->count++] =
		subject_name(caller->installation, SUBJECT_ADDRESS, name,
					 address_name(&row->address, name));
}

/*
 * Find the caller's call with the row's request_id in the log, and complete the
 * row from it.  Returns false if it is not there.
 */
static bool
find_call(LoggedCall *call, const SubjectName *caller, TimestampTz since, LogRow *row)
{
	SpiReading	reading;
	LogDays		days = {.first = spi_day(since), .end = ALL_DAYS_AFTER};
	Datum		args[3];
	bool		found;

	memset(call, 0, sizeof(LoggedCall));
	spi_begin(&reading);
	args[0] = PointerGetDatum(cstring_to_text_with_len(caller->name,
													   caller->length));
	args[1] = PointerGetDatum(cstring_to_text_with_len(row->texts[LOG_REQUEST_ID].bytes,
													   row->texts[LOG_REQUEST_ID].length));
	args[2] = TimestampTzGetDatum(since);
	spi_run_log(&reading, caller->kind == SUBJECT_ANONYMOUS ? &call_of_anonymous
				: &call_of_key, days, args);
	found = SPI_processed > 0;
	if (found)
	{
		Datum		address = spi_value(0, 5, (Datum) 0);

		call->at = DatumGetTimestampTz(spi_value(0, 1, (Datum) 0));
		row->texts[LOG_ACCOUNT] = result_text(0, 2);
		row->texts[LOG_TIER] = result_text(0, 3);
		row->texts[LOG_ENDPOINT] = result_text(0, 4);
		call->subjects[call->count++] = *caller;
		found = logread_find_subject(&call->subjects[0], row->texts[LOG_ACCOUNT]);
		if (found && address != (Datum) 0)
			set_address(call, caller, row, DatumGetInetPP(address));
	}
	spi_end(&reading);
	return found;
}

/*
 * Set what of a call was not given back yet.  The address may count what the
 * caller was given back before, unnamed.  Returns false if the call has another
 * time by now.
 */
static bool
find_units(LoggedCall *call, LogText request_id)
{
	LogSum		sum;
	TimestampTz newest;

	if (!logread_call(&call->subjects[0], call->at, request_id, &sum, &call->newest))
		return false;
	call->units.amount[UNIT_REQUESTS] = Max(sum.requests, 0);
	call->units.amount[UNIT_CREDITS] = Max(sum.credits, 0);
	if (is_nothing(call->units) && call->count > 1 &&
		!logread_call(&call->subjects[1], call->at, request_id, &sum, &newest))
		return false;
	call->is_counted = sum.requests > 0 || sum.credits > 0;
	return true;
}

/*
 * Look the caller's call with the row's request_id up, and complete the row
 * from it.  Returns false if the call is not known, or was given back by all
 * that it was charged to.
 */
static bool
read_call(LoggedCall *call, const SubjectName *caller, TimestampTz since, LogRow *row)
{
	for (int i = 0; i < LOGREAD_ATTEMPTS && find_call(call, caller, since, row); i++)
		if (find_units(call, row->texts[LOG_REQUEST_ID]))
			return call->is_counted;
	return false;
}

/*
 * Give back the caller's call with the row's request_id.  Returns its credits,
 * 0 if there is no such call.  This session has claimed who may give it back,
 * so that no other session does.
 */
static int64
give_back_call(const Charge *charge, const SubjectName *caller,
			   const SubjectName *claimed, Clock clock, LogRow *row)
{
	LoggedCall	call;
	Retry		retry;
	const SubjectName *mine = NULL;

	log_wait_written(log_newest_position());
	clock = clock_read_again(clock);
	retry_init(&retry, caller, row, false);
	if (!read_call(&call, caller, refunded_since(charge, clock.now), row))
		return 0;
	for (int i = 0; i < call.count; i++)
		if (call.subjects[i].kind == claimed->kind)
			mine = &call.subjects[i];
	clock.now = Max(clock.now, call.newest);
	fill_row(row, time_after(&call.subjects[0], clock), call.units);
	queue_row(call.subjects, call.count, mine, &retry, row);
	return call.units.amount[UNIT_CREDITS];
}

/*
 * Give back the call with the row's request_id, wherever it was charged: that
 * of the row's key, or if the row has none, of the caller without a key whom
 * the charge is for.  Returns its credits, 0 if it is not known or was given
 * back before.  May wait for the log, and raise an ERROR, with nothing given
 * back; no lock may be held.
 */
int64
refund_call(const Charge *charge, Clock clock, LogRow *row)
{
	const SubjectName *subject = &charge->subject;
	LogText		key = row->texts[LOG_KEY];
	SubjectName caller;
	SubjectName claimed;
	int64		credits;

	/*
	 * Who calls without a key is given back units by the address, too, which
	 * is what refund_newest() claims.
	 */
	if (key.bytes != NULL)
		claimed = caller = subject_name(subject->installation, SUBJECT_KEY,
										key.bytes, key.length);
	else
	{
		caller = *subject;
		claimed = subject_name(subject->installation, SUBJECT_ADDRESS,
							   subject->name, subject->length);
	}
	claim_take(&claimed, clock);
	PG_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(&claimed));
	{
		credits = give_back_call(charge, &caller, &claimed, clock, row);
	}
	PG_END_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(&claimed));
	claim_release(&claimed);
	return credits;
}
