#include "session/nats.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/memory.h"
#include "broker/access.h"
#include "broker/listener.h"
#include "broker/shard.h"
#include "session/gather.h"
#include "session/opening.h"
#include "session/shared.h"

enum {
	SERVER_ID_BYTES = 56,
	PONGS_AT_ONCE = 64,
};

static char server_name[64];

/* ---- words ---- */

const char *nats_session_say(struct connection *c, enum reason reason)
{
	switch (reason) {
	case REASON_TIMEOUT:
		return nats_last_word(c, NATS_TIMEOUT);
	case REASON_NOT_PERMITTED:
		return nats_last_word(c, NATS_UNAUTHORIZED);
	case REASON_EXPIRED:
		return nats_last_word(c, NATS_EXPIRED);
	case REASON_CONNECTIONS:
		/* Behind INFO, which every client waits for. */
		if (nats_of(c) == NULL)
			nats_session_opened(c);
		return nats_last_word(c, NATS_FULL);
	/* Whoever is told why comes back no more: these are for the client to come back from. */
	case REASON_SLOW:
	case REASON_SUBSCRIPTIONS:
	case REASON_TOPICS:
	case REASON_PATTERNS:
	case REASON_MEMORY:
	case REASON_DRAINING:
	case REASON_GAP:
	case REASON_UPSTREAM:
	case REASON_TOO_LONG:
	case REASON_NONE:
	case REASONS:
	default:
		return nats_last_word(c, NULL);
	}
}

const char *nats_session_farewell(const struct connection *c, bool bye)
{
	(void)bye;
	return nats_last_word(c, NULL);
}

/* ---- INFO ---- */

void nats_sessions_name(void)
{
	nats_words_init();
	if (gethostname(server_name, sizeof(server_name) - 1) != 0)
		server_name[0] = 0;
}

/* The same in all shards, another one in each process: N and 55 letters and digits. */
static void server_id(char id[SERVER_ID_BYTES + 1])
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
	uint64_t bits = 0;

	id[0] = 'N';
	for (unsigned i = 1; i < SERVER_ID_BYTES; i++) {
		if (i % 12 == 1)
			bits = hash_bytes(&i, sizeof(i));
		id[i] = digits[bits & 31];
		bits >>= 5;
	}
	id[SERVER_ID_BYTES] = 0;
}

static void put_address(const unsigned char address[16], char out[INET6_ADDRSTRLEN])
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
	bool v4 = memcmp(address, mapped, sizeof(mapped)) == 0;

	if (inet_ntop(v4 ? AF_INET : AF_INET6, address + (v4 ? 12 : 0), out, INET6_ADDRSTRLEN) ==
	    NULL)
		out[0] = 0;
}

/* Whether its listener wants TLS. */
static bool is_secure(const struct connection *c)
{
	return c->shard->broker->listeners[c->listener].secure;
}

/* Whether it is about to go, and clients had better look elsewhere. */
static bool is_lame(const struct connection *c)
{
	return c->shard->drain.draining || atomic_load(&c->shard->broker->lame);
}

static void say_info(struct connection *c)
{
	struct nats_session *nats = nats_of(c);
	char text[NATS_INFO_MAX], id[SERVER_ID_BYTES + 1], host[INET6_ADDRSTRLEN],
		ip[INET6_ADDRSTRLEN];
	struct ring *ring = c->shard->reactor.ring;
	struct nats_info info = { .max_payload = c->shard->config->limits.message_bytes,
				  .client_id = nats->client_id,
				  .auth_required = access_needed(c),
				  .tls_required = is_secure(c),
				  .ldm = is_lame(c) };
	unsigned char address[16];

	ring_local(ring, c->socket.fd, address, &info.port);
	put_address(address, host);
	ring_peer(ring, c->socket.fd, address);
	put_address(address, ip);
	server_id(id);
	info.server_id = span_of(id);
	info.server_name = span_of(server_name);
	info.host = span_of(host);
	/* Of a client behind a proxy it would be the proxy's. */
	info.client_ip = c->proxied ? SPAN("") : span_of(ip);
	nats->told_lame = info.ldm;
	nats->told_payload = info.max_payload;
	nats_say(c, (struct span){ text, nats_info(&info, text) });
}

/* Between CONNECT and the answer to its PING clients take nothing else. */
void nats_session_news(struct connection *c)
{
	const struct nats_session *nats = nats_of(c);

	if (nats != NULL && nats->newer && nats->greeted &&
	    (nats->told_lame != is_lame(c) ||
	     nats->told_payload != c->shard->config->limits.message_bytes))
		say_info(c);
}

/* ---- CONNECT ---- */

static void log_in(struct connection *c, const struct nats_options *o,
		   const struct nats_credentials *secrets)
{
	const struct credentials credentials = {
		.user = span_of(o->has_user ? secrets->user : ""),
		.secret = span_of(o->has_user ? secrets->pass : secrets->token),
	};

	nats_of(c)->logging_in = true;
	access_login(c, &credentials);
}

