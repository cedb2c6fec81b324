/* threads */
/* Trouble with the hybrid index on a real disk: damaged, lost, foreign, older and newer sidecars,
 * processes and threads that fold at once, readers that sleep, rows that are all alike, collections
 * that shrink and grow. Answers stay right, what is wrong is reported, and the next fold or rebuild
 * mends it. */
#include "tests/engine/files.h"
#include "tests/engine/indexed.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { DIM = 8, ROWS = 400, K = 10 };

static mn_error err;

struct world {
    const char *path;
    mn_db *db;
    mn_conn *conn;
    struct brute b;
};

static struct world world_open(const char *path, uint32_t dim, bool cold, uint32_t flags)
{
    struct world w = {.path = path, .b = {.dtype = MN_F32, .metric = MN_L2, .dim = dim}};
    struct db_stage stage = {.limits = INDEXED_LIMITS};
    const mn_open_opts opts = {.flags = flags, .durability = MN_RELAXED};
    stage.limits.cold = stage.limits.away = cold;
    CHECK_OK(db_open_on(path, &opts, &stage, &w.db, &err), err);
    CHECK_OK(mn_connect(w.db, &w.conn, &err), err);
    return w;
}

static void world_close(struct world *w)
{
    brute_free(&w->b);
    mn_disconnect(w->conn);
    CHECK_OK(mn_close(w->db, &err), err);
}

static void put_rows(mn_conn *conn, uint32_t dim, int64_t from, int64_t to, uint64_t seed)
{
    float *v = malloc(dim * sizeof *v);
    CHECK(v);
    CHECK_OK(mn_begin_write(conn, &err), err);
    for (int64_t id = from; id < to; id++) {
        indexed_vector(MN_F32, dim, seed, (uint64_t)id, v);
        CHECK_OK(mn_put(conn, "c", &(mn_row){.id = id, .vector = v}, 1, NULL, &err), err);
    }
    CHECK_OK(mn_commit(conn, &err), err);
    free(v);
}

static void load_rows(struct world *w)
{
    brute_load_file(&w->b, w->path, "c", "vector");
}

/* How many of six searches the index answered; all are right. */
static uint64_t check_answers(struct world *w, const char *what)
{
    struct indexed_recall sum = {0};
    float *query = malloc(w->b.dim * sizeof *query);
    CHECK(query);
    for (int i = 0; i < 4; i++) {
        indexed_vector(MN_F32, w->b.dim, 3, 70000 + (uint64_t)i, query);
        struct indexed_query q = {
            .name = "c", .vector = query, .k = K, .opts.recall = i % 2 ? 1.0 : 0.95};
        const char *wrong = indexed_check(w->conn, &w->b, &q, &sum);
        CHECKF(!wrong, "%s: %s", what, wrong);
    }
    free(query);
    CHECKF(sum.wanted == 0 || sum.found >= 0.6 * sum.wanted, "%s: %g of %g hits", what, sum.found,
           sum.wanted);
    return sum.by_index;
}

static void check_mended(struct world *w, const char *what)
{
    CHECKF(check_answers(w, what) > 0, "%s: the index does not answer", what);
    const char *wrong = indexed_verify(w->conn);
    CHECKF(!wrong, "%s: %s", what, wrong);
}

/* A database with an index of ROWS rows, closed. */
static void make(const char *path, uint64_t seed)
{
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    CHECK_OK(mn_create(w.conn, "c", &(mn_collection_opts){.dim = DIM}, &err), err);
    put_rows(w.conn, DIM, 1, ROWS + 1, seed);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    world_close(&w);
}

static void sql(const char *path, const char *text)
{
    sqlite3 *db = NULL;
    char *message = NULL;
    CHECK(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK);
    int rc = sqlite3_exec(db, text, NULL, NULL, &message);
    CHECKF(rc == SQLITE_OK, "%s: %s", text, message);
    sqlite3_close(db);
}

