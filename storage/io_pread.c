/*
 * The pool: threads that take reads from one queue, call pread once each, and put them where their
 * batch looks for them. A short or interrupted read is landed as it is; the batch's thread decides
 * and pushes the rest again.
 *
 * Locks: the pool's and a landing's are never held together, and none is held over a read.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "storage/io_backend.h"

struct io_pool {
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work;
    struct io_req *first, **last;
    bool stop;
    unsigned n_threads;  /* set in create */
    pthread_t threads[]; /* set in create */
};

/* ---- Landings -------------------------------------------------------------------------------- */

int landing_init(struct io_landing *l)
{
    pthread_condattr_t attr;
    l->first = NULL;
    l->last = &l->first;
    int rc = pthread_mutex_init(&l->lock, NULL);
    if (rc)
        return -rc;
    rc = pthread_condattr_init(&attr);
    if (rc == 0) {
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        rc = pthread_cond_init(&l->landed, &attr);
        pthread_condattr_destroy(&attr);
    }
    if (rc)
        pthread_mutex_destroy(&l->lock);
    return -rc;
}

void landing_fini(struct io_landing *l)
{
    pthread_cond_destroy(&l->landed);
    pthread_mutex_destroy(&l->lock);
}

static void land(struct io_req *r, int res)
{
    struct io_landing *l = r->landing;
    pthread_mutex_lock(&l->lock);
    r->res = res;
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
    pthread_cond_signal(&l->landed);
    pthread_mutex_unlock(&l->lock);
}

static struct timespec after_us(int64_t us)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t ns = t.tv_nsec + us % 1000000 * 1000;
    t.tv_sec += us / 1000000 + ns / 1000000000;
    t.tv_nsec = ns % 1000000000;
    return t;
}

struct io_req *landing_take(struct io_landing *l, int64_t wait_us)
{
    struct timespec end = after_us(wait_us > 0 ? wait_us : 0);
    int rc = 0;
    pthread_mutex_lock(&l->lock);
    while (!l->first && wait_us && rc != ETIMEDOUT)
        rc = wait_us < 0 ? pthread_cond_wait(&l->landed, &l->lock)
                         : pthread_cond_timedwait(&l->landed, &l->lock, &end);
    struct io_req *r = l->first;
    if (r) {
        l->first = r->next;
        if (!l->first)
            l->last = &l->first;
    }
    pthread_mutex_unlock(&l->lock);
    return r;
}

/* ---- The pool -------------------------------------------------------------------------------- */

static struct io_req *take(struct io_pool *p)
{
    pthread_mutex_lock(&p->lock);
    while (!p->first && !p->stop)
        pthread_cond_wait(&p->work, &p->lock);
    struct io_req *r = p->first;
    if (r) {
        p->first = r->next;
        if (!p->first)
            p->last = &p->first;
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}

static void *work(void *pool)
{
    struct io_req *r;
    while ((r = take(pool))) {
        ssize_t n = -1;
        if (atomic_load_explicit(&r->cancelled, memory_order_relaxed))
            errno = ECANCELED;
        else
            n = pread(r->fd, req_buf(r), req_len(r), (off_t)req_off(r));
        land(r, n < 0 ? -errno : (int)n);
    }
    return NULL;
}

struct io_pool *io_pool_create(struct mn_alloc *a, unsigned threads)
{
    struct io_pool *p = mn_alloc(a, sizeof *p + threads * sizeof p->threads[0], MN_TAG_HANDLE);
    if (!p)
        return NULL;
    p->first = NULL;
    p->last = &p->first;
    p->stop = false;
    p->n_threads = 0;
    if (pthread_mutex_init(&p->lock, NULL)) {
        mn_free(a, p);
        return NULL;
    }
    if (pthread_cond_init(&p->work, NULL)) {
        pthread_mutex_destroy(&p->lock);
        mn_free(a, p);
        return NULL;
    }
    while (p->n_threads < threads && pthread_create(&p->threads[p->n_threads], NULL, work, p) == 0)
        p->n_threads++;
    if (p->n_threads)
        return p;
    io_pool_destroy(a, p);
    return NULL;
}

void io_pool_destroy(struct mn_alloc *a, struct io_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    mn_free(a, p);
}

void io_pool_push(struct io_pool *p, struct io_req *r)
{
    pthread_mutex_lock(&p->lock);
    r->next = NULL;
    *p->last = r;
    p->last = &r->next;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}
