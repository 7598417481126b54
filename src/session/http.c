#include "session/http.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "broker/connection.h"
#include "broker/home.h"
#include "session/http_answer.h"
#include "session/http_login.h"
#include "session/routes.h"
#include "session/shared.h"
#include "broker/shard.h"
#include "protocol/http.h"
#include "topic/block.h"

enum {
	EVENTS_AT_ONCE = 32, /* heads, and pieces and ends of bodies, before it is others' turn */
	EVENT_COST = 12,     /* of one, about 3 us */
	URI_BYTES_MAX = 8 << 10,
	INPUT_BYTES_MAX = 64 << 10,  /* pipelined and waiting: then nothing more is received */
	REPLY_BYTES_MAX = 256 << 10, /* answers that the client does not take: then no more
					requests are looked at */
	BODY_ROOM_BYTES = 64 << 10,  /* for what comes next of a body, or as much as has come */
};

static bool begin(struct connection *c)
{
	struct http_session *http = memory_new_zeroed(sizeof(*http));
	struct http_reading *reading = memory_new_zeroed(sizeof(*reading));
	struct http_decoder *decoder = http_decoder_new();

	if (http == NULL || reading == NULL || decoder == NULL) {
		memory_free(http);
		memory_free(reading);
		http_decoder_free(decoder);
		connection_close(c, DROP_MEMORY);
		return false;
	}
	reading->decoder = decoder;
	reading->connection = c;
	list_init(&reading->runnable);
	http->reading = reading;
	http_set(c, http);
	return true;
}

static void handle_body(struct connection *c, struct span bytes)
{
	struct http_session *http = http_of(c);
	struct block *b = block_reserve(http->receiving, bytes.len);

	if (b == NULL) {
		connection_error(c, REASON_MEMORY);
		return;
	}
	/* It may have been received where it belongs. */
	if (bytes.data != block_body(b) + b->len)
		memcpy(block_body(b) + b->len, bytes.data, bytes.len);
	b->len += bytes.len;
	http->receiving = b;
}

/*
 * While more of a body of known length is to come than a receive buffer holds, it is received
 * straight into its message. Room is made for as much again as has come: a length that is only
 * announced costs nothing.
 */
static void receive_in_place(struct connection *c)
{
	struct http_session *http = http_of(c);
	struct block *b = http->receiving;
	size_t left, room;

	if (http->state != HTTP_RECEIVING || b == NULL || http->ended || c->input_len > 0 ||
	    c->socket.paused || c->socket.recv_armed || c->socket.into != NULL ||
	    http->reading->receiving_bytes < b->len)
		return;
	left = (size_t)http->reading->receiving_bytes - b->len;
	if (left < c->shard->config->engine.recv_buffer_bytes)
		return;
	room = b->len > BODY_ROOM_BYTES ? b->len : BODY_ROOM_BYTES;
	b = block_reserve(b, room < left ? room : left);
	if (b == NULL)
		return;
	http->receiving = b;
	room = b->capacity - b->len;
	socket_receive_into(&c->shard->sockets, &c->socket, block_body(b) + b->len,
			    room < left ? room : left);
}

/* The whole body is there: a message goes on to its home, which will say its number. */
static void finish_body(struct connection *c)
{
	struct http_session *http = http_of(c);
	struct block *b = http->receiving;
	struct shard *s = c->shard;
	struct sequenced_letter *receipt;

	http->receiving = NULL;
	/* The request is whole: its time is not the next one's. */
	http->timing = false;
	deadline_stop(&c->deadline);
	if (http->reading->whole != NULL) {
		/* Nothing of the body is left to come. */
		http->state = HTTP_READING;
		http->reading->whole(c, b);
		return;
	}
	receipt = calloc(1, sizeof(*receipt));
	if (receipt == NULL) {
		block_unref(b);
		http_error(c, 503, "out of memory");
		return;
	}
	http->publishing = true;
	b->messages = 1;
	b->receipt = &receipt->letter;
	b->shard = s->id;
	b->slot = c->socket.slot;
	b->generation = socket_generation(&s->sockets, &c->socket);
	(void)http_wait(c);
	connection_publish(c, block_trim(b));
}

