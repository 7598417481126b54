#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/placement_plan.h"
#include "child.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- planning, on machines made up ----------------------------------------------------------- */

static hwloc_topology_t machine(const char *synthetic)
{
	hwloc_topology_t topology;

	assert_int_equal(placement_topology_load(&topology, synthetic), 0);
	return topology;
}

/* The same with only these cpus left, as a cpuset leaves them. */
static hwloc_topology_t machine_restricted(const char *synthetic, const char *cpus)
{
	hwloc_topology_t topology = machine(synthetic);
	hwloc_bitmap_t set = hwloc_bitmap_alloc();

	assert_int_equal(hwloc_bitmap_list_sscanf(set, cpus), 0);
	assert_int_equal(hwloc_topology_restrict(topology, set, 0), 0);
	hwloc_bitmap_free(set);
	return topology;
}

static struct placement plan_on(hwloc_topology_t topology, enum placement_mode mode,
				unsigned reactors, double quota)
{
	struct placement placement;

	assert_int_equal(placement_plan(&placement, topology, mode, reactors, quota), 0);
	hwloc_topology_destroy(topology);
	return placement;
}

static struct placement plan(const char *synthetic, enum placement_mode mode, unsigned reactors,
			     double quota)
{
	return plan_on(machine(synthetic), mode, reactors, quota);
}

/* The cpus of all slots in their order, "0 8 4 12"; then the plan is released. */
static void assert_cpus(struct placement *placement, const char *want)
{
	char got[1024] = "";
	size_t n = 0;

	for (unsigned i = 0; i < placement->slots_n; i++)
		n += (size_t)snprintf(got + n, sizeof(got) - n, i > 0 ? " %d" : "%d",
				      placement->slots[i].cpu);
	placement_release(placement);
	assert_string_equal(got, want);
}

static void auto_is_one_reactor_for_each_core(void **state)
{
	struct placement p = plan("node:2 core:4 pu:2", PLACE_CORES, 0, 0);

	(void)state;
	assert_int_equal(p.slots_n, 8);
	assert_int_equal(p.cores, 8);
	assert_int_equal(p.threads, 16);
	assert_false(p.oversubscribed);
	placement_release(&p);
}

static void auto_with_threads_is_one_reactor_for_each_thread(void **state)
{
	struct placement p = plan("node:2 core:4 pu:2", PLACE_THREADS, 0, 0);

	(void)state;
	assert_int_equal(p.slots_n, 16);
	assert_false(p.oversubscribed);
	placement_release(&p);
}

static void nodes_take_turns(void **state)
{
	struct placement p = plan("node:2 core:4 pu:2", PLACE_CORES, 4, 0);

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(p.slots[i].numa, i % 2);
	assert_cpus(&p, "0 8 2 10");
}

static void every_core_has_a_reactor_before_any_second_thread(void **state)
{
	struct placement p = plan("node:2 core:4 pu:2", PLACE_CORES, 16, 0);
	bool taken[8] = { false };

	(void)state;
	for (int i = 0; i < 8; i++) {
		assert_false(taken[p.slots[i].core]);
		taken[p.slots[i].core] = true;
	}
	assert_cpus(&p, "0 8 2 10 4 12 6 14 1 9 3 11 5 13 7 15");
}

static void threads_of_one_core_are_told_apart_from_cores_whatever_their_numbers(void **state)
{
	struct placement p =
		plan("node:1 core:4 pu:2(indexes=0,4,1,5,2,6,3,7)", PLACE_THREADS, 0, 0);

	(void)state;
	assert_int_equal(p.slots[4].cpu, 4);
	assert_int_equal(p.slots[4].core, 0);
	assert_cpus(&p, "0 1 2 3 4 5 6 7");
}

static void more_reactors_than_threads_go_round_again(void **state)
{
	struct placement p = plan("node:1 core:2 pu:2", PLACE_CORES, 10, 0);

	(void)state;
	assert_true(p.oversubscribed);
	assert_cpus(&p, "0 2 1 3 0 2 1 3 0 2");
}

static void a_full_node_is_passed_over(void **state)
{
	struct placement p =
		plan_on(machine_restricted("node:2 core:4 pu:1", "1,4-7"), PLACE_CORES, 0, 0);

	(void)state;
	assert_cpus(&p, "1 4 5 6 7");
}

static void only_what_a_cpuset_leaves_is_used(void **state)
{
	struct placement p =
		plan_on(machine_restricted("node:2 core:4 pu:2", "3,10-11"), PLACE_THREADS, 0, 0);

	(void)state;
	assert_int_equal(p.cores, 2);
	assert_int_equal(p.threads, 3);
	assert_cpus(&p, "3 10 11");
}

