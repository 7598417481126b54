#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/memory.h"
#include "broker/counters.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/upstream.h"
#include "topic/topic.h"

/*
 * The log: a JetStream stream that numbers what is published and republishes it.
 *
 * A topic's messages are delivered in the order of their numbers, each behind the one that it names
 * as the one before (Nats-Last-Sequence). One that comes before others that are missing is parked;
 * what is missing is fetched by a consumer of the stream's, from the last one that came on, until
 * all that is known to be there has come. What cannot be had is told as a gap.
 *
 * Whenever a topic is subscribed to, and every tail_seconds, the stream's leader is asked for the
 * topic's newest message (MSG.GET), for a message that nothing follows can be missing without
 * anybody knowing.
 */

enum {
	ASKING_MAX = 256,     /* questions on their way; others wait for these */
	REPAIRS_MAX = 32,     /* topics for which something is being fetched; others wait */
	PARKED_MAX = 1 << 20, /* bytes of one topic; what comes beyond is fetched */
	ASK_COST = 4,
	BODY_MAX = 2048,
};
static const uint64_t hole_ns = 20 * NS_PER_MS; /* until it is believed in */
static const uint64_t again_ns = 2 * NS_PER_S;  /* a question that is not answered */
static const uint64_t stuck_ns = 2 * NS_PER_S;  /* a consumer from which nothing comes */

/* A message that came too early. */
struct parked {
	struct list link;
	struct jetstream_place place;
	size_t header_bytes, bytes; /* of headers, and of these and the payload */
	char data[];
};

/* Of a connection that is lost nothing is asked for any more. */
static bool is_past(struct upstream *u, struct upstream_topic *ut)
{
	if (ut->nth == u->nth)
		return false;
	upstream_log_leave(u, ut);
	return true;
}

static void sooner(uint64_t *next_ns, uint64_t at_ns)
{
	if (at_ns < *next_ns)
		*next_ns = at_ns;
}

/* ---- questions ---- */

static void ask_stream(struct upstream *u)
{
	u->stream_asked_ns = upstream_now(u);
	upstream_request(u, JETSTREAM_INFO, "", "s", (struct span){ NULL, 0 },
			 (struct span){ NULL, 0 });
}

static void wanted_of(const struct upstream *u, struct jetstream_wanted *w)
{
	*w = (struct jetstream_wanted){ .name = u->config->stream,
					.topics = u->config->topics,
					.topics_n = u->config->topics_kept_n,
					.publish_prefix = u->config->publish_prefix,
					.deliver_prefix = u->config->deliver_prefix };
}

/* As much as the topics' sections keep here. Three replicas where the servers are known to keep
 * them alike (nats-server #4174, #6486). */
static void limits_of(const struct upstream *u, struct jetstream_limits *l)
{
	*l = (struct jetstream_limits){ .replicas = 1 };
	if (*u->info.urls != 0 && jetstream_at_least(u->info.version, 2, 11))
		l->replicas = 3;
	for (size_t i = 0; i < u->config->topics_kept_n; i++) {
		const struct config_topic *t =
			config_topic(u->shard->config, span_of(u->config->topics[i]));

		if (t->history_messages > l->messages_per_subject)
			l->messages_per_subject = t->history_messages;
		if (t->history_seconds > l->age_s)
			l->age_s = t->history_seconds;
	}
	if (l->age_s < JETSTREAM_DUPLICATES_S)
		l->age_s = JETSTREAM_DUPLICATES_S;
}

static void create_stream(struct upstream *u)
{
	struct jetstream_wanted w;
	struct jetstream_limits l;
	char body[16 << 10];
	size_t n;

	wanted_of(u, &w);
	limits_of(u, &l);
	n = jetstream_create(&w, &l, body, sizeof(body));
	if (n == 0) {
		u->lose(u, "there are too many topics for a stream");
		return;
	}
	u->create_asked = true;
	log_info("upstream: reactor %u: stream %s is made", u->shard->id, u->config->stream);
	upstream_request(u, JETSTREAM_CREATE, "", "s", (struct span){ NULL, 0 },
			 (struct span){ body, n });
}

