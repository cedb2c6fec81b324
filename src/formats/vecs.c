/* fvecs, bvecs, ivecs: records of an int32 dimension and that many f32, u8 or int32, little-endian.
 * There is no header: each record states the dimension anew, and all must agree. */
#include "src/formats/reader.h"
#include "storage/base/error.h"

#include <string.h>

static int32_t dim_at(struct source *src)
{
    int32_t dim;
    memcpy(&dim, source_at(src), sizeof dim);
    return dim;
}

static mn_status vecs_open(struct format_reader *r, mn_error *err)
{
    r->file_dtype = r->kind == FORMAT_FVECS   ? FORMAT_F32
                    : r->kind == FORMAT_BVECS ? FORMAT_U8
                                              : FORMAT_I32;
    r->dtype = r->opts.native ? r->file_dtype : FORMAT_F32;
    mn_status st = source_fill(&r->src, 4, err);
    if (st != MN_OK)
        return st;
    if (source_avail(&r->src) < 4)
        return reader_fail(r, err, "the file ends inside the 4 bytes of its dimension");
    int32_t dim = dim_at(&r->src);
    if (dim < 0)
        return reader_fail(r, err, "the dimension is negative, %d; is this really a file of format "
                           "%s?", dim, format_name(r->kind));
    st = reader_set_dim(r, (uint64_t)dim, "record 1 at byte 0", err);
    if (st == MN_OK && r->src.total_known) {
        r->n = r->src.total / (4 + r->row_bytes);
        r->n_known = r->src.total % (4 + r->row_bytes) == 0;
    }
    return st;
}

static mn_status vecs_next(struct format_reader *r, bool *got, mn_error *err)
{
    struct source *src = &r->src;
    mn_status st = source_fill(src, 4 + r->row_bytes, err);
    if (st != MN_OK)
        return st;
    r->rec.offset = source_offset(src);
    size_t avail = source_avail(src);
    if (avail == 0)
        return MN_OK;
    if (avail < 4)
        return reader_fail(r, err, "the file ends inside the 4 bytes of its dimension: %zu missing",
                           4 - avail);
    int32_t dim = dim_at(src);
    if (dim < 0 || (uint32_t)dim != r->dim)
        return reader_fail(r, err, "its dimension is %d, that of the records before is %u", dim,
                           r->dim);
    if (avail < 4 + r->row_bytes)
        return reader_fail(r, err, "%s bytes missing, dimension says %s",
                           COMMAS(4 + r->row_bytes - avail), COMMAS(r->row_bytes));
    st = reader_take_elements(r, source_at(src) + 4, err);
    source_take(src, 4 + r->row_bytes);
    *got = st == MN_OK;
    return st;
}

const struct reader_ops vecs_ops = {vecs_open, vecs_next, NULL};
