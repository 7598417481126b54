#ifndef PROTOCOL_NATS_H
#define PROTOCOL_NATS_H

/*
 * The NATS client protocol, the server's side: commands to events, runs of messages to MSG and
 * HMSG. Pure functions over spans; nothing here owns memory or state. Any thread.
 *
 * https://docs.nats.io/reference/reference-protocols/nats-protocol, and ADR-4 for headers
 * (https://github.com/nats-io/nats-architecture-and-design); where these say little, as
 * nats-server 2.9.10 does it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "base/wire.h"

/* ---- commands ---- */

enum nats_event_kind {
	NATS_MORE,        /* nothing whole in what is there */
	NATS_CONNECT,     /* text: its options */
	NATS_PING,        /* */
	NATS_PONG,        /* */
	NATS_SUBSCRIBE,   /* subject, queue or empty, sid */
	NATS_UNSUBSCRIBE, /* sid, max or 0 */
	NATS_PUBLISH, /* subject, reply or empty; header_bytes, bytes: of headers and payload, which
			 follow, and CRLF behind them */
	NATS_ERROR,   /* text: what -ERR says; the connection is at its end */
};

struct nats_event {
	enum nats_event_kind kind;
	struct span subject, reply, queue, sid, text;
	bool headers; /* HPUB */
	size_t header_bytes, bytes;
	uint64_t max;
};

/* The command that begins the bytes, one at least; *used: how many it takes, without what follows a
 * PUB. A line, its end not counted, may have so many bytes. */
void nats_decode(struct span in, size_t line_bytes, struct nats_event *event, size_t *used);

/* Behind the line of a PUB: how long the line at the start is, with its end, if it says the same
 * but for how long the payload is, which it has without leading zeros or spaces behind it. 0: it
 * does not, or is not all there. */
size_t nats_alike(struct span line, struct span in, size_t *bytes);

/* "CONNECT {", "PING", "PUB ", "HPUB ", "SUB " in capital letters, or the beginning of one of them:
 * 1 surely, 0 perhaps (come again with more), -1 no. */
int nats_detect(struct span first);

/* What CONNECT says, and what is so where it does not. */
struct nats_options {
	bool verbose, echo, headers, no_responders;
	bool account; /* it wants one */
	int64_t protocol;
	bool has_user, has_token;
};
struct nats_credentials {
	char user[256], pass[256], token[1024]; /* with a NUL; longer ones are wrong ones */
};
/* What it does not say stays as it was before, or NULL: as for who has not said anything yet.
 * False: it is malformed. credentials may be NULL. */
bool nats_connect(struct span json, const struct nats_options *before, struct nats_options *options,
		  struct nats_credentials *credentials);

/* ---- subjects ---- */

enum nats_subject {
	NATS_SUBJECT_TOPIC,
	NATS_SUBJECT_PATTERN, /* it has * or > as levels */
	NATS_SUBJECT_INVALID, /* for NATS, too */
	NATS_SUBJECT_REFUSED, /* it is none for topics */
};
enum nats_subject nats_subject(struct span subject);
/* Whether names like this pass: no number, no history, no state. */
bool nats_passing(struct span subject);

enum nats_replay_kind { NATS_REPLAY_NONE, NATS_REPLAY_LAST, NATS_REPLAY_FROM };
struct nats_replay {
	enum nats_replay_kind kind; /* NONE: it is none */
	struct span topic;
	uint64_t epoch, n; /* FROM: after this number; LAST: so many */
};
/* "$replay.<n>.<topic>" or "$replay.<epoch>:<seq>.<topic>". False: it begins so, but is neither. */
bool nats_replay(struct span subject, struct nats_replay *replay);

/* ---- what is said to a client ---- */

struct nats_info {
	struct span server_id, server_name, host, client_ip;
	unsigned port;
	uint64_t max_payload, client_id;
	bool auth_required, tls_required, tls_available, ldm;
};
enum { NATS_INFO_MAX = 1024 };
/* "INFO {...}\r\n"; returns its length. What is not plain text is left out of names. */
size_t nats_info(const struct nats_info *info, char out[NATS_INFO_MAX]);

