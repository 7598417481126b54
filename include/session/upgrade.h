#ifndef SESSION_UPGRADE_H
#define SESSION_UPGRADE_H

/*
 * Requests that make an HTTP connection a WebSocket (RFC 6455, 4.2): what they have to say, and
 * which door they come to by their path and subprotocol. It is granted when what is behind the door
 * is there: the answer is 101 and the connection speaks the door's protocol from then on. The
 * shard's thread only.
 */

struct broker;
struct protocol;

/* Adds the routes of such requests. */
void upgrade_init(struct broker *broker, const struct protocol *nats, const struct protocol *mqtt);

#endif
