/*
 * The hybrid index of a collection in memory.
 *
 *   core      rotation, centroids; made once by a build, shared by all versions
 *   pack      codes of rows, as one extent: parts, each of rows of one posting
 *   heap      the rows' vectors, a page layout that is the same in memory and on disk; a row's slot
 *             is its place there. Blocks of 1 MiB, filled in order
 *   version   (struct ivf) which parts count, which of their rows are hidden, which heap blocks
 *
 * Invariants. Each live row stands unhidden in exactly one part. Uses are ordered by posting, and
 * within one by falling number of rows, so the first is the base. Packs and heap blocks never
 * change; a version shares them with the one before it.
 *
 * A pack's bytes (little-endian):
 *
 *    0 magic u32 | 4 version u16, pad u16 | 8 n_parts u32 | 12 pad u32
 *   16 entries[n_parts]: { posting u32, offset u32, len u32, rows u32, first_slot u32, pad u32 },
 * by offset … parts, each aligned to 64: payload of index/posting.h (len bytes), and if first_slot
 * is 2^32 - 1, padding to 4 and slots le32; otherwise the slots follow each other
 */
#include "src/engine/ivf.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/columns.h"
#include "src/engine/ivf_away.h"
#include "storage/base/bytes.h"
#include "storage/io.h"

enum { PACK_MAGIC = 0x4b41504d, PACK_VERSION = 2, PACK_HEAD = 16, PACK_ENTRY = 24 };

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static bool last_ref(_Atomic unsigned *refs)
{
    return atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel) == 1;
}

static void take_ref(_Atomic unsigned *refs)
{
    atomic_fetch_add_explicit(refs, 1, memory_order_relaxed);
}

static mn_status no_memory(const mn_db *db, mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "%s: out of memory under the cap for the index", db->path);
}

/* ---- Core ------------------------------------------------------------------------------------ */

void ivf_core_release(mn_db *db, struct ivf_core *c)
{
    if (!c || !last_ref(&c->refs))
        return;
    centroids_destroy(db->alloc, c->centroids);
    rabitq_destroy(db->alloc, c->rabitq);
    columns_destroy(db, c->columns);
    mn_free(db->alloc, c->origin);
    mn_free(db->alloc, c);
}

struct ivf_core *ivf_core_share(struct ivf_core *c)
{
    take_ref(&c->refs);
    return c;
}

mn_status ivf_core_create(mn_db *db, const struct ivf_core_spec *spec, struct ivf_core **out,
                          mn_error *err)
{
    const struct catalog_entry *e = spec->entry;
    *out = NULL;
    struct ivf_core *c = mn_alloc_array(db->alloc, 1, sizeof *c, MN_TAG_CACHE);
    if (!c)
        return no_memory(db, err);
    atomic_init(&c->refs, 1);
    c->entry = *e;
    c->vector_bytes = mn_vector_bytes(e->dtype, e->dim);
    c->n_lists = spec->n_lists;
    c->seed = spec->seed;
    c->built_rows = spec->built_rows;
    c->origin = mn_alloc(db->alloc, e->dim * sizeof(float), MN_TAG_CACHE);
    c->columns = columns_create(db);
    mn_status st = c->origin && c->columns ? MN_OK : no_memory(db, err);
    if (st == MN_OK) {
        memcpy(c->origin, spec->origin, e->dim * sizeof(float));
        struct rabitq_spec codes = {.dim = e->dim,
                                    .metric = e->metric == MN_IP ? ANN_IP : ANN_L2,
                                    .bits = spec->bits,
                                    .seed = spec->seed,
                                    .origin = c->origin};
        st = rabitq_create(db->alloc, db->kernels, &codes, &c->rabitq, err);
    }
    if (st == MN_OK) {
        struct centroids_spec centroids = {.vectors = spec->centroids,
                                            .n = c->n_lists,
                                            .graph_from = db->limits.graph_from,
                                            .before = spec->before};
        st = centroids_create(db->alloc, c->rabitq, &centroids, &c->centroids, err);
    }
    if (st)
        ivf_core_release(db, c);
    else
        *out = c;
    return st;
}

