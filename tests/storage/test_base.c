/* What everything stands on: errors, the counted allocator, UTF-8. */
#include <errno.h>

#include "storage/base/alloc.h"
#include "storage/base/error.h"
#include "storage/base/utf8.h"
#include "tests/test.h"

/* ---- Errors
 * -------------------------------------------------------------------------------------- */

TEST(the_first_failure_wins_and_callers_add_in_front)
{
    mn_error err = {0};
    CHECK_EQ(mn_fail(&err, MN_INVALID, "element %d is %s", 3, "odd"), MN_INVALID);
    CHECK_EQ(mn_fail(&err, MN_IO, "later"), MN_IO);
    CHECK_EQ(err.code, MN_INVALID);
    CHECK_STR(err.message, "element 3 is odd");
    mn_error_context(&err, "put: row %d: ", 7);
    CHECK_STR(err.message, "put: row 7: element 3 is odd");
    mn_error_clear(&err);
    CHECK(err.code == MN_OK && !err.message[0] && !err.os_error && !err.sqlite_error);
    mn_error_context(&err, "put: ");
    CHECK_STR(err.message, "");
    CHECK_EQ(mn_fail(NULL, MN_FULL, "nobody listens"), MN_FULL);
    mn_error_context(NULL, "x");
    mn_error_clear(NULL);
}

TEST(an_operating_systems_error_is_told_in_its_words)
{
    mn_error err = {0};
    CHECK_EQ(mn_fail_os(&err, MN_READONLY, EACCES, "%s", "a.db"), MN_READONLY);
    CHECK_STR(err.message, "a.db: Permission denied");
    CHECK_EQ(err.os_error, EACCES);
}

TEST(a_sentence_that_is_too_long_ends_in_dots)
{
    mn_error err = {0};
    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    CHECK_EQ(mn_fail(&err, MN_INVALID, "%s", text), MN_INVALID);
    CHECK_EQ(strlen(err.message), sizeof err.message - 1);
    CHECK_STR(err.message + sizeof err.message - 4, "...");
    mn_error_context(&err, "in front: ");
    CHECK_EQ(strlen(err.message), sizeof err.message - 1);
    CHECK(strncmp(err.message, "in front: xxx", 13) == 0);
    CHECK_STR(err.message + sizeof err.message - 4, "...");
    for (size_t n = sizeof err.message - 30; n < sizeof err.message + 2; n++) {
        mn_error_clear(&err);
        CHECK_EQ(mn_fail_os(&err, MN_IO, ENOSPC, "%.*s", (int)n, text), MN_IO);
        CHECK(strlen(err.message) < sizeof err.message);
    }
}

/* ---- Allocator
 * -------------------------------------------------------------------------------------- */

TEST(memory_is_counted_and_held_to_the_cap)
{
    struct mn_alloc *a = mn_alloc_create(NULL, 10000);
    CHECK(a);
    char *p = mn_alloc(a, 4000, MN_TAG_CACHE);
    CHECK(p && (uintptr_t)p % 64 == 0);
    memset(p, 1, 4000);
    uint64_t one = mn_alloc_used(a);
    CHECK(one >= 4000 && one < 4400);
    CHECK_EQ(mn_alloc_used_by(a, MN_TAG_CACHE), one);
    CHECK_EQ(mn_alloc_used_by(a, MN_TAG_SEARCH), 0);
    void *q = mn_alloc(a, 4000, MN_TAG_SEARCH);
    CHECK(q);
    CHECK(!mn_alloc(a, 4000, MN_TAG_SEARCH)); /* beyond the cap, and nothing changed */
    CHECK_EQ(mn_alloc_used(a), 2 * one);
    void *handle = mn_alloc(a, 100000, MN_TAG_HANDLE); /* not held to it */
    CHECK(handle);
    CHECK_EQ(mn_alloc_used(a), 2 * one);
    mn_free(a, q);
    CHECK_EQ(mn_alloc_used(a), one);
    CHECK_EQ(mn_alloc_peak(a), 2 * one);
    CHECK_EQ(mn_alloc_cap(a), 10000);
    CHECK_EQ(mn_alloc_calls(a), 3);
    mn_free(a, p);
    mn_free(a, handle);
    mn_free(a, NULL);
    CHECK_EQ(mn_alloc_used(a), 0);
    CHECK_EQ(mn_alloc_used_by(a, MN_TAG_HANDLE), 0);
    mn_alloc_destroy(a);
    mn_alloc_destroy(NULL);
}

