#include "session/line.h"
#include "session/words.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "broker/budget.h"
#include "broker/connection.h"
#include "broker/home.h"
#include "broker/subscription.h"
#include "broker/shard.h"
#include "topic/block.h"

enum {
	IN_PLACE_BYTES = 4 << 10,       /* published as one: the next are received in place */
	REST_BYTES = 2 << 10,           /* copied, rather than hold the block that they are in */
	LARGE_BYTES = 64 << 10,         /* received in place at a time, unless more is expected */
	TOGETHER_BYTES_MAX = 256 << 10, /* received before it is looked at, while more is there */
	EVENT_COST = 1,                 /* of a command, or what comes together */
	COST_MESSAGES = 16,             /* written anew in about a quarter of a microsecond */
};

#define LINE_ERROR_TEXT(reason) "ERROR " reason "\r\n"
#define PONGS_4 "PONG\r\nPONG\r\nPONG\r\nPONG\r\n"

enum { PONGS_AT_ONCE = 16 };

_Static_assert(sizeof(struct line_session) <= SESSION_BYTES, "it lies in the connection");

/* ---- words ---- */

#define LINE_ERROR_WORDS(reason, words) [reason] = LINE_ERROR_TEXT(words),

static const char *const errors[REASONS] = { REASON_WORDS(LINE_ERROR_WORDS) };

const char *line_session_say(struct connection *c, enum reason reason)
{
	(void)c;
	return errors[reason];
}

const char *line_session_farewell(const struct connection *c, bool bye)
{
	(void)c;
	return bye ? "BYE\r\n" : NULL;
}

void line_session_subscribed(struct connection *c, struct subscription *sub,
			     const struct subscribe_letter *l)
{
	char gap[64];

	(void)sub;
	if (!connection_reply(c, SPAN("OK\r\n")) || l == NULL || l->gap == 0)
		return;
	snprintf(gap, sizeof(gap), "GAP %016" PRIx64 ":%" PRIu64 "\r\n", l->epoch, l->gap);
	(void)connection_reply(c, span_of(gap));
}

/* However many are asked for by somebody who does not read, they are but a number. */
static void pong(struct connection *c)
{
	struct line_session *line = line_of(c);

	if (line->pongs < UINT32_MAX)
		line->pongs++;
	connection_interject(c);
}

void line_session_interject(struct connection *c)
{
	static const char text[] = PONGS_4 PONGS_4 PONGS_4 PONGS_4;
	struct line_session *line = line_of(c);
	uint32_t n = line->pongs < PONGS_AT_ONCE ? line->pongs : PONGS_AT_ONCE;

	line->pongs -= n;
	c->interjects = line->pongs > 0;
	(void)connection_reply(c, (struct span){ text, n * (sizeof(text) - 1) / PONGS_AT_ONCE });
}

/* ---- publishing ---- */

static void publisher_free(struct publisher *p)
{
	if (p->carry != NULL)
		block_unref(p->carry);
	free(p->leave);
	memory_free(p);
}

void publisher_end(struct connection *c, bool receipt)
{
	struct publisher *p = line_publisher(c);
	struct shard *s = c->shard;
	struct topic_letter *l;

	if (p == NULL)
		return;
	line_of(c)->publisher = NULL;
	list_remove(&c->waiting);
	if (c->socket.into != NULL && line_of(c)->receiving_into == NULL) {
		line_of(c)->receiving_into = p->carry;
		p->carry = NULL;
	}
	l = p->leave;
	p->leave = NULL;
	l->shard = s->id;
	l->receipt = receipt;
	l->slot = c->socket.slot;
	l->generation = socket_generation(&s->sockets, &c->socket);
	c->awaiting = receipt;
	shard_post(s, p->home, LANE_GATED, &l->letter);
	publisher_free(p);
}

void publisher_refused(struct shard *s, struct topic_letter *l)
{
	struct socket *socket = socket_at(&s->sockets, l->slot, l->generation);
	struct connection *c = socket != NULL ? connection_of(socket) : NULL;

	/* One that is ending and waits for no receipt has been told something else; one that did
	 * wait for it has been told this when another block of its was refused. */
	if (c != NULL && (c->state == CONNECTION_OPEN || (c->awaiting && !c->hasty)))
		connection_no_topic(c, l->error);
	free(l);
}

