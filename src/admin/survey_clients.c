#include <inttypes.h>
#include <string.h>

#include "admin/survey.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/connection.h"
#include "broker/identity.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "broker/wild.h"
#include "protocol/http.h"
#include "session/http_answer.h"
#include "session/routes.h"
#include "topic/interest.h"

/*
 * GET /clients: how many there are of each protocol and user, and the subscribers that are furthest
 * behind.
 */

enum {
	KINDS_MAX = 64, /* of clients; beyond they are counted together */
	SLOWEST = 16,
	LOOKED_MAX = 64, /* subscriptions of one connection */
};

struct client_kind {
	const char *protocol;
	char user[JWT_NAME_MAX + 1];
	uint64_t connections, subscriptions, secure;
};

struct slow_client {
	uint64_t bytes, messages, since_ns, kernel_bytes;
	const char *protocol;
	char user[JWT_NAME_MAX + 1], address[CONNECTION_PEER_MAX];
	uint8_t name_len;
	char name[NAME_BYTES_MAX];
};

struct clients_survey {
	struct survey survey; /* first */
	unsigned kinds_n, slowest_n;
	struct client_kind kinds[KINDS_MAX], others;
	struct slow_client slowest[SLOWEST]; /* the furthest behind first */
};

/* A walk's connections, for whom. */
struct walk {
	struct shard *shard;
	struct clients_survey *survey;
};

static const char *user_of(const struct connection *c)
{
	return c->identity != NULL ? c->identity->rights->name : "";
}

static struct client_kind *kind_of(struct clients_survey *v, const struct connection *c)
{
	const char *user = user_of(c), *protocol = c->protocol->name;

	for (unsigned i = 0; i < v->kinds_n; i++)
		if (strcmp(v->kinds[i].protocol, protocol) == 0 &&
		    strcmp(v->kinds[i].user, user) == 0)
			return &v->kinds[i];
	if (v->kinds_n == KINDS_MAX)
		return &v->others;
	v->kinds[v->kinds_n].protocol = protocol;
	memcpy(v->kinds[v->kinds_n].user, user, strlen(user) + 1);
	return &v->kinds[v->kinds_n++];
}

/* What a subscription is to; of a pattern its text. */
static struct span name_of(const struct subscription *sub)
{
	const struct interest *i = subscription_interest(sub);

	return i->wild != NULL ? i->wild->pattern.text : i->named.name;
}

static void look(struct walk *w, const struct connection *c, const struct subscription *sub)
{
	const struct stream *stream = sub->connection != NULL ? subscription_stream(sub) : NULL;
	struct clients_survey *v = w->survey;
	uint64_t bytes = stream != NULL ? cursor_backlog(stream, &sub->cursor) : 0, since_ns;
	struct slow_client *slow = v->slowest + SLOWEST - 1;
	unsigned at = v->slowest_n;
	struct span name;

	if (bytes == 0 || (at == SLOWEST && slow->bytes >= bytes))
		return;
	at -= at == SLOWEST;
	for (; at > 0 && v->slowest[at - 1].bytes < bytes; at--)
		v->slowest[at] = v->slowest[at - 1];
	v->slowest_n += v->slowest_n < SLOWEST;
	slow = &v->slowest[at];
	since_ns = cursor_behind_since(&sub->cursor);
	name = name_of(sub);
	*slow = (struct slow_client){
		.bytes = bytes,
		.messages = stream->count - sub->cursor.counted,
		.since_ns = since_ns != 0 ? w->shard->reactor.now_ns - since_ns : 0,
		.kernel_bytes = c->kernel_bytes,
		.protocol = c->protocol->name,
		.name_len = (uint8_t)name.len,
	};
	memcpy(slow->name, name.data, name.len);
	memcpy(slow->user, user_of(c), strlen(user_of(c)) + 1);
	(void)connection_peer_text(c, slow->address);
	reactor_spend(&w->shard->reactor, SLOWEST);
}

/* Of many subscriptions those that wait for their turn are enough: the others are not behind. */
static void look_at_many(struct walk *w, const struct connection *c)
{
	const struct subscription *last = c->queue, *sub = last;
	unsigned n = 0;

	if (last != NULL) {
		do {
			sub = sub->next;
			look(w, c, sub);
		} while (sub != last && ++n < LOOKED_MAX);
	}
	if (c->middle != NULL)
		look(w, c, c->middle);
	reactor_spend(&w->shard->reactor, LOOKED_MAX / 4);
}

