#include "session/mqtt.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/memory.h"
#include "broker/shard.h"
#include "session/shared.h"
#include "topic/block.h"

enum {
	PACKET_MORE_BYTES = 64 << 10, /* a packet may have beside the longest message */
	ASSIGNED_ID_BYTES = 20,
};

static size_t packet_max(const struct mqtt_session *m)
{
	return mqtt_connection(m)->shard->config->limits.message_bytes + PACKET_MORE_BYTES;
}

static bool reply(struct mqtt_session *m, const char *bytes, size_t n)
{
	return n == 0 || mqtt_transport(m)->reply(mqtt_connection(m), (struct span){ bytes, n });
}

/* ---- silence ---- */

static struct mqtt_clients *clients_of(const struct shard *s)
{
	return &session_shared(s)->mqtt;
}

/* What its keep alive is for comes from the client; where the silent are closed, what it is sent
 * counts as well. */
static uint64_t silent_until_ns(const struct mqtt_session *m)
{
	const struct connection *c = mqtt_connection(m);
	const struct deadline_class *idle = &c->shard->clients.idle;
	uint64_t busy_ns = c->deadline.started_ns, until_ns;

	until_ns = busy_ns + m->silence_seconds * NS_PER_S;
	if (!clients_limit_idle(&c->shard->clients))
		return until_ns;
	busy_ns = busy_ns > c->socket.sent_ns ? busy_ns : c->socket.sent_ns;
	busy_ns = busy_ns > idle->from_ns ? busy_ns : idle->from_ns;
	return busy_ns + idle->after_ns < until_ns ? busy_ns + idle->after_ns : until_ns;
}

/* Whether its client has a keep alive, which the shard looks after. */
static bool watched(const struct mqtt_session *m)
{
	return m->state == MQTT_CONNECTED && m->silence_seconds > 0;
}

static void watch_silence(struct mqtt_session *m)
{
	struct deadline *deadline = &mqtt_connection(m)->deadline;
	struct shard *s = mqtt_connection(m)->shard;
	struct mqtt_clients *clients = clients_of(s);
	uint64_t second = silent_until_ns(m) / NS_PER_S + 1;

	/* The wheel has stood still while there was nobody. */
	if (!deadline_running(&clients->second_deadline)) {
		clients->wheel_second = s->reactor.now_ns / NS_PER_S;
		reactor_deadline(&s->reactor, &clients->second, &clients->second_deadline);
	}
	/* By another configuration it may be over. */
	second = second > clients->wheel_second ? second : clients->wheel_second + 1;
	deadline_stop(deadline);
	list_append(&clients->wheel[second % MQTT_WHEEL_SLOTS], &deadline->link);
}

static void second_is_over(void *context, struct deadline *d)
{
	struct shard *s = context;
	struct mqtt_clients *clients = clients_of(s);
	uint64_t second = s->reactor.now_ns / NS_PER_S;

	for (; clients->wheel_second < second; clients->wheel_second++)
		list_splice(&clients->due,
			    &clients->wheel[(clients->wheel_second + 1) % MQTT_WHEEL_SLOTS]);
	if (clients->timed_n > 0)
		reactor_deadline(&s->reactor, &clients->second, d);
}

bool mqtt_clients_go_on(struct shard *s)
{
	struct mqtt_clients *clients = clients_of(s);
	struct list *l;

	if (list_empty(&clients->due))
		return false;
	reactor_part(&s->reactor, PART_CLIENTS);
	while (!reactor_spent(&s->reactor) && (l = list_take(&clients->due)) != NULL) {
		struct connection *c = LIST_ENTRY(l, struct connection, deadline.link);
		struct mqtt_session *m = mqtt_of(c);

		reactor_spend(&s->reactor, 1);
		if (c->state != CONNECTION_OPEN)
			continue;
		/* A client that has to wait is not listened to. */
		if (c->socket.paused)
			c->deadline.started_ns = s->reactor.now_ns;
		if (silent_until_ns(m) > s->reactor.now_ns)
			watch_silence(m);
		else
			mqtt_fail(m, MQTT_KEEP_ALIVE_TIMEOUT, "keep alive timeout");
	}
	return !list_empty(&clients->due);
}

