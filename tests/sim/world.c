#include <assert.h>
#include <limits.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin/figures.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "broker/broker.h"
#include "broker/budget.h"
#include "broker/connection.h"
#include "broker/home.h"
#include "session/line.h"
#include "broker/identity.h"
#include "broker/listener.h"
#include "broker/objects.h"
#include "broker/retained.h"
#include "broker/subscription.h"
#include "broker/shard.h"
#include "engine/mailbox.h"
#include "session/http_answer.h"
#include "session/intake.h"
#include "session/shared.h"
#include "session/registry.h"
#include "sim.h"
#include "broker/members.h"
#include "broker/patterns.h"
#include "broker/wild.h"
#include "topic/interest.h"
#include "topic/stream.h"
#include "topic/topic.h"

enum {
	EVENTS_MAX = 1 << 17, /* kept for the dump */
	REST_ROUNDS = 40000,  /* in which everything must come to rest when faults stop */
	PROBE_MESSAGES = 3,
	/* in which a new publish must arrive at a broker at rest, if its bytes come one by one */
	PROBE_ROUNDS = 100,
	POSTED_MAX = 1024,
	RELOADS_MAX = 3,
	POOLS_BYTES = 128 << 10, /* of a shard that has clients */
	CLIENT_BYTES = 4 << 10,
	EVICTION_PERCENT = 95, /* of the budget, where publishers wait */
	ROOM_BYTES = 64 << 10, /* received in place at a time (line_session.c) */
	RELIEF_SECONDS = 5,    /* for memory that nobody needs any more */
	/* for clients to close, twice, and some looks at the clock; less than drain_seconds */
	DRAIN_MS = 1500,
	HELLO_MS = 60000, /* of silence, and it is a client of NATS */
};

struct sim sim;
unsigned sim_events = 60;
void (*world_adjust)(struct config *config);

const char *const fault_names[FAULTS] = {
	[FAULT_SHORT] = "short",     [FAULT_SEND] = "send",         [FAULT_RECV] = "recv",
	[FAULT_BUFFERS] = "buffers", [FAULT_ENDSHOT] = "endshot",   [FAULT_ACCEPT] = "accept",
	[FAULT_CANCEL] = "cancel",   [FAULT_OVERFLOW] = "overflow", [FAULT_ENTER] = "enter",
	[FAULT_PREEMPT] = "preempt", [FAULT_RESET] = "reset",       [FAULT_STALL] = "stall",
	[FAULT_TIME] = "time",       [FAULT_MEMORY] = "memory",     [FAULT_GARBAGE] = "garbage",
	[FAULT_RELOAD] = "reload",   [FAULT_DRAIN] = "drain",       [FAULT_LIMITS] = "limits",
	[FAULT_BUDGET] = "budget",   [FAULT_TLS] = "tls",           [FAULT_UPSTREAM] = "upstream",
};

/* ---- what happened ---- */

static struct event {
	const char *format;
	uint64_t values[4], step, now_ns;
} events[EVENTS_MAX];
static uint64_t events_n;

void sim_trace(const char *format, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	uint64_t words[5] = { 0, a, b, c, d };

	memcpy(words, format, 8);
	for (unsigned i = 0; i < 5; i++) {
		sim.trace = (sim.trace ^ words[i]) * 0x9fb21c651e98df25u;
		sim.trace ^= sim.trace >> 32;
	}
	if (!sim.verbose)
		return;
	events[events_n++ % EVENTS_MAX] =
		(struct event){ format, { a, b, c, d }, sim.step, sim.now_ns };
}

void sim_trace_dump(void)
{
	uint64_t max = sim_events < EVENTS_MAX ? sim_events : EVENTS_MAX;
	uint64_t from = events_n > max ? events_n - max : 0;

	for (uint64_t i = from; i < events_n; i++) {
		const struct event *e = &events[i % EVENTS_MAX];

		fprintf(stderr, "%8" PRIu64 " %12.6f  ", e->step, (double)e->now_ns / 1e9);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		fprintf(stderr, e->format, e->values[0], e->values[1], e->values[2], e->values[3]);
#pragma GCC diagnostic pop
		fputc('\n', stderr);
	}
}

void sim_fail(const char *format, ...)
{
	va_list args;

	if (sim.verbose)
		sim_trace_dump();
	fprintf(stderr, "seed %" PRIu64 ", step %" PRIu64 ": ", sim.params.seed, sim.step);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	sim_give_up();
}

bool fault(enum fault kind)
{
	bool now = sim.calm == CALM_NONE && !sim.frozen && (sim.params.faults & 1u << kind) &&
		   random_one_in(&sim.random, sim.rate[kind]);

	sim.fired[kind] += now;
	return now;
}

/* ---- what a seed is made of ---- */

struct sim_params sim_params_for(uint64_t seed)
{
	struct random r = random_for(seed, 2, 0);
	struct sim_params p = { .seed = seed, .schedule = seed };

	p.shards = random_from(&r, 1, random_one_in(&r, 4) ? 8 : 3);
	if (random_one_in(&r, 100))
		p.shards = random_from(&r, 60, 70);
	p.clients = random_from(&r, 2, random_one_in(&r, 10) ? 300 : 40);
	p.steps = random_from(&r, 1000, 20000);
	if (!random_one_in(&r, 8))
		for (unsigned i = 0; i < FAULTS; i++)
			p.faults |= (uint32_t)random_one_in(&r, 4) << i;
	return p;
}

static void draw_rates(void)
{
	struct random r = random_for(sim.params.seed, 3, 0);

	for (unsigned i = 0; i < FAULTS; i++)
		sim.rate[i] = 1 + random_size(&r, 300);
	sim.rate[FAULT_MEMORY] += 20;
	sim.rate[FAULT_STALL] += 20;
	sim.rate[FAULT_RECV] += 10;
	sim.rate[FAULT_SEND] += 5;
	sim.rate[FAULT_ACCEPT] += 1;
	sim.rate[FAULT_ENTER] += 1;
	sim.rate[FAULT_PREEMPT] += 1;
	sim.rate[FAULT_UPSTREAM] += 200;
}

