#ifndef ADMIN_METRICS_H
#define ADMIN_METRICS_H

/*
 * What has been collected, as text: in Prometheus' format (prometheus.io, "Exposition formats",
 * text-based) or OpenMetrics' (openmetrics.io, 1.0), of each reactor or of all together as the
 * configuration says, and as JSON. With many reactors that takes longer than a turn of the loop
 * may, so each is written in steps of some microseconds.
 */

#include <stdbool.h>

struct shard;
struct snapshot;
struct text;

/* Writes a step of it, the first of which is 0. all: of every shard; shard: on which this runs.
 * Whether there is another one. */
bool metrics_write(struct text *text, const struct shard *shard, const struct snapshot *all,
		   unsigned step);
bool openmetrics_write(struct text *text, const struct shard *shard, const struct snapshot *all,
		       unsigned step);
bool stats_write(struct text *text, const struct shard *shard, const struct snapshot *all,
		 unsigned step);

#endif
