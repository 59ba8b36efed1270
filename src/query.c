/*-------------------------------------------------------------------------
 *
 * query.c
 *		Reading tables, and writing the log's.
 *
 * The configuration and the log are read by SQL, in the way that a foreign key
 * reads the table it refers to: as their owner, so that callers need no right
 * on them, and in the latest snapshot, since a change binds from its commit on
 * also those whose transaction has an older one.
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

/*
 * Run as the owner, and so that nothing that somebody made run with it can
 * leave anything behind, such as a trigger for the end of the transaction.
 */
static void
become_owner(Oid *role, int *security)
{
	GetUserIdAndSecContext(role, security);
	SetUserIdAndSecContext(installation()->owner,
						   *security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION |
						   SECURITY_NOFORCE_RLS);
}

static SPIPlanPtr
plan_of(Statement *statement)
{
	if (statement->plan == NULL)
	{
		/* The same plan will do, and the log has many partitions to plan for. */
		SPIPlanPtr	plan = SPI_prepare_cursor(statement->text,
											  statement->nargs,
											  statement->types,
											  CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare statement: %s", statement->text);
		statement->plan = plan;
	}
	return statement->plan;
}

void
query_begin(Reading *reading)
{
	SPI_connect();
	become_owner(&reading->caller, &reading->caller_security);
	PushActiveSnapshot(GetLatestSnapshot());
	reading->snapshot = GetActiveSnapshot();
}

void
query_run(Reading *reading, Statement *query, Datum *args)
{
	if (SPI_execute_snapshot(plan_of(query), args, NULL, reading->snapshot,
							 InvalidSnapshot, false, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run query: %s", query->text);
}

uint64
query_write(Statement *statement, Datum *args, const char *nulls)
{
	Oid			caller;
	int			caller_security;
	uint64		rows;

	SPI_connect();
	become_owner(&caller, &caller_security);
	if (SPI_execute_plan(plan_of(statement), args, nulls, false, 0) < 0)
		elog(ERROR, "could not run statement: %s", statement->text);
	rows = SPI_processed;
	SetUserIdAndSecContext(caller, caller_security);
	SPI_finish();
	return rows;
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

text *
query_text(int row, int column)
{
	char	   *value = query_string(row, column);
	text	   *copy;
	int			length;

	if (value == NULL)
		return NULL;
	length = strlen(value);
	copy = SPI_palloc(length + VARHDRSZ);
	SET_VARSIZE(copy, length + VARHDRSZ);
	memcpy(VARDATA(copy), value, length);
	return copy;
}
