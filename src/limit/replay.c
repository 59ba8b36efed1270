/*-------------------------------------------------------------------------
 *
 * replay.c
 *		Deciding the calls of the request log once more, by another tier.
 *
 * The log has all that callers have asked for: the calls that were admitted,
 * and those that a limit denied.  They are read in the order of their times,
 * and each goes through the limits of the tier in question by the code that
 * decides calls: call.c plans, evaluate.c says what the limits say, and the
 * windows are those of window.c, which are empty at first.  Only these windows
 * are not in shared memory, but in this backend's (private.c).
 *
 * Who is counted together, is what the row says: the account that it was
 * counted under then, or else its key; a caller without a key by the address,
 * as the limiter does.  Calendar periods are those that the keys have now.
 * Keys of an account can have different ones: then the account has a view of
 * its windows for each, and a call is decided by its own key's, but counted in
 * all of them.
 *
 * A row may stand for several calls, that were alike and less than a second
 * apart.  They are decided one by one, at the row's time; of its credits each
 * has an equal share, and the first ones a credit more, so that the sum is the
 * row's.  If one is denied, so are all others that cost as much, at the same
 * time: these need not be asked for.
 *
 * Rows with negative numbers give back what the replay has counted: the call
 * that they name, if it was admitted; or else the newest units of their key,
 * in the current period of the longest calendar limit; a reset, all of it.
 * What is given back, and what a settlement changes, can be in the middle of a
 * window, whose newer slots then are taken out and put back.  For that one has
 * to know, before a call is replayed, that it will be named by a later row;
 * and which keys of accounts give back units without naming a call, as their
 * own calls are then counted by themselves, too.  Few logs have any such
 * row: so the replay begins without that knowledge, stops at the first one,
 * looks for all of them, and starts over.
 *
 * Rows are read day by day, as the log has partitions, and as they lie there.
 * The log's writer puts them down batch by batch: a queue of the newest ones is
 * enough to have them in the order of their times.  Where a row comes too late
 * even for that, as in a log that was loaded from elsewhere, the replay starts
 * over as well, and has the server sort each day's rows.  Rows of one time are
 * in the order: admitted calls, denied ones, what is given back; an admitted
 * one fitted together with those that were admitted before, whatever was
 * denied between them.  (Decisions of a key differ in their times, but for
 * those of a session that has a clock of its own.)
 *
 * Memory grows with the number of keys, until the replay ends, but not with
 * that of calls: about as much per key as shared memory takes for it (see
 * src/README), and something for each row that gives back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/progress.h"
#include "base/settings.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "config/calendar.h"
#include "executor/tuptable.h"
#include "limit/address.h"
#include "limit/evaluate.h"
#include "limit/logread.h"
#include "limit/private.h"
#include "limit/replay.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* So many rows are replayed between two reports of progress. */
#define ROWS_A_REPORT 1024

/* When calendar periods begin. */
typedef struct ReplayCalendar
{
	TimestampTz anchor;			/* as in Charge */
	const char *timezone;
} ReplayCalendar;

/* The windows of a subject, by one calendar. */
typedef struct ReplayView
{
	struct ReplayView *next;	/* by another calendar */
	ReplayCalendar calendar;
	SubjectWindow *windows;		/* one for each limit; of views but the first,
								 * those of sliding limits are not used */
	Span	   *current;		/* of calendar limits; NULL: there are none */
} ReplayView;

/* What is counted together: the calls of a key, an account or an address. */
typedef struct ReplaySubject
{
	ReplayView	view;			/* the first one */
	struct ReplayMember *members;
	TimestampTz forgotten_at;	/* the last reset */
} ReplaySubject;

/* A key, or callers without one. */
typedef struct ReplayKey
{
	ReplayedKey result;
	ReplayCalendar calendar;
	bool		gives_newest;	/* units without naming a call */
	struct ReplayMember *members;
} ReplayKey;

/*
 * A key as it is counted for a subject.  What it has counted and not given back
 * is like a stack: its newest units go first.
 */
typedef struct ReplayMember
{
	struct ReplayMember *next_of_key;
	struct ReplayMember *next_of_subject;
	ReplayKey  *key;
	const char *account;		/* NULL: the subject is the key's own */
	int			account_length;
	ReplaySubject *subject;
	ReplayView *view;			/* of the subject, by the key's calendar */
	ReplaySubject *own;			/* counts what is of this member alone; NULL:
								 * that is all, or nobody asks */
	Span		period;			/* of the tier's longest calendar limit, */
	int64		counted[2];		/* and what was counted in it, by Unit */
	int64		height[2];		/* of the stack, by Unit */
	struct NamedCall *named;	/* calls on it that rows will give back */
} ReplayMember;

/*
 * The name of a key, an account or an address.  Most are short, and then in
 * here: so nothing else has to be fetched to compare them.
 */
typedef struct ReplayName
{
	uint32		hash;
	uint16		length;
	uint8		kind;			/* SubjectKind */
	const char *name;			/* no terminator */
	char		start[24];		/* its first bytes */
} ReplayName;

/* What a name stands for. */
typedef struct ReplayNameEntry
{
	ReplayName	name;
	void	   *object;			/* a key, an account's subject, or the member
								 * for an address */
	ReplayMember *own;			/* of a key, whose subject is its own; or NULL */
	char		status;			/* of the hash table */
} ReplayNameEntry;

/* Return whether two names are equal. */
static inline bool
is_same_name(const ReplayName *a, const ReplayName *b)
{
	if (a->hash != b->hash || a->length != b->length || a->kind != b->kind)
		return false;
	return a->length <= sizeof(a->start)
		? memcmp(a->start, b->start, a->length) == 0
		: memcmp(a->name, b->name, a->length) == 0;
}

#define SH_PREFIX replay_names
#define SH_ELEMENT_TYPE ReplayNameEntry
#define SH_KEY_TYPE ReplayName
#define SH_KEY name
#define SH_HASH_KEY(table, key) (key).hash
#define SH_EQUAL(table, a, b) is_same_name(&(a), &(b))
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry) (entry)->name.hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
/* It has parameters that some of its uses leave alone. */
#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif
#include "lib/simplehash.h"
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

/* What tells apart the calls that rows give back by their request_id. */
typedef struct NamedCallId
{
	uint64		key;			/* logread_hash() of it */
	uint64		request_id;
} NamedCallId;

/* A call that a row gives back, or settles. */
typedef struct NamedCall
{
	NamedCallId id;				/* hash key */
	ReplayMember *member;		/* NULL: it was not admitted (yet) */
	struct NamedCall *next;		/* of this member */
	TimestampTz at;
	int64		base[2];		/* what its member's stack has below it, and */
	int64		units[2];		/* what it has there still, by Unit */
} NamedCall;

/* So much is added at a time in the past to what a window counts. */
typedef struct WindowChange
{
	TimestampTz at;
	int64		amount;			/* negative: it is taken back */
} WindowChange;

/* A list of them. */
typedef struct WindowChanges
{
	int			count;
	int			room;
	WindowChange *changes;
} WindowChanges;

/* In which order rows of one time are replayed. */
typedef enum ReplayRank
{
	RANK_ADMITTED,
	RANK_DENIED,
	RANK_GIVES_BACK				/* or settles, or resets */
} ReplayRank;

