/*
 * An FTS5 table F with external content over a table R (key id, text columns a, b), and beside it
 * mneme_F_old(id, c0, c1), here OLD, which is empty between statements:
 *
 *   F_mneme_stash    BEFORE INSERT   the rows that REPLACE would remove go to OLD
 *   F_mneme_insert   AFTER INSERT    those of OLD leave F, the new row enters it
 *   F_mneme_delete   AFTER DELETE    the row leaves F and OLD
 *   F_mneme_restash  BEFORE UPDATE   as F_mneme_stash
 *   F_mneme_update   AFTER UPDATE    those of OLD and the old row leave F, the new one enters it
 *
 * FTS5 wants the text of a row that leaves word by word, and SQLite fires no delete trigger for a
 * row that REPLACE removes: hence OLD. It is filled from R before the change, by the key and by
 * every unique index, and taken after it, but for rows that are in R still. What the statement then
 * did not change after all (OR IGNORE, a conflict that fails) leaves OLD filled and F as it was,
 * and the next change clears OLD first. With PRAGMA recursive_triggers REPLACE does fire
 * F_mneme_delete: it clears the row's place in OLD, so that it leaves F once. The triggers use
 * nothing but SQLite's own, so that a program without Mneme may write to R.
 *
 * F reads a row of R only for what FTS5 shows of it, as snippet(). Where R is a table of ours,
 * which is renamed under us, it does so through a view, mneme_text_N, that can follow the name; a
 * table of somebody else's it reads itself, since a view would stand in the way of who drops that
 * table and puts another in its place.
 *
 * Which F belongs to R is said by the triggers, which SQLite keeps at their table when it is
 * renamed. An R that was rebuilt (create new, copy, drop old, rename) has lost them: then the name
 * in F's own definition gives it away.
 */
#include "src/sql/fts.h"

#include <string.h>

#include "storage/base/error.h"
#include "storage/changelog_index.h"
#include "storage/sql.h"

static mn_status no_memory(mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "out of memory");
}

/* ---- SQL of the triggers --------------------------------------------------------------------- */

/* The pieces that the statements are made of. */
struct pieces {
    const struct fts_spec *s;
    char *unique;   /* ` OR ("u" = new."u" COLLATE "BINARY" AND ...) OR ...` */
    char *differs;  /* ` OR new."u" IS NOT old."u" ...`: unique indexes may be met */
    char *columns;  /* `, "a", "b"` */
    char *stash;    /* `, c0, c1` */
    char *news;     /* `, new."a", new."b"` */
    char *olds;
};

static void pieces_fini(struct pieces *p)
{
    sqlite3_free(p->unique);
    sqlite3_free(p->differs);
    sqlite3_free(p->columns);
    sqlite3_free(p->stash);
    sqlite3_free(p->news);
    sqlite3_free(p->olds);
}

/* Its text, "" too; NULL when memory ran out. */
static char *finish(sqlite3_str *text)
{
    bool empty = sqlite3_str_length(text) == 0 && sqlite3_str_errcode(text) == SQLITE_OK;
    char *out = sqlite3_str_finish(text);
    return empty ? sqlite3_mprintf("") : out;
}

/* ` OR (...) OR (...)`: a row is in the way of the new one through a unique index. */
static mn_status append_conflicts(sqlite3 *db, const char *table, sqlite3_str *out, mn_error *err)
{
    int n = 0;
    bool plain = true;
    sqlite3_str *all = sqlite3_str_new(db);
    mn_status st = changelog_append_conflicts(db, table, all, &n, &plain, err);
    char *text = sqlite3_str_finish(all);
    if (st == MN_OK && n > 0 && !text)
        st = no_memory(err);
    if (st == MN_OK && !plain)
        st = mn_fail(err, MN_INVALID,
                     "full text over '%s': a unique index is over an expression of its key, so "
                     "that REPLACE cannot be followed; drop that index",
                     table);
    if (st == MN_OK && n > 0)
        sqlite3_str_appendf(out, " OR %s", text);
    sqlite3_free(text);
    return st;
}

/* ` OR new."u" IS NOT old."u"...`: an update may meet a unique index; ` OR 1` where that is not
 * simply a matter of the indexes' columns. */
static mn_status append_differs(sqlite3 *db, const char *table, sqlite3_str *out, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false, other = false;
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT DISTINCT c.name, c.name IS NULL OR c.hidden OR l.partial AS other FROM "
        "pragma_index_list(%Q, 'main') l JOIN pragma_index_xinfo(l.name, 'main') x LEFT JOIN "
        "pragma_table_xinfo(%Q, 'main') c ON c.cid = x.cid WHERE l.\"unique\" AND x.key ORDER BY "
        "other DESC, c.cid",
        table, table);
    while (status == MN_OK && !other && (status = sql_step(st, &row, err)) == MN_OK && row) {
        const char *column = (const char *)sqlite3_column_text(st, 0);
        other = sqlite3_column_int(st, 1) != 0;
        if (other)
            sqlite3_str_appendall(out, " OR 1");
        else
            sqlite3_str_appendf(out, " OR new.\"%w\" IS NOT old.\"%w\" COLLATE BINARY", column,
                                column);
    }
    sqlite3_finalize(st);
    return status;
}

