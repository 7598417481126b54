/*
 * What receiving costs with nothing behind it: one thread takes what --senders sockets bring, by
 * multishot receives into buffers that are provided to the ring, as the broker does, and gives each
 * buffer back at once. A child process on another core sends --bytes at a time. Prints one line of
 * JSON with the bytes received per CPU-second of the receiving thread.
 */

#include <errno.h>
#include <getopt.h>
#include <liburing.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "limit/common.h"

enum {
	SENDERS_MAX = 10000,
	BUFFERS = 1024, /* a power of two */
	GROUP = 0,
};

/* Not yet in the headers of this liburing. */
enum {
	RECV_BUNDLE = 1U << 4,     /* IORING_RECVSEND_BUNDLE, Linux 6.10 */
	BUF_RING_INCREMENTAL = 2,  /* IOU_PBUF_RING_INC, Linux 6.12 */
	CQE_BUFFER_MORE = 1U << 4, /* IORING_CQE_F_BUF_MORE */
};

enum mode {
	MODE_FIXED,       /* a buffer for each receive */
	MODE_INCREMENTAL, /* a buffer is filled by one receive after another */
	MODE_BUNDLE,      /* as many buffers for a receive as it has bytes for */
};

static const char *const mode_names[] = { "fixed", "incremental", "bundle" };

struct options {
	size_t senders, bytes, buffer_bytes;
	double seconds, rate;
	enum mode mode;
};

struct receiver {
	const struct options *options;
	struct io_uring ring;
	struct io_uring_buf_ring *provided;
	char *memory;
	int *fds;
	uint64_t bytes, receives, buffers, lacks;
	unsigned next; /* the buffer that is filled next: they are used in the order they came */
};

