#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/connection.h"
#include "broker/home.h"
#include "broker/subscription.h"
#include "broker/shard.h"
#include "engine/mailbox.h"
#include "sim.h"
#include "topic/block.h"
#include "topic/interest.h"
#include "topic/topic.h"

/*
 * The linker's --wrap leads the broker's own calls through here: what a home sequences is the order
 * that everybody must see, and where a subscriber begins follows from where its home answered it.
 */

struct block *__real_block_new(struct span name, uint64_t hash, size_t capacity);
void __real_line_session_ended(struct connection *connection);
void __real_shard_publish(struct shard *shard, struct block *block);
void __real_topic_sequence(struct topic *topic, struct block *block, struct history_total *total,
			   uint64_t now_ns);
void __real_home_subscribe(struct shard *shard, struct subscribe_letter *letter);
void __real_subscription_answered(struct shard *shard, struct subscribe_letter *letter);
void __real_audience_deliver(struct shard *shard, struct block *block);
int __real_stream_join(struct stream *stream, struct cursor *cursor);
int __real_stream_join_pinned(struct stream *stream, struct cursor *cursor, struct cursor *pin,
			      const struct newest *newest, uint32_t newest_n, uint64_t *messages);
int __real_subscription_new(struct connection *connection, const struct subscription_wanted *wanted,
			    struct subscription **made);
struct topic_letter *__real_topic_letter_new(enum letter_kind kind, struct span name,
					     uint64_t hash);
unsigned __real_mailbox_push(struct mailbox *mailbox, unsigned reader, unsigned sender,
			     enum mailbox_lane lane, void *const *letters, unsigned n);
unsigned __real_mailbox_pop(struct mailbox *mailbox, unsigned reader, unsigned sender,
			    enum mailbox_lane lane, void **letters, unsigned max, bool *again);

struct block *__wrap_block_new(struct span name, uint64_t hash, size_t capacity);
void __wrap_line_session_ended(struct connection *connection);
void __wrap_shard_publish(struct shard *shard, struct block *block);
void __wrap_topic_sequence(struct topic *topic, struct block *block, struct history_total *total,
			   uint64_t now_ns);
void __wrap_home_subscribe(struct shard *shard, struct subscribe_letter *letter);
void __wrap_subscription_answered(struct shard *shard, struct subscribe_letter *letter);
void __wrap_audience_deliver(struct shard *shard, struct block *block);
int __wrap_stream_join(struct stream *stream, struct cursor *cursor);
int __wrap_stream_join_pinned(struct stream *stream, struct cursor *cursor, struct cursor *pin,
			      const struct newest *newest, uint32_t newest_n, uint64_t *messages);
int __wrap_subscription_new(struct connection *connection, const struct subscription_wanted *wanted,
			    struct subscription **made);
struct topic_letter *__wrap_topic_letter_new(enum letter_kind kind, struct span name,
					     uint64_t hash);
unsigned __wrap_mailbox_push(struct mailbox *mailbox, unsigned reader, unsigned sender,
			     enum mailbox_lane lane, void *const *letters, unsigned n);
unsigned __wrap_mailbox_pop(struct mailbox *mailbox, unsigned reader, unsigned sender,
			    enum mailbox_lane lane, void **letters, unsigned max, bool *again);

struct order orders[SIM_TOPICS_MAX];

static long letters_under_way[LANES];

/* Where a topic's order stood when its home took up a letter. */
static struct asked {
	const struct subscribe_letter *letter;
	size_t at;
} * asked;
static size_t asked_n, asked_slots;

void oracle_init(void)
{
	memset(orders, 0, sizeof(orders));
	memset(letters_under_way, 0, sizeof(letters_under_way));
	asked_n = 0;
}

void oracle_release(void)
{
	for (unsigned i = 0; i < SIM_TOPICS_MAX; i++) {
		sim_free(orders[i].entries);
		sim_free(orders[i].eras);
	}
}

struct span oracle_topic_name(unsigned topic)
{
	static const char *const names[SIM_TOPICS_MAX] = { "plenty.a", "plenty.b", "few.a",
							   "few.b",    "skip.a",   "bye.a",
							   "small.a",  "none.a" };

	return span_of(names[topic]);
}

static int topic_of(struct span name)
{
	for (unsigned i = 0; i < sim.topics_n; i++)
		if (span_equal(name, oracle_topic_name(i)))
			return (int)i;
	return -1;
}

