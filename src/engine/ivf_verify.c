#include "src/engine/ivf_verify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "index/centroid_graph.h"
#include "index/scan.h"
#include "src/engine/cache.h"
#include "src/engine/ivf_store.h"
#include "storage/sql.h"

enum { MAX_FINDINGS = 100 }; /* sentences about rows; further ones are counted */

/* Where a row of the index stands. */
struct place {
    int64_t id;
    uint32_t use, row;
};

struct check {
    mn_conn *conn;
    struct coll *c;
    void (*found)(void *ctx, const char *what);
    void *ctx;
    struct ivf *x;
    const struct view *v; /* knows the rows changed since the index's position */
    struct ivf_reader *reader;
    struct place *places; /* [n] by id */
    size_t n;
    uint64_t findings, rows;
};

__attribute__((format(printf, 2, 3))) static void report(struct check *k, const char *format, ...)
{
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (k->findings++ < MAX_FINDINGS)
        k->found(k->ctx, what);
}

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
    for (uint32_t i = 0; i < x->n_uses; i++) {
        const struct posting_view *v = &ivf_use_part(&x->uses[i])->view;
        const struct ivf_bitmap *h = x->uses[i].hidden;
        for (uint32_t row = 0; row < v->n; row++)
            if (!h || !(h->words[row / 64] >> (row % 64) & 1))
                k->places[k->n++] = (struct place){.id = posting_id(v, row), .use = i, .row = row};
    }
    qsort(k->places, k->n, sizeof *k->places, by_id);
    for (size_t i = 1; i < k->n; i++)
        if (k->places[i].id == k->places[i - 1].id)
            report(k, "row %" PRId64 " stands in the index twice", k->places[i].id);
    return MN_OK;
}

/* The index's copy of the vector must be the row's. */
static mn_status check_copy(struct check *k, const struct place *p, const void *vector,
                            mn_error *err)
{
    const struct ivf *x = k->x;
    uint32_t posting = ivf_use_part(&x->uses[p->use])->posting;
    struct ann_candidate c = {
        .id = p->id, .posting = posting, .part = p->use - x->first[posting], .slot = p->row};
    const void *copy = ivf_vector(x, c.posting, c.part, c.slot);
    uint64_t reads = 0;
    mn_status st = MN_OK;
    if (k->c->entry.rerank != MN_RERANK_COPY)
        return MN_OK;
    if (!copy && k->reader)
        st = ivf_read(k->reader, x, &c, 1, &copy, &reads, err);
    if (st)
        return st;
    if (!copy)
        report(k, "row %" PRId64 ": its copy in the sidecar cannot be read", p->id);
    else if (memcmp(copy, vector, k->c->vector_bytes) != 0)
        report(k, "row %" PRId64 ": its copy in the sidecar is another vector", p->id);
    return MN_OK;
}

/* Whether the row can stand in an index at all: foreign clients may write what is no vector. */
static bool can_stand(const struct check *k, sqlite3_stmt *st)
{
    mn_error e = {0};
    return sqlite3_column_type(st, 1) == SQLITE_BLOB &&
           (size_t)sqlite3_column_bytes(st, 1) == k->c->vector_bytes &&
           scan_check_vector(k->c->entry.dtype, k->c->entry.metric, k->c->entry.dim,
                             sqlite3_column_blob(st, 1), "row", &e) == MN_OK;
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
        if (!in_index && !changed && can_stand(k, st))
            report(k, "row %" PRId64 " is neither in the index nor among the changed rows", id);
        if (in_index && !changed)
            status = check_copy(k, &k->places[at], sqlite3_column_blob(st, 1), err);
        at += in_index;
        if (status == MN_OK && ++k->conn->done % 1024 == 0)
            status = conn_tick(k->conn, err);
    }
    sqlite3_reset(st);
    for (; status == MN_OK && at < k->n; at++)
        if (!view_changed(k->v, k->places[at].id))
            report(k, "row %" PRId64 " stands in the index, but is not there", k->places[at].id);
    return status;
}

mn_status ivf_verify(mn_conn *conn, struct coll *c, void (*found)(void *ctx, const char *what),
                     void *ctx, mn_error *err)
{
    struct check k = {.conn = conn, .c = c, .found = found, .ctx = ctx};
    struct ivf_place place;
    struct view *v = NULL;
    uint64_t pending;
    mn_status st = ivf_where(conn, c, &place, err);
    if (st || !place.there)
        return st;
    st = cache_indexed(conn, c, &v, &pending, err);
    if (st == MN_OK && !v) {
        report(&k, "the index cannot be used (lost, damaged, or behind the change log); searches "
                   "read the rows until it is built anew");
        return MN_OK;
    }
    k.v = v;
    k.x = v ? view_base(v) : NULL;
    if (st == MN_OK)
        st = ivf_reader_create(conn, c->vector_bytes, &k.reader, err);
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
    mn_free(conn->db->alloc, k.places);
    ivf_reader_destroy(k.reader);
    view_release(conn->db, v);
    return st;
}
