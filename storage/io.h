/* The file seam: every byte that the engine or SQLite (through storage/vfs.h) reads or writes
 * passes one table of functions, so that a database can live in memory (storage/fs_mem.h) and the
 * tests can put a disk that loses power under the real engine (tests/sim). Not a POSIX layer: no
 * positions, no attributes, no locks but on single bytes (SQLite's are its VFS's). Many reads at
 * once are storage/io_disk.h's, over the same files.
 *
 * Errors: 0, or a negative errno value; -ENOENT, -EEXIST, -ENOSPC, -EACCES and -ENOMEM keep their
 * usual meaning, anything else is an I/O error. Implementations handle short and interrupted calls
 * themselves: -EINTR and -EAGAIN never come out.
 *
 * Threads: an mn_fs and an mn_file may be used from any thread at any time; a read beside a write
 * of the same bytes may see any mix of old and new. io_close is the last call on a handle. */
#ifndef MN_STORAGE_IO_H
#define MN_STORAGE_IO_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mn_fs;

/* An implementation's own handle starts with this. */
struct mn_file {
    struct mn_fs *fs;
};

/* Flags of io_open. Without IO_WRITE the file is read-only and IO_CREATE is an error. IO_DIRECT is
 * a wish: transfers whose place, length and memory are multiples of IO_ALIGN go past the system's
 * page cache where the file system can do that. */
enum { IO_WRITE = 1, IO_CREATE = 2, IO_EXCL = 4, IO_DIRECT = 8 };

enum { IO_ALIGN = 4096 };

struct mn_fs_ops {
    int (*open)(struct mn_fs *fs, const char *path, unsigned flags, struct mn_file **out);
    int (*close)(struct mn_file *f);
    int (*read)(struct mn_file *f, void *buf, size_t len, uint64_t off, size_t *got);
    int (*write)(struct mn_file *f, const void *buf, size_t len, uint64_t off);
    int (*sync)(struct mn_file *f);
    int (*truncate)(struct mn_file *f, uint64_t size);
    int (*size)(struct mn_file *f, uint64_t *out);
    int (*unlink)(struct mn_fs *fs, const char *path);
    int (*rename)(struct mn_fs *fs, const char *from, const char *to);
    int (*stat)(struct mn_fs *fs, const char *path, uint64_t *size, bool *writable);
    int (*dirsync)(struct mn_fs *fs, const char *path);
    /* From here on NULL is fine: the inline functions below say what happens then. */
    int (*reserve)(struct mn_file *f, uint64_t size);
    int (*punch)(struct mn_file *f, uint64_t off, uint64_t len);
    int (*lock)(struct mn_file *f, uint64_t byte);
    int (*unlock)(struct mn_file *f, uint64_t byte);
    int (*fd)(struct mn_file *f, bool direct);
};

/* An implementation's own file system starts with this. */
struct mn_fs {
    const struct mn_fs_ops *ops;
};

/* Opens, and creates with IO_CREATE; with IO_EXCL an existing file is -EEXIST. The handle is the
 * caller's until io_close; *out is NULL on failure. */
static inline int io_open(struct mn_fs *fs, const char *path, unsigned flags, struct mn_file **out)
{
    *out = NULL;
    return fs->ops->open(fs, path, flags, out);
}

/* NULL is fine. The handle is gone whatever it returns. */
static inline int io_close(struct mn_file *f)
{
    return f ? f->fs->ops->close(f) : 0;
}

/* *got < len only at the file's end; the rest of buf is untouched then. */
static inline int io_read(struct mn_file *f, void *buf, size_t len, uint64_t off, size_t *got)
{
    *got = 0;
    return f->fs->ops->read(f, buf, len, off, got);
}

/* All of it, or an error after which any part may have been written. Grows the file; a gap reads
 * as zeros. */
static inline int io_write(struct mn_file *f, const void *buf, size_t len, uint64_t off)
{
    return f->fs->ops->write(f, buf, len, off);
}

/* Content and size are durable when it returns 0; the name is durable only after io_dirsync. After
 * a failure nothing is known about what was written since the last success, and calling it again
 * proves nothing. */
static inline int io_sync(struct mn_file *f)
{
    return f->fs->ops->sync(f);
}

static inline int io_truncate(struct mn_file *f, uint64_t size)
{
    return f->fs->ops->truncate(f, size);
}

static inline int io_size(struct mn_file *f, uint64_t *out)
{
    *out = 0;
    return f->fs->ops->size(f, out);
}

/* Removes the name; open handles go on. Durable after io_dirsync. */
static inline int io_unlink(struct mn_fs *fs, const char *path)
{
    return fs->ops->unlink(fs, path);
}

/* Replaces `to` if it exists. Durable after io_dirsync; says nothing about the content's fate. */
static inline int io_rename(struct mn_fs *fs, const char *from, const char *to)
{
    return fs->ops->rename(fs, from, to);
}

/* -ENOENT if there is no such file. */
static inline int io_stat(struct mn_fs *fs, const char *path, uint64_t *size, bool *writable)
{
    *size = 0;
    *writable = false;
    return fs->ops->stat(fs, path, size, writable);
}

/* Makes creations, removals and renames in the folder of `path` (a file's path) durable. */
static inline int io_dirsync(struct mn_fs *fs, const char *path)
{
    return fs->ops->dirsync(fs, path);
}

/* Grows the file to at least `size` bytes, with room on the disk for all of it where the file
 * system can promise that (else -ENOSPC may still come from a later write). -ENOSPC leaves the
 * size as it was. New bytes read as zeros; never shrinks. */
static inline int io_reserve(struct mn_file *f, uint64_t size)
{
    if (f->fs->ops->reserve)
        return f->fs->ops->reserve(f, size);
    uint64_t now = 0;
    int rc = f->fs->ops->size(f, &now);
    return rc || now >= size ? rc : f->fs->ops->truncate(f, size);
}

/* Gives the bytes' room back; they read as zeros. -EOPNOTSUPP where that cannot be done: the bytes
 * stand then. Durable after io_sync. */
static inline int io_punch(struct mn_file *f, uint64_t off, uint64_t len)
{
    return f->fs->ops->punch ? f->fs->ops->punch(f, off, len) : -EOPNOTSUPP;
}

/* Takes the exclusive lock on one byte of the file (which need not exist) for this handle: -EAGAIN
 * if another handle has it, in this process or another. It goes with io_unlock, with the handle or
 * with the process, whichever comes first. Without locks in the table: -EOPNOTSUPP. */
static inline int io_lock(struct mn_file *f, uint64_t byte)
{
    return f->fs->ops->lock ? f->fs->ops->lock(f, byte) : -EOPNOTSUPP;
}

static inline int io_unlock(struct mn_file *f, uint64_t byte)
{
    return f->fs->ops->unlock ? f->fs->ops->unlock(f, byte) : -EOPNOTSUPP;
}

/* The system's descriptor under the handle, borrowed until io_close; with `direct` the one that
 * goes past the page cache, if there is one. -1 for files that the system does not know. */
static inline int io_fd(struct mn_file *f, bool direct)
{
    return f->fs->ops->fd ? f->fs->ops->fd(f, direct) : -1;
}

#endif
