#include "engine/ring.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "engine/recv_buffers.h"

/* Newer than liburing 2.3; values from linux/io_uring.h of Linux 6.18. */
#define TIMEOUT_MULTISHOT (1U << 6)
#define FEAT_MIN_TIMEOUT (1U << 15)

/* struct io_uring_getevents_arg, in which liburing calls min_wait_us "pad" up to 2.7. */
struct wait_arg {
	uint64_t sigmask;
	uint32_t sigmask_bytes;
	uint32_t min_wait_us;
	uint64_t ts;
};
_Static_assert(sizeof(struct wait_arg) == sizeof(struct io_uring_getevents_arg), "the kernel's");

/* In the upper half of the user_data of a wake-up, with the ring's descriptor in the lower: an op
 * that nobody has. */
#define WAKE_FAILED (UINT64_C(0xffffffff) << 32)

enum {
	CQ_PER_SQ = 4, /* a multishot request answers many times for one submission */
	SQ_ENTRIES_MIN = 16,
	RING_HEAD_BYTES = 8192, /* and what is lost to whole pages */
	SUBMIT_TRIES = 5000,    /* with nothing taken, each a REFUSED_MS later */
	REFUSED_MS = 1,
	RELEASE_MS = 100,
	LINGER_FOR = 64, /* completions: then enough have come */
	LINGER_SECONDS_MAX = 3600,
	TIMER_SLACK_NS = 1000, /* that a sleep may be late by */
};

struct ring {
	struct io_uring uring;
	struct ring_counts counts;
	size_t queue_bytes; /* of submissions and completions */
	unsigned batch;
	bool sqpoll;
	bool tick_multishot;
	bool restricted;
	bool backs_off; /* pauses at the next enter */
	unsigned reap;  /* how many more the ring_reap under way calls back for */
	uint64_t tick_data;
	uint64_t wake_data; /* what a wake-up carries */
	struct __kernel_timespec tick, alarm;

	struct recv_buffers buffers;

	/* Headers of queued sends of several spans: the kernel copies them when it takes the
	 * request. */
	struct send_header {
		struct msghdr msg;
		struct iovec spans[RING_SPANS_MAX];
	} * headers;
	unsigned headers_n;

	char description[160];
};

static void pause_ms(long ms)
{
	const struct timespec moment = { .tv_nsec = ms * (long)NS_PER_MS };

	nanosleep(&moment, NULL);
}

static const struct {
	unsigned flag;
	const char *name;
} flag_names[] = {
	{ IORING_SETUP_SQPOLL, "sqpoll" },
	{ IORING_SETUP_SINGLE_ISSUER, "single_issuer" },
	{ IORING_SETUP_DEFER_TASKRUN, "defer_taskrun" },
	{ IORING_SETUP_COOP_TASKRUN, "coop_taskrun" },
	{ IORING_SETUP_TASKRUN_FLAG, "taskrun_flag" },
	{ IORING_SETUP_SUBMIT_ALL, "submit_all" },
};

/* Sets up with the best flags that the kernel takes: on EINVAL the newest goes first. *entries is
 * halved as long as there is no memory for so many. */
