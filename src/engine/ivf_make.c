/*
 * Building: ids of all rows in order; clustering; then posting by posting, each row's vector into
 * the heap and its code into a part. So the heap lies in posting order, and neighbours share pages.
 * Where memory has room for all vectors they are read once more in order and put where they belong
 * (ivf_gather.h); else posting by posting, each row by its id, which costs five times as much.
 * What follows from changes of the rows later is in ivf_fold.c.
 *
 * Calibration: some rows are searched for, and the true answers are known (ivf_sample.h); that
 * gives the knob for each recall (index/calibrate.h).
 */
#include "src/engine/ivf_maker.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "index/cluster.h"
#include "index/scan.h"
#include "src/engine/cache.h"
#include "src/engine/ivf_away.h"
#include "src/engine/ivf_gather.h"
#include "src/engine/ivf_sample.h"
#include "storage/sql.h"

enum {
    PACK_SHARE = 64,          /* part of the cap that a pack may take, within these bounds: while it
                                 is made it is there twice */
    PACK_LEAST_BYTES = 64 << 10,
    REFILL_SHARE = 2, /* free slots of the heap are filled again from this part of the rows on */
    CLUSTER_SHARE = 4,        /* part of the cap that clustering may take */
    SPARE_BYTES = 3 << 20,    /* or a 16th of the cap: for packs and extents being written, an
                                 encoder, the sample that calibration needs */
    CHUNK_ROWS = 256,         /* rows fetched and coded at once */
    CHUNK_BYTES = 256 << 10,
    SKIP = 16 /* rows that a cursor steps over rather than seek anew */
};

/* ---- Making packs and blocks ----------------------------------------------------------------- */

mn_status make_no_memory(const struct make *m, mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "index of '%s': out of memory under the cap; raise memory",
                   m->c->entry.name);
}

void make_fini(struct make *m)
{
    struct mn_alloc *a = m->db->alloc;
    pack_writer_fini(&m->writer);
    posting_encoder_destroy(a, m->encoder);
    mn_free(a, m->slots);
    mn_free(a, m->wide);
    mn_free(a, m->centroids_buffer);
    mn_free(a, m->live);
    mn_free(a, m->refill);
    ivf_draft_fini(m->db, &m->d);
}

/* Takes core over. */
mn_status make_init(struct make *m, mn_conn *conn, struct coll *c, const struct ivf_sink *sink,
                    struct ivf_core *core, mn_error *err)
{
    *m = (struct make){.conn = conn, .db = conn->db, .c = c, .sink = sink};
    m->writer.db = conn->db;
    m->d.core = core;
    m->wide = mn_alloc_array(m->db->alloc, core->entry.dim, sizeof *m->wide, MN_TAG_SEARCH);
    return m->wide ? MN_OK : make_no_memory(m, err);
}

/* Room for the slots of so many rows; those that stand there go. */
static bool make_slots(struct make *m, size_t rows)
{
    if (rows <= m->slots_cap)
        return true;
    mn_free(m->db->alloc, m->slots);
    m->slots = mn_alloc_array(m->db->alloc, rows + rows / 2, sizeof *m->slots, MN_TAG_SEARCH);
    m->slots_cap = m->slots ? rows + rows / 2 : 0;
    return m->slots != NULL;
}

/* Room for a posting of so many rows. */
mn_status make_room(struct make *m, size_t rows, mn_error *err)
{
    if (m->encoder && rows <= m->encoder_rows)
        return MN_OK;
    size_t cap = rows + rows / 2 + 256;
    posting_encoder_destroy(m->db->alloc, m->encoder);
    m->encoder = NULL;
    if (!make_slots(m, cap))
        return make_no_memory(m, err);
    m->encoder_rows = cap;
    return posting_encoder_create(m->db->alloc, m->d.core->rabitq, cap, &m->encoder, err);
}

static bool grow(struct make *m, void **array, uint32_t *cap, uint32_t n, size_t each)
{
    if (n < *cap)
        return true;
    uint32_t more = *cap ? 2 * *cap : 64;
    while (more <= n)
        more *= 2;
    void *p = mn_realloc(m->db->alloc, *array, more * each, MN_TAG_CACHE);
    if (!p)
        return false;
    *array = p;
    *cap = more;
    return true;
}

/* The block being filled is full, or the last: to the sink, and out of memory if there is no room
 * for vectors. */
static mn_status close_block(struct make *m, mn_error *err)
{
    struct heap_block *b = m->open;
    mn_status st = MN_OK;
    m->open = NULL;
    if (!b)
        return MN_OK;
    if (m->sink->block)
        st = m->sink->block(m->sink->ctx, m->d.n_heap - 1, b, err);
    if (st == MN_OK && m->sink->block && !m->keep_heap) {
        char *pages = atomic_exchange(&b->pages, NULL); /* nobody else sees the block yet */
        mn_free(m->db->alloc, pages);
    }
    return st;
}

