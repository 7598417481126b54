#include "engine/socket.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/memory.h"

enum {
	SLOTS_MIN = 256, /* more at a time: a page of them */
	CLOSES_MAX = 64, /* in a turn: each may have the kernel free all that it held */
	CLOSE_COST = 40, /* of one: 10 us at least */
	/* Room for what the hungry receive in a turn: it takes the kernel a tenth of a millisecond
	 * to copy, and the owner a few times as much to look at. */
	HUNGRY_BYTES_MAX = 512 << 10,
	SPEND_BYTES = 1 << 10, /* received in about a quarter of a microsecond */
	/* The same of what is sealed or opened, and a handshake's step: 0.25 ms. */
	SPEND_SEALED_BYTES = 768,
	STEP_COST = 1000,
	MOVES_MAX = 16,      /* sends in a turn that are to give their buffers back */
	STANDS_NS = 1000000, /* a send that has not ended by then stands */
};

/* What plain traffic does not come through, and shall not pay for: with it inlined, functions on
 * its way would save registers for it. */
#define COLD __attribute__((noinline))

static uint64_t data_for(const struct sockets *t, const struct socket *s, unsigned op)
{
	return user_data(op, t->slots[s->slot].generation, s->slot);
}

static void arm(struct sockets *t, struct socket *s)
{
	if (s->into != NULL && s->tls == NULL)
		ring_recv_into(t->reactor->ring, s->fd, s->into, s->into_len, !s->nonempty,
			       data_for(t, s, OP_SOCKET_RECV));
	else if (s->multishot)
		ring_recv(t->reactor->ring, s->fd, data_for(t, s, OP_SOCKET_RECV));
	else
		ring_recv_once(t->reactor->ring, s->fd, !s->nonempty,
			       data_for(t, s, OP_SOCKET_RECV));
	s->recv_armed = true;
	s->in_flight++;
}

/* At once, or when it is its turn; not while what has come is being handed over, or waits. */
static void arm_in_order(struct sockets *t, struct socket *s)
{
	if (!list_empty(&s->link) || (s->tls != NULL && tls_is_busy(s->tls)))
		return;
	if (s->greedy)
		list_append(&t->hungry, &s->link);
	else
		arm(t, s);
}

/* One request less in the kernel; the last one lets a closing socket die. */
static void landed(struct sockets *t, struct socket *s)
{
	assert(s->in_flight > 0);
	if (--s->in_flight == 0 && s->closing)
		list_append(&t->dying, &s->link);
}

static struct socket *owner_of(struct sockets *t, const struct completion *c)
{
	struct socket *s =
		socket_at(t, user_data_slot(c->user_data), user_data_generation(c->user_data));

	if (s == NULL)
		t->reactor->stats.late_completions++;
	return s;
}

/* ---- TLS ---- */

/* What has been sealed goes; it carries so many of the owner's bytes. */
static void take_off(struct sockets *t, struct socket *s, size_t carries)
{
	struct iovec sealed = tls_take_off(s->tls, carries);

	ring_send(t->reactor->ring, s->fd, &sealed, 1, data_for(t, s, OP_SOCKET_SEND));
	s->sending = true;
	s->in_flight++;
}

static void take_off_rest(struct sockets *t, struct socket *s)
{
	take_off(t, s, s->tls->carries);
}

/* What the cipher has said by itself: an answer, a ticket, an alert. */
static void take_off_own(struct sockets *t, struct socket *s)
{
	if (tls_has_output(s->tls) && !s->tls->in_kernel && !s->closing)
		take_off(t, s, 0);
}

/* The last word of one that has failed: an alert, if there is room for it now. */
static void fail(struct sockets *t, struct socket *s, enum cipher_failure reason, int error)
{
	struct tls *tls = s->tls;

	if (tls->state == TLS_HANDSHAKE && error == -TLS_BROKEN)
		error = -TLS_REFUSED;
	tls_fail(tls, reason);
	if (!tls->in_kernel && tls->out.len > 0)
		(void)ring_send_now(t->reactor->ring, s->fd, tls->out.data, tls->out.len);
	list_remove(&tls->link);
	tls_forget(tls);
	if (!tls->in_kernel && !tls->plain)
		s->sending = false;
	s->ended = true;
	t->events->received(s, NULL, 0, error);
}

