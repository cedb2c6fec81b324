/*
 * Collections over tables that were there before.
 *
 * The catalog holds the table's name, the vector column's and the attributes' (mneme_attributes).
 * The key is not held: it is the table's INTEGER PRIMARY KEY, whatever that is called now. Tables
 * without one are refused: their rowids are no identity, VACUUM renumbers them.
 *
 * Their owner may rename table and columns at any time. SQLite then rewrites our triggers, so that
 * they say what the names in the catalog stand for now:
 *
 *   the table    is the one that the triggers are on, if there is none under the catalog's name.
 *                (If there is one, the name decides: so it is after "make a new table, copy the
 *                rows, drop the old one, rename", and then the triggers went with the old one)
 *   a column     has the place in the update trigger's list which it has in the catalog's: the key,
 *                then by collection the vector column and the attributes, each name once.
 *                (Without such a list, because one column is computed from others, and where it is
 *                shorter, because one was gone when it was made, the catalog's name stands)
 *
 * Names are followed whenever an entry is read, and written down by catalog_reconcile().
 */
#include "storage/catalog_over.h"

#include <stdio.h>
#include <string.h>

#include "storage/base/error.h"
#include "storage/changelog.h"
#include "storage/sql.h"

/* ---- One answer of SQLite -------------------------------------------------------------------- */

/* The first column of the first row as a name; *there false without a row. */
static mn_status one_name(sqlite3_stmt *st, char out[MN_MAX_NAME + 1], bool *there, mn_error *err)
{
    bool row = false;
    *there = false;
    mn_status status = sql_step(st, &row, err);
    if (status || !row)
        return status;
    const char *name = (const char *)sqlite3_column_text(st, 0);
    size_t n = name ? strlen(name) : 0;
    if (n > 0 && n <= MN_MAX_NAME) {
        memcpy(out, name, n + 1);
        *there = true;
    }
    return MN_OK;
}

/* The same for a statement just prepared with that status; finalizes it. */
static mn_status ask_name(sqlite3_stmt *st, mn_status status, char out[MN_MAX_NAME + 1],
                          bool *there, mn_error *err)
{
    *there = false;
    if (status == MN_OK)
        status = one_name(st, out, there, err);
    sqlite3_finalize(st);
    return status;
}

/* Whether the table has the column, and what it is called letter by letter. */
static mn_status find_column(sqlite3 *db, const char *table, const char *column,
                             char out[MN_MAX_NAME + 1], bool *there, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT name FROM pragma_table_xinfo(%Q, 'main') WHERE name = "
                                    "%Q COLLATE NOCASE",
                                    table, column);
    return ask_name(st, status, out, there, err);
}

/* The INTEGER PRIMARY KEY: the one column of the key, if no index was needed for it. A virtual
 * table, a view and a table WITHOUT ROWID have none. */
static mn_status find_key(sqlite3 *db, const char *table, char out[MN_MAX_NAME + 1], bool *there,
                          mn_error *err)
{
    sqlite3_stmt *st = NULL;
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT max(c.name) FROM sqlite_master m, pragma_table_xinfo(m.name, 'main') c WHERE "
        "m.type "
        "= 'table' AND m.rootpage > 0 AND m.name = %Q COLLATE NOCASE AND c.pk > 0 AND NOT EXISTS "
        "(SELECT 1 FROM pragma_index_list(m.name, 'main') WHERE origin = 'pk') HAVING count(*) = 1",
        table);
    return ask_name(st, status, out, there, err);
}

/* ---- Names that moved ------------------------------------------------------------------------ */

/* Each column that a collection over table ?1 needs, once, in the order of the triggers. */
#define SELECT_NEEDED                                                                              \
    "SELECT name FROM (SELECT vector_column AS name, number AS major, 0 AS minor FROM "            \
    "mneme_collections WHERE table_number = ?1 UNION ALL SELECT a.name, a.collection, a.position " \
    "FROM mneme_attributes a JOIN mneme_collections c ON c.number = a.collection WHERE "           \
    "c.table_number = ?1) GROUP BY lower(name) ORDER BY min(major * 1000 + minor)"

/* Number of needed columns, and the position of `column` among them, or -1. */
static mn_status place_of(sqlite3 *db, int64_t table_number, const char *column, int *n, int *at,
                          mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    *n = 0;
    *at = -1;
    mn_status status = sql_prepare(db, SELECT_NEEDED, &st, err);
    if (status == MN_OK)
        sqlite3_bind_int64(st, 1, table_number);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        if (name && sqlite3_stricmp(name, column) == 0)
            *at = *n;
        ++*n;
    }
    sqlite3_finalize(st);
    return status;
}

