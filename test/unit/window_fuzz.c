/*-------------------------------------------------------------------------
 *
 * window_fuzz.c
 *		The random cases of harness.c, decided by a fuzzer.
 *
 *-------------------------------------------------------------------------
 */
#include "harness.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Source		source = {.data = data, .end = data + size};

	if (size > 0)
		harness_case(&source);
	return 0;
}
