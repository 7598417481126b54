#include "load/subscriber.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "load/worker.h"

/* Parts of a frame that may surround a payload, beyond what is known of it. */
enum { STASH_SPARE_BYTES = 4096 };

static struct subscriber *subscriber_of(struct client *c)
{
	return (struct subscriber *)(void *)c;
}

static uint32_t publishers_of(const struct subscriber *s)
{
	return s->client.worker->run->options->publishers;
}

/* Whose message this is, by its header; -1: nobody's, or that has not come. */
static ptrdiff_t flow_of(const struct subscriber *s, struct span in)
{
	ptrdiff_t topic, publisher;

	if (in.len < MESSAGE_PUBLISHER_AT + 5)
		return -1;
	topic = message_topic(in.data + MESSAGE_TOPIC_AT);
	publisher = message_publisher(in.data + MESSAGE_PUBLISHER_AT);
	topic -= s->client.topic;
	if (publisher < 0 || publisher >= publishers_of(s) || topic < 0 ||
	    topic >= s->flows_n / publishers_of(s))
		return -1;
	return topic * publishers_of(s) + publisher;
}

/* n messages of the current publisher have come whole, and were right. */
static void deliver(struct subscriber *s, uint64_t n, uint64_t now_ns)
{
	struct worker *w = s->client.worker;
	struct flow_view *v = &s->views[s->current];
	uint64_t from_ns = w->run->measure_ns, seq = s->next[s->current];
	uint64_t end_ns = atomic_load_explicit(&w->run->end_ns, memory_order_relaxed);
	uint64_t before = atomic_load_explicit(&v->done, memory_order_relaxed);
	uint64_t run_ns = 0, run = 0; /* messages in a row that took equally long */

	s->next[s->current] = seq + n;
	w->delivered += n;
	for (uint64_t end = seq + n; seq < end; seq++) {
		uint64_t intended_ns = flow_intended_ns(v->flow, seq), took_ns;
		bool last = flow_arrived(v, seq);

		if (intended_ns < from_ns || intended_ns >= end_ns)
			continue;
		took_ns = now_ns > intended_ns ? now_ns - intended_ns : 0;
		if (took_ns != run_ns && run > 0) {
			histogram_add_many(&w->latency, run_ns, run);
			run = 0;
		}
		run_ns = took_ns;
		run++;
		if (last)
			histogram_add(&w->slowest, took_ns);
	}
	if (run > 0)
		histogram_add_many(&w->latency, run_ns, run);
	if (atomic_load_explicit(&v->done, memory_order_relaxed) != before)
		worker_advanced(w, v);
}

/*
 * Compares with what the current publisher sent. Returns how many bytes were as they must be,
 * whole messages or to the end of the span; 0: it takes a closer look.
 */
static size_t compare(struct subscriber *s, struct span in, uint64_t now_ns)
{
	const struct flow *f;
	uint64_t seq, built, slot, kept;
	size_t n, whole, at;

	if (s->flows_n > 1 && s->offset == 0) {
		size_t prefix = s->views[0].flow->in_prefix;
		ptrdiff_t flow = in.len < prefix ? -1 : flow_of(s, span_skip(in, prefix));

		if (flow < 0)
			return 0;
		s->current = (uint32_t)flow;
	}
	f = s->views[s->current].flow;
	seq = s->next[s->current];
	built = atomic_load_explicit(&f->built, memory_order_acquire);
	/* A paced publisher on another thread may be writing to the older half of its ring. */
	kept = f->intended_ns != NULL ? f->slots : f->slots / 2;
	if (seq >= built || built - seq > kept)
		return 0;
	slot = seq & (f->slots - 1);
	at = slot * f->in_bytes + s->offset;
	/* Up to the ring's end, and to the last message that there is. */
	whole = f->slots - slot < built - seq ? f->slots - slot : built - seq;
	if (publishers_of(s) > 1)
		whole = 1;
	n = whole * f->in_bytes - s->offset;
	n = n < in.len ? n : in.len;
	if (memcmp(f->in + at, in.data, n) != 0) {
		/* Those before the wrong one are right. */
		n = f->in_bytes - s->offset;
		if (n >= in.len || memcmp(f->in + at, in.data, n) != 0)
			return 0;
	}
	s->offset += n;
	if (s->offset >= f->in_bytes) {
		deliver(s, s->offset / f->in_bytes, now_ns);
		s->offset %= f->in_bytes;
	}
	return n;
}

