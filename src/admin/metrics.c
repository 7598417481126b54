#include "admin/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "admin/snapshot.h"
#include "admin/text.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "broker/budget.h"
#include "broker/identity.h"
#include "broker/login.h"
#include "broker/shard.h"
#include "engine/keyring.h"
#include "engine/worker.h"
#include "session/http_answer.h"

#define FIELD(member) offsetof(struct snapshot, member)

/* Single figures of a snapshot: as metrics, and under their short names in JSON. */
static const struct figure {
	const char *name, *metric, *help;
	size_t offset;
	bool gauge, narrow;
	double unit; /* of the metric; 0: none */
} figures[] = {
	{ "published", "broker_messages_published_total", "Messages sequenced by their home.",
	  FIELD(counters.published), false, false, 0 },
	{ "matched", "broker_messages_matched_total",
	  "Messages times the subscribers that they are for.", FIELD(counters.matched), false,
	  false, 0 },
	{ "delivered", "broker_messages_delivered_total",
	  "Messages handed to the kernel whole, counted once per subscriber.",
	  FIELD(counters.delivered), false, false, 0 },
	{ "received_bytes", "broker_received_bytes_total", "Bytes received from clients.",
	  FIELD(counters.received_bytes), false, false, 0 },
	{ "sent_bytes", "broker_sent_bytes_total", "Bytes sent to clients.",
	  FIELD(counters.sent_bytes), false, false, 0 },
	{ "sends", "broker_sends_total", "Sends queued, whatever they carry.", FIELD(sends), false,
	  false, 0 },
	{ "connections", "broker_connections", "Connections that are open.", FIELD(connections),
	  true, true, 0 },
	{ "accepted", "broker_connections_accepted_total", "Connections accepted.",
	  FIELD(counters.accepted), false, false, 0 },
	{ "refused", "broker_connections_refused_total", "Connections refused by a limit.",
	  FIELD(counters.refused), false, false, 0 },
	{ "errors", "broker_connections_failed_total",
	  "Connections ended with an error for the client.", FIELD(counters.errors), false, false,
	  0 },
	{ "subscriptions", "broker_subscriptions", "Subscriptions.", FIELD(subscriptions), true,
	  true, 0 },
	{ "waiting", "broker_waiting_requests", "Requests that wait for a message to come.",
	  FIELD(waiting), true, true, 0 },
	{ "topics", "broker_topics", "Topics with clients, or remembered.", FIELD(topics), true,
	  false, 0 },
	{ "history_bytes", "broker_history_bytes", "Bytes held for replay.", FIELD(history_bytes),
	  true, false, 0 },
	{ "letters_waiting", "broker_letters_waiting",
	  "Letters to other reactors that have found no room yet.", FIELD(letters_waiting), true,
	  false, 0 },
	{ "letters", "broker_letters_received_total", "Letters from other reactors.",
	  FIELD(reactor.letters_per_drain.sum), false, false, 0 },
	{ "pauses", "broker_publisher_pauses_total", "Times a publisher was made to wait.",
	  FIELD(counters.pauses), false, false, 0 },
	{ "messages_refused", "broker_messages_refused_total",
	  "Messages that were not published, though their client goes on.",
	  FIELD(counters.messages_refused), false, false, 0 },
	{ "memory_history", "broker_memory_history_dropped_total",
	  "Blocks of history let go for want of memory.", FIELD(counters.memory_history), false,
	  false, 0 },
	{ "memory_refused", "broker_memory_subscribers_refused_total",
	  "Subscribers refused for want of memory.", FIELD(counters.memory_refused), false, false,
	  0 },
	{ "memory_evicted", "broker_memory_evictions_total", "Backlogs evicted for want of memory.",
	  FIELD(counters.memory_evicted), false, false, 0 },
	{ "tls_pending", "broker_tls_handshakes_pending", "TLS handshakes under way.",
	  FIELD(tls.pending), true, true, 0 },
	{ "tls_records", "broker_tls_records_total", "Records sealed.", FIELD(tls.records), false,
	  false, 0 },
	{ "tls_sealed_bytes", "broker_tls_sealed_bytes_total", "Bytes of sealed records.",
	  FIELD(tls.sealed_bytes), false, false, 0 },
	{ "tls_waits", "broker_tls_waits_total", "Times a send found no buffer to be sealed in.",
	  FIELD(tls.waits), false, false, 0 },
	{ "turns", "broker_turns_total", "Turns of the loop.", FIELD(reactor.turns), false, false,
	  0 },
	{ "parks", "broker_parks_total", "Times the reactor went to sleep.", FIELD(reactor.parks),
	  false, false, 0 },
	{ "parked_ns", "broker_parked_seconds_total", "Time spent asleep.",
	  FIELD(reactor.parked_ns), false, false, 1e9 },
	{ "wakes", "broker_wakes_sent_total", "Other reactors woken.", FIELD(reactor.wakes_sent),
	  false, false, 0 },
	{ "enters", "broker_ring_enters_total", "System calls that entered the ring.",
	  FIELD(ring.enters), false, false, 0 },
	{ "submitted", "broker_ring_requests_total", "Requests handed to the kernel.",
	  FIELD(ring.submitted), false, false, 0 },
	{ "no_buffers", "broker_ring_buffers_missing_total", "Receives that found no buffer.",
	  FIELD(ring.no_buffers), false, false, 0 },
	{ "overflows", "broker_ring_overflows_total",
	  "Sightings of a completion queue that overflowed.", FIELD(ring.overflows), false, false,
	  0 },
	{ "late", "broker_late_completions_total",
	  "Completions that came after their connection's end.", FIELD(reactor.late_completions),
	  false, false, 0 },
	{ "upstream_up", "broker_upstream_up", "Whether the connection to the cluster is there.",
	  FIELD(counters.upstream_up), true, false, 0 },
	{ "upstream_reconnects", "broker_upstream_reconnects_total",
	  "Connections made to the cluster, but for the first.",
	  FIELD(counters.upstream_reconnects), false, false, 0 },
	{ "upstream_interests", "broker_upstream_interests",
	  "Topics of the cluster that are subscribed to there.", FIELD(counters.upstream_interests),
	  true, false, 0 },
	{ "upstream_unacknowledged", "broker_upstream_unacknowledged",
	  "Messages on their way to the cluster and back.", FIELD(counters.upstream_unanswered),
	  true, false, 0 },
	{ "upstream_rtt_ns", "broker_upstream_rtt_seconds",
	  "Time that the cluster's server took to answer the last PING.",
	  FIELD(counters.upstream_rtt_ns), true, false, 1e9 },
	{ "upstream_retries", "broker_upstream_retries_total",
	  "Blocks of messages that were sent to the cluster again.",
	  FIELD(counters.upstream_retries), false, false, 0 },
	{ "upstream_duplicates", "broker_upstream_duplicates_total",
	  "Messages that came from the cluster again.", FIELD(counters.upstream_duplicates), false,
	  false, 0 },
	{ "upstream_holes", "broker_upstream_holes_total",
	  "Times messages of a topic were missing.", FIELD(counters.upstream_holes), false, false,
	  0 },
	{ "upstream_repaired", "broker_upstream_repaired_total",
	  "Times they were fetched from the log.", FIELD(counters.upstream_repaired), false, false,
	  0 },
	{ "upstream_log_changed", "broker_upstream_log_changed_total",
	  "Times the log was found to be another one.", FIELD(counters.upstream_log_changed), false,
	  false, 0 },
	{ "upstream_false_acks", "broker_upstream_false_acks_total",
	  "Messages that were acknowledged and were not there.",
	  FIELD(counters.upstream_false_acks), false, false, 0 },
};

