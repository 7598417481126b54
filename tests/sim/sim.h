#ifndef SIM_H
#define SIM_H

/*
 * The simulation: whole brokers (every shard's reactor as a fiber, the real mailbox between them)
 * on a simulated kernel and clock, with simulated clients, in one thread. Every choice is drawn
 * from one seed, so that a seed is a run that can be repeated bit for bit.
 *
 *   runner.c     many seeds, on several processes; repeats and shrinks what fails
 *   world.c      one seed: builds the broker, schedules, calms down, checks
 *   client.c     what clients do, and the check of every byte they get
 *   http.c       those of them that speak HTTP
 *   wild.c       those that subscribe to patterns, or are in a queue group
 *   many.c       those with many subscriptions: resp.c, mqtt.c, websocket.c, nats.c
 *   cluster.c    worlds of their own, in which the broker's topics are a cluster's (upstream)
 *   server.c     the nats-server there, and jetstream.c its stream
 *   oracle.c     what the broker decided (order, places of joining), listened to at its own calls
 *   sim_ring.c   include/engine/ring.h: sockets, requests and completions in memory
 *   sim_cipher.c include/engine/cipher.h, and the client's side of that
 *   sim_clock.c  include/base/clock.h
 *   alloc.c      counts and refuses allocations
 *   fiber.c      reactors that can be left in the middle of a turn
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/shard.h"

enum {
	SIM_CLIENTS_MAX = 512,
	SIM_SCRIPTED_MAX = 256, /* clients of a script */
	SIM_SHARDS_MAX = 80,
	SIM_TOPICS_MAX = 8,
	SIM_DIALS_MAX = 64, /* connections to the server, with those that are just ending */
	SIM_PIPE_BYTES_MAX = 64 << 10,
	SIM_MESSAGE_BYTES_MAX = 40000,
};

/* ---- chance ---- */

/* splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators"). */
struct random {
	uint64_t state;
};

