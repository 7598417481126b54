#ifndef BROKER_TAP_H
#define BROKER_TAP_H

/*
 * A tap: somebody above the core whose topics some are, at their home. What is published to them
 * goes to him, and what he delivers is sequenced; he decides when a subscriber of theirs stands.
 * One for all shards (broker->tap), called on the home's thread. A topic that is his has
 * topic->tapped, which is his alone.
 */

#include <stdbool.h>
#include <stdint.h>

struct block;
struct list;
struct pattern;
struct pattern_letter;
struct shard;
struct subscribe_letter;
struct topic;
struct topic_letter;

struct tap {
	/* A topic has appeared: takes it (topic->tapped) or not. -ENOMEM: it is not to be. */
	int (*appeared)(struct shard *shard, struct topic *topic);
	/* It goes; nothing of it is pinned. */
	void (*forgotten)(struct shard *shard, struct topic *topic);
	/* Its first client has come, or somebody waits for it; or the last one has gone. */
	void (*weighed)(struct shard *shard, struct topic *topic, bool idle);
	/* Takes over what has been published here. */
	void (*publish)(struct shard *shard, struct topic *topic, struct block *block);
	/* Whether a subscriber has to wait for home_stands: then the letter is his, or of others
	 * that he has refused (home_refuse). */
	bool (*keeps)(struct shard *shard, struct topic *topic, struct subscribe_letter *letter);
	/* Takes over what has been published to a name that leaves nothing behind (topic_passes),
	 * or not: then it is for this broker's own subscribers. */
	bool (*passes)(struct shard *shard, struct block *block);
	/* A pattern is wanted that was not before. -ENOMEM: it is not to be, and goes. */
	int (*pattern_appeared)(struct shard *shard, struct pattern *pattern);
	/* So many members of a group want it from now on. */
	void (*members)(struct shard *shard, struct pattern *pattern, uint64_t members);
	/* It is not wanted any more. */
	void (*pattern_gone)(struct shard *shard, struct pattern *pattern);
	/* Whether its subscriber has to wait for home_pattern_stands: then the letter is his. */
	bool (*keeps_pattern)(struct shard *shard, struct pattern *pattern,
			      struct pattern_letter *letter);
	/* Whether what asks for a receipt has to wait: he hands it to home_receipt, or
	 * home_refuse_receipt, when all that was published before has been sequenced. */
	bool (*keeps_receipt)(struct shard *shard, struct topic_letter *letter);
	/* Whether nothing that was published waits any more, or will ever be sequenced. */
	bool (*drained)(struct shard *shard);
};

/* ---- what he calls (broker/home.c) ---- */

/* Sequences a block of a topic of his and sends it to every interested shard; takes it over. A
 * receipt that it asks for goes out. */
void home_deliver(struct shard *shard, struct topic *topic, struct block *block);
/* The block is not to be: whoever waits for its receipt, or else whoever published it, is told why.
 * Takes it over. */
void home_refuse(struct shard *shard, struct block *block, int error);
/* The same for a name that leaves nothing behind. Groups get nothing of either: */
void home_pass(struct shard *shard, struct block *block);
/* The members of this pattern, which is of a group, get it, each message one. Takes it over. */
void home_deal(struct shard *shard, struct pattern *pattern, struct block *block);
/* The subscriber stands now; takes the letter over. */
void home_stands(struct shard *shard, struct topic *topic, struct subscribe_letter *letter);
/* It does not. */
void home_refuse_subscriber(struct shard *shard, struct topic *topic,
			    struct subscribe_letter *letter, int error);
/* The receipt, or why there is none. */
void home_receipt(struct shard *shard, struct topic_letter *letter);
void home_refuse_receipt(struct shard *shard, struct topic_letter *letter, int error);
/* The block is in the cluster, as the message of this number, and not to be delivered: whoever
 * waits for its receipt gets it. Takes it over. */
void home_acknowledge(struct shard *shard, struct block *block, uint64_t epoch, uint64_t number);
/* Puts blocks (list of their age), whose numbers stand in `shift`, before all that is known of it;
 * whoever has the message of that number misses none of them. Takes them over. */
void home_prepend(struct shard *shard, struct topic *topic, struct list *blocks, uint64_t floor);
/* Some of its messages are not known here: from now on it has no past, and this epoch (0: another
 * one); what comes is behind this number. Every subscriber is told. */
void home_gap(struct shard *shard, struct topic *topic, uint64_t epoch, uint64_t number);

#endif
