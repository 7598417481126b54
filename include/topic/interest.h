#ifndef TOPIC_INTEREST_H
#define TOPIC_INTEREST_H

/*
 * A shard's interest in a topic: the local half of a subscription, with one stream for each wire
 * (format and parameter) that somebody here has asked for. It is asked for at the topic's home
 * once; from the home's answer on, every block of the topic comes to this shard. The shard's thread
 * only.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/table.h"
#include "base/tree.h"
#include "base/wire.h"

struct config_topic;
struct interest;
struct stream;
struct topic_letter;
struct wild;

/* The streams of an interest that has many, by their wires: looking for one takes no longer the
 * more there are. */
struct forms {
	struct table table;
	size_t stepped; /* in it, by who looks for those that nobody reads */
	/* The owner's: it ends, and has more streams than are freed at once. */
	struct list ending;
	struct interest *interest;
};

struct interest {
	struct named named; /* first: it is in the shard's table */
	const struct config_topic *settings;
	uint32_t settings_n;  /* the owner's: how manyth settings these are */
	unsigned home;        /* shard */
	bool live;            /* the home has answered: blocks that come are for us */
	bool undelivered;     /* the owner's: something has not got to all of its streams yet */
	uint32_t subscribers; /* here, those that wait for an answer included */
	uint32_t unanswered;  /* letters under way to the home and back */
	uint32_t pins;        /* somebody still looks at it, though its last subscriber has left */
	uint32_t told;        /* subscribers that the home knows of, or will by them */
	uint32_t responders, told_responders; /* the same of those who see where a reply is wanted
					       */
	struct list recount;    /* the owner's: perhaps it has to be told another number */
	uint64_t epoch, number; /* of the newest message that has come here, as clients know it */
	struct stream *streams; /* one for each wire that somebody here has asked for */
	struct stream *ended;   /* the owner's: that nothing is appended to any more */
	struct forms *forms;    /* NULL: it has few streams */
	/* The shard's, plain memory: for its end, which must not fail for want of any. */
	struct topic_letter *unsubscribe;
	struct tree limits; /* the owner's: of its subscribers that end by themselves */
	struct wild *wild;  /* of a pattern, or of a group: what the shard knows of it besides */
	char name[];
};

/* NULL: out of memory. */
struct interest *interest_new(struct span name, uint64_t hash, unsigned home,
			      const struct config_topic *settings);
/* Its streams must have no cursors. */
void interest_free(struct interest *interest);

/* The stream of this wire; made, with a copy of the parameter, if it is not there. Some of those
 * that it comes by and nobody reads any more go. NULL: out of memory. */
struct stream *interest_stream(struct interest *interest, const struct wire *wire);
/* Frees one of an interest's streams if nobody reads it and nobody will: a client that comes and
 * goes has another parameter each time. */
bool interest_drop_unread(struct interest *interest, struct stream *stream);
/* Puts one among those that have ended: whoever asks for its wire gets another one. */
void interest_end_stream(struct interest *interest, struct stream *stream);
/* Frees one that has ended. */
void interest_free_ended(struct stream *stream);

#endif
