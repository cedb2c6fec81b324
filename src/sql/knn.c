/*
 * knn(collection, query [, k [, where]]): the nearest rows of any collection, whoever made it: for
 * tables under mneme_index() and collections of the C API.
 *
 *   SELECT docs.*, distance FROM knn('docs', :q, 10, 'lang = ''en''') JOIN docs USING (id)
 *
 * Columns: id (the text id in a collection with text ids), distance, rank from 1; its rowid is the
 * row's int64 id in any collection. The arguments
 * are hidden columns, as are recall and exact: WHERE recall = 0.99.
 */
#include <string.h>

#include "src/engine/engine.h"
#include "src/sql/alive.h"
#include "src/sql/sql.h"
#include "src/sql/value.h"
#include "src/sql/where.h"
#include "storage/base/error.h"
#include "storage/sql.h"

enum { DEFAULT_K = 10 };

enum column {
    COLUMN_ID,
    COLUMN_DISTANCE,
    COLUMN_RANK,
    ARGUMENT_COLLECTION,
    ARGUMENT_QUERY,
    ARGUMENT_K,
    ARGUMENT_WHERE,
    ARGUMENT_RECALL,
    ARGUMENT_EXACT,
    COLUMNS
};

static const char *const argument_names[COLUMNS] = {
    [ARGUMENT_COLLECTION] = "collection", [ARGUMENT_QUERY] = "query",   [ARGUMENT_K] = "k",
    [ARGUMENT_WHERE] = "where",           [ARGUMENT_RECALL] = "recall", [ARGUMENT_EXACT] = "exact"};

struct function {
    sqlite3_vtab base;
    struct session *s;
};

struct cursor {
    sqlite3_vtab_cursor base;
    mn_hit *hits; /* [n] */
    uint32_t n, i;
    char *table;        /* with text ids: where they are; NULL */
    sqlite3_stmt *text; /* ?1 id -> text id */
};

static int on_connect(sqlite3 *sql, void *aux, int argc, const char *const *argv,
                      sqlite3_vtab **out, char **message)
{
    (void)argc;
    (void)argv;
    (void)message;
    session_settle_early(aux);
    struct function *f = sqlite3_malloc(sizeof *f);
    int rc = f ? sqlite3_declare_vtab(sql, "CREATE TABLE x(id, distance REAL, rank INTEGER, "
                                           "collection HIDDEN, query HIDDEN, "
                                           "k HIDDEN, \"where\" HIDDEN, recall HIDDEN, "
                                           "exact HIDDEN)")
               : SQLITE_NOMEM;
    if (rc != SQLITE_OK) {
        sqlite3_free(f);
        return rc;
    }
    *f = (struct function){.s = aux};
    *out = &f->base;
    return SQLITE_OK;
}

static int on_disconnect(sqlite3_vtab *base)
{
    sqlite3_free(base);
    return SQLITE_OK;
}

/* idxStr: a letter an argument, 'a' + its column. */
static int on_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    char given[COLUMNS + 1] = "";
    int n = 0;
    bool seen[COLUMNS] = {false};
    for (int i = 0; i < info->nConstraint; i++) {
        int column = info->aConstraint[i].iColumn;
        if (column < ARGUMENT_COLLECTION || column >= COLUMNS)
            continue;
        if (info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ || seen[column]) {
            sqlite3_free(base->zErrMsg);
            base->zErrMsg = sqlite3_mprintf("knn: '%s' is an argument: it is given once, as such "
                                            "or by =, and compared in no other way",
                                            argument_names[column]);
            return SQLITE_ERROR;
        }
        if (!info->aConstraint[i].usable)
            return SQLITE_CONSTRAINT;
        seen[column] = true;
        info->aConstraintUsage[i].argvIndex = n + 1;
        info->aConstraintUsage[i].omit = 1;
        given[n++] = (char)('a' + column);
    }
    for (int c = ARGUMENT_COLLECTION; c <= ARGUMENT_QUERY; c++) {
        if (seen[c])
            continue;
        sqlite3_free(base->zErrMsg);
        base->zErrMsg = sqlite3_mprintf("knn: the argument '%s' is missing; call it as "
                                        "knn('docs', :vector, 10)",
                                        argument_names[c]);
        return SQLITE_ERROR;
    }
    info->idxStr = sqlite3_mprintf("%s", given);
    info->needToFreeIdxStr = 1;
    info->estimatedCost = 100;
    info->estimatedRows = DEFAULT_K;
    info->orderByConsumed =
        info->nOrderBy == 1 && !info->aOrderBy[0].desc &&
        (info->aOrderBy[0].iColumn == COLUMN_DISTANCE || info->aOrderBy[0].iColumn == COLUMN_RANK);
    return info->idxStr ? SQLITE_OK : SQLITE_NOMEM;
}

