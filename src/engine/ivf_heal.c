/*
 * A lost extent is one whose bytes cannot be read, or are not what the catalog says. The rows are
 * the truth, so each kind can be had again; as little as possible is:
 *
 *   heap block   Searches take its vectors from the rows. The fold reads those rows, by the ids and
 *                slots in the parts, and writes that block.
 *   pack         The index is loaded without it. Its rows are those of the table that no other part
 *                holds; a search has them beside the rows changed since the last fold, scored
 *                exactly. The fold takes them for changed ones: only they are read and coded again.
 *                Their vectors are still in the heap: a slot that no part names and that has the
 *                same bytes is theirs. If more than a fourth of all rows is missing: built anew.
 *   directory    Which parts count and what is hidden in them cannot be told from the parts (a
 *                merged part is not told from those it was made of): built anew. If a version is in
 *                memory, its next fold writes another.
 *   core         The codes mean nothing without it: built anew.
 *
 * Damage on the disk below what is in memory is met by verify only, which marks it; the fold writes
 * it from memory. A mark is a flag of the object in memory; objects are shared between versions, so
 * a healed one is another object.
 *
 * That rows are missing is never guessed: a row is missing if the table has it, no part does, and
 * the change log does not name it. A row that is gone from the table is named by the log.
 */
#include "src/engine/ivf_heal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/fold.h"
#include "src/engine/ivf_away.h"
#include "storage/sql.h"

enum {
    MAX_MISSING_SHARE = 4, /* of all rows: beyond it building anew costs no more */
    MAX_SAID = 16          /* lost extents that one fold's log names */
};

/* ---- Marks ----------------------------------------------------------------------------------- */

void heal_count_lost(mn_db *db, struct sidecar *s)
{
    sidecar_count_lost(s);
    atomic_fetch_add_explicit(&db->count.lost, 1, memory_order_relaxed);
}

static bool mark(mn_db *db, struct sidecar *s, _Atomic bool *lost)
{
    if (atomic_exchange_explicit(lost, true, memory_order_relaxed))
        return false;
    heal_count_lost(db, s);
    return true;
}

static bool is_marked(const _Atomic bool *lost)
{
    return atomic_load_explicit(lost, memory_order_relaxed);
}

void heal_lose_block(mn_db *db, struct sidecar *s, struct heap_block *b, const char *why)
{
    if (mark(db, s, &b->lost))
        db_log(db, MN_LOG_WARN, "heal",
               "heap block %u of collection %u is lost: %s; its vectors are read from the rows "
               "until the next fold",
               b->ref.object, b->ref.collection, why);
}

void heal_lose_pack(mn_db *db, struct sidecar *s, struct ivf_pack *p, const char *why)
{
    if (mark(db, s, &p->lost))
        db_log(db, MN_LOG_WARN, "heal",
               "pack %u of collection %u is lost: %s; the next fold writes it again", p->object,
               p->ref.collection, why);
}

void heal_lose_core(mn_db *db, struct sidecar *s, struct ivf_core *c, const mn_error *why)
{
    if (mark(db, s, &c->lost))
        db_log(db, MN_LOG_WARN, "heal", "core of '%s' is lost: %s; the index is built anew",
               c->entry.name, why ? why->message : "it cannot be read");
}

void heal_lose_directory(mn_db *db, struct sidecar *s, struct ivf *x, const char *why)
{
    if (mark(db, s, &x->directory_lost))
        db_log(db, MN_LOG_WARN, "heal",
               "directory of '%s' is lost: %s; the next fold writes another",
               x->core->entry.name, why);
}

/* ---- Missing rows ---------------------------------------------------------------------------- */

uint64_t heal_lost_rows(const struct ivf *x)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < x->n_lost; i++)
        rows += x->lost[i].rows;
    return rows;
}

bool heal_bears(const struct ivf *x)
{
    uint64_t lost = heal_lost_rows(x);
    for (uint32_t i = 0; i < x->n_lost; i++)
        if (!x->lost[i].rows) /* nobody knows how many */
            return false;
    return lost == 0 || lost < (x->rows + lost) / MAX_MISSING_SHARE;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static mn_status no_memory(const struct coll *c, mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "index of '%s': out of memory under the cap for healing it",
                   c->entry.name);
}

/* Ids of the rows that the parts hold. */
struct held {
    const struct ivf *x;
    int64_t *ids; /* [n] of [x->rows] */
    size_t n;
};