TEST(sizes_that_overflow_find_no_memory)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    size_t product;
    CHECK(!mn_alloc(a, SIZE_MAX, MN_TAG_ROWS));
    CHECK(!mn_alloc(a, SIZE_MAX - 100, MN_TAG_ROWS));
    CHECK(!mn_alloc_array(a, SIZE_MAX / 2, 3, MN_TAG_ROWS));
    CHECK(!mn_mul(SIZE_MAX, 2, &product) && !mn_add(SIZE_MAX, 1, &product));
    CHECK(mn_mul(3, 4, &product) && product == 12);
    CHECK(mn_add(3, 4, &product) && product == 7);
    void *none = mn_alloc(a, 0, MN_TAG_ROWS);
    CHECK(none);
    mn_free(a, none);
    CHECK_EQ(mn_alloc_used(a), 0);
    mn_alloc_destroy(a);
}

TEST(memory_is_aligned_as_asked)
{
    static const size_t sizes[] = {0, 1, 100, 5000, MN_HUGE_ALIGNED - 1, MN_HUGE_ALIGNED, 5 << 20};
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    for (size_t align = 64; align <= 8192; align *= 2)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            char *p = mn_alloc_aligned(a, sizes[i], align, MN_TAG_CACHE);
            CHECK(p && (uintptr_t)p % align == 0);
            memset(p, 1, sizes[i]);
            mn_free(a, p);
        }
    CHECK_EQ(mn_alloc_used(a), 0);
    mn_alloc_destroy(a);
}

TEST(arrays_are_zero_and_growing_keeps_what_is_there)
{
    struct mn_alloc *a = mn_alloc_create(NULL, 1 << 20);
    for (int round = 0; round < 20; round++) { /* memory that was used before */
        unsigned char *p = mn_alloc_array(a, 100, 7, MN_TAG_ROWS);
        for (int i = 0; i < 700; i++)
            CHECK_EQ(p[i], 0);
        memset(p, 0xff, 700);
        mn_free(a, p);
    }
    char *p = mn_realloc(a, NULL, 10, MN_TAG_IO);
    memcpy(p, "0123456789", 10);
    for (size_t n = 11; n < 5000; n = n * 3 / 2) {
        char *more = mn_realloc(a, p, n, MN_TAG_IO);
        CHECK(more && memcmp(more, "0123456789", 10) == 0);
        p = more;
    }
    CHECK(!mn_realloc(a, p, 1 << 20, MN_TAG_IO)); /* the old memory stands */
    CHECK(memcmp(p, "0123456789", 10) == 0);
    p = mn_realloc(a, p, 4, MN_TAG_IO);
    CHECK(memcmp(p, "0123", 4) == 0);
    char *text = mn_strdup(a, "copy", MN_TAG_HANDLE);
    CHECK_STR(text, "copy");
    mn_free(a, text);
    mn_free(a, p);
    mn_alloc_destroy(a);
}

static void *refuse(void *ctx, size_t size)
{
    int *left = ctx;
    return (*left)-- > 0 ? malloc(size) : NULL;
}

static void release(void *ctx, void *memory, size_t size)
{
    (void)ctx;
    (void)size;
    free(memory);
}

