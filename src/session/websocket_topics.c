#include "session/websocket_topics.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/few.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/audience.h"
#include "broker/connection.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "protocol/websocket_command.h"
#include "protocol/websocket_left_out.h"
#include "protocol/websocket_wire.h"
#include "session/websocket.h"
#include "topic/interest.h"

enum {
	/* Of one socket, that leave something out: beyond, "too many patterns". So many are asked
	 * for anew at most when one goes. */
	LEAVING_OUT_MAX = 1024,
	LOOK_AT_ONCE = 256, /* names; after more, the next command has to wait for its turn */
};

/* What is more of one that is a pattern or leaves something out, or has missed something. */
struct overlap {
	struct wanted_topic *wanted;
	struct list pattern;             /* among the patterns */
	struct list leaving_out;         /* among those that leave something out, by their order */
	struct subscription *takes_over; /* that is asked for anew; or NULL */
	struct subscription *before;     /* that it has taken over from, and is behind; or NULL */
	struct wanted_topic *missed;     /* the next of those that have to be told of a gap */
	uint64_t goes_on;                /* with this number; 0: no gap is to be told of */
	uint64_t epoch;                  /* then: of that */
	/* The same, where it is to be told when all has gone out of what it has taken over from. */
	uint64_t goes_on_later;
	struct list behind; /* then: among those that have */
};

/* One that it has asked for, by its name; the subscription refers to it. */
struct wanted_topic {
	struct named named;                /* first */
	struct subscription *subscription; /* NULL: the home has not answered */
	uint64_t order;                    /* they were asked for in */
	struct overlap *overlap;           /* NULL: there is nothing of that */
	char name[];
};

/* One that goes when all that takes over stands and all has been sent that came before that; and
 * then this is said. */
struct going {
	struct wanted_topic *wanted;
	bool taken_over;    /* what comes is for the others, as soon as they may have it */
	uint64_t number;    /* then: of the last message that was for it, */
	struct list behind; /* and those that are behind what they have taken over from */
	size_t word_len;
	char word[];
};

struct websocket_topics {
	struct few wanted; /* struct wanted_topic */
	struct list patterns, leaving_out;
	unsigned leaving_out_n;
	uint64_t order;
	struct wanted_topic *missed;
	struct going *going; /* or NULL */
};

static struct websocket_topics *topics_of(const struct connection *c)
{
	return websocket_of(c)->topics;
}

static struct wanted_topic *find(const struct connection *c, struct span name)
{
	return (struct wanted_topic *)(void *)few_find(&topics_of(c)->wanted,
						       hash_bytes(name.data, name.len), name);
}

static struct wanted_topic *of_pattern(struct list *l)
{
	return LIST_ENTRY(l, struct overlap, pattern)->wanted;
}

static struct wanted_topic *of_leaving_out(struct list *l)
{
	return LIST_ENTRY(l, struct overlap, leaving_out)->wanted;
}

static struct wanted_topic *of_behind(struct list *l)
{
	return LIST_ENTRY(l, struct overlap, behind)->wanted;
}

static bool goes(const struct websocket_topics *t, const struct wanted_topic *w)
{
	return t->going != NULL && t->going->wanted == w;
}

static bool leaves_out(const struct wanted_topic *w)
{
	return w->overlap != NULL && !list_empty(&w->overlap->leaving_out);
}

static bool is_pattern(const struct wanted_topic *w)
{
	return w->overlap != NULL && !list_empty(&w->overlap->pattern);
}

static void stop_leaving_out(struct websocket_topics *t, struct wanted_topic *w)
{
	if (!leaves_out(w))
		return;
	list_remove(&w->overlap->leaving_out);
	t->leaving_out_n--;
}

/* It has an overlap. */
static void forget_missed(struct websocket_topics *t, const struct wanted_topic *w)
{
	struct wanted_topic **at = &t->missed;

	while (w->overlap->goes_on != 0 && *at != NULL && *at != w)
		at = &(*at)->overlap->missed;
	if (w->overlap->goes_on != 0 && *at != NULL)
		*at = w->overlap->missed;
}

