#include "broker/routes.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/hash.h"
#include "base/name.h"
#include "broker/connection.h"
#include "broker/fetch.h"
#include "broker/home.h"
#include "broker/http_answer.h"
#include "broker/http_session.h"
#include "broker/objects.h"
#include "broker/subscription.h"
#include "broker/shard.h"
#include "protocol/http.h"
#include "protocol/http_field.h"
#include "topic/block.h"

enum {
	BODY_BYTES_MIN = 4 << 10,   /* room for a body of unknown length to begin with */
	BODY_BYTES_FIRST = 1 << 20, /* most room for one that is only announced */
	ORIGIN_BYTES_MAX = 512,
	TOPIC_JSON_MAX = 2 + 2 * NAME_BYTES_MAX, /* names hold no control characters */
};

/* ---- resources: messages and files ---- */

/* What a request makes of the resource that it gets. */
struct conditions {
	struct span match, none_match, range, if_range;
};

/* Whether the tag, all of which are strong, is in a list; weak: as W/"..." too (RFC 9110, 8.8.3.2).
 */
static bool matches(struct span field, struct span etag, bool weak)
{
	const char *at = field.len > 0 ? memmem(field.data, field.len, etag.data, etag.len) : NULL;

	if (at == NULL)
		return span_equal(field, SPAN("*"));
	return weak || at - field.data < 2 || memcmp(at - 2, "W/", 2) != 0;
}

/* Answers with a message or a file: whole, a part of it, or that the client has it already. */
static void answer_resource(struct connection *c, struct block *b, struct span body, uint64_t epoch,
			    uint64_t seq, const char *cache, const char *more,
			    const struct conditions *wanted)
{
	struct http_answer a = { .status = 200, .type = block_type(b), .body = body, .hold = b };
	struct span version = block_version(b);
	uint64_t first = 0, n = body.len;
	char headers[1024], etag[48];
	int len;

	len = snprintf(etag, sizeof(etag), "\"%016" PRIx64 ":%" PRIu64 "\"", epoch, seq);
	if (a.type.len == 0)
		a.type = SPAN("application/octet-stream");
	/* In the order of RFC 9110, 13.2.2. */
	if (wanted->match.len > 0 &&
	    !matches(wanted->match, (struct span){ etag, (size_t)len }, false)) {
		a.status = 412;
		a.body.len = 0;
	} else if (matches(wanted->none_match, (struct span){ etag, (size_t)len }, true)) {
		a.status = 304;
		a.body.len = 0;
	} else if (!c->http->head_only && wanted->range.len > 0 &&
		   (wanted->if_range.len == 0 ||
		    span_equal(wanted->if_range, (struct span){ etag, (size_t)len }))) {
		switch (http_range(wanted->range, body.len, &first, &n)) {
		case HTTP_RANGE_PART:
			a.status = 206;
			a.body = (struct span){ body.data + first, n };
			break;
		case HTTP_RANGE_UNSATISFIABLE:
			a.status = 416;
			a.body.len = 0;
			break;
		case HTTP_RANGE_NONE:
		default:
			break;
		}
	}
	len = snprintf(headers, sizeof(headers),
		       "ETag: %s\r\nCache-Control: %s\r\nAccept-Ranges: bytes\r\n"
		       "X-Content-Type-Options: nosniff\r\n%s",
		       etag, cache, more);
	if (version.len > 0)
		len += snprintf(headers + len, sizeof(headers) - (size_t)len, "X-Version: %.*s\r\n",
				(int)version.len, version.data);
	if (a.status == 206)
		len += snprintf(headers + len, sizeof(headers) - (size_t)len,
				"Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%zu\r\n", first,
				first + n - 1, body.len);
	else if (a.status == 416)
		len += snprintf(headers + len, sizeof(headers) - (size_t)len,
				"Content-Range: bytes */%zu\r\n", body.len);
	assert((size_t)len < sizeof(headers));
	a.headers = headers;
	http_answer(c, &a);
}

/* Keeps what the answer will depend on until it is there. */
static bool keep_conditions(struct connection *c, const struct http_request *r)
{
	const struct span fields[] = { r->if_match, r->if_none_match, r->range, r->if_range };
	size_t n = r->if_match.len + r->if_none_match.len + r->range.len + r->if_range.len;
	char *at;

	if (n == 0)
		return true;
	at = malloc(n + 4);
	if (at == NULL)
		return false;
	c->http->fields = at;
	for (int i = 0; i < 4; i++) {
		if (fields[i].len > 0)
			memcpy(at, fields[i].data, fields[i].len);
		at += fields[i].len;
		*at++ = 0;
	}
	return true;
}

