#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/shared.h"
#include "session/upstream.h"
#include "topic/block.h"
#include "topic/topic.h"

/* The topics of the cluster that this shard is home of: whether they are subscribed to there, and
 * what the core asks of them. */

enum { SUBSCRIBE_COST = 4 /* of one to the server, about a microsecond */ };

#define PLACES_BEFORE (UINT64_C(1) << 40) /* of a topic that a log keeps, before what is here */

static struct upstream *upstream_of(const struct shard *s)
{
	return session_shared(s)->upstream;
}

/* ---- topics ---- */

static void leave_log(struct upstream *u, struct upstream_topic *ut)
{
	upstream_log_leave(u, ut);
	upstream_past_leave(u, ut);
}

/* What was so on another connection is so no more, nor with a pattern that has gone. */
static struct upstream_topic *look(struct upstream *u, struct upstream_topic *ut)
{
	bool borne = ut->state == UPSTREAM_STANDS && ut->sid == 0;
	bool stands = ut->nth == u->nth && u->state == UPSTREAM_UP;

	if (ut->state <= UPSTREAM_WANTED ||
	    (stands && (!borne || upstream_pattern_stands(u, ut->bearer))))
		return ut;
	if (stands) {
		list_remove(&ut->link);
		list_append(&u->wanted, &ut->link);
	}
	ut->state = UPSTREAM_WANTED;
	if (u->log)
		leave_log(u, ut);
	else
		ut->missed = true;
	return ut;
}

/* Without a log: whether something may have come while nothing brought it here. */
static bool missed_at_rest(const struct upstream *u, const struct upstream_topic *ut)
{
	return !u->log && ut->nth != 0 && (ut->left != u->patterns_left || ut->nth != u->nth);
}

static void linger(struct upstream *u, struct upstream_topic *ut)
{
	ut->idle_ns = u->shard->reactor.now_ns;
	list_remove(&ut->linger);
	list_append(&u->lingering, &ut->linger);
}

static void want(struct upstream *u, struct upstream_topic *ut)
{
	/* One that a pattern bears gets its own. */
	if (ut->state != UPSTREAM_REST && (ut->state != UPSTREAM_STANDS || ut->sid != 0))
		return;
	if (ut->state == UPSTREAM_REST) {
		u->shard->counters.upstream_interests++;
		ut->missed |= missed_at_rest(u, ut);
	}
	ut->state = UPSTREAM_WANTED;
	list_remove(&ut->link);
	list_append(&u->wanted, &ut->link);
}

/* Its messages come by a pattern's subscription. */
static void bear(struct upstream *u, struct upstream_topic *ut)
{
	ut->missed |= missed_at_rest(u, ut);
	ut->state = UPSTREAM_STANDS;
	ut->sid = 0;
	ut->nth = u->nth;
	list_append(&u->standing, &ut->link);
	u->shard->counters.upstream_interests++;
	linger(u, ut);
}

static void rest(struct upstream *u, struct upstream_topic *ut)
{
	char text[48];
	int n;

	list_remove(&ut->linger);
	if (look(u, ut)->state == UPSTREAM_REST)
		return;
	ut->left = u->patterns_left;
	if (ut->state > UPSTREAM_WANTED && ut->sid != 0) {
		n = snprintf(text, sizeof(text), "UNSUB %" PRIu64 "\r\n", ut->sid);
		/* Whoever comes back later has missed what comes from now on. */
		ut->missed |= !u->log && !upstream_pattern_covers(u, ut->topic->named.name);
		upstream_put(u, (struct span){ text, (size_t)n });
	}
	if (ut->state > UPSTREAM_WANTED && u->log)
		leave_log(u, ut);
	ut->state = UPSTREAM_REST;
	list_remove(&ut->link);
	u->shard->counters.upstream_interests--;
}

