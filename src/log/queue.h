/*-------------------------------------------------------------------------
 *
 * queue.h
 *		The queues of decisions that wait to be written, and who serves them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_QUEUE_H
#define TIERLIMIT_QUEUE_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "log/ring.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"

/* The states of a queue; see queue.c. */
typedef enum QueueState
{
	QUEUE_FREE,					/* no database has it */
	QUEUE_OPEN,					/* it takes a database's rows */
	QUEUE_CLOSED				/* it takes none: its writer is leaving or has
								 * left */
} QueueState;

#define MAX_FAILURE_MESSAGE 256

/* The cause why the writer could not write, the last time that it tried. */
typedef struct LogFailure
{
	TimestampTz since;			/* when it first tried in vain; 0: it could
								 * write */
	TimestampTz last_at;		/* when it last tried in vain */
	int			sqlerrcode;
	char		message[MAX_FAILURE_MESSAGE];
} LogFailure;

/* The decisions of one database that wait to be written. */
typedef struct LogQueue
{
	/* These are protected by the mutex of all queues. */
	QueueState	state;
	TimestampTz state_since;
	Oid			database;		/* valid unless FREE */
	Latch	   *writer;			/* NULL: there is none */
	TimestampTz served_since;	/* since when that writer serves the queue */
	LogFailure	failure;

	pg_atomic_uint32 open_for;	/* the database that may append, or 0 */
	pg_atomic_uint32 flush_now; /* a session waits, or the queue fills up */
	pg_atomic_uint32 leave_now; /* another database waits for its turn */
	pg_atomic_uint32 waiting;	/* sessions that wait for the disk */
	pg_atomic_uint64 flushes_wanted;	/* how many log_flush() has asked for
										 * so far */
	pg_atomic_uint64 flushes_done;
	pg_atomic_uint64 decisions_written;
	pg_atomic_uint64 rows_written;
	pg_atomic_uint64 written_until; /* all that was decided before is written */
	Ring		ring;
	ConditionVariable progress; /* tail or state have changed */
} LogQueue;

/* So many databases can log calls at a time. */
#define NUM_QUEUES 8

extern Size queue_shmem_size(uint64 size);
extern void queue_shmem_init(void);
extern uint64 queue_buffer_size(void);
extern LogQueue *queue_at(int number);
extern LogQueue *queue_of(Oid database);

/* These are for sessions. */
extern LogQueue *queue_take(void);
extern void queue_wait_until_free(long ms);
extern bool queue_is_open(LogQueue *queue);
extern bool queue_has_writer(LogQueue *queue);
extern uint64 queue_free_bytes(LogQueue *queue);
extern void queue_begin_waiting(LogQueue *queue);
extern int64 queue_age(LogQueue *queue);
extern bool queue_is_overdue(LogQueue *queue);
extern int64 queue_count(LogQueue *queue, uint64 *position);
extern LogFailure queue_failure(LogQueue *queue);
extern void queue_wake_writer(LogQueue *queue);

/* Figures of all queues. */
typedef struct QueueTotals
{
	int64		decisions_written;
	int64		rows_written;
	TimestampTz written_until;	/* the least of the queues that aren't empty;
								 * DT_NOEND: all are empty */
} QueueTotals;

extern QueueTotals queue_totals(void);
extern void queue_reset_stats(void);

/* These are for the writer of a queue. */
extern LogQueue *queue_attach(int number, Oid database);
extern void queue_detach(LogQueue *queue);
extern void queue_close(LogQueue *queue);
extern void queue_reopen(LogQueue *queue);
extern void queue_give_up(LogQueue *queue);
extern void queue_advance(LogQueue *queue, uint64 position, int64 decisions,
						  int64 rows, TimestampTz until);
extern void queue_note_commit(XLogRecPtr lsn);
extern XLogRecPtr queue_commit_lsn(void);
extern void queue_failed(LogQueue *queue, const LogFailure *failure);

/* These are for the launcher. */
extern void queue_forget(Oid database);
extern void queue_set_launcher(Latch *launcher);

/* A queue that has no writer, and should have one. */
typedef struct WaitingQueue
{
	int			number;
	Oid			database;
	TimestampTz since;
} WaitingQueue;

extern int	queue_list_waiting(WaitingQueue waiting[NUM_QUEUES]);
extern int	queue_take_for_visit(Oid database);
extern bool queue_any_closed(void);
extern bool queue_anybody_waits(void);
extern bool queue_ask_to_leave(void);

/* This is for the postmaster. */
extern void queue_restore(int number, Oid database, uint64 tail, uint64 head,
						  const char *bytes);

#endif							/* TIERLIMIT_QUEUE_H */
