/* SQLite on memory files through the file seam: locks, WAL shared memory, threads, and the same
 * answers as SQLite's own VFS. */
/* threads */
#include "tests/test.h"

#include "storage/base/error.h"
#include "storage/fs_mem.h"
#include "storage/vfs.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <unistd.h>

/* A memory file system under a VFS of the test's name. */
struct world {
    struct mn_alloc *alloc;
    struct mn_fs *fs;
    const char *vfs;
};

static struct world world_up(const char *vfs, const struct vfs_opts *opts)
{
    struct world w = {.alloc = mn_alloc_create(NULL, UINT64_MAX), .vfs = vfs};
    mn_error err = {0};
    CHECK(w.alloc != NULL);
    w.fs = fs_mem_create(w.alloc);
    CHECK(w.fs != NULL);
    CHECK_OK(vfs_register(vfs, w.fs, opts, &err), err);
    return w;
}

static void world_down(struct world *w)
{
    mn_error err = {0};
    CHECK_OK(vfs_unregister(w->vfs, &err), err);
    fs_mem_destroy(w->fs);
    CHECK_EQ(mn_alloc_used_by(w->alloc, MN_TAG_IO), 0);
    mn_alloc_destroy(w->alloc);
}

static sqlite3 *open_on(const char *vfs, const char *path)
{
    sqlite3 *db;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs);
    CHECKF(rc == SQLITE_OK, "open %s on %s: %d", path, vfs ? vfs : "the default", rc);
    return db;
}

static int run(sqlite3 *db, const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

#define MUST(db, sql)                                                                              \
    do {                                                                                           \
        int rc_ = run(db, sql);                                                                    \
        if (rc_ != SQLITE_OK)                                                                      \
            test_fail(__FILE__, __LINE__, "%s: %d %s", sql, rc_, sqlite3_errmsg(db));              \
    } while (0)

/* The first column of the first row as a number; -1 on an error (its code in *rc if given). */
static int64_t ask(sqlite3 *db, const char *sql, int *rc)
{
    sqlite3_stmt *st = NULL;
    int64_t answer = -1;
    int r = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    if (r == SQLITE_OK) {
        r = sqlite3_step(st);
        if (r == SQLITE_ROW)
            answer = sqlite3_column_int64(st, 0);
    }
    sqlite3_finalize(st);
    if (rc)
        *rc = r == SQLITE_ROW || r == SQLITE_DONE ? SQLITE_OK : r;
    return answer;
}

static bool sound(sqlite3 *db)
{
    sqlite3_stmt *st = NULL;
    bool ok = sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &st, NULL) == SQLITE_OK &&
              sqlite3_step(st) == SQLITE_ROW &&
              strcmp((const char *)sqlite3_column_text(st, 0), "ok") == 0;
    sqlite3_finalize(st);
    return ok;
}

static sqlite3 *open_wal(const char *vfs, const char *path)
{
    sqlite3 *db = open_on(vfs, path);
    MUST(db, "PRAGMA journal_mode=WAL");
    CHECK_EQ(ask(db, "SELECT count(*) FROM pragma_journal_mode WHERE journal_mode='wal'", NULL), 1);
    return db;
}

TEST(register_refuses_a_name_in_use_and_unregister_open_files)
{
    struct world w = world_up("t-reg", NULL);
    mn_error err = {0};
    CHECK_EQ(vfs_register("t-reg", w.fs, NULL, &err), MN_EXISTS);
    CHECK_HAS(err.message, "t-reg");
    mn_error_clear(&err);
    CHECK_EQ(vfs_unregister("unix", &err), MN_NOTFOUND);
    mn_error_clear(&err);
    sqlite3 *db = open_on("t-reg", "a.db");
    MUST(db, "CREATE TABLE t(x)");
    CHECK_EQ(vfs_unregister("t-reg", &err), MN_MISUSE);
    CHECK_HAS(err.message, "open files");
    char *name = NULL;
    CHECK_EQ(sqlite3_file_control(db, NULL, SQLITE_FCNTL_VFSNAME, &name), SQLITE_OK);
    CHECK_STR(name, "t-reg");
    sqlite3_free(name);
    sqlite3_close(db);
    world_down(&w);
}

