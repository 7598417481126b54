#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

/*
 * Clients that speak NATS (many.c). Nothing is confirmed but by the PONG to a PING behind it, which
 * is behind everything that came before: what was published is sequenced by then, and a
 * subscription that has ended gets nothing more. UNSUB may let it have a few messages more first.
 */

enum { LIMIT_MAX = 8 }; /* messages more than have come */

static void say_text(struct client *c, const char *text)
{
	client_say(c, text, strlen(text));
}

static void say_connect(struct client *c)
{
	say_text(c, "CONNECT {\"verbose\":false}\r\n");
}

static struct question *say_ping(struct client *c)
{
	struct question *q = &c->questions[c->questions_n++ % QUESTIONS_MAX];

	*q = (struct question){ .published = c->generated };
	say_text(c, "PING\r\n");
	return q;
}

static void say_plain_ping(struct client *c)
{
	(void)say_ping(c);
}

static void say_message(struct client *c, unsigned number, const char *text, size_t n)
{
	struct span name = oracle_topic_name(c->topic);
	char head[100];

	snprintf(head, sizeof(head), "PUB %.*s %zu\r\n", (int)name.len, name.data, n);
	say_text(c, head);
	client_say(c, text, n);
	say_text(c, "\r\n");
	if (number + 1 == c->messages || random_one_in(&c->random, 40))
		(void)say_ping(c);
}

/* What it has already, or has not, it does not ask for. */
static bool asks(struct client *c, unsigned topic, bool on)
{
	struct span name = oracle_topic_name(topic);
	struct heard *h = &c->heard[topic];
	char line[100];

	if (h->on == on) {
		h->asked = false;
		return false;
	}
	if (on) {
		h->sid += SIM_TOPICS_MAX;
		h->got = h->limit = 0;
		snprintf(line, sizeof(line), "SUB %.*s %u\r\n", (int)name.len, name.data,
			 h->sid + topic);
	} else if (h->limit == 0 && random_one_in(&c->random, 2)) {
		h->limit = h->got + random_from(&c->random, 1, LIMIT_MAX);
		snprintf(line, sizeof(line), "UNSUB %u %u\r\n", h->sid + topic, h->limit);
	} else {
		h->limit = 0;
		snprintf(line, sizeof(line), "UNSUB %u\r\n", h->sid + topic);
	}
	say_text(c, line);
	return true;
}

static void say_ask(struct client *c, bool on, const unsigned *topics, unsigned n)
{
	unsigned asked[MANY_AT_ONCE] = { 0 }, asked_n = 0;
	struct question *q;

	for (unsigned i = 0; i < n; i++)
		if (asks(c, topics[i], on))
			asked[asked_n++] = topics[i];
	q = say_ping(c);
	q->on = on;
	q->n = asked_n;
	memcpy(q->topics, asked, asked_n * sizeof(*asked));
}

/* ---- what it hears ---- */

static void hear_pong(struct client *c)
{
	const struct question *q = &c->questions[c->answers_n % QUESTIONS_MAX];

	if (c->answers_n++ == c->questions_n)
		sim_fail("client %u hears a PONG to nothing", c->id);
	c->ok = true;
	if (c->role == ROLE_PUBLISHER) {
		if (c->sequenced < q->published && !many_may_fail())
			sim_fail("client %u: PONG behind %u messages, of which %u are sequenced",
				 c->id, q->published, c->sequenced);
		c->answered = q->published;
	}
	for (unsigned i = 0; i < q->n; i++) {
		const struct heard *h = &c->heard[q->topics[i]];

		many_confirmed(c, q->topics[i], q->on || h->limit > h->got);
	}
}

static void hear_message(struct client *c, int topic, unsigned sid, struct span text)
{
	struct heard *h = topic >= 0 ? &c->heard[topic] : NULL;

	if (h == NULL || sid != h->sid + (unsigned)topic)
		sim_fail("client %u hears of sid %u, which it has not", c->id, sid);
	many_hear(c, topic, text);
	h->got++;
	/* Until its PONG it may have come to more; without memory there is no limit. */
	if (h->got == h->limit && !h->asked && !(sim.params.faults & 1u << FAULT_MEMORY))
		h->on = false;
}

static void hear_error(struct client *c, struct span line)
{
	c->error = true;
	if (!many_may_fail() && !span_equal(line, SPAN("-ERR 'Slow Consumer'")))
		sim_fail("client %u is told %.*s for no reason", c->id, (int)line.len, line.data);
}

/* MSG subject sid bytes. Returns how long it is with its payload, or 0. */
static size_t hear_msg(struct client *c, struct span in, size_t line)
{
	char head[200], subject[100];
	unsigned sid;
	size_t bytes, n = line < sizeof(head) ? line : sizeof(head) - 1;

	memcpy(head, in.data, n);
	head[n] = 0;
	if (sscanf(head, "MSG %99s %u %zu\r", subject, &sid, &bytes) != 3)
		sim_fail("client %u hears %s", c->id, head);
	c->body_left = line + bytes + 2;
	if (in.len < c->body_left)
		return 0;
	hear_message(c, many_topic_named(span_of(subject)), sid,
		     (struct span){ in.data + line, bytes });
	return line + bytes + 2;
}

static size_t hear(struct client *c, struct span in)
{
	const char *lf = memchr(in.data, '\n', in.len);
	size_t n = lf != NULL ? (size_t)(lf - in.data) + 1 : 0;
	struct span line = { in.data, n > 1 ? n - 2 : 0 };

	if (n == 0)
		return 0;
	if (in.data[0] == 'M')
		return hear_msg(c, in, n);
	if (span_equal(line, SPAN("PONG")))
		hear_pong(c);
	else if (span_equal(line, SPAN("PING")))
		say_text(c, c->said_all ? "" : "PONG\r\n");
	else if (in.data[0] == '-')
		hear_error(c, line);
	else if (in.data[0] != 'I')
		sim_fail("client %u hears %.*s", c->id, (int)line.len, line.data);
	return n;
}

const struct talk nats_talk = {
	.acknowledged = true,
	.early = true,
	.connect = say_connect,
	.message = say_message,
	.ask = say_ask,
	.ping = say_plain_ping,
	.quit = say_plain_ping,
	.hear = hear,
};
