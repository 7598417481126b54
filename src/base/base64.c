#include "base/base64.h"

#include <stdint.h>

char *base64_put(char *out, struct span bytes)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *p = (const unsigned char *)bytes.data;
	size_t n = bytes.len;

	for (; n > 0; p += 3, out += 4) {
		uint32_t word = (uint32_t)p[0] << 16;

		word |= n > 1 ? (uint32_t)p[1] << 8 : 0;
		word |= n > 2 ? p[2] : 0;
		out[0] = letters[word >> 18];
		out[1] = letters[word >> 12 & 63];
		out[2] = n > 1 ? letters[word >> 6 & 63] : '=';
		out[3] = n > 2 ? letters[word & 63] : '=';
		n -= n > 3 ? 3 : n;
	}
	return out;
}

/* -1: no letter. */
static int value_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

ptrdiff_t base64_get(struct span letters, char *out)
{
	size_t padding = 0;
	char *at = out;

	if (letters.len % 4 != 0)
		return -1;
	while (padding < 2 && padding < letters.len &&
	       letters.data[letters.len - 1 - padding] == '=')
		padding++;
	for (size_t i = 0; i < letters.len; i += 4) {
		size_t pad = i + 4 == letters.len ? padding : 0;
		uint32_t word = 0;

		for (size_t k = 0; k < 4; k++) {
			int value = k < 4 - pad ? value_of(letters.data[i + k]) : 0;

			if (value < 0)
				return -1;
			word = word << 6 | (uint32_t)value;
		}
		/* What is behind the last byte must be nothing, or two texts would be one. */
		if (word & ((1U << 8 * pad) - 1))
			return -1;
		for (size_t k = 0; k < 3 - pad; k++)
			*at++ = (char)(word >> (16 - 8 * k));
	}
	return at - out;
}
