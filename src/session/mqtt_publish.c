#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "session/gather.h"
#include "session/mqtt.h"
#include "topic/block.h"

/*
 * What a client publishes. One of QoS 1 or 2 is acknowledged when the home has sequenced it, in the
 * order in which they came: each block that goes out with such ones asks for a receipt, by which
 * those are known that were in it. What else is answered at once waits behind those for its turn.
 */

enum {
	ACKS_MAX = 4096, /* not answered yet: then nothing more is taken from the client */
	ACKS_MIN = 16,
	ANSWERS_AT_ONCE = 64,
	WHOLE_BYTES = 16 << 10, /* payloads beyond are collected where they belong */
	IDS_BYTES = 8 << 10,    /* a bit for each packet identifier */
	KEPT_BYTES = 1024,      /* properties, for which no memory is asked */
};

struct ack {
	uint64_t block; /* the number of the block that it is in */
	uint16_t id;
	uint8_t type; /* enum mqtt_type: of the answer */
	uint8_t reason;
	bool done;
};

struct mqtt_incoming {
	struct ack *acks; /* from `at` on, in their order */
	uint32_t at, n, room;
	uint64_t block;        /* the number of the next one that goes out */
	uint32_t in_block;     /* how many acks are in that */
	struct ack collecting; /* that is for the payload that is collected; id 0: none */
	unsigned char *ids;    /* of QoS 2, that have not been released; NULL: there were none */
};

static struct mqtt_incoming *incoming_of(struct mqtt_session *m)
{
	if (m->work->incoming == NULL)
		m->work->incoming = memory_new_zeroed(sizeof(*m->work->incoming));
	return m->work->incoming;
}

void mqtt_incoming_free(struct mqtt_session *m)
{
	if (m->work->incoming == NULL)
		return;
	memory_free(m->work->incoming->acks);
	memory_free(m->work->incoming->ids);
	memory_free(m->work->incoming);
	m->work->incoming = NULL;
}

bool mqtt_incoming_idle(const struct mqtt_session *m)
{
	const struct mqtt_incoming *in = m->work->incoming;

	return in == NULL ||
	       (in->n == 0 && in->in_block == 0 && in->collecting.id == 0 && in->ids == NULL);
}

uint64_t mqtt_incoming_held(const struct mqtt_session *m)
{
	const struct mqtt_incoming *in = m->work->incoming;

	return in == NULL ? 0 : in->room * sizeof(*in->acks) + (in->ids != NULL ? IDS_BYTES : 0);
}

/* ---- acknowledgements ---- */

/* Answers those that are done, as far as they come first. */
static void answer(struct mqtt_session *m)
{
	struct connection *c = mqtt_connection(m);
	struct mqtt_incoming *in = m->work->incoming;
	char out[ANSWERS_AT_ONCE * MQTT_ANSWER_MAX];
	size_t n = 0;

	while (in->at < in->n && in->acks[in->at].done) {
		const struct ack *a = &in->acks[in->at++];

		n += a->type == MQTT_PINGRESP ? mqtt_put_pong(out + n)
					      : mqtt_put_answer(m->level, (enum mqtt_type)a->type,
								a->id, a->reason, out + n);
		if (n + MQTT_ANSWER_MAX <= sizeof(out))
			continue;
		if (!mqtt_transport(m)->reply(c, (struct span){ out, n }))
			return;
		n = 0;
	}
	if (in->at == in->n)
		in->at = in->n = 0;
	if (n > 0)
		(void)mqtt_transport(m)->reply(c, (struct span){ out, n });
}

/* Room for one more. False: out of memory. */
static bool make_room(struct mqtt_incoming *in)
{
	uint32_t room = in->room > 0 ? 2 * in->room : ACKS_MIN;
	struct ack *acks;

	if (in->n < in->room)
		return true;
	if (in->at > 0) {
		memmove(in->acks, in->acks + in->at, (in->n - in->at) * sizeof(*in->acks));
		in->n -= in->at;
		in->at = 0;
		return true;
	}
	acks = memory_resize(in->acks, room * sizeof(*acks));
	if (acks == NULL)
		return false;
	in->acks = acks;
	in->room = room;
	return true;
}

