#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admin/host.h"
#include "root.h"

/* ---- made-up hosts ---- */

struct host {
	char root[64];
	struct host_wants wants;
	int cpus[4];
	char said[4096];
};

static void put(const struct host *h, const char *path, const char *text)
{
	root_put(h->root, path, text);
}

/* A host with four cores of two threads (0 and 4, 1 and 5 ...), a card of four queues, and no
 * fault. */
static int make(void **state)
{
	struct host *h = calloc(1, sizeof(*h));
	char path[128], text[32];

	assert_non_null(h);
	strcpy(h->root, "/tmp/host.XXXXXX");
	assert_non_null(mkdtemp(h->root));
	put(h, "proc/sys/kernel/osrelease", "6.12.9-cloud-amd64\n");
	put(h, "proc/sys/kernel/io_uring_disabled", "0\n");
	put(h, "proc/sys/net/core/somaxconn", "4096\n");
	put(h, "proc/sys/net/core/wmem_max", "4194304\n");
	put(h, "sys/devices/system/cpu/online", "0-7\n");
	for (int cpu = 0; cpu < 8; cpu++) {
		snprintf(path, sizeof(path),
			 "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
		snprintf(text, sizeof(text), "%d,%d\n", cpu % 4, cpu % 4 + 4);
		put(h, path, text);
		snprintf(path, sizeof(path),
			 "sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor", cpu);
		put(h, path, "performance\n");
	}
	put(h, "sys/class/net/lo/queues/rx-0/rps_cpus", "00\n");
	put(h, "sys/class/net/ens5/device/vendor", "0x1d0f\n");
	for (int queue = 0; queue < 4; queue++) {
		snprintf(path, sizeof(path), "sys/class/net/ens5/queues/rx-%d/rps_cpus", queue);
		put(h, path, "00\n");
	}
	for (int i = 0; i < 4; i++)
		h->cpus[i] = i;
	h->wants = (struct host_wants){ .reactors = 4,
					.cpus = h->cpus,
					.threads = 8,
					.connections = 1000,
					.send_buffer_bytes = 262144,
					.ring_bytes = 2 << 20,
					.remote = true,
					.files_max = 1048576,
					.locked_max = 8 << 20 };
	*state = h;
	return 0;
}

static int unmake(void **state)
{
	struct host *h = *state;
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", h->root);
	assert_int_equal(system(command), 0);
	free(h);
	return 0;
}

static void hear(void *context, const char *text)
{
	struct host *h = context;

	strncat(h->said, text, sizeof(h->said) - strlen(h->said) - 1);
	strncat(h->said, "\n", sizeof(h->said) - strlen(h->said) - 1);
}

static void must_say_only(struct host *h, const char *text)
{
	h->said[0] = 0;
	assert_int_equal(host_check(h->root, &h->wants, hear, h), 1);
	if (strstr(h->said, text) == NULL)
		fail_msg("not \"%s\" but: %s", text, h->said);
}

static void must_say_nothing(struct host *h)
{
	h->said[0] = 0;
	host_check(h->root, &h->wants, hear, h);
	assert_string_equal(h->said, "");
}

/* ---- claims ---- */

static void good_host_is_not_warned_about(void **state)
{
	must_say_nothing(*state);
}

static void nothing_is_said_of_what_cannot_be_read(void **state)
{
	struct host *h = *state;

	strcat(h->root, "/no");
	must_say_nothing(h);
	h->root[strlen(h->root) - 3] = 0;
}

static void old_kernel_is_named(void **state)
{
	struct host *h = *state;

	put(h, "proc/sys/kernel/osrelease", "5.15.0-91-generic\n");
	must_say_only(h, "Linux 5.15.0-91-generic is too old");
	put(h, "proc/sys/kernel/osrelease", "6.1.0-44-amd64\n");
	must_say_nothing(h);
	h->wants.linger_us = 50;
	must_say_only(h, "engine.linger_us needs Linux 6.12");
	put(h, "proc/sys/kernel/osrelease", "7.0.1\n");
	must_say_nothing(h);
}

static void switched_off_io_uring_is_found(void **state)
{
	put(*state, "proc/sys/kernel/io_uring_disabled", "1\n");
	must_say_only(*state, "only root and the group");
	put(*state, "proc/sys/kernel/io_uring_disabled", "2\n");
	must_say_only(*state, "nobody gets a ring");
}

static void low_limits_are_found(void **state)
{
	struct host *h = *state;

	h->wants.files_max = 1063;
	must_say_only(h, "RLIMIT_NOFILE allows 1063");
	h->wants.files_max = 1064;
	must_say_nothing(h);
	h->wants.locked_max = 1 << 20;
	must_say_only(h, "RLIMIT_MEMLOCK allows 1024 KiB");
	h->wants.locked_max = RLIM_INFINITY;
	must_say_nothing(h);
}

static void low_settings_are_found(void **state)
{
	put(*state, "proc/sys/net/core/somaxconn", "128\n");
	must_say_only(*state, "net.core.somaxconn is 128");
	put(*state, "proc/sys/net/core/somaxconn", "65535\n");
	put(*state, "proc/sys/net/core/wmem_max", "212992\n");
	must_say_only(*state, "net.core.wmem_max is 212992");
}

static void part_of_the_machine_and_a_quota_are_told(void **state)
{
	struct host *h = *state;

	h->wants.threads = 4;
	must_say_only(h, "4 of 8 hardware threads");
	h->wants.threads = 8;
	h->wants.quota = 2.5;
	must_say_only(h, "quota of 2.50 cores");
}

static void reactors_on_one_core_are_told_whatever_their_numbers(void **state)
{
	struct host *h = *state;

	h->cpus[3] = 5;
	must_say_only(h, "1 reactor shares a core with another one (reactors 1 and 3");
	h->cpus[2] = 4;
	must_say_only(h, "2 reactors share a core with another one (reactors 0 and 2");
	h->cpus[2] = h->cpus[3] = -1;
	must_say_nothing(h);
	h->cpus[3] = 0; /* the very same thread */
	must_say_only(h, "reactors 0 and 3");
}

static void saving_governor_is_found_on_reactors_cpus_only(void **state)
{
	put(*state, "sys/devices/system/cpu/cpu7/cpufreq/scaling_governor", "powersave\n");
	must_say_nothing(*state);
	put(*state, "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n");
	must_say_only(*state, "cpu 2 is powersave");
}

static void card_with_too_few_queues_is_found_unless_software_spreads(void **state)
{
	struct host *h = *state;

	h->wants.reactors = 3;
	must_say_nothing(h);
	put(h, "sys/class/net/ens6/device/vendor", "0x1d0f\n");
	put(h, "sys/class/net/ens6/queues/rx-0/rps_cpus", "00000000,00000000\n");
	must_say_only(h, "ens6 has 1 receive queue for 3 reactors");
	h->wants.remote = false;
	must_say_nothing(h);
	h->wants.remote = true;
	put(h, "sys/class/net/ens6/queues/rx-0/rps_cpus", "00000000,0000000f\n");
	must_say_nothing(h);
	put(h, "sys/class/net/ens6/queues/rx-0/rps_cpus", "0\n");
	put(h, "sys/class/net/ens6/operstate", "down\n");
	must_say_nothing(h);
}

static void steering_wants_a_queue_for_each_reactor(void **state)
{
	struct host *h = *state;

	h->wants.steered = true;
	must_say_nothing(h);
	h->wants.reactors = 2;
	must_say_only(h, "wants one receive queue for each reactor");
	h->wants.remote = false;
	must_say_only(h, "without a listener beyond this host");
}

#define HOST(claim) cmocka_unit_test_setup_teardown(claim, make, unmake)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		HOST(good_host_is_not_warned_about),
		HOST(nothing_is_said_of_what_cannot_be_read),
		HOST(old_kernel_is_named),
		HOST(switched_off_io_uring_is_found),
		HOST(low_limits_are_found),
		HOST(low_settings_are_found),
		HOST(part_of_the_machine_and_a_quota_are_told),
		HOST(reactors_on_one_core_are_told_whatever_their_numbers),
		HOST(saving_governor_is_found_on_reactors_cpus_only),
		HOST(card_with_too_few_queues_is_found_unless_software_spreads),
		HOST(steering_wants_a_queue_for_each_reactor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
