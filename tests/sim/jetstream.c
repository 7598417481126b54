#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "protocol/nats.h"
#include "server.h"
#include "sim.h"

/*
 * The stream of the simulated nats-server, as far as an upstream asks for it
 * (protocol/jetstream.h): it numbers what is published to its subjects, knows repetitions by their
 * ids, acknowledges, republishes, says what it has, and sends from some number on what a consumer
 * is made for. It may lose any acknowledgement, republished message, answer or consumer's message,
 * send it twice, or overlook what is published.
 */

enum { TEXT_MAX = 300, CONSUMERS_MAX = 256 };

struct stored {
	char *data; /* subject, id, headers, payload */
	struct span subject, id, headers, payload;
	uint64_t before; /* number of its subject's message before it */
};

/* The n-th has the number n + 1. */
static struct stored *messages;
static size_t messages_n, messages_slots;

static struct consumer {
	bool used;
	unsigned name;
	char deliver[TEXT_MAX], filter[TEXT_MAX];
	uint64_t count;
} consumers[CONSUMERS_MAX];
static unsigned consumers_made;
static char description[TEXT_MAX];

static const struct span none = { "", 0 };

void jetstream_init(void)
{
	messages_n = 0;
	consumers_made = 0;
	description[0] = 0;
	memset(consumers, 0, sizeof(consumers));
}

void jetstream_release(void)
{
	for (size_t i = 0; i < messages_n; i++)
		sim_free(messages[i].data);
	sim_free(messages);
	messages = NULL;
	messages_n = messages_slots = 0;
}

/* It comes, or does not, or comes twice. */
static unsigned spread(struct span to, const struct server_message *m)
{
	unsigned n = 0, times = !server_slips() ? 1 : server_below(2) * 2;

	while (times-- > 0)
		n = server_spread(to, m);
	return n;
}

static void answer(struct span reply, const char *json)
{
	const struct server_message m = {
		.subject = reply, .reply = none, .headers = none, .payload = span_of(json)
	};

	if (reply.len > 0)
		(void)spread(reply, &m);
}

/* ---- messages ---- */

static struct span keep(char **at, struct span bytes)
{
	struct span kept = { *at, bytes.len };

	if (bytes.len > 0)
		memcpy(*at, bytes.data, bytes.len);
	*at += bytes.len;
	return kept;
}

static struct stored *store(const struct server_message *m, struct span id)
{
	char *at = sim_alloc(m->subject.len + id.len + m->headers.len + m->payload.len + 1);
	struct stored *s;

	if (messages_n == messages_slots) {
		messages_slots = 2 * messages_slots + 256;
		messages = sim_realloc(messages, messages_slots * sizeof(*messages));
	}
	s = &messages[messages_n];
	*s = (struct stored){ .data = at };
	s->subject = keep(&at, m->subject);
	s->id = keep(&at, id);
	s->headers = keep(&at, m->headers);
	s->payload = keep(&at, m->payload);
	for (size_t i = messages_n; i > 0 && s->before == 0; i--)
		if (span_equal(messages[i - 1].subject, s->subject))
			s->before = i;
	messages_n++;
	return s;
}

static void acknowledge(struct span reply, uint64_t number, bool duplicate)
{
	char json[100];

	snprintf(json, sizeof(json), "{\"stream\":\"LIVE\",\"seq\":%" PRIu64 "%s}", number,
		 duplicate ? ",\"duplicate\": true" : "");
	answer(reply, json);
}

static void republish(const struct stored *s, uint64_t number)
{
	static char headers[4096];
	char to[TEXT_MAX];
	int at = s->headers.len > 4 ? snprintf(headers, sizeof(headers), "%.*s",
					       (int)s->headers.len - 2, s->headers.data)
				    : snprintf(headers, sizeof(headers), "NATS/1.0\r\n");
	struct server_message m = { .reply = none, .headers = none, .payload = s->payload };

	at += snprintf(headers + at, sizeof(headers) - (size_t)at,
		       "Nats-Stream: LIVE\r\nNats-Subject: %.*s\r\nNats-Sequence: %" PRIu64
		       "\r\nNats-Last-Sequence: %" PRIu64 "\r\n\r\n",
		       (int)s->subject.len, s->subject.data, number, s->before);
	m.headers = (struct span){ headers, (size_t)at };
	m.subject = (struct span){ to, (size_t)snprintf(to, sizeof(to), "fan.%.*s",
							(int)s->subject.len, s->subject.data) };
	(void)spread(m.subject, &m);
}

/* The number of the message with this id; 0: there is none. */
static uint64_t known(struct span id)
{
	for (size_t i = messages_n; id.len > 0 && i > 0; i--)
		if (span_equal(messages[i - 1].id, id))
			return i;
	return 0;
}

/* ---- consumers ---- */

static bool is_for(const struct consumer *c, size_t index)
{
	return name_matches(span_of(c->filter), messages[index].subject);
}

/* Whether somebody hears of it still. So many are to come behind it. */
static bool deliver(struct consumer *c, size_t index, uint64_t pending)
{
	const struct stored *s = &messages[index];
	struct server_message m = { .subject = s->subject,
				    .headers = s->headers,
				    .payload = s->payload };
	char reply[TEXT_MAX];

	snprintf(reply, sizeof(reply), "$JS.ACK.LIVE.c%u.1.%zu.%" PRIu64 ".1.%" PRIu64, c->name,
		 index + 1, ++c->count, pending);
	m.reply = span_of(reply);
	/* Lost on its way: the next one shows it. */
	if (server_slips())
		return true;
	return server_spread(span_of(c->deliver), &m) > 0;
}