/* A block to append to: the open one, a copy of the last if it has room, or a new one. */
static mn_status open_block(struct make *m, mn_error *err)
{
    uint32_t rows = heap_block_rows(m->c->vector_bytes);
    struct heap_block *last = NULL;
    const char *last_pages = NULL;
    if (m->open && m->open->n < rows)
        return MN_OK;
    mn_status st = close_block(m, err);
    if (st)
        return st;
    if (m->d.n_heap && m->d.n_slots % rows)
        last = m->d.heap[m->d.n_heap - 1];
    if (last)
        last_pages = atomic_load_explicit(&last->pages, memory_order_acquire);
    if (last && !last_pages) /* its vectors are not here: leave its rest unused */
        m->d.n_slots = m->d.n_heap * rows;
    if (last && !last_pages)
        last = NULL;
    size_t bytes = (size_t)HEAP_BLOCK_PAGES * HEAP_PAGE;
    char *pages = mn_alloc(m->db->alloc, bytes, MN_TAG_CACHE);
    if (!pages)
        return make_no_memory(m, err);
    if (last)
        memcpy(pages, last_pages, bytes);
    else
        memset(pages, 0, bytes);
    struct heap_block *b = heap_block_create(m->db, m->c->vector_bytes, last ? last->n : 0, pages);
    if (!b ||
        (!last && !grow(m, (void **)&m->d.heap, &m->heap_cap, m->d.n_heap, sizeof *m->d.heap))) {
        heap_block_release(m->db, b);
        return make_no_memory(m, err);
    }
    if (last) { /* a lost one is healed when it is settled */
        atomic_init(&b->lost, atomic_load_explicit(&last->lost, memory_order_relaxed));
        heap_block_release(m->db, last);
        m->d.heap[m->d.n_heap - 1] = b;
    } else {
        m->d.heap[m->d.n_heap++] = b;
    }
    m->open = b;
    return MN_OK;
}

/* Free slots of a block. */
static uint32_t free_slots(const struct make *m, uint32_t block, uint32_t rows)
{
    uint32_t n = 0;
    for (uint32_t row = 0; row < m->d.heap[block]->n; row++) {
        size_t slot = (size_t)block * rows + row;
        n += !(m->live[slot / 64] >> (slot % 64) & 1);
    }
    return n;
}

/* Whether the block must be written anyway. */
static bool is_dirty(const struct make *m, uint32_t block)
{
    const struct extent_ref *ref = &m->d.heap[block]->ref;
    return ref->n_blocks == 0 || ref->generation > m->d.generation;
}

static void mark_live(struct make *m)
{
    for (uint32_t i = 0; i < m->d.n_uses; i++) {
        const struct ivf_use *u = &m->d.uses[i];
        const struct ivf_part *p = ivf_use_part(u);
        for (uint32_t row = 0; row < p->view.n; row++) {
            uint32_t slot = ivf_slot(p, row);
            if (!ivf_hides(u, row) && slot < m->d.n_slots)
                m->live[slot / 64] |= (uint64_t)1 << (slot % 64);
        }
    }
}

mn_status make_refill(struct make *m, mn_error *err)
{
    uint32_t rows = heap_block_rows(m->c->vector_bytes);
    uint64_t used = 0, live = 0;
    for (uint32_t i = 0; i < m->d.n_heap; i++)
        used += m->d.heap[i]->n;
    for (uint32_t i = 0; i < m->d.n_uses; i++)
        live += ivf_use_live(&m->d.uses[i]);
    if (used <= live + live / REFILL_SHARE + 2 * (uint64_t)rows || m->send_away)
        return MN_OK; /* where codes are away, so are vectors: there is no block to fill */
    struct mn_alloc *a = m->db->alloc;
    m->live = mn_alloc_array(a, m->d.n_slots / 64 + 1, sizeof *m->live, MN_TAG_SEARCH);
    m->refill = mn_alloc_array(a, m->d.n_heap, sizeof *m->refill, MN_TAG_SEARCH);
    if (!m->live || !m->refill)
        return make_no_memory(m, err);
    mark_live(m);
    /* Those that are to be written first, then those that are half free or more. */
    for (int clean = 0; clean < 2; clean++)
        for (uint32_t i = 0; i < m->d.n_heap; i++)
            if (is_dirty(m, i) == !clean && atomic_load(&m->d.heap[i]->pages) &&
                free_slots(m, i, rows) * 2 >= (clean ? m->d.heap[i]->n : 1))
                m->refill[m->n_refill++] = i;
    return MN_OK;
}

