#include "broker/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/name.h"
#include "base/scope.h"

enum { KEYS_MAX = 16, KEY_FILE_BYTES_MAX = 64 << 10, TICKET_KEY_BYTES = 80 };

const char *const access_how_names[HOWS] = {
	[HOW_NOBODY] = "nobody",     [HOW_ANONYMOUS] = "anonymous",
	[HOW_PASSWORD] = "password", [HOW_TOKEN] = "token",
	[HOW_JWT] = "jwt",           [HOW_CERTIFICATE] = "certificate",
	[HOW_UID] = "uid",           [HOW_TICKET] = "ticket",
};

const char *const access_action_names[ACCESS_ACTIONS] = {
	[ACCESS_PUBLISH] = "publish",
	[ACCESS_SUBSCRIBE] = "subscribe",
	[ACCESS_MONITOR] = "monitor",
};

/* In the table of credentials, by its identity's key. */
struct credential {
	struct named named;
	struct identity *identity;
};

struct user {
	struct named named;
	struct rights *rights;
	struct identity *password; /* or NULL */
	char *password_hash;
};

struct identity_key {
	char name[JWT_NAME_MAX + 1];
	struct signature_key *key;
};

/* ---- holders ---- */

static void rights_let_go(struct rights *r)
{
	if (r == NULL || atomic_fetch_sub(&r->holders, 1) > 1)
		return;
	scope_free(r->scope);
	memory_free(r);
}

static struct rights *rights_new(struct span name)
{
	struct rights *r = memory_new_zeroed(sizeof(*r));

	if (r == NULL)
		return NULL;
	if (name.len > JWT_NAME_MAX)
		name.len = JWT_NAME_MAX;
	memcpy(r->name, name.data, name.len);
	atomic_init(&r->holders, 1);
	return r;
}

/* Holds the rights. */
static struct identity *identity_with(enum access_how how, struct rights *r)
{
	struct identity *i = memory_new_zeroed(sizeof(*i));

	if (i == NULL)
		return NULL;
	atomic_init(&i->holders, 1);
	i->how = how;
	i->expires_s = JWT_FOREVER;
	i->rights = r;
	atomic_fetch_add(&r->holders, 1);
	return i;
}

struct identity *identity_new(enum access_how how, struct span name)
{
	struct rights *r = rights_new(name);
	struct identity *i = r != NULL ? identity_with(how, r) : NULL;

	rights_let_go(r);
	return i;
}

/* The same ticket of an owner who may other things; held for the caller. */
static struct identity *identity_for(struct identity *owner, const struct identity *ticket)
{
	struct identity *i = identity_with(HOW_TICKET, ticket->rights);

	if (i == NULL)
		return NULL;
	i->key = ticket->key;
	i->expires_s = ticket->expires_s;
	i->owner = identity_hold(owner);
	return i;
}

struct identity *identity_hold(struct identity *i)
{
	atomic_fetch_add(&i->holders, 1);
	return i;
}

void identity_let_go(struct identity *i)
{
	if (i == NULL || atomic_fetch_sub(&i->holders, 1) > 1)
		return;
	rights_let_go(i->rights);
	identity_let_go(i->owner);
	memory_free(i);
}

static int rights_add(struct rights *r, unsigned bits, struct span pattern)
{
	if (r->scope == NULL && (r->scope = scope_new()) == NULL)
		return -ENOMEM;
	return scope_add(r->scope, pattern, bits);
}

int identity_grant(struct identity *i, enum access_action action, struct span pattern)
{
	return rights_add(i->rights, access_allows(action), pattern);
}

bool identity_may(const struct identity *i, enum access_action action, struct span name,
		  bool pattern)
{
	const struct rights *r = i->rights;
	unsigned allowed, denied;

	if (i->owner != NULL && !identity_may(i->owner, action, name, pattern))
		return false;
	if (r->all)
		return true;
	if (r->scope == NULL)
		return false;
	/* No topic's name has one: whatever it is taken for, it stands for others. */
	pattern = pattern || memchr(name.data, '*', name.len) != NULL ||
		  memchr(name.data, '>', name.len) != NULL;
	allowed = pattern ? scope_covers(r->scope, name) : scope_matches(r->scope, name);
	denied = pattern ? scope_overlaps(r->scope, name) : allowed;
	return (allowed & access_allows(action)) != 0 && (denied & access_denies(action)) == 0;
}

