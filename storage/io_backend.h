/* Between storage/io_disk.c, which keeps the books of a batch, and the two ways to have many reads
 * in flight: io_uring.c and io_pread.c. Both only start a read and report what the system said
 * about it; what that means is decided in one place, complete() in io_disk.c. */
#ifndef MN_STORAGE_IO_BACKEND_H
#define MN_STORAGE_IO_BACKEND_H

#include <pthread.h>
#include <stdatomic.h>

#include "storage/io_disk.h"

enum io_req_state { REQ_FREE, REQ_QUEUED, REQ_INFLIGHT, REQ_CANCELLING, REQ_DONE };

/* One read. The owner's thread writes all fields; a thread of the pool reads them between
 * io_pool_push and the landing, which a lock orders. */
struct io_req {
    struct io_want want;
    struct io_req *next;        /* in the list that its state says, or in the pool's */
    struct io_landing *landing; /* set in create */
    enum io_req_state state;
    int fd;      /* that this try reads from; -1: by the seam */
    int fixed;   /* its number among the registered ones; -1: none */
    bool direct; /* fd goes past the page cache */
    bool in_arena;
    _Atomic bool cancelled; /* relaxed; a thread of the pool may save itself the read */
    uint8_t tries;          /* answers EINTR and EAGAIN so far */
    uint32_t got;           /* bytes that are there */
    int res;                /* what the system said: bytes or negative errno */
    int error;              /* once DONE */
};

/* Where the rest of a request begins. */
static inline char *req_buf(const struct io_req *r)
{
    return (char *)r->want.buf + r->got;
}

static inline uint32_t req_len(const struct io_req *r)
{
    return r->want.len - r->got;
}

static inline uint64_t req_off(const struct io_req *r)
{
    return r->want.off + r->got;
}

/* ---- io_uring.c ------------------------------------------------------------------------------ */

struct uring;

/* The ring belongs to the calling thread. 0 or negative errno; *what names the call that failed. */
int uring_create(unsigned depth, const int *fds, unsigned n_fds, void *arena, size_t arena_bytes,
                 struct uring **out, const char **what);
void uring_destroy(struct uring *u); /* nothing is in flight */
bool uring_has_files(const struct uring *u);
bool uring_has_arena(const struct uring *u);
bool uring_is_mine(const struct uring *u);         /* this thread made it, in this process */
int uring_push(struct uring *u, struct io_req *r); /* prepares; 0 or negative errno */
int uring_submit(struct uring *u);                 /* tells the kernel of what was prepared */
/* Submits and waits for at least one completion, wait_us as in io_batch_next. 0 also when the time
 * passed. Negative errno: the ring is of no use any more. */
int uring_wait(struct uring *u, int64_t wait_us);
struct io_req *uring_reap(struct uring *u); /* next completion, its res set; NULL if none landed */
/* Reads a few bytes through a ring: does that work here? */
bool uring_probe(char *why, size_t room);

/* ---- io_pread.c ------------------------------------------------------------------------------ */

/* Where a pool's reads land: one per batch. */
struct io_landing {
    pthread_mutex_t lock;
    pthread_cond_t landed;
    struct io_req *first, **last; /* lock */
};

int landing_init(struct io_landing *l);
void landing_fini(struct io_landing *l);
/* Next read that landed, its res set; waits as io_batch_next does. NULL when the time passed. */
struct io_req *landing_take(struct io_landing *l, int64_t wait_us);

struct io_pool;

struct io_pool *io_pool_create(struct mn_alloc *a,
                               unsigned threads);            /* NULL: no thread, no memory */
void io_pool_destroy(struct mn_alloc *a, struct io_pool *p); /* NULL is fine */
void io_pool_push(struct io_pool *p, struct io_req *r);

#endif
