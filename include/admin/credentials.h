#ifndef ADMIN_CREDENTIALS_H
#define ADMIN_CREDENTIALS_H

/* What an operator makes for a configuration. Both return the exit code, and say on standard error
 * what is wrong. */

/* broker --hash-password: reads a password from standard input, prints its hash. */
int credentials_hash_password(void);
/* broker --make-token: prints a new token and its hash. */
int credentials_make_token(void);

#endif
