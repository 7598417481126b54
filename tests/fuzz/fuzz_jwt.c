#include <assert.h>

#include "base/base64.h"
#include "base/name.h"
#include "fuzz.h"
#include "protocol/jwt.h"

/*
 * Tokens of others and tickets. The first byte of an input says what the rest is: a token, the
 * claims of one whose signature is right, or what a ticket is asked for with. What is taken is
 * written in the one way there is to write it, every pattern that comes out is one, there are no
 * more of them than may be, and a ticket says what it was made for, to its secret alone.
 */

static const struct span secret = { "a secret of 32 bytes or so ......", 33 };

struct patterns {
	struct span list[JWT_PATTERNS_MAX];
	char *bytes[JWT_PATTERNS_MAX];
	size_t n, max;
};

static int add_pattern(void *context, bool publish, struct span pattern)
{
	struct patterns *p = context;

	(void)publish;
	check(name_pattern_valid(pattern), "what is granted is no pattern");
	check(p->n < p->max, "more is granted than may be");
	p->bytes[p->n] = exact_copy(pattern.data, pattern.len);
	p->list[p->n] = (struct span){ p->bytes[p->n], pattern.len };
	p->n++;
	return 0;
}

static void free_patterns(struct patterns *p)
{
	for (size_t i = 0; i < p->n; i++)
		free(p->bytes[i]);
}

/* By the standard letters, with other signs for two of them and no padding. */
static size_t letters(struct span bytes, char *out)
{
	char *end = base64_put(out, bytes);

	while (end > out && end[-1] == '=')
		end--;
	for (char *p = out; p < end; p++)
		*p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
	return (size_t)(end - out);
}

static void check_token(struct span token)
{
	char again[2 * JWT_SIGNATURE_MAX];
	struct jwt jwt;
	struct span signature;

	if (jwt_read(token, &jwt) != NULL)
		return;
	check(token.len <= JWT_BYTES_MAX, "it is too long");
	check(jwt.signed_bytes.data == token.data && jwt.signed_bytes.len < token.len,
	      "what is signed");
	signature = span_skip(token, jwt.signed_bytes.len + 1);
	check(letters((struct span){ jwt.signature, jwt.signature_len }, again) == signature.len &&
		      memcmp(again, signature.data, signature.len) == 0,
	      "a signature is written in two ways");
	check(memchr(signature.data, '.', signature.len) == NULL, "it has more parts");
	check(jwt.algorithm < KEY_ALGORITHMS && strlen(jwt.key) <= JWT_NAME_MAX, "its head");
}

static void check_claims(struct span claims)
{
	const struct jwt_wanted wanted = { "", "", "broker", 1000, 5 };
	struct patterns granted = { .max = JWT_PATTERNS_MAX };
	struct jwt_claims out;
	struct jwt jwt = { .algorithm = KEY_HS256 };
	char *text = malloc(base64_len(claims.len) + 2);
	const char *wrong;

	assert(text != NULL);
	memcpy(text, "x.", 2);
	jwt.signed_bytes = (struct span){ text, 2 + letters(claims, text + 2) };
	wrong = jwt_claims_read(&jwt, &wanted, &out, add_pattern, &granted);
	if (wrong == NULL) {
		check(out.expires_s > wanted.now_s, "it has expired");
		check(strlen(out.subject) <= JWT_NAME_MAX, "its name");
	}
	free_patterns(&granted);
	free(text);
}

static void check_ticket(struct span body)
{
	struct patterns asked = { .max = TICKET_PATTERNS_MAX },
			read = { .max = TICKET_PATTERNS_MAX };
	struct ticket made = { .user = "u", .expires_s = 2000, .until_s = JWT_FOREVER }, seen;
	char *text = NULL;

	if (ticket_request_read(body, add_pattern, &asked) == NULL) {
		check(asked.n > 0, "a ticket for nothing");
		text = ticket_write(&made, secret, asked.list, asked.n);
	}
	if (text != NULL) {
		check(ticket_read(span_of(text), secret, 1999, &seen, add_pattern, &read),
		      "a ticket is not taken");
		check(read.n == asked.n && strcmp(seen.user, "u") == 0, "it says something else");
		for (size_t i = 0; i < read.n; i++)
			check(span_equal(read.list[i], asked.list[i]), "it is for something else");
		check(!ticket_read(span_of(text), secret, 2000, &seen, add_pattern, &read),
		      "it is never over");
		check(!ticket_read(span_of(text), SPAN("another secret"), 1999, &seen, add_pattern,
				   &read),
		      "it is anybody's");
	}
	free(text);
	free_patterns(&asked);
	free_patterns(&read);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	char *own;
	struct span rest;

	if (size == 0)
		return 0;
	own = exact_copy(data + 1, size - 1);
	rest = (struct span){ own, size - 1 };
	if (data[0] % 3 == 0)
		check_token(rest);
	else if (data[0] % 3 == 1)
		check_claims(rest);
	else
		check_ticket(rest);
	free(own);
	return 0;
}
