/*
 * Loading a version of the index from the sidecar. Core, directory and packs are asked for at once
 * (storage/bulk.h) and land in the memory where they stay; the core's matrices are made while packs
 * are on their way, and each pack is opened as it lands. So the time is the disk's: bytes of codes
 * over its rate. Vectors come later, a few MiB apart: their pages can be read one by one.
 *
 * Where memory does not hold all packs, core and directory come first, then as many packs as there
 * is room for, and the others, a few at a time, to be sent away (ivf_away.h): all of an index is
 * checked when it is loaded. The least that it takes is the core, a description of each part, and
 * what a search needs; with less memory than that searches read the rows.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/cache.h"
#include "src/engine/fold.h"
#include "src/engine/ivf_away.h"
#include "src/engine/ivf_heal.h"
#include "src/engine/ivf_store.h"
#include "storage/base/bytes.h"
#include "storage/bulk.h"
#include "storage/extents.h"

enum {
    EAGER_BLOCKS = 32, /* heap blocks, MiB, that are read in at once when an index is loaded */
    WARM_WINDOW = 32,  /* heap blocks that are on their way together */
    AWAY_WINDOW = 8,   /* packs to be sent away that are, at most, */
    AWAY_SHARE = 4,    /* in this part of the memory that is left */
    LEAST_ROOM = 7 << 18,
    ROWS_A_PART = 250, /* of a large index */
    HUGE_BLOCKS = 512, /* a larger extent holds one part that is larger than packs should be */
    PART_BYTES = sizeof(struct ivf_part) + sizeof(struct ivf_use) + sizeof(struct ann_part) +
                 sizeof(struct ivf_away) + 32
};

struct load {
    mn_conn *conn;
    struct coll *c;
    struct sidecar *sidecar;
    const struct ivf *have;
    struct extents extents;
    struct ivf_draft d;
    struct bulk_want *wants; /* [n_wants] what is read; buf NULL: it was taken over, or freed */
    size_t n_wants;
    struct extent_view *views; /* [n_wants] of what landed; payload NULL: not yet */
    struct ivf_pack **packs; /* [n_packs], by ascending object once all are there */
    size_t n_packs;
    struct extent_ref directory;
    struct extent_view directory_view;
    void *directory_memory; /* that it lies in */
    uint64_t used_before;   /* bytes that were held when loading began, by no older version */
    bool dial;              /* not all packs find room */
    bool send_away;         /* what is read now is sent away */
    uint32_t *use_of; /* [n_uses of the directory] in d.uses; NO_USE: in a lost pack */
};

#define NO_USE UINT32_MAX

static mn_status no_memory(const struct load *l, mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "%s: out of memory under the cap for the index",
                   l->conn->db->path);
}

static mn_status lost(const struct load *l, const char *what, uint32_t object, mn_error *err)
{
    return mn_fail(err, MN_CORRUPT, "index of '%s': %s %u is lost", l->c->entry.name, what, object);
}

/* The index goes on without a pack. */
static mn_status lose_pack(struct load *l, const struct extent_ref *ref, const char *why,
                           mn_error *err)
{
    for (uint32_t i = 0; i < l->d.n_lost; i++)
        if (l->d.lost[i].object == ref->object)
            return MN_OK;
    size_t n = l->d.n_lost + 1;
    struct extent_ref *more =
        mn_realloc(l->conn->db->alloc, l->d.lost, n * sizeof *more, MN_TAG_CACHE);
    if (!more)
        return no_memory(l, err);
    l->d.lost = more;
    l->d.lost[l->d.n_lost++] = *ref;
    heal_count_lost(l->conn->db, l->sidecar);
    db_log(l->conn->db, MN_LOG_WARN, "heal",
           "pack %u of '%s' is lost: %s; its %u rows are read from the table until the next fold",
           ref->object, l->c->entry.name, why, ref->rows);
    return MN_OK;
}

/* Generation and place are not enough: what a publish that failed wrote there may have been written
 * over by another process's publish of the same number. The header's CRC covers its nonce. */
static bool same_extent(const struct extent_ref *a, const struct extent_ref *b)
{
    return a->first_block == b->first_block && a->generation == b->generation &&
           a->header_crc == b->header_crc;
}

