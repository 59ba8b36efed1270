/*-------------------------------------------------------------------------
 *
 * http.c
 *		The parts of an HTTP answer that are made from a decision.
 *
 * These functions run once a call, as check() does, hence in C: headers()
 * takes a microsecond, the same in SQL took four, and eight with a search_path
 * of its own.  All they need from tables is a limit's period and a code's
 * message, which tiers.c remembers.
 *
 * RateLimit-Policy and RateLimit are those of
 * draft-ietf-httpapi-ratelimit-headers, and so is the problem type for 429:
 *
 *	q, w	what fits into the governing limit, and its period in seconds
 *	r, t	what is left of it, and the seconds until more is
 *
 * The draft wants a policy to stay the same from response to response, so w
 * is a calendar month's nominal length, whichever month it is; t, which may be
 * a day more, is exact.  The registry of quota units knows none for credits:
 * their policies name no unit either.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/elapsed.h"
#include "fmgr.h"
#include "limit/decision.h"
#include "store/clock.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#define HTTP_TOO_MANY_REQUESTS 429

/* The largest integer in a structured field (RFC 9651). */
#define MAX_FIELD_INTEGER INT64CONST(999999999999999)

#define QUOTA_EXCEEDED_TYPE "https://iana.org/assignments/http-problem-types#quota-exceeded"
#define QUOTA_EXCEEDED_TITLE "Request cannot be satisfied as assigned quota has been exceeded"

PG_FUNCTION_INFO_V1(tierlimit_headers_1_0);
PG_FUNCTION_INFO_V1(tierlimit_status_1_0);
PG_FUNCTION_INFO_V1(tierlimit_error_body_1_0);
PG_FUNCTION_INFO_V1(tierlimit_problem_1_0);

/*
 * A jsonb in the making, member by member, which begins as {0}.  It points to
 * the strings that are added to it, which have to stay until the end.  The
 * name is that of the member to add; NULL for elements of an array, and for
 * the outermost object, which have none.
 */
typedef JsonbInState Json;

/* Return a string as a value; its bytes have to stay. */
static JsonbValue
string_value(const char *bytes, int length)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, bytes);
	value.val.string.len = length;
	return value;
}

/* Begin a member with a name, if it has one. */
static void
push_name(Json *json, const char *name)
{
	if (name != NULL)
	{
		JsonbValue	key = string_value(name, strlen(name));

		push_jsonb(json, WJB_KEY, &key);
	}
}

/* Add a member, or an element of an array. */
static void
add(Json *json, const char *name, JsonbValue value)
{
	push_name(json, name);
	push_jsonb(json, name == NULL ? WJB_ELEM : WJB_VALUE, &value);
}

/* Begin an object that is a member. */
static void
json_begin_object(Json *json, const char *name)
{
	push_name(json, name);
	push_jsonb(json, WJB_BEGIN_OBJECT, NULL);
}

/* End the innermost object. */
static void
json_end_object(Json *json)
{
	push_jsonb(json, WJB_END_OBJECT, NULL);
}

/* Begin an array that is a member. */
static void
json_begin_array(Json *json, const char *name)
{
	push_name(json, name);
	push_jsonb(json, WJB_BEGIN_ARRAY, NULL);
}

/* End the innermost array. */
static void
json_end_array(Json *json)
{
	push_jsonb(json, WJB_END_ARRAY, NULL);
}

/* Add a member that is a string. */
static void
json_add_string(Json *json, const char *name, const char *value)
{
	add(json, name, string_value(value, strlen(value)));
}

/* Add a member that is a text of SQL. */
static void
json_add_text(Json *json, const char *name, Datum value)
{
	text	   *string = DatumGetTextPP(value);

	add(json, name, string_value(VARDATA_ANY(string),
								 VARSIZE_ANY_EXHDR(string)));
}

/* Add a member that is a number. */
static void
json_add_integer(Json *json, const char *name, int64 value)
{
	JsonbValue	number = {.type = jbvNumeric};

	number.val.numeric = int64_to_numeric(value);
	add(json, name, number);
}

