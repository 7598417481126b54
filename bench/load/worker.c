#include "load/worker.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "load/client.h"
#include "load/publisher.h"
#include "load/subscriber.h"

enum {
	OP_ALARM = OP_USER,

	HANDSHAKES_MAX = 64, /* under way at a time: a listener's queue is not endless */
	HANDSHAKE_SECONDS = 10,
	HEARTBEAT_MS = 100, /* a worker looks around at least so often */
	POLL_US = 20,       /* what is due so soon is not worth sleeping for */
	SETTLE_MS = 20,     /* for what must not arrive any more */
	COPY_MS = 1000,     /* between two copies of the histogram for the live line */
	CHURNING_MAX = 1024,
};

/* ---- the clock --------------------------------------------------------------------------------
 */

static void alarmed(void *context, const struct completion *completion)
{
	struct worker *w = context;

	(void)completion;
	w->alarm_ns = 0;
}

static void set_alarm(struct worker *w, uint64_t at_ns, uint64_t now_ns)
{
	uint64_t heartbeat_ns = now_ns + HEARTBEAT_MS * NS_PER_MS;

	if (w->alarm_ns != 0)
		return;
	w->alarm_ns = at_ns < heartbeat_ns ? at_ns : heartbeat_ns;
	ring_alarm(w->reactor.ring, w->alarm_ns, user_data(OP_ALARM, 0, 0));
}

/* Lets go what is due by now; returns when the next one is. */
static uint64_t pace(struct worker *w, uint64_t now_ns, uint64_t end_ns)
{
	if (w->run->options->window > 0 || w->publishers_n == 0)
		return UINT64_MAX;
	for (;;) {
		struct publisher *p = &w->publishers[w->next_due];
		uint64_t due_ns = flow_due_ns(p->flow, p->due);

		if (due_ns >= end_ns)
			return UINT64_MAX;
		if (due_ns > now_ns)
			return due_ns;
		p->due++;
		publisher_ready(p);
		w->next_due = w->next_due + 1 < w->publishers_n ? w->next_due + 1 : 0;
	}
}

/* ---- those who come and go --------------------------------------------------------------------
 */

static void churn_opened(struct client *c)
{
	socket_close(&c->worker->sockets, &c->socket);
}

static void churn_closed(struct client *c)
{
	c->worker->churned++;
	c->worker->churning--;
	free(c);
}

static void churn(struct worker *w, uint64_t now_ns)
{
	uint64_t elapsed_ns = now_ns - w->run->start_ns;
	uint64_t due = (uint64_t)((double)elapsed_ns / w->churn_period_ns);

	while (w->churned + w->churning < due && w->churning < CHURNING_MAX) {
		struct client *c = calloc(1, sizeof(*c));
		char name[RUN_TOPIC_MAX];

		if (c == NULL || w->run->options->topics == 0)
			return;
		c->kind = "churning subscriber";
		c->closed = churn_closed;
		c->topic = (uint32_t)(due % w->run->options->topics);
		w->churning++;
		if (!subscriber_open_idle(w, c, run_delivered_topic(w->run, c->topic, name), 0,
					  churn_opened)) {
			free(c);
			return;
		}
	}
}

/* ---- one turn ---------------------------------------------------------------------------------
 */

void worker_advanced(struct worker *w, struct flow_view *v)
{
	if (v->advanced)
		return;
	v->advanced = true;
	w->advanced[w->advanced_n++] = v;
}

/* Tells the publishers of the flows that have advanced. */
static void tell(struct worker *w)
{
	uint64_t rung = 0;

	for (unsigned i = 0; i < w->advanced_n; i++) {
		struct flow_view *v = w->advanced[i];

		v->advanced = false;
		if (v->flow->owner != w->id)
			rung |= UINT64_C(1) << (v->flow->owner % 64);
		else if (w->senders[v - w->views] != NULL)
			publisher_ready(w->senders[v - w->views]);
	}
	w->advanced_n = 0;
	for (unsigned to = 0; rung != 0 && to < w->run->workers_n; to++)
		if (to != w->id && (rung >> (to % 64) & 1))
			reactor_post(&w->reactor, to, LANE_FREE, NULL, 0);
}

