/*-------------------------------------------------------------------------
 *
 * decision.h
 *		The row that every check returns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_DECISION_H
#define TIERLIMIT_DECISION_H

#include "funcapi.h"
#include "limit/charge.h"
#include "log/logrow.h"

/*
 * A decision, as the columns of tierlimit.decision say it.  Texts that are
 * (Datum) 0 are NULL.
 */
typedef struct Decision
{
	bool		allowed;
	int32		error_code;		/* 0 if allowed */
	Datum		key;			/* text: who was asked for */
	Datum		tier;			/* text */
	const TierLimit *limit;		/* the governing one, or NULL */
	int64		remaining;		/* these three are valid with a limit only */
	int32		retry_after;	/* seconds; 0: NULL */
	TimestampTz resets_at;		/* DT_NOEND, or what no timestamp can be: NULL */
	int64		cost;
	TimestampTz decided_at;
	bool		repeated;		/* the first answer to a retry, again */
} Decision;

/* The columns of tierlimit.decision, in their order. */
typedef enum DecisionColumn
{
	DECISION_ALLOWED,
	DECISION_LIMIT,
	DECISION_REMAINING,
	DECISION_RETRY_AFTER,
	DECISION_ERROR_CODE,
	DECISION_ERROR,
	DECISION_HTTP_STATUS,
	DECISION_KEY,
	DECISION_TIER,
	DECISION_LIMIT_NAME,
	DECISION_COST,
	DECISION_DECIDED_AT,
	DECISION_RESET_AT,
	DECISION_REPEATED,
	DECISION_COLUMNS
} DecisionColumn;

extern Decision decision_without_limit(int32 error_code, Datum key, Datum tier,
									   int64 cost, TimestampTz now);
extern Decision decision_by_limits(const Verdict *verdict, Datum key,
								   Datum tier, int64 cost,
								   TimestampTz expires_at);
extern void decision_columns(const Decision *decision, Datum *values,
							 bool *nulls);
extern Datum decision_row(const Decision *decision);
extern void decision_deform(HeapTupleHeader row, Datum *values, bool *nulls);

#endif							/* TIERLIMIT_DECISION_H */