/* `, PREFIX"a", PREFIX"b"` */
static char *list(const struct fts_spec *s, const char *prefix)
{
    sqlite3_str *out = sqlite3_str_new(NULL);
    for (size_t i = 0; i < s->n; i++)
        sqlite3_str_appendf(out, ", %s\"%w\"", prefix, s->columns[i]);
    return sqlite3_str_finish(out);
}

static mn_status pieces_make(sqlite3 *db, const struct fts_spec *s, struct pieces *p,
                             mn_error *err)
{
    sqlite3_str *unique = sqlite3_str_new(NULL), *differs = sqlite3_str_new(NULL);
    *p = (struct pieces){.s = s};
    mn_status st = append_conflicts(db, s->table, unique, err);
    if (st == MN_OK)
        st = append_differs(db, s->table, differs, err);
    p->unique = finish(unique);
    p->differs = finish(differs);
    if (st != MN_OK)
        return st;
    sqlite3_str *stash = sqlite3_str_new(NULL);
    for (size_t i = 0; i < s->n; i++)
        sqlite3_str_appendf(stash, ", c%d", (int)i);
    p->stash = sqlite3_str_finish(stash);
    p->columns = list(s, "");
    p->news = list(s, "new.");
    p->olds = list(s, "old.");
    bool all = p->unique && p->differs && p->stash && p->columns && p->news && p->olds;
    return all ? MN_OK : no_memory(err);
}

static mn_status trigger(sqlite3 *db, const struct pieces *p, const char *what, const char *when,
                         const char *condition, const char *body, mn_error *err)
{
    if (!condition || !body)
        return no_memory(err);
    return sql_execf(db, err, "CREATE TRIGGER main.\"%w_mneme_%s\" %s ON \"%w\"%s BEGIN %s END",
                     p->s->name, what, when, p->s->table, condition, body);
}

static char *stash_body(const struct pieces *p, bool update)
{
    const struct fts_spec *s = p->s;
    char *other = update ? sqlite3_mprintf("\"%w\" <> old.\"%w\" AND ", s->id_column, s->id_column)
                         : sqlite3_mprintf("");
    char *body = !other ? NULL
                        : sqlite3_mprintf("DELETE FROM \"mneme_%w_old\"; INSERT INTO "
                                          "\"mneme_%w_old\"(id%s) SELECT \"%w\"%s FROM "
                                          "\"%w\" WHERE %s(\"%w\" = "
                                          "new.\"%w\"%s);",
                                          s->name, s->name, p->stash, s->id_column, p->columns,
                                          s->table, other, s->id_column, s->id_column, p->unique);
    sqlite3_free(other);
    return body;
}

/* Whether the text or the key is another: collations and 1 = 1.0 must not hide it. */
static char *text_differs(const struct pieces *p)
{
    const struct fts_spec *s = p->s;
    sqlite3_str *out = sqlite3_str_new(NULL);
    sqlite3_str_appendf(out, "new.\"%w\" IS NOT old.\"%w\"", s->id_column, s->id_column);
    for (size_t i = 0; i < s->n; i++)
        sqlite3_str_appendf(out,
                            " OR new.\"%w\" IS NOT old.\"%w\" COLLATE BINARY OR typeof(new.\"%w\") "
                            "<> typeof(old.\"%w\")",
                            s->columns[i], s->columns[i], s->columns[i], s->columns[i]);
    return sqlite3_str_finish(out);
}

/* Those of OLD that are gone leave, and OLD is cleared. */
static char *take_stash(const struct pieces *p)
{
    const struct fts_spec *s = p->s;
    return sqlite3_mprintf("INSERT INTO \"%w\"(\"%w\", rowid%s) SELECT 'delete', id%s FROM "
                           "\"mneme_%w_old\" WHERE id = new.\"%w\" OR id NOT IN (SELECT \"%w\" "
                           "FROM \"%w\"); DELETE FROM \"mneme_%w_old\";",
                           s->name, s->name, p->columns, p->stash, s->name, s->id_column,
                           s->id_column, s->table, s->name);
}

