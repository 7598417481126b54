#ifndef PROTOCOL_WEBSOCKET_LEFT_OUT_H
#define PROTOCOL_WEBSOCKET_LEFT_OUT_H

/*
 * What a subscription leaves out, because another one of the same client brings it already: names
 * and patterns, as the parameter of its wire, so that clients who say the same share a stream.
 * Pure; any thread.
 */

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

enum {
	LEFT_OUT_NAMES_MAX = 1024, /* beyond, the client has to ask for the pattern first */
	LEFT_OUT_PATTERNS_MAX = 32,
};

struct left_out {
	unsigned names_n, patterns_n;
	struct span names[LEFT_OUT_NAMES_MAX], patterns[LEFT_OUT_PATTERNS_MAX];
};

static inline bool left_out_empty(const struct left_out *l)
{
	return l->names_n == 0 && l->patterns_n == 0;
}

/* Bytes of the parameter; none where nothing is left out. */
size_t left_out_bytes(const struct left_out *left_out);
/* Into so many bytes; sorts the names. */
void left_out_put(struct left_out *left_out, char *out);
/* Whether a valid name is left out. Takes time by the logarithm of the names and by the patterns.
 */
bool left_out_has(struct span parameter, struct span name);

#endif
