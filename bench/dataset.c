/* Makes sets of vectors to measure with.
 *
 * The synthetic set: overlapping Gaussian clusters of a low intrinsic dimension I (24) in `dim`
 * dimensions, as real embeddings look more than uniform noise does.
 *
 *     G           one I x dim map, entries N(0, 1/I)
 *     cluster c   has weight (c + 1)^-0.8; its centre is N(0, 1)^I times G; its own I x dim map
 *                 B = 0.7 G + 0.7 F, F like G but fresh, each of B's I rows times exp(0.3 N(0, 1))
 *     row         centre + N(0, 1)^I times B of its cluster, + 0.02 N(0, 1)^dim
 *     queries     rows past the base's last: the same distribution, none of the base's vectors
 *
 * All is computed in integers (normals with 16 bits behind the point, vectors with 24) and each
 * row from a generator of its own, seeded by (seed, row): a set is the same, bit for bit, on every
 * machine and for every compiler, and a larger one begins with the smaller. */
#include "bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct synthetic {
    uint64_t n, n_queries, dim, seed, intrinsic, clusters;
    const char *out_base, *out_queries;
    bool cosine;
};

enum stream { STREAM_MAP = 1, STREAM_CENTRE, STREAM_BASIS, STREAM_ROW };

struct clusters {
    uint32_t n, dim, intrinsic;
    uint64_t seed;
    uint64_t *upto;  /* [n] sums of weights */
    int32_t *map;    /* [intrinsic][dim] G, 24 bits behind the point */
    int64_t *centre; /* [n][dim] */
    int32_t *basis;  /* [n][intrinsic][dim] */
};

static struct bench_rng rng_of(uint64_t seed, enum stream stream, uint64_t index)
{
    struct bench_rng r = {seed * 8 + (uint64_t)stream};
    r.state = bench_rand(&r) + index;
    r.state = bench_rand(&r);
    return r;
}

/* I x dim entries N(0, 1/I). */
static void random_map(struct bench_rng *r, uint32_t intrinsic, uint32_t dim, int32_t *out)
{
    int64_t scale = llround(65536 / sqrt(intrinsic));
    for (size_t i = 0; i < (size_t)intrinsic * dim; i++)
        out[i] = (int32_t)(bench_normal(r) * scale >> 8);
}

/* sum[d] += normals times map, from `intrinsic` normals of r. */
static void add_mapped(struct bench_rng *r, const int32_t *map, uint32_t intrinsic, uint32_t dim,
                       int64_t *sum, int64_t *scratch)
{
    memset(scratch, 0, sizeof *scratch * dim);
    for (uint32_t j = 0; j < intrinsic; j++) {
        int64_t z = bench_normal(r);
        for (uint32_t d = 0; d < dim; d++)
            scratch[d] += z * map[(size_t)j * dim + d];
    }
    for (uint32_t d = 0; d < dim; d++)
        sum[d] += scratch[d] >> 16;
}

static void clusters_fini(struct clusters *c)
{
    free(c->upto);
    free(c->map);
    free(c->centre);
    free(c->basis);
}

static void cluster_make(struct clusters *c, uint32_t i, int64_t *scratch)
{
    size_t cells = (size_t)c->intrinsic * c->dim;
    int32_t *basis = c->basis + i * cells;
    struct bench_rng r = rng_of(c->seed, STREAM_CENTRE, i);
    add_mapped(&r, c->map, c->intrinsic, c->dim, c->centre + (size_t)i * c->dim, scratch);
    r = rng_of(c->seed, STREAM_BASIS, i);
    random_map(&r, c->intrinsic, c->dim, basis);
    for (uint32_t j = 0; j < c->intrinsic; j++) {
        int64_t stretch = llround(65536 * exp(0.3 * bench_normal(&r) / 65536));
        for (uint32_t d = 0; d < c->dim; d++) {
            size_t at = (size_t)j * c->dim + d;
            int64_t sum = ((int64_t)basis[at] + c->map[at]) * 45875 >> 16; /* 0.7 */
            basis[at] = (int32_t)(sum * stretch >> 16);
        }
    }
}

/* False if memory runs out; clusters_fini in both cases. */
static bool clusters_init(struct clusters *c, const struct synthetic *o, int64_t *scratch)
{
    size_t cells = (size_t)o->intrinsic * o->dim;
    uint64_t sum = 0;
    *c = (struct clusters){.n = (uint32_t)o->clusters,
                           .dim = (uint32_t)o->dim,
                           .intrinsic = (uint32_t)o->intrinsic,
                           .seed = o->seed};
    c->upto = calloc(c->n, sizeof *c->upto);
    c->map = calloc(cells, sizeof *c->map);
    c->centre = calloc((size_t)c->n * c->dim, sizeof *c->centre);
    c->basis = calloc(c->n * cells, sizeof *c->basis);
    if (!c->upto || !c->map || !c->centre || !c->basis)
        return false;
    struct bench_rng r = rng_of(c->seed, STREAM_MAP, 0);
    random_map(&r, c->intrinsic, c->dim, c->map);
    for (uint32_t i = 0; i < c->n; i++) {
        sum += (uint64_t)llround(pow(i + 1.0, -0.8) * 0x1p40);
        c->upto[i] = sum;
        cluster_make(c, i, scratch);
    }
    return true;
}

