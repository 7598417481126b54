#include "broker/login.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/memory.h"
#include "base/password.h"
#include "broker/admission.h"
#include "broker/audit.h"
#include "broker/connection.h"
#include "broker/shard.h"
#include "engine/worker.h"

enum {
	LOOK_MS = 5,          /* between two looks for a hash: it takes ten times as long */
	FAILURE_SECONDS = 60, /* wrong credentials are counted, and then refused, for */
	ANSWER_COST = 8,      /* of telling one, about 2 us */
	SIGNATURE_COST = 200, /* of looking at one, about 50 us */
};

/* ---- the desk ---- */

/* A password that is to be compared with a hash. */
struct job {
	struct work work;
	struct list link; /* the desk's, until it is decided */
	struct login_desk *desk;
	unsigned holders; /* the worker, and groups; the desk's lock */
	bool decided, right, busy;
	bool unknown; /* its user, which is not to be noticed */
	uint64_t keep_ns, took_ns;
	struct digest key;
	char hash[PASSWORD_HASH_BYTES_MAX];
	char password[PASSWORD_BYTES_MAX];
};

/* An address that wrong credentials came from. */
struct failures {
	struct memo_entry entry;
	unsigned n;
	bool refused;
};

static void decided(struct connection *c, enum access_result result, struct identity *i)
{
	c->shard->logins.decide(c, result, i);
}

static void forget(struct memo_entry *e)
{
	memory_free(e);
}

struct login_desk *login_desk_new(void)
{
	struct login_desk *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return NULL;
	d->workers = workers_new();
	if (d->workers == NULL || !bytes_random(d->secret, sizeof(d->secret))) {
		workers_free(d->workers);
		free(d);
		return NULL;
	}
	pthread_mutex_init(&d->lock, NULL);
	list_init(&d->jobs);
	memo_init(&d->passwords, LOGIN_PASSWORDS_MAX, forget);
	memo_init(&d->addresses, LOGIN_ADDRESSES_MAX, forget);
	memo_init(&d->tickets, LOGIN_TICKETS_MAX, forget);
	return d;
}

static void job_free(struct job *j)
{
	bytes_forget(j->password, sizeof(j->password));
	memory_free(j);
}

void login_desk_free(struct login_desk *d)
{
	struct list *l;

	if (d == NULL)
		return;
	workers_free(d->workers);
	while ((l = list_take(&d->jobs)) != NULL)
		job_free(LIST_ENTRY(l, struct job, link));
	memo_release(&d->passwords);
	memo_release(&d->addresses);
	memo_release(&d->tickets);
	pthread_mutex_destroy(&d->lock);
	bytes_forget(d->secret, sizeof(d->secret));
	free(d);
}

/* With the lock. */
static void job_let_go(struct job *j)
{
	if (--j->holders == 0)
		job_free(j);
}

/* With the lock. */
static void decide(struct job *j)
{
	j->decided = true;
	list_remove(&j->link);
	bytes_forget(j->password, sizeof(j->password));
	atomic_fetch_add(&j->desk->decided, 1);
}

/* With the lock: it need not be hashed again for a while. */
static void remember(struct job *j)
{
	struct memo_entry *e = j->keep_ns > 0 ? memory_new_zeroed(sizeof(*e)) : NULL;

	if (e != NULL &&
	    memo_add(&j->desk->passwords, e, j->key.bytes, clock_now_ns() + j->keep_ns) != 0)
		memory_free(e);
}

/* On a worker's thread. */
static void hash(struct work *work)
{
	struct job *j = (struct job *)(void *)work;
	struct login_desk *d = j->desk;
	uint64_t began_ns = clock_now_ns();
	bool right = password_fits(j->password, j->hash) && !j->unknown;

	pthread_mutex_lock(&d->lock);
	j->took_ns = clock_now_ns() - began_ns;
	j->right = right;
	if (right)
		remember(j);
	decide(j);
	job_let_go(j);
	pthread_mutex_unlock(&d->lock);
	memory_settle();
}

