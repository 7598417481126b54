#include "session/resp.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/name.h"
#include "broker/access.h"
#include "broker/census.h"
#include "broker/connection.h"
#include "broker/home.h"
#include "broker/identity.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/topic.h"

/* PUBSUB and INFO: what all homes know. */

enum {
	NAME_REPLY_BYTES_MAX = 64 + NAME_BYTES_MAX,
	ANSWER_BYTES = 16 << 10, /* of a long one at a time */
	SIFTED_BYTES = 4 << 10,  /* of names that are looked at */
	INFO_BYTES = 1 << 10,
};

/* Sends the letter round. NULL: out of memory, the connection ends. */
static enum resp_done take_census(struct connection *c, struct census_letter *l)
{
	struct resp_client *r = resp_of(c);

	if (l == NULL) {
		connection_error(c, REASON_MEMORY);
		return RESP_DONE;
	}
	l->slot = c->socket.slot;
	l->generation = socket_generation(&c->shard->sockets, &c->socket);
	l->ticket = ++r->work->ticket;
	census_ask(c->shard, l);
	return RESP_WAITS;
}

void resp_census_taken(struct shard *s, struct census_letter *l)
{
	struct socket *socket = socket_at(&s->sockets, l->slot, l->generation);
	struct connection *c = socket != NULL ? connection_of(socket) : NULL;
	struct resp_client *r = c != NULL ? resp_of(c) : NULL;

	if (c == NULL || c->state != CONNECTION_OPEN || r->work == NULL ||
	    r->work->ticket != l->ticket) {
		census_letter_free(l);
		return;
	}
	r->work->census = l;
	resp_go_on(c);
}

static void census_done(struct resp_client *r)
{
	census_letter_free(r->work->census);
	r->work->census = NULL;
}

enum { CENSUS_BEGINS, CENSUS_ASKED, CENSUS_SIFTS, CENSUS_TELLS };

/* Whether a client may know that a channel is there: whoever may read it or publish to it. It is
 * known who it is. */
static bool may_know(const struct connection *c, struct span name)
{
	const struct identity *i = c->identity;

	if (access_open(c))
		return true;
	if (topic_internal(name))
		return i->rights->monitor;
	return identity_may(i, ACCESS_SUBSCRIBE, name, false) ||
	       identity_may(i, ACCESS_PUBLISH, name, false);
}

/* Takes some of the names out that it may not know, those behind move up. True: that was the last.
 */
static bool sift(const struct connection *c)
{
	struct resp_client *r = resp_of(c);
	struct census_letter *l = r->work->census;
	uint32_t until = r->work->told + SIFTED_BYTES;

	while (r->work->told < l->names_len && r->work->told < until) {
		size_t bytes = 1 + (size_t)(unsigned char)l->names[r->work->told];

		if (may_know(c, (struct span){ l->names + r->work->told + 1, bytes - 1 })) {
			memmove(l->names + r->work->looked_bytes, l->names + r->work->told, bytes);
			r->work->looked_bytes += (uint32_t)bytes;
			r->work->looked++;
		}
		r->work->told += (uint32_t)bytes;
	}
	reactor_spend(&c->shard->reactor, SIFTED_BYTES / 16);
	if (r->work->told < l->names_len)
		return false;
	l->topics = r->work->looked;
	l->names_len = r->work->looked_bytes;
	return true;
}