static int setup(struct ring *ring, const struct ring_params *params, unsigned *sq_entries)
{
	static const unsigned best[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
			IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_SUBMIT_ALL,
		0,
	};
	static const unsigned best_sqpoll[] = {
		IORING_SETUP_SQPOLL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_SQPOLL | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_SQPOLL,
	};
	const unsigned *flags = params->sqpoll_idle_ms > 0 ? best_sqpoll : best;
	size_t n = params->sqpoll_idle_ms > 0 ? sizeof(best_sqpoll) / sizeof(*best_sqpoll)
					      : sizeof(best) / sizeof(*best);
	unsigned entries = *sq_entries;
	int err = -EINVAL;
	size_t used;

	for (size_t i = 0; i < n;) {
		struct io_uring_params p = {
			.flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
				 (params->restricted ? IORING_SETUP_R_DISABLED : 0),
			.cq_entries = CQ_PER_SQ * entries,
			.sq_thread_idle = params->sqpoll_idle_ms
		};

		err = io_uring_queue_init_params(entries, &ring->uring, &p);
		if (err == -ENOMEM && entries / 2 >= SQ_ENTRIES_MIN) {
			entries /= 2;
			continue;
		}
		if (err != -EINVAL)
			break;
		i++;
	}
	*sq_entries = entries;
	if (err != 0)
		return err;

	ring->sqpoll = params->sqpoll_idle_ms > 0;
	ring->queue_bytes = ring->uring.sq.ring_entries * sizeof(struct io_uring_sqe) +
			    ring->uring.cq.ring_entries * sizeof(struct io_uring_cqe);
	memory_count((int64_t)ring->queue_bytes);
	used = 0;
	for (size_t i = 0; i < sizeof(flag_names) / sizeof(*flag_names); i++)
		if (ring->uring.flags & flag_names[i].flag)
			used += (size_t)snprintf(ring->description + used,
						 sizeof(ring->description) - used, "%s ",
						 flag_names[i].name);
	snprintf(ring->description + used, sizeof(ring->description) - used, "sq %u%s cq %u",
		 ring->uring.sq.ring_entries,
		 entries < params->sq_entries ? " (less than asked for: RLIMIT_MEMLOCK)" : "",
		 ring->uring.cq.ring_entries);
	return 0;
}

/* liburing 2.3 has no call for these. */
static int ring_register(struct ring *ring, unsigned op, void *arg, unsigned n)
{
	return (int)syscall(SYS_io_uring_register, ring->uring.ring_fd, op, arg, n) < 0 ? -errno
											: 0;
}

/*
 * Every request, request flag and registration that this file makes from here on; what is missing
 * fails with EACCES (io_uring_register(2), IORING_REGISTER_RESTRICTIONS). A kernel that does not
 * know one of them refuses them all, and the ring goes unrestricted.
 */
static int restrict_requests(struct ring *ring)
{
	static const uint8_t requests[] = { IORING_OP_ACCEPT,   IORING_OP_RECV,
					    IORING_OP_SEND,     IORING_OP_SENDMSG,
					    IORING_OP_TIMEOUT,  IORING_OP_TIMEOUT_REMOVE,
					    IORING_OP_MSG_RING, IORING_OP_ASYNC_CANCEL,
					    IORING_OP_CONNECT };
	enum { REQUESTS = sizeof(requests) / sizeof(requests[0]) };
	struct io_uring_restriction all[REQUESTS + 2] = {
		{ .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
		  .sqe_flags = IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS },
		{ .opcode = IORING_RESTRICTION_REGISTER_OP,
		  .register_op = IORING_UNREGISTER_RING_FDS },
	};

	for (unsigned i = 0; i < REQUESTS; i++)
		all[2 + i] = (struct io_uring_restriction){ .opcode = IORING_RESTRICTION_SQE_OP,
							    .sqe_op = requests[i] };
	return ring_register(ring, IORING_REGISTER_RESTRICTIONS, all, REQUESTS + 2);
}

