/* The n-th read, write, sync, open, ... fails, for every n of a small workload: once, or from then
 * on. Nothing crashes or leaks, the status fits, the sentence names the file, and what was
 * acknowledged is there after a reopen; an operation that failed is there whole or not at all.
 *
 * What may be there is a set of worlds: an operation that succeeded changes each of them, one that
 * failed adds a second to each. */
#include "tests/test.h"

#include "src/engine/engine.h"
#include "tests/sim/oom.h"
#include "tests/sim/world.h"

static const struct world_op script[] = {
    {WORLD_CREATE_C, 0, 0, 0},     {WORLD_PUT, 1, 6, 100},   {WORLD_SEARCH, 0, 0, 107},
    {WORLD_PUT, 2, 4, 150},        {WORLD_DELETE, 3, 3, 0},  {WORLD_SAVEPOINT, 7, 9, 200},
    {WORLD_CHECKPOINT, 0, 0, 0},   {WORLD_PUT, 8, 11, 250},  {WORLD_REOPEN, 0, 0, 0},
    {WORLD_PUT, 1, 2, 300},        {WORLD_SEARCH, 0, 0, 301},
};
enum { N_OPS = sizeof script / sizeof *script, MAX_WORLDS = 1 << 9 };

struct worlds {
    struct world w[MAX_WORLDS];
    size_t n;
};

static void add(struct worlds *s, const struct world *w)
{
    for (size_t i = 0; i < s->n; i++)
        if (!*world_difference(&s->w[i], w))
            return;
    CHECK(s->n < MAX_WORLDS);
    s->w[s->n++] = *w;
}

static void done(struct worlds *s, const struct world_op *op, bool ok)
{
    size_t n = s->n;
    for (size_t i = 0; i < n; i++) {
        struct world w = s->w[i];
        world_apply(&w, op);
        if (ok)
            s->w[i] = w;
        else
            add(s, &w);
    }
}

struct fault {
    enum sim_fault kind;
    const char *word;
    mn_status status; /* what the struck operation should say */
};

static const struct fault faults[] = {
    {SIM_EIO, "EIO", MN_IO},
    {SIM_ENOSPC, "ENOSPC", MN_FULL},
    {SIM_SHORT, "short", MN_FULL},
};

/* Operations that fail because an earlier one did. */
static bool is_consequence(mn_status st)
{
    return st == MN_NOTFOUND;
}

static void check_message(const struct fault *f, uint64_t n, enum sim_mode mode,
                          const struct world_op *op, mn_status st, const mn_error *err)
{
    CHECKF(st == f->status || is_consequence(st),
           "%s at call %d, mode %d, struck %s: status %s, %s", f->word, (int)n, mode,
           world_word(op->kind), mn_status_name(st), err->message);
    CHECKF(strstr(err->message, "app.db"), "%s at call %d, mode %d, %s: does not name the file: %s",
           f->word, (int)n, mode, world_word(op->kind), err->message);
}

/* Opens anew, without faults: one of the possible worlds must be there, sound, and take a row. */
static void check_after(struct sim *disk, struct worlds *may, const char *what)
{
    struct sim_proc *p = sim_start(disk);
    struct world_db db = {.vfs = sim_vfs(p), .path = "app.db"};
    struct world have;
    char why[300] = "";
    mn_error err;
    bool found = false;
    CHECKF(world_open(&db, &err) == MN_OK, "%s: reopen: %s", what, err.message);
    CHECKF(world_read(&db, &have, why, sizeof why), "%s: %s", what, why);
    for (size_t i = 0; i < may->n && !found; i++)
        found = !*world_difference(&have, &may->w[i]);
    CHECKF(found, "%s: unlike the %zu worlds that may be, the first so: %s", what, may->n,
           world_difference(&have, &may->w[0]));
    CHECKF(world_sound(&db, &have, why, sizeof why), "%s: %s", what, why);
    if (have.has_c) {
        const struct world_op more = {WORLD_PUT, 30, 30, 900};
        CHECKF(world_do(&db, &more, &err) == MN_OK, "%s: %s", what, err.message);
    }
    world_close(&db);
    sim_stop(p);
}

