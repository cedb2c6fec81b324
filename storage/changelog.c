/*
 * The change log of one table.
 *
 *   mneme_log_<table>(seq INTEGER PRIMARY KEY [AUTOINCREMENT], id INTEGER, stamp INTEGER)
 *
 * One entry per change of a row: its id before and, if that changed, after. The newest entry always
 * stays, so that the numbers go on above it. `stamp` is random and tells two histories with equal
 * numbers apart. In a table of Mneme's own the number of a row's newest entry is the row's version,
 * which must never come back, whatever a foreign hand deletes from the log: hence AUTOINCREMENT. It
 * costs a look at sqlite_sequence and a write of it in each statement, so that a table that Mneme
 * did not make, whose rows have no version, has none: an insert there costs 1.5 times that into the
 * same table without a log instead of 1.9.
 *
 * Triggers, all made by trigger_sql() below:
 *
 *   mneme_<table>_insert   logs the id, sets the version
 *   mneme_<table>_update   the same; it fires for every column but `version`, so that setting the
 *                          version in a trigger does not log again
 *   mneme_<table>_delete   logs the id
 *
 * In a table that Mneme did not make there is no version: the first two only log, and the update
 * trigger fires for the columns that collections over it need, in the order of the catalog. (SQLite
 * writes a renamed column into the trigger: so the catalog finds its new name, catalog_over.c.)
 *
 *   mneme_<table>_replace_insert, _replace_update
 *                          SQLite fires no delete trigger for a row that REPLACE removes because of
 *                          a unique index (unless recursive_triggers is on). So the row that stands
 *                          in the way is logged before the statement. Whether the statement then
 *                          replaces, ignores or fails, an entry too many costs one look at a row.
 *
 * Our own writer predicts the version and writes it with the row; the trigger's UPDATE then ends
 * at a constant condition, before it looks for the row.
 *
 * Whoever changes the schema by hand can drop the triggers. The catalog keeps the schema's version
 * number as of our own last change (catalog.c): a different number means that a foreign hand was
 * there, and until a writer has called changelog_restart() the log is not believed.
 */
#include "storage/changelog.h"

#include <string.h>

#include "storage/base/error.h"
#include "storage/changelog_index.h"
#include "storage/sql.h"

#define STAMP "random() & 0x7fffffff" /* 31 bits: four bytes in the record */

/* Appends ` OF "a", "b"`: the columns that the update trigger watches; nothing if it is all. */
static mn_status append_watched(sqlite3 *db, const struct changelog_table *t, sqlite3_str *out,
                                mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false, first = true;
    if (t->watched) {
        sqlite3_str_appendf(out, "%s%s", *t->watched ? " OF " : "", t->watched);
        return MN_OK;
    }
    mn_status status = sql_preparef(
        db, &st, err, "SELECT name FROM pragma_table_info(%Q, 'main') WHERE name <> 'version'",
        t->name);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        sqlite3_str_appendf(out, "%s\"%w\"", first ? " OF " : ", ",
                            (const char *)sqlite3_column_text(st, 0));
        first = false;
    }
    sqlite3_finalize(st);
    return status;
}

static mn_status table_exists(sqlite3 *db, const char *name, bool *there, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t n = 0;
    mn_status status =
        sql_preparef(db, &st, err, "SELECT count(*) FROM pragma_table_info(%Q, 'main')", name);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &n, err);
    sqlite3_finalize(st);
    *there = n > 0;
    return status;
}

enum trigger { ON_INSERT, ON_UPDATE, ON_DELETE, ON_REPLACE_INSERT, ON_REPLACE_UPDATE, TRIGGERS };

static const char *const trigger_words[TRIGGERS] = {"insert", "update", "delete", "replace_insert",
                                                    "replace_update"};

