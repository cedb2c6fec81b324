/*
 * Coding: postings are taken in windows of a few for each worker. While a window is coded, the
 * calling thread first hands on what the window before holds, in order; so the packs do not depend
 * on the number of threads.
 */
#include "src/engine/ivf_gather.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

enum {
    WINDOW = 2,       /* postings for each worker; with one worker there is one, and one window */
    CODE_ROWS = 32,   /* rows widened and coded at once */
    CODING_SHARE = 32 /* part of the cap for the encoders of several threads */
};

/* ---- Vectors --------------------------------------------------------------------------------- */

void gathered_fini(struct gathered *g)
{
    for (uint32_t i = g->given; g->blocks && i < g->n_blocks; i++)
        mn_free(g->db->alloc, g->blocks[i]);
    if (g->db)
        mn_free(g->db->alloc, g->blocks);
    *g = (struct gathered){0};
}

uint32_t gathered_block_rows(const struct gathered *g, uint32_t block)
{
    return block + 1 < g->n_blocks ? g->rows : (uint32_t)(g->n - (size_t)block * g->rows);
}

mn_status gathered_init(struct gathered *g, mn_db *db, size_t vector_bytes, size_t n, mn_error *err)
{
    const size_t bytes = (size_t)HEAP_BLOCK_PAGES * HEAP_PAGE;
    *g = (struct gathered){.db = db, .vector_bytes = vector_bytes, .n = n};
    g->rows = heap_block_rows(vector_bytes);
    g->n_blocks = (uint32_t)((n + g->rows - 1) / g->rows);
    g->blocks = mn_alloc_array(db->alloc, g->n_blocks, sizeof *g->blocks, MN_TAG_SEARCH);
    bool all = g->blocks != NULL;
    for (uint32_t i = 0; all && i < g->n_blocks; i++) {
        bool filled = gathered_block_rows(g, i) * vector_bytes == bytes;
        g->blocks[i] = mn_alloc(db->alloc, bytes, MN_TAG_CACHE);
        if (g->blocks[i] && !filled)
            memset(g->blocks[i], 0, bytes);
        all = g->blocks[i] != NULL;
    }
    if (all)
        return MN_OK;
    gathered_fini(g);
    return mn_fail(err, MN_NOMEM, "%s: out of memory under the cap for %zu vectors", db->path, n);
}

/* ---- Codes ----------------------------------------------------------------------------------- */

/* One posting being coded. */
struct lot {
    uint32_t posting;
    struct posting_encoder *encoder;
    mn_status status;
    mn_error err;
};

struct run {
    const struct coding *c;
    mn_db *db;
    uint32_t threads, window; /* window: lots of one */
    float *wide;              /* [threads][CODE_ROWS][dim] */
    struct lot *lots;         /* two windows, with one thread the first only */
    struct lot *now, *before; /* being coded; being handed on */
    uint32_t n_now, n_before;
    uint32_t next_posting;
    _Atomic uint32_t next;    /* relaxed; next lot of `now` */
    mn_status status;         /* of handing on; the calling thread's */
    mn_error *err;
};

static mn_status code_rows(const struct run *r, struct lot *lot, float *wide, uint32_t place,
                           uint32_t n)
{
    const struct coding *c = r->c;
    uint32_t dim = c->core->entry.dim;
    int64_t ids[CODE_ROWS];
    for (uint32_t i = 0; i < n; i++) {
        ids[i] = c->ids[c->order[place + i]];
        if (!ivf_widen(c->core, r->db->kernels, gathered_at(c->vectors, place + i),
                       wide + (size_t)i * dim)) /* rows without a direction were not listed */
            return mn_fail(&lot->err, MN_CORRUPT,
                           "index of '%s': row %" PRId64 " changed within a snapshot",
                           c->core->entry.name, ids[i]);
    }
    return posting_add(lot->encoder, wide, ids, n, &lot->err);
}

static void code_lot(const struct run *r, struct lot *lot, float *wide)
{
    const struct coding *c = r->c;
    uint32_t end = c->first[lot->posting + 1];
    lot->status = MN_OK;
    posting_begin(lot->encoder, c->centroids + (size_t)lot->posting * c->core->entry.dim);
    for (uint32_t at = c->first[lot->posting]; at < end && !lot->status; at += CODE_ROWS)
        lot->status = code_rows(r, lot, wide, at, end - at < CODE_ROWS ? end - at : CODE_ROWS);
}