/* True if the fault struck. */
static bool survives(const struct fault *f, unsigned mask, uint64_t n, enum sim_mode mode)
{
    static struct worlds may;
    struct sim *disk = sim_create(NULL);
    struct sim_proc *p = sim_start(disk);
    struct world_db db = {.vfs = sim_vfs(p), .path = "app.db", .opts = {.allocator = oom_hooks()}};
    unsigned failed = 0;
    char what[80];
    mn_error err;
    may.n = 1;
    may.w[0] = (struct world){0};
    sim_arm(disk, f->kind, mask, n, mode);
    for (size_t i = 0; i < N_OPS; i++) {
        uint64_t before = sim_fired(disk);
        mn_status st = world_do(&db, &script[i], &err);
        bool struck = sim_fired(disk) > before;
        if (st && script[i].kind != WORLD_CHECKPOINT) /* that one is plain SQLite's */
            check_message(f, n, mode, &script[i], st, &err);
        CHECKF(st == MN_OK || struck || is_consequence(st) || mode == SIM_STICKY,
               "%s at call %d: %s failed without being struck: %s", f->word, (int)n,
               world_word(script[i].kind), err.message);
        done(&may, &script[i], st == MN_OK);
        failed += st != MN_OK && struck;
    }
    CHECKF(mode == SIM_STICKY || failed <= 1, "%s once at call %d failed %u operations", f->word,
           (int)n, failed);
    bool struck = sim_fired(disk) > 0;
    world_close(&db);
    sim_arm(disk, f->kind, 0, 0, mode);
    sim_stop(p);
    CHECKF(oom_balance() == 0, "%s at call %d, mode %d: %d blocks leaked", f->word, (int)n,
           (int)mode, (int)oom_balance());
    snprintf(what, sizeof what, "%s at call %d, mask %u, mode %d", f->word, (int)n, mask,
             (int)mode);
    check_after(disk, &may, what);
    sim_destroy(disk);
    return struck;
}

TEST(every_call_may_fail)
{
    uint64_t runs = 0, step = !test_long() && test_budget(10) < 10 ? 11 : 1;
    for (size_t k = 0; k < sizeof faults / sizeof *faults; k++)
        for (int mode = 0; mode < 2; mode++) {
            uint64_t n = 1;
            for (; survives(&faults[k], SIM_ALL, n, (enum sim_mode)mode); n += step)
                runs++;
            CHECK(n > 60);
        }
    test_note("%d runs", (int)runs);
}

/* A fault that comes back at each call of one kind: the others go on. */
TEST(every_kind_of_call_may_fail_for_good)
{
    static const unsigned masks[] = {SIM_READ, SIM_WRITE, SIM_SYNC, SIM_OPEN, SIM_TRUNCATE,
                                     SIM_UNLINK, SIM_DIRSYNC, SIM_STAT};
    uint64_t runs = 0, step = !test_long() && test_budget(10) < 10 ? 7 : 2;
    for (size_t m = 0; m < sizeof masks / sizeof *masks; m++)
        for (uint64_t n = 1; survives(&faults[0], masks[m], n, SIM_STICKY); n += step)
            runs++;
    test_note("%d runs", (int)runs);
}

/* ---- A full disk ----------------------------------------------------------------------------- */

