/*-------------------------------------------------------------------------
 *
 * logrow.h
 *		The row that a decision leaves in the request log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_LOGROW_H
#define TIERLIMIT_LOGROW_H

#include "datatype/timestamp.h"
#include "utils/inet.h"

/* A text whose bytes belong to the caller; bytes NULL: no text. */
typedef struct LogText
{
	const char *bytes;
	uint16		length;
} LogText;

/* The texts of a row, in the order of the columns of request_log. */
typedef enum LogTextColumn
{
	LOG_KEY,
	LOG_ACCOUNT,
	LOG_TIER,
	LOG_ENDPOINT,
	LOG_REQUEST_ID,
	LOG_TEXTS
} LogTextColumn;

/*
 * The error_code of a row that is not written: it has all rows that are later
 * than the time in its credits brought to its own time.
 */
#define LOG_REDATES (-1)

/* An address is an inet without its varlena header. */
typedef struct LogRow
{
	TimestampTz at;
	int64		requests;
	int64		credits;
	Oid			extension_id;	/* see InstallationId: the extension that the
								 * row is for */
	int32		error_code;		/* 0: admitted */
	int32		shadow_code;	/* 0: NULL */
	bool		has_address;
	bool		waited_for;		/* a session waits until it is on disk */
	bool		is_reset;		/* it gives back all that is counted */
	inet_struct address;
	LogText		texts[LOG_TEXTS];
} LogRow;

/*
 * Return whether a row gives something back: units, all that is counted, or the
 * call that it names.  (Its numbers are what the caller had left of that call:
 * nothing, if only the address has.)
 */
static inline bool
logrow_gives_back(const LogRow *row)
{
	return row->requests < 0 || row->credits < 0 || row->is_reset ||
		(row->requests == 0 && row->texts[LOG_REQUEST_ID].bytes != NULL);
}

/* Longer endpoints, in bytes, are cut at a whole character. */
#define MAX_ENDPOINT_LENGTH 1024

/*
 * The columns of request_log, in the order of logrow_columns[].  A new column
 * needs a line there, a value in logrow_values(), and a decision in coalesce.c
 * whether rows that are alike have it in common.
 */
typedef enum LogColumn
{
	LOG_COLUMN_AT,
	LOG_COLUMN_KEY,
	LOG_COLUMN_ACCOUNT,
	LOG_COLUMN_TIER,
	LOG_COLUMN_ENDPOINT,
	LOG_COLUMN_IP,
	LOG_COLUMN_ERROR_CODE,
	LOG_COLUMN_REQUESTS,
	LOG_COLUMN_CREDITS,
	LOG_COLUMN_SHADOW_CODE,
	LOG_COLUMN_REQUEST_ID,
	LOG_COLUMNS
} LogColumn;

typedef struct LogColumnType
{
	const char *name;
	Oid			type;
	Oid			array_type;
} LogColumnType;

extern const LogColumnType logrow_columns[LOG_COLUMNS];

extern void logrow_values(const LogRow *row, Datum *values, bool *nulls);
extern uint32 logrow_size(const LogRow *row);
extern void logrow_pack(const LogRow *row, char *to);
extern void logrow_unpack(const char *from, LogRow *row);
extern int64 logrow_decisions(const LogRow *row);
extern LogText logrow_text(const text *value);
extern LogText logrow_endpoint(const text *value);

#endif							/* TIERLIMIT_LOGROW_H */
