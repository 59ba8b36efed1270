/*-------------------------------------------------------------------------
 *
 * writer.c
 *		Making rows of the table request_log from a queue of decisions.
 *
 * A batch is collected from the queue once, and then written by one INSERT, as
 * often as it takes: what is in it stays in the queue until the transaction
 * has committed.  So an ERROR, or the end of the writer, neither loses a row
 * nor doubles one.
 *
 * Denied calls are delayed (delayed.c) until their second is over, and then go
 * into the batch at hand.  A batch's memory is bounded by WRITER_MAX_ROWS.
 *
 * Hourly sums are made from the log when an hour is over (maintenance.c).  A
 * row that comes later than that is added to them here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/compat.h"
#include "base/installation.h"
#include "base/settings.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "log/coalesce.h"
#include "log/delayed.h"
#include "log/maintenance.h"
#include "log/writer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* The rows that are to be written next, which are in the queue, or delayed. */
typedef struct Batch
{
	uint64		number;			/* number of the batches before */
	uint64		position;		/* end position in the queue of what was
								 * collected */
	TimestampTz until;			/* when the collecting began */
	int			count;
	int64		decisions;
	Oid			extension_id;	/* see InstallationId: the extension that the
								 * rows are for */
	bool		collected;
	bool		redates;		/* it is one row, which changes the times of
								 * others */
	LogRow	   *rows[WRITER_MAX_ROWS + 1];
	LogRow		queued[WRITER_MAX_ROWS + 1];
} Batch;

static Batch *batch;			/* allocated by writer_init() */
static MemoryContext writer_context;	/* the context of what lasts */
static MemoryContext insert_context;	/* the context of the arrays of one
										 * INSERT */
static Coalescer *alike_admitted;	/* finds the admitted calls of the batch */

/*
 * The texts and types of these are made from logrow_columns[] by
 * writer_init().
 */
static SpiStatement insert_rows;
static SpiStatement sum_late_rows;

/*
 * The columns that are summed up of a row that comes late, in the order of the
 * arguments.
 */
static const LogColumn summed_columns[] = {
	LOG_COLUMN_AT, LOG_COLUMN_KEY, LOG_COLUMN_ACCOUNT, LOG_COLUMN_TIER,
	LOG_COLUMN_ENDPOINT, LOG_COLUMN_ERROR_CODE, LOG_COLUMN_REQUESTS,
	LOG_COLUMN_CREDITS
};

static SpiStatement redate_rows = {
	"SELECT tierlimit._redate_rows($1, $2)", 2,
	{TIMESTAMPTZOID, TIMESTAMPTZOID}, NULL
};

StaticAssertDecl(LOG_COLUMNS + 1 <= MAX_ARGUMENTS,
				 "a statement takes all columns and a time");

/*
 * Have a statement take each column as an argument, an array of the batch's
 * values.
 */
static void
set_arguments(SpiStatement *statement)
{
	statement->nargs = LOG_COLUMNS;
	for (int i = 0; i < LOG_COLUMNS; i++)
		statement->types[i] = logrow_columns[i].array_type;
}

/*
 * Prepare the INSERT.  (In FROM, each array would go through a store of tuples
 * of its own, which costs as much as the rest.)
 */
static void
prepare_insert(void)
{
	StringInfoData names;
	StringInfoData values;

	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < LOG_COLUMNS; i++)
	{
		const char *comma = i == 0 ? "" : ", ";

		appendStringInfo(&names, "%s%s", comma, logrow_columns[i].name);
		appendStringInfo(&values, "%sunnest($%d)", comma, i + 1);
	}
	insert_rows.text = psprintf("INSERT INTO tierlimit.request_log (%s) SELECT %s",
								names.data, values.data);
	set_arguments(&insert_rows);
}

/*
 * Prepare the adding to the sums of those hours that are summed up already, up
 * to a time that is the last argument.
 */
static void
prepare_sums(void)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "SELECT tierlimit._sum_late_rows(");
	for (size_t i = 0; i < lengthof(summed_columns); i++)
		appendStringInfo(&text, "$%d, ", summed_columns[i] + 1);
	appendStringInfo(&text, "$%d)", LOG_COLUMNS + 1);
	sum_late_rows.text = text.data;

	set_arguments(&sum_late_rows);
	sum_late_rows.types[sum_late_rows.nargs++] = TIMESTAMPTZOID;
}

