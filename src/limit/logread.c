/*-------------------------------------------------------------------------
 *
 * logread.c
 *		What the request log knows of a subject.
 *
 * Its newest rows are read one by one, by an index of each partition.  Further
 * back, where windows keep calls together anyway, the sums of minutes that had
 * many rows are read instead (see tierlimit._sum_log() in the install script),
 * and the rows of the gaps between these.  So the cost is bounded by minutes
 * rather than by calls, whatever the size of the log.
 *
 * A row with negative numbers gives something back: the call that it names by
 * its request_id, whole; or, if it names none, the newest units of its key; or,
 * if it is a reset (its shadow_code is 0), all that was counted before.  For a
 * call and for a reset that is so whatever the numbers are.  The sums that are
 * returned have that done already.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/spi.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "limit/logread.h"
#include "store/clock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* The rows that are counted for a key, or for an account, named $1. */
#define OF_KEY \
	"key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1 AND account IS NULL AND error_code OPERATOR(pg_catalog.=) 0"
#define OF_ACCOUNT \
	"account COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1 AND error_code OPERATOR(pg_catalog.=) 0"

/* The rows of an address, or of a network. */
#define FROM_ADDRESS \
	"ip OPERATOR(pg_catalog.>=) pg_catalog.host(pg_catalog.network($1::pg_catalog.inet))::pg_catalog.inet" \
	" AND ip OPERATOR(pg_catalog.<=) pg_catalog.host(pg_catalog.broadcast($1::pg_catalog.inet))::pg_catalog.inet"
#define OF_ADDRESS FROM_ADDRESS " AND error_code OPERATOR(pg_catalog.=) 0"

/* The rows of callers without a key, from such an address or from none. */
#define OF_ANONYMOUS "key IS NULL AND " OF_ADDRESS
#define OF_NOBODY \
	"key IS NULL AND ip IS NULL AND error_code OPERATOR(pg_catalog.=) 0"

/*
 * This asks whether there is any row.  Mostly there is none: the key is a new
 * one.
 */
#define ANY_ROW(subject) { \
	"SELECT 1 FROM tierlimit.request_log WHERE " subject \
	" AND at OPERATOR(pg_catalog.>) $2 AND " WITHIN_DAYS " LIMIT 1", \
	2, {TEXTOID, TIMESTAMPTZOID}, NULL \
}

/*
 * These say that a row c is of the same caller as the row r of a subject: a
 * request_id is that of a key, or of who calls without one, from an address or
 * from none.
 */
#define SAME_KEY "c.key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) r.key"
#define SAME_ANONYMOUS "c.key IS NULL AND " FROM_ADDRESS
#define SAME_CALLER "(" SAME_KEY " OR r.key IS NULL AND " SAME_ANONYMOUS ")"
#define SAME_NOBODY "c.key IS NULL AND c.ip IS NULL"

/*
 * What a row r gives back, as logrow_gives_back() has it: infinity stands for
 * all; minus infinity for a call before the span; NULL for the newest calls of
 * its key, or for nothing.
 */
#define CALL_AT(same_caller) \
	"CASE WHEN r.shadow_code OPERATOR(pg_catalog.=) 0 THEN 'infinity'::pg_catalog.timestamptz" \
	" WHEN r.requests OPERATOR(pg_catalog.>) 0" \
	"  OR r.requests OPERATOR(pg_catalog.=) 0 AND (r.credits OPERATOR(pg_catalog.>) 0" \
	"   OR r.credits OPERATOR(pg_catalog.=) 0 AND r.request_id IS NULL) THEN NULL" \
	" WHEN r.request_id IS NOT NULL THEN COALESCE((" \
	"  SELECT pg_catalog.max(c.at) FROM tierlimit.request_log c" \
	"  WHERE " WITHIN_DAYS \
	"    AND " same_caller \
	"    AND c.request_id COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) r.request_id" \
	"    AND c.at OPERATOR(pg_catalog.>) $2 AND c.at OPERATOR(pg_catalog.<=) r.at" \
	"    AND c.error_code OPERATOR(pg_catalog.=) 0 AND c.requests OPERATOR(pg_catalog.>) 0), '-infinity') END"

/*
 * edge: from where on rows are read one by one.
 * dense: the minutes before that have a sum of their own.
 * gap: the time between those, the last one from the edge on.  (OFFSET 0 has
 * each of them looked up by the index.)
 */
