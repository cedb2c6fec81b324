/*
 * Balanced clustering in two levels, from a sample, with one pass over all rows and a part of one.
 *
 * 1. A sample: SAMPLE rows a cluster, one of each stretch of the rows. It is kept in memory if it
 *    fits half the budget, else fetched again for each round.
 * 2. k-means of some of it into about 0.8 sqrt(k) groups; each group gets its share of the k
 *    clusters by k-means inside it.
 * 3. A few rounds of Lloyd's algorithm over all k clusters on the sample. The nearest centroid is
 *    sought among the children of the NEAREST_GROUPS nearest of sqrt(k) groups of centroids, which
 *    are made anew for each pass.
 *    A trainer from outside (cluster_opts.train) takes the place of steps 2 and 3.
 * 4. All rows are assigned. Clusters of more than 3 times the mean are split by k-means on their
 *    rows, those of fewer than MIN_SIZE are dissolved; only rows of such clusters are assigned
 *    again. Up to SPLITS times.
 * 5. Rows near a split are assigned once more: those of the clusters whose centroids are among the
 *    NEIGHBOURS nearest of a new one. A cluster that is still more than twice too large holds rows
 *    that k-means cannot tell apart: it is cut into clusters with the same centroid, so that no
 *    posting's size depends on luck.
 *
 * Threads. Rows are fetched on the caller's thread, a chunk at a time, the next one while the
 * others assign this one, who take TASK_ROWS of it in turns. A row's cluster does not depend on the
 * others in its chunk, and sums are added up in the order of rows: the result does not depend on
 * the number of threads.
 */
#include "index/cluster.h"

#include "index/best.h"
#include "index/kmeans.h"
#include "index/rng.h"
#include "storage/base/error.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum {
    SAMPLE = 48,           /* rows of the sample for a cluster */
    TOP_ROWS = 256,        /* rows for a group of step 2 */
    TOP_ROUNDS = 8,
    INNER_ROUNDS = 5,
    LLOYD_ROUNDS = 4,
    SPLITS = 3,
    SPLIT_ROUNDS = 6,
    NEAREST_GROUPS = 8,
    MIN_SIZE = 8,
    NEIGHBOURS = 16,
    MIN_MEAN = 64,         /* rows a cluster should have: two blocks of codes */
    TASK_ROWS = 512,       /* rows that a worker takes at a time; fewer of very many elements */
    LEAST_TASK = 16,
    LEAST_TILE = 8,
    LEAST_ROOM = 8,        /* for clusters beyond 1.5 times those wanted; 64 if it fits */
    CHUNK_TASKS = 4        /* for each worker in a chunk: nobody waits long for the last */
};

#define DEFAULT_BUDGET ((uint64_t)64 << 20)

/* ---- Nearest centroid ------------------------------------------------------------------------ */

/* Centroids in groups, packed for matrix products. */
struct assigner {
    uint32_t n_groups;
    uint32_t *start;        /* [n_groups + 1] in members */
    uint32_t *members;      /* [k] centroids, by group */
    struct packed groups;   /* their own centroids */
    struct packed *packed;  /* [n_groups] members' */
};

/* Rows that are assigned together. */
struct chunk {
    const uint32_t *ids;    /* [n] */
    const float *rows;      /* [n][dim] */
    size_t n;
    size_t first;           /* place of the first in its pass */
    uint32_t *own_ids;      /* [work.chunk] */
    float *own_rows;        /* [work.chunk][dim] */
};

/* Buffers of one worker. */
struct task {
    const float *rows;      /* [n][dim] */
    size_t n;
    uint32_t *nearest;      /* out [n] */
    float *value;           /* [task_rows] */
    uint32_t *group;        /* [task_rows][NEAREST_GROUPS] */
    uint32_t *list;         /* [task_rows * NEAREST_GROUPS] rows by group */
    uint32_t *start;        /* [n_groups + 1] */
    float *dots;            /* [KMEANS_TILE][most lanes] */
    float *tile;            /* [tile_rows][dim] */
};

struct work {
    struct mn_alloc *a;
    const struct kernels *kn;
    const struct ann_source *source;
    const struct cluster_opts *opts;
    mn_error *err;
    uint32_t dim, threads;
    uint32_t k, room;          /* clusters now, and room for them */
    float *centroids;          /* [room][dim] */
    uint32_t *of;              /* [n] */
    uint32_t *sizes;           /* [room] */
    uint32_t max_size;
    uint64_t seed;

    size_t task_rows, chunk;   /* rows of a task; of a chunk */
    uint32_t tile_rows;        /* of a task's tile: KMEANS_TILE, or fewer of very many elements */
    struct chunk chunks[2];    /* the second one with several threads only */
    uint32_t *found;           /* [chunk] */
    struct assigner assigner;
    struct task *tasks;        /* [threads] */

    const struct pass *pass;   /* the running one */
    const struct chunk *now;   /* being assigned */
    struct chunk *next;        /* being fetched meanwhile; NULL: none */
    mn_status fetched;         /* how that went */
    _Atomic size_t taken;      /* relaxed; rows of `now` that workers took */

    uint32_t *sample;          /* [n_sample] rows */
    size_t n_sample;
    float *kept;               /* [n_sample][dim], or NULL: fetched each time */
    bool *fresh;               /* [room] the cluster was made by a split */
    uint64_t done, total;      /* rows assigned; for tick */
};

