#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/line.h"

/* Message identities: what is taken, written again, is the same but for zeros before the number. */

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static bool expected(const char *id, size_t size)
{
	size_t digits = size - 17, zeros = 0;

	if (size < 18 || size > 37 || id[16] != ':')
		return false;
	for (size_t i = 0; i < 16; i++)
		if (id[i] == 0 || strchr("0123456789abcdef", id[i]) == NULL)
			return false;
	for (size_t i = 17; i < size; i++)
		if (id[i] < '0' || id[i] > '9')
			return false;
	while (zeros < digits && id[17 + zeros] == '0')
		zeros++;
	return digits < 20 || zeros > 0 || memcmp(id + 17, "18446744073709551615", 20) <= 0;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	char *id = malloc(size + 1), again[64];
	uint64_t epoch, seq;
	bool taken;

	if (id == NULL)
		return 0;
	memcpy(id, data, size);
	taken = line_message_id((struct span){ id, size }, &epoch, &seq);
	if (taken != expected(id, size))
		abort();
	if (taken) {
		const char *number = id + 17;

		id[size] = 0;
		while (*number == '0' && number[1] != 0)
			number++;
		snprintf(again, sizeof(again), "%016" PRIx64 ":%" PRIu64, epoch, seq);
		if (memcmp(again, id, 17) != 0 || strcmp(again + 17, number) != 0)
			abort();
	}
	free(id);
	return 0;
}
