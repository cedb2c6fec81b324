/* Memory that runs out: the n-th allocation of a call fails, for every n, Mneme's own and SQLite's
 * counted together. The call answers MN_NOMEM and left nothing behind, or did not need that memory
 * and succeeded; the same handle then does the same thing without trouble. */
#include "tests/test.h"

#include <unistd.h>

#include "src/engine/engine.h"
#include "tests/sim/oom.h"
#include "tests/sim/world.h"

enum { DIM = 16, ROWS = 200 };

struct bench {
    struct sim *disk;
    struct sim_proc *proc;
    struct world_db w;
    struct world want;
    int64_t next;
};

static void begin(struct bench *b, const struct world_op *ops, size_t n)
{
    mn_error err;
    *b = (struct bench){.disk = sim_create(NULL)};
    b->proc = sim_start(b->disk);
    b->w = (struct world_db){.vfs = sim_vfs(b->proc), .path = "app.db",
                             .opts = {.allocator = oom_hooks()}};
    for (size_t i = 0; i < n; i++) {
        CHECK_OK(world_do(&b->w, &ops[i], &err), err);
        world_apply(&b->want, &ops[i]);
    }
}

static void same(struct bench *b, const char *what, uint64_t n)
{
    struct world have;
    char why[300] = "";
    CHECKF(world_read(&b->w, &have, why, sizeof why), "%s, allocation %d: %s", what, (int)n, why);
    CHECKF(!*world_difference(&have, &b->want), "%s, allocation %d: %s", what, (int)n,
           world_difference(&have, &b->want));
}

static void end(struct bench *b)
{
    struct world have;
    char why[300] = "";
    mn_error err;
    if (!b->w.conn)
        CHECK_OK(world_open(&b->w, &err), err);
    same(b, "end", 0);
    CHECKF(world_read(&b->w, &have, why, sizeof why), "%s", why);
    CHECKF(world_sound(&b->w, &have, why, sizeof why), "%s", why);
    world_close(&b->w);
    sim_stop(b->proc);
    sim_destroy(b->disk);
    CHECK_EQ(oom_balance(), 0);
}

static const struct world_op filled[] = {
    {WORLD_CREATE_C, 0, 0, 0}, {WORLD_PUT, 1, 9, 100}, {WORLD_CREATE_D, 0, 0, 0},
    {WORLD_PUT_D, 5, 12, 200}, {WORLD_SEARCH, 0, 0, 107},
};
enum { N_FILLED = sizeof filled / sizeof *filled };

static void check_status(mn_status st, const mn_error *err, const char *what, uint64_t n)
{
    CHECKF(st == MN_OK || st == MN_NOMEM, "%s, allocation %d failed: status %s, %s", what, (int)n,
           mn_status_name(st), err->message);
    CHECKF(st == MN_OK || strstr(err->message, "memory"), "%s, allocation %d: %s", what, (int)n,
           err->message);
}

/* Runs one op with the n-th allocation failing, for every n until none fails any more. With a fresh
 * connection each time its statements are prepared under the fault as well. */
static uint64_t every_allocation(struct bench *b, const struct world_op *op, bool sticky,
                                 bool fresh)
{
    const char *what = world_word(op->kind);
    mn_error err;
    uint64_t n = 1, step = !test_long() && test_budget(10) < 10 ? 31 : 1;
    for (;; n += step) {
        if (fresh) {
            mn_disconnect(b->w.conn);
            b->w.conn = NULL;
            CHECK_OK(mn_connect(b->w.db, &b->w.conn, &err), err);
        }
        oom_arm(n, sticky);
        mn_status st = world_do(&b->w, op, &err);
        bool struck = oom_fired() > 0;
        oom_arm(0, false);
        check_status(st, &err, what, n);
        CHECKF(struck || st == MN_OK, "%s failed by itself: %s", what, err.message);
        if (st == MN_OK)
            world_apply(&b->want, op);
        if (st != MN_OK && n % 8 == 1)
            same(b, what, n);
        if (!struck)
            return n;
        if (st != MN_OK && n % 4 == 0) { /* the same handle, and memory is there again */
            st = world_do(&b->w, op, &err);
            CHECKF(st == MN_OK, "%s after allocation %d failed: %s", what, (int)n, err.message);
            world_apply(&b->want, op);
        }
    }
}

