#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum {
	JOBS_MAX = 64,
	FAILURES_MAX = 20, /* then it stops */
	FAILURES_TOLD = 3, /* in full */
	REGRESSIONS_MAX = 1000,
	FIRE_SEEDS = 1000,   /* in so many, every kind of fault does something */
	UPSTREAM_EVERY = 13, /* of so many seeds one has topics of a cluster's */
	TWICE = 50,          /* every so many seeds one is played twice */
	SEED_SECONDS = 60,   /* of CPU: a seed that takes longer hangs; or so many times as long */
	WALL_FACTOR = 10,
	SHRINK_SECONDS = 20, /* spent on making a failure small */
};

static const char usage[] =
	"Usage: sim [--seeds N] [--first S] [--jobs J] [--regressions FILE]\n"
	"       sim --seed S [--shards N] [--clients N] [--steps N] [--faults none|kind,kind...]\n"
	"           [--many N] [--upstream 1|2] [--events N]\n"
	"\n"
	"The first plays N seeds and, before them, those of the file; the second plays one and "
	"shows\n"
	"its last events if it fails.\n";

struct options {
	uint64_t seeds, first, seed;
	bool single;
	unsigned jobs;
	const char *regressions;
	struct sim_params overrides; /* 0: as drawn from the seed */
	bool faults_given;
};

/* Between the processes. */
static struct shared {
	_Atomic uint64_t next, passed;
	_Atomic uint64_t current[JOBS_MAX];
	_Atomic uint64_t fired[FAULTS];
} * shared;

static const char *program = "sim";

void sim_give_up(void)
{
	_exit(1);
}

static struct sim_params regressions[REGRESSIONS_MAX];
static unsigned regressions_n;

/* ---- names ---- */

static bool parse_faults(const char *text, uint32_t *out)
{
	uint32_t faults = 0;

	while (*text != 0 && strcmp(text, "none") != 0) {
		size_t n = strcspn(text, ",");
		unsigned i = 0;

		while (i < FAULTS &&
		       (strlen(fault_names[i]) != n || memcmp(fault_names[i], text, n) != 0))
			i++;
		if (i == FAULTS)
			return false;
		faults |= 1u << i;
		text += n + (text[n] == ',');
	}
	*out = faults;
	return true;
}

static void print_command(FILE *out, const struct sim_params *p)
{
	bool any = false;

	fprintf(out, "--seed %" PRIu64 " --shards %u --clients %u --steps %u --faults ", p->seed,
		p->shards, p->clients, p->steps);
	for (unsigned i = 0; i < FAULTS; i++) {
		if (!(p->faults & 1u << i))
			continue;
		fprintf(out, "%s%s", any ? "," : "", fault_names[i]);
		any = true;
	}
	fprintf(out, "%s", any ? "" : "none");
	if (p->many > 0)
		fprintf(out, " --many %u", p->many);
	if (p->upstream > 0)
		fprintf(out, " --upstream %u", (unsigned)p->upstream);
	fputc('\n', out);
}

/* The options of one seed; false: this is none of them. */
static bool parse_option(struct options *o, const char *name, const char *value)
{
	unsigned number = (unsigned)strtoul(value, NULL, 10);

	if (strcmp(name, "--seed") == 0) {
		o->seed = strtoull(value, NULL, 10);
		o->single = true;
	} else if (strcmp(name, "--shards") == 0) {
		o->overrides.shards = number;
	} else if (strcmp(name, "--clients") == 0) {
		o->overrides.clients = number;
	} else if (strcmp(name, "--steps") == 0) {
		o->overrides.steps = number;
	} else if (strcmp(name, "--many") == 0) {
		o->overrides.many = number < MANY_MAX ? number : MANY_MAX;
	} else if (strcmp(name, "--upstream") == 0) {
		o->overrides.upstream = number < UPSTREAM_SIMS ? number : 0;
	} else if (strcmp(name, "--faults") == 0) {
		o->faults_given = true;
		return parse_faults(value, &o->overrides.faults);
	} else {
		return false;
	}
	return true;
}

static struct sim_params params_of(const struct options *o)
{
	struct sim_params p = sim_params_for(o->seed);

	p.shards = o->overrides.shards != 0 ? o->overrides.shards : p.shards;
	p.clients = o->overrides.clients != 0 ? o->overrides.clients : p.clients;
	p.steps = o->overrides.steps != 0 ? o->overrides.steps : p.steps;
	p.faults = o->faults_given ? o->overrides.faults : p.faults;
	p.many = o->overrides.many;
	p.upstream = o->overrides.upstream;
	return p;
}

