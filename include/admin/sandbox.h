#ifndef ADMIN_SANDBOX_H
#define ADMIN_SANDBOX_H

/*
 * What the process gives up once everything is open (seccomp(2), by libseccomp). The rings'
 * restrictions are the other half (ring_params.restricted): a filter that forbids openat says
 * nothing about IORING_OP_OPENAT.
 */

#include <stddef.h>

/*
 * For all threads, and for good: no program is run, no process made, no file opened for writing,
 * no further ring set up, no other process looked into or signalled, no memory made executable, no
 * mount, namespace, module or key touched. Refused calls fail with EPERM. Reading files and making
 * threads stay possible, so that a reload works. -errno: nothing has changed; -ENOSYS: built
 * without libseccomp, or the kernel has no filters.
 */
int sandbox_enter(void);

#endif
