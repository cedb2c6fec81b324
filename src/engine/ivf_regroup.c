/*
 * Keeping postings near their best size as rows come and go, by LIRE's operations (Xu et al.,
 * "SPFresh", SOSP 2023, section 3.3), all in the background and each about a few postings:
 *
 *   split     a posting of more than SPLIT_AT times the rows that one should have in an index of
 *             this size becomes as many as it needs, by k-means on its rows. The first keeps the
 *             number
 *   dissolve  a posting of less than 1 / DISSOLVE_AT of that gives its rows to the nearest others.
 *             Its number stays free until a split takes it: parts name postings by number
 *   reassign  a row of a split posting goes to a neighbouring posting if that is nearer than the
 *             new centroids; a row of a neighbouring posting goes to a new centroid that is nearer
 *             than its own. Other rows cannot gain by the split
 *
 * Rows are compared by their vectors: reading some thousand of them costs less than what codes
 * would leave undecided. Vectors stay at their place in the heap; only codes are written. The list
 * of centroids is written whole, so postings wait until a DUE_SHARE'th of them is due, or one is
 * far out.
 *
 * A centroid that begins with a NaN is none: its number is free.
 */
#include "src/engine/ivf_regroup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "index/cluster.h"
#include "index/kmeans.h"
#include "src/engine/ivf_away.h"
#include "storage/sql.h"

enum {
    SPLIT_AT = 3,
    DISSOLVE_AT = 8,
    FAR_OUT = 8, /* times what a posting should have: it does not wait for others */
    DUE_SHARE = 100,
    NEIGHBOURS = 8,
    ROUNDS = 8,    /* of k-means */
    MAX_PIECES = 64
};

/* A posting to be split into `pieces` of the numbers from first_number on, or dissolved: 0. */
struct due {
    uint32_t posting, pieces, first_number;
};

struct regroup {
    struct make *m;
    const struct ivf *x;
    uint32_t dim;
    const float *old;     /* [x's n_lists][dim] centroids before */
    float *centroids;     /* [cap][dim] and after */
    uint32_t n_lists, cap;
    float *distances;     /* [cap] */
    struct due *due;      /* [n_due] */
    uint32_t n_due;
    uint32_t *numbers;    /* [n_numbers] of the pieces */
    uint32_t n_numbers;
    bool *is_due;         /* [x's n_lists] */
    uint64_t moved;
};

/* One row while it moves. */
struct mover {
    int64_t id;
    uint32_t slot, use, row; /* where it stands */
    uint32_t posting;        /* where it goes */
    uint32_t at;             /* of its vector in `wide` */
};

struct movers {
    size_t n;
    struct mover *rows; /* [n] */
    float *wide;        /* [n][dim] */
};

static void movers_fini(struct regroup *r, struct movers *g)
{
    mn_free(r->m->db->alloc, g->rows);
    mn_free(r->m->db->alloc, g->wide);
    *g = (struct movers){0};
}

static bool is_free(const struct regroup *r, uint32_t posting)
{
    return isnan(r->centroids[(size_t)posting * r->dim]);
}

static uint32_t posting_live(const struct regroup *r, uint32_t posting)
{
    uint32_t live = 0;
    for (uint32_t i = r->x->first[posting]; i < r->x->first[posting + 1]; i++) {
        const struct ivf_use *u = &r->m->d.uses[i];
        live += u->pack ? ivf_use_live(u) : 0;
    }
    return live;
}

/* ---- Rows of a posting ----------------------------------------------------------------------- */

/* The vector as the index sees it; *there false if it has none that could stand in an index. */
static mn_status fetch(struct regroup *r, const struct mover *row, float *out, bool *there,
                       mn_error *err)
{
    struct make *m = r->m;
    uint32_t rows = heap_block_rows(m->c->vector_bytes);
    const char *pages = NULL;
    *there = true;
    if (row->slot / rows < m->d.n_heap)
        pages = atomic_load_explicit(&m->d.heap[row->slot / rows]->pages, memory_order_acquire);
    if (pages) {
        const char *v = pages + heap_offset(m->c->vector_bytes, row->slot % rows);
        *there = ivf_widen(m->d.core, m->db->kernels, v, out);
        return MN_OK;
    }
    struct row_vector v;
    mn_status st = row_vector_get(m->conn, m->c, row->id, &v, err);
    if (st)
        return st;
    *there = v.bytes && ivf_widen(m->d.core, m->db->kernels, v.bytes, out);
    row_vector_end(&v);
    return MN_OK;
}

