/*
 * Search: queries in, hits out, over one snapshot.
 *
 * Where the vectors come from, in order of preference:
 *   a view     vectors in memory that belong to exactly this snapshot (cache.c); scanned by
 *              several threads if the caller wants that, or looked up if only a few ids are asked
 *   look-ups   few ids and no view: one row after another
 *   a stream   all rows in id order from SQLite, block by block; kept as a view on the way if the
 *              cap allows it
 * All three hand blocks to index/scan, which gives the same hits for each.
 *
 * Filters are asked late: only about rows that are near enough to become hits at that moment. Then
 * the row's attributes are read from the snapshot.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "index/scan.h"
#include "src/engine/cache.h"
#include "src/engine/engine.h"
#include "src/engine/fold.h"
#include "src/engine/ivf_make.h"
#include "src/engine/ivf_store.h"
#include "src/engine/pool.h"
#include "src/engine/search.h"
#include "src/engine/stream.h"
#include "storage/sql.h"

enum {
    QUERY_GROUP = 1024, /* queries scanned at once: bounds memory, and the time between ticks */
    SMALLEST_BLOCK = 8, /* vectors read from the rows before they are scored */
    DEFAULT_MAX_HITS = 1000000,
    PARALLEL_BYTES = 4 << 20, /* less work than this is not worth a second thread */
    CHUNK_BYTES = 256 << 10,  /* of vectors scored at once on their way from SQLite, still near */
    CHUNK_ROWS = 192,         /* or so many rows: what index/scan takes at a time */
    PATIENCE_SHARE = 32,      /* so small a part of the rows is read before SQLite finds matches */
    MATCH_ROWS = 2048,        /* rows of a posting whose conditions are asked at once */
    MATCHES = 128,            /* rows whose vectors are on their way from memory at once, */
    FETCHED_BYTES = 1024,     /* so much of each: then the hardware follows */
    COLD_SHARE = 16 /* vectors of so small a part of the rows are looked up rather than all read */
};

/* Vectors of up to this share of the rows are gathered rather than all scanned in order. */
#define WARM_SHARE 0.4

/* ---- Admission ------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* met: the row meets the conditions. */
static mn_status admit_row(struct search *s, int64_t id, bool met, bool *keep, mn_error *err)
{
    sqlite3_stmt *st;
    bool there;
    mn_row row;
    *keep = false;
    mn_status status = coll_stmt(s->conn, s->c, STMT_GET_META, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, id);
    status = sql_step(st, &there, err);
    if (status)
        return status;
    if (there) {
        status = row_read(s->conn->db, s->c, st, false, &row, s->attrs, err);
        *keep = status == MN_OK && (met || conditions_hold(&s->where, &row));
        s->stats.rows_checked += !met && s->where.n;
        if (*keep && s->opts.filter) {
            s->stats.rows_filtered++;
            *keep = s->opts.filter(s->opts.filter_ctx, &row);
        }
    }
    sqlite3_reset(st);
    return status;
}

static enum scan_verdict admit(struct search *s, int64_t id, bool met, mn_error *err)
{
    bool keep = true, ask = s->opts.filter || (s->where.n && !met);
    if (s->patience && s->stats.rows_checked > s->patience && !s->impatient) {
        s->impatient = true;
        mn_fail(err, MN_INTERRUPTED, "search: the rows are found otherwise");
        return SCAN_STOP;
    }
    if (s->ids && !bsearch(&id, s->ids, s->n_ids, sizeof id, by_id))
        return SCAN_REJECT;
    if (ask && (admit_row(s, id, met, &keep, err) || conn_tick(s->conn, err)))
        return SCAN_STOP;
    return keep ? SCAN_ADMIT : SCAN_REJECT;
}

enum scan_verdict search_admit(void *ctx, int64_t id, mn_error *err)
{
    return admit(ctx, id, false, err);
}

enum scan_verdict search_admit_met(struct search *s, int64_t id, mn_error *err)
{
    return admit(s, id, true, err);
}

scan_admit_fn search_admit_fn(const struct search *s)
{
    return s->ids || search_reads_rows(s) ? search_admit : NULL;
}

/* ---- A view, by several threads -------------------------------------------------------------- */

struct sweep {
    struct search *s;
    const struct view *view;
    struct scan *scans[MAX_THREADS]; /* [0] the caller's; others made by their workers */
    _Atomic size_t next;             /* relaxed; next part to be taken */
    _Atomic bool stop;               /* relaxed; some worker failed */
    pthread_mutex_t lock;            /* guards status, err, cpu_us */
    mn_status status;
    mn_error err;
    uint64_t cpu_us; /* of workers other than 0 */
};

