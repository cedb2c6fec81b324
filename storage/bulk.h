/* Many whole extents of a sidecar at once: many reads in flight, each straight into the memory
 * where it stays, and each extent checked as it lands. For loading; one extent is sidecar_read's.
 * One thread's at a time. What sidecar.h says about readers holds: the SQLite snapshot that the
 * extent_refs were read in stays open until bulk_destroy. */
#ifndef MN_STORAGE_BULK_H
#define MN_STORAGE_BULK_H

#include "storage/io_disk.h"
#include "storage/sidecar.h"

struct bulk;

struct bulk_want {
    struct extent_ref ref;
    void *buf;   /* aligned to IO_ALIGN; [ref.n_blocks] blocks, with `pages` those of the header */
    void *pages; /* NULL, or for an extent with pages: [extent_n_pages] blocks, aligned too */
};

struct bulk_done {
    size_t i;                /* of the wants */
    mn_status status;        /* MN_OK, MN_CORRUPT, MN_IO: err then names the extent */
    struct extent_view view; /* into the want's memory; if MN_OK */
    mn_error err;
};

/* Starts reading, in the order of the wants; they are borrowed until bulk_destroy, their memory is
 * the bulk's until it was taken. Memory: 100 bytes a read in flight, and a byte a want. Fails with
 * MN_NOMEM. */
mn_status bulk_create(struct io_disk *d, struct sidecar *s, struct mn_alloc *a,
                      const struct bulk_want *wants, size_t n, struct bulk **out, mn_error *err);

/* Waits for the next extent to land, in whatever order, and checks it. False: all were taken. */
bool bulk_next(struct bulk *b, struct bulk_done *out);

/* Waits for what is in flight. NULL is fine. */
void bulk_destroy(struct bulk *b);

#endif