/* ---- What is to be read ---------------------------------------------------------------------- */

static const struct extent_ref *find_ref(const struct load *l, uint16_t kind, uint32_t object)
{
    for (size_t i = 0; i < l->extents.n; i++)
        if (l->extents.refs[i].kind == kind && l->extents.refs[i].object == object)
            return &l->extents.refs[i];
    return NULL;
}

/* The extent will be read into memory of its own. */
static mn_status want(struct load *l, const struct extent_ref *ref, mn_error *err)
{
    mn_db *db = l->conn->db;
    size_t bytes = (size_t)ref->n_blocks * EXTENT_BLOCK;
    void *buf = ref->kind == KIND_PACK
                    ? ivf_pack_memory(db, bytes)
                    : mn_alloc_aligned(db->alloc, bytes, IO_ALIGN, MN_TAG_IO);
    if (!buf)
        return no_memory(l, err);
    l->wants[l->n_wants++] = (struct bulk_want){.ref = *ref, .buf = buf};
    return MN_OK;
}

/* All that was asked for has been taken. */
static void want_none(struct load *l)
{
    for (size_t i = 0; i < l->n_wants; i++)
        mn_free(l->conn->db->alloc, l->wants[i].buf);
    l->n_wants = 0;
    if (l->views)
        memset(l->views, 0, l->extents.n * sizeof *l->views);
}

static mn_status want_core(struct load *l, mn_error *err)
{
    const struct extent_ref *ref = find_ref(l, KIND_CORE, 0);
    if (!ref)
        return lost(l, "core", 0, err);
    if (!l->have || !same_extent(&l->have->core->ref, ref))
        return want(l, ref, err);
    l->d.core = ivf_core_share(l->have->core);
    return MN_OK;
}

/* A pack that an older version in memory has already. */
static struct ivf_pack *have_pack(const struct load *l, const struct extent_ref *ref)
{
    if (!l->have || (l->d.core && l->have->core != l->d.core))
        return NULL;
    for (uint32_t i = 0; i < l->have->n_uses; i++) {
        struct ivf_pack *p = l->have->uses[i].pack;
        if (p->object == ref->object && same_extent(&p->ref, ref) &&
            !atomic_load_explicit(&p->gone, memory_order_relaxed))
            return ivf_pack_share(p);
    }
    return NULL;
}

/* Takes what an older version has; of packs that are away only with `away`. */
static bool take_have(struct load *l, const struct extent_ref *ref, bool away)
{
    struct ivf_pack *p = have_pack(l, ref);
    if (p && p->away && !away) {
        ivf_pack_release(l->conn->db, p);
        p = NULL;
    }
    if (p)
        l->packs[l->n_packs++] = p;
    return p;
}

/* Lists all but the vectors; the core first, then the directory: what others need. With the dial
 * these two only. */
static mn_status plan(struct load *l, mn_error *err)
{
    struct mn_alloc *a = l->conn->db->alloc;
    const struct extent_ref *directory = find_ref(l, KIND_DIRECTORY, 0);
    l->wants = mn_alloc_array(a, l->extents.n, sizeof *l->wants, MN_TAG_IO);
    l->views = mn_alloc_array(a, l->extents.n, sizeof *l->views, MN_TAG_IO);
    l->packs = mn_alloc_array(a, l->extents.n, sizeof *l->packs, MN_TAG_IO);
    if (!l->wants || !l->views || !l->packs)
        return no_memory(l, err);
    mn_status st = want_core(l, err);
    if (st == MN_OK)
        st = directory ? want(l, directory, err) : lost(l, "directory", 0, err);
    for (size_t i = 0; i < l->extents.n && st == MN_OK && !l->dial; i++)
        if (l->extents.refs[i].kind == KIND_PACK && !take_have(l, &l->extents.refs[i], false))
            st = want(l, &l->extents.refs[i], err);
    return st;
}

/* ---- Core and packs -------------------------------------------------------------------------- */

