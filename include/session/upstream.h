#ifndef SESSION_UPSTREAM_H
#define SESSION_UPSTREAM_H

/*
 * A cluster of NATS servers that several brokers share topics through: each shard has one
 * connection to it, for those topics that it is home of. What is published to them goes up first;
 * what comes back is delivered, on every host in the same way. So a loop cannot form, and whoever
 * is cut off does not go on alone.
 *
 *   DOWN -> DIALLING -> GREETING (INFO comes) -> [SECURING ->] JOINING (PONG comes)
 *        -> [CHECKING ->] UP -> DOWN
 *
 * Without a log (core NATS) nothing of a message is known to be in the cluster before the PONG
 * behind it has come, and by then it has come back as well: a server answers in order. A connection
 * that is lost has lost something, perhaps: its publishers are told, and the subscribers of all its
 * topics, as soon as these stand again.
 *
 * With one (JetStream) a message is there when it has come back with the number that the stream
 * gave it, in the order of these numbers; what is missing is fetched, and what was published is
 * sent again until it has come.
 *
 *   A topic:  REST -> WANTED -> ASKED (SUB has gone) -> [CATCHING up with the log] -> STANDS ->
 * REST
 *
 * From top to bottom, none of which calls those above it: upstream.c has the connection,
 * upstream_servers.c whom to dial, upstream_topics.c the tap and what is subscribed to,
 * upstream_patterns.c the same by patterns,
 * upstream_passing.c requests and groups, which have neither topic nor log,
 * upstream_log.c the stream and what is missing, upstream_past.c what was before,
 * upstream_waiting.c subscribers that wait, upstream_receive.c makes blocks of what comes,
 * upstream_publish.c has what goes up, upstream_message.c how,
 * upstream_changed.c a log that is another one, upstream_ids.c what has come before,
 * upstream_inbox.c subjects and answers. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/histogram.h"
#include "base/list.h"
#include "base/server.h"
#include "base/span.h"
#include "base/table.h"
#include "broker/counters.h"
#include "broker/protocol.h"
#include "engine/dial.h"
#include "protocol/jetstream.h"
#include "protocol/nats.h"
#include "session/intake.h"

struct block;
struct config_upstream;
struct connection;
struct lookup;
struct pattern;
struct pattern_letter;
struct shard;
struct subscribe_letter;
struct topic;
struct topic_letter;

enum upstream_state {
	UPSTREAM_DOWN,
	UPSTREAM_DIALLING,
	UPSTREAM_GREETING,
	UPSTREAM_SECURING, /* a handshake, where there is TLS */
	UPSTREAM_JOINING,
	UPSTREAM_CHECKING, /* the stream, where there is a log */
	UPSTREAM_UP
};

enum {
	UPSTREAM_SERVERS_MAX = 64, /* that are known; more are not learnt */
	UPSTREAM_SECRET_MAX = 512,
	UPSTREAM_NONCE = 12, /* characters that messages of this shard are known by */
	UPSTREAM_INBOX_MAX = 64,
	UPSTREAM_INBOX_SID = 1,   /* of the subscription to it, */
	UPSTREAM_REPLIES_SID = 2, /* and to answers; topics have later ones */
	UPSTREAM_SUBJECT_MAX = 512,
};

/* Bytes that are to go up, or that one message is made of. */
struct upstream_bytes {
	char *data;
	size_t len, room;
};

struct upstream {
	const struct protocol *protocol;
	/* Adds to what is said upstream with the next flush. False: out of memory, it is lost. */
	bool (*write)(struct upstream *upstream, struct span bytes);
	/* The connection is of no use any more. */
	void (*lose)(struct upstream *upstream, const char *why);
	bool log; /* a stream keeps what is published */
	struct shard *shard;
	const struct config_upstream *config;
	struct dial dial;
	struct connection *connection; /* NULL: none; it has been lost, or is not there yet */
	struct intake intake;          /* the last connection's */
	enum upstream_state state;
	uint64_t act_ns;     /* DOWN: dials then; up to JOINING: gives up then */
	uint64_t backoff_ns; /* the next one, without its jitter */
	uint64_t down_ns;    /* since when it is not UP */
	bool cut_off;        /* for so long that the broker is not ready */
	bool told;           /* that it is down is in the log */
	uint64_t heard_ns, pinged_ns;
	uint64_t pings, pongs; /* on this connection */
	bool overrun;          /* there was no memory for something that was written */
	bool unpinged;         /* something was written that waits for the next PONG */
	uint64_t nth;          /* which of its connections this is */
	uint64_t rtt_ns;
	struct nats_server info;
	struct server servers[UPSTREAM_SERVERS_MAX];
	unsigned servers_n, server;              /* the one that is, or was, dialled */
	uint8_t taught_by[UPSTREAM_SERVERS_MAX]; /* whose name its certificate is for, too */
	struct lookup *lookup;   /* of the addresses of the one that is dialled; NULL: it has one */
	bool looking;            /* and that is under way */
	unsigned address, tries; /* which of them is next, and how many may be tried yet */
	char user[UPSTREAM_SECRET_MAX], pass[UPSTREAM_SECRET_MAX], token[UPSTREAM_SECRET_MAX];
	struct upstream_bytes out; /* written in this turn */

