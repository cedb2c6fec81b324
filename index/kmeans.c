#include "index/kmeans.h"

#include "index/rng.h"
#include "storage/base/error.h"

#include <assert.h>
#include <string.h>

enum { L = KERNEL_LANES };

#define FAR 1e30f

bool packed_init(struct packed *p, struct mn_alloc *a, uint32_t max_n, uint32_t dim)
{
    size_t lanes = ((size_t)max_n + L - 1) / L * L;
    *p = (struct packed){.dim = dim};
    p->slabs = mn_alloc_array(a, lanes, dim * sizeof(float), MN_TAG_SEARCH);
    p->half = mn_alloc_array(a, lanes, sizeof(float), MN_TAG_SEARCH);
    return p->slabs && p->half;
}

void packed_fini(struct packed *p, struct mn_alloc *a)
{
    mn_free(a, p->slabs);
    mn_free(a, p->half);
    *p = (struct packed){0};
}

void packed_set(struct packed *p, const struct kernels *kn, const float *centroids,
                const uint32_t *which, uint32_t n)
{
    size_t dim = p->dim;
    p->n = n;
    p->nslabs = ((size_t)n + L - 1) / L;
    for (size_t j = 0; j < p->nslabs * L; j++) {
        float *to = p->slabs + j / L * L * dim + j % L;
        if (j >= n) {
            for (size_t d = 0; d < dim; d++)
                to[d * L] = 0;
            p->half[j] = FAR;
            continue;
        }
        const float *c = centroids + (which ? which[j] : j) * dim;
        for (size_t d = 0; d < dim; d++)
            to[d * L] = c[d];
        kn->norm[ELEM_F32](c, dim * sizeof *c, 1, dim, &p->half[j]);
        p->half[j] *= 0.5f;
    }
}

void packed_dots(const struct packed *p, const struct kernels *kn, const float *rows, size_t n,
                 float *dots)
{
    kn->gemm(p->slabs, p->nslabs, (size_t)p->dim * L, rows, p->dim * sizeof *rows, n, p->dim, dots,
             packed_lanes(p), false);
}

static void mean_of(const float *rows, size_t n, uint32_t dim, float *out)
{
    for (uint32_t d = 0; d < dim; d++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += (double)rows[i * dim + d];
        out[d] = (float)(sum / (double)n);
    }
}

/* Memory of a run. */
struct kmeans_run {
    struct packed packed;
    float *dots;       /* [KMEANS_TILE][lanes] */
    float *sums;       /* [k][dim] */
    uint32_t *counts;  /* [k] */
};

static bool run_init(struct kmeans_run *r, struct mn_alloc *a, uint32_t k, uint32_t dim)
{
    size_t lanes = ((size_t)k + L - 1) / L * L;
    *r = (struct kmeans_run){0};
    bool ok = packed_init(&r->packed, a, k, dim);
    r->dots = mn_alloc_array(a, lanes, KMEANS_TILE * sizeof(float), MN_TAG_SEARCH);
    r->sums = mn_alloc_array(a, k, dim * sizeof(float), MN_TAG_SEARCH);
    r->counts = mn_alloc_array(a, k, sizeof(uint32_t), MN_TAG_SEARCH);
    return ok && r->dots && r->sums && r->counts;
}

static void run_fini(struct kmeans_run *r, struct mn_alloc *a)
{
    packed_fini(&r->packed, a);
    mn_free(a, r->dots);
    mn_free(a, r->sums);
    mn_free(a, r->counts);
}

/* Adds each row to its nearest centroid's sum. */
static void add_rows(struct kmeans_run *r, const struct kernels *kn, const float *rows, size_t n)
{
    size_t dim = r->packed.dim, lanes = packed_lanes(&r->packed);
    for (size_t first = 0; first < n; first += KMEANS_TILE) {
        size_t count = n - first < KMEANS_TILE ? n - first : KMEANS_TILE;
        packed_dots(&r->packed, kn, rows + first * dim, count, r->dots);
        for (size_t i = 0; i < count; i++) {
            float value;
            size_t j = kn->closest(r->dots + i * lanes, r->packed.half, lanes, &value);
            const float *x = rows + (first + i) * dim;
            float *sum = r->sums + j * dim;
            for (size_t d = 0; d < dim; d++)
                sum[d] += x[d];
            r->counts[j]++;
        }
    }
}

mn_status kmeans(struct mn_alloc *a, const struct kernels *kn, const float *rows, size_t n,
                 uint32_t dim, uint32_t k, uint32_t rounds, uint64_t seed, float *centroids,
                 mn_error *err)
{
    struct kmeans_run r;
    assert(n > 0 && k > 0);
    if (k == 1) {
        mean_of(rows, n, dim, centroids);
        return MN_OK;
    }
    if (!run_init(&r, a, k, dim)) {
        run_fini(&r, a);
        return mn_fail(err, MN_NOMEM, "no memory for k-means of %zu rows into %u clusters", n, k);
    }
    for (uint32_t j = 0; j < k; j++) /* one of each k-th part of the rows */
        memcpy(centroids + (size_t)j * dim,
               rows + (n * j / k + rng_below(&seed, n / k + 1)) % n * dim, dim * sizeof *rows);
    for (uint32_t round = 0; round < rounds; round++) {
        packed_set(&r.packed, kn, centroids, NULL, k);
        memset(r.sums, 0, (size_t)k * dim * sizeof *r.sums);
        memset(r.counts, 0, k * sizeof *r.counts);
        add_rows(&r, kn, rows, n);
        for (uint32_t j = 0; j < k; j++) {
            float *c = centroids + (size_t)j * dim, *sum = r.sums + (size_t)j * dim;
            if (r.counts[j] == 0)
                memcpy(c, rows + rng_below(&seed, n) * dim, dim * sizeof *rows);
            for (uint32_t d = 0; r.counts[j] && d < dim; d++)
                c[d] = sum[d] / (float)r.counts[j];
        }
    }
    run_fini(&r, a);
    return MN_OK;
}
