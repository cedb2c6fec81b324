/*
 * Search by the hybrid index: the rows changed since the last fold exactly, the others by their
 * codes, and the last candidates exactly again, from memory, from the sidecar, or from their rows.
 * Distances are those of an exact search, to the bit; only which rows are found may differ.
 *
 * A call with many queries spreads them over several threads, each with an asker of its own, which
 * takes one query after the other. Its answer does not depend on the asker, nor on what that did
 * before, so it is the same for any number of threads. SQLite, the filter and the progress callback
 * belong to the connection's thread. So a call with a filter is that thread's alone; a helper that
 * needs rows queues an errand and waits, and the connection's thread runs the errands at each tick
 * of its own queries, and at the end until no helper is left.
 */
#include <math.h>
#include <string.h>

#include "index/ann.h"
#include "src/engine/asker.h"
#include "src/engine/fold.h"
#include "src/engine/ivf_store.h"
#include "src/engine/pool.h"
#include "src/engine/search.h"
#include "storage/sql.h"

enum {
    COLD_BATCH = 64,  /* candidates read from the sidecar at once */
    FETCHED_BYTES = 1024, /* of a vector, ahead: then the hardware follows */
    FEW_QUERIES = 4,  /* so many a thread are worth its waking up: that costs what one query does */
    FEW_MATCHES = 300, /* so many listed rows are scored exactly sooner than probed for */
    WARM_BLOCKS = 16  /* heap blocks, MiB, that a search reads in beside its own work: some 10 ms */
};

#define REFUSE_SHARE 0.7f

/* How lambda rises with falling selectivity. */
#define SPARSE_FROM 0.25
#define SPARSE_POWER 0.6
#define SPARSE_MOST 20

static double recall_of(const struct search *s)
{
    if (s->opts.recall > 0)
        return s->opts.recall;
    return s->c->entry.recall > 0 ? s->c->entry.recall : DEFAULT_RECALL;
}

struct errand;

/* The queries of one call, while they run. */
struct call {
    struct search *s;      /* stats: its thread's only */
    const struct view *view;
    struct ivf *x;
    struct asker *askers;  /* one a thread */
    bool warm;             /* all vectors are in memory */
    bool estimate;         /* no exact distances are wanted */
    float most;            /* rows that a query may score before scoring all matches is cheaper */
    bool refused;          /* one would: its thread's only, as there are no others */
    mn_hit *hits;          /* [nq][k] */
    uint32_t *found;       /* [nq] */
    _Atomic size_t next;   /* relaxed; next query to be taken */
    _Atomic size_t done;   /* relaxed; queries answered */
    _Atomic bool stop;     /* relaxed; a query failed: nobody takes another */
    _Atomic unsigned want; /* relaxed; errands queued: a look without the lock */
    pthread_mutex_t lock;  /* guards what follows */
    pthread_cond_t queued; /* an errand was queued, or a helper left */
    pthread_cond_t served; /* an errand was run */
    struct errand *errands;
    unsigned helpers;      /* at work */
    mn_status status;      /* of the first failure */
    mn_error err;
    mn_search_stats stats; /* of helpers that left */
};

/* One thread's part in it. */
struct asked {
    struct call *call;
    struct asker *own;
    bool helper;           /* not the connection's thread */
    const void *query;     /* the running one */
    mn_search_stats stats;
};

/* Candidates whose vectors must come from their rows, for a helper that waits. */
struct errand {
    struct asked *a;
    const struct ann_candidate *c; /* [n] */
    const uint32_t *at;            /* [n] which keys are theirs */
    size_t n;
    double *keys;
    mn_status status;
    mn_error *err;
    bool done;           /* call's lock */
    struct errand *next; /* call's lock */
};

static double key_of(struct asked *a, const void *vector)
{
    double distance;
    scan_distances(a->own->scan, 0, vector, 1, &distance);
    return ivf_key(a->call->s->c->entry.metric, distance);
}

