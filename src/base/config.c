#include "base/config.h"

#include <arpa/inet.h>
#include <assert.h>
#include <confuse.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/un.h>

#include "base/name.h"

/*
 * ---- The keys: one line for each, and nothing else to change for a new one ----
 *
 * libconfuse is given every value as a string. A key's kind says how it is read, checked and
 * stored, and its default is written as it would be in the file.
 */

enum kind {
	KIND_NUMBER, /* min to max, or the one of words that stands for 0 */
	KIND_POWER,  /* a number, and a power of two */
	KIND_SIZE,   /* a number with K, M or G */
	KIND_WORD,   /* one of words, stored as its index */
	KIND_WORDS,  /* a list of words, stored as their bits; all of them by default */
	KIND_TEXT,
	KIND_TEXTS,
	KIND_ADDRESS,
};

struct key {
	const char *section;
	const char *name;
	const char *standard; /* the default; NULL: none */
	enum kind kind;
	uint64_t min;
	uint64_t max;
	const char *words;
	bool restart; /* a reload cannot change it */
	size_t offset;
	size_t size;
	size_t count_offset; /* of a KIND_TEXTS */
};

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
#define OR(word) .words = word
#define WORD(value, all) .kind = KIND_WORD, .standard = value, .words = all
#define WORDS(all) .kind = KIND_WORDS, .words = all
#define FLAG(value) WORD(value, "false|true")
#define TEXT(value) .kind = KIND_TEXT, .standard = value
#define TEXTS(type, count) .kind = KIND_TEXTS, .count_offset = offsetof(type, count)
#define RESTART .restart = true

static const struct key keys[] = {
	KEY(root, reactors, NUMBER("auto", 1, CONFIG_REACTORS_MAX), OR("auto"), RESTART),
	KEY(root, placement, WORD("cores", "cores|threads|none"), RESTART),
	KEY(root, log_level, WORD("info", "error|warn|info|debug")),
	KEY(root, log_format, WORD("text", "text|json")),
	KEY(root, stats_seconds, NUMBER("5", 0, 24 * HOUR)),
	KEY(root, drain_seconds, NUMBER("10", 0, HOUR)),
	KEY(root, sandbox, FLAG("true"), RESTART),

	KEY(listen, address, .kind = KIND_ADDRESS, RESTART),
	KEY(listen, protocols, WORDS("line|http"), RESTART),

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

	KEY(limits, connections, NUMBER("65536", 1, 16 * MILLION), RESTART),
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
};

static const struct section {
	const char *name;
	const char *keys; /* the section in the table above that it takes its keys from */
	bool titled;	  /* may stand in a file any number of times, each with its title */
	size_t offset;	  /* where its struct lies in struct config, unless titled */
} sections[] = {
	{ "root", "root", false, 0 }, /* what libconfuse calls the file itself */
	{ "listen", "listen", true, 0 },
	{ "engine", "engine", false, offsetof(struct config, engine) },
	{ "topics", "topic", false, offsetof(struct config, topics) },
	{ "topic", "topic", true, 0 },
	{ "limits", "limits", false, offsetof(struct config, limits) },
	{ "http", "http", false, offsetof(struct config, http) },
};
/* clang-format on */

enum { KEYS = sizeof(keys) / sizeof(keys[0]), SECTIONS = sizeof(sections) / sizeof(sections[0]) };

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "sizes are stored like any other number");
_Static_assert(sizeof(enum config_slow) == sizeof(unsigned), "words are stored like numbers");

static const char default_address[] = "127.0.0.1:8080";

/* The section must exist. */
static const struct section *section_find(const char *name)
{
	const struct section *s = sections;

	while (strcmp(s->name, name) != 0)
		s++;
	return s;
}

static bool key_in(const struct key *key, const char *section)
{
	return strcmp(key->section, section_find(section)->keys) == 0;
}

static const struct key *key_find(const char *section, const char *name)
{
	for (size_t i = 0; i < KEYS; i++) {
		if (key_in(&keys[i], section) && strcmp(keys[i].name, name) == 0)
			return &keys[i];
	}
	return NULL;
}

