/*-------------------------------------------------------------------------
 *
 * latency.c
 *		How long this machine takes to fetch a word from a gigabyte of shared
 *		memory, where the address comes from the word fetched before.
 *
 * Looking a key up takes at least two such fetches, of its bucket and of what
 * the bucket points to; with few keys they come from the processor's caches.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define LINES ((uint64_t) 1 << 24)	/* of 64 bytes */
#define FETCHES 5000000

typedef struct Line
{
	uint64_t	next;
	uint64_t	unused[7];
} Line;

static uint64_t
random_below(uint64_t bound)
{
	return ((uint64_t) random() << 31 | (uint64_t) random()) % bound;
}

int
main(void)
{
	Line	   *lines = mmap(NULL, LINES * sizeof(Line), PROT_READ | PROT_WRITE,
							 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct timespec from,
				to;
	uint64_t	at = 0;

	if (lines == MAP_FAILED)
		return 1;

	/* One cycle through all lines (Sattolo's algorithm). */
	for (uint64_t i = 0; i < LINES; i++)
		lines[i].next = i;
	for (uint64_t i = LINES - 1; i > 0; i--)
	{
		uint64_t	j = random_below(i);
		uint64_t	next = lines[i].next;

		lines[i].next = lines[j].next;
		lines[j].next = next;
	}

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0; i < FETCHES; i++)
		at = lines[at].next;
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%.0f ns to fetch from 1 GB of memory, each address from the fetch before%s\n",
		   ((double) (to.tv_sec - from.tv_sec) * 1e9 +
			(double) (to.tv_nsec - from.tv_nsec)) / FETCHES,
		   at == LINES ? "" : ".");
	return 0;
}