enum { FIGURES = sizeof(figures) / sizeof(*figures) };

/* Histograms: powers of two are bounds enough. */
static const struct distribution {
	const char *name, *metric, *help;
	size_t offset;
	unsigned first, last; /* powers of two */
	double unit;
} distributions[] = {
	{ "completions_per_turn", "broker_completions_per_turn",
	  "Completions handled in one turn of the loop.", FIELD(reactor.completions_per_turn), 0,
	  12, 1 },
	{ "requests_per_submit", "broker_requests_per_submit",
	  "Requests handed over by one system call.", FIELD(reactor.requests_per_submit), 0, 12,
	  1 },
	{ "letters_per_drain", "broker_letters_per_drain", "Letters taken out of a lane at once.",
	  FIELD(reactor.letters_per_drain), 0, 10, 1 },
	{ "parked", "broker_park_seconds", "How long the reactor slept each time.",
	  FIELD(reactor.parked), 10, 32, 1e9 },
	{ "turn", "broker_turn_seconds", "How long a turn of the loop took, sleep not counted.",
	  FIELD(reactor.turn), 12, 27, 1e9 },
	{ "long_turn", "broker_long_turn_cpu_seconds",
	  "CPU time of turns that took longer than a millisecond.", FIELD(reactor.long_turn), 17,
	  27, 1e9 },
	{ "tls_handshake", "broker_tls_handshake_seconds", "Time that a TLS handshake took.",
	  FIELD(tls.handshake), 17, 33, 1e9 },
	{ "send_gap", "broker_send_gap_seconds", "Time between two sends to a connection.",
	  FIELD(send_gap), 10, 34, 1e9 },
	{ "upstream_publish", "broker_upstream_publish_seconds",
	  "Time until a message that was published here had come back from the cluster.",
	  FIELD(upstream_publish), 17, 35, 1e9 },
	{ "hash", "broker_hash_seconds", "How long it took to hash a password.", FIELD(hash), 20,
	  34, 1e9 },
};

