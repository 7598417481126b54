#ifndef BROKER_SUBSCRIPTION_H
#define BROKER_SUBSCRIPTION_H

/*
 * What ties a connection to a topic: a cursor in one of the streams of this shard's interest. A
 * connection has any number of them. The shard's thread only.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "broker/counters.h"
#include "topic/pattern.h"
#include "topic/stream.h"
#include "topic/topic.h"

struct connection;
struct interest;
struct pattern_letter;
struct shard;
struct subscribe_letter;

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
/* Its client wants no more than what is its already: it gets that, and ends. False: there is
 * something of it still to be sent; true: it is gone. */
bool subscription_retire(struct subscription *subscription);
/* The last that it gets is the message with this number in its stream's count (cursor.counted is
 * where it is): then it ends, and its protocol's `enough` is called. What has come before is its in
 * any case. It stands. It may be gone when this returns. -ENOMEM: there is no limit. */
int subscription_limit(struct subscription *subscription, uint64_t count);
/* Those in this stream that are limited to where it is have enough. */
void subscriptions_enough(struct interest *interest, const struct stream *stream);
/* How many of so many messages may go into the stream before somebody has enough; 1 at least. */
uint32_t subscriptions_until_enough(const struct stream *stream, uint32_t n);
/* A home's answer about a pattern; takes the letter over. */
void subscription_known(struct shard *shard, struct pattern_letter *letter);
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
/* The same while its connection's barrier waits: it stays in the queue as long as there is more
 * from before that. */
void subscription_sent_barred(struct subscription *subscription, size_t bytes);
/* Its connection is in the middle of something else: it gets its turn there. */
void subscription_queue(struct subscription *subscription);
/* The same where there is something of it to be sent. */
void subscription_queue_if_behind(struct subscription *subscription);
/* The connection's barrier stands before what comes from now on. */
void subscription_barrier(struct connection *connection);
/* Whether what it gets next may have come before its connection's barrier: by the chunk that it is
 * in, so that messages that came soon after may count as well. */
bool subscription_barred(const struct subscription *subscription);
/* A new one gets what is its only when it is queued, or when its connection ends. */
void subscription_hold(struct subscription *subscription);
/* Ends it; nothing of it may be in flight. Messages it has not got are dropped for this reason. */
void subscription_free(struct subscription *subscription, enum drop_reason reason);
/* It is none of its connection's any more, and nobody's as far as limits go. */
void subscription_leave_place(struct subscription *subscription);
/* One that has ended and that no queue refers to any more. */
void subscription_give_back(struct subscription *subscription, struct shard *shard);

#endif
