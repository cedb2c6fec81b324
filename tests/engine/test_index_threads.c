/* threads */
/* Many queries of one call, spread over several threads by the hybrid index: the answers are those
 * of one thread, bit for bit, wherever vectors come from; failures, limits and memory are too. */
#include "tests/engine/indexed.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIM = 20, ROWS = 3000, QUERIES = 150, MAX_K = 200, THREADS = 5, IDS = 2100 };

static mn_error err;
static char queries[QUERIES * DIM * sizeof(float)];
static int64_t only[IDS];

struct world {
    mn_db *db;
    mn_conn *conn;
};

/* What is in memory: vectors and codes, codes only, or neither. */
enum memory { WARM, COLD, AWAY, MEMORIES };

static struct world world_open(const char *path, enum memory memory, uint64_t cap)
{
    struct world w;
    struct db_stage stage = {.limits = INDEXED_LIMITS};
    const mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND, .memory_bytes = cap,
                               .durability = MN_RELAXED};
    stage.limits.cold = memory != WARM;
    stage.limits.away = memory == AWAY;
    CHECK_OK(db_open_on(path, &opts, &stage, &w.db, &err), err);
    CHECK_OK(mn_connect(w.db, &w.conn, &err), err);
    return w;
}

static void world_close(struct world *w)
{
    mn_disconnect(w->conn);
    CHECK_OK(mn_close(w->db, &err), err);
}

static void put_rows(mn_conn *conn, mn_dtype dtype, int64_t from, int64_t to, uint64_t seed)
{
    char v[DIM * sizeof(float)];
    CHECK_OK(mn_begin_write(conn, &err), err);
    for (int64_t id = from; id < to; id++) {
        indexed_vector(dtype, DIM, seed, (uint64_t)id, v);
        CHECK_OK(mn_put(conn, "c", &(mn_row){.id = id, .vector = v}, 1, NULL, &err), err);
    }
    CHECK_OK(mn_commit(conn, &err), err);
}

/* A collection with an index, and with changes that are not in it. */
static struct world made(const char *path, const mn_collection_opts *opts, enum memory memory)
{
    struct world w = world_open(path, memory, 0);
    CHECK_OK(mn_create(w.conn, "c", opts, &err), err);
    put_rows(w.conn, opts->dtype, 1, ROWS + 1, 1);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    put_rows(w.conn, opts->dtype, 100, 160, 2);
    put_rows(w.conn, opts->dtype, ROWS + 1, ROWS + 30, 3);
    for (int64_t id = 200; id < 240; id++)
        CHECK_OK(mn_delete(w.conn, "c", &(mn_id){.id = id}, 1, NULL, &err), err);
    for (size_t i = 0; i < QUERIES; i++)
        indexed_vector(opts->dtype, DIM, 9, 5000 + i,
                       queries + i * mn_vector_bytes(opts->dtype, DIM));
    for (int64_t i = 0; i < IDS; i++)
        only[i] = 1 + (i * 7919) % ROWS;
    return w;
}

struct answers {
    mn_hit hits[QUERIES * MAX_K];
    uint32_t found[QUERIES];
    mn_search_stats stats;
};

static mn_status search(mn_conn *conn, uint32_t k, const mn_search_opts *like, uint32_t threads,
                        struct answers *out)
{
    mn_search_opts opts = *like;
    memset(out, 0, sizeof *out);
    opts.threads = threads;
    opts.stats = &out->stats;
    return mn_search(conn, "c", queries, QUERIES, k, &opts, out->hits, out->found, &err);
}

/* One thread, several, and several in fewer; the same answers and the same work. */
static void check_same(mn_conn *conn, uint32_t k, const mn_search_opts *like, const char *what)
{
    static struct answers one, more;
    CHECK_OK(search(conn, k, like, 1, &one), err); /* reads the headers of blocks */
    CHECK_OK(search(conn, k, like, 1, &one), err);
    CHECKF(one.stats.from_index, "%s: the index does not answer", what);
    for (uint32_t threads = 2; threads <= THREADS; threads += 3) {
        CHECK_OK(search(conn, k, like, threads, &more), err);
        CHECKF(memcmp(one.found, more.found, sizeof one.found) == 0 &&
                   memcmp(one.hits, more.hits, sizeof one.hits) == 0,
               "%s, k %u: %u threads answer otherwise than one", what, k, threads);
        const mn_search_stats *a = &one.stats, *b = &more.stats;
        CHECKF(a->probed == b->probed && a->codes == b->codes && a->reranked == b->reranked &&
                   a->reads == b->reads && a->rows_scanned == b->rows_scanned &&
                   a->rows_filtered == b->rows_filtered,
               "%s, k %u: %u threads did other work than one", what, k, threads);
    }
}

