#include "load/run.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/keyring.h"
#include "engine/mailbox.h"
#include "load/report.h"
#include "load/wire.h"
#include "load/worker.h"

enum {
	EXIT_RIGHT = 0,
	EXIT_WRONG = 1,
	EXIT_IO_URING = 3,

	START_MS = 200,  /* from the last step to the first message: more than a heartbeat */
	SETTLE_MS = 300, /* for the broker to be done with new connections */
	LOOK_MS = 50,    /* how often the main thread looks whether the run has failed */
};

/* A second interrupt ends the process as usual. */
static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
	interrupted = 1;
	signal(number, SIG_DFL);
}

void run_fail(struct run *run, const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&run->lock);
	if (!atomic_load(&run->failed)) {
		va_start(args, format);
		vsnprintf(run->error, sizeof(run->error), format, args);
		va_end(args);
		/* What is shown stays on one line, whatever a broker said. */
		for (char *c = run->error; *c != 0; c++)
			if ((unsigned char)*c < ' ' || *c == 0x7f)
				*c = ' ';
		atomic_store(&run->failed, true);
	}
	pthread_mutex_unlock(&run->lock);
}

void run_step(struct run *run)
{
	(void)pthread_barrier_wait(&run->step);
}

static struct span name_topic(const struct run *run, const char *prefix, uint32_t topic,
			      char buf[RUN_TOPIC_MAX])
{
	const struct options *o = run->options;
	char dot = o->wire->separator != 0 ? o->wire->separator : '.';
	/* Where a connection has many, all are equally long, and so is what stands before a message
	 * (subscriber.c). */
	int digits = run_topics_each(o) > 1 ? 7 : 1;
	int n = topic == MESSAGE_TOPICS_MAX
			? snprintf(buf, RUN_TOPIC_MAX, "%sidle%c%08x", prefix, dot, run->id)
			: snprintf(buf, RUN_TOPIC_MAX, "%sload%c%08x%c%0*u", prefix, dot, run->id,
				   dot, digits, topic);

	return (struct span){ buf, (size_t)n };
}

struct span run_topic(const struct run *run, uint32_t topic, char buf[RUN_TOPIC_MAX])
{
	return name_topic(run, "", topic, buf);
}

struct span run_delivered_topic(const struct run *run, uint32_t topic, char buf[RUN_TOPIC_MAX])
{
	return name_topic(run, run->options->deliver_prefix, topic, buf);
}

struct span run_pattern(const struct run *run, char buf[RUN_TOPIC_MAX])
{
	const struct options *o = run->options;
	char dot = o->wire->separator != 0 ? o->wire->separator : '.';