#define SUMS(subject, is_account, same_caller) { \
	"WITH edge AS MATERIALIZED (" \
	"  SELECT LEAST(pg_catalog.min(at), $3," \
	"    (SELECT summed_until FROM tierlimit.log_state)) AS at" \
	"  FROM (SELECT at FROM tierlimit.request_log WHERE " subject \
	"    AND at OPERATOR(pg_catalog.>) $2 AND " WITHIN_DAYS \
	"    ORDER BY at DESC LIMIT $4) newest)," \
	" dense AS MATERIALIZED (" \
	"  SELECT m.minute, m.last_at, m.requests, m.credits" \
	"  FROM (SELECT * FROM (SELECT *, minute AS at FROM tierlimit.usage_minute) u" \
	"    WHERE " WITHIN_DAYS ") m, edge" \
	"  WHERE m.subject OPERATOR(pg_catalog.=) $1 AND " is_account " m.is_account" \
	"    AND m.minute OPERATOR(pg_catalog.>=) $2" \
	"    AND m.minute OPERATOR(pg_catalog.+) '1 minute'::interval OPERATOR(pg_catalog.<=) edge.at" \
	"    AND m.minute OPERATOR(pg_catalog.<>) ALL ($5))," \
	" gap AS (" \
	"  SELECT since, pg_catalog.lead(minute, 1, 'infinity') OVER (ORDER BY minute) AS until" \
	"  FROM (SELECT minute, minute OPERATOR(pg_catalog.+) '1 minute'::interval AS since FROM dense" \
	"    UNION ALL SELECT '-infinity', $2) x)" \
	" SELECT last_at, requests, credits, NULL::pg_catalog.text, NULL::pg_catalog.timestamptz, NULL::pg_catalog.text FROM dense" \
	" UNION ALL" \
	" SELECT r.at, r.requests, r.credits, COALESCE(r.key, ''), " CALL_AT(same_caller) ", r.request_id FROM gap, LATERAL (" \
	"  SELECT at, requests::bigint, credits, key, request_id, shadow_code FROM tierlimit.request_log WHERE " subject \
	"    AND at OPERATOR(pg_catalog.>=) gap.since AND at OPERATOR(pg_catalog.<) gap.until" \
	"    AND " WITHIN_DAYS " OFFSET 0) r" \
	" WHERE gap.since OPERATOR(pg_catalog.<) gap.until" \
	" ORDER BY 1, 2 DESC", \
	5, {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, TIMESTAMPTZARRAYOID}, \
	NULL \
}

#define NEWEST_TIER(subject) { \
	"SELECT tier FROM tierlimit.request_log WHERE " subject \
	" AND requests OPERATOR(pg_catalog.>) 0 AND " WITHIN_DAYS " ORDER BY at DESC LIMIT 1", \
	1, {TEXTOID}, NULL \
}

/* The hour in which a key was last called, of the hours that are summed up. */
static SpiStatement last_hour = {
	"SELECT hour FROM tierlimit.usage_hourly"
	" WHERE key OPERATOR(pg_catalog.=) $1 ORDER BY hour DESC LIMIT 1",
	1, {TEXTOID}, NULL
};

static SpiStatement read_state = {
	"SELECT summed_until FROM tierlimit.log_state", 0, {0}, NULL
};

/* The time at which a call that is given back was admitted. */
static SpiStatement call_time = {
	"SELECT pg_catalog.max(at) FROM tierlimit.request_log"
	" WHERE key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1"
	" AND request_id COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $2"
	" AND at OPERATOR(pg_catalog.<=) $3 AND " WITHIN_DAYS
	" AND error_code OPERATOR(pg_catalog.=) 0 AND requests OPERATOR(pg_catalog.>) 0",
	3, {TEXTOID, TEXTOID, TIMESTAMPTZOID}, NULL
};

/* No limit counts what happened more than so many days ago. */
#define LONGEST_PAST 400

/*
 * A long span is read by pieces of so many days, since many sessions at a time
 * can't have as many locks as a year's partitions and their indexes need.
 */
#define DAYS_AT_ONCE 16

/*
 * The statements by SubjectKind.  (There are sums of minutes of keys and
 * accounts only.)
 */
static SpiStatement any_row[] = {
	ANY_ROW(OF_KEY), ANY_ROW(OF_ACCOUNT), ANY_ROW(OF_ADDRESS),
	ANY_ROW(OF_ANONYMOUS), ANY_ROW(OF_NOBODY)
};
static SpiStatement sums[] = {
	SUMS(OF_KEY, "NOT", SAME_KEY), SUMS(OF_ACCOUNT, "", SAME_KEY),
	SUMS(OF_ADDRESS, "false AND", SAME_CALLER),
	SUMS(OF_ANONYMOUS, "false AND", SAME_ANONYMOUS),
	SUMS(OF_NOBODY, "false AND", SAME_NOBODY)
};
static SpiStatement newest_tier[] = {
	NEWEST_TIER(OF_KEY), NEWEST_TIER(OF_ACCOUNT), NEWEST_TIER(OF_ADDRESS),
	NEWEST_TIER(OF_ANONYMOUS), NEWEST_TIER(OF_NOBODY)
};

