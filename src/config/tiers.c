/*-------------------------------------------------------------------------
 *
 * tiers.c
 *		The tiers with their limits and endpoints, and the error codes, as
 *		this session remembers them.
 *
 * A session reads a tier when it is asked for it, and remembers it, or that
 * there is none, until some tier changes.  It reads prices and error codes,
 * which each call needs, at once, and again when they change.
 *
 * Triggers on the tables invalidate their relcache entries; that message
 * arrives, with PostgreSQL's own machinery, in the changing session at once
 * and in all others, also on a standby, at commit or COMMIT PREPARED.  Our
 * callback only marks what is remembered as stale, since it may run at any
 * time, even while tables are read.
 *
 * Memory: what is remembered of each kind hangs off one context below
 * CacheMemoryContext, which is replaced as a whole.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/installation.h"
#include "base/settings.h"
#include "base/spi.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "config/path.h"
#include "config/tiers.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_KEY (MAX_TIER_LENGTH + 1)

/* So many names are remembered that no tier has. */
#define MAX_ABSENT 1000

typedef struct TierEntry
{
	char		name[MAX_KEY];	/* hash key */
	int			length;			/* of the name */
	bool		exists;			/* if not, nothing else is set */
	Tier		tier;
} TierEntry;

/* The parts, each of which is remembered, and forgotten, as a whole. */
typedef enum Part
{
	PART_TIERS,
	PART_ERROR_CODES,
	PART_PRICES,
	PART_PATTERNS,
	NUM_PARTS
} Part;

typedef struct Memory
{
	MemoryContext context;		/* NULL: nothing has been read yet */
	uint64		is_of;			/* how many changes it knows of */
	uint64		changes;		/* invalidations that concern it so far */
} Memory;

static Memory memories[NUM_PARTS] = {
	[PART_TIERS] = {.changes = 1},
	[PART_ERROR_CODES] = {.changes = 1},
	[PART_PRICES] = {.changes = 1},
	[PART_PATTERNS] = {.changes = 1}
};

/*
 * All invalidations so far, and how many of them the session has caught up
 * with.
 */
static uint64 all_changes = 1;
static uint64 seen_changes = 0;

/* These are PART_TIERS. */
static HTAB *tiers;				/* TierEntries, as far as asked for */
static int	absent;				/* how many of them don't exist */
static TierEntry *last_found;	/* the last one, mostly the next one, too; or
								 * NULL */
static const TierEntry *address_tier;	/* if known; NULL: there is none */
static bool address_tier_known;

static HTAB *error_codes;		/* PART_ERROR_CODES: of ErrorCode */
static PatternSet *prices;		/* PART_PRICES: credits, by endpoint */
static PatternSet *patterns;	/* PART_PATTERNS: of all tables */

static struct Watched
{
	const char *name;
	Part		parts[2];		/* those that change with the table */
	Oid			relid;
}			watched[] = {
	{"tier", {PART_TIERS, PART_TIERS}, InvalidOid},
	{"tier_limit", {PART_TIERS, PART_TIERS}, InvalidOid},
	{"tier_endpoint", {PART_TIERS, PART_PATTERNS}, InvalidOid},
	{"endpoint", {PART_PRICES, PART_PATTERNS}, InvalidOid},
	{"error_code", {PART_ERROR_CODES, PART_ERROR_CODES}, InvalidOid}
};

static SpiStatement tier_query = {
	"SELECT t.name, l.name, l.kind, l.unit, l.period, l.max::pg_catalog.int8,"
	" l.enforce, l.error_code"
	" FROM tierlimit.tier t LEFT JOIN tierlimit.tier_limit l"
	" ON l.tier OPERATOR(pg_catalog.=) t.name"
	" WHERE t.name OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}, NULL
};

static SpiStatement too_many_query = {
	"SELECT tier FROM tierlimit.tier_limit WHERE tier OPERATOR(pg_catalog.=) $1"
	" LIMIT 1 OFFSET " CppAsString2(MAX_LIMITS), 1, {TEXTOID}, NULL
};

static SpiStatement error_query = {
	"SELECT code, http_status, name, message FROM tierlimit.error_code", 0, {0}, NULL
};

static SpiStatement price_query = {
	"SELECT endpoint, credits::pg_catalog.int8 FROM tierlimit.endpoint", 0, {0}, NULL
};

