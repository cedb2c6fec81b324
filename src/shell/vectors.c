#include "src/shell/vectors.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- From files ----------------------------------------------------------------------------- */

mn_dtype vector_dtype_for(enum format_dtype file)
{
    return file == FORMAT_F16 ? MN_F16 : file == FORMAT_I8 ? MN_I8 : MN_F32;
}

static bool same_type(mn_dtype dtype, enum format_dtype file)
{
    return (dtype == MN_F32 && file == FORMAT_F32) || (dtype == MN_F16 && file == FORMAT_F16) ||
           (dtype == MN_I8 && file == FORMAT_I8);
}

bool vector_plan_make(struct vector_plan *plan, mn_dtype dtype, uint32_t dim,
                      enum format_dtype file, uint32_t file_dim, char *why, size_t why_size)
{
    bool bits = dtype == MN_BIT;
    uint64_t fits = bits && file == FORMAT_U8 ? (uint64_t)file_dim * 8 : file_dim;
    *plan = (struct vector_plan){
        .dtype = dtype,
        .dim = dim ? dim : (uint32_t)fits,
        .native = same_type(dtype, file) || (bits && file == FORMAT_U8),
        .pack = bits && file != FORMAT_U8,
        .file_dim = file_dim,
    };
    plan->from_f32 = !bits && !plan->native;
    if (fits > MN_MAX_DIM || mn_vector_bytes(dtype, (uint32_t)fits) == 0) {
        snprintf(why, why_size, "its vectors have %" PRIu64 " elements; %s", fits,
                 bits ? "bit vectors have a multiple of 8, at most 16,384" : "16,384 is the most");
        return false;
    }
    if (plan->dim != fits) {
        snprintf(why, why_size, "its vectors have %" PRIu64 " elements, the collection's %" PRIu32,
                 fits, plan->dim);
        return false;
    }
    plan->bytes = plan->from_f32 ? sizeof(float) * plan->dim : mn_vector_bytes(dtype, plan->dim);
    return true;
}

/* From here on an element rounds to an infinity. */
static float overflow_at(mn_dtype dtype)
{
    return dtype == MN_F16 ? 65520.0f : dtype == MN_BF16 ? 0x1.ffp127f : INFINITY;
}

/* Up to here an element rounds to zero: halves go to the even neighbour. */
static float zero_until(mn_dtype dtype)
{
    return dtype == MN_F16 ? 0x1p-25f : dtype == MN_I8 ? 0.5f : 0;
}

const char *vector_check(const struct vector_plan *plan, const struct format_record *rec)
{
    if (plan->native)
        return NULL;
    if (rec->dtype != FORMAT_F32)
        return "its element type does not fit the collection's";
    const float *x = rec->vector;
    for (uint32_t i = 0; i < rec->dim; i++) {
        if (plan->pack && x[i] != 0 && x[i] != 1)
            return "a bit vector's elements must be 0 or 1";
        if (plan->dtype == MN_I8 && (x[i] >= 127.5f || x[i] < -128.5f))
            return "an element lies outside -128 .. 127, so i8 cannot hold it";
        if (fabsf(x[i]) >= overflow_at(plan->dtype))
            return "an element is too large for the collection's type";
    }
    return NULL;
}

const char *vector_take(const struct vector_plan *plan, const struct format_record *rec, void *out)
{
    const char *wrong = vector_check(plan, rec);
    if (wrong)
        return wrong;
    if (!plan->pack) {
        memcpy(out, rec->vector, plan->bytes);
        return NULL;
    }
    uint8_t *bits = out;
    const float *x = rec->vector;
    memset(bits, 0, plan->bytes);
    for (uint32_t i = 0; i < plan->dim; i++)
        if (x[i] != 0)
            bits[i / 8] |= (uint8_t)(1u << (i % 8));
    return NULL;
}

bool vector_is_zero(const struct vector_plan *plan, const struct format_record *rec)
{
    if (rec->dtype != FORMAT_F32) {
        const uint8_t *bytes = rec->vector;
        size_t n = rec->dim * format_dtype_bytes(rec->dtype);
        for (size_t i = 0; i < n; i++)
            if (bytes[i])
                return false;
        return true;
    }
    const float *x = rec->vector;
    float most = plan->native ? 0 : zero_until(plan->dtype);
    for (uint32_t i = 0; i < rec->dim; i++)
        if (fabsf(x[i]) > most)
            return false;
    return true;
}

/* ---- To the screen -------------------------------------------------------------------------- */

