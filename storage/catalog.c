/*
 * The catalog's tables. They are ordinary tables: a dump and a restore by SQLite's own tools keep
 * them, and what they say can be read with plain SQL.
 *
 *   mneme_meta(key TEXT PRIMARY KEY, value)
 *       format      number of the format that wrote the database
 *       min_reader  lowest format number that can read it; above CATALOG_FORMAT we refuse
 *       db_id       32 hex digits, random: which database this is
 *       schema      PRAGMA schema_version as our last own change of the schema left it
 *       schema_rowid, schema_tables, schema_virtual
 *                   the greatest rowid of sqlite_master then, how many tables and views there were
 *                   but Mneme's, and how many virtual tables
 *       log:NUMBER  where a table and the triggers of its log stood in the schema then
 *       and what storage/extents.c keeps about the sidecar, once there is one
 *   mneme_tables(number, name, id_kind)
 *       one row per table of rows; id_kind is 'integer' or 'text' for those that Mneme made, 'key'
 *       for those that were there before: their ids are their INTEGER PRIMARY KEY
 *   mneme_attributes(collection, position, name)
 *       the attributes of collections over tables that were there before, in order. A database gets
 *       the table with its first such collection, and min_reader 2 (catalog_over.c)
 *   mneme_collections(number, name, table_number, vector_column, dtype, dim, metric, rerank, bits,
 *                     recall)
 *       one row per vector column; the last three are options of its index
 *   mneme_extents
 *       one row per extent of the sidecar: storage/extents.c
 *   mneme_indexes(collection, generation, seq, stamp, rows)
 *       one row per hybrid index: which publish made it, and the position of the change log whose
 *       rows it holds. A database made without the table gets it with its first index
 *
 * A table of rows:
 *
 *   "name"(id INTEGER PRIMARY KEY, [text_id TEXT NOT NULL UNIQUE,] version INTEGER,
 *          attributes..., payload TEXT, vector BLOB CHECK (...))
 *
 * The integer id is the clustering key, always. The vector stands last, so that attributes are read
 * without walking over it. The CHECK keeps a plain client from writing a vector of a wrong size.
 */
#include "storage/catalog.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/error.h"
#include "storage/base/utf8.h"
#include "storage/catalog_over.h"
#include "storage/changelog.h"
#include "storage/extents.h"
#include "storage/sql.h"

static const char *const own_columns[] = {"id",     "text_id", "version", "payload",
                                          "vector", "rowid",   "oid",     "_rowid_"};

mn_status catalog_check(sqlite3 *db, enum catalog_state *out, mn_error *err)
{
    int64_t tables = 0, format = 0, min_reader = 0;
    *out = CATALOG_ABSENT;
    mn_status st = sql_int(db,
                           "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN "
                           "('mneme_meta', 'mneme_tables', 'mneme_collections')",
                           0, &tables, err);
    if (st || tables == 0)
        return st;
    if (tables != 3)
        return mn_fail(err, MN_CORRUPT,
                       "%s: the catalog has %" PRId64
                       " of its 3 tables mneme_meta, mneme_tables, mneme_collections; restore a "
                       "backup",
                       sqlite3_db_filename(db, "main"), tables);
    st = sql_int(db, "SELECT value FROM mneme_meta WHERE key = 'format'", 0, &format, err);
    if (st == MN_OK)
        st = sql_int(db, "SELECT value FROM mneme_meta WHERE key = 'min_reader'", 0, &min_reader,
                     err);
    if (st)
        return st;
    if (min_reader > CATALOG_FORMAT)
        return mn_fail(err, MN_NEWER,
                       "%s: has format %" PRId64 ", which needs a Mneme that reads format %" PRId64
                       "; this one reads up to %d: upgrade it",
                       sqlite3_db_filename(db, "main"), format, min_reader, CATALOG_FORMAT);
    if (format < 1 || min_reader < 1)
        return mn_fail(err, MN_CORRUPT,
                       "%s: mneme_meta holds no valid format number; restore a backup",
                       sqlite3_db_filename(db, "main"));
    *out = CATALOG_PRESENT;
    return MN_OK;
}

/* Bytes on disk that one row takes in a table of pages of `page` bytes: a share of a leaf, plus
 * whole overflow pages (SQLite's file format, section 1.6). */
static double bytes_a_row(size_t payload, uint32_t page)
{
    size_t usable = page, local = payload, overflow_pages = 0;
    if (payload > usable - 35) {
        size_t least = (usable - 12) * 32 / 255 - 23;
        size_t k = least + (payload - least) % (usable - 4);
        local = k <= usable - 35 ? k : least;
        overflow_pages = (payload - local + usable - 5) / (usable - 4);
    }
    size_t cell = local + 2 + 8 + (overflow_pages ? 4 : 0); /* pointer, length and key varints */
    size_t rows = (usable - 8) / cell;
    return (double)page / (double)(rows ? rows : 1) + (double)overflow_pages * page;
}

uint32_t catalog_page_bytes(size_t vector_bytes)
{
    size_t payload = vector_bytes + 16; /* record header, version, a few NULLs */
    uint32_t best = 4096;
    for (uint32_t page = 8192; page <= 65536; page *= 2)
        /* A changed row is written as a page, to the log and again by the checkpoint: a larger page
         * must save 8% of the file to be taken. */
        if (bytes_a_row(payload, page) < 0.92 * bytes_a_row(payload, best))
            best = page;
    return best;
}

