/*
 * A search, in order:
 *
 * 1. The query is prepared (query.c) and meets the codes of all centroids (centroids.c), or, where
 *    there is a graph over them, of the nearest (centroid_graph.c).
 * 2. First phase: the nearest postings are scanned until there are ANN_FIRST of them, and k rows,
 *    and some rows more than k. The k-th least estimate so far is the threshold T.
 * 3. Choice, by the density rule. For a posting at squared distance d, of n rows with residuals of
 *    mean length r, a row gets below T if the cosine between its residual and the query's is at
 *    least s = max(0, (d + r^2 - T) / (2 r sqrt d)) (ip: (-<q, c> - T) / (|q| r)). Cosines of
 *    random directions are about normal, so weight = exp(-s^2 / (2 sigma^2)) is what to expect of
 *    a row, and S = sum of n weight what to expect of all. A posting is probed if weight >=
 *    lambda S: work goes where it gains most a row, and a query whose hits lie thin over many
 *    postings stops early. lambda is the one knob for recall, found by index/calibrate.c.
 *    With the graph, S is first that of the postings met so far; all are followed that would be
 *    probed by it, and those not met then count as infinitely far. If that are too many, all
 *    centroids are scanned after all.
 * 4. Chosen postings are scanned in order of falling weight. A part's survivors are estimated by
 *    their whole codes after the next part has been scanned, when their records, fetched ahead,
 *    have come. A row whose estimate is below T moves T; one whose bound is below is kept as a
 *    candidate.
 *    Where it is known beforehand which rows may be hits (ann_query.match), only they are scored, n
 *    is how many of them a posting holds, and postings without any are passed over throughout.
 * 5. If fewer than k rows were found (a filter, hidden rows), the remaining postings are scanned,
 *    nearest first, until they are. For this, and in the first phase where the nearest few hold too
 *    few rows, all centroids are scanned.
 * 6. Candidates whose bound is below T get exact keys, in order of their bounds, until the bound
 *    passes the k-th exact key.
 *
 * Parts that are away (ann.h) are asked for ahead: of the first phase ANN_FIRST at once, in 4 all,
 * in 5 WIDEN. They are scanned in their turn, so that an answer does not depend on what is away nor
 * on when it comes. Their bytes go after that, so their candidates take their ids along.
 *
 * Where rows stand in two postings, the copy that is met first as a candidate counts, which is that
 * of the posting with more weight; later ones are passed over before the filter sees them. What was
 * met stands in a set of ids. If that is full, it is filled anew with the candidates and hits of
 * the moment, so that no row can be a hit twice; only T may then have counted a row twice.
 *
 * Rows that codes cannot tell apart (duplicates, a dense clump) make candidates by the thousand.
 * When the room for them is full, those whose bound has fallen behind T go; if that does not help,
 * all get exact keys at once, whose k-th then caps T. After RERANKED rows that ends, and the half
 * with the larger bounds is dropped: a search must not read a whole collection for duplicates.
 */
#include "index/ann.h"

#include "index/best.h"
#include "index/centroid_graph.h"
#include "index/query.h"
#include "index/row_set.h"
#include "index/topk.h"
#include "storage/base/bytes.h"
#include "storage/base/error.h"

#include <assert.h>
#include <float.h>
#include <string.h>

enum {
    LANES = CENTROID_LANES,
    BUCKETS = 128,          /* of the sort by weight */
    AHEAD = 512,            /* bytes of a posting fetched ahead: then the hardware follows */
    CANDIDATES = 8192,      /* room, and 4 for each of k */
    RERANKED = 32768,       /* most rows that get exact keys for lack of room; and 16 for each
                               of k */
    ENOUGH = 4,             /* rows of the first phase for each of k */
    BEAM = 16,              /* a walk's beyond the postings of the first phase */
    ASSIGN_BEAM = 32,
    LOT = 32,               /* postings that are asked for rows to score before any is scored; */
    LOT_ROWS = 1024,        /* larger parts are scored at once */
    LOT_FETCH = 1024,       /* bytes of a block fetched ahead */
    WIDEN = 8               /* postings asked for together beyond the plan, where parts are away */
};

/* gcc drops calls of functions that do nothing but prefetch, as having no effect. */
#define INLINED inline __attribute__((always_inline))

struct ann_index {
    struct ann_index_spec spec;
    uint32_t n;              /* postings */
    uint64_t rows;           /* not hidden */
    bool away;               /* some parts are */
    size_t lanes;            /* n, rounded up to LANES */
    /* of each posting [lanes], for kernel_weigh */
    float *mean;             /* l2: r^2, ip: 0; huge without rows: weight 0 */
    float *reach;            /* l2: 1 / (2 r), ip: 1 / r */
    float *count;            /* rows */
    struct centroid_reach *reaches; /* [n] the same three of each, where a graph asks; or NULL */
};

/* The postings whose distance is known: all, or those that a walk over the graph has met. */
struct known {
    const uint32_t *at;      /* [n] which; NULL: the i-th is posting i */
    size_t n, lanes;         /* lanes: rounded up to LANES */
    uint32_t sure;           /* so many nearest are known */
    const float *mean, *reach, *count; /* [lanes] as ann_index's */
};

/* Once a candidate, whether the filter has seen it. */
enum asked { NOT_ASKED, ADMITTED };

struct candidate {
    float bound, estimate;
    uint32_t posting, part, slot;
    uint32_t asked;          /* enum asked */
    int64_t id;              /* if its part is away; else the part has it */
};

/* Rows of one part. */
struct slice {
    uint32_t posting, part, first, n;
    float g;
};

struct ann_scratch {
    uint32_t max_dim, max_postings, max_k;
    struct query *query;
    /* [max_postings, padded] */
    float *g, *weight;            /* of those known; g INFINITY once in order[] */
    uint32_t *chosen;             /* of those known: the ones scanned; later those to be */
    uint8_t *bucket;
    uint32_t *order;              /* postings scanned, and those to be scanned behind them */
    float *saved;                 /* their g */
    struct centroid_walk walk;
    float *mean, *reach, *count;  /* [walk's room, padded] of what it met */
    float *keys;                  /* [best_room(max_k)] */
    struct candidate *candidates; /* [room] */
    mn_hit *hits;                 /* [max_k] */
    struct scanned *parts[2];
    struct slice lot[LOT];        /* whose rows to score are known; being fetched */
    uint64_t lot_left_out[LOT][LOT_ROWS / 64];
    struct row_set met;           /* places NULL: for indexes whose rows stand once only */
    float mass;                   /* S of the last search; 0: nothing was chosen */
    struct known weighed;         /* what weight[] is of */
    size_t n_hits;
    struct ann_stats stats;
};

