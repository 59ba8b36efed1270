/*-------------------------------------------------------------------------
 *
 * evaluate.c
 *		What limits say of a call.
 *
 * Nothing is changed here.  Each limit is asked on its own; then one of them
 * governs the answer.  Where several subjects deny, it is one of the first of
 * them; but when the call will be admitted depends on all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "limit/evaluate.h"
#include "utils/timestamp.h"

int64
evaluate_used(const CallSubject *part, int i, TimestampTz now)
{
	return window_used(&part->windows[i]->window, part->base,
					   moment_of(part, i, now));
}

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

bool
evaluate_is_exact(const TierLimit *limit)
{
	return limit->enforce && limit->max <= tierlimit_window_slots;
}

bool
evaluate_is_blurred(const CallSubject *part, int i)
{
	const TierLimit *limit = &part->charge->tier->limits[i];

	return evaluate_is_exact(limit) &&
		window_is_blurred(&part->windows[i]->window, limit->max);
}

/* When one of the windows will have room for amount, if that fits its max. */
static TimestampTz
free_at(const CallSubject *part, int i, TimestampTz now, int64 amount)
{
	int64		room = part->charge->tier->limits[i].max - amount;

	return window_free_at(&part->windows[i]->window, part->base,
						  moment_of(part, i, now), room);
}

/* What a limit says of a call: a verdict on its own. */
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

/* How many more calls like this one the limit would admit. */
static int64
further_calls(const Verdict *verdict, int64 cost)
{
	int64		amount = amount_of(verdict->limit->unit, cost);

	return amount == 0 ? PG_INT64_MAX : verdict->remaining / amount;
}

/*
 * Whether a verdict governs rather than another: a denial rather than an
 * admission; of denials the one that frees last, or is longest; of admissions
 * the one with fewest further calls, or the shortest.  A limit that is not
 * enforced leaves room for any number of calls, so it governs only where
 * there is no other.
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

/* When the governing limit resets, with the call counted if it is allowed. */
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

Verdict
evaluate(const Call *call)
{
	Verdict		verdict = {.allowed = true, .resets_at = DT_NOEND};
	const CallSubject *governing = NULL;
	int			which = 0;
	int32		shadow_code = 0;
	TimestampTz all_free_at = DT_NOBEGIN;

	for (int i = 0; i < call->count; i++)
	{
		const CallSubject *part = &call->parts[i];
		bool		decided = !verdict.allowed;

		for (int j = 0; j < part->charge->tier->nlimits; j++)
		{
			Verdict		one = evaluate_limit(part, j, call->clock.now,
											 call->cost);

			/* They come shortest first: the longest one's code is kept. */
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
