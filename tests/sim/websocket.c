#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/name.h"
#include "sim.h"

/*
 * Clients that speak WebSocket (many.c), by their number either of the topic that the socket is
 * (/ws/<topic>) or of many in JSON (/ws). Their frames are masked, their messages come in fragments
 * with pings between, and some end with a frame that may not be, for which the right code is due.
 * In JSON every message has its id: each comes once and in order, however many subscriptions match,
 * or it is said which comes next.
 */

enum opcode { CONTINUATION, TEXT, BINARY, CLOSE = 8, PING, PONG };
enum { FIN = 0x80, MASKED = 0x80, NORMAL = 1000 };
enum { TEXT_BYTES_MAX = 2 * SIM_MESSAGE_BYTES_MAX };

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

static const char *const patterns[SOCKET_PATTERNS] = { ">", "*.a", "plenty.*", "few.>" };

static bool speaks_json(const struct client *c)
{
	return c->talk == &socket_json_talk;
}

static bool is_binary(const struct client *c)
{
	return c->id % 7 == 0;
}

/* ---- frames ---- */

static void say_frame_as(struct client *c, unsigned first, bool masked, const char *data, size_t n)
{
	static char frame[TEXT_BYTES_MAX + 14];
	size_t head = n < 126 ? 2 : n <= UINT16_MAX ? 4 : 10;
	uint32_t mask = (uint32_t)random_next(&c->random);

	frame[0] = (char)first;
	frame[1] = (char)((masked ? MASKED : 0) | (head == 2 ? n : head == 4 ? 126 : 127));
	for (size_t i = head, rest = n; i-- > 2; rest >>= 8)
		frame[i] = (char)(rest & 0xff);
	if (masked)
		memcpy(frame + head, &mask, 4);
	head += masked ? 4 : 0;
	for (size_t i = 0; i < n; i++)
		frame[head + i] = (char)(data[i] ^ (masked ? ((char *)&mask)[i % 4] : 0));
	client_say(c, frame, head + n);
}

static void say_frame(struct client *c, unsigned first, const char *data, size_t n)
{
	say_frame_as(c, first, true, data, n);
}

static void say_ping(struct client *c)
{
	char text[32];

	say_frame(c, FIN | PING, text,
		  (size_t)snprintf(text, sizeof(text), "ping %u", c->socket.pings++));
}

/* In fragments, now and then, and some of those may be empty. */
static void say_payload(struct client *c, enum opcode opcode, const char *data, size_t n)
{
	unsigned first = opcode;

	while (random_one_in(&c->random, 3)) {
		size_t part = random_below(&c->random, (unsigned)n + 1);

		say_frame(c, first, data, part);
		if (random_one_in(&c->random, 3))
			say_ping(c);
		first = CONTINUATION;
		data += part;
		n -= part;
	}
	say_frame(c, FIN | first, data, n);
}

static void say_json(struct client *c, const char *text)
{
	say_payload(c, TEXT, text, strlen(text));
}

/* ---- what it says ---- */

static void say_request(struct client *c, const char *path)
{
	char text[400];

	client_say(c, text,
		   (size_t)snprintf(text, sizeof(text),
				    "GET %s HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\n"
				    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
				    "Sec-WebSocket-Key: " KEY "\r\n\r\n",
				    path));
}

static void connect_topic(struct client *c)
{
	char path[100];
	int n = snprintf(path, sizeof(path), "/ws/%s%s", oracle_topic_name(c->topic).data,
			 is_binary(c) ? "?binary=1" : "");

	c->heard[c->topic].asked = true;
	if (random_one_in(&c->random, 3))
		snprintf(path + n, sizeof(path) - (size_t)n, "%clast=%u", is_binary(c) ? '&' : '?',
			 random_size(&c->random, 300) - 1);
	say_request(c, path);
}

static void connect_json(struct client *c)
{
	say_request(c, "/ws");
}