static int appeared(struct shard *s, struct topic *t)
{
	struct upstream *u = upstream_of(s);
	const struct config_upstream *config = u->config;
	struct upstream_topic *ut;
	bool ours = false;

	for (size_t i = 0; i < config->topics_kept_n && !ours; i++)
		ours = name_matches(span_of(config->topics[i]), t->named.name);
	/* A space has no place in a subject. */
	if (!ours || topic_internal(t->named.name) ||
	    memchr(t->named.name.data, ' ', t->named.name.len) != NULL)
		return 0;
	ut = memory_new_zeroed(sizeof(*ut));
	if (ut == NULL)
		return -ENOMEM;
	ut->topic = t;
	list_init(&ut->link);
	list_init(&ut->linger);
	list_init(&ut->held);
	list_init(&ut->awaited);
	list_init(&ut->unwritten);
	upstream_log_topic(ut);
	if (u->log) {
		/* Room for what was before. */
		t->seq = t->ranked_seq = PLACES_BEFORE;
		t->shift = 0 - t->seq;
	}
	t->tapped = ut;
	return 0;
}

static void forgotten(struct shard *s, struct topic *t)
{
	struct upstream *u = upstream_of(s);
	struct upstream_topic *ut = t->tapped;

	rest(u, ut);
	if (u->log)
		leave_log(u, ut);
	upstream_let_publish(u, ut);
	if (u->gathered == ut)
		u->gathered = NULL;
	t->tapped = NULL;
	upstream_ids_release(ut);
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
		linger(u, ut);
	}
}

static void publish(struct shard *s, struct topic *t, struct block *b)
{
	upstream_publish(upstream_of(s), t->tapped, b);
}

/* Whether a client has more than what has come here: it waits for that. */
static bool is_ahead(const struct upstream *u, const struct upstream_topic *ut,
		     const struct subscribe_letter *l)
{
	return u->log && l->replay.kind == REPLAY_FROM && l->replay.epoch == ut->epoch &&
	       l->replay.n > ut->number;
}

static bool keeps(struct shard *s, struct topic *t, struct subscribe_letter *l)
{
	struct upstream *u = upstream_of(s);
	struct upstream_topic *ut = look(u, t->tapped);
	bool stands = ut->state == UPSTREAM_STANDS;

	if (stands && !is_ahead(u, ut, l) && !upstream_wants_past(u, ut, l))
		return false;
	if (upstream_gives_up(u)) {
		home_refuse_subscriber(s, t, l, -EHOSTUNREACH);
		return true;
	}
	upstream_wait(u, ut, l);
	if (stands && is_ahead(u, ut, l))
		upstream_log_look(u, ut);
	return true;
}

static bool passes(struct shard *s, struct block *b)
{
	return upstream_passes(upstream_of(s), b);
}

static int pattern_appeared(struct shard *s, struct pattern *p)
{
	return upstream_pattern_appeared(upstream_of(s), p);
}

static void members(struct shard *s, struct pattern *p, uint64_t n)
{
	upstream_pattern_members(upstream_of(s), p, n);
}

static void pattern_gone(struct shard *s, struct pattern *p)
{
	upstream_pattern_gone(upstream_of(s), p);
}

static bool keeps_pattern(struct shard *s, struct pattern *p, struct pattern_letter *l)
{
	return upstream_pattern_keeps(upstream_of(s), p, l);
}

static bool keeps_receipt(struct shard *s, struct topic_letter *l)
{
	return upstream_publish_keeps(upstream_of(s), l);
}

static bool drained(struct shard *s)
{
	const struct upstream *u = upstream_of(s);

	return u == NULL || upstream_publish_drained(u);
}

static const struct tap tap = { .appeared = appeared,
				.forgotten = forgotten,
				.weighed = weighed,
				.publish = publish,
				.keeps = keeps,
				.passes = passes,
				.pattern_appeared = pattern_appeared,
				.members = members,
				.pattern_gone = pattern_gone,
				.keeps_pattern = keeps_pattern,
				.keeps_receipt = keeps_receipt,
				.drained = drained };

/* ---- what goes up ---- */

