#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/name.h"
#include "broker/patterns.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/upstream.h"
#include "topic/block.h"
#include "topic/pattern.h"
#include "topic/topic.h"

/*
 * What has no topic, and so no log: requests to names that leave nothing behind, their answers, and
 * what groups are dealt. As core NATS has it: there at once or not at all.
 */

enum { NOBODY = 503 };

/* ---- up ---- */

/* Whether it is the cluster's, and no log's. */
static bool is_ours(const struct upstream *u, struct span name)
{
	const struct config_upstream *config = u->config;

	for (size_t i = config->topics_kept_n; i < config->topics_n; i++)
		if (name_matches(span_of(config->topics[i]), name))
			return !topic_internal(name) && memchr(name.data, ' ', name.len) == NULL;
	return false;
}

/* An answer that nobody here waits for is another host's, or a NATS program's. */
static bool is_answer(const struct upstream *u, struct span name)
{
	const struct reach *reach;

	if (u->state != UPSTREAM_UP || upstream_behind(name, "_INBOX.").len == 0 ||
	    memchr(name.data, ' ', name.len) != NULL)
		return false;
	reach = reach_of_passing(u->shard, name);
	return reach->shards_n == 0 && reach->groups_n == 0;
}

bool upstream_passes(struct upstream *u, struct block *b)
{
	struct span name = block_name(b);

	if (!is_ours(u, name) && !is_answer(u, name))
		return false;
	upstream_publish_passing(u, b);
	return true;
}

/* ---- down ---- */

static void take_answer(struct upstream *u, struct span subject, const struct upstream_message *m)
{
	struct span behind = upstream_behind(subject, u->replies), name;
	struct block *b;

	if (behind.len < 3)
		return;
	name = span_skip(behind, 2);
	if (!name_valid(name) || !topic_leaves_nothing(u->shard->config, name) ||
	    (*behind.data == UPSTREAM_TELL_NOT && jetstream_status(m->headers) == NOBODY))
		return;
	b = upstream_block(u, name, m);
	/* Without memory for it, it is gone as if nobody were there. */
	if (b != NULL)
		upstream_hand_on(u, b);
}

bool upstream_passing_message(struct upstream *u, uint64_t sid, struct span subject,
			      const struct upstream_message *m)
{
	struct pattern *members = NULL;
	struct span name;
	struct block *b;

	if (sid == UPSTREAM_REPLIES_SID) {
		take_answer(u, subject, m);
		return true;
	}
	if (!upstream_pattern_apart(u, sid, subject, &name, &members))
		return false;
	/* Reading never waits for subscribers: what there is no memory for is not taken. */
	if (name.len == 0 || budget_now(u->shard->broker) == BUDGET_EVICTION)
		return true;
	b = upstream_block(u, name, m);
	if (b == NULL)
		return true;
	block_set_publisher(
		b, upstream_publish_passed(u, nats_header(m->headers, SPAN("Nats-Msg-Id"))));
	b->stamped_ns = u->shard->reactor.now_ns;
	if (members != NULL)
		home_deal(u->shard, members, b);
	else
		home_pass(u->shard, b);
	return true;
}
