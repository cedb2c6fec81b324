/*
 * Which code computes the CRC is decided at the first call and kept in one atomic pointer; all
 * choices give the same sums, so that a race only decides twice.
 */
#include "storage/base/crc.h"

#include <stdatomic.h>

#define POLYNOMIAL 0x82f63b78u /* Castagnoli's, reflected */

#if defined(__x86_64__)
uint32_t crc32c_sse42(uint32_t crc, const void *data, size_t n);
#endif

typedef uint32_t (*crc_fn)(uint32_t crc, const void *data, size_t n);

/* table[b]: CRC register after byte b from a register of 0. Four bits at a time: 64 bytes that need
 * no setting up. */
static const uint32_t nibbles[16] = {
#define STEP(c) (((c) >> 1) ^ (((c)&1) ? POLYNOMIAL : 0))
#define NIBBLE(n) STEP(STEP(STEP(STEP((uint32_t)(n)))))
    NIBBLE(0),  NIBBLE(1),  NIBBLE(2),  NIBBLE(3), NIBBLE(4),  NIBBLE(5),
    NIBBLE(6),  NIBBLE(7),  NIBBLE(8),  NIBBLE(9), NIBBLE(10), NIBBLE(11),
    NIBBLE(12), NIBBLE(13), NIBBLE(14), NIBBLE(15)
#undef NIBBLE
#undef STEP
};

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t n)
{
    const unsigned char *p = data;
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return ~crc;
}

static crc_fn choose(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"))
        return crc32c_sse42;
#endif
    return crc32c_portable;
}

static crc_fn best(void)
{
    static _Atomic(crc_fn) chosen; /* relaxed: code does not change */
    crc_fn fn = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (!fn) {
        fn = choose();
        atomic_store_explicit(&chosen, fn, memory_order_relaxed);
    }
    return fn;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t n)
{
    return best()(crc, data, n);
}

void crc32c_blocks(const void *data, size_t n, uint32_t *out)
{
    crc_fn fn = best();
    for (size_t i = 0; i < n; i++)
        out[i] = fn(0, (const char *)data + i * CRC_BLOCK, CRC_BLOCK);
}

const char *crc32c_name(void)
{
    return best() == crc32c_portable ? "portable" : "sse4.2";
}