static void handle_head(struct connection *c, const struct http_request *r)
{
	struct http_session *http = http_of(c);

	http->head_only = r->verb == HTTP_VERB_HEAD;
	http->http_1_0 = r->http_1_0;
	http->close = !r->keep_alive || c->shard->drain.draining || connection_refused(c);
	http->events = false;
	http->chunked = false;
	http->timing = false;
	http->reading->receiving_bytes = r->content_length;
	http->reading->whole = NULL;
	http->state = HTTP_READING;
	if (r->has_body && r->verb & (HTTP_VERB_POST | HTTP_VERB_PUT))
		http->state = HTTP_RECEIVING;
	else if (r->has_body)
		/* Nobody wants it: the connection ends rather than be read for nothing. */
		http->close = true;
	deadline_stop(&c->deadline);
	routes_dispatch(c, r);
	if (http->state == HTTP_RECEIVING && r->expect_continue && c->state == CONNECTION_OPEN) {
		if (connection_reply(c, SPAN("HTTP/1.1 100 Continue\r\n\r\n")))
			connection_flush(c);
	}
	/* A message without a byte is one too. */
	if (http->receiving != NULL && !r->has_body && c->state == CONNECTION_OPEN)
		finish_body(c);
}

static void handle(struct connection *c, const struct http_event *e)
{
	struct http_session *http = http_of(c);

	switch (e->kind) {
	case HTTP_EVENT_HEAD:
		handle_head(c, &e->request);
		break;
	case HTTP_EVENT_BODY:
		handle_body(c, e->bytes);
		break;
	case HTTP_EVENT_END:
		finish_body(c);
		break;
	case HTTP_EVENT_ERROR:
		c->shard->counters.errors++;
		http->close = true;
		http->head_only = false;
		http->state = HTTP_READING;
		http_error(c, e->status, e->reason);
		break;
	case HTTP_EVENT_MORE:
	default:
		break;
	}
}

/* Whether the next request may be looked at. */
static bool ready(const struct connection *c)
{
	const struct http_session *http = http_of(c);

	return c->state == CONNECTION_OPEN && http->state <= HTTP_RECEIVING &&
	       output_body_left(c->output) == 0 && output_unsaid(c->output) < REPLY_BYTES_MAX &&
	       list_empty(&c->waiting);
}

/* Sees to it that silence has an end where it should, and to how much may come. */
static void settle(struct connection *c)
{
	struct http_session *http = http_of(c);
	struct shard *s = c->shard;
	size_t kept = c->input_len - http->reading->input_at;
	bool waits = !list_empty(&http->reading->runnable);

	/* A head that is not whole is as long as it may be: the decoder sees to that. */
	if (kept > INPUT_BYTES_MAX && (waits || !ready(c)))
		socket_pause(&s->sockets, &c->socket);
	else if (c->socket.paused && list_empty(&c->waiting))
		socket_receive(&s->sockets, &c->socket);
	/* It waits for us, and not we for it. */
	if (waits)
		return;
	if (http->state == HTTP_RECEIVING) {
		http->timing = true;
		reactor_deadline(&s->reactor, &s->clients.handshake, &c->deadline);
	} else if (ready(c)) {
		if (kept > 0 && !http->timing) {
			http->timing = true;
			/* The first request's time has been running since the connection. */
			if (http->answered_any)
				reactor_deadline(&s->reactor, &s->clients.handshake, &c->deadline);
		} else if (kept == 0 && clients_limit_idle(&s->clients) && http->answered_any) {
			reactor_deadline(&s->reactor, &s->clients.idle, &c->deadline);
		}
	}
}

