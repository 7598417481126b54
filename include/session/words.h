#ifndef SESSION_WORDS_H
#define SESSION_WORDS_H

/*
 * What the core's reasons are called, the same through every door that says them in words; a
 * reason without any does not pass tests/unit/test_words.c. docs/ERRORS.md says what to do.
 */

#include "broker/protocol.h"

#define REASON_WORDS(WORDS)                                                                        \
	WORDS(REASON_TIMEOUT, "timeout")                                                           \
	WORDS(REASON_SLOW, "slow consumer")                                                        \
	WORDS(REASON_CONNECTIONS, "too many connections")                                          \
	WORDS(REASON_SUBSCRIPTIONS, "too many subscriptions")                                      \
	WORDS(REASON_TOPICS, "too many topics")                                                    \
	WORDS(REASON_PATTERNS, "too many patterns")                                                \
	WORDS(REASON_MEMORY, "out of memory")                                                      \
	WORDS(REASON_DRAINING, "draining")                                                         \
	WORDS(REASON_NOT_PERMITTED, "not permitted")                                               \
	WORDS(REASON_EXPIRED, "token expired")                                                     \
	WORDS(REASON_GAP, "gap")                                                                   \
	WORDS(REASON_UPSTREAM, "upstream")                                                         \
	WORDS(REASON_TOO_LONG, "message too long")

/* NULL: of none. */
extern const char *const reason_words[REASONS];

#endif