/* A line is what comes after `sim`; # begins a comment. */
static int read_regressions(const char *path)
{
	FILE *f = fopen(path, "r");
	char line[500];

	if (f == NULL) {
		fprintf(stderr, "sim: %s cannot be read\n", path);
		return -1;
	}
	while (fgets(line, sizeof(line), f) != NULL && regressions_n < REGRESSIONS_MAX) {
		struct options o = { .single = false };
		char *name, *value, *save = NULL;

		line[strcspn(line, "#\n")] = 0;
		name = strtok_r(line, " ", &save);
		for (; name != NULL; name = strtok_r(NULL, " ", &save)) {
			value = strtok_r(NULL, " ", &save);
			if (value == NULL || !parse_option(&o, name, value)) {
				fprintf(stderr, "sim: %s: bad option %s\n", path, name);
				fclose(f);
				return -1;
			}
		}
		if (o.single)
			regressions[regressions_n++] = params_of(&o);
	}
	fclose(f);
	return 0;
}

/* ---- one seed ---- */

static void crashed(int sig)
{
	sim_trace_dump();
	fprintf(stderr, "seed %" PRIu64 ", step %" PRIu64 ": %s\n", sim.params.seed, sim.step,
		strsignal(sig));
	_exit(1);
}

/* CPU, so that a busy machine is no hang; by the clock, too, as nothing here waits for anything. */
static void hang_after(unsigned seconds)
{
	const struct itimerval cpu = { .it_value.tv_sec = seconds };

	setitimer(ITIMER_PROF, &cpu, NULL);
	alarm(seconds * WALL_FACTOR);
}

static int play_one(const struct sim_params *p)
{
	struct sigaction action = { .sa_handler = crashed };
	uint64_t once;

	hang_after(SEED_SECONDS);
	sigaction(SIGABRT, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGPROF, &action, NULL);
#ifdef WITH_ASAN
	__asan_set_death_callback(sim_trace_dump);
#else
	sigaction(SIGSEGV, &action, NULL);
#endif
	once = sim_run(p, true);
	if (sim_run(p, true) != once) {
		fprintf(stderr, "seed %" PRIu64 ": the second run differs\n", p->seed);
		return 1;
	}
	printf("seed %" PRIu64 " passed, trace %016" PRIx64 "\n", p->seed, once);
	return 0;
}

/* Whether it fails in a process of its own; quiet or telling all. */
static bool fails(const struct sim_params *p, bool quiet)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		if (quiet && freopen("/dev/null", "w", stderr) == NULL)
			_exit(1);
		if (!quiet)
			_exit(play_one(p));
		hang_after(SEED_SECONDS / 4);
		if (sim_run(p, false) != sim_run(p, false))
			_exit(1);
		_exit(0);
	}
	return pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
}

static bool better(struct sim_params *p, struct sim_params candidate, time_t until)
{
	if (candidate.shards == 0 || candidate.clients == 0 || candidate.steps == 0 ||
	    memcmp(p, &candidate, sizeof(*p)) == 0 || time(NULL) >= until ||
	    !fails(&candidate, true))
		return false;
	*p = candidate;
	return true;
}

/* Fewer shards, clients, steps and kinds of faults, as long as it still fails in some way. */
static struct sim_params shrink(struct sim_params p)
{
	time_t until = time(NULL) + SHRINK_SECONDS;
	bool any = true;

	while (any) {
		struct sim_params c;

		any = false;
		for (unsigned i = 0; i < FAULTS; i++) {
			c = p;
			c.faults &= ~(1u << i);
			any |= better(&p, c, until);
		}
		for (unsigned part = 2; part <= 8; part *= 2) {
			c = p;
			c.shards -= (c.shards + part - 1) / part;
			any |= better(&p, c, until);
			c = p;
			c.clients -= (c.clients + part - 1) / part;
			any |= better(&p, c, until);
			c = p;
			c.steps -= (c.steps + part - 1) / part;
			any |= better(&p, c, until);
		}
	}
	return p;
}

static void tell(struct sim_params p)
{
	fprintf(stderr, "\n==== seed %" PRIu64 " fails; making it smaller\n", p.seed);
	p = shrink(p);
	if (!fails(&p, false))
		fprintf(stderr, "now it passes: not only the seed decides\n");
	fprintf(stderr, "again: %s ", program);
	print_command(stderr, &p);
}

/* ---- many seeds ---- */

/* The cluster fails in most of them. */
static struct sim_params params_upstream(struct options o)
{
	struct sim_params p;

	if (o.overrides.upstream == 0)
		o.overrides.upstream =
			o.seed / UPSTREAM_EVERY % 3 == 0 ? UPSTREAM_SIM_CORE : UPSTREAM_SIM_LOG;
	p = params_of(&o);
	p.many = 0;
	if (o.seed / UPSTREAM_EVERY % 4 != 0 && !o.faults_given)
		p.faults |= 1u << FAULT_UPSTREAM;
	return p;
}

static struct sim_params params_at(const struct options *o, uint64_t index)
{
	struct options one = *o;

	if (index < regressions_n)
		return regressions[index];
	one.seed = o->first + index - regressions_n;
	/* The file's lines are what they were before there were such clients. */
	one.overrides.many = one.seed & 1 ? MANY_MAX : 0;
	if (o->overrides.upstream != 0 || one.seed % UPSTREAM_EVERY == 0)
		return params_upstream(one);
	return params_of(&one);
}

