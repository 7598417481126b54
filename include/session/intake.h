#ifndef SESSION_INTAKE_H
#define SESSION_INTAKE_H

/*
 * What has come from a client and has not been done yet: the beginning of a command, commands that
 * have to wait, a payload of which some is there. A session that speaks in commands has one of
 * these, hands it what is received, and is given it back as it can be done: in order, joined where
 * it came in pieces, in turns that stay short. At the end of what there is to do, the messages that
 * were published on the way go out together (session/gather.h). The shard's thread only.
 *
 * Most are idle most of the time, and an intake that is of no use is not there: the shard has some,
 * with room for what the session itself needs only while something is under way (intake_take).
 * Whoever has none has nothing that waits.
 *
 * What waits is bounded: a client whose commands have to wait is not received from any more while
 * INTAKE_WAITING_BYTES of them are here. What a command may be long is the session's to say: given
 * so much of one, it has to take something, or end the connection.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/span.h"

struct block;
struct connection;
struct intake;
struct shard;

enum { INTAKE_WAITING_BYTES = 64 << 10 };

/* What a session does for its intake; all of it is called from within intake_* only. */
struct intake_use {
	/* Does a command, or as many as it likes, that begin the bytes, and returns how many bytes
	 * that was. 0: there is nothing whole, come again with more (intake_need), or it has to
	 * wait (intake_hold). The connection is open, no byte is given twice but those that were
	 * not taken, and there is at least one. May end the connection: the rest is thrown away. */
	size_t (*take)(struct connection *connection, struct span bytes);
	/* All that was to be collected lies in the block, which is the session's again. NULL: it
	 * collects nothing. */
	void (*collected)(struct connection *connection, struct block *block);
	/* A block of its messages is about to be published: wants a receipt, perhaps. NULL: it does
	 * not care. */
	void (*publishing)(struct connection *connection, struct block *block);
	/* Of one of the shard's: whether nothing of what the session keeps behind it is needed any
	 * more. NULL: it keeps nothing there. */
	bool (*idle)(const struct connection *connection);
	/* Lets go of it: it was not needed, or the connection ends. NULL: there is nothing to do.
	 */
	void (*release)(struct intake *intake);
};

/* One with what a session keeps behind it is no longer than this; so many that nobody needs are
 * kept for those who do. */
enum { INTAKE_BYTES_MAX = 256, INTAKES_SPARE_MAX = 32 };

struct intakes {
	struct list runnable; /* with commands to do, first come first */
	void *spare;          /* each begins with where the next one is */
	unsigned spare_n;
};

struct intake {
	const struct intake_use *use;
	struct connection *connection;
	struct intake **place; /* of one of the shard's: where the session has it */
	struct list runnable;  /* there is more to do, when it is its turn */
	char *kept;            /* memory of `room` bytes; NULL: nothing is kept */
	size_t at, end, room;  /* which of it are kept */
	size_t refused;        /* so many of those were not enough for `take` */
	size_t needed;         /* nothing is done before so many are there */
	struct block *block;   /* that is collected into; the kernel may write to it */
	size_t left;           /* still to be collected */
	bool wrapped;          /* the session's: what comes is not as it is on the wire, and cannot
				  be received where it belongs */
	bool running, held, again, ended;
};

/* All of it; the use is static. What the connection has kept before it was known what it speaks
 * comes first. */
void intake_init(struct intake *intake, struct connection *connection,
		 const struct intake_use *use);
/* When the kernel writes to the connection's memory no more (struct protocol, free). */
void intake_release(struct intake *intake);
/* One of the shard's, unless *place has it already; what is behind it is all zero. It is given back
 * and *place is NULL as soon as nothing of it waits and its session does not need what is there: at
 * the earliest when intake_received, intake_ended or intake_resume return. False: out of memory,
 * the connection is closed. */
bool intake_take(struct intake **place, struct connection *connection,
		 const struct intake_use *use);
/* Gives back one of the shard's, whatever is in it; NULL: there is none. As intake_release. */
void intake_give_back(struct intake *intake);

/* Bytes from the client. The connection may have ended when it returns. */
void intake_received(struct intake *intake, struct span bytes);
/* Nothing more will come: when all that has is done, the connection says goodbye. */
void intake_ended(struct intake *intake);
/* Something that was waited for may have come (struct protocol, resume): goes on. NULL: nothing of
 * it waits. */
void intake_resume(struct intake *intake);

/* ---- to be called in `take` ---- */

/* What is not taken has to wait until intake_resume, for whatever reason. */
void intake_hold(struct intake *intake);
/* What is not taken was begun, and is given again when it is its turn. */
void intake_again(struct intake *intake);
/* There is nothing to do before so many bytes, from the first that is not taken on, are there. */
void intake_need(struct intake *intake, size_t bytes);
/*
 * The next `bytes` behind what is taken now, 1 or more, go into the block, behind what it holds;
 * then `collected` is called. The block is the intake's until then and grows with what comes, to at
 * most about twice of that. While it is long, it is received where it belongs.
 */
void intake_collect(struct intake *intake, struct block *block, size_t bytes);

/* Bytes of memory that it holds. */
uint64_t intake_held(const struct intake *intake);

void intakes_init(struct shard *shard);
void intakes_release(struct shard *shard);
/* Lets those whose turn it is go on, as far as there is time. Whether more is left. To be called
 * once per turn. */
bool intakes_go_on(struct shard *shard);

#endif
