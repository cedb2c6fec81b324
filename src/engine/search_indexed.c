/*
 * Search by the hybrid index: the rows changed since the last fold exactly, the others by their
 * codes, and the last candidates exactly again, from memory, from the sidecar, or from their rows.
 * Distances are those of an exact search, to the bit; only which rows are found may differ.
 */
#include <math.h>
#include <string.h>

#include "index/ann.h"
#include "src/engine/fold.h"
#include "src/engine/ivf_store.h"
#include "src/engine/search.h"
#include "storage/sql.h"

enum {
    SCRATCH_K = 128, /* memory for searches is made for so many hits at least */
    COLD_BATCH = 64, /* candidates read from the sidecar at once */
    WARM_BLOCKS = 16 /* heap blocks, MiB, that a search reads in beside its own work: some 10 ms */
};

static double recall_of(const struct search *s)
{
    if (s->opts.recall > 0)
        return s->opts.recall;
    return s->c->entry.recall > 0 ? s->c->entry.recall : DEFAULT_RECALL;
}

/* One query while it runs. */
struct asked {
    struct search *s;
    const struct view *view;
    const struct ivf *x;
    bool warm;         /* all vectors are in memory */
    struct scan *scan; /* of this query: pending rows, and exact distances */
    float *wide;       /* [dim] the query as the index sees it */
    mn_hit *pending;   /* [k] */
};

static enum ann_verdict on_admit(void *ctx, int64_t id, mn_error *err)
{
    struct asked *a = ctx;
    if (view_changed(a->view, id))
        return ANN_REJECT;
    if (!search_admit_fn(a->s))
        return ANN_ADMIT;
    enum scan_verdict v = search_admit(a->s, id, err);
    return v == SCAN_ADMIT ? ANN_ADMIT : v == SCAN_REJECT ? ANN_REJECT : ANN_STOP;
}

static mn_status on_tick(void *ctx, mn_error *err)
{
    struct asked *a = ctx;
    return conn_tick(a->s->conn, err);
}

static double key_of(struct asked *a, const void *vector)
{
    double distance;
    scan_distances(a->scan, 0, vector, 1, &distance);
    return ivf_key(a->s->c->entry.metric, distance);
}

/* A candidate's vector from its row: the sidecar's copy cannot be read. */
static mn_status key_from_row(struct asked *a, int64_t id, double *key, mn_error *err)
{
    sqlite3_stmt *st;
    bool row;
    mn_status status = coll_stmt(a->s->conn, a->s->c, STMT_GET_VECTOR, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, id);
    status = sql_step(st, &row, err);
    if (status)
        return status;
    bool good = row && sqlite3_column_type(st, 0) == SQLITE_BLOB &&
                (size_t)sqlite3_column_bytes(st, 0) == a->s->c->vector_bytes;
    *key = good ? key_of(a, sqlite3_column_blob(st, 0)) : NAN;
    sqlite3_reset(st);
    return MN_OK;
}

/* Candidates [n] whose vectors are not in memory; `at` says which keys are theirs. */
static mn_status rerank_cold(struct asked *a, const struct ann_candidate *c, const uint32_t *at,
                             size_t n, double *keys, mn_error *err)
{
    mn_conn *conn = a->s->conn;
    const void *vectors[ANN_MAX_BATCH] = {NULL};
    mn_status st = MN_OK;
    if (conn->reader && !ivf_reader_fits(conn->reader, a->s->c->vector_bytes)) {
        ivf_reader_destroy(conn->reader);
        conn->reader = NULL;
    }
    if (!conn->reader && a->x->n_heap)
        st = ivf_reader_create(conn, a->s->c->vector_bytes, &conn->reader, err);
    if (st == MN_OK && conn->reader && a->x->n_heap)
        st = ivf_read(conn->reader, a->x, c, n, vectors, &a->s->stats.reads, err);
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        if (vectors[i])
            keys[at[i]] = key_of(a, vectors[i]);
        else
            st = key_from_row(a, c[i].id, &keys[at[i]], err);
    }
    return st;
}