/* A copy of a block in its place in the draft. */
static mn_status copy_block(struct make *m, uint32_t number, struct heap_block **out,
                            mn_error *err)
{
    struct heap_block *b = m->d.heap[number];
    size_t bytes = (size_t)HEAP_BLOCK_PAGES * HEAP_PAGE;
    char *pages = mn_alloc(m->db->alloc, bytes, MN_TAG_CACHE);
    *out = NULL;
    if (!pages)
        return make_no_memory(m, err);
    memcpy(pages, atomic_load_explicit(&b->pages, memory_order_acquire), bytes);
    *out = heap_block_create(m->db, b->vector_bytes, b->n, pages);
    if (!*out)
        return make_no_memory(m, err);
    atomic_init(&(*out)->lost, atomic_load_explicit(&b->lost, memory_order_relaxed));
    heap_block_release(m->db, b);
    m->d.heap[number] = *out;
    return MN_OK;
}

/* A free slot in a block that is filled again, and where its vector goes; *to NULL: none left. */
static mn_status free_slot(struct make *m, uint32_t *slot, char **to, mn_error *err)
{
    uint32_t rows = heap_block_rows(m->c->vector_bytes);
    *to = NULL;
    for (; m->refill_at < m->n_refill; m->refill_at++, m->refill_row = 0, m->refilling = NULL) {
        uint32_t number = m->refill[m->refill_at];
        mn_status st = m->refilling ? MN_OK : copy_block(m, number, &m->refilling, err);
        if (st)
            return st;
        for (; m->refill_row < m->refilling->n; m->refill_row++) {
            size_t at = (size_t)number * rows + m->refill_row;
            if (m->live[at / 64] >> (at % 64) & 1)
                continue;
            m->live[at / 64] |= (uint64_t)1 << (at % 64);
            *slot = (uint32_t)at;
            *to = atomic_load_explicit(&m->refilling->pages, memory_order_relaxed) +
                  heap_offset(m->c->vector_bytes, m->refill_row);
            return MN_OK;
        }
    }
    return MN_OK;
}

/* Without a copy of the vectors slots mean nothing. */
static mn_status heap_append(struct make *m, const void *vector, uint32_t *slot, mn_error *err)
{
    size_t bytes = m->c->vector_bytes;
    char *to = NULL;
    *slot = 0;
    if (m->c->entry.rerank != MN_RERANK_COPY)
        return MN_OK;
    mn_status st = m->live ? free_slot(m, slot, &to, err) : MN_OK;
    if (st == MN_OK && to) {
        memcpy(to, vector, bytes);
        return MN_OK;
    }
    if (st == MN_OK)
        st = open_block(m, err);
    if (st)
        return st;
    char *pages = atomic_load_explicit(&m->open->pages, memory_order_relaxed);
    memcpy(pages + heap_offset(bytes, m->open->n), vector, bytes);
    m->open->n++;
    *slot = m->d.n_slots++;
    return MN_OK;
}

static mn_status use_pack(struct make *m, struct ivf_pack *pack, mn_error *err)
{
    for (uint32_t i = 0; i < pack->n_parts; i++) {
        if (!grow(m, (void **)&m->d.uses, &m->uses_cap, m->d.n_uses, sizeof *m->d.uses))
            return make_no_memory(m, err);
        m->d.uses[m->d.n_uses++] = (struct ivf_use){.pack = ivf_pack_share(pack), .index = i};
    }
    return MN_OK;
}

/* The pack being written becomes one, and its parts are used; it may go away once it is written. */
static mn_status close_pack(struct make *m, mn_error *err)
{
    struct ivf_bytes bytes;
    struct ivf_pack *pack = NULL;
    if (m->writer.n == 0)
        return MN_OK;
    mn_status st = pack_finish(&m->writer, &bytes, err);
    if (st == MN_OK)
        st = ivf_pack_open(m->db, m->d.core, m->next_object, &bytes, &pack, err);
    if (st == MN_OK && m->sink->pack)
        st = m->sink->pack(m->sink->ctx, pack, err);
    if (st == MN_OK && m->sink->pack && m->send_away) {
        struct ivf_pack *here = pack;
        st = ivf_send_away(m->db, here, &pack, err);
        ivf_pack_release(m->db, here);
    }
    if (st == MN_OK)
        st = use_pack(m, pack, err);
    ivf_pack_release(m->db, pack);
    m->next_object++;
    return st;
}

/* Reads packs that were sent away back. Uses of a pack follow each other. */
static mn_status call_back(struct make *m, mn_error *err)
{
    struct ivf_pack *away = NULL, *here = NULL; /* the last that was read */
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < m->d.n_uses && st == MN_OK; i++) {
        struct ivf_use *u = &m->d.uses[i];
        if (!u->pack->away)
            continue;
        if (u->pack != away) {
            ivf_pack_release(m->db, away);
            ivf_pack_release(m->db, here);
            here = NULL;
            away = ivf_pack_share(u->pack);
            st = m->sink->reload(m->sink->ctx, m->d.core, away, &here, err);
        }
        if (st == MN_OK) {
            ivf_pack_release(m->db, u->pack);
            u->pack = ivf_pack_share(here);
        }
    }
    ivf_pack_release(m->db, away);
    ivf_pack_release(m->db, here);
    return st;
}

