/*
 * A scan of all centroids costs what their codes cost to read: 1 ns each while they lie in L2, 2.4
 * at 16,000 and 4.7 at 32,000 of 128 elements. A walk over the graph meets some hundreds, at about
 * 18 ns each, whatever their number. ann.c has the figures of whole searches.
 *
 * Nodes are the centroids that are alive, their codes laid out by rows, of the same values as in
 * centroids.c: a key is the same whether a scan or a walk gives it, but for rounding in the last
 * place. An edge leads from a centroid to a near one, at most GRAPH_DEGREE; the last one is kept
 * for reachability.
 *
 * Making it. Centroids are inserted one by one in random order. A walk finds the BUILD_BEAM nearest
 * of those inserted; of them, in order of distance, one is linked unless it is SPREAD times nearer
 * to a linked one than to the new one (the rule of relative neighbourhoods: HNSW, NSG, SPTAG;
 * SPREAD from Vamana), FORWARD at most. Links go both ways; a list that is full is chosen anew by
 * the same rule. Equal centroids shut out each other but for one, so that they cannot fill a list
 * among themselves. In the end, what cannot
 * be reached from the entry points gets an edge from the nearest that can be, which has room: each
 * node brings one place that nothing else takes, so there is always one.
 *
 * A graph over centroids some of which have died, moved or come is made of the one before: nodes
 * that led to one which is not what it was choose anew among what they and it led to; the moved and
 * the new are inserted. It costs the copy and about 35 us for each change, where a new graph costs
 * as much for each centroid.
 *
 * Distances between centroids are those of their codes. For ip, where a walk seeks the largest
 * product, nodes are lifted by one element, sqrt(M - |c'|^2) with M the largest |c'|^2, that the
 * query has not: then all have the same length, and the largest product is the nearest.
 *
 * Entry points are the first inserted, a random sample of about 2 sqrt(n), scanned flat; a walk
 * starts at the nearest STARTS of them. It first goes best first until all of the `beam` nearest
 * have been followed. Then, with a threshold known, it follows all whose rows can get below it, in
 * the order in which they were met: no heap, and the next rows are on their way while one is met.
 * A rule by distance alone does not do: wide postings are probed from farther away, and must be met
 * (16,000 centroids of clusters of varied width: at the price of the rule, 0.88 in place of 0.95 of
 * the neighbours were found).
 */
#include "index/centroid_graph.h"

#include "index/rng.h"
#include "storage/base/error.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

enum {
    BUILD_BEAM = 100,
    FORWARD = 16,              /* edges of a new node */
    GROWN = GRAPH_DEGREE - 1,  /* and with those that come back */
    CUT = 24,                  /* of a list that was full */
    STARTS = 4,
    ROOM = 4096,               /* and an eighth of all: a walk may meet so many */
    FETCH = 512                /* bytes of a row fetched ahead: then the hardware follows */
};

#define NONE UINT32_MAX
#define SPREAD 1.2f            /* of squared distances */
#define SAME 1e-6f             /* of a squared length: two centroids that near are equal */
#define DEAD 1e29f             /* norms above are of centroids that are not there */

/* What a key is made of beside the product. */
struct factor {
    float norm, scale;
    float lift;                /* ip: the additional element; l2: 0 */
    float pad;
};

struct centroid_graph {
    uint32_t n, dim;
    enum ann_metric metric;
    size_t stride;             /* bytes of a row: dim rounded up to 64 */
    uint8_t *rows;             /* [n][stride] codes, CENTROID_ZERO beyond dim */
    struct factor *factors;    /* [n] */
    uint32_t *edges;           /* [n][GRAPH_DEGREE], NONE behind the last */
    uint32_t n_live;
    uint32_t n_entries;
    uint32_t *entries;         /* [n_entries] centroids */
    uint8_t *codes;            /* [blocks][quads][CENTROID_LANES][4] of the entries */
    float *scale, *norm;       /* [blocks * CENTROID_LANES] */
    size_t blocks, quads;
};

/* Who asks for keys: a query, or a node while the graph is made. */
struct asker {
    const int8_t *code;
    int32_t shift;
    float base, by, lift, norm_by, least;
};

