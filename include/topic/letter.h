#ifndef TOPIC_LETTER_H
#define TOPIC_LETTER_H

/*
 * What shards tell each other about topics. Every letter begins with its kind; a block is its own
 * letter, so that the hot path allocates none.
 */

#include <stdint.h>

enum letter_kind {
	LETTER_PUBLISH,       /* shard -> home, gated lane: a block, to be sequenced */
	LETTER_DELIVER,       /* home -> shard: the same block, to be delivered */
	LETTER_SUBSCRIBE,     /* shard -> home: a subscriber wants the topic, perhaps its past */
	LETTER_SUBSCRIBED,    /* home -> shard: the same letter, answered */
	LETTER_UNSUBSCRIBE,   /* shard -> home: the last local subscriber has left */
	LETTER_RECOUNT,       /* shard -> home: it has more or fewer subscribers than it had */
	LETTER_PATTERN,       /* shard -> homes: a subscriber wants a pattern, or is in a group */
	LETTER_PATTERN_KNOWN, /* home -> shard: the same letter, answered */
	LETTER_PATTERN_COUNT, /* shard -> homes: so many there want it from now on */
	LETTER_DEAL,          /* home -> shard: messages for members of a group there */
	LETTER_DEAL_AGAIN,    /* shard -> home: the same that nobody has taken there */
	LETTER_JOIN,          /* shard -> home, gated lane: a publisher begins */
	LETTER_REFUSED, /* home -> shard: the same letter, answered: there is no room for its topic
			 */
	LETTER_LEAVE,   /* shard -> home, gated lane: a publisher has ended, after all its blocks */
	LETTER_SYNC,    /* shard -> home: a subscriber is leaving: a receipt, behind all that is
			   sequenced */
	LETTER_RECEIPT, /* home -> shard: the same letter, answered: everything before it is
			   sequenced */
	LETTER_SEQUENCED, /* home -> shard: a message that asked for a receipt has its number */
	LETTER_FETCH,     /* shard -> home: a request for a message, or about a topic */
	LETTER_COUNT,     /* home -> each shard in turn: the same letter, collecting subscribers */
	LETTER_FETCHED,   /* home -> shard: the same letter, answered */
	LETTER_CENSUS,    /* shard -> each shard in turn: what it knows of topics as their home */
	LETTER_CENSUS_TAKEN, /* back to who has asked: the same letter */
	LETTER_FIGURES, /* shard -> each shard in turn, and back: collecting what operators look at
			 */
	LETTER_SURVEY,  /* the same, of what all of them have (admin/survey.h) */
	LETTER_RETAIN_FETCH, /* shard -> home: the retained messages that match a pattern are wanted
			      */
	LETTER_RETAINED,     /* home -> shard: the same letter, with some of them */
	/* Identifiers of MQTT's clients (session/mqtt.h), one letter all the way. */
	LETTER_CLAIM,     /* shard -> home: a connection claims it */
	LETTER_TAKE_OVER, /* home -> shard: the connection that has it is to end */
	LETTER_CLAIMED,   /* home or shard -> shard: it is the connection's that claimed it */
	LETTER_UNCLAIM,   /* shard -> home: that has ended */
	LETTER_GAP,       /* home -> shard: messages are missing, and their subscribers are told */
	LETTER_BYE, /* home -> shard: the last publisher has left and the topic says goodbye */
	/* These five belong to their senders, so that ending and watching need no memory. */
	LETTER_PUBLISHED_ALL, /* shard -> home, gated lane: nothing more will come in it */
	LETTER_DELIVERED_ALL, /* home -> shard: nothing more will come in the free lane */
	LETTER_LAME,          /* main -> shard: the end comes soon, and clients may be told */
	LETTER_DRAIN,         /* main -> shard: stop taking, deliver, end */
	LETTER_HEARTBEAT,     /* main -> shard: say that you turn */
	LETTER_RELOAD,        /* main -> shard: another configuration */
	LETTER_KINDS
};

struct letter {
	enum letter_kind kind;
};

#endif
