/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The configuration parameters tierlimit.*.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SETTINGS_H
#define TIERLIMIT_SETTINGS_H

#include "datatype/timestamp.h"

/* The values of tierlimit.durability. */
typedef enum Durability
{
	DURABILITY_ASYNC,			/* an answer does not wait for the log */
	DURABILITY_SYNC				/* an admission waits for its row's commit */
} Durability;

/*
 * A call waits so long, in microseconds, for other processes, be it for the
 * log writer or for a lock on a table, and then ends with an ERROR.
 */
#define CALL_PATIENCE (10 * INT64CONST(1000000))

/* The values of tierlimit.on_log_failure. */
typedef enum LogFailurePolicy
{
	LOG_FAILURE_CONTINUE,		/* calls go on until the buffer is full */
	LOG_FAILURE_WAIT			/* calls wait when the oldest row is overdue */
} LogFailurePolicy;

extern int	tierlimit_memory;	/* shared memory for windows, in kB */
extern int	tierlimit_log_buffer;	/* ... for decisions to be logged, in kB */
extern int	tierlimit_window_slots;
extern int	tierlimit_durability;	/* Durability */
extern int	tierlimit_flush_interval;	/* ms */
extern int	tierlimit_log_granularity;	/* ms */
extern int	tierlimit_log_retention;	/* minutes */
extern int	tierlimit_usage_retention;	/* minutes; 0: for good */
extern int	tierlimit_request_memory;	/* seconds */
extern int	tierlimit_on_log_failure;	/* LogFailurePolicy */
extern int	tierlimit_ipv6_prefix;	/* bits of an address that count */
extern bool tierlimit_enabled;
extern char *tierlimit_now;		/* "" or a valid timestamptz */

/* Return for how long a request_id makes a retry safe, in microseconds. */
static inline int64
request_memory(void)
{
	return tierlimit_request_memory * USECS_PER_SEC;
}

extern void settings_define(void);
extern void settings_turn_timeouts_off(void);

#endif							/* TIERLIMIT_SETTINGS_H */
