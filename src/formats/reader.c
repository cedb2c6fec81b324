#include "src/formats/reader.h"
#include "storage/base/number.h"
#include "src/formats/text.h"
#include "storage/base/alloc.h"
#include "storage/base/error.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Where big memory begins to be wasteful for a binary record: MN_MAX_DIM f64 and a header. */
enum {
    BINARY_LIMIT = MN_MAX_DIM * 8 + 64,
    DEFAULT_BUFFER = 256 << 10,
    LEAST_BUFFER = 16,
    MOST_LINE = 1 << 30 /* positions in a CSV record are 32 bits */
};

static const struct reader_ops *const all_ops[FORMAT_COUNT] = {
    [FORMAT_FVECS] = &vecs_ops, [FORMAT_BVECS] = &vecs_ops, [FORMAT_IVECS] = &vecs_ops,
    [FORMAT_FBIN] = &bin_ops,   [FORMAT_U8BIN] = &bin_ops,  [FORMAT_I8BIN] = &bin_ops,
    [FORMAT_NPY] = &npy_ops,    [FORMAT_FAISS] = &faiss_ops, [FORMAT_JSONL] = &jsonl_ops,
    [FORMAT_CSV] = &csv_ops,    [FORMAT_TEXT] = &words_ops,  [FORMAT_WINK] = &wink_ops,
};

static bool is_binary(enum format_kind kind)
{
    return kind < FORMAT_JSONL;
}

/* ---- Messages ------------------------------------------------------------------------------- */