TEST(a_database_lives_from_one_connection_to_the_next)
{
    struct world w = world_up("t-life", NULL);
    sqlite3 *db = open_wal("t-life", "a.db");
    MUST(db, "CREATE TABLE t(x); INSERT INTO t VALUES(42)");
    sqlite3_close(db);
    db = open_on("t-life", "a.db");
    CHECK_EQ(ask(db, "SELECT x FROM t", NULL), 42);
    sqlite3_close(db);
    CHECK_EQ(sqlite3_open_v2("no.db", &db, SQLITE_OPEN_READWRITE, "t-life"), SQLITE_CANTOPEN);
    sqlite3_close(db);
    db = NULL;
    CHECK_EQ(sqlite3_open_v2("a.db", &db, SQLITE_OPEN_READONLY, "t-life"), SQLITE_OK);
    CHECK_EQ(ask(db, "SELECT x FROM t", NULL), 42);
    CHECK_EQ(run(db, "INSERT INTO t VALUES(1)"), SQLITE_READONLY);
    sqlite3_close(db);
    world_down(&w);
}

TEST(wal_readers_keep_their_snapshot_and_never_block)
{
    struct world w = world_up("t-snap", NULL);
    sqlite3 *a = open_wal("t-snap", "a.db"), *b = open_on("t-snap", "a.db");
    MUST(a, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    MUST(b, "BEGIN");
    CHECK_EQ(ask(b, "SELECT count(*) FROM t", NULL), 1);
    MUST(a, "BEGIN IMMEDIATE; INSERT INTO t VALUES(2)");
    CHECK_EQ(ask(b, "SELECT count(*) FROM t", NULL), 1);
    MUST(a, "COMMIT");
    CHECK_EQ(ask(b, "SELECT count(*) FROM t", NULL), 1);
    int logged = 0, moved = 0;
    CHECK_EQ(sqlite3_wal_checkpoint_v2(a, NULL, SQLITE_CHECKPOINT_PASSIVE, &logged, &moved),
             SQLITE_OK);
    CHECKF(moved < logged, "a checkpoint passed a reader: %d of %d", moved, logged);
    CHECK_EQ(run(b, "INSERT INTO t VALUES(3)"), SQLITE_BUSY); /* its snapshot is old */
    CHECK_EQ(sqlite3_extended_errcode(b), SQLITE_BUSY_SNAPSHOT);
    CHECK_EQ(ask(b, "SELECT count(*) FROM t", NULL), 1);
    MUST(b, "COMMIT");
    CHECK_EQ(ask(b, "SELECT count(*) FROM t", NULL), 2);
    CHECK_EQ(sqlite3_wal_checkpoint_v2(a, NULL, SQLITE_CHECKPOINT_PASSIVE, &logged, &moved),
             SQLITE_OK);
    CHECK_EQ(moved, logged);
    CHECK(sound(a));
    sqlite3_close(a);
    sqlite3_close(b);
    world_down(&w);
}

TEST(wal_readers_at_many_snapshots_share_the_marks)
{
    struct world w = world_up("t-marks", NULL);
    sqlite3 *a = open_wal("t-marks", "a.db"), *r[9];
    MUST(a, "CREATE TABLE t(x)");
    for (int i = 0; i < 9; i++) {
        r[i] = open_on("t-marks", "a.db");
        MUST(r[i], "BEGIN");
        CHECK_EQ(ask(r[i], "SELECT count(*) FROM t", NULL), i);
        MUST(a, "INSERT INTO t VALUES(randomblob(3000))");
    }
    int logged, moved;
    for (int i = 0; i < 9; i++) {
        CHECK_EQ(sqlite3_wal_checkpoint_v2(a, NULL, SQLITE_CHECKPOINT_PASSIVE, &logged, &moved),
                 SQLITE_OK);
        CHECKF(moved < logged, "reader %d was passed", i);
        for (int j = i; j < 9; j++)
            CHECK_EQ(ask(r[j], "SELECT count(*) FROM t", NULL), j);
        sqlite3_close(r[i]);
    }
    CHECK_EQ(sqlite3_wal_checkpoint_v2(a, NULL, SQLITE_CHECKPOINT_TRUNCATE, &logged, &moved),
             SQLITE_OK);
    CHECK_EQ(logged, 0);
    sqlite3_close(a);
    world_down(&w);
}

TEST(one_writer_at_a_time)
{
    struct world w = world_up("t-busy", NULL);
    sqlite3 *a = open_wal("t-busy", "a.db"), *b = open_on("t-busy", "a.db");
    MUST(a, "CREATE TABLE t(x); BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    CHECK_EQ(run(b, "BEGIN IMMEDIATE"), SQLITE_BUSY);
    MUST(a, "ROLLBACK");
    MUST(b, "BEGIN IMMEDIATE; INSERT INTO t VALUES(2); COMMIT");
    CHECK_EQ(ask(a, "SELECT sum(x) FROM t", NULL), 2);
    sqlite3_close(a);
    sqlite3_close(b);
    world_down(&w);
}

TEST(rollback_journal_locks_as_documented)
{
    struct world w = world_up("t-del", NULL);
    sqlite3 *a = open_on("t-del", "a.db"), *b = open_on("t-del", "a.db");
    MUST(a, "PRAGMA journal_mode=DELETE; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    MUST(a, "BEGIN IMMEDIATE; UPDATE t SET x=2");
    CHECK_EQ(ask(b, "SELECT x FROM t", NULL), 1); /* SHARED beside RESERVED */
    CHECK_EQ(run(b, "BEGIN IMMEDIATE"), SQLITE_BUSY);
    MUST(b, "BEGIN");
    CHECK_EQ(ask(b, "SELECT x FROM t", NULL), 1);
    CHECK_EQ(run(a, "COMMIT"), SQLITE_BUSY); /* b's SHARED holds EXCLUSIVE back; a is PENDING */
    int rc;
    sqlite3 *c = open_on("t-del", "a.db");
    ask(c, "SELECT x FROM t", &rc);
    CHECK_EQ(rc, SQLITE_BUSY); /* PENDING lets no new reader in */
    CHECK_EQ(ask(b, "SELECT x FROM t", NULL), 1);
    MUST(b, "COMMIT");
    MUST(a, "COMMIT");
    CHECK_EQ(ask(c, "SELECT x FROM t", NULL), 2);
    MUST(a, "BEGIN EXCLUSIVE");
    ask(b, "SELECT x FROM t", &rc);
    CHECK_EQ(rc, SQLITE_BUSY);
    MUST(a, "ROLLBACK");
    uint64_t size;
    bool writable;
    CHECK_EQ(io_stat(w.fs, "a.db-journal", &size, &writable), -2); /* ENOENT */
    sqlite3_close(a);
    sqlite3_close(b);
    sqlite3_close(c);
    world_down(&w);
}

TEST(journal_modes_change_only_when_alone)
{
    struct world w = world_up("t-mode", NULL);
    sqlite3 *a = open_wal("t-mode", "a.db"), *b = open_on("t-mode", "a.db");
    MUST(a, "CREATE TABLE t(x); INSERT INTO t VALUES(7)");
    CHECK_EQ(ask(b, "SELECT x FROM t", NULL), 7);
    CHECK_EQ(run(a, "PRAGMA journal_mode=DELETE"), SQLITE_BUSY);
    sqlite3_close(b);
    MUST(a, "PRAGMA journal_mode=DELETE; INSERT INTO t VALUES(8); PRAGMA journal_mode=TRUNCATE;"
            "INSERT INTO t VALUES(9); PRAGMA journal_mode=PERSIST; INSERT INTO t VALUES(10);"
            "PRAGMA journal_mode=MEMORY; INSERT INTO t VALUES(11); PRAGMA journal_mode=WAL;"
            "INSERT INTO t VALUES(12)");
    CHECK_EQ(ask(a, "SELECT sum(x) FROM t", NULL), 57);
    CHECK(sound(a));
    sqlite3_close(a);
    world_down(&w);
}

static void *commit_later(void *arg)
{
    usleep(20000);
    run(arg, "COMMIT");
    return NULL;
}

TEST(a_busy_timeout_waits_for_the_other_writer)
{
    struct world w = world_up("t-wait", NULL);
    sqlite3 *a = open_wal("t-wait", "a.db"), *b = open_on("t-wait", "a.db");
    pthread_t thread;
    MUST(a, "CREATE TABLE t(x); BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    sqlite3_busy_timeout(b, 10000);
    CHECK_EQ(pthread_create(&thread, NULL, commit_later, a), 0);
    MUST(b, "INSERT INTO t SELECT count(*) + 10 FROM t");
    pthread_join(thread, NULL);
    CHECK_EQ(ask(b, "SELECT max(x) FROM t", NULL), 11);
    sqlite3_close(a);
    sqlite3_close(b);
    world_down(&w);
}

/* ---- Threads ------------------------------------------------------------------------------- */

enum { ACCOUNTS = 40, TOTAL = ACCOUNTS * 100 };

struct bank {
    const char *vfs;
    _Atomic bool stop;
    _Atomic int wrong;      /* invariants that did not hold */
    _Atomic int read, written, error;
    int transfers;          /* each writer's */
    bool wal;
};

static void *bank_reader(void *arg)
{
    struct bank *bank = arg;
    sqlite3 *db;
    int64_t last = 0;
    if (sqlite3_open_v2("bank.db", &db, SQLITE_OPEN_READWRITE, bank->vfs) != SQLITE_OK)
        atomic_fetch_add(&bank->error, 1);
    run(db, "PRAGMA cache_size=2"); /* so that pages are really read */
    while (!atomic_load(&bank->stop)) {
        int rc, rc2;
        run(db, "BEGIN");
        int64_t sum = ask(db, "SELECT sum(money) FROM account", &rc);
        int64_t n = ask(db, "SELECT max(n) FROM journal", &rc2);
        run(db, "COMMIT");
        if (rc == SQLITE_OK && rc2 == SQLITE_OK) {
            if (sum != TOTAL || n < last)
                atomic_fetch_add(&bank->wrong, 1);
            last = n;
            atomic_fetch_add(&bank->read, 1);
        } else if (bank->wal || (rc != SQLITE_BUSY && rc2 != SQLITE_BUSY)) {
            atomic_fetch_add(&bank->error, 1); /* in WAL mode a reader never waits */
        }
    }
    sqlite3_close(db);
    return NULL;
}

static void *bank_writer(void *arg)
{
    struct bank *bank = arg;
    sqlite3 *db;
    struct test_rng rng = {(uint64_t)(uintptr_t)&db};
    if (sqlite3_open_v2("bank.db", &db, SQLITE_OPEN_READWRITE, bank->vfs) != SQLITE_OK)
        atomic_fetch_add(&bank->error, 1);
    sqlite3_busy_timeout(db, 20000);
    run(db, "PRAGMA wal_autocheckpoint=20; PRAGMA cache_size=5");
    for (int i = 0; i < bank->transfers; i++) {
        char sql[400];
        snprintf(sql, sizeof sql,
                 "BEGIN IMMEDIATE; UPDATE account SET money = money - 7, fill = randomblob(700)"
                 " WHERE id = %d; UPDATE account SET money = money + 7 WHERE id = %d;"
                 "INSERT INTO journal SELECT max(n) + 1 FROM journal; %s",
                 (int)test_below(&rng, ACCOUNTS), (int)test_below(&rng, ACCOUNTS),
                 i % 5 ? "COMMIT" : "ROLLBACK");
        int rc = run(db, sql);
        if (rc == SQLITE_OK)
            atomic_fetch_add(&bank->written, i % 5 ? 1 : 0);
        else
            run(db, "ROLLBACK");
        if (rc != SQLITE_OK && (bank->wal || rc != SQLITE_BUSY))
            atomic_fetch_add(&bank->error, 1);
    }
    sqlite3_close(db);
    return NULL;
}

static void run_bank(const char *vfs, bool wal, int transfers)
{
    struct world w = world_up(vfs, NULL);
    sqlite3 *db = open_on(vfs, "bank.db");
    struct bank bank = {.vfs = vfs, .transfers = transfers, .wal = wal};
    pthread_t readers[4], writers[2];
    MUST(db, wal ? "PRAGMA journal_mode=WAL" : "PRAGMA journal_mode=DELETE");
    MUST(db, "CREATE TABLE account(id INTEGER PRIMARY KEY, money, fill); CREATE TABLE journal(n);"
             "INSERT INTO journal VALUES(0); WITH c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c"
             " WHERE i < 39) INSERT INTO account SELECT i, 100, zeroblob(700) FROM c");
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&readers[i], NULL, bank_reader, &bank), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&writers[i], NULL, bank_writer, &bank), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(writers[i], NULL);
    atomic_store(&bank.stop, true);
    for (int i = 0; i < 4; i++)
        pthread_join(readers[i], NULL);
    CHECK_EQ(atomic_load(&bank.wrong), 0);
    CHECK_EQ(atomic_load(&bank.error), 0);
    CHECK_EQ(ask(db, "SELECT max(n) FROM journal", NULL), atomic_load(&bank.written));
    CHECK_EQ(ask(db, "SELECT count(*) FROM journal", NULL), atomic_load(&bank.written) + 1);
    CHECK_EQ(ask(db, "SELECT sum(money) FROM account", NULL), TOTAL);
    CHECK(sound(db));
    test_note("%d commits, %d reads", atomic_load(&bank.written), atomic_load(&bank.read));
    sqlite3_close(db);
    world_down(&w);
}

TEST(threads_share_a_wal_database)
{
    run_bank("t-bank-wal", true, (int)test_budget(400));
}

TEST(threads_share_a_rollback_journal_database)
{
    run_bank("t-bank-del", false, (int)test_budget(60));
}

static void *open_and_close(void *arg)
{
    struct bank *bank = arg;
    for (int i = 0; i < bank->transfers; i++) {
        sqlite3 *db;
        int rc = sqlite3_open_v2("a.db", &db, SQLITE_OPEN_READWRITE, bank->vfs);
        sqlite3_busy_timeout(db, 20000);
        if (rc == SQLITE_OK)
            rc = run(db, "INSERT INTO t VALUES(1)");
        if (rc == SQLITE_OK)
            atomic_fetch_add(&bank->written, 1);
        else
            atomic_fetch_add(&bank->error, 1);
        sqlite3_close(db);
    }
    return NULL;
}

/* The last close checkpoints and removes the WAL while others come in: the shared memory is made
 * and unmade all the time. */
TEST(threads_open_and_close_without_losing_a_commit)
{
    struct world w = world_up("t-churn", NULL);
    struct bank bank = {.vfs = "t-churn", .transfers = (int)test_budget(100)};
    sqlite3 *db = open_wal("t-churn", "a.db");
    pthread_t threads[3];
    MUST(db, "CREATE TABLE t(x)");
    sqlite3_close(db);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, open_and_close, &bank), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(atomic_load(&bank.error), 0);
    db = open_on("t-churn", "a.db");
    CHECK_EQ(ask(db, "SELECT count(*) FROM t", NULL), atomic_load(&bank.written));
    CHECK(sound(db));
    sqlite3_close(db);
    world_down(&w);
}

/* ---- The same answers as SQLite's own VFS -------------------------------------------------- */

static int digest_row(void *ctx, int n, char **values, char **names)
{
    uint64_t *h = ctx;
    (void)names;
    for (int i = 0; i < n; i++) {
        for (const char *p = values[i] ? values[i] : "\1"; *p; p++)
            *h = (*h ^ (unsigned char)*p) * 0x100000001b3u;
        *h = (*h ^ 0xffu) * 0x100000001b3u;
    }
    return 0;
}

/* One random statement; the same for the same state of the generator. */
static void random_sql(struct test_rng *rng, char *sql, size_t room)
{
    unsigned n = (unsigned)test_below(rng, 60), size = (unsigned)test_below(rng, 3000);
    switch (test_below(rng, 14)) {
    case 0:
    case 1:
    case 2:
        snprintf(sql, room, "INSERT OR REPLACE INTO t VALUES(%u, 'k%u', zeroblob(%u))", n, size,
                 size);
        break;
    case 3:
        snprintf(sql, room, "INSERT INTO t SELECT id + 100, k, hex(v) FROM t WHERE id < %u", n);
        break;
    case 4:
        snprintf(sql, room, "DELETE FROM t WHERE id %% 7 = %u", n % 7);
        break;
    case 5:
        snprintf(sql, room, "UPDATE t SET k = k || '%u' WHERE id > %u", n, n);
        break;
    case 6:
        snprintf(sql, room, "SAVEPOINT s%u", n % 3);
        break;
    case 7:
        snprintf(sql, room, "ROLLBACK TO s%u", n % 3);
        break;
    case 8:
        snprintf(sql, room, "RELEASE s%u", n % 3);
        break;
    case 9:
        snprintf(sql, room, n % 2 ? "BEGIN" : "COMMIT");
        break;
    case 10:
        snprintf(sql, room, "CREATE INDEX IF NOT EXISTS i%u ON t(k, id)", n % 2);
        break;
    case 11:
        snprintf(sql, room, n % 3 ? "DROP INDEX IF EXISTS i0" : "VACUUM");
        break;
    case 12:
        snprintf(sql, room, "SELECT k, count(*), max(length(v)) FROM t GROUP BY k ORDER BY 3, k");
        break;
    default:
        snprintf(sql, room, "CREATE TEMP TABLE IF NOT EXISTS u(x); INSERT INTO u SELECT k FROM t;"
                            "SELECT count(*), min(x) FROM u");
        break;
    }
}

static uint64_t run_script(sqlite3 *db, const char *mode, uint64_t seed, int steps)
{
    uint64_t h = 0xcbf29ce484222325u;
    struct test_rng rng = {seed};
    char sql[300];
    snprintf(sql, sizeof sql, "PRAGMA page_size=1024; PRAGMA journal_mode=%s; PRAGMA cache_size=8;"
                              "PRAGMA temp_store=FILE", mode);
    MUST(db, sql);
    MUST(db, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, k, v)");
    for (int i = 0; i < steps; i++) {
        random_sql(&rng, sql, sizeof sql);
        int rc = sqlite3_exec(db, sql, digest_row, &h, NULL);
        h = (h ^ (unsigned)rc) * 0x100000001b3u;
    }
    run(db, "COMMIT");
    CHECK(sound(db));
    CHECK_EQ(sqlite3_exec(db, "SELECT id, k, hex(v) FROM t ORDER BY id", digest_row, &h, NULL),
             SQLITE_OK);
    return h;
}

TEST(random_scripts_answer_as_on_the_default_vfs)
{
    static const char *const modes[] = {"WAL", "DELETE", "TRUNCATE", "PERSIST", "OFF", "MEMORY"};
    struct world w = world_up("t-script", NULL);
    for (uint64_t seed = 1; seed <= test_budget(24); seed++) {
        const char *mode = modes[seed % 6];
        char name[32];
        snprintf(name, sizeof name, "s%d.db", (int)seed);
        sqlite3 *a = open_on("t-script", name), *b = open_on(NULL, test_path(name));
        MUST(b, "PRAGMA synchronous=OFF"); /* only speed: the answers are what is compared */
        uint64_t mine = run_script(a, mode, seed, 120), theirs = run_script(b, mode, seed, 120);
        sqlite3_close(a);
        sqlite3_close(b);
        CHECKF(mine == theirs, "seed %d, journal_mode=%s: answers differ", (int)seed, mode);
        a = open_on("t-script", name);
        CHECK(sound(a));
        sqlite3_close(a);
    }
    world_down(&w);
}

TEST(attached_databases_commit_together)
{
    struct world w = world_up("t-att", NULL);
    sqlite3 *db = open_on("t-att", "a.db");
    MUST(db, "ATTACH 'b.db' AS b; PRAGMA main.journal_mode=DELETE; PRAGMA b.journal_mode=DELETE;"
             "CREATE TABLE t(x); CREATE TABLE b.u(x); BEGIN; INSERT INTO t VALUES(1);"
             "INSERT INTO u VALUES(2); COMMIT");
    sqlite3_close(db);
    db = open_on("t-att", "b.db");
    CHECK_EQ(ask(db, "SELECT x FROM u", NULL), 2);
    sqlite3_close(db);
    world_down(&w);
}

TEST(temporary_files_are_kept_in_memory_and_given_back)
{
    struct mn_alloc *alloc = mn_alloc_create(NULL, UINT64_MAX);
    struct vfs_opts opts = {.alloc = alloc};
    struct world w = world_up("t-temp", &opts);
    sqlite3 *db = open_wal("t-temp", "a.db");
    MUST(db, "PRAGMA temp_store=FILE; PRAGMA cache_size=5; PRAGMA temp.cache_size=5;"
             "CREATE TEMP TABLE u(x); WITH c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c"
             " WHERE i < 3000) INSERT INTO u SELECT randomblob(100) FROM c");
    CHECK(mn_alloc_used_by(alloc, MN_TAG_IO) > 300000);
    CHECK_EQ(ask(db, "SELECT count(*) FROM (SELECT DISTINCT x FROM u ORDER BY x)", NULL), 3000);
    sqlite3_close(db);
    world_down(&w);
    CHECK_EQ(mn_alloc_used_by(alloc, MN_TAG_IO), 0);
    mn_alloc_destroy(alloc);
}

/* ---- Method by method ---------------------------------------------------------------------- */

/* A file handle as SQLite would hold it. */
static sqlite3_file *raw_open(const char *vfs, const char *path)
{
    sqlite3_vfs *v = sqlite3_vfs_find(vfs);
    sqlite3_file *f = calloc(1, (size_t)v->szOsFile);
    int flags = SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    CHECK_EQ(v->xOpen(v, path, f, flags, NULL), SQLITE_OK);
    return f;
}

static void raw_close(sqlite3_file *f)
{
    CHECK_EQ(f->pMethods->xClose(f), SQLITE_OK);
    free(f);
}

TEST(shared_memory_slots_follow_shared_and_exclusive)
{
    enum { S = SQLITE_SHM_LOCK | SQLITE_SHM_SHARED, X = SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE,
           US = SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED,
           UX = SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE };
    static const struct {
        int file, slot, n, flags, want;
    } steps[] = {
        {0, 3, 1, S, SQLITE_OK},  {1, 3, 1, S, SQLITE_OK},   {2, 3, 1, X, SQLITE_BUSY},
        {2, 2, 3, X, SQLITE_BUSY}, {2, 2, 1, X, SQLITE_OK},  {0, 2, 1, S, SQLITE_BUSY},
        {0, 3, 1, US, SQLITE_OK}, {2, 3, 1, X, SQLITE_BUSY}, {1, 3, 1, US, SQLITE_OK},
        {2, 3, 1, X, SQLITE_OK},  {1, 3, 1, S, SQLITE_BUSY}, {1, 3, 1, X, SQLITE_BUSY},
        {2, 2, 2, UX, SQLITE_OK}, {0, 0, 8, X, SQLITE_OK},   {1, 7, 1, S, SQLITE_BUSY},
        {0, 0, 8, UX, SQLITE_OK}, {1, 7, 1, S, SQLITE_OK},   {1, 7, 1, S, SQLITE_OK},
        {1, 7, 1, US, SQLITE_OK}, {0, 7, 1, X, SQLITE_OK},
    };
    struct world w = world_up("t-slots", NULL);
    sqlite3_file *f[3];
    void volatile *p[3], *beyond;
    for (int i = 0; i < 3; i++) {
        f[i] = raw_open("t-slots", "a.db");
        CHECK_EQ(f[i]->pMethods->xShmMap(f[i], 0, 32768, 1, &p[i]), SQLITE_OK);
        CHECK(p[i] && p[i] == p[0]);
    }
    CHECK_EQ(f[0]->pMethods->xShmMap(f[0], 5, 32768, 0, &beyond), SQLITE_OK);
    CHECK(beyond == NULL);
    CHECK_EQ(f[0]->pMethods->xShmMap(f[0], 5, 32768, 1, &beyond), SQLITE_OK);
    CHECK(beyond != NULL);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        sqlite3_file *at = f[steps[i].file];
        int rc = at->pMethods->xShmLock(at, steps[i].slot, steps[i].n, steps[i].flags);
        CHECKF(rc == steps[i].want, "step %d: %d, want %d", (int)i, rc, steps[i].want);
    }
    f[0]->pMethods->xShmUnmap(f[0], 0); /* takes its exclusive slot 7 with it */
    CHECK_EQ(f[1]->pMethods->xShmLock(f[1], 7, 1, X), SQLITE_OK);
    ((volatile char *)p[1])[9] = 1;
    for (int i = 0; i < 3; i++)
        raw_close(f[i]);
    f[0] = raw_open("t-slots", "a.db");
    CHECK_EQ(f[0]->pMethods->xShmMap(f[0], 0, 32768, 1, &p[0]), SQLITE_OK);
    CHECK_EQ(((volatile char *)p[0])[9], 0); /* the last one out clears it */
    raw_close(f[0]);
    world_down(&w);
}

