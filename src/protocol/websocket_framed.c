#include "protocol/websocket_framed.h"

#include <assert.h>
#include <string.h>

#include "protocol/mqtt.h"
#include "protocol/websocket.h"
#include "protocol/websocket_wire.h"

/* The next message of a run as a run of its own; false: there is none left. */
static bool next_alone(struct run *rest, struct run *one)
{
	struct span message;

	*one = *rest;
	one->messages = 1;
	if (!run_next(rest, &message))
		return false;
	one->body.len = (size_t)(rest->body.data - one->body.data);
	return true;
}

/* What the format within is to see. */
static struct wire within(const struct wire_format *inner, const struct wire *wire)
{
	return (struct wire){ .format = inner, .parameter = wire->parameter };
}

static uint32_t encodable(const struct wire_format *inner, const struct wire *wire,
			  const struct run *run)
{
	const struct wire w = within(inner, wire);

	return inner->encodable(&w, run);
}

static size_t encoded_max(const struct wire_format *inner, const struct wire *wire,
			  const struct run *run)
{
	const struct wire w = within(inner, wire);

	return inner->encoded_max(&w, run) + run->messages * (size_t)WEBSOCKET_HEAD_MAX;
}

static size_t encode(const struct wire_format *inner, const struct wire *wire,
		     const struct run *run, char *out)
{
	const struct wire w = within(inner, wire);
	struct run rest = *run, one;
	char *at = out;

	while (next_alone(&rest, &one)) {
		char head[WEBSOCKET_HEAD_MAX];
		size_t n, bytes;

		if (inner->encodable(&w, &one) == 0)
			continue;
		bytes = inner->encode(&w, &one, at + WEBSOCKET_HEAD_MAX);
		n = websocket_head(WEBSOCKET_BINARY, bytes, head);
		memcpy(at, head, n);
		memmove(at + n, at + WEBSOCKET_HEAD_MAX, bytes);
		at += n + bytes;
	}
	return (size_t)(at - out);
}

static void enclose(const struct wire_format *inner, const struct wire *wire, const struct run *run,
		    char *prefix, size_t *prefix_len, struct span *body, char *suffix,
		    size_t *suffix_len)
{
	const struct wire w = within(inner, wire);
	char head[WEBSOCKET_HEAD_MAX];
	size_t n;

	inner->enclose(&w, run, prefix, prefix_len, body, suffix, suffix_len);
	n = websocket_head(WEBSOCKET_BINARY, *prefix_len + body->len + *suffix_len, head);
	assert(n + *prefix_len <= WIRE_AROUND_MAX);
	memmove(prefix + n, prefix, *prefix_len);
	memcpy(prefix, head, n);
	*prefix_len += n;
}

/* Whether there is room for the frame's head, too. */
static bool enclosable(const struct wire_format *inner, const struct wire *wire,
		       const struct run *run)
{
	const struct wire w = within(inner, wire);
	char prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX];
	size_t before, after;
	struct span body;

	if (inner->enclosable != NULL && !inner->enclosable(&w, run))
		return false;
	inner->enclose(&w, run, prefix, &before, &body, suffix, &after);
	return before + WEBSOCKET_HEAD_MAX <= WIRE_AROUND_MAX;
}

/* A format around another one. */
#define FRAMED(format, inner, title)                                                               \
	static uint32_t format##_encodable(const struct wire *wire, const struct run *run)         \
	{                                                                                          \
		return encodable(&inner, wire, run);                                               \
	}                                                                                          \
	static size_t format##_encoded_max(const struct wire *wire, const struct run *run)         \
	{                                                                                          \
		return encoded_max(&inner, wire, run);                                             \
	}                                                                                          \
	static size_t format##_encode(const struct wire *wire, const struct run *run, char *out)   \
	{                                                                                          \
		return encode(&inner, wire, run, out);                                             \
	}                                                                                          \
	static void format##_enclose(const struct wire *wire, const struct run *run, char *prefix, \
				     size_t *prefix_len, struct span *body, char *suffix,          \
				     size_t *suffix_len)                                           \
	{                                                                                          \
		enclose(&inner, wire, run, prefix, prefix_len, body, suffix, suffix_len);          \
	}                                                                                          \
	static bool format##_enclosable(const struct wire *wire, const struct run *run)            \
	{                                                                                          \
		return enclosable(&inner, wire, run);                                              \
	}                                                                                          \
	const struct wire_format format = { .name = title,                                         \
					    .encodable = format##_encodable,                       \
					    .encoded_max = format##_encoded_max,                   \
					    .encode = format##_encode,                             \
					    .enclose = format##_enclose,                           \
					    .enclosable = format##_enclosable,                     \
					    .boundary = websocket_boundary }

FRAMED(websocket_mqtt_format, mqtt_format, "websocket-mqtt");
FRAMED(websocket_mqtt5_format, mqtt5_format, "websocket-mqtt5");
