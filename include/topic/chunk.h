#ifndef TOPIC_CHUNK_H
#define TOPIC_CHUNK_H

/*
 * A link of a stream's chain: encoded messages, or history that is still to be encoded. It is held
 * by the cursors that stand in it and by the chunk before it, the newest one by the stream. Only
 * the files of streams look inside. One thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

struct block;
struct pending;
struct run;
struct segment;
struct stream;
struct wire_format;

/* The smallest that is made for what is encoded. */
enum { CHUNK_BYTES_MIN = 2 << 10 };

struct chunk {
	struct chunk *next;
	struct stream *stream; /* in whose chain it is; NULL: a cursor's own */
	uint32_t refs;
	bool live;      /* came as it was published: it counts in the stream's backlog */
	bool sealed;    /* nothing more will be written */
	bool detached;  /* a cursor's own, in front of wherever the head will be then */
	bool uneven;    /* some number from seq on has no bytes: only its start can be found */
	uint64_t base;  /* position of its first byte */
	uint64_t first; /* messages before it */
	/* In it. Where the next one's `first` is greater than both together, the others behind its
	 * end have no form: whoever goes on counts them as such. */
	uint64_t messages;
	uint64_t seq;      /* number of its first message */
	uint64_t next_pos; /* where its reader goes on in next */
	uint64_t opened_ns;
	size_t used, capacity; /* used: readable bytes, the referenced body included */
	/* One referenced message: data holds prefix and suffix, the body lies in the block between
	 * them. */
	struct block *block;
	struct span body;
	size_t prefix_len, suffix_len;
	/* All that is readable, where it lies in one piece; NULL: it lies in parts. */
	const char *bytes;
	/* Not encoded yet: all its messages; no byte of it can be read. NULL: it is. */
	struct pending *pending;
	/* What has been encoded; behind it, where its format has no boundaries, from the back on
	 * where each message ends, in four bytes each. */
	char data[];
};

enum { CHUNK_END_BYTES = 4 };

/* The caller holds it. NULL: out of memory. */
struct chunk *chunk_new(size_t capacity, uint64_t base, uint64_t first);
void chunk_unref(struct chunk *chunk);
/* The first end of a message at or after an offset into it. */
size_t chunk_boundary(const struct wire_format *format, const struct chunk *chunk, size_t at);
/* The end of the message that begins at this offset. */
size_t chunk_message_end(const struct wire_format *format, const struct chunk *chunk, size_t at);

/* Notes where the messages of a run end that were encoded behind what is there, before they are
 * counted. */
void chunk_note_ends(struct chunk *chunk, const struct run *run);

/* The end of its n-th message (0: its start); every number in it must have bytes. */
size_t chunk_skip(const struct wire_format *format, const struct chunk *chunk, uint64_t n);

static inline size_t chunk_bytes(const struct chunk *c)
{
	return sizeof(*c) + c->capacity + c->body.len;
}

static inline uint64_t chunk_end(const struct chunk *c)
{
	return c->base + c->used;
}

#endif
