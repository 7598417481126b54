#include "session/resp.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/glob.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/home.h"
#include "broker/interests.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "session/gather.h"
#include "topic/block.h"
#include "topic/interest.h"

enum {
	WORDS_AT_ONCE = 64,   /* of a command, before it is others' turn */
	LOOKS_AT_ONCE = 256,  /* the same of those that are only looked at */
	PUBLISHED_MAX = 1024, /* blocks whose receipts have not come */
	PUBLISHED_SLOTS_MIN = 4,
	CONFIRMATION_BYTES_MAX = 64 + NAME_BYTES_MAX,
};

#define BAD_TOPIC "-ERR bad topic"
#define BAD_PATTERN "-ERR bad pattern"
#define NOPERM                                                                                     \
	"-NOPERM this user has no permissions to access one of the channels used as arguments"

/* What a connection has subscribed to. */
struct resp_subscription {
	struct named named;        /* first; its name is its kind and its name */
	struct list link;          /* with others of its kind */
	struct subscription *core; /* NULL: its topic has refused it */
	uint8_t push;              /* enum resp_push */
	bool confirmed;
	uint8_t refused; /* enum reason */
	char bytes[];
};

/* ---- permissions ---- */

const char *resp_not_published(struct connection *c, struct span topic)
{
	if (!name_valid(topic))
		return BAD_TOPIC;
	return access_may(c, ACCESS_PUBLISH, topic, false) ? NULL : NOPERM;
}

/* Whether what begins with this may be one of the broker's own topics. */
static bool may_be_internal(struct span prefix)
{
	static const char own[] = "$sys.";
	size_t n = prefix.len < sizeof(own) - 1 ? prefix.len : sizeof(own) - 1;

	return n > 0 && memcmp(prefix.data, own, n) == 0;
}

/* A glob is permitted where a native pattern is that matches all that it does. */
static bool may_subscribe_glob(struct connection *c, struct span glob)
{
	struct glob_meaning m;

	glob_read(glob, &m);
	if (may_be_internal((struct span){ m.text, m.len }))
		return access_may(c, ACCESS_MONITOR, glob, true);
	glob_cover(glob, &m);
	return access_may(c, ACCESS_SUBSCRIBE, (struct span){ m.text, m.len },
			  m.kind == GLOB_NATIVE);
}

/* Why it may not be subscribed to; NULL: it may. */
static const char *not_subscribed(struct connection *c, enum resp_push push, struct span name)
{
	if (push == RESP_PMESSAGE) {
		if (!glob_valid(name))
			return BAD_PATTERN;
		return may_subscribe_glob(c, name) ? NULL : NOPERM;
	}
	if (!name_valid(name))
		return BAD_TOPIC;
	return access_may(c, ACCESS_SUBSCRIBE, name, false) ? NULL : NOPERM;
}

/* ---- what it has subscribed to ---- */

struct key {
	uint64_t hash;
	struct span name;
	char bytes[1 + NAME_BYTES_MAX];
};

/* The name is no longer than it may be. */
static void make_key(struct key *key, enum resp_push push, struct span name)
{
	key->bytes[0] = (char)push;
	if (name.len > 0)
		memcpy(key->bytes + 1, name.data, name.len);
	key->name = (struct span){ key->bytes, name.len + 1 };
	key->hash = hash_bytes(key->name.data, key->name.len);
}

static struct resp_subscription *find(const struct resp_client *r, enum resp_push push,
				      struct span name)
{
	struct key key;

	if (name.len > NAME_BYTES_MAX)
		return NULL;
	make_key(&key, push, name);
	return (struct resp_subscription *)(void *)few_find(&r->names, key.hash, key.name);
}

static void forget(struct resp_client *r, struct resp_subscription *rs)
{
	if (rs->confirmed)
		r->subscribed->counts[rs->push]--;
	few_remove(&r->names, &rs->named);
	if (r->subscribed->of[rs->push] == &rs->link)
		r->subscribed->of[rs->push] = list_empty(&rs->link) ? NULL : rs->link.next;
	list_remove(&rs->link);
	memory_free(rs);
}

