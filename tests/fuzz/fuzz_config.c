#include <sys/mman.h>
#include <unistd.h>

#include "base/config.h"
#include "fuzz.h"

/* Configurations: taken whole or refused with a reason, and what is taken is within its limits. */

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct config *config = NULL;
	char path[64], *problem = NULL;
	size_t problem_len = 0;
	FILE *errors;
	int fd, err;

	/* Other files are not for this test to read. */
	if (memmem(data, size, "include", 7) != NULL)
		return 0;
	fd = memfd_create("config", MFD_CLOEXEC);
	errors = open_memstream(&problem, &problem_len);
	if (fd < 0 || errors == NULL || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	err = config_load(path, &config, errors);
	fclose(errors);
	if ((err == 0) != (config != NULL) || (err != 0) != (problem_len > 0))
		abort();
	if (config != NULL) {
		const struct config_engine *e = &config->engine;

		if (e->lane_entries < 2 || (e->lane_entries & (e->lane_entries - 1)) != 0 ||
		    e->batch < 1 || e->recv_buffers < 1 || config->reactors > CONFIG_REACTORS_MAX)
			abort();
		for (size_t i = 0; i < config->listens_n; i++)
			if (config->listens[i].address == NULL)
				abort();
		(void)config_topic(config, SPAN("a.b"));
	}
	config_free(config);
	free(problem);
	close(fd);
	return 0;
}
