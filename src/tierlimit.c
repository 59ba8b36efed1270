/*-------------------------------------------------------------------------
 *
 * tierlimit.c
 *		Exact API limits in shared memory: the module's entry point.
 *
 * A call of tierlimit.check() goes one way through these files:
 *
 *		functions.c		arguments in, rows out (decision.c); path.c: endpoints
 *		decide.c		from a question to a decision; gate.c: of authorize()
 *		policy.c		who is counted, and under which tier
 *		  registry.c	  what api_key says of the key, shared by all sessions
 *		  tiers.c		  tiers, limits, endpoints (pattern.c), as each session
 *						  remembers them
 *		limiter.c		count and log, under the subjects' locks
 *		  call.c		  which subjects, windows and time
 *		  evaluate.c	  what the limits say
 *		  request.c		  was it admitted before?
 *		  subject.c		  who is in memory, found by name
 *		  window.c		  what one limit counts (history.c, calendar.c)
 *		store.c			the shared memory, its layout and locks
 *		  pool.c		  its free blocks; sweep.c makes room
 *		log.c			the decision's way to the database's worker (logrow.c)
 *		  queue.c		  in a queue (ring.c), which that one serves; spill.c
 *						  keeps the queues while the server is stopped
 *		launcher.c		starts such workers
 *		worker.c		the worker's life
 *		  writer.c		  rows into the table (merge.c)
 *		  upkeep.c		  partitions and sums
 *
 * And back: rebuild.c fills windows that are not in memory from the log
 * (past.c), one session at a time (claim.c); verify.c compares.
 *
 * triggers.c tells registry.c and tiers.c of changes, scope.c keeps databases
 * apart, query.c runs SQL, clock.c tells the time, statistics.c what goes on.
 * answers.c makes headers and bodies of HTTP from decisions (json.c), secrets.c
 * makes keys (sha256.c); address.c says how addresses are counted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "launcher.h"
#include "miscadmin.h"
#include "queue.h"
#include "settings.h"
#include "spill.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "store.h"
#include "tiers.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(add_size(store_size(),
									queue_shmem_size(spill_buffer_size())));
	RequestNamedLWLockTranche("tierlimit", NUM_PARTITIONS);
}

/*
 * Runs at start and, in the postmaster, again after a crash.  The queues have what
 * an orderly stop has left on disk.
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
	if (fresh)
	{
		SpillTotals spilled = spill_load();

		store_note_spilled(spilled.position, spilled.decisions);
		spill_at_exit();
	}
	LWLockRelease(AddinShmemInitLock);
}

static void
install_hooks(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_up_shmem;
}

/*
 * Where the library is loaded later than at server start, there is no shared
 * memory for it: store stays NULL, and functions that need it say so.
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
