#ifndef BROKER_HOME_H
#define BROKER_HOME_H

/*
 * A shard as the home of its topics: gives numbers, answers subscriptions, counts publishers,
 * forgets. The shard's thread only.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/config.h"
#include "base/span.h"
#include "base/table.h"
#include "base/tree.h"
#include "base/wire.h"
#include "broker/groups.h"
#include "broker/letters.h"
#include "broker/patterns.h"
#include "engine/deadline.h"
#include "topic/history.h"
#include "topic/letter.h"
#include "topic/topic.h"

struct block;
struct shard;

/* A shard's topics. */
struct home {
	struct table topics;
	struct list every; /* the same, in the order in which they came */
	struct known_patterns known;
	struct history_total history;
	struct tree retained; /* topics that have a retained message, by its number here: */
	uint64_t retained_n;  /* the last one's */
	int64_t history_told; /* to broker->history_bytes */
	_Atomic uint64_t history_oldest_ns; /* for the others; UINT64_MAX: there is none */
	struct list *idle_topics; /* topics without clients, oldest first: two lists for each topic
				     setting of the config, without history and with */
	struct list idle_before[2]; /* the same, of those that have their settings from before */
	uint32_t settings_n;        /* one more with every configuration */
	size_t unconfigured;        /* topics that have theirs from before */
	size_t configured_at;
	struct deadline_class sweep;
	struct deadline sweep_deadline;
	struct list heard; /* topics that have subscribers: so many */
	uint64_t heard_n;
	struct list censuses; /* that go through these */
	struct undealt undealt;
	bool sweeping;     /* some of them are to be forgotten in this turn */
	uint64_t swept_ns; /* when that was last begun */
};

/* How many lists of idle topics a configuration makes. */
static inline size_t home_idle_lists(const struct config *config)
{
	return 2 * (config->topic_n + 1);
}

/* Sequences a block, keeps it and sends it to every interested shard; takes the block over. */
void home_publish(struct shard *shard, struct block *block);
/* In each turn in which one has not been dealt to all groups that it is for. */
void home_go_on(struct shard *shard);
/* Each takes the letter over, and answers where there is an answer. */
void home_subscribe(struct shard *shard, struct subscribe_letter *letter);
void home_unsubscribe(struct shard *shard, struct topic_letter *letter);
void home_recount(struct shard *shard, struct topic_letter *letter);
void home_join(struct shard *shard, struct topic_letter *letter);
void home_leave(struct shard *shard, struct topic_letter *letter);
void home_sync(struct shard *shard, struct topic_letter *letter);

/* The topic, if it is there; home_topic_or_new makes it: NULL with *error -ENOSPC or -ENOMEM. */
struct topic *home_topic(struct shard *shard, uint64_t hash, struct span name);
struct topic *home_topic_or_new(struct shard *shard, uint64_t hash, struct span name, int *error);
/* To be called when it may have got or lost its last client, or its last history. */
void home_weigh(struct shard *shard, struct topic *topic);
/* The same when a request waits there no more: a topic that has only been asked for is none. */
void home_waited(struct shard *shard, struct topic *topic);

/* Tells the other shards how much history there is here, and from when the oldest is. */
void home_tell_history(struct shard *shard);
/* Lets go of as much as was added, if it must, and of some more. True: there may be more still. */
bool home_let_history_go(struct shard *shard, uint64_t added);
/* Lets go of the oldest history while there is more in the broker than there may be, or its memory
 * is scarce: as much as there is time for. To be called once per turn; true: there is more. */
bool home_bound_history(struct shard *shard);
/* Forgets topics that have had no clients for long enough: some of them; true: there are more. */
bool home_sweep(struct shard *shard);
/* The configuration is about to change. A topic gets its settings when it is asked for, the others
 * in home_configure_some, to be called in this part of this turn, and of the next ones while it
 * says that there are more: until then some refer to configurations from before. idle_topics: for
 * as many settings as it will have; those that were there are freed. */
void home_configure(struct shard *shard, struct list *idle_topics);
bool home_configure_some(struct shard *shard);
void home_release(struct shard *shard);

#endif
