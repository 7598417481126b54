#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/name.h"
#include "sim.h"

/*
 * Subscribers to patterns get each topic in its order, from where the first block came to their
 * shard after they were in, or the newest message that was there when they asked. Of a group one
 * member gets a message, whoever it is; that is known by the publisher and number in its text,
 * which a few messages do not have.
 */

enum { GROUPS = 3 };

/* Messages that some member of a group has got, by publisher. */
static struct taken {
	bool *numbers;
	size_t slots_n;
} taken[GROUPS][SIM_CLIENTS_MAX];

void wild_init(struct client *c)
{
	static const char *const patterns[] = { ">", ">", "*.a", "*.b", "plenty.*", "few.>" };
	struct random r = random_for(sim.params.seed, 77, c->id);

	if (c->role != ROLE_SUBSCRIBER || c->speech != SPEAKS_LINE)
		return;
	if (random_one_in(&r, 3))
		c->pattern = patterns[random_below(&r, sizeof(patterns) / sizeof(*patterns))];
	if (random_one_in(&r, c->pattern != NULL ? 3 : 8))
		c->group = random_from(&r, 1, GROUPS - 1);
	if (c->group > 0)
		c->replay_kind = 0;
}

void wild_release(void)
{
	for (unsigned group = 0; group < GROUPS; group++)
		for (unsigned i = 0; i < SIM_CLIENTS_MAX; i++) {
			sim_free(taken[group][i].numbers);
			taken[group][i] = (struct taken){ 0 };
		}
}

static bool matches(const struct client *c, unsigned topic)
{
	if (c->pattern == NULL)
		return topic == c->topic;
	return name_matches(span_of(c->pattern), oracle_topic_name(topic));
}

/* ---- where they begin ---- */

void wild_asks(struct client *c, unsigned shard)
{
	c->shard = shard;
	c->wild_asked = true;
	memset(c->places, 0, sizeof(c->places));
	for (unsigned topic = 0; topic < sim.topics_n; topic++)
		c->places[topic].asked_n = orders[topic].n;
}

/* Whether what a topic keeps of the past is gone for no other reason than its limits. */
static bool keeps_past(unsigned topic)
{
	return strncmp(oracle_topic_name(topic).data, "plenty", 6) == 0 &&
	       !(sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_LIMITS | 1u << FAULT_BUDGET |
				      1u << FAULT_TIME | 1u << FAULT_RELOAD | 1u << FAULT_DRAIN));
}

void wild_joins(struct client *c)
{
	c->wild_joined = true;
	for (unsigned topic = 0; topic < sim.topics_n; topic++) {
		struct place *p = &c->places[topic];

		p->joined_n = orders[topic].n;
		if (c->pattern != NULL && c->replay_kind == 1 && c->group == 0 &&
		    matches(c, topic) && p->asked_n > 0 && !p->known && keeps_past(topic))
			sim_fail("client %u begins without the newest of topic %u", c->id, topic);
	}
}

void wild_joins_behind(struct client *c, unsigned topic, size_t index)
{
	struct place *p = &c->places[topic];

	if (!matches(c, topic))
		sim_fail("client %u gets the newest of topic %u, which it did not ask for", c->id,
			 topic);
	if (p->known && p->next != index + 1)
		sim_fail("client %u: topic %u goes on at %zu behind the newest, which is %zu",
			 c->id, topic, p->next, index);
	if (index + 1 < p->asked_n)
		sim_fail("client %u: topic %u begins at %zu, and %zu were there", c->id, topic,
			 index, p->asked_n);
	p->known = true;
	p->next = index;
}

void wild_delivered(unsigned shard, unsigned topic, size_t first)
{
	for (unsigned i = 0; i < sim.clients_n; i++) {
		struct client *c = &sim.clients[i];
		struct place *p = &c->places[topic];

		if (!c->wild_asked || c->shard != shard || p->known || !matches(c, topic))
			continue;
		p->known = true;
		p->next = first;
		/* Unless it is not there any more, which it need not know yet. */
		p->late = c->wild_joined && first > p->joined_n;
	}
}

/* ---- what they hear ---- */

static bool is_entry(const struct entry *e, struct span text)
{
	static char expected[SIM_MESSAGE_BYTES_MAX + 64];
	bool encodable;
	size_t n = client_text(e->publisher, e->number, expected, &encodable);

	return encodable && n == text.len && memcmp(expected, text.data, n) == 0;
}

static void hear_in_order(struct client *c, unsigned topic, struct span text)
{
	struct place *p = &c->places[topic];
	const struct order *o = &orders[topic];
	size_t at = p->next;

	if (!p->known)
		sim_fail("client %u hears of topic %u before its shard has", c->id, topic);
	if (p->late && !(sim.params.faults & 1u << FAULT_MEMORY))
		sim_fail("client %u is in since %zu of topic %u, and its shard heard of %zu first",
			 c->id, p->joined_n, topic, p->next);
	while (at < o->n && !o->entries[at].encodable)
		at++;
	while (at < o->n && !is_entry(&o->entries[at], text) && client_may_miss(c))
		at++;
	if (at >= o->n || !is_entry(&o->entries[at], text))
		sim_fail("client %u: after %" PRIu64 " messages comes %.*s, which is not number "
			 "%zu of topic %u (%zu)",
			 c->id, c->received, (int)(text.len < 60 ? text.len : 60), text.data, at,
			 topic, o->n);
	p->next = at + 1;
}

static bool *taken_at(unsigned group, unsigned publisher, unsigned number)
{
	struct taken *t = &taken[group][publisher];

	if (number >= t->slots_n) {
		size_t n = 2 * (size_t)number + 64;

		t->numbers = sim_realloc(t->numbers, n);
		memset(t->numbers + t->slots_n, 0, n - t->slots_n);
		t->slots_n = n;
	}
	return &t->numbers[number];
}

