#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/memory.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/upstream.h"
#include "topic/block.h"
#include "topic/topic.h"

/*
 * What is published here to the cluster's topics, on its way up and back.
 *
 * Without a log it is over when a PING behind it is answered, or the connection lost. With one each
 * message has an id, by which the stream drops a repetition: what has neither come back nor been
 * acknowledged is sent again, at first when the connection is made anew, then every second.
 */

enum {
	WRITE_BYTES = 1 << 10,
	PAYLOAD_AROUND = 1 << 10, /* left of what a server takes, for headers of ours */
	WORD_BITS = 64,
};
static const uint64_t again_ns = NS_PER_S;

/* A block that was published here, or a letter that wants to be told when all before it is over. */
struct pending {
	struct list order; /* among all of them */
	struct list link;  /* unwritten, or of its topic that does not stand, or unanswered */
	struct upstream_up up;
	struct topic_letter *letter;
	struct upstream_topic *topic;
	uint64_t ping; /* without a log: it is there when so many have been answered */
	uint64_t at_ns, sent_ns;
	uint64_t id;            /* of its first message; 0: it has never been sent */
	uint64_t epoch, number; /* of its topic's last message when it was first sent */
	uint32_t messages, came_n;
	bool holds;   /* and its publishers wait */
	bool strict;  /* one message of its topic after the other goes up */
	bool goes_on; /* the next one does so now */
	bool keyed;   /* some message of it has an id of its publisher's, */
	bool asks;    /* or wants an answer */
	bool duplicate;
	size_t bytes;
	uint64_t hash;             /* of its name */
	uint64_t acknowledged_max; /* greatest number that was acknowledged */
	/* A bit per message: has come; then the same: has been acknowledged. */
	uint64_t bits[];
};

static bool is_set(const uint64_t *bits, uint32_t at)
{
	return bits[at / WORD_BITS] >> at % WORD_BITS & 1;
}

static void set(uint64_t *bits, uint32_t at)
{
	bits[at / WORD_BITS] |= UINT64_C(1) << at % WORD_BITS;
}

static uint32_t words_of(uint32_t messages)
{
	return (messages + WORD_BITS - 1) / WORD_BITS;
}

static uint64_t *acknowledged_of(struct pending *p)
{
	return p->bits + words_of(p->messages);
}

static struct pending *pending_new(uint32_t messages)
{
	struct pending *p =
		memory_new_zeroed(sizeof(*p) + 2 * words_of(messages) * sizeof(p->bits[0]));

	if (p == NULL)
		return NULL;
	p->messages = messages;
	list_init(&p->order);
	list_init(&p->link);
	return p;
}

/* ---- who publishes ---- */

uint64_t upstream_now(const struct upstream *u)
{
	return u->shard->reactor.now_ns;
}

bool upstream_gives_up(const struct upstream *u)
{
	const struct shard *s = u->shard;

	return u->state != UPSTREAM_UP &&
	       (s->drain.draining ||
		s->reactor.now_ns - u->down_ns >= u->config->publish_seconds * NS_PER_S);
}

void upstream_pin(struct upstream_topic *ut)
{
	ut->topic->pins++;
}

void upstream_unpin(struct upstream *u, struct upstream_topic *ut)
{
	assert(ut->topic->pins > 0);
	if (--ut->topic->pins == 0)
		home_weigh(u->shard, ut->topic);
}

void upstream_let_publish(struct upstream *u, struct upstream_topic *ut)
{
	if (list_empty(&ut->held))
		return;
	list_remove(&ut->held);
	shard_release_hold(u->shard, ut->topic->named.hash);
}

/* Whether so much is on its way that publishers have to wait; half: whether they may go on. */
static bool crowded(const struct upstream *u, unsigned part)
{
	return u->messages * part >= u->config->in_flight ||
	       u->bytes * part >= u->config->in_flight_bytes;
}

static void add(struct upstream *u, struct pending *p)
{
	u->messages += p->messages;
	u->bytes += p->bytes;
	u->shard->counters.upstream_unanswered = u->messages;
	p->at_ns = upstream_now(u);
	list_append(&u->pending, &p->order);
}

