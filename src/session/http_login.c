#include "session/http_login.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/digest.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/connection.h"
#include "broker/identity.h"
#include "broker/login.h"
#include "broker/shard.h"
#include "protocol/http.h"
#include "protocol/http_field.h"
#include "protocol/jwt.h"
#include "session/http.h"
#include "session/http_answer.h"
#include "topic/block.h"

enum { SECRET_BYTES_MAX = 12 << 10, TICKET_REQUEST_BYTES_MAX = 8 << 10 };

/* ---- what a request shows ---- */

/* Where it stands in what is decoded from text. */
struct shown {
	struct credentials credentials;
	char text[SECRET_BYTES_MAX];
};

static bool ticket_of(struct span query, struct shown *out)
{
	struct span value = http_query(query, SPAN("ticket"));
	ptrdiff_t n = value.len <= sizeof(out->text) ? http_unescape(value, true, out->text) : -1;

	out->credentials.ticket = true;
	out->credentials.secret = (struct span){ out->text, n > 0 ? (size_t)n : 0 };
	return n > 0;
}

/* Addresses end up in logs and histories of others (RFC 6750, 5.3). */
static bool shown_in_address(struct span query)
{
	static const char *const names[] = { "token", "access_token", "authorization", "jwt",
					     "password" };

	for (size_t i = 0; query.len > 0 && i < sizeof(names) / sizeof(names[0]); i++)
		if (http_query(query, span_of(names[i])).data != NULL)
			return true;
	return false;
}

enum showing { SHOWS_NOTHING, SHOWS_SOMETHING, SHOWS_NONSENSE };

static enum showing shown_by(const struct connection *c, const struct http_request *r, bool proven,
			     struct shown *out)
{
	struct span cookie = span_of(c->shard->config->auth.cookie);

	out->credentials = (struct credentials){ .ticket = false };
	if (r->authorization.data != NULL)
		return http_authorization(r->authorization, out->text, sizeof(out->text),
					  &out->credentials.user, &out->credentials.secret)
			       ? SHOWS_SOMETHING
			       : SHOWS_NONSENSE;
	if (r->verb & (HTTP_VERB_GET | HTTP_VERB_HEAD) &&
	    http_query(r->query, SPAN("ticket")).data != NULL)
		return ticket_of(r->query, out) ? SHOWS_SOMETHING : SHOWS_NONSENSE;
	/* A browser sends it with requests of any page: only a proven one's counts. */
	if (cookie.len > 0 && proven && r->cookie.data != NULL &&
	    http_cookie(r->cookie, cookie, &out->credentials.secret))
		return SHOWS_SOMETHING;
	return SHOWS_NOTHING;
}

/* ---- answers ---- */

static void answer_401(struct connection *c, const char *reason)
{
	bool passwords = c->shard->logins.identities->decoy != NULL;
	char headers[256], body[128];
	int n = snprintf(body, sizeof(body), "{\"error\":\"%s\"}\n", reason);

	snprintf(headers, sizeof(headers),
		 "Cache-Control: no-store\r\nWWW-Authenticate: %sBearer realm=\"broker\"\r\n",
		 passwords ? "Basic realm=\"broker\", charset=\"UTF-8\", " : "");
	http_abandon_body(c);
	http_answer(c, &(struct http_answer){ .status = 401,
					      .type = SPAN("application/json"),
					      .headers = headers,
					      .body = { body, (size_t)n } });
}

void http_not_permitted(struct connection *c, const char *reason)
{
	if (access_could_log_in(c))
		answer_401(c, reason);
	else
		http_error(c, 403, reason);
}

/* ---- logging in ---- */

/* Keeps the head until it is decided whose request it is. */
static void wait_for_login(struct connection *c)
{
	struct http_session *http = http_of(c);

	http->reading->kept = memory_new(http->reading->head.len);
	if (http->reading->kept == NULL) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	memcpy(http->reading->kept, http->reading->head.data, http->reading->head.len);
	http->reading->kept_len = http->reading->head.len;
	http->state = HTTP_WAITING;
	http->ticket++;
}

