#include "broker/audit.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"

/* Of each kind: the second, and how many lines there were in it. */
static _Atomic uint64_t windows[AUDIT_KINDS];

const char *audit_name(struct span name, char out[AUDIT_TEXT_MAX])
{
	static const char digits[] = "0123456789abcdef";
	size_t len = name.len < AUDIT_NAME_MAX ? name.len : AUDIT_NAME_MAX;
	char *at = out;

	if (len == 0)
		*at++ = '-';
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)name.data[i];

		/* Whole or cut, UTF-8 is the log's to look after. */
		if (c > ' ' && c != '\\' && c != '"' && c != 0x7f) {
			*at++ = (char)c;
			continue;
		}
		*at++ = '\\';
		*at++ = 'x';
		*at++ = digits[c >> 4];
		*at++ = digits[c & 15];
	}
	if (len < name.len)
		*at++ = '~';
	*at = '\0';
	return out;
}

/* Whether there may be one more; those of the second before that were left out. */
static bool may_say(enum audit_kind kind, uint32_t *left_out)
{
	uint64_t second = clock_now_ns() / NS_PER_S, before = atomic_load(&windows[kind]), after;
	uint32_t n;

	do {
		bool same = before >> 32 == (second & UINT32_MAX);

		n = same ? (uint32_t)before : 0;
		*left_out = !same && (uint32_t)before > AUDIT_LINES_MAX
				    ? (uint32_t)before - AUDIT_LINES_MAX
				    : 0;
		if (n == UINT32_MAX)
			return false;
		after = second << 32 | (n + 1);
	} while (!atomic_compare_exchange_weak(&windows[kind], &before, after));
	return n < AUDIT_LINES_MAX;
}

void audit(enum audit_kind kind, const char *format, ...)
{
	char line[2048], more[48] = "";
	uint32_t left_out;
	va_list args;

	if (!log_enabled(LOG_INFO) || !may_say(kind, &left_out))
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (left_out > 0)
		snprintf(more, sizeof(more), " left_out=%u", left_out);
	log_info("%s%s", line, more);
}