/* The state of one search. */
struct search {
    const struct ann_index *x;
    struct ann_scratch *s;
    const struct ann_query *q;
    mn_error *err;
    float inverse_length2;    /* ip: 1 / |q|^2; l2: 0 */
    float g_noise;
    struct known known;
    struct best best;         /* best.limit is T */
    struct topk top;          /* exact results */
    struct candidate *candidates;
    size_t n, room;           /* of candidates */
    uint32_t live;            /* which of s->parts is scanned next */
    uint32_t n_visited;       /* order[0 .. n_visited) were scanned */
    uint32_t n_all;           /* postings that may hold hits */
    uint64_t rows_seen;
    struct ann_fetched come[2]; /* the last two parts that were away */
    uint32_t turn;            /* which of them is filled next */
    bool gone;                /* a row had no exact key */
    bool again;               /* so only exact keys count as found */
};

/* ---- Index ----------------------------------------------------------------------------------- */

void ann_index_destroy(struct mn_alloc *a, struct ann_index *x)
{
    if (!x)
        return;
    mn_free(a, x->mean);
    mn_free(a, x->reach);
    mn_free(a, x->count);
    mn_free(a, x->reaches);
    mn_free(a, x);
}

static mn_status check_part(const struct ann_index *x, uint32_t posting, const struct ann_part *p,
                            mn_error *err)
{
    const struct rabitq *r = x->spec.rabitq;
    const struct posting_view *v = &p->view;
    if (v->n == 0 || (v->dim == r->dim && v->bits == r->bits && v->metric == r->metric))
        return MN_OK;
    return mn_fail(err, MN_INVALID,
                   "posting %u has dim %u, %u bits, metric %u; its index has %u, %u, %u", posting,
                   v->dim, v->bits, v->metric, r->dim, r->bits, (unsigned)r->metric);
}

static mn_status sum_posting(struct ann_index *x, uint32_t j, mn_error *err)
{
    const struct ann_posting *p = &x->spec.postings[j];
    bool l2 = x->spec.rabitq->metric == ANN_L2;
    double rows = 0, live = 0, residual = 0;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        const struct ann_part *part = &p->parts[i];
        mn_status st = check_part(x, j, part, err);
        if (st)
            return st;
        if (part->n_hidden > part->view.n)
            return mn_fail(err, MN_INVALID, "posting %u has %u rows and hides %u", j, part->view.n,
                           part->n_hidden);
        rows += part->view.n;
        live += part->view.n - part->n_hidden;
        residual += (double)part->view.n * (double)part->view.residual;
        x->away |= part->view.n && !part->view.blocks;
    }
    x->rows += (uint64_t)live;
    x->count[j] = (float)live;
    x->mean[j] = 1e30f;
    x->reach[j] = 1;
    if (live > 0) {
        float r = (float)(residual / rows);
        x->mean[j] = l2 ? r * r : 0;
        x->reach[j] = r > 1e-15f ? (l2 ? 0.5f / r : 1 / r) : 1e15f;
    }
    return MN_OK;
}

mn_status ann_index_create(struct mn_alloc *a, const struct ann_index_spec *spec,
                           struct ann_index **out, mn_error *err)
{
    *out = NULL;
    const struct centroids *c = spec->centroids;
    if (c->dim != spec->rabitq->dim || c->metric != spec->rabitq->metric)
        return mn_fail(err, MN_INVALID, "centroids of dim %u do not belong to codes of dim %u",
                       spec->centroids->dim, spec->rabitq->dim);
    struct ann_index *x = mn_alloc_array(a, 1, sizeof *x, MN_TAG_CACHE);
    if (!x)
        return mn_fail(err, MN_NOMEM, "no memory for an index");
    x->spec = *spec;
    x->n = spec->centroids->n;
    x->lanes = (size_t)spec->centroids->blocks * LANES;
    x->mean = mn_alloc_array(a, x->lanes, sizeof(float), MN_TAG_CACHE);
    x->reach = mn_alloc_array(a, x->lanes, sizeof(float), MN_TAG_CACHE);
    x->count = mn_alloc_array(a, x->lanes, sizeof(float), MN_TAG_CACHE);
    mn_status st = MN_OK;
    if (c->graph)
        x->reaches = mn_alloc_array(a, x->n, sizeof *x->reaches, MN_TAG_CACHE);
    if (!x->mean || !x->reach || !x->count || (c->graph && !x->reaches))
        st = mn_fail(err, MN_NOMEM, "no memory for an index of %u postings", x->n);
    for (uint32_t j = 0; !st && j < x->n; j++)
        st = sum_posting(x, j, err);
    if (st) {
        ann_index_destroy(a, x);
        return st;
    }
    for (uint32_t j = 0; x->reaches && j < x->n; j++)
        x->reaches[j] = (struct centroid_reach){x->mean[j], x->reach[j], x->count[j], 0};
    *out = x;
    return MN_OK;
}

size_t ann_index_lanes(const struct ann_index *x)
{
    return x->lanes;
}

uint64_t ann_index_rows(const struct ann_index *x)
{
    return x->rows;
}

const struct rabitq *ann_index_rabitq(const struct ann_index *x)
{
    return x->spec.rabitq;
}

/* ---- Scratch --------------------------------------------------------------------------------- */

static size_t candidate_room(uint32_t k)
{
    return CANDIDATES + 4 * (size_t)k;
}

void ann_scratch_destroy(struct mn_alloc *a, struct ann_scratch *s)
{
    if (!s)
        return;
    query_destroy(a, s->query);
    mn_free(a, s->g);
    mn_free(a, s->weight);
    mn_free(a, s->saved);
    mn_free(a, s->order);
    mn_free(a, s->chosen);
    mn_free(a, s->bucket);
    centroid_walk_fini(&s->walk, a);
    mn_free(a, s->mean);
    mn_free(a, s->reach);
    mn_free(a, s->count);
    mn_free(a, s->keys);
    mn_free(a, s->met.places);
    mn_free(a, s->candidates);
    mn_free(a, s->hits);
    mn_free(a, s->parts[0]);
    mn_free(a, s->parts[1]);
    mn_free(a, s);
}