static void ask(struct upstream *u, struct upstream_topic *ut, unsigned what)
{
	if (ut->ask != ASK_NOTHING && ut->asked_ns != 0)
		u->asking_n--;
	ut->ask = what;
	ut->asked_ns = 0;
	list_remove(&ut->asks);
	if (what != ASK_NOTHING)
		list_append(&u->asks, &ut->asks);
}

static struct span name_of(const struct upstream_topic *ut)
{
	return ut->topic->named.name;
}

static struct span subject_of(const struct upstream *u, const struct upstream_topic *ut,
			      char out[UPSTREAM_SUBJECT_MAX])
{
	int n = snprintf(out, UPSTREAM_SUBJECT_MAX, "%s%.*s", u->config->publish_prefix,
			 (int)name_of(ut).len, name_of(ut).data);

	return (struct span){ out, (size_t)n };
}

static void write_question(struct upstream *u, struct upstream_topic *ut)
{
	char subject[UPSTREAM_SUBJECT_MAX], body[BODY_MAX];
	size_t n;

	ut->asked_number = ut->number;
	ut->asked_last = u->stream.last;
	switch (ut->ask) {
	case ASK_NEWEST:
		n = jetstream_newest(subject_of(u, ut, subject), body, sizeof(body));
		upstream_request(u, JETSTREAM_GET, "", "l.", name_of(ut), (struct span){ body, n });
		break;
	case ASK_KEPT:
		n = jetstream_number(ut->number, body, sizeof(body));
		upstream_request(u, JETSTREAM_GET, "", "k.", name_of(ut), (struct span){ body, n });
		break;
	case ASK_CONSUMER:
		ut->repair_sid =
			upstream_consume(u, 'd', name_of(ut), ut->number + 1, "c.", name_of(ut));
		break;
	case ASK_NOTHING:
	default:
		break;
	}
}

bool upstream_log_write(struct upstream *u)
{
	while (u->state == UPSTREAM_UP && !list_empty(&u->asks) && u->asking_n < ASKING_MAX) {
		struct upstream_topic *ut = LIST_ENTRY(u->asks.next, struct upstream_topic, asks);

		if (is_past(u, ut))
			continue;
		list_remove(&ut->asks);
		list_append(&u->asking, &ut->asks);
		u->asking_n++;
		ut->asked_ns = upstream_now(u);
		write_question(u, ut);
		reactor_spend(&u->shard->reactor, ASK_COST);
		if (reactor_spent(&u->shard->reactor))
			return !list_empty(&u->asks) && u->asking_n < ASKING_MAX;
	}
	return false;
}

/* ---- what is missing ---- */

static void park_free(struct upstream_topic *ut, struct parked *p)
{
	list_remove(&p->link);
	ut->parked_bytes -= p->bytes;
	memory_free(p);
}

static struct parked *first_parked(const struct upstream_topic *ut)
{
	return list_empty(&ut->parked) ? NULL : LIST_ENTRY(ut->parked.next, struct parked, link);
}

static void expect(struct upstream_topic *ut, uint64_t number)
{
	if (number > ut->target)
		ut->target = number;
}

/* Behind those with smaller numbers. */
static void park(struct upstream_topic *ut, const struct jetstream_place *place,
		 struct span headers, struct span payload)
{
	size_t bytes = headers.len + payload.len;
	struct parked *p =
		ut->parked_bytes + bytes <= PARKED_MAX ? memory_new(sizeof(*p) + bytes) : NULL;
	struct list *at = &ut->parked;

	expect(ut, place->number);
	if (p == NULL)
		return; /* it is fetched, then */
	p->place = *place;
	p->header_bytes = headers.len;
	p->bytes = bytes;
	if (headers.len > 0)
		memcpy(p->data, headers.data, headers.len);
	if (payload.len > 0)
		memcpy(p->data + headers.len, payload.data, payload.len);
	while (at->prev != &ut->parked &&
	       LIST_ENTRY(at->prev, struct parked, link)->place.number > place->number)
		at = at->prev;
	list_append(at, &p->link);
	ut->parked_bytes += bytes;
}

/* Something of it is missing; it is waited for a little before it is fetched. */
static void missing(struct upstream *u, struct upstream_topic *ut)
{
	if (ut->hole_ns != 0)
		return;
	u->shard->counters.upstream_holes++;
	ut->hole_ns = upstream_now(u);
	if (list_empty(&ut->hole))
		list_append(&u->holes, &ut->hole);
}