static void each_node_of_a_split_package_is_known(void **state)
{
	struct placement p = plan("pack:2 node:2 core:2 pu:2", PLACE_CORES, 4, 0);

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(p.slots[i].numa, i);
	assert_cpus(&p, "0 4 8 12");
}

static void threads_without_known_cores_count_as_cores(void **state)
{
	struct placement p = plan("node:1 pu:3", PLACE_CORES, 0, 0);

	(void)state;
	assert_int_equal(p.cores, 3);
	assert_cpus(&p, "0 1 2");
}

static void none_counts_as_cores_does_and_pins_nobody(void **state)
{
	struct placement p = plan("node:2 core:2 pu:2", PLACE_NONE, 0, 0);

	(void)state;
	assert_int_equal(p.slots_n, 4);
	for (unsigned i = 0; i < p.slots_n; i++) {
		assert_int_equal(p.slots[i].cpu, -1);
		assert_int_equal(p.slots[i].core, -1);
		assert_int_equal(p.slots[i].numa, -1);
	}
	placement_release(&p);
}

static void auto_stays_within_the_quota_rounded_up(void **state)
{
	static const struct {
		double quota;
		unsigned reactors;
	} cases[] = { { 0.1, 1 },  { 1, 1 },  { 1.5, 2 }, { 2, 2 },
		      { 7.01, 8 }, { 64, 8 }, { 1e18, 8 } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct placement p = plan("node:1 core:8 pu:2", PLACE_CORES, 0, cases[i].quota);

		assert_int_equal(p.slots_n, cases[i].reactors);
		assert_true(p.quota == cases[i].quota);
		assert_false(p.oversubscribed);
		placement_release(&p);
	}
}

static void a_number_asked_for_beats_the_quota_but_says_so(void **state)
{
	struct placement p = plan("node:1 core:8 pu:2", PLACE_CORES, 4, 1.5);

	(void)state;
	assert_int_equal(p.slots_n, 4);
	assert_true(p.oversubscribed);
	placement_release(&p);

	p = plan("node:1 core:8 pu:2", PLACE_CORES, 2, 1.5);
	assert_false(p.oversubscribed);
	placement_release(&p);
}

/* ---- quota, from texts ------------------------------------------------------------------------
 */

