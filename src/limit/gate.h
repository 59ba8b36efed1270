/*-------------------------------------------------------------------------
 *
 * gate.h
 *		The gate in front of an API: who may call, with a secret or without.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_GATE_H
#define TIERLIMIT_GATE_H

#include "limit/decide.h"

/*
 * Decide a call of whoever has this secret (NULL or empty: none); the question
 * has neither key nor tier.  Otherwise as decide().
 */
extern Decision gate_decide(const text *secret, Question *question);

#endif							/* TIERLIMIT_GATE_H */
