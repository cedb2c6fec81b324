/* Vectors made of vectors: sums, slices, norms, quantised ones. */
#include <math.h>
#include <string.h>

#include "src/sql/vec.h"
#include "src/sql/vec_value.h"
#include "storage/base/error.h"

/* ---- Sums ----------------------------------------------------------------------------------- */

/* a + sign b; int8 wraps, as in sqlite-vec. */
static void add_two(sqlite3_context *ctx, const struct vec *a, const struct vec *b, int sign,
                    const char *what)
{
    const struct kernels *kn = sqlite3_user_data(ctx);
    if (a->type == MN_I8) {
        int8_t *out = sqlite3_malloc64(a->dim);
        const int8_t *x = a->data, *y = b->data;
        for (size_t i = 0; out && i < a->dim; i++)
            out[i] = (int8_t)(uint8_t)(x[i] + sign * y[i]);
        if (out)
            vec_result(ctx, MN_I8, out, a->dim);
        else
            sqlite3_result_error_nomem(ctx);
        return;
    }
    float *x = vec_floats(kn, a), *y = vec_floats(kn, b);
    for (size_t i = 0; x && y && i < a->dim; i++)
        x[i] += (float)sign * y[i];
    if (x && y)
        vec_result_narrowed(ctx, kn, a->type, x, a->dim, what);
    else
        sqlite3_result_error_nomem(ctx);
    sqlite3_free(x);
    sqlite3_free(y);
}

