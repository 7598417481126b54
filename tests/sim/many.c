#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sim.h"

/*
 * Clients of protocols in which a connection has any number of subscriptions: publishers, and those
 * who are subscribed to many topics at once, come and go in them, and hear each in its order from
 * where they are in.
 */

static const struct talk *const talks[] = {
	[SPEAKS_RESP] = &resp_talk,
	[SPEAKS_MQTT] = &mqtt_talk,
	[SPEAKS_WEBSOCKET] = &socket_json_talk,
	[SPEAKS_NATS] = &nats_talk,
};

unsigned many_speeches(void)
{
	/* Whoever is silent for long is taken for a client of NATS where those are. */
	if ((sim.params.faults & (1u << FAULT_TIME | 1u << FAULT_GARBAGE)) &&
	    sim.params.many > MANY_BEFORE_NATS)
		return MANY_BEFORE_NATS;
	return sim.params.many;
}

/* Drawn apart, so that the others are who they were. */
void many_init(struct client *c)
{
	struct random r = random_for(sim.params.seed, 2, c->id);

	if (c->role > ROLE_READER || !random_one_in(&r, 3))
		return;
	c->speech = SPEAKS_RESP + c->id % many_speeches();
	c->talk = talks[c->speech];
	if (c->speech == SPEAKS_WEBSOCKET && random_one_in(&r, 3))
		c->talk = &socket_topic_talk;
	if (c->ending == END_TOO_LONG)
		c->ending = END_CLOSE;
	if (c->role == ROLE_PUBLISHER) {
		c->ending = c->ending == END_BYE ? END_FIN : c->ending;
		return;
	}
	c->role = ROLE_MANY;
	c->messages = random_size(&r, 60);
}

/* ---- what it says ---- */

/* Some topics that nothing is asked about; how many. */
static unsigned pick(struct client *c, unsigned topics[MANY_AT_ONCE])
{
	unsigned n = 0, max = 1 + random_below(&c->random, MANY_AT_ONCE);

	for (unsigned tries = 0; tries < 8 && n < max; tries++) {
		unsigned topic = random_below(&c->random, sim.topics_n);

		if (c->heard[topic].asked)
			continue;
		c->heard[topic].asked = true;
		topics[n++] = topic;
	}
	return n;
}

static bool end(struct client *c)
{
	if (c->ending == END_STAY && sim.calm != CALM_ALL)
		return false;
	c->said_all = true;
	if (c->ending == END_BYE || c->ending == END_STAY) {
		c->talk->quit(c);
		c->ending = END_FIN;
	}
	return true;
}

bool many_think(struct client *c)
{
	unsigned topics[MANY_AT_ONCE], n;
	bool off;

	/* Some errors end the connection, and some do not. */
	if (c->error)
		return sim.calm == CALM_ALL && end(c);
	if (c->talk->connect != NULL && !c->commanded) {
		c->commanded = true;
		c->talk->connect(c);
		return true;
	}
	if (c->talk->waits && !c->ok) {
		c->said_all = sim.calm == CALM_ALL;
		c->ending = c->said_all ? END_FIN : c->ending;
		return c->said_all;
	}
	if (sim.calm == CALM_ALL || c->generated >= c->messages)
		return end(c);
	/* Listens for a while. */
	if (c->patience > 0) {
		c->patience--;
		return false;
	}
	c->patience = random_below(&c->random, 20);
	c->generated++;
	if (random_one_in(&c->random, 5)) {
		c->talk->ping(c);
		return true;
	}
	n = pick(c, topics);
	if (n == 0)
		return false;
	off = random_one_in(&c->random, 3);
	c->talk->ask(c, !off, topics, n);
	return true;
}

void many_place(struct client *c, unsigned topic, size_t next)
{
	/* When what is held of the past has been told, it joins those who are told what comes. */
	if (!c->heard[topic].placed)
		c->heard[topic].begin = next;
}

