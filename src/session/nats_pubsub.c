#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/access.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "session/gather.h"
#include "session/nats.h"
#include "session/nats_inboxes.h"
#include "session/shared.h"
#include "topic/block.h"
#include "topic/interest.h"

enum {
	COLLECT_BYTES = 4 << 10, /* of a payload that is not all there: the rest is received where
				    it belongs */
	END_BYTES = 2,           /* CRLF behind a payload */
};

enum may { MAY, MAY_NOT, MAY_LATER };

/* ---- subscriptions ---- */

static struct nats_subscription *find(const struct nats_session *nats, struct span sid)
{
	return (struct nats_subscription *)(void *)few_find(&nats->subscriptions,
							    hash_bytes(sid.data, sid.len), sid);
}

static size_t bytes_of(struct span sid)
{
	return offsetof(struct nats_subscription, sid) + sid.len;
}

static struct nats_subscription *new_subscription(struct connection *c, struct span sid)
{
	size_t bytes = bytes_of(sid);
	struct nats_subscription *ns =
		bytes <= NATS_SUBSCRIPTION_BYTES
			? pool_take(&session_shared(c->shard)->nats_subscriptions)
			: memory_new(bytes);

	if (ns == NULL)
		return NULL;
	*ns = (struct nats_subscription){
		.named = { hash_bytes(sid.data, sid.len), { ns->sid, sid.len } },
	};
	memcpy(ns->sid, sid.data, sid.len);
	return ns;
}

static void free_subscription(struct connection *c, struct nats_subscription *ns)
{
	if (ns == NULL)
		return;
	if (bytes_of(ns->named.name) <= NATS_SUBSCRIPTION_BYTES)
		pool_give(&session_shared(c->shard)->nats_subscriptions, ns);
	else
		memory_free(ns);
}

static void forget(struct connection *c, struct nats_subscription *ns)
{
	struct nats_session *nats = nats_of(c);

	nats_inboxes_remove(nats, ns);
	few_remove(&nats->subscriptions, &ns->named);
	free_subscription(c, ns);
}

void nats_subscriptions_release(struct connection *c)
{
	struct nats_session *nats = nats_of(c);
	struct named *n;

	nats_inboxes_release(nats);
	for (size_t at = 0; (n = few_next(&nats->subscriptions, &at)) != NULL;)
		free_subscription(c, (struct nats_subscription *)(void *)n);
	few_release(&nats->subscriptions);
}

static void not_permitted(struct connection *c, const struct nats_event *e)
{
	static const char before[] = "Permissions Violation for Subscription to \"";

	if (e->queue.len == 0) {
		nats_say_error(c, before, e->subject, "\"");
		return;
	}
	/* Two names of the client's, of any length: one reply is enough. */
	{
		size_t len = e->subject.len + e->queue.len + sizeof("\" using queue \"");
		char *text = memory_new(len);
		int n;

		if (text == NULL) {
			connection_close(c, DROP_MEMORY);
			return;
		}
		n = snprintf(text, len, "%.*s\" using queue \"%.*s", (int)e->subject.len,
			     e->subject.data, (int)e->queue.len, e->queue.data);
		nats_say_error(c, before, (struct span){ text, (size_t)n }, "\"");
		memory_free(text);
	}
}

/* The broker's own topics: who may look is the operator's choice. */
static bool may_look(struct connection *c, struct span topic)
{
	return !topic_internal(topic) || !c->shard->config->http.page_local_only ||
	       connection_local(c);
}

static struct replay replay_of(const struct nats_replay *r)
{
	static const enum replay_kind kinds[] = { [NATS_REPLAY_NONE] = REPLAY_NONE,
						  [NATS_REPLAY_LAST] = REPLAY_LAST,
						  [NATS_REPLAY_FROM] = REPLAY_FROM };

	return (struct replay){ .kind = kinds[r->kind], .epoch = r->epoch, .n = r->n };
}

