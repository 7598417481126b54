#ifndef BROKER_HTTP_RESOURCE_H
#define BROKER_HTTP_RESOURCE_H

/*
 * Answers with a message or a file as RFC 9110 has it: validators and preconditions (8.8, 13),
 * ranges (14), codings (8.4, 12.5.3). On the connection's thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"
#include "protocol/http_field.h"

struct block;
struct connection;
struct http_request;

/* What a request makes of the resource that it gets; views into the request, or into what a
 * connection keeps of it. */
struct http_conditions {
	struct http_list match, none_match, encodings;
	struct span range, if_range;
};

struct http_conditions http_conditions_of(const struct http_request *request);
/* Keeps with the connection what its answer will depend on until it is there; false: out of
 * memory. */
bool http_conditions_keep(struct connection *connection, const struct http_request *request);
/* What was kept. */
struct http_conditions http_conditions_kept(const struct connection *connection);

/* Answers with a message or a file: whole, a part of it, or that the client has it already. body
 * lies in the block, which is kept as long as it is sent. cache: for Cache-Control; more: header
 * lines. */
void http_answer_resource(struct connection *connection, struct block *block, struct span body,
			  uint64_t epoch, uint64_t number, const char *cache, const char *more,
			  const struct http_conditions *wanted);

#endif