static void push(struct worker *w, uint64_t now_ns)
{
	struct list ready, *l;

	/* Another worker's subscribers may have opened a window: its doorbell does not say whose.
	 */
	if (w->run->workers_n > 1 && w->run->options->window > 0)
		for (unsigned i = 0; i < w->publishers_n; i++)
			publisher_ready(&w->publishers[i]);
	list_init(&ready);
	list_splice(&ready, &w->ready);
	while ((l = list_take(&ready)) != NULL)
		publisher_push(LIST_ENTRY(l, struct publisher, ready), now_ns);
}

static void show(struct worker *w, uint64_t now_ns)
{
	atomic_store_explicit(&w->live.delivered, w->delivered, memory_order_relaxed);
	atomic_store_explicit(&w->live.published, w->published, memory_order_relaxed);
	atomic_store_explicit(&w->live.churned, w->churned, memory_order_relaxed);
	if (now_ns - w->live.copied_ns < COPY_MS * NS_PER_MS)
		return;
	pthread_mutex_lock(&w->live.lock);
	w->live.latency = w->latency;
	w->live.copied_ns = now_ns;
	pthread_mutex_unlock(&w->live.lock);
}

/* Publishers that have sent their last say how many messages that makes. Returns whether everything
 * of every flow is here. */
static bool drained(struct worker *w)
{
	for (unsigned i = 0; i < w->publishers_n; i++) {
		struct publisher *p = &w->publishers[i];
		uint64_t built = atomic_load_explicit(&p->flow->built, memory_order_relaxed);

		if (p->client.socket.sending)
			continue;
		if (w->run->options->window > 0 || built == p->due)
			atomic_store_explicit(&p->flow->end, built, memory_order_release);
	}
	for (uint32_t i = 0; i < w->run->flows_n; i++) {
		const struct flow_view *v = &w->views[i];
		uint64_t end = atomic_load_explicit(&v->flow->end, memory_order_acquire);

		if (end == FLOW_UNENDED)
			return false;
		if (v->subscribers > 0 &&
		    atomic_load_explicit(&v->done, memory_order_relaxed) < end)
			return false;
	}
	return true;
}

/* The time is up: waits for what is on its way. */
static void finish(struct worker *w, uint64_t now_ns, uint64_t end_ns)
{
	if (w->drained_ns == 0 && drained(w)) {
		w->drained_ns = now_ns;
		atomic_fetch_add(&w->run->drained, 1);
	}
	if (w->drained_ns != 0) {
		if (now_ns - w->drained_ns > SETTLE_MS * NS_PER_MS &&
		    atomic_load(&w->run->drained) == w->run->workers_n)
			reactor_stop(&w->reactor);
		return;
	}
	if (now_ns < end_ns + w->run->options->drain_ns)
		return;
	for (unsigned i = 0; i < w->subscribers_n; i++)
		subscriber_check_end(&w->subscribers[i]);
	for (unsigned i = 0; i < w->publishers_n; i++)
		if (w->publishers[i].client.socket.sending)
			client_fail(&w->publishers[i].client,
				    "the broker does not take its messages any more");
	/* Another worker knows more, if this one has all: it gets the time to say so. */
	if (now_ns > end_ns + w->run->options->drain_ns + NS_PER_S)
		run_fail(w->run, "messages are missing");
}

static bool flush(void *context)
{
	struct worker *w = context;
	struct run *run = w->run;
	bool more = sockets_flush(&w->sockets);
	uint64_t now_ns = clock_now_ns(), next_ns = UINT64_MAX, end_ns;

	if (w->running && run_failed(run))
		reactor_stop(&w->reactor);
	if (w->running && now_ns < run->start_ns) {
		next_ns = run->start_ns;
	} else if (w->running && !w->reactor.stop) {
		end_ns = atomic_load_explicit(&run->end_ns, memory_order_relaxed);
		if (!w->started)
			for (unsigned i = 0; i < w->publishers_n; i++)
				publisher_ready(&w->publishers[i]);
		w->started = true;
		next_ns = pace(w, now_ns, end_ns);
		tell(w);
		push(w, now_ns);
		if (w->churn_period_ns > 0 && now_ns < end_ns) {
			churn(w, now_ns);
			if (now_ns + NS_PER_MS < next_ns)
				next_ns = now_ns + NS_PER_MS;
		}
		show(w, now_ns);
		if (now_ns >= end_ns) {
			finish(w, now_ns, end_ns);
			if (now_ns + NS_PER_MS < next_ns)
				next_ns = now_ns + NS_PER_MS;
		} else if (end_ns < next_ns) {
			next_ns = end_ns;
		}
		if (run->options->spin || next_ns < now_ns + POLL_US * NS_PER_US)
			more = true;
	}
	set_alarm(w, next_ns, now_ns);
	return more;
}

