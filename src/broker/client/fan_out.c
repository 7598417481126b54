#include "broker/fan_out.h"

#include "base/probe.h"
#include "broker/connection.h"
#include "broker/interests.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/interest.h"
#include "topic/stream.h"

enum {
	STREAM_QUOTA = 64,     /* sends of one stream before the next one has its turn */
	SPEND_WORK = 4,        /* of a stream's work takes about as long as a letter */
	SPEND_SENDS = 2,       /* so many sends take longer, but are looked at only by rounds */
	SPEND_BYTES = 1 << 10, /* of what is sent of the past */
	TURN_BYTES = 4 << 20,  /* queued in one turn: about a millisecond of copying */
	REPLAY_QUOTA = 32,     /* sends of the past in a turn: what is live waits for these */
};

/* Sends for the first of a stream's cursors in this list, so many at most, and no more once the
 * shard has queued so many bytes, or they have taken all of its time; how many. */
static unsigned serve(struct shard *s, const struct stream *stream, struct list *cursors,
		      unsigned max, uint64_t upto_bytes)
{
	uint64_t work = stream->work;
	unsigned n = 0;

	for (; n < max && s->sockets.send_bytes < upto_bytes && !list_empty(cursors); n++) {
		struct subscription *sub =
			LIST_ENTRY(cursors->next, struct subscription, cursor.link);

		if (stream->work != work) {
			reactor_spend(&s->reactor, (stream->work - work) / SPEND_WORK);
			work = stream->work;
			if (reactor_spent(&s->reactor))
				break;
		}
		if (sub->connection->subscriptions_n == 1) {
			connection_flush(sub->connection);
		} else {
			subscription_queue(sub);
			connection_turn(sub->connection);
		}
	}
	if (stream->work != work)
		reactor_spend(&s->reactor, (stream->work - work) / SPEND_WORK);
	return n;
}

void fan_out(struct shard *s)
{
	const unsigned turn = s->config->engine.turn_sends;
	const uint64_t turn_bytes = s->sockets.send_bytes + TURN_BYTES;
	struct pace_sample sample = { 0 };
	unsigned left = turn;
	struct list *link;

	/* What comes in meanwhile need not wait for a whole turn's sends. */
	while (left > 0 && s->sockets.send_bytes < turn_bytes && !list_empty(&s->audience.dirty) &&
	       (left == turn || !reactor_spent(&s->reactor)) &&
	       (left == turn || !ring_deferred(s->reactor.ring)) &&
	       (link = list_take(&s->audience.dirty)) != NULL) {
		struct stream *stream = LIST_ENTRY(link, struct stream, dirty);
		unsigned quota = left < STREAM_QUOTA ? left : STREAM_QUOTA, sends;

		if (sample.began_ns == 0 && stream->cursors >= PACE_SAMPLE_SENDS)
			sample = pace_sample(s);
		sends = serve(s, stream, &stream->ready, quota, turn_bytes);
		left -= sends;
		reactor_spend(&s->reactor, sends / SPEND_SENDS);
		PROBE(fan_out, s->id, stream, sends, list_empty(&stream->ready));
		pace_count(s, stream, sends, turn - left);
		audience_dirty(s, stream);
		if (stream->held || !list_empty(&stream->ready))
			audience_hold(s, stream);
		if (stream->pressed)
			audience_press(s, stream);
	}
	if (sample.began_ns != 0)
		pace_learn(s, &sample);
}

void fan_out_replays(struct shard *s)
{
	struct list *link;

	if (!list_empty(&s->audience.replays))
		reactor_part(&s->reactor, PART_FAN_OUT);
	for (unsigned left = REPLAY_QUOTA;
	     left > 0 && (link = list_take(&s->audience.replays)) != NULL;) {
		struct stream *stream = LIST_ENTRY(link, struct stream, replays);
		struct interest *i = stream->owner;
		uint64_t bytes = s->sockets.send_bytes;

		/* One that there is no memory for is closed, and may be the last. */
		i->pins++;
		left -= serve(s, stream, &stream->replaying, 1, UINT64_MAX);
		reactor_spend(&s->reactor, 1 + (s->sockets.send_bytes - bytes) / SPEND_BYTES);
		audience_dirty(s, stream);
		i->pins--;
		interests_let_go(s, i);
		if (reactor_spent(&s->reactor))
			return;
	}
}
