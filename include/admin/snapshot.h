#ifndef ADMIN_SNAPSHOT_H
#define ADMIN_SNAPSHOT_H

/*
 * What every reactor's counters were within the last second: each shard copies its own once a
 * second, and whoever answers a request reads the copies. The lock is one shard's with its readers,
 * never on the way of a message. While anybody subscribes to $sys.stats, the home of that topic
 * publishes what /stats.json says, once a second.
 */

#include <pthread.h>
#include <stdint.h>

#include "broker/shard.h"
#include "engine/reactor.h"

enum { SNAPSHOT_TOPICS = 8 };

struct snapshot {
	uint64_t at_ns;
	struct shard_counters counters;
	struct reactor_stats reactor;
	struct ring_counts ring;
	struct histogram send_gap;
	uint64_t sends, topics, history_bytes, letters_waiting;
	uint32_t connections, subscriptions, waiting;
	/* The busiest topics that it is home of, while anybody watches. */
	unsigned busiest_n;
	struct snapshot_topic {
		uint64_t per_second, shards;
		uint8_t name_len;
		char name[255];
	} busiest[SNAPSHOT_TOPICS];
};

/* Before the shards start; -ENOMEM. */
int snapshots_init(struct broker *broker);
void snapshots_release(struct broker *broker);
/* The broker's `second` function. */
void snapshot_second(struct shard *shard);
/* A copy of a shard's; the asking shard's own is made anew. */
void snapshot_read(struct shard *asking, unsigned shard, struct snapshot *out);

#endif