/* Its publisher wants to know if nobody answers. */
static bool is_request(const struct block *b)
{
	struct run run = block_run(b);
	struct record r;

	return b->receipt != NULL && b->form == RUN_RECORDS && run_next_record(&run, &r) &&
	       r.reply.len > 0;
}

void upstream_publish(struct upstream *u, struct upstream_topic *ut, struct block *b)
{
	struct topic *t = ut->topic;
	struct pending *p;

	/* Whoever answers is elsewhere, and if nobody does the server says so. */
	if (!u->log && ut->state == UPSTREAM_REST && is_request(b)) {
		upstream_publish_passing(u, b);
		return;
	}
	p = upstream_gives_up(u) ? NULL : pending_new(b->messages);
	if (p == NULL) {
		home_refuse(u->shard, b, upstream_gives_up(u) ? -EHOSTUNREACH : -ENOMEM);
		return;
	}
	t->known = true;
	p->up.block = b;
	p->topic = ut;
	p->strict = u->log && t->settings->strict_order;
	p->bytes = block_bytes(b);
	add(u, p);
	list_append(&u->unwritten, &p->link);
	upstream_pin(ut);
	if (t->idle_ns != 0)
		home_weigh(u->shard, t);
	if (!crowded(u, 1) || !list_empty(&ut->held))
		return;
	list_append(&u->held, &ut->held);
	shard_hold(u->shard, t->named.hash);
}

bool upstream_publish_keeps(struct upstream *u, struct topic_letter *l)
{
	struct topic *t = l->name.len > 0 ? home_topic(u->shard, l->hash, l->name) : NULL;
	struct pending *p;

	if (list_empty(&u->pending))
		return false;
	/* A publisher's end, or a barrier before all that somebody has published. */
	if (l->name.len > 0 && (l->letter.kind != LETTER_LEAVE || t == NULL || t->tapped == NULL))
		return false;
	p = pending_new(0);
	if (p == NULL)
		return false;
	p->letter = l;
	p->topic = t != NULL ? t->tapped : NULL;
	if (p->topic != NULL)
		upstream_pin(p->topic);
	add(u, p);
	return true;
}

bool upstream_publish_drained(const struct upstream *u)
{
	return list_empty(&u->pending);
}

/* ---- how it ends ---- */

static void forget(struct upstream *u, struct pending *p)
{
	if (p->topic != NULL && p->topic->flying == p) {
		p->topic->flying = NULL;
		if (p->topic->state == UPSTREAM_STANDS)
			upstream_publish_stands(u, p->topic);
	}
	list_remove(&p->order);
	list_remove(&p->link);
	u->messages -= p->messages;
	u->bytes -= p->bytes;
	u->shard->counters.upstream_unanswered = u->messages;
	if (p->holds)
		shard_release_hold(u->shard, p->hash);
	if (p->topic != NULL)
		upstream_unpin(u, p->topic);
	memory_free(p);
}

/* It is over, whatever has become of it, and so is a letter that has waited for this. */
static void settle(struct upstream *u, struct pending *p)
{
	forget(u, p);
	while (!list_empty(&u->pending)) {
		struct pending *next = LIST_ENTRY(u->pending.next, struct pending, order);

		if (next->letter == NULL)
			break;
		home_receipt(u->shard, next->letter);
		forget(u, next);
	}
	while (!list_empty(&u->held) && !crowded(u, 2))
		upstream_let_publish(u, LIST_ENTRY(u->held.next, struct upstream_topic, held));
}

/* Who publishes what leaves nothing behind only hears of it if he has asked. */
static void refuse(struct upstream *u, struct block *b, int error, bool passing)
{
	if (passing && b->receipt == NULL)
		block_unref(b);
	else
		home_refuse(u->shard, b, error);
}

/* Nobody knows what has become of it, or it is too long. */
static void fail(struct upstream *u, struct pending *p, int error)
{
	if (p->up.block != NULL)
		refuse(u, p->up.block, error, p->up.passing);
	settle(u, p);
}

static void note_time(struct upstream *u, const struct pending *p)
{
	if (p->messages > 0)
		histogram_add_many(&u->publish_time, upstream_now(u) - p->at_ns, p->messages);
}

