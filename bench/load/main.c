#include "load/options.h"
#include "load/run.h"

int main(int argc, char **argv)
{
	struct options options;

	options_parse(&options, argc, argv);
	return run_main(&options);
}
