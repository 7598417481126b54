#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/hash.h"
#include "base/memo.h"
#include "base/memory.h"
#include "broker/identity.h"
#include "engine/worker.h"

/* The digests of "one" and "two". */
#define ONE "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
#define TWO "sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"

static char problem[512];

static struct config *config_of(const char *text)
{
	char path[] = "/tmp/test_identity.XXXXXX", *said = NULL;
	struct config *config = NULL;
	size_t size = 0;
	FILE *errors = open_memstream(&said, &size);
	int fd = mkstemp(path);

	assert_true(fd >= 0 && errors != NULL);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	if (config_load(path, &config, errors) != 0) {
		fflush(errors);
		fail_msg("%s", said);
	}
	fclose(errors);
	free(said);
	unlink(path);
	return config;
}

#define LISTEN "listen \"main\" { address = \"127.0.0.1:8080\" }\n"

/* NULL: refused, and the problem says why. */
static struct identities *identities_of(const char *users)
{
	char text[4096];
	struct identities *all;
	struct config *config;

	snprintf(text, sizeof(text), LISTEN "%s", users);
	config = config_of(text);
	all = identities_new(config, problem, sizeof(problem));
	config_free(config);
	return all;
}

static bool may(const struct identity *i, enum access_action action, const char *name)
{
	return identity_may(i, action, span_of(name), strpbrk(name, "*>") != NULL);
}

static void a_user_may_what_is_listed_and_not_denied(void **state)
{
	struct identities *all =
		identities_of("user me { token_hash = { \"" ONE "\" } publish = { \"a.>\" } "
			      "subscribe = { \"a.*\", \"me.%u.>\" } deny_publish = { \"a.b.>\" } "
			      "deny_subscribe = { \"a.secret\" } }");
	const struct identity *i;

	(void)state;
	assert_non_null(all);
	i = identity_of_token(all, SPAN("one"));
	assert_non_null(i);
	assert_true(may(i, ACCESS_PUBLISH, "a.x"));
	assert_false(may(i, ACCESS_PUBLISH, "a.b.c"));
	assert_false(may(i, ACCESS_PUBLISH, "b"));
	assert_true(may(i, ACCESS_SUBSCRIBE, "a.x"));
	assert_false(may(i, ACCESS_SUBSCRIBE, "a.x.y"));
	assert_false(may(i, ACCESS_SUBSCRIBE, "a.secret"));
	/* A pattern that meets what is denied is refused whole, and so is one that goes beyond. */
	assert_false(may(i, ACCESS_SUBSCRIBE, "a.*"));
	assert_false(may(i, ACCESS_SUBSCRIBE, "a.>"));
	assert_true(may(i, ACCESS_SUBSCRIBE, "me.me.>"));
	assert_false(may(i, ACCESS_SUBSCRIBE, "me.*.x"));
	identities_let_go(all);
}

/* Whoever forgets to say that it is a pattern asks for no more than it stands for. */
static void a_pattern_is_never_taken_for_a_name(void **state)
{
	struct identities *all =
		identities_of("user me { token_hash = { \"" ONE "\" } subscribe = { \"a.*\" } }");
	const struct identity *i;

	(void)state;
	assert_non_null(all);
	i = identity_of_token(all, SPAN("one"));
	assert_true(identity_may(i, ACCESS_SUBSCRIBE, SPAN("a.*"), false));
	assert_false(identity_may(i, ACCESS_SUBSCRIBE, SPAN("a.>"), false));
	assert_false(identity_may(i, ACCESS_SUBSCRIBE, SPAN("*.*"), false));
	identities_let_go(all);
}

static void a_user_without_lists_may_nothing(void **state)
{
	struct identities *all = identities_of("user me { token_hash = { \"" ONE "\" } }");
	const struct identity *i;

	(void)state;
	assert_non_null(all);
	i = identity_of_token(all, SPAN("one"));
	assert_false(may(i, ACCESS_PUBLISH, "a"));
	assert_false(may(i, ACCESS_SUBSCRIBE, "a"));
	assert_false(may(i, ACCESS_SUBSCRIBE, ">"));
	assert_null(all->anonymous);
	identities_let_go(all);
}

