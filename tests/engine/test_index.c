/* threads */
/* The hybrid index from the outside: built, folded, lost, damaged; the answers stay right. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mneme.h"
#include "tests/test.h"

enum { N = 12000, DIM = 24, CLUSTERS = 60, QUERIES = 100, K = 10 };

static mn_error err;
static float base[N][DIM], queries[QUERIES][DIM];

static void make_data(uint64_t seed)
{
    struct test_rng r = {seed};
    static float centre[CLUSTERS][DIM];
    for (int j = 0; j < CLUSTERS; j++)
        for (int z = 0; z < DIM; z++)
            centre[j][z] = (float)test_normal(&r);
    for (int i = 0; i < N + QUERIES; i++) {
        float *v = i < N ? base[i] : queries[i - N];
        const float *c = centre[test_below(&r, CLUSTERS)];
        for (int z = 0; z < DIM; z++)
            v[z] = c[z] + 0.5f * (float)test_normal(&r);
    }
}

struct world {
    mn_db *db;
    mn_conn *conn;
};

static struct world open_world(const char *path)
{
    struct world w;
    mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND};
    CHECK_OK(mn_open(path, &opts, &w.db, &err), err);
    CHECK_OK(mn_connect(w.db, &w.conn, &err), err);
    return w;
}

static void close_world(struct world w)
{
    mn_disconnect(w.conn);
    CHECK_OK(mn_close(w.db, &err), err);
}

static void put_range(mn_conn *conn, int64_t first_id, int from, int to)
{
    static mn_row rows[1000];
    for (int i = from; i < to; i += 1000) {
        int n = to - i < 1000 ? to - i : 1000;
        for (int j = 0; j < n; j++)
            rows[j] = (mn_row){.id = first_id + i + j, .vector = base[i + j]};
        CHECK_OK(mn_put(conn, "c", rows, (size_t)n, NULL, &err), err);
    }
}

static struct world filled_world(const char *path, mn_metric metric)
{
    struct world w = open_world(path);
    make_data(7);
    CHECK_OK(mn_create(w.conn, "c", &(mn_collection_opts){.dim = DIM, .metric = metric}, &err),
             err);
    put_range(w.conn, 1, 0, N);
    return w;
}

/* Share of the exact answer that a search for `recall` finds. Distances must be the exact ones. */
static double recall_of(mn_conn *conn, double recall, bool *indexed)
{
    static mn_hit got[QUERIES * K], want[QUERIES * K];
    uint32_t found[QUERIES], exact[QUERIES];
    mn_search_stats stats = {0};
    mn_search_opts opts = {.recall = recall, .stats = &stats};
    CHECK_OK(mn_search(conn, "c", queries, QUERIES, K, &opts, got, found, &err), err);
    mn_search_opts all = {.recall = 1.0};
    CHECK_OK(mn_search(conn, "c", queries, QUERIES, K, &all, want, exact, &err), err);
    size_t hit = 0;
    for (uint32_t q = 0; q < QUERIES; q++) {
        CHECK_EQ(found[q], exact[q]);
        for (uint32_t i = 0; i < found[q]; i++)
            for (uint32_t j = 0; j < exact[q]; j++)
                if (got[q * K + i].id == want[q * K + j].id) {
                    hit++;
                    CHECKF(got[q * K + i].distance == want[q * K + j].distance,
                           "query %u: distance of id %lld is %.17g, exactly %.17g", q,
                           (long long)got[q * K + i].id, got[q * K + i].distance,
                           want[q * K + j].distance);
                }
    }
    *indexed = stats.from_index;
    return (double)hit / (QUERIES * K);
}

static void check_recall(mn_conn *conn, bool want_index)
{
    bool indexed;
    double r = recall_of(conn, 0.95, &indexed);
    CHECK_EQ(indexed, want_index);
    if (want_index)
        test_note("recall %.3f", r);
    CHECKF(r >= (want_index ? 0.92 : 1.0), "recall %.3f", r);
}

TEST(an_index_is_built_and_answers)
{
    static const mn_metric metrics[] = {MN_L2, MN_COSINE, MN_IP};
    for (int m = 0; m < 3; m++) {
        char name[16];
        snprintf(name, sizeof name, "%d.db", m);
        struct world w = filled_world(test_path(name), metrics[m]);
        check_recall(w.conn, false);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        check_recall(w.conn, true);
        mn_index_info info;
        CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
        CHECK(info.exists);
        CHECK_EQ(info.rows, N);
        CHECK_EQ(info.pending, 0);
        close_world(w);
    }
}

static void on_finding(void *ctx, const char *where, const char *what)
{
    (void)ctx;
    printf("\n    %s: %s", where, what);
}

