/* Peers of `ann`: their builds, their knobs, and which setting is the cheapest at a recall.
 *
 * A build is swept curve by curve: along a curve one knob grows (ef, nprobe) and with it recall and
 * cost. For each wanted recall the knob's values around it are searched, by growing steps and then
 * by halving; the cost at the recall is interpolated between them. A curve that costs more than the
 * best one before it has reached the recall is given up. */
#include "bench/sweep.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {"hnswlib", "faiss-ivfpqfs", "usearch", "zvec", "lancedb", NULL};

const char *const *peer_names(void)
{
    return names;
}

const char *peer_file(const char *peer)
{
    static const char *const files[] = {"hnswlib_ann", "faiss_ivf", "usearch_ann", "zvec_ann",
                                        "lancedb_ann"};
    for (size_t i = 0; names[i]; i++)
        if (strcmp(names[i], peer) == 0)
            return files[i];
    return NULL;
}

static struct build *add(struct build *builds, size_t *n, const char *system, uint64_t first,
                         uint64_t most)
{
    struct build *b = &builds[(*n)++];
    memset(b, 0, sizeof *b);
    snprintf(b->system, sizeof b->system, "%s", system);
    b->knob_first = first;
    b->knob_most = most;
    return b;
}

static void add_curve(struct build *b, const char *fixed)
{
    snprintf(b->curves[b->n_curves++].fixed, sizeof b->curves[0].fixed, "%s", fixed);
}

/* nlist of 1/2, 1, 2 and 4 times the root of n, residual or not, four amounts of refinement. */
static size_t faiss_builds(size_t n, struct build *builds)
{
    static const char *const curves[] = {
        "k_factor=5,nprobe=", "k_factor=10,nprobe=", "k_factor=20,nprobe=", "k_factor=40,nprobe="};
    static const double times[] = {0.5, 1, 2, 4};
    size_t count = 0;
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        uint64_t nlist = (uint64_t)(times[i] * sqrt((double)n) + 0.5);
        for (int residual = 0; residual < 2; residual++) {
            struct build *b = add(builds, &count, "faiss-ivfpqfs", 4, nlist ? nlist : 1);
            snprintf(b->text, sizeof b->text, "nlist=%" PRIu64 ",by_residual=%d", nlist ? nlist : 1,
                     residual);
            for (size_t c = 0; c < sizeof curves / sizeof *curves; c++)
                add_curve(b, curves[c]);
        }
    }
    return count;
}

size_t builds_of(const char *peer, size_t n, uint32_t dim, struct build *builds, size_t room)
{
    size_t count = 0;
    struct build *b;
    uint64_t lists = (uint64_t)sqrt((double)n);
    if (room < 16)
        return 0;
    if (strcmp(peer, "faiss-ivfpqfs") == 0)
        return faiss_builds(n, builds);
    if (strcmp(peer, "hnswlib") == 0 || strcmp(peer, "usearch") == 0) {
        b = add(builds, &count, peer, 10, 10000);
        snprintf(b->text, sizeof b->text, "M=16,efC=200");
        add_curve(b, "ef=");
    } else if (strcmp(peer, "zvec") == 0) {
        b = add(builds, &count, peer, 10, 2000);
        snprintf(b->text, sizeof b->text, "hnsw=1,M=16,efC=200");
        add_curve(b, "ef=");
    } else if (strcmp(peer, "lancedb") == 0) {
        b = add(builds, &count, peer, 2, lists);
        snprintf(b->text, sizeof b->text, "ivf_pq=1,nlist=%" PRIu64 ",parts=%" PRIu32, lists,
                 dim % 2 == 0 ? dim / 2 : dim);
        add_curve(b, "refine=5,nprobe=");
        add_curve(b, "refine=20,nprobe=");
    }
    return count;
}

int build_set(struct build *b, const struct curve *c, uint64_t knob)
{
    json_t *answer = worker_ask(&b->worker, "set %s%" PRIu64, c->fixed, knob);
    json_decref(answer);
    return answer ? 0 : 1;
}

double interpolate(double recall0, double cost0, double recall1, double cost1, double recall)
{
    double share = recall1 - recall0 > 1e-9 ? (recall - recall0) / (recall1 - recall0) : 1;
    return exp(log(cost0) + share * (log(cost1) - log(cost0)));
}

/* The probe at a knob's value, measured if it was not yet. NULL on failure. */
static const struct probe *probe_at(const struct sweep *s, struct build *b, struct curve *c,
                                    uint64_t knob)
{
    struct truth some = *s->truth;
    struct probe *p = c->probes;
    for (; p < c->probes + c->n; p++)
        if (p->knob == knob)
            return p;
    if (c->n == MAX_PROBES || build_set(b, c, knob) != 0)
        return NULL;
    some.n = s->queries < some.n ? s->queries : some.n;
    json_t *answer = worker_ask(&b->worker, "measure 0 %zu %zu %s", some.n, s->batch, s->answers);
    if (!answer)
        return NULL;
    *p = (struct probe){.knob = knob};
    p->cpu_us = json_number_value(json_object_get(answer, "cpu_us")) / (double)some.n;
    json_decref(answer);
    if (truth_recall_of_file(&some, b->system, s->answers, &p->recall) != 0)
        return NULL;
    c->n++;
    return p;
}

/* Values around the recall: *low below it, *high not. *high NULL: the curve does not reach it, or
 * costs more than `most` before it does. */
static int bracket(const struct sweep *s, struct build *b, struct curve *c, double recall,
                   double most, const struct probe **low, const struct probe **high)
{
    uint64_t knob = b->knob_first < b->knob_most ? b->knob_first : b->knob_most;
    const struct probe *p;
    *low = *high = NULL;
    while (!*high) {
        if (!(p = probe_at(s, b, c, knob)))
            return 1;
        if (p->recall >= recall) {
            *high = p;
            break;
        }
        if (knob >= b->knob_most || p->cpu_us > most ||
            (*low && knob > 16 * b->knob_first && p->recall < (*low)->recall + 0.0003))
            return 0;
        *low = p;
        knob = knob + knob / 2 + 1 < b->knob_most ? knob + knob / 2 + 1 : b->knob_most;
    }
    while (!*low && (*high)->knob > 1) {
        if (!(p = probe_at(s, b, c, (*high)->knob / 2)))
            return 1;
        *(p->recall >= recall ? high : low) = p;
    }
    while (*low && (*high)->knob - (*low)->knob > 1 + (*low)->knob / 12) {
        if (!(p = probe_at(s, b, c, ((*high)->knob + (*low)->knob) / 2)))
            return 1;
        *(p->recall >= recall ? high : low) = p;
    }
    return 0;
}

int sweep_build(const struct sweep *s, struct build *b, const double *recalls, size_t n,
                struct choice *choices)
{
    for (size_t i = 0; i < b->n_curves; i++)
        for (size_t t = 0; t < n; t++) {
            const struct probe *low, *high;
            struct curve *c = &b->curves[i];
            double most = choices[t].build ? choices[t].cpu_us : HUGE_VAL, cost;
            if (bracket(s, b, c, recalls[t], most, &low, &high) != 0)
                return 1;
            if (!high)
                continue;
            cost =
                low ? interpolate(low->recall, low->cpu_us, high->recall, high->cpu_us, recalls[t])
                    : high->cpu_us;
            if (cost < most)
                choices[t] = (struct choice){.build = b,
                                             .curve = c,
                                             .low = low ? low->knob : high->knob,
                                             .high = high->knob,
                                             .cpu_us = cost};
        }
    return 0;
}
