/*
 * The bare blaster: what a broker could reach if it had nothing to do but send. One thread sends
 * one shared buffer of K messages to each of N subscribers, round after round; nothing is parsed,
 * routed or kept. A child process on another core reads and throws away. Prints one line of JSON
 * with the messages delivered per CPU-second of the sending thread.
 *
 * A message is what the line protocol carries: --bytes of filler and CR LF. Rounds are kept apart
 * by a window, as a load generator's is: at most --window of them are sent and not yet read. The
 * reader counts in shared memory, and the sender sleeps on a futex when it has to wait.
 */

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <liburing.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "limit/common.h"

/* Not yet in the headers of this liburing: io_uring_enter(2), io_uring_register(2) of Linux 6.13.
 */
enum {
	SEND_BUNDLE = 1U << 4,   /* IORING_RECVSEND_BUNDLE */
	ENTER_ARG_REG = 1U << 6, /* IORING_ENTER_EXT_ARG_REG */
	REGISTER_MEM_REGION = 34,
};

struct region_desc {
	uint64_t address, size;
	uint32_t flags, id;
	uint64_t mmap_offset, reserved[4];
};

struct region_reg {
	uint64_t desc, flags, reserved[2];
};

struct reg_wait {
	struct __kernel_timespec ts;
	uint32_t min_wait_usec, flags;
	uint64_t sigmask;
	uint32_t sigmask_bytes, pad[3];
	uint64_t more_pad[2];
};

enum {
	BATCH = 64,               /* submissions per io_uring_enter; more gains nothing */
	RING_ENTRIES = 256,       /* the completion queue is four times that */
	SUBSCRIBERS_MAX = 60000,  /* what the loopback has ports for */
	READ_BYTES = 1024 * 1024, /* of the reader, at a time */
	BUNDLE_MAX = 1024,        /* messages, a power of two */
	STALL_SECONDS = 10,       /* nothing read for so long fails the run */
};

#define NS_PER_S UINT64_C(1000000000)

/* How a chunk goes out. */
enum mode {
	MODE_SEND,      /* send(2) each; all others on io_uring */
	MODE_URING,     /* SEND */
	MODE_ZERO_COPY, /* SEND_ZC */
	MODE_SKIP,   /* SEND that completes in silence: what of a round is under way nobody knows */
	MODE_VECTOR, /* SENDMSG of a vector with an element for each message */
	MODE_BUNDLE, /* SEND of a bundle of provided buffers, one for each message */
};

static const char *const mode_names[] = {
	"send", "uring", "zero-copy", "skip", "vector", "bundle"
};

/* How a paced sender sleeps until the next round is due. */
enum nap {
	NAP_CLOCK,  /* clock_nanosleep(2) */
	NAP_RING,   /* io_uring_enter(2) with a time */
	NAP_REGION, /* the same with the time in memory that was registered for it */
};

static const char *const nap_names[] = { "clock", "ring", "region" };

struct options {
	size_t subscribers, bytes, coalesce, window;
	double seconds, warmup, rate;
	uint16_t port;
	enum mode mode;
	enum nap nap;
	bool pin;
};

/* Shared by the two processes. */
struct shared {
	_Atomic uint64_t received; /* bytes, of all subscribers; the reader's only store */
	_Atomic uint64_t awaited;  /* the sender sleeps until received gets there; 0: it does not */
	_Atomic uint32_t futex;    /* goes up when it has */
};

struct blaster {
	const struct options *options;
	struct shared *shared;
	char *chunk; /* what each subscriber gets in a round */
	size_t chunk_bytes;
	int *fds;
	size_t *left; /* bytes of this round not yet taken by each socket */
	struct pollfd *polls;
	struct io_uring ring;
	struct iovec *pieces;                    /* the chunk's messages */
	struct msghdr vector;                    /* of them */
	struct io_uring_buf_ring *groups[BATCH]; /* of provided messages */
	struct reg_wait *wait;                   /* registered */
	uint64_t sent;                           /* bytes, of all subscribers and rounds */
	uint64_t calls, shorts, fulls, waits;
	pid_t reader;
};