/* False: out of memory. */
static bool make_overlap(struct wanted_topic *w)
{
	if (w->overlap != NULL)
		return true;
	w->overlap = memory_new_zeroed(sizeof(*w->overlap));
	if (w->overlap == NULL)
		return false;
	w->overlap->wanted = w;
	list_init(&w->overlap->pattern);
	list_init(&w->overlap->leaving_out);
	list_init(&w->overlap->behind);
	return true;
}

static void forget(struct websocket_topics *t, struct wanted_topic *w)
{
	stop_leaving_out(t, w);
	if (w->overlap != NULL) {
		forget_missed(t, w);
		list_remove(&w->overlap->pattern);
	}
	memory_free(w->overlap);
	few_remove(&t->wanted, &w->named);
	memory_free(w);
}

/* ---- who leaves out what ---- */

/* Long looks are taken one in a turn. */
static void looked(struct connection *c, size_t n)
{
	reactor_spend(&c->shard->reactor, n / 16);
	if (n <= LOOK_AT_ONCE)
		return;
	websocket_of(c)->busy = true;
	c->resumes = true;
	connection_turn(c);
}

/* False: that is too much. */
static bool leave_out_names(const struct websocket_topics *t, const struct wanted_topic *w,
			    struct left_out *l)
{
	struct named *n;

	for (size_t at = 0; (n = few_next(&t->wanted, &at)) != NULL;) {
		struct wanted_topic *other = (struct wanted_topic *)(void *)n;

		/* What an earlier pattern brings, that pattern has it left out for. */
		if (other->order >= w->order || goes(t, other) || is_pattern(other) ||
		    leaves_out(other) || !name_matches(w->named.name, n->name))
			continue;
		if (l->names_n == LEFT_OUT_NAMES_MAX)
			return false;
		l->names[l->names_n++] = n->name;
	}
	return true;
}

/* What those bring that were asked for before it. False: that is too much. */
static bool leave_out(struct connection *c, const struct wanted_topic *w, struct left_out *l)
{
	struct websocket_topics *t = topics_of(c);
	size_t n = 0;

	l->names_n = l->patterns_n = 0;
	for (struct list *at = t->patterns.next; at != &t->patterns; at = at->next, n++) {
		const struct wanted_topic *other = of_pattern(at);

		if (other->order >= w->order || goes(t, other) ||
		    !name_patterns_overlap(other->named.name, w->named.name))
			continue;
		if (l->patterns_n == LEFT_OUT_PATTERNS_MAX)
			return false;
		l->patterns[l->patterns_n++] = other->named.name;
	}
	if (is_pattern(w))
		n += few_n(&t->wanted);
	looked(c, n);
	return !is_pattern(w) || leave_out_names(t, w, l);
}

/* The wire of one that leaves this out; its parameter is the caller's to free. False: out of
 * memory. */
static bool wire_for(struct left_out *l, struct wire *wire)
{
	size_t bytes = left_out_bytes(l);
	char *parameter = NULL;

	*wire = (struct wire){ .format = &websocket_json_format };
	if (bytes == 0)
		return true;
	parameter = memory_new(bytes);
	if (parameter == NULL)
		return false;
	left_out_put(l, parameter);
	wire->parameter = (struct span){ parameter, bytes };
	return true;
}

static void wire_free(struct wire *wire)
{
	memory_free((void *)(uintptr_t)wire->parameter.data);
}

/* ---- what is said ---- */

static void say_subscribed(struct connection *c, const struct wanted_topic *w)
{
	const struct interest *i = subscription_interest(w->subscription);
	char out[WEBSOCKET_ANSWER_MAX];

	/* Where it stands: what is published from now on has a higher number. */
	websocket_json_say(c, out,
			   websocket_answer("subscribed", w->named.name, i->epoch, i->number,
					    (struct span){ NULL, 0 }, out));
}

bool websocket_topics_has(struct connection *c, struct span name)
{
	return find(c, name) != NULL;
}

void websocket_topics_say(struct connection *c, struct span name)
{
	struct wanted_topic *w = find(c, name);

	/* One that is asked for says it when it stands. */
	if (w->subscription != NULL)
		say_subscribed(c, w);
}

bool websocket_topics_wild(const struct connection *c)
{
	return !list_empty(&topics_of(c)->patterns);
}