/* ---- What a value may be ---- */

/* A listener's address; IPv4 as IPv6 has it (RFC 4291, 2.5.5.2), so that equal is equal. */
struct address {
	struct in6_addr host;
	unsigned port;
	const char *path; /* of a Unix socket; NULL: TCP */
};

static const char *path_parse(const char *path, struct address *out)
{
	out->path = path;
	if (*path != '/')
		return "has no absolute path";
	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return "has too long a path";
	return NULL;
}

/* What is wrong with the text; NULL: nothing, and *out is its address, which borrows the text. */
static const char *address_parse(const char *text, struct address *out)
{
	const char *colon = strrchr(text, ':');
	bool bracketed = *text == '[' && colon != NULL && colon > text + 1 && colon[-1] == ']';
	char host[INET6_ADDRSTRLEN];
	int len;

	*out = (struct address){ .path = NULL };
	if (strncmp(text, "unix:", 5) == 0)
		return path_parse(text + 5, out);
	if (colon == NULL)
		return "has no port";

	len = (int)(colon - text) - 2 * bracketed;
	if (snprintf(host, sizeof(host), "%.*s", len, text + bracketed) >= (int)sizeof(host))
		return "has no numeric host";
	if (!bracketed)
		memcpy(out->host.s6_addr + 10, "\xff\xff", 2);
	if (inet_pton(bracketed ? AF_INET6 : AF_INET, host,
		      out->host.s6_addr + (bracketed ? 0 : 12)) != 1)
		return "has no numeric host";

	len = (int)strspn(colon + 1, "0123456789");
	if (len == 0 || len > 5 || colon[1 + len] != '\0')
		return "has no numeric port";
	out->port = (unsigned)strtoul(colon + 1, NULL, 10);
	return out->port <= UINT16_MAX ? NULL : "has too high a port";
}

/* Whether a listener on a would also get what is meant for b. [::] takes IPv4 as well. */
static bool address_covers(const struct address *a, const struct address *b)
{
	static const struct in6_addr every_ipv4 = { { { [10] = 0xff, [11] = 0xff } } };

	if (a->path != NULL || b->path != NULL)
		return a->path != NULL && b->path != NULL && strcmp(a->path, b->path) == 0;
	if (a->port != b->port || a->port == 0)
		return false;
	return memcmp(&a->host, &b->host, sizeof(a->host)) == 0 ||
	       IN6_IS_ADDR_UNSPECIFIED(&a->host) ||
	       (memcmp(&a->host, &every_ipv4, sizeof(a->host)) == 0 &&
		IN6_IS_ADDR_V4MAPPED(&b->host));
}

static const char *number_parse(const struct key *key, const char *text, uint64_t *value)
{
	const char *p = text;
	unsigned shift = 0;

	*value = 0;
	if (key->words != NULL && strcmp(text, key->words) == 0)
		return NULL;
	for (; isdigit((unsigned char)*p); p++) {
		if (__builtin_mul_overflow(*value, 10, value) ||
		    __builtin_add_overflow(*value, (unsigned)(*p - '0'), value))
			return "is out of range";
	}
	if (p != text && key->kind == KIND_SIZE)
		shift = *p == 'K' ? 10 : *p == 'M' ? 20 : *p == 'G' ? 30 : 0;
	if (p == text || p[shift != 0] != '\0')
		return key->kind == KIND_SIZE ? "is not a size" : "is not a number";
	if (*value > UINT64_MAX >> shift)
		return "is out of range";
	*value <<= shift;
	if (*value < key->min || *value > key->max)
		return "is out of range";
	if (key->kind == KIND_POWER && (*value & (*value - 1)) != 0)
		return "is not a power of two";
	return NULL;
}

/* Looks a word up in "one|two|three". */
static const char *word_parse(const char *words, const char *text, uint64_t *index)
{
	size_t len = strlen(text);

	for (*index = 0;; ++*index) {
		size_t n = strcspn(words, "|");

		if (n == len && memcmp(words, text, n) == 0)
			return NULL;
		if (words[n] == '\0')
			return "is unknown";
		words += n + 1;
	}
}

