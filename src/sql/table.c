/*
 * Tables of the module "mneme": made, changed, renamed and dropped.
 *
 *   CREATE VIRTUAL TABLE docs USING mneme(id INTEGER PRIMARY KEY, embedding float[384], lang TEXT)
 *
 * The rows lie in an ordinary table, docs_rows, with the declared columns, vectors last; over it
 * are collections, one a vector column: the first is called docs, like the table, a further one
 * docs.COLUMN. So everything that the engine promises for a table that it did not make holds: the
 * change log is kept by triggers, and a plain SQLite client may write to docs_rows.
 *
 * With a full-text column `words` there is an FTS5 table docs_words over docs_rows (fts.c).
 *
 * Writing is plain SQL on docs_rows: SQLite undoes it with the statement, the savepoint or the
 * transaction that it belongs to, and nothing is kept beside it.
 */
#include "src/sql/fts.h"
#include "src/sql/table.h"

#include <string.h>
#include <time.h>

#include "index/scan.h"
#include "src/engine/engine.h"
#include "src/sql/vec.h"
#include "storage/base/error.h"
#include "storage/sql.h"

void table_rows_name(const struct table *t, char name[ROWS_NAME])
{
    sqlite3_snprintf(ROWS_NAME, name, "%s_rows", t->name);
}

void table_collection(const struct table *t, size_t i, char name[2 * MN_MAX_NAME + 2])
{
    if (i == t->d.first_vector)
        sqlite3_snprintf(2 * MN_MAX_NAME + 2, name, "%s", t->name);
    else
        sqlite3_snprintf(2 * MN_MAX_NAME + 2, name, "%s.%s", t->name, t->d.columns[i].name);
}

void table_text_name(const struct table *t, char name[TEXT_NAME])
{
    sqlite3_snprintf(TEXT_NAME, name, "%s_%s", t->name, t->d.text);
}

int64_t table_now(void)
{
    return (int64_t)time(NULL);
}

static int refuse(char **message, mn_status st, const mn_error *err)
{
    *message = sqlite3_mprintf("%s", err->message);
    return session_code(st);
}

/* ---- Connecting ------------------------------------------------------------------------------ */

/* What SQLite takes the table for. Types are declared, so that it compares as for the rows. */
static char *schema_sql(const struct table *t)
{
    sqlite3_str *sql = sqlite3_str_new(NULL);
    sqlite3_str_appendall(sql, "CREATE TABLE x(");
    for (size_t i = 0; i < t->d.n; i++) {
        const struct column *c = &t->d.columns[i];
        sqlite3_str_appendf(sql, "\"%w\" %s%s, ", c->name, c->kind == COLUMN_VECTOR ? "" : c->type,
                            c->kind == COLUMN_ID ? " PRIMARY KEY" : "");
    }
    sqlite3_str_appendf(sql,
                        "\"%w\" HIDDEN, k INTEGER HIDDEN, distance REAL HIDDEN, recall REAL "
                        "HIDDEN, exact INTEGER HIDDEN",
                        t->name);
    if (t->d.text)
        sqlite3_str_appendf(sql, ", \"%w\" HIDDEN", t->d.text);
    sqlite3_str_appendall(sql, ")");
    return sqlite3_str_finish(sql);
}

static int declare(const struct table *t, sqlite3 *sql, char **message)
{
    char *schema = schema_sql(t);
    int rc = schema ? sqlite3_declare_vtab(sql, schema) : SQLITE_NOMEM;
    sqlite3_free(schema);
    if (rc == SQLITE_OK) {
        rc = sqlite3_vtab_config(sql, SQLITE_VTAB_CONSTRAINT_SUPPORT, 1);
        /* In views, whoever wrote them: it reads and writes its own rows. */
        return rc == SQLITE_OK ? sqlite3_vtab_config(sql, SQLITE_VTAB_INNOCUOUS) : rc;
    }
    if (rc != SQLITE_NOMEM && strstr(sqlite3_errmsg(sql), "duplicate column name"))
        *message = sqlite3_mprintf(
            "%s: %s; the names %s, k, distance, recall and exact are those of hidden columns",
            t->name, sqlite3_errmsg(sql), t->name);
    else if (rc != SQLITE_NOMEM)
        *message = sqlite3_mprintf("%s: %s", t->name, sqlite3_errmsg(sql));
    return rc;
}

