#include "admin/machine.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "engine/placement_plan.h"
#include "engine/ring.h"

enum { TEXT_BYTES_MAX = 256 << 10 };

/* All of a file below the root; NULL: it cannot be read. The caller frees. */
static char *text_of(const char *root, const char *path)
{
	char full[2 * PATH_MAX];
	char *text = NULL;
	size_t n;
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", root, path);
	f = fopen(full, "re");
	if (f == NULL)
		return NULL;
	text = malloc(TEXT_BYTES_MAX);
	if (text != NULL) {
		n = fread(text, 1, TEXT_BYTES_MAX - 1, f);
		text[n] = 0;
	}
	fclose(f);
	return text;
}

/* 0: none, or none that is a number ("max"). */
static uint64_t number_in(const char *root, const char *directory, const char *name)
{
	char path[PATH_MAX + 64], *text;
	uint64_t n = 0;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	text = text_of(root, path);
	if (text != NULL && text[0] >= '0' && text[0] <= '9')
		n = strtoull(text, NULL, 10);
	free(text);
	return n;
}

static void lessen(struct machine_memory *m, uint64_t bytes)
{
	/* Version 1 says "no limit" with a number beyond any machine. */
	if (bytes == 0 || (m->bytes > 0 && bytes >= m->bytes))
		return;
	m->bytes = bytes;
	m->cgroup = true;
}

/* The limits from this directory up to its mount point. */
static void lessen_by_cgroup(struct machine_memory *m, const char *root, struct cgroup_dir dir)
{
	size_t n = strlen(dir.path);

	for (;;) {
		lessen(m, number_in(root, dir.path, "memory.max"));
		lessen(m, number_in(root, dir.path, "memory.limit_in_bytes"));
		if (n <= dir.mount_len)
			return;
		do
			n--;
		while (n > dir.mount_len && dir.path[n] != '/');
		dir.path[n] = 0;
	}
}

struct machine_memory machine_memory(const char *root)
{
	static const char *const controllers[] = { "", "memory" };
	char *meminfo = text_of(root, "/proc/meminfo");
	char *cgroups = text_of(root, "/proc/self/cgroup");
	char *mounts = text_of(root, "/proc/self/mountinfo");
	struct machine_memory m = { 0 };
	struct cgroup_dir dir;
	uint64_t kib;

	if (meminfo != NULL && sscanf(meminfo, "MemTotal: %" SCNu64, &kib) == 1)
		m.bytes = kib * 1024;
	for (size_t i = 0; i < 2 && cgroups != NULL && mounts != NULL; i++)
		if (placement_cgroup_find(&dir, cgroups, mounts, controllers[i]))
			lessen_by_cgroup(&m, root, dir);
	free(meminfo);
	free(cgroups);
	free(mounts);
	return m;
}

uint64_t machine_budget(const struct config *config, const struct machine_memory *memory)
{
	if (config->limits.memory_bytes > 0)
		return config->limits.memory_bytes;
	return memory->bytes / 100 * MACHINE_SHARE_PERCENT +
	       memory->bytes % 100 * MACHINE_SHARE_PERCENT / 100;
}

uint64_t machine_base(const struct config *config, unsigned reactors)
{
	const struct ring_params ring = { .sq_entries = config->engine.sq_entries,
					  .recv_buffers = config->engine.recv_buffers,
					  .recv_buffer_bytes = config->engine.recv_buffer_bytes };

	return reactors * ring_base_bytes(&ring);
}

bool machine_base_fits(const struct config *config, unsigned reactors, uint64_t objects_bytes,
		       uint64_t budget, char *problem, size_t size)
{
	uint64_t base = machine_base(config, reactors);

	if (budget == 0)
		return true;
	if (base > budget / 2) {
		snprintf(problem, size,
			 "limits.memory_bytes is %" PRIu64 " and the rings and receive buffers of "
			 "%u reactors take %" PRIu64 ", more than half of it: raise it, or lower "
			 "reactors, engine.sq_entries, engine.recv_buffers or "
			 "engine.recv_buffer_bytes",
			 budget, reactors, base);
		return false;
	}
	if (base + objects_bytes <= budget / 4 * 3)
		return true;
	snprintf(problem, size,
		 "limits.memory_bytes is %" PRIu64 " and what is in http.objects_dir takes %" PRIu64
		 " beside %" PRIu64 " for %u reactors, more than three quarters of it: raise it, "
		 "or serve less",
		 budget, objects_bytes, base, reactors);
	return false;
}

void machine_set_budget(struct config *config)
{
	const struct machine_memory memory = machine_memory("");

	config->limits.memory_bytes = machine_budget(config, &memory);
}

enum placement_mode machine_placement(const struct config *config)
{
	static const enum placement_mode modes[] = { [PLACEMENT_CORES] = PLACE_CORES,
						     [PLACEMENT_THREADS] = PLACE_THREADS,
						     [PLACEMENT_NONE] = PLACE_NONE };

	return modes[config->placement];
}