static void each_op(const struct world_op *ops, size_t n_ops, size_t least)
{
    uint64_t total = 0;
    struct bench b;
    CHECK(oom_install());
    for (size_t i = 0; i < n_ops; i++)
        for (int mode = 0; mode < 4; mode++) {
            begin(&b, filled, N_FILLED);
            total += every_allocation(&b, &ops[i], mode & 1, mode & 2);
            end(&b);
        }
    CHECK(total > least); /* the n at which nothing failed any more, added up */
    test_note("%d allocations", (int)total);
}

TEST(writing_survives_every_failed_allocation)
{
    static const struct world_op ops[] = {
        {WORLD_PUT, 3, 11, 300},      {WORLD_PUT_D, 3, 4, 350},    {WORLD_DELETE, 5, 6, 0},
        {WORLD_SAVEPOINT, 7, 9, 400}, {WORLD_ROLLBACK, 1, 4, 450},
    };
    each_op(ops, 5, 1000);
}

TEST(searching_survives_every_failed_allocation)
{
    static const struct world_op ops[] = {{WORLD_SEARCH, 0, 0, 107}};
    each_op(ops, 1, 100);
}

/* Operations that cannot be repeated on one database: the state is made anew for each n. */
static void each_once(const struct world_op *before, size_t n_before, const struct world_op *op)
{
    const char *what = world_word(op->kind);
    uint64_t n = 1, step = test_long() ? 1 : test_budget(10) < 10 ? 151 : 11;
    CHECK(oom_install());
    for (int sticky = 0; sticky < 2; sticky++)
        for (n = 1 + (uint64_t)sticky * step / 2;; n += step) {
            struct bench b;
            mn_error err;
            begin(&b, before, n_before);
            oom_arm(n, sticky != 0);
            mn_status st = world_do(&b.w, op, &err);
            bool struck = oom_fired() > 0;
            oom_arm(0, false);
            check_status(st, &err, what, n);
            if (st != MN_OK && b.w.conn)
                same(&b, what, n);
            if (st != MN_OK) {
                st = world_do(&b.w, op, &err);
                CHECKF(st == MN_OK, "%s after allocation %d failed: %s", what, (int)n, err.message);
            }
            world_apply(&b.want, op);
            end(&b);
            if (!struck)
                break;
        }
    test_note("%s: %d", what, (int)n);
}

/* Every n here; the first collection of a database and one beside another below, by samples. */
TEST(creating_and_dropping_survive_every_failed_allocation)
{
    static const struct world_op create = {WORLD_CREATE_E, 0, 0, 0}, drop = {WORLD_DROP_E, 0, 0, 0};
    uint64_t n = 1, step = !test_long() && test_budget(10) < 10 ? 31 : 1;
    bool struck = true;
    struct bench b;
    mn_error err;
    CHECK(oom_install());
    begin(&b, filled, 2);
    for (; struck; n += step) {
        struck = false;
        for (int i = 0; i < 2; i++) {
            const struct world_op *op = i ? &drop : &create;
            oom_arm(n, n % 3 == 0);
            mn_status st = world_do(&b.w, op, &err);
            struck = struck || oom_fired() > 0;
            oom_arm(0, false);
            check_status(st, &err, world_word(op->kind), n);
            if (st)
                CHECK_OK(world_do(&b.w, op, &err), err);
        }
        if (n % 16 == 1)
            same(&b, "create and drop", n);
    }
    CHECK(n > 500);
    test_note("%d allocations", (int)n);
    end(&b);
}

TEST(creating_the_first_survives_a_failed_allocation)
{
    each_once(NULL, 0, &(struct world_op){WORLD_CREATE_C, 0, 0, 0});
    each_once(filled, 2, &(struct world_op){WORLD_CREATE_D, 0, 0, 0});
}

TEST(dropping_survives_every_failed_allocation)
{
    each_once(filled, N_FILLED, &(struct world_op){WORLD_DROP_D, 0, 0, 0});
}

