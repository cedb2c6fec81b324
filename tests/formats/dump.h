/* Shared by the tests of formats: a file, given as bytes, read to its end and told as text. */
#ifndef MN_TESTS_FORMATS_DUMP_H
#define MN_TESTS_FORMATS_DUMP_H

#include "src/formats/formats.h"
#include "tests/test.h"

#include <stdarg.h>

/* Little-endian elements as string literals. */
#define I32(c) c "\0\0\0"
#define F_1 "\0\0\x80\x3F"
#define F_2 "\0\0\0\x40"
#define F_HALF "\0\0\0\x3F"
#define F_MINUS_1 "\0\0\x80\xBF"
#define F_NAN "\0\0\xC0\x7F"
#define F_INF "\0\0\x80\x7F"

/* A string literal's bytes and their count, without its NUL. */
#define BYTES(text) (text), sizeof(text) - 1

struct dump {
    char text[8192]; /* one line a record: id [vector] <payload> attributes */
    mn_status status;
    mn_error err;
    uint64_t n;
};

__attribute__((format(printf, 2, 3))) static inline void dump_add(struct dump *d,
                                                                  const char *format, ...)
{
    va_list args;
    size_t len = strlen(d->text);
    va_start(args, format);
    vsnprintf(d->text + len, sizeof d->text - len, format, args);
    va_end(args);
}

static inline double dump_element(const struct format_record *rec, uint32_t i)
{
    switch (rec->dtype) {
    case FORMAT_I8:
        return ((const int8_t *)rec->vector)[i];
    case FORMAT_U8:
        return ((const uint8_t *)rec->vector)[i];
    case FORMAT_I32:
        return ((const int32_t *)rec->vector)[i];
    case FORMAT_F16: /* as its bits */
        return ((const uint16_t *)rec->vector)[i];
    default:
        return (double)((const float *)rec->vector)[i];
    }
}

static inline void dump_value(struct dump *d, const mn_value *v)
{
    switch (v->type) {
    case MN_NULL:
        dump_add(d, "null");
        break;
    case MN_INTEGER:
        dump_add(d, "%" PRId64, v->integer);
        break;
    case MN_REAL:
        dump_add(d, "%#.17g", v->real);
        break;
    case MN_TEXT:
        dump_add(d, "'%.*s'", (int)v->len, (const char *)v->data);
        break;
    case MN_BLOB:
        dump_add(d, "x");
        for (size_t i = 0; i < v->len; i++)
            dump_add(d, "%02x", ((const unsigned char *)v->data)[i]);
        break;
    }
}

static inline void dump_record(struct dump *d, const struct format_record *rec)
{
    if (d->n++)
        dump_add(d, "\n");
    if (rec->id_kind == FORMAT_ID_INTEGER)
        dump_add(d, "%" PRId64, rec->id);
    else if (rec->id_kind == FORMAT_ID_TEXT)
        dump_add(d, "'%s'", rec->id_text);
    else
        dump_add(d, "-");
    for (uint32_t i = 0; i < rec->dim; i++)
        dump_add(d, "%s%.9g", i ? " " : " [", dump_element(rec, i));
    dump_add(d, "]");
    if (rec->dtype != FORMAT_F32)
        dump_add(d, "%s", format_dtype_name(rec->dtype));
    if (rec->payload)
        dump_add(d, " <%.*s>", (int)rec->payload_len, rec->payload);
    for (size_t i = 0; i < rec->n_attrs; i++) {
        dump_add(d, " %s=", rec->attrs[i].name);
        dump_value(d, &rec->attrs[i].value);
    }
}

static inline void dump_reader(struct dump *d, struct format_reader *r)
{
    const struct format_record *rec = NULL;
    while ((d->status = format_reader_next(r, &rec, &d->err)) == MN_OK && rec)
        dump_record(d, rec);
    format_reader_close(r);
}

static inline void dump_memory(struct dump *d, const void *data, size_t len, const char *name,
                               const struct format_opts *opts)
{
    struct format_reader *r;
    memset(d, 0, sizeof *d);
    d->status = format_reader_open_memory(data, len, name, opts, &r, &d->err);
    if (d->status == MN_OK)
        dump_reader(d, r);
}

static inline void dump_file(struct dump *d, const char *path, const struct format_opts *opts)
{
    struct format_reader *r;
    memset(d, 0, sizeof *d);
    d->status = format_reader_open(path, opts, &r, &d->err);
    if (d->status == MN_OK)
        dump_reader(d, r);
}

static inline void write_bytes(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(data, 1, len, f) == len && fclose(f) == 0);
}

#endif
