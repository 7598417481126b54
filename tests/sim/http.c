#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "sim.h"

enum state {
	STATE_HEAD,
	STATE_BODY,
	STATE_SIZE, /* of a chunk */
	STATE_CHUNK,
	STATE_CHUNK_CR, /* behind it */
	STATE_CHUNK_LF,
	STATE_REST, /* of an answer that nobody is interested in */
};

static void say_text(struct client *c, const char *text)
{
	client_say(c, text, strlen(text));
}

void http_say_command(struct client *c)
{
	struct span name = oracle_topic_name(c->topic);
	const struct order *o = &orders[c->topic];
	char text[600];

	if (c->role == ROLE_PUBLISHER)
		return;
	snprintf(text, sizeof(text), "GET /subscribe/%.*s", (int)name.len, name.data);
	say_text(c, text);
	if (c->replay_kind == 1) {
		snprintf(text, sizeof(text), "?last=%u", random_size(&c->random, 300) - 1);
		say_text(c, text);
	}
	say_text(c, " HTTP/1.1\r\nHost: sim\r\n");
	if (c->speech == SPEAKS_EVENTS)
		say_text(c, "Accept: text/event-stream\r\n");
	if (c->replay_kind == 2 && o->eras_n > 0) {
		const struct era *era = &o->eras[o->eras_n - 1];

		snprintf(text, sizeof(text), "Last-Event-ID: %016" PRIx64 ":%u\r\n", era->epoch,
			 random_below(&c->random, (unsigned)(o->n - era->base) + 3));
		say_text(c, text);
	}
	say_text(c, "\r\n");
}

void http_say_message(struct client *c, const char *text, size_t n)
{
	struct span name = oracle_topic_name(c->topic);
	char line[600];
	size_t first = n > 1 ? random_below(&c->random, (unsigned)n) : 0;

	snprintf(line, sizeof(line), "POST /publish/%.*s HTTP/1.1\r\nHost: sim\r\n", (int)name.len,
		 name.data);
	say_text(c, line);
	if (first == 0 || random_one_in(&c->random, 2)) {
		snprintf(line, sizeof(line), "Content-Length: %zu\r\n\r\n", n);
		say_text(c, line);
		client_say(c, text, n);
		return;
	}
	snprintf(line, sizeof(line), "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", first);
	say_text(c, line);
	client_say(c, text, first);
	snprintf(line, sizeof(line), "\r\n%zX\r\n", n - first);
	say_text(c, line);
	client_say(c, text + first, n - first);
	say_text(c, "\r\n0\r\n\r\n");
}

void http_say_fetch(struct client *c)
{
	struct span name = oracle_topic_name(c->topic);
	const struct order *o = &orders[c->topic];
	size_t held = o->eras_n > 0 ? o->n - o->eras[o->eras_n - 1].base : 0;
	char text[600], which[24] = "last";

	/* Most are new or still to come. */
	c->wanted = random_one_in(&c->random, 4) ? random_below(&c->random, (unsigned)held + 4)
						 : held + random_below(&c->random, 4);
	if (c->wanted > 0)
		snprintf(which, sizeof(which), "%" PRIu64, c->wanted);
	snprintf(text, sizeof(text), "GET /topic/%.*s/%s HTTP/1.1\r\nHost: sim\r\n\r\n",
		 (int)name.len, name.data, which);
	say_text(c, text);
	c->generated++;
}

static const char *line_text(struct client *c)
{
	client_add(c, 0);
	c->line_n--;
	return c->line;
}

static void hear_body(struct client *c);

/* The head of an answer to a reader: a message, or that it is not there, or not in time. */
static void hear_resource(struct client *c, const char *head)
{
	const char *length = strstr(head, "Content-Length: "), *tag = strstr(head, "ETag: \"");
	char *end;

	if (c->status != 200 && c->status != 404 && c->status != 408 && c->status != 503)
		sim_fail("client %u is told %.60s for no reason", c->id, head);
	if (length == NULL || (c->status == 200 && tag == NULL))
		sim_fail("client %u: an answer without length or tag: %s", c->id, head);
	c->body_left = strtoull(length + 16, NULL, 10);
	if (c->status == 200) {
		c->got_epoch = strtoull(tag + 7, &end, 16);
		c->got_seq = strtoull(end + 1, NULL, 10);
	}
	c->line_n = 0;
	c->http_state = STATE_BODY;
	if (c->body_left == 0)
		hear_body(c);
}