/* The live rows of a posting, and their vectors. */
static mn_status gather(struct regroup *r, uint32_t posting, struct movers *out, mn_error *err)
{
    struct mn_alloc *a = r->m->db->alloc;
    uint32_t live = posting_live(r, posting);
    mn_status st = MN_OK;
    *out = (struct movers){.rows = mn_alloc_array(a, live, sizeof *out->rows, MN_TAG_SEARCH),
                           .wide = mn_alloc_array(a, live, r->dim * sizeof(float), MN_TAG_SEARCH)};
    if (!out->rows || !out->wide)
        return make_no_memory(r->m, err);
    for (uint32_t i = r->x->first[posting]; i < r->x->first[posting + 1]; i++) {
        const struct ivf_use *u = &r->m->d.uses[i];
        struct ivf_part p;
        void *buffer;
        if (!u->pack)
            continue;
        st = ivf_part_of(r->m->db, r->m->d.core, u, r->m->sink, &buffer, &p, err);
        for (uint32_t row = 0; row < p.view.n && st == MN_OK; row++) {
            bool there = false;
            if (ivf_hides(u, row))
                continue;
            struct mover one = {posting_id(&p.view, row), ivf_slot(&p, row), i,
                                row, posting, (uint32_t)out->n};
            st = fetch(r, &one, out->wide + out->n * r->dim, &there, err);
            if (st == MN_OK && there)
                out->rows[out->n++] = one;
        }
        mn_free(a, buffer);
        if (st)
            break;
    }
    return st == MN_OK ? conn_tick(r->m->conn, err) : st;
}

