/* SQLite's values and Mneme's: vectors of a column, attributes' values. Thread-safe. */
#ifndef MN_SQL_VALUE_H
#define MN_SQL_VALUE_H

#include <sqlite3.h>

#include "index/kernels/kernels.h"
#include "mneme.h"

/* A vector column: what its vectors are. */
struct vector_type {
    mn_dtype dtype;
    mn_metric metric;
    uint32_t dim;
};

/*
 * The vector in `v`, of `type`, into *out [mn_vector_bytes], for sqlite3_free; NULL for NULL.
 *   BLOB   exactly the bytes of a vector of the column's type; or of f32, which is rounded. What
 *          comes from a function like vec_int8() or from a table of vectors says its type itself,
 *          and is converted, but not between bits and numbers
 *   TEXT   a JSON array of dim numbers, rounded to the type; for bits 0 and 1
 * `what` names the place in a message: "docs.embedding". Fails with MN_INVALID (element and byte),
 * MN_NOMEM.
 */
mn_status value_vector(const struct kernels *kn, const struct vector_type *type, sqlite3_value *v,
                       const char *what, void **out, mn_error *err);

/* Whether `v` is a blob that holds a vector of the type just as it is. */
bool value_is_vector(const struct vector_type *type, sqlite3_value *v);

enum affinity { AFFINITY_BLOB, AFFINITY_TEXT, AFFINITY_NUMERIC, AFFINITY_INTEGER, AFFINITY_REAL };

/* By the rules of SQLite's section 3.1 on data types, from a declared type ("" is BLOB). */
enum affinity affinity_of(const char *type, size_t len);

/* `v` as SQLite would compare it with a column of that affinity; borrows v's bytes, which may be
 * converted in place. */
mn_value value_under(sqlite3_value *v, enum affinity affinity);

#endif
