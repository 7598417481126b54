#include "fuzz.h"
#include "protocol/resp.h"

#include <ctype.h>
#include <errno.h>
#include <strings.h>

/*
 * The decoder of RESP's commands against a slow reference that reads all bytes at once, and against
 * itself with the bytes split in another way. The first byte of an input sets the limits, the
 * second how it is split. What is behind the first word of an array is read as AUTH and HELLO have
 * it, too, and by a reference that does as Redis does.
 */

enum { SAID_WORDS_MAX = 12 }; /* that are read so */

/* ---- what comes out, as text ---- */

static void add_error(struct text *out, const char *words)
{
	text_add(out, "-ERR Protocol error: ", 21);
	text_add(out, words, strlen(words));
	text_add(out, "\r\n", 2);
}

static void add_word(struct text *out, const char *word, size_t len)
{
	char head[32];

	text_add(out, head, (size_t)snprintf(head, sizeof(head), "%zu:", len));
	text_add(out, word, len);
}

/* ---- the broker's ---- */

struct client {
	struct resp_decoder decoder;
	struct resp_limits limits;
	struct text *out;
};

static void add_words(struct text *out, struct span rest, uint32_t words)
{
	for (; words > 0; words--) {
		struct span word = resp_next(&rest);

		add_word(out, word.data, word.len);
	}
	check(rest.len == 0, "there are more words than it says");
	text_add(out, "\n", 1);
}

static void add_login(struct text *out, const struct resp_login *l)
{
	add_word(out, l->user.data, l->user.len);
	add_word(out, l->secret.data, l->secret.len);
}

/* Behind its first word. */
static void add_said(struct text *out, struct span rest, uint32_t words)
{
	char text[RESP_WRONG_BYTES_MAX], head[32];
	struct resp_login login;
	struct resp_hello h;
	const char *wrong;

	(void)resp_next(&rest);
	if (--words > SAID_WORDS_MAX)
		return;
	wrong = resp_hello(rest, words, &h, text);
	if (wrong != NULL) {
		text_add(out, wrong, strlen(wrong));
	} else {
		text_add(out, head, (size_t)snprintf(head, sizeof(head), "hello %u", h.version));
		if (h.login.given)
			add_login(out, &h.login);
		if (h.names)
			add_word(out, h.name.data, h.name.len);
	}
	for (unsigned needed = 0; words > 0 && needed < 2; needed++) {
		wrong = resp_auth(rest, words, needed, &login);
		if (wrong != NULL)
			text_add(out, wrong, strlen(wrong));
		else
			add_login(out, &login);
	}
}

/* A line's words, in memory of just the promised size. */
static bool add_line(struct text *out, struct span line)
{
	char *array = malloc(resp_array_of_line_max(line)), *own;
	size_t len = 0;
	int words;

	check(array != NULL, "out of memory");
	words = resp_array_of_line(line, array, &len);
	if (words >= 0) {
		own = exact_copy(array, len);
		add_words(out, (struct span){ own, len }, (uint32_t)words);
		free(own);
	} else {
		add_error(out, "unbalanced quotes in request");
	}
	free(array);
	return words >= 0;
}

static enum taken take(void *context, struct span in, size_t *used)
{
	struct client *c = context;
	char error[RESP_ERROR_BYTES_MAX];
	struct resp_event e;

	resp_decode(&c->decoder, in, &c->limits, &e, used);
	switch (e.kind) {
	case RESP_MORE:
		check(*used == 0, "it takes bytes and wants more");
		if (e.payload_at == 0)
			return TAKE_MORE;
		check(e.payload_at <= in.len && in.len - e.payload_at < e.payload_bytes + 2,
		      "a payload is there that it waits for");
		check(e.rest.data >= in.data && e.rest.data + e.rest.len <= in.data + e.payload_at,
		      "words are not where they are said to be");
		for (uint32_t i = 0; i < e.words; i++)
			(void)resp_next(&e.rest);
		return TAKE_MORE;
	case RESP_COMMAND:
		add_words(c->out, e.rest, e.words);
		add_said(c->out, e.rest, e.words);
		break;
	case RESP_LINE:
		if (!add_line(c->out, e.rest))
			return TAKE_NO_MORE;
		break;
	case RESP_NOTHING:
		break;
	case RESP_ERROR:
	default:
		text_add(c->out, error, resp_put_error(error, &e));
		return TAKE_NO_MORE;
	}
	check(*used > 0, "it takes nothing");
	return TAKEN;
}

