/*
 * Plays a fixed scenario to a whole broker on a kernel in memory (kernel.h), so that its
 * instructions can be counted: `count` runs this under valgrind's callgrind, which counts below
 * measure() only. One line of JSON says what was played.
 */

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "broker/broker.h"
#include "broker/identity.h"
#include "broker/listener.h"
#include "broker/objects.h"
#include "broker/shard.h"
#include "session/registry.h"
#include "kernel.h"

enum {
	TOPICS_MAX = 50,
	ROUND_MS = 1,        /* from what clients say to what they say next */
	WARM_MESSAGES = 300, /* in each topic: its history is full then, and streams are settled */
};

enum speech { SPEAKS_LINE, SPEAKS_HTTP };

static const struct scenario {
	const char *name;
	unsigned shards, topics, subscribers; /* in each topic, beside its publisher */
	unsigned burst;                       /* messages that a publisher says at once */
	size_t bytes;                         /* of a message */
	enum speech publisher, subscriber;
	unsigned rounds;
} scenarios[] = {
	{ "fan100", 1, 1, 100, 64, 128, SPEAKS_LINE, SPEAKS_LINE, 200 },
	{ "many", 1, 50, 20, 16, 128, SPEAKS_LINE, SPEAKS_LINE, 20 },
	{ "one2one", 1, 50, 1, 64, 128, SPEAKS_LINE, SPEAKS_LINE, 100 },
	{ "single", 1, 10, 10, 1, 128, SPEAKS_LINE, SPEAKS_LINE, 200 },
	{ "seg8k", 1, 10, 50, 8, 8192, SPEAKS_LINE, SPEAKS_LINE, 20 },
	{ "sse100", 1, 1, 100, 64, 128, SPEAKS_LINE, SPEAKS_HTTP, 200 },
	{ "post", 1, 10, 10, 1, 128, SPEAKS_HTTP, SPEAKS_LINE, 200 },
	{ "shards2", 2, 10, 20, 64, 128, SPEAKS_LINE, SPEAKS_LINE, 50 },
};

static struct broker broker;
static unsigned publishers[TOPICS_MAX];
static char *burst[TOPICS_MAX];
static size_t burst_n[TOPICS_MAX];

static void check(bool true_, const char *what)
{
	if (true_)
		return;
	fprintf(stderr, "replay: %s\n", what);
	exit(1);
}

static void report(struct shard *shard, bool last)
{
	(void)shard;
	(void)last;
}

/* Until nobody has anything to do. */
static void turn(void)
{
	bool any = true;

	while (any) {
		any = false;
		for (unsigned i = 0; i < broker.shards_n; i++)
			any |= reactor_turn(&broker.shards[i].reactor, true) ||
			       broker.shards[i].reactor.wake_at_ns != 0;
		/* A shard that went to sleep may have found something as it did. */
		for (unsigned i = 0; i < broker.shards_n; i++)
			any |= ring_ready(broker.shards[i].reactor.ring);
	}
}

static void start_broker(const struct scenario *sc)
{
	struct config *config = config_defaults();
	struct broker *b = &broker;
	char problem[100];

	check(config != NULL, "no memory");
	config->sandbox = false;
	config->stats_seconds = 0;
	/* Everything but the sockets. */
	config->listens_n = 0;
	hash_seed_with(1, 2);
	log_configure(LOG_ERROR, LOG_TEXT);
	*b = (struct broker){ .report = report };
	check(broker_init(b, sc->shards, config->engine.lane_entries) == 0, "no memory");
	sessions_register(b);
	b->objects = objects_load("", NULL, problem, sizeof(problem));
	b->identities = identities_new(config, problem, sizeof(problem));
	check(b->identities != NULL, problem);
	check(listeners_open(b, config, problem, sizeof(problem)) == 0,
	      "the broker cannot be set up");
	free(b->listeners);
	b->listeners = calloc(1, sizeof(*b->listeners));
	check(b->listeners != NULL, "no memory");
	b->listeners_n = 1;
	b->listeners[0].protocols = CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_HTTP;
	b->listeners[0].fds = calloc(b->shards_n, sizeof(int));
	check(b->listeners[0].fds != NULL, "no memory");
	for (unsigned i = 0; i < b->shards_n; i++)
		b->listeners[0].fds[i] = kernel_listener(i);
	for (unsigned i = 0; i < b->shards_n; i++) {
		check(shard_init(&b->shards[i], b, i, config) == 0, "a shard cannot be set up");
		listeners_start(&b->shards[i]);
	}
	turn();
}

