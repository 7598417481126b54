#ifndef BROKER_DRAIN_H
#define BROKER_DRAIN_H

/*
 * The end of a shard: what has been published is delivered, everybody is told, and who does not go
 * is cut off in drain_seconds. The shard's thread only.
 */

#include <stdbool.h>

#include "engine/deadline.h"
#include "engine/mailbox.h"
#include "topic/letter.h"

struct shard;

/* How far the end has come. */
struct drain {
	struct deadline_class limit;
	struct deadline limit_deadline;
	bool draining;
	bool cut_off;      /* drain_seconds are over */
	unsigned goodbyes; /* to be said at a time */
	unsigned untold;   /* how many are still to be said, about */
	struct deadline_class pace;
	struct deadline pace_deadline;
	struct letter drained; /* in everybody's lanes: LETTER_DRAINED */
	bool marked[LANES];    /* said in every lane that nothing more will come */
	unsigned marks[LANES]; /* heard */
};

void drain_init(struct shard *shard);
/* LETTER_DRAIN: no more input from anybody; subscribers stay until they have their last messages.
 * Who comes late may be told, and ask how the broker is, until nobody else is left. */
void drain_begin(struct shard *shard);
/* To be called in every turn from then on. */
void drain_go_on(struct shard *shard);
/* Whether the shard may end. */
bool drain_is_over(const struct shard *shard);

#endif