/* The room has been made. */
void mqtt_answer_now(struct mqtt_session *m, enum mqtt_type type, uint16_t id, unsigned reason)
{
	struct mqtt_incoming *in = m->work->incoming;

	in->acks[in->n++] = (struct ack){ .block = in->block,
					  .id = id,
					  .type = (uint8_t)type,
					  .reason = (uint8_t)reason,
					  .done = true };
	answer(m);
}

static enum mqtt_type answer_to(unsigned qos)
{
	return qos == 1 ? MQTT_PUBACK : MQTT_PUBREC;
}

/* One of a message that is in the next block that goes out. */
static void answer_later(struct mqtt_session *m, uint16_t id, enum mqtt_type type)
{
	struct mqtt_incoming *in = m->work->incoming;

	in->acks[in->n++] = (struct ack){ .block = in->block, .id = id, .type = (uint8_t)type };
	in->in_block++;
}

void mqtt_publishing(struct connection *c, struct block *b)
{
	struct mqtt_session *m = mqtt_of(c);
	struct mqtt_incoming *in = m->work->incoming;
	struct sequenced_letter *receipt;

	b->retain = m->retaining;
	b->unechoed = m->unechoed;
	if (in == NULL || in->in_block == 0)
		return;
	receipt = calloc(1, sizeof(*receipt));
	if (receipt == NULL) {
		/* It would never be acknowledged. */
		connection_error(c, REASON_MEMORY);
		return;
	}
	b->receipt = &receipt->letter;
	receipt->tag = in->block++;
	in->in_block = 0;
}

void mqtt_session_sequenced(struct connection *c, const struct sequenced_letter *l)
{
	struct mqtt_session *m = mqtt_of(c);
	struct mqtt_incoming *in = m != NULL && m->work != NULL ? m->work->incoming : NULL;
	bool was_full;

	if (in == NULL || c->state > CONNECTION_FINISHING)
		return;
	was_full = in->n - in->at >= ACKS_MAX;
	for (uint32_t i = in->at; i < in->n && in->acks[i].block <= l->tag; i++) {
		if (in->acks[i].block != l->tag || in->acks[i].done)
			continue;
		in->acks[i].done = true;
		in->acks[i].reason = l->error != 0 ? MQTT_QUOTA : MQTT_SUCCESS;
	}
	answer(m);
	if (c->state == CONNECTION_OPEN && was_full)
		intake_resume(m->intake);
	if (!c->socket.sending && c->output != NULL)
		connection_flush(c);
}

/* ---- QoS 2 ---- */

static bool id_known(const struct mqtt_incoming *in, uint16_t id)
{
	return in->ids != NULL && in->ids[id >> 3] >> (id & 7) & 1;
}

/* False: out of memory. */
static bool remember_id(struct mqtt_incoming *in, uint16_t id)
{
	if (in->ids == NULL)
		in->ids = memory_new_zeroed(IDS_BYTES);
	if (in->ids == NULL)
		return false;
	in->ids[id >> 3] |= (unsigned char)(1U << (id & 7));
	return true;
}

static void forget_id(struct mqtt_incoming *in, uint16_t id)
{
	in->ids[id >> 3] &= (unsigned char)~(1U << (id & 7));
}

void mqtt_take_answer(struct mqtt_session *m, const struct mqtt_head *head,
		      const struct mqtt_answer *a)
{
	unsigned reason = MQTT_NO_SUCH_PACKET_ID;

	if (head->type == MQTT_PUBREL) {
		if (id_known(m->work->incoming, a->id)) {
			forget_id(m->work->incoming, a->id);
			reason = MQTT_SUCCESS;
		}
		mqtt_answer_now(m, MQTT_PUBCOMP, a->id, reason);
	} else if (head->type == MQTT_PUBREC && a->reason < MQTT_UNSPECIFIED) {
		/* Nothing is sent with QoS 2, so this is for nothing. */
		mqtt_answer_now(m, MQTT_PUBREL, a->id, reason);
	}
}