static struct asker ask_query(const struct centroid_graph *g, const struct centroid_query *q)
{
    bool l2 = g->metric == ANN_L2;
    return (struct asker){.code = q->code, .shift = -CENTROID_ZERO * q->code_sum, .base = q->base,
                          .by = l2 ? -2 * q->step : -q->step, .norm_by = l2 ? 1 : 0,
                          .least = l2 ? FLT_MIN : -FLT_MAX};
}

static void get_keys(const struct centroid_graph *g, const struct kernels *kn,
                     const struct asker *a, const uint32_t *which, uint32_t n, float *keys)
{
    int32_t dots[GRAPH_MAX_BEAM];
    assert(n <= GRAPH_MAX_BEAM);
    struct kernel_gather k = {.rows = g->rows, .stride = g->stride, .query = a->code,
                              .which = which, .n = n, .out = dots};
    kn->gather(&k);
    for (uint32_t i = 0; i < n; i++) {
        const struct factor *f = &g->factors[which[i]];
        float key = a->base + a->norm_by * f->norm - a->lift * f->lift +
                    a->by * f->scale * (float)(a->shift + dots[i]);
        keys[i] = key > a->least ? key : a->least;
    }
}

/* ---- Walks ----------------------------------------------------------------------------------- */

uint32_t centroid_walk_room(uint32_t n)
{
    return n / 8 + ROOM < n ? n / 8 + ROOM : n;
}

static size_t entries_of(uint32_t n)
{
    size_t lanes = ((size_t)(2 * sqrt(n)) + CENTROID_LANES) / CENTROID_LANES * CENTROID_LANES;
    return lanes < n ? lanes : n;
}

bool centroid_walk_init(struct centroid_walk *w, struct mn_alloc *a, uint32_t max_n)
{
    size_t room = centroid_walk_room(max_n);
    *w = (struct centroid_walk){.max_n = max_n};
    w->own = mn_alloc_array(a, room, sizeof *w->own, MN_TAG_SEARCH);
    w->open = mn_alloc_array(a, room, 1, MN_TAG_SEARCH);
    w->seen = mn_alloc_array(a, ((size_t)max_n + 63) / 64, sizeof *w->seen, MN_TAG_SEARCH);
    w->near = mn_alloc_array(a, entries_of(max_n) + CENTROID_LANES, sizeof(float), MN_TAG_SEARCH);
    return w->own && w->open && w->seen && w->near;
}

void centroid_walk_fini(struct centroid_walk *w, struct mn_alloc *a)
{
    mn_free(a, w->own);
    mn_free(a, w->open);
    mn_free(a, w->seen);
    mn_free(a, w->near);
    *w = (struct centroid_walk){0};
}

static bool meet_first(uint64_t *seen, uint32_t j)
{
    uint64_t bit = UINT64_C(1) << j % 64;
    bool first = !(seen[j / 64] & bit);
    seen[j / 64] |= bit;
    return first;
}

/* Meets the centroids listed, none of which was met before. */
static bool meet(struct centroid_walk *w, const struct asker *a, const uint32_t *which, uint32_t n)
{
    if (n > w->room - w->n)
        return false;
    memcpy(w->at + w->n, which, n * sizeof *which);
    get_keys(w->graph, w->kn, a, which, n, w->key + w->n);
    memset(w->open + w->n, 1, n);
    w->n += n;
    return true;
}

/* Meets what entry e leads to. */
static bool follow(struct centroid_walk *w, const struct asker *a, uint32_t e)
{
    const struct centroid_graph *g = w->graph;
    const uint32_t *edges = g->edges + (size_t)w->at[e] * GRAPH_DEGREE;
    uint32_t fresh[GRAPH_DEGREE], n = 0;
    size_t fetch = g->stride < FETCH ? g->stride : FETCH;
    for (uint32_t i = 0; i < GRAPH_DEGREE && edges[i] != NONE; i++) {
        if (!meet_first(w->seen, edges[i]))
            continue;
        fresh[n++] = edges[i];
        for (size_t at = 0; at < fetch; at += 64)
            __builtin_prefetch(g->rows + edges[i] * g->stride + at);
        __builtin_prefetch(&g->factors[edges[i]]);
        if (w->reach)
            __builtin_prefetch(&w->reach[edges[i]]);
    }
    w->open[e] = 0;
    return meet(w, a, fresh, n);
}