/* A row of the log. */
typedef struct ReplayRow
{
	TimestampTz at;
	ReplayMember *member;		/* who called */
	NamedCall  *named;			/* the call that it is, or gives back; or NULL */
	int64		credits;
	int32		requests;
	uint8		rank;			/* ReplayRank */
	bool		is_reset;
} ReplayRow;

/*
 * So many rows are put in order: those of a busy server's last seconds, as
 * denials are written when their second is over.  With what it takes to sort
 * them these are 14 MB.
 */
#define QUEUED_ROWS (1 << 17)

/* So many bits of a time are looked at together when rows are sorted. */
#define DIGIT_BITS 11
#define DIGITS (1 << DIGIT_BITS)

/* What a row is sorted by, and its number. */
typedef struct ReplaySortKey
{
	uint64		key;
	uint32		row;
} ReplaySortKey;

/* A replay. */
typedef struct Replay
{
	const Tier *tier;
	TimestampTz first;
	TimestampTz end;
	const text *key;			/* the one that is asked for; NULL: all */
	ArrayBuildState *accounts;	/* those that it was counted under */
	int			ndays;			/* that have a partition of their own, */
	int32	   *days;			/* in their order */
	int64		expected;		/* rows; PROGRESS_UNKNOWN */
	bool		knows_refunds;
	TimestampTz piece_first;	/* where the piece begins that is read */
	TimestampTz refunds_first;	/* there is none before */
	bool		stopped;		/* the pass has to start over */
	bool		is_sorted;		/* the server is to sort the rows */

	/* What is of a pass, and freed when it starts over. */
	MemoryContext context;		/* of all of it */
	MemoryContext objects;		/* of what is only freed together, */
	MemoryContext scratch;		/* and of what serves a row */
	replay_names_hash *names;
	ReplayKey	nobody;			/* callers without a key */
	HTAB	   *named;			/* NamedCalls; NULL: there are none */
	Charge		charge;			/* of the call */
	Call		call;			/* the one that is decided */
	PrivateBlocks blocks;
	int64		rows;
	ReplayRow  *queue;			/* there is room for QUEUED_ROWS in each of */
	ReplayRow  *sorted;			/* these, */
	ReplaySortKey *sort_keys;	/* and for twice as many here */
	int			queued;
	int			in_order;		/* the first so many of them are */
	ReplayRow	last;			/* the one that was replayed last */
	WindowChanges taken;		/* these two serve a row */
	WindowChanges slots;
} Replay;

/* Where the rows of a query go. */
typedef struct ReplayReceiver
{
	DestReceiver receiver;
	Replay	   *replay;
	bool		(*take) (Replay *replay, TupleTableSlot * row);
} ReplayReceiver;

/* Names that are asked for: all, or a key and its accounts. */
#define ASKED_FOR(key, account) \
	"($1 IS NULL OR " key " COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1" \
	" OR " account " COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) ANY ($2))"

#define ARGUMENTS 2, {TEXTOID, TEXTARRAYOID}, NULL

/* The rank of a row, for the server. */
#define RANK \
	"CASE WHEN requests OPERATOR(pg_catalog.<=) 0 THEN 2" \
	" WHEN error_code OPERATOR(pg_catalog.=) 0 THEN 0 ELSE 1 END"

/*
 * The calls, and what is given back; see take_row().  Refusals of the gate were
 * none of a limit; every other code is that of one.
 */
#define CALLS(request_id, order) { \
	"SELECT at, key, account, error_code, requests, credits, shadow_code, " request_id "," \
	" CASE WHEN key IS NULL THEN ip END" \
	" FROM tierlimit.request_log WHERE " WITHIN_DAYS \
	" AND " ASKED_FOR("key", "account") \
	" AND (error_code OPERATOR(pg_catalog.<) " CppAsString2(ERROR_KEY_INVALID) \
	"  OR error_code OPERATOR(pg_catalog.>) " CppAsString2(ERROR_KEY_DISABLED) ")" \
	order, \
	ARGUMENTS \
}

#define IN_ORDER " ORDER BY at, " RANK

/* By Replay.is_sorted, and by whether ids matter, which few calls have. */
static const SpiStatement calls[2][2] = {
	{CALLS("NULL::pg_catalog.text", ""), CALLS("request_id", "")},
	{CALLS("NULL::pg_catalog.text", IN_ORDER), CALLS("request_id", IN_ORDER)}
};

/* What is given back, and settled, but for resets; see take_refund(). */
static const SpiStatement refunds = {
	"SELECT DISTINCT key, request_id"
	" FROM tierlimit.request_log WHERE " WITHIN_DAYS
	" AND " ASKED_FOR("key", "account")
	" AND requests OPERATOR(pg_catalog.<=) 0 AND error_code OPERATOR(pg_catalog.=) 0"
	" AND (shadow_code IS NULL OR shadow_code OPERATOR(pg_catalog.<>) 0)",
	ARGUMENTS
};

/* The accounts that a key was counted under; see take_account(). */
static const SpiStatement accounts = {
	"SELECT DISTINCT account FROM tierlimit.request_log WHERE " WITHIN_DAYS
	" AND key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1"
	" AND account IS NOT NULL",
	ARGUMENTS
};

/* The keys that have a calendar of their own; see take_calendar(). */
static const SpiStatement calendars = {
	"SELECT name, account, billing_anchor, billing_timezone"
	" FROM tierlimit.api_key WHERE " ASKED_FOR("name", "account")
	" AND (billing_anchor IS NOT NULL OR billing_timezone OPERATOR(pg_catalog.<>) 'UTC')",
	ARGUMENTS
};

/*
 * The days that have a partition of the log of their own, and about how many
 * rows these have; NULL for the partition of all other days.
 */
static SpiStatement partitions = {
	"SELECT CASE WHEN c.relname OPERATOR(pg_catalog.~) '^request_log_[0-9]{8}$'"
	"  THEN pg_catalog.to_date(pg_catalog.right(c.relname, 8), 'YYYYMMDD')"
	"   OPERATOR(pg_catalog.-) '2000-01-01'::pg_catalog.date END,"
	" c.reltuples::pg_catalog.float8"
	" FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid"
	" WHERE i.inhparent OPERATOR(pg_catalog.=) 'tierlimit.request_log'::pg_catalog.regclass"
	" ORDER BY 1", 0, {0}, NULL
};

static const ReplayCalendar default_calendar = {DT_NOBEGIN, "UTC"};

/*-------------------------------------------------------------------------
 * Who is counted
 *-------------------------------------------------------------------------
 */

/* Allocate an object that lives as long as the replay, all zero. */
static void *
make_object(Replay *replay, Size size)
{
	return MemoryContextAllocZero(replay->objects, size);
}

/* Return a copy of some bytes, with a terminator. */
static char *
copy_bytes(Replay *replay, const char *bytes, int length)
{
	char	   *copy = make_object(replay, length + 1);

	memcpy(copy, bytes, length);
	return copy;
}

/*
 * Return the entry of a name.  If it is new, *found is false, and its object,
 * which has this size, is all zero; the name is next to it.
 */
