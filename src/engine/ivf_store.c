/*
 * The extents of a collection's index, all little-endian:
 *
 *   KIND_CORE       object 0. magic u32, version u32, seed u64, built_rows u64, n_lists u32,
 *                   dim u32, bits u32, pad u32, origin f32[dim], centroids f32[n_lists][dim]; one
 *                   that begins with a NaN is none: its number is free
 *   KIND_PACK       object: number of the pack. ivf.c. `rows`: of all its parts
 *   KIND_HEAP       object: number of the block. Pages of vectors; ivf.c. `rows`: slots used
 *   KIND_DIRECTORY  object 0. magic u32, version u32, seq i64, stamp i64, n_uses u32, n_hidden u32,
 *                   n_heap u32, n_slots u32, drift u64, tuning[TUNING_BYTES],
 *                   uses[n_uses] { pack u32, index u32 },
 *                   hidden[n_hidden] { use u32, rows u32, bitmap u64[(rows + 63) / 64] }
 *
 * and in app.db: mneme_indexes(collection, generation, seq, stamp, rows), one row an index.
 *
 * The directory says which parts count and which rows are hidden; it is written anew by each fold.
 * What happens when an extent is lost stands in ivf_heal.c. */
#include "src/engine/ivf_store.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/cache.h"
#include "src/engine/fold.h"
#include "src/engine/ivf_away.h"
#include "src/engine/ivf_heal.h"
#include "storage/base/bytes.h"
#include "storage/extents.h"
#include "storage/fs_disk.h"
#include "storage/io_disk.h"
#include "storage/sql.h"

static mn_status no_memory(const mn_db *db, mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "%s: out of memory under the cap for the index", db->path);
}

/* ---- Writing --------------------------------------------------------------------------------- */

static mn_status write_extent(const struct ivf_writer *w, uint16_t kind, uint32_t object,
                              uint32_t rows, const void *payload, size_t len, uint32_t *crcs,
                              struct extent_ref *ref, mn_error *err)
{
    struct extent_spec spec = {.collection = w->collection,
                               .object = object,
                               .kind = kind,
                               .flags = kind == KIND_HEAP ? EXTENT_PAGES : 0,
                               .rows = rows,
                               .payload_len = len};
    return publish_write(w->lease, &spec, payload, crcs, ref, err);
}

/* Floats as they lie in memory: x86 and ARM are little-endian, checked at build time. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "floats are stored as they lie in memory");

static mn_status write_core(void *ctx, struct ivf_core *core, const float *centroids,
                            mn_error *err)
{
    const struct ivf_writer *w = ctx;
    size_t dim = core->entry.dim;
    size_t len = CORE_HEAD + (1 + (size_t)core->n_lists) * dim * sizeof(float);
    uint8_t *p = mn_alloc(w->db->alloc, len, MN_TAG_IO);
    if (!p)
        return no_memory(w->db, err);
    le32_put(p, CORE_MAGIC);
    le32_put(p + 4, STORE_VERSION);
    le64_put(p + 8, core->seed);
    le64_put(p + 16, core->built_rows);
    le32_put(p + 24, core->n_lists);
    le32_put(p + 28, core->entry.dim);
    le32_put(p + 32, core->rabitq->bits);
    le32_put(p + 36, 0);
    memcpy(p + CORE_HEAD, core->origin, dim * sizeof(float));
    memcpy(p + CORE_HEAD + dim * sizeof(float), centroids, core->n_lists * dim * sizeof(float));
    mn_status st = write_extent(w, KIND_CORE, 0, core->n_lists, p, len, NULL, &core->ref, err);
    mn_free(w->db->alloc, p);
    return st;
}

static mn_status write_pack(void *ctx, struct ivf_pack *pack, mn_error *err)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < pack->n_parts; i++)
        rows += pack->parts[i].view.n;
    return write_extent(ctx, KIND_PACK, pack->object, rows, pack->bytes.payload, pack->bytes.len,
                        NULL, &pack->ref, err);
}

static mn_status write_block(void *ctx, uint32_t number, struct heap_block *b, mn_error *err)
{
    const struct ivf_writer *w = ctx;
    size_t pages = heap_pages(b->vector_bytes, b->n);
    uint32_t crcs[HEAP_BLOCK_PAGES];
    mn_status st = write_extent(w, KIND_HEAP, number, b->n, atomic_load(&b->pages),
                                pages * HEAP_PAGE, crcs, &b->ref, err);
    if (st == MN_OK && !heap_block_set_crcs(w->db, b, crcs, pages))
        st = no_memory(w->db, err);
    return st;
}

static mn_status read_pack(mn_db *db, struct sidecar *sidecar, const struct ivf_core *core,
                           const struct extent_ref *ref, struct ivf_pack **out, mn_error *err)
{
    struct extent_view v;
    uint8_t *memory = ivf_pack_memory(db, (size_t)ref->n_blocks * EXTENT_BLOCK);
    if (!memory)
        return no_memory(db, err);
    mn_status st = sidecar_read(sidecar, ref, memory, &v, err);
    if (st) {
        mn_free(db->alloc, memory);
        return st;
    }
    struct ivf_bytes bytes = {memory, memory + v.at.payload_offset, v.spec.payload_len};
    st = ivf_pack_open(db, core, ref->object, &bytes, out, err);
    if (st == MN_OK)
        (*out)->ref = *ref;
    return st;
}

/* Packs of this publish may still wait to be written. */
static mn_status settle(void *ctx, mn_error *err)
{
    const struct ivf_writer *w = ctx;
    return w->lease ? publish_settle(w->lease, err) : MN_OK;
}

