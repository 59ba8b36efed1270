/*-------------------------------------------------------------------------
 *
 * seen.c
 *		Fingerprints of what was seen lately.
 *
 * An entry is 24 bits: 19 of the fingerprint, and 5 that say in which epoch it
 * was added.  Epochs are numbered from 1 to 31 and then again from 1.  An
 * entry that is older than SEEN_EPOCHS makes room for another one.  Entries
 * that look as if they were of one of the next epochs are kept: a session may
 * have read the current epoch just before it ended.
 *
 * Where a line is full of younger entries, the oldest one goes, and for
 * SEEN_EPOCHS the line can't say of any fingerprint that it was not seen.
 *
 *-------------------------------------------------------------------------
 */
#include "store/seen.h"

_Static_assert(sizeof(SeenLine) <= BLOCK_SIZE, "a line is a block");

#define EPOCH_NUMBERS 31
#define EPOCH_BITS 5
#define EPOCH_MASK ((1 << EPOCH_BITS) - 1)
#define PRINT_MASK ((1 << (24 - EPOCH_BITS)) - 1)

/* Entries whose ages are at least this are of epochs to come. */
#define FUTURE_AGES (EPOCH_NUMBERS - 6)

/* Return the number of an epoch, from 1 to EPOCH_NUMBERS. */
static uint8_t
number_of(int64_t epoch)
{
	return (uint8_t) ((epoch % EPOCH_NUMBERS + EPOCH_NUMBERS) % EPOCH_NUMBERS + 1);
}

/* Return how many epochs ago the one with this number was. */
static int
age_of(uint8_t number, int64_t epoch)
{
	return (number_of(epoch) - number + EPOCH_NUMBERS) % EPOCH_NUMBERS;
}

/* Return the 24 bits of entry i. */
static uint32_t
entry_at(const SeenLine *line, int i)
{
	const uint8_t *bytes = line->entries[i];

	return (uint32_t) bytes[0] << 16 | (uint32_t) bytes[1] << 8 | bytes[2];
}

/* Set entry i to a fingerprint of an epoch. */
static void
put_entry(SeenLine *line, int i, uint32_t print, int64_t epoch)
{
	uint32_t	entry = (print & PRINT_MASK) << EPOCH_BITS | number_of(epoch);

	line->entries[i][0] = (uint8_t) (entry >> 16);
	line->entries[i][1] = (uint8_t) (entry >> 8);
	line->entries[i][2] = (uint8_t) entry;
}

/*
 * Return whether a fingerprint may have been seen within SEEN_EPOCHS epochs.
 * False is certain; true is wrong once in some ten thousand times, or where
 * the line had to forget something.  The line has to be locked at least
 * SHARED.
 */
bool
seen_maybe(const SeenLine *line, uint32_t print, int64_t epoch)
{
	if (line->lossy_since != 0 &&
		age_of(line->lossy_since, epoch) <= SEEN_EPOCHS)
		return true;
	for (int i = 0; i < line->count; i++)
		if (entry_at(line, i) >> EPOCH_BITS == (print & PRINT_MASK))
			return true;
	return false;
}

/*
 * Return the entry to be replaced, and its age: the oldest one, which may be
 * too old to be needed.  The age is -1 if all are of epochs to come.
 */
static int
oldest_entry(const SeenLine *line, int64_t epoch, int *oldest_age)
{
	int			oldest = 0;

	*oldest_age = -1;
	for (int i = 0; i < line->count; i++)
	{
		int			age = age_of(entry_at(line, i) & EPOCH_MASK, epoch);

		if (age < FUTURE_AGES && age > *oldest_age)
		{
			oldest = i;
			*oldest_age = age;
		}
	}
	return oldest;
}

/*
 * Add a fingerprint that is seen in an epoch, which may have to replace
 * another one.  The line has to be locked EXCLUSIVE.
 */
void
seen_add(SeenLine *line, uint32_t print, int64_t epoch)
{
	int			at = line->count;

	line->version++;
	if (at < SEEN_ENTRIES)
		line->count++;
	else
	{
		int			age;

		at = oldest_entry(line, epoch, &age);
		if (age <= SEEN_EPOCHS)
			line->lossy_since = number_of(epoch);
	}
	put_entry(line, at, print, epoch);
}
