#ifndef TOPIC_TOPIC_H
#define TOPIC_TOPIC_H

/*
 * A topic at its home shard: the one who gives numbers, keeps the past and knows which shards have
 * subscribers and how many publishers there are. The home shard's thread only.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/tree.h"
#include "base/table.h"
#include "topic/block.h"
#include "topic/history.h"

struct config;
struct config_topic;

struct known_pattern;

/* Whom messages of a name go to, as far as it has been found out. */
struct reach {
	uint64_t generation; /* of the home's patterns then */
	uint64_t *shards;    /* bit per shard with subscribers, by the name or by a pattern */
	uint32_t shards_n;
	uint32_t groups_n; /* patterns of groups that match, those of one group side by side */
	struct known_pattern **groups;
};

struct topic {
	struct named named; /* first: it is in the shard's table */
	const struct config_topic *settings;
	struct history_limits limits;
	uint64_t epoch, seq; /* of the newest message; 0: none yet */
	uint64_t number;     /* what that is known by: */
	uint64_t shift;      /* so much more than seq, for those that come */
	uint64_t *shards;    /* bit per shard with subscribers to this very topic */
	uint32_t shards_n;
	struct reach reach;   /* those, and patterns; renewed when a message comes */
	uint64_t subscribers; /* to this very topic, of all shards, as far as they have told */
	uint64_t responders;  /* those of them who see where a reply is wanted */
	struct list heard;    /* the owner's: topics that have some */
	uint32_t publishers;
	uint32_t pins; /* the owner's: so many other reasons not to forget it */
	void *tapped;  /* the owner's: it belongs to somebody who numbers nothing but what he has
			  seen to himself; or NULL */
	struct history history;
	struct list
		link; /* forgotten after a while without clients: the shard's list, by idle_ns */
	struct list every; /* the shard's list of all of them */
	/* The owner's: requests for messages that are not there yet, by number and by version. */
	struct tree awaited_numbers, awaited_versions;
	uint32_t settings_n;    /* the owner's: how manyth settings these are */
	struct block *retained; /* the owner's, held; NULL: there is none */
	struct tree_entry retained_entry;
	uint8_t bucket; /* of its name's first level (topic/pattern.h) */
	bool known;     /* somebody has published or subscribed, not only asked */
	bool versioned; /* a message with a version has come: the greatest one is */
	uint64_t version[2];
	uint64_t ranked_seq; /* where it was when topics were last ranked by rate */
	uint64_t idle_ns;    /* since when there have been no clients; 0: there are some */
	char name[];
};

/* Whether a name is that of one of the broker's own topics, which it alone publishes to. */
static inline bool topic_internal(struct span name)
{
	return name.len > 5 && memcmp(name.data, "$sys.", 5) == 0;
}

/* Whether messages of this name have no number and leave nothing behind, whatever its settings say.
 */
bool topic_passes(struct span name);
/* The same, or by its settings. */
bool topic_leaves_nothing(const struct config *config, struct span name);

/*
 * The hash of a topic's name, by which everybody asks for it: the upper half chooses its home, the
 * lower one its place in tables. Sections whose topics have one order share the upper half, and so
 * do inboxes with the same first two levels, so that a client's pattern for its own stands at one
 * home.
 */
uint64_t topic_hash(struct span name);
/* Whether all names that this pattern matches have the same home; *hash: as theirs. */
bool topic_hash_of_pattern(struct span pattern, uint64_t *hash);
/* Takes note of sections with one order, instead of those before; NULL: of none. Called before
 * threads start. -ENOMEM. */
int topic_hash_sections(const struct config *config);

/* Whether anybody waits for a message of it. */
static inline bool topic_awaited(const struct topic *topic)
{
	return topic->awaited_numbers.root != NULL || topic->awaited_versions.root != NULL;
}

/* NULL: out of memory. */
struct topic *topic_new(struct span name, uint64_t hash, unsigned shards,
			const struct config_topic *settings);
void topic_free(struct topic *topic, struct history_total *total);
/* Other settings from now on. */
void topic_configure(struct topic *topic, const struct config_topic *settings);

/* Gives the block its numbers and keeps it as history. */
void topic_sequence(struct topic *topic, struct block *block, struct history_total *total,
		    uint64_t now_ns);

/* The next message will be known by this number, which must be greater than those before: for
 * topics that somebody else numbers. */
static inline void topic_shift(struct topic *topic, uint64_t number)
{
	topic->shift = number - (topic->seq + 1);
}

/* Whoever has the message of this number, or knows that there is none between, misses none of what
 * the history has. */
uint64_t topic_floor(const struct topic *topic);

/* Puts blocks (list of their age), whose numbers stand in `shift`, before the others, as far as
 * they are within the limits; floor: number of the message before them. Takes them over. There must
 * be as many places before what is known. */
void topic_prepend(struct topic *topic, struct list *blocks, uint64_t floor,
		   struct history_total *total, uint64_t now_ns);

/* No past, and this epoch (0: another one): what comes next is behind this number, and does not
 * follow on what was. */
void topic_begin_anew(struct topic *topic, struct history_total *total, uint64_t epoch,
		      uint64_t number);

/* A shard's first subscriber to this very topic, and the last; patterns have no part in it. The
 * topic's reach is to be found out anew after the latter. */
void topic_add_shard(struct topic *topic, unsigned shard);
void topic_remove_shard(struct topic *topic, unsigned shard);
bool topic_has_shard(const struct topic *topic, unsigned shard);

/* As many words as have a bit for each of so many shards. */
static inline size_t shard_words(unsigned shards)
{
	return (shards + 63) / 64;
}

/* No generation of patterns. */
#define REACH_UNKNOWN UINT64_MAX

/* What of the past a subscriber wants. */
enum replay_kind {
	REPLAY_NONE,
	REPLAY_FROM,
	REPLAY_LAST,
	REPLAY_RETAINED, /* the retained message, as MQTT has it, and nothing of the history */
};

struct replay {
	enum replay_kind kind;
	uint64_t epoch; /* FROM */
	uint64_t n;     /* FROM: after the message of this number; LAST: so many */
};

/* What it gets. */
struct replay_answer {
	uint64_t epoch;
	uint64_t gap; /* number of the oldest message left, if what was asked for is not whole; 0:
			 it is */
	uint64_t messages; /* how many there are */
	uint64_t from;     /* place (seq) of the first; if there is none, of the next one */
	uint64_t after;    /* a number before that and not before any that came earlier */
};

struct replay_answer topic_replay(const struct topic *topic, const struct replay *wanted);

#endif