/* True if there were any: the table may be gone then, as a statement that fires a trigger which
 * asks the table holds it. */
static bool forget_statements(struct table *t)
{
    sqlite3_stmt *all[] = {t->row[0], t->row[1], t->insert[0], t->insert[1], t->remove, t->update};
    bool any = false;
    t->row[0] = t->row[1] = t->insert[0] = t->insert[1] = t->remove = t->update = NULL;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        any = any || all[i];
        sqlite3_finalize(all[i]);
    }
    return any;
}

void tables_rest(struct session *s)
{
    struct table *t = *session_tables(s);
    while (t)
        t = forget_statements(t) ? *session_tables(s) : t->next;
}

static void table_free(struct table *t)
{
    if (!t)
        return;
    for (struct table **p = session_tables(t->s); *p; p = &(*p)->next) {
        if (*p == t) {
            *p = t->next;
            break;
        }
    }
    forget_statements(t);
    declaration_fini(&t->d);
    sqlite3_free(t->update_mask);
    sqlite3_free(t->name);
    sqlite3_free(t->base.zErrMsg); /* SQLite asks for none after DROP TABLE */
    session_release(t->s);
    sqlite3_free(t);
}

/* argv: module, database, table, arguments. */
static int table_make(struct session *s, sqlite3 *sql, int argc, const char *const *argv,
                      struct table **out, char **message)
{
    mn_error err = {0};
    struct table *t = sqlite3_malloc(sizeof *t);
    *out = NULL;
    if (!t)
        return SQLITE_NOMEM;
    memset(t, 0, sizeof *t);
    t->s = session_hold(s);
    t->kernels = kernels_select(ISA_COUNT);
    t->name = sqlite3_mprintf("%s", argv[2]);
    mn_status st = t->name ? MN_OK : mn_fail(&err, MN_NOMEM, "out of memory");
    if (st == MN_OK && sqlite3_stricmp(argv[1], "main") != 0)
        st = mn_fail(&err, MN_INVALID,
                     "%s.%s: tables of Mneme can be in the main database only; open '%s' itself",
                     argv[1], argv[2], argv[1]);
    if (st == MN_OK)
        st = declaration_parse(argv + 3, argc - 3, &t->d, &err);
    if (st == MN_OK) {
        t->update_mask = sqlite3_malloc64((t->d.n / 64 + 1) * sizeof *t->update_mask);
        if (!t->update_mask)
            st = mn_fail(&err, MN_NOMEM, "out of memory");
    }
    if (st) {
        mn_error_context(&err, "%s: ", argv[2]);
        table_free(t);
        return refuse(message, st, &err);
    }
    int rc = declare(t, sql, message);
    if (rc != SQLITE_OK) {
        table_free(t);
        return rc;
    }
    t->next = *session_tables(s);
    *session_tables(s) = t;
    *out = t;
    return SQLITE_OK;
}

static int on_connect(sqlite3 *sql, void *aux, int argc, const char *const *argv,
                      sqlite3_vtab **out, char **message)
{
    struct table *t;
    session_settle_early(aux);
    int rc = table_make(aux, sql, argc, argv, &t, message);
    *out = rc == SQLITE_OK ? &t->base : NULL;
    return rc;
}

static int on_disconnect(sqlite3_vtab *base)
{
    table_free((struct table *)base);
    return SQLITE_OK;
}

/* ---- Creating -------------------------------------------------------------------------------- */

static void append_vector(const struct column *c, sqlite3_str *sql)
{
    sqlite3_str_appendf(sql,
                        ", \"%w\" BLOB CHECK (\"%w\" IS NULL OR (typeof(\"%w\") = 'blob' AND "
                        "length(\"%w\") = %lld))",
                        c->name, c->name, c->name, c->name,
                        (long long)mn_vector_bytes(c->vector.dtype, c->vector.dim));
}