static SpiStatement endpoint_query = {
	"SELECT endpoint FROM tierlimit.tier_endpoint"
	" WHERE tier OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}, NULL
};

static SpiStatement pattern_query = {
	"SELECT endpoint FROM tierlimit.endpoint"
	" UNION SELECT endpoint FROM tierlimit.tier_endpoint", 0, {0}, NULL
};

/*
 * Note that a table may have changed: a relcache callback, which looks nothing
 * up.
 */
static void
on_relcache_invalidation(Datum arg, Oid relid)
{
	(void) arg;
	installation_forget(relid);
	for (size_t i = 0; i < lengthof(watched); i++)
		if (relid == InvalidOid || watched[i].relid == relid)
		{
			memories[watched[i].parts[0]].changes++;
			memories[watched[i].parts[1]].changes++;
			all_changes++;
		}
}

/* Watch for changes.  Called from _PG_init(). */
void
tiers_init(void)
{
	CacheRegisterRelcacheCallback(on_relcache_invalidation, (Datum) 0);
}

/* Return an empty hash table in this memory context. */
static HTAB *
create_table(const char *name, Size keysize, Size entrysize, int flags,
			 MemoryContext context)
{
	HASHCTL		control = {
		.keysize = keysize,
		.entrysize = entrysize,
		.hcxt = context
	};

	return hash_create(name, 64, &control, HASH_ELEM | HASH_CONTEXT | flags);
}

/* Return a text column, copied to the context. */
static Datum
copy_text(int row, int column, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Datum		value = PointerGetDatum(PG_DETOAST_DATUM_COPY(spi_value(row, column, (Datum) 0)));

	MemoryContextSwitchTo(old);
	return value;
}

const char *const tiers_unit_names[] = {
	[UNIT_REQUESTS] = "requests",
	[UNIT_CREDITS] = "credits"
};

const char *const tiers_kind_names[] = {
	[WINDOW_SLIDING] = "sliding",
	[WINDOW_CALENDAR] = "calendar"
};

/*
 * Return the error code of a limit that names none, which goes by its period;
 * those of addresses have a code of their own.
 */
static int32
default_error_code(const char *tier, int64 period_us)
{
	if (strcmp(tier, ADDRESS_TIER) == 0)
		return ERROR_ADDRESS_LIMIT;
	return period_us <= USECS_PER_HOUR ? ERROR_MINUTE_LIMIT
		: period_us <= USECS_PER_DAY ? ERROR_DAILY_LIMIT : ERROR_MONTHLY_LIMIT;
}

/* Return the limit in a row of the query's result. */
static TierLimit
read_limit(int row, MemoryContext context)
{
	TierLimit	limit = {.exact_slots = tierlimit_window_slots};
	Interval   *period = DatumGetIntervalP(spi_value(row, 5, (Datum) 0));

	limit.name = copy_text(row, 2, context);
	limit.kind = strcmp(spi_string(row, 3), tiers_kind_names[WINDOW_CALENDAR]) == 0
		? WINDOW_CALENDAR : WINDOW_SLIDING;
	limit.unit = strcmp(spi_string(row, 4), tiers_unit_names[UNIT_CREDITS]) == 0
		? UNIT_CREDITS : UNIT_REQUESTS;
	limit.period = *period;
	limit.period_us = period->time +
		((int64) period->month * DAYS_PER_MONTH + period->day) * USECS_PER_DAY;
	limit.max = DatumGetInt64(spi_value(row, 6, (Datum) 0));
	limit.enforce = DatumGetBool(spi_value(row, 7, (Datum) 0));
	limit.error_code =
		DatumGetInt32(spi_value(row, 8,
								Int32GetDatum(default_error_code(spi_string(row, 1),
																 limit.period_us))));
	return limit;
}

/* Compare two limits, the shortest first, for qsort(). */
static int
compare_limits(const void *a, const void *b)
{
	const TierLimit *x = (const TierLimit *) a;
	const TierLimit *y = (const TierLimit *) b;

	if (x->period_us != y->period_us)
		return x->period_us < y->period_us ? -1 : 1;
	if (x->kind != y->kind)
		return (int) x->kind - (int) y->kind;
	return (int) x->unit - (int) y->unit;
}

/*
 * Add the refund window to a tier that needs one.  A refund gives back what is
 * counted, be it requests or credits.  Of a tier that limits only one of them
 * it has to know the other as well: so there is one more window, like its
 * longest limit.  Calls do not ask for that window; a refund does, and from
 * then on it is counted until it has run empty.
 */
