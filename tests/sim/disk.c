/*
 * The running disk: what processes see (sim.now), the log of what they did, faults. Each process
 * has an mn_fs of its own over the shared disk, so that a killed one can be refused everything.
 *
 * A change that is asked for passes gate() first, which counts calls and may strike; then it is
 * done in sim.now and logged. Only what changes a disk is logged: writes, sizes, names and syncs.
 */
#include "tests/sim/disk.h"

#include "storage/base/error.h"
#include "storage/vfs.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sim_proc {
    struct mn_fs fs;
    struct sim *sim;
    char vfs[40];
    bool dead;              /* sim lock */
    unsigned handles;       /* sim lock */
};

struct handle {
    struct mn_file base;
    struct sim_proc *proc;
    unsigned file;
    bool writable;
};

static struct sim_proc *proc_of(struct mn_fs *fs)
{
    return (struct sim_proc *)fs;
}

static struct handle *handle_of(struct mn_file *f)
{
    return (struct handle *)f;
}

/* ---- Log ----------------------------------------------------------------------------------- */

static char *copy_text(const char *text)
{
    size_t n = strlen(text) + 1;
    return memcpy(sim_alloc(n), text, n);
}

static struct op *log_op(struct sim *s, enum op_kind kind, unsigned file)
{
    s->log = sim_grow(s->log, s->n_log, sizeof *s->log);
    struct op *op = &s->log[s->n_log++];
    *op = (struct op){.kind = kind, .file = file};
    return op;
}

static void log_name(struct sim *s, enum op_kind kind, unsigned file, const char *path,
                     const char *to)
{
    struct op *op = log_op(s, kind, file);
    op->path = copy_text(path);
    op->to = to ? copy_text(to) : NULL;
}

static void event(struct sim *s, uint32_t id, bool ack)
{
    pthread_mutex_lock(&s->lock);
    s->events = sim_grow(s->events, s->n_events, sizeof *s->events);
    s->events[s->n_events++] = (struct event){s->n_log, id, ack};
    pthread_mutex_unlock(&s->lock);
}

void sim_begin(struct sim *s, uint32_t id)
{
    event(s, id, false);
}

void sim_ack(struct sim *s, uint32_t id)
{
    event(s, id, true);
}

void sim_mark(struct sim *s, const char *label)
{
    pthread_mutex_lock(&s->lock);
    s->marks = sim_grow(s->marks, s->n_marks, sizeof *s->marks);
    s->marks[s->n_marks++] = (struct mark){s->n_log, label};
    pthread_mutex_unlock(&s->lock);
}

struct sim_stats sim_stats(struct sim *s)
{
    pthread_mutex_lock(&s->lock);
    struct sim_stats stats = s->stats;
    stats.log = s->n_log;
    pthread_mutex_unlock(&s->lock);
    return stats;
}

void sim_limit(struct sim *s, uint64_t bytes)
{
    pthread_mutex_lock(&s->lock);
    s->limit = bytes;
    pthread_mutex_unlock(&s->lock);
}

/* ---- Faults -------------------------------------------------------------------------------- */

void sim_arm(struct sim *s, enum sim_fault fault, unsigned mask, uint64_t n, enum sim_mode mode)
{
    pthread_mutex_lock(&s->lock);
    s->fault = (struct fault){.kind = fault, .mask = mask, .n = n, .sticky = mode == SIM_STICKY};
    pthread_mutex_unlock(&s->lock);
}

uint64_t sim_fired(struct sim *s)
{
    pthread_mutex_lock(&s->lock);
    uint64_t n = s->fault.fired;
    pthread_mutex_unlock(&s->lock);
    return n;
}

/* One call of kind `op`: 0, or what struck it: -EIO, -ENOSPC, -EINTR, or 1 for half a transfer. */
static int strike(struct sim *s, unsigned op)
{
    struct fault *f = &s->fault;
    if (!f->n || !(f->mask & op))
        return 0;
    f->calls++;
    if (f->sticky ? f->calls < f->n : f->calls != f->n)
        return 0;
    f->fired++;
    switch (f->kind) {
    case SIM_EIO:
        return -EIO;
    case SIM_ENOSPC:
        return -ENOSPC;
    case SIM_EINTR:
        return -EINTR;
    default:
        return 1;
    }
}

/* What every call passes: a dead process is refused; an interrupted call is made again and a short
 * read asks for its rest, which nobody notices; 1 is half of a write. */
static int gate(struct sim_proc *p, unsigned op)
{
    if (p->dead)
        return -EIO;
    int hit = strike(p->sim, op);
    return hit == -EINTR || (hit == 1 && op != SIM_WRITE) ? 0 : hit;
}

/* ---- Files --------------------------------------------------------------------------------- */

