/* What making a version of the hybrid index takes, whether it is built or folded: parts go into
 * packs and vectors into heap blocks, and both to a sink as they are finished. One thread's. The
 * code stands in ivf_make.c. */
#ifndef MN_ENGINE_IVF_MAKER_H
#define MN_ENGINE_IVF_MAKER_H

#include "src/engine/ivf_make.h"

struct make {
    mn_conn *conn;
    mn_db *db;
    struct coll *c;
    const struct ivf_sink *sink;
    struct ivf_draft d; /* what is being made */
    uint32_t uses_cap, heap_cap;
    struct pack_writer writer;
    uint32_t next_object; /* number of the next pack */
    const float *centroids; /* [n_lists][dim], in centroids_buffer */
    void *centroids_buffer;
    struct posting_encoder *encoder;
    size_t encoder_rows;
    uint32_t *slots; /* [slots_cap] of the part being made, n_slots so far */
    size_t n_slots, slots_cap;
    struct heap_block *open; /* the heap block being filled; d.heap has it too */
    uint64_t *live;          /* bitmap of slots that rows stand in; NULL: none are filled again */
    uint32_t *refill;        /* [n_refill] numbers of blocks with free slots to fill first */
    uint32_t n_refill, refill_at;
    uint32_t refill_row;           /* in that block, the next to look at */
    struct heap_block *refilling;  /* its copy; NULL: not made yet */
    float *wide;             /* [dim] of the row being coded */
    bool keep_heap;             /* vectors fit in memory beside the codes */
    bool send_away;             /* packs that are written do not stay in memory */
    bool call_back;             /* but come back at the end */
};

/* Takes core over, also when it fails. make_fini is due then too. */
mn_status make_init(struct make *m, mn_conn *conn, struct coll *c, const struct ivf_sink *sink,
                    struct ivf_core *core, mn_error *err);
void make_fini(struct make *m);
mn_status make_no_memory(const struct make *m, mn_error *err);

/* Room for a part of so many rows. */
mn_status make_room(struct make *m, size_t rows, mn_error *err);
void make_part(struct make *m, uint32_t posting); /* begins one */
/* Adds rows to the part begun: vectors of the collection's dtype, which go into the heap. A row
 * without a direction is no row of the index. */
mn_status make_rows(struct make *m, const char *vectors, const int64_t *ids, size_t n,
                    mn_error *err);
/* The same for one row, widened, whose vector stands in the heap. */
mn_status make_placed(struct make *m, const float *wide, int64_t id, uint32_t slot, mn_error *err);
mn_status make_part_end(struct make *m, uint32_t posting, mn_error *err);

/* Where many slots of the heap are free, the draft's next rows go there: slots of rows that no part
 * of it shows, in blocks that are in memory. Each such block is written again, so it must be worth
 * it. */
mn_status make_refill(struct make *m, mn_error *err);

/* The version, of everything that was added. */
mn_status make_finish(struct make *m, struct ivf **out, mn_error *err);

#endif
