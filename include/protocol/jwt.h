#ifndef PROTOCOL_JWT_H
#define PROTOCOL_JWT_H

/*
 * JSON Web Tokens (RFC 7519, RFC 7515) and what the broker signs in their form itself: tickets. The
 * JSON is a packaged library's. A token is read in two steps, so that nothing of what it claims is
 * looked at before its signature has been found right (base/digest.h). Pure functions; any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/span.h"

enum {
	JWT_BYTES_MAX = 8 << 10,     /* of a token */
	JWT_PATTERNS_MAX = 256,      /* in one */
	JWT_NAME_MAX = 128,          /* of a key or a subject */
	JWT_SIGNATURE_MAX = 1 << 10, /* RSA of 8192 bits */
};

#define JWT_FOREVER INT64_MAX

struct jwt {
	enum key_algorithm algorithm;
	char key[JWT_NAME_MAX + 1]; /* kid; empty: none */
	struct span signed_bytes;   /* of the token */
	size_t signature_len;
	char signature[JWT_SIGNATURE_MAX];
};

/* Whether the bytes look like a token of this kind and like nothing else. */
bool jwt_detect(struct span token);
/* Its head and signature. NULL, or why it is none that could be right: static text. */
const char *jwt_read(struct span token, struct jwt *out);

struct jwt_wanted {
	const char *issuer, *audience; /* empty: any */
	const char *claim;
	int64_t now_s, leeway_s;
};

/* Of one whose signature is right. */
struct jwt_claims {
	char subject[JWT_NAME_MAX + 1]; /* empty: none that could be a name */
	int64_t expires_s;              /* with the leeway; JWT_FOREVER: never */
};

/* Something that it may; pattern is valid. -errno ends the reading. */
typedef int jwt_grant(void *context, bool publish, struct span pattern);

/* What it claims. NULL, or why it is not taken: static text. */
const char *jwt_claims_read(const struct jwt *jwt, const struct jwt_wanted *wanted,
			    struct jwt_claims *out, jwt_grant *grant, void *context);

/* ---- the broker's own ---- */

/* 256 random bits in letters, with a NUL. False: there are none. */
enum { TOKEN_TEXT_MAX = 43 + 1 };
bool token_new(char out[TOKEN_TEXT_MAX]);

enum { TICKET_PATTERNS_MAX = 64, TICKET_NONCE_BYTES = 16 };

struct ticket {
	char user[JWT_NAME_MAX + 1];
	bool foreign;      /* its user is of somebody else's token, which this key has signed */
	struct digest key; /* or the credential that it was asked for with */
	unsigned char nonce[TICKET_NONCE_BYTES];
	int64_t expires_s; /* to be shown until then */
	int64_t until_s;   /* to be used until then; JWT_FOREVER */
};

/* The patterns in {"subscribe":["a.b"]}, one or more of them and valid. NULL, or what is wrong. */
const char *ticket_request_read(struct span body, jwt_grant *grant, void *context);
/* A ticket for these patterns, signed; to be freed with free(3). NULL: out of memory, or longer
 * than JWT_BYTES_MAX. */
char *ticket_write(const struct ticket *ticket, struct span secret, struct span const *patterns,
		   size_t patterns_n);
/* False: it is none of this secret's, or over. */
bool ticket_read(struct span text, struct span secret, int64_t now_s, struct ticket *out,
		 jwt_grant *grant, void *context);

#endif