/* Opens what has come and hands it over, as one where there is room: as much as the kernel had. */
static void hand_over(struct sockets *t, struct socket *s, struct span in)
{
	struct tls *tls = s->tls;
	enum cipher_result result = CIPHER_DONE;
	size_t n;

	reactor_spend(t->reactor, in.len / SPEND_SEALED_BYTES);
	tls->reading = true;
	while (result == CIPHER_DONE && !s->closing) {
		char *into = s->into != NULL ? s->into : tls_scratch(&t->tls);
		size_t max = s->into != NULL ? s->into_len : t->tls.scratch_bytes;

		if (into == NULL) {
			result = CIPHER_FAILED;
			break;
		}
		result = tls_read(tls, &in, into, max, &n, t->reactor->now_ns);
		if (n == 0)
			continue;
		if (into == s->into)
			s->into = NULL;
		t->events->received(s, into, n, 0);
	}
	tls->reading = false;
	if (s->closing)
		return;
	if (result == CIPHER_FAILED) {
		fail(t, s, CIPHER_FAILURE_OTHER, -TLS_BROKEN);
		return;
	}
	take_off_own(t, s);
	if (result == CIPHER_CLOSED) {
		s->ended = true;
		t->events->received(s, NULL, 0, 0);
	}
}

COLD static void received_sealed(struct sockets *t, struct socket *s, const char *data, int result)
{
	struct tls *tls = s->tls;

	if (tls->state == TLS_FAILED)
		return;
	if (result <= 0) {
		/* Nobody has said that this is the end. */
		fail(t, s, CIPHER_FAILURE_CLOSED, result == 0 ? -TLS_TRUNCATED : result);
	} else if (tls->state == TLS_OPEN) {
		hand_over(t, s, (struct span){ data, (size_t)result });
	} else if (!tls_keep(tls, (struct span){ data, (size_t)result })) {
		fail(t, s, CIPHER_FAILURE_MEMORY, -TLS_BROKEN);
	} else if (list_empty(&tls->link)) {
		list_append(&t->tls.steps, &tls->link);
	}
}

/* One step of a handshake; what comes behind it is handed over. */
static void step(struct sockets *t, struct socket *s)
{
	struct tls *tls = s->tls;
	enum cipher_result result = tls_step(tls, t->reactor->now_ns);

	if (result == CIPHER_FAILED) {
		fail(t, s, CIPHER_FAILURE_OTHER, -TLS_BROKEN);
		return;
	}
	take_off_own(t, s);
	if (result == CIPHER_DONE) {
		struct span rest = { tls->input, tls->input_len };
		char *input = tls->input;

		tls->input = NULL;
		tls->input_len = 0;
		if (!tls->in_kernel && !tls->plain)
			s->sending = false;
		if (t->events->secured != NULL)
			t->events->secured(s);
		/* What it has to say has waited for this. */
		if (!s->sending && !s->closing)
			t->events->sent(s, 0);
		if (!s->closing && rest.len > 0)
			hand_over(t, s, rest);
		memory_free(input);
	}
	if (!s->recv_armed && !s->paused && !s->ended && !s->closing)
		arm_in_order(t, s);
}

/* What was on its way when the handshake began. */
COLD static int sent_plain(struct socket *s, int result)
{
	s->tls->plain = false;
	s->sending = s->tls->state == TLS_HANDSHAKE;
	return result;
}

/* What was sealed has gone, some of it, or will not. Returns what the owner is told; INT_MIN: it is
 * not told yet. */
