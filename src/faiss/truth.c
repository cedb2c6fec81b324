/* FAISS has l2 squared and the inner product. Cosine is the inner product of vectors scaled to
 * length 1, in double precision here, so that FAISS sees the direction alone. */
#include "src/faiss/truth.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/faiss/load.h"
#include "storage/base/error.h"

enum { BLOCK_ROWS = 1024 /* handed to FAISS at once */ };

struct faiss_truth {
    const struct faiss_plugin *plugin;
    struct faiss_flat *flat;
    mn_collection_info info;
    int64_t *ids; /* [n] of the rows in the index, ascending */
    size_t n, room;
    float *block; /* [BLOCK_ROWS][dim] */
    float *raw;   /* [most * k] distances of a search, and its labels */
    int64_t *labels;
    size_t raw_room;
};

static mn_status no_memory(const struct faiss_truth *t, mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "no memory to take '%s' to FAISS", t->info.name);
}

/* False: the vector is not finite, or has no direction under cosine. */
static bool prepare(const struct faiss_truth *t, float *x)
{
    double square = 0;
    for (uint32_t d = 0; d < t->info.dim; d++)
        square += (double)x[d] * (double)x[d];
    if (!isfinite(square) || square > (double)FLT_MAX)
        return false;
    if (t->info.metric != MN_COSINE)
        return true;
    double scale = 1 / sqrt(square);
    for (uint32_t d = 0; d < t->info.dim && square > 0; d++)
        x[d] = (float)((double)x[d] * scale);
    return square > 0;
}

static mn_status add_block(struct faiss_truth *t, size_t n, mn_error *err)
{
    return n ? t->plugin->add(t->flat, t->block, NULL, n, err) : MN_OK;
}

static mn_status add_row(struct faiss_truth *t, const struct faiss_truth_opts *opts,
                         const mn_row *row, size_t *n, mn_error *err)
{
    float *to = t->block + *n * t->info.dim;
    if (!row->vector)
        return MN_OK;
    if (opts->widen)
        opts->widen(t->info.dtype, t->info.dim, row->vector, to);
    else
        memcpy(to, row->vector, t->info.dim * sizeof *to);
    if (!prepare(t, to))
        return MN_OK;
    if (t->n == t->room) {
        size_t room = t->room ? t->room * 2 : 4096;
        int64_t *more = realloc(t->ids, room * sizeof *more);
        if (!more)
            return no_memory(t, err);
        t->ids = more;
        t->room = room;
    }
    t->ids[t->n++] = row->id;
    if (++*n < BLOCK_ROWS)
        return MN_OK;
    *n = 0;
    return add_block(t, BLOCK_ROWS, err);
}

static mn_status add_all(struct faiss_truth *t, mn_conn *conn, const struct faiss_truth_opts *opts,
                         mn_error *err)
{
    mn_iter *iter = NULL;
    const mn_row *row = NULL;
    size_t n = 0;
    mn_status st = mn_iter_open(conn, t->info.name, INT64_MIN, &iter, err);
    while (!st && !(st = mn_iter_next(iter, &row, err)) && row)
        st = add_row(t, opts, row, &n, err);
    mn_iter_close(iter);
    return st ? st : add_block(t, n, err);
}

