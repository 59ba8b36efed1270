/*-------------------------------------------------------------------------
 *
 * spi.h
 *		Reading tables by SQL, and writing those of the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SPI_H
#define TIERLIMIT_SPI_H

#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "tcop/dest.h"
#include "utils/snapshot.h"

#define MAX_ARGUMENTS 16

/* A statement, and its plan once it has one. */
typedef struct SpiStatement
{
	const char *text;			/* with all names qualified */
	int			nargs;
	Oid			types[MAX_ARGUMENTS];
	SPIPlanPtr	plan;
} SpiStatement;

/*
 * In the text of a query of the log, this stands for a condition on "at",
 * which is the same as the days given to spi_run_log(), or the span of a scan.
 */
#define WITHIN_DAYS "%1$s"

/* A range of days (UTC) since 2000-01-01. */
typedef struct LogDays
{
	int32		first;
	int32		end;			/* the first day after the range */
} LogDays;

#define ALL_DAYS_BEFORE PG_INT32_MIN
#define ALL_DAYS_AFTER PG_INT32_MAX

/* A query of any number of rows of the log. */
typedef struct LogScan
{
	const SpiStatement *query;
	TimestampTz first;			/* DT_NOBEGIN: from the first row on */
	TimestampTz end;			/* what is earlier; DT_NOEND: all */
	DestReceiver *receiver;
} LogScan;

/* A series of queries, from spi_begin() to spi_end(). */
typedef struct SpiReading
{
	Snapshot	snapshot;		/* the snapshot that the queries see */
	Oid			caller;
	int			caller_security;
} SpiReading;

extern void spi_begin(SpiReading *reading);
extern void spi_run(SpiReading *reading, SpiStatement *query, Datum *args);
extern void spi_run_log(SpiReading *reading, SpiStatement *query, LogDays days,
						Datum *args);
extern void spi_scan_log(SpiReading *reading, const LogScan *scan, Datum *args);
extern void spi_end(SpiReading *reading);
extern uint64 spi_write(SpiStatement *statement, Datum *args);
extern int32 spi_day(TimestampTz at);
extern Datum spi_value(int row, int column, Datum fallback);
extern char *spi_string(int row, int column);
extern text *spi_text(int row, int column);

#endif							/* TIERLIMIT_SPI_H */