static void write_subscription(struct upstream *u, struct upstream_topic *ut)
{
	char sid[32];
	int n;

	if (u->log) {
		leave_log(u, ut);
		/* What it knows is another log's. */
		if (ut->epoch != u->epoch)
			ut->target = 0;
		upstream_put(u, SPAN("SUB "));
		upstream_put(u, span_of(u->config->deliver_prefix));
	} else {
		upstream_put(u, SPAN("SUB "));
	}
	ut->sid = ++u->sids;
	ut->nth = u->nth;
	ut->ping = u->pings + 1;
	ut->state = UPSTREAM_ASKED;
	u->unpinged = true;
	list_remove(&ut->link);
	list_append(&u->asked, &ut->link);
	n = snprintf(sid, sizeof(sid), " %" PRIu64 "\r\n", ut->sid);
	upstream_put(u, span_of(u->config->publish_prefix));
	upstream_put(u, ut->topic->named.name);
	upstream_put(u, (struct span){ sid, (size_t)n });
}

/* A herd of them comes back some in each turn. */
static bool write_subscriptions(struct upstream *u)
{
	while (u->state == UPSTREAM_UP && !list_empty(&u->wanted)) {
		struct upstream_topic *ut =
			look(u, LIST_ENTRY(u->wanted.next, struct upstream_topic, link));

		/* What a pattern brought of it has to be caught up with, whoever has gone. */
		if (ut->idle && ut->bearer == 0)
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
	if (list_empty(&u->wanted) && list_empty(&u->unwritten) && list_empty(&u->asks) &&
	    list_empty(&u->pasts) && list_empty(&u->patterns_wanted) &&
	    list_empty(&u->patterns_letters))
		return false;
	reactor_part(&u->shard->reactor, PART_CLIENTS);
	if (upstream_patterns_write(u) || write_subscriptions(u))
		return true;
	return upstream_log_write(u) || upstream_publish_write(u) || upstream_past_write(u);
}

void upstream_topics_answered(struct upstream *u)
{
	upstream_publish_answered(u);
	upstream_patterns_answered(u);
	while (!list_empty(&u->asked)) {
		struct upstream_topic *ut = LIST_ENTRY(u->asked.next, struct upstream_topic, link);

		if (ut->ping > u->pongs)
			break;
		if (!u->log) {
			upstream_stands(u, ut);
			continue;
		}
		ut->state = UPSTREAM_CATCHING;
		list_remove(&ut->link);
		list_append(&u->catching, &ut->link);
		upstream_log_look(u, ut);
	}
}

void upstream_topics_lost(struct upstream *u)
{
	/* What they were they are no more (look). */
	list_splice(&u->wanted, &u->asked);
	list_splice(&u->wanted, &u->catching);
	list_splice(&u->wanted, &u->standing);
	if (u->log) {
		upstream_log_lost(u);
		upstream_past_lost(u);
	}
	upstream_patterns_lost(u);
	upstream_publish_lost(u);
}

/* ---- what comes ---- */

static uint64_t number_of(struct span text)
{
	uint64_t n = 0;

	for (size_t i = 0; i < text.len; i++)
		n = 10 * n + (uint64_t)(unsigned char)text.data[i] - '0';
	return n;
}

/* The topic that a subject is of, if it is listened to. */
static struct upstream_topic *topic_of(struct upstream *u, struct span subject)
{
	struct span name = upstream_behind(subject, u->config->publish_prefix);
	struct upstream_topic *ut = name.len > 0 ? upstream_topic_named(u, name) : NULL;

	return ut != NULL && look(u, ut)->state > UPSTREAM_WANTED ? ut : NULL;
}

/* A message that a pattern's subscription has brought. False: it is none. */
static bool take_borne(struct upstream *u, uint64_t sid, struct span subject,
		       const struct nats_said *said, const struct upstream_message *m)
{
	struct upstream_topic *ut =
		upstream_pattern_topic(u, sid, upstream_behind(subject, u->config->publish_prefix));
	struct jetstream_place place = { 0 };
	bool fresh;

	if (ut == NULL || (u->log && !jetstream_place(m->headers, &place)) ||
	    !upstream_pattern_bears(u, look(u, ut), sid))
		return ut != NULL;
	fresh = ut->state == UPSTREAM_REST;
	if (fresh)
		bear(u, ut);
	else if (ut->sid == 0 && !list_empty(&ut->linger))
		linger(u, ut);
	if (!u->log) {
		upstream_take(u, ut, m);
		return true;
	}
	if (fresh || ut->epoch != u->epoch)
		upstream_log_bear(u, ut, place.before > 0 ? place.before : place.number - 1);
	upstream_log_live(u, ut, said, m->headers, m->payload);
	return true;
}

/* Of a topic that nobody listens to but by a pattern, while the connection was gone. */
static void take_fetched(struct upstream *u, uint64_t sid, const struct nats_said *said,
			 const struct upstream_message *m)
{
	uint64_t number;
	struct upstream_topic *ut = upstream_pattern_fetched(
		u, sid, upstream_behind(said->subject, u->config->publish_prefix), said, &number);

	if (ut == NULL || (ut->epoch == u->epoch && number <= ut->number))
		return;
	bear(u, ut);
	upstream_log_bear(u, ut, ut->epoch == u->epoch ? ut->number : number - 1);
	upstream_log_bring(u, ut, number, m->headers, m->payload);
}

void upstream_topics_message(struct upstream *u, const struct nats_said *said, struct span headers,
			     struct span payload)
{
	const struct upstream_message m = { .reply = said->reply,
					    .headers = headers,
					    .payload = payload };
	uint64_t sid = number_of(said->sid);
	struct upstream_topic *ut;

	if (sid == UPSTREAM_INBOX_SID && u->log) {
		upstream_log_answer(u, upstream_behind(said->subject, u->inbox), headers, payload);
		return;
	}
	/* Behind the last of all deliveries comes nothing. */
	if (u->shard->drain.marked[LANE_FREE] || u->contradicted)
		return;
	if (upstream_passing_message(u, sid, said->subject, &m))
		return;
	if (!u->log) {
		ut = topic_of(u, said->subject);
		if (ut != NULL && ut->sid == sid) {
			if (ut->bearer == 0 || ut->state > UPSTREAM_ASKED)
				upstream_take(u, ut, &m);
			return;
		}
		take_borne(u, sid, said->subject, said, &m);
		return;
	}
	ut = topic_of(u, upstream_behind(said->subject, u->config->deliver_prefix));
	if (ut != NULL && ut->sid == sid) {
		upstream_log_live(u, ut, said, headers, payload);
		return;
	}
	if (take_borne(u, sid, upstream_behind(said->subject, u->config->deliver_prefix), said, &m))
		return;
	ut = topic_of(u, said->subject);
	if (ut != NULL && ut->repair_sid == sid)
		upstream_log_fetched(u, ut, said, headers, payload);
	else if (ut != NULL && ut->past.sid == sid)
		upstream_past_fetched(u, ut, said, headers, payload);
	else
		take_fetched(u, sid, said, &m);
}

/* ---- time ---- */

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
	if (u->log || !list_empty(&u->lingering))
		reactor_part(&u->shard->reactor, PART_CLIENTS);
	if (u->log) {
		upstream_log_expire(u, next_ns);
		upstream_past_expire(u, next_ns);
	}
	upstream_patterns_expire(u);
	upstream_publish_expire(u, next_ns);
	upstream_waiting_expire(u, next_ns);
	expire_lingering(u, next_ns);
}

/* ---- begin and end ---- */

int upstream_topics_init(struct upstream *u)
{
	list_init(&u->wanted);
	list_init(&u->asked);
	list_init(&u->catching);
	list_init(&u->standing);
	list_init(&u->lingering);
	list_init(&u->awaited);
	upstream_publish_init(u);
	upstream_patterns_init(u);
	upstream_log_init(u);
	/* The same for all; none of them reads it before all have begun. */
	if (u->shard->id == 0)
		u->shard->broker->tap = &tap;
	return 0;
}

void upstream_topics_release(struct upstream *u)
{
	struct named *n;

	if (u->block != NULL)
		block_unref(u->block);
	upstream_publish_release(u);
	upstream_patterns_release(u);
	for (size_t at = 0; (n = table_next(&u->shard->home.topics, &at)) != NULL;) {
		struct topic *t = (struct topic *)(void *)n;
		struct upstream_topic *ut = t->tapped;

		if (ut == NULL)
			continue;
		upstream_waiting_free(ut);
		leave_log(u, ut);
		upstream_ids_release(ut);
		t->tapped = NULL;
		memory_free(ut);
	}
}
