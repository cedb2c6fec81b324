/* Vectors in memory: which way a search takes, that the cap holds, and that the answers are the
 * same whichever way. */
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/engine/engine.h"
#include "storage/fs_mem.h"
#include "storage/vfs.h"
#include "tests/engine/brute.h"
#include "tests/test.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
#else
enum { SANITIZED = 0 };
#endif

static mn_error err;

enum { DIM = 32, BYTES = 4 * DIM, MIB = 1 << 20 };

struct fix {
    struct mn_alloc *alloc;
    struct mn_fs *fs;
    char vfs[32];
    mn_db *db;
    mn_conn *conn;
};

/* A database over files in memory, whose bytes are not held to the cap. */
static void fix_open(struct fix *f, uint64_t cap)
{
    static unsigned n;
    const mn_open_opts opts = {.memory_bytes = cap};
    snprintf(f->vfs, sizeof f->vfs, "cache-%u", ++n);
    f->alloc = mn_alloc_create(NULL, UINT64_MAX);
    f->fs = fs_mem_create(f->alloc);
    CHECK_OK(vfs_register(f->vfs, f->fs, NULL, &err), err);
    CHECK_OK(db_open_vfs("cache.db", &opts, f->vfs, &f->db, &err), err);
    CHECK_OK(mn_connect(f->db, &f->conn, &err), err);
}

static void fix_close(struct fix *f)
{
    mn_disconnect(f->conn);
    CHECK_OK(mn_close(f->db, &err), err);
    CHECK_OK(vfs_unregister(f->vfs, &err), err);
    fs_mem_destroy(f->fs);
    mn_alloc_destroy(f->alloc);
}

static void fill_vector(float *v, int64_t id, unsigned salt)
{
    struct test_rng r = {(uint64_t)id * 31 + salt};
    for (int i = 0; i < DIM; i++)
        v[i] = (float)((int)test_below(&r, 9) - 4);
}

/* Puts rows first .. first + n - 1, in batches, in one transaction. */
static void put_rows(mn_conn *conn, const char *name, int64_t first, int64_t n, unsigned salt)
{
    enum { BATCH = 500 };
    static float v[BATCH][DIM];
    static mn_row rows[BATCH];
    CHECK_OK(mn_begin_write(conn, &err), err);
    for (int64_t at = 0; at < n; at += BATCH) {
        size_t m = (size_t)(n - at < BATCH ? n - at : BATCH);
        for (size_t i = 0; i < m; i++) {
            rows[i] = (mn_row){.id = first + at + (int64_t)i, .vector = v[i]};
            fill_vector(v[i], rows[i].id, salt);
        }
        CHECK_OK(mn_put(conn, name, rows, m, NULL, &err), err);
    }
    CHECK_OK(mn_commit(conn, &err), err);
}

static void make(struct fix *f, const char *name, int64_t n)
{
    CHECK_OK(mn_create(f->conn, name, &(mn_collection_opts){.dim = DIM}, &err), err);
    put_rows(f->conn, name, 1, n, 0);
}

/* One search against brute force over the rows of the connection's snapshot. */
static mn_search_stats look(mn_conn *conn, const char *name)
{
    static unsigned salt;
    struct brute b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM, .small_integers = true};
    float query[DIM];
    mn_hit hits[20];
    uint32_t found;
    mn_search_stats stats;
    fill_vector(query, 77, ++salt);
    CHECK_OK(
        mn_search(conn, name, query, 1, 20, &(mn_search_opts){.stats = &stats}, hits, &found, &err),
        err);
    brute_load(&b, conn->sql, name, "vector");
    const char *wrong = brute_compare(&b, query, 20, 0, NULL, NULL, hits, found);
    CHECKF(!wrong, "%s", wrong);
    CHECK_EQ(stats.rows_scanned, b.n);
    brute_free(&b);
    return stats;
}

static mn_stats_info stats_of(mn_conn *conn)
{
    mn_stats_info s;
    CHECK_OK(mn_stats(conn, &s, &err), err);
    CHECKF(s.memory_peak <= s.memory_cap, "%" PRIu64 " bytes were held under a cap of %" PRIu64,
           s.memory_peak, s.memory_cap);
    return s;
}

