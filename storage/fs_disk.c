/*
 * A handle is one or two descriptors of the same file: one that goes through the system's page
 * cache, and, if the opener wished and the file system can, one with O_DIRECT. Aligned transfers
 * take the second. Both see the same bytes: a direct write drops what the cache holds of its place,
 * a direct read writes it out first; one flush serves both.
 */
#include "storage/fs_disk.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RETRIES = 16 }; /* of a call that answers EAGAIN, which files hardly do */

struct disk_file {
    struct mn_file base;
    int fd;                 /* set in open */
    int direct_fd;          /* set in open; -1: none */
    bool writable;          /* set in open */
    _Atomic bool no_direct; /* relaxed: the file system refused a direct transfer after all */
};

static struct disk_file *file_of(struct mn_file *f)
{
    return (struct disk_file *)f;
}

/* Opens with a descriptor above 2: text that somebody prints to a closed stderr must not land here.
 */
static int open_high(const char *path, int how)
{
    int fd = open(path, how | O_CLOEXEC, 0644);
    if (fd < 0 || fd > 2)
        return fd < 0 ? -errno : fd;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    int rc = high < 0 ? -errno : high;
    close(fd);
    return rc;
}

/* Can whole blocks of IO_ALIGN be read and written with O_DIRECT? What the kernel does not tell is
 * found at the first transfer. */
static bool direct_fits(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx sx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN))
        return sx.stx_dio_mem_align && sx.stx_dio_mem_align <= IO_ALIGN &&
               sx.stx_dio_offset_align && sx.stx_dio_offset_align <= IO_ALIGN;
#else
    (void)fd;
#endif
    return true;
}

