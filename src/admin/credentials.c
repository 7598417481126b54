#include "admin/credentials.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admin/exit.h"
#include "base/digest.h"
#include "base/password.h"
#include "protocol/jwt.h"

/* Of standard input's first line, so that it is in no list of processes and no shell's history. */
int credentials_hash_password(void)
{
	char hash[PASSWORD_HASH_BYTES_MAX], *password = NULL;
	size_t size = 0;
	ssize_t n = getline(&password, &size, stdin);
	int err;

	while (n > 0 && (password[n - 1] == '\n' || password[n - 1] == '\r'))
		password[--n] = '\0';
	if (n <= 0 || (size_t)n != strlen(password) || n >= PASSWORD_BYTES_MAX) {
		fprintf(stderr,
			"broker: no password, or one that is too long, on standard input: "
			"one line of 1 to %d bytes\n",
			PASSWORD_BYTES_MAX - 1);
		free(password);
		return EXIT_USAGE;
	}
	err = password_hash_new(password, hash);
	bytes_forget(password, size);
	free(password);
	if (err != 0) {
		fprintf(stderr, "broker: the password cannot be hashed: %s\n", strerror(-err));
		return EXIT_FAILED;
	}
	puts(hash);
	return EXIT_CLEAN;
}

int credentials_make_token(void)
{
	char token[TOKEN_TEXT_MAX], hash[DIGEST_TEXT_MAX];
	struct digest digest;

	if (!token_new(token)) {
		fputs("broker: there are no random bytes\n", stderr);
		return EXIT_FAILED;
	}
	if (!digest_of(span_of(token), &digest)) {
		fputs("broker: out of memory\n", stderr);
		return EXIT_FAILED;
	}
	digest_print(&digest, hash);
	printf("token: %s\ntoken_hash: %s\n", token, hash);
	return EXIT_CLEAN;
}
