#include "broker/shard.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "broker/census.h"
#include "broker/connection.h"
#include "broker/drain.h"
#include "broker/fan_out.h"
#include "broker/fetch.h"
#include "broker/groups.h"
#include "broker/home.h"
#include "broker/interests.h"
#include "broker/keyrings.h"
#include "broker/listener.h"
#include "broker/retained.h"
#include "broker/objects.h"
#include "broker/patterns.h"
#include "broker/subscription.h"
#include "topic/block.h"
#include "topic/history.h"
#include "topic/stream.h"

enum {
	COMPLETION_BATCH = 8192, /* handled before anything else moves: all, but for floods */
	TURN_US = 1000,          /* about as long as anybody has to wait for the others */
	BACKLOG_CHECK_MS =
		200, /* less than a tick: each finds it due, whatever the turn has taken */
	SWEEP_SECONDS = 1,
	BLOCKS_AT_ONCE = 8, /* let go of before there is a look at the time */
	DAY_S = 24 * 3600,
};

static void lasts(struct shard *s, struct deadline_class *class, unsigned seconds)
{
	reactor_deadlines_change(&s->reactor, class, seconds * NS_PER_S);
}

static void configure(struct shard *s)
{
	const struct config *c = s->config;

	s->broker->sessions->configure(s);
	lasts(s, &s->fetching.wait, c->http.wait_seconds);
	lasts(s, &s->figures.report, c->stats_seconds);
	lasts(s, &s->drain.limit, c->drain_seconds);
	connections_configure(s);
	s->home.history.bytes_max = c->limits.history_total_bytes;
	budget_configure(s);
	listeners_configure(s);
	if (c->stats_seconds > 0)
		reactor_deadline(&s->reactor, &s->figures.report, &s->figures.report_deadline);
	else
		deadline_stop(&s->figures.report_deadline);
}

static struct list *lists_new(size_t n)
{
	struct list *lists = malloc(n * sizeof(*lists));

	for (size_t i = 0; lists != NULL && i < n; i++)
		list_init(&lists[i]);
	return lists;
}

struct reload_letter *reload_letter_new(const struct config *config, struct objects *objects,
					struct identities *identities, struct reload *reload)
{
	struct reload_letter *l = malloc(sizeof(*l));

	if (l == NULL)
		return NULL;
	*l = (struct reload_letter){ .letter = { LETTER_RELOAD },
				     .config = config,
				     .objects = objects_ref(objects),
				     .identities = identities_hold(identities),
				     .idle_topics = lists_new(home_idle_lists(config)),
				     .reload = reload };
	if (l->idle_topics != NULL)
		return l;
	reload_letter_free(l);
	return NULL;
}

void reload_letter_free(struct reload_letter *l)
{
	objects_unref(l->objects);
	identities_let_go(l->identities);
	free(l->idle_topics);
	free(l);
}

static void reload(struct shard *s, struct reload_letter *l)
{
	home_configure(s, l->idle_topics);
	l->idle_topics = NULL;
	interests_configure(s);
	latency_configure(s->latencies, s->config, l->config);
	s->config = l->config;
	objects_unref(s->objects);
	s->objects = l->objects;
	l->objects = NULL;
	s->broker->sessions->identify(s, l->identities);
	configure(s);
	l->next = s->reloads;
	s->reloads = l;
}

/* Nothing here refers to what was before any more. */
static void reloads_end(struct shard *s)
{
	struct reload_letter *l;

	while ((l = s->reloads) != NULL) {
		s->reloads = l->next;
		if (atomic_fetch_sub(&l->reload->left, 1) == 1) {
			config_free(l->reload->before);
			keyrings_free(l->reload->keyrings, l->reload->keyrings_n);
			free(l->reload);
		}
		reload_letter_free(l);
	}
}

/* Whatever there is many of gets its settings some at a time. True: there are more. */
static bool reload_go_on(struct shard *s)
{
	bool more;

	reactor_part(&s->reactor, PART_TOPICS);
	more = home_configure_some(s);
	more |= interests_configure_some(s);
	more |= connections_configure_some(s);
	if (!more)
		reloads_end(s);
	return more;
}

