/*
 * Two bitmaps, one bit a block: 64 KiB for a file of 1 GiB. A block in neither is used. Searching
 * goes by words of 64, from the lowest word that may hold a free block.
 */
#include "storage/space.h"

#include <assert.h>
#include <string.h>

struct space {
    struct mn_alloc *alloc;
    uint64_t *free;     /* [room / 64] */
    uint64_t *deferred; /* [room / 64] */
    uint64_t room;      /* bits there is memory for, a multiple of 64; those behind blocks are 0 */
    uint64_t blocks;
    uint64_t n_free, n_deferred;
    uint64_t hint; /* no free block below; a multiple of 64 */
};

struct space *space_create(struct mn_alloc *a)
{
    struct space *s = mn_alloc_array(a, 1, sizeof *s, MN_TAG_IO);
    if (s)
        s->alloc = a;
    return s;
}

void space_destroy(struct space *s)
{
    if (!s)
        return;
    mn_free(s->alloc, s->free);
    mn_free(s->alloc, s->deferred);
    mn_free(s->alloc, s);
}

/* The bits of word `w` that lie in [first, end). */
static uint64_t mask(uint64_t w, uint64_t first, uint64_t end)
{
    uint64_t low = w * 64, m = ~(uint64_t)0;
    if (first > low)
        m &= ~(uint64_t)0 << (first - low);
    if (end < low + 64)
        m &= ~(~(uint64_t)0 << (end - low));
    return m;
}

/* Sets or clears [first, first + n); returns how many bits changed. */
static uint64_t put(uint64_t *bits, uint64_t first, uint64_t n, bool on)
{
    uint64_t changed = 0, end = first + n;
    for (uint64_t w = first / 64; w * 64 < end; w++) {
        uint64_t m = mask(w, first, end), was = bits[w] & m;
        changed += (uint64_t)__builtin_popcountll(on ? m & ~was : was);
        bits[w] = on ? bits[w] | m : bits[w] & ~m;
    }
    return changed;
}

static bool more_room(struct space *s, uint64_t blocks)
{
    uint64_t room = (blocks + blocks / 4 + 63) / 64 * 64;
    uint64_t *a = mn_alloc_array(s->alloc, room / 64, sizeof *a, MN_TAG_IO);
    uint64_t *b = mn_alloc_array(s->alloc, room / 64, sizeof *b, MN_TAG_IO);
    if (!a || !b) {
        mn_free(s->alloc, a);
        mn_free(s->alloc, b);
        return false;
    }
    if (s->room) {
        memcpy(a, s->free, s->room / 8);
        memcpy(b, s->deferred, s->room / 8);
    }
    mn_free(s->alloc, s->free);
    mn_free(s->alloc, s->deferred);
    s->free = a;
    s->deferred = b;
    s->room = room;
    return true;
}

bool space_grow(struct space *s, uint64_t blocks)
{
    if (blocks <= s->blocks)
        return true;
    if (blocks > s->room && !more_room(s, blocks))
        return false;
    uint64_t first = s->blocks;
    s->blocks = blocks;
    space_set_free(s, first, blocks - first);
    return true;
}

void space_shrink(struct space *s, uint64_t blocks)
{
    assert(blocks <= s->blocks && blocks >= space_end(s));
    s->n_free -= put(s->free, blocks, s->blocks - blocks, false);
    s->blocks = blocks;
}

static void set(struct space *s, uint64_t first, uint64_t n, bool is_free, bool is_deferred)
{
    assert(first <= s->blocks && n <= s->blocks - first);
    if (n == 0)
        return;
    uint64_t f = put(s->free, first, n, is_free), d = put(s->deferred, first, n, is_deferred);
    s->n_free = is_free ? s->n_free + f : s->n_free - f;
    s->n_deferred = is_deferred ? s->n_deferred + d : s->n_deferred - d;
    if (is_free && first / 64 * 64 < s->hint)
        s->hint = first / 64 * 64;
}

void space_set_used(struct space *s, uint64_t first, uint64_t n)
{
    set(s, first, n, false, false);
}

void space_set_free(struct space *s, uint64_t first, uint64_t n)
{
    set(s, first, n, true, false);
}

void space_set_deferred(struct space *s, uint64_t first, uint64_t n)
{
    set(s, first, n, false, true);
}

void space_release(struct space *s)
{
    for (uint64_t w = 0; w * 64 < s->blocks; w++) {
        s->free[w] |= s->deferred[w];
        s->deferred[w] = 0;
    }
    s->n_free += s->n_deferred;
    s->n_deferred = 0;
    s->hint = 0;
}

/* First bit equal to `on` in [from, s->blocks), or s->blocks. */
static uint64_t find(const struct space *s, const uint64_t *bits, uint64_t from, bool on)
{
    while (from < s->blocks) {
        uint64_t word = on ? bits[from / 64] : ~bits[from / 64];
        word &= ~(uint64_t)0 << from % 64;
        if (word) {
            uint64_t at = from / 64 * 64 + (uint64_t)__builtin_ctzll(word);
            return at < s->blocks ? at : s->blocks;
        }
        from = (from / 64 + 1) * 64;
    }
    return s->blocks;
}

bool space_next_free(const struct space *s, uint64_t from, uint64_t *first, uint64_t *n)
{
    *first = find(s, s->free, from, true);
    *n = find(s, s->free, *first, false) - *first;
    return *n > 0;
}

bool space_take(struct space *s, uint64_t n, uint64_t *first)
{
    uint64_t at = s->hint, run = 0;
    bool lowest = true;
    if (n == 0 || n > s->n_free)
        return false;
    while (space_next_free(s, at, first, &run)) {
        if (lowest)
            s->hint = *first / 64 * 64;
        lowest = false;
        if (run >= n) {
            space_set_used(s, *first, n);
            return true;
        }
        at = *first + run;
    }
    return false;
}

uint64_t space_blocks(const struct space *s)
{
    return s->blocks;
}

uint64_t space_free(const struct space *s)
{
    return s->n_free;
}

uint64_t space_deferred(const struct space *s)
{
    return s->n_deferred;
}

uint64_t space_end(const struct space *s)
{
    for (uint64_t w = (s->blocks + 63) / 64; w-- > 0;) {
        uint64_t taken = ~s->free[w] & mask(w, 0, s->blocks);
        if (taken)
            return w * 64 + 64 - (uint64_t)__builtin_clzll(taken);
    }
    return 0;
}

bool space_is_free(const struct space *s, uint64_t block)
{
    return block < s->blocks && (s->free[block / 64] >> block % 64 & 1);
}

bool space_check(const struct space *s)
{
    uint64_t n_free = 0, n_deferred = 0;
    for (uint64_t w = 0; w < s->room / 64; w++) {
        uint64_t inside = w * 64 < s->blocks ? mask(w, 0, s->blocks) : 0;
        if ((s->free[w] & s->deferred[w]) || ((s->free[w] | s->deferred[w]) & ~inside))
            return false;
        n_free += (uint64_t)__builtin_popcountll(s->free[w]);
        n_deferred += (uint64_t)__builtin_popcountll(s->deferred[w]);
    }
    return n_free == s->n_free && n_deferred == s->n_deferred;
}
