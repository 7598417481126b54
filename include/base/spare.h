#ifndef BASE_SPARE_H
#define BASE_SPARE_H

/*
 * Memory for libraries that do not look whether they were given any: libconfuse and hwloc crash or
 * end the process when malloc(3) has failed. They are called only when there is more left than they
 * take. Any thread.
 */

/* Sees to it that the allocator has a MiB in small pieces at hand for this thread; NULL: it has
 * not. To be freed when the library has done its work, and until then the system does not get that
 * memory back. */
void *spare_memory(void);

#endif