static bool third(void *ctx, const mn_row *row)
{
    (void)ctx;
    return row->id % 3 != 0;
}

static void check_all_ways(mn_conn *conn, const char *what)
{
    static const uint32_t ks[] = {1, 10, MAX_K};
    for (size_t i = 0; i < 3; i++) {
        mn_search_opts plain = {.recall = i ? 0.95 : 0.8}, ids = plain, filter = plain;
        mn_search_opts both = plain, rough = {.estimated = true};
        ids.only_ids = both.only_ids = only;
        ids.n_only_ids = both.n_only_ids = IDS;
        filter.filter = both.filter = third;
        check_same(conn, ks[i], &plain, what);
        check_same(conn, ks[i], &ids, what);
        check_same(conn, ks[i], &filter, what);
        check_same(conn, ks[i], &both, what);
        check_same(conn, ks[i], &rough, what);
    }
}

TEST(several_threads_answer_as_one)
{
    static const struct {
        const char *name;
        mn_dtype dtype;
        mn_metric metric;
        mn_rerank rerank;
        enum memory memory;
    } cases[] = {
        {"f32 l2 copy", MN_F32, MN_L2, MN_RERANK_COPY, WARM},
        {"f16 cosine copy cold", MN_F16, MN_COSINE, MN_RERANK_COPY, COLD},
        {"f32 l2 copy away", MN_F32, MN_L2, MN_RERANK_COPY, AWAY},
        {"i8 ip rows", MN_I8, MN_IP, MN_RERANK_ROWS, WARM},
        {"bf16 l2 rows away", MN_BF16, MN_L2, MN_RERANK_ROWS, AWAY},
        {"f32 cosine none", MN_F32, MN_COSINE, MN_RERANK_NONE, WARM},
        {"f16 cosine none away", MN_F16, MN_COSINE, MN_RERANK_NONE, AWAY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[16];
        snprintf(name, sizeof name, "%zu.db", i);
        struct world w = made(test_path(name),
                              &(mn_collection_opts){.dim = DIM,
                                                    .dtype = cases[i].dtype,
                                                    .metric = cases[i].metric,
                                                    .rerank = cases[i].rerank},
                              cases[i].memory);
        check_all_ways(w.conn, cases[i].name);
        world_close(&w);
    }
}

static void overwrite(const char *file)
{
    char junk[4096];
    struct stat st;
    int fd = open(file, O_RDWR);
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    memset(junk, 0x5a, sizeof junk);
    for (off_t at = 0; at < st.st_size; at += (off_t)sizeof junk)
        CHECK(pwrite(fd, junk, sizeof junk, at) == (ssize_t)sizeof junk);
    close(fd);
}

TEST(vectors_that_are_lost_come_from_their_rows)
{
    static struct answers before, after;
    const mn_search_opts plain = {.recall = 0.95};
    struct world w = made(test_path("a.db"), &(mn_collection_opts){.dim = DIM}, COLD);
    CHECK_OK(search(w.conn, 10, &plain, 1, &before), err);
    overwrite(test_path("a.db-mneme")); /* codes are in memory; vectors are not */
    CHECK_OK(search(w.conn, 10, &plain, THREADS, &after), err);
    CHECK(after.stats.from_index);
    CHECK(memcmp(before.hits, after.hits, sizeof before.hits) == 0);
    world_close(&w);
}

TEST(a_call_allocates_nothing_for_its_queries)
{
    static struct answers a;
    const mn_search_opts plain = {.recall = 0.95};
    static const char *const names[] = {"a.db", "b.db", "c.db"};
    for (enum memory memory = 0; memory < MEMORIES; memory++) {
        struct world w =
            made(test_path(names[memory]), &(mn_collection_opts){.dim = DIM}, memory);
        for (uint32_t threads = 1; threads <= THREADS; threads++)
            CHECK_OK(search(w.conn, 10, &plain, threads, &a), err);
        uint64_t calls = mn_alloc_calls(w.db->alloc);
        for (uint32_t threads = 1; threads <= THREADS; threads++)
            CHECK_OK(search(w.conn, 10, &plain, threads, &a), err);
        CHECK_EQ(mn_alloc_calls(w.db->alloc), calls);
        world_close(&w);
    }
}

TEST(helpers_take_a_part_of_a_small_cap)
{
    static struct answers one, many;
    const mn_search_opts plain = {.recall = 0.95};
    const char *path = test_path("a.db");
    struct world w = made(path, &(mn_collection_opts){.dim = DIM}, WARM);
    world_close(&w);
    w = world_open(path, COLD, 12 << 20);
    CHECK_OK(search(w.conn, 10, &plain, 1, &one), err);
    uint64_t used = mn_alloc_used_by(w.db->alloc, MN_TAG_SEARCH) +
                    mn_alloc_used_by(w.db->alloc, MN_TAG_IO);
    CHECK_OK(search(w.conn, 10, &plain, 200, &many), err);
    CHECK(memcmp(one.hits, many.hits, sizeof one.hits) == 0);
    used = mn_alloc_used_by(w.db->alloc, MN_TAG_SEARCH) +
           mn_alloc_used_by(w.db->alloc, MN_TAG_IO) - used;
    CHECKF(used <= 12 << 20 >> 3, "%" PRIu64 " bytes for helpers", used);
    world_close(&w);
}

/* ---- Building ------------------------------------------------------------------------------- */

static mn_conn *built(const char *path, mn_db **db, const mn_collection_opts *like, size_t rows,
                      uint32_t threads)
{
    static float v[1000][DIM];
    static mn_row put[1000];
    struct db_stage stage = {.limits = INDEXED_LIMITS};
    const mn_open_opts opts = {
        .flags = MN_OPEN_NO_BACKGROUND, .durability = MN_RELAXED, .threads = threads};
    mn_conn *conn;
    CHECK_OK(db_open_on(path, &opts, &stage, db, &err), err);
    CHECK_OK(mn_connect(*db, &conn, &err), err);
    CHECK_OK(mn_create(conn, "c", like, &err), err);
    for (size_t i = 0; i < rows; i += 1000) {
        size_t n = rows - i < 1000 ? rows - i : 1000;
        for (size_t j = 0; j < n; j++) {
            indexed_vector(MN_F32, DIM, 1, i + j + 1, v[j]);
            put[j] = (mn_row){.id = (int64_t)(i + j + 1), .vector = v[j]};
        }
        CHECK_OK(mn_put(conn, "c", put, n, NULL, &err), err);
    }
    CHECK_OK(mn_fold(conn, "c", &err), err);
    return conn;
}

/* Codes, centroids, places and tuning show in estimates, and in what is probed and read. */
TEST(an_index_is_the_same_for_any_number_of_threads)
{
    static const struct {
        size_t rows;
        mn_rerank rerank;
    } cases[] = {{5000, MN_RERANK_COPY}, {2500, MN_RERANK_ROWS}, {51000, MN_RERANK_COPY}};
    static const uint32_t threads[] = {1, 2, 3, 7};
    static struct answers one, more, rough_one, rough;
    const mn_search_opts plain = {.recall = 0.95}, estimated = {.recall = 0.95, .estimated = true};
    for (size_t i = 0; i < QUERIES; i++)
        indexed_vector(MN_F32, DIM, 9, 5000 + i, queries + i * DIM * sizeof(float));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].rows > 10000 && test_budget(10) < 10)
            continue; /* too many for sanitizers */
        for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
            mn_db *db;
            if (cases[i].rows > 10000 && threads[t] != 1 && threads[t] != 3)
                continue;
            char name[32];
            snprintf(name, sizeof name, "%zu-%u.db", i, threads[t]);
            const mn_collection_opts like = {.dim = DIM, .rerank = cases[i].rerank};
            mn_conn *conn = built(test_path(name), &db, &like, cases[i].rows, threads[t]);
            CHECK_OK(search(conn, 10, &plain, 1, t ? &more : &one), err);
            CHECK_OK(search(conn, 10, &estimated, 1, t ? &rough : &rough_one), err);
            CHECK(one.stats.from_index);
            if (t) {
                CHECKF(memcmp(one.hits, more.hits, sizeof one.hits) == 0 &&
                           memcmp(rough_one.hits, rough.hits, sizeof rough.hits) == 0 &&
                           one.stats.codes == more.stats.codes &&
                           one.stats.probed == more.stats.probed,
                       "%zu rows: %u threads build another index", cases[i].rows, threads[t]);
            }
            mn_disconnect(conn);
            CHECK_OK(mn_close(db, &err), err);
        }
    }
}

