/*
 * A file is an array of chunks of 64 KiB; a chunk that was never written is NULL and reads as
 * zeros. Bytes of a chunk behind the file's end are zero, so that growing needs no clearing.
 *
 *     fs -> file -> file -> ...            named files, in no order: a database has three
 *            ^
 *            handle, handle                an unlinked file lives until its last handle is closed
 *
 * Locks: mem_fs.lock guards names and counts; mem_file.lock guards content. The first may be held
 * when the second is taken, never the other way round.
 */
#include "storage/fs_mem.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { CHUNK = 64 * 1024 };

struct mem_file {
    struct mem_file *next;  /* fs lock */
    char *name;             /* fs lock; NULL once unlinked */
    unsigned handles;       /* fs lock */
    const void *locker;     /* fs lock; handle that holds the lock on locked_byte, or NULL */
    uint64_t locked_byte;   /* fs lock */
    pthread_rwlock_t lock;  /* guards what follows */
    unsigned char **chunks; /* [n_chunks] */
    size_t n_chunks;
    uint64_t size;
};

struct mem_fs {
    struct mn_fs base;
    struct mn_alloc *alloc; /* set in create */
    pthread_mutex_t lock;   /* guards files and the fields marked so */
    struct mem_file *files; /* named ones */
    unsigned handles;       /* of all files, unlinked ones too */
};

struct mem_handle {
    struct mn_file base;
    struct mem_file *file;
    bool writable;
};

static struct mem_fs *fs_of(struct mn_fs *fs)
{
    return (struct mem_fs *)fs;
}

static struct mem_handle *handle_of(struct mn_file *f)
{
    return (struct mem_handle *)f;
}

/* The link that points to the file of that name, or to the list's end. Under the fs lock. */
static struct mem_file **find(struct mem_fs *fs, const char *name)
{
    struct mem_file **at = &fs->files;
    while (*at && strcmp((*at)->name, name) != 0)
        at = &(*at)->next;
    return at;
}

