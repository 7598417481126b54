#ifndef SESSION_NATS_INBOXES_H
#define SESSION_NATS_INBOXES_H

/*
 * Which of a NATS client's own subscriptions an answer would come to, for the one that says that
 * nobody is there. With few of them they are looked through; with many they are told apart by a
 * trie (topic/pattern.h), which is made when the client first asks for something, some of it in
 * each turn, and kept from then on. The shard's thread only.
 */

#include <stdbool.h>

#include "base/span.h"

struct connection;
struct nats_session;
struct nats_subscription;

/* Makes more of the trie, if there is to be one. 0: an inbox can be looked for; 1: more is to be
 * made first; -ENOMEM. */
int nats_inboxes_make(struct connection *connection);
/* A new subscription that is in no group, or one that goes: before it has ended. -ENOMEM: answers
 * would not come to it. */
int nats_inboxes_add(struct nats_session *nats, struct nats_subscription *subscription);
void nats_inboxes_remove(struct nats_session *nats, struct nats_subscription *subscription);
/* The subscription that an answer with this subject would come to; or NULL. */
struct nats_subscription *nats_inbox(struct connection *connection, struct span reply);
/* Its subscriptions may have ended. */
void nats_inboxes_release(struct nats_session *nats);

#endif