TEST(reads_behind_the_end_are_zeros_and_say_so)
{
    struct world w = world_up("t-short", NULL);
    sqlite3_file *f = raw_open("t-short", "a.db");
    char text[6] = "??????";
    sqlite3_int64 size;
    CHECK_EQ(f->pMethods->xWrite(f, "abc", 3, 0), SQLITE_OK);
    CHECK_EQ(f->pMethods->xRead(f, text, 3, 0), SQLITE_OK);
    CHECK_EQ(f->pMethods->xRead(f, text, 6, 1), SQLITE_IOERR_SHORT_READ);
    CHECK(memcmp(text, "bc\0\0\0\0", 6) == 0);
    CHECK_EQ(f->pMethods->xRead(f, text, 6, 100), SQLITE_IOERR_SHORT_READ);
    CHECK(memcmp(text, "\0\0\0\0\0\0", 6) == 0);
    CHECK_EQ(f->pMethods->xTruncate(f, 1), SQLITE_OK);
    CHECK_EQ(f->pMethods->xFileSize(f, &size), SQLITE_OK);
    CHECK_EQ(size, 1);
    CHECK_EQ(f->pMethods->iVersion, 2);
    raw_close(f);
    world_down(&w);
}

TEST(a_new_file_of_an_old_name_has_locks_of_its_own)
{
    struct world w = world_up("t-again", NULL);
    sqlite3_vfs *v = sqlite3_vfs_find("t-again");
    sqlite3_file *f = raw_open("t-again", "a.db");
    int there, moved = 0;
    CHECK_EQ(f->pMethods->xWrite(f, "abc", 3, 0), SQLITE_OK);
    CHECK_EQ(f->pMethods->xLock(f, SQLITE_LOCK_SHARED), SQLITE_OK);
    CHECK_EQ(f->pMethods->xLock(f, SQLITE_LOCK_EXCLUSIVE), SQLITE_OK);
    CHECK_EQ(v->xAccess(v, "a.db", SQLITE_ACCESS_EXISTS, &there), SQLITE_OK);
    CHECK_EQ(there, 1);
    CHECK_EQ(v->xDelete(v, "a.db", 1), SQLITE_OK);
    CHECK_EQ(v->xDelete(v, "a.db", 1), SQLITE_IOERR_DELETE_NOENT);
    CHECK_EQ(v->xAccess(v, "a.db", SQLITE_ACCESS_EXISTS, &there), SQLITE_OK);
    CHECK_EQ(there, 0);
    CHECK_EQ(f->pMethods->xFileControl(f, SQLITE_FCNTL_HAS_MOVED, &moved), SQLITE_OK);
    CHECK_EQ(moved, 1);
    sqlite3_file *g = raw_open("t-again", "a.db");
    CHECK_EQ(v->xAccess(v, "a.db", SQLITE_ACCESS_EXISTS, &there), SQLITE_OK);
    CHECK_EQ(there, 0); /* empty counts as absent, as on SQLite's unix VFS */
    CHECK_EQ(g->pMethods->xLock(g, SQLITE_LOCK_SHARED), SQLITE_OK);
    raw_close(g);
    raw_close(f);
    world_down(&w);
}

