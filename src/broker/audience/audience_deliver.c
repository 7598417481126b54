#include "broker/audience.h"

#include <assert.h>
#include <stdlib.h>

#include "base/memory.h"
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

enum { APPEND_COST = 2 }; /* of one more stream: about as long as a letter */

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

static bool time_is_up(struct shard *s)
{
	reactor_spend(&s->reactor, APPEND_COST);
	return reactor_spent(&s->reactor);
}

/* From this one on; NULL: from the first. Returns the one where time was up; NULL: it has got to
 * all of them. */
static struct stream *append_to_all(struct shard *s, struct interest *i, struct stream *from,
				    struct block *b)
{
	struct stream *stream = from != NULL ? from->next : i->streams, *next;

	if (from != NULL)
		append(s, from, b);
	for (bool first = from == NULL; stream != NULL; stream = next, first = false) {
		bool read = stream->cursors > 0 || stream->pins > 0;

		if (!first && time_is_up(s))
			return stream;
		if (read)
			append(s, stream, b);
		next = stream->next;
		if (!read)
			(void)interest_drop_unread(i, stream);
	}
	return NULL;
}

static void note_asked(struct interest *i, struct block *b)
{
	for (struct list *l = i->wild->askings.next; l != &i->wild->askings; l = l->next)
		pattern_asking_note(LIST_ENTRY(l, struct pattern_asking, link), b);
}

/* To whoever wants a pattern that its topic is matched by. */
static struct stream *append_wild(struct shard *s, struct interest *i, struct block *b)
{
	if (i->settings_n != s->audience.settings_n)
		interests_configure_one(s, i);
	note_asked(i, b);
	return append_to_all(s, i, NULL, b);
}

/* ---- what there is no time for ---- */

/* It goes on there in later turns. */
static void go_on_at(struct undelivered *u, struct stream *stream)
{
	u->stream = stream;
	if (stream != NULL)
		stream->pins++;
}

/* From this stream of the first on (NULL: there is no first), then for the others. False: there is
 * no memory to remember that. */
static bool put_off(struct shard *s, struct block *b, struct stream *stream, struct interest *first,
		    struct interest *const *others, uint32_t others_n)
{
	struct undelivered *u = &s->audience.undelivered;
	uint32_t n = 0;

	assert(u->block == NULL);
	u->of = memory_new((others_n + 1) * sizeof(struct interest *));
	if (u->of == NULL)
		return false;
	u->number++;
	if (first != NULL)
		u->of[n++] = first;
	for (struct stream *has = first != NULL ? first->streams : NULL; has != stream;
	     has = has->next)
		has->pace.put_off = u->number;
	for (uint32_t k = 0; k < others_n; k++) {
		note_asked(others[k], b);
		u->of[n++] = others[k];
	}
	for (uint32_t k = 0; k < n; k++) {
		u->of[k]->undelivered = true;
		u->of[k]->pins++;
	}
	u->of_n = n;
	u->at = 0;
	u->block = b;
	go_on_at(u, stream);
	mail_stall(&s->mail);
	return true;
}

/* For whoever wants a pattern, too, which is found out in later turns. False: out of memory. */
static bool put_off_matching(struct shard *s, struct block *b, struct stream *stream,
			     struct interest *first)
{
	struct undelivered *u = &s->audience.undelivered;

	if (!put_off(s, b, stream, stream != NULL ? first : NULL, NULL, 0))
		return false;
	u->matching = true;
	return true;
}

/* Once only. */
static void catch_up(struct shard *s, struct stream *stream)
{
	struct undelivered *u = &s->audience.undelivered;

	if (stream->pace.put_off == u->number)
		return;
	stream->pace.put_off = u->number;
	if (stream->cursors > 0 || stream->pins > 0)
		append(s, stream, u->block);
}

/* It is for this interest as well. False: out of memory. */
static bool add_undelivered(struct undelivered *u, struct interest *i)
{
	struct interest **of = u->of;

	if ((u->of_n & (u->of_n - 1)) == 0)
		of = memory_resize(u->of, (u->of_n > 0 ? 2 * u->of_n : 1) * sizeof(*of));
	if (of == NULL)
		return false;
	u->of = of;
	u->of[u->of_n++] = i;
	i->undelivered = true;
	i->pins++;
	note_asked(i, u->block);
	return true;
}

/* Whether it may turn out to be for this interest. */
static bool may_be_for(const struct undelivered *u, const struct interest *i)
{
	return u->matching && !i->undelivered && i->wild != NULL &&
	       i->wild->pattern.group.len == 0 &&
	       pattern_matches(&i->wild->pattern, block_name(u->block));
}

struct stream *audience_stream(struct shard *s, struct interest *i, const struct wire *wire)
{
	struct undelivered *u = &s->audience.undelivered;
	struct stream *stream;

	if (may_be_for(u, i) && !add_undelivered(u, i))
		return NULL;
	stream = interest_stream(i, wire);
	if (stream != NULL && i->undelivered)
		catch_up(s, stream);
	return stream;
}

uint64_t audience_number(const struct shard *s, const struct stream *stream)
{
	const struct undelivered *u = &s->audience.undelivered;
	const struct interest *i = stream->owner;

	if (!i->undelivered || stream->pace.put_off == u->number)
		return i->number;
	return block_number(u->block) - 1;
}

