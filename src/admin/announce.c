#include "admin/announce.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "admin/exit.h"
#include "admin/exposure.h"
#include "admin/host.h"
#include "admin/machine.h"
#include "admin/upstream_check.h"
#include "base/config.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "broker/broker.h"
#include "broker/budget.h"
#include "broker/identity.h"
#include "broker/keyrings.h"
#include "broker/listener.h"
#include "broker/objects.h"
#include "broker/shard.h"
#include "engine/mailbox.h"
#include "engine/placement.h"
#include "engine/ring.h"

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

/* How to talk to it by hand. */
static void append_talk(char *out, size_t size, const struct listener *l)
{
	const char *at = l->address, *colon = strrchr(at, ':');
	bool any = strncmp(at, "0.0.0.0:", 8) == 0 || strncmp(at, "[::]:", 5) == 0;

	if (l->unix_path != NULL)
		append(out, size, "nc -U %s", at + 5);
	else if (l->secure)
		append(out, size, "openssl s_client -quiet -connect %s%s", any ? "127.0.0.1" : "",
		       any ? colon : at);
	else if (any)
		append(out, size, "nc 127.0.0.1 %s", colon + 1);
	else if (at[0] == '[')
		append(out, size, "nc %.*s %s", (int)(colon - at - 2), at + 1, colon + 1);
	else
		append(out, size, "nc %.*s %s", (int)(colon - at), at, colon + 1);
}

static const struct listener *speaker(const struct broker *b, unsigned protocol)
{
	for (unsigned i = 0; i < b->listeners_n; i++)
		if (b->listeners[i].protocols & protocol)
			return &b->listeners[i];
	return NULL;
}

/* What to try where nobody speaks lines. */
static void append_try(char *out, size_t size, const struct broker *b)
{
	const struct listener *http = speaker(b, CONFIG_PROTOCOL_HTTP);
	const struct listener *nats = speaker(b, CONFIG_PROTOCOL_NATS);
	const struct listener *resp = speaker(b, CONFIG_PROTOCOL_RESP), *first = &b->listeners[0];
	const char *colon = strrchr(first->address, ':');

	if (http != NULL)
		append(out, size, "; try: curl http%s://%s/", http->secure ? "s" : "",
		       http->address);
	else if (nats != NULL)
		append(out, size, "; try: nats -s %s%s sub demo", nats->secure ? "tls://" : "",
		       nats->address);
	else if (resp != NULL)
		append(out, size, "; try: redis-cli -u redis%s://%s ping", resp->secure ? "s" : "",
		       resp->address);
	else if (b->listeners_n > 0 && first->unix_path == NULL && colon != NULL)
		append(out, size, "; try: mosquitto_sub %s-h %.*s -p %s -t demo",
		       first->secure ? "--tls-use-os-certs " : "", (int)(colon - first->address),
		       first->address, colon + 1);
}

