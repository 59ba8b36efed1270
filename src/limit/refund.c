/*-------------------------------------------------------------------------
 *
 * refund.c
 *		Giving back what was counted.
 *
 * The log gets a row with negative numbers; see logread.c for how it is read.  How
 * much there is to give back is what the log says of the time that the longest
 * limit of any tier spans: that is the same whatever is in memory.  What was
 * counted in a calendar period that is over is not given back in the next one;
 * though a reset forgets that, too.
 *
 * Mostly memory will do: where each unit is to be given back by a key of its own
 * whose windows count as much, these give it, newest first.  Otherwise the subject
 * is claimed (claim.c), so that nothing is counted for it meanwhile; what is
 * written is read; and the row is queued under the same lock as the subject's
 * windows are dropped.  Its next call fills them from the log, with that row.
 *
 * Locks: as a charge (limiter.c).  Whoever holds a claim on a key may wait for one
 * on its account or address, never the other way round.
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

/* By Unit. */
typedef struct Units
{
	int64		amount[2];
} Units;

static SpiStatement longest_query = {
	"SELECT pg_catalog.max(period) FROM tierlimit.tier_limit", 0, {0}, NULL
};

/* The call of a retry, with the tier and the subjects that it was charged to. */
static SpiStatement call_query = {
	"SELECT at, account, tier, endpoint, ip FROM tierlimit.request_log"
	" WHERE key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1"
	" AND request_id COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $2"
	" AND at OPERATOR(pg_catalog.>) $3 AND at OPERATOR(pg_catalog.<) 'infinity'"
	" AND " WITHIN_DAYS
	" AND error_code OPERATOR(pg_catalog.=) 0"
	" AND requests OPERATOR(pg_catalog.>) 0 ORDER BY at DESC LIMIT 1", 3, {TEXTOID, TEXTOID, TIMESTAMPTZOID}, NULL
};

/* When the current period of the tier's longest calendar limit began. */
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

/* Since when any limit counts; a calendar month or year may be a long one. */
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
 * Since when something can be given back: not of a period of the tier's longest
 * calendar limit that is over.
 */
static TimestampTz
refunded_since(const Charge *charge, TimestampTz now)
{
	return Max(counted_since(now), current_since(charge, now));
}

/*
 * What is counted of a subject: of the row's key, or all if there is none; and
 * where its rows take its clock.
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

static bool
is_nothing(Units units)
{
	return units.amount[UNIT_REQUESTS] == 0 && units.amount[UNIT_CREDITS] == 0;
}

/* The row that gives so much back; it has its size whatever the numbers are. */
static void
fill_row(LogRow *row, TimestampTz at, Units units)
{
	row->at = at;
	row->requests = -units.amount[UNIT_REQUESTS];
	row->credits = -units.amount[UNIT_CREDITS];
	row->error_code = 0;
	row->waited_for = tierlimit_durability == DURABILITY_SYNC;
}

/* What comes after it has to come later, to be told from what comes before. */
static void
note_given_back(Subject *subject, const LogRow *row, uint64 position)
{
	if (row->requests != 0 || row->credits != 0 || row->is_reset)
		subject->clock = Max(subject->clock, row->at) + 1;
	subject->log_position = position;
	if (row->waited_for)
		limiter_note_durable(position);
}

/*
 * Whether as much was counted in the current period of the tier's longest calendar
 * limit, as far as memory knows; also if it has none.
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
 * Give back from memory; false if the subject's windows are not there, or do not
 * count as much.
 */
