/*-------------------------------------------------------------------------
 *
 * decide.h
 *		From a question to a decision.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_DECIDE_H
#define TIERLIMIT_DECIDE_H

#include "limit/decision.h"
#include "limit/policy.h"
#include "utils/inet.h"

/* What is asked, and by whom.  What is NULL was not said. */
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

/* Whether there is no key. */
extern bool decide_is_missing(const text *key);

/*
 * Decide a call, count and log it.  May read tables, wait for the log and
 * raise an ERROR, with nothing counted; no lock may be held.
 */
extern Decision decide(const Question *question);

/* The same decision, but nothing is counted or logged. */
extern Decision decide_beforehand(const Question *question);

/*
 * Likewise for a call at the gate, with a secret, or without (NULL or empty); the
 * question's key is filled in.
 */
extern Decision decide_at_gate(const text *secret, Question *question);

/* What the log says of who asks. */
extern LogRow decide_log_row(const Question *question, const Policy *policy);

#endif							/* TIERLIMIT_DECIDE_H */