static struct text decode(struct span in, const struct resp_limits *limits, unsigned step)
{
	struct text out = { 0 };
	struct client c = { .limits = *limits, .out = &out };

	feed(in, step, take, &c);
	return out;
}

/* ---- the reference ---- */

/* -1: no number; -2: a negative one. */
static long long number(const char *text, size_t len)
{
	char copy[32], again[32];
	long long n;

	if (len == 0 || len > 18u + (*text == '-'))
		return -1;
	memcpy(copy, text, len);
	copy[len] = 0;
	n = strtoll(copy, NULL, 10);
	snprintf(again, sizeof(again), "%lld", n);
	if (strlen(copy) != len || strcmp(copy, again) != 0)
		return -1;
	return n < 0 ? -2 : n;
}

/* Where the line from `at` ends in CR: SIZE_MAX: not yet; SIZE_MAX - 1: too far away. */
static size_t line_end(struct span in, size_t at)
{
	for (size_t i = at; i < at + RESP_LINE_BYTES_MAX; i++) {
		if (i + 1 >= in.len)
			return i > at + RESP_LINE_BYTES_MAX ? SIZE_MAX - 1 : SIZE_MAX;
		if (in.data[i] == '\r')
			return i;
	}
	return in.len - at > RESP_LINE_BYTES_MAX ? SIZE_MAX - 1 : SIZE_MAX;
}

/* A word as Redis looks at it, to be freed. */
static char *string(struct span word)
{
	char *copy = malloc(word.len + 1);

	check(copy != NULL, "out of memory");
	memcpy(copy, word.data, word.len);
	copy[word.len] = 0;
	return copy;
}

/* string2ll: it is what the number is written as. */
static bool integer(struct span word, long long *n)
{
	char *text = string(word), again[32];
	bool is;

	errno = 0;
	*n = strtoll(text, NULL, 10);
	snprintf(again, sizeof(again), "%lld", *n);
	is = errno == 0 && strlen(text) == word.len && strcmp(text, again) == 0;
	free(text);
	return is;
}

static bool printable(struct span name)
{
	for (size_t i = 0; i < name.len; i++)
		if ((unsigned char)name.data[i] <= 32 || (unsigned char)name.data[i] >= 127)
			return false;
	return name.len <= 255;
}

/* helloCommand, argv[0] being HELLO: what it has been told, or tells. */
static void hello(struct span *argv, int argc, struct text *out)
{
	struct span user = { NULL, 0 }, secret = { NULL, 0 }, name = { NULL, 0 };
	long long version = 0;
	char line[200];

	if (argc >= 2 && !integer(argv[1], &version)) {
		text_add(out, "-ERR Protocol version is not an integer or out of range", 55);
		return;
	}
	if (argc >= 2 && (version < 2 || version > 3)) {
		text_add(out, "-NOPROTO unsupported protocol version", 37);
		return;
	}
	for (int j = 2; j < argc; j++) {
		int more = argc - 1 - j;
		char *option = string(argv[j]);
		bool known = true;

		if (strcasecmp(option, "AUTH") == 0 && more >= 2) {
			user = argv[j + 1];
			secret = argv[j + 2];
			j += 2;
		} else if (strcasecmp(option, "SETNAME") == 0 && more > 0) {
			name = argv[++j];
			known = printable(name);
			snprintf(line, sizeof(line),
				 "-ERR Client names cannot contain spaces, newlines or special "
				 "characters.");
		} else {
			known = false;
			snprintf(line, sizeof(line), "-ERR Syntax error in HELLO option '%.128s'",
				 option);
		}
		free(option);
		if (known)
			continue;
		text_add(out, line, strlen(line));
		return;
	}
	text_add(out, line, (size_t)snprintf(line, sizeof(line), "hello %lld", version));
	if (user.data != NULL) {
		add_word(out, user.data, user.len);
		add_word(out, secret.data, secret.len);
	}
	if (name.data != NULL)
		add_word(out, name.data, name.len);
}