void make_part(struct make *m, uint32_t posting)
{
    posting_begin(m->encoder, m->centroids + (size_t)posting * m->c->entry.dim);
    m->n_slots = 0;
}

/* Codes rows of the posting begun: vectors of the collection's dtype. A row without a direction is
 * no row of the index. */
mn_status make_rows(struct make *m, const char *vectors, const int64_t *ids, size_t n,
                    mn_error *err)
{
    mn_status st = MN_OK;
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        const char *v = vectors + i * m->c->vector_bytes;
        if (!ivf_widen(m->d.core, m->db->kernels, v, m->wide))
            continue;
        st = heap_append(m, v, &m->slots[m->n_slots], err);
        if (st == MN_OK)
            st = posting_add(m->encoder, m->wide, &ids[i], 1, err);
        m->n_slots++;
    }
    return st;
}

mn_status make_placed(struct make *m, const float *wide, int64_t id, uint32_t slot, mn_error *err)
{
    m->slots[m->n_slots++] = slot;
    return posting_add(m->encoder, wide, &id, 1, err);
}

static size_t pack_most(const mn_db *db)
{
    uint64_t most = mn_alloc_cap(db->alloc) / PACK_SHARE;
    most = most < PACK_LEAST_BYTES ? PACK_LEAST_BYTES : most;
    return most < PACK_MAX_BYTES ? (size_t)most : PACK_MAX_BYTES;
}

static mn_status close_part(struct make *m, uint32_t posting, const struct posting_encoder *e,
                            mn_error *err)
{
    mn_status st = MN_OK;
    if (m->n_slots == 0)
        return MN_OK;
    if (m->writer.n && pack_bytes_with(&m->writer, e) > pack_most(m->db))
        st = close_pack(m, err);
    const uint32_t *slots = m->c->entry.rerank == MN_RERANK_COPY ? m->slots : NULL;
    return st ? st : pack_add(&m->writer, posting, e, slots, err);
}

mn_status make_part_end(struct make *m, uint32_t posting, mn_error *err)
{
    return close_part(m, posting, m->encoder, err);
}

mn_status make_finish(struct make *m, struct ivf **out, mn_error *err)
{
    mn_status st = close_pack(m, err);
    if (st == MN_OK)
        st = close_block(m, err);
    /* Room for packs that are read back. */
    posting_encoder_destroy(m->db->alloc, m->encoder);
    mn_free(m->db->alloc, m->centroids_buffer);
    m->encoder = NULL;
    m->centroids = m->centroids_buffer = NULL;
    if (st == MN_OK && m->send_away && m->sink->settle)
        st = m->sink->settle(m->sink->ctx, err);
    if (st == MN_OK && m->send_away && m->call_back)
        st = call_back(m, err);
    return st ? st : ivf_create(m->db, &m->d, out, err);
}

/* ---- The snapshot's rows --------------------------------------------------------------------- */

/* Rows by ordinal: a cursor over the table that seeks when asked for a far row. */
struct rows {
    mn_conn *conn;
    struct coll *c;
    sqlite3_stmt *st; /* id, vector WHERE id >= ?1 ORDER BY id */
    int64_t *ids;     /* [n] ascending; freed when no more rows are wanted by ordinal */
    size_t n;
    size_t at;                   /* ordinal that st stands on; n: nowhere */
    const void *vector;          /* its vector, until st moves */
    const struct ivf_core *core; /* for widening; may be a stand-in */
    char *buffer;                /* [chunk] vectors */
    size_t chunk;                /* CHUNK_ROWS, or fewer of very many elements */
    bool normalise;
};

static mn_status rows_changed(const struct rows *r, int64_t id, mn_error *err)
{
    return mn_fail(err, MN_CORRUPT, "index of '%s': row %" PRId64 " went missing within a snapshot",
                   r->c->entry.name, id);
}

static mn_status rows_seek(struct rows *r, size_t ordinal, mn_error *err)
{
    bool row = true;
    struct row_vector v = {0};
    mn_status st = MN_OK;
    if (r->at >= r->n || ordinal < r->at || ordinal - r->at > SKIP) {
        sqlite3_reset(r->st);
        sqlite3_bind_int64(r->st, 1, r->ids[ordinal]);
        st = sql_step(r->st, &row, err);
    } else {
        while (st == MN_OK && row && sqlite3_column_int64(r->st, 0) < r->ids[ordinal])
            st = sql_step(r->st, &row, err);
    }
    r->at = st == MN_OK && row ? ordinal : r->n;
    if (st == MN_OK && row)
        row_vector_at(r->conn->db, r->c, r->st, 1, &v);
    r->vector = v.bytes;
    if (st == MN_OK && (!v.bytes || sqlite3_column_int64(r->st, 0) != r->ids[ordinal]))
        st = rows_changed(r, r->ids[ordinal], err);
    return st;
}

