// hnswlib as a system under measurement: see driver.h. Cosine is inner product over rows scaled to
// length 1. --build "M=16,efC=200"; set "ef=50".
#include <cstdio>
#include <exception>
#include <memory>
#include <vector>

#include <hnswlib/hnswlib.h>

#include "driver.h"
#include "unit.hpp"

namespace
{

struct System {
    std::unique_ptr<hnswlib::SpaceInterface<float>> space;
    std::unique_ptr<hnswlib::HierarchicalNSW<float>> index;
    UnitQueries unit;
    unsigned threads = 1;
    bool cosine = false;
};

int search(struct driver *d, const float *queries, size_t nq, int64_t *ids)
{
    auto *s = static_cast<System *>(d->ctx);
    if (s->cosine)
        queries = s->unit.of(queries, nq, d->dim);
#pragma omp parallel for schedule(dynamic) num_threads(s->threads) if (nq > 1)
    for (size_t q = 0; q < nq; q++) {
        auto found = s->index->searchKnn(queries + q * d->dim, d->k);
        for (size_t i = found.size(); i < d->k; i++)
            ids[q * d->k + i] = -1;
        for (size_t i = found.size(); i > 0; i--) {
            ids[q * d->k + i - 1] = int64_t(found.top().second);
            found.pop();
        }
    }
    return 0;
}

int set(struct driver *d, const char *text)
{
    static_cast<System *>(d->ctx)->index->setEf(driver_number(text, "ef", 50));
    snprintf(d->setting, sizeof d->setting, "%.150s", text);
    return 0;
}

// One thread unless MNEME_BUILD_THREADS says more: the graph's cost in CPU time is what is reported,
// and threads only spread it.
void build(System &s, const float *base, size_t n, size_t dim, const char *text)
{
    s.index = std::make_unique<hnswlib::HierarchicalNSW<float>>(
        s.space.get(), n, driver_number(text, "M", 16), driver_number(text, "efC", 200));
    s.index->addPoint(base, 0);
#pragma omp parallel for schedule(dynamic, 64) num_threads(driver_build_threads(1))
    for (size_t i = 1; i < n; i++)
        s.index->addPoint(base + i * dim, i);
}

} // namespace

int main(int argc, char **argv)
{
    struct driver_args args;
    struct driver d = {};
    if (!driver_args(argc, argv, &args)) {
        fprintf(stderr, "usage: hnswlib_ann --base F.fbin --queries F.fbin [--metric l2|ip|cosine] "
                        "[--k K] [--threads N] [--build M=16,efC=200]; commands on standard input: "
                        "driver.h\n");
        return 2;
    }
    size_t n = 0;
    float *base = driver_load(&d, &args, &n);
    if (!base)
        return driver_error(d.message);
    const uint32_t dim = d.dim;
    System s;
    s.threads = args.threads;
    s.cosine = strcmp(args.metric, "cosine") == 0;
    try {
        double wall = driver_wall_us(), cpu = driver_cpu_us();
        if (strcmp(args.metric, "l2") == 0)
            s.space = std::make_unique<hnswlib::L2Space>(dim);
        else
            s.space = std::make_unique<hnswlib::InnerProductSpace>(dim);
        if (s.cosine)
            scale_rows(base, n, dim);
        build(s, base, n, dim, args.build);
        d.build_wall_us = driver_wall_us() - wall;
        d.build_cpu_us = driver_cpu_us() - cpu;
    } catch (const std::exception &e) {
        return driver_error(e.what());
    }
    free(base);
    d.set = set;
    return driver_serve(&d, &s, search);
}