long oracle_letters(enum mailbox_lane lane)
{
	return letters_under_way[lane];
}

static void preempt(void)
{
	if (fiber_current() >= 0 && fault(FAULT_PREEMPT))
		fiber_yield();
}

unsigned __wrap_mailbox_push(struct mailbox *mailbox, unsigned reader, unsigned sender,
			     enum mailbox_lane lane, void *const *letters, unsigned n)
{
	unsigned pushed = __real_mailbox_push(mailbox, reader, sender, lane, letters, n);

	letters_under_way[lane] += pushed;
	sim_trace("mail    from %" PRIu64 " to %" PRIu64 " lane %" PRIu64 ": %" PRIu64
		  " letters pushed",
		  sender, reader, lane, pushed);
	/* Pushed, and not yet rung. */
	preempt();
	return pushed;
}

unsigned __wrap_mailbox_pop(struct mailbox *mailbox, unsigned reader, unsigned sender,
			    enum mailbox_lane lane, void **letters, unsigned max, bool *again)
{
	unsigned n;

	preempt();
	n = __real_mailbox_pop(mailbox, reader, sender, lane, letters, max, again);
	letters_under_way[lane] -= n;
	if (n > 0)
		sim_trace("mail    from %" PRIu64 " to %" PRIu64 " lane %" PRIu64 ": %" PRIu64
			  " letters popped",
			  sender, reader, lane, n);
	return n;
}

/* In the middle of a client's coming or going, when limits of the whole broker have been looked at.
 */
struct topic_letter *__wrap_topic_letter_new(enum letter_kind kind, struct span name, uint64_t hash)
{
	preempt();
	return __real_topic_letter_new(kind, name, hash);
}

static struct client *client_at(struct shard *s, uint32_t slot, uint32_t generation)
{
	struct socket *socket = socket_at(&s->sockets, slot, generation);
	int client = socket != NULL ? kernel_client_of(socket->fd) : -1;

	return client >= 0 ? &sim.clients[client] : NULL;
}

/* Until its home stamps it, a block bears the number of its publisher. */
struct block *__wrap_block_new(struct span name, uint64_t hash, size_t capacity)
{
	struct block *b = __real_block_new(name, hash, capacity);

	if (b != NULL)
		b->epoch = (uint64_t)(kernel_receiving() + 1);
	return b;
}

/* What a client said last may be looked at when something else ends it. */
void __wrap_line_session_ended(struct connection *c)
{
	int before = kernel_receive_as(kernel_client_of(c->socket.fd));

	__real_line_session_ended(c);
	kernel_receive_as(before);
}

/* Once its shard knows that memory is gone, a publisher may end what it is in the middle of, and is
 * not received from again before there is more. */
static void check_held_up(struct shard *s, const struct block *b)
{
	uint64_t held_up = 0;
	struct client *c;

	if (!s->accepting.stopped || s->drain.draining || b->epoch == 0 ||
	    budget_now(s->broker) < BUDGET_EVICTION)
		return;
	for (unsigned i = 0; i < s->broker->shards_n; i++)
		held_up += s->broker->shards[i].counters.memory_crossings[BUDGET_EVICTION];
	c = &sim.clients[b->epoch - 1];
	if (c->held_up == held_up && c->held_turn != s->reactor.stats.turns)
		sim_fail("client %u publishes again, and there is no memory", c->id);
	c->held_up = held_up;
	c->held_turn = s->reactor.stats.turns;
}

/* One of a request has no such mark yet; its connection is surely still there. */
void __wrap_shard_publish(struct shard *s, struct block *b)
{
	if (b->receipt != NULL || b->generation != 0) {
		struct client *c = client_at(s, b->slot, b->generation);

		b->epoch = c != NULL ? c->id + 1 : 0;
	}
	/* What passes is sequenced by nobody. */
	if (topic_passes(block_name(b)))
		sim.sequenced += b->messages;
	check_held_up(s, b);
	__real_shard_publish(s, b);
}

static size_t era_base(struct order *o, uint64_t epoch, bool add)
{
	for (size_t i = o->eras_n; i-- > 0;)
		if (o->eras[i].epoch == epoch)
			return o->eras[i].base;
	if (add) {
		o->eras = sim_realloc(o->eras, (o->eras_n + 1) * sizeof(*o->eras));
		o->eras[o->eras_n++] = (struct era){ epoch, o->n };
	}
	return o->n;
}