/* A string of JSON, now and then with more escaped than has to be. */
static size_t put_string(struct client *c, char *out, const char *text, size_t n)
{
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		unsigned char b = (unsigned char)text[i];

		if (b < ' ' || (n < 200 && b < 0x80 && random_one_in(&c->random, 50)))
			at += (size_t)sprintf(out + at, "\\u%04x", b);
		else if (b == '"' || b == '\\')
			at += (size_t)sprintf(out + at, "\\%c", b);
		else
			out[at++] = (char)b;
	}
	return at;
}

static void message_in_json(struct client *c, unsigned number, const char *text, size_t n)
{
	static char json[TEXT_BYTES_MAX + 200];
	bool valid = utf8_valid((struct span){ text, n });
	bool base64 = !valid || (n < 1000 && random_one_in(&c->random, 4));
	size_t at;

	at = (size_t)sprintf(json, "{\"publish\":\"%s\",\"%s\":\"",
			     oracle_topic_name(c->topic).data, base64 ? "base64" : "data");
	if (base64) {
		base64_put(json + at, (struct span){ text, n });
		at += (n + 2) / 3 * 4;
	} else {
		at += put_string(c, json + at, text, n);
	}
	at += (size_t)sprintf(json + at, "\"");
	if (number + 1 == c->messages || random_one_in(&c->random, 3))
		at += (size_t)sprintf(json + at, ",\"ref\":%u", number);
	at += (size_t)sprintf(json + at, "}");
	say_payload(c, TEXT, json, at);
}

/* ---- many topics ---- */

static const char *name_of(unsigned which)
{
	return which < SIM_TOPICS_MAX ? oracle_topic_name(which).data
				      : patterns[which - SIM_TOPICS_MAX];
}

static bool matches(unsigned which, unsigned topic)
{
	if (which < SIM_TOPICS_MAX)
		return which == topic;
	return name_matches(span_of(name_of(which)), oracle_topic_name(topic));
}

/* How many of those that stand bring this topic. */
static unsigned brought(const struct client *c, unsigned topic)
{
	unsigned n = 0;

	for (unsigned which = 0; which < SOCKET_NAMES; which++)
		n += c->socket.names[which] >= NAME_ON && matches(which, topic);
	return n;
}

static bool wanted(const struct client *c, unsigned topic)
{
	for (unsigned which = 0; which < SOCKET_NAMES; which++)
		if (c->socket.names[which] != NAME_OFF && matches(which, topic))
			return true;
	return false;
}

static void ask_for(struct client *c, unsigned which, bool on)
{
	struct heard *h = which < SIM_TOPICS_MAX ? &c->heard[which] : NULL;
	bool past = which < SIM_TOPICS_MAX && on && !wanted(c, which);
	char text[200];
	int n = snprintf(text, sizeof(text), "{\"%s\":\"%s\"", on ? "subscribe" : "unsubscribe",
			 name_of(which));

	c->socket.names[which] = on ? NAME_ASKED : NAME_GOING;
	if (which < SIM_TOPICS_MAX && on) {
		h->placed = false;
		h->from = SIZE_MAX;
	}
	if (past && h->seq > 0 && random_one_in(&c->random, 2)) {
		h->from = oracle_place(which, h->epoch, h->seq);
		n += snprintf(text + n, sizeof(text) - (size_t)n,
			      ",\"from\":\"%016" PRIx64 ":%" PRIu64 "\"", h->epoch, h->seq);
	} else if (past && random_one_in(&c->random, 2)) {
		n += snprintf(text + n, sizeof(text) - (size_t)n, ",\"last\":%u",
			      random_size(&c->random, 300) - 1);
	}
	snprintf(text + n, sizeof(text) - (size_t)n, "}");
	say_json(c, text);
}

/* Topics that are none of its business are not asked for. */
static void ask(struct client *c, bool on, const unsigned *topics, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		unsigned which = topics[i];

		c->heard[which].asked = false;
		if (!speaks_json(c))
			continue;
		if (random_one_in(&c->random, 4))
			which = SIM_TOPICS_MAX + random_below(&c->random, SOCKET_PATTERNS);
		if (c->socket.names[which] == (on ? NAME_OFF : NAME_ON))
			ask_for(c, which, on);
	}
}

