/* Memory that runs out under SQL: the n-th allocation of a statement fails, for every n, Mneme's
 * own and SQLite's counted together. The statement fails for want of memory and leaves nothing
 * behind, or did not need that memory; the connection then goes on. */
#include "tests/sim/oom.h"
#include "tests/sql/steps.h"

static mn_error err;

/* Under a fresh connection its statements are prepared and the database is opened under the fault
 * as well; under a warm one every n is tried. */
static const struct {
    const char *name, *sql;
} scripts[] = {
    {"create", "CREATE VIRTUAL TABLE t USING mneme(id INTEGER PRIMARY KEY, e float[2], f int8[3] "
               "metric=ip, lang TEXT UNIQUE, tenant TEXT PARTITION KEY, +body TEXT)"},
    {"insert", "INSERT INTO docs(id, e, lang, tags) VALUES (11, '[1,2]', 'x', '[1]'), (12, "
               "x'0000803F00000040', 'y', NULL), (13, NULL, NULL, 5)"},
    {"replace", "INSERT OR REPLACE INTO docs(id, e, lang) VALUES (1, '[1,2]', 'en'), (2, '[1,2]', "
                "'en')"},
    {"update", "UPDATE docs SET id = id + 10, e = '[7,7]', year = 3 WHERE lang = 'en'"},
    {"delete", "DELETE FROM docs WHERE e MATCH '[0,0]' AND k = 2"},
    {"search", "SELECT id, lang, e, distance FROM docs WHERE e MATCH '[0,0]' AND k = 3 AND lang IN "
               "('en', 'de') AND year BETWEEN 1 AND 3000 AND json_contains(tags, 'x') AND id IN "
               "(SELECT id FROM docs)"},
    {"stream", "SELECT id FROM docs WHERE e MATCH '[0,0]' AND length(body) > 0 ORDER BY distance "
               "LIMIT 3 OFFSET 1"},
    {"bounds", "SELECT id FROM docs WHERE e MATCH '[0,0]' AND distance BETWEEN 1 AND 9"},
    {"join", "SELECT d.id, o.id FROM docs d JOIN docs o ON o.e MATCH d.e AND o.k = 2"},
    {"rows", "SELECT id, e FROM docs WHERE lang = 'en' AND tags IS NOT NULL OR year = 2021"},
    {"knn", "SELECT id, distance FROM knn('o', '[0,0]', 3, 'lang = ''en'' AND year < 2030')"},
    {"knn text", "SELECT id FROM knn('o', '[0,0]', 3, 'length(lang) = 2 OR year IS NULL')"},
    {"index", "SELECT mneme_index('p', 'e', 'dim=2 metric=cosine filter=lang')"},
    {"unindex", "SELECT mneme_unindex('o')"},
    {"rename", "ALTER TABLE docs RENAME TO papers"},
    {"rename indexed", "ALTER TABLE o RENAME TO oo"},
    {"drop", "DROP TABLE docs"},
    {"stats", "SELECT mneme_stats('docs')"},
    {"verify", "SELECT mneme_verify()"},
    {"recall", "SELECT mneme_recall('docs', 3)"},
    {"explain", "SELECT mneme_explain('SELECT id FROM docs WHERE e MATCH ''[0,0]'' AND k = 1')"},
    {"full text", "CREATE VIRTUAL TABLE ft USING mneme(e float[2], +body TEXT, words FTS(body)); "
                  "INSERT INTO ft(e, body) VALUES ('[1,2]', 'a b'); SELECT id FROM ft WHERE words "
                  "MATCH 'a'; DROP TABLE ft"},
    {"vectors", "SELECT vec_to_json(vec_add(e, '[1,2]')), vec_distance_l2(e, '[1,1]') FROM docs"},
};
enum { SCRIPTS = sizeof scripts / sizeof *scripts };

static const char filling[] =
    "CREATE VIRTUAL TABLE docs USING mneme(id INTEGER PRIMARY KEY, e float[2], lang TEXT, year "
    "INTEGER, tags JSON, +body TEXT);"
    "INSERT INTO docs(id, e, lang, year, tags, body) VALUES (1, '[3,4]', 'en', 2020, '[\"x\",1]', "
    "'one'), (2, '[6,8]', 'de', 2021, '[]', 'two'), (3, '[0,1]', 'en', NULL, NULL, 'three');"
    "CREATE TABLE o(id INTEGER PRIMARY KEY, e, lang TEXT, year INTEGER, u UNIQUE);"
    "INSERT INTO o VALUES (1, '[3,4]', 'en', 2020, 1), (2, x'0000803F00000040', 'de', 1, 2);"
    "SELECT mneme_index('o', 'e', 'dim=2 filter=lang,year');"
    "CREATE TABLE p(id INTEGER PRIMARY KEY, e, lang TEXT);"
    "INSERT INTO p VALUES (1, '[3,4]', 'en'), (2, x'0000803F00000040', 'de');";

