#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sim.h"

enum { PATIENCE = 40 };

static const char *const nonsense[] = {
	"HELLO\r\n",
	"\r\n",
	"PUBLISH\r\n",
	"PUBLISH \r\n",
	"PUBLISH  plenty.a\r\n",
	"PUBLISH plenty.a more\r\n",
	"PUBLISH plenty.*\r\n",
	"PUBLISH a..b\r\n",
	"SUBSCRIBE\r\n",
	"SUBSCRIBE >\r\n",
	"SUBSCRIBE plenty.a \r\n",
	"SUBSCRIBE plenty.a FROM\r\n",
	"SUBSCRIBE plenty.a FROM 12:1\r\n",
	"SUBSCRIBE plenty.a FROM 0123456789abcdef:18446744073709551616\r\n",
	"SUBSCRIBE plenty.a LAST -1\r\n",
	"SUBSCRIBE plenty.a LAST 1 2\r\n",
	"BYE\r\n",
	"BYE\n",
	"PUBLISH garbage\r\nBYE",
	"PUBLISH garbage\r\nBYE\rBYE\r\nB\r\r\nBYE\r\n",
	"SUBSCRIBE garbage\r\nSUBSCRIBE garbage\r\n",
	"SUBSCRIBE garbage\r\nBYE\r\n",
	"SUBSCRIBE garbage LAST 5\r\nBYE\r\nmore",
	"PUBLISH garbage\nx\ny\r\n\r\n",
	"GET /topic/plenty.a/last HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /topic/plenty.a/1 HTTP/1.1\r\nHost: x\r\nRange: bytes=1-3\r\n\r\n",
	"GET /topic/plenty.b/3 HTTP/1.1\r\nHost: x\r\n\r\n",
	"HEAD /topic/few.a/2 HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /topic/bye.a HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /topic/skip.a/7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	"GET /topic/nobody/1 HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /topic/nobody/99 HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"OPTIONS /publish/garbage HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /publish/garbage HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
	"POST /publish/garbage HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nX-Version: "
	"3.1\r\n\r\nabPOST",
	"POST /publish/garbage HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
	"chunked\r\n\r\n3\r\nabc\r\n",
	"POST /publish/garbage HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	"POST /publish/garbage HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
	"POST /publish/garbage HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
	"3\r\n\r\nabc",
	"GET /subscribe/garbage HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n",
	"GET /subscribe/garbage?last=3 HTTP/1.1\r\nHost: x\r\n\r\nGET",
	"GET /object/none HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /topic/plenty.a/2 HTTP/1.1\r\nHost: x\r\n\r\nGET /topic/plenty.b/last "
	"HTTP/1.1\r\nHost: x\r\n\r\nGET /topic/plenty.a/9 HTTP/1.1\r\nHost: x\r\n\r\n",
};

unsigned random_size(struct random *r, unsigned max)
{
	unsigned limit;

	if (max <= 1)
		return 1;
	switch (random_below(r, 8)) {
	case 0:
		return 1;
	case 1:
	case 2:
		limit = 8;
		break;
	case 3:
	case 4:
		limit = 100;
		break;
	case 5:
	case 6:
		limit = 2000;
		break;
	default:
		limit = max;
		break;
	}
	return random_from(r, 1, limit < max ? limit : max);
}

struct random random_for(uint64_t seed, uint64_t what, uint64_t which)
{
	struct random r = { seed * 0xd1342543de82ef95u + what * 0x2545f4914f6cdd1du + which };

	r.state = random_next(&r);
	return r;
}