/* ---- credentials ---- */

/* Apart from all tokens, which are known by the digest of what is shown. False: out of memory. */
static bool key_of(const char *kind, struct span text, struct digest *out)
{
	char all[1024];
	int n = snprintf(all, sizeof(all), "%s\n", kind);

	if (text.len > sizeof(all) - (size_t)n)
		text.len = sizeof(all) - (size_t)n;
	memcpy(all + n, text.data, text.len);
	return digest_of((struct span){ all, (size_t)n + text.len }, out);
}

static struct span bytes_of(const struct digest *d)
{
	return (struct span){ (const char *)d->bytes, sizeof(d->bytes) };
}

/* Whoever it is that has shown this, whatever it was. */
static struct identity *shown_by(const struct identities *all, const struct digest *key)
{
	struct span name = bytes_of(key);
	const struct credential *c = (const struct credential *)(const void *)table_find(
		&all->credentials, hash_bytes(name.data, name.len), name);

	return c != NULL && bytes_same(c->identity->key.bytes, key->bytes, sizeof(key->bytes))
		       ? c->identity
		       : NULL;
}

/* NULL: none, or it is not shown so. */
static struct identity *find(const struct identities *all, enum access_how how,
			     const struct digest *key)
{
	struct identity *i = shown_by(all, key);

	return i != NULL && i->how == how ? i : NULL;
}

struct identity *identity_of_token(const struct identities *all, struct span token)
{
	struct digest key;

	return digest_of(token, &key) ? find(all, HOW_TOKEN, &key) : NULL;
}

static bool key_known(const struct identities *all, const struct digest *print)
{
	for (size_t i = 0; i < all->keys_n; i++)
		if (memcmp(signature_key_print(all->keys[i].key), print, sizeof(*print)) == 0)
			return true;
	return false;
}

struct identity *identity_of_ticket(const struct identities *all, const struct ticket *ticket,
				    struct identity *made)
{
	struct identity *owner = NULL;

	made->key = ticket->key;
	made->foreign = ticket->foreign;
	made->expires_s = ticket->until_s;
	strcpy(made->rights->name, ticket->user);
	if (ticket->foreign)
		return key_known(all, &made->key) ? made : NULL;
	/* Of whoever needs no credential it is as good as none. */
	owner = shown_by(all, &made->key);
	if (owner == NULL)
		return NULL;
	made->owner = identity_hold(owner);
	return made;
}

struct identity *identity_of_certificate(const struct identities *all, struct span name)
{
	struct digest key;

	return name.len > 0 && key_of("certificate", name, &key) ? find(all, HOW_CERTIFICATE, &key)
								 : NULL;
}

struct identity *identity_of_uid(const struct identities *all, uint32_t uid)
{
	struct digest key;
	char text[16];

	snprintf(text, sizeof(text), "%u", (unsigned)uid);
	return key_of("uid", span_of(text), &key) ? find(all, HOW_UID, &key) : NULL;
}

static struct user *find_user(const struct identities *all, struct span name)
{
	return (struct user *)(void *)table_find(&all->users, hash_bytes(name.data, name.len),
						 name);
}

struct identity *identity_of_user(const struct identities *all, struct span name, const char **hash)
{
	const struct user *u = find_user(all, name);

	if (u != NULL && u->password != NULL) {
		*hash = u->password_hash;
		return u->password;
	}
	*hash = all->decoy;
	return NULL;
}

/* ---- JSON Web Tokens ---- */

