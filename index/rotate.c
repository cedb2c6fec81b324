/*
 * Random rotation by Hadamard transforms ("FHT-Kac", used by the RaBitQ library; quality measured
 * against dense random matrices for dim 24 to 1,536).
 *
 * Four rounds. Each multiplies every element by a random sign, then transforms m elements, m the
 * largest power of two <= dim: the first m in rounds 0 and 2, the last m in rounds 1 and 3, scaled
 * by 1 / sqrt(m). Where m < dim, a round ends by turning the first half of all elements against
 * the second by 45 degrees, (x, y) -> (x + y, x - y) / sqrt(2), so that what the transform left out
 * is mixed in; for odd dim the middle element stays out of that. Each step is orthogonal, so no
 * element is added and none is lost, whatever the dim.
 *
 * Below 24 elements this mixes sparse vectors too little: there the rotation is a dense random
 * orthogonal matrix, made by Gram-Schmidt in double.
 *
 * The codes of a collection are void if the same seed ever gives another rotation: so neither the
 * generator (rng.h) nor the arithmetic is a library's.
 */
#include "index/rotate.h"

#include "index/rng.h"
#include "storage/base/error.h"

#include <math.h>
#include <string.h>

enum { ROUNDS = 4, DENSE_BELOW = 24 };

struct rotation {
    uint32_t dim;
    uint32_t m;            /* elements of the transform; 0: dense */
    float table[];         /* [ROUNDS][dim] signs, those transformed next by 1 / sqrt(m) as well;
                              or the matrix [dim][dim] */
};

/* About normal: the sum of 12 uniform numbers. Not by libm, whose results differ by version. */
static double next_normal(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += (double)(rng_next(state) >> 11) * 0x1p-53;
    return sum;
}

/* Row i made orthogonal to those before it and of length 1; false if hardly anything is left. */
static bool orthogonalise(double *rows, uint32_t dim, uint32_t i)
{
    double *row = rows + (size_t)i * dim, norm = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t k = 0; k < i; k++) {
            const double *other = rows + (size_t)k * dim;
            double dot = 0;
            for (uint32_t j = 0; j < dim; j++)
                dot += row[j] * other[j];
            for (uint32_t j = 0; j < dim; j++)
                row[j] -= dot * other[j];
        }
    for (uint32_t j = 0; j < dim; j++)
        norm += row[j] * row[j];
    if (norm < 1e-6)
        return false;
    for (uint32_t j = 0; j < dim; j++)
        row[j] /= sqrt(norm);
    return true;
}

static void make_dense(struct rotation *r, uint64_t seed)
{
    double rows[DENSE_BELOW * DENSE_BELOW];
    for (uint32_t i = 0; i < r->dim;) {
        for (uint32_t j = 0; j < r->dim; j++)
            rows[i * r->dim + j] = next_normal(&seed);
        if (orthogonalise(rows, r->dim, i))
            i++;
    }
    for (uint32_t i = 0; i < r->dim * r->dim; i++)
        r->table[i] = (float)rows[i];
}

/* First element that round `round` transforms. */
static uint32_t first_of(const struct rotation *r, int round)
{
    return round % 2 ? r->dim - r->m : 0;
}

static void make_signs(struct rotation *r, uint64_t seed)
{
    float scale = (float)(1 / sqrt(r->m));
    float *signs = r->table;
    for (int round = 0; round < ROUNDS; round++, signs += r->dim) {
        uint32_t first = first_of(r, round);
        uint64_t bits = 0;
        for (uint32_t i = 0; i < r->dim; i++, bits >>= 1) {
            if (i % 64 == 0)
                bits = rng_next(&seed);
            float size = i >= first && i < first + r->m ? scale : 1;
            signs[i] = bits & 1 ? size : -size;
        }
    }
}

mn_status rotation_create(struct mn_alloc *a, uint32_t dim, uint64_t seed, struct rotation **out,
                          mn_error *err)
{
    *out = NULL;
    if (dim == 0 || dim > MN_MAX_DIM)
        return mn_fail(err, MN_INVALID, "rotation: dim is %u; it may be 1 to %u", dim, MN_MAX_DIM);
    bool dense = dim < DENSE_BELOW;
    size_t floats = (size_t)dim * (dense ? dim : ROUNDS);
    struct rotation *r = mn_alloc(a, sizeof *r + floats * sizeof(float), MN_TAG_CACHE);
    if (!r)
        return mn_fail(err, MN_NOMEM, "no memory for a rotation of %u elements", dim);
    r->dim = dim;
    r->m = 0;
    if (dense) {
        make_dense(r, seed);
    } else {
        for (r->m = 1; r->m * 2 <= dim;)
            r->m *= 2;
        make_signs(r, seed);
    }
    *out = r;
    return MN_OK;
}

void rotation_destroy(struct mn_alloc *a, struct rotation *r)
{
    mn_free(a, r);
}

static void apply_dense(const struct rotation *r, float *x)
{
    float in[DENSE_BELOW];
    memcpy(in, x, r->dim * sizeof *x);
    for (uint32_t i = 0; i < r->dim; i++) {
        float sum = 0;
        for (uint32_t j = 0; j < r->dim; j++)
            sum += r->table[i * r->dim + j] * in[j];
        x[i] = sum;
    }
}

void rotation_apply(const struct rotation *r, const struct kernels *kn, float *x)
{
    if (r->m == 0) {
        apply_dense(r, x);
        return;
    }
    const float *signs = r->table;
    for (int round = 0; round < ROUNDS; round++, signs += r->dim) {
        kn->multiply(x, signs, r->dim);
        kn->fht(x + first_of(r, round), r->m);
        if (r->m < r->dim)
            kn->turn(x, x + (r->dim + 1) / 2, r->dim / 2);
    }
}