mn_status reader_fail(struct format_reader *r, mn_error *err, const char *format, ...)
{
    char text[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (r->rec.line)
        return mn_fail(err, MN_INVALID, "%s: line %s: %s", r->src.name, COMMAS(r->rec.line), text);
    return mn_fail(err, MN_INVALID, "%s: record %s at byte %s: %s", r->src.name,
                   COMMAS(r->count + 1), COMMAS(r->rec.offset), text);
}

mn_status reader_fail_at(struct format_reader *r, uint64_t line, uint64_t column, mn_error *err,
                         const char *format, ...)
{
    char text[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return mn_fail(err, MN_INVALID, "%s: line %s, column %s: %s", r->src.name, COMMAS(line),
                   COMMAS(column), text);
}

mn_status reader_fail_json(struct format_reader *r, const struct jscan *j, uint64_t line,
                           const char *first, mn_error *err)
{
    return reader_fail_at(r, line, (uint64_t)(j->where - first) + 1, err, "%s", j->why);
}

/* ---- Vectors -------------------------------------------------------------------------------- */

static mn_status no_memory(struct format_reader *r, size_t size, mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "%s: no memory for %zu bytes to read with", r->src.name, size);
}

mn_status reader_state(struct format_reader *r, size_t size, mn_error *err)
{
    r->state = mn_alloc_array(r->alloc, 1, size, MN_TAG_IO);
    return r->state ? MN_OK : no_memory(r, size, err);
}

mn_status reader_room(struct format_reader *r, mn_error *err)
{
    size_t size = MN_MAX_DIM * sizeof(float);
    r->vec = mn_alloc(r->alloc, size, MN_TAG_IO);
    return r->vec ? MN_OK : no_memory(r, size, err);
}

mn_status reader_set_dim(struct format_reader *r, uint64_t dim, const char *what, mn_error *err)
{
    if (dim == 0 || dim > MN_MAX_DIM)
        return mn_fail(err, MN_INVALID, "%s: %s has dimension %s, which is not within 1 .. %s; "
                       "is this really a file of format %s?", r->src.name, what, COMMAS(dim),
                       COMMAS(MN_MAX_DIM), format_name(r->kind));
    if (r->opts.dim && dim != r->opts.dim)
        return mn_fail(err, MN_INVALID, "%s: %s has dimension %s, %s is expected", r->src.name,
                       what, COMMAS(dim), COMMAS(r->opts.dim));
    r->dim = (uint32_t)dim;
    r->row_bytes = (size_t)dim * format_dtype_bytes(r->file_dtype);
    if (!r->vec) {
        size_t size = (size_t)dim * format_dtype_bytes(r->dtype);
        r->vec = mn_alloc(r->alloc, size, MN_TAG_IO);
        if (!r->vec)
            return no_memory(r, size, err);
    }
    return MN_OK;
}

/* Index of the first float that is NaN or infinite; dim if none is. */
static size_t first_not_finite(const float *x, size_t dim)
{
    size_t bad = 0;
    for (size_t i = 0; i < dim; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad += (bits & 0x7F800000) == 0x7F800000;
    }
    if (!bad)
        return dim;
    size_t i = 0;
    while (isfinite(x[i]))
        i++;
    return i;
}

static mn_status fail_element(struct format_reader *r, size_t i, const char *what, mn_error *err)
{
    return reader_fail(r, err, "element %zu (counted from 0) is %s", i, what);
}

/* Also for f16 that stays f16: a copy as floats is checked, element by element. */
static mn_status take_half(struct format_reader *r, const char *bytes, mn_error *err)
{
    float *out = r->vec;
    for (size_t i = 0; i < r->dim; i++) {
        uint16_t half;
        memcpy(&half, bytes + 2 * i, sizeof half);
        if ((half & 0x7C00) == 0x7C00)
            return fail_element(r, i, half & 0x3FF ? "NaN" : "infinite", err);
        if (r->dtype == FORMAT_F32)
            out[i] = number_from_half(half);
    }
    if (r->dtype == FORMAT_F16)
        memcpy(r->vec, bytes, r->row_bytes);
    return MN_OK;
}

static mn_status take_double(struct format_reader *r, const char *bytes, mn_error *err)
{
    float *out = r->vec;
    for (size_t i = 0; i < r->dim; i++) {
        double value;
        memcpy(&value, bytes + 8 * i, sizeof value);
        if (!isfinite(value))
            return fail_element(r, i, isnan(value) ? "NaN" : "infinite", err);
        out[i] = (float)value;
        if (!isfinite(out[i]))
            return fail_element(r, i, "beyond the range of f32", err);
    }
    return MN_OK;
}

static mn_status take_int32(struct format_reader *r, const char *bytes, mn_error *err)
{
    float *out = r->vec;
    for (size_t i = 0; i < r->dim; i++) {
        int32_t value;
        memcpy(&value, bytes + 4 * i, sizeof value);
        out[i] = (float)value;
        if (value > (1 << 24) || value < -(1 << 24))
            return fail_element(r, i, "an integer beyond 2^24, which f32 does not hold exactly",
                                err);
    }
    return MN_OK;
}

static mn_status check_finite(struct format_reader *r, mn_error *err)
{
    const float *x = r->vec;
    size_t bad = first_not_finite(x, r->dim);
    if (bad < r->dim)
        return fail_element(r, bad, isnan(x[bad]) ? "NaN" : "infinite", err);
    return MN_OK;
}

static mn_status convert(struct format_reader *r, const char *bytes, mn_error *err)
{
    float *out = r->vec;
    switch (r->file_dtype) {
    case FORMAT_F32:
        memcpy(r->vec, bytes, r->row_bytes);
        return check_finite(r, err);
    case FORMAT_F16:
        return take_half(r, bytes, err);
    case FORMAT_F64:
        return take_double(r, bytes, err);
    case FORMAT_I32:
        if (r->dtype == FORMAT_F32)
            return take_int32(r, bytes, err);
        memcpy(r->vec, bytes, r->row_bytes);
        return MN_OK;
    case FORMAT_I8:
    case FORMAT_U8:
        if (r->dtype != FORMAT_F32) {
            memcpy(r->vec, bytes, r->row_bytes);
            return MN_OK;
        }
        for (size_t i = 0; i < r->dim; i++)
            out[i] = r->file_dtype == FORMAT_I8 ? (float)(signed char)bytes[i]
                                                : (float)(unsigned char)bytes[i];
        return MN_OK;
    }
    return MN_OK;
}

static void set_vector(struct format_reader *r)
{
    r->rec.dtype = r->dtype;
    r->rec.dim = r->dim;
    r->rec.vector = r->vec;
}

mn_status reader_take_elements(struct format_reader *r, const void *bytes, mn_error *err)
{
    mn_status st = convert(r, bytes, err);
    set_vector(r);
    return st;
}

mn_status reader_take_floats(struct format_reader *r, size_t n, mn_error *err)
{
    if (r->dim && n != r->dim)
        return reader_fail(r, err, r->count || r->n_known ? "the vector has %s elements, those "
                           "before have %s" : "the vector has %s elements, %s are expected",
                           COMMAS(n), COMMAS(r->dim));
    if (!r->dim) {
        char what[48];
        snprintf(what, sizeof what, "line %s", COMMAS(r->rec.line));
        mn_status st = reader_set_dim(r, n, r->rec.line ? what : "the first vector", err);
        if (st != MN_OK)
            return st;
    }
    set_vector(r);
    return check_finite(r, err);
}

/* ---- Ids and attributes --------------------------------------------------------------------- */

void reader_integer_id(struct format_reader *r, int64_t id)
{
    if (r->opts.ids == FORMAT_IDS_TEXT) {
        r->rec.id_kind = FORMAT_ID_TEXT;
        r->rec.id_text = r->id_buf;
        r->rec.id_len = (size_t)snprintf(r->id_buf, sizeof r->id_buf, "%" PRId64, id);
        return;
    }
    r->rec.id_kind = FORMAT_ID_INTEGER;
    r->rec.id = id;
}

/* As much of a text as a message shows, without control characters. */
static const char *shown(char out[48], const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len && n < 40; i++) {
        unsigned char c = (unsigned char)text[i];
        out[n++] = c < 0x20 || c == 0x7F ? '?' : (char)c;
    }
    n = utf8_valid_len(out, n);
    memcpy(out + n, len > n ? "..." : "", len > n ? 4 : 1);
    return out;
}

