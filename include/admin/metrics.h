#ifndef ADMIN_METRICS_H
#define ADMIN_METRICS_H

/*
 * /metrics in Prometheus' text format and /stats.json: the same figures, from the snapshots.
 */

struct broker;
struct shard;
struct text;

/* Adds the pages, before the shards start. */
void metrics_init(struct broker *broker);
/* What /stats.json answers. */
void stats_json(struct shard *asking, struct text *out);

#endif