/* Whether it says whose message it is. */
static bool is_marked(struct span text, unsigned *publisher, unsigned *number)
{
	char head[40];
	size_t n = text.len < sizeof(head) - 1 ? text.len : sizeof(head) - 1;

	memcpy(head, text.data, n);
	head[n] = 0;
	return sscanf(head, "m%u.%u.", publisher, number) == 2 && *publisher < sim.clients_n;
}

static void hear_in_group(struct client *c, unsigned topic, struct span text)
{
	unsigned publisher, number;
	bool *by_another;

	if (!is_marked(text, &publisher, &number))
		return;
	if (sim.clients[publisher].topic != topic)
		sim_fail("client %u gets a message of topic %u in topic %u", c->id,
			 sim.clients[publisher].topic, topic);
	if (!is_entry(&(struct entry){ .publisher = publisher, .number = number }, text) ||
	    number >= sim.clients[publisher].sequenced)
		sim_fail("client %u gets a message that client %u has not published", c->id,
			 publisher);
	by_another = taken_at(c->group, publisher, number);
	if (*by_another)
		sim_fail("client %u gets message %u of client %u, which its group has got", c->id,
			 number, publisher);
	*by_another = true;
}

void wild_hear(struct client *c)
{
	struct span text = { c->line, c->line_n };
	unsigned topic = c->topic;

	/* One of the traps of client_text stands alone where there is no topic before it. */
	if (c->line_n > 6 && memcmp(c->line, "ERROR ", 6) == 0 &&
	    !span_equal(text, SPAN("ERROR of mine"))) {
		client_hear_error(c);
		return;
	}
	if (c->pattern != NULL) {
		const char *space = memchr(text.data, ' ', text.len);
		struct span name = { text.data, space != NULL ? (size_t)(space - text.data) : 0 };

		for (topic = 0; topic < sim.topics_n; topic++)
			if (span_equal(name, oracle_topic_name(topic)))
				break;
		if (topic == sim.topics_n && !matches(c, 0))
			sim_fail("client %u: %.*s has no topic", c->id,
				 (int)(text.len < 60 ? text.len : 60), text.data);
		/* What clients talk about that nobody checks. */
		if (topic == sim.topics_n) {
			c->received++;
			return;
		}
		text = span_skip(text, name.len + 1);
	} else if (c->line_n == 3 && memcmp(c->line, "BYE", 3) == 0) {
		sim_fail("client %u: a group hears of its last publisher", c->id);
	}
	if (!matches(c, topic))
		sim_fail("client %u hears of topic %u, which it did not ask for", c->id, topic);
	if (c->group > 0)
		hear_in_group(c, topic, text);
	else
		hear_in_order(c, topic, text);
	c->received++;
}

/* ---- what must have come ---- */

static bool fine(const struct client *c)
{
	return c->ok && !c->over && !c->error && !c->wire.reset && !c->wire.broker_fin &&
	       !c->stalled;
}

static void check_order(const char *when, struct client *c)
{
	for (unsigned topic = 0; topic < sim.topics_n; topic++) {
		const struct order *o = &orders[topic];
		size_t at =
			c->places[topic].known ? c->places[topic].next : c->places[topic].joined_n;

		if (!matches(c, topic))
			continue;
		while (at < o->n && !o->entries[at].encodable)
			at++;
		if (at != o->n || c->places[topic].late)
			sim_fail("%s: client %u has got %zu of %zu in topic %u", when, c->id, at,
				 o->n, topic);
	}
}

/* Whether what some member was given may be lost: it did not end in order. */
static bool loses(unsigned group)
{
	for (unsigned i = 0; i < sim.clients_n; i++) {
		const struct client *c = &sim.clients[i];

		if (c->group != group || !c->begun || !c->commanded)
			continue;
		if (c->error || c->wire.reset || c->wire.cut || c->stalled ||
		    c->ending == END_CLOSE || c->ending == END_RESET)
			return true;
	}
	return false;
}

static void check_group(const char *when, unsigned group)
{
	for (unsigned topic = 0; topic < sim.topics_n; topic++) {
		const struct order *o = &orders[topic];
		size_t from = o->n;

		/* What all members have skipped again and again is dropped. */
		if (strncmp(oracle_topic_name(topic).data, "skip", 4) == 0)
			continue;
		/* Since when there has been a member all the time. */
		for (unsigned i = 0; i < sim.clients_n; i++) {
			const struct client *c = &sim.clients[i];

			if (c->group == group && c->wild_joined && fine(c) && matches(c, topic) &&
			    c->places[topic].joined_n < from)
				from = c->places[topic].joined_n;
		}
		for (; from < o->n; from++) {
			static char text[SIM_MESSAGE_BYTES_MAX + 64];
			const struct entry *e = &o->entries[from];
			unsigned publisher, number;
			bool encodable;
			size_t n;

			if (!e->encodable)
				continue;
			n = client_text(e->publisher, e->number, text, &encodable);
			if (is_marked((struct span){ text, n }, &publisher, &number) &&
			    !*taken_at(group, e->publisher, e->number))
				sim_fail("%s: group %u has not got message %u of client %u, "
					 "number %zu of topic %u",
					 when, group, e->number, e->publisher, from, topic);
		}
	}
}

void wild_check(const char *when)
{
	if (sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_RELOAD))
		return;
	for (unsigned i = 0; i < sim.clients_n; i++) {
		struct client *c = &sim.clients[i];

		if (c->role == ROLE_SUBSCRIBER && c->wild_joined && c->group == 0 && fine(c))
			check_order(when, c);
	}
	for (unsigned group = 1; group < GROUPS; group++)
		if (!loses(group))
			check_group(when, group);
}
