#include "session/websocket.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/memory.h"
#include "broker/access.h"
#include "broker/connection.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "session/gather.h"
#include "session/shared.h"
#include "topic/block.h"
#include "topic/interest.h"

enum {
	SLICE_BYTES = 4 << 10, /* of frames, before it may be others' turn */
	FRAME_COST = 1,        /* of one, about a quarter of a microsecond */
};

static struct websockets *shared(const struct shard *s)
{
	return &session_shared(s)->websockets;
}

static struct span topic_of(const struct connection *c)
{
	return subscription_interest(connection_subscription(c))->named.name;
}

/* ---- what reads ---- */

/* What it reads with is the next one's. */
static void release(struct intake *intake)
{
	struct websocket_input *in = (struct websocket_input *)(void *)intake;
	struct websockets *all = shared(intake->connection->shard);
	bool good = intake->connection->state == CONNECTION_OPEN && in->reader != NULL &&
		    websocket_reader_idle(in->reader);

	if (in->message != NULL)
		block_unref(in->message);
	if (good && all->spare == NULL)
		all->spare = in->reader;
	else
		websocket_reader_free(in->reader);
}

/* ---- pings ---- */

/* Whoever does not take the answers is not listened to any more (session/intake.h). */
static void pong(struct connection *c, struct span bytes)
{
	char text[2 + WEBSOCKET_CONTROL_BYTES_MAX];

	(void)connection_reply(c, (struct span){ text, websocket_pong(bytes, text) });
}

static void restart_ping(struct connection *c)
{
	reactor_deadline(&c->shard->reactor, &shared(c->shard)->ping, &c->deadline);
}

static void ping_due(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);
	struct websocket_session *ws = websocket_of(c);

	(void)context;
	if (c->state != CONNECTION_OPEN)
		return;
	/* A publisher that has to wait is not heard. */
	if (ws->pinged && list_empty(&c->waiting)) {
		connection_error(c, REASON_TIMEOUT);
		return;
	}
	restart_ping(c);
	if (ws->pinged)
		return;
	ws->pinged = true;
	if (connection_reply(c, SPAN("\x89\0")))
		connection_flush(c);
}

/* ---- what comes ---- */

static bool may_publish(struct connection *c)
{
	struct websocket_session *ws = websocket_of(c);

	if (!ws->may_publish)
		ws->may_publish = !topic_internal(topic_of(c)) &&
				  access_may(c, ACCESS_PUBLISH, topic_of(c), false);
	if (!ws->may_publish)
		connection_fail(c, WEBSOCKET_NOT_PERMITTED);
	return ws->may_publish;
}

bool websocket_collect(struct connection *c, struct span topic, struct span part)
{
	struct websocket_input *in = websocket_of(c)->input;
	struct block *b = in->message != NULL
				  ? block_reserve(in->message, part.len)
				  : block_new(topic, hash_bytes(topic.data, topic.len), part.len);

	if (b == NULL)
		return false;
	in->message = b;
	if (part.len > 0)
		memcpy(block_body(b) + b->len, part.data, part.len);
	b->len += part.len;
	return true;
}

static void publish_part(struct connection *c, const struct websocket_event *e)
{
	struct websocket_input *in = websocket_of(c)->input;
	struct block *b;

	if (!may_publish(c))
		return;
	if (e->last && in->message == NULL) {
		/* All that it publishes is for its one topic. */
		if (gather_more(c, e->bytes))
			return;
		if (gather_add(c, topic_of(c), &(struct record){ .payload = e->bytes }) != 0)
			connection_error(c, REASON_MEMORY);
		return;
	}
	if (!websocket_collect(c, topic_of(c), e->bytes)) {
		connection_error(c, REASON_MEMORY);
		return;
	}
	if (!e->last)
		return;
	b = in->message;
	in->message = NULL;
	b->messages = 1;
	gather_block(c, b);
}

/* Its client says goodbye: what it has published goes to its home, what is its already it gets, and
 * then it is answered. */
