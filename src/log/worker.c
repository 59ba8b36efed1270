/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The background worker that writes the request log of a database.
 *
 * Its life: the launcher starts it for a database that logs calls
 * (launcher.c).  It writes what is queued every tierlimit.flush_interval, or
 * at once when a session waits or the queue fills up; between that, it keeps
 * up partitions and sums (maintenance.c).  It leaves when there was nothing to
 * do for IDLE_TIME, or, if it only visits the database, at once, so that it is not in the way of DROP DATABASE and CREATE
 * DATABASE, which wait a little longer for sessions to leave; or when other
 * databases wait for their turn.
 *
 * An ERROR while it writes is told to the sessions that wait (queue_failed),
 * and the batch is tried again after a while; nothing is lost, since what was
 * not committed stays in the queue.  When it is told to leave (SIGTERM), it
 * closes the queue, writes what is left and goes.  If it can't write, or was
 * ended otherwise, the next one goes on with the queue; where the server
 * stops, that is after its next start (spill.c).  So an orderly stop of the
 * server loses nothing.
 *
 * A SIGKILL makes the server start all its shared memory, and with it the
 * queue, anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/compat.h"
#include "base/elapsed.h"
#include "base/settings.h"
#include "fmgr.h"
#include "log/maintenance.h"
#include "log/worker.h"
#include "log/writer.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define IDLE_TIME (3 * USECS_PER_SEC)
#define RETRY_PAUSE 1000		/* ms */
#define REPORT_PAUSE USECS_PER_MINUTE
#define LONGEST_GROUP_WAIT 2000 /* microseconds */

PGDLLEXPORT void tierlimit_worker_main(Datum number);

PG_FUNCTION_INFO_V1(tierlimit_is_log_writer_1_0);

static LogQueue *queue = NULL;
static MemoryContext worker_context;

/* How many sessions waited for the last commit, and how long it took. */
static uint32 last_group = 0;
static int64 commit_time = 0;	/* microseconds */

/*
 * When the server's log was last told that the log can't be written; 0 if it
 * could be since.
 */
static TimestampTz overdue_reported_at = 0;

/* Something that is done in a transaction. */
typedef void (*Task) (void);

/*
 * Leave the queue, whatever ends this process: the next writer goes on with
 * what is left.
 */
static void
leave_queue(int code, Datum arg)
{
	(void) code;
	(void) arg;
	if (queue == NULL)
		return;
	writer_put_back(queue);
	queue_detach(queue);
	queue = NULL;
}

/*
 * Note that this process is told to leave.  That ends the wait for a lock, as
 * the cancelling of a query does; what was not written then is written again,
 * and is not to be cancelled by the second of two signals: the postmaster
 * sends one to the process and one to its group.
 */
static void
handle_sigterm(SIGNAL_ARGS)
{
	if (!ShutdownRequestPending)
		StatementCancelHandler(SIGNAL_ARGUMENTS);
	SignalHandlerForShutdownRequest(SIGNAL_ARGUMENTS);
}

/*
 * Have no user's settings change what the writer's statements mean, nor have
 * it wait for a lock for ever: sessions whose calls wait for it want to know.
 */
static void
set_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"lock_timeout", "2s"},
		{"deadlock_timeout", "50ms"},	/* so that the writer gives way */
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"session_replication_role", "origin"},
		{"synchronous_commit", "local"},	/* a session that wants more
											 * waits: log.c */
		{"standard_conforming_strings", "on"},
		{"default_tablespace", ""},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO"},
		{"IntervalStyle", "postgres"},
		{"jit", "off"},
		{"tierlimit.now", ""}
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
}

/* Run a task in a transaction of its own. */
static void
run_in_transaction(Task task, const char *what)
{
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, what);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	task();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Tell the server's log of an ERROR, but not of the same one each second. */
static void
report_error(const ErrorData *error)
{
	static char reported[MAX_FAILURE_MESSAGE];
	static TimestampTz reported_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (strncmp(reported, error->message, sizeof(reported) - 1) == 0 &&
		now - reported_at < REPORT_PAUSE)
		return;
	strlcpy(reported, error->message, sizeof(reported));
	reported_at = now;
	EmitErrorReport();
}

/*
 * Run a task in a transaction of its own.  Returns the ERROR if it failed, or
 * NULL.
 */