/* The message must be the one that has this number. */
static void hear_fetched(struct client *c)
{
	static char text[SIM_MESSAGE_BYTES_MAX + 64];
	long at = oracle_find(c->topic, c->got_epoch, c->got_seq);
	const struct entry *e;
	bool encodable;
	size_t n;

	if (at < 0 || (c->wanted > 0 && c->wanted != c->got_seq))
		sim_fail("client %u wants %" PRIu64 " and gets %" PRIu64 ", which is number %ld",
			 c->id, c->wanted, c->got_seq, at);
	e = &orders[c->topic].entries[at];
	n = client_text(e->publisher, e->number, text, &encodable);
	if (n != c->line_n || memcmp(text, c->line, n) != 0)
		sim_fail("client %u: message %" PRIu64 " is damaged", c->id, c->got_seq);
}

static void hear_head(struct client *c)
{
	const char *head = line_text(c), *length = strstr(head, "Content-Length: ");
	uint32_t faults = sim.params.faults;
	bool away;

	if (strncmp(head, "HTTP/1.1 ", 9) != 0)
		sim_fail("client %u hears %.60s", c->id, head);
	c->status = (unsigned)atoi(head + 9);
	if (c->role == ROLE_READER) {
		hear_resource(c, head);
		return;
	}
	/* An event stream of known length sends its client away. */
	away = c->role != ROLE_PUBLISHER && c->speech == SPEAKS_EVENTS && c->status == 200 &&
	       length != NULL;
	c->ok |= c->status == 200 && !away;
	c->error |= c->status != 200 || away;
	if ((c->status != 200 || away) && c->status != 408 &&
	    !((c->status == 503 || away) && (faults & (1u << FAULT_MEMORY | 1u << FAULT_LIMITS |
						       1u << FAULT_DRAIN | 1u << FAULT_BUDGET))))
		sim_fail("client %u is told %.60s for no reason", c->id, head);
	c->body_left = length != NULL ? strtoull(length + 16, NULL, 10) : 0;
	c->http_state = c->role == ROLE_PUBLISHER   ? STATE_BODY
			: c->status == 200 && !away ? STATE_SIZE
						    : STATE_REST;
}

/* The number that a message has got. */
static void hear_number(struct client *c)
{
	const char *id = strstr(line_text(c), "\"id\":\"");
	const struct order *o = &orders[c->topic];
	uint64_t epoch, seq;
	char *end;
	long at;

	if (id == NULL)
		sim_fail("client %u hears no number but %s", c->id, c->line);
	epoch = strtoull(id + 6, &end, 16);
	seq = strtoull(end + 1, NULL, 10);
	at = oracle_find(c->topic, epoch, seq);
	if (at < 0 || o->entries[at].publisher != c->id ||
	    (o->entries[at].number != c->answered && !client_may_miss(c) &&
	     !(sim.params.faults & 1u << FAULT_LIMITS)))
		sim_fail("client %u: the number of message %u is said to be %" PRIu64
			 ", which is another's",
			 c->id, c->answered, seq);
	c->answered++;
}

static void hear_body(struct client *c)
{
	if (c->role == ROLE_READER) {
		if (c->status == 200)
			hear_fetched(c);
		c->answered++;
	} else if (c->status == 200) {
		hear_number(c);
	}
	c->http_state = STATE_HEAD;
}

static size_t base64_length(size_t n)
{
	return (n + 2) / 3 * 4;
}

