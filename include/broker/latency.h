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

struct block;
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
void latency_follow(struct stream *stream, const struct block *block, uint64_t now_ns);
static inline void latency_appended(struct stream *stream, const struct block *block,
				    uint64_t now_ns)
{
	if (now_ns - stream->followed.taken_ns >= LATENCY_EVERY_MS * NS_PER_MS)
		latency_follow(stream, block, now_ns);
}

/* So many bytes of a stream that is followed (left > 0) have been sent from where a cursor stands:
 * counts it if it gets what is followed by that. */
void latency_sent(struct shard *shard, const struct subscription *subscription, size_t bytes);
/* Where sections have other numbers from now on, they begin anew. */
void latency_configure(struct latencies *latencies, const struct config *before,
		       const struct config *now);

#endif
