#ifndef ADMIN_SNAPSHOT_H
#define ADMIN_SNAPSHOT_H

/*
 * Every reactor's counters at the moment when somebody asks: a letter goes by each shard in turn,
 * which copies its own into it, and comes back to whoever asked. Nothing is kept, and nothing done,
 * while nobody looks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/shard.h"
#include "engine/reactor.h"
#include "topic/letter.h"

enum { SNAPSHOT_TOPICS = 8 };

struct snapshot {
	uint64_t at_ns;
	struct shard_counters counters;
	struct reactor_stats reactor;
	struct ring_counts ring;
	struct histogram send_gap;
	uint64_t sends, topics, history_bytes, letters_waiting;
	uint32_t connections, subscriptions, waiting;
	/* The busiest topics that it is home of, if they were asked for. */
	unsigned busiest_n;
	struct snapshot_topic {
		uint64_t per_second, shards; /* since they were last asked for */
		uint8_t name_len;
		char name[255];
	} busiest[SNAPSHOT_TOPICS];
};

/* LETTER_FIGURES. Belongs to the shard that has it. */
struct snapshots {
	struct letter letter;
	unsigned asking, collected;
	bool ranked; /* with the busiest topics */
	/* On the asking shard, with all of them; they are freed when it returns. */
	void (*done)(struct shard *asking, const struct snapshots *all);
	uint32_t slot, generation, ticket; /* the asker's own: a connection that waits */
	struct snapshot by_shard[];
};

/* To be asked; NULL: out of memory. */
struct snapshots *snapshots_new(struct shard *asking,
				void (*done)(struct shard *asking, const struct snapshots *all));
/* Sends it round and takes it over. It may be back before this returns. */
void snapshots_ask(struct snapshots *all, struct shard *asking);
/* The broker's `figures` function. */
void snapshots_collect(struct shard *shard, struct letter *letter);

#endif
