/* Distances between two vectors, and their dot product.
 *
 *     l2       root of the sum of squared differences       f32 arithmetic, as a double
 *     l1       sum of absolute differences                  doubles; int8: an integer
 *     cosine   1 - <a, b> / (|a| |b|), NULL if one is zero
 *     ip       -<a, b>
 *     hamming  bits that differ                             bit vectors only
 *
 * Sums are the kernels', taken over pieces of the length that they allow. */
#include <math.h>
#include <string.h>

#include "src/sql/vec.h"
#include "src/sql/vec_value.h"
#include "storage/base/error.h"

enum metric { L2, L1, COSINE, IP, DOT, HAMMING };

enum { PIECE = KERNEL_MAX_DIM };

/* Two vectors of one type and length; floats hold the first one's elements if it is of a 16-bit
 * type. */
struct pair {
    struct vec a, b;
    float *floats;
};

static void pair_free(struct pair *p)
{
    vec_free(&p->a);
    vec_free(&p->b);
    sqlite3_free(p->floats);
    p->floats = NULL;
}

static mn_status pair_read(const struct kernels *kn, sqlite3_value **args, struct pair *p,
                           mn_error *err)
{
    p->floats = NULL;
    mn_status st = vec_read_two(args, &p->a, &p->b, err);
    if (st != MN_OK || (p->a.type != MN_F16 && p->a.type != MN_BF16))
        return st;
    p->floats = vec_floats(kn, &p->a);
    if (p->floats)
        return MN_OK;
    pair_free(p);
    return mn_fail(err, MN_NOMEM, "out of memory");
}

/* ---- Sums ----------------------------------------------------------------------------------- */

static enum elem elem_of(mn_dtype type)
{
    return type == MN_F16 ? ELEM_F16 : type == MN_BF16 ? ELEM_BF16 : ELEM_F32;
}

static const char *element_at(const struct vec *v, size_t i)
{
    return (const char *)v->data + vec_bytes(v->type, i);
}

/* A kernel over the pair, piece by piece; int8 and bits are exact. */
static double sum_counts(kernel_count_fn fn, const struct vec *a, const struct vec *b)
{
    int64_t sum = 0;
    for (size_t at = 0; at < a->dim; at += PIECE) {
        int32_t part;
        size_t n = a->dim - at < PIECE ? a->dim - at : PIECE;
        fn(element_at(a, at), element_at(b, at), 0, 1, n, &part);
        sum += part;
    }
    return (double)sum;
}

static double sum_scores(kernel_score_fn fn, const float *query, const struct vec *rows)
{
    double sum = 0;
    for (size_t at = 0; at < rows->dim; at += PIECE) {
        float part;
        size_t n = rows->dim - at < PIECE ? rows->dim - at : PIECE;
        fn(query + at, element_at(rows, at), 0, 1, n, &part);
        sum += (double)part;
    }
    return sum;
}

static double sum_between(const struct kernels *kn, const struct vec *a, const struct vec *b,
                          const float *floats, enum metric m)
{
    if (a->type == MN_I8)
        return sum_counts(m == L2 ? kn->l2_i8 : kn->dot_i8, a, b);
    enum elem e = elem_of(a->type);
    return sum_scores(m == L2 ? kn->l2[e] : kn->dot[e], floats ? floats : a->data, b);
}

static double sum_of(const struct kernels *kn, const struct pair *p, enum metric m)
{
    return sum_between(kn, &p->a, &p->b, p->floats, m);
}

static double norm_of(const struct kernels *kn, const struct vec *v)
{
    if (v->type == MN_I8)
        return sum_counts(kn->dot_i8, v, v);
    double sum = 0;
    for (size_t at = 0; at < v->dim; at += PIECE) {
        float part;
        size_t n = v->dim - at < PIECE ? v->dim - at : PIECE;
        kn->norm[elem_of(v->type)](element_at(v, at), 0, 1, n, &part);
        sum += (double)part;
    }
    return sum;
}

static double cosine_between(const struct kernels *kn, const struct vec *a, const struct vec *b,
                             const float *floats)
{
    double norms = sqrt(norm_of(kn, a)) * sqrt(norm_of(kn, b));
    return 1 - sum_between(kn, a, b, floats, DOT) / norms;
}

double vec_distance_of(const struct kernels *kn, mn_metric metric, const struct vec *a,
                       const struct vec *b, const float *floats)
{
    switch (metric) {
    case MN_L2:
        return sqrt(sum_between(kn, a, b, floats, L2));
    case MN_IP:
        return -sum_between(kn, a, b, floats, DOT);
    case MN_COSINE:
        return cosine_between(kn, a, b, floats);
    default:
        return sum_counts(kn->hamming, a, b);
    }
}