mn_status catalog_init(sqlite3 *db, mn_error *err)
{
    mn_status st = sql_execf(
        db, err,
        "CREATE TABLE mneme_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
        "CREATE TABLE mneme_tables(number INTEGER PRIMARY KEY AUTOINCREMENT,"
        " name TEXT NOT NULL UNIQUE COLLATE NOCASE, id_kind TEXT NOT NULL);"
        "CREATE TABLE mneme_collections(number INTEGER PRIMARY KEY AUTOINCREMENT,"
        " name TEXT NOT NULL UNIQUE COLLATE NOCASE, table_number INTEGER NOT NULL,"
        " vector_column TEXT NOT NULL, dtype TEXT NOT NULL, dim INTEGER NOT NULL,"
        " metric TEXT NOT NULL, rerank TEXT NOT NULL, bits INTEGER NOT NULL, recall REAL NOT NULL);"
        "CREATE TABLE mneme_indexes(collection INTEGER PRIMARY KEY, generation INTEGER NOT NULL,"
        " seq INTEGER NOT NULL, stamp INTEGER NOT NULL, rows INTEGER NOT NULL);"
        "INSERT INTO mneme_meta VALUES ('format', 1), ('min_reader', 1),"
        " ('db_id', lower(hex(randomblob(16)))), ('schema', 0)");
    return st ? st : extents_init(db, err);
}

/* ---- Reading --------------------------------------------------------------------------------- */

static bool copy_name(char *to, const unsigned char *from)
{
    size_t n = from ? strlen((const char *)from) : 0;
    if (n == 0 || n > MN_MAX_NAME)
        return false;
    memcpy(to, from, n + 1);
    return true;
}

enum { MAX_BITS = 8 };

static const char *const rerank_names[] = {
    [MN_RERANK_COPY] = "copy", [MN_RERANK_ROWS] = "rows", [MN_RERANK_NONE] = "none"};
enum { RERANKS = sizeof rerank_names / sizeof *rerank_names };

static bool rerank_parse(const char *word, mn_rerank *out)
{
    for (size_t i = 0; word && i < RERANKS; i++) {
        if (strcmp(word, rerank_names[i]) == 0) {
            *out = (mn_rerank)i;
            return true;
        }
    }
    return false;
}

/* One row of the walk's SELECT into an entry. Whatever does not fit is a damaged catalog. */
static mn_status read_entry(sqlite3_stmt *st, struct catalog_entry *e, mn_error *err)
{
    const char *dtype = (const char *)sqlite3_column_text(st, 4);
    const char *metric = (const char *)sqlite3_column_text(st, 6);
    const char *kind = (const char *)sqlite3_column_text(st, 8);
    const char *rerank = (const char *)sqlite3_column_text(st, 9);
    int64_t dim = sqlite3_column_int64(st, 5), bits = sqlite3_column_int64(st, 10);
    memset(e, 0, sizeof *e);
    e->number = sqlite3_column_int64(st, 0);
    e->table_number = sqlite3_column_int64(st, 2);
    bool good =
        copy_name(e->name, sqlite3_column_text(st, 1)) &&
        copy_name(e->column, sqlite3_column_text(st, 3)) &&
        copy_name(e->table, sqlite3_column_text(st, 7)) && dim >= 1 && dim <= MN_MAX_DIM && dtype &&
        mn_dtype_parse(dtype, &e->dtype) && metric && mn_metric_parse(metric, &e->metric) &&
        (e->metric == MN_HAMMING) == (e->dtype == MN_BIT) && kind &&
        (strcmp(kind, "text") == 0 || strcmp(kind, "integer") == 0 || strcmp(kind, "key") == 0) &&
        e->number > 0 && e->table_number > 0 && mn_vector_bytes(e->dtype, (uint32_t)dim) > 0 &&
        rerank_parse(rerank, &e->rerank) && bits >= 0 && bits <= MAX_BITS;
    if (!good)
        return mn_fail(err, MN_CORRUPT,
                       "%s: mneme_collections, row %" PRId64
                       ": no valid collection; restore a backup",
                       sqlite3_db_filename(sqlite3_db_handle(st), "main"), e->number);
    e->dim = (uint32_t)dim;
    e->bits = (uint32_t)bits;
    e->recall = sqlite3_column_double(st, 11);
    if (!(e->recall >= 0.5 && e->recall <= 1))
        e->recall = 0;
    e->id_kind = strcmp(kind, "text") == 0 ? MN_ID_TEXT : MN_ID_INTEGER;
    e->foreign = strcmp(kind, "key") == 0;
    memcpy(e->id_column, "id", 3);
    return e->foreign ? over_resolve(sqlite3_db_handle(st), e, err) : MN_OK;
}

#define SELECT_ENTRIES                                                                             \
    "SELECT c.number, c.name, c.table_number, c.vector_column, c.dtype, c.dim, c.metric,"          \
    " t.name, t.id_kind, c.rerank, c.bits, c.recall FROM mneme_collections c LEFT JOIN "           \
    "mneme_tables t"                                                                               \
    " ON t.number = c.table_number"

mn_status catalog_walk(sqlite3 *db, catalog_fn fn, void *ctx, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    struct catalog_entry e;
    mn_status status = sql_prepare(db, SELECT_ENTRIES " ORDER BY c.name", &st, err);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        status = read_entry(st, &e, err);
        if (status == MN_OK)
            status = fn(ctx, &e, err);
    }
    sqlite3_finalize(st);
    return status;
}

