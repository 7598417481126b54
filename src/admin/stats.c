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
	struct histogram since; /* scratch */
};

static uint64_t quantile_since(struct stats *st, const struct histogram *now,
			       const struct histogram *then, double part)
{
	histogram_since(&st->since, now, then);
	return histogram_quantile(&st->since, part);
}

void stats_report(struct shard *s, bool last)
{
	const struct reactor_stats *r = &s->reactor.stats;
	const struct ring_counts *ring = ring_counts(s->reactor.ring);
	const struct shard_counters *c = &s->counters;
	uint64_t dropped = 0, now_ns = clock_now_ns(), elapsed_ns;
	struct stats *st = s->stats;
	char reasons[256];
	size_t n = 0;

	if (st == NULL) {
		st = s->stats = calloc(1, sizeof(*st));
		if (st == NULL)
			return;
		st->at_ns = r->started_ns;
	}
	for (unsigned i = 0; i < DROP_REASONS; i++) {
		dropped += c->dropped[i];
		n += (size_t)snprintf(reasons + n, sizeof(reasons) - n, " dropped_%s=%" PRIu64,
				      drop_reason_names[i], c->dropped[i]);
	}
	elapsed_ns = now_ns > st->at_ns ? now_ns - st->at_ns : 1;
	log_info("stats reactor=%u published=%" PRIu64 " matched=%" PRIu64 " delivered=%" PRIu64
		 " dropped=%" PRIu64 "%s connections=%u subscriptions=%u topics=%zu turns=%" PRIu64
		 " enters=%" PRIu64 " sends=%" PRIu64 " completions_p50=%" PRIu64
		 " completions_p99=%" PRIu64 " requests_p50=%" PRIu64 " letters_p50=%" PRIu64
		 " send_gap_p50_us=%" PRIu64 " wakes=%" PRIu64 " pauses=%" PRIu64
		 " refused=%" PRIu64 " errors=%" PRIu64 " no_buffers=%" PRIu64
		 " cq_overflows=%" PRIu64 " late=%" PRIu64 " parked=%.1f%%",
		 s->id, c->published, c->matched, c->delivered, dropped, reasons, s->connections_n,
		 s->subscriptions_n, s->topics.entries_n, r->turns, ring->enters, s->sockets.sends,
		 quantile_since(st, &r->completions_per_turn, &st->reactor.completions_per_turn,
				0.5),
		 quantile_since(st, &r->completions_per_turn, &st->reactor.completions_per_turn,
				0.99),
		 quantile_since(st, &r->requests_per_submit, &st->reactor.requests_per_submit, 0.5),
		 quantile_since(st, &r->letters_per_drain, &st->reactor.letters_per_drain, 0.5),
		 quantile_since(st, &s->sockets.send_gap, &st->send_gap, 0.5) / NS_PER_US,
		 r->wakes_sent, c->pauses, c->refused, c->errors, ring->no_buffers, ring->overflows,
		 r->late_completions,
		 100.0 * (double)(r->parked_ns - st->reactor.parked_ns) / (double)elapsed_ns);
	st->at_ns = now_ns;
	st->reactor = *r;
	st->send_gap = s->sockets.send_gap;
	if (last) {
		free(st);
		s->stats = NULL;
	}
}
