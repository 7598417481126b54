#include "session/upstream.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/gather.h"
#include "session/shared.h"
#include "topic/block.h"
#include "topic/topic.h"

enum {
	SUBSCRIBE_COST = 4, /* of one to the server, about a microsecond */
	WRITE_BYTES = 1 << 10,
	PAYLOAD_AROUND = 1 << 10, /* left of what a server takes, for headers of ours */
	ID_MAX = UPSTREAM_NONCE + 24,
};

/* A block that was published here, or a letter that wants to be told when all before it is in the
 * cluster. */
struct pending {
	struct list link;
	struct list receipt; /* of the upstream's: while it is waited for one by one */
	struct block *block; /* NULL: a letter; or it has come back */
	struct topic_letter *letter;
	struct upstream_topic *topic;
	uint64_t ping; /* written: it is there when so many have been answered */
	uint64_t at_ns, id;
	uint32_t messages;
	size_t bytes;
};

static struct upstream *upstream_of(const struct shard *s)
{
	return session_shared(s)->upstream;
}

/* ---- topics ---- */

/* What was so on another connection is so no more. */
static struct upstream_topic *look(struct upstream *u, struct upstream_topic *ut)
{
	if (ut->state > UPSTREAM_WANTED && (ut->nth != u->nth || u->state != UPSTREAM_UP)) {
		ut->state = UPSTREAM_WANTED;
		ut->missed = true;
	}
	return ut;
}

static void want(struct upstream *u, struct upstream_topic *ut)
{
	if (ut->state != UPSTREAM_REST)
		return;
	ut->state = UPSTREAM_WANTED;
	list_append(&u->wanted, &ut->link);
	u->shard->counters.upstream_interests++;
}

static void rest(struct upstream *u, struct upstream_topic *ut)
{
	char text[48];
	int n;

	list_remove(&ut->linger);
	if (look(u, ut)->state == UPSTREAM_REST)
		return;
	if (ut->state > UPSTREAM_WANTED) {
		n = snprintf(text, sizeof(text), "UNSUB %" PRIu64 "\r\n", ut->sid);
		/* Whoever comes back later has missed what comes from now on. */
		ut->missed = true;
		ut->state = UPSTREAM_REST;
		(void)u->write(u, (struct span){ text, (size_t)n });
	}
	ut->state = UPSTREAM_REST;
	list_remove(&ut->link);
	u->shard->counters.upstream_interests--;
}

static void pin(struct upstream_topic *ut)
{
	ut->topic->pins++;
}

static void unpin(struct upstream *u, struct upstream_topic *ut)
{
	assert(ut->topic->pins > 0);
	if (--ut->topic->pins == 0)
		home_weigh(u->shard, ut->topic);
}

static int appeared(struct shard *s, struct topic *t)
{
	struct upstream *u = upstream_of(s);
	const struct config_upstream *config = u->config;
	struct upstream_topic *ut;
	bool ours = false;

	for (size_t i = 0; i < config->topics_n && !ours; i++)
		ours = name_matches(span_of(config->topics[i]), t->named.name);
	if (!ours || topic_internal(t->named.name))
		return 0;
	ut = memory_new_zeroed(sizeof(*ut));
	if (ut == NULL)
		return -ENOMEM;
	ut->topic = t;
	list_init(&ut->link);
	list_init(&ut->linger);
	list_init(&ut->held);
	list_init(&ut->awaited);
	t->tapped = ut;
	return 0;
}

static void let_publish(struct upstream *u, struct upstream_topic *ut)
{
	if (list_empty(&ut->held))
		return;
	list_remove(&ut->held);
	shard_release_hold(u->shard, ut->topic->named.hash);
}

static void forgotten(struct shard *s, struct topic *t)
{
	struct upstream_topic *ut = t->tapped;

	rest(upstream_of(s), ut);
	let_publish(upstream_of(s), ut);
	if (upstream_of(s)->gathered == ut)
		upstream_of(s)->gathered = NULL;
	t->tapped = NULL;
	memory_free(ut);
}