/* authCommand, without and with a password for the default user. */
static void auth(struct span *argv, int argc, struct text *out)
{
	for (int nopass = 1; nopass >= 0; nopass--) {
		if (argc > 3) {
			text_add(out, "-ERR syntax error", 17);
		} else if (argc == 2 && nopass) {
			static const char text[] =
				"-ERR AUTH <password> called without any password configured for "
				"the default user. Are you sure your configuration is correct?";

			text_add(out, text, sizeof(text) - 1);
		} else if (argc == 2) {
			add_word(out, "default", 7);
			add_word(out, argv[1].data, argv[1].len);
		} else {
			add_word(out, argv[1].data, argv[1].len);
			add_word(out, argv[2].data, argv[2].len);
		}
	}
}

/* Bytes of the array at the start; 0: not all of it is there, or it is wrong (*over). */
static size_t array(struct span in, const struct resp_limits *limits, struct text *out, bool *over)
{
	struct text words = { 0 };
	struct span argv[SAID_WORDS_MAX + 2];
	int argc = 0;
	size_t end = line_end(in, 0), at, total = 0;
	long long n;

	*over = true;
	if (end == SIZE_MAX)
		return 0;
	n = end == SIZE_MAX - 1 ? -1 : number(in.data + 1, end - 1);
	if (end == SIZE_MAX - 1)
		add_error(out, "too big mbulk count string");
	else if (in.data[end + 1] != '\n' || n == -1 || n > RESP_WORDS_MAX)
		add_error(out, "invalid multibulk length");
	else if (limits->unknown && n > 10)
		add_error(out, "unauthenticated multibulk length");
	else
		*over = false;
	if (*over)
		return 0;
	at = end + 2;
	for (; n > 0; n--) {
		long long len;

		*over = true;
		end = line_end(in, at);
		if (end == SIZE_MAX) {
			free(words.data);
			return 0;
		}
		len = end == SIZE_MAX - 1 || end == at ? -1
						       : number(in.data + at + 1, end - at - 1);
		if (end == SIZE_MAX - 1) {
			add_error(out, "too big bulk count string");
		} else if (in.data[at] != '$') {
			char text[] = "expected '$', got 'x'";

			text[19] = in.data[at] == '\r' || in.data[at] == '\n' ? ' ' : in.data[at];
			text_add(out, "-ERR Protocol error: ", 21);
			text_add(out, text, sizeof(text) - 1);
			text_add(out, "\r\n", 2);
		} else if (in.data[end + 1] != '\n' || len < 0 ||
			   len > (long long)limits->word_bytes ||
			   total + (size_t)len > limits->word_bytes + 65536) {
			add_error(out, "invalid bulk length");
		} else if (limits->unknown && len > 16384) {
			add_error(out, "unauthenticated bulk length");
		} else if (in.len - (end + 2) < (size_t)len + 2) {
			free(words.data);
			return 0;
		} else if (memcmp(in.data + end + 2 + len, "\r\n", 2) != 0) {
			add_error(out, "invalid bulk length");
		} else {
			*over = false;
			add_word(&words, in.data + end + 2, (size_t)len);
			if (argc < SAID_WORDS_MAX + 2)
				argv[argc++] = (struct span){ in.data + end + 2, (size_t)len };
			at = end + 2 + (size_t)len + 2;
			total += (size_t)len;
		}
		if (*over) {
			free(words.data);
			return 0;
		}
	}
	if (words.len > 0) {
		text_add(out, words.data, words.len);
		text_add(out, "\n", 1);
	}
	if (argc > 0 && argc < SAID_WORDS_MAX + 2) {
		hello(argv, argc, out);
		if (argc > 1)
			auth(argv, argc, out);
	}
	free(words.data);
	return at;
}

static bool space(char c)
{
	return c == ' ' || (c >= 9 && c <= 13) || c == 0;
}

