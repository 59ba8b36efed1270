/*-------------------------------------------------------------------------
 *
 * compat.h
 *		The one place that knows how the server's API differs from major
 *		version to major version (15 and later), and compilers from each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_COMPAT_H
#define TIERLIMIT_COMPAT_H

#include "port/atomics.h"
#include "utils/datetime.h"
#include "utils/jsonb.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#if PG_VERSION_NUM >= 170000
#include "storage/procnumber.h"
#else
#include "storage/backendid.h"
#endif

#if PG_VERSION_NUM < 160000
typedef Oid RelFileNumber;
#endif

/*
 * Have the processor fetch memory; this is a hint, which not all compilers can
 * give.
 */
static inline void
prefetch(const void *at)
{
#ifdef __GNUC__
	__builtin_prefetch(at);
#endif
}

/* Raise a value to another, unless it is larger; 17 has a function for it. */
static inline void
atomic_raise_u64(volatile pg_atomic_uint64 *value, uint64 to)
{
#if PG_VERSION_NUM >= 170000
	(void) pg_atomic_monotonic_advance_u64(value, to);
#else
	uint64		now = pg_atomic_read_u64(value);

	while (now < to && !pg_atomic_compare_exchange_u64(value, &now, to))
		;
#endif
}

/*
 * Return the wait event that pg_stat_activity shows while we wait: with a name
 * where extensions may have one (17).  The caller keeps what it points to,
 * since each name is to be made once.
 */
static inline uint32
extension_wait_event(uint32 *known, const char *name)
{
#if PG_VERSION_NUM >= 170000
	if (*known == 0)
		*known = WaitEventExtensionNew(name);
#else
	(void) name;
	*known = PG_WAIT_EXTENSION;
#endif
	return *known;
}

/*
 * Return the number of this process among those that run SQL, from 0 to
 * MaxBackends - 1; 17 gave all processes one.
 */
static inline int
my_backend_number(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyBackendId - 1;
#endif
}

/*
 * These are the arguments with which a signal handler, declared with
 * SIGNAL_ARGS, calls another one: 19 added an argument.
 */
#if PG_VERSION_NUM >= 190000
#define SIGNAL_ARGUMENTS postgres_signal_arg, pg_siginfo
#else
#define SIGNAL_ARGUMENTS postgres_signal_arg
#endif

/*
 * Decode the fields of a time, and return 0 or an error.  (16 added an
 * argument for details of an error, which are not reported here.)
 */
static inline int
decode_datetime(char **field, int *ftype, int nf, struct pg_tm *tm)
{
	int			dtype;
	fsec_t		fsec;
	int			tz;
#if PG_VERSION_NUM >= 160000
	DateTimeErrorExtra extra;
	int			error = DecodeDateTime(field, ftype, nf, &dtype, tm, &fsec,
									   &tz, &extra);
#else
	int			error = DecodeDateTime(field, ftype, nf, &dtype, tm, &fsec,
									   &tz);
#endif

	return error != 0 ? error : dtype == DTK_DATE ? 0 : DTERR_BAD_FORMAT;
}

/* 19 has a state for building a jsonb, which takes what is pushed. */
#if PG_VERSION_NUM < 190000
typedef struct JsonbInState
{
	JsonbValue *result;
	JsonbParseState *parseState;
} JsonbInState;
#endif

/* Push a token to a jsonb that is built. */
static inline void
push_jsonb(JsonbInState *state, JsonbIteratorToken token, JsonbValue *value)
{
#if PG_VERSION_NUM >= 190000
	pushJsonbValue(state, token, value);
#else
	state->result = pushJsonbValue(&state->parseState, token, value);
#endif
}

#endif							/* TIERLIMIT_COMPAT_H */
