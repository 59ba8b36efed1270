/*-------------------------------------------------------------------------
 *
 * apikey.c
 *		The rows of the table api_key, remembered for all sessions.
 *
 * A key is looked up by its name, or by the hash of its secret; what is said
 * of names here holds for hashes as well: each has a record of its own.
 *
 * There may be millions of keys, so no backend remembers them for itself: what
 * was read of a key's row, or that it has none, is kept with its subject in
 * shared memory, once for all backends.  It is a cache: the sweep may drop it
 * at any time.
 *
 * Changes.  The server's own invalidation messages name relations, not rows;
 * one sign-up would make every session look up every key again.  So
 * transaction ids tell of changes here.  A trigger on api_key sets the mark
 * that the key hashes to (some other keys share it) to its transaction's id,
 * and counts the mark's generation up, before the row changes and whether or
 * not the transaction will commit.  A record is good only for the generation
 * that it was read in.  Once the mark is set:
 *
 *	- while the transaction runs (prepared counts as running), every call of a
 *	  key with that mark reads the table: the transaction itself sees its
 *	  change, other sessions don't, and none keeps what it read;
 *	- after it ended, the next session to read keeps the record again.  That
 *	  session took its snapshot after it saw that the transaction had ended, so
 *	  that it sees what the transaction did.
 *
 * No message has to arrive, so there is no moment at which a session has not
 * heard yet.  Of two transactions that set one mark at a time the mark keeps
 * only the newer id; then records are kept again once all transactions that
 * are older than the reader's snapshot have ended.  ("several")
 *
 * Rows can also change without the row trigger: by TRUNCATE, by an ALTER TABLE
 * that writes the table anew, or while the trigger is disabled.  All these
 * change the table's definition, of which PostgreSQL's own messages tell.  So
 * a record is good only for the definition that it was read under, and none is
 * kept while the trigger is disabled (api_key_version in installation.h).
 *
 * The only transactions that may change a key unseen are those that did so
 * before shared memory was set up and still run: prepared ones.  Where these
 * are enabled, nothing is kept until all that ran at the first look-up have
 * ended.
 *
 * A key that is deleted and made anew starts afresh.  So the mark tells of its
 * last deletion, too: the session that reads the table next, by the name or by
 * a secret of the key, forgets what had been counted before that.
 *
 * On a standby there are no marks, hence nothing is kept; peek and usage read
 * the table each time.
 *
 * Locks: the lock of the key's partition is taken SHARED to use a record,
 * EXCLUSIVE to keep one or to mark.  It is never held while the table is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/installation.h"
#include "base/sha256.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "config/apikey.h"
#include "storage/procarray.h"
#include "store/claim.h"
#include "store/sweep.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/*
 * A record as it is kept: this, followed by the strings' bytes.  The name of a
 * key is not repeated in the key's own record.
 */
typedef struct PackedRecord
{
	TimestampTz expires_at;
	TimestampTz billing_anchor;
	uint8		status;
	uint8		name_length;
	uint8		timezone_length;
	uint8		tier_length;
	uint8		account_length;
} PackedRecord;

#define PACKED_HEADER (offsetof(PackedRecord, account_length) + 1)
#define MAX_PACKED (PACKED_HEADER + 3 * MAX_NAME_LENGTH + MAX_TIER_LENGTH)

#define KEY_COLUMNS \
	"SELECT tier, status, account, billing_anchor, billing_timezone, expires_at," \
	" name FROM tierlimit.api_key WHERE "

static SpiStatement key_query = {
	KEY_COLUMNS "name OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}, NULL
};

static SpiStatement secret_query = {
	KEY_COLUMNS "key_hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}, NULL
};

/* Set a record to that of a key that has no row. */
static void
set_unregistered(ApiKeyRow *record)
{
	record->registered = false;
	record->billing_anchor = DT_NOBEGIN;
	strcpy(record->timezone, "UTC");
}

/* Write a string, and return its end. */
static char *
pack_string(char *to, const char *from, uint8 length)
{
	memcpy(to, from, length);
	return to + length;
}

/* Read a string of so many bytes, and return its end. */
static const char *
unpack_string(char *to, const char *from, uint8 length)
{
	memcpy(to, from, length);
	to[length] = '\0';
	return from + length;
}

