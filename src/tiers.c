/*-------------------------------------------------------------------------
 *
 * tiers.c
 *		The tiers with their limits and endpoints, and the error codes, as
 *		this session remembers them.
 *
 * There are few tiers and they seldom change, so each session reads all of
 * them at once, and again after a change.  That makes "no such tier" as cheap
 * to know as a tier.
 *
 * Triggers on the tables invalidate their relcache entries; that
 * message arrives, with PostgreSQL's own machinery, in the changing session
 * at once and in all others, also on a standby, at commit or COMMIT PREPARED.
 * Our callback only marks what we have as stale, since it may run at any time,
 * even while we read.
 *
 * Memory: all of it hangs off one context below CacheMemoryContext, which is
 * replaced as a whole when a new one is complete.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "query.h"
#include "registry.h"
#include "scope.h"
#include "settings.h"
#include "tiers.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_KEY (MAX_TIER_LENGTH + 1)

typedef struct TierEntry
{
	char		name[MAX_KEY];	/* hash key */
	int			length;			/* of the name */
	Tier		tier;
} TierEntry;

/* One reading of the tables. */
typedef struct Tables
{
	MemoryContext context;
	HTAB	   *tiers;			/* of TierEntry */
	TierEntry  *last_found;		/* mostly the next one, too; or NULL */
	TierEntry  *address_tier;	/* NULL: there is none */
	HTAB	   *error_codes;	/* of ErrorCode */
	PatternSet *prices;			/* credits, by endpoint */
} Tables;

static Tables current;
static uint64 current_is_of = 0;	/* number of changes that it knows of */
static uint64 changes = 1;		/* invalidations that concern it, so far */

static const char *const watched_names[] = {
	"tier", "tier_limit", "error_code", "endpoint", "tier_endpoint"
};

static Oid	watched[lengthof(watched_names)];

static Statement tier_query = {
	"SELECT t.name, l.name, l.kind, l.unit, l.period, l.max, l.enforce, l.error_code"
	" FROM tierlimit.tier t LEFT JOIN tierlimit.tier_limit l"
	" ON l.tier OPERATOR(pg_catalog.=) t.name ORDER BY t.name, l.name", 0, {0}, NULL
};

static Statement too_many_query = {
	"SELECT tier FROM tierlimit.tier_limit GROUP BY tier"
	" HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) "
	CppAsString2(MAX_LIMITS), 0, {0}, NULL
};

static Statement error_query = {
	"SELECT code, http_status, name, message FROM tierlimit.error_code", 0, {0}, NULL
};

static Statement price_query = {
	"SELECT endpoint, credits FROM tierlimit.endpoint", 0, {0}, NULL
};

static Statement endpoint_query = {
	"SELECT tier, endpoint FROM tierlimit.tier_endpoint", 0, {0}, NULL
};

static void
on_relcache_invalidation(Datum arg, Oid relid)
{
	(void) arg;
	installation_forget(relid);
	if (relid == InvalidOid)
		changes++;
	for (size_t i = 0; i < lengthof(watched); i++)
		if (watched[i] == relid)
			changes++;
}

void
tiers_init(void)
{
	CacheRegisterRelcacheCallback(on_relcache_invalidation, (Datum) 0);
}

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

/* A text column, copied to the context. */
static Datum
copy_text(int row, int column, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Datum		value = PointerGetDatum(PG_DETOAST_DATUM_COPY(query_value(row, column, (Datum) 0)));

	MemoryContextSwitchTo(old);
	return value;
}

/* "NULL = by period", but those of addresses have a code of their own. */
static int32
default_error_code(const char *tier, int64 period_us)
{
	if (strcmp(tier, ADDRESS_TIER) == 0)
		return 1011;
	return period_us <= USECS_PER_HOUR ? 1008
		: period_us <= USECS_PER_DAY ? 1009 : 1010;
}