static char *insert_body(const struct pieces *p)
{
    const struct fts_spec *s = p->s;
    char *stash = take_stash(p);
    char *body = !stash ? NULL
                        : sqlite3_mprintf("%s INSERT INTO \"%w\"(rowid%s) VALUES (new.\"%w\"%s);",
                                          stash, s->name, p->columns, s->id_column, p->news);
    sqlite3_free(stash);
    return body;
}

static char *update_body(const struct pieces *p, const char *differs)
{
    const struct fts_spec *s = p->s;
    char *stash = take_stash(p);
    char *body = !stash || !differs
                     ? NULL
                     : sqlite3_mprintf("%s INSERT INTO \"%w\"(\"%w\", rowid%s) SELECT 'delete', "
                                       "old.\"%w\"%s WHERE %s; INSERT INTO \"%w\"(rowid%s) SELECT "
                                       "new.\"%w\"%s WHERE %s;",
                                       stash, s->name, s->name, p->columns, s->id_column, p->olds,
                                       differs, s->name, p->columns, s->id_column, p->news,
                                       differs);
    sqlite3_free(stash);
    return body;
}

static char *delete_body(const struct pieces *p)
{
    const struct fts_spec *s = p->s;
    return sqlite3_mprintf("INSERT INTO \"%w\"(\"%w\", rowid%s) VALUES ('delete', old.\"%w\"%s); "
                           "DELETE FROM \"mneme_%w_old\" WHERE id = old.\"%w\";",
                           s->name, s->name, p->columns, s->id_column, p->olds, s->name,
                           s->id_column);
}

static mn_status create_triggers(sqlite3 *db, const struct pieces *p, mn_error *err)
{
    char *differs = text_differs(p);
    char *condition = differs ? sqlite3_mprintf(" WHEN %s%s", differs, p->differs) : NULL;
    const struct {
        const char *what, *when, *condition;
        char *body;
    } triggers[] = {{"stash", "BEFORE INSERT", "", stash_body(p, false)},
                    {"insert", "AFTER INSERT", "", insert_body(p)},
                    {"restash", "BEFORE UPDATE", condition, stash_body(p, true)},
                    {"update", "AFTER UPDATE", condition, update_body(p, differs)},
                    {"delete", "AFTER DELETE", "", delete_body(p)}};
    mn_status st = MN_OK;
    for (size_t i = 0; i < 5; i++) {
        if (st == MN_OK)
            st = trigger(db, p, triggers[i].what, triggers[i].when, triggers[i].condition,
                         triggers[i].body, err);
        sqlite3_free(triggers[i].body);
    }
    sqlite3_free(condition);
    sqlite3_free(differs);
    return st;
}

static mn_status drop_triggers(sqlite3 *db, const char *name, mn_error *err)
{
    static const char *const what[] = {"stash", "insert", "restash", "update", "delete"};
    mn_status st = MN_OK;
    for (size_t i = 0; i < 5 && st == MN_OK; i++)
        st = sql_execf(db, err, "DROP TRIGGER IF EXISTS main.\"%w_mneme_%s\"", name, what[i]);
    return st;
}

/* ---- Making ---------------------------------------------------------------------------------- */

static mn_status check_fts5(sqlite3 *db, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    mn_status status = sql_prepare(db, "SELECT 1 FROM pragma_module_list WHERE name = 'fts5'", &st,
                                   err);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    sqlite3_finalize(st);
    if (status == MN_OK && !row)
        status = mn_fail(err, MN_INVALID,
                         "this program's SQLite %s was built without FTS5, so that it has no full "
                         "text; Debian's sqlite3 and libsqlite3 have it",
                         sqlite3_libversion());
    return status;
}

/* FTS5 would take any name, and fail at the first insert. */
static mn_status check_columns(sqlite3 *db, const struct fts_spec *s, mn_error *err)
{
    for (size_t i = 0; i < s->n; i++) {
        int rc = sqlite3_table_column_metadata(db, "main", s->table, s->columns[i], NULL, NULL,
                                               NULL, NULL, NULL);
        if (rc == SQLITE_NOMEM)
            return no_memory(err);
        if (rc != SQLITE_OK)
            return mn_fail(err, MN_INVALID, "full text over '%s': it has no column '%s'", s->table,
                           s->columns[i]);
    }
    return MN_OK;
}

static mn_status create_view(sqlite3 *db, const struct pieces *p, const char *view, mn_error *err)
{
    return sql_execf(db, err, "CREATE VIEW main.\"%w\" AS SELECT \"%w\"%s FROM \"%w\"", view,
                     p->s->id_column, p->columns, p->s->table);
}