/* Whether what is shown is remembered as right, or else the one job of it, held. NULL: out of
 * memory. */
static struct job *job_for(struct login_desk *d, const struct digest *key, uint64_t now_ns,
			   bool *right, bool *fresh)
{
	struct job *j = NULL;

	*fresh = false;
	memo_expire(&d->passwords, now_ns);
	*right = memo_find(&d->passwords, key->bytes, now_ns) != NULL;
	if (*right)
		return NULL;
	for (struct list *l = d->jobs.next; l != &d->jobs && j == NULL; l = l->next)
		if (bytes_same(&LIST_ENTRY(l, struct job, link)->key, key, sizeof(*key)))
			j = LIST_ENTRY(l, struct job, link);
	if (j == NULL) {
		j = memory_new_zeroed(sizeof(*j));
		if (j == NULL)
			return NULL;
		j->work.run = hash;
		j->desk = d;
		j->key = *key;
		j->holders = 1;
		list_append(&d->jobs, &j->link);
		*fresh = true;
	}
	j->holders++;
	return j;
}

/* ---- where wrong ones come from ---- */

static void address_key(const unsigned char address[16], unsigned char key[MEMO_KEY_BYTES])
{
	memset(key, 0, MEMO_KEY_BYTES);
	admission_whose(address, key);
}

static bool is_refused(struct login_desk *d, const unsigned char address[16], uint64_t now_ns)
{
	unsigned char key[MEMO_KEY_BYTES];
	const struct failures *f;
	bool refused;

	if (atomic_load_explicit(&d->refusing, memory_order_relaxed) == 0)
		return false;
	address_key(address, key);
	pthread_mutex_lock(&d->lock);
	f = (const struct failures *)(void *)memo_find(&d->addresses, key, now_ns);
	refused = f != NULL && f->refused;
	pthread_mutex_unlock(&d->lock);
	return refused;
}

static void count_failure(struct login_desk *d, const unsigned char address[16], unsigned max,
			  uint64_t now_ns)
{
	unsigned char key[MEMO_KEY_BYTES];
	struct failures *f, *before;
	uint64_t until_ns = now_ns + FAILURE_SECONDS * NS_PER_S;

	address_key(address, key);
	pthread_mutex_lock(&d->lock);
	memo_expire(&d->addresses, now_ns);
	if (d->addresses.table.entries_n == 0)
		atomic_store(&d->refusing, 0);
	before = (struct failures *)(void *)memo_find(&d->addresses, key, now_ns);
	if (before == NULL || (!before->refused && before->n + 1 >= max)) {
		f = memory_new_zeroed(sizeof(*f));
		if (f != NULL) {
			f->n = before != NULL ? before->n + 1 : 1;
			f->refused = f->n >= max;
			/* A minute from the first one on, and then another from the last. */
			if (memo_add(&d->addresses, &f->entry, key, until_ns) != 0)
				memory_free(f);
			else if (f->refused)
				atomic_store(&d->refusing, 1);
		}
	} else {
		before->n++;
	}
	pthread_mutex_unlock(&d->lock);
}

/* ---- a shard's part ---- */

/* Somebody who has to wait for his answer. */
struct login {
	struct list link;
	uint32_t slot, generation;
	uint64_t due_ns;
	size_t token_len;
	char token[];
};

/* Those who have shown the same password. */
struct login_group {
	struct list link;
	struct list logins;
	struct job *job;
	struct identity *identity; /* held; NULL: of nobody */
	bool right, busy;
};

/* A good token of somebody else's. */
struct known_token {
	struct memo_entry entry;
	struct identity *identity;
};

static void forget_token(struct memo_entry *e)
{
	identity_let_go(((struct known_token *)(void *)e)->identity);
	memory_free(e);
}