static struct conditions kept_conditions(const struct connection *c)
{
	struct conditions k = { .match = { NULL, 0 } };
	const char *at = c->http->fields;

	if (at == NULL)
		return k;
	k.match = span_of(at);
	at += k.match.len + 1;
	k.none_match = span_of(at);
	at += k.none_match.len + 1;
	k.range = span_of(at);
	at += k.range.len + 1;
	k.if_range = span_of(at);
	return k;
}

static void handle_object(struct connection *c, const struct http_request *r, struct span rest)
{
	const struct conditions wanted = { r->if_match, r->if_none_match, r->range, r->if_range };
	char name[NAME_BYTES_MAX];
	struct block *b = NULL;
	ptrdiff_t n = -1;

	if (rest.len <= 3 * sizeof(name)) {
		char *decoded = malloc(rest.len + 1);

		n = decoded != NULL ? http_unescape(rest, false, decoded) : -1;
		if (n > 0 && (size_t)n <= sizeof(name))
			memcpy(name, decoded, (size_t)n);
		else
			n = -1;
		free(decoded);
	}
	if (n > 0)
		b = objects_find(c->shard->http.objects, (struct span){ name, (size_t)n });
	if (b == NULL)
		http_error(c, 404, "no such object");
	else
		answer_resource(c, b, (struct span){ block_body(b), b->len }, b->epoch, b->seq,
				"no-cache", "", &wanted);
}

/* ---- topics ---- */

bool route_topic(struct connection *c, struct span text, char name[256], struct span *topic)
{
	char decoded[3 * NAME_BYTES_MAX];
	/* A '/' of a name is written %2F: else /publish/a/1 would go elsewhere than /topic/a/1. */
	bool whole = text.len <= sizeof(decoded) && memchr(text.data, '/', text.len) == NULL;
	ptrdiff_t n = whole ? http_unescape(text, false, decoded) : -1;

	if (n < 0 || n > NAME_BYTES_MAX || !name_valid((struct span){ decoded, (size_t)n })) {
		http_error(c, 400, "bad topic");
		return false;
	}
	memcpy(name, decoded, (size_t)n);
	*topic = (struct span){ name, (size_t)n };
	return true;
}

/* Reading one of the broker's own topics is for whom the operator lets look. */
static bool may_read(struct connection *c, struct span topic)
{
	if (!topic_internal(topic) || !c->shard->config->http.page_local_only ||
	    connection_local(c))
		return true;
	http_error(c, 403, "not permitted");
	return false;
}

static void handle_publish(struct connection *c, const struct http_request *r, struct span rest)
{
	size_t announced = r->chunked ? BODY_BYTES_MIN : (size_t)r->content_length;
	/* It grows with what comes of more. */
	size_t capacity = announced < BODY_BYTES_FIRST ? announced : BODY_BYTES_FIRST;
	struct http_session *http = c->http;
	char name[256];
	struct span topic;
	uint64_t version[2];
	struct block *b;

	if (!route_topic(c, rest, name, &topic))
		return;
	if (topic_internal(topic)) {
		http_error(c, 403, "not permitted");
		return;
	}
	if (r->content_type.len > BLOCK_LABEL_MAX) {
		http_error(c, 400, "Content-Type too long");
		return;
	}
	if (r->version.data != NULL &&
	    (r->version.len > BLOCK_LABEL_MAX || !http_version_parse(r->version, version))) {
		http_error(c, 400, "malformed X-Version");
		return;
	}
	b = block_new_labelled(topic, hash_bytes(topic.data, topic.len), r->content_type,
			       r->version, capacity);
	if (b == NULL)
		http_error(c, 503, "out of memory");
	else
		http->receiving = b;
}

void route_sequenced(struct shard *s, struct sequenced_letter *l)
{
	struct socket *socket = socket_at(&s->sockets, l->slot, l->generation);
	struct connection *c = socket != NULL ? connection_of(socket) : NULL;
	char body[TOPIC_JSON_MAX + 80];
	size_t n;

	if (c != NULL && c->http != NULL && c->http->publishing)
		c = http_waited(s, l->slot, l->generation, c->http->ticket);
	else
		c = NULL;
	if (c != NULL && l->error != 0) {
		http_error(c, 503, l->error == -ENOSPC ? "too many topics" : "out of memory");
	} else if (c != NULL) {
		n = (size_t)snprintf(body, sizeof(body), "{\"topic\":");
		n += json_string(block_name(l->block), body + n);
		n += (size_t)snprintf(body + n, sizeof(body) - n,
				      ",\"id\":\"%016" PRIx64 ":%" PRIu64 "\"}\n", l->epoch,
				      l->seq);
		http_answer(c, &(struct http_answer){ .status = 200,
						      .type = SPAN("application/json"),
						      .headers = "Cache-Control: no-store\r\n",
						      .body = { body, n } });
	}
	letter_discard(&l->letter);
}

