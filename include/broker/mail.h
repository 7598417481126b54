#ifndef BROKER_MAIL_H
#define BROKER_MAIL_H

/*
 * A shard's outgoing mail: for each lane of each other shard an outbox with the letters that have
 * not been pushed yet. They go out at the end of the turn as far as the lane has room, in letters
 * and in bytes; the rest waits until its reader rings. Belongs to the shard's thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/mailbox.h"

struct letter;
struct reactor;

enum { OUTBOX_PUSHES = 8 };

/* Letters for one lane of one shard that have found no room yet: at most what mail_congested and
 * mail_lags allow plus what one turn receives. There are slots for several times as many as they
 * allow from the start, for a letter that finds none and no memory for more ends the process. */
struct outbox {
	void **letters; /* in the slots of struct outboxes, or own */
	void **own;
	uint32_t n, slots_n;
	size_t bytes; /* of blocks */
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

struct mail {
	struct reactor *reactor;
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
int mail_init(struct mail *mail, struct reactor *reactor, unsigned shards_n, uint32_t lane_entries);
/* Discards what has not gone out; does nothing to one that is all zero. */
void mail_release(struct mail *mail);

/* Takes a letter over for another shard; it goes with the next flush. */
void mail_post(struct mail *mail, unsigned to, enum mailbox_lane lane, struct letter *letter);
/* Pushes what there is room for. Returns whether any letter went. */
bool mail_flush(struct mail *mail);

/* Whether this letter still waits for room in some lane. */
bool mail_holds(const struct mail *mail, const struct letter *letter);
/* Letters for that lane in all outboxes. */
uint64_t mail_letters(const struct mail *mail, enum mailbox_lane lane);
/* Whether so much waits for one home that its publishers must wait. */
bool mail_congested(const struct mail *mail, unsigned home);
/* Whether the shards take so little of what is delivered to them that nothing more may be
 * sequenced. */
bool mail_lags(const struct mail *mail);

/* Frees a letter of any kind that nobody will read any more, with what it holds. */
void letter_discard(struct letter *letter);
/* The same for all that lie in lanes, when every shard has ended. */
void letters_discard(struct mailbox *mailbox, unsigned shards_n);

#endif
