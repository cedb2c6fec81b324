/* The catalog through SQLite alone: what it writes, finds, refuses, and how it reads what somebody
 * damaged. */
#include <sqlite3.h>

#include "storage/base/error.h"
#include "storage/catalog.h"
#include "tests/test.h"

static mn_error err;
static sqlite3 *db;

static void sql(const char *text)
{
    char *message = NULL;
    int rc = sqlite3_exec(db, text, NULL, NULL, &message);
    CHECKF(rc == SQLITE_OK, "%s: %s", text, message);
}

static int64_t number(const char *text)
{
    sqlite3_stmt *st;
    CHECKF(sqlite3_prepare_v2(db, text, -1, &st, NULL) == SQLITE_OK, "%s: %s", text,
           sqlite3_errmsg(db));
    int64_t value = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : INT64_MIN;
    sqlite3_finalize(st);
    return value;
}

/* A catalog with collections "docs" (text ids, attributes a and b) and "images" beside it. */
static void begin(void)
{
    const char *attributes[] = {"a", "b"};
    mn_collection_opts docs = {
        .dim = 3, .id_kind = MN_ID_TEXT, .attributes = attributes, .n_attributes = 2};
    mn_collection_opts images = {
        .dim = 16, .dtype = MN_BIT, .metric = MN_HAMMING, .beside = "docs"};
    mn_error_clear(&err);
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    CHECK_OK(catalog_init(db, &err), err);
    CHECK_OK(catalog_create(db, "docs", &docs, &err), err);
    CHECK_OK(catalog_create(db, "images", &images, &err), err);
}

static void end(void)
{
    CHECK(sqlite3_close(db) == SQLITE_OK);
}

TEST(a_database_without_a_catalog_has_none)
{
    enum catalog_state state;
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    CHECK_OK(catalog_check(db, &state, &err), err);
    CHECK_EQ(state, CATALOG_ABSENT);
    CHECK_OK(catalog_init(db, &err), err);
    CHECK_OK(catalog_check(db, &state, &err), err);
    CHECK_EQ(state, CATALOG_PRESENT);
    CHECK_EQ(number("SELECT length(value) FROM mneme_meta WHERE key = 'db_id'"), 32);
    end();
}

