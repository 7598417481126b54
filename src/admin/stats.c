#include "admin/stats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "broker/shard.h"

/* What the line before was made from. */
struct stats {
	uint64_t at_ns;
	struct reactor_stats reactor;
	struct histogram send_gap;
};

/* What the first line is made from, and every one until there is memory to remember the last. */
static const struct stats nothing;

static uint64_t quantile_since(const struct histogram *now, const struct histogram *then,
			       double part)
{
	struct histogram since;

	histogram_since(&since, now, then);
	return histogram_quantile(&since, part);
}

void stats_report(struct shard *s, bool last)
{
	const struct reactor_stats *r = &s->reactor.stats;
	const struct ring_counts *ring = ring_counts(s->reactor.ring);
	const struct shard_counters *c = &s->counters;
	uint64_t dropped = 0, now_ns = clock_now_ns(), elapsed_ns;
	const struct stats *before = s->figures.stats != NULL ? s->figures.stats : &nothing;
	uint64_t since_ns = s->figures.stats != NULL ? before->at_ns : r->started_ns;
	char reasons[256];
	size_t n = 0;

	for (unsigned i = 0; i < DROP_REASONS; i++) {
		dropped += c->dropped[i];
		n += (size_t)snprintf(reasons + n, sizeof(reasons) - n, " dropped_%s=%" PRIu64,
				      drop_reason_names[i], c->dropped[i]);
	}
	elapsed_ns = now_ns > since_ns ? now_ns - since_ns : 1;
	log_info("stats reactor=%u published=%" PRIu64 " matched=%" PRIu64 " delivered=%" PRIu64
		 " dropped=%" PRIu64 "%s connections=%u subscriptions=%u topics=%zu turns=%" PRIu64
		 " enters=%" PRIu64 " sends=%" PRIu64 " completions_p50=%" PRIu64
		 " completions_p99=%" PRIu64 " requests_p50=%" PRIu64 " letters_p50=%" PRIu64
		 " send_gap_p50_us=%" PRIu64 " wakes=%" PRIu64 " pauses=%" PRIu64
		 " refused=%" PRIu64 " errors=%" PRIu64 " no_buffers=%" PRIu64
		 " cq_overflows=%" PRIu64 " late=%" PRIu64 " turn_p99_us=%" PRIu64
		 " turn_max_us=%" PRIu64 " long_turns=%" PRIu64 " long_turn_cpu_max_us=%" PRIu64
		 " parked=%.1f%%",
		 s->id, c->published, c->matched, c->delivered, dropped, reasons,
		 s->clients.connections_n, s->audience.subscriptions_n, s->home.topics.entries_n,
		 r->turns, ring->enters, s->sockets.sends,
		 quantile_since(&r->completions_per_turn, &before->reactor.completions_per_turn,
				0.5),
		 quantile_since(&r->completions_per_turn, &before->reactor.completions_per_turn,
				0.99),
		 quantile_since(&r->requests_per_submit, &before->reactor.requests_per_submit, 0.5),
		 quantile_since(&r->letters_per_drain, &before->reactor.letters_per_drain, 0.5),
		 quantile_since(&s->sockets.send_gap, &before->send_gap, 0.5) / NS_PER_US,
		 r->wakes_sent, c->pauses, c->refused, c->errors, ring->no_buffers, ring->overflows,
		 r->late_completions,
		 quantile_since(&r->turn, &before->reactor.turn, 0.99) / NS_PER_US,
		 r->turn.max / NS_PER_US, r->long_turn.count, r->long_turn.max / NS_PER_US,
		 100.0 * (double)(r->parked_ns - before->reactor.parked_ns) / (double)elapsed_ns);
	if (last) {
		free(s->figures.stats);
		s->figures.stats = NULL;
		return;
	}
	if (s->figures.stats == NULL)
		s->figures.stats = malloc(sizeof(*s->figures.stats));
	if (s->figures.stats != NULL)
		*s->figures.stats = (struct stats){ now_ns, *r, s->sockets.send_gap };
}