	if (!o->pattern)
		return (struct span){ buf, 0 };
	return (struct span){ buf, (size_t)snprintf(buf, RUN_TOPIC_MAX, "%sload%c%08x%c%s",
						    o->deliver_prefix, dot, run->id, dot,
						    o->wire->any_level) };
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static int init_flows(struct run *run)
{
	const struct options *o = run->options;
	unsigned readers = run_readers(o);
	char name[RUN_TOPIC_MAX], delivered[RUN_TOPIC_MAX], pattern[RUN_TOPIC_MAX];

	run->flows = calloc((size_t)o->topics * o->publishers + 1, sizeof(*run->flows));
	if (run->flows == NULL)
		return -ENOMEM;
	for (uint32_t t = 0; t < o->topics; t++) {
		for (uint32_t p = 0; p < o->publishers; p++) {
			const struct flow_params params = {
				.run = run->id,
				.topic = t,
				.publisher = p,
				.filler = &run->filler,
				.wire = o->wire,
				.topic_name = run_topic(run, t, name),
				.delivered_name = run_delivered_topic(run, t, delivered),
				.asked = { .many = run_topics_each(o) > 1,
					   .number = t % run_topics_each(o),
					   .pattern = run_pattern(run, pattern) },
				.window = o->window,
				.period_ns = o->window > 0 ? 0 : (double)NS_PER_S / o->rate_per_s,
				.threads = readers < run->workers_n ? readers : run->workers_n,
				.owner = (t + p) % run->workers_n,
			};
			int err = flow_init(&run->flows[run->flows_n++], &params);

			if (err != 0)
				return err;
		}
	}
	return 0;
}

/* Readers of a topic are dealt out by turns, beginning with the worker that its number, or that of
 * the topics that share connections, says. */
static unsigned readers_of(const struct run *run, uint32_t topic, unsigned worker)
{
	unsigned readers = run_readers(run->options), n = run->workers_n;
	unsigned turn = (worker + n - topic / run_topics_each(run->options) % n) % n;

	return readers / n + (turn < readers % n);
}

static int init_workers(struct run *run)
{
	run->workers = calloc(run->workers_n, sizeof(*run->workers));
	run->ring_fds = calloc(run->workers_n, sizeof(*run->ring_fds));
	run->mailbox = mailbox_new(run->workers_n, run->workers_n, 2);
	if (run->workers == NULL || run->ring_fds == NULL || run->mailbox == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < run->workers_n; i++) {
		struct worker *w = &run->workers[i];

		w->run = run;
		w->id = i;
		pthread_mutex_init(&w->live.lock, NULL);
		w->views = calloc(run->flows_n + 1, sizeof(*w->views));
		if (w->views == NULL)
			return -ENOMEM;
		for (uint32_t f = 0; f < run->flows_n; f++) {
			int err = flow_view_init(&w->views[f], &run->flows[f],
						 readers_of(run, run->flows[f].topic, i));

			if (err != 0)
				return err;
		}
	}
	return 0;
}

static int init(struct run *run, const struct options *o)
{
	int err;

	*run = (struct run){ .options = o, .workers_n = o->threads };
	pthread_mutex_init(&run->lock, NULL);
	pthread_barrier_init(&run->step, NULL, run->workers_n + 1);
	atomic_init(&run->end_ns, UINT64_MAX);
	if (getrandom(&run->id, sizeof(run->id), 0) != sizeof(run->id))
		run->id = (uint32_t)clock_wall_ns();
	err = filler_init(&run->filler, o->message_bytes);
	if (err == 0)
		err = init_flows(run);
	if (err == 0)
		err = init_workers(run);
	return err;
}

static void release(struct run *run)
{
	for (unsigned i = 0; run->workers != NULL && i < run->workers_n; i++) {
		for (uint32_t f = 0; run->workers[i].views != NULL && f < run->flows_n; f++)
			flow_view_release(&run->workers[i].views[f]);
		free(run->workers[i].views);
		pthread_mutex_destroy(&run->workers[i].live.lock);
	}
	for (uint32_t f = 0; f < run->flows_n; f++)
		flow_release(&run->flows[f]);
	mailbox_free(run->mailbox);
	free(run->ring_fds);
	free(run->workers);
	free(run->flows);
	filler_release(&run->filler);
	pthread_barrier_destroy(&run->step);
	pthread_mutex_destroy(&run->lock);
}

/* ---- time -------------------------------------------------------------------------------------
 */

static void sleep_until(uint64_t at_ns)
{
	const struct timespec ts = { .tv_sec = (time_t)(at_ns / NS_PER_S),
				     .tv_nsec = (long)(at_ns % NS_PER_S) };

	(void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

/* Publishers are spread evenly over their period, as those who know nothing of each other are. */
static void set_times(struct run *run)
{
	run->start_ns = clock_now_ns() + START_MS * NS_PER_MS;
	run->measure_ns = run->start_ns + run->options->warmup_ns;
	atomic_store(&run->end_ns, run->measure_ns + run->options->duration_ns);
	for (uint32_t i = 0; i < run->flows_n; i++) {
		double part = run->options->together ? 0 : (double)i / run->flows_n;

		run->flows[i].first_ns = run->start_ns + (uint64_t)(run->flows[i].period_ns * part);
	}
}

struct totals {
	uint64_t delivered, published, churned;
};

static struct totals add_up(struct run *run)
{
	struct totals t = { 0 };

	for (unsigned i = 0; i < run->workers_n; i++) {
		t.delivered += atomic_load(&run->workers[i].live.delivered);
		t.published += atomic_load(&run->workers[i].live.published);
		t.churned += atomic_load(&run->workers[i].live.churned);
	}
	return t;
}

/* ---- while it runs ----------------------------------------------------------------------------
 */

/* What the line a second is made from. */
struct live {
	FILE *jsonl;
	bool terminal;
	uint64_t at_ns;
	struct totals before;
	struct histogram now, then, since;
};

static void live_look(struct live *l, struct run *run, uint64_t now_ns)
{
	struct totals t;
	struct second s;
	double elapsed_s = (double)(now_ns - l->at_ns) / 1e9;
	uint64_t end_ns = atomic_load(&run->end_ns);

	if (now_ns < l->at_ns + NS_PER_S || (!l->terminal && l->jsonl == NULL))
		return;
	t = add_up(run);
	memset(&l->now, 0, sizeof(l->now));
	for (unsigned i = 0; i < run->workers_n; i++) {
		struct worker *w = &run->workers[i];

		pthread_mutex_lock(&w->live.lock);
		histogram_merge(&l->now, &w->live.latency);
		pthread_mutex_unlock(&w->live.lock);
	}
	histogram_since(&l->since, &l->now, &l->then);
	s = (struct second){
		.at_s = now_ns > run->start_ns ? (double)(now_ns - run->start_ns) / 1e9 : 0,
		.left_s = end_ns > now_ns ? (double)(end_ns - now_ns) / 1e9 : 0,
		.delivered_per_s = (double)(t.delivered - l->before.delivered) / elapsed_s,
		.published_per_s = (double)(t.published - l->before.published) / elapsed_s,
		.p50_ns = histogram_quantile(&l->since, 0.5),
		.p99_ns = histogram_quantile(&l->since, 0.99),
	};
	s.in_flight = t.published * run_readers(run->options);
	s.in_flight = s.in_flight > t.delivered ? s.in_flight - t.delivered : 0;
	if (l->terminal)
		report_live(stderr, run, &s);
	if (l->jsonl != NULL)
		report_jsonl(l->jsonl, &s);
	l->then = l->now;
	l->before = t;
	l->at_ns = now_ns;
}

/* False: the run has failed, or was interrupted. */
static bool wait_until(struct live *l, struct run *run, uint64_t at_ns)
{
	for (;;) {
		uint64_t now_ns = clock_now_ns(), next_ns = now_ns + LOOK_MS * NS_PER_MS;

		if (run_failed(run) || interrupted)
			return false;
		if (now_ns >= at_ns)
			return true;
		live_look(l, run, now_ns);
		sleep_until(next_ns < at_ns ? next_ns : at_ns);
	}
}

static void sample(struct run *run, struct result *r, unsigned when)
{
	const struct options *o = run->options;
	pid_t own = getpid();

	process_sample(&r->load[when], &own, 1);
	process_sample(&r->broker[when], o->pids, o->pids_n);
	machine_sample(&r->machine[when]);
	if (run->options->stats.len > 0)
		counters_read(&r->counters[when], &run->options->stats);
}

static void measure(struct run *run, struct result *r, struct live *l)
{
	struct totals before, after;
	uint64_t from_ns;
	bool ahead;

	ahead = wait_until(l, run, run->measure_ns);
	for (unsigned i = 0; i < run->options->pids_n; i++)
		process_forget_peak(run->options->pids[i]);
	sample(run, r, 0);
	before = add_up(run);
	from_ns = clock_now_ns();
	if (ahead)
		(void)wait_until(l, run, atomic_load(&run->end_ns));
	if (interrupted)
		atomic_store(&run->end_ns, clock_now_ns());
	after = add_up(run);
	r->elapsed_ns = clock_now_ns() - from_ns;
	sample(run, r, 1);
	r->delivered = after.delivered - before.delivered;
	r->published = after.published - before.published;
	r->churned = after.churned - before.churned;
	if (l->terminal)
		fputs("\r\033[K", stderr);
}

/* ---- the main thread's way through the steps --------------------------------------------------
 */

static void conduct(struct run *run, struct result *r, struct live *l)
{
	const struct options *o = run->options;

	run_step(run); /* reactors are made */
	if (o->idle > 0)
		process_sample(&r->idle[0], o->pids, o->pids_n);
	run_step(run);
	run_step(run); /* idle subscribers are there */
	if (o->idle > 0 && o->pids_n > 0 && !run_failed(run)) {
		sleep_until(clock_now_ns() + SETTLE_MS * NS_PER_MS);
		process_sample(&r->idle[1], o->pids, o->pids_n);
	}
	run_step(run);
	run_step(run); /* subscribers */
	run_step(run);
	run_step(run); /* publishers */
	set_times(run);
	run_step(run);
	if (!run_failed(run))
		measure(run, r, l);
	/* The workers have ended, but for their rings. */
	run_step(run);
}

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static void start(struct run *run, struct result *r, struct live *l)
{
	unsigned started = 0;

	for (; started < run->workers_n; started++) {
		struct worker *w = &run->workers[started];
		int err = pthread_create(&w->thread, NULL, worker_main, w);

		if (err != 0) {
			/* Those that run wait at a barrier for one that never comes. */
			fprintf(stderr, "broker-load: a thread cannot be started: %s\n",
				strerror(err));
			_exit(EXIT_WRONG);
		}
	}
	conduct(run, r, l);
	for (unsigned i = 0; i < started; i++) {
		struct worker *w = &run->workers[i];

		pthread_join(w->thread, NULL);
		histogram_merge(&r->latency, &w->latency);
		histogram_merge(&r->slowest, &w->slowest);
		r->delivered_in_all += w->delivered;
		r->full += w->sockets.tls.counts.full;
		r->resumed += w->sockets.tls.counts.resumed;
		histogram_merge(&r->handshakes, &w->sockets.tls.counts.handshake);
		if (w->secure.version != NULL) {
			r->tls_version = w->secure.version;
			r->tls_suite = w->secure.cipher_suite;
		}
		r->stalled += w->stalled;
		r->stalled_closed += w->stalled_closed;
	}
}

int run_main(const struct options *o)
{
	struct run run;
	struct keyring *keyring;
	struct live *live = calloc(1, sizeof(*live));
	struct result *result = calloc(1, sizeof(*result));
	int code;

	raise_file_limit();
	keyring = secure_load(o);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, interrupt);
	signal(SIGTERM, interrupt);
	if (live == NULL || result == NULL || init(&run, o) != 0) {
		fputs("broker-load: out of memory: lower --topics, --publishers, --window or "
		      "--bytes\n",
		      stderr);
		exit(EXIT_WRONG);
	}
	run.keyring = keyring;
	live->terminal = isatty(STDERR_FILENO) && !o->quiet;
	if (o->jsonl_path != NULL)
		live->jsonl = strcmp(o->jsonl_path, "-") == 0 ? stdout : fopen(o->jsonl_path, "we");
	if (o->jsonl_path != NULL && live->jsonl == NULL) {
		fprintf(stderr, "broker-load: %s: %s\n", o->jsonl_path, strerror(errno));
		exit(2);
	}
	start(&run, result, live);
	if (o->pids_n > 0 && !result->broker[1].valid && run.error[0] == 0)
		run_fail(&run, "--pid: no such process at the end of the run");
	if (o->stats.len > 0 && !(result->counters[0].valid && result->counters[1].valid) &&
	    run.error[0] == 0)
		run_fail(&run, "--stats: no /metrics are to be had there; has the listener http "
			       "among its protocols?");
	if (o->json)
		report_json(stdout, &run, result);
	else if (result->elapsed_ns > 0)
		report_table(stdout, &run, result);
	if (run.error[0] != 0)
		fprintf(stderr, "broker-load: %s\n", run.error);
	code = run.error[0] == 0           ? EXIT_RIGHT
	       : atomic_load(&run.refused) ? EXIT_IO_URING
					   : EXIT_WRONG;
	if (live->jsonl != NULL && live->jsonl != stdout)
		fclose(live->jsonl);
	release(&run);
	keyring_unref(keyring);
	free(live);
	free(result);
	return code;
}