static ReplayNameEntry *
find_name(Replay *replay, SubjectKind kind, const char *name, int length,
		  Size size, bool *found)
{
	ReplayName	key = {.name = name, .length = length, .kind = kind};
	ReplayNameEntry *entry;

	memcpy(key.start, name, Min(length, (int) sizeof(key.start)));
	key.hash = (uint32) hash_bytes_extended((const unsigned char *) name, length,
											store->seed + kind);
	entry = replay_names_insert(replay->names, key, found);
	if (!*found)
	{
		entry->own = NULL;
		entry->object = make_object(replay, size + length);
		entry->name.name = memcpy((char *) entry->object + size, name, length);
	}
	return entry;
}

/* Return the entry of a key. */
static ReplayNameEntry *
find_key(Replay *replay, const text *name)
{
	bool		found;
	ReplayNameEntry *entry = find_name(replay, SUBJECT_KEY, VARDATA_ANY(name),
									   VARSIZE_ANY_EXHDR(name),
									   sizeof(ReplayKey), &found);

	if (!found)
	{
		ReplayKey  *key = entry->object;

		key->result.name = entry->name.name;
		key->result.length = entry->name.length;
		key->calendar = default_calendar;
	}
	return entry;
}

/* Set up a view of a subject, with windows that count nothing. */
static void
init_view(Replay *replay, ReplayView *view, ReplayCalendar calendar)
{
	const int	count = replay->tier->nlimits;

	view->calendar = calendar;
	view->windows = make_object(replay, count * sizeof(SubjectWindow));
	if (replay->tier->has_calendar)
		view->current = make_object(replay, count * sizeof(Span));
	for (int i = 0; i < count; i++)
		private_init_window(&view->windows[i].window, &replay->tier->limits[i],
							&replay->call.parts[0].ids[i]);
}

/* Return the view of a subject by a calendar; it may begin now. */
static ReplayView *
find_view(Replay *replay, ReplaySubject *subject, ReplayCalendar calendar)
{
	ReplayView *view;

	for (view = &subject->view; view != NULL; view = view->next)
		if (view->calendar.anchor == calendar.anchor &&
			strcmp(view->calendar.timezone, calendar.timezone) == 0)
			return view;
	view = make_object(replay, sizeof(ReplayView));
	init_view(replay, view, calendar);
	view->next = subject->view.next;
	subject->view.next = view;
	return view;
}

/* Set up a subject that has counted nothing. */
static ReplaySubject *
init_subject(Replay *replay, ReplaySubject *subject, ReplayCalendar calendar)
{
	init_view(replay, &subject->view, calendar);
	subject->forgotten_at = DT_NOBEGIN;
	return subject;
}

/* Return a subject that is found by its member. */
static ReplaySubject *
make_subject(Replay *replay, ReplayCalendar calendar)
{
	return init_subject(replay, make_object(replay, sizeof(ReplaySubject)), calendar);
}

/* Return the subject of an account. */
static ReplaySubject *
find_account(Replay *replay, const text *name)
{
	bool		found;
	ReplayNameEntry *entry = find_name(replay, SUBJECT_ACCOUNT, VARDATA_ANY(name),
									   VARSIZE_ANY_EXHDR(name),
									   sizeof(ReplaySubject), &found);

	if (!found)
		(void) init_subject(replay, entry->object, default_calendar);
	return entry->object;
}

/* Make a key, or callers without one, a member of a subject. */
static ReplayMember *
init_member(Replay *replay, ReplayMember *member, ReplayKey *key, ReplaySubject *subject)
{
	member->key = key;
	member->subject = subject;
	member->view = find_view(replay, subject, key->calendar);
	member->next_of_key = key->members;
	member->next_of_subject = subject->members;
	key->members = subject->members = member;
	return member;
}

/* Return the member that a row without a key belongs to, by its address. */
static ReplayMember *
member_by_address(Replay *replay, const inet *address)
{
	char		name[MAX_ADDRESS_NAME] = "";
	SubjectKind kind = SUBJECT_NOBODY;
	ReplayNameEntry *entry;
	bool		found;

	if (address != NULL)
	{
		inet_struct host = address_of_host(address);

		(void) address_name(&host, name);
		kind = SUBJECT_ANONYMOUS;
	}
	entry = find_name(replay, kind, name, strlen(name), sizeof(ReplayMember), &found);
	if (!found)
		(void) init_member(replay, entry->object, &replay->nobody,
						   make_subject(replay, default_calendar));
	return entry->object;
}

/* Return the member that calls of a key belong to, counted under an account. */
static ReplayMember *
member_of_account(Replay *replay, ReplayKey *key, const text *account)
{
	const char *name = VARDATA_ANY(account);
	const int	length = VARSIZE_ANY_EXHDR(account);
	ReplayMember *member;

	for (member = key->members; member != NULL; member = member->next_of_key)
		if (member->account != NULL && length == member->account_length &&
			memcmp(name, member->account, length) == 0)
			return member;
	member = make_object(replay, sizeof(ReplayMember));
	(void) init_member(replay, member, key, find_account(replay, account));
	member->account_length = length;
	member->account = copy_bytes(replay, name, length);
	if (key->gives_newest)
		member->own = make_subject(replay, default_calendar);
	return member;
}

/*
 * Return the member that calls of a key belong to, counted under an account or
 * (NULL) on their own.
 */
static ReplayMember *
member_by_key(Replay *replay, const text *name, const text *account)
{
	ReplayNameEntry *entry = find_key(replay, name);
	ReplayKey  *key = entry->object;

	if (account != NULL)
		return member_of_account(replay, key, account);
	if (entry->own == NULL)
		entry->own = init_member(replay, make_object(replay, sizeof(ReplayMember)),
								 key, make_subject(replay, key->calendar));
	return entry->own;
}

/*-------------------------------------------------------------------------
 * Calls
 *-------------------------------------------------------------------------
 */

/* Have so many blocks in hand, at least. */
static void
require_blocks(Replay *replay, uint32 count)
{
	while (replay->blocks.spare.count < count)
		private_grow(&replay->blocks);
}

/*
 * Have the call be one of this member at this time, with windows that have
 * let go of what has left them.
 */
static void
aim(Replay *replay, const ReplayMember *member, TimestampTz at)
{
	const Tier *tier = replay->tier;
	CallSubject *part = &replay->call.parts[0];

	replay->call.clock.now = replay->call.asked_at = at;
	replay->charge.billing_anchor = member->view->calendar.anchor;
	replay->charge.timezone = member->view->calendar.timezone;
	for (int i = 0; i < tier->nlimits; i++)
	{
		bool		is_calendar = tier->limits[i].kind == WINDOW_CALENDAR;
		const ReplayView *view = is_calendar ? member->view : &member->subject->view;

		part->windows[i] = &view->windows[i];
		if (is_calendar)
			part->current[i] = view->current[i];
		window_advance(&part->windows[i]->window, &replay->blocks.spare, at);
	}
	if (!call_is_out_of_plan(part, at))
		return;
	call_plan(part, at);
	memcpy(member->view->current, part->current, tier->nlimits * sizeof(Span));
}

/*
 * Return the current period of a view's limit, at the time of the call, which
 * may be another view's.
 */
