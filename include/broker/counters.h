#ifndef BROKER_COUNTERS_H
#define BROKER_COUNTERS_H

/*
 * What a shard counts. One writer, the shard; others read a copy that it has made.
 */

#include <stdint.h>

#include "broker/access.h"
#include "broker/budget.h"
#include "broker/identity.h"

/* How it went. */
enum auth_result { AUTH_OK, AUTH_WRONG, AUTH_BUSY, AUTH_RESULTS };
extern const char *const auth_result_names[AUTH_RESULTS];

/* Why something of a cluster's topic is not known here. */
enum upstream_gap {
	UPSTREAM_GAP_LOST,    /* a connection was, and there is no log */
	UPSTREAM_GAP_MEMORY,  /* there was none for it */
	UPSTREAM_GAP_GONE,    /* the log has no more of it */
	UPSTREAM_GAP_TIME,    /* it could not be fetched in time */
	UPSTREAM_GAP_BYTES,   /* or it was too much */
	UPSTREAM_GAP_CHANGED, /* the log is another one */
	UPSTREAM_GAPS
};
extern const char *const upstream_gap_names[UPSTREAM_GAPS];

/* Why a message that was matched with a subscriber did not go out to it. */
enum drop_reason {
	DROP_SLOW,
	DROP_SKIPPED,
	DROP_CLOSED,
	DROP_UNENCODABLE,
	DROP_MEMORY,
	DROP_GAP, /* its upstream did not have it; how many were, nobody knows: it counts as one */
	DROP_REASONS
};
extern const char *const drop_reason_names[DROP_REASONS];

/* matched = delivered + the sum of dropped whenever nothing is under way. */
struct shard_counters {
	uint64_t published; /* messages sequenced here as home */
	uint64_t matched; /* messages times the subscribers here that they are for, replays included
			   */
	uint64_t delivered; /* handed to the kernel whole */
	uint64_t dropped[DROP_REASONS];
	uint64_t blocks_in, blocks_delivered;
	uint64_t received_bytes, sent_bytes;
	uint64_t accepted, refused, errors; /* connections: refused by a limit, ended by an ERROR */
	uint64_t messages_refused; /* that were not published, though their client goes on */
	uint64_t pauses;           /* publishers told to wait */
	/* What the memory budget took: times its levels were entered, blocks of history dropped,
	 * subscribers refused, connections evicted. */
	uint64_t memory_crossings[BUDGET_LEVELS];
	uint64_t memory_history, memory_refused, memory_evicted;
	uint64_t auth[HOWS][AUTH_RESULTS]; /* credentials */
	uint64_t denied[ACCESS_ACTIONS];   /* to whoever was there */
	/* Of the connection to a cluster: whether it is there, how often it came again; its topics
	 * that are subscribed to, messages not answered, gaps told. */
	uint64_t upstream_up, upstream_reconnects, upstream_interests, upstream_unanswered;
	uint64_t upstream_gaps[UPSTREAM_GAPS];
	/* With a log: blocks sent again, messages that came twice, holes and those that were
	 * filled, times it was another one, acknowledgements of what was not there. */
	uint64_t upstream_retries, upstream_duplicates, upstream_holes, upstream_repaired,
		upstream_log_changed, upstream_false_acks;
	uint64_t upstream_rtt_ns; /* of the last PING */
};

#endif
