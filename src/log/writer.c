/*-------------------------------------------------------------------------
 *
 * writer.c
 *		From a queue of decisions to rows of the table request_log.
 *
 * A batch is collected from the queue once, and then written by one INSERT,
 * as often as it takes: what is in it stays in the queue until the
 * transaction has committed.  So an ERROR, or the end of the worker, neither
 * loses a row nor doubles one.
 *
 * Denied calls are delayed until their second is over, so that a flood of
 * them is a row a second; a writer that ends without having written them returns
 * them to the queue.  Whoever has no key makes no more rows than
 * MAX_ROWS_A_SECOND, whatever they vary.  A batch's memory is bounded
 * by WRITER_MAX_ROWS.
 *
 * Hourly sums are made from the log when an hour is over (maintenance.c).  A row
 * that comes later than that is added to them here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "base/compat.h"
#include "base/installation.h"
#include "base/settings.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "lib/ilist.h"
#include "log/coalesce.h"
#include "log/maintenance.h"
#include "log/writer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* A denial may be a little late for its second. */
#define HOLD_MARGIN (100 * 1000)

/* At the end of the queue's buffer so much may be skipped. */
#define LARGEST_ENTRY 4096

/*
 * So many rows of denied calls that belong to a second may have all that is known
 * of them; what exceeds these is summed up.  There is room for some sums before
 * MAX_ROWS_A_SECOND; more than that are only made by more keys, which are known.
 */
#define MAX_ROWS_A_SECOND 1000
#define MAX_DETAILED_ROWS (MAX_ROWS_A_SECOND - 100)

/* How many rows of a second were delayed. */
typedef struct SecondCount
{
	int64		second;
	int			rows;
} SecondCount;

/* Of the last seconds; denials come in about the order of their times. */
#define COUNTED_SECONDS 64

typedef struct DelayedRow
{
	LogRow		row;			/* first: coalesce.c returns it */
	dlist_node	node;
	TimestampTz due;
	uint32		bytes;			/* that it would take in the queue */
	uint64		batch;			/* the last one that added to it: */
	int64		added_requests; /* so much, which is in the queue as well
								 * until */
	int64		added_credits;	/* that batch is committed */
} DelayedRow;

/* What is to be written next: its rows are in the queue, or delayed. */
typedef struct Batch
{
	uint64		number;			/* of the batches so far */
	uint64		position;		/* of the queue, behind what was collected */
	TimestampTz until;			/* when that began */
	int			count;
	int64		decisions;
	Oid			extension_id;	/* see InstallationId: whose rows these are */
	bool		collected;
	bool		redates;		/* it is one row, which changes others' times */
	LogRow	   *rows[WRITER_MAX_ROWS + 1];
	LogRow		queued[WRITER_MAX_ROWS + 1];
	dlist_head	delayed;		/* rows that are to be freed afterwards */
} Batch;

static Batch *batch;			/* allocated by writer_init() */
static MemoryContext writer_context;	/* delayed rows */
static MemoryContext insert_context;	/* arrays of one INSERT */
static Coalescer *alike_admitted;	/* of the batch */
static Coalescer *alike_denied; /* of those delayed */
static dlist_head delayed;		/* HeldRows, the oldest first */
static int	delayed_count = 0;
static uint64 delayed_bytes = 0;	/* that they would take in the queue */
static uint64 delayed_limit = 0;	/* and may take */
static SecondCount delayed_in[COUNTED_SECONDS];

#define LOG_COLUMNS 11

#define COLUMN_TYPES \
	TIMESTAMPTZARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, \
	TEXTARRAYOID, INETARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, \
	INT4ARRAYOID, TEXTARRAYOID

/*
 * (In FROM, each array would go through a store of tuples of its own, which
 * costs as much as the rest.)
 */
static SpiStatement insert_rows = {
	"INSERT INTO tierlimit.request_log (at, key, account, tier, endpoint, ip,"
	" error_code, requests, credits, shadow_code, request_id)"
	" SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5),"
	" unnest($6), unnest($7), unnest($8), unnest($9), unnest($10), unnest($11)",
	LOG_COLUMNS, {COLUMN_TYPES}, NULL
};

/* To the hours that are summed up already. */
static SpiStatement sum_late_rows = {
	"SELECT tierlimit.sum_late_rows($1, $2, $3, $4, $5, $7, $8, $9, $12)",
	LOG_COLUMNS + 1, {COLUMN_TYPES, TIMESTAMPTZOID}, NULL
};

