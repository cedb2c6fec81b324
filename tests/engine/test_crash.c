/* Power cuts under the real engine: the workload's writes are cut at every point, with what was not
 * synced dropped, reordered and torn. What comes back lies between what was acknowledged and that
 * plus what was in flight, is sound, and takes further writes.
 *
 * Operation i of a script is event i of the disk's log: acknowledged operations are always 1 .. a,
 * in flight is at most a + 1, and the state of the world after i operations is known. So a
 * recovered database must equal one of two worlds, whole. */
#include "tests/test.h"

#include "src/engine/engine.h"
#include "tests/sim/world.h"

enum { SURVIVORS_CREATE = 1000, SURVIVORS_PUT = 1001, SURVIVORS_ROW = WORLD_IDS - 1 };

static const struct world_op whole_script[] = {
    {WORLD_CREATE_C, 0, 0, 0},
    {WORLD_PUT, 1, 6, 100},       /* a batch */
    {WORLD_PUT, 2, 4, 150},       /* replaced */
    {WORLD_DELETE, 3, 3, 0},
    {WORLD_SEARCH, 0, 0, 107},    /* what is cached by now must not hide what comes */
    {WORLD_SAVEPOINT, 7, 9, 200},
    {WORLD_CREATE_D, 0, 0, 0},
    {WORLD_PUT_D, 5, 11, 250},    /* rows of both collections */
    {WORLD_ROLLBACK, 1, 12, 300},
    {WORLD_CHECKPOINT, 0, 0, 0},
    {WORLD_PUT, 8, 14, 350},      /* the log begins anew */
    {WORLD_CREATE_E, 0, 0, 0},
    {WORLD_PUT_E, 0, 5, 400},
    {WORLD_REOPEN, 0, 0, 0},
    {WORLD_PUT_E, 2, 3, 450},
    {WORLD_DELETE, 5, 9, 0},
    {WORLD_DROP_D, 0, 0, 0},
    {WORLD_PUT, 1, 2, 500},
    {WORLD_DROP_E, 0, 0, 0},
    {WORLD_PUT, 20, 40, 550},
    {WORLD_REOPEN, 0, 0, 0},
};

static const struct world_op short_script[] = {
    {WORLD_CREATE_C, 0, 0, 0},      {WORLD_PUT, 1, 6, 100},  {WORLD_PUT, 2, 4, 150},
    {WORLD_SAVEPOINT, 7, 9, 200},   {WORLD_DELETE, 3, 3, 0}, {WORLD_CHECKPOINT, 0, 0, 0},
    {WORLD_PUT, 8, 14, 350},        {WORLD_REOPEN, 0, 0, 0}, {WORLD_PUT, 1, 2, 500},
};

struct script {
    const char *name;
    const struct world_op *ops;
    uint32_t n;
    mn_durability durability;
    bool may_forget;      /* any prefix will do */
    struct sim_disk disk;
    uint64_t forgot;      /* states in which acknowledged operations were missing */
    uint64_t recovered;   /* states whose operation in flight came back */
};

#define SCRIPT(ops_) .ops = (ops_), .n = sizeof(ops_) / sizeof *(ops_)

static struct world_db world_on(struct sim_proc *p, const struct script *s)
{
    return (struct world_db){.vfs = sim_vfs(p), .path = "app.db",
                             .opts = {.durability = s->durability}};
}

/* The disk after the script. */
static struct sim *run_script(const struct script *s)
{
    struct sim *disk = sim_create(&s->disk);
    struct sim_proc *p = sim_start(disk);
    struct world_db db = world_on(p, s);
    mn_error err;
    for (uint32_t i = 0; i < s->n; i++) {
        sim_mark(disk, world_word(s->ops[i].kind));
        sim_begin(disk, i + 1);
        CHECK_OK(world_do(&db, &s->ops[i], &err), err);
        sim_ack(disk, i + 1);
    }
    world_close(&db);
    sim_stop(p);
    return disk;
}

static uint32_t highest(const uint32_t *ids, uint32_t n, uint32_t below)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < below && ids[i] > best)
            best = ids[i];
    return best;
}

static bool has(const uint32_t *ids, uint32_t n, uint32_t id)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* What an earlier survivor did on this disk, if this is a cut in its work. */
static void apply_survivor(struct world *w, bool create, bool put)
{
    if (create)
        world_apply(w, &(struct world_op){WORLD_CREATE_C, 0, 0, 0});
    if (put)
        world_apply(w, &(struct world_op){WORLD_PUT, SURVIVORS_ROW, SURVIVORS_ROW, 900});
}

/* Compares with the worlds that may be: those of a .. b operations, with what a survivor may have
 * added. *out takes how many operations were there. */
