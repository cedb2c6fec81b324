/* threads */
/* Versions of the index that are ahead of what is published: rows folded in memory by searches, by
 * old readers' side, under write transactions, before and after plain SQLite's writes, over
 * databases that were restored, shrunk, dropped. Each answer is that of brute force over the rows
 * of its own snapshot. */
#include "tests/engine/trouble.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { DIM = 8, ROWS = 400 };

static mn_error err;

static struct trouble begin(const char *path)
{
    struct trouble t = trouble_open(path, MN_F32, MN_L2, DIM, MN_OPEN_NO_BACKGROUND);
    trouble_fill(&t, ROWS);
    return t;
}

static mn_conn *another(struct trouble *t)
{
    mn_conn *conn;
    CHECK_OK(mn_connect(t->db, &conn, &err), err);
    return conn;
}

static int64_t generation(mn_conn *conn)
{
    return trouble_number(conn, "SELECT generation FROM mneme_indexes");
}

/* ---- By searches ----------------------------------------------------------------------------- */

/* So many searches have one of them fold what they all score. */
static void search_until_folded(struct trouble *t, uint64_t pending, const char *what)
{
    CHECK_EQ(trouble_pending(t->conn, &t->b), pending);
    trouble_check(t, t->conn, what);
    uint64_t left = pending;
    for (int i = 0; i < 20 && left; i++)
        left = trouble_pending(t->conn, &t->b);
    CHECKF(left == 0, "%s: %d rows are scored one by one", what, (int)left);
    CHECKF(trouble_check(t, t->conn, what) > 0, "%s: not by the index", what);
}

static void fold_by_searches(const char *path, uint32_t flags)
{
    struct trouble t = trouble_open(path, MN_F32, MN_L2, DIM, flags);
    int64_t published = generation(t.conn);
    search_until_folded(&t, 3050, "many new rows");
    trouble_sql(path, "UPDATE c SET vector = (SELECT x.vector FROM c x WHERE x.id = c.id + 900) "
                      "WHERE id BETWEEN 100 AND 399; DELETE FROM c WHERE id BETWEEN 400 AND 450");
    search_until_folded(&t, 351, "changed by a plain client");
    CHECK_EQ(generation(t.conn), published);
    trouble_close(&t);
}

TEST(searches_fold_many_pending_rows_in_memory)
{
    static const uint32_t flags[] = {MN_OPEN_READONLY, MN_OPEN_NO_BACKGROUND};
    for (size_t i = 0; i < 2; i++) {
        const char *path = test_path(i ? "b.db" : "a.db");
        struct trouble t = begin(path);
        trouble_put(&t, ROWS + 1, ROWS + 3001, 2);
        trouble_delete(t.conn, 1, 51);
        trouble_close(&t);
        fold_by_searches(path, flags[i]);
    }
}

TEST(a_write_transaction_over_rows_folded_in_memory)
{
    struct trouble t = begin(test_path("a.db"));
    mn_conn *other = another(&t);
    for (int round = 0; round < 2; round++) {
        trouble_put(&t, 50, 350, 10 + (uint64_t)round);
        trouble_check(&t, other, "before");
        CHECK(trouble_fold_ahead(other));
        CHECK_OK(mn_begin_write(t.conn, &err), err);
        trouble_put(&t, 300, 360, 20);
        trouble_delete(t.conn, 1, 20);
        for (int i = 0; i < 6; i++) /* more than would fold, were these not its own rows */
            CHECK(trouble_check(&t, t.conn, "its own rows") > 0);
        CHECK_EQ(trouble_pending(t.conn, &t.b), round ? 60 : 79); /* those deleted stay away */
        CHECK_OK(mn_savepoint(t.conn, "s", &err), err);
        trouble_put(&t, 500, 540, 21);
        trouble_check(&t, t.conn, "after a savepoint");
        CHECK_EQ(trouble_pending(other, &t.b), 0);
        CHECK(trouble_check(&t, other, "another meanwhile") > 0);
        CHECK_OK(mn_rollback_to(t.conn, "s", &err), err);
        trouble_check(&t, t.conn, "back at the savepoint");
        CHECK_OK(round ? mn_rollback(t.conn, &err) : mn_commit(t.conn, &err), err);
        trouble_check(&t, t.conn, round ? "rolled back" : "committed");
        CHECK_EQ(trouble_pending(other, &t.b), round ? 0 : 79);
        trouble_fold_ahead(other);
        CHECK(trouble_check(&t, other, "folded") > 0);
    }
    trouble_check_mended(&t, "published");
    mn_disconnect(other);
    trouble_close(&t);
}

/* ---- Old snapshots --------------------------------------------------------------------------- */

