/* Collections over tables that were there before: what mn_create asks of a table, what a stock
 * client may do to it afterwards, and that every answer is brute force's over the rows as they are.
 */
#include <limits.h>
#include <sqlite3.h>

#include "src/engine/fold.h"
#include "tests/engine/indexed.h"

struct over {
    char path[PATH_MAX];
    mn_db *db;
    mn_conn *conn;
    sqlite3 *plain; /* the stock client: knows nothing of Mneme */
    mn_error err;
};

static void sql(struct over *o, const char *text)
{
    char *message = NULL;
    int rc = sqlite3_exec(o->plain, text, NULL, NULL, &message);
    CHECKF(rc == SQLITE_OK, "%s: %s", text, message);
}

static int64_t number(struct over *o, const char *text)
{
    sqlite3_stmt *st;
    CHECKF(sqlite3_prepare_v2(o->plain, text, -1, &st, NULL) == SQLITE_OK, "%s: %s", text,
           sqlite3_errmsg(o->plain));
    int64_t value = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : INT64_MIN;
    sqlite3_finalize(st);
    return value;
}

static void reopen(struct over *o)
{
    const struct db_stage stage = {.limits = INDEXED_LIMITS};
    const mn_open_opts opts = {.durability = MN_RELAXED};
    mn_disconnect(o->conn);
    CHECK_OK(mn_close(o->db, &o->err), o->err);
    CHECK_OK(db_open_on(o->path, &opts, &stage, &o->db, &o->err), o->err);
    CHECK_OK(mn_connect(o->db, &o->conn, &o->err), o->err);
}

/* A database made by the stock client with `text`, in rollback-journal mode. */
static void begin(struct over *o, const char *text)
{
    memset(o, 0, sizeof *o);
    snprintf(o->path, sizeof o->path, "%s/app.db", test_dir());
    CHECK(sqlite3_open(o->path, &o->plain) == SQLITE_OK);
    sqlite3_busy_timeout(o->plain, 5000);
    sql(o, text);
    reopen(o);
}

static void end(struct over *o)
{
    mn_disconnect(o->conn);
    CHECK_OK(mn_close(o->db, &o->err), o->err);
    CHECK(sqlite3_close(o->plain) == SQLITE_OK);
}

static const char docs[] =
    "CREATE TABLE docs(key INTEGER PRIMARY KEY, url TEXT UNIQUE, lang TEXT, year, emb BLOB, emb2);"
    "INSERT INTO docs VALUES (1, 'a', 'en', 1990, x'0000803f00000000', NULL),"
    " (2, 'b', 'de', 2000, x'0000000000000040', NULL), (7, 'c', NULL, NULL, NULL, NULL)";

static const char *const lang_year[] = {"lang", "year"};

static mn_status create(struct over *o, const char *name, const char *table, const char *column)
{
    const mn_collection_opts opts = {
        .dim = 2, .table = table, .column = column, .attributes = lang_year, .n_attributes = 2};
    mn_error_clear(&o->err);
    return mn_create(o->conn, name, &opts, &o->err);
}

/* Ids of the two-dimensional vectors nearest to (x, y), as text: "1 2". */
static const char *nearest(struct over *o, const char *name, float x, float y)
{
    static char text[200];
    mn_hit hits[10];
    uint32_t found;
    CHECK_OK(mn_search(o->conn, name, (float[]){x, y}, 1, 10, NULL, hits, &found, &o->err), o->err);
    *text = '\0';
    for (uint32_t i = 0; i < found; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%lld", i ? " " : "",
                 (long long)hits[i].id);
    return text;
}

