#include "engine/ring.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/poison.h"
#include "sim.h"

enum {
	FD_FIRST = 1000,
	RING_FD_FIRST = 10,
	FDS_MAX = SIM_CLIENTS_MAX + SIM_SHARDS_MAX + SIM_DIALS_MAX + 8
};

enum op {
	REQUEST_ACCEPT,
	REQUEST_RECV,
	REQUEST_RECV_INTO,
	REQUEST_SEND,
	REQUEST_TIMER,
	REQUEST_CONNECT,
	/* These end at once when they are submitted. */
	REQUEST_CANCEL,
	REQUEST_CANCEL_FD,
	REQUEST_TIMER_STOP,
	REQUEST_WAKE,
};

static const char op_letters[] = { 'a', 'r', 'i', 's', 't', 'd', 'c', 'f', 'u', 'w' };

/* What an fd stands for: a client's connection, one to a server, or a shard's listener. */
struct file {
	struct sim_tcp *wire; /* NULL: a listener, or it is not connected yet */
	bool open, listener, shut_read, shut_write, reset_at_close;
	unsigned shard;
	int client; /* -1: none, it is a listener or was dialled */
	unsigned requests, sends, receives;
	uint32_t waiting[SIM_CLIENTS_MAX]; /* of a listener: clients, first come first */
	unsigned waiting_n;
};

struct request {
	bool once; /* a receive that is not multishot */
	enum op op;
	struct ring *ring;
	struct file *file;
	int fd;
	uint64_t data;
	bool cancelled;
	struct iovec spans[RING_SPANS_MAX];
	unsigned spans_n;
	size_t total, done;
	uint64_t sum;
	char *into;
	uint64_t target; /* of a cancellation, a wake-up */
	int target_fd;
	uint64_t at_ns, period_ns;
	struct request *next_free;
	unsigned place; /* among those that the kernel has */
};

struct answer {
	struct completion c;
	int buffer, client;
};

struct ring {
	struct ring_counts counts;
	struct ring_params params;
	unsigned shard;
	struct request **queue;
	unsigned queue_n, queue_slots;
	struct answer *answers; /* round */
	unsigned answers_n, answers_head, answers_slots, answers_max;
	bool overflowed, waiting, enough;
	uint64_t wake_at_ns; /* while it waits */
	char *buffers;
	unsigned *free_buffers, free_buffers_n;
	int receiving;
};

static struct kernel {
	struct file files[FDS_MAX];
	struct ring *rings[SIM_SHARDS_MAX];
	unsigned rings_n;
	struct request **armed;
	unsigned armed_n, armed_slots;
	struct request *free;
	int listeners[SIM_SHARDS_MAX];
	char *pipes;
} kernel;

/* ---- pipes ---- */

size_t pipe_write(struct pipe *p, const char *data, size_t n)
{
	size_t room = p->max > p->len ? p->max - p->len : 0, at, first;

	n = n < room ? n : room;
	at = (p->head + p->len) % SIM_PIPE_BYTES_MAX;
	first = SIM_PIPE_BYTES_MAX - at < n ? SIM_PIPE_BYTES_MAX - at : n;
	memcpy(p->data + at, data, first);
	memcpy(p->data, data + first, n - first);
	p->len += n;
	return n;
}

size_t pipe_read(struct pipe *p, char *data, size_t n)
{
	size_t first;

	n = n < p->len ? n : p->len;
	first = SIM_PIPE_BYTES_MAX - p->head < n ? SIM_PIPE_BYTES_MAX - p->head : n;
	memcpy(data, p->data + p->head, first);
	memcpy(data + first, p->data, n - first);
	p->head = (p->head + n) % SIM_PIPE_BYTES_MAX;
	p->len -= n;
	p->taken += n;
	return n;
}

/* ---- files ---- */

static struct file *file_of(int fd, const char *what)
{
	struct file *f =
		fd >= FD_FIRST && fd < FD_FIRST + FDS_MAX ? &kernel.files[fd - FD_FIRST] : NULL;

	if (f == NULL || !f->open)
		sim_fail("%s on fd %d, which is not open", what, fd);
	return f;
}

static struct sim_tcp *wire_of(const struct file *f)
{
	return f->wire;
}

static int open_file(bool listener, unsigned shard, int client)
{
	unsigned i, skip = 0;

	/* Mostly the lowest number, as the kernel does, so that numbers are used again soon. */
	if (!listener && random_one_in(&sim.random, 4))
		skip = random_below(&sim.random, 4);
	for (i = 0; i < FDS_MAX; i++)
		if (!kernel.files[i].open && kernel.files[i].requests == 0 && skip-- == 0)
			break;
	assert(i < FDS_MAX);
	kernel.files[i] = (struct file){ .wire = client >= 0 ? &sim.clients[client].wire : NULL,
					 .open = true,
					 .listener = listener,
					 .shard = shard,
					 .client = client };
	return FD_FIRST + (int)i;
}

