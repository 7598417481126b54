#ifndef ADMIN_STATS_H
#define ADMIN_STATS_H

/*
 * The line of statistics that each reactor writes to the log. Counters are since the start;
 * quantiles and shares since the line before. The shard's thread only.
 */

#include <stdbool.h>

struct shard;

/* The broker's report function. last: the shard has ended. */
void stats_report(struct shard *shard, bool last);

#endif