enum { DISTRIBUTIONS = sizeof(distributions) / sizeof(*distributions) };

static uint64_t value_of(const struct snapshot *snap, const struct figure *f)
{
	const char *at = (const char *)snap + f->offset;

	return f->narrow ? *(const uint32_t *)(const void *)at
			 : *(const uint64_t *)(const void *)at;
}

static const struct histogram *histogram_of(const struct snapshot *snap,
					    const struct distribution *d)
{
	return (const struct histogram *)(const void *)((const char *)snap + d->offset);
}

/* ---- Prometheus ---- */

/* What a line is about: one reactor, or all of them together. */
struct about {
	const struct snapshot *snaps;
	unsigned n;       /* snapshots */
	char reactor[24]; /* the label that says which one; empty: all of them */
	bool first;       /* of its metric */
	bool open;        /* in OpenMetrics' form */
};

/* OpenMetrics names a family of counters without what its samples' names end in. */
static void add_head(struct text *t, const struct about *a, const char *metric, const char *help,
		     const char *type)
{
	size_t n = strlen(metric);

	if (!a->first)
		return;
	if (a->open && strcmp(type, "counter") == 0)
		n -= strlen("_total");
	text_add(t, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)n, metric, help, (int)n, metric, type);
}

/* The name and labels of a sample; label: besides the reactor's, or empty. */
static void add_name(struct text *t, const struct about *a, const char *metric, const char *suffix,
		     const char *label)
{
	bool both = a->reactor[0] != '\0' && label[0] != '\0';

	text_add(t, "%s%s", metric, suffix);
	if (a->reactor[0] != '\0' || label[0] != '\0')
		text_add(t, "{%s%s%s}", a->reactor, both ? "," : "", label);
}

static void add_sample(struct text *t, const struct about *a, const char *metric,
		       const char *suffix, const char *label, uint64_t value)
{
	add_name(t, a, metric, suffix, label);
	text_add(t, " %" PRIu64 "\n", value);
}

