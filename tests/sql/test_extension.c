/* The extension among others: loaded beside the library and beside itself, on databases in memory,
 * attached, read-only, in a rollback journal; while plain SQLite, another process or a foreign hand
 * changes what lies under it. */
#include "tests/sql/steps.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static mn_error err;

static const char near[] = "SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 9";
static const char make[] =
    "CREATE VIRTUAL TABLE docs USING mneme(id INTEGER PRIMARY KEY, e float[2], lang TEXT);"
    "INSERT INTO docs VALUES (1, '[3,0]', 'en'), (2, '[1,0]', 'de'), (3, '[2,0]', 'en')";

static int load(sqlite3 *db, char **message)
{
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    return sqlite3_load_extension(db, MNEME_BUILD_DIR "/mneme.so", NULL, message);
}

static sqlite3 *open_loaded(const char *path)
{
    if (access(MNEME_BUILD_DIR "/mneme.so", R_OK) != 0)
        test_skip("mneme.so is not built");
    sqlite3 *db = steps_open_plain(path);
    char *message = NULL;
    int rc = load(db, &message);
    CHECKF(rc == SQLITE_OK, "%s", message);
    return db;
}

/* In a process of its own, by the stock program; must succeed. */
static void plain(const char *sql)
{
    char command[2000];
    if (access("/usr/bin/sqlite3", X_OK) != 0)
        test_skip("there is no sqlite3 program");
    snprintf(command, sizeof command,
             "/usr/bin/sqlite3 -cmd '.timeout 9000' '%s' \"%s\" >/dev/null", test_path("app.db"),
             sql);
    CHECK_EQ(system(command), 0);
}

/* ---- Loaded ---------------------------------------------------------------------------------- */

TEST(it_may_be_loaded_twice_and_registered_as_well)
{
    sqlite3 *db = open_loaded(test_path("app.db"));
    STEP(db, make, "");
    CHECK_EQ(load(db, NULL), SQLITE_OK);
    CHECK_EQ(mn_sql_register(db, NULL), SQLITE_OK);
    STEP(db, near, "2 3 1");
    steps_close(db);
}

/* One program has the library linked, and a part of it loads the extension: two copies of Mneme and
 * one of SQLite, on one file. */
TEST(library_and_extension_share_a_database_in_one_process)
{
    sqlite3 *a = steps_open(test_path("app.db"));
    STEP(a, make, "");
    sqlite3 *b = open_loaded(test_path("app.db"));
    STEP(b, near, "2 3 1");
    STEP(b, "INSERT INTO docs VALUES (4, '[0,0]', 'pl')", "");
    STEP(a, near, "4 2 3 1");
    static const char many[] =
        "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 12000) INSERT "
        "INTO docs(e, lang) SELECT '[' || (10 + x % 1000) || ',' || (x / 1000) || ']', 'xx' FROM c";
    STEP(a, many, "");
    STEP(b, "SELECT mneme_fold('docs') > 10000", "1");
    STEP(a, "DELETE FROM docs WHERE id = 2", "");
    STEP(b, "UPDATE docs SET e = '[0,1]' WHERE id = 1", "");
    STEP(a, "SELECT mneme_fold('docs') > 10000", "1");
    static const char both[] = "SELECT id, distance FROM docs WHERE e MATCH '[0,0]' AND k = 3";
    STEP(a, both, "4|0 1|1 3|2");
    STEP(b, both, "4|0 1|1 3|2");
    STEP(b, "INSERT INTO docs VALUES (20000, '[0,0]', 'zz')", "");
    STEP(a, "SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 3 AND lang = 'zz'", "20000");
    STEP(a, "SELECT mneme_verify()", "ok");
    steps_close(a);
    STEP(b, "SELECT mneme_verify()", "ok");
    steps_close(b);
}

static void call_other(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    (void)args;
    sqlite3_result_text(ctx, "9.9.9", -1, SQLITE_STATIC);
}

TEST(another_version_is_refused_with_a_sentence)
{
    sqlite3 *db = steps_open_plain(test_path("app.db"));
    char *message = NULL;
    CHECK_EQ(
        sqlite3_create_function(db, "mneme_version", 0, SQLITE_UTF8, NULL, call_other, NULL, NULL),
        SQLITE_OK);
    CHECK_EQ(mn_sql_register(db, &message), SQLITE_ERROR);
    CHECK_HAS(message, "9.9.9");
    CHECK_HAS(message, "load one of them");
    sqlite3_free(message);
    CHECK_EQ(mn_sql_register(db, NULL), SQLITE_ERROR);
    steps_close(db);
}

