#include "broker/http_session.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "broker/connection.h"
#include "broker/home.h"
#include "broker/routes.h"
#include "broker/subscription.h"
#include "protocol/http.h"
#include "protocol/sse.h"
#include "topic/block.h"
#include "topic/interest.h"

enum {
	URI_BYTES_MAX = 8 << 10,
	INPUT_BYTES_MAX = 64 << 10,    /* pipelined and waiting: then nothing more is received */
	REPLY_BYTES_MAX = 256 << 10,   /* answers that the client does not take: then no more
					  requests are looked at */
	BODY_COPY_BYTES_MAX = 4 << 10, /* smaller ones are copied behind their head */
	BODY_PIECE_BYTES = 256 << 10,  /* of one send */
	BODY_ROOM_BYTES = 64 << 10,    /* for what comes next of a body, or as much as has come */
	STALL_SECONDS = 30,            /* for a piece of a body to go out */
};

/* ---- answers ---- */

static const char *reason_of(unsigned status)
{
	switch (status) {
	case 200:
		return "OK";
	case 204:
		return "No Content";
	case 206:
		return "Partial Content";
	case 304:
		return "Not Modified";
	case 400:
		return "Bad Request";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 408:
		return "Request Timeout";
	case 412:
		return "Precondition Failed";
	case 413:
		return "Content Too Large";
	case 414:
		return "URI Too Long";
	case 416:
		return "Range Not Satisfiable";
	case 417:
		return "Expectation Failed";
	case 431:
		return "Request Header Fields Too Large";
	case 500:
		return "Internal Server Error";
	case 501:
		return "Not Implemented";
	case 503:
		return "Service Unavailable";
	case 505:
		return "HTTP Version Not Supported";
	default:
		return "Error";
	}
}

/* "Sun, 06 Nov 1994 08:49:37 GMT", made once per second. */
static const char *date(struct shard *s)
{
	uint64_t second = s->reactor.now_ns / NS_PER_S;

	if (s->date[0] == 0 || s->date_second != second) {
		time_t now = (time_t)(clock_wall_ns() / NS_PER_S);
		struct tm utc;

		gmtime_r(&now, &utc);
		strftime(s->date, sizeof(s->date), "%a, %d %b %Y %H:%M:%S GMT", &utc);
		s->date_second = second;
	}
	return s->date;
}

/* A head under construction; what does not fit is a bug of whoever let it in. */
struct head {
	char text[4096];
	size_t len;
};

static void add(struct head *h, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct head *h, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(h->text + h->len, sizeof(h->text) - h->len, format, args);
	va_end(args);
	assert(n >= 0 && (size_t)n < sizeof(h->text) - h->len);
	h->len += (size_t)n;
}

/* What every head has: status, Date, Connection, and what lets allowed pages read the answer. */
static void add_first(struct connection *c, struct head *h, unsigned status)
{
	const struct http_session *http = c->http;

	h->len = 0;
	add(h, "HTTP/1.1 %u %s\r\nDate: %s\r\n", status, reason_of(status), date(c->shard));
	if (http == NULL || http->close)
		add(h, "Connection: close\r\n");
	else if (http->http_1_0)
		add(h, "Connection: keep-alive\r\n");
	/* Of every answer, or a cache would give allowed pages what it keeps for others. */
	if (c->shard->config->http.allowed_origins_n > 0)
		add(h, "Vary: Origin\r\n");
	if (http != NULL && http->origin != NULL)
		add(h,
		    "Access-Control-Allow-Origin: %s\r\n"
		    "Access-Control-Expose-Headers: ETag, Content-Range, X-Version\r\n",
		    http->origin);
}

/* The request has its answer: the next one may be looked at. */
static void answered(struct connection *c)
{
	struct http_session *http = c->http;

	c->awaiting = false;
	if (http == NULL || c->state == CONNECTION_CLOSED)
		return;
	http->publishing = false;
	http->answered_any = true;
	free(http->origin);
	free(http->fields);
	http->origin = http->fields = NULL;
	/* A body that was never read would be taken for the next request. */
	if (http->state != HTTP_RECEIVING)
		http->state = HTTP_READING;
	if (c->state == CONNECTION_FINISHING)
		connection_flush(c);
	else if (http->close && http->sending == NULL)
		connection_finish(c, NULL);
	else if (!http->running)
		connection_flush(c);
}

