#include "tests/sim/oom.h"

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* SQLite asks a block for its size; the size stands in front of it. 16 keeps the alignment. */
enum { FRONT = 16 };

static _Atomic uint64_t calls, fail_at, fired; /* relaxed */
static _Atomic bool stays;
static _Atomic int64_t mneme_blocks, sqlite_blocks;

static bool strikes(void)
{
    uint64_t n = atomic_fetch_add(&calls, 1) + 1, at = atomic_load(&fail_at);
    if (at == 0 || (atomic_load(&stays) ? n < at : n != at))
        return false;
    atomic_fetch_add(&fired, 1);
    return true;
}

static void *hook_alloc(void *ctx, size_t size)
{
    (void)ctx;
    void *p = strikes() ? NULL : malloc(size);
    if (p)
        atomic_fetch_add(&mneme_blocks, 1);
    return p;
}

static void hook_free(void *ctx, void *memory, size_t size)
{
    (void)ctx;
    (void)size;
    if (memory)
        atomic_fetch_sub(&mneme_blocks, 1);
    free(memory);
}

static int mem_size(void *p)
{
    int n = 0;
    if (p)
        memcpy(&n, (char *)p - FRONT, sizeof n);
    return n;
}

static void *mem_alloc(int size)
{
    char *base = strikes() ? NULL : malloc((size_t)size + FRONT);
    if (!base)
        return NULL;
    atomic_fetch_add(&sqlite_blocks, 1);
    memcpy(base, &size, sizeof size);
    return base + FRONT;
}

static void mem_free(void *p)
{
    if (!p)
        return;
    atomic_fetch_sub(&sqlite_blocks, 1);
    free((char *)p - FRONT);
}

static void *mem_realloc(void *p, int size)
{
    char *base = strikes() ? NULL : realloc((char *)p - FRONT, (size_t)size + FRONT);
    if (!base)
        return NULL;
    memcpy(base, &size, sizeof size);
    return base + FRONT;
}

static int mem_roundup(int size)
{
    return (size + 7) & ~7;
}

static int mem_init(void *ctx)
{
    (void)ctx;
    return SQLITE_OK;
}

static void mem_shutdown(void *ctx)
{
    (void)ctx;
}

bool oom_install(void)
{
    static const sqlite3_mem_methods counted = {
        mem_alloc, mem_free, mem_realloc, mem_size, mem_roundup, mem_init, mem_shutdown, NULL,
    };
    return sqlite3_shutdown() == SQLITE_OK &&
           sqlite3_config(SQLITE_CONFIG_MALLOC, &counted) == SQLITE_OK &&
           sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0) == SQLITE_OK &&
           sqlite3_initialize() == SQLITE_OK;
}

const mn_allocator *oom_hooks(void)
{
    static const mn_allocator hooks = {hook_alloc, hook_free, NULL};
    return &hooks;
}

void oom_arm(uint64_t n, bool sticky)
{
    atomic_store(&calls, 0);
    atomic_store(&fired, 0);
    atomic_store(&stays, sticky);
    atomic_store(&fail_at, n);
}

uint64_t oom_fired(void)
{
    return atomic_load(&fired);
}

uint64_t oom_calls(void)
{
    return atomic_load(&calls);
}

int64_t oom_balance(void)
{
    return atomic_load(&mneme_blocks);
}

int64_t oom_sqlite_balance(void)
{
    return atomic_load(&sqlite_blocks);
}
