#include "admin/service.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/clock.h"
#include "broker/shard.h"

enum { LOOK_FIRST_MS = 5 }; /* a reactor answers in its next turn */

static void tell(const char *state)
{
#ifdef HAVE_LIBSYSTEMD
	(void)sd_notify(0, state);
#else
	(void)state;
#endif
}

void service_ready(void)
{
	tell("READY=1");
}

void service_reloading(void)
{
	char state[64];

	/* CLOCK_MONOTONIC is what the service manager compares it with. */
	snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
		 clock_now_ns() / NS_PER_US);
	tell(state);
}

void service_stopping(void)
{
	tell("STOPPING=1");
}

void watchdog_init(struct watchdog *w, uint64_t now_ns)
{
	uint64_t usec = 0;

#ifdef HAVE_LIBSYSTEMD
	if (sd_watchdog_enabled(0, &usec) <= 0)
		usec = 0;
#endif
	*w = (struct watchdog){ .period_ns = usec * NS_PER_US / 2, .due_ns = now_ns };
}

static bool all_answered(const struct watchdog *w, struct broker *b)
{
	for (unsigned i = 0; i < b->shards_n; i++)
		if (atomic_load(&b->shards[i].watched.round) < w->round)
			return false;
	return true;
}

uint64_t watchdog_turn(struct watchdog *w, struct broker *b, uint64_t now_ns, watchdog_ask *ask,
		       void *context)
{
	if (w->period_ns == 0)
		return UINT64_MAX;
	/* Nobody is asked twice: a reactor that hangs would find a heap of letters. */
	if (!w->unanswered && now_ns >= w->due_ns) {
		w->round++;
		for (unsigned i = 0; i < b->shards_n; i++)
			if (atomic_load(&b->shards[i].watched.round) < w->round)
				ask(context, i, w->round);
		w->unanswered = true;
		w->due_ns = now_ns + w->period_ns;
		w->pause_ns = LOOK_FIRST_MS * NS_PER_MS;
		w->look_ns = now_ns + w->pause_ns;
		return w->look_ns;
	}
	if (w->unanswered && now_ns >= w->look_ns) {
		if (all_answered(w, b)) {
			w->unanswered = false;
			tell("WATCHDOG=1");
		} else {
			w->pause_ns =
				2 * w->pause_ns < w->period_ns ? 2 * w->pause_ns : w->period_ns;
			w->look_ns = now_ns + w->pause_ns;
		}
	}
	return w->unanswered ? w->look_ns : w->due_ns;
}

int service_wait(const sigset_t *signals, uint64_t until_ns, struct watchdog *w, struct broker *b,
		 watchdog_ask *ask, void *context)
{
	uint64_t now_ns = clock_now_ns();
	uint64_t next_ns = watchdog_turn(w, b, now_ns, ask, context);
	struct timespec wait = { 0 };
	int sig;

	if (until_ns < next_ns)
		next_ns = until_ns;
	if (next_ns == UINT64_MAX) {
		sig = sigwaitinfo(signals, NULL);
	} else {
		if (next_ns < now_ns)
			next_ns = now_ns;
		wait.tv_sec = (time_t)((next_ns - now_ns) / NS_PER_S);
		wait.tv_nsec = (long)((next_ns - now_ns) % NS_PER_S);
		sig = sigtimedwait(signals, NULL, &wait);
	}
	return sig > 0 ? sig : 0;
}