/* Vectors of n rows, ordinals ascending, as they are. */
static mn_status rows_raw(struct rows *r, const uint32_t *ordinals, size_t n, char *out,
                          mn_error *err)
{
    mn_status st = MN_OK;
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        st = rows_seek(r, ordinals[i], err);
        if (st == MN_OK)
            memcpy(out + i * r->c->vector_bytes, r->vector, r->c->vector_bytes);
        if (st == MN_OK && i % 1024 == 1023)
            st = conn_tick(r->conn, err);
    }
    return st;
}

/* The same as f32, as the index sees them: the clustering's source. */
static mn_status rows_fetch(void *ctx, const uint32_t *ordinals, size_t n, float *out,
                            mn_error *err)
{
    struct rows *r = ctx;
    mn_status st = MN_OK;
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        st = rows_seek(r, ordinals[i], err);
        if (st == MN_OK)
            ivf_widen(r->core, r->conn->db->kernels, r->vector,
                      out + i * r->c->entry.dim);
        if (st == MN_OK && i % 1024 == 1023)
            st = conn_tick(r->conn, err);
    }
    return st;
}

/* Ids of all rows that can stand in the index. *ids for mn_free. */
static mn_status list_rows(mn_conn *conn, struct coll *c, const struct ivf_core *like,
                           int64_t **ids, size_t *n, mn_error *err)
{
    sqlite3_stmt *st;
    struct mn_alloc *a = conn->db->alloc;
    size_t cap = 0;
    bool row = false;
    float *wide = mn_alloc(a, c->entry.dim * sizeof *wide, MN_TAG_SEARCH);
    mn_status status = wide ? coll_stmt(conn, c, STMT_SCAN, &st, err)
                            : mn_fail(err, MN_NOMEM, "index: out of memory under the cap");
    *ids = NULL;
    *n = 0;
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        if (*n == cap) {
            cap = cap ? 2 * cap : 4096;
            int64_t *more = mn_realloc(a, *ids, cap * sizeof *more, MN_TAG_SEARCH);
            if (!more) {
                status = mn_fail(err, MN_NOMEM, "index: out of memory under the cap");
                break;
            }
            *ids = more;
        }
        float norm = 0;
        struct row_vector v;
        row_vector_at(conn->db, c, st, 1, &v);
        if (!v.bytes)
            continue;
        scan_norms(conn->db->kernels, c->entry.dtype, c->entry.dim, v.bytes, 1, &norm);
        if (norm - norm != 0 || !ivf_widen(like, conn->db->kernels, v.bytes, wide))
            continue;
        (*ids)[(*n)++] = sqlite3_column_int64(st, 0);
        if (*n % 4096 == 0)
            status = conn_tick(conn, err);
    }
    if (wide && st)
        sqlite3_reset(st);
    mn_free(a, wide);
    return status;
}

/* ---- Building -------------------------------------------------------------------------------- */

static mn_status cluster_tick(void *ctx, uint64_t done, uint64_t total, mn_error *err)
{
    mn_conn *conn = ctx;
    conn->done = done;
    conn->total = total;
    return conn_tick(conn, err);
}

/* Ordinals by posting, and within one ascending; first [k + 1]. */
static void order_by_posting(const struct clusters *cl, size_t n, uint32_t *order, uint32_t *first)
{
    memset(first, 0, ((size_t)cl->k + 1) * sizeof *first);
    for (size_t i = 0; i < n; i++)
        first[cl->of[i] + 1]++;
    for (uint32_t j = 0; j < cl->k; j++)
        first[j + 1] += first[j];
    for (size_t i = 0; i < n; i++)
        order[first[cl->of[i]]++] = (uint32_t)i;
    for (uint32_t j = cl->k; j > 0; j--)
        first[j] = first[j - 1];
    first[0] = 0;
}

static mn_status build_posting(struct make *m, struct rows *r, uint32_t posting,
                               const uint32_t *ordinals, size_t n, mn_error *err)
{
    int64_t ids[CHUNK_ROWS];
    mn_status st = make_room(m, n, err);
    if (st)
        return st;
    make_part(m, posting);
    for (size_t first = 0; first < n && st == MN_OK; first += r->chunk) {
        size_t count = n - first < r->chunk ? n - first : r->chunk;
        for (size_t i = 0; i < count; i++)
            ids[i] = r->ids[ordinals[first + i]];
        st = rows_raw(r, ordinals + first, count, r->buffer, err);
        if (st == MN_OK)
            st = make_rows(m, r->buffer, ids, count, err);
    }
    return st ? st : make_part_end(m, posting, err);
}

/* Each vector to its place, in the order of rows; first [k + 1]. */
static mn_status gather_vectors(struct make *m, struct rows *r, const struct clusters *cl,
                                const uint32_t *first, struct gathered *g, mn_error *err)
{
    uint32_t *next = mn_alloc_array(m->db->alloc, cl->k, sizeof *next, MN_TAG_SEARCH);
    mn_status st = next ? MN_OK : make_no_memory(m, err);
    if (next)
        memcpy(next, first, cl->k * sizeof *next);
    for (size_t i = 0; i < r->n && st == MN_OK; i++) {
        st = rows_seek(r, i, err);
        if (st == MN_OK)
            memcpy(gathered_at(g, next[cl->of[i]]++), r->vector,
                   g->vector_bytes);
        if (st == MN_OK && i % 1024 == 1023)
            st = conn_tick(m->conn, err);
    }
    mn_free(m->db->alloc, next);
    return st;
}

