#ifndef ENGINE_RING_H
#define ENGINE_RING_H

/*
 * The seam for I/O: one io_uring (io_uring(7)) with its provided receive buffers, and the few plain
 * system calls that a running reactor makes on sockets. A test links another implementation of this
 * header in place of ring.c. Everything but ring_wake_from and ring_explain belongs to the thread
 * that called ring_new (IORING_SETUP_SINGLE_ISSUER).
 *
 * Requests are queued and go to the kernel with the next ring_submit or ring_enter; each carries a
 * user_data that comes back with its completion. Memory given to a send or receive stays untouched
 * until that completion.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { RING_SPANS_MAX = 16 }; /* most spans in one send */

struct ring_params {
	unsigned sq_entries;
	unsigned rings;        /* that this process makes and that share RLIMIT_MEMLOCK; 0: one */
	unsigned batch;        /* requests queued before ring_send submits them by itself */
	unsigned recv_buffers; /* a power of two */
	size_t recv_buffer_bytes;
	unsigned sqpoll_idle_ms; /* 0: no kernel submission thread */
	bool restricted;         /* take no other requests than those of this header, for good */
};

struct completion {
	uint64_t user_data;
	int result;       /* -errno, or what the request's man page says */
	bool more;        /* the request stays armed and will complete again */
	bool nonempty;    /* there was more to receive than it took */
	const char *data; /* received bytes; valid until the callback returns; NULL for all but
			     ring_recv */
};

typedef void ring_complete(void *context, const struct completion *completion);

struct ring_counts {
	uint64_t enters;       /* system calls */
	uint64_t submitted;    /* requests */
	uint64_t overflows;    /* sightings of a completion queue that overflowed: a bug each */
	uint64_t no_buffers;   /* receives that found no buffer */
	uint64_t enter_errors; /* io_uring_enter failed for a reason that passes (EINTR, EAGAIN,
				  EBUSY) */
};

struct ring;

/*
 * Makes a ring with what this kernel has, probing flag by flag; halves sq_entries while they are
 * more than its part of RLIMIT_MEMLOCK or the kernel says ENOMEM. -errno: -ENOSYS, -EPERM, -ENOMEM
 * and others as io_uring_setup(2) and ring_explain have them.
 */
int ring_new(const struct ring_params *params, struct ring **out);
void ring_free(struct ring *ring);
/* What such a ring takes at most before anything is received: it counts so much. */
uint64_t ring_base_bytes(const struct ring_params *params);

/* What the ring runs with, for the log: "single_issuer defer_taskrun ..., sq 4096, cq 16384". */
const char *ring_describe(const struct ring *ring);
/* Whether the kernel holds it to its own requests: asked for, and known to this kernel. */
bool ring_restricted(const struct ring *ring);
const struct ring_counts *ring_counts(const struct ring *ring);
int ring_fd(const struct ring *ring);

/* Why the kernel refused a ring and what cures it, one sentence. Any thread. */
void ring_explain(int error, char *buf, size_t size);

/* Accepts from a listener until it says so: one completion per connection, result is its fd. */
void ring_accept(struct ring *ring, int fd, uint64_t user_data);
/* Receives into the ring's own buffers until it says so: one completion per buffer; 0 is end of
 * file, -ENOBUFS out of buffers. */
void ring_recv(struct ring *ring, int fd, uint64_t user_data);
/* The same once: whoever wants more asks again. So a sender can be made to wait: a multishot
 * receive whose peer does not pause is never found by a cancellation, because between two passes it
 * is nowhere but in the kernel's list of work to do (-ENOENT). */
void ring_recv_once(struct ring *ring, int fd, bool empty, uint64_t user_data);
/* Receives once, into the caller's memory. empty, here and above: all that was there has been
 * received, so it waits at once rather than look in vain first (IORING_RECVSEND_POLL_FIRST). */
void ring_recv_into(struct ring *ring, int fd, void *buf, size_t len, bool empty,
		    uint64_t user_data);
/*
 * Sends spans as one; the kernel retries short sends by itself (MSG_WAITALL), yet the result may be
 * less than the whole. The array may go at once, what it points to not before the completion. Fewer
 * spans than given may be taken: a short send.
 */
void ring_send(struct ring *ring, int fd, const struct iovec *spans, unsigned spans_n,
	       uint64_t user_data);
/* Connects a socket of ring_socket; result is 0 or -errno. The address stays until then. */
void ring_connect(struct ring *ring, int fd, const void *address, unsigned address_bytes,
		  uint64_t user_data);
/* Cancels the request with this user_data; the cancelled one completes with -ECANCELED or as it
 * was. */
