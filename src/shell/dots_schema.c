/* Dot commands that tell what is in the database. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/shell/dots.h"
#include "src/shell/sqltext.h"

/* Tables and indexes of Mneme's own (mneme_...), of SQLite (sqlite_...) and parts of virtual tables
 * are shown to those who ask for them by name. */
#define NOT_INTERNAL                                                                               \
    " NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND s.name NOT LIKE 'mneme\\_%' ESCAPE '\\' "

/* Prepares with the pattern as ?1; NULL: none given. */
static int prepare(struct repl *r, const char *sql, const char *pattern, sqlite3_stmt **out)
{
    if (sqlite3_prepare_v2(r->db, sql, -1, out, NULL) != SQLITE_OK)
        return complain(r, sql, strlen(sql), 0, (struct place){0});
    if (sqlite3_bind_parameter_count(*out) > 0)
        sqlite3_bind_text(*out, 1, pattern, -1, SQLITE_STATIC);
    return 0;
}

static int finish(struct repl *r, sqlite3_stmt *stmt, int rc)
{
    const char *sql = sqlite3_sql(stmt);
    int code = rc == SQLITE_DONE ? 0 : complain(r, sql, strlen(sql), 0, (struct place){0});
    sqlite3_finalize(stmt);
    return code;
}

/* Prints the first column, in columns on a terminal. */
static int print_names(struct repl *r, const char *sql, const char *pattern)
{
    sqlite3_stmt *stmt = NULL;
    int rc, code = prepare(r, sql, pattern, &stmt);
    if (code)
        return code;
    struct words names = {0};
    struct text line = {0};
    size_t widest = 0;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(stmt, 0);
        text_clear(&line);
        text_visible(&line, name ? name : "", name ? strlen(name) : 0, 0);
        words_add(&names, line.data, line.len);
        if (text_width(line.data, line.len) > widest)
            widest = text_width(line.data, line.len);
    }
    size_t across = out_is_terminal() ? out_columns() / (widest + 2) : 1;
    size_t columns = across ? across : 1, rows = (names.n + columns - 1) / columns;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = i; j < names.n; j += rows) {
            size_t width = text_width(names.items[j], strlen(names.items[j]));
            bool last = j + rows >= names.n;
            out_printf("%s%*s", names.items[j], last ? 0 : (int)(widest + 2 - width), "");
        }
        out_printf("\n");
    }
    words_free(&names);
    text_free(&line);
    return finish(r, stmt, rc);
}

/* Schemas other than main have their name in front. */
int dot_tables(struct repl *r, const struct dot_args *a)
{
    return print_names(
        r,
        "SELECT CASE s.schema WHEN 'main' THEN '' WHEN 'temp' THEN 'temp.' ELSE s.schema || '.' "
        "END || s.name AS n FROM pragma_table_list s WHERE s.name <> 'sqlite_schema' AND s.name <> "
        "'sqlite_temp_schema' AND (s.name LIKE ?1 OR (?1 IS NULL AND s.type <> 'shadow' AND "
        "s.name" NOT_INTERNAL ")) ORDER BY n",
        a->n > 1 ? a->words[1] : NULL);
}

int dot_indexes(struct repl *r, const struct dot_args *a)
{
    return print_names(r,
                       "SELECT s.name FROM sqlite_schema s WHERE s.type = 'index' AND (s.tbl_name "
                       "LIKE ?1 OR (?1 IS NULL AND s.name" NOT_INTERNAL ")) ORDER BY s.name",
                       a->n > 1 ? a->words[1] : NULL);
}

int dot_schema(struct repl *r, const struct dot_args *a)
{
    sqlite3_stmt *stmt = NULL;
    const char *pattern = a->n > 1 ? a->words[1] : NULL;
    int rc,
        code =
            prepare(r,
                    "SELECT s.sql || ';' FROM (SELECT 0 AS t, rowid AS r, * FROM sqlite_schema "
                    "UNION ALL SELECT 1, rowid, * FROM sqlite_temp_schema) s WHERE s.sql IS NOT "
                    "NULL AND (s.name LIKE ?1 OR (s.name" NOT_INTERNAL "AND (s.tbl_name LIKE ?1 OR "
                    "(?1 IS NULL AND s.name NOT IN (SELECT name FROM pragma_table_list WHERE type "
                    "= 'shadow'))))) ORDER BY s.t, s.r",
                    pattern, &stmt);
    if (code)
        return code;
    bool any = false;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && out_fine()) {
        const char *sql = (const char *)sqlite3_column_text(stmt, 0);
        any = true;
        out_data(sql, strlen(sql));
        out_printf("\n");
    }
    code = finish(r, stmt, rc == SQLITE_ROW ? SQLITE_DONE : rc);
    if (!code && !any && pattern) {
        struct words w = {0};
        schema_tables(r->db, &w);
        const char *near = words_nearest(&w, pattern);
        code = near ? error_exit(".schema: no table like '%s'; did you mean %s?", pattern, near)
                    : error_exit(".schema: no table like '%s'", pattern);
        words_free(&w);
    }
    return code;
}