/* The last of its kind. */
static void append(struct resp_client *r, struct resp_subscription *rs)
{
	struct list **all = &r->subscribed->of[rs->push];

	if (*all == NULL)
		*all = &rs->link;
	else
		list_append(*all, &rs->link);
}

static struct resp_subscription *first_of(const struct resp_client *r, enum resp_push push)
{
	return LIST_ENTRY(r->subscribed->of[push], struct resp_subscription, link);
}

/* Asks for what it has not yet. False: it cannot be, and the connection ends for that. */
static bool ask(struct connection *c, enum resp_push push, struct span name)
{
	struct resp_client *r = resp_of(c);
	struct subscription_wanted wanted = {
		.name = name,
		.wire = { resp_format((enum resp_version)r->version, push), { NULL, 0 } },
		.later = true,
	};
	struct resp_subscription *rs;
	struct key key;
	int err = -ENOMEM;

	make_key(&key, push, name);
	if (few_find(&r->names, key.hash, key.name) != NULL)
		return true;
	if (push == RESP_PMESSAGE) {
		wanted.pattern = PATTERN_GLOB;
		wanted.wire.parameter = name;
	}
	rs = memory_new_zeroed(sizeof(*rs) + key.name.len);
	if (rs != NULL) {
		memcpy(rs->bytes, key.bytes, key.name.len);
		rs->named = (struct named){ key.hash, { rs->bytes, key.name.len } };
		rs->push = (uint8_t)push;
		list_init(&rs->link);
		if (few_add(&r->names, &rs->named) == 0) {
			append(r, rs);
			wanted.session = rs;
			err = subscription_new(c, &wanted, &rs->core);
			if (err == 0)
				return true;
			forget(r, rs);
		} else {
			memory_free(rs);
		}
	}
	connection_no_subscription(c, err);
	return false;
}

void resp_session_subscribed(struct connection *c, struct subscription *sub,
			     const struct subscribe_letter *letter)
{
	/* It was asked for with others: all of them are confirmed together. */
	(void)c;
	(void)sub;
	(void)letter;
}

void resp_session_refused(struct connection *c, void *session, enum reason reason)
{
	struct resp_subscription *rs = session;

	(void)c;
	rs->core = NULL;
	rs->refused = (uint8_t)reason;
}

/* The last words of a confirmation; name: NULL: there was none. */
static void confirm(struct resp_replies *o, const struct span *name, enum resp_push push)
{
	const struct resp_client *r = resp_of(o->connection);
	char *at = resp_replies_room(o, CONFIRMATION_BYTES_MAX);

	at = resp_put_head(at, r->version == RESP_3 ? '>' : '*', 3);
	at = resp_put_bulk(at, span_of(r->work->verb->name));
	at = name != NULL ? resp_put_bulk(at, *name)
			  : resp_put_null(at, (enum resp_version)r->version);
	at = resp_put_head(at, ':', resp_count(r, push));
	resp_replies_put(o, at);
}

/* Whether it is refused for good, which is told; else the connection ends for that. */
static bool refused(struct resp_replies *o, struct resp_subscription *rs)
{
	if (rs != NULL && rs->refused != REASON_PATTERNS)
		return false;
	resp_replies_flush(o);
	resp_error(o->connection, "-ERR too many patterns");
	if (rs != NULL)
		forget(resp_of(o->connection), rs);
	return true;
}

/* What was asked for stands at its home: from here on it gets what is published. False: the
 * connection has ended. */
