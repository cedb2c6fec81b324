/* Two choices of an index in memory, measured on index/ alone.
 *
 * Search by a flat scan of all centroids beside search by the graph over them, in memory, for each
 * number of centroids asked for: where the graph begins to pay (CENTROIDS_GRAPH). The same rows and
 * postings; each way is calibrated on rows left out of their own search, and asked for the same
 * recall. Passes over all queries alternate; a figure is the median, CPU time of one thread.
 *
 * With --soar each row stands in a second posting too (index/soar.h); a run without it tells what
 * that is worth. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "index/calibrate.h"
#include "index/cluster.h"
#include "index/scan.h"
#include "index/soar.h"
#include "storage/base/error.h"

enum { BITS = 4, MOST = 16, MOST_K = 1000 };

enum way { FLAT, GRAPH, WAYS };

static const char *const way_names[] = {"flat", "graph"};

struct centroids_opts {
    const char *base, *queries, *centroids, *recalls, *json, *label;
    uint64_t k, sample, passes;
    mn_metric metric;
    bool soar;
};

struct run {
    const struct centroids_opts *opts;
    struct results results;
    struct mn_alloc *alloc;
    const struct kernels *kn;
    bool ip;
    struct vectors base, queries, sample;
    int64_t *sample_ids;
    mn_hit *truth;            /* [sample rows][k + 1], then of the queries */
    uint32_t *found;
    mn_error err;
    /* of one number of centroids */
    struct clusters clusters;
    uint32_t *second;         /* [rows] second clusters; NULL: none */
    float *origin;
    struct rabitq *rabitq;
    uint8_t **payloads;
    struct ann_part *parts;
    struct ann_posting *postings;
    struct centroids *centroids[WAYS];
    struct ann_index *index[WAYS];
    struct ann_tuning tuning[WAYS];
    double make_s[WAYS];      /* CPU of centroids_create */
    struct ann_scratch *scratch;
    const float *asks;        /* whose exact keys are computed */
};

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int failed(const struct run *r, mn_status st)
{
    return st ? bench_fail("%s", r->err.message) : 0;
}

/* ---- True neighbours ------------------------------------------------------------------------- */

static mn_status true_neighbours(struct run *r, const struct vectors *of, uint32_t k, mn_hit *out,
                                 uint32_t *found)
{
    struct scan_spec spec = {.dtype = MN_F32, .metric = r->ip ? MN_IP : MN_L2,
                             .dim = r->base.dim, .queries = of->rows, .nq = of->n, .k = k};
    struct scan *scan;
    int64_t *ids = malloc(r->base.n * sizeof *ids);
    mn_status st = scan_create(r->alloc, r->kn, &spec, &scan, &r->err);
    for (size_t i = 0; ids && i < r->base.n; i++)
        ids[i] = (int64_t)i;
    struct scan_block block = {.ids = ids, .vectors = r->base.rows, .n = r->base.n};
    if (!st)
        st = ids ? scan_block(scan, &block, NULL, NULL, &r->err)
                 : mn_fail(&r->err, MN_NOMEM, "no memory for %zu ids", r->base.n);
    for (size_t i = 0; !st && i < of->n; i++) {
        found[i] = (uint32_t)scan_count(scan, i);
        scan_hits(scan, i, out + i * k);
        for (uint32_t j = 0; !r->ip && j < found[i]; j++)
            out[i * k + j].distance *= out[i * k + j].distance; /* as keys are */
    }
    scan_destroy(scan);
    free(ids);
    return st;
}

