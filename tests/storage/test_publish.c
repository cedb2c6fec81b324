/* Publishing on the simulated disk: cut everywhere, faults at every call, readers in other
 * processes, folders that die. What must hold: the generation is the old one or the new one, never
 * half; no extent that a live snapshot or a recovered catalog names is ever bad. */
#include "tests/test.h"

#include "storage/base/error.h"
#include "storage/base/mutate.h"
#include "tests/sim/minifold.h"
#include "tests/sim/sim.h"

static void open_in(struct mini *m, struct sim_proc *p)
{
    mn_error err = {0};
    CHECK_OK(mini_open(m, sim_fs(p), sim_vfs(p), "app.db", true, &err), err);
}

static void check_all(struct mini *m)
{
    char why[400];
    CHECKF(mini_check(m, NULL, why, sizeof why), "%s", why);
}

static void fold(struct mini *m, uint32_t first, uint32_t end, uint32_t version)
{
    mn_error err = {0};
    CHECK_OK(mini_fold(m, first, end, version, &err), err);
}

static bool reclaim(struct mini *m)
{
    mn_error err = {0};
    bool complete;
    CHECK_OK(lease_reclaim(m->l, &complete, &err), err);
    return complete;
}

static void start_world(struct sim **s, struct sim_proc **p, struct mini *m)
{
    mn_error err = {0};
    *s = sim_create(NULL);
    *p = sim_start(*s);
    open_in(m, *p);
    CHECK_EQ(m->found.state, SIDECAR_NONE);
    CHECK_OK(mini_build(m, false, &err), err);
    CHECK_OK(mini_lease(m, &err), err);
}

/* ---- Without trouble ------------------------------------------------------------------------- */

TEST(a_publish_is_seen_by_others_and_after_reopening)
{
    struct sim *s;
    struct sim_proc *p, *q;
    struct mini m, r;
    start_world(&s, &p, &m);
    q = sim_start(s);
    fold(&m, 0, 10, 1);
    open_in(&r, q);
    CHECK_EQ(r.found.state, SIDECAR_GOOD);
    CHECK_STR(r.found.message, "");
    CHECK_EQ(mini_generation(&r), 1);
    check_all(&r);
    fold(&m, 3, 6, 2);
    fold(&m, 8, 10, 0);
    CHECK_EQ(mini_generation(&r), 3);
    CHECK_EQ(mini_int(&r, "SELECT count(*) FROM mneme_extents"), 8);
    check_all(&r);
    check_all(&m);
    mini_close(&m);
    open_in(&m, p);
    CHECK_EQ(m.found.state, SIDECAR_GOOD);
    check_all(&m);
    mini_close(&r);
    mini_close(&m);
    sim_stop(q);
    sim_stop(p);
    sim_destroy(s);
}

TEST(replaced_space_is_used_again)
{
    struct sim *s;
    struct sim_proc *p;
    struct mini m;
    struct lease_space space;
    uint64_t after_three = 0;
    start_world(&s, &p, &m);
    for (uint32_t v = 1; v <= 30; v++) {
        fold(&m, 0, 20, v);
        CHECK(reclaim(&m));
        lease_space(m.l, &space);
        CHECK_EQ(space.deferred_blocks, 0);
        if (v == 3)
            after_three = space.file_blocks;
    }
    CHECKF(space.file_blocks <= after_three + after_three / 4, "%" PRIu64 " blocks, were %" PRIu64,
           space.file_blocks, after_three);
    /* Everything goes: the file shrinks to its head and the ballast. */
    fold(&m, 0, 20, 0);
    mn_error err = {0};
    CHECK(reclaim(&m));
    CHECK_OK(lease_shrink(m.l, true, &err), err);
    lease_space(m.l, &space);
    CHECK_EQ(space.file_blocks, SIDECAR_HEAD_BLOCKS + 64);
    fold(&m, 0, 20, 31);
    check_all(&m);
    mini_close(&m);
    sim_stop(p);
    sim_destroy(s);
}

TEST(an_aborted_publish_leaves_nothing)
{
    struct sim *s;
    struct sim_proc *p;
    struct mini m;
    struct lease_space before, after;
    mn_error err = {0};
    start_world(&s, &p, &m);
    fold(&m, 0, 5, 1);
    CHECK(reclaim(&m));
    lease_space(m.l, &before);
    for (int step = 0; step < 3; step++) {
        CHECK_OK(publish_open(m.l, &err), err);
        CHECK_OK(mini_write(&m, 0, 5, 2, &err), err);
        if (step > 0)
            CHECK_OK(publish_flush(m.l, &err), err);
        if (step > 1)
            CHECK_OK(mini_begin(&m, 0, 5, 2, &err), err);
        publish_abort(m.l);
        check_all(&m);
        CHECK_EQ(mini_generation(&m), 1);
    }
    CHECK(reclaim(&m));
    lease_space(m.l, &after);
    CHECK_EQ(after.free_blocks, before.free_blocks);
    fold(&m, 0, 5, 3);
    check_all(&m);
    mini_close(&m);
    sim_stop(p);
    sim_destroy(s);
}

