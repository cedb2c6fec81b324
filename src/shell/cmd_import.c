/* mneme import: a file's rows into a collection.
 *
 * A file is read twice. The first pass stores nothing and meets whatever damage there is, so that
 * a damaged file changes nothing in the database; it also tells what must be there before the first
 * row: dimension, kind of ids, attributes. The second pass puts rows in batches, each durable when
 * the next begins: one transaction over everything would keep the write-ahead log growing to the
 * size of the import. What a killed import leaves is whole batches; running it again replaces them.
 *
 * Standard input can be read only once: there, one transaction holds all rows, and damage rolls it
 * back. With --partial what stands before the damage is kept in both cases. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/formats/formats.h"
#include "src/shell/indexing.h"
#include "src/shell/print.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"
#include "src/shell/vectors.h"

enum { BATCH_BYTES = 16 << 20 }; /* of vectors: part of what is held beside the memory cap */

struct import_options {
    struct common common;
    int metric, dtype, format; /* OPTION_CHOICE */
    const char *ids, *vector_column, *id_column, *payload_column;
    struct option_integer first_id;
    uint64_t batch, limit, bits;
    int rerank, trainer;
    struct option_real recall;
    bool append, partial, skip_zero, no_attributes, keep, index;
};

#define FIELD(name) offsetof(struct import_options, name)
static const struct option options[] = {
    {"metric", 'm', OPTION_CHOICE, FIELD(metric), NULL,
     "Distance of a new collection. Default l2; hamming for bits; the file's for faiss.",
     "l2|ip|cosine|hamming", 0, 0},
    {"dtype", 'd', OPTION_CHOICE, FIELD(dtype), NULL,
     "Element type of a new collection. Default: the file's, if it is f16 or i8, else f32.",
     "f32|f16|bf16|i8|bit", 0, 0},
    RERANK_OPTION(FIELD(rerank)),
    BITS_OPTION(FIELD(bits)),
    RECALL_OPTION(FIELD(recall)),
    {"format", 'f', OPTION_CHOICE, FIELD(format), "F",
     "Format of the file: fvecs, bvecs, ivecs, fbin, u8bin, i8bin, npy, faiss (a flat index), "
     "jsonl, csv, text (GloVe, word2vec) or wink. Default: by its name, else by its first bytes.",
     FORMAT_CHOICES, 0, 0},
    {"ids", 0, OPTION_TEXT, FIELD(ids), "FILE",
     "Ids from this file: one a line, ivecs, or npy of integers.", NULL, 0, 0},
    {"first-id", 0, OPTION_INTEGER, FIELD(first_id), "N",
     "Rows without ids get N, N + 1, ... Default 0 in an empty collection.", NULL, 0, 0},
    {"append", 0, OPTION_FLAG, FIELD(append), NULL,
     "Rows without ids get new ids after the highest one.", NULL, 0, 0},
    {"vector-column", 0, OPTION_TEXT, FIELD(vector_column), "C",
     "Member or column with the vector. Default: vector or embedding.", NULL, 0, 0},
    {"id-column", 0, OPTION_TEXT, FIELD(id_column), "C",
     "Member or column with the id. Default: id.", NULL, 0, 0},
    {"payload-column", 0, OPTION_TEXT, FIELD(payload_column), "C",
     "Member or column with the payload. Default: text, payload or body.", NULL, 0, 0},
    {"no-attributes", 0, OPTION_FLAG, FIELD(no_attributes), NULL,
     "Leave out the other members and columns.", NULL, 0, 0},
    {"keep", 0, OPTION_FLAG, FIELD(keep), NULL,
     "Rows that are replaced keep the attributes and the payload that the file does not bring. "
     "Always so where several collections share the rows.",
     NULL, 0, 0},
    {"limit", 'n', OPTION_COUNT, FIELD(limit), "N", "Only the first N rows.", NULL, 1, 1e18},
    {"batch", 0, OPTION_COUNT, FIELD(batch), "N",
     "Rows of one transaction, durable when the next begins; fewer if their vectors pass 16 MiB. "
     "Default 1,000.",
     NULL, 1, 1000000},
    {"partial", 0, OPTION_FLAG, FIELD(partial), NULL,
     "Take what stands before the damage in a damaged file (exit code 1).", NULL, 0, 0},
    {"skip-zero", 0, OPTION_FLAG, FIELD(skip_zero), NULL,
     "Leave out vectors of zeros, which cosine refuses.", NULL, 0, 0},
    {"index", 0, OPTION_FLAG, FIELD(index), NULL,
     "Then build the index, or fold the rows into the one that is there, as `mneme fold` does.",
     NULL, 0, 0},
    TRAINER_OPTION(FIELD(trainer)),
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

/* What the first pass found, or, of standard input, the first record alone. */
struct scan {
    uint64_t rows;               /* that can be imported */
    uint64_t n_zero, first_zero; /* vectors of zeros; record number */
    uint64_t n_no_id, n_integer_id, n_text_id;
    uint64_t first_no_id;
    struct vector_plan plan;
    char **attributes; /* [n_attributes] */
    size_t n_attributes;
};

struct import {
    const struct import_options *given;
    const char *collection, *path;
    const char *database;
    struct session db; /* opened late if the file is missing: a bad file makes none */
    struct scan scan;
    struct format_opts read;
    bool metric_known;       /* the file states its metric */
    mn_metric metric;
    bool exists;             /* the collection was there before */
    bool made;               /* by us, now */
    bool keep;               /* replaced rows keep what the file does not bring */
    bool one_transaction;    /* standard input */
    mn_collection_info info; /* of the collection, also of the one to be made */
    uint64_t rows_before;
    int64_t next_id;  /* of rows without ids; MN_AUTO_ID: the library assigns */
    uint64_t taken;   /* rows put and committed, or put into the one transaction */
    uint64_t skipped; /* vectors of zeros */
    bool damaged;     /* with --partial */
    double start;
    /* The batch: row i has vector i, its attributes and texts copied into chunks. */
    size_t n, most;
    mn_row *rows;
    uint8_t *vectors;
    void **owned; /* [most] one allocation a row for id, attributes and payload, or NULL */
    size_t *seen; /* hash table of the batch's ids: row + 1 */
    size_t seen_size;
};

/* ---- The first pass ------------------------------------------------------------------------- */

static bool attribute_known(const struct scan *s, const char *name, size_t hint)
{
    if (hint < s->n_attributes && strcmp(s->attributes[hint], name) == 0)
        return true;
    for (size_t i = 0; i < s->n_attributes; i++)
        if (strcmp(s->attributes[i], name) == 0)
            return true;
    return false;
}

static void attribute_note(struct scan *s, const char *name)
{
    s->attributes = need(realloc(s->attributes, (s->n_attributes + 1) * sizeof *s->attributes));
    s->attributes[s->n_attributes++] = need(strdup(name));
}

static void scan_count(struct import *im, const struct format_record *rec)
{
    struct scan *s = &im->scan;
    s->rows++;
    if (vector_is_zero(&im->scan.plan, rec) && s->n_zero++ == 0)
        s->first_zero = rec->number;
    if (rec->id_kind == FORMAT_ID_INTEGER)
        s->n_integer_id++;
    else if (rec->id_kind == FORMAT_ID_TEXT)
        s->n_text_id++;
    else if (s->n_no_id++ == 0)
        s->first_no_id = rec->number;
    for (size_t i = 0; i < rec->n_attrs && !im->given->no_attributes; i++)
        if (!attribute_known(s, rec->attrs[i].name, i))
            attribute_note(s, rec->attrs[i].name);
}

/* "record 7 (line 8)" */
static const char *place_of(const struct format_record *rec, char *out, size_t size)
{
    if (rec->line)
        snprintf(out, size, "record %" PRIu64 " (line %" PRIu64 ")", rec->number, rec->line);
    else
        snprintf(out, size, "record %" PRIu64 " (byte %" PRIu64 ")", rec->number, rec->offset);
    return out;
}

static int bad_record(struct import *im, const struct format_record *rec, const char *what)
{
    char place[64];
    return error_exit("%s: %s: %s", im->path, place_of(rec, place, sizeof place), what);
}

/* The types of a collection that is to be made. */
static void choose_types(struct import *im, enum format_dtype file)
{
    const struct import_options *g = im->given;
    if (im->exists)
        return;
    bool bits = g->metric == MN_HAMMING + 1;
    im->info.dtype = g->dtype ? (mn_dtype)(g->dtype - 1) : bits ? MN_BIT : vector_dtype_for(file);
    im->info.metric = g->metric                  ? (mn_metric)(g->metric - 1)
                      : im->info.dtype == MN_BIT ? MN_HAMMING
                      : im->metric_known         ? im->metric
                                                 : MN_L2;
}

/* A file that states its metric goes into a collection of that metric; FAISS has no cosine, and its
 * users take the inner product of vectors of length 1 for it. */
static int check_metric(const struct import *im)
{
    mn_metric has = im->info.metric;
    if (!im->metric_known || has == im->metric || (has == MN_COSINE && im->metric == MN_IP))
        return 0;
    return error_exit("%s is an index by %s, and '%s' %s by %s: import it into %s; nothing was "
                      "imported",
                      im->path, mn_metric_name(im->metric), im->collection,
                      im->exists ? "is searched" : "was to be searched", mn_metric_name(has),
                      im->exists ? "another collection" : "one of its own metric");
}

/* Dimension and element type, by the file's first record. */
static int choose_plan(struct import *im, enum format_dtype file, uint32_t dim)
{
    char why[160];
    choose_types(im, file);
    if (!vector_plan_make(&im->scan.plan, im->info.dtype, im->info.dim, file, dim, why, sizeof why))
        return error_exit("%s does not fit '%s': %s", im->path, im->collection, why);
    im->info.dim = im->scan.plan.dim;
    im->read.native = im->scan.plan.native;
    return check_metric(im);
}

/* Reads the whole file. Damage is an error, or with --partial the end of what is taken. */
static int scan_file(struct import *im, uint64_t limit)
{
    struct format_reader *reader = NULL;
    const struct format_record *rec = NULL;
    struct progress progress;
    mn_error err = {0};
    uint64_t done, total;
    int code = 0;
    progress_begin(&progress, &im->given->common, "checking", "bytes");
    mn_status st = format_reader_open(im->path, &im->read, &reader, &err);
    while (!st && !code && im->scan.rows < limit) {
        st = format_reader_next(reader, &rec, &err);
        if (st || !rec)
            break;
        const char *wrong = vector_check(&im->scan.plan, rec);
        if (wrong)
            code = bad_record(im, rec, wrong);
        else
            scan_count(im, rec);
        if (im->scan.rows % 256 == 0) {
            format_reader_progress(reader, &done, &total);
            if (!progress_update(&progress, done, total))
                code = EXIT_INTERRUPTED;
        }
    }
    progress_end(&progress);
    format_reader_close(reader);
    if (code == EXIT_INTERRUPTED)
        return interrupted_exit("interrupted; nothing was imported");
    if (!st || code)
        return code;
    if (!im->given->partial || !im->scan.rows)
        return error_exit("%s; nothing was imported%s", err.message,
                          im->scan.rows ? " (--partial takes what stands before it)" : "");
    warn("%s", err.message);
    im->damaged = true;
    return 0;
}

/* Before the file is read: what it is, and so what the collection is to be. */
static int probe_file(struct import *im)
{
    struct format_probe probe;
    mn_error err = {0};
    if (format_probe(im->path, &im->read, &probe, &err))
        return error_exit("%s; nothing was imported", err.message);
    if (probe.dim == 0)
        return error_exit("%s holds no vector; nothing was imported", im->path);
    im->read.format = probe.format;
    im->metric_known = probe.metric_known;
    im->metric = probe.metric;
    return choose_plan(im, probe.dtype, probe.dim);
}

/* ---- Decisions ------------------------------------------------------------------------------ */

static int check_existing(struct import *im)
{
    const struct import_options *g = im->given;
    const mn_collection_info *info = &im->info;
    if (g->rerank || g->bits || g->recall.given)
        return error_exit("'%s' is there already: --rerank, --bits and --recall are for a new "
                          "collection; leave them out",
                          im->collection);
    if (g->metric && (mn_metric)(g->metric - 1) != info->metric)
        return error_exit("'%s' has the metric %s, not %s; leave out --metric, or import into "
                          "another collection",
                          im->collection, mn_metric_name(info->metric),
                          mn_metric_name((mn_metric)(g->metric - 1)));
    if (g->dtype && (mn_dtype)(g->dtype - 1) != info->dtype)
        return error_exit("'%s' has the type %s, not %s; leave out --dtype, or import into "
                          "another collection",
                          im->collection, mn_dtype_name(info->dtype),
                          mn_dtype_name((mn_dtype)(g->dtype - 1)));
    return 0;
}

static int choose_zero(struct import *im)
{
    if (!im->scan.n_zero || im->info.metric != MN_COSINE || im->given->skip_zero)
        return 0;
    char n[UNITS_TEXT];
    return error_exit("%s: %s vector%s of zeros, the first in record %" PRIu64
                      ": cosine is not defined for them; --skip-zero leaves them out; nothing was "
                      "imported",
                      im->path, count_format(n, im->scan.n_zero), im->scan.n_zero == 1 ? "" : "s",
                      im->scan.first_zero);
}

/* Ids for the rows of a file that has none. */
static int choose_new_ids(struct import *im)
{
    const struct import_options *g = im->given;
    if (im->info.id_kind == MN_ID_TEXT)
        return error_exit("%s has no ids, and '%s' has text ids: give them by --ids FILE or "
                          "--id-column C",
                          im->path, im->collection);
    if (g->append && g->first_id.given)
        return usage_error("import: --append and --first-id exclude each other");
    if (!g->append && !g->first_id.given && im->rows_before)
        return error_exit("'%s' has rows already and %s has no ids: --append gives new ids, "
                          "--first-id 0 replaces rows from id 0 on",
                          im->collection, im->path);
    im->next_id = g->append ? MN_AUTO_ID : g->first_id.value;
    if (!g->append && (im->next_id == MN_AUTO_ID ||
                       (im->next_id > 0 && im->scan.rows > (uint64_t)(INT64_MAX - im->next_id))))
        return usage_error("import: --first-id %" PRId64 " leaves no room for the ids",
                           im->next_id);
    return 0;
}

static int choose_ids(struct import *im)
{
    const struct scan *s = &im->scan;
    if (s->n_no_id && (s->n_integer_id || s->n_text_id))
        return error_exit("%s: record %" PRIu64 " has no id, others have; nothing was imported",
                          im->path, s->first_no_id);
    if (!im->exists)
        im->info.id_kind = s->n_text_id ? MN_ID_TEXT : MN_ID_INTEGER;
    bool text = im->info.id_kind == MN_ID_TEXT;
    if (!s->n_no_id) {
        if (!text && s->n_text_id)
            return error_exit("%s has text ids, '%s' has integer ids; import into another "
                              "collection",
                              im->path, im->collection);
        im->read.ids = text ? FORMAT_IDS_TEXT : FORMAT_IDS_AUTO;
        return 0;
    }
    return choose_new_ids(im);
}

/* ---- Writing -------------------------------------------------------------------------------- */

static int add_attributes(struct import *im)
{
    const struct scan *s = &im->scan;
    mn_error err = {0};
    for (size_t i = 0; i < s->n_attributes; i++) {
        mn_status st = mn_add_attribute(im->db.conn, im->collection, s->attributes[i], &err);
        if (st && st != MN_EXISTS)
            return error_exit("%s: attribute '%s': %s; --no-attributes leaves attributes out",
                              im->path, s->attributes[i], err.message);
        err = (mn_error){0};
    }
    return 0;
}

static int make_collection(struct import *im)
{
    mn_error err = {0};
    if (im->exists)
        return add_attributes(im);
    int code = im->db.conn ? 0 : session_open(&im->db, &im->given->common, im->database, 0);
    if (code)
        return code;
    mn_collection_opts opts = {
        .dim = im->info.dim,
        .dtype = im->info.dtype,
        .metric = im->info.metric,
        .id_kind = im->info.id_kind,
        .attributes = (const char *const *)im->scan.attributes,
        .n_attributes = im->scan.n_attributes,
        .rerank = im->given->rerank ? (mn_rerank)(im->given->rerank - 1) : MN_RERANK_COPY,
        .bits = (uint32_t)im->given->bits,
        .recall = im->given->recall.value,
    };
    if (mn_create(im->db.conn, im->collection, &opts, &err))
        return library_error(&err);
    im->made = true;
    return 0;
}

static void batch_init(struct import *im)
{
    im->most = im->given->batch ? im->given->batch : 1000;
    size_t by_bytes = BATCH_BYTES / im->scan.plan.bytes;
    if (im->most > by_bytes)
        im->most = by_bytes ? by_bytes : 1;
    if (im->scan.rows && im->scan.rows < im->most && !im->one_transaction)
        im->most = im->scan.rows;
    im->rows = need(calloc(im->most, sizeof *im->rows));
    im->owned = need(calloc(im->most, sizeof *im->owned));
    im->vectors = need(aligned_alloc(64, (im->most * im->scan.plan.bytes + 63) / 64 * 64));
    im->seen_size = 16;
    while (im->seen_size < im->most * 2)
        im->seen_size *= 2;
    im->seen = need(calloc(im->seen_size, sizeof *im->seen));
}

static void batch_clear(struct import *im)
{
    for (size_t i = 0; i < im->n; i++) {
        free(im->owned[i]);
        im->owned[i] = NULL;
    }
    memset(im->seen, 0, im->seen_size * sizeof *im->seen);
    im->n = 0;
}

static void batch_free(struct import *im)
{
    if (im->owned)
        batch_clear(im);
    free(im->rows);
    free(im->owned);
    free(im->vectors);
    free(im->seen);
}

static int batch_flush(struct import *im)
{
    mn_error err = {0};
    if (im->n == 0)
        return 0;
    mn_put_opts opts = {.from_f32 = im->scan.plan.from_f32, .keep_rest = im->keep};
    if (mn_put(im->db.conn, im->collection, im->rows, im->n, &opts, &err))
        return library_error(&err);
    im->taken += im->n;
    batch_clear(im);
    return 0;
}

/* Is the record's id in the batch already? If not, it is entered as row im->n. A later row with
 * the same id replaces the earlier one, as it would in the next batch. */
static bool batch_has(struct import *im, const struct format_record *rec)
{
    uint64_t h = 0xcbf29ce484222325u;
    if (rec->id_kind == FORMAT_ID_TEXT) {
        for (size_t i = 0; i < rec->id_len; i++)
            h = (h ^ (unsigned char)rec->id_text[i]) * 0x100000001b3u;
    } else {
        h = (h ^ (uint64_t)rec->id) * 0x9e3779b97f4a7c15u;
    }
    h ^= h >> 32;
    for (size_t at = h & (im->seen_size - 1);; at = (at + 1) & (im->seen_size - 1)) {
        size_t entry = im->seen[at];
        if (entry == 0) {
            im->seen[at] = im->n + 1;
            return false;
        }
        const mn_row *row = &im->rows[entry - 1];
        if (rec->id_kind == FORMAT_ID_TEXT ? strcmp(row->text_id, rec->id_text) == 0
                                           : row->id == rec->id)
            return true;
    }
}

/* Copies what the record lends until the next one is read: attributes, id and texts. */
static void *record_copy(const struct format_record *rec, bool attributes, mn_row *row)
{
    size_t n_attrs = attributes ? rec->n_attrs : 0;
    size_t size = n_attrs * sizeof(mn_attr) + rec->payload_len + 1 + rec->id_len + 1;
    for (size_t i = 0; i < n_attrs; i++)
        size += strlen(rec->attrs[i].name) + 1 + rec->attrs[i].value.len;
    mn_attr *attrs = need(malloc(size));
    char *at = (char *)(attrs + n_attrs);
    for (size_t i = 0; i < n_attrs; i++) {
        const mn_attr *a = &rec->attrs[i];
        size_t len = strlen(a->name) + 1;
        attrs[i] = *a;
        attrs[i].name = memcpy(at, a->name, len);
        at += len;
        if (a->value.len) {
            attrs[i].value.data = memcpy(at, a->value.data, a->value.len);
            at += a->value.len;
        }
    }
    row->attrs = attrs;
    row->n_attrs = n_attrs;
    if (rec->payload) {
        row->payload = memcpy(at, rec->payload, rec->payload_len);
        row->payload_len = rec->payload_len;
        at += rec->payload_len;
    }
    if (rec->id_kind == FORMAT_ID_TEXT) {
        memcpy(at, rec->id_text, rec->id_len);
        at[rec->id_len] = 0;
        row->text_id = at;
    }
    return attrs;
}

static int batch_add(struct import *im, const struct format_record *rec)
{
    int code = 0;
    bool has_id = rec->id_kind != FORMAT_ID_NONE;
    if (has_id && batch_has(im, rec)) {
        if ((code = batch_flush(im)))
            return code;
        (void)batch_has(im, rec);
    }
    mn_row *row = &im->rows[im->n];
    uint8_t *vector = im->vectors + im->n * im->scan.plan.bytes;
    const char *wrong = vector_take(&im->scan.plan, rec, vector);
    if (wrong)
        return bad_record(im, rec, wrong);
    *row = (mn_row){.id = rec->id, .vector = vector};
    if (!has_id)
        row->id = im->next_id == MN_AUTO_ID ? MN_AUTO_ID : im->next_id++;
    bool attributes = !im->given->no_attributes;
    if (rec->id_kind == FORMAT_ID_TEXT || rec->payload || (attributes && rec->n_attrs))
        im->owned[im->n] = record_copy(rec, attributes, row);
    im->n++;
    return im->n == im->most ? batch_flush(im) : 0;
}

/* ---- The second pass ------------------------------------------------------------------------ */

/* Standard input shows an attribute when it comes: the column is added then. */
static int late_attributes(struct import *im, const struct format_record *rec)
{
    struct scan *s = &im->scan;
    if (im->given->no_attributes)
        return 0;
    for (size_t i = 0; i < rec->n_attrs; i++) {
        if (attribute_known(s, rec->attrs[i].name, i))
            continue;
        attribute_note(s, rec->attrs[i].name);
        mn_error err = {0};
        mn_status st = mn_add_attribute(im->db.conn, im->collection, rec->attrs[i].name, &err);
        if (st && st != MN_EXISTS)
            return library_error(&err);
    }
    return 0;
}

static bool wants_record(struct import *im, const struct format_record *rec)
{
    if (im->info.metric != MN_COSINE || !im->given->skip_zero ||
        !vector_is_zero(&im->scan.plan, rec))
        return true;
    im->skipped++;
    return false;
}

/* The first pass has seen the kinds of ids of a whole file; of standard input, the first's alone.
 */
static bool id_fits(const struct import *im, const struct format_record *rec)
{
    enum format_id_kind wants = im->scan.n_no_id                 ? FORMAT_ID_NONE
                                : im->info.id_kind == MN_ID_TEXT ? FORMAT_ID_TEXT
                                                                 : FORMAT_ID_INTEGER;
    return rec->id_kind == wants;
}

static int import_record(struct import *im, const struct format_record *rec)
{
    if (!wants_record(im, rec))
        return 0;
    if (!id_fits(im, rec))
        return bad_record(im, rec, "its id is not of the kind that the rows before have");
    int code = im->one_transaction ? late_attributes(im, rec) : 0;
    return code ? code : batch_add(im, rec);
}

/* Standard input: its first record says what the collection is to be. */
static int begin_stream(struct import *im, const struct format_record *rec)
{
    mn_error err = {0};
    int code = choose_plan(im, rec->dtype, rec->dim);
    scan_count(im, rec);
    im->scan.rows = 0; /* unknown */
    if (!code)
        code = choose_ids(im);
    if (!code)
        code = make_collection(im);
    if (!code && !im->given->partial && mn_begin_write(im->db.conn, &err))
        code = library_error(&err);
    if (!code)
        batch_init(im);
    return code;
}

/* Reads `limit` records into batches. */
static int import_rows(struct import *im, uint64_t limit)
{
    struct format_reader *reader = NULL;
    const struct format_record *rec = NULL;
    struct progress progress;
    mn_error err = {0};
    uint64_t n = 0;
    int code = 0;
    progress_begin(&progress, &im->given->common, "importing", "rows");
    mn_status st = format_reader_open(im->path, &im->read, &reader, &err);
    if (!st)
        im->metric_known = format_reader_metric(reader, &im->metric);
    while (!st && !code && n < limit) {
        st = format_reader_next(reader, &rec, &err);
        if (st || !rec)
            break;
        if (n++ == 0 && im->one_transaction)
            code = begin_stream(im, rec);
        if (!code)
            code = import_record(im, rec);
        if (!code && !progress_update(&progress, im->taken, im->scan.rows))
            code = EXIT_INTERRUPTED;
    }
    progress_end(&progress);
    format_reader_close(reader);
    /* Ctrl-C ends whoever writes into our pipe, too: what looks like the end of input is none. */
    if (!code && interrupted())
        code = EXIT_INTERRUPTED;
    if (!code && st && !(im->given->partial && n)) {
        code = library_error(&err);
    } else if (!code) {
        if (st)
            warn("%s", err.message);
        im->damaged |= st != MN_OK;
        code = batch_flush(im);
    }
    if (!code && n == 0)
        code = error_exit("%s holds no vector; nothing was imported", im->path);
    return code;
}

static uint64_t rows_of(struct import *im)
{
    mn_collection_stats stats = {0};
    mn_error err = {0};
    return mn_collection_stats_get(im->db.conn, im->collection, &stats, &err) ? 0 : stats.rows;
}

/* Takes back what a failed stream did: its rows, and the collection if it made it. A database's
 * first collection cannot be made inside a transaction, so it is not part of it. */
static void take_back(struct import *im)
{
    mn_error err = {0};
    if (!im->db.conn)
        return;
    (void)mn_rollback(im->db.conn, NULL);
    im->taken = 0;
    if (im->made && rows_of(im) == 0 && mn_drop(im->db.conn, im->collection, &err))
        warn("the empty collection '%s' could not be dropped: %s", im->collection, err.message);
}

static int import_stream(struct import *im, uint64_t limit)
{
    mn_error err = {0};
    int code = import_rows(im, limit);
    if (im->given->partial)
        return code;
    if (code) {
        take_back(im);
    } else if (mn_commit(im->db.conn, &err)) {
        code = library_error(&err);
        im->taken = 0;
    }
    return code;
}

static int import_file(struct import *im, uint64_t limit)
{
    int code = probe_file(im);
    if (!code)
        code = scan_file(im, limit);
    if (!code)
        code = choose_zero(im);
    if (!code)
        code = choose_ids(im);
    if (!code)
        code = make_collection(im);
    if (code)
        return code;
    batch_init(im);
    return import_rows(im, im->scan.rows);
}

/* ---- The command ---------------------------------------------------------------------------- */

/* Bytes of the database when its log is folded in; 0 if unknown. */
static uint64_t database_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
}