static size_t pipe_size(void)
{
	static const size_t sizes[] = { 64, 1000, 4096, 30000, SIM_PIPE_BYTES_MAX };

	if (sim.calm != CALM_NONE)
		return SIM_PIPE_BYTES_MAX;
	return sizes[random_below(&sim.random, sizeof(sizes) / sizeof(*sizes))];
}

void kernel_init(void)
{
	kernel.rings_n = 0;
	kernel.armed_n = 0;
	memset(kernel.files, 0, sizeof(kernel.files));
	memset(kernel.rings, 0, sizeof(kernel.rings));
	if (kernel.pipes == NULL)
		kernel.pipes = sim_alloc((size_t)2 * SIM_CLIENTS_MAX * SIM_PIPE_BYTES_MAX);
}

void kernel_release(void)
{
	for (unsigned i = 0; i < kernel.armed_n; i++) {
		kernel.armed[i]->next_free = kernel.free;
		kernel.free = kernel.armed[i];
	}
	kernel.armed_n = 0;
}

int kernel_listen(unsigned shard)
{
	return kernel.listeners[shard] = open_file(true, shard, -1);
}

void kernel_connect(unsigned client, unsigned shard)
{
	struct file *f = file_of(kernel.listeners[shard], "connect");
	struct sim_tcp *w = &sim.clients[client].wire;
	char *data = kernel.pipes + (size_t)2 * client * SIM_PIPE_BYTES_MAX;

	*w = (struct sim_tcp){ .in = { .data = data, .max = pipe_size() },
			       .out = { .data = data + SIM_PIPE_BYTES_MAX, .max = pipe_size() },
			       .waiting = true };
	if (sim.params.faults & 1u << FAULT_TLS) {
		w->tls = sim_tls_new();
		sim.fired[FAULT_TLS]++;
	}
	if (f->shut_read) {
		/* Refused. */
		w->waiting = false;
		w->reset = w->cut = true;
		w->broker_closed = true;
		return;
	}
	f->waiting[f->waiting_n++] = client;
}

void kernel_reset(struct sim_tcp *w)
{
	w->reset = w->cut = true;
	w->out.len = 0;
	/* What has arrived before may be read or not. */
	if (random_one_in(&sim.random, 2))
		w->in.len = 0;
}

unsigned kernel_open_fds(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < FDS_MAX; i++)
		n += kernel.files[i].open && !kernel.files[i].listener;
	return n;
}

int kernel_client_of(int fd)
{
	return file_of(fd, "a look")->client;
}

/* ---- requests ---- */

static uint64_t sum_of(const struct request *r)
{
	uint64_t h = r->total;

	for (unsigned i = 0; i < r->spans_n; i++) {
		const char *p = r->spans[i].iov_base;
		size_t n = r->spans[i].iov_len;
		uint64_t word;

		for (; n >= 8; p += 8, n -= 8) {
			memcpy(&word, p, 8);
			h = (h ^ word) * 0x9fb21c651e98df25u;
			h ^= h >> 29;
		}
		word = n;
		memcpy(&word, p, n);
		h = (h ^ word) * 0x9fb21c651e98df25u;
	}
	return h;
}

static struct request *queue(struct ring *ring, enum op op, int fd, uint64_t data)
{
	struct request *r = kernel.free;

	if (fiber_current() >= 0 && (unsigned)fiber_current() != ring->shard)
		sim_fail("ring %u is used by reactor %d", ring->shard, fiber_current());
	if (r != NULL)
		kernel.free = r->next_free;
	else
		r = sim_alloc(sizeof(*r));
	memset(r, 0, offsetof(struct request, spans));
	r->op = op;
	r->ring = ring;
	r->data = data;
	r->fd = fd;
	r->done = 0;
	r->spans_n = 0;
	if (fd >= 0) {
		r->file = file_of(fd, "a request");
		r->file->requests++;
	}
	if (ring->queue_n == ring->params.sq_entries)
		ring_submit(ring);
	if (ring->queue_n == ring->queue_slots) {
		ring->queue_slots = 2 * ring->queue_slots + 16;
		ring->queue = sim_realloc(ring->queue, ring->queue_slots * sizeof(*ring->queue));
	}
	ring->queue[ring->queue_n++] = r;
	return r;
}

static void give_back(struct request *r)
{
	if (r->file != NULL) {
		r->file->requests--;
		r->file->sends -= r->op == REQUEST_SEND;
		r->file->receives -= r->op == REQUEST_RECV || r->op == REQUEST_RECV_INTO;
	}
	r->next_free = kernel.free;
	kernel.free = r;
}

