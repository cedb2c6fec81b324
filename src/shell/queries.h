/* Query vectors of a file, block by block, as the collection takes them. Used by search and truth.
 * Owner thread. */
#ifndef MN_SHELL_QUERIES_H
#define MN_SHELL_QUERIES_H

#include "src/formats/formats.h"
#include "src/shell/shell.h"
#include "src/shell/vectors.h"

struct queries {
    const char *path;
    struct format_reader *reader;
    const struct format_record *first; /* read already, to know the file's type; then NULL */
    struct vector_plan plan;
    uint8_t *vectors; /* [most] of plan.bytes */
    size_t most;      /* of one block */
    uint64_t left;    /* queries that may still be taken */
    uint64_t done;    /* queries of the blocks before this one */
    size_t n;         /* of this block */
};

struct queries_want {
    uint32_t k;      /* hits of each query, which bound the block */
    uint64_t memory; /* the library's cap, which bounds it too; 0: its default */
    uint64_t limit;  /* queries; 0: the whole file */
};

/* Returns 0 or the exit code. queries_close is fine in any case. */
int queries_open(struct queries *q, const char *path, const struct format_opts *opts,
                 const mn_collection_info *info, const struct queries_want *want);

/* Reads the next block: q->n of them, 0 after the last. */
int queries_next(struct queries *q);
void queries_close(struct queries *q);

#endif
