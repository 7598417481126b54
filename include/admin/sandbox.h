#ifndef ADMIN_SANDBOX_H
#define ADMIN_SANDBOX_H

/*
 * What the process gives up once everything is open: changing files (landlock(7)), and all system
 * calls but those that it needs (seccomp(2), by libseccomp). The rings' restrictions are the third
 * part (ring_params.restricted): a filter that forbids openat says nothing about IORING_OP_OPENAT.
 */

#include <stddef.h>

struct listener;

/*
 * Before the first thread is made, once and for good: no file is written, made, removed or renamed,
 * but that the files of these listeners' unix sockets can be removed from their directories.
 * -errno: that is not so; -ENOSYS or -EOPNOTSUPP: the kernel has no Landlock.
 */
int sandbox_files(const struct listener *listeners, size_t n);

/*
 * For all threads, and for good: no program is run, no process made, no file opened for writing,
 * no further ring or TCP socket made, no other process looked into, signalled or limited, no memory
 * made executable, nothing of the host touched. What is not known to be needed fails with EPERM.
 * Reading files and making threads stay possible, so that a reload works. openat2, whose flags a
 * filter cannot see, and unlink are left only where sandbox_files was called and needs them.
 * -errno: nothing has changed; -ENOSYS: built without libseccomp, or the kernel has no filters.
 */
int sandbox_enter(void);
/* To be called before sandbox_enter: servers are dialled, and their names looked up, from within:
 * sockets of IP may be made then, and datagrams sent. */
void sandbox_dials(void);

#endif
