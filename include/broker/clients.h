#ifndef BROKER_CLIENTS_H
#define BROKER_CLIENTS_H

/* A walk over a shard's connections, some of them in each turn (connections_walk). */

#include <stdint.h>

/* As far as some in each turn have been called for. All zero: nobody is. */
struct connections_walk {
	uint32_t at;
	uint32_t left; /* so many */
};

static inline struct connections_walk connections_all(void)
{
	return (struct connections_walk){ .left = UINT32_MAX };
}

#endif
