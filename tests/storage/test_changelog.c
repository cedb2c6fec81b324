/* The change log on a plain table, through SQLite alone: what is logged, what is noticed when
 * somebody changed it by hand, what never comes back. */
#include <sqlite3.h>

#include "storage/base/error.h"
#include "storage/changelog.h"
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

static const struct changelog_table own = {.number = 3, .name = "t", .key = "id"};

/* Table "t" with its log, number 3. */
static void begin(const char *columns)
{
    char text[300];
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    snprintf(text, sizeof text, "CREATE TABLE t(id INTEGER PRIMARY KEY, version INTEGER%s)",
             columns);
    sql(text);
    CHECK_OK(changelog_create(db, &own, &err), err);
    CHECK_OK(changelog_restart(db, &own, &err), err);
}

static void end(void)
{
    CHECK(sqlite3_close(db) == SQLITE_OK);
}

static bool intact(void)
{
    bool is;
    CHECK_OK(changelog_check(db, &own, &is, &err), err);
    return is;
}

static bool watchable(const char *column)
{
    bool is;
    CHECK_OK(changelog_watchable(db, db, &own, column, &is, &err), err);
    return is;
}

/* Ids logged after `seq`, as text: "1 5 ". */
static const char *since(int64_t seq)
{
    static char ids[200];
    sqlite3_stmt *st;
    char *text = changelog_sql_since(3);
    CHECK(sqlite3_prepare_v2(db, text, -1, &st, NULL) == SQLITE_OK);
    sqlite3_free(text);
    sqlite3_bind_int64(st, 1, seq);
    ids[0] = '\0';
    while (sqlite3_step(st) == SQLITE_ROW) {
        size_t n = strlen(ids);
        snprintf(ids + n, sizeof ids - n, "%lld ", (long long)sqlite3_column_int64(st, 0));
    }
    sqlite3_finalize(st);
    return ids;
}

static int64_t head(void)
{
    return number("SELECT max(seq) FROM mneme_log_3");
}

TEST(every_kind_of_change_is_logged_once)
{
    static const struct {
        const char *sql, *ids;
        int64_t entries;
    } changes[] = {
        {"INSERT INTO t(id, a) VALUES (7, 'x')", "7 ", 1},
        {"INSERT INTO t(id, a) VALUES (8, 'y'), (9, 'z')", "8 9 ", 2},
        {"UPDATE t SET a = 'w' WHERE id = 8", "8 ", 1},
        {"UPDATE t SET a = a", "7 8 9 ", 3},
        {"UPDATE t SET id = 70 WHERE id = 7", "7 70 ", 2},
        {"UPDATE t SET version = version", "", 0},
        {"INSERT INTO t(id, a) VALUES (8, 'v') ON CONFLICT(id) DO UPDATE SET a = 'v'", "8 ", 1},
        {"REPLACE INTO t(id, a) VALUES (8, 'q')", "8 ", 1},
        {"DELETE FROM t WHERE id = 70", "70 ", 1},
        {"DELETE FROM t", "8 9 ", 2},
        {"DELETE FROM t", "", 0}};
    begin(", a, payload TEXT");
    CHECK(intact() && watchable("a"));
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        int64_t before = head();
        sql(changes[i].sql);
        CHECKF(strcmp(since(before), changes[i].ids) == 0, "%s: %s", changes[i].sql, since(before));
        CHECKF(head() - before == changes[i].entries, "%s", changes[i].sql);
        CHECK_EQ(number("SELECT count(*) FROM t WHERE version IS NULL"), 0);
        CHECK_EQ(number("SELECT count(*) FROM t WHERE version <> (SELECT max(seq) FROM mneme_log_3 "
                        "l WHERE l.id = t.id)"),
                 0);
    }
    end();
}

TEST(a_predicted_version_is_kept_and_a_wrong_one_mended)
{
    begin(", a");
    int64_t next = head() + 1;
    char text[100];
    snprintf(text, sizeof text, "INSERT INTO t(id, version) VALUES (1, %lld)", (long long)next);
    int changes = sqlite3_total_changes(db);
    sql(text);
    CHECK_EQ(sqlite3_total_changes(db) - changes, 2); /* the row and its entry: no update */
    CHECK_EQ(number("SELECT version FROM t"), next);
    sql("INSERT INTO t(id, version) VALUES (2, 1)");
    CHECK_EQ(number("SELECT version FROM t WHERE id = 2"), next + 1);
    end();
}