static unsigned config_bit(enum key_algorithm algorithm)
{
	static const unsigned bits[KEY_ALGORITHMS] = { [KEY_HS256] = CONFIG_JWT_HS256,
						       [KEY_RS256] = CONFIG_JWT_RS256,
						       [KEY_ES256] = CONFIG_JWT_ES256,
						       [KEY_EDDSA] = CONFIG_JWT_EDDSA };

	return bits[algorithm];
}

/* The key that has signed it; NULL: none. */
static const struct signature_key *signer(const struct identities *all, const struct jwt *jwt)
{
	struct span signature = { jwt->signature, jwt->signature_len };

	for (size_t i = 0; i < all->keys_n; i++) {
		const struct identity_key *k = &all->keys[i];

		if (jwt->key[0] != '\0' && strcmp(jwt->key, k->name) != 0)
			continue;
		/* The key says what its algorithm is, never the token alone. */
		if (signature_key_algorithm(k->key) == jwt->algorithm &&
		    signature_right(k->key, jwt->signed_bytes, signature))
			return k->key;
	}
	return NULL;
}

static int grant(void *identity, bool publish, struct span pattern)
{
	return identity_grant(identity, publish ? ACCESS_PUBLISH : ACCESS_SUBSCRIBE, pattern);
}

const char *identity_of_jwt(const struct identities *all, const struct config_jwt *config,
			    struct span token, int64_t now_s, struct identity **out)
{
	const struct jwt_wanted wanted = { .issuer = config->issuer,
					   .audience = config->audience,
					   .claim = config->claim,
					   .now_s = now_s,
					   .leeway_s = config->leeway_seconds };
	struct jwt_claims claims;
	const struct signature_key *key;
	struct identity *i;
	struct jwt jwt;
	const char *wrong = jwt_read(token, &jwt);

	if (wrong != NULL)
		return wrong;
	if ((config->algorithms & config_bit(jwt.algorithm)) == 0)
		return "its algorithm is not allowed";
	key = signer(all, &jwt);
	if (key == NULL)
		return "no key has signed it";
	i = identity_new(HOW_JWT, SPAN("jwt"));
	if (i == NULL)
		return "out of memory";
	wrong = jwt_claims_read(&jwt, &wanted, &claims, grant, i);
	if (wrong != NULL) {
		identity_let_go(i);
		return wrong;
	}
	if (claims.subject[0] != '\0')
		strcpy(i->rights->name, claims.subject);
	i->expires_s = claims.expires_s;
	i->key = *signature_key_print(key);
	*out = i;
	return NULL;
}

struct identity *identity_again(const struct identities *all, struct identity *i)
{
	struct identity *now;

	if (i->how == HOW_JWT || (i->how == HOW_TICKET && i->foreign))
		return key_known(all, &i->key) ? identity_hold(i) : NULL;
	if (i->how != HOW_TICKET) {
		now = find(all, i->how, &i->key);
		return now != NULL ? identity_hold(now) : NULL;
	}
	now = shown_by(all, &i->key);
	if (now == NULL || now == i->owner)
		return now != NULL ? identity_hold(i) : NULL;
	return identity_for(now, i);
}

/* ---- from a configuration ---- */