static void sweep_fail(struct sweep *w, mn_status st, const mn_error *err)
{
    pthread_mutex_lock(&w->lock);
    if (w->status == MN_OK) {
        w->status = st;
        w->err = *err;
    }
    pthread_mutex_unlock(&w->lock);
    atomic_store_explicit(&w->stop, true, memory_order_relaxed);
}

static mn_status sweep_parts(struct sweep *w, struct scan *scan, bool first, mn_error *err)
{
    size_t n = view_parts(w->view);
    struct scan_block block;
    mn_status st = MN_OK;
    while (st == MN_OK && !atomic_load_explicit(&w->stop, memory_order_relaxed)) {
        size_t part = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
        if (part >= n)
            break;
        view_block(w->view, part, &block);
        st = scan_block(scan, &block, search_admit_fn(w->s), w->s, err);
        if (st == MN_OK && first) {
            w->s->conn->done = part;
            st = conn_tick(w->s->conn, err);
        }
    }
    return st;
}

static void sweep_worker(void *ctx, unsigned worker)
{
    struct sweep *w = ctx;
    mn_error err = {0};
    mn_db *db = w->s->conn->db;
    uint64_t start = clock_thread_us();
    /* Without memory for a scan of its own a worker leaves the parts to the others. */
    if (worker && scan_create(db->alloc, db->kernels, &w->s->spec, &w->scans[worker], NULL))
        return;
    mn_status st = sweep_parts(w, w->scans[worker], worker == 0, &err);
    if (st)
        sweep_fail(w, st, &err);
    if (worker) {
        pthread_mutex_lock(&w->lock);
        w->cpu_us += clock_thread_us() - start;
        pthread_mutex_unlock(&w->lock);
    }
}

static unsigned threads_for(const struct search *s, const struct view *v)
{
    unsigned n = s->opts.threads ? s->opts.threads : s->conn->db->opts.threads;
    double work = (double)view_rows(v) * (double)s->c->vector_bytes * (double)s->spec.nq;
    if (search_reads_rows(s) || work < PARALLEL_BYTES)
        return 1; /* admission reads rows through the connection, which is one thread's */
    return n > view_parts(v) ? (unsigned)view_parts(v) : n;
}

static mn_status sweep_view(struct search *s, const struct view *v, struct scan *scan,
                            mn_error *err)
{
    struct sweep w = {.s = s, .view = v, .scans = {scan}};
    struct pool *pool = NULL;
    unsigned threads = threads_for(s, v);
    s->conn->total = view_parts(v);
    s->stats.rows_invalid += view_bad(v);
    s->stats.rows_scanned += (uint64_t)view_rows(v) * s->spec.nq;
    s->stats.bytes_scanned += (uint64_t)view_rows(v) * s->c->vector_bytes;
    if (threads > 1 && !(pool = db_pool(s->conn->db)))
        threads = 1;
    if (threads <= 1)
        return sweep_parts(&w, scan, true, err);
    pthread_mutex_init(&w.lock, NULL);
    pool_run(pool, threads, sweep_worker, &w);
    pthread_mutex_destroy(&w.lock);
    s->stats.cpu_us += w.cpu_us;
    mn_status st = w.status;
    if (st && err)
        *err = w.err;
    for (unsigned i = 1; i < threads; i++) {
        if (st == MN_OK && w.scans[i])
            st = scan_merge(scan, w.scans[i], err);
        scan_destroy(w.scans[i]);
    }
    return st;
}

/* ---- Few ids --------------------------------------------------------------------------------- */

/* Vectors collected for one block, in memory of its own. */
struct gather {
    struct view_room at;
    size_t n;
};

static void gather_fini(struct mn_alloc *a, struct gather *g)
{
    mn_free(a, g->at.ids);
    mn_free(a, g->at.vectors);
    mn_free(a, g->at.norms);
}

static bool gather_try(struct mn_alloc *a, struct gather *g, size_t cap, size_t vector_bytes)
{
    *g = (struct gather){.at.n = cap};
    g->at.ids = mn_alloc(a, cap * sizeof *g->at.ids, MN_TAG_SEARCH);
    g->at.vectors = mn_alloc(a, cap * vector_bytes, MN_TAG_SEARCH);
    g->at.norms = mn_alloc(a, cap * sizeof *g->at.norms, MN_TAG_SEARCH);
    if (g->at.ids && g->at.vectors && g->at.norms)
        return true;
    gather_fini(a, g);
    *g = (struct gather){0};
    return false;
}

