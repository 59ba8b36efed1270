/*-------------------------------------------------------------------------
 *
 * sha256.c
 *		SHA-256 of short strings, many a second.
 *
 * The server's own interface, cryptohash.h, asks OpenSSL for the algorithm by
 * its name each time, which takes several times as long as the sum of a secret
 * itself: of a call of authorize() over the wire, 2.7 us of 35.  So where the
 * server was built with OpenSSL the algorithm is asked for once a session.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/sha256.h"

#ifdef USE_OPENSSL

#include <openssl/evp.h>

/* EVP_MD_fetch() came with OpenSSL 3.0, along with the need for it. */
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
#define find_algorithm() EVP_MD_fetch(NULL, "SHA256", NULL)
#else
#define find_algorithm() EVP_sha256()
#endif

/*
 * Put the SHA-256 of so many bytes into the digest, PG_SHA256_DIGEST_LENGTH
 * bytes.  Raises an ERROR if the library fails.
 */
void
sha256(const char *bytes, int length, uint8 *digest)
{
	static const EVP_MD *algorithm = NULL;
	static EVP_MD_CTX *context = NULL;

	if (algorithm == NULL)
		algorithm = find_algorithm();
	if (context == NULL)
		context = EVP_MD_CTX_new();
	if (algorithm == NULL || context == NULL ||
		!EVP_DigestInit_ex(context, algorithm, NULL) ||
		!EVP_DigestUpdate(context, bytes, length) ||
		!EVP_DigestFinal_ex(context, digest, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute SHA-256 with OpenSSL")));
}

#else

#include "common/cryptohash.h"

/* This is sha256() where the server was built without OpenSSL. */
void
sha256(const char *bytes, int length, uint8 *digest)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	if (pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) bytes, length) < 0 ||
		pg_cryptohash_final(context, digest, PG_SHA256_DIGEST_LENGTH) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute SHA-256: %s",
						pg_cryptohash_error(context))));
	pg_cryptohash_free(context);
}

#endif							/* USE_OPENSSL */
