/* Aggregates over vectors: vec_sum() and vec_mean(). They add in double and answer float32,
 * whatever the type, so that nothing overflows or is rounded twice. NULLs are skipped; no vector at
 * all gives NULL. */
#include <string.h>

#include "src/sql/vec.h"
#include "src/sql/vec_value.h"
#include "storage/base/error.h"

/* Zeroed by SQLite before the first row. */
struct sum {
    double *sums; /* [dim] */
    size_t dim;
    mn_dtype type;
    uint64_t n;
};

static mn_status sum_add(const struct kernels *kn, struct sum *s, const struct vec *v,
                         mn_error *err)
{
    if (v->type == MN_BIT)
        return mn_fail(err, MN_INVALID, "Cannot add two bitvectors together.");
    if (!s->sums) {
        s->sums = sqlite3_malloc64(v->dim * sizeof *s->sums);
        if (!s->sums)
            return mn_fail(err, MN_NOMEM, "out of memory");
        memset(s->sums, 0, v->dim * sizeof *s->sums);
        s->dim = v->dim;
        s->type = v->type;
    }
    if (v->type != s->type || v->dim != s->dim)
        return mn_fail(err, MN_INVALID,
                       "vector %llu is %s of %zu dimensions, while the first is "
                       "%s of %zu",
                       (unsigned long long)s->n + 1, vec_type_name(v->type), v->dim,
                       vec_type_name(s->type), s->dim);
    float part[256];
    for (size_t at = 0; at < v->dim; at += 256) {
        size_t n = v->dim - at < 256 ? v->dim - at : 256;
        vec_widen(kn, v, at, n, part);
        for (size_t i = 0; i < n; i++)
            s->sums[at + i] += (double)part[i];
    }
    s->n++;
    return MN_OK;
}

static void step(sqlite3_context *ctx, int n_args, sqlite3_value **args)
{
    (void)n_args;
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    if (sqlite3_value_type(args[0]) == SQLITE_NULL)
        return;
    struct sum *s = sqlite3_aggregate_context(ctx, sizeof *s);
    if (!s) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    mn_status st = vec_read(args[0], &v, &err);
    if (st == MN_OK) {
        st = sum_add(sqlite3_user_data(ctx), s, &v, &err);
        vec_free(&v);
    }
    if (st != MN_OK)
        vec_fail(ctx, &err);
}

/* SQLite calls it after a failed step too. */
static void finish(sqlite3_context *ctx, bool mean)
{
    struct sum *s = sqlite3_aggregate_context(ctx, 0);
    if (!s || !s->sums)
        return;
    float *out = sqlite3_malloc64(s->dim * sizeof *out);
    for (size_t i = 0; out && i < s->dim; i++)
        out[i] = (float)(mean ? s->sums[i] / (double)s->n : s->sums[i]);
    if (out)
        vec_result(ctx, MN_F32, out, s->dim);
    else
        sqlite3_result_error_nomem(ctx);
    sqlite3_free(s->sums);
    s->sums = NULL;
}

static void finish_sum(sqlite3_context *ctx)
{
    finish(ctx, false);
}

static void finish_mean(sqlite3_context *ctx)
{
    finish(ctx, true);
}

int vec_register_sum(sqlite3 *db)
{
    void *kn = (void *)(uintptr_t)kernels_select(ISA_COUNT);
    int flags = vec_function_flags();
    int rc = sqlite3_create_function_v2(db, "vec_sum", 1, flags, kn, NULL, step, finish_sum, NULL);
    if (rc == SQLITE_OK)
        rc =
            sqlite3_create_function_v2(db, "vec_mean", 1, flags, kn, NULL, step, finish_mean, NULL);
    return rc;
}
