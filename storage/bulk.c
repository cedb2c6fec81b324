/*
 * Extents are read whole, one read each, or two if the pages go elsewhere than the header. So many
 * are in flight that the disk always has the next ones; while it works, the caller's thread sums up
 * what landed.
 */
#include "storage/bulk.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "storage/base/error.h"

/* Reads of 1 MiB in flight: 8 keep the disk busy, more only take memory's pages earlier. */
enum { DEPTH = 16, WINDOW = 64 };

struct bulk {
    struct sidecar *sidecar; /* borrowed */
    struct mn_alloc *alloc;
    const struct bulk_want *wants; /* [n] borrowed */
    size_t n;
    size_t next;      /* the first that was not submitted */
    struct io_batch *batch;
    struct state {
        uint8_t left; /* reads on their way */
        bool failed;
        int error;    /* of the first that failed */
    } *states;        /* [n] */
};

void bulk_destroy(struct bulk *b)
{
    if (!b)
        return;
    io_batch_destroy(b->batch);
    mn_free(b->alloc, b->states);
    mn_free(b->alloc, b);
}

static bool place_is_good(const struct extent_ref *ref)
{
    return ref->first_block >= SIDECAR_HEAD_BLOCKS && ref->n_blocks > 0 &&
           ref->n_blocks <= EXTENT_MAX_BLOCKS &&
           ref->first_block <= INT64_MAX / EXTENT_BLOCK - EXTENT_MAX_BLOCKS;
}

/* Reads of the i-th want: 1 or 2. */
static unsigned reads_of(const struct bulk *b, size_t i, struct io_want reads[2])
{
    const struct bulk_want *w = &b->wants[i];
    uint32_t n_pages = w->pages ? extent_n_pages(&w->ref) : 0;
    uint32_t head = w->ref.n_blocks - n_pages;
    struct mn_file *file = sidecar_file(b->sidecar);
    reads[0] = (struct io_want){.file = file,
                                .off = w->ref.first_block * EXTENT_BLOCK,
                                .len = head * EXTENT_BLOCK,
                                .buf = w->buf,
                                .tag = i};
    reads[1] = (struct io_want){.file = file,
                                .off = (w->ref.first_block + head) * EXTENT_BLOCK,
                                .len = n_pages * EXTENT_BLOCK,
                                .buf = w->pages,
                                .tag = i};
    return n_pages ? 2 : 1;
}

/* Keeps the batch full. What cannot be submitted fails when it is its turn. */
static void submit_more(struct bulk *b)
{
    while (b->next < b->n && io_batch_room(b->batch) >= 2) {
        struct io_want reads[2];
        size_t i = b->next;
        struct state *s = &b->states[i];
        if (!place_is_good(&b->wants[i].ref))
            return; /* bulk_next says so when what is on its way has landed */
        unsigned n = reads_of(b, i, reads);
        if (io_batch_submit(b->batch, reads, n, NULL))
            return;
        s->left = (uint8_t)n;
        b->next++;
    }
}

mn_status bulk_create(struct io_disk *d, struct sidecar *s, struct mn_alloc *a,
                      const struct bulk_want *wants, size_t n, struct bulk **out, mn_error *err)
{
    struct mn_file *file = sidecar_file(s);
    struct io_batch_opts opts = {
        .depth = DEPTH, .max_reads = WINDOW, .files = &file, .n_files = 1};
    *out = NULL;
    struct bulk *b = mn_alloc_array(a, 1, sizeof *b, MN_TAG_IO);
    if (!b)
        return mn_fail(err, MN_NOMEM, "%s: out of memory for reading it", sidecar_path(s));
    *b = (struct bulk){.sidecar = s, .alloc = a, .wants = wants, .n = n};
    b->states = mn_alloc_array(a, n, sizeof *b->states, MN_TAG_IO);
    mn_status st = b->states ? io_batch_create(d, &opts, &b->batch, err)
                             : mn_fail(err, MN_NOMEM, "%s: out of memory for %zu extents",
                                       sidecar_path(s), n);
    if (st) {
        bulk_destroy(b);
        return st;
    }
    submit_more(b);
    *out = b;
    return MN_OK;
}

static mn_status failed(const struct bulk *b, const struct extent_ref *ref, int error,
                        mn_error *err)
{
    if (error == -ENODATA)
        return mn_fail(err, MN_CORRUPT,
                       "%s: the file ends within the extent at block %" PRIu64
                       " (collection %u, object %u, kind %u)",
                       sidecar_path(b->sidecar), ref->first_block, ref->collection, ref->object,
                       ref->kind);
    return mn_fail_os(err, MN_IO, -error,
                      "%s: reading the extent at block %" PRIu64
                      " (collection %u, object %u, kind %u)",
                      sidecar_path(b->sidecar), ref->first_block, ref->collection, ref->object,
                      ref->kind);
}

/* All of the i-th want has landed. */
static void judge(struct bulk *b, size_t i, struct bulk_done *out)
{
    const struct bulk_want *w = &b->wants[i];
    const char *path = sidecar_path(b->sidecar);
    uint64_t tag = sidecar_db_tag(b->sidecar);
    memset(out, 0, sizeof *out);
    out->i = i;
    if (b->states[i].failed)
        out->status = failed(b, &w->ref, b->states[i].error, &out->err);
    else if (w->pages)
        out->status =
            extent_check_apart(path, tag, &w->ref, w->buf, w->pages, &out->view, &out->err);
    else
        out->status = extent_check(path, tag, &w->ref, w->buf, &out->view, &out->err);
}

bool bulk_next(struct bulk *b, struct bulk_done *out)
{
    struct io_done done;
    submit_more(b);
    while (io_batch_next(b->batch, -1, &done)) {
        struct state *s = &b->states[done.tag];
        assert(s->left > 0);
        if (done.error && !s->failed) {
            s->failed = true;
            s->error = done.error;
        }
        submit_more(b);
        if (--s->left == 0) {
            judge(b, done.tag, out);
            return true;
        }
    }
    if (b->next == b->n)
        return false;
    b->states[b->next].failed = true; /* a place where no extent can lie */
    b->states[b->next].error = -ENODATA;
    judge(b, b->next++, out);
    return true;
}
