/* Strict JSON (RFC 8259) scanned in place: a value of a line is read where it stands, strings are
 * unescaped over themselves, and nothing is allocated, so that a line of 64 MiB costs 64 MiB.
 * Knows no file: the caller turns `where` into line and column. Thread-safe. (Named apart from
 * jansson's json_*, with which it shares programs.) */
#ifndef MN_FORMATS_JSCAN_H
#define MN_FORMATS_JSCAN_H

#include "storage/base/number.h"

/* A cursor over text [at, end). After a failure `why` is a clause and `where` the byte it is
 * about; further calls must not be made. */
struct jscan {
    char *at, *end;
    const char *why;
    const char *where;
};

enum jscan_type {
    JSCAN_END = 0, /* no more text */
    JSCAN_NULL,
    JSCAN_FALSE,
    JSCAN_TRUE,
    JSCAN_NUMBER,
    JSCAN_STRING,
    JSCAN_ARRAY,
    JSCAN_OBJECT,
    JSCAN_OTHER /* a comma, a closing bracket, or no JSON at all */
};

/* Skips white space and tells what comes next by its first byte. */
enum jscan_type jscan_peek(struct jscan *j);

/* Each reads what jscan_peek announced (null, true and false: by jscan_skip), or fails. */
bool jscan_char(struct jscan *j, char c); /* a structural character, after white space */
bool jscan_string(struct jscan *j, char **text, size_t *len); /* NUL-terminated in place */
bool jscan_number(struct jscan *j, struct number *out);
bool jscan_skip(struct jscan *j); /* any value: checked wholly, not changed */

/* An array of numbers: the first `max` go to out, *n counts all. */
bool jscan_floats(struct jscan *j, float *out, size_t max, size_t *n);

/* Steps through an object or array whose opening bracket was read: sets *more, having read the
 * comma or, if *more is false, the closing bracket. `first` for the first step. */
bool jscan_next(struct jscan *j, char close, bool first, bool *more);

#endif
