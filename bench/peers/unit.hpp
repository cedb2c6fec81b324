// Vectors of length 1, for peers that have no cosine of their own.
#ifndef MN_BENCH_PEERS_UNIT_HPP
#define MN_BENCH_PEERS_UNIT_HPP

#include <cmath>
#include <cstddef>
#include <vector>

// Scales rows [n][dim] to length 1; zeros stay zeros.
inline void scale_rows(float *rows, size_t n, size_t dim)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t j = 0; j < dim; j++)
            sum += double(rows[i * dim + j]) * rows[i * dim + j];
        float scale = sum > 0 ? float(1 / std::sqrt(sum)) : 0;
        for (size_t j = 0; j < dim; j++)
            rows[i * dim + j] *= scale;
    }
}

// A call's queries, which may not be changed, as a scaled copy.
struct UnitQueries {
    std::vector<float> copy;

    const float *of(const float *queries, size_t n, size_t dim)
    {
        copy.assign(queries, queries + n * dim);
        scale_rows(copy.data(), n, dim);
        return copy.data();
    }
};

#endif