static int try_new(const struct ring_params *params, unsigned *sq_entries, struct ring **out)
{
	struct ring *ring = calloc(1, sizeof(*ring));
	int err;

	if (ring == NULL)
		return -ENOMEM;
	err = setup(ring, params, sq_entries);
	if (err != 0) {
		free(ring);
		return err;
	}
	/* Fifty times as much is usual, and as long as many a rest (ring_enter_until). */
	(void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
	/* Saves a look-up of the ring's file in every enter; nothing is lost without it. */
	(void)io_uring_register_ring_fd(&ring->uring);
	ring->tick_multishot = true;
	ring->batch = params->batch;
	ring->headers = malloc(params->batch * sizeof(*ring->headers));
	if (ring->headers == NULL)
		err = -ENOMEM;
	else if (params->recv_buffers > 0)
		err = recv_buffers_init(&ring->buffers, &ring->uring, params->recv_buffers,
					params->recv_buffer_bytes);
	/* Last: what comes after is restricted, and other rings cannot wake a disabled one. */
	if (err == 0 && params->restricted) {
		ring->restricted = restrict_requests(ring) == 0;
		err = ring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	}
	if (err != 0) {
		ring_free(ring);
		return err;
	}
	*out = ring;
	return 0;
}

/* Those that fit into an equal part of the locked memory for each ring, where it is counted: else
 * the first rings would leave none for the last. */
static unsigned fair_entries(const struct ring_params *params)
{
	const size_t bytes = sizeof(struct io_uring_sqe) + sizeof(uint32_t) +
			     CQ_PER_SQ * sizeof(struct io_uring_cqe);
	unsigned entries = params->sq_entries;
	size_t others = params->recv_buffers * sizeof(struct io_uring_buf) + RING_HEAD_BYTES;
	struct rlimit limit;

	/* Not root's. */
	if (params->rings == 0 || geteuid() == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
	    limit.rlim_cur == RLIM_INFINITY)
		return entries;
	while (entries / 2 >= SQ_ENTRIES_MIN &&
	       entries * bytes + others > limit.rlim_cur / params->rings)
		entries /= 2;
	return entries;
}

int ring_new(const struct ring_params *params, struct ring **out)
{
	unsigned entries = fair_entries(params);
	int err;

	*out = NULL;
	/* The ring may have taken the memory that its buffers need then: a smaller one leaves some.
	 * The kernel gives back what the first one had only a moment after it is closed. */
	while ((err = try_new(params, &entries, out)) == -ENOMEM && entries / 2 >= SQ_ENTRIES_MIN) {
		entries /= 2;
		pause_ms(RELEASE_MS);
	}
	return err;
}

static uint64_t power_of_two(uint64_t n)
{
	uint64_t power = 1;

	while (power < n)
		power *= 2;
	return power;
}

uint64_t ring_base_bytes(const struct ring_params *params)
{
	uint64_t entries = power_of_two(params->sq_entries);
	uint64_t buffers = params->recv_buffers < RECV_BUFFERS_POSTED_MIN ? params->recv_buffers
									  : RECV_BUFFERS_POSTED_MIN;

	return entries * sizeof(struct io_uring_sqe) +
	       power_of_two((uint64_t)CQ_PER_SQ * params->sq_entries) *
		       sizeof(struct io_uring_cqe) +
	       buffers * params->recv_buffer_bytes;
}

void ring_free(struct ring *ring)
{
	if (ring == NULL)
		return;
	io_uring_queue_exit(&ring->uring);
	memory_count(-(int64_t)ring->queue_bytes);
	recv_buffers_release(&ring->buffers);
	free(ring->headers);
	free(ring);
}

const char *ring_describe(const struct ring *ring)
{
	return ring->description;
}

bool ring_restricted(const struct ring *ring)
{
	return ring->restricted;
}

const struct ring_counts *ring_counts(const struct ring *ring)
{
	return &ring->counts;
}

int ring_fd(const struct ring *ring)
{
	return ring->uring.ring_fd;
}

static int read_number(const char *path)
{
	FILE *f = fopen(path, "re");
	int value = -1;

	if (f == NULL)
		return -1;
	if (fscanf(f, "%d", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

void ring_explain(int error, char *buf, size_t size)
{
	int disabled = read_number("/proc/sys/kernel/io_uring_disabled");
	struct rlimit memlock = { 0, 0 };

	getrlimit(RLIMIT_MEMLOCK, &memlock);
	if (error == -EPERM && disabled > 0)
		snprintf(buf, size,
			 "io_uring is switched off on this host: set kernel.io_uring_disabled to 0 "
			 "(it is %d) with "
			 "sysctl",
			 disabled);
	else if (error == -EPERM || error == -EACCES)
		snprintf(buf, size,
			 "io_uring is refused (%s), most likely by a seccomp profile: containers "
			 "need one that allows "
			 "io_uring_setup, io_uring_enter and io_uring_register",
			 strerror(-error));
	else if (error == -ENOSYS)
		snprintf(buf, size,
			 "this kernel has no io_uring, or a seccomp profile hides it: Linux 6.1 or "
			 "newer is needed, and "
			 "in a container a profile that allows io_uring_setup, io_uring_enter and "
			 "io_uring_register");
	else if (error == -ENOMEM)
		snprintf(buf, size,
			 "no memory for an io_uring: raise RLIMIT_MEMLOCK (it is %llu KiB; "
			 "LimitMEMLOCK= in a systemd "
			 "unit, ulimit -l in a shell) or lower engine.sq_entries and "
			 "engine.recv_buffers",
			 (unsigned long long)memlock.rlim_cur / 1024);
	else if (error == -EINVAL)
		snprintf(buf, size,
			 "this kernel's io_uring is too old: Linux 6.1 or newer is needed");
	else if (error == -EMFILE || error == -ENFILE)
		snprintf(
			buf, size,
			"no file descriptor left for an io_uring: raise RLIMIT_NOFILE (ulimit -n)");
	else
		snprintf(buf, size, "io_uring cannot be set up: %s", strerror(-error));
}

/* Asked again at once the kernel would refuse at once. */
static void enter_refused(struct ring *ring, int error)
{
	ring->counts.enter_errors++;
	if (error != -EINTR)
		pause_ms(REFUSED_MS);
}

/* What an enter that submits has returned; how many requests the kernel has taken. */
static unsigned entered(struct ring *ring, int n)
{
	ring->counts.enters++;
	if (n < 0) {
		enter_refused(ring, n);
		return 0;
	}
	ring->counts.submitted += (unsigned)n;
	if (io_uring_sq_ready(&ring->uring) == 0)
		ring->headers_n = 0;
	return (unsigned)n;
}

unsigned ring_submit(struct ring *ring)
{
	if (io_uring_sq_ready(&ring->uring) == 0)
		return 0;
	return entered(ring, io_uring_submit(&ring->uring));
}

static struct io_uring_sqe *make_room(struct ring *ring)
{
	for (int i = 0; i < SUBMIT_TRIES; i++) {
		struct io_uring_sqe *sqe;

		/* A submission thread has to be told as well, before it is waited for. */
		ring_submit(ring);
		if (ring->sqpoll)
			io_uring_sqring_wait(&ring->uring);
		sqe = io_uring_get_sqe(&ring->uring);
		if (sqe != NULL)
			return sqe;
	}
	/* The kernel has taken nothing for seconds: there is no way on. */
	abort();
}

static inline struct io_uring_sqe *next_sqe(struct ring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

	return sqe != NULL ? sqe : make_room(ring);
}

void ring_accept(struct ring *ring, int fd, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
	sqe->user_data = user_data;
}

void ring_recv(struct ring *ring, int fd, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = RECV_BUFFERS_GROUP;
	sqe->user_data = user_data;
}

void ring_recv_once(struct ring *ring, int fd, bool empty, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	io_uring_prep_recv(sqe, fd, NULL, 0, 0);
	sqe->ioprio = empty ? IORING_RECVSEND_POLL_FIRST : 0;
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = RECV_BUFFERS_GROUP;
	sqe->user_data = user_data;
}

void ring_recv_into(struct ring *ring, int fd, void *buf, size_t len, bool empty,
		    uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	io_uring_prep_recv(sqe, fd, buf, len, 0);
	sqe->ioprio = empty ? IORING_RECVSEND_POLL_FIRST : 0;
	sqe->user_data = user_data;
}

void ring_send(struct ring *ring, int fd, const struct iovec *spans, unsigned spans_n,
	       uint64_t user_data)
{
	struct io_uring_sqe *sqe;

	assert(spans_n > 0 && spans_n <= RING_SPANS_MAX);
	if (io_uring_sq_ready(&ring->uring) >= ring->batch || ring->headers_n == ring->batch)
		ring_submit(ring);
	sqe = next_sqe(ring);
	/* A submission thread reads the headers whenever it likes, so there the first span must do;
	 * so it must if the kernel has refused the last batch. */
	if (spans_n == 1 || ring->sqpoll || ring->headers_n == ring->batch) {
		io_uring_prep_send(sqe, fd, spans[0].iov_base, spans[0].iov_len,
				   MSG_NOSIGNAL | MSG_WAITALL);
	} else {
		struct send_header *h = &ring->headers[ring->headers_n++];

		memcpy(h->spans, spans, spans_n * sizeof(*spans));
		h->msg = (struct msghdr){ .msg_iov = h->spans, .msg_iovlen = spans_n };
		io_uring_prep_sendmsg(sqe, fd, &h->msg, MSG_NOSIGNAL | MSG_WAITALL);
	}
	sqe->user_data = user_data;
}

void ring_connect(struct ring *ring, int fd, const void *address, unsigned address_bytes,
		  uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	io_uring_prep_connect(sqe, fd, address, (socklen_t)address_bytes);
	sqe->user_data = user_data;
}

void ring_cancel(struct ring *ring, uint64_t target, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	io_uring_prep_cancel64(sqe, target, 0);
	sqe->user_data = user_data;
}

void ring_cancel_fd(struct ring *ring, int fd, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	io_uring_prep_cancel_fd(sqe, fd, IORING_ASYNC_CANCEL_ALL);
	sqe->user_data = user_data;
}

void ring_tick(struct ring *ring, uint64_t period_ns, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	ring->tick_data = user_data;
	ring->tick.tv_sec = (long long)(period_ns / NS_PER_S);
	ring->tick.tv_nsec = (long long)(period_ns % NS_PER_S);
	io_uring_prep_timeout(sqe, &ring->tick, 0, ring->tick_multishot ? TIMEOUT_MULTISHOT : 0);
	sqe->user_data = user_data;
}

void ring_tick_stop(struct ring *ring, uint64_t tick, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	io_uring_prep_timeout_remove(sqe, tick, 0);
	sqe->user_data = user_data;
}

void ring_alarm(struct ring *ring, uint64_t at_ns, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	ring->alarm.tv_sec = (long long)(at_ns / NS_PER_S);
	ring->alarm.tv_nsec = (long long)(at_ns % NS_PER_S);
	/* The clock of an absolute timeout is CLOCK_MONOTONIC unless it asks for another. */
	io_uring_prep_timeout(sqe, &ring->alarm, 0, IORING_TIMEOUT_ABS);
	sqe->user_data = user_data;
}

void ring_wake(struct ring *ring, int target_ring_fd, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(ring);

	io_uring_prep_msg_ring(sqe, target_ring_fd, 0, user_data, 0);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	/* Only a failure comes back, with what it takes to try again. */
	ring->wake_data = user_data;
	sqe->user_data = WAKE_FAILED | (uint32_t)target_ring_fd;
}

/* Somebody sleeps whom this should have woken, unless it has ended. */
static void wake_failed(struct ring *ring, int target_ring_fd, int result)
{
	if (result == -EBADFD || result == -EBADF)
		return;
	ring_back_off(ring);
	ring_wake(ring, target_ring_fd, ring->wake_data);
}

bool ring_deferred(const struct ring *ring)
{
	return IO_URING_READ_ONCE(*ring->uring.sq.kflags) &
	       (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* Whether the kernel holds completions that only an enter brings out. Without TASKRUN_FLAG it does
 * not say. */
static bool deferred_work(const struct ring *ring)
{
	return ring_deferred(ring) ||
	       (!(ring->uring.flags & IORING_SETUP_TASKRUN_FLAG) && !ring->sqpoll);
}

bool ring_ready(const struct ring *ring)
{
	return io_uring_cq_ready(&ring->uring) > 0 || ring_deferred(ring);
}

unsigned ring_queued(const struct ring *ring)
{
	return io_uring_sq_ready(&ring->uring);
}

/* Sleeps for linger_us or until there are 64 completions, then until there is one, and in all no
 * longer than so long. liburing 2.3 has no call that sets a minimum wait. */
static void sleep_for(struct ring *ring, uint64_t ns, unsigned linger_us)
{
	const struct __kernel_timespec time = { .tv_sec = (long long)(ns / NS_PER_S),
						.tv_nsec = (long long)(ns % NS_PER_S) };
	struct wait_arg arg = { .min_wait_us = linger_us, .ts = (uint64_t)(uintptr_t)&time };
	int n;

	ring_submit(ring);
	/* What the kernel did not take must not wait until something else wakes us. */
	if (io_uring_sq_ready(&ring->uring) > 0 || io_uring_cq_ready(&ring->uring) > 0)
		return;
	ring->counts.enters++;
	n = io_uring_enter2((unsigned)ring->uring.ring_fd, 0, linger_us > 0 ? LINGER_FOR : 1,
			    IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, (sigset_t *)(void *)&arg,
			    sizeof(arg));
	if (n < 0 && n != -ETIME)
		enter_refused(ring, n);
}

void ring_back_off(struct ring *ring)
{
	ring->backs_off = true;
}

/* Before Linux 6.12 a minimum wait is refused at once, which is no wait at all. */
static bool lingers(const struct ring *ring, unsigned linger_us)
{
	return linger_us > 0 && (ring->uring.features & FEAT_MIN_TIMEOUT);
}

static void back_off(struct ring *ring)
{
	if (ring->backs_off)
		pause_ms(REFUSED_MS);
	ring->backs_off = false;
}

void ring_enter_until(struct ring *ring, uint64_t at_ns, unsigned linger_us)
{
	uint64_t now_ns;

	back_off(ring);
	now_ns = clock_now_ns();
	if (now_ns < at_ns && io_uring_cq_ready(&ring->uring) == 0)
		sleep_for(ring, at_ns - now_ns, lingers(ring, linger_us) ? linger_us : 0);
	else
		ring_enter(ring, false, 0);
}

void ring_enter(struct ring *ring, bool wait, unsigned linger_us)
{
	int n;

	back_off(ring);
	/* What is there comes first; waiting would only put it off. */
	if (io_uring_cq_ready(&ring->uring) > 0)
		wait = false;
	if (!wait && io_uring_sq_ready(&ring->uring) == 0 && !deferred_work(ring))
		return;
	if (wait && lingers(ring, linger_us)) {
		/* Without a time-out in all, the kernel comes back with nothing when the least is
		 * over. */
		sleep_for(ring, LINGER_SECONDS_MAX * NS_PER_S, linger_us);
		return;
	}
	if (wait)
		n = io_uring_submit_and_wait(&ring->uring, 1);
	else
		n = io_uring_submit_and_get_events(&ring->uring);
	(void)entered(ring, n);
}

unsigned ring_reap(struct ring *ring, unsigned max, ring_complete *callback, void *context)
{
	unsigned n = 0, ready = io_uring_cq_ready(&ring->uring);

	if (io_uring_cq_has_overflow(&ring->uring))
		ring->counts.overflows++;
	ring->reap = max < ready ? max : ready;
	while (n < ring->reap) {
		const struct io_uring_cqe *cqe =
			&ring->uring.cq.cqes[*ring->uring.cq.khead & *ring->uring.cq.kring_mask];
		struct completion c = { .user_data = cqe->user_data, .result = cqe->res };
		uint32_t flags = cqe->flags;

		io_uring_cq_advance(&ring->uring, 1);
		n++;
		if ((c.user_data & WAKE_FAILED) == WAKE_FAILED) {
			wake_failed(ring, (int)(uint32_t)c.user_data, c.result);
			continue;
		}
		c.more = flags & IORING_CQE_F_MORE;
		c.nonempty = flags & IORING_CQE_F_SOCK_NONEMPTY;
		c.data = recv_buffers_data(&ring->buffers, flags);
		if (c.result == -ENOBUFS) {
			ring->counts.no_buffers++;
			recv_buffers_lacked(&ring->buffers);
		} else if (c.result == -EINVAL && c.user_data == ring->tick_data) {
			/* Before Linux 6.4 a timeout fires once; whoever armed it arms it again. */
			ring->tick_multishot = false;
		}
		callback(context, &c);
		if (c.data != NULL)
			recv_buffers_recycle(&ring->buffers, flags);
	}
	if (n > 0)
		recv_buffers_post(&ring->buffers);
	return n;
}

void ring_enough(struct ring *ring)
{
	ring->reap = 0;
}

bool ring_giving_back(const struct ring *ring)
{
	return ring->buffers.giving;
}

bool ring_give_back(struct ring *ring)
{
	/* Where nothing is received but in ring_enter, and all of that has been reaped, no buffer
	 * holds anything. */
	bool empty = (ring->uring.flags & IORING_SETUP_DEFER_TASKRUN) &&
		     io_uring_cq_ready(&ring->uring) == 0 &&
		     !io_uring_cq_has_overflow(&ring->uring);

	return recv_buffers_give_back(&ring->buffers, empty);
}

int ring_socket(struct ring *ring, int family, int silence_ms)
{
	static const int on = 1;
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)ring;
	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence_ms, sizeof(silence_ms));
	return fd;
}

void ring_shutdown(struct ring *ring, int fd, int how)
{
	(void)ring;
	(void)shutdown(fd, how);
}

void ring_close(struct ring *ring, int fd)
{
	(void)ring;
	(void)close(fd);
}

int ring_send_now(struct ring *ring, int fd, const void *data, size_t len)
{
	ssize_t n = send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	(void)ring;
	return n < 0 ? -errno : (int)n;
}

size_t ring_kernel_bytes(struct ring *ring, int fd)
{
	uint32_t info[SK_MEMINFO_VARS] = { 0 };
	socklen_t len = sizeof(info);

	(void)ring;
	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &len) != 0)
		return 0;
	/* TCP keeps what it sends in a queue of its own; others charge what is on its way. */
	return (size_t)info[SK_MEMINFO_RMEM_ALLOC] +
	       (info[SK_MEMINFO_WMEM_QUEUED] > info[SK_MEMINFO_WMEM_ALLOC]
			? info[SK_MEMINFO_WMEM_QUEUED]
			: info[SK_MEMINFO_WMEM_ALLOC]);
}

uint64_t ring_taken(struct ring *ring, int fd)
{
	/* As linux/tcp.h goes on where glibc's ends. */
	struct {
		struct tcp_info info;
		uint64_t pacing_rate, max_pacing_rate, bytes_acked;
	} tcp;
	socklen_t len = sizeof(tcp);

	_Static_assert(sizeof(struct tcp_info) == 104, "the kernel's first part");
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &len) == 0 && len == sizeof(tcp))
		return tcp.bytes_acked;
	return ring_kernel_bytes(ring, fd);
}

