/* CRC32C against known sums, and the fast code against the slow one. */
#include "tests/test.h"

#include "storage/base/crc.h"

#include <time.h>

TEST(known_sums_come_out)
{
    static const struct {
        const char *name;
        unsigned char first, step;
        size_t n;
        uint32_t want;
    } cases[] = {
        /* RFC 3720, B.4 */
        {"32 zeros", 0, 0, 32, 0x8a9136aa},
        {"32 ones", 0xff, 0, 32, 0x62a8ab43},
        {"32 ascending", 0, 1, 32, 0x46dd794e},
        {"32 descending", 31, 0xff, 32, 0x113fdb5c},
        {"nothing", 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char bytes[32], b = cases[i].first;
        for (size_t j = 0; j < cases[i].n; j++, b = (unsigned char)(b + cases[i].step))
            bytes[j] = b;
        CHECKF(crc32c(0, bytes, cases[i].n) == cases[i].want, "%s", cases[i].name);
        CHECKF(crc32c_portable(0, bytes, cases[i].n) == cases[i].want, "%s, portable",
               cases[i].name);
    }
    CHECK_EQ(crc32c(0, "123456789", 9), 0xe3069283u);
}

TEST(fast_and_portable_code_agree)
{
    static unsigned char bytes[3 * 4096 + 64];
    struct test_rng r = {7};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)test_rand(&r);
    for (size_t n = 0; n <= 1100; n++) /* across the short lanes' borders */
        CHECKF(crc32c(5, bytes + n % 9, n) == crc32c_portable(5, bytes + n % 9, n), "%zu", n);
    for (size_t i = 0; i < 200; i++) {
        size_t at = test_below(&r, 64), n = test_below(&r, sizeof bytes - 64);
        uint32_t seed = (uint32_t)test_rand(&r);
        CHECKF(crc32c(seed, bytes + at, n) == crc32c_portable(seed, bytes + at, n), "%zu at %zu", n,
               at);
    }
}

TEST(sums_can_be_taken_in_parts)
{
    static unsigned char bytes[10000];
    struct test_rng r = {8};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)test_rand(&r);
    uint32_t whole = crc32c(0, bytes, sizeof bytes);
    for (size_t cut = 0; cut <= sizeof bytes; cut += 97)
        CHECK_EQ(crc32c(crc32c(0, bytes, cut), bytes + cut, sizeof bytes - cut), whole);
}

TEST(blocks_are_summed_each_by_itself)
{
    static unsigned char bytes[5 * CRC_BLOCK];
    uint32_t sums[5];
    struct test_rng r = {9};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)test_rand(&r);
    crc32c_blocks(bytes, 5, sums);
    for (size_t i = 0; i < 5; i++)
        CHECK_EQ(sums[i], crc32c_portable(0, bytes + i * CRC_BLOCK, CRC_BLOCK));
}

TEST(every_flipped_bit_changes_the_sum)
{
    static unsigned char block[CRC_BLOCK];
    uint32_t want = crc32c(0, block, sizeof block);
    for (size_t bit = 0; bit < 8 * sizeof block; bit += 5) {
        block[bit / 8] ^= (unsigned char)(1 << bit % 8);
        CHECKF(crc32c(0, block, sizeof block) != want, "bit %zu", bit);
        block[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
}

TEST(speed_is_told)
{
    static unsigned char bytes[256 * CRC_BLOCK];
    uint32_t sums[256], mixed = 0;
    struct timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    for (int i = 0; i < 16; i++) {
        crc32c_blocks(bytes, 256, sums);
        mixed ^= sums[i];
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    double s = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    test_note("%s: %.1f GB/s by blocks of 4 KiB", crc32c_name(),
              16.0 * (double)sizeof bytes / s / 1e9);
    CHECK_EQ(mixed, 0); /* 16 equal sums */
}

TEST_MAIN