/* Draws the sample, and finds its neighbours, itself left out, and those of the queries. */
static mn_status prepare(struct run *r)
{
    uint32_t k = (uint32_t)r->opts->k, dim = r->base.dim;
    size_t n = r->opts->sample < r->base.n ? r->opts->sample : r->base.n, nq = r->queries.n;
    struct bench_rng rng = {1};
    r->sample = (struct vectors){.n = n, .dim = dim, .rows = calloc(n * dim, sizeof(float))};
    r->sample_ids = calloc(n, sizeof *r->sample_ids);
    r->truth = calloc((n + nq) * (k + 1), sizeof *r->truth);
    r->found = calloc(n + nq, sizeof *r->found);
    if (!r->sample.rows || !r->sample_ids || !r->truth || !r->found)
        return mn_fail(&r->err, MN_NOMEM, "no memory for a sample of %zu rows", n);
    for (size_t i = 0; i < n; i++) {
        size_t from = i * r->base.n / n, end = (i + 1) * r->base.n / n;
        size_t row = from + bench_rand(&rng) % (end - from);
        r->sample_ids[i] = (int64_t)row;
        memcpy(r->sample.rows + i * dim, r->base.rows + row * dim, dim * sizeof(float));
    }
    mn_status st = true_neighbours(r, &r->sample, k + 1, r->truth, r->found);
    for (size_t i = 0; !st && i < n; i++) {
        uint32_t kept = 0;
        mn_hit *from = r->truth + i * (k + 1), *to = r->truth + i * k;
        for (uint32_t j = 0; j < r->found[i] && kept < k; j++)
            if (from[j].id != r->sample_ids[i])
                to[kept++] = from[j];
        r->found[i] = kept;
    }
    return st ? st
              : true_neighbours(r, &r->queries, k, r->truth + n * (k + 1), r->found + n);
}

/* ---- An index -------------------------------------------------------------------------------- */

static mn_status fetch(void *ctx, const uint32_t *rows, size_t n, float *out, mn_error *err)
{
    const struct vectors *v = ctx;
    (void)err;
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * v->dim, v->rows + (size_t)rows[i] * v->dim, v->dim * sizeof *out);
    return MN_OK;
}

static mn_status make_clusters(struct run *r, uint32_t k)
{
    struct ann_source source = {.n = r->base.n, .dim = r->base.dim, .fetch = fetch,
                                .ctx = &r->base};
    struct cluster_opts opts = {.k = k, .seed = 1, .budget_bytes = UINT64_C(4) << 30};
    return cluster(r->alloc, r->kn, &source, &opts, &r->clusters, &r->err);
}

/* Rows by posting: list[start[j] .. start[j + 1]) of posting j, 2 n at most. */
static void list_rows(const struct run *r, size_t *start, uint32_t *list)
{
    const struct clusters *c = &r->clusters;
    for (size_t i = 0; i < r->base.n; i++) {
        start[c->of[i] + 1]++;
        if (r->second && r->second[i] < c->k)
            start[r->second[i] + 1]++;
    }
    for (uint32_t j = 0; j < c->k; j++)
        start[j + 1] += start[j];
    for (size_t i = 0; i < r->base.n; i++) {
        list[start[c->of[i]]++] = (uint32_t)i;
        if (r->second && r->second[i] < c->k)
            list[start[r->second[i]]++] = (uint32_t)i;
    }
    memmove(start + 1, start, c->k * sizeof *start);
    start[0] = 0;
}

/* Second clusters, cluster by cluster. */
static mn_status assign_second(struct run *r, const size_t *start, const uint32_t *list)
{
    struct soar *s;
    uint32_t dim = r->base.dim, *second = calloc(r->base.n, sizeof *second);
    mn_status st = soar_create(r->alloc, r->kn, r->clusters.centroids, r->clusters.k, dim,
                               SOAR_LAMBDA, &s, &r->err);
    for (uint32_t j = 0; second && !st && j < r->clusters.k; j++)
        for (size_t i = start[j]; i < start[j + 1]; i++)
            soar_assign(s, j, r->base.rows + (size_t)list[i] * dim, 1, &second[list[i]]);
    soar_destroy(r->alloc, s);
    r->second = second;
    return st;
}

static mn_status encode(struct run *r)
{
    const struct clusters *c = &r->clusters;
    struct posting_encoder *e = NULL;
    size_t most = 0, *start = calloc(c->k + 1, sizeof *start);
    uint32_t *rows = malloc(2 * r->base.n * sizeof *rows);
    mn_status st = start && rows ? MN_OK
                                 : mn_fail(&r->err, MN_NOMEM, "no memory for the postings");
    if (!st)
        list_rows(r, start, rows);
    if (!st && r->opts->soar) {
        st = assign_second(r, start, rows);
        memset(start, 0, (c->k + 1) * sizeof *start);
        list_rows(r, start, rows);
    }
    for (uint32_t j = 0; !st && j < c->k; j++)
        most = start[j + 1] - start[j] > most ? start[j + 1] - start[j] : most;
    if (!st)
        st = posting_encoder_create(r->alloc, r->rabitq, most, &e, &r->err);
    for (size_t j = 0; !st && j < c->k; j++) {
        posting_begin(e, c->centroids + j * c->dim);
        for (size_t at = start[j]; !st && at < start[j + 1]; at++)
            st = posting_add(e, r->base.rows + (size_t)rows[at] * c->dim, &(int64_t){rows[at]}, 1,
                             &r->err);
        size_t bytes = posting_encoded_bytes(e);
        if (!st && !(r->payloads[j] = mn_alloc(r->alloc, bytes + CODE_GUARD, MN_TAG_CACHE)))
            st = mn_fail(&r->err, MN_NOMEM, "no memory for a posting");
        if (!st) {
            posting_write(e, r->payloads[j]);
            st = posting_open(r->payloads[j], bytes, 1, &r->parts[j].view, &r->err);
        }
        r->postings[j] = (struct ann_posting){&r->parts[j], 1};
    }
    posting_encoder_destroy(r->alloc, e);
    free(start);
    free(rows);
    return st;
}

