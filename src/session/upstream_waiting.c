#include <errno.h>

#include "base/clock.h"
#include "base/config.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/upstream.h"
#include "topic/topic.h"

/* Subscribers that wait until their topic stands; each pins it. */

static void keep(struct upstream *u, struct upstream_topic *ut, struct subscribe_letter *l)
{
	l->next = NULL;
	if (ut->first == NULL) {
		ut->first = l;
		list_append(&u->awaited, &ut->awaited);
	} else {
		ut->last->next = l;
	}
	ut->last = l;
}

void upstream_wait(struct upstream *u, struct upstream_topic *ut, struct subscribe_letter *l)
{
	keep(u, ut, l);
	upstream_pin(ut);
	home_weigh(u->shard, ut->topic);
	if (ut->state == UPSTREAM_STANDS && ut->past.sid == 0 && list_empty(&ut->past.link) &&
	    upstream_wants_past(u, ut, l))
		list_append(&u->pasts, &ut->past.link);
}

/* Takes the first of those who wait; its pin stays. */
static struct subscribe_letter *next(struct upstream_topic *ut)
{
	struct subscribe_letter *l = ut->first;

	if (l == NULL)
		return NULL;
	ut->first = l->next;
	if (ut->first == NULL)
		list_remove(&ut->awaited);
	return l;
}

bool upstream_past_wanted(const struct upstream_topic *ut)
{
	for (const struct subscribe_letter *l = ut->first; l != NULL; l = l->next)
		if (l->replay.kind == REPLAY_FROM || l->replay.kind == REPLAY_LAST)
			return true;
	return false;
}

bool upstream_wants_past(const struct upstream *u, const struct upstream_topic *ut,
			 const struct subscribe_letter *l)
{
	const struct topic *t = ut->topic;
	uint64_t floor, tried;

	/* There is no room before what is here. */
	if (!u->log || t->history.messages >= t->limits.messages || t->number == 0)
		return false;
	floor = topic_floor(t);
	tried = ut->past.tried_floor == floor ? ut->past.tried : UINT64_MAX;
	if (l->replay.kind == REPLAY_FROM)
		return l->replay.epoch == ut->epoch && l->replay.n < floor && l->replay.n < tried;
	return l->replay.kind == REPLAY_LAST && l->replay.n > t->history.messages && floor > 0 &&
	       tried == UINT64_MAX;
}

/* Whose past is not here waits until it is. */
static void let_in(struct upstream *u, struct upstream_topic *ut)
{
	struct subscribe_letter *l = ut->first, *after;

	ut->first = ut->last = NULL;
	list_remove(&ut->awaited);
	for (; l != NULL; l = after) {
		after = l->next;
		if (upstream_wants_past(u, ut, l)) {
			keep(u, ut, l);
			continue;
		}
		home_stands(u->shard, ut->topic, l);
		upstream_unpin(u, ut);
	}
	if (ut->first != NULL && ut->past.sid == 0 && list_empty(&ut->past.link))
		list_append(&u->pasts, &ut->past.link);
}

void upstream_stands(struct upstream *u, struct upstream_topic *ut)
{
	ut->state = UPSTREAM_STANDS;
	if (ut->sid != 0)
		ut->bearer = 0;
	list_remove(&ut->link);
	list_append(&u->standing, &ut->link);
	upstream_deliver(u);
	upstream_tell_missed(u, ut, ut->number);
	upstream_publish_stands(u, ut);
	let_in(u, ut);
}

void upstream_waiting_expire(struct upstream *u, uint64_t *next_ns)
{
	uint64_t at_ns = u->down_ns + u->config->publish_seconds * NS_PER_S;

	if (u->state == UPSTREAM_UP || list_empty(&u->awaited))
		return;
	if (!upstream_gives_up(u) && at_ns < *next_ns)
		*next_ns = at_ns;
	while (upstream_gives_up(u) && !list_empty(&u->awaited)) {
		struct upstream_topic *ut =
			LIST_ENTRY(u->awaited.next, struct upstream_topic, awaited);

		home_refuse_subscriber(u->shard, ut->topic, next(ut), -EHOSTUNREACH);
		upstream_unpin(u, ut);
	}
}

void upstream_waiting_free(struct upstream_topic *ut)
{
	struct subscribe_letter *l;

	while ((l = next(ut)) != NULL)
		subscribe_letter_free(l);
}
