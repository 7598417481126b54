#include "session/websocket_json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/access.h"
#include "broker/connection.h"
#include "broker/shard.h"
#include "protocol/http_field.h"
#include "protocol/line.h"
#include "protocol/websocket_command.h"
#include "session/gather.h"
#include "session/websocket.h"
#include "session/websocket_topics.h"
#include "topic/block.h"
#include "topic/topic.h"

enum { PAYLOAD_BYTES_MAX = 4 << 10 }; /* that is put together where it need not be kept */

/* What of a request's query has not been asked for. */
struct websocket_query {
	struct replay replay;
	struct span rest; /* of the text */
	char text[];
};

/* ---- commands ---- */

/* Reading one of the broker's own topics is for whom the operator lets look. */
static bool may_read(struct connection *c, struct span name, bool pattern)
{
	return topic_internal(name) ? access_may_monitor(c, websocket_of(c)->forwarded)
				    : access_may(c, ACCESS_SUBSCRIBE, name, pattern);
}

static const char *subscribe_to(struct connection *c, struct span name, const struct replay *replay)
{
	bool pattern = !name_valid(name);

	/* It stands, and gets each message once. */
	if (websocket_topics_has(c, name)) {
		websocket_topics_say(c, name);
		return NULL;
	}
	if (!may_read(c, name, pattern))
		return websocket_json_reason(REASON_NOT_PERMITTED);
	return websocket_json_reason(websocket_topics_subscribe(c, name, pattern, replay));
}

static const char *subscribe(struct connection *c, const struct websocket_command *command)
{
	struct replay replay = { .kind = command->last   ? REPLAY_LAST
					 : command->from ? REPLAY_FROM
							 : REPLAY_NONE,
				 .epoch = command->epoch,
				 .n = command->n };

	if (!name_pattern_valid(command->name))
		return LINE_BAD_TOPIC;
	if (replay.kind != REPLAY_NONE && !name_valid(command->name))
		return LINE_MALFORMED;
	return subscribe_to(c, command->name, &replay);
}

static const char *unsubscribe(struct connection *c, const struct websocket_command *command)
{
	if (!name_pattern_valid(command->name))
		return LINE_BAD_TOPIC;
	return websocket_json_reason(websocket_topics_unsubscribe(c, command->name, command->ref));
}

/* The letter that brings a number back, with what is to be said with it. */
struct receipt {
	struct sequenced_letter letter; /* first */
	size_t ref_len;
	char ref[];
};

static const char *publish_with_receipt(struct connection *c, struct block *b, struct span ref)
{
	struct receipt *r = calloc(1, sizeof(*r) + ref.len);

	if (r == NULL) {
		block_unref(b);
		return websocket_json_reason(REASON_MEMORY);
	}
	memcpy(r->ref, ref.data, ref.len);
	r->ref_len = ref.len;
	b->receipt = &r->letter.letter;
	gather_block(c, b);
	return NULL;
}

static void sequenced(struct connection *c, const struct sequenced_letter *l)
{
	const struct receipt *r = (const struct receipt *)(const void *)l;
	struct span ref = { r->ref, r->ref_len };
	char out[WEBSOCKET_ANSWER_MAX];

	/* Nothing is said behind the last word. */
	if (c->state != CONNECTION_OPEN &&
	    (c->state != CONNECTION_FINISHING || c->farewell == NULL))
		return;
	if (l->error != 0)
		websocket_json_error(
			c,
			websocket_json_reason(l->error == -ENOSPC ? REASON_TOPICS : REASON_MEMORY),
			block_name(l->block), ref);
	else
		websocket_json_say(c, out,
				   websocket_answer("published", block_name(l->block), l->epoch,
						    l->seq, ref, out));
	if (c->state != CONNECTION_CLOSED)
		connection_flush(c);
}

/* One that is not put together with others: long, or its number is wanted. */
static const char *publish_alone(struct connection *c, const struct websocket_command *command)
{
	struct span name = command->name;
	struct block *b =
		block_new(name, hash_bytes(name.data, name.len), websocket_payload_max(command));
	ptrdiff_t n;

	if (b == NULL)
		return websocket_json_reason(REASON_MEMORY);
	n = websocket_payload(command, block_body(b));
	if (n < 0) {
		block_unref(b);
		return LINE_MALFORMED;
	}
	b->len = (size_t)n;
	b->messages = 1;
	if (command->ref.len > 0)
		return publish_with_receipt(c, b, command->ref);
	gather_block(c, b);
	return NULL;
}