static mn_status hold_part(void *ctx, uint32_t use, const struct ivf_part *part, mn_error *err)
{
    struct held *h = ctx;
    (void)err;
    for (uint32_t row = 0; row < part->view.n; row++)
        if (!ivf_hides(&h->x->uses[use], row))
            h->ids[h->n++] = posting_id(&part->view, row);
    return MN_OK;
}

/* Ascending. */
static mn_status list_held(mn_conn *conn, const struct coll *c, const struct ivf *x,
                           struct held *h, mn_error *err)
{
    *h = (struct held){.x = x};
    h->ids = mn_alloc_array(conn->db->alloc, x->rows, sizeof *h->ids, MN_TAG_SEARCH);
    if (!h->ids)
        return no_memory(c, err);
    mn_status st = ivf_walk_version(conn, x, hold_part, h, err);
    if (st == MN_OK)
        qsort(h->ids, h->n, sizeof *h->ids, by_value);
    return st;
}

/* A growing list of ids. */
struct ids {
    struct mn_alloc *alloc;
    int64_t *ids;
    size_t n, cap;
};

static bool ids_add(struct ids *l, int64_t id)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 1024;
        int64_t *more = mn_realloc(l->alloc, l->ids, cap * sizeof *more, MN_TAG_PENDING);
        if (!more)
            return false;
        l->ids = more;
        l->cap = cap;
    }
    l->ids[l->n++] = id;
    return true;
}

/* Walks the table's ids, those held and those listed together: what is in neither is missing. *out
 * takes the listed ones too. */
static mn_status unite_missing(mn_conn *conn, struct coll *c, const int64_t *held, size_t n_held,
                               const int64_t *listed, size_t n_listed, struct ids *out,
                               mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false, good = true;
    size_t at = 0, next = 0;
    mn_status status =
        sql_preparef(conn->sql, &st, err,
                     "SELECT \"%w\" FROM main.\"%w\" WHERE \"%w\" IS NOT NULL ORDER BY \"%w\"",
                     c->entry.id_column, c->entry.table, c->entry.column, c->entry.id_column);
    while (status == MN_OK && good && (status = sql_step(st, &row, err)) == MN_OK && row) {
        int64_t id = sqlite3_column_int64(st, 0);
        while (good && next < n_listed && listed[next] <= id)
            good = ids_add(out, listed[next++]);
        while (at < n_held && held[at] < id)
            at++;
        bool known = (at < n_held && held[at] == id) || (out->n && out->ids[out->n - 1] == id);
        if (!known)
            good = good && ids_add(out, id);
        if (++conn->done % 4096 == 0)
            status = conn_tick(conn, err);
    }
    sqlite3_finalize(st);
    while (status == MN_OK && good && next < n_listed)
        good = ids_add(out, listed[next++]);
    return status == MN_OK && !good ? no_memory(c, err) : status;
}

mn_status heal_add_missing(mn_conn *conn, struct coll *c, const struct ivf *x, int64_t **ids,
                           size_t *n, mn_error *err)
{
    mn_db *db = conn->db;
    struct ids all = {.alloc = db->alloc};
    struct held held;
    mn_status st = list_held(conn, c, x, &held, err);
    if (st == MN_OK)
        st = unite_missing(conn, c, held.ids, held.n, *ids, *n, &all, err);
    mn_free(db->alloc, held.ids);
    if (st) {
        mn_free(db->alloc, all.ids);
        return st;
    }
    mn_free(db->alloc, *ids);
    *ids = all.ids;
    *n = all.n;
    return MN_OK;
}

/* ---- What is to be mended -------------------------------------------------------------------- */

/* Marked blocks and packs. */
static void count_marks(const struct ivf *x, uint32_t *blocks, uint32_t *packs)
{
    const struct ivf_pack *last = NULL; /* parts of a pack often follow each other */
    *blocks = *packs = 0;
    for (uint32_t i = 0; i < x->n_heap; i++)
        *blocks += is_marked(&x->heap[i]->lost);
    for (uint32_t i = 0; i < x->n_uses; i++) {
        const struct ivf_pack *p = x->uses[i].pack;
        *packs += p != last && is_marked(&p->lost);
        last = p;
    }
}

bool heal_due(const struct ivf *x)
{
    uint32_t blocks, packs;
    count_marks(x, &blocks, &packs);
    return x->n_lost || blocks || packs || is_marked(&x->directory_lost);
}

