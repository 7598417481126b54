#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sim.h"

/* Clients that speak RESP (many.c). */

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

static void say_message(struct client *c, unsigned number, const char *text, size_t n)
{
	struct span name = oracle_topic_name(c->topic);

	(void)number;
	say_words(c, "PUBLISH", 2);
	say_word(c, name.data, name.len);
	say_word(c, text, n);
}

static void say_ask(struct client *c, bool on, const unsigned *topics, unsigned n)
{
	say_words(c, on ? "SUBSCRIBE" : "UNSUBSCRIBE", n);
	for (unsigned i = 0; i < n; i++) {
		struct span name = oracle_topic_name(topics[i]);

		say_word(c, name.data, name.len);
	}
}

static void say_ping(struct client *c)
{
	say_words(c, "PING", 0);
}

static void say_quit(struct client *c)
{
	say_words(c, "QUIT", 0);
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

static void hear_confirmation(struct client *c, bool on, const struct reply *parts)
{
	int topic = many_topic_named(parts[1].text);
	long n = 0;

	if (topic < 0 || !c->heard[topic].asked)
		sim_fail("client %u: a confirmation of what it has not asked for", c->id);
	many_confirmed(c, (unsigned)topic, on);
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
	if (!many_may_fail())
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
		many_hear(c, many_topic_named(parts[1].text), parts[2].text);
	} else if (n == 3 && span_equal(parts[0].text, SPAN("subscribe"))) {
		hear_confirmation(c, true, parts);
	} else if (n == 3 && span_equal(parts[0].text, SPAN("unsubscribe"))) {
		hear_confirmation(c, false, parts);
	} else {
		sim_fail("client %u hears a reply of %u parts that is none", c->id, n);
	}
}

static size_t hear(struct client *c, struct span in)
{
	struct reply parts[REPLY_PARTS_MAX];
	unsigned parts_n;
	size_t used = read_reply(in, parts, &parts_n, &c->body_left);

	if (used > 0)
		hear_reply(c, parts, parts_n);
	return used;
}

const struct talk resp_talk = {
	.message = say_message,
	.ask = say_ask,
	.ping = say_ping,
	.quit = say_quit,
	.hear = hear,
};