static bool begin(struct resp_replies *o, struct resp_subscription *rs)
{
	struct connection *c = o->connection;
	struct resp_client *r = resp_of(c);
	const struct span name = span_skip(rs->named.name, 1);
	const struct wire wire = {
		resp_format((enum resp_version)r->version, (enum resp_push)rs->push),
		rs->push == RESP_PMESSAGE ? name : (struct span){ NULL, 0 },
	};

	if (rs->core == NULL) {
		connection_error(c, (enum reason)rs->refused);
		return false;
	}
	if (subscription_begin(rs->core, &wire) != 0) {
		connection_error(c, REASON_MEMORY);
		return false;
	}
	rs->confirmed = true;
	r->subscribed->counts[rs->push]++;
	return true;
}

/* All words are looked at before any is acted upon; then some at a time are asked for, which is
 * done at their homes all at once, and confirmed in their order. */
enum { SUBSCRIBE_LOOKS, SUBSCRIBE_ASKS, SUBSCRIBE_CONFIRMS };

/* Where the look at all the words has come to. */
static struct resp_words looked_to(const struct resp_client *r, struct resp_words words)
{
	words.rest = span_skip(words.rest, r->work->looked_bytes);
	words.n -= r->work->looked;
	return words;
}

/* Some of them: what is wrong with one, if anything is, is said. AGAIN: there are more; DONE: one
 * was wrong; WAITS: all are right, and it goes on. */
static enum resp_done look_at_some(struct connection *c, struct resp_words words,
				   const char *(*wrong)(struct connection *, enum resp_push,
							struct span))
{
	struct resp_client *r = resp_of(c);
	enum resp_push push = (enum resp_push)r->work->verb->push;
	struct resp_words rest = looked_to(r, words);

	for (unsigned i = 0; i < LOOKS_AT_ONCE && rest.n > 0; i++) {
		const char *why = wrong(c, push, resp_word(&rest));

		if (why == NULL)
			continue;
		resp_error(c, why);
		return RESP_DONE;
	}
	/* Two of them take about a quarter of a microsecond. */
	reactor_spend(&c->shard->reactor, LOOKS_AT_ONCE / 2);
	r->work->looked_bytes = (uint32_t)(rest.rest.data - words.rest.data);
	r->work->looked = words.n - rest.n;
	return rest.n > 0 ? RESP_AGAIN : RESP_WAITS;
}

enum resp_done resp_subscribe(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	enum resp_push push = (enum resp_push)r->work->verb->push;
	struct resp_replies o = { .connection = c };
	struct resp_words rest = words;

	if (r->work->step == SUBSCRIBE_LOOKS) {
		enum resp_done looked = look_at_some(c, words, not_subscribed);

		if (looked != RESP_WAITS)
			return looked;
	}
	if (r->work->step != SUBSCRIBE_CONFIRMS) {
		r->work->asked = words.n < WORDS_AT_ONCE ? (uint8_t)words.n : WORDS_AT_ONCE;
		r->work->step = SUBSCRIBE_CONFIRMS;
		for (unsigned i = 0; i < r->work->asked; i++)
			if (!ask(c, push, resp_word(&rest)))
				return RESP_DONE;
		rest = words;
	}
	if (c->asked > 0)
		return RESP_WAITS;
	for (unsigned i = 0; i < r->work->asked; i++) {
		struct span name = resp_word(&rest);
		struct resp_subscription *rs = find(r, push, name);

		if ((rs == NULL || rs->core == NULL) && refused(&o, rs))
			continue;
		if (!rs->confirmed && !begin(&o, rs))
			return RESP_DONE;
		confirm(&o, &name, push);
	}
	resp_replies_flush(&o);
	r->work->step = SUBSCRIBE_ASKS;
	resp_go_behind(r, words, rest);
	return rest.n > 0 ? RESP_AGAIN : RESP_DONE;
}

/* ---- the end of them ---- */

/* Why it cannot have been subscribed to; NULL: it can. */
static const char *no_name(struct connection *c, enum resp_push push, struct span name)
{
	(void)c;
	if (push == RESP_PMESSAGE)
		return glob_valid(name) ? NULL : BAD_PATTERN;
	return name_valid(name) ? NULL : BAD_TOPIC;
}