/* An index cannot be renamed: a table that has since another name may have one of this name. */
static mn_status create_partition(const char *rows, const char *column, sqlite3 *db, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool taken = false;
    mn_status status =
        sql_prepare(db, "SELECT 1 FROM sqlite_master WHERE name = ?1 COLLATE NOCASE", &st, err);
    for (int number = 1; status == MN_OK; number++) {
        char *name = number == 1 ? sqlite3_mprintf("%s_%s", rows, column)
                                 : sqlite3_mprintf("%s_%s_%d", rows, column, number);
        if (!name) {
            status = mn_fail(err, MN_NOMEM, "out of memory");
            break;
        }
        sqlite3_bind_text(st, 1, name, -1, SQLITE_TRANSIENT);
        status = sql_step(st, &taken, err);
        sqlite3_reset(st);
        if (status == MN_OK && !taken)
            status = sql_execf(db, err, "CREATE INDEX main.\"%w\" ON \"%w\"(\"%w\")", name, rows,
                               column);
        sqlite3_free(name);
        if (!taken)
            break;
    }
    sqlite3_finalize(st);
    return status;
}

static mn_status create_rows(const struct table *t, sqlite3 *db, mn_error *err)
{
    char rows[ROWS_NAME];
    table_rows_name(t, rows);
    sqlite3_str *sql = sqlite3_str_new(db);
    sqlite3_str_appendf(sql, "CREATE TABLE main.\"%w\"(\"%w\" INTEGER PRIMARY KEY", rows,
                        t->d.columns[0].name);
    for (size_t i = 1; i < t->d.n; i++) {
        const struct column *c = &t->d.columns[i];
        if (c->kind != COLUMN_VECTOR)
            sqlite3_str_appendf(sql, ", \"%w\" %s%s%s", c->name, c->type,
                                c->not_null ? " NOT NULL" : "", c->unique ? " UNIQUE" : "");
    }
    for (size_t i = 1; i < t->d.n; i++) /* last, so that the others are read without them */
        if (t->d.columns[i].kind == COLUMN_VECTOR)
            append_vector(&t->d.columns[i], sql);
    sqlite3_str_appendall(sql, ")");
    char *text = sqlite3_str_finish(sql);
    mn_status st = text ? sql_exec(db, text, err) : mn_fail(err, MN_NOMEM, "out of memory");
    sqlite3_free(text);
    if (st == MN_CORRUPT && sqlite3_errcode(db) == SQLITE_ERROR) { /* the name is taken */
        mn_error_clear(err);
        return mn_fail(err, MN_EXISTS, "%s: %s; the rows of %s are to be there: rename or drop it",
                       t->name, sqlite3_errmsg(db), t->name);
    }
    for (size_t i = 1; i < t->d.n && st == MN_OK; i++)
        if (t->d.columns[i].partition)
            st = create_partition(rows, t->d.columns[i].name, db, err);
    return st;
}

static mn_status create_collection(const struct table *t, mn_conn *conn, size_t i,
                                   const char *const *attributes, size_t n, mn_error *err)
{
    const struct column *c = &t->d.columns[i];
    char rows[ROWS_NAME], name[2 * MN_MAX_NAME + 2];
    table_rows_name(t, rows);
    table_collection(t, i, name);
    mn_collection_opts opts = {.dim = c->vector.dim,
                               .dtype = c->vector.dtype,
                               .metric = c->vector.metric,
                               .rerank = c->rerank,
                               .bits = c->bits,
                               .recall = c->recall,
                               .table = rows,
                               .column = c->name,
                               .attributes = attributes,
                               .n_attributes = n};
    return mn_create(conn, name, &opts, err);
}

static mn_status create_text(const struct table *t, mn_conn *conn, mn_error *err)
{
    char rows[ROWS_NAME], name[TEXT_NAME];
    table_rows_name(t, rows);
    table_text_name(t, name);
    mn_status st = fts_make(conn->sql, rows, t->d.columns[0].name, name, &t->d.fts, true, err);
    return st || t->d.first_vector == 0 ? st : catalog_schema_keep(conn->sql, err);
}