static size_t chunk_rows(const struct search *s)
{
    size_t rows = CHUNK_BYTES / s->c->vector_bytes, most = cache_block_rows(s->c);
    rows = rows < CHUNK_ROWS ? CHUNK_ROWS : rows;
    return rows < most ? rows : most;
}

/* Room for `cap` rows, or fewer where other searches have taken most of the memory: slower, not
 * wrong. */
static mn_status gather_init(struct search *s, struct gather *g, size_t cap, mn_error *err)
{
    while (!gather_try(s->conn->db->alloc, g, cap, s->c->vector_bytes)) {
        if (cap <= SMALLEST_BLOCK)
            return mn_fail(err, MN_NOMEM,
                           "search: out of memory under the cap for a block of %zu vectors; raise "
                           "memory",
                           cap);
        cap = cap / 4 > SMALLEST_BLOCK ? cap / 4 : SMALLEST_BLOCK;
    }
    return MN_OK;
}

static void gather_add(struct gather *g, int64_t id, const void *vector, size_t vector_bytes)
{
    g->at.ids[g->n] = id;
    memcpy(g->at.vectors + g->n * vector_bytes, vector, vector_bytes);
    g->n++;
}

/* Scores rows [first, end) of the room and sets their norms. */
static mn_status score_rows(struct search *s, const struct view_room *at, size_t first, size_t end,
                            struct scan *scan, scan_admit_fn admission, mn_error *err)
{
    const struct catalog_entry *e = &s->c->entry;
    struct scan_block block = {.ids = at->ids + first,
                               .vectors = at->vectors + first * s->c->vector_bytes,
                               .norms = at->norms + first,
                               .n = end - first};
    if (block.n == 0)
        return MN_OK;
    scan_norms(s->conn->db->kernels, e->dtype, e->dim, block.vectors, block.n, at->norms + first);
    mn_status st = scan_block(scan, &block, admission, s, err);
    s->stats.rows_scanned += (uint64_t)block.n * s->spec.nq;
    s->stats.bytes_scanned += (uint64_t)block.n * s->c->vector_bytes;
    s->conn->done += block.n;
    return st ? st : conn_tick(s->conn, err);
}

/* Scores what was gathered and empties it. */
static mn_status gather_scan(struct search *s, struct gather *g, struct scan *scan,
                             scan_admit_fn admission, mn_error *err)
{
    size_t n = g->n;
    g->n = 0;
    return score_rows(s, &g->at, 0, n, scan, admission, err);
}

/* The vector of one row from the snapshot into the gather, if it has one. */
static mn_status look_up(struct search *s, int64_t id, struct gather *g, mn_error *err)
{
    struct row_vector v;
    mn_status st = row_vector_get(s->conn, s->c, id, &v, err);
    if (st)
        return st;
    if (v.bytes)
        gather_add(g, id, v.bytes, s->c->vector_bytes);
    s->stats.rows_invalid += v.bad;
    row_vector_end(&v);
    return MN_OK;
}

/* Only the listed ids, from the view if there is one. */
static mn_status scan_ids(struct search *s, const struct view *v, struct scan *scan, mn_error *err)
{
    struct gather g;
    scan_admit_fn admission = search_reads_rows(s) ? search_admit : NULL;
    size_t block = chunk_rows(s);
    mn_status st = gather_init(s, &g, s->n_ids < block ? s->n_ids : block, err);
    for (size_t i = 0; i < s->n_ids && st == MN_OK; i++) {
        float norm;
        const void *vector = v ? view_find(v, s->ids[i], &norm) : NULL;
        if (vector)
            gather_add(&g, s->ids[i], vector, s->c->vector_bytes);
        else if (v)
            s->stats.rows_invalid += view_is_bad(v, s->ids[i]);
        else
            st = look_up(s, s->ids[i], &g, err);
        if (st == MN_OK && g.n == g.at.n)
            st = gather_scan(s, &g, scan, admission, err);
    }
    if (st == MN_OK)
        st = gather_scan(s, &g, scan, admission, err);
    gather_fini(s->conn->db->alloc, &g);
    return st;
}

/* ---- Rows that meet the conditions ----------------------------------------------------------- */

/* A row of the index that may match. */
struct match {
    uint32_t posting, part, row;
    int64_t id;
    const char *vector; /* NULL: not in memory, or not wanted */
};

