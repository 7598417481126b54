#ifndef SESSION_WEBSOCKET_TOPICS_H
#define SESSION_WEBSOCKET_TOPICS_H

/*
 * What a WebSocket of many topics (session/websocket_json.h) has asked for: topics and patterns,
 * each once. However many of them a message is for, it comes once: what overlaps leaves out what
 * was asked for earlier (protocol/websocket_left_out.h). When an earlier one goes, those that left
 * it out are asked for anew; they take over in one step, in which nothing is lost or doubled. The
 * shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "broker/protocol.h"

struct connection;
struct replay;
struct subscribe_letter;
struct subscription;
struct websocket_topics;

/* NULL: out of memory. */
struct websocket_topics *websocket_topics_new(void);
void websocket_topics_free(struct websocket_topics *topics);

/* Asks for one, whose name is valid; it is said when it stands. replay: none for a pattern.
 * REASON_NONE, or why there is none. */
enum reason websocket_topics_subscribe(struct connection *connection, struct span name,
				       bool pattern, const struct replay *replay);
/* It is not wanted any more; says so, at once or when others have taken over what it brought. None
 * is under way. */
enum reason websocket_topics_unsubscribe(struct connection *connection, struct span name,
					 struct span ref);
/* All that was asked for stands (connection->asked is 0). */
void websocket_topics_settle(struct connection *connection);

/* Whether it is there; what it says is then said again. */
bool websocket_topics_has(struct connection *connection, struct span name);
void websocket_topics_say(struct connection *connection, struct span name);
/* Whether there are patterns. */
bool websocket_topics_wild(const struct connection *connection);

/* For struct protocol. */
void websocket_topics_subscribed(struct connection *connection, struct subscription *subscription,
				 const struct subscribe_letter *letter);
/* The name of one that is not to be, which is forgotten; empty: it was to take over, and nothing
 * changes. */
void websocket_topics_refused(struct connection *connection, void *session, enum reason reason);
void websocket_topics_enough(struct connection *connection, void *session);
void websocket_topics_missed(struct connection *connection, struct subscription *subscription);
void websocket_topics_interject(struct connection *connection);

/* ---- what is said: websocket_say.c ---- */

void websocket_json_say(struct connection *connection, const char *frame, size_t bytes);
void websocket_json_error(struct connection *connection, const char *reason, struct span name,
			  struct span ref);
/* The line protocol's. */
const char *websocket_json_reason(enum reason reason);

#endif