void logins_init(struct shard *s, struct identities *identities, logins_decided *answer)
{
	s->logins.decide = answer;
	list_init(&s->logins.signatures);
	list_init(&s->logins.passwords);
	list_init(&s->logins.told);
	list_init(&s->logins.wrong);
	memo_init(&s->logins.tokens, LOGIN_TOKENS_MAX, forget_token);
	s->logins.identities = identities_hold(identities);
	s->logins.expires_s = s->logins.next_expires_s = JWT_FOREVER;
	s->logins.review_again_ns = UINT64_MAX;
}

static void login_free(struct login *l)
{
	bytes_forget(l->token, l->token_len);
	memory_free(l);
}

static void logins_free(struct list *logins)
{
	struct list *l;

	while ((l = list_take(logins)) != NULL)
		login_free(LIST_ENTRY(l, struct login, link));
}

static void group_free(struct shard *s, struct login_group *g)
{
	pthread_mutex_lock(&s->broker->desk->lock);
	job_let_go(g->job);
	pthread_mutex_unlock(&s->broker->desk->lock);
	identity_let_go(g->identity);
	memory_free(g);
}

static void groups_free(struct shard *s, struct list *groups)
{
	struct list *l;

	while ((l = list_take(groups)) != NULL) {
		struct login_group *g = LIST_ENTRY(l, struct login_group, link);

		logins_free(&g->logins);
		group_free(s, g);
	}
}

void logins_release(struct shard *s)
{
	if (s->logins.identities == NULL)
		return;
	logins_free(&s->logins.signatures);
	logins_free(&s->logins.wrong);
	groups_free(s, &s->logins.passwords);
	groups_free(s, &s->logins.told);
	memo_release(&s->logins.tokens);
	identities_let_go(s->logins.identities);
}

void logins_configure(struct shard *s, struct identities *identities)
{
	identities_let_go(s->logins.identities);
	s->logins.identities = identities_hold(identities);
	memo_release(&s->logins.tokens);
	memo_init(&s->logins.tokens, LOGIN_TOKENS_MAX, forget_token);
}

/* ---- answers ---- */

/* Whoever it is for; NULL: he has gone. */
static struct connection *asker(struct shard *s, const struct login *l)
{
	struct socket *socket = socket_at(&s->sockets, l->slot, l->generation);

	return socket != NULL ? connection_of(socket) : NULL;
}

/* Takes the login over. */
static void tell(struct shard *s, struct login *l, enum access_result result,
		 struct identity *identity)
{
	struct connection *c = asker(s, l);

	s->logins.waiting_n--;
	login_free(l);
	if (c == NULL)
		return;
	c->asked--;
	if (identity != NULL) {
		/* Who there is may have changed since it was looked up. */
		identity = identity_again(s->logins.identities, identity);
		result = identity != NULL ? result : ACCESS_WRONG;
	}
	decided(c, result, identity);
	identity_let_go(identity);
	connection_answered(c);
}

static struct login *login_new(struct connection *c, struct span token)
{
	struct login *l = memory_new_zeroed(sizeof(*l) + token.len);

	if (l == NULL) {
		connection_close(c, DROP_MEMORY);
		return NULL;
	}
	list_init(&l->link);
	l->slot = c->socket.slot;
	l->generation = socket_generation(&c->shard->sockets, &c->socket);
	l->token_len = token.len;
	if (token.len > 0)
		memcpy(l->token, token.data, token.len);
	c->shard->logins.waiting_n++;
	c->asked++;
	return l;
}

static uint64_t wrong_at(const struct shard *s)
{
	return s->reactor.now_ns + LOGIN_WRONG_MS * NS_PER_MS;
}

/* He will be told no. */
static void put_off(struct shard *s, struct login *l)
{
	l->due_ns = wrong_at(s);
	list_append(&s->logins.wrong, &l->link);
}

