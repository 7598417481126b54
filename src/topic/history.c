#include "topic/history.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"

enum {
	SLOTS_MIN = 4,
	FEW_BLOCKS = 8,
};

/* ---- segments and windows ---- */

/* Whether nobody else holds it; then nobody else can come to do so. */
static bool alone(_Atomic uint32_t *holders)
{
	return atomic_load_explicit(holders, memory_order_acquire) == 1;
}

static void hold(_Atomic uint32_t *holders)
{
	atomic_fetch_add_explicit(holders, 1, memory_order_relaxed);
}

/* Whether that was the last hold. The last one must see what the others did before it frees the
 * memory under them. */
static bool let_go(_Atomic uint32_t *holders)
{
	return atomic_fetch_sub_explicit(holders, 1, memory_order_acq_rel) == 1;
}

static struct segment *segment_new(uint32_t slots)
{
	struct segment *s = memory_new(sizeof(*s) + slots * sizeof(s->blocks[0]));

	if (s != NULL)
		*s = (struct segment){ .holders = 1, .slots_n = slots };
	return s;
}

static void segment_add(struct segment *s, struct block *b)
{
	assert(s->n < s->slots_n);
	if (s->n == 0)
		s->seq = b->seq;
	block_ref(b, 1);
	s->blocks[s->n++] = b;
	s->bytes += block_bytes(b);
	s->bodies += b->len;
}

struct segment *segment_of(struct block *b)
{
	struct segment *s = segment_new(1);

	if (s != NULL)
		segment_add(s, b);
	return s;
}

void segment_ref(struct segment *s)
{
	hold(&s->holders);
}

static _Thread_local struct segment *going;

void segment_unref(struct segment *s)
{
	if (!let_go(&s->holders))
		return;
	/* A few are not worth waiting, and whoever lets history go for memory wants it at once. */
	while (s->gone < s->n && s->n - s->gone <= FEW_BLOCKS)
		block_unref(s->blocks[s->gone++]);
	if (s->gone == s->n) {
		memory_free(s);
		return;
	}
	s->next = going;
	going = s;
}

bool segments_let_go(unsigned blocks)
{
	struct segment *s;

	while ((s = going) != NULL) {
		for (; blocks > 0 && s->gone < s->n; blocks--)
			block_unref(s->blocks[s->gone++]);
		if (s->gone < s->n)
			return true;
		going = s->next;
		memory_free(s);
	}
	return false;
}

bool segments_going(void)
{
	return going != NULL;
}

static void window_unref(struct window *w)
{
	if (!let_go(&w->holders))
		return;
	while (w->gone < w->n)
		segment_unref(w->segments[w->gone++]);
	memory_free(w);
}

void stretch_release(struct stretch *s)
{
	if (s->window != NULL)
		window_unref(s->window);
	*s = (struct stretch){ 0 };
}

/* ---- a history ---- */

void history_total_init(struct history_total *total, uint64_t bytes_max)
{
	*total = (struct history_total){ .bytes_max = bytes_max };
	list_init(&total->blocks);
	list_init(&total->going);
}

/* Lets go of what is before the oldest block, as far as nobody else may look at it. */
static void let_past_go(struct history *h)
{
	struct window *w = h->window;
	struct segment *s;

	if (!alone(&w->holders))
		return;
	while (w->gone < h->segment)
		segment_unref(w->segments[w->gone++]);
	if (w->gone == w->n)
		return;
	s = w->segments[h->segment];
	if (!alone(&s->holders))
		return;
	while (s->gone < h->block)
		block_unref(s->blocks[s->gone++]);
}

void history_drop_oldest(struct history *h, struct history_total *total)
{
	struct block *b = history_first(h);

	h->blocks_n--;
	h->messages -= b->messages;
	h->bytes -= b->len;
	h->floor = block_number(b) + b->messages - 1;
	total->bytes -= block_bytes(b);
	list_remove(&b->age);
	h->block++;
	if (h->blocks_n == 0) {
		window_unref(h->window);
		*h = (struct history){ 0 };
		return;
	}
	if (h->block == h->window->segments[h->segment]->n) {
		h->segment++;
		h->block = 0;
	}
	let_past_go(h);
}

/* ---- many at once ---- */

