#ifndef BROKER_CONNECTION_H
#define BROKER_CONNECTION_H

/*
 * A client's connection: a socket, what it has still to say (replies, and the streams that it
 * subscribed to), and the session that understands its bytes. The shard's thread only. An idle
 * subscriber is this structure and struct subscription: 448 bytes together, and some 40 more in
 * tables.
 *
 *   OPEN -> FINISHING (says what it has to say) -> LINGERING (our FIN is out, waits for theirs) ->
 * CLOSED
 *
 * A send carries the rest of a message, replies, and then what is there of the subscriptions whose
 * turn it is (the queue), in this order. One with a single subscription is sent to as soon as
 * fan-out comes to it; one with many is told that something is there by each of them, and sent to
 * once in a turn.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"
#include "base/list.h"
#include "base/pool.h"
#include "broker/clients.h"
#include "broker/counters.h"
#include "broker/login.h"
#include "broker/output.h"
#include "broker/protocol.h"
#include "broker/subscription.h"
#include "engine/deadline.h"
#include "engine/socket.h"

struct block;
struct identity;
struct listener;
struct protocol;
struct sequenced_letter;
struct shard;
struct topic_letter;

enum connection_state {
	CONNECTION_OPEN,
	CONNECTION_FINISHING,
	CONNECTION_LINGERING,
	CONNECTION_CLOSED
};

/* That are told why they are refused, at a time. Beyond, they are just closed; while draining they
 * wait in the kernel's queue. */
enum { REFUSED_CONNECTIONS_MAX = 64 };

enum connection_counts { COUNTS_NOT, COUNTS_AS_CLIENT, COUNTS_AS_REFUSED };

/* A shard's connections. */
struct clients {
	struct pool connection_pool;
	struct list connections; /* all but the unlooked */
	struct list unlooked; /* those that more than a word was sent to since the kernel was asked
				 what it holds for them, or that it held something for */
	uint32_t connections_n;
	uint32_t refused_n;  /* connections that are being told why they are refused */
	uint32_t late_n;     /* of connections_n: that came while draining, which waits for none */
	struct list paused;  /* publishers that wait for an outbox to empty */
	struct list resumed; /* those of them that are to be looked at, some in each turn */
	struct list turns;   /* that are to be sent to, or gone on with, in this turn */
	struct deadline_class handshake, closing, idle;
	struct connections_walk configured; /* idle has begun for those who came without it */
	struct connections_walk trusted; /* their certificates are good by the new configuration */
	struct connections_walk told;    /* what is new (struct protocol, news) */
};

/* Whether silence may not last for ever. */
static inline bool clients_limit_idle(const struct clients *clients)
{
	return clients->idle.after_ns != DEADLINE_NEVER;
}

/* Through all subscriptions, some at a time where there are many: a later one takes the place of an
 * earlier. */
enum connection_walk {
	WALK_NONE,
	WALK_REVIEW,  /* they are looked at, as in any walk while the connection is reviewed */
	WALK_BARRIER, /* what is there of them is to be sent */
	WALK_LEAVE,   /* they get what is theirs already and end */
	WALK_PART,    /* they end */
};

enum connection_barrier {
	BARRIER_NONE,
	BARRIER_ASKED,  /* answers are on their way */
	BARRIER_WALKS,  /* they have come: what they brought is put in the queue */
	BARRIER_QUEUED, /* when nobody there gets what came before it, it is time */
};

/* What those who publish to a topic wait for: its home, and the bucket that it may be held in. */
struct hold_place {
	uint16_t home, bucket;
};

