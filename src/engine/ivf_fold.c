/*
 * What follows from changed rows, in two steps.
 *
 * A fold moves them into the index in memory: the old copies of changed rows are hidden; the new
 * rows become tails of the postings of their nearest centroids, one part a posting, all of a fold
 * in one pack, their vectors in heap blocks. Searches by that version are ahead of the sidecar. A
 * fold costs some milliseconds and 20 us a row, whatever the size of the sidecar, and writes
 * nothing.
 *
 * Settling makes of a version that is ahead one that the sidecar can have. Parts that are not saved
 * are joined into one a posting, and with its other tails where these are too many; where they have
 * become large beside its base, or more rows are hidden than live, the posting becomes one part:
 * codes move, vectors stay where they are. A pack of which less than half is still in use is copied
 * together with others. New packs and heap blocks go to the sink. So a row is written when it
 * settles, and again when its posting is merged, however small the folds were.
 *
 * What the sidecar has lost is mended in passing (ivf_heal.h): missing rows by the fold, packs and
 * heap blocks by settling.
 */
#include "src/engine/ivf_fold.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "index/scan.h"
#include "src/engine/ivf_away.h"
#include "src/engine/ivf_heal.h"
#include "src/engine/ivf_maker.h"
#include "src/engine/ivf_regroup.h"
#include "src/engine/ivf_sample.h"
#include "storage/sql.h"

/* So many parts a posting at most, and tails that are together a third of the base: one more block
 * of 32 rows to scan each, against codes that are written again. */
enum { IVF_MAX_PARTS = 4, TAILS_SHARE = 3 };

/* Knobs are measured anew when so many of the rows came or went elsewhere. */
enum { DRIFT_SHARE = 8, DRAWN = 8192 /* rows that a sample is drawn from, spread evenly */ };

/* Splits keep up with growth; after so much of it groups are made anew as a whole. */
enum { GROWN = 16 };

/* ---- Rows that come -------------------------------------------------------------------------- */

/* Fresh rows of a fold, in the order of their postings. */
struct fresh {
    int64_t *ids;
    char *vectors;
    float *wide;
    uint32_t *postings;
    uint32_t *order; /* [n] */
    uint32_t *slots; /* [n] that have the vectors already, or HEAL_NO_SLOT; NULL: none */
    size_t n;
};

static void fresh_fini(struct mn_alloc *a, struct fresh *f)
{
    mn_free(a, f->ids);
    mn_free(a, f->vectors);
    mn_free(a, f->wide);
    mn_free(a, f->postings);
    mn_free(a, f->order);
    mn_free(a, f->slots);
}

static mn_status read_fresh(struct make *m, const int64_t *changed, size_t n, struct fresh *f,
                            mn_error *err)
{
    struct mn_alloc *a = m->db->alloc;
    uint32_t dim = m->c->entry.dim;
    mn_status st = MN_OK;
    f->ids = mn_alloc_array(a, n, sizeof *f->ids, MN_TAG_PENDING);
    f->vectors = mn_alloc_array(a, n, m->c->vector_bytes, MN_TAG_PENDING);
    f->wide = mn_alloc_array(a, n, dim * sizeof(float), MN_TAG_PENDING);
    f->postings = mn_alloc_array(a, n, sizeof *f->postings, MN_TAG_PENDING);
    f->order = mn_alloc_array(a, n, sizeof *f->order, MN_TAG_PENDING);
    if (!f->ids || !f->vectors || !f->wide || !f->postings || !f->order)
        return make_no_memory(m, err);
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        struct row_vector v;
        float norm = 0;
        char *to = f->vectors + f->n * m->c->vector_bytes;
        st = row_vector_get(m->conn, m->c, changed[i], &v, err);
        if (st)
            break;
        if (v.bytes) {
            memcpy(to, v.bytes, m->c->vector_bytes);
            scan_norms(m->db->kernels, m->c->entry.dtype, dim, to, 1, &norm);
            if (norm - norm == 0 &&
                ivf_widen(m->d.core, m->db->kernels, to, f->wide + f->n * dim)) {
                f->order[f->n] = (uint32_t)f->n;
                f->ids[f->n++] = changed[i];
            }
        }
        row_vector_end(&v);
    }
    return st;
}

