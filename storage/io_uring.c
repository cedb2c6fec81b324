/*
 * Rings. One belongs to the thread that made it (IORING_SETUP_SINGLE_ISSUER), and the kernel does a
 * completion's work only when that thread asks for it (DEFER_TASKRUN): no interrupts of the
 * scoring, but a completion never appears by itself: every wait, and every look, enters the kernel.
 * Kernels that do not know these flags get fewer. Never IOPOLL: a kernel may accept it and never
 * complete a read where the device has no poll queues.
 *
 * Fixed files and fixed buffers save a reference and a pinning of pages a read (5 to 10% of the
 * reads a second); where the system refuses them (limits on locked memory) nothing else changes.
 */
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage/io_backend.h"

enum { MAX_ARENA = 1 << 30 }; /* bytes of one registered buffer: the kernel's limit */

struct uring {
    struct io_uring ring;
    pid_t owner;    /* thread; set in create */
    bool has_files; /* set in create */
    bool has_arena; /* set in create */
};

static int ring_init(struct io_uring *ring, unsigned depth)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
        0,
    };
    int rc = -EINVAL;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0] && rc == -EINVAL; i++) {
        struct io_uring_params p = {
            .flags = flags[i] | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
            .cq_entries = 2 * depth,
        };
        rc = io_uring_queue_init_params(depth, ring, &p);
        if (rc == 0 && !((p.features & IORING_FEAT_NODROP) && (p.features & IORING_FEAT_EXT_ARG))) {
            io_uring_queue_exit(ring); /* before 5.11: lost and late completions */
            rc = -ENOSYS;
        }
    }
    return rc;
}

int uring_create(unsigned depth, const int *fds, unsigned n_fds, void *arena, size_t arena_bytes,
                 struct uring **out, const char **what)
{
    struct uring *u = calloc(1, sizeof *u);
    *out = NULL;
    *what = "io_uring_queue_init";
    int rc = u ? ring_init(&u->ring, depth) : -ENOMEM;
    if (rc) {
        free(u);
        return rc;
    }
    u->owner = gettid();
    io_uring_ring_dontfork(&u->ring);
    /* The ring's own descriptor is not registered: whichever thread destroys the ring would then
     * unregister the slot of that number among its own. */
    if (n_fds)
        u->has_files = io_uring_register_files(&u->ring, fds, n_fds) == 0;
    if (arena && arena_bytes && arena_bytes <= MAX_ARENA) {
        const struct iovec all = {arena, arena_bytes};
        u->has_arena = io_uring_register_buffers(&u->ring, &all, 1) == 0;
    }
    *out = u;
    return 0;
}

void uring_destroy(struct uring *u)
{
    if (!u)
        return;
    io_uring_queue_exit(&u->ring);
    free(u);
}

bool uring_has_files(const struct uring *u)
{
    return u->has_files;
}

bool uring_has_arena(const struct uring *u)
{
    return u->has_arena;
}

bool uring_is_mine(const struct uring *u)
{
    return u->owner == gettid();
}

int uring_push(struct uring *u, struct io_req *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) {
        int rc = uring_submit(u);
        sqe = rc ? NULL : io_uring_get_sqe(&u->ring);
        if (!sqe)
            return rc ? rc : -EAGAIN;
    }
    bool fixed = u->has_files && r->fixed >= 0;
    int fd = fixed ? r->fixed : r->fd;
    if (u->has_arena && r->in_arena)
        io_uring_prep_read_fixed(sqe, fd, req_buf(r), req_len(r), req_off(r), 0);
    else
        io_uring_prep_read(sqe, fd, req_buf(r), req_len(r), req_off(r));
    if (fixed)
        sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, r);
    return 0;
}

/* Errors after which the same call may succeed. */
static bool passes(int rc)
{
    return rc == -EINTR || rc == -EAGAIN || rc == -EBUSY || rc == -ETIME;
}

int uring_submit(struct uring *u)
{
    int rc = io_uring_submit(&u->ring);
    return rc < 0 && !passes(rc) ? rc : 0;
}

int uring_wait(struct uring *u, int64_t wait_us)
{
    struct io_uring_cqe *cqe;
    int rc;
    if (wait_us == 0) {
        rc = io_uring_submit_and_get_events(&u->ring);
    } else if (wait_us < 0) {
        rc = io_uring_submit_and_wait(&u->ring, 1);
    } else {
        struct __kernel_timespec t = {wait_us / 1000000, wait_us % 1000000 * 1000};
        rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &t, NULL);
    }
    return rc < 0 && !passes(rc) ? rc : 0;
}

struct io_req *uring_reap(struct uring *u)
{
    struct io_uring_cqe *cqe;
    unsigned head;
    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        struct io_req *r = io_uring_cqe_get_data(cqe);
        r->res = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        return r;
    }
    return NULL;
}

/* ---- Probe ----------------------------------------------------------------------------------- */

/* A file of 8 bytes in memory. */
static int probe_file(void)
{
    int fd = memfd_create("mneme-probe", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (pwrite(fd, "io_uring", 8, 0) != 8) {
        close(fd);
        return -EIO;
    }
    return fd;
}

/* One read from `fd` through the ring: 0, or what was wrong. */
static int probe_read(struct uring *u, int fd)
{
    char text[8] = "";
    struct io_req r = {.want = {.len = 8, .buf = text}, .fd = fd, .fixed = -1}, *landed = NULL;
    int rc = uring_push(u, &r);
    for (int i = 0; rc == 0 && !landed && i < 3; i++) { /* a filter may refuse io_uring_enter */
        rc = uring_wait(u, 1000000);
        landed = uring_reap(u);
    }
    if (rc)
        return rc;
    if (!landed)
        return -ETIME;
    return r.res < 0 ? r.res : memcmp(text, "io_uring", 8) == 0 ? 0 : -EIO;
}

bool uring_probe(char *why, size_t room)
{
    struct uring *u = NULL;
    const char *what = "memfd_create";
    int fd = probe_file(), rc = fd < 0 ? fd : 0;
    if (rc == 0)
        rc = uring_create(4, NULL, 0, NULL, 0, &u, &what);
    if (rc == 0) {
        what = "io_uring_enter";
        rc = probe_read(u, fd);
    }
    uring_destroy(u);
    if (fd >= 0)
        close(fd);
    if (rc)
        snprintf(why, room, "%s: %s", what, strerror(-rc));
    else
        *why = '\0';
    return rc == 0;
}