/* Assigning some rows, chunk by chunk. */
struct pass {
    mn_status (*fetch)(struct work *w, struct chunk *c, size_t first); /* rows from `first` on;
                                                                          c->n 0: none are left */
    void (*take)(struct work *w, const struct chunk *c); /* w->found are their clusters */
    float *sums;               /* [k][dim] for take_sample_rows; or NULL */
};

static uint64_t budget_of(const struct cluster_opts *opts)
{
    return opts->budget_bytes ? opts->budget_bytes : DEFAULT_BUDGET;
}

static mn_status no_memory(const struct work *w)
{
    return mn_fail(w->err, MN_NOMEM, "no memory to cluster %zu rows of %u elements",
                   w->source->n, w->dim);
}

static mn_status run_kmeans(struct work *w, const float *rows, size_t n, uint32_t k,
                            uint32_t rounds, float *centroids)
{
    const struct kmeans_spec spec = {.rows = rows,
                                     .n = n,
                                     .dim = w->dim,
                                     .k = k,
                                     .rounds = rounds,
                                     .seed = rng_next(&w->seed),
                                     .parallel = w->opts->parallel};
    return kmeans(w->a, w->kn, &spec, centroids, w->err);
}

static void assigner_fini(struct work *w)
{
    struct assigner *g = &w->assigner;
    for (uint32_t i = 0; g->packed && i < g->n_groups; i++)
        packed_fini(&g->packed[i], w->a);
    packed_fini(&g->groups, w->a);
    mn_free(w->a, g->packed);
    mn_free(w->a, g->start);
    mn_free(w->a, g->members);
    for (uint32_t t = 0; w->tasks && t < w->threads; t++) {
        mn_free(w->a, w->tasks[t].start);
        mn_free(w->a, w->tasks[t].dots);
        w->tasks[t].start = NULL;
        w->tasks[t].dots = NULL;
    }
    *g = (struct assigner){0};
}

/* Groups the centroids by their nearest group. */
static void group_members(struct work *w, const uint32_t *group)
{
    struct assigner *g = &w->assigner;
    for (uint32_t j = 0; j < w->k; j++)
        g->start[group[j] + 1]++;
    for (uint32_t i = 0; i < g->n_groups; i++)
        g->start[i + 1] += g->start[i];
    for (uint32_t j = 0; j < w->k; j++) /* start[i] moves to the end of i, which is i + 1's start */
        g->members[g->start[group[j]]++] = j;
    memmove(g->start + 1, g->start, g->n_groups * sizeof *g->start);
    g->start[0] = 0;
}

static mn_status pack_groups(struct work *w, const float *centers)
{
    struct assigner *g = &w->assigner;
    size_t most = g->n_groups;
    packed_set(&g->groups, w->kn, centers, NULL, g->n_groups);
    for (uint32_t i = 0; i < g->n_groups; i++) {
        uint32_t n = g->start[i + 1] - g->start[i];
        if (!packed_init(&g->packed[i], w->a, n, w->dim))
            return no_memory(w);
        packed_set(&g->packed[i], w->kn, w->centroids, g->members + g->start[i], n);
        most = n > most ? n : most;
    }
    most = (most + KERNEL_LANES - 1) / KERNEL_LANES * KERNEL_LANES;
    for (uint32_t t = 0; t < w->threads; t++) {
        struct task *k = &w->tasks[t];
        k->start = mn_alloc_array(w->a, g->n_groups + 1, sizeof *k->start, MN_TAG_SEARCH);
        k->dots = mn_alloc_array(w->a, most, KMEANS_TILE * sizeof(float), MN_TAG_SEARCH);
        if (!k->start || !k->dots)
            return no_memory(w);
    }
    return MN_OK;
}

/* Makes the groups anew for the centroids of now. */
static mn_status assigner_set(struct work *w)
{
    struct assigner *g = &w->assigner;
    uint32_t n = (uint32_t)sqrt(w->k);
    assigner_fini(w);
    g->n_groups = n ? n : 1;
    g->start = mn_alloc_array(w->a, g->n_groups + 1, sizeof *g->start, MN_TAG_SEARCH);
    g->members = mn_alloc_array(w->a, w->k, sizeof *g->members, MN_TAG_SEARCH);
    g->packed = mn_alloc_array(w->a, g->n_groups, sizeof *g->packed, MN_TAG_SEARCH);
    float *centers = mn_alloc_array(w->a, g->n_groups, w->dim * sizeof(float), MN_TAG_SEARCH);
    uint32_t *group = mn_alloc_array(w->a, w->k, sizeof *group, MN_TAG_SEARCH);
    float *dots = NULL;
    mn_status st = MN_OK;
    if (!packed_init(&g->groups, w->a, g->n_groups, w->dim) || !g->start || !g->members ||
        !g->packed || !centers || !group)
        st = no_memory(w);
    if (!st)
        st = run_kmeans(w, w->centroids, w->k, g->n_groups, TOP_ROUNDS, centers);
    if (!st) {
        packed_set(&g->groups, w->kn, centers, NULL, g->n_groups);
        dots = mn_alloc_array(w->a, packed_lanes(&g->groups), sizeof *dots, MN_TAG_SEARCH);
        st = dots ? MN_OK : no_memory(w);
    }
    for (uint32_t j = 0; !st && j < w->k; j++) {
        float value;
        packed_dots(&g->groups, w->kn, w->centroids + (size_t)j * w->dim, 1, dots);
        group[j] =
            (uint32_t)w->kn->closest(dots, g->groups.half, packed_lanes(&g->groups), &value);
    }
    if (!st) {
        group_members(w, group);
        st = pack_groups(w, centers);
    }
    mn_free(w->a, dots);
    mn_free(w->a, centers);
    mn_free(w->a, group);
    return st;
}