enum { UNSUBSCRIBE_LOOKS, UNSUBSCRIBE_NAMED, UNSUBSCRIBE_ALL };

/* Homes that have to know of what has ended before that is confirmed. */
struct homes {
	unsigned n;
	unsigned of[WORDS_AT_ONCE];
};

static void add_home(struct homes *homes, unsigned home)
{
	unsigned i = 0;

	while (i < homes->n && homes->of[i] != home)
		i++;
	if (i == homes->n && i < WORDS_AT_ONCE)
		homes->of[homes->n++] = home;
}

/* Nothing is for it from here on, and its end is confirmed when its homes know and its client has
 * what was. True: that is still to be sent. */
static bool end_core(struct resp_subscription *rs, struct homes *homes)
{
	struct subscription *core = rs->core;

	const struct interest *i = subscription_interest(rs->core);
	unsigned homes_n = i->wild != NULL ? i->wild->homes_n : 1;

	for (unsigned n = 0; n < homes_n; n++)
		add_home(homes, i->home + n);
	rs->core = NULL;
	return !subscription_retire(core);
}

/* The next of a kind, WORDS_AT_ONCE at most, or those that are named. */
static unsigned end_some(struct connection *c, enum resp_push push, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	struct homes homes = { .n = 0 };
	struct list *first = r->subscribed->of[push], *l = first;
	bool behind = false;
	unsigned n = 0;

	if (r->work->step == UNSUBSCRIBE_ALL)
		do {
			behind |= end_core(LIST_ENTRY(l, struct resp_subscription, link), &homes);
			l = l->next;
		} while (++n < WORDS_AT_ONCE && l != first);
	for (; r->work->step == UNSUBSCRIBE_NAMED && n < WORDS_AT_ONCE && words.n > 0; n++) {
		struct resp_subscription *rs = find(r, push, resp_word(&words));

		if (rs != NULL && rs->core != NULL)
			behind |= end_core(rs, &homes);
	}
	interests_recount(c->shard);
	for (unsigned i = 0; i < homes.n; i++)
		(void)connection_sync(c, homes.of[i]);
	if (behind)
		connection_barrier(c);
	return n;
}

static void confirm_end(struct resp_replies *o, enum resp_push push, struct span name)
{
	struct resp_client *r = resp_of(o->connection);
	struct resp_subscription *rs = find(r, push, name);
	struct key key;

	/* What it is called may go with it. */
	make_key(&key, push, name);
	name = span_skip(key.name, 1);
	if (rs != NULL)
		forget(r, rs);
	confirm(o, &name, push);
}

static struct span first_name(const struct resp_client *r, enum resp_push push)
{
	return span_skip(first_of(r, push)->named.name, 1);
}

enum resp_done resp_unsubscribe(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	enum resp_push push = (enum resp_push)r->work->verb->push;
	struct resp_replies o = { .connection = c };
	struct resp_words rest = words;

	if (r->work->step == UNSUBSCRIBE_LOOKS) {
		enum resp_done looked = look_at_some(c, words, no_name);

		if (looked != RESP_WAITS)
			return looked;
		r->work->step = words.n > 0 ? UNSUBSCRIBE_NAMED : UNSUBSCRIBE_ALL;
		if (words.n == 0 && r->subscribed->of[push] == NULL) {
			confirm(&o, NULL, push);
			resp_replies_flush(&o);
			return RESP_DONE;
		}
	}
	if (r->work->asked == 0)
		r->work->asked = (uint8_t)end_some(c, push, words);
	if (resp_ends_are_due(c))
		return RESP_WAITS;
	for (; r->work->asked > 0; r->work->asked--)
		confirm_end(&o, push,
			    r->work->step == UNSUBSCRIBE_NAMED ? resp_word(&rest)
							       : first_name(r, push));
	resp_replies_flush(&o);
	if (r->work->step == UNSUBSCRIBE_ALL)
		return r->subscribed->of[push] == NULL ? RESP_DONE : RESP_AGAIN;
	resp_go_behind(r, words, rest);
	return rest.n > 0 ? RESP_AGAIN : RESP_DONE;
}

