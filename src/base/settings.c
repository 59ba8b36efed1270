/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The configuration parameters tierlimit.*.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/settings.h"
#include "datatype/timestamp.h"
#include "utils/guc.h"

/* This is as many kB as block numbers of 32 bits can name. */
#define MAX_MEMORY (512 * 1024 * 1024)

/* This is in kB, too. */
#define MAX_LOG_BUFFER (16 * 1024 * 1024)

#define DEFAULT_RETENTION (62 * HOURS_PER_DAY * MINS_PER_HOUR)

int			tierlimit_memory = 65536;
int			tierlimit_log_buffer = 8192;
int			tierlimit_window_slots = 1024;
int			tierlimit_durability = DURABILITY_ASYNC;
int			tierlimit_flush_interval = 200;
int			tierlimit_log_granularity = 0;
int			tierlimit_log_retention = DEFAULT_RETENTION;
int			tierlimit_usage_retention = 0;
int			tierlimit_request_memory = 10 * SECS_PER_MINUTE;
int			tierlimit_on_log_failure = LOG_FAILURE_CONTINUE;
int			tierlimit_ipv6_prefix = 64;
bool		tierlimit_enabled = true;
char	   *tierlimit_now = "";

/* These are for pre_request() only, which is SQL. */
static char *api_key_header;
static int	trusted_proxies;

static const struct config_enum_entry durabilities[] = {
	{"async", DURABILITY_ASYNC, false},
	{"sync", DURABILITY_SYNC, false},
	{NULL, 0, false}
};

static const struct config_enum_entry log_failure_policies[] = {
	{"continue", LOG_FAILURE_CONTINUE, false},
	{"wait", LOG_FAILURE_WAIT, false},
	{NULL, 0, false}
};

/*
 * Accept what timestamptz accepts: the check hook of tierlimit.now.  As with
 * recovery_target_time, the string is only parsed here, since what it means
 * may depend on TimeZone and DateStyle, which may not be set yet.
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

/*
 * Define the parameters.  Called from _PG_init(), while libraries are
 * preloaded.
 */
void
settings_define(void)
{
	DefineCustomIntVariable("tierlimit.memory",
							"Sets the amount of shared memory for windows.",
							"It is fixed at server start. Keys that were not called for long make room for others.",
							&tierlimit_memory,
							65536, 1024, MAX_MEMORY,
							PGC_POSTMASTER, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.log_buffer",
							"Sets the amount of shared memory for decisions that wait to be written to the request log.",
							"The first database that logs has half of it, the next one half of the rest.",
							&tierlimit_log_buffer,
							8192, 1024, MAX_LOG_BUFFER,
							PGC_POSTMASTER, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.window_slots",
							"Sets the number of slots up to which a sliding window tells all calls apart.",
							"Fuller windows keep calls together that are less than period / window_slots apart.",
							&tierlimit_window_slots,
							1024, 16, 65536,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);

	DefineCustomEnumVariable("tierlimit.durability",
							 "Sets whether an admitted call waits until its row in the request log is on disk.",
							 NULL,
							 &tierlimit_durability,
							 DURABILITY_ASYNC, durabilities,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.flush_interval",
							"Sets the time between two rounds of writing to the request log.",
							"This much may be lost in a crash where nobody waits for the disk.",
							&tierlimit_flush_interval,
							200, 1, 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.log_granularity",
							"Sets the time within which calls that are alike share a row of the request log.",
							"0 means that each call has its own.",
							&tierlimit_log_granularity,
							0, 0, 1000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.log_retention",
							"Sets the time after which rows of the request log are dropped.",
							"They are kept for as long as any tier's longest limit in any case. Sums are kept for longer: see tierlimit.usage_retention.",
							&tierlimit_log_retention,
							DEFAULT_RETENTION, HOURS_PER_DAY * MINS_PER_HOUR, PG_INT32_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN,
							NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.usage_retention",
							"Sets the time after which hourly and daily sums are dropped.",
							"0 means that they are kept for good. They are kept in any case until they are billed.",
							&tierlimit_usage_retention,
							0, 0, PG_INT32_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN,
							NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.request_memory",
							"Sets the time for which a request_id is known, so that a retry is not charged again.",
							NULL,
							&tierlimit_request_memory,
							10 * SECS_PER_MINUTE, 1, SECS_PER_DAY,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomEnumVariable("tierlimit.on_log_failure",
							 "Sets what calls do while the request log can't be written.",
							 "\"continue\": they go on until tierlimit.log_buffer is full. \"wait\": they wait when the oldest row is overdue.",
							 &tierlimit_on_log_failure,
							 LOG_FAILURE_CONTINUE, log_failure_policies,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.ipv6_prefix",
							"Sets the number of leading bits by which IPv6 addresses are counted.",
							"Addresses that have them in common count as one.",
							&tierlimit_ipv6_prefix,
							64, 32, 128,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("tierlimit.enabled",
							 "Enables the limits.",
							 "While off, nothing is counted or limited; who a caller is, and whether they may call, is still asked.",
							 &tierlimit_enabled,
							 true,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	/*
	 * A user that may set these in a session, which a pool hands on to the
	 * next caller, could be counted as another one.
	 */
	DefineCustomStringVariable("tierlimit.api_key_header",
							   "Sets the request header in which pre_request() finds the API key.",
							   "\"authorization\" means what follows \"Bearer\" in that one.",
							   &api_key_header,
							   "x-api-key",
							   PGC_SUSET, 0,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("tierlimit.trusted_proxies",
							"Sets the number of proxies in front of pre_request() that write X-Forwarded-For and X-Request-Id.",
							"0 means that both headers are ignored.",
							&trusted_proxies,
							1, 0, 100,
							PGC_SUSET, 0,
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

/*
 * Turn off the timeouts that the server, a database or a role sets, so that
 * they end neither the process nor its transactions.  For background workers,
 * before they connect.
 */
void
settings_turn_timeouts_off(void)
{
	static const char *const timeouts[] = {
		"statement_timeout", "transaction_timeout", "idle_session_timeout",
		"idle_in_transaction_session_timeout"
	};

	/* Some versions don't have all of them. */
	for (size_t i = 0; i < lengthof(timeouts); i++)
		if (GetConfigOption(timeouts[i], true, false) != NULL)
			SetConfigOption(timeouts[i], "0", PGC_SUSET, PGC_S_OVERRIDE);
}
