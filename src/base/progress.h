/*-------------------------------------------------------------------------
 *
 * progress.h
 *		How far long work is, for all sessions to see.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_PROGRESS_H
#define TIERLIMIT_PROGRESS_H

#include "datatype/timestamp.h"

/* It is not known how many rows there will be. */
#define PROGRESS_UNKNOWN (-1)

/* What a process reports of its work. */
typedef struct ProgressReport
{
	int			pid;
	Oid			database;
	char		command[NAMEDATALEN];	/* "": it reports nothing */
	char		phase[NAMEDATALEN];
	int64		done;			/* rows */
	int64		total;			/* as far as is known; PROGRESS_UNKNOWN */
	TimestampTz started_at;
} ProgressReport;

extern Size progress_shmem_size(void);
extern void progress_shmem_init(void);
extern void progress_begin(const char *command);
extern void progress_phase(const char *phase, int64 total);
extern void progress_update(int64 done);
extern void progress_end(void);
extern bool progress_is_of(const char *command);
extern int	progress_slots(void);
extern bool progress_read(int slot, ProgressReport *report);

#endif							/* TIERLIMIT_PROGRESS_H */
