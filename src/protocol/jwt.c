#include "protocol/jwt.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"

/* ---- base64url without padding (RFC 7515, 2) ---- */

static int letter_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* Into out, which has room for 3 bytes for every 4 letters and a part of them. -1: it is none, or
 * not the only way to write these bytes. */
static ptrdiff_t unletter(struct span text, char *out)
{
	uint32_t bits = 0;
	unsigned n = 0;
	char *at = out;

	if (text.len % 4 == 1)
		return -1;
	for (size_t i = 0; i < text.len; i++) {
		int value = letter_value(text.data[i]);

		if (value < 0)
			return -1;
		bits = bits << 6 | (uint32_t)value;
		n += 6;
		if (n >= 8) {
			n -= 8;
			*at++ = (char)(bits >> n);
		}
	}
	return (bits & ((1u << n) - 1)) == 0 ? at - out : -1;
}

/* Returns where what comes behind it goes. */
static char *letter(char *at, struct span bytes)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	uint32_t bits = 0;
	unsigned n = 0;

	for (size_t i = 0; i < bytes.len; i++) {
		bits = bits << 8 | (unsigned char)bytes.data[i];
		for (n += 8; n >= 6; n -= 6)
			*at++ = letters[bits >> (n - 6) & 63];
	}
	if (n > 0)
		*at++ = letters[bits << (6 - n) & 63];
	return at;
}

static size_t letters_len(size_t bytes)
{
	return (8 * bytes + 5) / 6;
}

/* ---- a token's parts ---- */

struct parts {
	struct span head, claims, signature;
};

static bool split(struct span token, struct parts *out)
{
	const char *first = memchr(token.data, '.', token.len), *second;
	const char *end = token.data + token.len;

	if (first == NULL)
		return false;
	second = memchr(first + 1, '.', (size_t)(end - first - 1));
	if (second == NULL || memchr(second + 1, '.', (size_t)(end - second - 1)) != NULL)
		return false;
	out->head = (struct span){ token.data, (size_t)(first - token.data) };
	out->claims = (struct span){ first + 1, (size_t)(second - first - 1) };
	out->signature = (struct span){ second + 1, (size_t)(end - second - 1) };
	return true;
}

/* An object, or NULL. */
static json_t *object_of(struct span text)
{
	json_t *value = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, NULL);

	if (value == NULL || json_is_object(value))
		return value;
	json_decref(value);
	return NULL;
}

/* The same, of letters. */
static json_t *object_in(struct span letters)
{
	char text[JWT_BYTES_MAX];
	ptrdiff_t n = letters.len <= sizeof(text) ? unletter(letters, text) : -1;

	return n > 0 ? object_of((struct span){ text, (size_t)n }) : NULL;
}

static struct span string_of(const json_t *value)
{
	return (struct span){ json_string_value(value), json_string_length(value) };
}

/* A string that can stand as a name in a log and in C; longer ones are not cut. */
static bool copy_name(const json_t *value, char out[JWT_NAME_MAX + 1])
{
	struct span text;

	out[0] = '\0';
	if (!json_is_string(value))
		return false;
	text = string_of(value);
	if (text.len == 0 || text.len > JWT_NAME_MAX)
		return false;
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.data[i] < ' ' || text.data[i] == 0x7f)
			return false;
	memcpy(out, text.data, text.len);
	out[text.len] = '\0';
	return true;
}

bool jwt_detect(struct span token)
{
	struct parts parts;

	/* A head begins with {" in letters, or with a brace and a blank. */
	return token.len > 4 && memcmp(token.data, "ey", 2) == 0 && split(token, &parts);
}

/* "none" is not among them, whatever its case. */
static bool algorithm_of(const json_t *value, enum key_algorithm *out)
{
	static const char *const names[KEY_ALGORITHMS] = { [KEY_HS256] = "HS256",
							   [KEY_RS256] = "RS256",
							   [KEY_ES256] = "ES256",
							   [KEY_EDDSA] = "EdDSA" };

	for (unsigned i = 0; i < KEY_ALGORITHMS; i++) {
		*out = (enum key_algorithm)i;
		if (json_is_string(value) && strcmp(json_string_value(value), names[i]) == 0)
			return true;
	}
	return false;
}

static const char *head_read(const json_t *head, struct jwt *out)
{
	const json_t *key = json_object_get(head, "kid");

	if (!algorithm_of(json_object_get(head, "alg"), &out->algorithm))
		return "its algorithm is none that is known";
	/* Whatever is critical, we do not know it (RFC 7515, 4.1.11). */
	if (json_object_get(head, "crit") != NULL)
		return "it has a critical extension";
	out->key[0] = '\0';
	if (key != NULL && !copy_name(key, out->key))
		return "its kid is no name";
	return NULL;
}

