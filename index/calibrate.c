/*
 * Finding lambda for a recall.
 *
 * One search a sample row, at a lambda so small that hardly a neighbour is missed, gives all
 * targets at once: a true neighbour that was found in posting j would have been found at any lambda
 * up to the share weight_j / S that j had when postings were chosen, since the choice depends on
 * the first postings only (ann.c). So recall(lambda) is the part of all true neighbours that were
 * found and whose posting's share is at least lambda. It is searched for the targets by bisection,
 * so lambda falls as the target rises. What the bounds of codes lose at the
 * small lambda they lose here too, a little less at a larger one.
 *
 * How exact it is. The recall of single queries is spread widely (deviation 0.1 to 0.25), so the
 * mean over 1,000 rows has a deviation of 0.003 to 0.008. A lambda must reach its target with that
 * deviation, measured, to spare; then one asked for a recall falls short of it by 0.01 once in some
 * hundred calibrations. No bias was found: with 8,000 rows and 8,000 queries, recalls asked and
 * got were equal within 0.001. Rows lie in denser places than queries may, though: queries unlike
 * the rows get less.
 *
 * Estimates. Without exact keys hits are the rows of least estimates, and some true neighbours are
 * not among them however much is probed. `most` tells what codes can give; a target beyond that has
 * the lambda that comes within LEAST_GAIN of it.
 */
#include "index/calibrate.h"

#include "storage/base/error.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const double tuning_targets[TUNING_TARGETS] = {0.5,  0.7,  0.8,  0.85, 0.9,   0.93,
                                               0.95, 0.97, 0.98, 0.99, 0.995, 0.999};

#define PILOT 3e-6f    /* lambda of the first try */
#define ENOUGH 0.9985  /* recall at which it is small enough */
#define LEAST_GAIN 0.002 /* of recall, for which estimates are not worth all the probes there are */

enum { PILOT_ROWS = 100, PILOT_TRIES = 4 };

/* Where a row was found. */
struct place {
    int64_t id;
    uint32_t posting;
};

struct run {
    const struct ann_sample *sample;
    const struct ann_index *x;
    struct ann_scratch *s;
    mn_error *err;
    int64_t self;          /* left out */
    struct place *places;  /* [room] of rows that were reranked */
    size_t n_places, room;
    float *shares;         /* [n][k] of true neighbours; -1: not found */
    size_t n_found;
    uint64_t wanted;       /* true neighbours there are */
};

static enum ann_verdict not_self(void *ctx, const struct ann_candidate *c, mn_error *err)
{
    const struct run *r = ctx;
    (void)err;
    return c->id == r->self ? ANN_REJECT : ANN_ADMIT;
}

/* Notes where candidates are, and hands on. */
static mn_status note_places(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                             mn_error *err)
{
    struct run *r = ctx;
    for (size_t i = 0; i < n; i++) {
        if (r->n_places < r->room)
            r->places[r->n_places++] = (struct place){c[i].id, c[i].posting};
        keys[i] = (double)c[i].estimate;
    }
    return r->sample->rerank ? r->sample->rerank(r->sample->rerank_ctx, c, n, keys, err) : MN_OK;
}