/* Blocks that were taken off a history. */
struct going {
	struct list link;
	struct history history;
};

bool history_let_go(struct history_total *total, unsigned blocks)
{
	while (blocks > 0 && !list_empty(&total->going)) {
		struct going *g = LIST_ENTRY(total->going.next, struct going, link);

		for (; blocks > 0 && g->history.blocks_n > 0; blocks--)
			history_drop_oldest(&g->history, total);
		if (g->history.blocks_n > 0)
			break;
		list_remove(&g->link);
		memory_free(g);
	}
	return !list_empty(&total->going);
}

/* A window of its own for what begins there. NULL: out of memory. */
static struct window *window_from(const struct history *h, uint32_t segment)
{
	struct window *w = h->window, *own;
	uint32_t n = w->n - segment;

	own = memory_new(sizeof(*own) + (n + SLOTS_MIN) * sizeof(own->segments[0]));
	if (own == NULL)
		return NULL;
	*own = (struct window){ .holders = 1, .n = n, .slots_n = n + SLOTS_MIN };
	for (uint32_t i = 0; i < n; i++) {
		own->segments[i] = w->segments[segment + i];
		segment_ref(own->segments[i]);
	}
	return own;
}

/* Takes off all before what is left of it, which has no window yet. False: out of memory, nothing
 * happened. */
static bool take_off(struct history *h, struct history_total *total, struct history left)
{
	struct going *g = memory_new(sizeof(*g));

	if (g != NULL && left.blocks_n > 0) {
		left.window = window_from(h, left.segment);
		left.segment = 0;
	}
	if (g == NULL || (left.blocks_n > 0 && left.window == NULL)) {
		memory_free(g);
		return false;
	}
	*g = (struct going){ .history = *h };
	g->history.blocks_n -= left.blocks_n;
	g->history.messages -= left.messages;
	g->history.bytes -= left.bytes;
	list_append(&total->going, &g->link);
	*h = left;
	return true;
}

static void drop(struct history *h, struct history_total *total, uint32_t blocks)
{
	for (; blocks > 0; blocks--)
		history_drop_oldest(h, total);
}

void history_release(struct history *h, struct history_total *total)
{
	if (h->blocks_n <= HISTORY_DROPS || !take_off(h, total, (struct history){ 0 }))
		drop(h, total, h->blocks_n);
}

/* Makes sure that the window is nobody else's and has room for another segment. */
static bool make_room(struct history *h)
{
	struct window *w = h->window, *own;
	uint32_t n = w != NULL ? w->n - h->segment : 0;
	bool shared = w != NULL && !alone(&w->holders);

	if (w != NULL && !shared && w->n < w->slots_n)
		return true;
	own = memory_new(sizeof(*own) + (2 * n + SLOTS_MIN) * sizeof(own->segments[0]));
	if (own == NULL)
		return false;
	*own = (struct window){ .holders = 1, .n = n, .slots_n = 2 * n + SLOTS_MIN };
	for (uint32_t i = 0; i < n; i++) {
		own->segments[i] = w->segments[h->segment + i];
		segment_ref(own->segments[i]);
	}
	if (w != NULL)
		window_unref(w);
	h->window = own;
	h->segment = 0;
	return true;
}

/* The segment that a block comes into. NULL: out of memory. */
static struct segment *segment_for(struct history *h, const struct block *b)
{
	struct window *w = h->window;
	struct segment *s = w != NULL ? w->segments[w->n - 1] : NULL;
	uint32_t slots = h->blocks_n;

	if (s != NULL && s->n < s->slots_n && s->bytes + block_bytes(b) <= SEGMENT_BYTES)
		return s;
	if (slots < SLOTS_MIN)
		slots = SLOTS_MIN;
	s = segment_new(slots < SEGMENT_BLOCKS ? slots : SEGMENT_BLOCKS);
	if (s == NULL)
		return NULL;
	if (!make_room(h)) {
		segment_unref(s);
		return NULL;
	}
	h->window->segments[h->window->n++] = s;
	return s;
}

/* Whether a block is beyond the limits, if it is the oldest of what is left. */
static bool beyond(const struct history *left, const struct block *b,
		   const struct history_limits *limits, uint64_t now_ns)
{
	return left->messages - b->messages >= limits->messages || left->bytes > limits->bytes ||
	       now_ns - b->stamped_ns > limits->age_ns;
}