TEST(opening_survives_every_failed_allocation)
{
    each_once(filled, N_FILLED, &(struct world_op){WORLD_REOPEN, 0, 0, 0});
}

/* ---- The other calls, on one handle --------------------------------------------------------- */

typedef mn_status (*call_fn)(mn_conn *conn, mn_error *err);

static mn_status call_get(mn_conn *conn, mn_error *err)
{
    mn_rows *rows = NULL;
    const mn_id ids[] = {{.id = 1}, {.id = 99}, {.id = 7}};
    mn_status st = mn_get(conn, "c", ids, 3, &rows, err);
    if (st == MN_OK && (mn_rows_count(rows) != 3 || !mn_rows_at(rows, 0) || mn_rows_at(rows, 1)))
        st = mn_fail(err, MN_CORRUPT, "get found other rows");
    mn_rows_free(rows);
    return st;
}

static mn_status call_iterate(mn_conn *conn, mn_error *err)
{
    mn_iter *it = NULL;
    const mn_row *row = NULL;
    unsigned n = 0;
    mn_status st = mn_iter_open(conn, "c", 0, &it, err);
    while (st == MN_OK && (st = mn_iter_next(it, &row, err)) == MN_OK && row)
        n++;
    mn_iter_close(it);
    if (st == MN_OK && n != 12)
        st = mn_fail(err, MN_CORRUPT, "iteration found %u rows", n);
    return st;
}

static mn_status call_list(mn_conn *conn, mn_error *err)
{
    mn_collection_info *all = NULL, one;
    size_t n = 0;
    mn_status st = mn_list(conn, &all, &n, err);
    if (st == MN_OK && n != 2)
        st = mn_fail(err, MN_CORRUPT, "list found %zu collections", n);
    mn_free_result(all);
    return st ? st : mn_info(conn, "d", &one, err);
}

static mn_status call_radius(mn_conn *conn, mn_error *err)
{
    float q[WORLD_DIM];
    mn_hit *hits = NULL;
    size_t n = 0;
    world_vector(107, WORLD_DIM, q);
    mn_status st = mn_search_radius(conn, "c", q, 1e6, 0, NULL, &hits, &n, err);
    if (st == MN_OK && n != 9)
        st = mn_fail(err, MN_CORRUPT, "radius search found %zu rows", n);
    mn_free_result(hits);
    return st;
}

static bool keep_all(void *ctx, const mn_row *row)
{
    (void)ctx;
    return row->n_attrs == 1;
}

static mn_status call_filtered(mn_conn *conn, mn_error *err)
{
    float q[2 * WORLD_DIM];
    mn_hit hits[10];
    uint32_t found[2] = {0, 0};
    const int64_t only[] = {3, 1, 2, 3};
    world_vector(107, WORLD_DIM, q);
    world_vector(103, WORLD_DIM, q + WORLD_DIM);
    mn_search_opts opts = {.filter = keep_all, .only_ids = only, .n_only_ids = 4};
    mn_status st = mn_search(conn, "c", q, 2, 5, &opts, hits, found, err);
    if (st == MN_OK && (found[0] != 3 || found[1] != 3))
        st = mn_fail(err, MN_CORRUPT, "filtered search found %u rows", found[0]);
    return st;
}

static mn_status call_verify(mn_conn *conn, mn_error *err)
{
    uint64_t findings = 0;
    mn_status st = mn_verify(conn, NULL, NULL, &findings, err);
    /* What could not be looked at for want of memory is no finding. */
    return st == MN_OK && findings ? mn_fail(err, MN_CORRUPT, "verify: %d findings", (int)findings)
                                   : st;
}

static mn_status call_stats(mn_conn *conn, mn_error *err)
{
    mn_stats_info info;
    mn_collection_stats stats;
    mn_status st = mn_stats(conn, &info, err);
    return st ? st : mn_collection_stats_get(conn, "c", &stats, err);
}

static mn_status call_backup(mn_conn *conn, mn_error *err)
{
    const char *path = test_path("copy.db");
    unlink(path);
    return mn_backup(conn, path, err);
}

