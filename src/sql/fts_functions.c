/*
 * mneme_fts(collection, columns [, options]): full text over columns of a collection's table,
 * whoever made it; options are tokenize, prefix and weights, written as mneme_index()'s.
 * mneme_fts_rebuild(collection), mneme_fts_drop(collection).
 */
#include "src/sql/fts_functions.h"

#include <string.h>

#include "src/sql/fts.h"
#include "src/sql/sql.h"
#include "storage/base/error.h"
#include "storage/sql.h"

mn_status fts_table_of(mn_conn *conn, const char *collection, struct catalog_entry *out,
                       mn_error *err)
{
    struct coll *c;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = scope_read(conn, err);
    if (st == MN_OK) {
        st = coll_get(conn, collection, &c, err);
        if (st == MN_OK)
            *out = c->entry;
        st = scope_end(conn, st, err);
    }
    return conn_leave(conn, st, err);
}

/* A change of one table's full text. */
struct change {
    struct catalog_entry e;
    const struct fts_options *o;
};

static mn_status make(sqlite3 *db, void *ctx, mn_error *err)
{
    const struct change *c = ctx;
    char *name = sqlite3_mprintf("%s_fts", c->e.table);
    mn_status st = name ? fts_make(db, c->e.table, c->e.id_column, name, c->o, false, err)
                        : mn_fail(err, MN_NOMEM, "out of memory");
    sqlite3_free(name);
    return st;
}

static mn_status rebuild(sqlite3 *db, void *ctx, mn_error *err)
{
    const struct change *c = ctx;
    return fts_rebuild(db, c->e.table, c->e.id_column, err);
}

static mn_status drop(sqlite3 *db, void *ctx, mn_error *err)
{
    const struct change *c = ctx;
    return fts_drop(db, c->e.table, err);
}

mn_status fts_make_over(mn_conn *conn, const char *collection, const struct fts_options *o,
                        mn_error *err)
{
    struct change c = {.o = o};
    mn_status st = fts_table_of(conn, collection, &c.e, err);
    return st ? st : coll_change_schema(conn, make, &c, err);
}

mn_status fts_drop_over(mn_conn *conn, const char *table, mn_error *err)
{
    struct change c = {.o = NULL};
    sqlite3_snprintf(sizeof c.e.table, c.e.table, "%s", table);
    return coll_change_schema(conn, drop, &c, err);
}

/* One table's; the collections come by name, so that a table may come more than once. */
static mn_status verify_one(mn_conn *conn, const char *table, mn_finding_fn finding, void *ctx,
                            uint64_t *findings, mn_error *err)
{
    char *name, what[MN_MAX_NAME + 100];
    bool good = true;
    mn_error found = {0};
    mn_status st = fts_find(conn->sql, table, &name, &found);
    if (st == MN_CORRUPT || st == MN_INVALID) {
        finding(ctx, table, found.message);
        ++*findings;
        return MN_OK;
    }
    if (st)
        return mn_fail(err, st, "%s", found.message);
    if (name && sqlite3_db_readonly(conn->sql, "main") == 0)
        st = fts_check(conn->sql, name, &good, err);
    if (st == MN_OK && !good) {
        sqlite3_snprintf(sizeof what, what, "the full text '%s' differs from its table; SELECT "
                         "mneme_fts_rebuild(...) makes it anew", name);
        finding(ctx, table, what);
        ++*findings;
    }
    sqlite3_free(name);
    return st;
}

mn_status fts_verify(mn_conn *conn, mn_finding_fn finding, void *ctx, uint64_t *findings,
                     mn_error *err)
{
    mn_collection_info *all = NULL;
    size_t n = 0;
    mn_status st = mn_list(conn, &all, &n, err);
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        bool before = false;
        for (size_t j = 0; j < i; j++)
            before = before || strcmp(all[j].table, all[i].table) == 0;
        if (!before)
            st = verify_one(conn, all[i].table, finding, ctx, findings, err);
    }
    mn_free_result(all);
    return st;
}