static unsigned power(struct random *r, unsigned low, unsigned high)
{
	return 1u << random_from(r, low, high);
}

static struct config_topic topic_config(const char *pattern, struct random *r)
{
	static const size_t backlogs[] = { 1 << 10, 4 << 10, 32 << 10, 256 << 10, 8 << 20 };
	struct config_topic t = { .history_messages = 1000000,
				  .history_bytes = 1 << 30,
				  .history_seconds = 1000000,
				  .backlog_bytes = backlogs[random_below(r, 5)],
				  .backlog_seconds = random_from(r, 1, 10),
				  .linger_seconds = random_below(r, 5) };

	if (pattern != NULL)
		t.pattern = strdup(pattern);
	return t;
}

/* The same engine each time: a reload cannot change it. */
static void configure_engine(struct config_engine *e)
{
	struct random r = random_for(sim.params.schedule, 4, 0);
	bool few = sim.params.faults & 1u << FAULT_BUFFERS;

	e->sq_entries = random_from(&r, 1, 64);
	e->batch = random_from(&r, 1, 16);
	e->lane_entries = power(&r, 1, 3);
	e->lane_batch = random_from(&r, 1, 8);
	e->turn_sends = random_from(&r, 1, 40);
	e->spin_us = random_one_in(&r, 8) ? 1 : 0;
	e->recv_buffers = few ? power(&r, 0, 2) : power(&r, 2, 6);
	/* One small buffer for very many clients, or for all that fills a budget, is slow beyond
	 * measure. */
	e->recv_buffer_bytes =
		(few && sim.params.clients > 60) || sim.params.faults & 1u << FAULT_BUDGET
			? 1000
			: random_from(&r, 32, random_one_in(&r, 3) ? 100 : 4096);
}

/* Room for everybody's connection, and little more: where those need all there is nobody can go
 * on. */
static size_t draw_budget(unsigned version)
{
	struct random r = random_for(sim.params.seed, 8, version);

	/* Less than a level is left at. */
	return sim.idle_bytes + sim.params.shards * POOLS_BYTES * 5 / 3 +
	       sim.params.clients * (size_t)CLIENT_BYTES +
	       random_from(&r, 64 << 10, power(&r, 17, 19));
}

/* The longer a pass is said to cost, the more is merged and the more waits. */
static void draw_paces(struct config *c, unsigned version)
{
	static const unsigned paces[] = { 0, 10, 100, 400, 10000 };
	struct random r = random_for(sim.params.seed, 9, version);

	c->topics.pace = paces[random_below(&r, 5)];
	for (size_t i = 0; i < c->topic_n; i++)
		c->topic[i].pace = paces[random_below(&r, 5)];
}

static struct config *make_config(unsigned version)
{
	struct random r = random_for(sim.params.seed, 5, version);
	struct config *c = config_defaults();
	bool limited = sim.params.faults & 1u << FAULT_LIMITS;

	if (c == NULL)
		abort();
	configure_engine(&c->engine);
	c->stats_seconds = 0;
	if (sim.params.many > 0)
		c->nats.hello_ms = HELLO_MS;
	c->drain_seconds = random_from(&r, 5, 10);
	/* Goodbyes are spread. */
	c->lame_duck_seconds = c->drain_seconds % 2;
	c->limits.message_bytes = SIM_MESSAGE_BYTES_MAX;
	if (limited) {
		c->limits.connections = random_from(&r, 1, sim.params.clients);
		c->limits.connections_per_ip = random_below(&r, 10);
		c->limits.idle_seconds = random_below(&r, 30);
		c->limits.topics = random_from(&r, 1, 4 * sim.params.shards);
		c->limits.subscriptions = random_from(&r, 1, sim.params.clients);
		c->limits.history_total_bytes = random_size(&r, 100000);
	}
	c->topics.linger_seconds = random_below(&r, 5);
	c->topic_n = 6;
	c->topic = calloc(c->topic_n, sizeof(*c->topic));
	if (c->topic == NULL)
		abort();
	c->topic[0] = topic_config("plenty.>", &r);
	c->topic[1] = topic_config("few.>", &r);
	c->topic[1].history_messages = random_from(&r, 1, 20);
	c->topic[2] = topic_config("skip.>", &r);
	c->topic[2].slow = SLOW_SKIP;
	c->topic[2].backlog_bytes = random_from(&r, 1 << 10, 16 << 10);
	c->topic[3] = topic_config("bye.>", &r);
	c->topic[3].on_last_publisher = LAST_PUBLISHER_BYE;
	c->topic[4] = topic_config("small.>", &r);
	c->topic[4].history_bytes = random_size(&r, 5000);
	c->topic[4].history_seconds = 1;
	c->topic[5] = topic_config("none.>", &r);
	c->topic[5].history_messages = 0;
	if (sim.params.faults & 1u << FAULT_BUDGET)
		c->limits.memory_bytes = draw_budget(version);
	draw_paces(c, version);
	if (sim.params.upstream != UPSTREAM_SIM_NONE)
		cluster_configure(c);
	if (world_adjust != NULL)
		world_adjust(c);
	return c;
}

/* ---- the main thread's part ---- */

static struct posted {
	struct letter *letter;
	unsigned to;
} posted[POSTED_MAX];
static unsigned posted_n;
static const struct config *newest;
static unsigned version;
static bool draining;
static unsigned held_back; /* letters that the main thread has not got to */

static void post(unsigned to, struct letter *letter)
{
	assert(posted_n < POSTED_MAX);
	posted[posted_n++] = (struct posted){ letter, to };
}

/* Letters that found no room wait, in order. */
static void push_posted(void)
{
	struct broker *b = &sim.broker;

	while (posted_n > held_back) {
		void *letters[1] = { posted[0].letter };
		unsigned to = posted[0].to;

		if (mailbox_push(b->mailbox, to, b->shards_n, LANE_FREE, letters, 1) == 0)
			return;
		if (mailbox_ring(b->mailbox, to, b->shards_n))
			kernel_wake(to);
		memmove(posted, posted + 1, --posted_n * sizeof(*posted));
	}
}

