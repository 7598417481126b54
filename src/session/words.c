#include "session/words.h"

#define WORDS(reason, words) [reason] = words,

const char *const reason_words[REASONS] = { REASON_WORDS(WORDS) };