static mn_status on_rerank(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                           mn_error *err)
{
    struct asked *a = ctx;
    struct ann_candidate cold[ANN_MAX_BATCH];
    uint32_t at[ANN_MAX_BATCH];
    size_t n_cold = 0;
    for (size_t i = 0; i < n; i++) {
        const void *v = ivf_vector(a->x, c[i].posting, c[i].part, c[i].slot);
        if (v) {
            keys[i] = key_of(a, v);
        } else {
            cold[n_cold] = c[i];
            at[n_cold++] = (uint32_t)i;
        }
    }
    return n_cold ? rerank_cold(a, cold, at, n_cold, keys, err) : MN_OK;
}

/* Scores the rows changed since the last fold; they become the search's first hits. */
static mn_status scan_pending(struct asked *a, size_t *n, mn_error *err)
{
    struct search *s = a->s;
    mn_status st = MN_OK;
    struct scan_block block;
    *n = 0;
    for (size_t i = 0; i < view_parts(a->view) && st == MN_OK; i++) {
        view_block(a->view, i, &block);
        st = scan_block(a->scan, &block, search_admit_fn(s), s, err);
        s->stats.rows_scanned += block.n;
    }
    if (st)
        return st;
    *n = scan_count(a->scan, 0);
    scan_hits(a->scan, 0, a->pending);
    for (size_t i = 0; i < *n; i++)
        a->pending[i].distance = ivf_key(s->c->entry.metric, a->pending[i].distance);
    return MN_OK;
}

static mn_status ask(struct asked *a, const void *query, mn_hit *hits, uint32_t *found,
                     mn_error *err)
{
    struct search *s = a->s;
    const struct catalog_entry *e = &s->c->entry;
    const mn_hit *got;
    bool estimate = s->opts.estimated || e->rerank == MN_RERANK_NONE;
    size_t n_pending;
    struct scan_spec spec = {.dtype = e->dtype,
                             .metric = e->metric,
                             .dim = e->dim,
                             .queries = query,
                             .nq = 1,
                             .k = s->k};
    mn_status st = scan_create(s->conn->db->alloc, s->conn->db->kernels, &spec, &a->scan, err);
    if (st == MN_OK)
        st = scan_pending(a, &n_pending, err);
    if (st == MN_OK) {
        ivf_widen(a->x->core, s->conn->db->kernels, query, a->wide);
        struct ann_query q = {.vector = a->wide,
                              .k = s->k,
                              .knobs = ann_tuning_knobs(&a->x->tuning, s->k, recall_of(s)),
                              .pending = a->pending,
                              .n_pending = n_pending,
                              .admit =
                                  view_n_changed(a->view) || search_admit_fn(s) ? on_admit : NULL,
                              .admit_ctx = a,
                              .rerank = estimate ? NULL : on_rerank,
                              .rerank_ctx = a,
                              .batch = a->warm ? 0 : COLD_BATCH,
                              .tick = on_tick,
                              .tick_ctx = a};
        st = ann_search(a->x->ann, s->conn->scratch, &q, err);
    }
    if (st == MN_OK) {
        const struct ann_stats *did = ann_stats(s->conn->scratch);
        size_t n = ann_hits(s->conn->scratch, &got);
        for (size_t i = 0; i < n; i++)
            hits[i] = (mn_hit){got[i].id, ivf_distance(e->dtype, e->metric, got[i].distance)};
        *found = (uint32_t)n;
        s->stats.probed += did->probed;
        s->stats.codes += did->codes;
        s->stats.reranked += did->reranked;
    }
    scan_destroy(a->scan);
    a->scan = NULL;
    return st;
}