TEST(the_second_search_is_from_memory)
{
    struct fix f;
    fix_open(&f, 0);
    make(&f, "c", 3000);
    mn_search_stats first = look(f.conn, "c"), second = look(f.conn, "c");
    CHECK(!first.from_cache && second.from_cache);
    CHECK_EQ(second.rows_pending, 0);
    CHECK_EQ(second.bytes_scanned, 3000 * BYTES);
    mn_stats_info s = stats_of(f.conn);
    CHECK_EQ(s.cache_loads, 1);
    CHECK_EQ(s.streamed_searches, 1);
    CHECK(s.cache_bytes > 3000 * BYTES && s.cache_bytes < 2 * 3000 * BYTES);
    CHECK_OK(mn_drop(f.conn, "c", &err), err);
    CHECK_EQ(stats_of(f.conn).cache_bytes, 0);
    fix_close(&f);
}

TEST(a_view_catches_up_with_what_changed)
{
    enum { N = 10000 };
    static const struct {
        int64_t first, n;
        bool catches_up; /* beyond half the rows it is loaded anew */
    } changes[] = {{500, 1, true},        {N + 1, 1, true},    {2000, 1000, true}, {1, N / 2, true},
                   {1, N * 3 / 4, false}, {N + 2, 3000, true}, {N - 5, 10, true}};
    struct fix f;
    fix_open(&f, 0);
    make(&f, "c", N);
    look(f.conn, "c");
    for (unsigned i = 0; i < sizeof changes / sizeof *changes; i++) {
        put_rows(f.conn, "c", changes[i].first, changes[i].n, i + 1);
        mn_search_stats s = look(f.conn, "c");
        CHECKF(s.from_cache == changes[i].catches_up, "change %u", i);
        CHECKF(!s.from_cache || s.rows_pending == (uint64_t)changes[i].n,
               "change %u: %" PRIu64 " rows pending", i, s.rows_pending);
        s = look(f.conn, "c");
        CHECKF(s.from_cache && s.rows_pending == 0, "after change %u", i);
    }
    for (int i = 0; i < 200; i++) { /* many small ones, each looked at */
        if (i % 3 == 2)
            CHECK_OK(mn_delete(f.conn, "c", &(mn_id){.id = i * 7}, 1, NULL, &err), err);
        else
            put_rows(f.conn, "c", i % 3 ? i * 11 : N + 5000 + i, 1, (unsigned)i);
        if (i % 10 == 0)
            CHECK(look(f.conn, "c").from_cache);
    }
    CHECK_EQ(stats_of(f.conn).cache_loads, 2);
    fix_close(&f);
}

TEST(a_transaction_sees_its_own_rows_and_leaves_the_shared_view)
{
    struct fix f;
    mn_conn *other;
    fix_open(&f, 0);
    make(&f, "c", 3000);
    CHECK_OK(mn_connect(f.db, &other, &err), err);
    look(f.conn, "c");
    for (int round = 0; round < 3; round++) {
        CHECK_OK(mn_begin_write(f.conn, &err), err);
        for (int i = 0; i < 5; i++) {
            const float v[DIM] = {(float)i};
            const mn_row row = {.id = 100 * (i + 1) + round, .vector = v};
            CHECK_OK(mn_put(f.conn, "c", &row, 1, NULL, &err), err);
            mn_search_stats s = look(f.conn, "c");
            CHECK(s.from_cache);
            CHECK_EQ(s.rows_pending, 1);
            s = look(other, "c");
            CHECK(s.from_cache);
            CHECK_EQ(s.rows_pending, 0);
        }
        if (round == 1)
            CHECK_OK(mn_commit(f.conn, &err), err);
        else
            CHECK_OK(mn_rollback(f.conn, &err), err);
        CHECK_EQ(look(other, "c").rows_pending, round == 1 ? 5 : 0);
        CHECK(look(f.conn, "c").from_cache);
    }
    CHECK_EQ(stats_of(f.conn).cache_loads, 1);
    mn_disconnect(other);
    fix_close(&f);
}

TEST(an_old_snapshot_is_streamed_and_the_others_stay_fast)
{
    struct fix f;
    mn_conn *old;
    fix_open(&f, 0);
    make(&f, "c", 3000);
    CHECK_OK(mn_connect(f.db, &old, &err), err);
    look(f.conn, "c");
    CHECK_OK(mn_begin_read(old, &err), err);
    CHECK(look(old, "c").from_cache);
    for (unsigned i = 0; i < 40; i++) {
        put_rows(f.conn, "c", 100 * i, 20, i + 9);
        CHECK(i % 17 == 16 || look(f.conn, "c").from_cache);
        CHECK(!look(old, "c").from_cache);
    }
    CHECK_OK(mn_commit(old, &err), err);
    look(old, "c");
    CHECK(look(old, "c").from_cache);
    CHECK(look(f.conn, "c").from_cache);
    mn_disconnect(old);
    fix_close(&f);
}

