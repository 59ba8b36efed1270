/*-------------------------------------------------------------------------
 *
 * tierlimit.c
 *		Exact API limits in shared memory: the module's entry point.
 *
 * A call of tierlimit.check() goes one way through these files:
 *
 *		functions.c		arguments in, rows out (decision.c)
 *		policy.c		who is counted, and under which tier
 *		  registry.c	  what api_key says of the key, shared by all sessions
 *		  tiers.c		  tiers and limits, remembered by each session
 *		limiter.c		decide and count, under the subjects' locks
 *		  subject.c		  who is in memory, found by name
 *		  window.c		  what one limit counts (history.c, calendar.c)
 *		store.c			the shared memory, its layout and locks
 *		  pool.c		  its free blocks; sweep.c makes room
 *
 * answers.c makes of the decision what a service answers over HTTP (json.c);
 * secrets.c makes the secrets of registered keys.
 *
 * triggers.c tells registry.c and tiers.c of changes, scope.c keeps databases
 * apart, query.c reads tables, clock.c tells the time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "scope.h"
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
	scope_init();
}
