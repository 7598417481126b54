#include "broker/drain.h"

#include "base/clock.h"
#include "base/log.h"
#include "broker/connection.h"
#include "broker/protocol.h"
#include "broker/listener.h"
#include "broker/subscription.h"
#include "broker/shard.h"
#include "broker/tap.h"

enum {
	CLOSING_MS = 500, /* for clients to close */
	PACE_MS = 250,    /* between goodbyes that are spread */
};

static void stop_publisher(struct connection *c, void *argument)
{
	(void)argument;
	if (c->protocol->stays)
		return;
	if (c->state == CONNECTION_OPEN && c->protocol->last != NULL)
		c->protocol->last(c);
	if (c->state == CONNECTION_OPEN && c->protocol->drain != NULL)
		c->protocol->drain(c);
	if (c->state == CONNECTION_OPEN && c->subscriptions_n == 0)
		connection_error(c, REASON_DRAINING);
	else if (c->state != CONNECTION_OPEN && deadline_running(&c->deadline))
		connection_limit_closing(c);
}

static void say_farewell(struct connection *c, void *argument)
{
	const struct shard *s = argument;

	if (c->state == CONNECTION_OPEN && (s->drain.late || !c->late)) {
		connection_error(c, REASON_DRAINING);
	} else if (c->state == CONNECTION_FINISHING && connection_waits(c)) {
		/* Its home may have ended. One that has asked for its last messages has them by
		 * now, one that is not in yet is to have none. */
		connection_hasten(c);
	}
}

/* With everybody, instead of what was to be done with them until now. */
static void visit_all(struct shard *s, void (*visit)(struct connection *, void *))
{
	s->drain.visit = visit;
	s->drain.walk = connections_all();
}

/* True: there are more. */
static bool visit_some(struct shard *s)
{
	if (s->drain.visit == NULL)
		return false;
	reactor_part(&s->reactor, PART_CLIENTS);
	if (connections_walk(s, &s->drain.walk, s->drain.visit, s))
		return true;
	s->drain.visit = NULL;
	return false;
}

static void farewell(struct shard *s, bool late)
{
	s->drain.late = late;
	visit_all(s, say_farewell);
}

/* The next ones, and at last everybody. */
static void go_on_with_goodbyes(void *context, struct deadline *d)
{
	struct shard *s = context;
	unsigned n = s->drain.goodbyes;

	if (n >= s->drain.untold) {
		farewell(s, false);
		return;
	}
	s->drain.untold -= n;
	s->drain.visit = say_farewell;
	s->drain.walk.left += n;
	reactor_deadline(&s->reactor, &s->drain.pace, d);
}

/*
 * All at once would come back at once, to whoever is left of a cluster. Where the end takes its
 * time anyway, the last ones are told after half of drain_seconds, so that there is time to take
 * what they are behind with.
 */
static void say_goodbyes(struct shard *s)
{
	const struct config *config = s->config;
	uint64_t times = (uint64_t)config->drain_seconds * 1000 / 2 / PACE_MS;

	if (config->lame_duck_seconds == 0 || times == 0) {
		farewell(s, false);
		return;
	}
	s->drain.untold = s->clients.connections_n;
	s->drain.walk.at = 0;
	s->drain.goodbyes = (unsigned)(s->clients.connections_n / times) + 1;
	go_on_with_goodbyes(s, &s->drain.pace_deadline);
}

static void cut_off(struct connection *c, void *argument)
{
	(void)argument;
	connection_close(c, (enum drop_reason)c->reason);
}

/* Tells every shard, this one too, that nothing more will come from here in that lane. */
static void mark(struct shard *s, enum mailbox_lane lane)
{
	s->drain.marked[lane] = true;
	for (unsigned to = 0; to < s->broker->shards_n; to++)
		shard_post(s, to, lane, &s->drain.marks_out[lane]);
}

/* First everybody is closed, in order, so that the kernel holds nothing of anybody; should that
 * hang, it is the end all the same. */
static void give_up(void *context, struct deadline *d)
{
	struct shard *s = context;

	if (s->drain.cut_off) {
		reactor_stop(&s->reactor);
		return;
	}
	log_warn("reactor %u: %u connections have not ended in drain_seconds and are cut off",
		 s->id, s->clients.connections_n);
	s->drain.cut_off = true;
	visit_all(s, cut_off);
	s->drain.limit.after_ns = CLOSING_MS * NS_PER_MS;
	reactor_deadline(&s->reactor, &s->drain.limit, d);
}

void drain_init(struct shard *s)
{
	deadline_class_init(&s->drain.limit, 0);
	deadline_init(&s->drain.limit_deadline);
	s->drain.marks_out[LANE_GATED].kind = LETTER_PUBLISHED_ALL;
	s->drain.marks_out[LANE_FREE].kind = LETTER_DELIVERED_ALL;
	reactor_watch(&s->reactor, &s->drain.limit, give_up, s);
	deadline_class_init(&s->drain.pace, PACE_MS * NS_PER_MS);
	deadline_init(&s->drain.pace_deadline);
	reactor_watch(&s->reactor, &s->drain.pace, go_on_with_goodbyes, s);
}

void drain_heard(struct shard *s, struct letter *letter)
{
	s->drain.marks[letter->kind == LETTER_PUBLISHED_ALL ? LANE_GATED : LANE_FREE]++;
}

void drain_asked(struct shard *s, struct letter *letter)
{
	(void)letter;
	if (s->drain.draining)
		return;
	s->drain.draining = true;
	log_debug("reactor %u: draining %u connections", s->id, s->clients.connections_n);
	deadline_class_restart(&s->clients.closing, CLOSING_MS * NS_PER_MS, s->reactor.now_ns);
	visit_all(s, stop_publisher);
	reactor_deadline(&s->reactor, &s->drain.limit, &s->drain.limit_deadline);
}

/*
 * Draining takes no guess: when every shard has said that no publish will come any more, every
 * message has its number; when every home has then said that no delivery will come any more, every
 * message is in the streams; then subscribers get their last word.
 */
bool drain_go_on(struct shard *s)
{
	unsigned all = s->broker->shards_n;

	/* Nobody publishes any more before that is said. */
	if (visit_some(s))
		return true;
	if (!s->drain.marked[LANE_GATED])
		mark(s, LANE_GATED);
	if (s->drain.marks[LANE_GATED] == all && !s->drain.marked[LANE_FREE] &&
	    (s->broker->tap == NULL || s->broker->tap->drained(s)))
		mark(s, LANE_FREE);
	if (s->drain.marks[LANE_FREE] == all) {
		s->drain.marks[LANE_FREE]++;
		say_goodbyes(s);
	}
	/* The drain waits for nobody who came while it went on. */
	if ((s->drain.marks[LANE_FREE] > all || s->drain.cut_off) &&
	    s->clients.connections_n == s->clients.late_n) {
		listeners_stop(s);
		farewell(s, true);
	}
	return visit_some(s);
}

/* Nobody is here any more, and nobody waits for anything from here: what was posted behind the
 * marks is for nobody. */
bool drain_is_over(const struct shard *s)
{
	const struct drain *d = &s->drain;

	if (s->clients.connections_n > 0)
		return false;
	/* A mark that waits for room in its lane holds up all that comes before it. */
	return d->cut_off || (d->marks[LANE_FREE] > s->broker->shards_n &&
			      !mail_holds(&s->mail, &d->marks_out[LANE_GATED]) &&
			      !mail_holds(&s->mail, &d->marks_out[LANE_FREE]));
}
