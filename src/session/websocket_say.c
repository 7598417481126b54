#include "broker/connection.h"
#include "broker/shard.h"
#include "protocol/websocket_command.h"
#include "session/websocket_topics.h"

static const char *const reasons[REASONS] = {
	[REASON_TIMEOUT] = "timeout",
	[REASON_SLOW] = "slow consumer",
	[REASON_UPSTREAM] = "upstream",
	[REASON_TOO_LONG] = "message too long",
	[REASON_CONNECTIONS] = "too many connections",
	[REASON_SUBSCRIPTIONS] = "too many subscriptions",
	[REASON_TOPICS] = "too many topics",
	[REASON_PATTERNS] = "too many patterns",
	[REASON_MEMORY] = "out of memory",
	[REASON_DRAINING] = "draining",
	[REASON_NOT_PERMITTED] = "not permitted",
	[REASON_EXPIRED] = "not permitted",
};

const char *websocket_json_reason(enum reason reason)
{
	return reasons[reason];
}

void websocket_json_say(struct connection *c, const char *frame, size_t n)
{
	(void)connection_reply(c, (struct span){ frame, n });
}

void websocket_json_error(struct connection *c, const char *reason, struct span name,
			  struct span ref)
{
	char out[WEBSOCKET_ANSWER_MAX];

	c->shard->counters.errors++;
	websocket_json_say(c, out, websocket_answer_error(reason, name, ref, out));
}