static void answer(struct ring *ring, const struct answer *a)
{
	if (ring->answers_n == ring->answers_slots) {
		unsigned n = 2 * ring->answers_slots + 16;
		struct answer *answers = sim_alloc(n * sizeof(*answers));

		for (unsigned i = 0; i < ring->answers_n; i++)
			answers[i] = ring->answers[(ring->answers_head + i) % ring->answers_slots];
		sim_free(ring->answers);
		ring->answers = answers;
		ring->answers_slots = n;
		ring->answers_head = 0;
	}
	ring->answers[(ring->answers_head + ring->answers_n++) % ring->answers_slots] = *a;
}

/* Whether there is something for the broker to read. */
static bool has_input(const struct sim_tcp *w)
{
	return w->tls != NULL ? sim_tls_has(w) : w->in.len > 0;
}

static bool at_end(const struct sim_tcp *w)
{
	return w->tls != NULL ? sim_tls_at_end(w) : w->in.len == 0 && w->client_fin;
}

/* The request has a result; without `more` it is over. */
static bool complete(struct request *r, int result, bool more, int buffer)
{
	struct ring *ring = r->ring;
	struct answer a = { .buffer = buffer, .client = r->file != NULL ? r->file->client : -1 };
	bool armed = r->place < kernel.armed_n && kernel.armed[r->place] == r;

	if (r->op == REQUEST_SEND && !r->file->shut_write && sum_of(r) != r->sum)
		sim_fail("the memory of a send on fd %d has changed before its completion", r->fd);
	if (ring->answers_n >= ring->answers_max) {
		ring->overflowed = true;
		more = false;
	}
	if (r->cancelled)
		more = false;
	a.c = (struct completion){ .user_data = r->data, .result = result, .more = more };
	if (r->op == REQUEST_RECV || r->op == REQUEST_RECV_INTO)
		a.c.nonempty = result > 0 && has_input(wire_of(r->file));
	if (buffer >= 0)
		a.c.data = ring->buffers + (size_t)buffer * ring->params.recv_buffer_bytes;
	answer(ring, &a);
	sim_trace("kernel  ring %" PRIu64 " op %" PRIu64 " fd %" PRIu64 " result %" PRId64
		  " (plus 2^40: more)",
		  ring->shard, (uint64_t)op_letters[r->op], (uint64_t)r->fd,
		  (uint64_t)result + (more ? UINT64_C(1) << 40 : 0));
	if (more)
		return true;
	if (armed) {
		kernel.armed[r->place] = kernel.armed[--kernel.armed_n];
		kernel.armed[r->place]->place = r->place;
	}
	give_back(r);
	return true;
}

static int pick(const int *errors, unsigned n)
{
	return -errors[random_below(&sim.random, n)];
}
#define PICK(...)                                                                                  \
	pick((const int[]){ __VA_ARGS__ }, sizeof((const int[]){ __VA_ARGS__ }) / sizeof(int))

static bool may_go_on(void)
{
	return !fault(FAULT_ENDSHOT);
}

static bool accept_goes_on(struct request *r)
{
	struct file *f = r->file;
	unsigned client;
	int fd;

	if (f->shut_read)
		return complete(r, -EINVAL, false, -1);
	if (f->waiting_n == 0)
		return false;
	if (fault(FAULT_ACCEPT))
		return complete(r, PICK(EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EINTR),
				false, -1);
	client = f->waiting[0];
	memmove(f->waiting, f->waiting + 1, --f->waiting_n * sizeof(*f->waiting));
	fd = open_file(false, f->shard, (int)client);
	sim.clients[client].wire.waiting = false;
	sim_trace("kernel  client %" PRIu64 " becomes fd %" PRIu64, client, (uint64_t)fd, 0, 0);
	return complete(r, fd, may_go_on(), -1);
}

static int wire_error(struct sim_tcp *w)
{
	int error = w->errored ? -EPIPE : -ECONNRESET;

	w->errored = true;
	return error;
}