/* What is wrong with a value; NULL: nothing, and a number is in *number. */
static const char *value_parse(const struct key *key, const char *text, uint64_t *number)
{
	struct address address;
	const char *wrong;

	switch (key->kind) {
	case KIND_NUMBER:
	case KIND_POWER:
	case KIND_SIZE:
		return number_parse(key, text, number);
	case KIND_WORD:
		return word_parse(key->words, text, number);
	case KIND_WORDS:
		wrong = word_parse(key->words, text, number);
		*number = (uint64_t)1 << *number;
		return wrong;
	case KIND_TEXT:
		return NULL;
	case KIND_TEXTS:
		return *text != '\0' ? NULL : "is empty";
	case KIND_ADDRESS:
		return address_parse(text, &address);
	}
	return NULL;
}

static void print_size(FILE *to, uint64_t n)
{
	static const char *const suffixes[] = { "", "K", "M", "G" };
	const char *const *suffix = suffixes;

	for (; n != 0 && n % 1024 == 0 && suffix < suffixes + 3; suffix++)
		n /= 1024;
	fprintf(to, "%llu%s", (unsigned long long)n, *suffix);
}

/* What would be right for a key. */
static void print_right(FILE *to, const struct key *key)
{
	switch (key->kind) {
	case KIND_NUMBER:
	case KIND_POWER:
		fprintf(to, "use a %s from %llu to %llu",
			key->kind == KIND_POWER ? "power of two" : "number",
			(unsigned long long)key->min, (unsigned long long)key->max);
		break;
	case KIND_SIZE:
		fprintf(to, "use a size from ");
		print_size(to, key->min);
		fprintf(to, " to ");
		print_size(to, key->max);
		break;
	case KIND_WORD:
	case KIND_WORDS:
		fprintf(to, "use one of %s", key->words);
		return;
	case KIND_TEXT:
	case KIND_TEXTS:
		fprintf(to, "use some text");
		break;
	case KIND_ADDRESS:
		fprintf(to, "use one like %s, [::1]:8080 or unix:/path (a path of up to %zu bytes)",
			default_address, sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
		break;
	}
	if (key->words != NULL)
		fprintf(to, ", or \"%s\"", key->words);
}

/* ---- Values in their struct; base is the struct that a section's keys are fields of ---- */

/* Like strchr, these leave it to the caller not to write to what is const. */
static void *value_at(const struct key *key, const void *base)
{
	return (void *)((uintptr_t)base + key->offset);
}

static size_t *value_count(const struct key *key, const void *base)
{
	return (void *)((uintptr_t)base + key->count_offset);
}

static void value_clear(const struct key *key, void *base)
{
	if (key->kind == KIND_TEXT || key->kind == KIND_ADDRESS)
		free(*(char **)value_at(key, base));
	if (key->kind == KIND_TEXTS) {
		char **texts = *(char ***)value_at(key, base);

		while (*value_count(key, base) > 0)
			free(texts[--*value_count(key, base)]);
		free(texts);
	}
	memset(value_at(key, base), 0, key->size);
}

static int text_add(const struct key *key, void *base, char *copy)
{
	char ***texts = value_at(key, base);
	size_t *n = value_count(key, base);
	char **more = realloc(*texts, (*n + 1) * sizeof(*more));

	if (more == NULL) {
		free(copy);
		return -ENOMEM;
	}
	more[(*n)++] = copy;
	*texts = more;
	return 0;
}

/* Stores a value that value_parse has nothing against; a list grows by it. */
static int value_store(const struct key *key, void *base, const char *text)
{
	void *field = value_at(key, base);
	bool textual =
		key->kind == KIND_TEXT || key->kind == KIND_TEXTS || key->kind == KIND_ADDRESS;
	uint64_t number = 0;
	const char *wrong = value_parse(key, text, &number);
	char *copy;

	assert(wrong == NULL);
	if (textual) {
		copy = strdup(text);
		if (copy == NULL)
			return -ENOMEM;
		if (key->kind == KIND_TEXTS)
			return text_add(key, base, copy);
		*(char **)field = copy;
	} else if (key->kind == KIND_WORDS) {
		*(unsigned *)field |= (unsigned)number;
	} else if (key->size == sizeof(bool)) {
		*(bool *)field = number != 0;
	} else if (key->size == sizeof(unsigned)) {
		*(unsigned *)field = (unsigned)number;
	} else {
		assert(key->size == sizeof(uint64_t));
		*(uint64_t *)field = number;
	}
	return 0;
}

/* Only keys that a reload cannot change are compared, and of those none is a list. */
static bool value_same(const struct key *key, const void *a, const void *b)
{
	assert(key->kind != KIND_TEXTS);
	if (key->kind == KIND_TEXT || key->kind == KIND_ADDRESS)
		return strcmp(*(char **)value_at(key, a), *(char **)value_at(key, b)) == 0;
	return memcmp(value_at(key, a), value_at(key, b), key->size) == 0;
}

static void section_clear(const char *section, void *base)
{
	for (size_t i = 0; i < KEYS; i++) {
		if (key_in(&keys[i], section))
			value_clear(&keys[i], base);
	}
}

static int section_defaults(const char *section, void *base)
{
	int error = 0;

	for (size_t i = 0; i < KEYS && error == 0; i++) {
		if (!key_in(&keys[i], section))
			continue;
		if (keys[i].kind == KIND_WORDS) {
			unsigned *bits = value_at(&keys[i], base);

			for (const char *p = keys[i].words; p != NULL; p = strchr(p + 1, '|'))
				*bits = *bits << 1 | 1;
		}
		if (keys[i].standard != NULL)
			error = value_store(&keys[i], base, keys[i].standard);
	}
	return error;
}

/* Takes over what the file has set; everything else stays as it is. */
static int section_read(cfg_t *cfg, void *base)
{
	int error = 0;

	for (size_t i = 0; i < KEYS; i++) {
		cfg_opt_t *opt = key_in(&keys[i], cfg->name) ? cfg_getopt(cfg, keys[i].name) : NULL;

		if (opt == NULL || (opt->flags & CFGF_MODIFIED) == 0)
			continue;
		value_clear(&keys[i], base);
		for (unsigned j = 0; j < cfg_opt_size(opt) && error == 0; j++)
			error = value_store(&keys[i], base, cfg_opt_getnstr(opt, j));
	}
	return error;
}

/* ---- Reading a file ---- */

/*
 * libconfuse hands its callbacks no argument of the caller's, and its lexer is global: one file is
 * read at a time, and this is what there is to know of it.
 */
struct load {
	FILE *errors;
	unsigned failures;
	const char *file; /* the one being read: the first, or one that it includes */
	unsigned depth;   /* of includes */
	unsigned values;
	int section_line; /* where the titled section being read begins */
	int address_line;
};

static struct load *loading;

enum { INCLUDE_DEPTH_MAX = 10 };

static FILE *report_begin(int line, const char *key)
{
	loading->failures++;
	fputs(loading->file, loading->errors);
	if (line > 0)
		fprintf(loading->errors, ":%d", line);
	fprintf(loading->errors, ": %s: ", key);
	return loading->errors;
}

static void report(int line, const char *key, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void report(int line, const char *key, const char *format, ...)
{
	FILE *to = report_begin(line, key);
	va_list ap;

	va_start(ap, format);
	vfprintf(to, format, ap);
	va_end(ap);
	fputc('\n', to);
}

static void report_unknown(const cfg_t *cfg, const char *key)
{
	FILE *to = report_begin(cfg->line, key);

	fprintf(to, "unknown here, use one of");
	for (const cfg_opt_t *opt = cfg->opts; opt->name != NULL; opt++) {
		if (strchr(opt->name, '=') == NULL)
			fprintf(to, " %s", opt->name);
	}
	fputc('\n', to);
}

static void on_error(cfg_t *cfg, const char *format, va_list ap)
	__attribute__((format(printf, 2, 0)));

/* Says in our form what libconfuse has to say, of which the argument is the key. */
static void on_error(cfg_t *cfg, const char *format, va_list ap)
{
	static const char *const words[][2] = {
		{ "found duplicate title '%s'", "is taken, give each section its own title" },
		{ "missing equal sign after option '%s'", "has no value, write key = value" },
		{ "attempt to append to non-list option '%s'", "is not a list, use = and not +=" },
		{ "invalid octal number '%s'", "is not a byte, use \\0 to \\377" },
		{ "bad escape sequence '%s'", "is not an escape, use \\0 to \\377" },
		{ "unexpected token '%s'", "is out of place, write key = value" },
		{ "missing opening brace for section '%s'", "has no {, write section { ... }" },
		{ "missing title for section '%s'", "has no title, write it in quotes" },
		{ "missing parenthesis for function '%s'", "has no (, write include(\"file\")" },
	};
	FILE *to;

	if (strcmp(format, "no such option '%s'") == 0) {
		report_unknown(cfg, va_arg(ap, const char *));
		return;
	}
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(format, words[i][0]) == 0) {
			report(cfg->line, va_arg(ap, const char *), "%s", words[i][1]);
			return;
		}
	}
	to = report_begin(cfg->line, "syntax");
	vfprintf(to, format, ap);
	fprintf(to, ", write key = value or section { ... }\n");
}

