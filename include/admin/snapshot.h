#ifndef ADMIN_SNAPSHOT_H
#define ADMIN_SNAPSHOT_H

/*
 * Every reactor's counters at the moment when somebody asks: a letter goes by each shard in turn,
 * which copies its own into it, and comes back to whoever asked. One such letter is under way at a
 * time.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/shard.h"
#include "engine/reactor.h"
#include "topic/letter.h"

enum { SNAPSHOT_TOPICS = 8 };

/* What is told of a histogram of times: powers of two are bounds enough. */
enum { LATENCY_FIRST_POWER = 14, LATENCY_LAST_POWER = 34 }; /* ns: 16 us to 17 s */
enum { LATENCY_POWERS = LATENCY_LAST_POWER - LATENCY_FIRST_POWER + 1 };
struct snapshot_latency {
	uint64_t count, sum, max, p50, p99;
	uint64_t upto[LATENCY_POWERS]; /* so many up to that power */
};

struct snapshot {
	uint64_t at_ns;
	struct shard_counters counters;
	struct reactor_stats reactor;
	struct ring_counts ring;
	struct tls_counts tls;
	uint64_t accepts_refused_by_rate;
	struct histogram send_gap, hash, upstream_publish;
	struct snapshot_latency doors[DOORS], sections[LATENCY_SECTIONS];
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

/* LETTER_FIGURES, counted memory. Belongs to the shard that has it. */
struct snapshots {
	struct letter letter;
	unsigned asking, collected;
	bool published;  /* with the busiest topics */
	unsigned wanted; /* the asker's own */
	/* On the asking shard, with all of them; takes them over. */
	void (*done)(struct shard *asking, struct snapshots *all);
	/* On the shard that is just ranking its topics. */
	size_t rank_at, rank_slots_n;
	uint64_t elapsed_ns;
	struct snapshot by_shard[];
};

/* To be asked; NULL: out of memory. */
struct snapshots *snapshots_new(struct shard *asking,
				void (*done)(struct shard *asking, struct snapshots *all));
/* Sends it round and takes it over. */
void snapshots_ask(struct snapshots *all, struct shard *asking);
/* LETTER_FIGURES: adds this shard's, and sees to it that the letter goes on. */
void snapshots_collect(struct shard *shard, struct letter *letter);
/* Ranks more of the topics for the letter that waits for it here, as far as there is time. Whether
 * more are left. */
bool snapshots_rank(struct shard *shard);

#endif
