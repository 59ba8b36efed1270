/*-------------------------------------------------------------------------
 *
 * verify.c
 *		What memory counts against what the request log says.
 *
 * A subject is claimed while it is compared, so that nothing is counted for it
 * between a look at its windows and one at its rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "claim.h"
#include "fmgr.h"
#include "funcapi.h"
#include "log.h"
#include "miscadmin.h"
#include "past.h"
#include "policy.h"
#include "rebuild.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(tierlimit_verify);

/* A subject's windows as limits of a tier, as if there were one that has just these. */
typedef struct Copy
{
	Tier		tier;
	TierLimit	limits[MAX_WINDOWS];
	Charge		charge;
	Work		work;
	TimestampTz now;
	int64		counted[MAX_WINDOWS];
} Copy;

/* The window as a limit. */
static TierLimit
limit_of(const SubjectWindow *window)
{
	WindowId	id = subject_window_id(window);
	TierLimit	limit = {
		.kind = window->window.kind,
		.unit = (Unit) id.unit,
		.period_us = id.period,
		.exact_slots = window->window.exact_slots
	};

	return limit;
}

/*
 * Claim a subject and note what its windows count; false if it is not in
 * memory, or claimed by another.  Windows that have no slots of their own
 * (tiers.c) have but a rough idea, and calendars that are over have none.
 */
static bool
claim_and_copy(Copy *copy, const SubjectName *name, TimestampTz now)
{
	Subject    *subject;
	SubjectWindow *window = NULL;
	bool		claimed;

	memset(copy, 0, sizeof(Copy));
	copy->charge.subject = *name;
	copy->charge.tier = &copy->tier;
	copy->work.charge = &copy->charge;
	store_lock(&name->hash, 1, LW_EXCLUSIVE);
	subject = subject_find(name);
	claimed = subject != NULL && !subject->filling;
	if (claimed)
	{
		subject->filling = true;
		copy->now = Max(now, subject->clock);
		window = subject_window_at(subject->windows);
	}
	for (; window != NULL && copy->work.nwindows < MAX_WINDOWS;
		 window = subject_window_at(window->next))
	{
		int			i = copy->work.nwindows;
		Moment		moment = {copy->now, {0, 0}};

		if (window->window.kind == WINDOW_CALENDAR)
		{
			moment.running = window->window.calendar.span;
			if (copy->now >= moment.running.end)
				continue;
		}
		else if (window->window.exact_slots == 0)
			continue;
		copy->limits[i] = limit_of(window);
		copy->work.ids[i] = subject_window_id(window);
		copy->work.running[i] = moment.running;
		copy->counted[i] = window_used(&window->window, store->blocks, moment);
		copy->work.nwindows++;
	}
	copy->tier.limits = copy->limits;
	store_unlock(&name->hash, 1);
	return claimed;
}

/* What a limit like this is called in a tier; otherwise, what it is. */
static Datum
limit_name(const TierLimit *like, const text *tier_name)
{
	const Tier *tier = tier_name == NULL ? NULL
		: tiers_find(VARDATA_ANY(tier_name), VARSIZE_ANY_EXHDR(tier_name));

	for (int i = 0; tier != NULL && i < tier->nlimits; i++)
		if (tier->limits[i].period_us == like->period_us &&
			tier->limits[i].kind == like->kind &&
			tier->limits[i].unit == like->unit)
			return tier->limits[i].name;
	return CStringGetTextDatum(psprintf("%lld s, %s",
										(long long) (like->period_us / USECS_PER_SEC),
										like->unit == UNIT_CREDITS ? "credits" : "requests"));
}

