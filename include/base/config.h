#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

/*
 * The configuration file as one plain structure; parsed by libconfuse. Built-in defaults equal
 * config/broker.conf. A loaded configuration is immutable and may be read by any thread until
 * config_free; sizes are in bytes, times in the unit of the field's name.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/span.h"

enum config_metrics { METRICS_REACTORS, METRICS_TOTALS };
enum config_placement { PLACEMENT_CORES, PLACEMENT_THREADS, PLACEMENT_NONE };
enum config_steer { STEER_NONE, STEER_CPU };
enum config_slow { SLOW_DISCONNECT, SLOW_SKIP };
enum config_last_publisher { LAST_PUBLISHER_KEEP, LAST_PUBLISHER_BYE };
/* Who may come without a credential. */
enum config_anonymous { ANONYMOUS_NONE, ANONYMOUS_LOOPBACK, ANONYMOUS_ALL };

/* Bits of config_listen.protocols. */
enum {
	CONFIG_PROTOCOL_LINE = 1 << 0,
	CONFIG_PROTOCOL_HTTP = 1 << 1,
	CONFIG_PROTOCOL_RESP = 1 << 2,
	CONFIG_PROTOCOL_NATS = 1 << 3,
	CONFIG_PROTOCOL_MQTT = 1 << 4,
	CONFIG_PROTOCOLS = 5, /* so many */
};

/* By bit. */
extern const char *const config_protocol_names[CONFIG_PROTOCOLS];

enum config_client_auth { CLIENT_AUTH_NONE, CLIENT_AUTH_OPTIONAL, CLIENT_AUTH_REQUIRED };
/* What of a client's certificate is its user's name. */
enum config_client_name {
	CLIENT_NAME_SAN_DNS,
	CLIENT_NAME_SAN_URI,
	CLIENT_NAME_SAN_EMAIL,
	CLIENT_NAME_CN
};
enum config_min_version { MIN_VERSION_1_2, MIN_VERSION_1_3 };
enum config_ktls { KTLS_OFF, KTLS_AUTO };

enum { CONFIG_REACTORS_MAX = 1024, CONFIG_REACTORS_AUTO = 0 };

/* Where a section begins and its keys stand, for who finds later what is wrong with them. */
enum { CONFIG_WHERE_KEYS = 16 };
struct config_where {
	char *file;
	unsigned line;
	unsigned lines[CONFIG_WHERE_KEYS]; /* in the order of the keys' table; 0: it is not there */
};

struct config_certificate {
	char *title;
	struct config_where where;
	char *chain; /* files */
	char *key;
};

struct config_tls {
	bool present;
	struct config_where where;
	struct config_certificate *certificates;
	size_t certificates_n;
	enum config_client_auth client_auth;
	char *client_ca;
	char *client_crl;
	enum config_client_name client_name;
	enum config_min_version min_version;
	char *ciphers;
	char *ciphersuites;
	char *groups;
	unsigned ticket_seconds; /* 0: no tickets */
	char *ticket_keys;
	enum config_ktls ktls;
};

struct config_listen {
	char *title;         /* "main" */
	char *address;       /* as written: "127.0.0.1:8080", "[::]:8080", "unix:/path" */
	unsigned protocols;  /* CONFIG_PROTOCOL_* */
	bool proxy_protocol; /* a header comes first from these, who are proxies */
	char **proxy_from;   /* addresses and networks (base/address.h) */
	size_t proxy_from_n;
	bool v6only;   /* of [::]: no IPv4 */
	unsigned mode; /* of a unix socket's file; 0: as the umask says */
	char *owner;   /* of it: names or numbers; empty: whoever runs the broker */
	char *group;
	bool allow_plain; /* beyond this host without TLS */
	struct config_tls tls;
};

struct config_engine {
	unsigned sq_entries;
	unsigned batch;
	unsigned lane_entries; /* a power of two from 2 */
	unsigned lane_batch;
	unsigned turn_sends;
	unsigned spin_us;
	unsigned linger_us;
	unsigned recv_buffers; /* a power of two up to 32768 */
	size_t recv_buffer_bytes;
	unsigned sqpoll_idle_ms;
	enum config_steer steer;
};

enum config_order { ORDER_TOPIC, ORDER_SECTION };

struct config_topic {
	char *pattern; /* NULL: the topics section, for every topic that no other matches */
	uint64_t history_messages;
	size_t history_bytes;
	uint64_t history_seconds;
	size_t backlog_bytes;
	uint64_t backlog_seconds;
	enum config_slow slow;
	enum config_last_publisher on_last_publisher;
	uint64_t linger_seconds;
	bool passing;
	enum config_order order;
	bool strict_order;
	unsigned pace;  /* in hundredths */
	size_t section; /* the how manyth topic section it is; 0: the topics section */
};

struct config_limits {
	unsigned connections;
	unsigned connections_per_ip;
	unsigned handshake_seconds;
	unsigned idle_seconds;
	size_t message_bytes;
	size_t command_bytes;
	size_t header_bytes;
	size_t send_buffer_bytes;
	size_t history_total_bytes;
	uint64_t topics;
	uint64_t subscriptions;
	uint64_t subscriptions_per_connection;
	uint64_t globs;
	size_t memory_bytes; /* 0: auto */
	unsigned tls_handshakes;
	unsigned accepts_per_ip; /* a second; 0: no limit */
};