static int by_list(const void *a, const void *b, void *ctx)
{
    const struct fresh *f = ctx;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    if (f->postings[i] != f->postings[j])
        return f->postings[i] < f->postings[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* Under ip the codes of centroids give inner products, which the longest centroids win: rows belong
 * to the nearest, as when the index was built. */
static mn_status assign_by_distance(struct make *m, struct fresh *f, mn_error *err)
{
    uint32_t dim = m->c->entry.dim, lists = m->d.core->n_lists;
    float *distances = mn_alloc_array(m->db->alloc, lists + 16u, sizeof(float), MN_TAG_PENDING);
    if (!distances)
        return make_no_memory(m, err);
    for (size_t i = 0; i < f->n; i++) {
        uint32_t best = 0;
        m->db->kernels->l2[ELEM_F32](f->wide + i * dim, m->centroids, dim * sizeof(float), lists,
                                     dim, distances);
        for (uint32_t j = 1; j < lists; j++)
            if (distances[j] < distances[best] || isnan(distances[best]))
                best = j;
        f->postings[i] = best;
    }
    mn_free(m->db->alloc, distances);
    return MN_OK;
}

static mn_status add_fresh(struct make *m, const struct ivf *old, struct fresh *f, mn_error *err)
{
    struct ann_scratch *scratch = NULL;
    if (f->n == 0)
        return MN_OK;
    mn_status st =
        ann_scratch_create(m->db->alloc, m->c->entry.dim, old->core->n_lists, 1, &scratch, err);
    if (st)
        return st;
    if (m->c->entry.metric != MN_IP)
        ann_assign(old->ann, scratch, f->wide, f->n, f->postings);
    else
        st = assign_by_distance(m, f, err);
    ann_scratch_destroy(m->db->alloc, scratch);
    if (st)
        return st;
    qsort_r(f->order, f->n, sizeof *f->order, by_list, f);
    for (size_t first = 0; first < f->n && st == MN_OK;) {
        uint32_t posting = f->postings[f->order[first]];
        size_t end = first;
        while (end < f->n && f->postings[f->order[end]] == posting)
            end++;
        st = make_room(m, end - first, err);
        if (st == MN_OK)
            make_part(m, posting);
        for (size_t i = first; i < end && st == MN_OK; i++) {
            uint32_t row = f->order[i];
            if (f->slots && f->slots[row] != HEAL_NO_SLOT)
                st = make_placed(m, f->wide + row * (size_t)m->c->entry.dim, f->ids[row],
                                 f->slots[row], err);
            else
                st = make_rows(m, f->vectors + row * m->c->vector_bytes, &f->ids[row], 1, err);
        }
        if (st == MN_OK)
            st = make_part_end(m, posting, err);
        first = end;
    }
    return st;
}

/* The live rows of a use join the part that is being made. */
static mn_status merge_use(struct make *m, const struct ivf_use *u, mn_error *err)
{
    struct ivf_part p;
    void *buffer;
    mn_status st = ivf_part_of(m->db, m->d.core, u, m->sink, &buffer, &p, err);
    for (uint32_t row = 0; row < p.view.n && st == MN_OK; row++)
        if (!ivf_hides(u, row))
            m->slots[m->n_slots++] = ivf_slot(&p, row);
    if (st == MN_OK)
        st = posting_add_view(m->encoder, &p.view, u->hidden ? u->hidden->words : NULL, err);
    mn_free(m->db->alloc, buffer);
    return st;
}

/* Joins n uses of one posting, from `first` on, into one part; they are dropped. */
static mn_status merge_uses(struct make *m, uint32_t first, uint32_t n, mn_error *err)
{
    const struct ivf_use *uses = &m->d.uses[first];
    uint32_t posting = ivf_use_part(&uses[0])->posting;
    size_t rows = 0;
    for (uint32_t i = 0; i < n; i++)
        rows += ivf_use_live(&uses[i]);
    mn_status st = make_room(m, rows, err);
    if (st)
        return st;
    make_part(m, posting);
    for (uint32_t i = 0; i < n && st == MN_OK; i++)
        st = merge_use(m, &uses[i], err);
    if (st == MN_OK)
        st = make_part_end(m, posting, err); /* may close the pack, and so move m->d.uses */
    for (uint32_t i = 0; i < n && st == MN_OK; i++)
        ivf_use_drop(m->db, &m->d.uses[first + i]);
    return st;
}

static bool is_saved(const struct ivf_use *u)
{
    return u->pack->ref.n_blocks != 0;
}

/* Uses of one posting, [first, first + n), the first of which has most rows: those that are not
 * saved are joined; with too many parts all but the first; and all, if what is joined would be
 * large beside it or too many rows are hidden. */
static mn_status settle_posting(struct make *m, uint32_t first, uint32_t n, mn_error *err)
{
    uint32_t rows = 0, live = 0, saved = 0, base = ivf_use_live(&m->d.uses[first]);
    for (uint32_t i = first; i < first + n; i++) {
        rows += ivf_use_part(&m->d.uses[i])->view.n;
        live += ivf_use_live(&m->d.uses[i]);
        saved += is_saved(&m->d.uses[i]);
    }
    bool many = saved + (saved < n) > IVF_MAX_PARTS;
    if (live * 2 < rows || (many && (live - base) * TAILS_SHARE > base))
        return merge_uses(m, first, n, err);
    if (many)
        return merge_uses(m, first + 1, n - 1, err);
    if (saved == n)
        return MN_OK;
    /* Those that are not saved to the end, to be joined. */
    uint32_t kept = first;
    for (uint32_t i = first; i < first + n; i++) {
        if (!is_saved(&m->d.uses[i]))
            continue;
        struct ivf_use u = m->d.uses[i];
        m->d.uses[i] = m->d.uses[kept];
        m->d.uses[kept++] = u;
    }
    return merge_uses(m, kept, first + n - kept, err);
}

/* Uses are in the order of an old version: by posting. */
static mn_status settle_postings(struct make *m, uint32_t n_old, mn_error *err)
{
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < n_old && st == MN_OK;) {
        uint32_t end = i, posting = ivf_use_part(&m->d.uses[i])->posting;
        while (end < n_old && ivf_use_part(&m->d.uses[end])->posting == posting)
            end++;
        st = settle_posting(m, i, end - i, err);
        i = end;
    }
    return st;
}

static uint64_t pack_rows(const struct ivf_pack *p)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < p->n_parts; i++)
        rows += p->parts[i].view.n;
    return rows;
}

