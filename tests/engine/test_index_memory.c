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

/* ---- The dial: an index is opened under less memory than it was built under ------------------ */

enum { DIAL_ROWS = 40000, DIAL_DIM = 128 };

struct seen {
    mn_hit hits[QUERIES][K];
    uint64_t parts_read, part_bytes, by_index;
};

static void search_all(struct world *w, struct seen *s)
{
    float v[DIAL_DIM];
    memset(s, 0, sizeof *s);
    for (uint64_t q = 0; q < QUERIES; q++) {
        uint32_t found = 0;
        mn_search_stats stats = {.rows_scanned = 0};
        const mn_search_opts opts = {.recall = 0.95, .stats = &stats};
        indexed_vector(MN_F32, DIAL_DIM, 2, q, v);
        CHECK_OK(mn_search(w->conn, "c", v, 1, K, &opts, s->hits[q], &found, &err), err);
        CHECK_EQ(found, K);
        s->parts_read += stats.parts_read;
        s->part_bytes += stats.part_bytes;
        s->by_index += stats.from_index;
    }
}

TEST(any_cap_gives_the_same_answers)
{
    static const unsigned caps_mib[] = {64, 10, 7, 6, 5, 4};
    static struct seen all, one, again;
    struct world w;
    const char *path = test_path("a.db");
    const mn_collection_opts like = {.dim = DIAL_DIM, .bits = 8};
    world_open(&w, path, 64 << 20, 2);
    fill(w.conn, &like, DIAL_ROWS);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    world_close(&w);
    for (size_t i = 0; i < sizeof caps_mib / sizeof *caps_mib; i++) {
        unsigned mib = caps_mib[i];
        mn_index_info info;
        world_open(&w, path, (uint64_t)mib << 20, 1);
        search_all(&w, &one);
        for (int n = 0; n < 8; n++)
            search_all(&w, &again);
        CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
        CHECKF(info.exists && one.by_index == QUERIES && again.by_index == QUERIES,
               "%u MiB: the index answers %d times: %s", mib, (int)again.by_index, w.warning);
        all = i ? all : one;
        CHECKF(memcmp(all.hits, one.hits, sizeof all.hits) == 0 &&
                   memcmp(all.hits, again.hits, sizeof all.hits) == 0,
               "%u MiB: other answers", mib);
        CHECKF(!w.warning[0], "%u MiB: %s", mib, w.warning);
        CHECKF((one.parts_read > 0) == (mib <= 7), "%u MiB: %d parts read", mib,
               (int)one.parts_read);
        CHECK(one.part_bytes >= 4096 * one.parts_read && again.parts_read <= one.parts_read);
        CHECKF((info.codes_in_memory < 1) == (mib <= 7), "%u MiB: %g of the codes in memory", mib,
               info.codes_in_memory);
        CHECK(mn_alloc_peak(w.db->alloc) <= mn_alloc_cap(w.db->alloc));
        test_note("%u MiB: %.1f, then %.1f parts read, %.0f%% in memory", mib,
                  (double)one.parts_read / QUERIES, (double)again.parts_read / QUERIES,
                  100 * info.codes_in_memory);
        world_close(&w);
    }
}

/* Rows come, change and go; the codes on the disk follow. */
TEST(folds_keep_up_under_a_cap_that_does_not_hold_the_codes)
{
    static mn_row put[BATCH];
    static float vectors[BATCH][DIAL_DIM];
    struct world w;
    const char *path = test_path("a.db");
    const mn_collection_opts like = {.dim = DIAL_DIM, .bits = 8};
    world_open(&w, path, 64 << 20, 2);
    fill(w.conn, &like, DIAL_ROWS);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    world_close(&w);
    world_open(&w, path, 7 << 20, 1);
    for (uint64_t round = 0; round < 6; round++) {
        mn_index_info info;
        for (size_t i = 0; i < BATCH; i++) {
            uint64_t id = i % 2 ? DIAL_ROWS + round * BATCH + i : 1 + 53 * i + round;
            indexed_vector(MN_F32, DIAL_DIM, 10 + round, id, vectors[i]);
            put[i] = (mn_row){.id = (int64_t)id, .vector = vectors[i]};
        }
        CHECK_OK(mn_put(w.conn, "c", put, BATCH, NULL, &err), err);
        for (int64_t id = 0; id < 40; id++)
            CHECK_OK(mn_delete(w.conn, "c", &(mn_id){.id = 7 + 97 * id + (int64_t)round}, 1, NULL,
                               &err), err);
        double pending = recall_of(&w, &like);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        double recall = recall_of(&w, &like);
        CHECKF(pending > 0.93 && recall > 0.93, "round %d: recall %.3f, %.3f", (int)round, pending,
               recall);
        CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
        CHECK(info.codes_in_memory < 1 && info.pending == 0 && !w.warning[0]);
        CHECK(mn_alloc_peak(w.db->alloc) <= mn_alloc_cap(w.db->alloc));
    }
    const char *wrong = indexed_verify(w.conn);
    CHECKF(!wrong, "%s", wrong);
    world_close(&w);
}

TEST(an_index_whose_centroids_find_no_room_is_said_to_be_unusable)
{
    struct world w;
    const char *path = test_path("a.db");
    const mn_collection_opts like = {.dim = DIAL_DIM};
    mn_index_info info;
    world_open(&w, path, 64 << 20, 2);
    fill(w.conn, &like, 5000);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
    CHECK(info.exists && !info.unusable);
    world_close(&w);
    world_open(&w, path, 4 << 20, 1);
    void *others[4096]; /* take the memory, but for some KiB */
    size_t n = 0;
    while (mn_alloc_used(w.db->alloc) + (40 << 10) < mn_alloc_cap(w.db->alloc))
        CHECK((others[n++] = mn_alloc(w.db->alloc, 4 << 10, MN_TAG_PENDING)));
    CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
    CHECK(!info.exists && info.unusable);
    CHECK_HAS(w.warning, "raise memory");
    while (n)
        mn_free(w.db->alloc, others[--n]);
    world_close(&w);
}

TEST_MAIN