static bool same_file(int a, int b)
{
    struct stat x, y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int open_direct(const char *path, int how, int fd)
{
    int direct = open_high(path, (how & O_ACCMODE) | O_DIRECT);
    if (direct < 0)
        return -1;
    if (same_file(fd, direct) && direct_fits(direct))
        return direct;
    close(direct);
    return -1;
}

static int disk_open(struct mn_fs *fs, const char *path, unsigned flags, struct mn_file **out)
{
    if ((flags & IO_CREATE) && !(flags & IO_WRITE))
        return -EINVAL;
    int how = flags & IO_WRITE ? O_RDWR : O_RDONLY;
    how |= (flags & IO_CREATE ? O_CREAT : 0) | (flags & IO_EXCL ? O_EXCL : 0);
    int fd = open_high(path, how);
    if (fd < 0)
        return fd;
    struct disk_file *f = calloc(1, sizeof *f);
    if (!f) {
        close(fd);
        return -ENOMEM;
    }
    f->base.fs = fs;
    f->fd = fd;
    f->writable = (flags & IO_WRITE) != 0;
    f->direct_fd = flags & IO_DIRECT ? open_direct(path, how, fd) : -1;
    *out = &f->base;
    return 0;
}

static int disk_close(struct mn_file *base)
{
    struct disk_file *f = file_of(base);
    int rc = 0;
    if (f->direct_fd >= 0)
        close(f->direct_fd);
    if (close(f->fd) && errno != EINTR)
        rc = -errno;
    free(f);
    return rc;
}

/* ---- Transfers ------------------------------------------------------------------------------- */

static bool is_aligned(const void *buf, size_t len, uint64_t off)
{
    return (((uintptr_t)buf | len | off) & (IO_ALIGN - 1)) == 0;
}

static bool is_direct(struct disk_file *f)
{
    return f->direct_fd >= 0 && !atomic_load_explicit(&f->no_direct, memory_order_relaxed);
}

/* True if the failed call is to be made again. */
static bool again(int error, int *tries)
{
    return error == EINTR || (error == EAGAIN && ++*tries < RETRIES);
}

/* The descriptor for a transfer; the rest of one that stopped inside a block is not aligned. */
static int fd_for(struct disk_file *f, const void *buf, size_t len, uint64_t off)
{
    return is_direct(f) && is_aligned(buf, len, off) ? f->direct_fd : f->fd;
}

/* A direct transfer that is refused as such is made again through the cache, as are all later. */
static bool refused(struct disk_file *f, int fd, int error)
{
    if (error != EINVAL || fd == f->fd)
        return false;
    atomic_store_explicit(&f->no_direct, true, memory_order_relaxed);
    return true;
}

static int disk_read(struct mn_file *base, void *buf, size_t len, uint64_t off, size_t *got)
{
    struct disk_file *f = file_of(base);
    int tries = 0;
    *got = 0;
    if (len > SSIZE_MAX || off > (uint64_t)INT64_MAX - len)
        return -EINVAL;
    while (*got < len) {
        char *to = (char *)buf + *got;
        int fd = fd_for(f, to, len - *got, off + *got);
        ssize_t n = pread(fd, to, len - *got, (off_t)(off + *got));
        if (n == 0)
            break;
        if (n > 0)
            *got += (size_t)n;
        else if (!again(errno, &tries) && !refused(f, fd, errno))
            return -errno;
    }
    return 0;
}

static int disk_write(struct mn_file *base, const void *buf, size_t len, uint64_t off)
{
    struct disk_file *f = file_of(base);
    int tries = 0;
    if (len > SSIZE_MAX || off > (uint64_t)INT64_MAX - len)
        return -EFBIG;
    for (size_t done = 0; done < len;) {
        const char *from = (const char *)buf + done;
        int fd = fd_for(f, from, len - done, off + done);
        ssize_t n = pwrite(fd, from, len - done, (off_t)(off + done));
        if (n > 0)
            done += (size_t)n;
        else if (n == 0)
            return -EIO;
        else if (!again(errno, &tries) && !refused(f, fd, errno))
            return -errno;
    }
    return 0;
}

/* ---- Sizes and durability -------------------------------------------------------------------- */

/* Never tried again: the kernel reports a failed write-out once and then takes the pages for
 * clean. An interrupted flush has not failed yet. */
static int disk_sync(struct mn_file *base)
{
    int rc;
    do
        rc = fdatasync(file_of(base)->fd);
    while (rc && errno == EINTR);
    return rc ? -errno : 0;
}

static int disk_truncate(struct mn_file *base, uint64_t size)
{
    int rc;
    if (!file_of(base)->writable)
        return -EBADF;
    if (size > (uint64_t)INT64_MAX)
        return -EFBIG;
    do
        rc = ftruncate(file_of(base)->fd, (off_t)size);
    while (rc && errno == EINTR);
    return rc ? -errno : 0;
}

static int disk_size(struct mn_file *base, uint64_t *out)
{
    struct stat st;
    if (fstat(file_of(base)->fd, &st))
        return -errno;
    *out = (uint64_t)st.st_size;
    return 0;
}

static int disk_reserve(struct mn_file *base, uint64_t size)
{
    uint64_t now = 0;
    int rc = disk_size(base, &now), failed;
    if (rc || now >= size)
        return rc;
    if (size > (uint64_t)INT64_MAX)
        return -EFBIG;
    do
        failed = fallocate(file_of(base)->fd, 0, (off_t)now, (off_t)(size - now));
    while (failed && errno == EINTR);
    if (!failed)
        return 0;
    rc = -errno;
    if (rc == -EOPNOTSUPP || rc == -ENOSYS)
        return disk_truncate(base, size);
    disk_truncate(base, now); /* what it got may stand behind the old end */
    return rc;
}

static int disk_punch(struct mn_file *base, uint64_t off, uint64_t len)
{
    int rc;
    if (off > (uint64_t)INT64_MAX - len)
        return -EINVAL;
    do
        rc = fallocate(file_of(base)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off,
                       (off_t)len);
    while (rc && errno == EINTR);
    return rc ? -errno : 0;
}

/* ---- Locks ----------------------------------------------------------------------------------- */

static int set_lock(struct mn_file *base, uint64_t byte, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
    int rc;
    do
        rc = fcntl(file_of(base)->fd, F_OFD_SETLK, &lock);
    while (rc && errno == EINTR);
    if (!rc)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

static int disk_lock(struct mn_file *base, uint64_t byte)
{
    return set_lock(base, byte, F_WRLCK);
}

static int disk_unlock(struct mn_file *base, uint64_t byte)
{
    return set_lock(base, byte, F_UNLCK);
}

static int disk_fd(struct mn_file *base, bool direct)
{
    struct disk_file *f = file_of(base);
    return direct && is_direct(f) ? f->direct_fd : f->fd;
}

/* ---- Names ----------------------------------------------------------------------------------- */

static int disk_unlink(struct mn_fs *fs, const char *path)
{
    (void)fs;
    return unlink(path) ? -errno : 0;
}

static int disk_rename(struct mn_fs *fs, const char *from, const char *to)
{
    (void)fs;
    return rename(from, to) ? -errno : 0;
}

static int disk_stat(struct mn_fs *fs, const char *path, uint64_t *size, bool *writable)
{
    struct stat st;
    (void)fs;
    if (stat(path, &st))
        return -errno;
    *size = (uint64_t)st.st_size;
    *writable = access(path, W_OK) == 0;
    return 0;
}

static int disk_dirsync(struct mn_fs *fs, const char *path)
{
    char copy[PATH_MAX];
    (void)fs;
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy)
        return -ENAMETOOLONG;
    int fd = open_high(dirname(copy), O_RDONLY | O_DIRECTORY), rc = 0;
    if (fd < 0)
        return fd;
    while (fsync(fd) && (rc = -errno) == -EINTR)
        rc = 0;
    close(fd);
    return rc;
}

static const struct mn_fs_ops disk_ops = {
    .open = disk_open,
    .close = disk_close,
    .read = disk_read,
    .write = disk_write,
    .sync = disk_sync,
    .truncate = disk_truncate,
    .size = disk_size,
    .unlink = disk_unlink,
    .rename = disk_rename,
    .stat = disk_stat,
    .dirsync = disk_dirsync,
    .reserve = disk_reserve,
    .punch = disk_punch,
    .lock = disk_lock,
    .unlock = disk_unlock,
    .fd = disk_fd,
};

struct mn_fs *fs_disk(void)
{
    static struct mn_fs disk = {&disk_ops};
    return &disk;
}

bool fs_disk_is_direct(const struct mn_file *f)
{
    const struct disk_file *file = (const struct disk_file *)f;
    return file->direct_fd >= 0 && !atomic_load_explicit(&file->no_direct, memory_order_relaxed);
}
