/*
 * Three layers: struct vfs (one per registered name), struct file (one per open file of SQLite),
 * and struct node (one per path that has open databases), which holds what connections share.
 *
 *     vfs_locks ── node "app.db" ── shared count, reserved, pending, exclusive: which file holds it
 *                       └───────── shm: regions of 32 KiB, 8 lock slots (the WAL's index)
 *     vfs ── file ── mn_file         level, shm slots held; a list, so that vfs_kill finds them
 *
 * File locks are SQLite's five levels: any number of SHARED beside one RESERVED; PENDING lets no
 * new SHARED in while an EXCLUSIVE waits for the last SHARED to go. Locks belong to the file
 * handle, as with open file description locks, never to the process.
 *
 * The shared memory lives as long as one living connection has it mapped, like a -shm file that the
 * first opener clears; SQLite then rebuilds it from the WAL. Memory of a shm that lost its last
 * living connection stays until the dead ones are closed, for SQLite keeps pointers into it.
 *
 * One mutex (vfs_locks.lock) guards all of it. No I/O is done under it.
 */
#include "storage/vfs.h"

#include "storage/base/error.h"
#include "storage/fs_mem.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    PATH_MAX_BYTES = 1024,
    DEFAULT_SECTOR = 4096,
    DAY_MS = 86400000
};
static const double START_DAY = 2458849.5; /* julian day of 2020-01-01, where virtual time starts */

struct file;

struct shm {
    unsigned maps;              /* files that have it, dead ones too: memory lives until 0 */
    unsigned living;            /* files that have it and were not killed */
    int n_regions;
    void **regions;             /* [n_regions] zeroed when made; never moved */
    unsigned shared[SQLITE_SHM_NLOCK];
    struct file *exclusive[SQLITE_SHM_NLOCK];
};

struct node {
    struct node *next;
    char *path;
    bool unlinked;              /* the name is gone: a new file of that name gets a new node */
    unsigned files;             /* open files on it */
    unsigned shared;            /* files at SHARED or above */
    struct file *reserved;      /* at RESERVED or above */
    struct file *pending;       /* at PENDING or above */
    struct file *exclusive;
    struct shm *shm;            /* NULL when no living file maps it */
};

struct vfs_locks {
    pthread_mutex_t lock;       /* guards nodes, shm and the fields of files marked so */
    struct node *nodes;
};

struct vfs {
    sqlite3_vfs base;
    sqlite3_vfs *os;            /* SQLite's default: loading, real time and randomness */
    struct mn_fs *fs;           /* set in register, as the next five fields */
    struct vfs_opts opts;
    struct vfs_locks *locks;
    bool own_locks;
    struct mn_alloc *own_alloc; /* NULL if opts.alloc is used */
    struct mn_fs *temp;
    struct file *files;         /* locks->lock */
    bool dead;                  /* locks->lock */
    _Atomic uint64_t random;    /* relaxed; state of the seeded generator */
    _Atomic int64_t slept_us;   /* relaxed; the virtual clock */
    _Atomic uint64_t temp_names; /* relaxed */
    _Atomic int last_errno;     /* relaxed; of the last failed call, any thread */
};

struct file {
    sqlite3_file base;
    struct vfs *vfs;
    struct mn_file *io;
    struct node *node;          /* NULL unless a main database */
    struct shm *shm;            /* locks->lock; NULL until mapped */
    int level;                  /* locks->lock; SQLITE_LOCK_... */
    unsigned shm_shared;        /* locks->lock; slots held, one bit each */
    unsigned shm_exclusive;
    struct file *next;          /* locks->lock; of vfs->files */
    struct mn_fs *fs;           /* vfs->fs or vfs->temp */
    char *path;                 /* owned; of a temporary file or a journal to dirsync, else NULL */
    bool temporary;             /* unlink at close */
    bool dirsync;               /* a journal: its name is made durable at this file's first sync */
    bool persist_wal;
};

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER; /* orders register and unregister */

static struct file *file_of(sqlite3_file *f)
{
    return (struct file *)f;
}

