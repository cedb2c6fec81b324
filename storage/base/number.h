/* Numbers between text and binary, independent of the locale, correctly rounded both ways. Knows no
 * file. Thread-safe. */
#ifndef MN_STORAGE_BASE_NUMBER_H
#define MN_STORAGE_BASE_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NUMBER_MAX_CHARS = 400, /* a longer number is refused: nobody means its digits */
    NUMBER_TEXT = 32        /* room for any number written by number_put_* */
};

/* A number as it stands in a text. */
struct number {
    const char *text;
    size_t len;
    uint64_t digits; /* all digits without point, if there are at most 19 of them */
    int exponent;    /* value = digits * 10^exponent, if exact */
    bool exact;      /* digits and exponent say all */
    bool integer;    /* neither point nor exponent */
    bool negative;
};

/* Scans the number that begins at p, by JSON's grammar, or if `lax` also +1, .5, 5. and 007.
 * Returns where it ends, or NULL. */
const char *number_scan(const char *p, const char *end, bool lax, struct number *out);

/* The nearest value. False if it is beyond the type's range, or no integer for _i64. */
bool number_f32(const struct number *n, float *out);
bool number_f64(const struct number *n, double *out);
bool number_i64(const struct number *n, int64_t *out);

/* Writes few digits that read back as the same value (which is finite), terminated; returns their
 * count. f64 always has a point or exponent, so that it stays a real. */
size_t number_put_f32(char out[NUMBER_TEXT], float value);
size_t number_put_f64(char out[NUMBER_TEXT], double value);
size_t number_put_i64(char out[NUMBER_TEXT], int64_t value);

float number_from_half(uint16_t half);
/* Nearest, ties to even; infinity if beyond 65,504. */
uint16_t number_to_half(float value);

#endif