/* Puts entry e to its place among the nearest, if it is one of them. */
static void beam_add(struct centroid_walk *w, uint32_t e)
{
    float key = w->key[e];
    uint32_t i = w->n_beam;
    if (i == w->beam_size && !(key < w->beam[--i].key))
        return;
    w->n_beam += i == w->n_beam;
    for (; i > 0 && w->beam[i - 1].key > key; i--)
        w->beam[i] = w->beam[i - 1];
    w->beam[i].key = key;
    w->beam[i].entry = e;
    w->next = i < w->next ? i : w->next;
}

/* Meets the nearest of the first n entry points. */
static bool start(struct centroid_walk *w, const struct asker *a, uint32_t n)
{
    const struct centroid_graph *g = w->graph;
    size_t lanes = ((size_t)n + CENTROID_LANES - 1) / CENTROID_LANES * CENTROID_LANES;
    struct kernel_centroids k = {.codes = g->codes, .scale = g->scale, .norm = g->norm,
                                 .blocks = lanes / CENTROID_LANES, .quads = g->quads,
                                 .query = a->code, .query_sum = -a->shift / CENTROID_ZERO,
                                 .base = a->base, .by = a->by, .least = a->least, .out = w->near};
    w->kn->centroids(&k);
    for (size_t i = 0; i < lanes; i++)
        w->near[i] = i < n ? w->near[i] - a->lift * g->factors[g->entries[i]].lift : INFINITY;
    for (uint32_t i = 0; i < STARTS && i < n; i++) {
        size_t at = w->kn->least(w->near, lanes);
        w->near[at] = INFINITY;
        meet_first(w->seen, g->entries[at]);
        if (!meet(w, a, &g->entries[at], 1))
            return false;
        beam_add(w, w->n - 1);
    }
    return true;
}

/* Best first until all of the beam have been followed; of n_entries, the first are there. */
static bool walk(struct centroid_walk *w, const struct asker *a, uint32_t n_entries, uint32_t beam)
{
    w->n = w->n_beam = w->next = 0;
    w->beam_size = beam;
    memset(w->seen, 0, ((size_t)w->graph->n + 63) / 64 * sizeof *w->seen);
    bool room = start(w, a, n_entries);
    while (room && w->next < w->n_beam) {
        uint32_t e = w->beam[w->next++].entry, from = w->n;
        if (!w->open[e])
            continue;
        room = follow(w, a, e);
        for (uint32_t i = from; i < w->n; i++)
            beam_add(w, i);
    }
    return room;
}

bool centroid_walk_begin(struct centroid_walk *w, const struct centroid_graph *g,
                         const struct kernels *kn, const struct centroid_query *q,
                         const struct centroid_reach *reach, uint32_t beam, float *key)
{
    assert(g->n <= w->max_n && beam > 0 && beam <= GRAPH_MAX_BEAM);
    w->graph = g;
    w->kn = kn;
    w->query = q;
    w->reach = reach;
    w->at = w->own;
    w->key = key;
    w->room = centroid_walk_room(g->n);
    struct asker a = ask_query(g, q);
    return walk(w, &a, g->n_entries, beam);
}

bool centroid_walk_follow(struct centroid_walk *w, const struct centroid_rule *rule)
{
    struct asker a = ask_query(w->graph, w->query);
    float fixed = rule->bar * rule->length, bar2 = rule->bar * rule->bar;
    uint32_t judged = 0, within = 0;
    for (uint32_t e = 0; e < w->n; e++) {
        for (; judged < w->n; judged++) {
            const struct centroid_reach *r = &w->reach[w->at[judged]];
            float key = w->key[judged], u = (key + r->m - rule->limit) * r->r;
            bool is = u <= 0 || (rule->length > 0 ? u <= fixed : u * u <= bar2 * key);
            within += is;
            w->open[judged] &= is;
        }
        if (within > rule->most || (w->open[e] && !follow(w, &a, e)))
            return false;
    }
    return true;
}

