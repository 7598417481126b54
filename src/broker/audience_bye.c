#include "broker/audience.h"

#include <stdlib.h>

#include "base/memory.h"
#include "broker/connection.h"
#include "broker/interests.h"
#include "broker/letters.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/interest.h"
#include "topic/stream.h"

enum { TELL_COST = 8, LOOK_COST = 1 };

/* Its streams end in one step: whoever subscribes from now on comes into another one. */
void audience_bye(struct shard *s, struct topic_letter *l)
{
	struct interest *i = interests_find(s, l->hash, l->name);
	struct stream *stream;

	free(l);
	if (i == NULL)
		return;
	while ((stream = i->streams) != NULL) {
		i->streams = stream->next;
		stream->next = i->ended;
		i->ended = stream;
		stream->round = 1;
		list_remove(&stream->appended);
		list_append(&s->audience.ending, &stream->appended);
	}
	if (!list_empty(&s->audience.ending) && !deadline_running(&s->audience.backlog_deadline))
		reactor_deadline(&s->reactor, &s->audience.backlog, &s->audience.backlog_deadline);
}

static bool told(const struct subscription *sub)
{
	return sub->cursor.last_count != 0 || sub->connection->state != CONNECTION_OPEN;
}

/* Goes once round the cursors in a list, as far as there is time: whoever has been looked at stands
 * behind those who have not. Whether there was nobody left. */
static bool go_round(struct shard *s, struct stream *stream, struct list *list, bool *any)
{
	while (!list_empty(list)) {
		struct subscription *sub = LIST_ENTRY(list->next, struct subscription, cursor.link);

		if (sub->cursor.round == stream->round)
			return true;
		sub->cursor.round = stream->round;
		list_remove(&sub->cursor.link);
		list_append(list, &sub->cursor.link);
		reactor_spend(&s->reactor, LOOK_COST);
		if (!told(sub)) {
			*any = true;
			reactor_spend(&s->reactor, TELL_COST);
			s->audience.events->bye(sub->connection);
		}
		if (reactor_spent(&s->reactor))
			return false;
	}
	return true;
}

/* Whether all have been told: but for those who came to stand behind one that had been looked at,
 * because a send of theirs has ended. */
static bool tell_some(struct shard *s, struct stream *stream)
{
	struct list *const lists[] = { &stream->idle, &stream->ready, &stream->replaying,
				       &stream->busy };
	bool any = false;

	for (unsigned i = 0; i < 4; i++)
		if (!go_round(s, stream, lists[i], &any))
			return false;
	stream->round++;
	return !any;
}

static bool left_by_all(const struct stream *stream)
{
	return list_empty(&stream->idle) && list_empty(&stream->ready) &&
	       list_empty(&stream->replaying) && list_empty(&stream->busy) && stream->pins == 0;
}

static void free_ended(struct interest *i, struct stream *stream)
{
	struct stream **at = &i->ended;

	while (*at != stream)
		at = &(*at)->next;
	*at = stream->next;
	stream_release(stream);
	memory_free(stream);
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
			free_ended(i, stream);
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
