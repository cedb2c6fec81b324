/* Indexes under small memory caps: what fits when it is loaded can be built. */
#include "tests/engine/indexed.h"

enum { K = 10, QUERIES = 40, BATCH = 500 };

static mn_error err;

struct world {
    mn_db *db;
    mn_conn *conn;
    char warning[400]; /* the first one */
};

static void on_log(void *ctx, mn_log_level level, const char *topic, const char *line)
{
    struct world *w = ctx;
    (void)topic;
    if (level <= MN_LOG_WARN && !w->warning[0])
        snprintf(w->warning, sizeof w->warning, "%s", line);
}

static void world_open(struct world *w, const char *path, uint64_t cap, uint32_t threads)
{
    struct db_stage stage = {.limits = INDEXED_LIMITS};
    const mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND, .durability = MN_RELAXED,
                               .memory_bytes = cap, .threads = threads, .log = on_log,
                               .log_ctx = w};
    w->warning[0] = 0;
    CHECK_OK(db_open_on(path, &opts, &stage, &w->db, &err), err);
    CHECK_OK(mn_connect(w->db, &w->conn, &err), err);
}

static void world_close(struct world *w)
{
    mn_disconnect(w->conn);
    CHECK_OK(mn_close(w->db, &err), err);
}

static void fill(mn_conn *conn, const mn_collection_opts *like, size_t rows)
{
    size_t bytes = mn_vector_bytes(like->dtype, like->dim);
    char *v = malloc(BATCH * bytes);
    static mn_row put[BATCH];
    CHECK_OK(mn_create(conn, "c", like, &err), err);
    for (size_t i = 0; i < rows; i += BATCH) {
        size_t n = rows - i < BATCH ? rows - i : BATCH;
        for (size_t j = 0; j < n; j++) {
            indexed_vector(like->dtype, like->dim, 1, i + j + 1, v + j * bytes);
            put[j] = (mn_row){.id = (int64_t)(i + j + 1), .vector = v + j * bytes};
        }
        CHECK_OK(mn_put(conn, "c", put, n, NULL, &err), err);
    }
    free(v);
}

/* Share of the exact answer that searches find by the index. */
static double recall_of(struct world *w, const mn_collection_opts *like)
{
    size_t bytes = mn_vector_bytes(like->dtype, like->dim), good = 0;
    char *v = malloc(bytes);
    for (uint64_t q = 0; q < QUERIES; q++) {
        mn_hit got[K], want[K];
        uint32_t found = 0, exact = 0;
        mn_search_stats stats = {0};
        mn_search_opts opts = {.recall = 0.95, .stats = &stats}, all = {.recall = 1};
        indexed_vector(like->dtype, like->dim, 2, q, v);
        CHECK_OK(mn_search(w->conn, "c", v, 1, K, &opts, got, &found, &err), err);
        CHECKF(stats.from_index, "the index does not answer: %s", w->warning);
        CHECK_OK(mn_search(w->conn, "c", v, 1, K, &all, want, &exact, &err), err);
        for (uint32_t i = 0; i < exact; i++)
            for (uint32_t j = 0; j < found; j++)
                good += want[i].id == got[j].id;
    }
    free(v);
    return (double)good / (QUERIES * K);
}

TEST(what_fits_can_be_built)
{
    static const struct {
        size_t rows;
        uint32_t dim;
        mn_rerank rerank;
        unsigned caps_mib[3];
    } cases[] = {
        {8000, 256, MN_RERANK_COPY, {4, 8, 12}},  {3000, 768, MN_RERANK_COPY, {4, 12, 20}},
        {3000, 768, MN_RERANK_NONE, {5, 12, 0}},  {1500, 1536, MN_RERANK_COPY, {4, 12, 0}},
        {600, 4096, MN_RERANK_COPY, {5, 12, 18}}, {9000, 64, MN_RERANK_ROWS, {4, 6, 0}},
        {320, 16384, MN_RERANK_COPY, {12, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world w;
        char name[16];
        snprintf(name, sizeof name, "%zu.db", i);
        const char *path = test_path(name);
        const mn_collection_opts like = {.dim = cases[i].dim, .rerank = cases[i].rerank};
        world_open(&w, path, 64 << 20, 1);
        fill(w.conn, &like, cases[i].rows);
        world_close(&w);
        for (size_t c = 0; c < 3 && cases[i].caps_mib[c]; c++) {
            unsigned mib = cases[i].caps_mib[c];
            world_open(&w, path, (uint64_t)mib << 20, (uint32_t)(1 + (i + c) % 3));
            mn_status st = mn_rebuild(w.conn, "c", &err);
            CHECKF(st == MN_OK && !w.warning[0], "%zu x %u under %u MiB: %s%s", cases[i].rows,
                   cases[i].dim, mib, st ? err.message : "", w.warning);
            CHECK(mn_alloc_peak(w.db->alloc) <= mn_alloc_cap(w.db->alloc));
            double recall = recall_of(&w, &like);
            mn_index_info info;
            CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
            double most = info.recall_most < 0.95 ? info.recall_most : 0.95;
            CHECKF(most > 0.8 && recall > most - 0.05, "%zu x %u under %u MiB: recall %.3f of %.3f",
                   cases[i].rows, cases[i].dim, mib, recall, most);
            world_close(&w);
        }
    }
}

TEST_MAIN