/* Called once for each value, at its line. Goes on after a bad one, so that all are reported. */
static int on_value(cfg_t *cfg, cfg_opt_t *opt, const char *text, void *result)
{
	const struct key *key = key_find(cfg->name, opt->name);
	const char *wrong;
	uint64_t number;

	*(const char **)result = text;
	loading->values++;
	/* libconfuse takes "engine|batch" for a path to a key of another section. */
	if (key == NULL) {
		report_unknown(cfg, opt->name);
		return -1;
	}
	if (key->kind == KIND_ADDRESS)
		loading->address_line = cfg->line;
	wrong = value_parse(key, text, &number);
	if (wrong != NULL) {
		FILE *to = report_begin(cfg->line, key->name);

		fprintf(to, "\"%s\" %s, ", text, wrong);
		print_right(to, key);
		fputc('\n', to);
	}
	return 0;
}

/*
 * Called at the line where a titled section begins: it is the value reader of a key that no file
 * can name (for its '=') and that has a default to read, for want of a better hook.
 */
static int on_section(cfg_t *cfg, cfg_opt_t *opt, const char *text, void *result)
{
	(void)opt;
	*(const char **)result = text;
	loading->section_line = cfg->line;
	loading->values++;
	if (strcmp(cfg->name, "topic") == 0 && !name_pattern_valid(span_of(cfg->title)))
		report(cfg->line, "topic",
		       "\"%s\" is not a pattern, use levels like \"live.*.score\" or \"live.>\"",
		       cfg->title);
	if (strcmp(cfg->name, "listen") == 0 && *cfg->title == '\0')
		report(cfg->line, "listen", "an empty title, use a name like \"main\"");
	return 0;
}

