/*-------------------------------------------------------------------------
 *
 * path.h
 *		The normal form of paths, which is one spelling for each.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_PATH_H
#define TIERLIMIT_PATH_H

extern const text *path_normal(const text *endpoint);
extern const text *path_with_slashes(const text *path);
extern char *path_pattern(const char *pattern);
extern bool path_pattern_is_normal(const char *pattern);

#endif							/* TIERLIMIT_PATH_H */