static void lame_asked(struct shard *s, struct letter *letter)
{
	(void)letter;
	connections_tell(s);
}

static void watchdog_asks(struct shard *s, struct heartbeat_letter *l)
{
	atomic_store(&s->watched.round, l->round);
}

static void free_letter(struct letter *letter)
{
	free(letter);
}

static void free_counted_letter(struct letter *letter)
{
	memory_free(letter);
}

/* Each function with the letter as it knows it. */
#define READER(function, type)                                                                     \
	static void read_##function(struct shard *s, struct letter *letter)                        \
	{                                                                                          \
		function(s, (type *)(void *)letter);                                               \
	}
#define DISCARD(function, type)                                                                    \
	static void discard_##function(struct letter *letter)                                      \
	{                                                                                          \
		function((type *)(void *)letter);                                                  \
	}

READER(home_publish, struct block)
READER(audience_deliver, struct block)
READER(home_subscribe, struct subscribe_letter)
READER(subscription_answered, struct subscribe_letter)
READER(home_unsubscribe, struct topic_letter)
READER(home_recount, struct topic_letter)
READER(home_pattern, struct pattern_letter)
READER(home_pattern_count, struct pattern_count)
READER(subscription_known, struct pattern_letter)
READER(audience_dealt, struct deal_letter)
READER(groups_deal_again, struct deal_letter)
READER(home_join, struct topic_letter)
READER(home_leave, struct topic_letter)
READER(home_sync, struct topic_letter)
READER(connection_receipt, struct topic_letter)
READER(connection_sequenced, struct sequenced_letter)
READER(home_fetch, struct fetch_letter)
READER(fetch_count, struct fetch_letter)
READER(census_asked, struct census_letter)
READER(retained_fetch, struct retained_letter)
READER(audience_bye, struct topic_letter)
READER(audience_gap, struct gap_letter)
READER(watchdog_asks, struct heartbeat_letter)
READER(reload, struct reload_letter)
DISCARD(block_unref, struct block)
DISCARD(subscribe_letter_free, struct subscribe_letter)
DISCARD(pattern_letter_discard, struct pattern_letter)
DISCARD(pattern_count_unref, struct pattern_count)
DISCARD(deal_letter_free, struct deal_letter)
DISCARD(sequenced_letter_free, struct sequenced_letter)
DISCARD(fetch_letter_free, struct fetch_letter)
DISCARD(census_letter_free, struct census_letter)
DISCARD(retained_letter_free, struct retained_letter)
DISCARD(reload_letter_free, struct reload_letter)

