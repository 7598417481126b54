#include "base/config.h"

#include <assert.h>
#include <confuse.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/address.h"
#include "base/config_keys.h"
#include "base/name.h"
#include "base/spare.h"

/*
 * libconfuse hands its callbacks no argument of the caller's, and its lexer is global: one file is
 * read at a time, and this is what there is to know of it.
 */
struct load {
	FILE *errors;
	unsigned failures;
	const char *file; /* the one being read: the first, or one that it includes */
	struct stat stat; /* its */
	unsigned depth;   /* of includes */
	int section_line; /* where the titled section being read begins */
	int listen_line;  /* and the listener, of which there may be more behind its tls section */
	int address_line;
	/* Where what is looked at later stands. */
	struct place {
		const cfg_t *section;
		const char *key; /* NULL: the section itself */
		char *file;
		unsigned line;
	} * places;
	size_t places_n;
};

static struct load *loading;

enum { INCLUDE_DEPTH_MAX = 10, USER_NAME_MAX = 128 };

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

/* The section of the table that this one is: two may be called the same in different ones, and then
 * differ by their keys. */
static const char *section_name(const cfg_t *cfg)
{
	for (const struct config_section *s = config_sections; s->name != NULL; s++) {
		const struct key *first = config_keys;

		if (strcmp(config_section_word(s), cfg->name) != 0)
			continue;
		while (!config_key_in(first, s->name))
			first++;
		for (const cfg_opt_t *opt = cfg->opts; opt->name != NULL; opt++)
			if (strcmp(opt->name, first->name) == 0)
				return s->name;
	}
	return cfg->name;
}

/* Of the sections that name files. Without memory for it a later message lacks the line. */
static void place_note(const cfg_t *section, const char *key)
{
	struct place *places;

	if (strcmp(section->name, "tls") != 0 && strcmp(section->name, "certificate") != 0)
		return;
	places = realloc(loading->places, (loading->places_n + 1) * sizeof(*places));
	if (places == NULL)
		return;
	loading->places = places;
	places[loading->places_n++] =
		(struct place){ section, key, strdup(loading->file), (unsigned)section->line };
}

static void places_take(const cfg_t *section, struct config_where *where)
{
	for (size_t i = 0; i < loading->places_n; i++) {
		struct place *p = &loading->places[i];
		size_t index;

		if (p->section != section)
			continue;
		/* One without a title begins unseen: its first key is as near as can be. */
		if (p->key == NULL || where->file == NULL) {
			free(where->file);
			where->file = p->file;
			where->line = p->line;
			p->file = NULL;
		}
		if (p->key == NULL)
			continue;
		index = config_key_index(section_name(section), p->key);
		if (index < CONFIG_WHERE_KEYS)
			where->lines[index] = p->line;
	}
}

static void places_free(struct load *load)
{
	for (size_t i = 0; i < load->places_n; i++)
		free(load->places[i].file);
	free(load->places);
}

static const struct key *key_find(const char *section, const char *name)
{
	for (const struct key *k = config_keys; k->name != NULL; k++)
		if (config_key_in(k, section) && strcmp(k->name, name) == 0)
			return k;
	return NULL;
}

/* Called once for each value, at its line. Goes on after a bad one, so that all are reported. */
static int on_value(cfg_t *cfg, cfg_opt_t *opt, const char *text, void *result)
{
	const struct key *key = key_find(section_name(cfg), opt->name);
	const char *wrong;
	uint64_t number;

	*(const char **)result = text;
	/* libconfuse takes "engine|batch" for a path to a key of another section. */
	if (key == NULL) {
		report_unknown(cfg, opt->name);
		return -1;
	}
	if (key->kind == KIND_ADDRESS)
		loading->address_line = cfg->line;
	place_note(cfg, key->name);
	wrong = key_parse(key, text, &number);
	if (wrong != NULL) {
		FILE *to = report_begin(cfg->line, key->name);

		fprintf(to, "\"%s\" %s, ", key->secret ? "..." : text, wrong);
		key_print_right(to, key);
		fputc('\n', to);
	}
	return 0;
}

/* An included file with users is for whoever runs the broker, and nobody else. */
static void check_file_private(int line)
{
	const struct stat *st = &loading->stat;

	if (loading->depth == 0)
		return;
	if ((st->st_mode & 0137) != 0)
		report(line, "user",
		       "stands in an included file of mode %04o, use 0600 or 0640 (chmod 0640 %s)",
		       (unsigned)st->st_mode & 07777, loading->file);
	if (st->st_uid != 0 && st->st_uid != geteuid())
		report(line, "user",
		       "stands in an included file of user %u, use one of root or of the broker's "
		       "user",
		       (unsigned)st->st_uid);
}