/* Everything that the scripts may touch. */
static const char all[] =
    "SELECT * FROM docs; SELECT * FROM o; SELECT * FROM p; SELECT id, distance FROM docs WHERE e "
    "MATCH '[0,0]' AND k = 9; SELECT id, distance FROM knn('o', '[0,0]', 9); SELECT name FROM "
    "mneme_collections; SELECT name FROM sqlite_master ORDER BY name; SELECT mneme_verify()";

static void check_code(sqlite3 *db, int rc, const char *name, uint64_t n)
{
    bool memory = rc == SQLITE_OK || (rc & 255) == SQLITE_NOMEM || rc == SQLITE_IOERR_NOMEM ||
                  strstr(sqlite3_errmsg(db), "memory") ||
                  strstr(sqlite3_errmsg(db), "an earlier failure rolled it back");
    CHECKF(memory, "%s, allocation %" PRIu64 " failed: code %d, %s", name, n, rc,
           sqlite3_errmsg(db));
}

static void undo(sqlite3 *db)
{
    if (!sqlite3_get_autocommit(db))
        STEP(db, "ROLLBACK", "");
}

/* Every n at first, then some: a statement of DDL has thousands. */
static uint64_t next(uint64_t n)
{
    return test_long() ? n + 1 : test_budget(10) > 1 ? n + 1 + n / 15 : n + 1 + n / 5;
}

/* One connection, in a transaction that is undone each time. */
static void warm(const char *name, const char *sql, bool sticky)
{
    static char want[1 << 16];
    sqlite3 *db = steps_open(test_path("app.db"));
    snprintf(want, sizeof want, "%s", steps_ask(db, all));
    CHECKF(*want != '!', "%s", want);
    uint64_t fired = 1, n = 1;
    for (; fired; n = next(n)) {
        STEP(db, "BEGIN", "");
        oom_arm(n, sticky);
        int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
        fired = oom_fired();
        oom_arm(0, false);
        check_code(db, rc, name, n);
        undo(db);
        const char *have = n % 7 == 0 || !fired ? steps_ask(db, all) : want;
        CHECKF(strcmp(have, want) == 0, "%s, allocation %" PRIu64 ": %s\n    want %s", name, n,
               have, want);
    }
    steps_close(db);
    test_note("%s %" PRIu64, name, n);
}

TEST(statements_survive_every_failed_allocation)
{
    if (!oom_install())
        test_skip("SQLite does not let its allocator be set");
    sqlite3 *db = steps_open(test_path("app.db"));
    STEP(db, filling, "~");
    steps_close(db);
    int64_t before = oom_sqlite_balance();
    for (size_t i = 0; i < SCRIPTS; i++)
        warm(scripts[i].name, scripts[i].sql, false);
    for (size_t i = 0; i < SCRIPTS && test_budget(10) > 1; i++)
        warm(scripts[i].name, scripts[i].sql, true);
    CHECK_EQ(oom_sqlite_balance(), before);
}

/* From opening to closing. */
static int run_fresh(const char *sql, uint64_t n, uint64_t *fired)
{
    sqlite3 *db = NULL;
    mn_db *keeper = NULL;
    const mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND, .allocator = oom_hooks()};
    CHECK_OK(mn_open(test_path("app.db"), &opts, &keeper, &err), err);
    oom_arm(n, false);
    int rc = sqlite3_open(test_path("app.db"), &db);
    if (rc == SQLITE_OK)
        rc = mn_sql_register(db, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    *fired = oom_fired();
    oom_arm(0, false);
    check_code(db, rc, sql, n);
    CHECKF(sqlite3_close(db) == SQLITE_OK, "%s, allocation %" PRIu64 ": not closed", sql, n);
    CHECK_OK(mn_close(keeper, &err), err);
    return rc;
}

TEST(connections_survive_every_failed_allocation)
{
    static char want[1 << 16];
    if (!oom_install())
        test_skip("SQLite does not let its allocator be set");
    sqlite3 *db = steps_open(test_path("app.db"));
    STEP(db, filling, "~");
    snprintf(want, sizeof want, "%s", steps_ask(db, all));
    steps_close(db);
    int64_t before = oom_sqlite_balance(), ours = oom_balance();
    for (size_t i = 0; i < SCRIPTS; i += test_long() ? 1 : 5) {
        uint64_t fired = 1;
        for (uint64_t n = 1; fired; n = next(n))
            run_fresh(scripts[i].sql, n, &fired);
    }
    CHECK_EQ(oom_sqlite_balance(), before);
    CHECK_EQ(oom_balance(), ours);
    db = steps_open(test_path("app.db"));
    CHECK_STR(steps_ask(db, all), want);
    steps_close(db);
}

TEST_MAIN