mn_status faiss_truth_open(mn_conn *conn, const char *collection,
                           const struct faiss_truth_opts *opts, struct faiss_truth **out,
                           mn_error *err)
{
    struct faiss_truth *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t)
        return mn_fail(err, MN_NOMEM, "no memory to take '%s' to FAISS", collection);
    mn_status st = mn_info(conn, collection, &t->info, err);
    if (!st && t->info.metric == MN_HAMMING)
        st = mn_fail(err, MN_INVALID,
                     "'%s' is searched by hamming, which FAISS's flat index "
                     "lacks: it has l2 and ip, and so cosine",
                     collection);
    if (!st && !opts->widen && t->info.dtype != MN_F32)
        st = mn_fail(err, MN_INVALID, "'%s' holds %s, f32 is wanted", collection,
                     mn_dtype_name(t->info.dtype));
    if (!st)
        st = faiss_load(&t->plugin, err);
    if (!st && !(t->block = malloc(BLOCK_ROWS * t->info.dim * sizeof *t->block)))
        st = no_memory(t, err);
    if (!st) {
        t->plugin->set_threads(opts->threads ? opts->threads : 1);
        st = t->plugin->create(t->info.dim, t->info.metric == MN_L2 ? MN_L2 : MN_IP, false,
                               &t->flat, err);
    }
    if (!st)
        st = add_all(t, conn, opts, err);
    if (!st && t->n == 0)
        st = mn_fail(err, MN_INVALID, "'%s' has no vector", collection);
    if (st)
        faiss_truth_close(t);
    else
        *out = t;
    return st;
}

static double distance_of(mn_metric metric, float raw)
{
    switch (metric) {
    case MN_L2:
        return sqrt((double)raw);
    case MN_COSINE:
        return 1 - (double)raw;
    default:
        return -(double)raw;
    }
}

/* One query's hits from its labels and raw distances. */
static uint32_t take_hits(const struct faiss_truth *t, const int64_t *labels, const float *raw,
                          uint32_t k, mn_hit *hits)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < k; i++) {
        if (labels[i] < 0 || (uint64_t)labels[i] >= t->n)
            continue;
        mn_hit hit = {t->ids[labels[i]], distance_of(t->info.metric, raw[i])};
        uint32_t at = n++;
        for (; at > 0 && hits[at - 1].distance == hit.distance && hits[at - 1].id > hit.id; at--)
            hits[at] = hits[at - 1];
        hits[at] = hit;
    }
    return n;
}

/* At most BLOCK_ROWS queries. */
static mn_status search_block(struct faiss_truth *t, const float *queries, size_t nq, uint32_t k,
                              mn_hit *hits, uint32_t *found, mn_error *err)
{
    uint32_t dim = t->info.dim, most = k < t->n ? k : (uint32_t)t->n;
    memcpy(t->block, queries, nq * dim * sizeof *queries);
    for (size_t q = 0; q < nq; q++)
        if (!prepare(t, t->block + q * dim))
            return mn_fail(err, MN_INVALID,
                           "query %zu of the block is not finite, too long, or "
                           "has no direction",
                           q);
    mn_status st = t->plugin->search(t->flat, t->block, nq, most, t->raw, t->labels, err);
    for (size_t q = 0; !st && q < nq; q++)
        found[q] = take_hits(t, t->labels + q * most, t->raw + q * most, most, hits + q * k);
    return st;
}

mn_status faiss_truth_search(struct faiss_truth *t, const float *queries, size_t nq, uint32_t k,
                             mn_hit *hits, uint32_t *found, mn_error *err)
{
    size_t block = nq < BLOCK_ROWS ? nq : BLOCK_ROWS, want = block * k;
    if (t->raw_room < want) {
        free(t->raw);
        free(t->labels);
        t->raw = malloc(want * sizeof *t->raw);
        t->labels = malloc(want * sizeof *t->labels);
        t->raw_room = t->raw && t->labels ? want : 0;
        if (!t->raw_room)
            return no_memory(t, err);
    }
    mn_status st = MN_OK;
    for (size_t q = 0; !st && q < nq; q += block) {
        size_t n = nq - q < block ? nq - q : block;
        st = search_block(t, queries + q * t->info.dim, n, k, hits + q * k, found + q, err);
    }
    return st;
}

void faiss_truth_close(struct faiss_truth *t)
{
    if (!t)
        return;
    if (t->flat)
        t->plugin->destroy(t->flat);
    free(t->ids);
    free(t->block);
    free(t->raw);
    free(t->labels);
    free(t);
}
