/* Arrays: a header that states n and dim, then n rows without anything between them. fbin, u8bin
 * and i8bin (the big-ann benchmarks' formats) have uint32 n, uint32 dim; npy is in npy.c. */
#include "src/formats/reader.h"
#include "storage/base/error.h"

#include <string.h>

mn_status array_begin(struct format_reader *r, uint64_t header, uint64_t n, uint64_t dim,
                      mn_error *err)
{
    r->n = n;
    r->n_known = true;
    mn_status st = n == 0 && dim == 0 ? MN_OK : reader_set_dim(r, dim, "the header", err);
    if (st != MN_OK)
        return st;
    uint64_t bytes;
    if (__builtin_mul_overflow(n, (uint64_t)r->row_bytes, &bytes) ||
        __builtin_add_overflow(bytes, header, &bytes))
        return mn_fail(err, MN_INVALID, "%s: the header says %s vectors of %s elements, more bytes "
                       "than a file can have", r->src.name, COMMAS(n), COMMAS(dim));
    uint64_t have = r->src.total;
    if (!r->src.total_known || r->opts.partial || have == bytes)
        return MN_OK;
    return mn_fail(err, MN_INVALID, "%s: the header says %s vectors of %s %s elements, which is %s "
                   "bytes in all; the file has %s: %s %s", r->src.name, COMMAS(n), COMMAS(dim),
                   format_dtype_name(r->file_dtype), COMMAS(bytes), COMMAS(have),
                   COMMAS(have < bytes ? bytes - have : have - bytes),
                   have < bytes ? "are missing" : "too many");
}

mn_status array_next(struct format_reader *r, bool *got, mn_error *err)
{
    struct source *src = &r->src;
    bool end = r->count == r->n;
    mn_status st = source_fill(src, end ? 1 : r->row_bytes, err);
    if (st != MN_OK)
        return st;
    r->rec.offset = source_offset(src);
    size_t avail = source_avail(src);
    if (end && avail > 0)
        return mn_fail(err, MN_INVALID, "%s: bytes follow the last of %s vectors, at byte %s",
                       src->name, COMMAS(r->n), COMMAS(r->rec.offset));
    if (end)
        return MN_OK;
    if (avail < r->row_bytes)
        return reader_fail(r, err, "%s bytes missing: the header says %s vectors of %s bytes",
                           COMMAS(r->row_bytes - avail), COMMAS(r->n), COMMAS(r->row_bytes));
    st = reader_take_elements(r, source_at(src), err);
    source_take(src, r->row_bytes);
    *got = st == MN_OK;
    return st;
}

static mn_status bin_open(struct format_reader *r, mn_error *err)
{
    r->file_dtype = r->kind == FORMAT_FBIN    ? FORMAT_F32
                    : r->kind == FORMAT_U8BIN ? FORMAT_U8
                                              : FORMAT_I8;
    r->dtype = r->opts.native ? r->file_dtype : FORMAT_F32;
    mn_status st = source_fill(&r->src, 8, err);
    if (st != MN_OK)
        return st;
    if (source_avail(&r->src) < 8)
        return mn_fail(err, MN_INVALID, "%s: the file ends inside its header, after %zu of 8 bytes",
                       r->src.name, source_avail(&r->src));
    uint32_t header[2];
    memcpy(header, source_at(&r->src), sizeof header);
    source_take(&r->src, sizeof header);
    return array_begin(r, sizeof header, header[0], header[1], err);
}

const struct reader_ops bin_ops = {bin_open, array_next, NULL};
