/*-------------------------------------------------------------------------
 *
 * coalesce.c
 *		Rows of the request log that are alike share one.
 *
 * Admitted calls are alike if they differ in nothing but their time and what
 * they count; denied ones, which may come as a flood, if they have the key,
 * the endpoint and the code in common.  Only rows of the same interval
 * are coalesced, be it a second or tierlimit.log_granularity.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/int.h"
#include "log/coalesce.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* What rows are found by. */
typedef struct CoalesceKey
{
	const LogRow *row;
	int64		interval;		/* number of the interval */
} CoalesceKey;

typedef struct CoalesceEntry
{
	CoalesceKey key;			/* hash key */
	LogRow	   *row;
} CoalesceEntry;

struct Coalescer
{
	MemoryContext context;
	HTAB	   *rows;			/* of CoalesceEntry; NULL: none */
};

static bool
same_text(const LogRow *a, const LogRow *b, LogTextColumn column)
{
	LogText		x = a->texts[column];
	LogText		y = b->texts[column];

	if (x.bytes == NULL || y.bytes == NULL)
		return x.bytes == y.bytes;
	return x.length == y.length && memcmp(x.bytes, y.bytes, x.length) == 0;
}

static bool
same_address(const LogRow *a, const LogRow *b)
{
	if (!a->has_address || !b->has_address)
		return a->has_address == b->has_address;
	return memcmp(&a->address, &b->address, sizeof(inet_struct)) == 0;
}

static bool
is_alike(const CoalesceKey *a, const CoalesceKey *b)
{
	const LogRow *x = a->row;
	const LogRow *y = b->row;

	if (a->interval != b->interval || x->error_code != y->error_code ||
		!same_text(x, y, LOG_KEY) || !same_text(x, y, LOG_ENDPOINT))
		return false;
	return x->error_code != 0 ||
		(x->shadow_code == y->shadow_code &&
		 same_text(x, y, LOG_ACCOUNT) && same_text(x, y, LOG_TIER) &&
		 same_text(x, y, LOG_REQUEST_ID) && same_address(x, y));
}

static uint32
hash_text(uint32 hash, LogText logged)
{
	return hash_combine(hash, hash_bytes((const unsigned char *) logged.bytes,
										 logged.length));
}

/* For the hash table. */
static uint32
hash_key(const void *key, Size size)
{
	const CoalesceKey *k = (const CoalesceKey *) key;
	uint32		hash = hash_combine(murmurhash32((uint32) k->row->error_code),
									murmurhash32((uint32) k->interval));

	(void) size;
	hash = hash_text(hash, k->row->texts[LOG_KEY]);
	return hash_text(hash, k->row->texts[LOG_ENDPOINT]);
}

static int
compare_keys(const void *a, const void *b, Size size)
{
	(void) size;
	return !is_alike((const CoalesceKey *) a, (const CoalesceKey *) b);
}

static HTAB *
create_rows(Coalescer *coalescer)
{
	HASHCTL		control = {
		.keysize = sizeof(CoalesceKey),
		.entrysize = sizeof(CoalesceEntry),
		.hash = hash_key,
		.match = compare_keys,
		.hcxt = coalescer->context
	};

	return hash_create("tierlimit rows alike", 256, &control,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/* Intervals are counted anew in each minute, so that none crosses a border. */
static CoalesceKey
key_of(const LogRow *row, int64 interval)
{
	CoalesceKey key = {row, 0};

	key.interval = row->at / USECS_PER_MINUTE * (USECS_PER_MINUTE / interval + 1) +
		row->at % USECS_PER_MINUTE / interval;
	return key;
}

Coalescer *
coalesce_create(MemoryContext context)
{
	Coalescer  *coalescer = MemoryContextAlloc(context, sizeof(Coalescer));

	coalescer->context = AllocSetContextCreate(context, "tierlimit rows alike",
											   ALLOCSET_DEFAULT_SIZES);
	coalescer->rows = NULL;
	return coalescer;
}

void
coalesce_reset(Coalescer *coalescer)
{
	if (coalescer->rows == NULL)
		return;
	MemoryContextReset(coalescer->context);
	coalescer->rows = NULL;
}

LogRow *
coalesce_find(Coalescer *coalescer, LogRow *row, int64 interval)
{
	CoalesceKey key = key_of(row, interval);
	CoalesceEntry *entry;
	bool		found;

	if (coalescer->rows == NULL)
		coalescer->rows = create_rows(coalescer);
	entry = hash_search(coalescer->rows, &key, HASH_ENTER, &found);
	if (!found)
		entry->row = row;
	return entry->row;
}

LogRow *
coalesce_lookup(Coalescer *coalescer, const LogRow *row, int64 interval)
{
	CoalesceKey key = key_of(row, interval);
	CoalesceEntry *entry = coalescer->rows == NULL ? NULL
	: hash_search(coalescer->rows, &key, HASH_FIND, NULL);

	return entry == NULL ? NULL : entry->row;
}

void
coalesce_remove(Coalescer *coalescer, LogRow *row, int64 interval)
{
	CoalesceKey key = key_of(row, interval);

	(void) hash_search(coalescer->rows, &key, HASH_REMOVE, NULL);
}

void
coalesce_into(LogRow *row, const LogRow *other)
{
	/* Denials of several addresses are no one address's. */
	if (!same_address(row, other))
		row->has_address = false;
	row->at = Max(row->at, other->at);
	row->requests += other->requests;
	if (pg_add_s64_overflow(row->credits, other->credits, &row->credits))
		row->credits = PG_INT64_MAX;
}