static void *allocate(size_t count, size_t bytes)
{
	void *memory = calloc(count, bytes);

	if (!memory)
		die("memory", ENOMEM);
	return memory;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- the reader's process ---------------------------------------------------------------------
 */

static void reader_count(struct shared *shared, uint64_t bytes)
{
	uint64_t received = atomic_fetch_add(&shared->received, bytes) + bytes;
	uint64_t awaited = atomic_load(&shared->awaited);

	if (awaited == 0 || received < awaited)
		return;
	atomic_fetch_add(&shared->futex, 1);
	syscall(SYS_futex, &shared->futex, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void read_exactly(int fd, const char *want)
{
	char got[16];
	size_t len = strlen(want);

	if (recv(fd, got, len, MSG_WAITALL) != (ssize_t)len || memcmp(got, want, len) != 0)
		die("no OK", errno);
}

static int subscribe(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ||
	    send(fd, "SUBSCRIBE x\r\n", 13, MSG_NOSIGNAL) != 13)
		die("subscribe", errno);
	return fd;
}

/* Reads and discards until the sender has closed every connection. */
static _Noreturn void reader_run(const struct options *options, struct shared *shared,
				 const struct sockaddr_in *address)
{
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	int *fds = allocate(options->subscribers, sizeof(int));
	char *discard = allocate(1, READ_BYTES);
	struct epoll_event events[256];
	size_t open = options->subscribers;

	for (size_t i = 0; i < options->subscribers; i++)
		fds[i] = subscribe(address);
	for (size_t i = 0; i < options->subscribers; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.fd = fds[i] };

		read_exactly(fds[i], "OK\r\n");
		if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[i], &event) < 0)
			die("epoll_ctl", errno);
	}
	while (open > 0) {
		int n = epoll_wait(epoll_fd, events, 256, -1);
		uint64_t bytes = 0;

		for (int i = 0; i < n; i++) {
			ssize_t got = recv(events[i].data.fd, discard, READ_BYTES, MSG_DONTWAIT);

			if (got > 0) {
				bytes += (uint64_t)got;
			} else if (got == 0 || errno != EAGAIN) {
				close(events[i].data.fd);
				open--;
			}
		}
		if (bytes > 0)
			reader_count(shared, bytes);
	}
	_exit(0);
}

/* ---- the sender -------------------------------------------------------------------------------
 */

static void blaster_await(struct blaster *b, uint64_t received)
{
	uint64_t before = atomic_load(&b->shared->received);

	if (before >= received)
		return;
	b->waits++;
	for (;;) {
		struct timespec timeout = { .tv_sec = STALL_SECONDS };
		uint32_t futex = atomic_load(&b->shared->futex);

		atomic_store(&b->shared->awaited, received);
		if (atomic_load(&b->shared->received) >= received)
			break;
		if (syscall(SYS_futex, &b->shared->futex, FUTEX_WAIT, futex, &timeout, NULL, 0) <
			    0 &&
		    errno == ETIMEDOUT) {
			if (atomic_load(&b->shared->received) == before)
				die("the reader has stopped", ETIMEDOUT);
			before = atomic_load(&b->shared->received);
		}
	}
	atomic_store(&b->shared->awaited, 0);
}