static const char *publish(struct connection *c, const struct websocket_command *command)
{
	struct record message = { .retain = false };
	char payload[PAYLOAD_BYTES_MAX];
	ptrdiff_t n;

	if (!name_valid(command->name))
		return LINE_BAD_TOPIC;
	if (topic_internal(command->name) || !access_may(c, ACCESS_PUBLISH, command->name, false))
		return websocket_json_reason(REASON_NOT_PERMITTED);
	if (command->ref.len > 0 || websocket_payload_max(command) > sizeof(payload))
		return publish_alone(c, command);
	n = websocket_payload(command, payload);
	if (n < 0)
		return LINE_MALFORMED;
	message.payload = (struct span){ payload, (size_t)n };
	return gather_add(c, command->name, &message) == 0 ? NULL
							   : websocket_json_reason(REASON_MEMORY);
}

static void log_in(struct connection *c, const struct websocket_command *command)
{
	access_login(c, &(struct credentials){ .secret = command->name });
}

static void logged_in(struct connection *c, enum access_result result)
{
	if (result != ACCESS_GRANTED)
		connection_error(c,
				 result == ACCESS_BUSY ? REASON_CONNECTIONS : REASON_NOT_PERMITTED);
}

static void run(struct connection *c, struct span text)
{
	char out[WEBSOCKET_ANSWER_MAX];
	struct websocket_command command;
	const char *wrong =
		websocket_command_read(text, c->shard->config->limits.command_bytes, &command);

	if (access_needed(c) && (wrong != NULL || command.verb != WEBSOCKET_LOG_IN)) {
		connection_error(c, REASON_NOT_PERMITTED);
		return;
	}
	if (wrong == NULL) {
		switch (command.verb) {
		case WEBSOCKET_SUBSCRIBE:
			wrong = subscribe(c, &command);
			break;
		case WEBSOCKET_UNSUBSCRIBE:
			wrong = unsubscribe(c, &command);
			break;
		case WEBSOCKET_PUBLISH:
			wrong = publish(c, &command);
			break;
		case WEBSOCKET_LOG_IN:
			log_in(c, &command);
			break;
		case WEBSOCKET_ASK:
		default:
			websocket_json_say(c, out, websocket_answer_pong(command.ref, out));
			break;
		}
	}
	if (wrong != NULL)
		websocket_json_error(c, wrong, command.name, command.ref);
}

static void part(struct connection *c, const struct websocket_event *e)
{
	struct websocket_input *in = websocket_of(c)->input;
	struct block *b;

	if (!e->text) {
		connection_fail(c, WEBSOCKET_TEXT_ONLY);
		return;
	}
	if (e->last && in->message == NULL) {
		run(c, e->bytes);
		return;
	}
	if (!websocket_collect(c, (struct span){ "", 0 }, e->bytes)) {
		connection_error(c, REASON_MEMORY);
		return;
	}
	if (!e->last)
		return;
	b = in->message;
	in->message = NULL;
	run(c, (struct span){ block_body(b), b->len });
	block_unref(b);
}

/* ---- the request's query ---- */

/* Takes a pair off, its value decoded into `value`. False: there is none left. *wrong: it is
 * malformed. */
static bool next_pair(struct span *query, struct span *key, char value[NAME_BYTES_MAX],
		      struct span *out, bool *wrong)
{
	const char *end, *equals;
	char decoded[3 * NAME_BYTES_MAX];
	ptrdiff_t n;