bool heal_needs_rebuild(const mn_db *db, const struct ivf *x)
{
    /* A fold holds the rows that it reads, as they are and as f32. */
    double row = (double)x->core->vector_bytes + x->core->entry.dim * sizeof(float) + 32;
    return is_marked(&x->core->lost) ||
           (heal_has_gaps(x) &&
            (double)heal_lost_rows(x) * row > (double)mn_alloc_cap(db->alloc) / 4);
}

void heal_done(mn_db *db, const struct coll *c, const struct ivf *x, bool anew)
{
    const char *name = c->entry.name;
    uint32_t blocks, packs, said = 0;
    if (anew) {
        atomic_fetch_add_explicit(&db->count.healed, 1, memory_order_relaxed);
        db_log(db, MN_LOG_INFO, "heal", "index of '%s' was built anew", name);
    }
    if (!x || !heal_due(x))
        return;
    count_marks(x, &blocks, &packs);
    atomic_fetch_add_explicit(&db->count.healed,
                              (uint64_t)x->n_lost + blocks + packs + is_marked(&x->directory_lost),
                              memory_order_relaxed);
    for (uint32_t i = 0; i < x->n_heap && said < MAX_SAID; i++)
        if (is_marked(&x->heap[i]->lost) && ++said)
            db_log(db, MN_LOG_INFO, "heal", "heap block %u of '%s' is healed: %u slots", i, name,
                   x->heap[i]->n);
    for (uint32_t i = 0; i < x->n_lost && i < MAX_SAID; i++)
        db_log(db, MN_LOG_INFO, "heal", "pack %u of '%s' is healed: it had %u rows",
               x->lost[i].object, name, x->lost[i].rows);
    if (packs || is_marked(&x->directory_lost))
        db_log(db, MN_LOG_INFO, "heal", "'%s' is healed: %u packs%s were written again", name,
               packs, is_marked(&x->directory_lost) ? " and the directory" : "");
}

/* ---- Packs ----------------------------------------------------------------------------------- */

static mn_status write_again(mn_db *db, const struct ivf_draft *d, const struct ivf_sink *sink,
                             const struct ivf_pack *p, uint32_t object, struct ivf_pack **out,
                             mn_error *err)
{
    uint8_t *memory = ivf_pack_memory(db, p->bytes.len);
    if (!memory)
        return mn_fail(err, MN_NOMEM, "%s: out of memory under the cap for the index", db->path);
    memcpy(memory, p->bytes.payload, p->bytes.len);
    struct ivf_bytes bytes = {memory, memory, p->bytes.len};
    mn_status st = ivf_pack_open(db, d->core, object, &bytes, out, err);
    if (st == MN_OK && sink->pack)
        st = sink->pack(sink->ctx, *out, err);
    return st;
}

mn_status heal_packs(mn_db *db, struct ivf_draft *d, const struct ivf_sink *sink,
                     uint32_t *next_object, mn_error *err)
{
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < d->n_uses && st == MN_OK; i++) {
        struct ivf_pack *p = d->uses[i].pack, *copy = NULL;
        if (!is_marked(&p->lost) || p->away)
            continue;
        ivf_pack_share(p); /* the draft's last use of it goes below */
        st = write_again(db, d, sink, p, *next_object, &copy, err);
        for (uint32_t j = i; j < d->n_uses && st == MN_OK; j++)
            if (d->uses[j].pack == p) {
                ivf_pack_release(db, p);
                d->uses[j].pack = ivf_pack_share(copy);
            }
        ++*next_object;
        ivf_pack_release(db, copy);
        ivf_pack_release(db, p);
    }
    return st;
}

/* ---- Heap blocks ----------------------------------------------------------------------------- */

/* A live row whose vector was in a lost block. */
struct tenant {
    uint32_t block, row; /* its place */
    int64_t id;
};