static mn_status exact_keys(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                            mn_error *err)
{
    const struct run *r = ctx;
    uint32_t dim = r->base.dim;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        const float *row = r->base.rows + (size_t)c[i].id * dim;
        float key;
        (r->ip ? r->kn->dot : r->kn->l2)[ELEM_F32](r->asks, row, dim * sizeof(float), 1, dim,
                                                   &key);
        keys[i] = (double)(r->ip ? -key : key);
    }
    return MN_OK;
}

static void next_sample(void *ctx, size_t i)
{
    struct run *r = ctx;
    r->asks = r->sample.rows + i * r->base.dim;
}

static mn_status calibrate(struct run *r, enum way w)
{
    struct ann_sample sample = {.vectors = r->sample.rows, .ids = r->sample_ids, .n = r->sample.n,
                                .k = (uint32_t)r->opts->k, .truth = r->truth, .found = r->found,
                                .rerank = exact_keys, .rerank_ctx = r, .next = next_sample};
    r->tuning[w] = (struct ann_tuning){0};
    return ann_calibrate(r->alloc, r->index[w], r->scratch, &sample, &r->tuning[w], &r->err);
}

static mn_status make_index(struct run *r, uint32_t k)
{
    uint32_t dim = r->base.dim;
    mn_status st = make_clusters(r, k);
    k = r->clusters.k;
    if (st)
        return st;
    r->origin = calloc(dim, sizeof *r->origin);
    r->payloads = calloc(k, sizeof *r->payloads);
    r->parts = calloc(k, sizeof *r->parts);
    r->postings = calloc(k, sizeof *r->postings);
    if (!r->origin || !r->payloads || !r->parts || !r->postings)
        return mn_fail(&r->err, MN_NOMEM, "no memory for %u postings", k);
    for (size_t i = 0; i < (size_t)k * dim; i++)
        r->origin[i % dim] += r->clusters.centroids[i] / (float)k;
    struct rabitq_spec spec = {.dim = dim, .metric = r->ip ? ANN_IP : ANN_L2, .bits = BITS,
                               .seed = 1, .origin = r->origin};
    st = rabitq_create(r->alloc, r->kn, &spec, &r->rabitq, &r->err);
    if (!st)
        st = encode(r);
    if (!st)
        st = ann_scratch_create(r->alloc, dim, k, MOST_K, &r->scratch, &r->err);
    for (int w = 0; w < WAYS && !st; w++) {
        struct centroids_spec cs = {.vectors = r->clusters.centroids, .n = k,
                                    .graph_from = w == GRAPH ? 1 : UINT32_MAX};
        double from = cpu_s();
        st = centroids_create(r->alloc, r->rabitq, &cs, &r->centroids[w], &r->err);
        r->make_s[w] = cpu_s() - from;
        struct ann_index_spec is = {r->kn, r->rabitq, r->centroids[w], r->postings,
                                    r->second != NULL};
        if (!st)
            st = ann_index_create(r->alloc, &is, &r->index[w], &r->err);
        if (!st)
            st = ann_scratch_fit(r->alloc, r->scratch, r->index[w], &r->err);
        if (!st)
            st = calibrate(r, (enum way)w);
    }
    return st;
}