struct matching {
    struct search *s;
    struct scan *scan;
    struct gather g;
    bool *sure;           /* [g.at.n] of the gathered rows: no need to read the row */
    struct match *some;   /* [MATCHES] whose ids and vectors are on their way */
    size_t n_some;
    uint64_t found;       /* so far */
};

/* Admission of gathered rows, few of which come near enough to be asked for. */
static enum scan_verdict admit_match(void *ctx, int64_t id, mn_error *err)
{
    struct matching *m = ctx;
    for (size_t i = 0; i < m->g.n; i++)
        if (m->g.at.ids[i] == id && m->sure[i])
            return search_admit_met(m->s, id, err);
    return search_admit(m->s, id, err);
}

static mn_status score_matches(struct matching *m, mn_error *err)
{
    struct search *s = m->s;
    struct view_room *at = &m->g.at;
    struct scan_block block = {.ids = at->ids, .vectors = at->vectors, .norms = at->norms,
                               .n = m->g.n};
    if (block.n == 0)
        return MN_OK;
    scan_norms(s->conn->db->kernels, s->c->entry.dtype, s->c->entry.dim, block.vectors, block.n,
               at->norms);
    mn_status st = scan_block(m->scan, &block, admit_match, m, err);
    s->stats.rows_scanned += (uint64_t)block.n * s->spec.nq;
    s->stats.bytes_scanned += (uint64_t)block.n * s->c->vector_bytes;
    m->g.n = 0;
    return st ? st : conn_tick(s->conn, err);
}

/* Where the rows' vectors are; they are fetched ahead, as they lie anywhere. */
static void locate_matches(struct matching *m)
{
    const struct ivf *x = m->s->selected.x;
    size_t bytes = m->s->c->vector_bytes, kept = 0;
    bool changed = view_n_changed(m->s->over) > 0;
    bytes = bytes < FETCHED_BYTES ? bytes : FETCHED_BYTES;
    for (size_t i = 0; i < m->n_some; i++) {
        struct match *r = &m->some[i];
        r->id = posting_id(&x->postings[r->posting].parts[r->part].view, r->row);
        if (changed && view_changed(m->s->over, r->id))
            continue;
        r->vector = ivf_vector(x, r->posting, r->part, r->row);
        for (size_t at = 0; r->vector && at < bytes; at += 64)
            __builtin_prefetch(r->vector + at);
        m->some[kept++] = *r;
    }
    m->n_some = kept;
}

/* Gathers the vectors of the rows in some[], and scores them when there are enough. */
static mn_status take_matches(struct matching *m, mn_error *err)
{
    struct search *s = m->s;
    mn_status st = MN_OK;
    locate_matches(m);
    m->found += m->n_some;
    for (size_t i = 0; i < m->n_some && st == MN_OK; i++) {
        const struct match *r = &m->some[i];
        uint32_t use = s->selected.x->first[r->posting] + r->part;
        size_t at = m->g.n;
        if (r->vector)
            gather_add(&m->g, r->id, r->vector, s->c->vector_bytes);
        else
            st = look_up(s, r->id, &m->g, err);
        if (m->g.n > at)
            m->sure[at] = selection_row(&s->selected, use, r->row, r->id) == SELECTED_YES;
        if (st == MN_OK && m->g.n == m->g.at.n)
            st = score_matches(m, err);
    }
    m->n_some = 0;
    return st;
}

static mn_status find_in_part(struct matching *m, uint32_t posting, uint32_t part, mn_error *err)
{
    const struct ivf *x = m->s->selected.x;
    const struct ann_part *p = &x->postings[posting].parts[part];
    mn_status st = MN_OK;
    for (uint32_t first = 0; first < p->view.n && st == MN_OK; first += MATCH_ROWS) {
        uint32_t n = p->view.n - first < MATCH_ROWS ? p->view.n - first : MATCH_ROWS;
        uint64_t bits[MATCH_ROWS / 64];
        memset(bits, 0xff, sizeof bits);
        if (n % 64)
            bits[n / 64] = (UINT64_C(1) << n % 64) - 1;
        for (uint32_t i = 0; p->hidden && i < (n + 63) / 64; i++)
            bits[i] &= ~p->hidden[first / 64 + i];
        if (!selection_match(&m->s->selected, x->first[posting] + part, first, n, bits))
            continue;
        for (uint32_t i = 0; i < (n + 63) / 64; i++)
            for (uint64_t left = bits[i]; left && st == MN_OK; left &= left - 1) {
                uint32_t row = first + i * 64 + (uint32_t)__builtin_ctzll(left);
                __builtin_prefetch(p->view.ids + (size_t)row * p->view.id_bits / 8);
                m->some[m->n_some++] = (struct match){.posting = posting, .part = part, .row = row};
                if (m->n_some == MATCHES)
                    st = take_matches(m, err);
            }
    }
    return st;
}

