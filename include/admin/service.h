#ifndef ADMIN_SERVICE_H
#define ADMIN_SERVICE_H

/*
 * What a service manager hears (sd_notify(3)), and the watchdog by which it knows that the reactors
 * turn and not just that the process is there. Without libsystemd, or without a service manager,
 * all of it does nothing. Main thread only.
 */

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct broker;

void service_ready(void);
/* To be followed by service_ready, however the reload ended. */
void service_reloading(void);
void service_stopping(void);

struct watchdog {
	uint64_t period_ns; /* half of what the service manager wants; 0: it does not watch */
	uint64_t due_ns;    /* the next round begins */
	uint64_t look_ns;   /* while unanswered: when to look again, further apart each time */
	uint64_t pause_ns;
	uint64_t round;
	bool unanswered;
};

/* Asks a shard to store the round in its heartbeat. */
typedef void watchdog_ask(void *context, unsigned shard, uint64_t round);

/* Reads WATCHDOG_USEC and WATCHDOG_PID, so that it starts when a reactor can be asked. */
void watchdog_init(struct watchdog *watchdog, uint64_t now_ns);
/*
 * Begins a round when one is due, and says WATCHDOG=1 once every shard that has not ended has
 * answered it: one that hangs ends the messages. Returns when to call again; UINT64_MAX: never.
 */
uint64_t watchdog_turn(struct watchdog *watchdog, struct broker *broker, uint64_t now_ns,
		       watchdog_ask *ask, void *context);

/* Waits for one of the signals until then at most, watching meanwhile; 0: none has come yet. */
int service_wait(const sigset_t *signals, uint64_t until_ns, struct watchdog *watchdog,
		 struct broker *broker, watchdog_ask *ask, void *context);

#endif