TEST(an_old_snapshot_beside_versions_that_are_ahead_of_it)
{
    struct trouble t = begin(test_path("a.db"));
    mn_conn *old = another(&t), *writer = another(&t);
    for (int round = 0; round < 3; round++) {
        trouble_put(&t, 1, 60, 30 + (uint64_t)round);
        if (round == 1) /* its snapshot is itself ahead of what is published */
            CHECK(trouble_fold_ahead(writer));
        CHECK_OK(mn_begin_read(old, &err), err);
        CHECK(trouble_check(&t, old, "fresh") > 0);
        for (int fold = 0; fold < 10; fold++) {
            trouble_put(&t, 20 * fold + 1, 20 * fold + 41, 40 + (uint64_t)fold);
            trouble_check(&t, writer, "new rows");
            CHECK(trouble_fold_ahead(writer));
            if (fold % 3 == round)
                CHECK_OK(mn_fold(writer, "c", &err), err);
            if (fold % 2)
                trouble_check(&t, old, "old");
            CHECK(trouble_check(&t, writer, "folded") > 0);
        }
        for (int i = 0; i < 6; i++) /* more than an old reader's patience */
            trouble_check(&t, old, "old and busy");
        trouble_fold_ahead(old);
        trouble_check(&t, writer, "after the old one");
        CHECK_OK(mn_commit(old, &err), err);
        CHECK(trouble_check(&t, old, "up to date") > 0);
    }
    mn_disconnect(old);
    mn_disconnect(writer);
    trouble_check_mended(&t, "in the end");
    trouble_close(&t);
}

TEST(verify_sees_its_own_snapshot)
{
    struct trouble t = begin(test_path("a.db"));
    mn_conn *old = another(&t);
    trouble_put(&t, 1, 60, 30);
    CHECK_OK(mn_begin_read(old, &err), err);
    trouble_check(&t, old, "fresh");
    for (int i = 0; i < 3; i++) {
        const char *wrong = indexed_verify(old);
        CHECKF(!wrong, "after %d folds: %s", i, wrong);
        trouble_put(&t, 20, 120, 40 + (uint64_t)i);
        trouble_check_mended(&t, "published");
    }
    trouble_check(&t, old, "old");
    CHECK_OK(mn_commit(old, &err), err);
    mn_disconnect(old);
    trouble_close(&t);
}

/* ---- Restored databases ---------------------------------------------------------------------- */

static void restore(const char *from_path, const char *to_path)
{
    sqlite3 *from = NULL, *to = NULL;
    CHECK(sqlite3_open(from_path, &from) == SQLITE_OK && sqlite3_open(to_path, &to) == SQLITE_OK);
    sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
    CHECK(b && sqlite3_backup_step(b, -1) == SQLITE_DONE);
    CHECK(sqlite3_backup_finish(b) == SQLITE_OK);
    sqlite3_close(from);
    sqlite3_close(to);
}

/* The database goes back behind what is folded in memory, and the log counts up again: to where it
 * was, further, or not at all. */
TEST(a_restore_under_versions_that_are_ahead)
{
    static const int again[] = {40, 100, 0, -1}; /* -1: no search before the next fold */
    const char *path = test_path("a.db"), *saved = test_path("saved.db");
    struct trouble t = begin(path);
    mn_conn *reader = another(&t);
    for (size_t i = 0; i < 4; i++) {
        trouble_put(&t, 1, 41, 2 + i);
        CHECK_OK(mn_backup(t.conn, saved, &err), err);
        trouble_put(&t, 41, 41 + 40, 13 + i);
        trouble_check(&t, t.conn, "before");
        CHECK(trouble_fold_ahead(t.conn));
        CHECK_EQ(trouble_pending(reader, &t.b), 0);
        for (int n = 0; n < 3; n++) /* generations that the restored database does not know */
            trouble_check_mended(&t, "published before");
        restore(saved, path);
        if (again[i] >= 0) {
            trouble_check(&t, reader, "restored");
            trouble_put(&t, 200, 200 + again[i], 24 + i);
            trouble_check(&t, t.conn, "grown");
            trouble_fold_ahead(reader); /* not on another log */
        }
        for (int n = 0; n < 5 && again[i] >= 0; n++)
            trouble_check(&t, n % 2 ? reader : t.conn, "grown again");
        trouble_check_mended(&t, "published");
        CHECK(unlink(saved) == 0);
    }
    mn_disconnect(reader);
    trouble_close(&t);
}

/* ---- Plain SQLite ---------------------------------------------------------------------------- */

