/*-------------------------------------------------------------------------
 *
 * spi.h
 *		Reading tables, and writing the log's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SPI_H
#define TIERLIMIT_SPI_H

#include "datatype/timestamp.h"
#include "executor/spi.h"
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
 * In the text of a query of the log: a condition on "at", which is the same as
 * the days given to spi_run_log().
 */
#define WITHIN_DAYS "%1$s"

/* Days (UTC) since 2000-01-01. */
typedef struct LogDays
{
	int32		first;
	int32		end;			/* the first one that is out of it */
} LogDays;

#define ALL_DAYS_BEFORE PG_INT32_MIN
#define ALL_DAYS_AFTER PG_INT32_MAX

/* A series of queries, from spi_begin() to spi_end(). */
typedef struct SpiReading
{
	Snapshot	snapshot;		/* what the queries see */
	Oid			caller;
	int			caller_security;
} SpiReading;

/*
 * Queries in between see the newest committed state and this transaction's
 * own changes, whatever its isolation level.  The memory context is SPI's;
 * rows are in SPI_tuptable.  No lock may be held; after an ERROR, the abort of
 * the (sub)transaction does what spi_end() would have done.  A query that
 * waits for a lock for CALL_PATIENCE is such an ERROR.
 */
extern void spi_begin(SpiReading *reading);
extern void spi_run(SpiReading *reading, SpiStatement *query, Datum *args);
extern void spi_run_log(SpiReading *reading, SpiStatement *query, LogDays days,
						Datum *args);
extern void spi_end(SpiReading *reading);

/*
 * Run a statement that changes tables, as their owner; returns the number of rows.
 */
extern uint64 spi_write(SpiStatement *statement, Datum *args);

/* The day of a time. */
extern int32 spi_day(TimestampTz at);

/* Column (from 1) of a row of SPI_tuptable; fallback for NULL. */
extern Datum spi_value(int row, int column, Datum fallback);

/* Likewise a text, as a string in the current context; NULL for NULL. */
extern char *spi_string(int row, int column);

/* Likewise, but a text in the context that spi_begin() was called in. */
extern text *spi_text(int row, int column);

#endif							/* TIERLIMIT_SPI_H */