static void reload(void)
{
	struct reload *shared = calloc(1, sizeof(*shared));
	const struct config *before = newest;
	struct identities *identities;
	char problem[100];

	if (shared == NULL || draining || version >= RELOADS_MAX) {
		free(shared);
		return;
	}
	newest = make_config(++version);
	identities = identities_new(newest, problem, sizeof(problem));
	if (identities == NULL)
		abort();
	identities_let_go(sim.broker.identities);
	sim.broker.identities = identities;
	budget_set_limit(&sim.broker, newest->limits.memory_bytes);
	shared->before = (struct config *)(uintptr_t)before;
	atomic_init(&shared->left, sim.broker.shards_n);
	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		struct reload_letter *l = reload_letter_new(newest, NULL, identities, shared);

		if (l == NULL)
			abort();
		post(i, &l->letter);
	}
	sim.fired[FAULT_RELOAD]++;
	sim_trace("main    reloads: version %" PRIu64, version, 0, 0, 0);
}

static struct letter drain_letter = { LETTER_DRAIN };

static void drain(void)
{
	draining = true;
	sim.fired[FAULT_DRAIN]++;
	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		post(i, &drain_letter);
	sim_trace("main    drains the broker", 0, 0, 0, 0);
}

/* ---- beginning ---- */

static void report(struct shard *shard, bool last)
{
	(void)shard;
	(void)last;
}

static void run_shard(unsigned index)
{
	shard_run(&sim.broker.shards[index]);
}

static void start_broker(void)
{
	struct broker *b = &sim.broker;
	struct config *config = make_config(0);
	char problem[100];
	size_t no_listens = 0, listens = config->listens_n;

	newest = config;
	version = 0;
	posted_n = 0;
	draining = false;
	held_back = 0;
	*b = (struct broker){ .report = report };
	if (broker_init(b, sim.params.shards, config->engine.lane_entries) != 0)
		abort();
	sessions_register(b);
	b->placement.slots_n = b->shards_n;
	b->placement.slots = calloc(b->shards_n, sizeof(*b->placement.slots));
	if (b->placement.slots == NULL)
		abort();
	figures_init(b);
	budget_set_limit(b, config->limits.memory_bytes);
	b->objects = objects_load("", NULL, problem, sizeof(problem));
	b->identities = identities_new(config, problem, sizeof(problem));
	if (b->identities == NULL)
		abort();
	/* Everything but the sockets. */
	config->listens_n = no_listens;
	if (listeners_open(b, config, problem, sizeof(problem)) != 0)
		abort();
	config->listens_n = listens;
	free(b->listeners);
	b->listeners = calloc(1, sizeof(*b->listeners));
	if (b->listeners == NULL)
		abort();
	b->listeners_n = 1;
	b->listeners[0].protocols = CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_HTTP |
				    CONFIG_PROTOCOL_RESP | CONFIG_PROTOCOL_MQTT;
	if (many_speeches() > MANY_BEFORE_NATS)
		b->listeners[0].protocols |= CONFIG_PROTOCOL_NATS;
	b->listeners[0].secure = sim.params.faults & 1u << FAULT_TLS;
	b->listeners[0].fds = calloc(b->shards_n, sizeof(int));
	if (b->listeners[0].fds == NULL)
		abort();
	for (unsigned i = 0; i < b->shards_n; i++)
		b->listeners[0].fds[i] = kernel_listen(i);
	for (unsigned i = 0; i < b->shards_n; i++)
		if (shard_init(&b->shards[i], b, i, config) != 0)
			abort();
	/* In every other world there is time for next to nothing in a turn. */
	if (sim.calm == CALM_NONE && random_one_in(&sim.random, 2))
		for (unsigned i = 0; i < b->shards_n; i++)
			b->shards[i].reactor.params.turn_us = 1;
	sim.idle_bytes = memory_used();
	if (sim.params.faults & 1u << FAULT_BUDGET) {
		config->limits.memory_bytes += sim.idle_bytes;
		budget_set_limit(b, config->limits.memory_bytes);
	}
	for (unsigned i = 0; i < b->shards_n; i++)
		fiber_start(i, run_shard);
}

static void stop_broker(void)
{
	struct broker *b = &sim.broker;

	for (unsigned i = 0; i < posted_n; i++)
		letter_discard(sim.broker.letter_uses, posted[i].letter);
	/* No descriptors of this process. */
	for (unsigned i = 0; i < b->shards_n; i++)
		b->listeners[0].fds[i] = -1;
	broker_release(b);
	config_free((struct config *)(uintptr_t)newest);
}

/* ---- the schedule ---- */

static bool runnable(unsigned shard)
{
	return !fiber_ended(shard) && (!kernel_waiting(shard) || kernel_has_completions(shard));
}

static void pass_time(void)
{
	struct random *r = &sim.random;

	sim.now_ns += random_size(r, 2000) * (uint64_t)(1 + sim.params.seed % 100) * NS_PER_US / 10;
	if ((sim.params.faults & 1u << FAULT_TIME) && random_one_in(r, 100)) {
		sim.now_ns += random_size(r, 20000) * NS_PER_MS;
		sim.fired[FAULT_TIME]++;
	}
}

static void step(void)
{
	struct random *r = &sim.random;
	unsigned choice = random_below(r, 16), i;

	sim.step++;
	if (posted_n > 0)
		push_posted();
	if (choice < 6) {
		i = random_below(r, sim.broker.shards_n);
		if (runnable(i) || (!fiber_ended(i) && (sim.params.faults & 1u << FAULT_ENTER) &&
				    random_one_in(r, 50)))
			fiber_resume(i);
	} else if (choice < 10) {
		kernel_step();
	} else if (choice < 15) {
		struct client *c = &sim.clients[random_below(r, sim.clients_n)];

		if (c->begun || c->start <= sim.step)
			client_step(c);
	} else {
		pass_time();
	}
}

/* ---- rest ---- */

/* Who may say something that becomes a message. */
static unsigned publishers_n(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sim.clients_n; i++)
		n += sim.clients[i].role == ROLE_PUBLISHER || sim.clients[i].role >= ROLE_GARBAGE;
	return n;
}

