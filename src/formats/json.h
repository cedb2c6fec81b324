/* Strict JSON (RFC 8259) scanned in place: a value of a line is read where it stands, strings are
 * unescaped over themselves, and nothing is allocated, so that a line of 64 MiB costs 64 MiB.
 * Knows no file: the caller turns `where` into line and column. Thread-safe. */
#ifndef MN_FORMATS_JSON_H
#define MN_FORMATS_JSON_H

#include "src/formats/number.h"

/* A cursor over text [at, end). After a failure `why` is a clause and `where` the byte it is
 * about; further calls must not be made. */
struct json {
    char *at, *end;
    const char *why;
    const char *where;
};

enum json_type {
    JSON_END = 0, /* no more text */
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
    JSON_OTHER /* a comma, a closing bracket, or no JSON at all */
};

/* Skips white space and tells what comes next by its first byte. */
enum json_type json_peek(struct json *j);

/* Each reads what json_peek announced (null, true and false: by json_skip), or fails. */
bool json_char(struct json *j, char c); /* a structural character, after white space */
bool json_text(struct json *j, char **text, size_t *len); /* NUL-terminated in place */
bool json_number(struct json *j, struct number *out);
bool json_skip(struct json *j); /* any value: checked wholly, not changed */

/* An array of numbers: the first `max` go to out, *n counts all. */
bool json_floats(struct json *j, float *out, size_t max, size_t *n);

/* Steps through an object or array whose opening bracket was read: sets *more, having read the
 * comma or, if *more is false, the closing bracket. `first` for the first step. */
bool json_next(struct json *j, char close, bool first, bool *more);

#endif
