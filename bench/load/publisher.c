#include "load/publisher.h"

#include <errno.h>
#include <string.h>

#include "load/worker.h"

enum { REPLY_MAX = 4096 }; /* bytes; more than any broker says at a time */

/* Messages that all subscribers have. */
static uint64_t acknowledged(const struct publisher *p)
{
	struct run *run = p->client.worker->run;
	ptrdiff_t flow = p->flow - run->flows;
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < run->workers_n; i++) {
		const struct flow_view *v = &run->workers[i].views[flow];
		uint64_t done;

		if (v->subscribers == 0)
			continue;
		done = atomic_load_explicit(&v->done, memory_order_acquire);
		least = done < least ? done : least;
	}
	return least;
}

/* How many messages may go now. */
static uint64_t allowed(struct publisher *p, uint64_t now_ns)
{
	struct run *run = p->client.worker->run;
	const struct options *o = run->options;
	uint64_t built = atomic_load_explicit(&p->flow->built, memory_order_relaxed);
	uint64_t acked = acknowledged(p), n;

	if (o->window > 0) {
		if (now_ns >= atomic_load_explicit(&run->end_ns, memory_order_relaxed))
			return 0;
		return o->window - (built - acked);
	}
	if (acked != UINT64_MAX && p->due - acked >= p->flow->tracked) {
		client_fail(&p->client,
			    "the broker does not hold this rate: the slowest subscriber is %llu "
			    "messages behind",
			    (unsigned long long)(p->due - acked));
		return 0;
	}
	/* Half of the ring, so that a subscriber on another thread may still look at the rest. */
	n = p->due - built;
	return n < p->flow->slots / 2 ? n : p->flow->slots / 2;
}

void publisher_push(struct publisher *p, uint64_t now_ns)
{
	struct flow *f = p->flow;
	struct worker *w = p->client.worker;
	uint64_t first, slot, n, straight;

	if (client_pong(&p->client) || p->client.socket.sending || p->client.socket.closing)
		return;
	n = allowed(p, now_ns);
	if (n == 0)
		return;
	n = n < w->run->options->batch ? n : w->run->options->batch;
	first = atomic_load_explicit(&f->built, memory_order_relaxed);
	flow_build(f, (unsigned)n, now_ns);
	w->published += n;
	slot = first & (f->slots - 1);
	straight = n < f->slots - slot ? n : f->slots - slot;
	p->spans[0] = (struct iovec){ f->out + slot * f->out_bytes, straight * f->out_bytes };
	p->spans[1] = (struct iovec){ f->out, (n - straight) * f->out_bytes };
	p->spans_n = n > straight ? 2 : 1;
	socket_send(&w->sockets, &p->client.socket, p->spans, p->spans_n);
}

void publisher_ready(struct publisher *p)
{
	if (list_empty(&p->ready))
		list_append(&p->client.worker->ready, &p->ready);
}

static void sent(struct client *c, int result)
{
	struct publisher *p = (struct publisher *)(void *)c;
	size_t n = result > 0 ? (size_t)result : 0;

	if (c->answering) {
		c->answering = false;
		publisher_ready(p);
		return;
	}
	/* 0: there was no buffer to seal it in, and now there may be. */
	if (result < 0 && result != -EINTR && result != -EAGAIN) {
		client_lost(c, result);
		return;
	}
	while (p->spans_n > 0 && n >= p->spans[0].iov_len) {
		n -= p->spans[0].iov_len;
		p->spans[0] = p->spans[1];
		p->spans_n--;
	}
	if (p->spans_n == 0) {
		publisher_ready(p);
		return;
	}
	p->spans[0].iov_base = (char *)p->spans[0].iov_base + n;
	p->spans[0].iov_len -= n;
	/* While the cipher has something to say itself, `sent` follows. */
	if (!c->socket.sending)
		socket_send(&c->worker->sockets, &c->socket, p->spans, p->spans_n);
}

/* What the broker says to a publisher is mostly of no interest; a complaint is. */
static void received(struct client *c, const char *data, size_t len, int error)
{
	struct publisher *p = (struct publisher *)(void *)c;
	const struct wire *wire = c->worker->run->options->wire;
	struct span in = { data, len };

	if (len == 0) {
		client_lost(c, error);
		return;
	}
	while (in.len > 0) {
		struct wire_event e = wire_next(&p->stash, wire->reply, &in);

		if (e.result == WIRE_BAD) {
			client_fail(c, "the broker says: %.*s",
				    (int)(e.payload.len < 200 ? e.payload.len : 200),
				    e.payload.data);
			return;
		}
		if (e.result == WIRE_PING) {
			c->pong = true;
			publisher_ready(p);
		}
	}
}

static void opened(struct client *c)
{
	c->received = received;
	c->sent = sent;
}

bool publisher_open(struct worker *w, struct publisher *p, struct flow *f)
{
	const struct wire *wire = w->run->options->wire;
	char name[RUN_TOPIC_MAX];
	struct wire_text hello;
	struct client_handshake handshake = { .opened = wire->publisher_opened,
					      .ready = opened,
					      .publishes = true };

	wire->open_publisher(&hello, run_topic(w->run, f->topic, name));
	handshake.hello = (struct span){ hello.bytes, hello.len };
	p->flow = f;
	/* Over WebSocket it gets back what it sends. */
	p->stash.max = REPLY_MAX + w->run->filler.message_bytes;
	list_init(&p->ready);
	p->client.kind = "publisher";
	p->client.topic = f->topic;
	p->client.number = f->publisher;
	return client_open(w, &p->client, &handshake);
}
