#ifndef BROKER_MAIL_H
#define BROKER_MAIL_H

/*
 * A shard's mail. For each lane of each other shard there is an outbox with the letters that have
 * not been pushed yet: they go out at the end of the turn as far as the lane has room, in letters
 * and in bytes; the rest waits until its reader rings. What a shard writes to itself waits in a
 * FIFO, in the order in which it was written whatever the lane, and is read before the turn ends:
 * posting a letter never calls anybody. Belongs to the shard's thread.
 *
 * A letter that takes long is read in several turns: its reader says so (mail_stall), and none is
 * read before it has been. Those that come meanwhile wait in the lanes, and the rest of a batch
 * among the shard's own.
 *
 * Mail lies lowest in the broker: it knows letters by their kind only, and a table that says who
 * reads a kind and how one that nobody reads any more is freed.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/mailbox.h"
#include "topic/letter.h"

struct reactor;
struct shard;

/* What becomes of letters of a kind. The reader takes the letter over. discard: frees one that will
 * not be read, with what it holds; NULL: there is nothing to free. */
struct letter_use {
	void (*read)(struct shard *reader, struct letter *letter);
	void (*discard)(struct letter *letter);
};

enum { OUTBOX_PUSHES = 8 };

/* Letters for one lane of one shard that have found no room yet: at most what mail_congested and
 * mail_lags allow plus what one turn receives. There are slots for several times as many as they
 * allow from the start, for a letter that finds none and no memory for more ends the process. */
struct outbox {
	void **letters; /* round, from `first` on: in the slots of struct outboxes, or own */
	void **own;
	uint32_t first, n, slots_n; /* slots_n: a power of two */
	size_t bytes;               /* of blocks */
	/* What is in the lane: letters pushed so far and, of the latest pushes, up to which letter
	 * they went and how many bytes that was. When there are more, the last is made larger. */
	uint32_t pushed;
	size_t lane_bytes;
	struct push {
		uint32_t upto;
		size_t bytes;
	} pushes[OUTBOX_PUSHES];
	uint32_t pushes_n;
	bool waiting; /* in the list of those to be flushed */
};

/* Letters of a shard to itself, and those of others that came behind one that takes long: at most
 * what one turn writes, and a batch. It begins anew whenever it is empty,
 * so that it stays in warm memory. */
struct own_mail {
	struct letter **letters;
	uint32_t first, n, slots_n; /* the next to be read; and behind the last */
};

struct mail {
	struct reactor *reactor;
	const struct letter_use *uses; /* by kind */
	struct own_mail own;
	unsigned stalls; /* letters that have been read in part */
	bool behind;     /* letters of others are among the own: the next ones go behind them */
	unsigned shards_n;
	uint32_t lane_entries;
	struct outboxes {
		struct outbox *to; /* by shard */
		void **slots;      /* of all of them; pages never used cost no memory */
		unsigned *waiting; /* shards whose outbox holds something */
		unsigned waiting_n;
		uint64_t letters, bytes; /* in all of them */
	} lanes[LANES];
};

/* The reactor whose mail it is need not be there yet. -ENOMEM: release it all the same. */
int mail_init(struct mail *mail, struct reactor *reactor, const struct letter_use *uses,
	      unsigned shards_n, uint32_t lane_entries);
/* Discards what has not gone out; does nothing to one that is all zero. */
void mail_release(struct mail *mail);

/* Takes a letter over for another shard; it goes with the next flush. */
void mail_post(struct mail *mail, unsigned to, enum mailbox_lane lane, struct letter *letter);
/* Makes room for one more of the shard's own. */
void mail_make_room(struct mail *mail);

/* Takes a letter over for this very shard, which reads it with mail_read_own. */
static inline void mail_post_own(struct mail *m, struct letter *letter)
{
	if (m->own.n == m->own.slots_n)
		mail_make_room(m);
	m->own.letters[m->own.n++] = letter;
}

/* Reads letters of this shard to itself, those included that are written meanwhile, as far as there
 * is time in this turn. Returns whether there are more. */
bool mail_read_own(struct mail *mail, struct shard *reader);
/* The letter that is being read goes on in later turns; and has ended. */
static inline void mail_stall(struct mail *m)
{
	m->stalls++;
}
static inline void mail_unstall(struct mail *m)
{
	m->stalls--;
}
/* Whether nothing may be read but the shard's own letters, or not even these. */
static inline bool mail_stalls(const struct mail *m)
{
	return m->stalls > 0 || m->behind;
}
/* Letters of another shard, in the order in which they came. */
void mail_read(struct mail *mail, struct shard *reader, void **letters, unsigned n);
static inline bool mail_own_waits(const struct mail *m)
{
	return m->own.n > 0;
}

/* Pushes what there is room for. Returns whether any letter went. */
bool mail_flush(struct mail *mail);

/* Whether this letter still waits for room in some lane. */
bool mail_holds(const struct mail *mail, const struct letter *letter);
/* Letters for that lane in all outboxes. */
uint64_t mail_letters(const struct mail *mail, enum mailbox_lane lane);
/* Whether more letters wait for a shard than its lane has room for. */
static inline bool mail_waits(const struct mail *m, unsigned shard)
{
	return m->lanes[LANE_FREE].to[shard].n >= m->lane_entries;
}
/* Whether so much waits for one home that its publishers must wait. */
bool mail_congested(const struct mail *mail, unsigned home);
/* Whether the shards take so little of what is delivered to them that nothing more may be
 * sequenced. */
bool mail_lags(const struct mail *mail);

/* Frees a letter of any kind that nobody will read any more, with what it holds. */
static inline void letter_discard(const struct letter_use *uses, struct letter *letter)
{
	if (uses[letter->kind].discard != NULL)
		uses[letter->kind].discard(letter);
}

/* The same for all that lie in lanes, when every shard has ended. */
void letters_discard(const struct letter_use *uses, struct mailbox *mailbox, unsigned shards_n);

#endif