static int64_t sql_number(const char *path, const char *text)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    CHECK(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK);
    CHECKF(sqlite3_prepare_v2(db, text, -1, &st, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    int64_t n = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : -1;
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void flip(const char *path, uint64_t at)
{
    int fd = open(path, O_RDWR);
    char c;
    CHECK(fd >= 0 && pread(fd, &c, 1, (off_t)at) == 1);
    c = (char)(c ^ 0x10);
    CHECK(pwrite(fd, &c, 1, (off_t)at) == 1);
    close(fd);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

struct place {
    uint64_t first_block, n_blocks;
};

static size_t list_extents(const char *path, struct place *out, size_t most)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    size_t n = 0;
    CHECK(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK);
    CHECK(sqlite3_prepare_v2(db, "SELECT first_block, n_blocks FROM mneme_extents", -1, &st,
                             NULL) == SQLITE_OK);
    while (sqlite3_step(st) == SQLITE_ROW && n < most)
        out[n++] = (struct place){(uint64_t)sqlite3_column_int64(st, 0),
                                  (uint64_t)sqlite3_column_int64(st, 1)};
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

static void damage_one(const char *path, uint64_t at, bool cold)
{
    char what[80];
    snprintf(what, sizeof what, "byte %llu, cold %d", (unsigned long long)at, cold);
    flip(sidecar_of(path), at);
    struct world w = world_open(path, DIM, cold, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    check_answers(&w, what);
    const char *found = indexed_verify(w.conn);
    CHECKF(found, "%s: verify finds nothing", what);
    mn_status st = mn_fold(w.conn, "c", &err);
    CHECKF(st == MN_OK, "%s: %s", what, err.message);
    check_mended(&w, what);
    world_close(&w);
}

TEST(a_flipped_bit_in_any_extent_is_reported_and_mended)
{
    const char *path = test_path("a.db");
    struct place all[32];
    uint64_t runs = 0;
    make(path, 1);
    struct copy db = file_read(path), sidecar = file_read(sidecar_of(path));
    size_t n = list_extents(path, all, 32), step = test_long() ? 1 : 12;
    CHECK(n >= 4);
    if (!test_long() && test_budget(10) < 10)
        step = 90;
    for (size_t i = 0; i < n; i++) {
        uint64_t first = all[i].first_block * 4096;
        for (uint64_t off = i % step; off < 128 + step; off += off < 128 ? step : 4096) {
            uint64_t at = off < 128 ? off : (all[i].n_blocks - 1) * 4096 + (off & 31);
            damage_one(path, first + at, runs % 3 == 2);
            file_write(path, &db);
            file_write(sidecar_of(path), &sidecar);
            runs++;
        }
    }
    free(db.bytes);
    free(sidecar.bytes);
    test_note("%d bytes", (int)runs);
}

TEST(rows_of_the_catalog_that_a_client_changed_are_found_out)
{
    static const char *const statements[] = {
        "DELETE FROM mneme_extents WHERE kind = 2", "DELETE FROM mneme_extents",
        "UPDATE mneme_extents SET first_block = first_block + 100000 WHERE kind = 4",
        "UPDATE mneme_indexes SET generation = generation + 1",
        "UPDATE mneme_indexes SET stamp = stamp + 1", "DELETE FROM mneme_indexes"};
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        char name[16];
        snprintf(name, sizeof name, "%zu.db", i);
        const char *path = test_path(name);
        make(path, 1);
        sql(path, statements[i]);
        struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
        load_rows(&w);
        check_answers(&w, statements[i]);
        mn_status st = mn_fold(w.conn, "c", &err);
        CHECKF(st == MN_OK, "%s: %s", statements[i], err.message);
        check_mended(&w, statements[i]);
        world_close(&w);
    }
}

/* ---- Files that do not belong together ------------------------------------------------------- */

static void check_pair(const char *path, const char *what)
{
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    check_answers(&w, what);
    mn_status st = mn_fold(w.conn, "c", &err);
    CHECKF(st == MN_OK, "%s: %s", what, err.message);
    check_mended(&w, what);
    put_rows(w.conn, DIM, 5, 60, 8);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    load_rows(&w);
    check_mended(&w, what);
    world_close(&w);
}

static void change_and_fold(const char *path, uint64_t seed)
{
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    for (int i = 0; i < 3; i++) {
        put_rows(w.conn, DIM, 10 + 40 * i, 50 + 40 * i, seed + (uint64_t)i);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
    }
    world_close(&w);
}

TEST(sidecars_of_another_moment_are_recognised)
{
    const char *path = test_path("a.db");
    make(path, 1);
    struct copy old_db = file_read(path), old = file_read(sidecar_of(path));
    change_and_fold(path, 20);
    struct copy db = file_read(path), sidecar = file_read(sidecar_of(path));
    file_write(sidecar_of(path), &old);
    check_pair(path, "an older sidecar");
    file_write(path, &old_db);
    file_write(sidecar_of(path), &sidecar);
    check_pair(path, "an older database");
    file_write(path, &old_db);
    file_write(sidecar_of(path), &old);
    change_and_fold(path, 40); /* as many folds, of other rows */
    file_write(sidecar_of(path), &sidecar);
    check_pair(path, "a sidecar of another history");
    for (size_t cut = 0; cut < sidecar.n; cut += 1 + sidecar.n / 7) {
        file_write(path, &db);
        file_write(sidecar_of(path), &(struct copy){sidecar.bytes, cut});
        if (cut)
            check_pair(path, "a sidecar cut short");
    }
    file_write(path, &db);
    CHECK(unlink(sidecar_of(path)) == 0);
    check_pair(path, "no sidecar");
    free(old_db.bytes);
    free(old.bytes);
    free(db.bytes);
    free(sidecar.bytes);
}

TEST(another_databases_sidecar_is_left_alone)
{
    const char *path = test_path("a.db"), *other = test_path("b.db");
    make(path, 1);
    make(other, 2);
    struct copy foreign = file_read(sidecar_of(other));
    file_write(sidecar_of(path), &foreign);
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    CHECK_EQ(check_answers(&w, "foreign"), 0);
    CHECK_EQ(mn_fold(w.conn, "c", &err), MN_EXISTS);
    CHECK_HAS(err.message, "belongs to database");
    struct copy after = file_read(sidecar_of(path));
    CHECK(after.n == foreign.n && memcmp(after.bytes, foreign.bytes, after.n) == 0);
    CHECK(unlink(sidecar_of(path)) == 0);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    check_mended(&w, "its own again");
    world_close(&w);
    free(foreign.bytes);
    free(after.bytes);
}

/* In the running process: SQLite's own backup brings an older state of the database back. */
TEST(a_restore_over_the_open_database_is_noticed)
{
    const char *path = test_path("a.db"), *saved = test_path("saved.db");
    make(path, 1);
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    CHECK_OK(mn_backup(w.conn, saved, &err), err);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++) {
            put_rows(w.conn, DIM, 1, 200, 50 + (uint64_t)(10 * round + i));
            CHECK_OK(mn_fold(w.conn, "c", &err), err);
        }
        load_rows(&w);
        check_mended(&w, "before");
        sqlite3 *from = NULL, *to = NULL;
        CHECK(sqlite3_open(saved, &from) == SQLITE_OK && sqlite3_open(path, &to) == SQLITE_OK);
        sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
        CHECK(b && sqlite3_backup_step(b, -1) == SQLITE_DONE);
        CHECK(sqlite3_backup_finish(b) == SQLITE_OK);
        sqlite3_close(from);
        sqlite3_close(to);
        load_rows(&w);
        for (int i = 0; i < 6; i++) /* more searches than one old reader would make */
            check_answers(&w, "restored");
        put_rows(w.conn, DIM, 300, 340, 90);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        load_rows(&w);
        for (int i = 0; i < 6; i++)
            check_answers(&w, "folded after it");
        check_mended(&w, "folded after it");
    }
    world_close(&w);
}

/* ---- Readers and processes ------------------------------------------------------------------- */

TEST(a_reader_sleeps_through_ten_folds)
{
    const char *path = test_path("a.db");
    make(path, 1);
    struct world w = world_open(path, DIM, true, MN_OPEN_NO_BACKGROUND);
    mn_conn *writer;
    CHECK_OK(mn_connect(w.db, &writer, &err), err);
    load_rows(&w);
    CHECK_OK(mn_begin_read(w.conn, &err), err);
    check_answers(&w, "awake");
    for (int i = 0; i < 10; i++) {
        put_rows(writer, DIM, 1 + 20 * i, 30 + 20 * i, 60 + (uint64_t)i);
        CHECK_OK(mn_fold(writer, "c", &err), err);
        if (i % 3 == 0)
            check_answers(&w, "half asleep");
    }
    check_answers(&w, "awake again");
    CHECK_OK(mn_commit(w.conn, &err), err);
    load_rows(&w);
    check_mended(&w, "up to date");
    mn_disconnect(writer);
    world_close(&w);
}

/* A child must not CHECK: that would run the parent's other tests. */
static int child_folds(const char *path, int64_t from)
{
    const mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND, .durability = MN_RELAXED};
    const struct db_stage stage = {.limits = INDEXED_LIMITS};
    mn_db *db;
    mn_conn *conn;
    mn_error e = {0};
    int folded = 0;
    if (db_open_on(path, &opts, &stage, &db, &e) || mn_connect(db, &conn, &e))
        return 2;
    for (int i = 0; i < 15; i++) {
        float v[DIM];
        indexed_vector(MN_F32, DIM, 30, (uint64_t)(from + i), v);
        if (mn_put(conn, "c", &(mn_row){.id = from + i, .vector = v}, 1, NULL, &e))
            return 3;
        mn_status st = MN_BUSY;
        for (int tries = 0; st == MN_BUSY && tries < 200; tries++) {
            st = i % 5 == 4 ? mn_rebuild(conn, "c", &e) : mn_fold(conn, "c", &e);
            if (st == MN_BUSY)
                usleep(1000);
        }
        if (st != MN_OK && st != MN_BUSY && st != MN_CONFLICT)
            return 4;
        folded += st == MN_OK;
        mn_hit hit;
        uint32_t found;
        if (mn_search(conn, "c", v, 1, 1, NULL, &hit, &found, &e) || found != 1 ||
            hit.distance != 0)
            return 5;
    }
    mn_disconnect(conn);
    return mn_close(db, &e) ? 6 : folded == 0 ? 7 : 0;
}