/* Add a member that is null. */
static void
json_add_null(Json *json, const char *name)
{
	JsonbValue	null = {.type = jbvNull};

	add(json, name, null);
}

/* Return the jsonb, once the outermost object has been ended. */
static Datum
json_result(const Json *json)
{
	return JsonbPGetDatum(JsonbValueToJsonb(json->result));
}

/* The columns of a decision; a text that is NULL is (Datum) 0. */
typedef struct Row
{
	Datum		values[DECISION_COLUMNS];
	bool		nulls[DECISION_COLUMNS];
} Row;

/*
 * Get the decision that a function is called with.  Returns false for a row of
 * NULLs.
 */
static bool
get_decision(FunctionCallInfo fcinfo, Row *row)
{
	store_require();
	tiers_refresh();
	decision_deform(PG_GETARG_HEAPTUPLEHEADER(0), row->values, row->nulls);
	return !row->nulls[DECISION_ALLOWED];
}

/* Return whether the decision is an admission. */
static bool
is_allowed(const Row *row)
{
	return DatumGetBool(row->values[DECISION_ALLOWED]);
}

/* Return the error code of a refusal. */
static ErrorCode
get_error(const Row *row)
{
	return tiers_error_code(DatumGetInt32(row->values[DECISION_ERROR_CODE]));
}

/*
 * Get the refusal that a function is called with, and its error code.  Returns
 * false if it is none.
 */
static bool
get_refusal(FunctionCallInfo fcinfo, Row *row, ErrorCode *error)
{
	if (!get_decision(fcinfo, row) || is_allowed(row))
		return false;
	*error = get_error(row);
	return true;
}

/* Return whether two texts are equal. */
static bool
equal_texts(Datum a, Datum b)
{
	text	   *x = DatumGetTextPP(a);
	text	   *y = DatumGetTextPP(b);

	return VARSIZE_ANY_EXHDR(x) == VARSIZE_ANY_EXHDR(y) &&
		memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x)) == 0;
}

/*
 * Return whether a decision can be about this limit.  The decision says which
 * name the limit has and how much fits into it; a denial also has its code,
 * and what is counted leaves a sliding window within its period.
 */
static bool
may_govern(const TierLimit *limit, const Row *row)
{
	TimestampTz from = DatumGetTimestampTz(row->values[DECISION_DECIDED_AT]);
	TimestampTz to = DatumGetTimestampTz(row->values[DECISION_RESET_AT]);

	if (limit->max != DatumGetInt64(row->values[DECISION_LIMIT]))
		return false;
	if (!is_allowed(row) &&
		limit->error_code != DatumGetInt32(row->values[DECISION_ERROR_CODE]))
		return false;
	return row->nulls[DECISION_RESET_AT] || limit->kind != WINDOW_SLIDING ||
		to - from <= limit->period_us;
}

/*
 * Return a tier's limit of the decision's name; NULL if there is none, or no
 * such tier.
 */
static const TierLimit *
find_limit_of(const Tier *tier, const Row *row)
{
	for (int i = 0; tier != NULL && i < tier->nlimits; i++)
		if (equal_texts(tier->limits[i].name,
						row->values[DECISION_LIMIT_NAME]))
			return &tier->limits[i];
	return NULL;
}

/* Return the decision's tier; NULL if there is none. */
static const Tier *
tier_of(const Row *row)
{
	text	   *tier;

	if (row->nulls[DECISION_TIER])
		return NULL;
	tier = DatumGetTextPP(row->values[DECISION_TIER]);
	return tiers_find(VARDATA_ANY(tier), VARSIZE_ANY_EXHDR(tier));
}

/*
 * Return the governing limit: one of the tier, or of addresses, whatever the
 * tier; both may have one of that name.  Where neither fits, a limit has been
 * changed since the decision; NULL if it has been removed.
 */
static const TierLimit *
find_limit(const Row *row)
{
	const TierLimit *own = find_limit_of(tier_of(row), row);
	const TierLimit *address = find_limit_of(tiers_for_addresses(), row);

	if (own == NULL || (address != NULL && !may_govern(own, row) &&
						may_govern(address, row)))
		return address;
	return own;
}

