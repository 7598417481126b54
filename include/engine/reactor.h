#ifndef ENGINE_REACTOR_H
#define ENGINE_REACTOR_H

/*
 * One turn of the loop, on one thread: reap completions, drain lanes, expire deadlines, flush,
 * submit - and park when there is nothing to do. The reactor knows nothing of what it is used for:
 * completions go to the handler of their op, letters and the end of the turn to the owner's
 * functions. All calls belong to the reactor's thread unless they say otherwise.
 *
 * A turn is short, whatever there is to do: each part of it has a share of the turn's time, asks
 * after each piece of work whether that is spent, and leaves the rest to the next turn, which goes
 * on with it in order.
 *
 * user_data is op:8 | generation:24 | slot:32.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/histogram.h"
#include "engine/deadline.h"
#include "engine/mailbox.h"
#include "engine/ring.h"

enum {
	OP_IGNORE, /* nobody cares how it ended */
	OP_WAKE,   /* another reactor's doorbell */
	OP_TICK,
	OP_SOCKET_RECV, /* engine/socket.h */
	OP_SOCKET_SEND,
	OP_SOCKET_CANCEL,
	OP_DIAL, /* engine/dial.h */
	OP_USER, /* the first of the owner's */
	OPS = 16,
};

enum { REACTOR_GENERATION_MASK = 0xffffff, REACTOR_DEADLINE_CLASSES = 24 };

/* The parts of a turn. The owner may have as many parts as there are numbers from TURN_OWNER on. */
enum turn_part {
	TURN_COMPLETIONS, /* half of its time; each of the others has a quarter, but for one */
	TURN_DEADLINES,
	TURN_LETTERS,
	TURN_KERNEL, /* requests are handed over, and what the kernel has put off is run */
	TURN_OWNER,
	TURN_PARTS = 8,
};

static inline uint64_t user_data(unsigned op, uint32_t generation, uint32_t slot)
{
	return (uint64_t)op << 56 | (uint64_t)(generation & REACTOR_GENERATION_MASK) << 32 | slot;
}

static inline uint32_t user_data_slot(uint64_t data)
{
	return (uint32_t)data;
}

static inline uint32_t user_data_generation(uint64_t data)
{
	return (uint32_t)(data >> 32) & REACTOR_GENERATION_MASK;
}

struct reactor_params {
	unsigned id;               /* also its number as a reader and a sender in the mailbox */
	unsigned completion_batch; /* most completions handled before the turn goes on */
	unsigned lane_batch;
	unsigned spin_us, linger_us;
	bool oversubscribed; /* more reactors than hardware threads: yield once before parking */
	unsigned turn_us;    /* what a turn may take before it leaves the rest to the next one;
				0: all that it takes */
	unsigned main_part;  /* the owner's that has all of the turn's time; 0: none */
	struct ring_params ring;
};

/* The owner's part. */
struct reactor_owner {
	/* Letters popped from one lane, in order; they are the owner's now. */
	void (*letters)(void *context, unsigned sender, enum mailbox_lane lane, void **letters,
			unsigned n);
	/* Whether that lane may be drained in this turn; NULL: always. LANE_FREE may only ever be
	 * left for work that needs no mail to be done. */
	bool (*gate_open)(void *context, enum mailbox_lane lane);
	/* The end of a turn: queue sends and push letters. True: more is left, do not park. */
	bool (*flush)(void *context);
	void *context;
};

typedef void reactor_handler(void *context, const struct completion *completion);

/* Always on. One writer, the reactor; read by others only as a copy that the reactor made. */
struct reactor_stats {
	uint64_t turns, parks, parked_ns, started_ns;
	uint64_t wakes_sent, late_completions;
	struct histogram completions_per_turn;
	struct histogram requests_per_submit; /* per enter that took any */
	struct histogram letters_per_drain;
	struct histogram parked; /* ns */
	struct histogram turn;   /* ns, sleep not counted */
	/* CPU time in ns of turns that took longer than they may, and of what came up to 0.2 ms
	 * before: the clock that knows it is dear. */
	struct histogram long_turn;
};