static void stop_repair(struct upstream *u, struct upstream_topic *ut)
{
	char text[64];
	int n;

	list_remove(&ut->hole);
	if (ut->repair_ns == 0)
		return;
	ut->repair_ns = 0;
	u->repairs_n--;
	if (ut->repair_sid == 0)
		return;
	n = snprintf(text, sizeof(text), "UNSUB %" PRIu64 "\r\n", ut->repair_sid);
	upstream_put(u, (struct span){ text, (size_t)n });
	ut->repair_sid = 0;
	if (ut->consumer[0] == 0)
		return;
	n = snprintf(text, sizeof(text), ".%s", ut->consumer);
	upstream_request(u, JETSTREAM_FORGET, text, "f", (struct span){ NULL, 0 },
			 (struct span){ NULL, 0 });
	ut->consumer[0] = 0;
}

/* From the last message that has come on. */
static void start_repair(struct upstream *u, struct upstream_topic *ut)
{
	stop_repair(u, ut);
	ut->repair_ns = upstream_now(u);
	ut->repair_count = 0;
	u->repairs_n++;
	list_append(&u->repairs, &ut->hole);
	/* Whether it still has the last one, or something behind that has gone as well. */
	ask(u, ut, ut->number > 0 ? ASK_KEPT : ASK_CONSUMER);
}

static void whole(struct upstream *u, struct upstream_topic *ut)
{
	if (ut->repair_ns != 0)
		u->shard->counters.upstream_repaired++;
	stop_repair(u, ut);
	ut->hole_ns = 0;
	ut->repair_bytes = 0;
	/* Where its end is, is about to be told. */
	if (ut->ask == ASK_NEWEST)
		return;
	ask(u, ut, ASK_NOTHING);
	list_remove(&ut->tail);
	ut->tail_ns = upstream_now(u);
	list_append(&u->tails, &ut->tail);
	if (ut->state == UPSTREAM_CATCHING || ut->first != NULL)
		upstream_stands(u, ut);
}

/* Whether all that is known to be there has come. */
static bool is_whole(const struct upstream_topic *ut)
{
	return list_empty(&ut->parked) && ut->number >= ut->target;
}

static void gap(struct upstream *u, struct upstream_topic *ut, enum upstream_gap why)
{
	upstream_deliver(u);
	ut->missed = false;
	ut->why = UPSTREAM_GAP_LOST;
	u->shard->counters.upstream_gaps[why]++;
	log_warn(
		"upstream: reactor %u: a gap in %.*s behind %" PRIu64 ": %s", u->shard->id,
		(int)name_of(ut).len, name_of(ut).data, ut->number,
		(const char *const[]){ [UPSTREAM_GAP_GONE] = "the stream has no more of it",
				       [UPSTREAM_GAP_TIME] = "it could not be fetched in time",
				       [UPSTREAM_GAP_BYTES] = "it is too much to be fetched",
				       [UPSTREAM_GAP_CHANGED] = "the stream is another one" }[why]);
	home_gap(u->shard, ut->topic, ut->epoch, ut->number);
}

static void take(struct upstream *u, struct upstream_topic *ut, const struct upstream_message *m)
{
	ut->number = m->number;
	expect(ut, m->number);
	if (m->number > ut->confirmed)
		ut->confirmed = m->number;
	if (upstream_id_came(ut, nats_header(m->headers, SPAN("Nats-Msg-Id"))))
		u->shard->counters.upstream_duplicates++;
	else
		upstream_take(u, ut, m);
}

/* Delivers what was parked as far as it follows on. */
static void unpark(struct upstream *u, struct upstream_topic *ut)
{
	struct parked *p;

	while ((p = first_parked(ut)) != NULL && p->place.before <= ut->number) {
		const struct upstream_message m = {
			.number = p->place.number,
			.headers = { p->data, p->header_bytes },
			.payload = { p->data + p->header_bytes, p->bytes - p->header_bytes },
		};

		if (m.number > ut->number)
			take(u, ut, &m);
		park_free(ut, p);
	}
}