static void look_at(struct connection *c, void *argument)
{
	const struct subscription *sub = c->subscriptions;
	struct walk *w = argument;
	struct client_kind *kind;

	if (c->state == CONNECTION_CLOSED || c->protocol == NULL)
		return;
	kind = kind_of(w->survey, c);
	kind->connections++;
	kind->subscriptions += c->subscriptions_n;
	kind->secure += c->socket.tls != NULL;
	if (c->subscriptions_n > LOOKED_MAX) {
		look_at_many(w, c);
		return;
	}
	for (uint32_t n = 0; n < c->subscriptions_n; n++, sub = subscription_next(sub))
		look(w, c, sub);
	reactor_spend(&w->shard->reactor, c->subscriptions_n / 4);
}

static bool collect(struct shard *s, struct survey *v)
{
	struct walk w = { .shard = s, .survey = (struct clients_survey *)(void *)v };
	struct connections_walk all = connections_all();
	bool more;

	if (v->begun)
		all = (struct connections_walk){ .at = (uint32_t)v->at, .left = (uint32_t)v->left };
	v->begun = true;
	more = connections_walk(s, &all, look_at, &w);
	v->at = all.at;
	v->left = all.left;
	return more;
}

static void write_kind(struct text *text, const struct client_kind *k, const char *before)
{
	char user[6 * JWT_NAME_MAX + 3];

	user[json_string(span_of(k->user), user)] = 0;
	text_add(text,
		 "%s\n{\"protocol\":\"%s\",\"user\":%s,\"connections\":%" PRIu64
		 ",\"subscriptions\":%" PRIu64 ",\"tls\":%" PRIu64 "}",
		 before, k->protocol, user, k->connections, k->subscriptions, k->secure);
}

static void write_slow(struct text *text, const struct slow_client *slow, const char *before)
{
	char user[6 * JWT_NAME_MAX + 3], name[6 * NAME_BYTES_MAX + 3];
	char address[6 * CONNECTION_PEER_MAX + 3];

	user[json_string(span_of(slow->user), user)] = 0;
	name[json_string((struct span){ slow->name, slow->name_len }, name)] = 0;
	address[json_string(span_of(slow->address), address)] = 0;
	text_add(text,
		 "%s\n{\"address\":%s,\"protocol\":\"%s\",\"user\":%s,\"topic\":%s,\"bytes\":"
		 "%" PRIu64 ",\"messages\":%" PRIu64 ",\"kernel_bytes\":%" PRIu64
		 ",\"behind_ms\":%" PRIu64 "}",
		 before, address, slow->protocol, user, name, slow->bytes, slow->messages,
		 slow->kernel_bytes, slow->since_ns / NS_PER_MS);
}

static bool write(struct text *text, const struct survey *survey, unsigned step)
{
	const struct clients_survey *v = (const struct clients_survey *)(const void *)survey;

	if (step == 0)
		text_add(text, "{\"time_ms\":%" PRIu64 ",\"kinds\":[", clock_wall_ns() / NS_PER_MS);
	if (step < v->kinds_n) {
		write_kind(text, &v->kinds[step], step > 0 ? "," : "");
		return true;
	}
	step -= v->kinds_n;
	if (step == 0)
		text_add(text, "],\"others\":%" PRIu64 ",\"slowest\":[", v->others.connections);
	if (step < v->slowest_n) {
		write_slow(text, &v->slowest[step], step > 0 ? "," : "");
		return true;
	}
	text_add(text, "]}\n");
	return false;
}

static void handle_clients(struct connection *c, const struct http_request *r, struct span rest)
{
	static const struct survey_kind kind = { .rounds = 1, .collect = collect, .write = write };

	(void)r;
	(void)rest;
	survey_ask(c, memory_new_zeroed(sizeof(struct clients_survey)), &kind);
}

void survey_clients_init(struct broker *b)
{
	static const struct route clients = { .path = "/clients",
					      .local = true,
					      .methods = HTTP_VERB_GET | HTTP_VERB_HEAD,
					      .handle = handle_clients };

	routes_add(b, &clients);
}