bool ivf_widen(const struct ivf_core *c, const struct kernels *kn, const void *vector, float *out)
{
    uint32_t dim = c->entry.dim;
    switch (c->entry.dtype) {
    case MN_F16:
        kn->f16_to_f32(vector, dim, out);
        break;
    case MN_BF16:
        kn->bf16_to_f32(vector, dim, out);
        break;
    case MN_I8:
        kn->i8_to_f32(vector, dim, out);
        break;
    default:
        memcpy(out, vector, dim * sizeof *out);
    }
    return c->entry.metric != MN_COSINE || rabitq_normalise(out, dim);
}

double ivf_key(mn_metric metric, double distance)
{
    return metric == MN_L2 ? distance * distance : metric == MN_COSINE ? 2 * distance : distance;
}

/* The key of an exact l2 distance was a float (index/scan.c; an integer for i8) before its root was
 * taken and squared again: rounding to that gives it back, and so the same distance to the bit. */
double ivf_distance(mn_dtype dtype, mn_metric metric, double key)
{
    if (metric == MN_L2)
        return sqrt(key <= 0 ? 0 : dtype == MN_I8 ? rint(key) : (double)(float)key);
    return metric == MN_COSINE ? key / 2 : key;
}

/* ---- Packs ----------------------------------------------------------------------------------- */

struct ivf_pack *ivf_pack_share(struct ivf_pack *p)
{
    take_ref(&p->refs);
    return p;
}

void ivf_pack_release(mn_db *db, struct ivf_pack *p)
{
    if (!p || !last_ref(&p->refs))
        return;
    pack_columns_destroy(db, p);
    for (uint32_t i = 0; p->away && i < p->n_parts; i++)
        mn_free(db->alloc, atomic_load_explicit(&p->away[i].here, memory_order_relaxed));
    mn_free(db->alloc, p->bytes.memory);
    mn_free(db->alloc, p->parts);
    mn_free(db->alloc, p->away);
    mn_free(db->alloc, p);
}

static mn_status bad_pack(uint32_t object, const char *what, mn_error *err)
{
    return mn_fail(err, MN_CORRUPT, "index pack %u: %s", object, what);
}

static mn_status open_part(const struct ivf_core *core, struct ivf_pack *p, uint32_t i,
                           mn_error *err)
{
    const uint8_t *entry = p->bytes.payload + PACK_HEAD + (size_t)i * PACK_ENTRY;
    size_t offset = le32_get(entry + 4), len = le32_get(entry + 8), rows = le32_get(entry + 12);
    size_t slots = round_up(offset + len, 4);
    struct ivf_part *part = &p->parts[i];
    part->posting = le32_get(entry);
    part->first_slot = le32_get(entry + 16);
    bool listed = part->first_slot == UINT32_MAX;
    if (part->posting >= core->n_lists || offset % 64 || offset + len > p->bytes.len ||
        (listed && (slots > p->bytes.len || rows > (p->bytes.len - slots) / 4)))
        return bad_pack(p->object, "a part lies outside", err);
    mn_status st = posting_open(p->bytes.payload + offset, len, core->seed, &part->view, err);
    if (st)
        return st;
    if (part->view.n != rows || part->view.dim != core->entry.dim)
        return bad_pack(p->object, "a part is not what its entry says", err);
    part->slots = listed ? p->bytes.payload + slots : NULL;
    return MN_OK;
}

mn_status ivf_pack_open(mn_db *db, const struct ivf_core *core, uint32_t object,
                        const struct ivf_bytes *bytes, struct ivf_pack **out, mn_error *err)
{
    const uint8_t *payload = bytes->payload;
    *out = NULL;
    struct ivf_pack *p = mn_alloc_array(db->alloc, 1, sizeof *p, MN_TAG_CACHE);
    if (!p) {
        mn_free(db->alloc, bytes->memory);
        return no_memory(db, err);
    }
    atomic_init(&p->refs, 1);
    p->object = object;
    p->bytes = *bytes;
    mn_status st = MN_OK;
    if (bytes->len < PACK_HEAD || le32_get(payload) != PACK_MAGIC)
        st = bad_pack(object, "no magic number", err);
    else if ((le32_get(payload + 4) & 0xffff) != PACK_VERSION)
        st = mn_fail(err, MN_NEWER, "index pack %u has version %u, this Mneme reads %d", object,
                     le32_get(payload + 4) & 0xffff, PACK_VERSION);
    else if (le32_get(payload + 8) > (bytes->len - PACK_HEAD) / PACK_ENTRY)
        st = bad_pack(object, "more parts than fit", err);
    if (st == MN_OK) {
        p->n_parts = le32_get(payload + 8);
        p->parts = mn_alloc_array(db->alloc, p->n_parts, sizeof *p->parts, MN_TAG_CACHE);
        st = p->parts ? MN_OK : no_memory(db, err);
    }
    for (uint32_t i = 0; i < p->n_parts && st == MN_OK; i++)
        st = open_part(core, p, i, err);
    if (st)
        ivf_pack_release(db, p);
    else
        *out = p;
    return st;
}