#define NATS_UNKNOWN "Unknown Protocol Operation"
#define NATS_LINE_TOO_LONG "maximum control line exceeded"
#define NATS_TOO_LARGE "Maximum Payload Violation"
#define NATS_WRONG_PROTOCOL "invalid client protocol"
#define NATS_NO_RESPONDERS "no responders requires headers support"
#define NATS_NO_HEADERS "message headers not supported"
#define NATS_UNAUTHORIZED "Authorization Violation"
#define NATS_EXPIRED "User Authentication Expired"
#define NATS_TIMEOUT "Authentication Timeout"
#define NATS_STALE "Stale Connection"
#define NATS_NOT_SECURE "Secure Connection - TLS Required"
#define NATS_FULL "maximum connections exceeded"
#define NATS_SUBSCRIPTIONS "maximum subscriptions exceeded"

/* A header's value, or an empty span; the name in any case. headers: NATS/1.0 and so on. */
struct span nats_header(struct span headers, struct span name);

/* The answer to a request that nobody is there for, as HMSG. */
enum { NATS_NOBODY_MAX = 2 * 255 + 200 };
/* 0: the sid is so long that it does not fit. */
size_t nats_nobody(struct span reply, struct span sid, struct span subject,
		   char out[NATS_NOBODY_MAX]);
/* The message that says from where on the past is known. 0: as above. */
size_t nats_gap(struct span topic, struct span sid, uint64_t epoch, uint64_t oldest,
		char out[NATS_NOBODY_MAX]);

/* ---- the other side: what a server says to a client ---- */

enum nats_said_kind {
	NATS_SAID_MORE, /* nothing whole in what is there */
	NATS_SAID_INFO, /* text: JSON */
	NATS_SAID_PING,
	NATS_SAID_PONG,
	NATS_SAID_OK,
	NATS_SAID_ERROR,    /* text: what -ERR says, in its quotes */
	NATS_SAID_MESSAGE,  /* MSG, HMSG: subject, sid, reply or empty; headers and payload follow,
			       and CRLF behind them */
	NATS_SAID_NONSENSE, /* none of these */
};

struct nats_said {
	enum nats_said_kind kind;
	struct span subject, reply, sid, text;
	size_t header_bytes, bytes; /* of headers, and of these and the payload */
};

/* As nats_decode. */
void nats_said(struct span in, size_t line_bytes, struct nats_said *said, size_t *used);

/* What INFO says of a server. */
struct nats_server {
	uint64_t max_payload;
	bool headers, jetstream, leaving; /* in lame duck mode */
	bool tls_required, tls_available, auth_required;
	char version[32], name[64];
	char urls[4096]; /* of others of its cluster: a JSON array, or empty */
};
/* False: it is malformed. */
bool nats_server(struct span json, struct nats_server *server);
/* Takes the next of those urls off; false: there is none left. */
bool nats_next_url(struct span *urls, struct span *url);

/* Who a client says it is; NULL or "": nothing of that. */
struct nats_login {
	const char *name, *user, *pass, *token;
};
/* "CONNECT {...}\r\n"; returns its length, 0: it is longer than that. */
enum { NATS_LOGIN_MAX = 4096 };
size_t nats_login(const struct nats_login *login, char out[NATS_LOGIN_MAX]);

/* ---- messages ---- */

/* What stands in every frame of a subscription. */
struct nats_frame {
	bool headers;                /* the client knows HMSG */
	bool ids;                    /* with Broker-Id */
	bool framed;                 /* each message is a WebSocket frame */
	struct run_publisher except; /* whose messages it does not get; generation 0: all */
	struct span sid;
};
/* As a wire's parameter, which has room for its sid and NATS_FRAME_HEAD; returns its length. */
enum { NATS_FRAME_HEAD = 1 + sizeof(struct run_publisher) };
size_t nats_parameter(const struct nats_frame *frame, char *out);
struct nats_frame nats_frame(struct span parameter);

extern const struct wire_format nats_format;

/* The head of a WebSocket frame for so many bytes, binary; returns its length. */
enum { NATS_WEBSOCKET_HEAD_MAX = 10 };
size_t nats_websocket_head(size_t bytes, char *out);

#endif
