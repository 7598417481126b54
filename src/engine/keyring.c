#include "engine/keyring.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "base/memory.h"
#include "engine/cipher.h"

enum {
	TICKET_KEYS_MAX = 16,
	TICKET_NAME_BYTES = 16,
	TICKET_KEY_BYTES = 80, /* name, MAC key, cipher key: as nginx has them */
	FILE_BYTES_MAX = 4 << 20,
	SECURITY_LEVEL = 2, /* 112 bits: SSL_CTX_set_security_level(3) */
};

struct ticket_key {
	unsigned char name[TICKET_NAME_BYTES];
	unsigned char mac[32];
	unsigned char cipher[32];
};

/* Session tickets' keys, newest first. Random ones are replaced in time; those of a file are not.
 */
struct tickets {
	pthread_mutex_t lock;
	atomic_uint refs;
	struct ticket_key keys[TICKET_KEYS_MAX];
	unsigned keys_n;
	bool random;
	time_t made_at;
	unsigned seconds;
};

struct certificate {
	char *title;
	SSL_CTX *library;
	char **names; /* lower case; "*.example.com" is for one level */
	size_t names_n;
	int64_t expires_s;
};

struct keyring {
	atomic_uint refs;
	struct certificate *certificates;
	size_t certificates_n;
	unsigned choices;
	struct keyring_protocol *protocols;
	enum config_client_auth ask;
	enum config_client_name client_name;
	X509_STORE *trusted;                         /* who signs clients' certificates */
	unsigned char context[SHA256_DIGEST_LENGTH]; /* sessions of other ones do not go on */
	struct tickets *tickets;
};

/* ---- the library ---- */

static void *count_new(size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	return memory_new(n);
}

static void *count_resize(void *p, size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	if (n == 0) {
		memory_free(p);
		return NULL;
	}
	return memory_resize(p, n);
}

static void count_free(void *p, const char *file, int line)
{
	(void)file;
	(void)line;
	memory_free(p);
}

void keyring_begin(void)
{
	(void)CRYPTO_set_mem_functions(count_new, count_resize, count_free);
	/* What the host's openssl.cnf says is not this broker's configuration. */
	(void)OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
}

/*
 * Whether the library has all that handshakes, records and tickets are made of. What it has no
 * memory for when it is loaded, at the first call of all, it leaves out for ever, without a word.
 */
static bool library_whole(void)
{
	static const char *const digests[] = { "SHA1", "SHA256", "SHA384", "SHA512" };
	static const char *const ciphers[] = { "AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305",
					       "AES-256-CBC", "AES-256-CTR" };
	static const char *const kdfs[] = { "HKDF", "TLS13-KDF", "TLS1-PRF" };
	static const char *const keys[] = { "RSA", "EC", "ED25519", "X25519" };
	static const char *const signatures[] = { "RSA", "ECDSA", "ED25519" };
	static const char *const exchanges[] = { "ECDH", "X25519" };
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	bool whole = mac != NULL;

#define HAS(type, names)                                                                           \
	for (size_t i = 0; i < sizeof(names) / sizeof(*(names)); i++) {                            \
		type *one = type##_fetch(NULL, (names)[i], NULL);                                  \
                                                                                                   \
		whole = whole && one != NULL;                                                      \
		type##_free(one);                                                                  \
	}
	HAS(EVP_MD, digests)
	HAS(EVP_CIPHER, ciphers)
	HAS(EVP_KDF, kdfs)
	HAS(EVP_KEYMGMT, keys)
	HAS(EVP_SIGNATURE, signatures)
	HAS(EVP_KEYEXCH, exchanges)
#undef HAS
	EVP_MAC_free(mac);
	ERR_clear_error();
	return whole;
}

/* ---- saying what is wrong ---- */

struct loading {
	FILE *errors;
	const struct config_where *where; /* of this section */
	const char *section;
	const char *chain; /* the key that names certificates */
	bool failed;
};

static void look_at(struct loading *l, const struct config_where *where, const char *section)
{
	l->where = where;
	l->section = section;
}

