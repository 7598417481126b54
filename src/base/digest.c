#include "base/digest.h"

#include <errno.h>
#include <limits.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
	HS256_BYTES_MIN = 32, /* RFC 7518, 3.2 */
	RSA_BITS_MIN = 2048,  /* RFC 7518, 3.3 */
	ES256_BYTES = 64,     /* RFC 7518, 3.4: r and s */
	ES256_DER_MAX = 80,
};

bool digest_init(void)
{
	unsigned char digest[DIGEST_SHA1_BYTES];

	/* What the system has set for others is not ours. */
	if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
		return false;
	/* Without this the library would look behind a null pointer. */
	if (OSSL_LIB_CTX_get0_global_default() == NULL)
		return false;
	return SHA1((const unsigned char *)"", 0, digest) != NULL;
}

bool digest_sha1(struct span bytes, unsigned char out[DIGEST_SHA1_BYTES])
{
	return SHA1((const unsigned char *)bytes.data, bytes.len, out) != NULL;
}

bool digest_of(struct span bytes, struct digest *out)
{
	return SHA256((const unsigned char *)bytes.data, bytes.len, out->bytes) != NULL;
}

bool digest_keyed(struct span key, struct span bytes, struct digest *out)
{
	return key.len <= INT_MAX &&
	       HMAC(EVP_sha256(), key.data, (int)key.len, (const unsigned char *)bytes.data,
		    bytes.len, out->bytes, NULL) != NULL;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool digest_parse(struct span text, struct digest *out)
{
	static const char head[] = "sha256:";
	const char *p = text.data + sizeof(head) - 1;

	if (text.len != DIGEST_TEXT_MAX - 1 || memcmp(text.data, head, sizeof(head) - 1) != 0)
		return false;
	for (size_t i = 0; i < sizeof(out->bytes); i++) {
		int high = hex(p[2 * i]), low = hex(p[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		out->bytes[i] = (unsigned char)(high << 4 | low);
	}
	return true;
}

void digest_print(const struct digest *d, char out[DIGEST_TEXT_MAX])
{
	static const char digits[] = "0123456789abcdef";
	char *p = stpcpy(out, "sha256:");

	for (size_t i = 0; i < sizeof(d->bytes); i++) {
		*p++ = digits[d->bytes[i] >> 4];
		*p++ = digits[d->bytes[i] & 15];
	}
	*p = '\0';
}

bool bytes_same(const void *a, const void *b, size_t n)
{
	return CRYPTO_memcmp(a, b, n) == 0;
}

bool bytes_random(void *out, size_t n)
{
	char *at = out;

	while (n > 0) {
		ssize_t got = getrandom(at, n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		at += got;
		n -= (size_t)got;
	}
	return true;
}

void bytes_forget(void *secret, size_t n)
{
	if (secret != NULL)
		OPENSSL_cleanse(secret, n);
}

/* ---- signatures ---- */

struct signature_key {
	enum key_algorithm algorithm;
	EVP_PKEY *public; /* NULL: HS256 */
	struct digest print;
	size_t secret_len;
	char secret[];
};

/* What the key is for, and nothing else: a token cannot choose (CVE-2015-9235 and its like). */
static const char *algorithm_of(EVP_PKEY *public, enum key_algorithm *out)
{
	char curve[32] = "";

	switch (EVP_PKEY_get_base_id(public)) {
	case EVP_PKEY_RSA:
		*out = KEY_RS256;
		return EVP_PKEY_get_bits(public) >= RSA_BITS_MIN ? NULL
								 : "an RSA key of under 2048 bits";
	case EVP_PKEY_EC:
		*out = KEY_ES256;
		return EVP_PKEY_get_group_name(public, curve, sizeof(curve), NULL) == 1 &&
				       strcmp(curve, "prime256v1") == 0
			       ? NULL
			       : "an elliptic curve other than P-256";
	case EVP_PKEY_ED25519:
		*out = KEY_EDDSA;
		return NULL;
	default:
		return "a kind of key that no algorithm is for";
	}
}

static EVP_PKEY *read_public(struct span file, const char **wrong)
{
	BIO *bio = file.len <= INT_MAX ? BIO_new_mem_buf(file.data, (int)file.len) : NULL;
	EVP_PKEY *public = NULL;
	X509 *certificate = NULL;

	*wrong = "out of memory";
	if (bio == NULL)
		return NULL;
	if (memmem(file.data, file.len, "PRIVATE KEY-----", 16) != NULL) {
		*wrong = "a private key, which does not belong here: keep the public one";
	} else if (memmem(file.data, file.len, "-----BEGIN CERTIFICATE", 22) != NULL) {
		*wrong = "a certificate that cannot be read";
		certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
		public = certificate != NULL ? X509_get_pubkey(certificate) : NULL;
		X509_free(certificate);
	} else {
		*wrong = "a public key that cannot be read";
		public = PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL);
	}
	BIO_free(bio);
	ERR_clear_error();
	return public;
}

static struct signature_key *key_new(size_t secret_len, const char **wrong)
{
	struct signature_key *key = calloc(1, sizeof(*key) + secret_len);

	*wrong = key == NULL ? "out of memory" : NULL;
	return key;
}

static struct signature_key *secret_key_new(struct span file, const char **wrong)
{
	struct signature_key *key = key_new(file.len, wrong);

	if (key == NULL)
		return NULL;
	key->algorithm = KEY_HS256;
	key->secret_len = file.len;
	memcpy(key->secret, file.data, file.len);
	return key;
}

void signature_key_free(struct signature_key *key)
{
	if (key == NULL)
		return;
	EVP_PKEY_free(key->public);
	bytes_forget(key->secret, key->secret_len);
	free(key);
}

struct signature_key *signature_key_new(struct span file, bool secret_allowed, const char **wrong)
{
	bool pem = memmem(file.data, file.len, "-----BEGIN ", 11) != NULL;
	struct signature_key *key = NULL;
	enum key_algorithm algorithm;
	EVP_PKEY *public;

	/* The text of a public key is no secret, whatever the algorithm. */
	if (!pem && !secret_allowed) {
		*wrong = "no public key in PEM";
	} else if (!pem && file.len < HS256_BYTES_MIN) {
		*wrong = "a secret of under 32 bytes";
	} else if (!pem) {
		key = secret_key_new(file, wrong);
	} else if ((public = read_public(file, wrong)) != NULL) {
		*wrong = algorithm_of(public, &algorithm);
		key = *wrong == NULL ? key_new(0, wrong) : NULL;
		if (key == NULL) {
			EVP_PKEY_free(public);
		} else {
			key->algorithm = algorithm;
			key->public = public;
		}
	}
	if (key == NULL || digest_of(file, &key->print))
		return key;
	signature_key_free(key);
	*wrong = "out of memory";
	return NULL;
}

enum key_algorithm signature_key_algorithm(const struct signature_key *key)
{
	return key->algorithm;
}

const struct digest *signature_key_print(const struct signature_key *key)
{
	return &key->print;
}

/* JSON Web Signatures have r and s one behind the other, OpenSSL wants ASN.1. The length; 0: out of
 * memory. */
static size_t es256_der(struct span signature, unsigned char out[ES256_DER_MAX])
{
	const unsigned char *bytes = (const unsigned char *)signature.data;
	ECDSA_SIG *pair = ECDSA_SIG_new();
	BIGNUM *r = BN_bin2bn(bytes, ES256_BYTES / 2, NULL);
	BIGNUM *s = BN_bin2bn(bytes + ES256_BYTES / 2, ES256_BYTES / 2, NULL);
	int len = 0;

	if (pair != NULL && r != NULL && s != NULL && ECDSA_SIG_set0(pair, r, s) == 1) {
		unsigned char *at = out;

		len = i2d_ECDSA_SIG(pair, NULL);
		len = len > 0 && len <= ES256_DER_MAX ? i2d_ECDSA_SIG(pair, &at) : 0;
	} else {
		BN_free(r);
		BN_free(s);
	}
	ECDSA_SIG_free(pair);
	return len > 0 ? (size_t)len : 0;
}

static bool verify(const struct signature_key *key, struct span bytes, struct span signature)
{
	const EVP_MD *md = key->algorithm == KEY_EDDSA ? NULL : EVP_sha256();
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool right = context != NULL &&
		     EVP_DigestVerifyInit(context, NULL, md, NULL, key->public) == 1 &&
		     EVP_DigestVerify(context, (const unsigned char *)signature.data, signature.len,
				      (const unsigned char *)bytes.data, bytes.len) == 1;

	EVP_MD_CTX_free(context);
	ERR_clear_error();
	return right;
}

bool signature_right(const struct signature_key *key, struct span bytes, struct span signature)
{
	unsigned char der[ES256_DER_MAX];
	struct digest mac;

	switch (key->algorithm) {
	case KEY_HS256:
		return signature.len == sizeof(mac.bytes) &&
		       digest_keyed((struct span){ key->secret, key->secret_len }, bytes, &mac) &&
		       bytes_same(mac.bytes, signature.data, sizeof(mac.bytes));
	case KEY_ES256:
		if (signature.len != ES256_BYTES)
			return false;
		signature = (struct span){ (const char *)der, es256_der(signature, der) };
		return signature.len > 0 && verify(key, bytes, signature);
	case KEY_RS256:
	case KEY_EDDSA:
		return verify(key, bytes, signature);
	case KEY_ALGORITHMS:
	default:
		return false;
	}
}