void ring_cancel(struct ring *ring, uint64_t target, uint64_t user_data);
/* Cancels everything armed on the fd. */
void ring_cancel_fd(struct ring *ring, int fd, uint64_t user_data);
/* Completes every period (-ETIME); without `more` it must be armed again. */
void ring_tick(struct ring *ring, uint64_t period_ns, uint64_t user_data);
void ring_tick_stop(struct ring *ring, uint64_t tick, uint64_t user_data);
/* Completes once (-ETIME) when clock_now_ns() has come to at_ns. One at a time: not before the last
 * one has completed. */
void ring_alarm(struct ring *ring, uint64_t at_ns, uint64_t user_data);
/* Makes a completion with this user_data, the same for all, appear in another ring (MSG_RING). If
 * that fails, ring_reap tries again, unless that ring has ended. */
void ring_wake(struct ring *ring, int target_ring_fd, uint64_t user_data);

/* Hands what is queued to the kernel without waiting or collecting. Returns how many requests. */
unsigned ring_submit(struct ring *ring);
/* The kernel had no memory for a request that will be made again: the next ring_enter pauses for a
 * millisecond first, or that would go round and round. */
void ring_back_off(struct ring *ring);
/*
 * Hands over what is queued and runs deferred work; with wait, sleeps until there is a completion
 * (or, with linger_us, up to that long for more than one). Skips the system call when there is
 * nothing it could do.
 */
void ring_enter(struct ring *ring, bool wait, unsigned linger_us);
/* The same, sleeping no longer than until clock_now_ns() has come to at_ns. */
void ring_enter_until(struct ring *ring, uint64_t at_ns, unsigned linger_us);
/* Calls back for at most max completions, in order; buffers go back to the kernel as each callback
 * returns. Returns how many. */
unsigned ring_reap(struct ring *ring, unsigned max, ring_complete *callback, void *context);
/* To be called from a callback of ring_reap: none is to follow it. */
void ring_enough(struct ring *ring);
/* Whether a completion is there or one would be after ring_enter without waiting. No system call.
 */
bool ring_ready(const struct ring *ring);
/* Whether something has come since the last ring_enter that only the next one brings out: bytes, a
 * connection, a wake-up. No system call; a kernel before Linux 5.19 does not say. */
bool ring_deferred(const struct ring *ring);
/* Requests queued and not yet handed over. */
unsigned ring_queued(const struct ring *ring);

/* Gives the memory of receive buffers that a rush needed back to the system, those that have not
 * been needed since the last call; they are posted again when they are missing. Returns whether
 * another call, later, may have more to give. */
bool ring_give_back(struct ring *ring);
/* Whether it has begun and is to be called again soon: it gives some at a time. */
bool ring_giving_back(const struct ring *ring);

/* Plain system calls on sockets, here because tests simulate them too. */
/* A TCP socket of that address family that is to be connected: it sends at once what it is given,
 * and ends when the peer has taken nothing of that for silence_ms. -errno. */
int ring_socket(struct ring *ring, int family, int silence_ms);
void ring_shutdown(struct ring *ring, int fd, int how);
void ring_close(struct ring *ring, int fd);
/* One attempt without waiting: bytes sent or -errno. */
int ring_send_now(struct ring *ring, int fd, const void *data, size_t len);
/* How much memory the kernel holds for what the socket sends and has received (SO_MEMINFO). */
size_t ring_kernel_bytes(struct ring *ring, int fd);
/* A number that changes when the peer takes some of what it has been sent: bytes that it has
 * acknowledged (TCP_INFO), or what the kernel still holds where there is no such count. */
uint64_t ring_taken(struct ring *ring, int fd);
/* The coming close of this fd throws away what the peer has not taken yet, and resets it. */
void ring_reset(struct ring *ring, int fd);
/* For a listener's fd: connections accepted from now on have such a send buffer and, over TCP, end
 * when the peer has taken nothing for silence_ms of what it has been sent (TCP_USER_TIMEOUT). Any
 * thread. */
void ring_listen_options(int fd, size_t send_buffer_bytes, int silence_ms);
/* The peer's address as 16 bytes (IPv4 mapped), or all zero where it has none. */
void ring_peer(struct ring *ring, int fd, unsigned char address[16]);
/* The same of its own address; *port in the order of the host. */
void ring_local(struct ring *ring, int fd, unsigned char address[16], unsigned *port);
/* The user that a unix socket's peer ran as when it connected (unix(7), SO_PEERCRED); false: it is
 * none. */
bool ring_peer_uid(struct ring *ring, int fd, uint32_t *uid);

#endif
