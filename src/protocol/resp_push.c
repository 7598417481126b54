#include "protocol/resp.h"

#include <assert.h>
#include <string.h>

/* Messages as RESP subscribers get them: of one run all begin alike. */

struct push_format {
	struct wire_format format; /* first */
	struct span head;
	bool glob; /* the stream's parameter, which comes before the topic */
};

static char *put(char *out, struct span text)
{
	if (text.len > 0)
		memcpy(out, text.data, text.len);
	return out + text.len;
}

static const struct push_format *push_of(const struct wire *wire)
{
	return (const struct push_format *)(const void *)wire->format;
}

static size_t digits(size_t n)
{
	size_t len = 1;

	while (n >= 10) {
		n /= 10;
		len++;
	}
	return len;
}

static size_t bulk_bytes(size_t len)
{
	return 1 + digits(len) + 2 + len + 2;
}

/* What comes before each payload of a run, but for the payload's length. */
static size_t around_bytes(const struct wire *wire, const struct run *run)
{
	const struct push_format *p = push_of(wire);

	return p->head.len + (p->glob ? bulk_bytes(wire->parameter.len) : 0) +
	       bulk_bytes(run->topic.len);
}

static char *put_around(const struct wire *wire, const struct run *run, char *out)
{
	const struct push_format *p = push_of(wire);

	out = put(out, p->head);
	if (p->glob)
		out = resp_put_bulk(out, wire->parameter);
	return resp_put_bulk(out, run->topic);
}

static uint32_t every_message(const struct wire *wire, const struct run *run)
{
	(void)wire;
	return run->messages;
}

static size_t encoded_max(const struct wire *wire, const struct run *run)
{
	/* No payload has more digits than all together, and lines end as bulk strings do. */
	size_t each = around_bytes(wire, run) + 1 + digits(run->body.len) + 2;

	return run->messages * (each + (run->form == RUN_LINES ? 0 : 2)) + run->body.len;
}

static size_t encode(const struct wire *wire, const struct run *run, char *out)
{
	struct run rest = *run;
	/* The last message's, and of it what does not depend on the payload; often the next one's
	 * payload is as long. */
	struct span payload, head = { NULL, 0 };
	size_t around = 0, len = 0;
	char *at = out;

	while (run_next(&rest, &payload)) {
		char *begin = at;

		if (head.len == 0) {
			at = put_around(wire, run, at);
			around = (size_t)(at - begin);
		} else {
			at = put(at, (struct span){ head.data,
						    payload.len == len ? head.len : around });
		}
		if (head.len == 0 || payload.len != len)
			at = resp_put_head(at, '$', payload.len);
		head = (struct span){ begin, (size_t)(at - begin) };
		len = payload.len;
		at = put(put(at, payload), SPAN("\r\n"));
	}
	return (size_t)(at - out);
}

static void enclose(const struct wire *wire, const struct run *run, char *prefix,
		    size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	char *at = put_around(wire, run, prefix);

	*body = run_only(run);
	at = resp_put_head(at, '$', body->len);
	*prefix_len = (size_t)(at - prefix);
	assert(*prefix_len <= WIRE_AROUND_MAX);
	*suffix_len = 2;
	memcpy(suffix, "\r\n", 2);
}

/* The number behind a type, and its end of line; *at goes behind them. */
static size_t read_head(struct span encoded, size_t *at)
{
	size_t n = 0;

	for (++*at; encoded.data[*at] != '\r'; ++*at)
		n = n * 10 + (size_t)(encoded.data[*at] - '0');
	*at += 2;
	return n;
}

static size_t boundary(struct span encoded, size_t offset)
{
	size_t at = 0;

	while (at < offset && at < encoded.len) {
		for (size_t left = read_head(encoded, &at); left > 0; left--) {
			size_t len = read_head(encoded, &at);

			at += len + 2;
		}
	}
	assert(at <= encoded.len);
	return at;
}

#define PUSH(name_, type, n, head_, glob_)                                                         \
	{                                                                                          \
		.format = { .name = name_,                                                         \
			    .encodable = every_message,                                            \
			    .encoded_max = encoded_max,                                            \
			    .encode = encode,                                                      \
			    .enclose = enclose,                                                    \
			    .boundary = boundary },                                                \
		.head = { type n "\r\n" head_, sizeof(type n "\r\n" head_) - 1 }, .glob = glob_    \
	}

const struct wire_format *resp_format(enum resp_version version, enum resp_push push)
{
	static const struct push_format formats[2][RESP_PUSHES] = {
		{ [RESP_MESSAGE] = PUSH("resp", "*", "3", "$7\r\nmessage\r\n", false),
		  [RESP_SMESSAGE] = PUSH("resp", "*", "3", "$8\r\nsmessage\r\n", false),
		  [RESP_PMESSAGE] = PUSH("resp", "*", "4", "$8\r\npmessage\r\n", true) },
		{ [RESP_MESSAGE] = PUSH("resp", ">", "3", "$7\r\nmessage\r\n", false),
		  [RESP_SMESSAGE] = PUSH("resp", ">", "3", "$8\r\nsmessage\r\n", false),
		  [RESP_PMESSAGE] = PUSH("resp", ">", "4", "$8\r\npmessage\r\n", true) },
	};

	return &formats[version == RESP_3][push].format;
}
