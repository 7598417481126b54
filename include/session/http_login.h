#ifndef BROKER_HTTP_LOGIN_H
#define BROKER_HTTP_LOGIN_H

/*
 * Who asks over HTTP: each request brings its own credential, or is whoever the connection is
 * without one. While a credential is looked at, the request's head waits; then it is handled as if
 * it had just come. And tickets, for those who can show nothing else. The shard's thread only.
 */

#include <stdbool.h>

#include "base/span.h"
#include "broker/access.h"

struct block;
struct connection;
struct http_request;

/* Whether the request may be handled now; if not, it has been answered, or waits. proven: a browser
 * says that a page of this broker, or of an allowed origin, has sent it. */
bool http_login(struct connection *connection, const struct http_request *request, bool proven);
/* Answers the request whose credential was not taken. */
void http_login_refused(struct connection *connection, enum access_result result);
/* The answer to what is not permitted: 401 where a credential could help, else 403. */
void http_not_permitted(struct connection *connection, const char *reason);

/* POST /ticket: the answer follows when its body is there. */
void http_ticket_begin(struct connection *connection, const struct http_request *request,
		       struct span rest);

#endif