/* The words of a line, a state for each kind of place in it. */
static bool line_words(struct span line, struct text *out)
{
	enum { BETWEEN, PLAIN, DOUBLE, SINGLE, CLOSED } state = BETWEEN;
	struct text word = { 0 }, all = { 0 };

	for (size_t i = 0; i <= line.len; i++) {
		bool last = i == line.len;
		char c = last ? ' ' : line.data[i];

		if (last && (state == DOUBLE || state == SINGLE))
			break;
		if (state == BETWEEN && !space(c))
			state = PLAIN;
		if ((state == PLAIN || state == CLOSED) && space(c)) {
			add_word(&all, word.data, word.len);
			word.len = 0;
			state = BETWEEN;
		} else if (state == CLOSED) {
			state = DOUBLE;
			break;
		} else if (state == PLAIN && (c == '"' || c == '\'')) {
			state = c == '"' ? DOUBLE : SINGLE;
		} else if (state == PLAIN) {
			text_add(&word, &c, 1);
		} else if ((state == DOUBLE && c == '"') || (state == SINGLE && c == '\'')) {
			state = CLOSED;
		} else if (state == DOUBLE && c == '\\' && i + 1 < line.len) {
			unsigned value;
			char hex[3] = { 0 };

			c = line.data[++i];
			if (c == 'x' && i + 2 < line.len) {
				memcpy(hex, line.data + i + 1, 2);
				if (strspn(hex, "0123456789abcdefABCDEF") == 2) {
					value = (unsigned)strtoul(hex, NULL, 16);
					c = (char)value;
					i += 2;
					text_add(&word, &c, 1);
					continue;
				}
			}
			c = c == 'n'   ? '\n'
			    : c == 'r' ? '\r'
			    : c == 't' ? '\t'
			    : c == 'b' ? '\b'
			    : c == 'a' ? '\a'
				       : c;
			text_add(&word, &c, 1);
		} else if (state == SINGLE && c == '\\' && i + 1 < line.len &&
			   line.data[i + 1] == '\'') {
			text_add(&word, "'", 1);
			i++;
		} else if (state == DOUBLE || state == SINGLE) {
			text_add(&word, &c, 1);
		}
	}
	if (state == BETWEEN && all.len > 0) {
		text_add(out, all.data, all.len);
		text_add(out, "\n", 1);
	} else if (state != BETWEEN) {
		add_error(out, "unbalanced quotes in request");
	}
	free(word.data);
	free(all.data);
	return state == BETWEEN;
}

/* What no Redis client says: another protocol's header, or a control byte that is no space. */
static bool foreign(struct span line)
{
	static const char version[] = "HTTP/1.", *const heads[] = { "post ", "host:" };
	size_t from = 0;

	while (from < line.len && space(line.data[from]))
		from++;
	for (size_t h = 0; h < 2; h++) {
		size_t k = 0;

		while (k < 5 && from + k < line.len &&
		       tolower((unsigned char)line.data[from + k]) == heads[h][k])
			k++;
		if (k == 5)
			return true;
	}
	if (line.len >= from + 8) {
		size_t at = line.len - 8, k = 0;

		while (k < 7 && line.data[at + k] == version[k])
			k++;
		if (k == 7)
			return true;
	}
	for (size_t i = from; i < line.len; i++) {
		unsigned char c = (unsigned char)line.data[i];

		if (c < 9 || (c > 13 && c < 32) || c == 127)
			return true;
	}
	return false;
}

static struct text reference(struct span in, const struct resp_limits *limits)
{
	struct text out = { 0 };

	while (in.len > 0) {
		size_t len = 0;
		bool over = false;

		if (in.data[0] == '*') {
			len = array(in, limits, &out, &over);
			if (len == 0)
				break;
		} else {
			struct span line;

			while (len < in.len && in.data[len] != '\n')
				len++;
			if (len > RESP_LINE_BYTES_MAX) {
				add_error(&out, "too big inline request");
				break;
			}
			if (len == in.len)
				break;
			line = (struct span){ in.data, len };
			len++;
			if (line.len > 0 && line.data[line.len - 1] == '\r')
				line.len--;
			if (foreign(line)) {
				add_error(&out, "not a command");
				break;
			}
			if (!line_words(line, &out))
				break;
		}
		in = span_skip(in, len);
	}
	text_add(&out, "", 0);
	return out;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct resp_limits limits;
	struct text whole, split, slow;
	struct span in;

	if (size < 2)
		return 0;
	limits = (struct resp_limits){ .word_bytes = data[0] < 100 ? data[0] : 1 << 20,
				       .unknown = data[0] % 2 == 1 };
	in = (struct span){ (const char *)data + 2, size - 2 };
	whole = decode(in, &limits, 0);
	text_add(&whole, "", 0);
	split = decode(in, &limits, 1 + data[1] % 80);
	text_add(&split, "", 0);
	slow = reference(in, &limits);
	check(whole.len == slow.len && memcmp(whole.data, slow.data, slow.len) == 0,
	      "the reference reads it differently");
	free(slow.data);
	text_same(&whole, &split);
	return 0;
}
