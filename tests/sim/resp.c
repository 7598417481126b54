#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sim.h"

/* Clients that speak RESP: publishers, and those who are subscribed to many topics at once. */

static void say_word(struct client *c, const char *data, size_t n)
{
	char head[32];

	client_say(c, head, (size_t)snprintf(head, sizeof(head), "$%zu\r\n", n));
	client_say(c, data, n);
	client_say(c, "\r\n", 2);
}

static void say_words(struct client *c, const char *verb, unsigned words)
{
	char head[32];

	client_say(c, head, (size_t)snprintf(head, sizeof(head), "*%u\r\n", words + 1));
	say_word(c, verb, strlen(verb));
}

void resp_say_message(struct client *c, const char *text, size_t n)
{
	struct span name = oracle_topic_name(c->topic);

	say_words(c, "PUBLISH", 2);
	say_word(c, name.data, name.len);
	say_word(c, text, n);
}

/* Some topics that nothing is asked about; how many. */
static unsigned pick(struct client *c, unsigned *topics)
{
	unsigned n = 0, max = 1 + random_below(&c->random, 3);

	for (unsigned tries = 0; tries < 8 && n < max; tries++) {
		unsigned topic = random_below(&c->random, sim.topics_n);

		if (c->heard[topic].asked)
			continue;
		c->heard[topic].asked = true;
		topics[n++] = topic;
	}
	return n;
}

bool resp_think(struct client *c)
{
	unsigned topics[3], n;
	bool all = sim.calm == CALM_ALL;

	if (c->error)
		return false;
	if (all || c->generated >= c->messages) {
		if (c->ending == END_STAY && !all)
			return false;
		c->said_all = true;
		if (c->ending == END_BYE || c->ending == END_STAY) {
			say_words(c, "QUIT", 0);
			c->ending = END_FIN;
		}
		return true;
	}
	/* Listens for a while. */
	if (c->patience > 0) {
		c->patience--;
		return false;
	}
	c->patience = random_below(&c->random, 20);
	c->generated++;
	if (random_one_in(&c->random, 5)) {
		say_words(c, "PING", 0);
		return true;
	}
	n = pick(c, topics);
	if (n == 0)
		return false;
	say_words(c, random_one_in(&c->random, 3) ? "UNSUBSCRIBE" : "SUBSCRIBE", n);
	for (unsigned i = 0; i < n; i++) {
		struct span name = oracle_topic_name(topics[i]);

		say_word(c, name.data, name.len);
	}
	return true;
}

void resp_place(struct client *c, unsigned topic, size_t next)
{
	c->heard[topic].begin = next;
}

/* ---- what it hears ---- */

struct reply {
	char kind;
	struct span text; /* of '+', '-', ':' and '$' */
	long n;           /* of ':' and '*' */
};

/* The number that a line ends with. */
static long read_number(struct span digits)
{
	bool minus = digits.len > 0 && digits.data[0] == '-';
	long n = 0;

	for (size_t i = minus; i < digits.len; i++)
		n = 10 * n + (digits.data[i] - '0');
	return minus ? -n : n;
}

/* Reads one reply's own line and bytes, not its elements'. Returns how long it is, or 0 with *need.
 */
static size_t read_one(struct span in, struct reply *r, size_t *need)
{
	const char *lf = in.len > 0 ? memchr(in.data, '\n', in.len) : NULL;
	size_t line;

	*need = in.len + 1;
	if (lf == NULL)
		return 0;
	line = (size_t)(lf - in.data) + 1;
	*r = (struct reply){ .kind = in.data[0], .text = { in.data + 1, line - 3 } };
	if (r->kind == '+' || r->kind == '-')
		return line;
	r->n = read_number(r->text);
	if (r->kind != '$' || r->n < 0)
		return line;
	*need = line + (size_t)r->n + 2;
	if (in.len < *need)
		return 0;
	r->text = (struct span){ in.data + line, (size_t)r->n };
	return *need;
}

enum { REPLY_PARTS_MAX = 4 };

/* A whole reply with its elements, parts_n 0: it is none. */
static size_t read_reply(struct span in, struct reply *parts, unsigned *parts_n, size_t *need)
{
	struct reply head;
	size_t at = read_one(in, &head, need);

	*parts_n = 0;
	if (at == 0)
		return 0;
	if (head.kind != '*') {
		parts[(*parts_n)++] = head;
		return at;
	}
	for (long i = 0; i < head.n; i++) {
		size_t n;

		if (*parts_n == REPLY_PARTS_MAX)
			return 0;
		n = read_one(span_skip(in, at), &parts[*parts_n], need);
		*need += at;
		if (n == 0)
			return 0;
		++*parts_n;
		at += n;
	}
	return at;
}

static int topic_named(struct span name)
{
	for (unsigned i = 0; i < sim.topics_n; i++)
		if (span_equal(name, oracle_topic_name(i)))
			return (int)i;
	return -1;
}