/* ---- Making it ------------------------------------------------------------------------------- */

struct maker {
    struct mn_alloc *a;
    const struct kernels *kn;
    struct centroid_graph *g;
    struct centroid_walk walk;
    float *key;         /* [room] of the walk */
    uint32_t *order;    /* [n_order] in which they are inserted */
    uint32_t n_order;
    const struct centroid_graph *before; /* or NULL */
    uint64_t *kept;     /* bitmap: alive, and as in the graph before */
    uint32_t n_before;  /* of order: they are kept */
    uint8_t *count;     /* [n] edges */
    int8_t *code;       /* [2][stride] a node's code as a query's: who asks, who occludes */
    uint64_t *reached;  /* bitmap */
    uint32_t *queue;    /* [n] */
};

/* A node that may be linked. */
struct near {
    float key;
    uint32_t j;
};

/* Keys from node j are squared distances, for ip too: of lifted nodes. */
static struct asker ask_node(struct maker *m, uint32_t j, int8_t *code)
{
    const struct centroid_graph *g = m->g;
    const uint8_t *row = g->rows + j * g->stride;
    const struct factor *f = &g->factors[j];
    int32_t sum = 0;
    for (size_t i = 0; i < g->stride; i++) {
        code[i] = (int8_t)(row[i] - CENTROID_ZERO);
        sum += code[i];
    }
    return (struct asker){.code = code, .shift = -CENTROID_ZERO * sum, .base = f->norm,
                          .by = -2 * f->scale, .norm_by = 1, .lift = 2 * f->lift,
                          .least = FLT_MIN};
}

/* Of c[n], ascending by key from some node, links that node to at most `most`: see the head. */
static void choose_edges(struct maker *m, uint32_t x, const struct near *c, uint32_t n,
                         uint32_t most)
{
    uint32_t *edges = m->g->edges + (size_t)x * GRAPH_DEGREE, kept = 0;
    uint32_t left[GRAPH_MAX_BEAM], at[GRAPH_MAX_BEAM], n_left = n;
    float keys[GRAPH_MAX_BEAM];
    for (uint32_t i = 0; i < n; i++)
        at[i] = i;
    while (n_left && kept < most) {
        struct asker a = ask_node(m, c[at[0]].j, m->code + m->g->stride);
        uint32_t still = 0;
        edges[kept++] = c[at[0]].j;
        for (uint32_t i = 1; i < n_left; i++)
            left[i - 1] = c[at[i]].j;
        get_keys(m->g, m->kn, &a, left, n_left - 1, keys);
        for (uint32_t i = 1; i < n_left; i++)
            if (keys[i - 1] * SPREAD > c[at[i]].key && keys[i - 1] > SAME * a.base)
                at[still++] = at[i];
        n_left = still;
    }
    for (uint32_t i = kept; i < GRAPH_DEGREE; i++)
        edges[i] = NONE;
    m->count[x] = (uint8_t)kept;
}

static void sort_near(struct near *c, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        struct near moving = c[i];
        uint32_t at = i;
        for (; at > 0 && c[at - 1].key > moving.key; at--)
            c[at] = c[at - 1];
        c[at] = moving;
    }
}

/* An edge from y to x. */
static void link_back(struct maker *m, uint32_t y, uint32_t x)
{
    uint32_t *edges = m->g->edges + (size_t)y * GRAPH_DEGREE, n = m->count[y];
    uint32_t which[GRAPH_DEGREE];
    float keys[GRAPH_DEGREE];
    struct near c[GRAPH_DEGREE];
    if (n < GROWN) {
        edges[n] = x;
        m->count[y]++;
        return;
    }
    memcpy(which, edges, n * sizeof *which);
    which[n] = x;
    struct asker a = ask_node(m, y, m->code);
    get_keys(m->g, m->kn, &a, which, n + 1, keys);
    for (uint32_t i = 0; i <= n; i++)
        c[i] = (struct near){keys[i], which[i]};
    sort_near(c, n + 1);
    choose_edges(m, y, c, n + 1, CUT);
}

