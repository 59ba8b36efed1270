/*-------------------------------------------------------------------------
 *
 * retry.c
 *		Calls with a request_id, which may be retried.
 *
 * A caller that got no answer tries again with the same request_id, and is not
 * charged twice.  Three things know which calls were admitted lately, and the
 * first one that is sure is asked:
 *
 *	1. an answer in memory: a subject of its own, named by a hash of key and id,
 *	   whose record is what was answered.  There are at most so many as take an
 *	   eighth of tierlimit.memory; a new one takes the place of an older one;
 *	2. a fingerprint in memory (seen.c), three bytes in a line of them that the
 *	   hash belongs to: a call that was not seen is new.  Lines take at most a
 *	   quarter of tierlimit.memory, and are made when they are first needed;
 *	3. the log, by an index: it is asked if a fingerprint says so, and if memory
 *	   may not know: for request_memory() after an installation's first call with
 *	   a request_id, that is after a start, a promotion, CREATE DATABASE ...
 *	   TEMPLATE, a restore.
 *
 * A call is looked up, charged and put down under one lock, so that of two
 * retries at a time only one is charged.  The log is read without the lock;
 * the version of the line tells whether another session's call was charged
 * meanwhile.
 *
 * Only admissions are remembered.  A denial charges nothing that a retry could
 * charge again; and a caller that waits as long as retry_after says is to be
 * admitted, which the same denial again would prevent.  A call that was given
 * back is not known any more: a retry of it is charged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/settings.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "limit/logread.h"
#include "limit/retry.h"
#include "log/log.h"
#include "portability/instr_time.h"
#include "store/claim.h"
#include "store/seen.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Answers take at most this part of the blocks. */
#define BLOCKS_PER_ANSWER 8

#define ROWS_OF_REQUEST \
	"SELECT at, requests::bigint, credits, tier, endpoint, account FROM tierlimit.request_log WHERE "
#define ID_AND_TIME \
	" AND request_id COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1" \
	" AND at OPERATOR(pg_catalog.>) $2 AND at OPERATOR(pg_catalog.<) 'infinity'" \
	" AND " WITHIN_DAYS \
	" AND error_code OPERATOR(pg_catalog.=) 0" \
	" ORDER BY at, requests DESC"

static SpiStatement rows_of_key = {
	ROWS_OF_REQUEST "key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $3" ID_AND_TIME,
	3, {TEXTOID, TIMESTAMPTZOID, TEXTOID}, NULL
};

static SpiStatement rows_of_anonymous = {
	ROWS_OF_REQUEST "key IS NULL AND ip OPERATOR(pg_catalog.<<=) $3::pg_catalog.inet" ID_AND_TIME,
	3, {TEXTOID, TIMESTAMPTZOID, TEXTOID}, NULL
};

static SpiStatement rows_of_nobody = {
	ROWS_OF_REQUEST "key IS NULL AND ip IS NULL" ID_AND_TIME,
	2, {TEXTOID, TIMESTAMPTZOID}, NULL
};

/* Return the name by which the log tells whose call it is. */
static LogText
name_of(const Retry *retry)
{
	LogText		caller = {retry->caller->name, retry->caller->length};

	return retry->row->texts[LOG_KEY].bytes != NULL
		? retry->row->texts[LOG_KEY] : caller;
}

/*
 * Return the statement that finds the rows with the request_id and the
 * caller's name.
 */
static SpiStatement *
statement_for(const Retry *retry)
{
	if (retry->row->texts[LOG_KEY].bytes != NULL)
		return &rows_of_key;
	return retry->caller->kind == SUBJECT_ANONYMOUS ? &rows_of_anonymous
		: &rows_of_nobody;
}

/*
 * Make the digest of the installation, the caller and the request_id.  A
 * length in front of the key tells where it ends.  No key has the length 0:
 * that stands for a caller without a key, whose name follows with its length.
 */
