/*-------------------------------------------------------------------------
 *
 * logrow.c
 *		What one decision leaves in the request log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "log/logrow.h"
#include "mb/pg_wchar.h"

/*
 * A packed row is this, followed by the address if there is one, and by the
 * bytes of the texts.  It is kept small: what is appended is fetched from
 * memory, and by the worker once more.
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

int64
logrow_decisions(const LogRow *row)
{
	return row->error_code != 0 ? row->requests : 1;
}

LogText
logrow_text(const text *value)
{
	LogText text = {NULL, 0};

	if (value != NULL)
	{
		text.		bytes = VARDATA_ANY(value);
		text.		length = (uint16) VARSIZE_ANY_EXHDR(value);
	}
	return text;
}

LogText
logrow_endpoint(const text *value)
{
	LogText text = {NULL, 0};

	if (value != NULL)
	{
		text.		bytes = VARDATA_ANY(value);
		text.		length = (uint16) pg_mbcliplen(text.bytes, VARSIZE_ANY_EXHDR(value),
												   MAX_ENDPOINT_LENGTH);
	}
	return text;
}
