#include <errno.h>

#include "base/clock.h"
#include "base/config.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/upstream.h"
#include "topic/topic.h"

/* Subscribers that wait until their topic stands; each pins it. */

void upstream_wait(struct upstream *u, struct upstream_topic *ut, struct subscribe_letter *l)
{
	l->next = NULL;
	if (ut->first == NULL) {
		ut->first = l;
		list_append(&u->awaited, &ut->awaited);
	} else {
		ut->last->next = l;
	}
	ut->last = l;
	upstream_pin(ut);
	home_weigh(u->shard, ut->topic);
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

void upstream_stands(struct upstream *u, struct upstream_topic *ut)
{
	struct subscribe_letter *l;

	ut->state = UPSTREAM_STANDS;
	list_remove(&ut->link);
	list_append(&u->standing, &ut->link);
	upstream_deliver(u);
	upstream_tell_missed(u, ut, ut->number);
	upstream_publish_stands(u, ut);
	while ((l = next(ut)) != NULL) {
		home_stands(u->shard, ut->topic, l);
		upstream_unpin(u, ut);
	}
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