/* One pass over all sockets that still want something; returns how many are left. */
static size_t send_pass(struct blaster *b)
{
	size_t unfinished = 0;

	for (size_t i = 0; i < b->options->subscribers; i++) {
		ssize_t n;

		if (b->left[i] == 0)
			continue;
		n = send(b->fds[i], b->chunk + b->chunk_bytes - b->left[i], b->left[i],
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		b->calls++;
		if (n < 0 && errno != EAGAIN)
			die("send", errno);
		b->fulls += n < 0;
		b->left[i] -= n < 0 ? 0 : (size_t)n;
		if (b->left[i] == 0)
			continue;
		b->shorts += n > 0;
		b->polls[unfinished++] = (struct pollfd){ .fd = b->fds[i], .events = POLLOUT };
	}
	return unfinished;
}

static void send_round(struct blaster *b)
{
	size_t unfinished;

	while ((unfinished = send_pass(b)) > 0)
		if (poll(b->polls, unfinished, STALL_SECONDS * 1000) <= 0)
			die("no socket takes anything", ETIMEDOUT);
}

/*
 * A chunk once more. A bundle takes what its group has, and goes on when there is more: each send
 * of a batch has a group of its own, empty again when the batch is through.
 */
static void provide(struct blaster *b, size_t group)
{
	struct io_uring_buf_ring *ring = b->groups[group];
	int mask = io_uring_buf_ring_mask(BUNDLE_MAX);

	for (size_t i = 0; i < b->options->coalesce; i++)
		io_uring_buf_ring_add(ring, b->pieces[i].iov_base, (unsigned)b->pieces[i].iov_len,
				      (unsigned short)i, mask, (int)i);
	io_uring_buf_ring_advance(ring, (int)b->options->coalesce);
}

static void uring_prepare(struct blaster *b, size_t i)
{
	struct io_uring_sqe *sqe;

	if (io_uring_sq_space_left(&b->ring) == 0)
		io_uring_submit(&b->ring);
	sqe = io_uring_get_sqe(&b->ring);
	assert(sqe);
	io_uring_prep_send(sqe, b->fds[i], b->chunk + b->chunk_bytes - b->left[i], b->left[i],
			   MSG_WAITALL | MSG_NOSIGNAL);
	switch (b->left[i] == b->chunk_bytes ? b->options->mode : MODE_URING) {
	case MODE_ZERO_COPY:
		/* The same fields; a second completion says when the kernel needs the bytes no
		 * more. They never change here, so nobody waits for it. */
		sqe->opcode = IORING_OP_SEND_ZC;
		break;
	case MODE_SKIP:
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
		break;
	case MODE_VECTOR:
		io_uring_prep_sendmsg(sqe, b->fds[i], &b->vector, MSG_WAITALL | MSG_NOSIGNAL);
		break;
	case MODE_BUNDLE:
		sqe->addr = 0;
		sqe->flags |= IOSQE_BUFFER_SELECT;
		sqe->ioprio |= SEND_BUNDLE;
		sqe->buf_group = (uint16_t)(i % BATCH);
		provide(b, i % BATCH);
		break;
	case MODE_SEND:
	case MODE_URING:
	default:
		break;
	}
	io_uring_sqe_set_data64(sqe, i);
	b->calls++;
}

/* Takes what has completed; returns how many subscribers have got all. A short send goes on. */
static size_t uring_reap(struct blaster *b)
{
	struct io_uring_cqe *cqe;
	unsigned head, seen = 0;
	size_t finished = 0;

	io_uring_for_each_cqe(&b->ring, head, cqe)
	{
		size_t i = (size_t)cqe->user_data;

		/* The second of zero-copy, and of a bundle: its group is empty. */
		if ((cqe->flags & IORING_CQE_F_NOTIF) ||
		    (cqe->res == -ENOBUFS && b->left[i] == 0)) {
			seen++;
			continue;
		}
		if (cqe->res <= 0)
			die("send", -cqe->res);
		assert((size_t)cqe->res <= b->left[i]);
		b->left[i] -= (size_t)cqe->res;
		finished += b->left[i] == 0;
		seen++;
		if (b->left[i] == 0)
			continue;
		b->shorts++;
		uring_prepare(b, i);
	}
	io_uring_cq_advance(&b->ring, seen);
	return finished;
}

static void uring_round(struct blaster *b)
{
	size_t unfinished = b->options->subscribers;

	for (size_t i = 0; i < b->options->subscribers;) {
		for (size_t end = i + BATCH; i < end && i < b->options->subscribers; i++)
			uring_prepare(b, i);
		if (io_uring_submit_and_get_events(&b->ring) < 0)
			die("io_uring_enter", EIO);
		unfinished -= uring_reap(b);
	}
	/* What fails or is short would say so, and what is under way the reader's count tells. */
	if (b->options->mode == MODE_SKIP)
		return;
	while (unfinished > 0) {
		int n = io_uring_submit_and_wait(&b->ring, 1);

		if (n < 0 && n != -EINTR)
			die("io_uring_enter", -n);
		unfinished -= uring_reap(b);
	}
}

static void blaster_round(struct blaster *b)
{
	for (size_t i = 0; i < b->options->subscribers; i++)
		b->left[i] = b->chunk_bytes;
	if (b->options->mode != MODE_SEND)
		uring_round(b);
	else
		send_round(b);
	b->sent += b->chunk_bytes * b->options->subscribers;
}

static void blaster_nap(struct blaster *b, uint64_t at)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC), ns = at > now ? at - now : 0;
	struct __kernel_timespec left = { .tv_sec = (long long)(ns / NS_PER_S),
					  .tv_nsec = (long long)(ns % NS_PER_S) };
	struct io_uring_getevents_arg arg = { .ts = (uint64_t)(uintptr_t)&left };
	struct timespec t = { .tv_sec = (time_t)(at / NS_PER_S), .tv_nsec = (long)(at % NS_PER_S) };
	unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;

	if (ns == 0)
		return;
	switch (b->options->nap) {
	case NAP_RING:
		syscall(SYS_io_uring_enter, b->ring.ring_fd, 0, 1, flags, &arg, sizeof(arg));
		break;
	case NAP_REGION:
		b->wait->ts = left;
		b->wait->flags = 1; /* IORING_REG_WAIT_TS */
		if (syscall(SYS_io_uring_enter, b->ring.ring_fd, 0, 1, flags | ENTER_ARG_REG, 0,
			    sizeof(*b->wait)) < 0 &&
		    errno != ETIME && errno != EINTR)
			die("registered wait", errno);
		break;
	case NAP_CLOCK:
	default:
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
	}
}