/* Copies what is used of packs that are less than half in use, so that their space comes back. */
static mn_status copy_sparse_packs(struct make *m, uint32_t n_old, mn_error *err)
{
    struct mn_alloc *a = m->db->alloc;
    uint32_t objects = m->next_object; /* packs of the old version have lower numbers */
    uint64_t *used = mn_alloc_array(a, objects, sizeof *used, MN_TAG_SEARCH);
    if (!used)
        return make_no_memory(m, err);
    for (uint32_t i = 0; i < n_old; i++)
        if (m->d.uses[i].pack && m->d.uses[i].pack->object < objects)
            used[m->d.uses[i].pack->object] += ivf_use_part(&m->d.uses[i])->view.n;
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < n_old && st == MN_OK; i++) {
        const struct ivf_pack *p = m->d.uses[i].pack;
        if (p && p->object < objects && 2 * used[p->object] < pack_rows(p))
            st = merge_uses(m, i, 1, err);
    }
    mn_free(a, used);
    return st;
}

/* Removes uses that were dropped; returns how many of the first n are left. */
static uint32_t squeeze_uses(struct ivf_draft *d, uint32_t n)
{
    uint32_t kept = 0, left = 0;
    for (uint32_t i = 0; i < d->n_uses; i++) {
        if (d->uses[i].pack)
            d->uses[kept++] = d->uses[i];
        if (i < n)
            left = kept;
    }
    d->n_uses = kept;
    return left;
}

/* A draft that shares everything with `old`. */
static mn_status start_from(struct make *m, const struct ivf *old, mn_error *err)
{
    struct mn_alloc *a = m->db->alloc;
    m->d.tuning = old->tuning;
    m->d.at = old->at;
    m->d.published = old->published;
    m->d.generation = old->generation;
    m->d.ahead = old->ahead;
    m->d.drift = old->drift;
    m->d.n_slots = old->n_slots;
    m->uses_cap = old->n_uses + 64;
    m->heap_cap = old->n_heap + 64;
    m->d.uses = mn_alloc_array(a, m->uses_cap, sizeof *m->d.uses, MN_TAG_CACHE);
    m->d.heap = mn_alloc_array(a, m->heap_cap, sizeof *m->d.heap, MN_TAG_CACHE);
    if (!m->d.uses || !m->d.heap)
        return make_no_memory(m, err);
    for (; m->d.n_uses < old->n_uses; m->d.n_uses++) {
        struct ivf_use u = old->uses[m->d.n_uses];
        u.pack = ivf_pack_share(u.pack);
        if (u.hidden)
            atomic_fetch_add_explicit(&u.hidden->refs, 1, memory_order_relaxed);
        m->d.uses[m->d.n_uses] = u;
        if (u.pack->object >= m->next_object)
            m->next_object = u.pack->object + 1;
    }
    for (; m->d.n_heap < old->n_heap; m->d.n_heap++)
        m->d.heap[m->d.n_heap] = heap_block_share(old->heap[m->d.n_heap]);
    m->keep_heap = ivf_warm(old);
    m->send_away = old->n_away > 0;
    return MN_OK;
}

