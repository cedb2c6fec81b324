/* Approximate search against brute force. */
#include "tests/index/ann_fixture.h"

#include "index/topk.h"

static struct fixture_spec clustered_spec(uint32_t dim, uint32_t bits)
{
    return (struct fixture_spec){.dim = dim, .bits = bits, .k_centroids = 128, .n = 10000, .nq = 50,
                                 .shape = SHAPE_CLUSTERED, .seed = 42};
}

TEST(ann_finds_most_neighbours)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(64, 4);
    fixture_make(&f, &spec);
    static const float lambdas[] = {1e-3f, 2e-4f, 1e-5f, 0};
    static const double floors[] = {0.85, 0.95, 0.98, 0.99};
    for (size_t i = 0; i < 4; i++) {
        struct ann_stats s = {0};
        double recall = fixture_recall(&f, 10, (struct ann_knobs){.lambda = lambdas[i]}, &s);
        test_note("lambda %g: recall %.4f probed %.1f codes %.0f survivors %.0f reranked %.1f",
                  (double)lambdas[i], recall, (double)s.probed / (double)f.nq,
                  (double)s.codes / (double)f.nq, (double)s.survivors / (double)f.nq,
                  (double)s.reranked / (double)f.nq);
        CHECKF(recall >= floors[i], "lambda %g: recall %.4f", (double)lambdas[i], recall);
    }
    fixture_free(&f);
}

TEST_MAIN