/* ---- messages ---- */

/* What a message says as a record, and where that lies. */
struct said {
	struct record record;
	char *kept; /* memory, or NULL */
	char reply_room[MQTT_NATIVE_MAX], kept_room[KEPT_BYTES];
};

/* False: out of memory. The payload is not set. */
static bool say(struct said *s, const struct mqtt_publish *p, uint64_t now_ns)
{
	const struct mqtt_properties *said = &p->properties;
	size_t room = said->all.len + MQTT_KEPT_MORE;

	s->kept = NULL;
	s->record = (struct record){ .retain = p->retain };
	if (said->all.len == 0)
		return true;
	if (said->response_topic.len > 0 &&
	    mqtt_topic(said->response_topic, s->reply_room, &s->record.reply) != MQTT_NAME_TOPIC)
		s->record.reply.len = 0;
	s->record.type = said->content_type;
	if (room > sizeof(s->kept_room)) {
		s->kept = memory_new(room);
		if (s->kept == NULL)
			return false;
	}
	s->record.properties.data = s->kept != NULL ? s->kept : s->kept_room;
	s->record.properties.len = mqtt_keep_properties(said, s->record.reply.len > 0, now_ns,
							s->kept != NULL ? s->kept : s->kept_room);
	return true;
}

static bool has_extras(const struct record *r)
{
	return record_bytes(r) > RECORD_HEAD_BYTES + r->payload.len;
}

/* A block of one message, up to its payload, with room for so many bytes of that. */
static struct block *block_for(struct span topic, const struct record *r, size_t payload)
{
	bool extras = has_extras(r);
	size_t head = extras ? record_bytes(r) - r->payload.len : 0;
	struct block *b = block_new(topic, hash_bytes(topic.data, topic.len), head + payload);

	if (b == NULL)
		return NULL;
	if (extras)
		b->len = (size_t)(record_begin(block_body(b), r) - block_body(b));
	b->form = extras ? RUN_RECORDS : RUN_ONE;
	b->messages = 1;
	return b;
}

/* Why a message may not be published though it is right; MQTT_SUCCESS: it may. A code for a wrong
 * name: it must not even be sent. */
static unsigned refusal(struct mqtt_session *m, const struct mqtt_publish *p, size_t payload,
			char *room, struct span *topic)
{
	struct connection *c = mqtt_connection(m);

	switch (mqtt_topic(p->topic, room, topic)) {
	case MQTT_NAME_MALFORMED:
		return MQTT_MALFORMED;
	case MQTT_NAME_INVALID:
		return MQTT_PROTOCOL_ERROR;
	case MQTT_NAME_NO_TOPIC:
		return MQTT_BAD_TOPIC;
	case MQTT_NAME_TOPIC:
	default:
		break;
	}
	if (topic->data[0] == '$' || !access_may(c, ACCESS_PUBLISH, *topic, false))
		return MQTT_NOT_AUTHORIZED;
	if (payload > c->shard->config->limits.message_bytes)
		return MQTT_QUOTA;
	return MQTT_SUCCESS;
}

struct block *mqtt_will(struct mqtt_session *m, const struct mqtt_publish *will, unsigned *reason)
{
	struct connection *c = mqtt_connection(m);
	char room[MQTT_NATIVE_MAX];
	struct span topic;
	struct said said;
	struct block *b = NULL;

	*reason = refusal(m, will, will->payload.len, room, &topic);
	if (*reason != MQTT_SUCCESS)
		return NULL;
	if (say(&said, will, c->shard->reactor.now_ns)) {
		said.record.payload = will->payload;
		b = block_for(topic, &said.record, will->payload.len);
	}
	memory_free(said.kept);
	if (b == NULL)
		return NULL;
	if (will->payload.len > 0)
		memcpy(block_body(b) + b->len, will->payload.data, will->payload.len);
	b->len += will->payload.len;
	b->retain = will->retain;
	return b;
}

