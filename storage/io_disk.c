/*
 * The books of a batch. A read goes through these lists, each first in, first out:
 *
 *     free -> queued -> in flight (the backend's) -> done -> free
 *                ^            |
 *                +- the rest -+     short, interrupted, or refused by O_DIRECT
 *
 * complete() is the only place where the system's answer is understood, whatever the backend. All
 * books are kept by the batch's thread; the pool's threads only call pread.
 */
#include "storage/io_disk.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "storage/base/error.h"
#include "storage/io_backend.h"

enum {
    DEFAULT_THREADS = 16,
    DEFAULT_DEPTH = 64,
    MAX_DEPTH = 512,
    MAX_READS = 1 << 16,
    REQ_TRIES = 16,    /* EINTR and EAGAIN in a row */
    MAX_READ = 1 << 30 /* bytes of one read */
};

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0 /* TSan does not see what the kernel writes, nor the order it writes in */
#endif

struct io_disk {
    struct mn_alloc *alloc;
    struct io_disk_opts opts;
    enum io_backend backend; /* set in create */
    char why[128];           /* set in create */
    pthread_mutex_t lock;    /* guards what follows; no other lock is taken under it */
    struct io_pool *pool;
    bool no_pool; /* it could not be made: do not try for each batch */
};

struct list {
    struct io_req *first, **last;
};

struct io_batch {
    struct io_disk *disk;                  /* set in create */
    enum io_backend backend;               /* may fall back */
    struct io_req *reqs;                   /* [max_reads] set in create */
    struct mn_file *files[IO_BATCH_FILES]; /* set in create */
    unsigned n_files;
    unsigned depth, max_reads; /* set in create */
    char *arena;               /* set in create */
    size_t arena_bytes;
    struct list free, queued, flying, done; /* flying: with IO_SYNC only */
    unsigned n_free, n_flying;              /* n_flying: in flight, whatever the backend */
    struct io_landing landing;              /* set in create */
    struct io_pool *pool;                   /* with IO_PREAD */
    struct uring *ring;                     /* with IO_URING, once a read was submitted */
    uint64_t rng;                           /* with opts.shuffle */
};

/* ---- Lists ----------------------------------------------------------------------------------- */