mn_status reader_text_id(struct format_reader *r, const char *text, size_t len, mn_error *err)
{
    char show[48];
    size_t bad = utf8_valid_len(text, len);
    if (bad < len)
        return reader_fail(r, err, "the id is not valid UTF-8: its byte %s is 0x%02x",
                           COMMAS(bad + 1), (unsigned char)text[bad]);
    if (len == 0)
        return reader_fail(r, err, "the id is empty");
    if (len > MN_MAX_TEXT_ID)
        return reader_fail(r, err, "the id '%s' has %s bytes, at most %u are possible",
                           shown(show, text, len), COMMAS(len), MN_MAX_TEXT_ID);
    if (memchr(text, '\0', len))
        return reader_fail(r, err, "the id '%s' holds a NUL byte", shown(show, text, len));
    if (r->opts.ids == FORMAT_IDS_INTEGER) {
        struct number number;
        int64_t id;
        const char *end = number_scan(text, text + len, true, &number);
        if (!end || end != text + len || !number_i64(&number, &id))
            return reader_fail(r, err, "the id '%s' is no 64-bit integer, and integer ids were "
                               "asked for", shown(show, text, len));
        r->rec.id_kind = FORMAT_ID_INTEGER;
        r->rec.id = id;
        return MN_OK;
    }
    memcpy(r->id_buf, text, len);
    r->id_buf[len] = '\0';
    r->rec.id_kind = FORMAT_ID_TEXT;
    r->rec.id_text = r->id_buf;
    r->rec.id_len = len;
    return MN_OK;
}

