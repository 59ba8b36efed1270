/*-------------------------------------------------------------------------
 *
 * pattern.h
 *		Patterns of endpoints: which one matches best?
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_PATTERN_H
#define TIERLIMIT_PATTERN_H

/* Patterns, each with a value. */
typedef struct PatternSet PatternSet;

extern PatternSet *pattern_create(MemoryContext context);

/*
 * A trailing * stands for any rest.  Characters may be spelt in any way that
 * path.h knows.  Adding a pattern again replaces its value.
 */
extern void pattern_add(PatternSet *set, const char *pattern, int64 value);

/* The value of the longest pattern that matches; false if none does. */
extern bool pattern_find(const PatternSet *set, const char *endpoint,
						 int length, int64 *value);

/* Likewise that pattern, as it was written; NULL if none matches. */
extern const char *pattern_name(const PatternSet *set, const char *endpoint,
								int length);

#endif							/* TIERLIMIT_PATTERN_H */
