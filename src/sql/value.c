#include "src/sql/value.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#include "index/scan.h"
#include "src/engine/engine.h"
#include "src/sql/vec_value.h"
#include "storage/base/number.h"
#include "storage/base/error.h"

/* ---- Vectors --------------------------------------------------------------------------------- */

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

/* A JSON array of exactly dim numbers into out [dim]. */
static mn_status read_array(const char *text, size_t len, uint32_t dim, float *out,
                            const char *what, mn_error *err)
{
    const char *p = text, *end = text + len;
    uint32_t n = 0;
    p = skip_blanks(p, end);
    if (p == end || *p != '[')
        return mn_fail(err, MN_INVALID,
                       "%s: the vector's text does not begin with '[': give a JSON array of %u "
                       "numbers, or a blob",
                       what, dim);
    p = skip_blanks(p + 1, end);
    while (p < end && *p != ']') {
        struct number number;
        float value = 0;
        const char *next = number_scan(p, end, false, &number);
        if (!next || !number_f32(&number, &value))
            return mn_fail(err, MN_INVALID, "%s: element %u (byte %zu of the text) is no f32", what,
                           n, (size_t)(p - text));
        if (n < dim)
            out[n] = value;
        n++;
        p = skip_blanks(next, end);
        if (p < end && *p == ',') {
            p = skip_blanks(p + 1, end);
            if (p < end && *p == ']')
                return mn_fail(err, MN_INVALID, "%s: a number is missing at byte %zu of the text",
                               what, (size_t)(p - text));
        } else if (p < end && *p != ']') {
            return mn_fail(err, MN_INVALID, "%s: a comma is missing at byte %zu of the text", what,
                           (size_t)(p - text));
        }
    }
    if (p == end || skip_blanks(p + 1, end) != end)
        return mn_fail(err, MN_INVALID, "%s: the array does not end with the text", what);
    if (n != dim)
        return mn_fail(err, MN_INVALID, "%s: the vector has %u elements, the column %u", what, n,
                       dim);
    return MN_OK;
}

static mn_status pack_bits(const float *from, uint32_t dim, uint8_t *to, const char *what,
                           mn_error *err)
{
    memset(to, 0, dim / 8);
    for (uint32_t i = 0; i < dim; i++) {
        if (from[i] != 0 && from[i] != 1)
            return mn_fail(err, MN_INVALID, "%s: element %u is %g; bits are 0 or 1", what, i,
                           (double)from[i]);
        to[i / 8] = (uint8_t)(to[i / 8] | (from[i] == 1) << (i % 8));
    }
    return MN_OK;
}

static mn_status from_floats(const struct kernels *kn, const struct vector_type *type,
                             const float *from, void *to, const char *what, mn_error *err)
{
    if (type->dtype == MN_BIT)
        return pack_bits(from, type->dim, to, what, err);
    return convert_f32(kn, type->dtype, type->dim, from, to, what, err);
}

static mn_status read_text(const struct kernels *kn, const struct vector_type *type,
                           const char *text, size_t len, void *to, const char *what, mn_error *err)
{
    float *floats = sqlite3_malloc64((sqlite3_uint64)type->dim * sizeof *floats);
    if (!floats)
        return mn_fail(err, MN_NOMEM, "%s: out of memory", what);
    mn_status st = read_array(text, len, type->dim, floats, what, err);
    if (st == MN_OK)
        st = from_floats(kn, type, floats, to, what, err);
    sqlite3_free(floats);
    return st;
}

static mn_status read_blob(const struct kernels *kn, const struct vector_type *type,
                           const void *blob, size_t len, void *to, const char *what, mn_error *err)
{
    size_t bytes = mn_vector_bytes(type->dtype, type->dim), f32 = (size_t)type->dim * 4;
    if (len == bytes) {
        memcpy(to, blob, bytes);
        return MN_OK;
    }
    if (len != f32 || type->dtype == MN_BIT)
        return mn_fail(err, MN_INVALID, "%s: the blob has %zu bytes; a vector of %u x %s has %zu%s",
                       what, len, type->dim, mn_dtype_name(type->dtype), bytes,
                       type->dtype == MN_F32 || type->dtype == MN_BIT ? ""
                                                                      : ", one of f32 4 x dim");
    float *floats = sqlite3_malloc64(f32);
    if (!floats)
        return mn_fail(err, MN_NOMEM, "%s: out of memory", what);
    memcpy(floats, blob, f32); /* SQLite's blobs need not be aligned */
    mn_status st = from_floats(kn, type, floats, to, what, err);
    sqlite3_free(floats);
    return st;
}

/* The type that a value's subtype tells; false: none. */
static bool typed(sqlite3_value *v, mn_dtype *out)
{
    switch (sqlite3_value_subtype(v)) {
    case VEC_SUBTYPE_F32:
        *out = MN_F32;
        return true;
    case VEC_SUBTYPE_F16:
        *out = MN_F16;
        return true;
    case VEC_SUBTYPE_BF16:
        *out = MN_BF16;
        return true;
    case VEC_SUBTYPE_I8:
        *out = MN_I8;
        return true;
    case VEC_SUBTYPE_BIT:
        *out = MN_BIT;
        return true;
    default:
        return false;
    }
}

