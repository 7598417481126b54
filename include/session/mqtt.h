#ifndef SESSION_MQTT_H
#define SESSION_MQTT_H

/*
 * A connection that speaks MQTT (protocol/mqtt.h): CONNECT, then packets in order. What it
 * subscribes to and publishes, its will, and its identifier, of which there is one connection in
 * all the broker. A session ends with its connection. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/few.h"
#include "base/list.h"
#include "base/span.h"
#include "base/table.h"
#include "broker/access.h"
#include "broker/connection.h"
#include "protocol/mqtt.h"
#include "session/intake.h"
#include "topic/letter.h"

struct block;
struct identity_letter;
struct retained_letter;
struct mqtt_incoming;
struct mqtt_giving;
struct mqtt_opening;
struct mqtt_pending;
struct subscription;

/* How packets go to the client: as they are, or in WebSocket's frames. Static. */
struct mqtt_transport {
	/* Adds a packet, or several whole ones, to what is to be said (connection_reply). */
	bool (*reply)(struct connection *connection, struct span packets);
	const struct wire_format *formats[2]; /* of 3.1.1, of 5.0 */
	/* The connection ends in good order for a reason of 5.0's, behind all that its
	 * subscriptions have still to get: static text, or NULL. */
	const char *(*last_word)(unsigned level, unsigned reason);
};

/* As they are; in frames, once websocket_tunnels_init has been called. */
extern const struct mqtt_transport *mqtt_transports[2];

enum mqtt_state {
	MQTT_NEW,         /* nothing has come but perhaps a part of CONNECT */
	MQTT_LOGGING_IN,  /* its credentials are looked at */
	MQTT_IDENTIFYING, /* the home of its identifier has not answered */
	MQTT_CONNECTED,
};

/* What there is of it only while something is to be done. */
struct mqtt_work {
	struct intake intake;           /* first */
	size_t skip;                    /* bytes of a packet that are to be passed over */
	struct mqtt_opening *opening;   /* what CONNECT said, until it is answered; or NULL */
	struct mqtt_pending *pending;   /* a SUBSCRIBE or UNSUBSCRIBE that is not done; or NULL */
	struct mqtt_giving *giving;     /* retained messages that it is to get; or NULL */
	struct mqtt_incoming *incoming; /* what waits for receipts; NULL: nothing did */
	/* Subscriptions, others than which still get what they had before. */
	uint32_t leaving_n;
};

_Static_assert(sizeof(struct mqtt_work) <= INTAKE_BYTES_MAX, "it is one of the shard's");

/* In the connection. While one that may not be silent for ever is connected, the connection's
 * deadline is in the shard's wheel, and was started when something was last heard of it. */
struct mqtt_session {
	union {
		struct intake *intake; /* NULL: nothing is to be done */
		struct mqtt_work *work;
	};
	struct block *will;               /* or NULL */
	struct identity_letter *identity; /* the claim to it, for its end; NULL: not claimed, or
					     under way */
	struct few subscriptions;         /* struct mqtt_subscription, by filter */
	uint32_t maximum_packet;          /* that it takes; 0: any */
	uint16_t silence_seconds; /* that it may be silent; 0: for ever. 1.5 times its keep alive,
				     rounded up */
	uint8_t level;            /* enum mqtt_level; 0: not known yet */
	unsigned state : 2;       /* enum mqtt_state */
	bool says_why : 1;        /* its client wants to be told more than a code */
	bool expires : 1;         /* CONNECT asked for a session that stays */
	bool told : 1;            /* that a message was refused: in the log */
	bool retaining : 1;       /* the block that goes out now is to be retained */
	bool framed : 1;          /* packets are in WebSocket's frames */
	bool unechoed : 1;        /* some subscription does not want what it publishes itself */
};

_Static_assert(sizeof(struct mqtt_session) <= SESSION_BYTES, "it lies in the connection");

/* What it keeps of a subscription, which refers to it. */
struct mqtt_subscription {
	struct named named;                /* first; by filter, as the client writes it */
	struct subscription *subscription; /* NULL: it does not stand yet */
	struct subscription *before;       /* that it takes the place of; or NULL */
	uint32_t code;                     /* where in the SUBACK */
	bool asked : 1;                    /* it has not been decided */
	bool gives : 1; /* a pattern's, whose retained messages are wanted when it stands */
	bool no_local : 1, retain_as_published : 1;
	char filter[];
};

static inline struct mqtt_session *mqtt_of(const struct connection *c)
{
	return (struct mqtt_session *)(void *)(uintptr_t)c->session;
}

static inline struct connection *mqtt_connection(const struct mqtt_session *m)
{
	return (struct connection *)((uintptr_t)m - offsetof(struct connection, session));
}

static inline const struct mqtt_transport *mqtt_transport(const struct mqtt_session *m)
{
	return mqtt_transports[m->framed];
}

/* ---- what struct protocol has of it; MQTT in WebSocket's frames calls them, too ---- */

void mqtt_session_received(struct connection *connection, struct span bytes);
void mqtt_session_ended(struct connection *connection);
/* Its will is published, if it has one. */
void mqtt_session_stop_publishing(struct connection *connection, bool receipt);
void mqtt_session_subscribed(struct connection *connection, struct subscription *subscription,
			     const struct subscribe_letter *letter);
void mqtt_session_logged_in(struct connection *connection, enum access_result result);
void mqtt_session_refused(struct connection *connection, void *session, enum reason reason);
void mqtt_session_barrier(struct connection *connection);
void mqtt_session_sequenced(struct connection *connection, const struct sequenced_letter *letter);
const char *mqtt_session_say(struct connection *connection, enum reason reason);
const char *mqtt_session_farewell(const struct connection *connection, bool bye);
void mqtt_session_missed(struct connection *connection, struct subscription *subscription);
void mqtt_session_resume(struct connection *connection);
bool mqtt_session_silent(const struct connection *connection);
void mqtt_session_news(struct connection *connection);
uint64_t mqtt_session_held(const struct connection *connection);
void mqtt_session_free(struct connection *connection);

