#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/line.h"

/*
 * The line decoder: what comes out does not depend on how the bytes were split, and there is no
 * more of it than went in. The first byte of an input sets the limits, the second how it is split.
 */

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

struct text {
	char *data;
	size_t len, slots;
};

static void add(struct text *t, const char *data, size_t n)
{
	if (t->len + n + 1 > t->slots) {
		t->slots = 2 * (t->len + n + 1);
		t->data = realloc(t->data, t->slots);
		assert(t->data != NULL);
	}
	if (n > 0)
		memcpy(t->data + t->len, data, n);
	t->len += n;
	t->data[t->len] = 0;
}

/* Messages, one by one, without the end of the line. */
static size_t add_messages(struct text *out, const struct text *carry, const struct line_event *e)
{
	struct text all = { 0 };
	size_t n = 0;

	add(&all, carry->data, carry->len);
	add(&all, e->bytes.data, e->bytes.len);
	for (char *line = all.data, *lf; line < all.data + all.len; line = lf + 1) {
		size_t len;

		lf = memchr(line, '\n', (size_t)(all.data + all.len - line));
		assert(lf != NULL);
		len = (size_t)(lf - line);
		if (e->canonical)
			assert(len > 0 && lf[-1] == '\r' &&
			       memchr(line, '\r', len) == (void *)(lf - 1));
		if (len > 0 && lf[-1] == '\r')
			len--;
		add(out, "M", 1);
		add(out, line, len);
		add(out, "\n", 1);
		n++;
	}
	assert(n == e->messages);
	free(all.data);
	return n;
}

static void add_command(struct text *out, const struct line_event *e)
{
	char head[100];
	int n = snprintf(head, sizeof(head), "C%d %d %llx %llu ", e->kind, e->replay,
			 (unsigned long long)e->epoch, (unsigned long long)e->n);

	add(out, head, (size_t)n);
	add(out, e->topic.data, e->topic.len);
	add(out, "\n", 1);
}

/* As the session does it: what is not taken is kept, and more put behind it. */
static void decode(struct span in, const struct line_limits *limits, unsigned step,
		   struct text *out)
{
	struct line_decoder d = { 0 };
	struct text kept = { 0 }, carry = { 0 };
	bool ended = false;

	while (in.len > 0 && !ended) {
		size_t n = step == 0 ? in.len : 1 + in.len * 7 % step;
		struct span rest;
		char *own;

		if (n > in.len)
			n = in.len;
		add(&kept, in.data, n);
		in = span_skip(in, n);
		/* Exactly as long as it is, for the sanitizer to see a step too far. */
		own = malloc(kept.len);
		assert(own != NULL);
		memcpy(own, kept.data, kept.len);
		rest = (struct span){ own, kept.len };
		kept.len = 0;
		while (rest.len > 0 && !ended) {
			struct line_event e;
			size_t used;

			line_decode(&d, rest, limits, &e, &used);
			assert(used <= rest.len);
			if (e.kind == LINE_MORE)
				break;
			assert(used > 0);
			rest = span_skip(rest, used);
			if (e.kind == LINE_PART) {
				add(&carry, e.bytes.data, e.bytes.len);
			} else if (e.kind == LINE_MESSAGES) {
				add_messages(out, &carry, &e);
				carry.len = 0;
			} else if (e.kind == LINE_PUBLISH || e.kind == LINE_SUBSCRIBE) {
				add_command(out, &e);
			} else if (e.kind == LINE_BYE) {
				add(out, "B\n", 2);
				ended = true;
			} else {
				assert(e.kind == LINE_ERROR);
				add(out, "E", 1);
				add(out, e.error, strlen(e.error));
				ended = true;
			}
		}
		add(&kept, rest.data, rest.len);
		free(own);
	}
	free(kept.data);
	free(carry.data);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct line_limits limits;
	struct text whole = { 0 }, split = { 0 };
	struct span in;

	if (size < 2)
		return 0;
	limits = (struct line_limits){ .command_bytes = 512,
				       .message_bytes = data[0] < 200 ? data[0] : 100000 };
	in = (struct span){ (const char *)data + 2, size - 2 };
	decode(in, &limits, 0, &whole);
	decode(in, &limits, 1 + data[1] % 80, &split);
	if (whole.len != split.len ||
	    (whole.len > 0 && memcmp(whole.data, split.data, whole.len) != 0)) {
		fprintf(stderr, "whole: %s\nsplit: %s\n", whole.data, split.data);
		abort();
	}
	/* A message costs at least its end, and a command has a head of bounded size. */
	assert(whole.len <= 2 * size + 200);
	free(whole.data);
	free(split.data);
	return 0;
}
