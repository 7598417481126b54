#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "broker/home.h"
#include "broker/retained.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "session/mqtt.h"
#include "session/shared.h"
#include "topic/block.h"

/*
 * SUBSCRIBE and UNSUBSCRIBE: one at a time, filter by filter, and the answer when each of them has
 * been decided; behind it the retained messages, as the client takes them.
 */

enum {
	FILTERS_AT_ONCE = 32,
	GIVE_BYTES = 64 << 10, /* of retained messages that wait to be sent */
	BLOCKS_MIN = 8,
};

/* A packet that is not answered yet. */
struct mqtt_pending {
	uint16_t id;
	uint8_t type;         /* enum mqtt_type: of the answer */
	uint32_t n, at;       /* filters; how many have been looked at */
	uint32_t outstanding; /* of those, not decided */
	size_t left;          /* bytes of filters */
	bool behind;          /* messages of what has ended are still to come before the answer */
	char bytes[];         /* room for the answer's head; a code for each */
};

/* Retained messages for a client. */
struct mqtt_giving {
	struct block **blocks; /* held, from `at` on */
	uint32_t at, n, room;
	uint32_t letters_n;              /* under way */
	struct retained_letter *letters; /* that are sent again when all that has come is given */
};

static void set_code(struct mqtt_pending *p, uint32_t at, unsigned code)
{
	p->bytes[MQTT_SUBACK_HEAD_MAX + at] = (char)code;
}

/* ---- by filter ---- */

static struct mqtt_subscription *find(const struct mqtt_session *m, struct span filter)
{
	return (struct mqtt_subscription *)(void *)few_find(
		&m->subscriptions, hash_bytes(filter.data, filter.len), filter);
}

static struct mqtt_subscription *subscription_for(struct mqtt_session *m, struct span filter)
{
	struct mqtt_subscription *s =
		memory_new_zeroed(offsetof(struct mqtt_subscription, filter) + filter.len);

	if (s == NULL)
		return NULL;
	memcpy(s->filter, filter.data, filter.len);
	s->named.name = (struct span){ s->filter, filter.len };
	s->named.hash = hash_bytes(filter.data, filter.len);
	if (few_add(&m->subscriptions, &s->named) == 0)
		return s;
	memory_free(s);
	return NULL;
}

static void forget(struct mqtt_session *m, struct mqtt_subscription *s)
{
	few_remove(&m->subscriptions, &s->named);
	memory_free(s);
}

/* ---- the answer ---- */

static void answer_if_done(struct mqtt_session *m)
{
	struct mqtt_pending *p = m->work->pending;
	size_t codes = m->level == MQTT_5 || p->type == MQTT_SUBACK ? p->n : 0, n;
	char head[MQTT_SUBACK_HEAD_MAX], *at;

	if (p->at < p->n || p->outstanding > 0 || p->behind ||
	    mqtt_connection(m)->state != CONNECTION_OPEN)
		return;
	n = mqtt_put_suback(m->level, (enum mqtt_type)p->type, p->id, p->n, head);
	at = p->bytes + MQTT_SUBACK_HEAD_MAX - n;
	memcpy(at, head, n);
	m->work->pending = NULL;
	if (mqtt_transport(m)->reply(mqtt_connection(m), (struct span){ at, n + codes }) &&
	    m->work->giving != NULL)
		mqtt_give(m);
	memory_free(p);
}

/* ---- retained messages ---- */

static struct mqtt_giving *giving_of(struct mqtt_session *m)
{
	if (m->work->giving == NULL)
		m->work->giving = memory_new_zeroed(sizeof(*m->work->giving));
	return m->work->giving;
}

/* Holds the block, or lets it be where there is no memory for it. */
static void give_later(struct mqtt_session *m, struct block *b)
{
	struct mqtt_giving *g = giving_of(m);
	struct block **blocks;
	uint32_t room;

	if (g == NULL)
		return;
	if (g->n == g->room) {
		room = g->room > 0 ? 2 * g->room : BLOCKS_MIN;
		blocks = memory_resize(g->blocks, room * sizeof(struct block *));
		if (blocks == NULL)
			return;
		g->blocks = blocks;
		g->room = room;
	}
	block_ref(b, 1);
	g->blocks[g->n++] = b;
}