static int say(char *problem, size_t size, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Returns what is to be returned where something is wrong. */
static int say(char *problem, size_t size, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(problem, size, format, args);
	va_end(args);
	return -EINVAL;
}

/* Whose is a credential that is there already; NULL: it is not. -ENOMEM. */
static int add_credential(struct identities *all, enum access_how how, struct rights *r,
			  const struct digest *key, struct identity **out)
{
	struct credential *c = memory_new_zeroed(sizeof(*c));
	struct identity *i = c != NULL ? identity_with(how, r) : NULL;
	int err = i != NULL ? 0 : -ENOMEM;

	if (i != NULL) {
		i->key = *key;
		c->identity = i;
		c->named.name = bytes_of(&i->key);
		c->named.hash = hash_bytes(c->named.name.data, c->named.name.len);
		if (table_find(&all->credentials, c->named.hash, c->named.name) != NULL)
			err = -EEXIST;
		else
			err = table_add(&all->credentials, &c->named);
	}
	if (err != 0) {
		identity_let_go(i);
		memory_free(c);
		return err;
	}
	all->any_credential = true;
	if (out != NULL)
		*out = i;
	return 0;
}

static int add_password(struct identities *all, struct user *u, const struct config_user *c)
{
	struct digest key;
	char *text;
	bool made;
	int err;

	if (asprintf(&text, "%s\n%s", c->name, c->password_hash) < 0)
		return -ENOMEM;
	made = key_of("password", span_of(text), &key);
	free(text);
	u->password_hash = made ? strdup(c->password_hash) : NULL;
	err = u->password_hash != NULL
		      ? add_credential(all, HOW_PASSWORD, u->rights, &key, &u->password)
		      : -ENOMEM;
	if (err == 0 && all->decoy == NULL)
		all->decoy = u->password_hash;
	return err;
}

static int add_credentials(struct identities *all, struct user *u, const struct config_user *c,
			   char *problem, size_t size)
{
	struct digest key;
	const char *what = "password_hash";
	int err = *c->password_hash != '\0' ? add_password(all, u, c) : 0;

	for (size_t i = 0; i < c->token_hash_n && err == 0; i++) {
		what = "token_hash";
		(void)digest_parse(span_of(c->token_hash[i]), &key);
		err = add_credential(all, HOW_TOKEN, u->rights, &key, NULL);
	}
	if (*c->certificate != '\0' && err == 0) {
		what = "certificate";
		err = key_of("certificate", span_of(c->certificate), &key)
			      ? add_credential(all, HOW_CERTIFICATE, u->rights, &key, NULL)
			      : -ENOMEM;
		all->any_certificate = true;
	}
	if (*c->uid != '\0' && err == 0) {
		char text[16];

		what = "uid";
		snprintf(text, sizeof(text), "%lu", strtoul(c->uid, NULL, 10));
		err = key_of("uid", span_of(text), &key)
			      ? add_credential(all, HOW_UID, u->rights, &key, NULL)
			      : -ENOMEM;
		all->any_uid = true;
	}
	if (err == -EEXIST)
		return say(problem, size,
			   "user \"%s\": %s: is there a second time, give everybody credentials of "
			   "his own",
			   c->name, what);
	return err;
}

/* A pattern with the user's name for %u; false: that is none. */
static bool substitute(const char *pattern, const char *name, char out[NAME_BYTES_MAX + 1])
{
	size_t n = 0, name_len = strlen(name);

	while (*pattern != '\0') {
		bool here = strncmp(pattern, "%u", 2) == 0;
		size_t len = here ? name_len : 1;

		if (n + len > NAME_BYTES_MAX)
			return false;
		memcpy(out + n, here ? name : pattern, len);
		n += len;
		pattern += here ? 2 : 1;
	}
	out[n] = '\0';
	return name_pattern_valid((struct span){ out, n });
}

static int add_rights(struct rights *r, const struct config_user *c, char *problem, size_t size)
{
	const struct {
		char *const *patterns;
		size_t n;
		unsigned bits;
	} lists[] = {
		{ c->publish, c->publish_n, access_allows(ACCESS_PUBLISH) },
		{ c->subscribe, c->subscribe_n, access_allows(ACCESS_SUBSCRIBE) },
		{ c->deny_publish, c->deny_publish_n, access_denies(ACCESS_PUBLISH) },
		{ c->deny_subscribe, c->deny_subscribe_n, access_denies(ACCESS_SUBSCRIBE) },
	};
	char pattern[NAME_BYTES_MAX + 1];

	r->monitor = c->monitor;
	r->connections_max = c->connections;
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (size_t j = 0; j < lists[i].n; j++) {
			if (!substitute(lists[i].patterns[j], c->name, pattern))
				return say(problem, size,
					   "user \"%s\": \"%s\" is no pattern with his name for "
					   "%%u, use a shorter one",
					   c->name, lists[i].patterns[j]);
			if (rights_add(r, lists[i].bits, span_of(pattern)) != 0)
				return -ENOMEM;
		}
	}
	return 0;
}

