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
typedef struct Coalescer Coalescer;

/* An empty one, in a memory context of its own below that one. */
extern Coalescer *coalesce_create(MemoryContext context);
extern void coalesce_reset(Coalescer *coalescer);

/*
 * The row of the collection that is like this one and of the same interval of
 * so many microseconds; if there is none, this one is added and returned.
 */
extern LogRow *coalesce_find(Coalescer *coalescer, LogRow *row, int64 interval);

/* Likewise, but NULL if there is none. */
extern LogRow *coalesce_lookup(Coalescer *coalescer, const LogRow *row, int64 interval);
extern void coalesce_remove(Coalescer *coalescer, LogRow *row, int64 interval);

/*
 * Let a row stand for another one as well; it keeps its address if both have
 * the same one.
 */
extern void coalesce_into(LogRow *row, const LogRow *other);

#endif							/* TIERLIMIT_COALESCE_H */