/*
 * Write a record as bytes, at most MAX_PACKED, and return how many they are.
 */
static int
pack(const SubjectName *key, const ApiKeyRow *record, char *packed)
{
	PackedRecord head = {
		.expires_at = record->expires_at,
		.billing_anchor = record->billing_anchor,
		.status = record->status,
		.name_length = key->kind == SUBJECT_KEY ? 0 : strlen(record->name),
		.timezone_length = strlen(record->timezone),
		.tier_length = strlen(record->tier),
		.account_length = strlen(record->account)
	};
	char	   *at = packed + PACKED_HEADER;

	memcpy(packed, &head, PACKED_HEADER);
	at = pack_string(at, record->name, head.name_length);
	at = pack_string(at, record->timezone, head.timezone_length);
	at = pack_string(at, record->tier, head.tier_length);
	at = pack_string(at, record->account, head.account_length);
	return at - packed;
}

/* Read a packed record. */
static void
unpack(const char *packed, ApiKeyRow *record)
{
	PackedRecord head;
	const char *at = packed + PACKED_HEADER;

	memcpy(&head, packed, PACKED_HEADER);
	record->registered = true;
	record->expires_at = head.expires_at;
	record->billing_anchor = head.billing_anchor;
	record->status = (KeyStatus) head.status;
	at = unpack_string(record->name, at, head.name_length);
	at = unpack_string(record->timezone, at, head.timezone_length);
	at = unpack_string(record->tier, at, head.tier_length);
	unpack_string(record->account, at, head.account_length);
}

/*
 * Get a record from memory, if it is still good for the table's definition.
 * Returns false if there is none.  Sets *mark to the key's mark in any case.
 */
static bool
recall(const SubjectName *key, uint32 definition, ApiKeyRow *record, ChangeMark *mark)
{
	char		packed[MAX_PACKED];
	RecordState state = RECORD_UNKNOWN;
	Subject    *subject;

	/* Copy the record, if nothing has changed since it was read. */
	partition_lock(&key->hash, 1, LW_SHARED);
	*mark = *store_mark(key->hash);
	subject = subject_find(key);
	if (subject != NULL && subject->record_generation == mark->generation &&
		subject->record_definition == definition)
		state = subject->record_state;
	if (state == RECORD_PRESENT)
		subject_get_record(subject, packed);
	partition_unlock(&key->hash, 1);

	/* Take it apart without the lock. */
	if (state == RECORD_PRESENT)
		unpack(packed, record);
	else if (state == RECORD_ABSENT)
		set_unregistered(record);
	return state != RECORD_UNKNOWN;
}

/* Return the status that a text stands for. */
static KeyStatus
parse_status(const char *status)
{
	if (strcmp(status, "active") == 0)
		return KEY_ACTIVE;
	if (strcmp(status, "payment_required") == 0)
		return KEY_PAYMENT_REQUIRED;
	if (strcmp(status, "payment_expired") == 0)
		return KEY_PAYMENT_EXPIRED;
	return KEY_DISABLED;
}

/* Read the row that the query returned. */
static void
read_row(ApiKeyRow *record)
{
	char	   *account = spi_string(0, 3);

	record->registered = true;
	strlcpy(record->name, spi_string(0, 7), sizeof(record->name));
	strlcpy(record->tier, spi_string(0, 1), sizeof(record->tier));
	record->status = parse_status(spi_string(0, 2));
	strlcpy(record->account, account ? account : "", sizeof(record->account));
	record->billing_anchor =
		DatumGetTimestampTz(spi_value(0, 4, TimestampTzGetDatum(DT_NOBEGIN)));
	strlcpy(record->timezone, spi_string(0, 5), sizeof(record->timezone));
	record->expires_at =
		DatumGetTimestampTz(spi_value(0, 6, TimestampTzGetDatum(DT_NOEND)));
}

/* Have all keys be read, and their windows be filled, anew. */
static void
mark_all(void)
{
	for (uint64 i = 0; i < store->nmarks; i++)
	{
		ChangeMark *mark;

		partition_lock(&i, 1, LW_EXCLUSIVE);
		mark = store_mark(i);
		mark->deleted_in = ++mark->generation;
		partition_unlock(&i, 1);
	}
}

