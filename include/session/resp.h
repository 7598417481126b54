#ifndef SESSION_RESP_H
#define SESSION_RESP_H

/*
 * What a connection says in RESP: commands, answered in their order. One command is worked on at a
 * time; what it waits for (homes that count a subscription, receipts of what was published before
 * it) holds back what stands behind it. Only PUBLISHes need not wait for each other: their receipts
 * are answered in the order of the commands, whatever the order in which they come. The shard's
 * thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/few.h"
#include "base/list.h"
#include "base/span.h"
#include "broker/access.h"
#include "broker/connection.h"
#include "broker/protocol.h"
#include "protocol/resp.h"
#include "session/intake.h"

struct block;
struct census_letter;
struct resp_subscription;
struct sequenced_letter;
struct shard;
struct subscribe_letter;
struct subscription;

/* How far a command has been done. */
enum resp_done {
	RESP_DONE,
	RESP_AGAIN, /* there is more to do, when it is its turn */
	RESP_WAITS, /* for what it has asked for */
};

struct resp_words {
	struct span rest; /* for resp_next */
	uint32_t n;       /* words in it */
};

struct resp_verb {
	const char *name;      /* in small letters */
	int8_t words;          /* with the name: so many; negative: so many at least */
	bool publishes;        /* it need not wait for the answers to what is before it */
	bool has_parts;        /* its second word is one of its own */
	bool while_subscribed; /* in RESP2 */
	bool before_known;     /* before a client has said who it is, where that is asked for */
	uint8_t push;          /* enum resp_push: whose subscriptions it is about */
	/* words: those behind the name that are still to be done. */
	enum resp_done (*run)(struct connection *connection, struct resp_words words);
};

/* Messages that were published together, whose receipt is to be answered. */
struct resp_published {
	uint64_t receivers;
	uint32_t messages;
	bool sequenced;
};

/* What there is of it only while something is to be done. */
struct resp_work {
	struct intake intake; /* first */
	struct resp_decoder decoder;

	/* The command that is worked on; NULL: none. */
	const struct resp_verb *verb;
	char *line;                    /* its words, where it came as a line */
	uint32_t bytes;                /* in the intake */
	uint32_t end;                  /* of its words */
	uint32_t at, words;            /* where the next words are, and how many are left */
	uint32_t looked, looked_bytes; /* so many, of so many bytes, looked at before, */
	uint32_t told;                 /* so many bytes of an answer been told, */
	uint8_t step;                  /* the command's own, 0 at first; */
	uint8_t asked;                 /* so many words have been asked for */
	uint8_t login;                 /* enum access_result, once it has come */
	bool allowed;                  /* it has been looked at and may be done */
	bool ends;                     /* error is to be told when all is answered */
	bool lost; /* for want of memory it is not known what is to be answered */
	char got;
	enum resp_error error;
	uint32_t ticket; /* of what was asked last, to know its answer by */
	/* It, or its second word's. */
	enum resp_done (*run)(struct connection *connection, struct resp_words words);
	struct census_letter *census; /* an answer that is being told */

	/* Receipts to be answered, round: slots_n is a power of two. */
	struct resp_published *published;
	uint32_t published_first, published_n, published_slots_n;
};

_Static_assert(sizeof(struct resp_work) <= INTAKE_BYTES_MAX, "it is one of the shard's");

struct resp_subscribed {
	struct list *of[RESP_PUSHES]; /* one of those of a kind, which form a ring; or NULL */
	uint32_t counts[RESP_PUSHES]; /* those that have been confirmed */
};

/* In the connection. */
struct resp_client {
	union {
		struct intake *intake; /* NULL: nothing is to be done */
		struct resp_work *work;
	};
	struct few names;                   /* struct resp_subscription */
	struct resp_subscribed *subscribed; /* NULL: nothing has come yet */
	char *name;                         /* or NULL */
	uint32_t id;                        /* its lower and upper bits */
	uint16_t id_upper;
	uint8_t version; /* enum resp_version */
	bool spoken;     /* a command has come */
};

_Static_assert(sizeof(struct resp_client) <= SESSION_BYTES, "it lies in the connection");

static inline struct resp_client *resp_of(const struct connection *c)
{
	return (struct resp_client *)(void *)(uintptr_t)c->session;
}

static inline uint64_t resp_id(const struct resp_client *r)
{
	return (uint64_t)r->id_upper << 32 | r->id;
}

