#include "admin/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/listener.h"

/* A leak check at the end of a sanitized program looks into it from a process of its own, and a
 * coverage run writes its counts: these builds keep what they need. */
#ifdef WITH_ASAN
#define SANITIZED 1
#else
#define SANITIZED 0
#endif
#ifdef WITH_COVERAGE
#define COVERED 1
#else
#define COVERED 0
#endif

/* What is needed of files beside reading them, which a filter of system calls cannot judge: how a
 * file is opened below a directory, and where a socket's file is removed. */
static bool opens_below, removes;
static bool dials; /* servers, by name, through the ring */

void sandbox_dials(void)
{
	dials = true;
}

/* ---- files: Landlock (landlock(7)) ---- */

/* Everything but reading, as far as this kernel knows it. */
static uint64_t changes(long abi)
{
	uint64_t all = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
		       LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
		       LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |
		       LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
		       LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		       LANDLOCK_ACCESS_FS_MAKE_SYM;

#ifdef LANDLOCK_ACCESS_FS_REFER
	all |= abi >= 2 ? LANDLOCK_ACCESS_FS_REFER : 0;
#endif
#ifdef LANDLOCK_ACCESS_FS_TRUNCATE
	all |= abi >= 3 ? LANDLOCK_ACCESS_FS_TRUNCATE : 0;
#endif
	(void)abi;
	return all;
}

static int allow_removal(int rules, const char *file)
{
	struct landlock_path_beneath_attr beneath = { .allowed_access =
							      LANDLOCK_ACCESS_FS_REMOVE_FILE };
	char *copy = strdup(file);
	int err = 0;

	if (copy == NULL)
		return -ENOMEM;
	beneath.parent_fd = open(dirname(copy), O_PATH | O_CLOEXEC);
	if (beneath.parent_fd < 0 ||
	    syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0)
		err = -errno;
	if (beneath.parent_fd >= 0)
		close(beneath.parent_fd);
	free(copy);
	return err;
}

int sandbox_files(const struct listener *listeners, size_t n)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct landlock_ruleset_attr handled = { .handled_access_fs = changes(abi) };
	int rules, err = 0;

	opens_below = true;
	for (size_t i = 0; i < n; i++)
		removes |= listeners[i].unix_path != NULL;
	if (abi < 1)
		return -errno;
	if (COVERED)
		return 0;
	rules = (int)syscall(SYS_landlock_create_ruleset, &handled,
			     sizeof(handled.handled_access_fs), 0);
	if (rules < 0)
		return -errno;
	for (size_t i = 0; i < n && err == 0; i++)
		if (listeners[i].unix_path != NULL)
			err = allow_removal(rules, listeners[i].unix_path);
	if (err == 0 && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
			 syscall(SYS_landlock_restrict_self, rules, 0) != 0))
		err = -errno;
	close(rules);
	return err;
}

/* ---- system calls: seccomp ---- */

#ifdef HAVE_LIBSECCOMP

#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* What the broker, the C library below it and a reload need, whatever the arguments. Everything
 * else is refused. */
static const int allowed[] = {
	/* rings and sockets, which are there */
	SCMP_SYS(io_uring_enter),
	SCMP_SYS(io_uring_register),
	SCMP_SYS(shutdown),
	SCMP_SYS(getsockopt),
	SCMP_SYS(setsockopt),
	SCMP_SYS(getsockname),
	SCMP_SYS(getpeername),
	/* to read files, to log, and to tell the service manager */
	SCMP_SYS(read),
	SCMP_SYS(readv),
	SCMP_SYS(pread64),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(close),
	SCMP_SYS(lseek),
	SCMP_SYS(_llseek),
	SCMP_SYS(stat),
	SCMP_SYS(lstat),
	SCMP_SYS(fstat),
	SCMP_SYS(fstat64),
	SCMP_SYS(newfstatat),
	SCMP_SYS(statx),
	SCMP_SYS(access),
	SCMP_SYS(faccessat),
	SCMP_SYS(readlink),
	SCMP_SYS(readlinkat),
	SCMP_SYS(getcwd),
	SCMP_SYS(getdents64),
	SCMP_SYS(fadvise64),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(select),
	SCMP_SYS(pselect6),
	SCMP_SYS(sendmsg),
	SCMP_SYS(sendto),
	/* memory */
	SCMP_SYS(brk),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	/* threads, signals, time */
	SCMP_SYS(futex),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(set_tid_address),
	SCMP_SYS(rseq),
	SCMP_SYS(membarrier),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(getcpu),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigtimedwait),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigpending),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(nanosleep),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_getres),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(time),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	/* questions about itself and the machine */
	SCMP_SYS(getpid),
	SCMP_SYS(getppid),
	SCMP_SYS(gettid),
	SCMP_SYS(getuid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getegid),
	SCMP_SYS(getrlimit),
	SCMP_SYS(getrusage),
	SCMP_SYS(sysinfo),
	SCMP_SYS(uname),
	SCMP_SYS(getrandom),
};

