/*-------------------------------------------------------------------------
 *
 * verify.c
 *		Comparing what memory counts with what the request log says.
 *
 * A subject is claimed while it is compared, so that nothing is counted for it
 * between a look at its windows and one at its rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "limit/address.h"
#include "limit/logread.h"
#include "limit/policy.h"
#include "limit/rebuild.h"
#include "log/log.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "store/claim.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(tierlimit_verify_1_0);

/* What a window of a subject counts. */
typedef struct CountedWindow
{
	WindowId	id;
	Span		span;			/* the span that it counts: (start, end] */
	int64		slack;			/* it may count so many microseconds before
								 * that, too */
	int64		counted;
} CountedWindow;

/* A subject's windows as they were at a time. */
typedef struct CountedSubject
{
	const SubjectName *name;
	TimestampTz now;
	TimestampTz no_deletion_after;	/* as in LogSpan */
	int			count;
	CountedWindow windows[MAX_WINDOWS];
} CountedSubject;

/*
 * Note what a window counts.  Returns false for a calendar period that is
 * over, which counts nothing.
 */
static bool
note_window(CountedWindow *noted, const SubjectWindow *window, TimestampTz now)
{
	const Window *w = &window->window;
	Moment		moment = {now, {0, 0}};

	noted->id = subject_window_id(window);
	if (w->kind == WINDOW_CALENDAR)
	{
		moment.current = w->calendar.span;
		if (now >= moment.current.end)
			return false;
		noted->span.start = moment.current.start - 1;
		noted->span.end = moment.current.end - 1;
		noted->slack = 0;
	}
	else
	{
		noted->span.start = now - w->sliding.period;
		noted->span.end = now;
		noted->slack = w->sliding.slot_width;
	}
	noted->counted = window_used(w, store->blocks, moment);
	return true;
}

/*
 * Claim a subject, and note what its windows count.  Returns false if it is
 * not in memory, is claimed by another session, or was counted by a clock that
 * was wrong, which its next call will not believe.
 */
static bool
claim_and_note(CountedSubject *noted, const SubjectName *name, Clock clock)
{
	Subject    *subject;
	SubjectWindow *window = NULL;
	bool		claimed;

	noted->name = name;
	noted->count = 0;

	/* Claim the subject, so that nothing is counted for it from now on. */
	partition_lock(&name->hash, 1, LW_EXCLUSIVE);
	subject = subject_find(name);
	claimed = subject != NULL && !subject->claimed &&
		(subject->clock == PG_INT64_MIN || !subject_is_ahead(subject, clock));
	if (claimed)
	{
		subject->claimed = true;
		noted->now = Max(clock.now, subject->clock);
		noted->no_deletion_after = log_deletions_until(clock);
		window = subject_window_at(subject->windows);
	}

	/* Note all windows under the same lock. */
	for (; window != NULL && noted->count < MAX_WINDOWS;
		 window = subject_window_at(window->next))
		noted->count += note_window(&noted->windows[noted->count], window,
									noted->now);
	partition_unlock(&name->hash, 1);
	return claimed;
}

/*
 * Return the name that a limit with this window has in a tier, or else a
 * description of it.
 */
static Datum
limit_name(const WindowId *id, const text *tier_name)
{
	const Tier *tier = tier_name == NULL ? NULL
	: tiers_find(VARDATA_ANY(tier_name), VARSIZE_ANY_EXHDR(tier_name));

	for (int i = 0; tier != NULL && i < tier->nlimits; i++)
		if (tier->limits[i].period_us == id->period &&
			tier->limits[i].kind == id->kind &&
			tier->limits[i].unit == id->unit)
			return tier->limits[i].name;
	return CStringGetTextDatum(psprintf("%lld s, %s",
										(long long) (id->period / USECS_PER_SEC),
										tiers_unit_names[id->unit]));
}

