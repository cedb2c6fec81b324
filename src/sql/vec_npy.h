/* An .npy file's bytes as vectors: <f4 and <f2 as they are, |i1 int8, |b1 bit, the other numbers as
 * float32. Knows no file. */
#ifndef MN_SQL_VEC_NPY_H
#define MN_SQL_VEC_NPY_H

#include "src/sql/vec_value.h"

struct vec_npy {
    const char *name; /* for messages */
    char kind;        /* of an element, as in npy_header.h */
    uint32_t bytes;
    uint64_t n, dim;
    const char *data; /* [n][dim], in the value's blob */
};

/* The value must be a BLOB and outlive *out. Fails with MN_INVALID. */
MN_CHECKED mn_status vec_npy_open(sqlite3_value *value, const char *name, struct vec_npy *out,
                                  mn_error *err);

/* Row `row`, below n, as the result. */
void vec_npy_result(sqlite3_context *ctx, const struct kernels *kn, const struct vec_npy *npy,
                    uint64_t row);

#endif