/* Where it fails for want of what is scarce for now, the client is to come back. */
static void subscribe(struct connection *c, const struct nats_event *e, struct span name,
		      const struct nats_replay *replay)
{
	struct nats_session *nats = nats_of(c);
	struct nats_frame frame = { .headers = nats->headers,
				    .ids = replay->kind != NATS_REPLAY_NONE,
				    .framed = nats->framed,
				    .sid = e->sid };
	struct nats_subscription *ns = new_subscription(c, e->sid);
	char *parameter = memory_new(NATS_FRAME_HEAD + e->sid.len);
	int err;

	if (nats->no_echo)
		frame.except =
			(struct run_publisher){ c->shard->id, c->socket.slot,
						socket_generation(&c->shard->sockets, &c->socket) };
	if (ns == NULL || parameter == NULL || few_add(&nats->subscriptions, &ns->named) != 0) {
		free_subscription(c, ns);
		memory_free(parameter);
		connection_error(c, REASON_MEMORY);
		return;
	}
	err = subscription_new(
		c,
		&(struct subscription_wanted){
			.name = name,
			.pattern = name_valid(name) ? PATTERN_NONE : PATTERN_NATIVE,
			.group = e->queue,
			.wire = { &nats_format, { parameter, nats_parameter(&frame, parameter) } },
			.replay = replay_of(replay),
			.session = ns,
		},
		&ns->subscription);
	memory_free(parameter);
	if (err == 0 && ns->subscription != NULL && e->queue.len == 0)
		err = nats_inboxes_add(nats, ns);
	if (err == 0) {
		nats_ok(c);
		return;
	}
	if (ns->subscription == NULL)
		forget(c, ns);
	if (err == -ENOSPC)
		nats_say_error(c, NATS_SUBSCRIPTIONS, SPAN(""), "");
	else
		connection_error(c, REASON_MEMORY);
}

/* Whether something for this subject, that was published before, may still be on its way, or the
 * word that nobody is there: the command waits until it has come. */
static bool fenced(struct connection *c, struct span subject)
{
	struct nats_session *nats = nats_of(c);
	bool answers, topic;
	uint64_t sent;

	gather_flush(c);
	sent = nats->work->published.topics | nats->work->awaited.topics;
	answers = nats->work->published.requests || nats->work->awaited.requests;
	topic = nats_subject(subject) == NATS_SUBJECT_TOPIC;
	if (!answers && (nats->no_echo || sent == 0 ||
			 (topic && !(sent & UINT64_C(1) << topic_hash(subject) % 64))))
		return false;
	intake_hold(nats->intake);
	if (!connection_barred(c))
		nats_barrier(c);
	return true;
}

size_t nats_subscribe(struct connection *c, const struct nats_event *e, size_t used)
{
	struct nats_session *nats = nats_of(c);
	enum nats_subject subject = nats_subject(e->subject);
	struct span name = e->subject;
	struct nats_replay replay;

	if (subject == NATS_SUBJECT_INVALID || !nats_replay(e->subject, &replay)) {
		if (find(nats, e->sid) != NULL)
			nats_ok(c);
		else
			nats_say_error(c, "Invalid Subject", SPAN(""), "");
		return used;
	}
	if (replay.kind != NATS_REPLAY_NONE) {
		name = replay.topic;
		subject = e->queue.len == 0 && name_valid(name) ? NATS_SUBJECT_TOPIC
								: NATS_SUBJECT_REFUSED;
	}
	if (subject <= NATS_SUBJECT_PATTERN && fenced(c, name))
		return 0;
	if (subject > NATS_SUBJECT_PATTERN || e->queue.len > PATTERN_GROUP_MAX ||
	    !may_look(c, name) ||
	    !access_may(c, ACCESS_SUBSCRIBE, name, subject == NATS_SUBJECT_PATTERN))
		not_permitted(c, e);
	else if (find(nats, e->sid) != NULL)
		nats_ok(c);
	else if (few_n(&nats->subscriptions) >=
		 c->shard->config->limits.subscriptions_per_connection)
		nats_say_error(c, NATS_SUBSCRIPTIONS, SPAN(""), "");
	else
		subscribe(c, e, name, &replay);
	return used;
}

