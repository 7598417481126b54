#include "broker/members.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "broker/patterns.h"
#include "broker/shard.h"
#include "broker/wild.h"
#include "topic/block.h"
#include "topic/interest.h"

enum {
	LOTS_MIN = 8,
	LOOKED_AT = 8, /* members, for one who has nothing before it */
};

/* ---- coming and going ---- */

struct member *member_new(struct wild *w, const struct wire *wire, unsigned shard)
{
	struct wire own = *wire;
	struct member *m = memory_new_zeroed(sizeof(*m) + wire->parameter.len);

	if (m == NULL)
		return NULL;
	m->left = pattern_count_new(&w->pattern, shard);
	if (m->left == NULL) {
		memory_free(m);
		return NULL;
	}
	own.parameter.data = m->parameter;
	if (own.parameter.len > 0)
		memcpy(m->parameter, wire->parameter.data, own.parameter.len);
	stream_init(&m->stream, &own);
	m->stream.unnumbered = true;
	m->stream.owner = w->interest;
	list_init(&m->link);
	list_append(&w->members, &m->link);
	w->members_n++;
	w->responders_n += wire->format->replies;
	return m;
}

void member_leave(struct member *m, struct shard *s)
{
	struct wild *w = ((struct interest *)m->stream.owner)->wild;
	struct pattern_count *left = m->left;

	if (left == NULL)
		return;
	m->left = NULL;
	w->members_n--;
	w->responders_n -= m->stream.wire.format->replies;
	wild_tell(w, left, w->members_n, w->responders_n, s);
}

void member_free(struct member *m)
{
	member_settle(m, 0);
	stream_release(&m->stream);
	list_remove(&m->link);
	free(m->left);
	memory_free(m->lots);
	memory_free(m);
}

/* ---- what it is dealt ---- */

static bool takes(const struct member *m, const struct block *b)
{
	struct run run = block_run(b);

	/* It leaves, or has not come yet; or it is the publisher, and wants nothing of its own. */
	return m->stream.cursors > 0 && m->stream.wire.format->encodable(&m->stream.wire, &run) > 0;
}

static bool idle(const struct member *m)
{
	return !list_empty(&m->stream.idle);
}

struct member *member_choose(struct wild *w, const struct block *b)
{
	struct member *best = NULL;
	unsigned n = 0;

	for (struct list *l = w->members.next; l != &w->members && n < LOOKED_AT; l = l->next) {
		struct member *m = LIST_ENTRY(l, struct member, link);

		if (!takes(m, b))
			continue;
		n++;
		if (best == NULL || m->messages < best->messages)
			best = m;
		if (idle(m)) {
			best = m;
			break;
		}
	}
	if (best == NULL)
		return NULL;
	list_remove(&best->link);
	list_append(&w->members, &best->link);
	return best;
}

bool members_stand(const struct wild *w)
{
	for (struct list *l = w->members.next; l != &w->members; l = l->next)
		if (LIST_ENTRY(l, struct member, link)->stream.cursors > 0)
			return true;
	return false;
}

static struct lot *lot_at(const struct member *m, uint32_t i)
{
	return &m->lots[(m->first + i) & (m->slots_n - 1)];
}

static bool grow(struct member *m)
{
	uint32_t slots = m->slots_n > 0 ? 2 * m->slots_n : LOTS_MIN;
	struct lot *lots = memory_new(slots * sizeof(*lots));

	if (lots == NULL)
		return false;
	for (uint32_t i = 0; i < m->n; i++)
		lots[i] = *lot_at(m, i);
	memory_free(m->lots);
	m->lots = lots;
	m->first = 0;
	m->slots_n = slots;
	return true;
}

void member_dealt(struct member *m, struct block *b, const struct dealt *messages, uint8_t tries)
{
	if (m->n == m->slots_n && !grow(m)) {
		m->unknown = true;
		return;
	}
	block_ref(b, 1);
	m->n++;
	*lot_at(m, m->n - 1) = (struct lot){ b, *messages, tries };
	m->messages += messages->n;
}

void member_settle(struct member *m, uint64_t left)
{
	while (m->messages > left) {
		struct lot *lot = lot_at(m, 0);
		uint64_t got = m->messages - left;

		if (got < lot->messages.n) {
			lot->messages.first += (uint32_t)got;
			lot->messages.n -= (uint32_t)got;
			m->messages = left;
			return;
		}
		m->messages -= lot->messages.n;
		block_unref(lot->block);
		m->first = (m->first + 1) & (m->slots_n - 1);
		m->n--;
	}
}

/* Whether they are on their way. One that stays has refused them, and may be dealt them again. */
static bool give_back(const struct member *m, struct shard *s, const struct lot *lot, uint32_t n)
{
	const struct wild *w = ((const struct interest *)m->stream.owner)->wild;
	bool stays = m->left != NULL;
	struct deal_letter *l;

	if (stays && lot->tries >= DEAL_TRIES_MAX)
		return false;
	l = deal_letter_new(&w->pattern, lot->block, 1);
	if (l == NULL)
		return false;
	l->letter.kind = LETTER_DEAL_AGAIN;
	l->shard = s->id;
	l->refused = true;
	l->tries = (uint8_t)(lot->tries + stays);
	l->matched = true;
	l->lots[l->lots_n++] = (struct dealt){ lot->messages.first + lot->messages.n - n, n };
	shard_post(s, shard_home(s, lot->block->hash), LANE_FREE, &l->letter);
	return true;
}

uint64_t member_give_back(struct member *m, struct shard *s, uint64_t messages)
{
	uint64_t given = 0;

	/* A broker that drains deals nothing more. */
	if (m->unknown || s->drain.draining)
		return 0;
	while (messages > 0 && m->n > 0) {
		struct lot *lot = lot_at(m, m->n - 1);
		uint32_t n = lot->messages.n < messages ? lot->messages.n : (uint32_t)messages;

		if (give_back(m, s, lot, n))
			given += n;
		lot->messages.n -= n;
		m->messages -= n;
		messages -= n;
		if (lot->messages.n == 0) {
			block_unref(lot->block);
			m->n--;
		}
	}
	return given;
}