static void say_failure(struct connection *c, enum access_how how, const char *why,
			const struct credentials *shown)
{
	unsigned char address[16];
	char who[AUDIT_TEXT_MAX], where[CONNECTION_PEER_MAX];

	c->shard->counters.auth[how][AUTH_WRONG]++;
	connection_peer(c, address);
	count_failure(c->shard->broker->desk, address, c->shard->config->auth.failures,
		      c->shard->reactor.now_ns);
	audit(AUDIT_FAILURE, "auth failed reason=\"%s\" user=%s how=%s address=%s protocol=%s", why,
	      audit_name(shown != NULL ? shown->user : SPAN(""), who), access_how_names[how],
	      connection_peer_text(c, where), c->protocol->name);
}

/* Nothing that he shows is looked at any more. */
static void refuse(struct connection *c, enum access_how how, const char *why,
		   const struct credentials *shown)
{
	struct login *l = login_new(c, (struct span){ NULL, 0 });

	say_failure(c, how, why, shown);
	if (l != NULL)
		put_off(c->shard, l);
}

/* ---- tokens of others ---- */

static int64_t now_s(void)
{
	return (int64_t)(clock_wall_ns() / NS_PER_S);
}

/* Looks at one. NULL: *identity is it, held; else why it is not taken. */
static const char *look_at_token(struct shard *s, struct span token, struct identity **identity)
{
	struct known_token *known;
	struct digest key;
	const char *wrong;

	s->logins.signatures_n++;
	reactor_spend(&s->reactor, SIGNATURE_COST);
	wrong = identity_of_jwt(s->logins.identities, &s->config->auth.jwt, token, now_s(),
				identity);
	if (wrong != NULL)
		return wrong;
	known = memory_new_zeroed(sizeof(*known));
	if (known == NULL)
		return NULL;
	known->identity = identity_hold(*identity);
	/* It stays until others take its place, or who there is changes. */
	if (!digest_of(token, &key) ||
	    memo_add(&s->logins.tokens, &known->entry, key.bytes, UINT64_MAX) != 0)
		forget_token(&known->entry);
	return NULL;
}

static struct identity *known(struct shard *s, struct span token)
{
	const struct known_token *k;
	struct digest key;

	if (!digest_of(token, &key))
		return NULL;
	k = (const struct known_token *)(void *)memo_find(&s->logins.tokens, key.bytes, 0);
	return k != NULL && now_s() < k->identity->expires_s ? k->identity : NULL;
}

static void begin_token(struct connection *c, struct span token)
{
	struct shard *s = c->shard;
	struct identity *identity = known(s, token);
	struct login *l;
	const char *wrong;

	if (identity != NULL) {
		decided(c, ACCESS_GRANTED, identity);
		return;
	}
	if (token.len > JWT_BYTES_MAX) {
		refuse(c, HOW_JWT, "it is longer than 8 KiB", NULL);
		return;
	}
	if (s->logins.signatures_n >= LOGIN_SIGNATURES) {
		l = login_new(c, token);
		if (l != NULL)
			list_append(&s->logins.signatures, &l->link);
		return;
	}
	wrong = look_at_token(s, token, &identity);
	if (wrong != NULL) {
		refuse(c, HOW_JWT, wrong, NULL);
		return;
	}
	decided(c, ACCESS_GRANTED, identity);
	identity_let_go(identity);
}

/* A token that had to wait for its turn. */
static void go_on_with(struct shard *s, struct login *l)
{
	struct identity *identity = NULL;
	struct connection *c = asker(s, l);
	const char *wrong;

	if (c == NULL) {
		tell(s, l, ACCESS_WRONG, NULL);
		return;
	}
	wrong = look_at_token(s, (struct span){ l->token, l->token_len }, &identity);
	if (wrong == NULL) {
		tell(s, l, ACCESS_GRANTED, identity);
		identity_let_go(identity);
		return;
	}
	say_failure(c, HOW_JWT, wrong, NULL);
	put_off(s, l);
}

