#ifndef BROKER_LATENCY_H
#define BROKER_LATENCY_H

/*
 * How long messages are in the broker: from the turn in which the last bytes of one were received
 * until that in which the send that carried it to a subscriber has ended; by the subscriber's door,
 * and by its topic's section of the configuration. One message of a stream at a time is followed to
 * all its subscribers, ten a second at most, so that it costs next to nothing. The shard's thread
 * only.
 */

#include <stdint.h>

#include "base/clock.h"
#include "base/histogram.h"
#include "topic/stream.h"

struct config;
struct shard;
struct subscription;

/* What subscribers speak, as an operator names it. */
enum door {
	DOOR_OTHER, /* nobody subscribes there */
	DOOR_LINE,
	DOOR_HTTP,
	DOOR_WEBSOCKET,
	DOOR_RESP,
	DOOR_NATS,
	DOOR_MQTT,
	DOORS
};
extern const char *const door_names[DOORS];

/* `topics`, then `topic` sections in the file's order, and one for all that come after. */
enum { LATENCY_SECTIONS = 16 };

struct latencies {
	struct histogram doors[DOORS], sections[LATENCY_SECTIONS]; /* ns */
};

enum {
	LATENCY_EVERY_MS = 100,
	/* Somebody who has left, or skipped, will never get it. */
	LATENCY_GIVEN_UP_MS = 1000,
};

/* A block has been appended to a stream: it is followed, if it is time for another one. */
static inline void latency_appended(struct stream *stream, uint64_t received_ns, uint64_t now_ns)
{
	uint64_t since_ns = now_ns - stream->followed.taken_ns;

	if (since_ns < LATENCY_EVERY_MS * NS_PER_MS ||
	    (stream->followed.left > 0 && since_ns < LATENCY_GIVEN_UP_MS * NS_PER_MS))
		return;
	stream->followed.pos = stream->pos;
	stream->followed.received_ns = received_ns;
	stream->followed.taken_ns = now_ns;
	stream->followed.left = stream->cursors;
}

/* Whether a cursor that stood there has now been sent what is followed. */
static inline bool latency_reached(const struct stream *stream, const struct cursor *cursor,
				   uint64_t from)
{
	return from < stream->followed.pos && cursor->pos >= stream->followed.pos;
}

/* Its cursor has. */
void latency_count(struct shard *shard, const struct subscription *subscription);
/* Where sections have other numbers from now on, they begin anew. */
void latency_configure(struct latencies *latencies, const struct config *before,
		       const struct config *now);

#endif
