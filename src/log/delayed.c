/*-------------------------------------------------------------------------
 *
 * delayed.c
 *		Denied calls that wait until their second is over.
 *
 * A flood of denials of one key is a row a second: denials that are alike
 * share one (coalesce.c), which is written when its second is over.  Callers
 * without a key make no more rows than MAX_ROWS_A_SECOND, whatever they vary:
 * what exceeds these is summed up without address and endpoint.
 *
 * What is delayed is no longer in the queue, which is released as soon as the
 * batch that read it is committed.  So a writer that ends before has to return
 * it: the queue keeps room for that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "log/coalesce.h"
#include "log/delayed.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* A denial may be a little late for its second. */
#define HOLD_MARGIN (100 * 1000)

/* So much may be skipped at the end of the queue's buffer. */
#define LARGEST_ENTRY 4096

/*
 * So many rows of denied calls that belong to a second may have all that is
 * known of them; what exceeds these is summed up.  There is room for some sums
 * before MAX_ROWS_A_SECOND; more sums than that are only made by more keys,
 * which are known.
 */
#define MAX_ROWS_A_SECOND 1000
#define MAX_DETAILED_ROWS (MAX_ROWS_A_SECOND - 100)

/* How many rows of a second were delayed. */
typedef struct SecondCount
{
	int64		second;
	int			rows;
} SecondCount;

/*
 * So many of the last seconds are counted; denials come in about the order of
 * their times.
 */
#define COUNTED_SECONDS 64

/* A row that waits until its second is over, or is being written. */
typedef struct DelayedRow
{
	LogRow		row;			/* first: coalesce.c returns it */
	dlist_node	node;
	TimestampTz due;
	uint32		bytes;			/* so many it would take in the queue */
	uint64		batch;			/* the last batch that added to it: */
	int64		added_requests; /* so much, which is in the queue as well
								 * until */
	int64		added_credits;	/* that batch is committed */
} DelayedRow;

static MemoryContext context;	/* the context of all rows */
static Coalescer *alike;		/* finds those of them that wait */
static dlist_head waiting;		/* DelayedRows that wait, the oldest first */
static dlist_head taken;		/* those that are being written */
static int	waiting_rows = 0;
static uint64 bytes_waiting = 0;	/* bytes that all rows, waiting or taken,
									 * would take in the queue */
static SecondCount delayed_in[COUNTED_SECONDS];

/* Prepare this module; called once, before all else here. */
void
delayed_init(void)
{
	context = AllocSetContextCreate(TopMemoryContext, "tierlimit delayed denials",
									ALLOCSET_DEFAULT_SIZES);
	alike = coalesce_create(context);
	dlist_init(&waiting);
	dlist_init(&taken);
}

/* Return how many rows wait. */
int
delayed_rows(void)
{
	return waiting_rows;
}

/*
 * Return whether more than max rows wait, or more bytes than may have to be
 * returned to the queue, of whose room a quarter is kept for that.
 */
bool
delayed_is_full(const LogQueue *queue, int max)
{
	return waiting_rows > max || bytes_waiting > queue->ring.size / 4;
}

/* Return a copy of a row with its texts, which outlives the queue's. */
static DelayedRow *
copy_row(const LogRow *row, uint64 batch)
{
	DelayedRow *copy = MemoryContextAlloc(context,
										  sizeof(DelayedRow) + logrow_size(row));
	char	   *bytes = (char *) (copy + 1);

	logrow_pack(row, bytes);
	logrow_unpack(bytes, &copy->row);
	copy->batch = batch;
	copy->added_requests = row->requests;
	copy->added_credits = row->credits;
	return copy;
}

/* Put down what a batch adds to a row that is delayed already. */
static void
note_added(DelayedRow *waiting, const DelayedRow *more)
{
	if (waiting->batch != more->batch)
		waiting->added_requests = waiting->added_credits = 0;
	waiting->batch = more->batch;
	waiting->added_requests += more->added_requests;
	waiting->added_credits += more->added_credits;
}