static void both_versions_quota_is_read_and_nonsense_is_none(void **state)
{
	static const struct {
		const char *text;
		double cores;
	} cases[] = {
		{ "max 100000\n", 0 },
		{ "150000 100000\n", 1.5 },
		{ "-1\n100000\n", 0 },
		{ "50000\n100000\n", 0.5 },
		{ "", 0 },
		{ "100000", 0 },
		{ "100000 0\n", 0 },
		{ "0 100000\n", 0 },
		{ "-5 -10\n", 0 },
		{ "a lot\n", 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_true(placement_quota_parse(cases[i].text) == cases[i].cores);
}

static const char unified_mount[] =
	"24 1 0:22 / /proc rw shared:5 - proc proc rw\n"
	"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

static const char legacy_mounts[] =
	"32 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
	"33 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:2 - cgroup cgroup "
	"rw,cpu,cpuacct\n"
	"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

static void assert_found(const char *cgroups, const char *mounts, const char *controller,
			 const char *path, const char *mount)
{
	struct cgroup_dir dir;

	assert_true(placement_cgroup_find(&dir, cgroups, mounts, controller));
	assert_string_equal(dir.path, path);
	assert_int_equal(dir.mount_len, strlen(mount));
	assert_memory_equal(dir.path, mount, strlen(mount));
}

static void assert_not_found(const char *cgroups, const char *mounts, const char *controller)
{
	struct cgroup_dir dir;

	assert_false(placement_cgroup_find(&dir, cgroups, mounts, controller));
}

static void service_of_the_unified_hierarchy_is_found(void **state)
{
	(void)state;
	assert_found("0::/system.slice/broker.service\n", unified_mount, "",
		     "/sys/fs/cgroup/system.slice/broker.service", "/sys/fs/cgroup");
	assert_not_found("0::/system.slice/broker.service\n", unified_mount, "cpu");
}

static void root_of_a_cgroup_namespace_is_the_mount_point(void **state)
{
	(void)state;
	assert_found("0::/\n", unified_mount, "", "/sys/fs/cgroup", "/sys/fs/cgroup");
}

static void legacy_controller_is_found_among_others(void **state)
{
	static const char cgroups[] =
		"5:cpuset:/x\n4:cpu,cpuacct:/jobs/7\n1:name=systemd:/\n0::/u\n";

	(void)state;
	assert_found(cgroups, legacy_mounts, "cpu", "/sys/fs/cgroup/cpu,cpuacct/jobs/7",
		     "/sys/fs/cgroup/cpu,cpuacct");
	assert_found(cgroups, legacy_mounts, "", "/sys/fs/cgroup/unified/u",
		     "/sys/fs/cgroup/unified");
	assert_not_found(cgroups, legacy_mounts, "memory");
}

static void container_without_namespace_sees_its_own_part_of_the_mount(void **state)
{
	static const char mounts[] =
		"50 40 0:31 /docker/ab /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n"
		"51 40 0:31 /docker/abc /sys/fs/cgroup/own ro - cgroup cgroup rw,cpu\n";

	(void)state;
	assert_found("4:cpu:/docker/abc\n", mounts, "cpu", "/sys/fs/cgroup/own",
		     "/sys/fs/cgroup/own");
	assert_found("4:cpu:/docker/abc/sub\n", mounts, "cpu", "/sys/fs/cgroup/own/sub",
		     "/sys/fs/cgroup/own");
	assert_not_found("4:cpu:/docker/xyz\n", mounts, "cpu");
}

static void cgroup_outside_the_namespace_is_not_looked_for(void **state)
{
	(void)state;
	assert_not_found("0::/../other\n", unified_mount, "");
}

static void escapes_of_mountinfo_are_undone(void **state)
{
	static const char mounts[] =
		"1 2 0:3 /a\\134x2db.slice /mnt/my\\040groups rw - cgroup2 none rw\n";

	(void)state;
	assert_found("0::/a\\x2db.slice/c\n", mounts, "", "/mnt/my groups/c", "/mnt/my groups");
}

static void broken_texts_find_nothing(void **state)
{
	static const char *const cgroups[] = { "",     "\n",           "0", "0::", "0::\n",
					       "::::", "0::relative\n" };
	static const char *const mounts[] = { "",
					      "\n\n",
					      "1 2 3",
					      "1 2 0:3 / /m rw",
					      "- cgroup2",
					      "1 2 0:3 / /m rw -",
					      "1 2 0:3 / /m rw - cgroup2x c rw" };
	static char longest[PATH_MAX + 64];

	(void)state;
	for (size_t i = 0; i < sizeof(cgroups) / sizeof(cgroups[0]); i++)
		assert_not_found(cgroups[i], unified_mount, "");
	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++)
		assert_not_found("0::/\n", mounts[i], "");

	memset(longest, 'x', sizeof(longest) - 1);
	memcpy(longest, "0::/", 4);
	assert_not_found(longest, unified_mount, "");
	memcpy(longest, "1 2 0:3 / /", 11);
	memcpy(longest + sizeof(longest) - 1 - 16, " rw - cgroup2 c ", 16);
	assert_not_found("0::/\n", longest, "");
}

static void file_write(const char *dir, const char *name, const char *text)
{
	char path[PATH_MAX + 64];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	assert_int_equal(fclose(file), 0);
}

static void file_remove(const char *dir, const char *name)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(unlink(path), 0);
}

static void smallest_quota_on_the_way_up_to_the_mount_wins(void **state)
{
	char top[] = "/tmp/placement.XXXXXX", mount[64], slice[96], service[128];
	struct cgroup_dir dir;

	(void)state;
	assert_non_null(mkdtemp(top));
	snprintf(mount, sizeof(mount), "%s/mount", top);
	snprintf(slice, sizeof(slice), "%s/slice", mount);
	snprintf(service, sizeof(service), "%s/service", slice);
	assert_int_equal(mkdir(mount, 0700), 0);
	assert_int_equal(mkdir(slice, 0700), 0);
	assert_int_equal(mkdir(service, 0700), 0);
	snprintf(dir.path, sizeof(dir.path), "%s", service);
	dir.mount_len = strlen(mount);
	assert_true(placement_cgroup_quota(dir) == 0);

	file_write(top, "cpu.max", "10000 100000\n");
	file_write(service, "cpu.max", "max 100000\n");
	assert_true(placement_cgroup_quota(dir) == 0);
	file_write(slice, "cpu.max", "250000 100000\n");
	assert_true(placement_cgroup_quota(dir) == 2.5);
	file_write(service, "cpu.max", "300000 100000\n");
	assert_true(placement_cgroup_quota(dir) == 2.5);
	file_write(service, "cpu.max", "100000 50000\n");
	assert_true(placement_cgroup_quota(dir) == 2);
	file_write(mount, "cpu.cfs_quota_us", "125000\n");
	file_write(mount, "cpu.cfs_period_us", "100000\n");
	assert_true(placement_cgroup_quota(dir) == 1.25);

	file_remove(mount, "cpu.cfs_period_us");
	file_remove(mount, "cpu.cfs_quota_us");
	file_remove(service, "cpu.max");
	file_remove(slice, "cpu.max");
	file_remove(top, "cpu.max");
	assert_int_equal(rmdir(service), 0);
	assert_int_equal(rmdir(slice), 0);
	assert_int_equal(rmdir(mount), 0);
	assert_int_equal(rmdir(top), 0);
}

