/* Random rotation of vectors of any dimension, from a seed, in O(dim log dim). Knows nothing of
 * what is rotated. Immutable after create, any thread. */
#ifndef MN_INDEX_ROTATE_H
#define MN_INDEX_ROTATE_H

#include "index/kernels/kernels.h"
#include "mneme.h"
#include "storage/base/alloc.h"

struct rotation;

/* dim 1 .. MN_MAX_DIM. The same dim and seed give the same rotation in every build and on every
 * machine. About 16 dim bytes (dim below 24: 4 dim^2). MN_INVALID or MN_NOMEM. */
mn_status rotation_create(struct mn_alloc *a, uint32_t dim, uint64_t seed, struct rotation **out,
                          mn_error *err);
void rotation_destroy(struct mn_alloc *a, struct rotation *r); /* NULL is fine */

/* In place: x [dim]. Lengths and angles stay, to rounding. */
void rotation_apply(const struct rotation *r, const struct kernels *kn, float *x);

#endif
