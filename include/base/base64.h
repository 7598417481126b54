#ifndef BASE_BASE64_H
#define BASE_BASE64_H

/* Base64 with its standard letters and padding (RFC 4648, 4). Pure; any thread. */

#include <stddef.h>

#include "base/span.h"

/* Letters for so many bytes. */
static inline size_t base64_len(size_t bytes)
{
	return (bytes + 2) / 3 * 4;
}

/* Writes them, returns where what comes behind them goes. */
char *base64_put(char *out, struct span bytes);
/* The bytes that the letters stand for, into out, which has room for 3 for every 4 of them. -1:
 * they are none, or not the only ones for these bytes. */
ptrdiff_t base64_get(struct span letters, char *out);

#endif