static ErrorData *
attempt(Task task, const char *what)
{
	ErrorData  *volatile error = NULL;

	QueryCancelPending = false;
	PG_TRY();
	{
		run_in_transaction(task, what);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(worker_context);
		error = CopyErrorData();
		report_error(error);
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(worker_context);
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	return error;
}

/* Write a batch, with the denials that are due: a task. */
static void
write_batch(void)
{
	writer_write(queue, false);
}

/* Write a batch, with all denials that are delayed: a task. */
static void
write_everything(void)
{
	writer_write(queue, true);
}

/* Sleep until the latch is set, or for so many milliseconds. */
static void
sleep_for(long ms)
{
	static uint32 wait_event = 0;

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, extension_wait_event(&wait_event, "TierlimitLogWriterMain"));
	ResetLatch(MyLatch);
	QueryCancelPending = false; /* there is no query */
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Wait for the sessions that were waiting for the last commit, and are about
 * to wait for the next one, until they are all there, but only for a part of
 * the time that the last commit took: so that not each of two halves waits for
 * the other's commit.
 */
static void
wait_for_group(void)
{
	TimestampTz until = GetCurrentTimestamp() +
	Min(commit_time / 4, LONGEST_GROUP_WAIT);

	while (pg_atomic_read_u32(&queue->waiting) < last_group &&
		   GetCurrentTimestamp() < until && !ShutdownRequestPending)
		sleep_for(1);
}

/* Tell the sessions that wait why the log could not be written. */
static void
tell_failure(const ErrorData *error)
{
	LogFailure	failure = {
		.since = GetCurrentTimestamp(),
		.sqlerrcode = error->sqlerrcode
	};

	strlcpy(failure.message, error->message ? error->message : "",
			sizeof(failure.message));
	queue_failed(queue, &failure);
}

/* Tell the server's log what a crash would lose now, but not each second. */
static void
report_overdue(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!queue_is_overdue(queue) ||
		!has_passed(overdue_reported_at, now, REPORT_PAUSE))
		return;
	overdue_reported_at = now;
	ereport(WARNING,
			(errmsg("the request log of the database with OID %u has not been written for %lld ms",
					MyDatabaseId, (long long) (queue_age(queue) / 1000)),
			 tierlimit_on_log_failure == LOG_FAILURE_WAIT
			 ? errdetail("Calls wait until it is, and end with an ERROR after a while.")
			 : errdetail("Calls go on until \"tierlimit.log_buffer\" is full. A crash would lose what they decide.")));
}

/* Write a batch.  Returns false if that failed. */
static bool
flush_batch(Task task)
{
	TimestampTz start;
	ErrorData  *error;

	wait_for_group();
	last_group = pg_atomic_read_u32(&queue->waiting);
	start = GetCurrentTimestamp();
	error = attempt(task, "writing the request log");
	commit_time = GetCurrentTimestamp() - start;
	if (error != NULL)
	{
		tell_failure(error);
		report_overdue();
		FreeErrorData(error);
		return false;
	}
	writer_committed(queue);
	overdue_reported_at = 0;
	return true;
}

/* Write what is in the queue by now.  Returns false if that failed. */
static bool
flush_queue(void)
{
	uint64		head = ring_head(&queue->ring);
	uint64		tail;

	do
	{
		tail = ring_tail(&queue->ring);
		if (!flush_batch(write_batch))
			return false;

		/* A session has a place, and is just about to fill it. */
		if (ring_tail(&queue->ring) == tail && tail < head)
			pg_usleep(100);
	} while (ring_tail(&queue->ring) < head);
	return true;
}

/*
 * Write what is in the queue by now, and what is delayed by then.  Returns
 * false if that failed.
 */
static bool
flush_everything(void)
{
	if (!flush_queue())
		return false;
	for (int delayed = writer_delayed(); delayed > 0; delayed -= WRITER_MAX_ROWS)
		if (!flush_batch(write_everything))
			return false;
	return true;
}

/*
 * Write everything, for sessions that wait in log_flush().  Returns false if
 * that failed.
 */
static bool
flush_wanted(void)
{
	uint64		wanted = pg_atomic_read_u64(&queue->flushes_wanted);

	if (pg_atomic_read_u64(&queue->flushes_done) == wanted)
		return true;
	if (!flush_everything())
		return false;
	pg_atomic_write_u64(&queue->flushes_done, wanted);
	ConditionVariableBroadcast(&queue->progress);
	return true;
}

/* Do one piece of maintenance; an ERROR is told to the server's log only. */
static void
keep_up(void)
{
	ErrorData  *error = attempt(maintenance_run, "keeping partitions and sums of the request log");

	if (error != NULL)
		FreeErrorData(error);
}

