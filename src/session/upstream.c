#include "session/upstream.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "broker/connection.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/shared.h"

enum {
	LINE_BYTES_MAX = 32 << 10, /* INFO names all servers of a cluster */
	OUT_BYTES_MIN = 4 << 10,
	OUT_BYTES_KEPT = 256 << 10, /* of memory, when it is empty */
};

static const unsigned may_become[] = {
	[UPSTREAM_DOWN] = 1 << UPSTREAM_DIALLING,
	[UPSTREAM_DIALLING] = 1 << UPSTREAM_GREETING | 1 << UPSTREAM_DOWN,
	[UPSTREAM_GREETING] = 1 << UPSTREAM_SECURING | 1 << UPSTREAM_JOINING | 1 << UPSTREAM_DOWN,
	[UPSTREAM_SECURING] = 1 << UPSTREAM_JOINING | 1 << UPSTREAM_DOWN,
	[UPSTREAM_JOINING] = 1 << UPSTREAM_CHECKING | 1 << UPSTREAM_UP | 1 << UPSTREAM_DOWN,
	[UPSTREAM_CHECKING] = 1 << UPSTREAM_UP | 1 << UPSTREAM_DOWN,
	[UPSTREAM_UP] = 1 << UPSTREAM_DOWN,
};

static void become(struct upstream *u, enum upstream_state state)
{
	assert(may_become[u->state] & 1U << state);
	u->state = state;
}

static struct upstream *upstream_of(const struct connection *c)
{
	return session_shared(c->shard)->upstream;
}

/* ---- what is said ---- */

static bool upstream_write(struct upstream *u, struct span bytes)
{
	struct upstream_bytes *out = &u->out;

	/* What follows on what is not there would be read as something else. */
	if (u->overrun)
		return false;
	if (out->len + bytes.len > out->room) {
		size_t room = out->room < OUT_BYTES_MIN ? OUT_BYTES_MIN : 2 * out->room;
		char *data;

		room = room < out->len + bytes.len ? out->len + bytes.len : room;
		data = memory_resize(out->data, room);
		if (data == NULL) {
			/* Nobody may be taken aback in the middle of what he writes. */
			u->overrun = true;
			return false;
		}
		out->data = data;
		out->room = room;
	}
	memcpy(out->data + out->len, bytes.data, bytes.len);
	out->len += bytes.len;
	return true;
}

static void ping(struct upstream *u)
{
	if (!upstream_write(u, SPAN("PING\r\n")))
		return;
	u->pings++;
	u->unpinged = false;
	u->pinged_ns = upstream_now(u);
}

static void flush(struct upstream *u)
{
	struct connection *c = u->connection;
	struct span bytes = { u->out.data, u->out.len };

	if (bytes.len == 0 || c == NULL || u->overrun)
		return;
	u->out.len = 0;
	if (!connection_reply(c, bytes))
		return;
	if (u->out.room > OUT_BYTES_KEPT) {
		memory_free(u->out.data);
		u->out = (struct upstream_bytes){ .data = NULL };
	}
	connection_flush(c);
}

/* ---- up and down ---- */

/* Another try, later: up to half as long again or half as long, so that many hosts do not come all
 * at once. */
static void back_off(struct upstream *u)
{
	uint64_t max_ns = u->config->reconnect_ms_max * NS_PER_MS;

	u->act_ns = upstream_now(u) + u->backoff_ns / 2 + hash_unique() % (u->backoff_ns + 1);
	u->backoff_ns = 2 * u->backoff_ns < max_ns ? 2 * u->backoff_ns : max_ns;
	upstream_servers_next(u);
}

static void set_cut_off(struct upstream *u, bool cut_off)
{
	if (cut_off == u->cut_off)
		return;
	u->cut_off = cut_off;
	atomic_fetch_add(&u->shard->broker->cut_off, cut_off ? 1 : UINT32_MAX);
}

static void upstream_lose(struct upstream *u, const char *why)
{
	struct connection *c = u->connection;
	bool was_up = u->state == UPSTREAM_UP;

	if (u->state == UPSTREAM_DOWN)
		return;
	if (!u->shard->drain.draining && (was_up || !u->told)) {
		log_warn("upstream: reactor %u: %s: %s", u->shard->id, upstream_server_host(u),
			 why);
		u->told = true;
	}
	u->connection = NULL;
	upstream_servers_leave(u);
	become(u, UPSTREAM_DOWN);
	u->out.len = 0;
	u->overrun = false;
	u->pings = u->pongs = 0;
	u->shard->counters.upstream_up = 0;
	if (was_up)
		u->down_ns = upstream_now(u);
	back_off(u);
	upstream_deliver(u);
	if (was_up)
		upstream_topics_lost(u);
	if (c != NULL)
		connection_close(c, DROP_CLOSED);
}

