/*-------------------------------------------------------------------------
 *
 * pattern.c
 *		Sets of patterns of endpoints, and which one matches best.
 *
 * A hash table has all patterns; those with a trailing * are found by the text
 * before it.  An endpoint is looked up whole, and then by its beginnings, of
 * the lengths that patterns have, the longest first: so the cost goes with the
 * number of different lengths, not with the number of patterns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "config/path.h"
#include "config/pattern.h"

typedef struct PatternKey
{
	const char *bytes;
	int			length;
	bool		is_prefix;
} PatternKey;

typedef struct PatternEntry
{
	PatternKey	key;
	const char *pattern;		/* as it was written */
	int64		value;
	uint32		hash;
	char		status;			/* simplehash's */
} PatternEntry;

/* Return the hash of a pattern. */
static inline uint32
hash_pattern(PatternKey key)
{
	return hash_bytes((const unsigned char *) key.bytes, key.length) ^
		key.is_prefix;
}

/* Return whether two patterns are the same. */
static inline bool
same_pattern(PatternKey a, PatternKey b)
{
	return a.is_prefix == b.is_prefix && a.length == b.length &&
		memcmp(a.bytes, b.bytes, a.length) == 0;
}

#define SH_PREFIX patterns
#define SH_ELEMENT_TYPE PatternEntry
#define SH_KEY_TYPE PatternKey
#define SH_KEY key
#define SH_HASH_KEY(table, key) hash_pattern(key)
#define SH_EQUAL(table, a, b) same_pattern(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE

/* The server is not compiled with -Wextra. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "lib/simplehash.h"
#pragma GCC diagnostic pop

struct PatternSet
{
	MemoryContext context;
	patterns_hash *patterns;
	int			nlengths;
	int		   *lengths;		/* of prefixes, the longest first */
};

/* Return an empty set, which is allocated in this memory context. */
PatternSet *
pattern_create(MemoryContext context)
{
	PatternSet *set = MemoryContextAllocZero(context, sizeof(PatternSet));

	set->context = context;
	set->patterns = patterns_create(context, 16, NULL);
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

/*
 * Add a pattern with a value to a set; adding it again replaces its value.  A
 * trailing * stands for any rest.  Characters may be spelt in any way that
 * path.h knows.
 */
void
pattern_add(PatternSet *set, const char *pattern, int64 value)
{
	char	   *spelt = path_pattern(pattern);
	PatternKey	key = {0};
	PatternEntry *entry;
	bool		found;

	key.bytes = MemoryContextStrdup(set->context, spelt);
	key.length = strlen(spelt);
	key.is_prefix = key.length > 0 && spelt[key.length - 1] == '*';
	if (key.is_prefix)
		add_length(set, --key.length);
	entry = patterns_insert(set->patterns, key, &found);
	entry->pattern = MemoryContextStrdup(set->context, pattern);
	entry->value = value;
	pfree(spelt);
}

/* Return the entry of the longest pattern that matches; NULL if none does. */
static const PatternEntry *
find_entry(const PatternSet *set, const char *endpoint, int length)
{
	PatternKey	key = {endpoint, length, false};
	const PatternEntry *entry = patterns_lookup(set->patterns, key);

	key.is_prefix = true;
	for (int i = 0; entry == NULL && i < set->nlengths; i++)
	{
		key.length = set->lengths[i];
		if (key.length <= length)
			entry = patterns_lookup(set->patterns, key);
	}
	return entry;
}

/*
 * Set *value to that of the longest pattern that matches.  Returns false if
 * none does.
 */
bool
pattern_find(const PatternSet *set, const char *endpoint, int length,
			 int64 *value)
{
	const PatternEntry *entry = find_entry(set, endpoint, length);

	if (entry != NULL)
		*value = entry->value;
	return entry != NULL;
}

/*
 * Return the longest pattern that matches, as it was written; NULL if none
 * does.
 */
const char *
pattern_name(const PatternSet *set, const char *endpoint, int length)
{
	const PatternEntry *entry = find_entry(set, endpoint, length);

	return entry == NULL ? NULL : entry->pattern;
}