/* ---- printing ---------------------------------------------------------------------------------
 */

static void report_shows_cores_limits_and_plan(void **state)
{
	static const char want[] = "package  node  core  cpus\n"
				   "      0     0     0  0-1\n"
				   "      0     0     1  2-3\n"
				   "      1     1     2  5\n"
				   "\n"
				   "usable: 3 cores, 5 hardware threads\n"
				   "not usable: cpu 4,6-7 (cpuset or affinity)\n"
				   "CPU quota: 1.50 cores\n"
				   "\n"
				   "plan: 3 reactors, placement cores, "
				   "more than threads or quota can run at once\n"
				   "reactor 0: cpu 0 (core 0, node 0)\n"
				   "reactor 1: cpu 5 (core 2, node 1)\n"
				   "reactor 2: cpu 2 (core 1, node 0)\n";
	hwloc_topology_t topology = machine_restricted("pack:2 node:1 core:2 pu:2", "0-3,5");
	struct placement p;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	assert_non_null(out);
	assert_int_equal(placement_plan(&p, topology, PLACE_CORES, 3, 1.5), 0);
	placement_report(out, topology, &p, PLACE_CORES, "0-7");
	assert_int_equal(fclose(out), 0);
	assert_string_equal(text, want);
	free(text);
	placement_release(&p);
	hwloc_topology_destroy(topology);
}

static void this_machine_can_be_printed(void **state)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	assert_non_null(out);
	assert_int_equal(placement_print(out, PLACE_NONE, 2), 0);
	assert_int_equal(fclose(out), 0);
	assert_non_null(strstr(text, "plan: 2 reactors, placement none"));
	assert_non_null(strstr(text, "\nreactor 1: not pinned\n"));
	free(text);
}

/* ---- this machine, each test in a child so that nothing stays pinned ----------------------------
 */

static int last_cpu(void)
{
	cpu_set_t cpus;
	int cpu = CPU_SETSIZE - 1;

	EXPECT(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
	while (cpu > 0 && !CPU_ISSET((size_t)cpu, &cpus))
		cpu--;
	return cpu;
}

static void restrict_and_plan(void)
{
	struct placement p;
	cpu_set_t one;
	int cpu = last_cpu();

	CPU_ZERO(&one);
	CPU_SET((size_t)cpu, &one);
	EXPECT(sched_setaffinity(0, sizeof(one), &one) == 0);
	EXPECT(placement_init(&p, PLACE_THREADS, 0) == 0);
	EXPECT(p.threads == 1 && p.cores == 1 && p.slots_n == 1);
	EXPECT(p.slots[0].cpu == cpu);
	placement_release(&p);
}

static void taskset_leaves_only_its_cpu(void **state)
{
	(void)state;
	in_child(restrict_and_plan);
}

static void plan_and_bind_each(void)
{
	struct placement p;

	EXPECT(placement_init(&p, PLACE_THREADS, 0) == 0);
	for (unsigned i = 0; i < p.slots_n; i++) {
		cpu_set_t cpus;

		EXPECT(placement_bind(&p.slots[i]) == 0);
		EXPECT(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
		EXPECT(CPU_COUNT(&cpus) == 1);
		EXPECT(CPU_ISSET((size_t)p.slots[i].cpu, &cpus));
		EXPECT(sched_getcpu() == p.slots[i].cpu);
	}
	placement_release(&p);
}

static void bound_thread_runs_where_its_slot_says(void **state)
{
	(void)state;
	in_child(plan_and_bind_each);
}

static void bind_and_read_policy(void)
{
	struct placement p;
	enum { nodes_max = 1024, word = 8 * sizeof(unsigned long) };
	unsigned long nodes[nodes_max / word] = { 0 };
	int policy = -1;

	/* Where a container forbids it or the kernel knows no NUMA, there is nothing to see. */
	if (syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0UL) != 0)
		return;
	EXPECT(placement_init(&p, PLACE_CORES, 1) == 0);
	EXPECT(placement_bind(&p.slots[0]) == 0);
	if (p.slots[0].numa >= 0) {
		EXPECT(syscall(SYS_get_mempolicy, &policy, nodes, (unsigned long)nodes_max, NULL,
			       0UL) == 0);
		EXPECT(policy == MPOL_PREFERRED);
		EXPECT(nodes[p.slots[0].numa / word] == 1UL << (p.slots[0].numa % word));
	}
	placement_release(&p);
}

static void bound_thread_prefers_its_nodes_memory(void **state)
{
	(void)state;
	in_child(bind_and_read_policy);
}

static void deny_set_mempolicy_and_bind(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_set_mempolicy, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };
	struct placement_slot slot = { .cpu = last_cpu(), .core = 0, .numa = 0 };

	EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	EXPECT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
	EXPECT(syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0UL) == -1 && errno == EPERM);
	EXPECT(placement_bind(&slot) == 0);
	EXPECT(sched_getcpu() == slot.cpu);
}