static void say_kept(const struct import *im, int code)
{
    char n[UNITS_TEXT], of[UNITS_TEXT + 8] = "";
    if (im->scan.rows) {
        memcpy(of, " of ", 5);
        count_format(of + 4, im->scan.rows);
    }
    const char *again = im->taken == 0      ? ""
                        : !im->scan.n_no_id ? "; run again, the import replaces them"
                        : im->next_id == MN_AUTO_ID
                            ? "; run again, it would add them once more"
                            : "; with --first-id it can be run again and replaces them";
    count_format(n, im->taken);
    if (code == EXIT_INTERRUPTED)
        (void)interrupted_exit("interrupted: %s%s rows are kept in '%s'%s", n, of, im->collection,
                               again);
    else
        warn("%s%s rows are kept in '%s'%s", n, of, im->collection, again);
}

/* `replaced`: rows whose id was there before, or twice in the file. */
static void say_done(const struct import *im, uint64_t replaced, double seconds)
{
    char n[UNITS_TEXT], rate[UNITS_TEXT], size[UNITS_TEXT], time[UNITS_TEXT];
    struct text extra = {0};
    text_puts(&extra, "");
    if (replaced)
        text_printf(&extra, ", %s replaced", count_format(n, replaced));
    if (im->skipped)
        text_printf(&extra, ", %s of zeros left out", count_format(n, im->skipped));
    count_format(rate, (uint64_t)((double)im->taken / (seconds > 1e-6 ? seconds : 1e-6)));
    out_printf("imported %s rows of %" PRIu32 " x %s into '%s' (%s)%s in %s: %s rows/s, %s is %s\n",
               count_format(n, im->taken), im->info.dim, mn_dtype_name(im->info.dtype),
               im->collection, mn_metric_name(im->info.metric), extra.data,
               duration_format(time, seconds), rate, im->database,
               size_format(size, database_bytes(im->database)));
    text_free(&extra);
}

