#include "broker/pace.h"

#include "base/clock.h"
#include "broker/shard.h"
#include "topic/interest.h"
#include "topic/stream.h"

enum {
	SEND_NS = 2500, /* to begin with */
	SEND_NS_MIN = 500,
	SEND_NS_MAX = 20000,
	SAMPLE_SEND_BYTES = 4096, /* of larger ones the bytes are what costs, and those stay */
	SAMPLE_WEIGHT = 8,        /* a sample's part of the average is one in so many */
	REST_US_MIN =
		30, /* a shorter one saves no more than it costs to sleep and wake once more */
	REST_MS_MAX = 50,
};

void pace_init(struct pace *p)
{
	list_init(&p->resting);
	p->send_ns = SEND_NS;
}

/* So much waits that a send could not carry more, or that publishers would soon have to wait. */
static bool enough(const struct stream *stream)
{
	const struct interest *i = stream->owner;
	uint64_t lag = stream_ready_lag(stream);

	return lag >= STREAM_SEND_BYTES || lag >= i->settings->backlog_bytes / 8;
}

/* There are few: while a stream rests, others make their passes, and each rests as long as its own
 * took. So only those of ever smaller passes, or pace of the same, can rest at a time. */
static void rest(struct shard *s, struct stream *stream)
{
	struct list *after = s->pace.resting.prev;

	while (after != &s->pace.resting &&
	       LIST_ENTRY(after, struct stream, dirty)->pace.until_ns > stream->pace.until_ns)
		after = after->prev;
	list_append(after->next, &stream->dirty);
}

bool pace_rests(struct shard *s, struct stream *stream)
{
	if (stream->pace.until_ns <= s->reactor.now_ns || s->pace.off || enough(stream)) {
		stream->pace.until_ns = 0;
		return false;
	}
	rest(s, stream);
	return true;
}

void pace_count(struct shard *s, struct stream *stream, unsigned sends, unsigned turn_sends)
{
	const struct interest *i = stream->owner;
	uint64_t rest_ns;

	stream->pace.sends += sends;
	/* Those that have become ready again meanwhile may go on for ever. */
	if (!list_empty(&stream->ready) && stream->pace.sends < stream->cursors)
		return;
	rest_ns = stream->pace.sends * s->pace.send_ns * i->settings->pace / 100;
	stream->pace.sends = 0;
	if (rest_ns < REST_US_MIN * NS_PER_US)
		return;
	if (rest_ns > REST_MS_MAX * NS_PER_MS)
		rest_ns = REST_MS_MAX * NS_PER_MS;
	/* What was queued in this turn has its price before it. */
	stream->pace.until_ns = s->reactor.now_ns + turn_sends * s->pace.send_ns + rest_ns;
}

void pace_hurry(struct shard *s, struct stream *stream)
{
	bool rests = stream->pace.until_ns != 0 && !list_empty(&stream->dirty);

	stream->pace.until_ns = 0;
	if (!rests)
		return;
	list_remove(&stream->dirty);
	list_append(&s->audience.dirty, &stream->dirty);
}

void pace_appended(struct shard *s, struct stream *stream)
{
	if (enough(stream))
		pace_hurry(s, stream);
}

void pace_resume(struct shard *s)
{
	while (!list_empty(&s->pace.resting)) {
		struct stream *stream = LIST_ENTRY(s->pace.resting.next, struct stream, dirty);

		if (!s->pace.off && stream->pace.until_ns > s->reactor.now_ns)
			return;
		pace_hurry(s, stream);
	}
}

void pace_park(struct shard *s)
{
	const struct stream *first = LIST_ENTRY(s->pace.resting.next, struct stream, dirty);

	reactor_wake_at(&s->reactor, first->pace.until_ns);
}

struct pace_sample pace_sample(const struct shard *s)
{
	return (struct pace_sample){ .began_ns = clock_now_ns(),
				     .submitted = ring_counts(s->reactor.ring)->submitted,
				     .bytes = s->sockets.send_bytes };
}

void pace_learn(struct shard *s, const struct pace_sample *from)
{
	uint64_t n = ring_counts(s->reactor.ring)->submitted - from->submitted, cost_ns;
	uint64_t *send_ns = &s->pace.send_ns;

	if (n < PACE_SAMPLE_SENDS || s->sockets.send_bytes - from->bytes > n * SAMPLE_SEND_BYTES)
		return;
	cost_ns = (clock_now_ns() - from->began_ns) / n;
	/* Somebody else may have had the core meanwhile. */
	if (cost_ns > 2 * *send_ns)
		cost_ns = 2 * *send_ns;
	*send_ns += cost_ns / SAMPLE_WEIGHT - *send_ns / SAMPLE_WEIGHT;
	if (*send_ns < SEND_NS_MIN)
		*send_ns = SEND_NS_MIN;
	if (*send_ns > SEND_NS_MAX)
		*send_ns = SEND_NS_MAX;
}