/* ---- Vectors from rows ----------------------------------------------------------------------- */

/* On the connection's thread; `a` is whoever asks. */
static mn_status key_from_row(struct asked *a, int64_t id, double *key, mn_error *err)
{
    struct search *s = a->call->s;
    struct row_vector v;
    mn_status st = row_vector_get(s->conn, s->c, id, &v, err);
    if (st)
        return st;
    *key = v.bytes ? key_of(a, v.bytes) : NAN;
    row_vector_end(&v);
    return MN_OK;
}

static void run_errand(struct errand *e)
{
    e->status = MN_OK;
    for (size_t i = 0; i < e->n && e->status == MN_OK; i++)
        e->status = key_from_row(e->a, e->c[i].id, &e->keys[e->at[i]], e->err);
}

static void wait_for_errand(struct call *all, struct errand *e)
{
    pthread_mutex_lock(&all->lock);
    e->next = all->errands;
    all->errands = e;
    atomic_fetch_add_explicit(&all->want, 1, memory_order_relaxed);
    pthread_cond_signal(&all->queued);
    while (!e->done)
        pthread_cond_wait(&all->served, &all->lock);
    pthread_mutex_unlock(&all->lock);
}

/* Runs the errands that are queued; holds the lock before and after, not meanwhile. */
static void serve(struct call *all)
{
    while (all->errands) {
        struct errand *e = all->errands;
        all->errands = e->next;
        atomic_fetch_sub_explicit(&all->want, 1, memory_order_relaxed);
        pthread_mutex_unlock(&all->lock);
        run_errand(e);
        pthread_mutex_lock(&all->lock);
        e->done = true;
        pthread_cond_broadcast(&all->served);
    }
}

/* ---- One query ------------------------------------------------------------------------------- */

/* Whether a candidate meets the conditions, as far as its codes tell. What was away may have no
 * number in its part. */
static enum selected codes_say(const struct search *s, const struct ann_candidate *c)
{
    const struct ivf *x = s->selected.x;
    uint32_t use = x->first[c->posting] + c->part;
    return x->ann_parts[use].view.blocks ? selection_row(&s->selected, use, c->slot, c->id)
                                         : SELECTED_MAYBE;
}

static enum ann_verdict on_admit(void *ctx, const struct ann_candidate *c, mn_error *err)
{
    struct asked *a = ctx;
    struct search *s = a->call->s;
    if (view_changed(a->call->view, c->id))
        return ANN_REJECT;
    enum scan_verdict v = SCAN_ADMIT;
    enum selected met = SELECTED_MAYBE;
    if (s->over)
        met = codes_say(s, c);
    if (met == SELECTED_NO)
        return ANN_REJECT;
    if (met == SELECTED_YES)
        v = search_admit_met(s, c->id, err);
    else if (search_admit_fn(s))
        v = search_admit(s, c->id, err);
    return v == SCAN_ADMIT ? ANN_ADMIT : v == SCAN_REJECT ? ANN_REJECT : ANN_STOP;
}

static size_t on_match(void *ctx, uint32_t posting, uint32_t part, size_t first, size_t n,
                       uint64_t *match)
{
    const struct asked *a = ctx;
    const struct selection *s = &a->call->s->selected;
    return selection_match(s, s->x->first[posting] + part, first, n, match);
}

static void on_ahead(void *ctx, uint32_t posting)
{
    const struct asked *a = ctx;
    selection_ahead(&a->call->s->selected, posting);
}

static mn_status on_tick(void *ctx, mn_error *err)
{
    struct asked *a = ctx;
    struct call *all = a->call;
    if (atomic_load_explicit(&all->stop, memory_order_relaxed))
        return mn_fail(err, MN_INTERRUPTED, "another query of the call failed");
    if (a->helper)
        return conn_tick_aside(all->s->conn, err);
    if (atomic_load_explicit(&all->want, memory_order_relaxed)) {
        pthread_mutex_lock(&all->lock);
        serve(all);
        pthread_mutex_unlock(&all->lock);
    }
    return conn_tick(all->s->conn, err);
}