static SpiStatement redate_rows = {
	"SELECT tierlimit.redate_rows($1, $2, $3)", 3,
	{INT4OID, TEXTOID, TIMESTAMPTZOID}, NULL
};

void
writer_init(void)
{
	writer_context = AllocSetContextCreate(TopMemoryContext, "tierlimit writer",
										   ALLOCSET_DEFAULT_SIZES);
	insert_context = AllocSetContextCreate(TopMemoryContext, "tierlimit insert",
										   ALLOCSET_DEFAULT_SIZES);
	batch = MemoryContextAllocZero(writer_context, sizeof(Batch));
	dlist_init(&batch->delayed);
	alike_admitted = coalesce_create(writer_context);
	alike_denied = coalesce_create(writer_context);
	dlist_init(&delayed);
}

int
writer_delayed(void)
{
	return delayed_count;
}

bool
writer_has_rows(void)
{
	return batch->collected || delayed_count > 0;
}

/* A copy with its texts, to outlive the queue's. */
static DelayedRow *
copy_row(const LogRow *row)
{
	DelayedRow *copy = MemoryContextAlloc(writer_context,
										  sizeof(DelayedRow) + logrow_size(row));
	char	   *bytes = (char *) (copy + 1);

	logrow_pack(row, bytes);
	logrow_unpack(bytes, &copy->row);
	copy->batch = batch->number;
	copy->added_requests = row->requests;
	copy->added_credits = row->credits;
	return copy;
}

/* Put down what the batch adds to a row that is delayed already. */
static void
note_added(DelayedRow *delayed, const DelayedRow *more)
{
	if (delayed->batch != batch->number)
		delayed->added_requests = delayed->added_credits = 0;
	delayed->batch = batch->number;
	delayed->added_requests += more->added_requests;
	delayed->added_credits += more->added_credits;
}

/* How many rows of this time's second were delayed so far. */
static int *
delayed_in_second(TimestampTz at)
{
	int64		second = at / USECS_PER_SEC;
	SecondCount *count = &delayed_in[(uint64) second % COUNTED_SECONDS];

	if (count->second != second)
	{
		count->second = second;
		count->rows = 0;
	}
	return &count->rows;
}

/*
 * What is summed up of a denial: whose it was, and why.  A key without a tier is
 * one that nobody knows.
 */
static LogRow
without_details(const LogRow *row)
{
	LogRow		sum = *row;
	LogText		none = {NULL, 0};

	sum.has_address = false;
	sum.texts[LOG_ENDPOINT] = none;
	sum.texts[LOG_REQUEST_ID] = none;
	if (row->texts[LOG_TIER].bytes == NULL)
		sum.texts[LOG_KEY] = none;
	return sum;
}

/* The row like this one that is delayed already; NULL if there is none. */
static DelayedRow *
find_delayed(const LogRow *row)
{
	return (DelayedRow *) coalesce_lookup(alike_denied, row, USECS_PER_SEC);
}

static void
hold_back(const LogRow *row)
{
	int		   *rows = delayed_in_second(row->at);
	DelayedRow *like = find_delayed(row);
	DelayedRow *copy;
	LogRow		sum;

	if (like == NULL && *rows >= MAX_DETAILED_ROWS)
	{
		sum = without_details(row);
		like = find_delayed(&sum);
		row = &sum;
	}
	copy = copy_row(row);
	if (like != NULL)
	{
		coalesce_into(&like->row, row);
		note_added(like, copy);
		pfree(copy);
		return;
	}
	(void) coalesce_find(alike_denied, &copy->row, USECS_PER_SEC);
	copy->bytes = ring_entry_size(logrow_size(&copy->row));
	delayed_bytes += copy->bytes;
	copy->due = GetCurrentTimestamp() + HOLD_MARGIN +
		USECS_PER_SEC - row->at % USECS_PER_SEC;
	dlist_push_tail(&delayed, &copy->node);
	delayed_count++;
	(*rows)++;
}

/*
 * The table's column has 4 bytes: a reset of more requests is several rows, all
 * but the last of which are added here.
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

	/* What comes after a refund is not what it gave back. */
	if (row->requests < 0 || row->credits < 0 || row->is_reset)
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

/* What is delayed may have to be returned to the queue: leave it room there. */
static void
keep_room(LogQueue *queue)
{
	pg_atomic_write_u64(&queue->ring.kept,
						delayed_bytes == 0 ? 0 : delayed_bytes + LARGEST_ENTRY);
}