bool http_login(struct connection *c, const struct http_request *r, bool proven)
{
	struct http_session *http = http_of(c);
	struct shown shown;

	if (http->reading->login == HTTP_LOGIN_DONE) {
		http->reading->login = HTTP_LOGIN_NONE;
		return true;
	}
	if (shown_in_address(r->query)) {
		http_error(c, 400, "credentials do not belong in an address");
		return false;
	}
	switch (shown_by(c, r, proven, &shown)) {
	case SHOWS_NOTHING:
		access_logout(c);
		return true;
	case SHOWS_NONSENSE:
		answer_401(c, "malformed credentials");
		return false;
	case SHOWS_SOMETHING:
	default:
		break;
	}
	http->reading->login = HTTP_LOGIN_ASKED;
	access_login(c, &shown.credentials);
	bytes_forget(shown.text, sizeof(shown.text));
	if (c->state != CONNECTION_OPEN)
		return false;
	if (http->reading->login == HTTP_LOGIN_ASKED) {
		wait_for_login(c);
		return false;
	}
	if (http->reading->login != HTTP_LOGIN_DONE)
		return false;
	http->reading->login = HTTP_LOGIN_NONE;
	return true;
}

void http_login_refused(struct connection *c, enum access_result result)
{
	if (result == ACCESS_BUSY) {
		http_error(c, 503, "busy");
		return;
	}
	http_close_after(c);
	answer_401(c, "not permitted");
}

/* ---- tickets ---- */

struct wanted {
	struct connection *connection;
	struct span patterns[TICKET_PATTERNS_MAX];
	size_t n, bytes_n;
	bool refused;
	char bytes[TICKET_REQUEST_BYTES_MAX];
};

static int add_wanted(void *context, bool publish, struct span pattern)
{
	struct wanted *w = context;

	(void)publish;
	w->refused |= !access_may(w->connection, ACCESS_SUBSCRIBE, pattern, !name_valid(pattern));
	if (pattern.len > sizeof(w->bytes) - w->bytes_n)
		return -1;
	memcpy(w->bytes + w->bytes_n, pattern.data, pattern.len);
	w->patterns[w->n++] = (struct span){ w->bytes + w->bytes_n, pattern.len };
	w->bytes_n += pattern.len;
	return 0;
}

/* The whole body is there. */
static void give_ticket(struct connection *c, struct block *b)
{
	struct wanted wanted = { .connection = c };
	const char *wrong =
		ticket_request_read((struct span){ block_body(b), b->len }, add_wanted, &wanted);
	int64_t expires_s = 0;
	char *ticket = NULL, *body = NULL;
	int n;

	block_unref(b);
	if (wrong != NULL) {
		http_error(c, 400, wrong);
		return;
	}
	if (wanted.refused) {
		http_not_permitted(c, "not permitted");
		return;
	}
	ticket = login_ticket_new(c, wanted.patterns, wanted.n, &expires_s);
	n = ticket != NULL ? asprintf(&body, "{\"ticket\":\"%s\",\"expires\":%" PRId64 "}\n",
				      ticket, expires_s)
			   : -1;
	if (n < 0)
		http_error(c, 503, "out of memory");
	else
		http_answer(c, &(struct http_answer){ .status = 200,
						      .type = SPAN("application/json"),
						      .headers = "Cache-Control: no-store\r\n",
						      .body = { body, (size_t)n } });
	free(ticket);
	free(n < 0 ? NULL : body);
}

void http_ticket_begin(struct connection *c, const struct http_request *r, struct span rest)
{
	size_t announced = r->chunked ? TICKET_REQUEST_BYTES_MAX : (size_t)r->content_length;
	struct block *b;

	(void)rest;
	/* Whoever has come with one gets no other. */
	if (access_needed(c) || c->identity->how == HOW_TICKET) {
		http_not_permitted(c, "not permitted");
		return;
	}
	if (announced > TICKET_REQUEST_BYTES_MAX) {
		http_error(c, 413, "too many topics");
		return;
	}
	b = block_new(SPAN("ticket"), 0, announced);
	if (b == NULL) {
		http_error(c, 503, "out of memory");
		return;
	}
	http_of(c)->receiving = b;
	http_of(c)->reading->whole = give_ticket;
}
