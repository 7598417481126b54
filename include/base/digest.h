#ifndef BASE_DIGEST_H
#define BASE_DIGEST_H

/*
 * What credentials need of cryptography, by OpenSSL's libcrypto: SHA-256 (FIPS 180-4), HMAC (RFC
 * 2104), comparisons that take the same time whatever differs, random bytes, and keys that check
 * the signatures of tokens (RFC 7518, 3; RFC 8037). Any thread.
 */

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

struct digest {
	unsigned char bytes[32];
};

/* To be called once before other threads use any of it: from then on libcrypto opens no file.
 * False: out of memory, and none of it may be used. */
bool digest_init(void);

/* SHA-256. False, of this and the next: libcrypto failed, and there is nothing in out. */
bool digest_of(struct span bytes, struct digest *out);
/* SHA-1, for the protocol that names it (RFC 6455, 1.3); no secret may depend on it. */
enum { DIGEST_SHA1_BYTES = 20 };
bool digest_sha1(struct span bytes, unsigned char out[DIGEST_SHA1_BYTES]);
/* HMAC with SHA-256. False: libcrypto failed. */
bool digest_keyed(struct span key, struct span bytes, struct digest *out);
/* "sha256:" and 64 hexadecimal digits. */
bool digest_parse(struct span text, struct digest *out);
enum { DIGEST_TEXT_MAX = 7 + 64 + 1 };
void digest_print(const struct digest *digest, char out[DIGEST_TEXT_MAX]);
/* Takes as long whatever differs. */
bool bytes_same(const void *a, const void *b, size_t n);
/* False: the system has none. */
bool bytes_random(void *out, size_t n);
/* So that it is not to be found in memory that is used again. */
void bytes_forget(void *secret, size_t n);

enum key_algorithm { KEY_HS256, KEY_RS256, KEY_ES256, KEY_EDDSA, KEY_ALGORITHMS };

/* A key that signatures are checked with: parsed once, immutable. */
struct signature_key;

/*
 * Of a file's bytes: a public key or a certificate in PEM, or, where that is what may be, 32 bytes
 * and more of a secret (HS256). NULL: *wrong says why not. RSA keys have 2048 bits at least, ES256
 * is P-256, EdDSA is Ed25519.
 */
struct signature_key *signature_key_new(struct span file, bool secret_allowed, const char **wrong);
void signature_key_free(struct signature_key *key);
enum key_algorithm signature_key_algorithm(const struct signature_key *key);
/* What it is known by when it is read again. */
const struct digest *signature_key_print(const struct signature_key *key);
/* Whether the signature, as JSON Web Signatures have it, is this key's of these bytes, by the one
 * algorithm that the key is for. */
bool signature_right(const struct signature_key *key, struct span bytes, struct span signature);

#endif
