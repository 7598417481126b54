#ifndef SESSION_INTAKE_H
#define SESSION_INTAKE_H

/*
 * What has come from a client and has not been done yet: the beginning of a command, commands that
 * have to wait, a payload of which some is there. A session that speaks in commands has one of
 * these, hands it what is received, and is given it back as it can be done: in order, joined where
 * it came in pieces, in turns that stay short. At the end of what there is to do, the messages that
 * were published on the way go out together (session/gather.h). The shard's thread only.
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
};

struct intake {
	const struct intake_use *use;
	struct connection *connection;
	struct list runnable; /* there is more to do, when it is its turn */
	char *kept;           /* memory of `room` bytes; NULL: nothing is kept */
	size_t at, end, room; /* which of it are kept */
	size_t refused;       /* so many of those were not enough for `take` */
	size_t needed;        /* nothing is done before so many are there */
	struct block *block;  /* that is collected into; the kernel may write to it */
	size_t left;          /* still to be collected */
	bool wrapped;         /* the session's: what comes is not as it is on the wire, and cannot
				 be received where it belongs */
	bool running, held, again, ended;
};

/* All of it; the use is static. What the connection has kept before it was known what it speaks
 * comes first. */
void intake_init(struct intake *intake, struct connection *connection,
		 const struct intake_use *use);
/* When the kernel writes to the connection's memory no more (struct protocol, free). */
void intake_release(struct intake *intake);

/* Bytes from the client. The connection may have ended when it returns. */
void intake_received(struct intake *intake, struct span bytes);
/* Nothing more will come: when all that has is done, the connection says goodbye. */
void intake_ended(struct intake *intake);
/* Something that was waited for may have come (struct protocol, resume): goes on. */
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

/* Whether nothing of it waits: no beginning of a command, nothing to be done. */
bool intake_idle(const struct intake *intake);
/* Bytes of memory that it holds. */
uint64_t intake_held(const struct intake *intake);

/* Lets those whose turn it is go on, as far as there is time. Whether more is left. To be called
 * once per turn. */
bool intakes_go_on(struct shard *shard);

#endif
