#include "session/routes.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "broker/connection.h"
#include "broker/fetch.h"
#include "protocol/line.h"
#include "protocol/sse.h"
#include "session/http_answer.h"
#include "session/http_resource.h"
#include "session/http_login.h"
#include "session/http.h"
#include "session/shared.h"
#include "broker/objects.h"
#include "broker/subscription.h"
#include "broker/shard.h"
#include "protocol/http.h"
#include "protocol/http_field.h"
#include "topic/block.h"

enum {
	ANSWER_COST = 12,           /* of one to whoever has waited, about 3 us */
	BODY_BYTES_MIN = 4 << 10,   /* room for a body of unknown length to begin with */
	BODY_BYTES_FIRST = 1 << 20, /* most room for one that is only announced */
	ORIGIN_BYTES_MAX = 512,
	/* A playlist that was asked for by version may be kept for six target durations (RFC
	 * 8216bis, B.1). Nobody has told us how long these are; six seconds is what most are. */
	PLAYLIST_SECONDS = 6 * 6,
	TOPIC_JSON_MAX = 2 + 2 * NAME_BYTES_MAX, /* names hold no control characters */
};

/* ---- files ---- */

static void handle_object(struct connection *c, const struct http_request *r, struct span rest)
{
	const struct http_conditions wanted = http_conditions_of(r);
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
		b = objects_find(c->shard->objects, (struct span){ name, (size_t)n });
	if (b == NULL)
		http_error(c, 404, "no such object");
	else
		http_answer_resource(c, b, (struct span){ block_body(b), b->len }, b->epoch,
				     block_number(b), "no-cache", "", &wanted);
}

/* ---- topics ---- */

/* pattern: NULL: it may be none. */
static bool route_name(struct connection *c, struct span text, char name[256], struct span *topic,
		       bool *pattern)
{
	char decoded[3 * NAME_BYTES_MAX];
	/* A '/' of a name is written %2F: else /publish/a/1 would go elsewhere than /topic/a/1. */
	bool whole = text.len <= sizeof(decoded) && memchr(text.data, '/', text.len) == NULL;
	ptrdiff_t n = whole ? http_unescape(text, false, decoded) : -1;

	if (n < 0 || n > NAME_BYTES_MAX) {
		http_error(c, 400, "bad topic");
		return false;
	}
	memcpy(name, decoded, (size_t)n);
	*topic = (struct span){ name, (size_t)n };
	if (pattern != NULL)
		*pattern = !name_valid(*topic);
	if (pattern != NULL && *pattern ? name_pattern_valid(*topic) : name_valid(*topic))
		return true;
	http_error(c, 400, "bad topic");
	return false;
}

bool route_topic(struct connection *c, struct span text, char name[256], struct span *topic)
{
	return route_name(c, text, name, topic, NULL);
}

/* Reading one of the broker's own topics is for whom the operator lets look; who passes others'
 * requests on says so. */
bool route_may_read(struct connection *c, const struct http_request *r, struct span topic)
{
	bool may = topic_internal(topic)
			   ? access_may_monitor(c, r->forwarded)
			   : access_may(c, ACCESS_SUBSCRIBE, topic, !name_valid(topic));

	if (!may)
		http_not_permitted(c, "not permitted");
	return may;
}

/* The codings that the body is said to have, into out; false: they are none, or too many. */
static bool encoding_of(const struct http_request *r, char out[BLOCK_LABEL_MAX],
			struct span *encoding)
{
	struct http_list list = r->content_encoding;
	struct span coding;

	*encoding = (struct span){ out, 0 };
	while (http_list_next(&list, &coding)) {
		size_t at = encoding->len + (encoding->len > 0 ? 2 : 0);

		if (http_equal(coding, SPAN("identity")))
			continue;
		if (!http_token(coding) || at + coding.len > BLOCK_LABEL_MAX)
			return false;
		if (at > 0)
			memcpy(out + at - 2, ", ", 2);
		memcpy(out + at, coding.data, coding.len);
		encoding->len = at + coding.len;
	}
	return true;
}