/* Letters in which two names differ, position by position and in length: good enough to guess. */
static size_t difference(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b), n = la < lb ? la : lb, d = la > lb ? la - lb : lb - la;
    for (size_t i = 0; i < n; i++)
        d += (a[i] | 0x20) != (b[i] | 0x20);
    return d;
}

struct guess {
    const char *name;
    char best[MN_MAX_NAME + 1];
    size_t difference;
    size_t collections;
};

static mn_status guess_one(void *ctx, const struct catalog_entry *e, mn_error *err)
{
    struct guess *g = ctx;
    (void)err;
    size_t d = difference(g->name, e->name);
    g->collections++;
    if (d < g->difference) {
        g->difference = d;
        memcpy(g->best, e->name, sizeof g->best);
    }
    return MN_OK;
}

static mn_status not_found(sqlite3 *db, const char *name, mn_error *err)
{
    struct guess g = {.name = name, .difference = strlen(name) / 2 + 1};
    const char *file = sqlite3_db_filename(db, "main");
    mn_status st = catalog_walk(db, guess_one, &g, err);
    if (st)
        return st;
    if (g.best[0])
        return mn_fail(err, MN_NOTFOUND, "%s: no collection '%s'; did you mean '%s'?", file, name,
                       g.best);
    if (g.collections == 0)
        return mn_fail(err, MN_NOTFOUND, "%s: no collection '%s', it has none; create it first",
                       file, name);
    return mn_fail(err, MN_NOTFOUND,
                   "%s: no collection '%s' among its %zu; check the name, or create it", file, name,
                   g.collections);
}

mn_status catalog_find(sqlite3 *db, const char *name, struct catalog_entry *out, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    mn_status status = sql_prepare(db, SELECT_ENTRIES " WHERE c.name = ?1", &st, err);
    if (status == MN_OK) {
        sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
        status = sql_step(st, &row, err);
    }
    if (status == MN_OK && row)
        status = read_entry(st, out, err);
    sqlite3_finalize(st);
    if (status == MN_OK && !row)
        return not_found(db, name, err);
    return status;
}

/* True if `name` is one of the words in own_columns, in any case. */
static bool is_own_column(const char *name)
{
    for (size_t i = 0; i < sizeof own_columns / sizeof *own_columns; i++)
        if (sqlite3_stricmp(name, own_columns[i]) == 0)
            return true;
    return false;
}

/* A column is an attribute unless it is Mneme's own or some collection's vector. */
#define SELECT_ATTRIBUTES                                                                          \
    "SELECT name FROM pragma_table_info(?1, 'main') WHERE lower(name) NOT IN ('id', 'text_id', "   \
    "'version',"                                                                                   \
    " 'payload', 'vector') AND lower(name) NOT IN (SELECT lower(vector_column) FROM"               \
    " mneme_collections WHERE table_number = ?2) ORDER BY cid"

mn_status catalog_attributes(sqlite3 *db, const struct catalog_entry *e, char **names, size_t *n,
                             mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    *names = NULL;
    *n = 0;
    if (e->foreign)
        return over_attributes(db, e, names, n, err);
    sqlite3_str *all = sqlite3_str_new(db);
    mn_status status = sql_prepare(db, SELECT_ATTRIBUTES, &st, err);
    if (status == MN_OK) {
        sqlite3_bind_text(st, 1, e->table, -1, SQLITE_STATIC);
        sqlite3_bind_int64(st, 2, e->table_number);
    }
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        sqlite3_str_append(all, name ? name : "", (int)(name ? strlen(name) : 0) + 1);
        ++*n;
    }
    sqlite3_finalize(st);
    int rc = sqlite3_str_errcode(all);
    *names = sqlite3_str_finish(all);
    if (status == MN_OK && rc != SQLITE_OK)
        status = sql_fail(NULL, rc, err, "catalog");
    if (status) {
        sqlite3_free(*names);
        *names = NULL;
    }
    return status;
}

mn_status catalog_table_fits(sqlite3 *db, const struct catalog_entry *e, bool *fits,
                             char missing[MN_MAX_NAME + 1], mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t n = 0;
    mn_status status = MN_OK;
    *missing = '\0';
    *fits = false;
    if (e->foreign) {
        if (*e->id_column)
            status = over_missing(db, e, missing, err);
        *fits = status == MN_OK && *e->id_column && !*missing;
        return status;
    }
    status = sql_preparef(db, &st, err,
                          "SELECT count(*) FROM pragma_table_info(%Q, 'main') WHERE name IN "
                          "('id', 'version', 'payload', %Q)",
                          e->table, e->column);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &n, err);
    sqlite3_finalize(st);
    *fits = n == 4;
    return status;
}

mn_status catalog_computed(sqlite3 *db, const struct catalog_entry *e, char name[MN_MAX_NAME + 1],
                           mn_error *err)
{
    *name = '\0'; /* a table of Mneme's own has no such column */
    return e->foreign ? over_computed(db, e, name, err) : MN_OK;
}

mn_status catalog_log_of(sqlite3 *db, const struct catalog_entry *e, struct catalog_log *out,
                         mn_error *err)
{
    *out = (struct catalog_log){
        .table = {.number = e->table_number, .name = e->table, .key = out->key}};
    memcpy(out->key, "id", 3);
    mn_status st = MN_OK;
    if (e->foreign) {
        sqlite3_snprintf(sizeof out->key, out->key, "\"%w\"", e->id_column);
        st = over_watched(db, e, &out->watched, err);
    }
    out->table.watched = out->watched;
    return st;
}