/* What FTS5 reads: the table, or a new view. For sqlite3_free. */
static mn_status create_content(sqlite3 *db, const struct pieces *p, char **out, mn_error *err)
{
    int64_t n = 1;
    mn_status st = MN_OK;
    *out = NULL;
    if (p->s->view)
        st = sql_int(db, "SELECT max(CAST(substr(name, 12) AS INTEGER)) + 1 FROM "
                         "main.sqlite_master WHERE name GLOB 'mneme_text_*'",
                     1, &n, err);
    if (st != MN_OK)
        return st;
    *out = p->s->view ? sqlite3_mprintf("mneme_text_%lld", (long long)n)
                      : sqlite3_mprintf("%s", p->s->table);
    if (!*out)
        return no_memory(err);
    return p->s->view ? create_view(db, p, *out, err) : MN_OK;
}

static mn_status create_table(sqlite3 *db, const struct fts_spec *s, const struct pieces *p,
                              mn_error *err)
{
    char *content, *prefix = s->prefix ? sqlite3_mprintf(", prefix=%Q", s->prefix)
                                       : sqlite3_mprintf("");
    mn_status st = create_content(db, p, &content, err);
    if (st == MN_OK && !prefix)
        st = no_memory(err);
    if (st == MN_OK)
        st = sql_execf(db, err,
                       "CREATE VIRTUAL TABLE main.\"%w\" USING fts5(%s, content=%Q, "
                       "content_rowid=%Q, tokenize=%Q%s)",
                       s->name, p->columns + 2, content, s->id_column,
                       s->tokenize ? s->tokenize : "unicode61 remove_diacritics 2", prefix);
    sqlite3_free(prefix);
    sqlite3_free(content);
    if (st == MN_OK && s->weights) {
        char *rank = sqlite3_mprintf("bm25(%s)", s->weights);
        st = rank ? sql_execf(db, err, "INSERT INTO main.\"%w\"(\"%w\", rank) VALUES ('rank', %Q)",
                              s->name, s->name, rank)
                  : no_memory(err);
        sqlite3_free(rank);
    }
    if (st == MN_OK)
        st = sql_execf(db, err, "CREATE TABLE main.\"mneme_%w_old\"(id INTEGER PRIMARY KEY%s)",
                       s->name, p->stash);
    return st;
}

mn_status fts_create(sqlite3 *db, const struct fts_spec *s, mn_error *err)
{
    struct pieces p = {.s = s};
    mn_status st = check_fts5(db, err);
    if (st == MN_OK)
        st = check_columns(db, s, err);
    if (st == MN_OK)
        st = pieces_make(db, s, &p, err);
    if (st == MN_OK)
        st = create_table(db, s, &p, err);
    if (st == MN_OK)
        st = create_triggers(db, &p, err);
    if (st == MN_OK)
        st = sql_execf(db, err, "INSERT INTO main.\"%w\"(\"%w\") VALUES ('rebuild')", s->name,
                       s->name);
    pieces_fini(&p);
    return st;
}

/* ---- Finding --------------------------------------------------------------------------------- */

/* The FTS5 table whose triggers stand on the table, or (lost) whose definition names it. */
static mn_status find_name(sqlite3 *db, const char *table, char **name, bool *lost, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    *name = NULL;
    *lost = false;
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT substr(name, 1, length(name) - 13), 0 FROM main.sqlite_master WHERE type = "
        "'trigger' AND tbl_name = %Q COLLATE NOCASE AND name LIKE '%%\\_mneme\\_insert' ESCAPE "
        "'\\' UNION ALL SELECT name, 1 FROM main.sqlite_master m WHERE type = 'table' AND "
        "rootpage = 0 AND sql LIKE '%%USING fts5(%%' AND instr(sql, ', content=' || quote(%Q) || "
        "', content_rowid=') AND EXISTS (SELECT 1 FROM main.sqlite_master o WHERE o.name = "
        "'mneme_' || m.name || '_old') LIMIT 1",
        table, table);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status == MN_OK && row) {
        *name = sqlite3_mprintf("%s", (const char *)sqlite3_column_text(st, 0));
        *lost = sqlite3_column_int(st, 1) != 0;
        if (!*name)
            status = no_memory(err);
    }
    sqlite3_finalize(st);
    return status;
}

/* Whether the five triggers are there and know the unique indexes of today. */
static mn_status check_triggers(sqlite3 *db, const char *table, const char *name, bool *good,
                                mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t n = 0;
    sqlite3_str *unique = sqlite3_str_new(NULL);
    mn_status status = append_conflicts(db, table, unique, err);
    sqlite3_str_appendall(unique, ");"); /* the end of a stash trigger's condition */
    char *text = sqlite3_str_finish(unique);
    if (status == MN_OK && !text)
        status = no_memory(err);
    if (status == MN_OK)
        status = sql_preparef(
            db, &st, err,
            "SELECT count(*) FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = %Q "
            "COLLATE NOCASE AND name IN (%Q || '_mneme_stash', %Q || '_mneme_insert', %Q || "
            "'_mneme_restash', %Q || '_mneme_update', %Q || '_mneme_delete') AND (name NOT LIKE "
            "'%%stash' OR instr(sql, %Q))",
            table, name, name, name, name, name, text);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &n, err);
    sqlite3_finalize(st);
    sqlite3_free(text);
    *good = n == 5;
    return status;
}