/* The rows of the index that may meet the conditions, found by their columns, and all that changed
 * since. Exact. */
static mn_status scan_matches(struct search *s, struct scan *scan, mn_error *err)
{
    struct mn_alloc *a = s->conn->db->alloc;
    struct matching m = {.s = s, .scan = scan};
    const struct ivf *x = s->selected.x;
    mn_status st = gather_init(s, &m.g, chunk_rows(s), err);
    if (st)
        return st;
    m.sure = mn_alloc_array(a, m.g.at.n, sizeof *m.sure, MN_TAG_SEARCH);
    m.some = mn_alloc_array(a, MATCHES, sizeof *m.some, MN_TAG_SEARCH);
    if (!m.sure || !m.some)
        st = mn_fail(err, MN_NOMEM, "search: out of memory under the cap");
    for (uint32_t j = 0; j < x->core->n_lists && st == MN_OK; j++)
        for (uint32_t i = 0; s->selected.expect[j] > 0 && i < x->postings[j].n_parts && !st; i++)
            st = find_in_part(&m, j, i, err);
    if (st == MN_OK)
        st = take_matches(&m, err);
    if (st == MN_OK)
        st = score_matches(&m, err);
    s->stats.matches = m.found;
    for (size_t i = 0; i < view_parts(s->over) && st == MN_OK; i++) {
        struct scan_block block;
        view_block(s->over, i, &block);
        st = scan_block(scan, &block, search_admit, s, err);
        s->stats.rows_scanned += (uint64_t)block.n * s->spec.nq;
    }
    s->stats.rows_invalid += view_bad(s->over);
    mn_free(a, m.sure);
    mn_free(a, m.some);
    gather_fini(a, &m.g);
    return st;
}

mn_status search_select(struct search *s, struct view *v, mn_error *err)
{
    if (!s->where.n)
        return MN_OK;
    mn_status st = selection_make(s->conn, s->c, v, &s->where, &s->selected, err);
    if (st == MN_OK) {
        s->over = view_share(v);
        s->stats.matches = (uint64_t)s->selected.matches;
    }
    return st;
}

/* For an exact search: whether the index knows which rows to score, and has or finds their
 * vectors. */
static mn_status find_matches(struct search *s, bool *yes, mn_error *err)
{
    struct view *v = NULL;
    uint64_t pending = 0;
    mn_status st = MN_OK;
    *yes = s->over && !view_base(s->over)->unread;
    if (s->over || !s->where.n || !s->c->indexable || (s->ids && s->n_ids <= FEW_IDS))
        return MN_OK;
    st = cache_indexed(s->conn, s->c, &v, &pending, err);
    if (st == MN_OK && v)
        st = search_select(s, v, err);
    if (st == MN_OK && v) {
        s->stats.rows_pending += pending;
        double rows = (double)view_base(v)->rows, found = s->selected.matches;
        bool warm = ivf_warm(view_base(v));
        double most = warm ? rows * WARM_SHARE : rows / COLD_SHARE;
        if (warm && cache_rows(s->conn->db, s->c->entry.number) == 0)
            most = INFINITY; /* the others would have to be read from their rows */
        *yes = !view_base(v)->unread && found < most;
    }
    view_release(s->conn->db, v);
    return st;
}

/* ---- All rows from SQLite -------------------------------------------------------------------- */

struct passage {
    struct search *s;
    struct view_build *build; /* NULL: the rows are not kept */
    struct gather own;        /* where they go then */
    struct view_room at;      /* where the next rows go */
};

/* A row whose value is no vector. */
static void pass_bad(void *ctx, int64_t id)
{
    struct passage *p = ctx;
    p->s->stats.rows_invalid++;
    if (p->build)
        view_build_bad(p->build, id);
}

/* Finds room for the next rows: where they will stay, or else where the last ones were. */
static mn_status pass_room(struct passage *p, mn_error *err)
{
    if (p->build && view_build_room(p->build, &p->at))
        return MN_OK;
    mn_status st = p->own.at.n ? MN_OK : gather_init(p->s, &p->own, chunk_rows(p->s), err);
    p->at = p->own.at;
    return st;
}