static void
add_refund_window(Tier *tier)
{
	TierLimit  *extra = &tier->limits[tier->nlimits];
	int			of_unit[2] = {0};

	for (int i = 0; i < tier->nlimits; i++)
		of_unit[tier->limits[i].unit]++;
	if (tier->nlimits == 0 ||
		(of_unit[UNIT_REQUESTS] > 0 && of_unit[UNIT_CREDITS] > 0))
		return;

	*extra = tier->limits[tier->nlimits - 1];
	extra->unit = of_unit[UNIT_CREDITS] > 0 ? UNIT_REQUESTS : UNIT_CREDITS;
	extra->max = PG_INT64_MAX;
	extra->enforce = false;
	tier->nwindows++;
}

/* Make a tier of the rows of the query's result. */
static void
make_tier(Tier *tier, int rows, MemoryContext context)
{
	bool		has_limits = spi_value(0, 2, (Datum) 0) != (Datum) 0;

	memset(tier, 0, sizeof(Tier));
	tier->name = copy_text(0, 1, context);
	tier->nlimits = has_limits ? rows : 0;
	tier->limits = MemoryContextAllocZero(context,
										  (tier->nlimits + 1) * sizeof(TierLimit));
	for (int i = 0; i < tier->nlimits; i++)
		tier->limits[i] = read_limit(i, context);
	qsort(tier->limits, tier->nlimits, sizeof(TierLimit), compare_limits);
	tier->nwindows = tier->nlimits;
	add_refund_window(tier);
	for (int i = 0; i < tier->nwindows; i++)
		tier->has_calendar |= tier->limits[i].kind == WINDOW_CALENDAR;
}

/* Raise the ERROR about a tier with too many limits. */
static void
report_too_many_limits(const char *tier)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("tier \"%s\" has too many limits", tier),
			 errdetail("A tier has at most %d limits.", MAX_LIMITS)));
}

/*
 * Raise an ERROR if this transaction has given the tier more limits than
 * MAX_LIMITS.  (Two transactions at once could still do so; then tiers_find()
 * raises it.)  No lock may be held.
 */
void
tiers_require_few_limits(const text *tier)
{
	SpiReading	reading;
	Datum		name = PointerGetDatum(tier);

	spi_begin(&reading);
	spi_run(&reading, &too_many_query, &name);
	if (SPI_processed > 0)
		report_too_many_limits(spi_string(0, 1));
	spi_end(&reading);
}

/*
 * Return the endpoints that a tier includes; NULL for a tier without rows,
 * which includes all.
 */
static PatternSet *
read_endpoints(SpiReading *reading, Datum tier, MemoryContext context)
{
	PatternSet *set = NULL;

	spi_run(reading, &endpoint_query, &tier);
	for (int row = 0; row < (int) SPI_processed; row++)
	{
		if (set == NULL)
			set = pattern_create(context);
		pattern_add(set, spi_string(row, 1), 1);
	}
	return set;
}

/* Read a tier.  Returns false if there is none. */
static bool
read_tier(const char *name, Tier *tier)
{
	MemoryContext context = memories[PART_TIERS].context;
	SpiReading	reading;
	Datum		arg;
	bool		found;

	spi_begin(&reading);
	arg = CStringGetTextDatum(name);
	spi_run(&reading, &tier_query, &arg);
	found = SPI_processed > 0;
	if (found)
	{
		make_tier(tier, (int) SPI_processed, context);
		tier->endpoints = read_endpoints(&reading, arg, context);
	}
	spi_end(&reading);
	return found;
}

/*
 * Return the entry of a tier, or of the lack of one; NULL for a lack that is
 * not remembered.  A tier that is read just when it changes is remembered, but
 * forgotten with the next refresh.
 */
static TierEntry *
find_entry(const char *name)
{
	TierEntry  *entry = hash_search(tiers, name, HASH_FIND, NULL);
	Tier		tier;
	bool		exists;

	if (entry != NULL)
		return entry;
	exists = read_tier(name, &tier);
	if (!exists && ++absent > MAX_ABSENT)
		return NULL;
	entry = hash_search(tiers, name, HASH_ENTER, NULL);
	entry->length = strlen(name);
	entry->exists = exists;
	if (exists)
		entry->tier = tier;
	return entry;
}

