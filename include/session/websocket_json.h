#ifndef SESSION_WEBSOCKET_JSON_H
#define SESSION_WEBSOCKET_JSON_H

/*
 * A WebSocket of many topics, which speaks JSON (protocol/websocket_command.h). Commands take
 * effect in their order; the answer to one that asks for a number comes when it has that. The
 * shard's thread only.
 */

#include <stdbool.h>

#include "base/span.h"

struct connection;
struct protocol;

extern const struct protocol websocket_json_protocol;

/* It speaks it from now on, and subscribes to the topics that a request's query names
 * ("topic=a&topic=b&last=5"), which websocket_json_query has found to be right. */
void websocket_json_begin(struct connection *connection, struct span query);
/* NULL, or what is wrong with it. */
const char *websocket_json_query(struct span query);

#endif