static double sum_l1(const struct kernels *kn, const struct pair *p)
{
    double sum = 0;
    float a[256], b[256];
    for (size_t at = 0; at < p->a.dim; at += 256) {
        size_t n = p->a.dim - at < 256 ? p->a.dim - at : 256;
        vec_widen(kn, &p->a, at, n, a);
        vec_widen(kn, &p->b, at, n, b);
        for (size_t i = 0; i < n; i++)
            sum += fabs((double)a[i] - (double)b[i]);
    }
    return sum;
}

/* ---- Functions ------------------------------------------------------------------------------ */

/* What a metric cannot do with a type, in sqlite-vec's words; false if it can. */
static bool refused(enum metric m, mn_dtype type, mn_error *err)
{
    static const char *const names[] = {
        [L2] = "L2 distance",   [L1] = "L1 distance",  [COSINE] = "cosine distance",
        [IP] = "inner product", [DOT] = "dot product", [HAMMING] = "hamming distance"};
    if ((type == MN_BIT) == (m == HAMMING))
        return false;
    if (type == MN_BIT)
        return mn_fail(err, MN_INVALID, "Cannot calculate %s between two bitvectors.", names[m]);
    return mn_fail(err, MN_INVALID, "Cannot calculate %s between two %s vectors.", names[m],
                   vec_type_name(type));
}

/* Float results are rounded to f32, as those of sqlite-vec; SQLite makes NULL of NaN. */
static void answer(sqlite3_context *ctx, const struct kernels *kn, const struct pair *p,
                   enum metric m)
{
    switch (m) {
    case L2:
        sqlite3_result_double(ctx, (double)sqrtf((float)sum_of(kn, p, L2)));
        break;
    case L1:
        if (p->a.type == MN_I8)
            sqlite3_result_int64(ctx, (sqlite3_int64)sum_l1(kn, p));
        else
            sqlite3_result_double(ctx, sum_l1(kn, p));
        break;
    case COSINE:
        sqlite3_result_double(ctx, (double)(float)cosine_between(kn, &p->a, &p->b, p->floats));
        break;
    case IP:
        sqlite3_result_double(ctx, 0 - sum_of(kn, p, DOT));
        break;
    case DOT:
        sqlite3_result_double(ctx, sum_of(kn, p, DOT));
        break;
    case HAMMING:
        sqlite3_result_double(ctx, sum_counts(kn->hamming, &p->a, &p->b));
    }
}

static void distance(sqlite3_context *ctx, sqlite3_value **args, enum metric m)
{
    const struct kernels *kn = sqlite3_user_data(ctx);
    struct pair p;
    mn_error err;
    mn_error_clear(&err);
    if (pair_read(kn, args, &p, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    if (refused(m, p.a.type, &err))
        vec_fail(ctx, &err);
    else
        answer(ctx, kn, &p, m);
    pair_free(&p);
}

static void call_l2(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    distance(ctx, args, L2);
}

static void call_l1(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    distance(ctx, args, L1);
}

static void call_cosine(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    distance(ctx, args, COSINE);
}

static void call_ip(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    distance(ctx, args, IP);
}

static void call_dot(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    distance(ctx, args, DOT);
}

static void call_hamming(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    distance(ctx, args, HAMMING);
}

static void call_named(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    static const struct {
        const char *name;
        enum metric m;
    } metrics[] = {{"l2", L2}, {"l1", L1}, {"cosine", COSINE}, {"ip", IP}, {"hamming", HAMMING}};
    (void)n;
    const char *name = (const char *)sqlite3_value_text(args[2]);
    for (size_t i = 0; name && i < sizeof metrics / sizeof *metrics; i++) {
        if (sqlite3_stricmp(name, metrics[i].name) == 0) {
            distance(ctx, args, metrics[i].m);
            return;
        }
    }
    mn_error err;
    mn_error_clear(&err);
    if (!name && sqlite3_value_type(args[2]) != SQLITE_NULL)
        mn_fail(&err, MN_NOMEM, "out of memory");
    else
        mn_fail(&err, MN_INVALID,
                "vec_distance: the metric is '%.40s'; it may be l2, l1, cosine, "
                "ip or hamming",
                name ? name : "NULL");
    vec_fail(ctx, &err);
}

int vec_register_distance(sqlite3 *db)
{
    static const struct vec_function functions[] = {{"vec_distance_l2", 2, call_l2},
                                                    {"vec_distance_l1", 2, call_l1},
                                                    {"vec_distance_cosine", 2, call_cosine},
                                                    {"vec_distance_ip", 2, call_ip},
                                                    {"vec_distance_hamming", 2, call_hamming},
                                                    {"vec_dot", 2, call_dot},
                                                    {"vec_distance", 3, call_named}};
    return vec_register_functions(db, functions, sizeof functions / sizeof *functions);
}