/* ---- Names ----------------------------------------------------------------------------------- */

static mn_status check_length(const char *what, const char *name, mn_error *err)
{
    if (!name || !*name)
        return mn_fail(err, MN_INVALID, "the name of the %s is empty", what);
    size_t n = strlen(name);
    if (n > MN_MAX_NAME)
        return mn_fail(err, MN_INVALID, "the name of the %s has %zu bytes; at most %u are allowed",
                       what, n, MN_MAX_NAME);
    return MN_OK;
}

static mn_status check_name(const char *what, const char *name, mn_error *err)
{
    mn_status st = check_length(what, name, err);
    if (st)
        return st;
    size_t n = strlen(name);
    size_t bad = utf8_check(name, n);
    if (bad < n)
        return mn_fail(err, MN_INVALID, "the name of the %s is no valid UTF-8 at byte %zu", what,
                       bad);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c < 0x20 || c == 0x7f || c == '"' || c == '\'' || c == '`')
            return mn_fail(err, MN_INVALID,
                           "the name of the %s has a quote or control character at byte %zu", what,
                           i);
    }
    if (sqlite3_strnicmp(name, "mneme_", 6) == 0 || sqlite3_strnicmp(name, "sqlite_", 7) == 0)
        return mn_fail(
            err, MN_INVALID,
            "the name of the %s, '%s', starts with mneme_ or sqlite_, which are reserved", what,
            name);
    return MN_OK;
}

static mn_status check_attribute_name(const char *name, mn_error *err)
{
    mn_status st = check_name("attribute", name, err);
    if (st == MN_OK && is_own_column(name))
        st = mn_fail(err, MN_INVALID,
                     "an attribute may not be called '%s': that column is Mneme's own", name);
    return st;
}

/* ---- Changing -------------------------------------------------------------------------------- */

/* What can be said of a collection over a table that is there without looking at it. */
static mn_status check_over(const char *name, const mn_collection_opts *o, mn_error *err)
{
    mn_status st = check_length("table", o->table, err);
    if (st == MN_OK)
        st = check_length("vector column", o->column, err);
    if (st)
        mn_error_context(err, "collection '%s': ", name);
    else if (o->beside)
        st = mn_fail(err, MN_INVALID,
                     "collection '%s': it is either beside '%s' or over table '%s', not both", name,
                     o->beside, o->table);
    else if (o->id_kind != MN_ID_INTEGER)
        st = mn_fail(err, MN_INVALID,
                     "collection '%s': the ids of table '%s' are its INTEGER PRIMARY KEY; text ids "
                     "go with tables of Mneme's own",
                     name, o->table);
    return st;
}

mn_status catalog_check_opts(const char *name, const mn_collection_opts *o, mn_error *err)
{
    mn_status st = check_name("collection", name, err);
    if (st)
        return st;
    if (!mn_dtype_name(o->dtype))
        return mn_fail(err, MN_INVALID, "collection '%s': %d is no dtype", name, (int)o->dtype);
    if (!mn_metric_name(o->metric))
        return mn_fail(err, MN_INVALID, "collection '%s': %d is no metric", name, (int)o->metric);
    if (o->id_kind != MN_ID_INTEGER && o->id_kind != MN_ID_TEXT)
        return mn_fail(err, MN_INVALID, "collection '%s': %d is no kind of id", name,
                       (int)o->id_kind);
    if (o->dim < 1 || o->dim > MN_MAX_DIM)
        return mn_fail(err, MN_INVALID, "collection '%s': dimension %u; it must be 1 to %u", name,
                       o->dim, MN_MAX_DIM);
    if (o->dtype == MN_BIT && o->dim % 8)
        return mn_fail(err, MN_INVALID,
                       "collection '%s': dimension %u; bit vectors need a multiple of 8", name,
                       o->dim);
    if ((o->dtype == MN_BIT) != (o->metric == MN_HAMMING))
        return mn_fail(err, MN_INVALID,
                       "collection '%s': metric %s with dtype %s; hamming goes with bit and with "
                       "nothing else",
                       name, mn_metric_name(o->metric), mn_dtype_name(o->dtype));
    if ((size_t)o->rerank >= RERANKS)
        return mn_fail(err, MN_INVALID, "collection '%s': %d is no rerank", name, (int)o->rerank);
    if (o->bits > MAX_BITS)
        return mn_fail(err, MN_INVALID, "collection '%s': codes of %u bits; it must be 1 to %d",
                       name, o->bits, MAX_BITS);
    if (!(o->recall == 0 || (o->recall >= 0.5 && o->recall <= 1)))
        return mn_fail(err, MN_INVALID, "collection '%s': recall %g; it must be 0.5 to 1", name,
                       o->recall);
    if (o->n_attributes > MN_MAX_ATTRIBUTES)
        return mn_fail(err, MN_INVALID, "collection '%s': %zu attributes; at most %u are allowed",
                       name, o->n_attributes, MN_MAX_ATTRIBUTES);
    if (o->n_attributes && !o->attributes)
        return mn_fail(err, MN_INVALID, "collection '%s': %zu attributes at NULL", name,
                       o->n_attributes);
    if (o->beside && (o->n_attributes || o->id_kind != MN_ID_INTEGER))
        return mn_fail(err, MN_INVALID,
                       "collection '%s' beside '%s': ids and attributes are those of '%s' and may "
                       "not be given",
                       name, o->beside, o->beside);
    if (o->table)
        st = check_over(name, o, err);
    else if (o->column)
        st = mn_fail(err, MN_INVALID,
                     "collection '%s': a column, '%.60s', goes with a table that is there: name "
                     "that too",
                     name, o->column);
    for (size_t i = 0; i < o->n_attributes && st == MN_OK; i++) {
        st = o->table ? check_length("attribute", o->attributes[i], err)
                      : check_attribute_name(o->attributes[i], err);
        for (size_t j = 0; j < i && st == MN_OK; j++)
            if (sqlite3_stricmp(o->attributes[i], o->attributes[j]) == 0)
                st = mn_fail(err, MN_INVALID, "collection '%s': attribute '%s' stands twice", name,
                             o->attributes[i]);
    }
    return st;
}

