/*-------------------------------------------------------------------------
 *
 * sha256.h
 *		SHA-256 of short strings, many a second.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SHA256_H
#define TIERLIMIT_SHA256_H

#include "common/sha2.h"

extern void sha256(const char *bytes, int length, uint8 *digest);

#endif							/* TIERLIMIT_SHA256_H */
