/* The FTS5 table beside an ordinary table: right after every kind of change, found and made anew
 * when its table was rebuilt, and queries made of what people write. */
#include "tests/test.h"

#include <sqlite3.h>

#include "src/sql/fts.h"
#include "storage/base/error.h"

static void must(sqlite3 *db, const char *sql)
{
    char *message = NULL;
    int rc = sqlite3_exec(db, sql, NULL, NULL, &message);
    CHECKF(rc == SQLITE_OK, "%s: %s", sql, message);
}

static int64_t count(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *st;
    CHECKF(sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    CHECKF(sqlite3_step(st) == SQLITE_ROW, "%s: %s", sql, sqlite3_errmsg(db));
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return n;
}

static const char *const columns[] = {"title", "body"};

static struct fts_spec spec_of(const char *table)
{
    return (struct fts_spec){.table = table, .id_column = "id", .name = "docs_fts",
                             .columns = columns, .n = 2};
}

static sqlite3 *open_db(void)
{
    sqlite3 *db;
    mn_error err = {0};
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    must(db, "CREATE TABLE docs(id INTEGER PRIMARY KEY, title TEXT COLLATE nocase, body, url TEXT "
             "UNIQUE, a INTEGER, b TEXT COLLATE nocase, UNIQUE (a, b));"
             "INSERT INTO docs VALUES (1, 'Cats', 'the cat sat', 'u1', 1, 'x'), (2, 'Dogs', 'a dog "
             "ran', 'u2', 2, 'x'), (3, NULL, NULL, NULL, NULL, NULL)");
    struct fts_spec s = spec_of("docs");
    CHECK_OK(fts_create(db, &s, &err), err);
    return db;
}

/* FTS5 compares its index with the table, word by word. */
static void check_whole(sqlite3 *db, const char *after)
{
    int rc = sqlite3_exec(db, "INSERT INTO docs_fts(docs_fts, rank) VALUES ('integrity-check', 1)",
                          NULL, NULL, NULL);
    CHECKF(rc == SQLITE_OK, "after %s: %s", after, sqlite3_errmsg(db));
    CHECKF(count(db, "SELECT count(*) FROM docs_fts_docsize") ==
               count(db, "SELECT count(*) FROM docs"),
           "after %s: another number of rows", after);
}

TEST(every_change_of_the_table_reaches_the_full_text)
{
    static const char *const changes[] = {
        "INSERT INTO docs(title, body) VALUES ('Birds', 'a bird sang')",
        "UPDATE docs SET body = 'the cat slept' WHERE id = 1",
        "UPDATE docs SET title = 'CATS' WHERE id = 1",
        "UPDATE docs SET body = 1 WHERE id = 1",
        "UPDATE docs SET body = 1.0 WHERE id = 1",
        "UPDATE docs SET id = 10 WHERE id = 1",
        "UPDATE docs SET rowid = 11 WHERE id = 10",
        "UPDATE docs SET body = NULL",
        "INSERT OR REPLACE INTO docs(id, title) VALUES (2, 'again')",
        "REPLACE INTO docs(title, url) VALUES ('by url', 'u2')",
        "INSERT INTO docs VALUES (20, 't', 'b', 'u20', 5, 'x')",
        "INSERT OR REPLACE INTO docs VALUES (21, 't2', 'b2', 'u21', 5, 'X')",
        "INSERT OR REPLACE INTO docs VALUES (22, 't3', 'b3', 'u20', 5, 'x')",
        "INSERT OR IGNORE INTO docs VALUES (22, 'ignored', 'row', 'u99', 9, 'x')",
        "INSERT OR IGNORE INTO docs VALUES (23, 'ignored', 'row', 'u20', 9, 'x')",
        "INSERT OR IGNORE INTO docs VALUES (24, 'taken', 'row', 'u24', 9, 'x')",
        "UPDATE OR REPLACE docs SET url = 'u20' WHERE id = 24",
        "INSERT INTO docs VALUES (25, 'p', 'q', 'u25', 6, 'x')",
        "UPDATE OR IGNORE docs SET id = 25, title = 'no' WHERE id = 24",
        "UPDATE OR REPLACE docs SET id = 25, title = 'yes' WHERE id = 24",
        "INSERT INTO docs(id, title, url) VALUES (25, 'z', 'u77') ON CONFLICT (id) DO UPDATE SET "
        "title = excluded.title, body = 'upserted'",
        "INSERT INTO docs(title, url) VALUES ('z', 'u20') ON CONFLICT (url) DO NOTHING",
        "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 150) INSERT "
        "INTO docs(id, title, body) SELECT i, 'row ' || i, 'many words ' || i % 7 FROM n",
        "DELETE FROM docs WHERE id % 3 = 0",
        "UPDATE docs SET id = -id",
        "DELETE FROM docs",
    };
    for (int recursive = 0; recursive < 2; recursive++) {
        sqlite3 *db = open_db();
        must(db, recursive ? "PRAGMA recursive_triggers = on" : "SELECT 1");
        check_whole(db, "the start");
        for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
            must(db, changes[i]);
            check_whole(db, changes[i]);
        }
        CHECK_EQ(sqlite3_close(db), SQLITE_OK);
    }
}

