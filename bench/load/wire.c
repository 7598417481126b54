#include "load/wire.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static const struct wire *const wires[] = { &wire_line, &wire_resp, &wire_nats,
					    &wire_sse,  &wire_mqtt, &wire_ws };

const struct wire *wire_find(const char *name)
{
	for (size_t i = 0; i < sizeof(wires) / sizeof(*wires); i++)
		if (strcmp(name, wires[i]->name) == 0)
			return wires[i];
	return NULL;
}

void wire_printf(struct wire_text *out, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(out->bytes, sizeof(out->bytes), format, args);
	va_end(args);
	assert(n >= 0 && (size_t)n < sizeof(out->bytes));
	out->len = (size_t)n;
}

bool wire_line_in(struct span in, struct span *line, size_t *used)
{
	const char *cr = in.data, *end = in.data + in.len;

	while (cr < end && (cr = memchr(cr, '\r', (size_t)(end - cr))) != NULL) {
		if (cr + 1 == end)
			return false;
		if (cr[1] == '\n') {
			*line = (struct span){ in.data, (size_t)(cr - in.data) };
			*used = line->len + 2;
			return true;
		}
		cr++;
	}
	return false;
}

bool wire_stash_add(struct wire_stash *s, struct span bytes)
{
	assert(bytes.len <= s->max - s->len);
	if (s->bytes == NULL)
		s->bytes = malloc(s->max);
	if (s->bytes == NULL)
		return false;
	memcpy(s->bytes + s->len, bytes.data, bytes.len);
	s->len += bytes.len;
	return true;
}

void wire_stash_release(struct wire_stash *s)
{
	free(s->bytes);
	s->bytes = NULL;
	s->len = 0;
}

struct wire_event wire_next(struct wire_stash *s, struct wire_event (*parse)(struct span in),
			    struct span *in)
{
	size_t before = s->len, taken;
	struct wire_event e;

	if (before == 0) {
		e = parse(*in);
		if (e.result != WIRE_MORE) {
			*in = span_skip(*in, e.used);
			return e;
		}
	}
	taken = in->len < s->max - before ? in->len : s->max - before;
	if (!wire_stash_add(s, (struct span){ in->data, taken }))
		return wire_bad(SPAN("out of memory"));
	if (before > 0)
		e = parse((struct span){ s->bytes, s->len });
	if (e.result == WIRE_MORE) {
		if (s->len == s->max)
			return wire_bad((struct span){ s->bytes, s->len });
		*in = span_skip(*in, taken);
		return e;
	}
	*in = span_skip(*in, e.result == WIRE_BAD ? taken : e.used - before);
	s->len = 0;
	return e;
}