TEST(newer_and_broken_formats_are_refused)
{
    static const struct {
        const char *sql;
        mn_status status;
        const char *says;
    } cases[] = {
        {"UPDATE mneme_meta SET value = 7 WHERE key = 'format'", MN_OK, ""}, /* readable by us */
        {"UPDATE mneme_meta SET value = 3 WHERE key = 'min_reader'", MN_NEWER,
         "needs a Mneme that reads format 3; this one reads up to 2: upgrade it"},
        {"DELETE FROM mneme_meta", MN_CORRUPT, "no valid format number"},
        {"UPDATE mneme_meta SET value = 'x' WHERE key = 'format'", MN_CORRUPT, "no valid format"},
        {"UPDATE mneme_meta SET value = -1 WHERE key = 'min_reader'", MN_CORRUPT,
         "no valid format"},
        {"DROP TABLE mneme_tables", MN_CORRUPT, "2 of its 3 tables"},
        {"DROP TABLE mneme_meta; CREATE TABLE mneme_meta(x)", MN_CORRUPT, ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum catalog_state state;
        begin();
        sql(cases[i].sql);
        mn_status st = catalog_check(db, &state, &err);
        CHECKF(st == cases[i].status, "%s: %s, %s", cases[i].sql, mn_status_name(st), err.message);
        CHECK_HAS(err.message, cases[i].says);
        end();
    }
}

TEST(an_entry_is_what_was_created)
{
    struct catalog_entry docs, images;
    begin();
    CHECK_OK(catalog_find(db, "DOCS", &docs, &err), err);
    CHECK_OK(catalog_find(db, "images", &images, &err), err);
    CHECK_STR(docs.name, "docs");
    CHECK_STR(docs.table, "docs");
    CHECK_STR(docs.column, "vector");
    CHECK(docs.dim == 3 && docs.dtype == MN_F32 && docs.metric == MN_L2);
    CHECK_EQ(docs.id_kind, MN_ID_TEXT);
    CHECK_STR(images.table, "docs");
    CHECK_STR(images.column, "images");
    CHECK(images.dtype == MN_BIT && images.metric == MN_HAMMING && images.dim == 16);
    CHECK_EQ(images.table_number, docs.table_number);
    CHECK(images.number != docs.number);
    char *names;
    size_t n;
    CHECK_OK(catalog_attributes(db, &docs, &names, &n, &err), err);
    CHECK_EQ(n, 2);
    CHECK(memcmp(names, "a\0b", 4) == 0); /* vector columns are none */
    sqlite3_free(names);
    CHECK_EQ(catalog_find(db, "imagse", &docs, &err), MN_NOTFOUND);
    CHECK_HAS(err.message, "did you mean 'images'?");
    mn_error_clear(&err);
    CHECK_EQ(catalog_find(db, "entirely different", &docs, &err), MN_NOTFOUND);
    CHECK_HAS(err.message, "among its 2");
    end();
}

TEST(the_table_refuses_vectors_of_a_wrong_size)
{
    begin();
    CHECK(sqlite3_exec(db, "INSERT INTO docs(text_id, vector) VALUES ('x', x'00')", 0, 0, 0) ==
          SQLITE_CONSTRAINT);
    CHECK(sqlite3_exec(db, "INSERT INTO docs(text_id, vector) VALUES ('x', '123456789012')", 0, 0,
                       0) == SQLITE_CONSTRAINT);
    CHECK(sqlite3_exec(db, "INSERT INTO docs(text_id, images) VALUES ('x', zeroblob(3))", 0, 0,
                       0) == SQLITE_CONSTRAINT);
    sql("INSERT INTO docs(text_id, vector, images) VALUES ('x', zeroblob(12), zeroblob(2)), ('y', "
        "NULL, NULL)");
    CHECK(sqlite3_exec(db, "INSERT INTO docs(text_id) VALUES ('x')", 0, 0, 0) == SQLITE_CONSTRAINT);
    CHECK(sqlite3_exec(db, "INSERT INTO docs(a) VALUES ('x')", 0, 0, 0) == SQLITE_CONSTRAINT);
    end();
}

TEST(numbers_are_never_used_again)
{
    struct catalog_entry e;
    int64_t last = 0, last_table = 0;
    begin();
    for (int i = 0; i < 5; i++) {
        CHECK_OK(catalog_create(db, "x", &(mn_collection_opts){.dim = 2}, &err), err);
        CHECK_OK(catalog_find(db, "x", &e, &err), err);
        CHECK(e.number > last && e.table_number > last_table);
        last = e.number;
        last_table = e.table_number;
        CHECK_OK(catalog_drop(db, &e, &err), err);
        CHECK_EQ(catalog_find(db, "x", &e, &err), MN_NOTFOUND);
        mn_error_clear(&err);
    }
    CHECK_EQ(number("SELECT count(*) FROM sqlite_master WHERE name = 'x'"), 0);
    end();
}

TEST(the_rows_go_with_the_last_collection_over_them)
{
    struct catalog_entry e;
    begin();
    sql("INSERT INTO docs(text_id, vector, images) VALUES ('x', zeroblob(12), zeroblob(2))");
    CHECK_OK(catalog_find(db, "docs", &e, &err), err);
    CHECK_OK(catalog_drop(db, &e, &err), err);
    CHECK_EQ(number("SELECT count(*) FROM docs WHERE images IS NOT NULL"), 1);
    CHECK_EQ(number("SELECT count(*) FROM pragma_table_info('docs') WHERE name = 'vector'"), 0);
    sql("UPDATE docs SET images = NULL; REPLACE INTO docs(text_id) VALUES ('x')");
    CHECK_OK(catalog_find(db, "images", &e, &err), err);
    CHECK_OK(catalog_drop(db, &e, &err), err);
    CHECK_EQ(number("SELECT count(*) FROM sqlite_master WHERE name LIKE 'mneme_log%' OR name = "
                    "'docs' OR type = 'trigger'"),
             0);
    end();
}

static mn_status count_one(void *ctx, const struct catalog_entry *e, mn_error *error)
{
    (void)e;
    (void)error;
    ++*(int *)ctx;
    return MN_OK;
}

TEST(damaged_entries_are_told_by_their_row)
{
    static const char *const damage[] = {
        "UPDATE mneme_collections SET dtype = 'f31' WHERE name = 'docs'",
        "UPDATE mneme_collections SET dtype = 'bit' WHERE name = 'docs'",
        "UPDATE mneme_collections SET metric = '' WHERE name = 'docs'",
        "UPDATE mneme_collections SET dim = 0 WHERE name = 'docs'",
        "UPDATE mneme_collections SET dim = 4294967299 WHERE name = 'docs'",
        "UPDATE mneme_collections SET dim = -3 WHERE name = 'docs'",
        "UPDATE mneme_collections SET dim = 12 WHERE name = 'images'",
        "UPDATE mneme_collections SET vector_column = '' WHERE name = 'docs'",
        "UPDATE mneme_collections SET vector_column = printf('%200s', 'x') WHERE name = 'docs'",
        "UPDATE mneme_collections SET name = printf('%128s', 'x') WHERE name = 'docs'",
        "UPDATE mneme_collections SET name = '' WHERE name = 'docs'",
        "UPDATE mneme_collections SET table_number = 99 WHERE name = 'docs'",
        "UPDATE mneme_collections SET number = -1 WHERE name = 'docs'",
        "UPDATE mneme_tables SET name = printf('%128s', 'x')",
        "UPDATE mneme_tables SET id_kind = 'uuid'",
        "UPDATE mneme_tables SET number = 0",
        "DELETE FROM mneme_tables"};
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        int n = 0;
        begin();
        sql(damage[i]);
        mn_status st = catalog_walk(db, count_one, &n, &err);
        CHECKF(st == MN_CORRUPT, "%s: %s", damage[i], mn_status_name(st));
        CHECK_HAS(err.message, "mneme_collections, row ");
        end();
    }
}