TEST(a_connection_with_open_statements_closes_once_they_are_gone)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    sqlite3_stmt *st = NULL, *knn = NULL;
    STEP(db, make, "");
    CHECK_EQ(sqlite3_prepare_v2(db, near, -1, &st, NULL), SQLITE_OK);
    CHECK_EQ(sqlite3_step(st), SQLITE_ROW);
    CHECK_EQ(sqlite3_prepare_v2(db, "SELECT id FROM knn('docs', '[0,0]', 3)", -1, &knn, NULL),
             SQLITE_OK);
    CHECK_EQ(sqlite3_step(knn), SQLITE_ROW);
    CHECK_EQ(sqlite3_close(db), SQLITE_BUSY);
    CHECK_EQ(sqlite3_step(st), SQLITE_ROW); /* it goes on */
    CHECK_EQ(sqlite3_step(knn), SQLITE_ROW);
    CHECK_STR(steps_ask(db, near), "2 3 1");
    CHECK_EQ(sqlite3_finalize(st), SQLITE_OK);
    CHECK_EQ(sqlite3_finalize(knn), SQLITE_OK);
    steps_close(db);

    db = steps_open(test_path("app.db"));
    CHECK_EQ(sqlite3_prepare_v2(db, near, -1, &st, NULL), SQLITE_OK);
    CHECK_EQ(sqlite3_step(st), SQLITE_ROW);
    CHECK_EQ(sqlite3_close_v2(db), SQLITE_OK); /* a zombie until then */
    CHECK_EQ(sqlite3_step(st), SQLITE_ROW);
    CHECK_EQ(sqlite3_finalize(st), SQLITE_OK);
}

TEST(programs_may_distrust_schemas)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    STEP(db, make, "");
    STEP(db, "CREATE VIEW v AS SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 1", "");
    STEP(db, "CREATE VIEW f AS SELECT mneme_fold('docs')", "");
    STEP(db, "CREATE VIEW s AS SELECT vec_length(e) FROM docs LIMIT 1", "");
    STEP(db, "SELECT * FROM f", "!unsafe use of mneme_fold");
    STEP(db, "PRAGMA trusted_schema = OFF", "");
    CHECK_EQ(sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL), SQLITE_OK);
    STEP(db, near, "2 3 1");
    STEP(db, "SELECT * FROM s", "2");
    STEP(db, "INSERT INTO docs VALUES (4, '[0,0]', 'en')", "");
    STEP(db, "UPDATE docs SET lang = 'fr' WHERE id = 4", "");
    STEP(db, "SELECT id FROM knn('docs', '[0,0]', 1, 'lang = ''fr''')", "4");
    STEP(db, "INSERT INTO docs_rows(id, lang) VALUES (5, 'x')", "!may not be modified");
    STEP(db, "DROP TABLE docs_rows", "!may not be dropped");
    STEP(db, "ALTER TABLE docs RENAME TO papers", "");
    STEP(db, "SELECT id FROM papers WHERE e MATCH '[0,0]' AND k = 1", "4");
    STEP(db, "DROP VIEW v; DROP TABLE papers", "");
    STEP(db, make, "");
    STEP(db, near, "2 3 1");
    STEP(db, "SELECT mneme_verify()", "ok");
    steps_close(db);
}

/* ---- Databases ------------------------------------------------------------------------------- */

TEST(databases_in_memory_and_temporary_ones_work)
{
    static const char *const paths[] = {":memory:", "", "file:shared?mode=memory&cache=shared"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        sqlite3 *db = steps_open(paths[i]);
        STEP(db, make, "");
        STEP(db, near, "2 3 1");
        STEP(db, "BEGIN; DELETE FROM docs WHERE id = 2; ROLLBACK", "");
        STEP(db, "UPDATE docs SET id = 9 WHERE id = 3", "");
        STEP(db, near, "2 9 1");
        STEP(db, "CREATE TABLE o(id INTEGER PRIMARY KEY, e); INSERT INTO o VALUES (5, '[1,1]')",
             "");
        STEP(db, "SELECT mneme_index('o', 'e', 'dim=2')", "~o: 1 vectors");
        STEP(db, "SELECT id FROM knn('o', '[0,0]')", "5");
        STEP(db, "SELECT mneme_fold('docs')", "!in memory");
        STEP(db, "SELECT mneme_stats('docs') ->> 'vectors'", "3");
        STEP(db, "ALTER TABLE docs RENAME TO papers; DROP TABLE papers", "");
        STEP(db, "SELECT mneme_unindex('o')", "1");
        steps_close(db);
    }
}

