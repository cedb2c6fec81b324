/* Threads that help with one call. Not a scheduler: a job is a function that several threads
 * run at once and that divides the work itself, by an atomic counter. Thread-safe. */
#ifndef MN_ENGINE_POOL_H
#define MN_ENGINE_POOL_H

struct pool;

struct pool *pool_create(void); /* starts no thread; NULL when memory runs out */
void pool_destroy(struct pool *p); /* joins; no job may run; NULL is fine */

/* Runs fn(ctx, worker) on the calling thread as worker 0 and on up to n - 1 threads of the pool as
 * workers 1 .. n - 1, each at most once, and returns when all that began have ended. A worker that
 * the caller was faster than never begins: fn must not count on any but worker 0. */
void pool_run(struct pool *p, unsigned n, void (*fn)(void *ctx, unsigned worker), void *ctx);

#endif