/* Parts of the triggers' texts that depend on the table's columns. */
struct parts {
    char *watched;   /* behind UPDATE in the update trigger: the columns */
    char *unique;    /* the same of a replace trigger: columns of unique indexes */
    char *conflicts; /* condition of the replace triggers; NULL: no unique index */
    bool plain;
};

static void parts_fini(struct parts *p)
{
    sqlite3_free(p->watched);
    sqlite3_free(p->unique);
    sqlite3_free(p->conflicts);
}

/* The text that was put together, for sqlite3_free; NULL if it is empty. */
static mn_status take_text(sqlite3_str *from, char **out, mn_status status, mn_error *err)
{
    int rc = sqlite3_str_errcode(from);
    *out = sqlite3_str_finish(from);
    return status == MN_OK && rc != SQLITE_OK ? sql_fail(NULL, rc, err, "change log") : status;
}

static mn_status parts_init(sqlite3 *db, const struct changelog_table *t, struct parts *p,
                            mn_error *err)
{
    int n = 0;
    bool there = false;
    memset(p, 0, sizeof *p);
    mn_status status = table_exists(db, t->name, &there, err);
    if (status == MN_OK && !there)
        status = mn_fail(err, MN_CORRUPT,
                         "table '%s' is missing: it was dropped or renamed by hand", t->name);
    if (status)
        return status;
    sqlite3_str *watched = sqlite3_str_new(db), *unique = sqlite3_str_new(db);
    sqlite3_str *conflicts = sqlite3_str_new(db);
    status = append_watched(db, t, watched, err);
    if (status == MN_OK && t->watched)
        status = changelog_append_unique(db, t->name, unique, err);
    if (status == MN_OK)
        status = changelog_append_conflicts(db, t->name, conflicts, &n, &p->plain, err);
    status = take_text(watched, &p->watched, status, err);
    status = take_text(unique, &p->unique, status, err);
    status = take_text(conflicts, &p->conflicts, status, err);
    if (n == 0 && p->conflicts) {
        sqlite3_free(p->conflicts);
        p->conflicts = NULL;
    }
    if (status)
        parts_fini(p);
    return status;
}

/* Sets the version of row NEW in a table of Mneme's own: the number of its newest entry. */
static char *version_sql(const struct changelog_table *t)
{
    return t->watched ? sqlite3_mprintf("")
                      : sqlite3_mprintf("UPDATE \"%w\" SET version = last_insert_rowid() "
                                        "WHERE id = NEW.id AND NEW.version IS NOT "
                                        "last_insert_rowid(); ",
                                        t->name);
}

