#ifndef TOPIC_STREAM_H
#define TOPIC_STREAM_H

/*
 * A stream: one topic's messages on one shard in one wire format, encoded once into an append-only
 * chain of chunks. A subscriber is a cursor into it. Appending touches no cursor; a cursor is
 * touched when something is sent for it and when that send has ended.
 *
 * Lists of cursors: `idle` stand at the head; `ready` are behind and want a send, `replaying` too,
 * but of what was there before they came; `busy` have one in flight or cannot send now. Chunks live
 * as long as somebody needs them: the stream its head, a cursor the chunk it stands in, a chunk the
 * one after it. So a slow cursor holds the backlog up until its owner removes it, or lets it skip
 * ahead.
 *
 * A replay is the same chain, made longer at its old end: a cursor that wants the past is placed at
 * the message it wants, and only what the chain does not reach back to is put in front, as blocks
 * that are encoded when the first cursor comes to them. So a history is encoded once for everybody
 * who walks it at the same time. Counts run on through it. One thread, no I/O: the owner turns
 * gathered spans into sends.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"
#include "base/tree.h"
#include "base/wire.h"

struct block;
struct chunk;
struct pending;
struct stretch;

struct cursor {
	struct list link;
	struct chunk *chunk;
	uint64_t pos;        /* next byte to send, within its chunk's numbering */
	uint64_t live_pos;   /* what is before that is a replay */
	uint64_t counted;    /* messages delivered to it, in the stream's numbering */
	uint64_t goal_count; /* what `counted` will be when the send in flight has all gone */
	uint32_t goal_bytes;
	bool goal_whole;    /* that is then between two messages */
	uint8_t owner;      /* the owner's flags, */
	uint16_t round;     /* and the last time that it went round and came by here */
	struct chunk *last; /* leaving: ends at the end of this chunk; NULL: stays */
	uint64_t last_count;
};

struct stream {
	struct stream *next, **link; /* of the same interest, and where that has it */
	struct wire wire;            /* its parameter is the owner's memory */
	struct chunk *head;          /* written; NULL while idle */
	struct chunk *tail;          /* oldest of the live chain */
	struct chunk *whole;         /* oldest from which on nothing is missing; NULL: none */
	uint64_t next_seq;           /* number of the message after the head */
	bool unnumbered;             /* messages of many topics: nothing that is missing shows */
	uint64_t pos, count; /* of the head: bytes and messages so far, from an arbitrary start */
	size_t bytes;        /* in chunks from tail to head: the backlog */
	size_t next_capacity;
	uint32_t cursors; /* all but the leaving: what is appended is for them */
	uint32_t pins;    /* somebody will come to them later */
	struct list idle, ready, replaying, busy;
	struct list dirty;    /* link: the owner's list of streams with ready cursors */
	struct list replays;  /* link: the owner's list of streams with replaying cursors */
	struct list active;   /* link: the owner's list of streams that hold chunks */
	struct list appended; /* link: the owner's list of streams appended to in this turn */
	uint64_t appended_ns;
	uint64_t oldest_pos; /* no cursor was before it when last looked at */
	/* The owner's: ready cursors lag so far that less should come in; by a lower mark, that its
	 * own topic's publishers wait. */
	bool pressed, held;
	/* The owner's: the last time that it went round its cursors, whether it is still on its
	 * way, and that the stream ended because of a gap. */
	uint16_t round;
	bool rounding, gap;
	/* The owner's: the pass over its ready cursors that has begun, and the rest after one. */
	struct {
		uint32_t sends;
		uint32_t put_off; /* the last block that was put off and has got here: its number */
		uint64_t until_ns; /* it ends; 0: it has */
	} pace;
	/* The owner's: the message that is followed to those who get it (broker/latency). */
	struct {
		uint64_t pos; /* behind it */
		uint64_t received_ns, taken_ns;
		uint32_t left; /* cursors that have not got it */
	} followed;
	struct tree limits; /* the owner's: of its cursors that end by themselves */
	void *owner;        /* what the owner wants to find again from here */
	/* The owner's count of messages that no cursor gets for want of a form, beyond those that
	 * it is told of; or NULL. */
	uint64_t *unencodable;
	uint64_t rewinds, chunks; /* counts, for statistics */
	/* Done for what was pending, for its owner's budget: a message, or 64 bytes, is one. */
	uint64_t work;
};

/* The wire's parameter must stay as long as the stream. */
void stream_init(struct stream *stream, const struct wire *wire);
/* No cursor may be left. */
void stream_release(struct stream *stream);

