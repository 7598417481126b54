#ifndef BASE_PASSWORD_H
#define BASE_PASSWORD_H

/*
 * Passwords and their hashes, by libcrypt (crypt(3), crypt(5)): yescrypt, bcrypt and SHA-512. Made
 * to take long, tens of milliseconds: never on a reactor's thread. Any other thread.
 */

#include <stdbool.h>
#include <stddef.h>

enum {
	PASSWORD_BYTES_MAX = 512,      /* what crypt(3) takes */
	PASSWORD_HASH_BYTES_MAX = 384, /* with the NUL */
};

/* Whether it is a hash, or might be, of a kind that is strong enough to be kept: $y$, $2b$ or $6$.
 */
bool password_hash_valid(const char *hash);
/* Whether the hash is this password's. A password with more bytes than crypt(3) takes, or none,
 * never is. */
bool password_fits(const char *password, const char *hash);
/* A new hash of a password, $y$. -errno. */
int password_hash_new(const char *password, char out[PASSWORD_HASH_BYTES_MAX]);

#endif