size_t client_text(unsigned publisher, unsigned number, char *text, bool *encodable)
{
	static const char *const traps[] = { "BYE ",    " BYE",      "BYEBYE",
					     "bye",     "OK",        "ERROR of mine",
					     "BYE\x01", "PUBLISH x", "GAP 1:1",
					     "BY",      "YE",        "BYE BYE" };
	struct random r = random_for(sim.params.seed, 1000 + publisher, number);
	unsigned kind = random_below(&r, 400);
	const bool budget = sim.params.faults & 1u << FAULT_BUDGET;
	size_t len, want;

	*encodable = true;
	if (kind < 12)
		return 0;
	if (kind < 24) {
		const char *trap = traps[random_below(&r, sizeof(traps) / sizeof(*traps))];

		len = strlen(trap);
		memcpy(text, trap, len);
		return len;
	}
	len = (size_t)sprintf(text, "m%u.%u.", publisher, number);
	want = kind < 26                    ? random_from(&r, 10000, SIM_MESSAGE_BYTES_MAX)
	       : kind < (budget ? 200 : 60) ? random_from(&r, 200, 3000)
					    : random_from(&r, 0, 150);
	/* In JSON there is more to a message. */
	if (sim.clients[publisher].speech == SPEAKS_WEBSOCKET && want > SIM_MESSAGE_BYTES_MAX - 500)
		want = SIM_MESSAGE_BYTES_MAX - 500;
	while (len < want) {
		uint64_t bits = random_next(&r);

		for (unsigned i = 0; i < 8 && len < want; i++, bits >>= 8) {
			unsigned char c = (unsigned char)bits;

			c = c == '\n' ? ' ' : c;
			if (sim.clients[publisher].speech != SPEAKS_LINE && kind >= 300 && c < 8)
				c = '\n';
			else if (kind < 200)
				c = (unsigned char)('a' + c % 26);
			text[len++] = c == '\r' ? ' ' : (char)c;
		}
	}
	if (memchr(text, '\n', len) != NULL)
		*encodable = false;
	if (kind >= 380 && len < 1000) {
		/* A CR inside, perhaps several, perhaps at the beginning; never the last byte. */
		*encodable = false;
		text[random_below(&r, (unsigned)len)] = '\r';
		text[random_below(&r, (unsigned)len)] = '\r';
		text[len++] = 'x';
	}
	return len;
}

void client_init(struct client *c, unsigned id)
{
	static const enum ending endings[] = { END_BYE,  END_BYE,  END_FIN,
					       END_STAY, END_STAY, END_CLOSE };
	uint32_t faults = sim.params.faults;

	memset(c, 0, sizeof(*c));
	c->id = id;
	c->random = random_for(sim.params.seed, 1, id);
	c->role = random_below(&c->random, 5) < 2 ? ROLE_PUBLISHER : ROLE_SUBSCRIBER;
	if ((faults & 1u << FAULT_GARBAGE) && random_one_in(&c->random, 6))
		c->role = random_one_in(&c->random, 4) ? ROLE_SILENT : ROLE_GARBAGE;
	c->topic = random_below(&c->random, sim.topics_n);
	c->ending = endings[random_below(&c->random, sizeof(endings) / sizeof(*endings))];
	if ((faults & 1u << FAULT_RESET) && random_one_in(&c->random, 4))
		c->ending = END_RESET;
	if (c->role == ROLE_PUBLISHER && (faults & 1u << FAULT_GARBAGE) &&
	    random_one_in(&c->random, 10))
		c->ending = END_TOO_LONG;
	c->start = random_below(&c->random, 2) ? 0 : random_below(&c->random, sim.params.steps);
	c->messages = random_size(&c->random, 400);
	c->patient = random_one_in(&c->random, 3);
	c->slow = random_one_in(&c->random, 6);
	c->replay_kind = random_below(&c->random, 4);
	if (c->role <= ROLE_SUBSCRIBER && random_one_in(&c->random, 3))
		c->speech = c->role == ROLE_PUBLISHER || random_one_in(&c->random, 2)
				    ? SPEAKS_CHUNKED
				    : SPEAKS_EVENTS;
	if (c->speech != SPEAKS_LINE && c->ending == END_BYE)
		c->ending = END_FIN;
	if (c->speech != SPEAKS_LINE && c->ending == END_TOO_LONG)
		c->ending = END_CLOSE;
	c->patience = random_below(&c->random, 4 * PATIENCE);
	if (c->role == ROLE_SUBSCRIBER && c->speech == SPEAKS_CHUNKED &&
	    random_one_in(&c->random, 3)) {
		c->role = ROLE_READER;
		c->messages = random_size(&c->random, 30);
	}
	if (sim.params.many > 0)
		many_init(c);
	wild_init(c);
	if (faults & 1u << FAULT_BUDGET) {
		if (c->role == ROLE_PUBLISHER)
			c->messages += random_below(&c->random, 800);
		c->slow |= random_one_in(&c->random, 3);
	}
}

void client_release(struct client *c)
{
	sim_free(c->pending);
	sim_free(c->line);
	sim_free(c->wire.tls);
	c->pending = c->line = NULL;
}

/* ---- speaking ---- */

void client_say(struct client *c, const char *data, size_t n)
{
	if (c->pending_at == c->pending_n)
		c->pending_at = c->pending_n = 0;
	if (c->pending_n + n > c->pending_slots) {
		c->pending_slots = 2 * (c->pending_n + n);
		c->pending = sim_realloc(c->pending, c->pending_slots);
	}
	memcpy(c->pending + c->pending_n, data, n);
	c->pending_n += n;
}

