/*
 * mneme_explain(statement [, parameter...]): runs a statement that reads, and says how it went: the
 * plan that SQLite chose, with what was taken over by Mneme's tables, and what the searches did.
 */
#include "src/sql/sql.h"
#include "storage/base/error.h"

static int bind_all(sqlite3_stmt *st, int n, sqlite3_value **args)
{
    int rc = SQLITE_OK, most = sqlite3_bind_parameter_count(st);
    for (int i = 0; i < n && i < most && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_value(st, i + 1, args[i]);
    return rc;
}

static int append_plan(sqlite3 *db, const char *sql, sqlite3_str *out)
{
    sqlite3_stmt *st = NULL;
    char *text = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", sql);
    int rc = text ? sqlite3_prepare_v2(db, text, -1, &st, NULL) : SQLITE_NOMEM;
    sqlite3_free(text);
    while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        sqlite3_str_appendf(out, "plan       %s\n", (const char *)sqlite3_column_text(st, 3));
        rc = SQLITE_OK;
    }
    sqlite3_finalize(st);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static void append_count(sqlite3_str *out, const char *what, uint64_t n, const char *more)
{
    sqlite3_str_appendf(out, "%-10s %llu%s\n", what, (unsigned long long)n, more);
}

static void append_searches(const struct searches *all, uint64_t rows, sqlite3_str *out)
{
    const mn_search_stats *s = &all->sum;
    const char *plan = mn_plan_name(s->plan);
    append_count(out, "rows", rows, "");
    append_count(out, "searches", all->n, "");
    if (!all->n)
        return;
    sqlite3_str_appendf(out, "search by  %s\n", plan ? plan : "nothing");
    if (s->matches)
        append_count(out, "matches", s->matches, s->plan == MN_PLAN_MATCHES ? "" : " (estimated)");
    if (s->rows_scanned)
        append_count(out, "scored", s->rows_scanned, " rows exactly");
    if (s->rows_checked)
        append_count(out, "checked", s->rows_checked, " rows against the conditions");
    if (s->probed)
        sqlite3_str_appendf(out, "postings   %llu probed, %llu skipped\n",
                            (unsigned long long)s->probed, (unsigned long long)s->postings_skipped);
    if (s->codes)
        sqlite3_str_appendf(out, "codes      %llu scanned, %llu skipped\n",
                            (unsigned long long)s->codes, (unsigned long long)s->codes_skipped);
    if (s->reranked)
        append_count(out, "reranked", s->reranked, " rows exactly");
    if (s->rows_pending)
        append_count(out, "pending", s->rows_pending, " rows changed since the last fold");
    if (s->parts_read)
        sqlite3_str_appendf(out, "fetched    %llu of these postings' codes from disk, %llu bytes\n",
                            (unsigned long long)s->parts_read, (unsigned long long)s->part_bytes);
    if (s->reads)
        append_count(out, "reads", s->reads, " pages from disk");
    sqlite3_str_appendf(out, "time       %llu us in searches, %llu us of CPU\n",
                        (unsigned long long)s->wall_us, (unsigned long long)s->cpu_us);
}

/* Returns SQLite's code. */
static int explain(struct session *s, const char *sql, int n, sqlite3_value **args,
                   sqlite3_str *out, const char **why)
{
    sqlite3 *db = session_sql(s);
    sqlite3_stmt *st = NULL;
    struct searches all = {0};
    uint64_t rows = 0;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    *why = NULL;
    if (rc == SQLITE_OK && (!st || !sqlite3_stmt_readonly(st))) {
        *why = "mneme_explain: the statement is empty, or writes; give it a SELECT";
        rc = SQLITE_ERROR;
    }
    if (rc == SQLITE_OK)
        rc = append_plan(db, sql, out);
    if (rc == SQLITE_OK)
        rc = bind_all(st, n, args);
    struct searches *before = session_explain(s, &all);
    while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        rows++;
        rc = SQLITE_OK;
    }
    session_explain(s, before);
    if (rc == SQLITE_DONE) {
        append_searches(&all, rows, out);
        rc = SQLITE_OK;
    }
    sqlite3_finalize(st); /* its message stays */
    return rc;
}

static void call_explain(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct session *s = sqlite3_user_data(ctx);
    const char *why = NULL, *sql = n ? (const char *)sqlite3_value_text(args[0]) : NULL;
    if (!sql) {
        sqlite3_result_error(ctx, "mneme_explain: the statement is missing", -1);
        return;
    }
    sqlite3_str *out = sqlite3_str_new(session_sql(s));
    int rc = explain(s, sql, n - 1, args + 1, out, &why);
    char *text = sqlite3_str_finish(out);
    if (rc == SQLITE_OK && text) {
        sqlite3_result_text(ctx, text, -1, SQLITE_TRANSIENT);
    } else if (rc == SQLITE_OK || rc == SQLITE_NOMEM) {
        sqlite3_result_error_nomem(ctx);
    } else {
        sqlite3_result_error(ctx, why ? why : sqlite3_errmsg(session_sql(s)), -1);
        sqlite3_result_error_code(ctx, rc);
    }
    sqlite3_free(text);
}

int explain_register(struct session *s)
{
    static const struct sql_function functions[] = {
        {"mneme_explain", -1, SQLITE_DIRECTONLY, call_explain},
    };
    return sql_register_functions(s, functions, 1);
}
