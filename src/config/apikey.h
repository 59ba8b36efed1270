/*-------------------------------------------------------------------------
 *
 * apikey.h
 *		The rows of the table api_key, remembered for all sessions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_APIKEY_H
#define TIERLIMIT_APIKEY_H

#include "common/sha2.h"
#include "config/tiers.h"
#include "datatype/timestamp.h"
#include "store/subject.h"

/* The values of api_key.status. */
typedef enum KeyStatus
{
	KEY_ACTIVE,
	KEY_PAYMENT_REQUIRED,
	KEY_PAYMENT_EXPIRED,
	KEY_DISABLED
} KeyStatus;

#define KEY_HASH_LENGTH PG_SHA256_DIGEST_LENGTH

/* A row of api_key, or the lack of one. */
typedef struct ApiKeyRow
{
	bool		registered;		/* if not, nothing else is set but the
								 * calendar's defaults */
	char		name[MAX_NAME_LENGTH + 1];
	KeyStatus	status;
	TimestampTz expires_at;		/* DT_NOEND: never */
	TimestampTz billing_anchor; /* DT_NOBEGIN: the default one */
	char		timezone[MAX_NAME_LENGTH + 1];
	char		tier[MAX_TIER_LENGTH + 1];
	char		account[MAX_NAME_LENGTH + 1];	/* "": none */
} ApiKeyRow;

extern void apikey_look_up(const SubjectName *key, ApiKeyRow *record);
extern void apikey_hash_secret(const text *secret, uint8 *hash);
extern void apikey_change(const SubjectName *key);
extern void apikey_delete(const SubjectName *key);
extern void apikey_delete_all(void);

#endif							/* TIERLIMIT_APIKEY_H */
