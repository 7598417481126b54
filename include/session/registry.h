#ifndef SESSION_REGISTRY_H
#define SESSION_REGISTRY_H

/*
 * All protocols that the broker speaks: a protocol is a session in files of its own and a line
 * here.
 */

#include "broker/protocol.h"

struct broker;

/* Sets what the broker's shards need to speak them, and the routes of HTTP. Behind broker_init. */
void sessions_register(struct broker *broker);

extern const struct protocol line_protocol, http_protocol, resp_protocol, nats_protocol,
	mqtt_protocol;
/* What it speaks is not known yet; a proxy's header comes first. */
extern const struct protocol undecided_protocol, proxied_protocol;

#endif
