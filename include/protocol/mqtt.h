#ifndef PROTOCOL_MQTT_H
#define PROTOCOL_MQTT_H

/*
 * MQTT 3.1.1 and 5.0 (OASIS standards; numbers in brackets are theirs): control packets to what
 * they say, answers to bytes, runs to PUBLISH packets of QoS 0. Pure functions over spans; what
 * they give points into what they were given. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "base/wire.h"

/* 2.1.2 */
enum mqtt_type {
	MQTT_CONNECT = 1,
	MQTT_CONNACK,
	MQTT_PUBLISH,
	MQTT_PUBACK,
	MQTT_PUBREC,
	MQTT_PUBREL,
	MQTT_PUBCOMP,
	MQTT_SUBSCRIBE,
	MQTT_SUBACK,
	MQTT_UNSUBSCRIBE,
	MQTT_UNSUBACK,
	MQTT_PINGREQ,
	MQTT_PINGRESP,
	MQTT_DISCONNECT,
	MQTT_AUTH,
};

/* Of the protocol, as CONNECT names it. */
enum mqtt_level { MQTT_3_1_1 = 4, MQTT_5 = 5 };

/* Reason codes of 5.0 (2.4). What is wrong with a packet is said with them for both levels. */
enum mqtt_reason {
	MQTT_SUCCESS = 0x00,
	MQTT_DISCONNECT_WITH_WILL = 0x04,
	MQTT_NO_SUBSCRIPTION = 0x11,
	MQTT_UNSPECIFIED = 0x80,
	MQTT_MALFORMED = 0x81,
	MQTT_PROTOCOL_ERROR = 0x82,
	MQTT_IMPLEMENTATION = 0x83,
	MQTT_UNSUPPORTED_VERSION = 0x84,
	MQTT_BAD_CLIENT_ID = 0x85,
	MQTT_BAD_CREDENTIALS = 0x86,
	MQTT_NOT_AUTHORIZED = 0x87,
	MQTT_UNAVAILABLE = 0x88,
	MQTT_SHUTTING_DOWN = 0x8b,
	MQTT_BAD_METHOD = 0x8c,
	MQTT_KEEP_ALIVE_TIMEOUT = 0x8d,
	MQTT_TAKEN_OVER = 0x8e,
	MQTT_BAD_FILTER = 0x8f,
	MQTT_BAD_TOPIC = 0x90,
	MQTT_NO_SUCH_PACKET_ID = 0x92,
	MQTT_BAD_ALIAS = 0x94,
	MQTT_TOO_LARGE = 0x95,
	MQTT_QUOTA = 0x97,
	MQTT_EXPIRED = 0xa0, /* maximum connect time */
	MQTT_NO_SUBSCRIPTION_IDS = 0xa1,
};

/* ---- packets ---- */

enum {
	MQTT_HEAD_BYTES_MAX = 5,
	MQTT_REMAINING_MAX = 268435455, /* 1.5.5 */
};

/* The fixed header. */
struct mqtt_head {
	uint8_t type; /* enum mqtt_type */
	uint8_t flags;
	uint8_t bytes;      /* of it */
	bool longer;        /* its length takes more bytes than it need: malformed in 5.0 */
	uint32_t remaining; /* bytes behind it */
};

/* Reads the fixed header of a client's packet: 1: it is there; 0: more is wanted; else -(enum
 * mqtt_reason). level 0: not known yet. */
int mqtt_head(unsigned level, struct span in, struct mqtt_head *head);

/* What was said with properties; those that are not there are 0 or empty. */
struct mqtt_properties {
	struct span all;  /* as they stand in the packet, without their length */
	uint64_t present; /* bit per identifier */
	uint32_t session_expiry, message_expiry, maximum_packet, subscription_id;
	uint16_t receive_maximum, topic_alias;
	uint8_t payload_format, request_problem; /* request_problem: 1 if it is not there */
	struct span content_type, response_topic, correlation, authentication;
};

static inline bool mqtt_has(const struct mqtt_properties *p, unsigned identifier)
{
	return p->present >> identifier & 1;
}

