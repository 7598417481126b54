#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/name.h"
#include "protocol/mqtt.h"
#include "protocol/nats.h"

enum {
	EXPIRY_KEPT = 1 + 8, /* its identifier, and when it is over */
	EXPIRY_SENT = 1 + 4,
};

static char *put(char *out, const void *bytes, size_t n)
{
	if (n > 0)
		memcpy(out, bytes, n);
	return out + n;
}

static char *put_span(char *out, struct span s)
{
	return put(out, s.data, s.len);
}

static char *put_byte(char *out, unsigned byte)
{
	*out = (char)byte;
	return out + 1;
}

static char *put_two(char *out, unsigned n)
{
	return put_byte(put_byte(out, n >> 8), n & 0xff);
}

static char *put_four(char *out, uint32_t n)
{
	return put_two(put_two(out, n >> 16), n & 0xffff);
}

static char *put_string(char *out, struct span s)
{
	return put_span(put_two(out, (unsigned)s.len), s);
}

/* 1.5.5 */
static char *put_variable(char *out, uint32_t n)
{
	for (; n > 0x7f; n >>= 7)
		out = put_byte(out, (n & 0x7f) | 0x80);
	return put_byte(out, n);
}

static size_t variable_bytes(size_t n)
{
	return n < 1 << 7 ? 1 : n < 1 << 14 ? 2 : n < 1 << 21 ? 3 : 4;
}

/* ---- properties of messages ---- */

/* Bytes of the property at the start, which has been checked. */
static size_t property_bytes(struct span p)
{
	const unsigned char *b = (const unsigned char *)p.data;
	size_t n;

	switch (b[0]) {
	case MQTT_PAYLOAD_FORMAT:
		return 2;
	case MQTT_MESSAGE_EXPIRY:
	case MQTT_WILL_DELAY:
		return 5;
	case MQTT_USER_PROPERTY:
		n = 3 + ((size_t)b[1] << 8 | b[2]);
		return n + 2 + ((size_t)b[n] << 8 | b[n + 1]);
	default:
		return 3 + ((size_t)b[1] << 8 | b[2]);
	}
}

/* Whether a property of a message stays what it is, whoever gets it. */
static bool kept(unsigned id, bool reply)
{
	return id == MQTT_PAYLOAD_FORMAT || id == MQTT_CORRELATION_DATA ||
	       id == MQTT_USER_PROPERTY || (id == MQTT_RESPONSE_TOPIC && !reply);
}

size_t mqtt_keep_properties(const struct mqtt_properties *p, bool reply, uint64_t now_ns, char *out)
{
	struct span left = p->all;
	char *at = out;

	if (mqtt_has(p, MQTT_MESSAGE_EXPIRY)) {
		uint64_t over_ns = now_ns + p->message_expiry * NS_PER_S;

		at = put(put_byte(at, MQTT_MESSAGE_EXPIRY), &over_ns, sizeof(over_ns));
	}
	while (left.len > 0) {
		size_t n = property_bytes(left);

		if (kept((unsigned char)left.data[0], reply))
			at = put(at, left.data, n);
		left = span_skip(left, n);
	}
	return (size_t)(at - out);
}

/* When a message is over; UINT64_MAX: never. */
static uint64_t over_ns(struct span kept_properties)
{
	uint64_t ns;

	if (kept_properties.len < EXPIRY_KEPT || kept_properties.data[0] != MQTT_MESSAGE_EXPIRY)
		return UINT64_MAX;
	memcpy(&ns, kept_properties.data + 1, sizeof(ns));
	return ns;
}

bool mqtt_expired(struct span kept_properties, uint64_t now_ns)
{
	return over_ns(kept_properties) <= now_ns;
}

/* ---- parameters ---- */

enum { WIRE_RETAIN = 1, WIRE_MAXIMUM = 2, WIRE_NOT_LOCAL = 4 };

size_t mqtt_parameter(const struct mqtt_wire *w, char *out)
{
	unsigned flags = (w->retain_as_published ? WIRE_RETAIN : 0) |
			 (w->maximum_packet > 0 ? WIRE_MAXIMUM : 0) |
			 (w->not_local.generation > 0 ? WIRE_NOT_LOCAL : 0);
	char *at = put_byte(out, flags);

	if (flags == 0)
		return 0;
	if (flags & WIRE_MAXIMUM)
		at = put(at, &w->maximum_packet, sizeof(w->maximum_packet));
	if (flags & WIRE_NOT_LOCAL)
		at = put(at, &w->not_local, sizeof(w->not_local));
	return (size_t)(at - out);
}

static struct mqtt_wire wire_of(const struct wire *wire)
{
	struct mqtt_wire w = { .maximum_packet = 0 };
	const char *at = wire->parameter.data;
	unsigned flags;