static void say_line(struct client *c, const char *text, size_t n)
{
	client_say(c, text, n);
	if (random_one_in(&c->random, 8))
		client_say(c, "\n", 1);
	else
		client_say(c, "\r\n", 2);
}

static void say_command(struct client *c)
{
	struct span name = oracle_topic_name(c->topic);
	const struct order *o = &orders[c->topic];
	char line[600];
	int n = 0;

	c->commanded = true;
	if (c->talk != NULL) {
		if (c->talk->connect != NULL)
			c->talk->connect(c);
		return;
	}
	if (c->speech != SPEAKS_LINE) {
		http_say_command(c);
		return;
	}
	if (c->role == ROLE_PUBLISHER) {
		n = snprintf(line, sizeof(line), "PUBLISH %.*s", (int)name.len, name.data);
	} else if (client_wild(c)) {
		if (c->pattern != NULL)
			name = span_of(c->pattern);
		n = snprintf(line, sizeof(line), "SUBSCRIBE %.*s%s", (int)name.len, name.data,
			     c->pattern != NULL && c->replay_kind == 1 ? " LAST 1" : "");
	} else if (c->replay_kind == 1) {
		c->replay_n = random_one_in(&c->random, 10) ? UINT64_MAX
							    : random_size(&c->random, 300) - 1;
		n = snprintf(line, sizeof(line), "SUBSCRIBE %.*s LAST %" PRIu64, (int)name.len,
			     name.data, c->replay_n);
	} else if (c->replay_kind == 2) {
		uint64_t epoch = random_next(&c->random), seq = random_below(&c->random, 100);

		if (o->eras_n > 0) {
			epoch = o->eras[o->eras_n - 1].epoch;
			seq = random_below(&c->random,
					   (unsigned)(o->n - o->eras[o->eras_n - 1].base) + 3);
		}
		n = snprintf(line, sizeof(line), "SUBSCRIBE %.*s FROM %016" PRIx64 ":%" PRIu64,
			     (int)name.len, name.data, epoch, seq);
	} else {
		n = snprintf(line, sizeof(line), "SUBSCRIBE %.*s", (int)name.len, name.data);
	}
	say_line(c, line, (size_t)n);
}

static void say_nonsense(struct client *c)
{
	const char *text = nonsense[random_below(&c->random, sizeof(nonsense) / sizeof(*nonsense))];
	char bytes[5000];

	c->said_all = true;
	sim.fired[FAULT_GARBAGE]++;
	switch (random_below(&c->random, 4)) {
	case 0:
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (char)random_next(&c->random);
		client_say(c, bytes, random_size(&c->random, sizeof(bytes)));
		return;
	case 1:
		/* A command without an end. */
		memset(bytes, 'a', sizeof(bytes));
		client_say(c, bytes, sizeof(bytes));
		return;
	default:
		client_say(c, text, strlen(text));
		return;
	}
}