/* It is in the cluster. */
static void succeed(struct upstream *u, struct pending *p)
{
	note_time(u, p);
	if (p->up.block != NULL && p->up.block->receipt != NULL)
		home_acknowledge(u->shard, p->up.block, p->up.passing ? 0 : p->topic->epoch,
				 p->acknowledged_max);
	else if (p->up.block != NULL)
		block_unref(p->up.block);
	settle(u, p);
}

/* ---- what goes up ---- */

/* Whether the server takes all of them. */
static bool fits(const struct upstream *u, const struct block *b)
{
	size_t around = PAYLOAD_AROUND + b->key_len;
	struct run run = block_run(b);
	struct record r;

	if (b->len + around <= u->info.max_payload)
		return true;
	while (run_next_record(&run, &r))
		if (r.payload.len + r.headers.len + around > u->info.max_payload)
			return false;
	return true;
}

static void number(struct upstream *u, struct pending *p)
{
	p->id = u->ids + 1;
	u->ids += p->messages;
}

/* Those of its messages that have not come and are not known to be there. */
static void write_block(struct upstream *u, struct pending *p)
{
	struct run run = block_run(p->up.block);
	struct record r;
	uint32_t at = 0;

	if (!fits(u, p->up.block)) {
		fail(u, p, -EMSGSIZE);
		return;
	}
	if (p->id == 0) {
		number(u, p);
		p->epoch = p->topic->epoch;
		p->number = p->topic->number;
	} else {
		u->shard->counters.upstream_retries += !p->goes_on;
	}
	p->goes_on = false;
	if (p->strict)
		p->topic->flying = p;
	p->ping = u->pings + 1;
	p->sent_ns = upstream_now(u);
	u->unpinged |= !u->log;
	list_remove(&p->link);
	list_append(&u->unanswered, &p->link);
	reactor_spend(&u->shard->reactor, p->messages + p->bytes / WRITE_BYTES);
	for (; u->state == UPSTREAM_UP && run_next_record(&run, &r); at++) {
		if (is_set(p->bits, at) || is_set(acknowledged_of(p), at))
			continue;
		p->keyed |= upstream_key(p->up.block, &r).len > 0;
		p->asks |= r.reply.len > 0;
		upstream_put_message(u, &p->up, &r, p->id + at);
		if (p->strict)
			break;
	}
}

void upstream_publish_passing(struct upstream *u, struct block *b)
{
	struct pending *p = NULL;
	struct run run = block_run(b);
	struct record r;

	if (u->state == UPSTREAM_UP && fits(u, b))
		p = pending_new(b->messages);
	if (p == NULL) {
		refuse(u, b, u->state != UPSTREAM_UP ? -EHOSTUNREACH : -EMSGSIZE, true);
		return;
	}
	p->up.block = b;
	p->up.passing = true;
	p->hash = b->hash;
	p->bytes = block_bytes(b);
	p->ping = u->pings + 1;
	u->unpinged = true;
	add(u, p);
	list_append(&u->passed, &p->link);
	p->holds = crowded(u, 1);
	if (p->holds)
		shard_hold(u->shard, p->hash);
	reactor_spend(&u->shard->reactor, p->messages + p->bytes / WRITE_BYTES);
	number(u, p);
	for (uint32_t at = 0; run_next_record(&run, &r); at++) {
		p->keyed |= upstream_key(b, &r).len > 0;
		upstream_put_message(u, &p->up, &r, p->id + at);
	}
}

bool upstream_publish_write(struct upstream *u)
{
	while (u->state == UPSTREAM_UP && !list_empty(&u->unwritten)) {
		struct pending *p = LIST_ENTRY(u->unwritten.next, struct pending, link);

		/* What comes back before the topic stands would be nobody's. */
		if (u->log && (p->topic->state != UPSTREAM_STANDS ||
			       (p->strict && p->topic->flying != NULL && p->topic->flying != p))) {
			list_remove(&p->link);
			list_append(&p->topic->unwritten, &p->link);
			continue;
		}
		write_block(u, p);
		if (reactor_spent(&u->shard->reactor))
			return !list_empty(&u->unwritten);
	}
	return false;
}

/* Puts them in front. */
static void unwrite(struct upstream *u, struct list *list)
{
	list_splice(list, &u->unwritten);
	list_splice(&u->unwritten, list);
}

void upstream_publish_stands(struct upstream *u, struct upstream_topic *ut)
{
	unwrite(u, &ut->unwritten);
}

