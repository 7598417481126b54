#include "base/config.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/config_keys.h"
#include "base/digest.h"
#include "base/name.h"
#include "base/password.h"
#include "base/server.h"

/*
 * ---- The keys: one line for each, and nothing else to change for a new one ----
 *
 * A key's kind says how it is read, checked and stored (base/key.h), and its default is written as
 * it would be in the file.
 */

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)
#define TIB(n) ((uint64_t)(n) << 40)

enum { MINUTE = 60, HOUR = 60 * MINUTE, YEAR = 365 * 24 * HOUR };
enum { MILLION = 1000000, MANY = 1000 * MILLION };
/* io_uring takes no more entries in a ring, nor buffers in a group. */
enum { RING_ENTRIES_MAX = 32768 };

/* ---- What texts may say ---- */

static const char *pattern_wrong(const char *text)
{
	return name_pattern_valid(span_of(text)) ? NULL : "is not a pattern";
}

static const char *password_hash_wrong(const char *text)
{
	return password_hash_valid(text) ? NULL : "is not a hash of crypt(3)";
}

static const char *token_hash_wrong(const char *text)
{
	struct digest digest;

	return digest_parse(span_of(text), &digest) ? NULL : "is not the hash of a token";
}

static const char *server_wrong(const char *text)
{
	struct server server;

	return server_parse(span_of(text), &server);
}

/* Prefixes are levels of a subject, each with its dot. */
static const char *prefix_wrong(const char *text)
{
	size_t n = strlen(text);

	if (n > 64)
		return "is too long";
	return text[n - 1] == '.' && name_valid((struct span){ text, n - 1 }) &&
			       strchr(text, ' ') == NULL
		       ? NULL
		       : "is no prefix";
}

static const char *stream_wrong(const char *text)
{
	size_t n = strlen(text);

	if (n > 200)
		return "is too long";
	return strcspn(text, ". \t*>/\\\"") == n ? NULL : "is no name of a stream";
}

static const char *uid_wrong(const char *text)
{
	uint64_t uid = 0;

	for (const char *p = text; *p != '\0'; p++) {
		if (*p < '0' || *p > '9')
			return "is not a number";
		uid = 10 * uid + (uint64_t)(*p - '0');
		if (uid >= UINT32_MAX)
			return "is out of range";
	}
	return NULL;
}