/* The i-th in order becomes a node. */
static void insert(struct maker *m, uint32_t i)
{
    uint32_t x = m->order[i], linked[FORWARD], n;
    struct near c[BUILD_BEAM];
    if (i == 0)
        return;
    struct asker a = ask_node(m, x, m->code);
    walk(&m->walk, &a, i < m->g->n_entries ? i : m->g->n_entries, BUILD_BEAM);
    for (n = 0; n < m->walk.n_beam; n++)
        c[n] = (struct near){m->walk.beam[n].key, m->walk.at[m->walk.beam[n].entry]};
    choose_edges(m, x, c, n, FORWARD);
    n = m->count[x];
    memcpy(linked, m->g->edges + (size_t)x * GRAPH_DEGREE, n * sizeof *linked);
    for (uint32_t j = 0; j < n; j++)
        link_back(m, linked[j], x);
}

/* Marks what can be reached from x, which is marked already, or not. */
static void spread(const struct centroid_graph *g, uint32_t x, uint64_t *reached, uint32_t *queue)
{
    uint32_t n = 0;
    if (meet_first(reached, x))
        queue[n++] = x;
    while (n) {
        const uint32_t *edges = g->edges + (size_t)queue[--n] * GRAPH_DEGREE;
        for (uint32_t i = 0; i < GRAPH_DEGREE && edges[i] != NONE; i++)
            if (meet_first(reached, edges[i]))
                queue[n++] = edges[i];
    }
}

static bool has_room(const struct maker *m, uint32_t j)
{
    return m->reached[j / 64] >> j % 64 & 1 && m->count[j] < GRAPH_DEGREE;
}

/* An edge to x, which cannot be reached, from the nearest that can be and has room. */
static void attach(struct maker *m, uint32_t x)
{
    struct asker a = ask_node(m, x, m->code);
    uint32_t from = NONE;
    walk(&m->walk, &a, m->g->n_entries, BUILD_BEAM);
    for (uint32_t i = 0; from == NONE && i < m->walk.n_beam; i++)
        if (has_room(m, m->walk.at[m->walk.beam[i].entry]))
            from = m->walk.at[m->walk.beam[i].entry];
    for (uint32_t i = 0; from == NONE && i < m->g->n_live; i++)
        if (has_room(m, m->order[i]))
            from = m->order[i];
    assert(from != NONE); /* the head says why */
    m->g->edges[(size_t)from * GRAPH_DEGREE + m->count[from]++] = x;
    spread(m->g, x, m->reached, m->queue);
}

static void connect(struct maker *m)
{
    for (uint32_t i = 0; i < m->g->n_entries; i++)
        spread(m->g, m->g->entries[i], m->reached, m->queue);
    for (uint32_t i = 0; i < m->g->n_live; i++)
        if (!(m->reached[m->order[i] / 64] >> m->order[i] % 64 & 1))
            attach(m, m->order[i]);
}

static bool is_live(const struct centroids *c, uint32_t j)
{
    return c->norm[j] < DEAD;
}

/* Lays the codes out by rows, and what keys need beside them. */
static void set_rows(struct centroid_graph *g, const struct centroids *c)
{
    float most = 0;
    memset(g->rows, CENTROID_ZERO, g->n * g->stride);
    for (uint32_t j = 0; j < g->n; j++) {
        const uint8_t *from = c->codes + (size_t)(j / CENTROID_LANES) * c->quads * 64 +
                              j % CENTROID_LANES * 4;
        uint8_t *to = g->rows + j * g->stride;
        int32_t norm = 0;
        for (uint32_t i = 0; i < g->dim; i++) {
            to[i] = from[(size_t)(i / 4) * 64 + i % 4];
            norm += (to[i] - CENTROID_ZERO) * (to[i] - CENTROID_ZERO);
        }
        g->factors[j].scale = c->scale[j];
        g->factors[j].norm = c->scale[j] * c->scale[j] * (float)norm; /* as products give it */
        if (is_live(c, j))
            most = fmaxf(most, g->factors[j].norm);
    }
    for (uint32_t j = 0; g->metric == ANN_IP && j < g->n; j++) {
        struct factor *f = &g->factors[j];
        f->lift = sqrtf(fmaxf(0, most - f->norm));
        f->norm = most;
    }
}

