#include "src/engine/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

enum { POOL_THREADS = 255 };

struct job {
    void (*fn)(void *ctx, unsigned worker);
    void *ctx;
    unsigned next;     /* pool's lock; number of the next worker to begin */
    unsigned n;        /* pool's lock; workers wanted; lowered to `next` when the caller is done */
    unsigned running;  /* pool's lock; workers in fn, without the caller */
    struct job *after; /* pool's lock */
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work;             /* there is a job with room, or the pool ends */
    pthread_cond_t ended;            /* some worker left its job */
    struct job *jobs;                /* lock */
    bool ending;                     /* lock */
    unsigned n_threads;              /* lock */
    unsigned idle;                   /* lock; threads waiting for work */
    pthread_t threads[POOL_THREADS]; /* lock */
};

static struct job *job_with_room(struct pool *p)
{
    struct job *j = p->jobs;
    while (j && j->next >= j->n)
        j = j->after;
    return j;
}

static void *work(void *arg)
{
    struct pool *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->ending) {
        struct job *j = job_with_room(p);
        if (!j) {
            p->idle++;
            pthread_cond_wait(&p->work, &p->lock);
            p->idle--;
            continue;
        }
        unsigned worker = j->next++;
        j->running++;
        pthread_mutex_unlock(&p->lock);
        j->fn(j->ctx, worker);
        pthread_mutex_lock(&p->lock);
        j->running--;
        pthread_cond_broadcast(&p->ended);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

struct pool *pool_create(void)
{
    struct pool *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->ended, NULL);
    return p;
}

void pool_destroy(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->ended);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* Starts threads until `wanted` could be idle. A thread that does not start is no failure: the
 * caller does its share. lock is held. */
static void grow(struct pool *p, unsigned wanted)
{
    while (p->n_threads < POOL_THREADS && p->n_threads < wanted) {
        if (pthread_create(&p->threads[p->n_threads], NULL, work, p) != 0)
            return;
        p->n_threads++;
    }
}

void pool_run(struct pool *p, unsigned n, void (*fn)(void *ctx, unsigned worker), void *ctx)
{
    struct job job = {.fn = fn, .ctx = ctx, .next = 1, .n = n};
    if (n > 1) {
        pthread_mutex_lock(&p->lock);
        grow(p, n - 1);
        job.after = p->jobs;
        p->jobs = &job;
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    fn(ctx, 0);
    if (n > 1) {
        pthread_mutex_lock(&p->lock);
        job.n = job.next;
        while (job.running)
            pthread_cond_wait(&p->ended, &p->lock);
        struct job **q = &p->jobs;
        while (*q != &job)
            q = &(*q)->after;
        *q = job.after;
        pthread_mutex_unlock(&p->lock);
    }
}