TEST(rows_that_a_replace_removes_are_logged)
{
    begin(", a UNIQUE, b");
    sql("INSERT INTO t(id, a, b) VALUES (1, 'x', 1), (2, 'y', 2), (3, NULL, 3), (4, NULL, 4)");
    int64_t at = head();
    sql("INSERT OR REPLACE INTO t(id, a) VALUES (9, 'x')");
    CHECK_STR(since(at), "1 9 ");
    at = head();
    sql("UPDATE OR REPLACE t SET a = 'y' WHERE id = 9");
    CHECK_STR(since(at), "2 9 ");
    at = head();
    sql("INSERT INTO t(id, a) VALUES (10, NULL)"); /* NULLs stand in nobody's way */
    CHECK_STR(since(at), "10 ");
    at = head();
    sql("INSERT OR IGNORE INTO t(id, a) VALUES (11, 'y')"); /* one entry too many is allowed */
    CHECK(strcmp(since(at), "") == 0 || strcmp(since(at), "9 ") == 0);
    end();
}

TEST(a_schema_changed_by_hand_is_noticed_and_mended)
{
    static const char *const changes[] = {
        "DROP TRIGGER mneme_3_insert",
        "DROP TRIGGER mneme_3_update",
        "DROP TRIGGER mneme_3_delete",
        ("DROP TRIGGER mneme_3_delete; CREATE TRIGGER mneme_3_delete AFTER DELETE ON t BEGIN "
         "SELECT "
         "1; END"),
        "CREATE UNIQUE INDEX u ON t(a)",
        "CREATE UNIQUE INDEX v ON t(a COLLATE NOCASE, b) WHERE b > 3",
        "ALTER TABLE t ADD COLUMN more",
        "DROP TABLE mneme_log_3",
        "DROP TABLE mneme_log_3; CREATE TABLE mneme_log_3(seq INTEGER PRIMARY KEY, id, stamp)"};
    static const char *const harmless[] = {"CREATE INDEX i ON t(a)", "CREATE TABLE other(x UNIQUE)",
                                           "CREATE TRIGGER o AFTER INSERT ON t BEGIN SELECT 1; END",
                                           "DELETE FROM mneme_log_3"};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        begin(", a, b");
        sql("INSERT INTO t(id, a, b) VALUES (1, 'x', 5), (2, 'y', 6)");
        int64_t highest = number("SELECT max(version) FROM t");
        sql(changes[i]);
        CHECKF(!intact(), "%s", changes[i]);
        CHECK_OK(changelog_restart(db, &own, &err), err);
        CHECKF(intact(), "%s", changes[i]);
        CHECK_EQ(number("SELECT count(*) FROM mneme_log_3"), 1);
        CHECKF(head() > highest, "%s: %" PRId64 " after %" PRId64, changes[i], head(), highest);
        sql("INSERT INTO t(id, a, b) VALUES (3, 'z', 7)");
        CHECK(number("SELECT version FROM t WHERE id = 3") > highest);
        end();
    }
    begin(", a, b");
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        sql(harmless[i]);
        CHECKF(intact() && watchable("a"), "%s", harmless[i]);
    }
    CHECK_OK(changelog_drop(db, 3, &err), err);
    CHECK(!intact());
    CHECK_EQ(number("SELECT count(*) FROM sqlite_master WHERE name LIKE 'mneme%'"), 0);
    end();
}

TEST(a_sequence_number_never_comes_back)
{
    begin(", a");
    sql("INSERT INTO t(id) VALUES (1), (2), (3)");
    int64_t at = head();
    char *next = changelog_sql_next(3, true);
    CHECK_EQ(number(next), at);
    sql("DELETE FROM mneme_log_3");
    CHECK_EQ(number(next), at);
    sql("UPDATE t SET a = 1 WHERE id = 1");
    CHECK_EQ(head(), at + 1);
    CHECK_OK(changelog_restart(db, &own, &err), err);
    CHECK_EQ(head(), at + 2);
    sqlite3_free(next);
    end();
}

