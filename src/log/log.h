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

extern LogQueue *log_open(void);
extern bool log_reserve(LogQueue *queue, const LogRow *row, RingPlace *place);
extern void log_append(const RingPlace *place, const LogRow *row);
extern void log_wait_for_room(LogQueue *queue, const LogRow *row);
extern void log_nudge(LogQueue *queue);
extern void log_wait_written(uint64 position);
extern uint64 log_newest_position(void);
extern void log_wait_durable(uint64 position);
extern bool log_is_written(Oid database, uint64 position);
extern void log_flush(void);

#endif							/* TIERLIMIT_LOG_H */