static void add_figure(struct text *t, const struct about *a, const struct figure *f)
{
	uint64_t value = 0;

	add_head(t, a, f->metric, f->help, f->gauge ? "gauge" : "counter");
	for (unsigned i = 0; i < a->n; i++)
		value += value_of(&a->snaps[i], f);
	add_name(t, a, f->metric, "", "");
	if (f->unit > 0)
		text_add(t, " %.9f\n", (double)value / f->unit);
	else
		text_add(t, " %" PRIu64 "\n", value);
}

static void add_distribution(struct text *t, const struct about *a, const struct distribution *d)
{
	struct histogram all = { 0 };
	unsigned bucket = 0;
	uint64_t count = 0;
	char le[32];

	add_head(t, a, d->metric, d->help, "histogram");
	for (unsigned i = 0; i < a->n; i++)
		histogram_merge(&all, histogram_of(&a->snaps[i], d));
	for (unsigned power = d->first; power <= d->last; power++) {
		snprintf(le, sizeof(le), "le=\"%.9g\"", (double)(UINT64_C(1) << power) / d->unit);
		add_sample(t, a, d->metric, "_bucket", le,
			   histogram_upto(&all, power, &bucket, &count));
	}
	add_sample(t, a, d->metric, "_bucket", "le=\"+Inf\"", all.count);
	add_name(t, a, d->metric, "_sum", "");
	text_add(t, " %.9g\n", (double)all.sum / d->unit);
	add_sample(t, a, d->metric, "_count", "", all.count);
}

static void add_dropped(struct text *t, const struct about *a)
{
	char label[48];

	add_head(t, a, "broker_messages_dropped_total",
		 "Matched messages that were not delivered, by reason.", "counter");
	for (unsigned r = 0; r < DROP_REASONS; r++) {
		uint64_t value = 0;

		for (unsigned i = 0; i < a->n; i++)
			value += a->snaps[i].counters.dropped[r];
		snprintf(label, sizeof(label), "reason=\"%s\"", drop_reason_names[r]);
		add_sample(t, a, "broker_messages_dropped_total", "", label, value);
	}
}

static void add_gaps(struct text *t, const struct about *a)
{
	char label[48];

	add_head(t, a, "broker_upstream_gaps_total",
		 "Gaps told to topics of the cluster's, by reason.", "counter");
	for (unsigned r = 0; r < UPSTREAM_GAPS; r++) {
		uint64_t value = 0;

		for (unsigned i = 0; i < a->n; i++)
			value += a->snaps[i].counters.upstream_gaps[r];
		snprintf(label, sizeof(label), "reason=\"%s\"", upstream_gap_names[r]);
		add_sample(t, a, "broker_upstream_gaps_total", "", label, value);
	}
}

static void add_crossings(struct text *t, const struct about *a)
{
	char label[48];

	add_head(t, a, "broker_memory_crossings_total",
		 "Times a level of the memory budget was entered.", "counter");
	for (unsigned l = BUDGET_HISTORY; l < BUDGET_LEVELS; l++) {
		uint64_t value = 0;

		for (unsigned i = 0; i < a->n; i++)
			value += a->snaps[i].counters.memory_crossings[l];
		snprintf(label, sizeof(label), "level=\"%s\"", budget_level_names[l]);
		add_sample(t, a, "broker_memory_crossings_total", "", label, value);
	}
}

static void add_handshakes(struct text *t, const struct about *a)
{
	static const char metric[] = "broker_tls_handshakes_total";
	struct tls_counts all = { 0 };
	char label[64];

	add_head(t, a, metric, "TLS handshakes that have ended, and why when not well.", "counter");
	for (unsigned i = 0; i < a->n; i++) {
		all.full += a->snaps[i].tls.full;
		all.resumed += a->snaps[i].tls.resumed;
		for (unsigned r = 0; r < CIPHER_FAILURES; r++)
			all.failed[r] += a->snaps[i].tls.failed[r];
	}
	add_sample(t, a, metric, "", "result=\"full\",reason=\"\"", all.full);
	add_sample(t, a, metric, "", "result=\"resumed\",reason=\"\"", all.resumed);
	for (unsigned r = CIPHER_FAILURE_NONE + 1; r < CIPHER_FAILURES; r++) {
		snprintf(label, sizeof(label), "result=\"failed\",reason=\"%s\"",
			 cipher_failure_names[r]);
		add_sample(t, a, metric, "", label, all.failed[r]);
	}
}