/* ---- Errors ------------------------------------------------------------------------------ */

/* SQLite's code for errno `e` (negative) of a call whose own code is `own`. */
static int code(struct vfs *v, int e, int own)
{
    atomic_store_explicit(&v->last_errno, -e, memory_order_relaxed);
    switch (-e) {
    case ENOSPC:
    case EDQUOT:
        return SQLITE_FULL;
    case ENOMEM:
        return SQLITE_IOERR_NOMEM;
    default:
        return own;
    }
}

/* ---- Locks ------------------------------------------------------------------------------- */

static struct node *node_take(struct vfs_locks *l, const char *path)
{
    for (struct node *n = l->nodes; n; n = n->next)
        if (!n->unlinked && strcmp(n->path, path) == 0) {
            n->files++;
            return n;
        }
    struct node *n = sqlite3_malloc64(sizeof *n);
    if (!n)
        return NULL;
    *n = (struct node){.next = l->nodes, .path = sqlite3_mprintf("%s", path), .files = 1};
    if (!n->path) {
        sqlite3_free(n);
        return NULL;
    }
    l->nodes = n;
    return n;
}

static void node_give(struct vfs_locks *l, struct node *n)
{
    if (--n->files > 0)
        return;
    assert(!n->shm && n->shared == 0 && !n->reserved && !n->pending && !n->exclusive);
    struct node **at = &l->nodes;
    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
    sqlite3_free(n->path);
    sqlite3_free(n);
}

/* Lowers the file's lock to `level`, NONE or SHARED. Under the lock. */
static void lower(struct file *f, int level)
{
    struct node *n = f->node;
    if (f->level <= level)
        return;
    if (n->exclusive == f)
        n->exclusive = NULL;
    if (n->pending == f)
        n->pending = NULL;
    if (n->reserved == f)
        n->reserved = NULL;
    if (level == SQLITE_LOCK_NONE)
        n->shared--;
    f->level = level;
}

/* Raises it; false when another file is in the way. A failed EXCLUSIVE may leave PENDING behind,
 * which SQLite knows and wants: it keeps new readers out while it tries again. Under the lock. */
static bool raise_to(struct file *f, int level)
{
    struct node *n = f->node;
    if (f->level == SQLITE_LOCK_NONE) {
        assert(level == SQLITE_LOCK_SHARED);
        if (n->pending)
            return false;
        n->shared++;
        f->level = SQLITE_LOCK_SHARED;
        return true;
    }
    if ((n->reserved && n->reserved != f) || (n->pending && n->pending != f))
        return false;
    if (level == SQLITE_LOCK_RESERVED) {
        n->reserved = f;
        f->level = level;
        return true;
    }
    n->pending = f;
    f->level = SQLITE_LOCK_PENDING;
    if (level == SQLITE_LOCK_EXCLUSIVE) {
        if (n->shared > 1)
            return false;
        n->exclusive = f;
        f->level = level;
    }
    return true;
}

static int vfs_lock(sqlite3_file *base, int level)
{
    struct file *f = file_of(base);
    int rc = SQLITE_OK;
    if (!f->node)
        return SQLITE_OK;
    pthread_mutex_lock(&f->vfs->locks->lock);
    if (f->vfs->dead)
        rc = SQLITE_IOERR_LOCK;
    else if (f->level < level && !raise_to(f, level))
        rc = SQLITE_BUSY;
    pthread_mutex_unlock(&f->vfs->locks->lock);
    return rc;
}

static int vfs_unlock(sqlite3_file *base, int level)
{
    struct file *f = file_of(base);
    if (!f->node)
        return SQLITE_OK;
    pthread_mutex_lock(&f->vfs->locks->lock);
    lower(f, level);
    pthread_mutex_unlock(&f->vfs->locks->lock);
    return SQLITE_OK;
}

static int vfs_check_reserved(sqlite3_file *base, int *out)
{
    struct file *f = file_of(base);
    *out = 0;
    if (!f->node)
        return SQLITE_OK;
    pthread_mutex_lock(&f->vfs->locks->lock);
    *out = f->node->reserved || f->node->pending;
    pthread_mutex_unlock(&f->vfs->locks->lock);
    return SQLITE_OK;
}

