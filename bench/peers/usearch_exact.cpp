// usearch's exact search as a system under measurement: see driver.h. Its kernels are chosen at
// run time by the library that ships with it (NK_DYNAMIC_DISPATCH).
#include <cstdio>
#include <cstring>

#include <usearch/index_plugins.hpp>

#include "driver.h"

using namespace unum::usearch;

namespace
{

struct System {
    const float *base = nullptr;
    size_t n = 0;
    metric_punned_t metric;
    exact_search_t search;
    executor_default_t executor;
    System(size_t dim, metric_kind_t kind, size_t threads)
        : metric(dim, kind, scalar_kind_t::f32_k), executor(threads)
    {
    }
};

// The temporary matrix of distances takes 16 bytes a row and query: calls are cut so that it
// stays at 1 GiB.
const size_t call_bytes = size_t(1) << 30;

int search(struct driver *d, const float *queries, size_t nq, int64_t *ids)
{
    auto *s = static_cast<System *>(d->ctx);
    size_t stride = d->dim * sizeof(float);
    size_t per_call = call_bytes / (16 * s->n);
    per_call = per_call == 0 ? 1 : per_call;
    for (size_t at = 0; at < nq; at += per_call) {
        size_t now = nq - at < per_call ? nq - at : per_call;
        size_t wanted = d->k < s->n ? d->k : s->n;
        exact_search_results_t results =
            s->search(reinterpret_cast<const byte_t *>(s->base), s->n, stride,
                      reinterpret_cast<const byte_t *>(queries + at * d->dim), now, stride, wanted,
                      s->metric, s->executor);
        if (!results) {
            snprintf(d->message, sizeof d->message, "usearch: no memory for the distances");
            return 1;
        }
        for (size_t q = 0; q < now; q++) {
            const exact_offset_and_distance_t *found = results.at(q);
            for (size_t i = 0; i < d->k; i++)
                ids[(at + q) * d->k + i] = i < wanted ? int64_t(found[i].offset) : -1;
        }
    }
    return 0;
}

} // namespace

int main(int argc, char **argv)
{
    struct driver_args args;
    struct driver d = {};
    if (!driver_args(argc, argv, &args)) {
        fprintf(stderr, "usage: usearch_exact --base F.fbin --queries F.fbin "
                        "[--metric l2|ip|cosine] [--k K] [--threads N]; commands on standard "
                        "input: driver.h\n");
        return 2;
    }
    size_t n = 0;
    float *base = driver_load(&d, &args, &n);
    if (!base)
        return driver_error(d.message);
    const uint32_t dim = d.dim;
    if (n == 0)
        return driver_error("the base has no row");
    metric_kind_t kind = strcmp(args.metric, "l2") == 0   ? metric_kind_t::l2sq_k
                         : strcmp(args.metric, "ip") == 0 ? metric_kind_t::ip_k
                                                          : metric_kind_t::cos_k;
    System system(dim, kind, args.threads);
    system.base = base;
    system.n = n;
    snprintf(d.setting, sizeof d.setting, "%s", system.metric.isa_name());
    int rc = driver_serve(&d, &system, search);
    free(base);
    return rc;
}
