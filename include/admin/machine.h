#ifndef ADMIN_MACHINE_H
#define ADMIN_MACHINE_H

/*
 * How much memory this process may have: the least that a control group on its way to the top
 * allows (cgroup v2 memory.max, v1 memory.limit_in_bytes), or the machine's (proc(5), meminfo).
 * Reads files, below another root for tests.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/placement.h"

struct config;

enum { MACHINE_SHARE_PERCENT = 60 }; /* what limits.memory_bytes = "auto" takes of it */

struct machine_memory {
	uint64_t bytes; /* 0: not known */
	bool cgroup;    /* it is a control group's */
};

/* root: "" for this machine. */
struct machine_memory machine_memory(const char *root);

/* What limits.memory_bytes comes down to: as configured, or 60 % of what the machine has; 0: no
 * limit, because that is not known. */
uint64_t machine_budget(const struct config *config, const struct machine_memory *memory);

/* From here on "auto" is a number. */
void machine_set_budget(struct config *config);

enum placement_mode machine_placement(const struct config *config);

/* What so many reactors have before the first client comes, which no eviction gives back. */
uint64_t machine_base(const struct config *config, unsigned reactors);
/* Whether that leaves half of the budget (limits.memory_bytes, a number by now) to clients, and
 * with the objects a quarter; false: a sentence in problem, with the numbers and the keys. */
bool machine_base_fits(const struct config *config, unsigned reactors, uint64_t objects_bytes,
		       uint64_t budget, char *problem, size_t size);

#endif