/* A new collection of this size is searched much faster by an index. */
static void say_no_index(const struct import *im)
{
    if (im->made && im->taken >= INDEX_LEAST_ROWS && im->info.dtype != MN_BIT)
        out_printf("searches compare every vector until `mneme fold %s %s` builds the index\n",
                   im->database, im->collection);
}

static int make_index(const struct import *im)
{
    struct session db;
    int code = session_open(&db, &im->given->common, im->database, MN_OPEN_MUST_EXIST);
    if (!code)
        code = index_make(&db, &im->given->common, im->collection, false, im->given->trainer);
    int closed = session_close(&db);
    return code ? code : closed;
}

/* A file of vectors for a collection beside another must not empty the attributes that belong to
 * both. */
static int find_keep(struct import *im)
{
    mn_error err = {0};
    mn_collection_info *all = NULL;
    size_t n = 0, sharing = 0;
    if (mn_list(im->db.conn, &all, &n, &err))
        return library_error(&err);
    for (size_t i = 0; i < n; i++)
        sharing += strcmp(all[i].table, im->info.table) == 0;
    mn_free_result(all);
    im->keep = im->given->keep || sharing > 1;
    return 0;
}

/* Opens the database if it is there, and learns what the collection is if that is there. */
static int find_collection(struct import *im)
{
    mn_error err = {0};
    if (access(im->database, F_OK) != 0 && strcmp(im->database, ":memory:") != 0) {
        const char *slash = strrchr(im->database, '/');
        char *folder =
            need(slash ? strndup(im->database, (size_t)(slash - im->database) + 1) : strdup("."));
        int code = access(folder, F_OK) == 0
                       ? 0
                       : error_exit("%s: there is no folder %s for it", im->database, folder);
        free(folder);
        return code;
    }
    int code = session_open(&im->db, &im->given->common, im->database, 0);
    if (code)
        return code;
    mn_status st = mn_info(im->db.conn, im->collection, &im->info, &err);
    im->exists = st == MN_OK;
    if (st && st != MN_NOTFOUND)
        return library_error(&err);
    if (im->exists) {
        im->rows_before = rows_of(im);
        code = check_existing(im);
        return code ? code : find_keep(im);
    }
    im->info = (mn_collection_info){0};
    return 0;
}