void mqtt_clients_init(struct shard *s)
{
	struct mqtt_clients *clients = clients_of(s);

	for (unsigned i = 0; i < MQTT_WHEEL_SLOTS; i++)
		list_init(&clients->wheel[i]);
	list_init(&clients->due);
	deadline_class_init(&clients->second, NS_PER_S);
	deadline_init(&clients->second_deadline);
	reactor_watch(&s->reactor, &clients->second, second_is_over, s);
}

bool mqtt_session_silent(const struct connection *c)
{
	return mqtt_of(c)->state == MQTT_CONNECTED && !watched(mqtt_of(c));
}

void mqtt_session_news(struct connection *c)
{
	/* How long the silent are let be may have changed. */
	if (watched(mqtt_of(c)))
		watch_silence(mqtt_of(c));
}

/* ---- CONNECT ---- */

/* What may pass in silence: one and a half times what the client has said [MQTT-3.1.2-22]. Where
 * the silent are closed sooner, the keep alive that one of 5.0 is to have; or 0. */
static uint16_t set_keep_alive(struct mqtt_session *m, uint16_t asked)
{
	unsigned idle = mqtt_connection(m)->shard->config->limits.idle_seconds;
	uint32_t wanted = asked;
	uint16_t capped = 0;

	if (m->level == MQTT_5 && idle > 0 && (wanted == 0 || wanted > idle * 2 / 3)) {
		capped = (uint16_t)(idle * 2 / 3 < UINT16_MAX ? idle * 2 / 3 : UINT16_MAX);
		capped = capped > 0 ? capped : 1;
		wanted = capped;
	}
	wanted = (wanted * 3 + 1) / 2;
	m->silence_seconds = (uint16_t)(wanted < UINT16_MAX ? wanted : UINT16_MAX);
	return capped;
}

/* What CONNECT said that is needed for its answer. */
struct mqtt_opening {
	struct mqtt_connack connack;
	struct span id;
	char bytes[]; /* the identifier */
};

/* Room for a name of its own, too. */
static struct mqtt_opening *opening_new(struct span id)
{
	struct mqtt_opening *o = memory_new_zeroed(sizeof(*o) + id.len + ASSIGNED_ID_BYTES);

	if (o == NULL)
		return NULL;
	memcpy(o->bytes, id.data, id.len);
	o->id = (struct span){ o->bytes, id.len };
	return o;
}

/* Without a name of its own it gets one that nobody else has. */
static void assign_id(struct mqtt_opening *o)
{
	static const char digits[] = "0123456789abcdef";
	uint64_t n = hash_unique();

	memcpy(o->bytes, "mqtt", 4);
	for (int i = 4; i < ASSIGNED_ID_BYTES; i++, n >>= 4)
		o->bytes[i] = digits[n & 15];
	o->connack.assigned_id = (struct span){ o->bytes, ASSIGNED_ID_BYTES };
}

/* It is in: it is told so, now that nobody else has its identifier. */
static void welcome(struct mqtt_session *m)
{
	struct connection *c = mqtt_connection(m);
	char out[MQTT_CONNACK_MAX];
	size_t n = mqtt_put_connack(m->level, MQTT_SUCCESS, &m->work->opening->connack, out);

	memory_free(m->work->opening);
	m->work->opening = NULL;
	m->state = MQTT_CONNECTED;
	if (watched(m)) {
		clients_of(c->shard)->timed_n++;
		c->deadline.started_ns = c->shard->reactor.now_ns;
		watch_silence(m);
	} else {
		connection_limit_silence(c);
	}
	if (reply(m, out, n))
		connection_flush(c);
}

/* The home of its identifier has answered. */
static void identified(struct mqtt_session *m, int error)
{
	if (m->state != MQTT_IDENTIFYING || mqtt_connection(m)->state != CONNECTION_OPEN)
		return;
	if (error != 0) {
		mqtt_refuse(m, MQTT_QUOTA);
		return;
	}
	welcome(m);
	intake_resume(m->intake);
}

void mqtt_claimed_came(struct shard *s, struct identity_letter *l)
{
	struct mqtt_session *m = mqtt_session_at(s, l->slot, l->generation);

	if (m == NULL) {
		l->letter.kind = LETTER_UNCLAIM;
		shard_post(s, shard_home(s, l->named.hash), LANE_FREE, &l->letter);
		return;
	}
	assert(m->identity == NULL);
	m->identity = l;
	identified(m, l->error);
}