static void weighed(struct shard *s, struct topic *t, bool idle)
{
	struct upstream *u = upstream_of(s);
	struct upstream_topic *ut = t->tapped;

	ut->idle = idle;
	list_remove(&ut->linger);
	if (!idle) {
		want(u, ut);
	} else if (ut->state != UPSTREAM_REST) {
		ut->idle_ns = s->reactor.now_ns;
		list_append(&u->lingering, &ut->linger);
	}
}

static void tell_missed(struct upstream *u, struct upstream_topic *ut)
{
	if (!ut->missed)
		return;
	ut->missed = false;
	/* Nobody has anything of it yet. */
	if (ut->topic->seq == 0 && ut->topic->shards_n == 0)
		return;
	u->shard->counters.upstream_gaps++;
	home_gap(u->shard, ut->topic);
}

/* ---- subscribers ---- */

/* Cut off for so long that nobody waits for its end. */
static bool gives_up(const struct upstream *u)
{
	const struct shard *s = u->shard;

	return u->state != UPSTREAM_UP &&
	       (s->drain.draining ||
		s->reactor.now_ns - u->down_ns >= u->config->publish_seconds * NS_PER_S);
}

static bool keeps(struct shard *s, struct topic *t, struct subscribe_letter *l)
{
	struct upstream *u = upstream_of(s);
	struct upstream_topic *ut = look(u, t->tapped);

	if (ut->state == UPSTREAM_STANDS)
		return false;
	if (gives_up(u)) {
		home_refuse_subscriber(s, t, l, -EHOSTUNREACH);
		return true;
	}
	l->next = NULL;
	if (ut->first == NULL) {
		ut->first = l;
		list_append(&u->awaited, &ut->awaited);
	} else {
		ut->last->next = l;
	}
	ut->last = l;
	pin(ut);
	home_weigh(s, t);
	return true;
}

/* Takes the first of those who wait; it stays pinned meanwhile. */
static struct subscribe_letter *next_waiting(struct upstream_topic *ut)
{
	struct subscribe_letter *l = ut->first;

	if (l == NULL)
		return NULL;
	ut->first = l->next;
	if (ut->first == NULL)
		list_remove(&ut->awaited);
	return l;
}

static void stands(struct upstream *u, struct upstream_topic *ut)
{
	struct subscribe_letter *l;

	ut->state = UPSTREAM_STANDS;
	list_remove(&ut->link);
	list_append(&u->standing, &ut->link);
	tell_missed(u, ut);
	while ((l = next_waiting(ut)) != NULL) {
		home_stands(u->shard, ut->topic, l);
		unpin(u, ut);
	}
}

/* ---- publishing ---- */

/* Whether so much is on its way that publishers have to wait; half: whether they may go on. */
static bool crowded(const struct upstream *u, unsigned part)
{
	return u->messages >= u->config->in_flight / part ||
	       u->bytes >= u->config->in_flight_bytes / part;
}

static void add(struct upstream *u, struct pending *p)
{
	u->messages += p->messages;
	u->bytes += p->bytes;
	u->shard->counters.upstream_unanswered = u->messages;
	p->at_ns = u->shard->reactor.now_ns;
	list_init(&p->link);
	list_init(&p->receipt);
	list_append(&u->unwritten, &p->link);
}

static void publish(struct shard *s, struct topic *t, struct block *b)
{
	struct upstream *u = upstream_of(s);
	struct upstream_topic *ut = t->tapped;
	struct pending *p = gives_up(u) ? NULL : memory_new_zeroed(sizeof(*p));

	if (p == NULL) {
		home_refuse(s, b, gives_up(u) ? -EHOSTUNREACH : -ENOMEM);
		return;
	}
	t->known = true;
	p->block = b;
	p->topic = ut;
	p->messages = b->messages;
	p->bytes = block_bytes(b);
	add(u, p);
	pin(ut);
	if (t->idle_ns != 0)
		home_weigh(s, t);
	if (!crowded(u, 1) || !list_empty(&ut->held))
		return;
	list_append(&u->held, &ut->held);
	shard_hold(s, t->named.hash);
}