/* The gathered vectors become the heap. */
static mn_status heap_from(struct make *m, struct gathered *g, mn_error *err)
{
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < g->n_blocks && st == MN_OK; i++) {
        if (!grow(m, (void **)&m->d.heap, &m->heap_cap, m->d.n_heap, sizeof *m->d.heap))
            return make_no_memory(m, err);
        g->given++; /* taken over even if that fails */
        struct heap_block *b = heap_block_create(m->db, g->vector_bytes,
                                                 gathered_block_rows(g, i), g->blocks[i]);
        if (!b)
            return make_no_memory(m, err);
        m->d.heap[m->d.n_heap++] = b;
        if (m->sink->block)
            st = m->sink->block(m->sink->ctx, i, b, err);
        if (st == MN_OK)
            st = conn_tick(m->conn, err);
    }
    m->d.n_slots = (uint32_t)g->n;
    return st;
}

struct coded {
    struct make *m;
    const uint32_t *first; /* [k + 1] places */
};

static mn_status take_coded(void *ctx, uint32_t posting, const struct posting_encoder *e,
                            mn_error *err)
{
    struct coded *c = ctx;
    struct make *m = c->m;
    m->n_slots = posting_encoded_rows(e);
    if (!make_slots(m, m->n_slots))
        return make_no_memory(m, err);
    for (size_t i = 0; i < m->n_slots; i++)
        m->slots[i] = c->first[posting] + (uint32_t)i;
    mn_status st = close_part(m, posting, e, err);
    m->conn->done = c->first[posting + 1];
    return st ? st : conn_tick(m->conn, err);
}

static mn_status build_gathered(struct make *m, struct rows *r, const struct clusters *cl,
                                const uint32_t *order, const uint32_t *first, struct gathered *g,
                                mn_error *err)
{
    struct parallel parallel = db_parallel(m->db);
    struct coded coded = {m, first};
    struct coding c = {.core = m->d.core,
                       .centroids = m->centroids,
                       .vectors = g,
                       .ids = r->ids,
                       .order = order,
                       .first = first,
                       .parallel = &parallel,
                       .done = take_coded,
                       .ctx = &coded};
    mn_status st = gather_vectors(m, r, cl, first, g, err);
    if (st == MN_OK && m->c->entry.rerank == MN_RERANK_COPY)
        st = heap_from(m, g, err);
    return st ? st : code_postings(&c, err);
}

static mn_status build_postings(struct make *m, struct rows *r, const struct clusters *cl,
                                mn_error *err)
{
    struct mn_alloc *a = m->db->alloc;
    struct gathered g = {0};
    uint32_t *order = mn_alloc_array(a, r->n, sizeof *order, MN_TAG_SEARCH);
    uint32_t *first = mn_alloc_array(a, (size_t)cl->k + 1, sizeof *first, MN_TAG_SEARCH);
    mn_status st = order && first ? MN_OK : make_no_memory(m, err);
    if (st == MN_OK)
        order_by_posting(cl, r->n, order, first);
    m->conn->total = r->n;
    if (st == MN_OK && m->keep_heap)
        m->keep_heap = gathered_init(&g, m->db, m->c->vector_bytes, r->n, NULL) == MN_OK;
    if (st == MN_OK && m->keep_heap)
        st = build_gathered(m, r, cl, order, first, &g, err);
    for (uint32_t j = 0; j < cl->k && st == MN_OK && !m->keep_heap; j++) {
        m->conn->done = first[j];
        st = build_posting(m, r, j, order + first[j], first[j + 1] - first[j], err);
        if (st == MN_OK)
            st = conn_tick(m->conn, err);
    }
    gathered_fini(&g);
    mn_free(a, order);
    mn_free(a, first);
    return st;
}

/* The mean of the centroids, by their sizes. */
static void mean_of(const struct clusters *cl, size_t n, float *mean)
{
    for (uint32_t z = 0; z < cl->dim; z++) {
        double sum = 0;
        for (uint32_t j = 0; j < cl->k; j++)
            sum += (double)cl->centroids[(size_t)j * cl->dim + z] * cl->sizes[j];
        mean[z] = (float)(sum / (double)n);
    }
}

/* Bytes of memory that an index of n rows takes without vectors, about: the last block of a posting
 * is half empty, and each posting has its description several times. */
