#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <signal.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "admin/sandbox.h"
#include "broker/listener.h"
#include "child.h"

/* Its own copy, to put requests on a ring that ring.h has no function for. */
#include "../../src/engine/ring.c"

/* ---- system calls ---- */

static bool eperm(long result)
{
	return result == -1 && errno == EPERM;
}

static void try_files(void)
{
	struct open_how how = { .flags = O_RDONLY };
	char byte;
	int fd;

	fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	EXPECT(fd >= 0 && read(fd, &byte, 1) == 1);
	close(fd);
	EXPECT(eperm(open("/dev/null", O_WRONLY)));
	EXPECT(eperm(open("/dev/null", O_RDWR)));
	EXPECT(eperm(open("/tmp", O_TMPFILE | O_WRONLY, 0600)));
	EXPECT(eperm(openat(AT_FDCWD, "/tmp/never", O_RDONLY | O_CREAT, 0600)));
	EXPECT(eperm(open("/dev/null", O_RDONLY | O_TRUNC)));
	EXPECT(eperm(creat("/tmp/never", 0600)));
	EXPECT(syscall(SYS_openat2, AT_FDCWD, "/dev/null", &how, sizeof(how)) == -1 &&
	       errno == ENOSYS);
	EXPECT(eperm(rename("/tmp/never", "/tmp/never2")));
	EXPECT(eperm(truncate("/tmp/never", 0)));
	EXPECT(eperm(memfd_create("never", 0)));
}

static void try_programs(void)
{
	char *const none[] = { NULL };
	struct io_uring_params params = { 0 };

	EXPECT(eperm(execve("/bin/true", none, none)));
	EXPECT(eperm(syscall(SYS_execveat, AT_FDCWD, "/bin/true", none, none, 0)));
	EXPECT(eperm(syscall(SYS_io_uring_setup, 8, &params)));
	EXPECT(eperm(kill(getppid(), 0)));
	EXPECT(kill(getpid(), 0) == 0);
	EXPECT(eperm(syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0)));
	EXPECT(eperm(syscall(SYS_bpf, 0, NULL, 0)));
	EXPECT(eperm(syscall(SYS_unshare, 0)));
#ifndef WITH_ASAN
	EXPECT(eperm(ptrace(PTRACE_TRACEME, 0, NULL, NULL)));
	EXPECT(eperm(fork()));
	EXPECT(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		       MAP_FAILED &&
	       errno == EPERM);
#endif
}

/* What would reach others of the same user. */
static void try_others(void)
{
	struct rlimit limit = { 1, 1 };
	siginfo_t info = { .si_signo = SIGUSR1, .si_code = SI_QUEUE };

	EXPECT(eperm(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &info)));
	EXPECT(eperm(syscall(SYS_rt_tgsigqueueinfo, getppid(), getppid(), SIGUSR1, &info)));
	EXPECT(eperm(syscall(SYS_tgkill, getppid(), getppid(), 0)));
	EXPECT(eperm(syscall(SYS_prlimit64, getppid(), RLIMIT_CPU, &limit, NULL)));
	EXPECT(eperm(syscall(SYS_prlimit64, 0, RLIMIT_CPU, &limit, NULL)));
	EXPECT(eperm(setpriority(PRIO_PROCESS, (id_t)getppid(), 10)));
	EXPECT(eperm(sched_setaffinity(getppid(), 0, NULL)));
	EXPECT(eperm(fcntl(STDERR_FILENO, F_SETOWN, getppid())));
	EXPECT(eperm(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0700)));
	EXPECT(eperm((long)shmat(0, NULL, SHM_EXEC)));
	EXPECT(eperm(unlink("/tmp/never")));
	EXPECT(eperm(unlinkat(AT_FDCWD, "/tmp/never", 0)));
	EXPECT(eperm(socket(AF_INET, SOCK_STREAM, 0)));
	EXPECT(eperm(socket(AF_UNIX, SOCK_STREAM, 0)));
	EXPECT(eperm(bind(0, NULL, 0)) && eperm(listen(0, 1)) && eperm(connect(0, NULL, 0)));
}

static void *try_in_thread(void *argument)
{
	EXPECT(eperm(open("/dev/null", O_WRONLY)));
	return argument;
}

struct other {
	pthread_mutex_t lock;
	pthread_t id;
};

static void *wait_and_try(void *argument)
{
	struct other *other = argument;

	pthread_mutex_lock(&other->lock);
	pthread_mutex_unlock(&other->lock);
	return try_in_thread(argument);
}

static void enter_and_try(void)
{
	struct other before = { .lock = PTHREAD_MUTEX_INITIALIZER };
	pthread_t after;

	pthread_mutex_lock(&before.lock);
	EXPECT(pthread_create(&before.id, NULL, wait_and_try, &before) == 0);
	EXPECT(sandbox_enter() == 0);
	pthread_mutex_unlock(&before.lock);
	try_files();
	try_programs();
	try_others();
	EXPECT(pthread_join(before.id, NULL) == 0);
	EXPECT(pthread_create(&after, NULL, try_in_thread, NULL) == 0);
	EXPECT(pthread_join(after, NULL) == 0);
}

static void sandbox_refuses_what_it_says_to_threads_before_and_after(void **state)
{
	(void)state;
	in_child(enter_and_try);
}

static char directory[] = "/tmp/broker-sandbox-XXXXXX", stranger[] = "/tmp/broker-file-XXXXXX";
static char path[64];