	/* Topics, each in the list of its state. */
	struct list wanted, asked, catching, standing;
	struct list lingering; /* that nobody wants any more, by when */
	struct list held;      /* whose publishers wait */
	struct list awaited;   /* whose subscribers wait for them to stand */
	uint64_t sids;

	/* Patterns, by their subjects, each in the list of its state; subscribers who wait for
	 * theirs; how often one has gone. */
	struct table patterns, patterns_by_sid;
	struct list patterns_wanted, patterns_asked, patterns_standing, patterns_letters;
	uint64_t patterns_left;
	struct list patterns_passing; /* for names that leave nothing behind; */
	uint64_t apart_n;             /* these, and those for members of groups */
	/* What answers to requests come back on: with what the requester's own inbox is behind it.
	 */
	char replies[UPSTREAM_INBOX_MAX];
	char reply[UPSTREAM_SUBJECT_MAX]; /* that is being written */
	bool replied; /* somebody has asked: there is a subscription on every connection */

	/* What was published here, and letters that wait behind it: all in order; and those that
	 * have not been sent, or sent and not come back yet. */
	struct list pending, unwritten, unanswered;
	struct list passed;            /* that leave nothing behind, until the next PONG */
	uint64_t messages, bytes;      /* of all */
	struct histogram publish_time; /* until they were there */
	uint64_t ids;
	char nonce[UPSTREAM_NONCE + 1];

	/* The log. */
	struct jetstream_stream stream; /* as it was when last asked about */
	uint64_t epoch;                 /* of its numbers */
	uint64_t salt; /* it has contradicted itself: this host's numbers have an epoch of their own
			*/
	uint64_t stream_asked_ns, stream_told_ns; /* 0: not yet, on this connection */
	bool create_asked;
	bool contradicted;              /* it has said what cannot be: since then nothing counts */
	uint64_t moving_ns;             /* and is asked to be another one; 0: not yet */
	uint64_t moved_ns;              /* when it last became one */
	char inbox[UPSTREAM_INBOX_MAX]; /* what answers on this connection begin with */
	struct list asks,
		asking; /* topics that something is to be asked about, or has been: by when */
	unsigned asking_n;
	struct list holes;   /* of which something is missing: by when it was found */
	struct list repairs; /* for which that is being fetched: by when something has come */
	unsigned repairs_n;
	struct list pasts, pasts_asked; /* whose past somebody wants, and for which it is fetched */
	unsigned pasts_n;
	struct upstream_topic *past;         /* what is taken is of its past */
	uint64_t stream_last, stream_before; /* its last number when that was told, and the time
						before */
	struct list tails; /* that stand, by when their end was last compared with the log's */

	/* Messages that have come back, of one topic, and are to be delivered together. */
	struct upstream_topic *gathered;
	struct block *block;
	uint64_t number; /* of its first message, by the log */
	bool extras;
	struct upstream_bytes scratch; /* headers of the message under way */
};

