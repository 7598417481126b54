#include "protocol/mqtt.h"

#include <string.h>

#include "base/name.h"

#define BIT(n) (UINT32_C(1) << (n))

/* What is left of a packet, and what was wrong first; a reader that has failed gives nothing. */
struct reader {
	struct span left;
	unsigned wrong; /* enum mqtt_reason */
};

static void fail(struct reader *r, unsigned reason)
{
	if (r->wrong == MQTT_SUCCESS)
		r->wrong = reason;
	r->left.len = 0;
}

static uint32_t take_number(struct reader *r, unsigned bytes)
{
	uint32_t n = 0;

	if (r->left.len < bytes) {
		fail(r, MQTT_MALFORMED);
		return 0;
	}
	for (unsigned i = 0; i < bytes; i++)
		n = n << 8 | (unsigned char)r->left.data[i];
	r->left = span_skip(r->left, bytes);
	return n;
}

/* 1.5.5: how many bytes it has, 0 if they are not all there, -1 if it has no end. */
static int variable(struct span in, uint32_t *n)
{
	*n = 0;
	for (unsigned i = 0; i < 4; i++) {
		if (i == in.len)
			return 0;
		*n |= ((uint32_t)(unsigned char)in.data[i] & 0x7f) << (7 * i);
		if (!(in.data[i] & 0x80))
			return (int)i + 1;
	}
	return -1;
}

/* Whether a number that takes so many bytes would have had room in fewer [MQTT-1.5.5-1]. */
static bool longer(uint32_t n, int bytes)
{
	return bytes > 1 && n >> (7 * (bytes - 1)) == 0;
}

static uint32_t take_variable(struct reader *r)
{
	uint32_t n;
	int bytes = variable(r->left, &n);

	if (bytes <= 0 || longer(n, bytes)) {
		fail(r, MQTT_MALFORMED);
		return 0;
	}
	r->left = span_skip(r->left, (size_t)bytes);
	return n;
}

static struct span take_bytes(struct reader *r, size_t len)
{
	struct span s = { r->left.data, len };

	if (r->left.len < len) {
		fail(r, MQTT_MALFORMED);
		return (struct span){ NULL, 0 };
	}
	r->left = span_skip(r->left, len);
	return s;
}

static struct span take_binary(struct reader *r)
{
	return take_bytes(r, take_number(r, 2));
}

static struct span take_string(struct reader *r)
{
	struct span s = take_binary(r);

	if (s.len > 0 && (memchr(s.data, 0, s.len) != NULL || !utf8_valid(s)))
		fail(r, MQTT_MALFORMED);
	return s;
}

/* ---- properties ---- */

enum property_kind { BYTE, TWO, FOUR, VARIABLE, STRING, BINARY, PAIR };

enum {
	WILL = 0, /* stands where a packet's type does */
	ACKS = BIT(MQTT_PUBACK) | BIT(MQTT_PUBREC) | BIT(MQTT_PUBREL) | BIT(MQTT_PUBCOMP),
	MESSAGES = BIT(MQTT_PUBLISH) | BIT(WILL),
	PROPERTIES = 0x2b,
};

