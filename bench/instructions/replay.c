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

enum speech { SPEAKS_LINE, SPEAKS_HTTP, SPEAKS_WS, SPEAKS_NATS, SPEAKS_RESP, SPEAKS_MQTT };

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
	{ "nats100", 1, 1, 100, 64, 128, SPEAKS_NATS, SPEAKS_NATS, 50 },
	{ "nats1", 1, 50, 1, 64, 128, SPEAKS_NATS, SPEAKS_NATS, 20 },
	{ "resp100", 1, 1, 100, 64, 128, SPEAKS_RESP, SPEAKS_RESP, 50 },
	{ "resp1", 1, 50, 1, 64, 128, SPEAKS_RESP, SPEAKS_RESP, 20 },
	{ "mqtt100", 1, 1, 100, 64, 128, SPEAKS_MQTT, SPEAKS_MQTT, 50 },
	{ "mqtt1", 1, 50, 1, 64, 128, SPEAKS_MQTT, SPEAKS_MQTT, 20 },
	/* What a publisher has said comes back to it, too. */
	{ "ws100", 1, 1, 100, 64, 128, SPEAKS_WS, SPEAKS_WS, 50 },
	{ "ws1", 1, 50, 0, 64, 128, SPEAKS_WS, SPEAKS_WS, 20 },
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
	b->listeners[0].protocols = CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_HTTP |
				    CONFIG_PROTOCOL_NATS | CONFIG_PROTOCOL_RESP |
				    CONFIG_PROTOCOL_MQTT;
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
static unsigned client(const struct scenario *sc, unsigned number, const char *text, size_t len)
{
	unsigned c = kernel_connect(number % sc->shards);

	turn();
	kernel_say(c, text, len);
	turn();
	return c;
}

/* CONNECT, and SUBSCRIBE with QoS 0. */
static size_t mqtt_hello(bool subscribes, unsigned topic, char *out)
{
	static const char connect[] = "\x10\x0c\0\4MQTT\4\2\0\0\0"; /* with its last 0 */
	char *at = out + sizeof(connect);

	memcpy(out, connect, sizeof(connect));
	if (!subscribes)
		return sizeof(connect);
	memcpy(at, "\x82\x0d\0\1\0\x08", 6);
	at += 6;
	at += sprintf(at, "bench/%02u", topic) + 1;
	return (size_t)(at - out);
}

/* What a subscriber or a publisher says to begin with. */
static size_t hello(enum speech speech, bool subscribes, unsigned topic, char out[400])
{
	switch (speech) {
	case SPEAKS_HTTP:
		return subscribes ? (size_t)sprintf(out,
						    "GET /subscribe/bench.%u HTTP/1.1\r\nHost: "
						    "x\r\nAccept: text/event-stream\r\n\r\n",
						    topic)
				  : 0;
	case SPEAKS_WS:
		return (size_t)sprintf(out,
				       "GET /ws/bench.%02u HTTP/1.1\r\nHost: x\r\n"
				       "Connection: Upgrade\r\nUpgrade: websocket\r\n"
				       "Sec-WebSocket-Version: 13\r\n"
				       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
				       topic);
	case SPEAKS_NATS:
		return (size_t)(subscribes ? sprintf(out,
						     "CONNECT {\"verbose\":false}\r\n"
						     "SUB bench.%02u 1\r\n",
						     topic)
					   : sprintf(out, "CONNECT {\"verbose\":false}\r\n"));
	case SPEAKS_RESP:
		return (size_t)(subscribes
					? sprintf(out,
						  "*2\r\n$9\r\nSUBSCRIBE\r\n$8\r\nbench.%02u\r\n",
						  topic)
					: sprintf(out, "*1\r\n$4\r\nPING\r\n"));
	case SPEAKS_MQTT:
		return mqtt_hello(subscribes, topic, out);
	case SPEAKS_LINE:
	default:
		return (size_t)(subscribes ? sprintf(out, "SUBSCRIBE bench.%u\r\n", topic)
					   : sprintf(out, "PUBLISH bench.%u\r\n", topic));
	}
}

static void connect_topic(const struct scenario *sc, unsigned topic)
{
	char text[400];
	size_t n = hello(sc->subscriber, true, topic, text);

	for (unsigned i = 0; i < sc->subscribers; i++)
		client(sc, i, text, n);
	n = hello(sc->publisher, false, topic, text);
	publishers[topic] = client(sc, topic, text, n);
}

/* What goes before a message. */
static size_t head(const struct scenario *sc, unsigned topic, char out[200])
{
	switch (sc->publisher) {
	case SPEAKS_HTTP:
		return (size_t)sprintf(out,
				       "POST /publish/bench.%u HTTP/1.1\r\nHost: x\r\n"
				       "Content-Length: %zu\r\n\r\n",
				       topic, sc->bytes);
	case SPEAKS_WS:
		check(sc->bytes == 128, "its frames are of 128 bytes");
		memcpy(out, "\x81\xfe\0\x80\0\0\0\0", 8);
		return 8;
	case SPEAKS_NATS:
		return (size_t)sprintf(out, "PUB bench.%02u %zu\r\n", topic, sc->bytes);
	case SPEAKS_RESP:
		return (size_t)sprintf(out, "*3\r\n$7\r\nPUBLISH\r\n$8\r\nbench.%02u\r\n$%zu\r\n",
				       topic, sc->bytes);
	case SPEAKS_MQTT:
		check(sc->bytes == 128, "its packets are of 128 bytes");
		memcpy(out, "\x30\x8a\1\0\x08", 5);
		return 5 + (size_t)sprintf(out + 5, "bench/%02u", topic);
	case SPEAKS_LINE:
	default:
		return 0;
	}
}

static void write_burst(const struct scenario *sc, unsigned topic)
{
	bool ends = sc->publisher == SPEAKS_LINE || sc->publisher == SPEAKS_NATS ||
		    sc->publisher == SPEAKS_RESP;
	const char *after = ends ? "\r\n" : "";
	char before[200], *at;
	size_t n = head(sc, topic, before);

	burst_n[topic] = sc->burst * (n + sc->bytes + strlen(after));
	at = burst[topic] = malloc(burst_n[topic]);
	check(at != NULL, "no memory");
	for (unsigned i = 0; i < sc->burst; i++) {
		memcpy(at, before, n);
		memset(at + n, 'a' + (int)(i % 26), sc->bytes);
		memcpy(at + n + sc->bytes, after, strlen(after));
		at += n + sc->bytes + strlen(after);
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
	uint64_t published, receivers;

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
	receivers = sc->subscribers + (sc->publisher == SPEAKS_WS);
	check(after.delivered - before.delivered == published * receivers,
	      "deliveries are missing");
	printf("{\"published\": %" PRIu64 ", \"delivered\": %" PRIu64 ", \"sends\": %" PRIu64
	       ", \"enters\": %" PRIu64 "}\n",
	       published, published * receivers, kernel_counts.sends - kernel.sends,
	       kernel_counts.enters - kernel.enters);
	/* Nothing is taken down: that is not what is measured. */
	return 0;
}