/* ---- passwords ---- */

/* Apart from all others, and of no use to whoever finds it in memory. */
static bool password_key(const struct login_desk *d, const struct credentials *shown,
			 const char *hash_text, bool unknown, struct digest *out)
{
	char all[JWT_NAME_MAX + PASSWORD_BYTES_MAX + PASSWORD_HASH_BYTES_MAX + 8], *at = all;
	bool made;

	*at++ = unknown;
	at = stpcpy(at, hash_text) + 1;
	memcpy(at, shown->user.data, shown->user.len);
	at += shown->user.len;
	*at++ = '\0';
	memcpy(at, shown->secret.data, shown->secret.len);
	at += shown->secret.len;
	made = digest_keyed((struct span){ (const char *)d->secret, sizeof(d->secret) },
			    (struct span){ all, (size_t)(at - all) }, out);
	bytes_forget(all, sizeof(all));
	return made;
}

static struct login_group *group_of(struct shard *s, const struct job *j)
{
	for (struct list *l = s->logins.passwords.next; l != &s->logins.passwords; l = l->next)
		if (LIST_ENTRY(l, struct login_group, link)->job == j)
			return LIST_ENTRY(l, struct login_group, link);
	return NULL;
}

/* Where the connection waits for the job; takes the hold on the job over. False: out of memory. */
static bool wait_for(struct connection *c, struct job *j, struct identity *identity)
{
	struct shard *s = c->shard;
	struct login_group *g = group_of(s, j);
	struct login *l;

	if (g != NULL) {
		pthread_mutex_lock(&s->broker->desk->lock);
		job_let_go(j);
		pthread_mutex_unlock(&s->broker->desk->lock);
	} else {
		g = memory_new_zeroed(sizeof(*g));
		if (g == NULL)
			return false;
		list_init(&g->logins);
		list_append(&s->logins.passwords, &g->link);
		g->job = j;
		g->identity = identity != NULL ? identity_hold(identity) : NULL;
	}
	l = login_new(c, (struct span){ NULL, 0 });
	if (l != NULL)
		list_append(&g->logins, &l->link);
	/* It may have been decided by now, and a group of nobody goes with its answer. */
	s->logins.decided--;
	return true;
}

static void begin_password(struct connection *c, const struct credentials *shown)
{
	struct shard *s = c->shard;
	struct login_desk *d = s->broker->desk;
	const char *hash_text;
	struct identity *identity = identity_of_user(s->logins.identities, shown->user, &hash_text);
	bool right = false, fresh = false;
	struct digest key;
	struct job *j;

	if (hash_text == NULL || shown->user.len > JWT_NAME_MAX || shown->secret.len == 0 ||
	    shown->secret.len >= PASSWORD_BYTES_MAX ||
	    memchr(shown->secret.data, '\0', shown->secret.len) != NULL ||
	    !password_key(d, shown, hash_text, identity == NULL, &key)) {
		refuse(c, HOW_PASSWORD, "no such password", shown);
		return;
	}
	pthread_mutex_lock(&d->lock);
	j = job_for(d, &key, s->reactor.now_ns, &right, &fresh);
	if (fresh) {
		j->unknown = identity == NULL;
		j->keep_ns = s->config->auth.cache_seconds * NS_PER_S;
		strcpy(j->hash, hash_text);
		memcpy(j->password, shown->secret.data, shown->secret.len);
	}
	pthread_mutex_unlock(&d->lock);
	if (right) {
		decided(c, ACCESS_GRANTED, identity);
		return;
	}
	if (j == NULL) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	if (fresh && !workers_give(d->workers, &j->work, s->config->auth.hash_pending)) {
		/* Others may have come to wait for it. */
		pthread_mutex_lock(&d->lock);
		j->busy = true;
		decide(j);
		job_let_go(j);
		pthread_mutex_unlock(&d->lock);
	}
	if (!wait_for(c, j, identity)) {
		pthread_mutex_lock(&d->lock);
		job_let_go(j);
		pthread_mutex_unlock(&d->lock);
		connection_close(c, DROP_MEMORY);
	}
}

