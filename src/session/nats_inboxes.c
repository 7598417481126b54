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

/* Of one that has not ended. */
static struct pattern *find(const struct nats_inboxes *all, const struct nats_subscription *ns,
			    struct pattern_key *key)
{
	pattern_key_make(key, PATTERN_NATIVE, ns->named.name, nats_subject_of(ns));
	return patterns_find(&all->patterns, key);
}

/* Unless it is there. -ENOMEM. */
static int put(struct nats_inboxes *all, struct nats_subscription *ns)
{
	struct pattern_key key;
	struct nats_inbox *inbox;

	if (find(all, ns, &key) != NULL)
		return 0;
	inbox = memory_new_zeroed(sizeof(*inbox) + key.len);
	if (inbox == NULL)
		return -ENOMEM;
	inbox->subscription = ns;
	pattern_init(&inbox->pattern, &key, inbox->key);
	if (patterns_add(&all->patterns, &inbox->pattern) != 0) {
		memory_free(inbox);
		return -ENOMEM;
	}
	all->n++;
	return 0;
}

static void take_out(struct nats_inboxes *all, struct pattern *pattern)
{
	patterns_remove(&all->patterns, pattern);
	memory_free(pattern);
	all->n--;
}

int nats_inboxes_add(struct nats_session *nats, struct nats_subscription *ns)
{
	/* Nobody is answered under a sid that is longer than an answer may be. */
	if (ns->named.name.len > PATTERN_GROUP_MAX)
		return 0;
	ns->answers = true;
	nats->inboxes_n++;
	return nats->inboxes != NULL ? put(nats->inboxes, ns) : 0;
}

void nats_inboxes_remove(struct nats_session *nats, struct nats_subscription *ns)
{
	struct pattern_key key;
	struct pattern *pattern;

	if (!ns->answers)
		return;
	nats->inboxes_n--;
	if (nats->inbox == ns)
		nats->inbox = NULL;
	pattern = nats->inboxes != NULL ? find(nats->inboxes, ns, &key) : NULL;
	if (pattern != NULL)
		take_out(nats->inboxes, pattern);
}

int nats_inboxes_make(struct connection *c)
{
	struct nats_session *nats = nats_of(c);
	struct nats_inboxes *all = nats->inboxes;

	if (all == NULL && few_n(&nats->subscriptions) <= FEW)
		return 0;
	if (all == NULL)
		all = nats->inboxes = memory_new_zeroed(sizeof(*all));
	if (all == NULL)
		return -ENOMEM;
	while (all->n < nats->inboxes_n) {
		struct nats_subscription *ns = (struct nats_subscription *)(void *)few_step(
			&nats->subscriptions, &all->at);

		if (ns != NULL && ns->answers && put(all, ns) != 0)
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
		for (size_t at = 0; ns == NULL && (n = few_next(&nats->subscriptions, &at));) {
			struct nats_subscription *other = (struct nats_subscription *)(void *)n;

			if (other->answers && takes(other, reply))
				ns = other;
		}
	}
	reactor_spend(&c->shard->reactor, LOOK_COST);
	nats->inbox = ns;
	return ns;
}

void nats_inboxes_release(struct nats_session *nats)
{
	struct nats_inboxes *all = nats->inboxes;
	size_t at = 0;

	if (all == NULL)
		return;
	while (all->n > 0) {
		struct named *n = table_step(&all->patterns.keys, &at);

		if (n != NULL)
			take_out(all, (struct pattern *)(void *)n);
	}
	patterns_release(&all->patterns);
	memory_free(all);
	nats->inboxes = NULL;
}