static void
make_digest(Retry *retry)
{
	LogText		name = name_of(retry);
	LogText		id = retry->row->texts[LOG_REQUEST_ID];
	unsigned char bytes[sizeof(InstallationId) + 2 + 2 * MAX_NAME_LENGTH];
	unsigned char *at = bytes;

	Assert(name.length <= MAX_NAME_LENGTH && id.length <= MAX_NAME_LENGTH);
	memcpy(at, &retry->caller->installation, sizeof(InstallationId));
	at += sizeof(InstallationId);
	if (retry->row->texts[LOG_KEY].bytes == NULL)
		*at++ = 0;
	*at++ = (unsigned char) name.length;
	memcpy(at, name.bytes, name.length);
	at += name.length;
	memcpy(at, id.bytes, id.length);
	at += id.length;

	/* Two hashes of 64 bits, with seeds that nobody knows. */
	retry->digest[0] = hash_bytes_extended(bytes, at - bytes, store->seed);
	retry->digest[1] = hash_bytes_extended(bytes, at - bytes, ~store->seed);
}

/* Return the hash of a text; 0 for NULL. */
static uint32
hash_of(LogText logged)
{
	return logged.bytes == NULL ? 0
		: hash_bytes((const unsigned char *) logged.bytes, logged.length);
}

/* Return how many bytes of an admission are in use. */
static uint32
admission_size(const Admission *admission)
{
	return offsetof(Admission, names) + admission->tier_length +
		admission->limit_length;
}

/*
 * Return the line of fingerprints that the retry belongs to; NULL if it was
 * not needed yet.  The lock of its partition is needed at least SHARED.
 */
static SeenLine *
line_of(const Retry *retry)
{
	BlockNo		line = *store_line(retry->subject.hash);

	return line == NO_BLOCK ? NULL : (SeenLine *) &store->blocks[line];
}

/* Return the retry's fingerprint. */
static uint32
print_of(const Retry *retry)
{
	return (uint32) (retry->digest[1] >> 32);
}

/*
 * Forget since when installations are known by their fingerprints, which are
 * of no use any more: the log is asked for what was admitted.
 */
static void
forget_known_installations(void)
{
	SpinLockAcquire(&store->known_installations_mutex);
	memset(store->known_installations, 0, sizeof(store->known_installations));
	SpinLockRelease(&store->known_installations_mutex);
	pg_atomic_fetch_add_u32(&store->known_generation, 1);
}

