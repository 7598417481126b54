#include <string.h>

#include "sim.h"

/*
 * Clients that speak MQTT 3.1.1 or 5.0 (many.c): they publish with QoS 1 and now and then to be
 * retained, subscribe again to what they have, and what they ask for are topics.
 */

enum { CONNACK = 2, PUBLISH, PUBACK, SUBACK = 9, UNSUBACK = 11, PINGRESP = 13, DISCONNECT };
enum { RETAIN = 1, NO_LOCAL = 4, FAILED = 0x80, MORE = 0x80 };

struct packet {
	unsigned char bytes[SIM_MESSAGE_BYTES_MAX + 256];
	size_t n;
};

static bool level_5(const struct client *c)
{
	return c->id / 4 % 2 == 1;
}

static void add(struct packet *p, const void *data, size_t n)
{
	memcpy(p->bytes + p->n, data, n);
	p->n += n;
}

static void add_byte(struct packet *p, unsigned byte)
{
	p->bytes[p->n++] = (unsigned char)byte;
}

static void add_two(struct packet *p, unsigned n)
{
	add_byte(p, n >> 8);
	add_byte(p, n & 0xff);
}

static void add_no_properties(struct packet *p, const struct client *c)
{
	if (level_5(c))
		add_byte(p, 0);
}

/* A topic's name as MQTT has it: its levels are apart by '/'. */
static void add_topic(struct packet *p, unsigned topic)
{
	struct span name = oracle_topic_name(topic);

	add_two(p, (unsigned)name.len);
	for (size_t i = 0; i < name.len; i++)
		add_byte(p, name.data[i] == '.' ? '/' : (unsigned char)name.data[i]);
}

static void say(struct client *c, unsigned first, const struct packet *body)
{
	static struct packet p;
	size_t left = body->n;

	p.n = 0;
	add_byte(&p, first);
	do {
		add_byte(&p, (left & 0x7f) | (left > 0x7f ? MORE : 0));
		left >>= 7;
	} while (left > 0);
	add(&p, body->bytes, body->n);
	client_say(c, (const char *)p.bytes, p.n);
}

static void say_connect(struct client *c)
{
	static struct packet p;

	p.n = 0;
	add(&p, level_5(c) ? "\0\4MQTT\5\2\0\0" : "\0\4MQTT\4\2\0\0", 10);
	add_no_properties(&p, c);
	/* Each has an identifier of its own, or none. */
	if (c->id % 3 == 0) {
		add_two(&p, 0);
	} else {
		add_two(&p, 2);
		add_byte(&p, 'a' + c->id % 26);
		add_byte(&p, 'a' + c->id / 26 % 26);
	}
	say(c, 0x10, &p);
}

static void say_message(struct client *c, unsigned number, const char *text, size_t n)
{
	static struct packet p;

	p.n = 0;
	add_topic(&p, c->topic);
	add_two(&p, 1 + number);
	add_no_properties(&p, c);
	add(&p, text, n);
	say(c, 0x32 | (random_one_in(&c->random, 10) ? RETAIN : 0), &p);
}

static void say_ask(struct client *c, bool on, const unsigned *topics, unsigned n)
{
	static struct packet p;
	struct question *asked = &c->questions[c->generated % QUESTIONS_MAX];

	asked->on = on;
	asked->n = n;
	p.n = 0;
	add_two(&p, c->generated);
	add_no_properties(&p, c);
	for (unsigned i = 0; i < n; i++) {
		asked->topics[i] = topics[i];
		add_topic(&p, topics[i]);
		if (on)
			add_byte(&p, random_below(&c->random, 3) |
					     (level_5(c) && random_one_in(&c->random, 2) ? NO_LOCAL
											 : 0));
	}
	say(c, on ? 0x82 : 0xa2, &p);
}

static void say_ping(struct client *c)
{
	static const struct packet nothing;

	say(c, 0xc0, &nothing);
}

static void say_quit(struct client *c)
{
	static const struct packet nothing;

	say(c, 0xe0, &nothing);
}

/* ---- what it hears ---- */

static unsigned two(struct span in)
{
	return (unsigned)(unsigned char)in.data[0] << 8 | (unsigned char)in.data[1];
}

/* Behind properties, which are less than 128 bytes here. */
static struct span skip_properties(const struct client *c, struct span in)
{
	return level_5(c) ? span_skip(in, 1 + (size_t)in.data[0]) : in;
}

static int topic_named(struct span name)
{
	char native[64];

	if (name.len > sizeof(native))
		return -1;
	for (size_t i = 0; i < name.len; i++)
		native[i] = name.data[i] == '/' ? '.' : name.data[i];
	return many_topic_named((struct span){ native, name.len });
}

static void hear_confirmation(struct client *c, bool on, struct span body)
{
	const struct question *asked = &c->questions[two(body) % QUESTIONS_MAX];
	struct span codes = skip_properties(c, span_skip(body, 2));

	if (asked->n == 0 || asked->on != on || ((on || level_5(c)) && codes.len != asked->n))
		sim_fail("client %u: a confirmation of what it has not asked for", c->id);
	for (unsigned i = 0; i < asked->n; i++) {
		unsigned topic = asked->topics[i];
		bool failed = on && (unsigned char)codes.data[i] >= FAILED;

		if (failed && !many_may_fail())
			sim_fail("client %u: a topic is refused for no reason", c->id);
		many_confirmed(c, topic, failed ? c->heard[topic].on : on);
	}
}

static void hear_message(struct client *c, unsigned flags, struct span body)
{
	size_t name = two(body);
	int topic = topic_named((struct span){ body.data + 2, name });
	struct span text = skip_properties(c, span_skip(body, 2 + name));

	/* One that is retained comes when it is asked for, whatever has come of the topic. */
	if (flags & RETAIN)
		many_hear_any(c, topic, text);
	else
		many_hear(c, topic, text);
}

static void hear_packet(struct client *c, unsigned first, struct span body)
{
	switch (first >> 4) {
	case CONNACK:
		c->ok = body.data[1] == 0;
		c->error |= !c->ok;
		if (!c->ok && !many_may_fail())
			sim_fail("client %u is refused for no reason", c->id);
		return;
	case PUBLISH:
		hear_message(c, first & 0xf, body);
		return;
	case PUBACK:
		if (two(body) != ++c->answered)
			sim_fail("client %u: message %u is acknowledged as the %uth", c->id,
				 two(body), c->answered);
		return;
	case SUBACK:
	case UNSUBACK:
		hear_confirmation(c, first >> 4 == SUBACK, body);
		return;
	case PINGRESP:
		return;
	case DISCONNECT:
		c->error = true;
		return;
	default:
		sim_fail("client %u hears a packet of type %u", c->id, first >> 4);
	}
}

static size_t hear(struct client *c, struct span in)
{
	const unsigned char *p = (const unsigned char *)in.data;
	size_t len = 0, head = 1;

	do {
		if (head == in.len)
			return 0;
		len |= (size_t)(p[head] & 0x7f) << (7 * (head - 1));
	} while (p[head++] & MORE);
	c->body_left = head + len;
	if (in.len < head + len)
		return 0;
	hear_packet(c, p[0], (struct span){ in.data + head, len });
	return head + len;
}

const struct talk mqtt_talk = {
	.acknowledged = true,
	.early = true,
	.frames = true,
	.connect = say_connect,
	.message = say_message,
	.ask = say_ask,
	.ping = say_ping,
	.quit = say_quit,
	.hear = hear,
};
