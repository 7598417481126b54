#ifndef ENGINE_PLACEMENT_PLAN_H
#define ENGINE_PLACEMENT_PLAN_H

/*
 * The parts of placement.c behind its public face, so that tests can plan for machines they do
 * not run on and read control groups they are not in. Main thread only. Private to placement.c and
 * its test. Sources: hwloc's API reference; proc_pid_mountinfo(5); cgroups(7); the kernel's
 * cgroup-v2.rst (cpu.max) and sched-bwc.rst (cpu.cfs_quota_us).
 */

#include "engine/placement.h"

#include <hwloc.h>
#include <limits.h>

/* A cgroup's directory; its visible ancestors end with the mount point. */
struct cgroup_dir {
	char path[PATH_MAX];
	size_t mount_len; /* how much of the path is the mount point */
};

/*
 * Loads what this process may use of the machine, or of a made-up one in hwloc's synthetic
 * notation; NULL: the real one. Packages, NUMA nodes, cores and threads only. -errno, or 0 and the
 * caller destroys it. Sets HWLOC_PLUGINS_PATH in the environment, unless it is there.
 */
int placement_topology_load(hwloc_topology_t *topology, const char *synthetic);

/*
 * placement_init() on a loaded topology, which stays the caller's, and a quota in cores (0: none).
 * The first reactors get one core each, by turns from every NUMA node in hwloc's order; then the
 * cores' second threads likewise. 0, and the caller releases; or -ENOMEM, or -ENODEV when the
 * topology has no threads.
 */
int placement_plan(struct placement *placement, hwloc_topology_t topology, enum placement_mode mode,
		   unsigned reactors, double quota);

/*
 * placement_print() on a loaded topology and a plan made from it. online lists the machine's
 * threads the way /sys/devices/system/cpu/online does, to tell which of them are out of reach;
 * NULL: not known.
 */
void placement_report(FILE *out, hwloc_topology_t topology, const struct placement *placement,
		      enum placement_mode mode, const char *online);

/*
 * Finds this process's cgroup in the text of /proc/self/cgroup and its directory in that of
 * /proc/self/mountinfo. controller: "" for version 2, or a controller of version 1 such as "cpu".
 * False: no such hierarchy, or none that is mounted where this process's part of it can be seen;
 * *dir is then undefined.
 */
bool placement_cgroup_find(struct cgroup_dir *dir, const char *cgroups, const char *mountinfo,
			   const char *controller);

/* The smallest quota from dir up to its mount point, in cores; 0: none. */
double placement_cgroup_quota(struct cgroup_dir dir);

/*
 * "150000 100000", quota and period in us, are 1.5 cores; 0: no limit, or not understood. Both
 * versions come down to this: cpu.max as it is ("max": no limit), cpu.cfs_quota_us (-1: no limit)
 * followed by cpu.cfs_period_us.
 */
double placement_quota_parse(const char *text);

#endif