/* MN_EXISTS if a collection has the name or, where a table is to be made, a table or index. */
static mn_status check_free(sqlite3 *db, const char *name, bool table, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    mn_status status = sql_prepare(db,
                                   "SELECT 'collection' FROM mneme_collections WHERE name = ?1 "
                                   "UNION ALL SELECT type FROM sqlite_master WHERE name = ?1 "
                                   "COLLATE NOCASE AND type <> 'trigger' AND ?2",
                                   &st, err);
    if (status == MN_OK) {
        sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
        sqlite3_bind_int(st, 2, table);
        status = sql_step(st, &row, err);
    }
    if (status == MN_OK && row)
        status = mn_fail(
            err, MN_EXISTS, "%s: there is a %s called '%s' already; choose another name",
            sqlite3_db_filename(db, "main"), (const char *)sqlite3_column_text(st, 0), name);
    sqlite3_finalize(st);
    return status;
}

/* Appends `"column" BLOB CHECK (...)`. */
static void append_vector_column(sqlite3_str *sql, const char *column, const mn_collection_opts *o)
{
    sqlite3_str_appendf(sql,
                        "\"%w\" BLOB CHECK (\"%w\" IS NULL OR (typeof(\"%w\") = 'blob' AND "
                        "length(\"%w\") = %lld))",
                        column, column, column, column,
                        (long long)mn_vector_bytes(o->dtype, o->dim));
}

static mn_status create_table(sqlite3 *db, const char *name, const mn_collection_opts *o,
                              int64_t *number, mn_error *err)
{
    sqlite3_str *sql = sqlite3_str_new(db);
    sqlite3_str_appendf(sql, "CREATE TABLE \"%w\"(id INTEGER PRIMARY KEY, %sversion INTEGER, ",
                        name, o->id_kind == MN_ID_TEXT ? "text_id TEXT NOT NULL UNIQUE, " : "");
    for (size_t i = 0; i < o->n_attributes; i++)
        sqlite3_str_appendf(sql, "\"%w\", ", o->attributes[i]);
    sqlite3_str_appendall(sql, "payload TEXT, ");
    append_vector_column(sql, "vector", o);
    sqlite3_str_appendall(sql, ")");
    int rc = sqlite3_str_errcode(sql);
    char *text = sqlite3_str_finish(sql);
    mn_status st = rc == SQLITE_OK ? sql_exec(db, text, err) : sql_fail(NULL, rc, err, "catalog");
    sqlite3_free(text);
    if (st == MN_OK)
        st = sql_execf(db, err, "INSERT INTO mneme_tables(name, id_kind) VALUES (%Q, %Q)", name,
                       o->id_kind == MN_ID_TEXT ? "text" : "integer");
    *number = sqlite3_last_insert_rowid(db);
    struct changelog_table log = {.number = *number, .name = name, .key = "id"};
    /* A log that was just started has one entry: every table's log has a head. */
    return st ? st : changelog_restart(db, &log, err);
}

/* The triggers again, for other columns than before; or the log from its beginning. */
static mn_status make_log(sqlite3 *db, const struct catalog_entry *e, bool restart, mn_error *err)
{
    struct catalog_log log;
    mn_status st = catalog_log_of(db, e, &log, err);
    if (st == MN_OK)
        st = restart ? changelog_restart(db, &log.table, err)
                     : changelog_create(db, &log.table, err);
    sqlite3_free(log.watched);
    return st;
}

static mn_status add_vector_column(sqlite3 *db, const struct catalog_entry *beside,
                                   const char *column, const mn_collection_opts *o, mn_error *err)
{
    sqlite3_str *sql = sqlite3_str_new(db);
    sqlite3_str_appendf(sql, "ALTER TABLE \"%w\" ADD COLUMN ", beside->table);
    append_vector_column(sql, column, o);
    int rc = sqlite3_str_errcode(sql);
    char *text = sqlite3_str_finish(sql);
    mn_status st = rc == SQLITE_OK ? sql_exec(db, text, err) : sql_fail(NULL, rc, err, "catalog");
    sqlite3_free(text);
    /* The update trigger lists its columns: it must learn of the new one. Nobody's rows changed. */
    return st ? st : make_log(db, beside, false, err);
}

static mn_status column_is_free(sqlite3 *db, const char *table, const char *column, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t n = 0;
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT count(*) FROM pragma_table_info(%Q, 'main') WHERE name = %Q COLLATE NOCASE", table,
        column);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &n, err);
    sqlite3_finalize(st);
    if (status == MN_OK && n)
        status = mn_fail(err, MN_EXISTS, "table '%s' has a column '%s' already", table, column);
    return status;
}