/* A topic's (topic->tapped). */
struct upstream_topic {
	struct topic *topic;
	enum {
		UPSTREAM_REST,
		UPSTREAM_WANTED,
		UPSTREAM_ASKED,
		UPSTREAM_CATCHING,
		UPSTREAM_STANDS
	} state;
	bool idle;   /* it has no clients, since idle_ns */
	bool missed; /* some messages, of which its subscribers have not been told, */
	enum upstream_gap why;
	uint64_t nth;    /* ASKED, STANDS: on which connection; on any other it is WANTED */
	uint64_t sid;    /* of its subscription; STANDS: 0: it has none, but the bearer's */
	uint64_t bearer; /* of a pattern's subscription that brings it until it stands with its own;
			    0: none */
	uint64_t left;   /* REST: patterns that had gone when it began */
	uint64_t ping;   /* ASKED: it stands when so many have been answered */
	uint64_t idle_ns;
	struct list link;                      /* by its state */
	struct list linger, held, awaited;     /* the upstream's */
	struct subscribe_letter *first, *last; /* subscribers that wait for it to stand */
	struct list unwritten; /* published, but it does not stand, or another one is on its way */
	const void *flying;    /* that one, where one goes up at a time; else NULL */

	/* With a log: */
	uint64_t epoch;     /* that its number is of; 0: none */
	uint64_t number;    /* of the last message that has come */
	uint64_t target;    /* there are messages up to that one */
	uint64_t confirmed; /* none is missing up to that number of the stream, whosever it is */
	uint64_t skipped;   /* up to there some may not have been delivered: a gap */
	enum { ASK_NOTHING, ASK_NEWEST, ASK_KEPT, ASK_CONSUMER } ask;
	uint64_t asked_ns, asked_number, asked_last; /* when; its number and the stream's then */
	uint64_t hole_ns; /* since when something is missing; 0: nothing */
	uint64_t tail_ns;
	/* A consumer fetches it: its subscription, name, how many came from it. */
	uint64_t repair_sid, repair_count, repair_bytes, repair_ns;
	char consumer[32];
	struct list parked; /* messages that came before others that are missing */
	size_t parked_bytes;
	struct list asks, hole, tail; /* the upstream's */
	/* The last ids that have come, as hashes: those of repetitions are odd. */
	uint64_t *ids;
	uint32_t ids_n, ids_slots;
	bool repeated; /* some of them are */
	/* What is fetched of its past. */
	struct {
		struct list link; /* the upstream's */
		uint64_t sid;     /* of the subscription; 0: nothing is under way */
		uint64_t count, bytes, begun_ns;
		uint64_t from;      /* number of the first one that is asked for */
		bool after;         /* that one somebody has already */
		uint64_t floor;     /* the topic's when it began: up to there */
		uint64_t before;    /* nothing is missing behind that */
		struct list blocks; /* that have come (age) */
		uint64_t tried,
			tried_floor; /* from there on there is no more than with that floor */
	} past;
};

/* -ENOMEM, or what is wrong with its files; release it all the same. */
int upstream_init(struct shard *shard, const struct protocol *protocol);
void upstream_release(struct shard *shard);
/* The first line of a file, for the main thread: "" for none. -errno: it cannot be read, and that
 * has been said. */
int upstream_secret(const char *path, char out[UPSTREAM_SECRET_MAX]);
/* Once per turn. Whether there is more to do at once. */
bool upstream_go_on(struct shard *shard);

/* ---- its protocol (session/registry.c) ---- */

extern const struct protocol upstream_protocol;
void upstream_received(struct connection *connection, struct span bytes);
void upstream_secured(struct connection *connection);
void upstream_ends(struct connection *connection, bool receipt);
const char *upstream_say(struct connection *connection, enum reason reason);
const char *upstream_farewell(const struct connection *connection, bool bye);
void upstream_resume(struct connection *connection);
bool upstream_silent(const struct connection *connection);
uint64_t upstream_held(const struct connection *connection);
void upstream_free(struct connection *connection);

/* ---- between its parts ---- */

/* A message that is to be delivered; number: what the log knows it by. */
struct upstream_message {
	uint64_t number;
	struct span reply, headers, payload;
};

uint64_t upstream_now(const struct upstream *upstream);

/* Cut off for so long that nobody waits for its end. */
bool upstream_gives_up(const struct upstream *upstream);

/* upstream_servers.c */
/* A server that says nothing for so long is given up. */
uint64_t upstream_deaf_ns(const struct upstream *upstream);

void upstream_servers_init(struct upstream *upstream);
/* Of the server that is, or was, dialled: as it is named; whether it must speak TLS; the name that
 * its certificate must be for. */