/* ---- subscribe ---- */

static struct wanted_topic *wanted_new(struct websocket_topics *t, struct span name, bool pattern)
{
	struct wanted_topic *w = memory_new_zeroed(sizeof(*w) + name.len);

	if (w == NULL)
		return NULL;
	memcpy(w->name, name.data, name.len);
	w->named.name = (struct span){ w->name, name.len };
	w->named.hash = hash_bytes(name.data, name.len);
	w->order = ++t->order;
	if ((pattern || !list_empty(&t->patterns)) && !make_overlap(w)) {
		memory_free(w);
		return NULL;
	}
	if (few_add(&t->wanted, &w->named) != 0) {
		memory_free(w->overlap);
		memory_free(w);
		return NULL;
	}
	if (pattern)
		list_append(&t->patterns, &w->overlap->pattern);
	return w;
}

static enum reason ask(struct connection *c, struct wanted_topic *w, const struct replay *replay,
		       const struct wire *wire, struct subscription **made)
{
	const struct subscription_wanted wanted = { .name = w->named.name,
						    .pattern = is_pattern(w) ? PATTERN_NATIVE
									     : PATTERN_NONE,
						    .wire = *wire,
						    .replay = *replay,
						    .session = w,
						    .later = w->subscription != NULL };
	int err = subscription_new(c, &wanted, made);

	return err == 0          ? REASON_NONE
	       : err == -ENOSPC  ? REASON_SUBSCRIPTIONS
	       : err == -ENOBUFS ? REASON_CONNECTIONS
				 : REASON_MEMORY;
}

enum reason websocket_topics_subscribe(struct connection *c, struct span name, bool pattern,
				       const struct replay *replay)
{
	struct websocket_topics *t = topics_of(c);
	struct wanted_topic *w = wanted_new(t, name, pattern);
	struct subscription *made;
	struct left_out l;
	struct wire wire;
	enum reason reason = REASON_MEMORY;

	if (w == NULL)
		return REASON_MEMORY;
	if (!leave_out(c, w, &l) || (!left_out_empty(&l) && t->leaving_out_n == LEAVING_OUT_MAX)) {
		forget(t, w);
		return REASON_PATTERNS;
	}
	if (!left_out_empty(&l)) {
		list_append(&t->leaving_out, &w->overlap->leaving_out);
		t->leaving_out_n++;
	}
	if (wire_for(&l, &wire)) {
		reason = ask(c, w, replay, &wire, &made);
		wire_free(&wire);
	}
	if (reason != REASON_NONE)
		forget(t, w);
	return reason;
}

void websocket_topics_subscribed(struct connection *c, struct subscription *sub,
				 const struct subscribe_letter *l)
{
	struct wanted_topic *w = sub->session;
	char out[WEBSOCKET_ANSWER_MAX];

	w->subscription = sub;
	say_subscribed(c, w);
	if (l != NULL && l->gap != 0 && c->state != CONNECTION_CLOSED)
		websocket_json_say(c, out,
				   websocket_answer_gap(w->named.name, l->epoch, l->gap, out));
}

/* Those that were to take over are ended, and all is as it was. */
static void stay(struct connection *c, enum reason reason)
{
	struct websocket_topics *t = topics_of(c);
	const struct wanted_topic *going = t->going->wanted;

	memory_free(t->going);
	t->going = NULL;
	for (struct list *l = t->leaving_out.next; l != &t->leaving_out; l = l->next) {
		struct overlap *o = of_leaving_out(l)->overlap;

		if (o->takes_over != NULL)
			subscription_end(o->takes_over);
		o->takes_over = NULL;
	}
	websocket_json_error(c, websocket_json_reason(reason), going->named.name,
			     (struct span){ NULL, 0 });
}

void websocket_topics_refused(struct connection *c, void *session, enum reason reason)
{
	struct wanted_topic *w = session;

	if (w->subscription != NULL) {
		w->overlap->takes_over = NULL;
		stay(c, reason);
	} else {
		websocket_json_error(c, websocket_json_reason(reason), w->named.name,
				     (struct span){ NULL, 0 });
		forget(topics_of(c), w);
	}
	if (c->state != CONNECTION_CLOSED)
		connection_flush(c);
}