/* Adds bytes to the block under construction. NULL: out of memory, the connection has been told. */
static struct block *add(struct connection *c, struct span bytes)
{
	struct publisher *p = line_publisher(c);
	struct block *b = p->carry != NULL ? block_reserve(p->carry, bytes.len)
					   : block_new(p->name, p->hash, bytes.len);

	if (b == NULL) {
		connection_error(c, REASON_MEMORY);
		return NULL;
	}
	p->carry = b;
	/* It may have been received where it belongs. */
	if (bytes.data != block_body(b) + b->len)
		memcpy(block_body(b) + b->len, bytes.data, bytes.len);
	b->len += bytes.len;
	return b;
}

/* Messages that are not all in the form in which they are sent, in one block: as lines or, where
 * one of them holds a CR, as records. NULL: out of memory. */
static struct block *block_of_uneven(const struct publisher *p, struct span raw,
				     const struct line_event *e)
{
	/* An end of line of one byte at least gives way to one of two, or to a head. */
	size_t more = e->inner_cr ? RECORD_HEAD_BYTES - 1 : 1;
	struct block *b = block_new(p->name, p->hash, raw.len + e->messages * more);
	char *at;

	if (b == NULL)
		return NULL;
	at = block_body(b);
	while (raw.len > 0) {
		const char *lf = memchr(raw.data, '\n', raw.len);
		struct span line = { raw.data, (size_t)(lf - raw.data) };

		raw = span_skip(raw, line.len + 1);
		if (line.len > 0 && line.data[line.len - 1] == '\r')
			line.len--;
		if (e->inner_cr) {
			at = record_put(at, line);
			continue;
		}
		memcpy(at, line.data, line.len);
		memcpy(at + line.len, "\r\n", 2);
		at += line.len + 2;
	}
	b->form = e->inner_cr ? RUN_RECORDS : RUN_LINES;
	b->messages = e->messages;
	b->len = (size_t)(at - block_body(b));
	assert(b->len <= b->capacity);
	return b;
}

static void publish(struct connection *c, const struct publisher *p, struct block *b)
{
	b->shard = c->shard->id;
	b->slot = p->slot;
	b->generation = p->generation;
	connection_publish(c, block_trim(b));
}

static void publish_uneven(struct connection *c, struct span raw, const struct line_event *e)
{
	struct block *b = block_of_uneven(line_publisher(c), raw, e);

	reactor_spend(&c->shard->reactor, e->messages / COST_MESSAGES);
	if (b != NULL)
		publish(c, line_publisher(c), b);
	else
		connection_error(c, REASON_MEMORY);
}

static void publish_messages(struct connection *c, const struct line_event *e)
{
	struct publisher *p = line_publisher(c);
	struct block *b;

	if (!e->canonical && p->carry == NULL) {
		publish_uneven(c, e->bytes, e);
		return;
	}
	b = add(c, e->bytes);
	if (b == NULL)
		return;
	p->carry = NULL;
	if (!e->canonical) {
		publish_uneven(c, (struct span){ block_body(b), b->len }, e);
		block_unref(b);
		return;
	}
	b->messages = e->messages;
	b->form = RUN_LINES;
	p->together -= p->together / 8;
	if (p->together < b->len)
		p->together = b->len;
	publish(c, p, b);
}