void http_answer(struct connection *c, const struct http_answer *a)
{
	struct http_session *http = c->http;
	bool bodiless = http != NULL && http->head_only;
	bool no_length = a->status == 304 || a->status == 204;
	struct head h;

	if (c->state >= CONNECTION_LINGERING)
		return;
	add_first(c, &h, a->status);
	if (a->type.len > 0)
		add(&h, "Content-Type: %.*s\r\n", (int)a->type.len, a->type.data);
	if (a->headers != NULL)
		add(&h, "%s", a->headers);
	if (!no_length)
		add(&h, "Content-Length: %zu\r\n", a->body.len);
	add(&h, "\r\n");
	if (!connection_reply(c, (struct span){ h.text, h.len }))
		return;
	if (!bodiless && !no_length && a->body.len > 0) {
		if (a->hold != NULL && http != NULL && a->body.len > BODY_COPY_BYTES_MAX) {
			assert(http->sending == NULL);
			block_ref(a->hold, 1);
			http->sending = a->hold;
			http->left = a->body;
			reactor_deadline(&c->shard->reactor, &c->shard->stall, &c->deadline);
		} else if (!connection_reply(c, a->body)) {
			return;
		}
	}
	answered(c);
}

void http_error(struct connection *c, unsigned status, const char *reason)
{
	char body[256];
	int n = snprintf(body, sizeof(body), "{\"error\":\"%s\"}\n", reason);
	const struct http_answer a = { .status = status,
				       .type = SPAN("application/json"),
				       .headers = "Cache-Control: no-store\r\n",
				       .body = { body, (size_t)n } };

	/* What comes of a body that nobody wants is not worth receiving. */
	if (c->http != NULL && c->http->state == HTTP_RECEIVING) {
		c->http->close = true;
		c->http->state = HTTP_READING;
	}
	http_answer(c, &a);
}

void http_close_after(struct connection *c)
{
	c->http->close = true;
}

uint32_t http_wait(struct connection *c)
{
	c->http->state = HTTP_WAITING;
	c->awaiting = true;
	return ++c->http->ticket;
}

struct connection *http_waited(struct shard *s, uint32_t slot, uint32_t generation, uint32_t ticket)
{
	struct socket *socket = socket_at(&s->sockets, slot, generation);
	struct connection *c = socket != NULL ? connection_of(socket) : NULL;

	if (c == NULL || c->http == NULL || c->http->state != HTTP_WAITING ||
	    c->http->ticket != ticket || c->state >= CONNECTION_LINGERING)
		return NULL;
	c->awaiting = false;
	return c;
}

size_t json_string(struct span text, char *out)
{
	size_t n = 0;

	out[n++] = '"';
	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];

		if (c == '"' || c == '\\')
			out[n++] = '\\';
		if ((unsigned char)c < ' ')
			n += (size_t)sprintf(out + n, "\\u%04x", (unsigned)c);
		else
			out[n++] = c;
	}
	out[n++] = '"';
	return n;
}

/* ---- bodies on their way out ---- */

bool http_session_sending(const struct connection *c)
{
	return c->http != NULL && c->http->sending != NULL;
}

unsigned http_session_gather(struct connection *c, struct iovec *spans, unsigned max)
{
	struct http_session *http = c->http;
	size_t n;

	if (http->sending == NULL || max == 0)
		return 0;
	n = http->left.len < BODY_PIECE_BYTES ? http->left.len : BODY_PIECE_BYTES;
	/* Only read by the kernel; iovec knows no const. */
	spans[0] = (struct iovec){ (void *)(uintptr_t)http->left.data, n };
	return 1;
}

size_t http_session_sent(struct connection *c, size_t bytes)
{
	struct http_session *http = c->http;

	if (http->sending == NULL || bytes == 0)
		return 0;
	if (bytes > http->left.len)
		bytes = http->left.len;
	http->left = span_skip(http->left, bytes);
	if (http->left.len > 0) {
		if (c->state != CONNECTION_CLOSED)
			reactor_deadline(&c->shard->reactor, &c->shard->stall, &c->deadline);
		return bytes;
	}
	block_unref(http->sending);
	http->sending = NULL;
	if (c->state == CONNECTION_OPEN) {
		deadline_stop(&c->deadline);
		if (http->close)
			connection_finish(c, NULL);
	}
	return bytes;
}