static void list_init(struct list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void list_add(struct list *l, struct io_req *r)
{
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
}

static struct io_req *list_take(struct list *l)
{
    struct io_req *r = l->first;
    if (r && !(l->first = r->next))
        l->last = &l->first;
    return r;
}

/* Takes the i-th; there are more than i. */
static struct io_req *list_take_at(struct list *l, unsigned i)
{
    struct io_req **at = &l->first;
    while (i--)
        at = &(*at)->next;
    struct io_req *r = *at;
    *at = r->next;
    if (!*at)
        l->last = at;
    return r;
}

/* ---- Disks ----------------------------------------------------------------------------------- */

static const char *const names[] = {
    [IO_AUTO] = "auto", [IO_URING] = "io_uring", [IO_PREAD] = "pread", [IO_SYNC] = "sync"};

const char *io_backend_name(enum io_backend b)
{
    size_t i = (size_t)b;
    return i < sizeof names / sizeof names[0] ? names[i] : "unknown";
}

/* What MNEME_IO asks for. */
static mn_status from_environment(enum io_backend *out, mn_error *err)
{
    const char *text = getenv("MNEME_IO");
    *out = IO_AUTO;
    if (!text || !*text || strcmp(text, "auto") == 0)
        return MN_OK;
    if (strcmp(text, "uring") == 0 || strcmp(text, "io_uring") == 0)
        *out = IO_URING;
    else if (strcmp(text, "pread") == 0)
        *out = IO_PREAD;
    else if (strcmp(text, "sync") == 0)
        *out = IO_SYNC;
    else
        return mn_fail(err, MN_INVALID, "MNEME_IO is '%s'; it may be uring, pread, sync or auto",
                       text);
    return MN_OK;
}

static mn_status choose_backend(struct io_disk *d, mn_error *err)
{
    enum io_backend want = d->opts.backend;
    if (want == IO_AUTO) {
        mn_status st = from_environment(&want, err);
        if (st)
            return st;
    }
    d->backend = want;
    if (want == IO_AUTO && UNDER_TSAN) {
        d->backend = IO_PREAD;
        snprintf(d->why, sizeof d->why, "thread sanitizer");
    } else if (want == IO_AUTO || want == IO_URING) {
        bool works = uring_probe(d->why, sizeof d->why);
        if (!works && want == IO_URING)
            return mn_fail(err, MN_IO, "io_uring was asked for and does not work here (%s)",
                           d->why);
        d->backend = works ? IO_URING : IO_PREAD;
    } else {
        snprintf(d->why, sizeof d->why, "%s was asked for", names[want]);
    }
    return MN_OK;
}

mn_status io_disk_create(struct mn_alloc *a, const struct io_disk_opts *opts, struct io_disk **out,
                         mn_error *err)
{
    *out = NULL;
    struct io_disk *d = mn_alloc_array(a, 1, sizeof *d, MN_TAG_HANDLE);
    if (!d || pthread_mutex_init(&d->lock, NULL)) {
        mn_free(a, d);
        return mn_fail(err, MN_NOMEM, "out of memory for reading");
    }
    d->alloc = a;
    if (opts)
        d->opts = *opts;
    if (!d->opts.threads)
        d->opts.threads = DEFAULT_THREADS;
    mn_status st = choose_backend(d, err);
    if (st) {
        io_disk_destroy(d);
        return st;
    }
    *out = d;
    return MN_OK;
}

void io_disk_destroy(struct io_disk *d)
{
    if (!d)
        return;
    io_pool_destroy(d->alloc, d->pool);
    pthread_mutex_destroy(&d->lock);
    mn_free(d->alloc, d);
}

enum io_backend io_disk_backend(const struct io_disk *d)
{
    return d->backend;
}

const char *io_disk_why(const struct io_disk *d)
{
    return d->why;
}

/* The pool, started at its first use; NULL if that failed. */
static struct io_pool *disk_pool(struct io_disk *d)
{
    pthread_mutex_lock(&d->lock);
    if (!d->pool && !d->no_pool) {
        d->pool = io_pool_create(d->alloc, d->opts.threads);
        d->no_pool = !d->pool;
    }
    struct io_pool *pool = d->pool;
    pthread_mutex_unlock(&d->lock);
    return pool;
}

/* ---- Batches --------------------------------------------------------------------------------- */

static mn_status check_opts(const struct io_batch_opts *o, mn_error *err)
{
    if (o->depth > MAX_DEPTH)
        return mn_fail(err, MN_INVALID, "depth %u of a batch of reads; at most %d are allowed",
                       o->depth, MAX_DEPTH);
    if (o->max_reads > MAX_READS || (o->max_reads && o->max_reads < o->depth))
        return mn_fail(err, MN_INVALID,
                       "max_reads %u of a batch of reads; it must be depth, %u, to %d",
                       o->max_reads, o->depth, MAX_READS);
    if (o->n_files > IO_BATCH_FILES)
        return mn_fail(err, MN_INVALID, "%u files for a batch of reads; at most %d are allowed",
                       o->n_files, IO_BATCH_FILES);
    return MN_OK;
}

mn_status io_batch_create(struct io_disk *d, const struct io_batch_opts *opts,
                          struct io_batch **out, mn_error *err)
{
    static const struct io_batch_opts standard;
    const struct io_batch_opts *o = opts ? opts : &standard;
    *out = NULL;
    mn_status st = check_opts(o, err);
    if (st)
        return st;
    unsigned depth = o->depth, max_reads = o->max_reads;
    if (!depth)
        depth = max_reads && max_reads < DEFAULT_DEPTH ? max_reads : DEFAULT_DEPTH;
    if (!max_reads)
        max_reads = 4 * depth;
    struct io_batch *b = mn_alloc_array(d->alloc, 1, sizeof *b, MN_TAG_IO);
    struct io_req *reqs = mn_alloc_array(d->alloc, max_reads, sizeof *reqs, MN_TAG_IO);
    if (!b || !reqs || landing_init(&b->landing)) {
        mn_free(d->alloc, b);
        mn_free(d->alloc, reqs);
        return mn_fail(err, MN_NOMEM, "out of memory for %u reads", max_reads);
    }
    b->disk = d;
    b->backend = d->backend;
    b->reqs = reqs;
    b->depth = depth;
    b->max_reads = max_reads;
    b->n_files = o->n_files;
    for (unsigned i = 0; i < o->n_files; i++)
        b->files[i] = o->files[i];
    b->arena = o->arena;
    b->arena_bytes = o->arena ? o->arena_bytes : 0;
    b->rng = d->opts.shuffle;
    list_init(&b->free);
    list_init(&b->queued);
    list_init(&b->flying);
    list_init(&b->done);
    for (unsigned i = 0; i < max_reads; i++) {
        reqs[i].landing = &b->landing;
        list_add(&b->free, &reqs[i]);
    }
    b->n_free = max_reads;
    *out = b;
    return MN_OK;
}

void io_batch_destroy(struct io_batch *b)
{
    if (!b)
        return;
    io_batch_drain(b);
    uring_destroy(b->ring);
    landing_fini(&b->landing);
    struct mn_alloc *a = b->disk->alloc;
    mn_free(a, b->reqs);
    mn_free(a, b);
}

enum io_backend io_batch_backend(const struct io_batch *b)
{
    return b->backend;
}

unsigned io_batch_room(const struct io_batch *b)
{
    return b->n_free;
}

unsigned io_batch_pending(const struct io_batch *b)
{
    return b->max_reads - b->n_free;
}

/* ---- Starting and completing ----------------------------------------------------------------- */

/* Where this try of a read goes: the file's descriptor, direct if all is aligned. */
static void aim(struct io_batch *b, struct io_req *r)
{
    uint64_t all = (uint64_t)(uintptr_t)req_buf(r) | req_len(r) | req_off(r);
    int plain = io_fd(r->want.file, false);
    bool may = !r->direct ? false : (all & (IO_ALIGN - 1)) == 0;
    r->fd = may ? io_fd(r->want.file, true) : plain;
    r->direct = may && r->fd != plain;
    r->fixed = -1;
    for (unsigned i = 0; i < b->n_files; i++)
        if (b->files[i] == r->want.file)
            r->fixed = (int)(2 * i + r->direct);
    uintptr_t at = (uintptr_t)req_buf(r), arena = (uintptr_t)b->arena;
    r->in_arena = b->arena && at >= arena && at - arena < b->arena_bytes &&
                  req_len(r) <= b->arena_bytes - (at - arena);
}

/* Gives up the ring; what it had in flight is read again by the other way. */
static void fall_back(struct io_batch *b)
{
    uring_destroy(b->ring);
    b->ring = NULL;
    b->backend = IO_PREAD;
}

/* A ring of this thread, or the next best thing. Nothing is in flight. */
static void make_ready(struct io_batch *b)
{
    if (b->backend == IO_URING && b->ring && !uring_is_mine(b->ring)) {
        uring_destroy(b->ring);
        b->ring = NULL;
    }
    if (b->backend == IO_URING && !b->ring) {
        int fds[2 * IO_BATCH_FILES];
        bool real = true;
        const char *what;
        for (unsigned i = 0; i < b->n_files; i++) {
            fds[2 * i] = io_fd(b->files[i], false);
            fds[2 * i + 1] = io_fd(b->files[i], true);
            real = real && fds[2 * i] >= 0;
        }
        if (uring_create(b->depth, fds, real ? 2 * b->n_files : 0, b->arena, b->arena_bytes,
                         &b->ring, &what))
            fall_back(b);
    }
    if (b->backend == IO_PREAD && !b->pool && !(b->pool = disk_pool(b->disk)))
        b->backend = IO_SYNC;
}

/* One read in flight. Files that the system does not know are read by the seam. */
static int launch(struct io_batch *b, struct io_req *r)
{
    int rc = 0;
    aim(b, r);
    if (r->fd < 0 || b->backend == IO_SYNC)
        list_add(&b->flying, r);
    else if (b->backend == IO_URING)
        rc = uring_push(b->ring, r);
    else
        io_pool_push(b->pool, r);
    return rc;
}

static void finish(struct io_batch *b, struct io_req *r, int error)
{
    r->state = REQ_DONE;
    r->error = error;
    list_add(&b->done, r);
}

/* Starts what depth allows. */
static void start(struct io_batch *b)
{
    bool pushed = false;
    while (b->queued.first && b->n_flying < b->depth) {
        struct io_req *r = list_take(&b->queued);
        int rc;
        r->state = REQ_INFLIGHT;
        b->n_flying++;
        rc = launch(b, r);
        if (rc) {
            b->n_flying--;
            finish(b, r, rc);
        } else {
            pushed = true;
        }
    }
    if (pushed && b->backend == IO_URING && b->ring)
        uring_submit(b->ring); /* what fails here fails again in uring_wait */
}

/* What the system's answer means: the read is done, or its rest is to be read. */
static void complete(struct io_batch *b, struct io_req *r)
{
    assert(r->state == REQ_INFLIGHT || r->state == REQ_CANCELLING);
    int res = r->res;
    if (b->disk->opts.meddle)
        res = b->disk->opts.meddle(b->disk->opts.meddle_ctx, r->want.tag, res);
    b->n_flying--;
    if (r->state == REQ_CANCELLING) {
        finish(b, r, -ECANCELED);
        return;
    }
    if (res == -EINTR || res == -EAGAIN) {
        if (++r->tries > REQ_TRIES) {
            finish(b, r, res);
            return;
        }
    } else if (res == -EINVAL && r->direct) {
        r->direct = false; /* this file system does not read so: by the page cache */
    } else if (res <= 0) {
        finish(b, r, res ? res : -ENODATA); /* 0: the file ends here */
        return;
    } else {
        assert((uint32_t)res <= req_len(r));
        r->got += (uint32_t)res;
        if (r->got == r->want.len) {
            finish(b, r, 0);
            return;
        }
        if (r->direct && r->got % IO_ALIGN) { /* the file ends inside a block */
            finish(b, r, -ENODATA);
            return;
        }
        r->tries = 0;
    }
    r->state = REQ_QUEUED; /* the rest, before what waits */
    r->next = b->queued.first;
    b->queued.first = r;
    if (!r->next)
        b->queued.last = &r->next;
}

static uint64_t draw(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Reads one of those that wait for it, by the seam. */
static void read_one(struct io_batch *b)
{
    unsigned n = 0;
    for (struct io_req *r = b->flying.first; r; r = r->next)
        n++;
    struct io_req *r = list_take_at(&b->flying, b->rng ? (unsigned)(draw(&b->rng) % n) : 0);
    size_t got = 0;
    if (r->state == REQ_CANCELLING) {
        r->res = -ECANCELED;
    } else {
        int rc = io_read(r->want.file, req_buf(r), req_len(r), req_off(r), &got);
        r->res = rc ? rc : (int)got;
    }
    complete(b, r);
}

/* Every read of a ring that broke: read again. The kernel is done with them, or, as it happens,
 * writes the same bytes once more. */
static void reclaim_ring(struct io_batch *b)
{
    fall_back(b);
    make_ready(b);
    for (unsigned i = 0; i < b->max_reads; i++) {
        struct io_req *r = &b->reqs[i];
        if (r->state != REQ_INFLIGHT && r->state != REQ_CANCELLING)
            continue;
        r->res = -EINTR;
        complete(b, r);
    }
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Waits for a landing, then completes all that landed. */
static void collect(struct io_batch *b, int64_t wait_us)
{
    struct io_req *r;
    if (b->flying.first) {
        read_one(b);
    } else if (b->backend == IO_URING) {
        r = uring_reap(b->ring);
        if (!r && uring_wait(b->ring, wait_us))
            reclaim_ring(b);
        else if (!r)
            r = uring_reap(b->ring);
        while (r) {
            complete(b, r);
            r = uring_reap(b->ring);
        }
    } else {
        for (r = landing_take(&b->landing, wait_us); r; r = landing_take(&b->landing, 0))
            complete(b, r);
    }
}

/* ---- The interface --------------------------------------------------------------------------- */

mn_status io_batch_submit(struct io_batch *b, const struct io_want *wants, size_t n, mn_error *err)
{
    if (n > b->n_free)
        return mn_fail(err, MN_MISUSE, "%zu reads for a batch with room for %u", n, b->n_free);
    for (size_t i = 0; i < n; i++)
        if (!wants[i].len || wants[i].len > MAX_READ || !wants[i].buf ||
            wants[i].off > (uint64_t)INT64_MAX - wants[i].len)
            return mn_fail(err, MN_INVALID, "read %zu of a batch: no valid length or place", i);
    if (b->n_flying == 0)
        make_ready(b);
    for (size_t i = 0; i < n; i++) {
        struct io_req *r = list_take(&b->free);
        r->want = wants[i];
        r->direct = true;
        r->tries = 0;
        r->got = 0;
        atomic_store_explicit(&r->cancelled, false, memory_order_relaxed);
        r->state = REQ_QUEUED;
        list_add(&b->queued, r);
    }
    b->n_free -= (unsigned)n;
    start(b);
    return MN_OK;
}

bool io_batch_next(struct io_batch *b, int64_t wait_us, struct io_done *out)
{
    uint64_t end = wait_us > 0 ? now_us() + (uint64_t)wait_us : 0;
    int64_t left = wait_us;
    while (!b->done.first) {
        if (io_batch_pending(b) == 0)
            return false;
        if (b->n_flying)
            collect(b, left);
        start(b);
        if (b->done.first)
            break;
        if (wait_us == 0)
            return false;
        if (wait_us > 0) {
            uint64_t now = now_us();
            if (now >= end)
                return false;
            left = (int64_t)(end - now);
        }
    }
    struct io_req *r = list_take(&b->done);
    *out = (struct io_done){r->want.tag, r->want.buf, r->want.len, r->error};
    r->state = REQ_FREE;
    list_add(&b->free, r);
    b->n_free++;
    return true;
}

void io_batch_cancel(struct io_batch *b)
{
    struct io_req *r;
    while ((r = list_take(&b->queued)))
        finish(b, r, -ECANCELED);
    for (unsigned i = 0; i < b->max_reads; i++)
        if (b->reqs[i].state == REQ_INFLIGHT) {
            b->reqs[i].state = REQ_CANCELLING;
            atomic_store_explicit(&b->reqs[i].cancelled, true, memory_order_relaxed);
        }
}

void io_batch_drain(struct io_batch *b)
{
    struct io_done done;
    if (io_batch_pending(b) == 0)
        return;
    io_batch_cancel(b);
    while (io_batch_next(b, -1, &done)) {
    }
}

mn_status io_read_whole(struct mn_file *file, uint64_t off, void *buf, size_t len, const char *what,
                        mn_error *err)
{
    size_t got = 0;
    int rc = io_read(file, buf, len, off, &got);
    if (rc)
        return mn_fail_os(err, rc == -ENOMEM ? MN_NOMEM : MN_IO, -rc, "%s: read at byte %llu", what,
                          (unsigned long long)off);
    if (got < len)
        return mn_fail(err, MN_CORRUPT, "%s: the file ends before byte %llu", what,
                       (unsigned long long)(off + len));
    return MN_OK;
}