static void add_accepts(struct text *t, const struct about *a)
{
	uint64_t value = 0;

	add_head(t, a, "broker_tls_accepts_refused_total",
		 "Connections closed before they cost a TLS handshake.", "counter");
	for (unsigned i = 0; i < a->n; i++)
		value += a->snaps[i].accepts_refused_by_rate;
	add_sample(t, a, "broker_tls_accepts_refused_total", "", "reason=\"rate\"", value);
}

static void add_certificates(struct text *t, const struct about *a, const struct shard *s)
{
	static const char metric[] = "broker_tls_certificate_expiry_seconds";
	const char *title;
	int64_t at_s;

	add_head(t, a, metric, "When a certificate's time ends, in seconds since 1970.", "gauge");
	for (size_t i = 0; i < s->broker->listeners_n; i++) {
		const struct keyring *keyring = atomic_load(&s->broker->listeners[i].keyring);

		for (size_t n = 0; keyring != NULL && keyring_expiry(keyring, n, &title, &at_s);
		     n++) {
			char name[6 * 64 + 3];

			name[json_string((struct span){ title, strnlen(title, 64) }, name)] = 0;
			text_add(t, "%s{listener=\"%s\",name=%s} %" PRId64 "\n", metric,
				 s->broker->listeners[i].address, name, at_s);
		}
	}
}

/* One counter of each, summed up. */
static void add_labelled(struct text *t, const struct about *a, const char *metric,
			 const char *label, size_t offset)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < a->n; i++)
		value += *(const uint64_t *)(const void *)((const char *)&a->snaps[i] + offset);
	add_sample(t, a, metric, "", label, value);
}

static void add_auth(struct text *t, const struct about *a)
{
	char label[64];

	add_head(t, a, "broker_auth_total", "Credentials shown, and what became of them.",
		 "counter");
	for (unsigned how = 0; how < HOWS; how++) {
		for (unsigned r = 0; how != HOW_ANONYMOUS && r < AUTH_RESULTS; r++) {
			snprintf(label, sizeof(label), "how=\"%s\",result=\"%s\"",
				 access_how_names[how], auth_result_names[r]);
			add_labelled(t, a, "broker_auth_total", label,
				     FIELD(counters.auth) +
					     (how * AUTH_RESULTS + r) * sizeof(uint64_t));
		}
	}
}

static void add_denied(struct text *t, const struct about *a)
{
	char label[48];

	add_head(t, a, "broker_denied_total", "What was asked for and not permitted.", "counter");
	for (unsigned action = 0; action < ACCESS_ACTIONS; action++) {
		snprintf(label, sizeof(label), "action=\"%s\"", access_action_names[action]);
		add_labelled(t, a, "broker_denied_total", label,
			     FIELD(counters.denied) + action * sizeof(uint64_t));
	}
}

enum { SECTION_NAME_MAX = 6 * (6 + 255) + 3, LABEL_MAX = SECTION_NAME_MAX + 64 };

static void add_latency(struct text *t, const struct about *a, const char *metric,
			const char *label, size_t offset)
{
	struct snapshot_latency all = { 0 };
	char le[LABEL_MAX + 32];

	for (unsigned i = 0; i < a->n; i++) {
		const struct snapshot_latency *l =
			(const void *)((const char *)&a->snaps[i] + offset);

		all.count += l->count;
		all.sum += l->sum;
		for (unsigned p = 0; p < LATENCY_POWERS; p++)
			all.upto[p] += l->upto[p];
	}
	if (all.count == 0)
		return;
	for (unsigned p = 0; p < LATENCY_POWERS; p++) {
		snprintf(le, sizeof(le), "%s,le=\"%.9g\"", label,
			 (double)(UINT64_C(1) << (LATENCY_FIRST_POWER + p)) / NS_PER_S);
		add_sample(t, a, metric, "_bucket", le, all.upto[p]);
	}
	snprintf(le, sizeof(le), "%s,le=\"+Inf\"", label);
	add_sample(t, a, metric, "_bucket", le, all.count);
	add_name(t, a, metric, "_sum", label);
	text_add(t, " %.9g\n", (double)all.sum / NS_PER_S);
	add_sample(t, a, metric, "_count", label, all.count);
}

