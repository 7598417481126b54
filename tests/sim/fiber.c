#include "sim.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define WITH_FIBERS_ANNOTATED
#endif

enum { STACK_BYTES = 512 << 10 };

static struct fiber {
	ucontext_t context;
	char *stack;
	void (*entry)(unsigned index);
	void *fake_stack;
	bool ended;
} fibers[SIM_SHARDS_MAX];

static ucontext_t scheduler;
static int current = -1;

#ifdef WITH_FIBERS_ANNOTATED
static const void *scheduler_stack;
static size_t scheduler_stack_bytes;
static void *scheduler_fake_stack;
#endif

static void arrive(struct fiber *f)
{
#ifdef WITH_FIBERS_ANNOTATED
	__sanitizer_finish_switch_fiber(f->fake_stack, &scheduler_stack, &scheduler_stack_bytes);
#else
	(void)f;
#endif
}

static void run(void)
{
	struct fiber *f = &fibers[current];

	arrive(f);
	f->entry((unsigned)current);
	f->ended = true;
#ifdef WITH_FIBERS_ANNOTATED
	__sanitizer_start_switch_fiber(NULL, scheduler_stack, scheduler_stack_bytes);
#endif
	setcontext(&scheduler);
}

void fiber_start(unsigned index, void (*entry)(unsigned index))
{
	struct fiber *f = &fibers[index];

	if (f->stack == NULL) {
		f->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (f->stack == MAP_FAILED)
			abort();
	}
#ifdef WITH_FIBERS_ANNOTATED
	__asan_unpoison_memory_region(f->stack, STACK_BYTES);
#endif
	f->entry = entry;
	f->ended = false;
	f->fake_stack = NULL;
	getcontext(&f->context);
	f->context.uc_stack.ss_sp = f->stack;
	f->context.uc_stack.ss_size = STACK_BYTES;
	f->context.uc_link = NULL;
	makecontext(&f->context, run, 0);
}

void fiber_resume(unsigned index)
{
	struct fiber *f = &fibers[index];

	assert(current == -1 && !f->ended);
	current = (int)index;
#ifdef WITH_FIBERS_ANNOTATED
	__sanitizer_start_switch_fiber(&scheduler_fake_stack, f->stack, STACK_BYTES);
#endif
	swapcontext(&scheduler, &f->context);
#ifdef WITH_FIBERS_ANNOTATED
	__sanitizer_finish_switch_fiber(scheduler_fake_stack, NULL, NULL);
#endif
	current = -1;
}

void fiber_yield(void)
{
	struct fiber *f = &fibers[current];

#ifdef WITH_FIBERS_ANNOTATED
	__sanitizer_start_switch_fiber(&f->fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
	swapcontext(&f->context, &scheduler);
	arrive(f);
}

int fiber_current(void)
{
	return current;
}

bool fiber_ended(unsigned index)
{
	return fibers[index].ended;
}