TEST(a_view_further_behind_than_the_log_is_loaded_anew)
{
    struct fix f;
    fix_open(&f, 0);
    make(&f, "c", 3000);
    look(f.conn, "c");
    put_rows(f.conn, "c", 50, 100, 5);
    CHECK(sqlite3_exec(f.conn->sql,
                       "DELETE FROM mneme_log_1 WHERE seq < (SELECT max(seq) FROM mneme_log_1) - 9",
                       0, 0, 0) == SQLITE_OK);
    CHECK(!look(f.conn, "c").from_cache);
    CHECK(look(f.conn, "c").from_cache);
    fix_close(&f);
}

TEST(the_log_is_trimmed_and_views_go_on)
{
    struct fix f;
    mn_collection_stats s;
    fix_open(&f, 0);
    make(&f, "c", 2000);
    look(f.conn, "c");
    for (unsigned i = 0; i < 45; i++)
        put_rows(f.conn, "c", 1, 2000, i + 1); /* 90,000 changes */
    CHECK_OK(mn_collection_stats_get(f.conn, "c", &s, &err), err);
    CHECKF(s.log_entries >= 65536 && s.log_entries < 65536 + 2 * 8192,
           "%" PRIu64 " entries are kept", s.log_entries);
    look(f.conn, "c");
    put_rows(f.conn, "c", 5, 10, 99);
    CHECK(look(f.conn, "c").from_cache);
    fix_close(&f);
}

TEST(two_collections_that_do_not_fit_together_take_turns)
{
    struct fix f;
    fix_open(&f, 4 * MIB);
    make(&f, "a", 16000); /* 2 MB of vectors each */
    make(&f, "b", 16000);
    for (int i = 0; i < 3; i++) {
        look(f.conn, "a");
        CHECK(look(f.conn, "a").from_cache);
        look(f.conn, "b");
        CHECK(look(f.conn, "b").from_cache);
    }
    mn_stats_info s = stats_of(f.conn);
    CHECKF(s.cache_evictions >= 5, "%" PRIu64 " evictions", s.cache_evictions);
    put_rows(f.conn, "b", 1, 100, 3);
    CHECK(look(f.conn, "b").from_cache);
    fix_close(&f);
}

TEST(vectors_beyond_the_cap_are_streamed_until_they_fit)
{
    struct fix f;
    fix_open(&f, 4 * MIB);
    make(&f, "c", 40000); /* 5 MB */
    for (int i = 0; i < 3; i++)
        CHECK(!look(f.conn, "c").from_cache);
    mn_stats_info s = stats_of(f.conn);
    CHECK_EQ(s.cache_loads, 0);
    CHECK_EQ(s.streamed_searches, 3);
    CHECKF(s.cache_bytes < MIB, "%" PRIu64 " bytes stay in the cache", s.cache_bytes);
    CHECK(sqlite3_exec(f.conn->sql, "DELETE FROM c WHERE id > 15000", 0, 0, 0) == SQLITE_OK);
    look(f.conn, "c");
    CHECK(look(f.conn, "c").from_cache);
    put_rows(f.conn, "c", 15001, 25000, 1);
    for (int i = 0; i < 3; i++)
        look(f.conn, "c");
    stats_of(f.conn);
    fix_close(&f);
}

/* ---- Memory of a query -------------------------------------------------------------------------
 */

static bool even(void *ctx, const mn_row *row)
{
    (void)ctx;
    return row->id % 2 == 0;
}

/* Allocations of one query, and that it gives back all it took. */
static uint64_t calls_of(struct fix *f, const mn_search_opts *opts, size_t nq)
{
    static float queries[20][DIM];
    static mn_hit hits[20 * 10];
    uint32_t found[20];
    uint64_t calls = mn_alloc_calls(f->db->alloc), used = mn_alloc_used(f->db->alloc);
    CHECK_OK(mn_search(f->conn, "c", queries, nq, 10, opts, hits, found, &err), err);
    CHECK_EQ(mn_alloc_used(f->db->alloc), used);
    return mn_alloc_calls(f->db->alloc) - calls;
}