static mn_status insert_collection(sqlite3 *db, const char *name, const mn_collection_opts *o,
                                   int64_t table, const char *column, mn_error *err)
{
    return sql_execf(db, err,
                     "INSERT INTO mneme_collections(name, table_number, vector_column, dtype, dim,"
                     " metric, rerank, bits, recall)"
                     " VALUES (%Q, %lld, %Q, %Q, %u, %Q, %Q, %u, %.17g)",
                     name, (long long)table, column, mn_dtype_name(o->dtype), o->dim,
                     mn_metric_name(o->metric), rerank_names[o->rerank], o->bits, o->recall);
}

/* Over a table that is there, for the first time or beside other collections over it. */
static mn_status create_over(sqlite3 *db, const char *name, const mn_collection_opts *o,
                             mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t table = 0;
    struct catalog_entry e;
    mn_status status = over_check(db, name, o, err);
    if (status == MN_OK)
        status = over_init(db, err);
    if (status == MN_OK)
        status =
            sql_preparef(db, &st, err, "SELECT number FROM mneme_tables WHERE name = %Q", o->table);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &table, err);
    sqlite3_finalize(st);
    bool first = table == 0;
    if (status == MN_OK && first) {
        status = sql_execf(db, err,
                           "INSERT INTO mneme_tables(name, id_kind) SELECT name, 'key' FROM "
                           "sqlite_master WHERE type = 'table' AND name = %Q COLLATE NOCASE",
                           o->table);
        table = sqlite3_last_insert_rowid(db);
    }
    if (status == MN_OK)
        status = insert_collection(db, name, o, table, o->column, err);
    int64_t number = sqlite3_last_insert_rowid(db);
    for (size_t i = 0; i < o->n_attributes && status == MN_OK; i++)
        status = sql_execf(db, err, "INSERT INTO mneme_attributes VALUES (%lld, %d, %Q)",
                           (long long)number, (int)i + 1, o->attributes[i]);
    if (status == MN_OK)
        status = catalog_find(db, name, &e, err);
    return status ? status : make_log(db, &e, first, err);
}

mn_status catalog_create(sqlite3 *db, const char *name, const mn_collection_opts *o, mn_error *err)
{
    struct catalog_entry beside = {0};
    int64_t table = 0;
    mn_status st = catalog_check_opts(name, o, err);
    if (st == MN_OK)
        st = check_free(db, name, !o->table, err);
    if (st == MN_OK && o->table) {
        st = create_over(db, name, o, err);
        return st ? st : catalog_schema_keep(db, err);
    }
    if (st == MN_OK && o->beside)
        st = catalog_find(db, o->beside, &beside, err);
    if (st == MN_OK && o->beside && beside.foreign)
        st = mn_fail(err, MN_INVALID,
                     "collection '%s' beside '%s': table '%s' is not Mneme's to change; give it a "
                     "further column, then name table and column instead",
                     name, o->beside, beside.table);
    if (st == MN_OK && o->beside && is_own_column(name))
        st = mn_fail(err, MN_INVALID, "a collection beside another may not be called '%s'", name);
    if (st == MN_OK && o->beside)
        st = column_is_free(db, beside.table, name, err);
    if (st)
        return st;
    if (o->beside) {
        table = beside.table_number;
        st = add_vector_column(db, &beside, name, o, err);
    } else {
        st = create_table(db, name, o, &table, err);
    }
    if (st == MN_OK)
        st = insert_collection(db, name, o, table, o->beside ? name : "vector", err);
    return st ? st : catalog_schema_keep(db, err);
}

static mn_status drop_column(sqlite3 *db, const struct catalog_entry *e, mn_error *err)
{
    /* The triggers name the column, so they go first and come back without it. */
    mn_status status = sql_execf(db, err, "DROP TRIGGER IF EXISTS \"mneme_%lld_update\"",
                                 (long long)e->table_number);
    if (status == MN_OK)
        status = sql_execf(db, err, "DROP TRIGGER IF EXISTS \"mneme_%lld_replace_update\"",
                           (long long)e->table_number);
    if (status == MN_OK)
        status = sql_execf(db, err, "ALTER TABLE \"%w\" DROP COLUMN \"%w\"", e->table, e->column);
    return status ? status : make_log(db, e, false, err);
}

static mn_status drop_table(sqlite3 *db, const struct catalog_entry *e, bool fits, mn_error *err)
{
    mn_status status = changelog_drop(db, e->table_number, err);
    if (status == MN_OK && fits && !e->foreign)
        status = sql_execf(db, err, "DROP TABLE \"%w\"", e->table);
    return status ? status
                  : sql_execf(db, err, "DELETE FROM mneme_tables WHERE number = %lld",
                              (long long)e->table_number);
}

mn_status catalog_drop(sqlite3 *db, const struct catalog_entry *e, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t others = 0;
    bool fits = false;
    char missing[MN_MAX_NAME + 1];
    mn_status status = catalog_table_fits(db, e, &fits, missing, err);
    if (status == MN_OK)
        status = sql_execf(db, err, "DELETE FROM mneme_collections WHERE number = %lld",
                           (long long)e->number);
    if (status == MN_OK && e->foreign)
        status = sql_execf(db, err, "DELETE FROM mneme_attributes WHERE collection = %lld",
                           (long long)e->number);
    if (status == MN_OK && e->number <= UINT32_MAX)
        status = extents_drop_collection(db, (uint32_t)e->number, err);
    if (status == MN_OK)
        status = sql_preparef(db, &st, err,
                              "SELECT count(*) FROM mneme_collections WHERE table_number = %lld",
                              (long long)e->table_number);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &others, err);
    sqlite3_finalize(st);
    if (status == MN_OK && !others)
        status = drop_table(db, e, fits, err);
    else if (status == MN_OK && e->foreign && *e->id_column)
        status = make_log(db, e, false, err);
    else if (status == MN_OK && fits && !e->foreign)
        status = drop_column(db, e, err);
    return status ? status : catalog_schema_keep(db, err);
}

