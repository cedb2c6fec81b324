/* A set of row ids that is emptied at no cost: open addressing, each place marked with the number
 * of the filling that it belongs to. Knows no search. In the caller's memory; one thread's. */
#ifndef MN_INDEX_ROW_SET_H
#define MN_INDEX_ROW_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct row_place {
    int64_t id;
    uint64_t filling;
};

struct row_set {
    struct row_place *places; /* [mask + 1], zeroed before the first use */
    size_t mask, n;
    uint64_t filling;         /* from 1 on */
};

/* Places that up to n ids need: at most half are taken then. */
static inline size_t row_set_places(size_t n)
{
    size_t places = 64;
    while (places < 2 * n)
        places *= 2;
    return places;
}

static inline void row_set_clear(struct row_set *s)
{
    s->filling++;
    s->n = 0;
}

/* Whether more ids would make it slow: clear it first. */
static inline bool row_set_full(const struct row_set *s)
{
    return s->n > s->mask / 4 * 3;
}

/* False if the id was there. Not for a full set. */
static inline bool row_set_add(struct row_set *s, int64_t id)
{
    size_t at = (size_t)(((uint64_t)id * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & s->mask;
    for (; s->places[at].filling == s->filling; at = (at + 1) & s->mask)
        if (s->places[at].id == id)
            return false;
    s->places[at] = (struct row_place){id, s->filling};
    s->n++;
    return true;
}

#endif