TEST(every_other_call_survives_every_failed_allocation)
{
    static const struct {
        const char *name;
        call_fn fn;
    } calls[] = {
        {"get", call_get},           {"iterate", call_iterate}, {"list", call_list},
        {"radius", call_radius},     {"filter", call_filtered}, {"verify", call_verify},
        {"stats", call_stats},       {"backup", call_backup},
    };
    struct bench b;
    mn_error err;
    uint64_t step = !test_long() && test_budget(10) < 10 ? 31 : 1;
    CHECK(oom_install());
    begin(&b, filled, N_FILLED);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        for (int mode = 0; mode < 4; mode++) {
            bool slow = calls[i].fn == call_backup || calls[i].fn == call_verify;
            uint64_t n = 1, by = slow && !test_long() ? 7 * step : step;
            for (;; n += by) {
                if (mode & 2) {
                    mn_disconnect(b.w.conn);
                    CHECK_OK(mn_connect(b.w.db, &b.w.conn, &err), err);
                }
                oom_arm(n, mode & 1);
                mn_status st = calls[i].fn(b.w.conn, &err);
                bool struck = oom_fired() > 0;
                oom_arm(0, false);
                check_status(st, &err, calls[i].name, n);
                if (!struck)
                    break;
                st = calls[i].fn(b.w.conn, &err);
                CHECKF(st == MN_OK, "%s after allocation %d failed: %s", calls[i].name, (int)n,
                       err.message);
            }
            CHECK(n > 2);
        }
    end(&b);
}

/* ---- The memory cap ------------------------------------------------------------------------- */

TEST(the_cap_refuses_what_does_not_fit_and_the_rest_goes_on)
{
    enum { MANY = 60000 };
    mn_db *db;
    mn_conn *conn;
    mn_error err;
    mn_open_opts opts = {.memory_bytes = 4 << 20};
    CHECK_OK(mn_open(test_path("a.db"), &opts, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = DIM}, &err), err);
    float v[DIM] = {1, 2, 3};
    static mn_row rows[ROWS];
    for (int i = 0; i < ROWS; i++)
        rows[i] = (mn_row){.id = i + 1, .vector = v};
    CHECK_OK(mn_put(conn, "c", rows, ROWS, NULL, &err), err);
    /* The heaps of 65,536 queries with k 100 take 100 MB. */
    float *queries = calloc(MN_MAX_QUERIES, sizeof v);
    mn_hit *hits = calloc((size_t)MN_MAX_QUERIES * 100, sizeof *hits);
    uint32_t *found = calloc(MN_MAX_QUERIES, sizeof *found);
    int64_t *ids = calloc(1 << 20, sizeof *ids);
    CHECK(queries && hits && found && ids);
    mn_status st = mn_search(conn, "c", queries, 1024, 10000, NULL, hits, found, &err);
    CHECK_EQ(st, MN_NOMEM);
    CHECK_HAS(err.message, "memory");
    mn_search_opts only = {.only_ids = ids, .n_only_ids = 1 << 20};
    CHECK_EQ(mn_search(conn, "c", queries, 1, 10, &only, hits, found, &err), MN_NOMEM);
    CHECK_HAS(err.message, "under the cap");
    mn_row *many = calloc(MANY * 10, sizeof *many);
    CHECK(many);
    for (int i = 0; i < MANY * 10; i++)
        many[i] = (mn_row){.id = 1 + (i * 7919LL) % 1000003, .vector = v};
    CHECK_EQ(mn_put(conn, "c", many, MANY * 10, NULL, &err), MN_NOMEM);
    CHECK_HAS(err.message, "put fewer");
    free(many);
    /* Nothing of it stays held, nothing was written, and smaller requests are answered. */
    mn_stats_info info;
    CHECK_OK(mn_stats(conn, &info, &err), err);
    CHECK(info.memory_used - info.cache_bytes < 1 << 16);
    CHECK(info.memory_peak <= info.memory_cap);
    CHECK_OK(mn_search(conn, "c", v, 1, 10, NULL, hits, found, &err), err);
    CHECK_EQ(found[0], 10);
    mn_collection_stats stats;
    CHECK_OK(mn_collection_stats_get(conn, "c", &stats, &err), err);
    CHECK_EQ(stats.rows, ROWS);
    free(queries);
    free(hits);
    free(found);
    free(ids);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

TEST_MAIN
