#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "base/name.h"
#include "broker/shard.h"
#include "session/upstream.h"
#include "topic/block.h"
#include "topic/topic.h"

/*
 * Subjects, and what answers come back on.
 *
 * A request goes up with an inbox of this connection's in place of its own, which is written behind
 * it: so the server, which says that nobody is there only to the very connection that has asked,
 * says it here, whichever shard the requester's inbox is at home at, and no inbox is subscribed to
 * for a request.
 */

enum { CONSUMER_MAX = 2048 };

void upstream_put(struct upstream *u, struct span bytes)
{
	if (bytes.len > 0 && u->state >= UPSTREAM_JOINING)
		(void)u->write(u, bytes);
}

struct span upstream_prefix(const struct upstream *u, struct span subject)
{
	return span_of(topic_passes(subject) ? "" : u->config->publish_prefix);
}

struct span upstream_behind(struct span text, const char *prefix)
{
	size_t n = strlen(prefix);

	if (text.len <= n || memcmp(text.data, prefix, n) != 0)
		return (struct span){ NULL, 0 };
	return span_skip(text, n);
}

static void subscribe_to_replies(struct upstream *u)
{
	char text[UPSTREAM_INBOX_MAX + 16];
	int n = snprintf(text, sizeof(text), "SUB %s> %d\r\n", u->replies, UPSTREAM_REPLIES_SID);

	upstream_put(u, (struct span){ text, (size_t)n });
}

void upstream_inbox_begin(struct upstream *u)
{
	snprintf(u->replies, sizeof(u->replies), "_INBOX.%sr.", u->nonce);
	if (u->replied)
		subscribe_to_replies(u);
}

struct span upstream_reply(struct upstream *u, const struct block *b, struct span reply)
{
	char text[UPSTREAM_SUBJECT_MAX];
	struct span ours = { u->reply, 0 };

	/* One that is kept, or too long for what stands before it, is as it is. */
	if (!name_valid(reply) || !topic_leaves_nothing(u->shard->config, reply))
		return reply;
	ours.len = (size_t)snprintf(text, sizeof(text), "%s%c.%.*s", u->replies,
				    b->receipt != NULL ? UPSTREAM_TELL : UPSTREAM_TELL_NOT,
				    (int)reply.len, reply.data);
	if (!name_valid((struct span){ text, ours.len }))
		return reply;
	memcpy(u->reply, text, ours.len);
	if (!u->replied) {
		u->replied = true;
		subscribe_to_replies(u);
	}
	return ours;
}

void upstream_hand_on(struct upstream *u, struct block *b)
{
	struct shard *s = u->shard;

	b->stamped_ns = s->reactor.now_ns;
	shard_post(s, shard_home(s, b->hash), LANE_FREE, &b->letter);
}

void upstream_acknowledge(struct upstream *u, struct span reply, uint64_t number, bool duplicate)
{
	struct block *b;
	char text[256];
	int n = snprintf(text, sizeof(text), "{\"stream\":\"%s\",\"seq\":%" PRIu64 "%s}",
			 u->config->stream, number, duplicate ? ",\"duplicate\":true" : "");

	/* An inbox: he might not be permitted to publish elsewhere. */
	if (n < 0 || (size_t)n >= sizeof(text) || !name_valid(reply) ||
	    !topic_leaves_nothing(u->shard->config, reply))
		return;
	b = block_new(reply, topic_hash(reply), (size_t)n);
	/* Without memory for it nothing is said. */
	if (b == NULL)
		return;
	memcpy(block_body(b), text, (size_t)n);
	b->len = (size_t)n;
	b->messages = 1;
	b->form = RUN_ONE;
	upstream_hand_on(u, b);
}

void upstream_request(struct upstream *u, const char *api, const char *more, const char *to,
		      struct span name, struct span body)
{
	char text[48];
	int n = snprintf(text, sizeof(text), " %zu\r\n", body.len);

	upstream_put(u, SPAN("PUB "));
	upstream_put(u, span_of(api));
	upstream_put(u, span_of(u->config->stream));
	upstream_put(u, span_of(more));
	upstream_put(u, SPAN(" "));
	upstream_put(u, span_of(u->inbox));
	upstream_put(u, span_of(to));
	upstream_put(u, name);
	upstream_put(u, (struct span){ text, (size_t)n });
	upstream_put(u, body);
	upstream_put(u, SPAN("\r\n"));
}

uint64_t upstream_consume(struct upstream *u, char kind, struct span name, uint64_t from,
			  const char *answer, struct span behind)
{
	char subject[UPSTREAM_SUBJECT_MAX], deliver[UPSTREAM_INBOX_MAX + 32], text[64];
	char body[CONSUMER_MAX];
	struct jetstream_consumer c = { .stream = u->config->stream, .from = from };
	uint64_t sid = ++u->sids;
	size_t bytes;
	int n;

	n = snprintf(deliver, sizeof(deliver), "%s%c.%" PRIu64, u->inbox, kind, sid);
	c.deliver = (struct span){ deliver, (size_t)n };
	n = snprintf(subject, sizeof(subject), "%s%.*s", u->config->publish_prefix, (int)name.len,
		     name.data);
	c.subject = (struct span){ subject, (size_t)n };
	bytes = jetstream_consumer(&c, body, sizeof(body));
	/* Its subscription first, so that the consumer finds somebody. */
	upstream_put(u, SPAN("SUB "));
	upstream_put(u, c.deliver);
	n = snprintf(text, sizeof(text), " %" PRIu64 "\r\n", sid);
	upstream_put(u, (struct span){ text, (size_t)n });
	upstream_request(u, JETSTREAM_CONSUME, "", answer, behind, (struct span){ body, bytes });
	return sid;
}
