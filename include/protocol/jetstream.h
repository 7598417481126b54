#ifndef PROTOCOL_JETSTREAM_H
#define PROTOCOL_JETSTREAM_H

/*
 * JetStream, as far as an upstream needs it: what is asked of its API (subjects $JS.API.…) and what
 * that answers, in JSON; what the headers of a republished message and the reply subject of a
 * consumer's say (docs.nats.io, "JetStream wire API reference", "Headers"; seen at nats-server
 * 2.9.10). Pure; any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

#define JETSTREAM_INFO "$JS.API.STREAM.INFO."
#define JETSTREAM_CREATE "$JS.API.STREAM.CREATE."
#define JETSTREAM_UPDATE "$JS.API.STREAM.UPDATE."
#define JETSTREAM_GET "$JS.API.STREAM.MSG.GET."
#define JETSTREAM_CONSUME "$JS.API.CONSUMER.CREATE."
#define JETSTREAM_FORGET "$JS.API.CONSUMER.DELETE."

/* A number of the API's errors that means: it is not there. */
enum { JETSTREAM_NONE = 404 };

enum { JETSTREAM_TEXT_MAX = 256, JETSTREAM_SUBJECTS_MAX = 4096 };

/* What is said of a stream, by INFO and CREATE. */
struct jetstream_stream {
	uint64_t error; /* 0: none; JETSTREAM_NONE: there is no such stream */
	char wrong[128];
	char created[64], description[4096 + 1];
	char subjects[JETSTREAM_SUBJECTS_MAX];                 /* a JSON array */
	char from[JETSTREAM_TEXT_MAX], to[JETSTREAM_TEXT_MAX]; /* republished; "": it is not */
	bool headers_only, direct;
	uint64_t duplicates_ns, replicas;
	uint64_t first, last; /* numbers in it */
};
/* False: it is malformed. */
bool jetstream_stream(struct span json, struct jetstream_stream *stream);

/* What it must be for an upstream. */
struct jetstream_wanted {
	const char *name;
	char *const *topics; /* patterns */
	size_t topics_n;
	const char *publish_prefix, *deliver_prefix;
};
enum { JETSTREAM_DUPLICATES_S = 120 };
/* What is wrong with it and what would be right, in so many bytes; false: nothing. */
bool jetstream_stream_wrong(const struct jetstream_stream *stream,
			    const struct jetstream_wanted *wanted, char *text, size_t room);

/* Limits of a stream that is to be made; 0: none. */
struct jetstream_limits {
	uint64_t messages_per_subject, age_s;
	unsigned replicas;
};
/* CREATE's body; returns its length, 0: there is not enough room. */
size_t jetstream_create(const struct jetstream_wanted *wanted,
			const struct jetstream_limits *limits, char *out, size_t room);

/* UPDATE's body, from what INFO has said: nothing else changes but that the description ends with
 * a count, or one more. 0: not enough room. */
size_t jetstream_count(struct span info, const char *description, char *out, size_t room);

/* MSG.GET's bodies: for the newest message of a subject; for one by its number. 0: no room. */
size_t jetstream_newest(struct span subject, char *out, size_t room);
size_t jetstream_number(uint64_t number, char *out, size_t room);
/* Its answer: the number; 0: there is none. False: it has failed. */
bool jetstream_found(struct span json, uint64_t *number);

/* CONSUMER.CREATE's body: for all messages of a subject from a number on, to be sent to another
 * subject, by a consumer that goes by itself. 0: no room. */
struct jetstream_consumer {
	const char *stream;
	struct span subject, deliver;
	uint64_t from;
};
size_t jetstream_consumer(const struct jetstream_consumer *consumer, char *out, size_t room);
/* Its answer: the consumer's name. Empty: it has failed. */
struct span jetstream_consumer_name(struct span json);

/* What is answered to a message that was published. */
struct jetstream_ack {
	uint64_t error; /* 0: it is in the stream; else nothing else is said */
	uint64_t number;
	bool duplicate; /* it was already */
};
/* False: it is none. */
bool jetstream_ack(struct span json, struct jetstream_ack *ack);

/* The status of a message without body ("NATS/1.0 503"); 0: it has none. */
unsigned jetstream_status(struct span headers);

/* Where a republished message stands: its number and that of the subject's message before it, 0: it
 * is the first. False: the headers do not say. */
struct jetstream_place {
	uint64_t number, before;
};
bool jetstream_place(struct span headers, struct jetstream_place *place);

/* Where a message of a consumer's stands, by its reply subject. */
struct jetstream_delivery {
	uint64_t number;  /* in the stream */
	uint64_t count;   /* how manyth of the consumer's it is */
	uint64_t pending; /* that are still to come */
};
bool jetstream_delivery(struct span reply, struct jetstream_delivery *delivery);

/* Whether a server is of this version or later: "2.11.0". */
bool jetstream_at_least(const char *version, unsigned major, unsigned minor);

#endif
