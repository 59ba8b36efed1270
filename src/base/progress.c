/*-------------------------------------------------------------------------
 *
 * progress.c
 *		How far long work is, for all sessions to see.
 *
 * Each process has a slot in shared memory, which it alone writes, and so
 * never waits for anybody.  It makes the slot's change count odd before it
 * writes, and even again after it; who reads copies the slot until the count
 * was the same even number before and after.  (PostgreSQL's own statistics of
 * backends work like this.)
 *
 * Work ends in many ways.  What a process reports is gone when it says so;
 * when the transaction, or the subtransaction in which the work began, is
 * rolled back; and when the process exits.  A commit keeps it: a procedure may
 * commit between its pieces.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/compat.h"
#include "base/progress.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

/* A slot; all zero: its process reports nothing. */
typedef struct ProgressSlot
{
	pg_atomic_uint32 changes;	/* odd: the report is being written */
	ProgressReport report;
} ProgressSlot;

static ProgressSlot *slots = NULL;	/* in shared memory, if preloaded */

/* The level of nested transactions that the work began in; 0: there is none. */
static int	began_at_level = 0;

/* Return how many slots there are: those of all processes that run SQL. */
int
progress_slots(void)
{
	return slots == NULL ? 0 : MaxBackends;
}

/* Return how much shared memory the slots take. */
Size
progress_shmem_size(void)
{
	return mul_size(MaxBackends, sizeof(ProgressSlot));
}

/*
 * Lay the slots out in shared memory, or attach to them; AddinShmemInitLock
 * has to be held.
 */
void
progress_shmem_init(void)
{
	bool		found;

	slots = ShmemInitStruct("tierlimit progress", progress_shmem_size(), &found);
	if (found)
		return;
	memset(slots, 0, progress_shmem_size());
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u32(&slots[i].changes, 0);
}

/* Begin to write this process's report, which end_write() ends. */
static ProgressReport *
begin_write(void)
{
	ProgressSlot *slot = &slots[my_backend_number()];

	/* Nothing between the two can be interrupted, nor fail. */
	pg_atomic_write_u32(&slot->changes, pg_atomic_read_u32(&slot->changes) + 1);
	pg_write_barrier();
	return &slot->report;
}

/* End what begin_write() has begun. */
static void
end_write(void)
{
	ProgressSlot *slot = &slots[my_backend_number()];

	pg_write_barrier();
	pg_atomic_write_u32(&slot->changes, pg_atomic_read_u32(&slot->changes) + 1);
}

/* Forget what this process reports when it exits. */
static void
end_at_exit(int code, Datum arg)
{
	(void) code;
	(void) arg;
	progress_end();
}

/* Forget the work of a transaction that is rolled back. */
static void
on_transaction_end(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_ABORT)
		progress_end();
	else if (began_at_level > 1)
		began_at_level = 1;
}

/* Forget the work of a subtransaction that is rolled back. */
static void
on_subtransaction_end(SubXactEvent event, SubTransactionId mine,
					  SubTransactionId parent, void *arg)
{
	const int	level = GetCurrentTransactionNestLevel();

	(void) mine;
	(void) parent;
	(void) arg;
	if (began_at_level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		progress_end();
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		began_at_level = level - 1;
}

/* Watch for what ends work, from the first work of a process on. */
static void
watch_for_ends(void)
{
	static bool watching = false;

	if (watching)
		return;
	before_shmem_exit(end_at_exit, (Datum) 0);
	RegisterXactCallback(on_transaction_end, NULL);
	RegisterSubXactCallback(on_subtransaction_end, NULL);
	watching = true;
}

/*
 * Begin to report work: the command is the name of what does it.  Another
 * command of this process is not reported any more.  Shared memory is needed.
 */
void
progress_begin(const char *command)
{
	ProgressReport *report;
	TimestampTz now = GetCurrentTimestamp();

	watch_for_ends();
	began_at_level = GetCurrentTransactionNestLevel();
	report = begin_write();
	memset(report, 0, sizeof(ProgressReport));
	report->pid = MyProcPid;
	report->database = MyDatabaseId;
	strlcpy(report->command, command, NAMEDATALEN);
	report->total = PROGRESS_UNKNOWN;
	report->started_at = now;
	end_write();
}

/*
 * Report that a part of the work begins, that will have about so many rows.
 */
void
progress_phase(const char *phase, int64 total)
{
	ProgressReport *report;

	if (began_at_level == 0)
		return;
	report = begin_write();
	strlcpy(report->phase, phase, NAMEDATALEN);
	report->done = 0;
	report->total = total;
	end_write();
}

/*
 * Report how many rows of the part are done.  Where these are more than were
 * expected, there are as many.
 */
void
progress_update(int64 done)
{
	ProgressReport *report;

	if (began_at_level == 0)
		return;
	report = begin_write();
	report->done = done;
	if (report->total != PROGRESS_UNKNOWN)
		report->total = Max(report->total, done);
	end_write();
}

/* Stop reporting.  Nothing happens if nothing is reported. */
void
progress_end(void)
{
	if (began_at_level == 0)
		return;
	began_at_level = 0;
	memset(begin_write(), 0, sizeof(ProgressReport));
	end_write();
}

/* Return whether this process reports work of this command. */
bool
progress_is_of(const char *command)
{
	return began_at_level != 0 &&
		strncmp(slots[my_backend_number()].report.command, command,
				NAMEDATALEN - 1) == 0;
}

/*
 * Copy what a process reports, by the number of its slot.  Returns false if it
 * reports nothing.  A slot that is changed all the time is looked at until
 * that succeeds, as it soon does: changes are short.
 */
bool
progress_read(int number, ProgressReport *report)
{
	ProgressSlot *slot = &slots[number];

	for (;;)
	{
		uint32		before = pg_atomic_read_u32(&slot->changes);

		pg_read_barrier();
		*report = slot->report;
		pg_read_barrier();
		if (before % 2 == 0 && pg_atomic_read_u32(&slot->changes) == before)
			return report->command[0] != '\0';
		CHECK_FOR_INTERRUPTS();
	}
}