static mn_status take_core(struct load *l, struct bulk_want *w, const struct extent_view *v,
                           mn_error *err)
{
    uint32_t dim = l->c->entry.dim;
    const uint8_t *p = v->payload;
    mn_status st = ivf_check_core(v, dim, err);
    if (st)
        return st;
    const float *floats = (const float *)(const void *)(p + CORE_HEAD);
    struct ivf_core_spec spec = {.entry = &l->c->entry,
                                 .centroids = floats + dim,
                                 .origin = floats,
                                 .n_lists = le32_get(p + 24),
                                 .seed = le64_get(p + 8),
                                 .built_rows = le64_get(p + 16),
                                 .bits = le32_get(p + 32)};
    st = ivf_core_create(l->conn->db, &spec, &l->d.core, err);
    if (st == MN_OK)
        l->d.core->ref = w->ref;
    mn_free(l->conn->db->alloc, w->buf);
    w->buf = NULL;
    return st;
}

/* The pack's twin without its bytes takes its place. */
static mn_status exchange(struct load *l, struct ivf_pack **p, mn_error *err)
{
    struct ivf_pack *twin = NULL;
    mn_status st = ivf_send_away(l->conn->db, *p, &twin, err);
    if (st)
        return st;
    ivf_pack_release(l->conn->db, *p);
    *p = twin;
    return MN_OK;
}

/* The want's memory becomes the pack's. */
static mn_status take_pack(struct load *l, struct bulk_want *w, struct extent_view *v,
                           mn_error *err)
{
    struct ivf_pack *p = NULL;
    struct ivf_bytes bytes = {.memory = w->buf,
                              .payload = (uint8_t *)w->buf + v->at.payload_offset,
                              .len = v->spec.payload_len};
    w->buf = NULL;
    v->payload = NULL;
    mn_error own = {0};
    mn_status st = ivf_pack_open(l->conn->db, l->d.core, w->ref.object, &bytes, &p, &own);
    if (st == MN_OK) {
        p->ref = w->ref;
        l->packs[l->n_packs++] = p;
        if (l->send_away)
            st = exchange(l, &l->packs[l->n_packs - 1], err);
    } else if (st == MN_CORRUPT) {
        st = lose_pack(l, &w->ref, own.message, err);
    } else if (err) {
        *err = own;
    }
    return st;
}

/* The i-th want has landed. Packs wait for the core. */
static mn_status take(struct load *l, size_t i, mn_error *err)
{
    struct bulk_want *w = &l->wants[i];
    mn_status st = MN_OK;
    if (w->ref.kind == KIND_DIRECTORY) {
        l->directory_view = l->views[i];
        l->directory_memory = w->buf;
        w->buf = NULL;
    } else if (w->ref.kind == KIND_PACK && l->d.core) {
        st = take_pack(l, w, &l->views[i], err);
    } else if (w->ref.kind == KIND_CORE) {
        st = take_core(l, w, &l->views[i], err);
    }
    for (size_t j = 0; w->ref.kind == KIND_CORE && j < l->n_wants && st == MN_OK; j++)
        if (l->wants[j].ref.kind == KIND_PACK && l->views[j].payload)
            st = take_pack(l, &l->wants[j], &l->views[j], err);
    return st;
}

static int by_object(const void *a, const void *b)
{
    const struct ivf_pack *x = *(struct ivf_pack *const *)a, *y = *(struct ivf_pack *const *)b;
    return (x->object > y->object) - (x->object < y->object);
}

static mn_status read_wants(struct load *l, mn_error *err)
{
    mn_db *db = l->conn->db;
    struct bulk *b = NULL;
    struct bulk_done done;
    mn_status st = bulk_create(db->disk, l->sidecar, db->alloc, l->wants, l->n_wants, &b, err);
    while (st == MN_OK && bulk_next(b, &done)) {
        const struct extent_ref *ref = &l->wants[done.i].ref;
        st = done.status;
        l->views[done.i] = done.view;
        if (st == MN_OK)
            st = take(l, done.i, err);
        else if (ref->kind == KIND_PACK)
            st = lose_pack(l, ref, done.err.message, err);
        else if (err)
            *err = done.err;
        if (st == MN_OK)
            st = conn_tick(l->conn, err);
    }
    bulk_destroy(b);
    want_none(l);
    return st;
}

/* ---- What finds room ------------------------------------------------------------------------- */