/* It has all that it was to get, or will have (leave). */
void websocket_topics_enough(struct connection *c, void *session)
{
	(void)c;
	(void)session;
}

/* ---- unsubscribe ---- */

/* Asks anew for those that have left out what this one brought, to be begun together. Returns how
 * many there are. */
static unsigned ask_anew(struct connection *c, const struct wanted_topic *going)
{
	static const struct replay nothing = { .kind = REPLAY_NONE };
	const struct wire wire = { .format = &websocket_json_format };
	struct websocket_topics *t = topics_of(c);
	enum reason reason = REASON_NONE;
	unsigned n = 0;

	for (struct list *l = t->leaving_out.next; l != &t->leaving_out && reason == REASON_NONE;
	     l = l->next) {
		struct wanted_topic *w = of_leaving_out(l);

		if (w->order <= going->order ||
		    !name_patterns_overlap(going->named.name, w->named.name))
			continue;
		reason = ask(c, w, &nothing, &wire, &w->overlap->takes_over);
		n++;
	}
	if (reason != REASON_NONE)
		stay(c, reason);
	return n;
}

enum reason websocket_topics_unsubscribe(struct connection *c, struct span name, struct span ref)
{
	struct websocket_topics *t = topics_of(c);
	struct wanted_topic *w = find(c, name);
	char out[WEBSOCKET_ANSWER_MAX];
	size_t n = websocket_answer("unsubscribed", name, 0, 0, ref, out);

	if (w != NULL && t->leaving_out_n > 0) {
		t->going = memory_new(sizeof(*t->going) + n);
		if (t->going == NULL)
			return REASON_MEMORY;
		t->going->wanted = w;
		t->going->taken_over = false;
		list_init(&t->going->behind);
		t->going->word_len = n;
		memcpy(t->going->word, out, n);
		if (ask_anew(c, w) > 0)
			return REASON_NONE;
		memory_free(t->going);
		t->going = NULL;
	}
	if (w != NULL) {
		subscription_end(w->subscription);
		forget(t, w);
	}
	websocket_json_say(c, out, n);
	return REASON_NONE;
}

/* It has its turn, whatever its stream waits for. */
static void hurry(struct connection *c, struct subscription *sub)
{
	if (subscription_is(sub, SUBSCRIPTION_IN_FLIGHT))
		return;
	subscription_queue(sub);
	connection_turn(c);
}

/* It still gets what is its by now. */
static void leave(struct connection *c, struct subscription *sub)
{
	subscription_leave(sub);
	hurry(c, sub);
}

/* What comes from now on is for this one, behind what is the other one's. -ENOMEM. */
static int take_over(struct connection *c, struct wanted_topic *w)
{
	struct left_out l;
	struct wire wire;
	int err;

	/* It may only be less than it was. */
	(void)leave_out(c, w, &l);
	if (!wire_for(&l, &wire))
		return -ENOMEM;
	err = subscription_begin(w->overlap->takes_over, &wire);
	wire_free(&wire);
	if (err != 0)
		return err;
	w->overlap->before = w->subscription;
	w->subscription = w->overlap->takes_over;
	w->overlap->takes_over = NULL;
	list_append(&topics_of(c)->going->behind, &w->overlap->behind);
	leave(c, w->overlap->before);
	subscription_hold(w->subscription);
	if (left_out_empty(&l))
		stop_leaving_out(topics_of(c), w);
	return 0;
}

/* False: out of memory, and the connection ends. */
static bool take_all_over(struct connection *c)
{
	struct websocket_topics *t = topics_of(c);
	struct going *going = t->going;
	struct list *next;

	for (struct list *l = t->leaving_out.next; l != &t->leaving_out; l = next) {
		struct wanted_topic *w = of_leaving_out(l);

		next = l->next;
		if (w->overlap->takes_over != NULL && take_over(c, w) != 0) {
			connection_error(c, REASON_MEMORY);
			return false;
		}
	}
	going->number = audience_number(c->shard, going->wanted->subscription->stream);
	going->taken_over = true;
	leave(c, going->wanted->subscription);
	return true;
}