/* ---- Ends before the end --------------------------------------------------------------------- */

static bool no(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    uint64_t *most = ctx;
    CHECK(done <= total || !total);
    *most = done > *most ? done : *most;
    return strcmp(stage, "search") != 0 || done < 3;
}

TEST(deadlines_and_progress_end_a_call)
{
    static struct answers a;
    mn_search_opts opts = {.recall = 0.95};
    static const mn_rerank reranks[] = {MN_RERANK_COPY, MN_RERANK_ROWS};
    for (size_t i = 0; i < 2; i++) {
        struct world w = made(test_path(i ? "b.db" : "a.db"),
                              &(mn_collection_opts){.dim = DIM, .rerank = reranks[i]}, WARM);
        CHECK_OK(search(w.conn, 10, &opts, THREADS, &a), err);
        for (uint64_t us = 1; us < 5000; us *= 3) {
            opts.deadline_us = us;
            mn_status st = search(w.conn, MAX_K, &opts, THREADS, &a);
            CHECKF(st == MN_OK || st == MN_DEADLINE, "%s", err.message);
            CHECK(us > 1 || st == MN_DEADLINE);
            CHECK(st == MN_OK || strstr(err.message, "deadline"));
        }
        opts.deadline_us = 0;
        uint64_t most = 0;
        mn_set_progress(w.conn, no, &most);
        CHECK_EQ(search(w.conn, 10, &opts, THREADS, &a), MN_INTERRUPTED);
        CHECK(most >= 3);
        mn_set_progress(w.conn, NULL, NULL);
        CHECK_OK(search(w.conn, 10, &opts, THREADS, &a), err);
        world_close(&w);
    }
}

