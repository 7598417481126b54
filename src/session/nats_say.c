#include "session/nats.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "broker/shard.h"
#include "session/gather.h"

/* "-ERR '...'" in a frame, and a frame that closes. */
enum { LAST_WORD_BYTES = 96 };

#define ERROR(text) "-ERR '" text "'\r\n"

/* All that is ever said last, each with the code that WebSocket closes with. */
static const struct last_word {
	const char *text, *error;
	unsigned code;
} last_words[] = {
	{ NATS_UNKNOWN, ERROR(NATS_UNKNOWN), 1002 },
	{ NATS_LINE_TOO_LONG, ERROR(NATS_LINE_TOO_LONG), 1009 },
	{ NATS_TOO_LARGE, ERROR(NATS_TOO_LARGE), 1009 },
	{ NATS_WRONG_PROTOCOL, ERROR(NATS_WRONG_PROTOCOL), 1002 },
	{ NATS_NO_RESPONDERS, ERROR(NATS_NO_RESPONDERS), 1002 },
	{ NATS_NO_HEADERS, ERROR(NATS_NO_HEADERS), 1002 },
	{ NATS_UNAUTHORIZED, ERROR(NATS_UNAUTHORIZED), 1008 },
	{ NATS_EXPIRED, ERROR(NATS_EXPIRED), 1008 },
	{ NATS_TIMEOUT, ERROR(NATS_TIMEOUT), 1008 },
	{ NATS_STALE, ERROR(NATS_STALE), 1008 },
	{ NATS_NOT_SECURE, ERROR(NATS_NOT_SECURE), 1008 },
	{ NATS_FULL, ERROR(NATS_FULL), 1013 },
	{ NULL, "", 1001 },
};
enum { LAST_WORDS = sizeof(last_words) / sizeof(*last_words) };

/* The same in frames: they begin with their length, and hold no NUL. */
static char framed_words[LAST_WORDS][LAST_WORD_BYTES];

void nats_words_init(void)
{
	for (size_t i = 0; i < LAST_WORDS; i++) {
		const struct last_word *w = &last_words[i];
		size_t len = strlen(w->error);
		char *at = framed_words[i];

		assert(len + 16 < LAST_WORD_BYTES);
		if (len > 0)
			at += nats_websocket_head(len, at);
		memcpy(at, w->error, len);
		at += len;
		*at++ = (char)0x88;
		*at++ = 2;
		*at++ = (char)(w->code >> 8);
		*at++ = (char)(w->code & 0xff);
		*at = 0;
	}
}

/* text: one of the above; NULL: an end without any. */
const char *nats_last_word(const struct connection *c, const char *text)
{
	bool framed = nats_of(c) != NULL && nats_of(c)->framed;

	for (size_t i = 0; i < LAST_WORDS; i++) {
		if (last_words[i].text != text && (text == NULL || last_words[i].text == NULL ||
						   strcmp(last_words[i].text, text) != 0))
			continue;
		if (framed)
			return framed_words[i];
		return text != NULL ? last_words[i].error : NULL;
	}
	abort();
}

static void say_parts(struct connection *c, const struct span *parts, size_t n)
{
	char head[NATS_WEBSOCKET_HEAD_MAX];
	size_t bytes = 0, head_len;

	for (size_t i = 0; i < n; i++)
		bytes += parts[i].len;
	head_len = nats_websocket_head(bytes, head);
	if (nats_of(c)->framed && !connection_reply(c, (struct span){ head, head_len }))
		return;
	for (size_t i = 0; i < n; i++)
		if (!connection_reply(c, parts[i]))
			return;
	connection_turn(c);
}

void nats_say(struct connection *c, struct span text)
{
	say_parts(c, &text, 1);
}

void nats_say_error(struct connection *c, const char *before, struct span subject,
		    const char *after)
{
	const struct span parts[] = { SPAN("-ERR '"), span_of(before), subject, span_of(after),
				      SPAN("'\r\n") };

	c->shard->counters.errors++;
	say_parts(c, parts, sizeof(parts) / sizeof(*parts));
}

void nats_fail(struct connection *c, const char *text)
{
	struct nats_session *nats = nats_of(c);

	gather_flush(c);
	if (!nats_owes(nats)) {
		connection_fail(c, nats_last_word(c, text));
		return;
	}
	nats->work->failed = text;
	intake_hold(nats->intake);
	if (!connection_barred(c))
		nats_barrier(c);
}

void nats_ok(struct connection *c)
{
	if (nats_of(c)->verbose)
		nats_say(c, SPAN("+OK\r\n"));
}

void nats_barrier(struct connection *c)
{
	struct nats_session *nats = nats_of(c);

	nats->work->barred = nats->work->pings;
	nats->work->awaited = nats->work->published;
	nats->work->published = (struct nats_sent){ .topics = 0 };
	connection_barrier(c);
}