static unsigned check_connect(struct mqtt_session *m, const struct mqtt_connect *k)
{
	const struct connection *c = mqtt_connection(m);

	if (connection_refused(c) || c->late)
		return c->refusal == REASON_DRAINING ? MQTT_UNAVAILABLE : MQTT_QUOTA;
	if (mqtt_has(&k->properties, MQTT_AUTHENTICATION_METHOD))
		return MQTT_BAD_METHOD;
	/* [MQTT-3.1.3-8] of 3.1.1 */
	if (k->client_id.len > MQTT_CLIENT_ID_MAX ||
	    (k->client_id.len == 0 && k->level == MQTT_3_1_1 && !k->clean))
		return MQTT_BAD_CLIENT_ID;
	return MQTT_SUCCESS;
}

static unsigned take_will(struct mqtt_session *m, const struct mqtt_connect *k)
{
	unsigned reason = MQTT_SUCCESS;

	if (!k->has_will)
		return MQTT_SUCCESS;
	m->will = mqtt_will(m, &k->will, &reason);
	if (m->will == NULL && reason == MQTT_SUCCESS)
		return MQTT_QUOTA;
	/* 3.1.1 has no code for a will that will not be published. */
	return m->level == MQTT_5 || reason == MQTT_MALFORMED || reason == MQTT_PROTOCOL_ERROR
		       ? reason
		       : MQTT_SUCCESS;
}

static void identify(struct mqtt_session *m)
{
	if (m->work->opening->id.len == 0) {
		if (m->level == MQTT_5)
			assign_id(m->work->opening);
		welcome(m);
		return;
	}
	m->state = MQTT_IDENTIFYING;
	if (mqtt_claim(m, m->work->opening->id) != 0)
		mqtt_refuse(m, MQTT_QUOTA);
}

void mqtt_session_logged_in(struct connection *c, enum access_result result)
{
	struct mqtt_session *m = mqtt_of(c);

	if (m->state != MQTT_LOGGING_IN || c->state != CONNECTION_OPEN)
		return;
	if (result == ACCESS_GRANTED)
		identify(m);
	else
		mqtt_refuse(m, result == ACCESS_BUSY ? MQTT_UNAVAILABLE : MQTT_BAD_CREDENTIALS);
}

static void log_in(struct mqtt_session *m, const struct mqtt_connect *k)
{
	const struct credentials said = { .user = k->user, .secret = k->password };

	/* Where nobody is asked who he is, whatever he says is taken. */
	if ((k->has_user || k->has_password) && !access_open(mqtt_connection(m))) {
		m->state = MQTT_LOGGING_IN;
		access_login(mqtt_connection(m), &said);
	} else if (access_needed(mqtt_connection(m))) {
		mqtt_refuse(m, MQTT_NOT_AUTHORIZED);
	} else {
		identify(m);
	}
}

static void take_connect(struct mqtt_session *m, const struct mqtt_head *head, struct span body)
{
	struct mqtt_connect k;
	unsigned reason = mqtt_connect(head, body, &k);

	/* Whoever speaks another level is answered as the nearest one would be. */
	m->level = k.level == 0 ? 0 : k.level >= MQTT_5 ? MQTT_5 : MQTT_3_1_1;
	if (reason == MQTT_SUCCESS)
		reason = check_connect(m, &k);
	if (reason != MQTT_SUCCESS) {
		mqtt_refuse(m, reason);
		return;
	}
	m->says_why = k.properties.request_problem != 0;
	m->expires = k.properties.session_expiry > 0;
	m->maximum_packet = k.properties.maximum_packet;
	m->work->opening = opening_new(k.client_id);
	if (m->work->opening == NULL) {
		mqtt_refuse(m, MQTT_QUOTA);
		return;
	}
	m->work->opening->connack = (struct mqtt_connack){
		.maximum_packet =
			(uint32_t)(packet_max(m) < MQTT_REMAINING_MAX ? packet_max(m)
								      : MQTT_REMAINING_MAX),
		.session_ends = m->expires,
		.keep_alive = set_keep_alive(m, k.keep_alive),
	};
	reason = take_will(m, &k);
	if (reason != MQTT_SUCCESS)
		mqtt_refuse(m, reason);
	else
		log_in(m, &k);
}