/* 2.2.2.2, those that are looked for by name. */
enum mqtt_property {
	MQTT_PAYLOAD_FORMAT = 0x01,
	MQTT_MESSAGE_EXPIRY = 0x02,
	MQTT_CONTENT_TYPE = 0x03,
	MQTT_RESPONSE_TOPIC = 0x08,
	MQTT_CORRELATION_DATA = 0x09,
	MQTT_SUBSCRIPTION_ID = 0x0b,
	MQTT_SESSION_EXPIRY = 0x11,
	MQTT_ASSIGNED_CLIENT_ID = 0x12,
	MQTT_SERVER_KEEP_ALIVE = 0x13,
	MQTT_AUTHENTICATION_METHOD = 0x15,
	MQTT_AUTHENTICATION_DATA = 0x16,
	MQTT_REQUEST_PROBLEM = 0x17,
	MQTT_WILL_DELAY = 0x18,
	MQTT_REQUEST_RESPONSE = 0x19,
	MQTT_RESPONSE_INFORMATION = 0x1a,
	MQTT_SERVER_REFERENCE = 0x1c,
	MQTT_REASON_STRING = 0x1f,
	MQTT_RECEIVE_MAXIMUM = 0x21,
	MQTT_TOPIC_ALIAS_MAXIMUM = 0x22,
	MQTT_TOPIC_ALIAS = 0x23,
	MQTT_MAXIMUM_QOS = 0x24,
	MQTT_RETAIN_AVAILABLE = 0x25,
	MQTT_USER_PROPERTY = 0x26,
	MQTT_MAXIMUM_PACKET = 0x27,
	MQTT_WILDCARDS_AVAILABLE = 0x28,
	MQTT_SUBSCRIPTION_IDS_AVAILABLE = 0x29,
	MQTT_SHARED_AVAILABLE = 0x2a,
};

/* A message as a client gives it: a PUBLISH, or the will of a CONNECT. The topic's name has not
 * been looked at (mqtt_topic). */
struct mqtt_publish {
	struct span topic;
	struct span payload; /* not set by mqtt_publish_head */
	uint16_t id;         /* QoS 0: 0 */
	uint8_t qos;
	bool dup, retain;
	struct mqtt_properties properties;
};

struct mqtt_connect {
	uint8_t level; /* 0: not even that is to be known */
	bool clean, has_will, has_user, has_password;
	uint16_t keep_alive; /* seconds */
	struct span client_id, user, password;
	struct mqtt_properties properties;
	struct mqtt_publish will;
};

/* PUBACK, PUBREC, PUBREL, PUBCOMP and DISCONNECT, whose id is 0. */
struct mqtt_answer {
	uint16_t id;
	uint8_t reason;
	struct mqtt_properties properties;
};

/* SUBSCRIBE and UNSUBSCRIBE. */
struct mqtt_subscribe {
	uint16_t id;
	uint32_t filters_n; /* at least 1 */
	struct span filters;
	struct mqtt_properties properties;
};

struct mqtt_filter {
	struct span filter;
	uint8_t qos, retain_handling;
	bool no_local, retain_as_published;
};

/*
 * Each reads what stands behind the fixed header, all of it, and returns MQTT_SUCCESS or what is
 * wrong. 3.1.1 knows no properties: all are empty. CONNECT: MQTT_UNSUPPORTED_VERSION with the level
 * that was asked for, if it is one; with any other reason the level is set if it had come to that.
 */
unsigned mqtt_connect(const struct mqtt_head *head, struct span body, struct mqtt_connect *c);
unsigned mqtt_answer(unsigned level, const struct mqtt_head *head, struct span body,
		     struct mqtt_answer *a);
unsigned mqtt_subscribe(unsigned level, const struct mqtt_head *head, struct span body,
			struct mqtt_subscribe *s);
/* PINGREQ, and those packets that need not be looked into. */
unsigned mqtt_empty(const struct mqtt_head *head);

/* The variable header of a PUBLISH, of which body is the beginning: how many bytes it has, behind
 * which the payload begins; 0: more is wanted; else -(enum mqtt_reason). */
int64_t mqtt_publish_head(unsigned level, const struct mqtt_head *head, struct span body,
			  struct mqtt_publish *p);

/* Takes the next filter off a SUBSCRIBE's (options: true) or an UNSUBSCRIBE's that has been read.
 * False: there is none left. */
bool mqtt_next_filter(struct span *filters, bool options, struct mqtt_filter *filter);

/* ---- names ---- */

/*
 * Topic names and filters are native ones level by level: '/' separates and becomes '.', an empty
 * level is the level "/", a '.' within a level is "//"; '+' is '*' and '#' is '>'. No two names
 * meet.
 */
