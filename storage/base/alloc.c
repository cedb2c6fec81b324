/*
 * Every block carries a header of 64 bytes in front of what the caller sees:
 *
 *     base .. (padding) [ struct head, 64 bytes ] [ the caller's bytes, aligned to 64 or more ]
 *
 * The head keeps what free needs (the base pointer, the full size) so that callers need not
 * remember sizes. Alignment of 64 is for the vector kernels. The cap counts the full size.
 */
#include "storage/base/alloc.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 64, PAGE = 4096, HUGE_PAGE = 2 << 20 };

struct head {
    void *base;   /* what the hook returned */
    size_t total; /* bytes asked from the hook */
    size_t size;  /* bytes the caller asked for */
    enum mn_tag tag;
};

static_assert(sizeof(struct head) <= ALIGN, "the head must fit in front of an aligned block");
static_assert((int)MN_HUGE_BLOCK + 2 * (int)ALIGN == (int)HUGE_PAGE, "it fills a huge page");

struct mn_alloc {
    mn_allocator hooks;                    /* set in create */
    uint64_t cap;                          /* set in create; bytes */
    _Atomic uint64_t used;                 /* held to the cap: all tags but HANDLE; relaxed */
    _Atomic uint64_t peak;                 /* relaxed; statistics only */
    _Atomic uint64_t calls;                /* relaxed; statistics only */
    _Atomic uint64_t by_tag[MN_TAG_COUNT]; /* relaxed; statistics only */
};

static const char *const tag_names[MN_TAG_COUNT] = {
#define X(name, word) [MN_TAG_##name] = word,
    MN_TAGS(X)
#undef X
};

static size_t whole_pages(size_t size)
{
    return (size + PAGE - 1) / PAGE * PAGE;
}

/* Pages of its own from a multiple of 2 MiB on. Only a whole huge page within the block can be one,
 * so no more becomes resident than was asked for, up to a page. */
static void *map_huge(size_t size)
{
    size_t room, used = whole_pages(size);
    if (used < size || !mn_add(used, HUGE_PAGE, &room))
        return NULL;
    char *base = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) % HUGE_PAGE;
    char *block = base + before;
    if (before)
        munmap(base, before);
    if (room - before > used)
        munmap(block + used, room - before - used);
    madvise(block, used, MADV_HUGEPAGE); /* refused where there are none: no matter */
    return block;
}

static void *default_alloc(void *ctx, size_t size)
{
    (void)ctx;
    return size >= HUGE_PAGE ? map_huge(size) : malloc(size);
}

static void default_free(void *ctx, void *memory, size_t size)
{
    (void)ctx;
    if (size >= HUGE_PAGE)
        munmap(memory, whole_pages(size));
    else
        free(memory);
}

struct mn_alloc *mn_alloc_create(const mn_allocator *hooks, uint64_t cap)
{
    static const mn_allocator standard = {default_alloc, default_free, NULL};
    if (!hooks)
        hooks = &standard;
    struct mn_alloc *a = hooks->alloc(hooks->ctx, sizeof *a);
    if (!a)
        return NULL;
    memset(a, 0, sizeof *a);
    a->hooks = *hooks;
    a->cap = cap;
    return a;
}

void mn_alloc_destroy(struct mn_alloc *a)
{
    if (!a)
        return;
    for (int tag = 0; tag < MN_TAG_COUNT; tag++)
        assert(atomic_load(&a->by_tag[tag]) == 0);
    mn_allocator hooks = a->hooks;
    hooks.free(hooks.ctx, a, sizeof *a);
}

