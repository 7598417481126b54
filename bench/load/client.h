#ifndef LOAD_CLIENT_H
#define LOAD_CLIENT_H

/*
 * A connection to the broker: connects, says what it wants, waits until the broker agrees, and is
 * then what its owner makes of it. Embedded as the first member of a subscriber or publisher; the
 * worker's thread only.
 */

#include "engine/socket.h"
#include "load/wire.h"

struct worker;

struct client {
	struct socket socket;
	struct worker *worker;
	/* What the socket's completions mean now. len 0: the end, or an error (-errno). */
	void (*received)(struct client *client, const char *data, size_t len, int error);
	void (*sent)(struct client *client, int result);
	void (*closed)(struct client *client); /* may be NULL; the memory is the owner's again */
	struct handshake *handshake;           /* NULL: over */
	const char *kind;                      /* "subscriber", for people */
	uint32_t topic, number;
	bool open;
	bool pong;      /* the broker wants one */
	bool answering; /* one is in flight */
};

struct client_handshake {
	struct span hello;
	struct wire_event (*opened)(struct span in);
	/* Behind that, so many answers more. */
	struct wire_event (*opened_more)(struct span in);
	unsigned more;
	/* It is ready: sets received and sent. */
	void (*ready)(struct client *client);
	bool publishes; /* it goes where publishers go */
};

/* The kind, topic and number are set; false: the run has failed. */
bool client_open(struct worker *worker, struct client *client,
		 const struct client_handshake *handshake);

/* The run has failed because of this client. */
void client_fail(struct client *client, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* The other side has gone: says so. */
void client_lost(struct client *client, int error);

/* Sends the pong that is wanted if nothing else is in flight. True: it is under way; the owner's
 * sent will be called for it, with answering set. */
bool client_pong(struct client *client);

extern const struct socket_events client_events;

#endif