TEST(changes_show_before_and_after_folds)
{
    const char *path = test_path("a.db");
    struct world w = filled_world(path, MN_L2);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    struct test_rng r = {3};
    for (int round = 0; round < 4; round++) {
        /* A query's own vector put as a row must be its nearest, deleted it must be gone. */
        const mn_row row = {.id = 100000 + round, .vector = queries[round]};
        mn_hit hit;
        uint32_t found;
        CHECK_OK(mn_put(w.conn, "c", &row, 1, NULL, &err), err);
        CHECK_OK(mn_search(w.conn, "c", queries[round], 1, 1, NULL, &hit, &found, &err), err);
        CHECK_EQ(hit.id, 100000 + round);
        CHECK(hit.distance == 0);
        if (round % 2)
            CHECK_OK(mn_fold(w.conn, "c", &err), err);
        CHECK_OK(mn_search(w.conn, "c", queries[round], 1, 1, NULL, &hit, &found, &err), err);
        CHECK_EQ(hit.id, 100000 + round);
        for (int i = 0; i < 300; i++) {
            mn_id id = {.id = 1 + (int64_t)test_below(&r, N)};
            CHECK_OK(mn_delete(w.conn, "c", &id, 1, NULL, &err), err);
        }
        int from = (int)test_below(&r, N - 500);
        put_range(w.conn, 1 + (int64_t)test_below(&r, 200), from, from + 500); /* moves rows */
        check_recall(w.conn, true);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        check_recall(w.conn, true);
        CHECK_OK(mn_delete(w.conn, "c", &(mn_id){.id = 100000 + round}, 1, NULL, &err), err);
        CHECK_OK(mn_search(w.conn, "c", queries[round], 1, 1, NULL, &hit, &found, &err), err);
        CHECK(hit.id != 100000 + round);
    }
    uint64_t findings;
    CHECK_OK(mn_verify(w.conn, on_finding, NULL, &findings, &err), err);
    CHECK_EQ(findings, 0);
    close_world(w);
    w = open_world(path);
    check_recall(w.conn, true);
    close_world(w);
}

TEST(a_transaction_sees_its_own_writes)
{
    struct world w = filled_world(test_path("a.db"), MN_L2);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    mn_hit hit;
    uint32_t found;
    const mn_row row = {.id = 99999, .vector = queries[0]};
    CHECK_OK(mn_begin_write(w.conn, &err), err);
    CHECK_OK(mn_put(w.conn, "c", &row, 1, NULL, &err), err);
    CHECK_OK(mn_search(w.conn, "c", queries[0], 1, 1, NULL, &hit, &found, &err), err);
    CHECK_EQ(hit.id, 99999);
    CHECK_EQ(mn_fold(w.conn, "c", &err), MN_MISUSE);
    CHECK_OK(mn_rollback(w.conn, &err), err);
    CHECK_OK(mn_search(w.conn, "c", queries[0], 1, 1, NULL, &hit, &found, &err), err);
    CHECK(hit.id != 99999);
    check_recall(w.conn, true);
    close_world(w);
}

static bool even(void *ctx, const mn_row *row)
{
    (void)ctx;
    return row->id % 2 == 0;
}

TEST(filters_are_honoured_and_fill_the_answer)
{
    struct world w = filled_world(test_path("a.db"), MN_L2);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    mn_hit hits[50];
    uint32_t found;
    mn_search_stats stats;
    mn_search_opts opts = {.filter = even, .stats = &stats};
    CHECK_OK(mn_search(w.conn, "c", queries[0], 1, 50, &opts, hits, &found, &err), err);
    CHECK(stats.from_index);
    CHECK_EQ(found, 50);
    for (uint32_t i = 0; i < found; i++)
        CHECK_EQ(hits[i].id % 2, 0);
    int64_t ids[3000];
    for (int i = 0; i < 3000; i++)
        ids[i] = 3 * i + 1;
    mn_search_opts only = {.only_ids = ids, .n_only_ids = 3000, .stats = &stats};
    CHECK_OK(mn_search(w.conn, "c", queries[1], 1, 20, &only, hits, &found, &err), err);
    CHECK_EQ(found, 20);
    for (uint32_t i = 0; i < found; i++)
        CHECK_EQ(hits[i].id % 3, 1);
    close_world(w);
}

TEST(a_lost_sidecar_costs_time_and_nothing_else)
{
    const char *path = test_path("a.db"), *sidecar = test_path("a.db-mneme");
    struct world w = filled_world(path, MN_L2);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    close_world(w);
    CHECK(unlink(sidecar) == 0);
    w = open_world(path);
    check_recall(w.conn, false);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    check_recall(w.conn, true);
    close_world(w);
    w = open_world(path);
    check_recall(w.conn, true);
    close_world(w);
}

static void damage(const char *file, long at, size_t n)
{
    int fd = open(file, O_RDWR);
    struct stat st;
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    if (at < 0)
        at += st.st_size;
    for (size_t i = 0; i < n; i++) {
        char c;
        CHECK(pread(fd, &c, 1, at + (long)i) == 1);
        c = (char)(c ^ 0x20);
        CHECK(pwrite(fd, &c, 1, at + (long)i) == 1);
    }
    close(fd);
}