COLD static int sent_sealed(struct sockets *t, struct socket *s, int result)
{
	struct tls *tls = s->tls;
	bool passes = result >= 0 || result == -ECANCELED || result == -EINTR ||
		      result == -EAGAIN || result == -ENOBUFS || result == -ENOMEM;
	bool whole = tls_landed(tls, result > 0 ? (size_t)result : 0);
	bool waited_for = tls->state != TLS_HANDSHAKE;
	int told = (int)tls->carries;

	if (!whole && (!passes || s->closing)) {
		told = (int)tls_carried(tls);
		tls->carries = 0;
		if (tls->state == TLS_OPEN)
			tls->state = TLS_FAILED;
		return told > 0 || passes ? told : result;
	}
	if (!whole && tls->moving)
		(void)tls_move(tls);
	tls->moving = false;
	if (!whole && !tls->cancelled) {
		take_off_rest(t, s);
		return INT_MIN;
	}
	tls->cancelled = false;
	tls->carries = 0;
	/* What is left of it, though nobody waits for it, or what the cipher had to say meanwhile.
	 */
	if (!whole)
		take_off_rest(t, s);
	else
		take_off_own(t, s);
	if (!tls->in_kernel && tls->finishing) {
		tls->finishing = false;
		ring_shutdown(t->reactor->ring, s->fd, SHUT_WR);
	}
	s->sending = tls->in_kernel || !waited_for;
	return waited_for ? told : INT_MIN;
}

static void recv_completed(void *context, const struct completion *c)
{
	struct sockets *t = context;
	struct socket *s = owner_of(t, c);
	const char *data;

	if (s == NULL)
		return;
	data = s->into != NULL && s->tls == NULL ? s->into : c->data;
	s->greedy = c->nonempty && !s->multishot;
	s->nonempty = c->nonempty || c->result < 0;
	if (!c->more) {
		s->recv_armed = false;
		if (s->tls == NULL)
			s->into = NULL;
		landed(t, s);
	}
	/* Behind a close_notify nothing counts. */
	if (s->closing || (s->tls != NULL && s->ended))
		return;
	if (c->result > 0) {
		reactor_spend(t->reactor, (size_t)c->result / SPEND_BYTES);
		if (s->tls != NULL)
			received_sealed(t, s, data, c->result);
		else
			t->events->received(s, data, (size_t)c->result, 0);
	} else if (c->result == -ENOBUFS) {
		/* One that is paused will be armed when it is resumed. */
		if (!c->more && !s->paused && list_empty(&s->link))
			list_append(&t->hungry, &s->link);
		return;
	} else if (c->result == 0 ||
		   (c->result != -ECANCELED && c->result != -EINTR && c->result != -EAGAIN)) {
		s->ended = true;
		if (s->tls != NULL)
			received_sealed(t, s, NULL, c->result);
		else
			t->events->received(s, NULL, 0, c->result);
	}
	/* Multishot ends by itself now and then; and a pause may be over before its cancellation
	 * is. */
	if (!s->recv_armed && !s->paused && !s->ended && !s->closing)
		arm_in_order(t, s);
}

static void send_completed(void *context, const struct completion *c)
{
	struct sockets *t = context;
	struct socket *s = owner_of(t, c);
	int result = c->result;

	if (s == NULL)
		return;
	s->sending = false;
	landed(t, s);
	if (c->result == -ENOMEM || c->result == -ENOBUFS)
		ring_back_off(t->reactor->ring);
	if (s->tls != NULL) {
		result = s->tls->plain ? sent_plain(s, result) : sent_sealed(t, s, result);
		if (result == INT_MIN)
			return;
	}
	t->events->sent(s, result);
}

static void cancel_completed(void *context, const struct completion *c)
{
	struct sockets *t = context;
	struct socket *s = owner_of(t, c);

	if (s != NULL)
		landed(t, s);
}

/* Slots have pages of their own: what grows in the heap leaves holes behind, and what of it is not
 * used yet is a share for each client. */