/* ---- Shared memory ----------------------------------------------------------------------- */

static void shm_free(struct shm *s)
{
    for (int i = 0; i < s->n_regions; i++)
        sqlite3_free(s->regions[i]);
    sqlite3_free(s->regions);
    sqlite3_free(s);
}

/* Gives up all slots that the file holds. Under the lock. */
static void shm_release(struct file *f)
{
    for (int i = 0; i < SQLITE_SHM_NLOCK; i++) {
        if (f->shm_shared & (1u << i))
            f->shm->shared[i]--;
        if (f->shm_exclusive & (1u << i))
            f->shm->exclusive[i] = NULL;
    }
    f->shm_shared = f->shm_exclusive = 0;
}

/* One living file less. Under the lock. */
static void shm_leave(struct file *f)
{
    shm_release(f);
    if (--f->shm->living == 0 && f->node->shm == f->shm)
        f->node->shm = NULL;
}

/* Forgets the file's mapping, and frees the memory with the last one. Under the lock. */
static void shm_detach(struct file *f)
{
    if (!f->shm)
        return;
    if (!f->vfs->dead)
        shm_leave(f);
    if (--f->shm->maps == 0)
        shm_free(f->shm);
    f->shm = NULL;
}

static bool shm_attach(struct file *f)
{
    struct node *n = f->node;
    if (!n->shm) {
        n->shm = sqlite3_malloc64(sizeof *n->shm);
        if (!n->shm)
            return false;
        memset(n->shm, 0, sizeof *n->shm);
    }
    f->shm = n->shm;
    f->shm->maps++;
    f->shm->living++;
    return true;
}

/* Regions up to number `region` exist. Under the lock. */
static bool shm_extend(struct shm *s, int region, int bytes)
{
    if (region < s->n_regions)
        return true;
    void **grown = sqlite3_realloc64(s->regions, (sqlite3_uint64)(region + 1) * sizeof *grown);
    if (!grown)
        return false;
    s->regions = grown;
    while (s->n_regions <= region) {
        void *p = sqlite3_malloc64((sqlite3_uint64)bytes);
        if (!p)
            return false;
        memset(p, 0, (size_t)bytes);
        s->regions[s->n_regions++] = p;
    }
    return true;
}

static int vfs_shm_map(sqlite3_file *base, int region, int bytes, int extend, void volatile **out)
{
    struct file *f = file_of(base);
    int rc = SQLITE_OK;
    *out = NULL;
    if (!f->node)
        return SQLITE_IOERR_SHMMAP;
    pthread_mutex_lock(&f->vfs->locks->lock);
    if (!f->shm && f->vfs->dead)
        rc = SQLITE_IOERR_SHMMAP;
    else if (!f->shm && !shm_attach(f))
        rc = SQLITE_IOERR_NOMEM;
    else if (extend && !f->vfs->dead && !shm_extend(f->shm, region, bytes))
        rc = SQLITE_IOERR_NOMEM;
    else if (region < f->shm->n_regions)
        *out = f->shm->regions[region];
    pthread_mutex_unlock(&f->vfs->locks->lock);
    return rc;
}

/* All slots of `mask` exclusively for f, or none. Under the lock. */
static bool shm_lock_exclusive(struct file *f, unsigned mask)
{
    for (int i = 0; i < SQLITE_SHM_NLOCK; i++)
        if ((mask & (1u << i)) && f->shm->exclusive[i] != f &&
            (f->shm->exclusive[i] || f->shm->shared[i]))
            return false;
    for (int i = 0; i < SQLITE_SHM_NLOCK; i++)
        if (mask & (1u << i))
            f->shm->exclusive[i] = f;
    f->shm_exclusive |= mask;
    return true;
}

