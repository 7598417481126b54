#include "engine/placement.h"

#include "base/span.h"
#include "base/spare.h"
#include "engine/placement_plan.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A hardware thread, and what decides when it is its turn to get a reactor. */
struct candidate {
	struct placement_slot slot;
	unsigned sibling; /* which thread of its core it is */
	unsigned rank;    /* which core of its NUMA node that core is */
	int node;         /* logical number of the NUMA node; -1: none */
};

static int by_turn(const void *left, const void *right)
{
	const struct candidate *a = left, *b = right;

	if (a->sibling != b->sibling)
		return a->sibling < b->sibling ? -1 : 1;
	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	return (a->node > b->node) - (a->node < b->node);
}

/* Of several nodes beside one core hwloc puts ordinary memory before the special kinds. */
static hwloc_obj_t node_of(hwloc_topology_t topology, hwloc_obj_t core)
{
	hwloc_obj_t node = NULL;

	do
		node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node);
	while (node != NULL && !hwloc_bitmap_intersects(node->cpuset, core->cpuset));
	return node;
}

/* A machine that tells nothing about its cores counts every thread as one. */
static int core_depth(hwloc_topology_t topology)
{
	return hwloc_get_type_or_below_depth(topology, HWLOC_OBJ_CORE);
}

/* Puts every thread into candidates in the order of their turns, and counts them. */
static void candidates_collect(hwloc_topology_t topology, struct candidate *candidates,
			       struct placement *placement)
{
	int depth = core_depth(topology);
	hwloc_obj_t core = NULL;
	unsigned n = 0;

	while ((core = hwloc_get_next_obj_by_depth(topology, depth, core)) != NULL) {
		hwloc_obj_t node = node_of(topology, core);
		struct candidate c = {
			.slot.core = (int)core->logical_index,
			.slot.numa = node != NULL ? (int)node->os_index : -1,
			.node = node != NULL ? (int)node->logical_index : -1,
		};

		/* Most often the last one is of the same node. */
		for (unsigned i = n; i > 0; i--) {
			if (candidates[i - 1].node == c.node) {
				c.rank = candidates[i - 1].rank + 1;
				break;
			}
		}
		for (int cpu = hwloc_bitmap_first(core->cpuset); cpu != -1;
		     cpu = hwloc_bitmap_next(core->cpuset, cpu)) {
			c.slot.cpu = cpu;
			candidates[n++] = c;
			c.sibling++;
		}
		placement->cores++;
	}
	placement->threads = n;
	qsort(candidates, n, sizeof(candidates[0]), by_turn);
}

/* How many busy reactors the quota feeds. */
static unsigned quota_reactors(double quota)
{
	unsigned n;

	if (quota <= 0 || quota >= UINT_MAX)
		return UINT_MAX;
	n = (unsigned)quota;
	return n < quota ? n + 1 : n;
}

int placement_plan(struct placement *placement, hwloc_topology_t topology, enum placement_mode mode,
		   unsigned reactors, double quota)
{
	int threads_max = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU);
	struct candidate *candidates;
	unsigned fed = quota_reactors(quota);

	*placement = (struct placement){ .quota = quota };
	if (threads_max <= 0)
		return -ENODEV;
	candidates = calloc((size_t)threads_max, sizeof(candidates[0]));
	if (candidates == NULL)
		return -ENOMEM;
	candidates_collect(topology, candidates, placement);
	assert(placement->threads > 0);

	if (reactors == 0) {
		reactors = mode == PLACE_THREADS ? placement->threads : placement->cores;
		if (reactors > fed)
			reactors = fed;
	}
	placement->oversubscribed = reactors > placement->threads || reactors > fed;
	placement->slots = calloc(reactors, sizeof(placement->slots[0]));
	if (placement->slots == NULL) {
		free(candidates);
		return -ENOMEM;
	}
	placement->slots_n = reactors;
	for (unsigned i = 0; i < reactors; i++) {
		placement->slots[i] = mode == PLACE_NONE ? (struct placement_slot){ -1, -1, -1 }
							 : candidates[i % placement->threads].slot;
	}
	free(candidates);
	return 0;
}

static void print_cpus(FILE *out, const char *before, hwloc_const_bitmap_t cpus, const char *after)
{
	char *list;

	if (hwloc_bitmap_list_asprintf(&list, cpus) < 0)
		return;
	fprintf(out, "%s%s%s", before, list, after);
	free(list);
}

static void print_number(FILE *out, int width, hwloc_obj_t obj)
{
	if (obj != NULL)
		fprintf(out, "%*d", width, (int)obj->os_index);
	else
		fprintf(out, "%*s", width, "-");
}