TEST(calls_out_of_order_are_refused)
{
    struct sim *s;
    struct sim_proc *p;
    struct mini m;
    mn_error err = {0};
    struct extent_ref ref;
    struct extent_spec spec = {.collection = 1, .kind = 1, .payload_len = 1};
    start_world(&s, &p, &m);
    CHECK_EQ(publish_write(m.l, &spec, "x", NULL, &ref, &err), MN_MISUSE);
    CHECK_EQ(publish_begin(m.l, &err), MN_MISUSE);
    CHECK_EQ(publish_drop(m.l, 4, &err), MN_MISUSE);
    CHECK_EQ(publish_commit(m.l, &err), MN_MISUSE);
    CHECK_EQ(publish_flush(m.l, &err), MN_MISUSE);
    mn_error_clear(&err);
    CHECK_OK(publish_open(m.l, &err), err);
    CHECK_EQ(publish_open(m.l, &err), MN_MISUSE);
    CHECK_EQ(publish_begin(m.l, &err), MN_MISUSE); /* not flushed */
    publish_abort(m.l);
    publish_abort(m.l);
    mini_close(&m);
    sim_stop(p);
    sim_destroy(s);
}

/* ---- Readers --------------------------------------------------------------------------------- */

static void begin_read(struct mini *r)
{
    CHECK_EQ(sqlite3_exec(r->db, "BEGIN; SELECT count(*) FROM t", NULL, NULL, NULL), SQLITE_OK);
}