static mn_status reload_pack(void *ctx, const struct ivf_core *core, struct ivf_pack *pack,
                             struct ivf_pack **out, mn_error *err)
{
    const struct ivf_writer *w = ctx;
    mn_error own = {0};
    *out = NULL;
    mn_status st = settle(ctx, err);
    if (st)
        return st;
    st = read_pack(w->db, w->sidecar, core, &pack->ref, out, &own);
    if (st == MN_CORRUPT || st == MN_IO)
        ivf_lose_away(w->db, w->sidecar, pack, own.message);
    if (st && err)
        *err = own;
    return st;
}

static mn_status read_part(void *ctx, const struct ivf_core *core, struct ivf_pack *pack,
                           uint32_t index, void **buffer, struct ivf_part *out, mn_error *err)
{
    const struct ivf_writer *w = ctx;
    *buffer = NULL;
    mn_status st = settle(ctx, err);
    return st ? st : ivf_read_part(w->db, w->sidecar, core, pack, index, buffer, out, err);
}

mn_status ivf_check_head(const struct extent_view *v, uint32_t magic, size_t head, mn_error *err)
{
    const uint8_t *p = v->payload;
    uint32_t version = v->spec.payload_len >= head ? le32_get(p + 4) : 0;
    if (v->spec.payload_len < head || le32_get(p) != magic)
        return mn_fail(err, MN_CORRUPT, "index: an extent of kind %u does not begin as one",
                       v->spec.kind);
    if (version == STORE_VERSION)
        return MN_OK;
    return mn_fail(err, version > STORE_VERSION ? MN_NEWER : MN_CORRUPT,
                   "index: an extent of kind %u has version %u, this Mneme reads %d", v->spec.kind,
                   version, STORE_VERSION);
}

mn_status ivf_check_core(const struct extent_view *v, uint32_t dim, mn_error *err)
{
    const uint8_t *p = v->payload;
    mn_status st = ivf_check_head(v, CORE_MAGIC, CORE_HEAD, err);
    if (st)
        return st;
    uint64_t len = v->spec.payload_len, lists = le32_get(p + 24);
    if (le32_get(p + 28) != dim || lists == 0 ||
        len != CORE_HEAD + (1 + lists) * dim * sizeof(float))
        return mn_fail(err, MN_CORRUPT, "index: its core is not one of %u dimensions", dim);
    return MN_OK;
}

