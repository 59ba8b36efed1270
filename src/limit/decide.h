/*-------------------------------------------------------------------------
 *
 * decide.h
 *		The way from a question to a decision.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_DECIDE_H
#define TIERLIMIT_DECIDE_H

#include "limit/decision.h"
#include "limit/policy.h"
#include "utils/inet.h"

/* A call that is to be decided.  What the caller did not say is NULL. */
typedef struct Question
{
	const text *key;			/* at most MAX_NAME_LENGTH bytes */
	const text *tier;			/* NULL: the key's own */
	bool		has_cost;
	int64		cost;			/* if not has_cost: the endpoint's price */
	const text *endpoint;
	const inet *address;
	const text *request_id;		/* at most MAX_NAME_LENGTH bytes */
} Question;

extern bool decide_is_missing(const text *key);
extern Decision decide(const Question *question);
extern Decision decide_beforehand(const Question *question);
extern Decision decide_at_gate(const text *secret, Question *question);
extern LogRow decide_log_row(const Question *question, const Policy *policy);

#endif							/* TIERLIMIT_DECIDE_H */
