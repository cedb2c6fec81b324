/*
 * Running a query over a table: either SQLite reads the rows table, or a search (near.c) gives the
 * rows by distance, of which the rows table then has the other columns.
 */
#include "src/sql/cursor.h"

#include <stdlib.h>
#include <string.h>

int cursor_fail(struct cursor *c, mn_status st, const mn_error *err)
{
    return session_refuse(c->base.pVtab, st, err);
}

int cursor_fail_sqlite(struct cursor *c)
{
    sqlite3 *sql = session_sql(cursor_table(c)->s);
    sqlite3_free(c->base.pVtab->zErrMsg);
    c->base.pVtab->zErrMsg = sqlite3_mprintf("%s", sqlite3_errmsg(sql));
    return sqlite3_errcode(sql);
}

/* ---- Statements ------------------------------------------------------------------------------ */

/* SELECT id, ... FROM rows: all columns in order, NULL for vectors that nobody looks at. SQLite
 * takes a name in quotes that is no column for a text, unless the table stands before it. */
static void append_select(const struct table *t, bool vectors, sqlite3_str *sql)
{
    char rows[ROWS_NAME];
    table_rows_name(t, rows);
    sqlite3_str_appendall(sql, "SELECT ");
    for (size_t i = 0; i < t->d.n; i++) {
        if (t->d.columns[i].kind == COLUMN_VECTOR && !vectors)
            sqlite3_str_appendf(sql, "%sNULL", i ? ", " : "");
        else
            sqlite3_str_appendf(sql, "%sr.\"%w\"", i ? ", " : "", t->d.columns[i].name);
    }
    sqlite3_str_appendf(sql, " FROM main.\"%w\" AS r", rows);
}

int cursor_prepare(struct cursor *c, sqlite3_str *text, sqlite3_stmt **out)
{
    char *sql = sqlite3_str_finish(text);
    int rc = sql ? sqlite3_prepare_v3(session_sql(cursor_table(c)->s), sql, -1,
                                      SQLITE_PREPARE_PERSISTENT, out, NULL)
                 : SQLITE_NOMEM;
    sqlite3_free(sql);
    if (rc != SQLITE_ERROR)
        return rc == SQLITE_OK ? rc : cursor_fail_sqlite(c);
    sqlite3_free(c->base.pVtab->zErrMsg);
    c->base.pVtab->zErrMsg = table_rows_trouble(cursor_table(c));
    return rc;
}

/* Takes the table's statement for one row, or one of our own if another cursor has it. */
static int take_row(struct cursor *c)
{
    struct table *t = cursor_table(c);
    c->row = t->row[c->vectors];
    t->row[c->vectors] = NULL;
    if (c->row)
        return SQLITE_OK;
    sqlite3_str *sql = sqlite3_str_new(session_sql(t->s));
    append_select(t, c->vectors, sql);
    sqlite3_str_appendf(sql, " WHERE r.\"%w\" = ?1", t->d.columns[0].name);
    return cursor_prepare(c, sql, &c->row);
}

static void give_row(struct cursor *c)
{
    struct table *t = cursor_table(c);
    if (c->row)
        sqlite3_reset(c->row);
    if (c->row && !t->row[c->vectors])
        t->row[c->vectors] = c->row;
    else
        sqlite3_finalize(c->row);
    c->row = NULL;
    c->at_row = false;
}

/* ---- Steps of a plan ------------------------------------------------------------------------- */