void ring_reset(struct ring *ring, int fd)
{
	const struct linger none = { .l_onoff = 1 };

	(void)ring;
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
}

void ring_listen_options(int fd, size_t send_buffer_bytes, int silence_ms)
{
	const int bytes = (int)send_buffer_bytes;

	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	/* Not of unix sockets, whose peers cannot vanish. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence_ms, sizeof(silence_ms));
}

static void put_address(const struct sockaddr_storage *from, unsigned char address[16],
			unsigned *port)
{
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;

	memset(address, 0, 16);
	*port = 0;
	if (from->ss_family == AF_INET6) {
		memcpy(address, &v6->sin6_addr, 16);
		*port = ntohs(v6->sin6_port);
	} else if (from->ss_family == AF_INET) {
		address[10] = address[11] = 0xff;
		memcpy(address + 12, &v4->sin_addr, 4);
		*port = ntohs(v4->sin_port);
	}
}

void ring_peer(struct ring *ring, int fd, unsigned char address[16])
{
	struct sockaddr_storage peer = { .ss_family = AF_UNSPEC };
	socklen_t len = sizeof(peer);
	unsigned port;

	(void)ring;
	(void)getpeername(fd, (struct sockaddr *)&peer, &len);
	put_address(&peer, address, &port);
}

void ring_local(struct ring *ring, int fd, unsigned char address[16], unsigned *port)
{
	struct sockaddr_storage local = { .ss_family = AF_UNSPEC };
	socklen_t len = sizeof(local);

	(void)ring;
	(void)getsockname(fd, (struct sockaddr *)&local, &len);
	put_address(&local, address, port);
}

bool ring_peer_uid(struct ring *ring, int fd, uint32_t *uid)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	(void)ring;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0 || peer.pid == 0)
		return false;
	*uid = peer.uid;
	return true;
}