/* 2.2.2.2, table 2-4. */
static const struct {
	uint8_t kind;
	bool flag; /* 0 or 1 */
	bool not_zero;
	uint32_t packets; /* that may have it; 0: there is no such property */
} properties[PROPERTIES] = {
	[MQTT_PAYLOAD_FORMAT] = { BYTE, true, false, MESSAGES },
	[MQTT_MESSAGE_EXPIRY] = { FOUR, false, false, MESSAGES },
	[MQTT_CONTENT_TYPE] = { STRING, false, false, MESSAGES },
	[MQTT_RESPONSE_TOPIC] = { STRING, false, false, MESSAGES },
	[MQTT_CORRELATION_DATA] = { BINARY, false, false, MESSAGES },
	[MQTT_SUBSCRIPTION_ID] = { VARIABLE, false, true, BIT(MQTT_PUBLISH) | BIT(MQTT_SUBSCRIBE) },
	[MQTT_SESSION_EXPIRY] = { FOUR, false, false,
				  BIT(MQTT_CONNECT) | BIT(MQTT_CONNACK) | BIT(MQTT_DISCONNECT) },
	[MQTT_ASSIGNED_CLIENT_ID] = { STRING, false, false, BIT(MQTT_CONNACK) },
	[MQTT_SERVER_KEEP_ALIVE] = { TWO, false, false, BIT(MQTT_CONNACK) },
	[MQTT_AUTHENTICATION_METHOD] = { STRING, false, false,
					 BIT(MQTT_CONNECT) | BIT(MQTT_CONNACK) | BIT(MQTT_AUTH) },
	[MQTT_AUTHENTICATION_DATA] = { BINARY, false, false,
				       BIT(MQTT_CONNECT) | BIT(MQTT_CONNACK) | BIT(MQTT_AUTH) },
	[MQTT_REQUEST_PROBLEM] = { BYTE, true, false, BIT(MQTT_CONNECT) },
	[MQTT_WILL_DELAY] = { FOUR, false, false, BIT(WILL) },
	[MQTT_REQUEST_RESPONSE] = { BYTE, true, false, BIT(MQTT_CONNECT) },
	[MQTT_RESPONSE_INFORMATION] = { STRING, false, false, BIT(MQTT_CONNACK) },
	[MQTT_SERVER_REFERENCE] = { STRING, false, false,
				    BIT(MQTT_CONNACK) | BIT(MQTT_DISCONNECT) },
	[MQTT_REASON_STRING] = { STRING, false, false,
				 ACKS | BIT(MQTT_CONNACK) | BIT(MQTT_SUBACK) | BIT(MQTT_UNSUBACK) |
					 BIT(MQTT_DISCONNECT) | BIT(MQTT_AUTH) },
	[MQTT_RECEIVE_MAXIMUM] = { TWO, false, true, BIT(MQTT_CONNECT) | BIT(MQTT_CONNACK) },
	[MQTT_TOPIC_ALIAS_MAXIMUM] = { TWO, false, false, BIT(MQTT_CONNECT) | BIT(MQTT_CONNACK) },
	[MQTT_TOPIC_ALIAS] = { TWO, false, false, BIT(MQTT_PUBLISH) },
	[MQTT_MAXIMUM_QOS] = { BYTE, true, false, BIT(MQTT_CONNACK) },
	[MQTT_RETAIN_AVAILABLE] = { BYTE, true, false, BIT(MQTT_CONNACK) },
	[MQTT_USER_PROPERTY] = { PAIR, false, false, UINT32_MAX },
	[MQTT_MAXIMUM_PACKET] = { FOUR, false, true, BIT(MQTT_CONNECT) | BIT(MQTT_CONNACK) },
	[MQTT_WILDCARDS_AVAILABLE] = { BYTE, true, false, BIT(MQTT_CONNACK) },
	[MQTT_SUBSCRIPTION_IDS_AVAILABLE] = { BYTE, true, false, BIT(MQTT_CONNACK) },
	[MQTT_SHARED_AVAILABLE] = { BYTE, true, false, BIT(MQTT_CONNACK) },
};

/* A value: a number, or bytes. */
struct value {
	uint32_t number;
	struct span bytes;
};

static struct value take_value(struct reader *r, unsigned kind)
{
	struct value v = { 0, { NULL, 0 } };

	switch (kind) {
	case BYTE:
		v.number = take_number(r, 1);
		break;
	case TWO:
		v.number = take_number(r, 2);
		break;
	case FOUR:
		v.number = take_number(r, 4);
		break;
	case VARIABLE:
		v.number = take_variable(r);
		break;
	case BINARY:
		v.bytes = take_binary(r);
		break;
	case PAIR:
		(void)take_string(r);
		(void)take_string(r);
		break;
	case STRING:
	default:
		v.bytes = take_string(r);
	}
	return v;
}