/* ---- streams ---- */

const char *http_session_farewell(const struct connection *c)
{
	return c->http->state == HTTP_STREAMING && c->http->chunked ? CHUNKED_END : NULL;
}

static void start_heartbeats(struct connection *c)
{
	reactor_deadline(&c->shard->reactor, &c->shard->heartbeat, &c->deadline);
}

void http_session_subscribed(struct connection *c, const struct subscribe_letter *l)
{
	struct http_session *http = c->http;
	bool events = c->subscription->format != FORMAT_CHUNKED;
	char text[SSE_TEXT_MAX];
	struct head h;

	c->awaiting = false;
	http->state = HTTP_STREAMING;
	http->chunked = c->subscription->format != FORMAT_SSE_PLAIN;
	if (!http->chunked)
		http->close = true;
	add_first(c, &h, 200);
	add(&h, "Content-Type: %s\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n",
	    events ? "text/event-stream" : "application/octet-stream");
	if (http->chunked)
		add(&h, "Transfer-Encoding: chunked\r\n");
	if (!events && l != NULL && l->gap != 0)
		add(&h, "X-Gap: %016" PRIx64 ":%" PRIu64 "\r\n", l->epoch, l->gap);
	add(&h, "\r\n");
	if (!connection_reply(c, (struct span){ h.text, h.len }))
		return;
	free(http->origin);
	http->origin = NULL;
	if (events) {
		if (!connection_reply(c, (struct span){ text, sse_start(http->chunked, text) }))
			return;
		if (l != NULL && l->gap != 0 &&
		    !connection_reply(c, (struct span){ text, sse_gap(http->chunked, l->epoch,
								      l->gap, text) }))
			return;
		if (c->state == CONNECTION_OPEN)
			start_heartbeats(c);
	}
}

static void beat(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);
	struct subscription *sub = c->subscription;
	struct shard *s = context;
	char text[SSE_TEXT_MAX];
	size_t n;

	if (c->state != CONNECTION_OPEN || sub == NULL || sub->stream == NULL)
		return;
	start_heartbeats(c);
	/* Only a stream that stands at an event's end, and has been quiet, needs one. */
	if (c->socket.sending || c->reply_len > 0 || !stream_at_end(sub->stream, &sub->cursor) ||
	    s->reactor.now_ns - c->socket.sent_ns < s->heartbeat.after_ns / 2)
		return;
	n = sse_heartbeat(c->http->chunked, sub->interest->epoch, sub->interest->seq, text);
	if (connection_reply(c, (struct span){ text, n }))
		connection_flush(c);
}

/* ---- errors from elsewhere ---- */

const char *http_session_error(struct connection *c, const char *error_line)
{
	struct http_session *http = c->http;
	char reason[64] = "";
	unsigned status = 503;

	if (http != NULL) {
		if (http->state == HTTP_STREAMING)
			return strstr(error_line, "slow") == NULL ? http_session_farewell(c) : NULL;
		/* Half an answer cannot be followed by another one, and an idle connection may be
		 * closed at any time. */
		if (c->state != CONNECTION_OPEN && http->state != HTTP_WAITING)
			return NULL;
		if (http->sending != NULL ||
		    (http->answered_any && http->state == HTTP_READING && !http->timing))
			return NULL;
		http->close = true;
		http->state = HTTP_READING;
		http->ticket++;
	}
	/* "ERROR <reason>\r\n" */
	snprintf(reason, sizeof(reason), "%.*s", (int)strcspn(error_line + 6, "\r"),
		 error_line + 6);
	if (strcmp(reason, "timeout") == 0)
		status = 408;
	else if (strcmp(reason, "not permitted") == 0)
		status = 403;
	/* Not http_error: this is called where the connection is being ended anyway. */
	{
		char body[128];
		struct head h;
		int n = snprintf(body, sizeof(body), "{\"error\":\"%s\"}\n", reason);

		add_first(c, &h, status);
		add(&h, "Content-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", n,
		    status == 503 ? "Retry-After: 1\r\n" : "", body);
		if (http != NULL && http->head_only)
			h.len -= (size_t)n;
		(void)connection_reply(c, (struct span){ h.text, h.len });
	}
	return NULL;
}