static double code_bytes(const mn_db *db, uint32_t dim, uint32_t bits, const int64_t *ids, size_t n)
{
    uint32_t lists = cluster_count(n, dim);
    uint32_t id_bits = posting_id_bits(ids[0], ids[n - 1]);
    double many = 3200; /* to spread what a payload has but once */
    double row = (double)posting_bytes(dim, bits, id_bits, (size_t)many) / many;
    double half_block = POSTING_BLOCK / 2 * (posting_pairs(dim) + 4.0);
    double posting = POSTING_HEADER + CODE_GUARD + sizeof(struct ivf_part) +
                     sizeof(struct ivf_use) + sizeof(struct ann_part) + 64;
    /* large packs fill huge pages but for that (ivf_pack_memory) */
    double huge = pack_most(db) < PACK_MAX_BYTES ? 1 : 1 + 1.0 / 64;
    return huge * row * (double)n + (half_block + posting) * lists +
           (double)centroids_bytes_of(lists, dim);
}

/* A sixteenth of the cap, and 2 MiB at least, is left to searches and writers. */
static double room_for_codes(const mn_db *db)
{
    double cap = (double)mn_alloc_cap(db->alloc);
    return cap - fmax(cap / 16, 2 << 20);
}

/* Bits of a code: as many as were asked for. Where nobody asked, one less if that makes all codes
 * fit; with fewer, estimates would cost more reads than codes that are read. */
static uint32_t bits_for(const mn_db *db, const struct catalog_entry *e, const int64_t *ids,
                         size_t n)
{
    double room = room_for_codes(db);
    if (e->bits)
        return e->bits;
    bool fewer = code_bytes(db, e->dim, IVF_BITS, ids, n) > room &&
                 code_bytes(db, e->dim, IVF_BITS - 1, ids, n) <= room;
    return IVF_BITS - fewer;
}

/* The least that an index of n rows takes in memory, with all codes in the sidecar: the centroids,
 * also as they are while it is made, and what describes its postings. */
static double least_bytes(uint32_t dim, size_t n)
{
    uint32_t lists = cluster_count(n, dim);
    double posting = sizeof(struct ivf_part) + sizeof(struct ivf_use) + sizeof(struct ann_part) +
                     sizeof(struct ivf_away) + 64;
    return (posting + (double)dim * sizeof(float)) * lists + (double)centroids_bytes_of(lists, dim);
}

static mn_status make_core(mn_conn *conn, struct coll *c, const struct clusters *cl,
                           const struct rows *r, struct ivf_core **out, mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    float *origin = mn_alloc(a, c->entry.dim * sizeof *origin, MN_TAG_SEARCH);
    if (!origin)
        return mn_fail(err, MN_NOMEM, "index: out of memory under the cap");
    mean_of(cl, r->n, origin);
    struct ivf_core_spec spec = {.entry = &c->entry,
                                 .centroids = cl->centroids,
                                 .n_lists = cl->k,
                                 .seed = 0x6d6e656d65u + (uint64_t)c->entry.number,
                                 .origin = origin,
                                 .bits = bits_for(conn->db, &c->entry, r->ids, r->n),
                                 .built_rows = r->n};
    mn_status st = ivf_core_create(conn->db, &spec, out, err);
    mn_free(a, origin);
    return st;
}

/* What stays in memory beside what there is by now. Where memory is short, vectors stay in the
 * sidecar, and codes come back when ids and order of the rows are gone. */
static void plan_memory(struct make *m, const struct rows *r)
{
    const struct mn_alloc *a = m->db->alloc;
    double cap = (double)mn_alloc_cap(a), room = cap - (double)mn_alloc_used(a);
    double blocks = ceil((double)r->n / heap_block_rows(m->c->vector_bytes));
    double heap = blocks * HEAP_BLOCK_PAGES * (HEAP_PAGE + 16);
    double codes = code_bytes(m->db, m->c->entry.dim, m->d.core->rabitq->bits, r->ids, r->n);
    double order = sizeof(uint32_t) * ((double)r->n + m->d.core->n_lists);
    bool cold = m->db->limits.cold;
    room -= order + fmax(cap / 16, SPARE_BYTES);
    m->keep_heap = !cold && codes + heap <= room;
    m->send_away = m->sink->reload && (cold || m->db->limits.away || codes > room);
    m->call_back = !m->db->limits.away && codes <= room_for_codes(m->db);
}

/* Makes the first version from what clustering found; *m stands ready. */
static mn_status build_version(struct make *m, struct rows *r, struct clusters *cl,
                               struct ivf **out, mn_error *err)
{
    struct mn_alloc *a = m->db->alloc;
    struct sample *s = NULL;
    m->next_object = 1;
    plan_memory(m, r);
    struct sample_ids ids = {.ids = r->ids, .n = r->n, .rows = r->n};
    mn_status st = coll_head(m->conn, m->c, &m->d.at, err);
    if (st == MN_OK)
        st = build_postings(m, r, cl, err);
    clusters_fini(a, cl);
    if (st == MN_OK)
        st = sample_create(m->conn, m->c, m->d.core, &ids, &s, err);
    mn_free(a, r->ids);
    r->ids = NULL;
    if (st == MN_OK)
        st = sample_scan(s, err); /* while packs that are only written leave room */
    if (st == MN_OK)
        st = make_finish(m, out, err);
    if (st == MN_OK)
        st = sample_calibrate(s, *out, err);
    sample_destroy(s);
    return st;
}