struct interrupter {
    mn_conn *conn;
    _Atomic bool done;
};

static void *interrupts(void *arg)
{
    struct interrupter *t = arg;
    while (!atomic_load(&t->done)) {
        usleep(300);
        mn_interrupt(t->conn);
    }
    return NULL;
}

TEST(a_call_is_interrupted_from_another_thread)
{
    static struct answers a;
    const mn_search_opts opts = {.recall = 0.999};
    struct world w = made(test_path("a.db"),
                          &(mn_collection_opts){.dim = DIM, .rerank = MN_RERANK_ROWS}, WARM);
    struct interrupter t = {.conn = w.conn};
    pthread_t thread;
    int interrupted = 0;
    CHECK(pthread_create(&thread, NULL, interrupts, &t) == 0);
    for (int i = 0; i < 2000 && interrupted < 5; i++) {
        mn_status st = search(w.conn, MAX_K, &opts, THREADS, &a);
        CHECKF(st == MN_OK || st == MN_INTERRUPTED, "%s", err.message);
        interrupted += st == MN_INTERRUPTED;
    }
    atomic_store(&t.done, true);
    pthread_join(thread, NULL);
    CHECK_EQ(interrupted, 5);
    world_close(&w);
}

/* Connections that all ask with helpers share the pool, beside one that writes and folds. */
struct crowd {
    mn_db *db;
    _Atomic unsigned failures;
};

static void *asks(void *arg)
{
    struct crowd *c = arg;
    struct answers *one = malloc(sizeof *one), *more = malloc(sizeof *more);
    mn_conn *conn = NULL;
    mn_error e = {0};
    bool fine = one && more && mn_connect(c->db, &conn, &e) == MN_OK;
    bool compared = false;
    for (size_t i = 0; fine && (i < test_budget(20) || (!compared && i < 5000)); i++) {
        mn_search_opts opts = {.recall = 0.95, .threads = 1, .stats = &one->stats};
        fine = mn_begin_read(conn, &e) == MN_OK &&
               mn_search(conn, "c", queries, QUERIES, 10, &opts, one->hits, one->found, &e) ==
                   MN_OK;
        opts.threads = 3;
        opts.stats = &more->stats;
        fine = fine && mn_search(conn, "c", queries, QUERIES, 10, &opts, more->hits, more->found,
                                 &e) == MN_OK;
        mn_rollback(conn, NULL);
        if (!fine || !one->stats.from_index || !more->stats.from_index ||
            one->stats.rows_pending != more->stats.rows_pending)
            continue; /* the index was replaced, or folded in memory, between the two */
        fine = memcmp(one->hits, more->hits, QUERIES * 10 * sizeof *one->hits) == 0;
        compared = true;
    }
    atomic_fetch_add(&c->failures, !fine || !compared);
    mn_disconnect(conn);
    free(one);
    free(more);
    return NULL;
}

TEST(connections_with_helpers_beside_a_folding_writer)
{
    static const mn_rerank reranks[] = {MN_RERANK_COPY, MN_RERANK_ROWS};
    for (size_t i = 0; i < 2; i++) {
        struct world w = made(test_path(i ? "b.db" : "a.db"),
                              &(mn_collection_opts){.dim = DIM, .rerank = reranks[i]},
                              i == 0 ? AWAY : WARM);
        struct crowd c = {.db = w.db};
        pthread_t threads[3];
        for (size_t t = 0; t < 3; t++)
            CHECK(pthread_create(&threads[t], NULL, asks, &c) == 0);
        for (int round = 0; round < 6; round++) {
            put_rows(w.conn, MN_F32, 300, 330, 40 + (uint64_t)round);
            CHECK_OK(mn_fold(w.conn, "c", &err), err);
        }
        for (size_t t = 0; t < 3; t++)
            pthread_join(threads[t], NULL);
        CHECK_EQ(c.failures, 0);
        world_close(&w);
    }
}

TEST_MAIN
