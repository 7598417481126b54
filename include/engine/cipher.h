#ifndef ENGINE_CIPHER_H
#define ENGINE_CIPHER_H

/*
 * One connection's encryption (TLS 1.2, RFC 5246, and 1.3, RFC 8446), either side: bytes to
 * bytes, no call touches a socket. What it has to say goes to the owner's function, what has come
 * is handed in. A library stands behind it (cipher.c); a test links another implementation of this
 * header in its place. One thread at a time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

struct keyring;
struct ssl_st;

enum {
	CIPHER_RECORD_BYTES = 16 << 10, /* of the plain bytes in a record, at most */
	CIPHER_OVERHEAD_BYTES = 64,     /* what a record takes beside them, at most */
};

enum cipher_result {
	CIPHER_DONE,
	CIPHER_MORE,   /* needs more of what is to come */
	CIPHER_CLOSED, /* the peer's close_notify */
	CIPHER_FAILED, /* for good; an alert may have been said */
};

/* Why a handshake has failed. */
enum cipher_failure {
	CIPHER_FAILURE_NONE,
	CIPHER_FAILURE_TIMEOUT,
	CIPHER_FAILURE_CLOSED,  /* the peer went away */
	CIPHER_FAILURE_NOT_TLS, /* what came is something else */
	CIPHER_FAILURE_VERSION,
	CIPHER_FAILURE_CIPHERS, /* nothing in common */
	CIPHER_FAILURE_ALPN,
	CIPHER_FAILURE_CERTIFICATE, /* the peer's is missing or not good */
	CIPHER_FAILURE_ALERT,       /* the peer does not like ours */
	CIPHER_FAILURE_MEMORY,
	CIPHER_FAILURE_OTHER,
	CIPHER_FAILURES
};
extern const char *const cipher_failure_names[CIPHER_FAILURES];

/* Takes what the cipher has to say. False: there is no memory for it. */
typedef bool cipher_out(void *context, const char *data, size_t len);

struct cipher {
	struct ssl_st *ssl;
	struct keyring *keyring; /* held */
	struct span in;          /* during a call */
	cipher_out *out;
	void *context;
	unsigned allows;      /* what ALPN has left of the owner's choices: keyring.h */
	unsigned key_updates; /* by the peer, so far */
	bool resumed;
	bool renegotiates; /* the peer wants to, which is its end */
	enum cipher_failure failure;
	const char *said; /* by the library when it failed; static, or NULL */
	char *client;     /* the name in the peer's certificate that was good; or NULL */
};

/* server: NULL, that is this side; else this is the client's, and that side's certificate must be
 * good for this name or address. NULL: out of memory. */
struct cipher *cipher_new(struct keyring *keyring, const char *server, cipher_out *out,
			  void *context);
void cipher_free(struct cipher *cipher);
/* Why it has failed, for people; NULL: it has not. */
const char *cipher_problem(const struct cipher *cipher);
/* Goes on with the handshake; takes all of *in, or up to its end. */
enum cipher_result cipher_handshake(struct cipher *cipher, struct span *in);
/* Opens what has come, as much as there is room for: *n bytes, with CIPHER_DONE 1 or more of them.
 * Takes from *in; with CIPHER_MORE all of it. */
enum cipher_result cipher_read(struct cipher *cipher, struct span *in, char *out, size_t max,
			       size_t *n);
/* Seals bytes, at most CIPHER_RECORD_BYTES, in one record. False: it has failed for good. */
bool cipher_write(struct cipher *cipher, const char *data, size_t len);
/* Says close_notify. */
void cipher_finish(struct cipher *cipher);
/* Whether the peer's certificate, if it has shown one, would be good with these keyring. */
bool cipher_still_trusted(const struct cipher *cipher, const struct keyring *keyring);

#endif