TEST(stamps_tell_two_histories_apart)
{
    begin(", a");
    char *text = changelog_sql_at(3);
    int64_t stamps[2];
    for (int i = 0; i < 2; i++) {
        sqlite3_stmt *st;
        sql("SAVEPOINT s; INSERT INTO t(id) VALUES (1)");
        int64_t at = head();
        CHECK(sqlite3_prepare_v2(db, text, -1, &st, NULL) == SQLITE_OK);
        sqlite3_bind_int64(st, 1, at);
        CHECK(sqlite3_step(st) == SQLITE_ROW);
        stamps[i] = sqlite3_column_int64(st, 0);
        sqlite3_reset(st);
        sqlite3_bind_int64(st, 1, at + 1);
        CHECK(sqlite3_step(st) == SQLITE_DONE);
        sqlite3_finalize(st);
        sql("ROLLBACK TO s; RELEASE s");
    }
    sqlite3_free(text);
    CHECK(stamps[0] != stamps[1]); /* 2^-31 to be equal by chance */
    CHECK(stamps[0] >= 0 && stamps[0] < (int64_t)1 << 31);
    end();
}

TEST(trimming_goes_in_bounded_steps)
{
    begin(", a");
    sql("WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < 70000) INSERT "
        "INTO mneme_log_3(id, stamp) SELECT i, 0 FROM k");
    int64_t first = number("SELECT min(seq) FROM mneme_log_3"), last = head();
    char *trim = changelog_sql_trim(3);
    sqlite3_stmt *st;
    CHECK(sqlite3_prepare_v2(db, trim, -1, &st, NULL) == SQLITE_OK);
    sqlite3_bind_int64(st, 1, first + 9);
    CHECK(sqlite3_step(st) == SQLITE_DONE);
    sqlite3_reset(st);
    CHECK_EQ(number("SELECT min(seq) FROM mneme_log_3"), first + 10);
    sqlite3_bind_int64(st, 1, last);
    CHECK(sqlite3_step(st) == SQLITE_DONE);
    CHECK_EQ(number("SELECT min(seq) FROM mneme_log_3"), first + 10 + 65536);
    sqlite3_finalize(st);
    sqlite3_free(trim);
    end();
}

TEST(tables_whose_changes_escape_the_log_are_not_watched)
{
    begin(", vector, b");
    CHECK(watchable("vector"));
    sql("CREATE UNIQUE INDEX u ON t(b + 1)");
    CHECK(watchable("vector"));
    sql("DROP INDEX u; CREATE UNIQUE INDEX u ON t(b + id)");
    CHECK(!watchable("vector"));
    sql("DROP INDEX u; CREATE TRIGGER o AFTER UPDATE OF version ON t BEGIN UPDATE t SET b = 1 "
        "WHERE "
        "id = NEW.id; END");
    CHECK(watchable("vector")); /* of other columns */
    CHECK(!watchable("b"));
    bool alone;
    CHECK_OK(changelog_watchable(db, NULL, &own, "vector", &alone, &err), err);
    CHECK(!alone); /* nobody may be asked what it does */
    sql("CREATE TRIGGER p AFTER UPDATE ON t BEGIN INSERT INTO t(id) VALUES (NEW.id + 1); END");
    CHECK(!watchable("vector"));
    sql("DROP TRIGGER p; CREATE TRIGGER p AFTER UPDATE ON t BEGIN DELETE FROM t WHERE id = 99; "
        "END");
    CHECK(watchable("vector")); /* our delete trigger fires there */
    sql("CREATE TRIGGER q AFTER UPDATE ON t BEGIN INSERT INTO nowhere VALUES (1); END");
    CHECK_OK(changelog_watchable(db, db, &own, "vector", &(bool){0}, &err), err);
    bool is;
    const struct changelog_table nothing = {.number = 4, .name = "nothing", .key = "id"};
    CHECK_EQ(changelog_watchable(db, db, &nothing, "vector", &is, &err), MN_CORRUPT);
    CHECK_HAS(err.message, "'nothing' is missing");
    mn_error_clear(&err);
    end();
}