/* Whole rounds until the time is up; the last one's window is left open. Returns the rounds. */
static uint64_t blaster_run(struct blaster *b, double seconds, uint64_t *send_cpu_ns)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC), rounds = 0, cpu;
	uint64_t end = start + (uint64_t)(seconds * (double)NS_PER_S);
	uint64_t window = b->options->window * b->chunk_bytes * b->options->subscribers;
	uint64_t round = b->chunk_bytes * b->options->subscribers;

	for (; clock_ns(CLOCK_MONOTONIC) < end; rounds++) {
		if (b->options->rate > 0) {
			uint64_t at = start + (uint64_t)((double)rounds / b->options->rate * 1e9);

			blaster_nap(b, at);
		}
		if (b->sent + round > window)
			blaster_await(b, b->sent + round - window);
		cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
		blaster_round(b);
		*send_cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
	}
	return rounds;
}

static void blaster_measure(struct blaster *b)
{
	const struct options *o = b->options;
	uint64_t wall, cpu, sent, rounds, delivered, send_cpu_ns = 0;
	double wall_s, cpu_s;

	blaster_run(b, o->warmup, &send_cpu_ns);
	blaster_await(b, b->sent);
	b->calls = b->shorts = b->fulls = b->waits = send_cpu_ns = 0;
	sent = b->sent;
	wall = clock_ns(CLOCK_MONOTONIC);
	cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	rounds = blaster_run(b, o->seconds, &send_cpu_ns);
	blaster_await(b, b->sent);
	cpu_s = (double)(clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu) / 1e9;
	wall_s = (double)(clock_ns(CLOCK_MONOTONIC) - wall) / 1e9;
	delivered = rounds * o->subscribers * o->coalesce;
	assert(b->sent - sent == delivered * (o->bytes + 2));

	printf("{\"bench\":\"limit\",\"mode\":\"%s\",\"nap\":\"%s\",\"subscribers\":%zu,\"bytes\":%"
	       "zu,"
	       "\"coalesce\":%zu,\"window\":%zu,\"rate\":%g,\"pinned\":%s,\"rounds\":%llu,"
	       "\"delivered\":%llu,\"wall_s\":%.6f,\"cpu_s\":%.6f,\"send_cpu_s\":%.6f,"
	       "\"delivered_per_cpu_s\":%.0f,\"delivered_per_s\":%.0f,\"cpu_ns_per_delivered\":%."
	       "2f,"
	       "\"sends\":%llu,\"short_sends\":%llu,\"full_sockets\":%llu,\"waits\":%llu}\n",
	       mode_names[o->mode], nap_names[o->nap], o->subscribers, o->bytes, o->coalesce,
	       o->window, o->rate, o->pin ? "true" : "false", (unsigned long long)rounds,
	       (unsigned long long)delivered, wall_s, cpu_s, (double)send_cpu_ns / 1e9,
	       (double)delivered / cpu_s, (double)delivered / wall_s,
	       cpu_s * 1e9 / (double)delivered, (unsigned long long)b->calls,
	       (unsigned long long)b->shorts, (unsigned long long)b->fulls,
	       (unsigned long long)b->waits);
}

/* ---- start ------------------------------------------------------------------------------------
 */

static int listen_on(struct sockaddr_in *address)
{
	socklen_t len = sizeof(*address);
	struct timeval patience = { .tv_sec = STALL_SECONDS };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 || /* inherited */
	    bind(fd, (struct sockaddr *)address, len) < 0 || listen(fd, 4096) < 0 ||
	    getsockname(fd, (struct sockaddr *)address, &len) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		die("listen", errno);
	return fd;
}

