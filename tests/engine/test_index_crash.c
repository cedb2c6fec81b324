/* The hybrid index on a simulated disk. A build, folds in memory, their publishing and a rebuild
 * are cut at every write: what comes back verifies, answers right and folds on. A flush that fails
 * stops no later fold. Each call to the disk and each allocation of a fold, of a load and of a
 * search whose vectors stay in the sidecar fails once, or from then on: a status or the right
 * answer, nothing lost, and the handle goes on. */
#include "tests/engine/trouble.h"

#include "tests/sim/oom.h"
#include "tests/sim/sim.h"

enum { DIM = 8, FIRST = 60, LAST = 70, K = 5 };

/* Row `id` after `puts` puts of it. */
static void row_vector(int64_t id, int puts, float *out)
{
    indexed_vector(MN_F32, DIM, 9, (uint64_t)(id + 1000 * puts), out);
}

struct world {
    mn_db *db;
    mn_conn *conn;
    sqlite3 *plain;
    const char *vfs;
    struct brute b;
};

static mn_status world_open(struct world *w, struct sim_proc *p, const mn_open_opts *opts,
                            mn_error *err)
{
    static unsigned opens; /* codes are in memory, or not, in turn */
    const struct db_stage stage = {.vfs = sim_vfs(p),
                                   .fs = sim_fs(p),
                                   .limits = {.min_rows = 20,
                                              .fold_pending = 5,
                                              .cold = true,
                                              .away = opens++ % 2}};
    mn_open_opts o = opts ? *opts : (mn_open_opts){0};
    o.flags |= MN_OPEN_NO_BACKGROUND;
    *w = (struct world){.vfs = sim_vfs(p),
                        .b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM}};
    mn_status st = db_open_on("app.db", &o, &stage, &w->db, err);
    return st ? st : mn_connect(w->db, &w->conn, err);
}

static void world_close(struct world *w)
{
    brute_free(&w->b);
    mn_disconnect(w->conn);
    mn_close(w->db, NULL);
    *w = (struct world){0};
}

/* ---- The script ------------------------------------------------------------------------------ */

/* Folds in memory write nothing: what is cut are the writes around them, and their publishing. */
enum op {
    OP_FILL, OP_BUILD, OP_CHANGE, OP_AHEAD, OP_FOLD, OP_SHRINK, OP_AHEAD_2, OP_MORE, OP_AHEAD_3,
    OP_SETTLE, OP_REBUILD, N_OPS
};

static mn_status put_rows(mn_conn *conn, int64_t from, int64_t to, int puts, mn_error *err)
{
    float vectors[LAST + 1][DIM];
    mn_row rows[LAST + 1];
    size_t n = 0;
    for (int64_t id = from; id <= to; id++, n++) {
        row_vector(id, puts, vectors[n]);
        rows[n] = (mn_row){.id = id, .vector = vectors[n]};
    }
    return mn_put(conn, "c", rows, n, NULL, err);
}

static mn_status delete_rows(mn_conn *conn, int64_t from, int64_t to, mn_error *err)
{
    mn_id ids[LAST + 1];
    size_t n = 0;
    for (int64_t id = from; id <= to; id++)
        ids[n++] = (mn_id){.id = id};
    return mn_delete(conn, "c", ids, n, NULL, err);
}

/* What is pending is searched, and folded in memory; the search loads the index for it. */
static mn_status fold_ahead(mn_conn *conn, mn_error *err)
{
    float query[DIM];
    mn_hit hit;
    uint32_t found;
    row_vector(400, 1, query);
    mn_status st = mn_search(conn, "c", query, 1, 1, NULL, &hit, &found, err);
    if (st == MN_OK && !trouble_fold_ahead(conn))
        return mn_fail(err, MN_MISUSE, "nothing was folded in memory");
    return st;
}

static mn_status do_op(mn_conn *conn, enum op op, mn_error *err)
{
    mn_status st = MN_OK;
    switch (op) {
    case OP_FILL:
        st = mn_create(conn, "c", &(mn_collection_opts){.dim = DIM}, err);
        return st ? st : put_rows(conn, 1, FIRST, 1, err);
    case OP_CHANGE:
        return put_rows(conn, FIRST - 10, LAST, 2, err);
    case OP_SHRINK:
        return delete_rows(conn, 1, 12, err);
    case OP_MORE:
        return put_rows(conn, 20, 30, 3, err);
    case OP_AHEAD:
    case OP_AHEAD_2:
    case OP_AHEAD_3:
        return fold_ahead(conn, err);
    case OP_REBUILD:
        return mn_rebuild(conn, "c", err);
    default:
        return mn_fold(conn, "c", err);
    }
}