const struct letter_use shard_letter_uses[LETTER_KINDS] = {
	[LETTER_PUBLISH] = { read_home_publish, discard_block_unref },
	[LETTER_DELIVER] = { read_audience_deliver, discard_block_unref },
	[LETTER_SUBSCRIBE] = { read_home_subscribe, discard_subscribe_letter_free },
	[LETTER_SUBSCRIBED] = { read_subscription_answered, discard_subscribe_letter_free },
	[LETTER_UNSUBSCRIBE] = { read_home_unsubscribe, free_letter },
	[LETTER_RECOUNT] = { read_home_recount, free_letter },
	[LETTER_PATTERN] = { read_home_pattern, discard_pattern_letter_discard },
	[LETTER_PATTERN_KNOWN] = { read_subscription_known, discard_pattern_letter_discard },
	[LETTER_PATTERN_COUNT] = { read_home_pattern_count, discard_pattern_count_unref },
	[LETTER_DEAL] = { read_audience_dealt, discard_deal_letter_free },
	[LETTER_DEAL_AGAIN] = { read_groups_deal_again, discard_deal_letter_free },
	[LETTER_JOIN] = { read_home_join, free_letter },
	[LETTER_REFUSED] = { NULL, free_letter },
	[LETTER_LEAVE] = { read_home_leave, free_letter },
	[LETTER_SYNC] = { read_home_sync, free_letter },
	[LETTER_RECEIPT] = { read_connection_receipt, free_letter },
	[LETTER_SEQUENCED] = { read_connection_sequenced, discard_sequenced_letter_free },
	[LETTER_FETCH] = { read_home_fetch, discard_fetch_letter_free },
	[LETTER_COUNT] = { read_fetch_count, discard_fetch_letter_free },
	[LETTER_FETCHED] = { NULL, discard_fetch_letter_free },
	[LETTER_CENSUS] = { read_census_asked, discard_census_letter_free },
	[LETTER_CENSUS_TAKEN] = { NULL, discard_census_letter_free },
	[LETTER_FIGURES] = { NULL, free_counted_letter },
	[LETTER_SURVEY] = { NULL, free_counted_letter },
	[LETTER_RETAIN_FETCH] = { read_retained_fetch, discard_retained_letter_free },
	[LETTER_RETAINED] = { NULL, discard_retained_letter_free },
	[LETTER_CLAIM] = { NULL, free_counted_letter },
	[LETTER_TAKE_OVER] = { NULL, free_counted_letter },
	[LETTER_CLAIMED] = { NULL, free_counted_letter },
	[LETTER_UNCLAIM] = { NULL, free_counted_letter },
	[LETTER_GAP] = { read_audience_gap, free_letter },
	[LETTER_BYE] = { read_audience_bye, free_letter },
	[LETTER_PUBLISHED_ALL] = { drain_heard, NULL },
	[LETTER_DELIVERED_ALL] = { drain_heard, NULL },
	[LETTER_LAME] = { lame_asked, NULL },
	[LETTER_DRAIN] = { drain_asked, NULL },
	[LETTER_HEARTBEAT] = { read_watchdog_asks, NULL },
	[LETTER_RELOAD] = { read_reload, discard_reload_letter_free },
};

static void letters(void *context, unsigned sender, enum mailbox_lane lane, void **list, unsigned n)
{
	struct shard *s = context;

	(void)sender;
	(void)lane;
	mail_read(&s->mail, s, list, n);
}

/* ---- the turn ---- */

/* Blocks that a replay was the last to hold. True: there are more. */
static bool let_segments_go(struct shard *s)
{
	bool more;

	do {
		more = segments_let_go(BLOCKS_AT_ONCE);
		reactor_spend(&s->reactor, BLOCKS_AT_ONCE);
	} while (more && !reactor_spent(&s->reactor));
	return more;
}

/* Those that are read in part. True: they still are. */
static bool letters_go_on(struct shard *s)
{
	reactor_part(&s->reactor, TURN_LETTERS);
	home_go_on(s);
	audience_go_on(s);
	return s->mail.stalls > 0;
}

/* What has been left for later, some of it in each turn. True: there is more. */
static bool go_on(struct shard *s)
{
	bool more;

	if (!list_empty(&s->sockets.dying))
		reactor_part(&s->reactor, PART_CLIENTS);
	more = sockets_flush(&s->sockets);
	if (s->mail.stalls > 0)
		more |= letters_go_on(s);
	if (mail_own_waits(&s->mail))
		(void)mail_read_own(&s->mail, s);
	budget_turn(s);
	if (budget_works(&s->budget))
		more |= budget_go_on(s);
	if (s->accepting.crowded != 0)
		listeners_resume(s);
	more |= home_bound_history(s);
	if (segments_going()) {
		reactor_part(&s->reactor, PART_TOPICS);
		more |= let_segments_go(s);
	}
	if (ring_giving_back(s->reactor.ring)) {
		(void)ring_give_back(s->reactor.ring);
		more = true;
	}
	if (s->reloads != NULL)
		more |= reload_go_on(s);
	if (connections_to_tell(&s->clients)) {
		reactor_part(&s->reactor, PART_CLIENTS);
		more |= connections_tell_some(s);
	}
	more |= s->broker->sessions->flush(s);
	more |= fetch_flush(s);
	more |= census_flush(s);
	if (!list_empty(&s->home.known.walks)) {
		reactor_part(&s->reactor, PART_TOPICS);
		more |= home_walk_some(s);
	}
	if (!list_empty(&s->audience.gone))
		interests_reap(s);
	if (!list_empty(&s->audience.forms)) {
		interests_end_some(s);
		more |= !list_empty(&s->audience.forms);
	}
	if (wilds_left(&s->audience.wilds)) {
		wilds_forget_some(&s->audience.wilds);
		more |= wilds_left(&s->audience.wilds);
	}
	if (s->figures.working)
		more |= s->broker->figures->go_on(s);
	if (s->home.sweeping || s->reactor.now_ns - s->home.swept_ns >= s->home.sweep.after_ns) {
		reactor_part(&s->reactor, PART_TOPICS);
		more |= s->home.sweeping = home_sweep(s);
	}
	if (!list_empty(&s->audience.ending))
		more |= audience_bye_some(s);
	if (!list_empty(&s->audience.untimed)) {
		reactor_part(&s->reactor, PART_CLIENTS);
		more |= audience_bound_time_some(s);
	}
	return more;
}

