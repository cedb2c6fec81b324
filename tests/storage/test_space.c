/* The map of free blocks against an array of letters. */
#include "tests/test.h"

#include "storage/space.h"

enum { MAX = 1500 };

/* 'f'ree, 'd'eferred, 'u'sed. */
struct model {
    char is[MAX];
    uint64_t blocks;
};

static void set(struct model *m, uint64_t first, uint64_t n, char c)
{
    memset(m->is + first, c, n);
}

static uint64_t count(const struct model *m, char c)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < m->blocks; i++)
        n += m->is[i] == c;
    return n;
}

static bool lowest_run(const struct model *m, uint64_t n, uint64_t *first)
{
    uint64_t run = 0;
    for (uint64_t i = 0; i < m->blocks; i++) {
        run = m->is[i] == 'f' ? run + 1 : 0;
        if (run == n) {
            *first = i + 1 - n;
            return true;
        }
    }
    return false;
}

static void compare(const struct space *s, const struct model *m)
{
    uint64_t end = m->blocks;
    CHECK(space_check(s));
    CHECK_EQ(space_blocks(s), m->blocks);
    CHECK_EQ(space_free(s), count(m, 'f'));
    CHECK_EQ(space_deferred(s), count(m, 'd'));
    while (end && m->is[end - 1] == 'f')
        end--;
    CHECK_EQ(space_end(s), end);
    for (uint64_t i = 0; i < m->blocks; i += 7)
        CHECK_EQ(space_is_free(s, i), m->is[i] == 'f');
}

TEST(a_map_does_what_an_array_does)
{
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
        struct space *s = space_create(a);
        struct model m = {.blocks = 0};
        struct test_rng r = {seed};
        for (size_t step = 0; step < test_budget(1500); step++) {
            uint64_t first = m.blocks ? test_below(&r, m.blocks) : 0, got = 0, want = 0;
            uint64_t n =
                m.blocks ? test_below(&r, m.blocks - first < 100 ? m.blocks - first : 100) : 0;
            switch (test_below(&r, 8)) {
            case 0:
                got = m.blocks + test_below(&r, 60);
                if (got <= MAX) {
                    CHECK(space_grow(s, got));
                    set(&m, m.blocks, got - m.blocks, 'f');
                    m.blocks = got;
                }
                break;
            case 1:
                if (test_below(&r, 6) == 0) {
                    m.blocks = space_end(s) + (m.blocks - space_end(s)) / 2;
                    space_shrink(s, m.blocks);
                }
                break;
            case 2:
                space_set_free(s, first, n);
                set(&m, first, n, 'f');
                break;
            case 3:
                space_set_deferred(s, first, n);
                set(&m, first, n, 'd');
                break;
            case 4:
                if (test_below(&r, 5) == 0) {
                    space_release(s);
                    for (uint64_t i = 0; i < m.blocks; i++)
                        m.is[i] = m.is[i] == 'd' ? 'f' : m.is[i];
                }
                break;
            default:
                n = 1 + test_below(&r, 30);
                CHECK_EQ(space_take(s, n, &got), lowest_run(&m, n, &want));
                if (lowest_run(&m, n, &want)) {
                    CHECK_EQ(got, want);
                    set(&m, want, n, 'u');
                }
            }
            compare(s, &m);
        }
        space_destroy(s);
        mn_alloc_destroy(a);
    }
}

TEST(runs_of_free_blocks_are_walked)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct space *s = space_create(a);
    uint64_t first = 0, n = 0;
    CHECK(!space_next_free(s, 0, &first, &n));
    CHECK(!space_take(s, 1, &first));
    CHECK(space_grow(s, 200));
    space_set_used(s, 0, 10);
    space_set_used(s, 64, 64);
    space_set_used(s, 199, 1);
    CHECK(space_next_free(s, 0, &first, &n));
    CHECK(first == 10 && n == 54);
    CHECK(space_next_free(s, first + n, &first, &n));
    CHECK(first == 128 && n == 71);
    CHECK(!space_next_free(s, first + n, &first, &n));
    space_destroy(s);
    mn_alloc_destroy(a);
}

TEST(without_memory_it_does_not_grow)
{
    struct mn_alloc *a = mn_alloc_create(NULL, 4096);
    struct space *s = space_create(a);
    CHECK(space_grow(s, 1000));
    CHECK(!space_grow(s, 1000000));
    CHECK_EQ(space_blocks(s), 1000);
    CHECK_EQ(space_free(s), 1000);
    space_destroy(s);
    mn_alloc_destroy(a);
}

TEST_MAIN