static void add_door_latencies(struct text *t, const struct about *a)
{
	char label[48];

	add_head(t, a, "broker_delivery_seconds",
		 "From a message's receive to the end of the send that carried it to a subscriber, "
		 "by the subscriber's protocol; of some messages.",
		 "histogram");
	for (unsigned d = 0; d < DOORS; d++) {
		snprintf(label, sizeof(label), "door=\"%s\"", door_names[d]);
		add_latency(t, a, "broker_delivery_seconds", label,
			    FIELD(doors) + d * sizeof(struct snapshot_latency));
	}
}

/* As the configuration names it, in quotes. */
static void section_name(const struct config *config, unsigned section, char *name)
{
	char text[6 + 255 + 1];

	if (section == 0)
		snprintf(text, sizeof(text), "topics");
	else if (section == LATENCY_SECTIONS - 1 || section > config->topic_n)
		snprintf(text, sizeof(text), "others");
	else
		snprintf(text, sizeof(text), "topic %s", config->topic[section - 1].pattern);
	name[json_string(span_of(text), name)] = 0;
}

static void add_section_latencies(struct text *t, const struct about *a,
				  const struct config *config)
{
	char name[SECTION_NAME_MAX], label[LABEL_MAX];

	add_head(t, a, "broker_topic_delivery_seconds",
		 "The same by the section of the configuration that the topic is in.", "histogram");
	for (unsigned i = 0; i < LATENCY_SECTIONS; i++) {
		section_name(config, i, name);
		snprintf(label, sizeof(label), "section=%s", name);
		add_latency(t, a, "broker_topic_delivery_seconds", label,
			    FIELD(sections) + i * sizeof(struct snapshot_latency));
	}
}

/* What is not of one reactor. */
static void add_common(struct text *t, const struct shard *s, bool open)
{
	const struct about a = { .first = true, .open = open };

	add_head(t, &a, "broker_build_info", "The broker's version.", "gauge");
	text_add(t, "broker_build_info{version=\"%s\"} 1\n", BROKER_VERSION);
	add_head(t, &a, "broker_reactors", "Reactors, one thread each.", "gauge");
	text_add(t, "broker_reactors %u\n", s->broker->shards_n);
	add_head(t, &a, "broker_memory_bytes", "Memory that the budget counts.", "gauge");
	text_add(t, "broker_memory_bytes %" PRIu64 "\n", memory_used());
	add_head(t, &a, "broker_memory_limit_bytes", "The memory budget; 0: none.", "gauge");
	text_add(t, "broker_memory_limit_bytes %" PRIu64 "\n", budget_limit(s->broker));
	add_head(t, &a, "broker_memory_level",
		 "How tight the memory budget is: 1 history goes, 2 no new subscribers, 3 nobody "
		 "is accepted and the largest backlogs are evicted.",
		 "gauge");
	text_add(t, "broker_memory_level %u\n", budget_now(s->broker));
	add_head(t, &a, "broker_hash_pending", "Passwords that wait to be hashed.", "gauge");
	text_add(t, "broker_hash_pending %zu\n", workers_waiting(s->broker->desk->workers));
	add_head(t, &a, "broker_log_lines_dropped_total",
		 "Log lines that nobody took in time, or that could not be written.", "counter");
	text_add(t, "broker_log_lines_dropped_total %" PRIu64 "\n", log_dropped());
	add_certificates(t, &a, s);
}

