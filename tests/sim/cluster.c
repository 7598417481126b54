#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/config_keys.h"
#include "sim.h"

/*
 * Worlds in which all topics are a cluster's (session/upstream.h). What the server takes is the
 * order of each topic; then
 *
 *   - every subscriber gets each message once, in that order, or is told that some are missing, or
 *     has been closed;
 *   - what somebody has a receipt for has come to the server;
 *   - nothing comes to it that nobody has published, nor twice.
 */

enum {
	TOPICS = 3,
	MESSAGES_MAX = 400,
	TEXT_MAX = 4000,
	AT_ONCE_MAX = 3, /* requests of one client */
	CLIENTS_MAX = 40,
	SHARDS_MAX = 5,
	FOREIGN = SIM_CLIENTS_MAX, /* somebody elsewhere */
	FOREIGN_EVERY = 200,
	CALM_SECONDS = 20,
	CALM_ROUNDS = 20000,
};

enum kind { PUBLISHES_LINES, POSTS, HEARS_LINES, HEARS_EVENTS, KINDS };

static struct player {
	enum kind kind;
	unsigned topic;
	struct random random;
	bool begun, leaves, told, done;
	size_t at; /* what is parsed of what it has heard */
	/* Who publishes: the place of each message in its topic's order, from 1; 0: it has none. */
	unsigned messages, generated, answered;
	uint32_t places[MESSAGES_MAX];
	/* Who subscribes. */
	bool head, ok, error, known, gap, gap_event;
	size_t floor, next;
	unsigned patience;
	char data[TEXT_MAX];
	size_t data_n;
} players[SIM_CLIENTS_MAX + 1];

static size_t taken_n[TOPICS]; /* by the server */

static struct random chance;

static struct span topic_name(unsigned topic)
{
	static const char *const names[TOPICS] = { "live.a", "live.b", "live.c" };

	return span_of(names[topic]);
}

/* ---- the world ---- */

void cluster_restrict(struct sim_params *p)
{
	p->faults &= ~(1u << FAULT_GARBAGE | 1u << FAULT_RELOAD | 1u << FAULT_LIMITS |
		       1u << FAULT_BUDGET | 1u << FAULT_TLS | 1u << FAULT_DRAIN);
	p->clients = p->clients < CLIENTS_MAX ? p->clients : CLIENTS_MAX;
	p->shards = p->shards < SHARDS_MAX ? p->shards : SHARDS_MAX;
}

static char **texts(const char *text)
{
	char **list = malloc(sizeof(*list));

	if (list == NULL || (list[0] = strdup(text)) == NULL)
		abort();
	return list;
}

void cluster_configure(struct config *config)
{
	static const unsigned in_flight[] = { 1, 7, 100, 1024 };
	struct random r = random_for(sim.params.seed, 22, 0);
	struct config_upstream *u;

	if (config_upstreams_new(config, 1) != 0)
		abort();
	u = &config->upstreams[0];
	u->title = strdup("sim");
	u->servers = texts("127.0.0.1:4222");
	u->servers_n = 1;
	u->topics = texts("live.>");
	u->topics_n = u->topics_kept_n = 1;
	u->log = CONFIG_LOG_NONE;
	if (sim.params.upstream == UPSTREAM_SIM_LOG) {
		u->log = CONFIG_LOG_JETSTREAM;
		free(u->stream);
		u->stream = strdup("LIVE");
		u->tail_seconds = random_from(&r, 1, 5);
	}
	u->ping_seconds = random_from(&r, 1, 2);
	u->reconnect_ms_min = random_from(&r, 1, 50);
	u->reconnect_ms_max = u->reconnect_ms_min * random_from(&r, 1, 20);
	u->publish_seconds = random_from(&r, 1, 15);
	u->in_flight = in_flight[random_below(&r, 4)];
	u->in_flight_bytes = random_from(&r, 4096, 100000);
	u->linger_seconds = random_below(&r, 4);
}

/* ---- texts ---- */