static mn_status stream_rows(struct search *s, struct scan *scan, struct view_build *build,
                             mn_error *err)
{
    struct passage p = {.s = s, .build = build};
    struct stream in = {.bad = pass_bad, .ctx = &p};
    size_t chunk = chunk_rows(s);
    bool more = true;
    mn_status st = stream_begin(s->conn, s->c, &in, err);
    while (st == MN_OK && more) {
        if ((st = pass_room(&p, err)))
            break;
        in.ids = p.at.ids;
        in.vectors = p.at.vectors;
        in.n = 0;
        while (st == MN_OK && more && in.n < p.at.n) {
            size_t first = in.n;
            in.stop = p.at.n - first < chunk ? p.at.n : first + chunk;
            st = stream_fill(s->conn, &in, &more, err);
            if (st == MN_OK)
                st = score_rows(s, &p.at, first, in.n, scan, search_admit_fn(s), err);
        }
        if (st == MN_OK && build)
            view_build_add(build, in.n);
    }
    stream_end(s->conn, &in);
    gather_fini(s->conn->db->alloc, &p.own);
    return st;
}

static mn_status stream(struct search *s, struct scan *scan, bool load, mn_error *err)
{
    struct view_build *build = NULL;
    mn_status st = load ? view_build_begin(s->conn, s->c, &build, err) : MN_OK;
    if (st)
        return st;
    atomic_fetch_add_explicit(&s->conn->db->count.streamed, 1, memory_order_relaxed);
    st = stream_rows(s, scan, build, err);
    view_build_end(build, st == MN_OK);
    return st;
}

/* ---- A group of queries ---------------------------------------------------------------------- */

static mn_status scan_group(struct search *s, struct scan *scan, mn_error *err)
{
    struct view *v = NULL;
    bool load = false, matches = false;
    uint64_t pending = 0;
    mn_status st = find_matches(s, &matches, err);
    if (st == MN_OK && matches) {
        s->stats.plan = MN_PLAN_MATCHES;
        s->stats.from_index = true;
        return scan_matches(s, scan, err);
    }
    if (st == MN_OK)
        st = cache_view(s->conn, s->c, &v, &load, &pending, err);
    if (st)
        return st;
    s->conn->done = s->conn->total = 0;
    s->stats.rows_pending += pending;
    s->stats.from_cache = v != NULL;
    s->stats.plan = MN_PLAN_SCAN;
    if (s->where.n && !s->impatient)
        s->patience = s->stats.rows_checked + (v ? view_rows(v) / PATIENCE_SHARE + 256 : 256);
    if (s->ids && (v ? s->n_ids < view_rows(v) / 8 : s->n_ids <= FEW_IDS)) {
        s->stats.plan = MN_PLAN_IDS;
        st = scan_ids(s, v, scan, err);
    } else if (v) {
        st = sweep_view(s, v, scan, err);
    } else {
        st = stream(s, scan, load, err);
    }
    s->stats.rows_invalid += scan_invalid_rows(scan);
    if (st == MN_OK && s->c->indexable && s->stats.rows_scanned / s->spec.nq >=
                                                s->conn->db->limits.min_rows)
        folder_tell(s->conn->db, s->c->entry.name);
    view_release(s->conn->db, v);
    return st;
}

/* Where a search for the nearest rows puts them. */
struct nearest {
    mn_hit *hits;
    uint32_t *found;
};

typedef mn_status (*group_done_fn)(struct search *s, struct scan *scan, size_t first, void *out,
                                   mn_error *err);

/* Too many rows were read to see whether they meet the conditions: all that do are asked for. */
static mn_status scan_again(struct search *s, struct scan **scan, mn_error *err)
{
    mn_error_clear(err);
    s->patience = 0;
    scan_destroy(*scan);
    *scan = NULL;
    mn_status st = search_ids_by_sql(s, err);
    if (st == MN_OK)
        st = scan_create(s->conn->db->alloc, s->conn->db->kernels, &s->spec, scan, err);
    if (st == MN_OK)
        st = scan_group(s, *scan, err);
    s->stats.plan = MN_PLAN_MATCHES;
    return st;
}

/* Scans the queries group by group; `done` takes each group's results. */
static mn_status scan_all(struct search *s, group_done_fn done, void *out, mn_error *err)
{
    mn_status st = MN_OK;
    for (size_t first = 0; first < s->nq && st == MN_OK; first += QUERY_GROUP) {
        struct scan *scan = NULL;
        size_t n = s->nq - first < QUERY_GROUP ? s->nq - first : QUERY_GROUP;
        s->spec = (struct scan_spec){.dtype = s->c->entry.dtype,
                                     .metric = s->c->entry.metric,
                                     .dim = s->c->entry.dim,
                                     .queries = s->queries + first * s->c->vector_bytes,
                                     .nq = n,
                                     .k = s->k,
                                     .radius_mode = s->k == 0,
                                     .radius = s->radius,
                                     .max_hits = s->max_hits};
        st = scan_create(s->conn->db->alloc, s->conn->db->kernels, &s->spec, &scan, err);
        if (st == MN_OK)
            st = scan_group(s, scan, err);
        if (st && s->impatient && s->patience)
            st = scan_again(s, &scan, err);
        if (st == MN_OK)
            st = done(s, scan, first, out, err);
        scan_destroy(scan);
    }
    return st;
}