bool ivf_outgrown(const struct ivf *x)
{
    uint64_t used = 0; /* slots: where the last block is not in memory, a fold leaves its rest */
    for (uint32_t i = 0; i < x->n_heap; i++)
        used += x->heap[i]->n;
    return x->rows > GROWN * (uint64_t)x->core->built_rows || 4 * x->rows < x->core->built_rows ||
           used > 2 * (uint64_t)x->core->built_rows + 2 * x->rows || x->n_slots > UINT32_MAX / 2;
}

/* Rows of lost packs are in it from now on; what the sidecar lost is remembered until a publish. */
static mn_status keep_lost(struct make *m, const struct ivf *old, mn_error *err)
{
    m->d.lost = mn_alloc_array(m->db->alloc, old->n_lost, sizeof *m->d.lost, MN_TAG_CACHE);
    if (!m->d.lost)
        return make_no_memory(m, err);
    memcpy(m->d.lost, old->lost, old->n_lost * sizeof *m->d.lost);
    m->d.n_lost = old->n_lost;
    m->d.refilled = true;
    return MN_OK;
}

/* They find their vectors in the heap again. */
static mn_status find_slots(struct make *m, const struct ivf *old, struct fresh *f, mn_error *err)
{
    if (!heal_has_gaps(old) || !old->n_heap || f->n == 0)
        return MN_OK;
    f->slots = mn_alloc_array(m->db->alloc, f->n, sizeof *f->slots, MN_TAG_PENDING);
    if (!f->slots)
        return make_no_memory(m, err);
    return heal_find_slots(m->conn, old, m->sink, f->vectors, f->n, f->slots, err);
}

mn_status ivf_fold(mn_conn *conn, struct coll *c, const struct ivf *old, const int64_t *changed,
                   size_t n, const struct ivf_sink *sink, struct ivf **out, mn_error *err)
{
    struct ivf_sink memory = {.centroids = sink->centroids,
                              .reload = sink->reload,
                              .part = sink->part,
                              .pages = sink->pages,
                              .ctx = sink->ctx};
    struct make m;
    struct fresh f = {0};
    uint64_t hid = 0;
    *out = NULL;
    mn_status st = make_init(&m, conn, c, &memory, ivf_core_share(old->core), err);
    if (st == MN_OK)
        st = memory.centroids(memory.ctx, old->core, &m.centroids_buffer, &m.centroids, err);
    if (st == MN_OK)
        st = start_from(&m, old, err);
    m.d.ahead += n;
    m.d.drift += n;
    if (st == MN_OK && old->n_lost)
        st = keep_lost(&m, old, err);
    if (st == MN_OK)
        st = coll_head(conn, c, &m.d.at, err);
    size_t old_ids = 0; /* of the changed ones; ids above the greatest are new */
    while (old_ids < n && changed[old_ids] <= old->max_id)
        old_ids++;
    if (st == MN_OK)
        st = ivf_hide(m.db, &m.d, &memory, changed, old_ids, &hid, err);
    /* Slots of rows that are missing are not free, though no part names them. */
    if (st == MN_OK && n && !heal_has_gaps(old))
        st = make_refill(&m, err);
    if (st == MN_OK)
        st = read_fresh(&m, changed, n, &f, err);
    if (st == MN_OK)
        st = find_slots(&m, old, &f, err);
    if (st == MN_OK)
        st = add_fresh(&m, old, &f, err);
    if (st == MN_OK)
        st = make_finish(&m, out, err);
    if (st == MN_OK) { /* the sidecar's is still that one */
        (*out)->directory = old->directory;
        atomic_init(&(*out)->directory_lost,
                    atomic_load_explicit(&old->directory_lost, memory_order_relaxed));
    }
    fresh_fini(m.db->alloc, &f);
    make_fini(&m);
    return st;
}

/* ---- Settling -------------------------------------------------------------------------------- */

