/* Functions about collections: statistics, folding, looking after the files. What may take long or
 * must commit runs on a connection of its own, beside the application's transaction. */
#include <stdio.h>
#include <string.h>

#include "src/engine/engine.h"
#include "src/sql/fts_functions.h"
#include "src/sql/sql.h"
#include "storage/base/error.h"

/* The collection's name in argument 0; NULL after having set the error. */
static const char *name_of(sqlite3_context *ctx, sqlite3_value *v, const char *function)
{
    const char *name = (const char *)sqlite3_value_text(v);
    if (name && *name)
        return name;
    char *message = sqlite3_mprintf("%s: the name of the table or collection is missing", function);
    sqlite3_result_error(ctx, message ? message : "out of memory", -1);
    sqlite3_free(message);
    return NULL;
}

/* ---- mneme_stats ----------------------------------------------------------------------------- */

/* A name between quotes; it holds no control character (catalog.c). */
static void append_name(sqlite3_str *s, const char *key, const char *name)
{
    sqlite3_str_appendf(s, "%s\"%s\":\"", sqlite3_str_length(s) > 1 ? "," : "", key);
    for (; *name; name++) {
        if (*name == '"' || *name == '\\')
            sqlite3_str_appendchar(s, 1, '\\');
        sqlite3_str_appendchar(s, 1, *name);
    }
    sqlite3_str_appendchar(s, 1, '"');
}

static void append_count(sqlite3_str *s, const char *key, uint64_t n)
{
    sqlite3_str_appendf(s, ",\"%s\":%llu", key, (unsigned long long)n);
}

static void append_stats(sqlite3_str *s, const mn_collection_info *i,
                         const mn_collection_stats *rows, const mn_index_info *x)
{
    sqlite3_str_appendall(s, "{");
    append_name(s, "collection", i->name);
    append_name(s, "table", i->table);
    append_name(s, "column", i->column);
    append_name(s, "type", mn_dtype_name(i->dtype));
    append_name(s, "metric", mn_metric_name(i->metric));
    append_count(s, "dim", i->dim);
    append_count(s, "rows", rows->rows);
    append_count(s, "vectors", rows->vectors);
    append_count(s, "changes_logged", rows->log_entries);
    sqlite3_str_appendf(s, ",\"recall\":%.6g,\"indexed\":%s", i->recall,
                        x->exists ? "true" : "false");
    append_count(s, "index_rows", x->rows);
    append_count(s, "pending", x->pending);
    append_count(s, "postings", x->postings);
    append_count(s, "bits", x->bits);
    append_count(s, "index_memory_bytes", x->memory_bytes);
    if (x->exists)
        sqlite3_str_appendf(s, ",\"codes_in_memory\":%.4g", x->codes_in_memory);
    if (x->unusable)
        sqlite3_str_appendall(s, ",\"index_unusable\":true");
    append_count(s, "sidecar_bytes", x->sidecar_bytes);
    sqlite3_str_appendall(s, "}");
}

static void call_stats(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct session *s = sqlite3_user_data(ctx);
    const char *name = name_of(ctx, args[0], "mneme_stats");
    mn_collection_info info;
    mn_collection_stats rows;
    mn_index_info index;
    mn_error err = {0};
    mn_conn *conn;
    (void)n;
    if (!name)
        return;
    mn_status st = session_call(s, &conn, &err);
    if (st == MN_OK)
        st = mn_info(conn, name, &info, &err);
    if (st == MN_OK)
        st = mn_collection_stats_get(conn, name, &rows, &err);
    if (st == MN_OK)
        st = mn_index_stats(conn, name, &index, &err);
    if (st) {
        session_fail(ctx, st, &err);
        return;
    }
    sqlite3_str *out = sqlite3_str_new(session_sql(s));
    append_stats(out, &info, &rows, &index);
    char *text = sqlite3_str_finish(out);
    if (!text) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    sqlite3_result_text(ctx, text, -1, sqlite3_free);
    sqlite3_result_subtype(ctx, 'J');
}

/* ---- mneme_fold, mneme_rebuild, mneme_compact, mneme_verify -----------------------------------
 */

static void call_aside(sqlite3_context *ctx, const char *function, sqlite3_value *name_arg,
                       mn_status (*fn)(mn_conn *, const char *, mn_error *))
{
    struct session *s = sqlite3_user_data(ctx);
    const char *name = name_of(ctx, name_arg, function);
    mn_error err = {0};
    mn_conn *conn = NULL;
    mn_index_info info;
    if (!name)
        return;
    mn_status st = session_aside(s, &conn, &err);
    if (st == MN_OK) {
        mn_pause(conn->db,
                 true); /* waits for a fold in the background, which would be in the way */
        st = fn(conn, name, &err);
        mn_pause(conn->db, false);
    }
    if (st == MN_OK)
        st = mn_index_stats(conn, name, &info, &err);
    mn_disconnect(conn);
    if (st)
        session_fail(ctx, st, &err);
    else
        sqlite3_result_int64(ctx, (sqlite3_int64)info.rows);
}

static void call_fold(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    call_aside(ctx, "mneme_fold", args[0], mn_fold);
}

static void call_rebuild(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    call_aside(ctx, "mneme_rebuild", args[0], mn_rebuild);
}

static void call_compact(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct session *s = sqlite3_user_data(ctx);
    mn_error err = {0};
    mn_conn *conn = NULL;
    (void)n;
    (void)args;
    mn_status st = session_aside(s, &conn, &err);
    if (st == MN_OK)
        st = mn_compact(conn, &err);
    mn_disconnect(conn);
    if (st)
        session_fail(ctx, st, &err);
    else
        sqlite3_result_text(ctx, "ok", -1, SQLITE_STATIC);
}

/* Sentences, a line each. */
static void on_finding(void *ctx, const char *where, const char *what)
{
    sqlite3_str_appendf(ctx, "%s%s: %s", sqlite3_str_length(ctx) ? "\n" : "", where, what);
}

static void call_verify(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct session *s = sqlite3_user_data(ctx);
    uint64_t findings = 0;
    mn_error err = {0};
    mn_conn *conn;
    (void)n;
    (void)args;
    sqlite3_str *out = sqlite3_str_new(session_sql(s));
    mn_status st = session_call(s, &conn, &err);
    if (st == MN_OK)
        st = mn_verify(conn, on_finding, out, &findings, &err);
    if (st == MN_OK)
        st = fts_verify(conn, on_finding, out, &findings, &err);
    char *text = sqlite3_str_finish(out);
    if (st)
        session_fail(ctx, st, &err);
    else if (findings && !text)
        sqlite3_result_error_nomem(ctx);
    else
        sqlite3_result_text(ctx, findings ? text : "ok", -1, SQLITE_TRANSIENT);
    sqlite3_free(text);
}

int functions_register(struct session *s)
{
    static const struct sql_function functions[] = {
        {"mneme_stats", 1, 0, call_stats},
        {"mneme_fold", 1, SQLITE_DIRECTONLY, call_fold},
        {"mneme_rebuild", 1, SQLITE_DIRECTONLY, call_rebuild},
        {"mneme_compact", 0, SQLITE_DIRECTONLY, call_compact},
        {"mneme_verify", 0, SQLITE_DIRECTONLY, call_verify},
    };
    return sql_register_functions(s, functions, sizeof functions / sizeof *functions);
}
