#ifndef FUZZ_H
#define FUZZ_H

/*
 * What the fuzz targets have in common: libFuzzer's entry, text that grows, and bytes that come in
 * pieces. A claim that does not hold ends the program, which is how libFuzzer is told.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/span.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static inline void check(bool fine, const char *what)
{
	if (fine)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

/* A copy exactly as long as it is, for the sanitizer to see a step too far. The caller frees it. */
static inline char *exact_copy(const void *data, size_t len)
{
	char *own = malloc(len);

	check(own != NULL || len == 0, "out of memory");
	if (len > 0)
		memcpy(own, data, len);
	return own;
}

/* ---- text that grows; all zero is empty, and data is the caller's to free ---- */

struct text {
	char *data;
	size_t len, slots;
};

static inline void text_add(struct text *t, const char *data, size_t n)
{
	if (t->len + n + 1 > t->slots) {
		t->slots = 2 * (t->len + n + 1);
		t->data = realloc(t->data, t->slots);
		check(t->data != NULL, "out of memory");
	}
	if (n > 0)
		memcpy(t->data + t->len, data, n);
	t->len += n;
	t->data[t->len] = 0;
}

/* Ends the program where they differ; frees both. */
static inline void text_same(struct text *whole, struct text *split)
{
	if (whole->len != split->len ||
	    (whole->len > 0 && memcmp(whole->data, split->data, whole->len) != 0)) {
		fprintf(stderr, "whole: %s\nsplit: %s\n", whole->data, split->data);
		abort();
	}
	free(whole->data);
	free(split->data);
}

/* ---- bytes in pieces ---- */

enum taken { TAKEN, TAKE_MORE, TAKE_NO_MORE };

/* Takes something of what is there; *used is how much. TAKE_MORE: there is nothing whole in the
 * rest of it. TAKE_NO_MORE: it is at its end. */
typedef enum taken taker(void *context, struct span in, size_t *used);

/* Hands bytes over as a connection does, in pieces of up to step bytes (0: at once): what is not
 * taken is kept, and more put behind it. */
static inline void feed(struct span in, unsigned step, taker *take, void *context)
{
	struct text kept = { 0 };
	enum taken taken = TAKEN;

	while (in.len > 0 && taken != TAKE_NO_MORE) {
		size_t n = step == 0 ? in.len : 1 + in.len * 7 % step, used;
		struct span rest;
		char *own;

		n = n < in.len ? n : in.len;
		text_add(&kept, in.data, n);
		in = span_skip(in, n);
		own = exact_copy(kept.data, kept.len);
		rest = (struct span){ own, kept.len };
		kept.len = 0;
		for (taken = TAKEN; rest.len > 0 && taken == TAKEN; rest = span_skip(rest, used)) {
			taken = take(context, rest, &used);
			check(used <= rest.len, "more is taken than there is");
		}
		text_add(&kept, rest.data, rest.len);
		free(own);
	}
	free(kept.data);
}

#endif
