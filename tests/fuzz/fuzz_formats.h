/* What the fuzz targets of src/formats share: bytes go through a reader, which must end with a
 * sentence or with records that keep the promises of formats.h, in memory bounded by the input. */
#ifndef MN_TESTS_FUZZ_FUZZ_FORMATS_H
#define MN_TESTS_FUZZ_FUZZ_FORMATS_H

#include "src/formats/formats.h"
#include "storage/base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Holds in release builds too. */
#define FUZZ_ENSURE(condition)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

static volatile unsigned char fuzz_sink;

/* Reads every byte, so that the sanitizer sees pointers beyond their memory. */
static inline void fuzz_touch(const void *data, size_t len)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < len; i++)
        fuzz_sink ^= bytes[i];
}

static inline void fuzz_record(const struct format_record *rec, const struct format_opts *opts)
{
    FUZZ_ENSURE(rec->dim >= 1 && rec->dim <= MN_MAX_DIM && rec->vector);
    FUZZ_ENSURE(!opts->dim || rec->dim == opts->dim);
    FUZZ_ENSURE((uintptr_t)rec->vector % 64 == 0);
    fuzz_touch(rec->vector, rec->dim * format_dtype_bytes(rec->dtype));
    for (uint32_t i = 0; rec->dtype == FORMAT_F32 && i < rec->dim; i++)
        FUZZ_ENSURE(isfinite(((const float *)rec->vector)[i]));
    if (rec->id_kind == FORMAT_ID_TEXT) {
        FUZZ_ENSURE(rec->id_len >= 1 && rec->id_len <= MN_MAX_TEXT_ID);
        FUZZ_ENSURE(strlen(rec->id_text) == rec->id_len && opts->ids != FORMAT_IDS_INTEGER);
    }
    FUZZ_ENSURE(rec->id_kind != FORMAT_ID_INTEGER || opts->ids != FORMAT_IDS_TEXT);
    fuzz_touch(rec->payload, rec->payload ? rec->payload_len : 0);
    FUZZ_ENSURE(rec->n_attrs <= MN_MAX_ATTRIBUTES);
    for (size_t i = 0; i < rec->n_attrs; i++) {
        size_t len = strlen(rec->attrs[i].name);
        FUZZ_ENSURE(len >= 1 && len <= MN_MAX_NAME);
        fuzz_touch(rec->attrs[i].value.data, rec->attrs[i].value.len);
    }
}

static inline void fuzz_read(const uint8_t *data, size_t size, const struct format_opts *given)
{
    struct format_opts opts = *given;
    struct format_reader *r;
    const struct format_record *rec;
    mn_error err;
    opts.alloc = mn_alloc_create(NULL, UINT64_MAX);
    if (!opts.alloc)
        return;
    mn_status st = format_reader_open_memory(data, size, "input", &opts, &r, &err);
    uint64_t n = 0;
    while (st == MN_OK && (st = format_reader_next(r, &rec, &err)) == MN_OK && rec) {
        FUZZ_ENSURE(rec->number == ++n);
        fuzz_record(rec, &opts);
    }
    /* NOTFOUND: an index of FAISS, whose plugin is not there to read it */
    FUZZ_ENSURE(st == MN_OK || ((st == MN_INVALID || st == MN_NOTFOUND) && err.message[0]));
    if (r)
        format_reader_close(r);
    /* buffer, vector, attributes, fields of CSV: under 1 MiB; the rest follows the input */
    FUZZ_ENSURE(mn_alloc_peak(opts.alloc) < (1 << 20) + 8 * size);
    mn_alloc_destroy(opts.alloc);
}

/* The same bytes as they come and in another way of reading. */
static inline void fuzz_format(const uint8_t *data, size_t size, enum format_kind kind)
{
    fuzz_read(data, size, &(struct format_opts){.format = kind});
    fuzz_read(data, size, &(struct format_opts){.format = kind, .buffer = 16, .native = true,
                                                .partial = true, .ids = FORMAT_IDS_TEXT,
                                                .dim = 2, .max_line = 1000});
}

#endif