/*
 * Return the nominal length of a period in seconds, as extract(epoch) has it.
 */
static int64
period_seconds(const Interval *period)
{
	int64		years = period->month / MONTHS_PER_YEAR;
	int64		months = period->month % MONTHS_PER_YEAR;
	int64		days = months * DAYS_PER_MONTH + period->day;

	return years * SECS_PER_YEAR + days * SECS_PER_DAY +
		seconds_rounded_up(period->time);
}

/* Begin an item of a structured field with the name of the governing limit. */
static void
begin_item(StringInfo item, const Row *row)
{
	char	   *name = TextDatumGetCString(row->values[DECISION_LIMIT_NAME]);

	initStringInfo(item);
	appendStringInfoChar(item, '"');
	for (const char *c = name; *c != '\0'; c++)
	{
		if (*c == '"' || *c == '\\')
			appendStringInfoChar(item, '\\');
		appendStringInfoChar(item, *c);
	}
	appendStringInfoChar(item, '"');
}

/* Append a parameter to an item of a structured field. */
static void
append_parameter(StringInfo item, char name, int64 value)
{
	appendStringInfo(item, ";%c=%lld", name,
					 (long long) Min(value, MAX_FIELD_INTEGER));
}

/* Add the header RateLimit-Policy. */
static void
add_policy(Json *headers, const Row *row)
{
	const TierLimit *limit = find_limit(row);
	StringInfoData item;

	begin_item(&item, row);
	append_parameter(&item, 'q', DatumGetInt64(row->values[DECISION_LIMIT]));
	if (limit != NULL)
		append_parameter(&item, 'w', period_seconds(&limit->period));
	json_add_string(headers, "RateLimit-Policy", item.data);
}

/* Add the header RateLimit. */
static void
add_service_limit(Json *headers, const Row *row)
{
	TimestampTz from = DatumGetTimestampTz(row->values[DECISION_DECIDED_AT]);
	TimestampTz to = DatumGetTimestampTz(row->values[DECISION_RESET_AT]);
	StringInfoData item;

	begin_item(&item, row);
	append_parameter(&item, 'r', DatumGetInt64(row->values[DECISION_REMAINING]));
	if (!row->nulls[DECISION_RESET_AT])
		append_parameter(&item, 't', Max(seconds_rounded_up(to - from), 0));
	json_add_string(headers, "RateLimit", item.data);
}

/* Add a header that is a number. */
static void
add_number(Json *headers, const char *name, int64 value)
{
	json_add_string(headers, name, psprintf("%lld", (long long) value));
}

/* The SQL function headers(decision). */
Datum
tierlimit_headers_1_0(PG_FUNCTION_ARGS)
{
	Json		headers = {0};
	Row			row;

	if (!get_decision(fcinfo, &row))
		PG_RETURN_NULL();

	json_begin_object(&headers, NULL);
	if (!row.nulls[DECISION_LIMIT] && !row.nulls[DECISION_LIMIT_NAME])
	{
		add_number(&headers, "X-RateLimit-Limit",
				   DatumGetInt64(row.values[DECISION_LIMIT]));
		add_number(&headers, "X-RateLimit-Remaining",
				   DatumGetInt64(row.values[DECISION_REMAINING]));
		add_policy(&headers, &row);
		add_service_limit(&headers, &row);
	}
	if (!row.nulls[DECISION_RETRY_AFTER])
		add_number(&headers, "Retry-After",
				   DatumGetInt32(row.values[DECISION_RETRY_AFTER]));
	json_end_object(&headers);
	return json_result(&headers);
}

/*
 * status
 */

/*
 * Add the time of a decision, as ISO 8601 in UTC with milliseconds:
 * 2026-01-01T12:00:00.000Z.
 */
static void
add_timestamp(Json *status, TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	json_add_string(status, "timestamp",
					psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
							 tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour,
							 tm.tm_min, tm.tm_sec, (int) fsec / 1000));
}