/* Those whose password is decided are told in this turn and the next ones. */
static void look_for_decided(struct shard *s)
{
	struct login_desk *d = s->broker->desk;
	uint64_t decided = atomic_load(&d->decided);
	struct list *l = s->logins.passwords.next;

	if (decided == s->logins.decided)
		return;
	s->logins.decided = decided;
	pthread_mutex_lock(&d->lock);
	while (l != &s->logins.passwords) {
		struct login_group *g = LIST_ENTRY(l, struct login_group, link);

		l = l->next;
		if (!g->job->decided)
			continue;
		g->right = g->job->right;
		g->busy = g->job->busy;
		if (!g->busy)
			histogram_add(&s->logins.hash, g->job->took_ns);
		list_remove(&g->link);
		list_append(&s->logins.told, &g->link);
	}
	pthread_mutex_unlock(&d->lock);
}

/* Tells one of a group. */
static void tell_decided(struct shard *s, struct login_group *g, struct login *l)
{
	struct connection *c = asker(s, l);

	if (!g->right && !g->busy) {
		if (c == NULL) {
			tell(s, l, ACCESS_WRONG, NULL);
			return;
		}
		say_failure(c, HOW_PASSWORD, "no such password",
			    &(struct credentials){
				    .user = g->identity != NULL ? span_of(g->identity->rights->name)
								: SPAN("") });
		put_off(s, l);
		return;
	}
	tell(s, l, g->right ? ACCESS_GRANTED : ACCESS_BUSY, g->right ? g->identity : NULL);
}

/* Whether more are left. */
static bool tell_some(struct shard *s)
{
	while (!list_empty(&s->logins.told)) {
		struct login_group *g = LIST_ENTRY(s->logins.told.next, struct login_group, link);
		struct list *l;

		while ((l = list_take(&g->logins)) != NULL) {
			tell_decided(s, g, LIST_ENTRY(l, struct login, link));
			reactor_spend(&s->reactor, ANSWER_COST);
			if (reactor_spent(&s->reactor))
				return true;
		}
		list_remove(&g->link);
		group_free(s, g);
	}
	return false;
}

/* ---- the turn ---- */

/* Whether more are due. */
static bool refuse_some(struct shard *s)
{
	while (!list_empty(&s->logins.wrong)) {
		struct login *l = LIST_ENTRY(s->logins.wrong.next, struct login, link);

		if (s->reactor.now_ns < l->due_ns) {
			reactor_wake_at(&s->reactor, l->due_ns);
			return false;
		}
		list_remove(&l->link);
		tell(s, l, ACCESS_WRONG, NULL);
		reactor_spend(&s->reactor, ANSWER_COST);
		if (reactor_spent(&s->reactor))
			return true;
	}
	return false;
}

bool logins_flush(struct shard *s)
{
	bool more;

	reactor_part(&s->reactor, PART_CLIENTS);
	s->logins.signatures_n = 0;
	look_for_decided(s);
	more = tell_some(s);
	while (s->logins.signatures_n < LOGIN_SIGNATURES && !list_empty(&s->logins.signatures) &&
	       (s->logins.signatures_n == 0 || !reactor_spent(&s->reactor)))
		go_on_with(s, LIST_ENTRY(list_take(&s->logins.signatures), struct login, link));
	more |= !list_empty(&s->logins.signatures);
	more |= refuse_some(s);
	if (!list_empty(&s->logins.passwords))
		reactor_wake_at(&s->reactor, s->reactor.now_ns + LOOK_MS * NS_PER_MS);
	return more;
}

/* ---- tickets ---- */

/* The nth of those that tickets may be signed with, the first being for new ones; empty: there are
 * no more. What this process signed before there was a secret for all hosts is still good. */
