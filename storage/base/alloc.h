/* The counted allocator: every byte that the library allocates is counted by purpose and held
 * against one cap. Not a pool: it hands requests on to the embedder's hooks or to malloc.
 * Thread-safe. */
#ifndef MN_STORAGE_BASE_ALLOC_H
#define MN_STORAGE_BASE_ALLOC_H

#include "mneme.h"

/* What memory is for; statistics report them apart. X(enumerator, word) */
#define MN_TAGS(X)                                                                                 \
    X(HANDLE, "handles")  /* databases, connections, small fixed things; not held to the cap */    \
    X(CACHE, "cache")     /* vectors held in memory between searches */                            \
    X(PENDING, "pending") /* rows changed since the cached vectors were read */                    \
    X(SEARCH, "search")   /* heaps, tables and buffers of running searches */                      \
    X(ROWS, "rows")       /* rows handed to the caller, batches being written */                   \
    X(IO, "io")           /* file buffers, files in memory */

enum mn_tag {
#define X(name, word) MN_TAG_##name,
    MN_TAGS(X)
#undef X
    MN_TAG_COUNT
};

struct mn_alloc;

/* A block of this size fills a page of 2 MiB exactly, with what mn_alloc() adds to it. Unless the
 * embedder brought hooks, blocks of this size and more are mapped on their own and ask for such
 * pages: the first touch of 512 MB costs 0.2 s of CPU in pages of 4 KiB, 0.09 s in these. */
enum {
    MN_HUGE_BLOCK = (2 << 20) - 128,
    MN_HUGE_ALIGNED = (2 << 20) - 64 - 4096 /* the same for mn_alloc_aligned() to 4096 */
};

/* `hooks` NULL: malloc and free, mmap for large blocks. cap in bytes; UINT64_MAX for none. NULL
 * when memory runs out. */
struct mn_alloc *mn_alloc_create(const mn_allocator *hooks, uint64_t cap);

/* Everything must have been freed: a leak is a bug of ours and asserts. NULL is fine. */
void mn_alloc_destroy(struct mn_alloc *a);

/* `size` bytes aligned to 64, not zeroed; NULL if the hooks fail or the cap would be passed.
 * Size 0 gives a valid pointer. */
void *mn_alloc(struct mn_alloc *a, size_t size, enum mn_tag tag);

/* The same, aligned to a power of two of at least 64: for direct reads, IO_ALIGN. */
void *mn_alloc_aligned(struct mn_alloc *a, size_t size, size_t align, enum mn_tag tag);

/* As mn_alloc for n things of `each` bytes, zeroed; NULL too if the product overflows. */
void *mn_alloc_array(struct mn_alloc *a, size_t n, size_t each, enum mn_tag tag);

/* Grows or shrinks; on NULL the old memory stands. p NULL allocates. */
void *mn_realloc(struct mn_alloc *a, void *p, size_t size, enum mn_tag tag);

void mn_free(struct mn_alloc *a, void *p); /* NULL is fine */

char *mn_strdup(struct mn_alloc *a, const char *text, enum mn_tag tag);

uint64_t mn_alloc_used(const struct mn_alloc *a);                      /* bytes held to the cap */
uint64_t mn_alloc_used_by(const struct mn_alloc *a, enum mn_tag tag);  /* bytes of one purpose */
uint64_t mn_alloc_peak(const struct mn_alloc *a);                      /* highest mn_alloc_used */
uint64_t mn_alloc_cap(const struct mn_alloc *a);
uint64_t mn_alloc_calls(const struct mn_alloc *a);                     /* allocations so far */
const char *mn_tag_name(enum mn_tag tag);

/* True and the result in *out, or false when it does not fit. */
static inline bool mn_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool mn_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

#endif
