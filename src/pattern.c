/*-------------------------------------------------------------------------
 *
 * pattern.c
 *		Patterns of endpoints: which one matches best?
 *
 * A hash table has all patterns, those with a trailing * by what is in front
 * of it.  An endpoint is looked up whole, and then by its beginnings, of the
 * lengths that patterns have, the longest first: so the cost goes with the
 * number of different lengths, not with the number of patterns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "pattern.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

typedef struct PatternKey
{
	const char *bytes;
	int			length;
	bool		is_prefix;
} PatternKey;

typedef struct PatternEntry
{
	PatternKey	key;			/* hash key */
	int64		value;
} PatternEntry;

struct PatternSet
{
	MemoryContext context;
	HTAB	   *patterns;		/* of PatternEntry */
	int			nlengths;
	int		   *lengths;		/* of prefixes, the longest first */
};

static uint32
hash_pattern(const void *key, Size size)
{
	const PatternKey *pattern = (const PatternKey *) key;

	(void) size;
	return hash_bytes((const unsigned char *) pattern->bytes, pattern->length) ^
		pattern->is_prefix;
}

static int
compare_patterns(const void *a, const void *b, Size size)
{
	const PatternKey *x = (const PatternKey *) a;
	const PatternKey *y = (const PatternKey *) b;

	(void) size;
	return x->is_prefix != y->is_prefix || x->length != y->length ||
		memcmp(x->bytes, y->bytes, x->length) != 0;
}

PatternSet *
pattern_create(MemoryContext context)
{
	PatternSet *set = MemoryContextAllocZero(context, sizeof(PatternSet));
	HASHCTL		control = {
		.keysize = sizeof(PatternKey),
		.entrysize = sizeof(PatternEntry),
		.hash = hash_pattern,
		.match = compare_patterns,
		.hcxt = context
	};

	set->context = context;
	set->patterns = hash_create("tierlimit patterns", 64, &control,
								HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
								HASH_CONTEXT);
	return set;
}

/* Remember that there are prefixes of this length. */
static void
add_length(PatternSet *set, int length)
{
	int			at = 0;
	int		   *lengths;

	while (at < set->nlengths && set->lengths[at] > length)
		at++;
	if (at < set->nlengths && set->lengths[at] == length)
		return;
	lengths = MemoryContextAlloc(set->context,
								 (set->nlengths + 1) * sizeof(int));
	memcpy(lengths, set->lengths, at * sizeof(int));
	lengths[at] = length;
	memcpy(lengths + at + 1, set->lengths + at,
		   (set->nlengths - at) * sizeof(int));
	if (set->lengths != NULL)
		pfree(set->lengths);
	set->lengths = lengths;
	set->nlengths++;
}

void
pattern_add(PatternSet *set, const char *pattern, int64 value)
{
	PatternKey	key = {0};
	PatternEntry *entry;

	key.bytes = MemoryContextStrdup(set->context, pattern);
	key.length = strlen(pattern);
	key.is_prefix = key.length > 0 && pattern[key.length - 1] == '*';
	if (key.is_prefix)
		add_length(set, --key.length);
	entry = hash_search(set->patterns, &key, HASH_ENTER, NULL);
	entry->value = value;
}

static bool
find_key(const PatternSet *set, PatternKey key, int64 *value)
{
	PatternEntry *entry = hash_search(set->patterns, &key, HASH_FIND, NULL);

	if (entry != NULL)
		*value = entry->value;
	return entry != NULL;
}

bool
pattern_find(const PatternSet *set, const char *endpoint, int length,
			 int64 *value)
{
	PatternKey	key = {endpoint, length, false};

	if (find_key(set, key, value))
		return true;
	key.is_prefix = true;
	for (int i = 0; i < set->nlengths; i++)
	{
		key.length = set->lengths[i];
		if (key.length <= length && find_key(set, key, value))
			return true;
	}
	return false;
}