void many_place_answered(struct client *c, unsigned topic, size_t next)
{
	if (c->speech != SPEAKS_WEBSOCKET)
		return;
	c->heard[topic].begin = next;
	c->heard[topic].placed = true;
}

/* ---- what it hears ---- */

int many_topic_named(struct span name)
{
	for (unsigned i = 0; i < sim.topics_n; i++)
		if (span_equal(name, oracle_topic_name(i)))
			return (int)i;
	return -1;
}

bool many_may_fail(void)
{
	return sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_LIMITS | 1u << FAULT_DRAIN |
				    1u << FAULT_BUDGET | 1u << FAULT_TIME);
}

static bool may_miss(unsigned topic)
{
	return (sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_RELOAD)) ||
	       strncmp(oracle_topic_name(topic).data, "skip", 4) == 0;
}

static bool is_entry(int topic, size_t index, struct span message)
{
	static char text[SIM_MESSAGE_BYTES_MAX + 64];
	const struct entry *e;
	bool encodable;
	size_t n;

	if (index >= orders[topic].n)
		return false;
	e = &orders[topic].entries[index];
	n = client_text(e->publisher, e->number, text, &encodable);
	return n == message.len && memcmp(text, message.data, n) == 0;
}

/* The first like this; n: there is none. */
static size_t find(int topic, struct span message)
{
	size_t at = 0;

	while (at < orders[topic].n && !is_entry(topic, at, message))
		at++;
	return at;
}

void many_hear(struct client *c, int topic, struct span message)
{
	struct heard *h = topic >= 0 ? &c->heard[topic] : NULL;

	if (h != NULL && !h->on && h->asked && c->talk->early) {
		h->on = true;
		h->next = h->begin;
	}
	if (h == NULL || !h->on)
		sim_fail("client %u gets a message of topic %d, which it has not", c->id, topic);
	while (!is_entry(topic, h->next, message)) {
		if (!may_miss((unsigned)topic) || h->next >= orders[topic].n)
			sim_fail("client %u: %zu bytes of topic %d are not number %zu of its order "
				 "(%zu), but %zu",
				 c->id, message.len, topic, h->next, orders[topic].n,
				 find(topic, message));
		h->next++;
	}
	h->next++;
	c->received++;
	sim_trace("client  %" PRIu64 " has got number %" PRIu64 " of topic %" PRIu64, c->id,
		  h->next - 1, (uint64_t)topic, 0);
}

void many_hear_any(struct client *c, int topic, struct span message)
{
	if (topic < 0 || find(topic, message) == orders[topic].n)
		sim_fail("client %u: %zu bytes of topic %d are none of its messages", c->id,
			 message.len, topic);
	c->received++;
}

void many_confirmed(struct client *c, unsigned topic, bool on)
{
	c->heard[topic].asked = false;
	if (on && !c->heard[topic].on)
		c->heard[topic].next = c->heard[topic].begin;
	c->heard[topic].on = on;
	sim_trace("client  %" PRIu64 " has topic %" PRIu64 ": %" PRIu64 ", from number %" PRIu64,
		  c->id, (uint64_t)topic, on, c->heard[topic].next);
}

void many_hear_bytes(struct client *c, const char *data, size_t n)
{
	size_t at = 0;

	for (size_t i = 0; i < n; i++)
		client_add(c, data[i]);
	while (c->line_n - at >= c->body_left && c->line_n > at) {
		size_t used;

		c->body_left = 0;
		used = c->talk->hear(c, (struct span){ c->line + at, c->line_n - at });
		if (used == 0)
			break;
		c->body_left = 0;
		at += used;
	}
	memmove(c->line, c->line + at, c->line_n - at);
	c->line_n -= at;
}

void many_check(const struct client *c, const char *when)
{
	for (unsigned topic = 0; topic < sim.topics_n; topic++) {
		const struct heard *h = &c->heard[topic];

		if (h->on && !h->asked && !may_miss(topic) && h->next != orders[topic].n)
			sim_fail("%s: client %u has got %zu of %zu of topic %u", when, c->id,
				 h->next, orders[topic].n, topic);
	}
}
