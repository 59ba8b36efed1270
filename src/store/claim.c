/*-------------------------------------------------------------------------
 *
 * claim.c
 *		One session at a time compares a subject with the request log.
 *
 * Whoever has claimed a subject (subject->claimed) is alone with it: others
 * that want to change what is counted wait, while no lock is held.  An ERROR,
 * or the end of the session, gives the claim back.
 *
 * One who waits for a claim while holding a lock on the log's table that the
 * claimant waits for would wait for ever: so one waits for CALL_PATIENCE
 * only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/settings.h"
#include "store/claim.h"
#include "store/sweep.h"
#include "utils/timestamp.h"


/* False if somebody else has the claim; *fits: there was room for the subject. */
static bool
try_take(const SubjectName *name, bool *fits)
{
	BlockList	spare = {.base = store->blocks};
	Subject    *subject;
	bool		taken = false;

	*fits = true;
	partition_lock(&name->hash, 1, LW_EXCLUSIVE);
	subject = subject_find(name);
	if (subject == NULL)
	{
		*fits = pool_fill(&store->pool, &spare, subject_blocks(name),
						  partition_of(name->hash));
		if (*fits)
			subject = subject_create(name, &spare);
	}
	if (subject != NULL && !subject->claimed)
		subject->claimed = taken = true;
	partition_unlock(&name->hash, 1);
	return taken;
}

void
claim_take(const SubjectName *name, Clock clock)
{
	bool		fits;

	while (!try_take(name, &fits))
	{
		if (fits)
			claim_wait(name);
		else
			sweep_make_room(clock);
	}
}

void
claim_release(const SubjectName *name)
{
	Subject    *subject;

	partition_lock(&name->hash, 1, LW_EXCLUSIVE);
	subject = subject_find(name);
	if (subject != NULL)
		subject->claimed = false;
	partition_unlock(&name->hash, 1);
	ConditionVariableBroadcast(&store->claims_changed);
}

void
claim_clean_up(int code, Datum arg)
{
	(void) code;
	claim_release((const SubjectName *) DatumGetPointer(arg));
}

void
claim_wait(const SubjectName *name)
{
	static uint32 wait_event = 0;
	TimestampTz since = GetCurrentTimestamp();

	for (;;)
	{
		Subject    *subject;
		bool		claimed;

		ConditionVariablePrepareToSleep(&store->claims_changed);
		partition_lock(&name->hash, 1, LW_SHARED);
		subject = subject_find(name);
		claimed = subject != NULL && subject->claimed;
		partition_unlock(&name->hash, 1);
		if (!claimed)
			break;
		if (GetCurrentTimestamp() - since > CALL_PATIENCE)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not read what is counted for a key"),
					 errdetail("Another session has been reading it from the request log for %d seconds.",
							   (int) (CALL_PATIENCE / USECS_PER_SEC)),
					 errhint("See whether somebody holds a lock on tierlimit.request_log.")));
		ConditionVariableTimedSleep(&store->claims_changed, 1000,
									extension_wait_event(&wait_event, "TierlimitRebuild"));
	}
	ConditionVariableCancelSleep();
}

uint64
claim_log_position(const SubjectName *name)
{
	Subject    *subject;
	uint64		position;

	partition_lock(&name->hash, 1, LW_SHARED);
	subject = subject_find(name);
	position = subject == NULL ? 0 : subject->log_position;
	position = Max(position,
				   store->partitions[partition_of(name->hash)].stats.absent_log_position);
	partition_unlock(&name->hash, 1);
	if (name->kind == SUBJECT_ADDRESS)
		position = Max(position,
					   pg_atomic_read_u64(&store->address_position));
	return position;
}