/* What it keeps of files where it serves unix sockets and reads objects. */
static void enter_with_files_and_try(void)
{
	struct open_how reading = { .flags = O_RDONLY, .resolve = RESOLVE_BENEATH };
	struct open_how writing = { .flags = O_WRONLY, .resolve = RESOLVE_BENEATH };
	struct listener listener = { .unix_path = path };
	int root = open(directory, O_RDONLY | O_DIRECTORY), fd, err;

	err = sandbox_files(&listener, 1);
	if (err == 0) {
		EXPECT(open("/dev/null", O_WRONLY) == -1 && errno == EACCES);
		EXPECT(mkdir("/tmp/never", 0700) == -1 && errno == EACCES);
		EXPECT(unlink(stranger) == -1 && errno == EACCES);
	}
	EXPECT(sandbox_enter() == 0);
	fd = (int)syscall(SYS_openat2, root, "socket", &reading, sizeof(reading));
	EXPECT(fd >= 0);
	if (err == 0)
		EXPECT(syscall(SYS_openat2, root, "socket", &writing, sizeof(writing)) == -1 &&
		       errno == EACCES);
	EXPECT(unlink(path) == 0);
	/* Without Landlock the log says that files are not restricted. */
	EXPECT(err == 0 || err == -ENOSYS || err == -EOPNOTSUPP);
}

static void sandbox_removes_the_files_of_its_sockets_and_changes_no_other(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(directory));
	assert_int_equal(close(mkstemp(stranger)), 0);
	snprintf(path, sizeof(path), "%.40s/socket", directory);
	assert_int_equal(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
	in_child(enter_with_files_and_try);
	assert_int_equal(rmdir(directory), 0);
	unlink(stranger);
}

static void enter_and_abort(void)
{
	EXPECT(sandbox_enter() == 0);
	abort();
}

static void program_that_aborts_in_the_sandbox_is_ended_by_its_signal(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		enter_and_abort();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* ---- rings ---- */

static const struct ring_params small = { .sq_entries = 16,
					  .batch = 8,
					  .recv_buffers = 8,
					  .recv_buffer_bytes = 4096,
					  .restricted = true };

static void remember(void *context, const struct completion *c)
{
	*(struct completion *)context = *c;
}

static struct completion complete(struct ring *ring)
{
	struct completion c = { .result = 1 };

	ring_enter(ring, true, 0);
	assert_int_equal(ring_reap(ring, 1, remember, &c), 1);
	return c;
}

static void restricted_ring_refuses_other_requests(void **state)
{
	struct ring *ring;
	struct io_uring_sqe *sqe;
	struct completion c;

	(void)state;
	assert_int_equal(ring_new(&small, &ring), 0);
	assert_true(ring_restricted(ring));
	sqe = next_sqe(ring);
	io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_WRONLY, 0);
	sqe->user_data = 7;
	c = complete(ring);
	assert_int_equal(c.user_data, 7);
	assert_int_equal(c.result, -EACCES);
	sqe = next_sqe(ring);
	io_uring_prep_send(sqe, 0, "x", 1, 0);
	sqe->flags |= IOSQE_IO_LINK;
	sqe->user_data = 8;
	assert_int_equal(complete(ring).result, -EACCES);
	assert_int_equal(io_uring_register_eventfd(&ring->uring, 0), -EACCES);
	ring_free(ring);
}

static void restricted_ring_takes_every_request_of_its_header(void **state)
{
	struct ring *ring, *other;
	int pair[2];
	struct iovec spans[2] = { { (void *)(uintptr_t) "a", 1 }, { (void *)(uintptr_t) "b", 1 } };
	struct completion c;

	(void)state;
	assert_int_equal(ring_new(&small, &ring), 0);
	assert_int_equal(ring_new(&small, &other), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	ring_accept(ring, pair[0], 1);
	assert_int_not_equal(complete(ring).result, -EACCES);
	ring_recv(ring, pair[0], 2);
	ring_send(ring, pair[1], spans, 1, 3);
	assert_int_equal(complete(ring).result, 1);
	assert_int_equal(complete(ring).result, 1);
	ring_cancel(ring, 2, 4);
	complete(ring);
	complete(ring);
	ring_send(ring, pair[1], spans, 2, 5);
	assert_int_equal(complete(ring).result, 2);
	ring_recv_into(ring, pair[0], &(char[2]){ 0 }, 2, false, 6);
	assert_int_equal(complete(ring).result, 2);
	ring_cancel_fd(ring, pair[0], 7);
	assert_int_not_equal(complete(ring).result, -EACCES);
	ring_tick(ring, NS_PER_MS, 8);
	assert_int_equal(complete(ring).result, -ETIME);
	ring_tick_stop(ring, 8, 9);
	assert_int_not_equal(complete(ring).result, -EACCES);
	ring_wake(other, ring_fd(ring), 10);
	ring_submit(other);
	do
		c = complete(ring);
	while (c.user_data != 10);
	ring_free(ring);
	ring_free(other);
	close(pair[0]);
	close(pair[1]);
}

static void ring_is_free_unless_restricted(void **state)
{
	struct ring_params params = small;
	struct ring *ring;

	(void)state;
	params.restricted = false;
	assert_int_equal(ring_new(&params, &ring), 0);
	assert_false(ring_restricted(ring));
	io_uring_prep_nop(next_sqe(ring));
	assert_int_equal(complete(ring).result, 0);
	ring_free(ring);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(sandbox_refuses_what_it_says_to_threads_before_and_after),
		cmocka_unit_test(sandbox_removes_the_files_of_its_sockets_and_changes_no_other),
		cmocka_unit_test(program_that_aborts_in_the_sandbox_is_ended_by_its_signal),
		cmocka_unit_test(restricted_ring_refuses_other_requests),
		cmocka_unit_test(restricted_ring_takes_every_request_of_its_header),
		cmocka_unit_test(ring_is_free_unless_restricted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