TEST(a_table_that_is_not_mnemes_is_logged_and_not_touched)
{
    static const struct {
        const char *sql, *ids;
    } changes[] = {
        {"INSERT INTO u(\"the key\", a, v) VALUES (7, 'x', 1)", "7 "},
        {"INSERT INTO u(\"the key\", a, v) VALUES (8, 'y', 2), (9, 'z', 3)", "8 9 "},
        {"UPDATE u SET v = 5 WHERE \"the key\" = 7", "7 "},
        {"UPDATE u SET other = 5", ""}, /* not watched, and in no unique index */
        {"UPDATE u SET \"the key\" = 3 WHERE \"the key\" = 7", "3 7 "},
        {"REPLACE INTO u(\"the key\", a) VALUES (20, 'y')", "8 20 "},
        {"UPDATE OR REPLACE u SET a = 'y' WHERE \"the key\" = 9", "20 "},
        {"INSERT OR IGNORE INTO u(a) VALUES ('y')", "9 "}, /* one too many does no harm */
        {"DELETE FROM u WHERE \"the key\" = 3", "3 "}};
    const struct changelog_table t = {
        .number = 3, .name = "u", .key = "\"the key\"", .watched = "\"the key\", \"v\""};
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    sql("CREATE TABLE u(\"the key\" INTEGER PRIMARY KEY, a TEXT UNIQUE, v, other)");
    CHECK_OK(changelog_restart(db, &t, &err), err);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        int64_t before = head();
        sql(changes[i].sql);
        CHECKF(strcmp(since(before), changes[i].ids) == 0, "%s: logged '%s', want '%s'",
               changes[i].sql, since(before), changes[i].ids);
    }
    bool is;
    CHECK_OK(changelog_check(db, &t, &is, &err), err);
    CHECK(is);
    CHECK_OK(changelog_watchable(db, db, &t, "v", &is, &err), err);
    CHECK(is);
    sql("CREATE TRIGGER mine AFTER INSERT ON u BEGIN INSERT INTO u(a) VALUES ('w'); END");
    CHECK_OK(changelog_watchable(db, db, &t, "v", &is, &err), err);
    CHECK(is); /* nothing happens inside our triggers */
    sql("CREATE UNIQUE INDEX e ON u(a || [the key])");
    CHECK_OK(changelog_watchable(db, db, &t, "v", &is, &err), err);
    CHECK(!is);
    CHECK_OK(changelog_drop(db, 3, &err), err);
    CHECK_EQ(number("SELECT count(*) FROM sqlite_master WHERE name LIKE 'mneme%'"), 0);
    end();
}

/* Whether a statement of the triggers reads the whole table. */
static bool reads_all(const char *statement)
{
    char text[400];
    sqlite3_stmt *st;
    bool scans = false;
    snprintf(text, sizeof text, "EXPLAIN QUERY PLAN %s", statement);
    CHECK(sqlite3_prepare_v2(db, text, -1, &st, NULL) == SQLITE_OK);
    while (sqlite3_step(st) == SQLITE_ROW)
        scans = scans || strncmp((const char *)sqlite3_column_text(st, 3), "SCAN u", 6) == 0;
    sqlite3_finalize(st);
    return scans;
}

