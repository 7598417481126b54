#ifndef ADMIN_METRICS_H
#define ADMIN_METRICS_H

/*
 * /metrics in Prometheus' text format and /stats.json: the same figures, of the moment of asking.
 * While anybody subscribes to $sys.stats, its home publishes there what /stats.json says, once a
 * second, with the busiest topics.
 */

struct broker;

/* Adds the pages and the topic, before the shards start. */
void metrics_init(struct broker *broker);

#endif
