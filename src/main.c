#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "admin/exposure.h"
#include "admin/figures.h"
#include "admin/host.h"
#include "admin/machine.h"
#include "admin/page.h"
#include "admin/sandbox.h"
#include "admin/service.h"
#include "admin/stats.h"
#include "admin/upstream_check.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/digest.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/password.h"
#include "broker/broker.h"
#include "broker/budget.h"
#include "broker/keyrings.h"
#include "broker/identity.h"
#include "broker/listener.h"
#include "broker/login.h"
#include "broker/objects.h"
#include "broker/shard.h"
#include "protocol/jwt.h"
#include "session/registry.h"
#include "engine/keyring.h"
#include "engine/mailbox.h"
#include "engine/placement.h"
#include "engine/ring.h"
#include "engine/worker.h"
#include "topic/topic.h"

enum { EXIT_CLEAN = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_IO_URING = 3 };

enum {
	SPARE_FDS = 64,           /* beside those of connections: rings, listeners, log */
	FILES_AT_START = 1 << 20, /* at most, that the table of files has places for: 8 MiB */
};
enum { WAKE_TRIES = 100 }; /* a millisecond apart */
/* What ends a wrapper often reaches its whole group as well: signals this close are one. */
enum { ONE_SIGNAL_MS = 100 };

static const char usage[] =
	"Usage: broker -c FILE            run in the foreground, log to standard error\n"
	"       broker -c FILE --check    check the configuration, show what would run, exit 0 or "
	"2\n"
	"       broker --topology         show the cores of this machine and which ones reactors "
	"would get\n"
	"       broker --hash-password    read a password from standard input, print its hash\n"
	"       broker --make-token       print a new token and its hash\n"
	"       broker --version | --help\n"
	"\n"
	"  -c, --config FILE   configuration; config/broker.conf shows every key with its default\n"
	"\n"
	"Signals: TERM, INT or QUIT delivers what has been published and ends, a second one ends "
	"at once;\n"
	"         HUP reads the configuration again and keeps the old one if the new one is bad.\n"
	"Exit codes: 0 clean stop, 1 failed while running, 2 bad arguments or configuration,\n"
	"            3 the kernel or its limits refuse io_uring.\n"
	"\n"
	"Try it: nc 127.0.0.1 8080 and type SUBSCRIBE demo; in a second one PUBLISH demo, then "
	"messages.\n";

struct options {
	const char *config_path;
	bool check, topology;
};

static const enum placement_mode placement_modes[] = { [PLACEMENT_CORES] = PLACE_CORES,
						       [PLACEMENT_THREADS] = PLACE_THREADS,
						       [PLACEMENT_NONE] = PLACE_NONE };

/* ---- starting ---- */

/* Reactors start together: each makes its ring on its own thread, then waits for all the others. */
struct start {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned made, failed;
	int error;
	bool go, stop;
};

struct thread {
	pthread_t id;
	struct broker *broker;
	const struct config *config;
	struct start *start;
	unsigned shard;
};

static void *run_shard(void *argument)
{
	struct thread *t = argument;
	struct broker *b = t->broker;
	struct start *start = t->start;
	struct shard *s = &b->shards[t->shard];
	int err = placement_bind(&b->placement.slots[t->shard]);
	char name[16];
	bool go;

	if (err != 0)
		log_warn("reactor %u: cannot be pinned to cpu %d: %s", t->shard,
			 b->placement.slots[t->shard].cpu, strerror(-err));
	snprintf(name, sizeof(name), "reactor %u", t->shard % 100000);
	pthread_setname_np(pthread_self(), name);
	err = shard_init(s, b, t->shard, t->config);
	pthread_mutex_lock(&start->lock);
	start->made++;
	if (err != 0) {
		start->failed++;
		start->error = err;
	}
	pthread_cond_broadcast(&start->changed);
	while (!start->go && !start->stop)
		pthread_cond_wait(&start->changed, &start->lock);
	go = start->go;
	pthread_mutex_unlock(&start->lock);
	if (go)
		shard_run(s);
	/* The main thread may be waiting for the last one. */
	if (atomic_fetch_sub(&b->running, 1) == 1)
		kill(getpid(), SIGUSR2);
	return NULL;
}

/* How many files connections need, or as many of them as there may be: then that is said. */
static rlim_t check_files(const struct config *config)
{
	rlim_t wanted = (rlim_t)config->limits.connections + SPARE_FDS;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
		return wanted;
	log_warn("limits.connections is %u but RLIMIT_NOFILE allows %llu files: raise it "
		 "(ulimit -n, LimitNOFILE=)",
		 config->limits.connections, (unsigned long long)limit.rlim_cur);
	return limit.rlim_cur;
}

