/* SplitMix64, written out: what is drawn from a seed must be the same in every build. */
#ifndef MN_INDEX_RNG_H
#define MN_INDEX_RNG_H

#include <stdint.h>

static inline uint64_t rng_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* [0, n), n at most 2^32; its unevenness is below n / 2^32. */
static inline uint64_t rng_below(uint64_t *state, uint64_t n)
{
    return (rng_next(state) >> 32) * n >> 32;
}

#endif
