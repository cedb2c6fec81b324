/* Reads what people type for sizes, times and numbers, and writes them back for people to read.
 * Knows no options and prints nothing. Any thread. */
#ifndef MN_SHELL_UNITS_H
#define MN_SHELL_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "4096", "512MB" (10^6), "64MiB" (2^20), "1g" (2^30: a bare letter counts in 1,024s), "1.5GiB".
 * Case does not matter. False for anything else, and for what does not fit. */
bool size_parse(const char *text, uint64_t *bytes);

/* "500ms", "10s", "2m", "1.5h", "250us". A number without a unit is refused: it could be either.
 * Result in microseconds. */
bool time_parse(const char *text, uint64_t *us);

/* Whole text must be a decimal number; "1,000" and "1_000" are taken as 1000. */
bool count_parse(const char *text, uint64_t *out);
bool integer_parse(const char *text, int64_t *out);
bool real_parse(const char *text, double *out); /* finite */

/* Each writes into `out` (at least UNITS_TEXT bytes) and returns it. */
enum { UNITS_TEXT = 48 };
char *size_format(char *out, uint64_t bytes);     /* "1.2 MiB" */
char *count_format(char *out, uint64_t n);        /* "1,234,567" */
char *duration_format(char *out, double seconds); /* "0.8 ms", "3.2 s", "2 m 05 s" */

#endif
