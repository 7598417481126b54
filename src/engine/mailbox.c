#include "engine/mailbox.h"

#include <assert.h>
#include <ck_pr.h>
#include <ck_ring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/memory.h"

/* ThreadSanitizer does not see ck's assembly: it is told here, and nowhere else, where one thread's
 * letters become another's. */
#ifdef WITH_TSAN
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define HAND_OVER(p) __tsan_release(p)
#define TAKE_OVER(p) __tsan_acquire(p)
#else
#define HAND_OVER(p) ((void)(p))
#define TAKE_OVER(p) ((void)(p))
#endif

#define CACHE_LINE 64
#define PARKED (UINT64_C(1) << 63)

enum {
	DOORBELL_BITS = 63,
	TOUCHED_SLOTS = 4096 / sizeof(void *), /* a page, that comes with the first of them */
};

/* One direction of one pair. The ring's two ends are a cache line each (ck_ring.h). */
struct lane {
	ck_ring_t ring;
	uint32_t wanted;  /* the sender found no room and waits to be rung */
	uint32_t touched; /* the sender's: slots that have been written to, as memory counts them */
	void **slots;
} __attribute__((aligned(CACHE_LINE)));

struct doorbell {
	_Atomic uint64_t word;
} __attribute__((aligned(CACHE_LINE)));

struct mailbox {
	unsigned readers, senders, lane_entries;
	size_t lanes_n;
	struct doorbell *doorbells; /* one per reader */
	struct lane *lanes;         /* [reader][sender][lane] */
	void **slots;
	size_t slots_bytes;
};

static struct lane *lane_of(const struct mailbox *m, unsigned reader, unsigned sender,
			    enum mailbox_lane lane)
{
	assert(reader < m->readers && sender < m->senders);
	return &m->lanes[((size_t)reader * m->senders + sender) * LANES + lane];
}

struct mailbox *mailbox_new(unsigned readers, unsigned senders, unsigned lane_entries)
{
	size_t lanes_n = (size_t)readers * senders * LANES;
	struct mailbox *m = calloc(1, sizeof(*m));

	assert(readers <= senders && lane_entries >= 2 && (lane_entries & (lane_entries - 1)) == 0);
	if (m == NULL)
		return NULL;
	m->readers = readers;
	m->senders = senders;
	m->lane_entries = lane_entries;
	m->lanes_n = lanes_n;
	m->doorbells = aligned_alloc(CACHE_LINE, readers * sizeof(*m->doorbells));
	m->lanes = aligned_alloc(CACHE_LINE, lanes_n * sizeof(*m->lanes));
	/* Mapped and not touched: a lane that is never used costs no memory. */
	m->slots_bytes = lanes_n * lane_entries * sizeof(void *);
	m->slots = mmap(NULL, m->slots_bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->slots == MAP_FAILED)
		m->slots = NULL;
	if (m->lanes != NULL)
		memset(m->lanes, 0, lanes_n * sizeof(*m->lanes));
	if (m->doorbells == NULL || m->lanes == NULL || m->slots == NULL) {
		mailbox_free(m);
		return NULL;
	}
	for (unsigned i = 0; i < readers; i++)
		atomic_init(&m->doorbells[i].word, 0);
	for (size_t i = 0; i < lanes_n; i++) {
		ck_ring_init(&m->lanes[i].ring, lane_entries);
		m->lanes[i].slots = m->slots + i * lane_entries;
	}
	return m;
}

void mailbox_free(struct mailbox *m)
{
	if (m == NULL)
		return;
	if (m->slots != NULL) {
		for (size_t i = 0; m->lanes != NULL && i < m->lanes_n; i++)
			memory_count(-(int64_t)(m->lanes[i].touched * sizeof(void *)));
		munmap(m->slots, m->slots_bytes);
	}
	free(m->lanes);
	free(m->doorbells);
	free(m);
}

unsigned mailbox_senders(const struct mailbox *m)
{
	return m->senders;
}

/* Counts what a push up to this slot touches for the first time. */
static void count_touched(struct lane *l, unsigned upto)
{
	unsigned entries = l->ring.mask + 1;
	unsigned step = entries < TOUCHED_SLOTS ? entries : TOUCHED_SLOTS;

	while (l->touched < entries && l->touched < upto) {
		l->touched += step;
		memory_count((int64_t)(step * sizeof(void *)));
	}
}

