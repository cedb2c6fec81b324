/* threads */
/* Threads with a connection each on one database: two write a table, two search it, one folds and
 * changes the schema. Each answer belongs to one snapshot. */
#include "tests/sql/steps.h"

#include <pthread.h>
#include <stdatomic.h>

#include "src/engine/engine.h"
#include "tests/engine/indexed.h"

enum { SEARCHERS = 2, WRITERS = 2, PAIRS = 200 };

static mn_error err;

static struct {
    char path[600];
    _Atomic bool over;
    _Atomic int failures;
    char first[400]; /* of them, by the thread that raised failures from 0 */
} shared;

static void fail(const char *what, const char *says)
{
    if (atomic_fetch_add(&shared.failures, 1) == 0)
        snprintf(shared.first, sizeof shared.first, "%.150s: %.200s", what, says);
    atomic_store(&shared.over, true);
}

static bool ask(sqlite3 *db, const char *sql, const char *want)
{
    const char *got = steps_ask(db, sql);
    bool good = steps_fits(got, want);
    /* Of two writers that begin at once one may have to begin again. */
    if (!good && !strstr(got, "locked"))
        fail(sql, got);
    return good;
}

static sqlite3 *connect(void)
{
    sqlite3 *db = steps_open(shared.path);
    sqlite3_busy_timeout(db, 20000);
    return db;
}

/* Rows 2n and 2n + 1 always have the same vector: a pair is written in one transaction. */
static void *write_pairs(void *arg)
{
    sqlite3 *db = connect();
    struct test_rng rng = {(uint64_t)(intptr_t)arg + 5};
    char sql[500];
    while (!atomic_load(&shared.over)) {
        unsigned pair = (unsigned)test_below(&rng, PAIRS), x = (unsigned)test_below(&rng, 1000);
        if (test_below(&rng, 5) == 0)
            snprintf(sql, sizeof sql, "DELETE FROM docs WHERE id IN (%u, %u)", 2 * pair,
                     2 * pair + 1);
        else
            snprintf(sql, sizeof sql,
                     "INSERT OR REPLACE INTO docs(id, e, lang) VALUES (%u, '[%u,1]', 'a'), (%u, "
                     "'[%u,1]', 'b')",
                     2 * pair, x, 2 * pair + 1, x);
        ask(db, sql, "");
    }
    steps_close(db);
    return NULL;
}

static void *search(void *arg)
{
    sqlite3 *db = connect();
    (void)arg;
    while (!atomic_load(&shared.over)) {
        ask(db,
            "SELECT count(*) FROM (SELECT id / 2 AS pair, count(DISTINCT distance) AS n, "
            "count(*) AS rows FROM docs WHERE e MATCH '[0,1]' AND k = 1000 AND exact = 1 GROUP "
            "BY pair) WHERE n <> 1 OR rows <> 2",
            "0");
        ask(db,
            "SELECT (SELECT count(*) FROM docs WHERE e MATCH '[0,1]' AND k = 1000 AND lang = "
            "'a') - (SELECT count(*) FROM docs WHERE lang = 'b')",
            "0");
        ask(db, "SELECT count(*) % 2 FROM knn('docs', '[500,1]', 1000)", "0");
    }
    steps_close(db);
    return NULL;
}

static void *look_after(void *arg)
{
    sqlite3 *db = connect();
    (void)arg;
    for (int i = 0; i < (int)test_budget(10) && !atomic_load(&shared.over); i++) {
        ask(db, "SELECT mneme_fold('docs') >= 0", "1");
        ask(db,
            i % 2 ? "DROP TABLE other"
                  : "CREATE VIRTUAL TABLE other USING mneme(e float[2]); INSERT INTO other(e) "
                    "VALUES ('[1,1]')",
            "");
        ask(db, "SELECT mneme_stats('docs') ->> 'dim'", "2");
    }
    atomic_store(&shared.over, true);
    steps_close(db);
    return NULL;
}

TEST(threads_with_connections_of_their_own_see_whole_transactions)
{
    pthread_t threads[WRITERS + SEARCHERS + 1];
    struct db_stage stage = {.limits = INDEXED_LIMITS};
    const mn_open_opts opts = {.durability = MN_RELAXED};
    mn_db *keeper;
    snprintf(shared.path, sizeof shared.path, "%s", test_path("app.db"));
    CHECK_OK(db_open_on(shared.path, &opts, &stage, &keeper, &err), err);
    sqlite3 *db = connect();
    STEP(db, "CREATE VIRTUAL TABLE docs USING mneme(id INTEGER PRIMARY KEY, e float[2], lang TEXT)",
         "");
    STEP(db,
         "WITH RECURSIVE c(x) AS (VALUES (0) UNION ALL SELECT x + 1 FROM c WHERE x < 399) INSERT "
         "INTO docs SELECT x, '[' || (x / 2) || ',1]', iif(x % 2, 'b', 'a') FROM c",
         "");
    size_t n = 0;
    for (intptr_t i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_create(&threads[n++], NULL, write_pairs, (void *)i), 0);
    for (intptr_t i = 0; i < SEARCHERS; i++)
        CHECK_EQ(pthread_create(&threads[n++], NULL, search, NULL), 0);
    CHECK_EQ(pthread_create(&threads[n++], NULL, look_after, NULL), 0);
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECKF(atomic_load(&shared.failures) == 0, "%s", shared.first);
    STEP(db, "SELECT mneme_verify()", "ok");
    steps_close(db);
    CHECK_OK(mn_close(keeper, &err), err);
}

TEST_MAIN
