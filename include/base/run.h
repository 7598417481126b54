#ifndef BASE_RUN_H
#define BASE_RUN_H

/*
 * A run: messages of one topic with consecutive numbers, in one of three forms, and the one way to
 * walk them. It owns nothing; what it points to is a block's. Any thread.
 *
 * A record is four bytes, how long its payload is in the machine's order (records never leave the
 * process), then the payload, whatever bytes it is made of. The highest bit of the length says that
 * a byte of flags follows, and behind that for each extra that they name its length in four bytes
 * and itself, before the payload.
 */

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/span.h"

enum run_form {
	RUN_ONE,     /* one message: all of the body */
	RUN_LINES,   /* each message followed by CRLF; none holds a CR or LF */
	RUN_RECORDS, /* each message a record */
};

/* Who published: a connection of a shard. generation 0: not known. */
struct run_publisher {
	uint32_t shard, slot, generation;
};

struct run {
	struct span topic;
	struct span body;
	uint32_t messages; /* RUN_ONE: 1, or 0 when it has been taken */
	enum run_form form;
	uint64_t epoch, seq; /* seq of the first */
	uint64_t shift;      /* so much more is what its messages are known by (run_number) */
	struct span type;    /* content type, or empty */
	struct run_publisher publisher;
};

/* The number that clients know the first message by. Places in a topic (seq) have no holes; numbers
 * that a log shared with other topics has given do. */
static inline uint64_t run_number(const struct run *run)
{
	return run->seq + run->shift;
}

enum { RECORD_HEAD_BYTES = 4 };

/* A message with what its publisher said beside it; empty: nothing. */
struct record {
	struct span payload;
	struct span reply;      /* the topic that an answer is wanted on */
	struct span headers;    /* NATS/1.0 ..., with the empty line at its end */
	struct span type;       /* content type */
	struct span version;    /* what its publisher calls its version */
	struct span properties; /* MQTT 5's own, as they stand in its PUBLISH */
	bool retain;            /* MQTT's */
};

/* Writes a record, returns where the next one goes. */
static inline char *record_put(char *out, struct span message)
{
	uint32_t len = (uint32_t)message.len;

	assert(message.len <= INT32_MAX);
	memcpy(out, &len, sizeof(len));
	if (message.len > 0)
		memcpy(out + RECORD_HEAD_BYTES, message.data, message.len);
	return out + RECORD_HEAD_BYTES + message.len;
}

#define RECORD_HAS_EXTRAS (UINT32_C(1) << 31)

/* Bytes that record_write writes, and so many at most beside the payload and the extras. */
enum { RECORD_AROUND_MAX = RECORD_HEAD_BYTES + 1 + 5 * RECORD_HEAD_BYTES };
size_t record_bytes(const struct record *record);
/* Writes all of a record but its payload, which may be put where this returns. */
char *record_begin(char *out, const struct record *record);
/* Writes a record with its extras, returns where the next one goes. */
char *record_write(char *out, const struct record *record);
/* The record at the start, which has extras. */
struct record record_read(struct span records);

/* The payload of the record at the start. */
static inline struct span record_payload(struct span records)
{
	uint32_t len;

	assert(records.len >= RECORD_HEAD_BYTES);
	memcpy(&len, records.data, sizeof(len));
	if (len & RECORD_HAS_EXTRAS)
		return record_read(records).payload;
	assert(len <= records.len - RECORD_HEAD_BYTES);
	return (struct span){ records.data + RECORD_HEAD_BYTES, len };
}

/* Takes the next message off, without what ends or precedes it; false: there is none left. */
static inline bool run_next(struct run *run, struct span *message)
{
	const char *end;

	if (run->messages == 0)
		return false;
	run->messages--;
	run->seq++;
	if (run->form == RUN_LINES) {
		end = memchr(run->body.data, '\r', run->body.len);
		assert(end != NULL);
		*message = (struct span){ run->body.data, (size_t)(end - run->body.data) };
		run->body = span_skip(run->body, message->len + 2);
		return true;
	}
	*message = run->form == RUN_ONE ? run->body : record_payload(run->body);
	run->body = span_skip(run->body, (size_t)(message->data - run->body.data) + message->len);
	return true;
}

/* Takes the next message off if it is a payload and nothing beside it; false: it is not, or there
 * is none left. */
static inline bool run_next_plain(struct run *run, struct span *payload)
{
	uint32_t len;

	if (run->type.len > 0 || run->messages == 0)
		return false;
	if (run->form == RUN_RECORDS) {
		assert(run->body.len >= RECORD_HEAD_BYTES);
		memcpy(&len, run->body.data, sizeof(len));
		if (len & RECORD_HAS_EXTRAS)
			return false;
	}
	return run_next(run, payload);
}

/* run_next with its extras: those of records; a run of one has its content type. */
bool run_next_record(struct run *run, struct record *record);

/* Bytes of a run's first n messages, with what ends or precedes them. */
size_t run_skip(const struct run *run, uint32_t n);

/* The message of a run of one. */
struct span run_only(const struct run *run);

#endif