/* Candidates [n] whose vectors are not in memory; `at` says which keys are theirs. */
static mn_status rerank_cold(struct asked *a, struct ann_candidate *c, uint32_t *at, size_t n,
                             double *keys, mn_error *err)
{
    const void *vectors[ANN_MAX_BATCH] = {NULL};
    size_t missing = 0;
    mn_status st = MN_OK;
    if (a->own->reader && a->call->x->n_heap)
        st = ivf_read(a->own->reader, a->call->x, c, n, vectors, &a->stats.reads, err);
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        if (vectors[i]) {
            keys[at[i]] = key_of(a, vectors[i]);
        } else { /* none is kept, or it cannot be read */
            c[missing] = c[i];
            at[missing++] = at[i];
        }
    }
    if (st || !missing)
        return st;
    struct errand e = {.a = a, .c = c, .at = at, .n = missing, .keys = keys, .err = err};
    if (a->helper)
        wait_for_errand(a->call, &e);
    else
        run_errand(&e);
    return e.status;
}

/* Vectors of candidates lie anywhere in memory: each is a miss, of which many can be on their way
 * at once. */
static inline __attribute__((always_inline)) /* or gcc drops the calls, as without effect */
void fetch_vector(const void *v, size_t bytes)
{
    bytes = bytes < FETCHED_BYTES ? bytes : FETCHED_BYTES;
    for (size_t at = 0; v && at < bytes; at += 64)
        __builtin_prefetch((const char *)v + at);
}

static mn_status on_rerank(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                           mn_error *err)
{
    struct asked *a = ctx;
    struct ann_candidate cold[ANN_MAX_BATCH];
    uint32_t at[ANN_MAX_BATCH];
    const void *warm[ANN_MAX_BATCH];
    size_t n_cold = 0, bytes = a->call->s->c->vector_bytes;
    for (size_t i = 0; i < n; i++) {
        warm[i] = ivf_vector(a->call->x, c[i].posting, c[i].part, c[i].slot);
        fetch_vector(warm[i], bytes);
        if (!warm[i]) {
            cold[n_cold] = c[i];
            at[n_cold++] = (uint32_t)i;
        }
    }
    for (size_t i = 0; i < n; i++)
        if (warm[i])
            keys[i] = key_of(a, warm[i]);
    return n_cold ? rerank_cold(a, cold, at, n_cold, keys, err) : MN_OK;
}

/* Scores the rows changed since the last fold; they become the search's first hits. */
static mn_status scan_pending(struct asked *a, size_t *n, mn_error *err)
{
    struct search *s = a->call->s;
    mn_hit *pending = a->own->pending;
    mn_status st = MN_OK;
    struct scan_block block;
    *n = 0;
    for (size_t i = 0; i < view_parts(a->call->view) && st == MN_OK; i++) {
        view_block(a->call->view, i, &block);
        st = scan_block(a->own->scan, &block, search_admit_fn(s), s, err);
        a->stats.rows_scanned += block.n;
    }
    if (st)
        return st;
    *n = scan_count(a->own->scan, 0);
    scan_hits(a->own->scan, 0, pending);
    for (size_t i = 0; i < *n; i++)
        pending[i].distance = ivf_key(s->c->entry.metric, pending[i].distance);
    return MN_OK;
}

/* Fewer rows to be found lie thinner over more postings, of which more unlikely ones may be left
 * out: with the knob as it is, recall is 0.99 where it was to be 0.95, at two to four times the
 * cost (docs/decisions.md, 2026-11-25). */
static float sparse_factor(double share)
{
    double factor = pow(SPARSE_FROM / (share > 1e-6 ? share : 1e-6), SPARSE_POWER);
    return (float)(factor < 1 ? 1 : factor > SPARSE_MOST ? SPARSE_MOST : factor);
}