/* Somebody's digest of something else is no token, whatever is shown. */
static void what_is_shown_counts_as_what_it_is(void **state)
{
	struct identities *all =
		identities_of("user a { certificate = \"x.example\" }\nuser b { uid = 1001 }\n"
			      "user c { token_hash = { \"" ONE "\" } }\n");

	(void)state;
	assert_non_null(all);
	assert_null(identity_of_token(all, SPAN("certificate\nx.example")));
	assert_null(identity_of_token(all, SPAN("uid\n1001")));
	assert_null(identity_of_token(all, SPAN("")));
	assert_null(identity_of_certificate(all, SPAN("")));
	assert_null(identity_of_certificate(all, SPAN("x.example.org")));
	assert_string_equal(identity_of_certificate(all, SPAN("x.example"))->rights->name, "a");
	assert_string_equal(identity_of_uid(all, 1001)->rights->name, "b");
	assert_null(identity_of_uid(all, 0));
	identities_let_go(all);
}

static void a_credential_is_one_users(void **state)
{
	(void)state;
	assert_null(identities_of("user a { token_hash = { \"" ONE "\" } }\n"
				  "user b { token_hash = { \"" TWO "\", \"" ONE "\" } }\n"));
	assert_non_null(strstr(problem, "user \"b\": token_hash"));
	assert_null(identities_of("user a { uid = 7 }\nuser b { uid = 007 }\n"));
	assert_null(identities_of("user a { certificate = x }\nuser b { certificate = x }\n"));
}

static void who_comes_again_is_who_he_is_by_then(void **state)
{
	struct identities *before = identities_of("user a { token_hash = { \"" ONE "\", \"" TWO
						  "\" } publish = { \"x\" } }");
	struct identities *after =
		identities_of("user a { token_hash = { \"" TWO "\" } publish = { \"y\" } }");
	struct identity *again;

	(void)state;
	assert_true(before != NULL && after != NULL);
	assert_null(identity_again(after, identity_of_token(before, SPAN("one"))));
	again = identity_again(after, identity_of_token(before, SPAN("two")));
	assert_ptr_equal(again, identity_of_token(after, SPAN("two")));
	assert_true(may(again, ACCESS_PUBLISH, "y") && !may(again, ACCESS_PUBLISH, "x"));
	identity_let_go(again);
	identities_let_go(before);
	identities_let_go(after);
}

/* What it was given for, and no more than whoever asked for it may by now. */
static void a_ticket_is_worth_what_its_owner_is(void **state)
{
	struct identities *before =
		identities_of("user a { token_hash = { \"" ONE "\" } subscribe = { \"x.>\" } }");
	struct identities *after =
		identities_of("user a { token_hash = { \"" ONE "\" } subscribe = { \"x.y\" } }");
	struct identities *gone = identities_of("user b { token_hash = { \"" ONE "\" } }");
	struct identity *made = identity_new(HOW_TICKET, SPAN("")), *again;
	struct ticket ticket = { .user = "a", .until_s = JWT_FOREVER };

	(void)state;
	assert_true(before != NULL && after != NULL && gone != NULL && made != NULL);
	ticket.key = identity_of_token(before, SPAN("one"))->key;
	assert_int_equal(identity_grant(made, ACCESS_SUBSCRIBE, SPAN("x.*")), 0);
	assert_ptr_equal(identity_of_ticket(before, &ticket, made), made);
	assert_true(may(made, ACCESS_SUBSCRIBE, "x.z"));
	assert_false(may(made, ACCESS_SUBSCRIBE, "x.z.a"));
	assert_false(may(made, ACCESS_PUBLISH, "x.z"));
	again = identity_again(after, made);
	assert_non_null(again);
	assert_true(may(again, ACCESS_SUBSCRIBE, "x.y"));
	assert_false(may(again, ACCESS_SUBSCRIBE, "x.z"));
	identity_let_go(again);
	/* The credential is another's by now. */
	again = identity_again(gone, made);
	assert_false(again != NULL && may(again, ACCESS_SUBSCRIBE, "x.y"));
	identity_let_go(again);
	identity_let_go(made);
	identities_let_go(before);
	identities_let_go(after);
	identities_let_go(gone);
}