static bool recv_goes_on(struct request *r)
{
	struct ring *ring = r->ring;
	struct sim_tcp *w = wire_of(r->file);
	size_t max = r->op == REQUEST_RECV ? ring->params.recv_buffer_bytes : r->total, n;
	char *to = r->into;
	int buffer = -1;

	if (w->reset && (w->tls != NULL || w->in.len == 0))
		return complete(r, w->errored ? 0 : wire_error(w), false, -1);
	if (at_end(w) || (!has_input(w) && r->file->shut_read))
		return complete(r, 0, false, -1);
	if (fault(FAULT_RECV)) {
		int error = PICK(EINTR, EAGAIN, EINTR, EAGAIN, ETIMEDOUT, EHOSTUNREACH, ENOMEM);

		if (error != -EINTR && error != -EAGAIN)
			kernel_reset(w);
		return complete(r, error, false, -1);
	}
	if (!has_input(w))
		return false;
	if (r->op == REQUEST_RECV) {
		if (ring->free_buffers_n == 0 || fault(FAULT_BUFFERS)) {
			ring->counts.no_buffers++;
			return complete(r, -ENOBUFS, false, -1);
		}
		buffer = (int)ring->free_buffers[--ring->free_buffers_n];
		to = ring->buffers + (size_t)buffer * ring->params.recv_buffer_bytes;
		UNPOISON(to, ring->params.recv_buffer_bytes);
	}
	n = w->tls != NULL || w->in.len > max ? max : w->in.len;
	if (!random_one_in(&sim.random, 3))
		n = random_size(&sim.random, (unsigned)n);
	if (w->tls != NULL)
		n = sim_tls_say(w, to, n);
	else
		pipe_read(&w->in, to, n);
	if (buffer >= 0)
		POISON(to + n, ring->params.recv_buffer_bytes - n);
	return complete(r, (int)n, r->op == REQUEST_RECV && !r->once && may_go_on(), buffer);
}

static void count_lines(const struct file *f, const char *p, size_t n)
{
	/* A server is no subscriber. */
	if (f->client < 0)
		return;
	if (client_hears_frames(f->wire))
		sim.lines += n;
	else
		while (n-- > 0)
			sim.lines += *p++ == '\n';
}

/* Nobody reads it. */
static bool send_into_the_void(struct request *r)
{
	/* Sealed, it was counted before. */
	if (wire_of(r->file)->tls != NULL)
		return complete(r, (int)r->total, false, -1);
	for (unsigned i = 0; i < r->spans_n; i++)
		count_lines(r->file, r->spans[i].iov_base, r->spans[i].iov_len);
	return complete(r, (int)r->total, false, -1);
}

static bool send_goes_on(struct request *r)
{
	struct sim_tcp *w = wire_of(r->file);
	size_t at = 0, room, left, moved = 0;

	if (!w->reset && w->client_closed && !r->file->shut_write) {
		/* Nobody is there any more: the first bytes are taken, and answered by a reset. */
		w->out.len = 0;
		if (random_one_in(&sim.random, 2))
			kernel_reset(w);
		return send_into_the_void(r);
	}
	if (w->reset || r->file->shut_write)
		return complete(r,
				r->done > 0           ? (int)r->done
				: r->file->shut_write ? -EPIPE
						      : wire_error(w),
				false, -1);
	if (fault(FAULT_SEND)) {
		int error = PICK(EINTR, EAGAIN, ENOBUFS, ENOMEM, ETIMEDOUT, EHOSTUNREACH, EIO);

		if (error == -ETIMEDOUT || error == -EHOSTUNREACH || error == -EIO)
			kernel_reset(w);
		return complete(r, r->done > 0 ? (int)r->done : error, false, -1);
	}
	room = w->tls != NULL            ? sim_tls_room(w)
	       : w->out.max > w->out.len ? w->out.max - w->out.len
					 : 0;
	left = r->total - r->done;
	left = left < room ? left : room;
	if (left == 0)
		return false;
	if (!random_one_in(&sim.random, 3))
		left = random_size(&sim.random, (unsigned)left);
	for (unsigned i = 0; i < r->spans_n && moved < left; i++) {
		struct iovec s = r->spans[i];
		size_t skip = r->done + moved - at, n;

		if (skip < s.iov_len) {
			n = s.iov_len - skip < left - moved ? s.iov_len - skip : left - moved;
			if (w->tls != NULL) {
				sim_tls_hear(w, (char *)s.iov_base + skip, n);
			} else {
				n = pipe_write(&w->out, (char *)s.iov_base + skip, n);
				count_lines(r->file, (char *)s.iov_base + skip, n);
			}
			moved += n;
		}
		at += s.iov_len;
	}
	r->done += moved;
	if (r->done == r->total || fault(FAULT_SHORT))
		return complete(r, (int)r->done, false, -1);
	return true;
}

static bool timer_goes_on(struct request *r)
{
	if (sim.now_ns < r->at_ns)
		return false;
	if (r->period_ns == 0)
		return complete(r, -ETIME, false, -1);
	r->at_ns += r->period_ns;
	if (r->at_ns < sim.now_ns)
		r->at_ns = sim.now_ns + r->period_ns;
	return complete(r, -ETIME, may_go_on(), -1);
}

static bool connect_goes_on(struct request *r)
{
	int result = server_accept(&r->file->wire);

	return result != -EAGAIN && complete(r, result, false, -1);
}

static bool proceeds(struct request *r)
{
	switch (r->op) {
	case REQUEST_CONNECT:
		return connect_goes_on(r);
	case REQUEST_ACCEPT:
		return accept_goes_on(r);
	case REQUEST_RECV:
	case REQUEST_RECV_INTO:
		return recv_goes_on(r);
	case REQUEST_SEND:
		return send_goes_on(r);
	case REQUEST_TIMER:
		return timer_goes_on(r);
	case REQUEST_CANCEL:
	case REQUEST_CANCEL_FD:
	case REQUEST_TIMER_STOP:
	case REQUEST_WAKE:
	default:
		return false;
	}
}