static void settle(struct upstream *u, struct upstream_topic *ut)
{
	unpark(u, ut);
	if (is_whole(ut)) {
		if (ut->hole_ns != 0)
			whole(u, ut);
	} else {
		missing(u, ut);
	}
}

/* What is missing is not to be had: on with what there is behind it. */
static void skip(struct upstream *u, struct upstream_topic *ut, enum upstream_gap why)
{
	const struct parked *p = first_parked(ut);

	ut->number = p != NULL ? p->place.before : ut->target;
	ut->skipped = ut->number;
	gap(u, ut, why);
	stop_repair(u, ut);
	ut->hole_ns = 0;
	ut->repair_bytes = 0;
	ask(u, ut, ASK_NOTHING);
	unpark(u, ut);
	if (is_whole(ut))
		whole(u, ut);
	else
		missing(u, ut);
}

/* ---- messages ---- */

void upstream_log_live(struct upstream *u, struct upstream_topic *ut, const struct nats_said *said,
		       struct span headers, struct span payload)
{
	struct upstream_message m = { .headers = headers, .payload = payload };
	struct jetstream_place place;

	(void)said;
	/* Somebody else publishes under deliver_prefix. */
	if (!jetstream_place(headers, &place))
		return;
	if (ut->epoch != u->epoch) {
		expect(ut, place.number);
		return;
	}
	if (place.number <= ut->number) {
		u->shard->counters.upstream_duplicates++;
		/* Or the stream is another one by now. */
		if (upstream_now(u) - u->stream_asked_ns > NS_PER_S)
			ask_stream(u);
		return;
	}
	m.number = place.number;
	/* All before it has gone by now: nothing is missing to whoever has listened. */
	if (place.before == 0)
		place.before = ut->state == UPSTREAM_STANDS && ut->hole_ns == 0 ? ut->number
										: place.number - 1;
	if (place.before == ut->number) {
		take(u, ut, &m);
		if (ut->hole_ns != 0)
			settle(u, ut);
	} else if (place.before > ut->number) {
		park(ut, &place, headers, payload);
		missing(u, ut);
	} else {
		u->contradicted = true;
	}
}

void upstream_log_fetched(struct upstream *u, struct upstream_topic *ut,
			  const struct nats_said *said, struct span headers, struct span payload)
{
	struct upstream_message m = { .headers = headers, .payload = payload };
	struct jetstream_delivery d;

	if (!jetstream_delivery(said->reply, &d))
		return;
	ut->repair_bytes += headers.len + payload.len;
	if (++ut->repair_count != d.count) {
		/* Some of its messages have been lost on the way. */
		start_repair(u, ut);
		return;
	}
	if (ut->repair_bytes > u->config->repair_bytes) {
		skip(u, ut, UPSTREAM_GAP_BYTES);
		return;
	}
	ut->repair_ns = upstream_now(u);
	list_remove(&ut->hole);
	list_append(&u->repairs, &ut->hole);
	if (d.number <= ut->number)
		return;
	m.number = d.number;
	take(u, ut, &m);
	settle(u, ut);
}

/* ---- answers ---- */

/* Its first look at this log. */
static void begin_topic(struct upstream *u, struct upstream_topic *ut, uint64_t newest)
{
	bool known = ut->epoch != 0;

	ut->epoch = u->epoch;
	ut->number = newest;
	ut->confirmed = ut->asked_last > newest ? ut->asked_last : newest;
	ut->skipped = newest;
	expect(ut, newest);
	if (known)
		gap(u, ut, UPSTREAM_GAP_CHANGED);
	else
		home_gap(u->shard, ut->topic, ut->epoch, newest);
}

/* Nobody has missed what came while nobody was here. */
static void pass_over(struct upstream *u, struct upstream_topic *ut, uint64_t newest)
{
	ut->number = newest;
	ut->skipped = newest;
	home_gap(u->shard, ut->topic, ut->epoch, newest);
}

void upstream_log_bear(struct upstream *u, struct upstream_topic *ut, uint64_t before)
{
	ut->asked_last = 0;
	if (ut->epoch != u->epoch)
		begin_topic(u, ut, before);
	else if (ut->number < before)
		pass_over(u, ut, before);
	if (ut->state != UPSTREAM_STANDS)
		return;
	ut->tail_ns = upstream_now(u);
	list_remove(&ut->tail);
	list_append(&u->tails, &ut->tail);
}