static bool take_arrays(struct mn_alloc *a, struct ann_scratch *s)
{
    size_t n = ((size_t)s->max_postings + LANES - 1) / LANES * LANES;
    size_t room = (size_t)centroid_walk_room(s->max_postings) + LANES;
    s->mean = mn_alloc_array(a, room, sizeof(float), MN_TAG_SEARCH);
    s->reach = mn_alloc_array(a, room, sizeof(float), MN_TAG_SEARCH);
    s->count = mn_alloc_array(a, room, sizeof(float), MN_TAG_SEARCH);
    s->g = mn_alloc_array(a, n, sizeof(float), MN_TAG_SEARCH);
    s->weight = mn_alloc_array(a, n, sizeof(float), MN_TAG_SEARCH);
    s->saved = mn_alloc_array(a, n, sizeof(float), MN_TAG_SEARCH);
    s->order = mn_alloc_array(a, n, sizeof(uint32_t), MN_TAG_SEARCH);
    s->chosen = mn_alloc_array(a, n, sizeof(uint32_t), MN_TAG_SEARCH);
    s->bucket = mn_alloc_array(a, n, 1, MN_TAG_SEARCH);
    s->keys = mn_alloc_array(a, best_room(s->max_k), sizeof(float), MN_TAG_SEARCH);
    s->candidates =
        mn_alloc_array(a, candidate_room(s->max_k), sizeof *s->candidates, MN_TAG_SEARCH);
    s->hits = mn_alloc_array(a, s->max_k, sizeof *s->hits, MN_TAG_SEARCH);
    s->parts[0] = mn_alloc_array(a, 1, sizeof *s->parts[0], MN_TAG_SEARCH);
    s->parts[1] = mn_alloc_array(a, 1, sizeof *s->parts[1], MN_TAG_SEARCH);
    return centroid_walk_init(&s->walk, a, s->max_postings) && s->mean && s->reach && s->count &&
           s->g && s->weight && s->saved && s->order && s->chosen && s->bucket && s->keys &&
           s->candidates && s->hits && s->parts[0] && s->parts[1];
}

mn_status ann_scratch_create(struct mn_alloc *a, uint32_t dim, uint32_t max_postings,
                             uint32_t max_k, struct ann_scratch **out, mn_error *err)
{
    *out = NULL;
    if (dim == 0 || dim > MN_MAX_DIM)
        return mn_fail(err, MN_INVALID, "dim is %u; it may be 1 to %u", dim, MN_MAX_DIM);
    if (max_postings == 0 || max_postings > CENTROIDS_MAX)
        return mn_fail(err, MN_INVALID, "max_postings is %u; it may be 1 to %d", max_postings,
                       CENTROIDS_MAX);
    if (max_k == 0 || max_k > MN_MAX_K)
        return mn_fail(err, MN_INVALID, "max_k is %u; it may be 1 to %u", max_k, MN_MAX_K);
    struct ann_scratch *s = mn_alloc_array(a, 1, sizeof *s, MN_TAG_SEARCH);
    if (!s)
        return mn_fail(err, MN_NOMEM, "no memory for searches");
    s->max_dim = dim;
    s->max_postings = max_postings;
    s->max_k = max_k;
    mn_status st = query_create(a, dim, &s->query, err);
    if (!st && !take_arrays(a, s))
        st = mn_fail(err, MN_NOMEM, "no memory for searches of %u hits in %u postings", max_k,
                     max_postings);
    if (st) {
        ann_scratch_destroy(a, s);
        return st;
    }
    *out = s;
    return MN_OK;
}

mn_status ann_scratch_fit(struct mn_alloc *a, struct ann_scratch *s, const struct ann_index *x,
                          mn_error *err)
{
    if (!x->spec.twice || s->met.places)
        return MN_OK;
    size_t places = row_set_places(candidate_room(s->max_k) + s->max_k);
    s->met.places = mn_alloc_array(a, places, sizeof *s->met.places, MN_TAG_SEARCH);
    s->met.mask = places - 1;
    if (!s->met.places)
        return mn_fail(err, MN_NOMEM, "no memory for searches of rows that stand twice");
    return MN_OK;
}

size_t ann_hits(const struct ann_scratch *s, const mn_hit **hits)
{
    *hits = s->hits;
    return s->n_hits;
}

const struct ann_stats *ann_stats(const struct ann_scratch *s)
{
    return &s->stats;
}

/* Weights are -1 for postings of the first phase; a weight of 1 is enough at any lambda. */
float ann_share(const struct ann_scratch *s, uint32_t posting)
{
    const uint32_t *at = s->weighed.at;
    size_t i = posting;
    if (!(s->mass > 0))
        return INFINITY;
    for (i = at ? 0 : i; at && i < s->weighed.n && at[i] != posting; i++)
        continue;
    if (i == s->weighed.n) /* found by widening only */
        return 0;
    return s->weight[i] < 0 || s->weight[i] >= 1 ? INFINITY : s->weight[i] / s->mass;
}

/* ---- Candidates ------------------------------------------------------------------------------ */

static int64_t id_of(const struct search *f, const struct candidate *c)
{
    const struct posting_view *v = &f->x->spec.postings[c->posting].parts[c->part].view;
    return v->blocks ? posting_id(v, c->slot) : c->id;
}

/* Asks the filter; *admitted is false for a row that it rejects. */
static mn_status ask(struct search *f, const struct candidate *c, bool *admitted)
{
    const struct ann_query *q = f->q;
    const struct ann_candidate row = {id_of(f, c), c->posting, c->part, c->slot, c->bound,
                                      c->estimate};
    enum ann_verdict verdict = q->admit(q->admit_ctx, &row, f->err);
    *admitted = verdict == ANN_ADMIT;
    f->s->stats.admitted += verdict == ANN_ADMIT;
    f->s->stats.rejected += verdict == ANN_REJECT;
    if (verdict != ANN_STOP)
        return MN_OK;
    if (f->err && f->err->code != MN_OK)
        return f->err->code;
    return mn_fail(f->err, MN_INTERRUPTED, "the filter stopped the search");
}

static void drop_behind(struct search *f, float limit)
{
    size_t kept = 0;
    for (size_t i = 0; i < f->n; i++)
        if (f->candidates[i].bound < limit)
            f->candidates[kept++] = f->candidates[i];
    f->n = kept;
}

static mn_status rerank(struct search *f);

/* Drops the half of the candidates with the larger bounds, or k of them if they are all alike. */
static void drop_half(struct search *f)
{
    float low = INFINITY, high = -INFINITY;
    size_t before = f->n;
    for (size_t i = 0; i < f->n; i++) {
        low = fminf(low, f->candidates[i].bound);
        high = fmaxf(high, f->candidates[i].bound);
    }
    for (int step = 0; step < 24 && low < high; step++) { /* the median, about, in no memory */
        float middle = low + (high - low) / 2;
        size_t below = 0;
        for (size_t i = 0; i < f->n; i++)
            below += f->candidates[i].bound < middle;
        if (below > f->room / 2)
            high = middle;
        else
            low = middle;
    }
    drop_behind(f, low);
    if (f->n < f->q->k)
        f->n = before < f->room / 2 ? before : f->room / 2;
    f->s->stats.dropped += before - f->n;
}

