/*-------------------------------------------------------------------------
 *
 * coalesce.c
 *		Coalescing rows of the request log: those that are alike share one.
 *
 * Admitted calls are alike if they differ in nothing but their time and what
 * they count; denied ones, which may come as a flood, if they have the key,
 * the endpoint and the code in common.  Only rows of the same interval are
 * coalesced, be it a second or tierlimit.log_granularity.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/int.h"
#include "log/coalesce.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* The key that rows are found by. */
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
	HTAB	   *rows;			/* CoalesceEntries; NULL: there are none */
};

/* Return whether two rows have the same text in a column, or both none. */
static bool
same_text(const LogRow *a, const LogRow *b, LogTextColumn column)
{
	LogText		x = a->texts[column];
	LogText		y = b->texts[column];

	if (x.bytes == NULL || y.bytes == NULL)
		return x.bytes == y.bytes;
	return x.length == y.length && memcmp(x.bytes, y.bytes, x.length) == 0;
}

/* Return whether two rows have the same address, or both none. */
static bool
same_address(const LogRow *a, const LogRow *b)
{
	if (!a->has_address || !b->has_address)
		return a->has_address == b->has_address;
	return memcmp(&a->address, &b->address, sizeof(inet_struct)) == 0;
}

/* Return whether two rows may share one. */
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

/* Add a text to a hash. */
static uint32
hash_text(uint32 hash, LogText logged)
{
	return hash_combine(hash, hash_bytes((const unsigned char *) logged.bytes,
										 logged.length));
}

/*
 * Return the hash of a key, for the hash table: of what all rows that are
 * alike have in common.
 */
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

/* Return 0 if two rows are alike, for the hash table. */
static int
compare_keys(const void *a, const void *b, Size size)
{
	(void) size;
	return !is_alike((const CoalesceKey *) a, (const CoalesceKey *) b);
}

/* Return an empty hash table in the coalescer's context. */
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

/*
 * Return the key of a row.  Intervals are counted anew in each minute, so that
 * none of them crosses the border of a minute.
 */
static CoalesceKey
key_of(const LogRow *row, int64 interval)
{
	CoalesceKey key = {row, 0};

	key.interval = row->at / USECS_PER_MINUTE * (USECS_PER_MINUTE / interval + 1) +
		row->at % USECS_PER_MINUTE / interval;
	return key;
}

/*
 * Return an empty collection of rows, in a memory context of its own below
 * this one.
 */
Coalescer *
coalesce_create(MemoryContext context)
{
	Coalescer  *coalescer = MemoryContextAlloc(context, sizeof(Coalescer));

	coalescer->context = AllocSetContextCreate(context, "tierlimit rows alike",
											   ALLOCSET_DEFAULT_SIZES);
	coalescer->rows = NULL;
	return coalescer;
}

/* Empty a collection. */
void
coalesce_reset(Coalescer *coalescer)
{
	if (coalescer->rows == NULL)
		return;
	MemoryContextReset(coalescer->context);
	coalescer->rows = NULL;
}

/*
 * Return the row of the collection that is like this one and of the same
 * interval of so many microseconds, of which there are at most a minute's.  If
 * there is none, this row is added, without a copy, and returned.
 */
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

/*
 * Return the row of the collection that is like this one and of the same
 * interval of so many microseconds; NULL if there is none.
 */
LogRow *
coalesce_lookup(Coalescer *coalescer, const LogRow *row, int64 interval)
{
	CoalesceKey key = key_of(row, interval);
	CoalesceEntry *entry = coalescer->rows == NULL ? NULL
	: hash_search(coalescer->rows, &key, HASH_FIND, NULL);

	return entry == NULL ? NULL : entry->row;
}

/* Remove a row from the collection, which was found with the same interval. */
void
coalesce_remove(Coalescer *coalescer, LogRow *row, int64 interval)
{
	CoalesceKey key = key_of(row, interval);

	(void) hash_search(coalescer->rows, &key, HASH_REMOVE, NULL);
}

/*
 * Let a row stand for another one as well: it gets the later time and the sum
 * of both.  It keeps its address if both have the same one.
 */
void
coalesce_into(LogRow *row, const LogRow *other)
{
	/* Denials of several addresses belong to none of these. */
	if (!same_address(row, other))
		row->has_address = false;
	row->at = Max(row->at, other->at);
	row->requests += other->requests;
	if (pg_add_s64_overflow(row->credits, other->credits, &row->credits))
		row->credits = PG_INT64_MAX;
}