/* How often row `id` was put when so many operations were done; 0: it is not there. */
static int puts_of(int64_t id, unsigned ops)
{
    if (ops > OP_SHRINK && id <= 12)
        return 0;
    if (ops > OP_MORE && id >= 20 && id <= 30)
        return 3;
    if (ops > OP_CHANGE && id >= FIRST - 10)
        return 2;
    return ops > OP_FILL && id <= FIRST;
}

/* Whether the rows are those after so many operations. */
static bool is_after(const struct brute *b, unsigned ops)
{
    size_t n = 0;
    for (int64_t id = 1; id <= LAST; id++) {
        float want[DIM];
        int puts = puts_of(id, ops);
        if (puts == 0)
            continue;
        row_vector(id, puts, want);
        if (n == b->n || b->ids[n] != id ||
            memcmp(b->vectors + n * sizeof want, want, sizeof want) != 0)
            return false;
        n++;
    }
    return n == b->n;
}

/* Reads the rows past the engine. False: there is no table yet. */
static bool read_rows(struct world *w)
{
    sqlite3 *db = NULL;
    CHECK(sqlite3_open_v2("app.db", &db, SQLITE_OPEN_READWRITE, w->vfs) == SQLITE_OK);
    bool there = sqlite3_exec(db, "SELECT id FROM c LIMIT 1", NULL, NULL, NULL) == SQLITE_OK;
    w->b.n = 0;
    if (there)
        brute_load(&w->b, db, "c", "vector");
    sqlite3_close(db);
    return there;
}

static const char *check_answers(struct world *w, struct indexed_recall *sum)
{
    static const double recalls[] = {1.0, 0.95};
    const char *wrong = NULL;
    for (int i = 0; i < 4 && !wrong; i++) {
        float query[DIM];
        row_vector(500 + i, 1, query);
        struct indexed_query q = {
            .name = "c", .vector = query, .k = K, .opts.recall = recalls[i % 2]};
        wrong = indexed_check(w->conn, &w->b, &q, sum);
    }
    return wrong;
}

/* Answers and verify, then a fold, and both again by the index. NULL, or what is wrong. */
static const char *check_whole(struct world *w)
{
    struct indexed_recall sum = {0};
    mn_error err = {0};
    const char *wrong = check_answers(w, &sum);
    if (!wrong)
        wrong = indexed_verify(w->conn);
    if (!wrong && mn_fold(w->conn, "c", &err))
        wrong = brute_says("the next fold: %s", err.message);
    sum = (struct indexed_recall){0};
    if (!wrong)
        wrong = check_answers(w, &sum);
    if (!wrong && w->b.n >= 20 && sum.by_index == 0)
        wrong = "after the next fold the index does not answer";
    return wrong ? wrong : indexed_verify(w->conn);
}

/* ---- Power cuts ------------------------------------------------------------------------------ */

static struct sim *run_script(void)
{
    struct sim *disk = sim_create(NULL);
    struct sim_proc *p = sim_start(disk);
    struct world w;
    mn_error err;
    CHECK_OK(world_open(&w, p, NULL, &err), err);
    for (unsigned i = 0; i < N_OPS; i++) {
        sim_begin(disk, i + 1);
        CHECK_OK(do_op(w.conn, (enum op)i, &err), err);
        sim_ack(disk, i + 1);
    }
    world_close(&w);
    sim_stop(p);
    return disk;
}

static bool check_state(void *ctx, const struct sim_state *st, char *why, size_t room)
{
    struct sim_proc *p = sim_start(st->disk);
    struct world w;
    mn_error err = {0};
    unsigned acked = 0, flying = 0;
    const char *wrong = NULL;
    (void)ctx;
    for (uint32_t i = 0; i < st->n_acked; i++)
        acked = st->acked[i] > acked ? st->acked[i] : acked;
    for (uint32_t i = 0; i < st->n_in_flight; i++)
        flying = st->in_flight[i] > flying ? st->in_flight[i] : flying;
    if (world_open(&w, p, NULL, &err))
        wrong = brute_says("open: %s", err.message);
    else if (!read_rows(&w))
        wrong = acked ? "there is no table" : NULL;
    else if (!is_after(&w.b, acked) && !(flying && is_after(&w.b, flying)) && acked)
        wrong = brute_says("the rows are not those after %u operations", acked);
    else
        wrong = check_whole(&w);
    snprintf(why, room, "%s", wrong ? wrong : "");
    world_close(&w);
    sim_stop(p);
    return !wrong;
}

