#include "src/sql/vec_value.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"
#include "storage/base/error.h"
#include "storage/base/number.h"

enum { FLAG_RESULT_SUBTYPE = 0x001000000 }; /* since 3.45; headers of older versions lack it */

/* A list of elements that grows as a text is read. */
struct list {
    char *data;
    size_t n, cap; /* bytes */
};

static bool list_add(struct list *l, const void *element, size_t bytes)
{
    if (l->n + bytes > l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 1024;
        char *data = sqlite3_realloc64(l->data, cap);
        if (!data)
            return false;
        l->data = data;
        l->cap = cap;
    }
    memcpy(l->data + l->n, element, bytes);
    l->n += bytes;
    return true;
}

size_t vec_bytes(mn_dtype type, size_t dim)
{
    switch (type) {
    case MN_F32:
        return 4 * dim;
    case MN_F16:
    case MN_BF16:
        return 2 * dim;
    case MN_I8:
        return dim;
    default:
        return dim / 8;
    }
}

static const char *const type_names[] = {[MN_F32] = "float32",
                                         [MN_F16] = "float16",
                                         [MN_BF16] = "bfloat16",
                                         [MN_I8] = "int8",
                                         [MN_BIT] = "bit"};

const char *vec_type_name(mn_dtype type)
{
    return type_names[type];
}

bool vec_type_parse(const char *name, mn_dtype *out)
{
    for (size_t i = 0; name && i < sizeof type_names / sizeof *type_names; i++) {
        if (sqlite3_stricmp(name, type_names[i]) == 0 ||
            sqlite3_stricmp(name, mn_dtype_name((mn_dtype)i)) == 0) {
            *out = (mn_dtype)i;
            return true;
        }
    }
    return false;
}

/* ---- From text ------------------------------------------------------------------------------ */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* strtod in the C locale, the usual numbers by a shorter way. *end is p if there is no number;
 * false if it is out of a double's range. */
static bool read_double(const char *p, const char *text_end, const char **end, double *out)
{
    struct number n;
    while (is_space(*p))
        p++;
    const char *after = number_scan(p, text_end, true, &n);
    if (after && n.exact && (after == text_end || strchr(" \t\r\n,]", *after)) &&
        number_f64(&n, out) && (*out != 0 || n.digits == 0)) {
        *end = after;
        return true;
    }
    char *stop;
    errno = 0;
    *out = strtod_l(p, &stop, newlocale(LC_ALL_MASK, "C", (locale_t)0)); /* the C locale is a
                                                                   constant: nothing to free */
    *end = stop;
    return errno != ERANGE || (*out != 0 && !isinf(*out));
}

/* Reads one element at *at, whose bytes go to the list. Sets *at to where it ends, or leaves it if
 * there is none. */
static mn_status read_element(const char **at, const char *end, mn_dtype type, struct list *out,
                              mn_error *err)
{
    bool added;
    if (type == MN_I8) {
        char *stop;
        errno = 0;
        long value = strtol(*at, &stop, 10);
        if (errno == ERANGE)
            return mn_fail(err, MN_INVALID, "JSON parsing error");
        if (stop == *at)
            return MN_OK;
        if (value < INT8_MIN || value > INT8_MAX)
            return mn_fail(err, MN_INVALID, "JSON parsing error: value out of range for int8");
        int8_t element = (int8_t)value;
        *at = stop;
        added = list_add(out, &element, sizeof element);
    } else {
        double value;
        const char *stop;
        if (!read_double(*at, end, &stop, &value))
            return mn_fail(err, MN_INVALID, "JSON parsing error");
        if (stop == *at || is_space(stop[-1]))
            return MN_OK;
        float element = (float)value;
        *at = stop;
        added = list_add(out, &element, sizeof element);
    }
    return added ? MN_OK : mn_fail(err, MN_NOMEM, "out of memory");
}

/* "[1, 2.5]" to int8, or to f32 for any other type. Lenient, as sqlite-vec is: commas may be
 * blanks, doubled or left out, what follows ] does not count, and ] may be missing. */
