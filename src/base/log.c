#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/name.h"

enum { LINE_BYTES_MAX = 4000 };

static const struct {
	char text[6];
	char json[6];
} level_names[] = {
	[LOG_ERROR] = { "ERROR", "error" },
	[LOG_WARN] = { "WARN ", "warn" },
	[LOG_INFO] = { "INFO ", "info" },
	[LOG_DEBUG] = { "DEBUG", "debug" },
};

static atomic_int current_level = LOG_INFO;
static atomic_int current_format = LOG_TEXT;

/* A line in the making; what does not fit is left out, whole characters at a time. */
struct line {
	char data[LINE_BYTES_MAX];
	size_t len;
	size_t reserved; /* kept free for what must follow the message */
};

static bool line_add(struct line *line, struct span s)
{
	if (s.len > sizeof(line->data) - line->reserved - line->len)
		return false;
	memcpy(line->data + line->len, s.data, s.len);
	line->len += s.len;
	return true;
}

static void line_add_time(struct line *line)
{
	struct timespec now;
	struct tm utc;
	char text[40];
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(text + n, sizeof(text) - n, ".%03ldZ", now.tv_nsec / 1000000);
	line_add(line, span_of(text));
}

/* The first character of a text as it may stand in a line; *n: the bytes it takes in the text. */
static struct span clean(struct span text, bool json, size_t *n)
{
	const unsigned char *p = (const unsigned char *)text.data;

	/* No proper prefix of a character is valid, so the shortest valid run is one character. */
	for (*n = 1; *n <= 4 && *n <= text.len; ++*n) {
		if (!utf8_valid((struct span){ text.data, *n }))
			continue;
		if (p[0] < ' ' || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0))
			return SPAN(" ");
		if (json && p[0] == '"')
			return SPAN("\\\"");
		if (json && p[0] == '\\')
			return SPAN("\\\\");
		return (struct span){ text.data, *n };
	}
	*n = 1;
	return SPAN("\xef\xbf\xbd"); /* U+FFFD, the replacement character */
}

static void line_add_message(struct line *line, struct span text, bool json)
{
	for (size_t n; text.len > 0; text = span_skip(text, n)) {
		if (!line_add(line, clean(text, json, &n)))
			return;
	}
}

void log_configure(enum log_level level, enum log_format format)
{
	atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
	atomic_store_explicit(&current_format, (int)format, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&current_level, memory_order_relaxed);
}

void log_write(enum log_level level, const char *format, ...)
{
	bool json = atomic_load_explicit(&current_format, memory_order_relaxed) == LOG_JSON;
	struct span end = json ? SPAN("\"}\n") : SPAN("\n");
	struct line line = { .len = 0, .reserved = end.len };
	char message[LINE_BYTES_MAX];
	int saved_errno = errno;
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, format);
	if (vsnprintf(message, sizeof(message), format, ap) < 0)
		message[0] = '\0';
	va_end(ap);

	if (json)
		line_add(&line, SPAN("{\"time\":\""));
	line_add_time(&line);
	line_add(&line, json ? SPAN("\",\"level\":\"") : SPAN(" "));
	line_add(&line, span_of(json ? level_names[level].json : level_names[level].text));
	line_add(&line, json ? SPAN("\",\"message\":\"") : SPAN(" "));
	line_add_message(&line, span_of(message), json);
	line.reserved = 0;
	line_add(&line, end);

	while (write(STDERR_FILENO, line.data, line.len) < 0 && errno == EINTR)
		;
	errno = saved_errno; /* callers go on to look at it */
}