static void end_read(struct mini *r)
{
    CHECK_EQ(sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
}

/* A reader of another process keeps its snapshot through ten publishes: not a block of it is
 * touched. When it ends, the space is used. */
TEST(no_block_of_a_live_snapshot_is_reused)
{
    struct sim *s;
    struct sim_proc *p, *q;
    struct mini m, r;
    struct lease_space space;
    start_world(&s, &p, &m);
    q = sim_start(s);
    fold(&m, 0, 20, 1);
    CHECK(reclaim(&m));
    open_in(&r, q);
    begin_read(&r);
    for (uint32_t v = 2; v < 12; v++) {
        fold(&m, 0, 20, v);
        CHECKF(!reclaim(&m) || v == 2, "version %u", v); /* at first the log held nothing newer */
        check_all(&r);
        check_all(&m);
    }
    lease_space(m.l, &space);
    CHECK(space.deferred_blocks > 100);
    end_read(&r);
    CHECK(reclaim(&m));
    lease_space(m.l, &space);
    CHECK_EQ(space.deferred_blocks, 0);
    uint64_t blocks = space.file_blocks;
    for (uint32_t v = 12; v < 20; v++) {
        fold(&m, 0, 20, v);
        CHECK(reclaim(&m));
    }
    lease_space(m.l, &space);
    CHECK_EQ(space.file_blocks, blocks);
    check_all(&r);
    mini_close(&r);
    mini_close(&m);
    sim_stop(q);
    sim_stop(p);
    sim_destroy(s);
}

/* The same with a folder that dies and another one that knows nothing of what was deferred. */
TEST(a_new_folder_spares_the_snapshots_of_the_old_ones_time)
{
    for (int killed = 0; killed < 2; killed++) {
        struct sim *s;
        struct sim_proc *p, *q, *f;
        struct mini m, r, n;
        mn_error err = {0};
        start_world(&s, &p, &m);
        q = sim_start(s);
        f = sim_start(s);
        fold(&m, 0, 20, 1);
        CHECK(reclaim(&m));
        open_in(&r, q);
        begin_read(&r);
        fold(&m, 0, 20, 2);
        if (killed) {
            sim_kill(p);
        } else {
            lease_drop(m.l);
            m.l = NULL;
        }
        open_in(&n, f);
        CHECK_OK(mini_lease(&n, &err), err);
        for (uint32_t v = 3; v < 9; v++) {
            fold(&n, 0, 20, v);
            reclaim(&n);
            check_all(&r);
        }
        end_read(&r);
        CHECK(reclaim(&n));
        check_all(&r);
        mini_close(&r);
        mini_close(&n);
        mini_close(&m);
        sim_stop(f);
        sim_stop(q);
        sim_stop(p);
        sim_destroy(s);
    }
}

/* Readers come and go at random; whoever is there sees sound extents. */
TEST(random_readers_never_meet_a_bad_extent)
{
    struct sim *s;
    struct sim_proc *p, *q[4];
    struct mini m, r[4];
    bool reading[4] = {false};
    struct test_rng rng = {11};
    mn_error err = {0};
    size_t steps = test_budget(250);
    start_world(&s, &p, &m);
    for (int i = 0; i < 4; i++) {
        q[i] = sim_start(s);
        open_in(&r[i], q[i]);
    }
    for (uint32_t v = 1; v <= steps; v++) {
        uint32_t first = (uint32_t)test_below(&rng, 12);
        int i = (int)test_below(&rng, 4);
        fold(&m, first, first + 1 + (uint32_t)test_below(&rng, 6), test_below(&rng, 9) ? v : 0);
        if (reading[i])
            end_read(&r[i]);
        else
            begin_read(&r[i]);
        reading[i] = !reading[i];
        if (test_below(&rng, 2))
            reclaim(&m);
        if (test_below(&rng, 20) == 0)
            CHECK_OK(lease_shrink(m.l, v % 2, &err), err);
        if (test_below(&rng, 15) == 0) {
            lease_drop(m.l);
            CHECK_OK(mini_lease(&m, &err), err);
        }
        for (int j = 0; j < 4; j++)
            if (reading[j])
                check_all(&r[j]);
    }
    struct lease_space space;
    lease_space(m.l, &space);
    test_note("%zu folds, %" PRIu64 " blocks", steps, space.file_blocks);
    for (int i = 0; i < 4; i++)
        mini_close(&r[i]);
    mini_close(&m);
    for (int i = 0; i < 4; i++)
        sim_stop(q[i]);
    sim_stop(p);
    sim_destroy(s);
}

/* ---- Folders --------------------------------------------------------------------------------- */

TEST(only_one_folds)
{
    struct sim *s;
    struct sim_proc *p, *q;
    struct mini m, n;
    mn_error err = {0};
    start_world(&s, &p, &m);
    q = sim_start(s);
    open_in(&n, q);
    CHECK_EQ(mini_lease(&n, &err), MN_BUSY);
    CHECK_HAS(err.message, "another process");
    mn_error_clear(&err);
    struct lease *second;
    CHECK_EQ(lease_take(m.db, m.s, m.alloc, &second, &err), MN_BUSY);
    CHECK_HAS(err.message, "another thread");
    mn_error_clear(&err);
    sim_kill(p); /* its lock goes with it */
    CHECK_OK(mini_lease(&n, &err), err);
    fold(&n, 0, 3, 1);
    check_all(&n);
    mini_close(&n);
    mini_close(&m);
    sim_stop(q);
    sim_stop(p);
    sim_destroy(s);
}

/* A folder that was stopped, lost its lease without noticing, and goes on. */
TEST(a_folder_that_lost_its_lease_publishes_nothing)
{
    struct sim *s;
    struct sim_proc *p, *q;
    struct mini m, n;
    mn_error err = {0};
    start_world(&s, &p, &m);
    q = sim_start(s);
    fold(&m, 0, 3, 1);
    CHECK_OK(publish_open(m.l, &err), err);
    CHECK_OK(mini_write(&m, 0, 3, 2, &err), err);
    CHECK_OK(publish_flush(m.l, &err), err);
    sidecar_unlock(m.s); /* as if the lock were lost */
    open_in(&n, q);
    CHECK_OK(mini_lease(&n, &err), err);
    CHECK_EQ(mini_begin(&m, 0, 3, 2, &err), MN_CONFLICT);
    CHECK_HAS(err.message, "took the lease");
    publish_abort(m.l);
    mn_error_clear(&err);
    CHECK_EQ(publish_open(m.l, &err), MN_CONFLICT);
    fold(&n, 0, 3, 3);
    check_all(&n);
    mini_close(&n);
    mini_close(&m);
    sim_stop(q);
    sim_stop(p);
    sim_destroy(s);
}

TEST(a_collection_dropped_meanwhile_ends_the_publish)
{
    struct sim *s;
    struct sim_proc *p, *q;
    struct mini m, n;
    mn_error err = {0};
    start_world(&s, &p, &m);
    q = sim_start(s);
    open_in(&n, q);
    fold(&m, 0, 6, 1);
    CHECK_OK(publish_open(m.l, &err), err);
    CHECK_OK(mini_write(&m, 0, 3, 2, &err), err);
    CHECK_OK(publish_flush(m.l, &err), err);
    CHECK_EQ(sqlite3_exec(n.db, "BEGIN IMMEDIATE; DELETE FROM t", NULL, NULL, NULL), SQLITE_OK);
    CHECK_EQ(publish_begin(m.l, &err), MN_BUSY);
    mn_error_clear(&err);
    CHECK_OK(extents_drop_collection(n.db, 1, &err), err);
    CHECK_EQ(sqlite3_exec(n.db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    CHECK_EQ(mini_begin(&m, 0, 3, 2, &err), MN_CONFLICT);
    CHECK_HAS(err.message, "begin again");
    publish_abort(m.l);
    check_all(&n);
    fold(&m, 0, 4, 3);
    check_all(&n);
    CHECK(reclaim(&m));
    struct lease_space space;
    lease_space(m.l, &space);
    CHECK_EQ(space.deferred_blocks, 0);
    mini_close(&n);
    mini_close(&m);
    sim_stop(q);
    sim_stop(p);
    sim_destroy(s);
}

TEST(a_sidecar_built_anew_ends_the_lease)
{
    struct sim *s;
    struct sim_proc *p, *q;
    struct mini m, n;
    mn_error err = {0};
    start_world(&s, &p, &m);
    q = sim_start(s);
    fold(&m, 0, 6, 1);
    CHECK_EQ(io_unlink(sim_fs(q), "app.db-mneme"), 0);
    open_in(&n, q);
    CHECK_EQ(n.found.state, SIDECAR_MISSING);
    CHECK_OK(mini_build(&n, false, &err), err);
    CHECK_EQ(mini_fold(&m, 0, 6, 2, &err), MN_CONFLICT);
    CHECK_HAS(err.message, "built anew");
    mn_error_clear(&err);
    CHECK_OK(mini_lease(&n, &err), err);
    fold(&n, 0, 6, 3);
    check_all(&n);
    CHECK_EQ(mini_generation(&n), 3);
    mini_close(&n);
    mini_close(&m);
    sim_stop(q);
    sim_stop(p);
    sim_destroy(s);
}

/* ---- Not in WAL mode ------------------------------------------------------------------------- */

TEST(without_a_log_nothing_is_folded)
{
    struct sim *s;
    struct sim_proc *p;
    struct mini m;
    mn_error err = {0};
    start_world(&s, &p, &m);
    fold(&m, 0, 5, 1);
    lease_drop(m.l);
    m.l = NULL;
    CHECK_EQ(sqlite3_exec(m.db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL), SQLITE_OK);
    CHECK_EQ(mini_lease(&m, &err), MN_READONLY);
    CHECK_HAS(err.message, "WAL");
    check_all(&m);
    mini_close(&m);
    sim_stop(p);
    sim_destroy(s);
}

TEST(a_checkpoint_that_knows_no_log_is_not_complete)
{
    struct sim *s;
    struct sim_proc *p;
    struct mini m;
    struct lease_space space;
    start_world(&s, &p, &m);
    fold(&m, 0, 5, 1);
    CHECK(reclaim(&m));
    fold(&m, 0, 5, 2);
    CHECK_EQ(sqlite3_exec(m.db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL), SQLITE_OK);
    CHECK(!reclaim(&m));
    lease_space(m.l, &space);
    CHECK(space.deferred_blocks > 0);
    mini_close(&m);
    sim_stop(p);
    sim_destroy(s);
}

/* ---- Power cuts ------------------------------------------------------------------------------ */

struct oracle {
    uint64_t by_state[SIDECAR_DAMAGED + 1];
    uint64_t phantoms; /* states of generation 2, in tests where its commit failed */
};

/* A fold whose generation is told to the disk before and after. */
static mn_status acked_fold(struct sim *s, struct mini *m, uint32_t first, uint32_t end,
                            uint32_t version, mn_error *err)
{
    uint32_t id = 1000 + (uint32_t)mini_generation(m) + 1;
    sim_begin(s, id);
    mn_status st = mini_fold(m, first, end, version, err);
    if (st == MN_OK)
        sim_ack(s, id);
    return st;
}

/* Generation as acknowledged or in flight; everything sound; and life goes on. Publishes are
 * acknowledged under 1,000 + generation. */
static bool check_state(void *ctx, const struct sim_state *st, char *why, size_t room)
{
    struct oracle *o = ctx;
    struct sim_proc *p = sim_start(st->disk);
    struct mini m;
    mn_error err = {0};
    uint64_t acked = 0, most;
    for (uint32_t i = 0; i < st->n_acked; i++)
        acked = st->acked[i] - 1000 > acked ? st->acked[i] - 1000 : acked;
    most = acked;
    for (uint32_t i = 0; i < st->n_in_flight; i++)
        most = st->in_flight[i] - 1000 > most ? st->in_flight[i] - 1000 : most;
    bool ok = mini_open(&m, sim_fs(p), sim_vfs(p), "app.db", true, &err) == MN_OK;
    if (!ok)
        snprintf(why, room, "open: %s", err.message);
    uint64_t generation = ok ? mini_generation(&m) : 0;
    if (ok && (generation < acked || generation > most)) {
        snprintf(why, room,
                 "generation %" PRIu64 "; %" PRIu64 " acknowledged, %" PRIu64 " in flight",
                 generation, acked, most);
        ok = false;
    }
    if (ok) {
        o->by_state[m.found.state]++;
        o->phantoms += generation == 2;
        ok = m.found.state == SIDECAR_GOOD || m.found.state == SIDECAR_NONE;
        if (!ok)
            snprintf(why, room, "sidecar %s: %s", sidecar_state_name(m.found.state),
                     m.found.message);
    }
    if (ok)
        ok = mini_check(&m, NULL, why, room);
    /* The survivor lives on: folds twice over everything, with reuse, and is right. */
    if (ok && !m.s && mini_build(&m, false, &err)) {
        /* Garbage where the unfinished file was: only an explicit wish may remove that. */
        ok = err.code == MN_EXISTS && strstr(st->fate, "garbage");
        mn_error_clear(&err);
        ok = ok && mini_build(&m, true, &err) == MN_OK;
    }
    if (ok)
        ok = mini_lease(&m, &err) == MN_OK;
    for (uint32_t v = 0; v < 2 && ok; v++) {
        bool complete;
        ok = acked_fold(st->disk, &m, 0, 4, 900 + v, &err) == MN_OK &&
             lease_reclaim(m.l, &complete, &err) == MN_OK && complete;
    }
    if (!ok && err.code)
        snprintf(why, room, "going on: %s", err.message);
    if (ok)
        ok = mini_check(&m, NULL, why, room);
    mini_close(&m);
    sim_stop(p);
    return ok;
}

/* Create, folds with reuse, an abort, a second lease. */
static void script(struct sim *s, struct mini *m)
{
    mn_error err = {0};
    bool complete;
    sim_mark(s, "create");
    if (mini_build(m, false, &err) || mini_lease(m, &err))
        return;
    sim_mark(s, "first");
    if (acked_fold(s, m, 0, 4, 1, &err))
        return;
    sim_mark(s, "replace");
    if (acked_fold(s, m, 1, 3, 2, &err) || lease_reclaim(m->l, &complete, &err))
        return;
    sim_mark(s, "reuse");
    if (acked_fold(s, m, 0, 3, 3, &err))
        return;
    sim_mark(s, "abort");
    if (publish_open(m->l, &err) == MN_OK && mini_write(m, 0, 2, 4, &err) == MN_OK &&
        publish_flush(m->l, &err) == MN_OK)
        mini_begin(m, 0, 2, 4, &err);
    publish_abort(m->l);
    lease_drop(m->l);
    m->l = NULL;
    sim_mark(s, "second lease");
    if (mini_lease(m, &err))
        return;
    if (acked_fold(s, m, 0, 4, 5, &err) || lease_reclaim(m->l, &complete, &err))
        return;
    sim_mark(s, "shrink");
    if (acked_fold(s, m, 2, 4, 0, &err) || lease_reclaim(m->l, &complete, &err) ||
        lease_shrink(m->l, true, &err))
        return;
    sim_mark(s, "end");
    acked_fold(s, m, 1, 4, 6, &err);
}

static struct sim_report cut_everywhere(uint32_t sector, bool quiet, struct oracle *o)
{
    struct sim *s = sim_create(&(struct sim_disk){.seed = 3, .sector_bytes = sector});
    struct sim_proc *p = sim_start(s);
    struct mini m;
    struct sim_report report;
    struct sim_enum_opts opts = {.name = "publish",
                                 .random = test_long() ? 60 : 8,
                                 .each_limit = test_long() ? 0 : 12,
                                 .split_bytes = sector,
                                 .nested = test_long() ? 20 : 60,
                                 .quiet = quiet,
                                 .stop_after = quiet ? 1 : 5};
    open_in(&m, p);
    script(s, &m);
    mini_close(&m);
    sim_stop(p);
    sim_enumerate(s, &opts, check_state, o, &report);
    sim_destroy(s);
    return report;
}

TEST(a_power_cut_leaves_the_old_generation_or_the_new)
{
    struct oracle o = {0};
    struct sim_report r = cut_everywhere(4096, false, &o);
    test_note("%u cuts, %" PRIu64 " states, %" PRIu64 " nested", r.cuts, r.checked, r.nested);
    CHECKF(r.violations == 0, "%s", r.first);
    CHECK(r.checked > 500);
    CHECK(o.by_state[SIDECAR_NONE] > 0 && o.by_state[SIDECAR_GOOD] > 100);
}

/* ---- Commits of unknown result --------------------------------------------------------------- */

/* A flush of the log fails within COMMIT, the first (of the log's new header: it was reset by a
 * complete checkpoint) or the second (of the frames): the living see the old generation, a recovery
 * may find the new one. Then the folder goes on, or dies and another goes on. */
static struct sim_report phantom(bool killed, uint64_t sync, struct oracle *o)
{
    struct sim *s = sim_create(&(struct sim_disk){.seed = 5});
    struct sim_proc *p = sim_start(s), *q = sim_start(s);
    struct mini m, n;
    mn_error err = {0};
    struct sim_report report;
    bool complete;
    struct sim_enum_opts opts = {.name = killed ? "phantom-killed" : "phantom",
                                 .random = 6,
                                 .each_limit = 6,
                                 .stop_after = 1};
    open_in(&m, p);
    CHECK_OK(mini_build(&m, false, &err), err);
    CHECK_OK(mini_lease(&m, &err), err);
    CHECK_EQ(acked_fold(s, &m, 0, 4, 1, &err), MN_OK);
    CHECK_OK(lease_reclaim(m.l, &complete, &err), err);
    open_in(&n, q); /* lives on: keeps the log's shared memory */
    sim_begin(s, 1002);
    CHECK_OK(publish_open(m.l, &err), err);
    CHECK_OK(mini_write(&m, 0, 4, 2, &err), err);
    CHECK_OK(publish_flush(m.l, &err), err);
    CHECK_OK(mini_begin(&m, 0, 4, 2, &err), err);
    sim_arm(s, SIM_EIO, SIM_SYNC, sync, SIM_ONCE);
    CHECK(publish_commit(m.l, &err) != MN_OK);
    CHECK_EQ(sim_fired(s), 1);
    sim_arm(s, SIM_EIO, 0, 0, SIM_ONCE);
    mn_error_clear(&err);
    struct mini *f = &m;
    if (killed) {
        sim_kill(p);
        f = &n;
        CHECK_OK(mini_lease(&n, &err), err);
    }
    sim_mark(s, "going on");
    CHECK_EQ(mini_generation(&n), 1);
    /* The next fold may write where the phantom did, once that is safe. */
    for (uint32_t v = 3; v < 5; v++) {
        CHECK_OK(lease_reclaim(f->l, &complete, &err), err);
        CHECK_OK(publish_open(f->l, &err), err);
        CHECK_OK(mini_write(f, 0, 4, v, &err), err);
        CHECK_OK(publish_flush(f->l, &err), err);
        publish_abort(f->l); /* no commit that would bury the phantom */
    }
    sim_mark(s, "written over");
    if (killed) {
        mini_close(&n);
        mini_close(&m);
    } else {
        mini_close(&m);
        mini_close(&n);
    }
    sim_stop(q);
    sim_stop(p);
    sim_enumerate(s, &opts, check_state, o, &report);
    sim_destroy(s);
    return report;
}

TEST(a_commit_of_unknown_result_keeps_its_blocks)
{
    uint64_t phantoms = 0;
    for (unsigned i = 0; i < 4; i++) {
        struct oracle o = {0};
        struct sim_report r = phantom(i & 1, 1 + i / 2, &o);
        CHECKF(r.violations == 0, "%s", r.first);
        CHECK(r.checked > 50);
        phantoms += o.phantoms;
    }
    test_note("%" PRIu64 " states with a generation that nobody had seen", phantoms);
    CHECK(phantoms > 0);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

/* Every call of the script fails in turn. Afterwards, without faults, all is sound: the generation
 * is that of the last fold that said OK, or of the one that failed. */
static void faults(enum sim_fault kind, enum sim_mode mode, unsigned mask)
{
    uint64_t stride = test_long() ? 1 : 3;
    for (uint64_t n = 1;; n += stride) {
        struct sim *s = sim_create(NULL);
        struct sim_proc *p = sim_start(s);
        struct mini m;
        char why[400];
        open_in(&m, p);
        uint64_t syncs_failed = 0;
        sim_arm(s, kind, mask, n, mode);
        script(s, &m);
        bool fired = sim_fired(s) > 0;
        sim_arm(s, kind, 0, 0, SIM_ONCE);
        if (m.s) {
            struct sidecar_stats stats;
            sidecar_stats(m.s, &stats);
            syncs_failed = stats.poisoned;
            CHECK(stats.lost == 0);
        }
        if (syncs_failed) {
            mn_error err = {0};
            CHECK(kind != SIM_EINTR);
            if (m.l)
                CHECK_EQ(publish_open(m.l, &err), MN_POISONED);
        }
        mini_close(&m);
        /* What runs on is another process. */
        struct sim_state now = {.disk = s, .fate = "garbage"};
        struct oracle o = {0};
        uint32_t ids[16];
        for (uint32_t i = 0; i < 16; i++)
            ids[i] = 1001 + i;
        now.in_flight = ids;
        now.n_in_flight = 16;
        sim_stop(p);
        CHECKF(check_state(&o, &now, why, sizeof why), "fault %d at call %" PRIu64 ": %s", kind, n,
               why);
        if (kind == SIM_EINTR)
            CHECK(!syncs_failed);
        sim_destroy(s);
        if (!fired)
            break;
    }
}

TEST(a_failed_call_loses_nothing)
{
    faults(SIM_EIO, SIM_ONCE, SIM_ALL & ~SIM_READ);
    faults(SIM_ENOSPC, SIM_ONCE, SIM_WRITE | SIM_TRUNCATE);
    faults(SIM_ENOSPC, SIM_STICKY, SIM_WRITE | SIM_TRUNCATE);
    faults(SIM_SHORT, SIM_ONCE, SIM_WRITE);
    faults(SIM_EIO, SIM_STICKY, SIM_SYNC);
}

TEST(an_interrupted_call_is_made_again)
{
    faults(SIM_EINTR, SIM_STICKY, SIM_ALL);
}

TEST(a_failed_flush_poisons_until_reopened)
{
    struct sim *s;
    struct sim_proc *p;
    struct mini m;
    mn_error err = {0};
    start_world(&s, &p, &m);
    fold(&m, 0, 4, 1);
    CHECK_OK(publish_open(m.l, &err), err);
    CHECK_OK(mini_write(&m, 0, 4, 2, &err), err);
    sim_arm(s, SIM_EIO, SIM_SYNC, 1, SIM_ONCE);
    CHECK_EQ(publish_flush(m.l, &err), MN_POISONED);
    CHECK_HAS(err.message, "app.db-mneme: the flush failed");
    sim_arm(s, SIM_EIO, 0, 0, SIM_ONCE);
    publish_abort(m.l);
    mn_error_clear(&err);
    CHECK_EQ(publish_open(m.l, &err), MN_POISONED);
    CHECK_HAS(err.message, "open it again");
    mn_error_clear(&err);
    CHECK_EQ(sidecar_flush(m.s, &err), MN_POISONED); /* never tried again */
    lease_drop(m.l);
    m.l = NULL;
    mn_error_clear(&err);
    CHECK_EQ(mini_lease(&m, &err), MN_POISONED);
    check_all(&m); /* reading goes on */
    struct sidecar_stats stats;
    sidecar_stats(m.s, &stats);
    CHECK(stats.poisoned && stats.poison_errno == 5);
    mini_close(&m);
    mn_error_clear(&err);
    open_in(&m, p);
    CHECK_OK(mini_lease(&m, &err), err);
    fold(&m, 0, 4, 3);
    check_all(&m);
    mini_close(&m);
    sim_stop(p);
    sim_destroy(s);
}

TEST(a_full_disk_refuses_cleanly_and_the_ballast_helps)
{
    struct sim *s;
    struct sim_proc *p;
    struct mini m;
    struct lease_space space, after;
    mn_error err = {0};
    start_world(&s, &p, &m);
    fold(&m, 0, 40, 1);
    CHECK(reclaim(&m));
    sim_limit(s, 1); /* nothing may grow any more */
    uint32_t v = 2;
    while (mini_fold(&m, 0, 10, v, &err) == MN_OK && v < 100) {
        v++;
        reclaim(&m);
    }
    CHECKF(v < 100 || err.code == MN_OK, "%s", err.message);
    lease_space(m.l, &space);
    mn_error_clear(&err);
    /* As large as all that is free: only the ballast would hold it. */
    CHECK_OK(publish_open(m.l, &err), err);
    struct extent_ref ref;
    uint8_t *big = calloc(space.free_blocks, EXTENT_BLOCK);
    struct extent_spec spec = {.collection = 1,
                               .object = 99,
                               .kind = 1,
                               .payload_len = (space.free_blocks / 2) * EXTENT_BLOCK};
    CHECK_EQ(publish_write(m.l, &spec, big, NULL, &ref, &err), MN_FULL);
    CHECK_HAS(err.message, "make room on the disk");
    publish_abort(m.l);
    lease_space(m.l, &after);
    CHECK_EQ(after.free_blocks, space.free_blocks);
    CHECK_EQ(after.file_blocks, space.file_blocks);
    free(big);
    check_all(&m);
    mn_error_clear(&err);
    /* A fold that shrinks may use it. */
    CHECK_OK(publish_open(m.l, &err), err);
    publish_may_use_ballast(m.l);
    CHECK_OK(mini_write(&m, 0, 3, 777, &err), err);
    publish_abort(m.l);
    sim_limit(s, 0);
    fold(&m, 0, 10, 778);
    check_all(&m);
    mini_close(&m);
    sim_stop(p);
    sim_destroy(s);
}

/* ---- Rows of the catalog --------------------------------------------------------------------- */

TEST(every_changed_column_of_a_row_is_found_and_mended)
{
    static const char *const changes[] = {
        "UPDATE mneme_extents SET first_block = first_block + 100000 WHERE object = 3",
        "UPDATE mneme_extents SET n_blocks = n_blocks + 1 WHERE object = 3",
        "UPDATE mneme_extents SET n_blocks = -1 WHERE object = 3",
        "UPDATE mneme_extents SET collection = 2 WHERE object = 3",
        "UPDATE mneme_extents SET kind = 2 WHERE object = 3",
        "UPDATE mneme_extents SET object = 103 WHERE object = 3",
        "UPDATE mneme_extents SET generation = generation + 1 WHERE object = 3",
        "UPDATE mneme_extents SET header_crc = header_crc + 1 WHERE object = 3",
        "UPDATE mneme_extents SET rows = 'x' WHERE object = 3",
        "UPDATE mneme_extents SET row_crc = row_crc + 1 WHERE object = 3",
        "DELETE FROM mneme_extents WHERE object = 3",
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct sim *s;
        struct sim_proc *p;
        struct mini m;
        struct sidecar_meta meta;
        struct extents e;
        mn_error err = {0};
        start_world(&s, &p, &m);
        fold(&m, 0, 6, 1);
        CHECK_OK(extents_meta(m.db, &meta, &err), err);
        CHECK_EQ(sqlite3_exec(m.db, changes[i], NULL, NULL, NULL), SQLITE_OK);
        CHECK_OK(extents_load(m.db, m.alloc, &meta, 1, &e, &err), err);
        CHECKF(e.n == 5, "%s", changes[i]);
        CHECKF(e.n_damaged == (i < 10), "%s", changes[i]);
        CHECKF(e.missing == (i == 10), "%s", changes[i]);
        CHECK_HAS(e.message, i < 10 ? "1 of 6 rows are damaged" : "rows, mneme_meta says 6");
        extents_fini(m.alloc, &e);
        /* A new lease sees it; its next publish heals the object and mends the table. */
        lease_drop(m.l);
        CHECK_OK(mini_lease(&m, &err), err);
        fold(&m, 3, 4, 2);
        check_all(&m);
        CHECK(reclaim(&m));
        fold(&m, 0, 6, 3);
        check_all(&m);
        mini_close(&m);
        sim_stop(p);
        sim_destroy(s);
    }
}

TEST(a_row_put_in_by_hand_is_found)
{
    struct sim *s;
    struct sim_proc *p;
    struct mini m;
    struct sidecar_meta meta;
    struct extents e;
    mn_error err = {0};
    start_world(&s, &p, &m);
    fold(&m, 0, 6, 1);
    CHECK_OK(extents_meta(m.db, &meta, &err), err);
    meta.digest++;
    CHECK_OK(extents_load(m.db, m.alloc, &meta, 1, &e, &err), err);
    CHECK(e.missing && e.n == 6);
    CHECK_HAS(e.message, "another digest");
    extents_fini(m.alloc, &e);
    mini_close(&m);
    sim_stop(p);
    sim_destroy(s);
}

TEST_MAIN
