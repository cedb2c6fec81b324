/* sqlite3_interrupt() while Mneme works inside a statement: the statement ends soon with
 * SQLITE_INTERRUPT, and leaves nothing behind, not even a transaction. */
/* threads */
#include "tests/sql/steps.h"

#include <pthread.h>
#include <time.h>

enum { ROWS = 30000, DIM = 48 };

static void put_rows(sqlite3 *db)
{
    struct test_rng rng = {7};
    sqlite3_stmt *st = NULL;
    float x[DIM];
    CHECK(sqlite3_exec(db, "CREATE TABLE docs(id INTEGER PRIMARY KEY, v BLOB); BEGIN", NULL, NULL,
                       NULL) == SQLITE_OK);
    CHECK(sqlite3_prepare_v2(db, "INSERT INTO docs(v) VALUES (?)", -1, &st, NULL) == SQLITE_OK);
    for (int i = 0; i < ROWS; i++) {
        for (int j = 0; j < DIM; j++)
            x[j] = (float)test_normal(&rng);
        sqlite3_bind_blob(st, 1, x, sizeof x, SQLITE_STATIC);
        CHECK(sqlite3_step(st) == SQLITE_DONE);
        sqlite3_reset(st);
    }
    sqlite3_finalize(st);
    CHECK(sqlite3_exec(db, "COMMIT; SELECT mneme_index('docs', 'v', 'dim=48')", NULL, NULL, NULL) ==
          SQLITE_OK);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

struct interrupter {
    sqlite3 *db;
    double at; /* when it did */
};

static void *interrupt_later(void *arg)
{
    struct interrupter *i = arg;
    struct timespec t = {.tv_nsec = 100000000};
    nanosleep(&t, NULL);
    i->at = now_ms();
    sqlite3_interrupt(i->db);
    return NULL;
}

static void interrupted(sqlite3 *db, const char *sql)
{
    struct interrupter i = {.db = db};
    pthread_t thread;
    bool alone = sqlite3_get_autocommit(db);
    pthread_create(&thread, NULL, interrupt_later, &i);
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    double end = now_ms();
    pthread_join(thread, NULL);
    CHECKF(rc == SQLITE_INTERRUPT, "%s: %s (%d)", sql, sqlite3_errmsg(db), rc);
    double soon =
        test_budget(10) < 10 ? 30000 : 5000; /* a sanitizer's pass over all rows is long */
    CHECKF(end - i.at < soon, "%s: %.0f ms after the interrupt", sql, end - i.at);
    if (alone)
        CHECKF(sqlite3_get_autocommit(db), "%s: left a transaction open", sql);
}

TEST(an_interrupted_function_leaves_no_transaction)
{
    sqlite3 *db = steps_open(test_path("a.db"));
    put_rows(db);
    interrupted(db, "SELECT mneme_recall('docs', 10000)");
    interrupted(db, "SELECT mneme_rebuild('docs')");
    interrupted(db, "SELECT mneme_recall('docs', 10000)");
    static const struct step after[] = {
        {"INSERT INTO docs(id, v) SELECT 100000, v FROM docs WHERE id = 1", ""},
        {"SELECT rowid FROM knn('docs', (SELECT v FROM docs WHERE id = 1), 2)", "1 100000"},
        {"BEGIN; DELETE FROM docs WHERE id = 100000", ""},
        {"COMMIT", ""},
        {"SELECT mneme_verify()", "ok"},
    };
    STEPS(db, after);
    CHECK(sqlite3_close(db) == SQLITE_OK);
}

TEST(an_interrupted_query_leaves_a_transaction_as_it_was)
{
    sqlite3 *db = steps_open(test_path("a.db"));
    put_rows(db);
    CHECK(sqlite3_exec(db, "BEGIN; INSERT INTO docs(id, v) SELECT 100000, v FROM docs WHERE id = 1",
                       NULL, NULL, NULL) == SQLITE_OK);
    interrupted(db, "SELECT mneme_recall('docs', 10000)");
    interrupted(db, "SELECT count(*) FROM docs a, knn('docs', a.v, 100, '')");
    CHECK(!sqlite3_get_autocommit(db));
    static const struct step after[] = {
        {"SELECT rowid FROM knn('docs', (SELECT v FROM docs WHERE id = 1), 2)", "1 100000"},
        {"COMMIT", ""},
        {"SELECT count(*) FROM docs", "30001"},
    };
    STEPS(db, after);
    CHECK(sqlite3_close(db) == SQLITE_OK);
}

TEST_MAIN
