#include "src/engine/ivf_verify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "index/centroid_graph.h"
#include "index/scan.h"
#include "src/engine/cache.h"
#include "src/engine/fold.h"
#include "src/engine/ivf_away.h"
#include "src/engine/ivf_heal.h"
#include "src/engine/ivf_store.h"
#include "storage/bulk.h"
#include "storage/extents.h"
#include "storage/sql.h"

enum { COLD_BATCH = 64 }; /* copies read at once */

enum { MAX_FINDINGS = 100 }; /* sentences about rows; further ones are counted */

enum { WINDOW = 32, WINDOW_BYTES = 8 << 20 }; /* extents read at once, at most; but one at least */

/* Where a row of the index stands. */
struct place {
    int64_t id;
    uint32_t use, row; /* as ann_candidate.slot */
};

struct check {
    mn_conn *conn;
    struct coll *c;
    void (*found)(void *ctx, const char *what);
    void *ctx;
    struct ivf *x;
    const struct view *v; /* knows the rows changed since the index's position */
    struct ivf_reader *reader;
    struct ann_candidate cold[COLD_BATCH]; /* [n_cold] rows whose copies are still to be read */
    char *vectors;                         /* [n_cold] of them */
    size_t n_cold;
    struct place *places; /* [n] by id */
    size_t n;
    uint64_t findings, rows;
};

__attribute__((format(printf, 2, 3))) static void report(struct check *k, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (k->findings++ < MAX_FINDINGS)
        k->found(k->ctx, what);
}

/* ---- Extents --------------------------------------------------------------------------------- */

static const char *kind_name(uint16_t kind)
{
    static const char *const names[] = {[KIND_CORE] = "core",
                                        [KIND_PACK] = "pack",
                                        [KIND_HEAP] = "heap block",
                                        [KIND_DIRECTORY] = "directory"};
    return kind && kind < sizeof names / sizeof *names ? names[kind] : "extent";
}

static bool is_same(const struct extent_ref *a, const struct extent_ref *b)
{
    return a->first_block == b->first_block && a->generation == b->generation;
}

/* An extent of the version in memory, which is well itself: the next fold writes it again. */
static void mark_bad(struct check *k, struct sidecar *s, const struct extent_ref *ref,
                     const mn_error *why)
{
    mn_db *db = k->conn->db;
    struct ivf *x = k->x;
    if (!x)
        return;
    if (ref->kind == KIND_CORE && is_same(ref, &x->core->ref))
        heal_lose_core(db, s, x->core, why);
    if (ref->kind == KIND_DIRECTORY && is_same(ref, &x->directory))
        heal_lose_directory(db, s, x, why->message);
    if (ref->kind == KIND_HEAP && ref->object < x->n_heap &&
        is_same(ref, &x->heap[ref->object]->ref))
        heal_lose_block(db, s, x->heap[ref->object], why->message);
    for (uint32_t i = 0; ref->kind == KIND_PACK && i < x->n_uses; i++)
        if (x->uses[i].pack->object == ref->object && is_same(ref, &x->uses[i].pack->ref)) {
            if (x->uses[i].pack->away) {
                ivf_lose_away(db, s, x->uses[i].pack, why->message);
                ivf_break(x);
            } else {
                heal_lose_pack(db, s, x->uses[i].pack, why->message);
            }
            break;
        }
}

/* Reads n extents at once and reports the bad ones. */
static mn_status check_window(struct check *k, struct sidecar *s, const struct extent_ref *refs,
                              size_t n, size_t bytes, bool *bad, mn_error *err)
{
    struct mn_alloc *a = k->conn->db->alloc;
    struct bulk_want wants[WINDOW];
    struct bulk_done done;
    struct bulk *b = NULL;
    char *buf = mn_alloc_aligned(a, bytes, IO_ALIGN, MN_TAG_IO), *at = buf;
    mn_status st = buf ? MN_OK
                       : mn_fail(err, MN_NOMEM,
                                 "verify: index of '%s': out of memory under the cap for an extent "
                                 "of %zu bytes",
                                 k->c->entry.name, bytes);
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        wants[i] = (struct bulk_want){.ref = refs[i], .buf = at};
        at += (size_t)refs[i].n_blocks * EXTENT_BLOCK;
    }
    if (st == MN_OK)
        st = bulk_create(k->conn->db->disk, s, a, wants, n, &b, err);
    while (st == MN_OK && bulk_next(b, &done))
        if (done.status) {
            const struct extent_ref *ref = &refs[done.i];
            report(k, "%s %u: %s", kind_name(ref->kind), ref->object, done.err.message);
            mark_bad(k, s, ref, &done.err);
            *bad = true;
        }
    bulk_destroy(b);
    mn_free(a, buf);
    return st;
}

