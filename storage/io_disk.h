/* Many reads at once, taken in the order in which they land. Reads files of the seam
 * (storage/io.h): through io_uring, through a pool of threads that call pread where io_uring is
 * refused, or one after the other where the system knows no such file (simulated, in memory).
 * Writes are the seam's own.
 *
 *     struct io_disk    one per database: which way to read, the pool's threads. Any thread.
 *     struct io_batch   the reads of one thread; its ring. One thread at a time; it may change
 * hands
 *                       only while no read is in flight.
 *
 *     io_batch_submit(b, wants, n, err);
 *     while (io_batch_next(b, -1, &done))
 *         score(done.tag, done.buf, done.error);
 *
 * A buffer belongs to the batch from submit until its completion was taken, or until
 * io_batch_drain returned: also when the read was cancelled. So does the SQLite snapshot under
 * which its extent may be read at all (storage/publish.h). */
#ifndef MN_STORAGE_IO_DISK_H
#define MN_STORAGE_IO_DISK_H

#include "storage/base/alloc.h"
#include "storage/io.h"

struct io_disk;
struct io_batch;

enum io_backend {
    IO_AUTO,  /* io_uring if a trial read works, else the pool; MNEME_IO=uring|pread|sync decides
                 otherwise */
    IO_URING,
    IO_PREAD,
    IO_SYNC   /* one after the other, when they are taken */
};

struct io_disk_opts {
    enum io_backend backend; /* IO_URING fails where it is refused */
    unsigned threads;        /* of the pool; 0: 16. They start when a batch first needs them */
    uint64_t shuffle;        /* not 0: IO_SYNC completes in an order drawn from this seed */
    /* For tests: what the system said about a read (bytes, or a negative errno) becomes what this
     * returns, on the batch's thread. NULL: nothing. */
    int (*meddle)(void *ctx, uint64_t tag, int res);
    void *meddle_ctx;
};

/* Fails with MN_NOMEM; with IO_URING also with MN_IO, which says what was refused. */
mn_status io_disk_create(struct mn_alloc *a, const struct io_disk_opts *opts, struct io_disk **out,
                         mn_error *err);
void io_disk_destroy(struct io_disk *d); /* after its batches; joins the pool; NULL is fine */

enum io_backend io_disk_backend(const struct io_disk *d); /* never IO_AUTO */
const char *io_backend_name(enum io_backend b);           /* "io_uring", "pread", "sync" */
const char *io_disk_why(const struct io_disk *d);         /* why not io_uring; "" if it is */

struct io_batch_opts {
    unsigned depth;     /* reads in flight at most, 1 .. 512; 0: 64 */
    unsigned max_reads; /* submitted and not yet taken at most, >= depth; 0: 4 depth */
    struct mn_file *const *files; /* [n_files] registered with the ring, <= IO_BATCH_FILES: reads
                           of others work too. The batch must go before they are closed */
    unsigned n_files;
    void *arena;        /* memory that most reads go into: registered, if the system lets us */
    size_t arena_bytes;
};

enum { IO_BATCH_FILES = 8 };

/* Memory: 100 bytes a read of max_reads (MN_TAG_IO); the ring is the kernel's. Fails with
 * MN_INVALID (names the option), MN_NOMEM. If no ring can be had (limits), the pool is used and
 * nothing said. */
mn_status io_batch_create(struct io_disk *d, const struct io_batch_opts *opts,
                          struct io_batch **out, mn_error *err);
/* Drains first. NULL is fine. */
void io_batch_destroy(struct io_batch *b);

enum io_backend io_batch_backend(const struct io_batch *b);

struct io_want {
    struct mn_file *file;
    uint64_t off;  /* with len and buf a multiple of IO_ALIGN: the page cache is left out, where the
                      file was opened so and the file system can */
    uint32_t len;  /* at least 1 */
    void *buf;
    uint64_t tag;  /* the caller's */
};

struct io_done {
    uint64_t tag;
    void *buf;
    uint32_t len;  /* as asked */
    int error;     /* 0: all of it is in buf. Negative errno: -ENODATA where the file ends before,
                      -ECANCELED, -EIO ...; the buffer's content is undefined then */
};

/* Takes n reads, at most io_batch_room(b): MN_MISUSE otherwise, and none is taken. Starts as many
 * as depth allows, in order, at once; the others start as completions are taken. Allocates
 * nothing. */
mn_status io_batch_submit(struct io_batch *b, const struct io_want *wants, size_t n, mn_error *err);

unsigned io_batch_room(const struct io_batch *b);
unsigned io_batch_pending(const struct io_batch *b); /* submitted and not taken */

/* Takes the next completion; waits up to wait_us for it (0: not at all; negative: for ever). False
 * if nothing is pending, or the time passed. */
bool io_batch_next(struct io_batch *b, int64_t wait_us, struct io_done *out);

/* Asks that what is pending end soon: reads that were not started end with -ECANCELED, those in
 * flight with that or with what they were going to bring. All still come out of io_batch_next. */
void io_batch_cancel(struct io_batch *b);

/* Cancels, waits for all and throws the completions away: the buffers are the caller's again. */
void io_batch_drain(struct io_batch *b);

/* One read and its check, for those who read one thing: a batch of its own, without a ring. Fails
 * with MN_IO or MN_CORRUPT (the file ends before), which name `what`. */
mn_status io_read_whole(struct mn_file *file, uint64_t off, void *buf, size_t len, const char *what,
                        mn_error *err);

#endif
