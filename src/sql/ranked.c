#include "src/sql/ranked.h"

#include <string.h>

#include "src/sql/value.h"
#include "src/sql/where.h"
#include "storage/base/error.h"
#include "storage/sql.h"

struct function {
    sqlite3_vtab base;
    const struct ranked_function *f;
    struct session *s;
};

struct cursor {
    sqlite3_vtab_cursor base;
    struct ranked_rows rows;
    size_t i;
    sqlite3_stmt *text; /* ?1 id -> text id */
};

/* A module's user data. */
struct aux {
    const struct ranked_function *f;
    struct session *s;
};

static void aux_free(void *arg)
{
    struct aux *a = arg;
    session_release(a->s);
    sqlite3_free(a);
}

static const struct ranked_function *function_of(const struct cursor *c)
{
    return ((const struct function *)c->base.pVtab)->f;
}

/* ---- The table ------------------------------------------------------------------------------- */

static int on_connect(sqlite3 *sql, void *arg, int argc, const char *const *argv,
                      sqlite3_vtab **out, char **message)
{
    const struct aux *a = arg;
    (void)argc;
    (void)argv;
    (void)message;
    session_settle_early(a->s);
    sqlite3_str *text = sqlite3_str_new(sql);
    for (int i = 0; i < a->f->n_columns; i++)
        sqlite3_str_appendf(text, "%s\"%w\" %s", i ? ", " : "CREATE TABLE x(", a->f->columns[i],
                            i >= a->f->first_argument ? "HIDDEN"
                            : a->f->types             ? a->f->types[i]
                                                      : "");
    sqlite3_str_appendall(text, ")");
    char *schema = sqlite3_str_finish(text);
    struct function *f = schema ? sqlite3_malloc(sizeof *f) : NULL;
    int rc = f ? sqlite3_declare_vtab(sql, schema) : SQLITE_NOMEM;
    sqlite3_free(schema);
    if (rc != SQLITE_OK) {
        sqlite3_free(f);
        return rc;
    }
    *f = (struct function){.f = a->f, .s = a->s};
    *out = &f->base;
    return SQLITE_OK;
}

static int on_disconnect(sqlite3_vtab *base)
{
    sqlite3_free(base);
    return SQLITE_OK;
}

/* idxStr: a letter an argument, 'a' + its column; then for people which: "jk: collection, text". */
static int on_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    const struct ranked_function *f = ((struct function *)base)->f;
    char given[RANKED_MOST_COLUMNS + 1] = "";
    bool seen[RANKED_MOST_COLUMNS] = {false};
    int n = 0;
    for (int i = 0; i < info->nConstraint; i++) {
        int column = info->aConstraint[i].iColumn;
        if (column < f->first_argument || column >= f->n_columns)
            continue;
        if (info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ || seen[column]) {
            sqlite3_free(base->zErrMsg);
            base->zErrMsg = sqlite3_mprintf("%s: '%s' is an argument: it is given once, as such or "
                                            "by =, and compared in no other way",
                                            f->name, f->columns[column]);
            return SQLITE_ERROR;
        }
        if (!info->aConstraint[i].usable)
            return SQLITE_CONSTRAINT;
        seen[column] = true;
        info->aConstraintUsage[i].argvIndex = n + 1;
        info->aConstraintUsage[i].omit = 1;
        given[n++] = (char)('a' + column);
    }
    for (int c = f->first_argument; c < f->first_argument + f->n_required; c++) {
        if (seen[c])
            continue;
        sqlite3_free(base->zErrMsg);
        base->zErrMsg = sqlite3_mprintf("%s: the argument '%s' is missing; call it as %s", f->name,
                                        f->columns[c], f->usage);
        return SQLITE_ERROR;
    }
    sqlite3_str *plan = sqlite3_str_new(NULL);
    sqlite3_str_appendall(plan, given);
    for (int i = 0; i < n; i++)
        sqlite3_str_appendf(plan, "%s%s", i ? ", " : ": ", f->columns[given[i] - 'a']);
    info->idxStr = sqlite3_str_finish(plan);
    info->needToFreeIdxStr = 1;
    info->estimatedCost = 1000;
    info->estimatedRows = 10;
    if (info->nOrderBy == 1 && info->aOrderBy[0].iColumn >= 0) { /* below it is the rowid */
        int by = info->aOrderBy[0].iColumn;
        info->orderByConsumed = info->aOrderBy[0].desc
                                    ? by == f->score
                                    : by == f->distance || by == f->first_argument - 1;
    }
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

static char *row_at(const struct cursor *c, size_t i)
{
    return (char *)c->rows.rows + i * function_of(c)->row_bytes;
}

static void empty(struct cursor *c)
{
    for (size_t i = 0; i < c->rows.n && function_of(c)->fini_row; i++)
        function_of(c)->fini_row(row_at(c, i));
    sqlite3_finalize(c->text);
    sqlite3_free(c->rows.rows);
    sqlite3_free(c->rows.table);
    c->rows = (struct ranked_rows){NULL, 0, NULL};
    c->text = NULL;
    c->i = 0;
}

