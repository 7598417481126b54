#include "session/http_answer.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/memory.h"
#include "broker/connection.h"
#include "broker/home.h"
#include "session/http.h"
#include "session/shared.h"
#include "session/words.h"
#include "broker/subscription.h"
#include "broker/shard.h"
#include "protocol/http.h"
#include "protocol/sse.h"
#include "topic/block.h"
#include "topic/interest.h"

enum {
	BODY_COPY_BYTES_MAX = 4 << 10, /* smaller ones are copied behind their head */
	/* A body whose reader takes nothing between so many looks and one before is given up: who
	 * reads slowly and steadily gets all of it. */
	STALL_LOOK_SECONDS = 15,
	STALL_LOOKS = 2,
};

/* ---- heads ---- */

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
	case 401:
		return "Unauthorized";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 406:
		return "Not Acceptable";
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
	case 426:
		return "Upgrade Required";
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

	if (http_shared(s)->date[0] == 0 || http_shared(s)->date_second != second) {
		time_t now = (time_t)(clock_wall_ns() / NS_PER_S);
		struct tm utc;

		gmtime_r(&now, &utc);
		strftime(http_shared(s)->date, sizeof(http_shared(s)->date),
			 "%a, %d %b %Y %H:%M:%S GMT", &utc);
		http_shared(s)->date_second = second;
	}
	return http_shared(s)->date;
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
static void add_first(struct connection *c, struct head *h, unsigned status, bool coded)
{
	const struct http_session *http = http_of(c);

	h->len = 0;
	add(h, "HTTP/1.1 %u %s\r\nDate: %s\r\n", status, reason_of(status), date(c->shard));
	if (http == NULL || http->close)
		add(h, "Connection: close\r\n");
	else if (http->http_1_0)
		add(h, "Connection: keep-alive\r\n");
	/* What clients publish, and what quotes them, is never a script by guessing. */
	add(h, "X-Content-Type-Options: nosniff\r\n");
	/* Of every answer, or a cache would give allowed pages what it keeps for others. */
	if (c->shard->config->http.allowed_origins_n > 0)
		add(h, "Vary: Origin%s\r\n", coded ? ", Accept-Encoding" : "");
	else if (coded)
		add(h, "Vary: Accept-Encoding\r\n");
	if (http != NULL && http->reading != NULL && http->reading->origin != NULL)
		add(h,
		    "Access-Control-Allow-Origin: %s\r\n"
		    "Access-Control-Allow-Credentials: true\r\n"
		    "Access-Control-Expose-Headers: Content-Range, ETag, Retry-After, X-Gap, "
		    "X-Version\r\n",
		    http->reading->origin);
}

/* ---- answers ---- */

/* The request has its answer: the next one may be looked at. */
static void answered(struct connection *c)
{
	struct http_session *http = http_of(c);

	c->awaiting = false;
	if (http == NULL || c->state == CONNECTION_CLOSED)
		return;
	http->publishing = false;
	http->answered_any = true;
	free(http->reading->origin);
	free(http->reading->fields);
	http->reading->origin = http->reading->fields = NULL;
	/* A body that was never read would be taken for the next request. */
	if (http->state != HTTP_RECEIVING)
		http->state = HTTP_READING;
	if (c->state == CONNECTION_FINISHING)
		connection_flush(c);
	else if (http->close && output_body_left(c->output) == 0)
		connection_finish(c, NULL);
	else if (!http->running)
		connection_flush(c);
}

/* Some of a body has gone out, or is to. */
static void limit_stall(struct connection *c)
{
	http_of(c)->taken = UINT64_MAX; /* not looked at yet */
	reactor_deadline(&c->shard->reactor, &http_shared(c->shard)->stall, &c->deadline);
}

void http_answer(struct connection *c, const struct http_answer *a)
{
	struct http_session *http = http_of(c);
	bool bodiless = http != NULL && http->head_only;
	bool no_length = a->status == 304 || a->status == 204 || a->endless;
	struct head h;

	if (c->state >= CONNECTION_LINGERING)
		return;
	add_first(c, &h, a->status, a->coded);
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
			if (!connection_reply_body(c, a->hold, a->body))
				return;
			limit_stall(c);
		} else if (!connection_reply(c, a->body)) {
			return;
		}
	}
	answered(c);
}

void http_abandon_body(struct connection *c)
{
	if (http_of(c) == NULL || http_of(c)->state != HTTP_RECEIVING)
		return;
	http_of(c)->close = true;
	http_of(c)->state = HTTP_READING;
}

void http_error(struct connection *c, unsigned status, const char *reason)
{
	char body[256];
	int n = snprintf(body, sizeof(body), "{\"error\":\"%s\"}\n", reason);
	const struct http_answer a = { .status = status,
				       .type = SPAN("application/json"),
				       .headers = "Cache-Control: no-store\r\n",
				       .body = { body, (size_t)n } };

	http_abandon_body(c);
	http_answer(c, &a);
}