static void complain(struct loading *l, const char *key, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Whether that is what the library's errors come from, whatever it says in the end; they are gone
 * then. */
static bool out_of_memory(void)
{
	bool out = false;

	for (unsigned long error; (error = ERR_get_error()) != 0;)
		out |= ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE;
	return out;
}

static void complain(struct loading *l, const char *key, const char *format, ...)
{
	va_list args;

	l->failed = true;
	if (out_of_memory()) {
		fputs("tls: out of memory, free some\n", l->errors);
		return;
	}
	fprintf(l->errors, "%s:%u: %s: ", l->where->file != NULL ? l->where->file : "tls",
		config_line(l->where, l->section, key), key);
	va_start(args, format);
	vfprintf(l->errors, format, args);
	va_end(args);
	fputc('\n', l->errors);
}

/* What the library says about its last error. */
static const char *library_says(void)
{
	const char *text = ERR_reason_error_string(ERR_peek_last_error());

	return text != NULL ? text : "it cannot be read";
}

/* What a call has to bring about that fails for want of memory only, or not at all: without it
 * this would be TLS of another kind than the one that was asked for. */
static void demand(struct loading *l, const char *key, bool done)
{
	if (!done && !l->failed)
		complain(l, key, "the library fails (%s), try again", library_says());
}

/* ---- files ---- */

/* A file in memory; NULL: it was complained about. */
static BIO *file_open(struct loading *l, const char *key, const char *path, struct stat *st)
{
	BIO *file = BIO_new_file(path, "r"), *memory = NULL;
	char bytes[4096];
	size_t total = 0;
	int n = 0, err = errno;

	if (file == NULL || stat(path, st) != 0) {
		BIO_free(file);
		complain(l, key,
			 "%s cannot be read (%s), name a file that the broker's user can read",
			 path, strerror(err));
		return NULL;
	}
	memory = BIO_new(BIO_s_mem());
	while (memory != NULL && total <= FILE_BYTES_MAX &&
	       (n = BIO_read(file, bytes, sizeof(bytes))) > 0) {
		total += (size_t)n;
		if (BIO_write(memory, bytes, n) != n) {
			n = -1;
			break;
		}
	}
	BIO_free(file);
	OPENSSL_cleanse(bytes, sizeof(bytes));
	if (memory != NULL && n >= 0 && total <= FILE_BYTES_MAX)
		return memory;
	BIO_free(memory);
	complain(l, key, "%s cannot be read (%s), name a file of up to %d bytes", path,
		 total > FILE_BYTES_MAX ? "it is longer" : library_says(), FILE_BYTES_MAX);
	return NULL;
}

/* systemd hands them over for this service alone. */
static bool is_handed_over(const char *path)
{
	const char *directory = getenv("CREDENTIALS_DIRECTORY");
	size_t n = directory != NULL ? strlen(directory) : 0;

	return n > 0 && strncmp(path, directory, n) == 0 && path[n] == '/' &&
	       strstr(path + n, "/../") == NULL;
}

static void check_secret(struct loading *l, const char *key, const char *path,
			 const struct stat *st)
{
	if (is_handed_over(path))
		return;
	if ((st->st_mode & 0007) != 0)
		complain(l, key,
			 "%s can be read by everybody on this host (mode %04o), make it 0600 or "
			 "0640 "
			 "(chmod 0640 %s)",
			 path, (unsigned)st->st_mode & 07777, path);
	if (st->st_uid != 0 && st->st_uid != geteuid())
		complain(l, key, "%s belongs to user %u, give it to root or the broker's user",
			 path, (unsigned)st->st_uid);
}

static int no_password(char *buf, int size, int write, void *argument)
{
	(void)buf;
	(void)size;
	(void)write;
	(void)argument;
	return 0;
}

/* Every certificate of a file, at least one; NULL: it was complained about. */
static STACK_OF(X509) * certificates_read(struct loading *l, const char *key, const char *path)
{
	struct stat st;
	BIO *file = file_open(l, key, path, &st);
	STACK_OF(X509) *all = sk_X509_new_null();
	X509 *one;

	while (file != NULL && all != NULL &&
	       (one = PEM_read_bio_X509(file, NULL, no_password, NULL)) != NULL)
		/* A key that there was no memory for is left out by the library, without a word. */
		if (X509_get0_pubkey(one) == NULL || sk_X509_push(all, one) == 0) {
			X509_free(one);
			break;
		}
	if (file != NULL && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
		complain(l, key, "%s: %s, use certificates in PEM", path, library_says());
	else if (file != NULL && sk_X509_num(all) < 1)
		complain(l, key, "%s has no certificate in it, use one in PEM", path);
	ERR_clear_error();
	BIO_free(file);
	if (sk_X509_num(all) > 0 && !l->failed)
		return all;
	sk_X509_pop_free(all, X509_free);
	return NULL;
}

static EVP_PKEY *key_read(struct loading *l, const char *path)
{
	struct stat st;
	BIO *file = file_open(l, "key", path, &st);
	EVP_PKEY *key = NULL;

	if (file == NULL)
		return NULL;
	check_secret(l, "key", path, &st);
	key = PEM_read_bio_PrivateKey(file, NULL, no_password, NULL);
	if (key == NULL)
		complain(l, "key",
			 "%s has no key that can be read (%s), use one in PEM without a "
			 "passphrase",
			 path, library_says());
	BIO_free(file);
	return key;
}

/* ---- certificates ---- */

static int64_t seconds_of(const ASN1_TIME *at)
{
	struct tm tm = { 0 };

	return ASN1_TIME_to_tm(at, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static const char *name_of(const X509 *certificate, char *buf, int size)
{
	const char *name = X509_NAME_oneline(X509_get_subject_name(certificate), buf, size);

	return name != NULL ? name : "it";
}

static bool is_over(struct loading *l, const char *key, const char *path, const ASN1_TIME *at)
{
	int order = X509_cmp_current_time(at);

	if (order == 0)
		complain(l, key, "%s: its time cannot be read (%s), renew it", path,
			 library_says());
	return order < 0;
}

/* Each signed by the next, and none of them out of its time. */
static void check_chain(struct loading *l, const char *path, STACK_OF(X509) * chain)
{
	char name[256], other[256];

	for (int i = 0; i < sk_X509_num(chain); i++) {
		X509 *one = sk_X509_value(chain, i);
		X509 *next = i + 1 < sk_X509_num(chain) ? sk_X509_value(chain, i + 1) : NULL;

		if (is_over(l, l->chain, path, X509_get0_notAfter(one)))
			complain(l, l->chain, "%s: %s has expired, renew it", path,
				 name_of(one, name, sizeof(name)));
		if (!is_over(l, l->chain, path, X509_get0_notBefore(one)))
			complain(l, l->chain, "%s: the time of %s has not begun, look at the clock",
				 path, name_of(one, name, sizeof(name)));
		if (next != NULL && X509_check_issued(next, one) != X509_V_OK)
			complain(
				l, l->chain,
				"%s: %s is followed by %s, which did not sign it; put the server's "
				"certificate first and behind each the one that signed it",
				path, name_of(one, name, sizeof(name)),
				name_of(next, other, sizeof(other)));
	}
}

static bool add_name(struct certificate *c, const unsigned char *data, int len)
{
	char **names = memory_resize(c->names, (c->names_n + 1) * sizeof(*names));
	char *name = memory_new((size_t)len + 1);

	if (names != NULL)
		c->names = names;
	if (names == NULL || name == NULL) {
		memory_free(name);
		return false;
	}
	for (int i = 0; i < len; i++)
		name[i] = data[i] >= 'A' && data[i] <= 'Z' ? (char)(data[i] | 0x20) : (char)data[i];
	name[len] = 0;
	names[c->names_n++] = name;
	return true;
}

/* The names of hosts that it is for, those without a NUL in them. */
static bool names_read(struct certificate *c, const X509 *leaf)
{
	int critical = 0;
	GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, &critical, NULL);
	bool ok = names != NULL || critical == -1; /* there are none */

	for (int i = 0; ok && i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		const unsigned char *data;
		int len;

		if (name->type != GEN_DNS)
			continue;
		data = ASN1_STRING_get0_data(name->d.dNSName);
		len = ASN1_STRING_length(name->d.dNSName);
		if (len > 0 && memchr(data, 0, (size_t)len) == NULL)
			ok = add_name(c, data, len);
	}
	GENERAL_NAMES_free(names);
	return ok;
}

static const struct certificate *find_exactly(const struct keyring *c, const char *name)
{
	for (size_t i = 0; i < c->certificates_n; i++)
		for (size_t k = 0; k < c->certificates[i].names_n; k++)
			if (strcasecmp(c->certificates[i].names[k], name) == 0)
				return &c->certificates[i];
	return NULL;
}

/* The one whose name that is, or whose "*." stands for its first level. */
static const struct certificate *find(const struct keyring *c, const char *name)
{
	const struct certificate *found = find_exactly(c, name);
	const char *dot = strchr(name, '.');
	char wild[260];

	if (found != NULL || dot == NULL || dot == name ||
	    snprintf(wild, sizeof(wild), "*%s", dot) >= (int)sizeof(wild))
		return found;
	return find_exactly(c, wild);
}

/* Nobody could say which of the two a client gets. */
static void check_names(struct loading *l, const struct keyring *c,
			const struct config_certificate *config, const struct certificate *one)
{
	for (size_t k = 0; k < one->names_n; k++) {
		const struct certificate *other = find_exactly(c, one->names[k]);

		if (other != NULL)
			complain(l, "chain",
				 "%s is for %s, as certificate \"%s\" is: take the name out of one "
				 "of "
				 "them",
				 config->chain, one->names[k], other->title);
	}
}

/* ---- callbacks of the library ---- */

static int choose_certificate(SSL *ssl, int *alert, void *argument)
{
	const struct keyring *c = argument;
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	const struct certificate *found = name != NULL ? find(c, name) : NULL;

	if (found == NULL)
		return SSL_TLSEXT_ERR_NOACK;
	if (found->library != SSL_get_SSL_CTX(ssl) &&
	    SSL_set_SSL_CTX(ssl, found->library) == NULL) {
		*alert = SSL_AD_INTERNAL_ERROR;
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	}
	return SSL_TLSEXT_ERR_OK;
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
			   const unsigned char *in, unsigned in_len, void *argument)
{
	const struct keyring *c = argument;
	struct cipher *cipher = SSL_get_app_data(ssl);

	for (const struct keyring_protocol *p = c->protocols; p->name != NULL; p++)
		for (unsigned at = 0; at < in_len && at + 1 + in[at] <= in_len;
		     at += 1 + (unsigned)in[at]) {
			if (in[at] != strlen(p->name) || memcmp(in + at + 1, p->name, in[at]) != 0)
				continue;
			cipher->allows = p->allows;
			*out = in + at + 1;
			*out_len = in[at];
			return SSL_TLSEXT_ERR_OK;
		}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* ---- session tickets ---- */

static bool make_key(struct ticket_key *key)
{
	return RAND_bytes(key->name, sizeof(key->name)) == 1 &&
	       RAND_bytes(key->mac, sizeof(key->mac)) == 1 &&
	       RAND_bytes(key->cipher, sizeof(key->cipher)) == 1;
}

/* Random keys live as long as a ticket, and once more for the tickets that they have made. */
static void turn_keys(struct tickets *t, time_t now)
{
	struct ticket_key fresh;

	if (!t->random || now - t->made_at < (time_t)t->seconds || !make_key(&fresh))
		return;
	if (now - t->made_at >= 2 * (time_t)t->seconds)
		t->keys_n = 0;
	t->keys[1] = t->keys[0];
	t->keys[0] = fresh;
	t->keys_n = t->keys_n > 0 ? 2 : 1;
	t->made_at = now;
	OPENSSL_cleanse(&fresh, sizeof(fresh));
}

static time_t seconds_now(void)
{
	struct timespec now;

	/* The wall's clock may be set back. */
	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec;
}

/* The key to make a ticket with, or the one that this ticket was made with: its place, 0 is the
 * newest; -1: there is none. */
static int find_key(struct tickets *t, const unsigned char *name, struct ticket_key *key)
{
	int found = -1;

	pthread_mutex_lock(&t->lock);
	turn_keys(t, seconds_now());
	for (unsigned i = 0; i < t->keys_n && found < 0; i++)
		if (name == NULL || memcmp(name, t->keys[i].name, sizeof(t->keys[i].name)) == 0)
			found = (int)i;
	if (found >= 0)
		*key = t->keys[found];
	pthread_mutex_unlock(&t->lock);
	return found;
}

static int use_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
		      EVP_MAC_CTX *mac, int make)
{
	const struct keyring *c = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	struct ticket_key key;
	OSSL_PARAM params[3];
	char digest[] = "SHA256";
	int place = find_key(c->tickets, make ? NULL : name, &key);
	bool ok;

	if (place < 0)
		return make ? -1 : 0;
	if (make) {
		memcpy(name, key.name, sizeof(key.name));
		if (RAND_bytes(iv, EVP_MAX_IV_LENGTH) != 1)
			return -1;
	}
	params[0] = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key.mac, sizeof(key.mac));
	params[1] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0);
	params[2] = OSSL_PARAM_construct_end();
	ok = EVP_MAC_CTX_set_params(mac, params) == 1 &&
	     EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key.cipher, iv, make) == 1;
	OPENSSL_cleanse(&key, sizeof(key));
	if (!ok)
		return -1;
	/* 2: it gets a new one, made with the newest key. */
	return place == 0 || make ? 1 : 2;
}