TEST(attached_databases_are_refused_with_a_sentence)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    char sql[700];
    STEP(db, make, "");
    snprintf(sql, sizeof sql, "ATTACH '%s' AS other", test_path("other.db"));
    STEP(db, sql, "");
    STEP(db, "CREATE VIRTUAL TABLE other.t USING mneme(e float[2])", "!main database&open 'other'");
    STEP(db, "CREATE VIRTUAL TABLE temp.t USING mneme(e float[2])", "!main database");
    STEP(db, near, "2 3 1");
    steps_close(db);
    db = steps_open(test_path("third.db"));
    snprintf(sql, sizeof sql, "ATTACH '%s' AS app", test_path("app.db"));
    STEP(db, sql, "");
    STEP(db, "SELECT id FROM app.docs WHERE e MATCH '[0,0]' AND k = 9", "!main database&app");
    STEP(db, "SELECT count(*) FROM app.docs_rows", "3");
    steps_close(db);
}

TEST(a_database_that_may_only_be_read_is_searched)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    char uri[700];
    STEP(db, make, "");
    steps_close(db);
    static const char *const modes[] = {"mode=ro", "immutable=1"};
    for (int i = 0; i < 2; i++) {
        snprintf(uri, sizeof uri, "file:%s?%s", test_path("app.db"), modes[i]);
        db = steps_open(uri);
        STEP(db, near, "2 3 1");
        STEP(db, "SELECT id FROM knn('docs', '[0,0]', 1, 'lang = ''en''')", "3");
        STEP(db, "INSERT INTO docs VALUES (4, '[0,0]', 'en')", "!readonly");
        STEP(db, "CREATE VIRTUAL TABLE t USING mneme(e float[2])", "!");
        STEP(db, "DROP TABLE docs", "!readonly");
        STEP(db, "SELECT mneme_fold('docs')", "!read-only");
        STEP(db, near, "2 3 1");
        steps_close(db);
    }
    db = steps_open(test_path("app.db"));
    STEP(db, "PRAGMA query_only = ON", "");
    STEP(db, near, "2 3 1");
    STEP(db, "INSERT INTO docs VALUES (4, '[0,0]', 'en')", "!readonly");
    steps_close(db);
}

TEST(a_rollback_journal_becomes_a_write_ahead_log)
{
    static const char mode[] = "PRAGMA journal_mode";
    sqlite3 *db = steps_open(test_path("table.db"));
    STEP(db, "CREATE TABLE x(y)", "");
    STEP(db, mode, "delete");
    STEP(db, make, "");
    STEP(db, mode, "wal");
    STEP(db, near, "2 3 1");
    steps_close(db);

    db = steps_open(test_path("index.db"));
    STEP(db, "CREATE TABLE o(id INTEGER PRIMARY KEY, e); INSERT INTO o VALUES (5, '[1,1]')", "");
    STEP(db, "SELECT mneme_index('o', 'e', 'dim=2')", "~switched&WAL");
    STEP(db, mode, "wal");
    steps_close(db);

    db = steps_open(test_path("inside.db"));
    STEP(db, "BEGIN", "");
    STEP(db, make, "");
    STEP(db, near, "2 3 1");
    STEP(db, "COMMIT", "");
    STEP(db, near, "2 3 1");
    STEP(db, "INSERT INTO docs VALUES (4, '[0,0]', 'en')", "");
    STEP(db, mode, "wal");
    STEP(db, near, "4 2 3 1");
    steps_close(db);

    db = steps_open_plain(test_path("inside.db")); /* and back, by a foreign hand */
    STEP(db, "PRAGMA journal_mode = DELETE", "delete");
    steps_close(db);
    db = steps_open(test_path("inside.db"));
    STEP(db, near, "4 2 3 1");
    STEP(db, "DELETE FROM docs WHERE id = 4", "");
    STEP(db, near, "2 3 1");
    STEP(db, "SELECT mneme_verify()", "ok");
    steps_close(db);
}

/* ---- Others ---------------------------------------------------------------------------------- */