/* The nearest groups of each row, as lists of rows by group. Returns how many groups a row has. */
static uint32_t list_groups(const struct work *w, struct task *t)
{
    const struct assigner *g = &w->assigner;
    uint32_t most = g->n_groups < NEAREST_GROUPS ? g->n_groups : NEAREST_GROUPS;
    size_t lanes = packed_lanes(&g->groups);
    memset(t->start, 0, (g->n_groups + 1) * sizeof *t->start);
    for (size_t first = 0; first < t->n; first += KMEANS_TILE) {
        size_t n = t->n - first < KMEANS_TILE ? t->n - first : KMEANS_TILE;
        packed_dots(&g->groups, w->kn, t->rows + first * w->dim, n, t->dots);
        for (size_t i = 0; i < n; i++)
            for (uint32_t m = 0; m < most; m++) {
                float *dots = t->dots + i * lanes, value;
                size_t at = w->kn->closest(dots, g->groups.half, lanes, &value);
                dots[at] = -1e30f;
                t->group[(first + i) * NEAREST_GROUPS + m] = (uint32_t)at;
                t->start[at + 1]++;
            }
    }
    for (uint32_t i = 0; i < g->n_groups; i++)
        t->start[i + 1] += t->start[i];
    for (size_t i = 0; i < t->n; i++)
        for (uint32_t m = 0; m < most; m++)
            t->list[t->start[t->group[i * NEAREST_GROUPS + m]]++] = (uint32_t)i;
    memmove(t->start + 1, t->start, g->n_groups * sizeof *t->start);
    t->start[0] = 0;
    return most;
}

/* The nearest centroid of each row of a task. */
static void assign_task(const struct work *w, struct task *t)
{
    const struct assigner *g = &w->assigner;
    size_t dim = w->dim;
    list_groups(w, t);
    for (size_t i = 0; i < t->n; i++) {
        t->value[i] = INFINITY;
        t->nearest[i] = 0;
    }
    for (uint32_t i = 0; i < g->n_groups; i++) {
        const struct packed *p = &g->packed[i];
        size_t lanes = packed_lanes(p);
        for (uint32_t at = t->start[i]; p->n && at < t->start[i + 1]; at += w->tile_rows) {
            uint32_t left = t->start[i + 1] - at;
            uint32_t n = left < w->tile_rows ? left : w->tile_rows;
            for (uint32_t r = 0; r < n; r++)
                memcpy(t->tile + r * dim, t->rows + t->list[at + r] * dim, dim * sizeof(float));
            packed_dots(p, w->kn, t->tile, n, t->dots);
            for (uint32_t r = 0; r < n; r++) {
                float value;
                size_t j = w->kn->closest(t->dots + r * lanes, p->half, lanes, &value);
                uint32_t row = t->list[at + r];
                if (value < t->value[row]) {
                    t->value[row] = value;
                    t->nearest[row] = g->members[g->start[i] + j];
                }
            }
        }
    }
}

static void assign_worker(void *arg, unsigned worker)
{
    struct work *w = arg;
    const struct chunk *c = w->now;
    struct task *t = &w->tasks[worker];
    size_t first;
    if (worker == 0 && w->next)
        w->fetched = w->pass->fetch(w, w->next, c->first + c->n);
    while ((first = atomic_fetch_add_explicit(&w->taken, w->task_rows, memory_order_relaxed)) <
           c->n) {
        t->rows = c->rows + first * w->dim;
        t->n = c->n - first < w->task_rows ? c->n - first : w->task_rows;
        t->nearest = w->found + first;
        assign_task(w, t);
    }
}

/* The nearest centroids of all rows of a pass. */
static mn_status run_pass(struct work *w, const struct pass *p)
{
    struct chunk *now = &w->chunks[0];
    bool ahead = w->threads > 1;
    w->pass = p;
    mn_status st = p->fetch(w, now, 0);
    while (!st && now->n) {
        w->now = now;
        w->next = ahead ? &w->chunks[now == w->chunks] : NULL;
        w->fetched = MN_OK;
        atomic_store_explicit(&w->taken, 0, memory_order_relaxed);
        parallel_run(w->opts->parallel, w->threads, assign_worker, w);
        p->take(w, now);
        w->done += now->n;
        w->total = w->total < w->done ? w->done : w->total;
        st = w->fetched;
        if (!st && w->opts->tick)
            st = w->opts->tick(w->opts->tick_ctx, w->done, w->total, w->err);
        if (ahead)
            now = w->next;
        else if (!st)
            st = p->fetch(w, now, now->first + now->n);
    }
    return st;
}

static mn_status fetch(struct work *w, const uint32_t *ids, size_t n, float *out)
{
    return n ? w->source->fetch(w->source->ctx, ids, n, out, w->err) : MN_OK;
}

/* ---- Steps 1 to 3 ---------------------------------------------------------------------------- */