/* Called where a listener's section ends. */
static int on_listen(cfg_t *cfg, cfg_opt_t *opt)
{
	unsigned last = cfg_opt_size(opt) - 1;
	cfg_t *listen = cfg_opt_getnsec(opt, last);
	cfg_opt_t *protocols = cfg_getopt(listen, "protocols");
	const char *text = cfg_getstr(listen, "address");
	struct address address, other;

	(void)cfg;
	if ((protocols->flags & CFGF_MODIFIED) != 0 && cfg_opt_size(protocols) == 0)
		report(loading->section_line, "protocols",
		       "none at all, use { \"line\", \"http\" }");
	if (text == NULL)
		report(loading->section_line, "address", "none at all, use one like %s",
		       default_address);
	if (text == NULL || address_parse(text, &address) != NULL)
		return 0;
	for (unsigned i = 0; i < last; i++) {
		cfg_t *before = cfg_opt_getnsec(opt, i);
		const char *taken = cfg_getstr(before, "address");

		if (taken == NULL || address_parse(taken, &other) != NULL)
			continue;
		if (address_covers(&address, &other) || address_covers(&other, &address))
			report(loading->address_line, "address",
			       "\"%s\" is taken by \"%s\" of listen \"%s\", use another port", text,
			       taken, before->title);
	}
	return 0;
}

