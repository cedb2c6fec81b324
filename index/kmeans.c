#include "index/kmeans.h"

#include "index/rng.h"
#include "storage/base/error.h"

#include <assert.h>
#include <stdatomic.h>
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

/* Rows of one worker's turn, and the work from which on a second worker pays: waking it costs some
 * 20 us, a tile of 64 rows and 64 centroids of 128 elements 6 us. */
enum { TURN_ROWS = 4 * KMEANS_TILE, PARALLEL_WORK = 4 << 20, MAX_WORKERS = 64 };

/* Memory of a run. */
struct kmeans_run {
    const struct kernels *kn;
    const struct kmeans_spec *spec;
    struct packed packed;
    uint32_t workers;
    float *dots;       /* [workers][KMEANS_TILE][lanes] */
    float *sums;       /* [k][dim] */
    uint32_t *counts;  /* [k] */
    uint32_t *nearest; /* [n]; NULL with one worker, who adds rows as it goes */
    _Atomic size_t next; /* relaxed; first row of the next turn */
};

static uint32_t workers_for(const struct kmeans_spec *s)
{
    uint32_t n = parallel_threads(s->parallel);
    double work = (double)s->n * s->k * s->dim;
    n = n < MAX_WORKERS ? n : MAX_WORKERS;
    return work < PARALLEL_WORK ? 1 : n;
}

static bool run_init(struct kmeans_run *r, struct mn_alloc *a, const struct kernels *kn,
                     const struct kmeans_spec *s)
{
    size_t lanes = ((size_t)s->k + L - 1) / L * L;
    *r = (struct kmeans_run){.kn = kn, .spec = s, .workers = workers_for(s)};
    bool ok = packed_init(&r->packed, a, s->k, s->dim);
    r->sums = mn_alloc_array(a, s->k, s->dim * sizeof(float), MN_TAG_SEARCH);
    r->counts = mn_alloc_array(a, s->k, sizeof(uint32_t), MN_TAG_SEARCH);
    if (r->workers > 1) {
        r->nearest = mn_alloc_array(a, s->n, sizeof *r->nearest, MN_TAG_SEARCH);
        r->dots = mn_alloc_array(a, r->workers * lanes, KMEANS_TILE * sizeof(float),
                                 MN_TAG_SEARCH);
    }
    if (!r->nearest || !r->dots) { /* one alone needs less */
        mn_free(a, r->nearest);
        mn_free(a, r->dots);
        r->nearest = NULL;
        r->workers = 1;
        r->dots = mn_alloc_array(a, lanes, KMEANS_TILE * sizeof(float), MN_TAG_SEARCH);
    }
    return ok && r->dots && r->sums && r->counts;
}

static void run_fini(struct kmeans_run *r, struct mn_alloc *a)
{
    packed_fini(&r->packed, a);
    mn_free(a, r->dots);
    mn_free(a, r->sums);
    mn_free(a, r->counts);
    mn_free(a, r->nearest);
}

/* Adds a row to its nearest centroid's sum. */
static void add_row(struct kmeans_run *r, const float *x, size_t j)
{
    size_t dim = r->spec->dim;
    float *sum = r->sums + j * dim;
    for (size_t d = 0; d < dim; d++)
        sum[d] += x[d];
    r->counts[j]++;
}

/* The nearest centroids of rows [first, end). */
static void find_nearest(struct kmeans_run *r, unsigned worker, size_t first, size_t end)
{
    size_t dim = r->spec->dim, lanes = packed_lanes(&r->packed);
    float *dots = r->dots + worker * lanes * KMEANS_TILE;
    for (; first < end; first += KMEANS_TILE) {
        size_t count = end - first < KMEANS_TILE ? end - first : KMEANS_TILE;
        const float *rows = r->spec->rows + first * dim;
        packed_dots(&r->packed, r->kn, rows, count, dots);
        for (size_t i = 0; i < count; i++) {
            float value;
            size_t j = r->kn->closest(dots + i * lanes, r->packed.half, lanes, &value);
            if (r->nearest)
                r->nearest[first + i] = (uint32_t)j;
            else
                add_row(r, rows + i * dim, j);
        }
    }
}

static void take_turns(void *arg, unsigned worker)
{
    struct kmeans_run *r = arg;
    size_t n = r->spec->n, first;
    while ((first = atomic_fetch_add_explicit(&r->next, TURN_ROWS, memory_order_relaxed)) < n)
        find_nearest(r, worker, first, n - first < TURN_ROWS ? n : first + TURN_ROWS);
}

/* Adds each row to its nearest centroid's sum, in the order of rows. */
static void add_rows(struct kmeans_run *r)
{
    const struct kmeans_spec *s = r->spec;
    if (!r->nearest) {
        find_nearest(r, 0, 0, s->n);
        return;
    }
    atomic_store_explicit(&r->next, 0, memory_order_relaxed);
    parallel_run(s->parallel, r->workers, take_turns, r);
    for (size_t i = 0; i < s->n; i++)
        add_row(r, s->rows + i * s->dim, r->nearest[i]);
}

mn_status kmeans(struct mn_alloc *a, const struct kernels *kn, const struct kmeans_spec *s,
                 float *centroids, mn_error *err)
{
    struct kmeans_run r;
    size_t dim = s->dim, row = dim * sizeof(float);
    uint64_t seed = s->seed;
    assert(s->n > 0 && s->k > 0);
    if (s->k == 1) {
        mean_of(s->rows, s->n, s->dim, centroids);
        return MN_OK;
    }
    if (!run_init(&r, a, kn, s)) {
        run_fini(&r, a);
        return mn_fail(err, MN_NOMEM, "no memory for k-means of %zu rows into %u clusters", s->n,
                       s->k);
    }
    for (uint32_t j = 0; j < s->k; j++) /* one of each k-th part of the rows */
        memcpy(centroids + j * dim,
               s->rows + (s->n * j / s->k + rng_below(&seed, s->n / s->k + 1)) % s->n * dim, row);
    for (uint32_t round = 0; round < s->rounds; round++) {
        packed_set(&r.packed, kn, centroids, NULL, s->k);
        memset(r.sums, 0, s->k * row);
        memset(r.counts, 0, s->k * sizeof *r.counts);
        add_rows(&r);
        for (uint32_t j = 0; j < s->k; j++) {
            float *c = centroids + j * dim, *sum = r.sums + j * dim;
            if (r.counts[j] == 0)
                memcpy(c, s->rows + rng_below(&seed, s->n) * dim, row);
            for (size_t d = 0; r.counts[j] && d < dim; d++)
                c[d] = sum[d] / (float)r.counts[j];
        }
    }
    run_fini(&r, a);
    return MN_OK;
}
