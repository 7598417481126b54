#include "session/registry.h"

#include <errno.h>

#include "base/digest.h"
#include "base/clock.h"
#include "base/memory.h"
#include "broker/access.h"
#include "broker/login.h"
#include "broker/broker.h"
#include "broker/connection.h"
#include "broker/fetch.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "session/http.h"
#include "session/http_answer.h"
#include "session/http_login.h"
#include "session/intake.h"
#include "session/line.h"
#include "session/nats.h"
#include "session/mqtt.h"
#include "session/opening.h"
#include "session/resp.h"
#include "session/routes.h"
#include "session/upgrade.h"
#include "session/shared.h"
#include "session/upstream.h"

const struct protocol line_protocol = {
	.name = "line",
	.door = DOOR_LINE,
	.refuses_at_once = true,
	.received = line_session_received,
	.last = line_session_ended,
	.ended = line_session_goodbye,
	.logged_in = line_session_logged_in,
	.still_may = line_session_still_may,
	.stop_publishing = publisher_end,
	.subscribed = line_session_subscribed,
	.say = line_session_say,
	.farewell = line_session_farewell,
	.interject = line_session_interject,
	.silent = line_session_silent,
	.held = line_session_held,
	.free = line_session_free,
};

const struct protocol http_protocol = {
	.name = "http",
	.door = DOOR_HTTP,
	.received = http_session_received,
	.ended = http_session_ended,
	.logged_in = http_session_logged_in,
	.subscribed = http_answer_subscribed,
	.sequenced = route_sequenced,
	.say = http_answer_say,
	.farewell = http_answer_farewell,
	.body_went = http_answer_body_went,
	.resume = http_session_resume,
	.drain = http_session_drain,
	.silent = http_session_silent,
	.held = http_session_held,
	.free = http_session_free,
};

const struct protocol resp_protocol = {
	.name = "resp",
	.door = DOOR_RESP,
	.received = resp_session_received,
	.ended = resp_session_ended,
	.stop_publishing = resp_session_stop_publishing,
	.subscribed = resp_session_subscribed,
	.refused = resp_session_refused,
	.sequenced = resp_session_sequenced,
	.barrier = resp_session_barrier,
	.say = resp_session_say,
	.farewell = resp_session_farewell,
	.logged_in = resp_session_logged_in,
	.resume = resp_session_resume,
	.silent = resp_session_silent,
	.held = resp_session_held,
	.free = resp_session_free,
};

const struct protocol nats_protocol = {
	.name = "nats",
	.door = DOOR_NATS,
	.refuses_at_once = true,
	.promises_nothing = true,
	.opened = nats_session_opened,
	.secured = nats_session_secured,
	.received = nats_session_received,
	.ended = nats_session_ended,
	.subscribed = nats_session_subscribed,
	.refused = nats_session_refused,
	.enough = nats_session_enough,
	.sequenced = nats_session_sequenced,
	.barrier = nats_session_barrier,
	.say = nats_session_say,
	.farewell = nats_session_farewell,
	.logged_in = nats_session_logged_in,
	.resume = nats_session_resume,
	.news = nats_session_news,
	.drain = nats_session_drain,
	.silent = nats_session_silent,
	.held = nats_session_held,
	.free = nats_session_free,
};

const struct protocol mqtt_protocol = {
	.name = "mqtt",
	.door = DOOR_MQTT,
	.promises_nothing = true,
	.received = mqtt_session_received,
	.ended = mqtt_session_ended,
	.stop_publishing = mqtt_session_stop_publishing,
	.subscribed = mqtt_session_subscribed,
	.refused = mqtt_session_refused,
	.sequenced = mqtt_session_sequenced,
	.barrier = mqtt_session_barrier,
	.say = mqtt_session_say,
	.farewell = mqtt_session_farewell,
	.logged_in = mqtt_session_logged_in,
	.missed = mqtt_session_missed,
	.news = mqtt_session_news,
	.resume = mqtt_session_resume,
	.silent = mqtt_session_silent,
	.held = mqtt_session_held,
	.free = mqtt_session_free,
};

const struct protocol upstream_protocol = {
	.name = "upstream",
	.stays = true,
	.received = upstream_received,
	.secured = upstream_secured,
	.stop_publishing = upstream_ends,
	.say = upstream_say,
	.farewell = upstream_farewell,
	.resume = upstream_resume,
	.silent = upstream_silent,
	.held = upstream_held,
	.free = upstream_free,
};

const struct protocol undecided_protocol = {
	.name = "undecided",
	.opened = undecided_opened,
	.received = undecided_received,
	.say = undecided_say,
	.farewell = opening_farewell,
	.silent = opening_silent,
	.free = opening_free,
};