static void print_cores(FILE *out, hwloc_topology_t topology)
{
	int depth = core_depth(topology);
	hwloc_obj_t core = NULL;

	fputs("package  node  core  cpus\n", out);
	while ((core = hwloc_get_next_obj_by_depth(topology, depth, core)) != NULL) {
		print_number(out, 7,
			     hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_PACKAGE, core));
		print_number(out, 6, node_of(topology, core));
		fprintf(out, "%6u", core->logical_index);
		print_cpus(out, "  ", core->cpuset, "\n");
	}
}

static void print_unusable(FILE *out, hwloc_topology_t topology, const char *online)
{
	hwloc_bitmap_t cpus = hwloc_bitmap_alloc();

	if (cpus == NULL)
		return;
	if (hwloc_bitmap_list_sscanf(cpus, online) == 0) {
		hwloc_bitmap_andnot(cpus, cpus, hwloc_topology_get_topology_cpuset(topology));
		if (!hwloc_bitmap_iszero(cpus))
			print_cpus(out, "not usable: cpu ", cpus, " (cpuset or affinity)\n");
	}
	hwloc_bitmap_free(cpus);
}

void placement_report(FILE *out, hwloc_topology_t topology, const struct placement *placement,
		      enum placement_mode mode, const char *online)
{
	static const char *const names[] = {
		[PLACE_CORES] = "cores",
		[PLACE_THREADS] = "threads",
		[PLACE_NONE] = "none",
	};

	print_cores(out, topology);
	fprintf(out, "\nusable: %u core%s, %u hardware thread%s\n", placement->cores,
		placement->cores == 1 ? "" : "s", placement->threads,
		placement->threads == 1 ? "" : "s");
	if (online != NULL)
		print_unusable(out, topology, online);
	if (placement->quota > 0)
		fprintf(out, "CPU quota: %.2f cores\n", placement->quota);
	else
		fputs("CPU quota: none\n", out);

	fprintf(out, "\nplan: %u reactor%s, placement %s%s\n", placement->slots_n,
		placement->slots_n == 1 ? "" : "s", names[mode],
		placement->oversubscribed ? ", more than threads or quota can run at once" : "");
	for (unsigned i = 0; i < placement->slots_n; i++) {
		const struct placement_slot *slot = &placement->slots[i];

		if (slot->cpu < 0)
			fprintf(out, "reactor %u: not pinned\n", i);
		else if (slot->numa < 0)
			fprintf(out, "reactor %u: cpu %d (core %d)\n", i, slot->cpu, slot->core);
		else
			fprintf(out, "reactor %u: cpu %d (core %d, node %d)\n", i, slot->cpu,
				slot->core, slot->numa);
	}
}

/* Takes what comes before the next end, or all, from the front of rest, and drops that end. */
static struct span cut(struct span *rest, char end)
{
	const char *at = rest->len > 0 ? memchr(rest->data, end, rest->len) : NULL;
	struct span head = { rest->data, at != NULL ? (size_t)(at - rest->data) : rest->len };

	*rest = span_skip(*rest, at != NULL ? head.len + 1 : head.len);
	return head;
}

static bool list_has(struct span list, const char *word)
{
	do {
		if (span_equal(cut(&list, ','), span_of(word)))
			return true;
	} while (list.len > 0);
	return false;
}

/* Of the lines "id:controllers:path", the path of the one with this controller. */
static bool cgroup_path(struct span cgroups, const char *controller, struct span *path)
{
	while (cgroups.len > 0) {
		struct span line = cut(&cgroups, '\n');

		cut(&line, ':');
		if (list_has(cut(&line, ':'), controller) && line.len > 0 && line.data[0] == '/') {
			*path = line;
			return true;
		}
	}
	return false;
}

/* mountinfo writes blanks and backslashes as \ooo, and systemd's units have backslashes in names.
 */
static bool unescape(char out[static PATH_MAX], struct span in)
{
	size_t n = 0;

	for (size_t i = 0; i < in.len; i++) {
		unsigned c = (unsigned char)in.data[i];

		if (c == '\\' && in.len - i > 3) {
			c = 0;
			for (size_t digit = 1; digit <= 3; digit++)
				c = c << 3 | ((unsigned char)in.data[i + digit] & 7);
			i += 3;
		}
		if (n == PATH_MAX - 1)
			return false;
		out[n++] = (char)c;
	}
	out[n] = '\0';
	return true;
}