/* ---- \d ------------------------------------------------------------------------------------- */

static int run_shown(struct repl *r, const char *format, const char *name)
{
    char *sql = need(sqlite3_mprintf(format, name));
    struct modes kept = r->set.modes;
    r->set.modes.expand = false;
    if (out_is_terminal())
        r->set.modes.mode = MODE_TABLE;
    int code = statements_run(r, sql, strlen(sql), (struct place){0});
    r->set.modes = kept;
    sqlite3_free(sql);
    return code;
}

/* \d: the tables; \d TABLE: its columns, indexes and collections. */
int dot_describe(struct repl *r, const struct dot_args *a)
{
    if (a->n == 1)
        return dot_tables(r, a);
    const char *name = a->words[1];
    if (!schema_has_table(r->db, name)) {
        struct words w = {0};
        schema_tables(r->db, &w);
        const char *near = words_nearest(&w, name);
        int code = near ? error_exit("no such table: %s; did you mean %s?", name, near)
                        : error_exit("no such table: %s", name);
        words_free(&w);
        return code;
    }
    int code = run_shown(r,
                         "SELECT name AS \"column\", type, CASE WHEN \"notnull\" THEN 'not null' "
                         "ELSE '' END AS \"null\", coalesce(dflt_value, '') AS \"default\", CASE "
                         "WHEN pk THEN 'key ' || pk WHEN hidden = 1 THEN 'hidden' WHEN hidden > 1 "
                         "THEN 'generated' ELSE '' END AS \"is\" FROM pragma_table_xinfo(%Q)",
                         name);
    if (!code)
        code = print_names(r,
                           "SELECT 'index ' || l.name || ' (' || (SELECT group_concat(coalesce(i."
                           "name, '<expression>'), ', ') FROM pragma_index_info(l.name) i) || ')' "
                           "|| CASE WHEN l.\"unique\" THEN ' unique' ELSE '' END FROM "
                           "pragma_index_list(?1) l ORDER BY l.seq",
                           name);
    collections_load(&r->known, r->db);
    for (size_t i = 0; !code && i < r->known.n; i++) {
        const struct vector_column *v = &r->known.items[i];
        if (sqlite3_stricmp(v->table, name) == 0)
            out_printf("collection %s: column %s, %" PRIu32 " x %s\n", v->collection, v->column,
                       v->shape.dim, mn_dtype_name(v->shape.dtype));
    }
    return code;
}

int dot_databases(struct repl *r, const struct dot_args *a)
{
    (void)a;
    sqlite3_stmt *stmt = NULL;
    int rc, code = prepare(r, "SELECT name, file FROM pragma_database_list", NULL, &stmt);
    if (code)
        return code;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(stmt, 0);
        const char *file = (const char *)sqlite3_column_text(stmt, 1);
        bool named = file && *file;
        out_printf("%s: %s%s\n", name, named ? file : "in memory",
                   sqlite3_db_readonly(r->db, name) == 1 ? ", read-only" : "");
    }
    return finish(r, stmt, rc);
}

int dot_explain(struct repl *r, const struct dot_args *a)
{
    const char *sql = a->n > 1 ? a->rest : r->last.data;
    bool runs = a->n > 1 && strcasecmp(a->words[1], "analyze") == 0;
    if (runs) {
        sql += strcspn(sql, " \t");
        sql = a->n > 2 ? sql : r->last.data;
    }
    if (!sql || sql_is_blank(sql, strlen(sql)))
        return error_exit(".explain takes a statement, or explains the last one; there was none");
    return runs ? statement_analyze(r, sql) : statement_explain(r, sql, (struct place){0});
}

int dot_dump(struct repl *r, const struct dot_args *a)
{
    return dump_write(r, a->n > 1 ? a->words[1] : NULL);
}
