#ifndef ADMIN_EXIT_H
#define ADMIN_EXIT_H

/* The process's exit codes: broker(1), EXIT STATUS. */
enum { EXIT_CLEAN = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_IO_URING = 3 };

#endif