static bool flush(void *context)
{
	struct shard *s = context;
	bool more = go_on(s), room;

	more |= audience_bound_bytes(s);
	s->pace.off = s->drain.draining || budget_now(s->broker) == BUDGET_EVICTION;
	if (!list_empty(&s->pace.resting))
		pace_resume(s);
	if (!list_empty(&s->audience.dirty))
		reactor_part(&s->reactor, PART_FAN_OUT);
	fan_out(s);
	if (!list_empty(&s->pace.resting))
		pace_park(s);
	fan_out_replays(s);
	if (!list_empty(&s->clients.turns))
		more |= connections_turn_some(s);
	if (s->drain.draining)
		more |= drain_go_on(s);
	/* Fan-out, or the end of whoever it was, may have made room since the last turn. */
	room = shard_holds_ended(s) | s->audience.relieved;
	s->audience.relieved = false;
	if (!list_empty(&s->audience.recounts))
		interests_recount(s);
	/* Last, so that no letter of this turn is left behind when the reactor parks. */
	room |= mail_flush(&s->mail);
	if (s->drain.draining && drain_is_over(s))
		reactor_stop(&s->reactor);
	if (room)
		connections_resume(s);
	if (!list_empty(&s->clients.resumed)) {
		reactor_part(&s->reactor, PART_CLIENTS);
		(void)connections_resume_some(s);
		/* A request that was kept is worked on at once, and its letters go with the next
		 * turn, which must not be slept through. */
		more = true;
	}
	return more || mail_own_waits(&s->mail) || !list_empty(&s->audience.dirty) ||
	       !list_empty(&s->audience.replays) || !list_empty(&s->sockets.dying);
}

static void check_backlogs(void *context, struct deadline *d)
{
	struct shard *s = context;

	bool leaving = audience_bye_again(s);

	if (audience_bound_time(s) || leaving)
		reactor_deadline(&s->reactor, &s->audience.backlog, d);
}

static void warn_daily(struct shard *s)
{
	if (s->id != 0 || s->reactor.clock_ns - s->accepting.warned_ns < DAY_S * NS_PER_S)
		return;
	/* At the start the main thread does. */
	if (s->accepting.warned_ns != 0)
		keyrings_warn(s->broker);
	s->accepting.warned_ns = s->reactor.clock_ns;
}

static void sweep(void *context, struct deadline *d)
{
	struct shard *s = context;

	(void)d;
	s->home.sweeping = true;
	warn_daily(s);
}

static void report(void *context, struct deadline *d)
{
	struct shard *s = context;

	s->broker->report(s, false);
	reactor_deadline(&s->reactor, &s->figures.report, d);
}

static void second(void *context, struct deadline *d)
{
	struct shard *s = context;

	if (s->broker->figures->second(s))
		reactor_deadline(&s->reactor, &s->figures.second, d);
}