static void begin_publishing(struct connection *c, struct span topic)
{
	struct publisher *p = memory_new_zeroed(sizeof(*p) + topic.len);
	struct topic_letter *l;

	if (p == NULL) {
		connection_error(c, REASON_MEMORY);
		return;
	}
	memcpy(p->bytes, topic.data, topic.len);
	p->name = (struct span){ p->bytes, topic.len };
	p->hash = topic_hash(topic);
	p->home = shard_home(c->shard, p->hash);
	l = topic_letter_new(LETTER_JOIN, topic, p->hash);
	p->leave = topic_letter_new(LETTER_LEAVE, topic, p->hash);
	if (l == NULL || p->leave == NULL) {
		free(l);
		publisher_free(p);
		connection_error(c, REASON_MEMORY);
		return;
	}
	l->shard = c->shard->id;
	p->slot = l->slot = c->socket.slot;
	p->generation = l->generation = socket_generation(&c->shard->sockets, &c->socket);
	l->leave = p->leave;
	line_of(c)->publisher = p;
	shard_post(c->shard, p->home, LANE_GATED, &l->letter);
	/* A home that is here has refused it by now. */
	if (c->state != CONNECTION_OPEN)
		return;
	if (connection_reply(c, SPAN("OK\r\n")))
		connection_flush(c);
}

static void begin_subscription(struct connection *c, const struct line_event *e)
{
	static const enum replay_kind kinds[] = { [LINE_REPLAY_NONE] = REPLAY_NONE,
						  [LINE_REPLAY_FROM] = REPLAY_FROM,
						  [LINE_REPLAY_LAST] = REPLAY_LAST };
	const struct subscription_wanted wanted = {
		.name = e->topic,
		.pattern = e->pattern ? PATTERN_NATIVE : PATTERN_NONE,
		.wire.format = e->pattern ? &line_topic_format : &line_format,
		.replay = { .kind = kinds[e->replay], .epoch = e->epoch, .n = e->n },
	};
	struct subscription *sub;
	int err;

	/* What a subscriber says is little and is never made to wait. */
	c->socket.multishot = true;
	err = subscription_new(c, &wanted, &sub);
	if (err != 0)
		connection_no_subscription(c, err);
}

static bool permitted(struct connection *c, const struct line_event *e)
{
	enum access_action action = e->kind == LINE_PUBLISH ? ACCESS_PUBLISH : ACCESS_SUBSCRIBE;

	if (access_may(c, action, e->topic, e->pattern))
		return true;
	connection_error(c, REASON_NOT_PERMITTED);
	return false;
}

/* What comes behind it waits until it is decided. */
static void log_in(struct connection *c, const struct line_event *e)
{
	const struct credentials shown = { .user = e->user, .secret = e->secret };

	line_of(c)->logging_in = true;
	access_login(c, &shown);
	if (!line_of(c)->logging_in || c->state != CONNECTION_OPEN)
		return;
	deadline_stop(&c->deadline);
	socket_pause(&c->shard->sockets, &c->socket);
}

static void handle(struct connection *c, const struct line_event *e)
{
	switch (e->kind) {
	case LINE_PUBLISH:
		/* From now on silence is allowed. */
		connection_limit_silence(c);
		if (permitted(c, e))
			begin_publishing(c, e->topic);
		break;
	case LINE_SUBSCRIBE:
		/* From now on silence is allowed. */
		connection_limit_silence(c);
		if (permitted(c, e))
			begin_subscription(c, e);
		break;
	case LINE_MESSAGES:
		publish_messages(c, e);
		break;
	case LINE_PART:
		add(c, e->bytes);
		break;
	case LINE_PING:
		pong(c);
		break;
	case LINE_BYE:
		connection_goodbye(c);
		break;
	case LINE_AUTH:
		log_in(c, e);
		break;
	case LINE_ERROR:
		connection_fail(c, strcmp(e->error, LINE_BAD_TOPIC) == 0
					   ? LINE_ERROR_TEXT(LINE_BAD_TOPIC)
				   : strcmp(e->error, LINE_TOO_LONG) == 0
					   ? LINE_ERROR_TEXT(LINE_TOO_LONG)
					   : LINE_ERROR_TEXT(LINE_MALFORMED));
		break;
	case LINE_MORE:
	default:
		break;
	}
}

/* Keeps the beginning of a command until its end comes. */
static void keep(struct connection *c, struct span bytes)
{
	c->input = memory_new(bytes.len);
	if (c->input == NULL) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	memcpy(c->input, bytes.data, bytes.len);
	c->input_len = (uint32_t)bytes.len;
}