static void set_property(struct mqtt_properties *p, unsigned id, struct value v)
{
	p->present |= UINT64_C(1) << id;
	switch (id) {
	case MQTT_PAYLOAD_FORMAT:
		p->payload_format = (uint8_t)v.number;
		break;
	case MQTT_MESSAGE_EXPIRY:
		p->message_expiry = v.number;
		break;
	case MQTT_CONTENT_TYPE:
		p->content_type = v.bytes;
		break;
	case MQTT_RESPONSE_TOPIC:
		p->response_topic = v.bytes;
		break;
	case MQTT_CORRELATION_DATA:
		p->correlation = v.bytes;
		break;
	case MQTT_SUBSCRIPTION_ID:
		p->subscription_id = v.number;
		break;
	case MQTT_SESSION_EXPIRY:
		p->session_expiry = v.number;
		break;
	case MQTT_AUTHENTICATION_METHOD:
		p->authentication = v.bytes;
		break;
	case MQTT_REQUEST_PROBLEM:
		p->request_problem = (uint8_t)v.number;
		break;
	case MQTT_RECEIVE_MAXIMUM:
		p->receive_maximum = (uint16_t)v.number;
		break;
	case MQTT_TOPIC_ALIAS:
		p->topic_alias = (uint16_t)v.number;
		break;
	case MQTT_MAXIMUM_PACKET:
		p->maximum_packet = v.number;
		break;
	default:
		break;
	}
}

static void take_property(struct reader *r, unsigned packet, struct mqtt_properties *p)
{
	/* Each identifier is less than 128, so that its shortest form is one byte. */
	uint32_t id = take_number(r, 1);
	struct value v;

	if (r->wrong != MQTT_SUCCESS)
		return;
	if (id >= PROPERTIES || !(properties[id].packets & BIT(packet))) {
		fail(r, MQTT_MALFORMED);
		return;
	}
	v = take_value(r, properties[id].kind);
	if (r->wrong != MQTT_SUCCESS)
		return;
	if ((mqtt_has(p, id) && id != MQTT_USER_PROPERTY) ||
	    (properties[id].flag && v.number > 1) || (properties[id].not_zero && v.number == 0)) {
		fail(r, MQTT_PROTOCOL_ERROR);
		return;
	}
	set_property(p, id, v);
}

static const struct mqtt_properties no_properties = { .request_problem = 1 };

/* The properties of a packet, or of a will. */
static void take_properties(struct reader *r, unsigned packet, struct mqtt_properties *p)
{
	struct span all = take_bytes(r, take_variable(r));
	struct reader in = { all, r->wrong };

	*p = no_properties;
	p->all = all;
	while (in.left.len > 0)
		take_property(&in, packet, p);
	if (in.wrong != MQTT_SUCCESS)
		fail(r, in.wrong);
}

static bool has_wildcard(struct span s)
{
	return s.len > 0 &&
	       (memchr(s.data, '+', s.len) != NULL || memchr(s.data, '#', s.len) != NULL);
}

/* Of a message: [MQTT-3.3.2-14]. */
static void check_response_topic(struct reader *r, const struct mqtt_properties *p)
{
	if (has_wildcard(p->response_topic))
		fail(r, MQTT_PROTOCOL_ERROR);
}

/* ---- the fixed header ---- */

/* 2.1.3: what stands in the flags of those that have none to say. */
static bool flags_fit(unsigned type, unsigned flags)
{
	unsigned qos = flags >> 1 & 3;

	if (type == MQTT_PUBLISH) /* [MQTT-3.3.1-2], [MQTT-3.3.1-4] */
		return qos < 3 && (qos > 0 || !(flags & 8));
	if (type == MQTT_PUBREL || type == MQTT_SUBSCRIBE || type == MQTT_UNSUBSCRIBE)
		return flags == 2;
	return flags == 0;
}