static mn_status take_options(struct fts_options *o, const char *p, mn_error *err)
{
    mn_status st = MN_OK;
    while (p && st == MN_OK) {
        p += strspn(p, " \t\r\n");
        if (!*p)
            break;
        size_t len = strcspn(p, "= \t\r\n");
        if (p[len] != '=')
            return mn_fail(err, MN_INVALID, "mneme_fts: '%.*s' is no option name=value", (int)len,
                           p);
        const char *value = p + len + 1;
        bool quoted = *value == '"';
        value += quoted;
        size_t value_len = strcspn(value, quoted ? "\"" : " \t\r\n");
        if (len == 3 || !fts_option(o, p, len, value, value_len, &st, err))
            return mn_fail(err, MN_INVALID,
                           "mneme_fts: there is no option '%.*s'; there are tokenize, prefix, "
                           "weights",
                           (int)len, p);
        p = value + value_len;
        p += quoted && *p == '"';
    }
    return st;
}

static const char *text_argument(sqlite3_value *v)
{
    return sqlite3_value_type(v) == SQLITE_TEXT ? (const char *)sqlite3_value_text(v) : NULL;
}

static void call_fts(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct fts_options o = {NULL, NULL, NULL, NULL};
    mn_error err = {0};
    mn_conn *conn;
    const char *collection = text_argument(args[0]), *columns = text_argument(args[1]);
    mn_status st = MN_OK;
    if (!collection || !columns)
        st = mn_fail(&err, MN_INVALID, "mneme_fts: a name is missing; call it as mneme_fts('docs', "
                                       "'title,body')");
    if (st == MN_OK)
        fts_option(&o, "fts", 3, columns, strlen(columns), &st, &err);
    if (st == MN_OK && n > 2)
        st = take_options(&o, text_argument(args[2]), &err);
    if (st == MN_OK)
        st = session_call(sqlite3_user_data(ctx), &conn, &err);
    if (st == MN_OK)
        st = fts_make_over(conn, collection, &o, &err);
    if (st)
        session_fail(ctx, st, &err);
    else
        sqlite3_result_text(ctx, "ok", -1, SQLITE_STATIC);
    fts_options_fini(&o);
}

static void call_table(sqlite3_context *ctx, sqlite3_value *arg, const char *function,
                       mn_status (*change)(sqlite3 *, void *, mn_error *))
{
    struct change c = {.o = NULL};
    mn_error err = {0};
    mn_conn *conn;
    const char *collection = text_argument(arg);
    mn_status st = collection ? session_call(sqlite3_user_data(ctx), &conn, &err)
                              : mn_fail(&err, MN_INVALID, "%s: the collection's name is missing",
                                        function);
    if (st == MN_OK)
        st = fts_table_of(conn, collection, &c.e, &err);
    if (st == MN_OK)
        st = coll_change_schema(conn, change, &c, &err);
    if (st)
        session_fail(ctx, st, &err);
    else
        sqlite3_result_text(ctx, "ok", -1, SQLITE_STATIC);
}

static void call_rebuild(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    call_table(ctx, args[0], "mneme_fts_rebuild", rebuild);
}

static void call_drop(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    call_table(ctx, args[0], "mneme_fts_drop", drop);
}

int fts_register(struct session *s)
{
    static const struct sql_function functions[] = {
        {"mneme_fts", 2, SQLITE_DIRECTONLY, call_fts},
        {"mneme_fts", 3, SQLITE_DIRECTONLY, call_fts},
        {"mneme_fts_rebuild", 1, SQLITE_DIRECTONLY, call_rebuild},
        {"mneme_fts_drop", 1, SQLITE_DIRECTONLY, call_drop}};
    return sql_register_functions(s, functions, sizeof functions / sizeof *functions);
}
