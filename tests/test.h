/* The test harness. A test program is one file per module:
 *
 *     #include "tests/test.h"
 *     TEST(extent_rejects_wrong_owner)
 *     {
 *         CHECK(extent_load(...) == MN_CORRUPT);
 *         CHECK_HAS(err.message, "owner");
 *     }
 *     TEST_MAIN
 *
 * Each TEST registers itself and runs in the order of the file, in a folder of its own
 * (test_dir()), which is removed afterwards. A failed CHECK prints file, line and values, and ends
 * that test. `program NAME...` runs only the tests whose names contain a NAME; `-l` lists them.
 * The program closes with "N passed, N failed". Exit 0: all passed; 1: some failed; 77: all that
 * ran were skipped. MNEME_TEST_LONG=1 asks for the long form of suites that have one;
 * MNEME_TEST_TENTH=1 for a tenth of the loops (under sanitizers). */
#ifndef MN_TESTS_TEST_H
#define MN_TESTS_TEST_H

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
    const char *name;
    void (*run)(void);
    struct test *next;
};

void test_register(struct test *t);
int test_main(int argc, char **argv);
__attribute__((noreturn, format(printf, 3, 4))) void test_fail(const char *file, int line,
                                                               const char *format, ...);
__attribute__((noreturn, format(printf, 1, 2))) void test_skip(const char *format, ...);
__attribute__((format(printf, 1, 2))) void test_note(const char *format, ...); /* a figure */

const char *test_dir(void);                   /* this test's own folder */
const char *test_path(const char *name);      /* a path in it; a few stay valid at a time */
bool test_long(void);
size_t test_budget(size_t n);                 /* loops to run: n; n/10 in tenth mode; 20n in long */
const char *test_shared(const char *name);    /* a path under ../shared, or skips the test */
const char *test_source(const char *name);    /* a path in the source tree */

/* xorshift-multiply generator for tests: a seed replays. */
struct test_rng {
    uint64_t state;
};
uint64_t test_rand(struct test_rng *r);
double test_uniform(struct test_rng *r);                    /* [0, 1) */
double test_normal(struct test_rng *r);                     /* mean 0, deviation 1 */
uint64_t test_below(struct test_rng *r, uint64_t n);        /* [0, n) */

#define TEST(test_name)                                                                            \
    static void test_name(void);                                                                   \
    static struct test test_entry_##test_name = {#test_name, test_name, NULL};                     \
    __attribute__((constructor)) static void test_register_##test_name(void)                       \
    {                                                                                              \
        test_register(&test_entry_##test_name);                                                    \
    }                                                                                              \
    static void test_name(void)

#define TEST_MAIN                                                                                  \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        return test_main(argc, argv);                                                              \
    }

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            test_fail(__FILE__, __LINE__, "%s", #condition);                                       \
    } while (0)

/* With a message: CHECKF(a == b, "row %d", i) */
#define CHECKF(condition, ...)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            test_fail(__FILE__, __LINE__, __VA_ARGS__);                                            \
    } while (0)

#define CHECK_EQ(got, want)                                                                        \
    do {                                                                                           \
        long long got_ = (long long)(got), want_ = (long long)(want);                              \
        if (got_ != want_)                                                                         \
            test_fail(__FILE__, __LINE__, "%s is %lld, want %lld (%s)", #got, got_, want_, #want); \
    } while (0)

#define CHECK_NEAR(got, want, tolerance)                                                           \
    do {                                                                                           \
        double got_ = (got), want_ = (want);                                                       \
        if (!(fabs(got_ - want_) <= (tolerance)))                                                  \
            test_fail(__FILE__, __LINE__, "%s is %.9g, want %.9g", #got, got_, want_);             \
    } while (0)

#define CHECK_STR(got, want)                                                                       \
    do {                                                                                           \
        const char *got_ = (got), *want_ = (want);                                                 \
        if (strcmp(got_, want_) != 0)                                                              \
            test_fail(__FILE__, __LINE__, "%s is \"%s\", want \"%s\"", #got, got_, want_);         \
    } while (0)

#define CHECK_HAS(text, part)                                                                      \
    do {                                                                                           \
        const char *text_ = (text), *part_ = (part);                                               \
        if (!strstr(text_, part_))                                                                 \
            test_fail(__FILE__, __LINE__, "\"%s\" lacks \"%s\"", text_, part_);                    \
    } while (0)

/* A call with an mn_error must succeed; the message is shown if not. */
#define CHECK_OK(call, err)                                                                        \
    do {                                                                                           \
        int st_ = (int)(call);                                                                     \
        if (st_ != 0)                                                                              \
            test_fail(__FILE__, __LINE__, "%s: status %d, %s", #call, st_, (err).message);         \
    } while (0)

#endif