static mn_status take_sample(struct work *w, uint32_t k)
{
    size_t n = w->source->n, want = (size_t)k * SAMPLE;
    uint64_t budget = budget_of(w->opts);
    w->n_sample = want < n ? want : n;
    w->sample = mn_alloc_array(w->a, w->n_sample, sizeof *w->sample, MN_TAG_SEARCH);
    if (!w->sample)
        return no_memory(w);
    for (size_t i = 0; i < w->n_sample; i++) {
        size_t first = n * i / w->n_sample, end = n * (i + 1) / w->n_sample;
        w->sample[i] = (uint32_t)(first + rng_below(&w->seed, end - first));
    }
    if ((uint64_t)w->n_sample * w->dim * sizeof(float) > budget / 2)
        return MN_OK;
    w->kept = mn_alloc_array(w->a, w->n_sample, w->dim * sizeof(float), MN_TAG_SEARCH);
    for (size_t i = 0; w->kept && i < w->n_sample; i += w->chunk) {
        size_t count = w->n_sample - i < w->chunk ? w->n_sample - i : w->chunk;
        mn_status st = fetch(w, w->sample + i, count, w->kept + i * w->dim);
        if (st)
            return st;
    }
    return MN_OK;
}

/* Some rows: of the source, or of the sample by their places in it. */
struct some {
    const uint32_t *ids; /* [n]; NULL: all of the sample */
    size_t n;
    bool sampled;
};

static mn_status read_some(struct work *w, const struct some *from, uint32_t *which, size_t m,
                           float *rows)
{
    for (size_t i = 0; i < m; i++) {
        size_t at = from->n * i / m;
        which[i] = from->ids ? from->ids[at] : (uint32_t)at;
        if (from->sampled && w->kept)
            memcpy(rows + i * w->dim, w->kept + (size_t)which[i] * w->dim, w->dim * sizeof *rows);
        else if (from->sampled)
            which[i] = w->sample[which[i]];
    }
    return from->sampled && w->kept ? MN_OK : fetch(w, which, m, rows);
}

/* k-means of `most` of them, spread evenly, into k centroids. */
static mn_status kmeans_of(struct work *w, const struct some *from, size_t most, uint32_t k,
                           uint32_t rounds, float *centroids)
{
    uint64_t budget = budget_of(w->opts);
    size_t fits = (size_t)(budget / 4 / (w->dim * sizeof(float)));
    most = most > fits ? fits : most;
    most = most < k ? k : most;
    size_t m = from->n < most ? from->n : most;
    float *rows = mn_alloc_array(w->a, m, w->dim * sizeof *rows, MN_TAG_SEARCH);
    uint32_t *which = mn_alloc_array(w->a, m, sizeof *which, MN_TAG_SEARCH);
    mn_status st = rows && which ? read_some(w, from, which, m, rows) : no_memory(w);
    if (!st)
        st = run_kmeans(w, rows, m, k, rounds, centroids);
    mn_free(w->a, rows);
    mn_free(w->a, which);
    return st;
}

static mn_status fetch_sample(struct work *w, struct chunk *c, size_t first)
{
    c->first = first;
    c->n = w->n_sample - first < w->chunk ? w->n_sample - first : w->chunk;
    c->ids = w->sample + first;
    c->rows = w->kept ? w->kept + first * w->dim : c->own_rows;
    return w->kept ? MN_OK : fetch(w, c->ids, c->n, c->own_rows);
}

static void take_sample_rows(struct work *w, const struct chunk *c)
{
    for (size_t r = 0; r < c->n; r++) {
        uint32_t j = w->found[r];
        const float *row = c->rows + r * w->dim;
        w->of[c->first + r] = j;
        w->sizes[j]++;
        if (!w->pass->sums)
            continue;
        float *sum = w->pass->sums + (size_t)j * w->dim;
        for (uint32_t d = 0; d < w->dim; d++)
            sum[d] += row[d];
    }
}

/* Nearest centroids of the whole sample into of[0 .. n_sample), which is free until step 4. */
static mn_status assign_sample(struct work *w, float *sums)
{
    const struct pass p = {.fetch = fetch_sample, .take = take_sample_rows, .sums = sums};
    mn_status st = assigner_set(w);
    memset(w->sizes, 0, w->k * sizeof *w->sizes);
    return st ? st : run_pass(w, &p);
}

/* Rows ids[of] by cluster: list[start[j] .. start[j + 1]) are the i with of[i] = j, ascending. */
static mn_status list_clusters(struct work *w, size_t n, uint32_t **start, uint32_t **list)
{
    *start = mn_alloc_array(w->a, w->k + 1, sizeof **start, MN_TAG_SEARCH);
    *list = mn_alloc_array(w->a, n, sizeof **list, MN_TAG_SEARCH);
    if (!*start || !*list)
        return no_memory(w);
    for (uint32_t j = 0; j < w->k; j++)
        (*start)[j + 1] = (*start)[j] + w->sizes[j];
    for (size_t i = 0; i < n; i++)
        (*list)[(*start)[w->of[i]]++] = (uint32_t)i;
    memmove(*start + 1, *start, w->k * sizeof **start);
    (*start)[0] = 0;
    return MN_OK;
}

