#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin/announce.h"
#include "admin/credentials.h"
#include "admin/exit.h"
#include "admin/exposure.h"
#include "admin/figures.h"
#include "admin/host.h"
#include "admin/machine.h"
#include "admin/office.h"
#include "admin/page.h"
#include "admin/sandbox.h"
#include "admin/service.h"
#include "admin/stats.h"
#include "admin/upstream_check.h"
#include "base/config.h"
#include "base/digest.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "broker/broker.h"
#include "broker/budget.h"
#include "broker/identity.h"
#include "broker/keyrings.h"
#include "broker/listener.h"
#include "broker/login.h"
#include "broker/objects.h"
#include "broker/shard.h"
#include "engine/keyring.h"
#include "engine/placement.h"
#include "engine/ring.h"
#include "engine/worker.h"
#include "session/registry.h"
#include "topic/topic.h"

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

/* For what may block. Without them the broker works, and is held up now and then. */
static void start_workers(struct broker *b, const struct config *config)
{
	int err = workers_start(b->desk->workers, config->auth.hash_threads);

	if (err != 0)
		log_warn("no thread for passwords can be started, they hold the broker up: %s",
			 strerror(-err));
	err = config->upstreams_n > 0 ? workers_start(b->names, 1) : 0;
	if (err != 0)
		log_warn("no thread for names can be started, they hold the broker up: %s",
			 strerror(-err));
}

/* Until each has its ring or has failed, and it is settled whether they go on, which they are not
 * told yet: returns with the lock held. How many there are. */
static unsigned start_threads(struct broker *b, const struct config *config, struct start *start,
			      struct thread *threads)
{
	unsigned started = 0;
	char problem[512];
	int err;

	for (; started < b->shards_n; started++) {
		threads[started] = (struct thread){
			.broker = b, .config = config, .start = start, .shard = started
		};
		err = pthread_create(&threads[started].id, NULL, run_shard, &threads[started]);
		if (err != 0) {
			log_error("a thread cannot be started: %s", strerror(err));
			break;
		}
	}
	pthread_mutex_lock(&start->lock);
	while (start->made < started)
		pthread_cond_wait(&start->changed, &start->lock);
	start->go = started == b->shards_n && start->failed == 0;
	if (start->go && listeners_listen(b, config, problem, sizeof(problem)) != 0) {
		log_error("%s", problem);
		start->go = false;
	}
	start->stop = !start->go;
	return started;
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
	int code = EXIT_FAILED, files_err = 0, err;
	unsigned started;
	sigset_t signals;

	if (threads == NULL) {
		log_error("out of memory for %u threads", b->shards_n);
		return code;
	}
	err = ring_new(&tiny, &ring);
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
	start_workers(b, *config);
	atomic_init(&b->running, b->shards_n);
	started = start_threads(b, *config, &start, threads);
	if (start.go) {
		/* Every thread has its ring and waits: from now on nobody needs to open more. */
		enter_sandbox(b, (*config)->sandbox, files_err);
		announce_ready(b);
	}
	pthread_cond_broadcast(&start.changed);
	pthread_mutex_unlock(&start.lock);
	if (start.go) {
		service_ready();
		*config = office_serve(b, ring, path, *config, &signals);
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
	keyrings_free(keyrings, keyrings_n(b));
	keyrings_say(config);
	keyrings_warn(b);
	return 0;
}

static int run(const struct options *o, struct config *config)
{
	struct broker b = { .report = stats_report };
	char problem[512] = "out of memory";
	int code = EXIT_FAILED, err;

	log_configure((enum log_level)config->log_level, (enum log_format)config->log_format);
	hash_seed();
	json_init();
	host_prepare_files(config);
	machine_set_budget(config);
	if (config->upstreams_n > 0 && config->upstreams[0].log == CONFIG_LOG_JETSTREAM &&
	    !upstream_check(config, NULL, problem, sizeof(problem))) {
		log_error("upstream: %s", problem);
		config_free(config);
		return EXIT_USAGE;
	}
	err = placement_init(&b.placement, machine_placement(config), config->reactors);
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
			exit(credentials_hash_password());
		case OPT_TOKEN:
			exit(credentials_make_token());
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
		int err = placement_print(stdout,
					  config != NULL ? machine_placement(config) : PLACE_CORES,
					  config != NULL ? config->reactors : 0);

		config_free(config);
		if (err != 0)
			fprintf(stderr, "broker: the machine's cores cannot be read: %s\n",
				strerror(-err));
		return err == 0 ? EXIT_CLEAN : EXIT_FAILED;
	}
	if (o.check) {
		code = announce_check(o.config_path, config);
		config_free(config);
		return code;
	}
	return run(&o, config);
}
