#include "engine/recv_buffers.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"

enum {
	GIVE_AT_ONCE = 32, /* buffers given back to the system in one call: 0.1 ms and more */
};

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static size_t ring_bytes(const struct recv_buffers *b)
{
	return b->n * sizeof(struct io_uring_buf);
}

/* Lets so many buffers be posted: those that ever are stay in memory. */
static void post_upto(struct recv_buffers *b, unsigned n)
{
	n = n < b->n ? n : b->n;
	memory_count(((int64_t)n - b->post_max) * (int64_t)b->bytes);
	b->post_max = n;
}

static void post(struct recv_buffers *b, uint16_t id)
{
	io_uring_buf_ring_add(b->ring, b->memory + id * b->bytes, (unsigned)b->bytes, id,
			      io_uring_buf_ring_mask(b->n), (int)b->added_n++);
	b->posted_n++;
}

int recv_buffers_init(struct recv_buffers *b, struct io_uring *uring, unsigned n, size_t bytes)
{
	struct io_uring_buf_reg reg = { .bgid = RECV_BUFFERS_GROUP };
	int err;

	b->n = n;
	b->bytes = bytes;
	b->ring = map(ring_bytes(b));
	b->memory = map(n * bytes);
	b->spare = malloc(n * sizeof(*b->spare));
	if (b->ring == NULL || b->memory == NULL || b->spare == NULL)
		return -ENOMEM;
	reg.ring_addr = (uint64_t)(uintptr_t)b->ring;
	reg.ring_entries = n;
	err = io_uring_register_buf_ring(uring, &reg, 0);
	if (err != 0)
		return err;
	io_uring_buf_ring_init(b->ring);
	for (unsigned i = n; i-- > 0;)
		b->spare[b->spare_n++] = (uint16_t)i;
	post_upto(b, RECV_BUFFERS_POSTED_MIN);
	recv_buffers_post(b);
	return 0;
}

void recv_buffers_release(struct recv_buffers *b)
{
	memory_count(-(int64_t)b->post_max * (int64_t)b->bytes);
	if (b->ring != NULL)
		munmap(b->ring, ring_bytes(b));
	if (b->memory != NULL)
		munmap(b->memory, b->n * b->bytes);
	free(b->spare);
}

void recv_buffers_recycle(struct recv_buffers *b, uint32_t cqe_flags)
{
	uint16_t id = (uint16_t)(cqe_flags >> IORING_CQE_BUFFER_SHIFT);

	b->needed_n++;
	b->posted_n--;
	if (b->posted_n < b->post_max)
		post(b, id);
	else
		b->spare[b->spare_n++] = id;
}

void recv_buffers_lacked(struct recv_buffers *b)
{
	b->needed_n++;
	b->lacked = true;
}

void recv_buffers_post(struct recv_buffers *b)
{
	/* Once for all that found none together, or a burst would have all of them posted. */
	if (b->lacked)
		post_upto(b, 2 * b->post_max);
	b->lacked = false;
	if (b->needed_n > b->needed_most)
		b->needed_most = b->needed_n;
	b->needed_n = 0;
	while (b->posted_n < b->post_max && b->spare_n > 0)
		post(b, b->spare[--b->spare_n]);
	if (b->added_n == 0)
		return;
	io_uring_buf_ring_advance(b->ring, (int)b->added_n);
	b->added_n = 0;
}

/* The next few. */
static void give_some(struct recv_buffers *b, bool empty)
{
	unsigned end = b->give_all ? b->n : b->spare_n, upto = b->give_at + GIVE_AT_ONCE;

	/* Something has come meanwhile: there will be another time. */
	if (b->give_all && !empty) {
		b->giving = false;
		return;
	}
	upto = upto < end ? upto : end;
	for (; b->give_at < upto; b->give_at++) {
		size_t i = b->give_all ? b->give_at : b->spare[b->give_at];

		(void)madvise(b->memory + i * b->bytes, b->bytes, MADV_DONTNEED);
	}
	if (b->give_at < end)
		return;
	b->giving = false;
	if (b->give_all)
		b->rushed = false;
}

bool recv_buffers_give_back(struct recv_buffers *b, bool empty)
{
	unsigned enough = RECV_BUFFERS_POSTED_MIN;

	if (b->giving) {
		give_some(b, empty);
		return b->giving || b->rushed || b->post_max > RECV_BUFFERS_POSTED_MIN;
	}

	/* What is needed over and over must not go and come again all the time. */
	while (enough < b->needed_most)
		enough *= 2;
	b->needed_most = 0;
	if (b->post_max <= enough && !b->rushed)
		return b->post_max > RECV_BUFFERS_POSTED_MIN;
	/* Only whole pages go; what shares one with another buffer stays. */
	if (b->bytes % (size_t)sysconf(_SC_PAGESIZE) != 0)
		return false;
	if (b->post_max > enough)
		post_upto(b, enough);
	/* Those that the kernel has come back one by one. */
	if (!empty)
		b->rushed = b->posted_n > b->post_max;
	b->giving = true;
	b->give_all = empty;
	b->give_at = 0;
	give_some(b, empty);
	return b->giving || b->post_max > RECV_BUFFERS_POSTED_MIN;
}
