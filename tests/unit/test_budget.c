#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admin/machine.h"
#include "base/config.h"
#include "base/memory.h"
#include "broker/budget.h"
#include "root.h"

/* ---- counting ---- */

static void what_is_given_back_is_used_no_more(void **state)
{
	uint64_t before = memory_used();
	char *p = memory_new(1000), *zeroed = memory_new_zeroed(5000);

	(void)state;
	assert_true(memory_used() - before >= 6000 && memory_used() - before < 6200);
	assert_int_equal(zeroed[4999], 0);
	p = memory_resize(p, 100000);
	assert_true(memory_used() - before >= 105000 && memory_used() - before < 120000);
	p = memory_resize(p, 10);
	assert_true(memory_used() - before < 6000);
	memory_free(p);
	memory_free(zeroed);
	memory_free(NULL);
	assert_int_equal(memory_used(), before);
	memory_free(memory_resize(NULL, 77));
	memory_count(1 << 20);
	assert_int_equal(memory_used(), before + (1 << 20));
	memory_count(-(1 << 20));
	assert_int_equal(memory_used(), before);
}

static void what_fails_is_not_counted(void **state)
{
	/* Not a constant, or the compiler sees what is wrong with it. */
	volatile size_t too_much = SIZE_MAX / 2;
	uint64_t before = memory_used();

	(void)state;
	assert_null(memory_new(too_much));
	assert_null(memory_new_zeroed(too_much));
	assert_int_equal(memory_used(), before);
}

static void *take(void *p)
{
	*(void **)p = memory_new(10 << 20);
	return NULL;
}

static void *give_back(void *p)
{
	memory_free(*(void **)p);
	memory_settle();
	return NULL;
}

static void what_one_thread_takes_another_may_give_back(void **state)
{
	uint64_t before = memory_used();
	pthread_t thread;
	void *p;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, take, &p), 0);
	pthread_join(thread, NULL);
	assert_true(memory_used() >= before + (10 << 20));
	assert_int_equal(pthread_create(&thread, NULL, give_back, &p), 0);
	pthread_join(thread, NULL);
	assert_true(memory_used() <= before + MEMORY_STEP_BYTES);
}

/* ---- levels ---- */