/*
 * Encodes a block's messages behind the head, for all cursors that do not leave. Payloads of
 * STREAM_REFERENCE_BYTES and more are referenced (and held), not copied. All idle cursors become
 * ready. Returns how many of them this format can carry; the others are for nobody, and are not
 * counted by any cursor. Out of memory: 0, *error -ENOMEM.
 */
enum {
	STREAM_REFERENCE_BYTES = 16 << 10,      /* of one message */
	STREAM_REFERENCE_LINES_BYTES = 4 << 10, /* of lines that go out as they came in */
	STREAM_SEND_BYTES = 256 << 10,
	STREAM_SEND_REPLAY_BYTES = 64 << 10, /* of the past: what is live shall not wait for it */
	STREAM_SEND_PIECE_BYTES = 1 << 20,   /* of one large message in one send */
	STREAM_SEND_PIECE_MAX =
		5 << 18, /* the same, rather than leave a crumb for a send of its own */
};
uint32_t stream_append(struct stream *stream, struct block *block, uint64_t now_ns, int *error);
/* The same with some of its messages: all of them in order, or the stream is unnumbered. */
uint32_t stream_append_part(struct stream *stream, struct block *block, uint32_t first,
			    uint32_t messages, uint64_t now_ns, int *error);

/* Tells all who do not leave that messages are missing and what the one that comes next, at this
 * place, will be known by: it counts as a message that all of them get. False: out of memory, or
 * the format has no words for it. */
bool stream_tell_gap(struct stream *stream, uint64_t epoch, uint64_t number, uint64_t seq,
		     uint64_t now_ns);

/* A new cursor at the head, idle. */
int stream_join(struct stream *stream, struct cursor *cursor);
/* What a new cursor wants of the past, and what there is of it. */
struct past {
	uint64_t from; /* number of the first message it gets; next: none of the past */
	uint64_t next; /* of the first that has not come to this stream */
	const struct stretch *held; /* begins with the block of `from`, has all up to `next` */
};
/*
 * Marks where the head is, for a cursor that is to come there when more is known, with the newest
 * messages of topics in front. A pin holds what is appended behind it, and is in no list. -ENOMEM:
 * there is none.
 */
int stream_pin(struct stream *stream, struct cursor *pin);
void stream_unpin(struct stream *stream, struct cursor *pin);
/* One message of a block. */
struct newest {
	struct block *block;
	uint64_t seq;
};
/* A new cursor there, in place of the pin. *messages: how many are before it by then. -ENOMEM: it
 * has not joined, and the pin is gone. */
int stream_join_pinned(struct stream *stream, struct cursor *cursor, struct cursor *pin,
		       const struct newest *newest, uint32_t newest_n, uint64_t *messages);
/*
 * A new cursor that gets the past first, then what is live. The stream takes holds of its own on
 * what it needs of it. *unencodable is how many of the past are known to have no form; the others
 * that have none are counted as the cursor comes to them. -ENOMEM: it has not joined.
 */
int stream_join_replay(struct stream *stream, struct cursor *cursor, const struct past *past,
		       uint64_t *unencodable);
/* Nothing appended from now on is for this cursor; it ends where the head is now. An idle one
 * becomes busy: it is at its end. */
void stream_leave(struct stream *stream, struct cursor *cursor);
/* Counts what has gone out of a cursor that stopped between two ends of chunks: returns how many
 * messages that are whole were not told of by stream_sent. */
uint64_t stream_settle(struct stream *stream, struct cursor *cursor);
/* Takes the cursor out; nothing may be in flight for it. Returns how many messages it did not get.
 */
uint64_t stream_remove(struct stream *stream, struct cursor *cursor);

/* Whether it stands where there is nothing more for it (now, or for a leaving one ever). */
bool stream_at_end(const struct stream *stream, const struct cursor *cursor);
/* Whether what is next for it may have come by then: it is in a chunk that was opened by then, or
 * is of the past. */
bool stream_came_by(const struct stream *stream, const struct cursor *cursor, uint64_t ns);
/* Whether what it has in flight brings it there. */
static inline bool stream_brings_to_end(const struct stream *stream, const struct cursor *cursor)
{
	return cursor->goal_whole && cursor->pos + cursor->goal_bytes == stream->pos;
}
/* Whether all that has gone out for it are whole messages; nothing may be in flight for it. */
bool stream_between(struct stream *stream, struct cursor *cursor);
/*
 * The next bytes for this cursor as at most max spans, with memory that stays until stream_sent:
 * 256 KiB or one piece of a large message up to 1 MiB, 64 KiB while it replays. 0: there is nothing
 * to send for now, because it is at the end or nothing that was looked at of the past has a form;
 * -ENOMEM. The cursor becomes busy.
 */
