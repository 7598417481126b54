#ifndef BROKER_DRAIN_H
#define BROKER_DRAIN_H

/*
 * The end of a shard: what has been published is delivered, everybody is told, and who does not go
 * is cut off in drain_seconds. The shard's thread only.
 */

#include <stdbool.h>

#include "broker/connection.h"
#include "engine/deadline.h"
#include "engine/mailbox.h"
#include "topic/letter.h"

struct shard;

/* How far the end has come. */
struct drain {
	struct deadline_class limit;
	struct deadline limit_deadline;
	bool draining;
	bool cut_off; /* drain_seconds are over */
	/* What is to be done with everybody, some in each turn; NULL: nothing. */
	void (*visit)(struct connection *connection, void *shard);
	struct connections_walk walk;
	bool late;         /* say_farewell: those who came late are told, too */
	unsigned goodbyes; /* to be said at a time */
	unsigned untold;   /* how many are still to be said, about */
	struct deadline_class pace;
	struct deadline pace_deadline;
	struct letter marks_out[LANES]; /* in everybody's: LETTER_PUBLISHED_ALL, _DELIVERED_ALL */
	bool marked[LANES];             /* said in every lane that nothing more will come */
	unsigned marks[LANES];          /* heard */
};

void drain_init(struct shard *shard);
/* LETTER_DRAIN: no more input from anybody; subscribers stay until they have their last messages.
 * Who comes late may be told, and ask how the broker is, until nobody else is left. */
void drain_asked(struct shard *shard, struct letter *letter);
/* LETTER_PUBLISHED_ALL, LETTER_DELIVERED_ALL: a mark of some shard's. */
void drain_heard(struct shard *shard, struct letter *letter);
/* To be called in every turn from then on. True: there is more to do. */
bool drain_go_on(struct shard *shard);
/* Whether the shard may end. */
bool drain_is_over(const struct shard *shard);

#endif
