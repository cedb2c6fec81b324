/* Memory that runs out, at each allocation of a lease and its publishes: nothing leaks, nothing is
 * lost, and afterwards it goes on. */
#include "tests/test.h"

#include "storage/base/error.h"
#include "tests/sim/minifold.h"
#include "tests/sim/oom.h"
#include "tests/sim/sim.h"

/* Generations that were acknowledged; *asked counts those begun. */
static uint64_t work(struct mini *m, uint64_t *asked)
{
    mn_error err = {0};
    bool complete;
    uint64_t acked = 0;
    *asked = 0;
    if ((!m->s && mini_build(m, false, &err)) || mini_lease(m, &err))
        return 0;
    for (uint32_t v = 1; v <= 3; v++) {
        *asked = v;
        if (mini_fold(m, 0, 5, v, &err))
            break;
        acked = v;
        lease_reclaim(m->l, &complete, &err);
    }
    return acked;
}

static void run_out(bool sticky)
{
    uint64_t runs = 0;
    mini_hooks = oom_hooks();
    for (uint64_t n = 1;; n += test_long() ? 1 : 5) {
        struct sim *s = sim_create(NULL);
        struct sim_proc *p = sim_start(s), *q = sim_start(s);
        struct mini m;
        mn_error err = {0};
        char why[400];
        uint64_t asked = 0, acked = 0;
        int64_t before = oom_balance();
        CHECK_OK(mini_open(&m, sim_fs(q), sim_vfs(q), "app.db", true, &err), err);
        mini_close(&m);
        oom_arm(n, sticky);
        if (mini_open(&m, sim_fs(p), sim_vfs(p), "app.db", true, &err) == MN_OK)
            acked = work(&m, &asked);
        bool fired = oom_fired() > 0;
        oom_arm(0, false);
        mini_close(&m);
        CHECKF(oom_balance() == before, "allocation %" PRIu64 ": %" PRId64 " blocks leaked", n,
               oom_balance() - before);
        mn_error_clear(&err);
        CHECK_OK(mini_open(&m, sim_fs(q), sim_vfs(q), "app.db", true, &err), err);
        uint64_t generation = mini_generation(&m);
        CHECKF(generation >= acked && generation <= asked,
               "allocation %" PRIu64 ": %" PRIu64 " of %" PRIu64, n, generation, asked);
        CHECKF(mini_check(&m, NULL, why, sizeof why), "allocation %" PRIu64 ": %s", n, why);
        CHECK(work(&m, &asked) == 3);
        CHECKF(mini_check(&m, NULL, why, sizeof why), "after allocation %" PRIu64 ": %s", n, why);
        mini_close(&m);
        sim_stop(q);
        sim_stop(p);
        sim_destroy(s);
        runs++;
        if (!fired)
            break;
    }
    test_note("%" PRIu64 " runs", runs);
    CHECK(runs > 20);
}

TEST(one_failed_allocation_loses_nothing)
{
    CHECK(oom_install());
    run_out(false);
}

TEST(failing_allocations_lose_nothing)
{
    run_out(true);
}

TEST_MAIN