/* To more of the first interest's streams. True: to all of them now. */
static bool catch_up_more(struct shard *s, struct undelivered *u)
{
	struct interest *i = u->of[u->at];
	struct stream *from = u->stream, *stream = from != NULL ? from : i->streams;

	if (i->settings_n != s->audience.settings_n)
		interests_configure_one(s, i);
	while (stream != NULL) {
		catch_up(s, stream);
		stream = stream->next;
		if (stream != NULL && time_is_up(s))
			break;
	}
	go_on_at(u, stream);
	if (from != NULL)
		from->pins--;
	return stream == NULL;
}

/* Whether it is known now which patterns match it. */
static bool match_more(struct shard *s, struct undelivered *u)
{
	struct interest *const *of;
	uint32_t n;

	of = wilds_match_on(s, u->block, &n);
	if (of == NULL)
		return false;
	u->matching = false;
	for (uint32_t k = 0; k < n; k++) {
		if (of[k]->undelivered || add_undelivered(u, of[k]))
			continue;
		for (struct stream *stream = append_wild(s, of[k], u->block); stream != NULL;)
			stream = append_to_all(s, of[k], stream, u->block);
	}
	return true;
}

void audience_go_on(struct shard *s)
{
	struct undelivered *u = &s->audience.undelivered;

	if (u->block == NULL || (u->matching && !match_more(s, u)))
		return;
	while (u->at < u->of_n && catch_up_more(s, u)) {
		struct interest *i = u->of[u->at++];

		i->undelivered = false;
		i->pins--;
		interests_let_go(s, i);
		if (time_is_up(s))
			break;
	}
	if (u->at < u->of_n)
		return;
	audience_forget_undelivered(s);
	mail_unstall(&s->mail);
}

void audience_forget_undelivered(struct shard *s)
{
	struct undelivered *u = &s->audience.undelivered;

	if (u->block != NULL)
		block_unref(u->block);
	if (u->matching)
		wilds_match_forget(&s->audience.wilds);
	memory_free(u->of);
	*u = (struct undelivered){ .number = u->number };
}

/* ---- all that comes ---- */

/* The interests in patterns that it is for. False: that is found out in later turns. */
static bool match(struct shard *s, struct block *b, struct interest *i, struct stream *stream,
		  struct interest *const **of, uint32_t *n)
{
	*n = 0;
	*of = NULL;
	if (patterns_empty(&s->audience.wilds.patterns))
		return true;
	*of = wilds_match(s, b, n);
	if (*of == NULL && put_off_matching(s, b, stream, i))
		return false;
	while (*of == NULL)
		*of = wilds_match_on(s, b, n);
	return true;
}

/* To this interest's streams from one on (NULL: to none), and to whoever wants a pattern. False: it
 * has been put off. */
static bool deliver_wild(struct shard *s, struct block *b, struct interest *i,
			 struct stream *stream)
{
	struct interest *const *of;
	uint32_t n;

	if (!match(s, b, i, stream, &of, &n) || (stream != NULL && put_off(s, b, stream, i, of, n)))
		return false;
	while (stream != NULL)
		stream = append_to_all(s, i, stream, b);
	for (uint32_t k = 0; k < n; k++) {
		if (k > 0 && time_is_up(s) && put_off(s, b, NULL, NULL, of + k, n - k))
			return false;
		for (stream = append_wild(s, of[k], b); stream != NULL;
		     stream = append_to_all(s, of[k], stream, b))
			if (put_off(s, b, stream, of[k], of + k + 1, n - k - 1))
				return false;
	}
	return true;
}

void audience_deliver(struct shard *s, struct block *b)
{
	struct interest *i = interests_find(s, b->hash, block_name(b));
	struct stream *left = NULL;

	s->counters.blocks_delivered++;
	if (i != NULL && i->live) {
		i->epoch = b->epoch;
		i->number = block_number(b) + b->messages - 1;
		left = append_to_all(s, i, NULL, b);
	}
	if ((left == NULL && patterns_empty(&s->audience.wilds.patterns)) ||
	    deliver_wild(s, b, i, left))
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
static void refuse(struct shard *s, struct deal_letter *l, bool for_none)
{
	const struct refusal refusal = { l->hash, s->id };
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
	/* Without memory to say so it may come here again. */
	if (for_none)
		(void)deal_letter_refused(l, &refusal, 1);
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
	bool for_none = w != NULL;

	if (w != NULL && w->interest->settings_n != s->audience.settings_n)
		interests_configure_one(s, w->interest);
	for (uint32_t k = 0; k < l->lots_n; k++) {
		struct member *m = w != NULL ? member_choose(w, l->block) : NULL;

		struct dealt lot = l->lots[k];
		uint32_t taken = m != NULL ? append_dealt(s, m, l, &lot) : 0;

		if (taken == lot.n)
			continue;
		for_none = for_none && m == NULL;
		l->lots[refused++] = (struct dealt){ lot.first + taken, lot.n - taken };
	}
	l->lots_n = refused;
	if (refused > 0)
		refuse(s, l, for_none && members_stand(w));
	else
		deal_letter_free(l);
}