/* Thinks of something more to say; false: for now nothing. */
static bool think(struct client *c)
{
	static char text[SIM_MESSAGE_BYTES_MAX + 64];
	unsigned batch;

	if (c->said_all)
		return false;
	if (c->role == ROLE_SILENT || c->role == ROLE_RAW)
		return false;
	if (c->role == ROLE_GARBAGE) {
		say_nonsense(c);
		return true;
	}
	if (c->role == ROLE_READER) {
		if (c->generated > c->answered)
			return false;
		c->said_all = c->generated >= c->messages || sim.calm == CALM_ALL;
		if (c->said_all)
			c->ending = c->ending == END_STAY ? END_FIN : c->ending;
		else
			http_say_fetch(c);
		return true;
	}
	if (c->role == ROLE_MANY)
		return many_think(c);
	if (!c->commanded) {
		say_command(c);
		return true;
	}
	if (c->talk != NULL && c->talk->waits && !c->ok) {
		c->said_all = sim.calm == CALM_ALL;
		c->ending = c->said_all ? END_FIN : c->ending;
		return c->said_all;
	}
	if (c->patient && !c->ok && (c->speech == SPEAKS_LINE || c->role == ROLE_SUBSCRIBER))
		return false;
	if (c->role == ROLE_SUBSCRIBER) {
		if (c->ending == END_STAY && sim.calm < CALM_ALL)
			return false;
		/* Listens for a while. */
		if (c->patience > 0 && sim.calm < CALM_ALL) {
			c->patience--;
			return false;
		}
	}
	batch = c->role == ROLE_PUBLISHER ? c->messages - c->generated : 0;
	if (batch > 20)
		batch = random_size(&c->random, 20);
	for (; batch > 0; batch--) {
		bool encodable;
		size_t n = client_text(c->id, c->generated++, text, &encodable);

		if (c->talk != NULL)
			c->talk->message(c, c->generated - 1, text, n);
		else if (c->speech != SPEAKS_LINE)
			http_say_message(c, text, n);
		else
			say_line(c, text, n);
	}
	if (c->role == ROLE_PUBLISHER && c->generated < c->messages)
		return true;
	if (c->ending == END_STAY &&
	    sim.calm < (c->role == ROLE_PUBLISHER ? CALM_PUBLISHERS : CALM_ALL))
		return false;
	/* Behind its end nothing is acknowledged any more. */
	if (c->talk != NULL && c->talk->acknowledged && c->answered < c->messages)
		return false;
	c->said_all = true;
	if (c->speech != SPEAKS_LINE) {
		if (c->ending == END_STAY)
			c->ending = END_FIN;
	} else if (c->ending == END_BYE || c->ending == END_STAY) {
		say_line(c, "BYE", 3);
		/* What comes after it is nothing. */
		if (random_one_in(&c->random, 10))
			say_line(c, "after", 5);
	} else if (c->ending == END_TOO_LONG) {
		memset(text, 'l', sizeof(text));
		client_say(c, text, SIM_MESSAGE_BYTES_MAX);
		say_line(c, text, 2);
	}
	return true;
}

static bool speak(struct client *c)
{
	struct sim_tcp *w = &c->wire;
	size_t n;

	if (w->client_fin || w->client_closed)
		return false;
	if (w->reset || w->broker_closed) {
		/* Nobody listens any more. */
		c->cut_short = !c->said_all || c->pending_at < c->pending_n;
		c->pending_at = c->pending_n;
		c->said_all = true;
		w->client_fin = true;
		return true;
	}
	if (c->pending_at == c->pending_n && !think(c)) {
		if (!c->said_all)
			return false;
		if (c->ending == END_FIN ||
		    (c->ending == END_BYE && random_one_in(&c->random, 4))) {
			w->client_fin = true;
			sim_trace("client  %" PRIu64 " half closes", c->id, 0, 0, 0);
			return true;
		}
		if (c->ending == END_CLOSE || (c->role == ROLE_GARBAGE && sim.calm == CALM_ALL)) {
			w->client_fin = w->client_closed = true;
			c->over = true;
			sim_trace("client  %" PRIu64 " closes", c->id, 0, 0, 0);
			return true;
		}
		if (c->ending == END_RESET) {
			kernel_reset(w);
			w->client_fin = w->client_closed = true;
			c->over = true;
			sim_trace("client  %" PRIu64 " vanishes", c->id, 0, 0, 0);
			return true;
		}
		return false;
	}
	n = c->pending_n - c->pending_at;
	if (n == 0)
		return true;
	if (!random_one_in(&c->random, 3))
		n = random_size(&c->random, (unsigned)n);
	n = pipe_write(&w->in, c->pending + c->pending_at, n);
	c->pending_at += n;
	return n > 0;
}

/* ---- listening ---- */

bool client_wants(const struct client *c, const struct entry *e)
{
	if (c->speech == SPEAKS_EVENTS || c->talk != NULL)
		return true;
	return c->speech == SPEAKS_LINE ? e->encodable : !e->empty;
}

static void skip_unencodable(struct client *c)
{
	const struct order *o = &orders[c->topic];

	while (c->next < o->n && !client_wants(c, &o->entries[c->next]))
		c->next++;
}

static bool is_next(struct client *c, size_t index)
{
	static char text[SIM_MESSAGE_BYTES_MAX + 64];
	const struct order *o = &orders[c->topic];
	bool encodable;
	size_t n;

	if (index >= o->n || !client_wants(c, &o->entries[index]))
		return false;
	n = client_text(o->entries[index].publisher, o->entries[index].number, text, &encodable);
	return n == c->line_n && memcmp(text, c->line, n) == 0;
}

bool client_hears_frames(struct sim_tcp *wire)
{
	const struct client *c = LIST_ENTRY(wire, struct client, wire);

	return c->speech == SPEAKS_WEBSOCKET || (c->talk != NULL && c->talk->frames);
}