void http_close_after(struct connection *c)
{
	http_of(c)->close = true;
}

uint32_t http_wait(struct connection *c)
{
	http_of(c)->state = HTTP_WAITING;
	c->awaiting = true;
	return ++http_of(c)->ticket;
}

struct connection *http_waited(struct shard *s, uint32_t slot, uint32_t generation, uint32_t ticket)
{
	struct socket *socket = socket_at(&s->sockets, slot, generation);
	struct connection *c = socket != NULL ? connection_of(socket) : NULL;

	if (c == NULL || http_of(c) == NULL || http_of(c)->state != HTTP_WAITING ||
	    http_of(c)->ticket != ticket || c->state >= CONNECTION_LINGERING)
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

void http_answer_body_went(struct connection *c, bool whole)
{
	if (!whole) {
		if (c->state != CONNECTION_CLOSED)
			limit_stall(c);
		return;
	}
	if (c->state != CONNECTION_OPEN)
		return;
	deadline_stop(&c->deadline);
	if (http_of(c)->close)
		connection_finish(c, NULL);
}

/* ---- streams ---- */

void http_forget_head(struct connection *c)
{
	struct http_reading *reading = http_of(c)->reading;

	if (reading->kept != NULL)
		bytes_forget(reading->kept, reading->kept_len);
	memory_free(reading->kept);
	reading->kept = NULL;
}

void http_free_reading(struct connection *c)
{
	struct http_session *http = http_of(c);
	struct http_reading *reading = http->reading;

	if (reading == NULL)
		return;
	http_forget_head(c);
	http->reading = NULL;
	list_remove(&reading->runnable);
	http_decoder_free(reading->decoder);
	free(reading->origin);
	free(reading->fields);
	memory_free(reading);
}

void http_stop_reading(struct connection *c)
{
	http_free_reading(c);
	if (c->socket.paused && list_empty(&c->waiting))
		socket_receive(&c->shard->sockets, &c->socket);
}

const char *http_answer_farewell(const struct connection *c, bool bye)
{
	const struct http_session *http = http_of(c);

	(void)bye;
	return http != NULL && http->state == HTTP_STREAMING && http->chunked ? CHUNKED_END : NULL;
}

static void start_heartbeats(struct connection *c)
{
	reactor_deadline(&c->shard->reactor, &http_shared(c->shard)->heartbeat, &c->deadline);
}

void http_answer_subscribed(struct connection *c, struct subscription *sub,
			    const struct subscribe_letter *l)
{
	const struct wire_format *format = sub->stream->wire.format;
	const struct interest *i = subscription_interest(sub);
	struct http_session *http = http_of(c);
	bool events = format == &sse_format || format == &sse_plain_format;
	char text[SSE_TEXT_MAX];
	struct head h;

	if (http->upgrade != NULL) {
		http->upgrade->subscribed(c);
		return;
	}
	c->awaiting = false;
	http->chunked = format == &sse_format || format == &chunked_format;
	if (!http->chunked)
		http->close = true;
	add_first(c, &h, 200, false);
	add(&h, "Content-Type: %s\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n",
	    events ? "text/event-stream" : "application/octet-stream");
	if (http->chunked)
		add(&h, "Transfer-Encoding: chunked\r\n");
	if (!events && l != NULL && l->gap != 0)
		add(&h, "X-Gap: %016" PRIx64 ":%" PRIu64 "\r\n", l->epoch, l->gap);
	add(&h, "\r\n");
	if (!connection_reply(c, (struct span){ h.text, h.len }))
		return;
	http->state = HTTP_STREAMING;
	if (!http->running)
		http_stop_reading(c);
	if (events) {
		/* Before the first message that it gets, or where it comes in. */
		uint64_t seq = l != NULL ? l->after : i->number;
		size_t n = sse_start(http->chunked, i->epoch, seq, text);

		if (!connection_reply(c, (struct span){ text, n }))
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
	struct subscription *sub = connection_subscription(c);
	struct shard *s = context;
	char text[SSE_TEXT_MAX];
	size_t n;

	if (c->state != CONNECTION_OPEN || sub == NULL || subscription_is(sub, SUBSCRIPTION_ASKED))
		return;
	start_heartbeats(c);
	/* Only a stream that stands at an event's end, and has been quiet, needs one. */
	if (c->socket.sending || output_unsaid(c->output) > 0 ||
	    !stream_at_end(sub->stream, &sub->cursor) ||
	    s->reactor.now_ns - c->socket.sent_ns < http_shared(s)->heartbeat.after_ns / 2)
		return;
	n = sse_heartbeat(http_of(c)->chunked, subscription_interest(sub)->epoch,
			  subscription_interest(sub)->number, text);
	if (connection_reply(c, (struct span){ text, n }))
		connection_flush(c);
}

/* ---- errors from elsewhere ---- */

/* What comes to an EventSource with any other status than 200 is its end for ever (WHATWG HTML,
 * 9.2.3). */
static void send_away(struct connection *c)
{
	struct head h;

	add_first(c, &h, 200, false);
	add(&h,
	    "Content-Type: text/event-stream\r\nCache-Control: no-store\r\n"
	    "Content-Length: %zu\r\n\r\n%s",
	    sizeof(SSE_LATER) - 1, SSE_LATER);
	(void)connection_reply(c, (struct span){ h.text, h.len });
}

/* Whether a broker that drains should not say so: whoever has not asked yet, and who waits for
 * events, comes again when there is a broker that has them. */
static bool drains_silently(const struct connection *c)
{
	return http_of(c) == NULL || http_of(c)->events ||
	       (http_of(c)->timing && http_of(c)->state == HTTP_READING);
}

static unsigned status_of(enum reason reason)
{
	switch (reason) {
	case REASON_TIMEOUT:
		return 408;
	case REASON_NOT_PERMITTED:
		return 403;
	case REASON_EXPIRED:
		return 401;
	case REASON_TOO_LONG:
		return 413;
	case REASON_NONE:
	case REASON_GAP:
	case REASON_UPSTREAM:
	case REASON_SLOW:
	case REASON_CONNECTIONS:
	case REASON_SUBSCRIPTIONS:
	case REASON_TOPICS:
	case REASON_PATTERNS:
	case REASON_MEMORY:
	case REASON_DRAINING:
	case REASONS:
	default:
		return 503;
	}
}

/* The answer to a request that ends its connection. */
static void answer_last(struct connection *c, unsigned status, const char *reason)
{
	const struct http_session *http = http_of(c);
	char body[128];
	struct head h;
	int n = snprintf(body, sizeof(body), "{\"error\":\"%s\"}\n", reason);

	add_first(c, &h, status, false);
	add(&h, "Content-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", n,
	    status == 503 ? "Retry-After: 1\r\n"
	    : status == 401
		    ? "WWW-Authenticate: Bearer realm=\"broker\", error=\"invalid_token\"\r\n"
		    : "",
	    body);
	if (http != NULL && http->head_only)
		h.len -= (size_t)n;
	(void)connection_reply(c, (struct span){ h.text, h.len });
}

const char *http_answer_say(struct connection *c, enum reason reason)
{
	struct http_session *http = http_of(c);

	if (http != NULL) {
		if (http->state == HTTP_STREAMING)
			return reason != REASON_SLOW && reason != REASON_GAP
				       ? http_answer_farewell(c, false)
				       : NULL;
		/* Half an answer cannot be followed by another one, and an idle connection may be
		 * closed at any time. */
		if (c->state != CONNECTION_OPEN && http->state != HTTP_WAITING)
			return NULL;
		if (output_body_left(c->output) > 0 ||
		    (http->answered_any && http->state == HTTP_READING && !http->timing))
			return NULL;
	}
	if (reason == REASON_DRAINING && drains_silently(c))
		return NULL;
	if (http != NULL) {
		http->close = true;
		http->state = HTTP_READING;
		http->ticket++;
	}
	/* Not http_error: this is called where the connection is being ended anyway. */
	if (http != NULL && http->events && status_of(reason) == 503)
		send_away(c);
	else
		answer_last(c, status_of(reason), reason_words[reason]);
	return NULL;
}

/* What goes out in one piece may take a slow reader long: what counts is what it takes of it. */
static void stalled(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);
	struct http_session *http = http_of(c);
	struct shard *s = context;
	uint64_t taken = ring_taken(s->reactor.ring, c->socket.fd);

	http->looks = taken == http->taken ? http->looks + 1 : 0;
	http->taken = taken;
	if (http->looks < STALL_LOOKS)
		reactor_deadline(&s->reactor, &http_shared(s)->stall, d);
	else
		connection_close(c, DROP_SLOW);
}

void http_answers_init(struct shard *s)
{
	list_init(&http_shared(s)->answers);
	list_init(&http_shared(s)->runnable);
	deadline_class_init(&http_shared(s)->heartbeat,
			    s->config->http.heartbeat_seconds * NS_PER_S);
	deadline_class_init(&http_shared(s)->stall, STALL_LOOK_SECONDS * NS_PER_S);
	reactor_watch(&s->reactor, &http_shared(s)->heartbeat, beat, s);
	reactor_watch(&s->reactor, &http_shared(s)->stall, stalled, s);
}

void http_answers_configure(struct shard *s)
{
	reactor_deadlines_change(&s->reactor, &http_shared(s)->heartbeat,
				 s->config->http.heartbeat_seconds * NS_PER_S);
}