/* ---- requests ---- */

static bool begin(struct connection *c)
{
	struct http_session *http = memory_new_zeroed(sizeof(*http));

	if (http != NULL)
		http->decoder = http_decoder_new();
	if (http == NULL || http->decoder == NULL) {
		memory_free(http);
		connection_close(c, DROP_MEMORY);
		return false;
	}
	c->http = http;
	return true;
}

static void handle_head(struct connection *c, const struct http_request *r)
{
	struct http_session *http = c->http;

	http->head_only = r->verb == HTTP_VERB_HEAD;
	http->http_1_0 = r->http_1_0;
	http->close = !r->keep_alive || c->shard->draining;
	http->chunked = false;
	http->timing = false;
	http->receiving_bytes = r->content_length;
	http->state = HTTP_READING;
	if (r->has_body && r->verb == HTTP_VERB_POST)
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
}

static void handle_body(struct connection *c, struct span bytes)
{
	struct http_session *http = c->http;
	struct block *b = block_reserve(http->receiving, bytes.len);

	if (b == NULL) {
		connection_error(c, LINE_ERROR_TEXT("out of memory"));
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
	struct http_session *http = c->http;
	struct block *b = http->receiving;
	size_t left, room;

	if (http->state != HTTP_RECEIVING || b == NULL || http->ended || c->input_len > 0 ||
	    c->socket.paused || c->socket.recv_armed || http->receiving_bytes < b->len)
		return;
	left = (size_t)http->receiving_bytes - b->len;
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

/* The whole message is there: on to its home, which will say its number. */
static void publish(struct connection *c)
{
	struct http_session *http = c->http;
	struct block *b = http->receiving;
	struct shard *s = c->shard;
	struct sequenced_letter *receipt = calloc(1, sizeof(*receipt));

	http->receiving = NULL;
	/* The request is whole: its time is not the next one's. */
	http->timing = false;
	deadline_stop(&c->deadline);
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
	http->home = shard_home(s, b->hash);
	shard_publish(s, block_trim(b));
	if (c->state != CONNECTION_OPEN || !shard_congested(s, http->home) ||
	    !list_empty(&c->waiting))
		return;
	/* Its next requests wait, and TCP makes the client wait. */
	s->counters.pauses++;
	socket_pause(&s->sockets, &c->socket);
	list_append(&s->paused, &c->waiting);
}

static void handle(struct connection *c, const struct http_event *e)
{
	struct http_session *http = c->http;

	switch (e->kind) {
	case HTTP_EVENT_HEAD:
		handle_head(c, &e->request);
		/* A message without a byte is one too. */
		if (http->receiving != NULL && !e->request.has_body && c->state == CONNECTION_OPEN)
			publish(c);
		break;
	case HTTP_EVENT_BODY:
		handle_body(c, e->bytes);
		break;
	case HTTP_EVENT_END:
		publish(c);
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
	const struct http_session *http = c->http;

	return c->state == CONNECTION_OPEN && http->state <= HTTP_RECEIVING &&
	       http->sending == NULL && c->reply_len < REPLY_BYTES_MAX && list_empty(&c->waiting);
}

/* Sees to it that silence has an end where it should, and to how much may come. */
static void settle(struct connection *c)
{
	struct http_session *http = c->http;
	struct shard *s = c->shard;
	size_t kept = c->input_len - http->input_at;

	if (kept > INPUT_BYTES_MAX)
		socket_pause(&s->sockets, &c->socket);
	else if (c->socket.paused && list_empty(&c->waiting))
		socket_receive(&s->sockets, &c->socket);
	if (http->state == HTTP_RECEIVING) {
		http->timing = true;
		reactor_deadline(&s->reactor, &s->handshake, &c->deadline);
	} else if (ready(c)) {
		if (kept > 0 && !http->timing) {
			http->timing = true;
			/* The first request's time has been running since the connection. */
			if (http->answered_any)
				reactor_deadline(&s->reactor, &s->handshake, &c->deadline);
		} else if (kept == 0 && s->idle.after_ns != 0 && http->answered_any) {
			reactor_deadline(&s->reactor, &s->idle, &c->deadline);
		}
	}
}

/* Keeps what was not taken: bytes lie in own, or own is NULL. */
static void keep(struct connection *c, struct span bytes, char *own)
{
	struct http_session *http = c->http;

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
	http->input_at = (size_t)(bytes.data - own);
	c->input_len = (uint32_t)(http->input_at + bytes.len);
}

/* Works through what has come, as far as it may be looked at now. */
static void run(struct connection *c, struct span bytes)
{
	const struct config_limits *l = &c->shard->config->limits;
	const struct http_limits limits = { .head_bytes = l->header_bytes,
					    .uri_bytes = URI_BYTES_MAX,
					    .body_bytes = l->message_bytes };
	struct http_session *http = c->http;
	struct http_event e = { .kind = HTTP_EVENT_MORE };
	char *own = NULL;
	size_t used;

	if (c->input_len > 0) {
		size_t kept = c->input_len - http->input_at;

		if (bytes.len > 0 && http->input_at > 0) {
			memmove(c->input, c->input + http->input_at, kept);
			http->input_at = 0;
		}
		own = bytes.len > 0 ? memory_resize(c->input, kept + bytes.len) : c->input;
		if (own == NULL) {
			connection_close(c, DROP_MEMORY);
			return;
		}
		if (bytes.len > 0)
			memcpy(own + kept, bytes.data, bytes.len);
		bytes = (struct span){ own + http->input_at, kept + bytes.len };
		c->input = NULL;
		c->input_len = 0;
	}
	http->input_at = 0;
	http->running = true;
	while (ready(c)) {
		http_decode(http->decoder, bytes, &limits, &e, &used);
		bytes = span_skip(bytes, used);
		if (e.kind == HTTP_EVENT_MORE)
			break;
		handle(c, &e);
	}
	http->running = false;
	keep(c, bytes, own);
	if (c->state != CONNECTION_OPEN)
		return;
	if (http->state == HTTP_STREAMING) {
		http_decoder_free(http->decoder);
		http->decoder = NULL;
	}
	settle(c);
	receive_in_place(c);
	/* Half a request at the end of everything is no request. */
	if (http->ended && ready(c)) {
		connection_goodbye(c);
		return;
	}
	if (!c->socket.sending && (c->reply_len > 0 || http->sending != NULL))
		connection_flush(c);
}

void http_session_received(struct connection *c, struct span bytes)
{
	if (c->http == NULL && !begin(c))
		return;
	if (c->http->state == HTTP_STREAMING)
		return;
	run(c, bytes);
}

void http_session_resume(struct connection *c)
{
	struct http_session *http = c->http;

	if (http->state == HTTP_STREAMING && http->ended && c->state == CONNECTION_OPEN)
		connection_goodbye(c);
	else if (!http->running && ready(c) && (c->input_len > 0 || http->ended))
		run(c, (struct span){ "", 0 });
	else if (!http->running && ready(c))
		settle(c);
}

void http_session_ended(struct connection *c)
{
	struct http_session *http = c->http;

	if (http == NULL || http->state == HTTP_STREAMING) {
		connection_goodbye(c);
		return;
	}
	/* Requests that came before it may still wait for their turn. */
	http->ended = true;
	http_session_resume(c);
}

void http_session_free(struct connection *c)
{
	struct http_session *http = c->http;

	if (http == NULL)
		return;
	http_decoder_free(http->decoder);
	if (http->receiving != NULL)
		block_unref(http->receiving);
	if (http->sending != NULL)
		block_unref(http->sending);
	free(http->origin);
	free(http->fields);
	memory_free(http);
	c->http = NULL;
}

static void stalled(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);

	(void)context;
	connection_close(c, DROP_SLOW);
}

void http_sessions_init(struct shard *s)
{
	deadline_class_init(&s->heartbeat, s->config->http.heartbeat_seconds * NS_PER_S);
	deadline_class_init(&s->stall, STALL_SECONDS * NS_PER_S);
	reactor_watch(&s->reactor, &s->heartbeat, beat, s);
	reactor_watch(&s->reactor, &s->stall, stalled, s);
}