void nats_session_enough(struct connection *c, void *session)
{
	forget(c, session);
}

void nats_session_subscribed(struct connection *c, struct subscription *sub,
			     const struct subscribe_letter *l)
{
	struct nats_subscription *ns = sub->session;
	uint64_t max = ns->max;
	char gap[NATS_NOBODY_MAX];
	size_t n;

	ns->joined = sub->cursor.counted;
	/* Without memory for it clients look at no more than they wanted all the same. */
	if (max > 0)
		(void)subscription_limit(sub, ns->joined + max);
	if (l == NULL || l->gap == 0 || !nats_of(c)->headers)
		return;
	n = nats_gap(l->name, ns->named.name, l->epoch, l->gap, gap);
	if (n > 0)
		nats_say(c, (struct span){ gap, n });
}

void nats_session_refused(struct connection *c, void *session, enum reason reason)
{
	((struct nats_subscription *)session)->subscription = NULL;
	connection_error(c, reason);
}

size_t nats_unsubscribe(struct connection *c, const struct nats_event *e, size_t used)
{
	struct nats_session *nats = nats_of(c);
	struct nats_subscription *ns = find(nats, e->sid);
	struct subscription *sub;

	if (ns != NULL && ns->subscription != NULL && fenced(c, nats_subject_of(ns)))
		return 0;
	nats_ok(c);
	if (ns == NULL)
		return used;
	if (e->max > 0 && ns->subscription != NULL) {
		if (subscription_is(ns->subscription, SUBSCRIPTION_ASKED))
			ns->max = e->max;
		else
			(void)subscription_limit(ns->subscription, ns->joined + e->max);
		return used;
	}
	sub = ns->subscription;
	forget(c, ns);
	if (sub != NULL)
		(void)subscription_retire(sub);
	return used;
}

/* ---- what is published ---- */

/* It wants to know if nobody is there. */
void nats_publishing(struct connection *c, struct block *b)
{
	struct nats_session *nats = nats_of(c);
	struct sequenced_letter *receipt;

	b->unechoed = nats->no_echo;
	nats->work->published.topics |= UINT64_C(1) << b->hash % 64;
	if (!nats->work->asks)
		return;
	nats->work->asks = false;
	nats->work->published.requests = true;
	receipt = calloc(1, sizeof(*receipt));
	/* Without memory for it nothing is said. */
	if (receipt != NULL)
		b->receipt = &receipt->letter;
}

static void tell_nobody(struct connection *c, const struct sequenced_letter *l)
{
	struct run run = block_run(l->block);
	char text[NATS_NOBODY_MAX];
	struct record r;

	while (c->state == CONNECTION_OPEN && run_next_record(&run, &r)) {
		const struct nats_subscription *ns =
			r.reply.len > 0 ? nats_inbox(c, r.reply) : NULL;
		size_t n;

		if (ns == NULL)
			continue;
		n = nats_nobody(r.reply, ns->named.name, run.topic, text);
		if (n > 0)
			nats_say(c, (struct span){ text, n });
	}
}

void nats_session_sequenced(struct connection *c, const struct sequenced_letter *l)
{
	/* One that has no place is for nobody, too. */
	if (l->receivers.responders == 0)
		tell_nobody(c, l);
}

/* Whether the subject is published to. Where it may not be, that is said, behind the PONGs that are
 * due: so where somebody might be refused, the command waits for them (intake_hold). */
static enum may may_publish(struct connection *c, struct span subject)
{
	struct nats_session *nats = nats_of(c);
	enum nats_subject kind = nats_subject(subject);