/* Makes room: see the head comment. */
static mn_status thin_out(struct search *f)
{
    best_settle(&f->best);
    drop_behind(f, f->best.limit);
    if (f->n < f->room / 4 * 3)
        return MN_OK;
    if (f->q->rerank && f->s->stats.reranked < RERANKED + 16 * (uint64_t)f->q->k)
        return rerank(f);
    drop_half(f);
    return MN_OK;
}

/* Whether no other copy of the row was met. */
static bool first_copy(struct search *f, const struct candidate *c)
{
    struct row_set *met = &f->s->met;
    if (row_set_full(met)) {
        row_set_clear(met);
        for (size_t i = 0; i < f->n; i++)
            row_set_add(met, id_of(f, &f->candidates[i]));
        for (size_t i = 0; i < f->top.n; i++)
            row_set_add(met, f->s->hits[i].id);
    }
    return row_set_add(met, id_of(f, c));
}

/* Sorts the survivors of a part into threshold and candidates. */
static mn_status take_survivors(struct search *f, const struct scanned *p)
{
    f->s->stats.survivors += p->n;
    for (size_t i = 0; i < p->n; i++) {
        if (!(p->bound[i] < f->best.limit))
            continue;
        struct candidate c = {p->bound[i], p->estimate[i], p->posting, p->part,
                              (uint32_t)(p->first + p->rows[i]), NOT_ASKED, 0};
        if (p->away)
            c.id = posting_id(p->view, c.slot);
        if (p->tags)
            c.slot = le32_get(p->tags + 4 * (size_t)c.slot);
        if (f->x->spec.twice && !first_copy(f, &c))
            continue;
        if (p->high[i] < f->best.limit) {
            bool admitted = true;
            mn_status st = f->q->admit ? ask(f, &c, &admitted) : MN_OK;
            if (st)
                return st;
            if (!admitted)
                continue;
            c.asked = ADMITTED;
            if (!f->again)
                best_push(&f->best, p->high[i]);
        }
        f->candidates[f->n++] = c;
        mn_status st = f->n == f->room ? thin_out(f) : MN_OK;
        if (st)
            return st;
    }
    return MN_OK;
}

static mn_status finish_part(struct search *f, struct scanned *p)
{
    if (p->n == 0)
        return MN_OK;
    query_estimate(f->s->query, p, f->best.limit);
    mn_status st = take_survivors(f, p);
    p->n = 0;
    return st;
}

/* ---- Postings -------------------------------------------------------------------------------- */

/* l2 |q - c|^2 of posting j, or -<q, c>, from the exact centroid if there is one. */
static float refine(const struct search *f, uint32_t j, float g)
{
    const struct centroids *c = f->x->spec.centroids;
    const struct kernels *kn = f->x->spec.kn;
    if (!c->exact)
        return g;
    const float *center = c->exact + (size_t)j * c->dim;
    float v;
    if (c->metric == ANN_L2) {
        kn->l2[ELEM_F32](f->s->query->rotated, center, c->dim * sizeof(float), 1, c->dim, &v);
        return v;
    }
    kn->dot[ELEM_F32](f->s->query->rotated, center, c->dim * sizeof(float), 1, c->dim, &v);
    return f->s->query->center.base - v;
}

/* Rows of n from `first` on of a posting's part that need not be scored, into left_out; returns how
 * many may be hits. */
static size_t leave_out(struct search *f, uint32_t j, uint32_t i, size_t first, size_t n,
                        uint64_t *left_out)
{
    const uint64_t *hidden = f->x->spec.postings[j].parts[i].hidden;
    size_t words = (n + 63) / 64;
    memset(left_out, 0xff, words * sizeof *left_out);
    if (n % 64)
        left_out[words - 1] = ((uint64_t)1 << n % 64) - 1;
    size_t may = f->q->match(f->q->match_ctx, j, i, first, n, left_out);
    for (size_t w = 0; w < words; w++) {
        left_out[w] = ~left_out[w];
        if (hidden)
            left_out[w] |= hidden[first / 64 + w];
    }
    f->s->stats.skipped += n - may;
    return may;
}

/* Scans rows first .. first + n of a part of posting j, all but those left out; the survivors of
 * the last slice are estimated later, by the next call or by flush(). `come` is the part if it was
 * away. */
static mn_status scan_slice(struct search *f, const struct slice *at, const uint64_t *left_out,
                            const struct ann_fetched *come)
{
    const struct ann_part *part = &f->x->spec.postings[at->posting].parts[at->part];
    struct ann_scratch *s = f->s;
    struct scanned *to = s->parts[f->live];
    to->view = come ? &come->view : &part->view;
    to->tags = come ? come->tags : NULL;
    to->away = come;
    to->posting = at->posting;
    to->part = at->part;
    to->first = at->first;
    to->g = at->g;
    to->distance2 = f->inverse_length2 != 0 ? s->query->length2 : at->g;
    to->g_noise = f->g_noise;
    query_scan(s->query, to, at->n, left_out, f->best.limit);
    f->live ^= 1;
    return finish_part(f, s->parts[f->live]);
}

/* A part of posting j. */
static mn_status scan_part(struct search *f, uint32_t j, uint32_t i, float g,
                           const struct ann_fetched *come)
{
    const struct ann_part *part = &f->x->spec.postings[j].parts[i];
    uint32_t rows = come ? come->view.n : part->view.n;
    uint64_t left_out[QUERY_SLICE / 64];
    mn_status st = MN_OK;
    for (uint32_t first = 0; !st && first < rows; first += QUERY_SLICE) {
        uint32_t n = rows - first < QUERY_SLICE ? rows - first : QUERY_SLICE;
        const struct slice at = {.posting = j, .part = i, .first = first, .n = n, .g = g};
        size_t may = f->q->match ? leave_out(f, j, i, first, n, left_out) : n;
        f->s->stats.codes += n;
        f->rows_seen += may;
        if (f->q->match && may)
            st = scan_slice(f, &at, left_out, come);
        else if (may)
            st = scan_slice(f, &at, part->hidden ? part->hidden + first / 64 : NULL, come);
    }
    return st;
}

static mn_status flush(struct search *f)
{
    f->live ^= 1; /* the part scanned last */
    mn_status st = finish_part(f, f->s->parts[f->live]);
    f->live ^= 1;
    return st;
}

/* A part that is away and was asked for. Where a part may have no row to be scored, nothing that
 * waits for the next one can wait here. */
static mn_status scan_away(struct search *f, uint32_t j, uint32_t i, float g)
{
    const struct ann_fetch *fetch = f->q->fetch;
    struct ann_fetched *come = &f->come[f->turn ^= 1];
    mn_status st = fetch->next(fetch->ctx, come, f->err);
    if (st)
        return st;
    assert(come->view.n == f->x->spec.postings[j].parts[i].view.n);
    st = scan_part(f, j, i, g, come);
    return st || !f->q->match ? st : flush(f);
}