struct ivf_span ivf_pack_span(const struct ivf_pack *p, uint32_t index)
{
    if (p->away)
        return p->away[index].at;
    const uint8_t *entry = p->bytes.payload + PACK_HEAD + (size_t)index * PACK_ENTRY;
    struct ivf_span at = {.offset = le32_get(entry + 4), .len = le32_get(entry + 8)};
    at.all = at.len;
    if (p->parts[index].slots)
        at.all = (uint32_t)round_up(at.len, 4) + 4 * p->parts[index].view.n;
    return at;
}

void *ivf_pack_memory(mn_db *db, size_t bytes)
{
    bool whole = bytes <= MN_HUGE_ALIGNED && bytes > MN_HUGE_ALIGNED / 64 * 63;
    return mn_alloc_aligned(db->alloc, whole ? MN_HUGE_ALIGNED : bytes, IO_ALIGN, MN_TAG_CACHE);
}

void pack_writer_fini(struct pack_writer *w)
{
    mn_free(w->db->alloc, w->bytes);
    mn_free(w->db->alloc, w->entries);
    mn_db *db = w->db;
    memset(w, 0, sizeof *w);
    w->db = db;
}

static mn_status pack_reserve(struct pack_writer *w, size_t more, mn_error *err)
{
    struct mn_alloc *a = w->db->alloc;
    if (w->len + more > w->cap) {
        size_t cap = (w->len + more) * 3 / 2 + 65536;
        uint8_t *bytes = mn_realloc(a, w->bytes, cap, MN_TAG_CACHE);
        if (!bytes)
            return no_memory(w->db, err);
        w->bytes = bytes;
        w->cap = cap;
    }
    if (w->n == w->entries_cap) {
        uint32_t cap = w->entries_cap ? 2 * w->entries_cap : 64;
        void *entries = mn_realloc(a, w->entries, cap * sizeof *w->entries, MN_TAG_CACHE);
        if (!entries)
            return no_memory(w->db, err);
        w->entries = entries;
        w->entries_cap = cap;
    }
    return MN_OK;
}

mn_status pack_add(struct pack_writer *w, uint32_t posting, const struct posting_encoder *e,
                   const uint32_t *slots, mn_error *err)
{
    size_t len = posting_encoded_bytes(e), rows = posting_encoded_rows(e);
    size_t offset = round_up(w->len, 64), at = round_up(offset + len, 4), listed = 0;
    for (size_t i = 1; i < rows; i++)
        if (slots && slots[i] != slots[0] + i)
            listed = rows;
    mn_status st = pack_reserve(w, at + 4 * listed - w->len, err);
    if (st)
        return st;
    memset(w->bytes + w->len, 0, offset - w->len);
    posting_write(e, w->bytes + offset);
    memset(w->bytes + offset + len, 0, at - offset - len);
    for (size_t i = 0; i < listed; i++)
        le32_put(w->bytes + at + 4 * i, slots[i]);
    w->entries[w->n].posting = posting;
    w->entries[w->n].offset = (uint32_t)offset;
    w->entries[w->n].len = (uint32_t)len;
    w->entries[w->n].rows = (uint32_t)rows;
    w->entries[w->n].first_slot = listed ? UINT32_MAX : slots ? slots[0] : 0;
    w->n++;
    w->len = at + 4 * listed;
    return MN_OK;
}