/* Return the time of the steady clock, which nobody sets, in microseconds. */
static int64
steady_clock(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

/*
 * Return the number of the current epoch.  Where the setting was changed since
 * the lines were filled, the lines are not to be relied on for older epochs.
 */
static int64
current_epoch(void)
{
	uint64		length = (uint64) request_memory() / SEEN_EPOCHS;
	uint64		was = pg_atomic_read_u64(&store->epoch_length);

	if (unlikely(was != length) &&
		pg_atomic_compare_exchange_u64(&store->epoch_length, &was, length) &&
		was != 0)
		forget_known_installations();
	return steady_clock() / (int64) length;
}

/* Return whether a slot is in use for this installation. */
static inline bool
is_of_installation(const KnownInstallation *known, InstallationId installation)
{
	return known->since != 0 &&
		installation_is(known->installation, installation);
}

/*
 * Return since when all calls with a request_id of an installation are known
 * by their fingerprints: since the first one that came to this memory.  (Where
 * there are more installations than there is room for, the log is asked for
 * some calls more often than needed.)
 */
static KnownInstallation
known_installation(InstallationId installation)
{
	static KnownInstallation mine;
	static uint32 generation;
	uint32		now = pg_atomic_read_u32(&store->known_generation);
	KnownInstallation fresh = {.installation = installation};
	KnownInstallation *slot = &store->known_installations[installation.database % MAX_KNOWN_INSTALLATIONS];

	if (is_of_installation(&mine, installation) && generation == now)
		return mine;

	fresh.since = steady_clock();
	fresh.log_position = log_newest_position();

	/*
	 * Take the installation's slot; or else a free one, or one that others
	 * have.
	 */
	SpinLockAcquire(&store->known_installations_mutex);
	for (int i = MAX_KNOWN_INSTALLATIONS - 1; i >= 0; i--)
		if (store->known_installations[i].since == 0)
			slot = &store->known_installations[i];
	for (int i = 0; i < MAX_KNOWN_INSTALLATIONS; i++)
		if (is_of_installation(&store->known_installations[i], installation))
			slot = &store->known_installations[i];
	if (!is_of_installation(slot, installation))
		*slot = fresh;
	mine = *slot;
	SpinLockRelease(&store->known_installations_mutex);
	generation = now;
	return mine;
}

/*
 * Prepare a call with a request_id.  The row says what is asked for, and
 * names_cost whether the caller says its cost.  The retry points to itself,
 * the row and the caller's name, so it must not be copied and they have to
 * stay.  No lock may be held.
 */
void
retry_init(Retry *retry, const SubjectName *caller, const LogRow *row,
		   bool names_cost)
{
	retry->caller = caller;
	retry->epoch = current_epoch();
	retry->known = known_installation(caller->installation);
	retry->row = row;
	retry->names_cost = names_cost;
	retry->not_logged = false;
	retry->state = RETRY_NEW;
	make_digest(retry);
	retry->subject = subject_name(caller->installation, SUBJECT_RETRY,
								  (const char *) retry->digest,
								  sizeof(retry->digest));
}

/*
 * Return whether memory has the answer, which is put into retry->admission.
 * How old it is does not depend on the server's clock, which may have been
 * wrong; but by a session's own clock it does depend on that one.
 */
static bool
recall(Retry *retry, Clock clock)
{
	const Subject *subject = subject_find(&retry->subject);

	if (subject == NULL || subject->record_state != RECORD_PRESENT)
		return false;
	subject_get_record(subject, (char *) &retry->admission);
	if (clock.source == CLOCK_SESSION)
		return retry->admission.decided_at + request_memory() > clock.now;
	return retry->admission.remembered_at + request_memory() > steady_clock();
}

/*
 * Look the retry up in memory, and return its state, which is put into
 * retry->state as well.  An answer in memory is not certain if whoever counts
 * the call, who need not be the caller's subject any more, was given something
 * back since without the call being named.  The lock of the retry's partition
 * is needed at least SHARED.
 */
RetryState
retry_look_up(Retry *retry, Clock clock)
{
	const SeenLine *line = line_of(retry);
	uint16		version = line == NULL ? 0 : line->version;

	/* The log did not have it, and no call was put into its line since. */
	if (retry->not_logged && version == retry->version)
		return retry->state = RETRY_NEW;

	/* See what the answer in memory says, or else the fingerprint. */
	retry->version = version;
	retry->not_logged = false;
	retry->log_position = PG_UINT64_MAX;
	retry->state = RETRY_UNCERTAIN;
	if (recall(retry, clock))
	{
		if (store_refunds(retry->admission.counted_by) == retry->admission.refunds)
			retry->state = RETRY_REPEATED;
	}
	else if (line == NULL || !seen_maybe(line, print_of(retry), retry->epoch))
	{
		retry->log_position = retry->known.log_position;
		if (steady_clock() - request_memory() > retry->known.since)
			retry->state = RETRY_NEW;
	}
	return retry->state;
}

/*
 * Return how many blocks retry_remember() may take.  The lock of the retry's
 * partition is needed at least SHARED.
 */
uint32
retry_blocks(const Retry *retry)
{
	return subject_blocks(&retry->subject) +
		record_blocks(&retry->subject, sizeof(Admission)) +
		(line_of(retry) == NULL ? 1 : 0);
}

/*
 * Return whether there is room for an answer; an older one in its bucket may
 * have to go.
 */
static bool
make_room_for_answer(const Retry *retry, BlockList *spare)
{
	BlockNo    *oldest = NULL;

	if (pg_atomic_read_u32(&store->answers) <
		store->pool.size / BLOCKS_PER_ANSWER)
		return true;
	for (BlockNo *link = store_bucket(retry->subject.hash);
		 *link != NO_BLOCK; link = &subject_at(*link)->next)
		if (subject_at(*link)->kind == SUBJECT_RETRY &&
			(oldest == NULL ||
			 subject_at(*link)->clock < subject_at(*oldest)->clock))
			oldest = link;
	if (oldest == NULL)
		return false;
	subject_remove_at(retry->subject.hash, oldest, spare);
	return true;
}

/* Return what is to be answered when the call is retried. */
static Admission
admission_of(const Retry *retry, const Verdict *verdict)
{
	const TierLimit *limit = verdict->limit;
	LogText		tier = retry->row->texts[LOG_TIER];
	const text *name = limit == NULL ? NULL
	: (const text *) DatumGetPointer(limit->name);
	Admission	admission = {
		.decided_at = verdict->decided_at,
		.remembered_at = steady_clock(),
		.counted_by = retry->caller->hash,
		.refunds = store_refunds(retry->caller->hash),
		.resets_at = verdict->resets_at,
		.cost = retry->row->credits,
		.max = limit == NULL ? 0 : limit->max,
		.remaining = verdict->remaining,
		.endpoint = hash_of(retry->row->texts[LOG_ENDPOINT]),
		.has_limit = limit != NULL,
		.tier_length = tier.length,
		.limit_length = name == NULL ? 0 : VARSIZE_ANY_EXHDR(name)
	};

	memcpy(admission.names, tier.bytes, admission.tier_length);
	if (name != NULL)
		memcpy(admission.names + admission.tier_length, VARDATA_ANY(name),
			   admission.limit_length);
	return admission;
}

/*
 * Remember that the call was admitted, by the verdict, with its row up to this
 * end position; takes up to retry_blocks() blocks out of the spare blocks, and may
 * put others there.  The locks of the retry's and of the caller's partition are
 * needed EXCLUSIVE.
 */
void
retry_remember(Retry *retry, const Verdict *verdict, uint64 log_position,
			   BlockList *spare)
{
	Admission	admission = admission_of(retry, verdict);
	BlockNo    *line = store_line(retry->subject.hash);
	Subject    *subject;

	/*
	 * Put the fingerprint down first, without which an answer may not be
	 * removed.
	 */
	if (*line == NO_BLOCK)
	{
		*line = blocklist_take(spare);
		memset(&store->blocks[*line], 0, sizeof(SeenLine));
	}
	seen_add(line_of(retry), print_of(retry),
			 retry->epoch);

	/* Keep the answer, too, if there is room for it. */
	subject = subject_find(&retry->subject);
	if (subject == NULL)
	{
		if (!make_room_for_answer(retry, spare))
			return;
		subject = subject_create(&retry->subject, spare);
	}
	subject_set_record(subject, RECORD_PRESENT, (const char *) &admission,
					   admission_size(&admission), spare);
	subject->clock = verdict->decided_at;
	subject->log_position = log_position;
}

/*
 * Forget what was answered, as the call was given back; its blocks go to the
 * spare.  The lock of the retry's partition is needed EXCLUSIVE.
 */
void
retry_forget(const Retry *retry, BlockList *spare)
{
	Subject    *subject = subject_find(&retry->subject);

	if (subject != NULL)
		subject_set_record(subject, RECORD_UNKNOWN, NULL, 0, spare);
}

/* Return a text in the current memory context. */
static text *
text_of(LogText value)
{
	return cstring_to_text_with_len(value.bytes, value.length);
}

/* Return whether an endpoint of the log is the one that is asked for. */
static bool
same_endpoint(LogText asked, const char *logged)
{
	if (asked.bytes == NULL || logged == NULL)
		return asked.bytes == NULL && logged == NULL;
	return asked.length == strlen(logged) &&
		memcmp(asked.bytes, logged, asked.length) == 0;
}

/*
 * Find the call that the rows of the query's result speak of: the newest one
 * with the request_id, unless it was given back.  Returns false if there is
 * none.
 */
static bool
find_call(Retry *retry, LoggedRetry *logged)
{
	int64		requests = 0;
	int64		credits = 0;
	int			call = -1;

	for (int i = 0; i < (int) SPI_processed; i++)
	{
		int64		more = DatumGetInt64(spi_value(i, 2, (Datum) 0));

		/* Rows before this one are of another call with this request_id. */
		if (more > 0)
		{
			call = i;
			requests = credits = 0;
		}
		requests += more;
		credits += DatumGetInt64(spi_value(i, 3, (Datum) 0));
	}
	if (call < 0 || (requests <= 0 && credits <= 0))
		return false;
	logged->at = DatumGetTimestampTz(spi_value(call, 1, (Datum) 0));
	logged->cost = DatumGetInt64(spi_value(call, 3, (Datum) 0));
	logged->tier = spi_text(call, 4);
	logged->account = spi_text(call, 6);
	retry->admission.cost = logged->cost;
	retry->admission.endpoint = hash_of(retry->row->texts[LOG_ENDPOINT]) +
		!same_endpoint(retry->row->texts[LOG_ENDPOINT], spi_string(call, 5));
	return true;
}

/*
 * Read the call with the retry's request_id from the log, as of now.  Returns
 * false if it is not there, or was given back by its name.
 */
static bool
read_call(Retry *retry, TimestampTz now, LoggedRetry *logged)
{
	SpiReading	reading;
	Datum		args[3];
	LogDays		days = {spi_day(now - request_memory()), ALL_DAYS_AFTER};
	bool		found;

	spi_begin(&reading);
	args[0] = PointerGetDatum(text_of(retry->row->texts[LOG_REQUEST_ID]));
	args[1] = TimestampTzGetDatum(now - request_memory());
	args[2] = PointerGetDatum(text_of(name_of(retry)));
	spi_run_log(&reading, statement_for(retry), days, args);
	found = find_call(retry, logged);
	spi_end(&reading);
	return found;
}

/*
 * Set *counted to whether a call of the log is counted still, after all refunds
 * so far: the rows of those are waited for.  (Who has neither key nor address
 * is never given anything back, as nobody can name them.)  Returns false if the
 * call has another time by now.
 */
static bool
find_counted(const Retry *retry, const LoggedRetry *logged, bool *counted)
{
	LogText		key = retry->row->texts[LOG_KEY];
	SubjectName subject = *retry->caller;
	TimestampTz newest;
	LogSum		sum;

	*counted = subject.kind == SUBJECT_NOBODY;
	if (*counted)
		return true;
	if (key.bytes != NULL)
		subject = subject_name(subject.installation, SUBJECT_KEY,
							   key.bytes, key.length);
	if (!logread_find_subject(&subject, logrow_text(logged->account)))
		return true;
	log_wait_written(claim_log_position(&subject));
	if (!logread_call(&subject, logged->at, retry->row->texts[LOG_REQUEST_ID],
					  &sum, &newest))
		return false;
	*counted = sum.requests > 0 || sum.credits > 0;
	return true;
}

/*
 * Look an uncertain retry up in the log, as of now.  Returns false if the call
 * is not there, or was given back: then retry_look_up() takes it as new, as
 * long as no call is put into its line.  Waits for the log and may raise an
 * ERROR; no lock may be held.
 */
bool
retry_read(Retry *retry, TimestampTz now, LoggedRetry *logged)
{
	bool		counted = false;

	log_wait_written(retry->log_position);
	for (int i = 0; i < LOGREAD_ATTEMPTS && read_call(retry, now, logged); i++)
		if (find_counted(retry, logged, &counted))
			break;
	retry->not_logged = !counted;
	return counted;
}

/*
 * Raise an ERROR unless the call that was admitted is the one that is asked
 * for again: of the same cost, if the caller names it, and the same endpoint.
 */
void
retry_require_same(const Retry *retry)
{
	const Admission *admission = &retry->admission;
	const char *differs = NULL;

	if (retry->names_cost && retry->row->credits != admission->cost)
		differs = "cost";
	if (hash_of(retry->row->texts[LOG_ENDPOINT]) != admission->endpoint)
		differs = "endpoint";
	if (differs != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("request_id was used for another call"),
				 errdetail("That call of the same key had another %s.", differs),
				 errhint("Send the same request_id only to repeat a call.")));
}