static bool
try_in_memory(Call *call, LogQueue *queue, Units units, LogRow *row)
{
	CallSubject *part = &call->parts[0];
	BlockList	spare = {.base = store->blocks};
	RingPlace	place = NO_PLACE;
	Units		there = {{0}};
	SubjectWindow *window;

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
	if (there.amount[UNIT_REQUESTS] < units.amount[UNIT_REQUESTS] ||
		there.amount[UNIT_CREDITS] < units.amount[UNIT_CREDITS] ||
		window == NULL ||
		!is_of_current_period(part, call->clock.now, units) ||
		!log_reserve(queue, row, &place))
	{
		call_unlock(call);
		return false;
	}
	for (; window != NULL; window = subject_window_at(window->next))
		(void) window_take_back(&window->window, &spare, call->clock.now,
								units.amount[window->unit]);
	fill_row(row, call->clock.now, units);
	note_given_back(part->subject, row, place.end);
	part->subject->gave_back = true;
	store_stats(call->hashes[0])->logged++;
	store_stats(call->hashes[0])->refunds++;
	pool_return(&store->pool, &spare, partition_of(call->hashes[0]));
	call_unlock(call);
	log_append(&place, row);
	return true;
}

/* Whether somebody else is reading the subject: then its name is returned. */
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
 * Queue the row, and drop the windows of all subjects that it concerns; mine is
 * the one that we have claimed, or NULL.
 */
static void
queue_row(const SubjectName *names, int count, const SubjectName *mine,
		  const Retry *retry, LogRow *row)
{
	uint64		hashes[MAX_LOCKS];
	int			nlocks = 0;
	bool		queued = false;

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
		another = claimed_by_another(names, count, mine);
		queued = another == NULL && log_reserve(queue, row, &place);
		for (int i = 0; queued && i < count; i++)
		{
			Subject    *subject = subject_find(&names[i]);

			if (subject == NULL)
			{
				store_stats(names[i].hash)->absent_log_position = place.end;
				continue;
			}
			subject_drop_windows(subject, &spare);
			note_given_back(subject, row, place.end);
			subject->gave_back |= retry == NULL;
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
		if (another != NULL)
			claim_wait(another);
		else if (!queued)
			log_wait_for_room(queue, row);
	}
	sweep_encourage();
}

/*
 * The time of a row of a subject that is claimed: after all that it decided, also by
 * a clock that was wrong, so that it gives that back.
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
 * Give back up to so many units of what the log says is counted, of the row's
 * key or of all; returns how many.  The subject is claimed.
 */
static Units
give_back_claimed(const Charge *charge, Clock clock, Units wanted, LogRow *row)
{
	const SubjectName *subject = &charge->subject;
	SubjectName names[MAX_CHARGES] = {*subject};
	int			count = 1;
	TimestampTz newest;
	Units		units;

	log_wait_written(claim_log_position(subject));
	clock = clock_read_again(clock);
	if (row->is_reset)
		row->is_reset = !is_nothing(counted_units(subject, clock, counted_since(clock.now),
												  NULL, &newest));
	units = counted_units(subject, clock, refunded_since(charge, clock.now),
						  row->is_reset || subject->kind != SUBJECT_ACCOUNT
						  ? NULL : &row->texts[LOG_KEY], &newest);
	clock.now = Max(clock.now, newest);
	for (int unit = 0; unit < 2; unit++)
		units.amount[unit] = Min(units.amount[unit], wanted.amount[unit]);
	fill_row(row, time_after(subject, clock), units);
	if (subject->kind == SUBJECT_ADDRESS)
		names[count++] = subject_name(subject->installation, SUBJECT_ANONYMOUS,
									  subject->name, subject->length);
	queue_row(names, count, &names[0], NULL, row);
	return units;
}

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

int64
refund_newest(const Charge *charge, Clock clock, int64 cost, int64 requests,
			  LogRow *row)
{
	Units		wanted;
	Call		call;
	LogQueue   *queue;

	wanted.amount[UNIT_CREDITS] = cost;
	wanted.amount[UNIT_REQUESTS] = requests;
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

/* The clock by which a subject has decided last; ours, if that is not known. */
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
 * Where the subject has decided by another clock than this session's, what it has
 * counted is reset by that one, too.
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
	Units		units;			/* that were not given back */
	TimestampTz newest;			/* row of the first of these subjects */
	int			count;
	SubjectName subjects[MAX_CHARGES];	/* that it was charged to */
} LoggedCall;

/* A text of the query's result, in the caller's context. */
static LogText
result_text(int row, int column)
{
	return logrow_text(spi_text(row, column));
}

/*
 * Whom the row says that the call was charged to; false if that can't be, as
 * somebody else has written it.
 */