/* ---- setting up -------------------------------------------------------------------------------
 */

static void letters(void *context, unsigned sender, enum mailbox_lane lane, void **letter,
		    unsigned n)
{
	(void)context;
	(void)sender;
	(void)lane;
	(void)letter;
	(void)n;
}

/* Turns until at most this many handshakes are under way. */
static bool settle(struct worker *w, unsigned most)
{
	uint64_t end_ns = clock_now_ns() + HANDSHAKE_SECONDS * NS_PER_S;

	while (w->handshakes > most && !run_failed(w->run)) {
		reactor_turn(&w->reactor, true);
		if (w->reactor.now_ns > end_ns)
			run_fail(w->run, "%u connections have got no answer within %d s",
				 w->handshakes, HANDSHAKE_SECONDS);
	}
	return !run_failed(w->run);
}

/* Of n things dealt out by turns, how many this worker gets, beginning with this worker's offset.
 */
static bool mine(const struct worker *w, uint32_t topic, uint32_t number)
{
	return (topic + number) % w->run->workers_n == w->id;
}

static void connect_idle(struct worker *w)
{
	const struct options *o = w->run->options;
	char name[RUN_TOPIC_MAX];
	struct span topic = run_delivered_topic(w->run, MESSAGE_TOPICS_MAX, name);

	for (uint32_t i = w->id; i < o->idle; i += w->run->workers_n) {
		struct client *c = &w->idle[w->idle_n++];

		c->kind = "idle subscriber";
		c->topic = MESSAGE_TOPICS_MAX;
		if (!subscriber_open_idle(w, c, topic, i, NULL) || !settle(w, HANDSHAKES_MAX))
			return;
	}
	settle(w, 0);
}

static void connect_subscribers(struct worker *w)
{
	const struct options *o = w->run->options;
	unsigned readers = run_readers(o), each = run_topics_each(o);

	for (uint32_t s = 0; s < o->subscribers; s++) {
		for (uint32_t t = 0; t < o->topics; t += each) {
			if (!mine(w, t / each, s))
				continue;
			if (!subscriber_open(w, &w->subscribers[w->subscribers_n++], t, s,
					     s >= readers) ||
			    !settle(w, HANDSHAKES_MAX))
				return;
		}
	}
	settle(w, 0);
}

static void connect_publishers(struct worker *w)
{
	struct run *run = w->run;

	for (uint32_t i = 0; i < run->flows_n; i++) {
		struct flow *f = &run->flows[i];
		struct publisher *p;

		if (f->owner != w->id)
			continue;
		p = &w->publishers[w->publishers_n++];
		w->senders[i] = p;
		if (!publisher_open(w, p, f) || !settle(w, HANDSHAKES_MAX))
			return;
	}
	settle(w, 0);
}

static int init_memory(struct worker *w)
{
	struct run *run = w->run;
	const struct options *o = run->options;
	size_t subscribers = 0, publishers = 0, n = run->flows_n > 0 ? run->flows_n : 1;

	for (uint32_t t = 0; t < o->topics; t += run_topics_each(o))
		for (uint32_t s = 0; s < o->subscribers; s++)
			subscribers += mine(w, t / run_topics_each(o), s);
	for (uint32_t i = 0; i < run->flows_n; i++)
		publishers += run->flows[i].owner == w->id;
	w->idle = calloc(o->idle / run->workers_n + 1, sizeof(*w->idle));
	w->subscribers = calloc(subscribers + 1, sizeof(*w->subscribers));
	w->publishers = calloc(publishers + 1, sizeof(*w->publishers));
	w->senders = calloc(n, sizeof(struct publisher *));
	w->advanced = calloc(n, sizeof(struct flow_view *));
	if (w->idle == NULL || w->subscribers == NULL || w->publishers == NULL ||
	    w->senders == NULL || w->advanced == NULL)
		return -ENOMEM;
	return 0;
}

