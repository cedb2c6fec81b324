/*
 * The true neighbours of the sampled rows. A scan of all rows finds them exactly, and costs the
 * more the more rows there are: 3.1 of 11.6 s of a build of 1,000,000 x 128 f32. So in a large
 * collection a scan finds those of CHECKED rows only, and the index itself the others', by visiting
 * so many postings that of the checked ones' neighbours it misses no more than one in 2,000. If it
 * misses more at the least lambda, a second scan finds the rest.
 *
 * A collection without exact distances is calibrated on its estimates: what they lose, its searches
 * lose.
 */
#include "src/engine/ivf_sample.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "index/scan.h"
#include "src/engine/ivf_away.h"
#include "src/engine/ivf_store.h"
#include "storage/sql.h"

enum {
    SAMPLE = 2000,        /* rows drawn */
    FEW = 200,            /* where a 32nd of the cap does not hold so many, an eighth may */
    LEAST = 8,
    SAMPLE_K = 10,
    CHECKED = 200,
    MANY_ROWS = 50000,    /* in smaller collections a scan costs no more than the index's search */
    MANY_BITS = 3,        /* of codes: with fewer, careful searches compare thousands of rows */
    MISSED = 2000,        /* one of so many neighbours may be missed */
    BLOCK_ROWS = 256,     /* scanned at once; fewer of very many elements */
    BLOCK_BYTES = 256 << 10,
    MAX_WORKERS = 16
};

/* Of the index's own search for true neighbours: most of the time the first is enough. */
static const float careful_lambdas[] = {3e-7f, 3e-8f, 3e-9f};

/* What one thread needs to search. */
struct prober {
    struct sample *s;
    struct ann_scratch *scratch;
    struct scan *scan; /* of one query */
    struct away_reader *away; /* NULL: all codes are in memory */
    uint64_t reads, bytes;    /* by it */
    mn_status status;
    mn_error err;
};

struct sample {
    mn_conn *conn;
    struct coll *c;
    struct ivf *x;
    size_t n;
    size_t step;     /* every step-th row is scanned for */
    char *vectors;   /* [n] of the collection's dtype */
    float *wide;     /* [n][dim] as the index sees them; may be the same memory */
    int64_t *ids;    /* [n] */
    mn_hit *truth;   /* [n][SAMPLE_K] by key */
    uint32_t *found; /* [n] */
    struct prober *probers; /* [n_probers] */
    uint32_t n_probers;
    float lambda;         /* of the running search for true neighbours */
    bool checking;        /* it is for the checked rows, and only counts what it finds */
    _Atomic size_t next;  /* relaxed; next row of it */
    _Atomic size_t hits;  /* relaxed; true neighbours of checked rows that it found */
    _Atomic bool stop;    /* relaxed; some search failed */
};

static mn_status no_memory(const struct sample *s, mn_error *err)
{
    return mn_fail(err, MN_NOMEM,
                   "index of '%s': out of memory under the cap for %zu sampled rows; raise memory",
                   s->c->entry.name, s->n);
}

static struct scan_spec spec_of(const struct sample *s, const char *queries, size_t n)
{
    return (struct scan_spec){.dtype = s->c->entry.dtype,
                              .metric = s->c->entry.metric,
                              .dim = s->c->entry.dim,
                              .queries = queries,
                              .nq = n,
                              .k = SAMPLE_K + 1};
}

/* ---- Drawing --------------------------------------------------------------------------------- */

/* The index sees the vectors as they are. */
static bool as_they_are(const struct catalog_entry *e)
{
    return e->dtype == MN_F32 && e->metric != MN_COSINE;
}

/* How many rows fit: vectors as they are, as f32 and as the scan packs them, and the answers. */
static size_t sample_size(const mn_db *db, const struct coll *c, size_t rows)
{
    size_t wide = sizeof(float) * c->entry.dim, cap = (size_t)mn_alloc_cap(db->alloc);
    size_t each = c->vector_bytes + wide + 64 * SAMPLE_K + (as_they_are(&c->entry) ? 0 : wide);
    size_t n = cap / 32 / each, few = cap / 8 / each;
    few = few < FEW ? few : FEW;
    n = n < few ? few : n > SAMPLE ? SAMPLE : n;
    n = n < LEAST ? LEAST : n;
    return n < rows ? n : rows;
}

static mn_status draw(struct sample *s, const struct ivf_core *core, size_t i, int64_t id,
                      mn_error *err)
{
    struct row_vector v;
    char *to = s->vectors + i * s->c->vector_bytes;
    mn_status st = row_vector_get(s->conn, s->c, id, &v, err);
    if (st)
        return st;
    s->ids[i] = id;
    if (v.bytes)
        memcpy(to, v.bytes, s->c->vector_bytes);
    else
        st = mn_fail(err, MN_CORRUPT, "index of '%s': row %lld went missing within a snapshot",
                     s->c->entry.name, (long long)id);
    if (v.bytes && !as_they_are(&s->c->entry))
        ivf_widen(core, s->conn->db->kernels, to, s->wide + i * s->c->entry.dim);
    row_vector_end(&v);
    return st;
}

