/* How the vectors of one collection become codes of 1 to 8 bits an element (RaBitQ): metric, bits,
 * rotation, and the arithmetic of codes. Knows no layout: that is posting.h. See rabitq.c for the
 * formulas. Immutable after create, any thread. */
#ifndef MN_INDEX_RABITQ_H
#define MN_INDEX_RABITQ_H

#include "index/kernels/kernels.h"
#include "index/rotate.h"
#include "mneme.h"
#include "storage/base/alloc.h"

enum ann_metric { ANN_L2, ANN_IP }; /* stored in payloads */

enum { RABITQ_MAX_BITS = 8 };

struct rabitq_spec {
    uint32_t dim;         /* 1 .. MN_MAX_DIM */
    enum ann_metric metric;
    uint32_t bits;        /* 1 .. RABITQ_MAX_BITS, the sign included */
    uint64_t seed;        /* of the rotation */
    const float *origin;  /* [dim] copied: about the mean of the vectors; NULL: zero. Codes are
                             most precise if vectors are near it. Codes made with another origin or
                             seed are void */
};

struct rabitq {
    uint32_t dim, bits;
    enum ann_metric metric;
    uint64_t seed;
    const struct kernels *kn;
    struct rotation *rotation;
    float *origin;        /* [dim] */
};

/* MN_INVALID (names the option) or MN_NOMEM; *out is then NULL. */
mn_status rabitq_create(struct mn_alloc *a, const struct kernels *kn,
                        const struct rabitq_spec *spec, struct rabitq **out, mn_error *err);
void rabitq_destroy(struct mn_alloc *a, struct rabitq *q); /* NULL is fine */

/* out = R (x - origin); out [dim], may be x. */
void rabitq_rotate(const struct rabitq *q, const float *x, float *out);

/* Scales to length 1 in place; false for a vector without a direction (zero, or too short), which
 * stays as it is. */
bool rabitq_normalise(float *x, uint32_t dim);

/* What one row's code is worth. With y the code's values and g the part of the key that depends on
 * query and centroid only, the key is estimated as add + g - scale <y, R q>. */
struct rabitq_factors {
    float add, scale;
    float sigma; /* standard deviation of <y, R q> for a query of distance 1 (ip: length 1) */
};

/* Codes of a rotated residual r = R (x - c) [dim]: the 1-bit code is r's signs; level [dim] gets
 * the other bits (untouched if bits is 1); `center` is the centroid, rotated. `one` are the factors
 * of the 1-bit code, `all` those of the whole. */
void rabitq_encode(const struct rabitq *q, const float *r, const float *center, uint8_t *level,
                   struct rabitq_factors *one, struct rabitq_factors *all);

/* The value of an element of a code: +-(l + 1/2), and +-1 if bits is 1. */
static inline float rabitq_value(uint32_t bits, bool positive, uint32_t level)
{
    if (bits == 1)
        return positive ? 1.0f : -1.0f;
    float top = (float)((1u << (bits - 1)) - 1), l = (float)level;
    return positive ? l + 0.5f : l - top - 0.5f;
}

#endif