/* Every checksum of every extent; and the catalog's rows about them. */
static mn_status check_all(struct check *k, struct sidecar *s, bool *bad, mn_error *err)
{
    struct sidecar_meta meta;
    struct extents list = {0};
    uint64_t room = mn_alloc_cap(k->conn->db->alloc) - mn_alloc_used(k->conn->db->alloc);
    size_t most = room / 2 < WINDOW_BYTES ? (size_t)room / 2 : WINDOW_BYTES;
    mn_status st = extents_meta(k->conn->sql, &meta, err);
    if (st == MN_OK)
        st = extents_load(k->conn->sql, k->conn->db->alloc, &meta, (uint32_t)k->c->entry.number,
                          &list, err);
    if (st == MN_OK && list.message[0])
        report(k, "%s", list.message);
    for (size_t first = 0; first < list.n && st == MN_OK;) {
        size_t n = 0, bytes = 0, more = (size_t)list.refs[first].n_blocks * EXTENT_BLOCK;
        do {
            bytes += more;
            n++;
            more = first + n < list.n ? (size_t)list.refs[first + n].n_blocks * EXTENT_BLOCK : 0;
        } while (more && n < WINDOW && bytes + more <= most);
        st = check_window(k, s, list.refs + first, n, bytes, bad, err);
        first += n;
        if (st == MN_OK)
            st = conn_tick(k->conn, err);
    }
    extents_fini(k->conn->db->alloc, &list);
    return st;
}