void sample_destroy(struct sample *s)
{
    if (!s)
        return;
    struct mn_alloc *a = s->conn->db->alloc;
    for (uint32_t i = 0; i < s->n_probers; i++) {
        ann_scratch_destroy(a, s->probers[i].scratch);
        scan_destroy(s->probers[i].scan);
        away_reader_destroy(s->probers[i].away);
    }
    mn_free(a, s->probers);
    mn_free(a, s->vectors);
    mn_free(a, as_they_are(&s->c->entry) ? NULL : s->wide);
    mn_free(a, s->ids);
    mn_free(a, s->truth);
    mn_free(a, s->found);
    mn_free(a, s);
}

/* Spread evenly, each at a place within its stretch that looks random. */
mn_status sample_create(mn_conn *conn, struct coll *c, const struct ivf_core *core,
                        const struct sample_ids *from, struct sample **out, mn_error *err)
{
    size_t n = from->n;
    struct mn_alloc *a = conn->db->alloc;
    struct sample *s = mn_alloc_array(a, 1, sizeof *s, MN_TAG_SEARCH);
    *out = s;
    if (!s)
        return mn_fail(err, MN_NOMEM, "index of '%s': out of memory", c->entry.name);
    s->conn = conn;
    s->c = c;
    s->n = sample_size(conn->db, c, n);
    bool many = from->rows > MANY_ROWS && core->rabitq->bits >= MANY_BITS;
    s->step = many && s->n > CHECKED ? s->n / CHECKED : 1;
    s->vectors = mn_alloc_array(a, s->n, c->vector_bytes, MN_TAG_SEARCH);
    s->wide = as_they_are(&c->entry)
                  ? (float *)(void *)s->vectors
                  : mn_alloc_array(a, s->n, c->entry.dim * sizeof(float), MN_TAG_SEARCH);
    s->ids = mn_alloc_array(a, s->n, sizeof *s->ids, MN_TAG_SEARCH);
    s->truth = mn_alloc_array(a, s->n * SAMPLE_K, sizeof *s->truth, MN_TAG_SEARCH);
    s->found = mn_alloc_array(a, s->n, sizeof *s->found, MN_TAG_SEARCH);
    mn_status st = s->vectors && s->wide && s->ids && s->truth && s->found ? MN_OK
                                                                           : no_memory(s, err);
    for (size_t i = 0; i < s->n && st == MN_OK; i++) {
        size_t first = i * n / s->n, end = (i + 1) * n / s->n;
        st = draw(s, core, i, from->ids[first + (i * 2654435761u >> 7) % (end - first)], err);
    }
    return st;
}

/* ---- By a scan of all rows ------------------------------------------------------------------- */

static size_t block_rows(const struct sample *s)
{
    size_t n = BLOCK_BYTES / s->c->vector_bytes;
    return n < 1 ? 1 : n > BLOCK_ROWS ? BLOCK_ROWS : n;
}

static mn_status scan_rows(struct sample *s, struct scan *scan, char *block, mn_error *err)
{
    sqlite3_stmt *st;
    bool row = false;
    int64_t ids[BLOCK_ROWS];
    size_t bytes = s->c->vector_bytes, n = 0, most = block_rows(s);
    mn_status status = coll_stmt(s->conn, s->c, STMT_SCAN, &st, err);
    if (status)
        return status;
    do {
        struct row_vector v = {0};
        status = sql_step(st, &row, err);
        if (status == MN_OK && row)
            row_vector_at(s->conn->db, s->c, st, 1, &v);
        if (v.bytes) {
            ids[n] = sqlite3_column_int64(st, 0);
            memcpy(block + n++ * bytes, v.bytes, bytes);
        }
        if (status == MN_OK && n && (n == most || !row)) {
            struct scan_block b = {.ids = ids, .vectors = block, .n = n};
            status = scan_block(scan, &b, NULL, NULL, err);
            n = 0;
            if (status == MN_OK)
                status = conn_tick(s->conn, err);
        }
    } while (status == MN_OK && row);
    sqlite3_reset(st);
    return status;
}

/* The nearest of hits [n] but the row itself; distances are keys. */
static void take_truth(struct sample *s, size_t i, const mn_hit *hits, size_t n)
{
    uint32_t k = 0;
    for (size_t h = 0; h < n && k < SAMPLE_K; h++)
        if (hits[h].id != s->ids[i])
            s->truth[i * SAMPLE_K + k++] = hits[h];
    s->found[i] = k;
}