/* Each metric of all reactors is one group; a step is one of them for one reactor, or for all. */
static bool write_step(struct text *t, const struct shard *s, const struct snapshot *all,
		       unsigned step, bool open)
{
	const bool totals = s->config->metrics == METRICS_TOTALS;
	const unsigned n = totals ? 1 : s->broker->shards_n;
	const unsigned metric = step / n, i = step % n;
	struct about a = { .snaps = &all[i],
			   .n = totals ? s->broker->shards_n : 1,
			   .first = i == 0,
			   .open = open };

	if (!totals)
		snprintf(a.reactor, sizeof(a.reactor), "reactor=\"%u\"", i);
	if (step == 0)
		add_common(t, s, open);
	if (metric < FIGURES)
		add_figure(t, &a, &figures[metric]);
	else if (metric < FIGURES + DISTRIBUTIONS)
		add_distribution(t, &a, &distributions[metric - FIGURES]);
	else if (metric == FIGURES + DISTRIBUTIONS)
		add_dropped(t, &a);
	else if (metric == FIGURES + DISTRIBUTIONS + 1)
		add_handshakes(t, &a);
	else if (metric == FIGURES + DISTRIBUTIONS + 2)
		add_accepts(t, &a);
	else if (metric == FIGURES + DISTRIBUTIONS + 3)
		add_crossings(t, &a);
	else if (metric == FIGURES + DISTRIBUTIONS + 4)
		add_auth(t, &a);
	else if (metric == FIGURES + DISTRIBUTIONS + 5)
		add_denied(t, &a);
	else if (metric == FIGURES + DISTRIBUTIONS + 6)
		add_door_latencies(t, &a);
	else if (metric == FIGURES + DISTRIBUTIONS + 7)
		add_gaps(t, &a);
	else
		add_section_latencies(t, &a, s->config);
	return step + 1 < (FIGURES + DISTRIBUTIONS + 9) * n;
}

bool metrics_write(struct text *t, const struct shard *s, const struct snapshot *all, unsigned step)
{
	return write_step(t, s, all, step, false);
}

bool openmetrics_write(struct text *t, const struct shard *s, const struct snapshot *all,
		       unsigned step)
{
	if (write_step(t, s, all, step, true))
		return true;
	text_add(t, "# EOF\n");
	return false;
}

/* ---- JSON ---- */

static void add_latency_json(struct text *t, const char *name, const struct snapshot_latency *l,
			     bool *first)
{
	uint64_t before = 0;

	if (l->count == 0)
		return;
	text_add(t,
		 "%s%s:{\"count\":%" PRIu64 ",\"sum\":%" PRIu64 ",\"max\":%" PRIu64
		 ",\"p50\":%" PRIu64 ",\"p99\":%" PRIu64 ",\"first_power\":%u,\"buckets\":[",
		 *first ? "" : ",", name, l->count, l->sum, l->max, l->p50, l->p99,
		 LATENCY_FIRST_POWER);
	for (unsigned p = 0; p < LATENCY_POWERS; p++) {
		text_add(t, "%" PRIu64 ",", l->upto[p] - before);
		before = l->upto[p];
	}
	text_add(t, "%" PRIu64 "]}", l->count - before);
	*first = false;
}

static void add_latencies_json(struct text *t, const struct config *config,
			       const struct snapshot *snap)
{
	char name[SECTION_NAME_MAX];
	bool first = true;

	text_add(t, ",\"delivery\":{");
	for (unsigned d = 0; d < DOORS; d++) {
		snprintf(name, sizeof(name), "\"%s\"", door_names[d]);
		add_latency_json(t, name, &snap->doors[d], &first);
	}
	text_add(t, "},\"topic_delivery\":{");
	first = true;
	for (unsigned i = 0; i < LATENCY_SECTIONS; i++) {
		section_name(config, i, name);
		add_latency_json(t, name, &snap->sections[i], &first);
	}
	text_add(t, "}");
}

