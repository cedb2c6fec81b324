/* A database with collections that is in rollback-journal mode: copied by VACUUM INTO, restored
 * from a dump, or set so by hand. The first use, whichever, switches it to write-ahead logging. */
#include "tests/sql/steps.h"

static void use(const char *sql, const char *want)
{
    sqlite3 *db = steps_open(test_path("a.db"));
    const char *got = steps_ask(db, sql);
    CHECKF(strcmp(got, want) == 0, "%s: %s, want %s", sql, got, want);
    CHECK_STR(steps_ask(db, "PRAGMA journal_mode"), "wal");
    CHECK(sqlite3_close(db) == SQLITE_OK);
    db = steps_open_plain(test_path("a.db"));
    CHECK_STR(steps_ask(db, "PRAGMA journal_mode = delete"), "delete");
    CHECK(sqlite3_close(db) == SQLITE_OK);
}

TEST(the_first_use_switches_to_write_ahead_logging)
{
    use("CREATE VIRTUAL TABLE v USING mneme(id INTEGER PRIMARY KEY, e float[2]);"
        "INSERT INTO v VALUES (1, '[1, 0]'), (2, '[0, 1]')",
        "");
    use("SELECT id FROM v WHERE e MATCH '[1, 0]' AND k = 1", "1");
    use("SELECT rowid FROM knn('v', '[0, 1]', 1)", "2");
    use("SELECT count(*) FROM v", "2");
    use("INSERT INTO v VALUES (3, '[1, 1]')", "");
    use("BEGIN; DELETE FROM v WHERE id = 3; COMMIT", "");
    use("SELECT mneme_recall('v')", "1");
}

TEST_MAIN
