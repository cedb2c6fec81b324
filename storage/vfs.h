/* SQLite on a file seam: a VFS whose files are those of an mn_fs, with locks and WAL shared memory
 * kept in this process. For `:memory:` databases and for tests; files that other processes use
 * belong to SQLite's own VFS, whose locks they see. Any number of connections and threads may use
 * one VFS, each connection by one thread at a time; all journal modes work, WAL included.
 *
 * Paths are taken as they are: the name given to sqlite3_open_v2 is the name in the mn_fs. Not
 * ":memory:" or "": SQLite takes these for its own private memory before it asks any VFS.
 * Temporary files never reach the mn_fs; each VFS keeps its own in memory. */
#ifndef MN_STORAGE_VFS_H
#define MN_STORAGE_VFS_H

#include "mneme.h"
#include "storage/base/alloc.h"
#include "storage/io.h"

/* Locks and WAL shared memory by path. VFSs over the same files must share one. */
struct vfs_locks;

struct vfs_opts {
    uint32_t sector_bytes;   /* what xSectorSize answers; 0: 4096 */
    bool fragile_overwrite;  /* no POWERSAFE_OVERWRITE: a torn write may damage its whole sectors */
    bool virtual_time;       /* sleeping moves a clock and returns at once; it starts in 2020 */
    uint64_t seed;           /* of xRandomness; 0: the system's random bytes */
    struct vfs_locks *locks; /* NULL: the VFS's own */
    struct mn_alloc *alloc;  /* temporary files, MN_TAG_IO; NULL: malloc without a cap */
};

/* Makes the VFS known to SQLite, never as the default. `name` is copied; `fs`, opts->locks and
 * opts->alloc are borrowed until vfs_unregister; opts NULL is all zeros. Thread-safe. Fails with
 * MN_EXISTS when SQLite has a VFS of that name, MN_NOMEM. */
mn_status vfs_register(const char *name, struct mn_fs *fs, const struct vfs_opts *opts,
                       mn_error *err);

/* Every connection must have been closed: MN_MISUSE otherwise, and the VFS stays. MN_NOTFOUND if
 * the name is no VFS of ours. */
mn_status vfs_unregister(const char *name, mn_error *err);

/* A table to share between VFSs that stand for several processes. NULL when memory runs out. */
struct vfs_locks *vfs_locks_create(void);
void vfs_locks_destroy(struct vfs_locks *l); /* after its last VFS; NULL is fine */

/* What the kernel does when a process dies: every lock and mapping that connections of this VFS
 * hold is dropped at once, as seen by the other VFSs on the same table; from here on locking fails
 * with SQLITE_IOERR_LOCK or SQLITE_IOERR_SHMLOCK. The dead connections must still be closed, which
 * frees their memory, and only after the living ones: SQLite tidies the shared memory of a WAL as
 * it closes, which a dead process does not. Their file I/O is the mn_fs's to refuse. */
void vfs_kill(const char *name);

#endif