static mn_status ask(struct asked *a, size_t query, mn_error *err)
{
    struct call *all = a->call;
    struct search *s = all->s;
    const struct catalog_entry *e = &s->c->entry;
    const char *vector = s->queries + query * s->c->vector_bytes;
    const mn_hit *got;
    size_t n_pending;
    scan_restart(a->own->scan, vector);
    mn_status st = scan_pending(a, &n_pending, err);
    if (st)
        return st;
    ivf_widen(all->x->core, s->conn->db->kernels, vector, a->own->wide);
    struct ann_query q = {.vector = a->own->wide,
                          .k = s->k,
                          .knobs = ann_tuning_knobs(&all->x->tuning, s->k, recall_of(s)),
                          .pending = a->own->pending,
                          .n_pending = n_pending,
                          .admit =
                              view_n_changed(all->view) || search_admit_fn(s) ? on_admit : NULL,
                          .admit_ctx = a,
                          .rerank = all->estimate ? NULL : on_rerank,
                          .rerank_ctx = a,
                          .batch = all->warm ? 0 : COLD_BATCH,
                          .tick = on_tick,
                          .tick_ctx = a};
    if (s->stats.plan == MN_PLAN_PROBE) {
        q.match = on_match;
        q.ahead = on_ahead;
        q.match_ctx = a;
        q.expect = s->selected.expect;
        q.most = all->most;
        q.knobs.lambda *= sparse_factor(s->selected.matches / (double)all->x->rows);
    }
    if (all->x->n_away && a->own->away)
        q.fetch = away_fetch(a->own->away, all->x, true, &a->stats.parts_read,
                             &a->stats.part_bytes);
    if (all->x->n_away && !q.fetch) { /* the sidecar has gone since the index was loaded */
        ivf_break(all->x);
        return mn_fail(err, MN_CORRUPT, "%s: its sidecar cannot be read", s->conn->db->path);
    }
    st = ann_search(all->x->ann, a->own->scratch, &q, err);
    away_fetch_end(a->own->away);
    if (st)
        return st;
    const struct ann_stats *did = ann_stats(a->own->scratch);
    if (did->refused) {
        all->refused = true;
        atomic_store_explicit(&all->stop, true, memory_order_relaxed);
        return MN_OK;
    }
    size_t n = ann_hits(a->own->scratch, &got);
    for (size_t i = 0; i < n; i++)
        all->hits[query * s->k + i] =
            (mn_hit){got[i].id, ivf_distance(e->dtype, e->metric, got[i].distance)};
    all->found[query] = (uint32_t)n;
    a->stats.probed += did->probed;
    a->stats.codes += did->codes;
    a->stats.reranked += did->reranked;
    a->stats.codes_skipped += did->skipped;
    a->stats.postings_skipped += did->barren;
    return MN_OK;
}

/* ---- All queries ----------------------------------------------------------------------------- */

static void add_stats(mn_search_stats *to, const mn_search_stats *from)
{
    to->rows_scanned += from->rows_scanned;
    to->probed += from->probed;
    to->codes += from->codes;
    to->reranked += from->reranked;
    to->reads += from->reads;
    to->codes_skipped += from->codes_skipped;
    to->postings_skipped += from->postings_skipped;
    to->parts_read += from->parts_read;
    to->part_bytes += from->part_bytes;
    to->cpu_us += from->cpu_us;
}

static mn_status ask_some(struct asked *a, mn_error *err)
{
    struct call *all = a->call;
    mn_conn *conn = all->s->conn;
    mn_status st = MN_OK;
    while (st == MN_OK && !atomic_load_explicit(&all->stop, memory_order_relaxed)) {
        size_t query = atomic_fetch_add_explicit(&all->next, 1, memory_order_relaxed);
        if (query >= all->s->nq)
            break;
        st = ask(a, query, err);
        size_t done = 1 + atomic_fetch_add_explicit(&all->done, 1, memory_order_relaxed);
        if (st == MN_OK && !a->helper) {
            conn->done = done;
            st = conn_tick(conn, err);
        }
    }
    return st;
}