/* Prepare this module; called once, by the log writer's process. */
void
writer_init(void)
{
	MemoryContext old;

	writer_context = AllocSetContextCreate(TopMemoryContext, "tierlimit writer",
										   ALLOCSET_DEFAULT_SIZES);
	insert_context = AllocSetContextCreate(TopMemoryContext, "tierlimit insert",
										   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(writer_context);
	batch = palloc0(sizeof(Batch));
	alike_admitted = coalesce_create(writer_context);
	prepare_insert();
	prepare_sums();
	MemoryContextSwitchTo(old);
	delayed_init();
}

/* Return how many rows are delayed, to be written later. */
int
writer_delayed(void)
{
	return delayed_rows();
}

/*
 * Return whether rows are delayed, or a batch could not be written yet: such
 * rows may not be in the queue any more.
 */
bool
writer_has_rows(void)
{
	return batch->collected || delayed_rows() > 0;
}

/*
 * Put a reset of more requests than the table's column of 4 bytes can hold
 * into the batch as several rows, but for the last of these, which is
 * returned.
 */
static LogRow
split_off_requests(const LogRow *row)
{
	LogRow		rest = *row;

	while (rest.requests < -PG_INT32_MAX && batch->count < WRITER_MAX_ROWS)
	{
		LogRow	   *part = &batch->queued[batch->count];

		*part = rest;
		part->requests = -PG_INT32_MAX;
		part->credits = 0;
		batch->rows[batch->count++] = part;
		rest.requests += PG_INT32_MAX;
	}
	return rest;
}

/* Put a row of the queue into the batch. */
static void
add_to_batch(const LogRow *whole)
{
	LogRow		rest = split_off_requests(whole);
	const LogRow *row = &rest;
	LogRow	   *own = &batch->queued[batch->count];

	batch->decisions += logrow_decisions(row);
	*own = *row;

	/*
	 * A row that comes after a refund is not coalesced with one before it,
	 * which the refund may have given back.
	 */
	if (logrow_gives_back(row))
		coalesce_reset(alike_admitted);
	if (tierlimit_log_granularity > 0 && row->requests > 0)
	{
		LogRow	   *like = coalesce_find(alike_admitted, own,
										 tierlimit_log_granularity * INT64CONST(1000));

		if (like != own)
		{
			coalesce_into(like, row);
			return;
		}
	}
	batch->rows[batch->count++] = own;
}

/*
 * Add those of the delayed rows that are due, or everything, to the batch.
 * Rows of an installation that is gone are dropped.
 */
static void
add_delayed_rows(const LogQueue *queue, bool everything)
{
	LogRow	  **rows = &batch->rows[batch->count];
	int			taken = delayed_take(rows, WRITER_MAX_ROWS - batch->count,
									 everything || delayed_is_full(queue, WRITER_MAX_ROWS));
	int			kept = 0;

	for (int i = 0; i < taken; i++)
	{
		batch->decisions += logrow_decisions(rows[i]);
		if (rows[i]->extension_id == batch->extension_id)
			rows[kept++] = rows[i];
	}
	batch->count += kept;
}

/* Return whether a row is a refund of nothing. */
static bool
says_nothing(const LogRow *row)
{
	return row->requests == 0 && row->credits == 0 && !logrow_gives_back(row) &&
		row->error_code != LOG_REDATES;
}

/*
 * Collect a batch from the queue and from the delayed rows.  Rows of an
 * installation that is gone belong nowhere.
 */
static void
collect(LogQueue *queue, bool everything)
{
	const Installation *here = installation_if_any();
	const char *packed;

	batch->extension_id = here == NULL ? InvalidOid : here->id.extension_id;
	batch->position = ring_tail(&queue->ring);
	batch->until = GetCurrentTimestamp();
	batch->count = 0;
	batch->decisions = 0;
	batch->redates = false;
	coalesce_reset(alike_admitted);
	while (batch->count < WRITER_MAX_ROWS && !batch->redates &&
		   !delayed_is_full(queue, WRITER_MAX_ROWS))
	{
		uint64		before = batch->position;
		LogRow		row;

		if ((packed = ring_read(&queue->ring, &batch->position)) == NULL)
			break;
		logrow_unpack(packed, &row);
		if (row.error_code == LOG_REDATES && batch->count > 0)
		{
			/* The rows before it have to be written before it. */
			batch->position = before;
			break;
		}
		if (here == NULL || row.extension_id != here->id.extension_id ||
			says_nothing(&row))
			batch->decisions += logrow_decisions(&row);
		else if (row.error_code == LOG_REDATES)
		{
			add_to_batch(&row);
			batch->redates = true;
		}
		else if (row.error_code != 0)
			delayed_add(&row, batch->number);
		else
			add_to_batch(&row);
	}

	/*
	 * Only now add what is due: a denial that was just read may belong to it.
	 */
	if (!batch->redates)
		add_delayed_rows(queue, everything);
	delayed_keep_room(queue);
	batch->collected = true;
}

/*
 * Return a column of the batch as an array.  A column without any value, which
 * is the rule for some, is an empty array: unnest() fills it up with NULLs.
 */
static Datum
column_array(int number, Datum *values, bool *nulls)
{
	Oid			type = logrow_columns[number].type;
	int			dims[] = {batch->count};
	int			lower[] = {1};
	int16		length;
	bool		byval;
	char		align;

	if (memchr(nulls, false, batch->count) == NULL)
		return PointerGetDatum(construct_empty_array(type));
	get_typlenbyvalalign(type, &length, &byval, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lower,
											  type, length, byval, align));
}