static mn_status read_centroids(void *ctx, struct ivf_core *core, void **buffer,
                                const float **centroids, mn_error *err)
{
    const struct ivf_writer *w = ctx;
    struct extent_view v;
    uint32_t dim = core->entry.dim;
    *buffer = mn_alloc_aligned(w->db->alloc, (size_t)core->ref.n_blocks * EXTENT_BLOCK, IO_ALIGN,
                               MN_TAG_IO);
    if (!*buffer)
        return no_memory(w->db, err);
    mn_status st = sidecar_read(w->sidecar, &core->ref, *buffer, &v, err);
    if (st == MN_OK)
        st = ivf_check_core(&v, dim, err);
    if (st == MN_OK && le32_get(v.payload + 24) != core->n_lists)
        st = mn_fail(err, MN_CORRUPT, "index: its core has %u centroids, not %u",
                     le32_get(v.payload + 24), core->n_lists);
    if (st == MN_OK)
        *centroids = (const float *)(const void *)(v.payload + CORE_HEAD) + dim;
    else if (st == MN_CORRUPT || st == MN_IO)
        heal_lose_core(w->db, w->sidecar, core, err);
    return st;
}

static mn_status read_pages_of(void *ctx, const struct heap_block *b, void **buffer,
                               const char **pages, mn_error *err)
{
    const struct ivf_writer *w = ctx;
    struct extent_view v;
    size_t len = (size_t)b->ref.n_blocks * EXTENT_BLOCK;
    *buffer = mn_alloc_aligned(w->db->alloc, len, IO_ALIGN, MN_TAG_IO);
    if (!*buffer)
        return no_memory(w->db, err);
    mn_status st = sidecar_read(w->sidecar, &b->ref, *buffer, &v, err);
    if (st == MN_OK && v.spec.payload_len < heap_pages(b->vector_bytes, b->n) * HEAP_PAGE)
        st = mn_fail(err, MN_CORRUPT, "heap block %u is too short", b->ref.object);
    if (st == MN_OK)
        *pages = (const char *)v.payload;
    return st;
}

struct ivf_sink ivf_writer_sink(struct ivf_writer *w)
{
    return (struct ivf_sink){.core = write_core,
                             .centroids = read_centroids,
                             .pack = write_pack,
                             .reload = reload_pack,
                             .part = read_part,
                             .settle = settle,
                             .block = write_block,
                             .pages = read_pages_of,
                             .ctx = w};
}

static mn_status write_directory(const struct ivf_writer *w, const mn_db *db, struct ivf *x,
                                 mn_error *err)
{
    uint32_t n_hidden = 0;
    size_t len = DIRECTORY_HEAD + 8 * (size_t)x->n_uses;
    for (uint32_t i = 0; i < x->n_uses; i++) {
        if (x->uses[i].hidden) {
            n_hidden++;
            len += 8 + 8 * ivf_bitmap_words(ivf_use_part(&x->uses[i])->view.n);
        }
    }
    uint8_t *p = mn_alloc(db->alloc, len, MN_TAG_IO);
    if (!p)
        return no_memory(db, err);
    uint8_t *at = p + DIRECTORY_HEAD;
    le32_put(p, DIRECTORY_MAGIC);
    le32_put(p + 4, STORE_VERSION);
    le64_put(p + 8, (uint64_t)x->at.seq);
    le64_put(p + 16, (uint64_t)x->at.stamp);
    le32_put(p + 24, x->n_uses);
    le32_put(p + 28, n_hidden);
    le32_put(p + 32, x->n_heap);
    le32_put(p + 36, x->n_slots);
    le64_put(p + 40, x->drift);
    ann_tuning_put(&x->tuning, p + 48);
    for (uint32_t i = 0; i < x->n_uses; i++, at += 8) {
        le32_put(at, x->uses[i].pack->object);
        le32_put(at + 4, x->uses[i].index);
    }
    for (uint32_t i = 0; i < x->n_uses; i++) {
        const struct ivf_bitmap *h = x->uses[i].hidden;
        if (!h)
            continue;
        le32_put(at, i);
        le32_put(at + 4, ivf_use_part(&x->uses[i])->view.n);
        at += 8;
        for (size_t j = 0; j < ivf_bitmap_words(ivf_use_part(&x->uses[i])->view.n); j++, at += 8)
            le64_put(at, h->words[j]);
    }
    mn_status st =
        write_extent(w, KIND_DIRECTORY, 0, (uint32_t)x->rows, p, len, NULL, &x->directory, err);
    mn_free(db->alloc, p);
    return st;
}

/* ---- Publishing ------------------------------------------------------------------------------ */

