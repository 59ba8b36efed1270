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

typedef enum QueueState
{
	QUEUE_FREE,					/* nobody's */
	QUEUE_OPEN,					/* takes a database's rows; see queue.c */
	QUEUE_CLOSED				/* takes none: its writer is leaving or has
								 * left */
} QueueState;

#define MAX_FAILURE_MESSAGE 256

/* Why the worker could not write, the last time that it tried. */
typedef struct LogFailure
{
	TimestampTz since;			/* 0: it could */
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
	TimestampTz served_since;	/* by that one */
	LogFailure	failure;

	pg_atomic_uint32 open_for;	/* the database that may append, or 0 */
	pg_atomic_uint32 flush_now; /* somebody waits */
	pg_atomic_uint32 leave_now; /* another database waits for its turn */
	pg_atomic_uint32 waiting;	/* sessions that wait for the disk */
	pg_atomic_uint64 flushes_wanted;	/* by log_flush(), so far */
	pg_atomic_uint64 flushes_done;
	pg_atomic_uint64 decisions_written;
	pg_atomic_uint64 rows_written;
	pg_atomic_uint64 written_until; /* all that was decided before is written */
	Ring		ring;
	ConditionVariable progress; /* tail or state have changed */
} LogQueue;

/* So many databases can log calls at a time. */
#define NUM_QUEUES 8

/*
 * queue_shmem_size() decides how large the buffer is: so many bytes, or as
 * tierlimit.log_buffer says if that is 0; queue_shmem_init() lays it out in shared
 * memory or attaches to it.
 */
extern Size queue_shmem_size(uint64 size);
extern void queue_shmem_init(void);
extern uint64 queue_buffer_size(void);

/* Queue number 0 <= i < NUM_QUEUES. */
extern LogQueue *queue_at(int number);

/* The queue of a database; NULL if it has none. */
extern LogQueue *queue_of(Oid database);

/*
 * For sessions; no lock may be held.
 *
 * The queue of this database, which has one from now on; NULL if others have
 * them all: then it is this database's turn some time later.
 */
extern LogQueue *queue_take(void);

/*
 * Sleep until a queue has become free, or open again, or for so many
 * milliseconds.
 */
extern void queue_wait_until_free(long ms);

/* Whether this database may append to a queue. */
extern bool queue_is_open(LogQueue *queue);

extern bool queue_has_writer(LogQueue *queue);
extern uint64 queue_free_bytes(LogQueue *queue);

/*
 * A row is about to be appended: if it is the first one, what waits has waited
 * since now.
 */
extern void queue_begin_waiting(LogQueue *queue);

/*
 * For how long the oldest row may have waited; 0: there is none.  A clock that
 * was set back makes it too long rather than too short, until the next round of
 * the writer.
 */
extern int64 queue_age(LogQueue *queue);

/* Whether that is too long: about a second, and three rounds of the writer. */
extern bool queue_is_overdue(LogQueue *queue);

/*
 * How many decisions wait from *position on, which is moved behind them; for
 * who is alone with the queue.
 */
extern int64 queue_count(LogQueue *queue, uint64 *position);

/* Why it can't be written; since is 0 if it can. */
extern LogFailure queue_failure(LogQueue *queue);

/* Have the writer write now, if there is one. */
extern void queue_wake_writer(LogQueue *queue);

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
 * For the writer of a queue, identified by its number.
 *
 * queue_attach() returns NULL if the queue does not wait for this writer;
 * queue_detach() is for one that ends, having written all or not.
 */
extern LogQueue *queue_attach(int number, Oid database);
extern void queue_detach(LogQueue *queue);

/*
 * Let nobody append any more; what they have appended is there on return.  Then
 * either let them again, or give the queue up, which has to be empty.
 */
extern void queue_close(LogQueue *queue);
extern void queue_reopen(LogQueue *queue);
extern void queue_give_up(LogQueue *queue);

/* Everything up to a position is written, decided before a time. */
extern void queue_advance(LogQueue *queue, uint64 position, int64 decisions,
						  int64 rows, TimestampTz until);

/*
 * A transaction of a writer is on this server's disk, up to here in the WAL;
 * before queue_advance().  queue_commit_lsn() is behind all of these.
 */
extern void queue_note_commit(XLogRecPtr lsn);
extern XLogRecPtr queue_commit_lsn(void);

/* The writer of a queue could not write. */
extern void queue_failed(LogQueue *queue, const LogFailure *failure);

/* Forget what waits to be written to a database that was dropped. */
extern void queue_forget(Oid database);

/*
 * For the launcher.  queue_set_launcher() says whom to wake; NULL: nobody.
 */
extern void queue_set_launcher(Latch *launcher);

/* A queue that has no writer, and should have one. */
typedef struct WaitingQueue
{
	int			number;
	Oid			database;
	TimestampTz since;
} WaitingQueue;

/*
 * List them, who waits for longest first; returns how many there are.  Queues
 * that were left closed and have nothing in them are given up.
 */
extern int	queue_list_waiting(WaitingQueue waiting[NUM_QUEUES]);

/* Whether any queue is closed, which doesn't last. */
extern bool queue_any_closed(void);

/* Whether a database waits for a queue. */
extern bool queue_anybody_waits(void);

/*
 * Ask the writer that has been at work for longest to leave, when its turn was
 * long enough; false if no queue has a writer.
 */
extern bool queue_ask_to_leave(void);

/*
 * For the postmaster, before there are other processes: a queue gets back what
 * a server that stopped had left in it.  See spill.c.
 */
extern void queue_restore(int number, Oid database, uint64 tail, uint64 head,
						  const char *bytes);

#endif							/* TIERLIMIT_QUEUE_H */