/* A writer must not wait for ever behind readers that come and go. */
static int init_lock(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t attr;
    int rc = pthread_rwlockattr_init(&attr);
    if (rc)
        return rc;
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    rc = pthread_rwlock_init(lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    return rc;
}

static struct mem_file *file_create(struct mem_fs *fs, const char *name)
{
    struct mem_file *file = mn_alloc_array(fs->alloc, 1, sizeof *file, MN_TAG_IO);
    if (!file)
        return NULL;
    file->name = mn_strdup(fs->alloc, name, MN_TAG_IO);
    if (!file->name || init_lock(&file->lock) != 0) {
        mn_free(fs->alloc, file->name);
        mn_free(fs->alloc, file);
        return NULL;
    }
    return file;
}

static void file_destroy(struct mem_fs *fs, struct mem_file *file)
{
    for (size_t i = 0; i < file->n_chunks; i++)
        mn_free(fs->alloc, file->chunks[i]);
    mn_free(fs->alloc, file->chunks);
    mn_free(fs->alloc, file->name);
    pthread_rwlock_destroy(&file->lock);
    mn_free(fs->alloc, file);
}

/* Takes the file at *at out of the names. Under the fs lock. */
static void detach(struct mem_fs *fs, struct mem_file **at)
{
    struct mem_file *file = *at;
    *at = file->next;
    file->next = NULL;
    mn_free(fs->alloc, file->name);
    file->name = NULL;
    if (file->handles == 0)
        file_destroy(fs, file);
}

static int mem_open(struct mn_fs *base, const char *path, unsigned flags, struct mn_file **out)
{
    struct mem_fs *fs = fs_of(base);
    if ((flags & IO_CREATE) && !(flags & IO_WRITE))
        return -EINVAL;
    struct mem_handle *h = mn_alloc_array(fs->alloc, 1, sizeof *h, MN_TAG_IO);
    if (!h)
        return -ENOMEM;
    int rc = 0;
    pthread_mutex_lock(&fs->lock);
    struct mem_file **at = find(fs, path);
    if (*at && (flags & IO_CREATE) && (flags & IO_EXCL)) {
        rc = -EEXIST;
    } else if (!*at && !(flags & IO_CREATE)) {
        rc = -ENOENT;
    } else {
        if (!*at)
            *at = file_create(fs, path);
        rc = *at ? 0 : -ENOMEM;
    }
    if (rc == 0) {
        *h = (struct mem_handle){{base}, *at, (flags & IO_WRITE) != 0};
        (*at)->handles++;
        fs->handles++;
    }
    pthread_mutex_unlock(&fs->lock);
    if (rc) {
        mn_free(fs->alloc, h);
        return rc;
    }
    *out = &h->base;
    return 0;
}

static int mem_close(struct mn_file *f)
{
    struct mem_fs *fs = fs_of(f->fs);
    struct mem_handle *h = handle_of(f);
    pthread_mutex_lock(&fs->lock);
    fs->handles--;
    if (h->file->locker == h)
        h->file->locker = NULL;
    if (--h->file->handles == 0 && !h->file->name)
        file_destroy(fs, h->file);
    pthread_mutex_unlock(&fs->lock);
    mn_free(fs->alloc, h);
    return 0;
}

static int mem_read(struct mn_file *f, void *buf, size_t len, uint64_t off, size_t *got)
{
    struct mem_file *file = handle_of(f)->file;
    unsigned char *to = buf;
    pthread_rwlock_rdlock(&file->lock);
    if (off >= file->size)
        len = 0;
    else if (len > file->size - off)
        len = (size_t)(file->size - off);
    for (size_t done = 0; done < len;) {
        size_t chunk = (size_t)((off + done) / CHUNK), at = (size_t)((off + done) % CHUNK);
        size_t n = len - done < CHUNK - at ? len - done : CHUNK - at;
        const unsigned char *from = chunk < file->n_chunks ? file->chunks[chunk] : NULL;
        if (from)
            memcpy(to + done, from + at, n);
        else
            memset(to + done, 0, n);
        done += n;
    }
    pthread_rwlock_unlock(&file->lock);
    *got = len;
    return 0;
}

/* Room for chunk number `last` in the array; the array grows by halves. Under the write lock. */
static bool reserve_slots(struct mem_fs *fs, struct mem_file *file, size_t last)
{
    if (last < file->n_chunks)
        return true;
    size_t n = last + 1 + file->n_chunks / 2;
    unsigned char **grown = mn_alloc_array(fs->alloc, n, sizeof *grown, MN_TAG_IO);
    if (!grown)
        return false;
    if (file->n_chunks)
        memcpy(grown, file->chunks, file->n_chunks * sizeof *grown);
    mn_free(fs->alloc, file->chunks);
    file->chunks = grown;
    file->n_chunks = n;
    return true;
}

/* All chunks from first to last exist. What was made stays when one fails: it holds zeros and lies
 * behind the end or in a hole. Under the write lock. */
static bool reserve(struct mem_fs *fs, struct mem_file *file, size_t first, size_t last)
{
    if (!reserve_slots(fs, file, last))
        return false;
    for (size_t i = first; i <= last; i++)
        if (!file->chunks[i]) {
            file->chunks[i] = mn_alloc_array(fs->alloc, 1, CHUNK, MN_TAG_IO);
            if (!file->chunks[i])
                return false;
        }
    return true;
}

static int mem_write(struct mn_file *f, const void *buf, size_t len, uint64_t off)
{
    struct mem_fs *fs = fs_of(f->fs);
    struct mem_file *file = handle_of(f)->file;
    const unsigned char *from = buf;
    if (!handle_of(f)->writable)
        return -EBADF;
    if (len == 0)
        return 0;
    if (off > (uint64_t)INT64_MAX - len)
        return -EFBIG;
    pthread_rwlock_wrlock(&file->lock);
    if (!reserve(fs, file, (size_t)(off / CHUNK), (size_t)((off + len - 1) / CHUNK))) {
        pthread_rwlock_unlock(&file->lock);
        return -ENOMEM;
    }
    for (size_t done = 0; done < len;) {
        size_t chunk = (size_t)((off + done) / CHUNK), at = (size_t)((off + done) % CHUNK);
        size_t n = len - done < CHUNK - at ? len - done : CHUNK - at;
        memcpy(file->chunks[chunk] + at, from + done, n);
        done += n;
    }
    if (off + len > file->size)
        file->size = off + len;
    pthread_rwlock_unlock(&file->lock);
    return 0;
}

static int mem_sync(struct mn_file *f)
{
    (void)f;
    return 0;
}

static int mem_truncate(struct mn_file *f, uint64_t size)
{
    struct mem_fs *fs = fs_of(f->fs);
    struct mem_file *file = handle_of(f)->file;
    if (!handle_of(f)->writable)
        return -EBADF;
    pthread_rwlock_wrlock(&file->lock);
    if (size < file->size) {
        size_t keep = (size_t)((size + CHUNK - 1) / CHUNK), at = (size_t)(size % CHUNK);
        for (size_t i = keep; i < file->n_chunks; i++) {
            mn_free(fs->alloc, file->chunks[i]);
            file->chunks[i] = NULL;
        }
        if (at && keep <= file->n_chunks && file->chunks[keep - 1])
            memset(file->chunks[keep - 1] + at, 0, CHUNK - at);
    }
    file->size = size;
    pthread_rwlock_unlock(&file->lock);
    return 0;
}

static uint64_t file_size(struct mem_file *file)
{
    pthread_rwlock_rdlock(&file->lock);
    uint64_t size = file->size;
    pthread_rwlock_unlock(&file->lock);
    return size;
}

static int mem_size(struct mn_file *f, uint64_t *out)
{
    *out = file_size(handle_of(f)->file);
    return 0;
}

static int mem_unlink(struct mn_fs *base, const char *path)
{
    struct mem_fs *fs = fs_of(base);
    pthread_mutex_lock(&fs->lock);
    struct mem_file **at = find(fs, path);
    int rc = *at ? 0 : -ENOENT;
    if (*at)
        detach(fs, at);
    pthread_mutex_unlock(&fs->lock);
    return rc;
}

static int mem_rename(struct mn_fs *base, const char *from, const char *to)
{
    struct mem_fs *fs = fs_of(base);
    char *name = mn_strdup(fs->alloc, to, MN_TAG_IO);
    if (!name)
        return -ENOMEM;
    int rc = 0;
    pthread_mutex_lock(&fs->lock);
    if (!*find(fs, from)) {
        rc = -ENOENT;
    } else if (strcmp(from, to) != 0) {
        struct mem_file **old = find(fs, to);
        if (*old)
            detach(fs, old);
        struct mem_file *file = *find(fs, from);
        char *was = file->name;
        file->name = name;
        name = was;
    }
    pthread_mutex_unlock(&fs->lock);
    mn_free(fs->alloc, name);
    return rc;
}

static int mem_stat(struct mn_fs *base, const char *path, uint64_t *size, bool *writable)
{
    struct mem_fs *fs = fs_of(base);
    pthread_mutex_lock(&fs->lock);
    struct mem_file *file = *find(fs, path);
    if (file) {
        *size = file_size(file);
        *writable = true;
    }
    pthread_mutex_unlock(&fs->lock);
    return file ? 0 : -ENOENT;
}

static int mem_dirsync(struct mn_fs *fs, const char *path)
{
    (void)fs;
    (void)path;
    return 0;
}

/* One byte of a file at a time: nobody needs two. */
static int mem_lock(struct mn_file *f, uint64_t byte)
{
    struct mem_fs *fs = fs_of(f->fs);
    struct mem_handle *h = handle_of(f);
    int rc = 0;
    pthread_mutex_lock(&fs->lock);
    if (!h->file->locker || h->file->locker == h) {
        h->file->locker = h;
        h->file->locked_byte = byte;
    } else {
        rc = h->file->locked_byte == byte ? -EAGAIN : -ENOLCK;
    }
    pthread_mutex_unlock(&fs->lock);
    return rc;
}

static int mem_unlock(struct mn_file *f, uint64_t byte)
{
    struct mem_fs *fs = fs_of(f->fs);
    struct mem_handle *h = handle_of(f);
    pthread_mutex_lock(&fs->lock);
    if (h->file->locker == h && h->file->locked_byte == byte)
        h->file->locker = NULL;
    pthread_mutex_unlock(&fs->lock);
    return 0;
}

static const struct mn_fs_ops mem_ops = {
    .open = mem_open,
    .close = mem_close,
    .read = mem_read,
    .write = mem_write,
    .sync = mem_sync,
    .truncate = mem_truncate,
    .size = mem_size,
    .unlink = mem_unlink,
    .rename = mem_rename,
    .stat = mem_stat,
    .dirsync = mem_dirsync,
    .lock = mem_lock,
    .unlock = mem_unlock,
};

struct mn_fs *fs_mem_create(struct mn_alloc *alloc)
{
    struct mem_fs *fs = mn_alloc_array(alloc, 1, sizeof *fs, MN_TAG_IO);
    if (!fs)
        return NULL;
    fs->base.ops = &mem_ops;
    fs->alloc = alloc;
    if (pthread_mutex_init(&fs->lock, NULL) != 0) {
        mn_free(alloc, fs);
        return NULL;
    }
    return &fs->base;
}

void fs_mem_destroy(struct mn_fs *base)
{
    if (!base)
        return;
    struct mem_fs *fs = fs_of(base);
    assert(fs->handles == 0);
    while (fs->files)
        detach(fs, &fs->files);
    pthread_mutex_destroy(&fs->lock);
    mn_free(fs->alloc, fs);
}