static int init(struct worker *w)
{
	struct run *run = w->run;
	const struct reactor_params params = {
		.id = w->id,
		.completion_batch = 256,
		.lane_batch = 2,
		/* Receive buffers are large, so that much comes at a time, and few, so that they
		 * stay in cache. */
		.ring = { .sq_entries = 1024,
			  .batch = 64,
			  .recv_buffers = 128,
			  .recv_buffer_bytes = 128 * 1024 },
	};
	const struct reactor_owner owner = { .letters = letters, .flush = flush, .context = w };
	int err = reactor_init(&w->reactor, &params, run->workers_n > 1 ? run->mailbox : NULL,
			       run->ring_fds, &owner);

	if (err != 0) {
		char why[512];

		ring_explain(err, why, sizeof(why));
		atomic_store(&run->refused, true);
		run_fail(run, "%s", why);
		return err;
	}
	run->ring_fds[w->id] = ring_fd(w->reactor.ring);
	reactor_handle(&w->reactor, OP_ALARM, alarmed, w);
	list_init(&w->ready);
	w->churn_period_ns = run->options->churn_per_s > 0
				     ? (double)NS_PER_S * run->workers_n / run->options->churn_per_s
				     : 0;
	err = sockets_init(&w->sockets, &w->reactor, &client_events, SOCKET_NO_SLOT);
	if (err == 0)
		err = init_memory(w);
	if (err != 0)
		run_fail(run, "%s", strerror(-err));
	return 0;
}

static void close_client(struct worker *w, struct client *c)
{
	if (c->open)
		socket_close(&w->sockets, &c->socket);
}

/* Those that do not read do not see it when they are closed. */
static void count_stalled(struct worker *w)
{
	for (unsigned i = 0; i < w->subscribers_n; i++) {
		const struct subscriber *s = &w->subscribers[i];
		struct pollfd p = { .fd = s->client.socket.fd, .events = POLLRDHUP };

		if (!s->stalled || !s->client.open)
			continue;
		w->stalled++;
		if (poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)))
			w->stalled_closed++;
	}
}

static void close_all(struct worker *w)
{
	for (unsigned i = 0; i < w->publishers_n; i++)
		close_client(w, &w->publishers[i].client);
	for (unsigned i = 0; i < w->subscribers_n; i++)
		close_client(w, &w->subscribers[i].client);
	for (unsigned i = 0; i < w->idle_n; i++)
		close_client(w, &w->idle[i]);
	for (uint32_t i = 0; i < w->sockets.slots_n; i++)
		if (w->sockets.slots[i].socket != NULL)
			socket_close(&w->sockets, w->sockets.slots[i].socket);
	w->running = false;
	while (w->sockets.open > 0)
		reactor_turn(&w->reactor, true);
}

static void release_memory(struct worker *w)
{
	secure_release(&w->secure);
	for (unsigned i = 0; i < w->publishers_n; i++)
		wire_stash_release(&w->publishers[i].stash);
	for (unsigned i = 0; i < w->subscribers_n; i++)
		subscriber_release(&w->subscribers[i]);
	free(w->idle);
	free(w->subscribers);
	free(w->publishers);
	free(w->senders);
	free(w->advanced);
}

void *worker_main(void *argument)
{
	struct worker *w = argument;
	struct run *run = w->run;
	void (*const steps[])(struct worker *) = { connect_idle, connect_subscribers,
						   connect_publishers };
	int err = init(w);

	run_step(run);
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		run_step(run);
		if (!run_failed(run))
			steps[i](w);
		run_step(run);
	}
	run_step(run);
	if (!run_failed(run)) {
		w->running = true;
		reactor_run(&w->reactor);
		count_stalled(w);
	}
	if (err == 0) {
		w->reactor.stop = false;
		close_all(w);
		sockets_release(&w->sockets);
	}
	/* Another worker may still ring this one. */
	run_step(run);
	if (err == 0)
		reactor_release(&w->reactor);
	release_memory(w);
	return NULL;
}