bool resp_end_subscriptions(struct connection *c)
{
	struct resp_client *r = resp_of(c);
	unsigned push = 0, n;

	if (resp_ends_are_due(c))
		return false;
	while (push < RESP_PUSHES && r->subscribed->of[push] == NULL)
		push++;
	if (push == RESP_PUSHES)
		return true;
	r->work->step = UNSUBSCRIBE_ALL;
	n = end_some(c, (enum resp_push)push, (struct resp_words){ .n = 0 });
	for (; n > 0; n--)
		forget(r, first_of(r, (enum resp_push)push));
	return false;
}

void resp_subscriptions_free(struct resp_client *r)
{
	for (unsigned push = 0; r->subscribed != NULL && push < RESP_PUSHES; push++)
		while (r->subscribed->of[push] != NULL)
			forget(r, first_of(r, (enum resp_push)push));
	few_release(&r->names);
	memory_free(r->subscribed);
	r->subscribed = NULL;
}

/* ---- publishing ---- */

static struct resp_published *published_at(const struct resp_client *r, uint32_t i)
{
	return &r->work->published[i & (r->work->published_slots_n - 1)];
}

static bool published_grow(struct resp_client *r)
{
	uint32_t slots_n = r->work->published_slots_n == 0 ? PUBLISHED_SLOTS_MIN
							   : 2 * r->work->published_slots_n;
	struct resp_published *slots = memory_new(slots_n * sizeof(*slots));

	if (slots == NULL)
		return false;
	for (uint32_t i = 0; i < r->work->published_n; i++)
		slots[(r->work->published_first + i) & (slots_n - 1)] =
			*published_at(r, r->work->published_first + i);
	memory_free(r->work->published);
	r->work->published = slots;
	r->work->published_slots_n = slots_n;
	return true;
}

void resp_publishing(struct connection *c, struct block *b)
{
	struct resp_client *r = resp_of(c);
	struct sequenced_letter *l = calloc(1, sizeof(*l));

	if (l == NULL ||
	    (r->work->published_n == r->work->published_slots_n && !published_grow(r))) {
		free(l);
		r->work->lost = true;
		return;
	}
	l->tag = r->work->published_first + r->work->published_n;
	b->receipt = &l->letter;
	*published_at(r, r->work->published_first + r->work->published_n++) =
		(struct resp_published){ .messages = b->messages };
}

enum resp_done resp_publish(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	struct span topic = resp_word(&words);
	const struct record message = { .payload = resp_word(&words) };
	/* Many in a row are for one topic. */
	const char *why = gather_goes_to(c, topic) ? NULL : resp_not_published(c, topic);

	if (r->work->published_n >= PUBLISHED_MAX || (why != NULL && !resp_caught_up(c)))
		return RESP_WAITS;
	if (why != NULL)
		resp_error(c, why);
	else if (gather_add(c, topic, &message) != 0)
		connection_error(c, REASON_MEMORY);
	return RESP_DONE;
}

/* Behind the same words: a payload with its length, all of it. */
static bool next_payload(struct span in, struct span same, uint64_t max, struct span *payload)
{
	const char *at = in.data + same.len, *end = in.data + in.len;
	uint64_t n = 0;

	if (in.len <= same.len || memcmp(in.data, same.data, same.len) != 0 || *at == '0')
		return false;
	for (; at < end && *at >= '0' && *at <= '9' && n <= max; at++)
		n = n * 10 + (uint64_t)(*at - '0');
	/* The digits are not none, for they are no other byte. */
	if (n == 0 || n > max || (uint64_t)(end - at) < n + 4 || memcmp(at, "\r\n", 2) != 0 ||
	    memcmp(at + 2 + n, "\r\n", 2) != 0)
		return false;
	*payload = (struct span){ at + 2, n };
	return true;
}

