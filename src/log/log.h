/*-------------------------------------------------------------------------
 *
 * log.h
 *		Decisions on their way from the sessions to the table request_log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_LOG_H
#define TIERLIMIT_LOG_H

#include "log/logrow.h"
#include "log/queue.h"

/*
 * The queue of this database, which a worker serves; starts one if need be,
 * or raises an ERROR if that can't be done, or if nothing could be written for
 * a while and the queue is full, or the session wants to wait for the disk.
 * No lock may be held.
 */
extern LogQueue *log_open(void);

/*
 * Reserve room for a row, under the lock of a partition; false: release it,
 * log_wait_for_room(), and start over.  As soon as the lock is released, and
 * with nothing in between that could fail, the row is to be appended.
 */
extern bool log_reserve(LogQueue *queue, const LogRow *row, RingPlace *place);

/* Append a row at its place; none if there is no place. */
extern void log_append(const RingPlace *place, const LogRow *row);

/* Wait until there may be room.  May raise an ERROR; no lock may be held. */
extern void log_wait_for_room(LogQueue *queue, const LogRow *row);

/* Have the worker write soon if the queue fills up.  No lock may be held. */
extern void log_nudge(LogQueue *queue);

/*
 * Wait until all of this database up to a position is on disk.  May raise an
 * ERROR, which undoes nothing; no lock may be held.
 */
extern void log_wait_written(uint64 position);

/* Behind the newest row of this database that is on its way. */
extern uint64 log_newest_position(void);

/*
 * The same for what this session has counted, and until it is where
 * synchronous_commit wants the session's commits to be.  An ERROR says that it
 * stays counted.
 */
extern void log_wait_durable(uint64 position);

/* Whether all up to a position is on disk; in a database without a queue, everything is. */
extern bool log_is_written(Oid database, uint64 position);

/* Wait until all that was decided in this database before is written. */
extern void log_flush(void);

#endif							/* TIERLIMIT_LOG_H */
