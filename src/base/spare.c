#include "base/spare.h"

#include <stdlib.h>

/* A piece is small enough to come from the heap, where it stays when it is freed; a mapping of its
 * own would go back to the system at once. */
enum { PIECE_BYTES = 64 << 10, PIECES = 16 };

void *spare_memory(void)
{
	void *pieces[PIECES], *guard;
	int n = 0;

	while (n < PIECES && (pieces[n] = malloc(PIECE_BYTES)) != NULL)
		n++;
	/* The last of a size lies behind the others, which are then not the end of the heap: that
	 * is cut off when it is free. */
	guard = n == PIECES ? malloc(PIECE_BYTES) : NULL;
	while (n > 0)
		free(pieces[--n]);
	return guard;
}