/* For every step-th row. */
static mn_status scan_for(struct sample *s, size_t step, mn_error *err)
{
    struct mn_alloc *a = s->conn->db->alloc;
    mn_hit hits[SAMPLE_K + 1];
    struct scan *scan = NULL;
    size_t nq = (s->n + step - 1) / step, bytes = s->c->vector_bytes;
    char *some = step > 1 ? mn_alloc_array(a, nq, bytes, MN_TAG_SEARCH) : NULL;
    char *block = mn_alloc_array(a, block_rows(s), bytes, MN_TAG_SEARCH);
    mn_status st = block && (some || step == 1) ? MN_OK : no_memory(s, err);
    for (size_t q = 0; q < nq && st == MN_OK && some; q++)
        memcpy(some + q * bytes, s->vectors + q * step * bytes, bytes);
    struct scan_spec spec = spec_of(s, some ? some : s->vectors, nq);
    if (st == MN_OK)
        st = scan_create(a, s->conn->db->kernels, &spec, &scan, err);
    if (st == MN_OK)
        st = scan_rows(s, scan, block, err);
    for (size_t q = 0; q < nq && st == MN_OK; q++) {
        size_t n = scan_count(scan, q);
        scan_hits(scan, q, hits);
        for (size_t i = 0; i < n; i++)
            hits[i].distance = ivf_key(s->c->entry.metric, hits[i].distance);
        take_truth(s, q * step, hits, n);
    }
    scan_destroy(scan);
    mn_free(a, some);
    mn_free(a, block);
    return st;
}

mn_status sample_scan(struct sample *s, mn_error *err)
{
    return scan_for(s, s->step, err);
}

/* ---- Searches by the index ------------------------------------------------------------------- */

static mn_status rerank(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                        mn_error *err)
{
    struct prober *p = ctx;
    struct sample *s = p->s;
    mn_status st = MN_OK;
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        struct row_vector row = {0};
        const void *v = ivf_vector(s->x, c[i].posting, c[i].part, c[i].slot);
        if (!v) { /* then there is one prober, on the connection's thread */
            st = row_vector_get(s->conn, s->c, c[i].id, &row, err);
            v = row.bytes;
        }
        keys[i] = NAN;
        if (v) {
            scan_distances(p->scan, 0, v, 1, &keys[i]);
            keys[i] = ivf_key(s->c->entry.metric, keys[i]);
        }
        row_vector_end(&row);
    }
    return st;
}

/* There is one prober then, on the connection's thread. */
static mn_status open_away(struct prober *p, mn_error *err)
{
    struct sidecar *sidecar = NULL;
    mn_conn *conn = p->s->conn;
    mn_status st = ivf_sidecar(conn, &sidecar, err);
    if (st == MN_OK && !sidecar)
        st = mn_fail(err, MN_CORRUPT, "index of '%s': its sidecar is not there",
                     p->s->c->entry.name);
    if (st == MN_OK)
        st = away_reader_open(conn, sidecar, p->s->x->away_most, &p->away, err);
    sidecar_close(sidecar);
    return st;
}

static const struct ann_fetch *fetch_of(struct prober *p)
{
    return p->away ? away_fetch(p->away, p->s->x, false, &p->reads, &p->bytes) : NULL;
}

static mn_status prober_init(struct prober *p, struct sample *s, mn_error *err)
{
    struct mn_alloc *a = s->conn->db->alloc;
    struct scan_spec spec = spec_of(s, s->vectors, 1);
    p->s = s;
    mn_status st = scan_create(a, s->conn->db->kernels, &spec, &p->scan, err);
    if (st == MN_OK)
        st = ann_scratch_create(a, s->c->entry.dim, s->x->core->n_lists, SAMPLE_K + 1,
                                &p->scratch, err);
    if (st == MN_OK && s->x->n_away)
        st = open_away(p, err);
    return st;
}

/* One at least, or it fails. */
static mn_status make_probers(struct sample *s, const struct parallel *parallel, mn_error *err)
{
    struct mn_alloc *a = s->conn->db->alloc;
    uint32_t wanted = ivf_warm(s->x) && !s->x->n_away ? parallel_threads(parallel) : 1;
    wanted = wanted < MAX_WORKERS ? wanted : MAX_WORKERS;
    s->probers = mn_alloc_array(a, wanted, sizeof *s->probers, MN_TAG_SEARCH);
    if (!s->probers)
        return no_memory(s, err);
    s->n_probers = 1;
    mn_status st = prober_init(&s->probers[0], s, err);
    while (st == MN_OK && s->n_probers < wanted) {
        struct prober *p = &s->probers[s->n_probers];
        if (prober_init(p, s, NULL)) {
            ann_scratch_destroy(a, p->scratch);
            scan_destroy(p->scan);
            *p = (struct prober){0};
            break;
        }
        s->n_probers++;
    }
    return st;
}