/* Step 2: groups, and clusters inside each by its share of the sample. */
static mn_status first_clusters(struct work *w, uint32_t k)
{
    uint32_t top = (uint32_t)(0.8 * sqrt(k));
    top = top < 4 ? 4 : top;
    top = top > k ? k : top;
    uint32_t *start = NULL, *list = NULL;
    float *to = NULL;
    const struct some whole = {.n = w->n_sample, .sampled = true};
    mn_status st = kmeans_of(w, &whole, (size_t)top * TOP_ROWS, top, TOP_ROUNDS, w->centroids);
    w->k = top;
    if (!st)
        st = assign_sample(w, NULL);
    if (!st)
        st = list_clusters(w, w->n_sample, &start, &list);
    if (!st && !(to = mn_alloc_array(w->a, w->room, w->dim * sizeof *to, MN_TAG_SEARCH)))
        st = no_memory(w);
    uint32_t made = 0;
    for (uint32_t j = 0; !st && j < top; j++) {
        uint32_t n = start[j + 1] - start[j];
        uint32_t share = (uint32_t)((double)n * k / (double)w->n_sample + 0.5);
        share = share ? share : 1;
        share = share > w->room - made - (top - j - 1) ? w->room - made - (top - j - 1) : share;
        if (n == 0)
            continue;
        const struct some group = {list + start[j], n, true};
        st = kmeans_of(w, &group, (size_t)share * TOP_ROWS, share, INNER_ROUNDS,
                       to + (size_t)made * w->dim);
        made += share;
    }
    if (!st) {
        memcpy(w->centroids, to, (size_t)made * w->dim * sizeof *to);
        w->k = made;
    }
    mn_free(w->a, to);
    mn_free(w->a, start);
    mn_free(w->a, list);
    return st;
}

/* Step 3 */
static mn_status lloyd(struct work *w)
{
    float *sums = mn_alloc_array(w->a, w->k, w->dim * sizeof *sums, MN_TAG_SEARCH);
    mn_status st = sums ? MN_OK : no_memory(w);
    for (int round = 0; !st && round < LLOYD_ROUNDS; round++) {
        memset(sums, 0, (size_t)w->k * w->dim * sizeof *sums);
        st = assign_sample(w, sums);
        for (size_t i = 0; !st && i < (size_t)w->k * w->dim; i++)
            if (w->sizes[i / w->dim])
                w->centroids[i] = sums[i] / (float)w->sizes[i / w->dim];
    }
    mn_free(w->a, sums);
    return st;
}

/* ---- A trainer in place of steps 2 and 3 ----------------------------------------------------- */

/* What the trainer asks between its rounds. */
struct asked {
    struct work *w;
    mn_error err; /* of tick; code MN_OK: go on */
};

static bool go_on(void *ctx)
{
    struct asked *a = ctx;
    const struct work *w = a->w;
    if (a->err.code == MN_OK && w->opts->tick)
        a->err.code = w->opts->tick(w->opts->tick_ctx, w->done, w->total, &a->err);
    return a->err.code == MN_OK;
}

/* The sample as far as it fits half the budget: `kept`, or some of it, spread evenly, in *own. */
static mn_status training_rows(struct work *w, uint32_t k, const float **rows, size_t *n,
                               float **own)
{
    size_t fits = (size_t)(budget_of(w->opts) / 2 / (w->dim * sizeof(float)));
    *own = NULL;
    *rows = w->kept;
    *n = w->n_sample;
    if (w->kept)
        return MN_OK;
    fits = fits < k ? k : fits;
    *n = *n < fits ? *n : fits;
    float *to = mn_alloc_array(w->a, *n, w->dim * sizeof *to, MN_TAG_SEARCH);
    if (!to)
        return no_memory(w);
    *rows = *own = to;
    mn_status st = MN_OK;
    for (size_t i = 0; !st && i < *n; i += w->chunk) {
        size_t count = *n - i < w->chunk ? *n - i : w->chunk;
        uint32_t *ids = w->chunks[0].own_ids;
        for (size_t j = 0; j < count; j++)
            ids[j] = w->sample[(uint64_t)w->n_sample * (i + j) / *n];
        st = fetch(w, ids, count, to + i * w->dim);
    }
    return st;
}

static mn_status check_trained(const struct work *w)
{
    for (size_t i = 0; i < (size_t)w->k * w->dim; i++)
        if (!isfinite(w->centroids[i]))
            return mn_fail(w->err, MN_INVALID, "the trainer gave no good centroid %zu of %u: its "
                           "element %zu is missing or not finite", i / w->dim, w->k, i % w->dim);
    return MN_OK;
}

static mn_status train(struct work *w, uint32_t k)
{
    float *own;
    struct asked asked = {.w = w};
    mn_training t = {.dim = w->dim, .k = k, .centroids = w->centroids, .go_on = go_on,
                     .go_on_ctx = &asked};
    mn_error why = {0};
    mn_status st = training_rows(w, k, &t.vectors, &t.n, &own);
    if (!st) {
        for (size_t i = 0; i < (size_t)k * w->dim; i++)
            w->centroids[i] = NAN; /* so that what is left out is noticed */
        st = w->opts->train(w->opts->train_ctx, &t, &why);
        why.message[sizeof why.message - 1] = 0; /* a stranger wrote it */
        w->k = k;
        if (asked.err.code)
            st = mn_fail(w->err, asked.err.code, "%s", asked.err.message);
        else if (st)
            st = mn_fail(w->err, st, "the trainer failed: %s",
                         *why.message ? why.message : mn_status_name(st));
        else
            st = check_trained(w);
    }
    mn_free(w->a, own);
    return st;
}

/* ---- Steps 4 and 5 --------------------------------------------------------------------------- */

/* Rows marked in of[] with UINT32_MAX; a chunk's `first` counts rows that are looked at. */
static mn_status fetch_marked(struct work *w, struct chunk *c, size_t first)
{
    size_t i = first;
    c->n = 0;
    for (; i < w->source->n && c->n < w->chunk; i++)
        if (w->of[i] == UINT32_MAX)
            c->own_ids[c->n++] = (uint32_t)i;
    c->first = i - c->n; /* so that first + n is where to go on */
    return fetch(w, c->ids, c->n, c->own_rows);
}