static uint64_t used_bytes(const struct sim *s)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < s->now.n_names; i++)
        sum += s->now.files[s->now.names[i].file].size;
    return sum;
}

/* Finds or makes the file; under the lock, past the gate. */
static int open_file(struct sim *s, const char *path, unsigned flags, unsigned *file)
{
    int i = tree_find(&s->now, path);
    if (i >= 0) {
        *file = s->now.names[i].file;
        return (flags & IO_CREATE) && (flags & IO_EXCL) ? -EEXIST : 0;
    }
    if (!(flags & IO_CREATE))
        return -ENOENT;
    if (strlen(path) >= SIM_PATH)
        return -ENAMETOOLONG;
    *file = tree_add_file(&s->now);
    tree_link(&s->now, path, *file);
    log_name(s, OP_CREATE, *file, path, NULL);
    return 0;
}

static int sim_open(struct mn_fs *fs, const char *path, unsigned flags, struct mn_file **out)
{
    struct sim_proc *p = proc_of(fs);
    unsigned file = 0;
    if ((flags & IO_CREATE) && !(flags & IO_WRITE))
        return -EINVAL;
    pthread_mutex_lock(&p->sim->lock);
    int rc = gate(p, SIM_OPEN);
    if (rc == 0)
        rc = open_file(p->sim, path, flags, &file);
    if (rc == 0) {
        struct handle *h = sim_alloc(sizeof *h);
        *h = (struct handle){{fs}, p, file, (flags & IO_WRITE) != 0};
        p->handles++;
        *out = &h->base;
    }
    pthread_mutex_unlock(&p->sim->lock);
    return rc;
}

/* Drops the byte locks of a handle, and those of a process. Under the lock. */
static void drop_locks(struct sim *s, const void *handle, const struct sim_proc *proc)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_locked; i++)
        if (s->locked[i].handle != handle && s->locked[i].proc != proc)
            s->locked[n++] = s->locked[i];
    s->n_locked = n;
}

static int sim_close(struct mn_file *f)
{
    struct handle *h = handle_of(f);
    pthread_mutex_lock(&h->proc->sim->lock);
    h->proc->handles--;
    drop_locks(h->proc->sim, h, NULL);
    pthread_mutex_unlock(&h->proc->sim->lock);
    free(h);
    return 0;
}