/*
 * Beyond where nothing more is taken in there is only what was under way then: of each publisher
 * the rest of the message that it is in the middle of and one receive, which all of them may have
 * had in one turn; and what each shard is just making of such a receive, published and encoded, or
 * of all that has waited behind a command.
 * Those who only listen add nothing. While a broker drains all of it must go out.
 */
static void check_budget(void)
{
	uint64_t limit = budget_limit(&sim.broker), publishers = publishers_n(), most;
	uint64_t made = ROOM_BYTES + (sim.params.many > 0 ? INTAKE_WAITING_BYTES : 0);

	sim.budget_max = limit > sim.budget_max ? limit : sim.budget_max;
	most = sim.budget_max / 100 * EVICTION_PERCENT +
	       publishers * (ROOM_BYTES + newest->limits.message_bytes) +
	       (publishers < sim.params.shards ? publishers : sim.params.shards) * made;
	if (limit > 0 && !draining && memory_used() > most)
		sim_fail("%" PRIu64 " bytes of %" PRIu64 " are used, beyond %" PRIu64,
			 memory_used(), limit, most);
}

static bool turn_all(void)
{
	bool any = false;

	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		if (!runnable(i))
			continue;
		fiber_resume(i);
		any = true;
	}
	return any;
}

static bool step_clients(void)
{
	bool any = false;

	for (unsigned i = 0; i < sim.clients_n; i++)
		for (unsigned n = 0; n < 100 && !sim.clients[i].over && sim.clients[i].start == 0 &&
				     client_step(&sim.clients[i]);
		     n++)
			any = true;
	return any;
}

/* Time goes on to where the first reactor wakes by itself: a stream has rested long enough. */
static bool end_sleep(void)
{
	uint64_t next = kernel_next_wake();

	if (next == UINT64_MAX)
		return false;
	sim.now_ns = next > sim.now_ns ? next : sim.now_ns;
	return true;
}

/* Until nobody has anything to do; if they may sleep, time goes on as far as streams rest. */
static void go_on(unsigned rounds_max, bool sleep)
{
	unsigned rounds = 0;
	bool any = true;

	/* What is sealed comes through small buffers only, however large it is. */
	if (sim.params.faults & 1u << FAULT_TLS)
		rounds_max *= 4;
	while (any) {
		any = posted_n > held_back;
		sim.step++;
		push_posted();
		check_budget();
		any |= step_clients();
		any |= server_step();
		any |= kernel_sweep();
		any |= turn_all();
		any = any || (sleep && end_sleep());
		if (any && ++rounds > rounds_max)
			sim_fail("does not come to rest in %u turns of every reactor", rounds_max);
	}
}

static void rest(unsigned rounds_max)
{
	go_on(rounds_max, true);
}

struct publishers {
	struct span topic;
	unsigned n;
};

static void count_publisher(struct connection *c, void *argument)
{
	struct publishers *of = argument;

	of->n += c->protocol == &line_protocol && line_publisher(c) != NULL &&
		 span_equal(line_publisher(c)->name, of->topic);
}

/* A home counts those who publish to its topic, no more and no fewer. */
static void check_publishers(const struct shard *home)
{
	struct named *n;

	for (size_t at = 0; (n = table_next(&home->home.topics, &at)) != NULL;) {
		const struct topic *t = (struct topic *)(void *)n;
		struct publishers there = { .topic = n->name };

		for (unsigned i = 0; i < sim.broker.shards_n; i++)
			connections_each(&sim.broker.shards[i], count_publisher, &there);
		if (t->publishers != there.n)
			sim_fail("%.*s has %u publishers and is said to have %u", (int)n->name.len,
				 n->name.data, there.n, t->publishers);
	}
}

/* Nothing is taken in for want of memory: what is to be published waits where it is. */
static bool held_up(void)
{
	return !draining && budget_now(&sim.broker) == BUDGET_EVICTION;
}

/* Letters that nobody will fetch, and work that nobody will do. */
static void check_awake(void)
{
	for (enum mailbox_lane lane = 0; lane < LANES; lane++)
		if (oracle_letters(lane) != 0 && !(lane == LANE_GATED && held_up()))
			sim_fail("all reactors sleep and %ld letters lie in lanes: a lost wake-up",
				 oracle_letters(lane));
	for (unsigned i = 0; i < HOLD_BUCKETS; i++)
		if (sim.broker.held[i] != 0)
			sim_fail("all reactors sleep and topics are held");
	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		const struct shard *s = &sim.broker.shards[i];

		if (fiber_ended(i))
			continue;
		if (mail_letters(&s->mail, LANE_FREE) != 0 ||
		    (mail_letters(&s->mail, LANE_GATED) != 0 && !held_up()))
			sim_fail("shard %u sleeps with letters in its outboxes", i);
		if (s->reloads != NULL)
			sim_fail("shard %u sleeps with settings from before", i);
		if (!list_empty(&s->home.known.walks) || !list_empty(&s->audience.gone))
			sim_fail("shard %u sleeps with topics to look at", i);
		if (!list_empty(&s->audience.dirty) || !list_empty(&s->audience.replays))
			sim_fail("shard %u sleeps with dirty streams", i);
		if (!list_empty(&s->pace.resting))
			sim_fail("shard %u sleeps for longer than a stream rests", i);
		if (!list_empty(&s->sockets.dying) || !list_empty(&s->sockets.hungry))
			sim_fail("shard %u sleeps with hungry or dying sockets", i);
		if (!list_empty(&s->clients.resumed))
			sim_fail("shard %u sleeps with publishers to look at", i);
		if (!list_empty(&s->clients.paused) && !held_up())
			sim_fail("shard %u sleeps with publishers paused for no reason", i);
		if (!list_empty(&http_shared(s)->runnable))
			sim_fail("shard %u sleeps with requests to look at", i);
		if (!list_empty(&session_shared(s)->intakes.runnable))
			sim_fail("shard %u sleeps with commands to do", i);
		if (s->audience.pressed != 0 || !list_empty(&s->audience.appended))
			sim_fail("shard %u sleeps and takes less in than it could", i);
		if (!held_up())
			check_publishers(s);
	}
}