/* Return all error codes, in this memory context. */
static HTAB *
read_error_codes(SpiReading *reading, MemoryContext context)
{
	HTAB	   *codes = create_table("tierlimit error codes", sizeof(int32),
									 sizeof(ErrorCode), HASH_BLOBS, context);

	spi_run(reading, &error_query, NULL);
	for (int row = 0; row < (int) SPI_processed; row++)
	{
		int32		code = DatumGetInt32(spi_value(row, 1, (Datum) 0));
		ErrorCode  *entry = hash_search(codes, &code, HASH_ENTER, NULL);

		entry->http_status = DatumGetInt32(spi_value(row, 2, (Datum) 0));
		entry->name = copy_text(row, 3, context);
		entry->message = copy_text(row, 4, context);
	}
	return codes;
}

/*
 * Return the patterns that a query finds, in this memory context.  The second
 * column is their value; without it values don't matter.
 */
static PatternSet *
read_patterns(SpiReading *reading, SpiStatement *query, MemoryContext context)
{
	PatternSet *set = pattern_create(context);

	spi_run(reading, query, NULL);
	for (int row = 0; row < (int) SPI_processed; row++)
		pattern_add(set, spi_string(row, 1),
					SPI_tuptable->tupdesc->natts < 2 ? 1
					: DatumGetInt64(spi_value(row, 2, (Datum) 0)));
	return set;
}

/* Read a part into this context. */
static void
read_part(Part part, SpiReading *reading, MemoryContext context)
{
	switch (part)
	{
		case PART_TIERS:
			tiers = create_table("tierlimit tiers", MAX_KEY,
								 sizeof(TierEntry), HASH_STRINGS, context);
			absent = 0;
			last_found = NULL;
			address_tier_known = false;
			break;
		case PART_ERROR_CODES:
			error_codes = read_error_codes(reading, context);
			break;
		case PART_PRICES:
			prices = read_patterns(reading, &price_query, context);
			break;
		case PART_PATTERNS:
			patterns = read_patterns(reading, &pattern_query, context);
			break;
		case NUM_PARTS:
			break;
	}
}

/*
 * Read a part anew if it is stale, into a context that dies with the
 * transaction unless all goes well.  If more changes come meanwhile, they are
 * for the next time.
 */
static void
refresh_part(Part part)
{
	Memory	   *memory = &memories[part];
	uint64		changes = memory->changes;
	MemoryContext context;
	SpiReading	reading;

	if (memory->is_of == changes)
		return;
	spi_begin(&reading);
	context = AllocSetContextCreate(CurrentMemoryContext, "tierlimit tiers",
									ALLOCSET_DEFAULT_SIZES);
	read_part(part, &reading, context);
	MemoryContextSetParent(context, CacheMemoryContext);
	spi_end(&reading);
	if (memory->context != NULL)
		MemoryContextDelete(memory->context);
	memory->context = context;
	memory->is_of = changes;
}

/* Find out which relations are watched. */
static void
watch_tables(void)
{
	Oid			schema = get_rel_namespace(installation()->id.extension_id);

	for (size_t i = 0; i < lengthof(watched); i++)
		watched[i].relid = get_relname_relid(watched[i].name, schema);
}

/*
 * Take notice of all changes that were committed until now, and of this
 * transaction's own.  What the other functions return is valid until the next
 * call of this one.  May read tables and raise an ERROR, so no lock may be
 * held.
 */
void
tiers_refresh(void)
{
	AcceptInvalidationMessages();
	if (unlikely(seen_changes != all_changes))
	{
		uint64		changes = all_changes;

		watch_tables();
		for (int part = 0; part < PART_PATTERNS; part++)
			refresh_part(part);
		seen_changes = changes;
	}
}

/*
 * Return which state of the tiers is remembered: another number for each
 * state.
 */
uint64
tiers_version(void)
{
	return memories[PART_TIERS].is_of;
}

/* Have the next tiers_refresh() forget the tiers in any case. */
void
tiers_forget(void)
{
	memories[PART_TIERS].changes++;
	all_changes++;
}

/* Return the tier of an entry; NULL if there is none. */
static const Tier *
tier_of_entry(const TierEntry *entry)
{
	if (entry == NULL || !entry->exists)
		return NULL;
	if (entry->tier.nlimits > MAX_LIMITS)
		report_too_many_limits(entry->name);
	return &entry->tier;
}

