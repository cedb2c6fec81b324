/* Files of the operating system behind the file seam. One table for the whole process, without
 * state: fs_disk() is the same pointer always. Thread-safe as storage/io.h says.
 *
 * Never for files that SQLite has open: closing any descriptor of a file drops this process's POSIX
 * locks on it, SQLite's too. Byte locks here are open-file-description locks: they belong to the
 * handle and are not dropped so. A child of fork() shares them until it ends or execs.
 *
 * Every descriptor is above 2 and closes on exec. */
#ifndef MN_STORAGE_FS_DISK_H
#define MN_STORAGE_FS_DISK_H

#include "storage/io.h"

struct mn_fs *fs_disk(void);

/* True if the handle reads and writes past the page cache when asked with aligned arguments. */
bool fs_disk_is_direct(const struct mn_file *f);

#endif
