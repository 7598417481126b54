#ifndef ENGINE_RECV_BUFFERS_H
#define ENGINE_RECV_BUFFERS_H

/*
 * The receive buffers that a ring provides to the kernel (io_uring_register_buf_ring(3)). All of
 * them are in one mapping, of which only a few are posted, that is the kernel's, at a time: it
 * cycles through what it has, and few stay in cache. More are posted once a receive found none.
 * For ring.c alone; belongs to the ring's thread.
 */

#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	RECV_BUFFERS_GROUP = 1,
	RECV_BUFFERS_POSTED_MIN = 32
}; /* what a receive that takes one of them names */

struct recv_buffers {
	struct io_uring_buf_ring *ring;
	char *memory;
	size_t bytes; /* of each */
	unsigned n, posted_n, post_max;
	unsigned added_n; /* posted, but the kernel has not been told yet */
	/* Used or lacked since the last recv_buffers_post; most of that since the last give_back.
	 */
	unsigned needed_n, needed_most;
	bool lacked;           /* a receive found none since the last recv_buffers_post */
	bool rushed;           /* more are posted than there may be now */
	bool giving, give_all; /* memory is being given back; of those that are posted, too */
	unsigned give_at;
	uint16_t *spare; /* stack of buffers that are not posted: the warmest on top */
	unsigned spare_n;
};

/* The structure must be all zero. n is a power of two. -errno: release it all the same. */
int recv_buffers_init(struct recv_buffers *buffers, struct io_uring *uring, unsigned n,
		      size_t bytes);
/* After the end of the io_uring; does nothing to one that is all zero. */
void recv_buffers_release(struct recv_buffers *buffers);

/* Where the bytes of a completion with these flags lie; NULL: it took no buffer. */
static inline const char *recv_buffers_data(const struct recv_buffers *b, uint32_t cqe_flags)
{
	if (!(cqe_flags & IORING_CQE_F_BUFFER))
		return NULL;
	return b->memory + (cqe_flags >> IORING_CQE_BUFFER_SHIFT) * b->bytes;
}

/* Takes back the buffer of a completion that took one: the kernel gets it again with the next
 * recv_buffers_post, unless it has enough. */
void recv_buffers_recycle(struct recv_buffers *buffers, uint32_t cqe_flags);
/* A receive found none. */
void recv_buffers_lacked(struct recv_buffers *buffers);
/* Gives the kernel as many as it may have now: twice as many if some were lacked since the last
 * call. */
void recv_buffers_post(struct recv_buffers *buffers);

/* Gives the memory that a rush needed back to the system, and keeps what has been needed at a
 * time since the last call; empty: no buffer holds anything, those that are posted included.
 * Some of it at a time: call again soon while `giving`. Returns whether there is more to give, now
 * or when that is over. */
bool recv_buffers_give_back(struct recv_buffers *buffers, bool empty);

#endif