/* Scans all parts of a posting. */
static mn_status scan_posting(struct search *f, uint32_t j, float g)
{
    const struct ann_posting *p = &f->x->spec.postings[j];
    mn_status st = f->q->tick ? f->q->tick(f->q->tick_ctx, f->err) : MN_OK;
    f->s->stats.probed++;
    g = refine(f, j, g);
    for (uint32_t i = 0; !st && i < p->n_parts; i++) {
        if (p->parts[i].view.blocks)
            st = scan_part(f, j, i, g, NULL);
        else if (p->parts[i].view.n)
            st = scan_away(f, j, i, g);
    }
    return st;
}

/* Fetches the blocks ahead that have rows to be scored. */
static INLINED void fetch_blocks(const struct posting_view *v, const uint64_t *left_out)
{
    for (uint32_t b = 0; b * POSTING_BLOCK < v->n; b++) {
        uint32_t row = b * POSTING_BLOCK;
        if (!(uint32_t)~(left_out[row / 64] >> row % 64))
            continue;
        const uint8_t *block = v->blocks + (size_t)b * v->block_bytes;
        for (uint32_t at = 0; at < v->block_bytes && at < LOT_FETCH; at += 64)
            __builtin_prefetch(block + at);
    }
}

/* Scans postings order[first, first + n) where it is known which rows to score. These are few of
 * each, lie anywhere, and cost a miss of the cache each: so the postings of a lot are all asked
 * first, their blocks fetched, and then scored. */
static mn_status scan_lot(struct search *f, size_t first, size_t n)
{
    struct ann_scratch *s = f->s;
    mn_status st = f->q->tick ? f->q->tick(f->q->tick_ctx, f->err) : MN_OK;
    size_t waiting = 0;
    for (size_t k = first; f->q->ahead && k < first + n; k++)
        f->q->ahead(f->q->match_ctx, s->order[k]);
    for (size_t k = first; k < first + n && !st; k++) {
        uint32_t j = s->order[k];
        const struct ann_posting *p = &f->x->spec.postings[j];
        if (k + 4 < first + n)
            __builtin_prefetch(&f->x->spec.postings[s->order[k + 4]]);
        if (k + 2 < first + n) {
            const char *parts = (const char *)f->x->spec.postings[s->order[k + 2]].parts;
            __builtin_prefetch(parts);
            __builtin_prefetch(parts + 64);
        }
        s->stats.probed++;
        for (uint32_t i = 0; i < p->n_parts && !st; i++) {
            const struct posting_view *v = &p->parts[i].view;
            if (!v->blocks && v->n)
                st = scan_away(f, j, i, refine(f, j, s->saved[k]));
            if (!v->blocks)
                continue;
            if (v->n > LOT_ROWS || waiting == LOT) {
                st = scan_part(f, j, i, refine(f, j, s->saved[k]), NULL);
                continue;
            }
            uint64_t *left_out = s->lot_left_out[waiting];
            size_t may = leave_out(f, j, i, 0, v->n, left_out);
            s->stats.codes += v->n;
            f->rows_seen += may;
            if (may == 0)
                continue;
            s->lot[waiting++] = (struct slice){j, i, 0, v->n, s->saved[k]};
            fetch_blocks(v, left_out);
        }
    }
    for (size_t k = 0; k < waiting && !st; k++) {
        s->lot[k].g = refine(f, s->lot[k].posting, s->lot[k].g);
        st = scan_slice(f, &s->lot[k], s->lot_left_out[k], NULL);
    }
    return st;
}

/* Distances of all centroids; of postings that were scanned INFINITY. */
static void know_all(struct search *f)
{
    const struct ann_index *x = f->x;
    struct ann_scratch *s = f->s;
    centroids_scan(x->spec.centroids, x->spec.kn, &s->query->center, s->g);
    for (size_t j = x->n; j < x->lanes; j++)
        s->g[j] = INFINITY;
    for (uint32_t i = 0; i < f->n_visited; i++) {
        s->chosen[i] = s->order[i];
        s->g[s->order[i]] = INFINITY;
    }
    for (size_t j = 0; f->q->match && j < x->n; j++)
        if (!(f->q->expect[j] > 0))
            s->g[j] = INFINITY;
    s->stats.centroids += x->n;
    f->known = (struct known){.n = x->n, .lanes = x->lanes, .sure = x->n, .mean = x->mean,
                              .reach = x->reach,
                              .count = f->q->match ? f->q->expect : x->count};
}

/* What a walk has met; its keys stand in g[]. */
static void know_met(struct search *f)
{
    struct ann_scratch *s = f->s;
    size_t n = s->walk.n;
    f->known.at = s->walk.at;
    f->known.n = n;
    f->known.lanes = (n + LANES - 1) / LANES * LANES;
    f->known.mean = s->mean;
    f->known.reach = s->reach;
    f->known.count = s->count;
    for (; n < f->known.lanes; n++)
        s->g[n] = INFINITY;
}

/* Distances of the nearest centroids, by the graph. False if it does not pay. */
static bool know_near(struct search *f)
{
    const struct ann_index *x = f->x;
    struct ann_scratch *s = f->s;
    uint64_t first = ANN_FIRST + (uint64_t)ENOUGH * f->q->k / (x->rows / x->n + 1);
    if (first + BEAM > GRAPH_MAX_BEAM ||
        !centroid_walk_begin(&s->walk, x->spec.centroids->graph, x->spec.kn, &s->query->center,
                             x->reaches, (uint32_t)first + BEAM, s->g))
        return false;
    know_met(f);
    first += BEAM / 2;
    f->known.sure = (uint32_t)(first < f->known.n ? first : f->known.n);
    return true;
}

/* Takes the nearest posting out of g[] into order[]. */
static void take_nearest(struct search *f)
{
    struct ann_scratch *s = f->s;
    if (f->n_visited >= f->known.sure)
        know_all(f);
    uint32_t i = (uint32_t)f->x->spec.kn->least(s->g, f->known.lanes);
    uint32_t j = f->known.at ? f->known.at[i] : i;
    float g = s->g[i];
    assert(j < f->x->n && g < INFINITY);
    s->chosen[f->n_visited] = i;
    s->saved[f->n_visited] = g;
    s->order[f->n_visited++] = j;
    s->g[i] = INFINITY;
}

/* How many more of the nearest postings the first phase wants, about, where rows to score are
 * known: LOT at most. */
