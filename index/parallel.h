/* Threads lent to index/, which starts none itself. */
#ifndef MN_INDEX_PARALLEL_H
#define MN_INDEX_PARALLEL_H

#include <stdint.h>

struct parallel {
    /* Runs fn(arg, 0) on the calling thread, fn(arg, 1 .. n - 1) each at most once on any others
     * there are, and returns when all that began have ended: fn must not count on any but worker 0.
     * NULL: fn(arg, 0) alone. */
    void (*run)(void *ctx, unsigned n, void (*fn)(void *arg, unsigned worker), void *arg);
    void *ctx;
    uint32_t threads; /* the most that are wanted at once; 0 is 1 */
};

static inline uint32_t parallel_threads(const struct parallel *p)
{
    return p && p->run && p->threads > 1 ? p->threads : 1;
}

/* fn by n workers at most. */
static inline void parallel_run(const struct parallel *p, uint32_t n,
                                void (*fn)(void *arg, unsigned worker), void *arg)
{
    if (n > 1 && parallel_threads(p) > 1)
        p->run(p->ctx, n, fn, arg);
    else
        fn(arg, 0);
}

#endif