static int add_user(struct identities *all, const struct config_user *c, char *problem, size_t size)
{
	struct user *u = memory_new_zeroed(sizeof(*u));
	int err;

	if (u == NULL)
		return -ENOMEM;
	u->rights = rights_new(span_of(c->name));
	if (u->rights == NULL) {
		memory_free(u);
		return -ENOMEM;
	}
	u->named.name = span_of(u->rights->name);
	u->named.hash = hash_bytes(u->named.name.data, u->named.name.len);
	err = table_add(&all->users, &u->named);
	if (err != 0) {
		rights_let_go(u->rights);
		memory_free(u);
		return err;
	}
	err = add_rights(u->rights, c, problem, size);
	if (err == 0)
		err = add_credentials(all, u, c, problem, size);
	if (err == 0 && strcmp(c->name, CONFIG_ANONYMOUS) == 0) {
		all->anonymous = identity_with(HOW_ANONYMOUS, u->rights);
		err = all->anonymous != NULL ? 0 : -ENOMEM;
	}
	return err;
}

/* Whoever runs the broker, and nobody else, may know a secret. */
static bool private(const struct stat *st)
{
	return (st->st_mode & 0137) == 0 && (st->st_uid == 0 || st->st_uid == geteuid());
}

/* A small file's bytes. The length, or -errno. */
static ssize_t read_file(const char *path, char bytes[KEY_FILE_BYTES_MAX], struct stat *st)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, bytes, KEY_FILE_BYTES_MAX);
	if (n < 0 || fstat(fd, st) != 0)
		n = -errno;
	close(fd);
	return n < KEY_FILE_BYTES_MAX ? n : -EFBIG;
}

/* What tokens call it: its file's name without the suffix. */
static struct span name_of(const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
	const char *dot = strrchr(name, '.');

	return (struct span){ name,
			      dot != NULL && dot != name ? (size_t)(dot - name) : strlen(name) };
}

static int add_key(struct identities *all, const struct config_jwt *c, const char *path,
		   char *problem, size_t size)
{
	struct identity_key *k = &all->keys[all->keys_n];
	bool secrets = (c->algorithms & CONFIG_JWT_HS256) != 0;
	struct span name = name_of(path);
	char bytes[KEY_FILE_BYTES_MAX];
	struct stat st = { 0 };
	ssize_t n = read_file(path, bytes, &st);
	const char *wrong = NULL;

	if (n < 0)
		return say(problem, size, "jwt: keys: cannot read %s (%s), name a file of a key",
			   path, strerror((int)-n));
	if (name.len == 0 || name.len > JWT_NAME_MAX)
		return say(problem, size, "jwt: keys: %s has no name that a kid could be", path);
	memcpy(k->name, name.data, name.len);
	for (size_t i = 0; i < all->keys_n; i++)
		if (strcmp(all->keys[i].name, k->name) == 0)
			return say(problem, size,
				   "jwt: keys: %s: \"%s\" is there a second time, use "
				   "another file name",
				   path, k->name);
	k->key = signature_key_new((struct span){ bytes, (size_t)n }, secrets, &wrong);
	bytes_forget(bytes, sizeof(bytes));
	if (k->key == NULL)
		return say(problem, size, "jwt: keys: %s is %s, use %s", path, wrong,
			   secrets ? "a public key in PEM, or 32 bytes and more"
				   : "a public key in PEM");
	all->keys_n++;
	if ((c->algorithms & config_bit(signature_key_algorithm(k->key))) == 0)
		return say(problem, size,
			   "jwt: keys: %s is for none of jwt.algorithms, add its own", path);
	if (signature_key_algorithm(k->key) == KEY_HS256 && !private(&st))
		return say(
			problem, size,
			"jwt: keys: %s is a secret of mode %04o and user %u, use 0600 or 0640 and "
			"root or the broker's user",
			path, (unsigned)st.st_mode & 07777, (unsigned)st.st_uid);
	all->any_credential = true;
	return 0;
}