/* Reads the name at *p, in quotes or not; false if it is too long or there is none. */
static bool read_name(const char **p, char out[MN_MAX_NAME + 1])
{
    const char *s = *p;
    size_t n = 0;
    bool quoted = *s == '"';
    for (s += quoted; *s; s++) {
        if (quoted && *s == '"' && *++s != '"')
            break;
        if (!quoted && (*s == ',' || *s == ' '))
            break;
        if (n == MN_MAX_NAME)
            return false;
        out[n++] = *s;
    }
    out[n] = '\0';
    *p = s;
    return n > 0;
}

/* The name at position `at` of `list`, the columns of an update trigger, if there are n of them. */
static bool name_at(const char *list, int n, int at, char out[MN_MAX_NAME + 1])
{
    char name[MN_MAX_NAME + 1];
    int i = 0;
    for (;; i++) {
        while (*list == ' ')
            list++;
        if (!read_name(&list, name))
            return false;
        if (i == at)
            memcpy(out, name, sizeof name);
        while (*list == ' ')
            list++;
        if (*list != ',')
            break;
        list++;
    }
    return i + 1 == n && at < n && sqlite3_strnicmp(list, "ON ", 3) == 0;
}

/* What the table calls the column now. */
static mn_status follow_column(sqlite3 *db, const struct catalog_entry *e, const char *column,
                               char out[MN_MAX_NAME + 1], mn_error *err)
{
    static const char words[] = " AFTER UPDATE OF ";
    sqlite3_stmt *st = NULL;
    bool row = false;
    int n, at;
    char name[MN_MAX_NAME + 1];
    snprintf(out, MN_MAX_NAME + 1, "%s", column);
    mn_status status = place_of(db, e->table_number, column, &n, &at, err);
    if (status || at < 0)
        return status;
    status = sql_preparef(db, &st, err,
                          "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = "
                          "'mneme_%lld_update' AND tbl_name = %Q COLLATE NOCASE",
                          (long long)e->table_number, e->table);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    const char *sql = status == MN_OK && row ? (const char *)sqlite3_column_text(st, 0) : NULL;
    const char *list = sql ? strstr(sql, words) : NULL;
    bool found = list && name_at(list + sizeof words - 1, n + 1, at + 1, name);
    sqlite3_finalize(st);
    if (found)
        memcpy(out, name, sizeof name);
    return status;
}

static mn_status follow_table(sqlite3 *db, struct catalog_entry *e, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool there = false;
    char name[MN_MAX_NAME + 1];
    mn_status status =
        sql_preparef(db, &st, err,
                     "SELECT name FROM sqlite_master WHERE type = 'table' AND name = %Q COLLATE "
                     "NOCASE",
                     e->table);
    status = ask_name(st, status, name, &there, err);
    if (status == MN_OK && !there) {
        st = NULL;
        status = sql_preparef(db, &st, err,
                              "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger' AND name "
                              "= 'mneme_%lld_insert'",
                              (long long)e->table_number);
        status = ask_name(st, status, name, &there, err);
    }
    if (status == MN_OK && there)
        memcpy(e->table, name, sizeof name);
    return status;
}

mn_status over_resolve(sqlite3 *db, struct catalog_entry *e, mn_error *err)
{
    bool there = false;
    char column[MN_MAX_NAME + 1];
    *e->id_column = '\0';
    mn_status status = follow_table(db, e, err);
    if (status == MN_OK)
        status = find_key(db, e->table, e->id_column, &there, err);
    if (status || !there)
        return status;
    status = follow_column(db, e, e->column, column, err);
    if (status == MN_OK)
        memcpy(e->column, column, sizeof column);
    return status;
}

/* ---- Columns --------------------------------------------------------------------------------- */

/* Runs `sql` with the parameter ?1 and gives `out` each name as the table calls it now, ended by a
 * NUL. */
static mn_status collect_names(sqlite3 *db, const struct catalog_entry *e, const char *sql,
                               int64_t parameter, sqlite3_str *out, size_t *n, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    char now[MN_MAX_NAME + 1];
    mn_status status = sql_prepare(db, sql, &st, err);
    if (status == MN_OK)
        sqlite3_bind_int64(st, 1, parameter);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        if (!name || strlen(name) > MN_MAX_NAME)
            status = mn_fail(err, MN_CORRUPT,
                             "%s: mneme_attributes holds no valid name for collection '%s'; "
                             "restore a backup",
                             sqlite3_db_filename(db, "main"), e->name);
        if (status == MN_OK)
            status = follow_column(db, e, name, now, err);
        if (status == MN_OK)
            sqlite3_str_append(out, now, (int)strlen(now) + 1);
        ++*n;
    }
    sqlite3_finalize(st);
    return status;
}

