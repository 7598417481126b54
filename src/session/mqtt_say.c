#include "broker/shard.h"
#include "session/mqtt.h"
#include "session/words.h"

/* ---- as they are ---- */

static bool plain_reply(struct connection *c, struct span packets)
{
	return connection_reply(c, packets);
}

/* DISCONNECT packets hold no NUL, for the length of their properties may be left out. */
static const char *plain_last_word(unsigned level, unsigned reason)
{
	if (level != MQTT_5)
		return NULL;
	switch (reason) {
	case MQTT_MALFORMED:
		return "\xe0\x01\x81";
	case MQTT_PROTOCOL_ERROR:
		return "\xe0\x01\x82";
	case MQTT_NOT_AUTHORIZED:
		return "\xe0\x01\x87";
	case MQTT_SHUTTING_DOWN:
		return "\xe0\x01\x8b";
	case MQTT_KEEP_ALIVE_TIMEOUT:
		return "\xe0\x01\x8d";
	case MQTT_TAKEN_OVER:
		return "\xe0\x01\x8e";
	case MQTT_BAD_TOPIC:
		return "\xe0\x01\x90";
	case MQTT_BAD_ALIAS:
		return "\xe0\x01\x94";
	case MQTT_TOO_LARGE:
		return "\xe0\x01\x95";
	case MQTT_QUOTA:
		return "\xe0\x01\x97";
	case MQTT_EXPIRED:
		return "\xe0\x01\xa0";
	case MQTT_NO_SUBSCRIPTION_IDS:
		return "\xe0\x01\xa1";
	case MQTT_UNSPECIFIED:
	default:
		return "\xe0\x01\x80";
	}
}

static const struct mqtt_transport mqtt_plain = { .reply = plain_reply,
						  .formats = { &mqtt_format, &mqtt5_format },
						  .last_word = plain_last_word };

const struct mqtt_transport *mqtt_transports[2] = { &mqtt_plain };

static bool reply(struct mqtt_session *m, const char *bytes, size_t n)
{
	return n == 0 || mqtt_transport(m)->reply(mqtt_connection(m), (struct span){ bytes, n });
}

/* ---- ends ---- */

/* The last word of a client that is told why at the end of all that it has still to get. Where
 * nothing more is to come, a few words can go with it. */
static const char *last_word(struct mqtt_session *m, unsigned reason, const char *why)
{
	char out[MQTT_DISCONNECT_MAX];

	if (m->level == MQTT_5 && m->says_why && why != NULL &&
	    mqtt_connection(m)->subscriptions_n == 0) {
		(void)reply(m, out, mqtt_put_disconnect(reason, span_of(why), out));
		return mqtt_transport(m)->last_word(0, reason);
	}
	return mqtt_transport(m)->last_word(m->level, reason);
}

/* The answer to a CONNECT that leads to nothing. */
void mqtt_refuse(struct mqtt_session *m, unsigned reason)
{
	const struct mqtt_connack none = { .keep_alive = 0 };
	struct connection *c = mqtt_connection(m);
	char out[MQTT_CONNACK_MAX];

	if (c->state != CONNECTION_OPEN)
		return;
	if (m->level > 0)
		(void)reply(m, out, mqtt_put_connack(m->level, reason, &none, out));
	if (c->state == CONNECTION_OPEN)
		connection_fail(c, mqtt_transport(m)->last_word(0, reason));
}

void mqtt_fail(struct mqtt_session *m, unsigned reason, const char *why)
{
	struct connection *c = mqtt_connection(m);

	if (m->state != MQTT_CONNECTED)
		mqtt_refuse(m, reason);
	else if (c->state == CONNECTION_OPEN)
		connection_fail(c, last_word(m, reason, why));
}

void mqtt_taken_over(struct mqtt_session *m)
{
	mqtt_fail(m, MQTT_TAKEN_OVER, "another client has this identifier");
}

const char *mqtt_session_say(struct connection *c, enum reason reason)
{
	static const uint8_t codes[REASONS] = {
		[REASON_TIMEOUT] = MQTT_KEEP_ALIVE_TIMEOUT,
		[REASON_SLOW] = MQTT_QUOTA,
		[REASON_CONNECTIONS] = MQTT_QUOTA,
		[REASON_SUBSCRIPTIONS] = MQTT_QUOTA,
		[REASON_TOPICS] = MQTT_QUOTA,
		[REASON_PATTERNS] = MQTT_QUOTA,
		[REASON_MEMORY] = MQTT_QUOTA,
		[REASON_DRAINING] = MQTT_SHUTTING_DOWN,
		[REASON_NOT_PERMITTED] = MQTT_NOT_AUTHORIZED,
		[REASON_EXPIRED] = MQTT_EXPIRED,
		[REASON_GAP] = MQTT_UNSPECIFIED,
		[REASON_UPSTREAM] = MQTT_UNSPECIFIED,
		[REASON_TOO_LONG] = MQTT_TOO_LARGE,
	};
	struct mqtt_session *m = mqtt_of(c);
	char out[MQTT_CONNACK_MAX];

	if (codes[reason] == 0)
		return NULL;
	if (m->state == MQTT_CONNECTED)
		return last_word(m, codes[reason], reason_words[reason]);
	if (m->level > 0) {
		const struct mqtt_connack none = { .keep_alive = 0 };

		(void)reply(m, out,
			    mqtt_put_connack(m->level,
					     reason == REASON_DRAINING ? MQTT_UNAVAILABLE
								       : codes[reason],
					     &none, out));
	}
	return mqtt_transport(m)->last_word(0, codes[reason]);
}

const char *mqtt_session_farewell(const struct connection *c, bool bye)
{
	const struct mqtt_session *m = mqtt_of(c);

	(void)bye;
	return mqtt_transport(m)->last_word(0, MQTT_SUCCESS);
}