const char *upstream_server_host(const struct upstream *upstream);
bool upstream_server_secure(const struct upstream *upstream);
const char *upstream_server_certified(const struct upstream *upstream);
/* Another one is the next to be dialled. */
void upstream_servers_next(struct upstream *upstream);
/* Those that INFO names are known from now on. */
void upstream_servers_learn(struct upstream *upstream);
/* Begins to dial. NULL: it is under way; else why it is not, static or strerror's. */
const char *upstream_servers_dial(struct upstream *upstream);
/* The same for what a lookup has brought; *next_ns: when to look again, if that is earlier. */
const char *upstream_servers_look(struct upstream *upstream, uint64_t *next_ns);
/* One address has failed: dials the next one of this server's. -errno: there is none. */
int upstream_servers_again(struct upstream *upstream);
/* Dialling is over, one way or the other. */
void upstream_servers_leave(struct upstream *upstream);

/* upstream_topics.c */

int upstream_topics_init(struct upstream *upstream);
void upstream_topics_release(struct upstream *upstream);
/* The connection is lost, with whatever was on its way. */
void upstream_topics_lost(struct upstream *upstream);
/* So many PINGs have been answered now. */
void upstream_topics_answered(struct upstream *upstream);
/* A message has come. */
void upstream_topics_message(struct upstream *upstream, const struct nats_said *said,
			     struct span headers, struct span payload);
/* Writes what is to go up, as far as there is time. True: there is more. */
bool upstream_topics_write(struct upstream *upstream);
/* What is over by now; when the next will be: in *next_ns if that is earlier. */
void upstream_topics_expire(struct upstream *upstream, uint64_t *next_ns);

/* upstream_patterns.c */

void upstream_patterns_init(struct upstream *upstream);
void upstream_patterns_release(struct upstream *upstream);
/* As in struct tap. */
int upstream_pattern_appeared(struct upstream *upstream, struct pattern *pattern);
void upstream_pattern_members(struct upstream *upstream, struct pattern *pattern, uint64_t members);
void upstream_pattern_gone(struct upstream *upstream, struct pattern *pattern);
bool upstream_pattern_keeps(struct upstream *upstream, struct pattern *pattern,
			    struct pattern_letter *letter);
/* True: there is more. */
bool upstream_patterns_write(struct upstream *upstream);
void upstream_patterns_answered(struct upstream *upstream);
void upstream_patterns_lost(struct upstream *upstream);
void upstream_patterns_expire(struct upstream *upstream);
/* Whether a pattern's subscription, or any that matches this name, is there. */
bool upstream_pattern_stands(const struct upstream *upstream, uint64_t sid);
bool upstream_pattern_covers(const struct upstream *upstream, struct span name);
/* The topic that a message is of which a pattern's subscription has brought; NULL: it is none, or
 * another home's. And whether this is the copy of it that counts. */
bool upstream_pattern_bears(struct upstream *upstream, struct upstream_topic *topic, uint64_t sid);
struct upstream_topic *upstream_pattern_topic(struct upstream *upstream, uint64_t sid,
					      struct span name);
/* The topic, and the number, of what was fetched for a pattern, if nobody else asks for it. */
struct upstream_topic *upstream_pattern_fetched(struct upstream *upstream, uint64_t sid,
						struct span name, const struct nats_said *said,
						uint64_t *number);

/* A message of a subscription for a group, or for names that leave nothing behind: *name is empty
 * where it is for nobody; *members: the group's, or NULL. False: it is no such subscription. */
bool upstream_pattern_apart(struct upstream *upstream, uint64_t sid, struct span subject,
			    struct span *name, struct pattern **members);

/* upstream_inbox.c */

void upstream_put(struct upstream *upstream, struct span bytes);
/* The publish_prefix, unless the subject is one that stands for itself: an inbox, or "$...". */
struct span upstream_prefix(const struct upstream *upstream, struct span subject);
/* What is behind a prefix; empty: it does not begin so, or nothing is. */
struct span upstream_behind(struct span text, const char *prefix);
/* Behind the inbox for answers: whether the requester wants to hear that nobody is there. */
enum { UPSTREAM_TELL = '1', UPSTREAM_TELL_NOT = '0' };
/* A connection has come. */
void upstream_inbox_begin(struct upstream *upstream);
/* What answers to a message of this block come back on, until the next one is asked for. */
struct span upstream_reply(struct upstream *upstream, const struct block *block, struct span reply);
/* To this broker's own subscribers, wherever its name is at home. Takes it over. */
void upstream_hand_on(struct upstream *upstream, struct block *block);
/* Answers a message that is in the log now. */
void upstream_acknowledge(struct upstream *upstream, struct span reply, uint64_t number,
			  bool duplicate);

