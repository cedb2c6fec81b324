/* What the index makes of collections of every shape: dimensions, metrics, element types, ids from
 * end to end of their range, text ids, rows that are all alike or far from the origin. Built,
 * changed, folded in memory, published and opened again, it answers as brute force over the rows
 * does. */
#include "tests/engine/trouble.h"

enum { ROWS = 60 };

static mn_error err;

enum ids { IDS_SMALL, IDS_NEGATIVE, IDS_HUGE, IDS_TEXT, N_IDS };
static const char *const ids_words[] = {"small ids", "negative ids", "huge ids", "text ids"};

/* The id of row `n`, from 0; ascending and descending ones alike. */
static int64_t id_of(enum ids ids, int64_t n)
{
    switch (ids) {
    case IDS_NEGATIVE:
        return -3 * n - 1;
    case IDS_HUGE: /* from both ends towards the middle; INT64_MIN stands for "assign one" */
        return n % 2 ? INT64_MIN + 1 + n * 0x100000001 : INT64_MAX - n * 0x100000003;
    default:
        return n;
    }
}

static void put_rows(struct trouble *t, enum ids ids, int64_t from, int64_t to, uint64_t seed)
{
    char text[32], *v = malloc(mn_vector_bytes(t->b.dtype, t->b.dim));
    CHECK(v);
    CHECK_OK(mn_begin_write(t->conn, &err), err);
    for (int64_t n = from; n < to; n++) {
        indexed_vector(t->b.dtype, t->b.dim, seed, (uint64_t)n, v);
        mn_row row = {.vector = v};
        if (ids == IDS_TEXT) {
            snprintf(text, sizeof text, "%s%d", n % 2 ? "\xc3\xa9" : "row ", (int)n);
            row.text_id = text;
        } else {
            row.id = id_of(ids, n);
        }
        CHECK_OK(mn_put(t->conn, "c", &row, 1, NULL, &err), err);
    }
    CHECK_OK(mn_commit(t->conn, &err), err);
    free(v);
}

static void delete_row(struct trouble *t, enum ids ids, int64_t n)
{
    char text[32];
    snprintf(text, sizeof text, "%s%d", n % 2 ? "\xc3\xa9" : "row ", (int)n);
    const mn_id id = {.id = ids == IDS_TEXT ? 0 : id_of(ids, n),
                      .text_id = ids == IDS_TEXT ? text : NULL};
    uint64_t deleted = 0;
    CHECK_OK(mn_delete(t->conn, "c", &id, 1, &deleted, &err), err);
    CHECK_EQ(deleted, 1);
}

struct shape {
    mn_dtype dtype;
    mn_metric metric;
    uint32_t dim;
    enum ids ids;
};

static void check_shape(const struct shape *s, const char *what)
{
    struct trouble t = trouble_open(test_path(what), s->dtype, s->metric, s->dim,
                                    MN_OPEN_NO_BACKGROUND);
    const mn_collection_opts opts = {.dim = s->dim,
                                     .dtype = s->dtype,
                                     .metric = s->metric,
                                     .bits = s->dim > 1000 ? 1 : 0,
                                     .id_kind = s->ids == IDS_TEXT ? MN_ID_TEXT : MN_ID_INTEGER};
    t.db->limits.min_rows = ROWS - 10;
    CHECK_OK(mn_create(t.conn, "c", &opts, &err), err);
    put_rows(&t, s->ids, 0, ROWS, 1);
    CHECK_OK(mn_fold(t.conn, "c", &err), err);
    CHECKF(trouble_check(&t, t.conn, what) > 0, "%s: not by the index", what);
    put_rows(&t, s->ids, ROWS - 12, ROWS + 20, 2);
    delete_row(&t, s->ids, 3);
    trouble_check(&t, t.conn, what);
    CHECKF(trouble_fold_ahead(t.conn), "%s: nothing was folded", what);
    trouble_check(&t, t.conn, what);
    trouble_check_mended(&t, what);
    trouble_close(&t);
}

TEST(every_dimension_metric_and_element_type)
{
    static const uint32_t dims[] = {1, 7, 100, 1536, 16384};
    static const mn_metric metrics[] = {MN_L2, MN_IP, MN_COSINE};
    static const mn_dtype dtypes[] = {MN_F32, MN_F16, MN_BF16, MN_I8};
    unsigned n = 0;
    for (size_t d = 0; d < 5; d++)
        for (size_t m = 0; m < 3; m++)
            for (size_t e = 0; e < 4; e++, n++) {
                char what[64];
                struct shape s = {dtypes[e], metrics[m], dims[d], (enum ids)(n % N_IDS)};
                bool tenth = test_budget(10) < 10;
                unsigned every = tenth ? 11 : dims[d] == 16384 ? 5 : dims[d] == 1536 ? 2 : 1;
                if (!test_long() && n % every)
                    continue;
                snprintf(what, sizeof what, "%s %s %u, %s", mn_metric_name(s.metric),
                         mn_dtype_name(s.dtype), s.dim, ids_words[s.ids]);
                check_shape(&s, what);
            }
}

