#include "broker/groups.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "broker/shard.h"
#include "topic/block.h"
#include "topic/pattern.h"

enum {
	LOTS_MAX = 64,
	GROUP_COST = 2, /* of one that is dealt to: about as long as a letter */
};

/* Messages that are shared out among the members of one group. */
struct deal {
	struct shard *shard;
	struct known_pattern *const *of; /* the group's patterns */
	uint32_t of_n;
	const struct deal_letter *again;           /* what they come from, or NULL */
	uint64_t passed[CONFIG_REACTORS_MAX / 64]; /* bit per shard that is passed over */
};

static uint32_t messages_of(const struct dealt *lots, uint32_t n)
{
	uint32_t messages = 0;

	for (uint32_t i = 0; i < n; i++)
		messages += lots[i].n;
	return messages;
}

/* Shards that do not keep up, or have just refused it, are passed over, if there are others. Noted
 * once: what is posted meanwhile would change it. */
static void pass_over(struct deal *d)
{
	const struct deal_letter *again = d->again;

	for (unsigned shard = 0; shard < d->shard->broker->shards_n; shard++)
		if (mail_waits(&d->shard->mail, shard) ||
		    (again != NULL && again->refused && again->shard == shard))
			d->passed[shard / 64] |= UINT64_C(1) << shard % 64;
}

/* Members on a shard, as far as they are dealt to. */
static uint32_t members_of(const struct deal *d, const struct known_pattern *k, unsigned shard)
{
	if (d->passed[shard / 64] >> shard % 64 & 1)
		return 0;
	for (uint32_t i = 0; d->again != NULL && i < d->again->refusals_n; i++)
		if (d->again->refusals[i].shard == shard &&
		    d->again->refusals[i].pattern == k->pattern.named.hash)
			return 0;
	return k->subscribers[shard];
}

static uint64_t members_in_all(const struct deal *d)
{
	unsigned shards = d->shard->broker->shards_n;
	uint64_t n = 0;

	for (uint32_t i = 0; i < d->of_n; i++)
		for (unsigned shard = 0; shard < shards; shard++)
			n += members_of(d, d->of[i], shard);
	return n;
}

static void lose(const struct deal *d, uint32_t messages, bool matched, enum drop_reason reason)
{
	struct shard_counters *counters = &d->shard->counters;

	if (!matched)
		counters->matched += messages;
	counters->dropped[reason] += messages;
}

/* What is left to be shared out. */
struct deck {
	struct block *block;
	const struct dealt *lots; /* the next ones */
	struct dealt lot;         /* what is left of the one before */
	uint32_t left;            /* messages, in all of them */
	uint32_t share;           /* for one member */
};

static struct dealt deck_cut(struct deck *deck)
{
	struct dealt one;

	if (deck->lot.n == 0)
		deck->lot = *deck->lots++;
	one = (struct dealt){ deck->lot.first,
			      deck->lot.n < deck->share ? deck->lot.n : deck->share };
	deck->lot.first += one.n;
	deck->lot.n -= one.n;
	deck->left -= one.n;
	return one;
}

/* Members of one pattern on one shard. */
struct seats {
	uint32_t of;
	unsigned shard;
};

static uint32_t seats_n(const struct deal *d, const struct seats *at)
{
	return members_of(d, d->of[at->of], at->shard);
}

static void seats_next(const struct deal *d, struct seats *at)
{
	do {
		if (++at->shard < d->shard->broker->shards_n)
			continue;
		at->shard = 0;
		at->of = (at->of + 1) % d->of_n;
	} while (seats_n(d, at) == 0);
}

/* NULL: out of memory. */
static struct deal_letter *letter_new(const struct deal *d, const struct known_pattern *k,
				      const struct deck *deck, uint32_t lots)
{
	const struct deal_letter *again = d->again;
	struct deal_letter *l = deal_letter_new(&k->pattern, deck->block, lots);

	if (l == NULL || again == NULL)
		return l;
	l->matched = again->matched;
	l->tries = again->tries;
	if (again->refusals_n == 0 || deal_letter_refused(l, again->refusals, again->refusals_n))
		return l;
	deal_letter_free(l);
	return NULL;
}

/* Each of so many members there gets a lot, as long as there are some. */
static void deal_to(const struct deal *d, const struct seats *at, uint32_t members,
		    struct deck *deck)
{
	const struct known_pattern *k = d->of[at->of];
	struct deal_letter *l = NULL;
	bool matched = d->again != NULL && d->again->matched;

	for (uint32_t i = 0; i < members && deck->left > 0; i++) {
		struct dealt lot = deck_cut(deck);

		if (l == NULL || l->lots_n == LOTS_MAX) {
			if (l != NULL)
				shard_post(d->shard, at->shard, LANE_FREE, &l->letter);
			l = letter_new(d, k, deck, members - i < LOTS_MAX ? members - i : LOTS_MAX);
			if (l == NULL) {
				lose(d, lot.n, matched, DROP_MEMORY);
				continue;
			}
		}
		l->lots[l->lots_n++] = lot;
	}
	if (l != NULL)
		shard_post(d->shard, at->shard, LANE_FREE, &l->letter);
}