static void shm_unlock(struct file *f, unsigned mask)
{
    for (int i = 0; i < SQLITE_SHM_NLOCK; i++) {
        unsigned bit = mask & (1u << i);
        if (f->shm_exclusive & bit)
            f->shm->exclusive[i] = NULL;
        if (f->shm_shared & bit)
            f->shm->shared[i]--;
    }
    f->shm_exclusive &= ~mask;
    f->shm_shared &= ~mask;
}

static int vfs_shm_lock(sqlite3_file *base, int slot, int n, int flags)
{
    struct file *f = file_of(base);
    unsigned mask = ((1u << n) - 1u) << slot;
    int rc = SQLITE_OK;
    assert(slot >= 0 && n >= 1 && slot + n <= SQLITE_SHM_NLOCK);
    pthread_mutex_lock(&f->vfs->locks->lock);
    if (!f->shm || f->vfs->dead) {
        rc = flags & SQLITE_SHM_UNLOCK ? SQLITE_OK : SQLITE_IOERR_SHMLOCK;
    } else if (flags & SQLITE_SHM_UNLOCK) {
        shm_unlock(f, mask);
    } else if (flags & SQLITE_SHM_EXCLUSIVE) {
        assert(!(f->shm_shared & mask)); /* SQLite never upgrades */
        rc = shm_lock_exclusive(f, mask) ? SQLITE_OK : SQLITE_BUSY;
    } else if (!(f->shm_shared & mask)) {
        assert(n == 1 && !(f->shm_exclusive & mask));
        if (f->shm->exclusive[slot]) {
            rc = SQLITE_BUSY;
        } else {
            f->shm->shared[slot]++;
            f->shm_shared |= mask;
        }
    }
    pthread_mutex_unlock(&f->vfs->locks->lock);
    return rc;
}

/* SQLite orders its own accesses to the regions by this and by the slots' locks. The mutex makes
 * the order visible to tools that know mutexes and not fences. */
static void vfs_shm_barrier(sqlite3_file *base)
{
    struct file *f = file_of(base);
    atomic_thread_fence(memory_order_seq_cst);
    pthread_mutex_lock(&f->vfs->locks->lock);
    pthread_mutex_unlock(&f->vfs->locks->lock);
}

static int vfs_shm_unmap(sqlite3_file *base, int remove)
{
    struct file *f = file_of(base);
    (void)remove; /* there is no file behind it */
    pthread_mutex_lock(&f->vfs->locks->lock);
    shm_detach(f);
    pthread_mutex_unlock(&f->vfs->locks->lock);
    return SQLITE_OK;
}

/* ---- File I/O ---------------------------------------------------------------------------- */

static int vfs_close(sqlite3_file *base)
{
    struct file *f = file_of(base);
    struct vfs *v = f->vfs;
    pthread_mutex_lock(&v->locks->lock);
    struct file **at = &v->files;
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    if (f->node) {
        shm_detach(f);
        lower(f, SQLITE_LOCK_NONE);
        node_give(v->locks, f->node);
    }
    pthread_mutex_unlock(&v->locks->lock);
    int rc = io_close(f->io);
    if (f->temporary)
        io_unlink(f->fs, f->path);
    sqlite3_free(f->path);
    return rc ? code(v, rc, SQLITE_IOERR_CLOSE) : SQLITE_OK;
}

static int vfs_read(sqlite3_file *base, void *buf, int len, sqlite3_int64 off)
{
    struct file *f = file_of(base);
    size_t got;
    int rc = io_read(f->io, buf, (size_t)len, (uint64_t)off, &got);
    if (rc)
        return code(f->vfs, rc, SQLITE_IOERR_READ);
    if (got == (size_t)len)
        return SQLITE_OK;
    memset((char *)buf + got, 0, (size_t)len - got);
    return SQLITE_IOERR_SHORT_READ;
}

static int vfs_write(sqlite3_file *base, const void *buf, int len, sqlite3_int64 off)
{
    struct file *f = file_of(base);
    int rc = io_write(f->io, buf, (size_t)len, (uint64_t)off);
    return rc ? code(f->vfs, rc, SQLITE_IOERR_WRITE) : SQLITE_OK;
}

