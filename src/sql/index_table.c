/*
 * mneme_index(table, column [, options]): makes a collection over a table that is there, whoever
 * writes to it. mneme_unindex(table [, column]) takes it away again.
 *
 * Options are words "name=value" with blanks between them; a value with blanks stands in double
 * quotes: dim, type, metric, recall, rerank, bits, filter=a,b,c, name; fts=a,b makes a full text
 * too, with tokenize, prefix and weights.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"
#include "src/engine/fold.h"
#include "src/sql/declare.h"
#include "src/sql/fts_functions.h"
#include "src/sql/sql.h"
#include "storage/base/error.h"
#include "storage/sql.h"

struct request {
    const char *table, *column;
    struct column c; /* type, metric and options of the index */
    char name[MN_MAX_NAME + 1];
    char *filter;            /* sqlite3_free; the names, each ended by NUL */
    const char **attributes; /* [n_attributes] into filter; sqlite3_free */
    size_t n_attributes;
    struct fts_options fts;
};

static void request_fini(struct request *r)
{
    sqlite3_free(r->filter);
    sqlite3_free(r->attributes);
    fts_options_fini(&r->fts);
}

/* ---- Options --------------------------------------------------------------------------------- */

static mn_status take_filter(struct request *r, const char *value, size_t len, mn_error *err)
{
    size_t names = 1;
    sqlite3_free(r->filter);
    sqlite3_free(r->attributes);
    for (size_t i = 0; i < len; i++)
        names += value[i] == ',';
    r->n_attributes = 0;
    r->filter = sqlite3_mprintf("%.*s", (int)len, value);
    r->attributes = sqlite3_malloc64(names * sizeof *r->attributes);
    if (!r->filter || !r->attributes)
        return mn_fail(err, MN_NOMEM, "mneme_index: out of memory");
    for (char *p = r->filter, *comma; p; p = comma ? comma + 1 : NULL) {
        comma = strchr(p, ',');
        if (comma)
            *comma = 0;
        if (*p)
            r->attributes[r->n_attributes++] = p;
    }
    return MN_OK;
}

static mn_status take_option(struct request *r, const char *word, size_t len, const char *value,
                             size_t value_len, mn_error *err)
{
    mn_status st = MN_OK;
    if (declaration_option(&r->c, word, len, value, value_len, "mneme_index", &st, err) ||
        fts_option(&r->fts, word, len, value, value_len, &st, err))
        return st;
    if (len == 3 && sqlite3_strnicmp(word, "dim", 3) == 0) {
        char *end;
        unsigned long dim = strtoul(value, &end, 10);
        if (end != value + value_len || dim < 1 || dim > MN_MAX_DIM)
            return mn_fail(err, MN_INVALID, "mneme_index: dim '%.*s'; it must be 1 to %u",
                           (int)value_len, value, MN_MAX_DIM);
        r->c.vector.dim = (uint32_t)dim;
    } else if (len == 4 && sqlite3_strnicmp(word, "type", 4) == 0) {
        if (!declaration_dtype(value, value_len, &r->c.vector.dtype))
            return mn_fail(err, MN_INVALID,
                           "mneme_index: type '%.*s'; it must be float, float16, bfloat16, int8 or "
                           "bit",
                           (int)value_len, value);
    } else if (len == 6 && sqlite3_strnicmp(word, "filter", 6) == 0) {
        st = take_filter(r, value, value_len, err);
    } else if (len == 4 && sqlite3_strnicmp(word, "name", 4) == 0) {
        if (value_len < 1 || value_len > MN_MAX_NAME)
            return mn_fail(err, MN_INVALID, "mneme_index: the name has %zu bytes; 1 to %u may be",
                           value_len, MN_MAX_NAME);
        memcpy(r->name, value, value_len);
        r->name[value_len] = 0;
    } else {
        st = mn_fail(err, MN_INVALID,
                     "mneme_index: there is no option '%.*s'; there are dim, type, metric, recall, "
                     "rerank, bits, filter, name, fts, tokenize, prefix, weights",
                     (int)len, word);
    }
    return st;
}