static size_t text_of(unsigned publisher, unsigned number, char *text)
{
	struct random r = random_for(sim.params.seed, 3000 + publisher, number);
	size_t n = (size_t)sprintf(text, "m%u.%u.", publisher, number);
	size_t more = random_one_in(&r, 10) ? random_from(&r, 0, 3000) : random_from(&r, 0, 100);

	while (more-- > 0)
		text[n++] = (char)('a' + random_below(&r, 26));
	return n;
}

/* Whose it is: it has to be what he has written. */
static struct player *writer_of(struct span text, unsigned topic, unsigned *publisher,
				unsigned *number)
{
	static char expected[TEXT_MAX];
	char head[32] = "";
	struct player *p;

	memcpy(head, text.data, text.len < sizeof(head) - 1 ? text.len : sizeof(head) - 1);
	if (sscanf(head, "m%u.%u.", publisher, number) != 2 || *publisher > SIM_CLIENTS_MAX)
		sim_fail("%.*s is nobody's", (int)text.len, text.data);
	p = &players[*publisher];
	if (*number >= p->generated || (*publisher != FOREIGN && p->topic != topic))
		sim_fail("%s was not published in topic %u", head, topic);
	if (text_of(*publisher, *number, expected) != text.len ||
	    memcmp(expected, text.data, text.len) != 0)
		sim_fail("%s is not as it was published", head);
	return p;
}

/* ---- what the server takes ---- */

void cluster_published(struct span subject, struct span payload)
{
	unsigned topic = 0, publisher, number;
	struct player *p;

	while (topic < TOPICS && !span_equal(subject, topic_name(topic)))
		topic++;
	if (topic == TOPICS)
		sim_fail("%.*s comes to the server", (int)subject.len, subject.data);
	p = writer_of(payload, topic, &publisher, &number);
	if (p->places[number] != 0)
		sim_fail("message %u of client %u comes to the server twice", number, publisher);
	for (unsigned i = number + 1; i < p->generated && server_lost() == 0; i++)
		if (p->places[i] != 0 && publisher != FOREIGN)
			sim_fail("message %u of client %u comes to the server behind %u", number,
				 publisher, i);
	p->places[number] = (uint32_t)++taken_n[topic];
	sim_trace("server  topic %" PRIu64 " has %" PRIu64 ": message %" PRIu64
		  " of client %" PRIu64,
		  topic, taken_n[topic], number, publisher);
}

static void publish_elsewhere(unsigned topic)
{
	struct player *p = &players[FOREIGN];
	static char text[TEXT_MAX];

	if (p->generated == MESSAGES_MAX)
		return;
	server_publish(topic_name(topic),
		       (struct span){ text, text_of(FOREIGN, p->generated++, text) });
}

/* ---- what is heard ---- */

static bool may_miss(void)
{
	return sim.params.faults & 1u << FAULT_MEMORY;
}

/* With a log everything is there to be fetched, and no silence is as long as repair_seconds. */
static bool may_have_gaps(void)
{
	return sim.params.upstream != UPSTREAM_SIM_LOG || may_miss();
}

static void hear_message(struct client *c, struct player *p, struct span text)
{
	unsigned publisher, number;
	const struct player *writer = writer_of(text, p->topic, &publisher, &number);
	size_t at = writer->places[number];

	if (at-- == 0)
		sim_fail("client %u hears message %u of client %u, which is not in the cluster",
			 c->id, number, publisher);
	if (!p->known && at > p->floor && !p->gap && !may_miss())
		sim_fail("client %u begins at %zu of topic %u, and its OK came at %zu", c->id, at,
			 p->topic, p->floor);
	if (p->known && (at < p->next || (at > p->next && !p->gap && !may_miss())))
		sim_fail("client %u hears %zu of topic %u instead of %zu", c->id, at, p->topic,
			 p->next);
	p->known = true;
	p->gap = false;
	p->next = at + 1;
}