/* Of a sanitizer, at the end of the program. */
static const int sanitizers[] = {
	SCMP_SYS(clone), SCMP_SYS(ptrace), SCMP_SYS(wait4),    SCMP_SYS(waitid),
	SCMP_SYS(prctl), SCMP_SYS(mmap),   SCMP_SYS(mprotect), SCMP_SYS(pipe2),
	SCMP_SYS(dup),   SCMP_SYS(pipe),   SCMP_SYS(getdents),
};

/* Of a coverage run, likewise. */
static const int writers[] = { SCMP_SYS(open),  SCMP_SYS(openat),    SCMP_SYS(fcntl),
			       SCMP_SYS(mkdir), SCMP_SYS(ftruncate), SCMP_SYS(mmap) };

static int allow_all(scmp_filter_ctx filter, const int *calls, size_t n)
{
	int err = 0;

	for (size_t i = 0; i < n; i++)
		err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
	return err;
}

static int allow(scmp_filter_ctx filter, int call, struct scmp_arg_cmp when)
{
	return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, 1, &when);
}

static int allow_reading(scmp_filter_ctx filter)
{
	static const scmp_datum_t other = O_ACCMODE | O_CREAT | O_TRUNC;
	static const scmp_datum_t commands[] = { F_GETFD, F_SETFD, F_GETFL };
	int err = allow(filter, SCMP_SYS(open), SCMP_A1(SCMP_CMP_MASKED_EQ, other, O_RDONLY));

	err |= allow(filter, SCMP_SYS(openat), SCMP_A2(SCMP_CMP_MASKED_EQ, other, O_RDONLY));
	/* Not whom signals of a file go to. */
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		err |= allow(filter, SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, commands[i], 0));
	/* Its flags are in memory, which a filter cannot see: that no file is changed is for
	 * Landlock. Nobody insists on it. */
	err |= seccomp_rule_add(filter, opens_below ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(ENOSYS),
				SCMP_SYS(openat2), 0);
	if (removes) {
		err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(unlink), 0);
		err |= allow(filter, SCMP_SYS(unlinkat), SCMP_A2(SCMP_CMP_EQ, 0, 0));
	}
	return err;
}

/* Threads may be made: they share the memory and the filter. Signals are for itself: its own
 * threads end it by one, and so does abort. */
static int allow_threads(scmp_filter_ctx filter)
{
	scmp_datum_t self = (scmp_datum_t)getpid();
	int err = allow(filter, SCMP_SYS(kill), SCMP_A0(SCMP_CMP_EQ, self, 0));

	err |= allow(filter, SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_EQ, self, 0));
	err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2,
				SCMP_A0(SCMP_CMP_EQ, 0, 0), SCMP_A2(SCMP_CMP_EQ, 0, 0));
	/* Its flags are in memory too; the C library falls back to clone. */
	err |= seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (SANITIZED)
		return err | allow_all(filter, sanitizers, sizeof(sanitizers) / sizeof(int));
	err |= allow(filter, SCMP_SYS(clone),
		     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
	err |= allow(filter, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME, 0));
	/* No code beside what is there. */
	err |= allow(filter, SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	err |= allow(filter, SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	return err;
}

/* A datagram for each thing to say (sd_notify(3)). */
static int allow_notifying(scmp_filter_ctx filter)
{
	int err = 0;

	if (getenv("NOTIFY_SOCKET") == NULL)
		return 0;
	err |= allow(filter, SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0));
	err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(connect), 0);
	return err;
}

/* Sockets that the ring connects, and what it takes to look names up: datagrams to a name server,
 * and a question to the kernel about the addresses of this host (getaddrinfo(3), RFC 6724). */
static int allow_dialling(scmp_filter_ctx filter)
{
	static const int lookups[] = { SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(sendmmsg),
				       SCMP_SYS(recvfrom), SCMP_SYS(recvmsg) };
	int err = 0;

	if (!dials)
		return 0;
	err |= allow_all(filter, lookups, sizeof(lookups) / sizeof(int));
	err |= allow(filter, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, FIONREAD, 0));
	err |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2,
				SCMP_A0(SCMP_CMP_EQ, AF_NETLINK, 0),
				SCMP_A2(SCMP_CMP_EQ, NETLINK_ROUTE, 0));
	err |= allow(filter, SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_INET, 0));
	err |= allow(filter, SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_INET6, 0));
	return err;
}

static int rules(scmp_filter_ctx filter)
{
	int err = allow_all(filter, allowed, sizeof(allowed) / sizeof(int));

	err |= allow_reading(filter);
	err |= allow_threads(filter);
	err |= allow_notifying(filter);
	err |= allow_dialling(filter);
	if (COVERED)
		err |= allow_all(filter, writers, sizeof(writers) / sizeof(int));
	return err;
}

int sandbox_enter(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int err;

	if (filter == NULL)
		return -ENOMEM;
	err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	/* A search instead of a walk, as every call of a reactor passes through it. */
	if (err == 0)
		err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (err == 0 && rules(filter) != 0)
		err = -EINVAL;
	if (err == 0)
		err = seccomp_load(filter);
	seccomp_release(filter);
	return err;
}

#else

int sandbox_enter(void)
{
	return -ENOSYS;
}

#endif
