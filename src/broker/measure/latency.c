#include "broker/latency.h"

#include <string.h>

#include "base/config.h"
#include "broker/connection.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "topic/block.h"
#include "topic/interest.h"

const char *const door_names[DOORS] = {
	[DOOR_OTHER] = "other",         [DOOR_LINE] = "line", [DOOR_HTTP] = "http",
	[DOOR_WEBSOCKET] = "websocket", [DOOR_RESP] = "resp", [DOOR_NATS] = "nats",
	[DOOR_MQTT] = "mqtt",
};

void latency_follow(struct stream *stream, const struct block *b, uint64_t now_ns)
{
	if (stream->followed.left > 0 &&
	    now_ns - stream->followed.taken_ns < LATENCY_GIVEN_UP_MS * NS_PER_MS)
		return;
	stream->followed.pos = stream->pos;
	stream->followed.received_ns = b->stamped_ns - b->travelled_ns;
	stream->followed.taken_ns = now_ns;
	stream->followed.left = stream->cursors;
}

static void count(struct shard *s, const struct subscription *sub)
{
	struct stream *stream = sub->stream;
	const struct interest *i = stream->owner;
	size_t section = i->settings->section;
	uint64_t now_ns = s->reactor.now_ns, since_ns = stream->followed.received_ns;
	/* The publisher's reactor may have begun its turn later, by its own clock. */
	uint64_t ns = now_ns > since_ns ? now_ns - since_ns : 0;

	stream->followed.left--;
	histogram_add(&s->latencies->doors[sub->connection->protocol->door], ns);
	histogram_add(&s->latencies->sections[section < LATENCY_SECTIONS ? section
									 : LATENCY_SECTIONS - 1],
		      ns);
}

void latency_sent(struct shard *s, const struct subscription *sub, size_t bytes)
{
	/* Not behind that place before, nor before it then. */
	if (sub->stream->followed.pos - sub->cursor.pos - 1 < bytes)
		count(s, sub);
}

void latency_configure(struct latencies *l, const struct config *before, const struct config *now)
{
	bool same = before->topic_n == now->topic_n;

	for (size_t i = 0; same && i < now->topic_n; i++)
		same = strcmp(before->topic[i].pattern, now->topic[i].pattern) == 0;
	if (!same)
		memset(l->sections, 0, sizeof(l->sections));
}
