#ifndef BASE_PROBE_H
#define BASE_PROBE_H

/*
 * Static tracepoints (USDT, sys/sdt.h of SystemTap) of the provider "broker": one no-op instruction
 * each until a tracer looks, nothing at all where the header is missing. Arguments are evaluated
 * either way, so they must be at hand, integers and pointers and no calls, and at most six, as many
 * as bpftrace can read. docs/TRACING.md lists all of them and deploy/trace uses them. Any thread.
 */

#if defined(__has_include)
#if __has_include(<sys/sdt.h>)
#define SDT_USE_VARIADIC
#include <sys/sdt.h>
#ifdef __clang__
/* A macro in there leaves out an argument; what clang calls that depends on its version. */
#define PROBE(name, ...)                                                                           \
	do {                                                                                       \
		_Pragma("clang diagnostic push");                                                  \
		_Pragma("clang diagnostic ignored \"-Wpedantic\"");                                \
		STAP_PROBEV(broker, name, __VA_ARGS__);                                            \
		_Pragma("clang diagnostic pop");                                                   \
	} while (0)
#else
#define PROBE(name, ...) STAP_PROBEV(broker, name, __VA_ARGS__)
#endif
#endif
#endif

#ifndef PROBE
static inline void probe_nothing(int none, ...)
{
	(void)none;
}
#define PROBE(name, ...)                                                                           \
	do {                                                                                       \
		if (0)                                                                             \
			probe_nothing(0, __VA_ARGS__);                                             \
	} while (0)
#endif

#endif