static void work(const struct options *o, unsigned job, uint64_t total)
{
	if (freopen("/dev/null", "w", stderr) == NULL)
		_exit(1);
	for (;;) {
		uint64_t index = atomic_fetch_add(&shared->next, 1), once;
		struct sim_params p;

		if (index >= total)
			_exit(0);
		atomic_store(&shared->current[job], index);
		p = params_at(o, index);
		hang_after(SEED_SECONDS);
		once = sim_run(&p, false);
		if (index % TWICE == 0 && sim_run(&p, false) != once)
			_exit(1);
		for (unsigned i = 0; i < FAULTS; i++)
			atomic_fetch_add(&shared->fired[i], sim.fired[i]);
		atomic_fetch_add(&shared->passed, 1);
	}
}

static pid_t start(const struct options *o, unsigned job, uint64_t total)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		work(o, job, total);
	return pid;
}

/* How often each kind has done something, in the seeds that passed. Whether it is any that never
 * has. */
static bool tell_faults(void)
{
	bool none = false;

	printf("faults:");
	for (unsigned i = 0; i < FAULTS; i++) {
		uint64_t n = atomic_load(&shared->fired[i]);

		printf(" %s %" PRIu64, fault_names[i], n);
		none |= n == 0;
	}
	putchar('\n');
	return none;
}

static int play_many(const struct options *o)
{
	uint64_t total = o->seeds + regressions_n, told = 0, failed[FAILURES_MAX];
	unsigned failed_n = 0, running = 0;
	const struct timespec pause = { .tv_nsec = 20000000 };
	time_t begun = time(NULL);
	pid_t pids[JOBS_MAX];

	for (unsigned i = 0; i < o->jobs; i++, running++)
		pids[i] = start(o, i, total);
	while (running > 0) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);
		uint64_t done = atomic_load(&shared->passed) + failed_n;

		for (; told + 1000 <= done; told += 1000)
			printf("%" PRIu64 " seeds, %u failed, %ld s\n", told + 1000, failed_n,
			       (long)(time(NULL) - begun));
		fflush(stdout);
		if (pid <= 0) {
			nanosleep(&pause, NULL);
			continue;
		}
		for (unsigned i = 0; i < o->jobs; i++) {
			if (pids[i] != pid)
				continue;
			running--;
			if (status == 0)
				break;
			failed[failed_n++] = atomic_load(&shared->current[i]);
			printf("seed %" PRIu64 " failed\n",
			       params_at(o, failed[failed_n - 1]).seed);
			if (failed_n == FAILURES_MAX)
				atomic_store(&shared->next, total);
			if (failed_n < FAILURES_MAX) {
				pids[i] = start(o, i, total);
				running++;
			}
			break;
		}
		if (failed_n == FAILURES_MAX)
			break;
	}
	while (failed_n == FAILURES_MAX && waitpid(-1, NULL, 0) > 0)
		;
	for (unsigned i = 0; i < failed_n && i < FAILURES_TOLD; i++)
		tell(params_at(o, failed[i]));
	if (tell_faults() && o->seeds >= FIRE_SEEDS && !o->faults_given) {
		fprintf(stderr, "sim: some kind of fault never does anything\n");
		return 1;
	}
	printf("sim: %" PRIu64 " passed, %u failed, %ld s\n", atomic_load(&shared->passed),
	       failed_n, (long)(time(NULL) - begun));
	return failed_n > 0;
}

int main(int argc, char **argv)
{
	struct options o = { .seeds = 1000,
			     .first = 1,
			     .jobs = (unsigned)sysconf(_SC_NPROCESSORS_ONLN) };
	struct sim_params p;

	if (argc > 0)
		program = argv[0];
	for (int i = 1; i < argc; i += 2) {
		if (i + 1 == argc) {
			fputs(usage, stderr);
			return 2;
		}
		if (strcmp(argv[i], "--seeds") == 0) {
			o.seeds = strtoull(argv[i + 1], NULL, 10);
		} else if (strcmp(argv[i], "--first") == 0) {
			o.first = strtoull(argv[i + 1], NULL, 10);
		} else if (strcmp(argv[i], "--jobs") == 0) {
			o.jobs = (unsigned)strtoul(argv[i + 1], NULL, 10);
		} else if (strcmp(argv[i], "--events") == 0) {
			sim_events = (unsigned)strtoul(argv[i + 1], NULL, 10);
		} else if (strcmp(argv[i], "--regressions") == 0) {
			o.regressions = argv[i + 1];
		} else if (!parse_option(&o, argv[i], argv[i + 1])) {
			fputs(usage, stderr);
			return 2;
		}
	}
	if (o.jobs == 0 || o.jobs > JOBS_MAX)
		o.jobs = 1;
	if (o.regressions != NULL && read_regressions(o.regressions) != 0)
		return 2;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		return 2;
	if (!o.single)
		return play_many(&o);
	p = params_of(&o);
	print_command(stdout, &p);
	fflush(stdout);
	return play_one(&p);
}
