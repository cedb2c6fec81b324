/* All vectors of a build in memory, in the order of their postings, and the codes made from them by
 * several threads. For builds whose memory has room for that; others go posting by posting. */
#ifndef MN_ENGINE_IVF_GATHER_H
#define MN_ENGINE_IVF_GATHER_H

#include "index/parallel.h"
#include "src/engine/ivf.h"

/* Vectors by place: first those of posting 0, and so on. In the layout of the heap. */
struct gathered {
    mn_db *db;
    size_t vector_bytes, n;
    uint32_t rows;     /* of a block */
    uint32_t n_blocks;
    char **blocks;     /* [n_blocks] of HEAP_BLOCK_PAGES pages; what no vector fills is zero */
    uint32_t given;    /* the first so many belong to the heap by now */
};

mn_status gathered_init(struct gathered *g, mn_db *db, size_t vector_bytes, size_t n,
                        mn_error *err);
void gathered_fini(struct gathered *g); /* zeroed is fine */

static inline char *gathered_at(const struct gathered *g, size_t place)
{
    return g->blocks[place / g->rows] + heap_offset(g->vector_bytes, (uint32_t)(place % g->rows));
}

/* Vectors of a block: all but the last are full. */
uint32_t gathered_block_rows(const struct gathered *g, uint32_t block);

struct coding {
    const struct ivf_core *core;
    const float *centroids;     /* [n_lists][dim] */
    const struct gathered *vectors;
    const int64_t *ids;         /* by ordinal */
    const uint32_t *order;      /* [n] ordinals by place */
    const uint32_t *first;      /* [n_lists + 1] places */
    const struct parallel *parallel;
    /* Each posting that has rows, in order, on the calling thread; e holds its codes. */
    mn_status (*done)(void *ctx, uint32_t posting, const struct posting_encoder *e, mn_error *err);
    void *ctx;
};

/* The encoders together take a 32nd of the memory cap, or are those of one thread. Fails with
 * MN_NOMEM, or what `done` or coding met. */
mn_status code_postings(const struct coding *c, mn_error *err);

#endif