static bool keeps_receipt(struct shard *s, struct topic_letter *l)
{
	struct upstream *u = upstream_of(s);
	struct topic *t = l->name.len > 0 ? home_topic(s, l->hash, l->name) : NULL;
	struct pending *p;

	if (list_empty(&u->unwritten) && list_empty(&u->unanswered))
		return false;
	/* A publisher's end, or a barrier before all that somebody has published. */
	if (l->name.len > 0 && (l->letter.kind != LETTER_LEAVE || t == NULL || t->tapped == NULL))
		return false;
	p = memory_new_zeroed(sizeof(*p));
	if (p == NULL)
		return false;
	p->letter = l;
	p->topic = t != NULL ? t->tapped : NULL;
	if (p->topic != NULL)
		pin(p->topic);
	add(u, p);
	return true;
}

/* It is over, whatever has become of it. */
static void settle(struct upstream *u, struct pending *p)
{
	list_remove(&p->link);
	list_remove(&p->receipt);
	u->messages -= p->messages;
	u->bytes -= p->bytes;
	u->shard->counters.upstream_unanswered = u->messages;
	if (p->topic != NULL)
		unpin(u, p->topic);
	memory_free(p);
	while (!list_empty(&u->held) && !crowded(u, 2))
		let_publish(u, LIST_ENTRY(u->held.next, struct upstream_topic, held));
}

/* Nobody knows what has become of it, or it is too long. */
static void fail(struct upstream *u, struct pending *p, int error)
{
	if (p->block != NULL)
		home_refuse(u->shard, p->block, error);
	/* Who asks for a barrier waits for the others only. */
	else if (p->letter != NULL && p->topic != NULL)
		home_refuse_receipt(u->shard, p->letter, error);
	else if (p->letter != NULL)
		home_receipt(u->shard, p->letter);
	settle(u, p);
}

static void fail_all(struct upstream *u, struct list *list)
{
	while (!list_empty(list))
		fail(u, LIST_ENTRY(list->next, struct pending, link), -EHOSTUNREACH);
}

static bool drained(struct shard *s)
{
	const struct upstream *u = upstream_of(s);

	return u == NULL || (list_empty(&u->unwritten) && list_empty(&u->unanswered));
}

static const struct tap tap = { .appeared = appeared,
				.forgotten = forgotten,
				.weighed = weighed,
				.publish = publish,
				.keeps = keeps,
				.keeps_receipt = keeps_receipt,
				.drained = drained };

/* ---- what goes up ---- */

static void put(struct upstream *u, struct span bytes)
{
	if (bytes.len > 0 && u->state == UPSTREAM_UP)
		(void)u->write(u, bytes);
}

static void put_field(struct upstream_bytes *to, const char *name, struct span value)
{
	if (value.len == 0)
		return;
	to->len += (size_t)snprintf(to->data + to->len, to->room - to->len, "%s: %.*s\r\n", name,
				    (int)value.len, value.data);
}

static bool scratch_room(struct upstream *u, size_t bytes)
{
	char *data;

	u->scratch.len = 0;
	if (bytes <= u->scratch.room)
		return true;
	data = memory_resize(u->scratch.data, bytes);
	if (data == NULL)
		return false;
	u->scratch.data = data;
	u->scratch.room = bytes;
	return true;
}

/* What its publisher says beside a message, as headers: its own, without the empty line at their
 * end, then ours. Empty: there is nothing to say. */
static struct span headers_up(struct upstream *u, const struct pending *p, const struct record *r)
{
	const struct block *b = p->block;
	bool one = b->form == RUN_ONE;
	struct span version = one ? block_version(b) : r->version,
		    encoding = one ? block_encoding(b) : (struct span){ NULL, 0 };
	struct span own = r->headers;
	char id[ID_MAX];