/* A whole message, taken apart. */
static void examine(struct subscriber *s, struct span payload, uint64_t now_ns)
{
	struct run *run = s->client.worker->run;
	struct message got = { 0 }, want;
	enum message_fault fault = message_read(payload, &run->filler, &got);
	uint64_t built;

	if (fault == MESSAGE_RIGHT && got.publisher >= publishers_of(s))
		fault = MESSAGE_UNKNOWN_PUBLISHER;
	if (fault == MESSAGE_WRONG_LENGTH) {
		client_fail(&s->client, "wrong length: a message of %zu bytes, not %zu: %.*s",
			    payload.len, run->filler.message_bytes,
			    (int)(payload.len < 60 ? payload.len : 60), payload.data);
		return;
	}
	if (fault == MESSAGE_WRONG_HEADER || fault == MESSAGE_UNKNOWN_PUBLISHER) {
		client_fail(&s->client, "%s: %.60s", message_fault_names[fault], payload.data);
		return;
	}
	if (got.publisher < publishers_of(s)) {
		uint32_t topic = got.topic - s->client.topic;

		topic = topic < s->flows_n / publishers_of(s) ? topic : 0;
		s->current = topic * publishers_of(s) + got.publisher;
	}
	want = (struct message){ .run = run->id,
				 .topic = s->views[s->current].flow->topic,
				 .publisher = s->views[s->current].flow->publisher,
				 .seq = s->next[s->current] };
	built = atomic_load_explicit(&s->views[s->current].flow->built, memory_order_acquire);
	want.intended_ns =
		want.seq < built ? flow_intended_ns(s->views[s->current].flow, want.seq) : 0;
	if (fault == MESSAGE_RIGHT)
		fault = message_compare(&got, &want);
	if (fault == MESSAGE_RIGHT && got.seq >= built)
		fault = MESSAGE_WRONG_HEADER;
	if (fault == MESSAGE_RIGHT) {
		deliver(s, 1, now_ns);
		return;
	}
	client_fail(&s->client,
		    "%s: got message %" PRIu64 " of publisher %u of topic %u, not %" PRIu64
		    " of publisher %u of topic %u",
		    message_fault_names[fault], got.seq, got.publisher, got.topic, want.seq,
		    want.publisher, want.topic);
}

/* What has come of a message that turns out to be different is taken as it must have been. */
static bool suspect(struct subscriber *s)
{
	const struct flow *f = s->views[s->current].flow;
	char *frame = malloc(f->in_bytes);
	bool ok;

	if (frame == NULL)
		return false;
	flow_rebuild(f, s->next[s->current], frame);
	ok = wire_stash_add(&s->stash, (struct span){ frame, s->offset });
	free(frame);
	s->offset = 0;
	return ok;
}

static void received(struct client *c, const char *data, size_t len, int error)
{
	struct subscriber *s = subscriber_of(c);
	const struct wire *wire = c->worker->run->options->wire;
	struct wire_event (*receive)(struct span) =
		c->worker->run->options->pattern && wire->receive_wild != NULL ? wire->receive_wild
									       : wire->receive;
	struct span in = { data, len };
	uint64_t now_ns;

	if (len == 0) {
		client_lost(c, error);
		return;
	}
	now_ns = clock_now_ns();
	while (in.len > 0 && !run_failed(c->worker->run)) {
		struct wire_event e;

		if (s->stash.len == 0 && wire->delivered != NULL && publishers_of(s) > 0) {
			size_t n = compare(s, in, now_ns);

			in = span_skip(in, n);
			if (n > 0)
				continue;
			if (s->offset > 0 && !suspect(s)) {
				client_fail(c, "out of memory");
				return;
			}
		}
		e = wire_next(&s->stash, receive, &in);
		if (e.result == WIRE_BAD) {
			client_fail(c, "the broker says what is no message: %.*s",
				    (int)(e.payload.len < 100 ? e.payload.len : 100),
				    e.payload.data);
			return;
		}
		if (e.result == WIRE_MESSAGE) {
			examine(s, e.payload, now_ns);
		} else if (e.result == WIRE_PING) {
			c->pong = true;
			(void)client_pong(c);
		}
	}
}

static void sent(struct client *c, int result)
{
	c->answering = false;
	if (result < 0 && !c->socket.closing)
		client_lost(c, result);
	else
		(void)client_pong(c);
}

static void opened(struct client *c)
{
	c->received = received;
	c->sent = sent;
}

/* What was on its way when it stopped reading. */
static void stalled_received(struct client *c, const char *data, size_t len, int error)
{
	(void)c;
	(void)data;
	(void)len;
	(void)error;
}