static void giving_free(struct mqtt_session *m)
{
	struct mqtt_giving *g = m->work->giving;

	if (g == NULL)
		return;
	for (; g->at < g->n; g->at++)
		block_unref(g->blocks[g->at]);
	for (struct retained_letter *l; (l = g->letters) != NULL;) {
		g->letters = l->next;
		retained_letter_free(l);
	}
	memory_free(g->blocks);
	memory_free(g);
	m->work->giving = NULL;
}

static void give(struct mqtt_session *m, struct block *b)
{
	struct connection *c = mqtt_connection(m);
	struct shard_counters *counters = &c->shard->counters;
	struct run run = block_run(b);
	char *out = memory_new(mqtt_retained_max(&run));
	size_t n = out != NULL ? mqtt_retained(m->level, m->maximum_packet, &run, out) : 0;

	counters->matched++;
	if (n > 0 && mqtt_transport(m)->reply(c, (struct span){ out, n }))
		counters->delivered++;
	else
		counters->dropped[out != NULL ? DROP_UNENCODABLE : DROP_MEMORY]++;
	memory_free(out);
}

static void ask_again(struct mqtt_session *m)
{
	struct shard *s = mqtt_connection(m)->shard;
	struct mqtt_giving *g = m->work->giving;

	for (struct retained_letter *l; (l = g->letters) != NULL; g->letters_n++) {
		g->letters = l->next;
		l->letter.kind = LETTER_RETAIN_FETCH;
		shard_post(s, l->home, LANE_FREE, &l->letter);
	}
}

void mqtt_give(struct mqtt_session *m)
{
	struct connection *c = mqtt_connection(m);
	struct mqtt_giving *g = m->work->giving;

	if (m->work->pending != NULL)
		return;
	while (g->at < g->n && output_unsaid(c->output) < GIVE_BYTES &&
	       c->state == CONNECTION_OPEN) {
		struct block *b = g->blocks[g->at++];

		give(m, b);
		block_unref(b);
	}
	if (c->state != CONNECTION_OPEN || g->at < g->n)
		return;
	g->at = g->n = 0;
	ask_again(m);
	if (g->letters_n == 0)
		giving_free(m);
}

/* False: out of memory. */
static bool ask_home(struct mqtt_session *m, unsigned home, enum pattern_kind kind,
		     struct span text)
{
	struct connection *c = mqtt_connection(m);
	struct shard *s = c->shard;
	struct retained_letter *l = retained_letter_new(kind, text);

	if (l == NULL)
		return false;
	l->shard = s->id;
	l->home = home;
	l->slot = c->socket.slot;
	l->generation = socket_generation(&s->sockets, &c->socket);
	m->work->giving->letters_n++;
	shard_post(s, home, LANE_FREE, &l->letter);
	return true;
}

/* Asks the home of a topic, or each for those that match a pattern, when it stands: what is
 * published from now on comes by itself. Without memory there are none. */
static void ask_for_retained(struct mqtt_session *m, struct span filter)
{
	const struct shard *s = mqtt_connection(m)->shard;
	char room[MQTT_NATIVE_MAX];
	struct span text;
	bool wild;

	if (giving_of(m) == NULL)
		return;
	(void)mqtt_filter(filter, room, &text, &wild);
	if (!wild)
		(void)ask_home(m, shard_home(s, topic_hash(text)), PATTERN_NONE, text);
	for (unsigned home = 0; wild && home < s->broker->shards_n; home++)
		if (!ask_home(m, home, PATTERN_MQTT, text))
			break;
}

void mqtt_retained_came(struct shard *s, struct retained_letter *l)
{
	struct socket *socket = socket_at(&s->sockets, l->slot, l->generation);
	struct connection *c = socket != NULL ? connection_of(socket) : NULL;
	struct mqtt_session *m = c != NULL && c->state == CONNECTION_OPEN ? mqtt_of(c) : NULL;

	if (m == NULL || m->work == NULL || m->work->giving == NULL) {
		retained_letter_free(l);
		return;
	}
	m->work->giving->letters_n--;
	for (; l->n > 0; l->n--) {
		give_later(m, l->blocks[l->n - 1]);
		block_unref(l->blocks[l->n - 1]);
	}
	if (l->whole) {
		retained_letter_free(l);
	} else {
		l->next = m->work->giving->letters;
		m->work->giving->letters = l;
	}
	mqtt_give(m);
	if (c->state == CONNECTION_OPEN && m->work->giving == NULL)
		intake_resume(m->intake);
	if (!c->socket.sending && c->output != NULL)
		connection_flush(c);
}