static bool is_kept(const struct maker *m, uint32_t j)
{
    return m->kept[j / 64] >> j % 64 & 1;
}

/* Finds out what of the graph before stands as it was. */
static void set_kept(struct maker *m, const struct centroids *c)
{
    const struct centroid_graph *g = m->g, *b = m->before;
    for (uint32_t j = 0; b && j < b->n && j < g->n; j++)
        if (is_live(c, j) && !(b->factors[j].scale < g->factors[j].scale) &&
            !(b->factors[j].scale > g->factors[j].scale) &&
            memcmp(b->rows + j * b->stride, g->rows + j * g->stride, g->stride) == 0)
            m->kept[j / 64] |= UINT64_C(1) << j % 64;
}

/* Adds the living that are not there yet, shuffled; `kept`: those that are. */
static void add_shuffled(struct maker *m, const struct centroids *c, bool kept, uint64_t *seed)
{
    uint32_t from = m->n_order;
    for (uint32_t j = 0; j < m->g->n; j++)
        if (is_live(c, j) && is_kept(m, j) == kept && meet_first(m->reached, j))
            m->order[m->n_order++] = j;
    for (uint32_t i = from; i + 1 < m->n_order; i++) {
        uint32_t other = i + (uint32_t)rng_below(seed, m->n_order - i), moved = m->order[i];
        m->order[i] = m->order[other];
        m->order[other] = moved;
    }
}

/* A random order of the living, those that are kept first, at their head the entry points before;
 * the first are the entry points. */
static void set_order(struct maker *m, const struct centroids *c, uint64_t seed)
{
    struct centroid_graph *g = m->g;
    const struct centroid_graph *b = m->before;
    for (uint32_t i = 0; b && i < b->n_entries; i++)
        if (b->entries[i] < g->n && is_kept(m, b->entries[i]) &&
            meet_first(m->reached, b->entries[i]))
            m->order[m->n_order++] = b->entries[i];
    add_shuffled(m, c, true, &seed);
    m->n_before = m->n_order;
    add_shuffled(m, c, false, &seed);
    memset(m->reached, 0, ((size_t)g->n + 63) / 64 * sizeof *m->reached);
    for (uint32_t i = 0; i < g->n_entries; i++) {
        uint32_t j = m->order[i];
        uint8_t *to = g->codes + (size_t)(i / CENTROID_LANES) * g->quads * 64 +
                      i % CENTROID_LANES * 4;
        for (size_t quad = 0; quad < g->quads; quad++)
            memcpy(to + quad * 64, g->rows + j * g->stride + quad * 4, 4);
        g->entries[i] = j;
        g->scale[i] = c->scale[j];
        g->norm[i] = c->norm[j];
    }
}

/* Of the graph before, what x led to and is kept, and the same of what it led to and is not; each
 * once. */
static uint32_t inherit(const struct maker *m, uint32_t x, uint32_t out[GRAPH_MAX_BEAM])
{
    const uint32_t *all = m->before->edges, *edges = all + (size_t)x * GRAPH_DEGREE;
    uint32_t n = 0, n_all = m->g->n;
    for (uint32_t i = 0; i < GROWN && edges[i] != NONE; i++)
        if (edges[i] < n_all && is_kept(m, edges[i]))
            out[n++] = edges[i];
    for (uint32_t i = 0; i < GROWN && edges[i] != NONE; i++) {
        const uint32_t *next = all + (size_t)edges[i] * GRAPH_DEGREE;
        bool gone = edges[i] >= n_all || !is_kept(m, edges[i]);
        for (uint32_t k = 0; gone && k < GRAPH_DEGREE && next[k] != NONE; k++) {
            bool has = next[k] == x || next[k] >= n_all || !is_kept(m, next[k]) ||
                       n == GRAPH_MAX_BEAM;
            for (uint32_t at = 0; !has && at < n; at++)
                has = out[at] == next[k];
            if (!has)
                out[n++] = next[k];
        }
    }
    return n;
}

