/* Which blocks of the sidecar are free: in memory only, made from the catalog with each lease.
 * Knows no file. Not thread-safe: owned by the lease.
 *
 * A block is free, deferred (free after a complete checkpoint), or used (named by the catalog, or
 * taken by the open publish). Nothing here fails but growing: giving back needs no memory. */
#ifndef MN_STORAGE_SPACE_H
#define MN_STORAGE_SPACE_H

#include "storage/base/alloc.h"

struct space;

struct space *space_create(struct mn_alloc *a); /* no blocks; NULL: no memory */
void space_destroy(struct space *s);            /* NULL is fine */

/* Makes room for a file of `blocks`; the new ones are free. False: no memory, nothing changed. */
bool space_grow(struct space *s, uint64_t blocks);
void space_shrink(struct space *s, uint64_t blocks); /* those behind are free */

void space_set_used(struct space *s, uint64_t first, uint64_t n);
void space_set_free(struct space *s, uint64_t first, uint64_t n);
void space_set_deferred(struct space *s, uint64_t first, uint64_t n);
void space_release(struct space *s); /* what is deferred becomes free */

/* The lowest n free blocks in a row; they are used then. */
bool space_take(struct space *s, uint64_t n, uint64_t *first);

/* The first run of free blocks at or behind `from`: false if there is none. */
bool space_next_free(const struct space *s, uint64_t from, uint64_t *first, uint64_t *n);

uint64_t space_blocks(const struct space *s);
uint64_t space_free(const struct space *s);
uint64_t space_deferred(const struct space *s);
uint64_t space_end(const struct space *s); /* behind the last block that is not free */
bool space_is_free(const struct space *s, uint64_t block);
bool space_check(const struct space *s);   /* counts fit, no block is two things; O(n) */

#endif