static int by_id(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* With exact keys a hit is as good as the k-th neighbour's; estimates go by id. */
static bool is_true(const struct run *r, size_t i, const mn_hit *hit)
{
    const mn_hit *truth = r->sample->truth + i * r->sample->k;
    uint32_t n = r->sample->found[i];
    if (r->sample->rerank)
        return hit->distance <= truth[n - 1].distance + 1e-6 * fabs(truth[n - 1].distance);
    for (uint32_t j = 0; j < n; j++)
        if (truth[j].id == hit->id)
            return true;
    return false;
}

static mn_status search_one(struct run *r, size_t i, float lambda)
{
    const struct ann_sample *p = r->sample;
    const struct rabitq *q = ann_index_rabitq(r->x);
    struct ann_query query = {.vector = p->vectors + i * q->dim, .k = p->k,
                              .knobs = {.lambda = lambda}, .admit = not_self, .admit_ctx = r,
                              .rerank = note_places, .rerank_ctx = r, .tick = p->tick,
                              .tick_ctx = p->tick_ctx, .fetch = p->fetch};
    const mn_hit *hits;
    float *shares = r->shares + i * p->k;
    for (uint32_t j = 0; j < p->k; j++)
        shares[j] = -1;
    if (p->found[i] == 0)
        return MN_OK;
    if (p->next)
        p->next(p->rerank_ctx, i);
    r->self = p->ids[i];
    r->n_places = 0;
    mn_status st = ann_search(r->x, r->s, &query, r->err);
    if (st)
        return st;
    qsort(r->places, r->n_places, sizeof *r->places, by_id);
    size_t n = ann_hits(r->s, &hits), counted = 0;
    for (size_t h = 0; h < n && counted < p->found[i]; h++) {
        const struct place key = {hits[h].id, 0};
        const struct place *at =
            bsearch(&key, r->places, r->n_places, sizeof *r->places, by_id);
        if (!is_true(r, i, &hits[h]))
            continue;
        shares[counted++] = at ? ann_share(r->s, at->posting) : 0;
    }
    r->n_found += counted;
    r->wanted += p->found[i];
    return MN_OK;
}

static mn_status search_some(struct run *r, size_t step, float lambda)
{
    mn_status st = MN_OK;
    r->n_found = 0;
    r->wanted = 0;
    for (size_t i = 0; !st && i < r->sample->n; i += step)
        st = search_one(r, i, lambda);
    return st;
}

static double recall_of(const struct run *r)
{
    return r->wanted ? (double)r->n_found / (double)r->wanted : 1;
}

/* A lambda at which hardly a neighbour is missed for want of probes. */
static mn_status find_pilot(struct run *r, float *lambda)
{
    size_t step = r->sample->n / PILOT_ROWS ? r->sample->n / PILOT_ROWS : 1;
    double before = 0;
    *lambda = PILOT;
    for (int i = 0; i < PILOT_TRIES; i++) {
        mn_status st = search_some(r, step, *lambda);
        if (st)
            return st;
        double recall = recall_of(r);
        if (recall >= ENOUGH || recall < before + 0.0005)
            break;
        before = recall;
        *lambda /= 8;
    }
    return MN_OK;
}

/* Recall at a lambda, less the deviation of its mean. */
static double safe_recall(const struct run *r, float lambda)
{
    double sum = 0, squares = 0, n = 0;
    for (size_t i = 0; i < r->sample->n; i++) {
        const float *shares = r->shares + i * r->sample->k;
        if (r->sample->found[i] == 0)
            continue;
        double found = 0;
        for (uint32_t j = 0; j < r->sample->found[i]; j++)
            found += shares[j] >= lambda;
        found /= r->sample->found[i];
        sum += found;
        squares += found * found;
        n++;
    }
    if (n == 0)
        return 1;
    double mean = sum / n, spread = squares / n - mean * mean;
    return mean - sqrt((spread > 0 ? spread : 0) / n);
}

/* The largest lambda of [pilot, most] that reaches the target, to a thousandth. */
static float lambda_of(const struct run *r, double target, float pilot, float most)
{
    double low = log((double)pilot), high = log((double)most);
    if (safe_recall(r, most) >= target)
        return most;
    while (high - low > 1e-3) {
        double middle = (low + high) / 2;
        if (safe_recall(r, (float)exp(middle)) >= target)
            low = middle;
        else
            high = middle;
    }
    return (float)exp(low);
}

static void set_entry(struct ann_tuning *t, const struct run *r, float pilot)
{
    uint32_t at = 0, k = r->sample->k;
    while (at < t->n_k && t->k[at] < k)
        at++;
    if (at == t->n_k || t->k[at] != k) {
        size_t behind = t->n_k - at;
        memmove(&t->k[at + 1], &t->k[at], behind * sizeof *t->k);
        memmove(&t->most[at + 1], &t->most[at], behind * sizeof *t->most);
        memmove(&t->lambda[at + 1], &t->lambda[at], behind * sizeof *t->lambda);
        t->n_k++;
    }
    t->k[at] = k;
    t->most[at] = (float)recall_of(r);
    double reach = r->sample->rerank ? 1 : safe_recall(r, pilot) - LEAST_GAIN;
    for (int i = 0; i < TUNING_TARGETS; i++)
        t->lambda[at][i] = lambda_of(r, fmin(tuning_targets[i], reach), pilot,
                                     i ? t->lambda[at][i - 1] : 1);
}

static bool has_k(const struct ann_tuning *t, uint32_t k)
{
    for (uint32_t i = 0; i < t->n_k; i++)
        if (t->k[i] == k)
            return true;
    return false;
}

mn_status ann_calibrate(struct mn_alloc *a, const struct ann_index *x, struct ann_scratch *s,
                        const struct ann_sample *sample, struct ann_tuning *t, mn_error *err)
{
    size_t shares;
    if (sample->n == 0 || sample->k == 0)
        return mn_fail(err, MN_INVALID, "calibration needs rows, not %zu for %u hits", sample->n,
                       sample->k);
    if (t->n_k == TUNING_MAX_K && !has_k(t, sample->k))
        return mn_fail(err, MN_FULL, "a tuning holds %d values of k; %u would be one more",
                       TUNING_MAX_K, sample->k);
    struct run r = {.sample = sample, .x = x, .s = s, .err = err,
                    .room = 8192 + 4 * (size_t)sample->k};
    float pilot;
    mn_status st = MN_OK;
    r.places = mn_alloc_array(a, r.room, sizeof *r.places, MN_TAG_SEARCH);
    if (mn_mul(sample->n, sample->k, &shares))
        r.shares = mn_alloc_array(a, shares, sizeof *r.shares, MN_TAG_SEARCH);
    if (!r.places || !r.shares)
        st = mn_fail(err, MN_NOMEM, "no memory to calibrate on %zu rows for %u hits", sample->n,
                     sample->k);
    if (!st)
        st = find_pilot(&r, &pilot);
    if (!st)
        st = search_some(&r, 1, pilot);
    if (!st)
        set_entry(t, &r, pilot);
    mn_free(a, r.places);
    mn_free(a, r.shares);
    return st;
}

/* ---- Using it -------------------------------------------------------------------------------- */

/* Scale on which recalls are about equally far apart in work. */
static double scale_of(double recall)
{
    return -log(1 - (recall > 0.9999 ? 0.9999 : recall));
}

/* log lambda of one k. */
static double log_lambda(const float *lambda, double recall)
{
    double at = scale_of(recall);
    int i = 1;
    while (i < TUNING_TARGETS - 1 && scale_of(tuning_targets[i]) < at)
        i++;
    double low = scale_of(tuning_targets[i - 1]), high = scale_of(tuning_targets[i]);
    double a = log((double)lambda[i - 1]), b = log((double)lambda[i]);
    double part = (at - low) / (high - low);
    return a + (b - a) * (part < 0 ? 0 : part);
}

struct ann_knobs ann_tuning_knobs(const struct ann_tuning *t, uint32_t k, double recall)
{
    struct ann_knobs knobs = {.lambda = recall < 0.95 ? 5e-6f : 1e-6f};
    recall = recall < 0.5 ? 0.5 : recall;
    if (recall > 0.99) { /* the bounds of codes cost recall too, about 0.002 */
        knobs.e1 = ANN_E1 + 0.5f;
        knobs.e2 = ANN_E2 + 0.5f;
    }
    if (t->n_k == 0)
        return knobs;
    uint32_t i = 0;
    while (i + 1 < t->n_k && t->k[i + 1] <= k)
        i++;
    double v = log_lambda(t->lambda[i], recall);
    if (k > t->k[i] && i + 1 < t->n_k) {
        /* how it runs between two k is not known: the careful one */
        v = fmin(v, log_lambda(t->lambda[i + 1], recall));
    } else if (k > t->k[i] && i > 0) { /* beyond the last: on as before, if that was down */
        double before = log_lambda(t->lambda[i - 1], recall);
        double slope = (v - before) / log((double)t->k[i] / t->k[i - 1]);
        v += fmin(slope, 0) * log((double)k / t->k[i]);
    }
    knobs.lambda = (float)exp(v);
    return knobs;
}

/* ---- Bytes: u32 magic, u16 version, u16 n_k, for each k: u32 k, f32 most, f32 lambda[] ------- */

#define TUNING_MAGIC UINT32_C(0x4e55544d) /* "MTUN" */

enum { TUNING_VERSION = 1, ENTRY = 8 + 4 * TUNING_TARGETS };

static_assert(8 + TUNING_MAX_K * ENTRY <= TUNING_BYTES, "a full tuning fits");

void ann_tuning_put(const struct ann_tuning *t, uint8_t out[TUNING_BYTES])
{
    const uint32_t magic = TUNING_MAGIC;
    const uint16_t version = TUNING_VERSION, n = (uint16_t)t->n_k;
    memset(out, 0, TUNING_BYTES);
    memcpy(out, &magic, 4);
    memcpy(out + 4, &version, 2);
    memcpy(out + 6, &n, 2);
    for (uint32_t i = 0; i < t->n_k; i++) {
        uint8_t *to = out + 8 + i * ENTRY;
        memcpy(to, &t->k[i], 4);
        memcpy(to + 4, &t->most[i], 4);
        memcpy(to + 8, t->lambda[i], sizeof t->lambda[i]);
    }
}

mn_status ann_tuning_get(const uint8_t *bytes, size_t len, struct ann_tuning *t, mn_error *err)
{
    uint32_t magic;
    uint16_t version, n;
    *t = (struct ann_tuning){0};
    if (len != TUNING_BYTES)
        return mn_fail(err, MN_CORRUPT, "tuning: %zu bytes, not %d", len, TUNING_BYTES);
    memcpy(&magic, bytes, 4);
    memcpy(&version, bytes + 4, 2);
    memcpy(&n, bytes + 6, 2);
    if (magic != TUNING_MAGIC)
        return mn_fail(err, MN_CORRUPT, "tuning: begins with %08x, not with its magic", magic);
    if (version > TUNING_VERSION)
        return mn_fail(err, MN_NEWER, "tuning: version %u; this library reads %d", version,
                       TUNING_VERSION);
    if (version != TUNING_VERSION || n > TUNING_MAX_K)
        return mn_fail(err, MN_CORRUPT, "tuning: version %u with %u entries", version, n);
    struct ann_tuning read = {.n_k = n};
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *from = bytes + 8 + i * ENTRY;
        memcpy(&read.k[i], from, 4);
        memcpy(&read.most[i], from + 4, 4);
        memcpy(read.lambda[i], from + 8, sizeof read.lambda[i]);
        bool ok = read.k[i] > (i ? read.k[i - 1] : 0) && isfinite(read.most[i]);
        for (int j = 0; ok && j < TUNING_TARGETS; j++)
            ok = read.lambda[i][j] > 0 && read.lambda[i][j] <= (j ? read.lambda[i][j - 1] : 1);
        if (!ok)
            return mn_fail(err, MN_CORRUPT, "tuning: entry %u (k %u) is not in order", i,
                           read.k[i]);
    }
    *t = read;
    return MN_OK;
}