void upstream_log_bring(struct upstream *u, struct upstream_topic *ut, uint64_t number,
			struct span headers, struct span payload)
{
	const struct upstream_message m = { .number = number,
					    .headers = headers,
					    .payload = payload };

	if (number > ut->number)
		take(u, ut, &m);
}

static void newest_told(struct upstream *u, struct upstream_topic *ut, uint64_t newest)
{
	if (ut->epoch != u->epoch) {
		begin_topic(u, ut, newest);
	} else if (newest != 0 && newest < ut->asked_number) {
		u->contradicted = true;
		return;
	} else if (newest == 0 && ut->asked_number > 0 && ut->state == UPSTREAM_CATCHING &&
		   u->stream.first > ut->confirmed + 1) {
		/* All of it is too old by now, what came meanwhile perhaps, too. */
		gap(u, ut, UPSTREAM_GAP_GONE);
	} else if (newest > ut->number && ut->state == UPSTREAM_CATCHING &&
		   ut->topic->shards_n == 0 && ut->bearer == 0 && !upstream_past_wanted(ut) &&
		   list_empty(&ut->unwritten)) {
		pass_over(u, ut, newest);
	}
	expect(ut, newest);
	if (ut->number >= newest && ut->asked_last > ut->confirmed)
		ut->confirmed = ut->asked_last;
	unpark(u, ut);
	if (is_whole(ut))
		whole(u, ut);
	else
		missing(u, ut);
}

static void kept_told(struct upstream *u, struct upstream_topic *ut, uint64_t number)
{
	/* It is told where what is left begins. */
	if (number == 0) {
		ut->missed = true;
		ut->why = UPSTREAM_GAP_GONE;
	}
	ask(u, ut, ASK_CONSUMER);
}

static void consumer_told(struct upstream *u, struct upstream_topic *ut, struct span json)
{
	struct span name = jetstream_consumer_name(json);

	ask(u, ut, ASK_NOTHING);
	/* Where it has failed nothing comes, and it is tried again. */
	if (ut->repair_ns == 0 || name.len == 0 || name.len >= sizeof(ut->consumer))
		return;
	memcpy(ut->consumer, name.data, name.len);
	ut->consumer[name.len] = 0;
}

/* Other hosts have the same one. 0: out of memory. */
static uint64_t epoch_of(const struct upstream *u)
{
	char text[sizeof(u->stream.created) + sizeof(u->stream.description) + 256];
	struct digest digest;
	uint64_t epoch = 0;
	int n = snprintf(text, sizeof(text), "%s\n%s\n%s", u->config->stream, u->stream.created,
			 u->stream.description);

	if (!digest_of((struct span){ text, (size_t)n }, &digest))
		return 0;
	for (size_t i = 0; i < sizeof(epoch); i++)
		epoch = epoch << 8 | digest.bytes[i];
	epoch ^= u->salt;
	return epoch != 0 ? epoch : 1;
}

static void stream_told(struct upstream *u, struct span json)
{
	struct jetstream_wanted wanted;
	char wrong[512];
	bool first = u->stream_told_ns == 0;
	uint64_t epoch;

	if (!jetstream_stream(json, &u->stream)) {
		u->lose(u, "it says nothing of a stream");
		return;
	}
	if (u->stream.error == JETSTREAM_NONE && u->config->create && !u->create_asked) {
		create_stream(u);
		return;
	}
	if (u->stream.error != 0) {
		snprintf(wrong, sizeof(wrong), "stream %s: %s", u->config->stream, u->stream.wrong);
		/* Without a leader it may have one soon. */
		if (u->stream.error == JETSTREAM_NONE)
			u->lose(u, wrong);
		return;
	}
	wanted_of(u, &wanted);
	if (jetstream_stream_wrong(&u->stream, &wanted, wrong, sizeof(wrong))) {
		u->lose(u, wrong);
		return;
	}
	epoch = epoch_of(u);
	if (epoch == 0) {
		u->lose(u, "out of memory");
		return;
	}
	if (!first && epoch != u->epoch) {
		u->lose(u, "the stream is another one");
		return;
	}
	if (u->epoch != 0 && epoch != u->epoch)
		u->shard->counters.upstream_log_changed++;
	u->stream_before = u->epoch == epoch ? u->stream_last : 0;
	u->stream_last = u->stream.last;
	u->epoch = epoch;
	u->stream_told_ns = upstream_now(u);
}