/* That searches, writers and folds should have at least, where all codes are in memory: 1.75 MiB. A
 * build under this cap leaves them somewhat more, by its estimate. */
static uint64_t least_room(const struct load *l)
{
    uint64_t share = mn_alloc_cap(l->conn->db->alloc) / 32;
    uint64_t room = share > LEAST_ROOM ? share : LEAST_ROOM;
    return room > l->used_before ? room - l->used_before : 0; /* what a search took is theirs */
}

/* Bytes that a pack takes in memory. */
static uint64_t pack_bytes(const struct extent_ref *ref)
{
    uint64_t bytes = (uint64_t)ref->n_blocks * EXTENT_BLOCK;
    bool huge = bytes <= MN_HUGE_ALIGNED && bytes > MN_HUGE_ALIGNED / 64 * 63;
    return huge ? MN_HUGE_ALIGNED : bytes;
}

/* Whether all packs find room, by an estimate that is rather too low: what they take is looked at
 * once they are there. */
static bool all_fit(const struct load *l)
{
    const struct mn_alloc *alloc = l->conn->db->alloc;
    uint64_t cap = mn_alloc_cap(alloc), want = mn_alloc_used(alloc);
    for (size_t i = 0; i < l->extents.n; i++) {
        const struct extent_ref *ref = &l->extents.refs[i];
        struct ivf_pack *have = ref->kind == KIND_PACK ? have_pack(l, ref) : NULL;
        if (ref->kind == KIND_PACK && (!have || have->away))
            want += pack_bytes(ref) + (uint64_t)ref->rows / ROWS_A_PART * PART_BYTES;
        if (ref->kind == KIND_CORE && !(l->have && same_extent(&l->have->core->ref, ref)))
            want += (uint64_t)ref->n_blocks * EXTENT_BLOCK / 4;
        ivf_pack_release(l->conn->db, have);
    }
    return want + least_room(l) <= cap && !l->conn->db->limits.away;
}

/* Packs that stay: those that an older version has in memory, and as far as there is room large
 * ones, as each of their parts would be a large read. Sets done[i] of those. */
static mn_status want_here(struct load *l, uint64_t reserve, bool *done, mn_error *err)
{
    const struct mn_alloc *alloc = l->conn->db->alloc;
    mn_status st = MN_OK;
    for (size_t i = 0; i < l->extents.n && st == MN_OK; i++) {
        const struct extent_ref *ref = &l->extents.refs[i];
        if (ref->kind != KIND_PACK)
            continue;
        done[i] = take_have(l, ref, false);
        if (done[i] || ref->n_blocks <= HUGE_BLOCKS || l->conn->db->limits.away ||
            mn_alloc_used(alloc) + pack_bytes(ref) + reserve > mn_alloc_cap(alloc))
            continue;
        done[i] = true;
        st = want(l, ref, err);
    }
    return st;
}

/* The others: read, checked, and sent away. */
static mn_status read_away(struct load *l, const bool *done, mn_error *err)
{
    const struct mn_alloc *alloc = l->conn->db->alloc;
    uint64_t bytes = 0;
    mn_status st = MN_OK;
    l->send_away = true;
    for (size_t i = 0; i < l->extents.n && st == MN_OK; i++) {
        const struct extent_ref *ref = &l->extents.refs[i];
        if (ref->kind != KIND_PACK || done[i] || take_have(l, ref, true))
            continue;
        uint64_t room = mn_alloc_cap(alloc) - mn_alloc_used(alloc) + bytes;
        if (l->n_wants == AWAY_WINDOW ||
            (l->n_wants && bytes + pack_bytes(ref) > room / AWAY_SHARE)) {
            st = read_wants(l, err);
            bytes = 0;
        }
        bytes += pack_bytes(ref);
        if (st == MN_OK)
            st = want(l, ref, err);
    }
    return st == MN_OK && l->n_wants ? read_wants(l, err) : st;
}