/* A message that is not published, or has been already: what there is to say of it. */
static void pass_over(struct mqtt_session *m, const struct mqtt_publish *p, unsigned reason)
{
	struct connection *c = mqtt_connection(m);

	if (reason != MQTT_SUCCESS) {
		c->shard->counters.messages_refused++;
		if (!m->told)
			log_info("a message of an MQTT client was refused, reason 0x%02x: \"%.*s\"",
				 reason, (int)(p->topic.len < 64 ? p->topic.len : 64),
				 p->topic.data);
		m->told = true;
	}
	if (p->qos == 0)
		return;
	/* 3.1.1 can say nothing but that it has come: it would come again and again. */
	if (m->level != MQTT_5)
		reason = MQTT_SUCCESS;
	if (p->qos == 2 && reason == MQTT_SUCCESS && !remember_id(m->work->incoming, p->id)) {
		connection_error(c, REASON_MEMORY);
		return;
	}
	mqtt_answer_now(m, answer_to(p->qos), p->id, reason);
}

/* The message is all there. False: out of memory, the connection ends. */
static bool publish(struct mqtt_session *m, const struct mqtt_publish *p, struct span topic,
		    struct span payload)
{
	struct connection *c = mqtt_connection(m);
	struct said said;
	int err = -ENOMEM;

	/* One that is retained goes alone. */
	if (p->retain)
		gather_flush(c);
	if (say(&said, p, c->shard->reactor.now_ns)) {
		said.record.payload = payload;
		err = gather_add(c, topic, &said.record);
	}
	memory_free(said.kept);
	if (err != 0 || c->state != CONNECTION_OPEN)
		return err == 0;
	if (p->qos > 0)
		answer_later(m, p->id, answer_to(p->qos));
	if (!p->retain)
		return true;
	m->retaining = true;
	gather_flush(c);
	m->retaining = false;
	return true;
}

/* The payload is long: it is received where it belongs. */
static bool collect(struct mqtt_session *m, const struct mqtt_publish *p, struct span topic,
		    size_t payload)
{
	struct said said;
	struct block *b = NULL;

	if (say(&said, p, mqtt_connection(m)->shard->reactor.now_ns)) {
		said.record.payload = (struct span){ NULL, payload };
		b = block_for(topic, &said.record, WHOLE_BYTES);
	}
	memory_free(said.kept);
	if (b == NULL)
		return false;
	b->retain = p->retain;
	if (p->qos > 0)
		m->work->incoming->collecting =
			(struct ack){ .id = p->id, .type = (uint8_t)answer_to(p->qos) };
	intake_collect(m->intake, b, payload);
	return true;
}

void mqtt_collected(struct connection *c, struct block *b)
{
	struct mqtt_session *m = mqtt_of(c);
	struct mqtt_incoming *in = m->work->incoming;
	bool retain = b->retain;

	gather_flush(c);
	if (c->state != CONNECTION_OPEN) {
		block_unref(b);
		return;
	}
	if (in != NULL && in->collecting.id > 0)
		answer_later(m, in->collecting.id, (enum mqtt_type)in->collecting.type);
	if (in != NULL)
		in->collecting.id = 0;
	m->retaining = retain;
	gather_block(c, b);
	m->retaining = false;
}

bool mqtt_may_answer(struct mqtt_session *m)
{
	struct mqtt_incoming *in = incoming_of(m);

	if (in == NULL || !make_room(in)) {
		connection_error(mqtt_connection(m), REASON_MEMORY);
		return false;
	}
	if (in->n - in->at < ACKS_MAX)
		return true;
	intake_hold(m->intake);
	return false;
}

/* The next PUBLISH, if it begins with the same bytes and says the same topic, and all of it is
 * there; *head: of those before its topic. */