const struct protocol proxied_protocol = {
	.name = "proxied",
	.received = proxied_received,
	.say = undecided_say,
	.farewell = opening_farewell,
	.silent = opening_silent,
	.free = opening_free,
};

const struct protocol hailed_protocol = {
	.name = "hailed",
	.opened = undecided_opened,
	.received = hailed_received,
	.say = undecided_say,
	.farewell = opening_farewell,
	.silent = opening_silent,
	.free = opening_free,
};

static const struct protocol *first(unsigned protocols, bool proxied)
{
	static const struct protocol *const by_bit[CONFIG_PROTOCOLS] = {
		&line_protocol, &http_protocol, &resp_protocol, &nats_protocol, &mqtt_protocol
	};

	if (proxied)
		return &proxied_protocol;
	for (unsigned i = 0; i < CONFIG_PROTOCOLS; i++)
		if (protocols == 1U << i)
			return by_bit[i];
	return &undecided_protocol;
}

/* ---- a shard's part ---- */

static int init(struct shard *s)
{
	s->sessions = memory_new_zeroed(sizeof(struct session_shared));
	if (s->sessions == NULL)
		return -ENOMEM;
	intakes_init(s);
	deadline_class_init(&session_shared(s)->hello, s->config->nats.hello_ms * NS_PER_MS);
	reactor_watch(&s->reactor, &session_shared(s)->hello, undecided_is_silent, s);
	nats_sessions_init(s);
	http_answers_init(s);
	websockets_init(s);
	mqtt_clients_init(s);
	logins_init(s, s->broker->identities, access_decided);
	return upstream_init(s, &upstream_protocol);
}

static void release(struct shard *s)
{
	if (s->sessions == NULL)
		return;
	upstream_release(s);
	logins_release(s);
	routes_release(s);
	websockets_release(s);
	mqtt_clients_release(s);
	intakes_release(s);
	pool_release(&session_shared(s)->nats_subscriptions);
	memory_free(s->sessions);
}

static void configure(struct shard *s)
{
	http_answers_configure(s);
	reactor_deadlines_change(&s->reactor, &session_shared(s)->hello,
				 s->config->nats.hello_ms * NS_PER_MS);
	nats_sessions_configure(s);
	websockets_configure(s);
}

static bool flush(struct shard *s)
{
	bool more = http_sessions_go_on(s);

	more |= access_flush(s);
	more |= intakes_go_on(s);
	more |= mqtt_clients_go_on(s);
	more |= routes_flush(s);
	if (session_shared(s)->upstream != NULL)
		more |= upstream_go_on(s);
	return more;
}

static const struct sessions sessions = { .init = init,
					  .release = release,
					  .configure = configure,
					  .flush = flush,
					  .identify = access_configure,
					  .left = access_left,
					  .still_may = access_still_may,
					  .expel = access_expel,
					  .first = first,
					  .hailed = &hailed_protocol };

/* ---- letters ---- */

static void read_refused(struct shard *s, struct letter *letter)
{
	publisher_refused(s, (struct topic_letter *)(void *)letter);
}

static void read_fetched(struct shard *s, struct letter *letter)
{
	routes_fetched(s, (struct fetch_letter *)(void *)letter);
}

static void read_census_taken(struct shard *s, struct letter *letter)
{
	resp_census_taken(s, (struct census_letter *)(void *)letter);
}

#define MQTT_READER(function, type)                                                                \
	static void read_##function(struct shard *s, struct letter *letter)                        \
	{                                                                                          \
		function(s, (type *)(void *)letter);                                               \
	}

MQTT_READER(mqtt_claim_came, struct identity_letter)
MQTT_READER(mqtt_take_over_came, struct identity_letter)
MQTT_READER(mqtt_claimed_came, struct identity_letter)
MQTT_READER(mqtt_unclaim_came, struct identity_letter)
MQTT_READER(mqtt_retained_came, struct retained_letter)

void sessions_register(struct broker *b)
{
	b->sessions = &sessions;
	nats_sessions_name();
	b->letter_uses[LETTER_REFUSED].read = read_refused;
	b->letter_uses[LETTER_FETCHED].read = read_fetched;
	b->letter_uses[LETTER_CENSUS_TAKEN].read = read_census_taken;
	b->letter_uses[LETTER_CLAIM].read = read_mqtt_claim_came;
	b->letter_uses[LETTER_TAKE_OVER].read = read_mqtt_take_over_came;
	b->letter_uses[LETTER_CLAIMED].read = read_mqtt_claimed_came;
	b->letter_uses[LETTER_UNCLAIM].read = read_mqtt_unclaim_came;
	b->letter_uses[LETTER_RETAINED].read = read_mqtt_retained_came;
	routes_init(b);
	upgrade_init(b, &nats_protocol, &mqtt_protocol);
	(void)digest_init();
}
