#ifndef BASE_ID_H
#define BASE_ID_H

/*
 * A message's identity as text, "<epoch>:<seq>": 16 hexadecimal digits and a decimal number. Pure;
 * any thread.
 */

#include <stddef.h>
#include <stdint.h>

enum { ID_BYTES_MAX = 16 + 1 + 20 };

/* Decimal digits of a number. */
size_t decimal_digits(uint64_t n);
/* Writes a number in decimal digits, returns where what comes behind it goes. */
char *decimal_put(char *out, uint64_t n);
/* The same for an id. */
char *id_put(char *out, uint64_t epoch, uint64_t seq);

#endif