TEST(a_table_that_is_there_becomes_a_collection)
{
    struct over o;
    mn_collection_info info;
    mn_rows *rows;
    begin(&o, docs);
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    CHECK_STR(nearest(&o, "docs", 1, 0), "1 2");
    CHECK_STR(nearest(&o, "docs", 0, 2), "2 1");
    CHECK_OK(mn_info(o.conn, "docs", &info, &o.err), o.err);
    CHECK_STR(info.table, "docs");
    CHECK_STR(info.column, "emb");
    CHECK_STR(info.id_column, "key");
    CHECK_STR(info.attributes, "lang,year");
    CHECK(info.foreign && info.id_kind == MN_ID_INTEGER);
    CHECK_OK(mn_get(o.conn, "docs", (mn_id[]){{.id = 2}, {.id = 3}, {.id = 7}}, 3, &rows, &o.err),
             o.err);
    const mn_row *two = mn_rows_at(rows, 0), *seven = mn_rows_at(rows, 2);
    CHECK(two && two->id == 2 && two->version == 0 && !two->payload && !two->text_id);
    CHECK(((const float *)two->vector)[1] == 2);
    CHECK_EQ(mn_row_attr(two, "year")->integer, 2000);
    CHECK(!mn_rows_at(rows, 1));
    CHECK(seven && !seven->vector && mn_row_attr(seven, "lang")->type == MN_NULL);
    mn_rows_free(rows);
    CHECK_STR(indexed_verify(o.conn) ? indexed_verify(o.conn) : "good", "good");
    sqlite3_stmt *st;
    CHECK_EQ(number(&o, "SELECT count(*) FROM docs"), 3);
    CHECK(sqlite3_prepare_v2(o.plain, "PRAGMA journal_mode", -1, &st, NULL) == SQLITE_OK);
    CHECK(sqlite3_step(st) == SQLITE_ROW);
    CHECK_STR((const char *)sqlite3_column_text(st, 0), "wal"); /* it was a rollback journal */
    sqlite3_finalize(st);
    end(&o);
}

TEST(a_stock_client_writes_and_the_next_search_knows)
{
    struct over o;
    begin(&o, docs);
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    CHECK_STR(nearest(&o, "docs", 1, 0), "1 2");
    sql(&o, "INSERT INTO docs(key, emb) VALUES (9, x'0000803f00000000')");
    CHECK_STR(nearest(&o, "docs", 1, 0), "1 9 2");
    sql(&o, "UPDATE docs SET key = 5 WHERE key = 1");
    CHECK_STR(nearest(&o, "docs", 1, 0), "5 9 2");
    sql(&o, "REPLACE INTO docs(key, url, emb) VALUES (6, 'b', x'0000803f00000000')");
    CHECK_STR(nearest(&o, "docs", 1, 0), "5 6 9");                 /* 2 had the url */
    sql(&o, "UPDATE OR REPLACE docs SET url = 'b' WHERE key = 7"); /* the vector is not touched */
    CHECK_STR(nearest(&o, "docs", 1, 0), "5 9");
    sql(&o, "DELETE FROM docs WHERE key = 5; UPDATE docs SET emb = NULL WHERE key = 9");
    CHECK_STR(nearest(&o, "docs", 1, 0), "");
    end(&o);
}

TEST(dropping_leaves_the_table_as_it_was)
{
    struct over o;
    begin(&o, docs);
    int64_t before = number(&o, "SELECT count(*) FROM sqlite_master");
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    CHECK_OK(create(&o, "second", "docs", "emb2"), o.err);
    CHECK_EQ(number(&o, "SELECT count(*) FROM mneme_tables"), 1);
    sql(&o, "UPDATE docs SET emb2 = x'0000803f00000000' WHERE key = 7");
    CHECK_STR(nearest(&o, "second", 0, 0), "7");
    CHECK_OK(mn_drop(o.conn, "docs", &o.err), o.err);
    sql(&o, "UPDATE docs SET emb2 = emb WHERE key = 2");
    CHECK_STR(nearest(&o, "second", 0, 0), "7 2");
    CHECK_OK(mn_drop(o.conn, "second", &o.err), o.err);
    CHECK_EQ(number(&o, "SELECT count(*) FROM sqlite_master WHERE name NOT LIKE 'mneme_%' AND name "
                        "NOT LIKE 'sqlite_sequence' AND tbl_name NOT LIKE 'mneme_%'"),
             before);
    CHECK_EQ(number(&o, "SELECT count(*) FROM docs WHERE emb IS NOT NULL"), 2);
    CHECK_EQ(number(&o, "SELECT count(*) FROM mneme_tables"), 0);
    CHECK_EQ(number(&o, "SELECT count(*) FROM mneme_attributes"), 0);
    CHECK_EQ(number(&o, "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' OR name LIKE "
                        "'mneme_log%'"),
             0);
    end(&o);
}