static void drop_index(struct run *r)
{
    for (int w = 0; w < WAYS; w++) {
        ann_index_destroy(r->alloc, r->index[w]);
        centroids_destroy(r->alloc, r->centroids[w]);
        r->index[w] = NULL;
        r->centroids[w] = NULL;
    }
    ann_scratch_destroy(r->alloc, r->scratch);
    rabitq_destroy(r->alloc, r->rabitq);
    for (uint32_t j = 0; r->payloads && j < r->clusters.k; j++)
        mn_free(r->alloc, r->payloads[j]);
    free(r->payloads);
    free(r->parts);
    free(r->postings);
    free(r->origin);
    free(r->second);
    clusters_fini(r->alloc, &r->clusters);
    r->scratch = NULL;
    r->rabitq = NULL;
    r->payloads = NULL;
    r->parts = NULL;
    r->postings = NULL;
    r->origin = NULL;
    r->second = NULL;
}

/* ---- Measuring ------------------------------------------------------------------------------- */

/* What one pass over the queries found and did. */
struct passed {
    double us, right, centroids, probed, codes, reranked;
};

static mn_status pass(struct run *r, enum way w, double recall, struct passed *out)
{
    uint32_t k = (uint32_t)r->opts->k;
    const mn_hit *truth = r->truth + r->sample.n * (k + 1), *hits;
    double wanted = 0, from = cpu_s();
    mn_status st = MN_OK;
    *out = (struct passed){0};
    for (size_t i = 0; i < r->queries.n && !st; i++) {
        r->asks = r->queries.rows + i * r->base.dim;
        struct ann_query q = {.vector = r->asks, .k = k,
                              .knobs = ann_tuning_knobs(&r->tuning[w], k, recall),
                              .rerank = exact_keys, .rerank_ctx = r};
        st = ann_search(r->index[w], r->scratch, &q, &r->err);
        size_t n = ann_hits(r->scratch, &hits), of = r->found[r->sample.n + i];
        double kth = truth[i * k + of - 1].distance;
        for (size_t h = 0; h < n; h++)
            out->right += hits[h].distance <= kth + 1e-5 * fabs(kth);
        wanted += (double)of;
        out->centroids += (double)ann_stats(r->scratch)->centroids;
        out->probed += (double)ann_stats(r->scratch)->probed;
        out->codes += (double)ann_stats(r->scratch)->codes;
        out->reranked += (double)ann_stats(r->scratch)->reranked;
    }
    double nq = (double)r->queries.n;
    out->us = 1e6 * (cpu_s() - from) / nq;
    out->right /= wanted;
    out->centroids /= nq;
    out->probed /= nq;
    out->codes /= nq;
    out->reranked /= nq;
    return st;
}

static int report(struct run *r, enum way w, double recall, const struct figure *us,
                  const struct passed *p)
{
    printf("%7u %5.3f  %-5s %9.1f us  recall %.4f  %8.0f centroids %6.0f probed %7.0f codes "
           "%5.1f exact\n",
           r->clusters.k, recall, way_names[w], figure_median(us), p->right, p->centroids,
           p->probed, p->codes, p->reranked);
    json_t *line =
        json_pack("{s:s, s:s, s:b, s:s, s:I, s:I, s:I, s:I}", "bench", "centroids", "way",
                  way_names[w], "soar", r->opts->soar, "metric",
                  mn_metric_name(r->opts->metric), "rows", (json_int_t)r->base.n, "dim",
                  (json_int_t)r->base.dim, "k", (json_int_t)r->opts->k, "centroids",
                  (json_int_t)r->clusters.k);
    json_put_number(line, "target", recall);
    json_put_number(line, "recall", p->right);
    json_put_figure(line, "cpu_us", us);
    json_put_number(line, "met", p->centroids);
    json_put_number(line, "probed", p->probed);
    json_put_number(line, "codes", p->codes);
    json_put_number(line, "reranked", p->reranked);
    json_put_number(line, "make_s", r->make_s[w]);
    return results_line(&r->results, line);
}

static int measure(struct run *r, double recall)
{
    struct figure us[WAYS] = {0};
    struct passed p[WAYS];
    for (uint64_t i = 0; i < r->opts->passes; i++)
        for (int w = 0; w < WAYS; w++) {
            if (failed(r, pass(r, (enum way)w, recall, &p[w])))
                return 1;
            figure_add(&us[w], p[w].us);
        }
    return report(r, FLAT, recall, &us[FLAT], &p[FLAT]) |
           report(r, GRAPH, recall, &us[GRAPH], &p[GRAPH]);
}