/* A name ends up in logs, and where %u stands in patterns. */
static void check_user(const cfg_t *user)
{
	struct span name = span_of(user->title);
	bool plain = name.len > 0 && name.len <= USER_NAME_MAX && utf8_valid(name);

	for (size_t i = 0; plain && i < name.len; i++)
		plain = (unsigned char)name.data[i] >= ' ' && name.data[i] != 0x7f &&
			name.data[i] != ':';
	if (!plain)
		report(user->line, "user",
		       "\"%s\" is not a name, use 1 to %d bytes of UTF-8 without control "
		       "characters and colons",
		       user->title, USER_NAME_MAX);
	check_file_private(user->line);
}

/* %u stands for one level. */
static void check_templates(cfg_t *user)
{
	static const char *const keys[] = { "publish", "subscribe", "deny_publish",
					    "deny_subscribe" };
	struct span name = span_of(user->title);
	bool level = name_valid(name) && memchr(name.data, '.', name.len) == NULL;

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		for (unsigned j = 0; !level && j < cfg_size(user, keys[i]); j++)
			if (strstr(cfg_getnstr(user, keys[i], j), "%u") != NULL)
				report(loading->section_line, keys[i],
				       "%%u stands for a user's name, and \"%s\" is not one level "
				       "of "
				       "a topic, use a name without dots, * and >",
				       user->title);
}

/* Called where a user's section ends. */
static int on_user(cfg_t *cfg, cfg_opt_t *opt)
{
	(void)cfg;
	check_templates(cfg_opt_getnsec(opt, cfg_opt_size(opt) - 1));
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
	if (strcmp(cfg->name, "listen") == 0)
		loading->listen_line = cfg->line;
	place_note(cfg, NULL);
	if (strcmp(cfg->name, "topic") == 0 && !name_pattern_valid(span_of(cfg->title)))
		report(cfg->line, "topic",
		       "\"%s\" is not a pattern, use levels like \"live.*.score\" or \"live.>\"",
		       cfg->title);
	if (strcmp(cfg->name, "listen") == 0 && *cfg->title == '\0')
		report(cfg->line, "listen", "an empty title, use a name like \"main\"");
	if (strcmp(cfg->name, "user") == 0)
		check_user(cfg);
	return 0;
}

/* A key's number, which may be its default. 0: it is none, which has been reported. */
static uint64_t number_of(cfg_t *section, const char *name)
{
	const struct key *key = key_find(section_name(section), name);
	const char *text = cfg_getstr(section, name);
	uint64_t number = 0;

	return key_parse(key, text != NULL ? text : key->standard, &number) == NULL ? number : 0;
}

static void check_readable(cfg_t *section, const char *name)
{
	const char *path = cfg_getstr(section, name);

	if (path != NULL && *path != '\0' && access(path, R_OK) != 0)
		report(loading->section_line, name,
		       "cannot read %s (%s), name a file that can be read", path, strerror(errno));
}

static bool is_set(cfg_t *section, const char *name)
{
	const char *text = cfg_getstr(section, name);

	return text != NULL && *text != '\0';
}

/* What is in the files is for the keyring to say. */
static void check_pair(cfg_t *tls)
{
	if (is_set(tls, "certificate") && !is_set(tls, "key"))
		report(loading->section_line, "key",
		       "none at all, name the file of the certificate's key in PEM");
	if (is_set(tls, "key") && !is_set(tls, "certificate"))
		report(loading->section_line, "certificate",
		       "none at all, name the file of the key's certificate in PEM");
}