/* What of the past a subscriber wants; false: malformed. */
static bool replay_of(const struct http_request *r, struct replay *replay)
{
	struct span id = r->last_event_id, last = http_query(r->query, SPAN("last"));
	char decoded[64];
	ptrdiff_t n;

	if (id.data == NULL) {
		id = http_query(r->query, SPAN("last_event_id"));
		if (id.data != NULL) {
			n = id.len <= sizeof(decoded) ? http_unescape(id, true, decoded) : -1;
			id = (struct span){ decoded, n > 0 ? (size_t)n : 0 };
		}
	}
	*replay = (struct replay){ .kind = REPLAY_NONE };
	if (id.data != NULL && id.len > 0) {
		/* An id that is none of ours is one whose past is unknown here. */
		replay->kind = REPLAY_FROM;
		if (!line_message_id(id, &replay->epoch, &replay->n))
			replay->epoch = replay->n = 0;
		return true;
	}
	if (last.data == NULL)
		return true;
	replay->kind = REPLAY_LAST;
	return http_number(last, &replay->n);
}

static void handle_subscribe(struct connection *c, const struct http_request *r, struct span rest)
{
	bool events = http_list_has(r->accept, SPAN("text/event-stream"));
	struct replay replay;
	char name[256];
	struct span topic;
	int err;

	if (!route_topic(c, rest, name, &topic) || !may_read(c, topic))
		return;
	if (!replay_of(r, &replay)) {
		http_error(c, 400, "malformed last");
		return;
	}
	if (r->http_1_0 && !events) {
		http_error(c, 505, "streams of bytes need HTTP/1.1");
		return;
	}
	if (r->verb == HTTP_VERB_HEAD) {
		http_answer(
			c, &(struct http_answer){ .status = 200,
						  .type = events ? SPAN("text/event-stream")
								 : SPAN("application/octet-stream"),
						  .headers = "Cache-Control: no-store\r\n"
							     "X-Accel-Buffering: no\r\n" });
		return;
	}
	(void)http_wait(c);
	err = subscription_new(c, topic,
			       !events       ? FORMAT_CHUNKED
			       : r->http_1_0 ? FORMAT_SSE_PLAIN
					     : FORMAT_SSE,
			       &replay);
	if (err != 0)
		connection_no_subscription(c, err);
}

static void handle_topic(struct connection *c, const struct http_request *r, struct span rest)
{
	const char *slash = rest.len > 0 ? memchr(rest.data, '/', rest.len) : NULL;
	struct span what = { NULL, 0 }, topic, msn, part;
	enum fetch_kind kind = FETCH_ABOUT;
	uint64_t wanted[2] = { 0, UINT64_MAX };
	struct shard *s = c->shard;
	struct fetch_letter *l;
	char name[256];
	uint64_t hash;

	if (slash != NULL) {
		what = span_skip(rest, (size_t)(slash - rest.data) + 1);
		rest.len = (size_t)(slash - rest.data);
	}
	if (!route_topic(c, rest, name, &topic) || !may_read(c, topic))
		return;
	if (slash != NULL && span_equal(what, SPAN("last"))) {
		msn = http_query(r->query, SPAN("_HLS_msn"));
		part = http_query(r->query, SPAN("_HLS_part"));
		kind = msn.data != NULL ? FETCH_VERSION : FETCH_LAST;
		if ((msn.data != NULL && !http_number(msn, &wanted[0])) ||
		    (part.data != NULL && (msn.data == NULL || !http_number(part, &wanted[1])))) {
			http_error(c, 400, "malformed _HLS_msn or _HLS_part");
			return;
		}
	} else if (slash != NULL) {
		kind = FETCH_MESSAGE;
		/* One message, one address: caches go by it. */
		if (!http_number(what, &wanted[0]) || what.data[0] == '0') {
			http_error(c, 404, "no such message");
			return;
		}
	}
	hash = hash_bytes(topic.data, topic.len);
	l = fetch_letter_new(kind, topic, hash);
	if (l == NULL || !keep_conditions(c, r)) {
		if (l != NULL)
			fetch_letter_free(l);
		http_error(c, 503, "out of memory");
		return;
	}
	l->shard = s->id;
	l->slot = c->socket.slot;
	l->generation = socket_generation(&s->sockets, &c->socket);
	l->wanted[0] = wanted[0];
	l->wanted[1] = wanted[1];
	l->ticket = http_wait(c);
	shard_post(s, shard_home(s, hash), LANE_FREE, &l->letter);
}

