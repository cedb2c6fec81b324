/* Vectors that stand in a column as a JSON array of numbers: tables that were there before may hold
 * such texts beside blobs. Knows no row. Thread-safe. */
#ifndef MN_ENGINE_JSON_VECTOR_H
#define MN_ENGINE_JSON_VECTOR_H

#include "index/kernels/kernels.h"
#include "mneme.h"

/* Reads text [n] into `to`, a vector of the dtype, rounded as mn_put_opts.from_f32 does; bits are
 * the numbers 0 and 1. False if it is no JSON array (RFC 8259) of exactly dim numbers, or one of
 * them is beyond f32 or the dtype. wide [dim]: room meanwhile. */
bool json_vector(const struct kernels *kn, mn_dtype dtype, uint32_t dim, const char *text, size_t n,
                 float *wide, void *to);

#endif