static struct span secret_of(const struct connection *c, size_t n)
{
	const struct identities *all = c->shard->logins.identities;
	const struct login_desk *d = c->shard->broker->desk;

	if (n < all->ticket_secrets_n)
		return (struct span){ (const char *)all->ticket_secrets[n].bytes,
				      sizeof(all->ticket_secrets[n].bytes) };
	if (n == all->ticket_secrets_n)
		return (struct span){ (const char *)d->secret, sizeof(d->secret) };
	return (struct span){ NULL, 0 };
}

char *login_ticket_new(struct connection *c, struct span const *patterns, size_t patterns_n,
		       int64_t *expires_s)
{
	const struct identity *i = c->identity;
	struct ticket t = { .foreign = i->how == HOW_JWT,
			    .key = i->key,
			    .expires_s = now_s() + c->shard->config->auth.ticket_seconds,
			    .until_s = i->expires_s };

	strcpy(t.user, i->rights->name);
	if (!bytes_random(t.nonce, sizeof(t.nonce)))
		return NULL;
	*expires_s = t.expires_s;
	return ticket_write(&t, secret_of(c, 0), patterns, patterns_n);
}

static int grant_subscribe(void *identity, bool publish, struct span pattern)
{
	(void)publish;
	return identity_grant(identity, ACCESS_SUBSCRIBE, pattern);
}

/* A ticket is for one use. */
static bool use_up(struct login_desk *d, const struct ticket *t, uint64_t now_ns)
{
	struct memo_entry *e = memory_new_zeroed(sizeof(*e));
	unsigned char key[MEMO_KEY_BYTES] = { 0 };
	uint64_t left_ns = (uint64_t)(t->expires_s - now_s() + 1) * NS_PER_S;
	bool first;

	if (e == NULL)
		return false;
	memcpy(key, t->nonce, sizeof(t->nonce));
	pthread_mutex_lock(&d->lock);
	memo_expire(&d->tickets, now_ns);
	first = memo_find(&d->tickets, key, now_ns) == NULL &&
		memo_add(&d->tickets, e, key, now_ns + left_ns) == 0;
	pthread_mutex_unlock(&d->lock);
	if (!first)
		memory_free(e);
	return first;
}

static void begin_ticket(struct connection *c, struct span text)
{
	struct shard *s = c->shard;
	struct login_desk *d = s->broker->desk;
	struct identity *i = identity_new(HOW_TICKET, SPAN(""));
	bool good = false;
	struct span secret;
	struct ticket t;

	for (size_t n = 0; i != NULL && !good && (secret = secret_of(c, n)).len > 0; n++)
		good = ticket_read(text, secret, now_s(), &t, grant_subscribe, i);
	if (good && identity_of_ticket(s->logins.identities, &t, i) != NULL &&
	    use_up(d, &t, s->reactor.now_ns))
		decided(c, ACCESS_GRANTED, i);
	else
		refuse(c, HOW_TICKET, "no such ticket", NULL);
	identity_let_go(i);
}

/* ---- whatever it is ---- */

void login_begin(struct connection *c, const struct credentials *shown)
{
	const struct identities *all = c->shard->logins.identities;
	unsigned char address[16];
	struct identity *i;

	connection_peer(c, address);
	if (is_refused(c->shard->broker->desk, address, c->shard->reactor.now_ns)) {
		refuse(c, HOW_NOBODY, "too many failures", shown);
		return;
	}
	if (shown->ticket) {
		begin_ticket(c, shown->secret);
		return;
	}
	i = identity_of_token(all, shown->secret);
	if (i != NULL)
		decided(c, ACCESS_GRANTED, i);
	else if (all->keys_n > 0 && jwt_detect(shown->secret))
		begin_token(c, shown->secret);
	else if (shown->user.len > 0)
		begin_password(c, shown);
	else
		refuse(c, HOW_TOKEN, "no such token", shown);
}