static bool goes_on(struct request *r)
{
	/* A cancelled request ends one way or the other, and does not wait for anything. */
	bool ends = r->cancelled &&
		    (sim.calm || r->op == REQUEST_TIMER || random_one_in(&sim.random, 2));

	if (!ends && proceeds(r))
		return true;
	return r->cancelled && complete(r, r->done > 0 ? (int)r->done : -ECANCELED, false, -1);
}

static void arm(struct request *r)
{
	if (kernel.armed_n == kernel.armed_slots) {
		kernel.armed_slots = 2 * kernel.armed_slots + 64;
		kernel.armed =
			sim_realloc(kernel.armed, kernel.armed_slots * sizeof(*kernel.armed));
	}
	r->place = kernel.armed_n;
	kernel.armed[kernel.armed_n++] = r;
	if (r->op != REQUEST_TIMER && random_one_in(&sim.random, 2))
		goes_on(r);
}

static bool is_target(const struct request *r, const struct request *cancel)
{
	if (r->ring != cancel->ring || r->cancelled)
		return false;
	if (cancel->op == REQUEST_CANCEL_FD)
		return r->file == cancel->file;
	if (cancel->op == REQUEST_TIMER_STOP && r->op != REQUEST_TIMER)
		return false;
	return r->data == cancel->target;
}

static void cancel(struct request *c)
{
	int n = 0;
	bool late = fault(FAULT_CANCEL), before = random_one_in(&sim.random, 2);

	for (unsigned i = 0; i < kernel.armed_n;) {
		struct request *r = kernel.armed[i];

		if (!is_target(r, c)) {
			i++;
			continue;
		}
		n++;
		/* A timer that is just firing cannot be stopped, and goes on. */
		if (late && r->op == REQUEST_TIMER)
			break;
		r->cancelled = true;
		if (before && !late)
			goes_on(r);
		else
			i++;
		if (c->op != REQUEST_CANCEL_FD)
			break;
	}
	/* Too late for nothing. */
	sim.fired[FAULT_CANCEL] -= late && n == 0;
	complete(c,
		 n == 0                       ? -ENOENT
		 : late                       ? -EALREADY
		 : c->op == REQUEST_CANCEL_FD ? n
					      : 0,
		 false, -1);
}

static void start(struct request *r)
{
	struct answer a = { .buffer = -1, .client = -1 };
	struct ring *target;

	r->place = UINT32_MAX;
	switch (r->op) {
	case REQUEST_CANCEL:
	case REQUEST_CANCEL_FD:
	case REQUEST_TIMER_STOP:
		cancel(r);
		return;
	case REQUEST_WAKE:
		target = kernel.rings[r->target_fd - RING_FD_FIRST];
		if (target == NULL)
			sim_fail("a wake-up for a ring that is not there");
		a.c = (struct completion){ .user_data = r->target };
		answer(target, &a);
		give_back(r);
		return;
	case REQUEST_TIMER:
		if (r->period_ns != 0)
			r->at_ns = sim.now_ns + r->period_ns;
		arm(r);
		return;
	case REQUEST_ACCEPT:
	case REQUEST_CONNECT:
	case REQUEST_RECV:
	case REQUEST_RECV_INTO:
	case REQUEST_SEND:
	default:
		arm(r);
		return;
	}
}

void kernel_step(void)
{
	for (unsigned i = 0; i < 4 && kernel.armed_n > 0; i++)
		if (goes_on(kernel.armed[random_below(&sim.random, kernel.armed_n)]))
			return;
}

bool kernel_sweep(void)
{
	bool any = false;

	for (unsigned i = kernel.armed_n; i-- > 0;)
		if (i < kernel.armed_n)
			any |= goes_on(kernel.armed[i]);
	return any;
}

uint64_t kernel_next_timer(void)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < kernel.armed_n; i++)
		if (kernel.armed[i]->op == REQUEST_TIMER && kernel.armed[i]->at_ns < next)
			next = kernel.armed[i]->at_ns;
	return next;
}

unsigned kernel_timers(unsigned shard)
{
	unsigned n = 0;

	for (unsigned i = 0; i < kernel.armed_n; i++)
		n += kernel.armed[i]->op == REQUEST_TIMER &&
		     kernel.armed[i]->ring->shard == shard && !kernel.armed[i]->cancelled;
	return n;
}

uint64_t kernel_next_wake(void)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		if (kernel.rings[i] != NULL && kernel.rings[i]->waiting &&
		    kernel.rings[i]->wake_at_ns < next)
			next = kernel.rings[i]->wake_at_ns;
	return next;
}