static void passed_lost(struct upstream *u)
{
	while (!list_empty(&u->passed))
		fail(u, LIST_ENTRY(u->passed.next, struct pending, link), -EHOSTUNREACH);
}

/* All of it, in the order in which it was published: some may have been sent again, behind what
 * came after it. */
static void write_again(struct upstream *u)
{
	for (struct list *l = u->pending.next; l != &u->pending; l = l->next) {
		struct pending *p = LIST_ENTRY(l, struct pending, order);

		if (p->letter != NULL)
			continue;
		memset(acknowledged_of(p), 0, words_of(p->messages) * sizeof(p->bits[0]));
		list_remove(&p->link);
		list_append(&u->unwritten, &p->link);
	}
}

void upstream_publish_lost(struct upstream *u)
{
	passed_lost(u);
	if (u->log) {
		write_again(u);
		return;
	}
	while (!list_empty(&u->unanswered))
		fail(u, LIST_ENTRY(u->unanswered.next, struct pending, link), -EHOSTUNREACH);
}

/* ---- what is heard of it ---- */

static void passed_answered(struct upstream *u)
{
	while (!list_empty(&u->passed)) {
		struct pending *p = LIST_ENTRY(u->passed.next, struct pending, link);

		if (p->ping > u->pongs)
			break;
		succeed(u, p);
	}
}

void upstream_publish_answered(struct upstream *u)
{
	passed_answered(u);
	while (!u->log && !list_empty(&u->unanswered)) {
		struct pending *p = LIST_ENTRY(u->unanswered.next, struct pending, link);

		if (p->ping > u->pongs)
			break;
		/* It would have come back: it may not be published, or not be heard. */
		if (p->up.block != NULL && p->up.block->receipt != NULL)
			fail(u, p, -EHOSTUNREACH);
		else
			succeed(u, p);
	}
}

static bool number_in(struct span text, uint64_t *out)
{
	uint64_t n = 0;

	for (size_t i = 0; i < text.len; i++) {
		unsigned digit = (unsigned)(unsigned char)text.data[i] - '0';

		if (digit > 9 || n > UINT64_MAX / 10 - 1)
			return false;
		n = 10 * n + digit;
	}
	*out = n;
	return text.len > 0;
}

/* The block that has the message of an id of ours, and which it is. */
static struct pending *find(struct upstream *u, uint64_t id, uint32_t *at)
{
	for (struct list *l = u->pending.next; l != &u->pending; l = l->next) {
		struct pending *p = LIST_ENTRY(l, struct pending, order);

		if (p->id == 0 || id < p->id || id - p->id >= p->messages)
			continue;
		*at = (uint32_t)(id - p->id);
		return p;
	}
	return NULL;
}

/* The same of an id of its publisher's. */
static struct pending *find_key(struct upstream *u, const struct upstream_topic *ut,
				struct span key, uint32_t *at)
{
	for (struct list *l = u->pending.next; l != &u->pending; l = l->next) {
		struct pending *p = LIST_ENTRY(l, struct pending, order);
		struct record r;
		struct run run;

		if (!p->keyed || p->topic != ut || p->up.block == NULL)
			continue;
		run = block_run(p->up.block);
		for (*at = 0; run_next_record(&run, &r); ++*at)
			if (!is_set(p->bits, *at) && span_equal(upstream_key(p->up.block, &r), key))
				return p;
	}
	return NULL;
}

/* The next of a block whose messages go up one by one. */
static void go_on(struct upstream *u, struct pending *p)
{
	if (!p->strict || p->topic->flying != p)
		return;
	p->goes_on = true;
	list_remove(&p->link);
	list_append(u->unwritten.next, &p->link);
}

/* Whoever has published the message with a reply subject is answered as the stream would. */
static void answer(struct upstream *u, const struct pending *p, uint32_t at, uint64_t number,
		   bool duplicate)
{
	struct run run;
	struct record r = { .reply = { NULL, 0 } };

	if (!p->asks || p->up.block == NULL)
		return;
	run = block_run(p->up.block);
	for (uint32_t i = 0; i <= at; i++)
		(void)run_next_record(&run, &r);
	if (r.reply.len > 0)
		upstream_acknowledge(u, r.reply, number, duplicate);
}

