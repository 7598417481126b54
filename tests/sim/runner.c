#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

int main(int argc, char **argv)
{
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1,
		 n = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	bool verbose = n == 1;
	for (uint64_t s = first; s < first + n; s++) {
		struct sim_params p = sim_params_for(s);
		if (verbose) {
			fprintf(stderr, "shards %u clients %u steps %u faults", p.shards, p.clients,
				p.steps);
			for (unsigned i = 0; i < FAULTS; i++)
				if (p.faults >> i & 1)
					fprintf(stderr, " %s", fault_names[i]);
			fprintf(stderr, "\n");
		}
		printf("%" PRIu64 " %016" PRIx64 "\n", s, sim_run(&p, verbose));
		fflush(stdout);
	}
	return 0;
}