static mn_status tick(void *ctx, mn_error *err)
{
    struct prober *p = ctx;
    if (atomic_load_explicit(&p->s->stop, memory_order_relaxed))
        return mn_fail(err, MN_INTERRUPTED, "another search of the calibration failed");
    return p == p->s->probers ? conn_tick(p->s->conn, err) : conn_tick_aside(p->s->conn, err);
}

/* How many of the true neighbours stand in the hits. */
static size_t count_true(const struct sample *s, size_t i, const mn_hit *hits, size_t n)
{
    if (s->found[i] == 0)
        return 0;
    size_t found = 0;
    double most = s->truth[i * SAMPLE_K + s->found[i] - 1].distance;
    for (size_t h = 0; h < n; h++)
        found += hits[h].id != s->ids[i] && hits[h].distance <= most + 1e-6 * fabs(most);
    return found < s->found[i] ? found : s->found[i];
}

static mn_status probe(struct prober *p, size_t i, mn_error *err)
{
    struct sample *s = p->s;
    const mn_hit *hits;
    struct ann_query q = {.vector = s->wide + i * s->c->entry.dim,
                          .k = SAMPLE_K + 1,
                          .knobs = {.lambda = s->lambda, .e1 = ANN_E1 + 1, .e2 = ANN_E2 + 1},
                          .rerank = rerank,
                          .rerank_ctx = p,
                          .tick = tick,
                          .tick_ctx = p,
                          .fetch = fetch_of(p)};
    scan_restart(p->scan, s->vectors + i * s->c->vector_bytes);
    mn_status st = ann_search(s->x->ann, p->scratch, &q, err);
    if (st)
        return st;
    size_t n = ann_hits(p->scratch, &hits);
    if (s->checking)
        atomic_fetch_add_explicit(&s->hits, count_true(s, i, hits, n), memory_order_relaxed);
    else
        take_truth(s, i, hits, n);
    return MN_OK;
}

static void probe_some(void *arg, unsigned worker)
{
    struct sample *s = arg;
    struct prober *p = &s->probers[worker];
    size_t i;
    while (p->status == MN_OK &&
           (i = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed)) < s->n)
        if ((i % s->step == 0) == s->checking)
            p->status = probe(p, i, &p->err);
    if (p->status)
        atomic_store_explicit(&s->stop, true, memory_order_relaxed);
}

static mn_status probe_all(struct sample *s, bool checking, const struct parallel *parallel,
                           mn_error *err)
{
    s->checking = checking;
    atomic_store_explicit(&s->next, 0, memory_order_relaxed);
    atomic_store_explicit(&s->hits, 0, memory_order_relaxed);
    parallel_run(parallel, s->n_probers, probe_some, s);
    for (uint32_t i = 0; i < s->n_probers; i++) { /* the connection's own first */
        if (s->probers[i].status && err)
            *err = s->probers[i].err;
        if (s->probers[i].status)
            return s->probers[i].status;
    }
    return MN_OK;
}

/* The true neighbours of the rows that were not scanned for. */
static mn_status find_rest(struct sample *s, const struct parallel *parallel, mn_error *err)
{
    size_t wanted = 0;
    if (s->step == 1)
        return MN_OK;
    for (size_t i = 0; i < s->n; i += s->step)
        wanted += s->found[i];
    for (size_t l = 0; l < sizeof careful_lambdas / sizeof *careful_lambdas; l++) {
        s->lambda = careful_lambdas[l];
        mn_status st = probe_all(s, true, parallel, err);
        if (st)
            return st;
        if (wanted - s->hits <= wanted / MISSED)
            return probe_all(s, false, parallel, err);
    }
    return scan_for(s, 1, err);
}

static void calibrate_next(void *ctx, size_t i)
{
    struct prober *p = ctx;
    scan_restart(p->scan, p->s->vectors + i * p->s->c->vector_bytes);
}

mn_status sample_calibrate(struct sample *s, struct ivf *x, mn_error *err)
{
    struct parallel parallel = db_parallel(s->conn->db);
    s->x = x;
    mn_status st = make_probers(s, &parallel, err);
    if (st == MN_OK)
        st = find_rest(s, &parallel, err);
    if (st)
        return st;
    struct prober *p = &s->probers[0];
    bool exact = s->c->entry.rerank != MN_RERANK_NONE;
    struct ann_sample sample = {.vectors = s->wide,
                                .ids = s->ids,
                                .n = s->n,
                                .k = SAMPLE_K,
                                .truth = s->truth,
                                .found = s->found,
                                .rerank = exact ? rerank : NULL,
                                .rerank_ctx = p,
                                .next = calibrate_next,
                                .tick = tick,
                                .tick_ctx = p,
                                .fetch = fetch_of(p)};
    return ann_calibrate(s->conn->db->alloc, x->ann, p->scratch, &sample, &x->tuning, err);
}