bool kernel_waiting(unsigned shard)
{
	return kernel.rings[shard]->waiting && sim.now_ns < kernel.rings[shard]->wake_at_ns;
}

bool kernel_has_completions(unsigned shard)
{
	return kernel.rings[shard]->answers_n > 0;
}

void kernel_wake(unsigned shard)
{
	struct answer a = { .buffer = -1, .client = -1 };

	a.c.user_data = user_data(OP_WAKE, 0, 0);
	answer(kernel.rings[shard], &a);
}

int kernel_receiving(void)
{
	int current = fiber_current();

	return current < 0 ? -1 : kernel.rings[current]->receiving;
}

int kernel_receive_as(int client)
{
	int current = fiber_current(), before = kernel_receiving();

	if (current >= 0)
		kernel.rings[current]->receiving = client;
	return before;
}

/* ---- the ring ---- */

static void preempt(void)
{
	if (fiber_current() >= 0 && fault(FAULT_PREEMPT))
		fiber_yield();
}

int ring_new(const struct ring_params *params, struct ring **out)
{
	struct ring *ring = sim_alloc(sizeof(*ring));
	bool small = sim.params.faults & 1u << FAULT_OVERFLOW;

	ring->params = *params;
	ring->shard = kernel.rings_n;
	ring->answers_max = small ? random_from(&sim.random, 2, 16) : 4 * params->sq_entries;
	ring->receiving = -1;
	ring->buffers = sim_alloc(params->recv_buffers * params->recv_buffer_bytes + 1);
	ring->free_buffers = sim_alloc((params->recv_buffers + 1) * sizeof(unsigned));
	for (unsigned i = 0; i < params->recv_buffers; i++)
		ring->free_buffers[ring->free_buffers_n++] = i;
	POISON(ring->buffers, params->recv_buffers * params->recv_buffer_bytes);
	kernel.rings[kernel.rings_n++] = ring;
	*out = ring;
	return 0;
}

void ring_free(struct ring *ring)
{
	if (ring == NULL)
		return;
	kernel.rings[ring->shard] = NULL;
	for (unsigned i = kernel.armed_n; i-- > 0;) {
		struct request *r = kernel.armed[i];

		if (r->ring != ring)
			continue;
		kernel.armed[i] = kernel.armed[--kernel.armed_n];
		kernel.armed[i]->place = i;
		give_back(r);
	}
	for (unsigned i = 0; i < ring->queue_n; i++)
		give_back(ring->queue[i]);
	UNPOISON(ring->buffers, ring->params.recv_buffers * ring->params.recv_buffer_bytes);
	sim_free(ring->queue);
	sim_free(ring->answers);
	sim_free(ring->buffers);
	sim_free(ring->free_buffers);
	sim_free(ring);
}

const char *ring_describe(const struct ring *ring)
{
	(void)ring;
	return "simulated";
}

const struct ring_counts *ring_counts(const struct ring *ring)
{
	return &ring->counts;
}

int ring_fd(const struct ring *ring)
{
	return RING_FD_FIRST + (int)ring->shard;
}

void ring_explain(int error, char *buf, size_t size)
{
	snprintf(buf, size, "%d", error);
}

void ring_accept(struct ring *ring, int fd, uint64_t data)
{
	queue(ring, REQUEST_ACCEPT, fd, data);
}

static struct request *queue_recv(struct ring *ring, enum op op, int fd, uint64_t data)
{
	struct request *r = queue(ring, op, fd, data);

	if (r->file->receives++ > 0)
		sim_fail("two receives on fd %d", fd);
	return r;
}

void ring_recv(struct ring *ring, int fd, uint64_t data)
{
	queue_recv(ring, REQUEST_RECV, fd, data)->once = false;
}

void ring_recv_once(struct ring *ring, int fd, bool empty, uint64_t data)
{
	(void)empty;
	queue_recv(ring, REQUEST_RECV, fd, data)->once = true;
}

void ring_recv_into(struct ring *ring, int fd, void *buf, size_t len, bool empty, uint64_t data)
{
	struct request *r = queue_recv(ring, REQUEST_RECV_INTO, fd, data);

	(void)empty;
	r->into = buf;
	r->total = len;
}

void ring_send(struct ring *ring, int fd, const struct iovec *spans, unsigned spans_n,
	       uint64_t data)
{
	struct request *r;

	assert(spans_n > 0 && spans_n <= RING_SPANS_MAX);
	preempt();
	if (ring->queue_n >= ring->params.batch)
		ring_submit(ring);
	sim.now_ns += sim.send_ns;
	r = queue(ring, REQUEST_SEND, fd, data);
	if (r->file->sends++ > 0)
		sim_fail("two sends on fd %d", fd);
	if (fault(FAULT_SHORT))
		spans_n = 1;
	r->total = 0;
	for (r->spans_n = 0; r->spans_n < spans_n; r->spans_n++) {
		r->spans[r->spans_n] = spans[r->spans_n];
		r->total += spans[r->spans_n].iov_len;
		if (spans[r->spans_n].iov_len == 0)
			sim_fail("an empty span in a send on fd %d", fd);
	}
	r->sum = sum_of(r);
}