struct config_http {
	char **allowed_origins;
	size_t allowed_origins_n;
	char **allowed_hosts;
	size_t allowed_hosts_n;
	unsigned heartbeat_seconds;
	unsigned ahead;
	unsigned wait_seconds;
	char *objects_dir;
	bool page;
	bool page_local_only;
	bool page_publish;
};

struct config_ws {
	unsigned ping_seconds;
};

struct config_nats {
	unsigned hello_ms; /* of silence on a listener of several protocols, before INFO */
	unsigned ping_seconds;
	unsigned pings_out; /* that may be unanswered */
};

/* Bits of config_jwt.algorithms (RFC 7518, 3.1; RFC 8037, 3.1). */
enum {
	CONFIG_JWT_HS256 = 1 << 0,
	CONFIG_JWT_RS256 = 1 << 1,
	CONFIG_JWT_ES256 = 1 << 2,
	CONFIG_JWT_EDDSA = 1 << 3
};

struct config_jwt {
	unsigned algorithms; /* CONFIG_JWT_* */
	char **keys;         /* files; none: no JWT is taken */
	size_t keys_n;
	char *issuer;
	char *audience;
	unsigned leeway_seconds;
	char *claim; /* that says what its bearer may */
};

struct config_auth {
	enum config_anonymous anonymous;
	unsigned hash_threads;
	unsigned hash_pending;
	unsigned cache_seconds;
	unsigned failures;
	char *cookie;
	unsigned ticket_seconds;
	struct config_jwt jwt;
};

#define CONFIG_ANONYMOUS "anonymous" /* the user that those are who come without a credential */

struct config_user {
	char *name;
	char *password_hash; /* as crypt(3) makes them; empty: no password */
	char **token_hash;   /* "sha256:<64 hexadecimal digits>" */
	size_t token_hash_n;
	char *certificate;
	char *uid; /* a number; empty: none */
	char **publish;
	size_t publish_n;
	char **subscribe;
	size_t subscribe_n;
	char **deny_publish;
	size_t deny_publish_n;
	char **deny_subscribe;
	size_t deny_subscribe_n;
	bool monitor;
	unsigned connections;
};

enum config_log { CONFIG_LOG_JETSTREAM, CONFIG_LOG_NONE };

/* Files, each in PEM. */
struct config_upstream_tls {
	struct config_where where;
	char *ca; /* who signs the servers' certificates; empty: whom the system trusts */
	char *certificate, *key;
};

/* A NATS cluster that several brokers share topics through. */
struct config_upstream {
	char *title;
	char **servers; /* base/server.h */
	size_t servers_n;
	char **topics;        /* patterns: */
	size_t topics_n;      /* first those that a log keeps, if there is one; */
	size_t topics_kept_n; /* then those of topics that leave nothing behind */
	enum config_log log;
	char *stream;
	bool create;
	char *publish_prefix, *deliver_prefix;
	char *user;
	char *password_file;
	char *token_file;
	struct config_upstream_tls tls;
	unsigned ping_seconds;
	unsigned reconnect_ms_min;
	unsigned reconnect_ms_max;
	unsigned publish_seconds;
	unsigned in_flight;
	size_t in_flight_bytes;
	unsigned linger_seconds;
	unsigned tail_seconds;
	unsigned repair_seconds;
	size_t repair_bytes;
	unsigned not_ready_seconds;
};

struct config {
	unsigned reactors; /* CONFIG_REACTORS_AUTO: one per physical core it may use */
	enum config_placement placement;
	int log_level;  /* enum log_level */
	int log_format; /* enum log_format */
	unsigned stats_seconds;
	unsigned drain_seconds;
	unsigned lame_duck_seconds;
	enum config_metrics metrics;
	struct config_listen *listens;
	size_t listens_n;
	struct config_engine engine;
	struct config_topic topics; /* the defaults */
	struct config_topic *topic; /* first match wins */
	size_t topic_n;
	struct config_limits limits;
	struct config_http http;
	struct config_nats nats;
	struct config_ws ws;
	struct config_auth auth;
	struct config_user *users;
	size_t users_n;
	struct config_upstream *upstreams; /* one at most */
	size_t upstreams_n;
	bool sandbox;
};

/*
 * Reads and validates a file; include() is relative to the file that includes. On success the
 * caller owns *out. On failure (-ENOENT, -EACCES, -EINVAL, -ENOMEM ...) *out is NULL and one or
 * more lines "file:line: key: what is wrong, what would be right" went to errors; file:line may
 * lack the line where none can be known (a file that cannot be opened). All bad values are
 * reported, and the first error of syntax, which ends the reading. A file that sets nothing is the
 * defaults; one that sets anything must have a listener. One load at a time, in any thread:
 * libconfuse's lexer is global.
 */
int config_load(const char *path, struct config **out, FILE *errors);

/*
 * The built-in defaults: what an empty file would give, with the listener of config/broker.conf.
 * NULL: out of memory.
 */
struct config *config_defaults(void);
void config_free(struct config *config);

/* The cluster that topics of this name belong to; NULL: they are this host's. */
const struct config_upstream *config_upstream(const struct config *config, struct span name);
/* The settings for a topic of this name; never NULL, lives as long as the configuration. */
const struct config_topic *config_topic(const struct config *config, struct span name);

/* The line of a key of the section, or where the section begins. */
unsigned config_line(const struct config_where *where, const char *section, const char *key);

/*
 * Names for what differs but cannot be changed by a reload, "reactors, engine.batch, listen", in
 * buf, where those that do not fit are left out; "" when old and new agree on all of them.
 */
const char *config_restart_keys(const struct config *old_config, const struct config *new_config,
				char *buf, size_t size);

#endif