size_t pack_bytes_with(const struct pack_writer *w, const struct posting_encoder *e)
{
    size_t head = PACK_HEAD + ((size_t)w->n + 1) * PACK_ENTRY, slots = 4 * posting_encoded_rows(e);
    return round_up(head, 64) + round_up(w->len, 64) + posting_encoded_bytes(e) + 4 + slots;
}

mn_status pack_finish(struct pack_writer *w, struct ivf_bytes *out, mn_error *err)
{
    size_t head = round_up(PACK_HEAD + (size_t)w->n * PACK_ENTRY, 64);
    uint8_t *to = ivf_pack_memory(w->db, head + w->len);
    *out = (struct ivf_bytes){to, to, head + w->len};
    if (!to)
        return no_memory(w->db, err);
    memset(to, 0, head);
    le32_put(to, PACK_MAGIC);
    le32_put(to + 4, PACK_VERSION);
    le32_put(to + 8, w->n);
    for (uint32_t i = 0; i < w->n; i++) {
        uint8_t *entry = to + PACK_HEAD + (size_t)i * PACK_ENTRY;
        le32_put(entry, w->entries[i].posting);
        le32_put(entry + 4, w->entries[i].offset + (uint32_t)head);
        le32_put(entry + 8, w->entries[i].len);
        le32_put(entry + 12, w->entries[i].rows);
        le32_put(entry + 16, w->entries[i].first_slot);
        le32_put(entry + 20, 0);
    }
    if (w->len)
        memcpy(to + head, w->bytes, w->len);
    pack_writer_fini(w);
    return MN_OK;
}

/* ---- The heap -------------------------------------------------------------------------------- */

uint32_t heap_block_rows(size_t vector_bytes)
{
    if (vector_bytes <= HEAP_PAGE)
        return HEAP_BLOCK_PAGES * (uint32_t)(HEAP_PAGE / vector_bytes);
    return HEAP_BLOCK_PAGES / (uint32_t)((vector_bytes + HEAP_PAGE - 1) / HEAP_PAGE);
}

size_t heap_offset(size_t vector_bytes, uint32_t row)
{
    if (vector_bytes > HEAP_PAGE)
        return row * round_up(vector_bytes, HEAP_PAGE);
    size_t per_page = HEAP_PAGE / vector_bytes;
    return row / per_page * HEAP_PAGE + row % per_page * vector_bytes;
}

size_t heap_pages(size_t vector_bytes, uint32_t rows)
{
    if (vector_bytes > HEAP_PAGE)
        return rows * (round_up(vector_bytes, HEAP_PAGE) / HEAP_PAGE);
    size_t per_page = HEAP_PAGE / vector_bytes;
    return (rows + per_page - 1) / per_page;
}

struct heap_block *heap_block_create(mn_db *db, size_t vector_bytes, uint32_t n, char *pages)
{
    struct heap_block *b = mn_alloc_array(db->alloc, 1, sizeof *b, MN_TAG_CACHE);
    if (!b) {
        mn_free(db->alloc, pages);
        return NULL;
    }
    atomic_init(&b->refs, 1);
    b->n = n;
    b->vector_bytes = vector_bytes;
    atomic_init(&b->pages, pages);
    return b;
}

struct heap_block *heap_block_share(struct heap_block *b)
{
    take_ref(&b->refs);
    return b;
}

void heap_block_release(mn_db *db, struct heap_block *b)
{
    if (!b || !last_ref(&b->refs))
        return;
    mn_free(db->alloc, atomic_load_explicit(&b->pages, memory_order_relaxed));
    mn_free(db->alloc, atomic_load_explicit(&b->crcs, memory_order_relaxed));
    mn_free(db->alloc, b);
}

uint32_t ivf_slot(const struct ivf_part *p, uint32_t row)
{
    assert(p->slots || p->first_slot != UINT32_MAX); /* or it is away */
    return p->slots ? le32_get(p->slots + 4 * (size_t)row) : p->first_slot + row;
}