static void note_failure(struct call *all, mn_status st, const mn_error *err)
{
    pthread_mutex_lock(&all->lock);
    if (all->status == MN_OK) {
        all->status = st;
        all->err = *err;
    }
    pthread_mutex_unlock(&all->lock);
    atomic_store_explicit(&all->stop, true, memory_order_relaxed);
}

/* One thread. A helper that begins when worker 0 has left finds no query. */
static void ask_worker(void *ctx, unsigned worker)
{
    struct call *all = ctx;
    struct asked a = {.call = all, .own = &all->askers[worker], .helper = worker > 0};
    mn_error err = {0};
    uint64_t start = a.helper ? clock_thread_us() : 0;
    pthread_mutex_lock(&all->lock);
    all->helpers += a.helper;
    pthread_mutex_unlock(&all->lock);
    mn_status st = ask_some(&a, &err);
    if (st)
        note_failure(all, st, &err);
    if (a.helper)
        a.stats.cpu_us = clock_thread_us() - start;
    pthread_mutex_lock(&all->lock);
    add_stats(&all->stats, &a.stats);
    all->helpers -= a.helper;
    pthread_cond_signal(&all->queued);
    while (!a.helper && all->helpers) {
        serve(all);
        if (all->helpers)
            pthread_cond_wait(&all->queued, &all->lock);
    }
    pthread_mutex_unlock(&all->lock);
}

static uint32_t threads_for(const struct search *s, bool warm)
{
    uint32_t n = s->opts.threads ? s->opts.threads : s->conn->db->opts.threads;
    size_t most = warm ? s->nq / FEW_QUERIES : s->nq;
    if (search_reads_rows(s) || n <= 1 || most <= 1)
        return 1;
    return n > most ? (uint32_t)most : n;
}

static mn_status ask_all(struct search *s, const struct view *v, mn_hit *hits, uint32_t *found,
                         bool *refused, mn_error *err)
{
    mn_conn *conn = s->conn;
    const struct catalog_entry *e = &s->c->entry;
    struct call all = {.s = s, .view = v, .x = view_base(v), .hits = hits, .found = found};
    all.warm = ivf_warm(all.x);
    all.estimate = s->opts.estimated || e->rerank == MN_RERANK_NONE;
    if (all.warm && !all.estimate && !all.x->unread)
        all.most = (float)s->selected.matches * REFUSE_SHARE;
    struct asker_spec spec = {.x = all.x,
                              .scan = {.dtype = e->dtype,
                                       .metric = e->metric,
                                       .dim = e->dim,
                                       .queries = s->queries,
                                       .nq = 1,
                                       .k = s->k},
                              .reads = !all.warm && !all.estimate && all.x->n_heap};
    struct pool *pool = NULL;
    uint32_t n, wanted = threads_for(s, all.warm);
    if (wanted > 1 && !(pool = db_pool(conn->db)))
        wanted = 1;
    mn_status st = askers_ready(conn, &spec, wanted, &n, err);
    if (st)
        return st;
    all.askers = conn->askers;
    pthread_mutex_init(&all.lock, NULL);
    pthread_cond_init(&all.queued, NULL);
    pthread_cond_init(&all.served, NULL);
    if (n > 1)
        pool_run(pool, n, ask_worker, &all);
    else
        ask_worker(&all, 0);
    pthread_cond_destroy(&all.queued);
    pthread_cond_destroy(&all.served);
    pthread_mutex_destroy(&all.lock);
    add_stats(&s->stats, &all.stats);
    *refused = all.refused;
    if (all.status && err)
        *err = all.err;
    if (all.status || n == 1)
        return all.status;
    conn->done = s->nq; /* helpers tell nobody */
    return conn_tick(conn, err);
}

