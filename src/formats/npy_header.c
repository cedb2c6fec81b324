/* numpy's .npy: "\x93NUMPY", version major and minor, header length (u16 in version 1, u32 in 2 and
 * 3), then a Python dict literal in ASCII or UTF-8, padded with blanks and ended by a newline:
 *     {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
 * and the elements in C order. Exactly these three keys are legal, in any order. */
#include "src/formats/npy_header.h"
#include "src/formats/text.h"
#include "storage/base/error.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_HEADER = 65535 - 12, MAX_AXES = 32 };

/* A cursor over the dict. */
struct dict {
    const char *first, *at, *end;
    const char *name;
    uint64_t offset; /* in the file, of `first` */
};

__attribute__((format(printf, 3, 4))) static mn_status
fail_at(const struct dict *d, mn_error *err, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return mn_fail(err, MN_INVALID, "%s: header at byte %s: %s", d->name,
                   COMMAS(d->offset + (uint64_t)(d->at - d->first)), text);
}

static void skip_blanks(struct dict *d)
{
    while (d->at < d->end && (*d->at == ' ' || *d->at == '\n' || *d->at == '\t'))
        d->at++;
}

static bool skip_char(struct dict *d, char c)
{
    skip_blanks(d);
    if (d->at == d->end || *d->at != c)
        return false;
    d->at++;
    return true;
}

/* A Python string without escapes, into out[size]. */
static bool read_string(struct dict *d, char *out, size_t size)
{
    skip_blanks(d);
    if (d->at == d->end || (*d->at != '\'' && *d->at != '"'))
        return false;
    char quote = *d->at++;
    const char *text = d->at;
    while (d->at < d->end && *d->at != quote && *d->at != '\\')
        d->at++;
    size_t len = (size_t)(d->at - text);
    if (d->at == d->end || *d->at != quote || len >= size)
        return false;
    d->at++;
    memcpy(out, text, len);
    out[len] = '\0';
    return true;
}

static bool read_word(struct dict *d, const char *word)
{
    skip_blanks(d);
    size_t len = strlen(word);
    if ((size_t)(d->end - d->at) < len || memcmp(d->at, word, len) != 0)
        return false;
    d->at += len;
    return true;
}

static bool read_count(struct dict *d, uint64_t *out)
{
    skip_blanks(d);
    if (d->at == d->end || *d->at < '0' || *d->at > '9')
        return false;
    *out = 0;
    for (; d->at < d->end && *d->at >= '0' && *d->at <= '9'; d->at++)
        if (__builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, (uint64_t)(*d->at - '0'), out))
            return false;
    return true;
}

static mn_status read_descr(struct dict *d, struct npy_header *out, mn_error *err)
{
    char descr[32];
    skip_blanks(d);
    if (d->at < d->end && *d->at == '[')
        return fail_at(d, err, "structured arrays are not read; np.save(f, a['x']) saves a field");
    if (!read_string(d, descr, sizeof descr))
        return fail_at(d, err, "'descr' must be a short string such as '<f4'");
    if (descr[0] == '>')
        return fail_at(d, err, "big-endian elements, '%s', are not read; "
                       "np.save(f, a.astype('<f4')) makes them little-endian", descr);
    if (strchr(descr, 'O'))
        return fail_at(d, err, "an array of Python objects is not read; "
                       "np.save(f, np.stack(a).astype('<f4')) makes it one of numbers");
    static const char *const known[] = {"<f4", "<f2", "<f8", "|i1", "|u1", "<i4", "<i8", "|b1"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(descr, known[i]) == 0) {
            out->kind = descr[1];
            out->bytes = (uint32_t)(descr[2] - '0');
            return MN_OK;
        }
    return fail_at(d, err, "elements of type '%s' are not read; np.save(f, a.astype('<f4')) makes "
                   "them f32", descr);
}

static mn_status read_order(struct dict *d, mn_error *err)
{
    if (read_word(d, "False"))
        return MN_OK;
    if (read_word(d, "True"))
        return fail_at(d, err, "the array is in Fortran order, column by column; "
                       "np.save(f, np.ascontiguousarray(a)) turns it");
    return fail_at(d, err, "'fortran_order' must be True or False");
}