/* ---- Arguments ------------------------------------------------------------------------------- */

static mn_status take_opts(struct search *s, const mn_search_opts *opts, mn_error *err)
{
    static const mn_search_opts none = {0};
    s->opts = opts ? *opts : none;
    const mn_search_opts *o = &s->opts;
    if (!(o->recall == 0 || (o->recall >= 0.5 && o->recall <= 1)))
        return mn_fail(err, MN_INVALID,
                       "search: recall %g; it must be 0.5 to 1, or 0 for the default", o->recall);
    if (o->threads > MAX_THREADS)
        return mn_fail(err, MN_INVALID, "search: %u threads; at most %d are allowed", o->threads,
                       MAX_THREADS);
    if (o->n_only_ids && !o->only_ids)
        return mn_fail(err, MN_INVALID, "search: %zu ids at NULL", o->n_only_ids);
    if (o->n_where && !o->where)
        return mn_fail(err, MN_INVALID, "search: %zu conditions at NULL", o->n_where);
    if (o->deadline_us)
        s->conn->deadline_us = clock_us() + o->deadline_us;
    return MN_OK;
}

/* Checks the queries, rounding f32 ones to the collection's dtype into *converted (for mn_free). */
static mn_status take_queries(struct search *s, const void *queries, char **converted,
                              mn_error *err)
{
    const struct catalog_entry *e = &s->c->entry;
    size_t bytes = s->c->vector_bytes;
    char what[48];
    mn_status st = MN_OK;
    *converted = NULL;
    s->queries = queries;
    if (s->opts.from_f32) {
        *converted = mn_alloc_array(s->conn->db->alloc, s->nq, bytes, MN_TAG_SEARCH);
        if (!*converted)
            return mn_fail(err, MN_NOMEM, "search: out of memory under the cap for %zu queries",
                           s->nq);
        s->queries = *converted;
    }
    for (size_t q = 0; q < s->nq && st == MN_OK; q++) {
        snprintf(what, sizeof what, "search: query %zu", q);
        if (s->opts.from_f32)
            st =
                convert_f32(s->conn->db->kernels, e->dtype, e->dim,
                            (const float *)queries + q * e->dim, *converted + q * bytes, what, err);
        if (st == MN_OK)
            st = scan_check_vector(e->dtype, e->metric, e->dim, s->queries + q * bytes, what, err);
    }
    return st;
}

/* The answer when no row can meet the conditions. */
static void nothing(struct search *s, void *out)
{
    struct nearest *nearest = out;
    s->stats.plan = MN_PLAN_MATCHES;
    for (size_t q = 0; s->k && q < s->nq; q++) /* a radius search has none to begin with */
        nearest->found[q] = 0;
}

/* Everything between the public functions' own checks and results, inside a read scope. */
static mn_status search_scoped(struct search *s, const char *name, const void *queries,
                               group_done_fn done, void *out, mn_error *err)
{
    struct mn_alloc *a = s->conn->db->alloc;
    char *converted = NULL;
    bool answered = false;
    bool timed = s->opts.stats; /* a thread's time is a system call */
    uint64_t wall = timed ? clock_us() : 0, cpu = timed ? clock_thread_us() : 0;
    mn_status st = coll_get(s->conn, name, &s->c, err);
    if (st == MN_OK)
        st = take_queries(s, queries, &converted, err);
    if (st == MN_OK && s->opts.n_where)
        st = conditions_take(s->conn, s->c, s->opts.where, s->opts.n_where, &s->where, err);
    if (st == MN_OK)
        st = search_take_ids(s, err);
    if (st == MN_OK && search_reads_rows(s) &&
        !(s->attrs = mn_alloc_array(a, s->c->n_attrs, sizeof *s->attrs, MN_TAG_SEARCH)))
        st = mn_fail(err, MN_NOMEM, "search: out of memory under the cap");
    if (st == MN_OK && s->where.never) {
        nothing(s, out);
        answered = true;
    } else if (st == MN_OK && s->k) {
        struct nearest *nearest = out;
        st = search_indexed(s, nearest->hits, nearest->found, &answered, err);
    }
    if (st == MN_OK && !answered)
        st = scan_all(s, done, out, err);
    mn_free(a, s->attrs);
    selection_fini(a, &s->selected);
    view_release(s->conn->db, s->over);
    conditions_fini(a, &s->where);
    mn_free(a, s->ids);
    mn_free(a, converted);
    if (timed) {
        s->stats.wall_us = clock_us() - wall;
        s->stats.cpu_us += clock_thread_us() - cpu;
    }
    return st;
}