TEST(two_processes_fold_at_once)
{
    const char *path = test_path("a.db");
    pid_t children[3];
    make(path, 1);
    CHECK(unlink(sidecar_of(path)) == 0); /* and make the sidecar at once */
    for (int i = 0; i < 3; i++)
        if ((children[i] = fork()) == 0)
            _exit(child_folds(path, 1000 + 100 * i));
    for (int i = 0; i < 3; i++) {
        int status = 0;
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %d: status %x", i, status);
    }
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    CHECK_EQ(w.b.n, ROWS + 45);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    check_mended(&w, "after both");
    world_close(&w);
}

TEST(a_read_only_process_uses_an_index_and_changes_nothing)
{
    const char *path = test_path("a.db");
    make(path, 1);
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    put_rows(w.conn, DIM, 100, 150, 70); /* pending */
    world_close(&w);
    struct copy before = file_read(sidecar_of(path));
    w = world_open(path, DIM, true, MN_OPEN_READONLY);
    load_rows(&w);
    check_mended(&w, "read-only");
    CHECK_EQ(mn_fold(w.conn, "c", &err), MN_READONLY);
    world_close(&w);
    struct copy after = file_read(sidecar_of(path));
    CHECK(after.n == before.n && memcmp(after.bytes, before.bytes, after.n) == 0);
    CHECK(unlink(sidecar_of(path)) == 0);
    w = world_open(path, DIM, false, MN_OPEN_READONLY);
    load_rows(&w);
    CHECK_EQ(check_answers(&w, "read-only without a sidecar"), 0);
    world_close(&w);
    CHECK(access(sidecar_of(path), F_OK) != 0);
    free(before.bytes);
    free(after.bytes);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void put_alike(mn_conn *conn, int64_t from, int64_t n, float spread)
{
    struct test_rng r = {(uint64_t)from};
    float v[DIM];
    CHECK_OK(mn_begin_write(conn, &err), err);
    for (int64_t i = 0; i < n; i++) {
        for (int z = 0; z < DIM; z++)
            v[z] = 1 + spread * (float)test_uniform(&r);
        CHECK_OK(mn_put(conn, "c", &(mn_row){.id = from + i, .vector = v}, 1, NULL, &err), err);
    }
    CHECK_OK(mn_commit(conn, &err), err);
}

TEST(rows_that_are_all_alike)
{
    static const struct {
        const char *name;
        int64_t alike, others;
        float spread;
    } cases[] = {{"constant", 500, 0, 0},
                 {"duplicates by the thousand", 20000, 300, 0},
                 {"one dense clump", 3000, 300, 1e-4f}};
    for (size_t i = 0; i < 3; i++) {
        int64_t alike = cases[i].alike;
        struct world w = world_open(test_path(cases[i].name), DIM, false, MN_OPEN_NO_BACKGROUND);
        if (!test_long() && test_budget(10) < 10 && alike > 5000)
            alike = 5000;
        CHECK_OK(mn_create(w.conn, "c", &(mn_collection_opts){.dim = DIM}, &err), err);
        put_alike(w.conn, 10000, alike, cases[i].spread);
        put_rows(w.conn, DIM, 1, cases[i].others + 1, 1);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        put_alike(w.conn, 60000, 40, cases[i].spread);
        load_rows(&w);
        check_answers(&w, cases[i].name);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        check_mended(&w, cases[i].name);
        world_close(&w);
    }
}

TEST(a_collection_shrinks_to_nothing_and_grows_again)
{
    const char *path = test_path("a.db");
    make(path, 1);
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    for (int round = 0; round < 3; round++) {
        for (int part = 0; part < 4; part++) {
            char text[80];
            snprintf(text, sizeof text, "DELETE FROM c WHERE id %% 4 = %d", part);
            sql(path, text);
            CHECK_OK(mn_fold(w.conn, "c", &err), err);
            load_rows(&w);
            check_answers(&w, text);
        }
        mn_index_info info;
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
        CHECK(!info.exists); /* nothing is folded into an index of nothing for ever */
        put_rows(w.conn, DIM, 1, ROWS + 1, 100 + (uint64_t)round);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        load_rows(&w);
        check_mended(&w, "grown again");
    }
    struct stat st;
    CHECK(stat(sidecar_of(path), &st) == 0);
    CHECKF(st.st_size < 8 << 20, "the sidecar has %lld bytes", (long long)st.st_size);
    world_close(&w);
}

TEST(vectors_of_16384_elements)
{
    enum { WIDE = 16384 };
    struct world w = world_open(test_path("a.db"), WIDE, true, MN_OPEN_NO_BACKGROUND);
    CHECK_OK(mn_create(w.conn, "c", &(mn_collection_opts){.dim = WIDE, .bits = 1}, &err), err);
    w.db->limits.min_rows = 60;
    put_rows(w.conn, WIDE, 1, 81, 1);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    put_rows(w.conn, WIDE, 60, 85, 2);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    load_rows(&w);
    check_mended(&w, "wide");
    world_close(&w);
}

/* A build puts no value into the index that is as long as a vector and is none. */
TEST(values_that_are_no_vectors_stay_out)
{
    const char *path = test_path("a.db");
    make(path, 1);
    sql(path, "PRAGMA ignore_check_constraints = ON; UPDATE c SET vector = "
              "'0123456789abcdef0123456789abcdef' WHERE id % 13 = 1; "
              "UPDATE c SET vector = x'0000c07f' WHERE id % 13 = 2");
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    check_answers(&w, "pending");
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    CHECK(check_answers(&w, "folded") > 0);
    CHECK_OK(mn_rebuild(w.conn, "c", &err), err);
    CHECK(check_answers(&w, "built") > 0);
    world_close(&w);
}

/* ---- Memory and reads ------------------------------------------------------------------------ */

/* An exact search has filled the cap with the collection's vectors: the build takes them back. */
TEST(a_build_finds_memory_where_exact_searches_had_it)
{
    enum { WIDE = 256, MANY = 8000 };
    struct world w = {.path = test_path("a.db"),
                      .b = {.dtype = MN_F32, .metric = MN_L2, .dim = WIDE}};
    const mn_open_opts opts = {.memory_bytes = 14 << 20,
                               .flags = MN_OPEN_NO_BACKGROUND,
                               .durability = MN_RELAXED};
    CHECK_OK(mn_open(w.path, &opts, &w.db, &err), err);
    w.db->limits.min_rows = 1000;
    CHECK_OK(mn_connect(w.db, &w.conn, &err), err);
    CHECK_OK(mn_create(w.conn, "c", &(mn_collection_opts){.dim = WIDE}, &err), err);
    put_rows(w.conn, WIDE, 1, MANY + 1, 1);
    load_rows(&w);
    CHECK_EQ(check_answers(&w, "exact"), 0);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    check_mended(&w, "built");
    world_close(&w);
}

TEST(cold_searches_without_io_uring)
{
    static const char *const ways[] = {"pread", "sync"};
    const char *path = test_path("a.db");
    make(path, 1);
    for (size_t i = 0; i < 2; i++) {
        setenv("MNEME_IO", ways[i], 1);
        struct world w = world_open(path, DIM, true, MN_OPEN_NO_BACKGROUND);
        unsetenv("MNEME_IO");
        load_rows(&w);
        check_mended(&w, ways[i]);
        world_close(&w);
    }
}

/* ---- Writers that help ----------------------------------------------------------------------- */

TEST(changes_beyond_the_limit_are_folded_by_their_writer)
{
    const char *path = test_path("a.db");
    make(path, 1);
    struct world w = world_open(path, DIM, false, 0);
    mn_index_info info;
    CHECK_OK(mn_create(w.conn, "d", &(mn_collection_opts){.dim = 2, .beside = "c"}, &err), err);
    sql(path, "UPDATE c SET d = zeroblob(8) WHERE id > 1"); /* d has rows for an index too */
    CHECK_OK(mn_rebuild(w.conn, "d", &err), err);
    mn_pause(w.db, true); /* nobody else folds */
    for (int i = 0; i < 200; i++) /* the same ten rows, through c */
        put_rows(w.conn, DIM, 11, 21, 200 + (uint64_t)i);
    for (int i = 0; i < 900; i++) {
        float v[DIM];
        indexed_vector(MN_F32, DIM, 6, (uint64_t)i, v);
        mn_row row = {.id = 11 + i % 10, .vector = v};
        CHECK_OK(mn_put(w.conn, "c", &row, 1, NULL, &err), err);
    }
    int64_t lag = sql_number(path, "SELECT (SELECT max(seq) FROM mneme_log_1) - min(seq) FROM "
                                   "mneme_indexes");
    CHECKF(lag <= 1300, "%lld changes are pending", (long long)lag);
    CHECK_OK(mn_index_stats(w.conn, "d", &info, &err), err);
    CHECK(info.exists);
    load_rows(&w);
    check_mended(&w, "helped");
    mn_pause(w.db, false);
    world_close(&w);
}

/* Pending rows of "c", as the statistics have them; by whom else than the writers? */
static void check_bounded(struct world *w, const char *what)
{
    mn_index_info info;
    CHECK_OK(mn_index_stats(w->conn, "c", &info, &err), err);
    CHECKF(info.exists && info.pending <= 2 * INDEXED_LIMITS.pending_max, "%s: %d rows are pending",
           what, (int)info.pending);
}

TEST(deletes_and_commits_beyond_the_limit_help_too)
{
    const char *path = test_path("a.db");
    struct world w = world_open(path, DIM, false, 0);
    mn_pause(w.db, true); /* nobody else folds */
    CHECK_OK(mn_create(w.conn, "c", &(mn_collection_opts){.dim = DIM}, &err), err);
    put_rows(w.conn, DIM, 1, 4001, 1);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    for (int64_t id = 1; id <= 1200; id++) {
        const mn_id row = {.id = id};
        CHECK_OK(mn_delete(w.conn, "c", &row, 1, NULL, &err), err);
        if (id % 100 == 0)
            check_bounded(&w, "deletes");
    }
    for (int64_t id = 1201; id <= 2401; id += 100) { /* each in a transaction of its own */
        put_rows(w.conn, DIM, id, id + 100, 5);
        check_bounded(&w, "commits");
    }
    int64_t before = sql_number(path, "SELECT generation FROM mneme_indexes");
    CHECK_OK(mn_begin_write(w.conn, &err), err); /* what is rolled back is no reason to help */
    for (int64_t id = 1; id <= 900; id++) {
        const mn_id row = {.id = 2500 + id};
        CHECK_OK(mn_delete(w.conn, "c", &row, 1, NULL, &err), err);
    }
    CHECK_OK(mn_rollback(w.conn, &err), err);
    put_rows(w.conn, DIM, 10, 11, 6);
    CHECK_EQ(sql_number(path, "SELECT generation FROM mneme_indexes"), before);
    load_rows(&w);
    check_mended(&w, "helped");
    mn_pause(w.db, false);
    world_close(&w);
}

/* ---- Threads --------------------------------------------------------------------------------- */

struct shared {
    mn_db *db;
    _Atomic bool done;
    _Atomic unsigned failures;
    _Atomic uint64_t searches, by_index;
};

static void *reads(void *arg)
{
    struct shared *s = arg;
    mn_conn *conn;
    mn_error e = {0};
    if (mn_connect(s->db, &conn, &e)) {
        atomic_fetch_add(&s->failures, 1);
        return NULL;
    }
    for (uint64_t i = 0; !atomic_load(&s->done); i++) {
        float v[DIM];
        mn_hit hits[K];
        uint32_t found = 0;
        mn_search_stats stats = {0};
        mn_search_opts opts = {.stats = &stats};
        indexed_vector(MN_F32, DIM, 3, i, v);
        mn_status st = mn_search(conn, "c", v, 1, K, &opts, hits, &found, &e);
        bool bad = st ? st != MN_NOTFOUND : found != K && found != 0; /* just created */
        for (uint32_t j = 1; !bad && j < found; j++)
            bad = hits[j].distance < hits[j - 1].distance || hits[j].id == hits[j - 1].id;
        atomic_fetch_add(&s->failures, bad);
        atomic_fetch_add(&s->searches, 1);
        atomic_fetch_add(&s->by_index, stats.from_index);
    }
    mn_disconnect(conn);
    return NULL;
}

static void *compacts(void *arg)
{
    struct shared *s = arg;
    mn_conn *conn;
    mn_error e = {0};
    if (mn_connect(s->db, &conn, &e)) {
        atomic_fetch_add(&s->failures, 1);
        return NULL;
    }
    while (!atomic_load(&s->done)) {
        mn_status st = mn_fold(conn, "c", &e);
        bool fine = st == MN_OK || st == MN_BUSY || st == MN_CONFLICT || st == MN_NOTFOUND;
        atomic_fetch_add(&s->failures, !fine);
        usleep(3000);
    }
    mn_disconnect(conn);
    return NULL;
}

TEST(threads_search_write_fold_drop_and_close)
{
    const char *path = test_path("a.db");
    make(path, 1);
    for (size_t round = 0; round < 3; round++) {
        struct world w = world_open(path, DIM, round % 2, 0); /* with its background thread */
        struct shared s = {.db = w.db};
        pthread_t threads[3];
        for (int i = 0; i < 3; i++)
            CHECK(pthread_create(&threads[i], NULL, i < 2 ? reads : compacts, &s) == 0);
        for (uint64_t i = 0; i < test_budget(30); i++) {
            put_rows(w.conn, DIM, 1 + (int64_t)(i * 13 % 300), 40 + (int64_t)(i * 13 % 300),
                     300 + i);
            if (i == 20) {
                CHECK_OK(mn_drop(w.conn, "c", &err), err);
                CHECK_OK(mn_create(w.conn, "c", &(mn_collection_opts){.dim = DIM}, &err), err);
                put_rows(w.conn, DIM, 1, ROWS + 1, 400);
            }
        }
        atomic_store(&s.done, true);
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        CHECK_EQ(atomic_load(&s.failures), 0);
        CHECK(atomic_load(&s.searches) > 0);
        load_rows(&w);
        check_answers(&w, "after the threads");
        world_close(&w);
    }
    struct world w = world_open(path, DIM, false, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    check_mended(&w, "in the end");
    world_close(&w);
}

/* The folder's thread may be anywhere when the database is closed. */
TEST(closing_never_meets_the_folders_own_connection)
{
    const char *path = test_path("a.db");
    make(path, 1);
    for (size_t i = 0; i < 4 + test_budget(20); i++) {
        struct world w = world_open(path, DIM, false, 0);
        put_rows(w.conn, DIM, 1, 30 + (int64_t)i % 20, 500 + i); /* tells the folder */
        mn_stats_info info;
        CHECK_OK(mn_stats(w.conn, &info, &err), err);
        CHECK_EQ(info.connections, 1);
        usleep((useconds_t)(i * 37 % 500));
        world_close(&w);
    }
}

TEST_MAIN