void ring_cancel(struct ring *ring, uint64_t target, uint64_t data)
{
	queue(ring, REQUEST_CANCEL, -1, data)->target = target;
}

void ring_cancel_fd(struct ring *ring, int fd, uint64_t data)
{
	queue(ring, REQUEST_CANCEL_FD, fd, data);
}

void ring_tick(struct ring *ring, uint64_t period_ns, uint64_t data)
{
	queue(ring, REQUEST_TIMER, -1, data)->period_ns = period_ns;
}

void ring_tick_stop(struct ring *ring, uint64_t tick, uint64_t data)
{
	queue(ring, REQUEST_TIMER_STOP, -1, data)->target = tick;
}

void ring_alarm(struct ring *ring, uint64_t at_ns, uint64_t data)
{
	struct request *r = queue(ring, REQUEST_TIMER, -1, data);

	r->period_ns = 0;
	r->at_ns = at_ns;
}

void ring_wake(struct ring *ring, int target_ring_fd, uint64_t data)
{
	struct request *r;

	preempt();
	r = queue(ring, REQUEST_WAKE, -1, 0);
	r->target = data;
	r->target_fd = target_ring_fd;
}

static unsigned submit(struct ring *ring, unsigned max)
{
	unsigned n = ring->queue_n < max ? ring->queue_n : max;

	for (unsigned i = 0; i < n; i++)
		start(ring->queue[i]);
	ring->queue_n -= n;
	memmove(ring->queue, ring->queue + n, ring->queue_n * sizeof(*ring->queue));
	ring->counts.submitted += n;
	return n;
}

unsigned ring_submit(struct ring *ring)
{
	return submit(ring, UINT32_MAX);
}

void ring_back_off(struct ring *ring)
{
	(void)ring;
}

static void enter(struct ring *ring, bool wait, uint64_t at_ns)
{
	ring->counts.enters++;
	preempt();
	if (fault(FAULT_ENTER)) {
		/* Interrupted, or busy: some or nothing has been taken. */
		ring->counts.enter_errors++;
		submit(ring, random_below(&sim.random, ring->queue_n + 1));
		return;
	}
	submit(ring, UINT32_MAX);
	if (!wait || fiber_current() < 0)
		return;
	sim_trace("reactor %" PRIu64 " parks", ring->shard, 0, 0, 0);
	while (ring->answers_n == 0 && sim.now_ns < at_ns && !fault(FAULT_ENTER) &&
	       !sim.broker.shards[ring->shard].reactor.stop) {
		ring->waiting = true;
		ring->wake_at_ns = at_ns;
		fiber_yield();
		ring->waiting = false;
	}
}

void ring_enter(struct ring *ring, bool wait, unsigned linger_us)
{
	(void)linger_us;
	enter(ring, wait, UINT64_MAX);
}

void ring_enter_until(struct ring *ring, uint64_t at_ns, unsigned linger_us)
{
	(void)linger_us;
	enter(ring, true, at_ns);
}

unsigned ring_reap(struct ring *ring, unsigned max, ring_complete *callback, void *context)
{
	unsigned n = 0;

	ring->enough = false;
	/* Once in every turn. */
	if (fiber_current() >= 0)
		fiber_yield();
	if (ring->overflowed) {
		ring->counts.overflows++;
		sim.fired[FAULT_OVERFLOW]++;
	}
	ring->overflowed = false;
	if (ring->answers_n > 0 && random_one_in(&sim.random, 4))
		max = random_from(&sim.random, 1, ring->answers_n);
	while (!ring->enough && n < max && ring->answers_n > 0) {
		struct answer a = ring->answers[ring->answers_head];

		ring->answers_head = (ring->answers_head + 1) % ring->answers_slots;
		ring->answers_n--;
		n++;
		ring->receiving = a.client;
		callback(context, &a.c);
		ring->receiving = -1;
		if (a.buffer < 0)
			continue;
		/* Whoever still looks at it sees nonsense. */
		UNPOISON(a.c.data, ring->params.recv_buffer_bytes);
		memset(ring->buffers + (size_t)a.buffer * ring->params.recv_buffer_bytes, 0xdb,
		       ring->params.recv_buffer_bytes);
		POISON(a.c.data, ring->params.recv_buffer_bytes);
		ring->free_buffers[ring->free_buffers_n++] = (unsigned)a.buffer;
	}
	return n;
}