	if (own.len == 0 && r->type.len == 0 && version.len == 0 && encoding.len == 0 &&
	    b->receipt == NULL)
		return (struct span){ NULL, 0 };
	if (!scratch_room(u, own.len + r->type.len + version.len + encoding.len + 256))
		return (struct span){ NULL, 0 };
	if (own.len >= 4) {
		memcpy(u->scratch.data, own.data, own.len - 2);
		u->scratch.len = own.len - 2;
	} else {
		memcpy(u->scratch.data, "NATS/1.0\r\n", 10);
		u->scratch.len = 10;
		/* Headers of their own say these themselves. */
		put_field(&u->scratch, "Content-Type", r->type);
		put_field(&u->scratch, "X-Version", version);
		put_field(&u->scratch, "Content-Encoding", encoding);
	}
	if (b->receipt != NULL) {
		snprintf(id, sizeof(id), "%s-%" PRIu64, u->nonce, p->id);
		put_field(&u->scratch, "Nats-Msg-Id", span_of(id));
	}
	memcpy(u->scratch.data + u->scratch.len, "\r\n", 2);
	u->scratch.len += 2;
	return (struct span){ u->scratch.data, u->scratch.len };
}

static void write_message(struct upstream *u, const struct pending *p, const struct record *r)
{
	struct span headers = headers_up(u, p, r);
	char numbers[48];
	int n = headers.len > 0 ? snprintf(numbers, sizeof(numbers), " %zu %zu\r\n", headers.len,
					   headers.len + r->payload.len)
				: snprintf(numbers, sizeof(numbers), " %zu\r\n", r->payload.len);

	put(u, headers.len > 0 ? SPAN("HPUB ") : SPAN("PUB "));
	put(u, span_of(u->config->publish_prefix));
	put(u, block_name(p->block));
	if (r->reply.len > 0)
		put(u, SPAN(" "));
	put(u, r->reply);
	put(u, (struct span){ numbers, (size_t)n });
	put(u, headers);
	put(u, r->payload);
	put(u, SPAN("\r\n"));
}

/* Whether the server takes all of them. */
static bool fits(const struct upstream *u, const struct block *b)
{
	struct run run = block_run(b);
	struct record r;

	if (b->len + PAYLOAD_AROUND <= u->info.max_payload)
		return true;
	while (run_next_record(&run, &r))
		if (r.payload.len + r.headers.len + PAYLOAD_AROUND > u->info.max_payload)
			return false;
	return true;
}

static void write_block(struct upstream *u, struct pending *p)
{
	struct run run = block_run(p->block);
	struct record r;

	if (!fits(u, p->block)) {
		fail(u, p, -EMSGSIZE);
		return;
	}
	p->ping = u->pings + 1;
	p->id = ++u->ids;
	u->unpinged = true;
	list_remove(&p->link);
	list_append(&u->unanswered, &p->link);
	if (p->block->receipt != NULL)
		list_append(&u->receipts, &p->receipt);
	reactor_spend(&u->shard->reactor, p->messages + p->bytes / WRITE_BYTES);
	while (u->state == UPSTREAM_UP && run_next_record(&run, &r))
		write_message(u, p, &r);
}

static void write_subscription(struct upstream *u, struct upstream_topic *ut)
{
	char sid[32];
	int n;

	ut->sid = ++u->sids;
	ut->nth = u->nth;
	ut->ping = u->pings + 1;
	ut->state = UPSTREAM_ASKED;
	u->unpinged = true;
	list_remove(&ut->link);
	list_append(&u->asked, &ut->link);
	n = snprintf(sid, sizeof(sid), " %" PRIu64 "\r\n", ut->sid);
	put(u, SPAN("SUB "));
	put(u, span_of(u->config->publish_prefix));
	put(u, ut->topic->named.name);
	put(u, (struct span){ sid, (size_t)n });
}

