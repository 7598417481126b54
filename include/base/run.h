#ifndef BASE_RUN_H
#define BASE_RUN_H

/*
 * A run: messages of one topic with consecutive numbers, in one of three forms, and the one way to
 * walk them. It owns nothing; what it points to is a block's. Any thread.
 *
 * A record is four bytes, how long its payload is in the machine's order (records never leave the
 * process), then the payload, whatever bytes it is made of. The highest bit of the length is kept
 * free: it will say that one byte of flags follows, and behind that what these name (a reply
 * subject, headers, a content type, a version), before the payload.
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

struct run {
	struct span topic;
	struct span body;
	uint32_t messages; /* RUN_ONE: 1, or 0 when it has been taken */
	enum run_form form;
	uint64_t epoch, seq; /* seq of the first */
	struct span type;    /* content type, or empty */
};

enum { RECORD_HEAD_BYTES = 4 };

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

/* The payload of the record at the start. */
static inline struct span record_payload(struct span records)
{
	uint32_t len;

	assert(records.len >= RECORD_HEAD_BYTES);
	memcpy(&len, records.data, sizeof(len));
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

/* Bytes of a run's first n messages, with what ends or precedes them. */
size_t run_skip(const struct run *run, uint32_t n);

/* The message of a run of one. */
struct span run_only(const struct run *run);

#endif
