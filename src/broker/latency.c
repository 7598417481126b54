#include "broker/latency.h"

#include <string.h>

#include "base/config.h"
#include "broker/connection.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "topic/interest.h"

const char *const door_names[DOORS] = {
	[DOOR_OTHER] = "other",         [DOOR_LINE] = "line", [DOOR_HTTP] = "http",
	[DOOR_WEBSOCKET] = "websocket", [DOOR_RESP] = "resp", [DOOR_NATS] = "nats",
	[DOOR_MQTT] = "mqtt",
};

void latency_count(struct shard *s, const struct subscription *sub)
{
	struct stream *stream = sub->stream;
	const struct interest *i = stream->owner;
	size_t section = i->settings->section;
	uint64_t now_ns = s->reactor.now_ns, since_ns = stream->followed.received_ns;
	/* The publisher's reactor may have begun its turn later, by its own clock. */
	uint64_t ns = now_ns > since_ns ? now_ns - since_ns : 0;

	stream->followed.left -= stream->followed.left > 0;
	histogram_add(&s->latencies->doors[sub->connection->protocol->door], ns);
	histogram_add(&s->latencies->sections[section < LATENCY_SECTIONS ? section
									 : LATENCY_SECTIONS - 1],
		      ns);
}

void latency_configure(struct latencies *l, const struct config *before, const struct config *now)
{
	bool same = before->topic_n == now->topic_n;

	for (size_t i = 0; same && i < now->topic_n; i++)
		same = strcmp(before->topic[i].pattern, now->topic[i].pattern) == 0;
	if (!same)
		memset(l->sections, 0, sizeof(l->sections));
}