/*
 * Find a tier by its name.  Returns NULL if there is none; raises an ERROR if
 * it has more limits than MAX_LIMITS.  May read tables, so no lock may be
 * held.
 */
const Tier *
tiers_find(const char *name, int length)
{
	char		key[MAX_KEY];

	if (last_found != NULL && length == last_found->length &&
		memcmp(last_found->name, name, length) == 0)
		return tier_of_entry(last_found);

	if (length >= MAX_KEY)
		return NULL;
	memcpy(key, name, length);
	key[length] = '\0';
	last_found = find_entry(key);
	return tier_of_entry(last_found);
}

/*
 * Have the tier of addresses read now, so that it is of the same state as the
 * tiers that were found before.  May read tables, so no lock may be held.
 */
void
tiers_look_for_addresses(void)
{
	if (unlikely(!address_tier_known))
	{
		address_tier = find_entry(ADDRESS_TIER);
		address_tier_known = true;
	}
}

/*
 * Return the tier named ADDRESS_TIER, for which each call with an address
 * asks; NULL if there is none.  May read tables, so no lock may be held.
 */
const Tier *
tiers_for_addresses(void)
{
	tiers_look_for_addresses();
	return tier_of_entry(address_tier);
}

/*
 * Find a tier by its name, as tiers_find() does, and raise an ERROR if there
 * is none.
 */
const Tier *
tiers_require(const char *name, int length)
{
	const Tier *tier = tiers_find(name, length);

	if (tier == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("tier \"%s\" does not exist",
						pnstrdup(name, length)),
				 errhint("Insert it into tierlimit.tier, and its limits into tierlimit.tier_limit.")));
	return tier;
}

/*
 * Set *value to that of the longest pattern that matches an endpoint.  Returns
 * false if none does.
 */
static bool
find_pattern(const PatternSet *set, const text *endpoint, int64 *value)
{
	return pattern_find(set, VARDATA_ANY(endpoint),
						VARSIZE_ANY_EXHDR(endpoint), value);
}

/*
 * Return whether a tier includes an endpoint, however the server reads the
 * path.  No endpoint (NULL) is only included where every one is.
 */
bool
tiers_include(const Tier *tier, const text *endpoint)
{
	const text *other;
	int64		value;

	if (tier->endpoints == NULL)
		return true;
	if (endpoint == NULL)
		return pattern_find(tier->endpoints, "", 0, &value);
	if (!find_pattern(tier->endpoints, endpoint, &value))
		return false;
	other = path_with_slashes(endpoint);
	return other == NULL || find_pattern(tier->endpoints, other, &value);
}

/*
 * Return what a call of an endpoint costs if the caller does not say so, in
 * credits: where servers may read the path in two ways, the higher price.  No
 * endpoint (NULL) costs 1.
 */
int64
tiers_price(const text *endpoint)
{
	const text *other = endpoint == NULL ? NULL : path_with_slashes(endpoint);
	int64		credits = 1;
	int64		other_credits = 1;

	if (endpoint != NULL)
		(void) find_pattern(prices, endpoint, &credits);
	if (other == NULL)
		return credits;
	(void) find_pattern(prices, other, &other_credits);
	return Max(credits, other_credits);
}

/*
 * Return the longest pattern of any table that matches an endpoint, as it was
 * written; NULL if none does.  May read tables, so no lock may be held.
 */
text *
tiers_pattern(const text *endpoint)
{
	const char *name;

	tiers_refresh();
	refresh_part(PART_PATTERNS);
	name = pattern_name(patterns, VARDATA_ANY(endpoint),
						VARSIZE_ANY_EXHDR(endpoint));
	return name == NULL ? NULL : cstring_to_text(name);
}

/*
 * Return an error code.  One that the table lacks gets a status, a name and a
 * message as well.  Reads no table.
 */
ErrorCode
tiers_error_code(int32 code)
{
	ErrorCode  *entry = hash_search(error_codes, &code, HASH_FIND,
									NULL);
	ErrorCode	unknown = {.code = code};

	if (entry != NULL)
		return *entry;

	unknown.http_status = code >= ERROR_MINUTE_LIMIT ? 429 : 403;
	unknown.name = PointerGetDatum(cstring_to_text(psprintf("ERROR_%d", code)));
	unknown.message = PointerGetDatum(cstring_to_text("The request was refused."));
	return unknown;
}