bool plan_next_step(const char **p, enum step *step, size_t *column)
{
    while (**p == ' ')
        ++*p;
    if (!**p || **p == ':')
        return false;
    *step = (enum step)(unsigned char)*(*p)++;
    *column = strtoul(*p, (char **)p, 10);
    return true;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void append_condition(const struct table *t, sqlite3_str *sql, enum step step, size_t column,
                             int parameter)
{
    static const struct {
        enum step step;
        const char *op;
    } ops[] = {{STEP_EQ, "="}, {STEP_NE, "<>"}, {STEP_LT, "<"}, {STEP_LE, "<="},
               {STEP_GT, ">"}, {STEP_GE, ">="}, {STEP_IS, "IS"}};
    const char *name = t->d.columns[column].name;
    if (step == STEP_TEXT) {
        char text[TEXT_NAME];
        table_text_name(t, text);
        sqlite3_str_appendf(sql,
                            "r.\"%w\" IN (SELECT rowid FROM main.\"%w\" WHERE \"%w\" MATCH ?%d)",
                            t->d.columns[0].name, text, text, parameter);
        return;
    }
    if (step == STEP_NULL || step == STEP_NOT_NULL)
        sqlite3_str_appendf(sql, "r.\"%w\" IS %sNULL", name, step == STEP_NULL ? "" : "NOT ");
    else if (step == STEP_CONTAINS)
        sqlite3_str_appendf(sql, "json_contains(r.\"%w\", ?%d)", name, parameter);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (ops[i].step == step)
            sqlite3_str_appendf(sql, "r.\"%w\" %s ?%d", name, ops[i].op, parameter);
}

static int prepare_rows(struct cursor *c, const char *plan)
{
    struct table *t = cursor_table(c);
    const char *p = plan;
    enum step step;
    size_t column;
    int parameter = 0;
    sqlite3_str *sql = sqlite3_str_new(session_sql(t->s));
    append_select(t, c->vectors, sql);
    while (plan_next_step(&p, &step, &column)) {
        sqlite3_str_appendall(sql, parameter++ ? " AND " : " WHERE ");
        append_condition(t, sql, step, column, parameter);
    }
    if (t->d.ttl)
        sqlite3_str_appendf(sql, "%s (r.\"%w\" IS NULL OR r.\"%w\" > ?%d)",
                            parameter ? " AND" : " WHERE", t->d.columns[t->d.ttl].name,
                            t->d.columns[t->d.ttl].name, parameter + 1);
    sqlite3_finalize(c->st);
    c->st = NULL;
    sqlite3_free(c->plan);
    c->plan = sqlite3_mprintf("%s", plan);
    if (!c->plan) {
        sqlite3_free(sqlite3_str_finish(sql));
        return SQLITE_NOMEM;
    }
    return cursor_prepare(c, sql, &c->st);
}

static int step_row(struct cursor *c)
{
    int rc = sqlite3_step(c->st);
    c->eof = rc != SQLITE_ROW;
    if (rc == SQLITE_ROW)
        return SQLITE_OK;
    if (rc == SQLITE_DONE) {
        sqlite3_reset(c->st);
        return SQLITE_OK;
    }
    rc = cursor_fail_sqlite(c);
    sqlite3_reset(c->st);
    return rc;
}

static int filter_rows(struct cursor *c, const char *plan, int argc, sqlite3_value **argv)
{
    int rc = SQLITE_OK;
    if (!c->st || strcmp(c->plan, plan) != 0)
        rc = prepare_rows(c, plan);
    /* IS NULL has an argument and no parameter. */
    int n = rc == SQLITE_OK ? sqlite3_bind_parameter_count(c->st) : 0;
    for (int i = 0; i < argc && i < n && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_value(c->st, i + 1, argv[i]);
    if (rc == SQLITE_OK && cursor_table(c)->d.ttl)
        rc = sqlite3_bind_int64(c->st, argc + 1, table_now());
    return rc == SQLITE_OK ? step_row(c) : rc;
}

/* ---- Methods --------------------------------------------------------------------------------- */

int table_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    struct cursor *c = sqlite3_malloc(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    *out = &c->base;
    return SQLITE_OK;
}

/* What the last xFilter left. */
static void finish(struct cursor *c)
{
    if (c->st)
        sqlite3_reset(c->st);
    give_row(c);
    near_fini(&c->near);
    c->eof = true;
}

int table_close(sqlite3_vtab_cursor *base)
{
    struct cursor *c = (struct cursor *)base;
    finish(c);
    sqlite3_finalize(c->st);
    sqlite3_free(c->plan);
    sqlite3_free(c);
    return SQLITE_OK;
}

int table_filter(sqlite3_vtab_cursor *base, int number, const char *plan, int argc,
                 sqlite3_value **argv)
{
    struct cursor *c = (struct cursor *)base;
    finish(c);
    c->vectors = number & PLAN_VECTORS;
    c->by_distance = *plan == STEP_MATCH;
    if (!c->by_distance)
        return filter_rows(c, plan, argc, argv);
    int rc = take_row(c);
    return rc == SQLITE_OK ? near_begin(c, plan, argv) : rc;
}

int table_next(sqlite3_vtab_cursor *base)
{
    struct cursor *c = (struct cursor *)base;
    if (!c->by_distance)
        return step_row(c);
    return near_next(c);
}

int table_eof(sqlite3_vtab_cursor *base)
{
    return ((struct cursor *)base)->eof;
}

int table_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out)
{
    struct cursor *c = (struct cursor *)base;
    *out = c->by_distance ? c->near.hits[c->near.i].id : sqlite3_column_int64(c->st, 0);
    return SQLITE_OK;
}

/* Makes c->row stand on the current hit. */
static int read_row(struct cursor *c)
{
    if (c->at_row)
        return SQLITE_OK;
    sqlite3_reset(c->row);
    sqlite3_bind_int64(c->row, 1, c->near.hits[c->near.i].id);
    int rc = sqlite3_step(c->row);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return cursor_fail_sqlite(c);
    c->at_row = rc == SQLITE_ROW;
    return SQLITE_OK;
}

/* Functions over vectors tell their type by this. */
static unsigned subtype_of(mn_dtype dtype)
{
    static const unsigned subtypes[] = {
        [MN_F32] = 223, [MN_BIT] = 224, [MN_I8] = 225, [MN_F16] = 226, [MN_BF16] = 227};
    return subtypes[dtype];
}

int table_column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int column)
{
    struct cursor *c = (struct cursor *)base;
    const struct table *t = cursor_table(c);
    size_t i = (size_t)column;
    if (sqlite3_vtab_nochange(ctx))
        return SQLITE_OK;
    if (i == t->d.n + HIDDEN_DISTANCE && c->by_distance)
        sqlite3_result_double(ctx, c->near.hits[c->near.i].distance);
    if (i >= t->d.n)
        return SQLITE_OK;
    if (c->by_distance && i == 0) {
        sqlite3_result_int64(ctx, c->near.hits[c->near.i].id);
        return SQLITE_OK;
    }
    int rc = c->by_distance ? read_row(c) : SQLITE_OK;
    if (rc != SQLITE_OK || (c->by_distance && !c->at_row))
        return rc;
    sqlite3_result_value(ctx, sqlite3_column_value(c->by_distance ? c->row : c->st, column));
    if (t->d.columns[i].kind == COLUMN_VECTOR)
        sqlite3_result_subtype(ctx, subtype_of(t->d.columns[i].vector.dtype));
    return SQLITE_OK;
}