int mqtt_head(unsigned level, struct span in, struct mqtt_head *head)
{
	unsigned first;
	int bytes;

	if (in.len == 0)
		return 0;
	first = (unsigned char)in.data[0];
	*head = (struct mqtt_head){ .type = (uint8_t)(first >> 4), .flags = first & 15 };
	if (head->type == 0 || (head->type == MQTT_AUTH && level == MQTT_3_1_1))
		return -MQTT_MALFORMED;
	if (!flags_fit(head->type, head->flags))
		return -MQTT_MALFORMED;
	bytes = variable(span_skip(in, 1), &head->remaining);
	if (bytes < 0)
		return -MQTT_MALFORMED;
	if (bytes == 0)
		return 0;
	head->bytes = (uint8_t)(1 + bytes);
	head->longer = longer(head->remaining, bytes);
	if (head->longer && level == MQTT_5)
		return -MQTT_MALFORMED;
	return 1;
}

unsigned mqtt_empty(const struct mqtt_head *head)
{
	return head->remaining == 0 ? MQTT_SUCCESS : MQTT_MALFORMED;
}

/* What is read must be all that there is. */
static unsigned ended(struct reader *r)
{
	if (r->left.len > 0)
		fail(r, MQTT_MALFORMED);
	return r->wrong;
}

/* ---- CONNECT ---- */

enum {
	CONNECT_CLEAN = 1 << 1,
	CONNECT_WILL = 1 << 2,
	CONNECT_WILL_QOS = 3 << 3,
	CONNECT_WILL_RETAIN = 1 << 5,
	CONNECT_PASSWORD = 1 << 6,
	CONNECT_USER = 1 << 7,
};

/* The name and the level: 3.1.2.1, 3.1.2.2. */
static unsigned take_level(struct reader *r, struct mqtt_connect *c)
{
	struct span name = take_string(r);
	unsigned level = take_number(r, 1);

	if (r->wrong != MQTT_SUCCESS)
		return r->wrong;
	if (!span_equal(name, SPAN("MQTT")) && !span_equal(name, SPAN("MQIsdp")))
		return MQTT_UNSUPPORTED_VERSION;
	c->level = (uint8_t)level;
	if (name.len == 4 && (level == MQTT_3_1_1 || level == MQTT_5))
		return MQTT_SUCCESS;
	/* The level 0 has no words of its own either. */
	if (c->level == 0)
		c->level = 3;
	return MQTT_UNSUPPORTED_VERSION;
}

static bool connect_flags_fit(unsigned level, unsigned flags)
{
	if (flags & 1) /* [MQTT-3.1.2-3] */
		return false;
	if (!(flags & CONNECT_WILL) && flags & (CONNECT_WILL_QOS | CONNECT_WILL_RETAIN))
		return false;                               /* [MQTT-3.1.2-11], [MQTT-3.1.2-13] */
	if ((flags & CONNECT_WILL_QOS) == CONNECT_WILL_QOS) /* [MQTT-3.1.2-12] */
		return false;
	/* [MQTT-3.1.2-22] of 3.1.1 */
	return level == MQTT_5 || flags & CONNECT_USER || !(flags & CONNECT_PASSWORD);
}

static void take_will(struct reader *r, unsigned flags, struct mqtt_connect *c)
{
	c->has_will = true;
	c->will.qos = flags >> 3 & 3;
	c->will.retain = flags & CONNECT_WILL_RETAIN;
	if (c->level == MQTT_5) {
		take_properties(r, WILL, &c->will.properties);
		check_response_topic(r, &c->will.properties);
	}
	c->will.topic = take_binary(r);
	c->will.payload = take_binary(r);
}

