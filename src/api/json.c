/*-------------------------------------------------------------------------
 *
 * json.c
 *		RebuiltWindows a jsonb, member by member.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "api/json.h"
#include "utils/numeric.h"

static JsonbValue
string_value(const char *bytes, int length)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, bytes);
	value.val.string.len = length;
	return value;
}

static void
push_name(Json *json, const char *name)
{
	if (name != NULL)
	{
		JsonbValue	key = string_value(name, strlen(name));

		push_jsonb(json, WJB_KEY, &key);
	}
}

static void
add(Json *json, const char *name, JsonbValue value)
{
	push_name(json, name);
	push_jsonb(json, name == NULL ? WJB_ELEM : WJB_VALUE, &value);
}

void
json_begin_object(Json *json, const char *name)
{
	push_name(json, name);
	push_jsonb(json, WJB_BEGIN_OBJECT, NULL);
}

void
json_end_object(Json *json)
{
	push_jsonb(json, WJB_END_OBJECT, NULL);
}

void
json_begin_array(Json *json, const char *name)
{
	push_name(json, name);
	push_jsonb(json, WJB_BEGIN_ARRAY, NULL);
}

void
json_end_array(Json *json)
{
	push_jsonb(json, WJB_END_ARRAY, NULL);
}

void
json_add_string(Json *json, const char *name, const char *value)
{
	add(json, name, string_value(value, strlen(value)));
}

void
json_add_text(Json *json, const char *name, Datum value)
{
	text	   *string = DatumGetTextPP(value);

	add(json, name, string_value(VARDATA_ANY(string),
								 VARSIZE_ANY_EXHDR(string)));
}

void
json_add_integer(Json *json, const char *name, int64 value)
{
	JsonbValue	number = {.type = jbvNumeric};

	number.val.numeric = int64_to_numeric(value);
	add(json, name, number);
}

void
json_add_null(Json *json, const char *name)
{
	JsonbValue	null = {.type = jbvNull};

	add(json, name, null);
}

Datum
json_result(const Json *json)
{
	return JsonbPGetDatum(JsonbValueToJsonb(json->result));
}
