#include "protocol/nats.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

/* ---- INFO ---- */

static bool take_flag(const struct json_value *v, bool *out)
{
	*out = v->kind == JSON_IS_BOOL && v->truth;
	return v->kind == JSON_IS_BOOL || v->kind == JSON_IS_NULL;
}

/* What does not fit is cut off. */
static bool take_text(const struct json_value *v, char *out, size_t room)
{
	size_t n = v->text.len < room ? v->text.len : room - 1;

	if (v->kind != JSON_IS_TEXT)
		return v->kind == JSON_IS_NULL;
	memcpy(out, v->text.data, n);
	out[n] = 0;
	return true;
}

static bool take(void *context, struct span name, const struct json_value *v)
{
	struct nats_server *s = context;

	if (span_equal(name, SPAN("max_payload"))) {
		s->max_payload = v->number > 0 ? (uint64_t)v->number : 0;
		return v->kind == JSON_IS_NUMBER;
	}
	if (span_equal(name, SPAN("headers")))
		return take_flag(v, &s->headers);
	if (span_equal(name, SPAN("jetstream")))
		return take_flag(v, &s->jetstream);
	if (span_equal(name, SPAN("ldm")))
		return take_flag(v, &s->leaving);
	if (span_equal(name, SPAN("tls_required")))
		return take_flag(v, &s->tls_required);
	if (span_equal(name, SPAN("tls_available")))
		return take_flag(v, &s->tls_available);
	if (span_equal(name, SPAN("auth_required")))
		return take_flag(v, &s->auth_required);
	if (span_equal(name, SPAN("version")))
		return take_text(v, s->version, sizeof(s->version));
	if (span_equal(name, SPAN("server_name")))
		return take_text(v, s->name, sizeof(s->name));
	if (span_equal(name, SPAN("connect_urls")) && v->kind == JSON_IS_OTHER)
		s->urls[json_write(v, s->urls, sizeof(s->urls) - 1)] = 0;
	return true;
}

bool nats_server(struct span json, struct nats_server *s)
{
	*s = (struct nats_server){ .max_payload = 0 };
	return json_members(json, take, s);
}

bool nats_next_url(struct span *urls, struct span *url)
{
	const char *begin = urls->len > 0 ? memchr(urls->data, '"', urls->len) : NULL, *end;

	if (begin == NULL)
		return false;
	*urls = span_skip(*urls, (size_t)(begin - urls->data) + 1);
	end = urls->len > 0 ? memchr(urls->data, '"', urls->len) : NULL;
	if (end == NULL)
		return false;
	*url = (struct span){ urls->data, (size_t)(end - urls->data) };
	*urls = span_skip(*urls, url->len + 1);
	return true;
}

/* ---- CONNECT ---- */

/* ,"name":"text" where there is any; out may be at its end already (NULL). */
static char *put_member(char *at, const char *end, const char *name, const char *text)
{
	struct span s = text != NULL ? span_of(text) : (struct span){ NULL, 0 };
	int n;

	/* Each byte is six at most. */
	if (s.len == 0 || at == NULL)
		return at;
	if ((size_t)(end - at) < strlen(name) + 8 + 6 * s.len)
		return NULL;
	at += sprintf(at, ",\"%s\":\"", name);
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.data[i];

		if (c < ' ' || c == '"' || c == '\\') {
			n = sprintf(at, "\\u%04x", c);
			at += n;
		} else {
			*at++ = s.data[i];
		}
	}
	*at++ = '"';
	return at;
}

size_t nats_login(const struct nats_login *login, char out[NATS_LOGIN_MAX])
{
	const char *end = out + (NATS_LOGIN_MAX - 8);
	char *at =
		out +
		sprintf(out,
			"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,"
			"\"no_responders\":true,\"protocol\":1,\"lang\":\"c\",\"version\":\"%s\"",
			BROKER_VERSION);

	at = put_member(at, end, "name", login->name);
	at = put_member(at, end, "user", login->user);
	at = put_member(at, end, "pass", login->pass);
	at = put_member(at, end, "auth_token", login->token);
	if (at == NULL)
		return 0;
	memcpy(at, "}\r\n", 3);
	return (size_t)(at + 3 - out);
}
