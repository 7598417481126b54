#include "base/clock.h"

#include "sim.h"

uint64_t clock_now_ns(void)
{
	/* Reading the clock is as good a place as any to lose the processor. */
	if (fiber_current() >= 0 && fault(FAULT_PREEMPT))
		fiber_yield();
	sim.now_ns += 50;
	return sim.now_ns;
}

uint64_t clock_wall_ns(void)
{
	return sim.now_ns;
}

uint64_t clock_cpu_ns(void)
{
	return sim.now_ns;
}
