/* threads */
/* One database, many threads: readers that compare with brute force over their own snapshot,
 * writers, drops, connections that come and go, interrupts, evictions under a small cap. Threads do
 * not CHECK, which jumps: they note the first failure, and the test looks at it when all ended. */
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <time.h>

#include "src/engine/engine.h"
#include "tests/engine/brute.h"
#include "tests/test.h"

enum { DIM = 16, THREADS = 10 };

static pthread_mutex_t failure_lock = PTHREAD_MUTEX_INITIALIZER;
static char failure[600]; /* failure_lock; the first one */

__attribute__((format(printf, 1, 2))) static void note_failure(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    pthread_mutex_lock(&failure_lock);
    if (!failure[0])
        vsnprintf(failure, sizeof failure, format, args);
    pthread_mutex_unlock(&failure_lock);
    va_end(args);
}

#define NOTE(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            note_failure(__VA_ARGS__);                                                             \
            return NULL;                                                                           \
        }                                                                                          \
    } while (0)

struct world {
    mn_db *db;
    size_t rounds;
    _Atomic unsigned started; /* threads at the starting line */
    unsigned wanted;          /* that many start together */
    _Atomic bool done;        /* those who go on until the others ended, end */
    mn_conn *_Atomic target;  /* of interrupts; valid until done */
    _Atomic uint64_t interrupted, searches, written;
};

static _Atomic uint64_t seeds = 100; /* of the threads' generators */

static void line_up(struct world *w)
{
    atomic_fetch_add(&w->started, 1);
    while (atomic_load(&w->started) < w->wanted)
        sched_yield();
}

static void run(struct world *w, void *(*const *functions)(void *), size_t n)
{
    pthread_t threads[THREADS];
    failure[0] = '\0';
    w->wanted = (unsigned)n;
    for (size_t i = 0; i < n; i++)
        CHECK(pthread_create(&threads[i], NULL, functions[i], w) == 0);
    for (size_t i = 0; i < n; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECKF(!failure[0], "%s", failure);
}

static mn_error main_err;

static mn_conn *open_world(struct world *w, const char *path, uint64_t cap)
{
    const mn_open_opts opts = {
        .memory_bytes = cap, .durability = MN_RELAXED, .busy_timeout_ms = 60000};
    mn_conn *conn;
    memset(w, 0, sizeof *w);
    CHECK_OK(mn_open(path, &opts, &w->db, &main_err), main_err);
    CHECK_OK(mn_connect(w->db, &conn, &main_err), main_err);
    return conn;
}

static void close_world(struct world *w, mn_conn *conn)
{
    mn_disconnect(conn);
    CHECK_OK(mn_close(w->db, &main_err), main_err);
}

static void fill_vector(float *v, struct test_rng *r)
{
    for (int i = 0; i < DIM; i++)
        v[i] = (float)((int)test_below(r, 9) - 4);
}

static mn_status put_random(mn_conn *conn, const char *name, struct test_rng *r, size_t n,
                            uint64_t ids, mn_error *err)
{
    enum { BATCH = 200 };
    static _Thread_local float v[BATCH][DIM];
    static _Thread_local mn_row rows[BATCH];
    uint64_t first = 1 + test_below(r, ids);
    for (size_t i = 0; i < n; i++) {
        fill_vector(v[i], r);
        rows[i] = (mn_row){.id = (int64_t)(first + i), .vector = v[i]};
    }
    return mn_put(conn, name, rows, n, NULL, err);
}

static void make(mn_conn *conn, const char *name, size_t batches)
{
    struct test_rng r = {7};
    CHECK_OK(mn_create(conn, name, &(mn_collection_opts){.dim = DIM}, &main_err), main_err);
    CHECK_OK(mn_begin_write(conn, &main_err), main_err);
    for (size_t i = 0; i < batches; i++)
        CHECK_OK(put_random(conn, name, &r, 200, 200 * batches, &main_err), main_err);
    CHECK_OK(mn_commit(conn, &main_err), main_err);
}

/* ---- Searching threads ------------------------------------------------------------------------
 */

static bool odd(void *ctx, const mn_row *row)
{
    (void)ctx;
    return row->id % 2 != 0;
}

static bool is_odd(void *ctx, int64_t id)
{
    (void)ctx;
    return id % 2 != 0;
}

/* One search inside a read transaction against the rows of its snapshot. False: failed. */
static bool search_once(mn_conn *conn, const char *name, struct test_rng *r, mn_error *err)
{
    struct brute b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM, .small_integers = true};
    float q[2][DIM];
    mn_hit hits[2 * 10];
    uint32_t found[2];
    bool filtered = test_below(r, 4) == 0;
    mn_search_opts opts = {.threads = 1 + (uint32_t)test_below(r, 4),
                           .filter = filtered ? odd : NULL};
    const char *wrong = NULL;
    fill_vector(q[0], r);
    fill_vector(q[1], r);
    if (mn_begin_read(conn, err))
        return false;
    mn_status st = mn_search(conn, name, q, 2, 10, &opts, hits, found, err);
    if (st == MN_OK) {
        brute_load(&b, conn->sql, name, "vector");
        for (int i = 0; i < 2 && !wrong; i++)
            wrong = brute_compare(&b, q[i], 10, 0, filtered ? is_odd : NULL, NULL, hits + 10 * i,
                                  found[i]);
        brute_free(&b);
    }
    mn_rollback(conn, NULL);
    if (wrong)
        snprintf(err->message, sizeof err->message, "%s", wrong);
    return st == MN_OK ? !wrong : st == MN_NOTFOUND; /* the collection may be dropped just now */
}