static bool is_allowed(const struct script *s, const struct world *have,
                       const struct sim_state *st, uint32_t *out, char *why, size_t room)
{
    uint32_t acked = highest(st->acked, st->n_acked, SURVIVORS_CREATE);
    uint32_t flying = highest(st->in_flight, st->n_in_flight, SURVIVORS_CREATE);
    uint32_t first = s->may_forget ? 0 : acked, end = (flying > acked ? flying : acked) + 1;
    struct world w = {0};
    for (uint32_t i = 0; i < end; i++) {
        if (i)
            world_apply(&w, &s->ops[i - 1]);
        if (i < first)
            continue;
        for (int made = 0; made <= 2; made++) { /* nothing, created, created and put */
            struct world x = w;
            uint32_t done = made == 2 ? SURVIVORS_PUT : SURVIVORS_CREATE;
            bool must = has(st->acked, st->n_acked, SURVIVORS_PUT) && !s->may_forget;
            if ((must && made < 2) || (made && !has(st->acked, st->n_acked, done) &&
                                       !has(st->in_flight, st->n_in_flight, done) &&
                                       !(made == 1 && x.has_c)))
                continue;
            apply_survivor(&x, made >= 1, made == 2);
            *out = i;
            if (!*world_difference(have, &x))
                return true;
        }
    }
    snprintf(why, room, "%u operations acknowledged, then %s in flight; unlike the first: %s",
             acked, flying ? world_word(s->ops[flying - 1].kind) : "nothing",
             world_difference(have, &w));
    return false;
}

/* The survivor creates c if it is not there, puts a row, closes and opens again. */
static bool lives_on(struct world_db *db, struct world *w, struct sim *disk, char *why,
                     size_t room)
{
    struct world after;
    mn_error err;
    mn_status st = MN_OK;
    if (!w->has_c) {
        sim_begin(disk, SURVIVORS_CREATE);
        st = world_do(db, &(struct world_op){WORLD_CREATE_C, 0, 0, 0}, &err);
        if (st == MN_OK)
            sim_ack(disk, SURVIVORS_CREATE);
    }
    if (st == MN_OK) {
        sim_begin(disk, SURVIVORS_PUT);
        st = world_do(db, &(struct world_op){WORLD_PUT, SURVIVORS_ROW, SURVIVORS_ROW, 900}, &err);
    }
    if (st == MN_OK) {
        sim_ack(disk, SURVIVORS_PUT);
        apply_survivor(w, true, true);
        st = world_do(db, &(struct world_op){WORLD_REOPEN, 0, 0, 0}, &err);
    }
    if (st) {
        snprintf(why, room, "the survivor: %s", err.message);
        return false;
    }
    if (!world_read(db, &after, why, room))
        return false;
    if (*world_difference(&after, w)) {
        snprintf(why, room, "after the survivor's put: %s", world_difference(&after, w));
        return false;
    }
    return world_sound(db, w, why, room);
}

static bool check_state(void *ctx, const struct sim_state *st, char *why, size_t room)
{
    struct script *s = ctx;
    struct sim_proc *p = sim_start(st->disk);
    struct world_db db = world_on(p, s);
    struct world w;
    mn_error err;
    uint32_t reached = 0;
    bool ok = world_open(&db, &err) == MN_OK;
    if (!ok)
        snprintf(why, room, "open: %s", err.message);
    ok = ok && world_read(&db, &w, why, room) && is_allowed(s, &w, st, &reached, why, room) &&
         world_sound(&db, &w, why, room);
    s->forgot += ok && reached < highest(st->acked, st->n_acked, SURVIVORS_CREATE);
    s->recovered += ok && reached > highest(st->acked, st->n_acked, SURVIVORS_CREATE);
    ok = ok && lives_on(&db, &w, st->disk, why, room);
    world_close(&db);
    sim_stop(p);
    return ok;
}

static void cut_everywhere(struct script *s, struct sim_enum_opts opts)
{
    struct sim_report report;
    struct sim *disk = run_script(s);
    struct sim_stats stats = sim_stats(disk);
    bool tenth = !test_long() && test_budget(10) < 10;
    opts.name = s->name;
    if (tenth)
        opts.cut_stride = 23;
    if (test_long()) {
        opts.cut_stride = 1;
        opts.each_limit = 200;
        opts.random = 20;
    }
    sim_enumerate(disk, &opts, check_state, s, &report);
    test_note("%s: log %u, %u cuts, %llu states, %llu nested", s->name, stats.log, report.cuts,
              (unsigned long long)report.checked, (unsigned long long)report.nested);
    sim_destroy(disk);
    CHECKF(report.violations == 0, "%s", report.first);
    CHECK(getenv("MNEME_SIM") || report.checked > 30);
}