static void opened_stalled(struct client *c)
{
	c->received = stalled_received;
	c->sent = sent;
	socket_pause(&c->worker->sockets, &c->socket);
}

/* What it says to begin with; NULL: out of memory. */
static char *hello_of(const struct run *run, uint32_t topic, struct span *text)
{
	const struct wire *wire = run->options->wire;
	uint32_t n = run->options->pattern ? 1 : run->options->topics_each;
	struct wire_asked asked = { .many = n > 1 };
	char name[RUN_TOPIC_MAX], pattern[RUN_TOPIC_MAX];
	char *hello = malloc((size_t)n * sizeof(struct wire_text));
	size_t len = 0;

	if (hello == NULL)
		return NULL;
	asked.pattern = run_pattern(run, pattern);
	for (; asked.number < n; asked.number++) {
		struct wire_text one;

		wire->subscribe(&one,
				asked.pattern.len > 0
					? asked.pattern
					: run_delivered_topic(run, topic + asked.number, name),
				&asked);
		memcpy(hello + len, one.bytes, one.len);
		len += one.len;
	}
	*text = (struct span){ hello, len };
	return hello;
}

bool subscriber_open(struct worker *w, struct subscriber *s, uint32_t topic, uint32_t number,
		     bool stalled)
{
	struct run *run = w->run;
	const struct options *o = run->options;
	struct client_handshake handshake = { .opened = o->wire->subscribed,
					      .opened_more = o->wire->subscribed_more,
					      .more = o->pattern ? 0 : o->topics_each - 1,
					      .ready = stalled ? opened_stalled : opened };
	char *hello = hello_of(run, topic, &handshake.hello);
	bool ok;

	s->views = w->views + (size_t)topic * o->publishers;
	s->flows_n = run_topics_each(o) * o->publishers;
	s->next = &s->next_of_one;
	if (s->flows_n > 1)
		s->next = calloc(s->flows_n, sizeof(*s->next));
	if (s->next == NULL || hello == NULL) {
		run_fail(run, "out of memory");
		free(hello);
		return false;
	}
	s->stash.max = run->filler.message_bytes + STASH_SPARE_BYTES;
	s->stalled = stalled;
	s->client.kind = "subscriber";
	s->client.topic = topic;
	s->client.number = number;
	ok = client_open(w, &s->client, &handshake);
	free(hello);
	return ok;
}

void subscriber_release(struct subscriber *s)
{
	if (s->next != &s->next_of_one)
		free(s->next);
	wire_stash_release(&s->stash);
}

/* An idle one: only what keeps the connection alive. */
static void idle_received(struct client *c, const char *data, size_t len, int error)
{
	const struct wire *wire = c->worker->run->options->wire;
	struct span in = { data, len };

	if (len == 0) {
		client_lost(c, error);
		return;
	}
	while (in.len > 0) {
		struct wire_event e = wire->receive(in);

		if (e.result == WIRE_MORE)
			return;
		if (e.result == WIRE_BAD || e.result == WIRE_MESSAGE) {
			client_fail(c, "the broker says: %.*s", (int)(in.len < 100 ? in.len : 100),
				    in.data);
			return;
		}
		if (e.result == WIRE_PING)
			c->pong = true;
		in = span_skip(in, e.used);
	}
	(void)client_pong(c);
}

static void idle_opened(struct client *c)
{
	c->received = idle_received;
	c->sent = sent;
}

bool subscriber_open_idle(struct worker *w, struct client *c, struct span topic, uint32_t number,
			  void (*ready)(struct client *))
{
	const struct wire *wire = w->run->options->wire;
	struct wire_text hello;
	struct client_handshake handshake = { .opened = wire->subscribed,
					      .ready = ready != NULL ? ready : idle_opened };

	wire->subscribe(&hello, topic, &(struct wire_asked){ .many = false });
	handshake.hello = (struct span){ hello.bytes, hello.len };
	c->number = number;
	return client_open(w, c, &handshake);
}

void subscriber_check_end(struct subscriber *s)
{
	if (s->stalled)
		return;
	for (uint32_t p = 0; p < s->flows_n; p++) {
		uint64_t built =
			atomic_load_explicit(&s->views[p].flow->built, memory_order_acquire);

		if (s->next[p] < built)
			client_fail(&s->client,
				    "%" PRIu64 " of %" PRIu64 " messages of publisher %u of topic "
				    "%u are missing: the next one is "
				    "%" PRIu64,
				    built - s->next[p], built, s->views[p].flow->publisher,
				    s->views[p].flow->topic, s->next[p]);
	}
}