static Moment
moment_in(Replay *replay, ReplayView *view, int i)
{
	Moment		moment = {.now = replay->call.clock.now};
	Span	   *current = &view->current[i];

	if (moment.now >= current->end || moment.now < current->start)
		*current = calendar_span(&replay->tier->limits[i].period,
								 view->calendar.anchor, view->calendar.timezone,
								 moment.now);
	moment.current = *current;
	return moment;
}

/* Count the call in the calendar windows of a view. */
static void
count_in_view(Replay *replay, ReplayView *view)
{
	const Tier *tier = replay->tier;

	for (int i = 0; i < tier->nlimits; i++)
		if (tier->limits[i].kind == WINDOW_CALENDAR)
			window_add(&view->windows[i].window, &replay->blocks.spare,
					   moment_in(replay, view, i),
					   amount_of(tier->limits[i].unit, replay->call.cost));
}

/*
 * Count the call in all windows that count this member's calls alone: in views
 * by the same calendars as its subject has.
 */
static void
count_own(Replay *replay, const ReplayMember *member)
{
	const Tier *tier = replay->tier;
	BlockList  *spare = &replay->blocks.spare;
	Moment		moment = {.now = replay->call.clock.now};

	for (int i = 0; i < tier->nlimits; i++)
	{
		Window	   *window = &member->own->view.windows[i].window;

		if (tier->limits[i].kind == WINDOW_CALENDAR)
			continue;
		window_advance(window, spare, moment.now);
		window_add(window, spare, moment,
				   amount_of(tier->limits[i].unit, replay->call.cost));
	}
	for (const ReplayView *view = &member->subject->view; view != NULL; view = view->next)
		count_in_view(replay, find_view(replay, member->own, view->calendar));
}

/*
 * Return the number of the tier's longest calendar limit; -1 if there is none.
 */
static int
longest_calendar(const Tier *tier)
{
	int			i = tier->nlimits - 1;

	while (i >= 0 && tier->limits[i].kind != WINDOW_CALENDAR)
		i--;
	return i;
}

/* Forget what the member has counted in a period that is over. */
static void
advance_period(Replay *replay, ReplayMember *member)
{
	const int	longest = longest_calendar(replay->tier);
	Span		current;

	if (longest < 0)
		return;
	current = replay->call.parts[0].current[longest];
	if (member->period.start == current.start && member->period.end == current.end)
		return;
	member->period = current;
	member->counted[UNIT_REQUESTS] = member->counted[UNIT_CREDITS] = 0;
}

/* Add to a number of units, which is from 0 to PG_INT64_MAX. */
static void
add_units(int64 *units, int64 amount)
{
	if (pg_add_s64_overflow(*units, amount, units))
		*units = PG_INT64_MAX;
	*units = Max(*units, 0);
}

/* Note in a member what is counted, or is not counted any more. */
static void
add_counted(ReplayMember *member, Unit unit, int64 amount)
{
	add_units(&member->counted[unit], amount);
	add_units(&member->height[unit], amount);
}

/*
 * Count the call in what has not decided it: the windows of other calendars,
 * and what is needed to give something back.
 */
static void
count_elsewhere(Replay *replay, ReplayMember *member)
{
	for (ReplayView *view = &member->subject->view; view != NULL; view = view->next)
		if (view != member->view)
			count_in_view(replay, view);
	if (member->own != NULL)
		count_own(replay, member);
	advance_period(replay, member);
	add_counted(member, UNIT_REQUESTS, 1);
	add_counted(member, UNIT_CREDITS, replay->call.cost);
}

/*
 * Decide up to count calls of this cost, of the member that was aimed at, and
 * count those that are admitted.  Returns how many are.
 */
static int32
decide_calls(Replay *replay, ReplayMember *member, int32 count, int64 cost)
{
	Call	   *call = &replay->call;
	CallSubject *part = &call->parts[0];

	call->cost = cost;
	for (int32 i = 0; i < count; i++)
	{
		part->base = replay->blocks.spare.base;
		if (!evaluate(call).allowed)
			return i;
		require_blocks(replay, 2 * part->nwindows);
		call_count(part, call->clock.now, cost, &replay->blocks.spare);
		if (replay->knows_refunds || member->subject->view.next != NULL)
			count_elsewhere(replay, member);
		if (i % ROWS_A_REPORT == 0)
			CHECK_FOR_INTERRUPTS();
	}
	return count;
}

/* Note that a named call was admitted, which then is its member's newest. */
static void
note_named_call(NamedCall *named, ReplayMember *member, TimestampTz at,
				int64 requests, int64 credits)
{
	/* There may have been another call of that name, which is forgotten. */
	if (named->member != NULL)
	{
		NamedCall **link = &named->member->named;

		while (*link != named)
			link = &(*link)->next;
		*link = named->next;
	}
	named->member = member;
	named->next = member->named;
	member->named = named;
	named->at = at;
	named->units[UNIT_REQUESTS] = requests;
	named->units[UNIT_CREDITS] = credits;
	for (int unit = 0; unit < 2; unit++)
		named->base[unit] = Max(member->height[unit] - named->units[unit], 0);
}

/* Replay a row that stands for one call or more. */
static void
replay_calls(Replay *replay, const ReplayRow *row)
{
	ReplayMember *member = row->member;
	ReplayedKey *result = &member->key->result;
	const int64 credits = Max(row->credits, 0);
	const int64 share = credits / row->requests;
	const int32 dearer = (int32) (credits % row->requests);
	int32		admitted_dearer;
	int32		admitted;

	aim(replay, member, row->at);
	admitted_dearer = decide_calls(replay, member, dearer, share + 1);
	admitted = admitted_dearer +
		decide_calls(replay, member, row->requests - dearer, share);
	if (admitted < row->requests && result->denied == 0)
		result->first_denied_at = row->at;
	result->admitted += admitted;
	result->denied += row->requests - admitted;
	if (row->named != NULL && admitted > 0)
		note_named_call(row->named, member, row->at, admitted,
						share * admitted + admitted_dearer);
}

/*-------------------------------------------------------------------------
 * What is given back
 *-------------------------------------------------------------------------
 */

/* Append to a list of changes. */
static void
append_change(Replay *replay, WindowChanges *list, TimestampTz at, int64 amount)
{
	if (list->count == list->room)
	{
		list->room = Max(2 * list->room, 64);
		list->changes = list->changes == NULL
			? MemoryContextAlloc(replay->context, list->room * sizeof(WindowChange))
			: repalloc(list->changes, list->room * sizeof(WindowChange));
	}
	list->changes[list->count].at = at;
	list->changes[list->count++].amount = amount;
}

/*
 * Take the slots that are newer than a time out of a sliding window, onto the
 * list of slots.
 */
static void
take_newer_slots(Replay *replay, Window *window, TimestampTz than)
{
	int64		time;
	int64		amount;

	while (window_newest(window, &time, &amount) && time > than)
	{
		append_change(replay, &replay->slots, time, amount);
		(void) window_take_back(window, &replay->blocks.spare,
								replay->call.clock.now, amount);
	}
}

/*
 * Make one change to a sliding window, whose newer slots are on the list.
 * There the last one may hold the time, too, if calls share it.
 */