	if (nats->work->pings > 0 && (kind != NATS_SUBJECT_TOPIC || !access_open(c))) {
		intake_hold(nats->intake);
		return MAY_LATER;
	}
	if (kind == NATS_SUBJECT_TOPIC && !topic_internal(subject) &&
	    access_may(c, ACCESS_PUBLISH, subject, false))
		return MAY;
	if (kind == NATS_SUBJECT_INVALID)
		nats_say_error(c, "Invalid Publish Subject", SPAN(""), "");
	else
		nats_say_error(c, "Permissions Violation for Publish to \"", subject, "\"");
	return MAY_NOT;
}

/* One with a version is found by it: it is alone in its block, which has it as a label. NULL: out
 * of memory. */
static struct block *block_of_version(struct span topic, const struct record *r,
				      struct span version)
{
	const struct block_labels labels = { .version = version };
	struct block *b = block_new_labelled(topic, topic_hash(topic), &labels, record_bytes(r));

	if (b == NULL)
		return NULL;
	record_write(block_body(b), r);
	b->len = record_bytes(r);
	b->form = RUN_RECORDS;
	b->messages = 1;
	return b;
}

/* Whether it may be told that nobody is there. */
static bool wants_answer(const struct nats_session *nats, struct span reply)
{
	return nats->no_responders && reply.len > 0 && nats->inboxes_n > 0;
}

static void publish(struct connection *c, const struct nats_event *e, struct span body)
{
	struct nats_session *nats = nats_of(c);
	struct record r = { .payload = span_skip(body, e->header_bytes),
			    .reply = e->reply,
			    .headers = { body.data, e->header_bytes } };
	struct span version = { NULL, 0 };
	int err = 0;

	if (r.headers.len > 0)
		version = nats_header(r.headers, SPAN("X-Version"));
	if (version.len > 0 && version.len <= BLOCK_LABEL_MAX) {
		struct block *b = block_of_version(e->subject, &r, version);

		if (b != NULL)
			gather_block(c, b);
		err = b != NULL ? 0 : -ENOMEM;
	} else {
		err = gather_add(c, e->subject, &r);
	}
	if (err != 0) {
		connection_error(c, REASON_MEMORY);
		return;
	}
	nats->work->asks |= wants_answer(nats, r.reply);
	nats_ok(c);
}

/* The rest of a payload of which some is there is received where it belongs. */
static size_t collect(struct connection *c, const struct nats_event *e, struct span in, size_t used)
{
	struct nats_session *nats = nats_of(c);
	size_t payload_bytes = e->bytes - e->header_bytes;
	struct record r = { .payload = { NULL, payload_bytes },
			    .reply = e->reply,
			    .headers = { in.data + used, e->header_bytes } };
	size_t before = record_bytes(&r) - payload_bytes;
	struct block *b;

	if (in.len < used + e->header_bytes) {
		intake_need(nats->intake, used + e->header_bytes);
		return 0;
	}
	b = block_new(e->subject, topic_hash(e->subject), before);
	if (b == NULL) {
		connection_error(c, REASON_MEMORY);
		return used;
	}
	if (before > RECORD_HEAD_BYTES) {
		b->len = (size_t)(record_begin(block_body(b), &r) - block_body(b));
		b->form = RUN_RECORDS;
	}
	b->messages = 1;
	gather_flush(c);
	nats->work->asks = wants_answer(nats, r.reply);
	intake_collect(nats->intake, b, payload_bytes + END_BYTES);
	return used + e->header_bytes;
}

void nats_collected(struct connection *c, struct block *b)
{
	if (memcmp(block_body(b) + b->len - END_BYTES, "\r\n", END_BYTES) != 0) {
		block_unref(b);
		nats_fail(c, NATS_UNKNOWN);
		return;
	}
	b->len -= END_BYTES;
	gather_block(c, b);
	nats_ok(c);
}