/* Core and directory are there. */
static mn_status read_packs(struct load *l, mn_error *err)
{
    struct mn_alloc *a = l->conn->db->alloc;
    uint64_t len = l->directory_view.spec.payload_len, tables = 0;
    if (len >= DIRECTORY_HEAD)
        tables = (uint64_t)le32_get(l->directory_view.payload + 24) * PART_BYTES;
    if (tables / PART_BYTES > len / 8)
        return lost(l, "directory", 0, err);
    bool *done = mn_alloc_array(a, l->extents.n, sizeof *done, MN_TAG_IO);
    if (!done)
        return no_memory(l, err);
    mn_status st = want_here(l, ivf_reserve(l->conn->db, l->d.core) + tables, done, err);
    if (st == MN_OK && l->n_wants)
        st = read_wants(l, err);
    if (st == MN_OK)
        st = read_away(l, done, err);
    mn_free(a, done);
    return st;
}

/* ---- The directory --------------------------------------------------------------------------- */

static struct ivf_pack *pack_of(const struct load *l, uint32_t object)
{
    struct ivf_pack key = {.object = object}, *k = &key;
    struct ivf_pack **p = bsearch(&k, l->packs, l->n_packs, sizeof *l->packs, by_object);
    return p ? *p : NULL;
}

/* Rows that are hidden in a use. */
static mn_status load_bitmap(struct load *l, struct ivf_use *u, const uint8_t *p, uint32_t rows,
                             mn_error *err)
{
    size_t words = ivf_bitmap_words(rows);
    if (u->hidden || ivf_use_part(u)->view.n != rows)
        return lost(l, "hidden rows", rows, err);
    if (!(u->hidden = ivf_bitmap_create(l->conn->db, rows, NULL)))
        return no_memory(l, err);
    for (size_t j = 0; j < words; j++) {
        u->hidden->words[j] = le64_get(p + 8 * j);
        u->hidden->n += (uint32_t)__builtin_popcountll(u->hidden->words[j]);
    }
    if (rows % 64 && u->hidden->words[words - 1] >> (rows % 64))
        return lost(l, "hidden rows", rows, err);
    return MN_OK;
}

static mn_status load_hidden(struct load *l, const uint8_t *p, const uint8_t *end, uint32_t n_uses,
                             uint32_t n, mn_error *err)
{
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < n && st == MN_OK; i++) {
        if (end - p < 8 || le32_get(p) >= n_uses)
            return lost(l, "hidden rows", i, err);
        uint32_t use = l->use_of[le32_get(p)], rows = le32_get(p + 4);
        p += 8;
        if ((size_t)(end - p) / 8 < ivf_bitmap_words(rows))
            return lost(l, "hidden rows", i, err);
        if (use != NO_USE)
            st = load_bitmap(l, &l->d.uses[use], p, rows, err);
        p += 8 * ivf_bitmap_words(rows);
    }
    return st || p == end ? st : lost(l, "directory", 0, err);
}

static mn_status load_uses(struct load *l, const uint8_t *p, uint32_t n_uses, mn_error *err)
{
    mn_db *db = l->conn->db;
    mn_status st = MN_OK;
    l->d.uses = mn_alloc_array(db->alloc, n_uses, sizeof *l->d.uses, MN_TAG_CACHE);
    l->use_of = mn_alloc_array(db->alloc, n_uses, sizeof *l->use_of, MN_TAG_IO);
    if (!l->d.uses || !l->use_of)
        return no_memory(l, err);
    for (uint32_t i = 0; i < n_uses && st == MN_OK; i++, p += 8) {
        struct ivf_pack *pack = pack_of(l, le32_get(p));
        const struct extent_ref unnamed = {.object = le32_get(p), .kind = KIND_PACK};
        l->use_of[i] = NO_USE;
        if (!pack) {
            st = lose_pack(l, &unnamed, "the catalog does not name it", err);
            continue;
        }
        if (le32_get(p + 4) >= pack->n_parts)
            return lost(l, "pack", le32_get(p), err);
        l->use_of[i] = l->d.n_uses;
        l->d.uses[l->d.n_uses++] =
            (struct ivf_use){.pack = ivf_pack_share(pack), .index = le32_get(p + 4)};
    }
    return st;
}

/* ---- The heap -------------------------------------------------------------------------------- */

