#include "broker/audience.h"

#include <stdlib.h>

#include "base/memory.h"
#include "broker/connection.h"
#include "broker/interests.h"
#include "broker/letters.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/interest.h"
#include "topic/stream.h"

enum { TELL_COST = 8 };

/* A stream ends in one step: whoever subscribes from now on comes into another one. */
static void end_stream(struct shard *s, struct interest *i, struct stream *stream)
{
	interest_end_stream(i, stream);
	audience_begin_round(stream);
	list_remove(&stream->appended);
	list_append(&s->audience.ending, &stream->appended);
	if (!deadline_running(&s->audience.backlog_deadline))
		reactor_deadline(&s->reactor, &s->audience.backlog, &s->audience.backlog_deadline);
}

void audience_bye(struct shard *s, struct topic_letter *l)
{
	struct interest *i = interests_find(s, l->hash, l->name);

	free(l);
	while (i != NULL && i->streams != NULL)
		end_stream(s, i, i->streams);
}

/* ---- gaps ---- */

/* All who read it speak the same protocol, for no two have a format in common. */
static bool promises_nothing(struct stream *stream)
{
	struct list *const lists[] = { &stream->idle, &stream->ready, &stream->replaying,
				       &stream->busy };

	for (unsigned i = 0; i < 4; i++)
		if (!list_empty(lists[i]))
			return LIST_ENTRY(lists[i]->next, struct subscription, cursor.link)
				->connection->protocol->promises_nothing;
	return true;
}

/* Whether it goes on: it has words for it, or nobody who waits for any. */
static bool tell_gap(struct shard *s, struct stream *stream, const struct gap_letter *l)
{
	uint64_t receivers = stream->cursors;

	if (receivers == 0)
		return true;
	if (stream_tell_gap(stream, l->epoch, l->number + 1, l->seq + 1, s->reactor.now_ns)) {
		s->counters.matched += receivers;
		audience_appended(s, stream);
		return true;
	}
	if (!promises_nothing(stream))
		return false;
	s->counters.matched += receivers;
	s->counters.dropped[DROP_GAP] += receivers;
	return true;
}

void audience_gap(struct shard *s, struct gap_letter *l)
{
	struct interest *i = interests_find(s, l->hash, l->name);

	if (i != NULL && i->live) {
		i->epoch = l->epoch;
		i->number = l->number;
		for (struct stream *stream = i->streams, *next; stream != NULL; stream = next) {
			next = stream->next;
			if (tell_gap(s, stream, l))
				continue;
			stream->gap = true;
			end_stream(s, i, stream);
		}
	}
	free(l);
}

/* ---- those who are told ---- */

static bool told(const struct subscription *sub)
{
	return sub->cursor.last_count != 0 || sub->connection->state != CONNECTION_OPEN;
}

struct telling {
	struct shard *shard;
	void (*tell)(struct connection *);
	bool any;
};

static void tell(struct subscription *sub, void *argument)
{
	struct telling *t = argument;

	if (told(sub))
		return;
	t->any = true;
	reactor_spend(&t->shard->reactor, TELL_COST);
	t->tell(sub->connection);
}

/* Whether all have been told: but for those who came to stand behind one that had been looked at,
 * because a send of theirs has ended. */
static bool tell_some(struct shard *s, struct stream *stream)
{
	struct list *const lists[] = { &stream->idle, &stream->ready, &stream->replaying,
				       &stream->busy };
	struct telling t = { .shard = s,
			     .tell = stream->gap ? s->audience.events->gap
						 : s->audience.events->bye };

	for (unsigned i = 0; i < 4; i++)
		if (!audience_go_round(s, stream, lists[i], tell, &t))
			return false;
	audience_begin_round(stream);
	return !t.any;
}

static bool left_by_all(const struct stream *stream)
{
	return list_empty(&stream->idle) && list_empty(&stream->ready) &&
	       list_empty(&stream->replaying) && list_empty(&stream->busy) && stream->pins == 0;
}

bool audience_bye_some(struct shard *s)
{
	struct list *link;
	bool all = true;

	reactor_part(&s->reactor, PART_CLIENTS);
	while (all && (link = list_take(&s->audience.ending)) != NULL) {
		struct stream *stream = LIST_ENTRY(link, struct stream, appended);
		struct interest *i = stream->owner;

		/* It must outlive its subscribers' leaving here. */
		i->pins++;
		all = tell_some(s, stream);
		if (left_by_all(stream))
			interest_free_ended(stream);
		else
			list_append(all ? &s->audience.ended : &s->audience.ending, link);
		i->pins--;
		interests_let_go(s, i);
	}
	return !list_empty(&s->audience.ending);
}

bool audience_bye_again(struct shard *s)
{
	list_splice(&s->audience.ending, &s->audience.ended);
	return !list_empty(&s->audience.ending);
}