bool client_may_miss(const struct client *c)
{
	return (sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_RELOAD)) ||
	       strncmp(oracle_topic_name(c->topic).data, "skip", 4) == 0;
}

static bool starts_with(const struct client *c, const char *text)
{
	size_t n = strlen(text);

	return c->line_n >= n && memcmp(c->line, text, n) == 0;
}

/* An error must have a reason. */
void client_hear_error(struct client *c)
{
	uint32_t faults = sim.params.faults;
	const struct {
		const char *text;
		bool possible;
	} errors[] = {
		{ "ERROR slow consumer", c->role == ROLE_SUBSCRIBER },
		{ "ERROR timeout", true },
		{ "ERROR line too long", c->ending == END_TOO_LONG },
		{ "ERROR out of memory", faults & 1u << FAULT_MEMORY },
		{ "ERROR draining", faults & 1u << FAULT_DRAIN },
		{ "ERROR too many connections",
		  faults & (1u << FAULT_LIMITS | 1u << FAULT_BUDGET) },
		{ "ERROR too many subscriptions", faults & 1u << FAULT_LIMITS },
		{ "ERROR too many topics", faults & 1u << FAULT_LIMITS },
	};

	c->error = true;
	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
		if (errors[i].possible && c->line_n == strlen(errors[i].text) &&
		    starts_with(c, errors[i].text))
			return;
	sim_fail("client %u is told %.*s for no reason", c->id, (int)c->line_n, c->line);
}

void client_hear_message(struct client *c)
{
	if (client_wild(c)) {
		wild_hear(c);
		return;
	}
	skip_unencodable(c);
	if (is_next(c, c->next)) {
		c->next++;
		c->received++;
		return;
	}
	for (size_t i = c->next; client_may_miss(c) && i < orders[c->topic].n; i++) {
		if (!is_next(c, i))
			continue;
		c->next = i + 1;
		c->received++;
		return;
	}
	if (c->speech == SPEAKS_LINE && starts_with(c, "ERROR ")) {
		client_hear_error(c);
		return;
	}
	if (c->speech == SPEAKS_LINE && c->line_n == 3 && starts_with(c, "BYE")) {
		c->bye = true;
		return;
	}
	sim_fail("client %u: after %" PRIu64
		 " messages comes %.*s (%zu bytes), which is not number "
		 "%zu of the topic's order (%zu)",
		 c->id, c->received, (int)(c->line_n < 60 ? c->line_n : 60), c->line, c->line_n,
		 c->next, orders[c->topic].n);
}

static void hear_gap(struct client *c)
{
	char expected[64];

	snprintf(expected, sizeof(expected), "GAP %016" PRIx64 ":%" PRIu64, c->gap_epoch,
		 c->gap_seq);
	if (c->line_n != strlen(expected) || memcmp(c->line, expected, c->line_n) != 0)
		sim_fail("client %u: %.*s instead of %s", c->id, (int)c->line_n, c->line, expected);
}

static void hear_line(struct client *c)
{
	c->lines_n++;
	if (c->error || c->bye)
		sim_fail("client %u: something comes after the last word", c->id);
	if (c->lines_n == 1 && c->line_n == 2 && starts_with(c, "OK")) {
		c->ok = true;
		return;
	}
	if (c->lines_n == 1 || c->role == ROLE_PUBLISHER) {
		client_hear_error(c);
		return;
	}
	if (c->lines_n == 2 && c->gap_seq != 0) {
		hear_gap(c);
		return;
	}
	client_hear_message(c);
}

void client_add(struct client *c, char b)
{
	if (c->line_n == c->line_slots) {
		c->line_slots = 2 * c->line_slots + 400;
		c->line = sim_realloc(c->line, c->line_slots);
	}
	c->line[c->line_n++] = b;
}

static void hear(struct client *c, const char *data, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char b = data[i];

		if (c->cr != (b == '\n'))
			sim_fail("client %u hears a CR or LF alone", c->id);
		c->cr = b == '\r';
		if (b == '\r')
			continue;
		if (b == '\n') {
			hear_line(c);
			c->line_n = 0;
			continue;
		}
		client_add(c, b);
		if (c->line_n > SIM_MESSAGE_BYTES_MAX + 32)
			sim_fail("client %u: a line without an end", c->id);
	}
}