TEST(another_process_writes_without_the_extension)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    STEP(db, make, "");
    STEP(db, "CREATE TABLE o(id INTEGER PRIMARY KEY, e, u UNIQUE)", "");
    STEP(db, "INSERT INTO o VALUES (1, '[5,0]', 'a'), (2, '[6,0]', 'b')", "");
    STEP(db, "SELECT mneme_index('o', 'e', 'dim=2')", "~2 vectors");
    STEP(db, near, "2 3 1");
    plain("INSERT INTO docs_rows(id, e) VALUES (7, x'0000000000000000')");
    STEP(db, near, "7 2 3 1");
    plain("DELETE FROM docs_rows WHERE id = 2; UPDATE docs_rows SET id = 8 WHERE id = 7");
    STEP(db, near, "8 3 1");
    plain("REPLACE INTO o VALUES (3, '[1,0]', 'a')"); /* no delete trigger fires for row 1 */
    STEP(db, "SELECT id FROM knn('o', '[0,0]')", "3 2");
    STEP(db, "BEGIN", "");
    STEP(db, near, "8 3 1");
    plain("DELETE FROM docs_rows WHERE id = 3");
    STEP(db, near, "8 3 1");
    STEP(db, "COMMIT", "");
    STEP(db, near, "8 1");
    plain("VACUUM");
    STEP(db, near, "8 1");
    STEP(db, "SELECT mneme_verify()", "ok");
    steps_close(db);
}

TEST(tables_under_an_index_are_renamed_rebuilt_and_dropped)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    static const char o[] = "SELECT id FROM knn('o', '[0,0]')";
    STEP(db, "CREATE TABLE o(id INTEGER PRIMARY KEY, e, lang)", "");
    STEP(db, "INSERT INTO o VALUES (1, '[5,0]', 'a'), (2, '[4,0]', 'b')", "");
    STEP(db, "SELECT mneme_index('o', 'e', 'dim=2 filter=lang')", "~2 vectors");
    plain("ALTER TABLE o RENAME TO p; INSERT INTO p VALUES (3, '[1,0]', 'c')");
    STEP(db, o, "3 2 1");
    plain("ALTER TABLE p RENAME COLUMN lang TO language; UPDATE p SET language = 'z' WHERE id = 1");
    STEP(db, "SELECT id FROM knn('o', '[0,0]', 9, 'language = ''z''')", "1");
    STEP(db, "SELECT mneme_fold('o')", "0"); /* writes the new names down */
    /* The pattern of SQLite's manual: the triggers go with the old table. */
    plain("BEGIN; CREATE TABLE q(id INTEGER PRIMARY KEY, e, language, more); INSERT INTO q SELECT "
          "id, e, language, 1 FROM p; DROP TABLE p; ALTER TABLE q RENAME TO p; DELETE FROM p WHERE "
          "id = 3; COMMIT");
    STEP(db, o, "2 1");
    plain("INSERT INTO p VALUES (9, '[0,0]', 'n', 2)");
    STEP(db, o, "9 2 1");
    plain("DROP TABLE p");
    STEP(db, o, "!'o'&gone&drop the collection");
    STEP(db, "SELECT mneme_stats('o')", "!gone");
    STEP(db, "SELECT mneme_unindex('o')", "1");
    STEP(db, o, "!no collection 'o'");
    STEP(db, "SELECT mneme_verify()", "ok");
    steps_close(db);
}

TEST(prepared_statements_outlive_changes_of_the_schema)
{
    sqlite3 *db = steps_open(test_path("app.db")), *other = steps_open(test_path("app.db"));
    sqlite3_stmt *st = NULL, *knn = NULL, *insert = NULL;
    STEP(db, make, "");
    CHECK_EQ(sqlite3_prepare_v2(db, near, -1, &st, NULL), SQLITE_OK);
    CHECK_EQ(sqlite3_prepare_v2(db, "SELECT id FROM knn('docs', '[0,0]')", -1, &knn, NULL),
             SQLITE_OK);
    CHECK_EQ(sqlite3_prepare_v2(db, "INSERT INTO docs(e) VALUES ('[9,9]')", -1, &insert, NULL),
             SQLITE_OK);
    sqlite3_stmt *all[] = {st, knn, insert};
    static const char *const changes[] = {"CREATE TABLE more(x)",
                                          "CREATE INDEX more_x ON more(x)",
                                          "ALTER TABLE docs RENAME TO d2",
                                          "ALTER TABLE d2 RENAME TO docs",
                                          "CREATE INDEX rows_lang ON docs_rows(lang)",
                                          "DROP TABLE more",
                                          "ALTER TABLE docs_rows ADD COLUMN more"};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        for (size_t s = 0; s < 3; s++) {
            int rc = sqlite3_step(all[s]);
            CHECKF(rc == (s < 2 ? SQLITE_ROW : SQLITE_DONE), "before %s: statement %zu: %s",
                   changes[i], s, sqlite3_errmsg(db));
            if (s < 2)
                CHECK_EQ(sqlite3_column_int64(all[s], 0), 2);
            CHECK_EQ(sqlite3_reset(all[s]), SQLITE_OK);
        }
        STEP(i % 2 ? db : other, changes[i], "");
        if (i == 2) { /* renamed: an error until it has its name again */
            CHECK_EQ(sqlite3_step(st), SQLITE_ERROR);
            sqlite3_reset(st);
            CHECK_HAS(sqlite3_errmsg(db), "no such table: docs");
            STEP(db, changes[++i], "");
        }
    }
    for (size_t s = 0; s < 3; s++)
        sqlite3_finalize(all[s]);
    STEP(db, "SELECT mneme_verify()", "ok");
    steps_close(other);
    steps_close(db);
}

