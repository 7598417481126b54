#ifndef BASE_LOG_H
#define BASE_LOG_H

/*
 * One line per event on standard error, whole lines by a single write(2) each, so that threads
 * never mix theirs. Text: "2026-11-22T10:00:00.123Z INFO  message"; json:
 * {"time":...,"level":...,"message":...}. Any thread; never on the way of a message.
 *
 * Nobody waits for whoever reads standard error: between log_start and log_stop a thread of its own
 * writes what others hand it. What does not fit in its queues (128 KiB of errors, which go first,
 * and as much of everything else) is dropped, counted, and said once lines are taken again. Without
 * that thread a line is written where it is made, which takes a second at most in all.
 */

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };

/* Takes effect at once, for every thread. */
void log_configure(enum log_level level, enum log_format format);
bool log_enabled(enum log_level level);

/*
 * A line longer than 4,000 bytes is cut, between characters. Newlines and control characters in it
 * become spaces, bytes that are not UTF-8 become U+FFFD. Leaves errno as it was.
 */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The writer, with all signals blocked. -errno: there is none, and lines are written directly. */
int log_start(void);
/* Has the writer write what waits, for a second at most. Harmless without one. */
void log_stop(void);
/* Lines that were lost since the start. Any thread. */
uint64_t log_dropped(void);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

#endif
