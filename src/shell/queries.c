#include "src/shell/queries.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A block is small enough for answers to appear soon, and large enough for the library to read
 * each stored vector once for many queries. */
enum { BLOCK_QUERIES = 1024, BLOCK_BYTES = 16 << 20, DEFAULT_MEMORY = 256 << 20 };

/* Vectors and hits are held twice, by us and by the search; the search's share counts to the
 * memory cap, of which a quarter is taken at most. */
static size_t block_size(size_t vector_bytes, uint32_t k, uint64_t memory)
{
    uint64_t cap = (memory ? memory : DEFAULT_MEMORY) / 4;
    size_t bytes = cap < BLOCK_BYTES ? (size_t)cap : BLOCK_BYTES;
    size_t most = bytes / (vector_bytes + k * sizeof(mn_hit));
    most = most > BLOCK_QUERIES ? BLOCK_QUERIES : most;
    return most ? most : 1;
}

int queries_open(struct queries *q, const char *path, const struct format_opts *opts,
                 const mn_collection_info *info, const struct queries_want *want)
{
    mn_error err = {0};
    char why[160];
    *q = (struct queries){.path = path, .left = want->limit ? want->limit : UINT64_MAX};
    /* The reader must know beforehand whether the file's own type is wanted. */
    struct format_opts read = *opts;
    if (strcmp(path, "-") != 0) {
        struct format_probe probe;
        if (format_probe(path, opts, &probe, &err))
            return library_error(&err);
        if (probe.dim == 0)
            return error_exit("%s holds no vector", path);
        if (!vector_plan_make(&q->plan, info->dtype, info->dim, probe.dtype, probe.dim, why,
                              sizeof why))
            return error_exit("%s cannot be searched for in '%s': %s", path, info->name, why);
        read.native = q->plan.native;
        read.format = probe.format;
    } else {
        read.native = info->dtype == MN_BIT;
    }
    if (format_reader_open(path, &read, &q->reader, &err) ||
        format_reader_next(q->reader, &q->first, &err))
        return library_error(&err);
    if (!q->first)
        return error_exit("%s holds no vector", path);
    if (!vector_plan_make(&q->plan, info->dtype, info->dim, q->first->dtype, q->first->dim, why,
                          sizeof why))
        return error_exit("%s cannot be searched for in '%s': %s", path, info->name, why);
    q->most = block_size(q->plan.bytes, want->k, want->memory);
    q->vectors = need(aligned_alloc(64, (q->most * q->plan.bytes + 63) / 64 * 64));
    return 0;
}

int queries_next(struct queries *q)
{
    mn_error err = {0};
    q->done += q->n;
    q->n = 0;
    while (q->n < q->most && q->left) {
        const struct format_record *rec = q->first;
        q->first = NULL;
        if (!rec && format_reader_next(q->reader, &rec, &err))
            return library_error(&err);
        if (!rec)
            break;
        const char *wrong = vector_take(&q->plan, rec, q->vectors + q->n * q->plan.bytes);
        if (wrong)
            return error_exit("%s: query %" PRIu64 ": %s", q->path, rec->number - 1, wrong);
        q->n++;
        q->left--;
    }
    return 0;
}

void queries_close(struct queries *q)
{
    format_reader_close(q->reader);
    free(q->vectors);
    *q = (struct queries){0};
}
