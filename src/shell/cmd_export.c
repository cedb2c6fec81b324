/* mneme export: the rows of a collection into a file, in id order, of one snapshot. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/formats/formats.h"
#include "src/shell/print.h"
#include "src/shell/rows.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"
#include "src/shell/vectors.h"

struct export_options {
    struct common common;
    const char *to, *ids;
    int format;
    uint64_t limit;
};

#define FIELD(name) offsetof(struct export_options, name)
static const struct option options[] = {
    {"to", 'o', OPTION_TEXT, FIELD(to), "FILE",
     "Where to. Default: standard output, as - says too. The file appears when it is complete.",
     NULL, 0, 0},
    {"format", 'f', OPTION_CHOICE, FIELD(format), "F",
     "fvecs, bvecs, ivecs, fbin, u8bin, i8bin, npy, faiss (a flat index), jsonl, csv or text (word "
     "f f ...). Default: by the file's name; jsonl for standard output.",
     FORMAT_CHOICES, 0, 0},
    {"ids", 0, OPTION_TEXT, FIELD(ids), "FILE",
     "Also write the ids, one a line, for formats that have none.", NULL, 0, 0},
    {"limit", 'n', OPTION_COUNT, FIELD(limit), "N", "Only the first N rows.", NULL, 1, 1e18},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

struct export
{
    const struct export_options *given;
    const char *collection, *to;
    struct session db;
    mn_collection_info info;
    struct names names;
    struct format_writer *writer;
    enum format_kind format;
    enum format_dtype dtype;        /* in which vectors are handed to the writer */
    uint32_t dim;                   /* of them */
    bool raw;                       /* as they are stored */
    bool unit;                      /* scaled to length 1 */
    float *x;                       /* [dim] otherwise */
    uint64_t n, total, passed_over; /* rows written; expected; without a vector */
};

static int choose_format(struct export *e)
{
    const struct export_options *g = e->given;
    bool standard = strcmp(e->to, "-") == 0;
    e->format = g->format  ? (enum format_kind)g->format
                : standard ? FORMAT_JSONL
                           : format_by_extension(e->to);
    if (e->format == FORMAT_AUTO)
        return usage_error("export: the name of %s does not say its format; give --format F",
                           e->to);
    if (e->format == FORMAT_WINK)
        return usage_error("export: wink is only read, not written; use text or jsonl");
    return 0;
}

/* Vectors go out as stored where the file can hold that type, else as f32; bits as bytes into
 * files of bytes, else as elements 0 and 1. */
static void choose_types(struct export *e)
{
    mn_dtype stored = e->info.dtype;
    bool npy = e->format == FORMAT_NPY;
    bool bytes = npy || e->format == FORMAT_U8BIN || e->format == FORMAT_BVECS;
    e->dim = e->info.dim;
    e->dtype = FORMAT_F32;
    e->raw = stored == MN_F32;
    if (stored == MN_BIT && bytes) {
        e->dtype = FORMAT_U8;
        e->dim /= 8;
        e->raw = true;
    } else if (stored == MN_F16 && npy) {
        e->dtype = FORMAT_F16;
        e->raw = true;
    } else if (stored == MN_I8 && (npy || e->format == FORMAT_I8BIN)) {
        e->dtype = FORMAT_I8;
        e->raw = true;
    } else if (e->format == FORMAT_FAISS && e->info.metric == MN_COSINE) {
        e->raw = false;
        e->unit = true;
    }
}

/* FAISS has no cosine: the inner product of vectors of length 1 stands for it. */
static mn_metric faiss_metric(const struct export *e)
{
    return e->info.metric == MN_COSINE ? MN_IP : e->info.metric;
}

static int check_faiss(const struct export *e)
{
    if (e->format != FORMAT_FAISS || e->info.metric != MN_HAMMING)
        return 0;
    return error_exit("'%s' is searched by hamming; a flat FAISS index has l2 or ip: export bits "
                      "as npy or u8bin",
                      e->collection);
}

static void scale_to_unit(float *x, uint32_t dim)
{
    double square = 0;
    for (uint32_t i = 0; i < dim; i++)
        square += (double)x[i] * (double)x[i];
    for (uint32_t i = 0; i < dim && square > 0; i++)
        x[i] = (float)((double)x[i] / sqrt(square));
}

/* Counts within the snapshot: some formats state the number of rows in front of them. */
static int choose_total(struct export *e)
{
    mn_collection_stats stats;
    mn_error err = {0};
    if (mn_collection_stats_get(e->db.conn, e->collection, &stats, &err))
        return library_error(&err);
    e->total = stats.vectors;
    if (e->given->limit && e->given->limit < e->total)
        e->total = e->given->limit;
    else /* the last of them may stand behind the last vector, where nobody looks */
        e->passed_over = stats.rows - stats.vectors;
    return 0;
}

static int writer_open(struct export *e)
{
    mn_error err = {0};
    struct format_write_opts opts = {
        .format = e->format,
        .dtype = e->dtype,
        .dim = e->dim,
        .n_known = true,
        .n = e->total,
        .metric = faiss_metric(e),
        .ids_path = e->given->ids,
        .attrs = e->names.items,
        .n_attrs = e->names.n,
    };
    e->x = need(calloc(e->info.dim, sizeof *e->x));
    return format_writer_open(e->to, &opts, &e->writer, &err) ? library_error(&err) : 0;
}