struct heap_block *ivf_heap_place(const struct ivf *x, uint32_t posting, uint32_t part,
                                  uint32_t slot, uint32_t *row)
{
    const struct ivf_use *u = &x->uses[x->first[posting] + part];
    const struct ivf_part *p = ivf_use_part(u);
    uint32_t place = p->slots || p->first_slot != UINT32_MAX ? ivf_slot(p, slot) : slot;
    uint32_t rows = heap_block_rows(x->core->vector_bytes);
    if (place / rows >= x->n_heap)
        return NULL;
    struct heap_block *b = x->heap[place / rows];
    *row = place % rows;
    return *row < b->n ? b : NULL;
}

const void *ivf_vector(const struct ivf *x, uint32_t posting, uint32_t part, uint32_t slot)
{
    uint32_t row;
    const struct heap_block *b = ivf_heap_place(x, posting, part, slot, &row);
    const char *pages = b ? atomic_load_explicit(&b->pages, memory_order_acquire) : NULL;
    return pages ? pages + heap_offset(x->core->vector_bytes, row) : NULL;
}

bool ivf_warm(const struct ivf *x)
{
    for (uint32_t i = x->n_heap; i-- > 0;) /* they are read in from the first */
        if (!atomic_load_explicit(&x->heap[i]->pages, memory_order_relaxed))
            return false;
    return x->n_heap > 0 || x->core->entry.rerank == MN_RERANK_COPY;
}

bool heap_block_set_crcs(mn_db *db, struct heap_block *b, const uint32_t *crcs, size_t n)
{
    uint32_t *none = NULL;
    uint32_t *copy = mn_alloc_array(db->alloc, HEAP_BLOCK_PAGES, sizeof *copy, MN_TAG_CACHE);
    if (!copy)
        return false;
    memcpy(copy, crcs, (n < HEAP_BLOCK_PAGES ? n : HEAP_BLOCK_PAGES) * sizeof *copy);
    if (!atomic_compare_exchange_strong_explicit(&b->crcs, &none, copy, memory_order_release,
                                                 memory_order_relaxed))
        mn_free(db->alloc, copy);
    return true;
}

/* ---- Hidden rows ----------------------------------------------------------------------------- */

struct ivf_bitmap *ivf_bitmap_create(mn_db *db, uint32_t rows, const struct ivf_bitmap *from)
{
    size_t words = (rows + 63) / 64;
    struct ivf_bitmap *b =
        mn_alloc_array(db->alloc, 1, sizeof *b + words * sizeof(uint64_t), MN_TAG_CACHE);
    if (!b)
        return NULL;
    atomic_init(&b->refs, 1);
    if (from) {
        b->n = from->n;
        memcpy(b->words, from->words, words * sizeof(uint64_t));
    }
    return b;
}

static void bitmap_release(mn_db *db, struct ivf_bitmap *b)
{
    if (b && last_ref(&b->refs))
        mn_free(db->alloc, b);
}

/* Open addressing over ids; 0 marks an empty place, so id 0 has a flag of its own. */
struct id_set {
    int64_t *places; /* [mask + 1] */
    size_t mask;
    bool zero;
};

static size_t hash_id(int64_t id)
{
    uint64_t z = (uint64_t)id * 0x9e3779b97f4a7c15u;
    return (size_t)(z >> 20);
}

static bool id_set_init(mn_db *db, struct id_set *s, const int64_t *ids, size_t n)
{
    size_t cap = 64;
    while (cap < 4 * n)
        cap *= 2;
    *s = (struct id_set){.mask = cap - 1};
    s->places = mn_alloc_array(db->alloc, cap, sizeof *s->places, MN_TAG_PENDING);
    for (size_t i = 0; s->places && i < n; i++) {
        size_t at = hash_id(ids[i]) & s->mask;
        while (s->places[at] && s->places[at] != ids[i])
            at = (at + 1) & s->mask;
        s->places[at] = ids[i];
        s->zero = s->zero || ids[i] == 0;
    }
    return s->places != NULL;
}

static bool id_set_has(const struct id_set *s, int64_t id)
{
    if (id == 0)
        return s->zero;
    size_t at = hash_id(id) & s->mask;
    while (s->places[at] && s->places[at] != id)
        at = (at + 1) & s->mask;
    return s->places[at] == id;
}