static void answer_topic(struct connection *c, const struct fetch_letter *l)
{
	char body[TOPIC_JSON_MAX + 400], oldest[48] = "null", head[48] = "null";
	size_t n;

	if (l->seq > 0)
		snprintf(head, sizeof(head), "\"%016" PRIx64 ":%" PRIu64 "\"", l->epoch, l->seq);
	if (l->oldest > 0)
		snprintf(oldest, sizeof(oldest), "\"%016" PRIx64 ":%" PRIu64 "\"", l->epoch,
			 l->oldest);
	n = (size_t)snprintf(body, sizeof(body), "{\"topic\":");
	n += json_string(l->name, body + n);
	n += (size_t)snprintf(body + n, sizeof(body) - n,
			      ",\"head\":%s,\"oldest\":%s,\"messages\":%" PRIu64
			      ",\"bytes\":%" PRIu64 ",\"subscribers\":%" PRIu64
			      ",\"publishers\":%" PRIu64 "}\n",
			      head, oldest, l->messages, l->bytes, l->subscribers, l->publishers);
	http_answer(c, &(struct http_answer){ .status = 200,
					      .type = SPAN("application/json"),
					      .headers = "Cache-Control: no-store\r\n",
					      .body = { body, n } });
}

void route_fetched(struct shard *s, struct fetch_letter *l)
{
	struct connection *c = http_waited(s, l->slot, l->generation, l->ticket);
	struct conditions wanted;
	char cache[64] = "no-store";

	if (c == NULL) {
		fetch_letter_free(l);
		return;
	}
	wanted = kept_conditions(c);
	if (l->error == -ETIMEDOUT) {
		http_error(c, 503, "the message has not come in time");
	} else if (l->error == -ENOSPC) {
		http_error(c, 503, "too many topics or waiting requests");
	} else if (l->error == -ENOMEM) {
		http_error(c, 503, "out of memory");
	} else if (l->error != 0) {
		http_error(c, 404, l->kind == FETCH_ABOUT ? "no such topic" : "no such message");
	} else if (l->kind == FETCH_ABOUT) {
		answer_topic(c, l);
	} else {
		if (l->kind == FETCH_MESSAGE)
			snprintf(cache, sizeof(cache), "public, max-age=%" PRIu64 ", immutable",
				 l->max_age_s);
		/* Whoever may publish may not run scripts in this broker's name. */
		answer_resource(c, l->block, l->body, l->epoch, l->seq, cache,
				"Content-Security-Policy: sandbox\r\n", &wanted);
	}
	fetch_letter_free(l);
}

/* ---- life ---- */

static void answer_text(struct connection *c, struct span text)
{
	http_answer(c, &(struct http_answer){ .status = 200,
					      .type = SPAN("text/plain; charset=utf-8"),
					      .headers = "Cache-Control: no-store\r\n",
					      .body = text });
}

static void handle_health(struct connection *c, const struct http_request *r, struct span rest)
{
	(void)r;
	(void)rest;
	answer_text(c, SPAN("ok\n"));
}

static void handle_ready(struct connection *c, const struct http_request *r, struct span rest)
{
	(void)r;
	(void)rest;
	if (c->shard->drain.draining)
		http_error(c, 503, "draining");
	else
		answer_text(c, SPAN("ok\n"));
}

/* ---- the table ---- */

enum { READING = HTTP_VERB_GET | HTTP_VERB_HEAD };

static const struct route own[] = {
	{ .path = "/publish/",
	  .prefix = true,
	  .guarded = true,
	  .methods = HTTP_VERB_POST,
	  .handle = handle_publish },
	{ .path = "/subscribe/",
	  .prefix = true,
	  .guarded = true,
	  .methods = READING,
	  .handle = handle_subscribe },
	{ .path = "/topic/", .prefix = true, .methods = READING, .handle = handle_topic },
	{ .path = "/object/", .prefix = true, .methods = READING, .handle = handle_object },
	{ .path = "/health", .vital = true, .methods = READING, .handle = handle_health },
	{ .path = "/ready", .vital = true, .methods = READING, .handle = handle_ready },
};

void routes_add(struct broker *b, const struct route *route)
{
	assert(b->routes_n < sizeof(b->routes) / sizeof(*b->routes));
	b->routes[b->routes_n++] = route;
}