/* ---- packets ---- */

static void take_disconnect(struct mqtt_session *m, const struct mqtt_answer *a)
{
	/* [MQTT-3.14.2.2.2] */
	if (!m->expires && a->properties.session_expiry > 0) {
		mqtt_fail(m, MQTT_PROTOCOL_ERROR, "session expiry");
		return;
	}
	if (a->reason == MQTT_SUCCESS && m->will != NULL) {
		block_unref(m->will);
		m->will = NULL;
	}
	mqtt_session_stop_publishing(mqtt_connection(m), false);
	mqtt_connection(m)->farewell = mqtt_transport(m)->last_word(0, MQTT_SUCCESS);
	connection_hasten(mqtt_connection(m));
}

/* A packet that is all there, and none that is taken in parts. */
static void take_whole(struct mqtt_session *m, const struct mqtt_head *head, struct span body)
{
	struct mqtt_answer answer;
	unsigned reason = MQTT_SUCCESS;

	switch (head->type) {
	case MQTT_PUBACK:
	case MQTT_PUBREC:
	case MQTT_PUBREL:
	case MQTT_PUBCOMP:
		reason = mqtt_answer(m->level, head, body, &answer);
		if (reason == MQTT_SUCCESS)
			mqtt_take_answer(m, head, &answer);
		break;
	case MQTT_PINGREQ:
		reason = mqtt_empty(head);
		if (reason == MQTT_SUCCESS)
			mqtt_answer_now(m, MQTT_PINGRESP, 0, MQTT_SUCCESS);
		break;
	case MQTT_DISCONNECT:
		reason = mqtt_answer(m->level, head, body, &answer);
		if (reason == MQTT_SUCCESS)
			take_disconnect(m, &answer);
		break;
	default:
		/* A second CONNECT [MQTT-3.1.0-2], AUTH without a method, a server's packet. */
		reason = MQTT_PROTOCOL_ERROR;
	}
	if (reason != MQTT_SUCCESS)
		mqtt_fail(m, reason,
			  reason == MQTT_MALFORMED ? "malformed packet" : "protocol error");
}

/* How it goes on behind a fixed header. */
static size_t take_packet(struct mqtt_session *m, const struct mqtt_head *head, struct span in)
{
	size_t whole = head->bytes + (size_t)head->remaining;
	struct span body;

	if (whole > packet_max(m)) {
		mqtt_fail(m, MQTT_TOO_LARGE, "packet too large");
		return 0;
	}
	if (m->state == MQTT_CONNECTED && !mqtt_may_answer(m))
		return 0;
	if (head->type == MQTT_PUBLISH && m->state == MQTT_CONNECTED)
		return mqtt_take_publish(m, head, in);
	if (in.len < whole) {
		intake_need(m->intake, whole);
		return 0;
	}
	body = (struct span){ in.data + head->bytes, head->remaining };
	if (m->state == MQTT_NEW)
		take_connect(m, head, body);
	else if (head->type == MQTT_SUBSCRIBE || head->type == MQTT_UNSUBSCRIBE)
		return mqtt_take_subscribe(m, head, in);
	else
		take_whole(m, head, body);
	return whole;
}

static size_t take(struct connection *c, struct span in)
{
	struct mqtt_session *m = mqtt_of(c);
	struct mqtt_head head;
	size_t used = 0;
	int got;

	if (m->work->skip > 0) {
		used = m->work->skip < in.len ? m->work->skip : in.len;
		m->work->skip -= used;
		return used;
	}
	if (m->work->pending != NULL) {
		if (!mqtt_go_on_with_pending(m, in, &used))
			intake_hold(m->intake);
		return used;
	}
	if (c->asked > 0 || m->state == MQTT_IDENTIFYING || m->state == MQTT_LOGGING_IN ||
	    m->work->giving != NULL) {
		intake_hold(m->intake);
		return 0;
	}
	got = mqtt_head(m->level, in, &head);
	if (got == 0)
		return 0;
	/* [MQTT-3.1.0-1] */
	if (m->state == MQTT_NEW && (got < 0 || head.type != MQTT_CONNECT)) {
		mqtt_refuse(m, MQTT_PROTOCOL_ERROR);
		return 0;
	}
	if (got < 0) {
		mqtt_fail(m, (unsigned)-got, "malformed packet");
		return 0;
	}
	/* It would be acknowledged and reach nobody; so it is sent again, to somebody else. */
	if (head.type == MQTT_PUBLISH && c->shard->drain.draining) {
		intake_hold(m->intake);
		return 0;
	}
	return take_packet(m, &head, in);
}