/* Takes over the edges of the graph before. */
static void take_over(struct maker *m)
{
    for (uint32_t i = 0; i < m->n_before; i++) {
        uint32_t x = m->order[i], found[GRAPH_MAX_BEAM], n = inherit(m, x, found);
        uint32_t *edges = m->g->edges + (size_t)x * GRAPH_DEGREE;
        const uint32_t *old = m->before->edges + (size_t)x * GRAPH_DEGREE;
        if (n <= GROWN && memcmp(found, old, n * sizeof *old) == 0 &&
            (n == GROWN || old[n] == NONE)) { /* none of them is gone */
            memcpy(edges, old, n * sizeof *edges);
            m->count[x] = (uint8_t)n;
            continue;
        }
        struct near near[GRAPH_MAX_BEAM];
        float keys[GRAPH_MAX_BEAM];
        struct asker a = ask_node(m, x, m->code);
        get_keys(m->g, m->kn, &a, found, n, keys);
        for (uint32_t k = 0; k < n; k++)
            near[k] = (struct near){keys[k], found[k]};
        sort_near(near, n);
        choose_edges(m, x, near, n, CUT);
    }
}

static uint32_t count_live(const struct centroids *c)
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < c->n; j++)
        n += is_live(c, j);
    return n;
}

static bool take_memory(struct maker *m, const struct centroids *c)
{
    struct centroid_graph *g = m->g;
    g->n = c->n;
    g->dim = c->dim;
    g->metric = c->metric;
    g->stride = ((size_t)c->dim + 63) / 64 * 64;
    g->n_live = count_live(c);
    g->n_entries = (uint32_t)entries_of(g->n_live);
    g->quads = c->quads;
    g->blocks = ((size_t)g->n_entries + CENTROID_LANES - 1) / CENTROID_LANES;
    size_t lanes = g->blocks * CENTROID_LANES;
    g->rows = mn_alloc_array(m->a, g->n, g->stride, MN_TAG_CACHE);
    g->factors = mn_alloc_array(m->a, g->n, sizeof *g->factors, MN_TAG_CACHE);
    g->edges = mn_alloc_array(m->a, g->n, GRAPH_DEGREE * sizeof *g->edges, MN_TAG_CACHE);
    g->entries = mn_alloc_array(m->a, g->n_entries, sizeof *g->entries, MN_TAG_CACHE);
    g->codes = mn_alloc_array(m->a, lanes, g->quads * 4, MN_TAG_CACHE);
    g->scale = mn_alloc_array(m->a, lanes, sizeof(float), MN_TAG_CACHE);
    g->norm = mn_alloc_array(m->a, lanes, sizeof(float), MN_TAG_CACHE);
    m->key = mn_alloc_array(m->a, g->n, sizeof *m->key, MN_TAG_SEARCH);
    m->order = mn_alloc_array(m->a, g->n, sizeof *m->order, MN_TAG_SEARCH);
    m->count = mn_alloc_array(m->a, g->n, 1, MN_TAG_SEARCH);
    m->code = mn_alloc_array(m->a, 2, g->stride, MN_TAG_SEARCH);
    m->reached = mn_alloc_array(m->a, ((size_t)g->n + 63) / 64, sizeof(uint64_t), MN_TAG_SEARCH);
    m->kept = mn_alloc_array(m->a, ((size_t)g->n + 63) / 64, sizeof(uint64_t), MN_TAG_SEARCH);
    m->queue = mn_alloc_array(m->a, g->n, sizeof *m->queue, MN_TAG_SEARCH);
    return centroid_walk_init(&m->walk, m->a, g->n) && g->rows && g->factors && g->edges &&
           g->entries && g->codes && g->scale && g->norm && m->key && m->order && m->count &&
           m->code && m->reached && m->kept && m->queue;
}

void centroid_graph_destroy(struct mn_alloc *a, struct centroid_graph *g)
{
    if (!g)
        return;
    mn_free(a, g->rows);
    mn_free(a, g->factors);
    mn_free(a, g->edges);
    mn_free(a, g->entries);
    mn_free(a, g->codes);
    mn_free(a, g->scale);
    mn_free(a, g->norm);
    mn_free(a, g);
}