static void ping_json(struct client *c)
{
	if (random_one_in(&c->random, 2))
		say_ping(c);
	else
		say_json(c, "{\"ping\":[7,\"x\"]}");
}

/* ---- how it ends ---- */

/* What may not be, and the code that it is closed with. */
static unsigned say_bad_frame(struct client *c)
{
	static const char zeros[200];
	static const struct {
		const char *bytes;
		size_t n;
		unsigned code;
	} bad[] = {
		/* Not masked; reserved bits; reserved opcodes; a length that could be shorter. */
		{ "\x81\x01x", 3, 1002 },
		{ "\xc1\x81mask\x15", 7, 1002 },
		{ "\x83\x80mask", 6, 1002 },
		{ "\x8b\x80mask", 6, 1002 },
		{ "\x81\xfe\0\x01mask\x15", 9, 1002 },
		/* A ping in fragments, or of 126 bytes; a continuation of nothing. */
		{ "\x09\x80mask", 6, 1002 },
		{ "\x89\xfe\0\x7emask", 8, 1002 },
		{ "\x80\x80mask", 6, 1002 },
		/* Another message within one. */
		{ "\x01\x80mask\x81\x80mask", 12, 1002 },
		/* Closes of one byte, with a code that nobody may say, and with no text. */
		{ "\x88\x81mask\x6e", 7, 1002 },
		{ "\x88\x82\0\0\0\0\x03\xed", 8, 1002 },
		{ "\x88\x83\0\0\0\0\x03\xe8\xff", 9, 1007 },
		/* Text that is none, at once and over two frames. */
		{ "\x81\x81\0\0\0\0\xff", 7, 1007 },
		{ "\x01\x81\0\0\0\0\xc3\x80\x81\0\0\0\0\x28", 14, 1007 },
		/* It does not end with its last byte. */
		{ "\x81\x81\0\0\0\0\xc3", 7, 1007 },
		/* Longer than messages may be. */
		{ "\x82\xff\0\0\0\0\0\x10\0\0maskx", 15, 1009 },
	};
	/* Bytes that are no text only where that is JSON. */
	unsigned i = random_below(&c->random, sizeof(bad) / sizeof(*bad) + speaks_json(c));

	if (i == sizeof(bad) / sizeof(*bad)) {
		say_frame(c, FIN | BINARY, zeros, random_below(&c->random, sizeof(zeros)));
		return 1003;
	}
	client_say(c, bad[i].bytes, bad[i].n);
	return bad[i].code;
}

/* So many codes are said back; the broker's last word has no zeros in it. */
static void say_close(struct client *c)
{
	char word[] = "\3\xe8"
		      "enough";
	unsigned code = random_one_in(&c->random, 2) ? NORMAL : 3000 + c->id;
	bool bare = random_one_in(&c->random, 3);

	word[0] = (char)(code >> 8);
	word[1] = (char)code;
	c->socket.due = bare || code % 256 == 0 ? NORMAL : code;
	say_frame(c, FIN | CLOSE, word, bare ? 0 : 2 + (size_t)random_below(&c->random, 7));
}

static void quit(struct client *c)
{
	if (random_one_in(&c->random, 2))
		c->socket.due = say_bad_frame(c);
	else
		say_close(c);
}

static void message_to_topic(struct client *c, unsigned number, const char *text, size_t n)
{
	bool valid = utf8_valid((struct span){ text, n });

	say_payload(c, valid && random_one_in(&c->random, 2) ? TEXT : BINARY, text, n);
	if (number + 1 == c->messages && random_one_in(&c->random, 2))
		say_close(c);
}

/* ---- what it hears: messages ---- */

static bool may_miss(void)
{
	return sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_RELOAD);
}

/* "<key>":"<string>" at the start; takes it off, and what stands in front of it. */
static bool take(struct span *in, const char *key, struct span *value)
{
	size_t n = strlen(key), end;

	if (in->len < n || memcmp(in->data, key, n) != 0)
		return false;
	*in = span_skip(*in, n);
	for (end = 0; end < in->len && in->data[end] != '"'; end++)
		end += in->data[end] == '\\';
	if (end >= in->len)
		return false;
	*value = (struct span){ in->data, end };
	*in = span_skip(*in, end + 1);
	return true;
}