/* ---- SUBSCRIBE ---- */

/* It has its turn, whatever its stream waits for. */
static void hurry(struct mqtt_session *m, struct subscription *sub)
{
	if (subscription_is(sub, SUBSCRIPTION_IN_FLIGHT))
		return;
	subscription_queue(sub);
	connection_turn(mqtt_connection(m));
}

/* One that another has taken the place of still gets what it had before it: it is ended when it
 * has, and the other one has its turn. */
static void end_before(struct mqtt_session *m, struct mqtt_subscription *s)
{
	if (s->before == NULL)
		return;
	subscription_end(s->before);
	s->before = NULL;
	m->work->leaving_n--;
	hurry(m, s->subscription);
}

static void end_before_if_done(struct mqtt_session *m, struct mqtt_subscription *s)
{
	if (subscription_done(s->before))
		end_before(m, s);
	else
		hurry(m, s->before);
}

void mqtt_end_left(struct mqtt_session *m)
{
	struct named *n;

	for (size_t at = 0;
	     m->work->leaving_n > 0 && (n = few_next(&m->subscriptions, &at)) != NULL;) {
		struct mqtt_subscription *s = (struct mqtt_subscription *)(void *)n;

		if (s->before != NULL && !s->asked)
			end_before_if_done(m, s);
	}
}

void mqtt_session_missed(struct connection *c, struct subscription *sub)
{
	const struct mqtt_subscription *s = sub->session;

	if (mqtt_of(c)->work == NULL || mqtt_of(c)->work->leaving_n == 0)
		return;
	/* It goes on behind the other one all the same. */
	if (s != NULL && s->before != NULL && s->subscription == sub)
		subscription_hold(sub);
	/* There may be nothing left of the other one that will be sent. */
	c->resumes = true;
	connection_turn(c);
}

/* The core may have ended one of a connection that ends. */
static bool has(const struct connection *c, const struct subscription *sub)
{
	const struct subscription *one = c->subscriptions;

	for (uint32_t n = c->subscriptions_n; n > 0; n--, one = subscription_next(one))
		if (one == sub)
			return true;
	return false;
}

/* From here on what comes is for this one, behind what is the other one's. */
static void take_place_of(struct mqtt_session *m, struct mqtt_subscription *s)
{
	const struct connection *c = mqtt_connection(m);
	struct subscription *before = s->before;

	if (c->state == CONNECTION_OPEN) {
		m->work->leaving_n++;
		subscription_leave(before);
		subscription_hold(s->subscription);
		end_before_if_done(m, s);
		return;
	}
	/* The core ends both. */
	s->before = NULL;
	if (!has(c, before))
		return;
	hurry(m, before);
	subscription_leave(before);
	subscription_hold(s->subscription);
}

void mqtt_session_subscribed(struct connection *c, struct subscription *sub,
			     const struct subscribe_letter *l)
{
	struct mqtt_session *m = mqtt_of(c);
	struct mqtt_subscription *s = sub->session;

	s->subscription = sub;
	s->asked = false;
	if (s->before != NULL)
		take_place_of(m, s);
	m->work->pending->outstanding--;
	if (l != NULL && l->retained != NULL)
		give_later(m, l->retained);
	if (s->gives)
		ask_for_retained(m, s->named.name);
	answer_if_done(m);
}

static void refused(struct mqtt_session *m, struct mqtt_subscription *s, unsigned reason)
{
	struct mqtt_pending *p = m->work->pending;

	set_code(p, s->code, m->level == MQTT_5 ? reason : MQTT_UNSPECIFIED);
	p->outstanding--;
	s->asked = false;
	/* What there was before stays. */
	s->subscription = s->before;
	s->before = NULL;
	if (s->subscription == NULL)
		forget(m, s);
}

void mqtt_session_refused(struct connection *c, void *session, enum reason reason)
{
	(void)reason;
	refused(mqtt_of(c), session, MQTT_QUOTA);
	answer_if_done(mqtt_of(c));
}