static bool uses_extent(const struct ivf *x, const struct extent_ref *ref)
{
    if (!x)
        return false;
    switch (ref->kind) {
    case KIND_CORE:
        return ref->first_block == x->core->ref.first_block;
    case KIND_DIRECTORY:
        return ref->first_block == x->directory.first_block;
    case KIND_HEAP:
        return ref->object < x->n_heap && x->heap[ref->object]->ref.first_block == ref->first_block;
    case KIND_PACK:
        for (uint32_t i = 0; i < x->n_uses; i++)
            if (x->uses[i].pack->object == ref->object)
                return x->uses[i].pack->ref.first_block == ref->first_block;
        return false;
    default:
        return false;
    }
}

/* x NULL: all of them. */
static mn_status drop_replaced(struct lease *l, const struct coll *c, const struct ivf *x,
                               mn_error *err)
{
    const struct extents *all = lease_extents(l);
    mn_status st = MN_OK;
    for (size_t i = 0; i < all->n && st == MN_OK; i++) {
        const struct extent_ref *ref = &all->refs[i];
        if (ref->collection == (uint32_t)c->entry.number && !uses_extent(x, ref))
            st = publish_drop(l, ref->first_block, err);
    }
    return st;
}

/* The engine's own rows, inside the publish's transaction. The collection may have been dropped or
 * its table's log restarted meanwhile. */
static mn_status store_row(mn_conn *conn, const struct coll *c, const struct ivf *x, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t there = 0;
    mn_status status =
        sql_preparef(conn->sql, &st, err,
                     "SELECT count(*) FROM mneme_collections, mneme_log_%lld l WHERE number = %lld "
                     "AND l.seq = %lld AND l.stamp = %lld",
                     (long long)c->entry.table_number, (long long)c->entry.number,
                     (long long)x->at.seq, (long long)x->at.stamp);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &there, err);
    sqlite3_finalize(st);
    if (status == MN_OK && !there)
        status = mn_fail(err, MN_CONFLICT, "index of '%s': the collection changed meanwhile",
                         c->entry.name);
    if (status == MN_OK)
        status = sql_execf(conn->sql, err,
                           "INSERT OR REPLACE INTO mneme_indexes(collection, generation, seq, "
                           "stamp, rows) VALUES (%lld, %lld, %lld, %lld, %lld)",
                           (long long)c->entry.number, (long long)x->generation,
                           (long long)x->at.seq, (long long)x->at.stamp, (long long)x->rows);
    return status;
}

mn_status ivf_publish(mn_conn *conn, struct lease *l, const struct coll *c, struct ivf *x,
                      mn_error *err)
{
    struct ivf_writer w = {.db = conn->db, .lease = l, .collection = (uint32_t)c->entry.number};
    x->generation = publish_generation(l);
    x->published = x->at;
    x->ahead = 0;
    mn_status st = write_directory(&w, conn->db, x, err);
    if (st == MN_OK)
        st = publish_flush(l, err);
    if (st == MN_OK)
        st = publish_begin(l, err);
    if (st == MN_OK)
        st = drop_replaced(l, c, x, err);
    if (st == MN_OK)
        st = store_row(conn, c, x, err);
    if (st == MN_OK)
        st = publish_commit(l, err);
    else
        publish_abort(l);
    return st;
}

mn_status ivf_unpublish(mn_conn *conn, struct lease *l, const struct coll *c, mn_error *err)
{
    mn_status st = publish_flush(l, err);
    if (st == MN_OK)
        st = publish_begin(l, err);
    if (st == MN_OK)
        st = drop_replaced(l, c, NULL, err);
    if (st == MN_OK)
        st = sql_execf(conn->sql, err, "DELETE FROM mneme_indexes WHERE collection = %lld",
                       (long long)c->entry.number);
    if (st == MN_OK)
        st = publish_commit(l, err);
    else
        publish_abort(l);
    return st;
}

/* ---- The sidecar ----------------------------------------------------------------------------- */

char *ivf_sidecar_path(const mn_db *db)
{
    char *path = NULL;
    return asprintf(&path, "%s-mneme", db->path) < 0 ? NULL : path;
}

