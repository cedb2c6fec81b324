/* .dump: the database as SQL, in one snapshot. Rows first, triggers and indexes last, so that
 * reading it back fires no trigger and inserts into no index row by row. Virtual tables go as rows
 * of sqlite_schema, as sqlite3 writes them: their parts are tables of their own and stand beside.
 */
#include <string.h>

#include "src/shell/dots.h"

struct dump {
    struct repl *r;
    bool writable_schema; /* said in the output */
    struct text line;
};

static int failed(struct dump *d, const char *sql)
{
    return complain(d->r, sql, strlen(sql), 0, (struct place){0});
}

/* The columns that can be inserted, for SELECT and INSERT alike. */
static void column_list(sqlite3 *db, const char *table, struct text *t)
{
    struct words w = {0};
    schema_query(db, "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0", table, &w);
    for (size_t i = 0; i < w.n; i++) {
        char *quoted = need(sqlite3_mprintf("%s\"%w\"", i ? "," : "", w.items[i]));
        text_puts(t, quoted);
        sqlite3_free(quoted);
    }
    words_free(&w);
}

/* Whether rows are to carry their rowid: it is no column, and indexes over the table name it. */
static bool has_hidden_rowid(sqlite3 *db, const char *table)
{
    struct words w = {0};
    schema_query(db,
                 "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND name = ?1 AND type = "
                 "'table' AND wr = 0 AND NOT EXISTS (SELECT 1 FROM pragma_table_xinfo(?1) WHERE "
                 "lower(name) IN ('rowid', '_rowid_', 'oid') OR (pk = 1 AND upper(type) = "
                 "'INTEGER'))",
                 table, &w);
    bool has = w.n > 0;
    words_free(&w);
    return has;
}

static int dump_rows(struct dump *d, const char *table)
{
    struct text columns = {0};
    sqlite3_stmt *stmt = NULL;
    int rc = SQLITE_DONE, code = 0;
    if (has_hidden_rowid(d->r->db, table))
        text_puts(&columns, "rowid,");
    column_list(d->r->db, table, &columns);
    if (!columns.len) {
        text_free(&columns);
        return 0;
    }
    char *sql = need(sqlite3_mprintf("SELECT %s FROM main.\"%w\"", columns.data, table));
    if (sqlite3_prepare_v2(d->r->db, sql, -1, &stmt, NULL) != SQLITE_OK)
        code = failed(d, sql);
    char *head = need(sqlite3_mprintf("INSERT INTO \"%w\"(%s) VALUES(", table, columns.data));
    while (!code && (rc = sqlite3_step(stmt)) == SQLITE_ROW && out_fine()) {
        text_clear(&d->line);
        text_puts(&d->line, head);
        for (int i = 0; i < sqlite3_column_count(stmt); i++) {
            struct cell c = cell_read(stmt, i, (struct shape){0});
            text_puts(&d->line, i ? "," : "");
            cell_sql(&d->line, &c);
        }
        text_puts(&d->line, ");\n");
        out_data(d->line.data, d->line.len);
    }
    if (!code && rc != SQLITE_DONE && rc != SQLITE_ROW)
        code = failed(d, sql);
    sqlite3_finalize(stmt);
    sqlite3_free(sql);
    sqlite3_free(head);
    text_free(&columns);
    return code;
}

static void dump_virtual(struct dump *d, const char *name, const char *sql)
{
    if (!d->writable_schema)
        out_printf("PRAGMA writable_schema=ON;\n");
    d->writable_schema = true;
    char *line = need(sqlite3_mprintf("INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)"
                                      "VALUES('table',%Q,%Q,0,%Q);\n",
                                      name, name, sql));
    out_data(line, strlen(line));
    sqlite3_free(line);
}

static int dump_table(struct dump *d, const char *name, const char *sql)
{
    if (strcmp(name, "sqlite_sequence") == 0)
        out_printf("DELETE FROM sqlite_sequence;\n");
    else if (sqlite3_strnicmp(name, "sqlite_stat", 11) == 0)
        out_printf("ANALYZE sqlite_schema;\n");
    else if (sqlite3_strnicmp(name, "sqlite_", 7) == 0)
        return 0;
    else if (sqlite3_strnicmp(sql, "CREATE VIRTUAL TABLE", 20) == 0) {
        dump_virtual(d, name, sql);
        return 0;
    } else {
        out_data(sql, strlen(sql));
        out_printf(";\n");
    }
    return dump_rows(d, name);
}

/* Walks the schema; `tables`: tables with their rows, else all that hangs on them. */
static int dump_objects(struct dump *d, const char *pattern, bool tables)
{
    static const char sql_tables[] =
        "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND sql NOT NULL AND (?1 IS "
        "NULL OR name LIKE ?1) ORDER BY tbl_name = 'sqlite_sequence', rowid";
    static const char sql_rest[] =
        "SELECT name, sql FROM main.sqlite_schema WHERE type IN ('index', 'trigger', 'view') AND "
        "sql NOT NULL AND (?1 IS NULL OR tbl_name LIKE ?1) ORDER BY type = 'trigger', rowid";
    const char *sql = tables ? sql_tables : sql_rest;
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v2(d->r->db, sql, -1, &stmt, NULL) != SQLITE_OK)
        return failed(d, sql);
    sqlite3_bind_text(stmt, 1, pattern, -1, SQLITE_STATIC);
    int rc = SQLITE_DONE, code = 0;
    while (!code && (rc = sqlite3_step(stmt)) == SQLITE_ROW && out_fine()) {
        const char *name = (const char *)sqlite3_column_text(stmt, 0);
        const char *create = (const char *)sqlite3_column_text(stmt, 1);
        if (tables) {
            code = dump_table(d, name, create);
        } else {
            out_data(create, strlen(create));
            out_printf(";\n");
        }
    }
    if (!code && rc != SQLITE_DONE && rc != SQLITE_ROW)
        code = failed(d, sql);
    sqlite3_finalize(stmt);
    return code;
}

int dump_write(struct repl *r, const char *pattern)
{
    struct dump d = {.r = r};
    if (sqlite3_exec(r->db, "SAVEPOINT mneme_dump", NULL, NULL, NULL) != SQLITE_OK)
        return failed(&d, "SAVEPOINT mneme_dump");
    out_printf("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n");
    int code = dump_objects(&d, pattern, true);
    if (!code)
        code = dump_objects(&d, pattern, false);
    if (d.writable_schema)
        out_printf("PRAGMA writable_schema=OFF;\n");
    out_printf(code ? "ROLLBACK; -- due to errors\n" : "COMMIT;\n");
    sqlite3_exec(r->db, "RELEASE mneme_dump", NULL, NULL, NULL);
    text_free(&d.line);
    return code;
}