static void
put_difference(ReturnSetInfo *result, const Copy *copy, int i,
			   const text *tier, int64 logged)
{
	const SubjectName *name = &copy->charge.subject;
	Datum		values[] = {
		PointerGetDatum(cstring_to_text_with_len(name->name, name->length)),
		limit_name(&copy->limits[i], tier),
		Int64GetDatum(copy->counted[i]),
		Int64GetDatum(logged),
		Int64GetDatum(copy->counted[i] - logged)
	};
	bool		nulls[lengthof(values)] = {0};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
compare_claimed(ReturnSetInfo *result, Copy *copy)
{
	Building	building;
	text	   *tier;

	log_wait_written(claim_log_position(&copy->charge.subject));
	tier = past_tier(&copy->charge.subject);
	rebuild_windows(&building, &copy->work, copy->now, DT_NOEND);
	for (int i = 0; i < copy->work.nwindows; i++)
	{
		Moment		moment = {copy->now, copy->work.running[i]};

		put_difference(result, copy, i, tier,
					   window_used(&building.windows[i].window,
								   building.workshop.purse.base, moment));
	}
	rebuild_done(&building);
}

static void
compare(ReturnSetInfo *result, const SubjectName *name, TimestampTz now)
{
	Copy	   *copy = palloc(sizeof(Copy));

	claim_wait(name);
	if (claim_and_copy(copy, name, now))
	{
		PG_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(name));
		{
			compare_claimed(result, copy);
		}
		PG_END_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(name));
		claim_release(name);
	}
	pfree(copy);
}

/* Names of subjects, as they are found in memory. */
typedef struct Found
{
	SubjectKind kind;
	int			length;
	char		name[MAX_NAME_LENGTH];
} Found;

/* Copy the names of a partition's subjects, up to room of them; how many. */
static int
find_names(uint64 partition, Scope scope, Found *found, int room)
{
	int			count = 0;

	store_lock(&partition, 1, LW_SHARED);
	for (uint64 i = partition; i < store->nbuckets; i += NUM_PARTITIONS)
		for (BlockNo at = *store_bucket(i); at != NO_BLOCK && count < room;
			 at = subject_at(at)->next)
		{
			const Subject *subject = subject_at(at);

			if (subject->scope.database != scope.database ||
				subject->scope.catalog != scope.catalog ||
				subject->windows == NO_BLOCK)
				continue;
			found[count].kind = (SubjectKind) subject->kind;
			found[count].length = subject->name_length;
			subject_get_name(subject, found[count].name);
			count++;
		}
	store_unlock(&partition, 1);
	return count;
}

static int64
keys_in(uint64 partition)
{
	int64		keys;

	store_lock(&partition, 1, LW_SHARED);
	keys = store->partitions[partition].stats.keys;
	store_unlock(&partition, 1);
	return keys;
}

static void
compare_all(ReturnSetInfo *result, Scope scope)
{
	for (uint64 partition = 0; partition < NUM_PARTITIONS; partition++)
	{
		int			room = (int) keys_in(partition);
		Found	   *found = MemoryContextAllocHuge(CurrentMemoryContext,
												   (Size) Max(room, 1) * sizeof(Found));
		int			count = find_names(partition, scope, found, room);

		for (int i = 0; i < count; i++)
		{
			SubjectName name = subject_name(scope, found[i].kind,
											found[i].name, found[i].length);

			compare(result, &name, clock_read().now);
			CHECK_FOR_INTERRUPTS();
		}
		pfree(found);
	}
}

/* Whoever a key is counted as; and the account of that name, if there is one. */
static void
compare_key(ReturnSetInfo *result, const text *key)
{
	Policy		policy;
	SubjectName account;

	policy_for_key(key, NULL, &policy);
	compare(result, &policy.charge.subject, policy.clock.now);
	account = subject_name(policy.charge.subject.scope, SUBJECT_ACCOUNT,
						   VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	if (account.hash != policy.charge.subject.hash)
		compare(result, &account, policy.clock.now);
}

/* verify(key) */
Datum
tierlimit_verify(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *key = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	Scope		scope;

	store_require();
	InitMaterializedSRF(fcinfo, 0);
	tiers_refresh();
	scope = installation()->scope;
	if (key == NULL)
	{
		compare_all(result, scope);
		return (Datum) 0;
	}
	if (VARSIZE_ANY_EXHDR(key) < 1 || VARSIZE_ANY_EXHDR(key) > MAX_NAME_LENGTH)
		return (Datum) 0;
	compare_key(result, key);
	return (Datum) 0;
}