/* db->sidecar_lock is held. */
static mn_status open_sidecar(mn_conn *conn, const struct sidecar_meta *meta,
                              const struct extents *all, mn_error *err)
{
    mn_db *db = conn->db;
    struct sidecar_finding found = {0};
    char *path = ivf_sidecar_path(db);
    struct sidecar_opts opts = {.fs = db->fs,
                                .alloc = db->alloc,
                                .path = path,
                                .writable = !(db->opts.flags & MN_OPEN_READONLY)};
    mn_status st =
        path ? sidecar_open(&opts, meta, all->refs, all->n, NULL, &db->sidecar, &found, err)
             : mn_fail(err, MN_NOMEM, "%s: out of memory", db->path);
    if (st == MN_OK && found.message[0])
        db_log(db, MN_LOG_WARN, "sidecar", "%s", found.message);
    free(path);
    if (st == MN_IO) { /* tried again by the next search; this one reads the rows */
        db_log(db, MN_LOG_WARN, "sidecar", "%s", err ? err->message : db->path);
        mn_error_clear(err);
        return MN_OK;
    }
    if (st == MN_OK) {
        db->sidecar_file = meta->file_id;
        db->sidecar_generation = meta->generation;
    }
    return st;
}

/* Opens it unless the catalog of its extents is damaged: then there is none. */
static mn_status try_sidecar(mn_conn *conn, const struct sidecar_meta *meta, mn_error *err)
{
    mn_db *db = conn->db;
    struct extents all = {0};
    mn_error own = {0};
    mn_status st = extents_load(conn->sql, db->alloc, meta, 0, &all, &own);
    if (st == MN_OK) {
        st = open_sidecar(conn, meta, &all, err);
    } else if (st == MN_CORRUPT) {
        db_log(db, MN_LOG_WARN, "sidecar", "%s; the index is built anew", own.message);
        st = MN_OK;
    } else if (err) {
        *err = own;
    }
    extents_fini(db->alloc, &all);
    return st;
}

mn_status ivf_sidecar(mn_conn *conn, struct sidecar **out, mn_error *err)
{
    mn_db *db = conn->db;
    struct sidecar_meta meta;
    *out = NULL;
    if (!db->fs)
        return MN_OK;
    mn_status st = extents_meta(conn->sql, &meta, err);
    if (st || !meta.exists)
        return st;
    pthread_mutex_lock(&db->sidecar_lock);
    /* A snapshot from before the sidecar was built anew must not bring the old one back. */
    bool other = db->sidecar_file != meta.file_id && meta.generation >= db->sidecar_generation;
    if (other) {
        sidecar_close(db->sidecar);
        db->sidecar = NULL;
        db->sidecar_file = 0;
        st = try_sidecar(conn, &meta, err);
    }
    if (db->sidecar && sidecar_matches(db->sidecar, &meta))
        *out = sidecar_share(db->sidecar);
    pthread_mutex_unlock(&db->sidecar_lock);
    return st;
}

void ivf_sidecar_forget(mn_db *db)
{
    pthread_mutex_lock(&db->sidecar_lock);
    sidecar_close(db->sidecar);
    db->sidecar = NULL;
    db->sidecar_file = 0;
    db->sidecar_generation = 0;
    pthread_mutex_unlock(&db->sidecar_lock);
}

mn_status ivf_where(mn_conn *conn, struct coll *c, struct ivf_place *out, mn_error *err)
{
    sqlite3_stmt *st;
    bool row;
    *out = (struct ivf_place){0};
    if (!c->indexable)
        return MN_OK;
    mn_status status = coll_stmt(conn, c, STMT_INDEX, &st, err);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status)
        return status;
    if (row) {
        out->there = true;
        out->generation = (uint64_t)sqlite3_column_int64(st, 0);
        out->at.seq = sqlite3_column_int64(st, 1);
        out->at.stamp = sqlite3_column_int64(st, 2);
    }
    sqlite3_reset(st);
    return MN_OK;
}

/* ---- Vectors that are not in memory ---------------------------------------------------------- */

enum {
    READER_PAGES = 512,    /* at most; 2 MiB */
    READER_VECTORS = 64    /* else room for so many vectors on pages of their own, and headers */
};

#define HEADER_PAGE UINT32_MAX /* the block's header, for the CRCs of its pages */

struct ivf_reader {
    mn_conn *conn;
    struct sidecar *sidecar;
    struct io_batch *batch;
    char *raw;   /* for mn_free */
    char *arena; /* [room] pages, aligned */
    size_t room;
    size_t vector_bytes; /* that it was made for */
    struct {
        struct heap_block *block;
        uint32_t page; /* in the block, or HEADER_PAGE */
        bool good;
    } pages[READER_PAGES];
    size_t n_pages;
};

