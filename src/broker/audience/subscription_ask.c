#include "broker/subscription.h"

#include <assert.h>
#include <errno.h>

#include "broker/budget.h"
#include "broker/connection.h"
#include "broker/interests.h"
#include "broker/letters.h"
#include "broker/members.h"
#include "broker/patterns.h"
#include "broker/shard.h"
#include "topic/interest.h"

/* It is in this stream now. */
static void joined(struct subscription *sub, struct stream *stream)
{
	struct shard *s = sub->connection->shard;

	stream->owner = sub->interest;
	stream->unencodable = &s->counters.dropped[DROP_UNENCODABLE];
	sub->stream = stream;
	subscription_unset(sub, SUBSCRIPTION_ASKED);
	if (stream->wire.format->replies)
		subscription_set(sub, SUBSCRIPTION_REPLIES);
	audience_active(s, stream);
}

/* Puts the cursor where it belongs. letter: the home's answer, or NULL. */
static int join(struct subscription *sub, const struct wire *wire, struct subscribe_letter *l)
{
	struct shard *s = sub->connection->shard;
	struct interest *i = sub->interest;
	struct stream *stream = audience_stream(s, i, wire);
	uint64_t messages = 0, unencodable = 0;
	int err;

	if (stream == NULL)
		return -ENOMEM;
	stream->unencodable = &s->counters.dropped[DROP_UNENCODABLE];
	if (l != NULL) {
		const struct past past = { .from = l->from, .next = l->seq + 1, .held = &l->past };

		err = stream_join_replay(stream, &sub->cursor, &past, &unencodable);
		messages = past.next - past.from;
	} else {
		err = stream_join(stream, &sub->cursor);
	}
	if (err != 0)
		return err;
	joined(sub, stream);
	s->counters.matched += messages;
	s->counters.dropped[DROP_UNENCODABLE] += unencodable;
	return 0;
}

/* The same, when all homes know its pattern. */
static int join_known(struct subscription *sub, struct pattern_asking *a)
{
	struct shard *s = sub->connection->shard;
	struct interest *i = sub->interest;
	struct newest newest[NEWEST_MAX];
	struct stream *stream = a->stream;
	uint64_t messages = 0;
	int err;

	if (a->member != NULL) {
		stream = &a->member->stream;
		a->member = NULL;
		err = stream_join(stream, &sub->cursor);
	} else if (stream != NULL) {
		a->stream = NULL;
		list_remove(&a->link);
		err = stream_join_pinned(stream, &sub->cursor, &a->pin, newest,
					 pattern_asking_newest(a, newest), &messages);
	} else {
		stream = audience_stream(s, i, &a->wire);
		err = stream != NULL ? stream_join(stream, &sub->cursor) : -ENOMEM;
	}
	if (err != 0)
		return err;
	joined(sub, stream);
	s->counters.matched += messages;
	return 0;
}

/* In the connection's limit, and everybody's, in one step: other shards may want the last place,
 * too. */
static int take_place(struct connection *c)
{
	struct shard *s = c->shard;

	if (budget_now(s->broker) >= BUDGET_SUBSCRIBERS) {
		s->counters.memory_refused++;
		return -ENOBUFS;
	}
	if (c->subscriptions_n >= s->config->limits.subscriptions_per_connection)
		return -ENOSPC;
	if (atomic_fetch_add(&s->broker->subscriptions, 1) >= s->config->limits.subscriptions) {
		atomic_fetch_sub(&s->broker->subscriptions, 1);
		return -ENOSPC;
	}
	return 0;
}

static struct subscription *make(struct connection *c, const struct subscription_wanted *wanted)
{
	struct shard *s = c->shard;
	struct interest *i = interests_wanted(s, wanted);
	struct subscription *sub = i != NULL ? pool_take(&s->audience.subscription_pool) : NULL;

