/* Rotations keep lengths and angles, spread what is concentrated, and stay the same. */
#include "index/rotate.h"
#include "storage/base/error.h"
#include "tests/test.h"

static const uint32_t dims[] = {1,  2,   3,   7,   23,  24,   25,   31,
                                32, 100, 127, 128, 768, 1000, 1536, 16384};

static double dot(const float *a, const float *b, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

TEST(rotation_keeps_lengths_and_angles)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct test_rng r = {1};
    mn_error err;
    mn_error_clear(&err);
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (size_t isa = 0; kernels_at(isa); isa++) {
            uint32_t n = dims[i];
            struct rotation *rotation;
            float *x = malloc(n * 4u), *y = malloc(n * 4u);
            CHECK_OK(rotation_create(a, n, 7, &rotation, &err), err);
            for (uint32_t j = 0; j < n; j++) {
                x[j] = (float)test_normal(&r);
                y[j] = (float)test_normal(&r) + x[j];
            }
            double xx = dot(x, x, n), xy = dot(x, y, n);
            rotation_apply(rotation, kernels_at(isa), x);
            rotation_apply(rotation, kernels_at(isa), y);
            CHECKF(fabs(dot(x, x, n) - xx) <= 1e-5 * xx, "dim %u", n);
            CHECKF(fabs(dot(x, y, n) - xy) <= 1e-5 * (xx + fabs(xy)), "dim %u", n);
            free(x);
            free(y);
            rotation_destroy(a, rotation);
        }
    CHECK_EQ(mn_alloc_used(a), 0);
    mn_alloc_destroy(a);
}

/* One element, rotated: no element keeps much of the length, and another seed gives another. */
TEST(rotation_spreads_one_element_over_all)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    mn_error err;
    mn_error_clear(&err);
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        uint32_t n = dims[i];
        if (n < 24)
            continue;
        float *x = calloc(n, 4), *other = calloc(n, 4), most = 0;
        x[n / 3] = other[n / 3] = 1;
        for (uint64_t seed = 1; seed <= 2; seed++) {
            struct rotation *rotation;
            CHECK_OK(rotation_create(a, n, seed, &rotation, &err), err);
            rotation_apply(rotation, kernels_at(0), seed == 1 ? x : other);
            rotation_destroy(a, rotation);
        }
        for (uint32_t j = 0; j < n; j++)
            most = fmaxf(most, fabsf(x[j]));
        CHECKF(most < 8 / sqrtf((float)n), "dim %u: %g", n, (double)most);
        CHECKF(fabs(dot(x, other, n)) < 0.7, "dim %u", n);
        free(x);
        free(other);
    }
    mn_alloc_destroy(a);
}

/* Collections hold codes that another rotation would void. */
TEST(rotation_of_a_seed_never_changes)
{
    static const struct {
        uint32_t dim;
        float want[4]; /* of (1, 2, 3 ..) */
    } table[] = {
        {5, {-4.7821f, 2.5478f, -3.9358f, 3.1291f}},
        {32, {-9.6250f, 18.8750f, -13.7500f, -46.2500f}},
        {100, {56.0088f, -7.6748f, -69.7139f, 44.9932f}},
        {150, {51.1612f, 76.6746f, -80.7358f, 165.9108f}},
    };
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    mn_error err;
    mn_error_clear(&err);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct rotation *rotation;
        float x[200];
        for (uint32_t j = 0; j < table[i].dim; j++)
            x[j] = (float)(j + 1);
        CHECK_OK(rotation_create(a, table[i].dim, 12345, &rotation, &err), err);
        rotation_apply(rotation, kernels_select(ISA_COUNT), x);
        for (size_t j = 0; j < 4; j++)
            CHECK_NEAR(x[j], table[i].want[j], 1e-3);
        rotation_destroy(a, rotation);
    }
    mn_alloc_destroy(a);
}

TEST(rotation_refuses_a_dim_out_of_range)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct rotation *rotation;
    mn_error err;
    mn_error_clear(&err);
    CHECK_EQ(rotation_create(a, 0, 1, &rotation, &err), MN_INVALID);
    mn_error_clear(&err);
    CHECK_EQ(rotation_create(a, MN_MAX_DIM + 1, 1, &rotation, &err), MN_INVALID);
    CHECK_HAS(err.message, "16385");
    CHECK(!rotation);
    mn_alloc_destroy(a);
}

TEST_MAIN
