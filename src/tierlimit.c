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
#include "settings.h"
#include "store.h"
#include "tiers.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

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
	store_init();
	launcher_register();
}