static void hear_error(struct client *c, struct player *p, struct span line)
{
	bool listens = p->kind == HEARS_LINES, memory = sim.params.faults & 1u << FAULT_MEMORY;
	const struct {
		struct span text;
		bool possible;
	} errors[] = {
		{ SPAN("ERROR gap"), listens && may_have_gaps() },
		{ SPAN("ERROR slow consumer"), listens },
		{ SPAN("ERROR upstream"), true },
		{ SPAN("ERROR timeout"), true },
		{ SPAN("ERROR out of memory"), memory },
	};

	p->error = true;
	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
		if (errors[i].possible && span_equal(line, errors[i].text))
			return;
	sim_fail("client %u is told %.*s for no reason", c->id, (int)line.len, line.data);
}

static bool begins(struct span line, struct span with)
{
	return line.len >= with.len && memcmp(line.data, with.data, with.len) == 0;
}

static void hear_ok(struct player *p)
{
	p->ok = true;
	p->floor = taken_n[p->topic];
}

static void hear_line(struct client *c, struct player *p, struct span line)
{
	if (p->error || p->done)
		sim_fail("client %u: %.*s comes after the last word", c->id, (int)line.len,
			 line.data);
	if (!p->ok && span_equal(line, SPAN("OK")))
		hear_ok(p);
	else if (begins(line, SPAN("ERROR ")))
		hear_error(c, p, line);
	else if (p->kind == HEARS_LINES && span_equal(line, SPAN("BYE")))
		p->done = true;
	else if (p->kind == HEARS_LINES)
		hear_message(c, p, line);
	else
		sim_fail("client %u hears %.*s", c->id, (int)line.len, line.data);
}

static void hear_event_line(struct client *c, struct player *p, struct span line)
{
	if (!p->head) {
		if (!p->ok && !p->error && begins(line, SPAN("HTTP/1.1 200")))
			hear_ok(p);
		else if (!p->ok)
			p->error = true;
		p->head = line.len == 0;
		return;
	}
	if (p->error)
		return;
	if (begins(line, SPAN("data: ")) && line.len - 6 <= sizeof(p->data)) {
		p->data_n = line.len - 6;
		memcpy(p->data, line.data + 6, p->data_n);
	}
	p->gap_event |= span_equal(line, SPAN("event: gap"));
	if (line.len > 0)
		return;
	if (p->gap_event && !may_have_gaps())
		sim_fail("client %u is told of a gap", c->id);
	if (p->gap_event)
		p->gap = true;
	else if (p->data_n > 0)
		hear_message(c, p, (struct span){ p->data, p->data_n });
	p->gap_event = false;
	p->data_n = 0;
}

/* One answer; false: it is not all there. */
static bool hear_answer(struct client *c, struct player *p)
{
	struct span in = { c->line + p->at, c->line_n - p->at };
	const char *end = memmem(in.data, in.len, "\r\n\r\n", 4), *field;
	size_t head = end != NULL ? (size_t)(end - in.data) + 4 : 0, body = 0;
	unsigned status = 0;
	char text[1000] = "";

	if (head == 0)
		return false;
	memcpy(text, in.data, head < sizeof(text) - 1 ? head : sizeof(text) - 1);
	field = strcasestr(text, "\r\nContent-Length: ");
	if (field != NULL)
		body = strtoull(field + 18, NULL, 10);
	if (in.len < head + body)
		return false;
	if (sscanf(text, "HTTP/1.1 %u", &status) != 1)
		sim_fail("client %u hears %s", c->id, text);
	if (p->answered == p->generated)
		sim_fail("client %u is answered and has not asked: %s", c->id, text);
	if (status == 200 && p->places[p->answered] == 0)
		sim_fail("client %u has a receipt for message %u, which is not in the cluster",
			 c->id, p->answered);
	if (status != 200 && status != 503)
		sim_fail("client %u: a POST is answered by %u", c->id, status);
	p->answered++;
	p->at += head + body;
	return true;
}

static void hear_answers(struct client *c, struct player *p)
{
	while (hear_answer(c, p))
		;
}

static void hear_lines(struct client *c, struct player *p)
{
	const char *lf;

	while ((lf = memchr(c->line + p->at, '\n', c->line_n - p->at)) != NULL) {
		struct span line = { c->line + p->at, (size_t)(lf - c->line) - p->at };

		p->at += line.len + 1;
		line.len -= line.len > 0 && line.data[line.len - 1] == '\r';
		if (p->kind == HEARS_EVENTS)
			hear_event_line(c, p, line);
		else
			hear_line(c, p, line);
	}
}

