#ifndef TOPIC_BLOCK_H
#define TOPIC_BLOCK_H

/*
 * A block: messages of one topic that came in together, with the topic's name, in one allocation.
 * It grows while one connection receives into it, is stamped once by the topic's home, and is
 * immutable from then on. It is shared between shards by an atomic count of holders: whoever holds
 * one may read it from any thread and lets go with block_unref.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/run.h"
#include "base/span.h"
#include "topic/letter.h"

struct block {
	struct letter letter;
	_Atomic uint32_t holders;
	uint32_t messages;
	uint8_t name_len;
	uint8_t type_len;      /* of its content type; 0: not known */
	uint8_t version_len;   /* of what its publisher calls its version; 0: nothing */
	uint8_t encoding_len;  /* of its content's codings; 0: none */
	uint8_t key_len;       /* of what its repetitions are known by; 0: by nothing */
	uint8_t form;          /* enum run_form: of the body */
	bool retain;           /* one message, to be kept as the topic's retained one */
	bool unechoed;         /* its publisher does not want to get it himself */
	uint32_t travelled_ns; /* before it was stamped: from its receive on, up to four seconds */
	/* For a publisher that waits to hear its number, at this connection: a letter to it, plain
	 * memory of the block's; or NULL. */
	struct letter *receipt;
	uint32_t shard, slot, generation; /* that; generation 0: not known */
	uint32_t head_len;                /* name and labels */
	uint64_t hash;                    /* of the name */
	uint64_t epoch, seq;  /* stamped by the home: seq is that of the first message, */
	uint64_t shift;       /* and what clients know it by is so much more */
	uint64_t stamped_ns;  /* before that: when it was received; 0: nobody says */
	size_t len, capacity; /* of the body */
	struct list age;      /* the home's: all history of a shard, oldest first */
	/* Where every BLOCK_INDEX_STEP-th message ends in the body, if somebody has asked for one
	 * of many; made once, by whoever comes first. */
	uint32_t *_Atomic ends;
	char bytes[]; /* name, type, version, encoding, key, then body */
};

/* An empty block for a topic with room for a body of this many bytes; the caller holds it. NULL:
 * out of memory. */
struct block *block_new(struct span name, uint64_t hash, size_t capacity);
/* The same with what its publisher says of it: content type, version, the content's codings, and
 * what a repetition of it is known by, of at most BLOCK_LABEL_MAX bytes each; empty: nothing. */
enum { BLOCK_LABEL_MAX = 255 };
struct block_labels {
	struct span type, version, encoding, key;
};
struct block *block_new_labelled(struct span name, uint64_t hash, const struct block_labels *labels,
				 size_t capacity);
/* Room for len more bytes, before it is published; the block may move. NULL: out of memory, the old
 * one is as it was. */
struct block *block_reserve(struct block *block, size_t len);

/* Gives back room that a finished block has too much of; the block may move. */
struct block *block_trim(struct block *block);

/* Who published it; generation 0: nobody knows. */
static inline void block_set_publisher(struct block *b, struct run_publisher publisher)
{
	b->shard = publisher.shard;
	b->slot = publisher.slot;
	b->generation = publisher.generation;
}

static inline struct span block_name(const struct block *b)
{
	return (struct span){ b->bytes, b->name_len };
}

static inline char *block_body(struct block *b)
{
	return b->bytes + b->head_len;
}

static inline struct span block_type(const struct block *b)
{
	return (struct span){ b->bytes + b->name_len, b->type_len };
}

static inline struct span block_version(const struct block *b)
{
	return (struct span){ b->bytes + b->name_len + b->type_len, b->version_len };
}

static inline struct span block_encoding(const struct block *b)
{
	return (struct span){ b->bytes + b->name_len + b->type_len + b->version_len,
			      b->encoding_len };
}

static inline struct span block_key(const struct block *b)
{
	return (struct span){
		b->bytes + b->name_len + b->type_len + b->version_len + b->encoding_len, b->key_len
	};
}

/* Its messages as a run: all; so many from the first-th on (0: the first). What comes before is not
 * looked at again each time. */
struct run block_run(const struct block *block);
enum { BLOCK_INDEX_STEP = 64 };
struct run block_part(struct block *block, uint32_t first, uint32_t messages);

/* What its first message is known by. */
static inline uint64_t block_number(const struct block *b)
{
	return b->seq + b->shift;
}

/* What it takes in memory. */
static inline size_t block_bytes(const struct block *b)
{
	return sizeof(*b) + b->head_len + b->capacity;
}

static inline void block_ref(struct block *b, uint32_t n)
{
	atomic_fetch_add_explicit(&b->holders, n, memory_order_relaxed);
}

void block_unref(struct block *block);

#endif
