#include "session/nats_inboxes.h"

#include <errno.h>

#include "base/memory.h"
#include "base/name.h"
#include "broker/shard.h"
#include "session/nats.h"
#include "topic/pattern.h"

enum {
	FEW = 16,      /* subscriptions that are looked through; beyond, there is a trie */
	LOOK_COST = 2, /* for one of them, about 0.5 us */
	ADD_COST = 1,
};

/* A subscription in the trie. Its sid is in its key, so that each has one of its own. */
struct nats_inbox {
	struct pattern pattern; /* first */
	struct nats_subscription *subscription;
	char key[];
};

struct nats_inboxes {
	struct patterns patterns;
	size_t at; /* in the table of subscriptions: those before it are in the trie, perhaps more
		    */
	uint32_t n;
};

/* Nobody is answered through a group, nor under a sid that is longer than an answer may be. */
static bool is_one(const struct nats_subscription *ns)
{
	return !ns->grouped && ns->named.name.len <= PATTERN_GROUP_MAX;
}

static int put(struct nats_inboxes *all, struct nats_subscription *ns)
{
	struct pattern_key key;
	struct nats_inbox *inbox;

	pattern_key_make(&key, PATTERN_NATIVE, ns->named.name, nats_subject_of(ns));
	inbox = memory_new_zeroed(sizeof(*inbox) + key.len);
	if (inbox == NULL)
		return -ENOMEM;
	inbox->subscription = ns;
	pattern_init(&inbox->pattern, &key, inbox->key);
	if (patterns_add(&all->patterns, &inbox->pattern) != 0) {
		memory_free(inbox);
		return -ENOMEM;
	}
	ns->inbox = inbox;
	all->n++;
	return 0;
}

int nats_inboxes_add(struct nats_session *nats, struct nats_subscription *ns)
{
	if (!is_one(ns))
		return 0;
	nats->inboxes_n++;
	return nats->inboxes != NULL ? put(nats->inboxes, ns) : 0;
}

void nats_inboxes_remove(struct nats_session *nats, struct nats_subscription *ns)
{
	if (!is_one(ns))
		return;
	nats->inboxes_n--;
	if (nats->inbox == ns)
		nats->inbox = NULL;
	if (ns->inbox == NULL)
		return;
	patterns_remove(&nats->inboxes->patterns, &ns->inbox->pattern);
	nats->inboxes->n--;
	memory_free(ns->inbox);
	ns->inbox = NULL;
}

int nats_inboxes_make(struct connection *c)
{
	struct nats_session *nats = nats_of(c);
	struct nats_inboxes *all = nats->inboxes;

	if (all == NULL && nats->subscriptions.entries_n <= FEW)
		return 0;
	if (all == NULL)
		all = nats->inboxes = memory_new_zeroed(sizeof(*all));
	if (all == NULL)
		return -ENOMEM;
	while (all->n < nats->inboxes_n) {
		struct nats_subscription *ns = (struct nats_subscription *)(void *)table_step(
			&nats->subscriptions, &all->at);

		if (ns != NULL && ns->inbox == NULL && is_one(ns) && put(all, ns) != 0)
			return -ENOMEM;
		reactor_spend(&c->shard->reactor, ADD_COST);
		if (reactor_spent(&c->shard->reactor))
			return all->n < nats->inboxes_n;
	}
	return 0;
}

static bool takes(const struct nats_subscription *ns, struct span reply)
{
	return ns->subscription != NULL &&
	       (span_equal(nats_subject_of(ns), reply) || name_matches(nats_subject_of(ns), reply));
}

static void found(struct pattern *pattern, void *argument)
{
	struct nats_subscription **ns = argument,
				 *other = ((struct nats_inbox *)pattern)->subscription;

	if (other->subscription != NULL)
		*ns = other;
}

struct nats_subscription *nats_inbox(struct connection *c, struct span reply)
{
	struct nats_session *nats = nats_of(c);
	struct nats_subscription *ns = NULL;
	struct named *n;

	if (!name_valid(reply))
		return NULL;
	/* Most have one for all their requests. */
	if (nats->inbox != NULL && takes(nats->inbox, reply))
		return nats->inbox;
	if (nats->inboxes != NULL) {
		patterns_match(&nats->inboxes->patterns, reply, found, &ns);
	} else {
		for (size_t at = 0; ns == NULL && (n = table_next(&nats->subscriptions, &at));) {
			struct nats_subscription *other = (struct nats_subscription *)(void *)n;

			if (is_one(other) && takes(other, reply))
				ns = other;
		}
	}
	reactor_spend(&c->shard->reactor, LOOK_COST);
	nats->inbox = ns;
	return ns;
}

void nats_inboxes_release(struct nats_session *nats)
{
	struct named *n;

	if (nats->inboxes == NULL)
		return;
	for (size_t at = 0; (n = table_next(&nats->subscriptions, &at)) != NULL;)
		nats_inboxes_remove(nats, (struct nats_subscription *)(void *)n);
	patterns_release(&nats->inboxes->patterns);
	memory_free(nats->inboxes);
	nats->inboxes = NULL;
}