/* Called where an upstream's section ends. */
static int on_upstream(cfg_t *cfg, cfg_opt_t *opt)
{
	unsigned last = cfg_opt_size(opt) - 1;
	cfg_t *upstream = cfg_opt_getnsec(opt, last);
	const char *log = cfg_getstr(upstream, "log"), *stream = cfg_getstr(upstream, "stream");
	const char *deliver = cfg_getstr(upstream, "deliver_prefix");

	(void)cfg;
	if (last > 0)
		report(loading->section_line, "upstream",
		       "a second one, use one cluster for all shared topics");
	if (cfg_size(upstream, "servers") == 0)
		report(loading->section_line, "servers",
		       "none at all, use one like \"nats://10.0.0.1:4222\"");
	if (cfg_size(upstream, "topics") == 0)
		report(loading->section_line, "topics",
		       "none at all, use patterns like \"live.>\" of the topics that are shared");
	if (log != NULL && strcmp(log, "jetstream") == 0 && (stream == NULL || *stream == 0))
		report(loading->section_line, "stream",
		       "none at all, use the name of the stream that keeps these topics");
	if (log != NULL && strcmp(log, "jetstream") == 0 && deliver != NULL && *deliver == 0)
		report(loading->section_line, "deliver_prefix",
		       "none at all, use levels that end with a dot, like \"fan.\"");
	check_readable(upstream, "password_file");
	check_readable(upstream, "token_file");
	check_pair(cfg_getsec(upstream, "tls"));
	if (number_of(upstream, "reconnect_ms_min") > number_of(upstream, "reconnect_ms_max"))
		report(loading->section_line, "reconnect_ms_max",
		       "is less than reconnect_ms_min, use as much or more");
	return 0;
}

/* What only a unix socket's file has. */
static void check_no_file(cfg_t *listen)
{
	static const char *const keys[] = { "mode", "owner", "group" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const char *text = cfg_getstr(listen, keys[i]);

		if (text != NULL && *text != '\0')
			report(loading->section_line, keys[i],
			       "is of a unix socket, leave it out or use unix:/path");
	}
}

/* False: there is none, or none that can be read. */
static bool listen_address(cfg_t *listen, struct address *out)
{
	const char *text = cfg_getstr(listen, "address"), *v6only = cfg_getstr(listen, "v6only");

	if (text == NULL || address_parse(text, out) != NULL)
		return false;
	out->v6only = v6only != NULL && strcmp(v6only, "true") == 0;
	return true;
}

static bool trusts_nobody(cfg_t *listen)
{
	const char *proxied = cfg_getstr(listen, "proxy_protocol");

	return proxied != NULL && strcmp(proxied, "true") == 0 &&
	       cfg_size(listen, "proxy_from") == 0;
}