	if (wire->parameter.len == 0)
		return w;
	flags = (unsigned char)*at++;
	w.retain_as_published = flags & WIRE_RETAIN;
	if (flags & WIRE_MAXIMUM) {
		memcpy(&w.maximum_packet, at, sizeof(w.maximum_packet));
		at += sizeof(w.maximum_packet);
	}
	if (flags & WIRE_NOT_LOCAL)
		memcpy(&w.not_local, at, sizeof(w.not_local));
	return w;
}

/* ---- PUBLISH ---- */

/* What the messages of a run have in common. */
struct frame {
	bool five, keep_retain;
	size_t packet_max;
	struct span topic; /* its name in MQTT; empty: it has none */
	uint64_t now_ns;   /* 0: nobody has looked */
	char room[NAME_BYTES_MAX];
};

/* The frame lies where its name's room is: not to be copied. */
static void frame_init(struct frame *f, const struct wire *wire, const struct run *run)
{
	struct mqtt_wire w = wire_of(wire);

	f->five = wire->format == &mqtt5_format;
	f->keep_retain = w.retain_as_published;
	f->packet_max = MQTT_HEAD_BYTES_MAX + (size_t)MQTT_REMAINING_MAX;
	if (w.maximum_packet > 0 && w.maximum_packet < f->packet_max)
		f->packet_max = w.maximum_packet;
	f->now_ns = 0;
	if (run->topic.len > sizeof(f->room) || !mqtt_topic_name(run->topic, f->room, &f->topic))
		f->topic = (struct span){ NULL, 0 };
	/* [MQTT-3.8.3-3] */
	if (w.not_local.generation > 0 && w.not_local.generation == run->publisher.generation &&
	    w.not_local.slot == run->publisher.slot && w.not_local.shard == run->publisher.shard)
		f->topic = (struct span){ NULL, 0 };
}

/* One message's properties in 5.0. */
struct extras {
	struct span type, reply, kept; /* reply: as MQTT has it */
	bool expires;
	uint32_t expiry;
	size_t len; /* of all, without their own length */
	char room[NAME_BYTES_MAX];
};

static bool is_text(struct span s)
{
	return s.len > 0 && s.len <= UINT16_MAX && memchr(s.data, 0, s.len) == NULL &&
	       utf8_valid(s);
}

static void extras_of(struct frame *f, const struct record *r, struct extras *e)
{
	e->expires = false;
	e->type = e->reply = e->kept = (struct span){ NULL, 0 };
	e->len = 0;
	if (!f->five)
		return;
	/* What NATS says it in is a header. */
	e->type = r->type.len > 0 ? r->type : nats_header(r->headers, SPAN("Content-Type"));
	if (!is_text(e->type))
		e->type = (struct span){ NULL, 0 };
	if (r->reply.len > 0 && r->reply.len <= sizeof(e->room) &&
	    !mqtt_topic_name(r->reply, e->room, &e->reply))
		e->reply = (struct span){ NULL, 0 };
	e->kept = r->properties;
	if (e->kept.len > 0 && over_ns(e->kept) != UINT64_MAX) {
		uint64_t over = over_ns(e->kept);

		if (f->now_ns == 0)
			f->now_ns = clock_now_ns();
		e->kept = span_skip(e->kept, EXPIRY_KEPT);
		e->expires = true;
		/* Begun seconds count: what is not over yet is not shown as over. */
		if (over > f->now_ns)
			e->expiry = (uint32_t)((over - f->now_ns + NS_PER_S - 1) / NS_PER_S);
		else
			e->expiry = 0;
	}
	e->len = (e->type.len > 0 ? 3 + e->type.len : 0) +
		 (e->reply.len > 0 ? 3 + e->reply.len : 0) + (e->expires ? EXPIRY_SENT : 0) +
		 e->kept.len;
}

static size_t remaining(const struct frame *f, const struct record *r, const struct extras *e)
{
	return 2 + f->topic.len + (f->five ? variable_bytes(e->len) + e->len : 0) + r->payload.len;
}

/* Whether a message has a form. Not more of the clock than of anything else decides it. */
static bool fits(struct frame *f, const struct record *r, struct extras *e)
{
	size_t n;

	extras_of(f, r, e);
	n = remaining(f, r, e);
	return n <= MQTT_REMAINING_MAX && 1 + variable_bytes(n) + n <= f->packet_max;
}