static bool reads(const struct connection *c)
{
	int client = kernel_client_of(c->socket.fd);

	return client < 0 || !sim.clients[client].stalled;
}

static void check_stream(const struct shard *s, const struct stream *stream)
{
	if (stream_wants_sends(stream))
		sim_fail("shard %u rests, and a stream has subscribers ready to be sent to", s->id);
	for (struct list *l = stream->busy.next; l != &stream->busy; l = l->next) {
		struct subscription *sub = LIST_ENTRY(l, struct subscription, cursor.link);

		if (!reads(sub->connection))
			continue;
		sim_fail("shard %u rests, and the subscriber of client %d is busy (in flight %d, "
			 "state %d)",
			 s->id, kernel_client_of(sub->connection->socket.fd),
			 subscription_is(sub, SUBSCRIPTION_IN_FLIGHT), sub->connection->state);
	}
}

/* Nobody waits for a message that is there. */
static void check_readers(void)
{
	const struct shard *any = &sim.broker.shards[0];

	for (unsigned i = 0; i < sim.clients_n && !draining; i++) {
		const struct client *c = &sim.clients[i];
		struct span name;
		uint64_t hash;
		const struct topic *t;

		if (c->role != ROLE_READER || c->start > 0 || c->over || c->wire.waiting ||
		    c->wire.reset || c->wire.client_fin || c->generated == c->answered)
			continue;
		name = oracle_topic_name(c->topic);
		hash = topic_hash(name);
		t = home_topic(&sim.broker.shards[shard_home(any, hash)], hash, name);
		if (t != NULL && c->wanted <= t->seq)
			sim_fail("client %u waits for message %" PRIu64 ", and there are %" PRIu64,
				 i, c->wanted, t->seq);
	}
}

static void check_connection(struct connection *c, void *argument)
{
	int client = kernel_client_of(c->socket.fd);

	(void)argument;
	/* A request may wait for a message that is still to come. */
	if (c->awaiting && !held_up() && client >= 0 && sim.clients[client].role < ROLE_READER)
		sim_fail("client %d still waits for a home", client);
	if (c->socket.sending && reads(c))
		sim_fail("client %d reads and a send to it does not end", client);
	if (!c->socket.recv_armed && !c->socket.ended && !held_up())
		sim_fail("client %d is not listened to (state %d)", client, c->state);
}

static void check_wilds(const struct shard *s, const struct table *wilds)
{
	struct named *n;

	for (size_t at = 0; (n = table_next(wilds, &at)) != NULL;) {
		const struct wild *w = (struct wild *)(void *)n;

		for (struct stream *st = w->interest->streams; st != NULL; st = st->next) {
			check_stream(s, st);
			if (st->pins > 0)
				sim_fail("shard %u rests with a pin", s->id);
		}
		for (struct list *l = w->members.next; l != &w->members; l = l->next)
			check_stream(s, &LIST_ENTRY(l, struct member, link)->stream);
		if (w->interest->unanswered > 0)
			sim_fail("shard %u still waits for homes", s->id);
		if (w->holding > 0 || w->held != NULL)
			sim_fail("shard %u rests and holds publishers", s->id);
	}
}

static void check_rest(void)
{
	check_awake();
	check_readers();
	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		struct shard *s = &sim.broker.shards[i];
		struct named *n;

		if (fiber_ended(i))
			continue;
		for (size_t at = 0; (n = table_next(&s->audience.interests, &at)) != NULL;) {
			const struct interest *interest = (struct interest *)(void *)n;

			for (struct stream *st = interest->streams; st != NULL; st = st->next)
				check_stream(s, st);
			if (interest->unanswered > 0)
				sim_fail("shard %u still waits for an answer", i);
		}
		check_wilds(s, &s->audience.wilds.patterns.keys);
		check_wilds(s, &s->audience.wilds.groups);
		connections_each(s, check_connection, NULL);
	}
}

static void check_counters(void)
{
	uint64_t published = 0, matched = 0, delivered = 0, dropped = 0, received = 0;
	uint64_t evictions = 0, refused = 0;

	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		const struct shard_counters *c = &sim.broker.shards[i].counters;

		published += c->published;
		matched += c->matched;
		delivered += c->delivered;
		evictions += c->memory_crossings[BUDGET_EVICTION];
		refused += c->refused;
		for (unsigned reason = 0; reason < DROP_REASONS; reason++)
			dropped += c->dropped[reason];
	}
	sim.fired[FAULT_BUDGET] = evictions;
	sim.fired[FAULT_LIMITS] = sim.params.faults & 1u << FAULT_LIMITS ? refused : 0;
	for (unsigned i = 0; i < sim.clients_n; i++)
		received += sim.clients[i].received;
	/* When drain_seconds are over, what is in flight goes uncounted. */
	if ((delivered < received && !draining) || delivered > sim.lines)
		sim_fail("%" PRIu64 " messages received, %" PRIu64 " counted as delivered, %" PRIu64
			 " lines sent",
			 received, delivered, sim.lines);
	if (published != sim.sequenced)
		sim_fail("%" PRIu64 " messages sequenced, %" PRIu64 " counted", sim.sequenced,
			 published);
	if (matched != delivered + dropped)
		sim_fail("matched %" PRIu64 " is not delivered %" PRIu64 " + dropped %" PRIu64,
			 matched, delivered, dropped);
}