static mn_status names_of(sqlite3 *db, const struct catalog_entry *e, const char *sql,
                          int64_t parameter, char **names, size_t *n, mn_error *err)
{
    sqlite3_str *all = sqlite3_str_new(db);
    *n = 0;
    mn_status status = collect_names(db, e, sql, parameter, all, n, err);
    int rc = sqlite3_str_errcode(all);
    *names = sqlite3_str_finish(all);
    if (status == MN_OK && rc != SQLITE_OK)
        status = sql_fail(NULL, rc, err, "catalog");
    if (status) {
        sqlite3_free(*names);
        *names = NULL;
        *n = 0;
    }
    return status;
}

mn_status over_attributes(sqlite3 *db, const struct catalog_entry *e, char **names, size_t *n,
                          mn_error *err)
{
    return names_of(db, e,
                    "SELECT name FROM mneme_attributes WHERE collection = ?1 ORDER BY position",
                    e->number, names, n, err);
}

mn_status over_missing(sqlite3 *db, const struct catalog_entry *e, char missing[MN_MAX_NAME + 1],
                       mn_error *err)
{
    char *names = NULL, name[MN_MAX_NAME + 1];
    size_t n = 0;
    bool there = false;
    *missing = '\0';
    mn_status st = find_column(db, e->table, e->column, name, &there, err);
    if (st == MN_OK && !there)
        memcpy(missing, e->column, sizeof e->column);
    if (st || !there)
        return st;
    st = over_attributes(db, e, &names, &n, err);
    const char *p = names;
    for (size_t i = 0; i < n && st == MN_OK && !*missing; i++, p += strlen(p) + 1) {
        st = find_column(db, e->table, p, name, &there, err);
        if (st == MN_OK && !there)
            memcpy(missing, p, strlen(p) + 1);
    }
    sqlite3_free(names);
    return st;
}

/* Whether some column of the table is computed from others: no list of columns names all changes
 * of such a one. */
static mn_status is_generated(sqlite3 *db, const char *table, const char *column, bool *generated,
                              mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t n = 0;
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT count(*) FROM pragma_table_xinfo(%Q, 'main') WHERE "
                                    "name = %Q COLLATE NOCASE AND hidden > 1",
                                    table, column);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &n, err);
    sqlite3_finalize(st);
    *generated = n > 0;
    return status;
}

mn_status over_computed(sqlite3 *db, const struct catalog_entry *e, char name[MN_MAX_NAME + 1],
                        mn_error *err)
{
    char *names = NULL;
    size_t n = 0;
    bool yes = false;
    *name = '\0';
    mn_status st = is_generated(db, e->table, e->column, &yes, err);
    if (yes)
        memcpy(name, e->column, sizeof e->column);
    if (st || yes)
        return st;
    st = over_attributes(db, e, &names, &n, err);
    const char *p = names;
    for (size_t i = 0; i < n && st == MN_OK && !yes; i++, p += strlen(p) + 1) {
        st = is_generated(db, e->table, p, &yes, err);
        if (yes)
            memcpy(name, p, strlen(p) + 1);
    }
    sqlite3_free(names);
    return st;
}

mn_status over_watched(sqlite3 *db, const struct catalog_entry *e, char **list, mn_error *err)
{
    char *names = NULL, name[MN_MAX_NAME + 1];
    size_t n = 0;
    bool there = false, generated = false;
    *list = NULL;
    mn_status st = names_of(db, e, SELECT_NEEDED, e->table_number, &names, &n, err);
    if (st)
        return st;
    sqlite3_str *out = sqlite3_str_new(db);
    sqlite3_str_appendf(out, "\"%w\"", e->id_column);
    const char *p = names;
    for (size_t i = 0; i < n && st == MN_OK && !generated; i++, p += strlen(p) + 1) {
        st = find_column(db, e->table, p, name, &there, err);
        if (st == MN_OK && there)
            st = is_generated(db, e->table, p, &generated, err);
        if (there)
            sqlite3_str_appendf(out, ", \"%w\"", name);
    }
    sqlite3_free(names);
    int rc = sqlite3_str_errcode(out);
    char *text = sqlite3_str_finish(out);
    if (st == MN_OK && rc != SQLITE_OK)
        st = sql_fail(NULL, rc, err, "catalog");
    if (st == MN_OK && generated)
        *text = '\0';
    if (st == MN_OK)
        *list = text;
    else
        sqlite3_free(text);
    return st;
}