static int by_block(const void *a, const void *b)
{
    const struct tenant *x = a, *y = b;
    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Tenants of the marked blocks. */
struct tenants {
    struct mn_alloc *alloc;
    const struct ivf_draft *d;
    const bool *marked;
    uint32_t rows; /* of a block */
    struct tenant *list; /* [n] */
    size_t n, cap;
};

static mn_status add_tenants(void *ctx, uint32_t use, const struct ivf_part *part, mn_error *err)
{
    struct tenants *t = ctx;
    for (uint32_t row = 0; row < part->view.n; row++) {
        uint32_t slot = ivf_slot(part, row), block = slot / t->rows;
        if (ivf_hides(&t->d->uses[use], row) || block >= t->d->n_heap || !t->marked[block])
            continue;
        if (t->n == t->cap) {
            size_t cap = t->cap ? 2 * t->cap : 1024;
            struct tenant *more =
                mn_realloc(t->alloc, t->list, cap * sizeof *more, MN_TAG_PENDING);
            if (!more)
                return mn_fail(err, MN_NOMEM, "index: out of memory under the cap for healing it");
            t->list = more;
            t->cap = cap;
        }
        t->list[t->n++] =
            (struct tenant){block, slot % t->rows, posting_id(&part->view, row)};
    }
    return MN_OK;
}

/* Vectors of the tenants [n] of one block into its pages. Those that have none are hidden: no such
 * row can be found. */
static mn_status fill_block(mn_conn *conn, struct coll *c, const struct tenant *t, size_t n,
                            char *pages, struct ids *gone, mn_error *err)
{
    mn_status st = MN_OK;
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        struct row_vector v;
        st = row_vector_get(conn, c, t[i].id, &v, err);
        if (st)
            break;
        if (v.bytes)
            memcpy(pages + heap_offset(c->vector_bytes, t[i].row), v.bytes, c->vector_bytes);
        else if (!ids_add(gone, t[i].id))
            st = no_memory(c, err);
        row_vector_end(&v);
        if (st == MN_OK && i % 1024 == 1023)
            st = conn_tick(conn, err);
    }
    return st;
}

/* Another block in the place of a lost one, with the vectors of its tenants [n]. */
static mn_status heal_block(mn_conn *conn, struct coll *c, struct ivf_draft *d, uint32_t number,
                            const struct tenant *t, size_t n, struct ids *gone, mn_error *err)
{
    size_t bytes = (size_t)HEAP_BLOCK_PAGES * HEAP_PAGE;
    char *pages = mn_alloc(conn->db->alloc, bytes, MN_TAG_CACHE);
    if (!pages)
        return no_memory(c, err);
    memset(pages, 0, bytes);
    mn_status st = fill_block(conn, c, t, n, pages, gone, err);
    if (st) {
        mn_free(conn->db->alloc, pages);
        return st;
    }
    struct heap_block *b = heap_block_create(conn->db, c->vector_bytes, d->heap[number]->n, pages);
    if (!b)
        return no_memory(c, err);
    heap_block_release(conn->db, d->heap[number]);
    d->heap[number] = b;
    return MN_OK;
}

mn_status heal_blocks(mn_conn *conn, struct coll *c, struct ivf_draft *d,
                      const struct ivf_sink *sink, mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    uint32_t n_marked = 0;
    struct ids gone = {.alloc = a};
    size_t first = 0;
    uint64_t hid = 0;
    bool *marked = mn_alloc_array(a, d->n_heap, sizeof *marked, MN_TAG_SEARCH);
    struct tenants t = {
        .alloc = a, .d = d, .marked = marked, .rows = heap_block_rows(c->vector_bytes)};
    mn_status st = marked ? MN_OK : no_memory(c, err);
    for (uint32_t i = 0; i < d->n_heap && st == MN_OK; i++)
        n_marked += marked[i] = is_marked(&d->heap[i]->lost);
    if (n_marked)
        st = ivf_walk(conn->db, d->core, d->uses, d->n_uses, sink, add_tenants, &t, err);
    if (st == MN_OK && t.n)
        qsort(t.list, t.n, sizeof *t.list, by_block);
    for (uint32_t i = 0; i < d->n_heap && n_marked && st == MN_OK; i++) {
        size_t end = first;
        while (end < t.n && t.list[end].block == i)
            end++;
        if (marked[i])
            st = heal_block(conn, c, d, i, t.list + first, end - first, &gone, err);
        first = end;
    }
    if (st == MN_OK)
        st = ivf_hide(conn->db, d, sink, gone.ids, gone.n, &hid, err);
    mn_free(a, gone.ids);
    mn_free(a, t.list);
    mn_free(a, marked);
    return st;
}

/* ---- Slots of rows whose pack is lost -------------------------------------------------------- */

/* The vectors by their bytes; of equal ones the first stands for all. Open addressing. */
struct vectors {
    const char *bytes; /* [n][each] */
    size_t each;
    uint32_t *places; /* [mask + 1] of vectors + 1; 0: empty */
    size_t mask;
};