static int vfs_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct file *f = file_of(base);
    int rc = io_truncate(f->io, (uint64_t)size);
    return rc ? code(f->vfs, rc, SQLITE_IOERR_TRUNCATE) : SQLITE_OK;
}

/* As SQLite's unix VFS: the folder is flushed at a journal's first flush through each handle, so
 * that a commit's journal has a durable name when the commit relies on it. Also if the journal was
 * there when this handle was opened: the one that made it may never have flushed anything. */
static int vfs_sync(sqlite3_file *base, int flags)
{
    struct file *f = file_of(base);
    (void)flags;
    int rc = io_sync(f->io);
    if (rc)
        return code(f->vfs, rc, SQLITE_IOERR_FSYNC);
    if (f->dirsync) {
        rc = io_dirsync(f->fs, f->path);
        if (rc)
            return code(f->vfs, rc, SQLITE_IOERR_DIR_FSYNC);
        f->dirsync = false;
    }
    return SQLITE_OK;
}

static int vfs_size(sqlite3_file *base, sqlite3_int64 *out)
{
    struct file *f = file_of(base);
    uint64_t size;
    int rc = io_size(f->io, &size);
    *out = (sqlite3_int64)size;
    return rc ? code(f->vfs, rc, SQLITE_IOERR_FSTAT) : SQLITE_OK;
}

static int vfs_control(sqlite3_file *base, int what, void *arg)
{
    struct file *f = file_of(base);
    switch (what) {
    case SQLITE_FCNTL_LOCKSTATE:
        *(int *)arg = f->level;
        return SQLITE_OK;
    case SQLITE_FCNTL_LAST_ERRNO:
        *(int *)arg = atomic_load_explicit(&f->vfs->last_errno, memory_order_relaxed);
        return SQLITE_OK;
    case SQLITE_FCNTL_PERSIST_WAL:
        if (*(int *)arg < 0)
            *(int *)arg = f->persist_wal;
        else
            f->persist_wal = *(int *)arg != 0;
        return SQLITE_OK;
    case SQLITE_FCNTL_VFSNAME:
        *(char **)arg = sqlite3_mprintf("%s", f->vfs->base.zName);
        return SQLITE_OK;
    case SQLITE_FCNTL_HAS_MOVED:
        pthread_mutex_lock(&f->vfs->locks->lock);
        *(int *)arg = f->node && f->node->unlinked;
        pthread_mutex_unlock(&f->vfs->locks->lock);
        return SQLITE_OK;
    case SQLITE_FCNTL_SIZE_HINT: /* files grow in steps of their own */
        return SQLITE_OK;
    default:
        return SQLITE_NOTFOUND;
    }
}

static int vfs_sector(sqlite3_file *base)
{
    return (int)file_of(base)->vfs->opts.sector_bytes;
}

static int vfs_traits(sqlite3_file *base)
{
    return file_of(base)->vfs->opts.fragile_overwrite ? 0 : SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = vfs_close,
    .xRead = vfs_read,
    .xWrite = vfs_write,
    .xTruncate = vfs_truncate,
    .xSync = vfs_sync,
    .xFileSize = vfs_size,
    .xLock = vfs_lock,
    .xUnlock = vfs_unlock,
    .xCheckReservedLock = vfs_check_reserved,
    .xFileControl = vfs_control,
    .xSectorSize = vfs_sector,
    .xDeviceCharacteristics = vfs_traits,
    .xShmMap = vfs_shm_map,
    .xShmLock = vfs_shm_lock,
    .xShmBarrier = vfs_shm_barrier,
    .xShmUnmap = vfs_shm_unmap,
};

/* ---- The VFS ----------------------------------------------------------------------------- */

static struct vfs *vfs_of(sqlite3_vfs *v)
{
    return (struct vfs *)v;
}

