#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/name.h"
#include "server.h"
#include "sim.h"

/*
 * A nats-server, as simple as can be: it takes one command after the other, of whichever
 * connection, and every message goes to whoever has subscribed to its subject by then. What fails
 * is what fails with real ones: connections that end in good order, or without a word, or with a
 * complaint, all of them at once, nobody there to dial, and long silence.
 */

enum { WORDS_MAX = 6, SID_MAX = 24, SUBJECT_MAX = 200, SAID_AT_ONCE = 20000 };

static const char info[] = "INFO {\"server_id\":\"S\",\"server_name\":\"sim\",\"version\":\"2.9."
			   "10\",\"proto\":1,\"headers\":true,\"max_payload\":1048576}\r\n";

struct bytes {
	char *data;
	size_t n, slots;
};

struct peer {
	struct sim_tcp wire;
	bool used, greeted;
	bool ends; /* as soon as what there is to say has been said */
	struct bytes heard, said;
	struct wish {
		char subject[SUBJECT_MAX], sid[SID_MAX];
	} * interests;
	size_t interests_n, interests_slots;
};

static struct server {
	struct peer connections[SIM_DIALS_MAX];
	struct random random;
	uint64_t away_until_ns, silent_until_ns;
	unsigned lost, slips; /* one in so many */
} server;

/* ---- bytes ---- */

static void add(struct bytes *b, const char *data, size_t n)
{
	if (b->n + n > b->slots) {
		b->slots = 2 * (b->n + n);
		b->data = sim_realloc(b->data, b->slots);
	}
	if (n > 0)
		memcpy(b->data + b->n, data, n);
	b->n += n;
}

static void add_text(struct bytes *b, const char *text)
{
	add(b, text, strlen(text));
}

static void take_off(struct bytes *b, size_t n)
{
	b->n -= n;
	memmove(b->data, b->data + n, b->n);
}

static size_t some(size_t n)
{
	return n == 0 || random_one_in(&server.random, 3)
		       ? n
		       : random_size(&server.random, (unsigned)n);
}

/* ---- connections ---- */

void server_init(void)
{
	server.random = random_for(sim.params.schedule, 21, 0);
	server.away_until_ns = server.silent_until_ns = 0;
	server.lost = 0;
	server.slips = random_from(&server.random, 4, 300);
	jetstream_init();
}

static void forget(struct peer *c)
{
	char *in = c->wire.in.data, *out = c->wire.out.data;

	sim_free(c->heard.data);
	sim_free(c->said.data);
	sim_free(c->interests);
	memset(c, 0, sizeof(*c));
	c->wire.in.data = in;
	c->wire.out.data = out;
}

void server_release(void)
{
	jetstream_release();
	for (unsigned i = 0; i < SIM_DIALS_MAX; i++)
		forget(&server.connections[i]);
}

unsigned server_lost(void)
{
	return server.lost;
}

static size_t pipe_bytes(void)
{
	static const size_t sizes[] = { 64, 1000, 4096, SIM_PIPE_BYTES_MAX };

	return sim.calm ? SIM_PIPE_BYTES_MAX : sizes[random_below(&server.random, 4)];
}

int server_accept(struct sim_tcp **wire)
{
	static const int refusals[] = { ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT, EINTR };
	struct peer *c = server.connections;

	if (!sim.calm && sim.now_ns < server.away_until_ns)
		return random_one_in(&server.random, 8)
			       ? -EAGAIN
			       : -refusals[random_below(&server.random, 5)];
	while (c->used)
		if (++c == server.connections + SIM_DIALS_MAX)
			sim_fail("the broker dials and dials");
	if (c->wire.in.data == NULL) {
		c->wire.in.data = sim_alloc(SIM_PIPE_BYTES_MAX);
		c->wire.out.data = sim_alloc(SIM_PIPE_BYTES_MAX);
	}
	c->used = true;
	c->wire.in.max = pipe_bytes();
	c->wire.out.max = pipe_bytes();
	*wire = &c->wire;
	return 0;
}

/* Nothing of it is heard, or will be, any more. */
static bool deaf(const struct peer *c)
{
	return c->wire.reset || c->wire.client_closed;
}

static void lose(struct peer *c)
{
	if (deaf(c))
		return;
	kernel_reset(&c->wire);
	c->wire.client_fin = c->wire.client_closed = true;
	c->interests_n = 0;
	server.lost++;
}

static void close_orderly(struct peer *c)
{
	c->ends = true;
	c->interests_n = 0;
	server.lost++;
}

/* ---- messages ---- */