static void
change_slot(Replay *replay, Window *window, const WindowChange *change, bool is_shared)
{
	BlockList  *spare = &replay->blocks.spare;
	Moment		moment = {.now = change->at};
	int64		time;
	int64		amount;

	if (change->amount > 0)
		window_add(window, spare, moment, change->amount);
	else if (window_newest(window, &time, &amount) && time == change->at)
		(void) window_take_back(window, spare, replay->call.clock.now,
								Min(amount, -change->amount));
	else if (is_shared && replay->slots.count > 0)
	{
		WindowChange *slot = &replay->slots.changes[replay->slots.count - 1];

		slot->amount -= Min(slot->amount, -change->amount);
	}
}

/*
 * Make changes to a sliding window, the newest first: those of times that it
 * counts still.
 */
static void
change_sliding(Replay *replay, Window *window, uint32 exact_slots)
{
	const WindowChanges *taken = &replay->taken;
	const TimestampTz since = replay->call.clock.now - window->sliding.period;
	BlockList  *spare = &replay->blocks.spare;
	const bool	is_shared = window->apart < window->sliding.history.sum;
	const uint32 apart = window->apart;

	/* Everything may be put into new blocks, and one slot more. */
	window_advance(window, spare, replay->call.clock.now);
	require_blocks(replay, window_blocks(window, spare->base) + taken->count + 2);
	window_set_exact(window, PG_UINT32_MAX);
	replay->slots.count = 0;
	for (int i = 0; i < taken->count && taken->changes[i].at > since; i++)
	{
		take_newer_slots(replay, window, taken->changes[i].at);
		change_slot(replay, window, &taken->changes[i], is_shared);
	}

	/* Put the newer slots back, and what is known of their calls. */
	while (replay->slots.count > 0)
	{
		const WindowChange *slot = &replay->slots.changes[--replay->slots.count];
		Moment		moment = {.now = slot->at};

		window_add(window, spare, moment, slot->amount);
	}
	window_set_exact(window, exact_slots);
	if (is_shared)
		window->apart = Min(window->apart, apart);
}

/* Make the changes to a calendar window: those of its current period. */
static void
change_calendar(Replay *replay, ReplayView *view, int i)
{
	const WindowChanges *taken = &replay->taken;
	Window	   *window = &view->windows[i].window;
	BlockList  *spare = &replay->blocks.spare;
	Moment		moment = moment_in(replay, view, i);

	for (int j = 0; j < taken->count && taken->changes[j].at >= moment.current.start; j++)
	{
		int64		amount = taken->changes[j].amount;

		if (amount > 0)
			window_add(window, spare, moment, amount);
		else
			(void) window_take_back(window, spare, moment.now, -amount);
	}
}

/* Make the changes to all windows of a subject that count this unit. */
static void
change_windows(Replay *replay, ReplaySubject *subject, Unit unit)
{
	const Tier *tier = replay->tier;

	for (int i = 0; i < tier->nlimits; i++)
	{
		if (tier->limits[i].unit != unit)
			continue;
		if (tier->limits[i].kind == WINDOW_SLIDING)
			change_sliding(replay, &subject->view.windows[i].window,
						   tier->limits[i].exact_slots);
		for (ReplayView *view = &subject->view;
			 view != NULL && tier->limits[i].kind == WINDOW_CALENDAR; view = view->next)
			change_calendar(replay, view, i);
	}
}

/*
 * Return whether units are given back of the current period of the tier's
 * longest calendar limit only.  An address is not asked for that (refund.c).
 */
static bool
is_of_period(const Replay *replay, const ReplayMember *member)
{
	return member->key != &replay->nobody && longest_calendar(replay->tier) >= 0;
}

/*
 * Give a call back, or settle it, as far as it was admitted and was not given
 * back before.
 */
static void
change_named_call(Replay *replay, const ReplayRow *row)
{
	NamedCall  *named = row->named;
	ReplayMember *member = named->member;
	const int64 added[2] = {
		[UNIT_REQUESTS] = row->requests,
		[UNIT_CREDITS] = row->credits
	};

	if (member == NULL || named->at <= member->subject->forgotten_at)
		return;
	aim(replay, member, row->at);
	advance_period(replay, member);
	if (is_of_period(replay, member) && named->at < member->period.start)
		return;
	for (int unit = 0; unit < 2; unit++)
	{
		int64		amount = Max(added[unit], -named->units[unit]);

		if (amount == 0)
			continue;
		replay->taken.count = 0;
		append_change(replay, &replay->taken, named->at, amount);
		change_windows(replay, member->subject, (Unit) unit);
		if (member->own != NULL)
			change_windows(replay, member->own, (Unit) unit);
		add_counted(member, (Unit) unit, amount);

		/* What lies on it in the stack moves with it. */
		add_units(&named->units[unit], amount);
		for (NamedCall *other = member->named; other != NULL; other = other->next)
			if (other->at > named->at)
				add_units(&other->base[unit], amount);
	}
}

/*
 * Take the newest units of a member out of a sliding window of its subject:
 * they are at the times that the member's own one has for them.
 */
static void
take_newest_sliding(Replay *replay, ReplayMember *member, int i, int64 amount)
{
	Window	   *window = &member->subject->view.windows[i].window;
	Window	   *own = member->own == NULL ? NULL : &member->own->view.windows[i].window;
	BlockList  *spare = &replay->blocks.spare;
	const TimestampTz now = replay->call.clock.now;
	int64		time;
	int64		units;

	if (own == NULL)
	{
		(void) window_take_back(window, spare, now, amount);
		return;
	}
	replay->taken.count = 0;
	window_advance(own, spare, now);
	while (amount > 0 && window_newest(own, &time, &units))
	{
		units = Min(units, amount);
		if (window_take_back(own, spare, now, units) == 0)
			break;				/* it has left the window */
		append_change(replay, &replay->taken, time, -units);
		amount -= units;
	}
	change_sliding(replay, window, replay->tier->limits[i].exact_slots);
}

/* Take the newest units of a member out of its subject's calendar windows. */
static void
take_newest_calendar(Replay *replay, ReplayMember *member, int i, int64 amount)
{
	BlockList  *spare = &replay->blocks.spare;

	for (ReplayView *view = &member->subject->view; view != NULL; view = view->next)
	{
		Moment		moment = moment_in(replay, view, i);
		int64		there = amount;

		if (member->own != NULL)
		{
			ReplayView *own = find_view(replay, member->own, view->calendar);

			there = Min(there, window_used(&own->windows[i].window, spare->base, moment));
			(void) window_take_back(&own->windows[i].window, spare, moment.now, there);
		}
		there = Min(there, window_used(&view->windows[i].window, spare->base, moment));
		(void) window_take_back(&view->windows[i].window, spare, moment.now, there);
	}
}

/* Give back the newest units of a member, as far as there are so many. */
static void
give_back_newest(Replay *replay, const ReplayRow *row)
{
	const Tier *tier = replay->tier;
	ReplayMember *member = row->member;
	int64		given[2] = {
		[UNIT_REQUESTS] = -Min((int64) row->requests, 0),
		[UNIT_CREDITS] = -Max(Min(row->credits, 0), -PG_INT64_MAX)
	};

	aim(replay, member, row->at);
	advance_period(replay, member);
	for (int unit = 0; unit < 2; unit++)
	{
		if (is_of_period(replay, member))
			given[unit] = Min(given[unit], member->counted[unit]);
		add_counted(member, (Unit) unit, -given[unit]);
		for (NamedCall *named = member->named; named != NULL; named = named->next)
			named->units[unit] = Min(named->units[unit],
									 Max(member->height[unit] - named->base[unit], 0));
	}
	for (int i = 0; i < tier->nlimits; i++)
		if (tier->limits[i].kind == WINDOW_SLIDING)
			take_newest_sliding(replay, member, i, given[tier->limits[i].unit]);
		else
			take_newest_calendar(replay, member, i, given[tier->limits[i].unit]);
}