static uint32_t cluster_of(const struct clusters *c, uint64_t random)
{
    uint64_t at = (uint64_t)((unsigned __int128)random * c->upto[c->n - 1] >> 64);
    uint32_t low = 0, high = c->n - 1;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (c->upto[mid] > at)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

/* Row `index` as f32; sum and scratch are [dim]. */
static void row_make(const struct clusters *c, uint64_t index, bool cosine, int64_t *sum,
                     int64_t *scratch, float *out)
{
    struct bench_rng r = rng_of(c->seed, STREAM_ROW, index);
    uint32_t i = cluster_of(c, bench_rand(&r));
    double length = 0;
    memcpy(sum, c->centre + (size_t)i * c->dim, sizeof *sum * c->dim);
    add_mapped(&r, c->basis + (size_t)i * c->intrinsic * c->dim, c->intrinsic, c->dim, sum,
               scratch);
    for (uint32_t d = 0; d < c->dim; d++) {
        sum[d] += (int64_t)bench_normal(&r) * 1342177 >> 18; /* 0.02 */
        out[d] = (float)((double)sum[d] / 0x1p24);
        length += (double)out[d] * out[d];
    }
    if (cosine && length > 0)
        for (uint32_t d = 0; d < c->dim; d++)
            out[d] = (float)(out[d] / sqrt(length));
}

/* Rows first .. first + n into a new fbin file; a file that could not be finished is removed. */
static int rows_write(const struct clusters *c, const struct synthetic *o, uint64_t first,
                      uint64_t n, const char *path, int64_t *sum, int64_t *scratch)
{
    uint32_t head[2] = {(uint32_t)n, c->dim};
    float *row = malloc(sizeof *row * c->dim);
    FILE *f = fopen(path, "wb");
    bool good = row && f && fwrite(head, sizeof head, 1, f) == 1;
    for (uint64_t i = 0; good && i < n; i++) {
        row_make(c, first + i, o->cosine, sum, scratch, row);
        good = fwrite(row, sizeof *row, c->dim, f) == c->dim;
    }
    if (f && fclose(f) != 0)
        good = false;
    free(row);
    if (good)
        return 0;
    int wrong = errno;
    if (f)
        unlink(path);
    return bench_fail("%s: cannot be written: %s", path, strerror(wrong));
}

static int synthetic(int argc, char **argv)
{
    struct synthetic o = {.n_queries = 1000, .seed = 1, .intrinsic = 24, .clusters = 1000};
    const struct opt opts[] = {
        {"--n", OPT_COUNT, &o.n, 1, INT32_MAX, "N!", "rows of the base"},
        {"--dim", OPT_COUNT, &o.dim, 1, MN_MAX_DIM, "D!", "elements of a vector"},
        {"--out-base", OPT_TEXT, &o.out_base, 0, 0, "F.fbin!", "takes the base"},
        {"--out-queries", OPT_TEXT, &o.out_queries, 0, 0, "F.fbin", "takes the queries"},
        {"--queries", OPT_COUNT, &o.n_queries, 1, INT32_MAX, "N", "queries"},
        {"--seed", OPT_COUNT, &o.seed, 0, INT64_MAX, "S", "another seed, another set"},
        {"--intrinsic", OPT_COUNT, &o.intrinsic, 1, 1024, "I", "intrinsic dimension"},
        {"--clusters", OPT_COUNT, &o.clusters, 1, 1u << 20, "C", "clusters"},
        {"--cosine", OPT_FLAG, &o.cosine, 0, 0, NULL, "scale each vector to length 1"},
    };
    int rc = 1;
    int64_t *scratch = NULL;
    struct clusters c = {.n = 0};
    enum opts_result parsed =
        opts_parse("usage: mneme_bench dataset synthetic --n N --dim D --out-base F.fbin ...\n\n"
                   "Makes a clustered set, the same on every machine: overlapping Gaussian\n"
                   "clusters of a low intrinsic dimension, power-law sizes, a little noise.\n",
                   opts, sizeof opts / sizeof *opts, argc, argv);
    if (parsed != OPTS_GO)
        return opts_exit(parsed);
    if (o.clusters * o.intrinsic * o.dim > 1u << 30) {
        bench_fail("--clusters x --intrinsic x --dim is %" PRIu64 "; at most 2^30 fit",
                   o.clusters * o.intrinsic * o.dim);
        return 2;
    }
    scratch = calloc(2 * o.dim, sizeof *scratch);
    if (!scratch || !clusters_init(&c, &o, scratch)) {
        bench_fail("no memory for %" PRIu64 " clusters", o.clusters);
        goto done;
    }
    if (rows_write(&c, &o, 0, o.n, o.out_base, scratch, scratch + o.dim) != 0 ||
        (o.out_queries &&
         rows_write(&c, &o, o.n, o.n_queries, o.out_queries, scratch, scratch + o.dim) != 0))
        goto done;
    printf("%s: %" PRIu64 " x %" PRIu64 " f32, seed %" PRIu64 "\n", o.out_base, o.n, o.dim, o.seed);
    if (o.out_queries)
        printf("%s: %" PRIu64 " queries\n", o.out_queries, o.n_queries);
    rc = 0;
done:
    clusters_fini(&c);
    free(scratch);
    return rc;
}

int bench_dataset(int argc, char **argv)
{
    static const char about[] =
        "usage: mneme_bench dataset synthetic --n N --dim D --out-base F.fbin [OPTION]...\n"
        "       mneme_bench dataset glove --in FILE.json --out-base F.fbin [OPTION]...\n\n"
        "  synthetic   clustered vectors of any size, dimension and seed\n"
        "  glove       341,479 words x 100, of which 10,000 are held out as queries\n\n"
        "mneme_bench dataset KIND --help tells the options.\n";
    if (argc >= 2 && strcmp(argv[1], "synthetic") == 0)
        return synthetic(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "glove") == 0)
        return dataset_glove(argc - 1, argv + 1);
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(about, stdout);
        return 0;
    }
    fputs(about, stderr);
    return 2;
}
