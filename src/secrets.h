/*-------------------------------------------------------------------------
 *
 * secrets.h
 *		The secrets that callers of an API send, and how they are kept.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SECRETS_H
#define TIERLIMIT_SECRETS_H

#include "common/sha2.h"

#define SECRET_HASH_LENGTH PG_SHA256_DIGEST_LENGTH

/* What api_key.key_hash keeps of a secret: SECRET_HASH_LENGTH bytes. */
extern void secret_hash(const text *secret, uint8 *hash);

#endif							/* TIERLIMIT_SECRETS_H */