/* How far a comment, a quoted text or else a byte goes; 0: its end is missing. */
static size_t piece_bytes(const char *p, bool *comment)
{
	bool block = strncmp(p, "/*", 2) == 0;
	size_t n = 1;

	*comment = block || *p == '#' || strncmp(p, "//", 2) == 0;
	if (block) {
		const char *end = strstr(p + 2, "*/");

		return end != NULL ? (size_t)(end - p) + 2 : 0;
	}
	if (*comment)
		return strcspn(p, "\n");
	if (*p != '"' && *p != '\'')
		return 1;
	for (; p[n] != *p; n++) {
		if (p[n] == '\\')
			n++;
		if (p[n] == '\0')
			return 0;
	}
	return n + 1;
}

enum call { CALL_NONE, CALL_OPEN, CALL_FILE, CALL_BAD };

/* Where the one piece of syntax with parentheses, include("file"), stands after a byte. */
static enum call call_next(enum call call, char c)
{
	if (isspace((unsigned char)c))
		return call;
	if (call == CALL_NONE)
		return c == '(' ? CALL_OPEN : CALL_NONE;
	if (c == ')')
		return CALL_NONE;
	return call == CALL_OPEN && (c == '"' || c == '\'') ? CALL_FILE : CALL_BAD;
}

/*
 * Blanks the comments and finds what is never closed. libconfuse counts lines wrongly behind a
 * comment, takes none inside a list, ends whatever is open at the end of a file in silence, and
 * leaks the arguments of a call that it cannot read.
 */
static bool text_prepare(char *text)
{
	int line = 1, open_line = 0, depth = 0;
	enum call call = CALL_NONE;
	bool comment;

	for (char *p = text; *p != '\0';) {
		size_t n = piece_bytes(p, &comment);

		if (n == 0) {
			report(line, comment ? "comment" : "text",
			       "begins here and never ends, close it with %s",
			       comment ? "*/" : "the same quote");
			return false;
		}
		call = comment ? call : call_next(call, *p);
		if (call == CALL_BAD || (call != CALL_NONE && p[n] == '\0')) {
			report(line, "(", "is not followed by one file, write include(\"file\")");
			return false;
		}
		if (*p == '{' && depth++ == 0)
			open_line = line;
		if (*p == '}' && depth > 0)
			depth--;
		for (; n > 0; n--, p++) {
			line += *p == '\n';
			if (comment && *p != '\n')
				*p = ' ';
		}
	}
	if (depth > 0)
		report(open_line, "{", "opens here and is never closed, close it with }");
	return depth == 0;
}

/* The whole file, NUL-terminated; the caller frees it. */
static int file_read(const char *path, char **text)
{
	FILE *file = fopen(path, "re");
	size_t size = 0;
	ssize_t n;
	int error = 0;

	*text = NULL;
	if (file == NULL)
		return -errno;
	n = getdelim(text, &size, '\0', file);
	if (n < 0 && !feof(file)) {
		error = -errno;
	} else if (n < 0) {
		free(*text);
		*text = strdup("");
		error = *text != NULL ? 0 : -ENOMEM;
	} else if ((*text)[n - 1] == '\0') {
		error = -EILSEQ; /* no text: it has a NUL */
	}
	fclose(file);
	return error;
}

static int text_parse(cfg_t *cfg, char *text)
{
	unsigned failures_before = loading->failures;
	FILE *stream;
	int error;

	if (!text_prepare(text))
		return -EINVAL;
	if (*text == '\0')
		return 0;
	stream = fmemopen(text, strlen(text), "r");
	if (stream == NULL)
		return -errno;
	error = cfg_parse_fp(cfg, stream) == CFG_SUCCESS ? 0 : -EINVAL;
	fclose(stream);
	/* Such as an empty key, of which libconfuse says nothing. */
	if (error != 0 && loading->failures == failures_before)
		report(cfg->line, "syntax", "nothing that can be read, write key = value");
	return error;
}