static bool
set_subjects(LoggedCall *call, InstallationId installation, LogRow *row, Datum address)
{
	LogText		name = row->texts[row->texts[LOG_ACCOUNT].bytes != NULL
								  ? LOG_ACCOUNT : LOG_KEY];

	if (name.length < 1 || name.length > MAX_NAME_LENGTH)
		return false;
	call->subjects[call->count++] =
		subject_name(installation, row->texts[LOG_ACCOUNT].bytes != NULL
					 ? SUBJECT_ACCOUNT : SUBJECT_KEY, name.bytes, name.length);
	if (address == (Datum) 0)
		return true;
	row->has_address = true;
	row->address = address_of_host(DatumGetInetPP(address));
	{
		char	   *buffer = SPI_palloc(MAX_ADDRESS_NAME);
		int			length = address_name(&row->address, buffer);

		call->subjects[call->count++] =
			subject_name(installation, SUBJECT_ADDRESS, buffer, length);
	}
	return true;
}

/* Look the call up; false if it is not known, or was given back. */
static bool
read_call(LoggedCall *call, InstallationId installation, TimestampTz since, LogRow *row)
{
	SpiReading	reading;
	LogDays		days = {.end = ALL_DAYS_AFTER};
	Datum		args[3];
	TimestampTz at = 0;
	bool		found;
	LogSum		left;

	memset(call, 0, sizeof(LoggedCall));
	spi_begin(&reading);
	args[0] = PointerGetDatum(cstring_to_text_with_len(row->texts[LOG_KEY].bytes,
													   row->texts[LOG_KEY].length));
	args[1] = PointerGetDatum(cstring_to_text_with_len(row->texts[LOG_REQUEST_ID].bytes,
													   row->texts[LOG_REQUEST_ID].length));
	args[2] = TimestampTzGetDatum(since);
	days.first = spi_day(since);
	spi_run_log(&reading, &call_query, days, args);
	found = SPI_processed > 0;
	if (found)
	{
		at = DatumGetTimestampTz(spi_value(0, 1, (Datum) 0));
		row->texts[LOG_ACCOUNT] = result_text(0, 2);
		row->texts[LOG_TIER] = result_text(0, 3);
		row->texts[LOG_ENDPOINT] = result_text(0, 4);
		found = set_subjects(call, installation, row, spi_value(0, 5, (Datum) 0));
	}
	spi_end(&reading);
	if (!found)
		return false;
	left = logread_call(&call->subjects[0], at, row->texts[LOG_REQUEST_ID],
						&call->newest);
	call->units.amount[UNIT_REQUESTS] = Max(left.requests, 0);
	call->units.amount[UNIT_CREDITS] = Max(left.credits, 0);
	return left.requests > 0 || left.credits > 0;
}

/* The key is claimed, so that nobody else gives the same call back. */
static int64
give_back_call(const Charge *charge, const SubjectName *key, Clock clock,
			   LogRow *row)
{
	LoggedCall	call;
	Retry		retry;
	const SubjectName *mine = NULL;

	log_wait_written(log_newest_position());
	clock = clock_read_again(clock);
	retry_init(&retry, key, row, false);
	if (!read_call(&call, key->installation, refunded_since(charge, clock.now), row))
		return 0;
	if (call.subjects[0].kind == SUBJECT_KEY)
		mine = &call.subjects[0];
	clock.now = Max(clock.now, call.newest);
	fill_row(row, time_after(&call.subjects[0], clock), call.units);
	queue_row(call.subjects, call.count, mine, &retry, row);
	return call.units.amount[UNIT_CREDITS];
}

int64
refund_call(const Charge *charge, Clock clock, LogRow *row)
{
	SubjectName key = subject_name(charge->subject.installation, SUBJECT_KEY,
								   row->texts[LOG_KEY].bytes,
								   row->texts[LOG_KEY].length);
	int64		credits;

	claim_take(&key, clock);
	PG_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(&key));
	{
		credits = give_back_call(charge, &key, clock, row);
	}
	PG_END_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(&key));
	claim_release(&key);
	return credits;
}
