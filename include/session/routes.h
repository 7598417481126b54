#ifndef BROKER_ROUTES_H
#define BROKER_ROUTES_H

/*
 * Which handler answers which request. Floor 4 adds its pages before the shards start; from then on
 * the table is read-only. Handlers run on the connection's thread.
 */

#include <stdbool.h>

#include "base/span.h"

struct broker;
struct connection;
struct http_request;
struct shard;

struct route {
	const char *path;
	bool prefix;   /* everything below the path, which ends in '/' */
	bool local;    /* for whom the operator lets look (ACCESS_MONITOR) */
	bool scraped;  /* likewise where there are credentials, else for everybody who may come */
	bool guarded;  /* refused to pages of other sites that are not allowed */
	bool vital;    /* answered while draining, too, and to whatever Host is asked */
	bool upgrades; /* for requests for a WebSocket, and only these; whom limits refuse it
			  tells so itself */
	bool probed;   /* asked by what knows an address only, whatever Host it says that is */
	unsigned methods; /* HTTP_VERB_* */
	/* Answers (http_answer.h), now or later. rest: the undecoded path behind the prefix. */
	void (*handle)(struct connection *connection, const struct http_request *request,
		       struct span rest);
};

enum { ROUTES_MAX = 32 };

/* The route must live as long as the broker. At most ROUTES_MAX. */
void routes_add(struct broker *broker, const struct route *route);
/* The broker's own: publish, subscribe, topic, object, health, ready. */
void routes_init(struct broker *broker);

/* Finds the route of a request and has it answered. */
void routes_dispatch(struct connection *connection, const struct http_request *request);
/* Decodes a name from a path; false: it is no topic's, and that has been answered. */
bool route_topic(struct connection *connection, struct span text, char name[256],
		 struct span *topic);

/* Whether a client may read this topic; false: that has been answered. */
bool route_may_read(struct connection *connection, const struct http_request *request,
		    struct span topic);

struct fetch_letter;
struct sequenced_letter;
/* Asks a home for a connection, which waits from now on; takes the letter over. */
void routes_fetch(struct connection *connection, struct fetch_letter *letter);
/* LETTER_FETCHED: an answer, to be given at once or, for one who has waited, among others in the
 * next turns; takes the letter over. */
void routes_fetched(struct shard *shard, struct fetch_letter *letter);
/* Gives answers, as many as there is time for; whether more are left. To be called once per turn.
 */
bool routes_flush(struct shard *shard);
/* Frees those that are left. */
void routes_release(struct shard *shard);
/* A message published over HTTP has its number, or never will; takes the letter over. */
void route_sequenced(struct connection *connection, const struct sequenced_letter *letter);

#endif
