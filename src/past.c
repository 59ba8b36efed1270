/*-------------------------------------------------------------------------
 *
 * past.c
 *		What the request log knows of a subject.
 *
 * Its newest rows are read one by one, by an index of each partition.  Further
 * back, where windows keep calls together anyway, the sums of minutes that had
 * many rows are read instead (see tierlimit.sum_log() in the install script),
 * and the rows of the gaps between these.  So the cost is bounded by minutes
 * rather than by calls, whatever the size of the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "past.h"
#include "query.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* The rows that are counted for a key, or for an account, named $1. */
#define OF_KEY \
	"key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1 AND account IS NULL AND error_code OPERATOR(pg_catalog.=) 0"
#define OF_ACCOUNT \
	"account COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1 AND error_code OPERATOR(pg_catalog.=) 0"

/* The rows of an address, or of a network. */
#define OF_ADDRESS \
	"ip OPERATOR(pg_catalog.>=) pg_catalog.host(pg_catalog.network($1::pg_catalog.inet))::pg_catalog.inet" \
	" AND ip OPERATOR(pg_catalog.<=) pg_catalog.host(pg_catalog.broadcast($1::pg_catalog.inet))::pg_catalog.inet" \
	" AND error_code OPERATOR(pg_catalog.=) 0"

/* Is there anything?  Mostly there is not: the key is a new one. */
#define ANY_ROW(subject) { \
	"SELECT 1 FROM tierlimit.request_log WHERE " subject \
	" AND at OPERATOR(pg_catalog.>) $2 LIMIT 1", \
	2, {TEXTOID, TIMESTAMPTZOID}, NULL \
}

/*
 * edge: from where on rows are read one by one.
 * dense: the minutes before that have a sum of their own.
 * gap: the time between those, the last one from the edge on.  (OFFSET 0 has
 * each of them looked up by the index.)
 */
#define SUMS(subject, is_account) { \
	"WITH edge AS MATERIALIZED (" \
	"  SELECT LEAST(pg_catalog.min(at), $3," \
	"    (SELECT summed_until FROM tierlimit.log_state)) AS at" \
	"  FROM (SELECT at FROM tierlimit.request_log WHERE " subject \
	"    AND at OPERATOR(pg_catalog.>) $2 ORDER BY at DESC LIMIT $4) newest)," \
	" dense AS MATERIALIZED (" \
	"  SELECT m.minute, m.last_at, m.requests, m.credits" \
	"  FROM tierlimit.usage_minute m, edge" \
	"  WHERE m.subject OPERATOR(pg_catalog.=) $1 AND " is_account " m.is_account" \
	"    AND m.minute OPERATOR(pg_catalog.>=) $2" \
	"    AND m.minute OPERATOR(pg_catalog.+) '1 minute'::interval OPERATOR(pg_catalog.<=) edge.at" \
	"    AND m.minute OPERATOR(pg_catalog.<>) ALL ($5))," \
	" gap AS (" \
	"  SELECT since, pg_catalog.lead(minute, 1, 'infinity') OVER (ORDER BY minute) AS until" \
	"  FROM (SELECT minute, minute OPERATOR(pg_catalog.+) '1 minute'::interval AS since FROM dense" \
	"    UNION ALL SELECT '-infinity', $2) x)" \
	" SELECT last_at, requests, credits FROM dense" \
	" UNION ALL" \
	" SELECT r.at, r.requests, r.credits FROM gap, LATERAL (" \
	"  SELECT at, requests::bigint, credits FROM tierlimit.request_log WHERE " subject \
	"    AND at OPERATOR(pg_catalog.>=) gap.since AND at OPERATOR(pg_catalog.<) gap.until OFFSET 0) r" \
	" WHERE gap.since OPERATOR(pg_catalog.<) gap.until" \
	" ORDER BY 1, 2 DESC", \
	5, {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, TIMESTAMPTZARRAYOID}, \
	NULL \
}

#define NEWEST_TIER(subject) { \
	"SELECT tier FROM tierlimit.request_log WHERE " subject \
	" ORDER BY at DESC LIMIT 1", 1, {TEXTOID}, NULL \
}

/* By SubjectKind.  (Of addresses, there are no sums of minutes.) */
static Statement any_row[] = {
	ANY_ROW(OF_KEY), ANY_ROW(OF_ACCOUNT), ANY_ROW(OF_ADDRESS)
};
static Statement sums[] = {
	SUMS(OF_KEY, "NOT"), SUMS(OF_ACCOUNT, ""), SUMS(OF_ADDRESS, "false AND")
};
static Statement newest_tier[] = {
	NEWEST_TIER(OF_KEY), NEWEST_TIER(OF_ACCOUNT), NEWEST_TIER(OF_ADDRESS)
};

static Datum
name_of(const SubjectName *subject)
{
	return PointerGetDatum(cstring_to_text_with_len(subject->name,
													subject->length));
}

/* The rows that the query returned. */
static Past
copy_sums(void)
{
	Past		past = {.count = (int) SPI_processed};

	past.sums = SPI_palloc(past.count * sizeof(PastSum));
	for (int i = 0; i < past.count; i++)
	{
		past.sums[i].at = DatumGetTimestampTz(query_value(i, 1, (Datum) 0));
		past.sums[i].requests = DatumGetInt64(query_value(i, 2, (Datum) 0));
		past.sums[i].credits = DatumGetInt64(query_value(i, 3, (Datum) 0));
	}
	return past;
}

Past
past_read(const SubjectName *subject, const PastSpan *span)
{
	Past		past = {0};
	Reading		reading;
	Datum		args[5];

	query_begin(&reading);
	args[0] = name_of(subject);
	args[1] = TimestampTzGetDatum(span->since);
	query_run(&reading, &any_row[subject->kind], args);
	if (SPI_processed > 0)
	{
		args[2] = TimestampTzGetDatum(span->single_since);
		args[3] = Int32GetDatum(span->single);
		args[4] = PointerGetDatum(construct_array(unconstify(PastSpan *, span)->borders,
												  span->nborders, TIMESTAMPTZOID,
												  sizeof(TimestampTz),
												  FLOAT8PASSBYVAL,
												  TYPALIGN_DOUBLE));
		query_run(&reading, &sums[subject->kind], args);
		past = copy_sums();
	}
	query_end(&reading);
	return past;
}

text *
past_tier(const SubjectName *subject)
{
	text	   *tier = NULL;
	Reading		reading;
	Datum		name;

	query_begin(&reading);
	name = name_of(subject);
	query_run(&reading, &newest_tier[subject->kind], &name);
	if (SPI_processed > 0)
		tier = query_text(0, 1);
	query_end(&reading);
	return tier;
}