static void a_level_is_entered_at_its_part_of_the_limit(void **state)
{
	static const struct {
		uint64_t used;
		enum budget_level level;
	} cases[] = { { 0, BUDGET_EASY },          { 849, BUDGET_EASY },
		      { 850, BUDGET_HISTORY },     { 919, BUDGET_HISTORY },
		      { 920, BUDGET_SUBSCRIBERS }, { 949, BUDGET_SUBSCRIBERS },
		      { 950, BUDGET_EVICTION },    { 1000, BUDGET_EVICTION },
		      { 100000, BUDGET_EVICTION } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		assert_int_equal(budget_level(cases[i].used, 1000, BUDGET_EASY), cases[i].level);
}

static void a_level_is_left_five_parts_lower(void **state)
{
	(void)state;
	assert_int_equal(budget_level(900, 1000, BUDGET_EVICTION), BUDGET_EVICTION);
	assert_int_equal(budget_level(899, 1000, BUDGET_EVICTION), BUDGET_SUBSCRIBERS);
	assert_int_equal(budget_level(870, 1000, BUDGET_SUBSCRIBERS), BUDGET_SUBSCRIBERS);
	assert_int_equal(budget_level(869, 1000, BUDGET_SUBSCRIBERS), BUDGET_HISTORY);
	assert_int_equal(budget_level(800, 1000, BUDGET_HISTORY), BUDGET_HISTORY);
	assert_int_equal(budget_level(799, 1000, BUDGET_HISTORY), BUDGET_EASY);
	/* What has not been entered is not kept. */
	assert_int_equal(budget_level(910, 1000, BUDGET_HISTORY), BUDGET_HISTORY);
	assert_int_equal(budget_level(940, 1000, BUDGET_SUBSCRIBERS), BUDGET_SUBSCRIBERS);
	assert_int_equal(budget_level(0, 1000, BUDGET_EVICTION), BUDGET_EASY);
}

static void limits_of_any_size_do_not_overflow(void **state)
{
	(void)state;
	assert_int_equal(budget_level(UINT64_MAX, UINT64_MAX, BUDGET_EASY), BUDGET_EVICTION);
	assert_int_equal(budget_level(UINT64_MAX / 2, UINT64_MAX, BUDGET_EASY), BUDGET_EASY);
	assert_int_equal(budget_level(UINT64_MAX, 0, BUDGET_EVICTION), BUDGET_EASY);
}

/* ---- auto ---- */

static void check_memory(const char *root, uint64_t bytes, bool cgroup)
{
	struct machine_memory m = machine_memory(root);

	assert_int_equal(m.bytes, bytes);
	assert_int_equal(m.cgroup, cgroup);
}

static int make_root(void **state)
{
	char *root = strdup("/tmp/budget.XXXXXX");

	assert_non_null(mkdtemp(root));
	*state = root;
	return 0;
}

static int remove_root(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r '%s'", (char *)*state);
	free(*state);
	return system(command);
}

static void memory_is_the_machines_without_a_control_group(void **state)
{
	check_memory(*state, 0, false);
	root_put(*state, "proc/meminfo", "MemTotal:       1000 kB\nMemFree: 1 kB\n");
	check_memory(*state, 1024000, false);
}

static void memory_is_the_least_that_a_control_group_above_allows(void **state)
{
	root_put(*state, "proc/meminfo", "MemTotal:       1000 kB\n");
	root_put(*state, "proc/self/cgroup", "0::/a/b\n");
	root_put(*state, "proc/self/mountinfo",
		 "30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n");
	root_put(*state, "sys/fs/cgroup/a/b/memory.max", "max\n");
	check_memory(*state, 1024000, false);
	root_put(*state, "sys/fs/cgroup/a/memory.max", "300000\n");
	check_memory(*state, 300000, true);
	root_put(*state, "sys/fs/cgroup/a/b/memory.max", "400000\n");
	check_memory(*state, 300000, true);
	root_put(*state, "sys/fs/cgroup/a/b/memory.max", "200000\n");
	check_memory(*state, 200000, true);
	root_put(*state, "sys/fs/cgroup/a/b/memory.max", "99999999999\n");
	root_put(*state, "sys/fs/cgroup/a/memory.max", "max\n");
	check_memory(*state, 1024000, false);
}

static void version_1_of_control_groups_counts_too(void **state)
{
	root_put(*state, "proc/meminfo", "MemTotal:       1000 kB\n");
	root_put(*state, "proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/box\n");
	root_put(*state, "proc/self/mountinfo",
		 "33 29 0:30 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n");
	root_put(*state, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	check_memory(*state, 1024000, false);
	root_put(*state, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", "500000\n");
	check_memory(*state, 500000, true);
}

static void auto_takes_sixty_per_cent(void **state)
{
	struct config *config = config_defaults();
	struct machine_memory m = { .bytes = 1000 };

	(void)state;
	assert_int_equal(machine_budget(config, &m), 600);
	m.bytes = 1001;
	assert_int_equal(machine_budget(config, &m), 600);
	m.bytes = UINT64_MAX;
	assert_true(machine_budget(config, &m) > UINT64_MAX / 2);
	m.bytes = 0;
	assert_int_equal(machine_budget(config, &m), 0);
	config->limits.memory_bytes = 12345;
	assert_int_equal(machine_budget(config, &m), 12345);
	config_free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_given_back_is_used_no_more),
		cmocka_unit_test(what_fails_is_not_counted),
		cmocka_unit_test(what_one_thread_takes_another_may_give_back),
		cmocka_unit_test(a_level_is_entered_at_its_part_of_the_limit),
		cmocka_unit_test(a_level_is_left_five_parts_lower),
		cmocka_unit_test(limits_of_any_size_do_not_overflow),
		cmocka_unit_test_setup_teardown(memory_is_the_machines_without_a_control_group,
						make_root, remove_root),
		cmocka_unit_test_setup_teardown(
			memory_is_the_least_that_a_control_group_above_allows, make_root,
			remove_root),
		cmocka_unit_test_setup_teardown(version_1_of_control_groups_counts_too, make_root,
						remove_root),
		cmocka_unit_test(auto_takes_sixty_per_cent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