/* What a filter asks for. */
struct asked {
	struct span name, group;
	bool pattern;
	char room[MQTT_NATIVE_MAX];
};

/* A filter that ends in "/#" is for the level before it, too. */
static bool may_subscribe(struct connection *c, const struct asked *a)
{
	struct span parent = a->name;

	if (!access_may(c, ACCESS_SUBSCRIBE, a->name, a->pattern))
		return false;
	if (!a->pattern || parent.len < 3 || parent.data[parent.len - 1] != '>')
		return true;
	parent.len -= 2;
	return access_may(c, ACCESS_SUBSCRIBE, parent, false);
}

/* MQTT_SUCCESS: it may be served. */
static unsigned look_at(struct mqtt_session *m, struct span filter, struct asked *a)
{
	struct connection *c = mqtt_connection(m);
	int share = mqtt_share(&filter, &a->group);

	if (share == 0)
		a->group = (struct span){ NULL, 0 };
	if (share < 0 || mqtt_filter(filter, a->room, &a->name, &a->pattern) != MQTT_NAME_TOPIC)
		return MQTT_BAD_FILTER;
	if (topic_internal(a->name) && c->shard->config->http.page_local_only &&
	    !connection_local(c))
		return MQTT_NOT_AUTHORIZED;
	return may_subscribe(c, a) ? MQTT_SUCCESS : MQTT_NOT_AUTHORIZED;
}

/* retained: the retained messages are wanted, which a group never gets (4.8.2). */
static void ask(struct mqtt_session *m, struct mqtt_subscription *s, const struct asked *a,
		const struct mqtt_filter *f, bool retained)
{
	struct connection *c = mqtt_connection(m);
	struct mqtt_wire w = { .retain_as_published = f->retain_as_published,
			       .maximum_packet = m->maximum_packet };
	char parameter[MQTT_PARAMETER_MAX];
	struct subscription_wanted wanted = {
		.name = a->name,
		.pattern = a->pattern ? PATTERN_MQTT : PATTERN_NONE,
		.group = a->group,
		.wire.format = mqtt_transport(m)->formats[m->level == MQTT_5],
		.replay.kind = retained && !a->pattern && a->group.len == 0 ? REPLAY_RETAINED
									    : REPLAY_NONE,
		.session = s,
	};
	struct subscription *made;
	int err;

	if (f->no_local) {
		m->unechoed = true;
		w.not_local =
			(struct run_publisher){ c->shard->id, c->socket.slot,
						socket_generation(&c->shard->sockets, &c->socket) };
	}
	wanted.wire.parameter = (struct span){ parameter, mqtt_parameter(&w, parameter) };
	s->asked = true;
	s->gives = retained && a->pattern && a->group.len == 0;
	s->before = s->subscription;
	s->subscription = NULL;
	m->work->pending->outstanding++;
	err = subscription_new(c, &wanted, &made);
	if (err != 0)
		refused(m, s, MQTT_QUOTA);
}

/* What it has stays, for what is on its way would come behind what is new
 * [MQTT-3.8.4-3]; the retained messages come once more. */
static unsigned keep(struct mqtt_session *m, struct mqtt_subscription *s, const struct asked *a,
		     bool retained)
{
	if (retained && a->group.len == 0)
		ask_for_retained(m, s->named.name);
	return MQTT_SUCCESS;
}

static unsigned subscribe(struct mqtt_session *m, const struct mqtt_filter *f)
{
	struct mqtt_subscription *s = find(m, f->filter);
	bool retained;
	struct asked a;
	unsigned reason = look_at(m, f->filter, &a);

	if (reason != MQTT_SUCCESS)
		return m->level == MQTT_5 ? reason : MQTT_UNSPECIFIED;
	/* 3.8.3.1, Retain Handling */
	retained = f->retain_handling == 0 || (f->retain_handling == 1 && s == NULL);
	if (s != NULL && s->no_local == f->no_local &&
	    s->retain_as_published == f->retain_as_published)
		return keep(m, s, &a, retained);
	if (s == NULL)
		s = subscription_for(m, f->filter);
	if (s == NULL)
		return m->level == MQTT_5 ? MQTT_QUOTA : MQTT_UNSPECIFIED;
	s->code = m->work->pending->at;
	s->no_local = f->no_local;
	s->retain_as_published = f->retain_as_published;
	set_code(m->work->pending, s->code, MQTT_SUCCESS);
	ask(m, s, &a, f, retained);
	return (unsigned char)m->work->pending->bytes[MQTT_SUBACK_HEAD_MAX + m->work->pending->at];
}