static bool take_id(struct span *in, const char *key, uint64_t *epoch, uint64_t *seq)
{
	struct span id;
	char *end;

	if (!take(in, key, &id) || id.len < 18)
		return false;
	*epoch = strtoull(id.data, &end, 16);
	*seq = strtoull(end + 1, &end, 10);
	return end == id.data + id.len;
}

static unsigned which_is(const struct client *c, struct span name)
{
	for (unsigned which = 0; which < SOCKET_NAMES; which++)
		if (span_equal(name, span_of(name_of(which))))
			return which;
	/* What clients talk about that nobody checks. */
	if (c->socket.names[SIM_TOPICS_MAX] >= NAME_ON && name_matches(SPAN(">"), name))
		return SOCKET_NAMES;
	sim_fail("client %u hears of %.*s", c->id, (int)name.len, name.data);
}

static size_t unescape(struct span s, char *out)
{
	static const char letters[] = "bfnrt\"\\/", bytes[] = "\b\f\n\r\t\"\\/";
	size_t n = 0;

	for (size_t i = 0; i < s.len; i++) {
		char hex[5] = { 0 };
		const char *at;

		if (s.data[i] != '\\') {
			out[n++] = s.data[i];
			continue;
		}
		i++;
		at = memchr(letters, s.data[i], sizeof(letters) - 1);
		if (at != NULL) {
			out[n++] = bytes[at - letters];
			continue;
		}
		/* Only control characters have to be told so. */
		memcpy(hex, s.data + i + 1, 4);
		out[n++] = (char)strtoul(hex, NULL, 16);
		i += 4;
	}
	return n;
}

/* It must be the one that has this number. */
static void check_text(const struct client *c, unsigned topic, size_t at, struct span text)
{
	static char expected[SIM_MESSAGE_BYTES_MAX + 64];
	const struct entry *e = &orders[topic].entries[at];
	bool encodable;
	size_t n = client_text(e->publisher, e->number, expected, &encodable);

	if (n != text.len || memcmp(text.data, expected, n) != 0)
		sim_fail("client %u: number %zu of topic %u is damaged", c->id, at, topic);
}

/* Where it has to go on, or from where on it may begin. */
static void check_order(struct client *c, unsigned topic, size_t at)
{
	struct heard *h = &c->heard[topic];

	if (!h->on && !h->lingers)
		sim_fail("client %u gets number %zu of topic %u, which it has not", c->id, at,
			 topic);
	if (h->known ? at != h->next && (at < h->next || !(may_miss() || h->skipped))
		     : at > h->next && !may_miss())
		sim_fail("client %u gets number %zu of topic %u (%zu), where %zu is due (%d)",
			 c->id, at, topic, orders[topic].n, h->next, h->known);
	h->known = true;
	h->skipped = false;
	h->next = at + 1;
}

static void hear_json_message(struct client *c, unsigned topic, uint64_t epoch, uint64_t seq,
			      struct span rest)
{
	static char text[TEXT_BYTES_MAX];
	long at = oracle_find(topic, epoch, seq);
	struct span data;
	ptrdiff_t n;

	if (at < 0)
		sim_fail("client %u gets number %" PRIu64 " of topic %u, which is none", c->id, seq,
			 topic);
	check_order(c, topic, (size_t)at);
	if (take(&rest, ",\"data\":\"", &data))
		n = (ptrdiff_t)unescape(data, text);
	else if (take(&rest, ",\"base64\":\"", &data))
		n = base64_get(data, text);
	else
		n = -1;
	if (n < 0 || !span_equal(rest, SPAN("}")))
		sim_fail("client %u gets a message with %.*s", c->id, (int)rest.len, rest.data);
	check_text(c, topic, (size_t)at, (struct span){ text, (size_t)n });
	c->heard[topic].epoch = epoch;
	c->heard[topic].seq = seq;
	c->received++;
}

