/*-------------------------------------------------------------------------
 *
 * logrow.c
 *		The row that a decision leaves in the request log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "base/compat.h"
#include "catalog/pg_type.h"
#include "log/logrow.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

/*
 * A packed row is this, followed by the address if there is one, and by the
 * bytes of the texts.  It is kept small: what is appended has to be fetched
 * from memory by the session, and by the writer once more.
 */
typedef struct PackedRow
{
	TimestampTz at;
	int64		requests;
	int64		credits;
	Oid			extension_id;
	int32		error_code;
	int32		shadow_code;
	uint16		lengths[LOG_TEXTS];
	bool		has_address;
	bool		is_reset;
} PackedRow;

/* The length of a text that is NULL. */
#define NO_TEXT PG_UINT16_MAX

/* Return how many bytes a packed row takes. */
uint32
logrow_size(const LogRow *row)
{
	uint32		size = sizeof(PackedRow);

	if (row->has_address)
		size += sizeof(inet_struct);
	for (int i = 0; i < LOG_TEXTS; i++)
		if (row->texts[i].bytes != NULL)
			size += row->texts[i].length;
	return size;
}

/* Write a row as logrow_size() bytes. */
void
logrow_pack(const LogRow *row, char *to)
{
	PackedRow  *packed = (PackedRow *) to;
	char	   *at = to + sizeof(PackedRow);

	packed->at = row->at;
	packed->requests = row->requests;
	packed->credits = row->credits;
	packed->extension_id = row->extension_id;
	packed->error_code = row->error_code;
	packed->shadow_code = row->shadow_code;
	packed->has_address = row->has_address;
	packed->is_reset = row->is_reset;
	if (row->has_address)
	{
		memcpy(at, &row->address, sizeof(inet_struct));
		at += sizeof(inet_struct);
	}
	for (int i = 0; i < LOG_TEXTS; i++)
	{
		const LogText *text = &row->texts[i];

		packed->lengths[i] = text->bytes == NULL ? NO_TEXT : text->length;

		if (text->bytes == NULL)
			continue;
		memcpy(at, text->bytes, text->length);
		at += text->length;
	}
}

/* Read a packed row; the texts then point into its bytes. */
void
logrow_unpack(const char *from, LogRow *row)
{
	const PackedRow *packed = (const PackedRow *) from;
	const char *at = from + sizeof(PackedRow);

	row->at = packed->at;
	row->requests = packed->requests;
	row->credits = packed->credits;
	row->extension_id = packed->extension_id;
	row->error_code = packed->error_code;
	row->shadow_code = packed->shadow_code;
	row->has_address = packed->has_address;
	row->is_reset = packed->is_reset;
	row->waited_for = false;	/* the queue's reader needs not know */
	if (row->has_address)
	{
		memcpy(&row->address, at, sizeof(inet_struct));
		at += sizeof(inet_struct);
	}
	for (int i = 0; i < LOG_TEXTS; i++)
	{
		bool		is_null = packed->lengths[i] == NO_TEXT;

		row->texts[i].bytes = is_null ? NULL : at;
		row->texts[i].length = is_null ? 0 : packed->lengths[i];
		at += row->texts[i].length;
	}
}

/*
 * Return how many decisions a row in the queue stands for: denials that were
 * delayed are several.
 */
int64
logrow_decisions(const LogRow *row)
{
	return row->error_code != 0 ? row->requests : 1;
}