/* All of its next segment, of which this is the last block. */
static struct history without_segment(const struct history *left, const struct block *last)
{
	const struct segment *s = left->window->segments[left->segment];
	struct history h = *left;

	h.blocks_n -= s->n;
	h.messages -= last->seq + last->messages - s->seq;
	h.bytes -= s->bodies;
	h.floor = block_number(last) + last->messages - 1;
	h.segment++;
	return h;
}

/* What is within the limits: its segments, in their window still. */
static struct history within(const struct history *h, const struct history_limits *limits,
			     uint64_t now_ns)
{
	struct history left = *h;

	while (left.blocks_n > 0) {
		const struct segment *s = left.window->segments[left.segment];
		const struct block *b = s->blocks[left.block], *last = s->blocks[s->n - 1];

		/* The last one goes only with all before it. */
		if (left.block == 0 && left.segment + 1 < left.window->n) {
			struct history without = without_segment(&left, last);
			struct history but_last = without;

			but_last.messages += last->messages;
			but_last.bytes += last->len;
			if (beyond(&but_last, last, limits, now_ns)) {
				left = without;
				continue;
			}
		}
		if (!beyond(&left, b, limits, now_ns))
			break;
		left.blocks_n--;
		left.messages -= b->messages;
		left.bytes -= b->len;
		left.floor = block_number(b) + b->messages - 1;
		if (++left.block < s->n)
			continue;
		left.segment++;
		left.block = 0;
	}
	return left;
}

void history_trim(struct history *h, struct history_total *total,
		  const struct history_limits *limits, uint64_t now_ns)
{
	struct history left;

	for (unsigned n = 0; h->blocks_n > 0; n++) {
		if (!beyond(h, history_first(h), limits, now_ns))
			return;
		if (n == HISTORY_DROPS)
			break;
		history_drop_oldest(h, total);
	}
	if (h->blocks_n == 0)
		return;
	left = within(h, limits, now_ns);
	if (left.blocks_n == 0)
		left = (struct history){ 0 };
	if (h->blocks_n - left.blocks_n <= HISTORY_DROPS || !take_off(h, total, left))
		drop(h, total, h->blocks_n - left.blocks_n);
}

static bool may_keep(const struct block *b, const struct history_total *total,
		     const struct history_limits *limits)
{
	return limits->messages > 0 && b->len <= limits->bytes &&
	       block_bytes(b) <= total->bytes_max;
}

static bool put_behind(struct history *h, struct block *b)
{
	struct segment *s = segment_for(h, b);

	if (s == NULL)
		return false;
	segment_add(s, b);
	h->blocks_n++;
	h->messages += b->messages;
	h->bytes += b->len;
	return true;
}

void history_add(struct history *h, struct history_total *total, struct block *b,
		 const struct history_limits *limits)
{
	if (!may_keep(b, total, limits) || !put_behind(h, b)) {
		/* What cannot be kept must not leave a hole before what comes next. */
		history_release(h, total);
		return;
	}
	total->bytes += block_bytes(b);
	list_append(&total->blocks, &b->age);
	history_trim(h, total, limits, b->stamped_ns);
}

/* ---- before the others ---- */

static const struct block *history_last(const struct history *h)
{
	const struct segment *s = h->window->segments[h->window->n - 1];

	return s->blocks[s->n - 1];
}

/* What is left of the oldest segment goes into one behind those, for only of the first one of a
 * window some may be gone; the others stay as they are. */
static bool put_all_behind(struct history *front, const struct history *h)
{
	const struct window *w = h->window;
	const struct segment *oldest = w->segments[h->segment];

	for (uint32_t i = h->block; i < oldest->n; i++)
		if (!put_behind(front, oldest->blocks[i]))
			return false;
	for (uint32_t i = h->segment + 1; i < w->n; i++) {
		if (!make_room(front))
			return false;
		front->window->segments[front->window->n++] = w->segments[i];
		segment_ref(w->segments[i]);
	}
	return true;
}