unsigned mqtt_connect(const struct mqtt_head *head, struct span body, struct mqtt_connect *c)
{
	struct reader r = { body, MQTT_SUCCESS };
	unsigned flags, reason;

	*c = (struct mqtt_connect){ .properties = no_properties, .will.properties = no_properties };
	reason = take_level(&r, c);
	if (reason != MQTT_SUCCESS)
		return reason;
	flags = take_number(&r, 1);
	if (!connect_flags_fit(c->level, flags) || (head->longer && c->level == MQTT_5))
		fail(&r, MQTT_MALFORMED);
	c->clean = flags & CONNECT_CLEAN;
	c->keep_alive = (uint16_t)take_number(&r, 2);
	if (c->level == MQTT_5) {
		take_properties(&r, MQTT_CONNECT, &c->properties);
		/* 3.1.2.11.10 */
		if (mqtt_has(&c->properties, MQTT_AUTHENTICATION_DATA) &&
		    !mqtt_has(&c->properties, MQTT_AUTHENTICATION_METHOD))
			fail(&r, MQTT_PROTOCOL_ERROR);
	}
	c->client_id = take_string(&r);
	if (flags & CONNECT_WILL)
		take_will(&r, flags, c);
	c->has_user = flags & CONNECT_USER;
	if (c->has_user)
		c->user = take_string(&r);
	c->has_password = flags & CONNECT_PASSWORD;
	if (c->has_password)
		c->password = take_binary(&r);
	return ended(&r);
}

/* ---- PUBLISH ---- */

/* Bytes of the variable header, of which body is the beginning: 0: that is not to be seen yet; -1:
 * more than the packet has. */
static int64_t publish_head_bytes(unsigned level, const struct mqtt_head *head, struct span body)
{
	bool whole = body.len >= head->remaining;
	uint64_t bytes = 2;
	uint32_t len;
	int n;

	if (body.len >= 2)
		bytes += (uint64_t)(unsigned char)body.data[0] << 8 | (unsigned char)body.data[1];
	if (head->flags & 6)
		bytes += 2;
	if (bytes > head->remaining)
		return -1;
	if (body.len < bytes)
		return 0;
	if (level != MQTT_5)
		return (int64_t)bytes;
	n = variable(span_skip(body, bytes), &len);
	if (n <= 0)
		return n < 0 || whole ? -1 : 0;
	bytes += (uint64_t)n + len;
	if (bytes > head->remaining)
		return -1;
	return body.len < bytes ? 0 : (int64_t)bytes;
}

int64_t mqtt_publish_head(unsigned level, const struct mqtt_head *head, struct span body,
			  struct mqtt_publish *p)
{
	int64_t bytes = publish_head_bytes(level, head,
					   (struct span){ body.data, body.len < head->remaining
									     ? body.len
									     : head->remaining });
	struct reader r = { { body.data, (size_t)bytes }, MQTT_SUCCESS };

	if (bytes <= 0)
		return bytes < 0 ? -MQTT_MALFORMED : 0;
	*p = (struct mqtt_publish){ .qos = head->flags >> 1 & 3,
				    .dup = head->flags & 8,
				    .retain = head->flags & 1,
				    .properties = no_properties };
	p->topic = take_binary(&r);
	if (p->qos > 0)
		p->id = (uint16_t)take_number(&r, 2);
	/* [MQTT-2.2.1-3] */
	if (p->qos > 0 && p->id == 0)
		return -MQTT_PROTOCOL_ERROR;
	if (level == MQTT_5) {
		take_properties(&r, MQTT_PUBLISH, &p->properties);
		check_response_topic(&r, &p->properties);
	}
	if (r.wrong != MQTT_SUCCESS)
		return -(int64_t)r.wrong;
	/* [MQTT-3.3.4-6], [MQTT-3.3.2-8] with a Topic Alias Maximum of 0 */
	if (mqtt_has(&p->properties, MQTT_SUBSCRIPTION_ID))
		return -MQTT_PROTOCOL_ERROR;
	if (mqtt_has(&p->properties, MQTT_TOPIC_ALIAS))
		return -MQTT_BAD_ALIAS;
	return bytes;
}

/* ---- the others ---- */

