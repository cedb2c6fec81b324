/* What a file is, by its header and first record. */
#include "src/formats/formats.h"
#include "src/formats/reader.h"

mn_status format_probe(const char *path, const struct format_opts *opts, struct format_probe *out,
                       mn_error *err)
{
    struct format_reader *r;
    const struct format_record *rec;
    *out = (struct format_probe){0};
    mn_status st = format_reader_open(path, opts, &r, err);
    if (st != MN_OK)
        return st;
    st = format_reader_next(r, &rec, err);
    if (st == MN_OK) {
        *out = (struct format_probe){.format = r->kind, .dtype = r->file_dtype, .dim = r->dim,
                                     .n_known = r->n_known || !rec,
                                     .n = r->n_known ? r->n : 0,
                                     .bytes = r->src.total_known ? r->src.total : 0,
                                     .metric_known = r->metric_known, .metric = r->metric};
        if (rec)
            out->ids = rec->id_kind;
    }
    format_reader_close(r);
    return st;
}