/*
 * Return whether no transaction that could have changed a key before shared memory
 * was set up is still running, by a snapshot just taken.  Where one was, a prepared
 * one, it may have deleted keys that have been called since.
 */
static bool
none_runs_since_start(Snapshot snapshot)
{
	TransactionId limit;
	uint32		unset = InvalidTransactionId;
	bool		was_asked = true;

	if (max_prepared_xacts == 0)
		return true;

	limit = pg_atomic_read_u32(&store->running_at_start);
	if (limit == FrozenTransactionId)
		return true;
	if (limit == InvalidTransactionId)
	{
		was_asked = !pg_atomic_compare_exchange_u32(&store->running_at_start, &unset,
													ReadNextTransactionId());
		limit = pg_atomic_read_u32(&store->running_at_start);
		if (limit == FrozenTransactionId)
			return true;
	}
	if (!TransactionIdPrecedesOrEquals(limit, snapshot->xmin))
		return false;
	if (was_asked)
		mark_all();
	pg_atomic_write_u32(&store->running_at_start, FrozenTransactionId);
	return true;
}

/*
 * Return whether an id is so old that ids have wrapped around since: then it
 * looks like one of the future.
 */
static bool
is_ancient(TransactionId xid)
{
	return TransactionIdFollowsOrEquals(xid, ReadNextTransactionId());
}

/* Return whether an id is that of a transaction that may still run. */
static bool
is_recent(TransactionId xid)
{
	return TransactionIdIsValid(xid) && !is_ancient(xid);
}

/*
 * Read the table, and return whether what it says may be kept.  Sets *xmin:
 * all transactions that are older had ended before.
 */
static bool
read_table(const SubjectName *key, const ChangeMark *mark, ApiKeyRow *record,
		   TransactionId *xmin)
{
	SpiReading	reading;
	Datum		name;
	bool		changed = is_recent(mark->changed_by);
	bool		ended;

	/* This has to be asked before the snapshot is taken. */
	ended = !RecoveryInProgress();
	if (changed && !mark->several)
		ended = ended && !TransactionIdIsInProgress(mark->changed_by);

	spi_begin(&reading);
	if (changed && mark->several)
		ended = ended && TransactionIdPrecedes(mark->changed_by,
											   reading.snapshot->xmin);
	ended = ended && none_runs_since_start(reading.snapshot);
	*xmin = reading.snapshot->xmin;

	/* A bytea has the same form as a text. */
	name = PointerGetDatum(cstring_to_text_with_len(key->name, key->length));
	spi_run(&reading,
			key->kind == SUBJECT_SECRET ? &secret_query : &key_query, &name);
	if (SPI_processed == 0)
		set_unregistered(record);
	else
		read_row(record);
	spi_end(&reading);
	return ended;
}

/*
 * Keep a record that was read under this mark and definition, unless the mark
 * was set again meanwhile: then the next call has to read again.  Returns
 * false if there is no room.
 */
static bool
keep(const SubjectName *key, uint32 definition, const ChangeMark *mark,
	 const ApiKeyRow *record)
{
	char		packed[MAX_PACKED];
	int			length = record->registered ? pack(key, record, packed) : 0;
	BlockList	spare = {.base = store->blocks};
	ChangeMark *now;
	Subject    *subject;
	bool		fits;

	/* Look at the mark again, and gather the blocks. */
	partition_lock(&key->hash, 1, LW_EXCLUSIVE);
	now = store_mark(key->hash);
	fits = pool_fill(&store->pool, &spare,
					 subject_blocks(key) + record_blocks(key, length),
					 partition_of(key->hash));

	/* Nothing was changed since: keep the record, and clear the mark. */
	if (fits && now->generation == mark->generation)
	{
		subject = subject_find(key);
		if (subject == NULL)
			subject = subject_create(key, &spare);
		subject_set_record(subject,
						   record->registered ? RECORD_PRESENT : RECORD_ABSENT,
						   packed, length, &spare);
		subject->record_generation = now->generation;
		subject->record_definition = definition;
		now->changed_by = InvalidTransactionId;
		now->several = false;
	}

	/* Return the blocks that were not needed. */
	pool_return(&store->pool, &spare, partition_of(key->hash));
	partition_unlock(&key->hash, 1);
	return fits;
}