/* A block's pages have landed, or are lost: searches read the rows until a fold has healed them. */
static void take_pages(mn_conn *conn, struct sidecar *s, struct heap_block *b,
                       struct bulk_want *w, const struct bulk_done *done)
{
    size_t whole = (size_t)HEAP_BLOCK_PAGES * HEAP_PAGE, len = done->view.spec.payload_len;
    char *pages = w->pages, *none = NULL;
    if (done->status != MN_OK) {
        heal_lose_block(conn->db, s, b, done->err.message);
        return;
    }
    memset(pages + len, 0, whole - len);
    if (atomic_compare_exchange_strong_explicit(&b->pages, &none, pages, memory_order_release,
                                                memory_order_relaxed))
        w->pages = NULL;
}

/* Reads the pages of n blocks that have none; n <= WARM_WINDOW. */
static mn_status read_window(mn_conn *conn, struct sidecar *s, struct heap_block *const *blocks,
                             uint32_t n, mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    struct bulk_want wants[WARM_WINDOW];
    struct bulk *b = NULL;
    struct bulk_done done;
    size_t whole = (size_t)HEAP_BLOCK_PAGES * HEAP_PAGE, n_wants = 0;
    char *heads = mn_alloc_aligned(a, (size_t)n * EXTENT_BLOCK, IO_ALIGN, MN_TAG_IO);
    mn_status st = heads ? MN_OK : mn_fail(err, MN_NOMEM, "%s: out of memory", conn->db->path);
    for (; n_wants < n && st == MN_OK; n_wants++) {
        struct bulk_want *w = &wants[n_wants];
        w->ref = blocks[n_wants]->ref;
        w->buf = heads + n_wants * EXTENT_BLOCK;
        if (!(w->pages = mn_alloc_aligned(a, whole, IO_ALIGN, MN_TAG_CACHE)))
            st = mn_fail(err, MN_NOMEM, "%s: out of memory", conn->db->path);
    }
    if (st == MN_OK)
        st = bulk_create(conn->db->disk, s, a, wants, n, &b, err);
    while (st == MN_OK && bulk_next(b, &done))
        take_pages(conn, s, blocks[done.i], &wants[done.i], &done);
    bulk_destroy(b);
    for (size_t i = 0; i < n_wants; i++)
        mn_free(a, wants[i].pages);
    mn_free(a, heads);
    return st;
}

/* Reads the vectors of up to `most` blocks that are not in memory and not lost. */
static mn_status read_blocks(mn_conn *conn, struct sidecar *s, struct heap_block *const *heap,
                             uint32_t n_heap, uint32_t most, mn_error *err)
{
    struct heap_block *window[WARM_WINDOW];
    mn_status st = MN_OK;
    for (uint32_t i = 0, did = 0; i < n_heap && did < most && st == MN_OK;) {
        uint32_t n = 0;
        for (; i < n_heap && n < WARM_WINDOW && did + n < most; i++)
            if (!atomic_load_explicit(&heap[i]->pages, memory_order_relaxed) &&
                !atomic_load_explicit(&heap[i]->lost, memory_order_relaxed))
                window[n++] = heap[i];
        if (n)
            st = read_window(conn, s, window, n, err);
        did += n;
        if (st == MN_OK)
            st = conn_tick(conn, err);
    }
    return st;
}

bool ivf_can_warm(mn_db *db, const struct ivf *x)
{
    return !db->limits.cold && !x->n_away &&
           cache_make_room(db, x->core->entry.number,
                           (size_t)x->n_heap * HEAP_BLOCK_PAGES * (HEAP_PAGE + 16));
}

mn_status ivf_warm_up(mn_conn *conn, struct ivf *x, uint32_t most, mn_error *err)
{
    struct sidecar *s = NULL;
    mn_status st = ivf_sidecar(conn, &s, err);
    if (st == MN_OK && s)
        st = read_blocks(conn, s, x->heap, x->n_heap, most, err);
    sidecar_close(s);
    return st;
}

static struct heap_block *have_block(const struct load *l, const struct extent_ref *ref)
{
    if (!l->have || ref->object >= l->have->n_heap)
        return NULL;
    struct heap_block *b = l->have->heap[ref->object];
    return same_extent(&b->ref, ref) ? heap_block_share(b) : NULL;
}