/* Opens f->io; *flags loses the right to write if only reading is allowed. */
static int open_io(struct file *f, const char *path, int *flags)
{
    unsigned how = 0;
    if (*flags & SQLITE_OPEN_READWRITE)
        how |= IO_WRITE;
    if (*flags & SQLITE_OPEN_CREATE)
        how |= IO_CREATE;
    if (*flags & SQLITE_OPEN_EXCLUSIVE)
        how |= IO_EXCL;
    int rc = io_open(f->fs, path, how, &f->io);
    if ((rc == -EACCES || rc == -EROFS) && (how & IO_WRITE) && !(how & IO_EXCL)) {
        *flags &= ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
        *flags |= SQLITE_OPEN_READONLY;
        rc = io_open(f->fs, path, 0, &f->io);
    }
    return rc;
}

/* The name under which the file is opened: its own, or an invented one for a temporary file. */
static const char *choose_path(struct file *f, const char *name, int flags)
{
    struct vfs *v = f->vfs;
    f->temporary = !name || (flags & SQLITE_OPEN_DELETEONCLOSE);
    f->fs = f->temporary ? v->temp : v->fs;
    f->dirsync = !f->temporary && (flags & SQLITE_OPEN_CREATE) &&
                 (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL));
    if (f->temporary)
        f->path = sqlite3_mprintf("temporary-%llu", (unsigned long long)atomic_fetch_add_explicit(
                                                        &v->temp_names, 1, memory_order_relaxed));
    else if (f->dirsync)
        f->path = sqlite3_mprintf("%s", name);
    return f->temporary || f->dirsync ? f->path : name;
}

static int vfs_open(sqlite3_vfs *base, const char *name, sqlite3_file *out, int flags,
                    int *out_flags)
{
    struct vfs *v = vfs_of(base);
    struct file *f = file_of(out);
    *f = (struct file){.vfs = v};
    const char *path = choose_path(f, name, flags);
    if (!path)
        return SQLITE_IOERR_NOMEM;
    int rc = open_io(f, path, &flags);
    if (rc) {
        rc = code(v, rc, SQLITE_CANTOPEN);
        goto done;
    }
    pthread_mutex_lock(&v->locks->lock);
    if (flags & SQLITE_OPEN_MAIN_DB) {
        f->node = node_take(v->locks, path);
        rc = f->node ? SQLITE_OK : SQLITE_IOERR_NOMEM;
    }
    if (rc == SQLITE_OK) {
        f->next = v->files;
        v->files = f;
    }
    pthread_mutex_unlock(&v->locks->lock);
done:
    if (rc != SQLITE_OK) {
        if (f->io && f->temporary)
            io_unlink(f->fs, path);
        io_close(f->io);
        sqlite3_free(f->path);
        return rc;
    }
    f->base.pMethods = &methods;
    if (out_flags)
        *out_flags = flags;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *base, const char *name, int dirsync)
{
    struct vfs *v = vfs_of(base);
    int rc = io_unlink(v->fs, name);
    if (rc == -ENOENT)
        return code(v, rc, SQLITE_IOERR_DELETE_NOENT);
    if (rc)
        return code(v, rc, SQLITE_IOERR_DELETE);
    pthread_mutex_lock(&v->locks->lock);
    for (struct node *n = v->locks->nodes; n; n = n->next)
        if (strcmp(n->path, name) == 0)
            n->unlinked = true;
    pthread_mutex_unlock(&v->locks->lock);
    rc = dirsync ? io_dirsync(v->fs, name) : 0;
    return rc ? code(v, rc, SQLITE_IOERR_DIR_FSYNC) : SQLITE_OK;
}

/* As SQLite's unix VFS: an empty file does not count as existing. */
static int vfs_access(sqlite3_vfs *base, const char *name, int what, int *out)
{
    struct vfs *v = vfs_of(base);
    uint64_t size;
    bool writable;
    int rc = io_stat(v->fs, name, &size, &writable);
    *out = rc == 0 && (what == SQLITE_ACCESS_EXISTS ? size > 0 : writable);
    if (rc == 0 || rc == -ENOENT)
        return SQLITE_OK;
    return code(v, rc, SQLITE_IOERR_ACCESS);
}

