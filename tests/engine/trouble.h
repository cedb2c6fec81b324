/* A database with one collection "c" under a small hybrid index, for the tests that cause trouble:
 * rows in and out, folds in memory, what a search says is pending, and answers compared with brute
 * force over the rows that the same connection SELECTs in the same transaction. */
#ifndef MN_TESTS_ENGINE_TROUBLE_H
#define MN_TESTS_ENGINE_TROUBLE_H

#include "src/engine/fold.h"
#include "tests/engine/indexed.h"

struct trouble {
    const char *path;
    mn_db *db;
    mn_conn *conn;
    struct brute b; /* shape, and the rows last loaded */
};

/* A way for children and threads too, which must not CHECK. */
static inline mn_status trouble_try_open(struct trouble *t, uint32_t flags, bool cold, mn_error *e)
{
    struct db_stage stage = {.limits = INDEXED_LIMITS};
    const mn_open_opts opts = {.flags = flags, .durability = MN_RELAXED};
    stage.limits.cold = stage.limits.away = cold; /* vectors and codes */
    mn_status st = db_open_on(t->path, &opts, &stage, &t->db, e);
    return st ? st : mn_connect(t->db, &t->conn, e);
}

static inline struct trouble trouble_open(const char *path, mn_dtype dtype, mn_metric metric,
                                          uint32_t dim, uint32_t flags)
{
    struct trouble t = {.path = path, .b = {.dtype = dtype, .metric = metric, .dim = dim}};
    mn_error e = {0};
    CHECK_OK(trouble_try_open(&t, flags, false, &e), e);
    return t;
}

static inline void trouble_close(struct trouble *t)
{
    mn_error e = {0};
    brute_free(&t->b);
    mn_disconnect(t->conn);
    CHECK_OK(mn_close(t->db, &e), e);
}

/* Rows [from, to) of a seed, in one transaction unless the connection has one. */
static inline mn_status trouble_try_put(mn_conn *conn, const struct brute *shape, int64_t from,
                                        int64_t to, uint64_t seed, mn_error *e)
{
    bool own = conn->txn == TXN_NONE;
    char *v = malloc(mn_vector_bytes(shape->dtype, shape->dim));
    mn_status st = v && own ? mn_begin_write(conn, e) : MN_OK;
    for (int64_t id = from; v && id < to && st == MN_OK; id++) {
        indexed_vector(shape->dtype, shape->dim, seed, (uint64_t)id, v);
        st = mn_put(conn, "c", &(mn_row){.id = id, .vector = v}, 1, NULL, e);
    }
    if (st == MN_OK && own)
        st = mn_commit(conn, e);
    free(v);
    return v ? st : MN_NOMEM;
}

static inline void trouble_put(struct trouble *t, int64_t from, int64_t to, uint64_t seed)
{
    mn_error e = {0};
    CHECK_OK(trouble_try_put(t->conn, &t->b, from, to, seed, &e), e);
}

static inline void trouble_delete(mn_conn *conn, int64_t from, int64_t to)
{
    mn_error e = {0};
    for (int64_t id = from; id < to; id++)
        CHECK_OK(mn_delete(conn, "c", &(mn_id){.id = id}, 1, NULL, &e), e);
}

/* A collection of rows [1, rows], with its index. */
static inline void trouble_fill(struct trouble *t, int64_t rows)
{
    mn_error e = {0};
    const mn_collection_opts opts = {
        .dim = t->b.dim, .dtype = t->b.dtype, .metric = t->b.metric};
    CHECK_OK(mn_create(t->conn, "c", &opts, &e), e);
    trouble_put(t, 1, rows + 1, 1);
    CHECK_OK(mn_fold(t->conn, "c", &e), e);
}

/* What several searches of this connection answer, against the rows of `b`. NULL, or what is wrong;
 * *by_index counts those that the index answered. */
static inline bool trouble_keeps(void *ctx, int64_t id)
{
    (void)ctx;
    return id % 3 != 0;
}

static inline bool trouble_filter(void *ctx, const mn_row *row)
{
    return trouble_keeps(ctx, row->id);
}

