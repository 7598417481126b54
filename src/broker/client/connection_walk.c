#include "broker/connection_parts.h"

#include "broker/shard.h"

enum { WALK_AT_ONCE = 16 }; /* subscriptions, before there is a look at the time */

void connection_turn(struct connection *c)
{
	if (list_empty(&c->turn))
		list_append(&c->shard->clients.turns, &c->turn);
}

static void visit(struct connection *c, struct subscription *sub)
{
	bool asked = subscription_is(sub, SUBSCRIPTION_ASKED);
	bool flies = subscription_is(sub, SUBSCRIPTION_IN_FLIGHT);

	if (c->reviewed && !c->shard->broker->sessions->still_may(c, sub)) {
		c->expelled = true;
		connection_turn(c);
	}
	switch ((enum connection_walk)c->walk) {
	case WALK_BARRIER:
		subscription_queue_if_behind(sub);
		break;
	case WALK_LEAVE:
		if (asked && (c->hasty || subscription_is(sub, SUBSCRIPTION_HELD)))
			subscription_free(sub, DROP_CLOSED);
		if (asked)
			break;
		subscription_leave(sub);
		/* Whoever is too slow for one topic gets no more of the others either, and who may
		 * not have them no more of any. */
		if ((c->reason == DROP_SLOW || c->expelled) && !flies)
			subscription_cut(sub, (enum drop_reason)c->reason);
		else if (subscription_done(sub))
			subscription_free(sub, (enum drop_reason)c->reason);
		else if (c->subscriptions_n > 1)
			subscription_queue_if_behind(sub); /* nobody else does it for a held one */
		break;
	case WALK_PART:
		if (!flies)
			subscription_free(sub, (enum drop_reason)c->reason);
		break;
	case WALK_REVIEW:
	case WALK_NONE:
	default:
		break;
	}
}

bool connection_walk_on(struct connection *c)
{
	for (unsigned max = WALK_AT_ONCE; max > 0 && c->walk_left > 0 && c->subscriptions_n > 0;
	     max--, c->walk_left--) {
		struct subscription *sub = c->subscriptions;

		c->subscriptions = subscription_next(sub);
		visit(c, sub);
	}
	if (c->walk_left > 0 && c->subscriptions_n > 0)
		return false;
	c->walk_left = 0;
	if (c->walk == WALK_BARRIER)
		c->barrier = BARRIER_QUEUED;
	c->walk = WALK_NONE;
	c->reviewed = false;
	return true;
}

void connection_walk(struct connection *c, enum connection_walk walk)
{
	if (walk < c->walk)
		return;
	c->walk = walk & 7;
	c->walk_left = c->subscriptions_n;
	if (!connection_walk_on(c))
		connection_turn(c);
}

void connection_review(struct connection *c)
{
	c->reviewed = true;
	connection_walk(c, c->walk > WALK_REVIEW ? (enum connection_walk)c->walk : WALK_REVIEW);
}