	if (query->len == 0)
		return false;
	end = memchr(query->data, '&', query->len);
	*key = (struct span){ query->data, end != NULL ? (size_t)(end - query->data) : query->len };
	*query = span_skip(*query, key->len + (end != NULL));
	equals = key->len > 0 ? memchr(key->data, '=', key->len) : NULL;
	*out = (struct span){ value, 0 };
	if (equals == NULL)
		return true;
	*out = span_skip(*key, (size_t)(equals - key->data) + 1);
	key->len = (size_t)(equals - key->data);
	n = out->len <= sizeof(decoded) ? http_unescape(*out, true, decoded) : -1;
	*wrong |= n < 0 || n > NAME_BYTES_MAX;
	if (*wrong)
		return true;
	memcpy(value, decoded, (size_t)n);
	*out = (struct span){ value, (size_t)n };
	return true;
}

/* What of the past all topics of the query are wanted with. */
static bool query_replay(struct span query, struct replay *replay)
{
	struct span last = http_query(query, SPAN("last"));

	*replay = (struct replay){ .kind = last.data != NULL ? REPLAY_LAST : REPLAY_NONE };
	return last.data == NULL || http_number(last, &replay->n);
}

const char *websocket_json_query(struct span query)
{
	char name[NAME_BYTES_MAX];
	struct replay replay;
	struct span key, value;
	bool wrong = false;

	if (!query_replay(query, &replay))
		return "malformed last";
	while (next_pair(&query, &key, name, &value, &wrong))
		if (span_equal(key, SPAN("topic")) && (wrong || !name_pattern_valid(value)))
			return LINE_BAD_TOPIC;
	return NULL;
}

/* Asks for topics of the query. What overlaps is asked for when that before it stands: of what it
 * leaves out nothing is missing then. */
static void go_on_with_query(struct connection *c)
{
	struct websocket_session *ws = websocket_of(c);
	struct websocket_query *q = ws->query;
	char name[NAME_BYTES_MAX];
	static const struct replay nothing = { .kind = REPLAY_NONE };
	struct span rest, key, value;
	const char *problem;
	bool wrong = false;

	if (q == NULL)
		return;
	while (c->state == CONNECTION_OPEN && !ws->busy) {
		rest = q->rest;
		if (!next_pair(&rest, &key, name, &value, &wrong)) {
			ws->query = NULL;
			memory_free(q);
			return;
		}
		if (span_equal(key, SPAN("topic")) && !websocket_topics_has(c, value)) {
			bool pattern = !name_valid(value);

			if (c->asked > 0 && (pattern || websocket_topics_wild(c)))
				return;
			problem = subscribe_to(c, value, pattern ? &nothing : &q->replay);
			if (problem != NULL)
				websocket_json_error(c, problem, value, (struct span){ NULL, 0 });
		}
		q->rest = rest;
	}
}

static void resume(struct connection *c)
{
	websocket_topics_settle(c);
	go_on_with_query(c);
	if (c->state == CONNECTION_OPEN && !c->socket.sending && c->output != NULL)
		connection_turn(c);
}

void websocket_json_begin(struct connection *c, struct span query)
{
	static const struct websocket_use use = { .part = part, .resume = resume };
	struct websocket_session *ws = websocket_of(c);
	struct websocket_query *q = memory_new_zeroed(sizeof(*q) + query.len);

	ws->topics = websocket_topics_new();
	ws->query = q;
	if (ws->topics == NULL || q == NULL) {
		connection_error(c, REASON_MEMORY);
		return;
	}
	if (query.len > 0)
		memcpy(q->text, query.data, query.len);
	q->rest = (struct span){ q->text, query.len };
	if (websocket_open(c, &use) && query_replay(query, &q->replay))
		go_on_with_query(c);
}

static void json_free(struct connection *c)
{
	websocket_free(c);
	memory_free(websocket_of(c)->query);
	websocket_topics_free(websocket_of(c)->topics);
}

const struct protocol websocket_json_protocol = {
	.name = "websocket-json",
	.door = DOOR_WEBSOCKET,
	.received = websocket_received,
	.ended = websocket_ended,
	.subscribed = websocket_topics_subscribed,
	.refused = websocket_topics_refused,
	.enough = websocket_topics_enough,
	.missed = websocket_topics_missed,
	.interject = websocket_topics_interject,
	.sequenced = sequenced,
	.say = websocket_say,
	.farewell = websocket_farewell,
	.logged_in = logged_in,
	.resume = websocket_resume,
	.drain = websocket_drain,
	.silent = websocket_silent,
	.held = websocket_held,
	.free = json_free,
};