/* Numbers of a list "1,2.5"; how many, 0 if it is none. */
static size_t read_list(const char *text, double out[MOST])
{
    size_t n = 0;
    for (char *end; n < MOST; text = end + 1) {
        out[n] = strtod(text, &end);
        if (end == text || !(out[n++] > 0) || (*end && *end != ','))
            return 0;
        if (!*end)
            return n;
    }
    return 0;
}

static int measure_all(struct run *r)
{
    double ks[MOST], recalls[MOST];
    size_t n = read_list(r->opts->centroids, ks), m = read_list(r->opts->recalls, recalls);
    if (n == 0 || m == 0)
        return bench_fail("--centroids and --recalls want numbers, as in 4096,8192");
    if (failed(r, prepare(r)))
        return 1;
    for (size_t i = 0; i < n; i++) {
        double from = cpu_s();
        int status = failed(r, make_index(r, (uint32_t)ks[i]));
        if (!status)
            printf("%u centroids: %.1f s of CPU, %.2f s of it for the graph\n", r->clusters.k,
                   cpu_s() - from, r->make_s[GRAPH] - r->make_s[FLAT]);
        for (size_t j = 0; j < m && !status; j++)
            status = measure(r, recalls[j]);
        drop_index(r);
        if (status)
            return 1;
    }
    return 0;
}

static enum opts_result opts_read(struct centroids_opts *o, int argc, char **argv)
{
    *o = (struct centroids_opts){.centroids = "4096,8192,16384,32768", .recalls = "0.95,0.99",
                                 .k = 10, .sample = 1000, .passes = 7, .metric = MN_L2};
    const struct opt opts[] = {
        {"--base", OPT_TEXT, &o->base, 0, 0, "FILE!", "rows"},
        {"--queries", OPT_TEXT, &o->queries, 0, 0, "FILE!", "what is searched for"},
        {"--soar", OPT_FLAG, &o->soar, 0, 0, NULL, "put each row into a second posting too"},
        {"--metric", OPT_METRIC, &o->metric, 0, 0, "M", "l2, cosine or ip"},
        {"--centroids", OPT_TEXT, &o->centroids, 0, 0, "LIST", "how many, about"},
        {"--recalls", OPT_TEXT, &o->recalls, 0, 0, "LIST", "asked for"},
        {"--k", OPT_COUNT, &o->k, 1, MOST_K, "N", "hits of a search"},
        {"--sample", OPT_COUNT, &o->sample, 100, 100000, "N", "rows to calibrate on"},
        {"--passes", OPT_COUNT, &o->passes, 1, MAX_PASSES, "N", "of which the median counts"},
        {"--json", OPT_TEXT, &o->json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &o->label, 0, 0, "TEXT", "put into each line"},
    };
    return opts_parse("usage: mneme_bench centroids --base FILE --queries FILE [OPTION]...\n\n"
                      "Measures search by a flat scan of all centroids beside search by the graph\n"
                      "over them, at the same recall, for several numbers of centroids.\n",
                      opts, sizeof opts / sizeof *opts, argc, argv);
}

int bench_centroids(int argc, char **argv)
{
    struct centroids_opts o;
    enum opts_result read = opts_read(&o, argc, argv);
    if (read != OPTS_GO)
        return opts_exit(read);
    struct run r = {.opts = &o, .kn = kernels_select(ISA_COUNT)};
    int status = 1;
    mn_error_clear(&r.err);
    r.alloc = mn_alloc_create(NULL, UINT64_MAX);
    if (!r.alloc || results_open(&r.results, o.json, o.label, argc, argv))
        goto done;
    if (vectors_read(&r.base, o.base) || vectors_read(&r.queries, o.queries))
        goto done;
    r.ip = o.metric == MN_IP;
    if (o.metric == MN_COSINE && (vectors_normalise(&r.base, o.base) ||
                                  vectors_normalise(&r.queries, o.queries)))
        goto done;
    if (r.base.dim != r.queries.dim) {
        bench_fail("%s has dim %u, %s %u", o.base, r.base.dim, o.queries, r.queries.dim);
        goto done;
    }
    status = measure_all(&r);
    if (results_close(&r.results))
        status = 1;
done:
    vectors_fini(&r.base);
    vectors_fini(&r.queries);
    free(r.sample.rows);
    free(r.sample_ids);
    free(r.truth);
    free(r.found);
    mn_alloc_destroy(r.alloc);
    return status;
}