size_t resp_publish_alike(struct connection *c, struct span in, size_t done,
			  struct resp_words words)
{
	const struct resp_client *r = resp_of(c);
	struct span topic = resp_word(&words), payload = resp_word(&words);
	struct span last = { in.data, done }, rest = span_skip(in, done), same = { in.data, 0 };
	uint64_t max = c->shard->config->limits.message_bytes;
	size_t before = rest.len;

	if (rest.len == 0 || payload.len == 0 || r->work->published_n >= PUBLISHED_MAX ||
	    !gather_goes_to(c, topic))
		return 0;
	/* Up to the digits of the payload's length. */
	same.len = (size_t)(payload.data - in.data) - 2;
	while (in.data[same.len - 1] != '$')
		same.len--;
	while (before - rest.len < GATHER_ALIKE_BYTES) {
		size_t head = (size_t)(payload.data - last.data);

		rest = span_skip(rest, gather_alike(c, last, head, true, rest));
		if (!next_payload(rest, same, max, &payload) || !gather_more(c, payload))
			break;
		last = (struct span){ rest.data,
				      (size_t)(payload.data - rest.data) + payload.len + 2 };
		rest = span_skip(rest, last.len);
	}
	reactor_spend(&c->shard->reactor,
		      (unsigned)((before - rest.len) / GATHER_ALIKE_COST_BYTES));
	return before - rest.len;
}

/* So many times, each of the first being copied with all that is before it. */
static char *put_often(char *out, struct span text, size_t times)
{
	size_t n = text.len, all = n * times;

	memcpy(out, text.data, n);
	for (; n < all; n = 2 * n < all ? 2 * n : all)
		memcpy(out + n, out, n < all - n ? n : all - n);
	return out + all;
}

/* The answer to each message that was published with others. */
static void answer(struct resp_replies *o, const struct resp_published *p)
{
	char text[RESP_HEAD_BYTES_MAX];
	size_t n = (size_t)(resp_put_head(text, ':', p->receivers) - text);

	for (uint32_t left = p->messages, at_once; left > 0; left -= at_once) {
		char *at = resp_replies_room(o, n);
		size_t room = sizeof(o->bytes) - o->len;

		at_once = left < room / n ? left : (uint32_t)(room / n);
		resp_replies_put(o, put_often(at, (struct span){ text, n }, at_once));
	}
}

void resp_session_sequenced(struct connection *c, const struct sequenced_letter *l)
{
	struct resp_client *r = resp_of(c);
	struct resp_published *p = published_at(r, (uint32_t)l->tag);
	struct resp_replies o = { .connection = c };
	bool full = r->work->published_n >= PUBLISHED_MAX;

	if (l->error != 0) {
		connection_no_topic(c, l->error);
		return;
	}
	p->receivers = l->receivers.all;
	p->sequenced = true;
	for (; r->work->published_n > 0; r->work->published_first++, r->work->published_n--) {
		p = published_at(r, r->work->published_first);
		if (!p->sequenced)
			break;
		answer(&o, p);
	}
	resp_replies_flush(&o);
	if (c->state == CONNECTION_CLOSED)
		return;
	connection_flush(c);
	if (r->work->published_n == 0 && c->state == CONNECTION_FINISHING) {
		c->awaiting = false;
		connection_answered(c);
	} else if (r->work->published_n == 0 || (full && r->work->published_n < PUBLISHED_MAX)) {
		resp_go_on(c);
	}
}

void resp_session_stop_publishing(struct connection *c, bool receipt)
{
	const struct resp_client *r = resp_of(c);

	if (receipt && r->work != NULL && r->work->published_n > 0)
		c->awaiting = true;
}
