#include <string.h>

#include "base/name.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/gather.h"
#include "session/upstream.h"
#include "topic/block.h"
#include "topic/topic.h"

/* What has come back: messages become blocks of their topic, those that follow each other one. */

struct upstream_topic *upstream_topic_named(struct upstream *u, struct span name)
{
	struct topic *t = name_valid(name) ? home_topic(u->shard, topic_hash(name), name) : NULL;

	return t != NULL ? t->tapped : NULL;
}

void upstream_tell_missed(struct upstream *u, struct upstream_topic *ut, uint64_t number)
{
	struct topic *t = ut->topic;

	if (!ut->missed)
		return;
	ut->missed = false;
	/* Nobody has anything of it yet. */
	if (!u->log && t->seq == 0 && t->shards_n == 0)
		return;
	u->shard->counters.upstream_gaps[ut->why]++;
	ut->why = UPSTREAM_GAP_LOST;
	if (u->log)
		home_gap(u->shard, t, ut->epoch, number);
	else
		home_gap(u->shard, t, 0, t->number);
}

/* ---- headers ---- */

/* What is said about a message on its way, and not by its publisher. */
static bool is_transport(struct span line)
{
	static const struct span names[] = {
		{ "Nats-Msg-Id:", 12 },   { "Nats-Stream:", 12 },        { "Nats-Subject:", 13 },
		{ "Nats-Sequence:", 14 }, { "Nats-Last-Sequence:", 19 }, { "Nats-Time-Stamp:", 16 },
		{ "Nats-Msg-Size:", 14 },
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (line.len >= names[i].len &&
		    strncasecmp(line.data, names[i].data, names[i].len) == 0)
			return true;
	return false;
}

/* What the broker itself says of a message. */
static bool is_label(struct span line)
{
	return strncasecmp(line.data, "Content-Type:", 13) == 0 ||
	       strncasecmp(line.data, "X-Version:", 10) == 0 ||
	       strncasecmp(line.data, "Content-Encoding:", 17) == 0;
}

/* The publisher's own headers: without what is said on the way. Empty: they are none, or labels
 * only. */
static struct span headers_down(struct upstream *u, struct span headers)
{
	struct span rest = headers;
	const char *lf;
	bool own = false, first = true;

	if (!upstream_scratch(u, headers.len))
		return (struct span){ NULL, 0 };
	while (rest.len > 0 && (lf = memchr(rest.data, '\n', rest.len)) != NULL) {
		struct span line = { rest.data, (size_t)(lf - rest.data) + 1 };

		rest = span_skip(rest, line.len);
		if (!first && is_transport(line))
			continue;
		/* The empty line, and that of the version unless it has a status. */
		own |= first ? line.len > 10 : line.len > 2 && !is_label(line);
		first = false;
		memcpy(u->scratch.data + u->scratch.len, line.data, line.len);
		u->scratch.len += line.len;
	}
	return own ? (struct span){ u->scratch.data, u->scratch.len } : (struct span){ NULL, 0 };
}

static struct span label_of(struct span headers, struct span name)
{
	struct span label = nats_header(headers, name);

	return label.len <= BLOCK_LABEL_MAX ? label : (struct span){ NULL, 0 };
}

/* ---- blocks ---- */

/* number: of its first message, by the log. */
static void deliver_block(struct upstream *u, struct upstream_topic *ut, struct block *b,
			  uint64_t number)
{
	if (u->past == ut) {
		b->shift = number;
		list_append(&ut->past.blocks, &b->age);
		return;
	}
	upstream_tell_missed(u, ut, number - 1);
	if (u->log)
		topic_shift(ut->topic, number);
	home_deliver(u->shard, ut->topic, b);
}

void upstream_deliver(struct upstream *u)
{
	struct upstream_topic *ut = u->gathered;
	struct block *b = u->block;

	u->gathered = NULL;
	u->block = NULL;
	if (b == NULL)
		return;
	if (ut == NULL) {
		block_unref(b);
		return;
	}
	b->form = RUN_RECORDS;
	if (b->messages == 1 && !u->extras) {
		b->form = RUN_ONE;
		b->len -= RECORD_HEAD_BYTES;
		memmove(block_body(b), block_body(b) + RECORD_HEAD_BYTES, b->len);
	}
	deliver_block(u, ut, block_trim(b), u->number);
}

/* What there is no memory for is missed, as others would be. */
static void miss(struct upstream *u, struct upstream_topic *ut)
{
	upstream_deliver(u);
	ut->missed = true;
	ut->why = UPSTREAM_GAP_MEMORY;
}

static bool is_from(const struct block *b, struct run_publisher from)
{
	return b->generation == from.generation &&
	       (from.generation == 0 || (b->shard == from.shard && b->slot == from.slot));
}

static void gather(struct upstream *u, struct upstream_topic *ut, const struct record *r,
		   uint64_t number, struct run_publisher from)
{
	size_t bytes = record_bytes(r);
	struct block *b;

	/* In a block numbers have no hole. */
	if (u->gathered != ut || u->block->len + bytes > GATHER_BYTES_MAX ||
	    !is_from(u->block, from) || (u->log && number != u->number + u->block->messages))
		upstream_deliver(u);
	if (u->block == NULL) {
		u->extras = false;
		u->number = number;
		b = block_new(ut->topic->named.name, ut->topic->named.hash, bytes);
	} else {
		b = block_reserve(u->block, bytes);
	}
	if (b == NULL) {
		miss(u, ut);
		return;
	}
	block_set_publisher(b, from);
	record_write(block_body(b) + b->len, r);
	b->len += bytes;
	b->messages++;
	u->block = b;
	u->gathered = ut;
	u->extras |= bytes > RECORD_HEAD_BYTES + r->payload.len;
}

/* What it says of itself. True: it is only of what kind it is, as a POST does. */
static bool describe(struct upstream *u, const struct upstream_message *m, struct record *r,
		     struct block_labels *labels)
{
	*r = (struct record){ .payload = m->payload, .reply = m->reply };
	*labels = (struct block_labels){ .key = { NULL, 0 } };
	if (m->headers.len == 0)
		return false;
	labels->type = label_of(m->headers, SPAN("Content-Type"));
	labels->version = label_of(m->headers, SPAN("X-Version"));
	labels->encoding = label_of(m->headers, SPAN("Content-Encoding"));
	r->headers = headers_down(u, m->headers);
	r->type = labels->type;
	r->version = labels->version;
	return r->headers.len == 0 && r->reply.len == 0 &&
	       labels->type.len + labels->version.len + labels->encoding.len > 0;
}

static struct block *labelled(struct span name, uint64_t hash, const struct block_labels *labels,
			      struct span payload)
{
	struct block *b = block_new_labelled(name, hash, labels, payload.len);

	if (b == NULL)
		return NULL;
	if (payload.len > 0)
		memcpy(block_body(b), payload.data, payload.len);
	b->len = payload.len;
	b->messages = 1;
	b->form = RUN_ONE;
	return b;
}

struct block *upstream_block(struct upstream *u, struct span name, const struct upstream_message *m)
{
	struct block_labels labels;
	struct record r;
	struct block *b;

	if (describe(u, m, &r, &labels) || record_bytes(&r) == RECORD_HEAD_BYTES + r.payload.len)
		return labelled(name, topic_hash(name), &labels, r.payload);
	b = block_new(name, topic_hash(name), record_bytes(&r));
	if (b == NULL)
		return NULL;
	record_write(block_body(b), &r);
	b->len = record_bytes(&r);
	b->messages = 1;
	b->form = RUN_RECORDS;
	return b;
}

static void deliver_labelled(struct upstream *u, struct upstream_topic *ut,
			     const struct upstream_message *m, const struct block_labels *labels,
			     struct run_publisher from)
{
	struct block *b;

	upstream_deliver(u);
	b = labelled(ut->topic->named.name, ut->topic->named.hash, labels, m->payload);
	if (b == NULL) {
		miss(u, ut);
		return;
	}
	block_set_publisher(b, from);
	deliver_block(u, ut, b, m->number);
}

/* One of ours, as it was published. False: it is not, or has to be made from what came; then *from
 * is as upstream_publish_came has it. */
static bool deliver_own(struct upstream *u, struct upstream_topic *ut,
			const struct upstream_message *m, struct run_publisher *from)
{
	struct block *b = upstream_publish_came(u, ut, nats_header(m->headers, SPAN("Nats-Msg-Id")),
						m->number, from);

	if (b == NULL)
		return false;
	upstream_deliver(u);
	deliver_block(u, ut, b, m->number);
	return true;
}

void upstream_take(struct upstream *u, struct upstream_topic *ut, const struct upstream_message *m)
{
	struct run_publisher from = { .generation = 0 };
	struct block_labels labels;
	struct record r;

	/* Reading never waits for subscribers: what there is no memory for is not taken. */
	if (budget_now(u->shard->broker) == BUDGET_EVICTION && !u->shard->drain.draining)
		miss(u, ut);
	else if (m->headers.len > 0 && u->past == NULL && deliver_own(u, ut, m, &from))
		return;
	else if (describe(u, m, &r, &labels))
		deliver_labelled(u, ut, m, &labels, from);
	else
		gather(u, ut, &r, m->number, from);
}

void upstream_take_past(struct upstream *u, struct upstream_topic *ut,
			const struct upstream_message *m)
{
	bool missed = ut->missed;

	upstream_deliver(u);
	u->past = ut;
	upstream_take(u, ut, m);
	upstream_deliver(u);
	u->past = NULL;
	/* What there is no memory for is not of the present. */
	ut->missed = missed;
}