static void *reader(void *ctx)
{
    struct world *w = ctx;
    mn_error err;
    mn_conn *conn;
    NOTE(mn_connect(w->db, &conn, &err) == MN_OK, "connect: %s", err.message);
    line_up(w);
    struct test_rng r = {atomic_fetch_add(&seeds, 1)};
    for (size_t i = 0; i < w->rounds; i++) {
        const char *name = i % 3 == 2 ? "d" : i % 3 ? "b" : "a";
        NOTE(search_once(conn, name, &r, &err), "search of '%s': %s", name, err.message);
        atomic_fetch_add(&w->searches, 1);
    }
    mn_disconnect(conn);
    return NULL;
}

/* A connection for each search. */
static void *visitor(void *ctx)
{
    struct world *w = ctx;
    mn_error err;
    struct test_rng r = {3};
    line_up(w);
    for (size_t i = 0; i < w->rounds / 2; i++) {
        mn_conn *conn;
        mn_stats_info stats;
        NOTE(mn_connect(w->db, &conn, &err) == MN_OK, "connect: %s", err.message);
        NOTE(search_once(conn, "a", &r, &err), "visitor: %s", err.message);
        NOTE(mn_stats(conn, &stats, &err) == MN_OK, "stats: %s", err.message);
        NOTE(stats.memory_peak <= stats.memory_cap, "the cap was passed");
        mn_disconnect(conn);
    }
    return NULL;
}

static void *writer(void *ctx)
{
    struct world *w = ctx;
    mn_error err;
    mn_conn *conn;
    struct test_rng r = {atomic_fetch_add(&seeds, 1)};
    NOTE(mn_connect(w->db, &conn, &err) == MN_OK, "connect: %s", err.message);
    line_up(w);
    for (size_t i = 0; i < w->rounds; i++) {
        const char *name = test_below(&r, 2) ? "a" : "b";
        const mn_id id = {.id = (int64_t)test_below(&r, 2000)};
        NOTE(mn_begin_write(conn, &err) == MN_OK, "begin: %s", err.message);
        NOTE(put_random(conn, name, &r, 1 + test_below(&r, 60), 2000, &err) == MN_OK, "put: %s",
             err.message);
        NOTE(mn_delete(conn, name, &id, 1, NULL, &err) == MN_OK, "delete: %s", err.message);
        if (test_below(&r, 3) == 0)
            NOTE(mn_rollback(conn, &err) == MN_OK, "rollback: %s", err.message);
        else
            NOTE(mn_commit(conn, &err) == MN_OK, "commit: %s", err.message);
        atomic_fetch_add(&w->written, 1);
    }
    mn_disconnect(conn);
    return NULL;
}