mn_status fts_find(sqlite3 *db, const char *table, char **name, mn_error *err)
{
    bool lost = false, good = true;
    mn_status st = find_name(db, table, name, &lost, err);
    if (st == MN_OK && *name && !lost)
        st = check_triggers(db, table, *name, &good, err);
    if (st == MN_OK && *name && (lost || !good))
        st = mn_fail(err, MN_CORRUPT,
                     "full text over '%s' ('%s') is out of step: the table was rebuilt, or its "
                     "unique indexes changed; SELECT mneme_fts_rebuild('%s') makes it anew",
                     table, *name, table);
    if (st != MN_OK) {
        sqlite3_free(*name);
        *name = NULL;
    }
    return st;
}

mn_status fts_check(sqlite3 *db, const char *name, bool *good, mn_error *err)
{
    mn_error found = {0};
    mn_status st = sql_execf(db, &found,
                             "INSERT INTO main.\"%w\"(\"%w\", rank) VALUES ('integrity-check', 1)",
                             name, name);
    *good = st == MN_OK;
    if (st != MN_BUSY && st != MN_NOMEM && st != MN_INTERRUPTED && st != MN_IO)
        return MN_OK; /* what else SQLite says is about the full text */
    return mn_fail(err, st, "%s", found.message);
}

/* ---- Removing, rebuilding, renaming ---------------------------------------------------------- */

/* The view that it reads, for sqlite3_free; NULL: none. */
static mn_status find_view(sqlite3 *db, const char *name, char **view, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    *view = NULL;
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT v.name FROM main.sqlite_master f, main.sqlite_master v "
                                    "WHERE f.name = %Q AND v.type = 'view' AND v.name GLOB "
                                    "'mneme_text_*' AND instr(f.sql, ', content=' || quote(v.name) "
                                    "|| ',')",
                                    name);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (row)
        *view = sqlite3_mprintf("%s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return row && !*view ? no_memory(err) : status;
}

static mn_status drop_one(sqlite3 *db, const char *name, mn_error *err)
{
    char *view;
    mn_status st = find_view(db, name, &view, err);
    if (st == MN_OK)
        st = drop_triggers(db, name, err);
    if (st == MN_OK)
        st = sql_execf(db, err, "DROP TABLE IF EXISTS main.\"%w\"", name);
    if (st == MN_OK)
        st = sql_execf(db, err, "DROP TABLE IF EXISTS main.\"mneme_%w_old\"", name);
    if (st == MN_OK && view)
        st = sql_execf(db, err, "DROP VIEW main.\"%w\"", view);
    sqlite3_free(view);
    return st;
}

mn_status fts_drop(sqlite3 *db, const char *table, mn_error *err)
{
    for (;;) {
        char *name;
        bool lost;
        mn_status st = find_name(db, table, &name, &lost, err);
        if (st != MN_OK || !name)
            return st;
        st = drop_one(db, name, err);
        sqlite3_free(name);
        if (st != MN_OK)
            return st;
    }
}

/* What an FTS5 table was made with. */
struct made {
    struct fts_spec s;
    char *texts[3];        /* tokenize, prefix, weights */
    char **columns;
};

static void made_fini(struct made *m)
{
    for (size_t i = 0; i < 3; i++)
        sqlite3_free(m->texts[i]);
    for (size_t i = 0; i < m->s.n; i++)
        sqlite3_free(m->columns[i]);
    sqlite3_free(m->columns);
}

static mn_status add_column(struct made *m, char *column, mn_error *err)
{
    char **more = column ? sqlite3_realloc64(m->columns, (m->s.n + 1) * sizeof *more) : NULL;
    if (!more) {
        sqlite3_free(column);
        return no_memory(err);
    }
    m->columns = more;
    m->columns[m->s.n++] = column;
    m->s.columns = (const char *const *)m->columns;
    return MN_OK;
}

/* The name in double quotes at *p, which moves behind it; for sqlite3_free. */
static char *take_name(const char **p)
{
    char *name = sqlite3_malloc64(strlen(*p) + 1);
    size_t n = 0;
    const char *at = *p + 1;
    for (; *at && (*at != '"' || at[1] == '"'); at++) {
        at += *at == '"';
        if (name)
            name[n++] = *at;
    }
    if (name)
        name[n] = '\0';
    *p = at + (*at == '"');
    return name;
}

/* The columns as the delete trigger has them, `VALUES ('delete', old."id", old."a", old."b")`:
 * there SQLite writes new names when they are renamed. */
