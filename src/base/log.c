#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/name.h"

enum {
	/* Below PIPE_BUF: a pipe that poll(2) calls writable takes it whole, without waiting. */
	LINE_BYTES_MAX = 4000,
	/* Of lines that wait to be written, of each kind. A line more is dropped and counted. */
	QUEUE_BYTES_MAX = 128 << 10,
	DIRECT_WAIT_MS = 1000, /* without the writer: for standard error to take a line */
	STOP_WAIT_MS = 1000,   /* for the writer to write what waits */
};

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
static atomic_uint_fast64_t dropped;

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

/* ---- lines in the making ---- */

static void compose(struct line *line, enum log_level level, const char *format, va_list ap)
	__attribute__((format(printf, 3, 0)));

static void compose(struct line *line, enum log_level level, const char *format, va_list ap)
{
	bool json = atomic_load_explicit(&current_format, memory_order_relaxed) == LOG_JSON;
	struct span end = json ? SPAN("\"}\n") : SPAN("\n");
	char message[LINE_BYTES_MAX];

	line->len = 0;
	line->reserved = end.len;
	if (vsnprintf(message, sizeof(message), format, ap) < 0)
		message[0] = '\0';
	if (json)
		line_add(line, SPAN("{\"time\":\""));
	line_add_time(line);
	line_add(line, json ? SPAN("\",\"level\":\"") : SPAN(" "));
	line_add(line, span_of(json ? level_names[level].json : level_names[level].text));
	line_add(line, json ? SPAN("\",\"message\":\"") : SPAN(" "));
	line_add_message(line, span_of(message), json);
	line->reserved = 0;
	line_add(line, end);
}

/* ---- standard error ---- */

/* Whether standard error takes something within this time; -1: however long it takes. */
static bool writable(int wait_ms)
{
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };

	return poll(&p, 1, wait_ms) != 0;
}

/* False: the line, or its rest, is lost. */
static bool write_line(const struct line *line, int wait_ms)
{
	for (size_t at = 0; at < line->len;) {
		ssize_t n;

		if (!writable(wait_ms))
			return false;
		n = write(STDERR_FILENO, line->data + at, line->len - at);
		if (n >= 0)
			at += (size_t)n;
		else if (errno != EINTR && errno != EAGAIN)
			return false;
	}
	return true;
}

/* ---- the writer ---- */

/* Whole lines, one behind the other, around the end of the array. */
struct queue {
	size_t begin, len;
	char data[QUEUE_BYTES_MAX];
};

/* The thread that writes, and what it shares with the others behind the lock. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t wake;  /* there is something to write, or it is to end */
	pthread_cond_t ended; /* it has ended */
	pthread_t thread;
	bool running, stopping, over;
	struct queue errors; /* these go first */
	struct queue others;
} writer = { .lock = PTHREAD_MUTEX_INITIALIZER };

static bool queue_add(struct queue *q, const struct line *line)
{
	size_t at = (q->begin + q->len) % QUEUE_BYTES_MAX, first = QUEUE_BYTES_MAX - at;

	if (line->len > QUEUE_BYTES_MAX - q->len)
		return false;
	first = line->len < first ? line->len : first;
	memcpy(q->data + at, line->data, first);
	memcpy(q->data, line->data + first, line->len - first);
	q->len += line->len;
	return true;
}

static void queue_take(struct queue *q, struct line *line)
{
	line->len = 0;
	do {
		line->data[line->len++] = q->data[q->begin];
		q->begin = (q->begin + 1) % QUEUE_BYTES_MAX;
		q->len--;
	} while (line->data[line->len - 1] != '\n');
}