static int export_row(struct export *e, const mn_row *row)
{
    mn_error err = {0};
    if (!row->vector)
        return 0;
    if (!e->raw)
        vector_to_f32(e->info.dtype, e->info.dim, row->vector, e->x);
    if (e->unit)
        scale_to_unit(e->x, e->info.dim);
    struct format_record rec = {
        .id_kind = row->text_id ? FORMAT_ID_TEXT : FORMAT_ID_INTEGER,
        .id = row->id,
        .id_text = row->text_id,
        .id_len = row->text_id ? strlen(row->text_id) : 0,
        .dtype = e->dtype,
        .dim = e->dim,
        .vector = e->raw ? row->vector : e->x,
        .attrs = row->attrs,
        .n_attrs = row->n_attrs,
        .payload = row->payload,
        .payload_len = row->payload_len,
    };
    if (format_writer_put(e->writer, &rec, &err))
        return library_error(&err);
    e->n++;
    return 0;
}

static int export_rows(struct export *e)
{
    mn_iter *iter = NULL;
    const mn_row *row = NULL;
    struct progress progress;
    mn_error err = {0};
    int code = 0;
    progress_begin(&progress, &e->given->common, "exporting", "rows");
    mn_status st = mn_iter_open(e->db.conn, e->collection, INT64_MIN, &iter, &err);
    while (!st && !code && e->n < e->total) {
        st = mn_iter_next(iter, &row, &err);
        if (st || !row)
            break;
        code = export_row(e, row);
        if (!code && !progress_update(&progress, e->n, e->total))
            code = EXIT_INTERRUPTED;
    }
    progress_end(&progress);
    mn_iter_close(iter);
    return st ? library_error(&err) : code;
}

static int export_run(struct export *e)
{
    mn_error err = {0};
    int code = session_collection(&e->db, e->collection, &e->info);
    if (!code)
        code = check_faiss(e);
    if (!code)
        code = names_load(&e->names, &e->db, e->collection);
    if (code)
        return code;
    choose_types(e);
    if (mn_begin_read(e->db.conn, &err))
        return library_error(&err);
    code = choose_total(e);
    if (!code)
        code = writer_open(e);
    if (!code)
        code = export_rows(e);
    (void)mn_rollback(e->db.conn, NULL);
    if (code)
        format_writer_abort(e->writer);
    else if (format_writer_close(e->writer, &err))
        code = library_error(&err);
    return code;
}

/* On stderr if the rows went to standard output. */
static void say_done(const struct export *e, double seconds)
{
    char n[UNITS_TEXT], time[UNITS_TEXT];
    bool standard = strcmp(e->to, "-") == 0;
    if (e->passed_over)
        warn("%s rows have no vector in '%s' and were left out", count_format(n, e->passed_over),
             e->collection);
    if (!standard)
        out_printf("exported %s rows to %s as %s in %s\n", count_format(n, e->n), e->to,
                   format_name(e->format), duration_format(time, seconds));
}

static int run(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    const struct export_options *g = given;
    if (n > 2 && g->to)
        return usage_error("export: give FILE or --to FILE, not both");
    struct export e = {
        .given = g,
        .collection = args[1],
        .to = n > 2   ? args[2]
              : g->to ? g->to
                      : "-",
    };
    double start = now_seconds();
    int code = choose_format(&e);
    if (code)
        return code;
    code = session_open(&e.db, &g->common, args[0], MN_OPEN_READONLY);
    if (!code)
        code = export_run(&e);
    if (code == EXIT_INTERRUPTED && strcmp(e.to, "-") != 0)
        (void)interrupted_exit("interrupted; %s was not written", e.to);
    names_free(&e.names);
    free(e.x);
    int closed = session_close(&e.db);
    if (!code && !g->common.quiet)
        say_done(&e, now_seconds() - start);
    return code ? code : closed;
}

const struct command cmd_export = {
    .name = "export",
    .arguments = "DB COLLECTION [FILE]",
    .summary = "write the rows of a collection to a file",
    .about = "Writes rows in the order of their integer ids, all of one state of the database.\n"
             "jsonl and csv hold ids, attributes and payloads; text holds ids; the others hold\n"
             "vectors, and --ids FILE takes the ids. `mneme import` reads what this writes.\n"
             "\n"
             "faiss is a flat index of FAISS by l2 or ip, with integer ids in an IndexIDMap2\n"
             "unless --ids takes them. Vectors of a cosine collection are scaled to length 1\n"
             "for it, and searched by ip. It is written by FAISS itself, an optional part\n"
             "(tools/faiss builds it), which holds it whole in memory beside the cap.",
    .examples = "  mneme export app.db docs docs.jsonl\n"
                "  mneme export app.db words --to words.npy --ids words.txt\n"
                "  mneme export app.db sift sift.faiss\n"
                "  mneme export app.db docs --limit 3\n",
    .options = options,
    .size = sizeof(struct export_options),
    .run = run,
};