/* A publisher's close is the receipt for all that it has said. */
static void hear_end(const struct client *c, const struct player *p)
{
	unsigned there = 0;

	if (p->kind != PUBLISHES_LINES || p->error || !p->told || !p->ok || c->wire.cut ||
	    c->cut_short || c->line_n > p->at || may_miss())
		return;
	for (unsigned i = 0; i < p->messages; i++)
		there += p->places[i] != 0;
	if (there != p->messages)
		sim_fail("client %u: closed after %u of %u messages", c->id, there, p->messages);
}

/* ---- what is said ---- */

static void say(struct client *c, const char *text)
{
	if (*text != 0)
		client_say(c, text, strlen(text));
}

static void say_first(struct client *c, struct player *p)
{
	struct span name = topic_name(p->topic);
	static const char *const firsts[KINDS] = {
		[PUBLISHES_LINES] = "PUBLISH %.*s\r\n",
		[POSTS] = "",
		[HEARS_LINES] = "SUBSCRIBE %.*s%s\r\n",
		[HEARS_EVENTS] =
			"GET /subscribe/%.*s HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n",
	};
	char text[200];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(text, sizeof(text), firsts[p->kind], (int)name.len, name.data,
		 random_one_in(&p->random, 3) ? " LAST 7" : "");
#pragma GCC diagnostic pop
	say(c, text);
}

static void say_message(struct client *c, struct player *p)
{
	static char text[TEXT_MAX];
	size_t n = text_of(c->id, p->generated++, text);
	struct span name = topic_name(p->topic);
	char head[200];

	if (p->kind == POSTS) {
		snprintf(head, sizeof(head),
			 "POST /publish/%.*s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
			 (int)name.len, name.data, n);
		say(c, head);
	}
	client_say(c, text, n);
	if (p->kind == PUBLISHES_LINES)
		say(c, "\r\n");
}

static bool publish_some(struct client *c, struct player *p)
{
	unsigned most = p->kind == POSTS ? p->answered + AT_ONCE_MAX : p->generated + 20, n = 0;

	most = most < p->messages ? most : p->messages;
	for (; p->generated < most; n++)
		say_message(c, p);
	return n > 0;
}

/* Says something more; false: for now nothing. */
static bool think(struct client *c, struct player *p)
{
	if (!c->begun || c->over || p->told || c->pending_at < c->pending_n)
		return false;
	if (!p->begun) {
		p->begun = true;
		say_first(c, p);
		return true;
	}
	if (publish_some(c, p))
		return true;
	if (p->kind >= HEARS_LINES && (!p->leaves || (sim.calm == CALM_NONE && p->patience-- > 0)))
		return false;
	if (p->kind == POSTS && p->answered < p->generated)
		return false;
	p->told = true;
	if (p->kind == PUBLISHES_LINES || p->kind == HEARS_LINES) {
		say(c, "BYE\r\n");
	} else {
		c->said_all = true;
		c->ending = p->kind == POSTS ? END_FIN : END_CLOSE;
	}
	return true;
}

static bool act(struct client *c, struct player *p)
{
	size_t before = p->at;

	if (c->line_n > p->at && p->kind == POSTS)
		hear_answers(c, p);
	else if (c->line_n > p->at)
		hear_lines(c, p);
	if (p->at > before && p->at == c->line_n) {
		p->at = c->line_n = 0;
		before = 1;
	}
	if (c->over && p->begun) {
		hear_end(c, p);
		p->begun = false;
		p->told = true;
	}
	return think(c, p) || p->at != before;
}

/* ---- a run ---- */

static struct client *come(enum kind kind, unsigned topic)
{
	struct client *c = world_client();
	struct player *p;

	if (c == NULL)
		sim_fail("too many clients");
	p = &players[c->id];
	*p = (struct player){ .kind = kind, .topic = topic };
	p->random = random_for(sim.params.seed, 23, c->id);
	p->messages = kind <= POSTS ? random_size(&p->random, MESSAGES_MAX) : 0;
	return c;
}

