#ifndef BROKER_AUDIENCE_H
#define BROKER_AUDIENCE_H

/*
 * A shard's subscribers all together: its interests and their streams, what comes to these, who is
 * too far behind. It knows connections by what stands in them, and calls their owner through a
 * table of events, as sockets do. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/pool.h"
#include "base/table.h"
#include "broker/counters.h"
#include "broker/wild.h"
#include "engine/deadline.h"

struct block;
struct connection;
struct deal_letter;
struct gap_letter;
struct interest;
struct shard;
struct stream;
struct subscribe_letter;
struct subscription;
struct topic_letter;
struct wire;

/* The owner's part. Each may end the connection, and with it the subscription. */
struct audience_events {
	/* A subscription stands from now on. letter: the home's answer; NULL: there was nothing to
	 * ask. */
	void (*stands)(struct subscription *subscription, const struct subscribe_letter *letter);
	/* One with this session is not to be: -ENOSPC: its topic has no place; -ENOMEM. */
	void (*refused)(struct connection *connection, void *session, int error);
	/* A home has answered, whatever it was. */
	void (*answered)(struct connection *connection);
	/* What it had asked for has ended before a home answered, and it waits for nothing else. */
	void (*waits_no_more)(struct connection *connection);
	/* The last publisher of one of its topics that says goodbye then has left. */
	void (*bye)(struct connection *connection);
	/* Messages are missing, and its stream has no words for that. */
	void (*gap)(struct connection *connection);
	/* It is too slow for a topic that wants to be rid of it then. */
	void (*slow)(struct connection *connection);
	/* It cannot go on, for want of memory. */
	void (*broken)(struct connection *connection, enum drop_reason reason);
};

/* What has come and has not got to all streams that it is for: there are too many for one turn. */
struct undelivered {
	struct block *block; /* NULL: there is none */
	/* The interests that it is still for, all pinned; the array is its own. Of the first it is
	 * the turn of this stream, pinned; NULL: of all of them. */
	struct interest **of;
	uint32_t of_n, at;
	bool matching; /* it is not known yet which patterns match it */
	struct stream *stream;
	uint32_t number; /* of the last that there was: streams that have got it know it by this */
};

/* A shard's interests and their streams. */
struct audience {
	const struct audience_events *events;
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
	/* Streams whose subscribers are told goodbye, or of a gap (appended): there are some who
	 * have not been; and those who have left only in part. */
	struct list ending, ended;
	struct list forms; /* of interests that end and have very many streams: struct forms */
	struct undelivered undelivered;
	struct list recounts; /* interests with more or fewer subscribers */
	uint32_t pressed;     /* streams that fan-out lags so far behind that no lane is drained */
	bool relieved;        /* there are fewer of them than at the last look */
	uint64_t hold_ends;   /* the broker's, when paused publishers last had a look */
	struct pool subscription_pool;
	uint32_t subscriptions_n;
	struct deadline_class backlog;
	struct deadline backlog_deadline;
};

void audience_init(struct audience *audience);
/* A stream has ready cursors: it will be served at the end of the turn. */
void audience_dirty(struct shard *shard, struct stream *stream);
/* A stream holds chunks: see to it that it rests when nothing comes. */
void audience_active(struct shard *shard, struct stream *stream);
/*
 * A round of a stream's cursors, for what is to be looked at of each and may take many turns: each
 * call goes on in one of its lists while there is time, and returns whether all in it have been
 * looked at. Whoever has been stands behind those who have not, so that no list whose order matters
 * is gone round. Who comes into the list meanwhile, because a send has begun or ended, may be
 * missed. `look` may take the subscription, and others, out of any list.
 */
void audience_begin_round(struct stream *stream);
bool audience_go_round(struct shard *shard, struct stream *stream, struct list *list,
		       void (*look)(struct subscription *, void *), void *argument);
/* Before something is appended to a stream and after fan-out has served it: while it is three
 * eighths of a backlog behind, the publishers of its topic wait. */
void audience_hold(struct shard *shard, struct stream *stream);
/* At any time: while it is six eighths behind all the same, with what was under way, the shard
 * takes nothing in from others. */
void audience_press(struct shard *shard, struct stream *stream);
/* Something of this block is about to be put behind a stream, whose lag is that of what was there
 * before: a block is no lag until it has had a turn. */
void audience_appends(struct shard *shard, struct stream *stream, const struct block *block);
/* It has been. */
void audience_appended(struct shard *shard, struct stream *stream);

/* ---- what comes: audience_deliver.c ---- */

/* A sequenced block for this shard's subscribers; takes the block over. What there is no time for
 * in this turn is undelivered, and no letter is read before it is not. */
void audience_deliver(struct shard *shard, struct block *block);
/* The stream of an interest where somebody new may stand (interest_stream): what is undelivered is
 * before him. */
struct stream *audience_stream(struct shard *shard, struct interest *interest,
			       const struct wire *wire);
/* The number of the newest message of its topic that has come into this stream: another stream may
 * have more already. */
uint64_t audience_number(const struct shard *shard, const struct stream *stream);
/* In each turn in which something is undelivered. */
void audience_go_on(struct shard *shard);
/* When all is to be freed. */
void audience_forget_undelivered(struct shard *shard);
/* Messages for members of a group here; takes the letter over. */
void audience_dealt(struct shard *shard, struct deal_letter *letter);
/* The last publisher of a topic that says goodbye has left; takes the letter over. */
void audience_bye(struct shard *shard, struct topic_letter *letter);
/* Once per turn, if there are streams that end (audience.ending): tells more of their subscribers.
 * Whether somebody has still to be told. */
bool audience_bye_some(struct shard *shard);
/* At every look at backlogs: once more for those who were missed. Whether there are streams that
 * have not come to their end. */
bool audience_bye_again(struct shard *shard);
/* Messages of a topic are missing: tells its subscribers, as audience_bye those whose streams have
 * no words for that; takes the letter over. */
void audience_gap(struct shard *shard, struct gap_letter *letter);

/* ---- who is too far behind: audience_bound.c ---- */

/* At the end of a turn: deals with those who have more bytes before them than they may, in the
 * streams that something was appended to, while there is time. True: there are more. */
bool audience_bound_bytes(struct shard *shard);
/* Who has been behind too long in any stream that holds chunks is to be dealt with by
 * audience_bound_time_some, and streams are to rest. Returns whether any holds some. */
bool audience_bound_time(struct shard *shard);
/* Deals with some of them. True: there are more. */
bool audience_bound_time_some(struct shard *shard);

#endif