static mn_status create_all(const struct table *t, mn_conn *conn, mn_error *err)
{
    const char **attributes = sqlite3_malloc64(t->d.n * sizeof *attributes);
    size_t n = 0;
    if (!attributes)
        return mn_fail(err, MN_NOMEM, "out of memory");
    for (size_t i = 1; i < t->d.n; i++)
        if (t->d.columns[i].kind == COLUMN_ATTRIBUTE)
            attributes[n++] = t->d.columns[i].name;
    mn_status st = create_rows(t, conn->sql, err);
    for (size_t i = 1; i < t->d.n && st == MN_OK; i++)
        if (column_has_collection(&t->d.columns[i]))
            st = create_collection(t, conn, i, attributes, n, err);
    if (st == MN_OK && t->d.text)
        st = create_text(t, conn, err);
    sqlite3_free(attributes);
    return st;
}

static int on_create(sqlite3 *sql, void *aux, int argc, const char *const *argv, sqlite3_vtab **out,
                     char **message)
{
    struct table *t;
    mn_error err = {0};
    mn_conn *conn;
    *out = NULL;
    int rc = table_make(aux, sql, argc, argv, &t, message);
    if (rc != SQLITE_OK)
        return rc;
    mn_status st = session_enter(t->s, &conn, &err);
    if (st == MN_OK) {
        st = create_all(t, conn, &err);
        session_leave(t->s);
    }
    if (st) {
        table_free(t);
        return refuse(message, st, &err);
    }
    *out = &t->base;
    return SQLITE_OK;
}

/* ---- Dropping, renaming ---------------------------------------------------------------------- */

static mn_status schema_before(mn_conn *conn, int64_t *version, mn_error *err)
{
    return sql_int(conn->sql, "PRAGMA main.schema_version", 0, version, err);
}

/* DROP TABLE and ALTER TABLE set the schema's number, when we are done, to one above what it was
 * before. */
static mn_status schema_after(mn_conn *conn, int64_t before, mn_error *err)
{
    enum catalog_state state;
    mn_status st = catalog_check(conn->sql, &state, err);
    return st || state == CATALOG_ABSENT ? st : catalog_schema_keep_as(conn->sql, before + 1, err);
}

static int on_destroy(sqlite3_vtab *base)
{
    struct table *t = (struct table *)base;
    char rows[ROWS_NAME], name[2 * MN_MAX_NAME + 2];
    mn_error err = {0};
    mn_conn *conn;
    int64_t before = 0;
    table_rows_name(t, rows);
    forget_statements(t);
    mn_status st = session_enter(t->s, &conn, &err);
    if (st)
        return session_refuse(base, st, &err);
    st = schema_before(conn, &before, &err);
    for (size_t i = 1; i < t->d.n && st == MN_OK; i++) {
        if (!column_has_collection(&t->d.columns[i]))
            continue;
        table_collection(t, i, name);
        st = mn_drop(conn, name, &err);
        if (st == MN_NOTFOUND) { /* somebody dropped it by the C API */
            mn_error_clear(&err);
            st = MN_OK;
        }
    }
    if (st == MN_OK && t->d.text)
        st = fts_drop(conn->sql, rows, &err);
    if (st == MN_OK) /* not under `inside`: its rows are the application's to see vanish */
        st = sql_execf(conn->sql, &err, "DROP TABLE IF EXISTS main.\"%w\"", rows);
    if (st == MN_OK)
        st = schema_after(conn, before, &err);
    session_leave(t->s);
    if (st)
        return session_refuse(base, st, &err);
    table_free(t);
    return SQLITE_OK;
}

