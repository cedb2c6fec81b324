#include "storage/base/mutate.h"

#ifdef MNEME_MUTATIONS

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[MUTATE_COUNT] = {"",
#define X(enumerator, name) name,
                                                MUTATIONS(X)
#undef X
};

static _Atomic int current = -1; /* -1: the environment was not asked yet */

bool mutate(enum mutation m)
{
    int now = atomic_load_explicit(&current, memory_order_relaxed);
    if (now < 0) {
        const char *text = getenv("MNEME_MUTATE");
        now = MUTATE_NONE;
        for (int i = 1; text && i < MUTATE_COUNT; i++)
            if (strcmp(text, names[i]) == 0)
                now = i;
        atomic_store_explicit(&current, now, memory_order_relaxed);
    }
    return now == (int)m;
}

void mutate_set(enum mutation m)
{
    atomic_store_explicit(&current, (int)m, memory_order_relaxed);
}

const char *mutate_name(enum mutation m)
{
    return names[m];
}

#else
typedef int mutate_is_left_out; /* a file must declare something */
#endif
