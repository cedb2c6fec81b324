// FAISS's IVF with 4-bit fast-scan PQ of d/2 parts and an exact refinement, as a system under
// measurement: see driver.h. Cosine is inner product over rows scaled to length 1, searched as l2,
// which orders alike. --build "nlist=1024,by_residual=0"; set "nprobe=20,k_factor=10".
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <vector>

#include <faiss/IndexFlat.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/IndexRefine.h>
#include <omp.h>

#include "driver.h"
#include "unit.hpp"

extern "C" void openblas_set_num_threads(int);

namespace
{

struct System {
    std::unique_ptr<faiss::IndexFlat> coarse;
    std::unique_ptr<faiss::IndexIVFPQFastScan> ivf;
    std::unique_ptr<faiss::IndexRefineFlat> index;
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
        snprintf(d->message, sizeof d->message, "FAISS: %.300s", e.what());
        return 1;
    }
    return 0;
}

int set(struct driver *d, const char *text)
{
    auto *s = static_cast<System *>(d->ctx);
    s->ivf->nprobe = driver_number(text, "nprobe", 1);
    s->index->k_factor = float(driver_number(text, "k_factor", 10));
    snprintf(d->setting, sizeof d->setting, "%.150s", text);
    return 0;
}

// Threads only where the caller asked for several: the cost is told in CPU time.
void build(System &s, const float *base, size_t n, size_t dim, bool l2, const char *text)
{
    auto metric = l2 ? faiss::METRIC_L2 : faiss::METRIC_INNER_PRODUCT;
    size_t nlist = driver_number(text, "nlist", unsigned(std::sqrt(double(n))));
    size_t parts = dim / 2;
    while (dim % parts != 0)
        parts--;
    s.coarse = std::make_unique<faiss::IndexFlat>(dim, metric);
    s.ivf = std::make_unique<faiss::IndexIVFPQFastScan>(s.coarse.get(), dim, nlist, parts, 4,
                                                        metric);
    s.ivf->by_residual = driver_number(text, "by_residual", 0) != 0;
    s.index = std::make_unique<faiss::IndexRefineFlat>(s.ivf.get());
    s.index->train(faiss::Index::idx_t(n), base);
    s.index->add(faiss::Index::idx_t(n), base);
}

} // namespace

int main(int argc, char **argv)
{
    struct driver_args args;
    struct driver d = {};
    if (!driver_args(argc, argv, &args)) {
        fprintf(stderr, "usage: faiss_ivf --base F.fbin --queries F.fbin [--metric l2|ip|cosine] "
                        "[--k K] [--threads N] [--build nlist=N,by_residual=0]; commands on "
                        "standard input: driver.h\n");
        return 2;
    }
    size_t n = 0;
    omp_set_num_threads(int(args.threads));
    float *base = driver_load(&d, &args, &n);
    if (!base)
        return driver_error(d.message);
    const uint32_t dim = d.dim;
    if (dim < 2)
        return driver_error("vectors of less than 2 dimensions");
    System s;
    s.cosine = strcmp(args.metric, "cosine") == 0;
    try {
        double wall = driver_wall_us(), cpu = driver_cpu_us();
        if (s.cosine)
            scale_rows(base, n, dim);
        omp_set_num_threads(int(driver_build_threads(args.threads)));
        openblas_set_num_threads(int(driver_build_threads(args.threads)));
        build(s, base, n, dim, strcmp(args.metric, "ip") != 0, args.build);
        omp_set_num_threads(int(args.threads));
        openblas_set_num_threads(int(args.threads));
        d.build_wall_us = driver_wall_us() - wall;
        d.build_cpu_us = driver_cpu_us() - cpu;
    } catch (const std::exception &e) {
        return driver_error(e.what());
    }
    free(base);
    d.set = set;
    return driver_serve(&d, &s, search);
}