/* What of a path lies below root, with its slash. False: root is none of its ancestors. */
static bool path_below(struct span path, const char *root, struct span *below)
{
	size_t len = strcmp(root, "/") == 0 ? 0 : strlen(root);

	if (path.len < len || memcmp(path.data, root, len) != 0)
		return false;
	*below = span_skip(path, len);
	if (below->len > 0 && below->data[0] != '/')
		return false;
	if (below->len == 1)
		*below = span_skip(*below, 1);
	return true;
}

/* A line is "id parent device root mountpoint options optional... - type source superoptions". */
static bool mount_match(struct span line, const char *controller, struct span path,
			struct cgroup_dir *dir)
{
	struct span root_field, mount_field, type, below;
	char root[PATH_MAX];

	for (int i = 0; i < 3; i++)
		cut(&line, ' ');
	root_field = cut(&line, ' ');
	mount_field = cut(&line, ' ');
	while (line.len > 0 && !span_equal(cut(&line, ' '), SPAN("-")))
		;
	type = cut(&line, ' ');
	cut(&line, ' ');
	if (controller[0] == '\0'
		    ? !span_equal(type, SPAN("cgroup2"))
		    : !span_equal(type, SPAN("cgroup")) || !list_has(line, controller))
		return false;

	if (!unescape(root, root_field) || !unescape(dir->path, mount_field) ||
	    !path_below(path, root, &below))
		return false;
	dir->mount_len = strlen(dir->path);
	if (below.len >= sizeof(dir->path) - dir->mount_len)
		return false;
	memcpy(dir->path + dir->mount_len, below.data, below.len);
	dir->path[dir->mount_len + below.len] = '\0';
	return true;
}

bool placement_cgroup_find(struct cgroup_dir *dir, const char *cgroups, const char *mountinfo,
			   const char *controller)
{
	struct span mounts = span_of(mountinfo), path;

	if (!cgroup_path(span_of(cgroups), controller, &path))
		return false;
	/* Outside this process's cgroup namespace: its directory cannot be named. */
	if (path.len >= 3 && memcmp(path.data, "/..", 3) == 0)
		return false;
	while (mounts.len > 0) {
		if (mount_match(cut(&mounts, '\n'), controller, path, dir))
			return true;
	}
	return false;
}

double placement_quota_parse(const char *text)
{
	long long quota_us, period_us;

	if (sscanf(text, "%lld %lld", &quota_us, &period_us) != 2 || quota_us <= 0 ||
	    period_us <= 0)
		return 0;
	return (double)quota_us / (double)period_us;
}

static double smaller_quota(double a, double b)
{
	if (a <= 0 || b <= 0)
		return a <= 0 ? b : a;
	return a < b ? a : b;
}

/* A directory has the first file or the other two; either way the text is quota and period. */
static double quota_read(const char *path)
{
	static const char *const names[] = { "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us" };
	int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char text[128];
	size_t n = 0;

	if (dir < 0)
		return 0;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		int fd = openat(dir, names[i], O_RDONLY | O_CLOEXEC);
		ssize_t got;

		if (fd < 0)
			continue;
		got = read(fd, text + n, sizeof(text) - 1 - n);
		close(fd);
		if (got > 0)
			n += (size_t)got;
	}
	close(dir);
	text[n] = '\0';
	return placement_quota_parse(text);
}

double placement_cgroup_quota(struct cgroup_dir dir)
{
	size_t n = strlen(dir.path);
	double quota = quota_read(dir.path);

	while (n > dir.mount_len) {
		do
			n--;
		while (n > dir.mount_len && dir.path[n] != '/');
		dir.path[n] = '\0';
		quota = smaller_quota(quota, quota_read(dir.path));
	}
	return quota;
}

/* All of a text file, without its last newline; the caller frees. NULL: it cannot be read. */
static char *text_read(const char *path)
{
	FILE *file = fopen(path, "re");
	char *text = NULL;
	size_t size = 0;
	ssize_t n;

	if (file == NULL)
		return NULL;
	n = getdelim(&text, &size, '\0', file);
	fclose(file);
	if (n <= 0) {
		free(text);
		return NULL;
	}
	if (text[n - 1] == '\n')
		text[n - 1] = '\0';
	return text;
}