TEST(a_damaged_sidecar_is_found_out_and_built_anew)
{
    const char *path = test_path("a.db"), *sidecar = test_path("a.db-mneme");
    struct world w = filled_world(path, MN_L2);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    close_world(w);
    static const long places[] = {0, 4096, 4 * 4096 + 20, 5 * 4096 + 100, 300000, 900000};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        damage(sidecar, places[i], 1);
        w = open_world(path);
        bool indexed;
        double r = recall_of(w.conn, 0.95, &indexed);
        CHECKF(r >= (indexed ? 0.92 : 1.0), "place %zu: recall %.3f", i, r);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        check_recall(w.conn, true);
        close_world(w);
    }
    CHECK(truncate(sidecar, 200000) == 0);
    w = open_world(path);
    check_recall(w.conn, false);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    check_recall(w.conn, true);
    close_world(w);
}

TEST(the_background_thread_builds_and_folds)
{
    const char *path = test_path("a.db");
    struct world w = filled_world(path, MN_L2);
    close_world(w);
    CHECK_OK(mn_open(path, NULL, &w.db, &err), err);
    CHECK_OK(mn_connect(w.db, &w.conn, &err), err);
    bool indexed = false;
    for (int i = 0; i < 600 && !indexed; i++) {
        double r = recall_of(w.conn, 0.95, &indexed);
        CHECK(r >= (indexed ? 0.92 : 1.0));
        usleep(20000);
    }
    CHECK(indexed);
    put_range(w.conn, 50000, 0, 3000);
    mn_index_info info = {.pending = 3000};
    for (int i = 0; i < 600 && info.pending >= 1000; i++) {
        check_recall(w.conn, true);
        CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
        usleep(20000);
    }
    CHECKF(info.pending < 1000, "%llu rows are pending", (unsigned long long)info.pending);
    close_world(w);
}

TEST(a_collection_that_shrinks_to_nothing_grows_again)
{
    struct world w = filled_world(test_path("a.db"), MN_L2);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    static mn_id ids[N];
    for (int i = 0; i < N; i++)
        ids[i].id = i + 1;
    CHECK_OK(mn_delete(w.conn, "c", ids, N, NULL, &err), err);
    mn_hit hit;
    uint32_t found = 9;
    CHECK_OK(mn_search(w.conn, "c", queries[0], 1, 1, NULL, &hit, &found, &err), err);
    CHECK_EQ(found, 0);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    CHECK_OK(mn_search(w.conn, "c", queries[0], 1, 1, NULL, &hit, &found, &err), err);
    CHECK_EQ(found, 0);
    put_range(w.conn, 1, 0, N);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    check_recall(w.conn, true);
    CHECK_OK(mn_drop(w.conn, "c", &err), err);
    close_world(w);
}

struct trainer {
    int calls;
    bool fails;
};

static mn_status first_rows(void *ctx, const mn_training *t, mn_error *e)
{
    struct trainer *own = ctx;
    own->calls++;
    if (own->fails) {
        snprintf(e->message, sizeof e->message, "it rains");
        return MN_IO;
    }
    CHECK(t->dim == DIM && t->n >= t->k && t->k > 1);
    CHECK(t->go_on(t->go_on_ctx));
    memcpy(t->centroids, t->vectors, (size_t)t->k * t->dim * sizeof(float));
    return MN_OK;
}

TEST(a_trainer_of_the_connection_chooses_the_centroids)
{
    struct world w = filled_world(test_path("a.db"), MN_L2);
    struct trainer t = {0};
    mn_index_info before, after;
    bool indexed;
    mn_set_trainer(w.conn, first_rows, &t);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    CHECK_EQ(t.calls, 1);
    double recall = recall_of(w.conn, 0.95, &indexed);
    CHECK(indexed);
    CHECKF(recall >= 0.92, "recall %.3f", recall);
    CHECK_OK(mn_index_stats(w.conn, "c", &before, &err), err);
    t.fails = true;
    CHECK_EQ(mn_rebuild(w.conn, "c", &err), MN_IO);
    CHECK_HAS(err.message, "the trainer failed: it rains");
    CHECK_EQ(t.calls, 2);
    CHECK_OK(mn_index_stats(w.conn, "c", &after, &err), err);
    CHECK_EQ(after.generation, before.generation); /* the index is as it was */
    put_range(w.conn, N + 1, 0, 1000);
    CHECK_OK(mn_fold(w.conn, "c", &err), err); /* folds into the centroids that are there */
    CHECK_EQ(t.calls, 2);
    mn_set_trainer(w.conn, NULL, NULL);
    CHECK_OK(mn_rebuild(w.conn, "c", &err), err);
    CHECK_EQ(t.calls, 2);
    check_recall(w.conn, true);
    close_world(w);
}

TEST_MAIN
