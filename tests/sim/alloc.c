#include "sim.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#ifdef WITH_ASAN
#include <sanitizer/lsan_interface.h>
#endif

/*
 * The linker's --wrap leads the broker's allocations here. Those that the C library makes for
 * itself go past it.
 */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
char *__real_strdup(const char *s);
void __real_free(void *p);
size_t __real_malloc_usable_size(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
char *__wrap_strdup(const char *s);
void __wrap_free(void *p);
size_t __wrap_malloc_usable_size(void *p);

static long outstanding;

/* Only what a reactor asks for in its turn may be refused: starting and stopping are not here. */
static bool refuse(size_t size)
{
	sim.now_ns += sim.allocation_ns;
	if (fiber_current() < 0 || !fault(FAULT_MEMORY))
		return false;
	sim_trace("no memory for %" PRIu64 " bytes", size, 0, 0, 0);
	return true;
}

static void *count(void *p)
{
	outstanding += p != NULL;
	return p;
}

/*
 * How much an allocation takes depends on what was freed before it, in runs before this one too;
 * the broker counts it, and must count the same each time. So what was asked for stands in the last
 * bytes. AddressSanitizer's allocations take what was asked for.
 */
#ifdef WITH_ASAN
enum { SIZE_BYTES = 0 };
#else
enum { SIZE_BYTES = sizeof(size_t) };
#endif

static char *size_at(void *p)
{
	return (char *)p + __real_malloc_usable_size(p) - SIZE_BYTES;
}

static void *sized(void *p, size_t size)
{
	if (p != NULL)
		memcpy(size_at(p), &size, SIZE_BYTES);
	return p;
}

size_t __wrap_malloc_usable_size(void *p)
{
	size_t size = __real_malloc_usable_size(p);

	memcpy(&size, size_at(p), SIZE_BYTES);
	return size;
}

void *__wrap_malloc(size_t size)
{
	return refuse(size) ? NULL : sized(count(__real_malloc(size + SIZE_BYTES)), size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	/* No multiplication of the broker's own is near to overflow. */
	return refuse(n * size) ? NULL
				: sized(count(__real_calloc(1, n * size + SIZE_BYTES)), n * size);
}

void *__wrap_realloc(void *p, size_t size)
{
	void *new;

	if (refuse(size))
		return NULL;
	new = sized(__real_realloc(p, size + SIZE_BYTES), size);
	if (p == NULL)
		count(new);
	return new;
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
	return refuse(size) ? NULL : count(__real_aligned_alloc(alignment, size));
}

char *__wrap_strdup(const char *s)
{
	return count(__real_strdup(s));
}

void __wrap_free(void *p)
{
	outstanding -= p != NULL;
	__real_free(p);
}

void alloc_tell(void)
{
#ifdef WITH_ASAN
	(void)__lsan_do_recoverable_leak_check();
#endif
}

long alloc_outstanding(void)
{
	return outstanding;
}

void *sim_alloc(size_t size)
{
	void *p = __real_calloc(1, size);

	if (p == NULL)
		abort();
	return p;
}

void *sim_realloc(void *p, size_t size)
{
	p = __real_realloc(p, size);
	if (p == NULL)
		abort();
	return p;
}

void sim_free(void *p)
{
	__real_free(p);
}
