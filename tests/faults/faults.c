/*
 * Makes the calls of a real broker fail: LD_PRELOAD it, and name a file of CONTROL_BYTES in FAULTS.
 * The file is mapped and shared with the test, which says in it what is to fail and reads what was
 * asked for and what has failed. Each kind of call has a struct fault of its own in it.
 *
 * A request fails before the kernel sees it: it goes in as a NOP, and its completion is given the
 * error. So nothing has been received, sent or accepted that the broker does not hear of, and a
 * multishot request is over, as it is when the kernel refuses it.
 */

#include "faults.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

enum { KINDS = KIND_REQUEST + IORING_OP_LAST };

/* Where the first call that failed came from: offsets into the executable, innermost first. */
enum { FRAMES_MAX = 24, SITES_MAX = 12 };

struct fault {
	_Atomic uint64_t at;   /* the so many'th call fails, or the next that may; 0: none */
	_Atomic uint64_t many; /* and those after it: so many in all */
	_Atomic uint64_t error;
	_Atomic uint64_t seen;  /* calls so far; the test sets it back */
	_Atomic uint64_t hits;  /* of them have failed */
	_Atomic uint64_t first; /* of these was the so many'th call */
};

static struct control {
	uint64_t sites[SITES_MAX];
	struct fault faults[KINDS];
} * control;

_Static_assert(sizeof(struct control) <= 4096, "CONTROL_BYTES in the test");

static char *executable; /* where it begins */

/*
 * libconfuse and hwloc do not look whether they were given memory. Nothing can be done about that
 * from outside, but to see to it that there is some left while they work (base/spare.h), which
 * single calls that fail cannot show. Nor does a sanitizer.
 */
static bool may_fail(void *const *frames, int n)
{
	static const char *const careless[] = { "libconfuse", "libhwloc", "libasan" };
	Dl_info info, self;
	bool outside = false; /* the frames are of our callers: the sanitizer has a backtrace too */

	if (dladdr(&control, &self) == 0)
		return true;
	for (int i = 0; i < n; i++) {
		if (dladdr(frames[i], &info) == 0)
			continue;
		outside |= info.dli_fbase == self.dli_fbase;
		if (info.dli_fbase == executable)
			return true;
		for (size_t k = 0; outside && k < sizeof(careless) / sizeof(*careless); k++)
			if (strstr(info.dli_fname, careless[k]) != NULL)
				return false;
	}
	return true;
}

static void tell_site(void *const *frames, int n)
{
	Dl_info info;
	unsigned sites = 0;

	memset(control->sites, 0, sizeof(control->sites));
	for (int i = 0; i < n && sites < SITES_MAX; i++)
		if (dladdr(frames[i], &info) != 0 && info.dli_fbase == executable)
			control->sites[sites++] = (uint64_t)((char *)frames[i] - executable) - 1;
}

int refuse(enum kind kind)
{
	static __thread bool inside;
	struct fault *f;
	uint64_t seen, at;
	void *frames[FRAMES_MAX];
	int n;

	if (control == NULL || inside)
		return 0;
	f = &control->faults[kind];
	seen = atomic_fetch_add(&f->seen, 1) + 1;
	at = atomic_load(&f->at);
	if (at == 0 || seen < at || atomic_load(&f->hits) >= atomic_load(&f->many))
		return 0;
	inside = true;
	n = backtrace(frames, FRAMES_MAX);
	inside = false;
	if (kind == KIND_MEMORY && !may_fail(frames, n))
		return 0;
	if (atomic_fetch_add(&f->hits, 1) == 0) {
		atomic_store(&f->first, seen);
		tell_site(frames, n);
	}
	return (int)atomic_load(&f->error);
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("FAULTS");
	int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *frames[FRAMES_MAX], *at;
	Dl_info info;

	if (fd < 0)
		return;
	/* Its first use loads a library. */
	(void)backtrace(frames, FRAMES_MAX);
	if (dladdr((void *)getauxval(AT_ENTRY), &info) != 0)
		executable = info.dli_fbase;
	at = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (at != MAP_FAILED)
		control = at;
}

void *next(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);

	if (f == NULL)
		abort();
	return f;
}

/* ---- memory ---- */

static bool no_memory(void)
{
	if (refuse(KIND_MEMORY) == 0)
		return false;
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	static void *(*real)(size_t);

	NEXT(real, "malloc");
	return no_memory() ? NULL : real(size);
}