/* False: it is given again, or the connection has ended. */
static bool inboxes_made(struct connection *c)
{
	int err = nats_inboxes_make(c);

	if (err > 0)
		intake_again(nats_of(c)->intake);
	else if (err < 0)
		connection_error(c, REASON_MEMORY);
	return err == 0;
}

/* Behind a PUB of so many bytes, whose line has so many: what says the same but for the payload.
 * Returns how many bytes of it are taken. */
static size_t publish_alike(struct connection *c, struct span done, size_t line, struct span rest)
{
	const struct config_limits *limits = &c->shard->config->limits;
	size_t before = rest.len, bytes;

	while (before - rest.len < GATHER_ALIKE_BYTES) {
		rest = span_skip(rest, gather_alike(c, done, line, true, rest));
		line = nats_alike((struct span){ done.data, line }, rest, &bytes);
		if (line == 0 || line - END_BYTES > limits->command_bytes ||
		    bytes > limits->message_bytes || rest.len < line + bytes + END_BYTES ||
		    memcmp(rest.data + line + bytes, "\r\n", END_BYTES) != 0 ||
		    !gather_more(c, (struct span){ rest.data + line, bytes }))
			break;
		done = (struct span){ rest.data, line + bytes + END_BYTES };
		rest = span_skip(rest, done.len);
	}
	reactor_spend(&c->shard->reactor,
		      (unsigned)((before - rest.len) / GATHER_ALIKE_COST_BYTES));
	return before - rest.len;
}

size_t nats_publish(struct connection *c, const struct nats_event *e, struct span in, size_t used)
{
	const struct config_limits *limits = &c->shard->config->limits;
	struct nats_session *nats = nats_of(c);
	size_t whole = used + e->bytes + END_BYTES;

	if (e->headers && !nats->headers) {
		nats_fail(c, NATS_NO_HEADERS);
		return used;
	}
	if (e->bytes > limits->message_bytes || e->header_bytes > limits->header_bytes) {
		nats_fail(c, NATS_TOO_LARGE);
		return used;
	}
	if (wants_answer(nats, e->reply) && !inboxes_made(c))
		return 0;
	/* What it published last it may still publish to. */
	if (in.len < whole && e->bytes < COLLECT_BYTES) {
		intake_need(nats->intake, whole);
		return 0;
	}
	if (!gather_goes_to(c, e->subject)) {
		enum may may = may_publish(c, e->subject);

		if (may == MAY_NOT)
			nats->work->discarded = e->bytes + END_BYTES;
		if (may != MAY)
			return may == MAY_NOT ? used : 0;
	}
	if (in.len < whole)
		return collect(c, e, in, used);
	if (memcmp(in.data + whole - END_BYTES, "\r\n", END_BYTES) != 0) {
		gather_flush(c);
		nats_fail(c, NATS_UNKNOWN);
		return used;
	}
	publish(c, e, (struct span){ in.data + used, e->bytes });
	/* One that is answered, or has something beside its payload, is looked at by itself. */
	if (nats->verbose || e->headers || e->reply.len > 0 || c->state != CONNECTION_OPEN ||
	    !gather_goes_to(c, e->subject))
		return whole;
	return whole +
	       publish_alike(c, (struct span){ in.data, whole }, used, span_skip(in, whole));
}

size_t nats_discard(struct connection *c, struct span in)
{
	struct nats_session *nats = nats_of(c);
	size_t n = nats->work->discarded - END_BYTES;

	if (n > 0) {
		n = n < in.len ? n : in.len;
		nats->work->discarded -= n;
		return n;
	}
	if (in.len < END_BYTES) {
		intake_need(nats->intake, END_BYTES);
		return 0;
	}
	nats->work->discarded = 0;
	if (memcmp(in.data, "\r\n", END_BYTES) != 0)
		nats_fail(c, NATS_UNKNOWN);
	return END_BYTES;
}