static bool idle(const struct connection *c)
{
	const struct mqtt_session *m = mqtt_of(c);
	const struct mqtt_work *w = m->work;

	return w->skip == 0 && w->opening == NULL && w->pending == NULL && w->giving == NULL &&
	       w->leaving_n == 0 && mqtt_incoming_idle(m);
}

/* Most have said all that they had to when they have subscribed. */
static void release(struct intake *in)
{
	struct mqtt_session *m = mqtt_of(in->connection);

	memory_free(m->work->opening);
	mqtt_incoming_free(m);
	mqtt_work_free(m);
}

static const struct intake_use use = { .take = take,
				       .collected = mqtt_collected,
				       .publishing = mqtt_publishing,
				       .idle = idle,
				       .release = release };

/* ---- what struct protocol has of it ---- */

void mqtt_session_received(struct connection *c, struct span bytes)
{
	struct mqtt_session *m = mqtt_of(c);

	if (watched(m))
		c->deadline.started_ns = c->shard->reactor.now_ns;
	if (!intake_take(&m->intake, c, &use))
		return;
	m->intake->wrapped = m->framed;
	intake_received(m->intake, bytes);
}

/* One subscription takes the place of another: in the end the core would send what is new between
 * what came before. */
static bool waits_with_goodbye(const struct mqtt_session *m)
{
	return m->intake != NULL && m->intake->ended &&
	       (mqtt_connection(m)->asked > 0 || m->work->leaving_n > 0);
}

void mqtt_session_ended(struct connection *c)
{
	struct mqtt_session *m = mqtt_of(c);

	if (m->intake == NULL) {
		connection_goodbye(c);
		return;
	}
	m->intake->ended = true;
	if (!waits_with_goodbye(m))
		intake_resume(m->intake);
}

void mqtt_session_stop_publishing(struct connection *c, bool receipt)
{
	struct mqtt_session *m = mqtt_of(c);
	struct block *will = m->will;

	(void)receipt;
	if (will == NULL)
		return;
	m->will = NULL;
	/* Not when it is the broker that ends, nor what its client may not say any more. */
	if (c->shard->drain.draining || m->state != MQTT_CONNECTED || c->expelled ||
	    !access_may(c, ACCESS_PUBLISH, block_name(will), false)) {
		block_unref(will);
		return;
	}
	will->shard = c->shard->id;
	will->slot = c->socket.slot;
	will->generation = socket_generation(&c->shard->sockets, &c->socket);
	shard_publish(c->shard, will);
}

void mqtt_session_resume(struct connection *c)
{
	struct mqtt_session *m = mqtt_of(c);

	if (m->work == NULL || c->state != CONNECTION_OPEN)
		return;
	if (m->work->leaving_n > 0)
		mqtt_end_left(m);
	if (m->work->giving != NULL)
		mqtt_give(m);
	if (c->state == CONNECTION_OPEN && !waits_with_goodbye(m))
		intake_resume(m->intake);
}

uint64_t mqtt_session_held(const struct connection *c)
{
	const struct mqtt_session *m = mqtt_of(c);

	return (m->work != NULL ? intake_held(m->intake) + mqtt_incoming_held(m) : 0) +
	       (m->will != NULL ? block_bytes(m->will) : 0);
}

void mqtt_session_free(struct connection *c)
{
	struct mqtt_session *m = mqtt_of(c);

	if (watched(m))
		clients_of(c->shard)->timed_n--;
	mqtt_unclaim(m);
	if (m->will != NULL)
		block_unref(m->will);
	intake_give_back(m->intake);
	mqtt_subscriptions_free(m);
}