static int by_posting(const void *a, const void *b)
{
    const struct mover *x = a, *y = b;
    if (x->posting != y->posting)
        return x->posting < y->posting ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* Codes the rows where they go. */
static mn_status emit(struct regroup *r, struct movers *g, mn_error *err)
{
    struct make *m = r->m;
    mn_status st = MN_OK;
    qsort(g->rows, g->n, sizeof *g->rows, by_posting);
    for (size_t first = 0, end; first < g->n && st == MN_OK; first = end) {
        uint32_t posting = g->rows[first].posting;
        for (end = first; end < g->n && g->rows[end].posting == posting;)
            end++;
        st = make_room(m, end - first, err);
        if (st == MN_OK)
            make_part(m, posting);
        for (size_t i = first; i < end && st == MN_OK; i++) {
            const struct mover *row = &g->rows[i];
            m->slots[m->n_slots++] = row->slot;
            st = posting_add(m->encoder, g->wide + (size_t)row->at * r->dim, &row->id, 1, err);
        }
        if (st == MN_OK)
            st = make_part_end(m, posting, err);
    }
    r->moved += g->n;
    return st;
}

/* ---- Which postings -------------------------------------------------------------------------- */

/* Whether a posting's rows differ at all: duplicates cannot be split. */
static bool has_spread(const struct regroup *r, uint32_t posting)
{
    for (uint32_t i = r->x->first[posting]; i < r->x->first[posting + 1]; i++)
        if (r->m->d.uses[i].pack && ivf_use_part(&r->m->d.uses[i])->view.residual > 0)
            return true;
    return false;
}

/* Fills r->due; leaves it empty if it is not worth a new list of centroids. */
static mn_status find_due(struct regroup *r, mn_error *err)
{
    uint32_t lists = r->x->core->n_lists, taken = 0;
    uint32_t wanted = cluster_count(r->x->rows, r->dim);
    double size = (double)r->x->rows / wanted;
    bool urgent = false;
    struct mn_alloc *a = r->m->db->alloc;
    r->due = mn_alloc_array(a, lists, sizeof *r->due, MN_TAG_SEARCH);
    r->is_due = mn_alloc_array(a, lists, sizeof *r->is_due, MN_TAG_SEARCH);
    if (!r->due || !r->is_due)
        return make_no_memory(r->m, err);
    for (uint32_t j = 0; j < lists; j++) {
        double live = posting_live(r, j);
        taken += live > 0;
        bool split = live > SPLIT_AT * size && live > 2 * POSTING_BLOCK && has_spread(r, j);
        bool dissolve = live * DISSOLVE_AT < size && !isnan(r->old[(size_t)j * r->dim]);
        if (!split && !dissolve)
            continue;
        urgent = urgent || (split && live > FAR_OUT * size);
        double pieces = split ? fmin(fmax(rint(live / size), 2), MAX_PIECES) : 0;
        r->is_due[j] = true;
        r->due[r->n_due++] = (struct due){.posting = j, .pieces = (uint32_t)pieces};
    }
    if (!urgent && (uint64_t)r->n_due * DUE_SHARE < lists)
        r->n_due = 0;
    if (taken <= NEIGHBOURS) /* nothing would be left to dissolve into */
        for (uint32_t i = r->n_due; i-- > 0;)
            if (r->due[i].pieces == 0)
                r->due[i] = r->due[--r->n_due];
    return MN_OK;
}

/* ---- New centroids --------------------------------------------------------------------------- */

static mn_status take_room(struct regroup *r, mn_error *err)
{
    struct mn_alloc *a = r->m->db->alloc;
    uint32_t pieces = 0;
    for (uint32_t i = 0; i < r->n_due; i++)
        pieces += r->due[i].pieces;
    r->n_lists = r->x->core->n_lists;
    r->cap = r->n_lists + pieces;
    r->centroids = mn_alloc_array(a, r->cap, r->dim * sizeof(float), MN_TAG_SEARCH);
    r->distances = mn_alloc_array(a, r->cap + 16u, sizeof(float), MN_TAG_SEARCH);
    r->numbers = mn_alloc_array(a, pieces, sizeof *r->numbers, MN_TAG_SEARCH);
    if (!r->centroids || !r->distances || !r->numbers)
        return make_no_memory(r->m, err);
    memcpy(r->centroids, r->old, (size_t)r->n_lists * r->dim * sizeof(float));
    return MN_OK;
}

/* A free number, or a new one. */
static uint32_t take_number(struct regroup *r, uint32_t *from)
{
    while (*from < r->n_lists && !is_free(r, *from))
        ++*from;
    if (*from < r->n_lists)
        return (*from)++;
    ++*from;
    return r->n_lists++;
}

static mn_status split(struct regroup *r, struct due *d, uint32_t *free_from, mn_error *err)
{
    struct mn_alloc *a = r->m->db->alloc;
    struct movers g = {0};
    size_t bytes = r->dim * sizeof(float);
    float *pieces = mn_alloc_array(a, d->pieces, bytes, MN_TAG_SEARCH);
    mn_status st = pieces ? gather(r, d->posting, &g, err) : make_no_memory(r->m, err);
    if (st == MN_OK && g.n <= d->pieces) {
        d->pieces = 0; /* its rows went missing; what is left goes elsewhere */
        goto done;
    }
    struct kmeans_spec spec = {.rows = g.wide, .n = g.n, .dim = r->dim, .k = d->pieces,
                               .rounds = ROUNDS, .seed = d->posting};
    if (st == MN_OK)
        st = kmeans(a, r->m->db->kernels, &spec, pieces, err);
    d->first_number = r->n_numbers;
    for (uint32_t i = 0; i < d->pieces && st == MN_OK; i++) {
        uint32_t number = i ? take_number(r, free_from) : d->posting;
        memcpy(r->centroids + (size_t)number * r->dim, pieces + (size_t)i * r->dim, bytes);
        r->numbers[r->n_numbers++] = number;
    }
done:
    movers_fini(r, &g);
    mn_free(a, pieces);
    return st;
}

/* The draft's core from now on: the same but for the centroids. */
static mn_status renew_core(struct regroup *r, mn_error *err)
{
    struct make *m = r->m;
    const struct ivf_core *before = m->d.core;
    struct ivf_core *core = NULL;
    struct ivf_core_spec spec = {.entry = &before->entry,
                                 .centroids = r->centroids,
                                 .origin = before->origin,
                                 .n_lists = r->n_lists,
                                 .seed = before->seed,
                                 .built_rows = before->built_rows,
                                 .bits = before->rabitq->bits,
                                 .before = before->centroids};
    mn_status st = ivf_core_create(m->db, &spec, &core, err);
    if (st == MN_OK)
        st = m->sink->core(m->sink->ctx, core, r->centroids, err);
    if (st) {
        ivf_core_release(m->db, core);
        return st;
    }
    /* Encoders borrow the core's rotation. */
    posting_encoder_destroy(m->db->alloc, m->encoder);
    m->encoder = NULL;
    ivf_core_release(m->db, m->d.core);
    m->d.core = core;
    m->centroids = r->centroids;
    return MN_OK;
}

/* ---- Moving ---------------------------------------------------------------------------------- */

/* Numbers of the postings nearest to a centroid, of those that have one and are not in `but`
 * [n_but]; returns how many. */
static uint32_t nearest(struct regroup *r, const float *to, const uint32_t *but, uint32_t n_but,
                        uint32_t out[NEIGHBOURS])
{
    uint32_t n = 0;
    r->m->db->kernels->l2[ELEM_F32](to, r->centroids, r->dim * sizeof(float), r->n_lists, r->dim,
                                    r->distances);
    for (uint32_t i = 0; i < n_but; i++)
        r->distances[but[i]] = INFINITY;
    for (; n < NEIGHBOURS; n++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t j = 0; j < r->n_lists; j++)
            if (r->distances[j] < (best == UINT32_MAX ? INFINITY : r->distances[best]))
                best = j;
        if (best == UINT32_MAX)
            break;
        r->distances[best] = INFINITY;
        out[n] = best;
    }
    return n;
}

