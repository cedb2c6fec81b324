/*
 * The ids that a search is about, where its arguments name them, or where the table is asked for
 * them: without an index, rows that meet selective conditions are found sooner by one pass of
 * SQLite over the attributes, or by an index of the user's on them, than by looking at the rows
 * that are near.
 *
 * What SQLite is told only has to let all through that may match: the values of each row are
 * compared here once more. A column whose affinity would turn the value into something else is
 * hidden from it behind a plus, which costs the use of an index.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/search.h"
#include "storage/base/value.h"
#include "storage/sql.h"

enum { MOST_VALUES = 500 /* of an IN that SQLite is told; a longer list is left to us */ };

/* ---- Lists ----------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts the list and drops what stands twice; its length. */
static size_t tidy(int64_t *ids, size_t n)
{
    size_t kept = 0;
    if (n > 1)
        qsort(ids, n, sizeof *ids, by_id);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || ids[i] != ids[kept - 1])
            ids[kept++] = ids[i];
    return kept;
}

/* The search is about these, among those that it was about; takes the list over. */
static void keep_only(struct search *s, int64_t *ids, size_t n)
{
    size_t kept = 0;
    n = tidy(ids, n);
    for (size_t i = 0; i < n; i++)
        if (!s->ids || bsearch(&ids[i], s->ids, s->n_ids, sizeof *ids, by_id))
            ids[kept++] = ids[i];
    mn_free(s->conn->db->alloc, s->ids);
    s->ids = ids;
    s->n_ids = kept;
}

static mn_status no_memory(size_t n, mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "search: out of memory under the cap for a set of %zu ids", n);
}

/* ---- Ids that are named ---------------------------------------------------------------------- */

/* The integer that equals a number, if there is one. */
static bool as_id(const mn_value *v, int64_t *id)
{
    if (v->type == MN_INTEGER) {
        *id = v->integer;
        return true;
    }
    if (v->type != MN_REAL || !(v->real >= -0x1p63 && v->real < 0x1p63))
        return false;
    *id = (int64_t)v->real;
    const mn_value back = {.type = MN_INTEGER, .integer = *id};
    return value_compare(v, &back) == 0;
}

static mn_status find_text(struct search *s, const mn_value *v, int64_t *id, bool *there,
                           mn_error *err)
{
    sqlite3_stmt *st;
    mn_status status = coll_stmt(s->conn, s->c, STMT_FIND_TEXT, &st, err);
    *there = false;
    if (status || v->type != MN_TEXT || v->len > MN_MAX_TEXT_ID)
        return status;
    sqlite3_bind_text(st, 1, v->data, (int)v->len, SQLITE_STATIC);
    status = sql_step(st, there, err);
    if (status)
        return status;
    if (*there)
        *id = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return MN_OK;
}

static bool names_ids(const struct condition *c)
{
    return c->column < 0 && (c->op == MN_OP_EQ || c->op == MN_OP_IN);
}

static mn_status take_named(struct search *s, const struct condition *c, mn_error *err)
{
    size_t n = 0;
    mn_status st = MN_OK;
    int64_t *ids = mn_alloc_array(s->conn->db->alloc, c->n, sizeof *ids, MN_TAG_SEARCH);
    if (!ids)
        return no_memory(c->n, err);
    for (size_t i = 0; i < c->n && st == MN_OK; i++) {
        bool there = c->column == CONDITION_ID && as_id(&c->values[i], &ids[n]);
        if (c->column == CONDITION_TEXT_ID)
            st = find_text(s, &c->values[i], &ids[n], &there, err);
        n += there;
    }
    if (st)
        mn_free(s->conn->db->alloc, ids);
    else
        keep_only(s, ids, n);
    return st;
}

mn_status search_take_ids(struct search *s, mn_error *err)
{
    const mn_search_opts *o = &s->opts;
    size_t kept = 0;
    mn_status st = MN_OK;
    if (o->only_ids) {
        int64_t *ids =
            mn_alloc_array(s->conn->db->alloc, o->n_only_ids, sizeof *ids, MN_TAG_SEARCH);
        if (!ids)
            return no_memory(o->n_only_ids, err);
        memcpy(ids, o->only_ids, o->n_only_ids * sizeof *ids);
        keep_only(s, ids, o->n_only_ids);
    }
    for (size_t i = 0; i < s->where.n && st == MN_OK; i++) {
        if (names_ids(&s->where.all[i]))
            st = take_named(s, &s->where.all[i], err);
        else
            s->where.all[kept++] = s->where.all[i];
    }
    s->where.n = kept; /* the others are met by whatever is among the ids */
    return st;
}

/* ---- Ids that SQLite finds ------------------------------------------------------------------- */

/* What a column makes of a value that it is compared with: SQLite's rules for declared types. */
static bool converts(const char *type, const mn_value *v)
{
    char word[64] = "";
    for (size_t i = 0; type && type[i] && i + 1 < sizeof word; i++)
        word[i] = (char)(type[i] >= 'a' && type[i] <= 'z' ? type[i] - 32 : type[i]);
    bool number = v->type == MN_INTEGER || v->type == MN_REAL;
    if (strstr(word, "INT"))
        return v->type == MN_TEXT;
    if (strstr(word, "CHAR") || strstr(word, "CLOB") || strstr(word, "TEXT"))
        return number;
    return *word && !strstr(word, "BLOB") && v->type == MN_TEXT;
}

static bool told_to_sqlite(const struct condition *c)
{
    return c->op != MN_OP_CONTAINS && c->n <= MOST_VALUES;
}

