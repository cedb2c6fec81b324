/* numpy's .npy as vectors; its header, and the format, stand in npy_header.c. */
#include "src/formats/npy.h"
#include "src/formats/reader.h"
#include "storage/base/error.h"

mn_status npy_read_header(struct source *src, struct npy_header *out, mn_error *err)
{
    *out = (struct npy_header){0};
    size_t len = 0;
    mn_status st = source_fill(src, 12, err);
    if (st == MN_OK)
        st = npy_header_len(src->name, source_at(src), source_avail(src), &len, err);
    if (st == MN_OK)
        st = source_fill(src, len, err);
    if (st == MN_OK)
        st = npy_header_read(src->name, source_at(src), source_avail(src), out, err);
    if (st == MN_OK)
        source_take(src, len);
    return st;
}

static bool set_dtype(struct format_reader *r, const struct npy_header *h)
{
    switch (h->kind) {
    case 'f':
        r->file_dtype = h->bytes == 4 ? FORMAT_F32 : h->bytes == 2 ? FORMAT_F16 : FORMAT_F64;
        break;
    case 'u':
        r->file_dtype = FORMAT_U8;
        break;
    default:
        r->file_dtype = h->bytes == 1 ? FORMAT_I8 : FORMAT_I32;
        if (h->bytes == 8)
            return false;
    }
    r->dtype = r->opts.native && r->file_dtype != FORMAT_F64 ? r->file_dtype : FORMAT_F32;
    return true;
}

static mn_status npy_open(struct format_reader *r, mn_error *err)
{
    struct npy_header h;
    mn_status st = npy_read_header(&r->src, &h, err);
    if (st != MN_OK)
        return st;
    if (h.kind == 'b')
        return mn_fail(err, MN_INVALID, "%s: elements of type '|b1' are not read; "
                       "np.save(f, a.astype('<f4')) makes them f32", r->src.name);
    if (!set_dtype(r, &h))
        return mn_fail(err, MN_INVALID, "%s: 64-bit integers are ids, not vectors; "
                       "np.save(f, a.astype('<f4')) makes them f32", r->src.name);
    if (h.n_axes == 1)
        return array_begin(r, h.len, 1, h.shape[0], err);
    return array_begin(r, h.len, h.shape[0], h.shape[1], err);
}

const struct reader_ops npy_ops = {npy_open, array_next, NULL};
