/*
 * Each centroid c' = R (c - origin) has codes 64 + round(63 c'_i / max |c'|), 1 to 127: 7 bits, so
 * that two products with a query of 8 bits fit in 16 (pmaddubsw), and the same codes serve every
 * instruction set. Blocks of 16 centroids hold 4 elements of each at a time: 64 bytes that meet 4
 * elements of the query, so that there is no sum across a register.
 *
 * Rounding. An element's error is uniform in +-scale / 2, so <q', c'> is off by |q'| scale /
 * sqrt(12): 0.014 |q'| |c'| / sqrt(D) for normal c'. The rounding of the query adds a quarter.
 * This error is common to all rows of a posting, and search adds it to its bounds.
 *
 * A graph over the centroids will stand here for large n: it hands the same numbers, of the near
 * centroids only.
 */
#include "index/centroids.h"

#include "storage/base/error.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { TOP = CENTROID_ZERO - 1 };

#define FAR 1e30f /* distance of lanes without a centroid */

void centroids_destroy(struct mn_alloc *a, struct centroids *c)
{
    if (!c)
        return;
    mn_free(a, c->codes);
    mn_free(a, c->scale);
    mn_free(a, c->norm);
    mn_free(a, c->exact);
    mn_free(a, c);
}

static void put_codes(struct centroids *c, uint32_t j, const float *rotated)
{
    float max = 0, norm = 0;
    uint8_t *block = c->codes + (size_t)(j / CENTROID_LANES) * c->quads * CENTROID_LANES * 4;
    uint8_t *to = block + j % CENTROID_LANES * 4;
    for (uint32_t i = 0; i < c->dim; i++) {
        max = fmaxf(max, fabsf(rotated[i]));
        norm += rotated[i] * rotated[i];
    }
    float inverse = max > FLT_MIN ? TOP / max : 0;
    for (uint32_t i = 0; i < c->dim; i++)
        to[i / 4 * CENTROID_LANES * 4 + i % 4] =
            (uint8_t)(CENTROID_ZERO + lrintf(rotated[i] * inverse));
    c->scale[j] = max / TOP;
    c->norm[j] = c->metric == ANN_L2 ? norm : 0;
    c->noise = fmaxf(c->noise, c->scale[j]);
}

mn_status centroids_create(struct mn_alloc *a, const struct rabitq *q, const float *centroids,
                           uint32_t n, bool keep_exact, struct centroids **out, mn_error *err)
{
    *out = NULL;
    if (n == 0 || n > CENTROIDS_MAX)
        return mn_fail(err, MN_INVALID, "an index may have 1 to %d centroids, not %u",
                       CENTROIDS_MAX, n);
    struct centroids *c = mn_alloc_array(a, 1, sizeof *c, MN_TAG_CACHE);
    float *rotated = mn_alloc_array(a, q->dim, sizeof *rotated, MN_TAG_SEARCH);
    if (!c || !rotated)
        goto nomem;
    c->n = n;
    c->dim = q->dim;
    c->metric = q->metric;
    c->blocks = (n + CENTROID_LANES - 1) / CENTROID_LANES;
    c->quads = (q->dim + 3) / 4;
    size_t lanes = (size_t)c->blocks * CENTROID_LANES;
    c->codes = mn_alloc(a, lanes * c->quads * 4, MN_TAG_CACHE);
    c->scale = mn_alloc_array(a, lanes, sizeof(float), MN_TAG_CACHE);
    c->norm = mn_alloc_array(a, lanes, sizeof(float), MN_TAG_CACHE);
    if (keep_exact)
        c->exact = mn_alloc_array(a, n, q->dim * sizeof(float), MN_TAG_CACHE);
    if (!c->codes || !c->scale || !c->norm || (keep_exact && !c->exact))
        goto nomem;
    memset(c->codes, CENTROID_ZERO, lanes * c->quads * 4);
    for (uint32_t j = 0; j < n; j++) {
        if (isnan(centroids[(size_t)j * q->dim])) { /* none: as lanes beyond the last */
            c->norm[j] = FAR;
            continue;
        }
        float *to = keep_exact ? c->exact + (size_t)j * q->dim : rotated;
        rabitq_rotate(q, centroids + (size_t)j * q->dim, to);
        put_codes(c, j, to);
    }
    for (size_t j = n; j < lanes; j++)
        c->norm[j] = FAR;
    mn_free(a, rotated);
    *out = c;
    return MN_OK;
nomem:
    mn_free(a, rotated);
    centroids_destroy(a, c);
    return mn_fail(err, MN_NOMEM, "no memory for the codes of %u centroids of %u elements", n,
                   q->dim);
}

void centroids_scan(const struct centroids *c, const struct kernels *kn,
                    const struct centroid_query *q, float *out)
{
    bool l2 = c->metric == ANN_L2;
    struct kernel_centroids k = {.codes = c->codes, .scale = c->scale, .norm = c->norm,
                                 .blocks = c->blocks, .quads = c->quads, .query = q->code,
                                 .query_sum = q->code_sum, .base = q->base,
                                 .by = l2 ? -2 * q->step : -q->step,
                                 .least = l2 ? FLT_MIN : -FLT_MAX, .out = out};
    kn->centroids(&k);
}