static int file_parse(cfg_t *cfg, const char *path)
{
	bool included = loading->file != path;
	const char *outer_file = loading->file;
	int outer_line = cfg->line;
	char *text;
	int error = file_read(path, &text);

	if (error != 0)
		report(outer_line, included ? "include" : "file",
		       "cannot read %s (%s), name a text file that can be read", path,
		       strerror(-error));
	if (error == 0) {
		loading->file = path;
		error = text_parse(cfg, text);
		loading->file = outer_file;
		cfg->line = outer_line;
	}
	free(text);
	return error;
}

/* Not cfg_include: that one looks in the working directory and leaks its file when parsing stops.
 */
static int on_include(cfg_t *cfg, cfg_opt_t *opt, int argc, const char **argv)
{
	const char *slash = strrchr(loading->file, '/');
	char *path;
	int dir_len, error;

	(void)opt;
	if (argc != 1 || loading->depth == INCLUDE_DEPTH_MAX) {
		report(cfg->line, "include", "%s",
		       argc != 1 ? "takes one file, write include(\"file\")"
				 : "more than 10 files deep, look for one that includes itself");
		return -EINVAL;
	}
	dir_len = slash == NULL || argv[0][0] == '/' ? 0 : (int)(slash - loading->file) + 1;
	if (asprintf(&path, "%.*s%s", dir_len, loading->file, argv[0]) < 0)
		return -ENOMEM;
	loading->depth++;
	error = file_parse(cfg, path);
	loading->depth--;
	free(path);
	return error;
}

/* The parser for the tables above; NULL: out of memory. */
static cfg_t *parser_new(void)
{
	static char on_section_default[] = "x";
	/* Of each section: its keys and the hook; in the first also the sections and include. */
	cfg_opt_t opts[SECTIONS][KEYS + SECTIONS + 2] = { 0 };
	size_t n[SECTIONS] = { 0 };
	cfg_t *cfg;

	for (size_t s = SECTIONS; s-- > 0;) {
		for (size_t i = 0; i < KEYS; i++) {
			bool list = keys[i].kind == KIND_WORDS || keys[i].kind == KIND_TEXTS;
			int flags = CFGF_NODEFAULT | (list ? CFGF_LIST : 0);

			if (key_in(&keys[i], sections[s].name))
				opts[s][n[s]++] =
					(cfg_opt_t)CFG_STR_CB(keys[i].name, NULL, flags, on_value);
		}
		if (sections[s].titled) {
			opts[s][n[s]] =
				(cfg_opt_t)CFG_STR_CB("title=", NULL, CFGF_NONE, on_section);
			opts[s][n[s]++].def.parsed = on_section_default;
		}
	}
	for (size_t s = 1; s < SECTIONS; s++) {
		int flags = CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES;

		opts[0][n[0]++] = (cfg_opt_t)CFG_SEC(sections[s].name, opts[s],
						     sections[s].titled ? flags : CFGF_NONE);
	}
	opts[0][n[0]++] = (cfg_opt_t)CFG_FUNC("include", on_include);

	cfg = cfg_init(opts[0], CFGF_NONE);
	if (cfg == NULL)
		return NULL;
	cfg_set_error_function(cfg, on_error);
	cfg_set_validate_func(cfg, "listen", on_listen);
	return cfg;
}

/* ---- The configuration ---- */

static void *section_base(struct config *config, const struct section *section)
{
	return (char *)config + section->offset;
}

static void listens_free(struct config *config)
{
	for (size_t i = 0; i < config->listens_n; i++) {
		free(config->listens[i].title);
		section_clear("listen", &config->listens[i]);
	}
	free(config->listens);
	config->listens = NULL;
	config->listens_n = 0;
}

/* Room for n listeners that have their defaults but no title or address yet. */
static int listens_new(struct config *config, size_t n)
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

static int listens_read(struct config *config, cfg_t *cfg)
{
	unsigned n = cfg_size(cfg, "listen");
	int error;

	if (n == 0)
		return 0;
	listens_free(config);
	error = listens_new(config, n);
	for (unsigned i = 0; i < n && error == 0; i++) {
		cfg_t *section = cfg_getnsec(cfg, "listen", i);

		config->listens[i].title = strdup(section->title);
		if (config->listens[i].title == NULL)
			return -ENOMEM;
		error = section_read(section, &config->listens[i]);
	}
	return error;
}