/* The end of what the broker says. */
static void hear_end(struct client *c)
{
	struct sim_tcp *w = &c->wire;

	c->over = true;
	if (c->talk != NULL && c->talk->ended != NULL)
		c->talk->ended(c);
	sim_trace("client  %" PRIu64 " is at the end after %" PRIu64 " lines", c->id, c->lines_n, 0,
		  0);
	if (!w->client_fin) {
		w->client_fin = true;
		sim_trace("client  %" PRIu64 " closes", c->id, 0, 0, 0);
	}
	/* Without memory for it there is none, and the client knows that something is missing. */
	if (w->tls != NULL && sim_tls_secure(w->tls) && !w->cut && !sim_tls_ended(w->tls) &&
	    !(sim.params.faults & 1u << FAULT_MEMORY))
		sim_fail("client %u: the broker ends without close_notify", c->id);
	/* Part of a last word is one too: it has had two seconds to take it. */
	if (w->cut || c->role != ROLE_PUBLISHER || c->error || !c->said_all || c->line_n > 0)
		return;
	/* Beyond a limit, and too many of them to be told. */
	if (c->cut_short && (sim.params.faults & 1u << FAULT_LIMITS))
		return;
	/* A broker that drains does not wait for ever for its last word to be sent. */
	if ((sim.params.faults & 1u << FAULT_DRAIN) && (sim.params.faults & 1u << FAULT_TIME))
		return;
	/* Nobody has read what it says yet: no OK, so no receipt. */
	if (!c->ok && (sim.params.faults & (1u << FAULT_DRAIN | 1u << FAULT_TIME)))
		return;
	/* There a refusal for now is a close. */
	if (c->talk != NULL && (sim.params.faults & (1u << FAULT_LIMITS | 1u << FAULT_BUDGET)))
		return;
	/* The close is the publisher's receipt. */
	if (c->speech != SPEAKS_LINE && c->answered != c->messages && c->ending == END_FIN &&
	    !(sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_DRAIN | 1u << FAULT_TIME)))
		sim_fail("client %u: %u of %u requests are answered", c->id, c->answered,
			 c->messages);
	if (c->speech == SPEAKS_LINE && c->ending != END_TOO_LONG &&
	    c->pending_at == c->pending_n && c->sequenced != c->messages &&
	    !(sim.params.faults & 1u << FAULT_MEMORY))
		sim_fail("client %u: closed after %u of %u messages", c->id, c->sequenced,
			 c->messages);
}

static bool listen(struct client *c)
{
	struct sim_tcp *w = &c->wire;
	char data[2000];
	size_t n = sizeof(data);

	if (w->client_closed || c->over)
		return false;
	if (c->stalled) {
		if (!sim.calm)
			return false;
		c->stalled = false;
	}
	if (fault(FAULT_STALL) && c->role != ROLE_PUBLISHER) {
		c->stalled = true;
		sim_trace("client  %" PRIu64 " stops reading", c->id, 0, 0, 0);
		return true;
	}
	if (c->slow && !sim.calm)
		n = 1 + random_below(&c->random, 10);
	else if (!random_one_in(&c->random, 3))
		n = random_size(&c->random, sizeof(data));
	n = pipe_read(&w->out, data, n);
	if (n > 0) {
		if (c->talk != NULL)
			many_hear_bytes(c, data, n);
		else if (c->speech != SPEAKS_LINE && c->role != ROLE_RAW)
			http_hear(c, data, n);
		else if (c->role <= ROLE_SUBSCRIBER)
			hear(c, data, n);
		for (size_t i = 0; c->role == ROLE_RAW && i < n; i++)
			client_add(c, data[i]);
		return true;
	}
	if (!w->broker_fin && !w->reset)
		return false;
	hear_end(c);
	return true;
}

bool client_step(struct client *c)
{
	if (!c->begun) {
		c->begun = true;
		kernel_connect(c->id, random_below(&sim.random, sim.broker.shards_n));
		sim_trace("client  %" PRIu64 " connects", c->id, 0, 0, 0);
		return true;
	}
	if (c->over)
		return false;
	if (!c->wire.reset && c->ending == END_RESET && fault(FAULT_RESET)) {
		kernel_reset(&c->wire);
		c->wire.client_fin = c->wire.client_closed = true;
		c->over = true;
		sim_trace("client  %" PRIu64 " vanishes", c->id, 0, 0, 0);
		return true;
	}
	/* While it waits in the listener's queue it can speak all the same. */
	if (random_one_in(&c->random, 2))
		return speak(c) || listen(c);
	return listen(c) || speak(c);
}

void client_calm(struct client *c)
{
	c->wire.in.max = c->wire.out.max = SIM_PIPE_BYTES_MAX;
	c->stalled = c->slow = false;
}
