#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/hash.h"
#include "base/log.h"
#include "broker/shard.h"
#include "session/upstream.h"

/*
 * A log that has contradicted itself: a number was another message's before, or the message that is
 * named as the one before is not the last one. Nothing that hosts know of it holds, so whoever sees
 * it counts in the stream's description; the description is part of the epoch, and each host sees
 * the new one within tail_seconds, loses its connection for it and begins its topics anew, with a
 * gap. Where that is not permitted, or has just been done, this host goes on with an epoch of its
 * own.
 */

enum { BODY_MAX = 16 << 10 };
static const uint64_t answer_ns = 10 * NS_PER_S; /* an election takes 4 to 9 */

static void lose(struct upstream *u)
{
	u->lose(u, "the stream contradicts itself");
}

static void go_alone(struct upstream *u, const char *why)
{
	log_warn("upstream: reactor %u: stream %s contradicts itself, and %s: ids are this host's "
		 "own from now on",
		 u->shard->id, u->config->stream, why);
	u->salt = hash_unique();
	lose(u);
}

void upstream_changed_expire(struct upstream *u, uint64_t *next_ns)
{
	const struct span none = { NULL, 0 };
	uint64_t now_ns = upstream_now(u);

	if (!u->contradicted)
		return;
	if (u->moving_ns == 0 && u->moved_ns != 0 &&
	    now_ns - u->moved_ns < u->config->tail_seconds * NS_PER_S) {
		go_alone(u, "has just become another one");
		return;
	}
	if (u->moving_ns == 0) {
		u->moving_ns = now_ns;
		/* As it is now: somebody else may have changed it. */
		upstream_request(u, JETSTREAM_INFO, "", "t", none, none);
	}
	if (now_ns - u->moving_ns >= answer_ns)
		go_alone(u, "nobody answers");
	else if (u->moving_ns + answer_ns < *next_ns)
		*next_ns = u->moving_ns + answer_ns;
}

/* Counts on, unless another host has. */
static void count(struct upstream *u, const struct jetstream_stream *now, struct span json)
{
	char body[BODY_MAX];
	size_t n;

	if (strcmp(now->description, u->stream.description) != 0 ||
	    strcmp(now->created, u->stream.created) != 0) {
		lose(u);
		return;
	}
	n = jetstream_count(json, now->description, body, sizeof(body));
	if (n == 0)
		go_alone(u, "has too long a configuration");
	else
		upstream_request(u, JETSTREAM_UPDATE, "", "u", (struct span){ NULL, 0 },
				 (struct span){ body, n });
}

void upstream_changed_answer(struct upstream *u, char kind, struct span headers,
			     struct span payload)
{
	struct jetstream_stream now;

	/* Nobody is there: as long as there is no leader. */
	if (!u->contradicted || u->moving_ns == 0 || jetstream_status(headers) != 0)
		return;
	if (!jetstream_stream(payload, &now) || now.error != 0) {
		go_alone(u, now.error != 0 ? now.wrong : "says nothing of itself");
	} else if (kind == 't') {
		count(u, &now, payload);
	} else {
		u->moved_ns = upstream_now(u);
		log_warn("upstream: reactor %u: stream %s contradicts itself, and is another one "
			 "for all hosts: \"%s\"",
			 u->shard->id, u->config->stream, now.description);
		lose(u);
	}
}
