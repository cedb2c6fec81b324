/* What a file is, by its head (probe) and by all of it (check). */
#include "src/formats/formats.h"
#include "src/formats/reader.h"
#include "storage/base/alloc.h"
#include "storage/base/error.h"

#include <stdlib.h>
#include <string.h>

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
                                     .bytes = r->src.total_known ? r->src.total : 0};
        if (rec)
            out->ids = rec->id_kind;
    }
    format_reader_close(r);
    return st;
}

static bool is_zero(const struct format_record *rec)
{
    const unsigned char *bytes = rec->vector;
    const float *x = rec->vector;
    if (rec->dtype == FORMAT_F32) {
        for (uint32_t i = 0; i < rec->dim; i++)
            if (x[i] != 0)
                return false;
        return true;
    }
    for (size_t i = 0; i < rec->dim * format_dtype_bytes(rec->dtype); i++)
        if (bytes[i] & (rec->dtype == FORMAT_F16 && i % 2 == 1 ? 0x7F : 0xFF))
            return false;
    return true;
}

/* An attribute's entry, made if it is new; NULL if the summary is full. `hint` is where it stands
 * if the records' attributes come in one order. */
static struct format_attr *entry(struct format_summary *s, const char *name, size_t hint)
{
    if (hint < s->n_attrs && strcmp(s->attrs[hint].name, name) == 0)
        return &s->attrs[hint];
    for (size_t i = 0; i < s->n_attrs; i++)
        if (strcmp(s->attrs[i].name, name) == 0)
            return &s->attrs[i];
    if (s->n_attrs == MN_MAX_ATTRIBUTES)
        return NULL;
    struct format_attr *a = &s->attrs[s->n_attrs++];
    *a = (struct format_attr){0};
    memcpy(a->name, name, strlen(name) + 1); /* readers have checked its length */
    return a;
}

static mn_status count(struct format_summary *s, struct format_reader *r,
                       const struct format_record *rec, mn_error *err)
{
    s->n++;
    s->n_integer_ids += rec->id_kind == FORMAT_ID_INTEGER;
    s->n_text_ids += rec->id_kind == FORMAT_ID_TEXT;
    s->n_no_ids += rec->id_kind == FORMAT_ID_NONE;
    s->n_payloads += rec->payload != NULL;
    if (is_zero(rec)) {
        s->n_zero++;
        if (!s->first_zero)
            s->first_zero = rec->number;
    }
    for (size_t i = 0; i < rec->n_attrs; i++) {
        struct format_attr *a = entry(s, rec->attrs[i].name, i);
        if (!a)
            return mn_fail(err, MN_INVALID, "%s: the records up to number %s have more than %u "
                           "attributes of different names", r->src.name, COMMAS(rec->number),
                           MN_MAX_ATTRIBUTES);
        a->types |= 1u << rec->attrs[i].value.type;
        a->n++;
    }
    return MN_OK;
}

static mn_status count_all(struct format_summary *s, struct format_reader *r,
                           format_progress_fn progress, void *ctx, mn_error *err)
{
    enum { EVERY = 1024 }; /* records between two calls of progress */
    const struct format_record *rec;
    mn_status st;
    while ((st = format_reader_next(r, &rec, err)) == MN_OK && rec) {
        st = count(s, r, rec, err);
        if (st != MN_OK)
            return st;
        if (progress && s->n % EVERY == 0) {
            uint64_t done, total;
            format_reader_progress(r, &done, &total);
            if (!progress(ctx, done, total))
                return mn_fail(err, MN_INTERRUPTED, "%s: checking was interrupted at byte %s",
                               r->src.name, COMMAS(done));
        }
    }
    s->format = r->kind;
    s->dtype = r->file_dtype;
    s->dim = r->dim;
    s->bytes = source_offset(&r->src);
    return st;
}

/* The summary outlives the reader's allocator, so it is malloc's: a fixed 27 KiB. */
static struct format_summary *create_summary(void)
{
    struct format_summary *s = calloc(1, sizeof *s);
    struct format_attr *attrs = calloc(MN_MAX_ATTRIBUTES, sizeof *attrs);
    if (s && attrs) {
        s->attrs = attrs;
        return s;
    }
    free(s);
    free(attrs);
    return NULL;
}

mn_status format_check(const char *path, const struct format_opts *opts,
                       format_progress_fn progress, void *ctx, struct format_summary **out,
                       mn_error *err)
{
    struct format_reader *r = NULL;
    *out = NULL;
    mn_status st = format_reader_open(path, opts, &r, err);
    if (st != MN_OK)
        return st;
    struct format_summary *s = create_summary();
    if (!s)
        st = mn_fail(err, MN_NOMEM, "%s: no memory for a summary", path);
    if (st == MN_OK)
        st = count_all(s, r, progress, ctx, err);
    if (st == MN_OK)
        *out = s;
    else
        format_summary_free(s);
    format_reader_close(r);
    return st;
}

void format_summary_free(struct format_summary *summary)
{
    if (!summary)
        return;
    free(summary->attrs);
    free(summary);
}
