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
 * From CENTROIDS_GRAPH bytes of codes on, searches and assignment of rows walk a graph in place of
 * the scan (centroid_graph.c), which gives the same numbers, of the near centroids only. While the
 * codes lie in L2 (2 MB on the machine measured) a scan takes 1 ns a centroid of 128 elements, from
 * L3 2.4 to 4.7. CPU us of whole searches, scan / graph, k 10, calibrated to the same recall
 * (mneme_bench centroids; AVX-512, clustered sets and word vectors):
 *
 *   rows            centroids    at recall 0.95   at 0.99
 *   1M x 128             8,105      34 /  34       53 /  63
 *                       11,859      54 /  39       76 /  68
 *                       16,140      95 /  50      121 /  96
 *                       31,616     219 /  76      252 / 143
 *                       59,987     393 /  95      440 / 201
 *   200K x 768           2,013      76 /  67      126 / 125
 *                        3,986     147 /  66      184 / 136
 *                        7,688     261 /  81      305 / 156
 *   500K x 768           2,857     125 /  84      189 / 162
 *   words, 330K x 100   13,991      78 /  96      124 / 141
 *                       30,671     218 / 229      270 / 294
 *
 * The words are what a graph does worst with: at 11 to 24 rows a posting, hundreds of postings are
 * probed; most walks are then given up for a scan, which costs the difference (ann.c).
 */
#include "index/centroids.h"

#include "index/centroid_graph.h"
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
    centroid_graph_destroy(a, c->graph);
    mn_free(a, c);
}

uint64_t centroids_bytes(const struct centroids *c)
{
    uint64_t each = c->quads * 4 + 2 * sizeof(float) + (c->exact ? c->dim * sizeof(float) : 0);
    return c->n * each + (c->graph ? centroid_graph_bytes(c->graph) : 0);
}

uint64_t centroids_bytes_of(uint32_t n, uint32_t dim)
{
    bool graph = n >= CENTROIDS_GRAPH / dim;
    return (uint64_t)n * (dim + 2 * sizeof(float)) + (graph ? centroid_graph_bytes_of(n, dim) : 0);
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

static bool take_memory(struct mn_alloc *a, struct centroids *c, bool keep_exact)
{
    size_t lanes = (size_t)c->blocks * CENTROID_LANES;
    c->codes = mn_alloc(a, lanes * c->quads * 4, MN_TAG_CACHE);
    c->scale = mn_alloc_array(a, lanes, sizeof(float), MN_TAG_CACHE);
    c->norm = mn_alloc_array(a, lanes, sizeof(float), MN_TAG_CACHE);
    if (keep_exact)
        c->exact = mn_alloc_array(a, c->n, c->dim * sizeof(float), MN_TAG_CACHE);
    return c->codes && c->scale && c->norm && (c->exact || !keep_exact);
}

static bool is_dead(const struct centroids *c, const struct centroids_spec *spec, size_t j)
{
    return isnan(spec->vectors[j * c->dim]);
}

/* Returns how many are alive. `rotated` [dim] is scratch. */
static uint32_t set_codes(struct centroids *c, const struct rabitq *q,
                          const struct centroids_spec *spec, float *rotated)
{
    size_t lanes = (size_t)c->blocks * CENTROID_LANES;
    uint32_t live = 0;
    memset(c->codes, CENTROID_ZERO, lanes * c->quads * 4);
    for (uint32_t j = 0; j < c->n; j++) {
        float *to = c->exact ? c->exact + (size_t)j * c->dim : rotated;
        if (is_dead(c, spec, j))
            continue; /* its exact vector stays zero */
        rabitq_rotate(q, spec->vectors + (size_t)j * c->dim, to);
        put_codes(c, j, to);
        live++;
    }
    for (size_t j = 0; j < lanes; j++)
        if (j >= c->n || is_dead(c, spec, j))
            c->norm[j] = FAR;
    return live;
}

mn_status centroids_create(struct mn_alloc *a, const struct rabitq *q,
                           const struct centroids_spec *spec, struct centroids **out,
                           mn_error *err)
{
    uint32_t n = spec->n, from = spec->graph_from ? spec->graph_from : CENTROIDS_GRAPH / q->dim;
    *out = NULL;
    if (n == 0 || n > CENTROIDS_MAX)
        return mn_fail(err, MN_INVALID, "an index may have 1 to %d centroids, not %u",
                       CENTROIDS_MAX, n);
    struct centroids *c = mn_alloc_array(a, 1, sizeof *c, MN_TAG_CACHE);
    float *rotated = mn_alloc_array(a, q->dim, sizeof *rotated, MN_TAG_SEARCH);
    mn_status st = MN_OK;
    if (c) {
        c->n = n;
        c->dim = q->dim;
        c->metric = q->metric;
        c->blocks = (n + CENTROID_LANES - 1) / CENTROID_LANES;
        c->quads = (q->dim + 3) / 4;
    }
    if (!c || !rotated || !take_memory(a, c, spec->keep_exact))
        st = mn_fail(err, MN_NOMEM, "no memory for the codes of %u centroids of %u elements", n,
                     q->dim);
    else if (set_codes(c, q, spec, rotated) >= from)
        st = centroid_graph_create(a, q->kn, c, spec->before ? spec->before->graph : NULL, q->seed,
                                   &c->graph, err);
    mn_free(a, rotated);
    if (st)
        centroids_destroy(a, c);
    else
        *out = c;
    return st;
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