static mn_status load_block(struct load *l, const struct extent_ref *ref, mn_error *err)
{
    struct heap_block *b = have_block(l, ref);
    if (!b && (ref->rows > heap_block_rows(l->c->vector_bytes) || ref->n_blocks < 2 ||
               extent_n_pages(ref) > HEAP_BLOCK_PAGES || extent_n_pages(ref) + 1 != ref->n_blocks))
        return lost(l, "heap block", ref->object, err);
    if (!b) {
        b = heap_block_create(l->conn->db, l->c->vector_bytes, ref->rows, NULL);
        if (!b)
            return no_memory(l, err);
        b->ref = *ref;
    }
    l->d.heap[l->d.n_heap++] = b;
    return MN_OK;
}

static mn_status load_heap(struct load *l, uint32_t n_heap, mn_error *err)
{
    mn_db *db = l->conn->db;
    l->d.heap = mn_alloc_array(db->alloc, n_heap, sizeof *l->d.heap, MN_TAG_CACHE);
    struct extent_ref **by_number = mn_alloc_array(db->alloc, n_heap, sizeof *by_number, MN_TAG_IO);
    mn_status st = l->d.heap && by_number ? MN_OK : no_memory(l, err);
    for (size_t i = 0; i < l->extents.n && st == MN_OK; i++)
        if (l->extents.refs[i].kind == KIND_HEAP && l->extents.refs[i].object < n_heap)
            by_number[l->extents.refs[i].object] = &l->extents.refs[i];
    for (uint32_t i = 0; i < n_heap && st == MN_OK; i++)
        st = by_number[i] ? load_block(l, by_number[i], err) : lost(l, "heap block", i, err);
    mn_free(db->alloc, by_number);
    /* What is more than a few MiB comes later: the first answer should not wait. */
    if (st == MN_OK && n_heap <= EAGER_BLOCKS && !db->limits.cold && !l->dial &&
        cache_make_room(db, l->c->entry.number,
                        (size_t)n_heap * HEAP_BLOCK_PAGES * (HEAP_PAGE + 16)))
        st = read_blocks(l->conn, l->sidecar, l->d.heap, n_heap, n_heap, err);
    return st;
}

static mn_status load_directory(struct load *l, mn_error *err)
{
    const struct extent_view *v = &l->directory_view;
    const uint8_t *p = v->payload;
    uint64_t len = v->spec.payload_len;
    const struct extent_ref *ref = find_ref(l, KIND_DIRECTORY, 0);
    mn_status st = ivf_check_head(v, DIRECTORY_MAGIC, DIRECTORY_HEAD, err);
    if (st)
        return st;
    if (len < DIRECTORY_HEAD + 8 * (uint64_t)le32_get(p + 24))
        return lost(l, "directory", 0, err);
    l->d.at.seq = (int64_t)le64_get(p + 8);
    l->d.at.stamp = (int64_t)le64_get(p + 16);
    l->d.n_slots = le32_get(p + 36);
    l->d.published = l->d.at;
    l->d.generation = ref->generation;
    l->directory = *ref;
    l->d.drift = le64_get(p + 40);
    st = ann_tuning_get(p + 48, TUNING_BYTES, &l->d.tuning, err);
    if (st == MN_OK)
        st = load_uses(l, p + DIRECTORY_HEAD, le32_get(p + 24), err);
    if (st == MN_OK)
        st = load_hidden(l, p + DIRECTORY_HEAD + 8 * (size_t)le32_get(p + 24), p + len,
                         le32_get(p + 24), le32_get(p + 28), err);
    return st ? st : load_heap(l, le32_get(p + 32), err);
}

/* ---- All of it ------------------------------------------------------------------------------- */

/* As it was before anything was read. */
static void load_reset(struct load *l)
{
    mn_db *db = l->conn->db;
    for (size_t i = 0; i < l->n_packs; i++)
        ivf_pack_release(db, l->packs[i]);
    want_none(l);
    mn_free(db->alloc, l->directory_memory);
    mn_free(db->alloc, l->use_of);
    mn_free(db->alloc, l->packs);
    mn_free(db->alloc, l->views);
    mn_free(db->alloc, l->wants);
    l->directory_memory = l->use_of = NULL;
    l->packs = NULL;
    l->views = NULL;
    l->wants = NULL;
    l->n_packs = 0;
    l->send_away = false;
    ivf_draft_fini(db, &l->d);
}

