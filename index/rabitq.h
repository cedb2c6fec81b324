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

struct rabitq_spec {
    uint32_t dim;         /* 1 .. MN_MAX_DIM */
    enum ann_metric metric;
    uint32_t bits;        /* 1 .. 8, the sign included */
    uint64_t seed;        /* of the rotation */
    const float *origin;  /* [dim] copied: about the mean of the vectors; NULL: zero. Codes are most
                             precise if vectors are near it. Codes made with another origin or seed
                             are void */
};

struct rabitq {
    uint32_t dim, bits;
    enum ann_metric metric;
    uint64_t seed;
    const struct kernels *kn;
    struct rotation *rotation;
    float *origin;        /* [dim] */
};

mn_status rabitq_create(struct mn_alloc *a, const struct kernels *kn,
                        const struct rabitq_spec *spec, struct rabitq **out, mn_error *err);
void rabitq_destroy(struct mn_alloc *a, struct rabitq *q); /* NULL is fine */

/* out = R (x - origin); out [dim], may be x. */
void rabitq_rotate(const struct rabitq *q, const float *x, float *out);

/* Scales to length 1 in place; false for a vector without a direction (zero, or too short), which
 * stays as it is. */
bool rabitq_normalise(float *x, uint32_t dim);

#endif