/* The block that has the message of this id, and which it is; NULL: it is none of ours. */
static struct pending *find_id(struct upstream *u, const struct upstream_topic *ut, struct span id,
			       uint32_t *at)
{
	struct span first, rest;
	struct pending *p;
	uint64_t n;

	if (id.len == 0 || list_empty(&u->pending))
		return NULL;
	first = upstream_id_first(id);
	rest = span_skip(first, first.len > UPSTREAM_NONCE ? UPSTREAM_NONCE + 1 : first.len);
	if (rest.len > 0 && memcmp(id.data, u->nonce, UPSTREAM_NONCE) == 0 && number_in(rest, &n))
		p = find(u, n, at);
	else
		p = find_key(u, ut, id, at);
	return p != NULL || first.len == id.len ? p : find_key(u, ut, first, at);
}

static struct run_publisher unechoed(const struct block *b)
{
	return b->unechoed ? (struct run_publisher){ b->shard, b->slot, b->generation }
			   : (struct run_publisher){ .generation = 0 };
}

struct run_publisher upstream_publish_passed(struct upstream *u, struct span id)
{
	uint32_t at;
	struct pending *p = find_id(u, NULL, id, &at);

	return p != NULL && p->up.passing ? unechoed(p->up.block)
					  : (struct run_publisher){ .generation = 0 };
}

struct block *upstream_publish_came(struct upstream *u, struct upstream_topic *ut, struct span id,
				    uint64_t number, struct run_publisher *from)
{
	struct block *b = NULL;
	uint32_t at = 0;
	struct pending *p = find_id(u, ut, id, &at);

	if (p == NULL || p->topic != ut || p->up.block == NULL || is_set(p->bits, at))
		return NULL;
	*from = unechoed(p->up.block);
	if (u->log)
		answer(u, p, at, number, false);
	/* One whose publisher waits is delivered as it was published, and that is his receipt. */
	if (p->up.block->receipt != NULL && p->messages == 1) {
		b = p->up.block;
		p->up.block = NULL;
	}
	/* Without a log the PONG is the end of it. */
	if (!u->log)
		return b;
	set(p->bits, at);
	if (++p->came_n < p->messages) {
		go_on(u, p);
		return b;
	}
	if (b == NULL)
		block_unref(p->up.block);
	note_time(u, p);
	settle(u, p);
	return b;
}

/* Whether each of its messages that has gone up has come or been acknowledged. */
static bool is_known(struct pending *p)
{
	for (uint32_t at = 0; at < p->messages; at++) {
		if (is_set(p->bits, at))
			continue;
		if (p->strict || !is_set(acknowledged_of(p), at))
			return is_set(acknowledged_of(p), at);
	}
	return true;
}

/* Somebody has published one with its key, to this topic or another one. */
static bool is_repetition(const struct pending *p)
{
	return p->keyed && p->duplicate;
}

/* It has to come: if it does not, it is fetched. */
static void expect(struct upstream *u, struct pending *p)
{
	struct upstream_topic *ut = p->topic;

	/* The log's end of this topic says whether it is another one's. */
	if (is_repetition(p)) {
		if (u->stream.last < p->acknowledged_max)
			u->stream.last = p->acknowledged_max;
		list_remove(&ut->tail);
		ut->tail_ns = 0;
		list_append(u->tails.next, &ut->tail);
		return;
	}
	if (p->acknowledged_max > ut->target)
		ut->target = p->acknowledged_max;
	if (list_empty(&ut->hole)) {
		ut->hole_ns = upstream_now(u);
		list_append(&u->holes, &ut->hole);
	}
}

/* What there was of it is told as a gap, or was there before. */
static void count_as_come(struct upstream *u, struct pending *p)
{
	uint32_t at = 0;

	if (!p->strict || p->came_n + 1 >= p->messages) {
		succeed(u, p);
		return;
	}
	while (is_set(p->bits, at))
		at++;
	set(p->bits, at);
	p->came_n++;
	go_on(u, p);
}

/* Whether it may be among those that were told as a gap: then it came behind what was there when it
 * was sent. */
static bool may_be_skipped(const struct pending *p)
{
	return p->acknowledged_max <= p->topic->skipped &&
	       (p->epoch != p->topic->epoch || p->acknowledged_max > p->number);
}