TEST(a_query_allocates_no_more_than_the_one_before)
{
    static const int64_t ids[] = {5, 9, 700};
    static const struct {
        const char *name;
        mn_search_opts opts;
        size_t nq;
        uint64_t cap;
        uint64_t most;
    } ways[] = {{"from memory", {0}, 1, 0, 3},
                {"a batch", {0}, 20, 0, 16},
                {"with a filter", {.filter = even}, 1, 0, 5},
                {"of few ids", {.only_ids = ids, .n_only_ids = 3}, 1, 0, 9},
                {"streamed", {0}, 1, 4 * MIB, 16}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct fix f;
        fix_open(&f, ways[i].cap);
        make(&f, "c", ways[i].cap ? 40000 : 3000);
        for (int warm = 0; warm < 2; warm++)
            look(f.conn, "c");
        calls_of(&f, &ways[i].opts, ways[i].nq);
        uint64_t first = calls_of(&f, &ways[i].opts, ways[i].nq);
        for (int j = 0; j < 20; j++) {
            uint64_t calls = calls_of(&f, &ways[i].opts, ways[i].nq);
            CHECKF(calls == first, "%s: %" PRIu64 " allocations, then %" PRIu64, ways[i].name,
                   first, calls);
        }
        CHECKF(first <= ways[i].most, "%s: %" PRIu64 " allocations", ways[i].name, first);
        test_note("%s %" PRIu64, ways[i].name, first);
        fix_close(&f);
    }
}

static uint64_t status_kib(const char *field)
{
    char line[128];
    uint64_t value = 0;
    FILE *file = fopen("/proc/self/status", "r");
    size_t n = strlen(field);
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, field, n) == 0)
            value = strtoull(line + n + 1, NULL, 10);
    if (file)
        fclose(file);
    return value;
}

/* In a process of its own: opens the file, searches and writes; prints its peak in KiB. Exits with
 * its own number for each thing that went wrong. */
static int search_alone(const char *path, uint64_t cap, int64_t n)
{
    mn_db *db;
    mn_conn *conn;
    mn_hit hits[100];
    uint32_t found;
    float query[DIM];
    mn_search_stats s;
    mn_stats_info all;
    if (mn_open(path, &(mn_open_opts){.memory_bytes = cap}, &db, NULL) ||
        mn_connect(db, &conn, NULL))
        return 10;
    for (int i = 0; i < 3; i++) {
        int64_t id = n / 3 * i + 1;
        fill_vector(query, id, 0);
        if (mn_search(conn, "c", query, 1, 100, &(mn_search_opts){.stats = &s}, hits, &found, NULL))
            return 11;
        if (found != 100 || hits[0].distance > 0 || s.rows_scanned != (uint64_t)n || s.from_cache)
            return 12;
        if (mn_put(conn, "c", &(mn_row){.id = id, .vector = query}, 1, NULL, NULL))
            return 13;
    }
    if (mn_verify(conn, NULL, NULL, NULL, NULL))
        return 14;
    if (mn_stats(conn, &all, NULL) || all.memory_peak > cap || all.streamed_searches != 3)
        return 15;
    mn_disconnect(conn);
    if (mn_close(db, NULL))
        return 16;
    printf("%" PRIu64 "\n", status_kib("VmHWM:"));
    return 0;
}

TEST(a_process_stays_under_the_cap_and_64_mib)
{
    const char *path = test_path("a.db");
    uint64_t cap = (SANITIZED ? 4 : 16) * (uint64_t)MIB, peak_kib = 0;
    int64_t n = SANITIZED ? 50000 : 330000; /* 42 MB of vectors */
    char command[1200];
    mn_db *db;
    mn_conn *conn;
    CHECK_OK(mn_open(path, &(mn_open_opts){.durability = MN_RELAXED}, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = DIM}, &err), err);
    put_rows(conn, "c", 1, n, 0);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
    char self[512];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    CHECK(length > 0);
    self[length] = '\0';
    snprintf(command, sizeof command, "'%s' --search '%s' %" PRIu64 " %" PRId64, self, path, cap,
             n);
    FILE *child = popen(command, "r");
    CHECK(child);
    int got = fscanf(child, "%" SCNu64, &peak_kib), status = pclose(child);
    CHECKF(status == 0 && got == 1, "the child ended with status %d", WEXITSTATUS(status));
    if (!SANITIZED)
        CHECKF(peak_kib * 1024 <= cap + 64 * (uint64_t)MIB, "%" PRIu64 " KiB", peak_kib);
    test_note("%.1f MiB under a cap of %" PRIu64 " MiB", (double)peak_kib / 1024, cap / MIB);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "--search") == 0)
        return search_alone(argv[2], strtoull(argv[3], NULL, 10), strtoll(argv[4], NULL, 10));
    return test_main(argc, argv);
}
