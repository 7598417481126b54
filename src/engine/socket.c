#include "engine/socket.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/memory.h"

enum {
	CLOSES_MAX = 64, /* in a turn: each may have the kernel free all that it held */
	CLOSE_COST = 40, /* of one: 10 us at least */
	/* Room for what the hungry receive in a turn: it takes the kernel a tenth of a millisecond
	 * to copy, and the owner a few times as much to look at. */
	HUNGRY_BYTES_MAX = 512 << 10,
	SPEND_BYTES = 1 << 10, /* received in about a quarter of a microsecond */
};

static uint64_t data_for(const struct sockets *t, const struct socket *s, unsigned op)
{
	return user_data(op, t->slots[s->slot].generation, s->slot);
}

static void arm(struct sockets *t, struct socket *s)
{
	if (s->into != NULL)
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

/* At once, or when it is its turn. */
static void arm_in_order(struct sockets *t, struct socket *s)
{
	if (!list_empty(&s->link))
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

static void recv_completed(void *context, const struct completion *c)
{
	struct sockets *t = context;
	struct socket *s = owner_of(t, c);
	const char *data;

	if (s == NULL)
		return;
	data = s->into != NULL ? s->into : c->data;
	s->greedy = c->nonempty && !s->multishot;
	s->nonempty = c->nonempty || c->result < 0;
	if (!c->more) {
		s->recv_armed = false;
		s->into = NULL;
		landed(t, s);
	}
	if (s->closing)
		return;
	if (c->result > 0) {
		reactor_spend(t->reactor, (size_t)c->result / SPEND_BYTES);
		t->events->received(s, data, (size_t)c->result, 0);
	} else if (c->result == -ENOBUFS) {
		/* One that is paused will be armed when it is resumed. */
		if (!c->more && !s->paused && list_empty(&s->link))
			list_append(&t->hungry, &s->link);
		return;
	} else if (c->result == 0 ||
		   (c->result != -ECANCELED && c->result != -EINTR && c->result != -EAGAIN)) {
		s->ended = true;
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

	if (s == NULL)
		return;
	s->sending = false;
	landed(t, s);
	if (c->result == -ENOMEM || c->result == -ENOBUFS)
		ring_back_off(t->reactor->ring);
	t->events->sent(s, c->result);
}

static void cancel_completed(void *context, const struct completion *c)
{
	struct sockets *t = context;
	struct socket *s = owner_of(t, c);

	if (s != NULL)
		landed(t, s);
}

int sockets_init(struct sockets *t, struct reactor *reactor, const struct socket_events *events,
		 uint32_t max)
{
	*t = (struct sockets){
		.reactor = reactor, .events = events, .slots_max = max, .free = SOCKET_NO_SLOT
	};
	list_init(&t->hungry);
	list_init(&t->dying);
	reactor_handle(reactor, OP_SOCKET_RECV, recv_completed, t);
	reactor_handle(reactor, OP_SOCKET_SEND, send_completed, t);
	reactor_handle(reactor, OP_SOCKET_CANCEL, cancel_completed, t);
	return 0;
}

void sockets_release(struct sockets *t)
{
	assert(t->open == 0);
	memory_free(t->slots);
}

static int grow(struct sockets *t)
{
	uint32_t n = t->slots_n == 0 ? 64 : 2 * t->slots_n;
	struct socket_slot *slots;

	if (n > t->slots_max)
		n = t->slots_max;
	if (n == t->slots_n)
		return -EMFILE;
	slots = memory_resize(t->slots, n * sizeof(*slots));
	if (slots == NULL)
		return -ENOMEM;
	for (uint32_t i = n; i-- > t->slots_n;) {
		slots[i] = (struct socket_slot){ .generation = 1, .next_free = t->free };
		t->free = i;
	}
	t->slots = slots;
	t->slots_n = n;
	return 0;
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
	s->into_len = len;
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

size_t socket_send(struct sockets *t, struct socket *s, const struct iovec *spans, unsigned spans_n)
{
	uint64_t now_ns = t->reactor->now_ns;
	size_t bytes = 0;

	assert(!s->sending && !s->closing);
	ring_send(t->reactor->ring, s->fd, spans, spans_n, data_for(t, s, OP_SOCKET_SEND));
	s->sending = true;
	s->in_flight++;
	if (s->sent_ns != 0)
		histogram_add(&t->send_gap, now_ns - s->sent_ns);
	s->sent_ns = now_ns;
	t->sends++;
	for (unsigned i = 0; i < spans_n; i++)
		bytes += spans[i].iov_len;
	t->send_bytes += bytes;
	return bytes;
}

void socket_cancel_send(struct sockets *t, struct socket *s)
{
	if (!s->sending || s->closing)
		return;
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

bool sockets_flush(struct sockets *t)
{
	struct list *link;
	bool any = !list_empty(&t->hungry) || !list_empty(&t->dying);

	arm_hungry(t);
	for (unsigned n = 0; n < CLOSES_MAX && (link = list_take(&t->dying)) != NULL; n++) {
		end(t, LIST_ENTRY(link, struct socket, link));
		reactor_spend(t->reactor, CLOSE_COST);
		if (reactor_spent(t->reactor))
			break;
	}
	return any;
}