/* A subscriber is whoever connects and says something; what it says does not matter. */
static void blaster_accept(struct blaster *b, int listener)
{
	char command[4096];

	for (size_t i = 0; i < b->options->subscribers; i++) {
		/* cppcheck-suppress nullPointer ; nobody asks for the address */
		b->fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (b->fds[i] < 0)
			die("accept", errno);
	}
	for (size_t i = 0; i < b->options->subscribers; i++)
		if (recv(b->fds[i], command, sizeof(command), 0) <= 0 ||
		    send(b->fds[i], "OK\r\n", 4, MSG_NOSIGNAL) != 4)
			die("subscriber", errno);
}

/* The time of a wait lies in memory that the kernel has mapped once. */
static void region_init(struct blaster *b)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct region_desc desc = { .size = page, .flags = 1 /* IORING_MEM_REGION_TYPE_USER */ };
	struct region_reg reg = { .desc = (uint64_t)(uintptr_t)&desc,
				  .flags = 1 /* IORING_MEM_REGION_REG_WAIT_ARG */ };

	b->wait = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->wait == MAP_FAILED)
		die("mmap", errno);
	desc.address = (uint64_t)(uintptr_t)b->wait;
	if (syscall(SYS_io_uring_register, b->ring.ring_fd, REGISTER_MEM_REGION, &reg, 1) < 0)
		die("a registered region takes Linux 6.13", errno);
	if (syscall(SYS_io_uring_register, b->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) <
	    0)
		die("io_uring", EIO);
}

static void groups_init(struct blaster *b)
{
	size_t bytes = BUNDLE_MAX * sizeof(struct io_uring_buf);

	for (size_t i = 0; i < BATCH; i++) {
		struct io_uring_buf_reg reg = { .ring_entries = BUNDLE_MAX, .bgid = (uint16_t)i };

		b->groups[i] = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (b->groups[i] == MAP_FAILED)
			die("mmap", errno);
		reg.ring_addr = (uint64_t)(uintptr_t)b->groups[i];
		if (io_uring_register_buf_ring(&b->ring, &reg, 0) != 0)
			die("provided buffers", EINVAL);
		io_uring_buf_ring_init(b->groups[i]);
	}
}

static void uring_init(struct blaster *b)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_CQSIZE |
			 (b->options->nap == NAP_REGION ? IORING_SETUP_R_DISABLED : 0),
		.cq_entries = 4 * RING_ENTRIES,
	};
	int error = io_uring_queue_init_params(RING_ENTRIES, &b->ring, &params);

	if (error < 0)
		die("io_uring", -error);
	if (b->options->nap == NAP_REGION)
		region_init(b);
	if (b->options->mode == MODE_BUNDLE)
		groups_init(b);
}

static void chunk_fill(struct blaster *b)
{
	size_t message = b->options->bytes + 2;

	b->chunk_bytes = b->options->coalesce * message;
	b->chunk = allocate(1, b->chunk_bytes);
	b->pieces = allocate(b->options->coalesce, sizeof(*b->pieces));
	b->vector = (struct msghdr){ .msg_iov = b->pieces, .msg_iovlen = b->options->coalesce };
	for (size_t i = 0; i < b->options->coalesce; i++) {
		char *at = b->chunk + i * message;

		b->pieces[i] = (struct iovec){ at, message };
		for (size_t j = 0; j < b->options->bytes; j++)
			at[j] = (char)('a' + (i + j) % 26);
		memcpy(at + b->options->bytes, "\r\n", 2);
	}
}

static bool has_ring(const struct options *options)
{
	return options->mode != MODE_SEND || options->nap != NAP_CLOCK;
}

static void blaster_release(struct blaster *b)
{
	for (size_t i = 0; i < b->options->subscribers; i++)
		close(b->fds[i]);
	if (has_ring(b->options))
		io_uring_queue_exit(&b->ring);
	free(b->chunk);
	free(b->pieces);
	free(b->fds);
	free(b->left);
	free(b->polls);
}

static _Noreturn void usage(int status)
{
	fprintf(status ? stderr : stdout,
		"usage: limit [option...]\n"
		"  --subscribers N    sockets to send to (100)\n"
		"  --bytes N          of a message, without its CR LF (128)\n"
		"  --coalesce N       messages in each send (64)\n"
		"  --window N         rounds sent and not yet read, at most (1)\n"
		"  --rate N           rounds a second; 0 is as many as will go (0)\n"
		"  --seconds N        to measure (3)\n"
		"  --warmup N         seconds before that (0.5)\n"
		"  --mode M           send: one send() each (send); or batches of %d on io_uring:\n"
		"                     uring: SEND; zero-copy: SEND_ZC; skip: SEND without a "
		"completion;\n"
		"                     vector: SENDMSG of the messages; bundle: SEND of a bundle "
		"of\n"
		"                     them as provided buffers, %d at most\n"
		"  --nap N            with a rate, sleep by the clock, on the ring, or on it with\n"
		"                     registered memory: clock|ring|region (clock)\n"
		"  --port N           to listen on at 127.0.0.1; 0 is any (0)\n"
		"  --no-pin           let the two processes run on any core\n",
		BATCH, BUNDLE_MAX);
	exit(status);
}