static void rise(struct upstream *u)
{
	become(u, UPSTREAM_UP);
	u->nth++;
	u->unpinged = false;
	u->backoff_ns = u->config->reconnect_ms_min * NS_PER_MS;
	u->told = false;
	u->shard->counters.upstream_up = 1;
	u->shard->counters.upstream_reconnects += u->nth > 1;
	set_cut_off(u, false);
	upstream_inbox_begin(u);
	log_info("upstream: reactor %u is connected to %s (%s, nats-server %s%s)", u->shard->id,
		 upstream_server_host(u), u->info.name, u->info.version,
		 u->connection->socket.tls != NULL ? ", TLS" : "");
}

static void dialled(void *context, int result)
{
	struct upstream *u = context;

	if (result < 0 && upstream_servers_again(u) == 0)
		return;
	if (result < 0) {
		upstream_lose(u, strerror(-result));
		return;
	}
	upstream_servers_leave(u);
	u->connection = connection_dialled(u->shard, result, u->protocol);
	if (u->connection == NULL) {
		upstream_lose(u, "out of memory");
		return;
	}
	become(u, UPSTREAM_GREETING);
}

static void dial(struct upstream *u)
{
	const char *problem;

	/* What is left of the last one comes first: its memory is the intake's. */
	if (dial_busy(&u->dial) || u->intake.connection != NULL)
		return;
	become(u, UPSTREAM_DIALLING);
	u->act_ns = upstream_now(u) + upstream_deaf_ns(u);
	problem = upstream_servers_dial(u);
	if (problem != NULL)
		upstream_lose(u, problem);
}

/* ---- what is heard ---- */

/* CONNECT, and whether that is taken. */
static void join(struct upstream *u)
{
	const struct nats_login login = {
		.name = "broker", .user = u->user, .pass = u->pass, .token = u->token
	};
	char text[NATS_LOGIN_MAX];
	size_t n = nats_login(&login, text);

	if (n == 0) {
		upstream_lose(u, "user, password or token are too long");
		return;
	}
	become(u, UPSTREAM_JOINING);
	if (upstream_write(u, (struct span){ text, n }))
		ping(u);
}

static void secure(struct upstream *u)
{
	become(u, UPSTREAM_SECURING);
	if (connection_secure_dialled(u->connection, upstream_server_certified(u)) != 0)
		upstream_lose(u, "out of memory");
}

void upstream_secured(struct connection *c)
{
	struct upstream *u = upstream_of(c);

	if (u->connection == c)
		join(u);
}

static void greeted(struct upstream *u, struct span json)
{
	if (!nats_server(json, &u->info) || u->info.max_payload == 0) {
		upstream_lose(u, "it is no nats-server");
		return;
	}
	upstream_servers_learn(u);
	if (u->state != UPSTREAM_GREETING)
		return;
	if (!u->info.headers)
		upstream_lose(u, "it is too old: it knows no headers");
	else if (u->info.tls_required || (upstream_server_secure(u) && u->info.tls_available))
		secure(u);
	else if (upstream_server_secure(u))
		upstream_lose(u, "it speaks no TLS, which tls:// asks for");
	else
		join(u);
}

static void answered(struct upstream *u)
{
	if (u->pongs == u->pings)
		return;
	u->pongs++;
	if (u->pongs == u->pings)
		u->rtt_ns = clock_now_ns() - u->shard->reactor.stopped_ns - u->pinged_ns;
	if (u->state == UPSTREAM_JOINING && u->log) {
		become(u, UPSTREAM_CHECKING);
		upstream_log_begin(u);
	} else if (u->state == UPSTREAM_JOINING) {
		rise(u);
	}
	u->shard->counters.upstream_rtt_ns = u->rtt_ns;
	/* What has come before it is delivered before anybody is told that it has. */
	upstream_deliver(u);
	upstream_topics_answered(u);
}

static void complained(struct upstream *u, struct span text)
{
	char why[160];

	snprintf(why, sizeof(why), "it says %.*s", (int)(text.len < 128 ? text.len : 128),
		 text.data);
	/* Of a subject: the connection stays. */
	if (text.len > 11 && memcmp(text.data, "'Permission", 11) == 0) {
		log_warn("upstream: reactor %u: %s: %s", u->shard->id, upstream_server_host(u),
			 why);
		return;
	}
	upstream_lose(u, why);
}