void ring_enough(struct ring *ring)
{
	ring->enough = true;
}

bool ring_deferred(const struct ring *ring)
{
	return ring_ready(ring);
}

bool ring_ready(const struct ring *ring)
{
	preempt();
	return ring->answers_n > 0;
}

unsigned ring_queued(const struct ring *ring)
{
	return ring->queue_n;
}

void ring_shutdown(struct ring *ring, int fd, int how)
{
	struct file *f = file_of(fd, "shutdown");

	(void)ring;
	f->shut_read |= how != SHUT_WR;
	f->shut_write |= how != SHUT_RD;
	if (f->listener) {
		for (unsigned i = 0; i < f->waiting_n; i++) {
			struct sim_tcp *w = &sim.clients[f->waiting[i]].wire;

			w->waiting = false;
			w->broker_closed = true;
			kernel_reset(w);
		}
		f->waiting_n = 0;
		return;
	}
	/* A last word that the kernel has had no time to take. */
	if (f->shut_write && f->sends > 0)
		wire_of(f)->cut = true;
	if (f->shut_write)
		wire_of(f)->broker_fin = true;
	sim_trace("kernel  shutdown fd %" PRIu64 " how %" PRIu64, (uint64_t)fd, (uint64_t)how, 0,
		  0);
}

void ring_close(struct ring *ring, int fd)
{
	struct file *f = file_of(fd, "close");
	struct sim_tcp *w;

	if (f->requests > 0 && !sim.broker.shards[ring->shard].reactor.stop)
		sim_fail("fd %d is closed with %u requests in flight", fd, f->requests);
	sim_trace("kernel  close fd %" PRIu64, (uint64_t)fd, 0, 0, 0);
	f->open = false;
	w = wire_of(f);
	if (w == NULL)
		return;
	w->broker_fin = w->broker_closed = true;
	if (f->reset_at_close)
		kernel_reset(w);
	/* Unread bytes make the kernel send a reset, which may overtake what is on its way. */
	if (w->in.len > 0) {
		w->in.len = 0;
		w->cut = true;
		if (random_one_in(&sim.random, 2))
			w->out.len = 0;
	}
}

int ring_send_now(struct ring *ring, int fd, const void *data, size_t len)
{
	struct file *f = file_of(fd, "send");
	struct sim_tcp *w = wire_of(f);

	(void)ring;
	if (w->reset || f->shut_write)
		return -EPIPE;
	if (w->tls != NULL) {
		len = len < sim_tls_room(w) ? len : sim_tls_room(w);
		sim_tls_hear(w, data, len);
		return len > 0 ? (int)len : -EAGAIN;
	}
	len = pipe_write(&w->out, data, len);
	return len > 0 ? (int)len : -EAGAIN;
}

bool ring_giving_back(const struct ring *ring)
{
	(void)ring;
	return false;
}

bool ring_give_back(struct ring *ring)
{
	(void)ring;
	return false;
}

/* What the client has not read yet. */
size_t ring_kernel_bytes(struct ring *ring, int fd)
{
	(void)ring;
	return wire_of(file_of(fd, "a look"))->out.len;
}

uint64_t ring_taken(struct ring *ring, int fd)
{
	(void)ring;
	return wire_of(file_of(fd, "a look"))->out.taken;
}

void ring_reset(struct ring *ring, int fd)
{
	(void)ring;
	file_of(fd, "a reset")->reset_at_close = true;
}

int ring_socket(struct ring *ring, int family, int silence_ms)
{
	(void)family;
	(void)silence_ms;
	if (sim.params.upstream == UPSTREAM_SIM_NONE)
		return -EAFNOSUPPORT;
	return open_file(false, ring->shard, -1);
}

/* Whatever the address is: there is one server. */
void ring_connect(struct ring *ring, int fd, const void *address, unsigned address_bytes,
		  uint64_t user_data)
{
	(void)address;
	(void)address_bytes;
	queue(ring, REQUEST_CONNECT, fd, user_data);
}

void ring_listen_options(int fd, size_t send_buffer_bytes, int silence_ms)
{
	(void)file_of(fd, "options");
	(void)send_buffer_bytes;
	(void)silence_ms;
}

void ring_local(struct ring *ring, int fd, unsigned char address[16], unsigned *port)
{
	(void)ring;
	(void)file_of(fd, "a look");
	memset(address, 0, 16);
	*port = 4222;
}

void ring_peer(struct ring *ring, int fd, unsigned char address[16])
{
	(void)ring;
	memset(address, 0, 16);
	address[10] = address[11] = 0xff;
	address[12] = 127;
	address[15] = (unsigned char)(1 + file_of(fd, "a look")->client % 7);
}

bool ring_peer_uid(struct ring *ring, int fd, uint32_t *uid)
{
	(void)ring;
	(void)fd;
	(void)uid;
	return false;
}