/* The SQL function status(decision). */
Datum
tierlimit_status_1_0(PG_FUNCTION_ARGS)
{
	Json		status = {0};
	TimestampTz decided_at;
	Row			row;

	if (!get_decision(fcinfo, &row))
		PG_RETURN_NULL();

	decided_at = DatumGetTimestampTz(row.values[DECISION_DECIDED_AT]);
	json_begin_object(&status, NULL);
	add_timestamp(&status, decided_at);
	json_add_integer(&status, "error_code",
					 DatumGetInt32(row.values[DECISION_ERROR_CODE]));
	if (is_allowed(&row))
		json_add_null(&status, "error_message");
	else
		json_add_text(&status, "error_message", get_error(&row).message);
	json_add_integer(&status, "elapsed",
					 Max((clock_read().now - decided_at) / 1000, 0));
	json_add_integer(&status, "credit_count",
					 is_allowed(&row) ? DatumGetInt64(row.values[DECISION_COST]) : 0);
	json_add_null(&status, "notice");
	json_end_object(&status);
	return json_result(&status);
}

/*
 * error_body and problem
 */

/* The SQL function error_body(decision). */
Datum
tierlimit_error_body_1_0(PG_FUNCTION_ARGS)
{
	Json		body = {0};
	ErrorCode	error;
	Row			row;

	if (!get_refusal(fcinfo, &row, &error))
		PG_RETURN_NULL();

	json_begin_object(&body, NULL);
	json_begin_object(&body, "error");
	if (error.http_status == HTTP_TOO_MANY_REQUESTS)
	{
		json_add_string(&body, "code", "RATE_LIMITED");
		json_add_string(&body, "message", "Too many requests. Please try again later.");
	}
	else
	{
		json_add_text(&body, "code", error.name);
		json_add_text(&body, "message", error.message);
	}
	json_end_object(&body);
	json_end_object(&body);
	return json_result(&body);
}

/*
 * Return what HTTP calls a status that a refusal may well have; NULL for
 * others.
 */
static const char *
reason_phrase(int32 http_status)
{
	switch (http_status)
	{
		case 400:
			return "Bad Request";
		case 401:
			return "Unauthorized";
		case 402:
			return "Payment Required";
		case 403:
			return "Forbidden";
		case 404:
			return "Not Found";
		case 410:
			return "Gone";
		case 451:
			return "Unavailable For Legal Reasons";
		case 503:
			return "Service Unavailable";
		default:
			return NULL;
	}
}

/* Add the problem type for 429, and the limit that is exceeded. */
static void
add_quota_exceeded(Json *problem, const Row *row)
{
	json_add_string(problem, "type", QUOTA_EXCEEDED_TYPE);
	json_add_string(problem, "title", QUOTA_EXCEEDED_TITLE);
	json_begin_array(problem, "violated-policies");
	if (!row->nulls[DECISION_LIMIT_NAME])
		json_add_text(problem, NULL, row->values[DECISION_LIMIT_NAME]);
	json_end_array(problem);
}

/*
 * Add the problem type of all other statuses, which say no more than the
 * status does: RFC 9457, section 4.2.1.
 */
static void
add_plain_type(Json *problem, const ErrorCode *error)
{
	const char *phrase = reason_phrase(error->http_status);

	json_add_string(problem, "type", "about:blank");
	if (phrase != NULL)
		json_add_string(problem, "title", phrase);
}

/* The SQL function problem(decision). */
Datum
tierlimit_problem_1_0(PG_FUNCTION_ARGS)
{
	Json		problem = {0};
	ErrorCode	error;
	Row			row;

	if (!get_refusal(fcinfo, &row, &error))
		PG_RETURN_NULL();

	json_begin_object(&problem, NULL);
	if (error.http_status == HTTP_TOO_MANY_REQUESTS)
		add_quota_exceeded(&problem, &row);
	else
		add_plain_type(&problem, &error);
	json_add_integer(&problem, "status", error.http_status);
	json_add_text(&problem, "detail", error.message);
	json_end_object(&problem);
	return json_result(&problem);
}
