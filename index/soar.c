/*
 * Second assignment after SOAR (Sun et al., "SOAR: improved indexing for approximate nearest
 * neighbor search", 2023). A row x whose residual to its first centroid is r is missed by queries
 * that lie along r. Its second centroid c minimises
 *
 *     |x - c|^2 + lambda (<r, x - c> / |r|)^2
 *
 * so that the second residual is short and stands across the first: who finds it far by one finds
 * it near by the other. r = 0 leaves the second nearest.
 *
 * Only the NEAR centroids nearest to the first one, c1, are tried, found once for all rows of a
 * posting. With d = <r, c - c1> of all of them, a matrix product, both terms are arithmetic:
 * |x - c|^2 = |r|^2 - 2 d + |c - c1|^2 and <r, x - c> = |r|^2 - d. All is relative to c1, so that
 * nothing is lost where rows lie far from the origin.
 */
#include "index/soar.h"

#include "index/best.h"
#include "index/kmeans.h"
#include "storage/base/error.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { NEAR = 64 };

struct soar {
    const struct kernels *kn;
    const float *centroids;
    uint32_t n, dim, n_near;
    uint32_t first;           /* whose neighbours these are; UINT32_MAX: nobody's */
    float lambda;
    float *distance, *sorted; /* [n] squared, from the first */
    uint32_t *near;           /* [n_near] */
    float *offset;            /* [NEAR][dim] c - c1 */
    struct packed packed;     /* the same */
    float *residual;          /* [KMEANS_TILE][dim] */
    float *dots;              /* [KMEANS_TILE][NEAR] */
};

void soar_destroy(struct mn_alloc *a, struct soar *s)
{
    if (!s)
        return;
    packed_fini(&s->packed, a);
    mn_free(a, s->distance);
    mn_free(a, s->sorted);
    mn_free(a, s->near);
    mn_free(a, s->offset);
    mn_free(a, s->residual);
    mn_free(a, s->dots);
    mn_free(a, s);
}

mn_status soar_create(struct mn_alloc *a, const struct kernels *kn, const float *centroids,
                      uint32_t n, uint32_t dim, float lambda, struct soar **out, mn_error *err)
{
    assert(n > 0 && dim > 0 && lambda >= 0);
    struct soar *s = mn_alloc_array(a, 1, sizeof *s, MN_TAG_SEARCH);
    *out = NULL;
    if (s) {
        s->kn = kn;
        s->centroids = centroids;
        s->n = n;
        s->dim = dim;
        s->lambda = lambda;
        s->first = UINT32_MAX;
        s->n_near = n - 1 < NEAR ? n - 1 : NEAR;
        s->distance = mn_alloc_array(a, n, sizeof *s->distance, MN_TAG_SEARCH);
        s->sorted = mn_alloc_array(a, n, sizeof *s->sorted, MN_TAG_SEARCH);
        s->near = mn_alloc_array(a, NEAR, sizeof *s->near, MN_TAG_SEARCH);
        s->offset = mn_alloc_array(a, NEAR, dim * sizeof *s->offset, MN_TAG_SEARCH);
        s->residual = mn_alloc_array(a, KMEANS_TILE, dim * sizeof *s->residual, MN_TAG_SEARCH);
        s->dots = mn_alloc_array(a, KMEANS_TILE, NEAR * sizeof *s->dots, MN_TAG_SEARCH);
    }
    if (!s || !packed_init(&s->packed, a, NEAR, dim) || !s->distance || !s->sorted || !s->near ||
        !s->offset || !s->residual || !s->dots) {
        soar_destroy(a, s);
        return mn_fail(err, MN_NOMEM, "no memory for second postings among %u", n);
    }
    *out = s;
    return MN_OK;
}

static void subtract(const float *x, const float *y, uint32_t dim, float *out)
{
    for (uint32_t i = 0; i < dim; i++)
        out[i] = x[i] - y[i];
}

/* The centroids nearest to `first`, packed. */
static void find_near(struct soar *s, uint32_t first)
{
    const float *c1 = s->centroids + (size_t)first * s->dim;
    uint32_t n = 0;
    s->kn->l2[ELEM_F32](c1, s->centroids, s->dim * sizeof *c1, s->n, s->dim, s->distance);
    s->distance[first] = INFINITY;
    memcpy(s->sorted, s->distance, s->n * sizeof *s->sorted);
    best_select(s->sorted, s->n, s->n_near - 1);
    float most = s->sorted[s->n_near - 1];
    for (uint32_t j = 0; j < s->n && n < s->n_near; j++)
        if (s->distance[j] < most)
            s->near[n++] = j;
    for (uint32_t j = 0; j < s->n && n < s->n_near; j++) /* equals of the last fill up */
        if (!(s->distance[j] < most) && s->distance[j] <= most && j != first)
            s->near[n++] = j;
    assert(n == s->n_near);
    for (uint32_t i = 0; i < n; i++)
        subtract(s->centroids + (size_t)s->near[i] * s->dim, c1, s->dim, s->offset + i * s->dim);
    packed_set(&s->packed, s->kn, s->offset, NULL, n);
    s->first = first;
}

/* Of a row with dots [n_near] = <r, c - c1> and r2 = |r|^2. */
static uint32_t best_of(const struct soar *s, const float *dots, float r2)
{
    uint32_t at = 0;
    float least = INFINITY, by = r2 > 0 ? s->lambda / r2 : 0;
    for (uint32_t i = 0; i < s->n_near; i++) {
        float along = r2 - dots[i];
        float loss = r2 - 2 * dots[i] + s->distance[s->near[i]] + by * along * along;
        if (loss < least) {
            least = loss;
            at = i;
        }
    }
    return s->near[at];
}

void soar_assign(struct soar *s, uint32_t first, const float *rows, size_t n, uint32_t *second)
{
    uint32_t dim = s->dim;
    assert(first < s->n);
    if (s->n_near == 0) {
        memset(second, 0xff, n * sizeof *second);
        return;
    }
    if (s->first != first)
        find_near(s, first);
    for (size_t from = 0; from < n; from += KMEANS_TILE) {
        size_t tile = n - from < KMEANS_TILE ? n - from : KMEANS_TILE;
        for (size_t i = 0; i < tile; i++)
            subtract(rows + (from + i) * dim, s->centroids + (size_t)first * dim, dim,
                     s->residual + i * dim);
        packed_dots(&s->packed, s->kn, s->residual, tile, s->dots);
        for (size_t i = 0; i < tile; i++) {
            float r2;
            s->kn->norm[ELEM_F32](s->residual + i * dim, dim * sizeof(float), 1, dim, &r2);
            second[from + i] = best_of(s, s->dots + i * packed_lanes(&s->packed), r2);
        }
    }
}