/* Vectors lie in the sidecar though memory would have room for them. */
static bool view_wants_warmth(const struct search *s, const struct view *v)
{
    const struct ivf *x = view_base(v);
    size_t bytes = (size_t)x->n_heap * HEAP_BLOCK_PAGES * (HEAP_PAGE + 16);
    return x->n_heap && !x->n_away && !s->conn->db->limits.cold && !ivf_warm(x) &&
           cache_has_room(s->conn->db, bytes);
}

/* Without a folder a search folds what is pending in memory, for itself and those to come. */
static mn_status fold_for_search(struct search *s, struct view **v, uint64_t *pending,
                                 mn_error *err)
{
    bool did = false;
    mn_error own = {0};
    mn_status st = fold_in_memory(s->conn, s->c, false, &did, &own);
    if (st == MN_INTERRUPTED || st == MN_DEADLINE) {
        if (err)
            *err = own;
        return st;
    }
    if (st) /* no matter: they are scored exactly */
        db_log(s->conn->db, MN_LOG_INFO, "fold", "'%s': changed rows were not folded in memory: %s",
               s->c->entry.name, own.message);
    if (st || !did)
        return MN_OK;
    view_release(s->conn->db, *v);
    *v = NULL;
    return cache_indexed(s->conn, s->c, v, pending, err);
}

/* How a search with conditions goes about it; s->over is there. */
static mn_plan plan_of(const struct search *s, const struct ivf *x)
{
    double rows = (double)x->rows, matches = s->selected.matches;
    bool warm = ivf_warm(x) && x->core->entry.rerank == MN_RERANK_COPY && !x->unread;
    if (warm && !s->opts.estimated && matches < FEW_MATCHES && s->selected.listed)
        return MN_PLAN_MATCHES;
    return matches < rows * SELECTION_MOST && !s->selected.asks_rows ? MN_PLAN_PROBE : MN_PLAN_POST;
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
    bool many = view_n_changed(v) >= fold_rows(s->conn->db, s->c->vector_bytes);
    if (many || cold || view_base(v)->n_lost)
        folder_tell(s->conn->db, s->c->entry.name);
    if (many && !folds && !conn_may_be_dirty(s->conn))
        st = fold_for_search(s, &v, &pending, err);
    if (st || !v) {
        view_release(s->conn->db, v);
        return st;
    }
    /* Without a folder vectors come into memory little by little, and not before the first answer:
     * the connection then has a reader. */
    if (cold && !folds && s->conn->n_askers && s->conn->askers[0].reader)
        st = ivf_warm_up(s->conn, view_base(v), WARM_BLOCKS, err);
    if (st == MN_NOMEM && !sqlite3_get_autocommit(s->conn->sql)) {
        /* No matter: they stay where they are. */
        mn_error_clear(err);
        st = MN_OK;
    }
    s->conn->total = s->nq;
    s->stats.rows_pending += pending;
    s->stats.from_index = true;
    s->stats.plan = MN_PLAN_INDEX;
    s->stats.from_cache = ivf_warm(view_base(v));
    if (st == MN_OK && s->where.n)
        st = search_select(s, v, err);
    if (s->over)
        s->stats.plan = plan_of(s, view_base(v));
    bool refused = s->stats.plan == MN_PLAN_MATCHES;
    if (st == MN_OK && !refused)
        st = ask_all(s, v, hits, found, &refused, err);
    *answered = st == MN_OK && !refused;
    if (st && ivf_is_broken(view_base(v))) { /* codes cannot be read: this search reads the rows */
        cache_break_index(s->conn->db, s->c->entry.number, view_base(v));
        folder_tell(s->conn->db, s->c->entry.name);
        mn_error_clear(err);
        s->stats.from_index = false;
        st = MN_OK;
    }
    view_release(s->conn->db, v);
    return st;
}