static mn_status trigger_columns(const char *sql, struct made *m, mn_error *err)
{
    static const char values[] = "VALUES ('delete', old.\"", more[] = ", old.\"";
    mn_status st = MN_OK;
    const char *p = strstr(sql, values);
    if (!p)
        return MN_OK;
    p += sizeof values - 2;
    sqlite3_free(take_name(&p));
    while (st == MN_OK && strncmp(p, more, sizeof more - 1) == 0) {
        p += sizeof more - 2;
        st = add_column(m, take_name(&p), err);
    }
    return st;
}

/* Where the trigger is lost, the names are those of F itself. */
static mn_status made_columns(sqlite3 *db, const char *name, struct made *m, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT sql FROM main.sqlite_master WHERE type = 'trigger' AND "
                                    "name = %Q || '_mneme_delete'",
                                    name);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status == MN_OK && row && sqlite3_column_type(st, 0) == SQLITE_TEXT)
        status = trigger_columns((const char *)sqlite3_column_text(st, 0), m, err);
    sqlite3_finalize(st);
    st = NULL;
    if (status != MN_OK || m->s.n > 0)
        return status;
    status = sql_preparef(db, &st, err, "SELECT name FROM pragma_table_info(%Q)", name);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        const char *text = (const char *)sqlite3_column_text(st, 0);
        status = add_column(m, text ? sqlite3_mprintf("%s", text) : NULL, err);
    }
    sqlite3_finalize(st);
    return status;
}

/* The value of `option='...'` in a definition that create_table() wrote, or NULL. */
static mn_status made_option(const char *sql, const char *option, char **out, mn_error *err)
{
    const char *at = strstr(sql, option);
    *out = NULL;
    if (!at)
        return MN_OK;
    at += strlen(option);
    *out = sqlite3_malloc64(strlen(at) + 1);
    if (!*out)
        return no_memory(err);
    size_t n = 0;
    for (; *at && (*at != '\'' || at[1] == '\''); at++) {
        at += *at == '\'';
        (*out)[n++] = *at;
    }
    (*out)[n] = '\0';
    return MN_OK;
}

static mn_status made_options(sqlite3 *db, const char *name, struct made *m, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT sql, (SELECT v FROM main.\"%w_config\" WHERE k = "
                                    "'rank') FROM main.sqlite_master WHERE name = %Q",
                                    name, name);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    const char *sql = row ? (const char *)sqlite3_column_text(st, 0) : NULL;
    if (status == MN_OK && sql)
        status = made_option(sql, ", tokenize='", &m->texts[0], err);
    if (status == MN_OK && sql)
        status = made_option(sql, ", prefix='", &m->texts[1], err);
    const char *rank = row ? (const char *)sqlite3_column_text(st, 1) : NULL;
    if (status == MN_OK && rank && strlen(rank) > 6) {
        m->texts[2] = sqlite3_mprintf("%.*s", (int)strlen(rank) - 6, rank + 5); /* bm25(...) */
        status = m->texts[2] ? MN_OK : no_memory(err);
    }
    sqlite3_finalize(st);
    m->s.tokenize = m->texts[0];
    m->s.prefix = m->texts[1];
    m->s.weights = m->texts[2];
    return status;
}

mn_status fts_rebuild(sqlite3 *db, const char *table, const char *id_column, mn_error *err)
{
    struct made m = {.s = {.table = table, .id_column = id_column}};
    char *name, *view = NULL;
    bool lost;
    mn_status st = find_name(db, table, &name, &lost, err);
    if (st == MN_OK && !name)
        st = mn_fail(err, MN_NOTFOUND,
                     "'%s' has no full text: mneme_index() makes it with fts=COLUMN,COLUMN", table);
    m.s.name = name;
    if (st == MN_OK)
        st = made_columns(db, name, &m, err);
    if (st == MN_OK)
        st = made_options(db, name, &m, err);
    if (st == MN_OK)
        st = find_view(db, name, &view, err);
    m.s.view = view != NULL;
    if (st == MN_OK)
        st = drop_one(db, name, err);
    if (st == MN_OK)
        st = fts_create(db, &m.s, err);
    made_fini(&m);
    sqlite3_free(view);
    sqlite3_free(name);
    return st;
}

mn_status fts_rename_begin(sqlite3 *db, const char *name, char **view, mn_error *err)
{
    mn_status st = find_view(db, name, view, err);
    if (st == MN_OK)
        st = drop_triggers(db, name, err);
    if (st == MN_OK && *view)
        st = sql_execf(db, err, "DROP VIEW main.\"%w\"", *view);
    return st;
}