void nats_session_logged_in(struct connection *c, enum access_result result)
{
	nats_of(c)->logging_in = false;
	if (c->state != CONNECTION_OPEN)
		return;
	if (result == ACCESS_GRANTED)
		nats_ok(c);
	else if (result == ACCESS_WRONG)
		connection_fail(c, nats_last_word(c, NATS_UNAUTHORIZED));
	else
		connection_fail(c, nats_last_word(c, NULL));
}

static bool credentials_count(const struct connection *c)
{
	return c->shard->config->users_n > 0 || c->shard->config->auth.jwt.keys_n > 0;
}

static void take_options(struct connection *c, struct span json)
{
	struct nats_session *nats = nats_of(c);
	struct nats_credentials secrets;
	struct nats_options o = { .verbose = false };

	const struct nats_options before = { .verbose = nats->verbose,
					     .echo = !nats->no_echo,
					     .headers = nats->headers,
					     .no_responders = nats->no_responders,
					     .protocol = nats->newer };

	if (!nats_connect(json, &before, &o, &secrets)) {
		nats_fail(c, NATS_UNKNOWN);
	} else if (o.account) {
		nats_fail(c, NATS_UNAUTHORIZED);
	} else if (o.protocol < 0 || o.protocol > 1) {
		nats_fail(c, NATS_WRONG_PROTOCOL);
	} else if (o.no_responders && !o.headers) {
		nats_fail(c, NATS_NO_RESPONDERS);
	} else {
		nats->verbose = o.verbose;
		nats->no_echo = !o.echo;
		nats->headers = o.headers;
		nats->no_responders = o.no_responders;
		nats->newer = o.protocol == 1;
		if ((o.has_user || o.has_token) && credentials_count(c))
			log_in(c, &o, &secrets);
		else if (access_needed(c))
			nats_fail(c, NATS_UNAUTHORIZED);
		else
			nats_ok(c);
	}
	explicit_bzero(&secrets, sizeof(secrets));
}

/* ---- PING and PONG ---- */

static void ping(struct connection *c)
{
	gather_flush(c);
	nats_of(c)->work->pings++;
	if (!connection_barred(c))
		nats_barrier(c);
}

/* What was before the PINGs that it is for has happened. */
void nats_session_barrier(struct connection *c)
{
	struct nats_session *nats = nats_of(c);

	if (nats->framed) {
		for (uint32_t i = 0; i < nats->work->barred; i++)
			nats_say(c, SPAN("PONG\r\n"));
	} else {
		char pongs[6 * PONGS_AT_ONCE];

		for (size_t at = 0; at < sizeof(pongs); at += 6)
			memcpy(pongs + at, "PONG\r\n", 6);
		for (uint32_t left = nats->work->barred, n; left > 0; left -= n) {
			n = left < PONGS_AT_ONCE ? left : PONGS_AT_ONCE;
			if (!connection_reply(c, (struct span){ pongs, 6 * (size_t)n }))
				return;
		}
	}
	nats->work->awaited = (struct nats_sent){ .topics = 0 };
	nats->work->pings -= nats->work->barred;
	nats->greeted |= nats->work->barred > 0;
	nats->work->barred = 0;
	nats_session_news(c);
}

/* Whether it is there, when it has said nothing for long. */
static void look(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);
	struct nats_session *nats = nats_of(c);
	struct shard *s = context;

	if (!nats->heard && nats->pings_out >= s->config->nats.pings_out) {
		connection_fail(c, nats_last_word(c, NATS_STALE));
		return;
	}
	reactor_deadline(&s->reactor, &session_shared(s)->nats_ping, d);
	if (!nats->heard) {
		nats->pings_out++;
		nats_say(c, SPAN("PING\r\n"));
	}
	nats->heard = false;
}

/* ---- commands ---- */

/* Whether a command has to wait: for what those before it asked for. */
static bool must_wait(const struct connection *c, const struct nats_event *e)
{
	const struct nats_session *nats = nats_of(c);

	if (nats->logging_in || nats->draining || nats->work->failed != NULL)
		return true;
	switch (e->kind) {
	case NATS_PUBLISH:
		if (c->asked > 0)
			return true;
		break;
	case NATS_ERROR:
	case NATS_CONNECT:
	case NATS_SUBSCRIBE: /* which may be refused */
		return nats->work->pings > 0;
	case NATS_PING:
	case NATS_PONG:
	case NATS_UNSUBSCRIBE:
	case NATS_MORE:
	default:
		break;
	}
	/* What is confirmed is so in order. */
	return nats->verbose && nats->work->pings > 0;
}