/* The nearest of the postings named [n] to a vector, and its squared distance. */
static uint32_t nearest_of(const struct regroup *r, const float *v, const uint32_t *numbers,
                           uint32_t n, float *distance)
{
    uint32_t best = numbers[0];
    *distance = INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        float d;
        r->m->db->kernels->l2[ELEM_F32](v, r->centroids + (size_t)numbers[i] * r->dim,
                                        r->dim * sizeof(float), 1, r->dim, &d);
        if (d < *distance) {
            *distance = d;
            best = numbers[i];
        }
    }
    return best;
}

/* All rows of a posting to the nearest of its pieces and neighbours. */
static mn_status move_all(struct regroup *r, const struct due *d, mn_error *err)
{
    struct movers g = {0};
    uint32_t choice[MAX_PIECES + NEIGHBOURS], n = d->pieces;
    float distance;
    memcpy(choice, r->numbers + d->first_number, d->pieces * sizeof *choice);
    n += nearest(r, r->old + (size_t)d->posting * r->dim, choice, n, choice + n);
    mn_status st = gather(r, d->posting, &g, err);
    for (size_t i = 0; i < g.n && st == MN_OK; i++)
        g.rows[i].posting = nearest_of(r, g.wide + i * r->dim, choice, n, &distance);
    if (st == MN_OK)
        st = emit(r, &g, err); /* may move m->d.uses */
    for (uint32_t i = r->x->first[d->posting]; i < r->x->first[d->posting + 1] && st == MN_OK; i++)
        ivf_use_drop(r->m->db, &r->m->d.uses[i]);
    movers_fini(r, &g);
    return st;
}

static mn_status hide(struct regroup *r, const struct mover *row, mn_error *err)
{
    struct ivf_use *u = &r->m->d.uses[row->use];
    if (!ivf_use_hide(r->m->db, u, row->row))
        return make_no_memory(r->m, err);
    return MN_OK;
}

/* Rows of a posting beside a split one that a piece is nearer to. */
static mn_status move_nearer(struct regroup *r, const struct due *d, uint32_t posting,
                             mn_error *err)
{
    struct movers g = {0};
    size_t kept = 0;
    mn_status st = gather(r, posting, &g, err);
    for (size_t i = 0; i < g.n && st == MN_OK; i++) {
        const float *v = g.wide + i * r->dim;
        struct mover row = g.rows[i];
        float own, other;
        nearest_of(r, v, &posting, 1, &own);
        row.posting = nearest_of(r, v, r->numbers + d->first_number, d->pieces, &other);
        if (!(other < own))
            continue;
        st = hide(r, &row, err);
        g.rows[kept++] = row;
    }
    g.n = kept;
    if (st == MN_OK)
        st = emit(r, &g, err);
    movers_fini(r, &g);
    return st;
}

static mn_status move_neighbours(struct regroup *r, const struct due *d, mn_error *err)
{
    uint32_t around[NEIGHBOURS];
    uint32_t n = nearest(r, r->old + (size_t)d->posting * r->dim, r->numbers + d->first_number,
                         d->pieces, around);
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < n && st == MN_OK; i++)
        if (around[i] < r->x->core->n_lists && !r->is_due[around[i]])
            st = move_nearer(r, d, around[i], err);
    return st;
}

static mn_status regroup(struct regroup *r, mn_error *err)
{
    uint32_t free_from = 0;
    mn_status st = take_room(r, err);
    for (uint32_t i = 0; i < r->n_due && st == MN_OK; i++)
        if (r->due[i].pieces == 0)
            r->centroids[(size_t)r->due[i].posting * r->dim] = NAN;
    for (uint32_t i = 0; i < r->n_due && st == MN_OK; i++)
        if (r->due[i].pieces)
            st = split(r, &r->due[i], &free_from, err);
    if (st == MN_OK)
        st = renew_core(r, err);
    for (uint32_t i = 0; i < r->n_due && st == MN_OK; i++)
        st = move_all(r, &r->due[i], err);
    for (uint32_t i = 0; i < r->n_due && st == MN_OK; i++)
        if (r->due[i].pieces)
            st = move_neighbours(r, &r->due[i], err);
    return st;
}

mn_status ivf_regroup(struct make *m, const struct ivf *x, uint64_t *moved, mn_error *err)
{
    struct mn_alloc *a = m->db->alloc;
    struct regroup r = {.m = m, .x = x, .dim = m->c->entry.dim, .old = m->centroids};
    mn_status st = find_due(&r, err);
    if (st == MN_OK && r.n_due)
        st = regroup(&r, err);
    *moved = r.moved;
    if (m->centroids == r.centroids && r.centroids) { /* they are the draft's now */
        mn_free(a, m->centroids_buffer);
        m->centroids_buffer = r.centroids;
        r.centroids = NULL;
    }
    mn_free(a, r.centroids);
    mn_free(a, r.distances);
    mn_free(a, r.due);
    mn_free(a, r.is_due);
    mn_free(a, r.numbers);
    return st;
}
