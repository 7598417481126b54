#include "admin/host.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "engine/placement.h"

enum {
	SPARE_FDS = 64,           /* beside those of connections: rings, listeners, log */
	FILES_AT_START = 1 << 20, /* at most, that the table of files has places for: 8 MiB */
	LISTEN_BACKLOG = 4096,
	SQE_BYTES = 64,
	CQE_BYTES = 16,
	CQ_PER_SQ = 4,
	SAMPLED = 4, /* of many cpus in the same state so many are named */
};

struct report {
	const char *root;
	const struct host_wants *wants;
	host_warn *warn;
	void *context;
	unsigned n;
};

static void say(struct report *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct report *r, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	r->warn(r->context, text);
	r->n++;
}

/* The first line of a file below the root, without its end. */
static bool read_line(const struct report *r, char *line, size_t size, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static bool read_line(const struct report *r, char *line, size_t size, const char *format, ...)
{
	char path[PATH_MAX];
	size_t used = (size_t)snprintf(path, sizeof(path), "%s/", r->root);
	va_list args;
	bool ok;
	FILE *f;

	if (used >= sizeof(path))
		return false;
	va_start(args, format);
	vsnprintf(path + used, sizeof(path) - used, format, args);
	va_end(args);
	f = fopen(path, "re");
	if (f == NULL)
		return false;
	ok = fgets(line, (int)size, f) != NULL;
	fclose(f);
	if (ok)
		line[strcspn(line, "\n")] = 0;
	return ok;
}

static bool read_number(const struct report *r, const char *path, long long *value)
{
	char line[64], *end;

	if (!read_line(r, line, sizeof(line), "%s", path))
		return false;
	*value = strtoll(line, &end, 10);
	return end != line;
}

/* "0-3,8,10-11": calls for every number; stops when the callback is false. */
static bool each_of_list(const char *list, bool (*callback)(void *context, int number),
			 void *context)
{
	while (*list != 0) {
		char *end;
		long from = strtol(list, &end, 10), to = from;

		if (end == list)
			break;
		if (*end == '-')
			to = strtol(end + 1, &end, 10);
		for (long i = from; i <= to && i < INT_MAX; i++)
			if (!callback(context, (int)i))
				return false;
		list = *end == ',' ? end + 1 : end;
	}
	return true;
}

static bool count(void *context, int number)
{
	(void)number;
	++*(unsigned *)context;
	return true;
}

/* ---- the kernel ---- */

static void check_kernel(struct report *r)
{
	const struct host_wants *w = r->wants;
	unsigned major, minor, version;
	long long disabled;
	char line[128];

	if (read_line(r, line, sizeof(line), "proc/sys/kernel/osrelease") &&
	    sscanf(line, "%u.%u", &major, &minor) == 2) {
		version = major * 1000 + minor;
		if (version < 6001)
			say(r, "Linux %s is too old: 6.1 or newer is needed", line);
		else if (version < 6012 && w->linger_us > 0)
			say(r,
			    "engine.linger_us needs Linux 6.12, this is %s: it will wait for one "
			    "completion only",
			    line);
	}
	if (read_number(r, "proc/sys/kernel/io_uring_disabled", &disabled) && disabled > 0)
		say(r,
		    "kernel.io_uring_disabled is %lld: %s; set it to 0, or io_uring_group to the "
		    "broker's group",
		    disabled,
		    disabled == 1 ? "only root and the group in kernel.io_uring_group get a ring"
				  : "nobody gets a ring");
}

static void check_settings(struct report *r)
{
	const struct host_wants *w = r->wants;
	long long value;

	if (read_number(r, "proc/sys/net/core/somaxconn", &value) && value < LISTEN_BACKLOG)
		say(r,
		    "net.core.somaxconn is %lld: when many clients connect at once those beyond "
		    "it wait for "
		    "seconds; set it to %d",
		    value, LISTEN_BACKLOG);
	if (read_number(r, "proc/sys/net/core/wmem_max", &value) && value > 0 &&
	    (uint64_t)value < w->send_buffer_bytes)
		say(r,
		    "net.core.wmem_max is %lld and cuts limits.send_buffer_bytes (%llu): large "
		    "messages go out in more pieces; raise it",
		    value, (unsigned long long)w->send_buffer_bytes);
}

static void check_limits(struct report *r)
{
	const struct host_wants *w = r->wants;
	rlim_t files = (rlim_t)w->connections + SPARE_FDS;

	if (w->files_max != RLIM_INFINITY && w->files_max < files)
		say(r,
		    "limits.connections is %u but RLIMIT_NOFILE allows %llu files: raise it "
		    "(ulimit -n, LimitNOFILE=)",
		    w->connections, (unsigned long long)w->files_max);
	if (w->locked_max != RLIM_INFINITY && w->locked_max < w->ring_bytes)
		say(r,
		    "the rings of %u reactors take about %llu KiB of locked memory but "
		    "RLIMIT_MEMLOCK allows "
		    "%llu KiB: they will be smaller; raise it (ulimit -l, LimitMEMLOCK=)",
		    w->reactors, (unsigned long long)w->ring_bytes / 1024,
		    (unsigned long long)w->locked_max / 1024);
}

/* ---- processors ---- */

static void check_share(struct report *r)
{
	const struct host_wants *w = r->wants;
	unsigned online = 0;
	char line[1024];

	if (read_line(r, line, sizeof(line), "sys/devices/system/cpu/online")) {
		each_of_list(line, count, &online);
		if (w->threads < online)
			say(r,
			    "this process may use %u of %u hardware threads (cpuset or affinity): "
			    "the plan is made for those",
			    w->threads, online);
	}
	if (w->quota > 0)
		say(r,
		    "a CPU quota of %.2f cores stops all reactors for the rest of a period "
		    "(100 ms mostly) when it is used up, and shows in p99: give whole cores by "
		    "cpuset instead",
		    w->quota);
}

struct neighbours {
	const struct report *report;
	unsigned reactor;
	int other; /* a lower-numbered reactor on the same core */
};

static bool find_neighbour(void *context, int cpu)
{
	struct neighbours *n = context;

	for (unsigned i = 0; i < n->reactor; i++)
		if (n->report->wants->cpus[i] == cpu) {
			n->other = (int)i;
			return false;
		}
	return true;
}

static void check_siblings(struct report *r)
{
	const struct host_wants *w = r->wants;
	unsigned shared = 0, first = 0;
	int with = -1;
	char line[256];

	for (unsigned i = 0; i < w->reactors; i++) {
		struct neighbours n = { r, i, -1 };

		if (w->cpus[i] < 0 ||
		    !read_line(r, line, sizeof(line),
			       "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
			       w->cpus[i]))
			continue;
		each_of_list(line, find_neighbour, &n);
		if (n.other < 0)
			continue;
		if (shared++ == 0) {
			first = i;
			with = n.other;
		}
	}
	if (shared > 0)
		say(r,
		    "%u reactor%s a core with another one (reactors %d and %u the first): two "
		    "threads of a core do the work of about 1.3; one reactor per core is "
		    "reactors = \"auto\" with placement = \"cores\"",
		    shared, shared == 1 ? " shares" : "s share", with, first);
}

static void check_governor(struct report *r)
{
	const struct host_wants *w = r->wants;
	unsigned slow = 0;
	char line[64], governor[64] = "", cpus[128] = "";
	size_t used = 0;

	for (unsigned i = 0; i < w->reactors; i++) {
		if (w->cpus[i] < 0 ||
		    !read_line(r, line, sizeof(line),
			       "sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor",
			       w->cpus[i]) ||
		    strcmp(line, "performance") == 0 || strcmp(line, "schedutil") == 0)
			continue;
		memcpy(governor, line, sizeof(governor));
		if (slow++ < SAMPLED)
			used += (size_t)snprintf(cpus + used, sizeof(cpus) - used, " %d",
						 w->cpus[i]);
	}
	if (slow > 0)
		say(r,
		    "the frequency governor of cpu%s%s is %s: a parked reactor wakes up slowly; "
		    "set it to performance (tune.sh)",
		    cpus, slow > SAMPLED ? " ..." : "", governor);
}

/* ---- network cards ---- */

static unsigned count_queues(const struct report *r, const char *interface, const char *prefix)
{
	char path[PATH_MAX];
	struct dirent *e;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/sys/class/net/%s/queues", r->root, interface);
	dir = opendir(path);
	if (dir == NULL)
		return 0;
	while ((e = readdir(dir)) != NULL)
		n += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
	closedir(dir);
	return n;
}

/* Whether packets that came in by a queue are spread over cpus in software. */
static bool spread_by_software(const struct report *r, const char *interface)
{
	char line[256];

	return read_line(r, line, sizeof(line), "sys/class/net/%s/queues/rx-0/rps_cpus",
			 interface) &&
	       line[strspn(line, "0,")] != 0;
}

/* A card, and not a bridge, a tunnel or the loopback. */
static bool is_card(const struct report *r, const char *interface)
{
	char path[PATH_MAX], line[32];

	snprintf(path, sizeof(path), "%s/sys/class/net/%s/device", r->root, interface);
	return access(path, F_OK) == 0 &&
	       (!read_line(r, line, sizeof(line), "sys/class/net/%s/operstate", interface) ||
		strcmp(line, "down") != 0);
}

static void check_card(struct report *r, const char *interface)
{
	const struct host_wants *w = r->wants;
	unsigned queues = count_queues(r, interface, "rx-");

	if (queues == 0)
		return;
	if (queues < w->reactors && !spread_by_software(r, interface))
		say(r,
		    "%s has %u receive queue%s for %u reactors: the cores of those queues do the "
		    "network's work of all; tune.sh raises them (ethtool -L) or spreads by "
		    "software (RPS)",
		    interface, queues, queues == 1 ? "" : "s", w->reactors);
	if (w->steered && queues != w->reactors)
		say(r,
		    "engine.steer = \"cpu\" wants one receive queue for each reactor: %s has %u "
		    "for %u, and reactors without one get no connections",
		    interface, queues, w->reactors);
}

static void check_cards(struct report *r)
{
	char path[PATH_MAX];
	struct dirent **list;
	int n;

	if (!r->wants->remote) {
		if (r->wants->steered)
			say(r, "engine.steer = \"cpu\" without a listener beyond this host follows "
			       "the clients' cpus: take \"none\"");
		return;
	}
	snprintf(path, sizeof(path), "%s/sys/class/net", r->root);
	n = scandir(path, &list, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		if (list[i]->d_name[0] != '.' && is_card(r, list[i]->d_name))
			check_card(r, list[i]->d_name);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
}

unsigned host_check(const char *root, const struct host_wants *wants, host_warn *warn,
		    void *context)
{
	struct report r = { root, wants, warn, context, 0 };

	check_kernel(&r);
	check_limits(&r);
	check_settings(&r);
	check_share(&r);
	check_siblings(&r);
	check_governor(&r);
	check_cards(&r);
	return r.n;
}

/* ---- this host ---- */

static bool any_remote(const struct config *config)
{
	for (size_t i = 0; i < config->listens_n; i++) {
		const char *address = config->listens[i].address;

		if (strncmp(address, "127.", 4) != 0 && strncmp(address, "[::1]", 5) != 0 &&
		    strncmp(address, "unix:", 5) != 0)
			return true;
	}
	return false;
}

static void print_warning(void *out, const char *text)
{
	fprintf(out, "warning: %s\n", text);
}

void host_print(FILE *out, const struct config *config, const struct placement *placement)
{
	const struct config_engine *e = &config->engine;
	struct rlimit files = { RLIM_INFINITY, RLIM_INFINITY }, locked = files;
	int *cpus = malloc(placement->slots_n * sizeof(*cpus));
	struct host_wants wants = {
		.reactors = placement->slots_n,
		.cpus = cpus,
		.threads = placement->threads,
		.quota = placement->quota,
		.connections = config->limits.connections,
		.send_buffer_bytes = config->limits.send_buffer_bytes,
		.linger_us = e->linger_us,
		.remote = any_remote(config),
		.steered = e->steer == STEER_CPU,
	};

	if (cpus == NULL)
		return;
	for (unsigned i = 0; i < placement->slots_n; i++)
		cpus[i] = placement->slots[i].cpu;
	(void)getrlimit(RLIMIT_NOFILE, &files);
	(void)getrlimit(RLIMIT_MEMLOCK, &locked);
	wants.files_max = files.rlim_max;
	/* The kernel does not count root's. */
	wants.locked_max = geteuid() == 0 ? RLIM_INFINITY : locked.rlim_cur;
	wants.ring_bytes =
		(uint64_t)placement->slots_n * e->sq_entries * (SQE_BYTES + CQ_PER_SQ * CQE_BYTES) +
		(uint64_t)placement->slots_n * e->recv_buffers * CQE_BYTES;
	host_check("", &wants, print_warning, out);
	free(cpus);
}

rlim_t host_files(const struct config *config)
{
	rlim_t wanted = (rlim_t)config->limits.connections + SPARE_FDS;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
		return wanted;
	log_warn("limits.connections is %u but RLIMIT_NOFILE allows %llu files: raise it "
		 "(ulimit -n, LimitNOFILE=)",
		 config->limits.connections, (unsigned long long)limit.rlim_cur);
	return limit.rlim_cur;
}

void host_prepare_files(const struct config *config)
{
	struct rlimit limit;
	rlim_t wanted;
	int last;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	if (limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
	wanted = host_files(config);
	last = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC,
		     (int)(wanted < FILES_AT_START ? wanted : FILES_AT_START) - 1);
	if (last >= 0)
		close(last);
}
