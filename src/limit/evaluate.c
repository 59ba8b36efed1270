/*-------------------------------------------------------------------------
 *
 * evaluate.c
 *		What limits say of a call.
 *
 * Nothing is changed here.  Each limit is asked on its own; then one of them
 * governs the answer.  Where several subjects deny, a limit of the first of
 * them governs; but the time at which the call will be admitted depends on
 * all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "limit/evaluate.h"
#include "utils/timestamp.h"

/*
 * Return how much is counted in the window of the tier's limit i at this time,
 * in the limit's unit.
 */
int64
evaluate_used(const CallSubject *part, int i, TimestampTz now)
{
	return window_used(&part->windows[i]->window, part->base,
					   moment_of(part, i, now));
}

/*
 * Return when a window that counts this much resets.  A sliding one does when
 * its oldest call leaves it, and never (DT_NOEND) if it counts nothing; a
 * calendar one does when its period ends.
 */
TimestampTz
evaluate_resets_at(const CallSubject *part, int i, TimestampTz now, int64 used)
{
	if (part->ids[i].kind == WINDOW_CALENDAR)
		return part->current[i].end;
	if (used == 0)
		return DT_NOEND;
	return window_resets_at(&part->windows[i]->window, part->base,
							moment_of(part, i, now));
}

/*
 * Return whether the limit promises to deny only calls that really exceed it.
 * Enforced limits up to tierlimit.window_slots do.
 */
bool
evaluate_is_exact(const TierLimit *limit)
{
	return limit->enforce && limit->max <= tierlimit_window_slots;
}

/*
 * Return whether the window of the tier's limit i is too rough for a limit
 * that has to be exact, so that it is to be filled from the log again.
 */
bool
evaluate_is_blurred(const CallSubject *part, int i)
{
	const TierLimit *limit = &part->charge->tier->limits[i];

	return evaluate_is_exact(limit) &&
		window_is_blurred(&part->windows[i]->window, limit->max);
}

/*
 * Return when one of the windows will have room for the amount, which fits its
 * max.
 */
static TimestampTz
free_at(const CallSubject *part, int i, TimestampTz now, int64 amount)
{
	int64		room = part->charge->tier->limits[i].max - amount;

	return window_free_at(&part->windows[i]->window, part->base,
						  moment_of(part, i, now), room);
}

/* Return what a limit says of a call, as a verdict of this limit alone. */
static Verdict
evaluate_limit(const CallSubject *part, int i, TimestampTz now, int64 cost)
{
	const TierLimit *limit = &part->charge->tier->limits[i];
	int64		amount = amount_of(limit->unit, cost);
	int64		left = limit->max - evaluate_used(part, i, now);
	Verdict		verdict = {.decided_at = now, .limit = limit};

	verdict.allowed = limit->max > 0 && (amount == 0 || amount <= left);
	verdict.remaining = Max(left, 0);
	verdict.free_at = now;
	if (verdict.allowed || !limit->enforce)
	{
		verdict.shadow_code = verdict.allowed ? 0 : limit->error_code;
		verdict.allowed = true;
		verdict.remaining = amount <= left ? left - amount : 0;
	}
	else if (limit->max == 0 || amount > limit->max)
		verdict.free_at = WINDOW_NEVER;
	else
		verdict.free_at = free_at(part, i, now, amount);
	return verdict;
}

/* Return how many more calls like this one the limit would admit. */
static int64
further_calls(const Verdict *verdict, int64 cost)
{
	int64		amount = amount_of(verdict->limit->unit, cost);

	return amount == 0 ? PG_INT64_MAX : verdict->remaining / amount;
}

/*
 * Return whether verdict a governs the answer rather than b.  A denial does
 * rather than an admission.  Of two denials the one does that frees later, or
 * else has the longer period; of two admissions the one with fewer further
 * calls, or else with the shorter period.  A limit that is not enforced leaves
 * room for any number of calls, so it governs only where there is no other.
 */
static bool
governs(const Verdict *a, const Verdict *b, int64 cost)
{
	int64		more_a;
	int64		more_b;

	if (a->allowed != b->allowed)
		return !a->allowed;
	if (!a->allowed)
		return a->free_at != b->free_at ? a->free_at > b->free_at
			: a->limit->period_us > b->limit->period_us;

	if (a->limit->enforce != b->limit->enforce)
		return a->limit->enforce;
	more_a = further_calls(a, cost);
	more_b = further_calls(b, cost);
	return more_a != more_b ? more_a < more_b
		: a->limit->period_us < b->limit->period_us;
}

/*
 * Return when the governing limit resets, with the call counted if it is
 * allowed.
 */
static TimestampTz
governing_resets_at(const CallSubject *part, int i, const Verdict *verdict,
					int64 cost)
{
	TimestampTz now = verdict->decided_at;
	TimestampTz at = evaluate_resets_at(part, i, now, evaluate_used(part, i, now));

	if (at == DT_NOEND && verdict->allowed &&
		amount_of(verdict->limit->unit, cost) > 0)
		at = now + verdict->limit->period_us;
	return at;
}

/* Return the verdict of all limits together, at the call's time. */
Verdict
evaluate(const Call *call)
{
	Verdict		verdict = {.allowed = true, .resets_at = DT_NOEND};
	const CallSubject *governing = NULL;
	int			which = 0;
	int32		shadow_code = 0;
	TimestampTz all_free_at = DT_NOBEGIN;

	/* Ask all limits, and find the one that governs. */
	for (int i = 0; i < call->count; i++)
	{
		const CallSubject *part = &call->parts[i];
		bool		decided = !verdict.allowed;

		for (int j = 0; j < part->charge->tier->nlimits; j++)
		{
			Verdict		one = evaluate_limit(part, j, call->clock.now,
											 call->cost);

			/*
			 * Limits come shortest first, so the longest one's code is kept.
			 */
			if (one.shadow_code != 0)
				shadow_code = one.shadow_code;
			if (!one.allowed)
				all_free_at = Max(all_free_at, one.free_at);
			if (!decided && (governing == NULL ||
							 governs(&one, &verdict, call->cost)))
			{
				verdict = one;
				governing = part;
				which = j;
			}
		}
	}

	/* Complete the verdict by what depends on all limits. */
	verdict.asked_at = call->asked_at;
	verdict.decided_at = call->clock.now;
	if (governing != NULL)
		verdict.resets_at = governing_resets_at(governing, which, &verdict,
												call->cost);
	if (!verdict.allowed)
		verdict.free_at = all_free_at;
	verdict.shadow_code = verdict.allowed ? shadow_code : 0;
	return verdict;
}
