/* Files in memory: the mn_fs under `:memory:` databases and under SQLite's temporary files.
 * Durability is none: sync does nothing. Thread-safe as storage/io.h says. */
#ifndef MN_STORAGE_FS_MEM_H
#define MN_STORAGE_FS_MEM_H

#include "storage/base/alloc.h"
#include "storage/io.h"

/* Files are counted under MN_TAG_IO of `alloc`. Give it an allocator of its own without a cap: the
 * memory cap is for what can be done with less (caches, pending rows); a file that stops growing at
 * the cap would turn a full cache into a failed commit. A write that finds no memory is -ENOMEM and
 * changes nothing. NULL when memory runs out. */
struct mn_fs *fs_mem_create(struct mn_alloc *alloc);

/* All handles must have been closed. NULL is fine. */
void fs_mem_destroy(struct mn_fs *fs);

#endif