/* A block with the same place in the sidecar, without the vectors in memory. NULL: no memory. */
static struct heap_block *block_without_pages(mn_db *db, const struct heap_block *b)
{
    const uint32_t *crcs = atomic_load_explicit(&b->crcs, memory_order_acquire);
    struct heap_block *out = heap_block_create(db, b->vector_bytes, b->n, NULL);
    if (out)
        out->ref = b->ref;
    if (out && crcs && !heap_block_set_crcs(db, out, crcs, heap_pages(b->vector_bytes, b->n))) {
        heap_block_release(db, out);
        out = NULL;
    }
    return out;
}

/* Writes the heap blocks that the sidecar does not have. A block whose extent is younger than the
 * version was written for a publish that failed. */
static mn_status settle_heap(struct make *m, mn_error *err)
{
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < m->d.n_heap && st == MN_OK; i++) {
        struct heap_block *b = m->d.heap[i];
        if (b->ref.n_blocks && b->ref.generation <= m->d.generation)
            continue;
        st = m->sink->block(m->sink->ctx, i, b, err);
        if (st || m->keep_heap)
            continue;
        struct heap_block *without = block_without_pages(m->db, b);
        if (!without)
            return make_no_memory(m, err);
        heap_block_release(m->db, b);
        m->d.heap[i] = without;
    }
    return st;
}

/* Every step-th id. */
struct drawing {
    const struct ivf *x;
    uint64_t step, seen;
    int64_t *ids; /* [n] */
    size_t n;
};

static mn_status draw_ids(void *ctx, uint32_t use, const struct ivf_part *part, mn_error *err)
{
    struct drawing *d = ctx;
    (void)err;
    for (uint32_t row = 0; row < part->view.n; row++)
        if (!ivf_hides(&d->x->uses[use], row) && d->seen++ % d->step == 0)
            d->ids[d->n++] = posting_id(&part->view, row);
    return MN_OK;
}

/* Finds the knobs for each recall anew, by searches for rows of the index, which nobody else sees
 * yet. */
static mn_status recalibrate(mn_conn *conn, struct coll *c, const struct ivf_sink *sink,
                             struct ivf *x, mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    struct sample *s = NULL;
    struct drawing d = {.x = x, .step = x->rows / DRAWN + 1};
    if (x->rows == 0)
        return MN_OK;
    d.ids = mn_alloc_array(a, DRAWN + 1, sizeof *d.ids, MN_TAG_SEARCH);
    if (!d.ids)
        return mn_fail(err, MN_NOMEM, "index of '%s': out of memory under the cap", c->entry.name);
    mn_status st = ivf_walk(conn->db, x->core, x->uses, x->n_uses, sink, draw_ids, &d, err);
    struct sample_ids from = {.ids = d.ids, .n = d.n, .rows = x->rows};
    if (st == MN_OK)
        st = sample_create(conn, c, x->core, &from, &s, err);
    if (st == MN_OK)
        st = sample_scan(s, err);
    if (st == MN_OK)
        st = sample_calibrate(s, x, err);
    if (st == MN_OK)
        x->drift = 0;
    sample_destroy(s);
    mn_free(a, d.ids);
    return st;
}

mn_status ivf_settle(mn_conn *conn, struct coll *c, const struct ivf *x,
                     const struct ivf_sink *sink, struct ivf **out, mn_error *err)
{
    struct make m;
    uint64_t moved = 0;
    *out = NULL;
    mn_status st = make_init(&m, conn, c, sink, ivf_core_share(x->core), err);
    if (st == MN_OK)
        st = sink->centroids(sink->ctx, x->core, &m.centroids_buffer, &m.centroids, err);
    if (st == MN_OK)
        st = start_from(&m, x, err);
    if (st == MN_OK)
        st = heal_packs(m.db, &m.d, sink, &m.next_object, err);
    if (st == MN_OK)
        st = heal_blocks(conn, c, &m.d, sink, err);
    if (st == MN_OK)
        st = ivf_regroup(&m, x, &moved, err);
    m.d.drift += moved;
    uint32_t n_old = squeeze_uses(&m.d, x->n_uses);
    if (st == MN_OK)
        st = settle_postings(&m, n_old, err);
    if (st == MN_OK)
        st = copy_sparse_packs(&m, n_old, err);
    squeeze_uses(&m.d, 0);
    if (st == MN_OK)
        st = settle_heap(&m, err);
    if (st == MN_OK)
        st = make_finish(&m, out, err);
    make_fini(&m);
    if (st == MN_OK && (*out)->drift > (*out)->rows / DRIFT_SHARE)
        st = recalibrate(conn, c, sink, *out, err);
    if (st) {
        ivf_release(conn->db, *out);
        *out = NULL;
    }
    return st;
}
