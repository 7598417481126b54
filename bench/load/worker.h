#ifndef LOAD_WORKER_H
#define LOAD_WORKER_H

/*
 * One thread of the generator: a reactor with a share of the subscribers and of the publishers. All
 * calls belong to that thread; others read what is atomic, and the rest once it has ended.
 */

#include <pthread.h>
#include <stdatomic.h>

#include "base/histogram.h"
#include "base/list.h"
#include "engine/reactor.h"
#include "engine/socket.h"
#include "load/flow.h"
#include "load/run.h"
#include "load/secure.h"

struct client;
struct publisher;
struct subscriber;

struct worker {
	struct run *run;
	unsigned id;
	pthread_t thread;
	struct reactor reactor;
	struct sockets sockets;
	bool running;      /* the clock is: publish and measure */
	uint64_t alarm_ns; /* 0: not armed */

	unsigned handshakes;       /* under way */
	uint64_t handshake_end_ns; /* they must be over by then */

	struct secure secure;

	struct client *idle;
	struct subscriber *subscribers;
	struct publisher *publishers;
	unsigned idle_n, subscribers_n, publishers_n;
	struct flow_view *views;    /* by flow */
	struct publisher **senders; /* by flow; NULL: another worker's */

	struct list ready;           /* publishers that may have something to send */
	struct flow_view **advanced; /* views whose publishers may not know yet */
	unsigned advanced_n;
	unsigned next_due; /* index of the publisher whose turn it is, when paced */
	bool started;
	uint64_t drained_ns; /* 0: not yet */

	double churn_period_ns; /* 0: none */
	uint64_t churned;       /* connections that came and left */
	unsigned churning;      /* that are there */

	/* Of messages meant to be sent within the measured interval. */
	struct histogram latency, slowest;
	uint64_t delivered, published;

	unsigned stalled,
		stalled_closed; /* subscribers that did not read; that the broker closed */

	/* What the main thread sees while it runs. */
	struct {
		_Atomic uint64_t delivered, published, churned;
		pthread_mutex_t lock; /* of the copy, once a second */
		struct histogram latency;
		uint64_t copied_ns;
	} live;
};

/* The thread. */
void *worker_main(void *worker);

/* The flow's view has advanced; its publisher is to be told at the end of the turn. */
void worker_advanced(struct worker *worker, struct flow_view *view);

#endif