static void tickets_unref(struct tickets *t)
{
	if (t == NULL || atomic_fetch_sub(&t->refs, 1) > 1)
		return;
	pthread_mutex_destroy(&t->lock);
	OPENSSL_cleanse(t->keys, sizeof(t->keys));
	memory_free(t);
}

static void keys_read(struct loading *l, struct tickets *t, const char *path)
{
	struct stat st;
	BIO *file = file_open(l, "ticket_keys", path, &st);
	unsigned char bytes[TICKET_KEY_BYTES];
	int n = 0;

	if (file == NULL)
		return;
	check_secret(l, "ticket_keys", path, &st);
	while (t->keys_n < TICKET_KEYS_MAX &&
	       (n = BIO_read(file, bytes, sizeof(bytes))) == (int)sizeof(bytes)) {
		struct ticket_key *key = &t->keys[t->keys_n++];

		memcpy(key->name, bytes, 16);
		memcpy(key->mac, bytes + 16, 32);
		memcpy(key->cipher, bytes + 48, 32);
	}
	OPENSSL_cleanse(bytes, sizeof(bytes));
	if ((n > 0 && n < (int)sizeof(bytes)) || t->keys_n == 0 || BIO_pending(file) > 0)
		complain(
			l, "ticket_keys",
			"%s is not 1 to %d keys of %d bytes each, make one with: openssl rand -out "
			"%s %d",
			path, TICKET_KEYS_MAX, TICKET_KEY_BYTES, path, TICKET_KEY_BYTES);
	BIO_free(file);
}