/*
 * Return the counter of the rows that were delayed so far in this time's
 * second.
 */
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
 * Return what is summed up of a denial: whose it was, and why.  A key without
 * a tier is one that is not known.
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

/*
 * Return the row like this one that is delayed already; NULL if there is none.
 */
static DelayedRow *
find_waiting(const LogRow *row)
{
	return (DelayedRow *) coalesce_lookup(alike, row, USECS_PER_SEC);
}

/* Delay a row that was read from the queue for a batch.  The row is copied. */
void
delayed_add(const LogRow *row, uint64 batch)
{
	int		   *rows = delayed_in_second(row->at);
	DelayedRow *like = find_waiting(row);
	DelayedRow *copy;
	LogRow		sum;

	/* Too many rows in a second lose their details. */
	if (like == NULL && *rows >= MAX_DETAILED_ROWS)
	{
		sum = without_details(row);
		like = find_waiting(&sum);
		row = &sum;
	}

	/* Add it to one that is alike, or else to the rows that wait. */
	copy = copy_row(row, batch);
	if (like != NULL)
	{
		coalesce_into(&like->row, row);
		note_added(like, copy);
		pfree(copy);
		return;
	}
	(void) coalesce_find(alike, &copy->row, USECS_PER_SEC);
	copy->bytes = ring_entry_size(logrow_size(&copy->row));
	bytes_waiting += copy->bytes;
	copy->due = GetCurrentTimestamp() + HOLD_MARGIN +
		USECS_PER_SEC - row->at % USECS_PER_SEC;
	dlist_push_tail(&waiting, &copy->node);
	waiting_rows++;
	(*rows)++;
}

/*
 * Take up to room rows that are due, or everything, and return how many they
 * are.  They stay valid until delayed_written() is called, unless
 * delayed_put_back() is.
 */
int
delayed_take(LogRow **rows, int room, bool everything)
{
	dlist_mutable_iter iter;
	TimestampTz now = GetCurrentTimestamp();
	int			count = 0;

	dlist_foreach_modify(iter, &waiting)
	{
		DelayedRow *row = dlist_container(DelayedRow, node, iter.cur);

		if (count == room)
			break;
		if (row->due > now && !everything)
			continue;
		coalesce_remove(alike, &row->row, USECS_PER_SEC);
		dlist_delete(&row->node);
		dlist_push_tail(&taken, &row->node);
		waiting_rows--;
		rows[count++] = &row->row;
	}
	return count;
}

/* Forget the rows that were taken, as they are written. */
void
delayed_written(void)
{
	while (!dlist_is_empty(&taken))
	{
		DelayedRow *row = dlist_container(DelayedRow, node,
										  dlist_pop_head_node(&taken));

		bytes_waiting -= row->bytes;
		pfree(row);
	}
}

/* Have the queue keep room for what may have to be returned to it. */
void
delayed_keep_room(LogQueue *queue)
{
	pg_atomic_write_u64(&queue->ring.kept,
						bytes_waiting == 0 ? 0 : bytes_waiting + LARGEST_ENTRY);
}

/*
 * Return rows to the queue, as far as there is room, but for what the batch
 * has added.
 */
static void
put_back(LogQueue *queue, dlist_head *rows, uint64 batch)
{
	dlist_iter	iter;

	dlist_foreach(iter, rows)
	{
		const DelayedRow *one = dlist_container(DelayedRow, node, iter.cur);
		LogRow		row = one->row;
		RingPlace	place;

		if (one->batch == batch)
		{
			row.requests -= one->added_requests;
			row.credits -= one->added_credits;
		}
		if (row.requests == 0)
			continue;
		if (!ring_reserve_kept(&queue->ring, logrow_size(&row), &place))
			return;
		logrow_pack(&row, ring_payload(&place));
		ring_publish(&place);
	}
}

/*
 * Return all rows to the queue, but for what a batch that was not committed
 * has added: that is still there.  Raises no ERROR.
 */
void
delayed_put_back(LogQueue *queue, uint64 batch)
{
	put_back(queue, &taken, batch);
	put_back(queue, &waiting, batch);
	bytes_waiting = 0;
	delayed_keep_room(queue);
}