/* Put a row of verify() into the result. */
static void
put_row(ReturnSetInfo *result, const CountedSubject *noted,
		const CountedWindow *window, const text *tier, int64 logged,
		int64 difference)
{
	const SubjectName *name = noted->name;
	Datum		values[] = {
		PointerGetDatum(cstring_to_text_with_len(name->name, name->length)),
		limit_name(&window->id, tier),
		Int64GetDatum(window->counted),
		Int64GetDatum(logged),
		Int64GetDatum(difference)
	};
	bool		nulls[lengthof(values)] = {0};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * Compare a window with the log, and put the row into the result.  A window
 * that keeps calls together may count some of them for up to a slot's width
 * too long: that is no difference.
 */
static void
compare_window(ReturnSetInfo *result, const CountedSubject *noted,
			   const CountedWindow *window, const LogSums *log, const text *tier)
{
	Unit		unit = (Unit) window->id.unit;
	int64		logged = rebuild_sum(log, unit, window->span.start,
									 window->span.end);
	int64		at_most = rebuild_sum(log, unit,
									  window->span.start - window->slack,
									  window->span.end);
	int64		allowed = Max(Min(window->counted, at_most), logged);

	put_row(result, noted, window, tier, logged, window->counted - allowed);
}

/*
 * Return the tier by which a subject's limits are named, as usage() does: the
 * tier of its kind, or the registered key's own; NULL stands for the tier that
 * it was last called under.  If the key was deleted, what was counted for it
 * before is forgotten by this.
 */
static text *
tier_of(const SubjectName *name)
{
	ApiKeyRow	record;

	if (name->kind == SUBJECT_ADDRESS)
		return cstring_to_text(ADDRESS_TIER);
	if (name->kind == SUBJECT_ANONYMOUS || name->kind == SUBJECT_NOBODY)
		return cstring_to_text(ANONYMOUS_TIER);
	if (name->kind != SUBJECT_KEY)
		return NULL;
	apikey_look_up(name, &record);
	return record.registered ? cstring_to_text(record.tier) : NULL;
}

/*
 * Return what the windows need of the log: sums that cross none of their
 * borders.
 */
static LogSpan
span_of(const CountedSubject *noted)
{
	LogSpan		span = {
		.no_deletion_after = noted->no_deletion_after,
		.since = noted->now,
		.single_since = DT_NOEND
	};

	for (int i = 0; i < noted->count; i++)
	{
		const CountedWindow *window = &noted->windows[i];
		TimestampTz starts[] = {window->span.start,
		window->span.start - window->slack};

		for (size_t j = 0; j < lengthof(starts); j++)
			span.borders[span.nborders++] =
				TimestampTzGetDatum(starts[j] - starts[j] % USECS_PER_MINUTE);
		span.since = Min(span.since, starts[1]);
	}
	return span;
}

/* Compare all windows of a subject that this session has claimed. */
static void
compare_claimed(ReturnSetInfo *result, const CountedSubject *noted,
				const text *tier)
{
	LogSpan		span = span_of(noted);
	LogSums		log;
	bool		any_later;

	log_wait_written(claim_log_position(noted->name));
	if (tier == NULL)
		tier = logread_tier(noted->name);
	log = logread_sums(noted->name, &span);
	(void) rebuild_bring_home(&log, noted->now, &any_later);
	for (int i = 0; i < noted->count; i++)
		compare_window(result, noted, &noted->windows[i], &log, tier);
	if (log.sums != NULL)
		pfree(log.sums);
}

/* Compare a subject, if it is in memory. */
static void
compare(ReturnSetInfo *result, const SubjectName *name, Clock clock)
{
	CountedSubject *noted = palloc(sizeof(CountedSubject));
	text	   *tier = tier_of(name);

	claim_wait(name);
	if (claim_and_note(noted, name, clock))
	{
		PG_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(name));
		{
			compare_claimed(result, noted, tier);
		}
		PG_END_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(name));
		claim_release(name);
	}
	pfree(noted);
}