TEST(a_power_cut_keeps_acknowledged_writes_whole)
{
    struct script s = {.name = "whole", SCRIPT(whole_script)};
    cut_everywhere(&s, (struct sim_enum_opts){.random = 3, .each_limit = 4, .nested = 8});
    CHECK(getenv("MNEME_SIM") || s.recovered > 0);
    CHECK_EQ(s.forgot, 0);
}

TEST(every_cut_of_a_short_script)
{
    struct script s = {.name = "short", SCRIPT(short_script)};
    cut_everywhere(&s, (struct sim_enum_opts){.random = 6, .each_limit = 6, .nested = 6});
    CHECK_EQ(s.forgot, 0);
}

TEST(small_sectors_and_torn_pages)
{
    struct script s = {.name = "torn", SCRIPT(short_script),
                       .disk = {.sector_bytes = 512, .fragile_overwrite = true}};
    cut_everywhere(&s, (struct sim_enum_opts){.random = 4, .each_limit = 6, .cut_stride = 3});
    CHECK_EQ(s.forgot, 0);
}

/* durability=relaxed may lose the last commits in a power cut, and never half of one. */
TEST(relaxed_durability_forgets_but_never_halves)
{
    struct script s = {.name = "relaxed", SCRIPT(short_script), .durability = MN_RELAXED,
                       .may_forget = true};
    cut_everywhere(&s, (struct sim_enum_opts){.random = 4, .each_limit = 4, .cut_stride = 2});
    CHECK(getenv("MNEME_SIM") || s.forgot > 0);
}

/* The proof that these tests see what they are there to see. */
TEST(a_disk_that_swallows_syncs_is_found_out)
{
    struct script s = {.name = "swallow", SCRIPT(short_script), .disk = {.swallow_syncs = true}};
    struct sim *disk = run_script(&s);
    struct sim_report report;
    struct sim_enum_opts opts = {.name = "swallow", .random = 2, .each_limit = 2, .cut_stride = 5,
                                 .stop_after = 10, .quiet = true};
    sim_enumerate(disk, &opts, check_state, &s, &report);
    sim_destroy(disk);
    CHECK(getenv("MNEME_SIM") || report.violations == 10);
}

/* relaxed is not full: what the strict oracle says of it. */
TEST(relaxed_durability_is_weaker_than_full)
{
    struct script s = {.name = "relaxed-strict", SCRIPT(short_script), .durability = MN_RELAXED};
    struct sim *disk = run_script(&s);
    struct sim_report report;
    struct sim_enum_opts opts = {.name = "relaxed-strict", .random = 2, .each_limit = 2,
                                 .cut_stride = 3, .stop_after = 3, .quiet = true};
    sim_enumerate(disk, &opts, check_state, &s, &report);
    sim_destroy(disk);
    CHECK(getenv("MNEME_SIM") || report.violations == 3);
}

/* ---- Processes ------------------------------------------------------------------------------ */

/* One process dies in the middle of a transaction; another goes on at once and sees all that was
 * acknowledged and nothing of what was not. */
TEST(a_dead_writer_does_not_hold_up_the_living)
{
    struct sim *disk = sim_create(NULL);
    struct sim_proc *a = sim_start(disk), *b = sim_start(disk);
    struct script s = {.name = "dead"};
    struct world_db x = world_on(a, &s), y = world_on(b, &s);
    struct world w = {0}, have;
    char why[300] = "";
    mn_error err;
    static const struct world_op ops[] = {{WORLD_CREATE_C, 0, 0, 0}, {WORLD_PUT, 1, 9, 100}};
    y.opts.busy_timeout_ms = MN_NO_WAIT;
    for (size_t i = 0; i < 2; i++) {
        CHECK_OK(world_do(&x, &ops[i], &err), err);
        world_apply(&w, &ops[i]);
    }
    CHECK_OK(world_open(&y, &err), err);
    CHECK_OK(mn_begin_write(x.conn, &err), err);
    CHECK_OK(world_do(&x, &(struct world_op){WORLD_PUT, 3, 20, 300}, &err), err);
    const struct world_op more = {WORLD_PUT, 8, 12, 400};
    CHECK_EQ(world_do(&y, &more, &err), MN_BUSY);
    sim_kill(a);
    CHECK_OK(world_do(&y, &more, &err), err);
    world_apply(&w, &more);
    CHECKF(world_read(&y, &have, why, sizeof why), "%s", why);
    CHECK_STR(world_difference(&have, &w), "");
    CHECKF(world_sound(&y, &w, why, sizeof why), "%s", why);
    CHECK(mn_commit(x.conn, &err) != MN_OK);
    world_close(&y);
    world_close(&x);
    sim_stop(a);
    sim_stop(b);
    sim_destroy(disk);
}

TEST_MAIN
