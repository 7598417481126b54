#ifndef BROKER_SUBSCRIPTION_H
#define BROKER_SUBSCRIPTION_H

/*
 * What ties a connection to a topic: a cursor in one of the streams of this shard's interest. A
 * connection has any number of them. The shard's thread only.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/pool.h"
#include "base/table.h"
#include "broker/counters.h"
#include "broker/wild.h"
#include "engine/deadline.h"
#include "topic/pattern.h"
#include "topic/stream.h"
#include "topic/topic.h"

struct block;
struct connection;
struct deal_letter;
struct gap_letter;
struct interest;
struct pattern_letter;
struct shard;
struct subscribe_letter;
struct topic_letter;

/* A shard's interests and their streams. */
struct audience {
	struct table interests; /* in topics */
	struct wilds wilds;     /* in patterns, and of groups */
	struct list gone;    /* members of groups that have left: they go at the end of the turn */
	uint32_t settings_n; /* one more with every configuration */
	size_t unconfigured; /* interests that have their settings from before */
	unsigned configured_in; /* interests, patterns or groups */
	size_t configured_at;
	struct list dirty;    /* streams with cursors that want a send */
	struct list replays;  /* streams with cursors that want a send of the past */
	struct list active;   /* streams that hold chunks, but for those */
	struct list untimed;  /* that are still to be looked at for what is too old */
	struct list appended; /* streams that something was appended to in this turn */
	struct list recounts; /* interests with more or fewer subscribers */
	uint32_t pressed;     /* streams that fan-out lags so far behind that no lane is drained */
	bool relieved;        /* there are fewer of them than at the last look */
	uint64_t hold_ends;   /* the broker's, when paused publishers last had a look */
	struct pool subscription_pool;
	uint32_t subscriptions_n;
	struct deadline_class backlog;
	struct deadline backlog_deadline;
};

/* In its cursor, so that both together are two cache lines. */
enum subscription_flag {
	SUBSCRIPTION_ASKED = 1,  /* the home has not answered yet */
	SUBSCRIPTION_QUEUED = 2, /* its turn in the connection's sends comes; its cursor is busy */
	SUBSCRIPTION_IN_FLIGHT = 4, /* the connection's send carries bytes of it */
	SUBSCRIPTION_SKIP = 8,      /* to be let go as soon as that has ended */
	SUBSCRIPTION_UNWANTED = 16, /* to be ended as soon as that has ended */
	SUBSCRIPTION_HELD = 32,     /* ASKED, though the home has answered: it is still to begin */
	SUBSCRIPTION_REPLIES = 64,  /* its client sees where a reply is wanted */
	SUBSCRIPTION_ENOUGH = 128,  /* it gets what is its already, and ends */
};

struct subscription {
	struct cursor cursor;
	/* NULL: it has ended, and goes as soon as nothing refers to it (ASKED, QUEUED). */
	struct connection *connection;
	union {
		struct interest *interest; /* while it is asked for */
		struct stream *stream;     /* then; its owner is the interest */
	};
	void *session;             /* what its protocol knows it by */
	struct list link;          /* the next in the connection's ring, and the one before */
	struct subscription *next; /* in the connection's queue */
};

static inline bool subscription_is(const struct subscription *sub, enum subscription_flag flag)
{
	return sub->cursor.owner & flag;
}

static inline void subscription_set(struct subscription *sub, enum subscription_flag flag)
{
	sub->cursor.owner |= (uint8_t)flag;
}

static inline void subscription_unset(struct subscription *sub, enum subscription_flag flag)
{
	sub->cursor.owner &= (uint8_t)~flag;
}

/* The next of its connection's; of the only one: itself. */
static inline struct subscription *subscription_next(const struct subscription *sub)
{
	return LIST_ENTRY(sub->link.next, struct subscription, link);
}

/* The one before: of the ring's first, the newest. */
static inline struct subscription *subscription_before(const struct subscription *sub)
{
	return LIST_ENTRY(sub->link.prev, struct subscription, link);
}

/* Its stream; NULL while the home has not answered. */
static inline struct stream *subscription_stream(const struct subscription *sub)
{
	return subscription_is(sub, SUBSCRIPTION_ASKED) ? NULL : sub->stream;
}

static inline struct interest *subscription_interest(const struct subscription *sub)
{
	return subscription_is(sub, SUBSCRIPTION_ASKED) ? sub->interest : sub->stream->owner;
}

struct subscription_wanted {
	struct span name;
	enum pattern_kind pattern; /* how the name is meant; valid as such */
	struct span group;         /* empty: it is in none. Of at most PATTERN_GROUP_MAX bytes */
	struct wire wire;          /* in which it is sent */
	struct replay replay;      /* of a pattern: none, or the last one of each topic */
	void *session;
	/* The home answers in any case, and then it waits for subscription_begin instead of getting
	 * what is published; `subscribed` is not called, and there is no past. */
	bool later;
};