mn_status fts_rename_end(sqlite3 *db, const char *table, const char *id_column, const char *name,
                         const char *to, const char *view, mn_error *err)
{
    struct made m = {.s = {.table = table, .id_column = id_column, .name = to}};
    struct pieces p = {.s = &m.s};
    mn_status st = made_columns(db, name, &m, err);
    if (st == MN_OK)
        st = sql_execf(db, err, "ALTER TABLE main.\"%w\" RENAME TO \"%w\"", name, to);
    if (st == MN_OK)
        st = sql_execf(db, err, "ALTER TABLE main.\"mneme_%w_old\" RENAME TO \"mneme_%w_old\"",
                       name, to);
    if (st == MN_OK)
        st = pieces_make(db, &m.s, &p, err);
    if (st == MN_OK && view)
        st = create_view(db, &p, view, err);
    if (st == MN_OK)
        st = create_triggers(db, &p, err);
    pieces_fini(&p);
    made_fini(&m);
    return st;
}

/* ---- Options --------------------------------------------------------------------------------- */

bool fts_option(struct fts_options *o, const char *word, size_t len, const char *value,
                size_t value_len, mn_status *st, mn_error *err)
{
    const struct {
        const char *word;
        char **to;
    } all[] = {{"fts", &o->columns},
               {"tokenize", &o->tokenize},
               {"prefix", &o->prefix},
               {"weights", &o->weights}};
    *st = MN_OK;
    for (size_t i = 0; i < 4; i++) {
        if (strlen(all[i].word) != len || sqlite3_strnicmp(word, all[i].word, (int)len) != 0)
            continue;
        sqlite3_free(*all[i].to);
        *all[i].to = sqlite3_mprintf("%.*s", (int)value_len, value);
        if (!*all[i].to)
            *st = no_memory(err);
        return true;
    }
    return false;
}

void fts_options_fini(struct fts_options *o)
{
    sqlite3_free(o->columns);
    sqlite3_free(o->tokenize);
    sqlite3_free(o->prefix);
    sqlite3_free(o->weights);
    *o = (struct fts_options){NULL, NULL, NULL, NULL};
}

/* Splits "a,b" in place. *out is for sqlite3_free. */
static mn_status split_columns(char *text, const char ***out, size_t *n, mn_error *err)
{
    size_t most = 1;
    for (const char *p = text; *p; p++)
        most += *p == ',';
    *n = 0;
    *out = sqlite3_malloc64(most * sizeof **out);
    if (!*out)
        return no_memory(err);
    for (char *p = text, *comma; p; p = comma ? comma + 1 : NULL) {
        comma = strchr(p, ',');
        if (comma)
            *comma = '\0';
        p += strspn(p, " ");
        size_t len = strlen(p);
        while (len > 0 && p[len - 1] == ' ')
            p[--len] = '\0';
        if (len > 0)
            (*out)[(*n)++] = p;
    }
    return MN_OK;
}

/* Neither the table's full text nor the names that it needs may be there. */
static mn_status check_free(sqlite3 *db, const char *table, const char *name, mn_error *err)
{
    char *there = NULL;
    bool lost = false;
    sqlite3_stmt *st = NULL;
    int64_t n = 0;
    mn_status status = find_name(db, table, &there, &lost, err);
    if (status == MN_OK && there)
        status = mn_fail(err, MN_EXISTS,
                         "'%s' has a full text, '%s'; mneme_fts_drop('%s') removes it, "
                         "mneme_fts_rebuild('%s') makes it anew",
                         table, there, table, table);
    sqlite3_free(there);
    if (status == MN_OK)
        status = sql_preparef(db, &st, err,
                              "SELECT count(*) FROM main.sqlite_master WHERE name COLLATE NOCASE "
                              "IN (%Q, 'mneme_' || %Q || '_old')",
                              name, name);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &n, err);
    sqlite3_finalize(st);
    if (status == MN_OK && n > 0)
        status = mn_fail(err, MN_EXISTS,
                         "full text over '%s' needs the names '%s' and 'mneme_%s_old', of which "
                         "one is taken: rename that table",
                         table, name, name);
    return status;
}

mn_status fts_make(sqlite3 *db, const char *table, const char *id_column, const char *name,
                   const struct fts_options *o, bool view, mn_error *err)
{
    struct fts_spec s = {.table = table, .id_column = id_column, .name = name, .view = view,
                         .tokenize = o->tokenize, .prefix = o->prefix, .weights = o->weights};
    const char **columns = NULL;
    char *text = sqlite3_mprintf("%s", o->columns ? o->columns : "");
    mn_status st = text ? split_columns(text, &columns, &s.n, err) : no_memory(err);
    s.columns = columns;
    if (st == MN_OK && s.n == 0)
        st = mn_fail(err, MN_INVALID, "full text over '%s': name its columns, as fts=title,body",
                     table);
    if (st == MN_OK && !*id_column)
        st = mn_fail(err, MN_INVALID,
                     "full text over '%s': the table has no INTEGER PRIMARY KEY any more", table);
    if (st == MN_OK)
        st = check_free(db, table, name, err);
    if (st == MN_OK) {
        st = fts_create(db, &s, err);
        mn_error second = {0};
        if (st != MN_OK && drop_one(db, name, &second) != MN_OK)
            mn_error_context(err, "(parts of it remain: %s) ", second.message);
    }
    sqlite3_free(columns);
    sqlite3_free(text);
    return st;
}