static void check_received(const char *when)
{
	for (unsigned i = 0; i < sim.clients_n; i++) {
		struct client *c = &sim.clients[i];
		const struct order *o = &orders[c->topic];

		if (c->role == ROLE_MANY && !c->over && !c->error && !c->wire.reset &&
		    !c->wire.broker_fin && !c->wire.waiting)
			many_check(c, when);
		if (c->role == ROLE_PUBLISHER && c->talk != NULL && c->bye && !c->error &&
		    c->sequenced != c->messages && !many_may_fail())
			sim_fail("%s: client %u was closed in order, and %u of %u messages are "
				 "published",
				 when, c->id, c->sequenced, c->messages);
		if (c->role != ROLE_SUBSCRIBER || client_wild(c) || !c->ok || c->over || c->error ||
		    c->bye || c->wire.reset || c->wire.broker_fin ||
		    (sim.params.faults & (1u << FAULT_MEMORY | 1u << FAULT_RELOAD)))
			continue;
		if (strncmp(oracle_topic_name(c->topic).data, "skip", 4) == 0)
			continue;
		while (c->next < o->n && !client_wants(c, &o->entries[c->next]))
			c->next++;
		if (c->next != o->n)
			sim_fail("%s: client %u has got %zu of %zu", when, c->id, c->next, o->n);
	}
	wild_check(when);
}

/* ---- the end ---- */

static struct client *new_client(enum role role, unsigned topic, enum speech speech)
{
	struct client *c = &sim.clients[sim.clients_n];

	client_init(c, sim.clients_n++);
	c->role = role;
	c->topic = topic;
	c->probe = true;
	c->ending = END_STAY;
	c->start = 0;
	c->messages = PROBE_MESSAGES;
	c->replay_kind = 0;
	c->speech = speech;
	c->talk = NULL;
	c->patient = c->slow = false;
	c->pattern = NULL;
	c->group = 0;
	client_calm(c);
	return c;
}

/* A broker at rest takes new clients, and what they publish arrives. */
static void probe(void)
{
	bool budget = sim.params.faults & 1u << FAULT_BUDGET;
	bool limited = sim.params.faults & 1u << FAULT_LIMITS;
	unsigned rounds = PROBE_ROUNDS + 2 * PROBE_MESSAGES * SIM_MESSAGE_BYTES_MAX /
						 (unsigned)newest->engine.recv_buffer_bytes;

	for (unsigned topic = 0; topic < sim.topics_n; topic++) {
		struct client *subscriber = new_client(ROLE_SUBSCRIBER, topic, SPEAKS_LINE),
			      *publisher;
		uint64_t encodable = orders[topic].encodable_n;

		/* What came before may have made memory scarce for a moment, and accepts wait. */
		if (budget)
			world_pass(NS_PER_S);
		rest(rounds);
		check_rest();
		if (!subscriber->ok && !limited)
			sim_fail("a new subscriber gets no OK");
		publisher = new_client(ROLE_PUBLISHER, topic, SPEAKS_LINE);
		if (budget)
			world_pass(NS_PER_S);
		rest(rounds);
		check_rest();
		if (limited)
			continue;
		if (!publisher->over || publisher->sequenced != PROBE_MESSAGES)
			sim_fail("a new publisher gets no receipt");
		/* A backlog of a few bytes may be too small for three messages. */
		if (!subscriber->error && strncmp(oracle_topic_name(topic).data, "skip", 4) != 0 &&
		    subscriber->received != orders[topic].encodable_n - encodable)
			sim_fail("topic %u: a new subscriber gets %" PRIu64 " of %" PRIu64
				 " messages",
				 topic, subscriber->received,
				 orders[topic].encodable_n - encodable);
	}
}

void world_pass(uint64_t ns)
{
	uint64_t until = sim.now_ns + ns;

	for (;;) {
		uint64_t next = kernel_next_timer();

		if (next > until)
			break;
		sim.now_ns = next > sim.now_ns ? next : sim.now_ns;
		rest(REST_ROUNDS);
		check_rest();
	}
	sim.now_ns = until;
	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		if (kernel_timers(i) > 1)
			sim_fail("shard %u has %u timers", i, kernel_timers(i));
}

static size_t slabs_of(const struct pool *pool)
{
	size_t n = 0;

	for (void *slab = pool->slabs; slab != NULL; slab = *(void **)slab)
		n++;
	return n;
}

static void check_no_topic(const struct shard *s)
{
	struct named *n;

	for (size_t at = 0; (n = table_next(&s->home.topics, &at)) != NULL;) {
		const struct topic *t = (struct topic *)(void *)n;

		sim_fail("shard %u still has the topic %.*s, with %u publishers and %u shards",
			 s->id, (int)n->name.len, n->name.data, t->publishers, t->shards_n);
	}
}

/* Topics live as long as their history, which is longer than the world does. */
static void forget_past(struct shard *s)
{
	struct named *n;

	for (size_t at = 0; (n = table_next(&s->home.topics, &at)) != NULL;) {
		struct topic *t = (struct topic *)(void *)n;

		/* Idle, and kept for what it has had. */
		if (t->retained == NULL && (t->idle_ns == 0 || t->history.blocks_n == 0))
			continue;
		if (t->publishers > 0 || t->shards_n > 0)
			continue;
		table_remove(&s->home.topics, n);
		retained_release(s, t);
		topic_free(t, &s->home.history);
		at = 0;
	}
	(void)history_let_go(&s->home.history, UINT_MAX);
	(void)segments_let_go(UINT_MAX);
}

/* One that has not grown to its size has those from before, too. */
static long slots_of(const struct table *t)
{
	return (t->slots != NULL) + (t->before != NULL);
}

/* Empty tables. */
static long kept_by_patterns(const struct shard *s)
{
	const struct patterns *of[] = { &s->home.known.table, &s->audience.wilds.patterns };
	long kept = 0;

	for (unsigned i = 0; i < 2; i++)
		kept += slots_of(&of[i]->keys) + slots_of(&of[i]->nodes) +
			slots_of(&of[i]->prefixes);
	return kept + slots_of(&s->audience.wilds.groups) + (s->audience.wilds.found != NULL) +
	       (s->home.known.passing.groups != NULL);
}

