/*-------------------------------------------------------------------------
 *
 * seen.h
 *		Fingerprints of what was seen lately.
 *
 * A line is one block; its owner says which fingerprints belong to it, locks
 * it and tells the time in epochs.  See seen.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SEEN_H
#define TIERLIMIT_SEEN_H

#include <stdbool.h>
#include <stdint.h>

#include "window/block.h"

#define SEEN_ENTRIES 41

/*
 * What was seen is remembered for so many epochs, the current one not counted.
 */
#define SEEN_EPOCHS 12

/* A line of fingerprints.  An all-zero line has seen nothing. */
typedef struct SeenLine
{
	uint16_t	version;		/* counts what was added */
	uint8_t		lossy_since;	/* number of the epoch (see seen.c) in which
								 * an entry went that should have stayed; 0:
								 * none did */
	uint8_t		count;
	uint8_t		entries[SEEN_ENTRIES][3];
} SeenLine;

extern bool seen_maybe(const SeenLine *line, uint32_t print, int64_t epoch);
extern void seen_add(SeenLine *line, uint32_t print, int64_t epoch);

#endif							/* TIERLIMIT_SEEN_H */
