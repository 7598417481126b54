#ifndef LOAD_COUNTERS_H
#define LOAD_COUNTERS_H

/*
 * The broker's own counters, over all its reactors, from GET /metrics (Prometheus' text format).
 * One blocking request on a connection of its own. Main thread.
 */

#include <stdbool.h>

#include "base/span.h"

struct address;

struct counters {
	bool valid;
	double delivered, sends, enters, turns, completions;
};

void counters_read(struct counters *counters, const struct address *address);

/* The sum of a metric's samples in the text, whatever their labels. */
double counters_sum(struct span text, const char *metric);

#endif
