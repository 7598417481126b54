#include "broker/mail.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/probe.h"
#include "engine/reactor.h"
#include "topic/block.h"
#include "topic/letter.h"

enum {
	OUTBOX_BYTES_MAX = 1 << 20, /* of blocks waiting for one home: then its publishers wait */
	FREE_BYTES_MAX = 16 << 20,  /* waiting for all shards: then nothing more is sequenced */
	LANE_BYTES_MAX = 4 << 20,   /* of blocks in a lane, or one: the rest stays in the outbox */
	OUTBOX_SLOTS_MIN = 4096,
	OWN_AT_ONCE = 8, /* letters of a shard's own before it asks for the time */
};

static size_t letter_bytes(const struct letter *letter)
{
	return letter->kind == LETTER_PUBLISH || letter->kind == LETTER_DELIVER
		       ? block_bytes((const struct block *)(const void *)letter)
		       : 0;
}

/* ---- one outbox ---- */

static void *outbox_at(const struct outbox *o, uint32_t i)
{
	return o->letters[(o->first + i) & (o->slots_n - 1)];
}

/* A letter that cannot be kept would be lost silently, and with it somebody's order or count. */
static void *grown(const struct mail *m, void *letters, uint32_t n, unsigned to)
{
	letters = realloc(letters, 2 * (size_t)n * sizeof(void *));
	if (letters != NULL)
		return letters;
	log_error("reactor %u: out of memory, and %u letters wait for reactor %u", m->reactor->id,
		  n, to);
	abort();
}

static void outbox_grow(struct outbox *o, const struct mail *m, unsigned to)
{
	void **letters = grown(m, NULL, o->slots_n, to);

	for (uint32_t i = 0; i < o->n; i++)
		letters[i] = outbox_at(o, i);
	free(o->own);
	o->letters = o->own = letters;
	o->first = 0;
	o->slots_n *= 2;
}

/* Forgets pushes that the reader has taken all of. */
static void outbox_settle(struct outbox *o, uint32_t taken)
{
	uint32_t done = 0;

	while (done < o->pushes_n && (int32_t)(taken - o->pushes[done].upto) >= 0)
		o->lane_bytes -= o->pushes[done++].bytes;
	if (done == 0)
		return;
	o->pushes_n -= done;
	memmove(o->pushes, o->pushes + done, o->pushes_n * sizeof(*o->pushes));
}

/* How many letters fit in the lane, of which its reader has taken so many: in letters, and in
 * bytes, one at least when it is empty. What it looks at goes, but for one letter. */
static uint32_t outbox_fitting(const struct outbox *o, uint32_t lane_entries, uint32_t taken,
			       size_t *pushed_bytes)
{
	uint32_t room = lane_entries - 1 - (o->pushed - taken), n = 0;
	size_t bytes = o->lane_bytes;

	for (room = room < o->n ? room : o->n; n < room; n++) {
		size_t more = letter_bytes(outbox_at(o, n));

		if (more > 0 && bytes > 0 && bytes + more > LANE_BYTES_MAX)
			break;
		bytes += more;
	}
	*pushed_bytes = bytes - o->lane_bytes;
	return n;
}

/* As many as may go, and how many bytes that is: what has gone may be read no more. */
static uint32_t outbox_may_push(struct outbox *o, const struct mail *m, unsigned to,
				enum mailbox_lane lane, size_t *bytes)
{
	const struct reactor *r = m->reactor;
	uint32_t taken = mailbox_taken(r->mailbox, to, r->id, lane), n;

	outbox_settle(o, taken);
	n = outbox_fitting(o, m->lane_entries, taken, bytes);
	if (n == o->n)
		return n;
	mailbox_want(r->mailbox, to, r->id, lane);
	taken = mailbox_taken(r->mailbox, to, r->id, lane);
	outbox_settle(o, taken);
	n = outbox_fitting(o, m->lane_entries, taken, bytes);
	if (n < o->n)
		PROBE(lane_full, r->id, to, lane, o->n - n);
	return n;
}