static enum resp_done channels(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	struct resp_replies o = { .connection = c };
	struct census_letter *l = r->work->census;
	bool given = words.n > 0;
	struct span glob = given ? resp_word(&words) : (struct span){ NULL, 0 };
	uint32_t until;

	if (r->work->step == CENSUS_BEGINS) {
		r->work->step = CENSUS_ASKED;
		/* Nothing is called "", and nothing is what an empty class stands for. */
		if (given && glob.len == 0)
			glob = SPAN("[]");
		return take_census(c, census_letter_new(CENSUS_NAMES, glob));
	}
	if (l == NULL)
		return RESP_WAITS;
	if (l->error != 0) {
		resp_error(c,
			   l->error == -ENOSPC ? "-ERR too many channels" : "-ERR out of memory");
		census_done(r);
		return RESP_DONE;
	}
	if (r->work->step == CENSUS_ASKED) {
		r->work->step = CENSUS_SIFTS;
		r->work->told = 0;
	}
	if (r->work->step == CENSUS_SIFTS) {
		if (!access_open(c) && !sift(c))
			return RESP_AGAIN;
		resp_replies_put(&o, resp_put_head(resp_replies_room(&o, RESP_HEAD_BYTES_MAX), '*',
						   l->topics));
		r->work->step = CENSUS_TELLS;
		r->work->told = 0;
	}
	until = r->work->told + ANSWER_BYTES;
	while (r->work->told < l->names_len && r->work->told < until) {
		size_t len = (unsigned char)l->names[r->work->told];
		const struct span name = { l->names + r->work->told + 1, len };

		resp_replies_put(&o,
				 resp_put_bulk(resp_replies_room(&o, NAME_REPLY_BYTES_MAX), name));
		r->work->told += 1 + (uint32_t)len;
	}
	resp_replies_flush(&o);
	if (r->work->told < l->names_len)
		return RESP_AGAIN;
	census_done(r);
	return RESP_DONE;
}

/* Some names at a time. */
static enum resp_done ask_counts(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	struct census_letter *l = census_letter_new(CENSUS_COUNTS, (struct span){ NULL, 0 });

	r->work->step = CENSUS_TELLS;
	for (unsigned i = 0; l != NULL && i < CENSUS_COUNTS_MAX && words.n > 0; i++) {
		struct span name = resp_word(&words);

		/* Nobody has subscribed to what is no name, as far as it may know. */
		if (!name_valid(name) || !may_know(c, name))
			name.len = 0;
		census_add(l, name);
	}
	return take_census(c, l);
}

static enum resp_done numsub(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	struct resp_replies o = { .connection = c };
	struct resp_words rest = words;
	char *at;

	if (r->work->step == CENSUS_BEGINS) {
		at = resp_replies_room(&o, RESP_HEAD_BYTES_MAX);
		resp_replies_put(&o, resp_put_head(at, '*', 2 * words.n));
		resp_replies_flush(&o);
		r->work->step = CENSUS_ASKED;
	}
	if (words.n == 0)
		return RESP_DONE;
	if (r->work->step == CENSUS_ASKED)
		return ask_counts(c, words);
	if (r->work->census == NULL)
		return RESP_WAITS;
	for (unsigned i = 0; i < r->work->census->counts_n; i++) {
		struct span name = resp_word(&rest);

		resp_replies_flush(&o);
		if (!resp_bulk(c, name))
			return RESP_DONE;
		at = resp_replies_room(&o, RESP_HEAD_BYTES_MAX);
		resp_replies_put(&o,
				 resp_put_head(at, ':', r->work->census->counts[i].subscribers));
	}
	resp_replies_flush(&o);
	census_done(r);
	r->work->step = CENSUS_ASKED;
	resp_go_behind(r, words, rest);
	return rest.n > 0 ? RESP_AGAIN : RESP_DONE;
}

static enum resp_done numpat(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	struct resp_replies o = { .connection = c };
	char *at;

	(void)words;
	if (r->work->step == CENSUS_BEGINS) {
		r->work->step = CENSUS_ASKED;
		return take_census(c, census_letter_new(CENSUS_TOTAL, (struct span){ NULL, 0 }));
	}
	if (r->work->census == NULL)
		return RESP_WAITS;
	at = resp_replies_room(&o, RESP_HEAD_BYTES_MAX);
	resp_replies_put(&o, resp_put_head(at, ':', r->work->census->patterns));
	resp_replies_flush(&o);
	census_done(r);
	return RESP_DONE;
}