/* ---- The sidecar ----------------------------------------------------------------------------- */

/* From `at` on. */
static void overwrite(const char *path, off_t at)
{
    char noise[4096];
    struct stat s;
    struct test_rng rng = {3};
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (char)test_rand(&rng);
    CHECK_EQ(stat(path, &s), 0);
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0);
    for (; at < s.st_size; at += (off_t)sizeof noise)
        CHECK_EQ(pwrite(fd, noise, sizeof noise, at), (long long)sizeof noise);
    CHECK_EQ(close(fd), 0);
}

TEST(a_lost_or_damaged_sidecar_costs_time_and_no_rows)
{
    static const char three[] = "SELECT id FROM docs WHERE e MATCH '[0,0]' AND k = 3";
    char sidecar[700];
    snprintf(sidecar, sizeof sidecar, "%s", test_path("app.db-mneme"));
    for (int damage = 0; damage < 3; damage++) {
        sqlite3 *db = steps_open(test_path("app.db"));
        if (damage == 0) {
            STEP(db, make, "");
            STEP(db,
                 "WITH RECURSIVE c(x) AS (VALUES (10) UNION ALL SELECT x + 1 FROM c WHERE x < "
                 "12000) INSERT INTO docs(id, e) SELECT x, '[' || x || ',' || (x % 7) || ']' "
                 "FROM c",
                 "");
        }
        STEP(db, "SELECT mneme_fold('docs') > 10000", "1");
        STEP(db, "SELECT mneme_stats('docs') ->> 'indexed'", "1");
        STEP(db, three, "2 3 1");
        if (damage == 2) { /* under a connection that has it open */
            overwrite(sidecar, 4096);
            STEP(db, three, "2 3 1");
        }
        steps_close(db);
        CHECK_EQ(access(sidecar, R_OK), 0);
        if (damage == 0)
            CHECK_EQ(unlink(sidecar), 0);
        else
            overwrite(sidecar, damage == 1 ? 0 : 16384);
        db = steps_open(test_path("app.db"));
        STEP(db, three, "2 3 1");
        STEP(db, "UPDATE docs SET lang = 'seen' WHERE e MATCH '[0,0]' AND k = 1", "");
        STEP(db, "SELECT id FROM docs WHERE lang = 'seen'", "2");
        if (damage == 1) { /* it could be anything, and is not overwritten unasked */
            STEP(db, "SELECT mneme_fold('docs')", "!no sidecar of Mneme&rebuild");
            STEP(db, "SELECT mneme_rebuild('docs') > 10000", "1");
        }
        STEP(db, "SELECT mneme_fold('docs') > 10000", "1");
        STEP(db, three, "2 3 1");
        STEP(db, "SELECT mneme_verify()", "ok");
        steps_close(db);
    }
}

/* A database copied by a file manager, without its sidecar, is whole. */
TEST(a_copied_database_is_whole)
{
    sqlite3 *db = steps_open(test_path("app.db"));
    char sql[700];
    STEP(db, make, "");
    snprintf(sql, sizeof sql, "VACUUM INTO '%s'", test_path("copy.db"));
    STEP(db, sql, "");
    steps_close(db);
    mn_db *m;
    mn_conn *conn;
    mn_hit hit;
    uint32_t found;
    const float origin[2] = {0, 0};
    db = steps_open(test_path("copy.db"));
    STEP(db, near, "2 3 1");
    CHECK_OK(mn_open(test_path("copy.db"), NULL, &m, &err), err);
    CHECK_OK(mn_connect(m, &conn, &err), err);
    CHECK_OK(mn_search(conn, "docs", origin, 1, 1, NULL, &hit, &found, &err), err);
    CHECK_EQ(hit.id, 2);
    mn_disconnect(conn);
    CHECK_OK(mn_close(m, &err), err);
    steps_close(db);
}

TEST_MAIN