/* Nothing is left but what is kept for the next client. */
static void check_empty(long before)
{
	long kept = 0, now;

	if (kernel_open_fds() != 0)
		sim_fail("%u fds are left open", kernel_open_fds());
	if (sim.broker.connections != 0 || sim.broker.subscriptions != 0)
		sim_fail("%u connections and %" PRIu64 " subscriptions are still counted",
			 sim.broker.connections, (uint64_t)sim.broker.subscriptions);
	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		struct shard *s = &sim.broker.shards[i];

		if (s->clients.connections_n != 0 || s->audience.subscriptions_n != 0 ||
		    s->clients.refused_n != 0 || s->sockets.open != 0)
			sim_fail("shard %u still has clients", i);
		if (s->audience.interests.entries_n != 0)
			sim_fail("shard %u still has interests", i);
		if (s->home.topics.entries_n != 0)
			check_no_topic(s);
		if (s->home.history.bytes != 0)
			sim_fail("shard %u still has history", i);
		if (kernel_timers(i) != 0)
			sim_fail("shard %u still ticks", i);
		kept += (long)(slabs_of(&s->clients.connection_pool) +
			       slabs_of(&s->audience.subscription_pool) +
			       slabs_of(&session_shared(s)->nats_subscriptions));
		if (s->audience.wilds.groups.entries_n != 0 ||
		    !patterns_empty(&s->audience.wilds.patterns) ||
		    s->audience.wilds.matched.entries_n != 0)
			sim_fail("shard %u still has patterns", i);
		if (!patterns_empty(&s->home.known.table))
			sim_fail("shard %u still knows patterns", i);
		kept += kept_by_patterns(s);
		kept += session_shared(s)->intakes.spare_n;
		kept += session_shared(s)->websockets.spare != NULL;
		kept += (s->home.topics.slots != NULL) + slots_of(&s->audience.interests) +
			slots_of(&session_shared(s)->mqtt.identities);
		for (enum mailbox_lane lane = 0; lane < LANES; lane++)
			for (unsigned to = 0; to < sim.broker.shards_n; to++)
				kept += s->mail.lanes[lane].to[to].own != NULL;
	}
	/* The table of addresses is the listeners' own. */
	now = alloc_outstanding();
	if (now != before + kept && now != before + kept + 1)
		sim_fail("%ld allocations are left over", now - before - kept);
}

/* As long as there is something to take in, it may be scarce again and again; but it goes on, and
 * is over when there is enough for all that is left to take in. */
static void wait_for_memory(void)
{
	uint64_t sequenced;
	unsigned idle_s = 0;

	do {
		sequenced = sim.sequenced;
		world_pass(NS_PER_S);
		idle_s = sim.sequenced == sequenced ? idle_s + 1 : 0;
		if (idle_s > RELIEF_SECONDS)
			sim_fail("everybody reads, and %" PRIu64 " of %" PRIu64
				 " bytes stay in use",
				 memory_used(), budget_limit(&sim.broker));
	} while (idle_s == 0 || budget_now(&sim.broker) > BUDGET_HISTORY);
}

static void end_calmly(long before)
{
	sim.calm = CALM_PUBLISHERS;
	for (unsigned i = 0; i < sim.clients_n; i++) {
		client_calm(&sim.clients[i]);
		sim.clients[i].start = 0;
	}
	rest(REST_ROUNDS);
	check_rest();
	/* Those that could not be accepted, and what made memory scarce. */
	world_pass(NS_PER_S);
	wait_for_memory();
	/* They are accepted again a while later. */
	world_pass(NS_PER_S);
	check_received("when faults stop");
	probe();
	check_received("at the end");
	check_counters();
	sim.calm = CALM_ALL;
	rest(REST_ROUNDS);
	world_pass(40 * NS_PER_S);
	for (unsigned i = 0; i < sim.clients_n; i++)
		if (!sim.clients[i].over)
			sim_fail("client %u is never let go (role %d, ending %d, said all %d, fin "
				 "%d, "
				 "%zu bytes unread)",
				 i, sim.clients[i].role, sim.clients[i].ending,
				 sim.clients[i].said_all, sim.clients[i].wire.client_fin,
				 sim.clients[i].wire.in.len);
	check_counters();
	/* And it may have been what made memory scarce. */
	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		forget_past(&sim.broker.shards[i]);
	world_pass(2 * NS_PER_S);
	check_empty(before);
	if (budget_now(&sim.broker) != BUDGET_EASY)
		sim_fail("nobody is there, and memory is still said to be scarce");
	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		reactor_stop(&sim.broker.shards[i].reactor);
	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		while (!fiber_ended(i))
			fiber_resume(i);
}

static bool all_ended(void)
{
	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		if (!fiber_ended(i))
			return false;
	return true;
}

static bool any_cut_off(void)
{
	bool any = false;

	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		any |= sim.broker.shards[i].drain.cut_off;
	return any;
}

static void fail_to_end(struct connection *c, void *argument)
{
	(void)argument;
	sim_fail("everybody reads, and shard %u waits for client %d (state %d, awaiting %d, in "
		 "flight %d)",
		 c->shard->id, kernel_client_of(c->socket.fd), c->state, c->awaiting,
		 c->socket.in_flight);
}

static void fail_to_drain(void)
{
	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		struct shard *s = &sim.broker.shards[i];

		if (fiber_ended(i))
			continue;
		connections_each(s, fail_to_end, NULL);
		sim_fail("everybody has gone, and shard %u waits for the others' word", i);
	}
}

/* How long goodbyes that are spread may take: half of drain_seconds. */
static uint64_t goodbyes_ns(void)
{
	uint64_t most = 0;

	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		const struct config *c = sim.broker.shards[i].config;
		uint64_t ns = c->lame_duck_seconds > 0 ? c->drain_seconds * NS_PER_S / 2 : 0;

		most = ns > most ? ns : most;
	}
	return most;
}

/* Everybody is told, everything published arrives, and the reactors end by themselves. */
static void end_by_draining(void)
{
	uint64_t until;

	sim.calm = CALM_PUBLISHERS;
	for (unsigned i = 0; i < sim.clients_n; i++) {
		client_calm(&sim.clients[i]);
		if (sim.clients[i].start > sim.step)
			sim.clients[i].over = true;
		sim.clients[i].start = 0;
	}
	/* Whoever has been cut off has said nothing more: the others wait for that in vain. */
	until = sim.now_ns + (any_cut_off() ? 30 * NS_PER_S : DRAIN_MS * NS_PER_MS + goodbyes_ns());
	rest(REST_ROUNDS);
	while (!all_ended()) {
		uint64_t next = kernel_next_timer();

		if (next > until)
			fail_to_drain();
		sim.now_ns = next > sim.now_ns ? next : sim.now_ns;
		rest(REST_ROUNDS);
	}
	/* What was cut off is not counted yet. */
	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		if (sim.broker.shards[i].clients.connections_n > 0)
			return;
	check_counters();
}