/* The text of one trigger, for sqlite3_free; NULL if the table needs none, or out of memory. */
static char *trigger_sql(enum trigger which, const struct changelog_table *t, const struct parts *p)
{
    long long n = t->number;
    const char *name = t->name, *key = t->key;
    char *version = version_sql(t), *sql = NULL;
    switch (version ? which : TRIGGERS) {
    case ON_INSERT:
        sql = sqlite3_mprintf("CREATE TRIGGER \"mneme_%lld_insert\" AFTER INSERT ON \"%w\" BEGIN "
                              "INSERT INTO mneme_log_%lld(id, stamp) VALUES (NEW.%s, " STAMP
                              "); %sEND",
                              n, name, n, key, version);
        break;
    case ON_UPDATE:
        sql = sqlite3_mprintf("CREATE TRIGGER \"mneme_%lld_update\" AFTER UPDATE%s ON \"%w\" BEGIN "
                              "INSERT INTO mneme_log_%lld(id, stamp) SELECT OLD.%s, " STAMP
                              " WHERE OLD.%s <> NEW.%s; "
                              "INSERT INTO mneme_log_%lld(id, stamp) VALUES (NEW.%s, " STAMP
                              "); %sEND",
                              n, p->watched, name, n, key, key, key, n, key, version);
        break;
    case ON_DELETE:
        sql =
            sqlite3_mprintf("CREATE TRIGGER \"mneme_%lld_delete\" AFTER DELETE ON \"%w\" BEGIN "
                            "INSERT INTO mneme_log_%lld(id, stamp) VALUES (OLD.%s, " STAMP "); END",
                            n, name, n, key);
        break;
    case ON_REPLACE_INSERT:
        sql = sqlite3_mprintf(
            "CREATE TRIGGER \"mneme_%lld_replace_insert\" BEFORE INSERT ON \"%w\" "
            "WHEN EXISTS (SELECT 1 FROM \"%w\" WHERE %s) BEGIN "
            "INSERT INTO mneme_log_%lld(id, stamp) SELECT %s, " STAMP " FROM \"%w\" WHERE %s; END",
            n, name, name, p->conflicts, n, key, name, p->conflicts);
        break;
    case ON_REPLACE_UPDATE:
        sql = sqlite3_mprintf(
            "CREATE TRIGGER \"mneme_%lld_replace_update\" BEFORE UPDATE%s ON \"%w\" "
            "WHEN EXISTS (SELECT 1 FROM \"%w\" WHERE %s <> OLD.%s AND (%s)) BEGIN "
            "INSERT INTO mneme_log_%lld(id, stamp) SELECT %s, " STAMP
            " FROM \"%w\" WHERE %s <> OLD.%s AND (%s); END",
            n, t->watched ? p->unique : p->watched, name, name, key, key, p->conflicts, n, key,
            name, key, key, p->conflicts);
        break;
    default:
        break;
    }
    sqlite3_free(version);
    return sql;
}

static bool trigger_needed(enum trigger which, const struct parts *p)
{
    return which < ON_REPLACE_INSERT || p->conflicts;
}

static mn_status make_triggers(sqlite3 *db, const struct changelog_table *t, mn_error *err)
{
    struct parts p;
    mn_status status = parts_init(db, t, &p, err);
    if (status)
        return status;
    for (enum trigger which = 0; which < TRIGGERS && status == MN_OK; which++) {
        status = sql_execf(db, err, "DROP TRIGGER IF EXISTS main.\"mneme_%lld_%s\"",
                           (long long)t->number, trigger_words[which]);
        if (status || !trigger_needed(which, &p))
            continue;
        char *sql = trigger_sql(which, t, &p);
        status = sql ? sql_exec(db, sql, err) : mn_fail(err, MN_NOMEM, "out of memory");
        sqlite3_free(sql);
    }
    parts_fini(&p);
    return status;
}

static const char *autoincrement(const struct changelog_table *t)
{
    return t->watched ? "" : " AUTOINCREMENT";
}

static mn_status make_log(sqlite3 *db, const struct changelog_table *t, mn_error *err)
{
    return sql_execf(db, err,
                     "CREATE TABLE IF NOT EXISTS mneme_log_%lld(seq INTEGER PRIMARY KEY%s, id "
                     "INTEGER NOT NULL, stamp INTEGER NOT NULL)",
                     (long long)t->number, autoincrement(t));
}

mn_status changelog_create(sqlite3 *db, const struct changelog_table *t, mn_error *err)
{
    mn_status status = make_log(db, t, err);
    return status ? status : make_triggers(db, t, err);
}

mn_status changelog_drop(sqlite3 *db, int64_t table, mn_error *err)
{
    mn_status status = MN_OK;
    for (enum trigger which = 0; which < TRIGGERS && status == MN_OK; which++)
        status = sql_execf(db, err, "DROP TRIGGER IF EXISTS main.\"mneme_%lld_%s\"",
                           (long long)table, trigger_words[which]);
    return status
               ? status
               : sql_execf(db, err, "DROP TABLE IF EXISTS main.mneme_log_%lld", (long long)table);
}

