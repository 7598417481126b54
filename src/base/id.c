#include "base/id.h"

#include <string.h>

size_t decimal_digits(uint64_t n)
{
	size_t digits = 1;

	while (n >= 10) {
		n /= 10;
		digits++;
	}
	return digits;
}

char *decimal_put(char *out, uint64_t n)
{
	char digits[20];
	size_t at = sizeof(digits);

	do
		digits[--at] = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	memcpy(out, digits + at, sizeof(digits) - at);
	return out + sizeof(digits) - at;
}

char *id_put(char *out, uint64_t epoch, uint64_t seq)
{
	for (int shift = 60; shift >= 0; shift -= 4)
		*out++ = "0123456789abcdef"[epoch >> shift & 15];
	*out++ = ':';
	return decimal_put(out, seq);
}