static int on_rename(sqlite3_vtab *base, const char *to)
{
    struct table *t = (struct table *)base;
    struct table renamed = {.name = sqlite3_mprintf("%s", to), .d = t->d};
    char rows[ROWS_NAME], new_rows[ROWS_NAME];
    char name[2 * MN_MAX_NAME + 2], new_name[2 * MN_MAX_NAME + 2] = "";
    char text[TEXT_NAME], new_text[TEXT_NAME], *view = NULL;
    mn_error err = {0};
    mn_conn *conn;
    int64_t before = 0;
    if (!renamed.name)
        return SQLITE_NOMEM;
    table_rows_name(t, rows);
    table_rows_name(&renamed, new_rows);
    table_text_name(t, text);
    table_text_name(&renamed, new_text);
    forget_statements(t);
    mn_status st = session_enter(t->s, &conn, &err); /* conn is NULL if it fails */
    if (st == MN_OK)
        st = schema_before(conn, &before, &err);
    for (size_t i = 1; i < t->d.n && st == MN_OK; i++) {
        if (!column_has_collection(&t->d.columns[i]))
            continue;
        table_collection(t, i, name);
        table_collection(&renamed, i, new_name);
        st = coll_rename(conn, name, new_name, &err);
    }
    if (st == MN_OK && t->d.text)
        st = fts_rename_begin(conn->sql, text, &view, &err);
    if (st == MN_OK && *new_name)
        st = coll_rename_table(conn, new_name, new_rows, &err);
    else if (st == MN_OK) /* no column has a collection */
        st = sql_execf(conn->sql, &err, "ALTER TABLE main.\"%w\" RENAME TO \"%w\"", rows, new_rows);
    if (st == MN_OK && t->d.text)
        st = fts_rename_end(conn->sql, new_rows, t->d.columns[0].name, text, new_text, view, &err);
    if (st == MN_OK)
        st = schema_after(conn, before, &err);
    if (conn)
        session_leave(t->s);
    sqlite3_free(view);
    sqlite3_free(renamed.name);
    return st ? session_refuse(base, st, &err) : SQLITE_OK;
}