static void take_marked(struct work *w, const struct chunk *c)
{
    for (size_t r = 0; r < c->n; r++) {
        w->of[c->ids[r]] = w->found[r];
        w->sizes[w->found[r]]++;
    }
}

static mn_status assign_marked(struct work *w)
{
    static const struct pass p = {.fetch = fetch_marked, .take = take_marked};
    for (int i = 0; i < 2; i++) {
        w->chunks[i].ids = w->chunks[i].own_ids;
        w->chunks[i].rows = w->chunks[i].own_rows;
    }
    mn_status st = assigner_set(w);
    return st ? st : run_pass(w, &p);
}

static mn_status assign_all(struct work *w)
{
    memset(w->sizes, 0, w->room * sizeof *w->sizes);
    memset(w->of, 0xff, w->source->n * sizeof *w->of);
    return assign_marked(w);
}

/* Into how many clusters one of n rows should go; 0: dissolve it. */
static uint32_t parts_of(const struct work *w, uint32_t n, uint32_t min_size)
{
    uint32_t good = w->max_size / 3 * 2;
    return n < min_size ? 0 : n > w->max_size ? (n + good - 1) / good : 1;
}

/* One round of step 4: new centroids; rows whose cluster is gone are marked. *changed: any. */
static mn_status split_clusters(struct work *w, uint32_t min_size, bool *changed)
{
    uint32_t *start = NULL, *list = NULL, made = 0;
    uint32_t *moved = mn_alloc_array(w->a, w->k, sizeof *moved, MN_TAG_SEARCH);
    float *to = mn_alloc_array(w->a, w->room, w->dim * sizeof *to, MN_TAG_SEARCH);
    bool *fresh = mn_alloc_array(w->a, w->room, sizeof *fresh, MN_TAG_SEARCH);
    mn_status st =
        moved && to && fresh ? list_clusters(w, w->source->n, &start, &list) : no_memory(w);
    *changed = false;
    for (uint32_t j = 0; !st && j < w->k; j++) {
        uint32_t parts = parts_of(w, w->sizes[j], min_size);
        parts = parts > w->room - made ? w->room - made : parts;
        if (parts == 1)
            memcpy(to + (size_t)made * w->dim, w->centroids + (size_t)j * w->dim,
                   w->dim * sizeof *to);
        const struct some rows = {list + start[j], w->sizes[j], false};
        if (parts > 1)
            st = kmeans_of(w, &rows, (size_t)parts * TOP_ROWS, parts, SPLIT_ROUNDS,
                           to + (size_t)made * w->dim);
        for (uint32_t p = 0; p < parts; p++)
            fresh[made + p] = parts > 1 || w->fresh[j];
        moved[j] = parts == 1 ? made : UINT32_MAX;
        *changed |= parts != 1;
        made += parts;
    }
    if (!st && made > 0) {
        float *old = w->centroids;
        bool *was = w->fresh;
        w->centroids = to;
        to = old;
        w->fresh = fresh;
        fresh = was;
        w->k = made;
        memset(w->sizes, 0, w->room * sizeof *w->sizes);
        for (size_t i = 0; i < w->source->n; i++) {
            w->of[i] = moved[w->of[i]];
            if (w->of[i] != UINT32_MAX)
                w->sizes[w->of[i]]++;
        }
    } else {
        *changed = false; /* all would be dissolved */
    }
    mn_free(w->a, moved);
    mn_free(w->a, to);
    mn_free(w->a, fresh);
    mn_free(w->a, start);
    mn_free(w->a, list);
    return st;
}

/* Marks the rows of clusters near those made by splits, those included. */
static mn_status mark_near_splits(struct work *w, bool *any)
{
    float *distance = mn_alloc_array(w->a, w->k, sizeof *distance, MN_TAG_SEARCH);
    bool *near = mn_alloc_array(w->a, w->k, sizeof *near, MN_TAG_SEARCH);
    float *keys = mn_alloc_array(w->a, best_room(NEIGHBOURS), sizeof *keys, MN_TAG_SEARCH);
    mn_status st = distance && near && keys ? MN_OK : no_memory(w);
    *any = false;
    for (uint32_t j = 0; !st && j < w->k; j++) {
        struct best best;
        if (!w->fresh[j])
            continue;
        w->kn->l2[ELEM_F32](w->centroids + (size_t)j * w->dim, w->centroids,
                            w->dim * sizeof(float), w->k, w->dim, distance);
        best_init(&best, keys, NEIGHBOURS);
        for (uint32_t i = 0; i < w->k; i++)
            if (distance[i] < best.limit)
                best_push(&best, distance[i]);
        best_settle(&best);
        *any = true;
        for (uint32_t i = 0; i < w->k; i++)
            near[i] |= distance[i] <= best.limit;
    }
    for (size_t i = 0; !st && i < w->source->n; i++)
        if (near[w->of[i]]) {
            w->sizes[w->of[i]]--;
            w->of[i] = UINT32_MAX;
        }
    mn_free(w->a, distance);
    mn_free(w->a, near);
    mn_free(w->a, keys);
    return st;
}

