/*-------------------------------------------------------------------------
 *
 * writer.h
 *		From a queue of decisions to rows of the table request_log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_WRITER_H
#define TIERLIMIT_WRITER_H

#include "log/queue.h"

/* Rows of one INSERT, and denials delayed, are about this many at most. */
#define WRITER_MAX_ROWS 8192

/* From the worker, once. */
extern void writer_init(void);

/*
 * Write one batch in the running transaction, and what has become due of what
 * was delayed: everything, if the worker is about to leave.  The caller
 * commits and then calls writer_committed(); or, having aborted, this again.
 */
extern void writer_write(LogQueue *queue, bool everything);

/* Release what was written. */
extern void writer_committed(LogQueue *queue);

/*
 * Return the rows that are delayed to the queue, as far as there is room: for
 * a writer that ends without having written them.  Raises no ERROR.
 */
extern void writer_put_back(LogQueue *queue);

/* How many rows are delayed, to be written later. */
extern int	writer_delayed(void);

/*
 * Whether there are such, or a batch that could not be written yet, whose rows
 * may not be in the queue any more.
 */
extern bool writer_has_rows(void);

#endif							/* TIERLIMIT_WRITER_H */
