/* The hybrid index as its rows come and go for long: postings are split and dissolved, free slots
 * are filled again, the knobs stay right, without building the index anew. */
#include <inttypes.h>
#include <sys/stat.h>

#include "src/engine/engine.h"
#include "tests/test.h"

enum { DIM = 16, MAX_DIM = 256, QUERIES = 100, K = 10, CLUSTERS = 40 };

static mn_error err;
static float centre[CLUSTERS][MAX_DIM];

struct world {
    mn_db *db;
    mn_conn *conn;
    struct test_rng rng;
    uint32_t dim;
    char path[300];
};

static struct world open_world(const char *name, uint32_t dim, mn_rerank rerank, mn_metric metric,
                               bool cold)
{
    struct world w = {.rng = {11}, .dim = dim};
    mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND};
    struct db_stage stage = {
        .limits = {.min_rows = 300, .fold_pending = 100, .pending_max = 100000, .cold = cold,
                   .away = cold}};
    snprintf(w.path, sizeof w.path, "%s", test_path(name));
    CHECK_OK(db_open_on(w.path, &opts, &stage, &w.db, &err), err);
    CHECK_OK(mn_connect(w.db, &w.conn, &err), err);
    mn_collection_opts c = {.dim = dim, .metric = metric, .rerank = rerank};
    CHECK_OK(mn_create(w.conn, "c", &c, &err), err);
    for (int j = 0; j < CLUSTERS; j++)
        for (uint32_t z = 0; z < dim; z++)
            centre[j][z] = 2 * (float)test_normal(&w.rng);
    return w;
}

static void close_world(struct world *w)
{
    mn_disconnect(w->conn);
    CHECK_OK(mn_close(w->db, &err), err);
}

/* A vector of one of the clusters [first, end). */
static void draw(struct world *w, int first, int end, float *out)
{
    const float *c = centre[first + (int)test_below(&w->rng, (uint64_t)(end - first))];
    for (uint32_t z = 0; z < w->dim; z++)
        out[z] = c[z] + 0.7f * (float)test_normal(&w->rng);
}

static void put(struct world *w, int64_t id, int n, int first, int end)
{
    static mn_row rows[1000];
    static float vectors[1000 * MAX_DIM];
    CHECK(n <= 1000);
    for (int i = 0; i < n; i++) {
        float *v = vectors + (size_t)i * w->dim;
        draw(w, first, end, v);
        rows[i] = (mn_row){.id = id + i, .vector = v};
    }
    CHECK_OK(mn_put(w->conn, "c", rows, (size_t)n, NULL, &err), err);
}

static void fold(struct world *w)
{
    CHECK_OK(mn_fold(w->conn, "c", &err), err);
}

static void on_finding(void *ctx, const char *where, const char *what)
{
    (void)ctx;
    printf("    %s: %s\n", where, what);
}

static void verify(struct world *w)
{
    uint64_t findings;
    CHECK_OK(mn_verify(w->conn, on_finding, NULL, &findings, &err), err);
    CHECK_EQ(findings, 0);
}

/* Of searches for 0.95, with exact distances. */
static double recall(struct world *w)
{
    static float queries[QUERIES * MAX_DIM];
    static mn_hit got[QUERIES * K], want[QUERIES * K];
    uint32_t found[QUERIES], exact[QUERIES];
    mn_search_stats stats = {0};
    mn_search_opts opts = {.recall = 0.95, .stats = &stats}, all = {.recall = 1.0};
    size_t hits = 0;
    for (int q = 0; q < QUERIES; q++)
        draw(w, 0, CLUSTERS, queries + (size_t)q * w->dim);
    CHECK_OK(mn_search(w->conn, "c", queries, QUERIES, K, &opts, got, found, &err), err);
    CHECK_OK(mn_search(w->conn, "c", queries, QUERIES, K, &all, want, exact, &err), err);
    CHECK(stats.from_index);
    for (uint32_t q = 0; q < QUERIES; q++) {
        CHECK_EQ(found[q], exact[q]);
        for (uint32_t i = 0; i < found[q]; i++)
            hits += got[q * K + i].distance <= want[q * K + K - 1].distance;
    }
    return (double)hits / (QUERIES * K);
}

static mn_index_info info(struct world *w)
{
    mn_index_info i;
    CHECK_OK(mn_index_stats(w->conn, "c", &i, &err), err);
    CHECK(i.exists);
    return i;
}

