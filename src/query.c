/*-------------------------------------------------------------------------
 *
 * query.c
 *		Reading the configuration tables.
 *
 * They are read by SQL, in the way that a foreign key reads the table it
 * refers to: as their owner, so that callers need no right on them, and in the
 * latest snapshot, since a change binds from its commit on also those whose
 * transaction has an older one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "query.h"
#include "scope.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

void
query_begin(Reading *reading)
{
	Oid			owner = installation()->owner;

	SPI_connect();
	GetUserIdAndSecContext(&reading->caller, &reading->caller_security);
	SetUserIdAndSecContext(owner, reading->caller_security |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	PushActiveSnapshot(GetLatestSnapshot());
	reading->snapshot = GetActiveSnapshot();
}

void
query_run(Reading *reading, ConfigQuery *query, Datum arg)
{
	if (query->plan == NULL)
	{
		Oid			type = TEXTOID;
		SPIPlanPtr	plan = SPI_prepare(query->text, query->nargs, &type);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare query: %s", query->text);
		query->plan = plan;
	}

	if (SPI_execute_snapshot(query->plan, &arg, NULL, reading->snapshot,
							 InvalidSnapshot, false, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run query: %s", query->text);
}

void
query_end(Reading *reading)
{
	PopActiveSnapshot();
	SetUserIdAndSecContext(reading->caller, reading->caller_security);
	SPI_finish();
}

Datum
query_value(int row, int column, Datum fallback)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? fallback : value;
}

char *
query_string(int row, int column)
{
	Datum		value = query_value(row, column, (Datum) 0);

	return value == (Datum) 0 ? NULL : TextDatumGetCString(value);
}