static void add_reactor(struct text *t, const struct shard *s, unsigned i,
			const struct snapshot *snap)
{
	text_add(t, "%s{\"id\":%u,\"cpu\":%d", i > 0 ? "," : "", i,
		 s->broker->placement.slots[i].cpu);
	for (size_t f = 0; f < FIGURES; f++)
		text_add(t, ",\"%s\":%" PRIu64, figures[f].name, value_of(snap, &figures[f]));
	text_add(t, ",\"at_ns\":%" PRIu64 ",\"dropped\":{", snap->at_ns);
	for (unsigned r = 0; r < DROP_REASONS; r++)
		text_add(t, "%s\"%s\":%" PRIu64, r > 0 ? "," : "", drop_reason_names[r],
			 snap->counters.dropped[r]);
	text_add(t, "}");
	for (size_t d = 0; d < DISTRIBUTIONS; d++) {
		const struct histogram *h = histogram_of(snap, &distributions[d]);
		unsigned bucket = 0;
		uint64_t count = 0, before = 0;

		text_add(t,
			 ",\"%s\":{\"count\":%" PRIu64 ",\"sum\":%" PRIu64 ",\"max\":%" PRIu64
			 ",\"first_power\":%u,\"buckets\":[",
			 distributions[d].name, h->count, h->sum, h->max, distributions[d].first);
		for (unsigned power = distributions[d].first; power <= distributions[d].last;
		     power++) {
			uint64_t upto = histogram_upto(h, power, &bucket, &count);

			text_add(t, "%" PRIu64 ",", upto - before);
			before = upto;
		}
		text_add(t, "%" PRIu64 "]}", h->count - before);
	}
	add_latencies_json(t, s->config, snap);
	text_add(t, "}");
}

static void add_memory_json(struct text *t, const struct shard *s, const struct snapshot *all,
			    unsigned n)
{
	text_add(t, "\"memory\":{\"bytes\":%" PRIu64 ",\"limit\":%" PRIu64 ",\"level\":\"%s\"",
		 memory_used(), budget_limit(s->broker), budget_level_names[budget_now(s->broker)]);
	for (unsigned l = BUDGET_HISTORY; l < BUDGET_LEVELS; l++) {
		uint64_t crossings = 0;

		for (unsigned i = 0; i < n; i++)
			crossings += all[i].counters.memory_crossings[l];
		text_add(t, ",\"crossings_%s\":%" PRIu64, budget_level_names[l], crossings);
	}
	text_add(t, "}");
}

static void add_begin(struct text *t, const struct shard *s, const struct snapshot *all, unsigned n)
{
	text_add(t,
		 "{\"version\":\"%s\",\"time_ms\":%" PRIu64 ",\"uptime_s\":%" PRIu64
		 ",\"publish\":%s,",
		 BROKER_VERSION, clock_wall_ns() / NS_PER_MS,
		 (s->reactor.now_ns - s->reactor.stats.started_ns) / NS_PER_S,
		 s->config->http.page_publish ? "true" : "false");
	add_memory_json(t, s, all, n);
	text_add(t, ",\"reactors\":[");
}

static void add_topics(struct text *t, const struct snapshot *all, unsigned n)
{
	char name[6 * 255 + 3];
	bool first = true;

	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < all[i].busiest_n; k++) {
			const struct snapshot_topic *topic = &all[i].busiest[k];

			name[json_string((struct span){ topic->name, topic->name_len }, name)] = 0;
			text_add(t,
				 "%s{\"topic\":%s,\"home\":%u,\"per_second\":%" PRIu64
				 ",\"reactors\":%" PRIu64 "}",
				 first ? "" : ",", name, i, topic->per_second, topic->shards);
			first = false;
		}
}

bool stats_write(struct text *t, const struct shard *s, const struct snapshot *all, unsigned step)
{
	const unsigned n = s->broker->shards_n;

	if (step < n) {
		if (step == 0)
			add_begin(t, s, all, n);
		add_reactor(t, s, step, &all[step]);
		return true;
	}
	text_add(t, "],\"topics\":[");
	add_topics(t, all, n);
	text_add(t, "]}");
	return false;
}