/* ---- between its files ---- */

/* mqtt_say.c: the connection ends for what its client has done, with a code of 5.0's; why: a few
 * words. */
void mqtt_fail(struct mqtt_session *session, unsigned reason, const char *why);

/* The same as the answer to its CONNECT. */
void mqtt_refuse(struct mqtt_session *session, unsigned reason);

/* mqtt_publish.c: makes room to answer one more packet, in its turn. False: it has to wait, or
 * there is no memory and the connection has ended. */
bool mqtt_may_answer(struct mqtt_session *session);
void mqtt_answer_now(struct mqtt_session *session, enum mqtt_type type, uint16_t id,
		     unsigned reason);
/* As struct intake_use's take, for a PUBLISH, and for the packets that follow one
 * of QoS 2. */
size_t mqtt_take_publish(struct mqtt_session *session, const struct mqtt_head *head,
			 struct span in);
void mqtt_take_answer(struct mqtt_session *session, const struct mqtt_head *head,
		      const struct mqtt_answer *answer);
void mqtt_collected(struct connection *connection, struct block *block);
void mqtt_publishing(struct connection *connection, struct block *block);
/* A block of this one message. *reason: why there is none: NULL and MQTT_SUCCESS: out of memory. */
struct block *mqtt_will(struct mqtt_session *session, const struct mqtt_publish *will,
			unsigned *reason);
/* Whether nothing is waited for, and nothing has to be remembered. */
bool mqtt_incoming_idle(const struct mqtt_session *session);
void mqtt_incoming_free(struct mqtt_session *session);
uint64_t mqtt_incoming_held(const struct mqtt_session *session);

/* mqtt_subscribe.c: a SUBSCRIBE or UNSUBSCRIBE that is all there and right, behind which its
 * filters are left to be taken. */
size_t mqtt_take_subscribe(struct mqtt_session *session, const struct mqtt_head *head,
			   struct span in);
/* Goes on with it. False: it has to wait. */
bool mqtt_go_on_with_pending(struct mqtt_session *session, struct span in, size_t *used);
/* Gives of the retained messages what there is room for. */
void mqtt_give(struct mqtt_session *session);
/* Ends those that have got what was theirs before another took their place. */
void mqtt_end_left(struct mqtt_session *session);
/* Lets go of what it has of the session's work. */
void mqtt_work_free(struct mqtt_session *session);
void mqtt_subscriptions_free(struct mqtt_session *session);
/* LETTER_RETAINED: some of those that match a filter; takes the letter over. */
void mqtt_retained_came(struct shard *shard, struct retained_letter *letter);

/* ---- identifiers (mqtt_identity.c) ---- */

enum { MQTT_CLIENT_ID_MAX = 255 };

/*
 * The home of an identifier, found as that of a topic of this name, knows which connection has it:
 * a claim goes there, and is in its table from then on; from there, where another connection has
 * it, to that one's shard, which ends it; and back to who claims it. What the home looks at of a
 * claim in its table stays as it is. It is kept for the end, which must not fail for want of
 * memory: then it goes home again, out of the table, and is no more.
 */
struct identity_letter {
	struct letter letter;
	uint32_t shard;            /* who claims it: there, */
	uint32_t slot, generation; /* this connection */
	struct named named;        /* the identifier's hash; as its name, `more` */
	uint64_t more; /* another hash of it: who has both has it. In the process's key, so that
			  nobody chooses two with the same */
	union {
		struct {
			uint32_t slot, generation;
		} old;     /* TAKE_OVER: who has it, on the shard that reads it */
		int error; /* CLAIMED: -ENOMEM: the home has no room for it */
	};
};

/* -ENOMEM. */
int mqtt_claim(struct mqtt_session *session, struct span id);
/* The session of a connection that may be gone: NULL. */
struct mqtt_session *mqtt_session_at(struct shard *shard, uint32_t slot, uint32_t generation);
/* It is the connection's no more. */
void mqtt_unclaim(struct mqtt_session *session);
/* The readers of LETTER_CLAIM, LETTER_TAKE_OVER, LETTER_CLAIMED and LETTER_UNCLAIM; each takes the
 * letter over. */
void mqtt_claim_came(struct shard *shard, struct identity_letter *letter);
void mqtt_take_over_came(struct shard *shard, struct identity_letter *letter);
void mqtt_claimed_came(struct shard *shard, struct identity_letter *letter);
void mqtt_unclaim_came(struct shard *shard, struct identity_letter *letter);
/* Another connection has its identifier now. */
void mqtt_taken_over(struct mqtt_session *session);

/* ---- a shard's part ---- */

enum { MQTT_WHEEL_SLOTS = 256 }; /* seconds */

struct mqtt_clients {
	struct table identities; /* struct identity_letter, whose home this shard is */
	/* Those that may not be silent for ever (the connections' deadlines), by the second in
	 * which that is to be looked at, or 256 seconds or a multiple of them before. */
	struct list wheel[MQTT_WHEEL_SLOTS];
	struct list due;       /* of seconds that are over: to be looked at */
	uint64_t wheel_second; /* the last that is over */
	uint64_t timed_n;
	struct deadline_class second;
	struct deadline second_deadline;
};

void mqtt_clients_init(struct shard *shard);
void mqtt_clients_release(struct shard *shard);
/* Once per turn: closes those that have been silent for too long. Whether there are more. */
bool mqtt_clients_go_on(struct shard *shard);

#endif