const char *jwt_read(struct span token, struct jwt *out)
{
	const char *wrong;
	struct parts parts;
	ptrdiff_t n = -1;
	json_t *head;

	if (token.len > JWT_BYTES_MAX)
		return "it is longer than 8 KiB";
	if (!split(token, &parts))
		return "it has not three parts";
	head = object_in(parts.head);
	if (head == NULL)
		return "its head cannot be read";
	wrong = head_read(head, out);
	json_decref(head);
	if (wrong != NULL)
		return wrong;
	if (parts.signature.len <= letters_len(JWT_SIGNATURE_MAX))
		n = unletter(parts.signature, out->signature);
	if (n <= 0)
		return "its signature cannot be read";
	out->signature_len = (size_t)n;
	out->signed_bytes =
		(struct span){ token.data, (size_t)(parts.signature.data - 1 - token.data) };
	return NULL;
}

/* ---- what it claims ---- */

/* Seconds since 1970; a fraction does not count. False: it is there and is none. */
static bool time_of(const json_t *claims, const char *name, int64_t *seconds, bool *there)
{
	const json_t *value = json_object_get(claims, name);

	*there = value != NULL;
	if (json_is_integer(value))
		*seconds = json_integer_value(value);
	else if (json_is_real(value) && json_real_value(value) > -1e15 &&
		 json_real_value(value) < 1e15)
		*seconds = (int64_t)json_real_value(value);
	else
		return value == NULL;
	/* So that the leeway can be added. */
	return *seconds > -(INT64_C(1) << 53) && *seconds < INT64_C(1) << 53;
}

static const char *times_read(const json_t *claims, const struct jwt_wanted *wanted,
			      int64_t *expires_s)
{
	int64_t seconds = 0;
	bool there;

	*expires_s = JWT_FOREVER;
	if (!time_of(claims, "exp", &seconds, &there))
		return "its exp is no time";
	if (there) {
		*expires_s = seconds + wanted->leeway_s;
		if (wanted->now_s >= *expires_s)
			return "it has expired";
	}
	if (!time_of(claims, "nbf", &seconds, &there))
		return "its nbf is no time";
	return there && wanted->now_s < seconds - wanted->leeway_s ? "it is not valid yet" : NULL;
}

static bool says(const json_t *value, const char *text)
{
	return json_is_string(value) && span_equal(string_of(value), span_of(text));
}

static bool names_audience(const json_t *value, const char *audience)
{
	if (!json_is_array(value))
		return says(value, audience);
	for (size_t i = 0; i < json_array_size(value); i++)
		if (says(json_array_get(value, i), audience))
			return true;
	return false;
}

/* star: everything, where the claim is another program's. */
static const char *list_read(const json_t *list, bool publish, bool star, size_t *left,
			     jwt_grant *grant, void *context)
{
	if (list == NULL)
		return NULL;
	if (!json_is_array(list))
		return "what it may is no list";
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *one = json_array_get(list, i);
		struct span pattern;

		if (!json_is_string(one))
			return "what it may is no text";
		pattern = string_of(one);
		if (star && span_equal(pattern, SPAN("*")))
			pattern = SPAN(">");
		if ((*left)-- == 0)
			return "it has more patterns than may be";
		if (!name_pattern_valid(pattern))
			return "what it may is no pattern";
		if (grant(context, publish, pattern) != 0)
			return "out of memory";
	}
	return NULL;
}

static const char *grants_read(const json_t *claims, const char *claim, jwt_grant *grant,
			       void *context)
{
	const json_t *may = json_object_get(claims, claim);
	bool mercure = may == NULL;
	size_t left = JWT_PATTERNS_MAX;
	const char *wrong;

	if (mercure)
		may = json_object_get(claims, "mercure");
	if (may == NULL)
		return NULL;
	if (!json_is_object(may))
		return "what it may is no object";
	wrong = list_read(json_object_get(may, "publish"), true, mercure, &left, grant, context);
	return wrong != NULL ? wrong
			     : list_read(json_object_get(may, "subscribe"), false, mercure, &left,
					 grant, context);
}

const char *jwt_claims_read(const struct jwt *jwt, const struct jwt_wanted *wanted,
			    struct jwt_claims *out, jwt_grant *grant, void *context)
{
	const char *dot = memchr(jwt->signed_bytes.data, '.', jwt->signed_bytes.len), *wrong;
	json_t *claims;

	assert(dot != NULL);
	claims =
		object_in(span_skip(jwt->signed_bytes, (size_t)(dot + 1 - jwt->signed_bytes.data)));
	if (claims == NULL)
		return "its claims cannot be read";
	wrong = times_read(claims, wanted, &out->expires_s);
	if (wrong == NULL && *wanted->issuer != '\0' &&
	    !says(json_object_get(claims, "iss"), wanted->issuer))
		wrong = "it is another issuer's";
	if (wrong == NULL && *wanted->audience != '\0' &&
	    !names_audience(json_object_get(claims, "aud"), wanted->audience))
		wrong = "it is for another audience";
	if (wrong == NULL)
		(void)copy_name(json_object_get(claims, "sub"), out->subject);
	if (wrong == NULL)
		wrong = grants_read(claims, wanted->claim, grant, context);
	json_decref(claims);
	return wrong;
}