TEST(a_build_and_folds_are_cut_at_every_write)
{
    struct sim *disk = run_script();
    struct sim_report report;
    struct sim_enum_opts opts = {.name = "index",
                                 .random = test_long() ? 12 : 1,
                                 .each_limit = test_long() ? 60 : 2,
                                 .nested = test_long() ? 10 : 0,
                                 .cut_stride = test_long() ? 1 : test_budget(10) < 10 ? 41 : 2};
    sim_enumerate(disk, &opts, check_state, NULL, &report);
    test_note("log %u, %u cuts, %llu states", sim_stats(disk).log, report.cuts,
              (unsigned long long)report.checked);
    sim_destroy(disk);
    CHECKF(report.violations == 0, "%s", report.first);
    CHECK(getenv("MNEME_SIM") || report.checked > 30);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

/* What is done under the fault. */
enum task { TASK_BUILD, TASK_FOLD, TASK_SETTLE, TASK_LOAD, TASK_SEARCH, N_TASKS };
static const char *const task_words[] = {"build", "fold", "settle", "load and search", "search"};

struct bench {
    struct sim *disk;
    struct sim_proc *p;
    struct world w;
    unsigned ops;
};

static void bench_begin(struct bench *b, enum task task, bool count_memory)
{
    mn_error err;
    const mn_open_opts opts = {.allocator = count_memory ? oom_hooks() : NULL};
    *b = (struct bench){.disk = sim_create(NULL)};
    b->p = sim_start(b->disk);
    b->ops = task == TASK_BUILD ? OP_BUILD : task == TASK_FOLD ? OP_AHEAD : OP_FOLD;
    CHECK_OK(world_open(&b->w, b->p, &opts, &err), err);
    for (unsigned i = 0; i < b->ops; i++)
        CHECK_OK(do_op(b->w.conn, (enum op)i, &err), err);
    CHECK(read_rows(&b->w));
    if (task == TASK_SETTLE) {
        CHECK_EQ(b->ops, OP_AHEAD + 1); /* all of it is in memory, and ahead */
    } else if (task != TASK_SEARCH) { /* nothing of the index is */
        world_close(&b->w);
        CHECK_OK(world_open(&b->w, b->p, &opts, &err), err);
        CHECK(read_rows(&b->w));
    } else {
        struct indexed_recall sum = {0};
        const char *wrong = check_answers(&b->w, &sum);
        CHECKF(!wrong, "%s", wrong);
    }
}

static mn_status run_task(struct bench *b, enum task task, mn_error *err)
{
    float query[DIM];
    mn_hit hits[K];
    uint32_t found;
    if (task <= TASK_SETTLE)
        return mn_fold(b->w.conn, "c", err);
    row_vector(600, 1, query);
    mn_status st = mn_search(b->w.conn, "c", query, 1, K, NULL, hits, &found, err);
    if (st)
        return st;
    struct brute *rows = &b->w.b;
    struct indexed_query q = {.name = "c", .vector = query, .k = K};
    const char *wrong = found == K ? indexed_check_order(rows, &q, hits, found) : "too few hits";
    CHECKF(!wrong, "under a fault: %s", wrong);
    return MN_OK;
}

/* The fault is over: the same handle folds, also one whose flush failed. */
static void bench_end(struct bench *b, const char *what)
{
    mn_error err = {0};
    mn_status st = mn_fold(b->w.conn, "c", &err);
    struct indexed_recall sum = {0};
    CHECKF(st == MN_OK, "%s: the same handle later: %s", what, err.message);
    const char *wrong = check_answers(&b->w, &sum);
    CHECKF(!wrong, "%s: the same handle later: %s", what, wrong);
    CHECKF(sum.by_index > 0, "%s: the same handle later: not by the index", what);
    world_close(&b->w);
    CHECK_OK(world_open(&b->w, b->p, NULL, &err), err);
    CHECK(read_rows(&b->w));
    CHECKF(is_after(&b->w.b, b->ops), "%s: rows are lost", what);
    wrong = check_whole(&b->w);
    CHECKF(!wrong, "%s: opened again: %s", what, wrong);
    world_close(&b->w);
    sim_stop(b->p);
    sim_destroy(b->disk);
}

static bool survives_fault(enum task task, enum sim_fault fault, uint64_t n, enum sim_mode mode)
{
    struct bench b;
    mn_error err = {0};
    char what[100];
    bench_begin(&b, task, false);
    sim_arm(b.disk, fault, SIM_ALL, n, mode);
    mn_status st = run_task(&b, task, &err);
    bool struck = sim_fired(b.disk) > 0;
    sim_arm(b.disk, fault, 0, 0, mode);
    snprintf(what, sizeof what, "%s, fault %d at call %d, mode %d", task_words[task], (int)fault,
             (int)n, (int)mode);
    CHECKF(st == MN_OK || struck, "%s: failed by itself: %s", what, err.message);
    CHECKF(st == MN_OK || st == MN_IO || st == MN_FULL || st == MN_POISONED || st == MN_BUSY,
           "%s: status %s, %s", what, mn_status_name(st), err.message);
    CHECKF(st == MN_OK || strstr(err.message, "app.db"), "%s: does not name the file: %s", what,
           err.message);
    bench_end(&b, what);
    return struck;
}

TEST(every_call_to_the_disk_may_fail)
{
    static const enum sim_fault faults[] = {SIM_EIO, SIM_ENOSPC, SIM_SHORT};
    bool tenth = !test_long() && test_budget(10) < 10;
    uint64_t runs = 0;
    for (int task = 0; task < N_TASKS; task++)
        for (size_t k = 0; k < 3; k++)
            for (int mode = 0; mode < 2; mode++)
                for (uint64_t n = 1; survives_fault((enum task)task, faults[k], n,
                                                    (enum sim_mode)mode);
                     n += test_long() ? 1 : tenth ? 41 : 5)
                    runs++;
    CHECK(runs > 20);
    test_note("%d runs", (int)runs);
}

/* What a power cut would leave of the disk as it is now: all of what is not settled, or nothing. */
static void check_image(const struct bench *b, uint32_t number, const char *what)
{
    const struct sim_enum_opts opts = {.name = "flush"};
    struct sim *disk = sim_image(b->disk, &opts, sim_stats(b->disk).log, number);
    CHECK(disk);
    struct sim_proc *p = sim_start(disk);
    struct world w;
    mn_error err = {0};
    CHECK_OK(world_open(&w, p, NULL, &err), err);
    CHECK(read_rows(&w));
    CHECKF(is_after(&w.b, b->ops), "%s, cut: rows are lost", what);
    const char *wrong = check_whole(&w);
    CHECKF(!wrong, "%s, cut: %s", what, wrong);
    world_close(&w);
    sim_stop(p);
    sim_destroy(disk);
}

static mn_status survives_failed_flush(enum task task, uint64_t n, enum sim_mode mode, bool *struck)
{
    struct bench b;
    mn_error err = {0};
    char what[100];
    bench_begin(&b, task, false);
    sim_arm(b.disk, SIM_EIO, SIM_SYNC, n, mode);
    mn_status st = run_task(&b, task, &err);
    for (int again = 0; again < 3 && mode == SIM_STICKY; again++) {
        struct indexed_recall sum = {0};
        const char *wrong = check_answers(&b.w, &sum);
        CHECKF(!wrong, "%s at flush %d: %s", task_words[task], (int)n, wrong);
        mn_error later;
        mn_status ignored = run_task(&b, task, &later);
        (void)ignored;
    }
    *struck = sim_fired(b.disk) > 0;
    sim_arm(b.disk, SIM_EIO, 0, 0, mode);
    snprintf(what, sizeof what, "%s, flush %d fails, mode %d", task_words[task], (int)n, (int)mode);
    CHECKF(st == MN_OK || *struck, "%s: failed by itself: %s", what, err.message);
    CHECKF(st == MN_OK || st == MN_IO || st == MN_POISONED, "%s: %s", what, err.message);
    mn_status later = mn_fold(b.w.conn, "c", &err);
    CHECKF(later == MN_OK, "%s: the next fold: %s", what, err.message);
    check_image(&b, 0, what);
    check_image(&b, 1, what);
    bench_end(&b, what);
    return st;
}

TEST(a_flush_that_failed_stops_no_later_fold)
{
    unsigned poisoned = 0;
    for (int task = TASK_BUILD; task <= TASK_SETTLE; task++)
        for (int mode = 0; mode < 2; mode++) {
            bool struck = true;
            for (uint64_t n = 1; struck; n++)
                poisoned += survives_failed_flush((enum task)task, n, (enum sim_mode)mode,
                                                  &struck) == MN_POISONED;
        }
    CHECK(poisoned >= 6);
}

/* What a publish wrote that then failed, in the place and under the number of another process's: it
 * must not be taken for that one's. */
static bool survives_another_publish(uint64_t n, bool fold_first)
{
    struct bench b;
    struct world other;
    mn_error err = {0};
    bench_begin(&b, TASK_SETTLE, false);
    sim_arm(b.disk, SIM_EIO, SIM_SYNC, n, SIM_ONCE);
    mn_status st = mn_fold(b.w.conn, "c", &err);
    bool struck = sim_fired(b.disk) > 0;
    sim_arm(b.disk, SIM_EIO, 0, 0, SIM_ONCE);
    CHECKF((st == MN_OK) != struck, "flush %d: %s", (int)n, err.message);
    struct sim_proc *p = sim_start(b.disk);
    CHECK_OK(world_open(&other, p, NULL, &err), err);
    CHECK_OK(put_rows(other.conn, 40, FIRST - 11, 4, &err), err);
    CHECK_OK(put_rows(other.conn, 13, 16, 4, &err), err);
    CHECK_OK(mn_fold(other.conn, "c", &err), err);
    world_close(&other);
    sim_stop(p);
    struct indexed_recall sum = {0};
    CHECK_OK(put_rows(b.w.conn, 31, 33, 5, &err), err); /* so that there is something to fold */
    CHECK(read_rows(&b.w));
    for (int i = 0; i < 4; i++) {
        if (i == (fold_first ? 0 : 2))
            CHECK_OK(mn_fold(b.w.conn, "c", &err), err);
        const char *wrong = check_answers(&b.w, &sum);
        CHECKF(!wrong, "flush %d: %s", (int)n, wrong);
    }
    CHECK(sum.by_index > 0);
    const char *wrong = indexed_verify(b.w.conn);
    CHECKF(!wrong, "flush %d: %s", (int)n, wrong);
    world_close(&b.w);
    sim_stop(b.p);
    sim_destroy(b.disk);
    return struck;
}

TEST(a_publish_that_failed_is_not_taken_for_another_processes)
{
    uint64_t n = 1;
    while (survives_another_publish(n, true) && survives_another_publish(n, false))
        n++;
    CHECK(n > 2);
}

static bool survives_no_memory(enum task task, uint64_t n, bool sticky)
{
    struct bench b;
    mn_error err = {0};
    char what[100];
    bench_begin(&b, task, true);
    oom_arm(n, sticky);
    mn_status st = run_task(&b, task, &err);
    bool struck = oom_fired() > 0;
    oom_arm(0, false);
    snprintf(what, sizeof what, "%s, allocation %d, sticky %d", task_words[task], (int)n, sticky);
    CHECKF(st == MN_OK || struck, "%s: failed by itself: %s", what, err.message);
    CHECKF(st == MN_OK || st == MN_NOMEM, "%s: status %s, %s", what, mn_status_name(st),
           err.message);
    CHECKF(st == MN_OK || strstr(err.message, "memory"), "%s: %s", what, err.message);
    bench_end(&b, what);
    CHECKF(oom_balance() == 0, "%s: %d blocks leaked", what, (int)oom_balance());
    return struck;
}

TEST(every_allocation_may_fail)
{
    bool tenth = !test_long() && test_budget(10) < 10;
    uint64_t runs = 0;
    CHECK(oom_install());
    for (int task = 0; task < N_TASKS; task++)
        for (int sticky = 0; sticky < 2; sticky++)
            for (uint64_t n = 1; survives_no_memory((enum task)task, n, sticky);
                 n += test_long() ? 1 : tenth ? 211 : 37)
                runs++;
    CHECK(runs > 20);
    test_note("%d runs", (int)runs);
}

TEST_MAIN
