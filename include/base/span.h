#ifndef BASE_SPAN_H
#define BASE_SPAN_H

/*
 * A span is a borrowed run of bytes: pointer and length, never owned, never NUL-terminated. It
 * lives as long as what it points into. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct span {
	const char *data;
	size_t len;
};

/* A string literal or an array of char without its last byte. */
#define SPAN(literal) ((struct span){ (literal), sizeof(literal) - 1 })

static inline struct span span_of(const char *string)
{
	return (struct span){ string, strlen(string) };
}

static inline bool span_equal(struct span a, struct span b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* What is left of a span after its first n bytes; n may not exceed its length. */
static inline struct span span_skip(struct span s, size_t n)
{
	return (struct span){ s.data + n, s.len - n };
}

#endif