static void pass_on(struct peer *c, const struct wish *to, const struct server_message *m)
{
	char head[2 * SUBJECT_MAX + SID_MAX + 64];
	size_t n = m->headers.len + m->payload.len;
	int at = snprintf(head, sizeof(head), "%s %.*s %s %.*s%s",
			  m->headers.len > 0 ? "HMSG" : "MSG", (int)m->subject.len, m->subject.data,
			  to->sid, (int)m->reply.len, m->reply.data, m->reply.len > 0 ? " " : "");

	if (m->headers.len > 0)
		at += snprintf(head + at, sizeof(head) - (size_t)at, "%zu ", m->headers.len);
	at += snprintf(head + at, sizeof(head) - (size_t)at, "%zu\r\n", n);
	add(&c->said, head, (size_t)at);
	add(&c->said, m->headers.data, m->headers.len);
	add(&c->said, m->payload.data, m->payload.len);
	add_text(&c->said, "\r\n");
}

unsigned server_spread(struct span to, const struct server_message *m)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SIM_DIALS_MAX; i++) {
		struct peer *c = &server.connections[i];

		for (size_t at = 0; c->used && at < c->interests_n; at++) {
			if (!name_matches(span_of(c->interests[at].subject), to))
				continue;
			pass_on(c, &c->interests[at], m);
			n++;
		}
	}
	return n;
}

static void publish(const struct server_message *m)
{
	const struct server_message nobody = { .subject = m->reply,
					       .headers = SPAN("NATS/1.0 503\r\n\r\n"),
					       .reply = { "", 0 },
					       .payload = { "", 0 } };

	if (jetstream_takes(m))
		return;
	cluster_published(m->subject, m->payload);
	if (server_spread(m->subject, m) == 0 && m->reply.len > 0)
		(void)server_spread(m->reply, &nobody);
}

void server_publish(struct span subject, struct span payload)
{
	const struct server_message m = {
		.subject = subject, .reply = { "", 0 }, .headers = { "", 0 }, .payload = payload
	};

	publish(&m);
}

bool server_slips(void)
{
	bool now = sim.calm == CALM_NONE && (sim.params.faults & 1u << FAULT_UPSTREAM) &&
		   random_one_in(&server.random, server.slips);

	sim.fired[FAULT_UPSTREAM] += now;
	return now;
}

void server_disorder(void)
{
	server.lost++;
}

unsigned server_below(unsigned n)
{
	return random_below(&server.random, n);
}

/* ---- commands ---- */

static unsigned split(struct span line, struct span words[WORDS_MAX])
{
	unsigned n = 0;

	while (line.len > 0 && n < WORDS_MAX) {
		const char *space = memchr(line.data, ' ', line.len);
		size_t len = space != NULL ? (size_t)(space - line.data) : line.len;

		words[n++] = (struct span){ line.data, len };
		line = span_skip(line, len + (space != NULL));
	}
	return n;
}

static size_t number_of(struct span word)
{
	size_t n = 0;

	for (size_t i = 0; i < word.len; i++) {
		if (word.data[i] < '0' || word.data[i] > '9')
			sim_fail("the server is told of %.*s bytes", (int)word.len, word.data);
		n = 10 * n + (size_t)(word.data[i] - '0');
	}
	return n;
}

static void copy(char *to, size_t max, struct span word)
{
	if (word.len == 0 || word.len >= max)
		sim_fail("the server is told of %.*s", (int)word.len, word.data);
	memcpy(to, word.data, word.len);
	to[word.len] = 0;
}

static void subscribe(struct peer *c, struct span subject, struct span sid)
{
	struct wish *s;

	if (c->interests_n == c->interests_slots) {
		c->interests_slots = 2 * c->interests_slots + 8;
		c->interests =
			sim_realloc(c->interests, c->interests_slots * sizeof(*c->interests));
	}
	s = &c->interests[c->interests_n++];
	copy(s->subject, sizeof(s->subject), subject);
	copy(s->sid, sizeof(s->sid), sid);
}

static void unsubscribe(struct peer *c, struct span sid)
{
	for (size_t i = 0; i < c->interests_n; i++) {
		if (!span_equal(span_of(c->interests[i].sid), sid))
			continue;
		c->interests_n--;
		memmove(&c->interests[i], &c->interests[i + 1],
			(c->interests_n - i) * sizeof(*c->interests));
		return;
	}
	sim_fail("the server is told to end %.*s, which is none", (int)sid.len, sid.data);
}

/* PUB subject [reply] bytes, HPUB subject [reply] header_bytes bytes. How long it is with its
 * payload; 0: it is not all there. */
static size_t take_publish(const struct bytes *in, size_t line, const struct span *words,
			   unsigned n)
{
	bool headers = words[0].len == 4;
	unsigned fixed = headers ? 4 : 3;
	size_t bytes, header_bytes;
	struct server_message m = { .subject = words[1], .reply = { "", 0 } };

	if (n < fixed || n > fixed + 1)
		sim_fail("the server hears %.*s", (int)line, in->data);
	bytes = number_of(words[n - 1]);
	header_bytes = headers ? number_of(words[n - 2]) : 0;
	if (header_bytes > bytes)
		sim_fail("the server hears %.*s", (int)line, in->data);
	if (in->n < line + bytes + 2)
		return 0;
	if (memcmp(in->data + line + bytes, "\r\n", 2) != 0)
		sim_fail("a message to the server does not end where it should");
	if (n > fixed)
		m.reply = words[2];
	m.headers = (struct span){ in->data + line, header_bytes };
	m.payload = (struct span){ in->data + line + header_bytes, bytes - header_bytes };
	publish(&m);
	return line + bytes + 2;
}