static void add(sqlite3_context *ctx, sqlite3_value **args, int sign)
{
    struct vec a, b;
    mn_error err;
    mn_error_clear(&err);
    if (vec_read_two(args, &a, &b, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    if (a.type == MN_BIT)
        sqlite3_result_error(ctx,
                             sign > 0 ? "Cannot add two bitvectors together."
                                      : "Cannot subtract two bitvectors together.",
                             -1);
    else
        add_two(ctx, &a, &b, sign, sign > 0 ? "vec_add" : "vec_sub");
    vec_free(&a);
    vec_free(&b);
}

static void call_add(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    add(ctx, args, 1);
}

static void call_sub(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    add(ctx, args, -1);
}

/* ---- One vector ----------------------------------------------------------------------------- */

/* Each of these answers for one vector, which its caller frees. */
typedef void (*change_fn)(sqlite3_context *ctx, const struct vec *v, sqlite3_value **args);

static void change(sqlite3_context *ctx, sqlite3_value **args, change_fn fn)
{
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    if (vec_read(args[0], &v, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    fn(ctx, &v, args);
    vec_free(&v);
}

/* What is wrong with a slice, in sqlite-vec's words and order; NULL if nothing. */
static const char *slice_wrong(const struct vec *v, sqlite3_int64 start, sqlite3_int64 end)
{
    sqlite3_int64 dim = (sqlite3_int64)v->dim;
    if (start < 0)
        return "slice 'start' index must be a postive number.";
    if (end < 0)
        return "slice 'end' index must be a postive number.";
    if (start > dim)
        return "slice 'start' index is greater than the number of dimensions";
    if (end > dim)
        return "slice 'end' index is greater than the number of dimensions";
    if (start > end)
        return "slice 'start' index is greater than 'end' index";
    if (start == end)
        return "slice 'start' index is equal to the 'end' index, vectors must have non-zero length";
    if (v->type == MN_BIT && start % 8 != 0)
        return "start index must be divisible by 8.";
    if (v->type == MN_BIT && end % 8 != 0)
        return "end index must be divisible by 8.";
    return NULL;
}

static void slice(sqlite3_context *ctx, const struct vec *v, sqlite3_value **args)
{
    sqlite3_int64 start = sqlite3_value_int(args[1]), end = sqlite3_value_int(args[2]);
    const char *wrong = slice_wrong(v, start, end);
    if (wrong)
        sqlite3_result_error(ctx, wrong, -1);
    else
        vec_result_copy(ctx, v->type, (const char *)v->data + vec_bytes(v->type, (size_t)start),
                        (size_t)(end - start));
}

static void call_slice(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    change(ctx, args, slice);
}

/* To length 1; the zero vector gives NaN, as in sqlite-vec. */
static void normalize(sqlite3_context *ctx, const struct vec *v, sqlite3_value **args)
{
    (void)args;
    const struct kernels *kn = sqlite3_user_data(ctx);
    if (v->type == MN_I8 || v->type == MN_BIT) {
        sqlite3_result_error(ctx, "only float32 vectors are supported when normalizing", -1);
        return;
    }
    float *x = vec_floats(kn, v);
    if (!x) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    double sum = 0;
    for (size_t i = 0; i < v->dim; i++)
        sum += (double)x[i] * (double)x[i];
    double norm = sqrt(sum);
    for (size_t i = 0; i < v->dim; i++)
        x[i] = (float)((double)x[i] / norm);
    vec_result_narrowed(ctx, kn, v->type, x, v->dim, "vec_normalize");
    sqlite3_free(x);
}

static void call_normalize(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    change(ctx, args, normalize);
}

static void scale(sqlite3_context *ctx, const struct vec *v, sqlite3_value **args)
{
    const struct kernels *kn = sqlite3_user_data(ctx);
    int type = sqlite3_value_numeric_type(args[1]);
    if (v->type == MN_BIT || (type != SQLITE_INTEGER && type != SQLITE_FLOAT)) {
        sqlite3_result_error(ctx,
                             v->type == MN_BIT ? "Cannot scale a bitvector."
                                               : "vec_scale: the 2nd argument must be a number",
                             -1);
        return;
    }
    double by = sqlite3_value_double(args[1]);
    float *x = vec_floats(kn, v);
    if (!x) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    for (size_t i = 0; i < v->dim; i++)
        x[i] = (float)((double)x[i] * by);
    vec_result_narrowed(ctx, kn, v->type, x, v->dim, "vec_scale");
    sqlite3_free(x);
}

static void call_scale(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    change(ctx, args, scale);
}

/* ---- Quantised ------------------------------------------------------------------------------ */

static void quantize_binary(sqlite3_context *ctx, const struct vec *v, sqlite3_value **args)
{
    (void)args;
    const struct kernels *kn = sqlite3_user_data(ctx);
    if (v->type == MN_BIT || v->dim % 8 != 0) {
        sqlite3_result_error(
            ctx,
            v->type == MN_BIT ? "Can only binary quantize float or int8 vectors"
                              : "Binary quantization requires vectors with a length divisible by 8",
            -1);
        return;
    }
    uint8_t *out = sqlite3_malloc64(v->dim / 8);
    if (!out) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    for (size_t i = 0; i < v->dim; i += 8) {
        float x[8];
        uint8_t bits = 0;
        vec_widen(kn, v, i, 8, x);
        for (int j = 0; j < 8; j++)
            bits |= (uint8_t)((x[j] > 0) << j);
        out[i / 8] = bits;
    }
    vec_result(ctx, MN_BIT, out, v->dim);
}

static void call_quantize_binary(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    change(ctx, args, quantize_binary);
}

/* [-1, 1] to 256 steps, by sqlite-vec's arithmetic: 1 gives 126. */
static int8_t quantize_unit(float x)
{
    double step = (double)(float)(2.0 / 255), r = ((double)x + 1.0) / step - 128;
    return r <= INT8_MIN ? INT8_MIN : r < INT8_MAX ? (int8_t)r : INT8_MAX;
}

static void call_quantize_int8(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    const struct kernels *kn = sqlite3_user_data(ctx);
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    unsigned subtype = sqlite3_value_subtype(args[0]);
    bool half = subtype == VEC_SUBTYPE_F16 || subtype == VEC_SUBTYPE_BF16;
    if ((half ? vec_read(args[0], &v, &err) : vec_read_as(args[0], MN_F32, &v, &err)) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    const char *word = (const char *)sqlite3_value_text(args[1]);
    if (!word || sqlite3_stricmp(word, "unit") != 0) {
        sqlite3_result_error(ctx, "2nd argument to vec_quantize_int8() must be 'unit'.", -1);
        vec_free(&v);
        return;
    }
    float *x = vec_floats(kn, &v);
    int8_t *out = x ? sqlite3_malloc64(v.dim) : NULL;
    for (size_t i = 0; out && i < v.dim; i++)
        out[i] = quantize_unit(x[i]);
    if (out)
        vec_result(ctx, MN_I8, out, v.dim);
    else
        sqlite3_result_error_nomem(ctx);
    sqlite3_free(x);
    vec_free(&v);
}

int vec_register_change(sqlite3 *db)
{
    static const struct vec_function functions[] = {
        {"vec_add", 2, call_add},
        {"vec_sub", 2, call_sub},
        {"vec_slice", 3, call_slice},
        {"vec_normalize", 1, call_normalize},
        {"vec_scale", 2, call_scale},
        {"vec_quantize_binary", 1, call_quantize_binary},
        {"vec_quantize_int8", 2, call_quantize_int8}};
    return vec_register_functions(db, functions, sizeof functions / sizeof *functions);
}