/* Checks an event against the message that has its number, and leaves that in c->line. */
static void hear_event(struct client *c)
{
	static char data[2 * SIM_MESSAGE_BYTES_MAX], text[SIM_MESSAGE_BYTES_MAX + 64];
	const struct order *o = &orders[c->topic];
	const char *line = c->line, *end = c->line + c->line_n;
	bool base64 = false, gap = false, data_seen = false, encodable;
	uint64_t epoch = 0, seq = 0;
	size_t n = 0, len;
	long at;

	while (line < end) {
		const char *lf = memchr(line, '\n', (size_t)(end - line));
		size_t rest;

		if (lf == NULL)
			sim_fail("client %u: an event without its end", c->id);
		rest = (size_t)(lf - line);
		if (rest >= 4 && memcmp(line, "id: ", 4) == 0) {
			epoch = strtoull(line + 4, NULL, 16);
			seq = strtoull(line + 21, NULL, 10);
		} else if (rest >= 6 && memcmp(line, "data: ", 6) == 0) {
			if (data_seen)
				data[n++] = '\n';
			data_seen = true;
			memcpy(data + n, line + 6, rest - 6);
			n += rest - 6;
		}
		base64 |= rest == 13 && memcmp(line, "event: base64", 13) == 0;
		gap |= rest == 10 && memcmp(line, "event: gap", 10) == 0;
		line = lf + 1;
	}
	if (seq == 0 || gap)
		return;
	at = oracle_find(c->topic, epoch, seq);
	if (!data_seen) {
		/* Where the stream stands: whoever comes back there misses nothing. */
		if (at + 1 != (long)c->next && !client_may_miss(c))
			sim_fail("client %u stands at %" PRIu64 " (%ld) before %zu", c->id, seq, at,
				 c->next);
		return;
	}
	if (at < (long)c->next || (at != (long)c->next && !client_may_miss(c)))
		sim_fail("client %u: event %" PRIu64 " (%ld) comes instead of %zu", c->id, seq, at,
			 c->next);
	len = client_text(o->entries[at].publisher, o->entries[at].number, text, &encodable);
	if (base64 ? n != base64_length(len) : n != len || memcmp(data, text, n) != 0)
		sim_fail("client %u: event %" PRIu64 " is damaged", c->id, seq);
	c->next = (size_t)at + 1;
	c->received++;
}

static void hear_chunk(struct client *c)
{
	uint64_t before = c->received;

	if (c->speech == SPEAKS_EVENTS)
		hear_event(c);
	else
		client_hear_message(c);
	/* It counts when its end is there. */
	c->unfinished = c->received - before;
	c->received = before;
	c->line_n = 0;
	c->http_state = STATE_CHUNK_CR;
}

static void hear_size(struct client *c)
{
	c->body_left = strtoull(line_text(c), NULL, 16);
	c->line_n = 0;
	c->http_state = STATE_CHUNK;
	if (c->body_left == 0) {
		c->bye = true;
		c->http_state = STATE_CHUNK_CR;
	}
}

static void hear_byte(struct client *c, char b)
{
	switch ((enum state)c->http_state) {
	case STATE_HEAD:
		client_add(c, b);
		if (c->line_n < 4 || memcmp(c->line + c->line_n - 4, "\r\n\r\n", 4) != 0)
			return;
		hear_head(c);
		c->line_n = 0;
		return;
	case STATE_BODY:
		client_add(c, b);
		if (--c->body_left > 0)
			return;
		hear_body(c);
		c->line_n = 0;
		return;
	case STATE_SIZE:
		if (c->bye)
			sim_fail("client %u: something comes after the last chunk", c->id);
		client_add(c, b);
		if (b == '\n')
			hear_size(c);
		return;
	case STATE_CHUNK:
		client_add(c, b);
		if (--c->body_left == 0)
			hear_chunk(c);
		return;
	case STATE_CHUNK_CR:
	case STATE_CHUNK_LF:
		if (b != (c->http_state == STATE_CHUNK_CR ? '\r' : '\n'))
			sim_fail("client %u: a chunk without its end", c->id);
		if (b == '\n') {
			c->received += c->unfinished;
			c->unfinished = 0;
		}
		c->http_state = c->http_state == STATE_CHUNK_CR ? STATE_CHUNK_LF : STATE_SIZE;
		return;
	case STATE_REST:
	default:
		return;
	}
}

void http_hear(struct client *c, const char *data, size_t n)
{
	for (size_t i = 0; i < n; i++)
		hear_byte(c, data[i]);
}