static void take_close(struct connection *c, unsigned code)
{
	struct websocket_session *ws = websocket_of(c);

	gather_flush(c);
	websocket_close_word(code, ws->closing);
	if (c->state == CONNECTION_OPEN)
		connection_goodbye(c);
}

static void handle(struct connection *c, const struct websocket_event *e)
{
	switch (e->kind) {
	case WEBSOCKET_EVENT_PART:
		if (websocket_of(c)->closing[0] == 0)
			websocket_of(c)->use->part(c, e);
		break;
	case WEBSOCKET_EVENT_PING:
		pong(c, e->bytes);
		break;
	case WEBSOCKET_EVENT_CLOSE:
		take_close(c, e->close_code);
		break;
	case WEBSOCKET_EVENT_ERROR:
		connection_fail(c, e->last_word);
		break;
	case WEBSOCKET_EVENT_PONG:
	case WEBSOCKET_EVENT_MORE:
	default:
		break;
	}
}

/* A command has to stand before what is behind it. */
static bool must_wait(const struct connection *c)
{
	return c->asked > 0 || websocket_of(c)->busy;
}

static void read_frames(struct connection *c, struct span *bytes)
{
	struct websocket_reader *reader = websocket_of(c)->input->reader;
	uint64_t max = c->shard->config->limits.message_bytes;
	struct websocket_event e;

	do {
		websocket_decode(reader, bytes, max, &e);
		handle(c, &e);
		reactor_spend(&c->shard->reactor, FRAME_COST);
	} while (e.kind != WEBSOCKET_EVENT_MORE && c->state == CONNECTION_OPEN && !must_wait(c));
}

/* What is no whole frame, its reader keeps, and what it has read ahead when it has to wait. */
static size_t take(struct connection *c, struct span bytes)
{
	size_t n = bytes.len < SLICE_BYTES ? bytes.len : SLICE_BYTES;
	struct span slice = { bytes.data, n };

	if (!must_wait(c))
		read_frames(c, &slice);
	if (c->state == CONNECTION_OPEN && must_wait(c))
		intake_hold(websocket_of(c)->intake);
	return n - slice.len;
}

static bool idle(const struct connection *c)
{
	const struct websocket_input *in = websocket_of(c)->input;

	return in->message == NULL && websocket_reader_idle(in->reader);
}

static const struct intake_use intake_use = { .take = take, .idle = idle, .release = release };

/* False: out of memory, the connection is closed. */
static bool begin_input(struct connection *c)
{
	struct websocket_session *ws = websocket_of(c);
	struct websockets *all = shared(c->shard);

	if (ws->input != NULL && ws->input->reader != NULL)
		return true;
	if (!intake_take(&ws->intake, c, &intake_use))
		return false;
	ws->input->reader = all->spare != NULL ? all->spare : websocket_reader_new();
	all->spare = NULL;
	if (ws->input->reader != NULL)
		return true;
	connection_close(c, DROP_MEMORY);
	return false;
}

void websocket_received(struct connection *c, struct span bytes)
{
	struct websocket_session *ws = websocket_of(c);

	/* Nobody publishes any more. */
	if (c->shard->drain.draining)
		return;
	ws->pinged = false;
	restart_ping(c);
	if (begin_input(c))
		intake_received(ws->intake, bytes);
}

void websocket_ended(struct connection *c)
{
	struct websocket_session *ws = websocket_of(c);

	if (ws->input == NULL)
		connection_goodbye(c);
	else if (must_wait(c))
		ws->intake->ended = true; /* what its reader keeps comes first */
	else
		intake_ended(ws->intake);
}

void websocket_resume(struct connection *c)
{
	struct websocket_session *ws = websocket_of(c);
	/* What its reader has kept comes first. */
	struct span nothing = { "", 0 };

	ws->busy = false;
	if (ws->use != NULL && ws->use->resume != NULL && c->state == CONNECTION_OPEN &&
	    !must_wait(c))
		ws->use->resume(c);
	if (ws->input == NULL)
		return;
	if (!ws->input->intake.running && c->state == CONNECTION_OPEN && !must_wait(c)) {
		gather_begin(c, NULL);
		read_frames(c, &nothing);
		gather_end(c);
	}
	/* What its reader still keeps would be forgotten at the end of everything. */
	if (c->state != CONNECTION_OPEN || !must_wait(c))
		intake_resume(ws->intake);
}