/* Return the subject's name as text, in the current memory context. */
static Datum
name_of(const SubjectName *subject)
{
	return PointerGetDatum(cstring_to_text_with_len(subject->name,
													subject->length));
}

/* Return the hash that stands for a key or request_id in LogSum. */
uint64
logread_hash(const char *bytes, int length)
{
	return hash_bytes_extended((const unsigned char *) bytes, length, 0);
}

#define NO_KEY logread_hash("", 0)

/* Return the hash of a text column of a row; 0 for NULL. */
static uint64
column_hash(int row, int column)
{
	char	   *value = spi_string(row, column);

	return value == NULL ? 0 : logread_hash(value, strlen(value));
}

/* Read a row of the query's result into a sum. */
static void
read_sum(LogSum *sum, int row)
{
	sum->at = DatumGetTimestampTz(spi_value(row, 1, (Datum) 0));
	sum->requests = DatumGetInt64(spi_value(row, 2, (Datum) 0));
	sum->credits = DatumGetInt64(spi_value(row, 3, (Datum) 0));
	sum->key = column_hash(row, 4);
	sum->call_at = DatumGetTimestampTz(spi_value(row, 5, TimestampTzGetDatum(0)));
	sum->request_id = column_hash(row, 6);
	sum->gave_back = sum->requests < 0 || sum->credits < 0 ||
		sum->call_at != 0;
	sum->names = NULL;
	if (sum->call_at == DT_NOBEGIN)
	{
		sum->names = SPI_palloc(2 * sizeof(text *));
		sum->names[0] = spi_text(row, 4);
		sum->names[1] = spi_text(row, 6);
	}
}

/* Put the rows of the query's result in front of the later ones. */
static void
prepend_sums(LogSums *log)
{
	int			rows = (int) SPI_processed;
	LogSum	   *sums = SPI_palloc((rows + log->count) * sizeof(LogSum));

	for (int i = 0; i < rows; i++)
		read_sum(&sums[i], i);
	if (log->count > 0)
	{
		memcpy(sums + rows, log->sums, log->count * sizeof(LogSum));
		pfree(log->sums);
	}
	log->sums = sums;
	log->count += rows;
}

/*
 * Read some days of the log, of which all later days have been read.  Where
 * those had sums that stand for several rows, they had all the single rows
 * that were asked for.
 */
static void
read_days(SpiReading *reading, const SubjectName *subject, const LogSpan *span,
		  LogDays days, Datum *args, LogSums *log)
{
	spi_run_log(reading, &any_row[subject->kind], days, args);
	if (SPI_processed == 0)
		return;
	args[3] = Int32GetDatum(Max(span->single - log->count, 0));
	spi_run_log(reading, &sums[subject->kind], days, args);
	prepend_sums(log);
}

/*
 * Return the first of the newest days that are read at once: either all days,
 * or those from a multiple of DAYS_AT_ONCE on, so that other subjects ask for
 * the same.
 */
static int32
newest_days(int32 first)
{
	int32		today = spi_day(GetCurrentTimestamp());

	return today - first <= DAYS_AT_ONCE ? first : today - today % DAYS_AT_ONCE;
}

/* Take what is to be given back from a sum, as far as it goes. */
static void
take_from(LogSum *sum, int64 *requests, int64 *credits)
{
	int64		taken = Min(sum->requests, *requests);

	if (taken > 0)
	{
		sum->requests -= taken;
		*requests -= taken;
	}
	taken = Min(sum->credits, *credits);
	if (taken > 0)
	{
		sum->credits -= taken;
		*credits -= taken;
	}
}

/*
 * Have a row, which is sum number i, give back the call that it names: whole,
 * however much of it the subject was given back before.  That differs between
 * those that the call was charged to; the row has the caller's numbers.  Only
 * they have sums of minutes, from which the numbers are taken.
 */