/* All that stands before the payload. */
static char *put_head(char *out, const struct frame *f, const struct record *r,
		      const struct extras *e, bool retain)
{
	out = put_byte(out, MQTT_PUBLISH << 4 | retain);
	out = put_variable(out, (uint32_t)remaining(f, r, e));
	out = put_string(out, f->topic);
	if (!f->five)
		return out;
	out = put_variable(out, (uint32_t)e->len);
	if (e->expires)
		out = put_four(put_byte(out, MQTT_MESSAGE_EXPIRY), e->expiry);
	if (e->type.len > 0)
		out = put_string(put_byte(out, MQTT_CONTENT_TYPE), e->type);
	if (e->reply.len > 0)
		out = put_string(put_byte(out, MQTT_RESPONSE_TOPIC), e->reply);
	return put_span(out, e->kept);
}

/* Bytes that a message takes beside its payload and what stands with it in its record. */
static size_t around(const struct frame *f, const struct run *run)
{
	return MQTT_HEAD_BYTES_MAX + 2 + f->topic.len + 4 + 3 + run->type.len + 3;
}

static uint32_t encodable(const struct wire *wire, const struct run *run)
{
	struct run rest = *run;
	struct record r;
	struct extras e;
	struct frame f;
	uint32_t n = 0;

	frame_init(&f, wire, run);
	if (f.topic.len == 0)
		return 0;
	/* Usually all of them together would be small enough. */
	if (run->body.len + around(&f, run) <= f.packet_max &&
	    run->body.len + around(&f, run) <= MQTT_REMAINING_MAX)
		return run->messages;
	while (run_next_record(&rest, &r))
		n += fits(&f, &r, &e);
	return n;
}

static size_t encoded_max(const struct wire *wire, const struct run *run)
{
	struct frame f;

	frame_init(&f, wire, run);
	return run->body.len + run->messages * around(&f, run);
}

static size_t encode(const struct wire *wire, const struct run *run, char *out)
{
	struct run rest = *run;
	/* Of the last one with nothing beside it: its head, which is often the next one's. */
	struct span head = { NULL, 0 };
	size_t bytes = 0;
	struct record r;
	struct extras e;
	struct frame f;
	char *at = out;

	frame_init(&f, wire, run);
	while (rest.messages > 0) {
		struct span payload;
		bool plain = run_next_plain(&rest, &payload);
		char *begin = at;

		if (plain && head.len > 0 && payload.len == bytes) {
			at = put_span(at, head);
		} else {
			if (plain)
				r = (struct record){ .payload = payload };
			else
				(void)run_next_record(&rest, &r);
			if (!fits(&f, &r, &e))
				continue;
			at = put_head(at, &f, &r, &e, f.keep_retain && r.retain);
			payload = r.payload;
		}
		if (plain) {
			head = (struct span){ begin, (size_t)(at - begin) };
			bytes = payload.len;
		}
		at = put_span(at, payload);
	}
	return (size_t)(at - out);
}

static struct record only(const struct run *run)
{
	struct run rest = *run;
	struct record r;

	(void)run_next_record(&rest, &r);
	return r;
}

static bool enclosable(const struct wire *wire, const struct run *run)
{
	struct record r = only(run);
	struct extras e;
	struct frame f;

	frame_init(&f, wire, run);
	extras_of(&f, &r, &e);
	return MQTT_HEAD_BYTES_MAX + 2 + f.topic.len + 4 + e.len <= WIRE_AROUND_MAX;
}

static void enclose(const struct wire *wire, const struct run *run, char *prefix,
		    size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	struct record r = only(run);
	struct extras e;
	struct frame f;

	(void)suffix;
	frame_init(&f, wire, run);
	extras_of(&f, &r, &e);
	*prefix_len = (size_t)(put_head(prefix, &f, &r, &e, f.keep_retain && r.retain) - prefix);
	*body = r.payload;
	*suffix_len = 0;
}

