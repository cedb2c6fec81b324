/* The nearest rows by the sum of differences: SQLite scans the rows, as no index knows this
 * distance. */
#include <stdlib.h>
#include <string.h>

#include "src/sql/cursor.h"

/* A kept value as it was converted for the column. */
static int bind_kept(sqlite3_stmt *st, int parameter, const mn_value *v)
{
    switch (v->type) {
    case MN_INTEGER:
        return sqlite3_bind_int64(st, parameter, v->integer);
    case MN_REAL:
        return sqlite3_bind_double(st, parameter, v->real);
    case MN_TEXT:
        return sqlite3_bind_text64(st, parameter, v->data ? v->data : "", v->len, SQLITE_STATIC,
                                   SQLITE_UTF8);
    case MN_BLOB:
        return sqlite3_bind_blob64(st, parameter, v->data ? v->data : "", v->len, SQLITE_STATIC);
    default:
        return sqlite3_bind_null(st, parameter);
    }
}

/* The operator of a condition in SQL; a list and what takes no value are not among them. */
static const char *op_sql(mn_op op)
{
    static const char *const ops[] = {[MN_OP_EQ] = "=",  [MN_OP_NE] = "<>", [MN_OP_LT] = "<",
                                      [MN_OP_LE] = "<=", [MN_OP_GT] = ">",  [MN_OP_GE] = ">="};
    return (size_t)op < sizeof ops / sizeof *ops ? ops[op] : NULL;
}

/* Appends " AND ..." for one condition, with parameters counted on from *parameter. */
static void append_where(const struct table *t, sqlite3_str *sql, const mn_condition *w,
                         int *parameter)
{
    /* Conditions call the key "id", whatever its column is called. */
    const char *name = strcmp(w->attribute, "id") == 0 ? t->d.columns[0].name : w->attribute;
    sqlite3_str_appendf(sql, " AND ");
    if (op_sql(w->op))
        sqlite3_str_appendf(sql, "r.\"%w\" %s ?%d", name, op_sql(w->op), (*parameter)++);
    else if (w->op == MN_OP_CONTAINS)
        sqlite3_str_appendf(sql, "json_contains(r.\"%w\", ?%d)", name, (*parameter)++);
    else if (w->op == MN_OP_IN) {
        sqlite3_str_appendf(sql, "r.\"%w\" IN (", name);
        for (size_t i = 0; i < w->n_values; i++)
            sqlite3_str_appendf(sql, "%s?%d", i ? ", " : "", (*parameter)++);
        sqlite3_str_appendall(sql, ")");
    } else {
        sqlite3_str_appendf(sql, "r.\"%w\" IS %sNULL", name, w->op == MN_OP_IS_NULL ? "" : "NOT ");
    }
}

/* SELECT id, distance of all rows that match, nearest first, by the sum of differences: SQLite
 * scans the rows, as no index knows this distance. */
static int prepare_l1(struct cursor *c, sqlite3_stmt **out)
{
    static const char *const casts[] = {
        [MN_F32] = "vec_f32", [MN_F16] = "vec_f16", [MN_BF16] = "vec_bf16", [MN_I8] = "vec_int8"};
    const struct table *t = cursor_table(c);
    const struct column *col = &t->d.columns[c->near.column];
    const char *id = t->d.columns[0].name, *cast = casts[col->vector.dtype];
    char rows[ROWS_NAME];
    int parameter = 2;
    table_rows_name(t, rows);
    sqlite3_str *sql = sqlite3_str_new(session_sql(t->s));
    sqlite3_str_appendf(
        sql,
        "SELECT r.\"%w\", vec_distance_l1(%s(r.\"%w\"), %s(?1)) FROM main.\"%w\" AS r WHERE "
        "r.\"%w\" IS NOT NULL",
        id, cast, col->name, cast, rows, col->name);
    for (size_t i = 0; i < c->near.n_where; i++)
        append_where(t, sql, &c->near.where[i], &parameter);
    if (t->d.ttl)
        sqlite3_str_appendf(sql, " AND (r.\"%w\" IS NULL OR r.\"%w\" > %lld)",
                            t->d.columns[t->d.ttl].name, t->d.columns[t->d.ttl].name,
                            (long long)c->near.now);
    sqlite3_str_appendf(sql, " ORDER BY 2, 1");
    int rc = cursor_prepare(c, sql, out);
    size_t bytes = mn_vector_bytes(col->vector.dtype, col->vector.dim);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_blob64(*out, 1, c->near.query, bytes, SQLITE_STATIC);
    for (size_t i = 0; i < c->near.n_values && rc == SQLITE_OK; i++)
        rc = bind_kept(*out, (int)i + 2, &c->near.values[i]);
    return rc;
}

/* All rows by that distance, in one batch. */
int near_search_l1(struct cursor *c)
{
    struct near *n = &c->near;
    sqlite3_stmt *st = NULL;
    size_t cap = 0;
    int rc = prepare_l1(c, &st);
    if (n->only)
        qsort(n->only, n->n_only, sizeof *n->only, near_by_id);
    n->n = n->i = 0;
    n->last = true;
    while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        mn_hit hit = {sqlite3_column_int64(st, 0), sqlite3_column_double(st, 1)};
        if (n->only && !bsearch(&hit.id, n->only, n->n_only, sizeof hit.id, near_by_id))
            continue;
        if (n->n == cap) {
            cap = cap ? 2 * cap : 64;
            mn_hit *more = sqlite3_realloc64(n->hits, cap * sizeof *more);
            if (!more) {
                rc = SQLITE_NOMEM;
                break;
            }
            n->hits = more;
        }
        n->hits[n->n++] = hit;
    }
    if (rc != SQLITE_DONE && rc != SQLITE_NOMEM)
        rc = cursor_fail_sqlite(c);
    sqlite3_finalize(st);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}