/* Messages were skipped, or are not held any more: of a pattern it is not said which. */
static void hear_gap(struct client *c, unsigned which, struct span rest)
{
	uint64_t epoch, seq;

	if (which >= SIM_TOPICS_MAX && span_equal(rest, SPAN(",\"gap\":null}"))) {
		for (unsigned topic = 0; topic < sim.topics_n; topic++)
			c->heard[topic].skipped |= matches(which, topic);
		return;
	}
	if (which >= SIM_TOPICS_MAX || !take_id(&rest, ",\"gap\":\"", &epoch, &seq))
		sim_fail("client %u hears a gap of %.*s", c->id, (int)rest.len, rest.data);
	if (oracle_place(which, epoch, seq) <= c->heard[which].next && c->heard[which].known &&
	    !may_miss())
		sim_fail("client %u hears a gap to %" PRIu64 " of topic %u, which goes on with %zu",
			 c->id, seq, which, c->heard[which].next);
	c->heard[which].known = true;
	c->heard[which].next = oracle_place(which, epoch, seq) - 1;
	sim_trace("client  %" PRIu64 " hears that topic %" PRIu64 " goes on with %" PRIu64, c->id,
		  which, c->heard[which].next, 0);
}

/* ---- what it hears: answers ---- */

/* One stands: what it brings that nothing else has brought begins. */
static void hear_subscribed(struct client *c, unsigned which, struct span rest)
{
	struct heard *h = which < SIM_TOPICS_MAX ? &c->heard[which] : NULL;
	uint64_t epoch, seq;

	if (c->socket.names[which] != NAME_ASKED)
		sim_fail("client %u hears that %s stands", c->id, name_of(which));
	for (unsigned topic = 0; topic < sim.topics_n; topic++) {
		if (!matches(which, topic) || brought(c, topic) > 0)
			continue;
		c->heard[topic].on = true;
		c->heard[topic].known = false;
		c->heard[topic].lingers = c->heard[topic].skipped = false;
		c->heard[topic].next = orders[topic].n;
	}
	if (h != NULL && !take_id(&rest, ",\"id\":\"", &epoch, &seq))
		sim_fail("client %u hears no number but %.*s", c->id, (int)rest.len, rest.data);
	if (h != NULL && brought(c, which) == 0) {
		h->known = true;
		h->next = h->from != SIZE_MAX ? h->from
			  : h->placed         ? h->begin
					      : oracle_place(which, epoch, seq);
	}
	c->socket.names[which] = NAME_ON;
	sim_trace("client  %" PRIu64 " has name %" PRIu64 ", topic from number %" PRIu64
		  " (its home: %" PRIu64 ")",
		  c->id, which, h != NULL ? h->next : 0, h != NULL ? h->begin : 0);
}

static void hear_unsubscribed(struct client *c, unsigned which)
{
	bool others = false;

	if (c->socket.names[which] != NAME_GOING)
		sim_fail("client %u hears that %s has gone", c->id, name_of(which));
	c->socket.names[which] = NAME_OFF;
	sim_trace("client  %" PRIu64 " has name %" PRIu64 " no more", c->id, which, 0, 0);
	for (unsigned other = 0; other < SOCKET_NAMES; other++)
		others |= c->socket.names[other] == NAME_ON;
	for (unsigned topic = 0; topic < sim.topics_n; topic++) {
		if (!matches(which, topic) || brought(c, topic) > 0)
			continue;
		c->heard[topic].on = false;
		/* Where others take over, it still gets what was its by then. */
		c->heard[topic].lingers = others;
	}
}

static void hear_published(struct client *c, unsigned topic, struct span rest)
{
	const struct entry *e;
	uint64_t epoch, seq;
	unsigned ref;
	long at;

	if (!take_id(&rest, ",\"id\":\"", &epoch, &seq) ||
	    sscanf(rest.data, ",\"ref\":%u}", &ref) != 1)
		sim_fail("client %u hears of what it has published %.*s", c->id, (int)rest.len,
			 rest.data);
	at = oracle_find(topic, epoch, seq);
	e = at >= 0 ? &orders[topic].entries[at] : NULL;
	/* Behind what has been refused there may be others like it. */
	if (e == NULL || e->publisher != c->id ||
	    (!c->error && (e->number != ref || ref < c->answered) && !may_miss()))
		sim_fail("client %u: the number of message %u is said to be %" PRIu64, c->id, ref,
			 seq);
	c->answered = c->error ? c->answered : ref + 1;
}