long oracle_find(unsigned topic, uint64_t epoch, uint64_t seq)
{
	const struct order *o = &orders[topic];

	for (size_t i = 0; i < o->eras_n; i++) {
		size_t end = i + 1 < o->eras_n ? o->eras[i + 1].base : o->n;

		if (o->eras[i].epoch == epoch && seq > 0 && o->eras[i].base + seq <= end)
			return (long)(o->eras[i].base + seq - 1);
	}
	return -1;
}

size_t oracle_place(unsigned topic, uint64_t epoch, uint64_t seq)
{
	return era_base(&orders[topic], epoch, false) + seq;
}

static void sequenced(unsigned topic, struct client *publisher, struct span message, bool lines)
{
	struct order *o = &orders[topic];
	static char text[SIM_MESSAGE_BYTES_MAX + 64];
	bool encodable;
	size_t len = client_text(publisher->id, publisher->sequenced, text, &encodable);

	/* Where there is no room for a topic, what is published to it is for nobody. */
	while ((sim.params.faults & (1u << FAULT_LIMITS | 1u << FAULT_MEMORY)) &&
	       publisher->sequenced < publisher->generated &&
	       (len != message.len || memcmp(text, message.data, len) != 0))
		len = client_text(publisher->id, ++publisher->sequenced, text, &encodable);
	if (publisher->role != ROLE_PUBLISHER || publisher->topic != topic)
		sim_fail("client %u is sequenced in topic %u, where it does not publish",
			 publisher->id, topic);
	if (publisher->sequenced >= publisher->generated)
		sim_fail("client %u: message %u is sequenced before it was written", publisher->id,
			 publisher->sequenced);
	if (len != message.len || memcmp(text, message.data, len) != 0)
		sim_fail("client %u: what is sequenced as message %u is another, %zu bytes "
			 "instead of %zu: %.*s instead of %.*s",
			 publisher->id, publisher->sequenced, message.len, len,
			 (int)(message.len < 60 ? message.len : 60), message.data,
			 (int)(len < 60 ? len : 60), text);
	if (lines && !encodable)
		sim_fail("client %u: message %u is no line", publisher->id, publisher->sequenced);
	if (o->n == o->slots_n) {
		o->slots_n = 2 * o->slots_n + 256;
		o->entries = sim_realloc(o->entries, o->slots_n * sizeof(*o->entries));
	}
	o->entries[o->n++] = (struct entry){ publisher->id, publisher->sequenced++, encodable,
					     message.len == 0 };
	o->encodable_n += encodable;
}

/* Returns how many there are. */
static uint32_t sequenced_lines(unsigned topic, struct client *publisher, struct span body)
{
	uint32_t messages = 0;

	for (; body.len > 0; messages++) {
		const char *lf = memchr(body.data, '\n', body.len);

		if (lf == NULL || lf == body.data || lf[-1] != '\r')
			sim_fail("topic %u: a block of lines without its end", topic);
		sequenced(topic, publisher,
			  (struct span){ body.data, (size_t)(lf - body.data) - 1 }, true);
		body = span_skip(body, (size_t)(lf - body.data) + 1);
	}
	return messages;
}

void __wrap_topic_sequence(struct topic *t, struct block *b, struct history_total *total,
			   uint64_t now_ns)
{
	uint64_t tag = b->epoch;
	int topic = topic_of(block_name(b));
	struct span body = { block_body(b), b->len };
	uint32_t messages = 0;
	struct client *publisher;

	__real_topic_sequence(t, b, total, now_ns);
	sim_trace("home    topic %" PRId64 ": seq %" PRIu64 ", %" PRIu64
		  " messages of client %" PRIu64,
		  (uint64_t)(int64_t)topic, b->seq, b->messages, tag - 1);
	sim.sequenced += b->messages;
	if (topic < 0)
		return;
	if (tag == 0)
		sim_fail("a block of nobody");
	publisher = &sim.clients[tag - 1];
	if (era_base(&orders[topic], b->epoch, true) + b->seq - 1 != orders[topic].n)
		sim_fail("topic %d: the number %" PRIu64 " is not the next", topic, b->seq);
	switch (b->form) {
	case RUN_ONE:
		sequenced((unsigned)topic, publisher, body, false);
		messages = 1;
		break;
	case RUN_LINES:
		messages = sequenced_lines((unsigned)topic, publisher, body);
		break;
	default:
		for (; body.len > 0; messages++) {
			struct span payload = record_payload(body);

			sequenced((unsigned)topic, publisher, payload, false);
			body = span_skip(body, (size_t)(payload.data - body.data) + payload.len);
		}
	}
	if (messages != b->messages)
		sim_fail("topic %d: a block of %u messages says that it has %u", topic, messages,
			 b->messages);
}