static size_t take(struct connection *c, struct span in)
{
	struct nats_session *nats = nats_of(c);
	struct nats_event e;
	size_t used;

	if (nats->work->discarded > 0)
		return nats_discard(c, in);
	nats_decode(in, c->shard->config->limits.command_bytes, &e, &used);
	if (e.kind == NATS_MORE)
		return 0;
	if (must_wait(c, &e)) {
		intake_hold(nats->intake);
		return 0;
	}
	if (!nats->connected && e.kind != NATS_ERROR) {
		nats->connected = true;
		reactor_deadline(&c->shard->reactor, &session_shared(c->shard)->nats_ping,
				 &c->deadline);
	}
	if (e.kind != NATS_CONNECT && e.kind != NATS_ERROR && access_needed(c)) {
		nats_fail(c, NATS_UNAUTHORIZED);
		return used;
	}
	switch (e.kind) {
	case NATS_CONNECT:
		take_options(c, e.text);
		break;
	case NATS_PING:
		ping(c);
		break;
	case NATS_PONG:
		nats->pings_out = 0;
		break;
	case NATS_SUBSCRIBE:
		return nats_subscribe(c, &e, used);
	case NATS_UNSUBSCRIBE:
		return nats_unsubscribe(c, &e, used);
	case NATS_PUBLISH:
		return nats_publish(c, &e, in, used);
	case NATS_ERROR:
		gather_flush(c);
		nats_fail(c, e.text.data);
		break;
	case NATS_MORE:
	default:
		break;
	}
	return used;
}

/* Nothing is owed, and nothing waits for an answer. */
static bool idle(const struct connection *c)
{
	const struct nats_session *nats = nats_of(c);

	return !nats_owes(nats) && !connection_barred(c) && nats->work->failed == NULL &&
	       nats->work->discarded == 0;
}

static const struct intake_use use = {
	.take = take, .collected = nats_collected, .publishing = nats_publishing, .idle = idle
};

/* False: out of memory, the connection is closed. */
static bool begin_work(struct connection *c)
{
	struct nats_session *nats = nats_of(c);

	if (!intake_take(&nats->intake, c, &use))
		return false;
	nats->intake->wrapped = nats->framed;
	return true;
}

/* ---- a connection's life ---- */

static bool begin(struct connection *c, bool framed)
{
	struct nats_session *nats = memory_new_zeroed(sizeof(*nats));
	struct shard *s = c->shard;

	if (nats == NULL) {
		connection_close(c, DROP_MEMORY);
		return false;
	}
	nats->verbose = true;
	nats->framed = framed;
	nats->client_id = ++session_shared(s)->nats_clients * s->broker->shards_n + s->id;
	memcpy(c->session, &nats, sizeof(nats));
	say_info(c);
	return c->state != CONNECTION_CLOSED;
}

void nats_session_opened(struct connection *c)
{
	(void)begin(c, false);
}

bool nats_session_framed(struct connection *c)
{
	return begin(c, true);
}

/* Its INFO was said in clear; CONNECT comes now. */
void nats_session_secured(struct connection *c)
{
	(void)c;
}

void nats_session_received(struct connection *c, struct span bytes)
{
	nats_of(c)->heard = true;
	if (!is_secure(c) || c->socket.tls != NULL || nats_of(c)->framed) {
		if (begin_work(c))
			intake_received(nats_of(c)->intake, bytes);
	} else if (bytes.data[0] == CLIENT_HELLO) {
		connection_secure(c, bytes);
	} else {
		connection_fail(c, nats_last_word(c, NATS_NOT_SECURE));
	}
}

void nats_session_ended(struct connection *c)
{
	if (nats_of(c)->intake != NULL)
		intake_ended(nats_of(c)->intake);
	else
		connection_goodbye(c);
}

void nats_session_resume(struct connection *c)
{
	struct nats_session *nats = nats_of(c);

	if (nats == NULL || nats->work == NULL)
		return;
	if (c->state == CONNECTION_OPEN && !connection_barred(c)) {
		if (nats->work->failed != NULL && !nats_owes(nats))
			connection_fail(c, nats_last_word(c, nats->work->failed));
		else if (nats->work->failed != NULL || nats->work->pings > 0)
			nats_barrier(c);
	}
	intake_resume(nats->intake);
}

/* What it says from now on would come to homes that have ended: nothing of it is done any more. */
void nats_session_drain(struct connection *c)
{
	struct nats_session *nats = nats_of(c);

	if (nats == NULL || nats->draining)
		return;
	nats->draining = true;
	nats_session_news(c);
}

bool nats_session_silent(const struct connection *c)
{
	(void)c;
	return false; /* it is asked whether it is there */
}

uint64_t nats_session_held(const struct connection *c)
{
	return nats_of(c) != NULL && nats_of(c)->intake != NULL ? intake_held(nats_of(c)->intake)
								: 0;
}

void nats_session_free(struct connection *c)
{
	struct nats_session *nats = nats_of(c);

	if (nats == NULL)
		return;
	nats_subscriptions_release(c);
	intake_give_back(nats->intake);
	memory_free(nats);
}

void nats_sessions_init(struct shard *s)
{
	struct deadline_class *class = &session_shared(s)->nats_ping;

	pool_init_small(&session_shared(s)->nats_subscriptions, NATS_SUBSCRIPTION_BYTES);
	deadline_class_init(class, s->config->nats.ping_seconds * NS_PER_S);
	reactor_watch(&s->reactor, class, look, s);
}

void nats_sessions_configure(struct shard *s)
{
	reactor_deadlines_change(&s->reactor, &session_shared(s)->nats_ping,
				 s->config->nats.ping_seconds * NS_PER_S);
}