/* ---- what all commands need: resp_client.c ---- */

#define RESP_SERVER_VERSION "7.0.15" /* the one whose pub/sub this is */

/* False: out of memory, the connection is closed. */
bool resp_reply(struct connection *connection, struct span text);
/* A bulk string of any length. */
bool resp_bulk(struct connection *connection, struct span text);
/* An error's line, of which at most some hundred bytes; CR and LF in it become spaces. */
void resp_error(struct connection *connection, const char *text);

/* Replies that are put together. */
struct resp_replies {
	struct connection *connection;
	size_t len;
	char bytes[4 << 10];
};

/* Room for so many more bytes. */
char *resp_replies_room(struct resp_replies *replies, size_t bytes);
/* They have been written there, up to this end. */
void resp_replies_put(struct resp_replies *replies, const char *end);
void resp_replies_flush(struct resp_replies *replies);

/* Takes a word; there must be one. */
struct span resp_word(struct resp_words *words);
/* Whether it is this name, which is in small letters. */
bool resp_is(struct span word, const char *name);
/* What has still to be done of the command begins `now`, and not `before` any more. */
void resp_go_behind(struct resp_client *client, struct resp_words before, struct resp_words now);
/* Whether everything before this command has been answered; else it has to wait. */
bool resp_caught_up(struct connection *connection);
/* It is no command, and nothing more of this client is understood: that is said behind all that is
 * still to be answered. */
void resp_give_up(struct connection *connection, enum resp_error error, char got);
/* What the command was waiting for has come. */
void resp_go_on(struct connection *connection);

/* How many channels and patterns it has subscribed to; channels of a cluster's shards count apart.
 */
static inline uint32_t resp_count(const struct resp_client *r, enum resp_push push)
{
	return push == RESP_SMESSAGE
		       ? r->subscribed->counts[RESP_SMESSAGE]
		       : r->subscribed->counts[RESP_MESSAGE] + r->subscribed->counts[RESP_PMESSAGE];
}

/* ---- commands: resp_pubsub.c, resp_census.c ---- */

enum resp_done resp_subscribe(struct connection *connection, struct resp_words words);
enum resp_done resp_unsubscribe(struct connection *connection, struct resp_words words);
enum resp_done resp_publish(struct connection *connection, struct resp_words words);
/* Behind a PUBLISH that has been done, of so many bytes at the start of `in`; words: behind its
 * name. Publishes what is said in the same words but for the payload, some of it, and returns how
 * many bytes more are done with. */
size_t resp_publish_alike(struct connection *connection, struct span in, size_t done,
			  struct resp_words words);
enum resp_done resp_pubsub(struct connection *connection, struct resp_words words);
enum resp_done resp_info(struct connection *connection, struct resp_words words);
/* A block is about to be published: wants a receipt. */
void resp_publishing(struct connection *connection, struct block *block);
/* Whether the ends of some are still on their way: to their homes, or behind messages. */
static inline bool resp_ends_are_due(const struct connection *c)
{
	return c->syncs > 0 || connection_barred(c);
}
/* All that it has subscribed to ends, some at a time. True: that was the last. */
bool resp_end_subscriptions(struct connection *connection);
void resp_subscriptions_free(struct resp_client *client);
/* Why no message for this topic may be published; NULL: it may. */
const char *resp_not_published(struct connection *connection, struct span topic);

/* ---- what struct protocol has of them ---- */

void resp_session_received(struct connection *connection, struct span bytes);
void resp_session_ended(struct connection *connection);
void resp_session_stop_publishing(struct connection *connection, bool receipt);
void resp_session_subscribed(struct connection *connection, struct subscription *subscription,
			     const struct subscribe_letter *letter);
void resp_session_refused(struct connection *connection, void *session, enum reason reason);
void resp_session_barrier(struct connection *connection);
void resp_session_sequenced(struct connection *connection, const struct sequenced_letter *letter);
void resp_session_logged_in(struct connection *connection, enum access_result result);
const char *resp_session_say(struct connection *connection, enum reason reason);
const char *resp_session_farewell(const struct connection *connection, bool bye);
void resp_session_resume(struct connection *connection);
bool resp_session_silent(const struct connection *connection);
uint64_t resp_session_held(const struct connection *connection);
void resp_session_free(struct connection *connection);
/* LETTER_CENSUS_TAKEN; takes the letter over. */
void resp_census_taken(struct shard *shard, struct census_letter *letter);

#endif
