#pragma once

/*
 * What the files of faults.so share: whether a call is to fail (faults.c), and the function that is
 * called when it is not.
 */

#include <string.h>

enum kind {
	KIND_MEMORY,   /* an allocation, a mapping of memory, a thread */
	KIND_ENTER,    /* an io_uring_enter that submits or waits */
	KIND_SETUP,    /* an io_uring_setup */
	KIND_REGISTER, /* a registration of receive buffers */
	KIND_LIBRARY,  /* a call of OpenSSL's by the broker itself; its error is an enum
			  library_error */
	KIND_REQUEST,  /* and one for each opcode from here on */
};

enum library_error { LIBRARY_INTERNAL = 1, LIBRARY_MEMORY };

/* The error that this call has to fail with; 0: none. */
int refuse(enum kind kind);

/* The next definition of a function, which is the one that the broker would have called. */
void *next(const char *name);

/* ISO C knows no conversion between pointers to objects and to functions. */
#define NEXT(f, name)                                                                              \
	do {                                                                                       \
		void *found = f == NULL ? next(name) : NULL;                                       \
		if (found != NULL)                                                                 \
			memcpy(&f, &found, sizeof(f));                                             \
	} while (0)