/* A cgroup that cannot be read limits nothing: too many reactors are slow, but none are no use. */
static double quota_here(void)
{
	static const char *const controllers[] = { "", "cpu" };
	char *cgroups = text_read("/proc/self/cgroup");
	char *mountinfo = text_read("/proc/self/mountinfo");
	struct cgroup_dir dir;
	double quota = 0;

	for (size_t i = 0; i < 2 && cgroups != NULL && mountinfo != NULL; i++) {
		if (placement_cgroup_find(&dir, cgroups, mountinfo, controllers[i]))
			quota = smaller_quota(quota, placement_cgroup_quota(dir));
	}
	free(mountinfo);
	free(cgroups);
	return quota;
}

int placement_topology_load(hwloc_topology_t *topology, const char *synthetic)
{
	static const unsigned long lean = HWLOC_TOPOLOGY_FLAG_NO_DISTANCES |
					  HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS |
					  HWLOC_TOPOLOGY_FLAG_NO_CPUKINDS;
	static const unsigned long here =
		HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM | HWLOC_TOPOLOGY_FLAG_RESTRICT_TO_CPUBINDING;
	hwloc_topology_t t;
	int rc;

	/* Plug-ins only look at devices, and leave graphics libraries in the process for good. */
	setenv("HWLOC_PLUGINS_PATH", "", 0);
	errno = 0;
	if (hwloc_topology_init(&t) != 0)
		return errno != 0 ? -errno : -ENOMEM;
	rc = hwloc_topology_set_all_types_filter(t, HWLOC_TYPE_FILTER_KEEP_NONE);
	rc |= hwloc_topology_set_type_filter(t, HWLOC_OBJ_PACKAGE, HWLOC_TYPE_FILTER_KEEP_ALL);
	rc |= hwloc_topology_set_type_filter(t, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
	/* Without groups every NUMA node of a package would seem to be beside all its cores. */
	rc |= hwloc_topology_set_type_filter(t, HWLOC_OBJ_GROUP, HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
	rc |= hwloc_topology_set_flags(t, synthetic != NULL ? lean : lean | here);
	if (synthetic != NULL)
		rc |= hwloc_topology_set_synthetic(t, synthetic);
	if (rc != 0 || hwloc_topology_load(t) != 0) {
		rc = errno != 0 ? -errno : -EIO;
		hwloc_topology_destroy(t);
		return rc;
	}
	*topology = t;
	return 0;
}

int placement_init(struct placement *placement, enum placement_mode mode, unsigned reactors)
{
	hwloc_topology_t topology;
	void *spare = spare_memory();
	int rc = spare != NULL ? placement_topology_load(&topology, NULL) : -ENOMEM;

	if (rc == 0) {
		rc = placement_plan(placement, topology, mode, reactors, quota_here());
		hwloc_topology_destroy(topology);
	}
	free(spare);
	return rc;
}

void placement_release(struct placement *placement)
{
	free(placement->slots);
	*placement = (struct placement){ 0 };
}

/* Containers often refuse this and kernels without NUMA do not know it; neither is worth failing.
 */
static void memory_prefer(int node)
{
	enum { NODES_MAX = 1024, WORD = 8 * sizeof(unsigned long) };
	unsigned long nodes[NODES_MAX / WORD] = { 0 };

	if (node < 0 || node >= NODES_MAX)
		return;
	nodes[node / WORD] = 1UL << (node % WORD);
	/* The kernel looks at one bit less than it is told. */
	(void)syscall(SYS_set_mempolicy, MPOL_PREFERRED, nodes, (unsigned long)NODES_MAX + 1);
}

int placement_bind(const struct placement_slot *slot)
{
	size_t cpu = (size_t)slot->cpu, bytes = CPU_ALLOC_SIZE(cpu + 1);
	cpu_set_t *cpus;
	int rc = 0;

	if (slot->cpu < 0)
		return 0;
	cpus = CPU_ALLOC(cpu + 1);
	if (cpus == NULL)
		return -ENOMEM;
	CPU_ZERO_S(bytes, cpus);
	CPU_SET_S(cpu, bytes, cpus);
	if (sched_setaffinity(0, bytes, cpus) != 0)
		rc = -errno;
	CPU_FREE(cpus);
	if (rc == 0)
		memory_prefer(slot->numa);
	return rc;
}

int placement_print(FILE *out, enum placement_mode mode, unsigned reactors)
{
	struct placement placement;
	hwloc_topology_t topology;
	char *online;
	int rc = placement_topology_load(&topology, NULL);

	if (rc < 0)
		return rc;
	rc = placement_plan(&placement, topology, mode, reactors, quota_here());
	if (rc == 0) {
		online = text_read("/sys/devices/system/cpu/online");
		placement_report(out, topology, &placement, mode, online);
		free(online);
		placement_release(&placement);
	}
	hwloc_topology_destroy(topology);
	return rc;
}