/* Clients stand still and nothing fails until all reactors sleep. */
static void freeze(void)
{
	unsigned rounds = 0;
	bool any = true;

	if (draining)
		return;
	sim.frozen = true;
	while (any) {
		any = posted_n > held_back;
		push_posted();
		any |= kernel_sweep();
		any |= turn_all();
		any = any || end_sleep();
		if (any && ++rounds > REST_ROUNDS)
			sim_fail("does not come to rest in %u turns of every reactor", rounds);
	}
	check_awake();
	sim.frozen = false;
}

/* No more than there may be, however many shards take some at once. */
static void check_limits(void)
{
	const struct config_limits *l = &newest->limits;

	if (sim.params.faults & 1u << FAULT_RELOAD)
		return;
	if (sim.broker.connections > l->connections || sim.broker.subscriptions > l->subscriptions)
		sim_fail("%u connections and %" PRIu64 " subscriptions, where %" PRIu64
			 " and %" PRIu64 " are allowed",
			 sim.broker.connections, (uint64_t)sim.broker.subscriptions,
			 (uint64_t)l->connections, (uint64_t)l->subscriptions);
}

/* What is true at any time. */
static void check_always(void)
{
	check_budget();
	check_limits();
	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		struct shard *s = &sim.broker.shards[i];

		for (struct list *l = s->clients.paused.next; l != &s->clients.paused;
		     l = l->next) {
			const struct connection *c = LIST_ENTRY(l, struct connection, waiting);

			if (!c->socket.paused)
				sim_fail("client %d should wait and is listened to",
					 kernel_client_of(c->socket.fd));
		}
	}
}

static void play(void)
{
	struct random r = random_for(sim.params.seed, 6, 0);
	unsigned drain_at = sim.params.faults & 1u << FAULT_DRAIN ? sim.params.steps * 3 / 4 : 0;

	while (sim.step < sim.params.steps) {
		step();
		if (sim.step % 16 == 0)
			check_always();
		if (random_one_in(&r, sim.params.steps / 2 + 1))
			freeze();
		if (drain_at > 0 && sim.step == drain_at)
			drain();
		if ((sim.params.faults & 1u << FAULT_RELOAD) &&
		    random_one_in(&r, sim.params.steps / 3 + 1))
			reload();
	}
}

/* Allocations, before the broker was there and when it had just been started. */
static long before, started;

void world_begin(const struct sim_params *params, bool verbose)
{
	sim = (struct sim){ .params = *params, .verbose = verbose, .now_ns = 1000 * NS_PER_S };
	if (params->upstream != UPSTREAM_SIM_NONE)
		cluster_restrict(&sim.params);
	params = &sim.params;
	sim.random = random_for(params->schedule, 7, 0);
	sim.topics_n = SIM_TOPICS_MAX;
	events_n = 0;
	log_configure(LOG_ERROR, LOG_TEXT);
	hash_seed_with(params->seed, ~params->seed);
	draw_rates();
	sim.clients_n = params->clients;
	sim.clients = sim_alloc((params->clients + SIM_SCRIPTED_MAX) * sizeof(*sim.clients));
	for (unsigned i = 0; i < params->clients; i++)
		client_init(&sim.clients[i], i);
	kernel_init();
	server_init();
	oracle_init();
	before = alloc_outstanding();
	start_broker();
	started = alloc_outstanding();
}

static void end(void)
{
	if (draining)
		end_by_draining();
	else
		end_calmly(started);
	stop_broker();
	if (memory_used() != 0)
		sim_fail("%" PRIu64 " bytes are counted that nobody has", memory_used());
	if (alloc_outstanding() != before)
		alloc_tell();
	if (alloc_outstanding() != before)
		sim_fail("%ld allocations are leaked", alloc_outstanding() - before);
	kernel_release();
	server_release();
	oracle_release();
	wild_release();
	for (unsigned i = 0; i < sim.clients_n; i++)
		client_release(&sim.clients[i]);
	sim_free(sim.clients);
}

uint64_t sim_run(const struct sim_params *params, bool verbose)
{
	world_begin(params, verbose);
	if (sim.params.upstream != UPSTREAM_SIM_NONE) {
		cluster_play();
		world_end();
		return sim.trace;
	}
	play();
	end();
	return sim.trace;
}

void world_step(void)
{
	step();
}

void world_rest(void)
{
	rest(REST_ROUNDS);
	check_rest();
}

void world_halt(void)
{
	go_on(REST_ROUNDS, false);
}

struct client *world_client(void)
{
	struct client *c;

	/* Their topics are whatever they say: the oracle knows none of them. */
	sim.topics_n = 0;
	if (sim.clients_n == sim.params.clients + SIM_SCRIPTED_MAX)
		return NULL;
	c = &sim.clients[sim.clients_n];
	memset(c, 0, sizeof(*c));
	c->id = sim.clients_n++;
	c->role = ROLE_RAW;
	c->random = random_for(sim.params.schedule, 1, c->id);
	return c;
}

void world_begin_reload(void)
{
	reload();
}

void world_reload(void)
{
	reload();
	held_back = posted_n;
	while (held_back-- > 0) {
		rest(REST_ROUNDS);
		check_rest();
	}
	held_back = 0;
}

void world_lame(void)
{
	static struct letter letter = { LETTER_LAME };

	atomic_store(&sim.broker.lame, true);
	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		post(i, &letter);
	world_rest();
}

void world_begin_drain(void)
{
	drain();
}

void world_drain(void)
{
	drain();
	rest(REST_ROUNDS);
}

void world_end(void)
{
	if (!draining)
		drain();
	end();
}
