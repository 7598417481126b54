#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../sim/sim.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/config_keys.h"
#include "base/digest.h"

/*
 * Users in the simulation's world: who there is, with which token and what he may is drawn anew
 * for each configuration, while others publish. Nobody hears what he may not, whoever has lost
 * what he needs is out, and nobody else notices: he has every message, in order.
 *
 * WORLDS=n plays so many of them, FIRST=n from this one on.
 */

enum {
	USERS = 4,
	TOPICS = 3,
	VERSIONS = 4, /* of the configuration; the last one is the first again */
	JOINS = 6,    /* clients that come between two of them */
	ALL = TOPICS, /* what is asked for instead of a topic: "t.*" */
	CLIENTS_MAX = VERSIONS * JOINS,
	WORLDS_SHORT = 40,
};

void sim_give_up(void)
{
	abort();
}

/* ---- configurations ---- */

static struct drawn {
	bool there, all;     /* all: "t.*" */
	unsigned generation; /* of his token */
	unsigned topics;     /* bits */
	unsigned denied;
} rights[VERSIONS][USERS];
static unsigned version;
static struct random dice;

static void draw_rights(void)
{
	for (unsigned v = 0; v < VERSIONS; v++)
		for (unsigned u = 0; u < USERS; u++) {
			struct drawn *r = &rights[v][u];

			/* Much stays as it is, or it would not be seen that it does. */
			if (v > 0 && random_one_in(&dice, 2)) {
				*r = rights[v - 1][u];
				continue;
			}
			r->there = !random_one_in(&dice, 5);
			r->generation =
				v > 0 && !random_one_in(&dice, 4) ? rights[v - 1][u].generation : v;
			r->all = random_one_in(&dice, 2);
			r->topics = random_below(&dice, 1u << TOPICS);
			r->denied = random_one_in(&dice, 3) ? 1u << random_below(&dice, TOPICS) : 0;
		}
	memcpy(rights[VERSIONS - 1], rights[0], sizeof(rights[0]));
}

static bool may(unsigned v, unsigned user, unsigned generation, unsigned topic)
{
	const struct drawn *r = &rights[v][user];

	if (!r->there || r->generation != generation)
		return false;
	return topic == ALL ? r->all && r->denied == 0
			    : (r->all || (r->topics >> topic & 1)) && !(r->denied >> topic & 1);
}

static char *copy(const char *text)
{
	char *c = strdup(text);

	assert_non_null(c);
	return c;
}

static char **texts(unsigned n)
{
	char **list = calloc(n, sizeof(*list));

	assert_non_null(list);
	return list;
}

static void name_user(struct config_user *c, const char *name, const char *token)
{
	char print[DIGEST_TEXT_MAX];
	struct digest d;

	assert_true(digest_of(span_of(token), &d));
	digest_print(&d, print);
	c->name = copy(name);
	c->token_hash = texts(1);
	c->token_hash[c->token_hash_n++] = copy(print);
}

static void list_topics(unsigned bits, bool all, char ***list, size_t *n)
{
	char name[] = "t.0";

	if (bits == 0 && !all)
		return;
	*list = texts(TOPICS + 1);
	for (unsigned t = 0; t < TOPICS; t++) {
		name[2] = (char)('0' + t);
		if (bits >> t & 1)
			(*list)[(*n)++] = copy(name);
	}
	if (all)
		(*list)[(*n)++] = copy("t.*");
}

static void set_users(struct config *config)
{
	struct config_user *at;
	unsigned n = 1;

	for (unsigned u = 0; u < USERS; u++)
		n += rights[version][u].there;
	config->auth.failures = 1000000;
	assert_int_equal(config_users_new(config, n), 0);
	at = config->users;
	name_user(at, "writer", "writer");
	list_topics(0, true, &at->publish, &at->publish_n);
	at++;
	for (unsigned u = 0; u < USERS; u++) {
		const struct drawn *r = &rights[version][u];
		char name[16], token[32];

		if (!r->there)
			continue;
		snprintf(name, sizeof(name), "user%u", u);
		snprintf(token, sizeof(token), "token-%u-%u", u, r->generation);
		name_user(at, name, token);
		list_topics(r->topics, r->all, &at->subscribe, &at->subscribe_n);
		list_topics(r->denied, false, &at->deny_subscribe, &at->deny_subscribe_n);
		at++;
	}
}

/* ---- clients ---- */

static struct who {
	struct client *c;
	unsigned user, generation, topic;
	bool in; /* it is subscribed, and may be */
	size_t heard_bytes;
	unsigned begun[TOPICS]; /* the number of the first message that is for it */
} who[CLIENTS_MAX];
static unsigned who_n, published[TOPICS];
static struct client *writers[TOPICS];

static void say(struct client *c, const char *text)
{
	client_say(c, text, strlen(text));
}

static void publish(unsigned topic)
{
	char line[32];

	snprintf(line, sizeof(line), "%u\r\n", published[topic]++);
	say(writers[topic], line);
}

/* Where the next line begins; NULL: there is no whole one. */
static const char *line_at(const struct client *c, const char *at, char out[64])
{
	size_t left = c->line_n - (size_t)(at - c->line);
	const char *lf = left > 0 ? memchr(at, '\n', left) : NULL;

	if (lf == NULL)
		return NULL;
	snprintf(out, 64, "%.*s", (int)(lf - at - 1), at);
	return lf + 1;
}