static unsigned unsubscribe(struct mqtt_session *m, struct span filter)
{
	struct mqtt_subscription *s = find(m, filter);

	if (s == NULL)
		return MQTT_NO_SUBSCRIPTION;
	if (!subscription_retire(s->subscription))
		m->work->pending->behind = true;
	forget(m, s);
	return MQTT_SUCCESS;
}

/* Whether something that the client has published may still be on its way: that goes before. */
static bool fenced(struct mqtt_session *m)
{
	struct connection *c = mqtt_connection(m);

	gather_flush(c);
	if (!c->published && !connection_barred(c))
		return false;
	intake_hold(m->intake);
	if (!connection_barred(c))
		connection_barrier(c);
	return true;
}

void mqtt_session_barrier(struct connection *c)
{
	struct mqtt_session *m = mqtt_of(c);

	if (m->work == NULL || m->work->pending == NULL)
		return;
	m->work->pending->behind = false;
	answer_if_done(m);
}

size_t mqtt_take_subscribe(struct mqtt_session *m, const struct mqtt_head *head, struct span in)
{
	struct span body = { in.data + head->bytes, head->remaining };
	struct mqtt_pending *p;
	struct mqtt_subscribe s;
	unsigned reason;

	if (fenced(m))
		return 0;
	reason = mqtt_subscribe(m->level, head, body, &s);
	if (reason == MQTT_SUCCESS && mqtt_has(&s.properties, MQTT_SUBSCRIPTION_ID))
		reason = MQTT_NO_SUBSCRIPTION_IDS;
	if (reason != MQTT_SUCCESS) {
		mqtt_fail(m, reason,
			  reason == MQTT_MALFORMED ? "malformed packet" : "protocol error");
		return 0;
	}
	p = memory_new_zeroed(sizeof(*p) + MQTT_SUBACK_HEAD_MAX + s.filters_n);
	if (p == NULL) {
		connection_error(mqtt_connection(m), REASON_MEMORY);
		return 0;
	}
	p->id = s.id;
	p->type = head->type + 1;
	p->n = s.filters_n;
	p->left = s.filters.len;
	m->work->pending = p;
	return (size_t)(s.filters.data - in.data);
}

/* Whether it has been asked for in this packet, or still takes another one's place. */
static bool in_between(const struct mqtt_session *m, struct span filter)
{
	const struct mqtt_subscription *s = find(m, filter);

	return s != NULL && (s->asked || s->before != NULL);
}

bool mqtt_go_on_with_pending(struct mqtt_session *m, struct span in, size_t *used)
{
	struct mqtt_pending *p = m->work->pending;
	bool options = p->type == MQTT_SUBACK, waits = false;
	struct span left = { in.data, p->left }, filters = left;
	struct mqtt_filter f;

	*used = 0;
	if (p->at == p->n)
		return false;
	if (in.len < p->left) {
		intake_need(m->intake, p->left);
		return true;
	}
	for (unsigned n = 0; n < FILTERS_AT_ONCE && mqtt_next_filter(&filters, options, &f); n++) {
		unsigned code;

		waits = in_between(m, f.filter);
		if (waits)
			break;
		code = options ? subscribe(m, &f) : unsubscribe(m, f.filter);
		if (mqtt_connection(m)->state != CONNECTION_OPEN)
			return true;
		set_code(p, p->at, code);
		p->at++;
		left = filters;
	}
	*used = p->left - left.len;
	p->left = left.len;
	if (p->behind && p->at == p->n)
		connection_barrier(mqtt_connection(m));
	answer_if_done(m);
	return !waits;
}

void mqtt_work_free(struct mqtt_session *m)
{
	giving_free(m);
	memory_free(m->work->pending);
}

void mqtt_subscriptions_free(struct mqtt_session *m)
{
	struct named *n;

	for (size_t at = 0; (n = few_next(&m->subscriptions, &at)) != NULL;)
		memory_free(n);
	few_release(&m->subscriptions);
}