static size_t lot_wanted(const struct search *f)
{
    double each = f->n_visited ? (double)f->rows_seen / (double)f->n_visited : 1;
    double wanted = (double)ENOUGH * f->q->k - (double)f->rows_seen;
    size_t n = wanted > 0 ? (size_t)(wanted / (each > 0.1 ? each : 0.1)) + 1 : 1;
    n = f->n_visited == 0 ? ANN_FIRST : n;
    return n < LOT ? n : LOT;
}

/* Back to g[]: those taken, but for the first n. */
static void leave(struct search *f, uint32_t n)
{
    struct ann_scratch *s = f->s;
    while (f->n_visited > n) {
        f->n_visited--;
        s->g[s->chosen[f->n_visited]] = s->saved[f->n_visited];
    }
}

/* Scans the nearest postings, one after the other, until it is enough, or `lot` of them: so many
 * are asked for together where parts are away. */
static mn_status scan_nearest(struct search *f, size_t lot, bool (*enough)(const struct search *f))
{
    const struct ann_fetch *fetch = f->x->away ? f->q->fetch : NULL;
    struct ann_scratch *s = f->s;
    uint32_t first = f->n_visited, n;
    mn_status st = MN_OK;
    lot = f->q->match ? lot_wanted(f) : fetch ? lot : 1;
    for (size_t i = 0; i < lot && f->n_visited < f->n_all; i++)
        take_nearest(f);
    uint32_t end = f->n_visited;
    if (fetch)
        st = fetch->begin(fetch->ctx, s->order + first, end - first, f->err);
    if (f->q->match) {
        st = st ? st : scan_lot(f, first, end - first);
        return st ? st : flush(f);
    }
    for (n = first; !st && n < end && (n == first || !enough(f)); n++) {
        st = scan_posting(f, s->order[n], s->saved[n]);
        f->n_visited = n + 1; /* of which enough() knows */
        if (!st)
            st = flush(f);
    }
    f->n_visited = end;
    leave(f, n);
    return st;
}

/* Of the first phase. */
static bool is_begun(const struct search *f)
{
    return f->n_visited == f->n_all ||
           (f->n_visited >= ANN_FIRST && f->best.limit < INFINITY &&
            f->rows_seen >= (uint64_t)ENOUGH * f->q->k);
}

static mn_status first_phase(struct search *f)
{
    mn_status st = MN_OK;
    while (!st && !is_begun(f))
        st = scan_nearest(f, ANN_FIRST, is_begun);
    best_settle(&f->best);
    return st;
}

/* Whether k rows were found, or nothing is left to scan. */
static bool is_done(const struct search *f)
{
    return f->best.limit < INFINITY || f->n_visited == f->n_all;
}

/* The nearest that the plan left out. */
static mn_status widen(struct search *f)
{
    uint32_t before = f->n_visited;
    mn_status st = scan_nearest(f, WIDEN, is_done);
    f->s->stats.widened += f->n_visited - before;
    return st;
}

/* Sorts chosen[n] by falling weight into order[] behind the postings visited, in BUCKETS classes
 * of the weight's logarithm: its bits. */
static void sort_by_weight(struct search *f, size_t n, float cut)
{
    struct ann_scratch *s = f->s;
    uint32_t start[BUCKETS + 1] = {0};
    const float one = 1;
    int32_t most, least;
    memcpy(&most, &one, sizeof most);
    memcpy(&least, &cut, sizeof least);
    float scale = ((float)BUCKETS - 0.5f) / ((float)(most - least) + 65536);
    for (size_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, &s->weight[s->chosen[i]], sizeof bits);
        float at = (float)(most - bits) * scale;
        uint32_t b = at < 0 ? 0 : at > BUCKETS - 1 ? BUCKETS - 1 : (uint32_t)at;
        s->bucket[i] = (uint8_t)b;
        start[b + 1]++;
    }
    for (size_t b = 0; b < BUCKETS; b++)
        start[b + 1] += start[b];
    for (size_t i = 0; i < n; i++) {
        uint32_t to = f->n_visited + start[s->bucket[i]]++, from = s->chosen[i];
        s->order[to] = f->known.at ? f->known.at[from] : from;
        s->saved[to] = s->g[from];
        s->g[from] = INFINITY;
    }
}

/* Weights of what is known, into weight[]; returns their sum over all rows. */
static float weigh(struct search *f, float sigma)
{
    const struct known *k = &f->known;
    /* exp(-s^2 / (2 sigma^2)) = 2^(-rate s^2) */
    struct kernel_weigh w = {.g = f->s->g, .m = k->mean, .r = k->reach, .count = k->count,
                             .n = k->lanes, .limit = f->best.limit,
                             .rate = 0.5f * 1.442695f / (sigma * sigma),
                             .inv = f->inverse_length2, .out = f->s->weight};
    return f->x->spec.kn->weigh(&w);
}

/* What weigh() reads of the postings that a walk has met. */
static void gather_met(struct search *f)
{
    struct ann_scratch *s = f->s;
    size_t i = 0;
    for (; i < f->known.n; i++) {
        const struct centroid_reach *r = &f->x->reaches[f->known.at[i]];
        s->mean[i] = r->m;
        s->reach[i] = r->r;
        s->count[i] = r->count;
    }
    for (; i < f->known.lanes; i++) {
        s->mean[i] = 1e30f;
        s->reach[i] = s->count[i] = 0;
    }
}

/* Puts the distances of what was scanned back into g[], or takes them out. */
static void restore_scanned(struct search *f, bool back)
{
    struct ann_scratch *s = f->s;
    for (uint32_t i = 0; i < f->n_visited; i++)
        s->g[s->chosen[i]] = back ? s->saved[i] : INFINITY;
}

/* How many a walk may follow before a scan of all is cheaper. It meets about 12 for each, at 25 ns
 * and 0.05 ns a byte, where a scan takes 0.04 ns a byte (2-core Xeon, codes beyond L2). */
static uint32_t worth_following(const struct ann_index *x)
{
    return (uint32_t)(x->n / (12 * (25 / (0.04 * x->spec.rabitq->dim) + 1.25))) + BEAM;
}

/* Meets the postings that may be chosen. False if that does not pay. */
static bool know_chosen(struct search *f, const struct ann_knobs *knobs)
{
    struct ann_scratch *s = f->s;
    gather_met(f);
    float cut = fmaxf(weigh(f, knobs->sigma) * knobs->lambda, FLT_MIN);
    struct centroid_rule rule = {.limit = f->best.limit, .most = worth_following(f->x),
                                 .bar = cut < 1 ? knobs->sigma * sqrtf(-2 * logf(cut)) : 0};
    if (f->inverse_length2 != 0)
        rule.length = sqrtf(s->query->length2);
    if (!centroid_walk_follow(&s->walk, &rule))
        return false;
    know_met(f);
    gather_met(f);
    s->stats.centroids += s->walk.n;
    return true;
}