static mn_status check_extents(struct check *k, mn_error *err)
{
    struct sidecar *s = NULL;
    bool bad = false;
    mn_status st = ivf_sidecar(k->conn, &s, err);
    if (st == MN_OK && s)
        st = check_all(k, s, &bad, err);
    sidecar_close(s);
    if (bad)
        folder_tell(k->conn->db, k->c->entry.name);
    return st;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static int by_id(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* Searches of many postings find their centroids by a graph: each must be reachable. */
static mn_status check_graph(struct check *k, mn_error *err)
{
    const struct centroid_graph *graph = k->x->core->centroids->graph;
    mn_error e = {0};
    mn_status st = graph ? centroid_graph_check(graph, k->conn->db->alloc, &e) : MN_OK;
    if (st == MN_CORRUPT)
        report(k, "the graph over the centroids: %s", e.message);
    else if (st)
        return mn_fail(err, st, "verify: index of '%s': %s", k->c->entry.name, e.message);
    return MN_OK;
}

static mn_status add_places(void *ctx, uint32_t use, const struct ivf_part *part, mn_error *err)
{
    struct check *k = ctx;
    const struct ivf_use *u = &k->x->uses[use];
    (void)err;
    for (uint32_t row = 0; row < part->view.n; row++)
        if (!ivf_hides(u, row))
            k->places[k->n++] =
                (struct place){.id = posting_id(&part->view, row),
                               .use = use,
                               .row = u->pack->away && part->slots ? ivf_slot(part, row) : row};
    return MN_OK;
}

/* Lists the rows that the index holds, and says which stand twice. */
static mn_status list_places(struct check *k, mn_error *err)
{
    const struct ivf *x = k->x;
    k->places = mn_alloc_array(k->conn->db->alloc, x->rows, sizeof *k->places, MN_TAG_SEARCH);
    if (!k->places)
        return mn_fail(err, MN_NOMEM,
                       "verify: index of '%s': out of memory under the cap for %" PRIu64
                       " rows; raise memory",
                       k->c->entry.name, x->rows);
    mn_status st = ivf_walk_version(k->conn, x, add_places, k, err);
    if (st)
        return st;
    qsort(k->places, k->n, sizeof *k->places, by_id);
    for (size_t i = 1; i < k->n; i++)
        if (k->places[i].id == k->places[i - 1].id)
            report(k, "row %" PRId64 " stands in the index twice", k->places[i].id);
    return MN_OK;
}

static void compare(struct check *k, int64_t id, const void *copy, const void *vector)
{
    if (!copy)
        report(k, "row %" PRId64 ": its copy in the sidecar cannot be read", id);
    else if (memcmp(copy, vector, k->c->vector_bytes) != 0)
        report(k, "row %" PRId64 ": its copy in the sidecar is another vector", id);
}

/* Reads the copies that were put off, many at once. */
static mn_status check_cold(struct check *k, mn_error *err)
{
    const void *copies[COLD_BATCH] = {NULL};
    uint64_t reads = 0;
    mn_status st = MN_OK;
    if (k->n_cold && k->reader)
        st = ivf_read(k->reader, k->x, k->cold, k->n_cold, copies, &reads, err);
    for (size_t i = 0; i < k->n_cold && st == MN_OK; i++)
        compare(k, k->cold[i].id, copies[i], k->vectors + i * k->c->vector_bytes);
    k->n_cold = 0;
    return st;
}

/* The index's copy of the vector must be the row's. What is not in memory is put off. */
static mn_status check_copy(struct check *k, const struct place *p, const void *vector,
                            mn_error *err)
{
    const struct ivf *x = k->x;
    uint32_t row, posting = ivf_use_part(&x->uses[p->use])->posting;
    struct ann_candidate c = {
        .id = p->id, .posting = posting, .part = p->use - x->first[posting], .slot = p->row};
    const void *copy = ivf_vector(x, c.posting, c.part, c.slot);
    const struct heap_block *b = ivf_heap_place(x, c.posting, c.part, c.slot, &row);
    if (k->c->entry.rerank != MN_RERANK_COPY)
        return MN_OK;
    if (b && atomic_load_explicit(&b->lost, memory_order_relaxed))
        return MN_OK; /* that was said */
    if (copy) {
        compare(k, p->id, copy, vector);
        return MN_OK;
    }
    k->cold[k->n_cold] = c;
    memcpy(k->vectors + k->n_cold++ * k->c->vector_bytes, vector, k->c->vector_bytes);
    bool full = k->n_cold == COLD_BATCH || (k->reader && k->n_cold == ivf_reader_most(k->reader));
    return full ? check_cold(k, err) : MN_OK;
}

/* Whether the row can stand in an index at all: foreign clients may write what is no vector. */
static bool can_stand(const struct check *k, const void *vector)
{
    mn_error e = {0};
    return vector && scan_check_vector(k->c->entry.dtype, k->c->entry.metric, k->c->entry.dim,
                                       vector, "row", &e) == MN_OK;
}

/* Walks rows and places together. Rows changed since are the log's business. */
static mn_status check_rows(struct check *k, mn_error *err)
{
    sqlite3_stmt *st;
    bool row = false;
    size_t at = 0;
    mn_status status = coll_stmt(k->conn, k->c, STMT_SCAN, &st, err);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        int64_t id = sqlite3_column_int64(st, 0);
        for (; at < k->n && k->places[at].id < id; at++)
            if (!view_changed(k->v, k->places[at].id))
                report(k, "row %" PRId64 " stands in the index, but is not there",
                       k->places[at].id);
        bool in_index = at < k->n && k->places[at].id == id;
        bool changed = view_changed(k->v, id);
        struct row_vector v;
        row_vector_at(k->conn->db, k->c, st, 1, &v);
        if (!in_index && !changed && can_stand(k, v.bytes))
            report(k, "row %" PRId64 " is neither in the index nor among the changed rows", id);
        if (in_index && !changed && !v.bytes)
            report(k, "row %" PRId64 " stands in the index, but has no vector", id);
        else if (in_index && !changed)
            status = check_copy(k, &k->places[at], v.bytes, err);
        at += in_index;
        if (status == MN_OK && ++k->conn->done % 1024 == 0)
            status = conn_tick(k->conn, err);
    }
    sqlite3_reset(st);
    if (status == MN_OK)
        status = check_cold(k, err);
    for (; status == MN_OK && at < k->n; at++)
        if (!view_changed(k->v, k->places[at].id))
            report(k, "row %" PRId64 " stands in the index, but is not there", k->places[at].id);
    return status;
}

/* The snapshot's view by the index: as searches share it; or, where they have another version or
 * are loading one, by a version of its own. *out NULL: no search can have one. */
static mn_status view_to_check(mn_conn *conn, struct coll *c, struct view **out, mn_error *err)
{
    struct ivf *own = NULL;
    uint64_t pending;
    mn_status st = cache_indexed(conn, c, out, &pending, err);
    if (st || *out)
        return st;
    st = ivf_load(conn, c, NULL, &own, err);
    if (own)
        st = cache_indexed_by(conn, c, own, out, err);
    ivf_release(conn->db, own);
    return st;
}

mn_status ivf_verify(mn_conn *conn, struct coll *c, void (*found)(void *ctx, const char *what),
                     void *ctx, mn_error *err)
{
    struct check k = {.conn = conn, .c = c, .found = found, .ctx = ctx};
    struct ivf_place place;
    struct view *v = NULL;
    mn_status st = ivf_where(conn, c, &place, err);
    if (st || !place.there)
        return st;
    st = view_to_check(conn, c, &v, err);
    k.x = v ? view_base(v) : NULL;
    if (st == MN_OK)
        st = check_extents(&k, err);
    if (st == MN_OK && !v) {
        report(&k, "the index cannot be used (lost, damaged, or behind the change log); searches "
                   "read the rows until it is built anew");
        return MN_OK;
    }
    k.v = v;
    if (k.x && k.x->n_lost)
        report(&k, "%u packs of the index are lost; up to %" PRIu64 " rows are read from the table "
                   "until the next fold",
               k.x->n_lost, heal_lost_rows(k.x));
    if (st == MN_OK)
        st = ivf_reader_create(conn, c->vector_bytes, &k.reader, err);
    k.vectors = mn_alloc_array(conn->db->alloc, COLD_BATCH, c->vector_bytes, MN_TAG_SEARCH);
    if (st == MN_OK && !k.vectors)
        st = mn_fail(err, MN_NOMEM, "verify: index of '%s': out of memory under the cap",
                     c->entry.name);
    if (st == MN_OK)
        st = check_graph(&k, err);
    if (st == MN_OK)
        st = list_places(&k, err);
    if (st == MN_OK)
        st = check_rows(&k, err);
    if (k.findings > MAX_FINDINGS) {
        char more[64];
        snprintf(more, sizeof more, "%" PRIu64 " further findings", k.findings - MAX_FINDINGS);
        found(ctx, more);
    }
    mn_free(conn->db->alloc, k.vectors);
    mn_free(conn->db->alloc, k.places);
    ivf_reader_destroy(k.reader);
    view_release(conn->db, v);
    return st;
}
