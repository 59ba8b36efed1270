/*-------------------------------------------------------------------------
 *
 * tierlimit.c
 *		Exact API limits in shared memory: the module's entry point.
 *
 * A call of tierlimit.check() goes down through these folders, each of which
 * knows only those below it:
 *
 *		api			what SQL calls: arguments in, rows out
 *		limit		what is decided, counted, given back and rebuilt
 *		config		the tables that say what applies: tiers, keys, prices
 *		store		the shared memory: the subjects that are counted
 *		log			a decision's way to the table request_log, and its maintenance
 *		base		settings, locks, SQL, and what servers differ in
 *
 * Beside them, window has the arithmetic of limits, and knows nothing of a server.
 * README in this folder has drawings, and the words that are used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/progress.h"
#include "base/settings.h"
#include "config/tiers.h"
#include "fmgr.h"
#include "log/launcher.h"
#include "log/queue.h"
#include "log/spill.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "store/store.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* Ask for shared memory and locks: the hook for that. */
static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(add_size(store_size(),
									queue_shmem_size(spill_buffer_size())));
	RequestAddinShmemSpace(progress_shmem_size());
	RequestNamedLWLockTranche("tierlimit", NUM_PARTITIONS);
}

/*
 * Set up shared memory: the hook that runs at start and, in the postmaster,
 * again after a crash.  The queues get what an orderly stop has left on disk.
 */
static void
start_up_shmem(void)
{
	bool		fresh;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	partition_locks_attach();
	fresh = store_attach();
	queue_shmem_init();
	progress_shmem_init();
	if (fresh)
	{
		SpillTotals spilled = spill_load();

		store_note_spilled(spilled.position, spilled.decisions);
		spill_at_exit();
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Install the hooks, which call those that were there before. */
static void
install_hooks(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_up_shmem;
}

/*
 * Initialise the module.  Where the library is loaded later than at server
 * start, there is no shared memory for it: store stays NULL, and functions
 * that need it say so.
 */
void
_PG_init(void)
{
	tiers_init();
	if (!process_shared_preload_libraries_in_progress)
		return;

	settings_define();
	install_hooks();
	launcher_register();
}
