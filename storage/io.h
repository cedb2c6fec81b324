/* The file seam: every byte that the engine or SQLite (through storage/vfs.h) reads or writes
 * passes one table of functions, so that a database can live in memory (storage/fs_mem.h) and the
 * tests can put a disk that loses power under the real engine (tests/sim). Not a POSIX layer: no
 * locks (those are the VFS's), no positions, no attributes. Batched reads, hole punching and space
 * reservation join the table when something needs them.
 *
 * Errors: 0, or a negative errno value; -ENOENT, -EEXIST, -ENOSPC, -EACCES and -ENOMEM keep their
 * usual meaning, anything else is an I/O error. Implementations handle short and interrupted calls
 * themselves: -EINTR and -EAGAIN never come out.
 *
 * Threads: an mn_fs and an mn_file may be used from any thread at any time; a read beside a write
 * of the same bytes may see any mix of old and new. io_close is the last call on a handle. */
#ifndef MN_STORAGE_IO_H
#define MN_STORAGE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mn_fs;

/* An implementation's own handle starts with this. */
struct mn_file {
    struct mn_fs *fs;
};

/* Flags of io_open. Without IO_WRITE the file is read-only and IO_CREATE is an error. */
enum { IO_WRITE = 1, IO_CREATE = 2, IO_EXCL = 4 };

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

#endif