static mn_status take_options(struct request *r, const char *p, mn_error *err)
{
    mn_status st = MN_OK;
    bool metric = false;
    while (p && st == MN_OK) {
        p += strspn(p, " \t\r\n");
        if (!*p)
            break;
        size_t len = strcspn(p, "= \t\r\n");
        const char *value = p + len + 1;
        if (p[len] != '=')
            return mn_fail(err, MN_INVALID, "mneme_index: '%.*s' is no option name=value", (int)len,
                           p);
        bool quoted = *value == '"';
        value += quoted;
        size_t value_len = strcspn(value, quoted ? "\"" : " \t\r\n");
        metric = metric || (len == 6 && sqlite3_strnicmp(p, "metric", 6) == 0);
        st = take_option(r, p, len, value, value_len, err);
        p = value + value_len;
        p += quoted && *p == '"';
    }
    if (st == MN_OK && r->c.l1)
        return mn_fail(
            err, MN_INVALID,
            "mneme_index: metric l1 has no index; order by vec_distance_l1() instead, or "
            "make a table USING mneme, which scans for it");
    if (st == MN_OK && !metric && r->c.vector.dtype == MN_BIT)
        r->c.vector.metric = MN_HAMMING;
    return st;
}

/* ---- What the table says --------------------------------------------------------------------- */

/* The dimension of the first vector there is. */
static mn_status find_dim(sqlite3 *db, struct request *r, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    /* No column, or no table: mn_create() says which, with any dimension. SQLite would take a name
     * in quotes that is no column for a text. */
    r->c.vector.dim = 1;
    if (sqlite3_table_column_metadata(db, "main", r->table, r->column, NULL, NULL, NULL, NULL,
                                      NULL) == SQLITE_ERROR)
        return MN_OK;
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT iif(typeof(v) = 'text', json_array_length(v), NULL), length(v) FROM "
        "(SELECT \"%w\" AS v FROM main.\"%w\") WHERE typeof(v) = 'blob' OR "
        "(typeof(v) = 'text' AND iif(json_valid(v), json_array_length(v) > 0, 0)) LIMIT 1",
        r->column, r->table);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status) {
        sqlite3_finalize(st);
        mn_error_context(err, "mneme_index('%s', '%s'): ", r->table, r->column);
        return status;
    }
    int64_t members = row ? sqlite3_column_int64(st, 0) : 0, bytes = 0;
    if (row && sqlite3_column_type(st, 0) == SQLITE_NULL)
        bytes = sqlite3_column_int64(st, 1);
    sqlite3_finalize(st);
    size_t eight = mn_vector_bytes(r->c.vector.dtype, 8); /* bytes of eight elements */
    int64_t dim = members ? members : bytes * 8 / (int64_t)eight;
    if (dim < 1 || dim > MN_MAX_DIM)
        return mn_fail(err, MN_INVALID,
                       "mneme_index('%s', '%s'): no vector there tells the dimension; say it: "
                       "'dim=384'",
                       r->table, r->column);
    r->c.vector.dim = (uint32_t)dim;
    return MN_OK;
}

/* The table's own name, or table.column where a collection has that already. */
static mn_status find_name(mn_conn *conn, struct request *r, mn_error *err)
{
    mn_collection_info *all = NULL;
    size_t n = 0;
    bool taken = false;
    if (*r->name)
        return MN_OK;
    mn_status st = mn_list(conn, &all, &n, err);
    for (size_t i = 0; i < n; i++)
        taken = taken || sqlite3_stricmp(all[i].name, r->table) == 0;
    mn_free_result(all);
    if (st)
        return st;
    if (strlen(r->table) + (taken ? strlen(r->column) + 1 : 0) > MN_MAX_NAME)
        return mn_fail(err, MN_INVALID,
                       "mneme_index: the name '%s' is too long; give another by "
                       "name=",
                       r->table);
    if (taken)
        sqlite3_snprintf(sizeof r->name, r->name, "%s.%s", r->table, r->column);
    else
        sqlite3_snprintf(sizeof r->name, r->name, "%s", r->table);
    return MN_OK;
}

/* ---- mneme_index ----------------------------------------------------------------------------- */

static mn_status text_argument(sqlite3_value *v, const char *what, const char **out, mn_error *err)
{
    *out = (const char *)sqlite3_value_text(v);
    if (sqlite3_value_type(v) != SQLITE_TEXT || !*out || !**out)
        return mn_fail(err, MN_INVALID,
                       "%s is missing; call it as mneme_index('docs', 'embedding', "
                       "'dim=384 metric=cosine')",
                       what);
    return MN_OK;
}