static int import_into(struct import *im)
{
    int code = find_collection(im);
    if (code)
        return code;
    if (im->exists && im->info.id_kind == MN_ID_TEXT)
        im->read.ids = FORMAT_IDS_TEXT;
    /* Bytes are bits only if they come as bytes; the type of standard input is not known yet. */
    bool bits = im->exists ? im->info.dtype == MN_BIT
                           : im->given->dtype == MN_BIT + 1 || im->given->metric == MN_HAMMING + 1;
    im->read.native = im->one_transaction && bits;
    uint64_t limit = im->given->limit ? im->given->limit : UINT64_MAX;
    code = im->one_transaction ? import_stream(im, limit) : import_file(im, limit);
    if (code && (im->taken || code == EXIT_INTERRUPTED))
        say_kept(im, code);
    return code;
}

static int run(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct import_options *g = given;
    struct import im = {
        .given = g,
        .database = args[0],
        .collection = args[1],
        .path = args[2],
        .one_transaction = strcmp(args[2], "-") == 0,
        .read = {.format = (enum format_kind)g->format, /* the choices are in the enum's order */
                 .partial = g->partial,
                 .ids_path = g->ids,
                 .vector_column = g->vector_column,
                 .id_column = g->id_column,
                 .payload_column = g->payload_column},
        .start = now_seconds(),
    };
    uint64_t replaced = 0;
    if (g->trainer && !g->index)
        return usage_error("import: --trainer is of the index; give --index too");
    int code = import_into(&im);
    if (!code && im.exists + im.scan.n_integer_id + im.scan.n_text_id) {
        uint64_t added = rows_of(&im) - im.rows_before;
        replaced = im.taken > added ? im.taken - added : 0;
    }
    batch_free(&im);
    int closed = session_close(&im.db);
    if (!code && !closed && !g->common.quiet)
        say_done(&im, replaced, now_seconds() - im.start);
    if (!code && !closed && g->index)
        code = make_index(&im);
    else if (!code && !closed && !g->common.quiet)
        say_no_index(&im);
    for (size_t i = 0; i < im.scan.n_attributes; i++)
        free(im.scan.attributes[i]);
    free(im.scan.attributes);
    if (!code && im.damaged)
        code = EXIT_FOUND;
    return code ? code : closed;
}