/* The reason codes that a client may send. */
static bool reason_fits(unsigned type, unsigned reason)
{
	static const uint8_t publish[] = { 0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99 };
	static const uint8_t release[] = { 0x00, 0x92 };
	static const uint8_t disconnect[] = { 0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90,
					      0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99 };

	if (type == MQTT_DISCONNECT)
		return memchr(disconnect, (int)reason, sizeof(disconnect)) != NULL;
	if (type == MQTT_PUBREL || type == MQTT_PUBCOMP)
		return memchr(release, (int)reason, sizeof(release)) != NULL;
	return memchr(publish, (int)reason, sizeof(publish)) != NULL;
}

unsigned mqtt_answer(unsigned level, const struct mqtt_head *head, struct span body,
		     struct mqtt_answer *a)
{
	struct reader r = { body, MQTT_SUCCESS };

	*a = (struct mqtt_answer){ .properties = no_properties };
	if (head->type != MQTT_DISCONNECT) {
		a->id = (uint16_t)take_number(&r, 2);
		if (r.wrong == MQTT_SUCCESS && a->id == 0)
			fail(&r, MQTT_PROTOCOL_ERROR);
	}
	if (level == MQTT_5 && r.left.len > 0) {
		a->reason = (uint8_t)take_number(&r, 1);
		if (!reason_fits(head->type, a->reason))
			fail(&r, MQTT_PROTOCOL_ERROR);
	}
	if (level == MQTT_5 && r.left.len > 0)
		take_properties(&r, head->type, &a->properties);
	return ended(&r);
}

/* 3.8.3.1 */
static unsigned options_wrong(unsigned level, unsigned options, struct span filter)
{
	unsigned most = level == MQTT_5 ? 0x3f : 3;

	if (options > most) /* [MQTT-3.8.3-5] */
		return MQTT_MALFORMED;
	if ((options & 3) == 3 || (options >> 4 & 3) == 3)
		return MQTT_PROTOCOL_ERROR;
	/* [MQTT-3.8.3-4] */
	if (options & 4 && filter.len >= 7 && memcmp(filter.data, "$share/", 7) == 0)
		return MQTT_PROTOCOL_ERROR;
	return MQTT_SUCCESS;
}

unsigned mqtt_subscribe(unsigned level, const struct mqtt_head *head, struct span body,
			struct mqtt_subscribe *s)
{
	bool options = head->type == MQTT_SUBSCRIBE;
	struct reader r = { body, MQTT_SUCCESS };

	*s = (struct mqtt_subscribe){ .properties = no_properties };
	s->id = (uint16_t)take_number(&r, 2);
	if (r.wrong == MQTT_SUCCESS && s->id == 0)
		fail(&r, MQTT_PROTOCOL_ERROR);
	if (level == MQTT_5)
		take_properties(&r, head->type, &s->properties);
	s->filters = r.left;
	for (; r.left.len > 0; s->filters_n++) {
		struct span filter = take_string(&r);
		unsigned wrong = MQTT_SUCCESS;

		if (options)
			wrong = options_wrong(level, take_number(&r, 1), filter);
		if (wrong != MQTT_SUCCESS)
			fail(&r, wrong);
	}
	/* [MQTT-3.8.3-2], [MQTT-3.10.3-2] */
	if (s->filters_n == 0)
		fail(&r, MQTT_PROTOCOL_ERROR);
	return r.wrong;
}

bool mqtt_next_filter(struct span *filters, bool options, struct mqtt_filter *f)
{
	struct reader r = { *filters, MQTT_SUCCESS };
	unsigned said;

	if (filters->len == 0)
		return false;
	f->filter = take_binary(&r);
	said = options ? take_number(&r, 1) : 0;
	f->qos = said & 3;
	f->no_local = said & 4;
	f->retain_as_published = said & 8;
	f->retain_handling = said >> 4 & 3;
	*filters = r.left;
	return r.wrong == MQTT_SUCCESS;
}

int mqtt_detect(struct span first)
{
	if (first.len == 0)
		return 0;
	return first.data[0] == MQTT_CONNECT << 4 ? 1 : -1;
}