/* A herd of them comes back some in each turn. */
static bool write_subscriptions(struct upstream *u)
{
	while (u->state == UPSTREAM_UP && !list_empty(&u->wanted)) {
		struct upstream_topic *ut =
			look(u, LIST_ENTRY(u->wanted.next, struct upstream_topic, link));

		if (ut->idle)
			rest(u, ut);
		else
			write_subscription(u, ut);
		reactor_spend(&u->shard->reactor, SUBSCRIBE_COST);
		if (reactor_spent(&u->shard->reactor))
			return !list_empty(&u->wanted);
	}
	return false;
}

bool upstream_topics_write(struct upstream *u)
{
	if (list_empty(&u->wanted) && list_empty(&u->unwritten))
		return false;
	reactor_part(&u->shard->reactor, PART_CLIENTS);
	if (write_subscriptions(u))
		return true;
	while (u->state == UPSTREAM_UP && !list_empty(&u->unwritten)) {
		struct pending *p = LIST_ENTRY(u->unwritten.next, struct pending, link);

		if (p->block != NULL) {
			write_block(u, p);
		} else {
			list_remove(&p->link);
			list_append(&u->unanswered, &p->link);
		}
		if (reactor_spent(&u->shard->reactor))
			return !list_empty(&u->unwritten);
	}
	/* A letter alone waits for nothing. */
	if (!u->unpinged)
		upstream_topics_answered(u);
	return false;
}

void upstream_topics_answered(struct upstream *u)
{
	while (!list_empty(&u->unanswered)) {
		struct pending *p = LIST_ENTRY(u->unanswered.next, struct pending, link);

		if (p->letter != NULL) {
			home_receipt(u->shard, p->letter);
			settle(u, p);
		} else if (p->ping > u->pongs) {
			break;
		} else if (p->block != NULL && p->block->receipt != NULL) {
			/* It would have come back: it may not be published, or not be heard. */
			fail(u, p, -EHOSTUNREACH);
		} else {
			if (p->block != NULL)
				block_unref(p->block);
			settle(u, p);
		}
	}
	while (!list_empty(&u->asked)) {
		struct upstream_topic *ut = LIST_ENTRY(u->asked.next, struct upstream_topic, link);

		if (ut->ping > u->pongs)
			break;
		stands(u, ut);
	}
}

void upstream_topics_lost(struct upstream *u)
{
	/* What they were they are no more (look). */
	list_splice(&u->wanted, &u->asked);
	list_splice(&u->wanted, &u->standing);
	fail_all(u, &u->unanswered);
}

/* ---- what comes ---- */

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

	if (!scratch_room(u, headers.len))
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

void upstream_topics_deliver(struct upstream *u)
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
	tell_missed(u, ut);
	home_deliver(u->shard, ut->topic, block_trim(b));
}

/* Out of memory it is missed, as others would be. */
static void gather(struct upstream *u, struct upstream_topic *ut, const struct record *r)
{
	size_t bytes = record_bytes(r);
	struct block *b;

	if (u->gathered != ut || u->block->len + bytes > GATHER_BYTES_MAX)
		upstream_topics_deliver(u);
	if (u->block == NULL) {
		u->extras = false;
		b = block_new(ut->topic->named.name, ut->topic->named.hash, bytes);
	} else {
		b = block_reserve(u->block, bytes);
	}
	if (b == NULL) {
		upstream_topics_deliver(u);
		ut->missed = true;
		return;
	}
	record_write(block_body(b) + b->len, r);
	b->len += bytes;
	b->messages++;
	u->block = b;
	u->gathered = ut;
	u->extras |= bytes > RECORD_HEAD_BYTES + r->payload.len;
}