/* Whether the log table is there and is one: its columns, and numbers that do not come back. */
static mn_status log_stands(sqlite3 *db, const struct changelog_table *t, bool *stands,
                            mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t columns = 0;
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT count(*) FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' "
        "AND m.name = 'mneme_log_%lld' AND m.sql LIKE '%%PRIMARY KEY%s,%%' AND c.name IN ('seq', "
        "'id', 'stamp')",
        (long long)t->number, autoincrement(t));
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &columns, err);
    sqlite3_finalize(st);
    *stands = columns == 3;
    return status;
}

/* A log table that is new where versions were given out before (somebody dropped the old one, and
 * its sequence with it) must go on above them. Reads the whole table: only then. */
static mn_status seed_sequence(sqlite3 *db, int64_t table, const char *name, mn_error *err)
{
    int64_t known = 0;
    sqlite3_stmt *st = NULL;
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT count(*) FROM sqlite_sequence WHERE name = "
                                    "'mneme_log_%lld'",
                                    (long long)table);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &known, err);
    sqlite3_finalize(st);
    if (status || known)
        return status;
    return sql_execf(db, err,
                     "INSERT INTO mneme_log_%lld(seq, id, stamp) SELECT max(version), 0, 0 FROM "
                     "\"%w\" WHERE typeof(version) = 'integer' AND version BETWEEN 1 AND 1 << 62 "
                     "HAVING count(*) > 0",
                     (long long)table, name);
}

mn_status changelog_restart(sqlite3 *db, const struct changelog_table *t, mn_error *err)
{
    bool stands = false;
    long long n = t->number;
    mn_status status = log_stands(db, t, &stands, err);
    if (status == MN_OK && !stands)
        status = sql_execf(db, err, "DROP TABLE IF EXISTS main.mneme_log_%lld", n);
    if (status == MN_OK)
        status = changelog_create(db, t, err);
    if (status == MN_OK && !t->watched)
        status = seed_sequence(db, t->number, t->name, err);
    /* Row 0 need not exist: whoever reads the entry finds no row and goes on. */
    if (status == MN_OK)
        status = sql_execf(db, err,
                           "INSERT INTO main.mneme_log_%lld(id, stamp) VALUES (0, " STAMP "); "
                           "DELETE FROM main.mneme_log_%lld WHERE seq < last_insert_rowid()",
                           n, n);
    return status;
}

/* Whether the database's trigger reads exactly `want`, or is absent where want is NULL. */
static mn_status trigger_stands(sqlite3 *db, int64_t table, enum trigger which, const char *want,
                                bool *stands, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT sql FROM sqlite_master WHERE type = 'trigger' "
                                    "AND name = 'mneme_%lld_%s'",
                                    (long long)table, trigger_words[which]);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status == MN_OK) {
        const char *has = row ? (const char *)sqlite3_column_text(st, 0) : NULL;
        *stands = want ? has && strcmp(has, want) == 0 : !has;
    }
    sqlite3_finalize(st);
    return status;
}

mn_status changelog_check(sqlite3 *db, const struct changelog_table *t, bool *intact, mn_error *err)
{
    struct parts p;
    *intact = false;
    mn_status status = parts_init(db, t, &p, err);
    if (status)
        return status;
    bool all = false;
    status = log_stands(db, t, &all, err);
    for (enum trigger which = 0; which < TRIGGERS && status == MN_OK && all; which++) {
        char *want = trigger_needed(which, &p) ? trigger_sql(which, t, &p) : NULL;
        if (trigger_needed(which, &p) && !want)
            status = mn_fail(err, MN_NOMEM, "out of memory");
        else
            status = trigger_stands(db, t->number, which, want, &all, err);
        sqlite3_free(want);
    }
    parts_fini(&p);
    *intact = status == MN_OK && all;
    return status;
}

/* What compiling an update of the version meets; see below. */
struct nested {
    const char *table, *column;
    bool writes; /* a trigger of the user's adds a row of the table, or sets its id or the column */
};