/*
 * Return whether windows that were filled in one generation may lack a deletion
 * up to another one.  (Generations may wrap around.)
 */
static bool
is_before(uint32 generation, uint32 deletion)
{
	return deletion != 0 && (int32) (generation - deletion) < 0;
}

/* Return whether all transactions have ended that deleted keys of a mark. */
static bool
deletions_have_ended(const ChangeMark *mark, TransactionId xmin)
{
	if (!is_recent(mark->deleted_by))
		return true;
	return mark->several_deleted ? TransactionIdPrecedes(mark->deleted_by, xmin)
		: !TransactionIdIsInProgress(mark->deleted_by);
}

/*
 * Set the mark of a key, and the generation that its windows are of.  Returns
 * false if the key is not in memory.
 */
static bool
read_mark(const SubjectName *key, ChangeMark *mark, uint32 *generation)
{
	const Subject *subject;

	partition_lock(&key->hash, 1, LW_SHARED);
	*mark = *store_mark(key->hash);
	subject = subject_find(key);
	*generation = subject == NULL ? 0 : subject->record_generation;
	partition_unlock(&key->hash, 1);
	return subject != NULL;
}

/*
 * Drop the windows of a key, which then know of the deletions up to a generation.
 * Returns false if another session has claimed them.
 */
static bool
try_forget(const SubjectName *key, uint32 known)
{
	BlockList	spare = {.base = store->blocks};
	Subject    *subject;
	bool		claimed;

	partition_lock(&key->hash, 1, LW_EXCLUSIVE);

	/* Drop what was counted, unless a session is filling or comparing it. */
	subject = subject_find(key);
	claimed = subject != NULL && subject->claimed;
	if (subject != NULL && !claimed)
	{
		subject_drop_windows(subject, &spare);
		subject_set_record(subject, RECORD_UNKNOWN, NULL, 0, &spare);
		if (is_before(subject->record_generation, known))
			subject->record_generation = known;
	}

	/* What is known of its calls is in doubt, even if it is not in memory. */
	if (!claimed)
		store_note_refund(key->hash);
	pool_return(&store->pool, &spare, partition_of(key->hash));
	partition_unlock(&key->hash, 1);
	return !claimed;
}

/*
 * Forget what is in memory of a key that was deleted by a transaction that has
 * ended.  The key's next call fills its windows from the log, which says
 * whether the deletion was committed (changes.c).  A session that is filling
 * them now may have looked there before, so it is waited for.
 *
 * While one transaction runs that has deleted a key of this mark, the mark
 * tells which deletions had ended before.  While several run, it does not:
 * then each look at the table forgets the windows again, which is slow, and
 * rare.
 */
static void
forget_deleted(const SubjectName *key, TransactionId xmin)
{
	ChangeMark	mark;
	uint32		generation;
	uint32		known;
	bool		ended;

	if (!read_mark(key, &mark, &generation))
	{
		/* What is known of its calls may be older than the deletion. */
		if (mark.deleted_in != 0)
			store_note_refund(key->hash);
		return;
	}
	if (!is_before(generation, mark.deleted_in))
		return;
	ended = deletions_have_ended(&mark, xmin);
	known = ended ? mark.deleted_in : mark.decided_in;
	if (!ended && !mark.several_deleted && !is_before(generation, known))
		return;
	while (!try_forget(key, known))
		claim_wait(key);
}

/* Return the name of the key that a row of the table is about. */
static SubjectName
key_of(const SubjectName *looked_up, const ApiKeyRow *record)
{
	return looked_up->kind == SUBJECT_KEY ? *looked_up
		: subject_name(looked_up->installation, SUBJECT_KEY, record->name,
					   strlen(record->name));
}

/*
 * Look a key up, by its name (SUBJECT_KEY) or the hash of its secret
 * (SUBJECT_SECRET), in memory or else in the table.  The answer is that of the
 * newest committed state, or of this transaction's own changes.  May read the
 * table, wait for claims and raise an ERROR; no lock may be held.
 */
