#include "load/sample.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

static uint64_t ticks_to_ms(uint64_t ticks)
{
	return ticks * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

static bool read_cpu(struct process_sample *s, pid_t pid)
{
	struct timespec ts;
	clockid_t clock;
	char path[64], text[1024];
	const char *after;
	uint64_t user, system;
	FILE *f;
	size_t n;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) != 0)
		return false;
	s->cpu_ns += (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return false;
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = 0;
	/* The name may hold anything: what follows counts from its last parenthesis. */
	after = strrchr(text, ')');
	if (after == NULL ||
	    sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64,
		   &user, &system) != 2)
		return false;
	s->user_ms += ticks_to_ms(user);
	s->system_ms += ticks_to_ms(system);
	return true;
}

/* Adds up what a status file says. */
static void read_status(struct process_sample *s, const char *path, bool memory)
{
	FILE *f = fopen(path, "re");
	char line[256];
	uint64_t n;

	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL) {
		if (!memory && sscanf(line, "voluntary_ctxt_switches: %" SCNu64, &n) == 1)
			s->voluntary += n;
		else if (!memory && sscanf(line, "nonvoluntary_ctxt_switches: %" SCNu64, &n) == 1)
			s->involuntary += n;
		else if (memory && sscanf(line, "VmRSS: %" SCNu64, &n) == 1)
			s->rss_bytes += n * 1024;
		else if (memory && sscanf(line, "VmHWM: %" SCNu64, &n) == 1)
			s->peak_bytes += n * 1024;
	}
	fclose(f);
}

static bool add_process(struct process_sample *s, pid_t pid)
{
	struct dirent *entry;
	char path[300];
	DIR *tasks;

	if (!read_cpu(s, pid))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	read_status(s, path, true);
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	if (tasks == NULL)
		return false;
	while ((entry = readdir(tasks)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/status", (int)pid, entry->d_name);
		read_status(s, path, false);
		s->threads++;
	}
	closedir(tasks);
	return true;
}

void process_sample(struct process_sample *s, const pid_t *pids, unsigned n)
{
	*s = (struct process_sample){ .at_ns = clock_now_ns(), .valid = n > 0 };
	for (unsigned i = 0; i < n; i++)
		s->valid = add_process(s, pids[i]) && s->valid;
}

void process_forget_peak(pid_t pid)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)pid);
	f = fopen(path, "we");
	if (f == NULL)
		return;
	fputs("5", f);
	fclose(f);
}

void machine_sample(struct machine_sample *s)
{
	FILE *f = fopen("/proc/stat", "re");
	uint64_t n[8] = { 0 };

	*s = (struct machine_sample){ 0 };
	if (f == NULL)
		return;
	if (fscanf(f,
		   "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
		   " %" SCNu64 " %" SCNu64,
		   &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &n[6], &n[7]) == 8) {
		for (size_t i = 0; i < 8; i++)
			s->total += n[i];
		s->steal = n[7];
	}
	fclose(f);
}