/* What has not been published is not to be any more. */
void websocket_drain(struct connection *c)
{
	struct websocket_session *ws = websocket_of(c);

	intake_give_back(ws->intake);
}

/* ---- words ---- */

static const char *const words[REASONS] = {
	[REASON_TIMEOUT] = WEBSOCKET_TIMEOUT,
	[REASON_SLOW] = WEBSOCKET_SLOW,
	[REASON_CONNECTIONS] = WEBSOCKET_CONNECTIONS,
	[REASON_SUBSCRIPTIONS] = WEBSOCKET_SUBSCRIPTIONS,
	[REASON_TOPICS] = WEBSOCKET_TOPICS,
	[REASON_PATTERNS] = WEBSOCKET_PATTERNS,
	[REASON_MEMORY] = WEBSOCKET_MEMORY,
	[REASON_DRAINING] = WEBSOCKET_DRAINING,
	[REASON_NOT_PERMITTED] = WEBSOCKET_NOT_PERMITTED,
	[REASON_EXPIRED] = WEBSOCKET_EXPIRED,
	[REASON_GAP] = WEBSOCKET_GAP,
	[REASON_UPSTREAM] = WEBSOCKET_UPSTREAM,
	[REASON_TOO_LONG] = WEBSOCKET_MESSAGE_TOO_LONG,
};

const char *websocket_say(struct connection *c, enum reason reason)
{
	(void)c;
	return words[reason];
}

const char *websocket_farewell(const struct connection *c, bool bye)
{
	const struct websocket_session *ws = websocket_of(c);

	(void)bye;
	return ws->closing[0] != 0 ? ws->closing : WEBSOCKET_CLOSED;
}

/* ---- life ---- */

bool websocket_open(struct connection *c, const struct websocket_use *use)
{
	websocket_of(c)->use = use;
	if (connection_refused(c)) {
		connection_finish(c, words[c->refusal]);
		return false;
	}
	restart_ping(c);
	return true;
}

void websocket_begin(struct connection *c)
{
	static const struct websocket_use use = { .part = publish_part };

	(void)websocket_open(c, &use);
}

static bool still_may(struct connection *c)
{
	websocket_of(c)->may_publish = false;
	return true;
}

/* Its pings see to it that silence ends. */
bool websocket_silent(const struct connection *c)
{
	(void)c;
	return false;
}

uint64_t websocket_held(const struct connection *c)
{
	const struct websocket_input *in = websocket_of(c)->input;

	if (in == NULL)
		return 0;
	return intake_held(&in->intake) + (in->message != NULL ? block_bytes(in->message) : 0);
}

void websocket_free(struct connection *c)
{
	intake_give_back(websocket_of(c)->intake);
}

const struct protocol websocket_protocol = {
	.name = "websocket",
	.door = DOOR_WEBSOCKET,
	.received = websocket_received,
	.ended = websocket_ended,
	.say = websocket_say,
	.farewell = websocket_farewell,
	.still_may = still_may,
	.resume = websocket_resume,
	.drain = websocket_drain,
	.silent = websocket_silent,
	.held = websocket_held,
	.free = websocket_free,
};

void websockets_init(struct shard *s)
{
	deadline_class_init(&shared(s)->ping, s->config->ws.ping_seconds * NS_PER_S);
	reactor_watch(&s->reactor, &shared(s)->ping, ping_due, s);
}

void websockets_release(struct shard *s)
{
	websocket_reader_free(shared(s)->spare);
}

void websockets_configure(struct shard *s)
{
	reactor_deadlines_change(&s->reactor, &shared(s)->ping,
				 s->config->ws.ping_seconds * NS_PER_S);
}