/* ---- Queries --------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || c == '\0';
}

struct word {
    const char *text;
    size_t len;
};

static bool known(const struct word *words, size_t n, struct word w)
{
    for (size_t i = 0; i < n; i++)
        if (words[i].len == w.len && memcmp(words[i].text, w.text, w.len) == 0)
            return true;
    return false;
}

static size_t split_words(const char *text, size_t len, struct word *words)
{
    size_t n = 0;
    const char *p = text, *end = text + len;
    while (n < FTS_MOST_WORDS) {
        while (p < end && is_blank(*p))
            p++;
        if (p == end)
            break;
        struct word w = {.text = p};
        while (p < end && !is_blank(*p))
            p++;
        w.len = (size_t)(p - w.text);
        if (!known(words, n, w))
            words[n++] = w;
    }
    return n;
}

static void append_word(sqlite3_str *query, struct word w)
{
    sqlite3_str_appendall(query, sqlite3_str_length(query) ? " OR \"" : "\"");
    for (size_t i = 0; i < w.len; i++)
        sqlite3_str_appendchar(query, w.text[i] == '"' ? 2 : 1, w.text[i]);
    sqlite3_str_appendchar(query, 1, '"');
}

/* Rows in the FTS5 table: the first varint of its record of averages, row 1 of NAME_data. */
static mn_status count_rows(sqlite3 *db, const char *name, int64_t *n, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    *n = 0;
    mn_status status = sql_preparef(db, &st, err, "SELECT block FROM main.\"%w_data\" WHERE id = 1",
                                    name);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    const unsigned char *block = row ? sqlite3_column_blob(st, 0) : NULL;
    for (int i = 0; block && i < 8 && i < sqlite3_column_bytes(st, 0); i++) {
        *n = *n << 7 | (block[i] & 0x7f);
        if (!(block[i] & 0x80))
            break;
    }
    sqlite3_finalize(st);
    return status;
}

/* Whether more than half of the rows have the word. */
static mn_status is_common(sqlite3_stmt *st, struct word w, bool *common, mn_error *err)
{
    sqlite3_str *query = sqlite3_str_new(NULL);
    append_word(query, w);
    char *text = sqlite3_str_finish(query);
    if (!text)
        return no_memory(err);
    int rc = sqlite3_bind_text(st, 1, text, -1, SQLITE_STATIC);
    mn_status status = rc == SQLITE_OK ? sql_step(st, common, err) : no_memory(err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    sqlite3_free(text);
    return status;
}

/* Moves the words that are not common to the front; *n becomes their number, unless that is 0. */
static mn_status leave_out_common(sqlite3 *db, const char *name, struct word *words, size_t *n,
                                  mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t rows = 0;
    size_t kept = 0;
    mn_status status = count_rows(db, name, &rows, err);
    if (status != MN_OK || rows < FTS_MANY_ROWS || *n < 2)
        return status;
    status = sql_preparef(db, &st, err,
                          "SELECT 1 FROM main.\"%w\" WHERE \"%w\" MATCH ?1 LIMIT 1 OFFSET %lld",
                          name, name, (long long)(rows / 2));
    for (size_t i = 0; i < *n && status == MN_OK; i++) {
        bool common = false;
        status = is_common(st, words[i], &common, err);
        if (status == MN_OK && !common) {
            struct word w = words[kept];
            words[kept++] = words[i];
            words[i] = w;
        }
    }
    sqlite3_finalize(st);
    if (kept > 0)
        *n = kept;
    return status;
}

mn_status fts_query(sqlite3 *db, const char *name, const char *text, size_t len, char **out,
                    mn_error *err)
{
    struct word words[FTS_MOST_WORDS];
    size_t n = split_words(text, len, words);
    mn_status st = name ? leave_out_common(db, name, words, &n, err) : MN_OK;
    *out = NULL;
    if (st != MN_OK)
        return st;
    sqlite3_str *query = sqlite3_str_new(NULL);
    for (size_t i = 0; i < n; i++)
        append_word(query, words[i]);
    *out = sqlite3_str_finish(query);
    return n == 0 || *out ? MN_OK : no_memory(err);
}