void __wrap_home_subscribe(struct shard *s, struct subscribe_letter *l)
{
	int topic = topic_of(l->name);

	if (topic >= 0) {
		if (asked_n == asked_slots) {
			asked_slots = 2 * asked_slots + 64;
			asked = sim_realloc(asked, asked_slots * sizeof(*asked));
		}
		asked[asked_n++] = (struct asked){ l, orders[topic].n };
	}
	__real_home_subscribe(s, l);
}

static size_t take_asked(const struct subscribe_letter *l)
{
	for (size_t i = 0; i < asked_n; i++) {
		size_t at = asked[i].at;

		if (asked[i].letter != l)
			continue;
		asked[i] = asked[--asked_n];
		return at;
	}
	sim_fail("an answer that no home has given");
}

/* What is held of the past is all that is asked for, up to the head of the answer. */
static void check_stretch(unsigned topic, const struct subscribe_letter *l)
{
	uint32_t segment = l->past.segment, block = l->past.block;
	uint64_t next = l->from;

	while (l->past.window != NULL && next <= l->seq) {
		const struct segment *s;
		const struct block *b;

		if (segment == l->past.window->n)
			sim_fail("topic %u: a replay that ends too soon", topic);
		s = l->past.window->segments[segment];
		b = s->blocks[block];
		if (b->epoch != l->epoch || b->seq > next || b->seq + b->messages <= next ||
		    (b->seq < next && next != l->from))
			sim_fail("topic %u: a replay with a hole", topic);
		next = b->seq + b->messages;
		if (++block < s->n)
			continue;
		segment++;
		block = 0;
	}
	if (next != l->seq + 1)
		sim_fail("topic %u: a replay that holds nothing", topic);
}

/* What the answer to a replay must be, by the contract. */
static void check_answer(unsigned topic, const struct subscribe_letter *l, size_t at, size_t begin)
{
	const struct config_topic *settings =
		config_topic(sim.broker.shards[0].config, oracle_topic_name(topic));
	size_t base = era_base(&orders[topic], l->epoch, false), held, wanted = at;
	bool exact =
		strncmp(settings->pattern != NULL ? settings->pattern : "", "small", 5) != 0 &&
		!(sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_RELOAD |
				       1u << FAULT_LIMITS | 1u << FAULT_TIME | 1u << FAULT_BUDGET));

	if (base > at)
		sim_fail("topic %u: an answer of an epoch to come", topic);
	held = at - base < settings->history_messages ? at - base : settings->history_messages;
	/* The home may have read other settings than the shard that is looked at. */
	if (sim.params.faults & 1u << FAULT_RELOAD)
		held = at - base;
	check_stretch(topic, l);
	if (l->error == 0 && base + l->seq != at)
		sim_fail("topic %u: a replay that ends elsewhere than its home has come to", topic);
	if (l->replay.kind == REPLAY_LAST)
		wanted = at - (l->replay.n < held ? l->replay.n : held);
	if (l->replay.kind == REPLAY_FROM && l->replay.epoch != l->epoch)
		wanted = at - held;
	if (l->replay.kind == REPLAY_FROM && l->replay.epoch == l->epoch &&
	    base + l->replay.n < at) {
		wanted = base + l->replay.n;
		if (wanted < at - held)
			wanted = at - held;
	}
	if (begin < wanted || begin > at || (exact && begin != wanted))
		sim_fail("topic %u: a replay begins at %zu instead of %zu (of %zu, kept %zu)",
			 topic, begin, wanted, at, held);
	if (l->replay.kind == REPLAY_FROM && l->gap == 0 &&
	    (l->replay.epoch != l->epoch ||
	     (base + l->replay.n < at && begin != base + l->replay.n)))
		sim_fail("topic %u: a gap that is not told", topic);
	if (l->gap != 0 && base + l->gap - 1 != begin)
		sim_fail("topic %u: the gap is told as %" PRIu64 " and begins at %zu", topic,
			 l->gap, begin - base + 1);
}