	if (sub == NULL) {
		if (i != NULL)
			interests_let_go(s, i);
		return NULL;
	}
	*sub = (struct subscription){ .connection = c,
				      .interest = i,
				      .session = wanted->session,
				      .cursor.owner = SUBSCRIPTION_ASKED };
	if (wanted->wire.format->replies)
		subscription_set(sub, SUBSCRIPTION_REPLIES);
	list_init(&sub->cursor.link);
	list_init(&sub->link);
	if (c->subscriptions == NULL)
		c->subscriptions = sub;
	else
		list_append(&c->subscriptions->link, &sub->link);
	c->subscriptions_n++;
	interests_count(s, sub, i, true);
	s->audience.subscriptions_n++;
	return sub;
}

/* Whether it was asked for at its home; false: out of memory. */
static bool ask(struct subscription *sub, const struct subscription_wanted *wanted)
{
	struct connection *c = sub->connection;
	struct interest *i = sub->interest;
	struct subscribe_letter *l =
		subscribe_letter_new(wanted->name, i->named.hash, &wanted->wire);

	if (l == NULL)
		return false;
	l->shard = c->shard->id;
	l->subscription = sub;
	l->replay = wanted->replay;
	l->later = wanted->later;
	l->change = (int64_t)i->subscribers - i->told;
	l->change_responders = (int64_t)i->responders - i->told_responders;
	interest_note_told(i);
	i->unanswered++;
	c->asked++;
	shard_post(c->shard, i->home, LANE_FREE, &l->letter);
	return true;
}

/* The same at every home that its pattern concerns. */
static bool ask_homes(struct subscription *sub, const struct subscription_wanted *wanted)
{
	struct connection *c = sub->connection;
	struct interest *i = sub->interest;
	struct wild *w = i->wild;
	struct pattern_asking *a = pattern_asking_new(&w->pattern, &wanted->wire, w->homes_n);
	struct stream *stream;

	if (a == NULL)
		return false;
	a->shard = c->shard->id;
	a->subscription = sub;
	a->interest = i;
	a->later = wanted->later && wanted->group.len == 0;
	a->newest = wanted->pattern != PATTERN_NONE && wanted->group.len == 0 &&
		    wanted->replay.kind == REPLAY_LAST;
	if (w->pattern.group.len > 0) {
		a->member = member_new(w, &wanted->wire, c->shard->id);
		if (a->member == NULL)
			goto fail;
	}
	a->subscribers = a->member != NULL ? w->members_n : i->subscribers;
	a->responders = a->member != NULL ? w->responders_n : i->responders;
	if (a->newest) {
		stream = audience_stream(c->shard, i, &wanted->wire);
		if (stream == NULL || stream_pin(stream, &a->pin) != 0)
			goto fail;
		stream->owner = i;
		a->stream = stream;
		list_append(&w->askings, &a->link);
	}
	interest_note_told(i);
	i->unanswered++;
	c->asked++;
	for (unsigned n = 0; n < w->homes_n; n++) {
		a->letters[n].home = w->home + n;
		shard_post(c->shard, w->home + n, LANE_FREE, &a->letters[n].letter);
	}
	return true;
fail:
	if (a->member != NULL) {
		w->members_n--;
		w->responders_n -= wanted->wire.format->replies;
		member_free(a->member);
	}
	pattern_asking_free(a);
	return false;
}

/* Whether nobody need be asked. */
static bool known_here(const struct interest *i, const struct subscription_wanted *wanted)
{
	if (!i->live || wanted->group.len > 0 || wanted->later)
		return false;
	return wanted->replay.kind == REPLAY_NONE ||
	       (i->wild != NULL && wanted->pattern == PATTERN_NONE);
}

int subscription_new(struct connection *c, const struct subscription_wanted *wanted,
		     struct subscription **made)
{
	struct subscription *sub;
	bool known;
	int err;

