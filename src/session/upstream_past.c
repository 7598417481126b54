#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/upstream.h"
#include "topic/block.h"
#include "topic/topic.h"

/*
 * What a subscriber wants of the past that is not here, but may be in the log: whoever comes from
 * another host has an id of the log's. A consumer of the stream's sends all from that message on;
 * it is put before the history, and then the subscriber stands. Whether that message is still there
 * says whether anything behind it may have gone.
 */

enum {
	PASTS_MAX = 32, /* under way; other topics wait */
	LAST_TIMES = 8, /* so many numbers are looked at for each message that is wanted */
	PAST_COST = 8,
};
static const uint64_t past_ns = 5 * NS_PER_S; /* then the subscriber goes without */

static void stop(struct upstream *u, struct upstream_topic *ut)
{
	char text[48];
	struct list *l;
	int n;

	list_remove(&ut->past.link);
	if (ut->past.sid == 0)
		return;
	n = snprintf(text, sizeof(text), "UNSUB %" PRIu64 "\r\n", ut->past.sid);
	upstream_put(u, (struct span){ text, (size_t)n });
	ut->past.sid = 0;
	u->pasts_n--;
	while ((l = list_take(&ut->past.blocks)) != NULL)
		block_unref(LIST_ENTRY(l, struct block, age));
}

void upstream_past_leave(struct upstream *u, struct upstream_topic *ut)
{
	stop(u, ut);
}

/* The first number that somebody wants; 0: nobody wants any. */
static uint64_t wanted_from(const struct upstream *u, const struct upstream_topic *ut, bool *after)
{
	uint64_t from = 0;

	for (const struct subscribe_letter *l = ut->first; l != NULL; l = l->next) {
		uint64_t n = l->replay.n, number = ut->topic->number;

		if (!upstream_wants_past(u, ut, l))
			continue;
		if (l->replay.kind == REPLAY_LAST)
			n = n < number / LAST_TIMES ? number - n * LAST_TIMES : 1;
		if (from != 0 && n >= from)
			continue;
		from = n > 0 ? n : 1;
		*after = l->replay.kind == REPLAY_FROM && n > 0;
	}
	return from;
}

static void begin(struct upstream *u, struct upstream_topic *ut)
{
	list_remove(&ut->past.link);
	ut->past.from = wanted_from(u, ut, &ut->past.after);
	if (ut->past.from == 0) {
		upstream_stands(u, ut);
		return;
	}
	ut->past.count = ut->past.bytes = 0;
	ut->past.floor = ut->past.before = topic_floor(ut->topic);
	ut->past.begun_ns = upstream_now(u);
	u->pasts_n++;
	list_append(&u->pasts_asked, &ut->past.link);
	ut->past.sid = upstream_consume(u, 'p', ut->topic->named.name, ut->past.from, "q",
					(struct span){ NULL, 0 });
}

/* It is as it is: whoever waits is let in, and told of a gap where there is one. */
static void end(struct upstream *u, struct upstream_topic *ut)
{
	stop(u, ut);
	ut->past.tried = ut->past.from;
	ut->past.tried_floor = topic_floor(ut->topic);
	upstream_stands(u, ut);
}

static void finish(struct upstream *u, struct upstream_topic *ut)
{
	/* Unless what is here has lost its beginning meanwhile, and does not follow on it. */
	if (topic_floor(ut->topic) == ut->past.floor)
		home_prepend(u->shard, ut->topic, &ut->past.blocks, ut->past.before);
	end(u, ut);
}

void upstream_past_fetched(struct upstream *u, struct upstream_topic *ut,
			   const struct nats_said *said, struct span headers, struct span payload)
{
	struct upstream_message m = { .headers = headers, .payload = payload };
	struct jetstream_delivery d;

	if (!jetstream_delivery(said->reply, &d))
		return;
	ut->past.bytes += headers.len + payload.len;
	if (++ut->past.count != d.count || ut->past.bytes > u->config->repair_bytes) {
		end(u, ut);
		return;
	}
	m.number = d.number;
	if (d.count == 1)
		ut->past.before =
			d.number > ut->past.from || !ut->past.after ? d.number - 1 : ut->past.from;
	if (d.number <= ut->past.floor && d.number > ut->past.before)
		upstream_take_past(u, ut, &m);
	if (d.number >= ut->past.floor || d.pending == 0)
		finish(u, ut);
}

bool upstream_past_write(struct upstream *u)
{
	while (u->state == UPSTREAM_UP && !list_empty(&u->pasts) && u->pasts_n < PASTS_MAX) {
		struct upstream_topic *ut =
			LIST_ENTRY(u->pasts.next, struct upstream_topic, past.link);

		begin(u, ut);
		reactor_spend(&u->shard->reactor, PAST_COST);
		if (reactor_spent(&u->shard->reactor))
			return !list_empty(&u->pasts) && u->pasts_n < PASTS_MAX;
	}
	return false;
}

void upstream_past_expire(struct upstream *u, uint64_t *next_ns)
{
	while (!list_empty(&u->pasts_asked)) {
		struct upstream_topic *ut =
			LIST_ENTRY(u->pasts_asked.next, struct upstream_topic, past.link);

		if (upstream_now(u) - ut->past.begun_ns < past_ns) {
			if (ut->past.begun_ns + past_ns < *next_ns)
				*next_ns = ut->past.begun_ns + past_ns;
			return;
		}
		end(u, ut);
	}
}

void upstream_past_lost(struct upstream *u)
{
	while (!list_empty(&u->pasts_asked))
		stop(u, LIST_ENTRY(u->pasts_asked.next, struct upstream_topic, past.link));
	while (!list_empty(&u->pasts))
		stop(u, LIST_ENTRY(u->pasts.next, struct upstream_topic, past.link));
}