void __wrap_subscription_answered(struct shard *s, struct subscribe_letter *l)
{
	int topic = topic_of(l->name);
	const struct connection *connection = l->subscription->connection;
	int client = connection != NULL ? kernel_client_of(connection->socket.fd) : -1;
	struct client *c = client >= 0 ? &sim.clients[client] : NULL;

	if (topic >= 0) {
		size_t at = take_asked(l), begin = at;

		if (l->error == 0) {
			begin = era_base(&orders[topic], l->epoch, false) + l->from - 1;
			check_answer((unsigned)topic, l, at, begin);
			if (orders[topic].delivered[s->id] > at)
				sim_fail("topic %d: shard %u was told more than its home had",
					 topic, s->id);
			orders[topic].delivered[s->id] = at;
		}
		if (c != NULL) {
			c->asked = true;
			c->next = begin;
			c->gap_epoch = l->epoch;
			c->gap_seq = l->gap;
			if (l->error == 0)
				many_place_answered(c, (unsigned)topic, begin);
		}
		sim_trace("shard   %" PRIu64 " answered for client %" PRId64 ": begins at %" PRIu64
			  ", error %" PRId64,
			  s->id, c != NULL ? c->id : UINT64_MAX, begin,
			  (uint64_t)(int64_t)l->error);
	}
	__real_subscription_answered(s, l);
}

void __wrap_audience_deliver(struct shard *s, struct block *b)
{
	int topic = topic_of(block_name(b));

	if (topic >= 0) {
		struct order *o = &orders[topic];
		size_t first = era_base(o, b->epoch, false) + b->seq - 1;

		if (first < o->delivered[s->id])
			sim_fail("topic %d: shard %u is told %zu again", topic, s->id, first);
		o->delivered[s->id] = first + b->messages;
		wild_delivered(s->id, (unsigned)topic, first);
	}
	__real_audience_deliver(s, b);
}

/* Who is in a group says so to nobody: the line protocol has no word for it. */
int __wrap_subscription_new(struct connection *connection, const struct subscription_wanted *wanted,
			    struct subscription **made)
{
	static const char *const groups[] = { "", "one", "two" };
	struct subscription_wanted own = *wanted;
	int client = kernel_client_of(connection->socket.fd);

	if (client >= 0 && client_wild(&sim.clients[client])) {
		own.group = span_of(groups[sim.clients[client].group]);
		wild_asks(&sim.clients[client], connection->shard->id);
	}
	return __real_subscription_new(connection, &own, made);
}

/* The newest message of each topic comes first, and what has come since behind it. */
int __wrap_stream_join_pinned(struct stream *stream, struct cursor *cursor, struct cursor *pin,
			      const struct newest *newest, uint32_t n, uint64_t *messages)
{
	struct subscription *sub = (struct subscription *)(void *)cursor;
	int client = kernel_client_of(sub->connection->socket.fd);
	int err = __real_stream_join_pinned(stream, cursor, pin, newest, n, messages);

	if (err != 0 || client < 0)
		return err;
	for (uint32_t i = 0; i < n; i++) {
		int topic = topic_of(block_name(newest[i].block));

		if (topic >= 0)
			wild_joins_behind(&sim.clients[client], (unsigned)topic,
					  era_base(&orders[topic], newest[i].block->epoch, false) +
						  newest[i].seq - 1);
	}
	wild_joins(&sim.clients[client]);
	return 0;
}

/* A subscriber that needs no answer begins where its shard is. */
int __wrap_stream_join(struct stream *stream, struct cursor *cursor)
{
	struct subscription *sub = (struct subscription *)(void *)cursor;
	struct connection *connection = sub->connection;
	int client = kernel_client_of(connection->socket.fd);
	int topic = topic_of(subscription_interest(sub)->named.name);
	int err = __real_stream_join(stream, cursor);

	if (err == 0 && client >= 0 && client_wild(&sim.clients[client])) {
		memset(sim.clients[client].places, 0, sizeof(sim.clients[client].places));
		wild_joins(&sim.clients[client]);
		return 0;
	}

	if (err == 0 && client >= 0 && topic >= 0 && sim.clients[client].talk != NULL)
		many_place(&sim.clients[client], (unsigned)topic,
			   orders[topic].delivered[connection->shard->id]);
	else if (err == 0 && client >= 0 && topic >= 0 && !sim.clients[client].asked)
		sim.clients[client].next = orders[topic].delivered[connection->shard->id];
	return err;
}
