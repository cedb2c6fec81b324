/* Top-k and radius results against sorting. */
#include "index/topk.h"
#include "storage/base/error.h"
#include "tests/test.h"

static int by_distance_and_id(const void *x, const void *y)
{
    const mn_hit *a = x, *b = y;
    return hit_after(a, b) ? 1 : hit_after(b, a) ? -1 : 0;
}

TEST(topk_keeps_what_sorting_would)
{
    struct test_rng r = {21};
    for (size_t round = 0; round < test_budget(300); round++) {
        size_t n = test_below(&r, 400);
        uint32_t k = 1 + (uint32_t)test_below(&r, round % 3 ? 20 : 500);
        mn_hit *all = malloc((n + 1) * sizeof *all), *kept = malloc(k * sizeof *kept);
        struct topk t;
        topk_init(&t, kept, k);
        for (size_t i = 0; i < n; i++) {
            /* few distances: many ties, which ids decide */
            all[i] = (mn_hit){(int64_t)(i * 7919 % 1009) - 500, (double)test_below(&r, 30)};
            if (topk_would_take(&t, all[i].distance, all[i].id))
                topk_push(&t, all[i].distance, all[i].id);
            else
                CHECK(all[i].distance >= topk_limit(&t));
            CHECK(topk_check(&t));
        }
        qsort(all, n, sizeof *all, by_distance_and_id);
        CHECK_EQ(t.n, n < k ? n : k);
        hits_sort(kept, t.n);
        for (size_t i = 0; i < t.n; i++)
            CHECKF(kept[i].id == all[i].id && kept[i].distance == all[i].distance,
                   "round %zu: hit %zu", round, i);
        free(all);
        free(kept);
    }
}

TEST(topk_limit_is_infinite_until_full)
{
    mn_hit kept[2];
    struct topk t;
    topk_init(&t, kept, 2);
    CHECK(isinf(topk_limit(&t)));
    topk_push(&t, 5, 1);
    CHECK(isinf(topk_limit(&t)));
    topk_push(&t, 3, 2);
    CHECK(topk_limit(&t) == 5);
    CHECK(!topk_would_take(&t, 5, 2) && !topk_would_take(&t, 5, 1) && topk_would_take(&t, 5, 0));
}

TEST(collector_grows_to_its_limit_and_says_so)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct collector c;
    mn_error err;
    mn_error_clear(&err);
    collector_init(&c, 1000);
    for (int64_t i = 0; i < 1000; i++)
        CHECK_OK(collector_push(&c, a, (double)-i, i, &err), err);
    CHECK_EQ(collector_push(&c, a, 0, 0, &err), MN_FULL);
    CHECK_HAS(err.message, "more than 1000 rows");
    CHECK_EQ(c.n, 1000);
    hits_sort(c.hits, c.n);
    for (int64_t i = 0; i < 1000; i++)
        CHECK_EQ(c.hits[i].id, 999 - i);
    collector_fini(&c, a);
    CHECK_EQ(mn_alloc_used(a), 0);
    mn_alloc_destroy(a);
}

TEST(collector_without_memory_keeps_what_it_has)
{
    struct mn_alloc *a = mn_alloc_create(NULL, 4096);
    struct collector c;
    mn_error err;
    mn_error_clear(&err);
    collector_init(&c, UINT64_MAX);
    mn_status st = MN_OK;
    for (int64_t i = 0; i < 1000 && !st; i++)
        st = collector_push(&c, a, 0, i, &err);
    CHECK_EQ(st, MN_NOMEM);
    CHECK_HAS(err.message, "memory cap");
    for (size_t i = 0; i < c.n; i++)
        CHECK_EQ(c.hits[i].id, i);
    CHECK(c.n >= 64);
    collector_fini(&c, a);
    mn_alloc_destroy(a);
}

TEST_MAIN