/* Leaves out clusters without rows. */
static void drop_empty(struct work *w, uint32_t *moved)
{
    uint32_t kept = 0;
    for (uint32_t j = 0; j < w->k; j++) {
        moved[j] = kept;
        if (w->sizes[j] == 0)
            continue;
        memmove(w->centroids + (size_t)kept * w->dim, w->centroids + (size_t)j * w->dim,
                w->dim * sizeof *w->centroids);
        w->sizes[kept++] = w->sizes[j];
    }
    for (size_t i = 0; i < w->source->n; i++)
        w->of[i] = moved[w->of[i]];
    w->k = kept;
}

/* Cuts what is too large still: row number x of a cluster goes to its part x % parts. */
static mn_status cut_alike(struct work *w)
{
    uint32_t *first = mn_alloc_array(w->a, w->k, sizeof *first, MN_TAG_SEARCH);
    uint32_t *parts = mn_alloc_array(w->a, w->k, sizeof *parts, MN_TAG_SEARCH);
    uint32_t *seen = mn_alloc_array(w->a, w->k, sizeof *seen, MN_TAG_SEARCH);
    mn_status st = first && parts && seen ? MN_OK : no_memory(w);
    uint32_t k = w->k;
    if (!st)
        drop_empty(w, seen);
    if (!st)
        memset(seen, 0, k * sizeof *seen);
    k = w->k;
    for (uint32_t j = 0; !st && j < k; j++) {
        bool big = w->sizes[j] / 2 > w->max_size;
        parts[j] = big ? (w->sizes[j] + w->max_size - 1) / w->max_size : 1;
        parts[j] = parts[j] - 1 > w->room - w->k ? w->room - w->k + 1 : parts[j];
        first[j] = w->k;
        for (uint32_t p = 1; p < parts[j]; p++, w->k++)
            memcpy(w->centroids + (size_t)w->k * w->dim, w->centroids + (size_t)j * w->dim,
                   w->dim * sizeof *w->centroids);
    }
    if (!st)
        memset(w->sizes, 0, w->room * sizeof *w->sizes);
    for (size_t i = 0; !st && i < w->source->n; i++) {
        uint32_t j = w->of[i], part = parts[j] > 1 ? seen[j]++ % parts[j] : 0;
        w->of[i] = part ? first[j] + part - 1 : j;
        w->sizes[w->of[i]]++;
    }
    mn_free(w->a, first);
    mn_free(w->a, parts);
    mn_free(w->a, seen);
    return st;
}

/* ---- The whole ------------------------------------------------------------------------------- */

/* Bytes of the chunks and of what each worker needs to assign them. */
static uint64_t chunk_bytes(const struct work *w, uint32_t tasks)
{
    uint64_t row = w->dim * sizeof(float), rows = w->threads * tasks * w->task_rows;
    uint64_t chunks = (w->threads > 1 ? 2 : 1) * rows * (row + sizeof(uint32_t));
    return chunks + w->threads * (w->tile_rows * row + w->task_rows * 8 * (NEAREST_GROUPS + 1));
}

/* So few rows at a time, and workers, that an eighth of the budget will do. */
static void fit_chunks(struct work *w)
{
    uint64_t most = budget_of(w->opts) / 8;
    uint32_t tasks = w->threads > 1 ? CHUNK_TASKS : 1; /* for each worker in a chunk */
    w->task_rows = TASK_ROWS;
    w->tile_rows = KMEANS_TILE;
    while (w->tile_rows > LEAST_TILE && w->tile_rows * w->dim * sizeof(float) > most / 4)
        w->tile_rows /= 2;
    while (w->task_rows > LEAST_TASK && chunk_bytes(w, tasks) > most)
        w->task_rows /= 2;
    while (tasks > 1 && chunk_bytes(w, tasks) > most)
        tasks--;
    while (w->threads > 1 && chunk_bytes(w, tasks) > most)
        w->threads--;
    w->chunk = w->task_rows * w->threads * tasks;
}

static mn_status take_task(struct work *w, struct task *t)
{
    const size_t lists = w->task_rows * NEAREST_GROUPS;
    t->value = mn_alloc_array(w->a, w->task_rows, sizeof *t->value, MN_TAG_SEARCH);
    t->group = mn_alloc_array(w->a, lists, sizeof *t->group, MN_TAG_SEARCH);
    t->list = mn_alloc_array(w->a, lists, sizeof *t->list, MN_TAG_SEARCH);
    t->tile = mn_alloc_array(w->a, w->tile_rows, w->dim * sizeof(float), MN_TAG_SEARCH);
    return t->value && t->group && t->list && t->tile ? MN_OK : no_memory(w);
}

static mn_status take_memory(struct work *w, uint32_t k)
{
    size_t row = w->dim * sizeof(float);
    mn_status st = MN_OK;
    size_t fits = budget_of(w->opts) / 16 / row;
    w->room = k + k / 2 + (uint32_t)(fits > 64 ? 64 : fits < LEAST_ROOM ? LEAST_ROOM : fits);
    fit_chunks(w);
    w->centroids = mn_alloc_array(w->a, w->room, row, MN_TAG_SEARCH);
    w->of = mn_alloc_array(w->a, w->source->n, sizeof *w->of, MN_TAG_SEARCH);
    w->sizes = mn_alloc_array(w->a, w->room, sizeof *w->sizes, MN_TAG_SEARCH);
    w->fresh = mn_alloc_array(w->a, w->room, sizeof *w->fresh, MN_TAG_SEARCH);
    w->found = mn_alloc_array(w->a, w->chunk, sizeof *w->found, MN_TAG_SEARCH);
    w->tasks = mn_alloc_array(w->a, w->threads, sizeof *w->tasks, MN_TAG_SEARCH);
    if (!w->centroids || !w->of || !w->sizes || !w->fresh || !w->found || !w->tasks)
        return no_memory(w);
    for (uint32_t i = 0; i < (w->threads > 1 ? 2 : 1); i++) {
        struct chunk *c = &w->chunks[i];
        c->own_ids = mn_alloc_array(w->a, w->chunk, sizeof *c->own_ids, MN_TAG_SEARCH);
        c->own_rows = mn_alloc_array(w->a, w->chunk, row, MN_TAG_SEARCH);
        if (!c->own_ids || !c->own_rows)
            return no_memory(w);
    }
    for (uint32_t t = 0; t < w->threads && !st; t++)
        st = take_task(w, &w->tasks[t]);
    return st;
}