void announce_ready(const struct broker *b)
{
	char where[1024] = "", cpus[1024] = "", try[256] = "";
	const struct listener *line = NULL;

	for (unsigned i = 0; i < b->shards_n; i++)
		if (b->placement.slots[i].cpu >= 0)
			append(cpus, sizeof(cpus), " %d", b->placement.slots[i].cpu);
	for (size_t i = 0; i < b->listeners_n; i++) {
		const struct listener *l = &b->listeners[i];

		append(where, sizeof(where), "%s%s (%s)", i > 0 ? ", " : "", l->address,
		       protocol_names(l->protocols));
		if ((l->protocols & CONFIG_PROTOCOL_LINE) &&
		    (line == NULL || (line->secure && !l->secure)))
			line = l;
		if (strncmp(l->address, "127.", 4) != 0 && strncmp(l->address, "[::1]", 5) != 0 &&
		    l->unix_path == NULL && !l->secure)
			log_warn(
				"%s takes clients from other hosts in clear: whoever is on the way "
				"reads and changes what they say, credentials too",
				l->address);
	}
	log_info("memory: at most %" PRIu64 " bytes", budget_limit(b));
	log_info("ring: %s", ring_describe(b->shards[0].reactor.ring));
	if (line != NULL) {
		char nc[256] = "";

		append_talk(nc, sizeof(nc), line);
		log_info("ready: %u reactor%s on %s%s; listening on %s; try: %s  then type "
			 "SUBSCRIBE demo, and in a second "
			 "%s  type PUBLISH demo, then messages, BYE ends",
			 b->shards_n, b->shards_n == 1 ? "" : "s",
			 cpus[0] != 0 ? "cpus" : "any cpu", cpus, where, nc, nc);
		return;
	}
	append_try(try, sizeof(try), b);
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

static void print_placement(const struct placement *placement)
{
	printf("reactors: %u on %u cores, %u threads%s\n", placement->slots_n, placement->cores,
	       placement->threads,
	       placement->oversubscribed
		       ? " (more reactors than threads: correct, but slower than one per core)"
		       : "");
	for (unsigned i = 0; i < placement->slots_n; i++) {
		const struct placement_slot *slot = &placement->slots[i];

		if (slot->cpu < 0)
			printf("  reactor %u: not pinned\n", i);
		else
			printf("  reactor %u: cpu %d (core %d, node %d)\n", i, slot->cpu,
			       slot->core, slot->numa);
	}
	if (placement->quota > 0)
		printf("cpu quota: %.2f cores\n", placement->quota);
}

static void print_topics(const struct config *config)
{
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
}

/* What would run. */
static void print_plan(const struct config *config, const struct placement *placement)
{
	print_placement(placement);
	for (size_t i = 0; i < config->listens_n; i++)
		printf("listen \"%s\": %s (%s)\n", config->listens[i].title,
		       config->listens[i].address, protocol_names(config->listens[i].protocols));
	printf("limits: %u connections, %zu bytes a message, %llu topics, %llu subscriptions, %zu "
	       "bytes of history\n",
	       config->limits.connections, config->limits.message_bytes,
	       (unsigned long long)config->limits.topics,
	       (unsigned long long)config->limits.subscriptions,
	       config->limits.history_total_bytes);
	print_memory(config, placement->slots_n);
	print_topics(config);
}

int announce_check(const char *path, const struct config *config)
{
	const struct machine_memory memory = machine_memory("");
	struct placement placement;
	char problem[512];
	struct objects *objects =
		objects_load(config->http.objects_dir, NULL, problem, sizeof(problem));
	bool fits;
	int err;

	if (objects == NULL || !access_fits(config, problem, sizeof(problem))) {
		fprintf(stderr, "%s: %s\n", path, problem);
		objects_unref(objects);
		return EXIT_USAGE;
	}
	if (keyrings_check(config, stderr) != 0) {
		objects_unref(objects);
		return EXIT_USAGE;
	}
	err = placement_init(&placement, machine_placement(config), config->reactors);
	fits = err == 0 &&
	       machine_base_fits(config, placement.slots_n, objects_bytes(objects),
				 machine_budget(config, &memory), problem, sizeof(problem));
	objects_unref(objects);
	if (err != 0) {
		fprintf(stderr, "broker: the machine's cores cannot be read: %s\n", strerror(-err));
		return EXIT_FAILED;
	}
	if (!fits) {
		fprintf(stderr, "%s: %s\n", path, problem);
		placement_release(&placement);
		return EXIT_USAGE;
	}
	printf("%s: valid\n", path);
	print_plan(config, &placement);
	exposure_print(stdout, config);
	host_print(stdout, config, &placement);
	placement_release(&placement);
	json_init();
	if (!upstream_check(config, stdout, problem, sizeof(problem))) {
		fprintf(stderr, "%s: upstream: %s\n", path, problem);
		return EXIT_USAGE;
	}
	return EXIT_CLEAN;
}
