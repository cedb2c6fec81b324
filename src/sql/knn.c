/*
 * knn(collection, query [, k [, where]]): the nearest rows of any collection, whoever made it: for
 * tables under mneme_index() and collections of the C API.
 *
 *   SELECT docs.*, distance FROM knn('docs', :q, 10, 'lang = ''en''') JOIN docs USING (id)
 *
 * Columns: id (the text id in a collection with text ids), distance, rank from 1; its rowid is the
 * row's int64 id in any collection. The arguments are hidden columns, as are recall and exact:
 * WHERE recall = 0.99.
 */
#include "src/sql/alive.h"
#include "src/sql/ranked.h"
#include "src/sql/sql.h"
#include "src/sql/where.h"
#include "storage/base/error.h"

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

static const char *const columns[COLUMNS] = {
    [COLUMN_ID] = "id",         [COLUMN_DISTANCE] = "distance",
    [COLUMN_RANK] = "rank",     [ARGUMENT_COLLECTION] = "collection",
    [ARGUMENT_QUERY] = "query", [ARGUMENT_K] = "k",
    [ARGUMENT_WHERE] = "where", [ARGUMENT_RECALL] = "recall",
    [ARGUMENT_EXACT] = "exact"};

static const char *const types[] = {
    [COLUMN_ID] = "", [COLUMN_DISTANCE] = "REAL", [COLUMN_RANK] = "INTEGER"};

/* What is asked for; NULL arguments as if they were not given. */
struct request {
    const char *collection, *where;
    sqlite3_value *query;
    int64_t k;
    double recall;
};

static mn_status read_request(sqlite3_value **args, struct request *r, mn_error *err)
{
    *r = (struct request){.k = DEFAULT_K};
    for (int column = ARGUMENT_COLLECTION; column < COLUMNS; column++) {
        sqlite3_value *v = args[column];
        if (!v)
            continue;
        int type = sqlite3_value_numeric_type(v);
        if (column >= ARGUMENT_K && column != ARGUMENT_WHERE && type != SQLITE_INTEGER &&
            (type != SQLITE_FLOAT || column == ARGUMENT_K))
            return mn_fail(err, MN_INVALID, "knn: %s = '%.40s' is no %s", columns[column],
                           (const char *)sqlite3_value_text(v),
                           column == ARGUMENT_K ? "whole number" : "number");
        if (column == ARGUMENT_QUERY)
            r->query = v;
        else if (column == ARGUMENT_COLLECTION)
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

static const struct ranked_function knn;

static mn_status search(struct session *s, mn_conn *conn, const struct request *r,
                        const void *query, const struct where *where, const struct alive *alive,
                        struct ranked_rows *rows, mn_error *err)
{
    uint32_t found = 0;
    mn_search_opts opts = {.where = where->conditions,
                           .n_where = where->n,
                           .only_ids = where->ids,
                           .n_only_ids = where->n_ids,
                           .recall = r->recall,
                           .filter = *alive->column ? alive_row : NULL,
                           .filter_ctx = (void *)(uintptr_t)alive,
                           .stats = session_stats(s)};
    rows->rows = sqlite3_malloc64((sqlite3_uint64)r->k * sizeof(mn_hit));
    if (!rows->rows)
        return mn_fail(err, MN_NOMEM, "out of memory");
    mn_status st =
        mn_search(conn, r->collection, query, 1, (uint32_t)r->k, &opts, rows->rows, &found, err);
    session_searched(s);
    rows->n = st == MN_OK ? found : 0;
    return st;
}

static mn_status fill(struct session *s, mn_conn *conn, sqlite3_value **args,
                      struct ranked_rows *rows, mn_error *err)
{
    struct request r;
    struct catalog_entry e;
    struct where where = {0};
    struct alive alive = {.now = 0};
    void *query = NULL;
    mn_status st = read_request(args, &r, err);
    if (st == MN_OK)
        st = ranked_begin(&knn, conn, r.collection, r.query, r.where, &e, &query, &where, err);
    if (st == MN_OK && e.id_kind == MN_ID_TEXT && !(rows->table = sqlite3_mprintf("%s", e.table)))
        st = mn_fail(err, MN_NOMEM, "out of memory");
    if (st == MN_OK)
        st = alive_of(s, e.table, &alive, err);
    if (st == MN_OK && query && r.k)
        st = search(s, conn, &r, query, &where, &alive, rows, err);
    where_fini(&where);
    sqlite3_free(query);
    return st;
}

static void result(const void *row, int column, sqlite3_context *ctx)
{
    (void)column; /* there is one but for the id and the rank */
    sqlite3_result_double(ctx, ((const mn_hit *)row)->distance);
}

static const struct ranked_function knn = {.name = "knn",
                                           .usage = "knn('docs', :vector, 10)",
                                           .columns = columns,
                                           .types = types,
                                           .n_columns = COLUMNS,
                                           .first_argument = ARGUMENT_COLLECTION,
                                           .n_required = 2,
                                           .score = -1,
                                           .distance = COLUMN_DISTANCE,
                                           .row_bytes = sizeof(mn_hit),
                                           .fill = fill,
                                           .result = result};

int knn_register(struct session *s)
{
    return ranked_register(s, &knn);
}