/* Add what is due of the rows that are delayed. */
static void
add_held_rows(bool everything)
{
	dlist_mutable_iter iter;
	TimestampTz now = GetCurrentTimestamp();

	everything |= delayed_count > WRITER_MAX_ROWS || delayed_bytes > delayed_limit;
	dlist_foreach_modify(iter, &delayed)
	{
		DelayedRow *row = dlist_container(DelayedRow, node, iter.cur);

		if (batch->count == WRITER_MAX_ROWS)
			return;
		if (row->due > now && !everything)
			continue;
		coalesce_remove(alike_denied, &row->row, USECS_PER_SEC);
		dlist_delete(&row->node);
		dlist_push_tail(&batch->delayed, &row->node);
		delayed_count--;
		batch->decisions += logrow_decisions(&row->row);
		if (row->row.extension_id == batch->extension_id)
			batch->rows[batch->count++] = &row->row;
	}
}

/* A refund of nothing. */
static bool
says_nothing(const LogRow *row)
{
	return row->requests == 0 && row->credits == 0 && !row->is_reset &&
		row->error_code != LOG_REDATES;
}

/* Rows of an installation that is gone belong nowhere. */
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
	delayed_limit = queue->ring.size / 4;
	while (batch->count < WRITER_MAX_ROWS && delayed_count <= WRITER_MAX_ROWS &&
		   delayed_bytes <= delayed_limit &&
		   !batch->redates)
	{
		uint64		before = batch->position;
		LogRow		row;

		if ((packed = ring_read(&queue->ring, &batch->position)) == NULL)
			break;
		logrow_unpack(packed, &row);
		if (row.error_code == LOG_REDATES && batch->count > 0)
		{
			/* What comes before it has to be written before it. */
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
			hold_back(&row);
		else
			add_to_batch(&row);
	}

	/* Only now: what was just read may belong to one that is due. */
	if (!batch->redates)
		add_held_rows(everything);
	keep_room(queue);
	batch->collected = true;
}

/* The values of a row, in the order of the columns. */
static Datum
text_value(const LogRow *row, LogTextColumn which, bool *is_null)
{
	LogText text = row->texts[which];

	*is_null = text.bytes == NULL;

	return *is_null ? (Datum) 0
		: PointerGetDatum(cstring_to_text_with_len(text.bytes, text.length));
}

static Datum
get_at(const LogRow *row, bool *is_null)
{
	*is_null = false;
	return TimestampTzGetDatum(row->at);
}

static Datum
get_key(const LogRow *row, bool *is_null)
{
	return text_value(row, LOG_KEY, is_null);
}

static Datum
get_account(const LogRow *row, bool *is_null)
{
	return text_value(row, LOG_ACCOUNT, is_null);
}

static Datum
get_tier(const LogRow *row, bool *is_null)
{
	return text_value(row, LOG_TIER, is_null);
}

static Datum
get_endpoint(const LogRow *row, bool *is_null)
{
	return text_value(row, LOG_ENDPOINT, is_null);
}

static Datum
get_address(const LogRow *row, bool *is_null)
{
	inet	   *value;

	*is_null = !row->has_address;
	if (*is_null)
		return (Datum) 0;
	value = palloc0(sizeof(inet));
	value->inet_data = row->address;
	SET_INET_VARSIZE(value);
	return InetPGetDatum(value);
}

static Datum
get_error_code(const LogRow *row, bool *is_null)
{
	*is_null = false;
	return Int32GetDatum(row->error_code);
}

static Datum
get_requests(const LogRow *row, bool *is_null)
{
	*is_null = false;
	return Int32GetDatum((int32) Max(Min(row->requests, PG_INT32_MAX),
									 -PG_INT32_MAX));
}

static Datum
get_credits(const LogRow *row, bool *is_null)
{
	*is_null = false;
	return Int64GetDatum(row->credits);
}

static Datum
get_shadow_code(const LogRow *row, bool *is_null)
{
	*is_null = row->shadow_code == 0 && !row->is_reset;
	return Int32GetDatum(row->shadow_code);
}

static Datum
get_request_id(const LogRow *row, bool *is_null)
{
	return text_value(row, LOG_REQUEST_ID, is_null);
}

static const struct
{
	Oid			type;
	Datum		(*get) (const LogRow *row, bool *is_null);
}			columns[LOG_COLUMNS] = {
	{TIMESTAMPTZOID, get_at},
	{TEXTOID, get_key},
	{TEXTOID, get_account},
	{TEXTOID, get_tier},
	{TEXTOID, get_endpoint},
	{INETOID, get_address},
	{INT4OID, get_error_code},
	{INT4OID, get_requests},
	{INT8OID, get_credits},
	{INT4OID, get_shadow_code},
	{TEXTOID, get_request_id}
};