static int on_shadow_name(const char *name)
{
    return sqlite3_stricmp(name, "rows") == 0;
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* What SQLite says against a statement on the rows table is that somebody was at it. */
char *table_rows_trouble(const struct table *t)
{
    char rows[ROWS_NAME];
    table_rows_name(t, rows);
    return sqlite3_mprintf("%s: %s; its rows lie in '%s', which must stay as it was made: restore "
                           "that, or DROP TABLE %s",
                           t->name, sqlite3_errmsg(session_sql(t->s)), rows, t->name);
}

/* Prepares a statement on the rows table and keeps it. */
static int prepare(struct table *t, sqlite3_str *text, sqlite3_stmt **out)
{
    sqlite3 *db = session_sql(t->s);
    char *sql = sqlite3_str_finish(text);
    int rc = sql ? session_guard(t->s) : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
    sqlite3_free(sql);
    if (rc != SQLITE_OK && rc != SQLITE_NOMEM) {
        sqlite3_free(t->base.zErrMsg);
        t->base.zErrMsg =
            rc == SQLITE_ERROR ? table_rows_trouble(t) : sqlite3_mprintf("%s", sqlite3_errmsg(db));
    }
    return rc;
}

/* SQLite names the rows table in what it says of a constraint; users know the other name. */
static char *message_for(const struct table *t, const char *message)
{
    char rows[ROWS_NAME];
    if (strncmp(message, "no such ", 8) == 0)
        return table_rows_trouble(t);
    table_rows_name(t, rows);
    const char *at = strstr(message, rows);
    if (!at)
        return sqlite3_mprintf("%s", message);
    return sqlite3_mprintf("%.*s%s%s", (int)(at - message), message, t->name, at + strlen(rows));
}

static int run(struct table *t, sqlite3_stmt *st)
{
    sqlite3 *db = session_sql(t->s);
    int rc = sqlite3_step(st);
    if (rc == SQLITE_DONE) {
        sqlite3_reset(st);
        sqlite3_clear_bindings(st);
        t->changed = true;
        return SQLITE_OK;
    }
    sqlite3_free(t->base.zErrMsg);
    t->base.zErrMsg = message_for(t, sqlite3_errmsg(db));
    rc = sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return rc == SQLITE_OK ? SQLITE_ERROR : rc;
}

/* Binds the value of declared column i; one that is a vector already is not copied. */
static int bind(struct table *t, sqlite3_stmt *st, int parameter, size_t i, sqlite3_value *v)
{
    const struct column *c = &t->d.columns[i];
    const struct vector_type *type = &c->vector;
    mn_error err = {0};
    void *vector = NULL;
    char what[2 * MN_MAX_NAME + 2];
    mn_status status;
    if (i && i == t->d.ttl && sqlite3_value_type(v) != SQLITE_NULL &&
        sqlite3_value_numeric_type(v) >= SQLITE_TEXT) {
        mn_fail(&err, MN_INVALID,
                "%s.%s: a row's end is told in seconds since 1970, as unixepoch('now', '+1 day') "
                "gives them",
                t->name, c->name);
        return session_refuse(&t->base, MN_INVALID, &err);
    }
    if (c->kind != COLUMN_VECTOR)
        return sqlite3_bind_value(st, parameter, v);
    size_t bytes = mn_vector_bytes(type->dtype, type->dim);
    sqlite3_snprintf(sizeof what, what, "%s.%s", t->name, c->name);
    bool as_is = value_is_vector(type, v);
    if (as_is)
        status = scan_check_vector(type->dtype, type->metric, type->dim, sqlite3_value_blob(v),
                                   what, &err);
    else
        status = value_vector(t->kernels, type, v, what, &vector, &err);
    if (status)
        return session_refuse(&t->base, status, &err);
    if (as_is)
        return sqlite3_bind_value(st, parameter, v);
    return vector ? sqlite3_bind_blob64(st, parameter, vector, bytes, sqlite3_free)
                  : sqlite3_bind_null(st, parameter);
}

static int prepare_insert(struct table *t, bool replace)
{
    char rows[ROWS_NAME];
    table_rows_name(t, rows);
    sqlite3_str *sql = sqlite3_str_new(session_sql(t->s));
    sqlite3_str_appendf(sql, "INSERT %sINTO main.\"%w\"(", replace ? "OR REPLACE " : "", rows);
    for (size_t i = 0; i < t->d.n; i++)
        sqlite3_str_appendf(sql, "%s\"%w\"", i ? ", " : "", t->d.columns[i].name);
    sqlite3_str_appendall(sql, ") VALUES (");
    for (size_t i = 0; i < t->d.n; i++)
        sqlite3_str_appendf(sql, "%s?%d", i ? ", " : "", (int)i + 1);
    sqlite3_str_appendall(sql, ")");
    return prepare(t, sql, &t->insert[replace]);
}

/* rowid is another name of the id; values: [d.n + HIDDENS] */
static int insert(struct table *t, sqlite3_value *rowid, sqlite3_value **values, sqlite3_int64 *id)
{
    sqlite3 *db = session_sql(t->s);
    bool replace = sqlite3_vtab_on_conflict(db) == SQLITE_REPLACE;
    int rc = t->insert[replace] ? SQLITE_OK : prepare_insert(t, replace);
    for (size_t i = 0; i < t->d.n && rc == SQLITE_OK; i++)
        rc = bind(t, t->insert[replace], (int)i + 1, i,
                  i == 0 && sqlite3_value_type(values[0]) == SQLITE_NULL ? rowid : values[i]);
    if (rc == SQLITE_OK)
        rc = run(t, t->insert[replace]);
    if (rc == SQLITE_OK)
        *id = sqlite3_last_insert_rowid(db);
    return rc;
}

static int remove_row(struct table *t, sqlite3_value *id)
{
    int rc = SQLITE_OK;
    if (!t->remove) {
        char rows[ROWS_NAME];
        table_rows_name(t, rows);
        sqlite3_str *sql = sqlite3_str_new(session_sql(t->s));
        sqlite3_str_appendf(sql, "DELETE FROM main.\"%w\" WHERE \"%w\" = ?1", rows,
                            t->d.columns[0].name);
        rc = prepare(t, sql, &t->remove);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_value(t->remove, 1, id);
    return rc == SQLITE_OK ? run(t, t->remove) : rc;
}

static bool masked(const uint64_t *mask, size_t i)
{
    return mask[i / 64] >> i % 64 & 1;
}

/* UPDATE of the columns in t->update_mask. */
static int prepare_update(struct table *t, int conflict)
{
    char rows[ROWS_NAME];
    bool first = true;
    table_rows_name(t, rows);
    sqlite3_finalize(t->update);
    t->update = NULL;
    t->update_conflict = conflict;
    sqlite3_str *sql = sqlite3_str_new(session_sql(t->s));
    sqlite3_str_appendf(sql, "UPDATE %smain.\"%w\" SET ",
                        conflict == SQLITE_REPLACE ? "OR REPLACE " : "", rows);
    for (size_t i = 0; i < t->d.n; i++) {
        if (!masked(t->update_mask, i))
            continue;
        sqlite3_str_appendf(sql, "%s\"%w\" = ?%d", first ? "" : ", ", t->d.columns[i].name,
                            (int)i + 1);
        first = false;
    }
    sqlite3_str_appendf(sql, " WHERE \"%w\" = ?%d", t->d.columns[0].name, (int)t->d.n + 1);
    return prepare(t, sql, &t->update);
}

/* The new id of an UPDATE that sets one, by its name or as rowid; NULL: it stays. */
static sqlite3_value *new_id(sqlite3_value **argv)
{
    sqlite3_value *was = argv[0];
    for (int i = 2; i >= 1; i--)
        if (!sqlite3_value_nochange(argv[i]) &&
            (sqlite3_value_type(argv[i]) != SQLITE_INTEGER ||
             sqlite3_value_int64(was) != sqlite3_value_int64(argv[i])))
            return argv[i];
    return NULL;
}

/* argv: old id, new rowid, [d.n + HIDDENS] values. */
static int update(struct table *t, sqlite3_value **argv)
{
    int conflict = sqlite3_vtab_on_conflict(session_sql(t->s));
    bool same = t->update && t->update_conflict == conflict, any = false;
    sqlite3_value *id = new_id(argv);
    for (size_t i = 0; i < t->d.n; i++) {
        bool changed = i == 0 ? id != NULL : !sqlite3_value_nochange(argv[2 + i]);
        any = any || changed;
        if (changed == masked(t->update_mask, i))
            continue;
        t->update_mask[i / 64] ^= (uint64_t)1 << i % 64;
        same = false;
    }
    if (!any)
        return SQLITE_OK;
    int rc = same ? SQLITE_OK : prepare_update(t, conflict);
    for (size_t i = 0; i < t->d.n && rc == SQLITE_OK; i++)
        if (masked(t->update_mask, i))
            rc = bind(t, t->update, (int)i + 1, i, i == 0 ? id : argv[2 + i]);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_value(t->update, (int)t->d.n + 1, argv[0]);
    return rc == SQLITE_OK ? run(t, t->update) : rc;
}

/* INSERT INTO docs(docs) VALUES ('expire'): deletes the rows whose time is over. */
static int command(struct table *t, sqlite3_value *v)
{
    mn_error err = {0};
    char rows[ROWS_NAME];
    const char *word = (const char *)sqlite3_value_text(v);
    table_rows_name(t, rows);
    if (!word || sqlite3_stricmp(word, "expire") != 0) {
        sqlite3_free(t->base.zErrMsg);
        t->base.zErrMsg = sqlite3_mprintf(
            "%s: there is no command '%s'; there is expire. Folding, rebuilding and the rest are "
            "functions: mneme_fold('%s')",
            t->name, word ? word : "", t->name);
        return SQLITE_ERROR;
    }
    if (!t->d.ttl) {
        sqlite3_free(t->base.zErrMsg);
        t->base.zErrMsg = sqlite3_mprintf("%s: no column is TTL, so that no row expires", t->name);
        return SQLITE_ERROR;
    }
    mn_status st =
        sql_execf(session_sql(t->s), &err, "DELETE FROM main.\"%w\" WHERE \"%w\" <= %lld", rows,
                  t->d.columns[t->d.ttl].name, (long long)table_now());
    t->changed = true;
    return st ? session_refuse(&t->base, st, &err) : SQLITE_OK;
}

/* What stands in queries only. */
static int refuse_arguments(struct table *t, sqlite3_value **hidden)
{
    static const char *const names[HIDDENS] = {[HIDDEN_K] = "k",
                                               [HIDDEN_DISTANCE] = "distance",
                                               [HIDDEN_RECALL] = "recall",
                                               [HIDDEN_EXACT] = "exact"};
    for (size_t i = HIDDEN_K; i < HIDDENS; i++) {
        if (sqlite3_value_nochange(hidden[i]) || sqlite3_value_type(hidden[i]) == SQLITE_NULL)
            continue;
        sqlite3_free(t->base.zErrMsg);
        t->base.zErrMsg = sqlite3_mprintf("%s.%s is for queries beside a MATCH; no row has one",
                                          t->name, names[i]);
        return SQLITE_ERROR;
    }
    return SQLITE_OK;
}

static int on_update(sqlite3_vtab *base, int argc, sqlite3_value **argv, sqlite3_int64 *id)
{
    struct table *t = (struct table *)base;
    if (argc == 1)
        return remove_row(t, argv[0]);
    sqlite3_value *hidden = argv[2 + t->d.n + HIDDEN_COMMAND];
    if (t->d.text && !sqlite3_value_nochange(argv[2 + t->d.n + HIDDEN_TEXT]) &&
        sqlite3_value_type(argv[2 + t->d.n + HIDDEN_TEXT]) != SQLITE_NULL) {
        sqlite3_free(base->zErrMsg);
        base->zErrMsg = sqlite3_mprintf("%s.%s is the full text of other columns, and nothing is "
                                        "stored in it",
                                        t->name, t->d.text);
        return SQLITE_ERROR;
    }
    int rc = refuse_arguments(t, argv + 2 + t->d.n);
    if (rc != SQLITE_OK)
        return rc;
    if (sqlite3_value_type(argv[0]) != SQLITE_NULL)
        return update(t, argv);
    if (sqlite3_value_type(hidden) != SQLITE_NULL)
        return command(t, hidden);
    return insert(t, argv[1], argv + 2, id);
}

/* ---- Transactions ---------------------------------------------------------------------------- */

static int on_begin(sqlite3_vtab *base)
{
    ((struct table *)base)->changed = false;
    return SQLITE_OK;
}

static int on_commit(sqlite3_vtab *base)
{
    struct table *t = (struct table *)base;
    char name[2 * MN_MAX_NAME + 2];
    session_settle(t->s); /* a database's first table was made in a rollback journal */
    for (size_t i = 1; i < t->d.n && t->changed; i++) {
        if (!column_has_collection(&t->d.columns[i]))
            continue;
        table_collection(t, i, name);
        session_tell(t->s, name);
    }
    t->changed = false;
    return SQLITE_OK;
}

static int on_rollback(sqlite3_vtab *base)
{
    ((struct table *)base)->changed = false;
    return SQLITE_OK;
}

/* ---- Functions over columns ------------------------------------------------------------------ */

static void match_outside(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    (void)args;
    sqlite3_result_error(ctx,
                         "MATCH needs its query from a table to its left; on a vector column it "
                         "may stand under AND only",
                         -1);
}

static int on_find_function(sqlite3_vtab *base, int n, const char *name,
                            void (**function)(sqlite3_context *, int, sqlite3_value **), void **arg)
{
    (void)base;
    *arg = NULL;
    if (n == 2 && sqlite3_stricmp(name, "match") == 0) {
        *function = match_outside;
        return 1;
    }
    if (n == 2 && sqlite3_stricmp(name, "json_contains") == 0) {
        *function = json_contains;
        return SQLITE_INDEX_CONSTRAINT_FUNCTION;
    }
    return 0;
}

int table_register(struct session *s)
{
    static const sqlite3_module module = {.iVersion = 3,
                                          .xCreate = on_create,
                                          .xConnect = on_connect,
                                          .xBestIndex = table_best_index,
                                          .xDisconnect = on_disconnect,
                                          .xDestroy = on_destroy,
                                          .xOpen = table_open,
                                          .xClose = table_close,
                                          .xFilter = table_filter,
                                          .xNext = table_next,
                                          .xEof = table_eof,
                                          .xColumn = table_column,
                                          .xRowid = table_rowid,
                                          .xUpdate = on_update,
                                          .xBegin = on_begin,
                                          .xCommit = on_commit,
                                          .xRollback = on_rollback,
                                          .xFindFunction = on_find_function,
                                          .xRename = on_rename,
                                          .xShadowName = on_shadow_name};
    return sqlite3_create_module_v2(session_sql(s), "mneme", &module, session_hold(s),
                                    session_release);
}
