/* Vectors from and to other forms (JSON, base64, npy, other element types), and what can be asked
 * of one: type, length, whether it is sound. */
#include <math.h>
#include <string.h>

#include "src/formats/npy_header.h"
#include "src/formats/text.h"
#include "src/sql/vec.h"
#include "src/sql/vec_npy.h"
#include "src/sql/vec_value.h"
#include "storage/base/error.h"
#include "storage/base/number.h"

/* The type that an argument names; float32 if it is left out. */
static bool type_argument(sqlite3_context *ctx, int n, sqlite3_value **args, int i,
                          const char *what, mn_dtype *out)
{
    *out = MN_F32;
    if (i >= n)
        return true;
    const char *name = (const char *)sqlite3_value_text(args[i]);
    if (vec_type_parse(name, out))
        return true;
    mn_error err;
    mn_error_clear(&err);
    if (!name && sqlite3_value_type(args[i]) != SQLITE_NULL)
        mn_fail(&err, MN_NOMEM, "out of memory");
    else
        mn_fail(&err, MN_INVALID, "%s: the type is '%.40s'; it may be " VEC_TYPES_LIST, what,
                name ? name : "NULL");
    vec_fail(ctx, &err);
    return false;
}

/* ---- As a type ------------------------------------------------------------------------------ */

/* Returns a vector that was read, which is freed. */
static void give(sqlite3_context *ctx, struct vec *v)
{
    if (v->own) {
        vec_result(ctx, v->type, v->own, v->dim);
        v->own = NULL;
    } else {
        vec_result_copy(ctx, v->type, v->data, v->dim);
    }
    vec_free(v);
}

/* Returns v, which is freed, as `type`. */
static void convert(sqlite3_context *ctx, struct vec *v, mn_dtype type, const char *what)
{
    const struct kernels *kn = sqlite3_user_data(ctx);
    mn_error err;
    mn_error_clear(&err);
    if (v->type == type) {
        give(ctx, v);
        return;
    }
    if (v->type == MN_BIT || type == MN_BIT) {
        mn_fail(&err, MN_INVALID,
                v->type == MN_BIT ? "%s: bit vectors are not turned into numbers"
                                  : "%s: vec_quantize_binary() makes bit vectors of numbers",
                what);
        vec_fail(ctx, &err);
    } else {
        float *floats = vec_floats(kn, v);
        if (floats)
            vec_result_narrowed(ctx, kn, type, floats, v->dim, what);
        else
            sqlite3_result_error_nomem(ctx);
        sqlite3_free(floats);
    }
    vec_free(v);
}

/* vec_f32(): other types' bytes are taken as they are, as sqlite-vec does, but for those that it
 * does not have. vec_int8() and vec_bit(): always. */
static void as_type(sqlite3_context *ctx, sqlite3_value *value, mn_dtype type, const char *what)
{
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    unsigned subtype = sqlite3_value_subtype(value);
    bool own = type == MN_F16 || type == MN_BF16,
         numbers = subtype == VEC_SUBTYPE_F16 || subtype == VEC_SUBTYPE_BF16 ||
                   (own && (subtype == VEC_SUBTYPE_F32 || subtype == VEC_SUBTYPE_I8 ||
                            subtype == VEC_SUBTYPE_BIT));
    bool by_subtype = (own || type == MN_F32) && numbers;
    mn_status st = by_subtype ? vec_read(value, &v, &err) : vec_read_as(value, type, &v, &err);
    if (st != MN_OK)
        vec_fail(ctx, &err);
    else
        convert(ctx, &v, type, what);
}

static void call_f32(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    as_type(ctx, args[0], MN_F32, "vec_f32");
}

static void call_f16(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    as_type(ctx, args[0], MN_F16, "vec_f16");
}

static void call_bf16(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    as_type(ctx, args[0], MN_BF16, "vec_bf16");
}

static void call_int8(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    as_type(ctx, args[0], MN_I8, "vec_int8");
}

static void call_bit(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    as_type(ctx, args[0], MN_BIT, "vec_bit");
}

static void call_convert(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct vec v;
    mn_dtype type;
    mn_error err;
    mn_error_clear(&err);
    if (!type_argument(ctx, n, args, 1, "vec_convert", &type))
        return;
    if (vec_read(args[0], &v, &err) != MN_OK)
        vec_fail(ctx, &err);
    else
        convert(ctx, &v, type, "vec_convert");
}