/* Whose turn is next the group's first pattern knows. With more messages than members each gets
 * several that follow on each other. */
static void share_out(struct deal *d, struct deck *deck)
{
	uint64_t members, turn, dealt;
	struct seats at = { 0, 0 };
	uint32_t n;

	pass_over(d);
	members = members_in_all(d);
	if (members == 0) {
		memset(d->passed, 0, sizeof(d->passed));
		members = members_in_all(d);
	}
	if (members == 0) {
		if (d->again != NULL)
			lose(d, deck->left, d->again->matched, DROP_CLOSED);
		return;
	}
	deck->share = (uint32_t)(deck->left / members + (deck->left % members > 0));
	dealt = (deck->left + deck->share - 1) / deck->share;
	turn = d->of[0]->turn % members;
	d->of[0]->turn = (uint32_t)((turn + dealt) % members);
	for (n = seats_n(d, &at); turn >= n; n = seats_n(d, &at)) {
		turn -= n;
		seats_next(d, &at);
	}
	for (; deck->left > 0; turn = 0, seats_next(d, &at))
		deal_to(d, &at, seats_n(d, &at) - (uint32_t)turn, deck);
}

/* So many of the patterns from here on are of the same group. */
static uint32_t same_group(struct known_pattern *const *of, uint32_t of_n)
{
	uint32_t n = 1;

	while (n < of_n && span_equal(of[n]->pattern.group, of[0]->pattern.group))
		n++;
	return n;
}

/* To the groups of so many patterns. Returns how many there was time for. */
static uint32_t deal_to_all(struct shard *s, struct known_pattern *const *of, uint32_t of_n,
			    struct block *b, bool to_the_end)
{
	const struct dealt all = { 0, b->messages };
	uint32_t i = 0;

	while (i < of_n) {
		struct deal d = { .shard = s, .of = of + i, .of_n = same_group(of + i, of_n - i) };
		struct deck deck = { .block = b, .lots = &all, .left = b->messages };

		share_out(&d, &deck);
		i += d.of_n;
		reactor_spend(&s->reactor, GROUP_COST);
		if (!to_the_end && reactor_spent(&s->reactor))
			break;
	}
	return i;
}

bool groups_deal(struct shard *s, const struct reach *reach, struct block *b)
{
	struct undealt *u = &s->home.undealt;
	uint32_t n = deal_to_all(s, reach->groups, reach->groups_n, b, false), left;

	assert(u->block == NULL);
	left = reach->groups_n - n;
	if (left == 0)
		return true;
	u->of = memory_new(left * sizeof(struct known_pattern *));
	if (u->of == NULL) {
		(void)deal_to_all(s, reach->groups + n, left, b, true);
		return true;
	}
	memcpy(u->of, reach->groups + n, left * sizeof(struct known_pattern *));
	u->of_n = left;
	u->at = 0;
	u->block = b;
	mail_stall(&s->mail);
	return false;
}

bool groups_go_on(struct shard *s, bool to_the_end)
{
	struct undealt *u = &s->home.undealt;

	u->at += deal_to_all(s, u->of + u->at, u->of_n - u->at, u->block, to_the_end);
	if (u->at < u->of_n)
		return false;
	memory_free(u->of);
	u->of = NULL;
	mail_unstall(&s->mail);
	return true;
}

void groups_deal_one(struct shard *s, struct pattern *pattern, struct block *b)
{
	const struct dealt all = { 0, b->messages };
	struct known_pattern *of = (struct known_pattern *)(void *)pattern;
	struct deal d = { .shard = s, .of = &of, .of_n = 1 };
	struct deck deck = { .block = b, .lots = &all, .left = b->messages };

	share_out(&d, &deck);
}

void groups_deal_again(struct shard *s, struct deal_letter *l)
{
	struct span group = { l->key.data + 2, (unsigned char)l->key.data[1] };
	const struct reach *reach = reach_of(s, l->block->hash, block_name(l->block));
	struct deal d = { .shard = s, .again = l };
	struct deck deck = { .block = l->block,
			     .lots = l->lots,
			     .left = messages_of(l->lots, l->lots_n) };

	for (uint32_t i = 0, n; i < reach->groups_n && d.of_n == 0; i += n) {
		n = same_group(reach->groups + i, reach->groups_n - i);
		if (!span_equal(reach->groups[i]->pattern.group, group))
			continue;
		d.of = reach->groups + i;
		d.of_n = n;
	}
	share_out(&d, &deck);
	deal_letter_free(l);
}