/* ---- Making and keeping ---------------------------------------------------------------------- */

/* A table of another virtual table's own: its module writes there as it likes. */
static mn_status check_shadow(sqlite3 *db, const char *name, const char *table, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool there = false;
    char owner[MN_MAX_NAME + 1];
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage = 0 AND lower(sql) NOT "
        "LIKE '%%using mneme%%' AND lower(%Q) IN (SELECT lower(name) || suffix FROM (SELECT "
        "'_content' AS suffix UNION ALL VALUES ('_data'), ('_idx'), ('_docsize'), ('_config'), "
        "('_segments'), ('_segdir'), ('_stat'), ('_node'), ('_parent'), ('_rowid')))",
        table);
    status = ask_name(st, status, owner, &there, err);
    if (status == MN_OK && there)
        status = mn_fail(err, MN_INVALID,
                         "collection '%s': table '%s' is part of the virtual table '%s'; only an "
                         "ordinary table can be indexed",
                         name, table, owner);
    return status;
}

static mn_status check_table(sqlite3 *db, const char *name, const char *table, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    const char *file = sqlite3_db_filename(db, "main");
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT type, rootpage = 0 FROM sqlite_master WHERE name = %Q "
                                    "COLLATE NOCASE AND type IN ('table', 'view')",
                                    table);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    const char *type = status == MN_OK && row ? (const char *)sqlite3_column_text(st, 0) : NULL;
    const char *is = !type                       ? NULL
                     : strcmp(type, "view") == 0 ? "a view"
                     : sqlite3_column_int(st, 1) ? "a virtual table"
                                                 : "";
    if (status == MN_OK && !row)
        status = mn_fail(err, MN_NOTFOUND, "%s: collection '%s': there is no table '%s'", file,
                         name, table);
    else if (status == MN_OK && is && *is)
        status = mn_fail(err, MN_INVALID,
                         "collection '%s': '%s' is %s; only an ordinary table can be indexed", name,
                         table, is);
    else if (status == MN_OK && (sqlite3_strnicmp(table, "mneme_", 6) == 0 ||
                                 sqlite3_strnicmp(table, "sqlite_", 7) == 0))
        status =
            mn_fail(err, MN_INVALID,
                    "collection '%s': table '%s' is Mneme's or SQLite's own and is not indexed",
                    name, table);
    sqlite3_finalize(st);
    return status ? status : check_shadow(db, name, table, err);
}

static mn_status check_key(sqlite3 *db, const char *name, const char *table,
                           char key[MN_MAX_NAME + 1], mn_error *err)
{
    bool there = false;
    mn_status st = find_key(db, table, key, &there, err);
    if (st == MN_OK && !there)
        st = mn_fail(err, MN_INVALID,
                     "collection '%s': table '%s' has no INTEGER PRIMARY KEY, and VACUUM renumbers "
                     "the rowids of such tables; copy it into one that has: CREATE TABLE new(id "
                     "INTEGER PRIMARY KEY, ...); INSERT INTO new SELECT rowid, * FROM \"%s\"",
                     name, table, table);
    return st;
}

/* A table that Mneme made for another collection's rows. */
static mn_status check_own(sqlite3 *db, const char *name, const char *table, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool there = false;
    char owner[MN_MAX_NAME + 1];
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT c.name FROM mneme_tables t JOIN mneme_collections c ON "
                                    "c.table_number = t.number WHERE t.name = %Q AND t.id_kind <> "
                                    "'key' ORDER BY c.number",
                                    table);
    status = ask_name(st, status, owner, &there, err);
    if (status == MN_OK && there)
        status = mn_fail(err, MN_INVALID,
                         "collection '%s': table '%s' holds the rows of collection '%s'; make it "
                         "beside that one",
                         name, table, owner);
    return status;
}

static mn_status check_column(sqlite3 *db, const char *name, const char *table, const char *column,
                              const char *key, mn_error *err)
{
    bool there = false;
    char found[MN_MAX_NAME + 1];
    mn_status st = find_column(db, table, column, found, &there, err);
    if (st == MN_OK && !there)
        st = mn_fail(err, MN_NOTFOUND, "collection '%s': table '%s' has no column '%s'", name,
                     table, column);
    if (st == MN_OK && sqlite3_stricmp(column, key) == 0)
        st = mn_fail(err, MN_INVALID,
                     "collection '%s': column '%s' is the key of table '%s': it is the id of each "
                     "row, and neither a vector nor an attribute",
                     name, column, table);
    return st;
}