TEST(ids_of_every_kind)
{
    for (int ids = 0; ids < N_IDS; ids++)
        for (int m = 0; m < 2; m++) {
            struct shape s = {MN_F32, m ? MN_COSINE : MN_L2, 24, (enum ids)ids};
            char what[64];
            snprintf(what, sizeof what, "%s, %s", ids_words[ids], mn_metric_name(s.metric));
            check_shape(&s, what);
        }
}

/* A plain client may use the one id that mn_put does not take. */
TEST(the_least_and_the_greatest_id)
{
    const char *path = test_path("a.db");
    struct trouble t = trouble_open(path, MN_F32, MN_L2, 8, MN_OPEN_NO_BACKGROUND);
    trouble_fill(&t, 400);
    trouble_sql(path, "INSERT INTO c(id, vector) SELECT -9223372036854775807 - 1, vector FROM c "
                      "WHERE id = 7; INSERT INTO c(id, vector) SELECT 9223372036854775807, vector "
                      "FROM c WHERE id = 8; UPDATE c SET id = -id WHERE id BETWEEN 20 AND 60");
    trouble_check(&t, t.conn, "pending");
    CHECK(trouble_fold_ahead(t.conn));
    trouble_check(&t, t.conn, "folded");
    trouble_check_mended(&t, "published");
    mn_hit hit[2];
    uint32_t found;
    float v[8];
    indexed_vector(MN_F32, 8, 1, 7, v);
    CHECK_OK(mn_search(t.conn, "c", v, 1, 2, NULL, hit, &found, &err), err);
    CHECK(found == 2 && hit[0].id == INT64_MIN && hit[1].id == 7 && hit[0].distance == 0);
    CHECK_OK(mn_rebuild(t.conn, "c", &err), err);
    trouble_check_mended(&t, "built anew");
    trouble_sql(path, "DELETE FROM c WHERE id IN (-9223372036854775807 - 1, 9223372036854775807)");
    trouble_check(&t, t.conn, "gone");
    trouble_fold_ahead(t.conn);
    trouble_check_mended(&t, "gone, published");
    trouble_close(&t);
}

/* ---- Rows alike ------------------------------------------------------------------------------ */

/* Vectors at `offset` in each element, `spread` apart. */
static void put_clump(struct trouble *t, int64_t from, int64_t n, float offset, float spread)
{
    struct test_rng r = {(uint64_t)from};
    float v[8];
    CHECK_OK(mn_begin_write(t->conn, &err), err);
    for (int64_t i = 0; i < n; i++) {
        for (int z = 0; z < 8; z++)
            v[z] = offset + spread * (float)test_uniform(&r);
        CHECK_OK(mn_put(t->conn, "c", &(mn_row){.id = from + i, .vector = v}, 1, NULL, &err), err);
    }
    CHECK_OK(mn_commit(t->conn, &err), err);
}

static const struct {
    const char *name;
    int64_t alike, others;
    float offset, spread;
} clumps[] = {{"constant", 500, 0, 1, 0},
              {"duplicates by the thousand", 1500, 300, 1, 0},
              {"a clump far away", 600, 300, 1e5f, 1},
              {"nothing but a clump far away", 600, 0, 1e5f, 1e-1f}};

TEST(rows_that_are_alike_under_every_metric)
{
    static const mn_metric metrics[] = {MN_L2, MN_IP, MN_COSINE};
    for (size_t i = 0; i < sizeof clumps / sizeof *clumps; i++)
        for (size_t m = 0; m < 3; m++) {
            char what[64];
            if (!test_long() && (i + m) % (test_budget(10) < 10 ? 4 : 2))
                continue;
            snprintf(what, sizeof what, "%s, %s", clumps[i].name, mn_metric_name(metrics[m]));
            struct trouble t =
                trouble_open(test_path(what), MN_F32, metrics[m], 8, MN_OPEN_NO_BACKGROUND);
            const mn_collection_opts opts = {.dim = 8, .metric = metrics[m]};
            CHECK_OK(mn_create(t.conn, "c", &opts, &err), err);
            put_clump(&t, 10000, clumps[i].alike, clumps[i].offset, clumps[i].spread);
            trouble_put(&t, 1, clumps[i].others + 1, 1);
            CHECK_OK(mn_fold(t.conn, "c", &err), err);
            CHECKF(trouble_check(&t, t.conn, what) > 0, "%s: not by the index", what);
            put_clump(&t, 60000, 150, clumps[i].offset, clumps[i].spread);
            trouble_delete(t.conn, 10000, 10040);
            CHECKF(trouble_fold_ahead(t.conn), "%s: nothing was folded", what);
            trouble_check(&t, t.conn, what);
            trouble_check_mended(&t, what);
            trouble_close(&t);
        }
}

TEST_MAIN