static mn_status search_run(struct search *s, const char *name, const void *queries,
                            const mn_search_opts *opts, group_done_fn done, void *out,
                            mn_error *err)
{
    s->conn->stage = "search";
    atomic_fetch_add_explicit(&s->conn->db->count.searches, 1, memory_order_relaxed);
    mn_status st = take_opts(s, opts, err);
    if (st == MN_OK)
        st = scope_read(s->conn, err);
    if (st)
        return st;
    st = scope_end(s->conn, search_scoped(s, name, queries, done, out, err), err);
    if (opts && opts->stats)
        *opts->stats = s->stats;
    if (s->conn->hosted && !s->conn->trusted)
        folder_tell(s->conn->db, name); /* it can mend what the application's statement may not */
    conn_mend_schema(s->conn);
    return st;
}

/* ---- Nearest --------------------------------------------------------------------------------- */

static mn_status take_nearest(struct search *s, struct scan *scan, size_t first, void *out,
                              mn_error *err)
{
    struct nearest *r = out;
    (void)err;
    for (size_t q = 0; q < s->spec.nq; q++) {
        r->found[first + q] = (uint32_t)scan_count(scan, q);
        scan_hits(scan, q, r->hits + (first + q) * s->k);
    }
    return MN_OK;
}

mn_status mn_search(mn_conn *conn, const char *name, const void *queries, size_t nq, uint32_t k,
                    const mn_search_opts *opts, mn_hit *hits, uint32_t *found, mn_error *err)
{
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    struct search s = {.conn = conn, .nq = nq, .k = k};
    struct nearest out = {hits, found};
    if (!queries || !hits || !found)
        st = mn_fail(err, MN_INVALID, "search: no queries, or no place for hits and counts");
    else if (nq < 1 || nq > MN_MAX_QUERIES)
        st =
            mn_fail(err, MN_INVALID, "search: %zu queries; it must be 1 to %u", nq, MN_MAX_QUERIES);
    else if (k < 1 || k > MN_MAX_K)
        st = mn_fail(err, MN_INVALID, "search: k is %u; it must be 1 to %u", k, MN_MAX_K);
    else
        st = search_run(&s, name, queries, opts, take_nearest, &out, err);
    return conn_leave(conn, st, err);
}

/* ---- Radius ---------------------------------------------------------------------------------- */

struct within {
    mn_hit *hits;
    size_t n;
};

static mn_status take_within(struct search *s, struct scan *scan, size_t first, void *out,
                             mn_error *err)
{
    struct within *r = out;
    (void)first;
    r->n = scan_count(scan, 0);
    r->hits = result_alloc(s->conn->db->alloc, r->n, sizeof *r->hits);
    if (!r->hits)
        return mn_fail(err, MN_NOMEM, "search: out of memory under the cap for %zu hits", r->n);
    scan_hits(scan, 0, r->hits);
    return MN_OK;
}

mn_status mn_search_radius(mn_conn *conn, const char *name, const void *query, double radius,
                           uint64_t max_hits, const mn_search_opts *opts, mn_hit **out, size_t *n,
                           mn_error *err)
{
    if (out)
        *out = NULL;
    if (n)
        *n = 0;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    struct search s = {.conn = conn,
                       .nq = 1,
                       .radius = radius,
                       .max_hits = max_hits ? max_hits : DEFAULT_MAX_HITS};
    struct within found = {0};
    if (!query || !out || !n) {
        st = mn_fail(err, MN_INVALID, "search: no query, or no place for the hits");
        return conn_leave(conn, st, err);
    }
    if (isnan(radius))
        st = mn_fail(err, MN_INVALID, "search: the radius is NaN");
    else
        st = search_run(&s, name, query, opts, take_within, &found, err);
    if (st) {
        mn_free_result(found.hits);
    } else {
        *out = found.hits;
        *n = found.n;
    }
    return conn_leave(conn, st, err);
}
