/*-------------------------------------------------------------------------
 *
 * claim.c
 *		Claims, by which one session at a time has a subject to itself.
 *
 * A session that has claimed a subject (subject->claimed) is alone with it, to
 * compare it with the request log: other sessions that want to change what is
 * counted wait, while no lock is held.  An ERROR, or the end of the session,
 * gives the claim back.
 *
 * A session that waits for a claim while it holds a lock on the log's table
 * that the claimant waits for would wait for ever: so a session waits for
 * CALL_PATIENCE only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/settings.h"
#include "store/claim.h"
#include "store/sweep.h"
#include "utils/timestamp.h"


/*
 * Try to claim a subject.  Returns false if another session has the claim, or
 * if there is no room for the subject: then *fits is false.
 */
static bool
try_take(const SubjectName *name, bool *fits)
{
	BlockList	spare = {.base = store->blocks};
	Subject    *subject;
	bool		taken = false;

	*fits = true;

	/* Find the subject, or create it if there is room. */
	partition_lock(&name->hash, 1, LW_EXCLUSIVE);
	subject = subject_find(name);
	if (subject == NULL)
	{
		*fits = pool_fill(&store->pool, &spare, subject_blocks(name),
						  partition_of(name->hash));
		if (*fits)
			subject = subject_create(name, &spare);
	}

	/* Claim it, unless another session has. */
	if (subject != NULL && !subject->claimed)
		subject->claimed = taken = true;
	partition_unlock(&name->hash, 1);
	return taken;
}

/*
 * Claim a subject, which is created if it is not in memory; waits while other
 * sessions have the claim.  The caller has to release the claim, also on an
 * ERROR (claim_clean_up).  Raises an ERROR if the wait takes longer than
 * CALL_PATIENCE, or if there is no room.  No lock may be held.
 */
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

/*
 * Give this session's claim on a subject back, and wake the sessions that wait
 * for it.  No lock may be held.
 */
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

/*
 * Give a claim back when the session ends or raises an ERROR: the callback for
 * PG_ENSURE_ERROR_CLEANUP, whose argument points to the SubjectName.
 */
void
claim_clean_up(int code, Datum arg)
{
	(void) code;
	claim_release((const SubjectName *) DatumGetPointer(arg));
}

/*
 * Wait until no session claims the subject.  Raises an ERROR if that takes
 * longer than CALL_PATIENCE; no lock may be held.
 */
void
claim_wait(const SubjectName *name)
{
	static uint32 wait_event = 0;
	TimestampTz since = GetCurrentTimestamp();

	for (;;)
	{
		Subject    *subject;
		bool		claimed;

		/* Get ready to sleep before looking, so that no wake-up is missed. */
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

/*
 * Return the end position of the subject's newest row that may not be written
 * yet.  Where the subject is, or was, not in memory, that may be a row of
 * another subject, even one of another database.  No lock may be held.
 */
uint64
claim_log_position(const SubjectName *name)
{
	Subject    *subject;
	uint64		position;

	/* Rows of the subject may be from a time when it was not in memory. */
	partition_lock(&name->hash, 1, LW_SHARED);
	subject = subject_find(name);
	position = subject == NULL ? 0 : subject->log_position;
	position = Max(position,
				   store->partitions[partition_of(name->hash)].stats.absent_log_position);
	partition_unlock(&name->hash, 1);

	/*
	 * Rows that have an address may be of a call that was not charged to it.
	 */
	if (name->kind == SUBJECT_ADDRESS)
		position = Max(position,
					   pg_atomic_read_u64(&store->address_position));
	return position;
}
