/* What the writers share: a file that becomes visible only when it is whole, and the record's
 * vector in the file's element type. Internal to src/formats. */
#ifndef MN_FORMATS_WRITER_H
#define MN_FORMATS_WRITER_H

#include "src/faiss/plugin.h"
#include "src/formats/formats.h"

#include <stdio.h>

/* A file being written under a temporary name; `file` is used with stdio, errors are looked for at
 * the end of each record and at close. */
struct out {
    struct mn_alloc *alloc;
    FILE *file;
    char *path;      /* where it shall be; NULL: written directly */
    char *temporary; /* its name until then */
    char name[128];  /* for messages */
};

/* All may be called on a zeroed struct. */
MN_CHECKED mn_status out_open(struct out *o, const char *path, struct mn_alloc *alloc,
                              mn_error *err);
MN_CHECKED mn_status out_check(struct out *o, mn_error *err); /* fails if a write has failed */
/* Flushes, syncs, renames. After it, or after out_abort, the struct is zeroed. */
MN_CHECKED mn_status out_commit(struct out *o, mn_error *err);
void out_abort(struct out *o);
bool out_is_pipe(const struct out *o); /* a header at its start can't be mended later */

struct format_writer {
    struct mn_alloc *alloc;
    bool own_alloc, failed;
    enum format_kind kind;
    enum format_dtype dtype; /* of elements in the file */
    uint32_t dim;            /* 0: no record yet */
    uint64_t count;
    struct format_write_opts opts;
    const char *vector_column, *id_column, *payload_column;
    char separator;
    struct out out, ids;
    void *vec;     /* [dim] of dtype: the record's vector */
    const struct faiss_plugin *faiss; /* faiss: NULL before the first record */
    struct faiss_flat *flat;
    bool faiss_ids; /* with an id map */
    char **attrs;  /* csv: [n_attrs] names, of this writer */
    size_t n_attrs;
};

/* Text formats: the header and one record. vec is f32. */
MN_CHECKED mn_status write_csv_header(struct format_writer *w, const struct format_record *first,
                                      mn_error *err);
MN_CHECKED mn_status write_csv(struct format_writer *w, const struct format_record *rec,
                               mn_error *err);
MN_CHECKED mn_status write_jsonl(struct format_writer *w, const struct format_record *rec,
                                 mn_error *err);
MN_CHECKED mn_status write_words(struct format_writer *w, const struct format_record *rec,
                                 mn_error *err);
MN_CHECKED mn_status write_id_line(struct format_writer *w, const struct format_record *rec,
                                   mn_error *err);

/* faiss: vectors are gathered in FAISS's memory, and written at the end. begin: w->dim is known. */
MN_CHECKED mn_status faiss_writer_begin(struct format_writer *w, bool ids, mn_error *err);
MN_CHECKED mn_status faiss_writer_put(struct format_writer *w, const struct format_record *rec,
                                      mn_error *err);
MN_CHECKED mn_status faiss_writer_end(struct format_writer *w, mn_error *err);
void faiss_writer_free(struct format_writer *w);

__attribute__((format(printf, 3, 4))) mn_status writer_fail(struct format_writer *w, mn_error *err,
                                                            const char *format, ...);

#endif