/* Handles what is whole in bytes; returns the rest, the beginning of a command. in: a hold on the
 * block that the bytes are in, which is let go; or NULL. */
static struct span take(struct connection *c, struct span bytes, struct block *in)
{
	const struct config_limits *config = &c->shard->config->limits;
	const struct line_limits limits = { .command_bytes = config->command_bytes,
					    .message_bytes = config->message_bytes };
	struct line_event e;
	char little[REST_BYTES];
	size_t used;

	while (bytes.len > 0 && c->state == CONNECTION_OPEN && !line_of(c)->logging_in) {
		line_decode(&line_of(c)->decoder, bytes, &limits, &e, &used);
		if (e.kind == LINE_MORE)
			break;
		bytes = span_skip(bytes, used);
		/* With little behind what becomes of it, the block need not stay, and is trimmed.
		 */
		if (in != NULL && bytes.len <= sizeof(little) && line_publisher(c)->carry == in) {
			memcpy(little, bytes.data, bytes.len);
			bytes.data = little;
			block_unref(in);
			in = NULL;
		}
		handle(c, &e);
		reactor_spend(&c->shard->reactor, EVENT_COST);
	}
	if (in != NULL)
		block_unref(in);
	return bytes;
}

/* How much may come next: the rest of what usually comes together, so that it need not be moved as
 * it grows; of a large message the whole only when some of it is there. */
static size_t expected(const struct publisher *p)
{
	size_t have = p->unread + (p->carry != NULL ? p->carry->len : 0);
	size_t usual = p->together < IN_PLACE_BYTES ? LARGE_BYTES : p->together;

	if (usual > TOGETHER_BYTES_MAX && have < LARGE_BYTES)
		usual = TOGETHER_BYTES_MAX;
	return have < usual ? usual - have : LARGE_BYTES;
}

/* Room for len more bytes, or what is expected if that is more, behind those that wait to be looked
 * at. NULL: out of memory. */
static char *room_for_unread(struct publisher *p, size_t len)
{
	struct block *b;

	if (len < expected(p))
		len = expected(p);
	b = p->carry != NULL ? block_reserve(p->carry, p->unread + len)
			     : block_new(p->name, p->hash, len);
	if (b == NULL)
		return NULL;
	p->carry = b;
	return block_body(b) + b->len + p->unread;
}

/* The next receive goes straight into the block that it becomes: no more of it than is looked at
 * together, for however large the message is whose rest is expected, it may be many small ones. */
static bool receive_in_place(struct connection *c)
{
	struct publisher *p = line_publisher(c);
	char *room = room_for_unread(p, 0);
	size_t max = TOGETHER_BYTES_MAX - p->unread, left;

	if (room == NULL)
		return false;
	left = p->carry->capacity - p->carry->len - p->unread;
	socket_receive_into(&c->shard->sockets, &c->socket, room, left < max ? left : max);
	return true;
}

/* Looks at what waits behind the carry; the block stays until all of it has been looked at. */
static void take_unread(struct connection *c)
{
	struct publisher *p = line_publisher(c);
	struct block *b = p->carry;
	struct span bytes = { block_body(b) + b->len, p->unread };

	p->unread = 0;
	block_ref(b, 1);
	take(c, bytes, b);
}

/* Whether the bytes are behind the carry and what waits there: received there, or put there because
 * the kernel has more, which will come there. */
static bool keep_in_place(struct connection *c, struct span bytes)
{
	struct publisher *p = line_publisher(c);
	char *room;

	if (p->carry != NULL && bytes.data == block_body(p->carry) + p->carry->len + p->unread) {
		p->unread += bytes.len;
		return true;
	}
	if (p->unread == 0 && !c->socket.nonempty)
		return false;
	room = room_for_unread(p, bytes.len);
	if (room == NULL)
		return false;
	memcpy(room, bytes.data, bytes.len);
	p->unread += bytes.len;
	return true;
}

/* Where much has come the next receive is in place: it may be much again, or the rest of a large
 * message. */