void ivf_reader_destroy(struct ivf_reader *r)
{
    if (!r)
        return;
    io_batch_destroy(r->batch);
    sidecar_close(r->sidecar);
    mn_free(r->conn->db->alloc, r->raw);
    mn_free(r->conn->db->alloc, r);
}

static size_t reader_room(size_t vector_bytes)
{
    size_t room = READER_VECTORS * (1 + (vector_bytes + HEAP_PAGE - 1) / HEAP_PAGE);
    return room < READER_PAGES ? room : READER_PAGES;
}

size_t ivf_reader_bytes(size_t vector_bytes)
{
    return reader_room(vector_bytes) * HEAP_PAGE + IO_ALIGN;
}

mn_status ivf_reader_create(mn_conn *conn, size_t vector_bytes, struct ivf_reader **out,
                            mn_error *err)
{
    struct sidecar *s = NULL;
    *out = NULL;
    mn_status st = ivf_sidecar(conn, &s, err);
    if (st == MN_OK && s)
        st = ivf_reader_open(conn, s, vector_bytes, out, err);
    sidecar_close(s);
    return st;
}

mn_status ivf_reader_open(mn_conn *conn, struct sidecar *s, size_t vector_bytes,
                          struct ivf_reader **out, mn_error *err)
{
    mn_db *db = conn->db;
    mn_status st = MN_OK;
    *out = NULL;
    struct ivf_reader *r = mn_alloc_array(db->alloc, 1, sizeof *r, MN_TAG_HANDLE);
    if (!r)
        return no_memory(db, err);
    r->conn = conn;
    r->sidecar = sidecar_share(s);
    r->vector_bytes = vector_bytes;
    r->room = reader_room(vector_bytes);
    r->raw = mn_alloc(db->alloc, ivf_reader_bytes(vector_bytes), MN_TAG_IO);
    if (!r->raw)
        st = no_memory(db, err);
    if (st == MN_OK) {
        r->arena = r->raw + (IO_ALIGN - (uintptr_t)r->raw % IO_ALIGN) % IO_ALIGN;
        struct mn_file *file = sidecar_file(s);
        struct io_batch_opts opts = {.depth = 64,
                                     .max_reads = (unsigned)r->room,
                                     .files = &file,
                                     .n_files = 1,
                                     .arena = r->arena,
                                     .arena_bytes = r->room * HEAP_PAGE};
        st = io_batch_create(db->disk, &opts, &r->batch, err);
    }
    if (st)
        ivf_reader_destroy(r);
    else
        *out = r;
    return st;
}

struct sidecar *ivf_reader_sidecar(const struct ivf_reader *r)
{
    return r->sidecar;
}

bool ivf_reader_fits(const struct ivf_reader *r, size_t vector_bytes)
{
    mn_db *db = r->conn->db;
    pthread_mutex_lock(&db->sidecar_lock);
    bool fits = r->sidecar == db->sidecar && r->vector_bytes >= vector_bytes;
    pthread_mutex_unlock(&db->sidecar_lock);
    return fits;
}

size_t ivf_reader_most(const struct ivf_reader *r)
{
    return r->room / (1 + (r->vector_bytes + HEAP_PAGE - 1) / HEAP_PAGE); /* and a header each */
}

/* Index of a page in r->pages, added if it is new; r->room: no room. */
static size_t want_page(struct ivf_reader *r, struct heap_block *b, uint32_t page)
{
    for (size_t i = 0; i < r->n_pages; i++)
        if (r->pages[i].block == b && r->pages[i].page == page)
            return i;
    if (r->n_pages == r->room)
        return r->room;
    r->pages[r->n_pages].block = b;
    r->pages[r->n_pages].page = page;
    r->pages[r->n_pages].good = false;
    return r->n_pages++;
}

/* Block of the file that an entry of r->pages stands for. */
static uint64_t page_place(const struct ivf_reader *r, size_t i)
{
    const struct extent_ref *ref = &r->pages[i].block->ref;
    return r->pages[i].page == HEADER_PAGE ? ref->first_block : extent_page(ref, r->pages[i].page);
}