void routes_init(struct broker *b)
{
	for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
		routes_add(b, &own[i]);
}

static const struct route *find(const struct broker *b, struct span path, struct span *rest)
{
	for (unsigned i = 0; i < b->routes_n; i++) {
		const struct route *route = b->routes[i];
		struct span wanted = span_of(route->path);

		if (route->prefix ? path.len <= wanted.len : path.len != wanted.len)
			continue;
		if (memcmp(path.data, wanted.data, wanted.len) != 0)
			continue;
		*rest = span_skip(path, wanted.len);
		return route;
	}
	return NULL;
}

/* Whether this is one of the names that the broker is called by. */
static bool host_allowed(const struct config_http *config, struct span host)
{
	struct span bare = host;
	const char *colon;

	if (config->allowed_hosts_n == 0)
		return true;
	if (host.len == 0)
		return false;
	colon = memrchr(host.data, ':', host.len);
	/* Not a colon within [::1]. */
	if (colon != NULL && memchr(colon, ']', host.len - (size_t)(colon - host.data)) == NULL)
		bare.len = (size_t)(colon - host.data);
	for (size_t i = 0; i < config->allowed_hosts_n; i++) {
		const char *allowed = config->allowed_hosts[i];
		size_t n = strlen(allowed);

		if ((n == host.len && strncasecmp(allowed, host.data, n) == 0) ||
		    (n == bare.len && strncasecmp(allowed, bare.data, n) == 0))
			return true;
	}
	return false;
}

static bool origin_allowed(const struct config_http *config, struct span origin)
{
	for (size_t i = 0; i < config->allowed_origins_n; i++)
		if (origin.len <= ORIGIN_BYTES_MAX &&
		    span_equal(span_of(config->allowed_origins[i]), origin))
			return true;
	return false;
}

static void answer_options(struct connection *c, const struct route *route)
{
	char headers[256];
	unsigned methods = route != NULL ? route->methods : READING | HTTP_VERB_POST;
	const char *names =
		methods & HTTP_VERB_POST
			? (methods & HTTP_VERB_GET ? "GET, HEAD, POST, OPTIONS" : "POST, OPTIONS")
			: "GET, HEAD, OPTIONS";
	int n = snprintf(headers, sizeof(headers), "Allow: %s\r\n", names);

	if (c->http->origin != NULL)
		snprintf(headers + n, sizeof(headers) - (size_t)n,
			 "Access-Control-Allow-Methods: %s\r\n"
			 "Access-Control-Allow-Headers: Content-Type, Last-Event-ID, "
			 "If-None-Match, Range, X-Version\r\n"
			 "Access-Control-Max-Age: 600\r\n",
			 names);
	http_answer(c, &(struct http_answer){ .status = 204, .headers = headers });
}

static void refuse_method(struct connection *c, const struct route *route)
{
	static const char body[] = "{\"error\":\"method not allowed\"}\n";

	if (c->http->state == HTTP_RECEIVING) {
		http_close_after(c);
		c->http->state = HTTP_READING;
	}
	http_answer(c, &(struct http_answer){ .status = 405,
					      .type = SPAN("application/json"),
					      .headers = route->methods & HTTP_VERB_POST
								 ? "Allow: POST, OPTIONS\r\n"
								 : "Allow: GET, HEAD, OPTIONS\r\n",
					      .body = SPAN(body) });
}

void routes_dispatch(struct connection *c, const struct http_request *r)
{
	const struct config_http *config = &c->shard->config->http;
	struct span rest = { NULL, 0 };
	const struct route *route = find(c->shard->broker, r->path, &rest);
	bool foreign = r->origin.data != NULL;

	if (foreign && origin_allowed(config, r->origin)) {
		c->http->origin = strndup(r->origin.data, r->origin.len);
		foreign = false;
	}
	if (!host_allowed(config, r->host)) {
		http_error(c, 403, "host not allowed");
	} else if (route == NULL && !span_equal(r->path, SPAN("*"))) {
		http_error(c, 404, "no such page");
	} else if (r->verb == HTTP_VERB_OPTIONS) {
		answer_options(c, route);
	} else if (!(route->methods & r->verb)) {
		refuse_method(c, route);
	} else if (foreign && (route->guarded || r->verb == HTTP_VERB_POST)) {
		http_error(c, 403, "origin not allowed");
	} else if (route->local && config->page_local_only && !connection_local(c)) {
		http_error(c, 403, "local clients only");
	} else if (c->shard->drain.draining && !route->vital) {
		http_error(c, 503, "draining");
	} else {
		route->handle(c, r, rest);
	}
}
