#include "kernel.h"

#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"

enum {
	RINGS_MAX = 4,
	CONNECTIONS_MAX = 2048,
	RING_FD_FIRST = 800,
	LISTENER_FD_FIRST = 900,
	FD_FIRST = 1000,
	CLOCK_STEP_NS = 1000,
	SEND_NS = 2500,
};

struct kernel_ring {
	struct io_uring *uring;
	unsigned sq_head, sq_tail, flags, cq_head, cq_tail, never;
	struct io_uring_buf_ring *buffers;
	unsigned buffers_n;
	uint16_t buffers_head;
	uint64_t accept_data;
};

struct connection {
	struct kernel_ring *ring;
	const char *said; /* and not yet read */
	size_t said_n;
	bool receiving;
	struct io_uring_sqe receive;
};

struct kernel_counts kernel_counts;

static uint64_t now_ns = 1000 * NS_PER_S;

static struct kernel_ring rings[RINGS_MAX];
static unsigned rings_n;
static struct connection connections[CONNECTIONS_MAX];
static unsigned connections_n;

static _Noreturn void fail(const char *what, int value)
{
	fprintf(stderr, "replay: %s (%d)\n", what, value);
	exit(1);
}

/* ---- requests ---- */

static void complete(struct kernel_ring *r, uint64_t user_data, int result, unsigned flags)
{
	struct io_uring_cq *cq = &r->uring->cq;

	if (r->cq_tail - r->cq_head == cq->ring_entries)
		fail("the completion queue is full", (int)cq->ring_entries);
	cq->cqes[r->cq_tail++ & cq->ring_mask] =
		(struct io_uring_cqe){ .user_data = user_data, .res = result, .flags = flags };
}

static struct connection *connection_of(int fd)
{
	if (fd < FD_FIRST || fd >= FD_FIRST + (int)connections_n)
		fail("a request for an fd that is no connection", fd);
	return &connections[fd - FD_FIRST];
}

/* One completion for what has been said; false: for now there is nothing. */
static bool receive(struct connection *c)
{
	const struct io_uring_sqe *sqe = &c->receive;
	struct kernel_ring *r = c->ring;
	void *to = (void *)(uintptr_t)sqe->addr;
	size_t n = sqe->len;
	unsigned flags = 0;

	if (!c->receiving || c->said_n == 0)
		return false;
	if (sqe->flags & IOSQE_BUFFER_SELECT) {
		const struct io_uring_buf *b =
			&r->buffers->bufs[r->buffers_head & (r->buffers_n - 1)];

		if (r->buffers_head == r->buffers->tail) {
			c->receiving = false;
			complete(r, sqe->user_data, -ENOBUFS, 0);
			return true;
		}
		r->buffers_head++;
		to = (void *)(uintptr_t)b->addr;
		n = b->len;
		flags = IORING_CQE_F_BUFFER | (unsigned)b->bid << IORING_CQE_BUFFER_SHIFT;
	}
	n = c->said_n < n ? c->said_n : n;
	memcpy(to, c->said, n);
	c->said += n;
	c->said_n -= n;
	c->receiving = sqe->ioprio & IORING_RECV_MULTISHOT;
	flags |= (c->receiving ? IORING_CQE_F_MORE : 0) |
		 (c->said_n > 0 ? IORING_CQE_F_SOCK_NONEMPTY : 0);
	complete(r, sqe->user_data, (int)n, flags);
	return true;
}

static void send_all(struct kernel_ring *r, const struct io_uring_sqe *sqe)
{
	const struct msghdr *m = (void *)(uintptr_t)sqe->addr;
	size_t n = sqe->len;

	connection_of(sqe->fd);
	if (sqe->opcode == IORING_OP_SENDMSG) {
		n = 0;
		for (size_t i = 0; i < m->msg_iovlen; i++)
			n += m->msg_iov[i].iov_len;
	}
	now_ns += SEND_NS;
	kernel_counts.sends++;
	kernel_counts.sent_bytes += n;
	complete(r, sqe->user_data, (int)n, 0);
}

static void take(struct kernel_ring *r, const struct io_uring_sqe *sqe)
{
	struct connection *c;

	switch (sqe->opcode) {
	case IORING_OP_ACCEPT:
		r->accept_data = sqe->user_data;
		return;
	case IORING_OP_RECV:
		c = connection_of(sqe->fd);
		c->receive = *sqe;
		c->receiving = true;
		receive(c);
		return;
	case IORING_OP_SEND:
	case IORING_OP_SENDMSG:
		send_all(r, sqe);
		return;
	case IORING_OP_MSG_RING:
		complete(&rings[sqe->fd - RING_FD_FIRST], sqe->off, (int)sqe->len, 0);
		return;
	case IORING_OP_TIMEOUT:
		return; /* the replay is over before one fires */
	default:
		fail("the broker asks for what is not simulated: io_uring opcode", sqe->opcode);
	}
}

static int submit(struct io_uring *uring)
{
	struct kernel_ring *r = &rings[uring->ring_fd - RING_FD_FIRST];
	int n = 0;

	kernel_counts.enters++;
	for (; r->sq_head != uring->sq.sqe_tail; r->sq_head++, n++)
		take(r, &uring->sq.sqes[r->sq_head & uring->sq.ring_mask]);
	r->sq_tail = uring->sq.sqe_head = r->sq_head;
	return n;
}