void
apikey_look_up(const SubjectName *key, ApiKeyRow *record)
{
	uint32		definition = installation()->api_key_version;
	ChangeMark	mark;
	TransactionId xmin;
	bool		ended;

	if (recall(key, definition, record, &mark))
		return;

	/* Memory doesn't know: read the table, without a lock. */
	ended = read_table(key, &mark, record, &xmin);
	if (key->kind == SUBJECT_KEY || record->registered)
	{
		SubjectName subject = key_of(key, record);

		forget_deleted(&subject, xmin);
	}

	/* Remember what was read, if it may be kept. */
	if (ended && definition != 0 &&
		!keep(key, definition, &mark, record) && sweep_for_room(clock_read()))
		keep(key, definition, &mark, record);
}

/*
 * Put what api_key.key_hash keeps of a secret into hash, KEY_HASH_LENGTH
 * bytes.
 */
void
apikey_hash_secret(const text *secret, uint8 *hash)
{
	sha256(VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret), hash);
}

/* Note in a mark that a transaction changes a key. */
static void
set_mark(ChangeMark *mark, TransactionId by)
{
	mark->generation++;
	if (!TransactionIdIsValid(mark->changed_by))
		mark->changed_by = by;
	else if (mark->changed_by != by)
	{
		mark->several = true;
		if (TransactionIdPrecedes(mark->changed_by, by))
			mark->changed_by = by;
	}
}

/*
 * Note that this transaction changes the row of a key, or of a secret.  Has to
 * be called before the row changes; no lock may be held.
 */
void
apikey_change(const SubjectName *key)
{
	TransactionId by = GetTopTransactionId();

	partition_lock(&key->hash, 1, LW_EXCLUSIVE);
	set_mark(store_mark(key->hash), by);
	partition_unlock(&key->hash, 1);
}

/* What is known of earlier deletions of a mark, before it is locked. */
typedef struct EarlierDeletions
{
	TransactionId by;			/* the newest */
	bool		ended;			/* all of them */
} EarlierDeletions;

static EarlierDeletions
earlier_deletions(const ChangeMark *mark)
{
	EarlierDeletions earlier = {
		.by = mark->deleted_by,
		.ended = deletions_have_ended(mark, TransactionXmin)
	};

	return earlier;
}

/* Note in a mark that a transaction deletes a key. */
static void
set_mark_deleted(ChangeMark *mark, TransactionId by, EarlierDeletions earlier)
{
	set_mark(mark, by);
	if (mark->deleted_by == earlier.by && earlier.ended)
	{
		mark->decided_in = mark->deleted_in;
		mark->several_deleted = false;
		mark->deleted_by = by;
	}
	else if (mark->deleted_by != by)
	{
		mark->several_deleted = true;
		if (TransactionIdPrecedes(mark->deleted_by, by))
			mark->deleted_by = by;
	}
	mark->deleted_in = mark->generation;
}

/* Note in the mark of a hash that a transaction deletes a key. */
static void
note_deletion(uint64 hash, TransactionId by)
{
	EarlierDeletions earlier;
	ChangeMark	mark;

	/* Whether transactions run is not to be asked under the lock. */
	partition_lock(&hash, 1, LW_SHARED);
	mark = *store_mark(hash);
	partition_unlock(&hash, 1);
	earlier = earlier_deletions(&mark);

	partition_lock(&hash, 1, LW_EXCLUSIVE);
	set_mark_deleted(store_mark(hash), by, earlier);
	partition_unlock(&hash, 1);
}

/*
 * Note that this transaction deletes the row of a key.  Has to be called
 * before the row is deleted; no lock may be held.
 */
void
apikey_delete(const SubjectName *key)
{
	note_deletion(key->hash, GetTopTransactionId());
}

/*
 * Note that this transaction deletes the rows of all keys.  Each partition is
 * locked in turn; no lock may be held.
 */
void
apikey_delete_all(void)
{
	TransactionId by = GetTopTransactionId();

	for (uint64 i = 0; i < store->nmarks; i++)
		note_deletion(i, by);
}
