#include "protocol/resp.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* What of Redis 7.0 is acl.c (authCommand), networking.c (helloCommand, validateClientName) and
 * util.c (string2ll). */

enum {
	INTEGER_DIGITS_MAX = 19,
	OPTION_BYTES_MAX = 128, /* of one that is not known, that are repeated */
};

/* ---- AUTH ---- */

const char *resp_auth(struct span rest, uint32_t words, bool password_needed,
		      struct resp_login *login)
{
	*login = (struct resp_login){ .user = SPAN("default") };
	if (words > 2)
		return "-ERR syntax error";
	if (words == 1 && !password_needed)
		return "-ERR AUTH <password> called without any password configured for the "
		       "default user. Are you sure your configuration is correct?";
	if (words == 2)
		login->user = resp_next(&rest);
	login->secret = resp_next(&rest);
	login->given = true;
	return NULL;
}

/* ---- HELLO ---- */

/* A whole number of 64 bits, without a plus or zeros in front. */
static bool is_integer(struct span s)
{
	static const char largest[] = "9223372036854775807", smallest[] = "9223372036854775808";
	bool negative = s.len > 0 && s.data[0] == '-';

	if (span_equal(s, SPAN("0")))
		return true;
	if (negative)
		s = span_skip(s, 1);
	if (s.len == 0 || s.len > INTEGER_DIGITS_MAX || s.data[0] == '0')
		return false;
	for (size_t i = 0; i < s.len; i++)
		if (s.data[i] < '0' || s.data[i] > '9')
			return false;
	return s.len < INTEGER_DIGITS_MAX ||
	       memcmp(s.data, negative ? smallest : largest, INTEGER_DIGITS_MAX) <= 0;
}

bool resp_client_name_valid(struct span name)
{
	for (size_t i = 0; i < name.len; i++)
		if (name.data[i] < '!' || name.data[i] > '~')
			return false;
	return name.len <= RESP_NAME_BYTES_MAX;
}

/* Redis reads an option as a string of C's, which ends with the first NUL. */
static struct span next_option(struct span *rest)
{
	struct span option = resp_next(rest);

	option.len = strnlen(option.data, option.len);
	return option;
}

static bool option_is(struct span option, struct span name)
{
	return option.len == name.len && strncasecmp(option.data, name.data, name.len) == 0;
}

static const char *unknown_option(struct span option, char text[RESP_WRONG_BYTES_MAX])
{
	size_t len = option.len < OPTION_BYTES_MAX ? option.len : OPTION_BYTES_MAX;

	snprintf(text, RESP_WRONG_BYTES_MAX, "-ERR Syntax error in HELLO option '%.*s'", (int)len,
		 option.data);
	return text;
}

const char *resp_hello(struct span rest, uint32_t words, struct resp_hello *h,
		       char text[RESP_WRONG_BYTES_MAX])
{
	struct span version;

	*h = (struct resp_hello){ .version = 0 };
	if (words == 0)
		return NULL;
	version = resp_next(&rest);
	if (!is_integer(version))
		return "-ERR Protocol version is not an integer or out of range";
	if (version.len > 1 || (version.data[0] != '2' && version.data[0] != '3'))
		return "-NOPROTO unsupported protocol version";
	h->version = version.data[0] == '3' ? RESP_3 : RESP_2;
	for (words--; words > 0; words--) {
		struct span option = next_option(&rest);

		if (option_is(option, SPAN("auth")) && words > 2) {
			h->login.given = true;
			h->login.user = resp_next(&rest);
			h->login.secret = resp_next(&rest);
			words -= 2;
		} else if (option_is(option, SPAN("setname")) && words > 1) {
			h->names = true;
			h->name = resp_next(&rest);
			words--;
			if (!resp_client_name_valid(h->name))
				return RESP_BAD_CLIENT_NAME;
		} else {
			return unknown_option(option, text);
		}
	}
	return NULL;
}