static void watch(struct shard *s)
{
	list_init(&s->figures.asked);
	list_init(&s->figures.served);
	list_init(&s->figures.surveys);
	deadline_class_init(&s->figures.second, NS_PER_S);
	deadline_init(&s->figures.second_deadline);
	reactor_watch(&s->reactor, &s->figures.second, second, s);
	deadline_class_init(&s->audience.backlog, BACKLOG_CHECK_MS * NS_PER_MS);
	deadline_class_init(&s->home.sweep, SWEEP_SECONDS * NS_PER_S);
	deadline_class_init(&s->figures.report, 0);
	deadline_init(&s->audience.backlog_deadline);
	deadline_init(&s->home.sweep_deadline);
	deadline_init(&s->figures.report_deadline);
	reactor_watch(&s->reactor, &s->audience.backlog, check_backlogs, s);
	reactor_watch(&s->reactor, &s->home.sweep, sweep, s);
	reactor_watch(&s->reactor, &s->figures.report, report, s);
}

int shard_init(struct shard *s, struct broker *b, unsigned id, const struct config *config)
{
	const struct config_engine *e = &config->engine;
	const struct reactor_params params = {
		.id = id,
		.completion_batch = COMPLETION_BATCH,
		.lane_batch = e->lane_batch,
		.spin_us = e->spin_us,
		.linger_us = e->linger_us,
		.oversubscribed = b->placement.oversubscribed,
		.turn_us = TURN_US,
		.main_part = PART_FAN_OUT,
		.ring = { .sq_entries = e->sq_entries,
			  .rings = b->shards_n + 1, /* and the main thread's */
			  .batch = e->batch,
			  .recv_buffers = e->recv_buffers,
			  .recv_buffer_bytes = e->recv_buffer_bytes,
			  .sqpoll_idle_ms = e->sqpoll_idle_ms,
			  .restricted = config->sandbox },
	};
	const struct reactor_owner owner = {
		.letters = letters, .gate_open = shard_gate_open, .flush = flush, .context = s
	};
	int err;

	*s = (struct shard){ .id = id, .broker = b, .config = config };
	err = mail_init(&s->mail, &s->reactor, b->letter_uses, b->shards_n, e->lane_entries);
	if (err != 0)
		return err;
	s->home.idle_topics = lists_new(home_idle_lists(config));
	s->latencies = calloc(1, sizeof(*s->latencies));
	if (s->home.idle_topics == NULL || s->latencies == NULL)
		return -ENOMEM;
	list_init(&s->home.idle_before[0]);
	list_init(&s->home.idle_before[1]);
	audience_init(&s->audience);
	pace_init(&s->pace);
	list_init(&s->home.every);
	list_init(&s->home.heard);
	list_init(&s->home.censuses);
	list_init(&s->clients.connections);
	list_init(&s->clients.unlooked);
	history_total_init(&s->home.history, config->limits.history_total_bytes);
	atomic_init(&s->home.history_oldest_ns, UINT64_MAX);
	err = reactor_init(&s->reactor, &params, b->mailbox, b->ring_fds, &owner);
	if (err != 0)
		return err;
	err = known_patterns_init(&s->home.known, b->shards_n);
	if (err != 0)
		return err;
	b->ring_fds[id] = ring_fd(s->reactor.ring);
	watch(s);
	budget_init(s);
	connections_init(s);
	drain_init(s);
	fetch_init(s);
	err = b->sessions->init(s);
	if (err != 0)
		return err;
	s->objects = objects_ref(b->objects);
	configure(s);
	listeners_init(s);
	return 0;
}

void shard_run(struct shard *s)
{
	listeners_start(s);
	reactor_run(&s->reactor);
	connections_release(s);
	(void)segments_let_go(UINT_MAX);
	atomic_store(&s->watched.round, UINT64_MAX);
	s->broker->report(s, true);
}

void shard_release(struct shard *s)
{
	if (s->reactor.ring != NULL) {
		fetch_release(s);
		census_release(s);
		s->broker->sessions->release(s);
		if (s->broker->figures != NULL)
			s->broker->figures->release(s);
		audience_forget_undelivered(s);
		interests_release(s);
		home_release(s);
		reactor_release(&s->reactor);
	}
	mail_release(&s->mail);
	(void)segments_let_go(UINT_MAX);
	free(s->home.idle_topics);
	free(s->latencies);
	reloads_end(s);
	objects_unref(s->objects);
}
