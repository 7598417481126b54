#include <assert.h>

#include "base/name.h"
#include "fuzz.h"
#include "protocol/mqtt.h"

/*
 * Packets, names and filters of MQTT against a reader that goes through the specification byte by
 * byte and knows nothing of speed. The first byte of an input says what is looked at: a name, a
 * filter, or packets of 3.1.1 or 5.0. A packet is read from memory of just its length; a part of
 * one is never taken for a whole one, nor for another one.
 */

/* ---- the slow reader ---- */

struct slow {
	const unsigned char *p;
	size_t n, at;
	unsigned wrong; /* the first thing that is */
	/* Of a CONNECT; no data: not there. */
	struct span user, password;
};

static void wrong(struct slow *s, unsigned reason)
{
	if (s->wrong == 0)
		s->wrong = reason;
}

static unsigned byte(struct slow *s)
{
	if (s->at >= s->n) {
		wrong(s, MQTT_MALFORMED);
		return 0;
	}
	return s->p[s->at++];
}

static unsigned two(struct slow *s)
{
	unsigned high = byte(s);

	return high * 256 + byte(s);
}

/* The pseudo code of 1.5.5. */
static size_t number(struct slow *s)
{
	size_t multiplier = 1, value = 0;
	unsigned b, n = 0;

	do {
		b = byte(s);
		value += (b % 128) * multiplier;
		multiplier *= 128;
		n++;
	} while (s->wrong == 0 && b >= 128 && n < 4);
	if (b >= 128 || (n > 1 && b == 0))
		wrong(s, MQTT_MALFORMED);
	return value;
}

static struct span bytes(struct slow *s, size_t n)
{
	struct span got = { (const char *)s->p + s->at, 0 };

	for (size_t i = 0; i < n && s->wrong == 0; i++, got.len++)
		(void)byte(s);
	return got;
}

static bool text(struct span t)
{
	for (size_t i = 0; i < t.len; i++)
		if (t.data[i] == 0)
			return false;
	return utf8_valid(t);
}

static struct span string(struct slow *s)
{
	struct span got = bytes(s, two(s));

	if (s->wrong == 0 && !text(got))
		wrong(s, MQTT_MALFORMED);
	return got;
}

/* Identifier, kind, whose it may be (W: a will's). 2.2.2.2. */
static const struct {
	unsigned id;
	char kind;
	const char *packets;
} known[] = {
	{ 1, 'f', "PW" }, { 2, '4', "PW" },       { 3, 's', "PW" },  { 8, 't', "PW" },
	{ 9, 'b', "PW" }, { 11, 'i', "PS" },      { 17, '4', "CD" }, { 21, 's', "C" },
	{ 22, 'b', "C" }, { 23, 'f', "C" },       { 24, '4', "W" },  { 25, 'f', "C" },
	{ 28, 's', "D" }, { 31, 's', "AD" },      { 33, 'm', "C" },  { 34, '2', "C" },
	{ 35, '2', "P" }, { 38, 'p', "PWSUCDA" }, { 39, 'M', "C" },
};

static void property(struct slow *s, char packet, bool *seen)
{
	unsigned id = byte(s), kind = 0, n = 0;
	bool fine = true;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].id == id && strchr(known[i].packets, packet) != NULL)
			kind = (unsigned char)known[i].kind;
	if (s->wrong != 0)
		return;
	switch (kind) {
	case 'f':
		fine = byte(s) < 2;
		break;
	case '2':
		(void)two(s);
		break;
	case 'm':
		fine = two(s) > 0;
		break;
	case '4':
	case 'M':
		for (int i = 0; i < 4; i++)
			n |= byte(s);
		fine = kind == '4' || n > 0;
		break;
	case 'i':
		fine = number(s) > 0;
		break;
	case 'b':
		(void)bytes(s, two(s));
		break;
	case 'p':
		(void)string(s);
		/* fall through */
	case 's':
	case 't':
		(void)string(s);
		break;
	default:
		wrong(s, MQTT_MALFORMED);
	}
	if (s->wrong == 0 && (!fine || (seen[id] && kind != 'p')))
		wrong(s, MQTT_PROTOCOL_ERROR);
	seen[id] = true;
}

