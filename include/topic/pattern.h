#ifndef TOPIC_PATTERN_H
#define TOPIC_PATTERN_H

/*
 * A table of patterns: which of them match a name is found by walking a trie of levels, so that it
 * takes as many steps as there are beginnings of patterns that the name has, however many other
 * patterns there are. Globs (base/glob.h) that mean something native are in the trie too, those
 * that are a prefix in a table by length; only the others are compared one by one.
 *
 * A name without wildcards is a pattern as well, which matches itself. Patterns are embedded in
 * what they stand for, whose owner counts it; the table owns the trie only. One thread.
 *
 * Whoever keeps what a name was matched by keeps the generation of the table with it: while that is
 * the same, so is the answer. Names are told apart by their first level for it, so that patterns
 * that come and go (every client's inbox is one) leave what is kept for other names as it is.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/glob.h"
#include "base/name.h"
#include "base/span.h"
#include "base/table.h"

enum pattern_kind {
	PATTERN_NONE,   /* no pattern, but the name of a topic */
	PATTERN_NATIVE, /* base/name.h */
	PATTERN_MQTT,   /* the same levels, but '>' matches none, too: what MQTT writes "a/#" is
			   "a.>" here */
	PATTERN_GLOB,   /* base/glob.h */
	PATTERN_KINDS
};

enum {
	PATTERN_BUCKETS = 256,
	PATTERN_GROUP_MAX = 255, /* bytes of a group's name */
	PATTERN_KEY_MAX = 2 + PATTERN_GROUP_MAX + NAME_BYTES_MAX,
};

/* What tells patterns apart: how the text is meant, the queue group, and the text. */
struct pattern_key {
	uint64_t hash;
	size_t len;
	char bytes[PATTERN_KEY_MAX];
};

struct pattern_node;

struct pattern {
	struct named named;           /* first; its name is the key's bytes */
	struct span text;             /* in the key */
	struct span group;            /* in the key; empty: it belongs to none */
	struct pattern *next, **link; /* among those that stand at the same place */
	struct pattern_node *node;    /* where that is; NULL: in no trie */
	uint8_t kind;                 /* enum pattern_kind */
	uint8_t form;                 /* enum glob_kind: how it is looked for */
	uint8_t prefix_len;           /* GLOB_PREFIX */
	bool counted_apart;           /* the names that it matches have one first level, */
	uint8_t bucket;               /* which is in this one */
};

/* What patterns that begin with the same levels have in common. The key lies behind it. */
struct pattern_node {
	struct named named; /* first; the name is the parent's address and the level */
	struct pattern_node *parent, *star;
	struct pattern *here;  /* match what ends with this level, */
	struct pattern *below; /* what goes on, */
	struct pattern *from;  /* and both */
	uint32_t children;     /* beside the star */
};

/* A node that has the name's first levels, and so many of these. */
struct pattern_visit {
	const struct pattern_node *node; /* NULL: it has gone meanwhile */
	unsigned levels;
};

/* Looking for all that match a name, in pieces. */
struct pattern_walk {
	struct span name, levels[NAME_LEVELS_MAX];
	unsigned levels_n, waiting_n;
	/* Of two ways on, one waits: never more than one for each level. */
	struct pattern_visit at, waiting[NAME_LEVELS_MAX + 1];
	bool ends_seen;       /* of the node that it is at: those that end there, or go on */
	struct pattern *next; /* the next one of those that stand there */
};

struct patterns {
	struct table keys, nodes;
	struct pattern_node root;
	struct table prefixes;                   /* struct pattern_prefix */
	uint32_t prefixes_n[NAME_BYTES_MAX + 1]; /* of each length */
	struct pattern_walk *walk;               /* one that has stopped; or NULL */
	struct pattern *globs;                   /* those that are compared */
	uint32_t globs_n;
	uint64_t generation;                   /* changes that may concern any name; */
	uint64_t generations[PATTERN_BUCKETS]; /* those with a first level in this bucket */
};

/* All zero is an empty table. It has to be empty again. */
void patterns_release(struct patterns *patterns);

/* group may be empty, and is no longer than PATTERN_GROUP_MAX; text is valid for its kind
 * (PATTERN_NONE: a name). */
void pattern_key_make(struct pattern_key *key, enum pattern_kind kind, struct span group,
		      struct span text);
/* The pattern is all zero but for what its owner knows; bytes: where the key's are to stay. */
void pattern_init(struct pattern *pattern, const struct pattern_key *key, char *bytes);

struct pattern *patterns_find(const struct patterns *patterns, const struct pattern_key *key);
/* It must not be there yet. -ENOMEM: it is not there. */
int patterns_add(struct patterns *patterns, struct pattern *pattern);
/* It must be there. */
void patterns_remove(struct patterns *patterns, struct pattern *pattern);
/* What its owner knows of it has changed: for those who keep answers it is another one. */
void patterns_touch(struct patterns *patterns, const struct pattern *pattern);

/* Calls for every pattern that matches the name, which is valid. The callback changes nothing in
 * the table. */
void patterns_match(const struct patterns *patterns, struct span name,
		    void (*matched)(struct pattern *, void *), void *argument);

/* The same in pieces: begins, and goes on by so many steps. The name must stay. True: it has come
 * to its end; one that has stopped before may be forgotten. What is added meanwhile may be left
 * out, what is removed is not called for any more. */
void pattern_walk_begin(struct pattern_walk *walk, struct span name);
bool pattern_walk_on(struct patterns *patterns, struct pattern_walk *walk, unsigned steps,
		     void (*matched)(struct pattern *, void *), void *argument);
void pattern_walk_forget(struct patterns *patterns);

/* Whether this one does; it need not be in a table. */
bool pattern_matches(const struct pattern *pattern, struct span name);

/* In which bucket a name's first level is. */
uint8_t pattern_bucket(struct span name);

static inline uint64_t patterns_generation(const struct patterns *p, uint8_t bucket)
{
	/* None of the two ever goes back. */
	return p->generation + p->generations[bucket];
}

static inline bool patterns_empty(const struct patterns *p)
{
	return p->keys.entries_n == 0;
}

/* Whether a pattern of this kind is one that may be asked for. */
bool pattern_valid(enum pattern_kind kind, struct span text);
/* Whether one of these texts has a wildcard. */
bool pattern_wild(struct span text);

#endif