/* Whoever comes over a network would read and write in clear. */
static void check_plain(cfg_t *listen, const struct address *address)
{
	const char *allowed = cfg_getstr(listen, "allow_plain");

	if (cfg_size(listen, "tls") > 1)
		report(loading->listen_line, "tls", "more than one, use one with all certificates");
	if (address->path == NULL && !address_local(address) && cfg_size(listen, "tls") == 0 &&
	    (allowed == NULL || strcmp(allowed, "true") != 0))
		report(loading->address_line, "address",
		       "\"%s\" takes clients from other hosts in clear, use a tls section, or "
		       "allow_plain = true if that is meant",
		       cfg_getstr(listen, "address"));
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
	loading->section_line = loading->listen_line;
	if ((protocols->flags & CFGF_MODIFIED) != 0 && cfg_opt_size(protocols) == 0)
		report(loading->section_line, "protocols",
		       "none at all, use { \"line\", \"http\" }");
	if (text == NULL)
		report(loading->section_line, "address", "none at all, use one like %s",
		       ADDRESS_STANDARD);
	if (!listen_address(listen, &address))
		return 0;
	if (address.path == NULL)
		check_no_file(listen);
	if (address.path == NULL && trusts_nobody(listen))
		report(loading->section_line, "proxy_from",
		       "none at all, use the addresses of your proxies");
	check_plain(listen, &address);
	for (unsigned i = 0; i < last; i++) {
		cfg_t *before = cfg_opt_getnsec(opt, i);

		if (!listen_address(before, &other))
			continue;
		if (address_covers(&address, &other) || address_covers(&other, &address))
			report(loading->address_line, "address",
			       "\"%s\" is taken by \"%s\" of listen \"%s\", use another port", text,
			       cfg_getstr(before, "address"), before->title);
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
static int file_read(const char *path, char **text, struct stat *st)
{
	FILE *file = fopen(path, "re");
	size_t size = 0;
	ssize_t n;
	int error = 0;

	*text = NULL;
	if (file == NULL)
		return -errno;
	n = getdelim(text, &size, '\0', file);
	if ((n < 0 && !feof(file)) || fstat(fileno(file), st) != 0) {
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
	struct stat outer_stat = loading->stat, st = { 0 };
	int outer_line = cfg->line;
	char *text;
	int error = file_read(path, &text, &st);

	if (error != 0)
		report(outer_line, included ? "include" : "file",
		       "cannot read %s (%s), name a text file that can be read", path,
		       strerror(-error));
	if (error == 0) {
		loading->file = path;
		loading->stat = st;
		error = text_parse(cfg, text);
		loading->file = outer_file;
		loading->stat = outer_stat;
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

/* The parser for the tables of config_keys.h; NULL: out of memory. */
static cfg_t *parser_new(void)
{
	enum { SECTIONS_MAX = 16, OPTIONS_MAX = 64 };
	static char on_section_default[] = "x";
	/* Of each section: its keys and the hook; in the first also the sections and include. */
	cfg_opt_t opts[SECTIONS_MAX][OPTIONS_MAX + 1] = { 0 };
	size_t n[SECTIONS_MAX] = { 0 };
	cfg_t *cfg;

	for (size_t s = 0; config_sections[s].name != NULL; s++) {
		assert(s < SECTIONS_MAX);
		for (const struct key *k = config_keys; k->name != NULL; k++) {
			bool list = k->kind == KIND_WORDS || k->kind == KIND_TEXTS ||
				    k->kind == KIND_NETWORKS;
			int flags = CFGF_NODEFAULT | (list ? CFGF_LIST : 0);

			if (!config_key_in(k, config_sections[s].name))
				continue;
			assert(n[s] < OPTIONS_MAX - SECTIONS_MAX);
			opts[s][n[s]++] = (cfg_opt_t)CFG_STR_CB(k->name, NULL, flags, on_value);
		}
		if (config_sections[s].titled || config_section_optional(&config_sections[s])) {
			opts[s][n[s]] =
				(cfg_opt_t)CFG_STR_CB("title=", NULL, CFGF_NONE, on_section);
			opts[s][n[s]++].def.parsed = on_section_default;
		}
	}
	for (size_t s = 1; config_sections[s].name != NULL; s++) {
		int titled = CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES;
		int untitled =
			config_section_optional(&config_sections[s]) ? CFGF_MULTI : CFGF_NONE;
		size_t in = 0;

		while (strcmp(config_sections[in].name, config_sections[s].in) != 0)
			in++;
		assert(n[in] < OPTIONS_MAX);
		opts[in][n[in]++] =
			(cfg_opt_t)CFG_SEC(config_section_word(&config_sections[s]), opts[s],
					   config_sections[s].titled ? titled : untitled);
	}
	opts[0][n[0]++] = (cfg_opt_t)CFG_FUNC("include", on_include);

	cfg = cfg_init(opts[0], CFGF_NONE);
	if (cfg == NULL)
		return NULL;
	cfg_set_error_function(cfg, on_error);
	cfg_set_validate_func(cfg, "listen", on_listen);
	cfg_set_validate_func(cfg, "user", on_user);
	cfg_set_validate_func(cfg, "upstream", on_upstream);
	return cfg;
}

/* ---- What the file has set ---- */

/* Takes over what the file has set, in the sections within this one, too; everything else stays as
 * it is. */
static int section_read(cfg_t *cfg, void *base)
{
	const char *name = section_name(cfg);
	int error = 0;

	for (const struct key *k = config_keys; k->name != NULL; k++) {
		cfg_opt_t *opt = config_key_in(k, name) ? cfg_getopt(cfg, k->name) : NULL;

		if (opt == NULL || (opt->flags & CFGF_MODIFIED) == 0)
			continue;
		key_clear(k, base);
		for (unsigned j = 0; j < cfg_opt_size(opt) && error == 0; j++)
			error = key_store(k, base, cfg_opt_getnstr(opt, j));
	}
	for (const struct config_section *s = config_sections; s->name != NULL && error == 0; s++)
		if (!s->titled && !config_section_optional(s) && s->in != NULL &&
		    strcmp(s->in, name) == 0)
			error = section_read(cfg_getsec(cfg, config_section_word(s)),
					     (char *)base + s->offset);
	return error;
}

static int tls_read(struct config_tls *tls, cfg_t *cfg)
{
	unsigned n = cfg_size(cfg, "certificate");
	int error = section_read(cfg, tls);

	tls->present = true;
	places_take(cfg, &tls->where);
	if (error == 0 && n > 0)
		error = config_certificates_new(tls, n);
	for (unsigned i = 0; i < n && error == 0; i++) {
		cfg_t *section = cfg_getnsec(cfg, "certificate", i);

		places_take(section, &tls->certificates[i].where);
		tls->certificates[i].title = strdup(section->title);
		if (tls->certificates[i].title == NULL)
			return -ENOMEM;
		error = section_read(section, &tls->certificates[i]);
	}
	return error;
}

static int listens_read(struct config *config, cfg_t *cfg)
{
	unsigned n = cfg_size(cfg, "listen");
	int error;

	if (n == 0)
		return 0;
	config_listens_free(config);
	error = config_listens_new(config, n);
	for (unsigned i = 0; i < n && error == 0; i++) {
		cfg_t *section = cfg_getnsec(cfg, "listen", i);

		config->listens[i].title = strdup(section->title);
		if (config->listens[i].title == NULL)
			return -ENOMEM;
		error = section_read(section, &config->listens[i]);
		if (error == 0 && cfg_size(section, "tls") > 0)
			error = tls_read(&config->listens[i].tls, cfg_getsec(section, "tls"));
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
		config->topic[i].section = ++config->topic_n;
		error = section_read(section, &config->topic[i]);
	}
	return error;
}

static int users_read(struct config *config, cfg_t *cfg)
{
	unsigned n = cfg_size(cfg, "user");
	int error = n > 0 ? config_users_new(config, n) : 0;

	for (unsigned i = 0; i < n && error == 0; i++) {
		cfg_t *section = cfg_getnsec(cfg, "user", i);

		config->users[i].name = strdup(section->title);
		if (config->users[i].name == NULL)
			return -ENOMEM;
		error = section_read(section, &config->users[i]);
	}
	return error;
}

static int upstreams_read(struct config *config, cfg_t *cfg)
{
	unsigned n = cfg_size(cfg, "upstream");
	int error = n > 0 ? config_upstreams_new(config, n) : 0;

	for (unsigned i = 0; i < n && error == 0; i++) {
		cfg_t *section = cfg_getnsec(cfg, "upstream", i);

		config->upstreams[i].title = strdup(section->title);
		if (config->upstreams[i].title == NULL)
			return -ENOMEM;
		error = section_read(section, &config->upstreams[i]);
		places_take(cfg_getsec(section, "tls"), &config->upstreams[i].tls.where);
	}
	return error;
}

/* As topic_passes has it, for patterns. */
static bool leaves_nothing(const struct config *config, const char *pattern)
{
	return *pattern == '$' || strncmp(pattern, "_INBOX.", 7) == 0 ||
	       config_topic(config, span_of(pattern))->passing;
}

/* Those that no log keeps come last, each part in its order. */
static int upstream_topics_part(const struct config *config, struct config_upstream *u)
{
	char **all = calloc(u->topics_n + 1, sizeof(*all));

	if (all == NULL)
		return -ENOMEM;
	for (int passing = 0, n = 0; passing < 2; passing++) {
		for (size_t i = 0; i < u->topics_n; i++)
			if (leaves_nothing(config, u->topics[i]) == (passing == 1))
				all[n++] = u->topics[i];
		if (passing == 0)
			u->topics_kept_n = (size_t)n;
	}
	memcpy(u->topics, all, u->topics_n * sizeof(*all));
	free(all);
	return 0;
}

static int config_read(struct config **out, cfg_t *cfg)
{
	struct config *config = config_defaults();
	int error;

	if (config == NULL)
		return -ENOMEM;
	error = section_read(cfg, config);
	if (error == 0)
		error = listens_read(config, cfg);
	if (error == 0)
		error = users_read(config, cfg);
	if (error == 0)
		error = upstreams_read(config, cfg);
	if (error == 0)
		error = topics_read(config, cfg);
	for (size_t i = 0; i < config->upstreams_n && error == 0; i++)
		error = upstream_topics_part(config, &config->upstreams[i]);
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
	void *spare = spare_memory();
	cfg_t *cfg = spare != NULL ? parser_new() : NULL;
	int error = -ENOMEM;

	*out = NULL;
	loading = &load;
	if (cfg != NULL)
		error = file_parse(cfg, path);
	if (error == 0 && load.failures > 0)
		error = -EINVAL;
	if (error == 0)
		error = config_read(out, cfg);
	if (error == -ENOMEM)
		report(0, "file", "out of memory, free some");
	if (cfg != NULL)
		cfg_free(cfg);
	places_free(&load);
	free(spare);
	loading = NULL;
	return error;
}