/* seen: of 256. */
static void some_properties(struct slow *s, char packet, bool *seen)
{
	size_t n = number(s);
	struct span all = bytes(s, n);
	struct slow in = { (const unsigned char *)all.data, all.len, 0, s->wrong, { 0 }, { 0 } };

	memset(seen, 0, 256);
	while (in.wrong == 0 && in.at < in.n)
		property(&in, packet, seen);
	if (in.wrong != 0)
		wrong(s, in.wrong);
	/* No wildcards in the Response Topic: looked for when all the others are right. */
	for (struct slow t = { (const unsigned char *)all.data, all.len, 0, 0, { 0 }, { 0 } };
	     in.wrong == 0 && seen[8] && t.at < t.n;) {
		if (t.p[t.at] == 8) {
			struct span topic = { (const char *)t.p + t.at + 3,
					      t.p[t.at + 1] * 256u + t.p[t.at + 2] };

			for (size_t i = 0; i < topic.len; i++)
				if (topic.data[i] == '+' || topic.data[i] == '#')
					wrong(s, MQTT_PROTOCOL_ERROR);
		}
		property(&t, packet, (bool[256]){ false });
	}
}

static unsigned slow_connect(struct slow *s)
{
	bool seen[256];
	struct span name = string(s);
	unsigned level = byte(s), flags;

	if (s->wrong != 0)
		return s->wrong;
	if (!(span_equal(name, SPAN("MQTT")) && (level == 4 || level == 5)))
		return MQTT_UNSUPPORTED_VERSION;
	flags = byte(s);
	if (flags % 2 == 1 || (flags / 8 % 4 == 3) || (!(flags & 4) && (flags & 0x38)) ||
	    (level == 4 && flags / 64 == 1))
		wrong(s, MQTT_MALFORMED);
	(void)two(s);
	if (level == 5) {
		some_properties(s, 'C', seen);
		if (s->wrong == 0 && seen[22] && !seen[21])
			wrong(s, MQTT_PROTOCOL_ERROR);
	}
	(void)string(s);
	if (flags & 4) {
		if (level == 5)
			some_properties(s, 'W', seen);
		(void)bytes(s, two(s));
		(void)bytes(s, two(s));
	}
	if (flags & 128)
		s->user = string(s);
	if (flags & 64)
		s->password = bytes(s, two(s));
	if (s->at < s->n)
		wrong(s, MQTT_MALFORMED);
	return s->wrong;
}

static unsigned slow_publish(struct slow *s, unsigned level, unsigned flags)
{
	bool seen[256] = { false };

	(void)bytes(s, two(s));
	if (flags & 6 && two(s) == 0)
		wrong(s, MQTT_PROTOCOL_ERROR);
	if (level == 5)
		some_properties(s, 'P', seen);
	if (s->wrong == 0 && seen[11])
		wrong(s, MQTT_PROTOCOL_ERROR);
	if (s->wrong == 0 && seen[35])
		wrong(s, MQTT_BAD_ALIAS);
	return s->wrong;
}

static unsigned slow_filters(struct slow *s, unsigned level, bool options)
{
	bool seen[256];
	unsigned n = 0;

	if (two(s) == 0)
		wrong(s, MQTT_PROTOCOL_ERROR);
	if (level == 5)
		some_properties(s, options ? 'S' : 'U', seen);
	for (; s->wrong == 0 && s->at < s->n; n++) {
		struct span filter = string(s);
		unsigned said = options ? byte(s) : 0;

		if (said & (level == 5 ? 0xc0 : 0xfc))
			wrong(s, MQTT_MALFORMED);
		if (said % 4 == 3 || said / 16 == 3 ||
		    (said & 4 && filter.len > 6 && memcmp(filter.data, "$share/", 7) == 0))
			wrong(s, MQTT_PROTOCOL_ERROR);
	}
	if (n == 0)
		wrong(s, MQTT_PROTOCOL_ERROR);
	return s->wrong;
}

static unsigned slow_answer(struct slow *s, unsigned level, unsigned type)
{
	const char *fine = type == MQTT_DISCONNECT ? "\x04\x80\x81\x82\x83\x90\x93\x94\x95\x96\x97"
						     "\x98\x99"
			   : type >= MQTT_PUBREL   ? "\x92"
						   : "\x10\x80\x83\x87\x90\x91\x97\x99";
	bool seen[256];

	if (type != MQTT_DISCONNECT && two(s) == 0)
		wrong(s, MQTT_PROTOCOL_ERROR);
	if (level == 5 && s->wrong == 0 && s->at < s->n) {
		unsigned reason = byte(s);

		if (reason != 0 && strchr(fine, (int)reason) == NULL)
			wrong(s, MQTT_PROTOCOL_ERROR);
		if (s->wrong == 0 && s->at < s->n)
			some_properties(s, type == MQTT_DISCONNECT ? 'D' : 'A', seen);
	}
	if (s->at < s->n)
		wrong(s, MQTT_MALFORMED);
	return s->wrong;
}