static void *dropper(void *ctx)
{
    struct world *w = ctx;
    mn_error err;
    mn_conn *conn;
    struct test_rng r = {5};
    NOTE(mn_connect(w->db, &conn, &err) == MN_OK, "connect: %s", err.message);
    line_up(w);
    for (size_t i = 0; i < w->rounds / 4; i++) {
        mn_collection_opts opts = {.dim = DIM};
        NOTE(mn_create(conn, "d", &opts, &err) == MN_OK, "create: %s", err.message);
        NOTE(put_random(conn, "d", &r, 50, 60, &err) == MN_OK, "put: %s", err.message);
        NOTE(search_once(conn, "d", &r, &err), "dropper: %s", err.message);
        NOTE(mn_drop(conn, "d", &err) == MN_OK, "drop: %s", err.message);
    }
    mn_disconnect(conn);
    return NULL;
}

/* Opens the path again and gives it back: one handle all the while. */
static void *reopener(void *ctx)
{
    struct world *w = ctx;
    mn_error err;
    line_up(w);
    for (size_t i = 0; i < w->rounds; i++) {
        mn_db *db;
        NOTE(mn_open(mn_path(w->db), NULL, &db, &err) == MN_OK, "open: %s", err.message);
        NOTE(db == w->db, "a second handle");
        NOTE(mn_close(db, &err) == MN_OK, "close: %s", err.message);
    }
    return NULL;
}

static void mixed(const char *path, uint64_t cap, size_t batches)
{
    static void *(*const threads[])(void *) = {reader, reader,  reader,  writer,
                                               writer, dropper, visitor, reopener};
    struct world w;
    mn_conn *conn = open_world(&w, path, cap);
    mn_stats_info stats;
    uint64_t findings;
    make(conn, "a", batches);
    make(conn, "b", batches);
    w.rounds = test_budget(60) < 15 ? 15 : test_budget(60);
    run(&w, threads, strcmp(path, ":memory:") ? 8 : 7); /* each :memory: is another */
    CHECK_OK(mn_verify(conn, NULL, NULL, &findings, &main_err), main_err);
    CHECK_EQ(findings, 0);
    CHECK_OK(mn_stats(conn, &stats, &main_err), main_err);
    CHECK_EQ(stats.connections, 1);
    CHECK(stats.memory_peak <= stats.memory_cap);
    test_note("%" PRIu64 " searches, %" PRIu64 " loads, %" PRIu64 " catch-ups, %" PRIu64
              " evictions",
              stats.searches, stats.cache_loads, stats.cache_catchups, stats.cache_evictions);
    close_world(&w, conn);
}

TEST(readers_writers_and_drops_on_disk)
{
    mixed(test_path("a.db"), 0, 10);
}

TEST(readers_writers_and_drops_in_memory)
{
    mixed(":memory:", 0, 10);
}

TEST(collections_that_push_each_other_out_of_memory)
{
    mixed(":memory:", 4 << 20, test_budget(10) < 10 ? 100 : 150); /* 1.3 or 2 MB each */
}

/* ---- The same collection loaded by all at once
 * --------------------------------------------------- */

static void *loader(void *ctx)
{
    struct world *w = ctx;
    mn_error err;
    mn_conn *conn;
    struct test_rng r = {9};
    NOTE(mn_connect(w->db, &conn, &err) == MN_OK, "connect: %s", err.message);
    line_up(w);
    for (int i = 0; i < 3; i++)
        NOTE(search_once(conn, "a", &r, &err), "load: %s", err.message);
    mn_disconnect(conn);
    return NULL;
}

TEST(a_collection_is_loaded_by_one_of_many)
{
    static void *(*const threads[])(void *) = {loader, loader, loader, loader, loader, loader};
    for (size_t i = 0; i < test_budget(10); i++) {
        struct world w;
        mn_conn *conn = open_world(&w, ":memory:", 0);
        mn_stats_info stats;
        make(conn, "a", 20);
        run(&w, threads, 6);
        CHECK_OK(mn_stats(conn, &stats, &main_err), main_err);
        CHECK_EQ(stats.cache_loads, 1);
        close_world(&w, conn);
    }
}

/* ---- One search by several threads
 * ------------------------------------------------------------------ */