/* Leaves those of chosen[n] that may hold hits; refuses the search if they are to hold too many. */
static size_t drop_barren(struct search *f, size_t n)
{
    const float *expect = f->q->expect;
    struct ann_scratch *s = f->s;
    float rows = 0;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        rows += expect[s->chosen[i]];
        s->chosen[kept] = s->chosen[i];
        kept += expect[s->chosen[i]] > 0;
    }
    s->stats.refused = f->q->most > 0 && rows > f->q->most;
    return kept;
}

/* The density rule: how many postings it puts into order[], behind those visited. */
static size_t choose(struct search *f, const struct ann_knobs *knobs)
{
    struct ann_scratch *s = f->s;
    restore_scanned(f, true);
    if (f->known.at && !know_chosen(f, knobs)) {
        know_all(f);
        restore_scanned(f, true);
    }
    s->mass = weigh(f, knobs->sigma);
    float cut = s->mass * knobs->lambda;
    cut = cut > 1 ? 1 : cut > FLT_MIN ? cut : 0; /* 0: all of them */
    restore_scanned(f, false);
    for (uint32_t i = 0; i < f->n_visited; i++)
        s->weight[s->chosen[i]] = -1;
    s->weighed = f->known;
    size_t n = f->x->spec.kn->filter(s->weight, NULL, f->known.n, 0, -1, -cut, s->chosen);
    if (f->q->match)
        n = drop_barren(f, n);
    sort_by_weight(f, n, cut);
    return n;
}

/* Where postings lie is random to the hardware: their descriptions, three and two ahead, and the
 * codes of the next are fetched ahead. */
static INLINED void fetch_ahead(const struct search *f, const uint32_t *order, size_t left)
{
    const struct ann_posting *postings = f->x->spec.postings;
    if (left > 3)
        __builtin_prefetch(&postings[order[3]]);
    if (left > 2) {
        const char *p = (const char *)postings[order[2]].parts;
        __builtin_prefetch(p);
        __builtin_prefetch(p + 64);
    }
    if (left > 1 && postings[order[1]].n_parts && postings[order[1]].parts->view.blocks) {
        const struct posting_view *v = &postings[order[1]].parts->view;
        size_t bytes = (v->n + POSTING_BLOCK - 1) / POSTING_BLOCK * v->block_bytes;
        bytes = bytes < AHEAD ? bytes : AHEAD;
        for (size_t at = 0; at < bytes; at += 64)
            __builtin_prefetch(v->blocks + at);
    }
}

static mn_status scan_chosen(struct search *f, size_t n)
{
    const struct ann_fetch *fetch = f->x->away && n ? f->q->fetch : NULL;
    struct ann_scratch *s = f->s;
    mn_status st = fetch ? fetch->begin(fetch->ctx, s->order + f->n_visited, n, f->err) : MN_OK;
    for (size_t i = 0; !st && f->q->match && i < n; i += LOT) {
        size_t now = n - i < LOT ? n - i : LOT;
        st = scan_lot(f, f->n_visited, now);
        f->n_visited += (uint32_t)now;
    }
    for (size_t i = 0; !st && !f->q->match && i < n; i++) {
        fetch_ahead(f, s->order + f->n_visited, n - i);
        uint32_t at = f->n_visited++;
        st = scan_posting(f, s->order[at], s->saved[at]);
    }
    return st ? st : flush(f);
}

/* ---- Exact keys ------------------------------------------------------------------------------ */

static bool nearer(const struct candidate *a, const struct candidate *b)
{
    return a->bound < b->bound;
}

static void sift_down(struct candidate *c, size_t n, size_t at)
{
    const struct candidate moving = c[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && nearer(&c[child + 1], &c[child]))
            child++;
        if (!nearer(&c[child], &moving))
            break;
        c[at] = c[child];
    }
    c[at] = moving;
}

/* Takes the candidate of least bound out of the heap c[n]. */
static struct candidate take_first(struct candidate *c, size_t *n)
{
    struct candidate first = c[0];
    c[0] = c[--*n];
    if (*n)
        sift_down(c, *n, 0);
    return first;
}

static void enter(struct search *f, int64_t id, double key)
{
    f->gone |= isnan(key);
    if (!isnan(key) && topk_would_take(&f->top, key, id))
        topk_push(&f->top, key, id);
}

/* Up to `most` candidates that may still be hits, from the heap. */
static mn_status next_batch(struct search *f, size_t most, struct ann_candidate *batch, size_t *n)
{
    *n = 0;
    while (*n < most && f->n) {
        if (f->top.n == f->top.k && (double)f->candidates[0].bound > topk_limit(&f->top))
            break;
        struct candidate c = take_first(f->candidates, &f->n);
        bool admitted = true;
        if (f->q->admit && c.asked == NOT_ASKED) {
            mn_status st = ask(f, &c, &admitted);
            if (st)
                return st;
        }
        if (!admitted)
            continue;
        batch[(*n)++] = (struct ann_candidate){id_of(f, &c), c.posting, c.part, c.slot, c.bound,
                                               c.estimate};
    }
    return MN_OK;
}

/* Turns the candidates into results; none are left. */
static mn_status rerank(struct search *f)
{
    const struct ann_query *q = f->q;
    struct ann_candidate batch[ANN_MAX_BATCH];
    double keys[ANN_MAX_BATCH];
    size_t most = q->batch ? q->batch : ANN_DEFAULT_BATCH, n;
    best_settle(&f->best);
    drop_behind(f, nextafterf(f->best.limit, INFINITY));
    f->s->stats.candidates += f->n;
    for (size_t i = f->n / 2; i-- > 0;)
        sift_down(f->candidates, f->n, i);
    for (;;) {
        mn_status st = next_batch(f, most, batch, &n);
        if (st || n == 0) {
            f->n = 0;
            if (f->top.n == f->top.k && q->rerank)
                best_cap(&f->best, nextafterf((float)topk_limit(&f->top), INFINITY));
            return st;
        }
        if (q->rerank) {
            st = q->rerank(q->rerank_ctx, batch, n, keys, f->err);
            if (st)
                return st;
            f->s->stats.reranked += n;
        }
        for (size_t i = 0; i < n; i++)
            enter(f, batch[i].id, q->rerank ? keys[i] : (double)batch[i].estimate);
    }
}

/* ---- The search ------------------------------------------------------------------------------ */