static unsigned slow_packet(unsigned level, unsigned type, unsigned flags, struct span body)
{
	struct slow s = { (const unsigned char *)body.data, body.len, 0, 0, { 0 }, { 0 } };

	switch (type) {
	case MQTT_CONNECT:
		return slow_connect(&s);
	case MQTT_PUBLISH:
		return slow_publish(&s, level, flags);
	case MQTT_SUBSCRIBE:
	case MQTT_UNSUBSCRIBE:
		return slow_filters(&s, level, type == MQTT_SUBSCRIBE);
	case MQTT_PUBACK:
	case MQTT_PUBREC:
	case MQTT_PUBREL:
	case MQTT_PUBCOMP:
	case MQTT_DISCONNECT:
		return slow_answer(&s, level, type);
	default:
		return body.len == 0 ? 0 : MQTT_MALFORMED;
	}
}

static bool same_place(bool has, struct span one, struct span other)
{
	return has == (other.data != NULL) &&
	       (!has || (one.data == other.data && one.len == other.len));
}

/* Who a CONNECT that is right says it comes from, byte for byte where it stands. */
static void check_credentials(const struct mqtt_connect *c, struct span body)
{
	struct slow s = { (const unsigned char *)body.data, body.len, 0, 0, { 0 }, { 0 } };

	check(slow_connect(&s) == 0, "a CONNECT is read in two ways");
	check(same_place(c->has_user, c->user, s.user), "another user name");
	check(same_place(c->has_password, c->password, s.password), "another password");
}

/* Whether two readers agree on what is wrong. The identifier 0 and lengths that do not fit may be
 * found in any order. */
static bool agree(unsigned reason, unsigned slow)
{
	return reason == slow || (reason == MQTT_MALFORMED && slow == MQTT_PROTOCOL_ERROR);
}

/* ---- the broker's ---- */

static unsigned fast_packet(unsigned level, const struct mqtt_head *head, struct span body)
{
	struct mqtt_connect connect;
	struct mqtt_answer answer;
	struct mqtt_subscribe subscribe;
	struct mqtt_publish publish;
	struct mqtt_filter filter;
	uint32_t n = 0;
	int64_t got;
	unsigned reason;

	switch (head->type) {
	case MQTT_CONNECT:
		reason = mqtt_connect(head, body, &connect);
		if (reason == MQTT_SUCCESS && !head->longer)
			check_credentials(&connect, body);
		return reason;
	case MQTT_PUBLISH:
		got = mqtt_publish_head(level, head, body, &publish);
		check(got != 0 && got <= (int64_t)body.len, "a whole PUBLISH wants more");
		if (got > 0 && level == MQTT_5) {
			char *kept = malloc(publish.properties.all.len + MQTT_KEPT_MORE);

			(void)mqtt_keep_properties(&publish.properties, false, 1, kept);
			free(kept);
		}
		return got > 0 ? MQTT_SUCCESS : (unsigned)-got;
	case MQTT_SUBSCRIBE:
	case MQTT_UNSUBSCRIBE:
		reason = mqtt_subscribe(level, head, body, &subscribe);
		while (reason == 0 &&
		       mqtt_next_filter(&subscribe.filters, head->type == MQTT_SUBSCRIBE, &filter))
			n++;
		check(reason != 0 || (n == subscribe.filters_n && n > 0), "filters are lost");
		return reason;
	case MQTT_PUBACK:
	case MQTT_PUBREC:
	case MQTT_PUBREL:
	case MQTT_PUBCOMP:
	case MQTT_DISCONNECT:
		return mqtt_answer(level, head, body, &answer);
	default:
		return mqtt_empty(head);
	}
}