/* The connection's memory for searches, large enough for this index and k. */
static mn_status ready_scratch(struct search *s, const struct ivf *x, mn_error *err)
{
    mn_conn *conn = s->conn;
    uint32_t k = s->k > SCRATCH_K ? s->k : SCRATCH_K, lists = x->core->n_lists;
    if (conn->scratch && conn->scratch_lists >= lists && conn->scratch_k >= k &&
        conn->scratch_dim == s->c->entry.dim)
        return MN_OK;
    ann_scratch_destroy(conn->db->alloc, conn->scratch);
    conn->scratch = NULL;
    mn_status st =
        ann_scratch_create(conn->db->alloc, s->c->entry.dim, lists, k, &conn->scratch, err);
    conn->scratch_lists = lists;
    conn->scratch_k = k;
    conn->scratch_dim = s->c->entry.dim;
    return st;
}

static mn_status ask_all(struct search *s, const struct view *v, mn_hit *hits, uint32_t *found,
                         mn_error *err)
{
    struct mn_alloc *alloc = s->conn->db->alloc;
    struct asked a = {.s = s, .view = v, .x = view_base(v), .warm = ivf_warm(view_base(v))};
    mn_status st = ready_scratch(s, a.x, err);
    a.wide = mn_alloc(alloc, s->c->entry.dim * sizeof *a.wide, MN_TAG_SEARCH);
    a.pending = mn_alloc_array(alloc, s->k, sizeof *a.pending, MN_TAG_SEARCH);
    if (st == MN_OK && (!a.wide || !a.pending))
        st = mn_fail(err, MN_NOMEM, "search: out of memory under the cap for %u hits", s->k);
    for (size_t q = 0; q < s->nq && st == MN_OK; q++) {
        st = ask(&a, s->queries + q * s->c->vector_bytes, hits + q * s->k, &found[q], err);
        s->conn->done = q + 1;
        if (st == MN_OK)
            st = conn_tick(s->conn, err);
    }
    mn_free(alloc, a.wide);
    mn_free(alloc, a.pending);
    return st;
}

/* Vectors lie in the sidecar though memory would have room for them. */
static bool view_wants_warmth(const struct search *s, const struct view *v)
{
    const struct ivf *x = view_base(v);
    size_t bytes = (size_t)x->n_heap * HEAP_BLOCK_PAGES * (HEAP_PAGE + 16);
    return x->n_heap && !s->conn->db->limits.cold && !ivf_warm(x) &&
           cache_has_room(s->conn->db, bytes);
}

mn_status search_indexed(struct search *s, mn_hit *hits, uint32_t *found, bool *answered,
                         mn_error *err)
{
    struct view *v = NULL;
    uint64_t pending = 0;
    *answered = false;
    bool few = s->ids && s->n_ids <= FEW_IDS; /* looking those up is exact and cheaper */
    if (!s->c->indexable || recall_of(s) >= 1 || few)
        return MN_OK;
    mn_status st = cache_indexed(s->conn, s->c, &v, &pending, err);
    if (st || !v)
        return st;
    bool cold = view_wants_warmth(s, v), folds = folder_may_run(s->conn->db);
    if (view_n_changed(v) >= s->conn->db->limits.fold_pending || cold)
        folder_tell(s->conn->db, s->c->entry.name);
    /* Without a folder vectors come into memory little by little, and not before the first answer:
     * the connection then has a reader. */
    if (cold && !folds && s->conn->reader)
        st = ivf_warm_up(s->conn, view_base(v), WARM_BLOCKS, err);
    if (st == MN_NOMEM) { /* no matter: they stay where they are */
        mn_error_clear(err);
        st = MN_OK;
    }
    s->conn->total = s->nq;
    s->stats.rows_pending += pending;
    s->stats.from_index = true;
    s->stats.from_cache = ivf_warm(view_base(v));
    if (st == MN_OK)
        st = ask_all(s, v, hits, found, err);
    *answered = st == MN_OK;
    view_release(s->conn->db, v);
    return st;
}