bool ivf_use_hide(mn_db *db, struct ivf_use *u, uint32_t row)
{
    if (ivf_hides(u, row))
        return true;
    /* One that only this draft has can be changed. */
    if (!u->hidden || atomic_load_explicit(&u->hidden->refs, memory_order_acquire) > 1) {
        struct ivf_bitmap *b = ivf_bitmap_create(db, ivf_use_part(u)->view.n, u->hidden);
        if (!b)
            return false;
        bitmap_release(db, u->hidden);
        u->hidden = b;
    }
    u->hidden->words[row / 64] |= (uint64_t)1 << (row % 64);
    u->hidden->n++;
    return true;
}

struct hiding {
    mn_db *db;
    struct ivf_draft *d;
    struct id_set ids;
    uint64_t hid;
};

static mn_status use_hide(void *ctx, uint32_t use, const struct ivf_part *part, mn_error *err)
{
    struct hiding *h = ctx;
    struct ivf_use *u = &h->d->uses[use];
    uint32_t before = u->hidden ? u->hidden->n : 0;
    for (uint32_t row = 0; row < part->view.n; row++)
        if (id_set_has(&h->ids, posting_id(&part->view, row)) && !ivf_use_hide(h->db, u, row))
            return no_memory(h->db, err);
    h->hid += (u->hidden ? u->hidden->n : 0) - before;
    return MN_OK;
}

mn_status ivf_hide(mn_db *db, struct ivf_draft *d, const struct ivf_sink *sink, const int64_t *ids,
                   size_t n, uint64_t *hid, mn_error *err)
{
    struct hiding h = {.db = db, .d = d};
    *hid = 0;
    if (n == 0)
        return MN_OK;
    mn_status st = id_set_init(db, &h.ids, ids, n) ? MN_OK : no_memory(db, err);
    if (st == MN_OK)
        st = ivf_walk(db, d->core, d->uses, d->n_uses, sink, use_hide, &h, err);
    mn_free(db->alloc, h.ids.places);
    *hid = h.hid;
    return st;
}

/* ---- Versions -------------------------------------------------------------------------------- */

void ivf_use_drop(mn_db *db, struct ivf_use *u)
{
    ivf_pack_release(db, u->pack);
    bitmap_release(db, u->hidden);
    *u = (struct ivf_use){0};
}

void ivf_draft_fini(mn_db *db, struct ivf_draft *d)
{
    for (uint32_t i = 0; d->uses && i < d->n_uses; i++)
        ivf_use_drop(db, &d->uses[i]);
    for (uint32_t i = 0; d->heap && i < d->n_heap; i++)
        heap_block_release(db, d->heap[i]);
    mn_free(db->alloc, d->uses);
    mn_free(db->alloc, d->heap);
    mn_free(db->alloc, d->lost);
    ivf_core_release(db, d->core);
    memset(d, 0, sizeof *d);
}

struct ivf *ivf_share(struct ivf *x)
{
    take_ref(&x->refs);
    return x;
}

void ivf_release(mn_db *db, struct ivf *x)
{
    if (!x || !last_ref(&x->refs))
        return;
    ann_index_destroy(db->alloc, x->ann);
    version_columns_destroy(db, x);
    mn_free(db->alloc, x->ann_parts);
    mn_free(db->alloc, x->postings);
    mn_free(db->alloc, x->first);
    struct ivf_draft rest = {.core = x->core,
                             .uses = x->uses,
                             .n_uses = x->n_uses,
                             .heap = x->heap,
                             .n_heap = x->n_heap,
                             .lost = x->lost};
    ivf_draft_fini(db, &rest);
    mn_free(db->alloc, x);
}

static int by_posting(const void *a, const void *b)
{
    const struct ivf_part *x = ivf_use_part(a), *y = ivf_use_part(b);
    if (x->posting != y->posting)
        return x->posting < y->posting ? -1 : 1;
    if (x->view.n != y->view.n)
        return x->view.n > y->view.n ? -1 : 1;
    const struct ivf_use *u = a, *v = b;
    if (u->pack->object != v->pack->object)
        return u->pack->object < v->pack->object ? -1 : 1;
    return (u->index > v->index) - (u->index < v->index);
}