/* There is room for so many: the slots are round. */
static void outbox_push(struct outbox *o, struct reactor *r, unsigned to, enum mailbox_lane lane,
			uint32_t n)
{
	uint32_t straight = o->slots_n - o->first;

	if (straight > n)
		straight = n;
	straight = reactor_post(r, to, lane, o->letters + o->first, straight);
	if (straight < n)
		straight += reactor_post(r, to, lane, o->letters, n - straight);
	assert(straight == n);
	o->first = (o->first + n) & (o->slots_n - 1);
	o->n -= n;
}

static void outbox_pushed(struct outbox *o, uint32_t n, size_t bytes)
{
	struct push *last;

	o->pushed += n;
	if (bytes == 0)
		return;
	if (o->pushes_n < OUTBOX_PUSHES)
		o->pushes[o->pushes_n++].bytes = 0;
	last = &o->pushes[o->pushes_n - 1];
	last->upto = o->pushed;
	last->bytes += bytes;
	o->lane_bytes += bytes;
}

/* ---- all of them ---- */

/* Twice what makes everybody wait, and as much again for what is under way then. */
static uint32_t outbox_slots(const struct mail *m)
{
	uint32_t n = 8 * m->lane_entries;

	return n < OUTBOX_SLOTS_MIN ? OUTBOX_SLOTS_MIN : n;
}

static int outboxes_init(struct outboxes *all, const struct mail *m)
{
	uint32_t n = outbox_slots(m);

	all->to = calloc(m->shards_n, sizeof(struct outbox));
	all->slots = malloc((size_t)m->shards_n * n * sizeof(void *));
	all->waiting = calloc(m->shards_n, sizeof(unsigned));
	if (all->to == NULL || all->slots == NULL || all->waiting == NULL)
		return -ENOMEM;
	for (unsigned to = 0; to < m->shards_n; to++)
		all->to[to] =
			(struct outbox){ .letters = all->slots + (size_t)to * n, .slots_n = n };
	return 0;
}

int mail_init(struct mail *m, struct reactor *reactor, const struct letter_use *uses,
	      unsigned shards_n, uint32_t lane_entries)
{
	*m = (struct mail){
		.reactor = reactor, .uses = uses, .shards_n = shards_n, .lane_entries = lane_entries
	};
	for (enum mailbox_lane lane = 0; lane < LANES; lane++)
		if (outboxes_init(&m->lanes[lane], m) != 0)
			return -ENOMEM;
	m->own.slots_n = outbox_slots(m);
	m->own.letters = malloc(m->own.slots_n * sizeof(*m->own.letters));
	return m->own.letters != NULL ? 0 : -ENOMEM;
}

void mail_release(struct mail *m)
{
	for (uint32_t i = m->own.first; i < m->own.n; i++)
		letter_discard(m->uses, m->own.letters[i]);
	free(m->own.letters);
	for (enum mailbox_lane lane = 0; lane < LANES; lane++) {
		struct outboxes *all = &m->lanes[lane];

		for (unsigned to = 0; all->to != NULL && to < m->shards_n; to++) {
			struct outbox *o = &all->to[to];

			for (uint32_t i = 0; i < o->n; i++)
				letter_discard(m->uses, outbox_at(o, i));
			free(o->own);
		}
		free(all->to);
		free(all->slots);
		free(all->waiting);
	}
}

void mail_make_room(struct mail *m)
{
	struct own_mail *own = &m->own;

	if (own->first >= own->slots_n / 2) {
		own->n -= own->first;
		memmove(own->letters, own->letters + own->first, own->n * sizeof(*own->letters));
		own->first = 0;
		return;
	}
	own->letters = grown(m, own->letters, own->slots_n, m->reactor->id);
	own->slots_n *= 2;
}

void mail_read(struct mail *m, struct shard *reader, void **letters, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct letter *letter = letters[i];

		if (mail_stalls(m)) {
			m->behind = true;
			mail_post_own(m, letter);
		} else {
			m->uses[letter->kind].read(reader, letter);
		}
	}
}