/* The beginning of a PUBLISH says nothing else than all of it. */
static void check_parts(unsigned level, const struct mqtt_head *head, struct span body,
			unsigned reason)
{
	for (size_t n = 0; n < body.len && n < 200; n++) {
		char *own = exact_copy(body.data, n);
		struct mqtt_publish p;
		int64_t got = mqtt_publish_head(level, head, (struct span){ own, n }, &p);

		check(got == 0 || (got > 0 ? reason == 0 : (unsigned)-got == reason),
		      "more bytes change what a PUBLISH is");
		free(own);
	}
}

static void check_packets(unsigned level, struct span in)
{
	while (in.len > 0) {
		char *own = exact_copy(in.data, in.len < 5 ? in.len : 5), *body;
		struct mqtt_head head;
		int got = mqtt_head(level, (struct span){ own, in.len < 5 ? in.len : 5 }, &head);
		unsigned reason;

		free(own);
		if (got <= 0)
			return;
		in = span_skip(in, head.bytes);
		if (head.remaining > in.len)
			return;
		body = exact_copy(in.data, head.remaining);
		reason = fast_packet(level, &head, (struct span){ body, head.remaining });
		if (!(head.longer && head.type == MQTT_CONNECT))
			check(agree(reason, slow_packet(level, head.type, head.flags,
							(struct span){ body, head.remaining })),
			      "a packet is read in two ways");
		if (head.type == MQTT_PUBLISH)
			check_parts(level, &head, (struct span){ body, head.remaining }, reason);
		free(body);
		if (reason != 0)
			return;
		in = span_skip(in, head.remaining);
	}
}

/* ---- names ---- */

/* As the contract says it, level by level, into text of any length. */
static enum mqtt_name slow_name(struct span in, bool filter, struct text *out)
{
	struct text level = { 0 };
	bool star = false, bad = false, rest = false;

	if (in.len == 0)
		return MQTT_NAME_INVALID;
	if (!text(in))
		return MQTT_NAME_MALFORMED;
	for (size_t i = 0; i <= in.len; i++) {
		if (i < in.len && in.data[i] != '/') {
			text_add(&level, in.data + i, 1);
			continue;
		}
		bad |= rest;
		if (level.len == 0)
			text_add(out, "/", 1);
		for (size_t j = 0; j < level.len; j++) {
			char c = level.data[j];

			if (c == '+' || c == '#') {
				bad |= !filter || level.len > 1;
				rest |= c == '#';
				text_add(out, c == '+' ? "*" : ">", 1);
			} else if (c == '.') {
				text_add(out, "//", 2);
			} else {
				star |= c == '*' || c == '>';
				text_add(out, &c, 1);
			}
		}
		if (i < in.len)
			text_add(out, ".", 1);
		level.len = 0;
	}
	free(level.data);
	if (bad)
		return MQTT_NAME_INVALID;
	if (star || out->len > NAME_BYTES_MAX)
		return MQTT_NAME_NO_TOPIC;
	if (filter ? !name_pattern_valid((struct span){ out->data, out->len })
		   : !name_valid((struct span){ out->data, out->len }))
		return MQTT_NAME_NO_TOPIC;
	return MQTT_NAME_TOPIC;
}

static void check_name(struct span in, bool filter)
{
	char *own = exact_copy(in.data, in.len), *room = malloc(MQTT_NATIVE_MAX), *back;
	struct span name = { own, in.len }, got = { NULL, 0 }, again;
	struct text slow = { 0 };
	bool pattern;
	enum mqtt_name wanted = slow_name(name, filter, &slow);
	enum mqtt_name found =
		filter ? mqtt_filter(name, room, &got, &pattern) : mqtt_topic(name, room, &got);

	check(found == wanted, "a name is taken in two ways");
	if (found == MQTT_NAME_TOPIC) {
		check(span_equal(got, (struct span){ slow.data, slow.len }),
		      "a name has two topics");
		if (!filter) {
			back = malloc(got.len);
			check(mqtt_topic_name(got, back, &again) && span_equal(again, name),
			      "a name does not come back");
			free(back);
		}
	}
	free(slow.data);
	free(room);
	free(own);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct span in = { (const char *)data + 1, size - 1 };

	if (size == 0)
		return 0;
	switch (data[0] % 4) {
	case 0:
		check_name(in, false);
		break;
	case 1:
		check_name(in, true);
		break;
	default:
		check_packets(data[0] % 4 == 2 ? MQTT_3_1_1 : MQTT_5, in);
	}
	return 0;
}
