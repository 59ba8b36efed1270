/*-------------------------------------------------------------------------
 *
 * pattern.h
 *		Sets of patterns of endpoints, and which one matches best.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_PATTERN_H
#define TIERLIMIT_PATTERN_H

/* Patterns, each with a value. */
typedef struct PatternSet PatternSet;

extern PatternSet *pattern_create(MemoryContext context);
extern void pattern_add(PatternSet *set, const char *pattern, int64 value);
extern bool pattern_find(const PatternSet *set, const char *endpoint,
						 int length, int64 *value);
extern const char *pattern_name(const PatternSet *set, const char *endpoint,
								int length);

#endif							/* TIERLIMIT_PATTERN_H */
