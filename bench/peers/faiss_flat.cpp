// FAISS's flat index as a system under measurement: see driver.h. Cosine is inner product over
// rows scaled to length 1. FAISS computes distances of many queries by BLAS and of few by its own
// loop, in blocks whose sizes are knobs; `tune` times the choices and keeps the fastest.
#include <cstdio>
#include <exception>
#include <memory>
#include <vector>

#include <faiss/IndexFlat.h>
#include <faiss/utils/distances.h>
#include <omp.h>

#include "driver.h"
#include "unit.hpp"

namespace
{

struct Setting {
    int blas_from;   // queries of a call from which BLAS is used
    int database_bs; // base rows of one BLAS product
};

struct System {
    std::unique_ptr<faiss::IndexFlat> index;
    std::vector<float> distances;
    UnitQueries unit;
    bool cosine = false;
};

int search(struct driver *d, const float *queries, size_t nq, int64_t *ids)
{
    auto *s = static_cast<System *>(d->ctx);
    try {
        if (s->cosine)
            queries = s->unit.of(queries, nq, d->dim);
        s->distances.resize(nq * d->k);
        s->index->search(faiss::Index::idx_t(nq), queries, d->k, s->distances.data(), ids);
    } catch (const std::exception &e) {
        snprintf(d->message, sizeof d->message, "FAISS: %s", e.what());
        return 1;
    }
    return 0;
}

void choose(const Setting &s)
{
    faiss::distance_compute_blas_threshold = s.blas_from;
    faiss::distance_compute_blas_database_bs = s.database_bs;
}

int tune(struct driver *d, size_t batch)
{
    const Setting settings[] = {{1, 1024}, {1, 4096}, {1, 16384}, {1 << 30, 1024}};
    const size_t n = sizeof settings / sizeof *settings;
    size_t best = 0;
    double best_us = 0;
    if (batch > d->n_queries)
        batch = d->n_queries;
    std::vector<int64_t> ids(batch * d->k);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < n; i++) {
            choose(settings[i]);
            double start = driver_cpu_us();
            if (search(d, d->queries, batch, ids.data()) != 0)
                return 1;
            double took = driver_cpu_us() - start;
            if ((round == 0 && i == 0) || took < best_us) {
                best = i;
                best_us = took;
            }
        }
    }
    choose(settings[best]);
    snprintf(d->setting, sizeof d->setting, "%s, %d base rows a product",
             settings[best].blas_from == 1 ? "BLAS" : "own loop", settings[best].database_bs);
    return 0;
}

} // namespace

int main(int argc, char **argv)
{
    struct driver_args args;
    struct driver d = {};
    if (!driver_args(argc, argv, &args)) {
        fprintf(stderr, "usage: faiss_flat --base F.fbin --queries F.fbin [--metric l2|ip|cosine] "
                        "[--k K] [--threads N]; commands on standard input: driver.h\n");
        return 2;
    }
    size_t n = 0;
    omp_set_num_threads(int(args.threads));
    float *base = driver_load(&d, &args, &n);
    if (!base)
        return driver_error(d.message);
    const uint32_t dim = d.dim;
    System system;
    system.cosine = strcmp(args.metric, "cosine") == 0;
    try {
        if (system.cosine)
            scale_rows(base, n, dim);
        if (strcmp(args.metric, "l2") == 0)
            system.index = std::make_unique<faiss::IndexFlatL2>(dim);
        else
            system.index = std::make_unique<faiss::IndexFlatIP>(dim);
        system.index->add(faiss::Index::idx_t(n), base);
    } catch (const std::exception &e) {
        return driver_error(e.what());
    }
    free(base);
    d.tune = tune;
    return driver_serve(&d, &system, search);
}