TEST(a_full_disk_refuses_writes_and_keeps_what_it_has)
{
    struct sim *disk = sim_create(NULL);
    struct sim_proc *p = sim_start(disk);
    struct world_db db = {.vfs = sim_vfs(p), .path = "app.db"};
    struct world have, want = {0};
    char why[300] = "";
    mn_error err;
    for (size_t i = 0; i < 2; i++) {
        CHECK_OK(world_do(&db, &script[i], &err), err);
        world_apply(&want, &script[i]);
    }
    sim_limit(disk, 1); /* not a byte more */
    CHECK_EQ(world_do(&db, &(struct world_op){WORLD_PUT, 1, 20, 500}, &err), MN_FULL);
    CHECK_HAS(err.message, "app.db");
    CHECK_HAS(err.message, "make room");
    CHECK_EQ(world_do(&db, &(struct world_op){WORLD_SAVEPOINT, 1, 20, 500}, &err), MN_FULL);
    CHECK_EQ(world_do(&db, &(struct world_op){WORLD_DELETE, 1, 2, 0}, &err), MN_FULL);
    CHECKF(world_read(&db, &have, why, sizeof why), "%s", why);
    CHECK_STR(world_difference(&have, &want), "");
    CHECKF(world_sound(&db, &have, why, sizeof why), "%s", why); /* reading goes on */
    CHECK_OK(world_do(&db, &(struct world_op){WORLD_REOPEN, 0, 0, 0}, &err), err);
    CHECKF(world_sound(&db, &have, why, sizeof why), "%s", why);
    sim_limit(disk, 0);
    const struct world_op more = {WORLD_PUT, 1, 20, 500};
    CHECK_OK(world_do(&db, &more, &err), err); /* and writing, when there is room again */
    world_apply(&want, &more);
    CHECKF(world_read(&db, &have, why, sizeof why), "%s", why);
    CHECK_STR(world_difference(&have, &want), "");
    world_close(&db);
    sim_stop(p);
    sim_destroy(disk);
}

/* ---- A flush that fails ---------------------------------------------------------------------- */

struct failed_sync {
    struct world may[3]; /* before; with the put whose flush failed; and with the one after it */
};

static bool check_phantom(void *ctx, const struct sim_state *st, char *why, size_t room)
{
    const struct failed_sync *f = ctx;
    struct sim_proc *p = sim_start(st->disk);
    struct world_db db = {.vfs = sim_vfs(p), .path = "app.db"};
    struct world have;
    mn_error err;
    /* 1, 2 and 4 were acknowledged, 3 failed. */
    bool ok = world_open(&db, &err) == MN_OK;
    if (!ok)
        snprintf(why, room, "open: %s", err.message);
    ok = ok && world_read(&db, &have, why, room);
    if (ok && st->n_acked >= 3) {
        snprintf(why, room, "%s", world_difference(&have, &f->may[2]));
        ok = !*why;
    } else if (ok && st->n_acked == 2) {
        ok = false;
        for (size_t i = 0; i < 3; i++)
            ok = ok || !*world_difference(&have, &f->may[i]);
        snprintf(why, room, "none of the three worlds that may be");
    }
    ok = ok && world_sound(&db, &have, why, room);
    world_close(&db);
    sim_stop(p);
    return ok;
}

/* The put whose flush failed was refused. It may come back after a power cut as long as nothing
 * else was acknowledged, whole; after the next acknowledged put it may not. */
TEST(a_failed_flush_refuses_and_never_halves)
{
    static const struct world_op ops[] = {{WORLD_CREATE_C, 0, 0, 0}, {WORLD_PUT, 1, 6, 100},
                                          {WORLD_PUT, 4, 9, 200}, {WORLD_PUT, 3, 7, 300}};
    struct sim *disk = sim_create(NULL);
    struct sim_proc *p = sim_start(disk);
    struct world_db db = {.vfs = sim_vfs(p), .path = "app.db"};
    struct failed_sync f = {0};
    struct sim_report report;
    mn_error err;
    for (uint32_t i = 0; i < 4; i++) {
        sim_begin(disk, i + 1);
        if (i == 2)
            sim_arm(disk, SIM_EIO, SIM_SYNC, 1, SIM_ONCE);
        mn_status st = world_do(&db, &ops[i], &err);
        CHECK_EQ(st, i == 2 ? MN_IO : MN_OK);
        if (st == MN_OK)
            sim_ack(disk, i + 1);
        if (i < 2)
            world_apply(&f.may[0], &ops[i]);
    }
    f.may[1] = f.may[2] = f.may[0];
    world_apply(&f.may[1], &ops[2]);
    world_apply(&f.may[2], &ops[3]);
    world_close(&db);
    sim_stop(p);
    struct sim_enum_opts opts = {.name = "failed-flush", .random = 8, .each_limit = 16};
    sim_enumerate(disk, &opts, check_phantom, &f, &report);
    sim_destroy(disk);
    CHECKF(report.violations == 0, "%s", report.first);
}

TEST_MAIN