static int on_action(void *ctx, int action, const char *table, const char *column, const char *file,
                     const char *trigger)
{
    struct nested *n = ctx;
    (void)file;
    if (!trigger || sqlite3_strnicmp(trigger, "mneme_", 6) == 0 || !table ||
        sqlite3_stricmp(table, n->table) != 0)
        return SQLITE_OK;
    if (action == SQLITE_INSERT ||
        (action == SQLITE_UPDATE && column &&
         (sqlite3_stricmp(column, n->column) == 0 || sqlite3_stricmp(column, "id") == 0)))
        n->writes = true;
    return SQLITE_OK;
}

/* A trigger does not fire inside itself. Ours set a version, which may fire a trigger of the user's
 * in there; if that one changes rows of the same table, nobody logs it. Such triggers are rare, and
 * SQLite knows them: it shows its authorizer all that a statement may do. */
static mn_status nested_writes(sqlite3 *db, sqlite3 *asked, const char *name, const char *column,
                               bool *writes, mn_error *err)
{
    struct nested n = {.table = name, .column = column};
    sqlite3_stmt *st = NULL;
    int64_t foreign = 0;
    *writes = false;
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND "
                                    "tbl_name = %Q COLLATE NOCASE AND name NOT LIKE 'mneme\\_%%' "
                                    "ESCAPE '\\'",
                                    name);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &foreign, err);
    sqlite3_finalize(st);
    st = NULL;
    if (status || foreign == 0)
        return status;
    *writes = true;
    if (!asked)
        return MN_OK;
    sqlite3_set_authorizer(asked, on_action, &n);
    status = sql_preparef(asked, &st, NULL, "UPDATE main.\"%w\" SET version = version", name);
    sqlite3_set_authorizer(asked, NULL, NULL);
    sqlite3_finalize(st);
    /* A broken trigger of theirs lets no statement through that would fire it. */
    *writes = n.writes;
    return status == MN_NOMEM ? mn_fail(err, MN_NOMEM, "out of memory") : MN_OK;
}

mn_status changelog_watchable(sqlite3 *db, sqlite3 *asked, const struct changelog_table *t,
                              const char *column, bool *watchable, mn_error *err)
{
    struct parts p;
    bool writes = false;
    *watchable = false;
    mn_status status = parts_init(db, t, &p, err);
    if (status)
        return status;
    if (p.plain && !t->watched) /* else our triggers write to their log alone */
        status = nested_writes(db, asked, t->name, column, &writes, err);
    *watchable = status == MN_OK && p.plain && !writes;
    parts_fini(&p);
    return status;
}

char *changelog_sql_head(int64_t table)
{
    return sqlite3_mprintf("SELECT seq, stamp FROM mneme_log_%lld ORDER BY seq DESC LIMIT 1",
                           (long long)table);
}

char *changelog_sql_at(int64_t table)
{
    return sqlite3_mprintf("SELECT stamp FROM mneme_log_%lld WHERE seq = ?1", (long long)table);
}

char *changelog_sql_since(int64_t table)
{
    return sqlite3_mprintf("SELECT DISTINCT id FROM mneme_log_%lld WHERE seq > ?1 ORDER BY id",
                           (long long)table);
}

char *changelog_sql_next(int64_t table, bool versions)
{
    return versions
               ? sqlite3_mprintf("SELECT seq FROM sqlite_sequence WHERE name = 'mneme_log_%lld'",
                                 (long long)table)
               : sqlite3_mprintf("SELECT max(seq) FROM mneme_log_%lld", (long long)table);
}

char *changelog_sql_first(int64_t table)
{
    return sqlite3_mprintf("SELECT min(seq) FROM mneme_log_%lld", (long long)table);
}

char *changelog_sql_trim(int64_t table)
{
    return sqlite3_mprintf("DELETE FROM mneme_log_%lld WHERE seq <= min(?1, (SELECT min(seq) + "
                           "65535 FROM mneme_log_%lld))",
                           (long long)table, (long long)table);
}
