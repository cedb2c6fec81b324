/* Small collections with a hybrid index, for the tests that try to break it: limits so low that a
 * few hundred rows have one, clustered rows, and checks of answers against brute force. */
#ifndef MN_TESTS_ENGINE_INDEXED_H
#define MN_TESTS_ENGINE_INDEXED_H

#include "src/engine/engine.h"
#include "tests/engine/brute.h"

/* An index from 300 rows on; 20 changes are due; beyond 400 a writer helps. */
#define INDEXED_LIMITS                                                                             \
    (struct index_limits)                                                                          \
    {                                                                                              \
        .min_rows = 300, .fold_pending = 20, .pending_max = 400                                    \
    }

enum { INDEXED_CENTRES = 16, INDEXED_MAX_DIM = 16384 };

/* Vector number `n` of a seed, in the dtype: near one of 16 centres, which are the same for every
 * seed. Never all zeros. */
static inline void indexed_vector(mn_dtype dtype, uint32_t dim, uint64_t seed, uint64_t n,
                                  void *out)
{
    static _Thread_local float wide[INDEXED_MAX_DIM];
    struct test_rng r = {seed * 1000003 + n * 7919 + 1};
    test_rand(&r);
    struct test_rng centre = {1700 + 31 * test_below(&r, INDEXED_CENTRES)};
    test_rand(&centre);
    for (uint32_t i = 0; i < dim; i++)
        wide[i] = (float)(2 * test_uniform(&centre) - 1 + 0.4 * (2 * test_uniform(&r) - 1));
    if (dtype == MN_I8) {
        for (uint32_t i = 0; i < dim; i++)
            ((int8_t *)out)[i] = (int8_t)lrintf(wide[i] * 60);
        ((int8_t *)out)[0] |= 1;
        return;
    }
    mn_error err = {0};
    CHECK_OK(convert_f32(kernels_select(ISA_COUNT), dtype, dim, wide, out, "vector", &err), err);
}

struct indexed_query {
    const char *name; /* the collection's */
    const void *vector;
    uint32_t k;
    mn_search_opts opts; /* recall, filter, ids */
    brute_keep_fn keep;  /* the same rows; NULL: all */
    void *keep_ctx;
    bool estimated;      /* distances are: only the order is checked */
};

struct indexed_recall {
    double found, wanted;  /* hits of searches that the index answered */
    uint64_t by_index, by_rows; /* searches */
};

/* Live rows, each once, in order. */
static inline const char *indexed_check_order(const struct brute *b, const struct indexed_query *q,
                                              const mn_hit *hits, size_t found)
{
    for (size_t i = 0; i < found; i++) {
        size_t at = 0;
        while (at < b->n && b->ids[at] != hits[i].id)
            at++;
        if (at == b->n || (q->keep && !q->keep(q->keep_ctx, hits[i].id)))
            return brute_says("hit %zu: id %" PRId64 " is no such row", i, hits[i].id);
        if (i && hits[i].distance < hits[i - 1].distance)
            return brute_says("hit %zu is nearer than the one before", i);
        for (size_t j = 0; j < i; j++)
            if (hits[j].id == hits[i].id)
                return brute_says("id %" PRId64 " stands twice", hits[i].id);
    }
    return NULL;
}

static inline int indexed_ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* How many of the hits are among the k nearest of `kept` rows. */
static inline size_t indexed_true_hits(const struct brute *b, const struct indexed_query *q,
                                       const mn_hit *hits, size_t found)
{
    size_t n = 0, good = 0, bytes = mn_vector_bytes(b->dtype, b->dim);
    double *all = malloc((b->n + 1) * sizeof *all), slack = 0, limit;
    CHECK(all);
    for (size_t i = 0; i < b->n; i++)
        if (!q->keep || q->keep(q->keep_ctx, b->ids[i]))
            all[n++] = brute_distance(b, q->vector, b->vectors + i * bytes, &slack);
    qsort(all, n, sizeof *all, indexed_ascending);
    limit = found ? all[found - 1] : 0;
    free(all);
    for (size_t h = 0; h < found; h++) {
        size_t at = 0;
        while (b->ids[at] != hits[h].id)
            at++;
        good += brute_distance(b, q->vector, b->vectors + at * bytes, &slack) <= limit + slack;
    }
    return good;
}

/* One search against the rows in `b`. What must hold at any recall: min(k, rows) live rows, each
 * once, in order, at their exact distances. NULL, or what is wrong. */
static inline const char *indexed_check(mn_conn *conn, const struct brute *b,
                                        const struct indexed_query *q, struct indexed_recall *sum)
{
    mn_hit *hits = malloc(q->k * sizeof *hits);
    uint32_t found = 0;
    mn_error err = {0};
    mn_search_stats stats = {0};
    mn_search_opts opts = q->opts;
    const char *wrong = NULL;
    size_t kept = 0;
    opts.stats = &stats;
    CHECK(hits);
    if (mn_search(conn, q->name, q->vector, 1, q->k, &opts, hits, &found, &err))
        wrong = brute_says("search: %s", err.message);
    for (size_t i = 0; i < b->n; i++)
        kept += !q->keep || q->keep(q->keep_ctx, b->ids[i]);
    if (!wrong && found != (kept < q->k ? kept : q->k))
        wrong = brute_says("%u hits, want min(k = %u, %zu rows)", found, q->k, kept);
    if (!wrong && !stats.from_index)
        wrong = brute_compare(b, q->vector, q->k, 0, q->keep, q->keep_ctx, hits, found);
    else if (!wrong)
        wrong = indexed_check_order(b, q, hits, found);
    if (!wrong && stats.from_index && !q->estimated) {
        bool *is_hit = calloc(b->n + 1, sizeof *is_hit);
        CHECK(is_hit);
        wrong = brute_check_hits(b, q->vector, q->keep, q->keep_ctx, hits, found, is_hit);
        free(is_hit);
    }
    if (!wrong && stats.from_index) {
        sum->found += (double)indexed_true_hits(b, q, hits, found);
        sum->wanted += found;
    }
    sum->by_index += stats.from_index;
    sum->by_rows += !stats.from_index;
    free(hits);
    return wrong;
}

static inline void indexed_print_finding(void *ctx, const char *where, const char *what)
{
    snprintf(ctx, 300, "verify: %s: %s", where, what);
}

/* NULL, or the last finding of verify. */
static inline const char *indexed_verify(mn_conn *conn)
{
    static _Thread_local char text[300];
    uint64_t findings = 0;
    mn_error err = {0};
    *text = 0;
    if (mn_verify(conn, indexed_print_finding, text, &findings, &err))
        return brute_says("verify: %s", err.message);
    return findings ? text : NULL;
}

#endif