mn_status reader_add_attr(struct format_reader *r, const char *name, size_t len, mn_value value,
                          mn_error *err)
{
    char show[48];
    if (len == 0 || len > MN_MAX_NAME || strlen(name) != len)
        return reader_fail(r, err, "the attribute name '%s' must have 1 .. %u bytes and no NUL",
                           shown(show, name, len), MN_MAX_NAME);
    for (size_t i = 0; i < r->rec.n_attrs; i++)
        if (strcmp(r->attrs[i].name, name) == 0)
            return reader_fail(r, err, "'%s' stands twice in one record", shown(show, name, len));
    if (r->rec.n_attrs == MN_MAX_ATTRIBUTES)
        return reader_fail(r, err, "a record has more than %u attributes", MN_MAX_ATTRIBUTES);
    r->attrs[r->rec.n_attrs++] = (mn_attr){.name = name, .value = value};
    return MN_OK;
}

/* The record's id from the file of ids, instead of its own. */
static mn_status take_id(struct format_reader *r, mn_error *err)
{
    enum format_id_kind kind;
    int64_t id;
    char *text;
    size_t len;
    mn_status st = ids_next(r->ids, &kind, &id, &text, &len, err);
    if (st != MN_OK)
        return st;
    if (kind == FORMAT_ID_NONE)
        return mn_fail(err, MN_INVALID, "%s: ends after %s ids, but %s has more records",
                       ids_name(r->ids), COMMAS(r->count), r->src.name);
    r->rec.id_kind = FORMAT_ID_NONE;
    r->rec.id_text = NULL;
    if (kind == FORMAT_ID_TEXT)
        return reader_text_id(r, text, len, err);
    reader_integer_id(r, id);
    return MN_OK;
}

static mn_status check_ids_end(struct format_reader *r, mn_error *err)
{
    enum format_id_kind kind;
    int64_t id;
    char *text;
    size_t len;
    mn_status st = ids_next(r->ids, &kind, &id, &text, &len, err);
    if (st == MN_OK && kind != FORMAT_ID_NONE)
        st = mn_fail(err, MN_INVALID, "%s: has more ids than the %s records of %s",
                     ids_name(r->ids), COMMAS(r->count), r->src.name);
    return st;
}

/* ---- Opening, reading, closing -------------------------------------------------------------- */

static mn_status create(const struct format_opts *opts, struct format_reader **out, mn_error *err)
{
    struct mn_alloc *alloc = opts->alloc ? opts->alloc : mn_alloc_create(NULL, UINT64_MAX);
    struct format_reader *r =
        alloc ? mn_alloc_array(alloc, 1, sizeof *r, MN_TAG_HANDLE) : NULL;
    *out = r;
    if (!r) {
        if (!opts->alloc)
            mn_alloc_destroy(alloc);
        return mn_fail(err, MN_NOMEM, "no memory for a reader");
    }
    r->alloc = alloc;
    r->own_alloc = !opts->alloc;
    r->opts = *opts;
    r->src.fd = -1;
    return MN_OK;
}

static mn_status begin(struct format_reader *r, mn_error *err)
{
    mn_status st = source_fill(&r->src, 1, err);
    if (st != MN_OK)
        return st;
    if (source_avail(&r->src) == 0)
        return mn_fail(err, MN_INVALID, "%s: is empty, 0 bytes", r->src.name);
    r->kind = r->opts.format;
    if (r->kind == FORMAT_AUTO)
        st = detect_format(&r->src, &r->kind, err);
    if (st != MN_OK)
        return st;
    if (is_binary(r->kind)) {
        r->src.limit = BINARY_LIMIT;
    } else {
        st = reader_room(r, err);
        r->attrs = mn_alloc_array(r->alloc, MN_MAX_ATTRIBUTES, sizeof *r->attrs, MN_TAG_IO);
        if (st == MN_OK && !r->attrs)
            st = no_memory(r, MN_MAX_ATTRIBUTES * sizeof *r->attrs, err);
    }
    r->ops = all_ops[r->kind];
    return st == MN_OK ? r->ops->open(r, err) : st;
}