static void copy_value(struct span json, const char *name, char out[TEXT_MAX])
{
	char key[40];
	int n = snprintf(key, sizeof(key), "\"%s\":\"", name);
	const char *at = memmem(json.data, json.len, key, (size_t)n), *end;

	if (at == NULL)
		sim_fail("a consumer without %s", name);
	at += n;
	end = memchr(at, '"', (size_t)(json.data + json.len - at));
	if (end == NULL || end - at >= TEXT_MAX)
		sim_fail("a consumer with a bad %s", name);
	memcpy(out, at, (size_t)(end - at));
	out[end - at] = 0;
}

static uint64_t number_of(struct span json, const char *name)
{
	char text[1000] = "", *at;

	memcpy(text, json.data, json.len < sizeof(text) - 1 ? json.len : sizeof(text) - 1);
	at = strstr(text, name);
	return at != NULL ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static void consume(const struct server_message *m)
{
	struct consumer *c = consumers;
	uint64_t from = number_of(m->payload, "\"opt_start_seq\":"), pending = 0;
	char json[100];

	while (c < consumers + CONSUMERS_MAX && c->used)
		c++;
	/* As a server that has no room: nothing is said. */
	if (c == consumers + CONSUMERS_MAX || server_slips())
		return;
	*c = (struct consumer){ .used = true, .name = ++consumers_made };
	copy_value(m->payload, "deliver_subject", c->deliver);
	copy_value(m->payload, "filter_subject", c->filter);
	snprintf(json, sizeof(json), "{\"stream_name\":\"LIVE\",\"name\":\"c%u\"}", c->name);
	answer(m->reply, json);
	from -= from > 0;
	for (size_t i = from; i < messages_n; i++)
		pending += is_for(c, i);
	for (size_t i = from; i < messages_n && c->used; i++)
		if (is_for(c, i))
			c->used = deliver(c, i, --pending);
}

static void forget(const struct server_message *m)
{
	const char *dot = memrchr(m->subject.data, '.', m->subject.len);
	unsigned name = (unsigned)strtoul(dot + 2, NULL, 10);

	for (unsigned i = 0; i < CONSUMERS_MAX; i++)
		if (consumers[i].used && consumers[i].name == name)
			consumers[i].used = false;
	answer(m->reply, "{\"success\":true}");
}

/* ---- what is asked ---- */

static void tell(struct span reply)
{
	char json[1500];

	snprintf(json, sizeof(json),
		 "{\"config\":{\"name\":\"LIVE\",\"description\":\"%s\",\"subjects\":[\"live.>\"],"
		 "\"num_replicas\":1,\"duplicate_window\":120000000000,\"allow_direct\":true,"
		 "\"republish\":{\"src\":\">\",\"dest\":\"fan.>\"}},\"created\":"
		 "\"2026-01-01T00:00:00Z\",\"state\":{\"first_seq\":%d,\"last_seq\":%zu}}",
		 description, messages_n > 0, messages_n);
	answer(reply, json);
}

static void get(const struct server_message *m)
{
	uint64_t number = number_of(m->payload, "\"seq\":");
	char subject[TEXT_MAX], json[500];

	if (number == 0) {
		copy_value(m->payload, "last_by_subj", subject);
		for (size_t i = messages_n; i > 0 && number == 0; i--)
			if (span_equal(messages[i - 1].subject, span_of(subject)))
				number = i;
	}
	if (number == 0 || number > messages_n) {
		answer(m->reply, "{\"error\":{\"code\":404,\"description\":\"no message found\"}}");
		return;
	}
	snprintf(json, sizeof(json), "{\"message\":{\"subject\":\"%.*s\",\"seq\":%" PRIu64 "}}",
		 (int)messages[number - 1].subject.len, messages[number - 1].subject.data, number);
	answer(m->reply, json);
}

static bool begins(struct span text, const char *with)
{
	return text.len >= strlen(with) && memcmp(text.data, with, strlen(with)) == 0;
}

static void publish(const struct server_message *m)
{
	struct span id = m->headers.len > 0 ? nats_header(m->headers, SPAN("Nats-Msg-Id")) : none;
	uint64_t number = known(id);

	if (number != 0) {
		acknowledge(m->reply, number, true);
		return;
	}
	/* Without a leader it is nobody's. */
	if (m->reply.len > 0 && server_slips()) {
		server_disorder();
		return;
	}
	cluster_published(m->subject, m->payload);
	(void)store(m, id);
	number = messages_n;
	for (unsigned i = 0; i < CONSUMERS_MAX; i++)
		if (consumers[i].used && is_for(&consumers[i], number - 1))
			consumers[i].used = deliver(&consumers[i], number - 1, 0);
	if (server_below(2) == 0) {
		acknowledge(m->reply, number, false);
		republish(&messages[number - 1], number);
	} else {
		republish(&messages[number - 1], number);
		acknowledge(m->reply, number, false);
	}
}

bool jetstream_takes(const struct server_message *m)
{
	if (sim.params.upstream != UPSTREAM_SIM_LOG)
		return false;
	if (begins(m->subject, "$JS.API.STREAM.INFO.LIVE"))
		tell(m->reply);
	else if (begins(m->subject, "$JS.API.STREAM.MSG.GET.LIVE"))
		get(m);
	else if (begins(m->subject, "$JS.API.CONSUMER.CREATE.LIVE"))
		consume(m);
	else if (begins(m->subject, "$JS.API.CONSUMER.DELETE.LIVE."))
		forget(m);
	else if (begins(m->subject, "$JS.API."))
		sim_fail("the stream is asked for %.*s", (int)m->subject.len, m->subject.data);
	else
		publish(m);
	return true;
}
