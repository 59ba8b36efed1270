/*-------------------------------------------------------------------------
 *
 * secrets.c
 *		Making the secrets that callers of an API send.
 *
 * A secret is "tl_" and 256 random bits in hexadecimal: always of the same
 * length, one word to double-click, and nothing in it that a URL, a shell or a
 * spreadsheet would change.  It leaves the server once, as the result of the
 * function that makes it.  The table gets its SHA-256 (a hash that is slow to
 * guess from would only be slow: 256 bits can't be guessed) and its first
 * characters, by which people recognise it; and SQL gets these as parameters,
 * so that no log, error message or pg_stat_activity ever shows the secret.
 *
 * The functions write api_key as their caller, who needs the right to do so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "config/apikey.h"
#include "config/tiers.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#define SECRET_TAG "tl_"
#define TAG_LENGTH (sizeof(SECRET_TAG) - 1)
#define RANDOM_BYTES 32
#define SECRET_LENGTH (TAG_LENGTH + 2 * RANDOM_BYTES)
#define PREFIX_LENGTH (TAG_LENGTH + 8)

PG_FUNCTION_INFO_V1(tierlimit_create_key_1_0);
PG_FUNCTION_INFO_V1(tierlimit_rotate_key_1_0);

/* A statement has at most so many parameters: see write_secret(). */
#define MAX_PARAMETERS 6

static const char insert_key[] =
"INSERT INTO tierlimit.api_key"
" (name, tier, account, description, key_hash, key_prefix)"
" VALUES ($1, $2, $3, $4, $5, $6)";

static const char update_key[] =
"UPDATE tierlimit.api_key SET key_hash = $2, key_prefix = $3"
" WHERE name OPERATOR(pg_catalog.=) $1";

/* Return a new secret. */
static text *
make_secret(void)
{
	char		random[RANDOM_BYTES];
	char		secret[SECRET_LENGTH] = SECRET_TAG;

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	hex_encode(random, sizeof(random), secret + TAG_LENGTH);
	return cstring_to_text_with_len(secret, SECRET_LENGTH);
}

/* Return the value of api_key.key_hash for a secret. */
static Datum
hash_column(const text *secret)
{
	bytea	   *hash = palloc(VARHDRSZ + KEY_HASH_LENGTH);

	SET_VARSIZE(hash, VARHDRSZ + KEY_HASH_LENGTH);
	apikey_hash_secret(secret, (uint8 *) VARDATA(hash));
	return PointerGetDatum(hash);
}

/* Return the value of api_key.key_prefix for a secret. */
static Datum
prefix_column(const text *secret)
{
	return PointerGetDatum(cstring_to_text_with_len(VARDATA_ANY(secret),
													PREFIX_LENGTH));
}

/*
 * Run a statement whose parameters are the function's own arguments, which are
 * texts, and then the secret's hash and prefix.  Returns the number of rows.
 */
static uint64
write_secret(FunctionCallInfo fcinfo, const char *statement, const text *secret)
{
	int			nargs = PG_NARGS();
	Oid			types[MAX_PARAMETERS];
	Datum		values[MAX_PARAMETERS];
	char		nulls[MAX_PARAMETERS];
	uint64		rows;

	Assert(nargs + 2 <= MAX_PARAMETERS);
	for (int i = 0; i < nargs; i++)
	{
		types[i] = TEXTOID;
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	types[nargs] = BYTEAOID;
	values[nargs] = hash_column(secret);
	nulls[nargs] = ' ';
	types[nargs + 1] = TEXTOID;
	values[nargs + 1] = prefix_column(secret);
	nulls[nargs + 1] = ' ';

	SPI_connect();
	if (SPI_execute_with_args(statement, nargs + 2, types, values, nulls,
							  false, 0) < 0)
		elog(ERROR, "could not run query: %s", statement);
	rows = SPI_processed;
	SPI_finish();
	return rows;
}

/* Return a text argument, and raise an ERROR if it is NULL. */
static text *
require_text(FunctionCallInfo fcinfo, int n, const char *argument)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be null", argument)));
	return PG_GETARG_TEXT_PP(n);
}

/* The SQL function create_key(name, tier, account, description). */
Datum
tierlimit_create_key_1_0(PG_FUNCTION_ARGS)
{
	text	   *tier;
	text	   *secret;

	(void) require_text(fcinfo, 0, "name");
	tier = require_text(fcinfo, 1, "tier");
	tiers_refresh();
	(void) tiers_require(VARDATA_ANY(tier), VARSIZE_ANY_EXHDR(tier));

	secret = make_secret();
	write_secret(fcinfo, insert_key, secret);
	PG_RETURN_TEXT_P(secret);
}

/* The SQL function rotate_key(name). */
Datum
tierlimit_rotate_key_1_0(PG_FUNCTION_ARGS)
{
	text	   *name = require_text(fcinfo, 0, "name");
	text	   *secret = make_secret();

	if (write_secret(fcinfo, update_key, secret) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("key \"%s\" does not exist", text_to_cstring(name)),
				 errhint("Create it with tierlimit.create_key().")));
	PG_RETURN_TEXT_P(secret);
}