enum resp_done resp_pubsub(struct connection *c, struct resp_words words)
{
	static const struct {
		const char *name;
		uint32_t words_max;
		enum resp_done (*run)(struct connection *, struct resp_words);
	} known[] = {
		{ "channels", 1, channels },      { "shardchannels", 1, channels },
		{ "numsub", UINT32_MAX, numsub }, { "shardnumsub", UINT32_MAX, numsub },
		{ "numpat", 0, numpat },
	};
	struct resp_client *r = resp_of(c);
	struct resp_words rest = words;
	struct span what;
	char text[200];

	if (r->work->run != NULL)
		return r->work->run(c, words);
	what = resp_word(&rest);
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		if (!resp_is(what, known[i].name))
			continue;
		if (rest.n <= known[i].words_max) {
			r->work->run = known[i].run;
			resp_go_behind(r, words, rest);
			return r->work->run(c, rest);
		}
		if (known[i].run == channels)
			snprintf(text, sizeof(text),
				 "-ERR unknown subcommand or wrong number of arguments for '%.*s'. "
				 "Try PUBSUB HELP.",
				 (int)what.len, what.data);
		else
			snprintf(text, sizeof(text),
				 "-ERR wrong number of arguments for 'pubsub|%s' command",
				 known[i].name);
		resp_error(c, text);
		return RESP_DONE;
	}
	snprintf(text, sizeof(text), "-ERR unknown subcommand '%.*s'. Try PUBSUB HELP.",
		 (int)(what.len < 128 ? what.len : 128), what.data);
	resp_error(c, text);
	return RESP_DONE;
}

/* ---- INFO ---- */

static bool asked_for(const char *section, struct resp_words words)
{
	if (words.n == 0)
		return true;
	while (words.n > 0) {
		struct span word = resp_word(&words);

		if (resp_is(word, section) || resp_is(word, "all") || resp_is(word, "default") ||
		    resp_is(word, "everything"))
			return true;
	}
	return false;
}

enum resp_done resp_info(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	const struct shard *s = c->shard;
	char text[INFO_BYTES], head[RESP_HEAD_BYTES_MAX];
	size_t n = 0;

	if (r->work->step == CENSUS_BEGINS) {
		r->work->step = CENSUS_ASKED;
		return take_census(c, census_letter_new(CENSUS_TOTAL, (struct span){ NULL, 0 }));
	}
	if (r->work->census == NULL)
		return RESP_WAITS;
	if (asked_for("server", words))
		n += (size_t)sprintf(text + n,
				     "# Server\r\nredis_version:" RESP_SERVER_VERSION "\r\n"
				     "server_name:broker\r\nserver_version:" BROKER_VERSION "\r\n"
				     "redis_mode:standalone\r\nuptime_in_seconds:%" PRIu64
				     "\r\n\r\n",
				     (s->reactor.now_ns - s->reactor.stats.started_ns) / NS_PER_S);
	if (asked_for("clients", words))
		n += (size_t)sprintf(text + n, "# Clients\r\nconnected_clients:%" PRIu32 "\r\n\r\n",
				     atomic_load(&s->broker->connections));
	if (asked_for("persistence", words))
		n += (size_t)sprintf(text + n, "# Persistence\r\nloading:0\r\n\r\n");
	if (asked_for("stats", words))
		n += (size_t)sprintf(text + n,
				     "# Stats\r\npubsub_channels:%" PRIu64
				     "\r\npubsub_patterns:%" PRIu64 "\r\n\r\n",
				     r->work->census->topics, r->work->census->patterns);
	if (asked_for("replication", words))
		n += (size_t)sprintf(text + n,
				     "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n");
	census_done(r);
	/* Sections are apart by an empty line. */
	n -= n > 0 ? 2 : 0;
	if (r->version == RESP_3) {
		(void)(resp_reply(c, (struct span){ head, (size_t)(resp_put_head(head, '=', n + 4) -
								   head) }) &&
		       resp_reply(c, SPAN("txt:")) && resp_reply(c, (struct span){ text, n }) &&
		       resp_reply(c, SPAN("\r\n")));
		return RESP_DONE;
	}
	(void)resp_bulk(c, (struct span){ text, n });
	return RESP_DONE;
}