/* Which of the names it is. */
static int choice(const char *text, const char *const *names, int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(text, names[i]) == 0)
			return i;
	usage(2);
}

static struct options options_parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "subscribers", required_argument, NULL, 'n' },
		{ "bytes", required_argument, NULL, 'b' },
		{ "coalesce", required_argument, NULL, 'k' },
		{ "window", required_argument, NULL, 'w' },
		{ "rate", required_argument, NULL, 'r' },
		{ "seconds", required_argument, NULL, 's' },
		{ "warmup", required_argument, NULL, 'u' },
		{ "mode", required_argument, NULL, 'm' },
		{ "nap", required_argument, NULL, 'a' },
		{ "port", required_argument, NULL, 'p' },
		{ "no-pin", no_argument, NULL, 'f' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct options o = { .subscribers = 100,
			     .bytes = 128,
			     .coalesce = 64,
			     .window = 1,
			     .seconds = 3,
			     .warmup = 0.5,
			     .pin = true };
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		switch (c) {
		case 'n':
			o.subscribers = (size_t)number(optarg, 1, SUBSCRIBERS_MAX);
			break;
		case 'b':
			o.bytes = (size_t)number(optarg, 0, 64 << 20);
			break;
		case 'k':
			o.coalesce = (size_t)number(optarg, 1, 65536);
			break;
		case 'w':
			o.window = (size_t)number(optarg, 1, 65536);
			break;
		case 'r':
			o.rate = number(optarg, 0, 1e6);
			break;
		case 's':
			o.seconds = number(optarg, 0.01, 3600);
			break;
		case 'u':
			o.warmup = number(optarg, 0, 3600);
			break;
		case 'm':
			o.mode = (enum mode)choice(optarg, mode_names, MODE_BUNDLE + 1);
			break;
		case 'a':
			o.nap = (enum nap)choice(optarg, nap_names, NAP_REGION + 1);
			break;
		case 'p':
			o.port = (uint16_t)number(optarg, 0, 65535);
			break;
		case 'f':
			o.pin = false;
			break;
		default:
			usage(c == 'h' ? 0 : 2);
		}
	}
	if (optind != argc || o.coalesce * (o.bytes + 2) > (size_t)1 << 30 ||
	    (o.mode == MODE_BUNDLE && o.coalesce > BUNDLE_MAX) ||
	    (o.mode == MODE_VECTOR && o.coalesce > IOV_MAX))
		usage(2);
	return o;
}

static void reader_start(struct blaster *b, const struct sockaddr_in *address)
{
	b->shared = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b->shared == MAP_FAILED)
		die("mmap", errno);
	b->reader = fork();
	if (b->reader < 0)
		die("fork", errno);
	if (b->reader > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (b->options->pin)
		pin(true);
	reader_run(b->options, b->shared, address);
}

int main(int argc, char **argv)
{
	struct options options = options_parse(argc, argv);
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(options.port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct blaster b = { .options = &options };
	struct rlimit files;
	int listener, status;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	b.fds = allocate(options.subscribers, sizeof(*b.fds));
	b.left = allocate(options.subscribers, sizeof(*b.left));
	b.polls = allocate(options.subscribers, sizeof(*b.polls));
	chunk_fill(&b);
	listener = listen_on(&address);
	reader_start(&b, &address);
	options.pin = options.pin && pin(false);
	if (has_ring(&options))
		uring_init(&b);
	blaster_accept(&b, listener);
	blaster_measure(&b);

	blaster_release(&b);
	close(listener);
	if (waitpid(b.reader, &status, 0) < 0 || status != 0)
		die("the reader failed", ECHILD);
	if (atomic_load(&b.shared->received) == b.sent)
		return 0;
	fprintf(stderr, "limit: %llu bytes were sent and %llu read\n", (unsigned long long)b.sent,
		(unsigned long long)atomic_load(&b.shared->received));
	return 1;
}