static bool next_alike(const struct mqtt_session *m, struct span rest, char first, struct span same,
		       struct mqtt_head *head)
{
	uint64_t max = mqtt_connection(m)->shard->config->limits.message_bytes;

	return rest.len > 0 && rest.data[0] == first && mqtt_head(m->level, rest, head) > 0 &&
	       rest.len >= head->bytes + (size_t)head->remaining && head->remaining >= same.len &&
	       head->remaining - same.len <= max &&
	       memcmp(rest.data + head->bytes, same.data, same.len) == 0;
}

/*
 * Behind a PUBLISH of QoS 0 with nothing beside its payload: of the next ones for the same topic
 * nothing has to be looked at again but how long they are. done: it; name_at, payload_at: where in
 * it its topic's length and its payload stand. Returns how many bytes of the rest are taken.
 */
static size_t take_alike(struct mqtt_session *m, struct span done, size_t name_at,
			 size_t payload_at, struct span rest)
{
	struct connection *c = mqtt_connection(m);
	struct span same = { done.data + name_at, payload_at - name_at };
	size_t before = rest.len;
	struct mqtt_head head;

	while (before - rest.len < GATHER_ALIKE_BYTES) {
		rest = span_skip(rest, gather_alike(c, done, payload_at, false, rest));
		if (!next_alike(m, rest, done.data[0], same, &head))
			break;
		payload_at = head.bytes + same.len;
		done = (struct span){ rest.data, head.bytes + (size_t)head.remaining };
		if (!gather_more(c, span_skip(done, payload_at)))
			break;
		rest = span_skip(rest, done.len);
	}
	reactor_spend(&c->shard->reactor,
		      (unsigned)((before - rest.len) / GATHER_ALIKE_COST_BYTES));
	return before - rest.len;
}

size_t mqtt_take_publish(struct mqtt_session *m, const struct mqtt_head *head, struct span in)
{
	struct span body = span_skip(in, head->bytes), topic = { NULL, 0 };
	char room[MQTT_NATIVE_MAX];
	struct mqtt_publish p;
	int64_t n = mqtt_publish_head(m->level, head, body, &p);
	size_t payload, begins;
	unsigned reason;
	bool known;

	if (n < 0)
		mqtt_fail(m, (unsigned)-n,
			  -n == MQTT_BAD_ALIAS ? "no topic alias is allowed" : "malformed PUBLISH");
	if (n <= 0)
		return 0;
	begins = head->bytes + (size_t)n;
	payload = head->remaining - (size_t)n;
	reason = refusal(m, &p, payload, room, &topic);
	if (reason == MQTT_MALFORMED || reason == MQTT_PROTOCOL_ERROR) {
		mqtt_fail(m, reason == MQTT_MALFORMED ? reason : MQTT_BAD_TOPIC, "topic name");
		return 0;
	}
	known = p.qos == 2 && id_known(m->work->incoming, p.id);
	if (known || reason != MQTT_SUCCESS) {
		pass_over(m, &p, known ? MQTT_SUCCESS : reason);
		m->work->skip = payload;
		return begins;
	}
	if (payload > WHOLE_BYTES && in.len < begins + payload) {
		if ((p.qos == 2 && !remember_id(m->work->incoming, p.id)) ||
		    !collect(m, &p, topic, payload))
			connection_error(mqtt_connection(m), REASON_MEMORY);
		return begins;
	}
	if (in.len < begins + payload) {
		intake_need(m->intake, begins + payload);
		return 0;
	}
	if ((p.qos == 2 && !remember_id(m->work->incoming, p.id)) ||
	    !publish(m, &p, topic, (struct span){ in.data + begins, payload }))
		connection_error(mqtt_connection(m), REASON_MEMORY);
	if (p.qos == 0 && !p.retain && p.properties.all.len == 0 &&
	    mqtt_connection(m)->state == CONNECTION_OPEN)
		return begins + payload +
		       take_alike(m, (struct span){ in.data, begins + payload }, head->bytes,
				  begins, span_skip(in, begins + payload));
	return begins + payload;
}