/* ---- the broker's own ---- */

bool token_new(char out[TOKEN_TEXT_MAX])
{
	char bytes[32];

	if (!bytes_random(bytes, sizeof(bytes)))
		return false;
	*letter(out, (struct span){ bytes, sizeof(bytes) }) = '\0';
	bytes_forget(bytes, sizeof(bytes));
	return true;
}

static const char ticket_head[] = "{\"alg\":\"HS256\",\"typ\":\"ticket\"}";

const char *ticket_request_read(struct span body, jwt_grant *grant, void *context)
{
	json_t *asked = object_of(body);
	const json_t *list = json_object_get(asked, "subscribe");
	size_t left = TICKET_PATTERNS_MAX;
	const char *wrong = "want subscribe: a list of topics";

	if (json_is_array(list) && json_array_size(list) > 0 && json_object_size(asked) == 1)
		wrong = list_read(list, false, false, &left, grant, context);
	json_decref(asked);
	return wrong;
}

/* A hash in letters. */
static json_t *letters_json(const void *bytes, size_t n)
{
	char text[64];
	char *end = letter(text, (struct span){ bytes, n });

	return json_stringn(text, (size_t)(end - text));
}

static bool letters_read(const json_t *value, void *bytes, size_t n)
{
	return json_is_string(value) && json_string_length(value) == letters_len(n) &&
	       unletter(string_of(value), bytes) == (ptrdiff_t)n;
}

static char *ticket_claims(const struct ticket *t, struct span const *patterns, size_t patterns_n)
{
	json_t *list = json_array(), *claims;
	char *text;

	for (size_t i = 0; i < patterns_n; i++)
		(void)json_array_append_new(list, json_stringn(patterns[i].data, patterns[i].len));
	claims =
		json_pack("{s:s, s:b, s:o, s:o, s:I, s:I, s:o}", "sub", t->user, "foreign",
			  t->foreign, "key", letters_json(&t->key, sizeof(t->key)), "jti",
			  letters_json(t->nonce, sizeof(t->nonce)), "exp", (json_int_t)t->expires_s,
			  "until", (json_int_t)t->until_s, "subscribe", list);
	text = claims != NULL && json_array_size(list) == patterns_n
		       ? json_dumps(claims, JSON_COMPACT)
		       : NULL;
	json_decref(claims);
	return text;
}

char *ticket_write(const struct ticket *t, struct span secret, struct span const *patterns,
		   size_t patterns_n)
{
	char *claims = ticket_claims(t, patterns, patterns_n), *out = NULL, *at;
	struct digest mac;

	if (claims != NULL)
		out = malloc(letters_len(sizeof(ticket_head)) + letters_len(strlen(claims)) +
			     letters_len(sizeof(mac)) + 8);
	if (out != NULL) {
		at = letter(out, SPAN(ticket_head));
		*at++ = '.';
		at = letter(at, span_of(claims));
		if (digest_keyed(secret, (struct span){ out, (size_t)(at - out) }, &mac)) {
			*at++ = '.';
			at = letter(at, (struct span){ (const char *)mac.bytes, sizeof(mac) });
			*at = '\0';
		} else {
			at = out + JWT_BYTES_MAX + 1;
		}
		if (at - out > JWT_BYTES_MAX) {
			free(out);
			out = NULL;
		}
	}
	free(claims);
	return out;
}

bool ticket_read(struct span text, struct span secret, int64_t now_s, struct ticket *out,
		 jwt_grant *grant, void *context)
{
	size_t left = TICKET_PATTERNS_MAX;
	struct digest mac;
	struct jwt jwt;
	struct parts parts;
	json_t *claims;
	bool right;

	if (jwt_read(text, &jwt) != NULL || jwt.algorithm != KEY_HS256 ||
	    jwt.signature_len != sizeof(mac) || !digest_keyed(secret, jwt.signed_bytes, &mac) ||
	    !bytes_same(mac.bytes, jwt.signature, sizeof(mac)))
		return false;
	(void)split(text, &parts);
	claims = object_in(parts.claims);
	out->expires_s = json_integer_value(json_object_get(claims, "exp"));
	out->until_s = json_integer_value(json_object_get(claims, "until"));
	out->foreign = json_is_true(json_object_get(claims, "foreign"));
	right = now_s < out->expires_s && now_s < out->until_s &&
		copy_name(json_object_get(claims, "sub"), out->user) &&
		letters_read(json_object_get(claims, "key"), &out->key, sizeof(out->key)) &&
		letters_read(json_object_get(claims, "jti"), out->nonce, sizeof(out->nonce)) &&
		list_read(json_object_get(claims, "subscribe"), false, false, &left, grant,
			  context) == NULL;
	json_decref(claims);
	return right;
}