TEST(what_is_undone_is_undone_in_the_full_text)
{
    sqlite3 *db = open_db();
    must(db, "BEGIN; INSERT OR REPLACE INTO docs VALUES (1, 'new', 'text', 'u2', 1, 'x')");
    check_whole(db, "replace of two rows");
    CHECK_EQ(count(db, "SELECT count(*) FROM docs_fts WHERE docs_fts MATCH 'dog OR cat'"), 0);
    must(db, "SAVEPOINT s; DELETE FROM docs; ROLLBACK TO s; RELEASE s");
    check_whole(db, "a savepoint");
    must(db, "ROLLBACK");
    check_whole(db, "a rollback");
    CHECK_EQ(count(db, "SELECT count(*) FROM docs_fts WHERE docs_fts MATCH 'dog OR cat'"), 2);
    /* the second row of a statement fails */
    CHECK(sqlite3_exec(db, "INSERT INTO docs(id, title) VALUES (50, 'fifty'), (1, 'one')", NULL,
                       NULL, NULL) == SQLITE_CONSTRAINT);
    check_whole(db, "a statement that failed");
    CHECK(sqlite3_exec(db, "INSERT OR FAIL INTO docs(id, title) VALUES (50, 'fifty'), (1, 'one')",
                       NULL, NULL, NULL) == SQLITE_CONSTRAINT);
    check_whole(db, "a statement that failed halfway");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* A unique index that goes does no harm to the contents; one that comes is told. */
TEST(unique_indexes_that_come_and_go_are_noticed)
{
    sqlite3 *db = open_db();
    char *name;
    mn_error err = {0};
    must(db, "CREATE TABLE extra AS SELECT 1; CREATE INDEX docs_a ON docs(a)");
    CHECK_OK(fts_find(db, "docs", &name, &err), err);
    CHECK_STR(name, "docs_fts");
    sqlite3_free(name);
    must(db, "CREATE UNIQUE INDEX docs_body ON docs(body)");
    CHECK_EQ(fts_find(db, "docs", &name, &err), MN_CORRUPT);
    CHECK_HAS(err.message, "its unique indexes changed; SELECT mneme_fts_rebuild('docs')");
    mn_error_clear(&err);
    CHECK_OK(fts_rebuild(db, "docs", "id", &err), err);
    CHECK_OK(fts_find(db, "docs", &name, &err), err);
    sqlite3_free(name);
    must(db, "REPLACE INTO docs(title, body) VALUES ('other', 'the cat sat')");
    check_whole(db, "replace by the new index");
    must(db, "DROP INDEX docs_body; INSERT INTO docs(title, body) VALUES ('other', 'the cat sat')");
    check_whole(db, "insert of what the dropped index would have refused");
    CHECK_OK(fts_rebuild(db, "docs", "id", &err), err);
    must(db, "CREATE UNIQUE INDEX docs_key ON docs(id + 1)");
    CHECK_EQ(fts_find(db, "docs", &name, &err), MN_INVALID);
    CHECK_HAS(err.message, "a unique index is over an expression of its key");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* REPLACE through indexes of every kind, and with the default that it puts in place of NULL. */
TEST(replace_is_followed_through_every_kind_of_index)
{
    sqlite3 *db;
    mn_error err = {0};
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    must(db, "CREATE TABLE docs(id INTEGER PRIMARY KEY, title, body, kind NOT NULL DEFAULT 'none', "
             "live, UNIQUE (kind)); CREATE UNIQUE INDEX docs_lower ON docs(lower(title)); "
             "CREATE UNIQUE INDEX docs_live ON docs(body) WHERE live;"
             "INSERT INTO docs VALUES (1, 'A', 'cat', 'none', 1), (2, 'B', 'dog', 'x', 0)");
    struct fts_spec s = spec_of("docs");
    CHECK_OK(fts_create(db, &s, &err), err);
    static const char *const changes[] = {
        "REPLACE INTO docs VALUES (3, 'b', 'fox', 'y', 0)",
        "REPLACE INTO docs VALUES (4, 'D', 'cat', 'z', 1)",
        "REPLACE INTO docs VALUES (5, 'E', 'fox', 'u', 0)",
        "REPLACE INTO docs VALUES (6, 'F', 'hen', 'none', 0)",
        "REPLACE INTO docs VALUES (7, 'G', 'owl', NULL, 0)",
        "UPDATE OR REPLACE docs SET title = 'e' WHERE id = 7",
        "UPDATE OR REPLACE docs SET live = 1",
        "UPDATE OR REPLACE docs SET kind = NULL WHERE id = 3",
        "UPDATE docs SET live = 0",
        "DELETE FROM docs"};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        must(db, changes[i]);
        check_whole(db, changes[i]);
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(a_table_that_was_renamed_keeps_its_full_text)
{
    sqlite3 *db = open_db();
    char *name;
    mn_error err = {0};
    must(db, "ALTER TABLE docs RENAME TO notes; ALTER TABLE notes RENAME COLUMN url TO link;"
             "ALTER TABLE notes RENAME COLUMN body TO \"the \"\"text\";"
             "INSERT OR REPLACE INTO notes(title, link) VALUES ('Zebras', 'u2')");
    CHECK_OK(fts_find(db, "notes", &name, &err), err);
    CHECK_STR(name, "docs_fts");
    sqlite3_free(name);
    CHECK_EQ(count(db, "SELECT count(*) FROM docs_fts WHERE docs_fts MATCH 'zebras OR dogs'"), 1);
    CHECK_OK(fts_rebuild(db, "notes", "id", &err), err); /* for snippet() and integrity-check */
    CHECK_EQ(count(db, "SELECT count(*) FROM docs_fts WHERE \"the \"\"text\" MATCH 'cat'"), 1);
    must(db, "INSERT INTO docs_fts(docs_fts, rank) VALUES ('integrity-check', 1)");
    CHECK_OK(fts_drop(db, "notes", &err), err);
    CHECK_EQ(count(db, "SELECT count(*) FROM sqlite_master WHERE name LIKE '%fts%'"), 0);
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(the_full_text_of_a_table_of_ours_is_renamed_with_it)
{
    sqlite3 *db = open_db();
    char *name, *view;
    mn_error err = {0};
    struct fts_spec s = spec_of("docs");
    CHECK_OK(fts_drop(db, "docs", &err), err);
    s.view = true;
    CHECK_OK(fts_create(db, &s, &err), err);
    CHECK_OK(fts_rename_begin(db, "docs_fts", &view, &err), err);
    CHECK_STR(view, "mneme_text_1");
    must(db, "ALTER TABLE docs RENAME TO notes");
    CHECK_OK(fts_rename_end(db, "notes", "id", "docs_fts", "notes_fts", view, &err), err);
    sqlite3_free(view);
    must(db, "REPLACE INTO notes(title, url) VALUES ('Zebras', 'u2');"
             "INSERT INTO notes_fts(notes_fts, rank) VALUES ('integrity-check', 1)");
    CHECK_OK(fts_find(db, "notes", &name, &err), err);
    CHECK_STR(name, "notes_fts");
    sqlite3_free(name);
    CHECK_OK(fts_rebuild(db, "notes", "id", &err), err);
    must(db, "INSERT INTO notes_fts(notes_fts, rank) VALUES ('integrity-check', 1)");
    CHECK_OK(fts_drop(db, "notes", &err), err);
    CHECK_EQ(count(db, "SELECT count(*) FROM sqlite_master WHERE name GLOB '*fts*' OR type = "
                       "'view'"), 0);
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* The way that SQLite's documentation tells for changes that ALTER TABLE cannot do. */
TEST(a_table_that_was_rebuilt_is_told_and_made_anew)
{
    sqlite3 *db = open_db();
    char *name;
    mn_error err = {0};
    must(db, "BEGIN; CREATE TABLE fresh(id INTEGER PRIMARY KEY, title, body, url UNIQUE); INSERT "
             "INTO fresh SELECT id, title, body, url FROM docs; DROP TABLE docs; ALTER TABLE fresh "
             "RENAME TO docs; COMMIT; INSERT INTO docs(title) VALUES ('Unseen')");
    CHECK_EQ(fts_find(db, "docs", &name, &err), MN_CORRUPT);
    CHECK(!name);
    CHECK_HAS(err.message, "full text over 'docs' ('docs_fts') is out of step: the table was "
                           "rebuilt");
    mn_error_clear(&err);
    CHECK_OK(fts_rebuild(db, "docs", "id", &err), err);
    check_whole(db, "rebuild");
    CHECK_OK(fts_find(db, "docs", &name, &err), err);
    sqlite3_free(name);
    CHECK_EQ(count(db, "SELECT count(*) FROM docs_fts WHERE docs_fts MATCH 'unseen'"), 1);
    must(db, "REPLACE INTO docs(title, url) VALUES ('Owls', 'u1')");
    check_whole(db, "replace");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(options_are_kept_when_it_is_made_anew)
{
    sqlite3 *db = open_db();
    char *name;
    mn_error err = {0};
    CHECK_OK(fts_drop(db, "docs", &err), err);
    struct fts_spec s = spec_of("docs");
    s.tokenize = "porter unicode61 tokenchars '-'";
    s.prefix = "2 3";
    s.weights = "10.0,1.0";
    CHECK_OK(fts_create(db, &s, &err), err);
    for (int i = 0; i < 2; i++) {
        must(db, "INSERT INTO docs(title, body) VALUES ('running-fast', 'jumping')");
        CHECK_EQ(count(db, "SELECT count(*) FROM docs_fts WHERE docs_fts MATCH 'jump'"), i + 1);
        CHECK_EQ(count(db, "SELECT count(*) FROM docs_fts WHERE docs_fts MATCH '\"running-fast\"'"),
                 i + 1);
        CHECK_EQ(count(db, "SELECT count(*) FROM docs_fts WHERE docs_fts MATCH 'fast'"), 0);
        CHECK_EQ(count(db, "SELECT rank = bm25(docs_fts, 10, 1) FROM docs_fts WHERE docs_fts MATCH "
                           "'cat'"), 1);
        CHECK_OK(fts_rebuild(db, "docs", "id", &err), err);
    }
    CHECK_OK(fts_find(db, "docs", &name, &err), err);
    sqlite3_free(name);
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(odd_names_are_names)
{
    sqlite3 *db;
    char *name;
    mn_error err = {0};
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    must(db, "CREATE TABLE \"my 'od\"\"d' table\"(\"the \"\"key\" INTEGER PRIMARY KEY, \"a 'b\" "
             "UNIQUE); INSERT INTO \"my 'od\"\"d' table\" VALUES (1, 'cat')");
    static const char *const odd[] = {"a 'b"};
    struct fts_spec s = {.table = "my 'od\"d' table", .id_column = "the \"key", .name = "x 'y\"z",
                         .columns = odd, .n = 1};
    CHECK_OK(fts_create(db, &s, &err), err);
    must(db, "REPLACE INTO \"my 'od\"\"d' table\" VALUES (2, 'cat'), (3, 'dog'), (3, 'cow')");
    must(db, "INSERT INTO \"x 'y\"\"z\"(\"x 'y\"\"z\", rank) VALUES ('integrity-check', 1)");
    CHECK_OK(fts_find(db, s.table, &name, &err), err);
    CHECK_STR(name, s.name);
    sqlite3_free(name);
    CHECK_OK(fts_rebuild(db, s.table, s.id_column, &err), err);
    CHECK_OK(fts_drop(db, s.table, &err), err);
    CHECK_EQ(count(db, "SELECT count(*) FROM sqlite_master"), 2); /* the table, its unique index */
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(what_cannot_be_is_refused)
{
    sqlite3 *db = open_db();
    char *name;
    mn_error err = {0};
    CHECK_OK(fts_drop(db, "docs", &err), err);
    CHECK_OK(fts_find(db, "docs", &name, &err), err);
    CHECK(!name);
    CHECK_EQ(fts_rebuild(db, "docs", "id", &err), MN_NOTFOUND);
    CHECK_HAS(err.message, "'docs' has no full text: mneme_index() makes it with fts=");
    mn_error_clear(&err);
    static const char *const unknown[] = {"title", "text"};
    struct fts_spec s = spec_of("docs");
    s.columns = unknown;
    CHECK_EQ(fts_create(db, &s, &err), MN_INVALID);
    CHECK_STR(err.message, "full text over 'docs': it has no column 'text'");
    mn_error_clear(&err);
    s = spec_of("docs");
    s.tokenize = "esperanto";
    CHECK(fts_create(db, &s, &err) != MN_OK);
    CHECK_HAS(err.message, "no such tokenizer: esperanto");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(what_people_write_becomes_a_query)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"", NULL},
        {" \t\n ", NULL},
        {"cat", "\"cat\""},
        {"  two  words ", "\"two\" OR \"words\""},
        {"cat cat Cat", "\"cat\" OR \"Cat\""},
        {"e-mail AND (NOT x) * ^y title:z",
         "\"e-mail\" OR \"AND\" OR \"(NOT\" OR \"x)\" OR \"*\" OR \"^y\" OR \"title:z\""},
        {"say \"hi\"", "\"say\" OR \"\"\"hi\"\"\""},
        {"\"", "\"\"\"\""},
    };
    sqlite3 *db = open_db();
    sqlite3_stmt *st;
    mn_error err = {0};
    CHECK_EQ(sqlite3_prepare_v2(db, "SELECT count(*) FROM docs_fts WHERE docs_fts MATCH ?", -1, &st,
                                NULL), SQLITE_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *query;
        CHECK_OK(fts_query(NULL, NULL, cases[i].text, strlen(cases[i].text), &query, &err), err);
        CHECK_STR(query ? query : "none", cases[i].want ? cases[i].want : "none");
        if (query) {
            sqlite3_bind_text(st, 1, query, -1, SQLITE_TRANSIENT);
            CHECKF(sqlite3_step(st) == SQLITE_ROW, "%s: %s", query, sqlite3_errmsg(db));
            sqlite3_reset(st);
        }
        sqlite3_free(query);
    }
    struct test_rng rng = {3};
    for (size_t i = 0; i < test_budget(2000); i++) {
        char text[300], *query;
        size_t n = test_below(&rng, sizeof text);
        for (size_t j = 0; j < n; j++)
            text[j] = "ab \"'()*^:-+{}ANDORT\0\xc3\xa9\xff"[test_below(&rng, 25)];
        CHECK_OK(fts_query(db, i % 2 ? "docs_fts" : NULL, text, n, &query, &err), err);
        if (!query)
            continue;
        sqlite3_bind_text(st, 1, query, -1, SQLITE_TRANSIENT);
        int rc = sqlite3_step(st);
        CHECKF(rc == SQLITE_ROW, "%s: %s", query, sqlite3_errmsg(db));
        sqlite3_reset(st);
        sqlite3_free(query);
    }
    sqlite3_finalize(st);
    char *query, many[1200] = "";
    for (int i = 0; i < 200; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "w%d ", i);
    CHECK_OK(fts_query(NULL, NULL, many, strlen(many), &query, &err), err);
    CHECK_HAS(query, "\"w63\"");
    CHECK(!strstr(query, "w64"));
    sqlite3_free(query);
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(words_that_most_of_many_rows_have_are_left_out)
{
    sqlite3 *db = open_db();
    mn_error err = {0};
    char *query;
    must(db, "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 10100) "
             "INSERT INTO docs(id, title, body) SELECT i, 'the ' || iif(i % 3, 'most', 'some'), "
             "'n' || i FROM n");
    static const struct {
        const char *text, *want;
    } cases[] = {{"the n77 most", "\"n77\""},
                 {"most some the", "\"some\""},
                 {"the most", "\"the\" OR \"most\""},
                 {"the", "\"the\""},
                 {"n1 n2 THE-most", "\"n1\" OR \"n2\""},
                 {"", "none"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = cases[i].text;
        CHECK_OK(fts_query(db, "docs_fts", text, strlen(text), &query, &err), err);
        CHECK_STR(query ? query : "none", cases[i].want);
        sqlite3_free(query);
    }
    must(db, "DELETE FROM docs WHERE id > 5000"); /* few rows: all words count */
    CHECK_OK(fts_query(db, "docs_fts", "the n77", 7, &query, &err), err);
    CHECK_STR(query, "\"the\" OR \"n77\"");
    sqlite3_free(query);
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

static void random_change(struct test_rng *rng, char *sql, size_t size)
{
    static const char *const words[] = {"red", "green", "blue", "cat", "dog", "Bird", "\xc3\xa9t"};
    static const char *const ors[] = {"", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT"};
    const char *or = ors[test_below(rng, 5)], *w = words[test_below(rng, 7)];
    const char *v = words[test_below(rng, 7)];
    int id = (int)test_below(rng, 12), other = (int)test_below(rng, 12);
    switch (test_below(rng, 6)) {
    case 0:
    case 1:
        snprintf(sql, size, "INSERT %s INTO docs VALUES (%d, '%s', '%s %s', 'u%d', %d, '%s')", or,
                 id, w, v, w, other, other % 3, v);
        break;
    case 2:
        snprintf(sql, size, "UPDATE %s docs SET id = %d, body = '%s' WHERE id = %d", or, other, v,
                 id);
        break;
    case 3:
        snprintf(sql, size, "UPDATE %s docs SET url = 'u%d', title = '%s' WHERE id >= %d", or,
                 other, w, id);
        break;
    case 4:
        snprintf(sql, size, "DELETE FROM docs WHERE id = %d", id);
        break;
    default:
        snprintf(sql, size, "INSERT INTO docs(id, title, url) VALUES (%d, '%s', 'u%d') ON CONFLICT "
                 "DO UPDATE SET body = '%s'", id, w, other, v);
    }
}

/* Random changes, after each of which FTS5 compares its index with the table. */
TEST(random_changes_keep_table_and_full_text_in_step)
{
    for (uint64_t seed = 1; seed <= test_budget(20); seed++) {
        struct test_rng rng = {seed};
        sqlite3 *db = open_db();
        if (seed % 2)
            must(db, "PRAGMA recursive_triggers = on");
        for (int step = 0; step < 60; step++) {
            char sql[400];
            random_change(&rng, sql, sizeof sql);
            int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
            CHECKF(rc == SQLITE_OK || rc == SQLITE_CONSTRAINT, "seed %d, %s: %s", (int)seed, sql,
                   sqlite3_errmsg(db));
            check_whole(db, sql);
        }
        CHECK_EQ(sqlite3_close(db), SQLITE_OK);
    }
}

TEST_MAIN