static mn_status build_from(mn_conn *conn, struct coll *c, struct rows *r,
                            const struct ivf_sink *sink, struct ivf **out, mn_error *err)
{
    struct clusters cl = {0};
    struct make m = {0};
    struct ivf_core *core = NULL;
    struct mn_alloc *a = conn->db->alloc;
    struct ann_source source = {.n = r->n, .dim = c->entry.dim, .fetch = rows_fetch, .ctx = r};
    struct parallel parallel = db_parallel(conn->db);
    struct cluster_opts opts = {.seed = 42,
                                .budget_bytes = mn_alloc_cap(a) / CLUSTER_SHARE,
                                .parallel = &parallel,
                                .tick = cluster_tick,
                                .tick_ctx = conn,
                                .train = conn->train,
                                .train_ctx = conn->train_ctx};
    uint64_t room = mn_alloc_cap(a) - mn_alloc_used(a);
    if (opts.budget_bytes > room / 2)
        opts.budget_bytes = room / 2;
    mn_status st = cluster(a, conn->db->kernels, &source, &opts, &cl, err);
    if (st == MN_OK)
        st = make_core(conn, c, &cl, r, &core, err);
    if (st == MN_OK && sink->core)
        st = sink->core(sink->ctx, core, cl.centroids, err);
    if (core) {
        mn_status made = make_init(&m, conn, c, sink, core, err);
        st = st ? st : made;
        m.centroids = cl.centroids;
        m.centroids_buffer = cl.centroids;
        cl.centroids = NULL;
        if (st == MN_OK)
            st = build_version(&m, r, &cl, out, err);
        make_fini(&m);
    }
    clusters_fini(a, &cl);
    if (st) {
        ivf_release(conn->db, *out);
        *out = NULL;
    }
    return st;
}

/* That a build will want in all, about. */
static uint64_t build_bytes(const mn_db *db, const struct coll *c, const int64_t *ids, size_t n)
{
    double cap = (double)mn_alloc_cap(db->alloc);
    double heap = c->entry.rerank == MN_RERANK_COPY ? (double)n * (double)c->vector_bytes : 0;
    uint32_t bits = bits_for(db, &c->entry, ids, n);
    double want = code_bytes(db, c->entry.dim, bits, ids, n) + 20.0 * (double)n;
    want += heap <= 0.85 * cap ? heap : 0;
    want += cap / CLUSTER_SHARE;
    return (uint64_t)want;
}

mn_status ivf_build(mn_conn *conn, struct coll *c, const struct ivf_sink *sink, struct ivf **out,
                    mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    struct ivf_core like = {.entry = c->entry, .vector_bytes = c->vector_bytes};
    struct rows r = {.conn = conn, .c = c, .core = &like};
    *out = NULL;
    mn_status st = list_rows(conn, c, &like, &r.ids, &r.n, err);
    r.at = r.n;
    if (st == MN_OK && r.n >= conn->db->limits.min_rows &&
        least_bytes(c->entry.dim, r.n) > room_for_codes(conn->db)) {
        db_log(conn->db, MN_LOG_WARN, "index",
               "'%s': memory of %" PRIu64 " MiB does not hold the centroids of %zu rows; searches "
               "read the rows; raise memory",
               c->entry.name, mn_alloc_cap(a) >> 20, r.n);
    } else if (st == MN_OK && r.n >= conn->db->limits.min_rows) {
        cache_build_begin(conn->db, c->entry.number, build_bytes(conn->db, c, r.ids, r.n));
        r.chunk = CHUNK_BYTES / c->vector_bytes;
        r.chunk = r.chunk < 1 ? 1 : r.chunk > CHUNK_ROWS ? CHUNK_ROWS : r.chunk;
        r.buffer = mn_alloc_array(a, r.chunk, c->vector_bytes, MN_TAG_SEARCH);
        st = r.buffer
                 ? sql_preparef(conn->sql, &r.st, err,
                                "SELECT \"%w\", \"%w\" FROM main.\"%w\" WHERE \"%w\" >= ?1 AND "
                                "\"%w\" IS NOT NULL ORDER BY \"%w\"",
                                c->entry.id_column, c->entry.column, c->entry.table,
                                c->entry.id_column, c->entry.column, c->entry.id_column)
                 : mn_fail(err, MN_NOMEM, "index: out of memory under the cap");
        if (st == MN_OK)
            st = build_from(conn, c, &r, sink, out, err);
        sqlite3_finalize(r.st);
        mn_free(a, r.buffer);
        cache_build_end(conn->db, c->entry.number);
    }
    mn_free(a, r.ids);
    return st;
}