/*
 * A column of the batch.  One without any value, which is the rule for some,
 * is an empty array: unnest() fills it up with NULLs.
 */
static Datum
column_array(int number)
{
	static Datum values[WRITER_MAX_ROWS + 1];
	static bool nulls[WRITER_MAX_ROWS + 1];
	Oid			type = columns[number].type;
	int			dims[] = {batch->count};
	int			lower[] = {1};
	bool		any = false;
	int16		length;
	bool		byval;
	char		align;

	for (int i = 0; i < batch->count; i++)
	{
		values[i] = columns[number].get(batch->rows[i], &nulls[i]);
		any |= !nulls[i];
	}
	if (!any)
		return PointerGetDatum(construct_empty_array(type));
	get_typlenbyvalalign(type, &length, &byval, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lower,
											  type, length, byval, align));
}

/* Whether the batch has a row that was decided before a time. */
static bool
any_before(TimestampTz time)
{
	for (int i = 0; i < batch->count; i++)
		if (batch->rows[i]->at < time)
			return true;
	return false;
}

/* By account or key, and time. */
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

/* Whether the extension was dropped since; if it was made anew, too. */
static bool
is_gone(Oid extension_id)
{
	const Installation *here = installation_if_any();

	return here == NULL || here->id.extension_id != extension_id;
}

static void
insert_batch(void)
{
	MemoryContext old = MemoryContextSwitchTo(insert_context);
	Datum		args[LOG_COLUMNS + 1];
	TimestampTz summed_until;

	/* In the order of the index, neighbours are found in the caches. */
	qsort(batch->rows, batch->count, sizeof(LogRow *), compare_rows);
	MemoryContextReset(insert_context);
	for (int i = 0; i < LOG_COLUMNS; i++)
		args[i] = column_array(i);
	MemoryContextSwitchTo(old);

	maintenance_prepare();
	spi_write(&insert_rows, args, NULL);
	/* It may have waited for DROP EXTENSION, and found the next one's table. */
	if (is_gone(batch->extension_id))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the extension \"tierlimit\" was dropped while its request log was written")));
	summed_until = maintenance_summed_until();
	args[LOG_COLUMNS] = TimestampTzGetDatum(summed_until);
	if (any_before(summed_until))
		spi_write(&sum_late_rows, args, NULL);
}

/* Bring rows that are later than a time to that time. */
static void
redate(const LogRow *row)
{
	const LogText *name = &row->texts[LOG_KEY];
	Datum		args[] = {
		Int32GetDatum(row->shadow_code),
		PointerGetDatum(cstring_to_text_with_len(name->bytes, name->length)),
		TimestampTzGetDatum(row->at)
	};

	spi_write(&redate_rows, args, NULL);
}

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

void
writer_committed(LogQueue *queue)
{
	queue_note_commit(XactLastCommitEnd);
	queue_advance(queue, batch->position, batch->decisions, batch->count,
				  batch->until);
	while (!dlist_is_empty(&batch->delayed))
	{
		DelayedRow *row = dlist_container(DelayedRow, node,
										  dlist_pop_head_node(&batch->delayed));

		delayed_bytes -= row->bytes;
		pfree(row);
	}
	keep_room(queue);
	batch->collected = false;
	batch->number++;
}

/*
 * Return what is delayed to the queue, but for what a batch that was not
 * committed had added to it: that is there yet.
 */
static void
put_back(LogQueue *queue, dlist_head *rows)
{
	dlist_iter	iter;

	dlist_foreach(iter, rows)
	{
		const DelayedRow *delayed = dlist_container(DelayedRow, node, iter.cur);
		LogRow		row = delayed->row;
		RingPlace	place;

		if (delayed->batch == batch->number)
		{
			row.requests -= delayed->added_requests;
			row.credits -= delayed->added_credits;
		}
		if (row.requests == 0)
			continue;
		if (!ring_reserve_kept(&queue->ring, logrow_size(&row), &place))
			return;
		logrow_pack(&row, ring_payload(&place));
		ring_publish(&place);
	}
}

void
writer_put_back(LogQueue *queue)
{
	if (batch == NULL)
		return;
	put_back(queue, &batch->delayed);
	put_back(queue, &delayed);
	delayed_bytes = 0;
	keep_room(queue);
}
