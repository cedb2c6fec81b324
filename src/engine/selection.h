/* The conditions of a search over one version of the index: which rows may meet them, which surely
 * do, and how many about. Made once a call, asked by every query of it. */
#ifndef MN_ENGINE_SELECTION_H
#define MN_ENGINE_SELECTION_H

#include "src/engine/columns.h"
#include "src/engine/conditions.h"

/* Where a larger share of the rows matches, it is not worth while to leave the others out before
 * they are scored: matches is all that such a selection knows, expect is 1 everywhere. */
#define SELECTION_MOST 0.9

/* A condition, or all ranges on one attribute, as codes of its column. */
struct selection_term {
    const struct version_column *column;
    uint16_t low, high, hole;                /* codes that may meet it: low .. high but for hole */
    uint16_t sure_low, sure_high, sure_hole; /* those that surely do */
    uint64_t *set;    /* or NULL: a bitmap of the codes that may, of which gaps are not sure */
    uint64_t buckets; /* that may */
    double share;     /* of the rows that may, about */
};

struct selection {
    const struct ivf *x;
    const struct kernels *kn;
    const struct conditions *where;
    struct selection_term *terms; /* [n] */
    size_t n;
    size_t *ids;          /* [n_ids] of where->all: conditions on the int64 id */
    size_t n_ids;
    bool asks_rows;       /* some condition is on what has no column: only the row can tell */
    double matches;       /* rows that may meet all, about */
    bool listed;          /* `list` holds every row that may meet all */
    uint32_t *list;       /* [start[n_uses]] rows, those of use u from start[u] on */
    uint32_t *start;      /* [n_uses + 1] */
    struct listed_row {
        uint32_t use, row;
    } *listed_rows;       /* while they are listed: in the order of packs and codes */
    float *of_uses;       /* [columns_padded] as expect, of each use; meanwhile */
    float *expect;        /* [ann_index_lanes] of each posting; 0: surely none */
};

/* Makes columns where they are missing and memory has room. Its arrays stand in memory that the
 * connection keeps from call to call: one selection at a time. Fails as columns_get, or with
 * MN_NOMEM. For selection_fini in any case. */
mn_status selection_make(mn_conn *conn, struct coll *c, const struct view *v,
                         const struct conditions *where, struct selection *out, mn_error *err);
void selection_fini(struct mn_alloc *a, struct selection *s);

/* Clears the bits of rows first .. first + n of a use that do not meet the conditions, for all that
 * codes can tell; first a multiple of 64. Returns how many bits are left. */
size_t selection_match(const struct selection *s, uint32_t use, size_t first, size_t n,
                       uint64_t *match);

/* Fetches ahead what selection_match will read of a posting's first use. */
void selection_ahead(const struct selection *s, uint32_t posting);

enum selected { SELECTED_NO, SELECTED_MAYBE, SELECTED_YES };

/* What codes tell of one row; `id` is its id. */
enum selected selection_row(const struct selection *s, uint32_t use, uint32_t row, int64_t id);

#endif
