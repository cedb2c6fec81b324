/* The k-th least of the numbers seen so far: the threshold of a search. Exact up to SORTED_K, where
 * each number goes to its place; beyond, numbers are buffered and the k least are picked now and
 * then, so the threshold may lag behind. Knows no rows. In the caller's memory. */
#ifndef MN_INDEX_BEST_H
#define MN_INDEX_BEST_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BEST_SORTED = 48 };

struct best {
    float *keys;       /* [best_room(k)] */
    uint32_t k, n;     /* n kept; more than k while buffered */
    float limit;       /* keys at or above this are of no use; INFINITY until k were seen */
    float cap;         /* limit is never above this */
};

/* Floats that k needs. */
static inline size_t best_room(uint32_t k)
{
    return k <= BEST_SORTED ? k : 2 * (size_t)k;
}

static inline void best_init(struct best *b, float *keys, uint32_t k)
{
    *b = (struct best){.keys = keys, .k = k, .limit = INFINITY, .cap = INFINITY};
}

/* The caller knows k keys up to `cap`. */
static inline void best_cap(struct best *b, float cap)
{
    b->cap = fminf(b->cap, cap);
    b->limit = fminf(b->limit, cap);
}

/* Only for key < limit. */
void best_push(struct best *b, float key);

/* Brings limit up to date. */
void best_settle(struct best *b);

/* Puts the n-th least (from 0) of `count` keys at keys[n], lesser ones before it. No NaN. */
void best_select(float *keys, size_t count, size_t n);

#endif