static void load_fini(struct load *l)
{
    load_reset(l);
    extents_fini(l->conn->db->alloc, &l->extents);
    sidecar_close(l->sidecar);
}

static mn_status load_once(struct load *l, struct ivf **out, mn_error *err)
{
    const struct mn_alloc *alloc = l->conn->db->alloc;
    mn_status st = plan(l, err);
    if (st == MN_OK)
        st = read_wants(l, err);
    if (st == MN_OK && l->dial)
        st = read_packs(l, err);
    if (st == MN_OK && l->n_packs)
        qsort(l->packs, l->n_packs, sizeof *l->packs, by_object);
    if (st == MN_OK)
        st = load_directory(l, err);
    if (st == MN_OK)
        st = ivf_create(l->conn->db, &l->d, out, err);
    if (st)
        return st;
    (*out)->directory = l->directory;
    if (l->dial || mn_alloc_used(alloc) + least_room(l) <= mn_alloc_cap(alloc) || !l->n_packs)
        return MN_OK;
    ivf_release(l->conn->db, *out);
    *out = NULL;
    return no_memory(l, err);
}

static mn_status load_all(struct load *l, struct ivf **out, mn_error *err)
{
    l->used_before = l->have ? 0 : mn_alloc_used(l->conn->db->alloc);
    l->dial = !all_fit(l);
    mn_status st = load_once(l, out, err);
    if (st == MN_NOMEM && !l->dial) {
        mn_error_clear(err);
        load_reset(l);
        l->dial = true;
        st = load_once(l, out, err);
    }
    if (st)
        return st;
    return heal_bears(*out) ? MN_OK
                            : mn_fail(err, MN_CORRUPT, "index of '%s': %u of its packs are lost",
                                      l->c->entry.name, (*out)->n_lost);
}

mn_status ivf_load(mn_conn *conn, struct coll *c, const struct ivf *have, struct ivf **out,
                   mn_error *err)
{
    struct load l = {.conn = conn, .c = c, .have = have};
    struct sidecar_meta meta;
    struct ivf_place place;
    mn_error own = {0};
    *out = NULL;
    mn_status st = ivf_sidecar(conn, &l.sidecar, err);
    if (st || !l.sidecar)
        return st;
    st = extents_meta(conn->sql, &meta, &own);
    if (st == MN_OK)
        st = extents_load(conn->sql, conn->db->alloc, &meta, (uint32_t)c->entry.number, &l.extents,
                          &own);
    if (st == MN_OK)
        st = ivf_where(conn, c, &place, &own);
    bool db_failed = st == MN_IO; /* app.db itself: no rows to answer from */
    if (st == MN_OK)
        st = load_all(&l, out, &own);
    if (st == MN_OK && !ivf_is_at(*out, &place))
        st = mn_fail(&own, MN_CORRUPT, "index of '%s': is not the one that mneme_indexes names",
                     c->entry.name);
    if (st) {
        ivf_release(conn->db, *out);
        *out = NULL;
    }
    if (st == MN_CORRUPT || st == MN_NEWER || (st == MN_IO && !db_failed)) {
        heal_count_lost(conn->db, l.sidecar);
        db_log(conn->db, MN_LOG_WARN, "heal",
               "the index of '%s' is lost: %s; searches read the rows until it is built anew",
               c->entry.name, own.message);
        st = MN_OK;
    } else if (st == MN_NOMEM && !sqlite3_get_autocommit(conn->sql)) {
        /* SQLite's own want of memory may have ended the transaction: that is an error. */
        db_log(conn->db, MN_LOG_WARN, "index",
               "the index of '%s' does not fit under the memory cap of %" PRIu64
               " MiB, though its codes could stay in the sidecar: its centroids and what describes "
               "its postings do not; searches read the rows; raise memory",
               c->entry.name, mn_alloc_cap(conn->db->alloc) >> 20);
        st = MN_OK;
    } else if (st && err) {
        *err = own;
    }
    load_fini(&l);
    return st;
}
