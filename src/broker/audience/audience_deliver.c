#include "broker/audience.h"

#include <stdlib.h>

#include "broker/groups.h"
#include "broker/interests.h"
#include "broker/latency.h"
#include "broker/letters.h"
#include "broker/members.h"
#include "broker/patterns.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/block.h"
#include "topic/interest.h"

static void appended(struct shard *s, struct stream *stream, const struct block *b)
{
	latency_appended(stream, b, s->reactor.now_ns);
	audience_appended(s, stream);
}

/* In pieces that end where somebody has enough: nothing that is appended is for them then. */
static void append_limited(struct shard *s, struct stream *stream, struct block *b)
{
	struct interest *i = stream->owner;

	audience_appends(s, stream, b);
	for (uint32_t at = 0, n; at < b->messages && (stream->cursors > 0 || stream->pins > 0);
	     at += n) {
		uint64_t receivers = stream->cursors;
		uint32_t carried;
		int error;

		n = subscriptions_until_enough(stream, b->messages - at);
		carried = stream_append_part(stream, b, at, n, s->reactor.now_ns, &error);
		s->counters.matched += n * receivers;
		s->counters.dropped[error == 0 ? DROP_UNENCODABLE : DROP_MEMORY] +=
			(n - carried) * receivers;
		if (carried > 0)
			appended(s, stream, b);
		subscriptions_enough(i, stream);
	}
}

static void append(struct shard *s, struct stream *stream, struct block *b)
{
	const struct wire_format *format = stream->wire.format;
	uint64_t receivers = stream->cursors;
	uint32_t carried;
	int error;

	if (format->wants != NULL && !format->wants(&stream->wire, block_name(b)))
		return;
	if (stream->limits.root != NULL) {
		append_limited(s, stream, b);
		return;
	}
	audience_appends(s, stream, b);
	carried = stream_append(stream, b, s->reactor.now_ns, &error);
	s->counters.matched += b->messages * receivers;
	s->counters.dropped[error == 0 ? DROP_UNENCODABLE : DROP_MEMORY] +=
		(b->messages - carried) * receivers;
	if (carried > 0)
		appended(s, stream, b);
}

/* To whoever wants a pattern that its topic is matched by. */
static void deliver_wild(struct shard *s, struct block *b)
{
	struct interest *const *of;
	uint32_t n;

	of = wilds_match(&s->audience.wilds, b, &n);
	for (uint32_t k = 0; k < n; k++) {
		struct interest *i = of[k];

		if (i->settings_n != s->audience.settings_n)
			interests_configure_one(s, i);
		for (struct list *l = i->wild->askings.next; l != &i->wild->askings; l = l->next)
			pattern_asking_note(LIST_ENTRY(l, struct pattern_asking, link), b);
		for (struct stream *stream = i->streams; stream != NULL; stream = stream->next)
			if (stream->cursors > 0 || stream->pins > 0)
				append(s, stream, b);
	}
}

void audience_deliver(struct shard *s, struct block *b)
{
	struct interest *i = interests_find(s, b->hash, block_name(b));

	s->counters.blocks_delivered++;
	if (i != NULL && i->live) {
		i->epoch = b->epoch;
		i->number = block_number(b) + b->messages - 1;
		for (struct stream *stream = i->streams; stream != NULL; stream = stream->next)
			if (stream->cursors > 0)
				append(s, stream, b);
	}
	if (!patterns_empty(&s->audience.wilds.patterns))
		deliver_wild(s, b);
	block_unref(b);
}

static void append_lot(struct shard *s, struct member *m, const struct deal_letter *l,
		       const struct dealt *lot)
{
	struct block *b = l->block;
	uint32_t carried;
	int error;

	audience_appends(s, &m->stream, b);
	carried = stream_append_part(&m->stream, b, lot->first, lot->n, s->reactor.now_ns, &error);
	s->counters.matched += l->matched ? 0 : lot->n;
	s->counters.dropped[error == 0 ? DROP_UNENCODABLE : DROP_MEMORY] += lot->n - carried;
	if (carried == 0)
		return;
	member_dealt(m, b, lot, l->tries);
	appended(s, &m->stream, b);
}

/* Each alone where some have a form and some have none, for it must be known which a member lacks;
 * or where it may have enough. Returns how many it has taken. */
static uint32_t append_dealt(struct shard *s, struct member *m, const struct deal_letter *l,
			     const struct dealt *lot)
{
	struct interest *i = m->stream.owner;
	bool limited = m->stream.limits.root != NULL;
	const struct wire *wire = &m->stream.wire;
	struct run run = block_part(l->block, lot->first, lot->n);
	uint32_t n = wire->format->encodable(wire, &run);

	if ((n == 0 || n == lot->n) && !limited) {
		append_lot(s, m, l, lot);
		return lot->n;
	}
	for (uint32_t k = 0; k < lot->n; k++) {
		if (m->stream.cursors == 0)
			return k;
		append_lot(s, m, l, &(struct dealt){ lot->first + k, 1 });
		if (limited)
			subscriptions_enough(i, &m->stream);
	}
	return lot->n;
}

/* What nobody here takes goes back, to be dealt to others. */
static void refuse(struct shard *s, struct deal_letter *l)
{
	uint32_t messages = 0;

	for (uint32_t k = 0; k < l->lots_n; k++)
		messages += l->lots[k].n;
	if (!l->matched)
		s->counters.matched += messages;
	l->matched = true;
	if (l->tries == DEAL_REFUSALS_MAX || s->drain.draining) {
		s->counters.dropped[DROP_CLOSED] += messages;
		deal_letter_free(l);
		return;
	}
	l->letter.kind = LETTER_DEAL_AGAIN;
	l->shard = s->id;
	l->refused = true;
	l->tries++;
	shard_post(s, shard_home(s, l->block->hash), LANE_FREE, &l->letter);
}

void audience_dealt(struct shard *s, struct deal_letter *l)
{
	struct wild *w =
		(struct wild *)(void *)table_find(&s->audience.wilds.groups, l->hash, l->key);
	uint32_t refused = 0;

	if (w != NULL && w->interest->settings_n != s->audience.settings_n)
		interests_configure_one(s, w->interest);
	for (uint32_t k = 0; k < l->lots_n; k++) {
		struct member *m = w != NULL ? member_choose(w, l->block) : NULL;

		struct dealt lot = l->lots[k];
		uint32_t taken = m != NULL ? append_dealt(s, m, l, &lot) : 0;

		if (taken < lot.n)
			l->lots[refused++] = (struct dealt){ lot.first + taken, lot.n - taken };
	}
	l->lots_n = refused;
	if (refused > 0)
		refuse(s, l);
	else
		deal_letter_free(l);
}