enum mqtt_name {
	MQTT_NAME_TOPIC,     /* there is one for it */
	MQTT_NAME_NO_TOPIC,  /* correct, but no topic can be called like that */
	MQTT_NAME_INVALID,   /* empty, or with wildcards where there may be none */
	MQTT_NAME_MALFORMED, /* not UTF-8, or with U+0000 [MQTT-1.5.4-1, -2] */
};

enum { MQTT_NATIVE_MAX = 256 }; /* room for a native name */

/* The topic of a topic name; *out lies in `room`, of MQTT_NATIVE_MAX bytes. */
enum mqtt_name mqtt_topic(struct span name, char *room, struct span *out);
/* The same of a filter, without the $share; *pattern: it has wildcards. */
enum mqtt_name mqtt_filter(struct span filter, char *room, struct span *out, bool *pattern);
/* Takes "$share/NAME/" off a filter. 1: it is one, and *group its name; 0: it is none; -1: it is
 * wrong [MQTT-4.8.2-1, -2]. */
int mqtt_share(struct span *filter, struct span *group);
/* The name that MQTT has for a topic, in `room`, of as many bytes as the topic's. False: it has
 * none. */
bool mqtt_topic_name(struct span topic, char *room, struct span *out);

/* ---- messages ---- */

/*
 * The properties of a message as a record keeps them (struct record): those that only MQTT shows,
 * as they stood in the PUBLISH; a Message Expiry Interval is first, as the time at which it is
 * over. Content Type and Response Topic are the record's type and reply; a Response Topic that is
 * no topic stays here. Returns how many bytes, at most properties.all.len + MQTT_KEPT_MORE.
 */
enum { MQTT_KEPT_MORE = 8 };
size_t mqtt_keep_properties(const struct mqtt_properties *properties, bool reply, uint64_t now_ns,
			    char *out);

/* Whether a message that is to be given only now is over. */
bool mqtt_expired(struct span kept, uint64_t now_ns);

/* What a subscription of 5.0 has for a parameter; all zero is the usual one, and empty. */
struct mqtt_wire {
	bool retain_as_published;
	uint32_t maximum_packet;        /* 0: any */
	struct run_publisher not_local; /* generation 0: everybody's */
};
enum { MQTT_PARAMETER_MAX = 20 };
size_t mqtt_parameter(const struct mqtt_wire *wire, char *out);

extern const struct wire_format mqtt_format, mqtt5_format;

/* One message by itself, with RETAIN 1: as it is given to a new subscription. out: of
 * mqtt_retained_max bytes. 0: it has no form. */
size_t mqtt_retained_max(const struct run *run);
size_t mqtt_retained(unsigned level, uint32_t maximum_packet, const struct run *run, char *out);

/* ---- answers ---- */

enum {
	MQTT_ANSWER_MAX = 5,
	MQTT_CONNACK_MAX = 512,
	MQTT_DISCONNECT_MAX = 256,
};

struct mqtt_connack {
	uint32_t maximum_packet; /* 0: not said */
	bool session_ends;       /* more than nothing was asked for: it is 0 */
	bool no_shared;
	uint16_t keep_alive;     /* 0: as the client asked for */
	struct span assigned_id; /* or empty */
};

/* Each returns how many bytes it has written. CONNACK of 3.1.1 for a reason of 5.0; 0: there is
 * none. */
size_t mqtt_put_connack(unsigned level, unsigned reason, const struct mqtt_connack *c, char *out);
size_t mqtt_put_answer(unsigned level, enum mqtt_type type, uint16_t id, unsigned reason,
		       char *out);
size_t mqtt_put_pong(char *out);
/* The head of a SUBACK or UNSUBACK for so many filters, behind which their codes are to stand (for
 * UNSUBACK of 3.1.1, none). */
enum { MQTT_SUBACK_HEAD_MAX = 8 };
size_t mqtt_put_suback(unsigned level, enum mqtt_type type, uint16_t id, uint32_t filters_n,
		       char *out);
/* DISCONNECT of 5.0; why: a Reason String, or empty. */
size_t mqtt_put_disconnect(unsigned reason, struct span why, char *out);
/* CONNACK's return code for a reason: 0 if 3.1.1 has none (3.2.2.3). */
unsigned mqtt_return_code(unsigned reason);

/* Whether a CONNECT begins like that, with a byte that nothing else begins with: 1 surely, 0
 * perhaps (there is none yet), -1 no. */
int mqtt_detect(struct span first);

#endif