/* Publishes to JetStream's API, as to this stream; the answer's subject is the inbox, `to` and the
 * name. */
void upstream_request(struct upstream *upstream, const char *api, const char *more, const char *to,
		      struct span name, struct span body);
/* Has the stream send all of this topic, or pattern, from that number on; kind: tells those for
 * whom there are consumers apart. What the stream says of it comes with this subject behind the
 * inbox. The subscription that it comes by. */
uint64_t upstream_consume(struct upstream *upstream, char kind, struct span name, uint64_t from,
			  const char *answer, struct span behind);

/* upstream_changed.c */

/* Once the stream has contradicted itself: sees to it that it is another one for everybody. */
void upstream_changed_expire(struct upstream *upstream, uint64_t *next_ns);
/* What the stream says to that. */
void upstream_changed_answer(struct upstream *upstream, char kind, struct span headers,
			     struct span payload);

/* upstream_ids.c */

enum { UPSTREAM_REPETITIONS_MAX = 2 };
/* An id without the "~1" or "~2" of its repetitions. */
struct span upstream_id_first(struct span id);
/* Remembers the id of a message that has come. True: it is the repetition of one that has come
 * before, or the other way round. */
bool upstream_id_came(struct upstream_topic *topic, struct span id);
void upstream_ids_release(struct upstream_topic *topic);

/* upstream_passing.c */

/* As tap.passes. */
bool upstream_passes(struct upstream *upstream, struct block *block);
/* A message has come. False: it is of a topic. */
bool upstream_passing_message(struct upstream *upstream, uint64_t sid, struct span subject,
			      const struct upstream_message *message);

/* upstream_log.c */

void upstream_log_init(struct upstream *upstream);
/* A connection is there: asks about the stream. The state becomes UP when it is right, in
 * upstream_log_checked's eyes. */
void upstream_log_begin(struct upstream *upstream);
/* Whether the stream has been told of and is as it should be. */
bool upstream_log_checked(const struct upstream *upstream);
void upstream_log_topic(struct upstream_topic *topic);
void upstream_log_lost(struct upstream *upstream);
/* Nothing is asked about the topic or fetched for it any more. */
void upstream_log_leave(struct upstream *upstream, struct upstream_topic *topic);
/* Compares the topic's end with the log's; it stands when there is nothing missing. */
void upstream_log_look(struct upstream *upstream, struct upstream_topic *topic);
/* An answer, by what its subject has behind the inbox. */
void upstream_log_answer(struct upstream *upstream, struct span subject, struct span headers,
			 struct span payload);
/* A message as the stream has republished it, or as a consumer has fetched it. */
void upstream_log_live(struct upstream *upstream, struct upstream_topic *topic,
		       const struct nats_said *said, struct span headers, struct span payload);
/* A topic that has none of its own is to get, by a pattern's, what follows on this number: nobody
 * has listened to it before. */
void upstream_log_bear(struct upstream *upstream, struct upstream_topic *topic, uint64_t before);
/* A message of such a topic's that was fetched for the pattern. */
void upstream_log_bring(struct upstream *upstream, struct upstream_topic *topic, uint64_t number,
			struct span headers, struct span payload);
void upstream_log_fetched(struct upstream *upstream, struct upstream_topic *topic,
			  const struct nats_said *said, struct span headers, struct span payload);
/* True: there is more. */
bool upstream_log_write(struct upstream *upstream);
void upstream_log_expire(struct upstream *upstream, uint64_t *next_ns);

/* upstream_past.c */

/* Nothing of its past is fetched any more. */
void upstream_past_leave(struct upstream *upstream, struct upstream_topic *topic);
void upstream_past_lost(struct upstream *upstream);
void upstream_past_fetched(struct upstream *upstream, struct upstream_topic *topic,
			   const struct nats_said *said, struct span headers, struct span payload);
/* True: there is more. */
bool upstream_past_write(struct upstream *upstream);
void upstream_past_expire(struct upstream *upstream, uint64_t *next_ns);

/* upstream_waiting.c */

/* Keeps the letter until the topic stands. */
void upstream_wait(struct upstream *upstream, struct upstream_topic *topic,
		   struct subscribe_letter *letter);