/* In order; what failed in one lot is the first failure. */
static void hand_on(struct run *r)
{
    for (uint32_t i = 0; i < r->n_before && !r->status; i++) {
        struct lot *lot = &r->before[i];
        r->status = lot->status;
        if (lot->status && r->err)
            *r->err = lot->err;
        if (!lot->status)
            r->status = r->c->done(r->c->ctx, lot->posting, lot->encoder, r->err);
    }
    r->n_before = 0;
}

static void work(void *arg, unsigned worker)
{
    struct run *r = arg;
    float *wide = r->wide + (size_t)worker * CODE_ROWS * r->c->core->entry.dim;
    uint32_t i;
    if (worker == 0)
        hand_on(r);
    while ((i = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed)) < r->n_now)
        code_lot(r, &r->now[i], wide);
}

/* The next postings that have rows. */
static void fill_window(struct run *r)
{
    const struct coding *c = r->c;
    for (r->n_now = 0; r->n_now < r->window && r->next_posting < c->core->n_lists;
         r->next_posting++)
        if (c->first[r->next_posting + 1] > c->first[r->next_posting])
            r->now[r->n_now++].posting = r->next_posting;
}

static uint32_t largest(const struct coding *c)
{
    uint32_t most = 0;
    for (uint32_t j = 0; j < c->core->n_lists; j++)
        most = c->first[j + 1] - c->first[j] > most ? c->first[j + 1] - c->first[j] : most;
    return most;
}

static uint32_t threads_for(const struct coding *c, const mn_db *db, uint32_t rows)
{
    uint32_t n = parallel_threads(c->parallel), dim = c->core->entry.dim;
    double row = 32 + c->core->rabitq->bits * dim / 8.0;
    double each = 2 * WINDOW * row * rows + CODE_ROWS * sizeof(float) * dim;
    double fit = (double)mn_alloc_cap(db->alloc) / CODING_SHARE / each;
    return n <= fit ? n : fit < 1 ? 1 : (uint32_t)fit;
}

/* False: no memory for so many threads. */
static bool run_init(struct run *r, uint32_t threads, uint32_t rows)
{
    struct mn_alloc *a = r->db->alloc;
    bool all = true;
    r->threads = threads;
    r->window = threads > 1 ? WINDOW * threads : 1;
    uint32_t n = threads > 1 ? 2 * r->window : 1;
    r->wide = mn_alloc_array(a, (size_t)threads * CODE_ROWS,
                             r->c->core->entry.dim * sizeof *r->wide, MN_TAG_SEARCH);
    r->lots = mn_alloc_array(a, n, sizeof *r->lots, MN_TAG_SEARCH);
    all = r->wide && r->lots;
    for (uint32_t i = 0; all && i < n; i++)
        all = posting_encoder_create(a, r->c->core->rabitq, rows, &r->lots[i].encoder, NULL) ==
              MN_OK;
    r->now = r->lots;
    r->before = r->lots + (threads > 1 ? r->window : 0);
    return all;
}

static void run_fini(struct run *r)
{
    struct mn_alloc *a = r->db->alloc;
    for (uint32_t i = 0; r->lots && i < (r->threads > 1 ? 2 * r->window : 1); i++)
        posting_encoder_destroy(a, r->lots[i].encoder);
    mn_free(a, r->lots);
    mn_free(a, r->wide);
    r->lots = NULL;
    r->wide = NULL;
}

mn_status code_postings(const struct coding *c, mn_error *err)
{
    mn_db *db = c->vectors->db;
    struct run r = {.c = c, .db = db, .err = err};
    uint32_t rows = largest(c), threads = threads_for(c, db, rows);
    if (!run_init(&r, threads, rows)) {
        run_fini(&r);
        if (threads == 1 || !run_init(&r, 1, rows))
            r.status = mn_fail(err, MN_NOMEM, "%s: out of memory under the cap for the index",
                               db->path);
    }
    if (!r.status)
        fill_window(&r);
    while (!r.status && r.n_now) {
        struct lot *coded = r.now;
        atomic_store_explicit(&r.next, 0, memory_order_relaxed);
        parallel_run(c->parallel, r.threads, work, &r);
        r.n_before = r.n_now;
        r.now = r.before;
        r.before = coded;
        if (r.threads == 1)
            hand_on(&r);
        fill_window(&r);
    }
    hand_on(&r);
    run_fini(&r);
    return r.status;
}
