/* Collections over tables that were there before: what mn_create asks of a table, what a stock
 * client may do to it afterwards, and that every answer is brute force's over the rows as they are.
 */
#include <limits.h>
#include <sqlite3.h>
#include <unistd.h>

#include "mneme_sql.h"
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

TEST(rows_are_put_by_the_columns_that_the_collection_names)
{
    struct over o;
    int64_t ids[2], versions[2];
    begin(&o, "CREATE TABLE docs(key INTEGER PRIMARY KEY, url TEXT UNIQUE DEFAULT (hex(randomblob("
              "8))), lang TEXT NOT NULL, year CHECK (year < 3000), emb, made DEFAULT 'then', twice "
              "AS (year * 2))");
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    const mn_attr en[] = {{"lang", {.type = MN_TEXT, .data = "en", .len = 2}}};
    const mn_attr both[] = {{"YEAR", {.type = MN_INTEGER, .integer = 1999}},
                            {"lang", {.type = MN_TEXT, .data = "de", .len = 2}}};
    const mn_row rows[] = {
        {.id = MN_AUTO_ID, .vector = (float[]){1, 0}, .attrs = en, .n_attrs = 1},
        {.id = MN_AUTO_ID, .vector = (float[]){0, 3}, .attrs = both, .n_attrs = 2}};
    mn_put_opts opts = {.ids = ids, .versions = versions};
    CHECK_OK(mn_put(o.conn, "docs", rows, 2, &opts, &o.err), o.err);
    CHECK(ids[0] == 1 && ids[1] == 2 && versions[0] == 0 && versions[1] == 0);
    CHECK_STR(nearest(&o, "docs", 0, 2), "2 1");
    CHECK_EQ(number(&o, "SELECT count(*) FROM docs WHERE made = 'then' AND length(url) = 16"), 2);
    CHECK_EQ(number(&o, "SELECT twice FROM docs WHERE key = 2"), 3998);
    mn_row row = {.id = 2, .vector = (float[]){9, 9}, .attrs = en, .n_attrs = 1};
    sql(&o, "UPDATE docs SET made = 'kept', url = 'u' WHERE key = 2");
    CHECK_OK(mn_put(o.conn, "docs", &row, 1, NULL, &o.err), o.err);
    CHECK_EQ(number(&o, "SELECT count(*) FROM docs WHERE key = 2 AND made = 'kept' AND lang = 'en' "
                        "AND year IS NULL AND length(emb) = 8"),
             1);
    sql(&o, "UPDATE docs SET year = 1 WHERE key = 2");
    row.vector = NULL;
    opts = (mn_put_opts){.keep_rest = true};
    CHECK_OK(mn_put(o.conn, "docs", &row, 1, &opts, &o.err), o.err);
    CHECK_EQ(number(&o, "SELECT count(*) FROM docs WHERE key = 2 AND year = 1 AND length(emb) = 8"),
             1);
    opts = (mn_put_opts){.mode = MN_PUT_IF_ABSENT};
    CHECK_EQ(mn_put(o.conn, "docs", &row, 1, &opts, &o.err), MN_CONFLICT);
    CHECK_HAS(o.err.message, "has id 2");
    opts = (mn_put_opts){.mode = MN_PUT_IF_VERSION};
    CHECK_EQ(mn_put(o.conn, "docs", &row, 1, &opts, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message,
              "put: collection 'docs' is over table 'docs', whose rows have no version");
    CHECK_EQ(mn_delete_if_version(o.conn, "docs", &(mn_id){.id = 2}, 0, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message, "delete: collection 'docs' is over table 'docs'");
    row.payload = "text";
    row.payload_len = SIZE_MAX;
    CHECK_EQ(mn_put(o.conn, "docs", &row, 1, NULL, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message, "row 0 has a payload");
    row = (mn_row){.id = 5};
    CHECK_EQ(mn_put(o.conn, "docs", &row, 1, NULL, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message, "NOT NULL constraint failed: docs.lang");
    const mn_attr late[] = {{"year", {.type = MN_INTEGER, .integer = 4000}}, en[0]};
    row = (mn_row){.id = 5, .attrs = late, .n_attrs = 2};
    CHECK_EQ(mn_put(o.conn, "docs", &row, 1, NULL, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message, "CHECK constraint failed");
    CHECK_OK(mn_add_attribute(o.conn, "docs", "url", &o.err), o.err);
    const mn_attr taken[] = {{"url", {.type = MN_TEXT, .data = "u", .len = 1}}, en[0]};
    row = (mn_row){.id = 5, .attrs = taken, .n_attrs = 2};
    CHECK_EQ(mn_put(o.conn, "docs", &row, 1, NULL, &o.err), MN_CONFLICT);
    CHECK_HAS(o.err.message, "UNIQUE constraint failed: docs.url");
    CHECK_EQ(number(&o, "SELECT count(*) FROM docs"), 2);
    uint64_t deleted;
    CHECK_OK(mn_delete(o.conn, "docs", (mn_id[]){{.id = 1}, {.id = 77}}, 2, &deleted, &o.err),
             o.err);
    CHECK_EQ(deleted, 1);
    CHECK_STR(nearest(&o, "docs", 0, 2), "2");
    end(&o);
}

TEST(a_computed_column_changes_with_what_it_is_computed_from)
{
    struct over o;
    begin(&o, "CREATE TABLE docs(key INTEGER PRIMARY KEY, x, y, lang AS (x || 'l'), year AS (y) "
              "STORED, emb AS (json_array(x, y)));"
              "INSERT INTO docs(x, y) VALUES (1, 0), (5, 5)");
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    CHECK_STR(nearest(&o, "docs", 5, 5), "2 1");
    sql(&o, "UPDATE docs SET x = 5, y = 6 WHERE key = 1; UPDATE docs SET y = -9 WHERE key = 2");
    CHECK_STR(nearest(&o, "docs", 5, 5), "1 2");
    sql(&o, "INSERT INTO docs(x, y) VALUES (5, 5), (NULL, 5)");
    CHECK_STR(nearest(&o, "docs", 5, 5), "3 1 2");
    const mn_row row = {.id = 9, .vector = (float[]){1, 1}};
    CHECK_EQ(mn_put(o.conn, "docs", &row, 1, NULL, &o.err), MN_INVALID);
    CHECK_HAS(o.err.message, "column 'emb' of table 'docs', which is computed from others");
    end(&o);
}

TEST(ids_that_autoincrement_has_given_are_not_given_again)
{
    struct over o;
    int64_t id;
    begin(&o, "CREATE TABLE docs(key INTEGER PRIMARY KEY AUTOINCREMENT, lang, year, emb);"
              "INSERT INTO docs(lang) VALUES (1), (2), (3); DELETE FROM docs WHERE key > 1");
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    for (int i = 0; i < 2; i++) {
        mn_put_opts opts = {.ids = &id};
        CHECK_OK(mn_put(o.conn, "docs", &(mn_row){.id = MN_AUTO_ID}, 1, &opts, &o.err), o.err);
        CHECK_EQ(id, 4 + i);
    }
    sql(&o, "INSERT INTO docs(lang) VALUES (9)");
    CHECK_EQ(number(&o, "SELECT max(key) FROM docs"), 6);
    end(&o);
}

TEST(a_column_becomes_an_attribute_later)
{
    struct over o;
    mn_rows *rows;
    mn_collection_info info;
    begin(&o, docs);
    mn_collection_opts opts = {.dim = 2, .table = "docs", .column = "emb"};
    CHECK_OK(mn_create(o.conn, "docs", &opts, &o.err), o.err);
    CHECK_OK(mn_get(o.conn, "docs", &(mn_id){.id = 1}, 1, &rows, &o.err), o.err);
    CHECK(mn_rows_at(rows, 0)->n_attrs == 0 && !mn_row_attr(mn_rows_at(rows, 0), "lang"));
    mn_rows_free(rows);
    CHECK_OK(mn_add_attribute(o.conn, "docs", "YEAR", &o.err), o.err);
    CHECK_OK(mn_add_attribute(o.conn, "docs", "lang", &o.err), o.err);
    CHECK_OK(mn_info(o.conn, "docs", &info, &o.err), o.err);
    CHECK_STR(info.attributes, "year,lang");
    CHECK_OK(mn_get(o.conn, "docs", &(mn_id){.id = 1}, 1, &rows, &o.err), o.err);
    CHECK_EQ(mn_row_attr(mn_rows_at(rows, 0), "year")->integer, 1990);
    mn_rows_free(rows);
    CHECK_EQ(mn_add_attribute(o.conn, "docs", "Lang", &o.err), MN_EXISTS);
    CHECK_HAS(o.err.message, "has an attribute 'lang' already");
    CHECK_EQ(mn_add_attribute(o.conn, "docs", "nothing", &o.err), MN_NOTFOUND);
    CHECK_HAS(o.err.message, "table 'docs' has no column 'nothing'");
    CHECK_EQ(mn_add_attribute(o.conn, "docs", "emb", &o.err), MN_INVALID);
    CHECK_EQ(mn_add_attribute(o.conn, "docs", "key", &o.err), MN_INVALID);
    CHECK_EQ(mn_add_attribute(o.conn, "docs", "", &o.err), MN_INVALID);
    end(&o);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

TEST(blobs_and_json_stand_in_one_column)
{
    static const struct {
        const char *value; /* in SQL */
        bool vector;
    } values[] = {
        {"'[1, 0]'", true},
        {"' [ 1.0 ,\n0e0 ]\t'", true},
        {"'[1E0,-0]'", true},
        {"json_array(1, 0)", true},
        {"x'0000803f00000000'", true},
        {"CAST('[1,0]' AS BLOB)", false}, /* 5 bytes */
        {"'[1]'", false},
        {"'[1,0,0]'", false},
        {"'[1,0,]'", false},
        {"'[1,0'", false},
        {"'[1 0]'", false},
        {"'[1,0]x'", false},
        {"'[1,null]'", false},
        {"'[1,\"0\"]'", false},
        {"'[1,NaN]'", false},
        {"'[1,1e40]'", false},
        {"'[1,01]'", false},
        {"'[1,.5]'", false},
        {"'[1,+1]'", false},
        {"'[[1,0]]'", false},
        {"'{}'", false},
        {"''", false},
        {"17", false},
        {"1.5", false},
        {"zeroblob(8)", true},
        {"zeroblob(7)", false},
        {"x'0000c07f00000000'", false}, /* NaN */
    };
    struct over o;
    mn_hit hit;
    uint32_t found;
    begin(&o, docs);
    sql(&o, "DELETE FROM docs");
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char text[200];
        snprintf(text, sizeof text, "REPLACE INTO docs(key, emb) VALUES (1, %s)", values[i].value);
        sql(&o, text);
        mn_search_stats stats;
        for (int load = 0; load < 2; load++) { /* from the rows, and from memory */
            CHECK_OK(mn_search(o.conn, "docs", (float[]){1, 0}, 1, 1,
                               &(mn_search_opts){.stats = &stats}, &hit, &found, &o.err),
                     o.err);
            CHECKF(found == values[i].vector, "%s: found %u", values[i].value, found);
            CHECKF(found || stats.rows_invalid || strstr(values[i].value, "c07f"), "%s: invalid",
                   values[i].value);
        }
        mn_rows *rows;
        CHECK_OK(mn_get(o.conn, "docs", &(mn_id){.id = 1}, 1, &rows, &o.err), o.err);
        CHECK(mn_rows_at(rows, 0));
        const float *v = mn_rows_at(rows, 0)->vector;
        CHECKF(!found || (v && v[1] == 0 && (v[0] == 1 || values[i].value[0] == 'z')), "%s: get",
               values[i].value);
        mn_rows_free(rows);
        mn_iter *it;
        const mn_row *row;
        CHECK_OK(mn_iter_open(o.conn, "docs", INT64_MIN, &it, &o.err), o.err);
        CHECK_OK(mn_iter_next(it, &row, &o.err), o.err);
        CHECKF(row && (!found || row->vector), "%s: iterate", values[i].value);
        mn_iter_close(it);
        uint64_t findings;
        CHECK_OK(mn_verify(o.conn, NULL, NULL, &findings, &o.err), o.err);
        CHECKF(findings == !values[i].vector, "%s: %llu findings", values[i].value,
               (unsigned long long)findings);
    }
    end(&o);
}

TEST(json_is_rounded_to_the_dtype)
{
    static const struct {
        mn_dtype dtype;
        uint32_t dim;
        const char *json;
        const unsigned char bytes[4]; /* "" and bad: it cannot be rounded */
        bool bad;
    } cases[] = {{MN_I8, 2, "[1.4, -127.6]", {1, 0x80}, false},
                 {MN_I8, 2, "[1, 128]", {0}, true},
                 {MN_F16, 2, "[1, -2]", {0, 0x3c, 0, 0xc0}, false},
                 {MN_F16, 2, "[1, 65520]", {0}, true},
                 {MN_BF16, 2, "[1, -2]", {0x80, 0x3f, 0, 0xc0}, false},
                 {MN_BIT, 8, "[1,0,0,0,0,1,0,0]", {0x21}, false},
                 {MN_BIT, 8, "[1,0,0,0,0,1,0,2]", {0}, true}};
    struct over o;
    begin(&o, "");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        mn_rows *rows;
        snprintf(text, sizeof text,
                 "CREATE TABLE t%zu(id INTEGER PRIMARY KEY, v); INSERT INTO t%zu VALUES (1, '%s')",
                 i, i, cases[i].json);
        sql(&o, text);
        snprintf(text, sizeof text, "t%zu", i);
        mn_collection_opts opts = {.dim = cases[i].dim,
                                   .dtype = cases[i].dtype,
                                   .metric = cases[i].dtype == MN_BIT ? MN_HAMMING : MN_L2,
                                   .table = text,
                                   .column = "v"};
        CHECK_OK(mn_create(o.conn, text, &opts, &o.err), o.err);
        CHECK_OK(mn_get(o.conn, text, &(mn_id){.id = 1}, 1, &rows, &o.err), o.err);
        const void *v = mn_rows_at(rows, 0)->vector;
        CHECKF(!v == cases[i].bad, "%s", cases[i].json);
        CHECKF(!v || memcmp(v, cases[i].bytes, mn_vector_bytes(opts.dtype, opts.dim)) == 0, "%s",
               cases[i].json);
        mn_rows_free(rows);
    }
    end(&o);
}

/* ---- Rows of eight elements -------------------------------------------------------------------
 */

enum { DIM = 8, PARENTS = 12 };

/* The rows as a plain SELECT and SQLite's own JSON give them. */
static void load(struct brute *b, sqlite3 *db, const char *select)
{
    sqlite3_stmt *st, *each;
    b->n = 0;
    b->invalid = 0;
    CHECK(sqlite3_prepare_v2(db, select, -1, &st, NULL) == SQLITE_OK);
    CHECK(sqlite3_prepare_v2(db,
                             "SELECT value FROM json_each(?1) WHERE json_valid(?1) AND "
                             "json_type(?1) = 'array'",
                             -1, &each, NULL) == SQLITE_OK);
    while (sqlite3_step(st) == SQLITE_ROW) {
        int type = sqlite3_column_type(st, 1);
        float v[DIM];
        int n = 0;
        if (type == SQLITE_BLOB && sqlite3_column_bytes(st, 1) == sizeof v) {
            brute_add(b, sqlite3_column_int64(st, 0), sqlite3_column_blob(st, 1));
            continue;
        }
        if (type == SQLITE_TEXT) {
            sqlite3_bind_value(each, 1, sqlite3_column_value(st, 1));
            for (; sqlite3_step(each) == SQLITE_ROW; n++)
                if (n < DIM)
                    v[n] = (float)sqlite3_column_double(each, 0);
            sqlite3_reset(each);
        }
        if (n == DIM)
            brute_add(b, sqlite3_column_int64(st, 0), v);
        else if (type != SQLITE_NULL)
            b->invalid++;
    }
    sqlite3_finalize(each);
    sqlite3_finalize(st);
}

/* A value for the vector column, in SQL: mostly a vector. */
static const char *value(struct test_rng *r)
{
    static char text[300];
    float v[DIM];
    size_t n = 0;
    indexed_vector(MN_F32, DIM, 1, test_rand(r), v);
    switch (test_below(r, 12)) {
    case 0:
        return "NULL";
    case 1:
        return "'[1, 2, 3]'";
    case 2:
        return "x'0102'";
    case 3:
    case 4:
    case 5:
        n = (size_t)snprintf(text, sizeof text, "'[");
        for (int i = 0; i < DIM; i++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%.9g", i ? "," : "", (double)v[i]);
        snprintf(text + n, sizeof text - n, "]'");
        return text;
    default:
        n = (size_t)snprintf(text, sizeof text, "x'");
        for (size_t i = 0; i < sizeof v; i++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%02x", ((unsigned char *)v)[i]);
        snprintf(text + n, sizeof text - n, "'");
        return text;
    }
}

/* ---- Changes of the schema ------------------------------------------------------------------- */

TEST(renamed_tables_and_columns_are_followed)
{
    struct over o;
    mn_collection_info info;
    begin(&o, docs);
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    CHECK_OK(create(&o, "second", "docs", "emb2"), o.err);
    sql(&o, "UPDATE docs SET emb2 = '[5,5]' WHERE key = 7");
    for (int writes = 0; writes < 2; writes++) { /* seen by searches first; by a writer first */
        if (writes)
            sql(&o, "ALTER TABLE papers RENAME TO \"the \"\"docs\"\"\"; ALTER TABLE \"the "
                    "\"\"docs\"\"\" RENAME COLUMN emb2 TO emb; ALTER TABLE \"the \"\"docs\"\"\" "
                    "RENAME COLUMN e1 TO \"select \"\" x\"");
        else
            sql(&o, "ALTER TABLE docs RENAME TO papers; ALTER TABLE papers RENAME COLUMN emb TO e1;"
                    "ALTER TABLE papers RENAME COLUMN lang TO language; ALTER TABLE papers RENAME "
                    "COLUMN key TO id");
        if (writes)
            CHECK_OK(mn_delete(o.conn, "docs", &(mn_id){.id = 99}, 1, NULL, &o.err), o.err);
        CHECK_STR(nearest(&o, "docs", 1, 0), "1 2");
        CHECK_STR(nearest(&o, "second", 1, 0), "7");
        CHECK_OK(mn_info(o.conn, "docs", &info, &o.err), o.err);
        CHECK_STR(info.table, writes ? "the \"docs\"" : "papers");
        CHECK_STR(info.column, writes ? "select \" x" : "e1");
        CHECK_STR(info.attributes, "language,year");
        CHECK_STR(info.id_column, "id");
        CHECK_OK(mn_info(o.conn, "second", &info, &o.err), o.err);
        CHECK_STR(info.column, writes ? "emb" : "emb2");
        CHECK_STR(indexed_verify(o.conn) ? indexed_verify(o.conn) : "good", "good");
    }
    sql(&o, "UPDATE \"the \"\"docs\"\"\" SET id = 3 WHERE id = 1");
    CHECK_STR(nearest(&o, "docs", 1, 0), "3 2");
    CHECK_EQ(number(&o, "SELECT count(*) FROM mneme_collections WHERE vector_column = 'emb'"), 1);
    reopen(&o);
    CHECK_STR(nearest(&o, "docs", 1, 0), "3 2");
    CHECK_OK(mn_drop(o.conn, "second", &o.err), o.err);
    CHECK_OK(mn_drop(o.conn, "docs", &o.err), o.err);
    CHECK_EQ(number(&o, "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'"), 0);
    CHECK_EQ(number(&o, "SELECT count(*) FROM \"the \"\"docs\"\"\""), 3);
    end(&o);
}

TEST(names_that_change_places_are_told_apart)
{
    struct over o;
    begin(&o, docs);
    sql(&o, "UPDATE docs SET emb2 = '[5,5]' WHERE key = 7");
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    CHECK_OK(create(&o, "second", "docs", "emb2"), o.err);
    sql(&o, "ALTER TABLE docs RENAME COLUMN emb TO x; ALTER TABLE docs RENAME COLUMN emb2 TO emb;"
            "ALTER TABLE docs RENAME COLUMN x TO emb2");
    CHECK_STR(nearest(&o, "docs", 1, 0), "1 2");
    CHECK_STR(nearest(&o, "second", 1, 0), "7");
    CHECK_OK(mn_delete(o.conn, "docs", &(mn_id){.id = 99}, 1, NULL, &o.err), o.err);
    CHECK_STR(nearest(&o, "docs", 1, 0), "1 2");
    CHECK_STR(nearest(&o, "second", 1, 0), "7");
    sql(&o, "ALTER TABLE docs RENAME COLUMN emb TO x; ALTER TABLE docs RENAME COLUMN emb2 TO emb;");
    CHECK_OK(mn_delete(o.conn, "docs", &(mn_id){.id = 99}, 1, NULL, &o.err), o.err);
    CHECK_EQ(number(&o, "SELECT count(*) FROM mneme_collections WHERE (name, vector_column) IN "
                        "(VALUES ('docs', 'emb'), ('second', 'x'))"),
             2);
    end(&o);
}

TEST(a_table_made_anew_and_renamed_is_taken_up)
{
    static const char *const rebuilds[] = {
        "BEGIN; CREATE TABLE n(key INTEGER PRIMARY KEY, url TEXT, lang TEXT, year, emb BLOB, emb2);"
        "INSERT INTO n SELECT key + 10, url, lang, year, emb, emb2 FROM docs; DROP TABLE docs;"
        "ALTER TABLE n RENAME TO docs; COMMIT",
        "BEGIN; ALTER TABLE docs RENAME TO old; CREATE TABLE docs(key INTEGER PRIMARY KEY, url, "
        "lang, year, emb, emb2); INSERT INTO docs SELECT key + 10, url, lang, year, emb, emb2 FROM "
        "old; DROP TABLE old; COMMIT",
        "PRAGMA legacy_alter_table = ON; BEGIN; ALTER TABLE docs RENAME TO old; CREATE TABLE "
        "docs(key INTEGER PRIMARY KEY, url, lang, year, emb, emb2); INSERT INTO docs SELECT key + "
        "10, url, lang, year, emb, emb2 FROM old; DROP TABLE old; COMMIT"};
    for (size_t i = 0; i < 2 * sizeof rebuilds / sizeof *rebuilds; i++) {
        struct over o;
        char copy[PATH_MAX + 8];
        begin(&o, docs);
        CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
        CHECK_STR(nearest(&o, "docs", 1, 0), "1 2");
        sql(&o, rebuilds[i / 2]);
        if (i % 2)
            CHECK_OK(mn_delete(o.conn, "docs", &(mn_id){.id = 99}, 1, NULL, &o.err), o.err);
        CHECK_STR(nearest(&o, "docs", 1, 0), "11 12");
        sql(&o, "UPDATE docs SET emb = emb2 WHERE key = 11");
        CHECK_STR(nearest(&o, "docs", 1, 0), "12");
        CHECK_STR(indexed_verify(o.conn) ? indexed_verify(o.conn) : "good", "good");
        end(&o);
        unlink(o.path);
        for (int f = 0; f < 3; f++) {
            snprintf(copy, sizeof copy, "%s%s", o.path,
                     (const char *[]){"-wal", "-shm", "-mneme"}[f]);
            unlink(copy);
        }
    }
}

TEST(a_table_that_is_gone_is_an_error_until_it_fits_again)
{
    struct over o;
    mn_hit hits[2];
    uint32_t found;
    begin(&o, docs);
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    CHECK_OK(create(&o, "second", "docs", "emb2"), o.err);
    sql(&o, "DROP TABLE docs");
    CHECK_EQ(mn_search(o.conn, "docs", (float[]){1, 0}, 1, 2, NULL, hits, &found, &o.err),
             MN_CORRUPT);
    CHECK_HAS(o.err.message, "collection 'docs' is over table 'docs', which is gone");
    CHECK_HAS(o.err.message, "make it again, or drop the collection");
    mn_error_clear(&o.err);
    sql(&o, "CREATE TABLE docs(lang, year, emb)");
    CHECK_EQ(mn_put(o.conn, "docs", &(mn_row){.id = 1}, 1, NULL, &o.err), MN_CORRUPT);
    CHECK_HAS(o.err.message, "has no INTEGER PRIMARY KEY any more");
    mn_error_clear(&o.err);
    sql(&o, "DROP TABLE docs; CREATE TABLE docs(k INTEGER PRIMARY KEY, lang, emb2);"
            "INSERT INTO docs VALUES (5, 'en', '[1,1]')");
    CHECK_EQ(mn_put(o.conn, "docs", &(mn_row){.id = 1}, 1, NULL, &o.err), MN_CORRUPT);
    CHECK_HAS(o.err.message, "needs column 'emb' of table 'docs'");
    CHECK_HAS(o.err.message, "add it again");
    mn_error_clear(&o.err);
    sql(&o, "ALTER TABLE docs ADD COLUMN year");
    sql(&o, "INSERT INTO docs VALUES (6, 'en', '[1,2]', 2000)"); /* by triggers or without */
    CHECK_STR(nearest(&o, "second", 1, 1), "5 6");
    CHECK_OK(mn_delete(o.conn, "second", &(mn_id){.id = 6}, 1, NULL, &o.err), o.err);
    sql(&o, "UPDATE docs SET k = 8");
    CHECK_STR(nearest(&o, "second", 1, 1), "8");
    sql(&o, "ALTER TABLE docs ADD COLUMN emb");
    sql(&o, "UPDATE docs SET emb = '[0,0]'");
    CHECK_STR(nearest(&o, "docs", 1, 1), "8");
    sql(&o, "UPDATE docs SET emb = NULL");
    CHECK_STR(nearest(&o, "docs", 1, 1), "");
    sql(&o, "DROP TABLE docs");
    CHECK_OK(mn_drop(o.conn, "docs", &o.err), o.err);
    CHECK_OK(mn_drop(o.conn, "second", &o.err), o.err);
    CHECK_EQ(number(&o, "SELECT count(*) FROM sqlite_master WHERE name LIKE 'mneme_log%'"), 0);
    end(&o);
}

/* Rows 1 to 600 of a table, indexed. */
static void begin_indexed(struct over *o, struct brute *b)
{
    struct test_rng r = {7};
    char text[600];
    mn_collection_opts opts = {.dim = DIM, .table = "docs", .column = "emb"};
    begin(o, "CREATE TABLE docs(key INTEGER PRIMARY KEY, url, emb); CREATE TABLE other(x)");
    sql(o, "BEGIN");
    for (int i = 1; i <= 600; i++) {
        snprintf(text, sizeof text, "INSERT INTO docs VALUES (%d, %d, %s)", i, i, value(&r));
        sql(o, text);
    }
    sql(o, "COMMIT");
    CHECK_OK(mn_create(o->conn, "docs", &opts, &o->err), o->err);
    CHECK_OK(mn_fold(o->conn, "docs", &o->err), o->err);
    *b = (struct brute){.dtype = MN_F32, .metric = MN_L2, .dim = DIM};
}

/* Whether the index answers a search for the vectors nearest to row `id`; the answer is right. */
static bool by_index(struct over *o, struct brute *b, int64_t id)
{
    struct indexed_recall sum = {0};
    float query[DIM];
    load(b, o->plain, "SELECT key, emb FROM docs ORDER BY key");
    indexed_vector(MN_F32, DIM, 3, (uint64_t)id, query);
    struct indexed_query q = {.name = "docs", .vector = query, .k = 10};
    const char *wrong = indexed_check(o->conn, b, &q, &sum);
    CHECKF(!wrong, "%s", wrong);
    return sum.by_index;
}

TEST(other_tables_may_come_and_go_without_a_new_index)
{
    static const struct {
        const char *sql;
        bool keeps; /* the index */
    } cases[] = {
        {"CREATE TABLE a(x, y UNIQUE)", true},
        {"CREATE INDEX b ON other(x); CREATE VIEW v AS SELECT * FROM docs", true},
        {"DROP TABLE a; CREATE TABLE a2(k PRIMARY KEY, x REFERENCES docs)", true},
        {"CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES ('some words')", true},
        {"CREATE TRIGGER t AFTER INSERT ON other BEGIN DELETE FROM docs WHERE key = NEW.x; END",
         true},
        {"INSERT INTO other VALUES (17); CREATE TABLE c AS SELECT 1", true},
        {"DROP VIEW v; DROP TABLE c", true},
        {"DROP TABLE f", true},
        {"CREATE UNIQUE INDEX u ON docs(url); REPLACE INTO docs VALUES (9000, 5, NULL); DROP INDEX "
         "u",
         false},
        {"CREATE UNIQUE INDEX u2 ON docs(url); REPLACE INTO docs VALUES (9001, 6, NULL)", false},
        {"ALTER TABLE other RENAME TO others", true},
        {"ALTER TABLE docs ADD COLUMN more", true},
        {"ALTER TABLE docs ADD COLUMN x; ALTER TABLE docs DROP COLUMN x", false},
        {"DROP TRIGGER mneme_1_delete; DELETE FROM docs WHERE key = 50", false}};
    struct over o;
    struct brute b;
    begin_indexed(&o, &b);
    CHECK(by_index(&o, &b, 1));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sql(&o, cases[i].sql);
        bool keeps = by_index(&o, &b, (int64_t)i);
        CHECKF(keeps == cases[i].keeps, "%s: %d", cases[i].sql, keeps);
        sql(&o, "UPDATE docs SET emb = NULL WHERE key = 100; DELETE FROM docs WHERE key = 101");
        by_index(&o, &b, (int64_t)i + 100);
        if (!keeps)
            CHECK_OK(mn_fold(o.conn, "docs", &o.err), o.err);
        else
            CHECK_OK(mn_delete(o.conn, "docs", &(mn_id){.id = 99999}, 1, NULL, &o.err), o.err);
        CHECK(by_index(&o, &b, (int64_t)i + 200));
    }
    brute_free(&b);
    end(&o);
}

static int count_calls(void *ctx, int action, const char *a, const char *b, const char *c,
                       const char *d)
{
    (void)action;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    ++*(int *)ctx;
    return SQLITE_OK;
}

TEST(an_applications_authorizer_stays_where_it_is)
{
    struct over o;
    sqlite3 *host;
    int calls = 0;
    begin(&o, "");
    CHECK_OK(mn_create(o.conn, "own", &(mn_collection_opts){.dim = 2}, &o.err), o.err);
    CHECK_OK(mn_put(o.conn, "own", &(mn_row){.id = 1, .vector = (float[]){1, 2}}, 1, NULL, &o.err),
             o.err);
    sql(&o, "CREATE TABLE seen(x); CREATE TRIGGER mine AFTER UPDATE ON own BEGIN INSERT INTO seen "
            "VALUES (NEW.id); END");
    CHECK(sqlite3_open(o.path, &host) == SQLITE_OK);
    CHECK(mn_sql_register(host, NULL) == SQLITE_OK);
    sqlite3_set_authorizer(host, count_calls, &calls);
    CHECK(sqlite3_exec(host, "SELECT id FROM knn('own', '[1,2]', 1)", NULL, NULL, NULL) ==
          SQLITE_OK);
    calls = 0;
    CHECK(sqlite3_exec(host, "SELECT 1 FROM seen", NULL, NULL, NULL) == SQLITE_OK);
    CHECK(calls > 0);
    CHECK(sqlite3_close(host) == SQLITE_OK);
    end(&o);
}

TEST(tables_of_the_module_come_and_go_without_a_new_index)
{
    static const char *const steps[] = {
        "CREATE VIRTUAL TABLE v USING mneme(id INTEGER PRIMARY KEY, e float[3], a TEXT)",
        "INSERT INTO v VALUES (1, '[1,2,3]', 'x')",
        "ALTER TABLE v RENAME TO w",
        "CREATE TABLE afterwards(x)",
        "DROP TABLE w",
        "BEGIN; CREATE VIRTUAL TABLE v USING mneme(id INTEGER PRIMARY KEY, e float[3]); ROLLBACK"};
    struct over o;
    struct brute b;
    sqlite3 *host;
    begin_indexed(&o, &b);
    CHECK(sqlite3_open(o.path, &host) == SQLITE_OK);
    CHECK(mn_sql_register(host, NULL) == SQLITE_OK);
    sqlite3_busy_timeout(host, 5000);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        char *message = NULL;
        CHECKF(sqlite3_exec(host, steps[i], NULL, NULL, &message) == SQLITE_OK, "%s: %s", steps[i],
               message);
        CHECKF(by_index(&o, &b, (int64_t)i), "%s", steps[i]);
        if (i != 3)
            CHECKF(number(&o, "SELECT value FROM mneme_meta WHERE key = 'schema'") ==
                       number(&o, "PRAGMA schema_version"),
                   "%s", steps[i]);
        if (i == 2)
            CHECK_EQ(number(&o, "SELECT count(*) FROM mneme_tables WHERE name = 'w_rows'"), 1);
        CHECK_OK(mn_delete(o.conn, "docs", &(mn_id){.id = 99999}, 1, NULL, &o.err), o.err);
    }
    CHECK(sqlite3_close(host) == SQLITE_OK);
    brute_free(&b);
    end(&o);
}

TEST(an_indexed_table_is_looked_after_as_any_other)
{
    struct over o;
    struct brute b;
    mn_collection_stats stats;
    mn_index_info index;
    char copy[PATH_MAX + 8];
    begin_indexed(&o, &b);
    CHECK(by_index(&o, &b, 1));
    CHECK_OK(mn_collection_stats_get(o.conn, "docs", &stats, &o.err), o.err);
    CHECK_EQ(stats.rows, 600);
    CHECK_EQ(stats.vectors, b.n);
    CHECK(b.n < 600 && b.invalid > 0);
    CHECK_OK(mn_index_stats(o.conn, "docs", &index, &o.err), o.err);
    CHECK(index.exists && index.rows == b.n);
    CHECK_OK(mn_compact(o.conn, &o.err), o.err);
    CHECK(by_index(&o, &b, 2));
    sql(&o, "VACUUM");
    by_index(&o, &b, 3);
    CHECK_OK(mn_rebuild(o.conn, "docs", &o.err), o.err);
    CHECK(by_index(&o, &b, 4));
    snprintf(copy, sizeof copy, "%s.copy", o.path);
    CHECK_OK(mn_backup(o.conn, copy, &o.err), o.err);
    mn_db *db;
    mn_conn *conn;
    const mn_open_opts readonly = {.flags = MN_OPEN_READONLY};
    CHECK_OK(mn_open(copy, &readonly, &db, &o.err), o.err);
    CHECK_OK(mn_connect(db, &conn, &o.err), o.err);
    struct indexed_recall sum = {0};
    float query[DIM];
    indexed_vector(MN_F32, DIM, 3, 5, query);
    struct indexed_query q = {.name = "docs", .vector = query, .k = 10};
    const char *wrong = indexed_check(conn, &b, &q, &sum);
    CHECKF(!wrong, "%s", wrong);
    CHECK_EQ(mn_delete(conn, "docs", &(mn_id){.id = 1}, 1, NULL, &o.err), MN_READONLY);
    mn_error_clear(&o.err);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &o.err), o.err);
    /* A reader that may not write still follows a rename. */
    sql(&o, "ALTER TABLE docs RENAME TO papers; ALTER TABLE papers RENAME COLUMN emb TO vector");
    mn_disconnect(o.conn);
    CHECK_OK(mn_close(o.db, &o.err), o.err);
    const struct db_stage stage = {.limits = INDEXED_LIMITS};
    CHECK_OK(db_open_on(o.path, &readonly, &stage, &o.db, &o.err), o.err);
    CHECK_OK(mn_connect(o.db, &o.conn, &o.err), o.err);
    load(&b, o.plain, "SELECT key, vector FROM papers ORDER BY key");
    wrong = indexed_check(o.conn, &b, &q, &sum);
    CHECKF(!wrong, "%s", wrong);
    brute_free(&b);
    end(&o);
}

/* ---- A stock client at random ---------------------------------------------------------------- */

/* One statement of the stock client; those that fail on a constraint change nothing. */
static void step(struct over *o, struct test_rng *r)
{
    char text[600];
    long long id = (long long)test_below(r, 700) + 1, other = (long long)test_below(r, 700) + 1;
    int url = (int)test_below(r, 900), parent = (int)test_below(r, PARENTS) + 1;
    switch (test_below(r, 15)) {
    case 0:
    case 1:
    case 2:
        snprintf(text, sizeof text, "INSERT INTO docs VALUES (%lld, %d, %d, 'en', %d, %s)", id, url,
                 parent, url, value(r));
        break;
    case 3:
        snprintf(text, sizeof text, "REPLACE INTO docs VALUES (%lld, %d, %d, 'de', 3, %s)", id, url,
                 parent, value(r));
        break;
    case 4:
        snprintf(text, sizeof text, "UPDATE OR REPLACE docs SET url = %d WHERE key = %lld", url,
                 id);
        break;
    case 5:
        snprintf(text, sizeof text, "UPDATE OR REPLACE docs SET key = %lld WHERE key = %lld", other,
                 id);
        break;
    case 6:
        snprintf(text, sizeof text, "UPDATE docs SET key = %lld, emb = %s WHERE key = %lld", other,
                 value(r), id);
        break;
    case 7:
    case 8:
        snprintf(text, sizeof text, "UPDATE docs SET emb = %s WHERE key BETWEEN %lld AND %lld",
                 value(r), id, id + 3);
        break;
    case 9:
        snprintf(text, sizeof text, "DELETE FROM docs WHERE key BETWEEN %lld AND %lld", id, id + 2);
        break;
    case 10:
        snprintf(text, sizeof text,
                 "DELETE FROM parents WHERE id = %d AND %d = 0; INSERT OR IGNORE INTO parents "
                 "VALUES (%d)",
                 parent, (int)test_below(r, 8), parent);
        break;
    case 11:
        snprintf(text, sizeof text,
                 "INSERT INTO docs VALUES (%lld, %d, %d, 'fr', 4, %s) ON CONFLICT(key) DO UPDATE "
                 "SET emb = excluded.emb",
                 id, url, parent, value(r));
        break;
    case 12:
        snprintf(text, sizeof text,
                 "BEGIN; DELETE FROM docs WHERE key < %lld; SAVEPOINT s; UPDATE docs SET emb = "
                 "NULL; ROLLBACK",
                 id);
        break;
    case 13: /* through an index over an expression, if there is one */
        snprintf(text, sizeof text, "REPLACE INTO docs VALUES (%lld, %d, %d, 'EN', %lld, %s)", id,
                 url, parent, other, value(r));
        break;
    default:
        snprintf(text, sizeof text, "UPDATE docs SET parent = %d WHERE key = %lld", parent, id);
    }
    sqlite3_exec(o->plain, text, NULL, NULL, NULL);
}

static bool odd(void *ctx, int64_t id)
{
    (void)ctx;
    return id % 2 != 0;
}

static bool odd_row(void *ctx, const mn_row *row)
{
    return odd(ctx, row->id);
}

static void follow_at_random(mn_metric metric, mn_rerank rerank)
{
    struct over o;
    struct test_rng r = {2026 + rerank};
    struct brute b = {.dtype = MN_F32, .metric = metric, .dim = DIM};
    struct indexed_recall sum = {0};
    const char *const attributes[] = {"lang", "year"};
    mn_collection_opts opts = {.dim = DIM,
                               .table = "docs",
                               .metric = metric,
                               .rerank = rerank,
                               .column = "emb",
                               .attributes = attributes,
                               .n_attributes = 2};
    begin(&o,
          "PRAGMA foreign_keys = ON; CREATE TABLE parents(id INTEGER PRIMARY KEY);"
          "CREATE TABLE docs(key INTEGER PRIMARY KEY, url UNIQUE, parent REFERENCES parents(id) "
          "ON DELETE CASCADE ON UPDATE CASCADE, lang, year, emb);"
          "WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < 12) INSERT "
          "INTO parents SELECT i FROM k");
    if (rerank == MN_RERANK_ROWS)
        sql(&o, "CREATE UNIQUE INDEX part ON docs(year % 1000, lower(lang)) WHERE lang LIKE 'EN'");
    CHECK_OK(mn_create(o.conn, "docs", &opts, &o.err), o.err);
    sql(&o, "BEGIN");
    for (int i = 1; i < 700; i++) {
        char text[600];
        snprintf(text, sizeof text, "INSERT INTO docs VALUES (%d, %d, %d, 'en', %d, %s)", i, i,
                 i % PARENTS + 1, i, value(&r));
        sql(&o, text);
    }
    sql(&o, "COMMIT");
    for (int round = 0; round < 60; round++) {
        float query[DIM];
        for (uint64_t n = test_below(&r, 30); n; n--)
            step(&o, &r);
        load(&b, o.plain, "SELECT key, emb FROM docs ORDER BY key");
        indexed_vector(MN_F32, DIM, 3, (uint64_t)round, query);
        struct indexed_query q = {.name = "docs", .vector = query, .k = round % 3 ? 10 : 50};
        q.opts.recall = round % 4 ? 0.95 : 1.0;
        if (round % 5 == 4) {
            q.keep = odd;
            q.opts.filter = odd_row;
        }
        const char *wrong = indexed_check(o.conn, &b, &q, &sum);
        CHECKF(!wrong, "round %d, %zu rows: %s", round, b.n, wrong);
        if (round % 16 == 7)
            CHECK_OK(mn_fold(o.conn, "docs", &o.err), o.err);
        if (round % 16 == 15)
            reopen(&o);
        if (round % 16 == 3) {
            uint64_t findings;
            CHECK_OK(mn_verify(o.conn, NULL, NULL, &findings, &o.err), o.err);
            CHECK_EQ(findings, b.invalid);
        }
    }
    printf("    %.3f of the nearest found; %llu searches by the index, %llu by the rows\n",
           sum.found / sum.wanted, (unsigned long long)sum.by_index,
           (unsigned long long)sum.by_rows);
    CHECK(sum.by_index > 20 && sum.by_rows > 10 && sum.found > 0.9 * sum.wanted);
    brute_free(&b);
    end(&o);
}

TEST(any_change_by_a_stock_client_is_answered_as_brute_force_does)
{
    follow_at_random(MN_L2, MN_RERANK_COPY);
}

TEST(the_same_where_exact_distances_come_from_the_rows)
{
    follow_at_random(MN_COSINE, MN_RERANK_ROWS);
}

TEST_MAIN

/* Nobody writes through the engine here: a search finds the log long, and the folder trims it. */
TEST(a_log_that_only_others_write_does_not_grow_for_ever)
{
    struct over o;
    begin(&o, docs);
    CHECK_OK(create(&o, "docs", "docs", "emb"), o.err);
    sql(&o, "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200000) "
            "INSERT INTO mneme_log_1(id, stamp) SELECT 1, i FROM n");
    int64_t before = number(&o, "SELECT count(*) FROM mneme_log_1"), after = before;
    CHECK(before > 200000);
    CHECK_STR(nearest(&o, "docs", 1, 0), "1 2");
    for (int i = 0; i < 2000 && after > 100000; i++) {
        usleep(5000);
        after = number(&o, "SELECT count(*) FROM mneme_log_1");
    }
    CHECKF(after < 100000, "%lld of %lld entries stayed", (long long)after, (long long)before);
    CHECK(number(&o, "SELECT max(seq) FROM mneme_log_1") >= before);
    CHECK_STR(nearest(&o, "docs", 1, 0), "1 2");
    end(&o);
}

/* Far more than memory holds as pending rows: the index is built anew from the table. */
TEST(a_bulk_import_by_a_stock_client_is_folded_under_a_small_cap)
{
    struct over o;
    mn_index_info info;
    const struct db_stage stage = {.limits = INDEXED_LIMITS};
    const mn_open_opts opts = {
        .durability = MN_RELAXED, .memory_bytes = 6 << 20, .flags = MN_OPEN_NO_BACKGROUND};
    begin(&o, "CREATE TABLE docs(key INTEGER PRIMARY KEY, lang, year, emb BLOB);"
              "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2000) "
              "INSERT INTO docs SELECT i, NULL, i, randomblob(63) || x'3c' FROM n");
    sql(&o, "UPDATE docs SET emb = json_array(key % 97, key % 89, key, 1, 2, 3, 4, 5, 6, 7, 8, 9, "
            "10, 11, 12, key % 7)");
    mn_disconnect(o.conn);
    CHECK_OK(mn_close(o.db, &o.err), o.err);
    CHECK_OK(db_open_on(o.path, &opts, &stage, &o.db, &o.err), o.err);
    CHECK_OK(mn_connect(o.db, &o.conn, &o.err), o.err);
    const mn_collection_opts made = {.dim = 16, .table = "docs", .column = "emb"};
    CHECK_OK(mn_create(o.conn, "docs", &made, &o.err), o.err);
    CHECK_OK(mn_fold(o.conn, "docs", &o.err), o.err);
    sql(&o, "WITH RECURSIVE n(i) AS (VALUES (2001) UNION ALL SELECT i + 1 FROM n WHERE i < 120000) "
            "INSERT INTO docs SELECT i, NULL, i, (SELECT CAST(emb AS TEXT) FROM docs WHERE key = "
            "1 + i % 2000) FROM n");
    CHECK_OK(mn_fold(o.conn, "docs", &o.err), o.err);
    CHECK_OK(mn_index_stats(o.conn, "docs", &info, &o.err), o.err);
    CHECKF(info.rows == 120000 && info.pending == 0, "%llu rows, %llu pending",
           (unsigned long long)info.rows, (unsigned long long)info.pending);
    end(&o);
}