/* clang-format off */
/* The keys of section x are the fields of struct config_x; those outside any, of struct config. */
#define config_root config
#define KEY(in, field, ...) \
	{ .section = #in, .name = #field, .offset = offsetof(struct config_##in, field), \
	  .size = sizeof(((struct config_##in *)0)->field), __VA_ARGS__ }

#define LIMITED(how, value, from, to) \
	.kind = how, .standard = value, .min = from, .max = to
#define NUMBER(value, from, to) LIMITED(KIND_NUMBER, value, from, to)
#define POWER(value, from, to) LIMITED(KIND_POWER, value, from, to)
#define SIZE(value, from, to) LIMITED(KIND_SIZE, value, from, to)
#define DECIMAL(value, from, to) LIMITED(KIND_DECIMAL, value, 100 * (from), 100 * (to))
#define OR(word) .words = word
#define WORD(value, all) .kind = KIND_WORD, .standard = value, .words = all
#define SOME_OF(values, all) .kind = KIND_WORDS, .standard = values, .words = all
#define FLAG(value) WORD(value, "false|true")
#define TEXT(value) .kind = KIND_TEXT, .standard = value
#define TEXTS(type, count) .kind = KIND_TEXTS, .count_offset = offsetof(type, count)
#define PATTERNS(in, list) TEXTS(struct config_##in, list), \
	.check = pattern_wrong, .right = "use levels like \"live.*.score\" or \"live.>\""
#define RESTART .restart = true
#define SECRET .secret = true

const char *const config_protocol_names[CONFIG_PROTOCOLS] = { "line", "http", "resp", "nats",
							      "mqtt" };

const struct key config_keys[] = {
	KEY(root, reactors, NUMBER("auto", 1, CONFIG_REACTORS_MAX), OR("auto"), RESTART),
	KEY(root, placement, WORD("cores", "cores|threads|none"), RESTART),
	KEY(root, log_level, WORD("info", "error|warn|info|debug")),
	KEY(root, log_format, WORD("text", "text|json")),
	KEY(root, stats_seconds, NUMBER("5", 0, 24 * HOUR)),
	KEY(root, drain_seconds, NUMBER("10", 0, HOUR)),
	KEY(root, lame_duck_seconds, NUMBER("0", 0, HOUR)),
	KEY(root, metrics, WORD("reactors", "reactors|totals")),
	KEY(root, sandbox, FLAG("true"), RESTART),

	KEY(listen, address, .kind = KIND_ADDRESS, RESTART),
	KEY(listen, protocols, SOME_OF("line|http", "line|http|resp|nats|mqtt"), RESTART),
	KEY(listen, proxy_protocol, FLAG("false"), RESTART),
	KEY(listen, proxy_from, .kind = KIND_NETWORKS,
	    .count_offset = offsetof(struct config_listen, proxy_from_n), RESTART),
	KEY(listen, v6only, FLAG("false"), RESTART),
	KEY(listen, mode, LIMITED(KIND_MODE, "", 1, 0777), OR(""), RESTART),
	KEY(listen, owner, TEXT(""), RESTART),
	KEY(listen, group, TEXT(""), RESTART),
	KEY(listen, allow_plain, FLAG("false"), RESTART),

	KEY(tls, client_auth, WORD("none", "none|optional|required")),
	KEY(tls, client_ca, TEXT("")),
	KEY(tls, client_crl, TEXT("")),
	KEY(tls, client_name, WORD("san-dns", "san-dns|san-uri|san-email|cn")),
	KEY(tls, min_version, WORD("1.2", "1.2|1.3")),
	KEY(tls, ciphers, TEXT("ECDHE+AESGCM:ECDHE+CHACHA20")),
	KEY(tls, ciphersuites,
	    TEXT("TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256")),
	KEY(tls, groups, TEXT("X25519:P-256")),
	KEY(tls, ticket_seconds, NUMBER("7200", 0, 7 * 24 * HOUR)),
	KEY(tls, ticket_keys, TEXT("")),
	KEY(tls, ktls, WORD("off", "off|auto")),

	KEY(certificate, chain, TEXT("")),
	KEY(certificate, key, TEXT("")),

	KEY(engine, sq_entries, NUMBER("4096", 1, RING_ENTRIES_MAX), RESTART),
	KEY(engine, batch, NUMBER("64", 1, RING_ENTRIES_MAX), RESTART),
	KEY(engine, lane_entries, POWER("4096", 2, MIB(1)), RESTART),
	KEY(engine, lane_batch, NUMBER("256", 1, MIB(1)), RESTART),
	KEY(engine, turn_sends, NUMBER("512", 1, MIB(1)), RESTART),
	KEY(engine, spin_us, NUMBER("0", 0, MILLION), RESTART),
	KEY(engine, linger_us, NUMBER("0", 0, MILLION), RESTART),
	KEY(engine, recv_buffers, POWER("1024", 1, RING_ENTRIES_MAX), RESTART),
	KEY(engine, recv_buffer_bytes, SIZE("16K", KIB(1), MIB(1)), RESTART),
	KEY(engine, sqpoll_idle_ms, NUMBER("0", 0, HOUR * 1000), RESTART),
	KEY(engine, steer, WORD("none", "none|cpu"), RESTART),

	KEY(topic, history_messages, NUMBER("128", 0, MANY)),
	KEY(topic, history_bytes, SIZE("4M", 0, TIB(1024))),
	KEY(topic, history_seconds, NUMBER("3600", 1, YEAR)),
	KEY(topic, backlog_bytes, SIZE("8M", KIB(1), TIB(1024))),
	KEY(topic, backlog_seconds, NUMBER("10", 1, YEAR)),
	KEY(topic, slow, WORD("disconnect", "disconnect|skip")),
	KEY(topic, on_last_publisher, WORD("keep", "keep|bye")),
	KEY(topic, linger_seconds, NUMBER("60", 0, YEAR)),
	KEY(topic, passing, FLAG("false")),
	KEY(topic, order, WORD("topic", "topic|section")),
	KEY(topic, strict_order, FLAG("false")),
	KEY(topic, pace, DECIMAL("1.0", 0, 100)),

	KEY(limits, connections, NUMBER("65536", 1, 16 * MILLION)),
	KEY(limits, connections_per_ip, NUMBER("0", 0, 16 * MILLION)),
	KEY(limits, handshake_seconds, NUMBER("5", 1, HOUR)),
	KEY(limits, tls_handshakes, NUMBER("1024", 1, MILLION)),
	KEY(limits, accepts_per_ip, NUMBER("200", 0, MILLION)),
	KEY(limits, idle_seconds, NUMBER("0", 0, YEAR)),
	KEY(limits, message_bytes, SIZE("1M", 1, MIB(64))),
	KEY(limits, command_bytes, SIZE("4K", 512, MIB(1))),
	KEY(limits, header_bytes, SIZE("16K", KIB(1), MIB(1))),
	KEY(limits, send_buffer_bytes, SIZE("256K", KIB(4), GIB(1))),
	KEY(limits, history_total_bytes, SIZE("1G", 0, TIB(1024))),
	KEY(limits, topics, NUMBER("1000000", 1, MANY)),
	KEY(limits, subscriptions, NUMBER("1000000", 1, MANY)),
	KEY(limits, subscriptions_per_connection, NUMBER("65536", 1, MANY)),
	KEY(limits, globs, NUMBER("256", 0, MILLION)),
	KEY(limits, memory_bytes, SIZE("auto", MIB(16), TIB(1024)), OR("auto")),

	KEY(http, allowed_origins, TEXTS(struct config_http, allowed_origins_n)),
	KEY(http, allowed_hosts, TEXTS(struct config_http, allowed_hosts_n)),
	KEY(http, heartbeat_seconds, NUMBER("15", 1, HOUR)),
	KEY(http, ahead, NUMBER("3", 0, 1000)),
	KEY(http, wait_seconds, NUMBER("10", 0, HOUR)),
	KEY(http, objects_dir, TEXT("")),
	KEY(http, page, FLAG("true")),
	KEY(http, page_local_only, FLAG("true")),
	KEY(http, page_publish, FLAG("true")),

	KEY(ws, ping_seconds, NUMBER("30", 1, HOUR)),

	KEY(nats, hello_ms, NUMBER("250", 1, MINUTE * 1000)),
	KEY(nats, ping_seconds, NUMBER("120", 1, 24 * HOUR)),
	KEY(nats, pings_out, NUMBER("2", 1, 100)),

	KEY(auth, anonymous, WORD("loopback", "none|loopback|all")),
	KEY(auth, hash_threads, NUMBER("1", 1, 64), RESTART),
	KEY(auth, hash_pending, NUMBER("64", 1, MILLION)),
	KEY(auth, cache_seconds, NUMBER("300", 0, 24 * HOUR)),
	KEY(auth, failures, NUMBER("10", 1, MILLION)),
	KEY(auth, cookie, TEXT("")),
	KEY(auth, ticket_seconds, NUMBER("60", 1, 24 * HOUR)),

	KEY(jwt, algorithms, SOME_OF("EdDSA", "HS256|RS256|ES256|EdDSA")),
	KEY(jwt, keys, TEXTS(struct config_jwt, keys_n)),
	KEY(jwt, issuer, TEXT("")),
	KEY(jwt, audience, TEXT("")),
	KEY(jwt, leeway_seconds, NUMBER("5", 0, HOUR)),
	KEY(jwt, claim, TEXT("broker")),

	KEY(user, password_hash, TEXT(""), .check = password_hash_wrong, SECRET,
	    .right = "use one that broker --hash-password prints"),
	KEY(user, token_hash, TEXTS(struct config_user, token_hash_n), .check = token_hash_wrong,
	    SECRET, .right = "use one that broker --make-token prints: sha256: and 64 digits"),
	KEY(user, certificate, TEXT("")),
	KEY(user, uid, TEXT(""), .check = uid_wrong, .right = "use a number like 1001"),
	KEY(user, publish, PATTERNS(user, publish_n)),
	KEY(user, subscribe, PATTERNS(user, subscribe_n)),
	KEY(user, deny_publish, PATTERNS(user, deny_publish_n)),
	KEY(user, deny_subscribe, PATTERNS(user, deny_subscribe_n)),
	KEY(user, monitor, FLAG("false")),
	KEY(user, connections, NUMBER("0", 0, 16 * MILLION)),

	KEY(upstream, servers, TEXTS(struct config_upstream, servers_n), .check = server_wrong,
	    RESTART, .right = "use one like \"nats://10.0.0.1:4222\""),
	KEY(upstream, topics, PATTERNS(upstream, topics_n), RESTART),
	KEY(upstream, log, WORD("none", "jetstream|none"), RESTART),
	KEY(upstream, stream, TEXT(""), .check = stream_wrong, RESTART,
	    .right = "use one without dots, spaces, wildcards and slashes, like \"LIVE\""),
	KEY(upstream, create, FLAG("false"), RESTART),
	KEY(upstream, publish_prefix, TEXT(""), .check = prefix_wrong, RESTART,
	    .right = "use levels that end with a dot, like \"site.\""),
	KEY(upstream, deliver_prefix, TEXT("fan."), .check = prefix_wrong, RESTART,
	    .right = "use levels that end with a dot, like \"fan.\""),
	KEY(upstream, user, TEXT(""), RESTART),
	KEY(upstream, password_file, TEXT(""), RESTART),
	KEY(upstream, token_file, TEXT(""), RESTART),
	KEY(upstream_tls, ca, TEXT("")),
	KEY(upstream_tls, certificate, TEXT("")),
	KEY(upstream_tls, key, TEXT("")),
	KEY(upstream, ping_seconds, NUMBER("2", 1, MINUTE), RESTART),
	KEY(upstream, reconnect_ms_min, NUMBER("50", 1, 1000 * MINUTE), RESTART),
	KEY(upstream, reconnect_ms_max, NUMBER("2000", 1, 1000 * MINUTE), RESTART),
	KEY(upstream, publish_seconds, NUMBER("15", 1, HOUR), RESTART),
	KEY(upstream, in_flight, NUMBER("1024", 1, MILLION), RESTART),
	KEY(upstream, in_flight_bytes, SIZE("8M", KIB(4), GIB(1)), RESTART),
	KEY(upstream, linger_seconds, NUMBER("60", 0, YEAR), RESTART),
	KEY(upstream, tail_seconds, NUMBER("5", 1, HOUR), RESTART),
	KEY(upstream, repair_seconds, NUMBER("15", 1, HOUR), RESTART),
	KEY(upstream, repair_bytes, SIZE("16M", KIB(64), GIB(1)), RESTART),
	KEY(upstream, not_ready_seconds, NUMBER("3", 1, HOUR), RESTART),
	{ .name = NULL },
};

const struct config_section config_sections[] = {
	{ CONFIG_ROOT, "root", false, NULL, 0 },
	{ "listen", "listen", true, CONFIG_ROOT, 0 },
	{ "tls", "tls", false, "listen", offsetof(struct config_listen, tls) },
	{ "certificate", "certificate", true, "tls", 0 },
	{ "engine", "engine", false, CONFIG_ROOT, offsetof(struct config, engine) },
	{ "topics", "topic", false, CONFIG_ROOT, offsetof(struct config, topics) },
	{ "topic", "topic", true, CONFIG_ROOT, 0 },
	{ "limits", "limits", false, CONFIG_ROOT, offsetof(struct config, limits) },
	{ "http", "http", false, CONFIG_ROOT, offsetof(struct config, http) },
	{ "ws", "ws", false, CONFIG_ROOT, offsetof(struct config, ws) },
	{ "nats", "nats", false, CONFIG_ROOT, offsetof(struct config, nats) },
	{ "auth", "auth", false, CONFIG_ROOT, offsetof(struct config, auth) },
	{ "jwt", "jwt", false, "auth", offsetof(struct config_auth, jwt) },
	{ "user", "user", true, CONFIG_ROOT, 0 },
	{ "upstream", "upstream", true, CONFIG_ROOT, 0 },
	{ "upstream.tls", "upstream_tls", false, "upstream", offsetof(struct config_upstream, tls) },
	{ .name = NULL },
};
/* clang-format on */

_Static_assert(sizeof(enum config_slow) == sizeof(unsigned), "words are stored like numbers");

const char *config_section_word(const struct config_section *section)
{
	const char *dot = strrchr(section->name, '.');

	return dot != NULL ? dot + 1 : section->name;
}

bool config_section_optional(const struct config_section *section)
{
	return strcmp(section->name, "tls") == 0;
}

bool config_key_in(const struct key *key, const char *section)
{
	const struct config_section *s = config_sections;

	while (strcmp(s->name, section) != 0)
		s++;
	return strcmp(key->section, s->keys) == 0;
}

size_t config_key_index(const char *section, const char *key)
{
	size_t index = 0;

	for (const struct key *k = config_keys; k->name != NULL; k++) {
		if (!config_key_in(k, section))
			continue;
		if (strcmp(k->name, key) == 0)
			return index;
		index++;
	}
	return CONFIG_WHERE_KEYS;
}

unsigned config_line(const struct config_where *where, const char *section, const char *key)
{
	size_t index = config_key_index(section, key);

	return index < CONFIG_WHERE_KEYS && where->lines[index] > 0 ? where->lines[index]
								    : where->line;
}

/* ---- Defaults, and the end ---- */

/* The sections that stand in this one, each once: the first, or the one behind another. */
static const struct config_section *section_within(const char *in,
						   const struct config_section *after)
{
	const struct config_section *s = after != NULL ? after + 1 : config_sections;

	for (; s->name != NULL; s++)
		if (!s->titled && s->in != NULL && strcmp(s->in, in) == 0)
			return s;
	return NULL;
}

static void section_clear(const char *section, void *base)
{
	const struct config_section *inner = NULL;

	for (const struct key *k = config_keys; k->name != NULL; k++)
		if (config_key_in(k, section))
			key_clear(k, base);
	while ((inner = section_within(section, inner)) != NULL)
		section_clear(inner->name, (char *)base + inner->offset);
}

static int section_defaults(const char *section, void *base)
{
	const struct config_section *inner = NULL;
	int error = 0;

	for (const struct key *k = config_keys; k->name != NULL && error == 0; k++)
		if (config_key_in(k, section))
			error = key_store_default(k, base);
	while (error == 0 && (inner = section_within(section, inner)) != NULL)
		error = section_defaults(inner->name, (char *)base + inner->offset);
	return error;
}

static void certificates_free(struct config_tls *tls)
{
	for (size_t i = 0; i < tls->certificates_n; i++) {
		free(tls->certificates[i].title);
		free(tls->certificates[i].where.file);
		section_clear("certificate", &tls->certificates[i]);
	}
	free(tls->certificates);
	free(tls->where.file);
}

int config_certificates_new(struct config_tls *tls, size_t n)
{
	int error = 0;

	tls->certificates = calloc(n, sizeof(*tls->certificates));
	if (tls->certificates == NULL)
		return -ENOMEM;
	tls->certificates_n = n;
	for (size_t i = 0; i < n && error == 0; i++)
		error = section_defaults("certificate", &tls->certificates[i]);
	return error;
}

void config_listens_free(struct config *config)
{
	for (size_t i = 0; i < config->listens_n; i++) {
		certificates_free(&config->listens[i].tls);
		free(config->listens[i].title);
		section_clear("listen", &config->listens[i]);
	}
	free(config->listens);
	config->listens = NULL;
	config->listens_n = 0;
}

int config_listens_new(struct config *config, size_t n)
{
	int error = 0;

	config->listens = calloc(n, sizeof(*config->listens));
	if (config->listens == NULL)
		return -ENOMEM;
	config->listens_n = n;
	for (size_t i = 0; i < n && error == 0; i++)
		error = section_defaults("listen", &config->listens[i]);
	return error;
}

int config_users_new(struct config *config, size_t n)
{
	int error = 0;

	config->users = calloc(n, sizeof(*config->users));
	if (config->users == NULL)
		return -ENOMEM;
	config->users_n = n;
	for (size_t i = 0; i < n && error == 0; i++)
		error = section_defaults("user", &config->users[i]);
	return error;
}

int config_upstreams_new(struct config *config, size_t n)
{
	int error = 0;

	config->upstreams = calloc(n, sizeof(*config->upstreams));
	if (config->upstreams == NULL)
		return -ENOMEM;
	config->upstreams_n = n;
	for (size_t i = 0; i < n && error == 0; i++)
		error = section_defaults("upstream", &config->upstreams[i]);
	return error;
}

static void upstreams_free(struct config *config)
{
	for (size_t i = 0; i < config->upstreams_n; i++) {
		free(config->upstreams[i].title);
		free(config->upstreams[i].tls.where.file);
		section_clear("upstream", &config->upstreams[i]);
	}
	free(config->upstreams);
}

static void users_free(struct config *config)
{
	for (size_t i = 0; i < config->users_n; i++) {
		free(config->users[i].name);
		section_clear("user", &config->users[i]);
	}
	free(config->users);
}

struct config *config_defaults(void)
{
	struct config *config = calloc(1, sizeof(*config));
	int error;

	if (config == NULL)
		return NULL;
	error = config_listens_new(config, 1);
	if (error == 0)
		error = section_defaults(CONFIG_ROOT, config);
	if (error == 0) {
		config->listens[0].title = strdup("main");
		config->listens[0].address = strdup(ADDRESS_STANDARD);
		if (config->listens[0].title != NULL && config->listens[0].address != NULL)
			return config;
	}
	config_free(config);
	return NULL;
}

void config_free(struct config *config)
{
	if (config == NULL)
		return;
	config_listens_free(config);
	for (size_t i = 0; i < config->topic_n; i++) {
		free(config->topic[i].pattern);
		section_clear("topic", &config->topic[i]);
	}
	free(config->topic);
	users_free(config);
	upstreams_free(config);
	section_clear(CONFIG_ROOT, config);
	free(config);
}

const struct config_topic *config_topic(const struct config *config, struct span name)
{
	for (size_t i = 0; i < config->topic_n; i++) {
		if (name_matches(span_of(config->topic[i].pattern), name))
			return &config->topic[i];
	}
	return &config->topics;
}

const struct config_upstream *config_upstream(const struct config *config, struct span name)
{
	/* The broker's own never leave. */
	if (name.len > 5 && memcmp(name.data, "$sys.", 5) == 0)
		return NULL;
	for (size_t i = 0; i < config->upstreams_n; i++)
		for (size_t j = 0; j < config->upstreams[i].topics_n; j++)
			if (name_matches(span_of(config->upstreams[i].topics[j]), name))
				return &config->upstreams[i];
	return NULL;
}

/* Whether two sections agree, and those that stand in them. */
static bool section_same(const char *section, const void *a, const void *b)
{
	const struct config_section *inner = NULL;

	for (const struct key *k = config_keys; k->name != NULL; k++)
		if (config_key_in(k, section) && !key_same(k, a, b))
			return false;
	while ((inner = section_within(section, inner)) != NULL)
		if (!section_same(inner->name, (const char *)a + inner->offset,
				  (const char *)b + inner->offset))
			return false;
	return true;
}

static bool upstreams_same(const struct config *a, const struct config *b)
{
	if (a->upstreams_n != b->upstreams_n)
		return false;
	for (size_t i = 0; i < a->upstreams_n; i++)
		if (!section_same("upstream", &a->upstreams[i], &b->upstreams[i]))
			return false;
	return true;
}

static bool listens_same(const struct config *a, const struct config *b)
{
	if (a->listens_n != b->listens_n)
		return false;
	for (size_t i = 0; i < a->listens_n; i++) {
		if (strcmp(a->listens[i].title, b->listens[i].title) != 0 ||
		    a->listens[i].tls.present != b->listens[i].tls.present)
			return false;
		for (const struct key *k = config_keys; k->name != NULL; k++)
			if (config_key_in(k, "listen") &&
			    !key_same(k, &a->listens[i], &b->listens[i]))
				return false;
	}
	return true;
}

/* Whether both give the same topics one order. */
static bool orders_same(const struct config *a, const struct config *b)
{
	if (a->topics.order != b->topics.order || a->topic_n != b->topic_n)
		return false;
	for (size_t i = 0; i < a->topic_n; i++)
		if (a->topic[i].order != b->topic[i].order ||
		    strcmp(a->topic[i].pattern, b->topic[i].pattern) != 0)
			return false;
	return true;
}

static bool orders_any(const struct config *config)
{
	for (size_t i = 0; i < config->topic_n; i++)
		if (config->topic[i].order == ORDER_SECTION)
			return true;
	return config->topics.order == ORDER_SECTION;
}

/* Appends to a list in buf what still fits, never a part of a name. */
static void list_add(char *buf, size_t size, const char *section, const char *key)
{
	const char *comma = *buf != '\0' ? ", " : "";
	const char *dot = *section != '\0' && *key != '\0' ? "." : "";
	size_t len = strlen(buf);
	int n = snprintf(buf + len, size - len, "%s%s%s%s", comma, section, dot, key);

	if (n < 0 || (size_t)n >= size - len)
		buf[len] = '\0';
}

/* Of a section and of those that stand in it. */
static void list_changed(const char *section, const void *before, const void *after, char *buf,
			 size_t size)
{
	const char *named = strcmp(section, CONFIG_ROOT) == 0 ? "" : section;
	const struct config_section *inner = NULL;

	for (const struct key *k = config_keys; k->name != NULL; k++)
		if (config_key_in(k, section) && k->restart && !key_same(k, before, after))
			list_add(buf, size, named, k->name);
	while ((inner = section_within(section, inner)) != NULL)
		list_changed(inner->name, (const char *)before + inner->offset,
			     (const char *)after + inner->offset, buf, size);
}

const char *config_restart_keys(const struct config *old_config, const struct config *new_config,
				char *buf, size_t size)
{
	assert(size > 0);
	*buf = '\0';
	list_changed(CONFIG_ROOT, old_config, new_config, buf, size);
	if (!listens_same(old_config, new_config))
		list_add(buf, size, "listen", "");
	if (!upstreams_same(old_config, new_config))
		list_add(buf, size, "upstream", "");
	if ((orders_any(old_config) || orders_any(new_config)) &&
	    !orders_same(old_config, new_config))
		list_add(buf, size, "topic.order", "");
	return buf;
}