static const char *const writes[] = {
    "INSERT INTO c(vector) SELECT vector FROM c WHERE id < 40",
    "UPDATE c SET vector = (SELECT x.vector FROM c x WHERE x.id = 401 - c.id) WHERE id < 60",
    "DELETE FROM c WHERE id BETWEEN 20 AND 50",
    "UPDATE OR IGNORE c SET id = -id WHERE abs(id) BETWEEN 5 AND 30",
    "UPDATE OR IGNORE c SET id = id + 5000 WHERE id BETWEEN 100 AND 160",
    "UPDATE OR REPLACE c SET id = id + 1 WHERE id % 7 = 1",
    "INSERT OR REPLACE INTO c(id, vector) SELECT id + 3, vector FROM c WHERE id % 5 = 1",
    /* through the unique index on n: another row goes */
    "INSERT OR REPLACE INTO c(n, vector) SELECT n, vector FROM c WHERE n BETWEEN 1 AND 30",
    "UPDATE OR REPLACE c SET n = n + 1 WHERE n % 4 = 1",
    "DELETE FROM parent WHERE p = 1",                /* cascades */
    "UPDATE parent SET p = p + 10 WHERE p > 1",
    "UPDATE c SET vector = NULL WHERE id % 9 = 0",
    "UPDATE c SET vector = vector",
    "VACUUM",
    ("BEGIN; DELETE FROM c WHERE id % 2; "
     "INSERT OR IGNORE INTO c(id, vector) SELECT id + 1, vector FROM c WHERE id < 200; "
     "COMMIT; VACUUM"),
    ("CREATE TEMP TABLE k AS SELECT id, vector FROM c WHERE id < 90; DELETE FROM c; "
     "INSERT INTO c(id, vector) SELECT 91 - id, vector FROM k; DROP TABLE k"),
};
enum { WRITES = sizeof writes / sizeof *writes };

static struct trouble begin_related(const char *path)
{
    struct trouble t = trouble_open(path, MN_F32, MN_L2, DIM, MN_OPEN_NO_BACKGROUND);
    const char *attributes[] = {"n"};
    const mn_collection_opts opts = {.dim = DIM, .attributes = attributes, .n_attributes = 1};
    CHECK_OK(mn_create(t.conn, "c", &opts, &err), err);
    trouble_sql(path,
                "CREATE TABLE parent(p INTEGER PRIMARY KEY); INSERT INTO parent VALUES (1), (2); "
                "ALTER TABLE c ADD COLUMN owner INTEGER REFERENCES parent(p) ON DELETE CASCADE ON "
                "UPDATE CASCADE; CREATE UNIQUE INDEX u ON c(n)");
    trouble_put(&t, 1, ROWS + 1, 1);
    trouble_sql(path, "UPDATE c SET n = id WHERE id <= 80; UPDATE c SET owner = 1 WHERE id > 350; "
                      "UPDATE c SET owner = 2 WHERE id BETWEEN 300 AND 349");
    trouble_check_mended(&t, "built");
    return t;
}

/* `when`: 0 right after a publish, 1 while rows are pending, 2 when they are folded in memory. */
static void plain_write(const char *path, const char *text, int when)
{
    struct trouble t = begin_related(path);
    mn_conn *other = another(&t);
    char what[100];
    snprintf(what, sizeof what, "%d, %.80s", when, text);
    if (when) {
        trouble_put(&t, 30, 90, 7);
        trouble_check(&t, t.conn, what);
    }
    if (when == 2)
        CHECK(trouble_fold_ahead(t.conn));
    trouble_sql(path, text);
    uint64_t by_index = trouble_check(&t, other, what);
    CHECKF(by_index > 0 || strstr(text, "VACUUM"), "%s: not by the index", what);
    trouble_put(&t, 85, 130, 8);
    trouble_check(&t, t.conn, what);
    trouble_fold_ahead(other); /* not if the log was restarted */
    trouble_check(&t, t.conn, what);
    trouble_sql(path, text);
    trouble_check(&t, t.conn, what);
    trouble_check_mended(&t, what);
    mn_disconnect(other);
    trouble_close(&t);
}

TEST(plain_writes_around_folds_in_memory)
{
    char name[24];
    for (size_t i = 0; i < WRITES; i++)
        for (int when = 0; when < 3; when++) {
            bool skip = test_budget(10) < 10 ? (i + (size_t)when) % 5 : when == 0 && i % 3;
            if (skip && !test_long())
                continue;
            snprintf(name, sizeof name, "%zu-%d.db", i, when);
            plain_write(test_path(name), writes[i], when);
        }
}

/* Without a search between, which would have restarted the change log. */
TEST(a_fold_right_after_a_plain_client_changed_the_schema)
{
    static const char *const changes[] = {"VACUUM", "CREATE TABLE other(x)",
                                          "ALTER TABLE c ADD COLUMN more",
                                          "DELETE FROM c WHERE id < 20; DROP TABLE other"};
    const char *path = test_path("a.db");
    struct trouble t = begin(path);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        trouble_put(&t, 1, 60, 30 + i);
        trouble_fold_ahead(t.conn);
        trouble_put(&t, 60, 100, 40 + i);
        trouble_sql(path, changes[i]);
        CHECK_OK(mn_fold(t.conn, "c", &err), err);
        CHECKF(trouble_pending(t.conn, &t.b) == 0, "%s: rows are pending after a fold", changes[i]);
        trouble_check_mended(&t, changes[i]);
    }
    trouble_close(&t);
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

