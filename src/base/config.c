#include "base/config.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/config_keys.h"
#include "base/name.h"

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
#define WORDS(all) .kind = KIND_WORDS, .words = all
#define FLAG(value) WORD(value, "false|true")
#define TEXT(value) .kind = KIND_TEXT, .standard = value
#define TEXTS(type, count) .kind = KIND_TEXTS, .count_offset = offsetof(type, count)
#define RESTART .restart = true

const struct key config_keys[] = {
	KEY(root, reactors, NUMBER("auto", 1, CONFIG_REACTORS_MAX), OR("auto"), RESTART),
	KEY(root, placement, WORD("cores", "cores|threads|none"), RESTART),
	KEY(root, log_level, WORD("info", "error|warn|info|debug")),
	KEY(root, log_format, WORD("text", "text|json")),
	KEY(root, stats_seconds, NUMBER("5", 0, 24 * HOUR)),
	KEY(root, drain_seconds, NUMBER("10", 0, HOUR)),
	KEY(root, lame_duck_seconds, NUMBER("0", 0, HOUR)),
	KEY(root, sandbox, FLAG("true"), RESTART),

	KEY(listen, address, .kind = KIND_ADDRESS, RESTART),
	KEY(listen, protocols, WORDS("line|http"), RESTART),
	KEY(listen, proxy_protocol, FLAG("false"), RESTART),
	KEY(listen, proxy_from, .kind = KIND_NETWORKS,
	    .count_offset = offsetof(struct config_listen, proxy_from_n), RESTART),
	KEY(listen, v6only, FLAG("false"), RESTART),
	KEY(listen, mode, LIMITED(KIND_MODE, "", 1, 0777), OR(""), RESTART),
	KEY(listen, owner, TEXT(""), RESTART),
	KEY(listen, group, TEXT(""), RESTART),

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
	KEY(topic, pace, DECIMAL("1.0", 0, 100)),

	KEY(limits, connections, NUMBER("65536", 1, 16 * MILLION)),
	KEY(limits, connections_per_ip, NUMBER("0", 0, 16 * MILLION)),
	KEY(limits, handshake_seconds, NUMBER("5", 1, HOUR)),
	KEY(limits, idle_seconds, NUMBER("0", 0, YEAR)),
	KEY(limits, message_bytes, SIZE("1M", 1, MIB(64))),
	KEY(limits, command_bytes, SIZE("4K", 512, MIB(1))),
	KEY(limits, header_bytes, SIZE("16K", KIB(1), MIB(1))),
	KEY(limits, send_buffer_bytes, SIZE("256K", KIB(4), GIB(1))),
	KEY(limits, history_total_bytes, SIZE("1G", 0, TIB(1024))),
	KEY(limits, topics, NUMBER("1000000", 1, MANY)),
	KEY(limits, subscriptions, NUMBER("1000000", 1, MANY)),
	KEY(limits, memory_bytes, SIZE("auto", MIB(16), TIB(1024)), OR("auto")),

	KEY(http, allowed_origins, TEXTS(struct config_http, allowed_origins_n)),
	KEY(http, allowed_hosts, TEXTS(struct config_http, allowed_hosts_n)),
	KEY(http, heartbeat_seconds, NUMBER("15", 1, HOUR)),
	KEY(http, ahead, NUMBER("3", 0, 1000)),
	KEY(http, wait_seconds, NUMBER("10", 0, HOUR)),
	KEY(http, objects_dir, TEXT("")),
	KEY(http, page, FLAG("true")),
	KEY(http, page_local_only, FLAG("true")),
	{ .name = NULL },
};

const struct config_section config_sections[] = {
	{ "root", "root", false, 0 }, /* what libconfuse calls the file itself */
	{ "listen", "listen", true, 0 },
	{ "engine", "engine", false, offsetof(struct config, engine) },
	{ "topics", "topic", false, offsetof(struct config, topics) },
	{ "topic", "topic", true, 0 },
	{ "limits", "limits", false, offsetof(struct config, limits) },
	{ "http", "http", false, offsetof(struct config, http) },
	{ .name = NULL },
};
/* clang-format on */

_Static_assert(sizeof(enum config_slow) == sizeof(unsigned), "words are stored like numbers");

bool config_key_in(const struct key *key, const char *section)
{
	const struct config_section *s = config_sections;

	while (strcmp(s->name, section) != 0)
		s++;
	return strcmp(key->section, s->keys) == 0;
}

/* ---- Defaults, and the end ---- */

static void section_clear(const char *section, void *base)
{
	for (const struct key *k = config_keys; k->name != NULL; k++)
		if (config_key_in(k, section))
			key_clear(k, base);
}

static int section_defaults(const char *section, void *base)
{
	int error = 0;

	for (const struct key *k = config_keys; k->name != NULL && error == 0; k++)
		if (config_key_in(k, section))
			error = key_store_default(k, base);
	return error;
}

static void *section_base(struct config *config, const struct config_section *section)
{
	return (char *)config + section->offset;
}

void config_listens_free(struct config *config)
{
	for (size_t i = 0; i < config->listens_n; i++) {
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

struct config *config_defaults(void)
{
	struct config *config = calloc(1, sizeof(*config));
	int error;

	if (config == NULL)
		return NULL;
	error = config_listens_new(config, 1);
	for (const struct config_section *s = config_sections; s->name != NULL && error == 0; s++)
		if (!s->titled)
			error = section_defaults(s->name, section_base(config, s));
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
	for (const struct config_section *s = config_sections; s->name != NULL; s++)
		if (!s->titled)
			section_clear(s->name, section_base(config, s));
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

static bool listens_same(const struct config *a, const struct config *b)
{
	if (a->listens_n != b->listens_n)
		return false;
	for (size_t i = 0; i < a->listens_n; i++) {
		if (strcmp(a->listens[i].title, b->listens[i].title) != 0)
			return false;
		for (const struct key *k = config_keys; k->name != NULL; k++)
			if (config_key_in(k, "listen") &&
			    !key_same(k, &a->listens[i], &b->listens[i]))
				return false;
	}
	return true;
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

const char *config_restart_keys(const struct config *old_config, const struct config *new_config,
				char *buf, size_t size)
{
	assert(size > 0);
	*buf = '\0';
	for (const struct config_section *s = config_sections; s->name != NULL; s++) {
		for (const struct key *k = config_keys; k->name != NULL && !s->titled; k++)
			if (config_key_in(k, s->name) && k->restart &&
			    !key_same(k, (const char *)old_config + s->offset,
				      (const char *)new_config + s->offset))
				list_add(buf, size, s == config_sections ? "" : s->name, k->name);
	}
	if (!listens_same(old_config, new_config))
		list_add(buf, size, "listen", "");
	return buf;
}