static uint64_t hash_of(const char *v, size_t bytes)
{
    uint64_t h = bytes, word;
    for (; bytes >= sizeof word; v += sizeof word, bytes -= sizeof word) {
        memcpy(&word, v, sizeof word);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    for (; bytes; bytes--)
        h = (h ^ (uint8_t)*v++) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* The place of a vector with these bytes, or an empty one. */
static uint32_t *place_of(const struct vectors *s, const char *v)
{
    size_t at = hash_of(v, s->each) & s->mask;
    while (s->places[at] && memcmp(s->bytes + (s->places[at] - 1) * s->each, v, s->each) != 0)
        at = (at + 1) & s->mask;
    return &s->places[at];
}

/* A bit for each of the heap's slots [n] that a part names. */
struct named {
    uint64_t *bits;
    size_t n;
};

static mn_status mark_named(void *ctx, uint32_t use, const struct ivf_part *part, mn_error *err)
{
    struct named *named = ctx;
    (void)use;
    (void)err;
    for (uint32_t row = 0; row < part->view.n; row++) {
        uint32_t slot = ivf_slot(part, row);
        if (slot < named->n)
            named->bits[slot / 64] |= (uint64_t)1 << slot % 64;
    }
    return MN_OK;
}

/* Looks into the slots of one block that no part names. */
static void search_block(const struct ivf *x, uint32_t number, const char *pages,
                         const uint64_t *named, const struct vectors *s, uint32_t *slots)
{
    uint32_t rows = heap_block_rows(s->each);
    for (uint32_t row = 0; row < x->heap[number]->n; row++) {
        uint32_t slot = number * rows + row;
        if (named[slot / 64] >> slot % 64 & 1)
            continue;
        uint32_t found = *place_of(s, pages + heap_offset(s->each, row));
        if (found)
            slots[found - 1] = slot;
    }
}

static bool has_nameless(const struct ivf *x, uint32_t number, uint32_t rows, const uint64_t *named)
{
    for (uint32_t slot = number * rows; slot < number * rows + x->heap[number]->n; slot++)
        if (!(named[slot / 64] >> slot % 64 & 1))
            return true;
    return false;
}

static mn_status search_heap(mn_conn *conn, const struct ivf *x, const struct ivf_sink *sink,
                             const uint64_t *named, const struct vectors *s, uint32_t *slots,
                             mn_error *err)
{
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < x->n_heap && st == MN_OK; i++) {
        const struct heap_block *b = x->heap[i];
        const char *pages = atomic_load_explicit(&b->pages, memory_order_acquire);
        void *buffer = NULL;
        mn_error own = {0};
        if (is_marked(&b->lost) || !has_nameless(x, i, heap_block_rows(s->each), named))
            continue;
        if (!pages && sink->pages && sink->pages(sink->ctx, b, &buffer, &pages, &own))
            pages = NULL; /* its rows get other slots */
        if (pages)
            search_block(x, i, pages, named, s, slots);
        mn_free(conn->db->alloc, buffer);
        st = conn_tick(conn, err);
    }
    return st;
}

mn_status heal_find_slots(mn_conn *conn, const struct ivf *x, const struct ivf_sink *sink,
                          const char *vectors, size_t n, uint32_t *slots, mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    size_t cap = 64, n_slots = (size_t)x->n_heap * heap_block_rows(x->core->vector_bytes);
    while (cap < 2 * n)
        cap *= 2;
    struct vectors s = {.bytes = vectors, .each = x->core->vector_bytes, .mask = cap - 1};
    s.places = mn_alloc_array(a, cap, sizeof *s.places, MN_TAG_SEARCH);
    uint64_t *named = mn_alloc_array(a, n_slots / 64 + 1, sizeof *named, MN_TAG_SEARCH);
    mn_status st = MN_OK;
    memset(slots, 0xff, n * sizeof *slots);
    if (s.places && named) { /* without memory the rows get other slots */
        for (size_t i = 0; i < n; i++) {
            uint32_t *place = place_of(&s, vectors + i * s.each);
            *place = *place ? *place : (uint32_t)i + 1;
        }
        struct named marks = {named, n_slots};
        st = ivf_walk(conn->db, x->core, x->uses, x->n_uses, sink, mark_named, &marks, err);
        if (st == MN_OK)
            st = search_heap(conn, x, sink, named, &s, slots, err);
        for (size_t i = 0; i < n && st == MN_OK; i++)
            slots[i] = slots[*place_of(&s, vectors + i * s.each) - 1];
    }
    mn_free(a, named);
    mn_free(a, s.places);
    return st;
}