static TierLimit
read_limit(int row, MemoryContext context)
{
	TierLimit	limit = {.exact_slots = tierlimit_window_slots};
	Interval   *period = DatumGetIntervalP(query_value(row, 5, (Datum) 0));

	limit.name = copy_text(row, 2, context);
	limit.kind = strcmp(query_string(row, 3), "calendar") == 0
		? WINDOW_CALENDAR : WINDOW_SLIDING;
	limit.unit = strcmp(query_string(row, 4), "credits") == 0
		? UNIT_CREDITS : UNIT_REQUESTS;
	limit.period = *period;
	limit.period_us = period->time +
		((int64) period->month * DAYS_PER_MONTH + period->day) * USECS_PER_DAY;
	limit.max = DatumGetInt64(query_value(row, 6, (Datum) 0));
	limit.enforce = DatumGetBool(query_value(row, 7, (Datum) 0));
	limit.error_code =
		DatumGetInt32(query_value(row, 8,
								  Int32GetDatum(default_error_code(query_string(row, 1),
														   limit.period_us))));
	return limit;
}

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
 * What a refund gives back is what is counted, be it requests or credits.  Of a
 * tier that limits only one of them it has to know the other as well: so there
 * is one more window, like its longest limit.  Calls do not ask for it; whoever
 * gives back does, and from then on it is counted until it has run empty.
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

/* The rows of one tier are first to last. */
static void
add_tier(Tables *tables, int first, int last)
{
	char		key[MAX_KEY] = {0};
	bool		has_limits = query_value(first, 2, (Datum) 0) != (Datum) 0;
	TierEntry  *entry;
	Tier	   *tier;

	strlcpy(key, query_string(first, 1), sizeof(key));
	entry = hash_search(tables->tiers, key, HASH_ENTER, NULL);
	entry->length = strlen(key);
	tier = &entry->tier;
	memset(tier, 0, sizeof(Tier));
	tier->name = copy_text(first, 1, tables->context);
	tier->nlimits = has_limits ? last - first + 1 : 0;
	tier->limits = MemoryContextAllocZero(tables->context,
										  (tier->nlimits + 1) * sizeof(TierLimit));
	for (int i = 0; i < tier->nlimits; i++)
		tier->limits[i] = read_limit(first + i, tables->context);
	qsort(tier->limits, tier->nlimits, sizeof(TierLimit), compare_limits);
	tier->nwindows = tier->nlimits;
	add_refund_window(tier);
	for (int i = 0; i < tier->nwindows; i++)
		tier->has_calendar |= tier->limits[i].kind == WINDOW_CALENDAR;
}

static void
report_too_many_limits(const char *tier)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("tier \"%s\" has too many limits", tier),
			 errdetail("A tier has at most %d limits.", MAX_LIMITS)));
}

void
tiers_require_few_limits(void)
{
	Reading		reading;

	query_begin(&reading);
	query_run(&reading, &too_many_query, NULL);
	if (SPI_processed > 0)
		report_too_many_limits(query_string(0, 1));
	query_end(&reading);
}

static void
read_tiers(Reading *reading, Tables *tables)
{
	int			first = 0;
	int			rows;

	query_run(reading, &tier_query, NULL);
	rows = (int) SPI_processed;
	for (int row = 0; row < rows; row++)
	{
		if (row + 1 < rows &&
			strcmp(query_string(row, 1), query_string(row + 1, 1)) == 0)
			continue;
		add_tier(tables, first, row);
		first = row + 1;
	}
}

static void
read_error_codes(Reading *reading, Tables *tables)
{
	query_run(reading, &error_query, NULL);
	for (int row = 0; row < (int) SPI_processed; row++)
	{
		int32		code = DatumGetInt32(query_value(row, 1, (Datum) 0));
		ErrorCode  *entry = hash_search(tables->error_codes, &code,
										HASH_ENTER, NULL);

		entry->http_status = DatumGetInt32(query_value(row, 2, (Datum) 0));
		entry->name = copy_text(row, 3, tables->context);
		entry->message = copy_text(row, 4, tables->context);
	}
}

static void
read_prices(Reading *reading, Tables *tables)
{
	tables->prices = pattern_create(tables->context);
	query_run(reading, &price_query, NULL);
	for (int row = 0; row < (int) SPI_processed; row++)
		pattern_add(tables->prices, query_string(row, 1),
					DatumGetInt64(query_value(row, 2, (Datum) 0)));
}

/* A tier without rows includes all endpoints. */
static void
read_endpoints(Reading *reading, Tables *tables)
{
	query_run(reading, &endpoint_query, NULL);
	for (int row = 0; row < (int) SPI_processed; row++)
	{
		char		key[MAX_KEY] = {0};
		TierEntry  *entry;

		strlcpy(key, query_string(row, 1), sizeof(key));
		entry = hash_search(tables->tiers, key, HASH_FIND, NULL);
		if (entry == NULL)
			continue;
		if (entry->tier.endpoints == NULL)
			entry->tier.endpoints = pattern_create(tables->context);
		pattern_add(entry->tier.endpoints, query_string(row, 2), 1);
	}
}

