/*-------------------------------------------------------------------------
 *
 * coalesce.h
 *		Rows of the request log that are alike share one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_COALESCE_H
#define TIERLIMIT_COALESCE_H

#include "log/logrow.h"

/* A collection of rows, which are not copied. */
typedef struct Merge Merge;

/* An empty one, in a memory context of its own below that one. */
extern Merge *merge_create(MemoryContext context);
extern void merge_reset(Merge *merge);

/*
 * The row of the collection that is like this one and of the same stretch of
 * so many microseconds; if there is none, this one is added and returned.
 */
extern LogRow *merge_find(Merge *merge, LogRow *row, int64 stretch);

/* Likewise, but NULL if there is none. */
extern LogRow *merge_lookup(Merge *merge, const LogRow *row, int64 stretch);
extern void merge_remove(Merge *merge, LogRow *row, int64 stretch);

/*
 * Let a row stand for another one as well; it keeps its address if both have
 * the same one.
 */
extern void merge_into(LogRow *row, const LogRow *other);

#endif							/* TIERLIMIT_COALESCE_H */