uint64_t centroid_graph_bytes(const struct centroid_graph *g)
{
    return centroid_graph_bytes_of(g->n, g->dim);
}

uint64_t centroid_graph_bytes_of(uint32_t n, uint32_t dim)
{
    uint64_t row = ((uint64_t)dim + 63) / 64 * 64;
    uint64_t each = row + sizeof(struct factor) + GRAPH_DEGREE * sizeof(uint32_t);
    return n * each + entries_of(n) * (row + sizeof(uint32_t) + 2 * sizeof(float));
}

static void make(struct maker *m, const struct centroids *c)
{
    struct centroid_graph *g = m->g;
    m->walk.graph = g;
    m->walk.kn = m->kn;
    m->walk.at = m->walk.own;
    m->walk.key = m->key;
    m->walk.room = centroid_walk_room(g->n);
    if (m->before)
        take_over(m);
    for (uint32_t i = m->n_before; i < g->n_live; i++)
        insert(m, i);
    connect(m);
    for (uint32_t j = 0; g->metric == ANN_L2 && j < g->n; j++)
        g->factors[j].norm = c->norm[j]; /* the exact one, for queries */
}

mn_status centroid_graph_create(struct mn_alloc *a, const struct kernels *kn,
                                const struct centroids *c, const struct centroid_graph *before,
                                uint64_t seed, struct centroid_graph **out, mn_error *err)
{
    bool alike = before && before->dim == c->dim && before->metric == c->metric;
    struct maker m = {.a = a, .kn = kn, .before = alike ? before : NULL};
    *out = NULL;
    m.g = mn_alloc_array(a, 1, sizeof *m.g, MN_TAG_CACHE);
    bool memory = m.g && take_memory(&m, c);
    if (memory) {
        memset(m.g->edges, 0xff, m.g->n * GRAPH_DEGREE * sizeof *m.g->edges);
        set_rows(m.g, c);
        set_kept(&m, c);
        set_order(&m, c, seed);
        make(&m, c);
    }
    centroid_walk_fini(&m.walk, a);
    mn_free(a, m.key);
    mn_free(a, m.order);
    mn_free(a, m.count);
    mn_free(a, m.code);
    mn_free(a, m.reached);
    mn_free(a, m.kept);
    mn_free(a, m.queue);
    if (!memory) {
        centroid_graph_destroy(a, m.g);
        return mn_fail(err, MN_NOMEM, "no memory for a graph over %u centroids", c->n);
    }
    *out = m.g;
    return MN_OK;
}

/* ---- Checking it ----------------------------------------------------------------------------- */

static mn_status check_edges(const struct centroid_graph *g, mn_error *err)
{
    for (size_t j = 0; j < g->n; j++)
        for (uint32_t i = 0; i < GRAPH_DEGREE; i++) {
            uint32_t to = g->edges[j * GRAPH_DEGREE + i];
            if (to != NONE && (to >= g->n || to == j))
                return mn_fail(err, MN_CORRUPT, "an edge leads from centroid %zu to %u of %u", j,
                               to, g->n);
        }
    return MN_OK;
}

mn_status centroid_graph_check(const struct centroid_graph *g, struct mn_alloc *a, mn_error *err)
{
    mn_status st = check_edges(g, err);
    if (st)
        return st;
    size_t words = ((size_t)g->n + 63) / 64;
    uint64_t *reached = mn_alloc_array(a, words, sizeof *reached, MN_TAG_SEARCH);
    uint32_t *queue = mn_alloc_array(a, g->n, sizeof *queue, MN_TAG_SEARCH);
    if (!reached || !queue)
        st = mn_fail(err, MN_NOMEM, "no memory to check a graph over %u centroids", g->n);
    uint32_t found = 0;
    for (uint32_t i = 0; !st && i < g->n_entries; i++)
        spread(g, g->entries[i], reached, queue);
    for (size_t i = 0; !st && i < words; i++)
        found += (uint32_t)__builtin_popcountll(reached[i]);
    if (!st && found != g->n_live)
        st = mn_fail(err, MN_CORRUPT, "%u of %u centroids are reached from the entry points",
                     found, g->n_live);
    mn_free(a, reached);
    mn_free(a, queue);
    return st;
}