TEST(a_row_that_replace_removes_is_logged_whatever_the_unique_index_is_over)
{
    static const struct {
        const char *index; /* over "a b", c and d; the new row has ' A', 'x', 2 */
        bool removes;      /* row 1, which has 'a', 'X', 1 */
    } cases[] = {
        {"CREATE UNIQUE INDEX i ON u(lower(trim(\"a b\")))", true},
        {"CREATE UNIQUE INDEX i ON u(  \n lower ( trim([a b] ) ) DESC /* , c */ )", true},
        {"CREATE UNIQUE INDEX \"i (x, y) where\" ON u(c COLLATE nocase DESC, -- a comment )\n d > "
         "0)",
         true},
        {"CREATE UNIQUE INDEX i ON u((c || ',(''') COLLATE nocase ASC, (1))", true},
        {"CREATE UNIQUE INDEX i ON u(c COLLATE nocase) WHERE d = 1",
         false}, /* the new one is not in */
        {"CREATE UNIQUE INDEX i ON u(upper(c)) WHERE d IN (1, 2) AND \"a b\" IS NOT NULL -- so",
         true},
        {"CREATE UNIQUE INDEX i ON u(upper(c), substr(`a b`, 1, 0)) WHERE d > 0 ", true},
        {"CREATE UNIQUE INDEX i ON u(upper(c)) WHERE d = 2", false},
        {"CREATE UNIQUE INDEX i ON u(upper(c), d)", false},
        {"CREATE UNIQUE INDEX i ON u(iif(d > 0, c, 'desc') COLLATE nocase)", true}};
    const struct changelog_table t = {
        .number = 3, .name = "u", .key = "\"k\"", .watched = "\"k\", \"v\""};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
        sql("CREATE TABLE u(k INTEGER PRIMARY KEY, v, \"a b\" TEXT, c, d NOT NULL DEFAULT 2)");
        sql(cases[i].index);
        sql("INSERT INTO u VALUES (1, 0, 'a', 'X', 1), (7, 0, 'q', 'q', 7)");
        CHECK_OK(changelog_restart(db, &t, &err), err);
        for (int update = 0; update < 2; update++) {
            int64_t before = head();
            CHECKF(!reads_all("INSERT INTO u(k, c, d) VALUES (9, 1, 1)"), "%s", cases[i].index);
            sql("SAVEPOINT s");
            sql(update ? "UPDATE OR REPLACE u SET \"a b\" = ' A', c = 'x', d = 2 WHERE k = 7"
                       : "INSERT OR REPLACE INTO u VALUES (7, 0, ' A', 'x', NULL)");
            bool removed = number("SELECT count(*) FROM u WHERE k = 1") == 0;
            CHECKF(removed == cases[i].removes, "%s", cases[i].index);
            CHECKF(!removed || strncmp(since(before), "1 ", 2) == 0, "%s: logged %s",
                   cases[i].index, since(before));
            sql("ROLLBACK TO s; RELEASE s");
        }
        bool is;
        CHECK_OK(changelog_check(db, &t, &is, &err), err);
        CHECKF(is, "%s", cases[i].index);
        CHECK_OK(changelog_watchable(db, db, &t, "v", &is, &err), err);
        CHECKF(is, "%s", cases[i].index);
        end();
    }
}

TEST(a_default_that_replace_puts_is_known)
{
    const struct changelog_table t = {.number = 3, .name = "u", .key = "k", .watched = ""};
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    sql("CREATE TABLE u(k INTEGER PRIMARY KEY, a TEXT NOT NULL UNIQUE DEFAULT (abs(-5)), g AS (k + "
        "1))");
    CHECK_OK(changelog_restart(db, &t, &err), err);
    sql("INSERT INTO u(k) VALUES (30)");
    int64_t before = head();
    sql("INSERT OR REPLACE INTO u(k, a) VALUES (31, NULL)");
    CHECK_STR(since(before), "30 31 ");
    before = head();
    sql("UPDATE u SET a = 'x'"); /* any column counts: one may be computed from it */
    CHECK_STR(since(before), "31 ");
    end();
}

TEST(names_are_quoted)
{
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    sql("CREATE TABLE \"a \"\"b\"\"; drop\"(id INTEGER PRIMARY KEY, version, \"select \"\"\" "
        "UNIQUE)");
    bool is;
    const struct changelog_table t = {.number = 1, .name = "a \"b\"; drop", .key = "id"};
    CHECK_OK(changelog_create(db, &t, &err), err);
    sql("INSERT INTO \"a \"\"b\"\"; drop\"(\"select \"\"\") VALUES (1)");
    sql("REPLACE INTO \"a \"\"b\"\"; drop\"(\"select \"\"\") VALUES (1)");
    CHECK_EQ(number("SELECT count(*) FROM mneme_log_1"), 3);
    CHECK_OK(changelog_check(db, &t, &is, &err), err);
    CHECK(is);
    end();
}

TEST_MAIN
