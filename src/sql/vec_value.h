/* Vectors as SQL values: a BLOB of the elements, whose type is said by the value's subtype (none:
 * float32), or a TEXT that reads [1, 2.5]. What is read, what is refused and the sentences are
 * those of sqlite-vec 0.1.9 for its three types; float16 and bfloat16 follow them. Knows no table.
 *
 * Subtypes live only from function to function and from a virtual table's column to a function:
 * a blob that comes out of an ordinary column is float32 unless vec_f16() or the like says what it
 * is. */
#ifndef MN_SQL_VEC_VALUE_H
#define MN_SQL_VEC_VALUE_H

#include <sqlite3.h>

#include "index/kernels/kernels.h"
#include "mneme.h"

enum {
    VEC_SUBTYPE_F32 = 223,
    VEC_SUBTYPE_BIT = 224,
    VEC_SUBTYPE_I8 = 225,
    VEC_SUBTYPE_F16 = 226,
    VEC_SUBTYPE_BF16 = 227,
    JSON_SUBTYPE = 74
};

/* A vector that was read. */
struct vec {
    mn_dtype type;
    size_t dim;       /* elements; at least 1 */
    size_t bytes;
    const void *data; /* [bytes], any alignment: the value's, or own */
    void *own;        /* sqlite3_malloc64; or NULL */
};

/* Reads a value by its subtype. The value must outlive *out, and not be converted meanwhile. On
 * failure *out is empty. Fails with MN_INVALID, MN_NOMEM. */
MN_CHECKED mn_status vec_read(sqlite3_value *value, struct vec *out, mn_error *err);

/* Reads a value as a type, whatever its subtype. */
MN_CHECKED mn_status vec_read_as(sqlite3_value *value, mn_dtype type, struct vec *out,
                                 mn_error *err);
void vec_free(struct vec *v); /* an empty one is fine */

/* Reads two vectors of one type and dimension. On failure both are empty. */
MN_CHECKED mn_status vec_read_two(sqlite3_value **args, struct vec *a, struct vec *b,
                                  mn_error *err);

size_t vec_bytes(mn_dtype type, size_t dim);     /* of dim elements; bit: dim a multiple of 8 */

/* "float32" and so on; the type called so, or "f32" and the like, false for others. */
const char *vec_type_name(mn_dtype type);
bool vec_type_parse(const char *name, mn_dtype *out);
#define VEC_TYPES_LIST "float32, float16, bfloat16, int8 or bit"

/* Elements [first, first + n) of any type but bit as f32. */
void vec_widen(const struct kernels *kn, const struct vec *v, size_t first, size_t n, float *out);
/* All of them, in memory for sqlite3_free(); NULL when memory runs out. */
float *vec_floats(const struct kernels *kn, const struct vec *v);

/* f32 to elements of `type` (not bit), at `to` of vec_bytes(). `what` names the function. Fails
 * with MN_INVALID for an element that the type cannot hold. */
MN_CHECKED mn_status vec_narrow(const struct kernels *kn, mn_dtype type, size_t dim,
                                const float *from, void *to, const char *what, mn_error *err);

/* The distance of a metric between two vectors of one type and dimension, as a search gives it;
 * `floats` are a's elements as f32, needed for the 16-bit types only. */
double vec_distance_of(const struct kernels *kn, mn_metric metric, const struct vec *a,
                       const struct vec *b, const float *floats);

/* Results. `data` is for sqlite3_free() and taken. */
void vec_result(sqlite3_context *ctx, mn_dtype type, void *data, size_t dim);
void vec_result_copy(sqlite3_context *ctx, mn_dtype type, const void *data, size_t dim);
/* f32 narrowed to `type`; `floats` stays the caller's. */
void vec_result_narrowed(sqlite3_context *ctx, const struct kernels *kn, mn_dtype type,
                         const float *floats, size_t dim, const char *what);
void vec_fail(sqlite3_context *ctx, const mn_error *err); /* SQLITE_NOMEM, else the sentence */

/* One function of a table of them. */
struct vec_function {
    const char *name;
    int n_args; /* -1: any */
    void (*call)(sqlite3_context *ctx, int n_args, sqlite3_value **args);
};

/* Registers n pure functions, with the kernels as their user data. */
int vec_register_functions(sqlite3 *db, const struct vec_function *functions, size_t n);

/* Flags of a pure function, those of newer SQLite only where it knows them. */
int vec_function_flags(void);

#endif
