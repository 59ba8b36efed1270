/*-------------------------------------------------------------------------
 *
 * request.c
 *		Requests that may be repeated: which were admitted lately?
 *
 * A caller who got no answer tries again with the same request_id, and is not
 * charged twice.  A request is a subject of its own, named by the SHA-256 of
 * key and id, whose record is what was answered.  It is made under the same
 * locks as the charge, so that of two at a time only one is charged.
 *
 * Only admissions are remembered.  A denial charges nothing that a retry could
 * charge again; and who waits as long as retry_after says is to be admitted,
 * which the same denial again would not be.
 *
 * Like any subject, a request makes room when it is of no use any more, or
 * when memory is full and its row is written.  In that case, and after a start
 * of the server, it is looked up in the log, by an index: for REQUEST_MEMORY
 * after what was forgotten (store->requests_forgotten); else new requests cost
 * nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "compat.h"
#include "query.h"
#include "request.h"
#include "sha256.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

StaticAssertDecl(REQUEST_DIGEST_LENGTH == PG_SHA256_DIGEST_LENGTH,
				 "the digest is a SHA-256");

static Statement logged_query = {
	"SELECT at, credits, tier FROM tierlimit.request_log"
	" WHERE key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1"
	" AND request_id COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $2"
	" AND at OPERATOR(pg_catalog.>) $3 AND error_code OPERATOR(pg_catalog.=) 0"
	" ORDER BY at DESC LIMIT 1", 3, {TEXTOID, TEXTOID, TIMESTAMPTZOID}, NULL
};

/* A length in front of the key tells where it ends. */
static void
make_digest(Request *request)
{
	char		bytes[1 + 2 * MAX_NAME_LENGTH];
	int			key_length = request->key.length;

	Assert(key_length <= MAX_NAME_LENGTH &&
		   request->id.length <= MAX_NAME_LENGTH);
	bytes[0] = (char) key_length;
	memcpy(bytes + 1, request->key.bytes, key_length);
	memcpy(bytes + 1 + key_length, request->id.bytes, request->id.length);
	sha256(bytes, 1 + key_length + request->id.length, request->digest);
}

void
request_init(Request *request, Scope scope, LogText key, LogText id)
{
	request->key = key;
	request->id = id;
	request->repeated = false;
	make_digest(request);
	request->subject = subject_name(scope, SUBJECT_REQUEST,
									(const char *) request->digest,
									sizeof(request->digest));
}

static uint32
admission_size(const Admission *admission)
{
	return offsetof(Admission, names) + admission->tier_length +
		admission->limit_length;
}

bool
request_recall(Request *request, TimestampTz now)
{
	const Subject *subject = subject_find(&request->subject);

	if (subject == NULL || subject->record_state != RECORD_PRESENT)
		return false;
	subject_get_record(subject, (char *) &request->admission);
	request->repeated = request->admission.decided_at + REQUEST_MEMORY > now;
	return request->repeated;
}

bool
request_is_uncertain(const Request *request)
{
	return pg_atomic_read_u64(&store->requests_forgotten) != request->forgotten;
}

uint32
request_blocks(const Request *request)
{
	return subject_blocks(&request->subject) +
		record_blocks(&request->subject, sizeof(Admission));
}

void
request_remember(Request *request, const Verdict *verdict, int64 cost,
				 LogText tier, uint64 log_position, Purse *purse)
{
	const TierLimit *limit = verdict->limit;
	const text *name = limit == NULL ? NULL
		: (const text *) DatumGetPointer(limit->name);
	Subject    *subject = subject_find(&request->subject);
	Admission	admission = {
		.decided_at = verdict->decided_at,
		.resets_at = verdict->resets_at,
		.cost = cost,
		.max = limit == NULL ? 0 : limit->max,
		.remaining = verdict->remaining,
		.has_limit = limit != NULL,
		.tier_length = tier.length,
		.limit_length = name == NULL ? 0 : VARSIZE_ANY_EXHDR(name)
	};

	memcpy(admission.names, tier.bytes, admission.tier_length);
	if (name != NULL)
		memcpy(admission.names + admission.tier_length, VARDATA_ANY(name),
			   admission.limit_length);
	if (subject == NULL)
		subject = subject_create(&request->subject, purse);
	subject_set_record(subject, RECORD_PRESENT, (const char *) &admission,
					   admission_size(&admission), purse);
	subject->clock = verdict->decided_at;
	subject->log_position = log_position;
}

static Datum
text_datum(LogText value)
{
	return PointerGetDatum(cstring_to_text_with_len(value.bytes, value.length));
}

/* Whether memory knows the request; and who has forgotten any, whether. */
static bool
may_be_forgotten(Request *request, TimestampTz now)
{
	bool		known;

	request->forgotten = pg_atomic_read_u64(&store->requests_forgotten);
	if (now - REQUEST_MEMORY > (TimestampTz) request->forgotten)
		return false;
	store_lock(&request->subject.hash, 1, LW_SHARED);
	known = request_recall(request, now);
	store_unlock(&request->subject.hash, 1);
	request->repeated = false;
	return !known;
}

bool
request_read(Request *request, TimestampTz now, LoggedRequest *logged)
{
	Reading		reading;
	Datum		args[3];
	bool		found;

	if (!may_be_forgotten(request, now))
		return false;

	query_begin(&reading);
	args[0] = text_datum(request->key);
	args[1] = text_datum(request->id);
	args[2] = TimestampTzGetDatum(now - REQUEST_MEMORY);
	query_run(&reading, &logged_query, args);
	found = SPI_processed > 0;
	if (found)
	{
		logged->at = DatumGetTimestampTz(query_value(0, 1, (Datum) 0));
		logged->cost = DatumGetInt64(query_value(0, 2, (Datum) 0));
		logged->tier = query_text(0, 3);
	}
	query_end(&reading);
	return found;
}
