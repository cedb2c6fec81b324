#include "src/shell/schema.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/shell/shell.h"
#include "storage/catalog.h"

/* ---- Words ---------------------------------------------------------------------------------- */

void words_add(struct words *w, const char *word, size_t len)
{
    for (size_t i = 0; i < w->n; i++)
        if (strncmp(w->items[i], word, len) == 0 && !w->items[i][len])
            return;
    if (w->n == w->cap) {
        w->cap = w->cap ? w->cap * 2 : 64;
        w->items = need(realloc(w->items, w->cap * sizeof *w->items));
    }
    w->items[w->n++] = need(strndup(word, len));
}

void words_free(struct words *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->items[i]);
    free(w->items);
    *w = (struct words){0};
}

const char *words_nearest(const struct words *w, const char *word)
{
    return nearest_word(word, (const char *const *)w->items, w->n);
}

/* ---- Names ---------------------------------------------------------------------------------- */

void schema_query(sqlite3 *db, const char *sql, const char *argument, struct words *w)
{
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK) {
        if (argument)
            sqlite3_bind_text(stmt, 1, argument, -1, SQLITE_STATIC);
        while (sqlite3_step(stmt) == SQLITE_ROW) {
            const char *text = (const char *)sqlite3_column_text(stmt, 0);
            if (text)
                words_add(w, text, strlen(text));
        }
    }
    sqlite3_finalize(stmt);
}

/* Tables that are parts of a virtual table ("shadow") and SQLite's own are not what people type. */
void schema_tables(sqlite3 *db, struct words *w)
{
    schema_query(db,
                 "SELECT name FROM pragma_table_list WHERE type <> 'shadow' AND name NOT LIKE "
                 "'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'mneme\\_%' ESCAPE '\\' ORDER BY name",
                 NULL, w);
}

void schema_columns(sqlite3 *db, const char *table, struct words *w)
{
    if (table)
        schema_query(db, "SELECT name FROM pragma_table_xinfo(?1)", table, w);
    else
        schema_query(db,
                     "SELECT DISTINCT c.name FROM pragma_table_list t, pragma_table_xinfo(t.name) "
                     "c WHERE t.type <> 'shadow' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND "
                     "t.name NOT LIKE 'mneme\\_%' ESCAPE '\\'",
                     NULL, w);
}

void schema_functions(sqlite3 *db, struct words *w)
{
    schema_query(db,
                 "SELECT DISTINCT name FROM pragma_function_list WHERE name GLOB '[a-z]*' ORDER "
                 "BY name",
                 NULL, w);
}

void schema_keywords(struct words *w)
{
    for (int i = 0; i < sqlite3_keyword_count(); i++) {
        const char *name;
        int n;
        char lower[32];
        if (sqlite3_keyword_name(i, &name, &n) != SQLITE_OK || n >= (int)sizeof lower)
            continue;
        for (int j = 0; j < n; j++)
            lower[j] = (char)tolower((unsigned char)name[j]);
        words_add(w, lower, (size_t)n);
    }
}

static bool answers(sqlite3 *db, const char *sql, const char *argument)
{
    struct words w = {0};
    schema_query(db, sql, argument, &w);
    bool any = w.n > 0;
    words_free(&w);
    return any;
}

bool schema_has_table(sqlite3 *db, const char *table)
{
    return answers(db, "SELECT name FROM pragma_table_list WHERE lower(name) = lower(?1)", table);
}

bool schema_has_function(sqlite3 *db, const char *name)
{
    return answers(db, "SELECT name FROM pragma_function_list WHERE name = lower(?1) LIMIT 1",
                   name);
}

/* ---- Collections ---------------------------------------------------------------------------- */

static mn_status collection_take(void *ctx, const struct catalog_entry *e, mn_error *err)
{
    struct collections *c = ctx;
    (void)err;
    c->items = need(realloc(c->items, (c->n + 1) * sizeof *c->items));
    struct vector_column *v = &c->items[c->n++];
    memset(v, 0, sizeof *v);
    memcpy(v->collection, e->name, sizeof v->collection);
    memcpy(v->table, e->table, sizeof v->table);
    memcpy(v->column, e->column, sizeof v->column);
    v->id_kind = e->id_kind;
    v->foreign = e->foreign;
    v->shape = (struct shape){.known = true, .dtype = e->dtype, .dim = e->dim};
    return MN_OK;
}

static int64_t schema_version(sqlite3 *db)
{
    sqlite3_stmt *stmt = NULL;
    int64_t version = -1;
    if (sqlite3_prepare_v2(db, "PRAGMA schema_version", -1, &stmt, NULL) == SQLITE_OK &&
        sqlite3_step(stmt) == SQLITE_ROW)
        version = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return version;
}

void collections_load(struct collections *c, sqlite3 *db)
{
    enum catalog_state state = CATALOG_ABSENT;
    mn_error err = {0};
    int64_t version = schema_version(db);
    if (c->loaded && c->version == version)
        return;
    collections_free(c);
    c->version = version;
    c->loaded = true;
    if (catalog_check(db, &state, &err) == MN_OK && state == CATALOG_PRESENT)
        (void)!catalog_walk(db, collection_take, c, &err);
}

void collections_free(struct collections *c)
{
    free(c->items);
    *c = (struct collections){0};
}

const struct vector_column *collections_find(const struct collections *c, const char *name)
{
    for (size_t i = 0; i < c->n; i++)
        if (strcasecmp(c->items[i].collection, name) == 0)
            return &c->items[i];
    return NULL;
}

struct shape collections_shape(const struct collections *c, const char *table, const char *column)
{
    for (size_t i = 0; table && column && i < c->n; i++)
        if (strcasecmp(c->items[i].table, table) == 0 &&
            strcasecmp(c->items[i].column, column) == 0)
            return c->items[i].shape;
    return (struct shape){0};
}