static mn_status check_attribute(sqlite3 *db, const char *name, const char *table,
                                 const char *attribute, const char *column, const char *key,
                                 mn_error *err)
{
    mn_status st = check_column(db, name, table, attribute, key, err);
    if (st == MN_OK && sqlite3_stricmp(attribute, column) == 0)
        st = mn_fail(err, MN_INVALID,
                     "collection '%s': column '%s' holds the vectors and is no attribute", name,
                     column);
    return st;
}

mn_status over_check(sqlite3 *db, const char *name, const mn_collection_opts *o, mn_error *err)
{
    char key[MN_MAX_NAME + 1];
    mn_status st = check_table(db, name, o->table, err);
    if (st == MN_OK)
        st = check_own(db, name, o->table, err);
    if (st == MN_OK)
        st = check_key(db, name, o->table, key, err);
    if (st == MN_OK)
        st = check_column(db, name, o->table, o->column, key, err);
    for (size_t i = 0; i < o->n_attributes && st == MN_OK; i++)
        st = check_attribute(db, name, o->table, o->attributes[i], o->column, key, err);
    return st;
}

mn_status over_check_attribute(sqlite3 *db, const struct catalog_entry *e, const char *attribute,
                               mn_error *err)
{
    char *names = NULL;
    size_t n = 0;
    mn_status st = check_attribute(db, e->name, e->table, attribute, e->column, e->id_column, err);
    if (st == MN_OK)
        st = over_attributes(db, e, &names, &n, err);
    const char *p = names;
    for (size_t i = 0; i < n && st == MN_OK; i++, p += strlen(p) + 1)
        if (sqlite3_stricmp(p, attribute) == 0)
            st = mn_fail(err, MN_EXISTS, "collection '%s' has an attribute '%s' already", e->name,
                         p);
    sqlite3_free(names);
    return st;
}

mn_status over_init(sqlite3 *db, mn_error *err)
{
    return sql_execf(db, err,
                     "CREATE TABLE IF NOT EXISTS main.mneme_attributes(collection INTEGER NOT NULL,"
                     " position INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (collection, "
                     "position)) WITHOUT ROWID;"
                     "UPDATE mneme_meta SET value = max(value, %d) WHERE key IN ('format', "
                     "'min_reader')",
                     CATALOG_FORMAT_OVER);
}

/* Appends the UPDATEs that write what has another name now: all are looked up before the first is
 * written, for the names lead to each other. */
static mn_status append_updates(sqlite3 *db, const struct catalog_entry *e, sqlite3_str *out,
                                mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    char now[MN_MAX_NAME + 1];
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT vector_column, number, 0 FROM mneme_collections WHERE table_number = %lld UNION "
        "ALL "
        "SELECT a.name, a.collection, a.position FROM mneme_attributes a JOIN mneme_collections c "
        "ON c.number = a.collection WHERE c.table_number = %lld",
        (long long)e->table_number, (long long)e->table_number);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        long long number = sqlite3_column_int64(st, 1), position = sqlite3_column_int64(st, 2);
        if (name)
            status = follow_column(db, e, name, now, err);
        if (status || !name || strcmp(now, name) == 0)
            continue;
        if (position)
            sqlite3_str_appendf(out,
                                "UPDATE mneme_attributes SET name = %Q WHERE collection = %lld AND "
                                "position = %lld;",
                                now, number, position);
        else
            sqlite3_str_appendf(out,
                                "UPDATE mneme_collections SET vector_column = %Q WHERE number = "
                                "%lld;",
                                now, number);
    }
    sqlite3_finalize(st);
    return status;
}

mn_status over_keep_names(sqlite3 *db, const struct catalog_entry *e, mn_error *err)
{
    sqlite3_str *sql = sqlite3_str_new(db);
    /* Another row of the catalog may have the name: then the table's is followed each time. */
    sqlite3_str_appendf(sql, "UPDATE OR IGNORE mneme_tables SET name = %Q WHERE number = %lld;",
                        e->table, (long long)e->table_number);
    mn_status st = append_updates(db, e, sql, err);
    int rc = sqlite3_str_errcode(sql);
    char *text = sqlite3_str_finish(sql);
    if (st == MN_OK && rc != SQLITE_OK)
        st = sql_fail(NULL, rc, err, "catalog");
    if (st == MN_OK)
        st = sql_exec(db, text, err);
    sqlite3_free(text);
    return st;
}
