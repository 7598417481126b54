#ifndef BROKER_FAN_OUT_H
#define BROKER_FAN_OUT_H

/*
 * What is sent to subscribers at the end of a turn: dirty streams have ready cursors, and those to
 * whom these belong are sent to. The shard's thread only.
 */

struct shard;

/* Serves dirty streams in rounds, so that a topic with ten subscribers moves in the same turn as
 * one with ten thousand. */
void fan_out(struct shard *shard);
/* Those who replay get a little in each turn, so that what is live never waits for more than that.
 */
void fan_out_replays(struct shard *shard);

#endif