/* ---- Questions ------------------------------------------------------------------------------ */

static void call_length(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    if (vec_read(args[0], &v, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    sqlite3_result_int64(ctx, (sqlite3_int64)v.dim);
    vec_free(&v);
}

static void call_type(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    if (vec_read(args[0], &v, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    sqlite3_result_text(ctx, vec_type_name(v.type), -1, SQLITE_STATIC);
    vec_free(&v);
}

static bool all_finite(const struct kernels *kn, const struct vec *v)
{
    float part[256];
    for (size_t at = 0; v->type != MN_BIT && at < v->dim; at += 256) {
        size_t n = v->dim - at < 256 ? v->dim - at : 256;
        vec_widen(kn, v, at, n, part);
        for (size_t i = 0; i < n; i++)
            if (!isfinite(part[i]))
                return false;
    }
    return true;
}

/* vec_valid(v [, dim [, type]]): for CHECK constraints; NULL for NULL. */
static void call_valid(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    mn_dtype type;
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    if (n < 1 || n > 3) {
        sqlite3_result_error(ctx, "vec_valid takes a vector, and optionally its dimension and type",
                             -1);
        return;
    }
    if (!type_argument(ctx, n, args, 2, "vec_valid", &type) ||
        sqlite3_value_type(args[0]) == SQLITE_NULL)
        return;
    unsigned subtype = sqlite3_value_subtype(args[0]);
    bool typed = n == 3 && (subtype == 0 || subtype == JSON_SUBTYPE);
    mn_status st = typed ? vec_read_as(args[0], type, &v, &err) : vec_read(args[0], &v, &err);
    if (st == MN_NOMEM) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    bool valid = st == MN_OK && all_finite(sqlite3_user_data(ctx), &v) &&
                 (n < 3 || v.type == type) &&
                 (n < 2 || sqlite3_value_type(args[1]) == SQLITE_NULL ||
                  sqlite3_value_int64(args[1]) == (sqlite3_int64)v.dim);
    sqlite3_result_int(ctx, valid);
    if (st == MN_OK)
        vec_free(&v);
}

static void call_version(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    (void)args;
    char *text = sqlite3_mprintf("v0.1.9+mneme.%s", mn_version());
    if (text)
        sqlite3_result_text(ctx, text, -1, sqlite3_free);
    else
        sqlite3_result_error_nomem(ctx);
}

static void call_debug(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    (void)args;
    const struct kernels *kn = sqlite3_user_data(ctx);
    char *text = sqlite3_mprintf("Version: v0.1.9\nDate: none\nCommit: mneme %s\nBuild flags: %s",
                                 mn_version(), kn->name);
    if (text)
        sqlite3_result_text(ctx, text, -1, sqlite3_free);
    else
        sqlite3_result_error_nomem(ctx);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void append_float(sqlite3_str *out, float x, bool exact)
{
    char text[NUMBER_TEXT];
    if (isnan(x))
        sqlite3_str_appendall(out, "null");
    else if (exact && isfinite(x))
        sqlite3_str_append(out, text, (int)number_put_f32(text, x));
    else
        sqlite3_str_appendf(out, "%f", (double)x);
}

static void append_elements(sqlite3_str *out, const struct kernels *kn, const struct vec *v,
                            bool exact)
{
    float part[256];
    const uint8_t *bits = v->data;
    for (size_t i = 0; i < v->dim; i++) {
        if (v->type != MN_BIT && i % 256 == 0)
            vec_widen(kn, v, i, v->dim - i < 256 ? v->dim - i : 256, part);
        if (i > 0)
            sqlite3_str_appendchar(out, 1, ',');
        if (v->type == MN_BIT)
            sqlite3_str_appendchar(out, 1, bits[i / 8] >> (i % 8) & 1 ? '1' : '0');
        else if (v->type == MN_I8)
            sqlite3_str_appendf(out, "%d", (int)part[i % 256]);
        else
            append_float(out, part[i % 256], exact || v->type != MN_F32);
    }
}

/* vec_to_json(v [, 'exact']): 6 decimals for float32 without 'exact', as sqlite-vec; otherwise the
 * few digits that read back as the same element. */
static void call_to_json(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    if (n == 2) {
        const char *word = (const char *)sqlite3_value_text(args[1]);
        if (!word || sqlite3_stricmp(word, "exact") != 0) {
            sqlite3_result_error(ctx, "2nd argument to vec_to_json() must be 'exact'.", -1);
            return;
        }
    }
    if (vec_read(args[0], &v, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    sqlite3_str *out = sqlite3_str_new(sqlite3_context_db_handle(ctx));
    sqlite3_str_appendchar(out, 1, '[');
    append_elements(out, sqlite3_user_data(ctx), &v, n == 2);
    sqlite3_str_appendchar(out, 1, ']');
    vec_free(&v);
    int rc = sqlite3_str_errcode(out), len = sqlite3_str_length(out);
    char *text = sqlite3_str_finish(out);
    if (rc == SQLITE_TOOBIG) {
        sqlite3_result_error_toobig(ctx);
    } else if (!text) {
        sqlite3_result_error_nomem(ctx);
    } else {
        sqlite3_result_text(ctx, text, len, sqlite3_free);
        sqlite3_result_subtype(ctx, JSON_SUBTYPE);
    }
}

/* Packs elements that must be 0 or 1. */
static void bits_from(sqlite3_context *ctx, const struct vec *v)
{
    const int8_t *from = v->data;
    mn_error err;
    mn_error_clear(&err);
    if (v->dim % 8 != 0)
        mn_fail(&err, MN_INVALID,
                "vec_from_json: bit vectors have a multiple of 8 elements, this "
                "has %zu",
                v->dim);
    for (size_t i = 0; i < v->dim; i++)
        if (from[i] != 0 && from[i] != 1)
            mn_fail(&err, MN_INVALID, "vec_from_json: element %zu is %d; bits are 0 or 1", i,
                    from[i]);
    if (err.code != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    uint8_t *bits = sqlite3_malloc64(v->dim / 8);
    if (!bits) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    memset(bits, 0, v->dim / 8);
    for (size_t i = 0; i < v->dim; i++)
        bits[i / 8] |= (uint8_t)(from[i] << (i % 8));
    vec_result(ctx, MN_BIT, bits, v->dim);
}

static void call_from_json(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct vec v;
    mn_dtype type;
    mn_error err;
    mn_error_clear(&err);
    if (!type_argument(ctx, n, args, 1, "vec_from_json", &type))
        return;
    if (sqlite3_value_type(args[0]) != SQLITE_TEXT) {
        sqlite3_result_error(ctx, "vec_from_json: the 1st argument must be a TEXT such as '[1, 2]'",
                             -1);
        return;
    }
    if (vec_read_as(args[0], type == MN_BIT ? MN_I8 : type, &v, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    if (type == MN_BIT) {
        bits_from(ctx, &v);
        vec_free(&v);
    } else {
        give(ctx, &v);
    }
}

/* ---- base64 --------------------------------------------------------------------------------- */

static void call_to_base64(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    if (vec_read(args[0], &v, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    size_t len = (v.bytes + 2) / 3 * 4;
    char *text = sqlite3_malloc64(len);
    if (text) {
        base64_encode(v.data, v.bytes, text);
        sqlite3_result_text64(ctx, text, len, sqlite3_free, SQLITE_UTF8);
    } else {
        sqlite3_result_error_nomem(ctx);
    }
    vec_free(&v);
}

static void call_from_base64(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    mn_dtype type;
    mn_error err;
    mn_error_clear(&err);
    if (!type_argument(ctx, n, args, 1, "vec_from_base64", &type))
        return;
    if (sqlite3_value_type(args[0]) != SQLITE_TEXT) {
        sqlite3_result_error(ctx, "vec_from_base64: the 1st argument must be a TEXT", -1);
        return;
    }
    const char *text = (const char *)sqlite3_value_text(args[0]);
    size_t len = (size_t)sqlite3_value_bytes(args[0]), bytes = 0, each = vec_bytes(type, 1);
    char *data = text ? sqlite3_malloc64(len + 1) : NULL;
    if (!data) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    if (!base64_decode(text, len, data, &bytes))
        mn_fail(&err, MN_INVALID,
                "vec_from_base64: the text of %zu bytes is no base64 (RFC 4648, "
                "padded)",
                len);
    else if (bytes == 0)
        mn_fail(&err, MN_INVALID, "zero-length vectors are not supported.");
    else if (each > 1 && bytes % each != 0)
        mn_fail(&err, MN_INVALID,
                "vec_from_base64: the text holds %zu bytes; a %s vector needs a "
                "multiple of %zu",
                bytes, vec_type_name(type), each);
    if (err.code == MN_OK) {
        vec_result(ctx, type, data, type == MN_BIT ? 8 * bytes : bytes / each);
    } else {
        sqlite3_free(data);
        vec_fail(ctx, &err);
    }
}

/* ---- npy ------------------------------------------------------------------------------------ */

/* vec_from_npy(blob [, row]): rows count from 0; without one the array must hold one vector. */
static void call_from_npy(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct vec_npy npy;
    mn_error err;
    mn_error_clear(&err);
    if (vec_npy_open(args[0], "vec_from_npy", &npy, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    sqlite3_int64 row = n == 2 ? sqlite3_value_int64(args[1]) : 0;
    if (n == 1 && npy.n != 1)
        mn_fail(&err, MN_INVALID,
                "vec_from_npy: the array holds %llu vectors: say which, counted "
                "from 0, as 2nd argument, or read them all with vec_npy_each()",
                (unsigned long long)npy.n);
    else if (row < 0 || (uint64_t)row >= npy.n)
        mn_fail(&err, MN_INVALID, "vec_from_npy: there is no row %lld; the array holds %llu",
                (long long)row, (unsigned long long)npy.n);
    if (err.code != MN_OK)
        vec_fail(ctx, &err);
    else
        vec_npy_result(ctx, sqlite3_user_data(ctx), &npy, (uint64_t)row);
}

/* The array's elements, of the type that `descr` says, behind a header. */
static void call_to_npy(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    const struct kernels *kn = sqlite3_user_data(ctx);
    struct vec v;
    mn_error err;
    mn_error_clear(&err);
    if (vec_read(args[0], &v, &err) != MN_OK) {
        vec_fail(ctx, &err);
        return;
    }
    /* numpy has no bfloat16: float32 holds it; bits become bools */
    static const char *const descr[] = {
        [MN_F32] = "<f4", [MN_F16] = "<f2", [MN_BF16] = "<f4", [MN_I8] = "|i1", [MN_BIT] = "|b1"};
    bool widened = v.type == MN_BF16, bits = v.type == MN_BIT;
    size_t bytes = widened ? 4 * v.dim : bits ? v.dim : v.bytes;
    char *out = sqlite3_malloc64(NPY_HEADER + bytes);
    if (!out) {
        vec_free(&v);
        sqlite3_result_error_nomem(ctx);
        return;
    }
    npy_header_make(out, descr[v.type], (uint64_t[]){v.dim}, 1);
    if (widened)
        vec_widen(kn, &v, 0, v.dim, (float *)(void *)(out + NPY_HEADER));
    else if (!bits)
        memcpy(out + NPY_HEADER, v.data, bytes);
    for (size_t i = 0; bits && i < v.dim; i++)
        out[NPY_HEADER + i] = (char)(((const uint8_t *)v.data)[i / 8] >> (i % 8) & 1);
    sqlite3_result_blob64(ctx, out, NPY_HEADER + bytes, sqlite3_free);
    vec_free(&v);
}

int vec_register_make(sqlite3 *db)
{
    static const struct vec_function functions[] = {{"vec_f32", 1, call_f32},
                                                    {"vec_f16", 1, call_f16},
                                                    {"vec_bf16", 1, call_bf16},
                                                    {"vec_int8", 1, call_int8},
                                                    {"vec_bit", 1, call_bit},
                                                    {"vec_convert", 2, call_convert},
                                                    {"vec_length", 1, call_length},
                                                    {"vec_type", 1, call_type},
                                                    {"vec_valid", -1, call_valid},
                                                    {"vec_version", 0, call_version},
                                                    {"vec_debug", 0, call_debug},
                                                    {"vec_to_json", 1, call_to_json},
                                                    {"vec_to_json", 2, call_to_json},
                                                    {"vec_from_json", 1, call_from_json},
                                                    {"vec_from_json", 2, call_from_json},
                                                    {"vec_to_base64", 1, call_to_base64},
                                                    {"vec_from_base64", 1, call_from_base64},
                                                    {"vec_from_base64", 2, call_from_base64},
                                                    {"vec_to_npy", 1, call_to_npy},
                                                    {"vec_from_npy", 1, call_from_npy},
                                                    {"vec_from_npy", 2, call_from_npy}};
    return vec_register_functions(db, functions, sizeof functions / sizeof *functions);
}