	*made = NULL;
	if (wanted->pattern != PATTERN_NONE && wanted->replay.kind != REPLAY_NONE &&
	    (wanted->replay.kind != REPLAY_LAST || wanted->replay.n != 1))
		return -EINVAL;
	err = take_place(c);
	if (err != 0)
		return err;
	sub = make(c, wanted);
	if (sub == NULL) {
		atomic_fetch_sub(&c->shard->broker->subscriptions, 1);
		return -ENOMEM;
	}
	known = known_here(sub->interest, wanted);
	if (known                         ? join(sub, &wanted->wire, NULL) != 0
	    : sub->interest->wild != NULL ? !ask_homes(sub, wanted)
					  : !ask(sub, wanted)) {
		subscription_leave_place(sub);
		subscription_give_back(sub, c->shard);
		return -ENOMEM;
	}
	if (known)
		c->shard->audience.events->stands(sub, NULL);
	if (c->state == CONNECTION_OPEN)
		*made = sub;
	return 0;
}

/* The connection gets its answer; the subscription may be gone then. letter: NULL: there is none
 * that says where it begins. */
static void answer(struct subscription *sub, const struct subscribe_letter *l, bool later,
		   int error)
{
	struct connection *c = sub->connection;
	const struct audience_events *events = c->shard->audience.events;
	void *session = sub->session;

	c->asked--;
	if (error == 0 && later) {
		subscription_set(sub, SUBSCRIPTION_HELD);
	} else if (error == 0) {
		events->stands(sub, l);
	} else {
		subscription_leave_place(sub);
		subscription_give_back(sub, c->shard);
		events->refused(c, session, error);
	}
	events->answered(c);
}

/* It has ended while a home was asked. */
static void forget_asked(struct subscription *sub, struct shard *s)
{
	subscription_unset(sub, SUBSCRIPTION_ASKED);
	subscription_give_back(sub, s);
}

void subscription_answered(struct shard *s, struct subscribe_letter *l)
{
	struct interest *i = interests_find(s, l->hash, l->name);
	struct subscription *sub = l->subscription;

	assert(i != NULL && i->unanswered > 0);
	i->unanswered--;
	/* An error or a lack of memory may end the subscription, but not the interest under our
	 * feet. */
	i->pins++;
	/* It has not been counted where there is no topic. */
	if (l->error != 0) {
		i->told -= (uint32_t)l->change;
		i->told_responders -= (uint32_t)l->change_responders;
	}
	if (list_empty(&i->recount))
		list_append(&s->audience.recounts, &i->recount);
	if (l->error == 0) {
		i->live = true;
		i->epoch = l->epoch;
		i->number = l->number;
	}
	if (sub->connection != NULL) {
		if (l->error == 0 && !l->later)
			l->error = join(sub, &l->wire, l);
		answer(sub, l, l->later, l->error);
	} else {
		forget_asked(sub, s);
	}
	i->pins--;
	interests_let_go(s, i);
	subscribe_letter_free(l);
}

int subscription_begin(struct subscription *sub, const struct wire *wire)
{
	int err;

	assert(subscription_is(sub, SUBSCRIPTION_HELD));
	err = join(sub, wire, NULL);
	if (err == 0)
		subscription_unset(sub, SUBSCRIPTION_HELD);
	return err;
}

/* What has been got ready for a subscription that is not to be. */
static void undo_asking(struct shard *s, struct pattern_asking *a)
{
	list_remove(&a->link);
	if (a->stream != NULL)
		stream_unpin(a->stream, &a->pin);
	if (a->member == NULL)
		return;
	member_leave(a->member, s);
	member_free(a->member);
}

void subscription_known(struct shard *s, struct pattern_letter *l)
{
	struct pattern_asking *a = l->asking;
	struct subscription *sub = a->subscription;
	struct interest *i = a->interest;

	if (a->error == 0)
		a->error = l->error;
	if (--a->unanswered > 0)
		return;
	i->unanswered--;
	i->pins++;
	i->live |= a->error == 0;
	if (list_empty(&i->recount))
		list_append(&s->audience.recounts, &i->recount);
	if (sub->connection != NULL && a->error == 0 && !a->later)
		a->error = join_known(sub, a);
	undo_asking(s, a);
	if (sub->connection != NULL)
		answer(sub, NULL, a->later, a->error);
	else
		forget_asked(sub, s);
	i->pins--;
	interests_let_go(s, i);
	pattern_asking_free(a);
}