/* Whether all has gone out of what came before others have taken over. */
static bool all_left(struct going *going)
{
	for (struct list *l = going->behind.next; l != &going->behind; l = l->next)
		if (!subscription_done(of_behind(l)->overlap->before))
			return false;
	return subscription_done(going->wanted->subscription);
}

static void say_gap(struct connection *c, const struct wanted_topic *w, uint64_t goes_on)
{
	char out[WEBSOCKET_ANSWER_MAX];

	if (goes_on != 0 && c->state != CONNECTION_CLOSED)
		websocket_json_say(
			c, out,
			websocket_answer_gap(w->named.name, w->overlap->epoch, goes_on, out));
}

static void let_go_on(struct connection *c, struct wanted_topic *w)
{
	struct subscription *before = w->overlap->before;

	w->overlap->before = NULL;
	subscription_end(before);
	say_gap(c, w, w->overlap->goes_on_later);
	w->overlap->goes_on_later = 0;
	hurry(c, w->subscription);
}

void websocket_topics_settle(struct connection *c)
{
	struct websocket_topics *t = topics_of(c);
	struct going *going = t->going;
	struct list *l;

	if (going == NULL || (!going->taken_over && !take_all_over(c)))
		return;
	if (!all_left(going)) {
		websocket_of(c)->busy = true;
		return;
	}
	t->going = NULL;
	if (going->wanted->overlap != NULL)
		say_gap(c, going->wanted, going->wanted->overlap->goes_on_later);
	while ((l = list_take(&going->behind)) != NULL)
		let_go_on(c, of_behind(l));
	subscription_end(going->wanted->subscription);
	forget(t, going->wanted);
	websocket_json_say(c, going->word, going->word_len);
	memory_free(going);
}

/* ---- gaps ---- */

/* What goes, or what others have taken over from and are behind: it may have nothing left that will
 * be sent, and the gap is told of when they go on. */
static bool missed_before(struct connection *c, struct wanted_topic *w, struct subscription *sub)
{
	const struct going *going = topics_of(c)->going;

	if (going == NULL || !going->taken_over ||
	    (going->wanted != w && w->overlap->before == NULL))
		return false;
	w->overlap->goes_on_later =
		going->wanted == w ? going->number + 1 : audience_number(c->shard, sub->stream) + 1;
	if (going->wanted != w && w->subscription == sub)
		subscription_hold(sub);
	c->resumes = true;
	connection_turn(c);
	return true;
}

void websocket_topics_missed(struct connection *c, struct subscription *sub)
{
	struct websocket_topics *t = topics_of(c);
	struct wanted_topic *w = sub->session;

	/* One that is to take over has no past. */
	if (w == NULL || (w->overlap != NULL && w->overlap->takes_over == sub))
		return;
	if (!make_overlap(w)) {
		connection_error(c, REASON_MEMORY);
		return;
	}
	w->overlap->epoch = subscription_interest(sub)->epoch;
	if (missed_before(c, w, sub))
		return;
	if (w->overlap->goes_on == 0) {
		w->overlap->missed = t->missed;
		t->missed = w;
	}
	w->overlap->goes_on = audience_number(c->shard, sub->stream) + 1;
	connection_interject(c);
}

void websocket_topics_interject(struct connection *c)
{
	struct websocket_topics *t = topics_of(c);

	while (t->missed != NULL && c->state != CONNECTION_CLOSED) {
		struct wanted_topic *w = t->missed;

		t->missed = w->overlap->missed;
		say_gap(c, w, w->overlap->goes_on);
		w->overlap->goes_on = 0;
	}
}

/* ---- life ---- */

struct websocket_topics *websocket_topics_new(void)
{
	struct websocket_topics *t = memory_new_zeroed(sizeof(*t));

	if (t == NULL)
		return NULL;
	list_init(&t->patterns);
	list_init(&t->leaving_out);
	return t;
}

void websocket_topics_free(struct websocket_topics *t)
{
	struct named *n;

	if (t == NULL)
		return;
	for (size_t at = 0; (n = few_next(&t->wanted, &at)) != NULL;) {
		struct wanted_topic *w = (struct wanted_topic *)(void *)n;

		memory_free(w->overlap);
		memory_free(w);
	}
	few_release(&t->wanted);
	memory_free(t->going);
	memory_free(t);
}