static void an_unknown_user_costs_as_much_as_a_known_one(void **state)
{
	static const char hash[] = "$6$abcdefgh$D7W7qyozKBT.t6FD3DVYHvADbIO0eSyI4.p20LaEUjro8P"
				   "qTGYYo/EQcuNjhFbzo9Yg5ir1KIEqFY/yJpgFph0";
	char text[512];
	struct identities *all;
	const char *found;

	(void)state;
	snprintf(text, sizeof(text), "user a { password_hash = '%s' }\nuser b {}\n", hash);
	all = identities_of(text);
	assert_non_null(all);
	assert_non_null(identity_of_user(all, SPAN("a"), &found));
	assert_string_equal(found, hash);
	assert_null(identity_of_user(all, SPAN("nobody"), &found));
	assert_string_equal(found, hash);
	assert_null(identity_of_user(all, SPAN("b"), &found));
	assert_string_equal(found, hash);
	identities_let_go(all);
	all = identities_of("user b {}\n");
	assert_null(identity_of_user(all, SPAN("b"), &found));
	assert_null(found);
	identities_let_go(all);
}

/* ---- what is remembered ---- */

static unsigned forgotten;

static void forget(struct memo_entry *e)
{
	forgotten++;
	memory_free(e);
}

static void remember(struct memo *m, unsigned key, uint64_t until_ns)
{
	unsigned char bytes[MEMO_KEY_BYTES] = { 0 };
	struct memo_entry *e = memory_new_zeroed(sizeof(*e));

	memcpy(bytes, &key, sizeof(key));
	assert_non_null(e);
	assert_int_equal(memo_add(m, e, bytes, until_ns), 0);
}

static bool remembered(struct memo *m, unsigned key, uint64_t now_ns)
{
	unsigned char bytes[MEMO_KEY_BYTES] = { 0 };

	memcpy(bytes, &key, sizeof(key));
	return memo_find(m, bytes, now_ns) != NULL;
}

static void what_is_remembered_is_so_many_for_so_long(void **state)
{
	struct memo m;

	(void)state;
	forgotten = 0;
	memo_init(&m, 3, forget);
	for (unsigned i = 0; i < 3; i++)
		remember(&m, i, 100 + i);
	assert_true(remembered(&m, 0, 99) && !remembered(&m, 0, 100));
	/* One more, and the first goes; the same again takes its own place. */
	remember(&m, 3, 200);
	assert_false(remembered(&m, 0, 0));
	remember(&m, 1, 300);
	assert_true(remembered(&m, 2, 0) && remembered(&m, 3, 0) && remembered(&m, 1, 299));
	assert_int_equal(forgotten, 2);
	memo_expire(&m, 250);
	assert_int_equal(forgotten, 4);
	assert_true(remembered(&m, 1, 250));
	memo_release(&m);
	assert_int_equal(forgotten, 5);
}

/* ---- threads beside the reactors ---- */

struct job {
	struct work work;
	_Atomic bool may_end, ran;
};

static void run(struct work *work)
{
	struct job *j = (struct job *)(void *)work;

	while (!j->may_end)
		usleep(1000);
	j->ran = true;
}

static void work_is_done_by_others_and_no_more_than_may_wait(void **state)
{
	struct workers *w = workers_new();
	struct job jobs[3] = { 0 };

	(void)state;
	assert_non_null(w);
	for (int i = 0; i < 3; i++)
		jobs[i].work.run = run;
	/* Without threads it is done at once. */
	jobs[0].may_end = true;
	assert_true(workers_give(w, &jobs[0].work, 1));
	assert_true(jobs[0].ran);
	assert_int_equal(workers_start(w, 1), 0);
	jobs[0].ran = jobs[0].may_end = false;
	assert_true(workers_give(w, &jobs[0].work, 1));
	while (workers_waiting(w) > 0)
		usleep(1000);
	assert_true(workers_give(w, &jobs[1].work, 1));
	assert_false(workers_give(w, &jobs[2].work, 1));
	jobs[0].may_end = jobs[1].may_end = true;
	while (!jobs[1].ran)
		usleep(1000);
	workers_free(w);
	assert_false(jobs[2].ran);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_user_may_what_is_listed_and_not_denied),
		cmocka_unit_test(a_pattern_is_never_taken_for_a_name),
		cmocka_unit_test(a_user_without_lists_may_nothing),
		cmocka_unit_test(what_is_shown_counts_as_what_it_is),
		cmocka_unit_test(a_credential_is_one_users),
		cmocka_unit_test(who_comes_again_is_who_he_is_by_then),
		cmocka_unit_test(a_ticket_is_worth_what_its_owner_is),
		cmocka_unit_test(an_unknown_user_costs_as_much_as_a_known_one),
		cmocka_unit_test(what_is_remembered_is_so_many_for_so_long),
		cmocka_unit_test(work_is_done_by_others_and_no_more_than_may_wait),
	};

	hash_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