static int on_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    struct cursor *c = sqlite3_malloc(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    *out = &c->base;
    return SQLITE_OK;
}

static void empty(struct cursor *c)
{
    sqlite3_finalize(c->text);
    sqlite3_free(c->hits);
    sqlite3_free(c->table);
    c->hits = NULL;
    c->table = NULL;
    c->text = NULL;
    c->n = c->i = 0;
}

static int on_close(sqlite3_vtab_cursor *base)
{
    empty((struct cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

/* What is asked for; NULL arguments as if they were not given. */
struct request {
    const char *collection, *where;
    sqlite3_value *query;
    int64_t k;
    double recall;
};

static mn_status read_request(const char *given, sqlite3_value **argv, struct request *r,
                              mn_error *err)
{
    *r = (struct request){.k = DEFAULT_K};
    for (size_t i = 0; given[i]; i++) {
        sqlite3_value *v = argv[i];
        int column = given[i] - 'a', type = sqlite3_value_numeric_type(v);
        if (column == ARGUMENT_QUERY)
            r->query = v;
        if (sqlite3_value_type(v) == SQLITE_NULL)
            continue;
        if (column >= ARGUMENT_K && column != ARGUMENT_WHERE && type != SQLITE_INTEGER &&
            (type != SQLITE_FLOAT || column == ARGUMENT_K))
            return mn_fail(err, MN_INVALID, "knn: %s = '%.40s' is no %s", argument_names[column],
                           (const char *)sqlite3_value_text(v),
                           column == ARGUMENT_K ? "whole number" : "number");
        if (column == ARGUMENT_COLLECTION)
            r->collection = (const char *)sqlite3_value_text(v);
        else if (column == ARGUMENT_WHERE)
            r->where = (const char *)sqlite3_value_text(v);
        else if (column == ARGUMENT_K)
            r->k = sqlite3_value_int64(v);
        else if (column == ARGUMENT_RECALL)
            r->recall = sqlite3_value_double(v);
        else if (column == ARGUMENT_EXACT && sqlite3_value_double(v) != 0)
            r->recall = 1;
    }
    if (!r->collection)
        return mn_fail(err, MN_INVALID, "knn: the collection's name is NULL");
    if (r->k < 0 || r->k > MN_MAX_K)
        return mn_fail(err, MN_INVALID, "knn: k is %lld; it must be 0 to %u", (long long)r->k,
                       MN_MAX_K);
    return MN_OK;
}

static mn_status run(struct session *s, mn_conn *conn, const struct request *r, struct cursor *c,
                     mn_error *err)
{
    struct coll *coll;
    struct where where = {0};
    struct alive alive = {.now = 0};
    char table[MN_MAX_NAME + 1] = "";
    void *query = NULL;
    char what[MN_MAX_NAME + 16];
    mn_status st = scope_read(conn, err);
    if (st)
        return st;
    sqlite3_snprintf(sizeof what, what, "knn('%s')", r->collection);
    st = coll_get(conn, r->collection, &coll, err);
    if (st == MN_OK) {
        const struct catalog_entry *e = &coll->entry;
        struct vector_type type = {e->dtype, e->metric, e->dim};
        memcpy(table, e->table, sizeof table);
        st = value_vector(conn->db->kernels, &type, r->query, what, &query, err);
        if (st == MN_OK && e->id_kind == MN_ID_TEXT &&
            !(c->table = sqlite3_mprintf("%s", e->table)))
            st = mn_fail(err, MN_NOMEM, "out of memory");
    }
    if (st == MN_OK)
        st = where_read(conn, coll, r->where, &where, err);
    st = scope_end(conn, st, err);
    if (st == MN_OK)
        st = alive_of(s, table, &alive, err);
    if (st == MN_OK && query && r->k) {
        mn_search_opts opts = {.where = where.conditions,
                               .n_where = where.n,
                               .only_ids = where.ids,
                               .n_only_ids = where.n_ids,
                               .recall = r->recall,
                               .filter = *alive.column ? alive_row : NULL,
                               .filter_ctx = &alive,
                               .stats = session_stats(s)};
        c->hits = sqlite3_malloc64((sqlite3_uint64)r->k * sizeof *c->hits);
        st = c->hits ? mn_search(conn, r->collection, query, 1, (uint32_t)r->k, &opts, c->hits,
                                 &c->n, err)
                     : mn_fail(err, MN_NOMEM, "out of memory");
        session_searched(s);
    }
    where_fini(&where);
    sqlite3_free(query);
    return st;
}

static int on_filter(sqlite3_vtab_cursor *base, int number, const char *given, int argc,
                     sqlite3_value **argv)
{
    struct cursor *c = (struct cursor *)base;
    struct session *s = ((struct function *)base->pVtab)->s;
    struct request r;
    mn_error err = {0};
    mn_conn *conn;
    (void)number;
    (void)argc;
    empty(c);
    mn_status st = read_request(given, argv, &r, &err);
    if (st == MN_OK)
        st = session_enter(s, &conn, &err);
    if (st)
        return session_refuse(base->pVtab, st, &err);
    st = run(s, conn, &r, c, &err);
    session_leave(s);
    if (st)
        empty(c);
    return st ? session_refuse(base->pVtab, st, &err) : SQLITE_OK;
}

static int on_next(sqlite3_vtab_cursor *base)
{
    ((struct cursor *)base)->i++;
    return SQLITE_OK;
}

static int on_eof(sqlite3_vtab_cursor *base)
{
    const struct cursor *c = (struct cursor *)base;
    return c->i >= c->n;
}

static int result_id(struct cursor *c, sqlite3_context *ctx)
{
    sqlite3 *sql = session_sql(((struct function *)c->base.pVtab)->s);
    int64_t id = c->hits[c->i].id;
    mn_error err = {0};
    if (!c->table) {
        sqlite3_result_int64(ctx, id);
        return SQLITE_OK;
    }
    mn_status st = c->text
                       ? MN_OK
                       : sql_preparef(sql, &c->text, &err,
                                      "SELECT text_id FROM main.\"%w\" WHERE id = ?1", c->table);
    bool row = false;
    if (st == MN_OK) {
        sqlite3_bind_int64(c->text, 1, id);
        st = sql_step(c->text, &row, &err);
    }
    if (row)
        sqlite3_result_value(ctx, sqlite3_column_value(c->text, 0));
    sqlite3_reset(c->text);
    return st ? session_refuse(c->base.pVtab, st, &err) : SQLITE_OK;
}

static int on_column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int column)
{
    struct cursor *c = (struct cursor *)base;
    switch (column) {
    case COLUMN_ID:
        return result_id(c, ctx);
    case COLUMN_DISTANCE:
        sqlite3_result_double(ctx, c->hits[c->i].distance);
        break;
    case COLUMN_RANK:
        sqlite3_result_int64(ctx, (sqlite3_int64)c->i + 1);
        break;
    default:
        break;
    }
    return SQLITE_OK;
}

static int on_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out)
{
    const struct cursor *c = (struct cursor *)base;
    *out = c->hits[c->i].id;
    return SQLITE_OK;
}

int knn_register(struct session *s)
{
    static const sqlite3_module module = {.iVersion = 1,
                                          .xConnect = on_connect,
                                          .xDisconnect = on_disconnect,
                                          .xBestIndex = on_best_index,
                                          .xOpen = on_open,
                                          .xClose = on_close,
                                          .xFilter = on_filter,
                                          .xNext = on_next,
                                          .xEof = on_eof,
                                          .xColumn = on_column,
                                          .xRowid = on_rowid};
    return sqlite3_create_module_v2(session_sql(s), "knn", &module, session_hold(s),
                                    session_release);
}