static void hear_refusal(struct client *c, struct span text)
{
	c->error = true;
	/* It waits for nothing more. */
	c->answered = c->messages;
	if (!many_may_fail())
		sim_fail("client %u is told %.*s for no reason", c->id, (int)text.len, text.data);
}

/* What is asked for and not yet there many_check is not to look at. */
static void settle(struct client *c)
{
	for (unsigned topic = 0; topic < sim.topics_n; topic++) {
		c->heard[topic].asked = false;
		for (unsigned which = 0; which < SOCKET_NAMES; which++)
			c->heard[topic].asked |=
				matches(which, topic) && (c->socket.names[which] == NAME_ASKED ||
							  c->socket.names[which] == NAME_GOING);
	}
}

static void hear_json(struct client *c, struct span text)
{
	struct span rest = text, name;
	uint64_t epoch, seq;

	if (take(&rest, "{\"topic\":\"", &name)) {
		unsigned which = which_is(c, name);

		if (which == SOCKET_NAMES)
			c->received++;
		else if (which < SIM_TOPICS_MAX && take_id(&rest, ",\"id\":\"", &epoch, &seq))
			hear_json_message(c, which, epoch, seq, rest);
		else
			hear_gap(c, which, rest);
	} else if (take(&rest, "{\"subscribed\":\"", &name)) {
		hear_subscribed(c, which_is(c, name), rest);
	} else if (take(&rest, "{\"unsubscribed\":\"", &name)) {
		hear_unsubscribed(c, which_is(c, name));
	} else if (take(&rest, "{\"published\":\"", &name) && c->role == ROLE_PUBLISHER) {
		hear_published(c, c->topic, rest);
	} else if (take(&rest, "{\"error\":\"", &name)) {
		hear_refusal(c, text);
	} else if (!span_equal(text, SPAN("{\"pong\":[7,\"x\"]}"))) {
		sim_fail("client %u hears %.*s", c->id, (int)text.len, text.data);
	}
	settle(c);
}

static void hear_payload(struct client *c, unsigned opcode, struct span text)
{
	bool valid = utf8_valid(text);

	if (opcode != (valid && (speaks_json(c) || !is_binary(c)) ? TEXT : BINARY))
		sim_fail("client %u gets %zu bytes as %s", c->id, text.len,
			 opcode == TEXT ? "text" : "binary");
	if (speaks_json(c))
		hear_json(c, text);
	else
		many_hear(c, (int)c->topic, text);
}

/* ---- what it hears: frames ---- */

static void hear_close(struct client *c, struct span word)
{
	unsigned code = word.len >= 2 ? (unsigned)(unsigned char)word.data[0] << 8 |
						(unsigned char)word.data[1]
				      : 0;

	c->socket.closed = true;
	/* A slow one may be told so first. */
	if (code == 1013 || code == 1011 || code == 1001) {
		c->error = true;
		if (!many_may_fail() && !span_equal(span_skip(word, 2), SPAN("slow consumer")))
			sim_fail("client %u is closed for no reason: %.*s", c->id,
				 (int)word.len - 2, word.data + 2);
		return;
	}
	/* A topic of its has lost its last publisher. */
	for (unsigned topic = 0; code == NORMAL && topic < sim.topics_n; topic++) {
		if (strncmp(oracle_topic_name(topic).data, "bye", 3) != 0 ||
		    !(speaks_json(c) ? wanted(c, topic) : c->topic == topic))
			continue;
		c->bye = c->error = true;
		return;
	}
	/* While it drains the broker reads nothing more. */
	if (code == NORMAL && (sim.params.faults & 1u << FAULT_DRAIN))
		c->socket.due = NORMAL;
	if (code != (c->socket.due != 0 ? c->socket.due : NORMAL) ||
	    (c->socket.due == 0 && !c->said_all))
		sim_fail("client %u of topic %d is closed with %u instead of %u: %.*s", c->id,
			 speaks_json(c) ? -1 : (int)c->topic, code, c->socket.due,
			 (int)word.len - 2, word.data + 2);
	c->bye = true;
	c->error |= code >= 1002 && code < 3000;
	/* What it has published before is published (world.c). */
	if (c->role == ROLE_PUBLISHER && !speaks_json(c))
		c->answered = c->messages;
}