static double seconds_of(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- the senders' process ---- */

static _Noreturn void send_all(const struct options *o, const struct sockaddr_in *address)
{
	int *fds = calloc(o->senders, sizeof(*fds));
	char *chunk = calloc(1, o->bytes);

	if (fds == NULL || chunk == NULL)
		die("memory", ENOMEM);
	for (size_t i = 0; i < o->senders; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fds[i] < 0 ||
		    connect(fds[i], (const struct sockaddr *)address, sizeof(*address)) < 0)
			die("connect", errno);
	}
	for (double due = seconds_of(CLOCK_MONOTONIC);; due += 1 / o->rate) {
		struct timespec t = { .tv_sec = (time_t)due,
				      .tv_nsec = (long)((due - (double)(time_t)due) * 1e9) };

		if (o->rate > 0)
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
		for (size_t i = 0; i < o->senders; i++)
			(void)!send(fds[i], chunk, o->bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

/* ---- the receiver ---- */

static void give(struct receiver *r, unsigned id)
{
	io_uring_buf_ring_add(r->provided, r->memory + id * r->options->buffer_bytes,
			      (unsigned)r->options->buffer_bytes, (unsigned short)id,
			      io_uring_buf_ring_mask(BUFFERS), 0);
	io_uring_buf_ring_advance(r->provided, 1);
}

static void ask(struct receiver *r, size_t i)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	if (sqe == NULL) {
		io_uring_submit(&r->ring);
		sqe = io_uring_get_sqe(&r->ring);
	}
	if (sqe == NULL)
		die("no room in the ring", EBUSY);
	io_uring_prep_recv_multishot(sqe, r->fds[i], NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	if (r->options->mode == MODE_BUNDLE)
		sqe->ioprio |= RECV_BUNDLE;
	io_uring_sqe_set_data64(sqe, i);
}

static void take(struct receiver *r, const struct io_uring_cqe *cqe)
{
	unsigned id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
	size_t left = cqe->res > 0 ? (size_t)cqe->res : 0;

	if (cqe->res > 0) {
		r->bytes += left;
		r->receives++;
		if (r->options->mode == MODE_BUNDLE)
			for (; left > 0; id = (id + 1) % BUFFERS) {
				left -= left < r->options->buffer_bytes ? left
									: r->options->buffer_bytes;
				give(r, id);
				r->buffers++;
			}
		else if (!(cqe->flags & CQE_BUFFER_MORE)) {
			give(r, id);
			r->buffers++;
		}
	} else if (cqe->res == -ENOBUFS) {
		r->lacks++;
	} else {
		die("recv", -cqe->res);
	}
	if (!(cqe->flags & IORING_CQE_F_MORE))
		ask(r, (size_t)cqe->user_data);
}

static void receive_for(struct receiver *r, double seconds)
{
	double end = seconds_of(CLOCK_MONOTONIC) + seconds;

	while (seconds_of(CLOCK_MONOTONIC) < end) {
		struct io_uring_cqe *cqe;
		unsigned head, seen = 0;
		int err = io_uring_submit_and_wait(&r->ring, 1);

		if (err < 0 && err != -EINTR)
			die("io_uring_enter", -err);
		io_uring_for_each_cqe(&r->ring, head, cqe)
		{
			take(r, cqe);
			seen++;
		}
		io_uring_cq_advance(&r->ring, seen);
	}
}

static void receiver_init(struct receiver *r)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_CQSIZE,
		.cq_entries = 16384,
	};
	struct io_uring_buf_reg reg = { .ring_entries = BUFFERS, .bgid = GROUP };
	int err = io_uring_queue_init_params(4096, &r->ring, &params);

	if (err < 0)
		die("io_uring", -err);
	r->provided = mmap(NULL, BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r->memory = mmap(NULL, BUFFERS * r->options->buffer_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->provided == MAP_FAILED || r->memory == MAP_FAILED)
		die("mmap", errno);
	reg.ring_addr = (uint64_t)(uintptr_t)r->provided;
	if (r->options->mode == MODE_INCREMENTAL)
		reg.pad = BUF_RING_INCREMENTAL; /* where newer headers have `flags` */
	err = io_uring_register_buf_ring(&r->ring, &reg, 0);
	if (err != 0)
		die("provided buffers (incremental ones take Linux 6.12)", -err);
	io_uring_buf_ring_init(r->provided);
	for (unsigned i = 0; i < BUFFERS; i++)
		give(r, i);
}

static void receiver_accept(struct receiver *r, int listener)
{
	for (size_t i = 0; i < r->options->senders; i++) {
		/* cppcheck-suppress nullPointer ; nobody asks for the address */
		r->fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (r->fds[i] < 0)
			die("accept", errno);
		ask(r, i);
	}
}

static void measure(struct receiver *r)
{
	const struct options *o = r->options;
	double cpu, wall;

	receive_for(r, 0.3);
	r->bytes = r->receives = r->buffers = r->lacks = 0;
	cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID);
	wall = seconds_of(CLOCK_MONOTONIC);
	receive_for(r, o->seconds);
	cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
	wall = seconds_of(CLOCK_MONOTONIC) - wall;
	printf("{\"bench\":\"receive\",\"mode\":\"%s\",\"senders\":%zu,\"bytes\":%zu,\"buffer_"
	       "bytes\":%zu,\"received\":%llu,\"receives\":%llu,\"buffers\":%llu,\"lacks\":%llu,"
	       "\"wall_s\":%.6f,\"cpu_s\":%.6f,\"bytes_per_cpu_s\":%.0f}\n",
	       mode_names[o->mode], o->senders, o->bytes, o->buffer_bytes,
	       (unsigned long long)r->bytes, (unsigned long long)r->receives,
	       (unsigned long long)r->buffers, (unsigned long long)r->lacks, wall, cpu,
	       (double)r->bytes / cpu);
}

/* ---- start ---- */

static _Noreturn void usage(int status)
{
	fprintf(status ? stderr : stdout,
		"usage: receive [option...]\n"
		"  --senders N        sockets to receive from (100)\n"
		"  --bytes N          that each of them sends at a time (8192)\n"
		"  --buffer-bytes N   of each of %d buffers (16384)\n"
		"  --rate N           times a second; 0 is as often as it goes (0)\n"
		"  --seconds N        to measure (3)\n"
		"  --mode M           fixed: a buffer for each receive; incremental: a buffer is\n"
		"                     filled by one receive after another; bundle: several "
		"buffers\n"
		"                     for one receive (fixed)\n",
		BUFFERS);
	exit(status);
}

static struct options options_parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "senders", required_argument, NULL, 'n' },
		{ "bytes", required_argument, NULL, 'b' },
		{ "buffer-bytes", required_argument, NULL, 'u' },
		{ "rate", required_argument, NULL, 'r' },
		{ "seconds", required_argument, NULL, 's' },
		{ "mode", required_argument, NULL, 'm' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct options o = { .senders = 100, .bytes = 8192, .buffer_bytes = 16384, .seconds = 3 };
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		switch (c) {
		case 'n':
			o.senders = (size_t)number(optarg, 1, SENDERS_MAX);
			break;
		case 'b':
			o.bytes = (size_t)number(optarg, 1, 16 << 20);
			break;
		case 'u':
			o.buffer_bytes = (size_t)number(optarg, 64, 16 << 20);
			break;
		case 'r':
			o.rate = number(optarg, 0, 1e6);
			break;
		case 's':
			o.seconds = number(optarg, 0.01, 3600);
			break;
		case 'm':
			for (o.mode = MODE_FIXED; strcmp(optarg, mode_names[o.mode]) != 0;)
				if (++o.mode > MODE_BUNDLE)
					usage(2);
			break;
		default:
			usage(c == 'h' ? 0 : 2);
		}
	}
	if (optind != argc)
		usage(2);
	return o;
}

int main(int argc, char **argv)
{
	struct options options = options_parse(argc, argv);
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct receiver r = { .options = &options };
	socklen_t len = sizeof(address);
	struct rlimit files;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	pid_t child;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	r.fds = calloc(options.senders, sizeof(*r.fds));
	if (r.fds == NULL)
		die("memory", ENOMEM);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, len) < 0 ||
	    listen(listener, 4096) < 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &len) < 0)
		die("listen", errno);
	child = fork();
	if (child < 0)
		die("fork", errno);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)pin(true);
		send_all(&options, &address);
	}
	(void)pin(false);
	receiver_init(&r);
	receiver_accept(&r, listener);
	measure(&r);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	free(r.fds);
	return 0;
}