static void receive_next(struct connection *c, size_t received)
{
	const struct publisher *p = line_publisher(c);
	size_t much = c->shard->config->engine.recv_buffer_bytes;

	if (p == NULL || c->state != CONNECTION_OPEN || c->socket.paused)
		return;
	if (p->together >= IN_PLACE_BYTES)
		much = IN_PLACE_BYTES;
	if (received >= much || (p->carry != NULL && p->carry->len >= LARGE_BYTES))
		(void)receive_in_place(c);
}

/*
 * Messages that have come together go out together: as long as the kernel has more, and there is
 * memory for more, that is fetched first.
 */
static void received_in_place(struct connection *c)
{
	struct publisher *p = line_publisher(c);
	size_t received = p->unread;

	if (c->socket.nonempty && received < TOGETHER_BYTES_MAX && !c->socket.paused &&
	    budget_now(c->shard->broker) < BUDGET_EVICTION && receive_in_place(c))
		return;
	take_unread(c);
	receive_next(c, received);
}

void line_session_ended(struct connection *c)
{
	struct publisher *p = line_publisher(c);

	if (p == NULL || p->unread == 0)
		return;
	if (c->socket.into != NULL) {
		/* The kernel may still write behind it. */
		assert(line_of(c)->receiving_into == NULL);
		block_ref(p->carry, 1);
		line_of(c)->receiving_into = p->carry;
	}
	take_unread(c);
}

void line_session_received(struct connection *c, struct span bytes)
{
	char *joined = NULL;
	size_t received;

	if (line_publisher(c) != NULL && keep_in_place(c, bytes)) {
		received_in_place(c);
		return;
	}
	/* Without memory to put the two together. */
	line_session_ended(c);
	if (c->state != CONNECTION_OPEN)
		return;
	if (c->input_len > 0) {
		/* The beginning of a command came before: put both together. */
		joined = malloc(c->input_len + bytes.len);
		if (joined == NULL) {
			connection_close(c, DROP_MEMORY);
			return;
		}
		memcpy(joined, c->input, c->input_len);
		memcpy(joined + c->input_len, bytes.data, bytes.len);
		bytes = (struct span){ joined, c->input_len + bytes.len };
		memory_free(c->input);
		c->input = NULL;
		c->input_len = 0;
	}
	received = bytes.len;
	bytes = take(c, bytes, NULL);
	if (c->state == CONNECTION_OPEN && bytes.len > 0)
		keep(c, bytes);
	free(joined);
	receive_next(c, received);
}

void line_session_goodbye(struct connection *c)
{
	if (line_of(c)->logging_in)
		line_of(c)->ended = true;
	else
		connection_goodbye(c);
}

void line_session_logged_in(struct connection *c, enum access_result result)
{
	bool later = c->socket.paused;

	line_of(c)->logging_in = false;
	if (result == ACCESS_BUSY)
		connection_fail(c, LINE_ERROR_TEXT("busy"));
	else if (result == ACCESS_WRONG)
		connection_error(c, REASON_NOT_PERMITTED);
	else if (connection_reply(c, SPAN("OK\r\n")))
		connection_flush(c);
	if (!later || c->state != CONNECTION_OPEN)
		return;
	reactor_deadline(&c->shard->reactor, &c->shard->clients.handshake, &c->deadline);
	socket_receive(&c->shard->sockets, &c->socket);
	/* What has waited. */
	line_session_received(c, SPAN(""));
	if (line_of(c)->ended && !line_of(c)->logging_in && c->state == CONNECTION_OPEN)
		connection_goodbye(c);
}

bool line_session_still_may(struct connection *c)
{
	const struct publisher *p = line_publisher(c);

	return p == NULL || access_may(c, ACCESS_PUBLISH, p->name, false);
}

bool line_session_silent(const struct connection *c)
{
	return line_publisher(c) != NULL || c->subscriptions_n > 0;
}

uint64_t line_session_held(const struct connection *c)
{
	const struct publisher *p = line_publisher(c);

	return p != NULL && p->carry != NULL ? block_bytes(p->carry) : 0;
}

void line_session_free(struct connection *c)
{
	if (line_of(c)->receiving_into != NULL)
		block_unref(line_of(c)->receiving_into);
}