static mn_status read_list(const char *text, size_t len, mn_dtype type, struct list *out,
                           mn_error *err)
{
    const char *at = text, *end = text + len;
    if (len == 0)
        return mn_fail(err, MN_INVALID, "zero-length vectors are not supported.");
    while (at < end && is_space(*at))
        at++;
    if (at == end || *at != '[')
        return mn_fail(err, MN_INVALID, "JSON array parsing error: Input does not start with '['");
    at++;
    while (at < end) {
        const char *first = at;
        mn_status st = read_element(&at, end, type, out, err);
        if (st != MN_OK)
            return st;
        if (at == first && *at == ']')
            break;
        if (at == first)
            return mn_fail(err, MN_INVALID, "JSON parsing error");
        while (at < end && (*at == ',' || *at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
            at++;
    }
    if (out->n == 0)
        return mn_fail(err, MN_INVALID, "zero-length vectors are not supported.");
    return MN_OK;
}

static mn_status read_text(sqlite3_value *value, mn_dtype type, struct vec *out, mn_error *err)
{
    struct list list = {NULL, 0, 0};
    const char *text = (const char *)sqlite3_value_text(value);
    if (!text)
        return mn_fail(err, MN_NOMEM, "out of memory");
    mn_status st = read_list(text, (size_t)sqlite3_value_bytes(value), type, &list, err);
    if (st != MN_OK) {
        sqlite3_free(list.data);
        return st;
    }
    *out = (struct vec){type, list.n / (type == MN_I8 ? 1 : 4), list.n, list.data, list.data};
    if (type != MN_F16 && type != MN_BF16)
        return MN_OK;
    struct vec floats = *out;
    *out = (struct vec){.type = type};
    void *narrow = sqlite3_malloc64(vec_bytes(type, floats.dim));
    st = narrow ? vec_narrow(kernels_select(ISA_COUNT), type, floats.dim, floats.data, narrow,
                             vec_type_name(type), err)
                : mn_fail(err, MN_NOMEM, "out of memory");
    if (st == MN_OK)
        *out = (struct vec){type, floats.dim, vec_bytes(type, floats.dim), narrow, narrow};
    else
        sqlite3_free(narrow);
    vec_free(&floats);
    return st;
}

/* ---- From blobs ----------------------------------------------------------------------------- */

static mn_status read_blob(sqlite3_value *value, mn_dtype type, struct vec *out, mn_error *err)
{
    const void *data = sqlite3_value_blob(value);
    size_t n = (size_t)sqlite3_value_bytes(value), each = vec_bytes(type, 1);
    if (n == 0)
        return mn_fail(err, MN_INVALID, "zero-length vectors are not supported.");
    if (!data)
        return mn_fail(err, MN_NOMEM, "out of memory");
    if (each > 1 && n % each != 0)
        return mn_fail(err, MN_INVALID,
                       "invalid %s vector BLOB length. Must be divisible by %zu, found %zu",
                       vec_type_name(type), each, n);
    *out = (struct vec){type, type == MN_BIT ? 8 * n : n / each, n, data, NULL};
    return MN_OK;
}

static const char *value_type_name(sqlite3_value *value)
{
    switch (sqlite3_value_type(value)) {
    case SQLITE_INTEGER:
        return "INTEGER";
    case SQLITE_FLOAT:
        return "FLOAT";
    default:
        return "NULL";
    }
}

mn_status vec_read_as(sqlite3_value *value, mn_dtype type, struct vec *out, mn_error *err)
{
    *out = (struct vec){.type = type};
    int is = sqlite3_value_type(value);
    if (is == SQLITE_BLOB)
        return read_blob(value, type, out, err);
    if (type == MN_BIT)
        return mn_fail(err, MN_INVALID, "Unknown type for bitvector.");
    if (is == SQLITE_TEXT)
        return read_text(value, type, out, err);
    if (type == MN_I8)
        return mn_fail(err, MN_INVALID, "Unknown type for int8 vector.");
    return mn_fail(err, MN_INVALID,
                   "Input must have type BLOB (compact format) or TEXT (JSON), found %s",
                   value_type_name(value));
}

mn_status vec_read(sqlite3_value *value, struct vec *out, mn_error *err)
{
    unsigned subtype = sqlite3_value_subtype(value);
    switch (subtype) {
    case 0:
    case VEC_SUBTYPE_F32:
    case JSON_SUBTYPE:
        return vec_read_as(value, MN_F32, out, err);
    case VEC_SUBTYPE_BIT:
        return vec_read_as(value, MN_BIT, out, err);
    case VEC_SUBTYPE_I8:
        return vec_read_as(value, MN_I8, out, err);
    case VEC_SUBTYPE_F16:
        return vec_read_as(value, MN_F16, out, err);
    case VEC_SUBTYPE_BF16:
        return vec_read_as(value, MN_BF16, out, err);
    default:
        *out = (struct vec){.type = MN_F32};
        return mn_fail(err, MN_INVALID, "Unknown subtype: %u", subtype);
    }
}

void vec_free(struct vec *v)
{
    sqlite3_free(v->own);
    *v = (struct vec){.type = MN_F32};
}

mn_status vec_read_two(sqlite3_value **args, struct vec *a, struct vec *b, mn_error *err)
{
    *b = (struct vec){.type = MN_F32};
    mn_status st = vec_read(args[0], a, err);
    if (st != MN_OK) {
        mn_error_context(err, "Error reading 1st vector: ");
        return st;
    }
    st = vec_read(args[1], b, err);
    if (st != MN_OK)
        mn_error_context(err, "Error reading 2nd vector: ");
    else if (a->type != b->type)
        st = mn_fail(err, MN_INVALID,
                     "Vector type mistmatch. First vector has type %s, while the "
                     "second has type %s.",
                     vec_type_name(a->type), vec_type_name(b->type));
    else if (a->dim != b->dim)
        st = mn_fail(err, MN_INVALID,
                     "Vector dimension mistmatch. First vector has %zu "
                     "dimensions, while the second has %zu dimensions.",
                     a->dim, b->dim);
    if (st != MN_OK) {
        vec_free(a);
        vec_free(b);
    }
    return st;
}

/* ---- Conversions ---------------------------------------------------------------------------- */

void vec_widen(const struct kernels *kn, const struct vec *v, size_t first, size_t n, float *out)
{
    const char *from = (const char *)v->data + vec_bytes(v->type, first);
    switch (v->type) {
    case MN_F32:
        memcpy(out, from, 4 * n);
        break;
    case MN_F16:
        kn->f16_to_f32(from, n, out);
        break;
    case MN_BF16:
        kn->bf16_to_f32(from, n, out);
        break;
    default:
        kn->i8_to_f32(from, n, out);
    }
}

float *vec_floats(const struct kernels *kn, const struct vec *v)
{
    float *out = sqlite3_malloc64(v->dim * sizeof *out);
    if (out)
        vec_widen(kn, v, 0, v->dim, out);
    return out;
}

static mn_status narrow_i8(size_t dim, const float *from, int8_t *to, const char *what,
                           mn_error *err)
{
    for (size_t i = 0; i < dim; i++) {
        float r = rintf(from[i]);
        if (!(r >= INT8_MIN && r <= INT8_MAX))
            return mn_fail(err, MN_INVALID,
                           "%s: element %zu is %g; int8 holds -128 to 127: scale the vector", what,
                           i, (double)from[i]);
        to[i] = (int8_t)r;
    }
    return MN_OK;
}

mn_status vec_narrow(const struct kernels *kn, mn_dtype type, size_t dim, const float *from,
                     void *to, const char *what, mn_error *err)
{
    if (type == MN_I8)
        return narrow_i8(dim, from, to, what, err);
    if (type == MN_F32) {
        memcpy(to, from, 4 * dim);
        return MN_OK;
    }
    const uint16_t *halves = to, infinity = type == MN_F16 ? 0x7c00 : 0x7f80;
    (type == MN_F16 ? kn->f32_to_f16 : kn->f32_to_bf16)(from, dim, to);
    for (size_t i = 0; i < dim; i++)
        if ((halves[i] & 0x7fff) == infinity && !isinf(from[i]))
            return mn_fail(err, MN_INVALID, "%s: element %zu is %g, beyond %s: scale the vector",
                           what, i, (double)from[i],
                           type == MN_F16 ? "float16's 65504" : "bfloat16's 3.39e38");
    return MN_OK;
}

/* ---- Results -------------------------------------------------------------------------------- */

static unsigned subtype_of(mn_dtype type)
{
    static const unsigned char subtypes[] = {[MN_F32] = VEC_SUBTYPE_F32,
                                             [MN_F16] = VEC_SUBTYPE_F16,
                                             [MN_BF16] = VEC_SUBTYPE_BF16,
                                             [MN_I8] = VEC_SUBTYPE_I8,
                                             [MN_BIT] = VEC_SUBTYPE_BIT};
    return subtypes[type];
}

void vec_result(sqlite3_context *ctx, mn_dtype type, void *data, size_t dim)
{
    sqlite3_result_blob64(ctx, data, vec_bytes(type, dim), sqlite3_free);
    sqlite3_result_subtype(ctx, subtype_of(type));
}

void vec_result_copy(sqlite3_context *ctx, mn_dtype type, const void *data, size_t dim)
{
    sqlite3_result_blob64(ctx, data, vec_bytes(type, dim), SQLITE_TRANSIENT);
    sqlite3_result_subtype(ctx, subtype_of(type));
}

void vec_result_narrowed(sqlite3_context *ctx, const struct kernels *kn, mn_dtype type,
                         const float *floats, size_t dim, const char *what)
{
    mn_error err;
    mn_error_clear(&err);
    void *out = sqlite3_malloc64(vec_bytes(type, dim));
    if (!out) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    if (vec_narrow(kn, type, dim, floats, out, what, &err) == MN_OK) {
        vec_result(ctx, type, out, dim);
        return;
    }
    sqlite3_free(out);
    vec_fail(ctx, &err);
}

void vec_fail(sqlite3_context *ctx, const mn_error *err)
{
    if (err->code == MN_NOMEM)
        sqlite3_result_error_nomem(ctx);
    else
        sqlite3_result_error(ctx, err->message, -1);
}

int vec_function_flags(void)
{
    int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS | SQLITE_SUBTYPE;
    return sqlite3_libversion_number() >= 3045000 ? flags | FLAG_RESULT_SUBTYPE : flags;
}

int vec_register_functions(sqlite3 *db, const struct vec_function *functions, size_t n)
{
    const struct kernels *kn = kernels_select(ISA_COUNT);
    int rc = SQLITE_OK;
    for (size_t i = 0; i < n && rc == SQLITE_OK; i++)
        rc = sqlite3_create_function_v2(db, functions[i].name, functions[i].n_args,
                                        vec_function_flags(), (void *)(uintptr_t)kn,
                                        functions[i].call, NULL, NULL, NULL);
    return rc;
}