bool value_is_vector(const struct vector_type *type, sqlite3_value *v)
{
    mn_dtype dtype;
    return sqlite3_value_type(v) == SQLITE_BLOB &&
           (size_t)sqlite3_value_bytes(v) == mn_vector_bytes(type->dtype, type->dim) &&
           (!typed(v, &dtype) || dtype == type->dtype);
}

/* A blob that tells its type. */
static mn_status read_typed(const struct kernels *kn, const struct vector_type *type,
                            sqlite3_value *v, void *to, const char *what, mn_error *err)
{
    struct vec vec;
    mn_status st = vec_read(v, &vec, err);
    if (st) {
        mn_error_context(err, "%s: ", what);
        return st;
    }
    if (vec.dim != type->dim)
        st = mn_fail(err, MN_INVALID, "%s: the vector has %zu elements, the column %u", what,
                     vec.dim, type->dim);
    else if (vec.type == type->dtype)
        memcpy(to, vec.data, vec.bytes);
    else if (vec.type == MN_BIT || type->dtype == MN_BIT)
        st = mn_fail(err, MN_INVALID,
                     "%s: the vector is of %s, the column of %s: neither is made of the other "
                     "(vec_quantize_binary() makes bits)",
                     what, mn_dtype_name(vec.type), mn_dtype_name(type->dtype));
    else {
        float *floats = vec_floats(kn, &vec);
        st = floats ? from_floats(kn, type, floats, to, what, err)
                    : mn_fail(err, MN_NOMEM, "%s: out of memory", what);
        sqlite3_free(floats);
    }
    vec_free(&vec);
    return st;
}

mn_status value_vector(const struct kernels *kn, const struct vector_type *type, sqlite3_value *v,
                       const char *what, void **out, mn_error *err)
{
    int kind = sqlite3_value_type(v);
    *out = NULL;
    if (kind == SQLITE_NULL)
        return MN_OK;
    if (kind != SQLITE_BLOB && kind != SQLITE_TEXT)
        return mn_fail(err, MN_INVALID,
                       "%s: a number is no vector: give a blob of %zu bytes or a JSON array of %u "
                       "numbers",
                       what, mn_vector_bytes(type->dtype, type->dim), type->dim);
    void *to = sqlite3_malloc64(mn_vector_bytes(type->dtype, type->dim));
    const void *from = kind == SQLITE_BLOB ? sqlite3_value_blob(v) : sqlite3_value_text(v);
    size_t len = (size_t)sqlite3_value_bytes(v);
    mn_status st =
        to && (from || len == 0) ? MN_OK : mn_fail(err, MN_NOMEM, "%s: out of memory", what);
    mn_dtype dtype;
    if (st == MN_OK && kind == SQLITE_BLOB && typed(v, &dtype))
        st = read_typed(kn, type, v, to, what, err);
    else if (st == MN_OK && kind == SQLITE_BLOB)
        st = read_blob(kn, type, from ? from : "", len, to, what, err);
    else if (st == MN_OK)
        st = read_text(kn, type, from, len, to, what, err);
    if (st == MN_OK)
        st = scan_check_vector(type->dtype, type->metric, type->dim, to, what, err);
    if (st) {
        sqlite3_free(to);
        return st;
    }
    *out = to;
    return MN_OK;
}

/* ---- Attributes ------------------------------------------------------------------------------ */

static bool has_word(const char *type, size_t len, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= len; i++)
        if (sqlite3_strnicmp(type + i, word, (int)n) == 0)
            return true;
    return false;
}

enum affinity affinity_of(const char *type, size_t len)
{
    if (has_word(type, len, "INT"))
        return AFFINITY_INTEGER;
    if (has_word(type, len, "CHAR") || has_word(type, len, "CLOB") || has_word(type, len, "TEXT"))
        return AFFINITY_TEXT;
    if (len == 0 || has_word(type, len, "BLOB"))
        return AFFINITY_BLOB;
    if (has_word(type, len, "REAL") || has_word(type, len, "FLOA") || has_word(type, len, "DOUB"))
        return AFFINITY_REAL;
    return AFFINITY_NUMERIC;
}

mn_value value_under(sqlite3_value *v, enum affinity affinity)
{
    mn_value out = {0};
    int kind = sqlite3_value_type(v);
    if (affinity >= AFFINITY_NUMERIC && kind == SQLITE_TEXT)
        kind = sqlite3_value_numeric_type(v);
    if (affinity == AFFINITY_TEXT && (kind == SQLITE_INTEGER || kind == SQLITE_FLOAT))
        kind = SQLITE_TEXT;
    switch (kind) {
    case SQLITE_INTEGER:
        out.type = MN_INTEGER;
        out.integer = sqlite3_value_int64(v);
        break;
    case SQLITE_FLOAT:
        out.type = MN_REAL;
        out.real = sqlite3_value_double(v);
        break;
    case SQLITE_TEXT:
        out.type = MN_TEXT;
        out.data = sqlite3_value_text(v);
        out.len = (size_t)sqlite3_value_bytes(v);
        break;
    case SQLITE_BLOB:
        out.type = MN_BLOB;
        out.data = sqlite3_value_blob(v);
        out.len = (size_t)sqlite3_value_bytes(v);
        break;
    default:
        break;
    }
    return out;
}