TEST(rows_go_and_come_with_folds_in_memory_between)
{
    struct trouble t = begin(test_path("a.db"));
    for (int round = 0; round < 3; round++) {
        for (int64_t id = 1; id <= ROWS; id += 80) {
            trouble_delete(t.conn, id, id + 80);
            trouble_check(&t, t.conn, "fewer");
            CHECK(trouble_fold_ahead(t.conn));
            trouble_check(&t, t.conn, "fewer, folded");
        }
        CHECK_EQ(t.b.n, 0);
        if (round == 1) /* nothing left to have an index of */
            trouble_check_mended(&t, "empty");
        for (int64_t id = 1; id <= ROWS; id += 80) {
            trouble_put(&t, id, id + 80, 50 + (uint64_t)round);
            trouble_check(&t, t.conn, "more");
            trouble_fold_ahead(t.conn);
            trouble_check(&t, t.conn, "more, folded");
        }
        if (round)
            trouble_check_mended(&t, "grown again");
    }
    trouble_check_mended(&t, "in the end");
    trouble_close(&t);
}

TEST(a_collection_made_anew_knows_nothing_of_the_old_one)
{
    struct trouble t = begin(test_path("a.db"));
    mn_conn *other = another(&t);
    for (int round = 0; round < 3; round++) {
        trouble_put(&t, 1, 60, 60 + (uint64_t)round);
        trouble_check(&t, t.conn, "before");
        trouble_fold_ahead(t.conn);
        CHECK_OK(mn_drop(other, "c", &err), err);
        const mn_collection_opts opts = {.dim = DIM, .metric = round ? MN_L2 : MN_COSINE};
        CHECK_OK(mn_create(other, "c", &opts, &err), err);
        t.b.metric = opts.metric;
        trouble_check(&t, t.conn, "empty");
        trouble_put(&t, 30, 30 + ROWS, 70 + (uint64_t)round);
        trouble_check(&t, t.conn, "new rows");
        CHECK(!trouble_fold_ahead(t.conn));
        trouble_check_mended(&t, "its own index");
    }
    mn_disconnect(other);
    trouble_close(&t);
}

/* ---- Threads --------------------------------------------------------------------------------- */

struct shared {
    struct trouble *t;
    _Atomic bool done;
    _Atomic unsigned failures;
    _Atomic uint64_t by_index;
    char what[512]; /* of the first failure */
};

static void note(struct shared *s, const char *what)
{
    if (atomic_fetch_add(&s->failures, 1) == 0)
        snprintf(s->what, sizeof s->what, "%s", what);
}

/* Each round in a read transaction of its own, whose rows it selects itself. */
static void *reads(void *arg)
{
    struct shared *s = arg;
    struct brute b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM};
    mn_error e = {0};
    mn_conn *conn;
    if (mn_connect(s->t->db, &conn, &e)) {
        note(s, e.message);
        return NULL;
    }
    while (!atomic_load(&s->done)) {
        uint64_t by_index = 0;
        const char *wrong = mn_begin_read(conn, &e) ? e.message : NULL;
        if (!wrong)
            brute_load(&b, conn->sql, "c", "vector");
        for (int i = 0; i < 4 && !wrong; i++) {
            wrong = trouble_compare(conn, &b, false, &by_index);
            atomic_fetch_add(&s->by_index, by_index);
        }
        if (wrong)
            note(s, wrong);
        if (mn_commit(conn, &e))
            note(s, e.message);
    }
    brute_free(&b);
    mn_disconnect(conn);
    return NULL;
}

TEST(threads_search_their_snapshots_while_others_fold)
{
    struct trouble t = begin(test_path("a.db"));
    struct shared s = {.t = &t};
    mn_conn *folder = another(&t);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, reads, &s) == 0);
    for (uint64_t i = 0; i < test_budget(40); i++) {
        trouble_put(&t, 1 + (int64_t)(i * 13 % 300), 30 + (int64_t)(i * 13 % 300), 300 + i);
        trouble_delete(t.conn, (int64_t)(i * 17 % 300), (int64_t)(i * 17 % 300) + 3);
        trouble_fold_ahead(folder);
        if (i % 4 == 3)
            CHECK_OK(mn_fold(folder, "c", &err), err);
    }
    atomic_store(&s.done, true);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECKF(atomic_load(&s.failures) == 0, "%s", s.what);
    CHECK(atomic_load(&s.by_index) > 0);
    mn_disconnect(folder);
    trouble_check_mended(&t, "in the end");
    trouble_close(&t);
}

TEST_MAIN