static int grow(struct sockets *t)
{
	uint32_t n = t->slots_n + (t->slots_n / 8 > SLOTS_MIN ? t->slots_n / 8 : SLOTS_MIN);
	size_t before = t->slots_n * sizeof(*t->slots);
	struct socket_slot *slots;

	if (n > t->slots_max)
		n = t->slots_max;
	if (n == t->slots_n)
		return -EMFILE;
	slots = before == 0 ? mmap(NULL, n * sizeof(*slots), PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
			    : mremap(t->slots, before, n * sizeof(*slots), MREMAP_MAYMOVE);
	if (slots == MAP_FAILED)
		return -ENOMEM;
	memory_count((int64_t)(n * sizeof(*slots) - before));
	for (uint32_t i = n; i-- > t->slots_n;) {
		slots[i] = (struct socket_slot){ .generation = 1, .next_free = t->free };
		t->free = i;
	}
	t->slots = slots;
	t->slots_n = n;
	return 0;
}

int sockets_init(struct sockets *t, struct reactor *reactor, const struct socket_events *events,
		 uint32_t max)
{
	*t = (struct sockets){
		.reactor = reactor, .events = events, .slots_max = max, .free = SOCKET_NO_SLOT
	};
	list_init(&t->hungry);
	list_init(&t->dying);
	tls_shared_init(&t->tls, reactor->params.ring.recv_buffer_bytes);
	reactor_handle(reactor, OP_SOCKET_RECV, recv_completed, t);
	reactor_handle(reactor, OP_SOCKET_SEND, send_completed, t);
	reactor_handle(reactor, OP_SOCKET_CANCEL, cancel_completed, t);
	/* The first are there from the start, whatever memory there is when somebody comes. */
	return grow(t);
}

void sockets_release(struct sockets *t)
{
	assert(t->open == 0);
	tls_shared_release(&t->tls);
	if (t->slots == NULL)
		return;
	munmap(t->slots, t->slots_n * sizeof(*t->slots));
	memory_count(-(int64_t)(t->slots_n * sizeof(*t->slots)));
}

int socket_open(struct sockets *t, struct socket *s, int fd)
{
	int err = t->free == SOCKET_NO_SLOT ? grow(t) : 0;

	if (err != 0)
		return err;
	*s = (struct socket){ .fd = fd, .slot = t->free, .paused = true, .nonempty = true };
	list_init(&s->link);
	t->free = t->slots[s->slot].next_free;
	t->slots[s->slot].socket = s;
	t->open++;
	return 0;
}

void socket_receive(struct sockets *t, struct socket *s)
{
	s->paused = false;
	if (!s->recv_armed && !s->ended && !s->closing)
		arm_in_order(t, s);
}

void socket_receive_into(struct sockets *t, struct socket *s, void *buf, size_t len)
{
	assert(!s->recv_armed && !s->closing && !s->ended && s->into == NULL);
	s->into = buf;
	s->into_len = (uint32_t)len;
	arm_in_order(t, s);
}

void socket_pause(struct sockets *t, struct socket *s)
{
	if (s->paused)
		return;
	s->paused = true;
	/* By the time that it is received from again, and many others may be, too. */
	s->nonempty = s->greedy = true;
	if (s->closing)
		return;
	list_remove(&s->link);
	if (!s->recv_armed)
		s->into = NULL;
	if (!s->recv_armed || !s->multishot)
		return;
	ring_cancel(t->reactor->ring, data_for(t, s, OP_SOCKET_RECV),
		    data_for(t, s, OP_SOCKET_CANCEL));
	s->in_flight++;
}

static inline __attribute__((always_inline)) void count_send(struct sockets *t, struct socket *s,
							     size_t bytes)
{
	uint64_t now_ns = t->reactor->now_ns;

	if (s->sent_ns != 0)
		histogram_add(&t->send_gap, now_ns - s->sent_ns);
	s->sent_ns = now_ns;
	t->sends++;
	t->send_bytes += bytes;
}

/* Seals the spans, or some of them, and sends that; what goes is not the owner's memory. Where
 * there is no buffer for it the socket waits for one as it would for the end of a send. */
COLD static size_t send_sealed(struct sockets *t, struct socket *s, const struct iovec *spans,
			       unsigned spans_n)
{
	struct tls *tls = s->tls;
	size_t bytes = 0;
	bool ok = tls->state == TLS_OPEN;

	if (ok)
		bytes = tls_seal(tls, spans, spans_n, &ok);
	if (ok && tls_has_output(tls)) {
		take_off(t, s, bytes);
		reactor_spend(t->reactor, bytes / SPEND_SEALED_BYTES);
		count_send(t, s, bytes);
		return bytes;
	}
	/* For a buffer that nobody has it would wait for ever. */
	ok = ok && t->tls.used_bytes > 0;
	s->sending = true;
	list_append(ok ? &t->tls.waiting : &t->tls.failed, &tls->link);
	t->tls.counts.waits += ok;
	return 0;
}

size_t socket_send(struct sockets *t, struct socket *s, const struct iovec *spans, unsigned spans_n)
{
	size_t bytes = 0;

	assert(!s->sending && !s->closing);
	if (s->tls != NULL)
		return send_sealed(t, s, spans, spans_n);
	ring_send(t->reactor->ring, s->fd, spans, spans_n, data_for(t, s, OP_SOCKET_SEND));
	s->sending = true;
	s->in_flight++;
	for (unsigned i = 0; i < spans_n; i++)
		bytes += spans[i].iov_len;
	count_send(t, s, bytes);
	return bytes;
}

static int secure(struct sockets *t, struct socket *s, struct keyring *keyring, const char *server)
{
	assert(s->tls == NULL && !s->closing);
	s->tls = tls_new(&t->tls, keyring, server, s, t->reactor->now_ns);
	if (s->tls == NULL)
		return -ENOMEM;
	s->tls->plain = s->sending;
	s->sending = true;
	return 0;
}

int socket_secure_dialled(struct sockets *t, struct socket *s, struct keyring *keyring,
			  const char *server)
{
	int err = secure(t, s, keyring, server);

	if (err == 0)
		list_append(&t->tls.steps, &s->tls->link);
	return err;
}

int socket_secure(struct sockets *t, struct socket *s, struct keyring *keyring, struct span bytes)
{
	int err = secure(t, s, keyring, NULL);

	if (err != 0 || bytes.len == 0)
		return err;
	if (!tls_keep(s->tls, bytes))
		return -ENOBUFS;
	list_append(&t->tls.steps, &s->tls->link);
	return 0;
}

void socket_finish(struct sockets *t, struct socket *s)
{
	struct tls *tls = s->tls;

	if (tls != NULL && tls->state == TLS_OPEN) {
		tls_say_end(tls);
		take_off_own(t, s);
		tls->finishing = tls->in_kernel;
	}
	if (tls == NULL || !tls->finishing)
		ring_shutdown(t->reactor->ring, s->fd, SHUT_WR);
}

void socket_cancel_send(struct sockets *t, struct socket *s)
{
	if (!s->sending || s->closing)
		return;
	if (s->tls != NULL) {
		/* What is sealed goes all the same, but nobody waits for it. */
		s->tls->cancelled = s->tls->in_kernel;
		if (!s->tls->in_kernel || s->tls->moving)
			return;
	}
	ring_cancel(t->reactor->ring, data_for(t, s, OP_SOCKET_SEND),
		    data_for(t, s, OP_SOCKET_CANCEL));
	s->in_flight++;
}

void socket_close(struct sockets *t, struct socket *s)
{
	if (s->closing)
		return;
	s->closing = true;
	list_remove(&s->link);
	if (s->tls != NULL)
		list_remove(&s->tls->link);
	if (s->in_flight == 0) {
		list_append(&t->dying, &s->link);
		return;
	}
	/* An orderly end, though soon followed by a reset, would be a receipt. */
	ring_shutdown(t->reactor->ring, s->fd, s->reset ? SHUT_RD : SHUT_RDWR);
	ring_cancel_fd(t->reactor->ring, s->fd, data_for(t, s, OP_SOCKET_CANCEL));
	s->in_flight++;
}

void socket_abandon(struct sockets *t, struct socket *s)
{
	/* Memory that a send still refers to is about to go: it must find the way barred. */
	if (s->in_flight > 0)
		ring_shutdown(t->reactor->ring, s->fd, SHUT_RDWR);
	s->in_flight = 0;
	s->sending = s->recv_armed = false;
	list_remove(&s->link);
	s->closing = true;
	list_append(&t->dying, &s->link);
}

struct socket *socket_at(struct sockets *t, uint32_t slot, uint32_t generation)
{
	if (slot >= t->slots_n || t->slots[slot].generation != generation)
		return NULL;
	return t->slots[slot].socket;
}

uint32_t socket_generation(const struct sockets *t, const struct socket *s)
{
	return t->slots[s->slot].generation;
}

struct socket *sockets_next(const struct sockets *t, uint32_t *at)
{
	while (*at < t->slots_n)
		if (t->slots[(*at)++].socket != NULL)
			return t->slots[*at - 1].socket;
	return NULL;
}

static void end(struct sockets *t, struct socket *s)
{
	struct socket_slot *slot = &t->slots[s->slot];

	if (s->reset)
		ring_reset(t->reactor->ring, s->fd);
	ring_close(t->reactor->ring, s->fd);
	slot->socket = NULL;
	/* A late completion for the old owner must miss. */
	slot->generation = (slot->generation + 1) & REACTOR_GENERATION_MASK;
	slot->generation += slot->generation == 0;
	slot->next_free = t->free;
	t->free = s->slot;
	t->open--;
	tls_free(s->tls);
	s->tls = NULL;
	t->events->closed(s);
}

static void arm_hungry(struct sockets *t)
{
	struct list *link;

	for (size_t room = 0; room < HUNGRY_BYTES_MAX && (link = list_take(&t->hungry)) != NULL;) {
		struct socket *s = LIST_ENTRY(link, struct socket, link);

		arm(t, s);
		room += s->into != NULL ? s->into_len : t->reactor->params.ring.recv_buffer_bytes;
	}
}

static struct socket *owner_of_tls(struct list *link)
{
	return LIST_ENTRY(link, struct tls, link)->owner;
}

/* Handshakes go on, some in each turn, so that nothing waits long for them: where keys are large
 * one of them is enough. */
static void step_some(struct sockets *t)
{
	uint64_t ends_ns = list_empty(&t->tls.steps) ? 0 : clock_now_ns() + TLS_STEPS_NS;
	struct list *link;

	for (unsigned n = 0; n < TLS_STEPS && (link = list_take(&t->tls.steps)) != NULL; n++) {
		step(t, owner_of_tls(link));
		reactor_spend(t->reactor, STEP_COST);
		if (clock_now_ns() >= ends_ns)
			break;
	}
}

static void tell_sent(struct sockets *t, struct list *link, int result)
{
	struct socket *s = owner_of_tls(link);

	s->sending = false;
	t->events->sent(s, result);
}

/* Those whose sends have stood longest hold buffers that everybody waits for: what is left of
 * theirs goes on from memory of its own. */
static void make_room(struct sockets *t)
{
	uint64_t now_ns = t->reactor->now_ns;
	unsigned n = 0;

	for (struct list *l = t->tls.flying.next; l != &t->tls.flying && n < MOVES_MAX;
	     l = l->next) {
		struct tls *tls = LIST_ENTRY(l, struct tls, flight);
		struct socket *s = tls->owner;

		if (now_ns - s->sent_ns < STANDS_NS)
			break;
		if (tls->moving || tls->cancelled || s->closing)
			continue;
		tls->moving = true;
		ring_cancel(t->reactor->ring, data_for(t, s, OP_SOCKET_SEND),
			    data_for(t, s, OP_SOCKET_CANCEL));
		s->in_flight++;
		n++;
	}
	/* Some may stand by then. */
	reactor_wake_at(t->reactor, now_ns + STANDS_NS);
}

/* Whether there is more to do now. */
static bool flush_tls(struct sockets *t)
{
	struct tls_shared *tls = &t->tls;
	size_t room = tls_room(tls);
	struct list *link;

	step_some(t);
	while ((link = list_take(&tls->failed)) != NULL)
		tell_sent(t, link, -ECONNRESET);
	for (; room > 0 && (link = list_take(&tls->waiting)) != NULL; room--)
		tell_sent(t, link, 0);
	if (!list_empty(&tls->waiting))
		make_room(t);
	return !list_empty(&tls->steps) || !list_empty(&tls->failed);
}

bool sockets_flush(struct sockets *t)
{
	struct list *link;
	bool any = !list_empty(&t->hungry) || !list_empty(&t->dying);

	if (t->tls.open > 0)
		any |= flush_tls(t);
	arm_hungry(t);
	for (unsigned n = 0; n < CLOSES_MAX && (link = list_take(&t->dying)) != NULL; n++) {
		end(t, LIST_ENTRY(link, struct socket, link));
		reactor_spend(t->reactor, CLOSE_COST);
		if (reactor_spent(t->reactor))
			break;
	}
	return any;
}