static size_t take_message(struct upstream *u, const struct nats_said *said, struct span in,
			   size_t used)
{
	size_t total = used + said->bytes + 2;

	if (in.len < total) {
		intake_need(&u->intake, total);
		return 0;
	}
	if (memcmp(in.data + total - 2, "\r\n", 2) != 0) {
		upstream_lose(u, "a message does not end where it should");
		return total;
	}
	upstream_topics_message(u, said, (struct span){ in.data + used, said->header_bytes },
				(struct span){ in.data + used + said->header_bytes,
					       said->bytes - said->header_bytes });
	if (u->state == UPSTREAM_CHECKING && upstream_log_checked(u))
		rise(u);
	return total;
}

static size_t take(struct connection *c, struct span in)
{
	struct upstream *u = upstream_of(c);
	struct nats_said said;
	size_t used;

	/* Between a server and its handshake somebody else might speak. */
	if (u->state == UPSTREAM_SECURING) {
		upstream_lose(u, "it goes on in clear where TLS was to begin");
		return in.len;
	}
	nats_said(in, LINE_BYTES_MAX, &said, &used);
	switch (said.kind) {
	case NATS_SAID_MESSAGE:
		return take_message(u, &said, in, used);
	case NATS_SAID_PING:
		(void)upstream_write(u, SPAN("PONG\r\n"));
		break;
	case NATS_SAID_PONG:
		answered(u);
		break;
	case NATS_SAID_INFO:
		greeted(u, said.text);
		break;
	case NATS_SAID_ERROR:
		complained(u, said.text);
		break;
	case NATS_SAID_NONSENSE:
		upstream_lose(u, "it does not speak NATS");
		return in.len;
	case NATS_SAID_OK:
	case NATS_SAID_MORE:
	default:
		break;
	}
	return used;
}

static const struct intake_use use = { .take = take };

void upstream_received(struct connection *c, struct span bytes)
{
	struct upstream *u = upstream_of(c);

	if (u->connection != c)
		return;
	if (u->intake.connection != c)
		intake_init(&u->intake, c, &use);
	u->heard_ns = upstream_now(u);
	intake_received(&u->intake, bytes);
	if (u->connection == c)
		upstream_deliver(u);
}

void upstream_ends(struct connection *c, bool receipt)
{
	struct upstream *u = upstream_of(c);
	const struct tls *tls = c->socket.tls;
	const char *problem = tls != NULL ? cipher_problem(tls->cipher) : NULL;
	char why[160] = "it has closed the connection";

	(void)receipt;
	if (problem == NULL && tls != NULL && u->state <= UPSTREAM_JOINING)
		problem = "it has closed the connection: does it ask for a certificate?";
	if (u->connection != c)
		return;
	if (problem != NULL)
		snprintf(why, sizeof(why), "TLS: %s (as %s)", problem,
			 upstream_server_certified(u));
	upstream_lose(u, why);
}

const char *upstream_say(struct connection *c, enum reason reason)
{
	(void)c;
	(void)reason;
	return NULL;
}

const char *upstream_farewell(const struct connection *c, bool bye)
{
	(void)c;
	(void)bye;
	return NULL;
}

void upstream_resume(struct connection *c)
{
	struct upstream *u = upstream_of(c);

	if (u->intake.connection == c)
		intake_resume(&u->intake);
}

/* It is listened to by PINGs. */
bool upstream_silent(const struct connection *c)
{
	(void)c;
	return false;
}

uint64_t upstream_held(const struct connection *c)
{
	const struct upstream *u = upstream_of(c);

	return u->intake.connection == c ? intake_held(&u->intake) : 0;
}

void upstream_free(struct connection *c)
{
	struct upstream *u = upstream_of(c);

	if (u->intake.connection != c)
		return;
	intake_release(&u->intake);
	u->intake.connection = NULL;
}

/* ---- a turn ---- */

static void sooner(uint64_t *next_ns, uint64_t at_ns)
{
	if (at_ns < *next_ns)
		*next_ns = at_ns;
}