/* Forget what the windows of a subject count. */
static void
clear_windows(Replay *replay, ReplaySubject *subject)
{
	for (ReplayView *view = &subject->view; view != NULL; view = view->next)
		for (int i = 0; i < replay->tier->nlimits; i++)
			window_clear(&view->windows[i].window, &replay->blocks.spare);
}

/* Forget all that was counted for a subject before this time. */
static void
forget(Replay *replay, ReplaySubject *subject, TimestampTz at)
{
	clear_windows(replay, subject);
	for (ReplayMember *member = subject->members; member != NULL;
		 member = member->next_of_subject)
	{
		if (member->own != NULL)
			clear_windows(replay, member->own);
		for (int unit = 0; unit < 2; unit++)
			member->counted[unit] = member->height[unit] = 0;
	}
	subject->forgotten_at = at;
}

/*-------------------------------------------------------------------------
 * The order of rows
 *-------------------------------------------------------------------------
 */

/* Replay a row, which is not before the one that was replayed last. */
static void
replay_row(Replay *replay, const ReplayRow *row)
{
	if (row->rank != RANK_GIVES_BACK)
		replay_calls(replay, row);
	else if (row->is_reset)
		forget(replay, row->member->subject, row->at);
	else if (row->named != NULL)
		change_named_call(replay, row);
	else
		give_back_newest(replay, row);
}

/* Return whether a row is replayed before another one, which was read earlier. */
static inline bool
comes_before(const ReplayRow *row, const ReplayRow *other)
{
	return row->at != other->at ? row->at < other->at : row->rank < other->rank;
}

/* Sort by one digit of the keys, from one array into another. */
static void
sort_by_digit(const ReplaySortKey *from, ReplaySortKey *to, int count, int shift)
{
	int			starts[DIGITS] = {0};
	int			start = 0;

	for (int i = 0; i < count; i++)
		starts[(from[i].key >> shift) % DIGITS]++;
	for (int digit = 0; digit < DIGITS; digit++)
	{
		int			size = starts[digit];

		starts[digit] = start;
		start += size;
	}
	for (int i = 0; i < count; i++)
		to[starts[(from[i].key >> shift) % DIGITS]++] = from[i];
}

/*
 * Sort rows by time and rank into another array; those that are equal keep
 * their order.  This goes by digits, from the last one on (a radix sort): the
 * writer puts the rows of a batch down by their keys, so that no order of their
 * times is left in it, and all rows are sorted here.
 */
static void
sort_rows(Replay *replay, const ReplayRow *rows, int count, ReplayRow *sorted)
{
	ReplaySortKey *keys = replay->sort_keys;
	ReplaySortKey *others = keys + QUEUED_ROWS;
	TimestampTz first = DT_NOEND;
	TimestampTz last = DT_NOBEGIN;

	for (int i = 0; i < count; i++)
	{
		first = Min(first, rows[i].at);
		last = Max(last, rows[i].at);
		others[i].key = rows[i].rank;
		others[i].row = i;
	}
	sort_by_digit(others, keys, count, 0);
	for (int i = 0; i < count; i++)
		keys[i].key = (uint64) rows[keys[i].row].at - (uint64) first;
	for (int shift = 0; shift < 64 && ((uint64) last - (uint64) first) >> shift != 0;
		 shift += DIGIT_BITS)
	{
		ReplaySortKey *swap = keys;

		sort_by_digit(keys, others, count, shift);
		keys = others;
		others = swap;
	}
	for (int i = 0; i < count; i++)
		sorted[i] = rows[keys[i].row];
}

/*
 * Put the queue in order: sort the rows that are new in it, if they need that,
 * and merge them with the others, both from their ends.
 */
static void
order_queue(Replay *replay)
{
	ReplayRow  *rows = replay->queue;
	int			old = replay->in_order;
	int			new;

	while (replay->in_order < replay->queued &&
		   (replay->in_order == 0 ||
			!comes_before(&rows[replay->in_order], &rows[replay->in_order - 1])))
		replay->in_order++;
	if (replay->in_order == replay->queued)
		return;

	new = replay->queued - old;
	sort_rows(replay, rows + old, new, replay->sorted);
	for (int to = replay->queued; new > 0;)
		if (old > 0 && comes_before(&replay->sorted[new - 1], &rows[old - 1]))
			rows[--to] = rows[--old];
		else
			rows[--to] = replay->sorted[--new];
	replay->in_order = replay->queued;
}

/*
 * Have the processor fetch what rows of the queue will need, step by step from
 * what leads to it: with many keys nothing of that is in its caches.
 */
static inline void
fetch_ahead(const Replay *replay, int count, int i)
{
	const ReplayRow *rows = replay->queue + i;
	const int	nlimits = Min(replay->tier->nlimits, 4);

	count -= i;
	if (count > 20)
		prefetch(rows[20].member);
	if (count > 16)
	{
		prefetch(rows[16].member->view);
		prefetch(rows[16].member->key);
	}
	if (count > 12)
	{
		const char *windows = (const char *) rows[12].member->view->windows;

		for (size_t at = 0; at < nlimits * sizeof(SubjectWindow); at += PG_CACHE_LINE_SIZE / 2)
			prefetch(windows + at);
	}
	for (int j = 0; count > 6 && j < nlimits; j++)
	{
		const Window *window = &rows[6].member->view->windows[j].window;

		prefetch(&replay->blocks.spare.base[window_next_block(window, rows[6].at)]);
	}
}

/* Replay the first rows of the queue, so many of them. */
static void
replay_queued(Replay *replay, int count)
{
	order_queue(replay);
	if (count == 0)
		return;
	for (int i = 0; i < count; i++)
	{
		fetch_ahead(replay, count, i);
		replay_row(replay, &replay->queue[i]);
	}
	replay->last = replay->queue[count - 1];
	replay->queued -= count;
	replay->in_order -= count;
	memmove(replay->queue, replay->queue + count, replay->queued * sizeof(ReplayRow));
}

/* Put a row into the queue, unless those after it were replayed before. */
static void
queue_row(Replay *replay, const ReplayRow *row)
{
	if (replay->last.at != DT_NOBEGIN && comes_before(row, &replay->last))
	{
		replay->is_sorted = replay->stopped = true;
		return;
	}
	if (replay->queued == QUEUED_ROWS)
		replay_queued(replay, QUEUED_ROWS / 2);
	replay->queue[replay->queued++] = *row;
}

/*-------------------------------------------------------------------------
 * Reading
 *-------------------------------------------------------------------------
 */

/* Return a column of a row, from 1; 0 for NULL. */
static Datum
column(const TupleTableSlot * row, int number)
{
	return row->tts_isnull[number - 1] ? (Datum) 0 : row->tts_values[number - 1];
}