/* Set the arguments to the batch's rows: one array for each column. */
static void
fill_arguments(Datum *args)
{
	static Datum values[LOG_COLUMNS][WRITER_MAX_ROWS + 1];
	static bool nulls[LOG_COLUMNS][WRITER_MAX_ROWS + 1];

	for (int row = 0; row < batch->count; row++)
	{
		Datum		row_values[LOG_COLUMNS];
		bool		row_nulls[LOG_COLUMNS];

		logrow_values(batch->rows[row], row_values, row_nulls);
		for (int i = 0; i < LOG_COLUMNS; i++)
		{
			values[i][row] = row_values[i];
			nulls[i][row] = row_nulls[i];
		}
	}
	for (int i = 0; i < LOG_COLUMNS; i++)
		args[i] = column_array(i, values[i], nulls[i]);
}

/* Return whether the batch has a row that was decided before a time. */
static bool
any_before(TimestampTz time)
{
	for (int i = 0; i < batch->count; i++)
		if (batch->rows[i]->at < time)
			return true;
	return false;
}

/* Compare two rows by account or key, and time, for qsort(). */
static int
compare_rows(const void *a, const void *b)
{
	const LogRow *x = *(LogRow *const *) a;
	const LogRow *y = *(LogRow *const *) b;

	for (int column = LOG_ACCOUNT; column >= LOG_KEY; column--)
	{
		LogText		s = x->texts[column];
		LogText		t = y->texts[column];
		int			order = memcmp(s.bytes ? s.bytes : "",
								   t.bytes ? t.bytes : "",
								   Min(s.length, t.length));

		if (order == 0)
			order = s.length - t.length;
		if (order != 0)
			return order;
	}
	return x->at < y->at ? -1 : x->at > y->at;
}

/*
 * Return whether the extension was dropped since, even if it was created
 * again.
 */
static bool
is_gone(Oid extension_id)
{
	const Installation *here = installation_if_any();

	return here == NULL || here->id.extension_id != extension_id;
}

/*
 * Insert the batch, and add it to the sums of hours that are summed up
 * already.
 */
static void
insert_batch(void)
{
	MemoryContext old = MemoryContextSwitchTo(insert_context);
	Datum		args[LOG_COLUMNS + 1];
	TimestampTz summed_until;

	/*
	 * Sort the rows in the order of the index: neighbours are found in the
	 * caches.
	 */
	qsort(batch->rows, batch->count, sizeof(LogRow *), compare_rows);
	MemoryContextReset(insert_context);
	fill_arguments(args);
	MemoryContextSwitchTo(old);

	maintenance_prepare();
	spi_write(&insert_rows, args);

	/*
	 * The INSERT may have waited for DROP EXTENSION, and found the table of
	 * the next extension.
	 */
	if (is_gone(batch->extension_id))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the extension \"tierlimit\" was dropped while its request log was written")));
	summed_until = maintenance_summed_until();
	args[LOG_COLUMNS] = TimestampTzGetDatum(summed_until);
	if (any_before(summed_until))
		spi_write(&sum_late_rows, args);
}

/*
 * Move the rows that are later than a time to another time; see LOG_REDATES.
 */
static void
redate(const LogRow *row)
{
	Datum		args[] = {
		TimestampTzGetDatum((TimestampTz) row->credits),
		TimestampTzGetDatum(row->at)
	};

	spi_write(&redate_rows, args);
}

/*
 * Write one batch in the running transaction, with the delayed rows that have
 * become due, or with everything that is delayed.  The caller commits and then
 * calls writer_committed(); or, having aborted, calls this again.  Raises an
 * ERROR if the batch can't be written; no lock may be held.
 */
void
writer_write(LogQueue *queue, bool everything)
{
	if (!batch->collected)
		collect(queue, everything);
	if (batch->count == 0 || is_gone(batch->extension_id))
		return;
	if (batch->redates)
		redate(batch->rows[0]);
	else
		insert_batch();
}

/* Release what was written, and wake the sessions that wait for it. */
void
writer_committed(LogQueue *queue)
{
	queue_note_commit(XactLastCommitEnd);
	queue_advance(queue, batch->position, batch->decisions, batch->count,
				  batch->until);
	delayed_written();
	delayed_keep_room(queue);
	batch->collected = false;
	batch->number++;
}

/*
 * Return the rows that are delayed to the queue, as far as there is room: for
 * a writer that ends without having written them.  Raises no ERROR.
 */
void
writer_put_back(LogQueue *queue)
{
	if (batch == NULL)
		return;
	delayed_put_back(queue, batch->number);
}