/* A send touches the first two cache lines, and two of its subscription; a receive most of it. */
struct connection {
	struct socket socket; /* first */
	uint8_t state;        /* enum connection_state */
	uint8_t protocols;    /* CONFIG_PROTOCOL_*: of its listener; one bit when it is decided */
	uint8_t barrier;      /* enum connection_barrier */
	uint8_t reason;       /* enum drop_reason: why what it does not get is dropped */
	bool middle_flies;    /* the send begins with it */
	bool alone;           /* the send has the output and the queue's first, its only one */
	bool output_flies;    /* the output is in it */
	bool landing;         /* what the send that has ended carried is told so */
	bool interjects;      /* its protocol has something to say between messages */
	bool awaiting : 1;    /* an answer from a home, before which it must not finish */
	bool hasty : 1;       /* it ends, and waits for nobody's answer */
	bool gone : 1;        /* its socket is closed; its subscriptions end one by one */
	bool published : 1;   /* since the last barrier */
	bool resumes : 1;     /* its protocol goes on: what a barrier was for has happened */
	bool late : 1;        /* came while draining */
	bool proxied : 1;     /* a proxy speaks for it, and has said for whom */
	bool local : 1;       /* then: who is on this machine */
	bool by_address : 1;  /* it counts as one of its address */
	bool expelled : 1;    /* it may not go on, and has been told so */
	bool reviewed : 1;    /* its subscriptions are looked at: may it have them? */
	unsigned counts : 2;  /* enum connection_counts: in which limit */
	unsigned walk : 3;    /* enum connection_walk */
	uint8_t refusal;      /* enum reason: why it is refused */
	uint16_t listener;    /* where it came in */
	uint16_t flying;      /* so many of the queue's first are in the send in flight, */
	uint32_t subscriptions_n;
	uint16_t output_after; /* so many of those that fly are before the output */
	/* About what the kernel has taken since it was last looked at; or that it is time. */
	uint16_t unlooked_bytes;
	struct subscription *subscriptions; /* one of them all, which form a ring; NULL: none */
	struct subscription *middle; /* in the middle of one of its messages; never in the queue */
	/* Those whose turn it is, round: the last, whose next is the first. NULL: none. */
	struct subscription *queue;
	struct output *output; /* what it has to say before its subscriptions' messages */
	struct shard *shard;
	const struct protocol *protocol;
	uint32_t asked;        /* subscriptions whose home has not answered */
	uint32_t walk_left;    /* of them: to be walked through */
	char *pack;            /* small spans of the send in flight, put together; or NULL */
	struct list turn;      /* in the shard's turns */
	uint16_t barrier_at;   /* WALKS, QUEUED: since when, in ticks (subscription_barred) */
	uint16_t syncs;        /* homes that have not said yet that all before has been sequenced */
	uint32_t kernel_bytes; /* of the socket's, when it was last looked at */
	struct hold_place publishes_to; /* of the topic that it last published to */
	uint32_t input_len;
	char *input;                                        /* a command that is not whole yet */
	const char *farewell;                               /* the last thing to say, or NULL */
	uint64_t session[SESSION_BYTES / sizeof(uint64_t)]; /* its protocol's */

	struct list link;    /* the shard's connections, or those to be looked at */
	struct list waiting; /* the shard's paused publishers */

	struct deadline deadline; /* handshake, or closing */
	unsigned char *address;   /* 16 bytes: of a proxy's client, or of the peer where
				     connections are counted per address; else NULL */
	struct identity
		*identity; /* held: who it is; NULL: nobody has asked yet (broker/access.h) */
};

_Static_assert(sizeof(struct connection) <= 320, "with a subscription it is 448 bytes");

void connections_init(struct shard *shard);
/* Ends all that are left, at once; the reactor does not turn any more. */
void connections_release(struct shard *shard);
/* A client has been accepted on this listener (its index); takes the fd over. */
void connection_open(struct shard *shard, int fd, uint32_t listener);
/* The client speaks TLS from here on; bytes: what has come already of that. Its listener must be
 * secure. The protocol hears of its end (struct protocol, secured); until then nothing of it comes
 * and nothing is sent. */
void connection_secure(struct connection *connection, struct span bytes);
/* This end has begun it: takes the connected fd over. It is nobody's client and counts in no limit;
 * when the broker drains it goes last. NULL: out of memory, the fd is closed. */