/*
 * Return a column that is a text, or an inet, from 1; NULL for NULL.  It was
 * perhaps compressed, together with a longer one.
 */
static void *
column_varlena(const TupleTableSlot * row, int number)
{
	Datum		value = column(row, number);

	return value == (Datum) 0 ? NULL : PG_DETOAST_DATUM_PACKED(value);
}

/* Return the id of the call that a row names. */
static NamedCallId
named_call_id(const text *key, const text *request_id)
{
	NamedCallId id = {
		.key = key == NULL ? 0 : logread_hash(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)),
		.request_id = logread_hash(VARDATA_ANY(request_id),
								   VARSIZE_ANY_EXHDR(request_id))
	};

	return id;
}

/* Return the call that a row names, if any row gives it back; or NULL. */
static NamedCall *
find_named_call(Replay *replay, const text *key, const text *request_id)
{
	NamedCallId id;

	if (replay->named == NULL || request_id == NULL)
		return NULL;
	id = named_call_id(key, request_id);
	return hash_search(replay->named, &id, HASH_FIND, NULL);
}

/* Replay a row of the log.  Returns false if the pass has to start over. */
static bool
take_row(Replay *replay, TupleTableSlot * slot)
{
	const text *key = column_varlena(slot, 2);
	ReplayRow	row = {
		.at = DatumGetTimestampTz(column(slot, 1)),
		.rank = column(slot, 4) == Int32GetDatum(0) ? RANK_ADMITTED : RANK_DENIED,
		.requests = DatumGetInt32(column(slot, 5)),
		.credits = DatumGetInt64(column(slot, 6)),
		.is_reset = !slot->tts_isnull[6] && column(slot, 7) == Int32GetDatum(0)
	};

	if (++replay->rows % ROWS_A_REPORT == 0)
		progress_update(replay->rows);
	if (TIMESTAMP_NOT_FINITE(row.at))
		return true;
	if (row.requests <= 0)
		row.rank = RANK_GIVES_BACK;
	row.is_reset &= row.rank == RANK_GIVES_BACK;
	if (row.rank == RANK_GIVES_BACK && !row.is_reset && !replay->knows_refunds)
	{
		replay->refunds_first = replay->piece_first;
		replay->knows_refunds = replay->stopped = true;
		return false;
	}
	row.member = key == NULL ? member_by_address(replay, column_varlena(slot, 9))
		: member_by_key(replay, key, column_varlena(slot, 3));
	row.named = find_named_call(replay, key, column_varlena(slot, 8));
	if (replay->is_sorted)
		replay_row(replay, &row);
	else
		queue_row(replay, &row);
	return !replay->stopped;
}

/* Note what a row gives back. */
static bool
take_refund(Replay *replay, TupleTableSlot * slot)
{
	const text *key = column_varlena(slot, 1);
	const text *request_id = column_varlena(slot, 2);

	if (request_id == NULL)
	{
		ReplayKey  *of = key == NULL ? &replay->nobody : find_key(replay, key)->object;

		of->gives_newest = true;
	}
	else
	{
		NamedCallId id = named_call_id(key, request_id);
		NamedCall  *named = hash_search(replay->named, &id, HASH_ENTER, NULL);

		named->member = NULL;
	}
	return true;
}

/* Note an account of the key that is asked for, in the context of the list. */
static bool
take_account(Replay *replay, TupleTableSlot * slot)
{
	(void) accumArrayResult(replay->accounts, column(slot, 1), false, TEXTOID,
							CurrentMemoryContext);
	return true;
}

/* Note the calendar of a key, and that the account it has now needs it. */
static bool
take_calendar(Replay *replay, TupleTableSlot * slot)
{
	ReplayKey  *key = find_key(replay, column_varlena(slot, 1))->object;
	const text *account = column_varlena(slot, 2);
	const text *timezone = column_varlena(slot, 4);

	if (!slot->tts_isnull[2])
		key->calendar.anchor = DatumGetTimestampTz(column(slot, 3));
	key->calendar.timezone = copy_bytes(replay, VARDATA_ANY(timezone),
										VARSIZE_ANY_EXHDR(timezone));
	if (account != NULL)
		(void) find_view(replay, find_account(replay, account), key->calendar);
	return true;
}

/* Pass a row of a query on to what takes it. */
static bool
receive_row(TupleTableSlot * slot, DestReceiver * self)
{
	const ReplayReceiver *receiver = (ReplayReceiver *) self;
	MemoryContext old = MemoryContextSwitchTo(receiver->replay->scratch);
	bool		more;

	slot_getallattrs(slot);
	more = receiver->take(receiver->replay, slot);
	MemoryContextSwitchTo(old);
	MemoryContextReset(receiver->replay->scratch);
	return more;
}

/* There is nothing to do before the first row of a query. */
static void
start_receiver(DestReceiver * self, int operation, TupleDesc desc)
{
	(void) self;
	(void) operation;
	(void) desc;
}

/* Nor is there after its last row. */
static void
stop_receiver(DestReceiver * self)
{
	(void) self;
}

/* Have the rows of a query taken, of this span of the log. */
static void
scan(Replay *replay, SpiReading *reading, const SpiStatement *query,
	 bool (*take) (Replay *, TupleTableSlot *), TimestampTz first, TimestampTz end)
{
	ReplayReceiver receiver = {
		.receiver = {
			.receiveSlot = receive_row,
			.rStartup = start_receiver,
			.rShutdown = stop_receiver,
			.rDestroy = stop_receiver,
			.mydest = DestTuplestore
		},
		.replay = replay,
		.take = take
	};
	LogScan		what = {
		.query = query,
		.first = first,
		.end = end,
		.receiver = &receiver.receiver
	};
	Datum		args[2] = {PointerGetDatum(replay->key)};

	if (replay->key != NULL)
		args[1] = makeArrayResult(replay->accounts, CurrentMemoryContext);
	replay->piece_first = first;
	if (!replay->stopped && first < end)
		spi_scan_log(reading, &what, args);
}

/* Return when a day begins. */
static TimestampTz
day_start(int32 day)
{
	return day * USECS_PER_DAY;
}

/*
 * Have the rows of a query taken, from this time on, in their order: piece by
 * piece, each of which is a day that has a partition of its own, or what lies
 * between two such days.
 */
static void
scan_days(Replay *replay, SpiReading *reading, const SpiStatement *query,
		  bool (*take) (Replay *, TupleTableSlot *), TimestampTz first)
{
	for (int i = 0; i < replay->ndays; i++)
		for (int j = 0; j < 2; j++)
		{
			TimestampTz border = Min(day_start(replay->days[i] + j), replay->end);

			if (border <= first)
				continue;
			scan(replay, reading, query, take, first, border);
			first = border;
		}
	scan(replay, reading, query, take, first, replay->end);
}

/* Return how much of a day lies in the span of the replay, from 0 to 1. */
static double
share_of_day(const Replay *replay, int32 day)
{
	TimestampTz first = Max(replay->first, day_start(day));
	TimestampTz end = Min(replay->end, day_start(day + 1));

	return first < end ? (double) (end - first) / USECS_PER_DAY : 0;
}

/*
 * Find out which days have a partition of their own, and about how many rows
 * there are.  One cannot say if the statistics of a partition are missing, nor
 * how many rows are a key's.
 */