mn_status catalog_rename(sqlite3 *db, struct catalog_entry *e, const char *to, mn_error *err)
{
    mn_status st = check_name("collection", to, err);
    if (st == MN_OK)
        st = check_free(db, to, false, err);
    return st ? st
              : sql_execf(db, err, "UPDATE mneme_collections SET name = %Q WHERE number = %lld", to,
                          (long long)e->number);
}

mn_status catalog_rename_table(sqlite3 *db, struct catalog_entry *e, const char *to, mn_error *err)
{
    mn_status st = sql_execf(db, err, "ALTER TABLE main.\"%w\" RENAME TO \"%w\"", e->table, to);
    if (st == MN_OK)
        st = sql_execf(db, err, "UPDATE mneme_tables SET name = %Q WHERE number = %lld", to,
                       (long long)e->table_number);
    if (st)
        return st;
    snprintf(e->table, sizeof e->table, "%s", to);
    /* Inside the renaming of a virtual table SQLite leaves the old name in the triggers' bodies. */
    st = make_log(db, e, false, err);
    return st ? st : catalog_schema_keep(db, err);
}

mn_status catalog_add_attribute(sqlite3 *db, const struct catalog_entry *e, const char *attribute,
                                mn_error *err)
{
    char *names = NULL;
    size_t n = 0;
    mn_status st = e->foreign ? check_length("attribute", attribute, err)
                              : check_attribute_name(attribute, err);
    if (st == MN_OK)
        st = e->foreign ? over_check_attribute(db, e, attribute, err)
                        : column_is_free(db, e->table, attribute, err);
    if (st == MN_OK)
        st = catalog_attributes(db, e, &names, &n, err);
    sqlite3_free(names);
    if (st == MN_OK && n >= MN_MAX_ATTRIBUTES)
        st = mn_fail(err, MN_FULL, "collection '%s' has %zu attributes; at most %u are allowed",
                     e->name, n, MN_MAX_ATTRIBUTES);
    if (st == MN_OK && e->foreign)
        st = sql_execf(db, err, "INSERT INTO mneme_attributes VALUES (%lld, %d, %Q)",
                       (long long)e->number, (int)n + 1, attribute);
    else if (st == MN_OK)
        st = sql_execf(db, err, "ALTER TABLE \"%w\" ADD COLUMN \"%w\"", e->table, attribute);
    /* A column that was there has values, which nobody has logged. */
    if (st == MN_OK)
        st = make_log(db, e, e->foreign, err);
    return st ? st : catalog_schema_keep(db, err);
}

/* ---- The schema's version -------------------------------------------------------------------- */

mn_status catalog_schema(sqlite3 *db, int64_t *now, int64_t *ours, mn_error *err)
{
    mn_status st = sql_int(db, "PRAGMA schema_version", 0, now, err);
    return st ? st
              : sql_int(db, "SELECT value FROM mneme_meta WHERE key = 'schema'", -1, ours, err);
}

/* Where a table (named by its trigger, as it may have been renamed), its log, and what is on them
 * stand in the schema: a table that was dropped and made anew, with its triggers copied word by
 * word, stands elsewhere; and what was there may have written past the log (changelog_watchable),
 * all but an index that is not unique. VACUUM moves them too, which costs a restart of the logs. */
#define LOG_TABLE                                                                                  \
    "(SELECT tbl_name FROM sqlite_master WHERE type = 'trigger' AND name = 'mneme_' || t.number "  \
    "|| '_insert')"
#define LOG_PLACE                                                                                  \
    "SELECT group_concat(rowid || '/' || rootpage, ' ') FROM (SELECT rowid, rootpage FROM "        \
    "sqlite_master WHERE tbl_name IN (" LOG_TABLE ", 'mneme_log_' || t.number) AND (type <> "      \
    "'index' OR name NOT IN (SELECT name FROM pragma_index_list(" LOG_TABLE ") WHERE NOT "         \
    "\"unique\")) ORDER BY rowid)"

/* Not Mneme's: one of its own that is gone is no step to be explained. */
#define COUNT_TABLES                                                                               \
    "(SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view') AND sql IS NOT NULL AND " \
    "lower(substr(name, 1, 6)) <> 'mneme_'"
#define COUNT_VIRTUAL "(SELECT count(*) FROM sqlite_master WHERE type = 'table' AND rootpage = 0"

mn_status catalog_schema_keep_as(sqlite3 *db, int64_t version, mn_error *err)
{
    return sql_execf(db, err,
                     "REPLACE INTO main.mneme_meta VALUES ('schema', %lld), ('schema_rowid', "
                     "(SELECT max(rowid) FROM sqlite_master)), ('schema_tables', " COUNT_TABLES
                     ")), ('schema_virtual', " COUNT_VIRTUAL "));"
                     "DELETE FROM mneme_meta WHERE key GLOB 'log:*';"
                     "INSERT INTO mneme_meta SELECT 'log:' || t.number, (" LOG_PLACE
                     ") FROM mneme_tables t",
                     (long long)version);
}

