/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The background worker that starts the log writers of databases.
 *
 * The server starts it, and has a place for it at any time.  So a writer whose
 * start failed, for want of a place among max_worker_processes, is tried again
 * also when no session calls any more; and of several databases each gets its
 * turn.
 *
 * It looks at all queues (queue.c) when a session has taken one, a writer has
 * ended, or LOOK_PAUSE has passed.  Where there is no place for another
 * writer, or no queue for another database, the writer that has been at work
 * for longest is asked to leave: it writes what it has, and its database waits
 * for its next turn.  Calls go on meanwhile, for as long as their queue has
 * room.
 *
 * Once an hour, and soon after the server's start, it has each database visited
 * that has no writer, one after the other: its partitions, sums and bills are
 * kept also when nobody calls.  A visitor leaves as soon as it has done what
 * is due; it gets the smallest queue, and only where nobody waits for one.
 *
 * It keeps nothing that a next launcher would need.  It is connected to no
 * database, only to the catalogs that all of them share, so that it is in no
 * session's way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "base/compat.h"
#include "base/elapsed.h"
#include "base/settings.h"
#include "catalog/pg_database.h"
#include "log/launcher.h"
#include "log/queue.h"
#include "log/spill.h"
#include "log/worker.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/*
 * The queues are looked at every so many ms: every LOOK_PAUSE, or every
 * RETRY_PAUSE where something could not be done yet.
 */
#define LOOK_PAUSE 10000
#define RETRY_PAUSE 100

/*
 * A writer that ends sooner than this is started again when so much time has
 * passed.
 */
#define START_PAUSE USECS_PER_SEC

/*
 * The server's log is told this often at most that a writer could not be
 * started.
 */
#define REPORT_PAUSE USECS_PER_MINUTE

/*
 * The first visits are so long after the start, when databases with calls have
 * their queues; later ones so long after each hour, when it can be summed up.
 */
#define FIRST_VISITS (10 * USECS_PER_SEC)
#define HOURLY_VISITS (90 * USECS_PER_SEC)

/* The next visit waits for so long for the one before to end. */
#define LONGEST_VISIT (10 * USECS_PER_SEC)

PGDLLEXPORT void tierlimit_launcher_main(Datum unused);

/* The writer that was last started for a queue. */
typedef struct StartedWriter
{
	BackgroundWorkerHandle *handle; /* NULL: it has ended */
	Oid			database;
	TimestampTz at;
} StartedWriter;

static StartedWriter started[NUM_QUEUES];

/* The databases that are to be visited yet, when they are listed anew, and the
 * queue of the last visit; -1: there was none. */
static List *visits = NIL;
static TimestampTz visits_due = 0;
static int	visited = -1;

/*
 * Have the server start the launcher.  Called from _PG_init(), while libraries
 * are preloaded.
 */
void
launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tierlimit");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "tierlimit_launcher_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "tierlimit launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "tierlimit launcher");
	RegisterBackgroundWorker(&worker);
}

/*
 * Return whether the writer that was started for a queue may still be coming,
 * or is there.
 */
static bool
is_under_way(StartedWriter *writer)
{
	pid_t		pid;

	if (writer->handle == NULL)
		return false;
	switch (GetBackgroundWorkerPid(writer->handle, &pid))
	{
		case BGWH_STARTED:
		case BGWH_NOT_YET_STARTED:
			return true;
		case BGWH_STOPPED:
		case BGWH_POSTMASTER_DIED:
			break;
	}
	pfree(writer->handle);
	writer->handle = NULL;
	return false;
}

/*
 * Return whether a writer that was started for this database has ended so soon
 * that the next one has to wait.
 */
static bool
ended_soon(const StartedWriter *writer, Oid database)
{
	return writer->database == database &&
		!has_passed(writer->at, GetCurrentTimestamp(), START_PAUSE);
}

/*
 * Start a writer for a queue.  Returns false if the server has no place for
 * another worker.
 */
static bool
start_writer(int number, Oid database, bool visit)
{
	WriterOrders orders = {.database = database, .visits = visit};
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = Int32GetDatum(number);
	memcpy(worker.bgw_extra, &orders, sizeof(WriterOrders));
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tierlimit");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "tierlimit_worker_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "tierlimit log writer");
	snprintf(worker.bgw_type, BGW_MAXLEN, "tierlimit log writer");
	if (!RegisterDynamicBackgroundWorker(&worker, &started[number].handle))
		return false;
	started[number].database = database;
	started[number].at = GetCurrentTimestamp();
	return true;
}

/*
 * Tell sessions that wait, and now and then the server's log, that there is no
 * place for a writer.
 */
