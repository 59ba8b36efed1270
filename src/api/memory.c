/*-------------------------------------------------------------------------
 *
 * memory.c
 *		The view memory: who is in shared memory, and with how much.
 *
 * It is for whoever looks into a server that does not do what was expected, and
 * shows this database's subjects, partition by partition: each as it was at a
 * moment, not all at one.  The rows of a partition are copied under its lock
 * (SHARED) into room that was made before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/subject.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(tierlimit_memory_1_0);

/* By SubjectKind. */
static const char *const kind_names[] = {
	"key", "account", "address", "anonymous", "nobody", "secret", "request_id"
};

typedef struct MemoryRow
{
	SubjectKind kind;
	int			windows;
	uint32		blocks;
	TimestampTz clock;
	uint64		log_position;
	bool		claimed;
	int			length;
	char		name[MAX_NAME_LENGTH];
} MemoryRow;

static void
copy_subject(MemoryRow *row, const Subject *subject)
{
	row->kind = (SubjectKind) subject->kind;
	row->windows = subject_count_windows(subject);
	row->blocks = subject_count_blocks(subject);
	row->clock = subject->clock;
	row->log_position = subject->log_position;
	row->claimed = subject->claimed;
	row->length = subject->name_length;
	subject_get_name(subject, row->name);
}

/*
 * Copy the subjects of an installation that a partition has, up to room of them;
 * returns how many it has.
 */
static int
copy_partition(uint64 partition, InstallationId here, MemoryRow *rows, int room)
{
	int			count = 0;

	partition_lock(&partition, 1, LW_SHARED);
	for (uint64 i = partition; i < store->nbuckets; i += NUM_PARTITIONS)
		for (BlockNo at = *store_bucket(i); at != NO_BLOCK; at = subject_at(at)->next)
		{
			const Subject *subject = subject_at(at);

			if (!installation_is(subject->installation, here))
				continue;
			/* What there is no room for is counted, so that there can be. */
			if (count < room)
				copy_subject(&rows[count], subject);
			count++;
		}
	partition_unlock(&partition, 1);
	return count;
}

/* What a hash stands for is not to be seen. */
static bool
has_readable_name(SubjectKind kind)
{
	return kind != SUBJECT_SECRET && kind != SUBJECT_RETRY && kind != SUBJECT_NOBODY;
}

static void
put_row(ReturnSetInfo *result, const MemoryRow *row)
{
	Datum		values[7] = {0};
	bool		nulls[7] = {0};

	nulls[0] = !has_readable_name(row->kind);
	if (!nulls[0])
		values[0] = PointerGetDatum(cstring_to_text_with_len(row->name, row->length));
	values[1] = CStringGetTextDatum(kind_names[row->kind]);
	values[2] = Int32GetDatum(row->windows);
	values[3] = Int32GetDatum((int32) row->blocks);
	nulls[4] = row->clock == PG_INT64_MIN;
	values[4] = TimestampTzGetDatum(row->clock);
	values[5] = Int64GetDatum((int64) row->log_position);
	values[6] = BoolGetDatum(row->claimed);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* _memory() */
Datum
tierlimit_memory_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	InstallationId here;
	MemoryRow  *rows = NULL;
	int			room = 0;

	store_require();
	here = installation()->id;
	InitMaterializedSRF(fcinfo, 0);
	for (uint64 partition = 0; partition < NUM_PARTITIONS; partition++)
	{
		int			count = copy_partition(partition, here, rows, room);

		/* Some more may come until it is looked at again; they are left out. */
		if (count > room)
		{
			if (rows != NULL)
				pfree(rows);
			room = count + count / 8;
			rows = MemoryContextAllocHuge(CurrentMemoryContext,
										  (Size) room * sizeof(MemoryRow));
			count = Min(copy_partition(partition, here, rows, room), room);
		}
		for (int i = 0; i < count; i++)
			put_row(result, &rows[i]);
		CHECK_FOR_INTERRUPTS();
	}
	return (Datum) 0;
}