/* Under other ids, for the stream would take it for what it has. */
static void repeat(struct upstream *u, struct pending *p)
{
	if (p->up.repetition == UPSTREAM_REPETITIONS_MAX) {
		fail(u, p, -EHOSTUNREACH);
		return;
	}
	p->up.repetition++;
	p->acknowledged_max = 0;
	p->duplicate = false;
	memset(acknowledged_of(p), 0, words_of(p->messages) * sizeof(p->bits[0]));
	write_block(u, p);
}

/* It has been on its way for a while. */
static void look_after(struct upstream *u, struct pending *p)
{
	struct upstream_topic *ut = p->topic;

	if (!is_known(p)) {
		write_block(u, p);
		return;
	}
	if (p->acknowledged_max > ut->number &&
	    !(is_repetition(p) && p->acknowledged_max <= ut->confirmed)) {
		expect(u, p);
		p->sent_ns = upstream_now(u);
		list_remove(&p->link);
		list_append(&u->unanswered, &p->link);
	} else if (may_be_skipped(p) || is_repetition(p)) {
		count_as_come(u, p);
	} else {
		/* Another message stands where it should. */
		u->shard->counters.upstream_false_acks++;
		repeat(u, p);
	}
}

void upstream_publish_acknowledged(struct upstream *u, struct span id,
				   const struct jetstream_ack *ack)
{
	struct pending *p;
	uint64_t n;
	uint32_t at;

	if (!number_in(id, &n) || (p = find(u, n, &at)) == NULL || ack->error != 0)
		return;
	set(acknowledged_of(p), at);
	p->duplicate |= ack->duplicate;
	if (ack->number > p->acknowledged_max)
		p->acknowledged_max = ack->number;
	/* Somebody has published it before, with the same key, and it has come here. */
	if (ack->duplicate && p->keyed && p->messages == 1 && !is_set(p->bits, at) &&
	    ack->number <= p->topic->number) {
		answer(u, p, at, ack->number, true);
		succeed(u, p);
	} else if (p->acknowledged_max <= p->topic->number && is_known(p)) {
		look_after(u, p);
	}
}

static void expire_unanswered(struct upstream *u, uint64_t *next_ns)
{
	while (u->log && u->state == UPSTREAM_UP && !list_empty(&u->unanswered)) {
		struct pending *p = LIST_ENTRY(u->unanswered.next, struct pending, link);

		if (upstream_now(u) - p->sent_ns < again_ns) {
			if (p->sent_ns + again_ns < *next_ns)
				*next_ns = p->sent_ns + again_ns;
			return;
		}
		look_after(u, p);
		if (reactor_spent(&u->shard->reactor)) {
			*next_ns = upstream_now(u);
			return;
		}
	}
}

void upstream_publish_expire(struct upstream *u, uint64_t *next_ns)
{
	uint64_t limit_ns = u->config->publish_seconds * NS_PER_S;

	expire_unanswered(u, next_ns);
	while (!list_empty(&u->pending)) {
		struct pending *p = LIST_ENTRY(u->pending.next, struct pending, order);

		/* Without a log the PONG comes, or the connection goes. */
		if ((p->up.passing || (!u->log && p->id != 0)) && u->state == UPSTREAM_UP)
			return;
		if (!upstream_gives_up(u) && upstream_now(u) - p->at_ns < limit_ns) {
			if (p->at_ns + limit_ns < *next_ns)
				*next_ns = p->at_ns + limit_ns;
			return;
		}
		fail(u, p, -EHOSTUNREACH);
	}
}

/* ---- begin and end ---- */

void upstream_publish_init(struct upstream *u)
{
	list_init(&u->held);
	list_init(&u->pending);
	list_init(&u->unwritten);
	list_init(&u->unanswered);
	list_init(&u->passed);
}

void upstream_publish_release(struct upstream *u)
{
	struct list *l;

	while ((l = list_take(&u->pending)) != NULL) {
		struct pending *p = LIST_ENTRY(l, struct pending, order);

		if (p->up.block != NULL)
			block_unref(p->up.block);
		free(p->letter);
		memory_free(p);
	}
	memory_free(u->scratch.data);
}
