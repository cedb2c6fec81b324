/* A graph over the centroids, to meet the near ones without meeting all. Knows no postings, and of
 * a query its code only. Immutable after create; any thread, each with its own walk. See
 * centroid_graph.c. */
#ifndef MN_INDEX_CENTROID_GRAPH_H
#define MN_INDEX_CENTROID_GRAPH_H

#include "index/centroids.h"

enum { GRAPH_DEGREE = 32, GRAPH_MAX_BEAM = 128 };

struct centroid_graph;

/* Over the centroids of c that are alive. `before` may be the graph over an earlier version of c,
 * of the same rotation and origin: what it has of centroids that did not change is taken over; or
 * NULL. Both are read in the call only. About dim + 150 bytes each (MN_TAG_CACHE), and 20 more
 * while it is made (MN_TAG_SEARCH). The same arguments give the same graph. MN_NOMEM. */
mn_status centroid_graph_create(struct mn_alloc *a, const struct kernels *kn,
                                const struct centroids *c, const struct centroid_graph *before,
                                uint64_t seed, struct centroid_graph **out, mn_error *err);
void centroid_graph_destroy(struct mn_alloc *a, struct centroid_graph *g); /* NULL is fine */

uint64_t centroid_graph_bytes(const struct centroid_graph *g);
uint64_t centroid_graph_bytes_of(uint32_t n, uint32_t dim); /* that one over n will take */

/* MN_CORRUPT says how many centroids no walk can reach, or which edge leads nowhere. MN_NOMEM. */
mn_status centroid_graph_check(const struct centroid_graph *g, struct mn_alloc *a, mn_error *err);

/* How far the rows of a centroid reach, in the terms of kernel_weigh. */
struct centroid_reach {
    float m, r, count, pad;
};

/* Which of those met a walk follows: max(0, key + m - limit) r <= bar length, where length is
 * sqrt(key), or fixed if that is not 0; `most` of them at most. */
struct centroid_rule {
    float limit, bar, length;
    uint32_t most;
};

/* One search of the graph, in the memory of a thread. What it has met so far stands in at[] and
 * key[], each centroid once, in any order. */
struct centroid_walk {
    uint32_t n, room;  /* met so far; how many a walk may meet */
    uint32_t *at;      /* [n] centroids */
    float *key;        /* [n] as centroids_scan() gives it; the caller's */
    /* the walk's own */
    uint32_t *own;
    uint8_t *open;     /* [n] 1: its edges were not followed yet */
    uint64_t *seen;    /* bitmap of centroids met */
    float *near;       /* keys of the entry points */
    uint32_t max_n;
    const struct centroid_graph *graph;
    const struct kernels *kn;
    const struct centroid_query *query;
    const struct centroid_reach *reach;
    struct {
        float key;
        uint32_t entry;
    } beam[GRAPH_MAX_BEAM]; /* [n_beam] the nearest met, ascending */
    uint32_t n_beam, beam_size, next;
};

/* For graphs of up to max_n centroids; about max_n bytes (MN_TAG_SEARCH). False when memory runs
 * out. fini takes what init left. */
bool centroid_walk_init(struct centroid_walk *w, struct mn_alloc *a, uint32_t max_n);
void centroid_walk_fini(struct centroid_walk *w, struct mn_alloc *a);

/* How many centroids a walk over n meets at most: beyond, a scan of all is cheaper. */
uint32_t centroid_walk_room(uint32_t n);

/* Starts a walk and goes on until the `beam` nearest met have been followed; 1 to GRAPH_MAX_BEAM.
 * key [centroid_walk_room(n)], reach [n] or NULL. False if there was no room. The query is borrowed
 * until the walk ends: zeros beyond its elements, up to a multiple of 64. */
bool centroid_walk_begin(struct centroid_walk *w, const struct centroid_graph *g,
                         const struct kernels *kn, const struct centroid_query *q,
                         const struct centroid_reach *reach, uint32_t beam, float *key);

/* Follows all that the rule lets it; reach was given. False if they are too many, or there was no
 * room: some were not met. */
bool centroid_walk_follow(struct centroid_walk *w, const struct centroid_rule *rule);

#endif
