#ifndef BROKER_SHARD_H
#define BROKER_SHARD_H

/*
 * A shard: a reactor with the topics it is home of, its interests in everybody's topics, its
 * connections, and its mail. It belongs to its thread; what several threads share is in broker.h.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/pool.h"
#include "base/table.h"
#include "broker/broker.h"
#include "broker/budget.h"
#include "broker/mail.h"
#include "engine/reactor.h"
#include "engine/socket.h"
#include "topic/history.h"
#include "topic/letter.h"

struct block;
struct connection;
struct interest;
struct objects;
struct stream;
struct topic;

/* Why a message that was matched with a subscriber did not go out to it. */
enum drop_reason {
	DROP_SLOW,
	DROP_SKIPPED,
	DROP_CLOSED,
	DROP_UNENCODABLE,
	DROP_MEMORY,
	DROP_REASONS
};
extern const char *const drop_reason_names[DROP_REASONS];

/* One writer, the shard. matched = delivered + the sum of dropped whenever nothing is under way. */
struct shard_counters {
	uint64_t published; /* messages sequenced here as home */
	uint64_t matched; /* messages times the subscribers here that they are for, replays included
			   */
	uint64_t delivered; /* handed to the kernel whole */
	uint64_t dropped[DROP_REASONS];
	uint64_t blocks_in, blocks_delivered;
	uint64_t received_bytes, sent_bytes;
	uint64_t accepted, refused, errors; /* connections: refused by a limit, ended by an ERROR */
	uint64_t pauses;                    /* publishers told to wait */
	/* What the memory budget took: times its levels were entered, blocks of history dropped,
	 * subscribers refused, connections evicted. */
	uint64_t memory_crossings[BUDGET_LEVELS];
	uint64_t memory_history, memory_refused, memory_evicted;
};

struct shard {
	unsigned id;
	struct broker *broker;
	const struct config *config;
	struct reactor reactor;
	struct sockets sockets;
	struct shard_counters counters;

	struct table topics; /* home of */
	struct history_total history;
	int64_t history_told;               /* to broker->history_bytes */
	_Atomic uint64_t history_oldest_ns; /* for the others; UINT64_MAX: there is none */
	struct list *idle_topics; /* topics without clients, oldest first: one list per topic
				     setting of the config */
	bool sweeping;            /* some of them are to be forgotten in this turn */
	struct table interests;
	struct list dirty;    /* streams with cursors that want a send */
	struct list replays;  /* streams with cursors that want a send of the past */
	struct list active;   /* streams that hold chunks */
	struct list appended; /* streams that something was appended to in this turn */
	uint32_t pressed;     /* streams that fan-out lags so far behind that no lane is drained */
	bool relieved;        /* there are fewer of them than at the last look */
	uint64_t hold_ends;   /* the broker's, when paused publishers last had a look */

	struct pool connection_pool, subscription_pool;
	struct list connections; /* all but the unlooked */
	struct list unlooked; /* those that more than a word was sent to since the kernel was asked
				 what it holds for them, or that it held something for */
	uint32_t connections_n, subscriptions_n;
	uint32_t refused_n; /* connections that are being told why they are refused */
	uint32_t late_n;    /* of connections_n: that came while draining, which waits for none */
	struct list paused; /* publishers that wait for an outbox to empty */
	struct mail mail;

	struct deadline_class handshake, closing, idle, backlog, sweep, stats_class, accept, drain;
	struct deadline backlog_deadline, sweep_deadline, stats_deadline, accept_deadline,
		drain_deadline;

	struct deadline_class second;
	struct deadline second_deadline;
	struct deadline_class heartbeat, stall, wait; /* http_answer.c, fetch.c */
	struct list answers; /* fetched for those who waited, to be given in the next turns */
	uint32_t waiting_n;  /* requests that wait at topics here */
	char date[32];       /* for HTTP, of this second */
	uint64_t date_second;
	struct objects *objects; /* static files */

	struct deadline_class memory; /* budget.c */
	struct deadline memory_deadline;
	uint64_t looked_sends;            /* sends, at the last look */
	_Atomic uint64_t largest_backlog; /* while there is eviction */
	bool nobody_to_evict; /* but for small ones, as of the last look, in the whole broker */
	bool accept_stopped;
	bool accept_ended; /* for good */
	bool held_up;      /* publishers were told to wait for memory */

	uint64_t accept_waiting; /* bit per listener (modulo 64): not armed for want of file
				    descriptors */
	bool draining;
	struct letter drained; /* in everybody's lanes: LETTER_DRAINED */
	bool cut_off;          /* drain_seconds are over */
	bool marked[LANES];    /* said in every lane that nothing more will come */
	unsigned marks[LANES]; /* heard */
	struct stats *stats;   /* admin/stats.c */
	bool publishing_stats; /* admin/metrics.c: figures for $sys.stats are being collected */
	uint64_t ranked_ns;    /* admin/snapshot.c */

	/* The last LETTER_HEARTBEAT's round, for the main thread to see; UINT64_MAX: has ended. */
	_Atomic uint64_t watchdog_round;
	/* The main thread's, which sends the next one only when this one has been read. */
	struct heartbeat_letter {
		struct letter letter;
		uint64_t round;
	} watchdog_letter;
};

/* To be called on the shard's own, bound thread: makes its ring. -errno as ring_new. */
int shard_init(struct shard *shard, struct broker *broker, unsigned id,
	       const struct config *config);
/* Turns until it has drained. */
void shard_run(struct shard *shard);
/* After every shard has ended. */
void shard_release(struct shard *shard);

/* The home of a topic. */
unsigned shard_home(const struct shard *shard, uint64_t hash);

/* Sends a letter: it is handed over at the end of the turn. */
void shard_post(struct shard *shard, unsigned to, enum mailbox_lane lane, struct letter *letter);
/* Whether publishers of a topic with that hash must wait. */
bool shard_congested(struct shard *shard, uint64_t hash);
/* Fan-out does not keep up with a stream of that topic: its publishers on all shards wait. */
void shard_hold(struct shard *shard, uint64_t hash);
/* It has caught up: the end of one shard_hold. */
void shard_release_hold(struct shard *shard, uint64_t hash);

/* A block of new messages on its way to its home; takes the block over. */
void shard_publish(struct shard *shard, struct block *block);
/* A stream has ready cursors: it will be served at the end of the turn. */
void shard_dirty(struct shard *shard, struct stream *stream);
/* A stream holds chunks: see to it that it rests when nothing comes. */
void shard_active(struct shard *shard, struct stream *stream);

/* LETTER_RELOAD: the last shard to read it frees what was before. */
struct reload_letter {
	struct letter letter;
	const struct config *config;
	struct objects *objects;  /* held for the reader */
	struct list *idle_topics; /* as in struct shard, for that configuration */
	struct reload {
		_Atomic unsigned left;
		struct config *before;
	} * reload;
};

/* With all that its reader will need, so that a reload fails before it begins or not at all; refers
 * to the objects. NULL: out of memory. */
struct reload_letter *reload_letter_new(const struct config *config, struct objects *objects,
					struct reload *reload);

#endif