TEST(what_cannot_be_indexed_is_refused_with_a_sentence)
{
    static const struct {
        const char *table, *column;
        mn_status status;
        const char *says;
    } cases[] = {
        {"nothing", "emb", MN_NOTFOUND, "there is no table 'nothing'"},
        {"docs", "nothing", MN_NOTFOUND, "table 'docs' has no column 'nothing'"},
        {"docs", "key", MN_INVALID, "is the key of table 'docs'"},
        {"docs", "lang", MN_INVALID, "column 'lang' holds the vectors and is no attribute"},
        {"docs", NULL, MN_INVALID, "the name of the vector column is empty"},
        {"v", "emb", MN_INVALID, "'v' is a view; only an ordinary table"},
        {"f", "body", MN_INVALID, "'f' is a virtual table; only an ordinary table"},
        {"f_content", "c0", MN_INVALID, "table 'f_content' is part of the virtual table 'f'"},
        {"bare", "emb", MN_INVALID, "VACUUM renumbers the rowids"},
        {"bare", "emb", MN_INVALID, "CREATE TABLE new(id INTEGER PRIMARY KEY"},
        {"texts", "emb", MN_INVALID, "has no INTEGER PRIMARY KEY"},
        {"descending", "emb", MN_INVALID, "has no INTEGER PRIMARY KEY"},
        {"pair", "emb", MN_INVALID, "has no INTEGER PRIMARY KEY"},
        {"without", "emb", MN_INVALID, "has no INTEGER PRIMARY KEY"},
        {"own", "vector", MN_INVALID, "holds the rows of collection 'own'; make it beside"},
        {"mneme_meta", "value", MN_INVALID, "is Mneme's or SQLite's own"},
        {"sqlite_sequence", "seq", MN_INVALID, "is Mneme's or SQLite's own"}};
    struct over o;
    begin(&o, docs);
    sql(&o, "CREATE VIEW v AS SELECT * FROM docs; CREATE VIRTUAL TABLE f USING fts5(body);"
            "CREATE TABLE bare(lang, year, emb); CREATE TABLE pair(a INTEGER, lang, year, emb, "
            "PRIMARY KEY(a, lang)); CREATE TABLE texts(k TEXT PRIMARY KEY, lang, year, emb);"
            "CREATE TABLE without(k INTEGER PRIMARY KEY, lang, year, emb) WITHOUT ROWID;"
            "CREATE TABLE descending(k INTEGER PRIMARY KEY DESC, lang, year, emb)");
    CHECK_OK(mn_create(o.conn, "own", &(mn_collection_opts){.dim = 2}, &o.err), o.err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mn_status st = create(&o, "c", cases[i].table, cases[i].column);
        CHECKF(st == cases[i].status, "%s: %s, %s", cases[i].table, mn_status_name(st),
               o.err.message);
        CHECK_HAS(o.err.message, cases[i].says);
    }
    mn_collection_opts opts = {.dim = 2, .table = "docs", .column = "emb", .beside = "own"};
    CHECK_EQ(mn_create(o.conn, "c", &opts, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message, "either beside 'own' or over table 'docs'");
    opts = (mn_collection_opts){.dim = 2, .table = "docs", .column = "emb", .id_kind = MN_ID_TEXT};
    CHECK_EQ(mn_create(o.conn, "c", &opts, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message, "INTEGER PRIMARY KEY; text ids");
    opts = (mn_collection_opts){.dim = 2, .column = "emb"};
    CHECK_EQ(mn_create(o.conn, "c", &opts, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message, "goes with a table that is there");
    CHECK_OK(create(&o, "c", "DOCS", "EMB"), o.err);
    opts = (mn_collection_opts){.dim = 2, .beside = "c"};
    CHECK_EQ(mn_create(o.conn, "d", &opts, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message, "not Mneme's to change");
    CHECK_EQ(create(&o, "c", "docs", "emb2"), MN_EXISTS);
    CHECK_OK(create(&o, "v", "docs", "emb2"), o.err); /* called like a view: no table is made */
    end(&o);
}

TEST_MAIN