struct connection *connection_dialled(struct shard *shard, int fd, const struct protocol *protocol);
/* It speaks TLS from here on, with what the broker shows to servers; name: what this one's
 * certificate has to be for. Otherwise as connection_secure. -errno: it cannot. */
int connection_secure_dialled(struct connection *connection, const char *name);
/* Adds to what it has to say. False: out of memory, the connection is closed. */
bool connection_reply(struct connection *connection, struct span text);
/* The same with a body that lies in a block (output_add_body). */
bool connection_reply_body(struct connection *connection, struct block *block, struct span body);
/* Sends what there is to send, if nothing is in flight. Its cursor, if it is ready, becomes busy.
 */
void connection_flush(struct connection *connection);
/* Nothing of what was gathered for its send is under way after all. */
void connection_ground(struct connection *connection);
/* It will be flushed at the end of this turn. */
void connection_turn(struct connection *connection);
/* Some of those are, as far as there is time. True: there are more. */
bool connections_turn_some(struct shard *shard);
/*
 * Its protocol is told (struct protocol, barrier) when every subscription before this stands at its
 * home, every block before it has been sequenced, and what these brought to this very connection
 * stands before what is replied then. Not while another one is on its way.
 */
void connection_barrier(struct connection *connection);
static inline bool connection_barred(const struct connection *c)
{
	return c->barrier != BARRIER_NONE;
}
/* A home has answered something that it waited for. */
void connection_answered(struct connection *connection);
/* A subscription is not to be: -ENOSPC: its topic has no place; -ENOMEM. */
void connection_refused_subscription(struct connection *connection, void *session, int error);
/* Asks the home of a subscription for a receipt: when it comes, everything sequenced before has
 * come too. Until then it does not finish. */
void connection_ask_last(struct connection *connection, struct subscription *subscription);
/* The same of a home, for whatever its protocol waits for: until then connection->syncs is not 0.
 * False: out of memory. */
bool connection_sync(struct connection *connection, unsigned home);
/* It finishes without waiting for anybody's answer. */
void connection_hasten(struct connection *connection);
/* Nothing more is wanted from the client: say what there is to say, the farewell last, and close.
 * farewell: static text or NULL. */
void connection_finish(struct connection *connection, const char *farewell);
/* The client's BYE or end of file: a publisher gets its receipt, a subscriber what is its already;
 * then the connection ends. */
void connection_goodbye(struct connection *connection);
/* Its protocol has something to say that may only stand between two messages: it is asked for it
 * (struct protocol, interject) when none is under way. */
void connection_interject(struct connection *connection);
/* It speaks this from now on; bytes: what has come already of it. */
void connection_speak(struct connection *connection, const struct protocol *protocol,
		      struct span bytes);
/* A proxy speaks for this client, whom limits are to see: it may be refused now. */
void connection_is_for(struct connection *connection, const unsigned char address[16]);
/* It is told now why it is not served. */
void connection_refuse(struct connection *connection);
/* Publishes a block of new messages; takes it over. While their topic does not keep up, the client
 * has to wait: it is not received from, and the connection goes to the shard's paused ones. */
void connection_publish(struct connection *connection, struct block *block);
/* A client may be silent from here on for as long as the limit says, while it is listened to.
 */
void connection_limit_silence(struct connection *connection);
/* It ends for this reason, in its protocol's words. */
void connection_error(struct connection *connection, enum reason reason);
/* The same with words of its session's: static text, or NULL. */
void connection_fail(struct connection *connection, const char *last_word);
/* Closes it for good if it has not finished in a few seconds. */
void connection_limit_closing(struct connection *connection);
/* At once, and by a reset while it has not been told all that it was to be; what its subscription
 * has not got is dropped for that reason. Harmless twice. */
void connection_close(struct connection *connection, enum drop_reason reason);
/* Looks how much memory the kernel holds for at most so many of those that it may hold something
 * for. Returns whether there are more to be looked at, then or again. */
bool connections_look(struct shard *shard, unsigned max);
/* What it makes the broker and the kernel hold, in bytes; what it shares with others counts in
 * full. */