static int vfs_full_pathname(sqlite3_vfs *base, const char *name, int room, char *out)
{
    (void)base;
    size_t n = strlen(name) + 1;
    if (n > (size_t)room)
        return SQLITE_CANTOPEN;
    memcpy(out, name, n);
    return SQLITE_OK;
}

static void *vfs_dl_open(sqlite3_vfs *base, const char *name)
{
    sqlite3_vfs *os = vfs_of(base)->os;
    return os->xDlOpen(os, name);
}

static void vfs_dl_error(sqlite3_vfs *base, int room, char *out)
{
    sqlite3_vfs *os = vfs_of(base)->os;
    os->xDlError(os, room, out);
}

static void (*vfs_dl_sym(sqlite3_vfs *base, void *lib, const char *name))(void)
{
    sqlite3_vfs *os = vfs_of(base)->os;
    return os->xDlSym(os, lib, name);
}

static void vfs_dl_close(sqlite3_vfs *base, void *lib)
{
    sqlite3_vfs *os = vfs_of(base)->os;
    os->xDlClose(os, lib);
}

static int vfs_randomness(sqlite3_vfs *base, int n, char *out)
{
    struct vfs *v = vfs_of(base);
    sqlite3_vfs *os = v->os;
    if (!v->opts.seed)
        return os->xRandomness(os, n, out);
    for (int i = 0; i < n; i++) {
        uint64_t z = atomic_fetch_add_explicit(&v->random, 0x9e3779b97f4a7c15u,
                                               memory_order_relaxed);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u; /* splitmix64 */
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        out[i] = (char)(z >> 56);
    }
    return n;
}

static int vfs_sleep(sqlite3_vfs *base, int us)
{
    struct vfs *v = vfs_of(base);
    sqlite3_vfs *os = v->os;
    if (!v->opts.virtual_time)
        return os->xSleep(os, us);
    atomic_fetch_add_explicit(&v->slept_us, us, memory_order_relaxed);
    return us;
}

static int vfs_time_ms(sqlite3_vfs *base, sqlite3_int64 *out)
{
    struct vfs *v = vfs_of(base);
    sqlite3_vfs *os = v->os;
    if (!v->opts.virtual_time)
        return os->xCurrentTimeInt64(os, out);
    *out = (sqlite3_int64)(START_DAY * DAY_MS) +
           atomic_load_explicit(&v->slept_us, memory_order_relaxed) / 1000;
    return SQLITE_OK;
}

static int vfs_time(sqlite3_vfs *base, double *out)
{
    sqlite3_int64 ms;
    int rc = vfs_time_ms(base, &ms);
    *out = (double)ms / DAY_MS;
    return rc;
}

static int vfs_last_error(sqlite3_vfs *base, int n, char *out)
{
    (void)n;
    (void)out;
    return atomic_load_explicit(&vfs_of(base)->last_errno, memory_order_relaxed);
}

static void vfs_destroy(struct vfs *v)
{
    if (!v)
        return;
    fs_mem_destroy(v->temp);
    mn_alloc_destroy(v->own_alloc);
    if (v->own_locks)
        vfs_locks_destroy(v->locks);
    sqlite3_free((char *)(uintptr_t)v->base.zName);
    sqlite3_free(v);
}