void *calloc(size_t n, size_t size)
{
	static void *(*real)(size_t, size_t);

	NEXT(real, "calloc");
	return no_memory() ? NULL : real(n, size);
}

void *realloc(void *p, size_t size)
{
	static void *(*real)(void *, size_t);

	NEXT(real, "realloc");
	return no_memory() ? NULL : real(p, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	static void *(*real)(size_t, size_t);

	NEXT(real, "aligned_alloc");
	return no_memory() ? NULL : real(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
	static int (*real)(void **, size_t, size_t);

	NEXT(real, "posix_memalign");
	return no_memory() ? ENOMEM : real(out, alignment, size);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
	static void *(*real)(void *, size_t, int, int, int, off_t);

	NEXT(real, "mmap");
	return (flags & MAP_ANONYMOUS) && no_memory()
		       ? MAP_FAILED
		       : real(at, size, protection, flags, fd, offset);
}

int pthread_create(pthread_t *out, const pthread_attr_t *attributes, void *(*run)(void *),
		   void *argument)
{
	static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

	NEXT(real, "pthread_create");
	return no_memory() ? EAGAIN : real(out, attributes, run, argument);
}

/* ---- rings ---- */

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p)
{
	static int (*real)(unsigned, struct io_uring *, struct io_uring_params *);
	int error = refuse(KIND_SETUP);

	NEXT(real, "io_uring_queue_init_params");
	return error != 0 ? -error : real(entries, ring, p);
}

int io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *reg, unsigned flags)
{
	static int (*real)(struct io_uring *, struct io_uring_buf_reg *, unsigned);
	int error = refuse(KIND_REGISTER);

	NEXT(real, "io_uring_register_buf_ring");
	return error != 0 ? -error : real(ring, reg, flags);
}

/* Requests of this thread's ring, of which there is one, that have gone in as a NOP. */
enum { REFUSED_MAX = 4096 };
static __thread struct refused {
	uint64_t data;
	int error;
} refused[REFUSED_MAX];
static __thread unsigned refused_n, looked; /* at requests up to here */

static void look_at_requests(struct io_uring *ring)
{
	struct io_uring_sq *sq = &ring->sq;

	for (; looked != sq->sqe_tail; looked++) {
		struct io_uring_sqe *sqe = &sq->sqes[looked & *sq->kring_mask];
		int error = refuse(KIND_REQUEST + sqe->opcode);
		uint64_t data = sqe->user_data;

		if (error == 0 || refused_n == REFUSED_MAX)
			continue;
		refused[refused_n++] = (struct refused){ data, error };
		memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = IORING_OP_NOP;
		sqe->fd = -1;
		sqe->user_data = data;
	}
}

static void answer_refused(struct io_uring *ring)
{
	struct io_uring_cq *cq = &ring->cq;
	unsigned tail = refused_n > 0 ? *(volatile unsigned *)cq->ktail : 0;

	for (unsigned i = 0; i < refused_n;) {
		unsigned at = *cq->khead;
		struct io_uring_cqe *cqe = NULL;

		/* None of the requests that the broker makes ends with the 0 of a NOP, but for
		 * cancellations, of which one is as good as the other. */
		for (; at != tail && cqe == NULL; at++) {
			cqe = &cq->cqes[at & *cq->kring_mask];
			if (cqe->user_data != refused[i].data || cqe->res != 0 || cqe->flags != 0)
				cqe = NULL;
		}
		if (cqe == NULL) {
			i++;
			continue;
		}
		cqe->res = -refused[i].error;
		refused[i] = refused[--refused_n];
	}
}

static int enter(struct io_uring *ring, int (*real)(struct io_uring *),
		 int (*real_wait)(struct io_uring *, unsigned), unsigned wait)
{
	int n;

	look_at_requests(ring);
	n = refuse(KIND_ENTER);
	if (n != 0)
		return -n;
	n = real != NULL ? real(ring) : real_wait(ring, wait);
	answer_refused(ring);
	return n;
}

int io_uring_submit(struct io_uring *ring)
{
	static int (*real)(struct io_uring *);

	NEXT(real, "io_uring_submit");
	return enter(ring, real, NULL, 0);
}

int io_uring_submit_and_get_events(struct io_uring *ring)
{
	static int (*real)(struct io_uring *);

	NEXT(real, "io_uring_submit_and_get_events");
	return enter(ring, real, NULL, 0);
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait)
{
	static int (*real)(struct io_uring *, unsigned);

	NEXT(real, "io_uring_submit_and_wait");
	return enter(ring, NULL, real, wait);
}