/* ---- Trouble ------------------------------------------------------------------------------- */

TEST(memory_that_runs_out_fails_the_write_and_loses_nothing)
{
    struct world w = {.alloc = mn_alloc_create(NULL, 1u << 20), .vfs = "t-oom"};
    mn_error err = {0};
    w.fs = fs_mem_create(w.alloc);
    CHECK_OK(vfs_register("t-oom", w.fs, NULL, &err), err);
    sqlite3 *db = open_wal("t-oom", "a.db");
    MUST(db, "CREATE TABLE t(x)");
    int rc = SQLITE_OK, n = 0;
    while (rc == SQLITE_OK && n < 100)
        if ((rc = run(db, "INSERT INTO t VALUES(zeroblob(60000))")) == SQLITE_OK)
            n++;
    CHECK_EQ(rc, SQLITE_NOMEM);
    CHECK_EQ(ask(db, "SELECT count(*) FROM t", NULL), n);
    sqlite3_close(db);
    db = open_on("t-oom", "a.db");
    CHECK_EQ(ask(db, "SELECT count(*) FROM t", NULL), n);
    CHECK(sound(db));
    sqlite3_close(db);
    world_down(&w);
}

/* Two VFSs on one table of locks stand for two processes. */
TEST(a_killed_process_lets_its_locks_go)
{
    struct vfs_opts opts = {.locks = vfs_locks_create()};
    struct world w = world_up("t-kill-a", &opts);
    mn_error err = {0};
    CHECK_OK(vfs_register("t-kill-b", w.fs, &opts, &err), err);
    sqlite3 *a = open_wal("t-kill-a", "a.db"), *b = open_on("t-kill-b", "a.db");
    sqlite3 *reader = open_on("t-kill-b", "a.db");
    MUST(a, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    MUST(reader, "BEGIN");
    CHECK_EQ(ask(reader, "SELECT count(*) FROM t", NULL), 1);
    MUST(b, "BEGIN IMMEDIATE; INSERT INTO t VALUES(2)");
    CHECK_EQ(run(a, "INSERT INTO t VALUES(3)"), SQLITE_BUSY);
    vfs_kill("t-kill-b");
    MUST(a, "INSERT INTO t VALUES(3)");
    CHECK_EQ(ask(a, "SELECT count(*) FROM t", NULL), 2);
    int logged, moved, rc;
    CHECK_EQ(sqlite3_wal_checkpoint_v2(a, NULL, SQLITE_CHECKPOINT_RESTART, &logged, &moved),
             SQLITE_OK);
    CHECK_EQ(moved, logged);
    MUST(a, "INSERT INTO t VALUES(4)");
    ask(b, "SELECT 1 FROM t", &rc);
    CHECK(rc != SQLITE_OK || sqlite3_get_autocommit(b) == 0);
    CHECK_EQ(ask(a, "SELECT count(*) FROM t", NULL), 3);
    CHECK(sound(a));
    sqlite3_close(a);
    sqlite3_close(b);
    sqlite3_close(reader);
    CHECK_OK(vfs_unregister("t-kill-b", &err), err);
    world_down(&w);
    vfs_locks_destroy(opts.locks);
}

TEST(seed_and_virtual_time_replay)
{
    struct vfs_opts opts = {.seed = 7, .virtual_time = true, .sector_bytes = 512};
    int64_t seen[2][2];
    unsigned char bytes[2][16];
    for (int i = 0; i < 2; i++) {
        struct world w = world_up("t-seed", &opts);
        sqlite3_vfs *v = sqlite3_vfs_find("t-seed");
        CHECK_EQ(v->xRandomness(v, 16, (char *)bytes[i]), 16);
        sqlite3 *a = open_wal("t-seed", "a.db"), *b = open_on("t-seed", "a.db");
        seen[i][0] = ask(a, "SELECT strftime('%s', 'now')", NULL);
        sqlite3_busy_timeout(b, 3600000);
        MUST(a, "CREATE TABLE t(x); BEGIN IMMEDIATE");
        CHECK_EQ(run(b, "INSERT INTO t VALUES(1)"), SQLITE_BUSY); /* an hour in no time */
        seen[i][1] = ask(a, "SELECT strftime('%s', 'now')", NULL);
        sqlite3_close(a);
        sqlite3_close(b);
        world_down(&w);
    }
    CHECK_EQ(seen[0][0], 1577836800);
    CHECKF(seen[0][1] >= 1577836800 + 3590, "the clock moved by %d s",
           (int)(seen[0][1] - seen[0][0]));
    CHECK_EQ(seen[1][1], seen[0][1]);
    CHECK(memcmp(bytes[0], bytes[1], 16) == 0);
}

TEST_MAIN
