#ifndef SESSION_NATS_H
#define SESSION_NATS_H

/*
 * A connection that speaks NATS (protocol/nats.h): what its commands do, in their order, and what
 * it is told. A command that needs an answer first - a SUB's home, before a PUB; everything, before
 * a PONG - holds up those behind it. The shard's thread only.
 *
 * Over WebSocket the same session is fed with what is in the frames (nats_session_framed), and what
 * it says is put into some.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/few.h"
#include "base/span.h"
#include "broker/connection.h"
#include "broker/subscription.h"
#include "broker/wild.h"
#include "protocol/nats.h"
#include "session/intake.h"
#include "topic/interest.h"

struct block;
struct nats_inboxes;
struct sequenced_letter;
struct shard;
struct subscribe_letter;
struct subscription;

/* A SUB, known by its sid. */
struct nats_subscription {
	struct named named;                /* first; the name is the sid */
	struct subscription *subscription; /* NULL: it has ended */
	union {
		uint64_t joined; /* when it stands: in its stream's count; before that: */
		uint64_t max;    /* messages that it is to get since SUB; 0: all */
	};
	bool answers; /* replies may be for it (session/nats_inboxes.h) */
	char sid[];
};

/* Those with a short sid are in a pool of their shard's, for there are very many. */
enum { NATS_SUBSCRIPTION_BYTES = 48 };

/* What has been published, as far as commands may have to wait for it. */
struct nats_sent {
	uint64_t topics; /* as bits by their hash */
	bool requests;   /* some, which may be told that nobody is there */
};

/* What there is of it only while something is to be done. */
struct nats_work {
	struct intake intake; /* first */
	size_t discarded;     /* bytes still to come of a payload that nobody wants, with its end */
	uint32_t pings;       /* to be answered, but for */
	uint32_t barred;      /* those that the barrier under way is for */
	const char *failed;   /* what its end is to say, behind what comes before it; or NULL */
	/* Since the last barrier began, and before that while it is under way. */
	struct nats_sent published, awaited;
	bool asks; /* a message of the block that is put together wants an answer */
};

_Static_assert(sizeof(struct nats_work) <= INTAKE_BYTES_MAX, "it is one of the shard's");

struct nats_session {
	union {
		struct intake *intake;
		struct nats_work *work;
	};
	struct few subscriptions; /* struct nats_subscription */
	uint64_t client_id;
	uint64_t told_payload; /* what the last INFO said, */
	bool told_lame;
	uint8_t pings_out;  /* of ours */
	bool framed : 1;    /* over WebSocket */
	bool heard : 1;     /* something has come since the last look */
	bool connected : 1; /* a command has come: what it says from here on is timed by pings */
	bool logging_in : 1;
	bool draining : 1;
	bool greeted : 1; /* its first PING has been answered: it takes INFO from now on */
	bool verbose : 1, no_echo : 1, headers : 1, no_responders : 1;
	bool newer : 1;                  /* of protocol 1 */
	uint32_t inboxes_n;              /* subscriptions that replies may be for */
	struct nats_subscription *inbox; /* that a reply has last been found to be for, or NULL */
	struct nats_inboxes *inboxes;    /* session/nats_inboxes.h; NULL: not made */
};

/* Behind a pointer in the connection; NULL: there was no memory for it, and it is closed. */
static inline struct nats_session *nats_of(const struct connection *c)
{
	struct nats_session *nats;

	memcpy(&nats, c->session, sizeof(nats));
	return nats;
}

/* Of one that has not ended. */
static inline struct span nats_subject_of(const struct nats_subscription *ns)
{
	const struct interest *i = subscription_interest(ns->subscription);

	return i->wild != NULL ? i->wild->pattern.text : i->named.name;
}

/* Whether something is still to come of its commands: a PONG, or what it has published. */
static inline bool nats_owes(const struct nats_session *nats)
{
	const struct nats_work *w = nats->work;

	return w != NULL && (w->pings > 0 || (w->published.topics | w->awaited.topics) != 0);
}

/* Adds to what it has to say, in a frame if it speaks in some. */
void nats_say(struct connection *connection, struct span text);
/* Makes the words that are said last, once. */
void nats_words_init(void);
/* What a connection ends with for this text, or NULL: an end without any. */
const char *nats_last_word(const struct connection *connection, const char *text);
/* "-ERR 'before<subject>after'", and the connection stays. */
void nats_say_error(struct connection *connection, const char *before, struct span subject,
		    const char *after);
/* The end of one that has said something wrong, from within `take`: behind what its commands before
 * that have brought. static text. */
void nats_fail(struct connection *connection, const char *text);
/* Asks for a barrier, for what has been said so far; none is under way. */
void nats_barrier(struct connection *connection);
/* "+OK" to who wants to hear it. */
void nats_ok(struct connection *connection);

/* ---- session/nats_pubsub.c: what commands do; each returns how many bytes of `in` are done with,
 * as `take` does ---- */

size_t nats_subscribe(struct connection *connection, const struct nats_event *event, size_t used);
size_t nats_unsubscribe(struct connection *connection, const struct nats_event *event, size_t used);
size_t nats_publish(struct connection *connection, const struct nats_event *event, struct span in,
		    size_t used);
size_t nats_discard(struct connection *connection, struct span in);
void nats_collected(struct connection *connection, struct block *block);
void nats_publishing(struct connection *connection, struct block *block);
void nats_subscriptions_release(struct connection *connection);

/* ---- what struct protocol has of them ---- */

void nats_session_opened(struct connection *connection);
void nats_session_secured(struct connection *connection);
void nats_session_received(struct connection *connection, struct span bytes);
void nats_session_ended(struct connection *connection);
void nats_session_subscribed(struct connection *connection, struct subscription *subscription,
			     const struct subscribe_letter *letter);
void nats_session_refused(struct connection *connection, void *session, enum reason reason);
void nats_session_enough(struct connection *connection, void *session);
void nats_session_sequenced(struct connection *connection, const struct sequenced_letter *letter);
void nats_session_barrier(struct connection *connection);
const char *nats_session_say(struct connection *connection, enum reason reason);
const char *nats_session_farewell(const struct connection *connection, bool bye);
void nats_session_logged_in(struct connection *connection, enum access_result result);
void nats_session_resume(struct connection *connection);
void nats_session_news(struct connection *connection);
void nats_session_drain(struct connection *connection);
bool nats_session_silent(const struct connection *connection);
uint64_t nats_session_held(const struct connection *connection);
void nats_session_free(struct connection *connection);

/* For a connection that speaks in WebSocket frames and has just been upgraded: says INFO. From then
 * on nats_session_received is for what is in binary or text frames, whatever is left to WebSocket
 * (pings, closes) is not. False: out of memory, it is closed. */
bool nats_session_framed(struct connection *connection);

/* The server's name, once, before threads start. */
void nats_sessions_name(void);
void nats_sessions_init(struct shard *shard);
void nats_sessions_configure(struct shard *shard);

#endif