static void
watch_tables(void)
{
	Oid			schema = get_rel_namespace(installation()->scope.catalog);

	for (size_t i = 0; i < lengthof(watched); i++)
		watched[i] = get_relname_relid(watched_names[i], schema);
}

/*
 * Read the tables into a context that dies with the transaction unless it
 * becomes the current one.
 */
static Tables
read_tables(void)
{
	Tables		tables;
	Reading		reading;

	query_begin(&reading);
	tables.context = AllocSetContextCreate(CurrentMemoryContext,
										   "tierlimit tiers",
										   ALLOCSET_DEFAULT_SIZES);
	tables.last_found = NULL;
	tables.tiers = create_table("tierlimit tiers", MAX_KEY,
								sizeof(TierEntry), HASH_STRINGS,
								tables.context);
	tables.error_codes = create_table("tierlimit error codes", sizeof(int32),
									  sizeof(ErrorCode), HASH_BLOBS,
									  tables.context);
	read_tiers(&reading, &tables);
	read_error_codes(&reading, &tables);
	read_prices(&reading, &tables);
	read_endpoints(&reading, &tables);
	tables.address_tier = hash_search(tables.tiers, ADDRESS_TIER, HASH_FIND,
									  NULL);
	MemoryContextSetParent(tables.context, CacheMemoryContext);
	query_end(&reading);
	return tables;
}

void
tiers_refresh(void)
{
	AcceptInvalidationMessages();
	if (unlikely(current_is_of != changes))
	{
		uint64		seen = changes; /* more may come while we read: they are
									 * for the next call */
		Tables		fresh;

		watch_tables();
		fresh = read_tables();
		if (current.context != NULL)
			MemoryContextDelete(current.context);
		current = fresh;
		current_is_of = seen;
	}
}

uint64
tiers_version(void)
{
	return current_is_of;
}

void
tiers_forget(void)
{
	changes++;
}

static void
require_few_limits(const TierEntry *entry)
{
	if (entry->tier.nlimits > MAX_LIMITS)
		report_too_many_limits(entry->name);
}

const Tier *
tiers_find(const char *name, int length)
{
	char		key[MAX_KEY];
	TierEntry  *entry = current.last_found;

	if (entry != NULL && length == entry->length &&
		memcmp(entry->name, name, length) == 0)
		return &entry->tier;

	if (length >= MAX_KEY)
		return NULL;
	memcpy(key, name, length);
	key[length] = '\0';
	entry = hash_search(current.tiers, key, HASH_FIND, NULL);
	if (entry == NULL)
		return NULL;
	require_few_limits(entry);
	current.last_found = entry;
	return &entry->tier;
}

const Tier *
tiers_for_addresses(void)
{
	if (current.address_tier == NULL)
		return NULL;
	require_few_limits(current.address_tier);
	return &current.address_tier->tier;
}

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

bool
tiers_include(const Tier *tier, const text *endpoint)
{
	int64		value;

	if (tier->endpoints == NULL)
		return true;
	return endpoint == NULL ? pattern_find(tier->endpoints, "", 0, &value)
		: pattern_find(tier->endpoints, VARDATA_ANY(endpoint),
					   VARSIZE_ANY_EXHDR(endpoint), &value);
}

int64
tiers_price(const text *endpoint)
{
	int64		credits = 1;

	if (endpoint != NULL)
		(void) pattern_find(current.prices, VARDATA_ANY(endpoint),
							VARSIZE_ANY_EXHDR(endpoint), &credits);
	return credits;
}

ErrorCode
tiers_error_code(int32 code)
{
	ErrorCode  *entry = hash_search(current.error_codes, &code, HASH_FIND,
									NULL);
	ErrorCode	unknown = {.code = code};

	if (entry != NULL)
		return *entry;

	unknown.http_status = code >= 1008 ? 429 : 403;
	unknown.name = PointerGetDatum(cstring_to_text(psprintf("ERROR_%d", code)));
	unknown.message = PointerGetDatum(cstring_to_text("The request was refused."));
	return unknown;
}