static struct vfs *vfs_create(const char *name, struct mn_fs *fs, const struct vfs_opts *opts)
{
    struct vfs *v = sqlite3_malloc64(sizeof *v);
    if (!v)
        return NULL;
    *v = (struct vfs){.os = sqlite3_vfs_find(NULL), .fs = fs};
    if (opts)
        v->opts = *opts;
    if (v->opts.sector_bytes == 0)
        v->opts.sector_bytes = DEFAULT_SECTOR;
    v->base = (sqlite3_vfs){
        .iVersion = 2,
        .szOsFile = sizeof(struct file),
        .mxPathname = PATH_MAX_BYTES,
        .zName = sqlite3_mprintf("%s", name),
        .xOpen = vfs_open,
        .xDelete = vfs_delete,
        .xAccess = vfs_access,
        .xFullPathname = vfs_full_pathname,
        .xDlOpen = vfs_dl_open,
        .xDlError = vfs_dl_error,
        .xDlSym = vfs_dl_sym,
        .xDlClose = vfs_dl_close,
        .xRandomness = vfs_randomness,
        .xSleep = vfs_sleep,
        .xCurrentTime = vfs_time,
        .xGetLastError = vfs_last_error,
        .xCurrentTimeInt64 = vfs_time_ms,
    };
    atomic_store(&v->random, v->opts.seed);
    v->own_locks = !v->opts.locks;
    v->locks = v->own_locks ? vfs_locks_create() : v->opts.locks;
    v->own_alloc = v->opts.alloc ? NULL : mn_alloc_create(NULL, UINT64_MAX);
    struct mn_alloc *alloc = v->opts.alloc ? v->opts.alloc : v->own_alloc;
    v->temp = alloc ? fs_mem_create(alloc) : NULL;
    if (!v->os || !v->base.zName || !v->locks || !v->temp) {
        vfs_destroy(v);
        return NULL;
    }
    return v;
}

mn_status vfs_register(const char *name, struct mn_fs *fs, const struct vfs_opts *opts,
                       mn_error *err)
{
    mn_status st = MN_OK;
    struct vfs *v = NULL;
    if (sqlite3_initialize() != SQLITE_OK)
        return mn_fail(err, MN_NOMEM, "SQLite could not start: out of memory");
    pthread_mutex_lock(&registry);
    if (sqlite3_vfs_find(name)) {
        st = mn_fail(err, MN_EXISTS, "SQLite has a VFS '%s' already", name);
        goto done;
    }
    v = vfs_create(name, fs, opts);
    if (!v || sqlite3_vfs_register(&v->base, 0) != SQLITE_OK) {
        vfs_destroy(v);
        st = mn_fail(err, MN_NOMEM, "out of memory for the VFS '%s'", name);
    }
done:
    pthread_mutex_unlock(&registry);
    return st;
}

/* NULL if there is none or it is not ours. */
static struct vfs *vfs_find(const char *name)
{
    sqlite3_vfs *v = sqlite3_vfs_find(name);
    return v && v->xOpen == vfs_open ? vfs_of(v) : NULL;
}

mn_status vfs_unregister(const char *name, mn_error *err)
{
    mn_status st = MN_OK;
    pthread_mutex_lock(&registry);
    struct vfs *v = vfs_find(name);
    if (!v) {
        st = mn_fail(err, MN_NOTFOUND, "no VFS '%s' was registered here", name);
        goto done;
    }
    pthread_mutex_lock(&v->locks->lock);
    bool used = v->files != NULL;
    pthread_mutex_unlock(&v->locks->lock);
    if (used) {
        st = mn_fail(err, MN_MISUSE, "the VFS '%s' has open files: close its connections first",
                     name);
        goto done;
    }
    sqlite3_vfs_unregister(&v->base);
    vfs_destroy(v);
done:
    pthread_mutex_unlock(&registry);
    return st;
}

struct vfs_locks *vfs_locks_create(void)
{
    struct vfs_locks *l = sqlite3_malloc64(sizeof *l);
    if (!l)
        return NULL;
    l->nodes = NULL;
    if (pthread_mutex_init(&l->lock, NULL) != 0) {
        sqlite3_free(l);
        return NULL;
    }
    return l;
}

void vfs_locks_destroy(struct vfs_locks *l)
{
    if (!l)
        return;
    assert(!l->nodes);
    pthread_mutex_destroy(&l->lock);
    sqlite3_free(l);
}

void vfs_kill(const char *name)
{
    pthread_mutex_lock(&registry);
    struct vfs *v = vfs_find(name);
    if (v) {
        pthread_mutex_lock(&v->locks->lock);
        for (struct file *f = v->files; f && !v->dead; f = f->next) {
            if (f->node)
                lower(f, SQLITE_LOCK_NONE);
            if (f->shm)
                shm_leave(f);
        }
        v->dead = true;
        pthread_mutex_unlock(&v->locks->lock);
    }
    pthread_mutex_unlock(&registry);
}