/* Bytes of the packet at the start. */
static size_t packet_bytes(struct span encoded)
{
	uint32_t n = 0;
	size_t i = 1;

	for (unsigned shift = 0;; shift += 7) {
		unsigned byte = (unsigned char)encoded.data[i++];

		n |= (byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return i + n;
	}
}

static size_t boundary(struct span encoded, size_t offset)
{
	size_t at = 0;

	while (at < offset)
		at += packet_bytes(span_skip(encoded, at));
	return at;
}

const struct wire_format mqtt_format = { .name = "mqtt",
					 .encodable = encodable,
					 .encoded_max = encoded_max,
					 .encode = encode,
					 .enclose = enclose,
					 .enclosable = enclosable,
					 .boundary = boundary };

const struct wire_format mqtt5_format = { .name = "mqtt5",
					  .encodable = encodable,
					  .encoded_max = encoded_max,
					  .encode = encode,
					  .enclose = enclose,
					  .enclosable = enclosable,
					  .boundary = boundary };

size_t mqtt_retained_max(const struct run *run)
{
	return run->body.len + MQTT_HEAD_BYTES_MAX + 2 + NAME_BYTES_MAX + 4 + 3 + run->type.len + 3;
}

size_t mqtt_retained(unsigned level, uint32_t maximum_packet, const struct run *run, char *out)
{
	struct mqtt_wire w = { .maximum_packet = maximum_packet };
	char parameter[MQTT_PARAMETER_MAX];
	struct wire wire = { level == MQTT_5 ? &mqtt5_format : &mqtt_format,
			     { parameter, mqtt_parameter(&w, parameter) } };
	struct record r = only(run);
	struct extras e;
	struct frame f;

	frame_init(&f, &wire, run);
	if (f.topic.len == 0 || !fits(&f, &r, &e))
		return 0;
	return (size_t)(put_span(put_head(out, &f, &r, &e, true), r.payload) - out);
}

/* ---- answers ---- */

unsigned mqtt_return_code(unsigned reason)
{
	switch (reason) {
	case MQTT_UNSUPPORTED_VERSION:
		return 1;
	case MQTT_BAD_CLIENT_ID:
		return 2;
	case MQTT_UNAVAILABLE:
	case MQTT_QUOTA:
		return 3;
	case MQTT_BAD_CREDENTIALS:
		return 4;
	case MQTT_NOT_AUTHORIZED:
		return 5;
	default:
		return 0;
	}
}

size_t mqtt_put_connack(unsigned level, unsigned reason, const struct mqtt_connack *c, char *out)
{
	char room[MQTT_CONNACK_MAX], *at = room;
	unsigned code = mqtt_return_code(reason);

	if (level < MQTT_5) {
		if (reason != MQTT_SUCCESS && code == 0)
			return 0;
		return (size_t)(put_byte(put(out, "\x20\x02\x00", 3), code) - out);
	}
	if (c->session_ends)
		at = put_four(put_byte(at, MQTT_SESSION_EXPIRY), 0);
	if (c->maximum_packet > 0)
		at = put_four(put_byte(at, MQTT_MAXIMUM_PACKET), c->maximum_packet);
	if (c->assigned_id.len > 0)
		at = put_string(put_byte(at, MQTT_ASSIGNED_CLIENT_ID), c->assigned_id);
	if (c->keep_alive > 0)
		at = put_two(put_byte(at, MQTT_SERVER_KEEP_ALIVE), c->keep_alive);
	if (reason == MQTT_SUCCESS) {
		at = put_byte(put_byte(at, MQTT_SUBSCRIPTION_IDS_AVAILABLE), 0);
		if (c->no_shared)
			at = put_byte(put_byte(at, MQTT_SHARED_AVAILABLE), 0);
	}
	assert(at - room <= 128);
	out[0] = MQTT_CONNACK << 4;
	out[1] = (char)(3 + (at - room));
	out[2] = 0;
	out[3] = (char)reason;
	out[4] = (char)(at - room);
	return (size_t)(put(out + 5, room, (size_t)(at - room)) - out);
}

size_t mqtt_put_answer(unsigned level, enum mqtt_type type, uint16_t id, unsigned reason, char *out)
{
	bool said = level == MQTT_5 && reason != MQTT_SUCCESS;
	char *at = put_byte(out, (unsigned)type << 4 | (type == MQTT_PUBREL ? 2 : 0));

	at = put_two(put_byte(at, said ? 3 : 2), id);
	if (said)
		at = put_byte(at, reason);
	return (size_t)(at - out);
}

size_t mqtt_put_pong(char *out)
{
	return (size_t)(put_byte(put_byte(out, MQTT_PINGRESP << 4), 0) - out);
}

size_t mqtt_put_suback(unsigned level, enum mqtt_type type, uint16_t id, uint32_t filters_n,
		       char *out)
{
	bool codes = level == MQTT_5 || type == MQTT_SUBACK;
	char *at = put_byte(out, (unsigned)type << 4);

	at = put_variable(at, 2 + (level == MQTT_5 ? 1u : 0u) + (codes ? filters_n : 0));
	at = put_two(at, id);
	if (level == MQTT_5)
		at = put_byte(at, 0);
	return (size_t)(at - out);
}

size_t mqtt_put_disconnect(unsigned reason, struct span why, char *out)
{
	char *at = put_byte(out, MQTT_DISCONNECT << 4);

	assert(why.len < 100);
	if (why.len == 0)
		return (size_t)(put_byte(put_byte(at, 1), reason) - out);
	at = put_byte(put_byte(at, (unsigned)(5 + why.len)), reason);
	at = put_byte(at, (unsigned)(3 + why.len));
	return (size_t)(put_string(put_byte(at, MQTT_REASON_STRING), why) - out);
}