/* Asks for a topic; name and parameter are copied. Its protocol's `subscribed` follows when the
 * home has answered, or at once, before this returns, if there is nothing to ask. *made: NULL if it
 * has ended by then. -ENOMEM, -ENOSPC (limit), -ENOBUFS (memory budget), -EINVAL (of a pattern's
 * past there is no more than the last messages): there is none. */
int subscription_new(struct connection *connection, const struct subscription_wanted *wanted,
		     struct subscription **made);
/* One that was wanted for later, and stands at its home since connection->asked has become 0, gets
 * what comes from now on. -ENOMEM: it is as it was. */
int subscription_begin(struct subscription *subscription, const struct wire *wire);
/* Its client does not want it any more: nothing more of it from now on but the rest of a message
 * and what the kernel has. It may be gone when this returns. */
void subscription_end(struct subscription *subscription);
/* The last that it gets is the message with this number in its stream's count (cursor.counted is
 * where it is): then it ends, and its protocol's `enough` is called. What has come before is its in
 * any case. It stands. It may be gone when this returns. -ENOMEM: there is no limit. */
int subscription_limit(struct subscription *subscription, uint64_t count);
/* A home's answer about a pattern; takes the letter over. */
void subscription_known(struct shard *shard, struct pattern_letter *letter);
/* Messages for members of a group here; takes the letter over. */
void subscriptions_dealt(struct shard *shard, struct deal_letter *letter);
/* Once per turn: frees what has ended in the last one. */
void subscriptions_reap(struct shard *shard);
/* The home's answer; takes the letter over. */
void subscription_answered(struct shard *shard, struct subscribe_letter *letter);
/* Nothing more for it from now on; what is its already it still gets. */
void subscription_leave(struct subscription *subscription);
/* The same, and of what is its already only the rest of a message that is under way; it may be gone
 * when this returns. */
void subscription_cut(struct subscription *subscription, enum drop_reason reason);
/* Whether it has got everything it will ever get. */
bool subscription_done(const struct subscription *subscription);
/* It is too far behind: it is told so and closed, or skips ahead, as its topic wants. */
void subscription_overtake(struct subscription *subscription);
/* Nothing could be sent for it, though it is not at its end: it gets another turn. */
void subscription_go_on(struct subscription *subscription);
/* Its send ended: so many bytes of it went. */
void subscription_sent(struct subscription *subscription, size_t bytes);
/* Its connection is in the middle of something else: it gets its turn there. */
void subscription_queue(struct subscription *subscription);
/* Ends it; nothing of it may be in flight. Messages it has not got are dropped for this reason. */
void subscription_free(struct subscription *subscription, enum drop_reason reason);
/* One that has ended and that no queue refers to any more. */
void subscription_give_back(struct subscription *subscription, struct shard *shard);

/* A sequenced block for this shard's subscribers; takes the block over. */
void subscriptions_deliver(struct shard *shard, struct block *block);
/* The last publisher of a topic that says goodbye has left; takes the letter over. */
void subscriptions_bye(struct shard *shard, struct topic_letter *letter);
/* Messages of a topic are missing: tells its subscribers; takes the letter over. */
void subscriptions_gap(struct shard *shard, struct gap_letter *letter);
/* At the end of a turn: deals with those who have more bytes before them than they may, in the
 * streams that something was appended to, while there is time. True: there are more. */
bool subscriptions_bound_bytes(struct shard *shard);
/* Before something is appended to a stream and after fan-out has served it: while it is three
 * eighths of a backlog behind, the publishers of its topic wait. */
void subscriptions_hold(struct shard *shard, struct stream *stream);
/* At any time: while it is six eighths behind all the same, with what was under way, the shard
 * takes nothing in from others. */
void subscriptions_press(struct shard *shard, struct stream *stream);
/* Who has been behind too long in any stream that holds chunks is to be dealt with by
 * subscriptions_bound_time_some, and streams are to rest. Returns whether any holds some. */
bool subscriptions_bound_time(struct shard *shard);
/* Deals with some of them. True: there are more. */
bool subscriptions_bound_time_some(struct shard *shard);
/* An interest that nobody has any more ends, once no answer is under way that counts on it. */
void subscriptions_let_go(struct shard *shard, struct interest *interest);
/* The configuration is about to change. An interest gets its settings when it is asked for, the
 * others in subscriptions_configure_some, to be called as home_configure_some. */
void subscriptions_configure(struct shard *shard);
bool subscriptions_configure_some(struct shard *shard);
/* Tells the homes where there are more or fewer subscribers than they know. To be called at the end
 * of each turn. */
void subscriptions_recount(struct shard *shard);
/* Frees the interests that are left when all connections are gone. */
void subscriptions_release(struct shard *shard);

#endif