TEST(the_schemas_number_tells_a_foreign_hand)
{
    int64_t now, ours;
    struct catalog_entry e;
    begin();
    CHECK_OK(catalog_schema(db, &now, &ours, &err), err);
    CHECK_EQ(now, ours);
    sql("CREATE TABLE mine(x)");
    CHECK_OK(catalog_schema(db, &now, &ours, &err), err);
    CHECK(now != ours);
    CHECK_OK(catalog_reconcile(db, &err), err);
    CHECK_OK(catalog_schema(db, &now, &ours, &err), err);
    CHECK_EQ(now, ours);
    CHECK_OK(catalog_find(db, "docs", &e, &err), err);
    CHECK_OK(catalog_add_attribute(db, &e, "c", &err), err);
    CHECK_OK(catalog_schema(db, &now, &ours, &err), err);
    CHECK_EQ(now, ours);
    sql("DROP TABLE docs"); /* a table that is gone is left alone */
    CHECK_OK(catalog_reconcile(db, &err), err);
    end();
}

/* Whether what somebody did to the schema since can have touched our logs. */
static bool whole_after(const char *text)
{
    bool yes = false;
    sql(text);
    CHECK_OK(catalog_logs_whole(db, &yes, &err), err);
    return yes;
}

TEST(what_is_done_to_other_tables_leaves_the_logs_whole)
{
    static const struct {
        const char *sql;
        bool yes;
    } cases[] = {{"CREATE TABLE mine(x UNIQUE, y PRIMARY KEY)", true},
                 {"CREATE INDEX i ON other(x); CREATE VIEW v AS SELECT 1; DROP TABLE third", true},
                 {"CREATE TRIGGER mine AFTER INSERT ON other BEGIN SELECT 1; END", true},
                 {"DROP TABLE other", true}, /* with its index */
                 {"CREATE TABLE mine(x); DROP TABLE mine", false},
                 {"DROP INDEX on_other", true},
                 {"ALTER TABLE other ADD COLUMN z", true},
                 {"ALTER TABLE other ADD COLUMN z; ALTER TABLE other DROP COLUMN z", false},
                 {"CREATE INDEX i ON docs(a)", true},
                 {"CREATE UNIQUE INDEX i ON docs(a)", false},
                 {"CREATE TRIGGER mine AFTER INSERT ON docs BEGIN SELECT 1; END", false},
                 {"CREATE UNIQUE INDEX i ON docs(a); DROP INDEX i", false},
                 {"DROP TABLE docs", false},
                 {"DROP TABLE docs; CREATE TABLE docs(id INTEGER PRIMARY KEY, version)", false},
                 {"DROP TRIGGER mneme_1_insert", false},
                 {"DROP TABLE mneme_log_1", false},
                 {"DROP TABLE mneme_indexes", true},
                 {"VACUUM", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin();
        sql("CREATE TABLE other(x); CREATE INDEX on_other ON other(x); CREATE TABLE third(x)");
        CHECK_OK(catalog_schema_keep(db, &err), err);
        CHECKF(whole_after("SELECT 1"), "%s: before", cases[i].sql);
        CHECKF(whole_after(cases[i].sql) == cases[i].yes, "%s", cases[i].sql);
        end();
    }
    begin(); /* a catalog from before that was kept */
    CHECK(!whole_after("DELETE FROM mneme_meta WHERE key LIKE 'schema_%'"));
    end();
}

/* ---- Tables that were there ------------------------------------------------------------------ */

TEST(only_databases_with_tables_that_were_there_are_closed_to_older_programs)
{
    enum catalog_state state;
    struct catalog_entry e, second;
    const char *attributes[] = {"year", "lang"};
    mn_collection_opts opts = {
        .dim = 3, .table = "Papers", .column = "EMB", .attributes = attributes, .n_attributes = 2};
    begin();
    sql("CREATE TABLE papers(k INTEGER PRIMARY KEY, lang, year, emb, emb2)");
    CHECK_EQ(number("SELECT sum(value) FROM mneme_meta WHERE key IN ('format', 'min_reader')"), 2);
    CHECK_OK(catalog_create(db, "papers", &opts, &err), err); /* called like the table: it may be */
    CHECK_EQ(number("SELECT sum(value) FROM mneme_meta WHERE key IN ('format', 'min_reader')"), 4);
    CHECK_OK(catalog_check(db, &state, &err), err);
    CHECK_OK(catalog_find(db, "papers", &e, &err), err);
    CHECK(e.foreign && e.id_kind == MN_ID_INTEGER);
    CHECK_STR(e.table, "papers");
    CHECK_STR(e.column, "emb");
    CHECK_STR(e.id_column, "k");
    char *names;
    size_t n;
    CHECK_OK(catalog_attributes(db, &e, &names, &n, &err), err);
    CHECK_EQ(n, 2);
    CHECK(memcmp(names, "year\0lang", 10) == 0); /* in the caller's order */
    sqlite3_free(names);
    opts.column = "emb2";
    opts.n_attributes = 0;
    CHECK_OK(catalog_create(db, "second", &opts, &err), err);
    CHECK_OK(catalog_find(db, "second", &second, &err), err);
    CHECK_EQ(second.table_number, e.table_number);
    CHECK_OK(catalog_find(db, "docs", &second, &err), err);
    CHECK(!second.foreign);
    CHECK_STR(second.id_column, "id");
    CHECK_OK(catalog_drop(db, &e, &err), err);
    CHECK_EQ(number("SELECT count(*) FROM papers"), 0);
    end();
}

TEST(damage_to_the_names_of_columns_is_told)
{
    struct catalog_entry e;
    const char *attribute = "lang";
    char *names, missing[MN_MAX_NAME + 1];
    size_t n;
    bool fits;
    mn_collection_opts opts = {
        .dim = 3, .table = "papers", .column = "emb", .attributes = &attribute, .n_attributes = 1};
    begin();
    sql("CREATE TABLE papers(k INTEGER PRIMARY KEY, lang, emb)");
    CHECK_OK(catalog_create(db, "papers", &opts, &err), err);
    CHECK_OK(catalog_find(db, "papers", &e, &err), err);
    sql("DROP TRIGGER mneme_2_update; UPDATE mneme_attributes SET name = 'gone'");
    CHECK_OK(catalog_table_fits(db, &e, &fits, missing, &err), err);
    CHECK(!fits);
    CHECK_STR(missing, "gone");
    sql("UPDATE mneme_attributes SET name = printf('%200s', 'x')");
    CHECK_EQ(catalog_attributes(db, &e, &names, &n, &err), MN_CORRUPT);
    CHECK_HAS(err.message, "mneme_attributes holds no valid name for collection 'papers'");
    CHECK(!names);
    mn_error_clear(&err);
    sql("DROP TABLE mneme_attributes");
    CHECK_EQ(catalog_find(db, "papers", &e, &err), MN_CORRUPT);
    mn_error_clear(&err);
    end();
}

/* ---- Page sizes ---------------------------------------------------------------------------------
 */

/* Bytes of a database of 1,500 rows with such vectors in pages of that size. */
static double bytes_with(uint32_t page, size_t vector_bytes)
{
    char text[400];
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    snprintf(text, sizeof text,
             "PRAGMA page_size = %u; CREATE TABLE t(id INTEGER PRIMARY KEY, version, payload, "
             "vector); WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < "
             "1500) INSERT INTO t SELECT i, i + 100000, NULL, randomblob(%zu) FROM k",
             page, vector_bytes);
    sql(text);
    CHECK_EQ(number("PRAGMA page_size"), page);
    double bytes = (double)number("PRAGMA page_count") * page;
    end();
    return bytes;
}

TEST(the_page_size_chosen_is_close_to_the_best)
{
    static const size_t sizes[] = {16, 400, 512, 768, 1536, 2048, 3072, 4096, 6144, 16384};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint32_t chosen = catalog_page_bytes(sizes[i]);
        double best = 1e300, mine = bytes_with(chosen, sizes[i]);
        CHECK(chosen >= 4096 && chosen <= 65536 && (chosen & (chosen - 1)) == 0);
        for (uint32_t page = 4096; page <= 65536; page *= 2) {
            double bytes = bytes_with(page, sizes[i]);
            best = bytes < best ? bytes : best;
        }
        CHECKF(mine <= best * 1.12, "%zu bytes: %u takes %.3f of the best", sizes[i], chosen,
               mine / best);
    }
    CHECK_EQ(catalog_page_bytes(0), 4096);
    CHECK(catalog_page_bytes(65536) >= 4096);
}

TEST_MAIN