static void
give_back_call(LogSums *log, int i, int64 requests, int64 credits)
{
	const LogSum *row = &log->sums[i];

	for (int j = i - 1; j >= 0 && log->sums[j].at >= row->call_at; j--)
	{
		LogSum	   *sum = &log->sums[j];

		if (sum->at == row->call_at && sum->key == row->key &&
			sum->request_id == row->request_id)
			sum->requests = sum->credits = 0;
		else if (sum->key == 0 &&
				 (j == 0 || log->sums[j - 1].at < row->call_at))
			take_from(sum, &requests, &credits);
	}
}

/*
 * Have a row, which is sum number i, give back the newest units of its key.  A
 * sum of a minute has calls of several keys if it is an account's: it serves
 * for any of them.  A row of an address that names no key gives back to any
 * caller from there.
 */
static void
give_back_newest(LogSums *log, int i, int64 requests, int64 credits)
{
	const LogSum *row = &log->sums[i];

	for (int j = i - 1; j >= 0 && (requests > 0 || credits > 0); j--)
	{
		LogSum	   *sum = &log->sums[j];

		if (sum->key == row->key || sum->key == 0 || row->key == NO_KEY)
			take_from(sum, &requests, &credits);
	}
}

/* Have sum number i give back what it says, of the older sums. */
static void
give_back(LogSums *log, int i)
{
	LogSum	   *row = &log->sums[i];
	int64		requests = -Max(row->requests, -PG_INT64_MAX);
	int64		credits = -Max(row->credits, -PG_INT64_MAX);

	row->requests = row->credits = 0;
	if (row->call_at == DT_NOBEGIN)
		return;					/* the call was before the span */
	if (row->call_at == DT_NOEND)
		for (int j = 0; j < i; j++)
			log->sums[j].requests = log->sums[j].credits = 0;
	else if (row->call_at != 0)
		give_back_call(log, i, requests, credits);
	else
		give_back_newest(log, i, requests, credits);
}

/*
 * Find the time of the call that sum number i gives back, which was read in
 * another piece.  It is looked for among the sums that were read, or else, if
 * it is in the sum of a minute, in the log.  It stays unknown if it was before
 * the span.
 */
static void
find_call(SpiReading *reading, LogSums *log, int i, TimestampTz since)
{
	LogSum	   *row = &log->sums[i];
	LogDays		days = {spi_day(since), spi_day(row->at) + 1};
	Datum		args[] = {
		PointerGetDatum(row->names[0]), PointerGetDatum(row->names[1]),
		TimestampTzGetDatum(row->at)
	};

	for (int j = i - 1; j >= 0; j--)
		if (log->sums[j].request_id == row->request_id &&
			log->sums[j].key == row->key && !log->sums[j].gave_back)
		{
			row->call_at = log->sums[j].at;
			return;
		}
	spi_run_log(reading, &call_time, days, args);
	row->call_at = DatumGetTimestampTz(spi_value(0, 1, TimestampTzGetDatum(DT_NOBEGIN)));
	if (row->call_at <= since)
		row->call_at = DT_NOBEGIN;
}

/*
 * Return whether the row is a deletion of the key that is later than those
 * that count.
 */
static bool
is_unknown_deletion(const LogSum *row, const LogSpan *span)
{
	return row->call_at == DT_NOEND && row->requests == 0 && row->credits == 0 &&
		span->no_deletion_after != 0 && row->at > span->no_deletion_after;
}

/*
 * Read what is written of a subject in this span.  Returns the sums in the
 * order of their times, allocated in the caller's memory context, with all
 * refunds done.  Raises an ERROR if the log can't be read; no lock may be
 * held.
 */
LogSums
logread_sums(const SubjectName *subject, const LogSpan *span)
{
	LogSums		log = {0};
	SpiReading	reading;
	Datum		args[5];
	int32		first = spi_day(span->since);
	LogDays		days = {newest_days(first), ALL_DAYS_AFTER};

	spi_begin(&reading);
	args[0] = name_of(subject);
	args[1] = TimestampTzGetDatum(span->since);
	args[2] = TimestampTzGetDatum(span->single_since);
	args[4] = PointerGetDatum(construct_array(unconstify(LogSpan *, span)->borders,
											  span->nborders, TIMESTAMPTZOID,
											  sizeof(TimestampTz),
											  FLOAT8PASSBYVAL,
											  TYPALIGN_DOUBLE));

	/*
	 * Read the newest days first, and then piece by piece what is before
	 * them.
	 */
	for (int i = 1;; i++)
	{
		read_days(&reading, subject, span, days, args, &log);
		if (days.first == first)
			break;
		days.end = days.first;
		days.first = i < LONGEST_PAST / DAYS_AT_ONCE
			? Max(days.first - DAYS_AT_ONCE, first) : first;
	}

	/* Do the refunds, the oldest first. */
	for (int i = 0; i < log.count; i++)
	{
		if (log.sums[i].call_at == DT_NOBEGIN)
			find_call(&reading, &log, i, span->since);
		if (log.sums[i].gave_back && !is_unknown_deletion(&log.sums[i], span))
			give_back(&log, i);
	}
	spi_end(&reading);
	return log;
}

