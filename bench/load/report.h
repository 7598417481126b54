#ifndef LOAD_REPORT_H
#define LOAD_REPORT_H

/* The result of a run, as a table for people or as one JSON object. Main thread. */

#include <stdio.h>

#include "base/histogram.h"
#include "load/counters.h"
#include "load/run.h"
#include "load/sample.h"

struct result {
	uint64_t elapsed_ns; /* measured */
	uint64_t delivered, published, churned;
	uint64_t delivered_in_all; /* warm-up and what came after the end included: all were checked
				    */
	struct histogram latency, slowest;
	struct process_sample broker[2], load[2];
	struct machine_sample machine[2];
	struct counters counters[2];
	/* Of the broker: before and after the idle subscribers came. */
	struct process_sample idle[2];
	uint64_t full, resumed;      /* TLS handshakes of the whole run, */
	struct histogram handshakes; /* and how long they took; ns */
	const char *tls_version, *tls_suite;
	unsigned stalled,
		stalled_closed; /* subscribers that did not read; that the broker closed */
};

void report_table(FILE *out, const struct run *run, const struct result *result);
void report_json(FILE *out, const struct run *run, const struct result *result);

/* A second of a run. */
struct second {
	double at_s, left_s;
	double delivered_per_s, published_per_s;
	uint64_t in_flight; /* deliveries that are still to come */
	uint64_t p50_ns, p99_ns;
};

void report_live(FILE *out, const struct run *run, const struct second *second);
void report_jsonl(FILE *out, const struct second *second);

#endif