void upstream_log_answer(struct upstream *u, struct span subject, struct span headers,
			 struct span payload)
{
	char kind = subject.len > 0 ? *subject.data : 0;
	struct upstream_topic *ut;
	struct jetstream_ack ack;
	uint64_t number;

	if (kind == 's') {
		/* Nobody is there: as long as there is no leader. */
		if (jetstream_status(headers) == 0)
			stream_told(u, payload);
		return;
	}
	if (u->state == UPSTREAM_UP && (kind == 't' || kind == 'u'))
		upstream_changed_answer(u, kind, headers, payload);
	if (subject.len < 3 || u->state != UPSTREAM_UP)
		return;
	subject = span_skip(subject, 2);
	if (kind == 'a') {
		if (jetstream_status(headers) == 0 && jetstream_ack(payload, &ack))
			upstream_publish_acknowledged(u, subject, &ack);
		return;
	}
	ut = upstream_topic_named(u, subject);
	if (ut == NULL || ut->asked_ns == 0 || jetstream_status(headers) != 0)
		return;
	if (kind == 'c' && ut->ask == ASK_CONSUMER) {
		consumer_told(u, ut, payload);
	} else if (kind == 'l' && ut->ask == ASK_NEWEST && jetstream_found(payload, &number)) {
		ask(u, ut, ASK_NOTHING);
		newest_told(u, ut, number);
	} else if (kind == 'k' && ut->ask == ASK_KEPT && jetstream_found(payload, &number)) {
		ask(u, ut, ASK_NOTHING);
		kept_told(u, ut, number);
	}
}

void upstream_log_look(struct upstream *u, struct upstream_topic *ut)
{
	list_remove(&ut->tail);
	if (ut->ask == ASK_NOTHING)
		ask(u, ut, ASK_NEWEST);
}

/* ---- time ---- */

/* What has not been answered is asked again. */
static void expire_asking(struct upstream *u, uint64_t *next_ns)
{
	while (!list_empty(&u->asking)) {
		struct upstream_topic *ut = LIST_ENTRY(u->asking.next, struct upstream_topic, asks);

		if (upstream_now(u) - ut->asked_ns < again_ns) {
			sooner(next_ns, ut->asked_ns + again_ns);
			return;
		}
		if (ut->ask == ASK_CONSUMER)
			start_repair(u, ut);
		else
			ask(u, ut, ut->ask);
	}
}

/* Too much time has gone by for what is missing. */
static bool is_over(const struct upstream *u, const struct upstream_topic *ut)
{
	return upstream_now(u) - ut->hole_ns >= u->config->repair_seconds * NS_PER_S;
}

static void expire_holes(struct upstream *u, uint64_t *next_ns)
{
	while (!list_empty(&u->holes) && u->repairs_n < REPAIRS_MAX) {
		struct upstream_topic *ut = LIST_ENTRY(u->holes.next, struct upstream_topic, hole);

		if (upstream_now(u) - ut->hole_ns < hole_ns) {
			sooner(next_ns, ut->hole_ns + hole_ns);
			return;
		}
		list_remove(&ut->hole);
		if (is_past(u, ut))
			continue;
		/* Until its end is known nothing is done about it. */
		if (ut->state < UPSTREAM_CATCHING || ut->ask == ASK_NEWEST)
			ut->hole_ns = 0;
		else if (is_whole(ut))
			whole(u, ut);
		else if (is_over(u, ut))
			skip(u, ut, UPSTREAM_GAP_TIME);
		else
			start_repair(u, ut);
		reactor_spend(&u->shard->reactor, ASK_COST);
	}
}

/* A replica that lags, or a consumer that has gone with its server. */
static void expire_repairs(struct upstream *u, uint64_t *next_ns)
{
	while (!list_empty(&u->repairs)) {
		struct upstream_topic *ut =
			LIST_ENTRY(u->repairs.next, struct upstream_topic, hole);

		if (upstream_now(u) - ut->repair_ns < stuck_ns) {
			sooner(next_ns, ut->repair_ns + stuck_ns);
			return;
		}
		if (is_over(u, ut))
			skip(u, ut, UPSTREAM_GAP_TIME);
		else
			start_repair(u, ut);
	}
}

