#ifndef SIM_SERVER_H
#define SIM_SERVER_H

/* Between the simulated nats-server (server.c) and its JetStream (jetstream.c). */

#include <stdbool.h>

#include "base/span.h"

struct server_message {
	struct span subject, reply, headers, payload;
};

/* To whoever has subscribed to `to`, as a message of its subject's; to how many. */
unsigned server_spread(struct span to, const struct server_message *message);
/* Whether something goes wrong now: a message is lost, repeated or left lying. */
bool server_slips(void);
/* Order is kept no more. */
void server_disorder(void);
unsigned server_below(unsigned n);

void jetstream_init(void);
void jetstream_release(void);
/* False: it is no message for the stream, nor a question to it. */
bool jetstream_takes(const struct server_message *message);

#endif