/* Return whether any row is queued or delayed, or could not be written yet. */
static bool
anything_to_write(void)
{
	return ring_head(&queue->ring) != ring_tail(&queue->ring) ||
		writer_has_rows();
}

/*
 * Sleep until a time.  Returns false if a session waits for the writer before.
 */
static bool
sleep_until(TimestampTz time)
{
	TimestampTz start = GetCurrentTimestamp();

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();

		if (now >= time)
			return true;
		if (now < start || ShutdownRequestPending ||
			pg_atomic_exchange_u32(&queue->flush_now, 0) != 0)
			return false;
		sleep_for((time - now + 999) / 1000);
	}
}

/*
 * Sleep until the next round is due, or a session waits for the writer, or,
 * while there is nothing to write, until it is time to leave.
 */
static void
rest(TimestampTz now, TimestampTz active)
{
	TimestampTz due = now + tierlimit_flush_interval * INT64CONST(1000);
	TimestampTz leave = active + IDLE_TIME + USECS_PER_SEC / 1000;

	if (leave < due && !anything_to_write() &&
		(!sleep_until(leave) || !anything_to_write()))
		return;
	(void) sleep_until(due);
}

/*
 * Wait before trying again after a failure.  The latch is not used: sessions
 * that wait for the writer would set it all the time.
 */
static void
pause_before_retry(void)
{
	for (int i = 0; i < RETRY_PAUSE && !ShutdownRequestPending; i++)
		pg_usleep(1000);
	sleep_for(0);
}

/*
 * Return whether this process is the log writer: the SQL function
 * _is_log_writer(), for functions that no other process is to call.
 */
Datum
tierlimit_is_log_writer_1_0(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	PG_RETURN_BOOL(queue != NULL);
}

/*
 * Let no session append any more, write what is left and give the queue up.
 * Returns false, with the queue open again, if that can't be done.
 */
static bool
leave(void)
{
	queue_close(queue);
	if (anything_to_write() && !flush_everything())
	{
		queue_reopen(queue);
		return false;
	}
	queue_give_up(queue);
	queue = NULL;
	return true;
}

/*
 * Return whether there was nothing to do for long, or others wait for this
 * writer's place.
 */
static bool
is_to_leave(TimestampTz now, TimestampTz active)
{
	return (has_passed(active, now, IDLE_TIME) && !maintenance_is_due()) ||
		pg_atomic_exchange_u32(&queue->leave_now, 0) != 0;
}

/*
 * Write, and keep the log up, until this process is told to leave, or there is
 * a reason to.  There was something to write last when the writer was active.
 */
static void
work(TimestampTz active)
{

	while (!ShutdownRequestPending)
	{
		TimestampTz now = GetCurrentTimestamp();

		if (maintenance_is_due())
			keep_up();
		if (anything_to_write())
		{
			active = now;
			maintenance_set_visit(false);
		}
		if (!flush_wanted() ||
			(anything_to_write() && !flush_queue()))
			pause_before_retry();
		if (is_to_leave(now, active) && leave())
			return;
		if (maintenance_is_due())
			sleep_for(0);
		else
			rest(now, active);
	}
}

/* Run the log writer of a database: the main function of its process. */
void
tierlimit_worker_main(Datum number)
{
	WriterOrders orders;

	memcpy(&orders, MyBgworkerEntry->bgw_extra, sizeof(WriterOrders));
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	queue = queue_attach(DatumGetInt32(number), orders.database);
	if (queue == NULL)
		return;
	before_shmem_exit(leave_queue, (Datum) 0);
	BackgroundWorkerUnblockSignals();
	settings_turn_timeouts_off();
	BackgroundWorkerInitializeConnectionByOid(orders.database, InvalidOid,
											  BGWORKER_BYPASS_ALLOWCONN);
	pgstat_report_appname("tierlimit log writer");

	worker_context = AllocSetContextCreate(TopMemoryContext,
										   "tierlimit worker",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(worker_context);
	set_settings();
	writer_init();

	/* Only now is there error handling that a cancel could end in. */
	pqsignal(SIGTERM, handle_sigterm);
	elog(DEBUG1, "tierlimit log writer has started");
	maintenance_set_visit(orders.visits);
	work(orders.visits ? 0 : GetCurrentTimestamp());
	elog(DEBUG1, "tierlimit log writer leaves");
	if (queue == NULL)
		return;
	queue_close(queue);
	if (anything_to_write())
		(void) flush_everything();
}