static void expire_tails(struct upstream *u, uint64_t *next_ns)
{
	uint64_t tail_ns = u->config->tail_seconds * NS_PER_S;

	while (!list_empty(&u->tails)) {
		struct upstream_topic *ut = LIST_ENTRY(u->tails.next, struct upstream_topic, tail);
		uint64_t looked_ns = ut->tail_ns;

		if (upstream_now(u) - looked_ns < tail_ns) {
			sooner(next_ns, looked_ns + tail_ns);
			return;
		}
		if (is_past(u, ut))
			continue;
		list_remove(&ut->tail);
		ut->tail_ns = upstream_now(u);
		/* Nothing at all has come to the stream since. */
		if (u->stream_told_ns > looked_ns && u->stream.last <= ut->confirmed)
			list_append(&u->tails, &ut->tail);
		else
			upstream_log_look(u, ut);
		reactor_spend(&u->shard->reactor, ASK_COST);
		if (reactor_spent(&u->shard->reactor)) {
			*next_ns = upstream_now(u);
			return;
		}
	}
}

void upstream_log_expire(struct upstream *u, uint64_t *next_ns)
{
	uint64_t often_ns = u->state == UPSTREAM_UP ? u->config->tail_seconds * NS_PER_S : NS_PER_S;

	if (u->state < UPSTREAM_CHECKING)
		return;
	if (upstream_now(u) - u->stream_asked_ns >= often_ns)
		ask_stream(u);
	sooner(next_ns, u->stream_asked_ns + often_ns);
	if (u->state < UPSTREAM_UP)
		return;
	expire_asking(u, next_ns);
	expire_holes(u, next_ns);
	expire_repairs(u, next_ns);
	expire_tails(u, next_ns);
	upstream_changed_expire(u, next_ns);
}

/* ---- begin and end ---- */

bool upstream_log_checked(const struct upstream *u)
{
	return u->stream_told_ns != 0;
}

void upstream_log_begin(struct upstream *u)
{
	char text[UPSTREAM_INBOX_MAX + 16];
	int n;

	u->stream_told_ns = 0;
	u->create_asked = false;
	u->contradicted = false;
	u->moving_ns = 0;
	snprintf(u->inbox, sizeof(u->inbox), "_INBOX.%s.%" PRIu64 ".", u->nonce, u->nth + 1);
	n = snprintf(text, sizeof(text), "SUB %s> %d\r\n", u->inbox, UPSTREAM_INBOX_SID);
	upstream_put(u, (struct span){ text, (size_t)n });
	ask_stream(u);
}

void upstream_log_topic(struct upstream_topic *ut)
{
	list_init(&ut->parked);
	list_init(&ut->asks);
	list_init(&ut->hole);
	list_init(&ut->tail);
	list_init(&ut->past.link);
	list_init(&ut->past.blocks);
}

void upstream_log_leave(struct upstream *u, struct upstream_topic *ut)
{
	ask(u, ut, ASK_NOTHING);
	stop_repair(u, ut);
	ut->hole_ns = 0;
	ut->repair_bytes = 0;
	ut->target = ut->number;
	list_remove(&ut->tail);
	while (!list_empty(&ut->parked))
		park_free(ut, first_parked(ut));
}

void upstream_log_lost(struct upstream *u)
{
	while (!list_empty(&u->asking))
		upstream_log_leave(u, LIST_ENTRY(u->asking.next, struct upstream_topic, asks));
	while (!list_empty(&u->repairs))
		upstream_log_leave(u, LIST_ENTRY(u->repairs.next, struct upstream_topic, hole));
}

void upstream_log_init(struct upstream *u)
{
	list_init(&u->asks);
	list_init(&u->asking);
	list_init(&u->holes);
	list_init(&u->repairs);
	list_init(&u->tails);
	list_init(&u->pasts);
	list_init(&u->pasts_asked);
	/* Topics have later ones. */
	u->sids = UPSTREAM_REPLIES_SID;
}