const LogColumnType logrow_columns[LOG_COLUMNS] = {
	[LOG_COLUMN_AT] = {"at", TIMESTAMPTZOID, TIMESTAMPTZARRAYOID},
	[LOG_COLUMN_KEY] = {"key", TEXTOID, TEXTARRAYOID},
	[LOG_COLUMN_ACCOUNT] = {"account", TEXTOID, TEXTARRAYOID},
	[LOG_COLUMN_TIER] = {"tier", TEXTOID, TEXTARRAYOID},
	[LOG_COLUMN_ENDPOINT] = {"endpoint", TEXTOID, TEXTARRAYOID},
	[LOG_COLUMN_IP] = {"ip", INETOID, INETARRAYOID},
	[LOG_COLUMN_ERROR_CODE] = {"error_code", INT4OID, INT4ARRAYOID},
	[LOG_COLUMN_REQUESTS] = {"requests", INT4OID, INT4ARRAYOID},
	[LOG_COLUMN_CREDITS] = {"credits", INT8OID, INT8ARRAYOID},
	[LOG_COLUMN_SHADOW_CODE] = {"shadow_code", INT4OID, INT4ARRAYOID},
	[LOG_COLUMN_REQUEST_ID] = {"request_id", TEXTOID, TEXTARRAYOID}
};

/* Return a text as a Datum, in the current memory context. */
static Datum
text_value(LogText string, bool *is_null)
{
	*is_null = string.bytes == NULL;
	return *is_null ? (Datum) 0
		: PointerGetDatum(cstring_to_text_with_len(string.bytes, string.length));
}

/* Return a row's address as a Datum, in the current memory context. */
static Datum
address_value(const LogRow *row, bool *is_null)
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

/*
 * Set the values of a row, LOG_COLUMNS of each, in the current memory context.
 */
void
logrow_values(const LogRow *row, Datum *values, bool *nulls)
{
	const LogText *texts = row->texts;

	memset(nulls, false, LOG_COLUMNS * sizeof(bool));
	values[LOG_COLUMN_AT] = TimestampTzGetDatum(row->at);
	values[LOG_COLUMN_KEY] = text_value(texts[LOG_KEY], &nulls[LOG_COLUMN_KEY]);
	values[LOG_COLUMN_ACCOUNT] = text_value(texts[LOG_ACCOUNT],
											&nulls[LOG_COLUMN_ACCOUNT]);
	values[LOG_COLUMN_TIER] = text_value(texts[LOG_TIER], &nulls[LOG_COLUMN_TIER]);
	values[LOG_COLUMN_ENDPOINT] = text_value(texts[LOG_ENDPOINT],
											 &nulls[LOG_COLUMN_ENDPOINT]);
	values[LOG_COLUMN_IP] = address_value(row, &nulls[LOG_COLUMN_IP]);
	values[LOG_COLUMN_ERROR_CODE] = Int32GetDatum(row->error_code);
	values[LOG_COLUMN_REQUESTS] = Int32GetDatum((int32) Max(Min(row->requests, PG_INT32_MAX),
															-PG_INT32_MAX));
	values[LOG_COLUMN_CREDITS] = Int64GetDatum(row->credits);
	values[LOG_COLUMN_SHADOW_CODE] = Int32GetDatum(row->shadow_code);
	nulls[LOG_COLUMN_SHADOW_CODE] = row->shadow_code == 0 && !row->is_reset;
	values[LOG_COLUMN_REQUEST_ID] = text_value(texts[LOG_REQUEST_ID],
											   &nulls[LOG_COLUMN_REQUEST_ID]);
}

/* Return a text of SQL as the log has it, without a copy; NULL is no text. */
LogText
logrow_text(const text *value)
{
	LogText		logged = {NULL, 0};

	if (value != NULL)
	{
		logged.bytes = VARDATA_ANY(value);
		logged.length = (uint16) VARSIZE_ANY_EXHDR(value);
	}
	return logged;
}

/*
 * Return an endpoint as the log has it, without a copy, cut if it is too long;
 * NULL is no text.
 */
LogText
logrow_endpoint(const text *value)
{
	LogText		logged = {NULL, 0};

	if (value != NULL)
	{
		logged.bytes = VARDATA_ANY(value);
		logged.length = (uint16) pg_mbcliplen(logged.bytes, VARSIZE_ANY_EXHDR(value),
											  MAX_ENDPOINT_LENGTH);
	}
	return logged;
}
