#include "admin/office.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin/exit.h"
#include "admin/exposure.h"
#include "admin/host.h"
#include "admin/machine.h"
#include "admin/service.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/log.h"
#include "broker/broker.h"
#include "broker/budget.h"
#include "broker/identity.h"
#include "broker/keyrings.h"
#include "broker/listener.h"
#include "broker/objects.h"
#include "broker/shard.h"
#include "engine/mailbox.h"
#include "engine/ring.h"

enum { WAKE_TRIES = 100 }; /* a millisecond apart */
/* What ends a wrapper often reaches its whole group as well: signals this close are one. */
enum { ONE_SIGNAL_MS = 100 };

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
		shared->keyrings_n = keyrings_n(b);
		atomic_init(&shared->left, n);
		return letters;
	}
	while (n > 0)
		reload_letter_free(letters[--n]);
	free(letters);
	free(shared);
	return NULL;
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
		machine_set_budget(after);
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
		keyrings_free(keyrings, keyrings_n(b));
		config_free(after);
		return before;
	}
	if (keys[0] != 0)
		log_warn("reload: %s changed, which takes a restart", keys);
	if (after->limits.connections > before->limits.connections)
		(void)host_files(after);
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
struct config *office_serve(struct broker *b, struct ring *ring, const char *path,
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
