// usearch's graph index as a system under measurement: see driver.h. Its kernels are chosen at run
// time by the library that ships with it. --build "M=16,efC=200"; set "ef=50".
#include <cstdio>
#include <cstring>
#include <vector>

#include <usearch/index_dense.hpp>

#include "driver.h"

using namespace unum::usearch;

namespace
{

int search(struct driver *d, const float *queries, size_t nq, int64_t *ids)
{
    auto *index = static_cast<index_dense_t *>(d->ctx);
    std::vector<default_key_t> keys(d->k);
    for (size_t q = 0; q < nq; q++) {
        auto result = index->search(queries + q * d->dim, d->k);
        if (!result) {
            snprintf(d->message, sizeof d->message, "usearch: %.300s", result.error.what());
            result.error.release();
            return 1;
        }
        size_t found = result.dump_to(keys.data());
        for (size_t i = 0; i < d->k; i++)
            ids[q * d->k + i] = i < found ? int64_t(keys[i]) : -1;
    }
    return 0;
}

int set(struct driver *d, const char *text)
{
    static_cast<index_dense_t *>(d->ctx)->change_expansion_search(driver_number(text, "ef", 50));
    snprintf(d->setting, sizeof d->setting, "%.150s", text);
    return 0;
}

} // namespace

int main(int argc, char **argv)
{
    struct driver_args args;
    struct driver d = {};
    if (!driver_args(argc, argv, &args)) {
        fprintf(stderr, "usage: usearch_ann --base F.fbin --queries F.fbin [--metric l2|ip|cosine] "
                        "[--k K] [--build M=16,efC=200]; commands on standard input: driver.h\n");
        return 2;
    }
    size_t n = 0;
    float *base = driver_load(&d, &args, &n);
    if (!base)
        return driver_error(d.message);
    const uint32_t dim = d.dim;
    metric_kind_t kind = strcmp(args.metric, "l2") == 0   ? metric_kind_t::l2sq_k
                         : strcmp(args.metric, "ip") == 0 ? metric_kind_t::ip_k
                                                          : metric_kind_t::cos_k;
    double wall = driver_wall_us(), cpu = driver_cpu_us();
    index_dense_config_t config(driver_number(args.build, "M", 16));
    config.expansion_add = driver_number(args.build, "efC", 200);
    config.enable_key_lookups = false;
    auto made = index_dense_t::make(metric_punned_t(dim, kind, scalar_kind_t::f32_k), config);
    if (!made) {
        made.error.release();
        return driver_error("usearch makes no such index");
    }
    index_dense_t index = std::move(made.index);
    if (!index.try_reserve(index_limits_t(n, 1)))
        return driver_error("usearch: no memory for the index");
    for (size_t i = 0; i < n; i++) {
        auto added = index.add(default_key_t(i), base + i * dim);
        if (!added) {
            added.error.release();
            return driver_error("usearch: a row cannot be added");
        }
    }
    d.build_wall_us = driver_wall_us() - wall;
    d.build_cpu_us = driver_cpu_us() - cpu;
    free(base);
    d.set = set;
    return driver_serve(&d, &index, search);
}