/*
 * As many files as connections need, and the process's table of them as large as it will get. The
 * kernel doubles that table when it is full, and while there are threads each that opens a file
 * waits for a grace period of RCU then (fs/file.c, expand_fdtable): tens of ms in which a reactor
 * serves nobody. Called before the first thread starts.
 */
static void prepare_files(const struct config *config)
{
	struct rlimit limit;
	rlim_t wanted;
	int last;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	if (limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
	wanted = check_files(config);
	last = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC,
		     (int)(wanted < FILES_AT_START ? wanted : FILES_AT_START) - 1);
	if (last >= 0)
		close(last);
}

/* ---- what people read ---- */

static void append(char *buf, size_t size, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void append(char *buf, size_t size, const char *format, ...)
{
	size_t used = strlen(buf);
	va_list args;

	va_start(args, format);
	vsnprintf(buf + used, size - used, format, args);
	va_end(args);
}

static const char *protocol_names(unsigned protocols)
{
	static char names[64];

	names[0] = '\0';
	for (unsigned i = 0; i < CONFIG_PROTOCOLS; i++)
		if (protocols & 1U << i)
			append(names, sizeof(names), "%s%s", *names != '\0' ? " " : "",
			       config_protocol_names[i]);
	return names;
}

static void log_ready(const struct broker *b)
{
	char where[1024] = "", cpus[1024] = "", try[256] = "";
	const char *line_address = NULL;

	for (unsigned i = 0; i < b->shards_n; i++)
		if (b->placement.slots[i].cpu >= 0)
			append(cpus, sizeof(cpus), " %d", b->placement.slots[i].cpu);
	for (size_t i = 0; i < b->listeners_n; i++) {
		const struct listener *l = &b->listeners[i];

		append(where, sizeof(where), "%s%s (%s)", i > 0 ? ", " : "", l->address,
		       protocol_names(l->protocols));
		if (line_address == NULL && (l->protocols & CONFIG_PROTOCOL_LINE))
			line_address = l->address;
		if (strncmp(l->address, "127.", 4) != 0 && strncmp(l->address, "[::1]", 5) != 0 &&
		    l->unix_path == NULL && !l->secure)
			log_warn(
				"%s takes clients from other hosts in clear: whoever is on the way "
				"reads and changes what they say, credentials too",
				l->address);
	}
	log_info("memory: at most %" PRIu64 " bytes", budget_limit(b));
	log_info("ring: %s", ring_describe(b->shards[0].reactor.ring));
	if (line_address != NULL) {
		char nc[256] = "";
		const char *colon = strrchr(line_address, ':');

		if (strncmp(line_address, "unix:", 5) == 0)
			append(nc, sizeof(nc), "nc -U %s", line_address + 5);
		else if (strncmp(line_address, "0.0.0.0:", 8) == 0 ||
			 strncmp(line_address, "[::]:", 5) == 0)
			append(nc, sizeof(nc), "nc 127.0.0.1 %s", colon + 1);
		else if (line_address[0] == '[')
			append(nc, sizeof(nc), "nc %.*s %s", (int)(colon - line_address - 2),
			       line_address + 1, colon + 1);
		else
			append(nc, sizeof(nc), "nc %.*s %s", (int)(colon - line_address),
			       line_address, colon + 1);
		log_info("ready: %u reactor%s on %s%s; listening on %s; try: %s  then type "
			 "SUBSCRIBE demo, and in a second "
			 "%s  type PUBLISH demo, then messages, BYE ends",
			 b->shards_n, b->shards_n == 1 ? "" : "s",
			 cpus[0] != 0 ? "cpus" : "any cpu", cpus, where, nc, nc);
		return;
	}
	for (unsigned i = 0; i < b->listeners_n && try[0] == 0; i++)
		if (b->listeners[i].protocols & CONFIG_PROTOCOL_HTTP)
			append(try, sizeof(try), "; try: curl http://%s/", b->listeners[i].address);
	for (unsigned i = 0; i < b->listeners_n && try[0] == 0; i++)
		if (b->listeners[i].protocols & CONFIG_PROTOCOL_NATS)
			append(try, sizeof(try), "; try: nats -s %s sub demo",
			       b->listeners[i].address);
	if (try[0] == 0)
		append(try, sizeof(try), "; try: redis-cli -u redis://%s ping",
		       b->listeners_n > 0 ? b->listeners[0].address : "");
	log_info("ready: %u reactor%s on %s%s; listening on %s%s", b->shards_n,
		 b->shards_n == 1 ? "" : "s", cpus[0] != 0 ? "cpus" : "any cpu", cpus, where, try);
}

static void print_memory(const struct config *config, unsigned reactors)
{
	const struct machine_memory memory = machine_memory("");
	uint64_t budget = machine_budget(config, &memory);
	uint64_t buffers =
		(uint64_t)reactors * config->engine.recv_buffers * config->engine.recv_buffer_bytes;
	/* The main thread sends too. */
	uint64_t lanes = (uint64_t)LANES * reactors * (reactors + 1) * config->engine.lane_entries *
			 sizeof(void *);

	if (budget > 0 && buffers + lanes > budget / 2)
		printf("warning: the receive buffers of %u reactors may take %llu bytes and the "
		       "lanes between them %llu, more than half of the memory budget: lower "
		       "reactors, engine.recv_buffers or engine.lane_entries\n",
		       reactors, (unsigned long long)buffers, (unsigned long long)lanes);
	if (budget == 0)
		puts("memory: no limit (auto: it cannot be read how much there is)");
	else if (config->limits.memory_bytes > 0)
		printf("memory: %llu bytes\n", (unsigned long long)budget);
	else
		printf("memory: %llu bytes (auto: %d %% of the %s's %llu)\n",
		       (unsigned long long)budget, MACHINE_SHARE_PERCENT,
		       memory.cgroup ? "control group" : "machine",
		       (unsigned long long)memory.bytes);
	if (memory.bytes > 0 && budget > memory.bytes)
		printf("warning: limits.memory_bytes is more than the %s has (%llu)\n",
		       memory.cgroup ? "control group" : "machine",
		       (unsigned long long)memory.bytes);
}

/* Who may what can be made of it, and is no invitation to everybody. */
static bool access_fits(const struct config *config, char *problem, size_t size)
{
	struct identities *identities;

	hash_seed();
	identities = identities_new(config, problem, size);
	identities_let_go(identities);
	return identities != NULL && !exposure_refused(config, problem, size);
}

static int print_check(const struct options *o, const struct config *config)
{
	const struct machine_memory memory = machine_memory("");
	struct placement placement;
	char problem[512];
	struct objects *objects =
		objects_load(config->http.objects_dir, NULL, problem, sizeof(problem));
	bool fits;
	int err;

	if (objects == NULL || !access_fits(config, problem, sizeof(problem))) {
		fprintf(stderr, "%s: %s\n", o->config_path, problem);
		objects_unref(objects);
		return EXIT_USAGE;
	}
	if (keyrings_check(config, stderr) != 0) {
		objects_unref(objects);
		return EXIT_USAGE;
	}
	err = placement_init(&placement, placement_modes[config->placement], config->reactors);
	fits = err == 0 &&
	       machine_base_fits(config, placement.slots_n, objects_bytes(objects),
				 machine_budget(config, &memory), problem, sizeof(problem));
	objects_unref(objects);
	if (err != 0) {
		fprintf(stderr, "broker: the machine's cores cannot be read: %s\n", strerror(-err));
		return EXIT_FAILED;
	}
	if (!fits) {
		fprintf(stderr, "%s: %s\n", o->config_path, problem);
		placement_release(&placement);
		return EXIT_USAGE;
	}
	printf("%s: valid\n", o->config_path);
	printf("reactors: %u on %u cores, %u threads%s\n", placement.slots_n, placement.cores,
	       placement.threads,
	       placement.oversubscribed
		       ? " (more reactors than threads: correct, but slower than one per core)"
		       : "");
	for (unsigned i = 0; i < placement.slots_n; i++) {
		const struct placement_slot *slot = &placement.slots[i];

		if (slot->cpu < 0)
			printf("  reactor %u: not pinned\n", i);
		else
			printf("  reactor %u: cpu %d (core %d, node %d)\n", i, slot->cpu,
			       slot->core, slot->numa);
	}
	if (placement.quota > 0)
		printf("cpu quota: %.2f cores\n", placement.quota);
	for (size_t i = 0; i < config->listens_n; i++)
		printf("listen \"%s\": %s (%s)\n", config->listens[i].title,
		       config->listens[i].address, protocol_names(config->listens[i].protocols));
	printf("limits: %u connections, %zu bytes a message, %llu topics, %llu subscriptions, %zu "
	       "bytes of history\n",
	       config->limits.connections, config->limits.message_bytes,
	       (unsigned long long)config->limits.topics,
	       (unsigned long long)config->limits.subscriptions,
	       config->limits.history_total_bytes);
	print_memory(config, placement.slots_n);
	for (size_t i = 0; i <= config->topic_n; i++) {
		const struct config_topic *t =
			i < config->topic_n ? &config->topic[i] : &config->topics;

		printf("topics %s: history %llu messages, %zu bytes, %llu s; backlog %zu bytes, "
		       "%llu s, then %s\n",
		       t->pattern != NULL ? t->pattern : "(all others)",
		       (unsigned long long)t->history_messages, t->history_bytes,
		       (unsigned long long)t->history_seconds, t->backlog_bytes,
		       (unsigned long long)t->backlog_seconds,
		       t->slow == SLOW_SKIP ? "skip" : "disconnect");
	}
	exposure_print(stdout, config);
	host_print(stdout, config, &placement);
	placement_release(&placement);
	json_init();
	if (!upstream_check(config, stdout, problem, sizeof(problem))) {
		fprintf(stderr, "%s: upstream: %s\n", o->config_path, problem);
		return EXIT_USAGE;
	}
	return EXIT_CLEAN;
}

/* ---- running ---- */

static void ignore(void *context, const struct completion *completion)
{
	(void)context;
	(void)completion;
}

/* The main thread's post: it has no reactor, only a small ring to wake the parked with. */
static void post(struct broker *b, struct ring *ring, unsigned to, struct letter *letter)
{
	void *letters[1] = { letter };

	while (mailbox_push(b->mailbox, to, b->shards_n, LANE_FREE, letters, 1) == 0)
		usleep(1000);
	if (mailbox_ring(b->mailbox, to, b->shards_n)) {
		ring_wake(ring, b->ring_fds[to], user_data(OP_WAKE, 0, 0));
		ring_submit(ring);
		/* Only a wake-up that failed says anything, and is tried again. */
		for (int i = 0; i < WAKE_TRIES && ring_reap(ring, 1, ignore, NULL) > 0; i++)
			ring_enter(ring, false, 0);
	}
}

/* To every shard; the letter is static. */
static void post_all(struct broker *b, struct ring *ring, struct letter *letter)
{
	for (unsigned i = 0; i < b->shards_n; i++)
		post(b, ring, i, letter);
}

struct office {
	struct broker *broker;
	struct ring *ring;
};

static void ask_heartbeat(void *context, unsigned shard, uint64_t round)
{
	struct office *office = context;
	/* Nobody is asked again before the last letter has been read (admin/service). */
	struct heartbeat_letter *l = &office->broker->shards[shard].watched.letter;

	*l = (struct heartbeat_letter){ { LETTER_HEARTBEAT }, round };
	post(office->broker, office->ring, shard, &l->letter);
}

/* A letter for each shard, and what they share; NULL: out of memory. */
static struct reload_letter **reload_letters(const struct broker *b, struct config *before,
					     const struct config *after, struct objects *objects,
					     struct identities *identities,
					     struct keyring **keyrings)
{
	struct reload_letter **letters = calloc(b->shards_n, sizeof(*letters));
	struct reload *shared = calloc(1, sizeof(*shared));
	unsigned n = 0;

	while (letters != NULL && shared != NULL && n < b->shards_n &&
	       (letters[n] = reload_letter_new(after, objects, identities, shared)) != NULL)
		n++;
	if (n == b->shards_n) {
		shared->before = before;
		shared->keyrings = keyrings;
		shared->keyrings_n = b->listeners_n;
		atomic_init(&shared->left, n);
		return letters;
	}
	while (n > 0)
		reload_letter_free(letters[--n]);
	free(letters);
	free(shared);
	return NULL;
}

/* From here on "auto" is a number. */
static void set_budget(struct config *config)
{
	const struct machine_memory memory = machine_memory("");

	config->limits.memory_bytes = machine_budget(config, &memory);
}

/* What is wrong with a configuration, or with what its listeners are to show, goes to the log,
 * which nobody waits for. */
static int load_again(const struct broker *b, const char *path, struct config **config,
		      struct keyring ***keyrings)
{
	char *text = NULL, *rest;
	size_t size = 0;
	FILE *errors = open_memstream(&text, &size);
	int err = errors != NULL ? config_load(path, config, errors) : -ENOMEM;

	if (err == 0)
		err = keyrings_load(b, *config, keyrings, errors);

	if (errors != NULL)
		fclose(errors);
	rest = text;
	for (const char *line; (line = strsep(&rest, "\n")) != NULL && *line != 0;)
		log_error("%s", line);
	free(text);
	return err;
}

/* Reads the configuration again; returns the one in force from now on. */
static struct config *reload(struct broker *b, struct ring *ring, const char *path,
			     struct config *before)
{
	struct reload_letter **letters = NULL;
	struct config *after = NULL;
	struct objects *objects = NULL;
	struct keyring **keyrings = NULL;
	struct identities *identities = NULL;
	char keys[512], problem[512] = "out of memory";
	struct config_upstream *upstreams;
	size_t upstreams_n;
	int err = load_again(b, path, &after, &keyrings);

	if (err == 0 && !exposure_refused(after, problem, sizeof(problem)))
		identities = identities_new(after, problem, sizeof(problem));
	if (identities != NULL)
		objects =
			objects_load(after->http.objects_dir, b->objects, problem, sizeof(problem));
	if (objects != NULL) {
		config_restart_keys(before, after, keys, sizeof(keys));
		set_budget(after);
		/* What takes a restart stays as it is. */
		after->engine = before->engine;
		if (machine_base_fits(after, b->shards_n, objects_bytes(objects),
				      after->limits.memory_bytes, problem, sizeof(problem)))
			letters = reload_letters(b, before, after, objects, identities, keyrings);
	}
	if (letters == NULL) {
		objects_unref(objects);
		identities_let_go(identities);
		if (err == 0)
			log_error("reload: %s", problem);
		log_error("reload: %s is %s and the old configuration stays in force", path,
			  err != 0 && err != -ENOMEM ? "bad" : "not taken");
		keyrings_free(keyrings, b->listeners_n);
		config_free(after);
		return before;
	}
	if (keys[0] != 0)
		log_warn("reload: %s changed, which takes a restart", keys);
	if (after->limits.connections > before->limits.connections)
		(void)check_files(after);
	/* This takes a restart, and shards refer to it. */
	upstreams = after->upstreams;
	after->upstreams = before->upstreams;
	before->upstreams = upstreams;
	upstreams_n = after->upstreams_n;
	after->upstreams_n = before->upstreams_n;
	before->upstreams_n = upstreams_n;
	/* The old ones go when the last shard has read its letter. */
	objects_unref(b->objects);
	b->objects = objects;
	keyrings_take(b, keyrings);
	keyrings_warn(b);
	identities_let_go(b->identities);
	b->identities = identities;
	/* Before the first letter: the limit is the broker's. */
	budget_set_limit(b, after->limits.memory_bytes);
	log_configure((enum log_level)after->log_level, (enum log_format)after->log_format);
	for (unsigned i = 0; i < b->shards_n; i++)
		post(b, ring, i, &letters[i]->letter);
	free(letters);
	log_info("reload: %s is in force", path);
	return after;
}

static bool ends(int sig)
{
	return sig == SIGTERM || sig == SIGINT || sig == SIGQUIT;
}

static void end_at_once(const struct broker *b)
{
	log_warn("ended at once by a second signal: %u clients are cut off, and what they have "
		 "not been sent is lost",
		 atomic_load(&b->connections));
	listeners_unlink(b);
	log_stop();
	_exit(EXIT_FAILED);
}

/* How the end goes: asked, lame for a while, draining. */
struct ending {
	uint64_t asked_ns; /* 0: not yet */
	uint64_t drain_ns; /* when it begins; UINT64_MAX: not, or it has begun */
};

/* Balancers look every few seconds: until they have, everybody is served. */
static void begin_end(struct ending *e, struct broker *b, struct ring *ring,
		      const struct config *config)
{
	static struct letter lame = { LETTER_LAME };

	e->asked_ns = clock_now_ns();
	e->drain_ns = e->asked_ns + config->lame_duck_seconds * NS_PER_S;
	atomic_store(&b->lame, true);
	service_stopping();
	if (config->lame_duck_seconds == 0)
		return;
	log_info("lame duck: not ready any more, clients are served for %u s; a second "
		 "signal ends at once",
		 config->lame_duck_seconds);
	post_all(b, ring, &lame);
}

static void begin_drain(struct ending *e, struct broker *b, struct ring *ring,
			const struct config *config)
{
	static struct letter letter = { LETTER_DRAIN };

	e->drain_ns = UINT64_MAX;
	log_info("draining: delivering what has been published, at most %u s; a second signal "
		 "ends at once",
		 config->drain_seconds);
	post_all(b, ring, &letter);
}

/* Waits for signals until the last reactor has ended. */
static struct config *serve(struct broker *b, struct ring *ring, const char *path,
			    struct config *config, const sigset_t *signals)
{
	struct office office = { b, ring };
	struct ending ending = { .drain_ns = UINT64_MAX };
	struct watchdog watchdog;

	watchdog_init(&watchdog, clock_now_ns());
	while (atomic_load(&b->running) > 0) {
		int sig = service_wait(signals, ending.drain_ns, &watchdog, b, ask_heartbeat,
				       &office);
		uint64_t now_ns = clock_now_ns();

		if (sig == SIGHUP && ending.asked_ns == 0) {
			service_reloading();
			config = reload(b, ring, path, config);
			service_ready();
		} else if (ends(sig) && ending.asked_ns == 0) {
			begin_end(&ending, b, ring, config);
		} else if (ends(sig) && now_ns - ending.asked_ns > ONE_SIGNAL_MS * NS_PER_MS) {
			end_at_once(b);
		}
		if (clock_now_ns() >= ending.drain_ns)
			begin_drain(&ending, b, ring, config);
	}
	return config;
}

static void enter_sandbox(const struct broker *b, bool wanted, int files_err)
{
	bool rings = ring_restricted(b->shards[0].reactor.ring);
	int err;

	if (b->tap != NULL)
		sandbox_dials();
	err = wanted ? sandbox_enter() : 0;

	if (!wanted)
		log_info("sandbox: off");
	else
		log_write(rings && err == 0 ? LOG_INFO : LOG_WARN,
			  "sandbox: rings %s, system calls %s%s, files %s%s",
			  rings ? "restricted" : "NOT restricted",
			  err == 0 ? "filtered" : "NOT filtered: ", err == 0 ? "" : strerror(-err),
			  files_err == 0 ? "only read" : "NOT restricted: ",
			  files_err == 0 ? "" : strerror(-files_err));
}

static int explain_ring(int err)
{
	char why[512];

	ring_explain(err, why, sizeof(why));
	log_error("%s", why);
	return EXIT_IO_URING;
}

/* Nobody has been served yet, so nothing is lost. */
static void end_start(int sig)
{
	(void)sig;
	_exit(EXIT_CLEAN);
}

/* From the very start on nothing ends the broker by surprise, and while it starts, what may take
 * its time (a file, a name) can be interrupted. */
static void prepare_signals(void)
{
	static const int ignored[] = { SIGPIPE, SIGUSR1, SIGALRM, SIGVTALRM,
				       SIGPROF, SIGXFSZ, SIGIO,   SIGPWR };
	static const int ending[] = { SIGTERM, SIGINT, SIGQUIT };
	struct sigaction end = { .sa_handler = end_start };
	sigset_t later;

	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
		sigaction(ending[i], &end, NULL);
	sigemptyset(&later);
	sigaddset(&later, SIGHUP);
	sigaddset(&later, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &later, NULL);
}

/* Blocked before any thread starts, so that only the main thread takes them, one at a time. */
static void block_signals(sigset_t *signals)
{
	sigemptyset(signals);
	sigaddset(signals, SIGTERM);
	sigaddset(signals, SIGINT);
	sigaddset(signals, SIGQUIT);
	sigaddset(signals, SIGHUP);
	sigaddset(signals, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, signals, NULL);
}

static int start_and_serve(struct broker *b, const char *path, struct config **config)
{
	const struct ring_params tiny = { .sq_entries = 16,
					  .batch = 16,
					  .restricted = (*config)->sandbox };
	struct start start = { .lock = PTHREAD_MUTEX_INITIALIZER,
			       .changed = PTHREAD_COND_INITIALIZER };
	struct thread *threads = calloc(b->shards_n, sizeof(*threads));
	struct ring *ring = NULL;
	unsigned started = 0;
	char problem[512];
	sigset_t signals;
	int code = EXIT_FAILED, files_err = 0, err = ring_new(&tiny, &ring);

	if (err != 0) {
		free(threads);
		return explain_ring(err);
	}
	block_signals(&signals);
	if ((*config)->sandbox)
		files_err = sandbox_files(b->listeners, b->listeners_n);
	err = log_start();
	if (err != 0)
		log_warn("no thread for the log can be started, it may hold the broker up: %s",
			 strerror(-err));
	if (threads == NULL)
		log_error("out of memory for %u threads", b->shards_n);
	err = workers_start(b->desk->workers, (*config)->auth.hash_threads);
	if (err != 0)
		log_warn("no thread for passwords can be started, they hold the broker up: %s",
			 strerror(-err));
	err = (*config)->upstreams_n > 0 ? workers_start(b->names, 1) : 0;
	if (err != 0)
		log_warn("no thread for names can be started, they hold the broker up: %s",
			 strerror(-err));
	atomic_init(&b->running, b->shards_n);
	for (; threads != NULL && started < b->shards_n; started++) {
		threads[started] = (struct thread){
			.broker = b, .config = *config, .start = &start, .shard = started
		};
		err = pthread_create(&threads[started].id, NULL, run_shard, &threads[started]);
		if (err != 0) {
			log_error("a thread cannot be started: %s", strerror(err));
			break;
		}
	}
	pthread_mutex_lock(&start.lock);
	while (start.made < started)
		pthread_cond_wait(&start.changed, &start.lock);
	start.go = started == b->shards_n && start.failed == 0;
	start.stop = !start.go;
	if (start.go && listeners_listen(b, *config, problem, sizeof(problem)) != 0) {
		log_error("%s", problem);
		start.go = false;
		start.stop = true;
	}
	if (start.go) {
		/* Every thread has its ring and waits: from now on nobody needs to open more. */
		enter_sandbox(b, (*config)->sandbox, files_err);
		log_ready(b);
	}
	pthread_cond_broadcast(&start.changed);
	pthread_mutex_unlock(&start.lock);
	if (start.go) {
		service_ready();
		*config = serve(b, ring, path, *config, &signals);
		code = EXIT_CLEAN;
	} else if (start.failed > 0) {
		code = explain_ring(start.error);
	}
	for (unsigned i = 0; i < started; i++)
		pthread_join(threads[i].id, NULL);
	if (code == EXIT_CLEAN)
		log_info("stopped");
	log_stop();
	ring_free(ring);
	free(threads);
	return code;
}

static int load_keyrings(struct broker *b, const struct config *config)
{
	struct keyring **keyrings;
	int err = keyrings_load(b, config, &keyrings, stderr);

	if (err != 0)
		return err;
	keyrings_take(b, keyrings);
	keyrings_free(keyrings, b->listeners_n);
	keyrings_say(config);
	keyrings_warn(b);
	if (config->upstreams_n > 0)
		err = keyring_load_client(&config->upstreams[0].tls, &b->dials, stderr);
	return err;
}

static int run(const struct options *o, struct config *config)
{
	struct broker b = { .report = stats_report };
	char problem[512] = "out of memory";
	int code = EXIT_FAILED, err;

	log_configure((enum log_level)config->log_level, (enum log_format)config->log_format);
	hash_seed();
	json_init();
	prepare_files(config);
	set_budget(config);
	if (config->upstreams_n > 0 && config->upstreams[0].log == CONFIG_LOG_JETSTREAM &&
	    !upstream_check(config, NULL, problem, sizeof(problem))) {
		log_error("upstream: %s", problem);
		config_free(config);
		return EXIT_USAGE;
	}
	err = placement_init(&b.placement, placement_modes[config->placement], config->reactors);
	if (err != 0) {
		log_error("the machine's cores cannot be read: %s", strerror(-err));
		config_free(config);
		return EXIT_FAILED;
	}
	err = broker_init(&b, b.placement.slots_n, config->engine.lane_entries);
	if (err == 0)
		err = topic_hash_sections(config);
	if (err == 0 && !digest_init())
		err = -ENOMEM;
	if (err == 0) {
		sessions_register(&b);
		budget_set_limit(&b, config->limits.memory_bytes);
		figures_init(&b);
		page_init(&b);
	}
	if (err != 0)
		log_error("out of memory for %u reactors: lower reactors or engine.lane_entries",
			  b.shards_n);
	else if ((err = listeners_open(&b, config, problem, sizeof(problem))) != 0) {
		log_error("%s", problem);
		code = err == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
	} else if ((err = load_keyrings(&b, config)) != 0) {
		code = err == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
	} else if (exposure_refused(config, problem, sizeof(problem)) ||
		   (b.identities = identities_new(config, problem, sizeof(problem))) == NULL ||
		   (b.objects = objects_load(config->http.objects_dir, NULL, problem,
					     sizeof(problem))) == NULL ||
		   !machine_base_fits(config, b.shards_n, objects_bytes(b.objects),
				      config->limits.memory_bytes, problem, sizeof(problem))) {
		log_error("%s", problem);
		code = EXIT_USAGE;
	} else
		code = start_and_serve(&b, o->config_path, &config);
	broker_release(&b);
	config_free(config);
	return code;
}

/* ---- credentials ---- */

/* Of standard input's first line, so that it is in no list of processes and no shell's history. */
static int hash_password(void)
{
	char hash[PASSWORD_HASH_BYTES_MAX], *password = NULL;
	size_t size = 0;
	ssize_t n = getline(&password, &size, stdin);
	int err;

	while (n > 0 && (password[n - 1] == '\n' || password[n - 1] == '\r'))
		password[--n] = '\0';
	if (n <= 0 || (size_t)n != strlen(password) || n >= PASSWORD_BYTES_MAX) {
		fprintf(stderr,
			"broker: no password, or one that is too long, on standard input: "
			"one line of 1 to %d bytes\n",
			PASSWORD_BYTES_MAX - 1);
		free(password);
		return EXIT_USAGE;
	}
	err = password_hash_new(password, hash);
	bytes_forget(password, size);
	free(password);
	if (err != 0) {
		fprintf(stderr, "broker: the password cannot be hashed: %s\n", strerror(-err));
		return EXIT_FAILED;
	}
	puts(hash);
	return EXIT_CLEAN;
}

static int make_token(void)
{
	char token[TOKEN_TEXT_MAX], hash[DIGEST_TEXT_MAX];
	struct digest digest;

	if (!token_new(token)) {
		fputs("broker: there are no random bytes\n", stderr);
		return EXIT_FAILED;
	}
	if (!digest_of(span_of(token), &digest)) {
		fputs("broker: out of memory\n", stderr);
		return EXIT_FAILED;
	}
	digest_print(&digest, hash);
	printf("token: %s\ntoken_hash: %s\n", token, hash);
	return EXIT_CLEAN;
}

/* ---- arguments ---- */

static int parse(int argc, char **argv, struct options *o)
{
	enum { OPT_CHECK = 256, OPT_TOPOLOGY, OPT_HASH, OPT_TOKEN, OPT_VERSION, OPT_HELP };
	static const struct option options[] = { { "config", required_argument, NULL, 'c' },
						 { "check", no_argument, NULL, OPT_CHECK },
						 { "topology", no_argument, NULL, OPT_TOPOLOGY },
						 { "hash-password", no_argument, NULL, OPT_HASH },
						 { "make-token", no_argument, NULL, OPT_TOKEN },
						 { "version", no_argument, NULL, OPT_VERSION },
						 { "help", no_argument, NULL, OPT_HELP },
						 { NULL, 0, NULL, 0 } };
	int opt;

	while ((opt = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			o->config_path = optarg;
			break;
		case OPT_CHECK:
			o->check = true;
			break;
		case OPT_TOPOLOGY:
			o->topology = true;
			break;
		case OPT_HASH:
			exit(hash_password());
		case OPT_TOKEN:
			exit(make_token());
		case OPT_VERSION:
			puts("broker " BROKER_VERSION);
			exit(EXIT_CLEAN);
		case OPT_HELP:
		case 'h':
			fputs(usage, stdout);
			exit(EXIT_CLEAN);
		default:
			return -EINVAL;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "broker: what is \"%s\"?\n", argv[optind]);
		return -EINVAL;
	}
	if (o->config_path == NULL && !o->topology) {
		fputs("broker: no configuration given\n", stderr);
		return -EINVAL;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	struct config *config = NULL;
	int code;

	if (parse(argc, argv, &o) != 0) {
		fputs("Try: broker -c config/broker.conf, or broker --help\n", stderr);
		return EXIT_USAGE;
	}
	if (!o.check && !o.topology)
		prepare_signals();
	keyring_begin();
	if (o.config_path != NULL && config_load(o.config_path, &config, stderr) != 0)
		return EXIT_USAGE;
	if (o.topology) {
		int err = placement_print(
			stdout, config != NULL ? placement_modes[config->placement] : PLACE_CORES,
			config != NULL ? config->reactors : 0);

		config_free(config);
		if (err != 0)
			fprintf(stderr, "broker: the machine's cores cannot be read: %s\n",
				strerror(-err));
		return err == 0 ? EXIT_CLEAN : EXIT_FAILED;
	}
	if (o.check) {
		code = print_check(&o, config);
		config_free(config);
		return code;
	}
	return run(&o, config);
}