uint64_t connection_held(const struct connection *connection);
/* Lets go of it for want of memory: of its backlog, as its topic does with the slow; or, when that
 * is not what it holds, of the connection, at once. Returns how much was its alone. */
uint64_t connection_evict(struct connection *connection);
/* Calls for every connection of the shard; the callback may end it. Takes as long as it takes: not
 * for a turn. */
void connections_each(struct shard *shard, void (*callback)(struct connection *, void *),
		      void *argument);
/* The same from where the walk has come to, for no more than are left to it, while there is time in
 * this part of the turn. True: time was over. It comes to everybody who stays, whoever else comes
 * and goes. */
bool connections_walk(struct shard *shard, struct connections_walk *walk,
		      void (*callback)(struct connection *, void *), void *argument);
/* Whether the client is on this very machine; and whether whoever is connected is, who may speak
 * for others. */
bool connection_local(const struct connection *connection);
bool connection_peer_local(const struct connection *connection);
enum { CONNECTION_PEER_MAX = 64 };
/* The client's address; of a unix socket's peer what only stands for its user. */
void connection_peer(const struct connection *connection, unsigned char address[16]);
/* The same for people; returns out. */
const char *connection_peer_text(const struct connection *connection,
				 char out[CONNECTION_PEER_MAX]);
/* Its subscriptions are to be looked at, some at a time: may it still have them? */
void connection_review(struct connection *connection);
/* There is no place for its topic, or for a message there: ends with the error that says so. error:
 * -ENOSPC, -ENOMEM, -EHOSTUNREACH or -EMSGSIZE. */
void connection_no_topic(struct connection *connection, int error);
/* The same where subscription_new has failed with this error. */
void connection_no_subscription(struct connection *connection, int error);
/* LETTER_RECEIPT: a home's, for the publisher or subscriber of a connection; takes the letter over.
 */
void connection_receipt(struct shard *shard, struct topic_letter *letter);
/* LETTER_SEQUENCED: for a block of a connection's; takes the letter over. */
void connection_sequenced(struct shard *shard, struct sequenced_letter *letter);
/* Publishers that had to wait may go on: all that wait now are to be looked at. */
void connections_resume(struct shard *shard);
/* Looks at some of them. True: there are more. */
bool connections_resume_some(struct shard *shard);
/* The configuration has changed: connections_configure_some is to be called in this part of this
 * turn, and of the next ones while it says that there is more. */
void connections_configure(struct shard *shard);
bool connections_configure_some(struct shard *shard);
/* The broker is about to end, or its configuration has changed: those who want to hear it are told,
 * some in each turn. True: there are more. */
void connections_tell(struct shard *shard);
bool connections_tell_some(struct shard *shard);
static inline bool connections_to_tell(const struct clients *clients)
{
	return clients->told.left > 0;
}
/* So many are late that more are not to be accepted before some of them have gone. */
bool connections_rush(const struct shard *shard);

/* What the audience, sockets and deadlines call, for connections_init. */
extern const struct audience_events connection_audience_events;
extern const struct socket_events connection_events;
void connection_timed_out(void *context, struct deadline *deadline);
void connection_closing_timed_out(void *context, struct deadline *deadline);

/* Its only subscription, or some of several; NULL: it has none. */
static inline struct subscription *connection_subscription(const struct connection *c)
{
	return c->subscriptions;
}

/* Whether no message of a subscription is under way. */
static inline bool connection_between(const struct connection *c)
{
	return c->middle == NULL && !c->middle_flies && !c->alone && c->flying == 0;
}

/* Whether it must not finish yet. */
static inline bool connection_waits(const struct connection *c)
{
	return !c->hasty && (c->awaiting || c->asked > 0 || c->syncs > 0);
}

/* Whether it is beyond a limit, and is to be told so when it has said what it wants. */
static inline bool connection_refused(const struct connection *c)
{
	return c->counts == COUNTS_AS_REFUSED && !c->late;
}

static inline struct connection *connection_of(struct socket *socket)
{
	return (struct connection *)(void *)socket;
}

#endif