static inline const char *trouble_compare(mn_conn *conn, const struct brute *b, bool estimated,
                                          uint64_t *by_index)
{
    static _Thread_local uint64_t drawn;
    struct indexed_recall sum = {0};
    const char *wrong = NULL;
    char *query = malloc(mn_vector_bytes(b->dtype, b->dim));
    for (int i = 0; i < 5 && query && !wrong; i++) {
        indexed_vector(b->dtype, b->dim, 3, 70000 + drawn++, query);
        struct indexed_query q = {.name = "c",
                                  .vector = query,
                                  .k = i == 4 ? 40 : 10,
                                  .estimated = estimated,
                                  .opts.recall = i == 0 ? 1.0 : 0.95};
        if (i == 3) {
            q.keep = trouble_keeps;
            q.opts.filter = trouble_filter;
        }
        wrong = indexed_check(conn, b, &q, &sum);
    }
    free(query);
    if (!wrong && sum.found < 0.6 * sum.wanted)
        wrong = brute_says("%g of %g hits", sum.found, sum.wanted);
    *by_index = sum.by_index;
    return wrong;
}

/* The rows of the connection's snapshot, and answers over them. How many came from the index. */
static inline uint64_t trouble_check(struct trouble *t, mn_conn *conn, const char *what)
{
    uint64_t by_index = 0;
    brute_load(&t->b, conn->sql, "c", "vector");
    const char *wrong = trouble_compare(conn, &t->b, false, &by_index);
    CHECKF(!wrong, "%s: %s", what, wrong);
    return by_index;
}

static inline void trouble_check_mended(struct trouble *t, const char *what)
{
    mn_error e = {0};
    mn_status st = mn_fold(t->conn, "c", &e);
    CHECKF(st == MN_OK, "%s: fold: %s", what, e.message);
    CHECKF(trouble_check(t, t->conn, what) > 0 || t->b.n < t->db->limits.min_rows,
           "%s: the index does not answer", what);
    const char *wrong = indexed_verify(t->conn);
    CHECKF(!wrong, "%s: %s", what, wrong);
}

/* One search: changed rows that it scored one by one; UINT64_MAX: the index did not answer. */
static inline uint64_t trouble_pending(mn_conn *conn, const struct brute *shape)
{
    mn_error e = {0};
    mn_search_stats stats = {0};
    mn_search_opts opts = {.stats = &stats};
    mn_hit hit;
    uint32_t found;
    char *v = malloc(mn_vector_bytes(shape->dtype, shape->dim));
    CHECK(v);
    indexed_vector(shape->dtype, shape->dim, 3, 9, v);
    CHECK_OK(mn_search(conn, "c", v, 1, 1, &opts, &hit, &found, &e), e);
    free(v);
    return stats.from_index ? stats.rows_pending : UINT64_MAX;
}

/* Folds what is pending in memory now, as the thread that folds and every 16th search do. */
static inline mn_status trouble_try_fold_ahead(mn_conn *conn, const char *name, bool *did,
                                               mn_error *e)
{
    struct coll *c;
    *did = false;
    mn_status st = conn_enter(conn, e);
    if (st)
        return st;
    st = scope_read(conn, e);
    if (st == MN_OK)
        st = coll_get(conn, name, &c, e);
    if (st == MN_OK)
        st = fold_in_memory(conn, c, true, did, e);
    return conn_leave(conn, scope_end(conn, st, e), e);
}

static inline bool trouble_fold_ahead(mn_conn *conn)
{
    mn_error e = {0};
    bool did = false;
    CHECK_OK(trouble_try_fold_ahead(conn, "c", &did, &e), e);
    return did;
}

/* As a plain SQLite client. */
static inline void trouble_sql(const char *path, const char *text)
{
    sqlite3 *db = NULL;
    char *message = NULL;
    CHECK(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    int rc = sqlite3_exec(db, "PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON", NULL, NULL,
                          NULL);
    rc = rc == SQLITE_OK ? sqlite3_exec(db, text, NULL, NULL, &message) : rc;
    CHECKF(rc == SQLITE_OK, "%s: %s", text, message);
    sqlite3_close(db);
}

static inline int64_t trouble_number(mn_conn *conn, const char *text)
{
    sqlite3_stmt *st = NULL;
    CHECKF(sqlite3_prepare_v2(conn->sql, text, -1, &st, NULL) == SQLITE_OK, "%s",
           sqlite3_errmsg(conn->sql));
    int64_t n = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : -1;
    sqlite3_finalize(st);
    return n;
}

#endif