static struct tickets *tickets_new(struct loading *l, const struct config_tls *config,
				   const struct keyring *before)
{
	bool random = *config->ticket_keys == 0;
	struct tickets *t;

	if (random && before != NULL && before->tickets->random &&
	    before->tickets->seconds == config->ticket_seconds) {
		atomic_fetch_add(&before->tickets->refs, 1);
		return before->tickets;
	}
	t = memory_new_zeroed(sizeof(*t));
	if (t == NULL)
		return NULL;
	pthread_mutex_init(&t->lock, NULL);
	atomic_init(&t->refs, 1);
	t->random = random;
	t->seconds = config->ticket_seconds;
	t->made_at = seconds_now();
	if (!random) {
		keys_read(l, t, config->ticket_keys);
	} else if (make_key(&t->keys[0])) {
		t->keys_n = 1;
	} else {
		tickets_unref(t);
		return NULL;
	}
	/* Those that were made before it is another time for them. */
	if (random && before != NULL && before->tickets->random && t->keys_n < TICKET_KEYS_MAX &&
	    find_key(before->tickets, NULL, &t->keys[1]) >= 0)
		t->keys_n = 2;
	return t;
}

/* ---- clients' certificates ---- */

static void revocations_read(struct loading *l, X509_STORE *store, const char *path)
{
	struct stat st;
	BIO *file = file_open(l, "client_crl", path, &st);
	X509_CRL *crl;
	int n = 0, added = 0;

	while (file != NULL &&
	       (crl = PEM_read_bio_X509_CRL(file, NULL, no_password, NULL)) != NULL) {
		const ASN1_TIME *until = X509_CRL_get0_nextUpdate(crl);

		n++;
		added += X509_STORE_add_crl(store, crl) == 1;
		if (until != NULL && is_over(l, "client_crl", path, until))
			complain(l, "client_crl",
				 "%s: its time is over, and nobody would be let in: fetch the next "
				 "one",
				 path);
		X509_CRL_free(crl);
	}
	if (file != NULL &&
	    (n == 0 || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE))
		complain(l, "client_crl", "%s has no list that can be read (%s), use one in PEM",
			 path, library_says());
	ERR_clear_error();
	BIO_free(file);
	demand(l, "client_crl",
	       added == n && X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK) == 1);
}