/* Keeps what was not taken: bytes lie in own, or own is NULL. */
static void keep(struct connection *c, struct span bytes, char *own)
{
	struct http_session *http = http_of(c);

	if (bytes.len == 0 || c->state != CONNECTION_OPEN || http->state == HTTP_STREAMING) {
		memory_free(own);
		return;
	}
	if (own == NULL) {
		own = memory_new(bytes.len);
		if (own == NULL) {
			connection_close(c, DROP_MEMORY);
			return;
		}
		memcpy(own, bytes.data, bytes.len);
		bytes.data = own;
	}
	c->input = own;
	http->reading->input_at = (size_t)(bytes.data - own);
	c->input_len = (uint32_t)(http->reading->input_at + bytes.len);
}

static struct http_limits limits_of(const struct connection *c)
{
	const struct config_limits *l = &c->shard->config->limits;

	return (struct http_limits){ .head_bytes = l->header_bytes,
				     .uri_bytes = URI_BYTES_MAX,
				     .body_bytes = l->message_bytes };
}

/* Looks at what has come, as far as it may be and there is time; returns the rest. */
static struct span look_at(struct connection *c, struct span bytes)
{
	const struct http_limits limits = limits_of(c);
	struct reactor *r = &c->shard->reactor;
	struct http_session *http = http_of(c);
	struct http_event e; /* uninitialized: it is large */
	unsigned n = 0;
	size_t used;

	while (ready(c)) {
		http_decode(http->reading->decoder, bytes, &limits, &e, &used);
		http->reading->head = (struct span){ bytes.data, used };
		bytes = span_skip(bytes, used);
		if (e.kind == HTTP_EVENT_MORE)
			break;
		http->pipelined = bytes.len > 0;
		handle(c, &e);
		reactor_spend(r, EVENT_COST);
		if (++n < EVENTS_AT_ONCE && !reactor_spent(r))
			continue;
		list_append(&http_shared(c->shard)->runnable, &http->reading->runnable);
		break;
	}
	return bytes;
}

/* Works through what has come, unless others come first. */
static void run(struct connection *c, struct span bytes)
{
	struct http_session *http = http_of(c);
	char *own = NULL;

	if (c->input_len > 0) {
		size_t kept = c->input_len - http->reading->input_at;

		if (bytes.len > 0 && http->reading->input_at > 0) {
			memmove(c->input, c->input + http->reading->input_at, kept);
			http->reading->input_at = 0;
		}
		own = bytes.len > 0 ? memory_resize(c->input, kept + bytes.len) : c->input;
		if (own == NULL) {
			connection_close(c, DROP_MEMORY);
			return;
		}
		if (bytes.len > 0)
			memcpy(own + kept, bytes.data, bytes.len);
		bytes = (struct span){ own + http->reading->input_at, kept + bytes.len };
		c->input = NULL;
		c->input_len = 0;
	}
	http->reading->input_at = 0;
	http->running = true;
	if (list_empty(&http->reading->runnable))
		bytes = look_at(c, bytes);
	http->running = false;
	keep(c, bytes, own);
	if (c->state != CONNECTION_OPEN)
		return;
	if (http->state == HTTP_SWITCHED) {
		http->upgrade->switched(c);
		return;
	}
	if (http->state == HTTP_STREAMING) {
		http_stop_reading(c);
	} else {
		settle(c);
		receive_in_place(c);
	}
	/* Half a request at the end of everything is no request. */
	if (http->ended && ready(c) && list_empty(&http->reading->runnable)) {
		connection_goodbye(c);
		return;
	}
	if (!c->socket.sending && c->output != NULL)
		connection_flush(c);
}

/* Handles the request whose head is kept. Its own decoder has seen it, and may be on its way
 * through the body. */