/*
 * Replace a caller, who is a key or has none, by the subject that counts a
 * call of theirs whose row has this account.  Returns false if there is no
 * such subject, as the row was written by hand.
 */
bool
logread_find_subject(SubjectName *caller, LogText account)
{
	if (caller->kind != SUBJECT_KEY || account.bytes == NULL)
		return true;
	if (account.length < 1 || account.length > MAX_NAME_LENGTH)
		return false;
	*caller = subject_name(caller->installation, SUBJECT_ACCOUNT,
						   account.bytes, account.length);
	return true;
}

/*
 * Set *sum to what is counted still of a subject's call at this time with this
 * request_id, and *newest to the time to which the subject's newest row takes
 * its clock.  Returns false if there is no such call: then it was brought to
 * another time since it was found, as the clock had been wrong.  Raises an ERROR
 * if the log can't be read; no lock may be held.
 */
bool
logread_call(const SubjectName *subject, TimestampTz at, LogText request_id,
			 LogSum *sum, TimestampTz *newest)
{
	LogSpan		span = {.since = at - 1, .single_since = at - 1};
	LogSums		log = logread_sums(subject, &span);
	uint64		hash = logread_hash(request_id.bytes, request_id.length);
	bool		found = false;

	*newest = log.count > 0 ? log.sums[log.count - 1].at + 1 : at;
	for (int i = 0; i < log.count; i++)
		if (log.sums[i].at == at && log.sums[i].request_id == hash &&
			!log.sums[i].gave_back)
		{
			*sum = log.sums[i];
			found = true;
		}
	if (log.sums != NULL)
		pfree(log.sums);
	return found;
}

/* Return the day from which on a key's newest row may be in the log only. */
static int32
first_day_unsummed(SpiReading *reading)
{
	spi_run(reading, &read_state, NULL);
	return SPI_processed == 0 ? ALL_DAYS_BEFORE
		: spi_day(DatumGetTimestampTz(spi_value(0, 1, (Datum) 0)));
}

/*
 * Look for the newest row of a subject that has no sums, in a few days first
 * and then in twice as many before these.  Returns false if there is none that
 * may count.
 */
static bool
find_newest(SpiReading *reading, const SubjectName *subject, Datum *name)
{
	int32		today = spi_day(clock_read().now);
	LogDays		days = {.end = ALL_DAYS_AFTER};

	for (int back = 1; back < 2 * LONGEST_PAST; back *= 2)
	{
		days.first = today - back;
		spi_run_log(reading, &newest_tier[subject->kind], days, name);
		if (SPI_processed > 0)
			return true;
		days.end = days.first;
	}
	return false;
}

/*
 * Look for the newest row of a key: in the days that may not be summed up yet,
 * and then on the last day that sums know of.  If the key had only denials
 * then, its newest row has to be looked for as that of a subject without sums.
 */
static bool
find_newest_of_key(SpiReading *reading, const SubjectName *subject, Datum *name)
{
	LogDays		days = {first_day_unsummed(reading), ALL_DAYS_AFTER};

	spi_run_log(reading, &newest_tier[subject->kind], days, name);
	if (SPI_processed > 0)
		return true;
	spi_run(reading, &last_hour, name);
	if (SPI_processed == 0)
		return false;
	days.first = spi_day(DatumGetTimestampTz(spi_value(0, 1, (Datum) 0)));
	days.end = days.first + 1;
	spi_run_log(reading, &newest_tier[subject->kind], days, name);
	return SPI_processed > 0 || find_newest(reading, subject, name);
}

/*
 * Return the tier of a subject's newest row that was charged, as text in the
 * caller's memory context; NULL if there is none.  Raises an ERROR if the log
 * can't be read; no lock may be held.
 */
text *
logread_tier(const SubjectName *subject)
{
	text	   *tier = NULL;
	SpiReading	reading;
	Datum		name;
	bool		found;

	spi_begin(&reading);
	name = name_of(subject);
	found = subject->kind == SUBJECT_KEY
		? find_newest_of_key(&reading, subject, &name)
		: find_newest(&reading, subject, &name);
	if (found)
		tier = spi_text(0, 1);
	spi_end(&reading);
	return tier;
}
