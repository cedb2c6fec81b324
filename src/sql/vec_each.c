/* Table functions: vec_each(v), a row an element, and vec_npy_each(blob), a row a vector of an .npy
 * file's bytes. Both have one hidden column, the argument; rowids count from 0. In bits vec_each()
 * gives the most significant one of a byte first, unlike vec_to_json(): so does sqlite-vec. */
#include <string.h>

#include "src/sql/vec.h"
#include "src/sql/vec_npy.h"
#include "src/sql/vec_value.h"
#include "storage/base/error.h"

enum { COLUMN_VALUE, COLUMN_ARGUMENT };

struct each_table {
    sqlite3_vtab base;
    const struct kernels *kn;
    bool npy;
};

struct each_cursor {
    sqlite3_vtab_cursor base;
    sqlite3_value *argument; /* a copy: what follows points into it */
    struct vec v;
    struct vec_npy npy;
    uint64_t row, n;
};

static int connect_each(sqlite3 *db, void *kn, bool npy, sqlite3_vtab **out)
{
    int rc = sqlite3_declare_vtab(db, npy ? "CREATE TABLE x(vector, npy HIDDEN)"
                                          : "CREATE TABLE x(value, vector HIDDEN)");
    if (rc == SQLITE_OK)
        rc = sqlite3_vtab_config(db, SQLITE_VTAB_INNOCUOUS);
    if (rc != SQLITE_OK)
        return rc;
    struct each_table *t = sqlite3_malloc(sizeof *t);
    if (!t)
        return SQLITE_NOMEM;
    *t = (struct each_table){.kn = kn, .npy = npy};
    *out = &t->base;
    return SQLITE_OK;
}

static int each_connect(sqlite3 *db, void *kn, int argc, const char *const *argv,
                        sqlite3_vtab **out, char **message)
{
    (void)argc;
    (void)argv;
    (void)message;
    return connect_each(db, kn, false, out);
}

static int npy_connect(sqlite3 *db, void *kn, int argc, const char *const *argv, sqlite3_vtab **out,
                       char **message)
{
    (void)argc;
    (void)argv;
    (void)message;
    return connect_each(db, kn, true, out);
}

static int each_disconnect(sqlite3_vtab *table)
{
    sqlite3_free(table);
    return SQLITE_OK;
}

/* The argument must be known; without it SQLite says "no query solution". */
static int each_best_index(sqlite3_vtab *table, sqlite3_index_info *info)
{
    (void)table;
    for (int i = 0; i < info->nConstraint; i++) {
        if (info->aConstraint[i].iColumn != COLUMN_ARGUMENT || !info->aConstraint[i].usable ||
            info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        info->aConstraintUsage[i].argvIndex = 1;
        info->aConstraintUsage[i].omit = 1;
        info->estimatedCost = 1000;
        info->estimatedRows = 1000;
        return SQLITE_OK;
    }
    return SQLITE_CONSTRAINT;
}

static int each_open(sqlite3_vtab *table, sqlite3_vtab_cursor **out)
{
    (void)table;
    struct each_cursor *c = sqlite3_malloc(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    *c = (struct each_cursor){.argument = NULL};
    *out = &c->base;
    return SQLITE_OK;
}

static void forget(struct each_cursor *c)
{
    vec_free(&c->v);
    sqlite3_value_free(c->argument);
    c->argument = NULL;
    c->row = c->n = 0;
}

static int each_close(sqlite3_vtab_cursor *cursor)
{
    struct each_cursor *c = (struct each_cursor *)cursor;
    forget(c);
    sqlite3_free(c);
    return SQLITE_OK;
}

static int each_filter(sqlite3_vtab_cursor *cursor, int plan, const char *text, int argc,
                       sqlite3_value **argv)
{
    (void)plan;
    (void)text;
    (void)argc;
    struct each_cursor *c = (struct each_cursor *)cursor;
    struct each_table *t = (struct each_table *)cursor->pVtab;
    mn_error err;
    mn_error_clear(&err);
    forget(c);
    c->argument = sqlite3_value_dup(argv[0]);
    if (!c->argument)
        return SQLITE_NOMEM;
    mn_status st;
    if (t->npy) {
        st = vec_npy_open(c->argument, "vec_npy_each", &c->npy, &err);
        c->n = c->npy.n;
    } else {
        st = vec_read(c->argument, &c->v, &err);
        c->n = c->v.dim;
    }
    if (st == MN_OK)
        return SQLITE_OK;
    c->n = 0;
    if (st == MN_NOMEM)
        return SQLITE_NOMEM;
    if (t->npy) { /* sqlite-vec's vec_each() says "SQL logic error" and no more */
        sqlite3_free(t->base.zErrMsg);
        t->base.zErrMsg = sqlite3_mprintf("%s", err.message);
    }
    return SQLITE_ERROR;
}

static int each_next(sqlite3_vtab_cursor *cursor)
{
    ((struct each_cursor *)cursor)->row++;
    return SQLITE_OK;
}

static int each_eof(sqlite3_vtab_cursor *cursor)
{
    struct each_cursor *c = (struct each_cursor *)cursor;
    return c->row >= c->n;
}

static void element(sqlite3_context *ctx, const struct kernels *kn, const struct vec *v, size_t i)
{
    if (v->type == MN_BIT) {
        sqlite3_result_int(ctx, ((const uint8_t *)v->data)[i / 8] >> (7 - i % 8) & 1);
        return;
    }
    float x;
    vec_widen(kn, v, i, 1, &x);
    if (v->type == MN_I8)
        sqlite3_result_int(ctx, (int)x);
    else
        sqlite3_result_double(ctx, (double)x);
}

static int each_column(sqlite3_vtab_cursor *cursor, sqlite3_context *ctx, int column)
{
    struct each_cursor *c = (struct each_cursor *)cursor;
    struct each_table *t = (struct each_table *)cursor->pVtab;
    if (column != COLUMN_VALUE)
        return SQLITE_OK; /* NULL, as in sqlite-vec */
    if (t->npy)
        vec_npy_result(ctx, t->kn, &c->npy, c->row);
    else
        element(ctx, t->kn, &c->v, (size_t)c->row);
    return SQLITE_OK;
}

static int each_rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *out)
{
    *out = (sqlite3_int64)((struct each_cursor *)cursor)->row;
    return SQLITE_OK;
}

int vec_register_each(sqlite3 *db)
{
    static const sqlite3_module each = {.xConnect = each_connect,
                                        .xBestIndex = each_best_index,
                                        .xDisconnect = each_disconnect,
                                        .xOpen = each_open,
                                        .xClose = each_close,
                                        .xFilter = each_filter,
                                        .xNext = each_next,
                                        .xEof = each_eof,
                                        .xColumn = each_column,
                                        .xRowid = each_rowid};
    static const sqlite3_module npy = {.xConnect = npy_connect,
                                       .xBestIndex = each_best_index,
                                       .xDisconnect = each_disconnect,
                                       .xOpen = each_open,
                                       .xClose = each_close,
                                       .xFilter = each_filter,
                                       .xNext = each_next,
                                       .xEof = each_eof,
                                       .xColumn = each_column,
                                       .xRowid = each_rowid};
    void *kn = (void *)(uintptr_t)kernels_select(ISA_COUNT);
    int rc = sqlite3_create_module_v2(db, "vec_each", &each, kn, NULL);
    return rc == SQLITE_OK ? sqlite3_create_module_v2(db, "vec_npy_each", &npy, kn, NULL) : rc;
}
