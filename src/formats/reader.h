/* What the readers of the single formats share: the state of an open file, the checks that every
 * vector and id passes, and the ways to say where something is wrong. Internal to src/formats. */
#ifndef MN_FORMATS_READER_H
#define MN_FORMATS_READER_H

#include "src/formats/formats.h"
#include "src/formats/jscan.h"
#include "src/formats/source.h"

struct ids;

struct reader_ops {
    /* Reads the header, if there is one; sets dim, dtype and n as far as they are known. */
    mn_status (*open)(struct format_reader *r, mn_error *err);
    /* Fills r->rec (offset and line first: messages use them) and sets *got, or leaves it false at
     * the end, having checked that all that was promised came. */
    mn_status (*next)(struct format_reader *r, bool *got, mn_error *err);
    void (*close)(struct format_reader *r); /* frees what hangs from state, if not NULL; or NULL */
};

extern const struct reader_ops vecs_ops, bin_ops, npy_ops, faiss_ops, jsonl_ops, csv_ops, words_ops,
    wink_ops;

struct format_reader {
    struct mn_alloc *alloc;
    bool own_alloc;
    bool done;               /* the end was met */
    struct format_opts opts;
    struct source src;
    enum format_kind kind;
    const struct reader_ops *ops;
    enum format_dtype file_dtype, dtype; /* in the file; as delivered */
    uint32_t dim;            /* 0: not known yet */
    bool n_known;            /* n is stated by the file */
    uint64_t n;
    bool metric_known;       /* metric is stated by the file */
    mn_metric metric;
    uint64_t count;          /* records delivered */
    size_t row_bytes;        /* binary: dim elements in the file */
    void *vec;               /* room for a vector as delivered, aligned to 64 */
    struct format_record rec;
    mn_attr *attrs;          /* [MN_MAX_ATTRIBUTES], or NULL in formats without */
    char id_buf[MN_MAX_TEXT_ID + 1];
    struct ids *ids;         /* NULL: the file's own */
    void *state;             /* of the format; one allocation */
    mn_error failure;        /* code != MN_OK: every further call answers this */
};

/* Sets the dimension, once, having checked it against the limits and the caller's; makes room for
 * vectors. `what` begins the sentence: "record 1 at byte 0". */
MN_CHECKED mn_status reader_set_dim(struct format_reader *r, uint64_t dim, const char *what,
                                    mn_error *err);

/* Room for MN_MAX_DIM floats, for formats whose dimension is known only from the first record. */
MN_CHECKED mn_status reader_room(struct format_reader *r, mn_error *err);

/* Takes a vector of file_dtype, of any alignment, into r->vec and r->rec; refuses NaN and
 * infinities. */
MN_CHECKED mn_status reader_take_elements(struct format_reader *r, const void *bytes,
                                          mn_error *err);

/* The same for n floats that the format has put into r->vec itself; fixes the dimension with the
 * first record. */
MN_CHECKED mn_status reader_take_floats(struct format_reader *r, size_t n, mn_error *err);

/* Allocates r->state, zeroed. */
MN_CHECKED mn_status reader_state(struct format_reader *r, size_t size, mn_error *err);

/* A text as id, or an integer that stands in [text, text + len). */
MN_CHECKED mn_status reader_text_id(struct format_reader *r, const char *text, size_t len,
                                    mn_error *err);
void reader_integer_id(struct format_reader *r, int64_t id);

/* Adds an attribute; the name is checked. Fails past MN_MAX_ATTRIBUTES or if it stands twice. */
MN_CHECKED mn_status reader_add_attr(struct format_reader *r, const char *name, size_t len,
                                     mn_value value, mn_error *err);

/* "NAME: record N at byte B: ..." in binary files, "NAME: line L: ..." in text files. */
__attribute__((format(printf, 3, 4))) mn_status reader_fail(struct format_reader *r, mn_error *err,
                                                            const char *format, ...);

/* "NAME: line L, column C: ..." */
__attribute__((format(printf, 5, 6))) mn_status reader_fail_at(struct format_reader *r,
                                                               uint64_t line, uint64_t column,
                                                               mn_error *err, const char *format,
                                                               ...);

/* What j failed on, as found in the text that begins at `first` in line `line`. */
mn_status reader_fail_json(struct format_reader *r, const struct jscan *j, uint64_t line,
                           const char *first, mn_error *err);

/* Arrays with a header (fbin, u8bin, i8bin, npy): checks n and dim against the file's size, given
 * that `header` bytes were taken; then reads row by row. */
MN_CHECKED mn_status array_begin(struct format_reader *r, uint64_t header, uint64_t n, uint64_t dim,
                                 mn_error *err);
MN_CHECKED mn_status array_next(struct format_reader *r, bool *got, mn_error *err);

/* The first bytes of a FAISS index, of any kind. */
bool faiss_looks_like(const char *bytes, size_t n);

/* Recognises the format by name and first bytes; fails with a sentence that says what to do. */
MN_CHECKED mn_status detect_format(struct source *src, enum format_kind *out, mn_error *err);

/* ---- Files of ids --------------------------------------------------------------------------- */

MN_CHECKED mn_status ids_open(const char *path, const struct format_opts *opts,
                              struct mn_alloc *alloc, struct ids **out, mn_error *err);
MN_CHECKED mn_status ids_open_memory(const void *data, size_t len, const char *name,
                                     const struct format_opts *opts, struct mn_alloc *alloc,
                                     struct ids **out, mn_error *err);
/* The next id into *kind and *id or *text (borrowed); kind NONE at the end. */
MN_CHECKED mn_status ids_next(struct ids *ids, enum format_id_kind *kind, int64_t *id, char **text,
                              size_t *len, mn_error *err);
const char *ids_name(const struct ids *ids);
void ids_close(struct ids *ids);

#endif
