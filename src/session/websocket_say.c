#include "broker/connection.h"
#include "broker/shard.h"
#include "protocol/websocket_command.h"
#include "session/websocket_topics.h"
#include "session/words.h"

const char *websocket_json_reason(enum reason reason)
{
	return reason_words[reason];
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