bool mail_read_own(struct mail *m, struct shard *reader)
{
	struct own_mail *own = &m->own;

	for (unsigned n = 1; own->first < own->n && m->stalls == 0; n++) {
		struct letter *letter = own->letters[own->first++];

		m->uses[letter->kind].read(reader, letter);
		if (n < OWN_AT_ONCE)
			continue;
		if (n == OWN_AT_ONCE)
			reactor_part(m->reactor, TURN_LETTERS);
		reactor_spend(m->reactor, 1);
		if (reactor_spent(m->reactor))
			break;
	}
	if (own->first < own->n)
		return true;
	own->first = own->n = 0;
	m->behind = false;
	return false;
}

void mail_post(struct mail *m, unsigned to, enum mailbox_lane lane, struct letter *letter)
{
	struct outboxes *all = &m->lanes[lane];
	struct outbox *o = &all->to[to];

	if (o->n == o->slots_n)
		outbox_grow(o, m, to);
	o->letters[(o->first + o->n++) & (o->slots_n - 1)] = letter;
	o->bytes += letter_bytes(letter);
	all->letters++;
	all->bytes += letter_bytes(letter);
	if (o->waiting)
		return;
	o->waiting = true;
	all->waiting[all->waiting_n++] = to;
}

static bool flush_lane(struct mail *m, enum mailbox_lane lane)
{
	struct outboxes *all = &m->lanes[lane];
	unsigned left = 0;
	bool any = false;

	for (unsigned i = 0; i < all->waiting_n; i++) {
		unsigned to = all->waiting[i];
		struct outbox *o = &all->to[to];
		size_t bytes;
		uint32_t n = outbox_may_push(o, m, to, lane, &bytes);

		if (n > 0)
			outbox_push(o, m->reactor, to, lane, n);
		any |= n > 0;
		all->letters -= n;
		all->bytes -= bytes;
		o->bytes -= bytes;
		outbox_pushed(o, n, bytes);
		if (o->n == 0) {
			o->waiting = false;
			continue;
		}
		all->waiting[left++] = to;
	}
	all->waiting_n = left;
	return any;
}

bool mail_flush(struct mail *m)
{
	bool any = false;

	for (enum mailbox_lane lane = 0; lane < LANES; lane++)
		if (m->lanes[lane].waiting_n > 0)
			any |= flush_lane(m, lane);
	return any;
}

bool mail_holds(const struct mail *m, const struct letter *letter)
{
	for (uint32_t i = m->own.first; i < m->own.n; i++)
		if (m->own.letters[i] == letter)
			return true;
	for (enum mailbox_lane lane = 0; lane < LANES; lane++)
		for (unsigned i = 0; i < m->lanes[lane].waiting_n; i++) {
			const struct outbox *o = &m->lanes[lane].to[m->lanes[lane].waiting[i]];

			for (uint32_t j = 0; j < o->n; j++)
				if (outbox_at(o, j) == letter)
					return true;
		}
	return false;
}

uint64_t mail_letters(const struct mail *m, enum mailbox_lane lane)
{
	return m->lanes[lane].letters;
}

bool mail_congested(const struct mail *m, unsigned home)
{
	const struct outbox *o = &m->lanes[LANE_GATED].to[home];

	return o->n >= (m->lane_entries + 3) / 4 || o->bytes >= OUTBOX_BYTES_MAX;
}

bool mail_lags(const struct mail *m)
{
	const struct outboxes *all = &m->lanes[LANE_FREE];

	return all->letters >= UINT64_C(4) * m->lane_entries || all->bytes >= FREE_BYTES_MAX;
}

/* ---- letters without a reader ---- */

void letters_discard(const struct letter_use *uses, struct mailbox *mailbox, unsigned shards_n)
{
	for (unsigned to = 0; to < shards_n; to++)
		for (unsigned from = 0; from < mailbox_senders(mailbox); from++)
			for (enum mailbox_lane lane = 0; lane < LANES; lane++) {
				bool again;
				void *letter;

				while (mailbox_pop(mailbox, to, from, lane, &letter, 1, &again) ==
				       1)
					letter_discard(uses, letter);
			}
}