/* All but centroids, of and sizes. */
static void free_memory(struct work *w)
{
    assigner_fini(w);
    for (uint32_t t = 0; w->tasks && t < w->threads; t++) {
        mn_free(w->a, w->tasks[t].value);
        mn_free(w->a, w->tasks[t].group);
        mn_free(w->a, w->tasks[t].list);
        mn_free(w->a, w->tasks[t].tile);
    }
    for (int i = 0; i < 2; i++) {
        mn_free(w->a, w->chunks[i].own_ids);
        mn_free(w->a, w->chunks[i].own_rows);
    }
    mn_free(w->a, w->tasks);
    mn_free(w->a, w->fresh);
    mn_free(w->a, w->found);
    mn_free(w->a, w->sample);
    mn_free(w->a, w->kept);
}

static mn_status run(struct work *w, uint32_t k)
{
    uint32_t mean = (uint32_t)(w->source->n / k) + 1;
    uint32_t min_size = mean / 4 < MIN_SIZE ? mean / 4 : MIN_SIZE;
    w->max_size = 3 * mean < 32 ? 32 : 3 * mean;
    mn_status st = take_memory(w, k);
    if (!st)
        st = take_sample(w, k);
    w->total = (LLOYD_ROUNDS + 1) * (uint64_t)w->n_sample + (uint64_t)w->source->n;
    if (!st && w->opts->train) {
        st = train(w, k);
    } else {
        if (!st)
            st = first_clusters(w, k);
        if (!st)
            st = lloyd(w);
    }
    mn_free(w->a, w->kept);
    w->kept = NULL;
    if (!st)
        st = assign_all(w);
    bool changed = true;
    for (int i = 0; !st && changed && i < SPLITS; i++) {
        st = split_clusters(w, min_size, &changed);
        if (!st && changed)
            st = assign_marked(w);
    }
    if (!st)
        st = mark_near_splits(w, &changed);
    if (!st && changed)
        st = assign_marked(w);
    return st ? st : cut_alike(w);
}

mn_status cluster(struct mn_alloc *a, const struct kernels *kn, const struct ann_source *source,
                  const struct cluster_opts *opts, struct clusters *out, mn_error *err)
{
    *out = (struct clusters){0};
    if (source->n == 0 || source->n >= UINT32_MAX)
        return mn_fail(err, MN_INVALID, "%zu rows cannot be clustered", source->n);
    if (source->dim == 0 || source->dim > MN_MAX_DIM)
        return mn_fail(err, MN_INVALID, "dim is %u; it may be 1 to %u", source->dim, MN_MAX_DIM);
    uint32_t k = opts->k ? opts->k : cluster_count(source->n, source->dim);
    /* beside the sample (1/2) and rows for k-means (1/4) the centroids are held up to twice */
    uint64_t fit = budget_of(opts) / (7 * sizeof(float) * source->dim);
    k = k > fit ? (uint32_t)(fit ? fit : 1) : k;
    k = k > source->n ? (uint32_t)source->n : k;
    struct work w = {.a = a, .kn = kn, .source = source, .opts = opts, .err = err,
                     .dim = source->dim, .seed = opts->seed,
                     .threads = parallel_threads(opts->parallel)};
    mn_status st = run(&w, k);
    free_memory(&w);
    if (st) {
        mn_free(a, w.centroids);
        mn_free(a, w.of);
        mn_free(a, w.sizes);
        return st;
    }
    *out = (struct clusters){w.k, w.dim, w.centroids, w.of, w.sizes};
    return MN_OK;
}

void clusters_fini(struct mn_alloc *a, struct clusters *c)
{
    mn_free(a, c->centroids);
    mn_free(a, c->of);
    mn_free(a, c->sizes);
    *c = (struct clusters){0};
}

/* Cost of a query at recall 0.95 and 0.99 (us of CPU, AVX-512), by the clusters asked for:
 *   GloVe 331K x 100   2300: 42 83   3300: 40 82   4096: 38 80   6000: 42 98
 *   200K x 128         1024: 18 27   1789: 16 25   3000: 16 25
 *   200K x 768          600: 78 115  1024: 59 95   1789: 55 77
 * 4 sqrt(n) is 2,303, 1,789, 1,789: flat around the best, and few clusters are cheap to make and
 * waste less of their last blocks. It does not depend on dim: centroids and codes grow alike. */
uint32_t cluster_count(size_t n, uint32_t dim)
{
    (void)dim;
    double k = 4 * sqrt((double)n), most = (double)n / MIN_MEAN;
    k = k < most ? k : most;
    return k < 1 ? 1 : (uint32_t)k;
}