mn_status catalog_schema_keep(sqlite3 *db, mn_error *err)
{
    int64_t now = 0;
    mn_status st = sql_int(db, "PRAGMA schema_version", 0, &now, err);
    return st ? st : catalog_schema_keep_as(db, now, err);
}

/*
 * Each statement that changes the schema counts its version up by one. What it created stands in
 * the schema above all that was there; a table or view that was there and is gone took a step (with
 * its indexes and triggers; a virtual table with other tables too: SQLite counts each, and then
 * sets the number that it had in mind). Steps beyond those are of another kind or left no trace: an
 * ALTER, an index dropped; or a unique index that came, let REPLACE remove rows past the log, and
 * went. One such step alone cannot both come and go: what it did to our tables can be seen on them.
 *
 * *few: there is one at most.
 */
static mn_status few_steps_unknown(sqlite3 *db, bool *few, mn_error *err)
{
    int64_t unknown = -1;
    mn_status st = sql_int(
        db,
        "SELECT now - schema - created - iif(virtual, virtual, tables) FROM (SELECT (SELECT "
        "schema_version FROM pragma_schema_version) AS now, m.schema, (SELECT count(*) FROM "
        "sqlite_master WHERE rowid > m.last AND sql IS NOT NULL) AS created, m.tables "
        "- " COUNT_TABLES " AND rowid <= m.last) AS tables, m.virtual - " COUNT_VIRTUAL
        " AND rowid <= m.last) AS virtual FROM (SELECT max(value) FILTER (WHERE key = 'schema') AS "
        "schema, max(value) FILTER (WHERE key = 'schema_rowid') AS last, max(value) FILTER (WHERE "
        "key = 'schema_tables') AS tables, max(value) FILTER (WHERE key = 'schema_virtual') AS "
        "virtual FROM mneme_meta) m)",
        -1, &unknown, err);
    *few = unknown == 0 || unknown == 1;
    return st;
}

/* Whether table and triggers are those that our last own change left: then nothing was written past
 * the log, if few_steps_unknown. */
static mn_status log_is_whole(sqlite3 *db, const struct catalog_entry *e, bool *whole,
                              mn_error *err)
{
    sqlite3_stmt *st = NULL;
    struct catalog_log log;
    int64_t same = 0;
    *whole = false;
    mn_status status =
        sql_preparef(db, &st, err,
                     "SELECT (SELECT value FROM mneme_meta WHERE key = 'log:' || t.number) = "
                     "(" LOG_PLACE ") FROM mneme_tables t WHERE t.number = %lld",
                     (long long)e->table_number);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &same, err);
    sqlite3_finalize(st);
    if (status || !same)
        return status;
    status = catalog_log_of(db, e, &log, err);
    if (status == MN_OK)
        status = changelog_check(db, &log.table, whole, err);
    sqlite3_free(log.watched);
    return status;
}

/* One collection over each table in turn, none of whose statements is open meanwhile; `after`
 * starts at 0. */
static mn_status next_table(sqlite3 *db, int64_t *after, struct catalog_entry *e, bool *there,
                            mn_error *err)
{
    sqlite3_stmt *st = NULL;
    mn_status status = sql_preparef(db, &st, err,
                                    SELECT_ENTRIES " WHERE t.number > %lld ORDER BY t.number "
                                                   "LIMIT 1",
                                    (long long)*after);
    *there = false;
    if (status == MN_OK)
        status = sql_step(st, there, err);
    if (status == MN_OK && *there)
        status = read_entry(st, e, err);
    sqlite3_finalize(st);
    if (status == MN_OK && *there)
        *after = e->table_number;
    return status;
}

static mn_status table_is_there(sqlite3 *db, const struct catalog_entry *e, bool *there,
                                mn_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t n = *e->id_column != '\0';
    mn_status status = MN_OK;
    if (!e->foreign) {
        status = sql_preparef(db, &st, err,
                              "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = "
                              "%Q COLLATE NOCASE",
                              e->table);
        if (status == MN_OK)
            status = sql_stmt_int(st, 0, &n, err);
        sqlite3_finalize(st);
    }
    *there = status == MN_OK && n;
    return status;
}

mn_status catalog_logs_whole(sqlite3 *db, bool *whole, mn_error *err)
{
    int64_t after = 0;
    struct catalog_entry e;
    bool more = true;
    mn_status st = few_steps_unknown(db, whole, err);
    while (st == MN_OK && *whole && (st = next_table(db, &after, &e, &more, err)) == MN_OK &&
           more) {
        st = table_is_there(db, &e, whole, err);
        if (st == MN_OK && *whole)
            st = log_is_whole(db, &e, whole, err);
    }
    *whole = *whole && st == MN_OK;
    return st;
}

mn_status catalog_reconcile(sqlite3 *db, mn_error *err)
{
    int64_t after = 0;
    struct catalog_entry e;
    bool few = false, more = true;
    mn_status st = few_steps_unknown(db, &few, err);
    while (st == MN_OK && (st = next_table(db, &after, &e, &more, err)) == MN_OK && more) {
        bool there = false, whole = false;
        st = table_is_there(db, &e, &there, err);
        if (st == MN_OK && there && few)
            st = log_is_whole(db, &e, &whole, err);
        if (st == MN_OK && there && e.foreign)
            st = over_keep_names(db, &e, err);
        if (st == MN_OK && there && !whole)
            st = make_log(db, &e, true, err);
    }
    return st ? st : catalog_schema_keep(db, err);
}