static void compose_now(struct line *line, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void compose_now(struct line *line, enum log_level level, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	compose(line, level, format, ap);
	va_end(ap);
}

static void drop(void)
{
	atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
}

/* Says what was lost, once lines are taken again; with only one thread at a time. */
static void tell_loss(int wait_ms)
{
	static uint64_t told;
	uint64_t now = log_dropped();
	struct line line;

	if (now == told)
		return;
	compose_now(&line, LOG_WARN, "log: %llu lines are lost: they were not taken in time",
		    (unsigned long long)(now - told));
	if (write_line(&line, wait_ms))
		told = now;
}

static bool nothing_waits(void)
{
	return writer.errors.len == 0 && writer.others.len == 0;
}

static void *write_lines(void *unused)
{
	struct line line;

	pthread_setname_np(pthread_self(), "log");
	pthread_mutex_lock(&writer.lock);
	while (true) {
		bool written;

		while (nothing_waits() && !writer.stopping)
			pthread_cond_wait(&writer.wake, &writer.lock);
		if (nothing_waits())
			break;
		queue_take(writer.errors.len > 0 ? &writer.errors : &writer.others, &line);
		pthread_mutex_unlock(&writer.lock);
		written = write_line(&line, -1);
		if (!written)
			drop();
		pthread_mutex_lock(&writer.lock);
		if (!written || !nothing_waits())
			continue;
		pthread_mutex_unlock(&writer.lock);
		tell_loss(-1);
		pthread_mutex_lock(&writer.lock);
	}
	writer.over = true;
	pthread_cond_signal(&writer.ended);
	pthread_mutex_unlock(&writer.lock);
	return unused;
}

/* False: there is no writer. */
static bool hand_over(enum log_level level, const struct line *line)
{
	bool running, added;

	pthread_mutex_lock(&writer.lock);
	running = writer.running;
	added = running && queue_add(level == LOG_ERROR ? &writer.errors : &writer.others, line);
	if (added)
		pthread_cond_signal(&writer.wake);
	pthread_mutex_unlock(&writer.lock);
	if (running && !added)
		drop();
	return running;
}

/* Waits once for whoever should read, and then not again until he does. */
static void write_directly(const struct line *line)
{
	static atomic_bool stalled;

	if (!writable(atomic_load(&stalled) ? 0 : DIRECT_WAIT_MS)) {
		atomic_store(&stalled, true);
		drop();
		return;
	}
	atomic_store(&stalled, false);
	if (write_line(line, DIRECT_WAIT_MS))
		tell_loss(0);
	else
		drop();
}

/* ---- public ---- */

void log_configure(enum log_level level, enum log_format format)
{
	atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
	atomic_store_explicit(&current_format, (int)format, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&current_level, memory_order_relaxed);
}

uint64_t log_dropped(void)
{
	return atomic_load_explicit(&dropped, memory_order_relaxed);
}

int log_start(void)
{
	pthread_condattr_t monotonic;
	sigset_t all, before;
	int err;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&writer.wake, NULL);
	pthread_cond_init(&writer.ended, &monotonic);
	pthread_condattr_destroy(&monotonic);
	writer.stopping = writer.over = false;
	/* Signals are for the thread that waits for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&writer.thread, NULL, write_lines, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	writer.running = err == 0;
	return -err;
}

void log_stop(void)
{
	struct timespec until;
	int err = 0;

	if (!writer.running)
		return;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += STOP_WAIT_MS / 1000;
	pthread_mutex_lock(&writer.lock);
	writer.stopping = true;
	writer.running = false;
	pthread_cond_signal(&writer.wake);
	while (!writer.over && err == 0)
		err = pthread_cond_timedwait(&writer.ended, &writer.lock, &until);
	pthread_mutex_unlock(&writer.lock);
	/* It may stand in write(2) for ever. */
	if (err == 0)
		pthread_join(writer.thread, NULL);
	else
		pthread_detach(writer.thread);
}

void log_write(enum log_level level, const char *format, ...)
{
	int saved_errno = errno;
	struct line line;
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, format);
	compose(&line, level, format, ap);
	va_end(ap);
	if (!hand_over(level, &line))
		write_directly(&line);
	errno = saved_errno; /* callers go on to look at it */
}