/* Of the first listener that has such keys. Whether the file is good is for the listener's keyring
 * to say (engine/keyring), which reads the same: 80 bytes each. */
static int add_ticket_secrets(struct identities *all, const struct config *config)
{
	char bytes[KEY_FILE_BYTES_MAX];
	const char *path = "";
	struct stat st;
	ssize_t n;

	for (size_t i = 0; i < config->listens_n && *path == 0; i++)
		if (config->listens[i].tls.present)
			path = config->listens[i].tls.ticket_keys;
	n = *path != 0 ? read_file(path, bytes, &st) : 0;
	for (ssize_t at = 0; at + TICKET_KEY_BYTES <= n; at += TICKET_KEY_BYTES) {
		if (all->ticket_secrets_n == IDENTITY_TICKET_SECRETS_MAX)
			break;
		/* Another one than TLS uses, so that neither says anything of the other. */
		if (!digest_keyed((struct span){ bytes + at, TICKET_KEY_BYTES },
				  SPAN("POST /ticket"),
				  &all->ticket_secrets[all->ticket_secrets_n]))
			return -ENOMEM;
		all->ticket_secrets_n++;
	}
	bytes_forget(bytes, n > 0 ? (size_t)n : 0);
	return 0;
}

static int add_all(struct identities *all, const struct config *config, char *problem, size_t size)
{
	const struct config_jwt *jwt = &config->auth.jwt;
	int err = 0;

	all->nobody = identity_new(HOW_NOBODY, SPAN(""));
	all->everybody = identity_new(HOW_ANONYMOUS, SPAN(CONFIG_ANONYMOUS));
	all->keys = calloc(KEYS_MAX, sizeof(*all->keys));
	if (all->nobody == NULL || all->everybody == NULL || all->keys == NULL)
		return -ENOMEM;
	all->everybody->rights->all = true;
	if (jwt->keys_n > KEYS_MAX)
		return say(problem, size, "jwt: keys: are more than %d, use fewer", KEYS_MAX);
	for (size_t i = 0; i < config->users_n && err == 0; i++)
		err = add_user(all, &config->users[i], problem, size);
	for (size_t i = 0; i < jwt->keys_n && err == 0; i++)
		err = add_key(all, jwt, jwt->keys[i], problem, size);
	return err != 0 ? err : add_ticket_secrets(all, config);
}

struct identities *identities_new(const struct config *config, char *problem, size_t size)
{
	struct identities *all = memory_new_zeroed(sizeof(*all));

	snprintf(problem, size, "out of memory for users");
	if (all == NULL)
		return NULL;
	atomic_init(&all->holders, 1);
	if (add_all(all, config, problem, size) == 0)
		return all;
	identities_let_go(all);
	return NULL;
}

struct identities *identities_hold(struct identities *all)
{
	atomic_fetch_add(&all->holders, 1);
	return all;
}

static void credentials_free(struct table *credentials)
{
	struct named *named;
	size_t at = 0;

	while ((named = table_next(credentials, &at)) != NULL) {
		identity_let_go(((struct credential *)(void *)named)->identity);
		memory_free(named);
	}
	table_release(credentials);
}

static void users_free(struct table *users)
{
	struct named *named;
	size_t at = 0;

	while ((named = table_next(users, &at)) != NULL) {
		struct user *u = (struct user *)(void *)named;

		rights_let_go(u->rights);
		free(u->password_hash);
		memory_free(u);
	}
	table_release(users);
}

void identities_let_go(struct identities *all)
{
	if (all == NULL || atomic_fetch_sub(&all->holders, 1) > 1)
		return;
	credentials_free(&all->credentials);
	users_free(&all->users);
	identity_let_go(all->nobody);
	identity_let_go(all->everybody);
	identity_let_go(all->anonymous);
	for (size_t i = 0; i < all->keys_n; i++)
		signature_key_free(all->keys[i].key);
	free(all->keys);
	bytes_forget(all->ticket_secrets, sizeof(all->ticket_secrets));
	memory_free(all);
}
