#ifndef LIMIT_COMMON_H
#define LIMIT_COMMON_H

/* What the bare programs have in common. */

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline _Noreturn void die(const char *what, int error)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(error));
	exit(1);
}

/* One process on the first core that it may have, the other on the last; false with only one. */
static inline bool pin(bool last)
{
	cpu_set_t allowed, one;
	size_t cpu = last ? CPU_SETSIZE - 1 : 0;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0 || CPU_COUNT(&allowed) < 2)
		return false;
	while (!CPU_ISSET(cpu, &allowed))
		last ? cpu-- : cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return sched_setaffinity(0, sizeof(one), &one) == 0;
}

static inline double number(const char *text, double least, double most)
{
	char *end;
	double n = strtod(text, &end);

	if (end != text && *end == '\0' && n >= least && n <= most)
		return n;
	fprintf(stderr, "%s: %s: want a number from %g to %g\n", program_invocation_short_name,
		text, least, most);
	exit(2);
}

#endif
