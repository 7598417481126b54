#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/http.h"

/*
 * The HTTP decoder: what comes of bytes does not depend on how they were split, and bodies are no
 * longer than what came in. The first byte of an input says how it is split.
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

static void add_head(struct text *out, const struct http_request *r)
{
	const struct span fields[] = { r->path,          r->query,         r->host,
				       r->origin,        r->content_type,  r->accept,
				       r->last_event_id, r->if_none_match, r->range,
				       r->if_range,      r->version };
	char head[100];
	int n = snprintf(head, sizeof(head), "H%d %d%d%d%d%d %llu\n", (int)r->verb, r->http_1_0,
			 r->keep_alive, r->expect_continue, r->has_body, r->chunked,
			 (unsigned long long)r->content_length);

	add(out, head, (size_t)n);
	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		add(out, fields[i].data, fields[i].len);
		add(out, "\n", 1);
	}
}

/* As the session does it. */
static void decode(struct span in, unsigned step, struct text *out)
{
	const struct http_limits limits = { .head_bytes = 1024,
					    .uri_bytes = 256,
					    .body_bytes = 100 };
	struct http_decoder *d = http_decoder_new();
	struct text kept = { 0 }, body = { 0 };
	bool ended = false;

	assert(d != NULL);
	while (in.len > 0 && !ended) {
		size_t n = step == 0 ? in.len : 1 + in.len * 7 % step;
		struct span rest;
		char *own;

		if (n > in.len)
			n = in.len;
		add(&kept, in.data, n);
		in = span_skip(in, n);
		own = malloc(kept.len);
		assert(own != NULL);
		memcpy(own, kept.data, kept.len);
		rest = (struct span){ own, kept.len };
		kept.len = 0;
		while (rest.len > 0 && !ended) {
			struct http_event e;
			char error[100];
			size_t used;

			http_decode(d, rest, &limits, &e, &used);
			assert(used <= rest.len);
			rest = span_skip(rest, used);
			if (e.kind == HTTP_EVENT_MORE)
				break;
			if (e.kind == HTTP_EVENT_HEAD) {
				add_head(out, &e.request);
			} else if (e.kind == HTTP_EVENT_BODY) {
				add(&body, e.bytes.data, e.bytes.len);
			} else if (e.kind == HTTP_EVENT_END) {
				/* Part of a body that turns out to be bad is nobody's. */
				add(out, body.data, body.len);
				body.len = 0;
				add(out, "\nEND\n", 5);
			} else {
				assert(e.kind == HTTP_EVENT_ERROR && e.status >= 400);
				n = (size_t)snprintf(error, sizeof(error), "\nE%u %s\n", e.status,
						     e.reason);
				add(out, error, n);
				ended = true;
			}
		}
		add(&kept, rest.data, rest.len);
		free(own);
	}
	free(body.data);
	free(kept.data);
	http_decoder_free(d);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct text whole = { 0 }, split = { 0 };
	struct span in;

	if (size < 1)
		return 0;
	in = (struct span){ (const char *)data + 1, size - 1 };
	decode(in, 0, &whole);
	decode(in, 1 + data[0] % 80, &split);
	if (whole.len != split.len ||
	    (whole.len > 0 && memcmp(whole.data, split.data, whole.len) != 0)) {
		fprintf(stderr, "whole: %s\nsplit: %s\n", whole.data, split.data);
		abort();
	}
	free(whole.data);
	free(split.data);
	return 0;
}