/* What cannot be kept must not leave a hole behind it: it and what is before it goes. */
static void drop_unkept(struct list *blocks, const struct history_total *total,
			const struct history_limits *limits, uint64_t *floor)
{
	struct list *l = blocks->prev;

	while (l != blocks && may_keep(LIST_ENTRY(l, struct block, age), total, limits))
		l = l->prev;
	while (l != blocks) {
		struct block *b = LIST_ENTRY(list_take(blocks), struct block, age);

		*floor = block_number(b) + b->messages - 1;
		if (&b->age == l)
			l = blocks;
		block_unref(b);
	}
}

static bool make_front(struct history *front, const struct history *h, const struct list *blocks)
{
	for (struct list *l = blocks->next; l != blocks; l = l->next)
		if (!put_behind(front, LIST_ENTRY(l, struct block, age)))
			return false;
	return h->blocks_n == 0 || put_all_behind(front, h);
}

void history_prepend(struct history *h, struct history_total *total, struct list *blocks,
		     uint64_t floor, const struct history_limits *limits)
{
	struct list *before = h->blocks_n > 0 ? &history_first(h)->age : &total->blocks, *l;
	struct history front = { 0 };
	bool made;

	drop_unkept(blocks, total, limits, &floor);
	if (list_empty(blocks))
		return;
	front.floor = floor;
	made = make_front(&front, h, blocks);
	while ((l = list_take(blocks)) != NULL) {
		struct block *b = LIST_ENTRY(l, struct block, age);

		if (made) {
			h->blocks_n++;
			h->messages += b->messages;
			h->bytes += b->len;
			total->bytes += block_bytes(b);
			list_append(before, &b->age);
		}
		block_unref(b);
	}
	if (!made) {
		if (front.window != NULL)
			window_unref(front.window);
		return;
	}
	if (h->window != NULL)
		window_unref(h->window);
	h->window = front.window;
	h->segment = h->block = 0;
	h->floor = floor;
	history_trim(h, total, limits, history_last(h)->stamped_ns);
}

uint64_t history_oldest(const struct history *h, const struct history_limits *limits)
{
	if (h->blocks_n == 0)
		return 0;
	return history_first(h)->seq +
	       (h->messages > limits->messages ? h->messages - limits->messages : 0);
}

/* ---- finding ---- */

/* What is looked for: a place, or what clients know a message by. */
enum find_by { BY_SEQ, BY_NUMBER };

static uint64_t key_of(const struct block *b, enum find_by by)
{
	return by == BY_NUMBER ? block_number(b) : b->seq;
}

/* The last segment that begins with this key or before it; the first if there is none. */
static uint32_t find_segment(const struct history *h, uint64_t key, enum find_by by)
{
	uint32_t low = h->segment, high = h->window->n;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		/* Only of the first one are some gone. */
		if (key_of(h->window->segments[middle]->blocks[0], by) <= key)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* Where the block is that history_find has; false: there is none. */
static bool find(const struct history *h, uint64_t key, enum find_by by, struct stretch *at)
{
	const struct segment *s;
	uint32_t low, high;

	if (h->blocks_n == 0)
		return false;
	at->segment = find_segment(h, key, by);
	s = h->window->segments[at->segment];
	low = at->segment == h->segment ? h->block : 0;
	high = s->n;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct block *b = s->blocks[middle];

		if (key_of(b, by) + b->messages <= key)
			low = middle + 1;
		else
			high = middle;
	}
	at->block = low;
	/* Between two segments there are numbers that are nobody's. */
	if (low == s->n && at->segment + 1 < h->window->n) {
		at->segment++;
		at->block = 0;
		return true;
	}
	return low < s->n;
}

static struct block *found(const struct history *h, uint64_t key, enum find_by by)
{
	struct stretch at;

	return find(h, key, by, &at) ? h->window->segments[at.segment]->blocks[at.block] : NULL;
}

struct block *history_find(const struct history *h, uint64_t seq)
{
	return found(h, seq, BY_SEQ);
}

struct block *history_find_number(const struct history *h, uint64_t number)
{
	return found(h, number, BY_NUMBER);
}

struct stretch history_hold(const struct history *h, uint64_t seq)
{
	struct stretch at = { 0 };

	if (!find(h, seq, BY_SEQ, &at))
		return (struct stretch){ 0 };
	at.window = h->window;
	hold(&at.window->holders);
	return at;
}