/* CRCs out of a header that was read. */
static bool take_header(struct ivf_reader *r, size_t i)
{
    struct extent_view v;
    uint32_t crcs[HEAP_BLOCK_PAGES];
    struct heap_block *b = r->pages[i].block;
    if (extent_header_check(sidecar_path(r->sidecar), sidecar_db_tag(r->sidecar), &b->ref,
                            r->arena + i * HEAP_PAGE, EXTENT_BLOCK, &v, NULL) ||
        v.at.n_crcs > HEAP_BLOCK_PAGES)
        return false;
    for (uint32_t j = 0; j < v.at.n_crcs; j++)
        crcs[j] = le32_get(v.crc_table + 4 * (size_t)j);
    return heap_block_set_crcs(r->conn->db, b, crcs, v.at.n_crcs);
}

static bool check_page(struct ivf_reader *r, size_t i)
{
    const uint32_t *crcs = atomic_load_explicit(&r->pages[i].block->crcs, memory_order_acquire);
    return crcs &&
           extent_page_check(sidecar_path(r->sidecar), page_place(r, i), crcs[r->pages[i].page],
                             r->arena + i * HEAP_PAGE, NULL) == MN_OK;
}

static mn_status read_pages(struct ivf_reader *r, bool *lost, mn_error *err)
{
    struct io_want wants[READER_PAGES];
    struct io_done done;
    for (size_t i = 0; i < r->n_pages; i++)
        wants[i] = (struct io_want){.file = sidecar_file(r->sidecar),
                                    .off = page_place(r, i) * EXTENT_BLOCK,
                                    .len = HEAP_PAGE,
                                    .buf = r->arena + i * HEAP_PAGE,
                                    .tag = i};
    mn_status st = io_batch_submit(r->batch, wants, r->n_pages, err);
    while (st == MN_OK && io_batch_next(r->batch, -1, &done))
        r->pages[done.tag].good = done.error == 0;
    for (size_t i = 0; i < r->n_pages && st == MN_OK; i++)
        if (r->pages[i].page == HEADER_PAGE)
            r->pages[i].good = r->pages[i].good && take_header(r, i);
    for (size_t i = 0; i < r->n_pages && st == MN_OK; i++) {
        if (r->pages[i].page != HEADER_PAGE)
            r->pages[i].good = r->pages[i].good && check_page(r, i);
        if (r->pages[i].good)
            continue;
        heal_lose_block(r->conn->db, r->sidecar, r->pages[i].block, "a page cannot be read");
        *lost = true;
    }
    return st;
}

mn_status ivf_read(struct ivf_reader *r, const struct ivf *x, const struct ann_candidate *c,
                   size_t n, const void **vectors, uint64_t *reads, mn_error *err)
{
    size_t bytes = x->core->vector_bytes, per = (bytes + HEAP_PAGE - 1) / HEAP_PAGE;
    size_t first[ANN_MAX_BATCH];
    r->n_pages = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t row = 0;
        struct heap_block *b = ivf_heap_place(x, c[i].posting, c[i].part, c[i].slot, &row);
        size_t page = b ? heap_offset(bytes, row) / HEAP_PAGE : 0;
        first[i] = r->room;
        /* The header first: without it no page can be checked. */
        if (b && !atomic_load_explicit(&b->crcs, memory_order_relaxed) &&
            want_page(r, b, HEADER_PAGE) == r->room)
            continue;
        for (size_t j = 0; b && j < per; j++) {
            size_t at = want_page(r, b, (uint32_t)(page + j));
            if (j == 0)
                first[i] = at;
            else if (at != first[i] + j) /* pages of one vector must lie side by side */
                first[i] = r->room;
        }
    }
    bool lost = false;
    mn_status st = read_pages(r, &lost, err);
    if (lost)
        folder_tell(r->conn->db, x->core->entry.name);
    *reads += r->n_pages;
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        uint32_t row = 0;
        const struct heap_block *b = ivf_heap_place(x, c[i].posting, c[i].part, c[i].slot, &row);
        bool good = b && first[i] < r->room;
        for (size_t j = 0; good && j < per; j++)
            good = first[i] + j < r->n_pages && r->pages[first[i] + j].good;
        vectors[i] =
            good ? r->arena + first[i] * HEAP_PAGE + heap_offset(bytes, row) % HEAP_PAGE : NULL;
    }
    return st;
}