static mn_status check(const struct ann_index *x, const struct ann_scratch *s,
                       const struct ann_query *q, mn_error *err)
{
    uint32_t dim = x->spec.rabitq->dim;
    if (q->k == 0 || q->k > s->max_k)
        return mn_fail(err, MN_INVALID, "k is %u; it may be 1 to %u", q->k, s->max_k);
    if (q->batch > ANN_MAX_BATCH)
        return mn_fail(err, MN_INVALID, "batch is %u; it may be at most %d", q->batch,
                       ANN_MAX_BATCH);
    if (dim > s->max_dim || x->n > s->max_postings)
        return mn_fail(err, MN_INVALID,
                       "an index of dim %u with %u postings does not fit a scratch for %u and %u",
                       dim, x->n, s->max_dim, s->max_postings);
    if (x->away && !q->fetch)
        return mn_fail(err, MN_INVALID, "parts of the index are away, and nobody fetches them");
    if (x->spec.twice && !s->met.places)
        return mn_fail(err, MN_INVALID, "the scratch was not made fit for rows that stand twice");
    const struct ann_knobs *n = &q->knobs;
    if (!(n->lambda >= 0) || !(n->sigma >= 0) || !(n->e1 >= 0) || !(n->e2 >= 0))
        return mn_fail(err, MN_INVALID, "a knob is negative: lambda %g, sigma %g, e1 %g, e2 %g",
                       (double)n->lambda, (double)n->sigma, (double)n->e1, (double)n->e2);
    return MN_OK;
}

/* 1 of the head comment. */
static mn_status begin(struct search *f, const struct ann_knobs *knobs)
{
    const struct ann_index *x = f->x;
    struct query *q = f->s->query;
    bool l2 = x->spec.rabitq->metric == ANN_L2;
    query_prepare(q, x->spec.rabitq, f->q->vector, knobs->e1, knobs->e2);
    if (!isfinite(q->length2) || !isfinite(q->abs_sum))
        return mn_fail(f->err, MN_INVALID, "elements of the query are not finite, or too large");
    f->inverse_length2 = l2 ? 0 : 1 / fmaxf(q->length2, FLT_MIN);
    /* rounding of centroids and of the query: centroids.c */
    f->g_noise = x->spec.centroids->exact
                     ? 0
                     : (l2 ? 2.0f : 1.0f) * 0.29f * sqrtf(q->length2) * x->spec.centroids->noise;
    row_set_clear(&f->s->met);
    /* Where hits are sparse they are farther than a walk looks. */
    if (!x->spec.centroids->graph || f->again || !(knobs->lambda > 0) || f->q->match ||
        !know_near(f))
        know_all(f);
    for (size_t i = 0; i < f->q->n_pending; i++) {
        float key = (float)f->q->pending[i].distance;
        if (key < f->best.limit && !f->again)
            best_push(&f->best, key);
        enter(f, f->q->pending[i].id, f->q->pending[i].distance);
    }
    return MN_OK;
}

/* Rows that turned out to be gone leave room for any others: all are looked at, nearest postings
 * first, with no threshold but k exact keys. */
static mn_status search_again(struct search *f, const struct ann_knobs *knobs)
{
    topk_init(&f->top, f->s->hits, f->q->k);
    best_init(&f->best, f->s->keys, f->q->k);
    f->n_visited = 0;
    f->again = true;
    mn_status st = begin(f, knobs);
    while (!st && f->top.n < f->top.k && f->n_visited < f->n_all) {
        st = widen(f);
        if (!st)
            st = rerank(f);
    }
    return st;
}

static mn_status run(struct search *f, const struct ann_knobs *knobs)
{
    mn_status st = begin(f, knobs);
    if (!st)
        st = first_phase(f);
    if (!st && f->n_visited < f->n_all) {
        size_t n = choose(f, knobs);
        if (f->s->stats.refused)
            return MN_OK;
        st = scan_chosen(f, n);
    }
    while (!st && !is_done(f)) {
        if (f->known.at)
            know_all(f);
        st = widen(f);
    }
    if (!st)
        st = rerank(f);
    if (!st && f->top.n < f->top.k && f->gone)
        st = search_again(f, knobs);
    return st;
}

mn_status ann_search(const struct ann_index *x, struct ann_scratch *s, const struct ann_query *q,
                     mn_error *err)
{
    s->n_hits = 0;
    s->stats = (struct ann_stats){0};
    s->mass = 0;
    mn_status st = check(x, s, q, err);
    if (st)
        return st;
    struct ann_knobs knobs = q->knobs;
    if (knobs.sigma == 0) /* few dimensions: cosines of random directions spread by 1 / sqrt(dim) */
        knobs.sigma = fmaxf(ANN_SIGMA, 1 / sqrtf((float)x->spec.rabitq->dim));
    knobs.e1 = knobs.e1 > 0 ? knobs.e1 : ANN_E1;
    knobs.e2 = knobs.e2 > 0 ? knobs.e2 : ANN_E2;
    struct search f = {.x = x, .s = s, .q = q, .err = err, .candidates = s->candidates,
                       .room = candidate_room(q->k), .n_all = x->n};
    for (uint32_t j = 0; q->match && j < x->n; j++)
        s->stats.barren += !(q->expect[j] > 0);
    f.n_all -= (uint32_t)s->stats.barren;
    best_init(&f.best, s->keys, q->k);
    topk_init(&f.top, s->hits, q->k);
    s->parts[0]->n = s->parts[1]->n = 0;
    st = run(&f, &knobs);
    if (st || s->stats.refused)
        return st;
    hits_sort(s->hits, f.top.n);
    s->n_hits = f.top.n;
    return MN_OK;
}

/* The nearest centroid of the query, by a walk. False if there is none to walk, or it does not do:
 * the greatest product is missed too often. */
static bool assign_by_graph(const struct ann_index *x, struct ann_scratch *s, uint32_t *posting)
{
    const struct centroids *c = x->spec.centroids;
    struct centroid_walk *w = &s->walk;
    if (!c->graph || c->metric != ANN_L2 ||
        !centroid_walk_begin(w, c->graph, x->spec.kn, &s->query->center, NULL, ASSIGN_BEAM, s->g))
        return false;
    *posting = w->at[w->beam[0].entry];
    return true;
}

void ann_assign(const struct ann_index *x, struct ann_scratch *s, const float *vectors, size_t n,
                uint32_t *postings)
{
    uint32_t dim = x->spec.rabitq->dim;
    assert(dim <= s->max_dim && x->n <= s->max_postings);
    for (size_t i = 0; i < n; i++, vectors += dim) {
        query_prepare(s->query, x->spec.rabitq, vectors, ANN_E1, ANN_E2);
        if (assign_by_graph(x, s, &postings[i]))
            continue;
        centroids_scan(x->spec.centroids, x->spec.kn, &s->query->center, s->g);
        postings[i] = (uint32_t)x->spec.kn->least(s->g, x->lanes);
    }
}