/* What sessions are for: with others who are trusted, they begin anew. */
static void make_context(struct loading *l, struct keyring *c, const struct config_tls *config)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	const char *const keys[] = { "client_ca", "client_crl" };
	const char *const files[] = { config->client_ca, config->client_crl };
	unsigned n = 0;
	bool done = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
		    EVP_DigestUpdate(md, &config->client_auth, sizeof(config->client_auth)) == 1;

	for (size_t i = 0; config->client_auth != CLIENT_AUTH_NONE && done && i < 2; i++) {
		struct stat st;
		BIO *file = *files[i] != 0 ? file_open(l, keys[i], files[i], &st) : NULL;
		char bytes[4096];
		int len = 0;

		while (file != NULL && done && (len = BIO_read(file, bytes, sizeof(bytes))) > 0)
			done = EVP_DigestUpdate(md, bytes, (size_t)len) == 1;
		/* A text in memory that has come to its end says -1. */
		done = done && (file == NULL || BIO_pending(file) == 0) &&
		       EVP_DigestUpdate(md, "", 1) == 1;
		BIO_free(file);
	}
	demand(l, "client_ca", done && EVP_DigestFinal_ex(md, c->context, &n) == 1);
	EVP_MD_CTX_free(md);
	ERR_clear_error();
}

static void trust_read(struct loading *l, struct keyring *c, const struct config_tls *config)
{
	STACK_OF(X509) * all;

	c->trusted = X509_STORE_new();
	if (c->trusted == NULL || config->client_auth == CLIENT_AUTH_NONE)
		return;
	all = certificates_read(l, "client_ca", config->client_ca);
	for (int i = 0; i < sk_X509_num(all); i++)
		demand(l, "client_ca", X509_STORE_add_cert(c->trusted, sk_X509_value(all, i)) == 1);
	sk_X509_pop_free(all, X509_free);
	if (*config->client_crl != 0)
		revocations_read(l, c->trusted, config->client_crl);
}

bool keyring_trust(const struct keyring *c, X509 *certificate, STACK_OF(X509) * chain)
{
	X509_STORE_CTX *check = X509_STORE_CTX_new();
	bool good = false;

	if (check != NULL && c->ask != CLIENT_AUTH_NONE &&
	    X509_STORE_CTX_init(check, c->trusted, certificate, chain) == 1)
		good = X509_STORE_CTX_set_default(check, "ssl_client") == 1 &&
		       X509_verify_cert(check) == 1;
	X509_STORE_CTX_free(check);
	ERR_clear_error();
	return good;
}

static char *text_of(const ASN1_STRING *string)
{
	unsigned char *utf8 = NULL;
	int len = ASN1_STRING_to_UTF8(&utf8, string);
	char *text = NULL;

	/* A NUL inside would make another name of it. */
	if (len > 0 && memchr(utf8, 0, (size_t)len) == NULL &&
	    (text = memory_new((size_t)len + 1)) != NULL) {
		memcpy(text, utf8, (size_t)len);
		text[len] = 0;
	}
	OPENSSL_free(utf8);
	return text;
}