static struct shard_counters counters(void)
{
	struct shard_counters sum = { 0 };

	for (unsigned i = 0; i < broker.shards_n; i++) {
		sum.published += broker.shards[i].counters.published;
		sum.delivered += broker.shards[i].counters.delivered;
	}
	return sum;
}

/* Somebody who has said this, at a shard of his own choice as everybody else. */
static unsigned client(const struct scenario *sc, unsigned number, const char *text)
{
	unsigned c = kernel_connect(number % sc->shards);

	turn();
	kernel_say(c, text, strlen(text));
	turn();
	return c;
}

static void connect_topic(const struct scenario *sc, unsigned topic)
{
	char text[200];

	snprintf(text, sizeof(text),
		 sc->subscriber == SPEAKS_LINE ? "SUBSCRIBE bench.%u\r\n"
					       : "GET /subscribe/bench.%u HTTP/1.1\r\nHost: x\r\n"
						 "Accept: text/event-stream\r\n\r\n",
		 topic);
	for (unsigned i = 0; i < sc->subscribers; i++)
		client(sc, i, text);
	snprintf(text, sizeof(text), "PUBLISH bench.%u\r\n", topic);
	publishers[topic] = client(sc, topic, sc->publisher == SPEAKS_LINE ? text : "");
}

static void write_burst(const struct scenario *sc, unsigned topic)
{
	char head[200] = "", *at;

	if (sc->publisher == SPEAKS_HTTP)
		snprintf(head, sizeof(head),
			 "POST /publish/bench.%u HTTP/1.1\r\nHost: x\r\nContent-Length: "
			 "%zu\r\n\r\n",
			 topic, sc->bytes);
	burst_n[topic] = sc->burst * (strlen(head) + sc->bytes +
				      (sc->publisher == SPEAKS_LINE ? strlen("\r\n") : 0));
	at = burst[topic] = malloc(burst_n[topic]);
	check(at != NULL, "no memory");
	for (unsigned i = 0; i < sc->burst; i++) {
		memcpy(at, head, strlen(head));
		at += strlen(head);
		memset(at, 'a' + (int)(i % 26), sc->bytes);
		at += sc->bytes;
		if (sc->publisher == SPEAKS_HTTP)
			continue;
		*at++ = '\r';
		*at++ = '\n';
	}
}

static void play(const struct scenario *sc, unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		/* Clients take longer over what they got than a topic rests. */
		kernel_pass(ROUND_MS * NS_PER_MS);
		for (unsigned t = 0; t < sc->topics; t++)
			kernel_say(publishers[t], burst[t], burst_n[t]);
		turn();
	}
}

/* callgrind knows it by its name. */
__attribute__((noinline)) void measure(const struct scenario *sc);
void measure(const struct scenario *sc)
{
	play(sc, sc->rounds);
}

int main(int argc, char **argv)
{
	const struct scenario *sc = scenarios;
	const size_t n = sizeof(scenarios) / sizeof(*scenarios);
	struct shard_counters before, after;
	struct kernel_counts kernel;
	uint64_t published;

	if (argc != 2) {
		for (size_t i = 0; i < n; i++)
			puts(scenarios[i].name);
		return 0;
	}
	while (sc < scenarios + n && strcmp(sc->name, argv[1]) != 0)
		sc++;
	check(sc < scenarios + n, "no such scenario");
	start_broker(sc);
	for (unsigned t = 0; t < sc->topics; t++) {
		connect_topic(sc, t);
		write_burst(sc, t);
	}
	play(sc, WARM_MESSAGES / sc->burst + 1);
	before = counters();
	kernel = kernel_counts;
	measure(sc);
	after = counters();
	published = (uint64_t)sc->rounds * sc->topics * sc->burst;
	check(after.published - before.published == published, "messages are missing");
	check(after.delivered - before.delivered == published * sc->subscribers,
	      "deliveries are missing");
	printf("{\"published\": %" PRIu64 ", \"delivered\": %" PRIu64 ", \"sends\": %" PRIu64
	       ", \"enters\": %" PRIu64 "}\n",
	       published, published * sc->subscribers, kernel_counts.sends - kernel.sends,
	       kernel_counts.enters - kernel.enters);
	/* Nothing is taken down: that is not what is measured. */
	return 0;
}