/* Reserves `total` bytes under the cap; false leaves the counters as they were. */
static bool reserve(struct mn_alloc *a, size_t total, enum mn_tag tag)
{
    if (tag != MN_TAG_HANDLE) {
        uint64_t now = atomic_load_explicit(&a->used, memory_order_relaxed);
        do {
            if (total > a->cap || now > a->cap - total)
                return false;
        } while (!atomic_compare_exchange_weak_explicit(
            &a->used, &now, now + total, memory_order_relaxed, memory_order_relaxed));
        uint64_t peak = atomic_load_explicit(&a->peak, memory_order_relaxed);
        while (peak < now + total &&
               !atomic_compare_exchange_weak_explicit(&a->peak, &peak, now + total,
                                                      memory_order_relaxed, memory_order_relaxed)) {
        }
    }
    atomic_fetch_add_explicit(&a->by_tag[tag], total, memory_order_relaxed);
    return true;
}

static void unreserve(struct mn_alloc *a, size_t total, enum mn_tag tag)
{
    if (tag != MN_TAG_HANDLE)
        atomic_fetch_sub_explicit(&a->used, total, memory_order_relaxed);
    atomic_fetch_sub_explicit(&a->by_tag[tag], total, memory_order_relaxed);
}

static struct head *head_of(void *p)
{
    return (struct head *)((char *)p - ALIGN);
}

void *mn_alloc_aligned(struct mn_alloc *a, size_t size, size_t align, enum mn_tag tag)
{
    size_t total;
    assert(align >= ALIGN && (align & (align - 1)) == 0);
    if (!mn_add(size, ALIGN + align, &total) || !reserve(a, total, tag))
        return NULL;
    atomic_fetch_add_explicit(&a->calls, 1, memory_order_relaxed);
    char *base = a->hooks.alloc(a->hooks.ctx, total);
    if (!base) {
        unreserve(a, total, tag);
        return NULL;
    }
    char *user = base + ALIGN;
    user += (align - (uintptr_t)user % align) % align;
    *head_of(user) = (struct head){.base = base, .total = total, .size = size, .tag = tag};
    return user;
}

void *mn_alloc(struct mn_alloc *a, size_t size, enum mn_tag tag)
{
    return mn_alloc_aligned(a, size, ALIGN, tag);
}

void *mn_alloc_array(struct mn_alloc *a, size_t n, size_t each, enum mn_tag tag)
{
    size_t size;
    if (!mn_mul(n, each, &size))
        return NULL;
    void *p = mn_alloc(a, size, tag);
    if (p)
        memset(p, 0, size);
    return p;
}

void *mn_realloc(struct mn_alloc *a, void *p, size_t size, enum mn_tag tag)
{
    void *q = mn_alloc(a, size, tag);
    if (!q || !p)
        return q;
    size_t old = head_of(p)->size;
    memcpy(q, p, old < size ? old : size);
    mn_free(a, p);
    return q;
}

void mn_free(struct mn_alloc *a, void *p)
{
    if (!p)
        return;
    struct head h = *head_of(p);
    unreserve(a, h.total, h.tag);
    a->hooks.free(a->hooks.ctx, h.base, h.total);
}

char *mn_strdup(struct mn_alloc *a, const char *text, enum mn_tag tag)
{
    size_t n = strlen(text) + 1;
    char *copy = mn_alloc(a, n, tag);
    if (copy)
        memcpy(copy, text, n);
    return copy;
}

uint64_t mn_alloc_used(const struct mn_alloc *a)
{
    return atomic_load_explicit(&a->used, memory_order_relaxed);
}

uint64_t mn_alloc_used_by(const struct mn_alloc *a, enum mn_tag tag)
{
    return atomic_load_explicit(&a->by_tag[tag], memory_order_relaxed);
}

uint64_t mn_alloc_peak(const struct mn_alloc *a)
{
    return atomic_load_explicit(&a->peak, memory_order_relaxed);
}

uint64_t mn_alloc_cap(const struct mn_alloc *a)
{
    return a->cap;
}

uint64_t mn_alloc_calls(const struct mn_alloc *a)
{
    return atomic_load_explicit(&a->calls, memory_order_relaxed);
}

const char *mn_tag_name(enum mn_tag tag)
{
    return tag_names[tag];
}