static void append_column(struct search *s, sqlite3_str *sql, const struct condition *c)
{
    const struct catalog_entry *e = &s->c->entry;
    const char *name = c->column >= 0                   ? s->c->attrs[c->column]
                       : c->column == CONDITION_TEXT_ID ? "text_id"
                                                        : e->id_column;
    const char *type = NULL;
    bool plus = false;
    sqlite3_table_column_metadata(s->conn->sql, "main", e->table, name, &type, NULL, NULL, NULL,
                                  NULL);
    for (size_t i = 0; i < c->n; i++)
        plus = plus || converts(type, &c->values[i]);
    sqlite3_str_appendf(sql, "%s\"%w\"", plus ? "+" : "", name);
}

static void append_condition(struct search *s, sqlite3_str *sql, const struct condition *c)
{
    static const char *const ops[] = {"", "= ?", "<> ?", "< ?", "<= ?", "> ?", ">= ?"};
    append_column(s, sql, c);
    if (c->op == MN_OP_IS_NULL || c->op == MN_OP_NOT_NULL) {
        sqlite3_str_appendall(sql, c->op == MN_OP_IS_NULL ? " IS NULL" : " IS NOT NULL");
        return;
    }
    sqlite3_str_appendall(sql, " COLLATE BINARY ");
    if (c->op != MN_OP_IN) {
        sqlite3_str_appendall(sql, ops[c->op]);
        return;
    }
    for (size_t i = 0; i < c->n; i++)
        sqlite3_str_appendall(sql, i ? ", ?" : "IN (?");
    sqlite3_str_appendall(sql, ")");
}

/* SELECT id, then what each condition is on, of the rows with a vector that may meet all. */
static mn_status prepare(struct search *s, sqlite3_stmt **out, mn_error *err)
{
    const struct catalog_entry *e = &s->c->entry;
    sqlite3_str *sql = sqlite3_str_new(s->conn->sql);
    sqlite3_str_appendf(sql, "SELECT \"%w\"", e->id_column);
    for (size_t i = 0; i < s->where.n; i++) {
        const struct condition *c = &s->where.all[i];
        sqlite3_str_appendf(sql, ", \"%w\"", c->column >= 0 ? s->c->attrs[c->column]
                                             : c->column == CONDITION_TEXT_ID ? "text_id"
                                                                              : e->id_column);
    }
    sqlite3_str_appendf(sql, " FROM main.\"%w\" WHERE \"%w\" IS NOT NULL", e->table, e->column);
    for (size_t i = 0; i < s->where.n; i++)
        if (told_to_sqlite(&s->where.all[i])) {
            sqlite3_str_appendall(sql, " AND ");
            append_condition(s, sql, &s->where.all[i]);
        }
    char *text = sqlite3_str_finish(sql);
    mn_status st = text ? sql_prepare(s->conn->sql, text, out, err)
                        : mn_fail(err, MN_NOMEM, "search: out of memory for a statement");
    sqlite3_free(text);
    return st;
}

static void bind(sqlite3_stmt *st, int at, const mn_value *v)
{
    if (v->type == MN_INTEGER)
        sqlite3_bind_int64(st, at, v->integer);
    else if (v->type == MN_REAL)
        sqlite3_bind_double(st, at, v->real);
    else if (v->type == MN_TEXT)
        sqlite3_bind_text64(st, at, v->len ? v->data : "", v->len, SQLITE_STATIC, SQLITE_UTF8);
    else if (v->len)
        sqlite3_bind_blob64(st, at, v->data, v->len, SQLITE_STATIC);
    else
        sqlite3_bind_zeroblob(st, at, 0);
}

static bool row_meets(const struct search *s, sqlite3_stmt *st)
{
    for (size_t i = 0; i < s->where.n; i++) {
        mn_value v = row_value(st, 1 + (int)i);
        if (!condition_holds(&s->where.all[i], &v))
            return false;
    }
    return true;
}

static mn_status collect(struct search *s, sqlite3_stmt *st, int64_t **ids, size_t *n,
                         mn_error *err)
{
    size_t cap = 0;
    bool row = false;
    mn_status status = MN_OK;
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        s->stats.rows_checked++;
        if (s->stats.rows_checked % 1024 == 0)
            status = conn_tick(s->conn, err);
        if (status || !row_meets(s, st))
            continue;
        if (*n == cap) {
            cap = cap ? 2 * cap : 256;
            int64_t *more =
                mn_realloc(s->conn->db->alloc, *ids, cap * sizeof **ids, MN_TAG_SEARCH);
            if (!more)
                return no_memory(cap, err);
            *ids = more;
        }
        (*ids)[(*n)++] = sqlite3_column_int64(st, 0);
    }
    return status;
}

mn_status search_ids_by_sql(struct search *s, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    size_t n = 0;
    int at = 1;
    int64_t *ids = mn_alloc(s->conn->db->alloc, sizeof *ids, MN_TAG_SEARCH);
    mn_status status = ids ? prepare(s, &st, err) : no_memory(1, err);
    for (size_t i = 0; i < s->where.n && status == MN_OK; i++)
        for (size_t j = 0; told_to_sqlite(&s->where.all[i]) && j < s->where.all[i].n; j++)
            bind(st, at++, &s->where.all[i].values[j]);
    if (status == MN_OK)
        status = collect(s, st, &ids, &n, err);
    sqlite3_finalize(st);
    if (status) {
        mn_free(s->conn->db->alloc, ids);
        return status;
    }
    keep_only(s, ids, n);
    s->where.n = 0; /* met by them all */
    s->stats.matches = s->n_ids;
    return MN_OK;
}
