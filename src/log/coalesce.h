/*-------------------------------------------------------------------------
 *
 * coalesce.h
 *		Coalescing rows of the request log: those that are alike share one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_COALESCE_H
#define TIERLIMIT_COALESCE_H

#include "log/logrow.h"

/* A collection of rows, which are not copied. */
typedef struct Coalescer Coalescer;

extern Coalescer *coalesce_create(MemoryContext context);
extern void coalesce_reset(Coalescer *coalescer);
extern LogRow *coalesce_find(Coalescer *coalescer, LogRow *row, int64 interval);
extern LogRow *coalesce_lookup(Coalescer *coalescer, const LogRow *row, int64 interval);
extern void coalesce_remove(Coalescer *coalescer, LogRow *row, int64 interval);
extern void coalesce_into(LogRow *row, const LogRow *other);

#endif							/* TIERLIMIT_COALESCE_H */