static void look_at_the_clock(struct upstream *u, uint64_t *next_ns)
{
	uint64_t now_ns = upstream_now(u), ping_ns = u->config->ping_seconds * NS_PER_S;
	uint64_t not_ready_ns = u->down_ns + u->config->not_ready_seconds * NS_PER_S;
	const char *problem;

	if (u->state == UPSTREAM_UP) {
		if (now_ns - u->heard_ns >= upstream_deaf_ns(u))
			upstream_lose(u, "it has not been heard of");
		else if (now_ns - u->pinged_ns >= ping_ns)
			ping(u);
		sooner(next_ns, u->pinged_ns + ping_ns);
		sooner(next_ns, u->heard_ns + upstream_deaf_ns(u));
		return;
	}
	if (now_ns >= not_ready_ns)
		set_cut_off(u, true);
	else
		sooner(next_ns, not_ready_ns);
	problem = upstream_servers_look(u, next_ns);
	if (problem != NULL)
		upstream_lose(u, problem);
	if (now_ns < u->act_ns) {
		sooner(next_ns, u->act_ns);
		return;
	}
	if (u->state == UPSTREAM_DOWN)
		dial(u);
	else
		upstream_lose(u, "it does not answer");
	/* Another look soon where what is left of the last connection has still to go. */
	sooner(next_ns, u->act_ns > now_ns ? u->act_ns : now_ns + NS_PER_MS);
}

bool upstream_go_on(struct shard *s)
{
	struct upstream *u = session_shared(s)->upstream;
	uint64_t next_ns = UINT64_MAX;
	bool more = false;

	/* At the end of a drain it is gone for good. */
	if (u->state == UPSTREAM_DOWN && s->drain.draining) {
		upstream_topics_expire(u, &next_ns);
		return false;
	}
	if (u->overrun)
		upstream_lose(u, "out of memory");
	look_at_the_clock(u, &next_ns);
	upstream_deliver(u);
	upstream_topics_expire(u, &next_ns);
	if (u->state == UPSTREAM_UP) {
		more = upstream_topics_write(u);
		if (u->state == UPSTREAM_UP && u->unpinged)
			ping(u);
	}
	flush(u);
	if (next_ns != UINT64_MAX)
		reactor_wake_at(&s->reactor, next_ns);
	return more || u->overrun;
}

/* ---- a shard's part ---- */

int upstream_secret(const char *path, char out[UPSTREAM_SECRET_MAX])
{
	FILE *f;

	if (*path == 0)
		return 0;
	f = fopen(path, "re");
	if (f == NULL) {
		log_error("upstream: %s cannot be read: %s", path, strerror(errno));
		return -errno;
	}
	if (fgets(out, UPSTREAM_SECRET_MAX, f) == NULL)
		out[0] = 0;
	fclose(f);
	out[strcspn(out, "\r\n")] = 0;
	return 0;
}

static int read_secrets(struct upstream *u)
{
	const struct config_upstream *config = u->config;
	int err = upstream_secret(config->password_file, u->pass);

	if (err == 0)
		err = upstream_secret(config->token_file, u->token);
	snprintf(u->user, sizeof(u->user), "%s", config->user);
	return err;
}

int upstream_init(struct shard *s, const struct protocol *protocol)
{
	struct upstream *u;

	if (s->config->upstreams_n == 0)
		return 0;
	u = calloc(1, sizeof(*u));
	if (u == NULL)
		return -ENOMEM;
	session_shared(s)->upstream = u;
	u->shard = s;
	u->protocol = protocol;
	u->write = upstream_write;
	u->lose = upstream_lose;
	u->config = &s->config->upstreams[0];
	u->log = u->config->log == CONFIG_LOG_JETSTREAM;
	upstream_servers_init(u);
	u->backoff_ns = u->config->reconnect_ms_min * NS_PER_MS;
	u->act_ns = u->down_ns = s->reactor.now_ns;
	snprintf(u->nonce, sizeof(u->nonce), "%0*" PRIx64, UPSTREAM_NONCE,
		 hash_unique() >> (64 - 4 * UPSTREAM_NONCE));
	dial_init(&u->dial, &s->reactor, dialled, u);
	/* It is ready when it has been connected once. */
	set_cut_off(u, true);
	if (read_secrets(u) != 0)
		return -EACCES;
	return upstream_topics_init(u);
}

void upstream_release(struct shard *s)
{
	struct upstream *u = session_shared(s)->upstream;

	if (u == NULL)
		return;
	upstream_servers_leave(u);
	dial_release(&u->dial);
	upstream_topics_release(u);
	memory_free(u->out.data);
	free(u);
	session_shared(s)->upstream = NULL;
}
