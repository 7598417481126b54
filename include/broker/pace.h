#ifndef BROKER_PACE_H
#define BROKER_PACE_H

/*
 * How often a stream is served. A pass over a stream's ready cursors costs a send for each,
 * whatever the sends carry; so after a pass the stream rests, `pace` times as long as the pass
 * took, and what comes meanwhile goes out merged. No topic's fan-out takes more than 1 / (1 + pace)
 * of a reactor then, and one whose messages are further apart than that never waits. The shard's
 * thread only.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct shard;
struct stream;

struct pace {
	struct list resting; /* streams with ready cursors that are to wait, the first due first */
	uint64_t send_ns;    /* what a small send costs this reactor, as learnt lately */
	bool off;            /* the shard's: nobody may rest in this turn */
};

void pace_init(struct pace *pace);

/* Whether the stream must rest still: then it will be made dirty (audience_dirty) when that is
 * over. It must be in no list of dirty ones. */
bool pace_rests(struct shard *shard, struct stream *stream);
/* So many sends for ready cursors were queued. Once everybody had his turn, the stream rests. */
void pace_count(struct shard *shard, struct stream *stream, unsigned sends, unsigned turn_sends);
/* The stream need not rest any longer. */
void pace_hurry(struct shard *shard, struct stream *stream);
/* Something was appended to a stream that rests: a rest ends when merging more would bring nothing.
 */
void pace_appended(struct shard *shard, struct stream *stream);
/* While streams rest, in every turn. Before fan-out: makes those dirty whose rest is over, and all
 * when nobody may wait. */
void pace_resume(struct shard *shard);
/* After fan-out: the reactor is to wake when the first rest is over. */
void pace_park(struct shard *shard);

enum { PACE_SAMPLE_SENDS = 32 }; /* fewer say little */

/* The sends between the two calls, which went to the kernel meanwhile, tell what one costs. */
struct pace_sample {
	uint64_t began_ns, submitted, bytes;
};
struct pace_sample pace_sample(const struct shard *shard);
void pace_learn(struct shard *shard, const struct pace_sample *from);

#endif