static void refused_memory_policy_does_not_fail_the_bind(void **state)
{
	(void)state;
	in_child(deny_set_mempolicy_and_bind);
}

static void bind_what_cannot_be(void)
{
	struct placement_slot beyond = { .cpu = 100000, .core = 0, .numa = -1 };
	struct placement_slot nowhere = { .cpu = -1, .core = -1, .numa = -1 };
	struct placement_slot odd_node = { .cpu = last_cpu(), .core = 0, .numa = 100000 };
	cpu_set_t before, after;

	EXPECT(sched_getaffinity(0, sizeof(before), &before) == 0);
	EXPECT(placement_bind(&beyond) == -EINVAL);
	EXPECT(placement_bind(&nowhere) == 0);
	EXPECT(sched_getaffinity(0, sizeof(after), &after) == 0);
	EXPECT(CPU_EQUAL(&before, &after));
	EXPECT(placement_bind(&odd_node) == 0);
}

static void missing_cpu_is_an_error_and_no_cpu_does_nothing(void **state)
{
	(void)state;
	in_child(bind_what_cannot_be);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(auto_is_one_reactor_for_each_core),
		cmocka_unit_test(auto_with_threads_is_one_reactor_for_each_thread),
		cmocka_unit_test(nodes_take_turns),
		cmocka_unit_test(every_core_has_a_reactor_before_any_second_thread),
		cmocka_unit_test(
			threads_of_one_core_are_told_apart_from_cores_whatever_their_numbers),
		cmocka_unit_test(more_reactors_than_threads_go_round_again),
		cmocka_unit_test(a_full_node_is_passed_over),
		cmocka_unit_test(only_what_a_cpuset_leaves_is_used),
		cmocka_unit_test(each_node_of_a_split_package_is_known),
		cmocka_unit_test(threads_without_known_cores_count_as_cores),
		cmocka_unit_test(none_counts_as_cores_does_and_pins_nobody),
		cmocka_unit_test(auto_stays_within_the_quota_rounded_up),
		cmocka_unit_test(a_number_asked_for_beats_the_quota_but_says_so),
		cmocka_unit_test(both_versions_quota_is_read_and_nonsense_is_none),
		cmocka_unit_test(service_of_the_unified_hierarchy_is_found),
		cmocka_unit_test(root_of_a_cgroup_namespace_is_the_mount_point),
		cmocka_unit_test(legacy_controller_is_found_among_others),
		cmocka_unit_test(container_without_namespace_sees_its_own_part_of_the_mount),
		cmocka_unit_test(cgroup_outside_the_namespace_is_not_looked_for),
		cmocka_unit_test(escapes_of_mountinfo_are_undone),
		cmocka_unit_test(broken_texts_find_nothing),
		cmocka_unit_test(smallest_quota_on_the_way_up_to_the_mount_wins),
		cmocka_unit_test(report_shows_cores_limits_and_plan),
		cmocka_unit_test(this_machine_can_be_printed),
		cmocka_unit_test(taskset_leaves_only_its_cpu),
		cmocka_unit_test(bound_thread_runs_where_its_slot_says),
		cmocka_unit_test(bound_thread_prefers_its_nodes_memory),
		cmocka_unit_test(refused_memory_policy_does_not_fail_the_bind),
		cmocka_unit_test(missing_cpu_is_an_error_and_no_cpu_does_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