static mn_status read_shape(struct dict *d, struct npy_header *out, mn_error *err)
{
    uint32_t n = 0;
    if (!skip_char(d, '('))
        return fail_at(d, err, "'shape' must be a tuple such as (3, 4)");
    while (!skip_char(d, ')')) {
        uint64_t axis;
        if (n > 0 && !skip_char(d, ','))
            return fail_at(d, err, "a comma or ) is expected in 'shape'");
        if (n > 0 && skip_char(d, ')'))
            break;
        if (n == MAX_AXES || !read_count(d, &axis))
            return fail_at(d, err, "'shape' must hold numbers below 2^64");
        if (n < 2)
            out->shape[n] = axis;
        n++;
    }
    if (n != 1 && n != 2)
        return fail_at(d, err, "the array has %u axes; vectors need (n, dim) or (dim,)", n);
    out->n_axes = n;
    return MN_OK;
}

static mn_status read_dict(struct dict *d, struct npy_header *out, mn_error *err)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    bool seen[3] = {false, false, false};
    if (!skip_char(d, '{'))
        return fail_at(d, err, "a Python dict, {...}, is expected");
    while (!skip_char(d, '}')) {
        char key[16];
        size_t k = 0;
        bool ok = read_string(d, key, sizeof key);
        while (ok && k < 3 && strcmp(key, keys[k]) != 0)
            k++;
        if (!ok || k == 3 || seen[k])
            return fail_at(d, err, "the keys must be 'descr', 'fortran_order' and 'shape', "
                           "each once");
        seen[k] = true;
        if (!skip_char(d, ':'))
            return fail_at(d, err, "a colon is missing after '%s'", key);
        mn_status st = k == 0   ? read_descr(d, out, err)
                       : k == 1 ? read_order(d, err)
                                : read_shape(d, out, err);
        if (st != MN_OK)
            return st;
        if (!skip_char(d, ',')) {
            if (!skip_char(d, '}'))
                return fail_at(d, err, "a comma or } is expected after '%s'", key);
            break;
        }
    }
    skip_blanks(d);
    if (d->at != d->end)
        return fail_at(d, err, "something follows the dict");
    if (!seen[0] || !seen[1] || !seen[2])
        return fail_at(d, err, "'%s' is missing", keys[!seen[0] ? 0 : !seen[1] ? 1 : 2]);
    return MN_OK;
}

mn_status npy_header_len(const char *name, const void *bytes, size_t n, size_t *len, mn_error *err)
{
    const unsigned char *p = bytes;
    *len = 0;
    if (n < 10 || memcmp(p, "\x93NUMPY", 6) != 0)
        return mn_fail(err, MN_INVALID, "%s: is no npy file: it does not begin with \\x93NUMPY and "
                       "a version", name);
    if (p[6] < 1 || p[6] > 3 || p[7] != 0)
        return mn_fail(err, MN_INVALID, "%s: npy version %u.%u at byte 6 is unknown; 1.0, 2.0 and "
                       "3.0 are read", name, p[6], p[7]);
    uint64_t dict = p[8] | (uint64_t)p[9] << 8;
    if (p[6] > 1 && n >= 12)
        dict |= (uint64_t)p[10] << 16 | (uint64_t)p[11] << 24;
    if (dict > MAX_HEADER)
        return mn_fail(err, MN_INVALID, "%s: the header's length at byte 8 is %s, at most %s is "
                       "possible", name, COMMAS(dict), COMMAS(MAX_HEADER));
    *len = (p[6] == 1 ? 10 : 12) + (size_t)dict;
    return MN_OK;
}

mn_status npy_header_read(const char *name, const void *bytes, size_t n, struct npy_header *out,
                          mn_error *err)
{
    size_t len;
    *out = (struct npy_header){0};
    mn_status st = npy_header_len(name, bytes, n, &len, err);
    if (st != MN_OK)
        return st;
    if (n < len)
        return mn_fail(err, MN_INVALID, "%s: the file ends inside its header of %s bytes, at byte "
                       "%s", name, COMMAS(len), COMMAS(n));
    size_t fixed = ((const unsigned char *)bytes)[6] == 1 ? 10 : 12;
    const char *text = (const char *)bytes + fixed;
    struct dict d = {.first = text, .at = text, .end = (const char *)bytes + len, .name = name,
                     .offset = fixed};
    st = read_dict(&d, out, err);
    out->len = len;
    return st;
}

void npy_header_make(char out[NPY_HEADER], const char *descr, const uint64_t *shape,
                     uint32_t n_axes)
{
    char dict[NPY_HEADER];
    int len = n_axes == 1 ? snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, "
                                     "'shape': (%" PRIu64 ",), }", descr, shape[0])
                          : snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, "
                                     "'shape': (%" PRIu64 ", %" PRIu64 "), }", descr, shape[0],
                                     shape[1]);
    memset(out, ' ', NPY_HEADER);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = NPY_HEADER - 10;
    out[9] = 0;
    memcpy(out + 10, dict, (size_t)len);
    out[NPY_HEADER - 1] = '\n';
}