static int on_close(sqlite3_vtab_cursor *base)
{
    empty((struct cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

static int on_filter(sqlite3_vtab_cursor *base, int number, const char *given, int argc,
                     sqlite3_value **argv)
{
    struct cursor *c = (struct cursor *)base;
    struct session *s = ((struct function *)base->pVtab)->s;
    sqlite3_value *args[RANKED_MOST_COLUMNS] = {NULL};
    mn_error err = {0};
    mn_conn *conn;
    (void)number;
    empty(c);
    for (int i = 0; i < argc; i++)
        if (sqlite3_value_type(argv[i]) != SQLITE_NULL)
            args[given[i] - 'a'] = argv[i];
    mn_status st = session_enter(s, &conn, &err);
    if (st == MN_OK) {
        st = function_of(c)->fill(s, conn, args, &c->rows, &err);
        session_leave(s);
    }
    if (st) {
        empty(c);
        return session_refuse(base->pVtab, st, &err);
    }
    return SQLITE_OK;
}

static int on_next(sqlite3_vtab_cursor *base)
{
    ((struct cursor *)base)->i++;
    return SQLITE_OK;
}

static int on_eof(sqlite3_vtab_cursor *base)
{
    const struct cursor *c = (struct cursor *)base;
    return c->i >= c->rows.n;
}

static int64_t id_at(const struct cursor *c)
{
    int64_t id;
    memcpy(&id, row_at(c, c->i), sizeof id);
    return id;
}

static int result_id(struct cursor *c, sqlite3_context *ctx)
{
    sqlite3 *sql = session_sql(((struct function *)c->base.pVtab)->s);
    mn_error err = {0};
    bool row = false;
    if (!c->rows.table) {
        sqlite3_result_int64(ctx, id_at(c));
        return SQLITE_OK;
    }
    mn_status st =
        c->text ? MN_OK
                : sql_preparef(sql, &c->text, &err, "SELECT text_id FROM main.\"%w\" WHERE id = ?1",
                               c->rows.table);
    if (st == MN_OK) {
        sqlite3_bind_int64(c->text, 1, id_at(c));
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
    const struct ranked_function *f = function_of(c);
    if (column == 0)
        return result_id(c, ctx);
    if (column == f->first_argument - 1)
        sqlite3_result_int64(ctx, (sqlite3_int64)c->i + 1);
    else if (column < f->first_argument)
        f->result(row_at(c, c->i), column, ctx);
    return SQLITE_OK;
}

static int on_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out)
{
    *out = id_at((struct cursor *)base);
    return SQLITE_OK;
}

int ranked_register(struct session *s, const struct ranked_function *f)
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
    struct aux *a = sqlite3_malloc(sizeof *a);
    if (!a)
        return SQLITE_NOMEM;
    *a = (struct aux){f, session_hold(s)};
    return sqlite3_create_module_v2(session_sql(s), f->name, &module, a, aux_free);
}

/* ---- Arguments ------------------------------------------------------------------------------- */

mn_status ranked_text(const struct ranked_function *f, sqlite3_value **args, int column,
                      const char **out, mn_error *err)
{
    if (!args[column])
        return MN_OK;
    if (sqlite3_value_type(args[column]) != SQLITE_TEXT)
        return mn_fail(err, MN_INVALID, "%s: %s must be a text", f->name, f->columns[column]);
    *out = (const char *)sqlite3_value_text(args[column]);
    return *out ? MN_OK : mn_fail(err, MN_NOMEM, "out of memory");
}

mn_status ranked_number(const struct ranked_function *f, sqlite3_value **args, int column,
                        double least, double most, double *out, mn_error *err)
{
    sqlite3_value *v = args[column];
    if (!v)
        return MN_OK;
    int type = sqlite3_value_numeric_type(v);
    double d = sqlite3_value_double(v);
    if ((type != SQLITE_INTEGER && type != SQLITE_FLOAT) || !(d >= least && d <= most))
        return mn_fail(err, MN_INVALID, "%s: %s is '%.40s'; it must be a number from %g to %g",
                       f->name, f->columns[column], (const char *)sqlite3_value_text(v), least,
                       most);
    *out = d;
    return MN_OK;
}

mn_status ranked_whole(const struct ranked_function *f, sqlite3_value **args, int column,
                       int64_t least, int64_t most, int64_t *out, mn_error *err)
{
    sqlite3_value *v = args[column];
    if (!v)
        return MN_OK;
    int64_t n = sqlite3_value_int64(v);
    if (sqlite3_value_numeric_type(v) != SQLITE_INTEGER || n < least || n > most)
        return mn_fail(err, MN_INVALID,
                       "%s: %s is '%.40s'; it must be a whole number from %lld to %lld", f->name,
                       f->columns[column], (const char *)sqlite3_value_text(v), (long long)least,
                       (long long)most);
    *out = n;
    return MN_OK;
}

mn_status ranked_begin(const struct ranked_function *f, mn_conn *conn, const char *collection,
                       sqlite3_value *vector, const char *condition, struct catalog_entry *entry,
                       void **query, struct where *where, mn_error *err)
{
    struct coll *coll;
    char what[MN_MAX_NAME + 32];
    *query = NULL;
    if (!collection)
        return mn_fail(err, MN_INVALID, "%s: the collection's name is NULL", f->name);
    mn_status st = scope_read(conn, err);
    if (st)
        return st;
    sqlite3_snprintf(sizeof what, what, "%s('%s')", f->name, collection);
    st = coll_get(conn, collection, &coll, err);
    if (st == MN_OK) {
        *entry = coll->entry;
        struct vector_type type = {entry->dtype, entry->metric, entry->dim};
        if (vector)
            st = value_vector(conn->db->kernels, &type, vector, what, query, err);
    }
    if (st == MN_OK && where)
        st = where_read(conn, coll, condition, where, err);
    return scope_end(conn, st, err);
}
