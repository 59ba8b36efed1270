/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The configuration parameters tierlimit.*.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "settings.h"
#include "utils/guc.h"

/* In kB: what block numbers of 32 bits can name. */
#define MAX_MEMORY (512 * 1024 * 1024)

int			tierlimit_memory = 65536;
int			tierlimit_window_slots = 1024;
bool		tierlimit_enabled = true;
char	   *tierlimit_now = "";

/*
 * Accept what timestamptz accepts.  As with recovery_target_time, the string
 * is only parsed here, since what it means may depend on TimeZone and
 * DateStyle, which may not be set yet.
 */
static bool
check_now(char **newval, void **extra, GucSource source)
{
	char		buffer[MAXDATELEN + 1];
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	int			nf;
	struct pg_tm tm;

	(void) extra;
	(void) source;
	if ((*newval)[0] == '\0')
		return true;

	if (ParseDateTime(*newval, buffer, sizeof(buffer), field, ftype,
					  MAXDATEFIELDS, &nf) != 0 ||
		decode_datetime(field, ftype, nf, &tm) != 0)
	{
		GUC_check_errdetail("It must be a finite timestamp with time zone, or empty for the server's clock.");
		return false;
	}
	return true;
}

void
settings_define(void)
{
	DefineCustomIntVariable("tierlimit.memory",
							"Sets the amount of shared memory for windows.",
							"It is fixed at server start. Keys whose windows have run empty make room for others.",
							&tierlimit_memory,
							65536, 1024, MAX_MEMORY,
							PGC_POSTMASTER, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.window_slots",
							"Sets the number of slots up to which a sliding window tells all calls apart.",
							"Fuller windows keep calls together that are less than period / window_slots apart.",
							&tierlimit_window_slots,
							1024, 16, 65536,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("tierlimit.enabled",
							 "Enables the limits.",
							 "While off, every call is admitted and nothing is counted.",
							 &tierlimit_enabled,
							 true,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("tierlimit.now",
							   "Replaces the clock in this session, for tests.",
							   "Empty means the server's clock.",
							   &tierlimit_now,
							   "",
							   PGC_SUSET, 0,
							   check_now, NULL, NULL);

	MarkGUCPrefixReserved("tierlimit");
}
