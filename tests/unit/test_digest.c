#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"
#include "base/password.h"

/* FIPS 180-4's example. */
static void a_digest_is_sha256(void **state)
{
	char text[DIGEST_TEXT_MAX];
	struct digest d, again;

	(void)state;
	digest_of(SPAN("abc"), &d);
	digest_print(&d, text);
	assert_string_equal(
		text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_true(digest_parse(span_of(text), &again));
	assert_memory_equal(&d, &again, sizeof(d));
}

static void a_digest_is_written_in_one_way(void **state)
{
	static const char *const wrong[] = {
		"",
		"sha256:",
		"SHA256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"sha256:BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a",
		"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015adf",
		"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ag",
	};
	struct digest d;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_false(digest_parse(span_of(wrong[i]), &d));
}

/* RFC 4231, 4.3. */
static void a_keyed_digest_is_hmac(void **state)
{
	char text[DIGEST_TEXT_MAX];
	struct digest d;

	(void)state;
	assert_true(digest_keyed(SPAN("Jefe"), SPAN("what do ya want for nothing?"), &d));
	digest_print(&d, text);
	assert_string_equal(
		text, "sha256:5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

/* RFC 7515, A.3: a token by ES256. */
static const char es256_public[] =
	"-----BEGIN PUBLIC KEY-----\n"
	"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n"
	"6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n"
	"-----END PUBLIC KEY-----\n";
static const char es256_signed[] = "eyJhbGciOiJFUzI1NiJ9"
				   "."
				   "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGF"
				   "tcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
static const unsigned char es256_signature[] = {
	14,  209, 33,  83,  121, 99,  108, 72,  60,  47,  127, 21,  88,  7,   212, 2,
	163, 178, 40,  3,   58,  249, 124, 126, 23,  129, 154, 195, 22,  158, 166, 101,
	197, 10,  7,   211, 140, 60,  112, 229, 216, 241, 45,  175, 8,   74,  84,  128,
	166, 101, 144, 197, 242, 147, 80,  154, 143, 63,  127, 138, 131, 163, 84,  213,
};

static void a_signature_is_right_for_its_key_and_bytes_alone(void **state)
{
	const char *wrong;
	struct signature_key *key = signature_key_new(SPAN(es256_public), false, &wrong);
	struct span bytes = SPAN(es256_signed);
	char other[sizeof(es256_signature)];
	struct span signature = { (const char *)es256_signature, sizeof(es256_signature) };

	(void)state;
	assert_non_null(key);
	assert_int_equal(signature_key_algorithm(key), KEY_ES256);
	assert_true(signature_right(key, bytes, signature));
	assert_false(signature_right(key, (struct span){ bytes.data, bytes.len - 1 }, signature));
	for (size_t i = 0; i < sizeof(other); i++) {
		memcpy(other, es256_signature, sizeof(other));
		other[i] ^= 1;
		assert_false(signature_right(key, bytes, (struct span){ other, sizeof(other) }));
	}
	for (size_t n = 0; n < sizeof(other); n++)
		assert_false(signature_right(key, bytes, (struct span){ other, n }));
	/* r and s of zero are right for whoever does not look (CVE-2022-21449). */
	memset(other, 0, sizeof(other));
	assert_false(signature_right(key, bytes, (struct span){ other, sizeof(other) }));
	signature_key_free(key);
}

/* RFC 7515, A.1. */
static void a_secret_is_for_hs256(void **state)
{
	static const unsigned char secret[] = {
		3,   35,  53, 75,  43,  15, 165, 188, 131, 126, 6,   101, 119, 123, 166, 143,
		90,  179, 40, 230, 240, 84, 201, 40,  169, 15,  132, 178, 210, 80,  46,  191,
		211, 251, 90, 146, 210, 6,  71,  239, 150, 138, 180, 195, 119, 98,  61,  34,
		61,  46,  33, 114, 5,   46, 79,  8,   192, 205, 154, 245, 103, 208, 128, 163,
	};
	static const unsigned char mac[] = {
		116, 24,  223, 180, 151, 153, 224, 37,  79, 250, 96, 125, 216, 173, 187, 186,
		22,  212, 37,  77,  105, 214, 191, 240, 91, 88,  5,  88,  83,  132, 141, 121,
	};
	static const char bytes[] = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
				    "."
				    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leG"
				    "FtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
	struct span file = { (const char *)secret, sizeof(secret) };
	const char *wrong = NULL;
	struct signature_key *key = signature_key_new(file, true, &wrong);

	(void)state;
	assert_non_null(key);
	assert_int_equal(signature_key_algorithm(key), KEY_HS256);
	assert_true(
		signature_right(key, SPAN(bytes), (struct span){ (const char *)mac, sizeof(mac) }));
	assert_false(signature_right(key, SPAN(bytes),
				     (struct span){ (const char *)mac, sizeof(mac) - 1 }));
	signature_key_free(key);
	assert_null(signature_key_new(file, false, &wrong));
	assert_null(signature_key_new((struct span){ file.data, 31 }, true, &wrong));
	assert_non_null(wrong);
}

/* The text of a public key is known to everybody: as a secret for HS256 it would be none. */
static void a_public_key_is_never_a_secret(void **state)
{
	const char *wrong;
	struct signature_key *key = signature_key_new(SPAN(es256_public), true, &wrong);
	struct digest mac;

	(void)state;
	assert_non_null(key);
	assert_int_equal(signature_key_algorithm(key), KEY_ES256);
	assert_true(digest_keyed(SPAN(es256_public), SPAN("a.b"), &mac));
	assert_false(signature_right(key, SPAN("a.b"),
				     (struct span){ (const char *)mac.bytes, sizeof(mac.bytes) }));
	signature_key_free(key);
}

static void what_is_no_key_for_signatures_is_refused(void **state)
{
	static const char *const files[] = {
		"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		/* X25519, which signs nothing. */
		"-----BEGIN PUBLIC KEY-----\n"
		"MCowBQYDK2VuAyEAhSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n"
		"-----END PUBLIC KEY-----\n",
		/* RSA of 1024 bits. */
		"-----BEGIN PUBLIC KEY-----\n"
		"MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCqGKukO1De7zhZj6+H0qtjTkVxwTCpvKe4eCZ0\n"
		"FPqri0cb2JZfXJ/DgYSF6vUpwmJG8wVQZKjeGcjDOL5UlsuusFncCzWBQ7RKNUSesmQRMSGkVb1/\n"
		"3j+skZ6UtW+5u09lHNsj6tQ51s1SPrCBkedbNf0Tp0GbMJDyR4e9T04ZZwIDAQAB\n"
		"-----END PUBLIC KEY-----\n",
	};
	const char *wrong;

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		wrong = NULL;
		assert_null(signature_key_new(span_of(files[i]), true, &wrong));
		assert_non_null(wrong);
	}
}

/* ---- passwords ---- */

static void a_hash_is_its_passwords_alone(void **state)
{
	char hash[PASSWORD_HASH_BYTES_MAX];

	(void)state;
	assert_int_equal(password_hash_new("secret", hash), 0);
	assert_int_equal(strncmp(hash, "$y$", 3), 0);
	assert_true(password_hash_valid(hash));
	assert_true(password_fits("secret", hash));
	assert_false(password_fits("Secret", hash));
	assert_false(password_fits("secret ", hash));
	assert_false(password_fits("", hash));
}

static void the_kinds_of_other_programs_are_known(void **state)
{
	(void)state;
	/* crypt(5)'s kinds, of "x" and, by another program (the tests of bcrypt), of "U*U". */
	assert_true(password_fits("x", "$6$abcdefgh$D7W7qyozKBT.t6FD3DVYHvADbIO0eSyI4.p20LaEUjro8P"
				       "qTGYYo/EQcuNjhFbzo9Yg5ir1KIEqFY/yJpgFph0"));
	assert_true(password_fits("U*U",
				  "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"));
	assert_false(password_fits("U*V",
				   "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"));
}

static void what_is_no_hash_is_nobodys(void **state)
{
	static const char *const wrong[] = {
		"",
		"x",
		"*0",
		"*1",
		"!",
		"$y$",
		"$6$",
		"$6$abcdefgh",
		"$6$abcdefgh$",
		"$1$abc$def",
		"$2b$05$CCCCCCCCCCCCCCCCCCCCC.",
		"$y$j9T$F5Jx5fExrKuPp53xLKQ..1",
		"$5$rounds=1000$abc$5xyhVOX5pBtLOEDDpKNhLgnWlV6gLUDAo7Ag7dTQ.Q/",
	};
	char long_password[PASSWORD_BYTES_MAX + 8];

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_false(password_hash_valid(wrong[i]));
		assert_false(password_fits("x", wrong[i]));
		assert_false(password_fits("", wrong[i]));
	}
	memset(long_password, 'a', sizeof(long_password) - 1);
	long_password[sizeof(long_password) - 1] = '\0';
	assert_false(password_fits(long_password,
				   "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_digest_is_sha256),
		cmocka_unit_test(a_digest_is_written_in_one_way),
		cmocka_unit_test(a_keyed_digest_is_hmac),
		cmocka_unit_test(a_signature_is_right_for_its_key_and_bytes_alone),
		cmocka_unit_test(a_secret_is_for_hs256),
		cmocka_unit_test(a_public_key_is_never_a_secret),
		cmocka_unit_test(what_is_no_key_for_signatures_is_refused),
		cmocka_unit_test(a_hash_is_its_passwords_alone),
		cmocka_unit_test(the_kinds_of_other_programs_are_known),
		cmocka_unit_test(what_is_no_hash_is_nobodys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