/* What comes in shows only now, as with deferred task work. */
static int submit_and_run(struct io_uring *uring)
{
	struct kernel_ring *r = &rings[uring->ring_fd - RING_FD_FIRST];
	int n = submit(uring);

	if (r->flags & IORING_SQ_TASKRUN)
		for (unsigned i = 0; i < connections_n; i++)
			while (connections[i].ring == r && receive(&connections[i]))
				;
	r->flags &= ~IORING_SQ_TASKRUN;
	return n;
}

/* ---- liburing's functions that are not in its header ---- */

int io_uring_queue_init_params(unsigned entries, struct io_uring *uring, struct io_uring_params *p)
{
	struct kernel_ring *r = &rings[rings_n];

	if (rings_n == RINGS_MAX)
		fail("too many rings", RINGS_MAX);
	*r = (struct kernel_ring){ .uring = uring };
	*uring = (struct io_uring){
		.sq = { .khead = &r->sq_head,
			.ktail = &r->sq_tail,
			.kflags = &r->flags,
			.kdropped = &r->never,
			.sqes = calloc(entries, sizeof(struct io_uring_sqe)),
			.ring_mask = entries - 1,
			.ring_entries = entries },
		.cq = { .khead = &r->cq_head,
			.ktail = &r->cq_tail,
			.koverflow = &r->never,
			.cqes = calloc(p->cq_entries, sizeof(struct io_uring_cqe)),
			.ring_mask = p->cq_entries - 1,
			.ring_entries = p->cq_entries },
		.flags = p->flags,
		.ring_fd = RING_FD_FIRST + (int)rings_n++,
	};
	uring->sq.kring_mask = &uring->sq.ring_mask;
	uring->sq.kring_entries = &uring->sq.ring_entries;
	uring->cq.kring_mask = &uring->cq.ring_mask;
	uring->cq.kring_entries = &uring->cq.ring_entries;
	return uring->sq.sqes != NULL && uring->cq.cqes != NULL ? 0 : -ENOMEM;
}

void io_uring_queue_exit(struct io_uring *uring)
{
	free(uring->sq.sqes);
	free(uring->cq.cqes);
}

int io_uring_register_ring_fd(struct io_uring *uring)
{
	(void)uring;
	return 1;
}

int io_uring_register_buf_ring(struct io_uring *uring, struct io_uring_buf_reg *reg, unsigned flags)
{
	struct kernel_ring *r = &rings[uring->ring_fd - RING_FD_FIRST];

	(void)flags;
	r->buffers = (void *)(uintptr_t)reg->ring_addr;
	r->buffers_n = reg->ring_entries;
	return 0;
}

int io_uring_submit(struct io_uring *uring)
{
	return submit(uring);
}

int io_uring_submit_and_get_events(struct io_uring *uring)
{
	return submit_and_run(uring);
}

/* A sleep until some moment: nobody else runs meanwhile, so it comes. */
int io_uring_enter2(unsigned fd, unsigned n, unsigned wait_nr, unsigned flags, sigset_t *arg,
		    size_t arg_bytes)
{
	const struct io_uring_getevents_arg *wait = (const void *)arg;
	const struct __kernel_timespec *time = (const void *)(uintptr_t)wait->ts;
	struct kernel_ring *r = &rings[fd - RING_FD_FIRST];

	(void)n, (void)wait_nr, (void)flags, (void)arg_bytes;
	submit_and_run(r->uring);
	if (r->cq_tail != r->cq_head)
		return 0;
	now_ns += (uint64_t)time->tv_sec * NS_PER_S + (uint64_t)time->tv_nsec;
	return -ETIME;
}

/* Nobody else runs meanwhile who could end a wait, so it ends at once. */
int io_uring_submit_and_wait(struct io_uring *uring, unsigned wait_nr)
{
	(void)wait_nr;
	return submit_and_run(uring);
}

/* ---- time ---- */

uint64_t clock_now_ns(void)
{
	return now_ns += CLOCK_STEP_NS;
}

uint64_t clock_wall_ns(void)
{
	return now_ns;
}

uint64_t clock_cpu_ns(void)
{
	return now_ns;
}

void kernel_pass(uint64_t ns)
{
	now_ns += ns;
}

/* ---- clients ---- */

int kernel_listener(unsigned shard)
{
	return LISTENER_FD_FIRST + (int)shard;
}

unsigned kernel_connect(unsigned shard)
{
	struct kernel_ring *r = &rings[shard];

	if (connections_n == CONNECTIONS_MAX)
		fail("too many connections", CONNECTIONS_MAX);
	if (r->accept_data == 0)
		fail("nobody accepts at shard", (int)shard);
	connections[connections_n].ring = r;
	complete(r, r->accept_data, FD_FIRST + (int)connections_n, IORING_CQE_F_MORE);
	return connections_n++;
}

void kernel_say(unsigned connection, const char *data, size_t n)
{
	struct connection *c = &connections[connection];

	if (c->said_n > 0)
		fail("the broker has not read all from connection", (int)connection);
	c->said = data;
	c->said_n = n;
	c->ring->flags |= IORING_SQ_TASKRUN;
}