static bool is_entry(struct client *c, int topic, size_t index, struct span message)
{
	static char text[SIM_MESSAGE_BYTES_MAX + 64];
	const struct entry *e;
	bool encodable;
	size_t n;

	(void)c;
	if (index >= orders[topic].n)
		return false;
	e = &orders[topic].entries[index];
	n = client_text(e->publisher, e->number, text, &encodable);
	return n == message.len && memcmp(text, message.data, n) == 0;
}

static bool resp_may_miss(unsigned topic)
{
	return (sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_RELOAD)) ||
	       strncmp(oracle_topic_name(topic).data, "skip", 4) == 0;
}

static void hear_message(struct client *c, int topic, struct span message)
{
	struct heard *h = &c->heard[topic];

	if (!h->on)
		sim_fail("client %u gets a message of topic %d, which it has not", c->id, topic);
	while (!is_entry(c, topic, h->next, message)) {
		if (!resp_may_miss((unsigned)topic) || h->next >= orders[topic].n)
			sim_fail("client %u: %zu bytes of topic %d are not number %zu of its order "
				 "(%zu)",
				 c->id, message.len, topic, h->next, orders[topic].n);
		h->next++;
	}
	h->next++;
	c->received++;
	sim_trace("client  %" PRIu64 " has got number %" PRIu64 " of topic %" PRIu64, c->id,
		  h->next - 1, (uint64_t)topic, 0);
}

static void hear_confirmation(struct client *c, bool on, const struct reply *parts)
{
	int topic = topic_named(parts[1].text);
	long n = 0;

	if (topic < 0 || !c->heard[topic].asked)
		sim_fail("client %u: a confirmation of what it has not asked for", c->id);
	c->heard[topic].asked = false;
	if (on && !c->heard[topic].on)
		c->heard[topic].next = c->heard[topic].begin;
	c->heard[topic].on = on;
	sim_trace("client  %" PRIu64 " has topic %" PRIu64 ": %" PRIu64 ", from number %" PRIu64,
		  c->id, (uint64_t)topic, on, c->heard[topic].next);
	for (unsigned i = 0; i < sim.topics_n; i++)
		n += c->heard[i].on;
	if (parts[2].n != n)
		sim_fail("client %u is said to have %ld subscriptions instead of %ld", c->id,
			 parts[2].n, n);
}

/* An error must have a reason. */
static void hear_error(struct client *c, struct span text)
{
	c->error = true;
	if (!(sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_LIMITS | 1u << FAULT_DRAIN |
				   1u << FAULT_BUDGET | 1u << FAULT_TIME)))
		sim_fail("client %u is told %.*s for no reason", c->id, (int)text.len, text.data);
}

static void hear_reply(struct client *c, const struct reply *parts, unsigned n)
{
	if (n == 1 && parts[0].kind == '-') {
		hear_error(c, parts[0].text);
	} else if (n == 1 && parts[0].kind == ':' && c->role == ROLE_PUBLISHER) {
		c->answered++;
		c->ok = true;
	} else if (n == 1 && parts[0].kind == '+') {
		c->ok = true;
	} else if (n == 2 && span_equal(parts[0].text, SPAN("pong"))) {
		c->ok = true;
	} else if (n == 3 && span_equal(parts[0].text, SPAN("message"))) {
		hear_message(c, topic_named(parts[1].text), parts[2].text);
	} else if (n == 3 && span_equal(parts[0].text, SPAN("subscribe"))) {
		hear_confirmation(c, true, parts);
	} else if (n == 3 && span_equal(parts[0].text, SPAN("unsubscribe"))) {
		hear_confirmation(c, false, parts);
	} else {
		sim_fail("client %u hears a reply of %u parts that is none", c->id, n);
	}
}

void resp_hear(struct client *c, const char *data, size_t n)
{
	struct reply parts[REPLY_PARTS_MAX];
	unsigned parts_n;
	size_t need, at = 0;

	for (size_t i = 0; i < n; i++)
		client_add(c, data[i]);
	while (c->line_n - at >= c->body_left && c->line_n > at) {
		size_t used = read_reply((struct span){ c->line + at, c->line_n - at }, parts,
					 &parts_n, &need);

		if (used == 0) {
			c->body_left = need;
			break;
		}
		c->body_left = 0;
		hear_reply(c, parts, parts_n);
		at += used;
	}
	memmove(c->line, c->line + at, c->line_n - at);
	c->line_n -= at;
}

/* When all is calm it has got what it is subscribed to. */
void resp_check(const struct client *c, const char *when)
{
	for (unsigned topic = 0; topic < sim.topics_n; topic++) {
		const struct heard *h = &c->heard[topic];

		if (h->on && !h->asked && !resp_may_miss(topic) && h->next != orders[topic].n)
			sim_fail("%s: client %u has got %zu of %zu of topic %u", when, c->id,
				 h->next, orders[topic].n, topic);
	}
}