static void
report_no_place(LogQueue *queue, Oid database)
{
	static TimestampTz reported_at = 0;
	LogFailure	failure = {
		.since = GetCurrentTimestamp(),
		.sqlerrcode = ERRCODE_INSUFFICIENT_RESOURCES,
		.message = "all background workers of the server are in use; increase \"max_worker_processes\""
	};

	queue_failed(queue, &failure);
	if (!has_passed(reported_at, failure.since, REPORT_PAUSE))
		return;
	reported_at = failure.since;
	ereport(WARNING,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not start the log writer of the database with OID %u",
					database),
			 errdetail("All background workers of the server are in use. It is tried again."),
			 errhint("Increase \"max_worker_processes\" and restart the server.")));
}

/* Return whether there is a database. */
static bool
database_exists(Oid database)
{
	bool		exists;

	StartTransactionCommand();
	exists = SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
	CommitTransactionCommand();
	return exists;
}

/* Start a queue's writer.  Returns false if that has to wait. */
static bool
serve(const WaitingQueue *waiting)
{
	StartedWriter *writer = &started[waiting->number];

	if (is_under_way(writer))
		return true;
	if (ended_soon(writer, waiting->database))
	{
		if (!database_exists(waiting->database))
			queue_forget(waiting->database);
		return false;
	}
	if (start_writer(waiting->number, waiting->database, false))
		return true;

	/* Where our own writers have all places, it is a matter of time. */
	if (!queue_ask_to_leave())
		report_no_place(queue_at(waiting->number), waiting->database);
	return false;
}

/* Return the databases that can be visited, in the launcher's memory. */
static List *
list_databases(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *databases = NIL;
	Relation	catalog;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	catalog = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(catalog, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext own = MemoryContextSwitchTo(context);

		/* (-2: DROP DATABASE was interrupted, and nobody can connect) */
		if (database->datallowconn && !database->datistemplate &&
			database->datconnlimit != -2)
			databases = lappend_oid(databases, database->oid);
		MemoryContextSwitchTo(own);
	}
	table_endscan(scan);
	table_close(catalog, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

/*
 * Have the next database visited, if it is time.  Returns whether there are
 * more to be visited soon.
 */
static bool
visit_next(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Oid			database;

	if (visits == NIL)
	{
		if (now < visits_due)
			return false;
		visits_due = now - now % USECS_PER_HOUR + USECS_PER_HOUR + HOURLY_VISITS;
		visits = list_databases();
	}

	/* One at a time; but one that stays is a database's own by now. */
	if (visited >= 0 && is_under_way(&started[visited]) &&
		!has_passed(started[visited].at, now, LONGEST_VISIT))
		return true;
	database = linitial_oid(visits);
	if (queue_of(database) == NULL && database_exists(database))
	{
		int			number = queue_take_for_visit(database);

		/* Where there is no place, there will be one at another look. */
		if (number < 0)
			return false;
		if (!start_writer(number, database, true))
		{
			queue_forget(database);
			return false;
		}
		visited = number;
	}
	visits = list_delete_first(visits);
	return visits != NIL;
}

/*
 * Take care of all queues, those first that wait for longest.  Returns for how
 * many ms there is nothing to do.
 */
static long
look_around(void)
{
	WaitingQueue waiting[NUM_QUEUES];
	int			count = queue_list_waiting(waiting);
	bool		all_served = true;

	for (int i = 0; i < count; i++)
	{
		all_served &= serve(&waiting[i]);
		CHECK_FOR_INTERRUPTS();
	}
	if (queue_anybody_waits())
	{
		(void) queue_ask_to_leave();
		all_served = false;
	}
	if (visit_next())
		all_served = false;
	return all_served && !queue_any_closed() ? LOOK_PAUSE : RETRY_PAUSE;
}

/* Note, when this process ends, that there is no launcher. */
static void
forget_launcher(int code, Datum arg)
{
	(void) code;
	(void) arg;
	queue_set_launcher(NULL);
}

/* Run the launcher: the main function of its process. */
void
tierlimit_launcher_main(Datum unused)
{
	static uint32 wait_event = 0;

	(void) unused;
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	settings_turn_timeouts_off();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	before_shmem_exit(forget_launcher, (Datum) 0);
	queue_set_launcher(MyLatch);
	spill_forget();
	MemoryContextSwitchTo(TopMemoryContext);
	visits_due = GetCurrentTimestamp() + FIRST_VISITS;

	for (;;)
	{
		long		pause = look_around();

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 pause,
						 extension_wait_event(&wait_event, "TierlimitLauncherMain"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}