const struct command cmd_import = {
    .name = "import",
    .arguments = "DB COLLECTION FILE",
    .summary = "put the rows of a file into a collection, which is made if it is missing",
    .about = "Puts the rows of FILE into COLLECTION. Database and collection are made if they\n"
             "are missing, with the file's dimension. FILE - is standard input.\n"
             "\n"
             "Ids. A file with words or ids keeps them. Rows without ids are numbered from 0;\n"
             "in a collection that has rows, --append or --first-id says how. A row whose id\n"
             "is there already is replaced, so an import can be run again.\n"
             "\n"
             "Vectors. They are rounded to the collection's type. For bit collections the\n"
             "bytes of a u8 file are the bits, lowest first; of other files each element is a\n"
             "bit, 0 or 1.\n"
             "\n"
             "Damage. The file is read to its end before anything is written: a damaged file\n"
             "imports nothing, and the message says where it is damaged. --partial takes the\n"
             "rows before that place. Batches are durable one by one; standard input, which\n"
             "can be read only once, is one transaction.\n"
             "\n"
             "FAISS. A flat index (IndexFlatL2, IndexFlatIP, also inside an IndexIDMap) brings\n"
             "its metric, and its ids if it has them; one by ip may go into a cosine\n"
             "collection. It is read by FAISS itself, an optional part (tools/faiss builds it),\n"
             "which holds it whole in memory beside the cap.\n"
             "\n"
             "Index. From 10,000 rows on, searches by an index are much faster. --index builds\n"
             "it, or folds the new rows in; without it that is left to `mneme fold`, or to the\n"
             "next process that keeps the database open. Searches find all rows in any case.",
    .examples = "  mneme import app.db words glove.6B.100d.txt --metric cosine --dtype f16\n"
                "  mneme import app.db docs docs.jsonl --vector-column embedding\n"
                "  mneme import app.db sift sift_base.fvecs --memory 512MB --index\n"
                "  mneme import app.db images clip.npy --ids names.txt --metric cosine\n"
                "  mneme import app.db faces faces.faiss\n"
                "  zcat more.jsonl.gz | mneme import app.db docs - --format jsonl\n",
    .options = options,
    .size = sizeof(struct import_options),
    .run = run,
};