static float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    if (exponent == 0) {
        float magnitude = ldexpf((float)fraction, -24);
        return sign ? -magnitude : magnitude;
    }
    uint32_t bits = exponent == 31 ? sign | 0x7f800000u | fraction << 13
                                   : sign | (exponent + 112) << 23 | fraction << 13;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

void vector_to_f32(mn_dtype dtype, uint32_t dim, const void *vector, float *out)
{
    const uint8_t *bytes = vector;
    for (uint32_t i = 0; i < dim; i++) {
        uint16_t half = 0;
        uint32_t word;
        switch (dtype) {
        case MN_F32:
            memcpy(&out[i], bytes + 4 * (size_t)i, 4);
            break;
        case MN_F16:
            memcpy(&half, bytes + 2 * (size_t)i, 2);
            out[i] = f16_to_f32(half);
            break;
        case MN_BF16:
            memcpy(&half, bytes + 2 * (size_t)i, 2);
            word = (uint32_t)half << 16;
            memcpy(&out[i], &word, 4);
            break;
        case MN_I8:
            out[i] = (float)(int8_t)bytes[i];
            break;
        case MN_BIT:
            out[i] = (float)(bytes[i / 8] >> (i % 8) & 1);
            break;
        }
    }
}

/* ---- From the command line ------------------------------------------------------------------- */

const char *vector_parse(const char *text, uint32_t dim, float *out, char *why, size_t why_size)
{
    static const char blanks[] = " \t\r\n";
    const char *p = text + strspn(text, blanks);
    bool bracket = *p == '[';
    uint32_t n = 0;
    p += bracket;
    for (;; n++) {
        p += strspn(p, blanks);
        if (n == 0 && (*p == ']' || !*p))
            break;
        char *end;
        float x = strtof(p, &end);
        if (end == p || !isfinite(x)) {
            snprintf(why, why_size, "element %" PRIu32 " is no finite number, at '%.12s'", n, p);
            return why;
        }
        if (n < dim)
            out[n] = x;
        p = end + strspn(end, blanks);
        if (*p != ',') {
            n++;
            break;
        }
        p++;
    }
    if (bracket && *p == ']')
        p++;
    else if (bracket || *p) {
        snprintf(why, why_size, "%s expected %s%.12s%s", bracket ? "',' or ']'" : "','",
                 *p ? "at '" : "at its end", p, *p ? "'" : "");
        return why;
    }
    p += strspn(p, blanks);
    if (*p) {
        snprintf(why, why_size, "'%.12s' follows the vector", p);
        return why;
    }
    if (n != dim) {
        snprintf(why, why_size, "it has %" PRIu32 " elements, the collection's vectors %" PRIu32, n,
                 dim);
        return why;
    }
    return NULL;
}

/* ---- Values --------------------------------------------------------------------------------- */

static void base64(struct text *t, const uint8_t *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t w = (uint32_t)p[i] << 16;
        w |= i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0;
        w |= i + 2 < n ? p[i + 2] : 0;
        char four[4] = {digits[w >> 18], digits[w >> 12 & 63], digits[w >> 6 & 63], digits[w & 63]};
        if (i + 1 >= n)
            four[2] = '=';
        if (i + 2 >= n)
            four[3] = '=';
        text_add(t, four, 4);
    }
}

void value_json(struct text *t, const mn_value *v)
{
    switch (v->type) {
    case MN_NULL:
        text_puts(t, "null");
        break;
    case MN_INTEGER:
        text_printf(t, "%" PRId64, v->integer);
        break;
    case MN_REAL:
        text_real(t, v->real);
        break;
    case MN_TEXT:
        text_json(t, v->data, v->len);
        break;
    case MN_BLOB:
        text_puts(t, "{\"$blob\":\"");
        base64(t, v->data, v->len);
        text_puts(t, "\"}");
        break;
    }
}

void value_show(struct text *t, const mn_value *v)
{
    switch (v->type) {
    case MN_NULL:
        break;
    case MN_TEXT:
        text_add(t, v->data, v->len);
        break;
    case MN_BLOB:
        text_printf(t, "(%zu bytes)", v->len);
        break;
    default:
        value_json(t, v);
    }
}

void value_csv(struct text *t, const mn_value *v)
{
    if (v->type == MN_TEXT)
        text_csv(t, v->data, v->len);
    else if (v->type == MN_BLOB)
        base64(t, v->data, v->len);
    else if (v->type != MN_NULL)
        value_json(t, v);
}