char *keyring_client_name(SSL_CTX *library, X509 *certificate)
{
	static const int kinds[] = { [CLIENT_NAME_SAN_DNS] = GEN_DNS,
				     [CLIENT_NAME_SAN_URI] = GEN_URI,
				     [CLIENT_NAME_SAN_EMAIL] = GEN_EMAIL };
	const struct keyring *c = SSL_CTX_get_app_data(library);
	X509_NAME *subject = X509_get_subject_name(certificate);
	GENERAL_NAMES *names;
	char *found = NULL;
	int at;

	if (c->client_name == CLIENT_NAME_CN) {
		at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
		return at >= 0 ? text_of(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)))
			       : NULL;
	}
	names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; found == NULL && i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

		if (name->type == kinds[c->client_name])
			found = text_of(name->d.ia5);
	}
	GENERAL_NAMES_free(names);
	return found;
}

/* ---- loading ---- */

/* Without forward secrecy, or with ciphers that have been broken, it would be TLS in name only. */
static void check_ciphers(struct loading *l, SSL_CTX *library, const char *text)
{
	STACK_OF(SSL_CIPHER) *all = SSL_CTX_get_ciphers(library);

	demand(l, "ciphers", all != NULL);
	for (int i = 0; i < sk_SSL_CIPHER_num(all); i++) {
		const SSL_CIPHER *one = sk_SSL_CIPHER_value(all, i);
		int auth = SSL_CIPHER_get_auth_nid(one);

		if (strcmp(SSL_CIPHER_get_version(one), "TLSv1.3") == 0)
			continue;
		if (SSL_CIPHER_get_kx_nid(one) == NID_kx_ecdhe && SSL_CIPHER_is_aead(one) &&
		    (auth == NID_auth_rsa || auth == NID_auth_ecdsa))
			continue;
		complain(l, "ciphers",
			 "\"%s\" allows %s, use only ECDHE with AEAD, like "
			 "\"ECDHE+AESGCM:ECDHE+CHACHA20\"",
			 text, SSL_CIPHER_get_name(one));
		return;
	}
}