static void handle_kept(struct connection *c)
{
	struct http_limits limits = limits_of(c);
	struct http_session *http = http_of(c);
	struct http_decoder *decoder = http_decoder_new();
	struct http_event e = { .kind = HTTP_EVENT_MORE };
	size_t used;

	/* What it may be has changed with a reload, perhaps. */
	if (limits.head_bytes < http->reading->kept_len)
		limits.head_bytes = http->reading->kept_len;
	limits.body_bytes = UINT64_MAX >> 1;
	if (decoder != NULL)
		http_decode(decoder, (struct span){ http->reading->kept, http->reading->kept_len },
			    &limits, &e, &used);
	http_decoder_free(decoder);
	if (e.kind != HTTP_EVENT_HEAD) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	http->running = true;
	handle_head(c, &e.request);
	http->running = false;
	if (c->state == CONNECTION_OPEN)
		connection_flush(c);
}

void http_session_logged_in(struct connection *c, enum access_result result)
{
	struct http_session *http = http_of(c);
	bool waited = http->reading->kept != NULL;

	http->reading->login = result == ACCESS_GRANTED ? HTTP_LOGIN_DONE : HTTP_LOGIN_NONE;
	if (result != ACCESS_GRANTED)
		http_login_refused(c, result);
	else if (waited)
		handle_kept(c);
	if (waited)
		http_forget_head(c);
	if (http->state == HTTP_STREAMING)
		http_stop_reading(c);
}

void http_session_received(struct connection *c, struct span bytes)
{
	if (http_of(c) == NULL && !begin(c))
		return;
	if (http_of(c)->state == HTTP_STREAMING)
		return;
	run(c, bytes);
}

void http_session_resume(struct connection *c)
{
	struct http_session *http = http_of(c);

	if (http == NULL)
		return;
	if (http->state == HTTP_STREAMING) {
		if (http->ended && c->state == CONNECTION_OPEN)
			connection_goodbye(c);
		return;
	}
	if (!list_empty(&http->reading->runnable))
		; /* when it is its turn */
	else if (!http->running && ready(c) && (c->input_len > 0 || http->ended))
		run(c, (struct span){ "", 0 });
	else if (!http->running && ready(c))
		settle(c);
}

bool http_sessions_go_on(struct shard *s)
{
	struct list *l;

	if (list_empty(&http_shared(s)->runnable))
		return false;
	reactor_part(&s->reactor, PART_CLIENTS);
	do {
		l = list_take(&http_shared(s)->runnable);
		run(LIST_ENTRY(l, struct http_reading, runnable)->connection,
		    (struct span){ "", 0 });
	} while (!list_empty(&http_shared(s)->runnable) && !reactor_spent(&s->reactor));
	return !list_empty(&http_shared(s)->runnable);
}

void http_session_ended(struct connection *c)
{
	struct http_session *http = http_of(c);

	if (http == NULL || http->state == HTTP_STREAMING) {
		connection_goodbye(c);
		return;
	}
	/* Requests that came before it may still wait for their turn. */
	http->ended = true;
	http_session_resume(c);
}

/* A message that is on its way to its home gets its answer. */
void http_session_drain(struct connection *c)
{
	if (http_of(c) == NULL || !http_of(c)->publishing)
		return;
	http_close_after(c);
	connection_finish(c, NULL);
}

bool http_session_silent(const struct connection *c)
{
	const struct http_session *http = http_of(c);

	return http != NULL && http->state == HTTP_READING && http->answered_any && !http->timing &&
	       output_body_left(c->output) == 0;
}

uint64_t http_session_held(const struct connection *c)
{
	const struct http_session *http = http_of(c);

	return http != NULL && http->receiving != NULL ? block_bytes(http->receiving) : 0;
}

void http_session_free(struct connection *c)
{
	struct http_session *http = http_of(c);

	if (http == NULL)
		return;
	http_free_reading(c);
	if (http->receiving != NULL)
		block_unref(http->receiving);
	free(http->upgrade);
	memory_free(http);
	http_set(c, NULL);
}