static bool in_wal(sqlite3 *db)
{
    sqlite3_stmt *st = NULL;
    bool row = false, wal = false;
    if (sql_prepare(db, "PRAGMA main.journal_mode", &st, NULL) == MN_OK &&
        sql_step(st, &row, NULL) == MN_OK && row)
        wal = strcmp((const char *)sqlite3_column_text(st, 0), "wal") == 0;
    sqlite3_finalize(st);
    return wal;
}

/* Whether the rows belong to a virtual table of ours, docs_rows to docs. */
static mn_status belongs_to_table(sqlite3 *db, const char *rows, bool *yes, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t n = 0;
    size_t len = strlen(rows);
    *yes = false;
    if (len <= 5 || sqlite3_stricmp(rows + len - 5, "_rows") != 0)
        return MN_OK;
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND "
                                    "name = substr(%Q, 1, length(%Q) - 5) COLLATE NOCASE AND "
                                    "rootpage = 0 AND sql LIKE '%%USING mneme%%'",
                                    rows, rows);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &n, err);
    sqlite3_finalize(st);
    *yes = n > 0;
    return status;
}

static mn_status make(struct session *s, mn_conn *conn, struct request *r, bool *switched,
                      mn_error *err)
{
    mn_collection_opts opts;
    sqlite3 *db = session_sql(s);
    bool belongs = false;
    mn_status st = belongs_to_table(db, r->table, &belongs, err);
    if (st == MN_OK && belongs)
        st = mn_fail(
            err, MN_INVALID,
            "mneme_index: '%s' holds the rows of a table USING mneme, whose vector columns have "
            "their indexes already",
            r->table);
    if (st == MN_OK && !r->c.vector.dim)
        st = find_dim(db, r, err);
    if (st == MN_OK)
        st = find_name(conn, r, err);
    if (st)
        return st;
    opts = (mn_collection_opts){.dim = r->c.vector.dim,
                                .dtype = r->c.vector.dtype,
                                .metric = r->c.vector.metric,
                                .rerank = r->c.rerank,
                                .bits = r->c.bits,
                                .recall = r->c.recall,
                                .table = r->table,
                                .column = r->column,
                                .attributes = r->attributes,
                                .n_attributes = r->n_attributes};
    bool wal = in_wal(db);
    st = mn_create(conn, r->name, &opts, err);
    if (st == MN_OK && r->fts.columns) {
        st = fts_make_over(conn, r->name, &r->fts, err);
        mn_error second = {0};
        if (st && mn_drop(conn, r->name, &second))
            mn_error_context(err, "(and the index remains: %s) ", second.message);
    }
    *switched = st == MN_OK && !wal && in_wal(db);
    return st;
}

/* How many rows have something in the column that is no such vector. */
static mn_status count_others(struct session *s, const struct request *r, uint64_t vectors,
                              int64_t *others, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    *others = 0;
    mn_status status = sql_preparef(session_sql(s), &st, err,
                                    "SELECT count(\"%w\") FROM main.\"%w\"", r->column, r->table);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, others, err);
    sqlite3_finalize(st);
    *others -= (int64_t)vectors;
    return status;
}

static char *index_says(const struct request *r, uint64_t vectors, int64_t others, bool switched)
{
    sqlite3_str *text = sqlite3_str_new(NULL);
    sqlite3_str_appendf(text, "%s: %llu vectors of %u x %s, %s", r->name,
                        (unsigned long long)vectors, r->c.vector.dim,
                        mn_dtype_name(r->c.vector.dtype), mn_metric_name(r->c.vector.metric));
    if (others > 0)
        sqlite3_str_appendf(text,
                            "; %lld rows hold no such vector in %s and are passed over: "
                            "mneme_verify() names them",
                            (long long)others, r->column);
    if (switched)
        sqlite3_str_appendall(
            text, "; the database was switched to write-ahead logging (journal_mode=WAL)");
    return sqlite3_str_finish(text);
}