/* Of either side. */
static void set_basics(struct loading *l, SSL_CTX *library)
{
	SSL_CTX_set_security_level(library, SECURITY_LEVEL);
	demand(l, "tls", SSL_CTX_set_min_proto_version(library, TLS1_2_VERSION) == 1);
	SSL_CTX_set_options(library, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(library, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN |
					  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(library, SSL_SESS_CACHE_OFF);
}

static void set_protocol(struct loading *l, SSL_CTX *library, const struct config_tls *config)
{
	set_basics(l, library);
	demand(l, "min_version",
	       config->min_version != MIN_VERSION_1_3 ||
		       SSL_CTX_set_min_proto_version(library, TLS1_3_VERSION) == 1);
	SSL_CTX_set_options(library, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
	demand(l, "tls", SSL_CTX_set_max_early_data(library, 0) == 1);
	if (SSL_CTX_set_cipher_list(library, config->ciphers) != 1)
		complain(l, "ciphers",
			 "\"%s\" names none that is known, use "
			 "\"ECDHE+AESGCM:ECDHE+CHACHA20\"",
			 config->ciphers);
	else
		check_ciphers(l, library, config->ciphers);
	if (SSL_CTX_set_ciphersuites(library, config->ciphersuites) != 1)
		complain(l, "ciphersuites",
			 "\"%s\" names one that is not known, use some of TLS_AES_128_GCM_SHA256, "
			 "TLS_AES_256_GCM_SHA384 and TLS_CHACHA20_POLY1305_SHA256",
			 config->ciphersuites);
	if (SSL_CTX_set1_groups_list(library, config->groups) != 1)
		complain(l, "groups", "\"%s\" names one that is not known, use \"X25519:P-256\"",
			 config->groups);
}

static void set_clients(struct loading *l, SSL_CTX *library, struct keyring *c)
{
	STACK_OF(X509_OBJECT) *all = X509_STORE_get0_objects(c->trusted);
	int mode = SSL_VERIFY_PEER | SSL_VERIFY_CLIENT_ONCE;

	demand(l, "client_ca",
	       SSL_CTX_set_session_id_context(library, c->context, sizeof(c->context)) == 1);
	if (c->ask == CLIENT_AUTH_NONE)
		return;
	if (c->ask == CLIENT_AUTH_REQUIRED)
		mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
	SSL_CTX_set_verify(library, mode, NULL);
	demand(l, "client_ca", SSL_CTX_set1_verify_cert_store(library, c->trusted) == 1);
	for (int i = 0; i < sk_X509_OBJECT_num(all); i++) {
		X509 *one = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(all, i));

		demand(l, "client_ca", one == NULL || SSL_CTX_add_client_CA(library, one) == 1);
	}
}

static void set_tickets(struct loading *l, SSL_CTX *library, const struct config_tls *config)
{
	if (config->ticket_seconds == 0) {
		SSL_CTX_set_options(library, SSL_OP_NO_TICKET);
		demand(l, "ticket_seconds", SSL_CTX_set_num_tickets(library, 0) == 1);
		return;
	}
	(void)SSL_CTX_set_timeout(library, config->ticket_seconds);
	demand(l, "ticket_seconds",
	       SSL_CTX_set_num_tickets(library, 1) == 1 &&
		       SSL_CTX_set_tlsext_ticket_key_evp_cb(library, use_ticket) == 1);
}

static void set_certificate(struct loading *l, SSL_CTX *library,
			    const struct config_certificate *config, struct certificate *one)
{
	STACK_OF(X509) *chain = certificates_read(l, l->chain, config->chain);
	EVP_PKEY *key = key_read(l, config->key);
	X509 *leaf = chain != NULL ? sk_X509_value(chain, 0) : NULL;

	if (chain != NULL)
		check_chain(l, config->chain, chain);
	ERR_clear_error();
	if (leaf != NULL && key != NULL && X509_check_private_key(leaf, key) != 1)
		complain(l, "key",
			 ERR_GET_REASON(ERR_peek_error()) == X509_R_KEY_VALUES_MISMATCH ||
					 ERR_GET_REASON(ERR_peek_error()) ==
						 X509_R_KEY_TYPE_MISMATCH
				 ? "%s is not the key of the first certificate in %s, name the "
				   "one that it was made with"
				 : "%s cannot be compared with the first certificate in %s, free "
				   "some memory",
			 config->key, config->chain);
	if (leaf != NULL && !l->failed) {
		one->expires_s = seconds_of(X509_get0_notAfter(leaf));
		demand(l, l->chain, one->expires_s > 0);
		if (SSL_CTX_use_certificate(library, leaf) != 1)
			complain(l, l->chain,
				 "%s: %s, use a certificate with RSA from 2048 bits or "
				 "P-256",
				 config->chain, library_says());
		else if (SSL_CTX_use_PrivateKey(library, key) != 1)
			complain(l, "key", "%s: %s, use a key that fits", config->key,
				 library_says());
		for (int i = 1; i < sk_X509_num(chain); i++)
			if (SSL_CTX_add1_chain_cert(library, sk_X509_value(chain, i)) != 1)
				complain(l, l->chain, "%s: %s, use RSA from 2048 bits or P-256",
					 config->chain, library_says());
		if (!names_read(one, leaf))
			complain(l, l->chain, "out of memory, free some");
	}
	EVP_PKEY_free(key);
	sk_X509_pop_free(chain, X509_free);
}

static bool certificate_load(struct loading *l, struct keyring *c, const struct config_tls *config,
			     const struct config_certificate *certificate)
{
	struct certificate *one = &c->certificates[c->certificates_n];
	SSL_CTX *library = SSL_CTX_new(TLS_server_method());

	if (library == NULL)
		return false;
	one->library = library;
	one->title = memory_new(strlen(certificate->title) + 1);
	if (one->title == NULL) {
		SSL_CTX_free(library);
		return false;
	}
	strcpy(one->title, certificate->title);
	look_at(l, &config->where, "tls");
	demand(l, "tls", SSL_CTX_set_app_data(library, c) == 1);
	set_protocol(l, library, config);
	set_clients(l, library, c);
	set_tickets(l, library, config);
	SSL_CTX_set_alpn_select_cb(library, choose_protocol, c);
	demand(l, "certificate",
	       SSL_CTX_set_tlsext_servername_callback(library, choose_certificate) == 1 &&
		       SSL_CTX_set_tlsext_servername_arg(library, c) == 1);
	look_at(l, &certificate->where, "certificate");
	set_certificate(l, library, certificate, one);
	check_names(l, c, certificate, one);
	c->certificates_n++;
	return true;
}

static void check_section(struct loading *l, const struct config_tls *config)
{
	look_at(l, &config->where, "tls");
	if (config->certificates_n == 0)
		complain(l, "certificate",
			 "none at all, use certificate \"main\" { chain = \"...\" "
			 "key = \"...\" }");
	if (config->client_auth != CLIENT_AUTH_NONE && *config->client_ca == 0)
		complain(l, "client_ca",
			 "none at all, name a file of who signs your clients' "
			 "certificates, or use client_auth = \"none\"");
	for (size_t i = 0; i < config->certificates_n; i++) {
		const struct config_certificate *one = &config->certificates[i];

		look_at(l, &one->where, "certificate");
		if (*one->chain == 0)
			complain(l, "chain",
				 "none at all, name a file of certificates in PEM, the "
				 "server's first");
		if (*one->key == 0)
			complain(l, "key", "none at all, name the file of its key in PEM");
	}
	look_at(l, &config->where, "tls");
}

static struct keyring_protocol *protocols_copy(const struct keyring_protocol *from)
{
	struct keyring_protocol *copy;
	size_t n = 0;

	while (from[n++].name != NULL)
		;
	copy = memory_new(n * sizeof(*copy));
	if (copy != NULL)
		memcpy(copy, from, n * sizeof(*copy));
	return copy;
}

int keyring_load(const struct config_tls *config, unsigned choices,
		 const struct keyring_protocol *protocols, const struct keyring *before,
		 struct keyring **out, FILE *errors)
{
	struct loading l = { .errors = errors, .chain = "chain" };
	struct keyring *c = memory_new_zeroed(sizeof(*c));
	bool memory = c != NULL;

	*out = NULL;
	if (c == NULL)
		return -ENOMEM;
	atomic_init(&c->refs, 1);
	c->choices = choices;
	c->ask = config->client_auth;
	c->client_name = config->client_name;
	check_section(&l, config);
	c->protocols = protocols_copy(protocols);
	c->certificates =
		memory_new_zeroed((config->certificates_n + 1) * sizeof(*c->certificates));
	memory = c->protocols != NULL && c->certificates != NULL && library_whole();
	if (memory && !l.failed) {
		make_context(&l, c, config);
		trust_read(&l, c, config);
		c->tickets = tickets_new(&l, config, before);
		memory = c->trusted != NULL && c->tickets != NULL;
	}
	for (size_t i = 0; memory && !l.failed && i < config->certificates_n; i++)
		memory = certificate_load(&l, c, config, &config->certificates[i]);
	if (memory && !l.failed) {
		*out = c;
		return 0;
	}
	keyring_unref(c);
	return l.failed ? -EINVAL : -ENOMEM;
}

/* Whom the library's client trusts, which is whom the system trusts if nobody is named. */
static void trust_servers(struct loading *l, SSL_CTX *library,
			  const struct config_upstream_tls *config)
{
	X509_STORE *trusted = SSL_CTX_get_cert_store(library);
	STACK_OF(X509) *all = NULL;

	SSL_CTX_set_verify(library, SSL_VERIFY_PEER, NULL);
	if (*config->ca == 0) {
		(void)SSL_CTX_set_default_verify_paths(library);
		ERR_clear_error();
		return;
	}
	all = certificates_read(l, "ca", config->ca);
	for (int i = 0; i < sk_X509_num(all); i++)
		demand(l, "ca", X509_STORE_add_cert(trusted, sk_X509_value(all, i)) == 1);
	sk_X509_pop_free(all, X509_free);
}

int keyring_load_client(const struct config_upstream_tls *config, struct keyring **out,
			FILE *errors)
{
	const struct config_certificate shown = { .chain = config->certificate,
						  .key = config->key };
	struct loading l = { .errors = errors, .chain = "certificate" };
	struct keyring *c = memory_new_zeroed(sizeof(*c));
	struct certificate *one = memory_new_zeroed(sizeof(*one));

	*out = NULL;
	if (one != NULL)
		one->library = SSL_CTX_new(TLS_client_method());
	if (c == NULL || one == NULL || one->library == NULL) {
		memory_free(c);
		if (one != NULL)
			SSL_CTX_free(one->library);
		memory_free(one);
		fputs("tls: out of memory, free some\n", errors);
		return -ENOMEM;
	}
	atomic_init(&c->refs, 1);
	c->certificates = one;
	c->certificates_n = 1;
	look_at(&l, &config->where, "upstream.tls");
	set_basics(&l, one->library);
	trust_servers(&l, one->library, config);
	if (*config->certificate != 0)
		set_certificate(&l, one->library, &shown, one);
	if (!l.failed) {
		*out = c;
		return 0;
	}
	keyring_unref(c);
	return -EINVAL;
}

struct keyring *keyring_ref(struct keyring *c)
{
	if (c != NULL)
		atomic_fetch_add(&c->refs, 1);
	return c;
}

void keyring_unref(struct keyring *c)
{
	if (c == NULL || atomic_fetch_sub(&c->refs, 1) > 1)
		return;
	for (size_t i = 0; i < c->certificates_n; i++) {
		struct certificate *one = &c->certificates[i];

		for (size_t k = 0; k < one->names_n; k++)
			memory_free(one->names[k]);
		memory_free(one->names);
		memory_free(one->title);
		SSL_CTX_free(one->library);
	}
	memory_free(c->certificates);
	memory_free(c->protocols);
	X509_STORE_free(c->trusted);
	tickets_unref(c->tickets);
	memory_free(c);
}

bool keyring_ask(const struct keyring *c)
{
	return c->ask != CLIENT_AUTH_NONE;
}

bool keyring_expiry(const struct keyring *c, size_t n, const char **title, int64_t *at_s)
{
	if (n >= c->certificates_n)
		return false;
	*title = c->certificates[n].title;
	*at_s = c->certificates[n].expires_s;
	return true;
}

SSL_CTX *keyring_library(const struct keyring *c)
{
	return c->certificates[0].library;
}

unsigned keyring_choices(const struct keyring *c)
{
	return c->choices;
}