/* Whether he wants something of the past that is not here, and has not been looked for. */
bool upstream_wants_past(const struct upstream *upstream, const struct upstream_topic *topic,
			 const struct subscribe_letter *letter);
/* Whether somebody who waits wants something of the past. */
bool upstream_past_wanted(const struct upstream_topic *topic);
/* It stands: whoever waits is let in, and what was published goes up. */
void upstream_stands(struct upstream *upstream, struct upstream_topic *topic);
/* Refuses whoever waits in vain. */
void upstream_waiting_expire(struct upstream *upstream, uint64_t *next_ns);
void upstream_waiting_free(struct upstream_topic *topic);

/* upstream_receive.c */

/* The topic of this name, if it is the cluster's; else NULL. */
struct upstream_topic *upstream_topic_named(struct upstream *upstream, struct span name);
void upstream_take(struct upstream *upstream, struct upstream_topic *topic,
		   const struct upstream_message *message);
/* A block of it alone. NULL: out of memory. */
struct block *upstream_block(struct upstream *upstream, struct span name,
			     const struct upstream_message *message);
/* The same of one from before what is here: it is kept for its topic's past. */
void upstream_take_past(struct upstream *upstream, struct upstream_topic *topic,
			const struct upstream_message *message);
/* Delivers what has been gathered. */
void upstream_deliver(struct upstream *upstream);
/* Tells the topic's subscribers that something is missing, if that is so; with a log, what comes is
 * behind this number. */
void upstream_tell_missed(struct upstream *upstream, struct upstream_topic *topic, uint64_t number);

/* upstream_publish.c */

void upstream_publish_init(struct upstream *upstream);
void upstream_publish_release(struct upstream *upstream);
void upstream_pin(struct upstream_topic *topic);
void upstream_unpin(struct upstream *upstream, struct upstream_topic *topic);
void upstream_let_publish(struct upstream *upstream, struct upstream_topic *topic);
/* Makes room for headers, and that empty. False: out of memory. */
bool upstream_scratch(struct upstream *upstream, size_t bytes);
/* What is said of a block's messages when they go up. */
struct upstream_up {
	struct block *block;
	bool passing;       /* it leaves nothing behind, and has no topic */
	uint8_t repetition; /* its messages have ids of that one (upstream_ids.c) */
};
/* What its publisher wants repetitions of a message to be known by. Empty: nothing. */
struct span upstream_key(const struct block *block, const struct record *record);
/* Writes one of its messages; id: by which it is known when it comes back. */
void upstream_put_message(struct upstream *upstream, const struct upstream_up *up,
			  const struct record *record, uint64_t id);
/* Takes the block over. */
void upstream_publish(struct upstream *upstream, struct upstream_topic *topic, struct block *block);
/* The same of one that leaves nothing behind, and goes up at once or not at all. */
void upstream_publish_passing(struct upstream *upstream, struct block *block);
/* As tap.keeps_receipt and tap.drained. */
bool upstream_publish_keeps(struct upstream *upstream, struct topic_letter *letter);
bool upstream_publish_drained(const struct upstream *upstream);
/* True: there is more. */
bool upstream_publish_write(struct upstream *upstream);
/* So many PINGs have been answered now. */
void upstream_publish_answered(struct upstream *upstream);
void upstream_publish_lost(struct upstream *upstream);
/* The topic stands: what was published to it may go up. */
void upstream_publish_stands(struct upstream *upstream, struct upstream_topic *topic);
/* A message with this id (Nats-Msg-Id) has come, and is about to be delivered. Returns a block that
 * is to be delivered in its place, as it was published; NULL: there is none. *from, which the
 * caller has set to nobody (generation 0), is its publisher where he does not want to get it
 * himself. */
struct block *upstream_publish_came(struct upstream *upstream, struct upstream_topic *topic,
				    struct span id, uint64_t number, struct run_publisher *from);
/* The publisher of a message that leaves nothing behind and has come back, if he does not want to
 * get it; nobody (generation 0): nobody is known who does not. */
struct run_publisher upstream_publish_passed(struct upstream *upstream, struct span id);
/* What the stream says of the message of this id. */
void upstream_publish_acknowledged(struct upstream *upstream, struct span id,
				   const struct jetstream_ack *ack);
void upstream_publish_expire(struct upstream *upstream, uint64_t *next_ns);

#endif