static void hear_pong(struct client *c, struct span text)
{
	char expected[32];

	snprintf(expected, sizeof(expected), "ping %u", c->socket.pongs++);
	if (!span_equal(text, span_of(expected)))
		sim_fail("client %u hears a pong to %.*s instead of %s", c->id, (int)text.len,
			 text.data, expected);
}

static void hear_frame(struct client *c, unsigned opcode, struct span payload)
{
	if (c->socket.closed)
		sim_fail("client %u hears more behind the Close", c->id);
	if (opcode == TEXT || opcode == BINARY)
		hear_payload(c, opcode, payload);
	else if (opcode == PING && !c->said_all)
		say_frame(c, FIN | PONG, payload.data, payload.len);
	else if (opcode == PONG)
		hear_pong(c, payload);
	else if (opcode == CLOSE)
		hear_close(c, payload);
	else if (opcode != PING)
		sim_fail("client %u hears a frame of opcode %u", c->id, opcode);
}

/* The answer to its request. Whoever is refused hears so, and nothing else. */
static size_t hear_answer(struct client *c, struct span in)
{
	static char head[1000];
	size_t n = in.len < sizeof(head) ? in.len : sizeof(head) - 1;
	char *end;

	memcpy(head, in.data, n);
	head[n] = 0;
	end = strstr(head, "\r\n\r\n");
	if (end == NULL)
		return 0;
	if (strncmp(head, "HTTP/1.1 101 ", 13) != 0 || strstr(head, ACCEPT "\r\n") == NULL) {
		hear_refusal(c, (struct span){ head, strcspn(head, "\r") });
		return in.len;
	}
	c->ok = true;
	if (!speaks_json(c))
		many_confirmed(c, c->topic, true);
	return (size_t)(end - head) + 4;
}

static size_t hear(struct client *c, struct span in)
{
	const unsigned char *p = (const unsigned char *)in.data;
	size_t head = 2, len;

	if (!c->ok && c->error)
		return in.len;
	if (!c->ok)
		return hear_answer(c, in);
	if (in.len < 2)
		return 0;
	len = p[1];
	if (len >= 126) {
		head += len == 126 ? 2 : 8;
		if (in.len < head)
			return 0;
		len = 0;
		for (size_t i = 2; i < head; i++)
			len = len << 8 | p[i];
	}
	if ((p[0] & 0xf0) != FIN || (p[1] & MASKED) ||
	    head != (size_t)(len < 126           ? 2
			     : len <= UINT16_MAX ? 4
						 : 10))
		sim_fail("client %u hears a frame that begins %02x %02x", c->id, p[0], p[1]);
	c->body_left = head + len;
	if (in.len < head + len)
		return 0;
	hear_frame(c, p[0] & 0xf, (struct span){ in.data + head, len });
	return head + len;
}

static void ended(struct client *c)
{
	if (c->ok && !c->socket.closed && !c->error && !c->wire.cut && !c->wire.reset &&
	    !(sim.params.faults & 1u << FAULT_MEMORY) && !many_may_fail())
		sim_fail("client %u: an end without a Close", c->id);
}

const struct talk socket_topic_talk = {
	.frames = true,
	.waits = true,
	.connect = connect_topic,
	.message = message_to_topic,
	.ask = ask,
	.ping = say_ping,
	.quit = quit,
	.hear = hear,
	.ended = ended,
};

const struct talk socket_json_talk = {
	.acknowledged = true,
	.frames = true,
	.waits = true,
	.connect = connect_json,
	.message = message_in_json,
	.ask = ask,
	.ping = ping_json,
	.quit = quit,
	.hear = hear,
	.ended = ended,
};