static void
read_partitions(Replay *replay, SpiReading *reading)
{
	double		expected = 0;
	bool		is_known = replay->key == NULL;

	spi_run(reading, &partitions, NULL);
	replay->days = SPI_palloc((SPI_processed + 1) * sizeof(int32));
	for (int row = 0; row < (int) SPI_processed; row++)
	{
		const Datum day = spi_value(row, 1, Int32GetDatum(PG_INT32_MAX));
		const double rows = DatumGetFloat8(spi_value(row, 2, (Datum) 0));
		double		share = 1;

		if (DatumGetInt32(day) != PG_INT32_MAX)
		{
			replay->days[replay->ndays++] = DatumGetInt32(day);
			share = share_of_day(replay, DatumGetInt32(day));
		}
		is_known &= rows >= 0 || share == 0;
		expected += Max(rows, 0) * share;
	}
	replay->expected = is_known ? (int64) expected : PROGRESS_UNKNOWN;
}

/* Begin a pass through the log, with nothing counted. */
static void
begin_pass(Replay *replay)
{
	HASHCTL		control = {
		.keysize = sizeof(NamedCallId),
		.entrysize = sizeof(NamedCall)
	};
	Clock		clock = {0, CLOCK_SERVER};

	MemoryContextReset(replay->context);
	memset(&replay->objects, 0, sizeof(Replay) - offsetof(Replay, objects));
	replay->objects = GenerationContextCreate(replay->context, "tierlimit replay objects",
											  ALLOCSET_DEFAULT_SIZES);
	replay->scratch = AllocSetContextCreate(replay->context, "tierlimit replay row",
											ALLOCSET_SMALL_SIZES);
	replay->names = replay_names_create(replay->context, 256, NULL);
	replay->nobody.calendar = default_calendar;
	control.hcxt = replay->context;
	if (replay->knows_refunds)
		replay->named = hash_create("tierlimit named calls", 64, &control,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	/* There are always blocks, in the context of the pass. */
	MemoryContextSwitchTo(replay->context);
	private_grow(&replay->blocks);
	replay->queue = MemoryContextAllocHuge(replay->context,
										   QUEUED_ROWS * sizeof(ReplayRow));
	replay->sorted = MemoryContextAllocHuge(replay->context,
											QUEUED_ROWS * sizeof(ReplayRow));
	replay->sort_keys = MemoryContextAllocHuge(replay->context,
											   2 * QUEUED_ROWS * sizeof(ReplaySortKey));
	replay->last.at = DT_NOBEGIN;
	replay->charge.tier = replay->tier;
	replay->charge.billing_anchor = default_calendar.anchor;
	replay->charge.timezone = default_calendar.timezone;
	call_begin(&replay->call, &replay->charge, 1, clock, 0);
}

/*
 * Replay the log.  Returns false if it has to start over, with what is known
 * now.
 */
static bool
run_pass(Replay *replay, SpiReading *reading)
{
	MemoryContext old = CurrentMemoryContext;

	begin_pass(replay);
	MemoryContextSwitchTo(old);
	replay->stopped = false;
	if (replay->knows_refunds)
	{
		progress_phase("looking for refunds", PROGRESS_UNKNOWN);
		scan_days(replay, reading, &refunds, take_refund, replay->refunds_first);
	}
	if (replay->tier->has_calendar)
		scan(replay, reading, &calendars, take_calendar, DT_NOBEGIN, DT_NOEND);
	progress_phase("replaying calls", replay->expected);
	scan_days(replay, reading, &calls[replay->is_sorted][replay->knows_refunds],
			  take_row, replay->first);
	if (!replay->stopped)
		replay_queued(replay, replay->queued);
	return !replay->stopped;
}

/*-------------------------------------------------------------------------
 * The result
 *-------------------------------------------------------------------------
 */

/* Compare the names of two keys, for qsort(). */
static int
compare_keys(const void *a, const void *b)
{
	const ReplayedKey *x = *(ReplayedKey *const *) a;
	const ReplayedKey *y = *(ReplayedKey *const *) b;
	int			difference = memcmp(x->name, y->name, Min(x->length, y->length));

	return difference != 0 ? difference : x->length - y->length;
}

/* Return whether the result has a row for a key. */
static bool
is_wanted(const Replay *replay, const ReplayedKey *key)
{
	return key->admitted + key->denied > 0 &&
		(replay->key == NULL ||
		 (key->length == (int) VARSIZE_ANY_EXHDR(replay->key) &&
		  memcmp(key->name, VARDATA_ANY(replay->key), key->length) == 0));
}

/* Collect what became of all keys that had calls. */
static ReplayedKeys
collect_keys(Replay *replay)
{
	ReplayedKeys result = {.context = replay->context};
	ReplayNameEntry *entry;
	replay_names_iterator iterator;

	result.keys = MemoryContextAllocHuge(replay->context,
										 ((Size) replay->names->members + 1) * sizeof(ReplayedKey *));
	replay_names_start_iterate(replay->names, &iterator);
	while ((entry = replay_names_iterate(replay->names, &iterator)) != NULL)
	{
		ReplayKey  *key = entry->object;

		if (entry->name.kind == SUBJECT_KEY && is_wanted(replay, &key->result))
			result.keys[result.count++] = &key->result;
	}
	qsort(result.keys, result.count, sizeof(ReplayedKey *), compare_keys);
	if (replay->key == NULL && is_wanted(replay, &replay->nobody.result))
	{
		/* It outlives the replay. */
		ReplayedKey *nobody = make_object(replay, sizeof(ReplayedKey));

		*nobody = replay->nobody.result;
		result.keys[result.count++] = nobody;
	}
	return result;
}

/*
 * Replay what the log says of the time from first on and before end, through
 * the limits of a tier: of all keys or, with a key, of that one, and of those
 * that were counted together with it.  The result has the keys that had calls,
 * and takes memory until replay_done().  Progress is reported, if somebody has
 * begun to.  Raises an ERROR if the log can't be read; no lock may be held, and
 * tiers_refresh() must not be called meanwhile.
 */
ReplayedKeys
replay_log(const Tier *tier, TimestampTz first, TimestampTz end, const text *key)
{
	Replay	   *replay = palloc0(sizeof(Replay));
	ReplayedKeys result;
	SpiReading	reading;

	replay->tier = tier;
	replay->first = first;
	replay->end = end;
	replay->key = key;
	replay->accounts = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	replay->context = AllocSetContextCreate(CurrentMemoryContext, "tierlimit replay",
											ALLOCSET_DEFAULT_SIZES);
	spi_begin(&reading);
	read_partitions(replay, &reading);
	if (key != NULL)
	{
		MemoryContext old = CurrentMemoryContext;

		begin_pass(replay);
		MemoryContextSwitchTo(old);
		progress_phase("looking for accounts", PROGRESS_UNKNOWN);
		scan_days(replay, &reading, &accounts, take_account, first);
	}
	while (!run_pass(replay, &reading))
		CHECK_FOR_INTERRUPTS();
	result = collect_keys(replay);
	spi_end(&reading);
	return result;
}

/* Free what a replay takes. */
void
replay_done(ReplayedKeys *result)
{
	MemoryContextDelete(result->context);
}
