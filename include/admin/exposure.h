#ifndef ADMIN_EXPOSURE_H
#define ADMIN_EXPOSURE_H

/*
 * What somebody from elsewhere could do with a configuration: said in sentences by --check, and a
 * start that would let him do anything is refused. The main thread.
 */

#include <stdbool.h>
#include <stdio.h>

struct config;

/* What may not be, with the keys that cure it, into problem. */
bool exposure_refused(const struct config *config, char *problem, size_t size);
/* For each listener, who may come and what he may. */
void exposure_print(FILE *out, const struct config *config);

#endif
