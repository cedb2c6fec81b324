#include "src/sql/vec_npy.h"

#include <math.h>
#include <string.h>

#include "src/formats/npy_header.h"
#include "storage/base/error.h"

mn_status vec_npy_open(sqlite3_value *value, const char *name, struct vec_npy *out, mn_error *err)
{
    struct npy_header h;
    *out = (struct vec_npy){.name = name};
    if (sqlite3_value_type(value) != SQLITE_BLOB)
        return mn_fail(err, MN_INVALID,
                       "%s: the 1st argument must be a BLOB, the bytes of an .npy "
                       "file",
                       name);
    const char *bytes = sqlite3_value_blob(value);
    size_t len = (size_t)sqlite3_value_bytes(value);
    if (len > 0 && !bytes)
        return mn_fail(err, MN_NOMEM, "out of memory");
    mn_status st = npy_header_read(name, bytes, len, &h, err);
    if (st != MN_OK)
        return st;
    if (h.bytes == 8 && h.kind != 'f')
        return mn_fail(err, MN_INVALID,
                       "%s: 64-bit integers are ids, not vectors; a.astype('<f4') "
                       "makes them float32",
                       name);
    out->kind = h.kind;
    out->bytes = h.bytes;
    out->n = h.n_axes == 1 ? 1 : h.shape[0];
    out->dim = h.n_axes == 1 ? h.shape[0] : h.shape[1];
    if (out->dim == 0 && out->n > 0)
        return mn_fail(err, MN_INVALID, "%s: zero-length vectors are not supported.", name);
    if (h.kind == 'b' && out->dim % 8 != 0)
        return mn_fail(err, MN_INVALID, "%s: bit vectors have a multiple of 8 elements, not %llu",
                       name, (unsigned long long)out->dim);
    uint64_t want;
    if (__builtin_mul_overflow(out->n, out->dim, &want) ||
        __builtin_mul_overflow(want, (uint64_t)h.bytes, &want) || want != len - h.len)
        return mn_fail(err, MN_INVALID,
                       "%s: the header says %llu vectors of %llu elements of %u "
                       "bytes; %zu bytes follow it",
                       name, (unsigned long long)out->n, (unsigned long long)out->dim, h.bytes,
                       len - (size_t)h.len);
    out->data = bytes + h.len;
    return MN_OK;
}

static mn_dtype type_of(const struct vec_npy *npy)
{
    if (npy->kind == 'b')
        return MN_BIT;
    if (npy->kind == 'i' && npy->bytes == 1)
        return MN_I8;
    return npy->kind == 'f' && npy->bytes == 2 ? MN_F16 : MN_F32;
}

/* Elements that have no type of their own here, as f32. */
static mn_status widen(const struct kernels *kn, const struct vec_npy *npy, const char *from,
                       float *to, mn_error *err)
{
    size_t dim = (size_t)npy->dim;
    if (npy->bytes == 4) {
        kn->i32_to_f32(from, dim, to);
        return MN_OK;
    }
    for (size_t i = 0; i < dim; i++) {
        double x = (unsigned char)from[i];
        if (npy->bytes == 8)
            memcpy(&x, from + 8 * i, sizeof x);
        to[i] = (float)x;
        if (isinf(to[i]) && !isinf(x))
            return mn_fail(err, MN_INVALID, "%s: element %zu is %g, beyond float32", npy->name, i,
                           x);
    }
    return MN_OK;
}

static void pack(const char *from, size_t dim, uint8_t *to)
{
    memset(to, 0, dim / 8);
    for (size_t i = 0; i < dim; i++)
        to[i / 8] |= (uint8_t)((from[i] != 0) << (i % 8));
}

void vec_npy_result(sqlite3_context *ctx, const struct kernels *kn, const struct vec_npy *npy,
                    uint64_t row)
{
    mn_dtype type = type_of(npy);
    size_t dim = (size_t)npy->dim;
    const char *from = npy->data + row * npy->dim * npy->bytes;
    if (type == MN_I8 || type == MN_F16 || (npy->kind == 'f' && npy->bytes == 4)) {
        vec_result_copy(ctx, type, from, dim);
        return;
    }
    void *out = sqlite3_malloc64(vec_bytes(type, dim));
    if (!out) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    mn_error err;
    mn_error_clear(&err);
    if (type == MN_BIT)
        pack(from, dim, out);
    else if (widen(kn, npy, from, out, &err) != MN_OK) {
        sqlite3_free(out);
        vec_fail(ctx, &err);
        return;
    }
    vec_result(ctx, type, out, dim);
}