static void call_index(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct session *s = sqlite3_user_data(ctx);
    struct request r = {0};
    mn_error err = {0};
    mn_collection_stats stats = {0};
    mn_conn *conn;
    bool switched = false;
    int64_t others = 0;
    mn_status st = text_argument(args[0], "the table's name", &r.table, &err);
    if (st == MN_OK)
        st = text_argument(args[1], "the column's name", &r.column, &err);
    if (st == MN_OK && n > 2)
        st = take_options(&r, (const char *)sqlite3_value_text(args[2]), &err);
    if (st == MN_OK)
        st = session_call(s, &conn, &err);
    if (st == MN_OK)
        st = make(s, conn, &r, &switched, &err);
    if (st == MN_OK)
        st = mn_collection_stats_get(conn, r.name, &stats, &err);
    if (st == MN_OK)
        st = count_others(s, &r, stats.vectors, &others, &err);
    if (st == MN_OK) {
        session_tell(s, r.name);
        char *text = index_says(&r, stats.vectors, others, switched);
        if (!text)
            sqlite3_result_error_nomem(ctx);
        else
            sqlite3_result_text(ctx, text, -1, sqlite3_free);
    } else {
        session_fail(ctx, st, &err);
    }
    request_fini(&r);
}

/* ---- mneme_unindex --------------------------------------------------------------------------- */

static mn_status drop_one(mn_conn *conn, const mn_collection_info *i, mn_error *err)
{
    bool virtual = false;
    if (!i->foreign)
        return mn_fail(err, MN_INVALID,
                       "mneme_unindex: collection '%s' has a table that Mneme made; drop it with "
                       "mn_drop or `mneme drop`",
                       i->name);
    mn_status st = belongs_to_table(conn->sql, i->table, &virtual, err);
    if (st == MN_OK && virtual)
        st = mn_fail(err, MN_INVALID, "mneme_unindex: '%s' is a table USING mneme: DROP TABLE it",
                     i->name);
    return st ? st : mn_drop(conn, i->name, err);
}

/* The full text goes with the last collection over a table. */
static mn_status drop_full_text(mn_conn *conn, const char *table, mn_error *err)
{
    mn_collection_info *all = NULL;
    size_t n = 0;
    bool used = false;
    mn_status st = mn_list(conn, &all, &n, err);
    for (size_t i = 0; i < n; i++)
        used = used || sqlite3_stricmp(all[i].table, table) == 0;
    mn_free_result(all);
    return st || used ? st : fts_drop_over(conn, table, err);
}

static mn_status drop_matching(mn_conn *conn, const char *table, const char *column, int64_t *n,
                               mn_error *err)
{
    mn_collection_info *all = NULL;
    size_t count = 0;
    mn_status st = mn_list(conn, &all, &count, err);
    for (size_t i = 0; i < count && st == MN_OK; i++) {
        bool named = !column && sqlite3_stricmp(all[i].name, table) == 0;
        bool over = sqlite3_stricmp(all[i].table, table) == 0 &&
                    (!column || sqlite3_stricmp(all[i].column, column) == 0);
        if (!named && !over)
            continue;
        st = drop_one(conn, &all[i], err);
        if (st == MN_OK)
            st = drop_full_text(conn, all[i].table, err);
        ++*n;
    }
    mn_free_result(all);
    if (st == MN_OK && *n == 0)
        st = mn_fail(err, MN_NOTFOUND, "mneme_unindex: '%s%s%s' is not indexed", table,
                     column ? "." : "", column ? column : "");
    return st;
}

static void call_unindex(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct session *s = sqlite3_user_data(ctx);
    const char *table, *column = n > 1 ? (const char *)sqlite3_value_text(args[1]) : NULL;
    int64_t dropped = 0;
    mn_error err = {0};
    mn_conn *conn;
    mn_status st = text_argument(args[0], "the table's name", &table, &err);
    if (st == MN_OK)
        st = session_call(s, &conn, &err);
    if (st == MN_OK)
        st = drop_matching(conn, table, column, &dropped, &err);
    if (st)
        session_fail(ctx, st, &err);
    else
        sqlite3_result_int64(ctx, dropped);
}

int index_register(struct session *s)
{
    static const struct sql_function functions[] = {
        {"mneme_index", 2, SQLITE_DIRECTONLY, call_index},
        {"mneme_index", 3, SQLITE_DIRECTONLY, call_index},
        {"mneme_unindex", 1, SQLITE_DIRECTONLY, call_unindex},
        {"mneme_unindex", 2, SQLITE_DIRECTONLY, call_unindex},
    };
    return sql_register_functions(s, functions, sizeof functions / sizeof *functions);
}