static int sim_read(struct mn_file *f, void *buf, size_t len, uint64_t off, size_t *got)
{
    struct handle *h = handle_of(f);
    struct sim *s = h->proc->sim;
    pthread_mutex_lock(&s->lock);
    struct content *c = &s->now.files[h->file];
    int rc = gate(h->proc, SIM_READ);
    if (rc == 0) {
        uint64_t left = off < c->size ? c->size - off : 0;
        *got = len < left ? len : (size_t)left;
        content_read(c, buf, *got, off);
        s->stats.reads++;
        s->stats.bytes_read += *got;
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* Past the gate. */
static void write_now(struct sim *s, unsigned file, const void *buf, size_t len, uint64_t off)
{
    struct op *op = log_op(s, OP_WRITE, file);
    op->off = off;
    op->len = len;
    op->data = memcpy(sim_alloc(len), buf, len);
    content_write(&s->now.files[file], buf, len, off);
    s->stats.writes++;
    s->stats.bytes_written += len;
}

static int sim_write(struct mn_file *f, const void *buf, size_t len, uint64_t off)
{
    struct handle *h = handle_of(f);
    struct sim *s = h->proc->sim;
    if (!h->writable)
        return -EBADF;
    if (len == 0)
        return 0;
    if (off > (uint64_t)INT64_MAX - len)
        return -EFBIG;
    pthread_mutex_lock(&s->lock);
    uint64_t size = s->now.files[h->file].size, more = off + len > size ? off + len - size : 0;
    int rc = gate(h->proc, SIM_WRITE);
    if (rc >= 0 && s->limit && more && used_bytes(s) + more > s->limit)
        rc = -ENOSPC;
    if (rc == 1) {
        if (len > 1)
            write_now(s, h->file, buf, len / 2, off);
        rc = -ENOSPC;
    } else if (rc == 0) {
        write_now(s, h->file, buf, len, off);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int sim_sync(struct mn_file *f)
{
    struct handle *h = handle_of(f);
    struct sim *s = h->proc->sim;
    pthread_mutex_lock(&s->lock);
    int rc = gate(h->proc, SIM_SYNC);
    s->stats.syncs++;
    if (rc && !h->proc->dead)
        log_op(s, OP_SYNC_FAILED, h->file);
    else if (!rc && !s->disk.swallow_syncs)
        log_op(s, OP_SYNC, h->file);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int sim_truncate(struct mn_file *f, uint64_t size)
{
    struct handle *h = handle_of(f);
    struct sim *s = h->proc->sim;
    if (!h->writable)
        return -EBADF;
    pthread_mutex_lock(&s->lock);
    int rc = gate(h->proc, SIM_TRUNCATE);
    if (rc == 0 && size != s->now.files[h->file].size) {
        log_op(s, OP_RESIZE, h->file)->off = size;
        content_resize(&s->now.files[h->file], size);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int sim_reserve(struct mn_file *f, uint64_t size)
{
    struct handle *h = handle_of(f);
    struct sim *s = h->proc->sim;
    if (!h->writable)
        return -EBADF;
    pthread_mutex_lock(&s->lock);
    uint64_t now = s->now.files[h->file].size;
    int rc = gate(h->proc, SIM_TRUNCATE);
    if (rc == 0 && size > now && s->limit && used_bytes(s) + (size - now) > s->limit)
        rc = -ENOSPC;
    if (rc == 0 && size > now) {
        log_op(s, OP_RESIZE, h->file)->off = size;
        content_resize(&s->now.files[h->file], size);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* On the simulated disk a hole is zeros that were written: it may be there in part. */
static int sim_punch(struct mn_file *f, uint64_t off, uint64_t len)
{
    struct handle *h = handle_of(f);
    struct sim *s = h->proc->sim;
    if (!h->writable)
        return -EBADF;
    pthread_mutex_lock(&s->lock);
    uint64_t size = s->now.files[h->file].size;
    int rc = gate(h->proc, SIM_TRUNCATE);
    if (rc == 0 && off < size) {
        size_t n = (size_t)(len < size - off ? len : size - off);
        void *zeros = sim_alloc(n);
        write_now(s, h->file, zeros, n, off);
        free(zeros);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int sim_lock(struct mn_file *f, uint64_t byte)
{
    struct handle *h = handle_of(f);
    struct sim *s = h->proc->sim;
    pthread_mutex_lock(&s->lock);
    int rc = h->proc->dead ? -EIO : 0;
    bool mine = false;
    for (uint32_t i = 0; i < s->n_locked; i++)
        if (s->locked[i].file == h->file && s->locked[i].byte == byte) {
            mine = s->locked[i].handle == h;
            rc = mine ? rc : -EAGAIN;
        }
    if (rc == 0 && !mine) {
        s->locked = sim_grow(s->locked, s->n_locked, sizeof *s->locked);
        s->locked[s->n_locked++] = (struct byte_lock){h->file, byte, h, h->proc};
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int sim_unlock(struct mn_file *f, uint64_t byte)
{
    struct handle *h = handle_of(f);
    struct sim *s = h->proc->sim;
    pthread_mutex_lock(&s->lock);
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_locked; i++)
        if (s->locked[i].handle != h || s->locked[i].byte != byte)
            s->locked[n++] = s->locked[i];
    s->n_locked = n;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int sim_size(struct mn_file *f, uint64_t *out)
{
    struct handle *h = handle_of(f);
    pthread_mutex_lock(&h->proc->sim->lock);
    int rc = gate(h->proc, SIM_STAT);
    if (rc == 0)
        *out = h->proc->sim->now.files[h->file].size;
    pthread_mutex_unlock(&h->proc->sim->lock);
    return rc;
}

static int sim_unlink(struct mn_fs *fs, const char *path)
{
    struct sim_proc *p = proc_of(fs);
    struct sim *s = p->sim;
    pthread_mutex_lock(&s->lock);
    int i = tree_find(&s->now, path);
    int rc = gate(p, SIM_UNLINK);
    if (rc == 0 && i < 0)
        rc = -ENOENT;
    if (rc == 0) {
        log_name(s, OP_UNLINK, s->now.names[i].file, path, NULL);
        tree_drop(&s->now, (size_t)i);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int sim_rename(struct mn_fs *fs, const char *from, const char *to)
{
    struct sim_proc *p = proc_of(fs);
    struct sim *s = p->sim;
    if (strlen(to) >= SIM_PATH)
        return -ENAMETOOLONG;
    pthread_mutex_lock(&s->lock);
    int i = tree_find(&s->now, from);
    int rc = gate(p, SIM_RENAME);
    if (rc == 0 && i < 0)
        rc = -ENOENT;
    if (rc == 0 && strcmp(from, to) != 0) {
        unsigned file = s->now.names[i].file;
        log_name(s, OP_RENAME, file, from, to);
        tree_drop(&s->now, (size_t)i);
        tree_link(&s->now, to, file);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int sim_stat(struct mn_fs *fs, const char *path, uint64_t *size, bool *writable)
{
    struct sim_proc *p = proc_of(fs);
    pthread_mutex_lock(&p->sim->lock);
    int i = tree_find(&p->sim->now, path);
    int rc = gate(p, SIM_STAT);
    if (rc == 0 && i < 0)
        rc = -ENOENT;
    if (rc == 0) {
        *size = p->sim->now.files[p->sim->now.names[i].file].size;
        *writable = true;
    }
    pthread_mutex_unlock(&p->sim->lock);
    return rc;
}

static int sim_dirsync(struct mn_fs *fs, const char *path)
{
    struct sim_proc *p = proc_of(fs);
    pthread_mutex_lock(&p->sim->lock);
    int rc = gate(p, SIM_DIRSYNC);
    p->sim->stats.syncs++;
    if (rc == 0 && !p->sim->disk.swallow_syncs)
        log_name(p->sim, OP_DIRSYNC, 0, path, NULL);
    pthread_mutex_unlock(&p->sim->lock);
    return rc;
}

static const struct mn_fs_ops sim_ops = {
    .open = sim_open,
    .close = sim_close,
    .read = sim_read,
    .write = sim_write,
    .sync = sim_sync,
    .truncate = sim_truncate,
    .size = sim_size,
    .unlink = sim_unlink,
    .rename = sim_rename,
    .stat = sim_stat,
    .dirsync = sim_dirsync,
    .reserve = sim_reserve,
    .punch = sim_punch,
    .lock = sim_lock,
    .unlock = sim_unlock,
};

/* ---- Disk and processes -------------------------------------------------------------------- */

struct sim *sim_from_tree(const struct sim_disk *disk, const struct tree *t)
{
    struct sim *s = sim_alloc(sizeof *s);
    s->disk = *disk;
    if (!s->disk.seed)
        s->disk.seed = 1;
    if (!s->disk.sector_bytes)
        s->disk.sector_bytes = SIM_PAGE;
    assert(s->disk.sector_bytes == 512 || s->disk.sector_bytes == SIM_PAGE);
    pthread_mutex_init(&s->lock, NULL);
    s->locks = vfs_locks_create();
    for (size_t i = 0; t && i < t->n_names; i++) {
        unsigned file = tree_add_file(&s->now);
        s->now.files[file] = content_share(&t->files[t->names[i].file]);
        tree_link(&s->now, t->names[i].path, file);
        tree_add_file(&s->start);
        s->start.files[file] = content_share(&s->now.files[file]);
        tree_link(&s->start, t->names[i].path, file);
    }
    return s;
}

struct sim *sim_create(const struct sim_disk *disk)
{
    static const struct sim_disk plain;
    return sim_from_tree(disk ? disk : &plain, NULL);
}

void sim_destroy(struct sim *s)
{
    if (!s)
        return;
    assert(s->procs == 0);
    for (uint32_t i = 0; i < s->n_log; i++) {
        free(s->log[i].data);
        free(s->log[i].path);
        free(s->log[i].to);
    }
    free(s->log);
    free(s->events);
    free(s->marks);
    free(s->locked);
    tree_fini(&s->now);
    tree_fini(&s->start);
    vfs_locks_destroy(s->locks);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

struct sim_proc *sim_start(struct sim *s)
{
    static _Atomic unsigned names;
    struct sim_proc *p = sim_alloc(sizeof *p);
    mn_error err = {0};
    p->fs.ops = &sim_ops;
    p->sim = s;
    unsigned number = names++;
    snprintf(p->vfs, sizeof p->vfs, "sim-%u", number);
    pthread_mutex_lock(&s->lock);
    unsigned nth = s->procs++;
    pthread_mutex_unlock(&s->lock);
    struct vfs_opts opts = {
        .sector_bytes = s->disk.sector_bytes,
        .fragile_overwrite = s->disk.fragile_overwrite,
        .virtual_time = true,
        .seed = sim_mix(s->disk.seed + nth) | 1,
        .locks = s->locks,
    };
    if (vfs_register(p->vfs, &p->fs, &opts, &err) != MN_OK) {
        fprintf(stderr, "sim: %s\n", err.message);
        abort();
    }
    return p;
}

const char *sim_vfs(const struct sim_proc *p)
{
    return p->vfs;
}

struct mn_fs *sim_fs(struct sim_proc *p)
{
    return &p->fs;
}

void sim_kill(struct sim_proc *p)
{
    pthread_mutex_lock(&p->sim->lock);
    p->dead = true;
    drop_locks(p->sim, NULL, p);
    pthread_mutex_unlock(&p->sim->lock);
    vfs_kill(p->vfs);
}

void sim_stop(struct sim_proc *p)
{
    mn_error err = {0};
    if (vfs_unregister(p->vfs, &err) != MN_OK) {
        fprintf(stderr, "sim: %s\n", err.message);
        abort();
    }
    assert(p->handles == 0);
    pthread_mutex_lock(&p->sim->lock);
    p->sim->procs--;
    pthread_mutex_unlock(&p->sim->lock);
    free(p);
}