/* One that says of what kind it is, as a POST does. */
static void deliver_labelled(struct upstream *u, struct upstream_topic *ut, struct span payload,
			     const struct block_labels *labels)
{
	struct block *b;

	upstream_topics_deliver(u);
	b = block_new_labelled(ut->topic->named.name, ut->topic->named.hash, labels, payload.len);
	if (b == NULL) {
		ut->missed = true;
		return;
	}
	memcpy(block_body(b), payload.data, payload.len);
	b->len = payload.len;
	b->messages = 1;
	b->form = RUN_ONE;
	tell_missed(u, ut);
	home_deliver(u->shard, ut->topic, b);
}

/* One of ours whose publisher waits for it is delivered as it was published. */
static bool deliver_own(struct upstream *u, struct upstream_topic *ut, struct span id)
{
	uint64_t n = 0;

	if (id.len <= UPSTREAM_NONCE + 1 || memcmp(id.data, u->nonce, UPSTREAM_NONCE) != 0)
		return false;
	for (size_t i = UPSTREAM_NONCE + 1; i < id.len; i++)
		n = 10 * n + (uint64_t)(unsigned char)id.data[i] - '0';
	for (struct list *l = u->receipts.next; l != &u->receipts; l = l->next) {
		struct pending *p = LIST_ENTRY(l, struct pending, receipt);
		struct block *b = p->block;

		if (p->id != n || p->topic != ut)
			continue;
		upstream_topics_deliver(u);
		list_remove(&p->receipt);
		p->block = NULL;
		tell_missed(u, ut);
		home_deliver(u->shard, ut->topic, b);
		return true;
	}
	return false;
}

/* Whose message it is. NULL: nobody's any more. */
static struct upstream_topic *topic_of(struct upstream *u, const struct nats_said *said)
{
	size_t prefix = strlen(u->config->publish_prefix);
	struct span name = said->subject;
	struct upstream_topic *ut;
	struct topic *t;
	uint64_t sid = 0;

	if (name.len <= prefix || !name_valid(span_skip(name, prefix)))
		return NULL;
	name = span_skip(name, prefix);
	t = home_topic(u->shard, topic_hash(name), name);
	if (t == NULL || t->tapped == NULL)
		return NULL;
	for (size_t i = 0; i < said->sid.len; i++)
		sid = 10 * sid + (uint64_t)(unsigned char)said->sid.data[i] - '0';
	ut = look(u, t->tapped);
	return ut->state > UPSTREAM_WANTED && ut->sid == sid ? ut : NULL;
}

void upstream_topics_message(struct upstream *u, const struct nats_said *said, struct span headers,
			     struct span payload)
{
	struct upstream_topic *ut = topic_of(u, said);
	struct record r = { .payload = payload, .reply = said->reply };
	struct block_labels labels;

	/* Behind the last of all deliveries comes nothing. */
	if (ut == NULL || u->shard->drain.marked[LANE_FREE])
		return;
	/* Reading never waits for subscribers: what there is no memory for is not taken. */
	if (budget_now(u->shard->broker) == BUDGET_EVICTION && !u->shard->drain.draining) {
		upstream_topics_deliver(u);
		ut->missed = true;
		return;
	}
	if (headers.len == 0) {
		gather(u, ut, &r);
		return;
	}
	if (deliver_own(u, ut, nats_header(headers, SPAN("Nats-Msg-Id"))))
		return;
	labels.type = nats_header(headers, SPAN("Content-Type"));
	labels.version = nats_header(headers, SPAN("X-Version"));
	labels.encoding = nats_header(headers, SPAN("Content-Encoding"));
	if (labels.type.len > BLOCK_LABEL_MAX)
		labels.type.len = 0;
	if (labels.version.len > BLOCK_LABEL_MAX)
		labels.version.len = 0;
	if (labels.encoding.len > BLOCK_LABEL_MAX)
		labels.encoding.len = 0;
	r.headers = headers_down(u, headers);
	if (r.headers.len == 0 && r.reply.len == 0 &&
	    labels.type.len + labels.version.len + labels.encoding.len > 0) {
		deliver_labelled(u, ut, payload, &labels);
		return;
	}
	r.type = labels.type;
	r.version = labels.version;
	gather(u, ut, &r);
}

