/*-------------------------------------------------------------------------
 *
 * path.h
 *		One spelling for each path.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_PATH_H
#define TIERLIMIT_PATH_H

/*
 * An endpoint as prices, lists and the log know it: a path in normal form, or
 * what is no path as it is.  May be the same text; NULL for NULL.
 */
extern const text *path_normal(const text *endpoint);

/*
 * What a server sees in a path in normal form that takes encoded slashes, and
 * backslashes, for slashes; NULL if there are none.
 */
extern const text *path_with_slashes(const text *path);

/* A pattern of paths with its characters spelt as those of a path are. */
extern char *path_pattern(const char *pattern);

/* Whether any endpoint can match a pattern. */
extern bool path_pattern_is_normal(const char *pattern);

#endif							/* TIERLIMIT_PATH_H */