static void *parallel(void *ctx)
{
    struct world *w = ctx;
    mn_error err;
    mn_conn *conn;
    struct test_rng r = {11};
    float q[DIM];
    mn_hit one[50], four[50];
    uint32_t n_one, n_four;
    NOTE(mn_connect(w->db, &conn, &err) == MN_OK, "connect: %s", err.message);
    line_up(w);
    for (size_t i = 0; i < w->rounds; i++) {
        mn_search_opts opts = {.threads = 1};
        mn_hit *all;
        size_t n;
        fill_vector(q, &r);
        NOTE(mn_search(conn, "a", q, 1, 50, &opts, one, &n_one, &err) == MN_OK, "%s", err.message);
        opts.threads = 4;
        NOTE(mn_search(conn, "a", q, 1, 50, &opts, four, &n_four, &err) == MN_OK, "%s",
             err.message);
        NOTE(n_one == 50 && n_four == 50 && memcmp(one, four, sizeof one) == 0,
             "four threads answer otherwise than one");
        NOTE(mn_search_radius(conn, "a", q, one[49].distance, 0, &opts, &all, &n, &err) == MN_OK,
             "%s", err.message);
        bool same = n >= 50 && memcmp(all, one, sizeof one) == 0;
        mn_free_result(all);
        NOTE(same, "a radius search by four threads answers otherwise");
    }
    mn_disconnect(conn);
    return NULL;
}

TEST(several_threads_answer_as_one)
{
    static void *(*const threads[])(void *) = {parallel, parallel, parallel};
    struct world w;
    mn_conn *conn = open_world(&w, ":memory:", 0);
    make(conn, "a", 500); /* 100,000 draws of ids, 6 MB: worth a second thread */
    w.rounds = test_budget(10);
    run(&w, threads, 3);
    close_world(&w, conn);
}

/* ---- Interrupts
 * ---------------------------------------------------------------------------------------- */

static void *long_searches(void *ctx)
{
    struct world *w = ctx;
    mn_error err;
    mn_conn *conn = atomic_load(&w->target);
    float q[DIM] = {0};
    mn_hit hit;
    uint32_t found;
    line_up(w);
    for (int i = 0; i < 20000 && atomic_load(&w->interrupted) < 5; i++) {
        mn_status st = mn_search(conn, "a", q, 1, 1, NULL, &hit, &found, &err);
        if (st == MN_INTERRUPTED)
            atomic_fetch_add(&w->interrupted, 1);
        else
            NOTE(st == MN_OK && found == 1, "%s", err.message);
    }
    atomic_store(&w->done, true);
    return NULL;
}

static void *interrupter(void *ctx)
{
    struct world *w = ctx;
    line_up(w);
    while (!atomic_load(&w->done)) {
        mn_interrupt(atomic_load(&w->target));
        nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
    }
    return NULL;
}

TEST(a_search_is_interrupted_from_another_thread)
{
    static void *(*const threads[])(void *) = {long_searches, interrupter};
    struct world w;
    mn_conn *conn = open_world(&w, ":memory:", 4 << 20);
    float q[DIM] = {0};
    mn_hit hit;
    uint32_t found;
    make(conn, "a", 600); /* more than the cap: streamed each time */
    atomic_store(&w.target, conn);
    run(&w, threads, 2);
    CHECKF(w.interrupted == 5, "%" PRIu64 " searches were interrupted", w.interrupted);
    CHECK_OK(mn_search(conn, "a", q, 1, 1, NULL, &hit, &found, &main_err), main_err);
    close_world(&w, conn);
}

/* ---- Two threads on one connection
 * ------------------------------------------------------------------------ */

static void *same_connection(void *ctx)
{
    struct world *w = ctx;
    mn_error err;
    mn_conn *conn = atomic_load(&w->target);
    float q[DIM] = {0};
    mn_hit hit;
    uint32_t found;
    line_up(w);
    for (size_t i = 0; i < w->rounds; i++) {
        mn_status st = mn_search(conn, "a", q, 1, 1, NULL, &hit, &found, &err);
        NOTE(st == MN_OK || st == MN_MISUSE, "%s: %s", mn_status_name(st), err.message);
        if (st == MN_MISUSE)
            atomic_fetch_add(&w->interrupted, 1);
    }
    return NULL;
}

TEST(two_threads_on_one_connection_are_told)
{
    static void *(*const threads[])(void *) = {same_connection, same_connection};
    struct world w;
    mn_conn *conn = open_world(&w, ":memory:", 0);
    make(conn, "a", 20);
    w.rounds = test_budget(2000);
    atomic_store(&w.target, conn);
    run(&w, threads, 2);
    test_note("%" PRIu64 " calls refused", w.interrupted);
    close_world(&w, conn);
}

TEST_MAIN
