#ifndef BASE_POISON_H
#define BASE_POISON_H

/*
 * Memory that must not be touched for a while: AddressSanitizer, where it is there, complains about
 * who does. Nothing otherwise.
 */

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n) __asan_poison_memory_region((p), (n))
#define UNPOISON(p, n) __asan_unpoison_memory_region((p), (n))
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

#endif