int stream_gather(struct stream *stream, struct cursor *cursor, struct iovec *spans, unsigned max);
/* So many of the gathered bytes went out. Returns how many messages that completes. The cursor
 * becomes ready, idle, or, at its very end, stays busy. */
uint64_t stream_sent(struct stream *stream, struct cursor *cursor, size_t bytes);
/* A cursor that cannot send now (its connection is busy with something else) and one that can
 * again. */
void stream_hold(struct stream *stream, struct cursor *cursor);
void stream_unhold(struct stream *stream, struct cursor *cursor);

/*
 * Whether a cursor may be more than bytes_max behind; cheap, and errs only towards yes. Who it is,
 * is found by looking at all that are ready or busy (cursor_lag); then stream_looked says how far
 * behind the furthest of the others is.
 */
bool stream_overrun(const struct stream *stream, size_t bytes_max);
void stream_looked(struct stream *stream, uint64_t lag_max);
/* How many bytes that were appended live the cursor has not sent; what it replays does not count.
 */
uint64_t cursor_lag(const struct stream *stream, const struct cursor *cursor);
/* The same for one that leaves up to its end, and what it replays, of which a MiB counts. */
uint64_t cursor_backlog(const struct stream *stream, const struct cursor *cursor);
/* cursor_lag of the ready cursor that has waited longest; 0: none is ready. */
uint64_t stream_ready_lag(const struct stream *stream);
/* Since when the oldest data that a ready or busy cursor lacks has been waiting for sure, in ns; 0:
 * not known to wait. */
uint64_t cursor_behind_since(const struct cursor *cursor);
/* cursor_behind_since of none is earlier; 0: nobody is known to wait. */
uint64_t stream_behind_since(const struct stream *stream);
/* Whether it has skipped and is still at the rest of the message that it was in then. */
bool cursor_detached(const struct cursor *cursor);
/* Bytes of that message that it has still to get; 0: it has none of its own. */
uint64_t cursor_rest(const struct cursor *cursor);
/*
 * Lets a cursor skip to the head: it keeps a copy of what is left of the message it is in the
 * middle of. Nothing may be in flight for it, unless it is still at that rest of an earlier skip.
 * Returns how many messages it misses. -ENOMEM in *error: nothing happened.
 */
uint64_t stream_skip(struct stream *stream, struct cursor *cursor, int *error);
/* When every cursor stands at the head, gives back all chunks; where many cursors stand, what is
 * little beside them stays. Returns whether every cursor stood there. */
bool stream_rest(struct stream *stream);

/* Whether some cursor waits for its send. */
static inline bool stream_wants_sends(const struct stream *s)
{
	return !list_empty(&s->ready) || !list_empty(&s->replaying);
}

/* Whether it has no cursor, not even one that leaves, and nobody will come to it. */
static inline bool stream_unread(const struct stream *s)
{
	return list_empty(&s->idle) && list_empty(&s->ready) && list_empty(&s->busy) &&
	       list_empty(&s->replaying) && s->pins == 0;
}

/* ---- between the files of streams: stream_append.c, stream_pending.c, stream.c, replay.c, each of
 * which calls those before it ---- */

/* Whether no cursor wants anything, or will. */
bool stream_all_idle(const struct stream *stream);

/* Encodes a run of the block, of which so many messages have a form, behind the head; counts: as
 * what is published now. -ENOMEM. */
int stream_encode(struct stream *stream, const struct run *run, uint32_t messages,
		  struct block *block, uint64_t now_ns, bool counts);
/* What comes next has this number and does not follow on what is there. */
void stream_begin_anew(struct stream *stream, uint64_t seq);
/* A new chunk at the head. False: out of memory. */
bool stream_add_head(struct stream *stream);
/* Encodes some of what a chunk has pending: the chunk is left empty, in front of it. -ENOMEM:
 * nothing happened. */
int stream_encode_pending(struct stream *stream, struct chunk *chunk);
/* A chunk of what is still to be encoded, from the message of this number on, in front of another
 * one; takes the pending over. NULL: out of memory, it does not. */
struct chunk *stream_put_in_front(struct stream *stream, struct pending *pending, uint64_t seq,
				  uint64_t first, struct chunk *next);
/* Cuts what a chunk has pending in two before this number. -EAGAIN: there is not room for what both
 * may come to in what is reserved for them together. */
int stream_split_pending(struct stream *stream, struct chunk *chunk, uint64_t seq);

#endif
