#include "broker/audience.h"

#include "base/memory.h"
#include "base/probe.h"
#include "broker/pace.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "broker/wild.h"
#include "topic/block.h"
#include "topic/interest.h"

enum { LOOK_COST = 1 };

void audience_init(struct audience *a)
{
	list_init(&a->gone);
	list_init(&a->dirty);
	list_init(&a->replays);
	list_init(&a->active);
	list_init(&a->untimed);
	list_init(&a->appended);
	list_init(&a->ending);
	list_init(&a->ended);
	list_init(&a->forms);
	list_init(&a->recounts);
}

void audience_dirty(struct shard *s, struct stream *stream)
{
	if (!list_empty(&stream->replaying) && list_empty(&stream->replays))
		list_append(&s->audience.replays, &stream->replays);
	if (list_empty(&stream->ready) || !list_empty(&stream->dirty))
		return;
	PROBE(dirty, s->id, stream);
	if (!pace_rests(s, stream))
		list_append(&s->audience.dirty, &stream->dirty);
}

void audience_active(struct shard *s, struct stream *stream)
{
	if (!list_empty(&stream->active))
		return;
	list_append(&s->audience.active, &stream->active);
	if (!deadline_running(&s->audience.backlog_deadline))
		reactor_deadline(&s->reactor, &s->audience.backlog, &s->audience.backlog_deadline);
}

void audience_begin_round(struct stream *stream)
{
	/* Who has just joined has been looked at in none. */
	if (++stream->round == 0)
		stream->round = 1;
}

bool audience_go_round(struct shard *s, struct stream *stream, struct list *list,
		       void (*look)(struct subscription *, void *), void *argument)
{
	while (!list_empty(list)) {
		struct subscription *sub = LIST_ENTRY(list->next, struct subscription, cursor.link);

		if (sub->cursor.round == stream->round)
			return true;
		sub->cursor.round = stream->round;
		list_remove(&sub->cursor.link);
		list_append(list, &sub->cursor.link);
		look(sub, argument);
		reactor_spend(&s->reactor, LOOK_COST);
		if (reactor_spent(&s->reactor))
			return false;
	}
	return true;
}

/* Whether it has passed this mark upwards, or half of it downwards. */
static bool passes(bool *above, uint64_t lag, uint64_t mark)
{
	bool before = *above;

	*above = lag > (before ? mark / 2 : mark);
	return *above != before;
}

/* One more, or one less, of a pattern's streams lags so far that publishers have to wait: those of
 * the topics that come from then on (hold_topic). */
static void hold_wild(struct shard *s, struct wild *w, bool more)
{
	w->holding += more ? 1 : UINT32_MAX;
	if (w->holding > 0 || w->held == NULL)
		return;
	shard_release_holds(s, w->held);
	memory_free(w->held);
	w->held = NULL;
}

/* Without memory for it its topic does not wait; the shard will (audience_press). */
static void hold_topic(struct shard *s, struct wild *w, uint64_t hash)
{
	unsigned bucket = hash % HOLD_BUCKETS;
	uint64_t bit = UINT64_C(1) << bucket % 64;

	if (w->held == NULL)
		w->held = memory_new_zeroed(HOLD_BUCKETS / 8);
	if (w->held == NULL || (w->held[bucket / 64] & bit))
		return;
	w->held[bucket / 64] |= bit;
	shard_hold(s, bucket);
}

void audience_hold(struct shard *s, struct stream *stream)
{
	const struct interest *i = stream->owner;

	if (!passes(&stream->held, stream_ready_lag(stream), i->settings->backlog_bytes / 8 * 3))
		return;
	if (i->wild != NULL)
		hold_wild(s, i->wild, stream->held);
	else if (stream->held)
		shard_hold(s, i->named.hash);
	else
		shard_release_hold(s, i->named.hash);
}

void audience_press(struct shard *s, struct stream *stream)
{
	const struct interest *i = stream->owner;

	if (!passes(&stream->pressed, stream_ready_lag(stream), i->settings->backlog_bytes / 8 * 6))
		return;
	if (stream->pressed) {
		s->audience.pressed++;
	} else {
		s->audience.pressed--;
		s->audience.relieved = true;
	}
}

void audience_appends(struct shard *s, struct stream *stream, const struct block *b)
{
	const struct interest *i = stream->owner;

	audience_hold(s, stream);
	if (stream->held && i->wild != NULL)
		hold_topic(s, i->wild, b->hash);
}

void audience_appended(struct shard *s, struct stream *stream)
{
	audience_active(s, stream);
	audience_dirty(s, stream);
	if (stream->pace.until_ns != 0)
		pace_appended(s, stream);
	if (list_empty(&stream->appended))
		list_append(&s->audience.appended, &stream->appended);
	audience_press(s, stream);
}