static void begin(void)
{
	sim.clients_n = 0;
	chance = random_for(sim.params.schedule, 24, 0);
	players[FOREIGN] = (struct player){ .kind = POSTS };
	for (unsigned i = 0; i < TOPICS; i++)
		taken_n[i] = 0;
	for (unsigned i = 0; i < sim.params.clients; i++) {
		struct client *c =
			come(random_below(&chance, KINDS), random_below(&chance, TOPICS));
		struct player *p = &players[c->id];

		c->start = random_one_in(&chance, 2) ? 0 : random_below(&chance, sim.params.steps);
		c->slow = random_one_in(&chance, 8);
		p->leaves = random_one_in(&chance, 3);
		p->patience = random_size(&chance, 300);
		if ((sim.params.faults & 1u << FAULT_RESET) && random_one_in(&chance, 4))
			c->ending = END_RESET;
	}
}

static bool act_all(void)
{
	bool any = false;

	for (unsigned i = 0; i < sim.clients_n; i++)
		any |= act(&sim.clients[i], &players[i]);
	return any;
}

/* Whoever wakes by himself or by a timer does, up to then. */
static void pass(uint64_t ns)
{
	uint64_t until_ns = sim.now_ns + ns;
	unsigned rounds = 0;

	for (;;) {
		uint64_t timer_ns = kernel_next_timer(), next_ns = kernel_next_wake();

		if (++rounds > CALM_ROUNDS)
			sim_fail("there is always something to do");
		world_halt();
		if (act_all())
			continue;
		next_ns = timer_ns < next_ns ? timer_ns : next_ns;
		if (next_ns > until_ns)
			break;
		sim.now_ns = next_ns > sim.now_ns ? next_ns : sim.now_ns;
	}
	sim.now_ns = until_ns > sim.now_ns ? until_ns : sim.now_ns;
}

/* Whoever stays has all there is. */
static void check(void)
{
	for (unsigned i = 0; i < sim.clients_n; i++) {
		const struct client *c = &sim.clients[i];
		const struct player *p = &players[i];

		if (p->kind <= POSTS && !c->over)
			sim_fail("client %u is never let go (kind %d, %u of %u messages, %u "
				 "answers, ok %d, error %d, said all %d, %zu bytes unread)",
				 i, p->kind, p->generated, p->messages, p->answered, p->ok,
				 p->error, p->told, c->wire.in.len);
		if (p->kind <= POSTS || c->over || p->error || p->done || p->told || may_miss())
			continue;
		if (!p->ok)
			sim_fail("client %u gets no OK", i);
		if ((p->known ? p->next : p->floor) != taken_n[p->topic])
			sim_fail("client %u has %zu of %zu messages of topic %u", i,
				 p->known ? p->next : p->floor, taken_n[p->topic], p->topic);
	}
}

static void end(void)
{
	sim.calm = CALM_PUBLISHERS;
	for (unsigned i = 0; i < sim.clients_n; i++) {
		client_calm(&sim.clients[i]);
		sim.clients[i].start = 0;
	}
	pass(CALM_SECONDS * NS_PER_S);
	for (unsigned i = 0; i < TOPICS; i++) {
		struct client *subscriber = come(HEARS_LINES, i);

		pass(NS_PER_S);
		if (!players[subscriber->id].ok)
			sim_fail("a new subscriber gets no OK");
		(void)come(i % 2 ? POSTS : PUBLISHES_LINES, i);
		pass(NS_PER_S);
		publish_elsewhere(i);
		pass(NS_PER_S);
	}
	check();
}

void cluster_play(void)
{
	begin();
	while (sim.step < sim.params.steps) {
		unsigned i = random_below(&chance, sim.clients_n);

		world_step();
		if (random_one_in(&chance, 3))
			server_step();
		act(&sim.clients[i], &players[i]);
		if (random_one_in(&chance, FOREIGN_EVERY))
			publish_elsewhere(random_below(&chance, TOPICS));
		if (random_one_in(&chance, 100))
			sim.now_ns += random_size(&chance, 100) * NS_PER_MS;
	}
	end();
}