static size_t take(struct peer *c)
{
	const char *lf = c->heard.n > 0 ? memchr(c->heard.data, '\n', c->heard.n) : NULL;
	size_t line = lf != NULL ? (size_t)(lf - c->heard.data) + 1 : 0;
	struct span words[WORDS_MAX];
	unsigned n;

	if (line == 0)
		return 0;
	if (line < 2 || lf[-1] != '\r')
		sim_fail("the server hears a line without its CR");
	n = split((struct span){ c->heard.data, line - 2 }, words);
	if (n >= 3 && (span_equal(words[0], SPAN("PUB")) || span_equal(words[0], SPAN("HPUB"))))
		return take_publish(&c->heard, line, words, n);
	if (n == 3 && span_equal(words[0], SPAN("SUB")))
		subscribe(c, words[1], words[2]);
	else if (n == 2 && span_equal(words[0], SPAN("UNSUB")))
		unsubscribe(c, words[1]);
	else if (n == 1 && span_equal(words[0], SPAN("PING")))
		add_text(&c->said, "PONG\r\n");
	else if (n == 0 ||
		 (!span_equal(words[0], SPAN("CONNECT")) && !span_equal(words[0], SPAN("PONG"))))
		sim_fail("the server hears %.*s", (int)line, c->heard.data);
	return line;
}

/* ---- a step ---- */

static bool listen(struct peer *c)
{
	char data[4000];
	size_t n = pipe_read(&c->wire.out, data, some(sizeof(data))), used;

	if (n == 0)
		return false;
	/* Of what comes behind the end nothing is taken. */
	if (c->ends)
		return true;
	add(&c->heard, data, n);
	while (!c->ends && (used = take(c)) > 0)
		take_off(&c->heard, used);
	return true;
}

static bool speak(struct peer *c)
{
	size_t n;

	if (!c->greeted) {
		c->greeted = true;
		add_text(&c->said, info);
	}
	n = c->said.n < SAID_AT_ONCE ? c->said.n : SAID_AT_ONCE;
	if (n > 0)
		n = pipe_write(&c->wire.in, c->said.data, some(n));
	if (n > 0)
		take_off(&c->said, n);
	if (c->said.n == 0 && c->ends && !c->wire.client_fin) {
		c->wire.client_fin = c->wire.client_closed = true;
		return true;
	}
	return n > 0;
}

static uint64_t a_while(unsigned max_ms)
{
	return sim.now_ns + random_size(&server.random, max_ms) * NS_PER_MS;
}

static void fail(struct peer *c)
{
	switch (random_below(&server.random, 5)) {
	case 0:
		lose(c);
		return;
	case 1:
		/* What is to be said may be lost. */
		if (random_one_in(&server.random, 2))
			c->said.n = 0;
		close_orderly(c);
		return;
	case 2:
		add_text(&c->said, "-ERR 'Slow Consumer'\r\n");
		close_orderly(c);
		return;
	case 3:
		for (unsigned i = 0; i < SIM_DIALS_MAX; i++)
			if (server.connections[i].used)
				lose(&server.connections[i]);
		server.away_until_ns = a_while(3000);
		return;
	default:
		server.silent_until_ns = a_while(9000);
		return;
	}
}

static bool step(struct peer *c)
{
	struct sim_tcp *w = &c->wire;
	bool any;

	if (!deaf(c) && !c->ends && fault(FAULT_UPSTREAM))
		fail(c);
	if (deaf(c)) {
		if (w->broker_closed)
			forget(c);
		return w->broker_closed;
	}
	if (!w->broker_closed) {
		any = random_one_in(&server.random, 2) ? listen(c) || speak(c)
						       : speak(c) || listen(c);
	} else {
		any = listen(c);
	}
	if (!any && w->broker_fin && w->out.len == 0) {
		w->client_fin = w->client_closed = true;
		server.lost++;
		return true;
	}
	return any;
}

bool server_step(void)
{
	bool any = false;

	if (sim.params.upstream == UPSTREAM_SIM_NONE ||
	    (!sim.calm && sim.now_ns < server.silent_until_ns))
		return false;
	for (unsigned i = 0; i < SIM_DIALS_MAX; i++)
		if (server.connections[i].used && (sim.calm || random_one_in(&server.random, 2)))
			any |= step(&server.connections[i]);
	return any;
}
