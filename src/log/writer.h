/*-------------------------------------------------------------------------
 *
 * writer.h
 *		Making rows of the table request_log from a queue of decisions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_WRITER_H
#define TIERLIMIT_WRITER_H

#include "log/queue.h"

/*
 * One INSERT has about this many rows at most, and so many denials are
 * delayed.
 */
#define WRITER_MAX_ROWS 8192

extern void writer_init(void);
extern void writer_write(LogQueue *queue, bool everything);
extern void writer_committed(LogQueue *queue);
extern void writer_put_back(LogQueue *queue);
extern int	writer_delayed(void);
extern bool writer_has_rows(void);

#endif							/* TIERLIMIT_WRITER_H */