TEST(hooks_that_refuse_leave_the_counters_right)
{
    int left = 0;
    mn_allocator hooks = {refuse, release, &left};
    CHECK(!mn_alloc_create(&hooks, 1000));
    left = 2;
    struct mn_alloc *a = mn_alloc_create(&hooks, 100000);
    CHECK(a);
    void *p = mn_alloc(a, 100, MN_TAG_ROWS);
    CHECK(p);
    uint64_t used = mn_alloc_used(a);
    CHECK(!mn_alloc(a, 100, MN_TAG_ROWS));
    CHECK(!mn_realloc(a, p, 1000, MN_TAG_ROWS));
    CHECK_EQ(mn_alloc_used(a), used);
    CHECK_EQ(mn_alloc_used_by(a, MN_TAG_ROWS), used);
    mn_free(a, p);
    mn_alloc_destroy(a);
    for (int tag = 0; tag < MN_TAG_COUNT; tag++)
        CHECK(*mn_tag_name((enum mn_tag)tag));
}

/* ---- UTF-8
 * ------------------------------------------------------------------------------------------ */

TEST(utf8_is_checked_to_the_byte)
{
    static const struct {
        const char *text;
        size_t n, bad;
    } texts[] = {{"", 0, 0},
                 {"plain ascii of more than eight bytes", 36, 36},
                 {"a\0b", 3, 3},
                 {"\xc3\xa9", 2, 2},
                 {"\xe2\x82\xac", 3, 3},
                 {"\xf0\x9f\x98\x80", 4, 4},
                 {"\xf4\x8f\xbf\xbf", 4, 4},
                 {"\xf4\x90\x80\x80", 4, 0}, /* beyond 0x10ffff */
                 {"\xc0\xaf", 2, 0},         /* overlong */
                 {"\xe0\x80\xaf", 3, 0},     /* overlong */
                 {"\xf0\x80\x80\xaf", 4, 0}, /* overlong */
                 {"\xed\xa0\x80", 3, 0},     /* a surrogate */
                 {"\xed\x9f\xbf", 3, 3},
                 {"abc\x80", 4, 3}, /* continues nothing */
                 {"12345678\xff", 9, 8},
                 {"1234567\xc3\xa9", 9, 9}, /* across the step of eight */
                 {"1234567\xc3", 8, 7},     /* cut */
                 {"\xe2\x82", 2, 0},
                 {"\xf0\x9f\x98", 3, 0},
                 {"\xc3(", 2, 0}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        CHECKF(utf8_check(texts[i].text, texts[i].n) == texts[i].bad, "text %zu: %zu", i,
               utf8_check(texts[i].text, texts[i].n));
}

/* Another way to say the same: decode one character and ask what it is. 0: none. */
static size_t decode(const unsigned char *p, size_t left)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    if (n == 0 || n > left)
        return 0;
    uint32_t value = n == 1 ? p[0] : p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2)
            return 0;
        value = value << 6 | (p[i] & 0x3f);
    }
    bool good = value >= least[n] && value <= 0x10ffff && (value < 0xd800 || value > 0xdfff);
    return good ? n : 0;
}

static size_t slow_check(const unsigned char *p, size_t n)
{
    size_t at = 0, len;
    while (at < n && (len = decode(p + at, n - at)) > 0)
        at += len;
    return at;
}

TEST(every_sequence_of_up_to_three_bytes_is_judged_right)
{
    unsigned char p[4];
    for (uint32_t i = 0; i < 1u << 24; i += i < 1u << 16 ? 1 : 7) {
        size_t n = i < 1u << 8 ? 1 : i < 1u << 16 ? 2 : 3;
        for (size_t j = 0; j < n; j++)
            p[j] = (unsigned char)(i >> 8 * (n - 1 - j));
        CHECKF(utf8_check((char *)p, n) == slow_check(p, n), "%06x", i);
    }
    struct test_rng r = {1};
    for (size_t i = 0; i < 100000; i++) {
        uint64_t bits = test_rand(&r);
        p[0] = (unsigned char)(0xf0 | (bits & 7));
        for (int j = 1; j < 4; j++)
            p[j] = (unsigned char)(0x80 | (bits >> 8 * j & (bits >> 40 & 15 ? 0x3f : 0xff)));
        CHECKF(utf8_check((char *)p, 4) == slow_check(p, 4), "%02x%02x%02x%02x", p[0], p[1], p[2],
               p[3]);
    }
}

TEST_MAIN