static inline uint64_t random_next(struct random *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* 0 to n - 1; n may not be 0. */
static inline unsigned random_below(struct random *r, unsigned n)
{
	return (unsigned)((random_next(r) >> 32) * n >> 32);
}

static inline unsigned random_from(struct random *r, unsigned low, unsigned high)
{
	return low + random_below(r, high - low + 1);
}

static inline bool random_one_in(struct random *r, unsigned n)
{
	return random_below(r, n) == 0;
}

/* Mostly small, sometimes up to max. At least 1. */
unsigned random_size(struct random *r, unsigned max);
struct random random_for(uint64_t seed, uint64_t what, uint64_t which);

/* ---- a run ---- */

enum fault {
	FAULT_SHORT,    /* sends end before all has gone */
	FAULT_SEND,     /* errno on a send */
	FAULT_RECV,     /* errno on a receive */
	FAULT_BUFFERS,  /* few receive buffers, and none when one is needed */
	FAULT_ENDSHOT,  /* a multishot request ends by itself */
	FAULT_ACCEPT,   /* no file descriptor left */
	FAULT_CANCEL,   /* what is cancelled ends late, or as it would have ended anyway */
	FAULT_OVERFLOW, /* a completion queue of a few entries */
	FAULT_ENTER,    /* io_uring_enter is interrupted, or takes only some */
	FAULT_PREEMPT,  /* a reactor loses the processor in the middle of its turn */
	FAULT_RESET,    /* peers vanish */
	FAULT_STALL,    /* peers stop reading */
	FAULT_TIME,     /* long silences */
	FAULT_MEMORY,   /* allocations fail */
	FAULT_GARBAGE,  /* clients that talk nonsense */
	FAULT_RELOAD,   /* another configuration */
	FAULT_DRAIN,    /* ends by draining, and that at any time */
	FAULT_LIMITS,   /* limits that are hit */
	FAULT_BUDGET,   /* a memory budget that is hit, and more to publish */
	FAULT_TLS,      /* everybody speaks TLS */
	FAULT_UPSTREAM, /* the server closes, vanishes, refuses, is silent */
	FAULTS
};
extern const char *const fault_names[FAULTS];

/* Whose the topics are: this host's, or a cluster's, without a log or with one. */
enum sim_upstream { UPSTREAM_SIM_NONE, UPSTREAM_SIM_CORE, UPSTREAM_SIM_LOG, UPSTREAM_SIMS };

struct sim_params {
	uint64_t seed;
	uint64_t schedule; /* what the kernel, the reactors and the engine's sizes are drawn from */
	unsigned shards, clients, steps;
	uint32_t faults;
	/* How many protocols of many subscriptions some clients speak, of those of many.c in their
	 * order; 0: all have one subscription. */
	unsigned many;
	enum sim_upstream upstream;
};

/* CALM_NONE: faults happen. CALM_PUBLISHERS: none any more, and publishers end. CALM_ALL:
 * subscribers end too. */
enum calm { CALM_NONE, CALM_PUBLISHERS, CALM_ALL };

struct sim {
	struct sim_params params;
	struct random random; /* of the schedule and the kernel */
	unsigned rate[FAULTS];
	uint64_t fired[FAULTS]; /* times that each has done something */
	enum calm calm;
	bool verbose;
	uint64_t now_ns;
	uint64_t handshake_step_ns; /* what a step of a handshake takes; */
	unsigned handshake_steps;   /* so many were made */
	/* That it takes to hand over a send, and to allocate memory: a script's. */
	uint64_t send_ns, allocation_ns;
	uint64_t trace; /* hash of everything that happened */
	uint64_t step;
	struct broker broker;
	struct client *clients;
	unsigned clients_n, topics_n;
	uint64_t sequenced;  /* messages, in all topics */
	uint64_t lines;      /* that the kernel has taken whole, for all clients */
	bool frozen;         /* no faults for the moment */
	uint64_t idle_bytes; /* what a broker without clients keeps */
	uint64_t budget_max; /* the largest so far */
};
extern struct sim sim;

/* What this seed is made of. */
struct sim_params sim_params_for(uint64_t seed);
/* Plays it. Returns the hash of its trace; does not return when it fails. */
uint64_t sim_run(const struct sim_params *params, bool verbose);

/* The same step by step, for whoever has a script: a world without clients, at rest. Every one of
 * these but world_step, world_halt and those that only begin something ends when the world is at
 * rest again. */
void world_begin(const struct sim_params *params, bool verbose);
/* Whatever may happen next does, and no more than that. */
void world_step(void);
void world_rest(void);
/* Until nobody goes on without time passing: streams may rest still. */
void world_halt(void);
void world_pass(uint64_t ns);
/* What a script wants otherwise in every configuration; NULL: as drawn. */
extern void (*world_adjust)(struct config *config);
/* Another configuration, which one shard reads while the next ones still have the last. */
void world_reload(void);
/* Another one, which all shards are to read. */
void world_begin_reload(void);
/* As SIGTERM. */
/* The broker is told that its end comes soon. */
void world_lame(void);
void world_drain(void);
void world_begin_drain(void);
/* Drains it, if that has not been done, and checks that nothing is left. */
void world_end(void);
/* A new client of ROLE_RAW, which connects next; NULL: there are too many. */
struct client *world_client(void);

/* Whoever plays says how a failure that has been told of ends. */
void sim_give_up(void) __attribute__((noreturn));

/* Whether this fault happens now. */
bool fault(enum fault kind);

/* An event: the format takes these four as PRIu64. */
void sim_trace(const char *format, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
/* Prints the last of them, as many as sim_events says. */
void sim_trace_dump(void);
extern unsigned sim_events;
void sim_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* ---- fibers ---- */

void fiber_start(unsigned index, void (*entry)(unsigned index));
/* From the scheduler: runs it until it yields or ends. */
void fiber_resume(unsigned index);
/* From a fiber: back to the scheduler. */
void fiber_yield(void);
/* The running fiber, or -1. */
int fiber_current(void);
bool fiber_ended(unsigned index);

/* ---- memory ---- */

/* Allocations of the broker that are not freed yet. */
long alloc_outstanding(void);
/* Says which have been lost, where a sanitizer knows. */
void alloc_tell(void);
/* Of the simulation itself; neither counted nor refused. */
void *sim_alloc(size_t size);
void *sim_realloc(void *p, size_t size);
void sim_free(void *p);

/* ---- the kernel ---- */

struct pipe {
	char *data; /* SIM_PIPE_BYTES_MAX, round */
	size_t head, len, max;
	uint64_t taken; /* bytes that have been read */
};

size_t pipe_write(struct pipe *p, const char *data, size_t n);
size_t pipe_read(struct pipe *p, char *data, size_t n);

/* A connection, with both ends. */
struct sim_tcp {
	struct pipe in, out; /* as the broker sees it */
	bool waiting;        /* in a listener's queue */
	bool client_fin;     /* the client sends no more */
	bool client_closed;  /* and reads no more */
	bool reset;
	bool broker_fin;     /* the broker sends no more */
	bool broker_closed;  /* its fd is closed */
	bool cut;            /* what was on its way to the client has been lost */
	bool errored;        /* the kernel has told the broker of an error */
	struct sim_tls *tls; /* NULL: plain */
};

/* ---- the client's part of TLS, sim_cipher.c: pipes hold plain bytes ---- */

struct sim_tls *sim_tls_new(void);
/* Its handshake is over; and it has heard the broker's close_notify. */
bool sim_tls_secure(const struct sim_tls *tls);
bool sim_tls_ended(const struct sim_tls *tls);
/* Whether there is anything for the broker to read, or will not be any more. */
bool sim_tls_has(const struct sim_tcp *wire);
bool sim_tls_at_end(const struct sim_tcp *wire);
/* What the broker reads, and how much it may send, and what it sends. */
size_t sim_tls_say(struct sim_tcp *wire, char *to, size_t max);
size_t sim_tls_room(const struct sim_tcp *wire);
void sim_tls_hear(struct sim_tcp *wire, const char *data, size_t n);

void kernel_init(void);
void kernel_release(void);
/* A listener's fd for a shard. */
int kernel_listen(unsigned shard);
void kernel_connect(unsigned client, unsigned shard);
/* The peer is gone without a word. */
void kernel_reset(struct sim_tcp *wire);
/* Some request makes some progress, if one can. */
void kernel_step(void);
/* Every request makes what progress it can. Returns whether there was any. */
bool kernel_sweep(void);
/* When the next timer fires; UINT64_MAX: none. */
uint64_t kernel_next_timer(void);
unsigned kernel_timers(unsigned shard);
/* When the first reactor that sleeps wakes by itself; UINT64_MAX: none does. */
uint64_t kernel_next_wake(void);
/* Whether the shard sleeps in ring_enter; and whether there is something to wake up for. */
bool kernel_waiting(unsigned shard);
bool kernel_has_completions(unsigned shard);
/* As MSG_RING from the main thread. */
void kernel_wake(unsigned shard);
unsigned kernel_open_fds(void);
/* The client whose bytes the running fiber is just being handed; -1: none. */
int kernel_receiving(void);
/* As if it were that client; returns who it was before. */
int kernel_receive_as(int client);
/* The client behind an fd; -1: none. */
int kernel_client_of(int fd);

/* ---- what the broker decided ---- */

/* A message in the order that its home gave it. */
struct entry {
	uint32_t publisher, number;
	bool encodable; /* as a line */
	bool empty;
};

struct order {
	struct entry *entries;
	size_t n, slots_n;
	size_t encodable_n;
	struct era {
		uint64_t epoch;
		size_t base;
	} * eras;
	size_t eras_n;
	size_t delivered[SIM_SHARDS_MAX]; /* how far each shard has been told */
};

extern struct order orders[SIM_TOPICS_MAX];

void oracle_init(void);
void oracle_release(void);
struct span oracle_topic_name(unsigned topic);
/* Letters in lanes of that kind; those that nobody has fetched. */
long oracle_letters(enum mailbox_lane lane);
/* Index of this message in the topic's order, or -1. */
long oracle_find(unsigned topic, uint64_t epoch, uint64_t seq);
/* How many there are up to this one, which may be 0 or still to come. */
size_t oracle_place(unsigned topic, uint64_t epoch, uint64_t seq);

/* ---- a cluster, and the world around it ---- */

/* A message that has come to the server, as its text says: of that publisher, its n-th. */
void cluster_published(struct span subject, struct span payload);
/* What its configuration has beside, and which faults there are. */
void cluster_configure(struct config *config);
void cluster_restrict(struct sim_params *params);
/* The world's steps, with all that is checked, up to when it has come to rest. */
void cluster_play(void);

void server_init(void);
void server_release(void);
/* Somebody dials. 0 and his wire; -errno: he is refused; -EAGAIN: not yet. */
int server_accept(struct sim_tcp **wire);
/* It hears and says something, or nothing. */
bool server_step(void);
/* As a client elsewhere does. */
void server_publish(struct span subject, struct span payload);
/* How many connections have been lost, with what was on its way. */
unsigned server_lost(void);

/* ---- clients ---- */

/* ROLE_READER asks for messages as resources, also for some that are still to come. ROLE_RAW says
 * what it is given with client_say; what it hears stays in its line. */
enum role {
	ROLE_PUBLISHER,
	ROLE_SUBSCRIBER,
	ROLE_READER,
	ROLE_MANY,
	ROLE_GARBAGE,
	ROLE_SILENT,
	ROLE_RAW,
};
/* A publisher that speaks HTTP is SPEAKS_CHUNKED. */
enum speech {
	SPEAKS_LINE,
	SPEAKS_CHUNKED,
	SPEAKS_EVENTS,
	SPEAKS_RESP,
	SPEAKS_MQTT,
	SPEAKS_WEBSOCKET,
	SPEAKS_NATS
};
enum ending { END_BYE, END_FIN, END_CLOSE, END_RESET, END_STAY, END_TOO_LONG };

enum {
	MANY_BEFORE_NATS = SPEAKS_NATS - SPEAKS_RESP,
	MANY_MAX = SPEAKS_NATS - SPEAKS_RESP + 1,
	MANY_AT_ONCE = 3,
	QUESTIONS_MAX = 64,
	SOCKET_PATTERNS = 4, /* that are asked for at /ws, */
	SOCKET_NAMES = SIM_TOPICS_MAX + SOCKET_PATTERNS,
};

enum name { NAME_OFF, NAME_ASKED, NAME_ON, NAME_GOING };

struct client {
	unsigned id;
	enum role role;
	enum ending ending;
	enum speech speech;
	const struct talk *talk; /* how, in a protocol of many subscriptions; or NULL */
	unsigned topic, start;
	bool probe; /* begun after all faults */
	bool begun, said_all, over, stalled, slow;
	bool cut_short; /* the broker closed while it had more to say */
	struct random random;
	struct sim_tcp wire;
	char *pending; /* what it is about to say */
	size_t pending_n, pending_at, pending_slots;
	char *line; /* what it has read of one */
	size_t line_n, line_slots;
	unsigned lines_n;
	bool ok, error, bye, cr;
	/* publisher */
	bool patient, commanded;
	unsigned messages, generated, sequenced, patience;
	uint64_t held_up, held_turn; /* in which scarcity of memory, and turn, it published last */
	/* HTTP: what is read of an answer */
	unsigned http_state, status, answered;
	size_t body_left;
	/* reader */
	uint64_t wanted;             /* the number of a message; 0: the newest */
	uint64_t got_epoch, got_seq; /* of the one that an answer brings */
	/* subscriber */
	unsigned replay_kind;
	uint64_t replay_n, replay_epoch;
	size_t replay_index;
	bool placed; /* the broker has said where it begins */
	bool asked;  /* its home has been asked */
	size_t asked_at;
	size_t begin_low, begin_high, next;
	uint64_t gap_epoch, gap_seq;
	uint64_t received, unfinished;
	bool begun_reading;
	/* many: by topic */
	struct heard {
		bool asked;   /* it waits for a confirmation */
		bool on;      /* it is subscribed, as far as it knows */
		size_t begin; /* where the last subscription has begun */
		size_t next;
		unsigned sid; /* of NATS, */
		/* messages that have come for it, and after how many it ends; 0: after none */
		unsigned got, limit;
		/* WebSocket: its home has said where it begins; `next` is what comes next and not
		 * only at most that; it has heard of a gap of unknown length; of one that has gone
		 * the rest may come; the newest that has come, and what it asked to go on with. */
		bool placed, known, skipped, lingers;
		uint64_t epoch, seq;
		size_t from;
	} heard[SIM_TOPICS_MAX];
	struct {
		unsigned char names[SOCKET_NAMES]; /* enum name: topics and patterns */
		unsigned pings, pongs;
		unsigned
			due; /* the code that it is to be closed with; 0: with none in particular */
		bool closed;
	} socket;
	/* What it has asked for: of MQTT by the packet's identifier, of NATS by its PINGs. */
	struct question {
		unsigned n, topics[MANY_AT_ONCE];
		bool on;            /* it wants them */
		unsigned published; /* messages, before that */
	} questions[QUESTIONS_MAX];
	unsigned questions_n, answers_n;
	/* subscriber to a pattern, or in a group (wild.c) */
	const char *pattern; /* NULL: to its topic */
	unsigned group;      /* 0: none */
	unsigned shard;
	bool wild_asked, wild_joined;
	struct place {
		bool known;     /* something of the topic has come, or is the newest of the past, */
		bool late;      /* and more was there before that, after it was in; */
		size_t next;    /* what comes next */
		size_t asked_n; /* messages in its order when the homes were asked, */
		size_t joined_n; /* and when they all had answered */
	} places[SIM_TOPICS_MAX];
};

void client_init(struct client *c, unsigned id);
void client_release(struct client *c);
/* A few bytes in some direction. Returns whether anything happened. */
bool client_step(struct client *c);
/* From now on it reads and ends as it should. */
void client_calm(struct client *c);
/* Whether what the client of this wire hears is no text: any byte may end a message. */
bool client_hears_frames(struct sim_tcp *wire);
/* Whether messages may be missing in between. */
bool client_may_miss(const struct client *c);
/* The message that is in c->line is the one that must come now, or it fails. */
void client_hear_message(struct client *c);
/* Whether this entry of the topic's order is for somebody who speaks as this client. */
bool client_wants(const struct client *c, const struct entry *e);
void client_say(struct client *c, const char *data, size_t n);
void client_add(struct client *c, char b);

/* What becomes a subscriber to a pattern, or a member of a group. */
void wild_init(struct client *c);
void wild_release(void);
static inline bool client_wild(const struct client *c)
{
	return c->pattern != NULL || c->group > 0;
}
void wild_hear(struct client *c);
void client_hear_error(struct client *c);
/* What the oracle hears: it asks, it is in, a block comes to its shard. */
void wild_asks(struct client *c, unsigned shard);
void wild_joins(struct client *c);
void wild_joins_behind(struct client *c, unsigned topic, size_t index);
void wild_delivered(unsigned shard, unsigned topic, size_t first);
/* Everybody has what is theirs, and groups have taken what is for them. */
void wild_check(const char *when);

/* A request instead of a command, and one with a message. */
void http_say_command(struct client *c);
void http_say_message(struct client *c, const char *text, size_t n);
void http_say_fetch(struct client *c);
void http_hear(struct client *c, const char *data, size_t n);

/* One that speaks a protocol of many subscriptions. */
struct talk {
	bool acknowledged; /* it waits for word of what it has published before it ends */
	bool early;        /* messages may come before word of the subscription */
	bool frames;       /* it is no text */
	bool waits;        /* nothing may be said before the answer to what comes first */
	void (*connect)(struct client *c); /* says what comes first; NULL: nothing does */
	void (*message)(struct client *c, unsigned number, const char *text, size_t n);
	/* Wants these topics (on), or does not want them any more. */
	void (*ask)(struct client *c, bool on, const unsigned *topics, unsigned n);
	void (*ping)(struct client *c);
	void (*quit)(struct client *c);
	/* Takes one reply off; returns how long it is, or 0: it is not all there, and so much is
	 * needed (c->body_left). */
	size_t (*hear)(struct client *c, struct span in);
	/* The broker says no more; NULL: that is all the same. */
	void (*ended)(struct client *c);
};
extern const struct talk resp_talk, mqtt_talk, nats_talk, socket_topic_talk, socket_json_talk;

/* How many of these protocols are spoken. */
unsigned many_speeches(void);
/* Whether it becomes one of them. */
void many_init(struct client *c);
/* Says the next command of one with many subscriptions; false: for now none. */
bool many_think(struct client *c);
void many_hear_bytes(struct client *c, const char *data, size_t n);
/* Its subscription begins there. */
void many_place(struct client *c, unsigned topic, size_t next);
/* The same where its home has said so. */
void many_place_answered(struct client *c, unsigned topic, size_t next);
/* When all is calm it has got what it is subscribed to. */
void many_check(const struct client *c, const char *when);
/* What they hear: a topic of this name, or -1; it has it from now on, or not any more; the message
 * that comes next; or any that there is. */
int many_topic_named(struct span name);
void many_confirmed(struct client *c, unsigned topic, bool on);
void many_hear(struct client *c, int topic, struct span message);
void many_hear_any(struct client *c, int topic, struct span message);
/* Whether it may be refused. */
bool many_may_fail(void);

/* The n-th message of a publisher. */
size_t client_text(unsigned publisher, unsigned number, char *text, bool *encodable);

#endif