struct reactor {
	unsigned id;
	uint64_t now_ns;     /* read once per turn: time in which the process could run */
	uint64_t clock_ns;   /* the clock, as of the turn's begin */
	uint64_t stopped_ns; /* that it is ahead of now_ns */
	uint64_t wake_at_ns; /* does not sleep beyond that in this turn; 0: as long as it likes */
	struct ring *ring;
	struct mailbox *mailbox; /* shared; NULL: this reactor has no neighbours */
	const int *ring_fds;     /* shared: by reader, valid once all reactors have made theirs */
	struct reactor_params params;
	struct reactor_owner owner;
	struct reactor_stats stats;

	struct {
		reactor_handler *handler;
		void *context;
	} ops[OPS];
	struct {
		struct deadline_class *class;
		void (*expired)(void *context, struct deadline *);
		void *context;
	} deadlines[REACTOR_DEADLINE_CLASSES];
	unsigned deadlines_n;
	bool ticking;
	uint32_t tick_generation; /* one more for every time the clock stops */

	struct {
		unsigned part;    /* enum turn_part, or the owner's */
		bool running;     /* one that may be followed by the next without a sleep */
		int64_t unlooked; /* work until the clock is looked at */
		uint64_t ends_ns; /* the part's time is over */
		uint64_t part_ns; /* when it began */
		uint64_t ns[TURN_PARTS];
		unsigned completions;
		uint64_t cpu_ns, cpu_at_ns; /* the thread's CPU time, and when that was read */
	} turn;
	bool expiring; /* some deadlines that are due have been left to this turn */

	uint64_t pending[LANES]; /* doorbell bits whose lanes may still hold letters */
	unsigned first[LANES];   /* the sender whose lane comes first */
	uint64_t gap_ns;         /* moving average of idle times, for spinning */
	bool stop;
	void **letters; /* lane_batch */
};

/* Makes the ring: to be called on the thread that will turn it. -errno as ring_new. */
int reactor_init(struct reactor *reactor, const struct reactor_params *params,
		 struct mailbox *mailbox, const int *ring_fds, const struct reactor_owner *owner);
void reactor_release(struct reactor *reactor);

void reactor_handle(struct reactor *reactor, unsigned op, reactor_handler *handler, void *context);
/* Deadlines of this class call back from now on; checked every quarter of a second while any runs.
 */
void reactor_watch(struct reactor *reactor, struct deadline_class *class,
		   void (*expired)(void *context, struct deadline *), void *context);
/* Another length for a watched class, also for those of its deadlines that run. */
void reactor_deadlines_change(struct reactor *reactor, struct deadline_class *class,
			      uint64_t after_ns);
/* Starts a deadline of a watched class and sees to it that the clock ticks. */
void reactor_deadline(struct reactor *reactor, struct deadline_class *class,
		      struct deadline *deadline);

/* Another part of the turn begins, with a share of time of its own. */
void reactor_part(struct reactor *reactor, unsigned part);
/* So much has been done, in units of about a quarter of a microsecond; a completion or a letter is
 * one by itself. */
static inline void reactor_spend(struct reactor *reactor, size_t cost)
{
	reactor->turn.unlooked -= (int64_t)cost;
}
bool reactor_look(struct reactor *reactor);
/* Whether this part's time is over: what is left is to wait for the next turn. At least one piece
 * of work is to be done before each time it is asked, or nothing would ever get done. */
static inline bool reactor_spent(struct reactor *reactor)
{
	return reactor->turn.unlooked <= 0 && reactor_look(reactor);
}

/* If this turn parks, then no longer than until that moment; the earliest one counts. */
void reactor_wake_at(struct reactor *reactor, uint64_t at_ns);

/* One turn; may_park false: never sleeps. Returns whether there was anything to do. */
bool reactor_turn(struct reactor *reactor, bool may_park);
/* Turns until reactor_stop. */
void reactor_run(struct reactor *reactor);
void reactor_stop(struct reactor *reactor);

/* Pushes letters into another reactor's lane and rings it once. Returns how many went; if not all,
 * a flush follows when there is room. */
unsigned reactor_post(struct reactor *reactor, unsigned to, enum mailbox_lane lane,
		      void *const *letters, unsigned n);

#endif