/* The name of a subject that was found in memory. */
typedef struct Found
{
	SubjectKind kind;
	int			length;
	char		name[MAX_NAME_LENGTH];
} Found;

/*
 * Copy the names of a partition's subjects of this installation that have
 * windows, up to room of them.  Returns how many they are.
 */
static int
find_names(uint64 partition, InstallationId here, Found *found, int room)
{
	int			count = 0;

	partition_lock(&partition, 1, LW_SHARED);
	for (uint64 i = partition; i < store->nbuckets; i += NUM_PARTITIONS)
		for (BlockNo at = *store_bucket(i); at != NO_BLOCK && count < room;
			 at = subject_at(at)->next)
		{
			const Subject *subject = subject_at(at);

			/* Other installations, and what counts nothing, are left out. */
			if (!installation_is(subject->installation, here) ||
				subject->windows == NO_BLOCK)
				continue;
			found[count].kind = (SubjectKind) subject->kind;
			found[count].length = subject->name_length;
			subject_get_name(subject, found[count].name);
			count++;
		}
	partition_unlock(&partition, 1);
	return count;
}

/* Return how many subjects a partition has that are counted. */
static int64
keys_in(uint64 partition)
{
	int64		keys;

	partition_lock(&partition, 1, LW_SHARED);
	keys = store->partitions[partition].stats.keys;
	partition_unlock(&partition, 1);
	return keys;
}

/* Compare all subjects of this installation. */
static void
compare_all(ReturnSetInfo *result, InstallationId here)
{
	for (uint64 partition = 0; partition < NUM_PARTITIONS; partition++)
	{
		int			room = (int) keys_in(partition);
		Found	   *found = MemoryContextAllocHuge(CurrentMemoryContext,
												   (Size) Max(room, 1) * sizeof(Found));
		int			count = find_names(partition, here, found, room);

		for (int i = 0; i < count; i++)
		{
			SubjectName name = subject_name(here, found[i].kind,
											found[i].name, found[i].length);

			compare(result, &name, clock_read());
			CHECK_FOR_INTERRUPTS();
		}
		pfree(found);
	}
}

/* Compare what is in memory under a name, as a kind of subject. */
static void
compare_named(ReturnSetInfo *result, SubjectKind kind, const char *name,
			  int length)
{
	SubjectName subject = subject_name(installation()->id, kind, name, length);

	compare(result, &subject, clock_read());
}

/*
 * Compare the subject that a key is counted as, and the account of that name,
 * if there is one; an address also as a caller without a key.
 */
static void
compare_key(ReturnSetInfo *result, const text *key)
{
	char		address[MAX_ADDRESS_NAME];
	int			length = address_parse(key, address);
	Policy		policy;

	policy_for_key(key, NULL, &policy);
	compare(result, &policy.charge.subject, policy.clock);
	if (policy.charge.subject.kind != SUBJECT_ACCOUNT)
		compare_named(result, SUBJECT_ACCOUNT, VARDATA_ANY(key),
					  VARSIZE_ANY_EXHDR(key));
	if (policy.record.registered || length <= 0)
		return;
	compare_named(result, SUBJECT_ADDRESS, address, length);
	compare_named(result, SUBJECT_ANONYMOUS, address, length);
}

/* The SQL function verify(key). */
Datum
tierlimit_verify_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *key = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	InstallationId here;

	store_require();
	InitMaterializedSRF(fcinfo, 0);
	tiers_refresh();
	here = installation()->id;
	if (key == NULL)
	{
		compare_all(result, here);
		return (Datum) 0;
	}
	if (VARSIZE_ANY_EXHDR(key) < 1 || VARSIZE_ANY_EXHDR(key) > MAX_NAME_LENGTH)
		return (Datum) 0;
	compare_key(result, key);
	return (Datum) 0;
}