static void handle_publish(struct connection *c, const struct http_request *r, struct span rest)
{
	size_t announced = r->chunked ? BODY_BYTES_MIN : (size_t)r->content_length;
	/* It grows with what comes of more. */
	size_t capacity = announced < BODY_BYTES_FIRST ? announced : BODY_BYTES_FIRST;
	struct block_labels labels = { .type = r->content_type,
				       .version = r->version,
				       .key = r->idempotency_key };
	struct http_session *http = http_of(c);
	char name[256], encoding[BLOCK_LABEL_MAX];
	struct span topic;
	uint64_t version[2];
	struct block *b;

	if (!route_topic(c, rest, name, &topic))
		return;
	if (!access_may(c, ACCESS_PUBLISH, topic, false)) {
		http_not_permitted(c, "not permitted");
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
	if (r->idempotency_key.data != NULL &&
	    (r->idempotency_key.len == 0 || r->idempotency_key.len > BLOCK_LABEL_MAX)) {
		http_error(c, 400, "malformed Idempotency-Key");
		return;
	}
	if (!encoding_of(r, encoding, &labels.encoding)) {
		http_error(c, 400, "malformed Content-Encoding");
		return;
	}
	b = block_new_labelled(topic, topic_hash(topic), &labels, capacity);
	if (b == NULL)
		http_error(c, 503, "out of memory");
	else
		http->receiving = b;
}

void route_sequenced(struct connection *c, const struct sequenced_letter *l)
{
	char body[TOPIC_JSON_MAX + 80];
	size_t n;

	if (http_of(c) == NULL || !http_of(c)->publishing)
		return;
	c = http_waited(c->shard, l->slot, l->generation, http_of(c)->ticket);
	if (c != NULL && l->error == -EMSGSIZE) {
		http_error(c, 413, "message too long");
	} else if (c != NULL && l->error != 0) {
		http_error(c, 503,
			   l->error == -ENOSPC         ? "too many topics"
			   : l->error == -EHOSTUNREACH ? "upstream"
						       : "out of memory");
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

static bool wants_events(const struct http_request *r)
{
	return http_list_says(r->accept, SPAN("text/event-stream")) == HTTP_WANTED;
}

/* What a subscription to a pattern is, or why it is none. */
static bool of_pattern(struct connection *c, bool events, struct subscription_wanted *wanted)
{
	if (!events) {
		http_error(c, 406, "patterns are streams of events");
		return false;
	}
	/* Whoever is cut off comes back where it is now: an id would be that of one topic. */
	if (wanted->replay.kind == REPLAY_FROM)
		wanted->replay.kind = REPLAY_NONE;
	if (wanted->replay.kind == REPLAY_LAST && wanted->replay.n != 1) {
		http_error(c, 400, "of patterns there is the last one");
		return false;
	}
	wanted->pattern = PATTERN_NATIVE;
	wanted->wire.parameter = SPAN("topic");
	return true;
}

static void handle_subscribe(struct connection *c, const struct http_request *r, struct span rest)
{
	bool events = wants_events(r);
	struct subscription_wanted wanted = {
		.wire.format = !r->http_1_0 ? events ? &sse_format : &chunked_format
			       : events     ? &sse_plain_format
					    : &bytes_format,
	};
	struct subscription *sub;
	char name[256];
	bool pattern;
	int err;

	if (!route_name(c, rest, name, &wanted.name, &pattern) ||
	    !route_may_read(c, r, wanted.name))
		return;
	if (!replay_of(r, &wanted.replay)) {
		http_error(c, 400, "malformed last");
		return;
	}
	if (pattern && !of_pattern(c, events, &wanted))
		return;
	if (r->verb == HTTP_VERB_HEAD) {
		http_answer(
			c, &(struct http_answer){ .status = 200,
						  .type = events ? SPAN("text/event-stream")
								 : SPAN("application/octet-stream"),
						  .headers = "Cache-Control: no-store\r\n"
							     "X-Accel-Buffering: no\r\n",
						  .endless = true });
		return;
	}
	(void)http_wait(c);
	err = subscription_new(c, &wanted, &sub);
	if (err != 0)
		connection_no_subscription(c, err);
}

void routes_fetch(struct connection *c, struct fetch_letter *l)
{
	struct shard *s = c->shard;

	l->shard = s->id;
	l->slot = c->socket.slot;
	l->generation = socket_generation(&s->sockets, &c->socket);
	l->ticket = http_wait(c);
	shard_post(s, shard_home(s, l->hash), LANE_FREE, &l->letter);
}

static void handle_topic(struct connection *c, const struct http_request *r, struct span rest)
{
	const char *slash = rest.len > 0 ? memchr(rest.data, '/', rest.len) : NULL;
	struct span what = { NULL, 0 }, topic, msn, part;
	enum fetch_kind kind = FETCH_ABOUT;
	uint64_t wanted[2] = { 0, UINT64_MAX };
	struct fetch_letter *l;
	char name[256];
	uint64_t hash;

	if (slash != NULL) {
		what = span_skip(rest, (size_t)(slash - rest.data) + 1);
		rest.len = (size_t)(slash - rest.data);
	}
	if (!route_topic(c, rest, name, &topic) || !route_may_read(c, r, topic))
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
	} else if (slash != NULL && span_equal(what, SPAN("next"))) {
		kind = FETCH_NEXT;
		if (!http_number(http_query(r->query, SPAN("after")), &wanted[0]) ||
		    wanted[0]++ == UINT64_MAX) {
			http_error(c, 400, "malformed after");
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
	hash = topic_hash(topic);
	l = fetch_letter_new(kind, topic, hash);
	if (l == NULL || !http_conditions_keep(c, r)) {
		if (l != NULL)
			fetch_letter_free(l);
		http_error(c, 503, "out of memory");
		return;
	}
	l->wanted[0] = wanted[0];
	l->wanted[1] = wanted[1];
	routes_fetch(c, l);
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

static void route_fetched(struct shard *s, struct fetch_letter *l)
{
	struct connection *c = http_waited(s, l->slot, l->generation, l->ticket);
	struct http_conditions wanted;
	char cache[64] = "no-store";

	if (c == NULL) {
		fetch_letter_free(l);
		return;
	}
	wanted = http_conditions_kept(c);
	if (l->error == -ETIMEDOUT) {
		http_error(c, 503, "the message has not come in time");
	} else if (l->error == -ERANGE) {
		http_error(c, 400, "_HLS_msn is too far ahead");
	} else if (l->error == -ENOSPC) {
		http_error(c, 503, "too many topics or waiting requests");
	} else if (l->error == -ENOMEM) {
		http_error(c, 503, "out of memory");
	} else if (l->error != 0) {
		http_error(c, 404, l->kind == FETCH_ABOUT ? "no such topic" : "no such message");
	} else if (l->kind == FETCH_ABOUT) {
		answer_topic(c, l);
	} else if (l->kind == FETCH_FIGURES) {
		http_answer(c, &(struct http_answer){ .status = 200,
						      .type = block_type(l->block),
						      .headers = "Cache-Control: no-store\r\n",
						      .body = l->body,
						      .hold = l->block });
	} else {
		if (l->kind == FETCH_MESSAGE || l->kind == FETCH_NEXT)
			snprintf(cache, sizeof(cache), "public, max-age=%" PRIu64 ", immutable",
				 l->max_age_s);
		else if (l->kind == FETCH_VERSION)
			snprintf(cache, sizeof(cache), "public, max-age=%d", PLAYLIST_SECONDS);
		/* Whoever may publish may not run scripts in this broker's name. */
		http_answer_resource(c, l->block, l->body, l->epoch, l->seq, cache,
				     "Content-Security-Policy: sandbox\r\n", &wanted);
	}
	fetch_letter_free(l);
}

void routes_fetched(struct shard *s, struct fetch_letter *l)
{
	if (l->waited)
		list_append(&http_shared(s)->answers, &l->link);
	else
		route_fetched(s, l);
}

bool routes_flush(struct shard *s)
{
	struct list *l;

	if (list_empty(&http_shared(s)->answers))
		return false;
	reactor_part(&s->reactor, PART_TOPICS);
	do {
		l = list_take(&http_shared(s)->answers);
		route_fetched(s, LIST_ENTRY(l, struct fetch_letter, link));
		reactor_spend(&s->reactor, ANSWER_COST);
	} while (!list_empty(&http_shared(s)->answers) && !reactor_spent(&s->reactor));
	return !list_empty(&http_shared(s)->answers);
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
	if (c->shard->drain.draining || atomic_load(&c->shard->broker->lame))
		http_error(c, 503, "draining");
	else if (atomic_load(&c->shard->broker->cut_off) > 0)
		http_error(c, 503, "upstream");
	else
		answer_text(c, SPAN("ok\n"));
}

/* ---- the table ---- */

enum { READING = HTTP_VERB_GET | HTTP_VERB_HEAD, WRITING = HTTP_VERB_POST | HTTP_VERB_PUT };

static const struct route own[] = {
	{ .path = "/publish/",
	  .prefix = true,
	  .guarded = true,
	  .methods = WRITING,
	  .handle = handle_publish },
	{ .path = "/subscribe/",
	  .prefix = true,
	  .guarded = true,
	  .methods = READING,
	  .handle = handle_subscribe },
	{ .path = "/ticket",
	  .guarded = true,
	  .methods = HTTP_VERB_POST,
	  .handle = http_ticket_begin },
	{ .path = "/topic/", .prefix = true, .methods = READING, .handle = handle_topic },
	{ .path = "/object/", .prefix = true, .methods = READING, .handle = handle_object },
	{ .path = "/health",
	  .vital = true,
	  .probed = true,
	  .methods = READING,
	  .handle = handle_health },
	{ .path = "/ready",
	  .vital = true,
	  .probed = true,
	  .methods = READING,
	  .handle = handle_ready },
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

static const struct route *find(const struct broker *b, const struct http_request *r,
				struct span *rest)
{
	struct span path = r->path;

	for (unsigned i = 0; i < b->routes_n; i++) {
		const struct route *route = b->routes[i];
		struct span wanted = span_of(route->path);

		if (route->upgrades != r->websocket)
			continue;
		if (route->prefix ? path.len <= wanted.len : path.len != wanted.len)
			continue;
		if (memcmp(path.data, wanted.data, wanted.len) != 0)
			continue;
		*rest = span_skip(path, wanted.len);
		return route;
	}
	return NULL;
}

/* ---- who may ask ---- */

static bool host_named(const struct config_http *config, struct span host)
{
	struct span bare = http_host_bare(host);

	for (size_t i = 0; i < config->allowed_hosts_n; i++) {
		struct span allowed = span_of(config->allowed_hosts[i]);

		if (http_equal(allowed, host) || http_equal(allowed, bare))
			return true;
	}
	return false;
}

/* Whether a page that a browser has from this Host is the broker's own: a name that is neither
 * allowed nor the machine's own may be one that a foreign name server says anything of. */
static bool host_proven(const struct config_http *config, struct span host)
{
	return config->allowed_hosts_n > 0 ? host_named(config, host) : http_host_literal(host);
}

/* What only knows an address, or no Host at all, may ask how the broker is; and what there is to
 * ask for (OPTIONS). */
static bool host_allowed(const struct config_http *config, const struct route *route,
			 const struct http_request *r, bool browser)
{
	if (route != NULL && (route->vital || (route->probed && !browser)))
		return true;
	if (r->verb == HTTP_VERB_OPTIONS && !browser)
		return true;
	if (config->allowed_hosts_n > 0)
		return host_named(config, r->host);
	return !browser || http_host_literal(r->host);
}

static bool origin_allowed(const struct config_http *config, struct span origin)
{
	for (size_t i = 0; i < config->allowed_origins_n; i++)
		if (origin.len <= ORIGIN_BYTES_MAX &&
		    span_equal(span_of(config->allowed_origins[i]), origin))
			return true;
	return false;
}

/* ---- methods ---- */

/* "GET, HEAD, OPTIONS" */
static void list_methods(unsigned methods, char out[64])
{
	static const struct {
		unsigned verb;
		const char *name;
	} names[] = { { HTTP_VERB_GET, "GET, " },
		      { HTTP_VERB_HEAD, "HEAD, " },
		      { HTTP_VERB_POST, "POST, " },
		      { HTTP_VERB_PUT, "PUT, " } };

	*out = 0;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (methods & names[i].verb)
			strcat(out, names[i].name);
	strcat(out, "OPTIONS");
}

static void answer_options(struct connection *c, const struct route *route)
{
	char headers[512], names[64];
	int n;

	list_methods(route != NULL ? route->methods : (unsigned)READING | WRITING, names);
	n = snprintf(headers, sizeof(headers), "Allow: %s\r\n", names);
	if (http_of(c)->reading->origin != NULL)
		snprintf(headers + n, sizeof(headers) - (size_t)n,
			 "Access-Control-Allow-Methods: %s\r\n"
			 "Access-Control-Allow-Headers: Authorization, Content-Encoding, "
			 "Content-Type, Idempotency-Key, If-Match, If-None-Match, If-Range, "
			 "Last-Event-ID, Range, X-Version\r\n"
			 "Access-Control-Max-Age: 600\r\n",
			 names);
	http_answer(c, &(struct http_answer){ .status = 204, .headers = headers });
}

static void refuse_method(struct connection *c, const struct route *route)
{
	static const char body[] = "{\"error\":\"method not allowed\"}\n";
	char headers[96], names[64];

	if (http_of(c)->state == HTTP_RECEIVING) {
		http_close_after(c);
		http_of(c)->state = HTTP_READING;
	}
	list_methods(route->methods, names);
	snprintf(headers, sizeof(headers), "Allow: %s\r\n", names);
	http_answer(c, &(struct http_answer){ .status = 405,
					      .type = SPAN("application/json"),
					      .headers = headers,
					      .body = SPAN(body) });
}

/* The page and figures are for whom the operator lets look. */
static bool may_see(struct connection *c, const struct http_request *r, const struct route *route)
{
	if (route->local || (route->scraped && !access_open(c)))
		return access_may_monitor(c, r->forwarded);
	return !route->scraped || !access_needed(c);
}

void routes_dispatch(struct connection *c, const struct http_request *r)
{
	const struct config_http *config = &c->shard->config->http;
	struct span rest = { NULL, 0 };
	const struct route *route = find(c->shard->broker, r, &rest);
	bool foreign = r->origin.data != NULL, browser = foreign || r->fetched, proven;

	http_of(c)->events = route != NULL && route->handle == handle_subscribe &&
			     r->verb == HTTP_VERB_GET && wants_events(r);
	if (foreign && origin_allowed(config, r->origin)) {
		http_of(c)->reading->origin = strndup(r->origin.data, r->origin.len);
		foreign = browser = false;
	}
	/* A page of the broker's own, which browsers name with every POST. */
	if (foreign && http_same_origin(r->origin, r->host) && host_proven(config, r->host))
		foreign = false;
	proven = foreign ? false
			 : r->origin.data != NULL || http_equal(r->fetch_site, SPAN("same-origin"));
	if (foreign && route != NULL && (route->guarded || r->verb & WRITING) &&
	    r->verb != HTTP_VERB_OPTIONS && r->verb & route->methods) {
		http_error(c, 403, "origin not allowed");
	} else if (!host_allowed(config, route, r, browser)) {
		http_error(c, 403, "host not allowed");
	} else if (route == NULL && !span_equal(r->path, SPAN("*"))) {
		http_error(c, 404, "no such page");
	} else if (r->verb == HTTP_VERB_OPTIONS) {
		answer_options(c, route);
	} else if (!(route->methods & r->verb)) {
		refuse_method(c, route);
	} else if (c->shard->drain.draining && !route->vital) {
		connection_error(c, REASON_DRAINING);
	} else if (connection_refused(c) && !route->upgrades) {
		connection_error(c, (enum reason)c->refusal);
	} else if (route->vital) {
		route->handle(c, r, rest);
	} else if (http_login(c, r, proven)) {
		if (!may_see(c, r, route))
			http_not_permitted(c, "local clients only");
		else
			route->handle(c, r, rest);
	}
}

void routes_release(struct shard *s)
{
	struct list *l;

	while ((l = list_take(&http_shared(s)->answers)) != NULL)
		fetch_letter_free(LIST_ENTRY(l, struct fetch_letter, link));
}