/* ---- time ---- */

static void expire_unwritten(struct upstream *u, uint64_t *next_ns)
{
	uint64_t limit_ns = u->config->publish_seconds * NS_PER_S;

	while (!list_empty(&u->unwritten)) {
		struct pending *p = LIST_ENTRY(u->unwritten.next, struct pending, link);

		if (!gives_up(u) && u->shard->reactor.now_ns - p->at_ns < limit_ns) {
			if (p->at_ns + limit_ns < *next_ns)
				*next_ns = p->at_ns + limit_ns;
			return;
		}
		fail(u, p, -EHOSTUNREACH);
	}
}

static void expire_awaited(struct upstream *u, uint64_t *next_ns)
{
	uint64_t at_ns = u->down_ns + u->config->publish_seconds * NS_PER_S;

	if (u->state == UPSTREAM_UP || list_empty(&u->awaited))
		return;
	if (!gives_up(u) && at_ns < *next_ns)
		*next_ns = at_ns;
	while (gives_up(u) && !list_empty(&u->awaited)) {
		struct upstream_topic *ut =
			LIST_ENTRY(u->awaited.next, struct upstream_topic, awaited);

		home_refuse_subscriber(u->shard, ut->topic, next_waiting(ut), -EHOSTUNREACH);
		unpin(u, ut);
	}
}

static void expire_lingering(struct upstream *u, uint64_t *next_ns)
{
	uint64_t linger_ns = u->config->linger_seconds * NS_PER_S;

	while (!list_empty(&u->lingering)) {
		struct upstream_topic *ut =
			LIST_ENTRY(u->lingering.next, struct upstream_topic, linger);

		if (u->shard->reactor.now_ns - ut->idle_ns < linger_ns) {
			if (ut->idle_ns + linger_ns < *next_ns)
				*next_ns = ut->idle_ns + linger_ns;
			return;
		}
		rest(u, ut);
		reactor_spend(&u->shard->reactor, SUBSCRIBE_COST);
		if (reactor_spent(&u->shard->reactor)) {
			*next_ns = u->shard->reactor.now_ns;
			return;
		}
	}
}

void upstream_topics_expire(struct upstream *u, uint64_t *next_ns)
{
	expire_unwritten(u, next_ns);
	expire_awaited(u, next_ns);
	if (!list_empty(&u->lingering)) {
		reactor_part(&u->shard->reactor, PART_CLIENTS);
		expire_lingering(u, next_ns);
	}
}

/* ---- begin and end ---- */

int upstream_topics_init(struct upstream *u)
{
	list_init(&u->wanted);
	list_init(&u->asked);
	list_init(&u->standing);
	list_init(&u->lingering);
	list_init(&u->held);
	list_init(&u->awaited);
	list_init(&u->unwritten);
	list_init(&u->unanswered);
	list_init(&u->receipts);
	/* The same for all; none of them reads it before all have begun. */
	if (u->shard->id == 0)
		u->shard->broker->tap = &tap;
	return 0;
}

static void discard(struct list *list)
{
	struct list *l;

	while ((l = list_take(list)) != NULL) {
		struct pending *p = LIST_ENTRY(l, struct pending, link);

		if (p->block != NULL)
			block_unref(p->block);
		free(p->letter);
		memory_free(p);
	}
}

void upstream_topics_release(struct upstream *u)
{
	struct named *n;
	struct subscribe_letter *l;

	if (u->block != NULL)
		block_unref(u->block);
	discard(&u->unwritten);
	discard(&u->unanswered);
	for (size_t at = 0; (n = table_next(&u->shard->home.topics, &at)) != NULL;) {
		struct topic *t = (struct topic *)(void *)n;
		struct upstream_topic *ut = t->tapped;

		if (ut == NULL)
			continue;
		while ((l = next_waiting(ut)) != NULL)
			subscribe_letter_free(l);
		t->tapped = NULL;
		memory_free(ut);
	}
	memory_free(u->scratch.data);
}