/* Fills what follows from uses: order, ann's tables, counts. */
static mn_status arrange(mn_db *db, struct ivf *x, mn_error *err)
{
    uint32_t lists = x->core->n_lists;
    if (x->n_uses)
        qsort(x->uses, x->n_uses, sizeof *x->uses, by_posting);
    x->ann_parts = mn_alloc_array(db->alloc, x->n_uses, sizeof *x->ann_parts, MN_TAG_CACHE);
    x->postings = mn_alloc_array(db->alloc, lists, sizeof *x->postings, MN_TAG_CACHE);
    x->first = mn_alloc_array(db->alloc, (size_t)lists + 1, sizeof *x->first, MN_TAG_CACHE);
    if (!x->ann_parts || !x->postings || !x->first)
        return no_memory(db, err);
    x->max_id = INT64_MIN;
    uint32_t use = 0;
    for (uint32_t j = 0; j < lists; j++) {
        x->first[j] = use;
        for (; use < x->n_uses && ivf_use_part(&x->uses[use])->posting == j; use++) {
            const struct ivf_use *u = &x->uses[use];
            const struct posting_view *v = &ivf_use_part(u)->view;
            x->ann_parts[use] = (struct ann_part){.view = *v,
                                                  .hidden = u->hidden ? u->hidden->words : NULL,
                                                  .n_hidden = u->hidden ? u->hidden->n : 0};
            x->rows += v->n - x->ann_parts[use].n_hidden;
            x->unread = x->unread || (v->n && !v->blocks);
            if (u->pack->away) {
                uint32_t blocks = ivf_part_blocks(u->pack, u->index);
                x->n_away++;
                x->away_most = blocks > x->away_most ? blocks : x->away_most;
            }
            if (v->n && v->id_max > x->max_id)
                x->max_id = v->id_max;
        }
        x->postings[j] = (struct ann_posting){.parts = &x->ann_parts[x->first[j]],
                                              .n_parts = use - x->first[j]};
    }
    x->first[lists] = use;
    assert(use == x->n_uses);
    return MN_OK;
}

mn_status ivf_create(mn_db *db, struct ivf_draft *d, struct ivf **out, mn_error *err)
{
    *out = NULL;
    struct ivf *x = mn_alloc_array(db->alloc, 1, sizeof *x, MN_TAG_CACHE);
    if (!x) {
        ivf_draft_fini(db, d);
        return no_memory(db, err);
    }
    atomic_init(&x->refs, 1);
    x->core = d->core;
    x->tuning = d->tuning;
    x->at = d->at;
    x->generation = d->generation;
    x->published = d->published;
    x->ahead = d->ahead;
    x->drift = d->drift;
    x->uses = d->uses;
    x->n_uses = d->n_uses;
    x->heap = d->heap;
    x->n_heap = d->n_heap;
    x->n_slots = d->n_slots;
    x->lost = d->lost;
    x->n_lost = d->n_lost;
    x->refilled = d->refilled;
    memset(d, 0, sizeof *d);
    mn_status st = arrange(db, x, err);
    if (st == MN_OK) {
        struct ann_index_spec spec = {.kn = db->kernels,
                                      .rabitq = x->core->rabitq,
                                      .centroids = x->core->centroids,
                                      .postings = x->postings};
        st = ann_index_create(db->alloc, &spec, &x->ann, err);
    }
    if (st)
        ivf_release(db, x);
    else
        *out = x;
    return st;
}

double ivf_codes_here(const struct ivf *x)
{
    double rows = 0, here = 0;
    for (uint32_t i = 0; i < x->n_uses; i++) {
        const struct ivf_use *u = &x->uses[i];
        rows += ivf_use_part(u)->view.n;
        here += ivf_part_is_here(u->pack, u->index) ? ivf_use_part(u)->view.n : 0;
    }
    return here < rows ? here / rows : 1;
}

uint64_t ivf_bytes(const struct ivf *x)
{
    uint64_t bytes = centroids_bytes(x->core->centroids);
    for (uint32_t i = 0; i < x->n_uses; i++) {
        const struct ivf_use *u = &x->uses[i];
        if (ivf_part_is_here(u->pack, u->index))
            bytes += ivf_pack_span(u->pack, u->index).all;
    }
    for (uint32_t i = 0; i < x->n_heap; i++)
        bytes += x->heap[i]->pages ? (uint64_t)HEAP_BLOCK_PAGES * HEAP_PAGE : 0;
    return bytes;
}
