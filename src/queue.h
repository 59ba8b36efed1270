/*-------------------------------------------------------------------------
 *
 * queue.h
 *		The queues of decisions that wait to be written, and who serves them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_QUEUE_H
#define TIERLIMIT_QUEUE_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "ring.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"

typedef enum QueueState
{
	QUEUE_FREE,					/* nobody's */
	QUEUE_STARTING,				/* its worker was asked for */
	QUEUE_SERVED,				/* its worker is there */
	QUEUE_CLOSED				/* its worker is leaving or has left */
} QueueState;

#define MAX_FAILURE_MESSAGE 256

/* Why the worker could not write, the last time that it tried. */
typedef struct LogFailure
{
	TimestampTz since;			/* 0: it could */
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
	Latch	   *worker;			/* NULL: there is none */
	LogFailure	failure;

	pg_atomic_uint32 open_for;	/* the database that may append, or 0 */
	pg_atomic_uint32 flush_now; /* somebody waits */
	pg_atomic_uint32 waiting;	/* sessions that wait for the disk */
	pg_atomic_uint64 flushes_wanted;	/* by log_flush(), so far */
	pg_atomic_uint64 flushes_done;
	pg_atomic_uint64 decisions_written;
	pg_atomic_uint64 rows_written;
	pg_atomic_uint64 written_until; /* all that was decided before is written */
	Ring		ring;
	ConditionVariable progress; /* tail or state have changed */
} LogQueue;

extern Size queue_shmem_size(void);

/* Lay out or attach to shared memory, of that size. */
extern void queue_shmem_init(void);

/* The queue of a database; NULL if it has none. */
extern LogQueue *queue_of(Oid database);

/*
 * For sessions; no lock may be held.
 *
 * See to it that this database has a queue and that a worker serves it, or
 * was asked to; raises an ERROR if that can't be done.  The queue may be CLOSED
 * yet.
 */
extern LogQueue *queue_serve(void);

/* Whether this database may append to a queue. */
extern bool queue_is_open(LogQueue *queue);

extern uint64 queue_free_bytes(LogQueue *queue);

/* Why it can't be written; since is 0 if it can. */
extern LogFailure queue_failure(LogQueue *queue);

/* Have the worker write now. */
extern void queue_wake_worker(LogQueue *queue);

/* Figures of all queues. */
typedef struct QueueTotals
{
	int64		decisions_written;
	int64		rows_written;
	TimestampTz written_until;	/* the least of the queues that aren't empty;
								 * DT_NOEND: all are */
} QueueTotals;

extern QueueTotals queue_totals(void);
extern void queue_reset_stats(void);

/*
 * For the worker of a queue, identified by its number.
 *
 * queue_attach() returns NULL if the queue does not wait for this worker.
 * queue_detach() is for a worker that ends; false if it leaves anything.
 */
extern LogQueue *queue_attach(int number, Oid database);
extern bool queue_detach(LogQueue *queue);

/*
 * Told to leave: let nobody append any more; what they have appended is there
 * on return.
 */
extern void queue_close(LogQueue *queue);

/* Give an empty queue up; false if it is not empty, then it goes on. */
extern bool queue_leave(LogQueue *queue);

/* Everything up to a position is written, decided before a time. */
extern void queue_advance(LogQueue *queue, uint64 position, int64 decisions,
						  int64 rows, TimestampTz until);
extern void queue_failed(LogQueue *queue, const ErrorData *error);

/* Forget what waits to be written to a database that was dropped. */
extern void queue_forget(Oid database);

#endif							/* TIERLIMIT_QUEUE_H */