/* A source that was not opened (path NULL) is memory. */
static mn_status open_reader(const char *path, const void *data, size_t len, const char *name,
                             const struct format_opts *given, struct format_reader **out,
                             mn_error *err)
{
    static const struct format_opts defaults = {0};
    const struct format_opts *opts = given ? given : &defaults;
    *out = NULL;
    mn_error_clear(err);
    if (opts->format < 0 || opts->format >= FORMAT_COUNT)
        return mn_fail(err, MN_INVALID, "%s: format number %d is none", name, (int)opts->format);
    if (opts->dim > MN_MAX_DIM)
        return mn_fail(err, MN_INVALID, "%s: dimension %u is asked for, at most %u is possible",
                       name, opts->dim, MN_MAX_DIM);
    struct format_reader *r;
    mn_status st = create(opts, &r, err);
    if (st != MN_OK)
        return st;
    size_t chunk = opts->buffer ? opts->buffer : DEFAULT_BUFFER,
           limit = opts->max_line ? opts->max_line : FORMAT_MAX_LINE;
    chunk = chunk < LEAST_BUFFER ? LEAST_BUFFER : chunk;
    limit = limit > MOST_LINE ? MOST_LINE : limit < LEAST_BUFFER ? LEAST_BUFFER : limit;
    st = path ? source_open(&r->src, path, chunk, limit, r->alloc, err)
              : source_open_memory(&r->src, data, len, name, chunk, limit, r->alloc, err);
    if (st == MN_OK)
        st = begin(r, err);
    if (st == MN_OK && opts->ids_path)
        st = ids_open(opts->ids_path, opts, r->alloc, &r->ids, err);
    if (st != MN_OK)
        format_reader_close(r);
    else
        *out = r;
    return st;
}

mn_status format_reader_open(const char *path, const struct format_opts *opts,
                             struct format_reader **out, mn_error *err)
{
    return open_reader(path, NULL, 0, path, opts, out, err);
}

mn_status format_reader_open_memory(const void *data, size_t len, const char *name,
                                    const struct format_opts *opts, struct format_reader **out,
                                    mn_error *err)
{
    return open_reader(NULL, data, len, name, opts, out, err);
}

mn_status format_reader_next(struct format_reader *r, const struct format_record **rec,
                             mn_error *err)
{
    *rec = NULL;
    mn_error_clear(err);
    if (r->failure.code == MN_OK && !r->done) {
        bool got = false;
        r->rec = (struct format_record){.attrs = r->attrs};
        mn_status st = r->ops->next(r, &got, &r->failure);
        if (st == MN_OK && r->ids)
            st = got ? take_id(r, &r->failure) : check_ids_end(r, &r->failure);
        if (st == MN_OK && got) {
            r->rec.number = ++r->count;
            *rec = &r->rec;
        }
        r->done = !got;
    }
    if (r->failure.code != MN_OK && err)
        *err = r->failure;
    return r->failure.code;
}

void format_reader_progress(const struct format_reader *r, uint64_t *done, uint64_t *total)
{
    *done = source_offset(&r->src);
    *total = r->src.total_known ? r->src.total : 0;
}

bool format_reader_metric(const struct format_reader *r, mn_metric *metric)
{
    *metric = r->metric;
    return r->metric_known;
}

void format_reader_close(struct format_reader *r)
{
    if (!r)
        return;
    struct mn_alloc *alloc = r->alloc;
    bool own = r->own_alloc;
    if (r->ops && r->ops->close && r->state)
        r->ops->close(r);
    ids_close(r->ids);
    source_close(&r->src);
    mn_free(alloc, r->vec);
    mn_free(alloc, r->attrs);
    mn_free(alloc, r->state);
    mn_free(alloc, r);
    if (own)
        mn_alloc_destroy(alloc);
}