/* Whether it is told that it may not, as the last of what it hears. Everything before that are
 * messages that were for it, each once and in order. heard: how far, by topic. */
static bool is_refused(const struct who *w, unsigned oks, unsigned heard[TOPICS])
{
	const char *at = w->c->line;
	char line[64];

	memcpy(heard, w->begun, TOPICS * sizeof(*heard));
	for (unsigned n = 0; w->c->line_n > 0 && (at = line_at(w->c, at, line)) != NULL; n++) {
		unsigned topic = w->topic, number;

		if (strcmp(line, "ERROR not permitted") == 0) {
			assert_ptr_equal(at, w->c->line + w->c->line_n);
			return true;
		}
		if (n < oks) {
			assert_string_equal(line, "OK");
			continue;
		}
		if (w->topic == ALL)
			assert_int_equal(sscanf(line, "t.%u %u", &topic, &number), 2);
		else
			assert_int_equal(sscanf(line, "%u", &number), 1);
		assert_in_range(topic, 0, TOPICS - 1);
		assert_int_equal(number, heard[topic]);
		heard[topic]++;
	}
	return false;
}

static void assert_heard_all(const struct who *w)
{
	unsigned heard[TOPICS];

	assert_false(is_refused(w, 2, heard));
	assert_false(w->c->over);
	assert_false(w->c->over);
	for (unsigned t = 0; t < TOPICS; t++)
		if (w->topic == ALL || w->topic == t)
			assert_int_equal(heard[t], published[t]);
}

/* With this one's token, or with one that was its. */
static void join(void)
{
	struct who *w = &who[who_n++];
	char text[80], topic[2] = "*";
	unsigned heard[TOPICS];

	world_rest();
	w->c = world_client();
	assert_non_null(w->c);
	w->user = random_below(&dice, USERS);
	w->generation = rights[random_below(&dice, 4) > 0 ? version : 0][w->user].generation;
	w->topic = random_below(&dice, TOPICS + 1);
	memcpy(w->begun, published, sizeof(published));
	if (w->topic != ALL)
		topic[0] = (char)('0' + w->topic);
	snprintf(text, sizeof(text), "AUTH token-%u-%u\r\nSUBSCRIBE t.%s\r\n", w->user,
		 w->generation, topic);
	say(w->c, text);
	world_rest();
	world_pass(NS_PER_S);
	w->in = may(version, w->user, w->generation, w->topic);
	if (w->in) {
		assert_heard_all(w);
		return;
	}
	assert_true(is_refused(w, 2, heard));
	assert_memory_equal(heard, w->begun, sizeof(heard));
	assert_true(w->c->over);
	w->heard_bytes = w->c->line_n;
}

static void publish_some(void)
{
	for (unsigned n = random_below(&dice, 8); n > 0; n--)
		publish(random_below(&dice, TOPICS));
}

/* Messages, steps of whoever is drawn, and the reload somewhere among them. */
static void reload(void)
{
	version++;
	publish_some();
	for (unsigned n = random_below(&dice, 60); n > 0; n--)
		world_step();
	world_begin_reload();
	for (unsigned n = random_below(&dice, 200); n > 0; n--) {
		world_step();
		if (random_one_in(&dice, 10))
			publish(random_below(&dice, TOPICS));
	}
	world_rest();
	world_pass(NS_PER_S);
}

static void check_all(void)
{
	unsigned heard[TOPICS];

	for (unsigned i = 0; i < who_n; i++) {
		struct who *w = &who[i];

		if (w->in && may(version, w->user, w->generation, w->topic)) {
			assert_heard_all(w);
		} else if (w->in) {
			assert_true(is_refused(w, 2, heard));
			assert_true(w->c->over);
			w->in = false;
			w->heard_bytes = w->c->line_n;
		} else {
			assert_int_equal(w->c->line_n, w->heard_bytes);
		}
	}
}

static void play(uint64_t seed)
{
	const struct sim_params params = {
		.seed = seed,
		.schedule = seed,
		.shards = 1 + (unsigned)(seed % 4),
		.faults = 1u << FAULT_PREEMPT | 1u << FAULT_SHORT | 1u << FAULT_ENDSHOT |
			  1u << FAULT_ENTER | (seed % 3 == 0 ? 1u << FAULT_TLS : 0),
	};

	dice = random_for(seed, 99, 0);
	version = who_n = 0;
	memset(published, 0, sizeof(published));
	memset(who, 0, sizeof(who));
	draw_rights();
	world_begin(&params, false);
	for (unsigned t = 0; t < TOPICS; t++) {
		char text[64];

		writers[t] = world_client();
		snprintf(text, sizeof(text), "AUTH writer\r\nPUBLISH t.%u\r\n", t);
		say(writers[t], text);
		world_rest();
	}
	for (;;) {
		for (unsigned i = 0; i < JOINS; i++) {
			join();
			publish_some();
		}
		world_rest();
		check_all();
		if (version == VERSIONS - 1)
			break;
		reload();
		check_all();
	}
	world_end();
}

static unsigned number_of(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);

	return text != NULL ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

static void nobody_hears_what_he_may_not_and_nobody_else_notices(void **state)
{
	unsigned first = number_of("FIRST", 1), n = number_of("WORLDS", WORLDS_SHORT);

	(void)state;
	world_adjust = set_users;
	for (unsigned seed = first; seed < first + n; seed++) {
		print_message("world %u\n", seed);
		play(seed);
	}
	world_adjust = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_hears_what_he_may_not_and_nobody_else_notices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
