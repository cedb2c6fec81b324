/* Writers of the binary formats, and what is common to all. A header that states n is written with
 * n = 0 first and mended at close, or with the caller's n where the file is a pipe. */
#include "src/formats/writer.h"
#include "src/formats/npy_header.h"
#include "storage/base/number.h"
#include "src/formats/reader.h"
#include "src/formats/source.h"
#include "storage/base/alloc.h"
#include "storage/base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>


static bool is_bin(enum format_kind kind)
{
    return kind == FORMAT_FBIN || kind == FORMAT_U8BIN || kind == FORMAT_I8BIN;
}

static bool states_n(const struct format_writer *w)
{
    return is_bin(w->kind) || w->kind == FORMAT_NPY ||
           (w->kind == FORMAT_TEXT && w->opts.header);
}

mn_status writer_fail(struct format_writer *w, mn_error *err, const char *format, ...)
{
    char text[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return mn_fail(err, MN_INVALID, "%s: record %s: %s", w->out.name, COMMAS(w->count + 1), text);
}

/* ---- Headers -------------------------------------------------------------------------------- */

static void write_npy_header(struct format_writer *w, uint64_t n)
{
    static const char *const descr[] = {"<f4", "<f2", "|i1", "|u1", "<i4", "<f8"};
    char header[NPY_HEADER];
    npy_header_make(header, descr[w->dtype], (uint64_t[]){n, w->dim}, 2);
    fwrite(header, 1, NPY_HEADER, w->out.file);
}

static void write_bin_header(struct format_writer *w, uint64_t n)
{
    uint32_t header[2] = {(uint32_t)n, w->dim};
    fwrite(header, sizeof header, 1, w->out.file);
}

/* What stands before the first record; `first` is NULL if there is none. */
static mn_status write_header(struct format_writer *w, const struct format_record *first,
                              mn_error *err)
{
    uint64_t n = w->opts.n_known ? w->opts.n : 0;
    switch (w->kind) {
    case FORMAT_NPY:
        write_npy_header(w, n);
        return MN_OK;
    case FORMAT_FBIN:
    case FORMAT_U8BIN:
    case FORMAT_I8BIN:
        write_bin_header(w, n);
        return MN_OK;
    case FORMAT_CSV:
        return write_csv_header(w, first, err);
    case FORMAT_TEXT:
        if (w->opts.header)
            fprintf(w->out.file, "%" PRIu64 " %u\n", n, w->dim);
        return MN_OK;
    default:
        return MN_OK;
    }
}

/* Puts the true n into the header, unless it was given and right. */
static mn_status mend_header(struct format_writer *w, mn_error *err)
{
    if (w->opts.n_known && w->opts.n != w->count)
        return mn_fail(err, MN_INVALID, "%s: %s records were promised, %s were written",
                       w->out.name, COMMAS(w->opts.n), COMMAS(w->count));
    if (w->opts.n_known || w->kind == FORMAT_TEXT)
        return MN_OK;
    if (is_bin(w->kind) && w->count > UINT32_MAX)
        return mn_fail(err, MN_INVALID, "%s: %s holds at most %s vectors", w->out.name,
                       format_name(w->kind), COMMAS(UINT32_MAX));
    if (fseeko(w->out.file, 0, SEEK_SET) != 0)
        return mn_fail_os(err, MN_IO, errno, "%s: the header cannot be written", w->out.name);
    if (w->kind == FORMAT_NPY)
        write_npy_header(w, w->count);
    else
        write_bin_header(w, w->count);
    return MN_OK;
}

/* ---- Vectors -------------------------------------------------------------------------------- */

static float element_f32(const struct format_record *rec, uint32_t i)
{
    switch (rec->dtype) {
    case FORMAT_F16:
        return number_from_half(((const uint16_t *)rec->vector)[i]);
    case FORMAT_I8:
        return ((const int8_t *)rec->vector)[i];
    case FORMAT_U8:
        return ((const uint8_t *)rec->vector)[i];
    case FORMAT_I32:
        return (float)((const int32_t *)rec->vector)[i];
    case FORMAT_F64:
        return (float)((const double *)rec->vector)[i];
    case FORMAT_F32:
        break;
    }
    return ((const float *)rec->vector)[i];
}

/* Stores x as element i of w->vec; false if the type does not hold it. */
static bool store(struct format_writer *w, uint32_t i, float x)
{
    bool whole = rintf(x) == x;
    switch (w->dtype) {
    case FORMAT_F16: {
        uint16_t half = number_to_half(x);
        ((uint16_t *)w->vec)[i] = half;
        return (half & 0x7C00) != 0x7C00;
    }
    case FORMAT_I8:
        if (!whole || x < -128 || x > 127)
            return false;
        ((int8_t *)w->vec)[i] = (int8_t)x;
        return true;
    case FORMAT_U8:
        if (!whole || x < 0 || x > 255)
            return false;
        ((uint8_t *)w->vec)[i] = (uint8_t)x;
        return true;
    case FORMAT_I32:
        if (!whole || x < -0x1p31f || x >= 0x1p31f)
            return false;
        ((int32_t *)w->vec)[i] = (int32_t)x;
        return true;
    default:
        ((float *)w->vec)[i] = x;
        return isfinite(x);
    }
}

static mn_status take_vector(struct format_writer *w, const struct format_record *rec,
                             mn_error *err)
{
    if (!rec->vector)
        return writer_fail(w, err, "has no vector");
    if (rec->dim != w->dim)
        return writer_fail(w, err, "its vector has %s elements, those before have %s",
                           COMMAS(rec->dim), COMMAS(w->dim));
    if (rec->dtype == w->dtype && w->dtype != FORMAT_F32) {
        memcpy(w->vec, rec->vector, w->dim * format_dtype_bytes(w->dtype));
        return MN_OK;
    }
    for (uint32_t i = 0; i < w->dim; i++) {
        float x = element_f32(rec, i);
        if (!store(w, i, x))
            return writer_fail(w, err, "element %u (counted from 0) is %g, which %s does not hold",
                               i, (double)x, format_dtype_name(w->dtype));
    }
    return MN_OK;
}

static mn_status write_vecs(struct format_writer *w)
{
    int32_t dim = (int32_t)w->dim;
    fwrite(&dim, sizeof dim, 1, w->out.file);
    fwrite(w->vec, format_dtype_bytes(w->dtype), w->dim, w->out.file);
    return MN_OK;
}

static mn_status write_record(struct format_writer *w, const struct format_record *rec,
                              mn_error *err)
{
    switch (w->kind) {
    case FORMAT_FVECS:
    case FORMAT_BVECS:
    case FORMAT_IVECS:
        return write_vecs(w);
    case FORMAT_FAISS:
        return faiss_writer_put(w, rec, err);
    case FORMAT_JSONL:
        return write_jsonl(w, rec, err);
    case FORMAT_CSV:
        return write_csv(w, rec, err);
    case FORMAT_TEXT:
        return write_words(w, rec, err);
    default:
        fwrite(w->vec, format_dtype_bytes(w->dtype), w->dim, w->out.file);
        return MN_OK;
    }
}

/* ---- Opening, writing, closing -------------------------------------------------------------- */

static mn_status set_dim(struct format_writer *w, uint32_t dim, mn_error *err)
{
    if (dim == 0 || dim > MN_MAX_DIM)
        return mn_fail(err, MN_INVALID, "%s: dimension %u is not within 1 .. %u", w->out.name, dim,
                       MN_MAX_DIM);
    w->dim = dim;
    w->vec = mn_alloc(w->alloc, (size_t)dim * sizeof(float), MN_TAG_IO);
    if (!w->vec)
        return mn_fail(err, MN_NOMEM, "%s: no memory for a vector", w->out.name);
    return MN_OK;
}

static enum format_dtype dtype_of(enum format_kind kind, enum format_dtype wanted)
{
    switch (kind) {
    case FORMAT_BVECS:
    case FORMAT_U8BIN:
        return FORMAT_U8;
    case FORMAT_I8BIN:
        return FORMAT_I8;
    case FORMAT_IVECS:
        return FORMAT_I32;
    case FORMAT_NPY:
        return wanted;
    default:
        return FORMAT_F32;
    }
}

static mn_status check_opts(const char *path, const struct format_write_opts *opts,
                            enum format_kind *kind, mn_error *err)
{
    *kind = opts->format ? opts->format : format_by_extension(path);
    if (*kind <= FORMAT_AUTO || *kind >= FORMAT_COUNT)
        return mn_fail(err, MN_INVALID, "%s: its extension names no format; choose one", path);
    if (*kind == FORMAT_WINK)
        return mn_fail(err, MN_INVALID, "%s: format wink is only read; write jsonl instead", path);
    if (*kind == FORMAT_NPY && opts->dtype > FORMAT_U8)
        return mn_fail(err, MN_INVALID, "%s: npy is written with f32, f16, i8 or u8, not %s", path,
                       format_dtype_name(opts->dtype));
    if (opts->n_known && is_bin(*kind) && opts->n > UINT32_MAX)
        return mn_fail(err, MN_INVALID, "%s: %s holds at most %s vectors", path,
                       format_name(*kind), COMMAS(UINT32_MAX));
    return MN_OK;
}

static void set_opts(struct format_writer *w, const char *path,
                     const struct format_write_opts *opts)
{
    size_t len = strlen(path);
    bool tabs = len > 4 && strcmp(path + len - 4, ".tsv") == 0;
    w->opts = *opts;
    w->dtype = dtype_of(w->kind, opts->dtype);
    w->vector_column = opts->vector_column ? opts->vector_column : "vector";
    w->id_column = opts->id_column ? opts->id_column : "id";
    w->payload_column = opts->payload_column ? opts->payload_column : "text";
    w->separator = opts->separator ? opts->separator : tabs ? '\t' : ',';
}

static void destroy(struct format_writer *w)
{
    struct mn_alloc *alloc = w->alloc;
    bool own = w->own_alloc;
    faiss_writer_free(w);
    out_abort(&w->out);
    out_abort(&w->ids);
    for (size_t i = 0; w->attrs && i < w->n_attrs; i++)
        mn_free(alloc, w->attrs[i]);
    mn_free(alloc, w->attrs);
    mn_free(alloc, w->vec);
    mn_free(alloc, w);
    if (own)
        mn_alloc_destroy(alloc);
}

static mn_status open_files(struct format_writer *w, const char *path, mn_error *err)
{
    mn_status st = out_open(&w->out, path, w->alloc, err);
    if (st == MN_OK && w->opts.ids_path)
        st = out_open(&w->ids, w->opts.ids_path, w->alloc, err);
    if (st == MN_OK && states_n(w) && !w->opts.n_known &&
        (out_is_pipe(&w->out) || w->kind == FORMAT_TEXT))
        st = mn_fail(err, MN_INVALID, "%s: %s states the number of records first, and into %s it "
                     "must be known", w->out.name, format_name(w->kind),
                     w->kind == FORMAT_TEXT ? "text" : "a pipe");
    if (st == MN_OK && w->opts.dim) {
        st = set_dim(w, w->opts.dim, err);
        if (st == MN_OK && w->kind != FORMAT_CSV)
            st = write_header(w, NULL, err);
    }
    return st;
}

mn_status format_writer_open(const char *path, const struct format_write_opts *given,
                             struct format_writer **out, mn_error *err)
{
    static const struct format_write_opts defaults = {0};
    const struct format_write_opts *opts = given ? given : &defaults;
    enum format_kind kind;
    *out = NULL;
    mn_error_clear(err);
    mn_status st = check_opts(path, opts, &kind, err);
    if (st != MN_OK)
        return st;
    struct mn_alloc *alloc = opts->alloc ? opts->alloc : mn_alloc_create(NULL, UINT64_MAX);
    struct format_writer *w =
        alloc ? mn_alloc_array(alloc, 1, sizeof *w, MN_TAG_HANDLE) : NULL;
    if (!w) {
        if (!opts->alloc)
            mn_alloc_destroy(alloc);
        return mn_fail(err, MN_NOMEM, "%s: no memory for a writer", path);
    }
    w->alloc = alloc;
    w->own_alloc = !opts->alloc;
    w->kind = kind;
    set_opts(w, path, opts);
    st = open_files(w, path, err);
    if (st != MN_OK)
        destroy(w);
    else
        *out = w;
    return st;
}

static mn_status put(struct format_writer *w, const struct format_record *rec, mn_error *err)
{
    mn_status st = MN_OK;
    bool first = w->dim == 0;
    if (first)
        st = set_dim(w, rec->dim, err);
    if (st == MN_OK && (first || (w->kind == FORMAT_CSV && w->count == 0)))
        st = write_header(w, rec, err);
    if (st == MN_OK && w->kind == FORMAT_FAISS && !w->flat)
        st = faiss_writer_begin(w, rec->id_kind == FORMAT_ID_INTEGER && !w->opts.ids_path, err);
    if (st == MN_OK)
        st = take_vector(w, rec, err);
    if (st == MN_OK)
        st = write_record(w, rec, err);
    if (st == MN_OK && w->ids.file)
        st = write_id_line(w, rec, err);
    if (st == MN_OK)
        st = out_check(&w->out, err);
    if (st == MN_OK && w->ids.file)
        st = out_check(&w->ids, err);
    return st;
}

mn_status format_writer_put(struct format_writer *w, const struct format_record *rec,
                            mn_error *err)
{
    mn_error_clear(err);
    if (w->failed)
        return mn_fail(err, MN_MISUSE, "%s: a record before failed; close the writer", w->out.name);
    mn_status st = put(w, rec, err);
    w->failed = st != MN_OK;
    w->count += st == MN_OK;
    return st;
}

static mn_status finish_faiss(struct format_writer *w, mn_error *err)
{
    mn_status st = MN_OK;
    if (w->dim == 0)
        return mn_fail(err, MN_INVALID, "%s: no record, and so no dimension for a FAISS index",
                       w->out.name);
    if (!w->flat)
        st = faiss_writer_begin(w, false, err);
    return st ? st : faiss_writer_end(w, err);
}

static mn_status finish(struct format_writer *w, mn_error *err)
{
    mn_status st = MN_OK;
    if (w->failed)
        return mn_fail(err, MN_MISUSE, "%s: is not written, since record %s failed", w->out.name,
                       COMMAS(w->count + 1));
    if (w->kind == FORMAT_CSV && w->count == 0)
        st = write_header(w, NULL, err);
    if (w->dim == 0 && states_n(w))
        return mn_fail(err, MN_INVALID, "%s: no record, and so no dimension for the header of %s",
                       w->out.name, format_name(w->kind));
    if (st == MN_OK && states_n(w))
        st = mend_header(w, err);
    if (st == MN_OK && w->kind == FORMAT_FAISS)
        st = finish_faiss(w, err);
    if (st == MN_OK)
        st = out_check(&w->out, err);
    if (st == MN_OK)
        st = out_commit(&w->out, err);
    if (st == MN_OK && w->ids.file)
        st = out_commit(&w->ids, err);
    return st;
}

mn_status format_writer_close(struct format_writer *w, mn_error *err)
{
    mn_error_clear(err);
    mn_status st = finish(w, err);
    destroy(w);
    return st;
}

void format_writer_abort(struct format_writer *w)
{
    if (w)
        destroy(w);
}