static unsigned push(struct lane *l, void *const *letters, unsigned n)
{
	unsigned head = ck_pr_load_uint(&l->ring.c_head);
	unsigned tail = l->ring.p_tail, mask = l->ring.mask;
	unsigned room = mask - (tail - head);

	TAKE_OVER(&l->ring.c_head);
	if (n > room)
		n = room;
	if (n == 0)
		return 0;
	/* Before it has come round, and so long before its numbers do. */
	if (l->touched <= mask)
		count_touched(l, tail + n);
	for (unsigned i = 0; i < n; i++)
		l->slots[(tail + i) & mask] = letters[i];
	HAND_OVER(&l->ring.p_tail);
	ck_pr_fence_store();
	ck_pr_store_uint(&l->ring.p_tail, tail + n);
	return n;
}

uint32_t mailbox_taken(const struct mailbox *m, unsigned reader, unsigned sender,
		       enum mailbox_lane lane)
{
	return ck_pr_load_uint(&lane_of(m, reader, sender, lane)->ring.c_head);
}

/* Says so first, for whoever looks again then, or the reader may make room and leave just in
 * between. */
static void want(struct lane *l)
{
	ck_pr_store_32(&l->wanted, 1);
	ck_pr_fence_memory();
}

void mailbox_want(struct mailbox *m, unsigned reader, unsigned sender, enum mailbox_lane lane)
{
	want(lane_of(m, reader, sender, lane));
}

unsigned mailbox_push(struct mailbox *m, unsigned reader, unsigned sender, enum mailbox_lane lane,
		      void *const *letters, unsigned n)
{
	struct lane *l = lane_of(m, reader, sender, lane);
	unsigned pushed;

	pushed = push(l, letters, n);
	if (pushed == n)
		return n;
	want(l);
	pushed += push(l, letters + pushed, n - pushed);
	return pushed;
}

unsigned mailbox_pop(struct mailbox *m, unsigned reader, unsigned sender, enum mailbox_lane lane,
		     void **letters, unsigned max, bool *again)
{
	struct lane *l = lane_of(m, reader, sender, lane);
	unsigned head = l->ring.c_head, mask = l->ring.mask;
	unsigned n = ck_pr_load_uint(&l->ring.p_tail) - head;

	if (n > max)
		n = max;
	if (n == 0)
		return 0;
	ck_pr_fence_load();
	TAKE_OVER(&l->ring.p_tail);
	for (unsigned i = 0; i < n; i++)
		letters[i] = l->slots[(head + i) & mask];
	HAND_OVER(&l->ring.c_head);
	/* The slots must have been read before the sender may write them again. */
	ck_pr_fence_load_store();
	ck_pr_store_uint(&l->ring.c_head, head + n);
	/* The other half of the agreement in mailbox_push. */
	ck_pr_fence_memory();
	if (ck_pr_load_32(&l->wanted) != 0) {
		ck_pr_store_32(&l->wanted, 0);
		/* A sender that reads no mail looks again by itself. */
		*again = sender < m->readers;
	}
	return n;
}

uint64_t mailbox_bit(unsigned sender)
{
	return UINT64_C(1) << sender % DOORBELL_BITS;
}

bool mailbox_ring(struct mailbox *m, unsigned reader, unsigned sender)
{
	return atomic_fetch_or(&m->doorbells[reader].word, mailbox_bit(sender)) == PARKED;
}

uint64_t mailbox_take(struct mailbox *m, unsigned reader)
{
	return atomic_exchange(&m->doorbells[reader].word, 0) & ~PARKED;
}

bool mailbox_peek(const struct mailbox *m, unsigned reader)
{
	return (atomic_load_explicit(&m->doorbells[reader].word, memory_order_relaxed) & ~PARKED) !=
	       0;
}

bool mailbox_park(struct mailbox *m, unsigned reader)
{
	uint64_t none = 0;

	return atomic_compare_exchange_strong(&m->doorbells[reader].word, &none, PARKED);
}