/*
 * Comes after the topics section, from which these inherit wherever it stands in the file. What
 * they inherit is copied as it is: none of it is text.
 */
static int topics_read(struct config *config, cfg_t *cfg)
{
	unsigned n = cfg_size(cfg, "topic");
	int error = 0;

	if (n == 0)
		return 0;
	config->topic = calloc(n, sizeof(*config->topic));
	if (config->topic == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < n && error == 0; i++) {
		cfg_t *section = cfg_getnsec(cfg, "topic", i);

		config->topic[i] = config->topics;
		config->topic[i].pattern = strdup(section->title);
		if (config->topic[i].pattern == NULL)
			return -ENOMEM;
		config->topic_n++;
		error = section_read(section, &config->topic[i]);
	}
	return error;
}

static int config_read(struct config **out, cfg_t *cfg)
{
	struct config *config = config_defaults();
	int error = 0;

	if (config == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < SECTIONS && error == 0; i++) {
		if (!sections[i].titled)
			error = section_read(i == 0 ? cfg : cfg_getsec(cfg, sections[i].name),
					     section_base(config, &sections[i]));
	}
	if (error == 0)
		error = listens_read(config, cfg);
	if (error == 0)
		error = topics_read(config, cfg);
	if (error != 0) {
		config_free(config);
		return error;
	}
	*out = config;
	return 0;
}

int config_load(const char *path, struct config **out, FILE *errors)
{
	struct load load = { .errors = errors, .file = path };
	cfg_t *cfg = parser_new();
	int error = -ENOMEM;

	*out = NULL;
	loading = &load;
	if (cfg != NULL)
		error = file_parse(cfg, path);
	if (error == 0 && load.values > 0 && cfg_size(cfg, "listen") == 0)
		report(0, "listen", "no listener, write listen \"main\" { address = \"%s\" }",
		       default_address);
	if (error == 0 && load.failures > 0)
		error = -EINVAL;
	if (error == 0)
		error = config_read(out, cfg);
	if (error == -ENOMEM)
		report(0, "file", "out of memory, free some");
	if (cfg != NULL)
		cfg_free(cfg);
	loading = NULL;
	return error;
}

struct config *config_defaults(void)
{
	struct config *config = calloc(1, sizeof(*config));
	int error;

	if (config == NULL)
		return NULL;
	error = listens_new(config, 1);
	for (size_t i = 0; i < SECTIONS && error == 0; i++) {
		if (!sections[i].titled)
			error = section_defaults(sections[i].name,
						 section_base(config, &sections[i]));
	}
	if (error == 0) {
		config->listens[0].title = strdup("main");
		config->listens[0].address = strdup(default_address);
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
	listens_free(config);
	for (size_t i = 0; i < config->topic_n; i++) {
		free(config->topic[i].pattern);
		section_clear("topic", &config->topic[i]);
	}
	free(config->topic);
	for (size_t i = 0; i < SECTIONS; i++) {
		if (!sections[i].titled)
			section_clear(sections[i].name, section_base(config, &sections[i]));
	}
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
		for (size_t k = 0; k < KEYS; k++) {
			if (key_in(&keys[k], "listen") &&
			    !value_same(&keys[k], &a->listens[i], &b->listens[i]))
				return false;
		}
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
	for (size_t s = 0; s < SECTIONS; s++) {
		size_t offset = sections[s].offset;

		for (size_t i = 0; i < KEYS && !sections[s].titled; i++) {
			if (key_in(&keys[i], sections[s].name) && keys[i].restart &&
			    !value_same(&keys[i], (const char *)old_config + offset,
					(const char *)new_config + offset))
				list_add(buf, size, s == 0 ? "" : sections[s].name, keys[i].name);
		}
	}
	if (!listens_same(old_config, new_config))
		list_add(buf, size, "listen", "");
	return buf;
}