/* 1,000 rows of a few clusters become 10,000 of many: the postings follow. */
static void grow(mn_rerank rerank, mn_metric metric, bool cold)
{
    struct world w = open_world("grow.db", DIM, rerank, metric, cold);
    put(&w, 1, 1000, 0, CLUSTERS / 4);
    fold(&w);
    uint64_t before = info(&w).postings;
    double worst = 1;
    for (int i = 1; i < 10; i++) {
        put(&w, 1 + 1000 * i, 1000, 0, CLUSTERS);
        fold(&w);
        double r = recall(&w); /* meaningful once rows are where the queries are */
        worst = i > 3 && r < worst ? r : worst;
    }
    uint64_t after = info(&w).postings;
    verify(&w);
    CHECK_OK(mn_rebuild(w.conn, "c", &err), err);
    double fresh = recall(&w);
    test_note("%" PRIu64 " to %" PRIu64 " postings, recall %.3f, built anew %.3f", before, after,
              worst, fresh);
    CHECKF(after >= before * 2, "%" PRIu64 " postings", after);
    CHECKF(worst >= 0.9 && worst >= fresh - 0.04, "recall %.3f, built anew %.3f", worst, fresh);
    close_world(&w);
}

TEST(postings_are_split_as_rows_come)
{
    grow(MN_RERANK_COPY, MN_L2, false);
}

TEST(postings_are_split_with_vectors_on_disk)
{
    grow(MN_RERANK_COPY, MN_COSINE, true);
}

TEST(postings_are_split_with_vectors_in_rows)
{
    grow(MN_RERANK_ROWS, MN_IP, false);
}

TEST(postings_are_dissolved_as_rows_go)
{
    struct world w = open_world("shrink.db", DIM, MN_RERANK_COPY, MN_L2, false);
    for (int i = 0; i < 6; i++)
        put(&w, 1 + 1000 * i, 1000, 0, CLUSTERS);
    fold(&w);
    /* All rows of one half of the space go, and others come in the other half. */
    mn_id ids[1000];
    mn_hit hits[1000];
    uint32_t found;
    for (int round = 0; round < 3; round++) {
        mn_search_opts all = {.recall = 1.0};
        CHECK_OK(mn_search(w.conn, "c", centre[round], 1, 1000, &all, hits, &found, &err), err);
        for (uint32_t i = 0; i < found; i++)
            ids[i] = (mn_id){.id = hits[i].id};
        CHECK_OK(mn_delete(w.conn, "c", ids, found, NULL, &err), err);
        put(&w, 10000 + 1000 * round, 1000, CLUSTERS / 2, CLUSTERS);
        fold(&w);
        double r = recall(&w);
        test_note("recall %.3f", r);
        CHECKF(r >= 0.92, "recall %.3f", r);
        verify(&w);
    }
    close_world(&w);
}

static uint64_t file_bytes(const char *path, const char *suffix)
{
    char name[320];
    struct stat s;
    snprintf(name, sizeof name, "%s%s", path, suffix);
    return stat(name, &s) == 0 ? (uint64_t)s.st_blocks * 512 : 0;
}

/* Ten times all rows replaced, and the heap has not grown tenfold. */
TEST(slots_of_rows_that_went_are_filled_again)
{
    enum { N = 22000, LIVE = 2000, STEP = 1000 };
    struct world w = open_world("churn.db", MAX_DIM, MN_RERANK_COPY, MN_L2, false);
    mn_id ids[STEP];
    for (int i = 0; i < LIVE; i += STEP)
        put(&w, i, STEP, 0, CLUSTERS);
    fold(&w);
    uint64_t fresh = info(&w).memory_bytes, most = 0;
    for (int i = LIVE; i < N; i += STEP) {
        for (int j = 0; j < STEP; j++)
            ids[j] = (mn_id){.id = i - LIVE + j};
        CHECK_OK(mn_delete(w.conn, "c", ids, STEP, NULL, &err), err);
        put(&w, i, STEP, 0, CLUSTERS);
        fold(&w);
        uint64_t now = info(&w).memory_bytes;
        most = now > most ? now : most;
    }
    double r = recall(&w);
    test_note("%.1f to %.1f MB, sidecar %.1f MB, recall %.3f", (double)fresh / 1e6,
              (double)most / 1e6, (double)file_bytes(w.path, "-mneme") / 1e6, r);
    CHECKF(most < 3 * fresh, "%" PRIu64 " bytes in memory, %" PRIu64 " at first", most, fresh);
    CHECKF(r >= 0.92, "recall %.3f", r);
    verify(&w);
    close_world(&w);
}

TEST_MAIN
