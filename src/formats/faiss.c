/* FAISS's flat indexes, as faiss::write_index writes them:
 *
 *     flat    "IxF2" (IndexFlatL2), "IxFI" (IndexFlatIP) or "IxFl" (IndexFlat); head; uint64 number
 *             of floats; n x dim x f32
 *     map     "IxMp" (IndexIDMap) or "IxM2" (IndexIDMap2); head; a flat index; uint64 n; n x int64
 *     head    int32 dim, int64 n, 16 bytes without meaning, uint8 trained, int32 metric: 0 ip,
 *             1 l2; other metrics have a float after it
 *
 * FAISS itself reads and writes the file, in the plugin (src/faiss), and holds it whole in memory
 * of its own. Since it believes the lengths that a file states, and takes that memory before it
 * reads, they are compared with the file's size here: damage, and indexes of other kinds, get their
 * sentence here, and FAISS sees only files of the right shape. */
#include <errno.h>
#include <string.h>

#include "src/faiss/load.h"
#include "src/formats/reader.h"
#include "src/formats/writer.h"
#include "storage/base/bytes.h"
#include "storage/base/error.h"

enum {
    CODE = 4,         /* bytes that name the kind */
    HEAD = CODE + 33, /* and what all kinds begin with */
    FLAT = HEAD + 8,  /* and the number of floats */
    METRIC_IP = 0,    /* FAISS's numbers */
    METRIC_L2 = 1
};

/* Codes of write_index, for detection and for refusals. */
static const struct {
    char code[CODE + 1];
    const char *name;
} kinds[] = {
    {"IxF2", "IndexFlatL2"},
    {"IxFI", "IndexFlatIP"},
    {"IxFl", "IndexFlat"},
    {"IxMp", "IndexIDMap"},
    {"IxM2", "IndexIDMap2"},
    {"IwFl", "IndexIVFFlat"},
    {"IvFl", "IndexIVFFlat"},
    {"IvFL", "IndexIVFFlat"},
    {"IwFd", "IndexIVFFlatDedup"},
    {"IwPQ", "IndexIVFPQ"},
    {"IvPQ", "IndexIVFPQ"},
    {"IwQR", "IndexIVFPQR"},
    {"IvQR", "IndexIVFPQR"},
    {"IwPf", "IndexIVFPQFastScan"},
    {"IwSq", "IndexIVFScalarQuantizer"},
    {"IwSQ", "IndexIVFScalarQuantizer"},
    {"IvSQ", "IndexIVFScalarQuantizer"},
    {"IwSh", "IndexIVFSpectralHash"},
    {"IwLS", "IndexIVFLocalSearchQuantizer"},
    {"IwRQ", "IndexIVFResidualQuantizer"},
    {"IwPL", "IndexIVFProductLocalSearchQuantizer"},
    {"IwPR", "IndexIVFProductResidualQuantizer"},
    {"IVLf", "IndexIVFLocalSearchQuantizerFastScan"},
    {"IVRf", "IndexIVFResidualQuantizerFastScan"},
    {"NPLf", "IndexIVFProductLocalSearchQuantizerFastScan"},
    {"NPRf", "IndexIVFProductResidualQuantizerFastScan"},
    {"IxPQ", "IndexPQ"},
    {"IxPo", "IndexPQ"},
    {"IxPq", "IndexPQ"},
    {"IPfs", "IndexPQFastScan"},
    {"IxSQ", "IndexScalarQuantizer"},
    {"IxRQ", "IndexResidualQuantizer"},
    {"IxRq", "IndexResidualQuantizer"},
    {"IxLS", "IndexLocalSearchQuantizer"},
    {"IxPR", "IndexProductResidualQuantizer"},
    {"IxPL", "IndexProductLocalSearchQuantizer"},
    {"ILfs", "IndexLocalSearchQuantizerFastScan"},
    {"IRfs", "IndexResidualQuantizerFastScan"},
    {"IPLf", "IndexProductLocalSearchQuantizerFastScan"},
    {"IPRf", "IndexProductResidualQuantizerFastScan"},
    {"ImRQ", "ResidualCoarseQuantizer"},
    {"IxHE", "IndexLSH"},
    {"IxHe", "IndexLSH"},
    {"IxLa", "IndexLattice"},
    {"IxPT", "IndexPreTransform"},
    {"IxRF", "IndexRefine"},
    {"Imiq", "MultiIndexQuantizer"},
    {"Ix2L", "Index2Layer"},
    {"IHNf", "IndexHNSWFlat"},
    {"IHNp", "IndexHNSWPQ"},
    {"IHNs", "IndexHNSWSQ"},
    {"IHN2", "IndexHNSW2Level"},
    {"INSf", "IndexNSGFlat"},
    {"INSp", "IndexNSGPQ"},
    {"INSs", "IndexNSGSQ"},
    {"INNf", "IndexNNDescentFlat"},
    {"IRMf", "IndexRowwiseMinMax"},
    {"IRMh", "IndexRowwiseMinMaxFP16"},
    {"IBxF", "IndexBinaryFlat"},
    {"IBwF", "IndexBinaryIVF"},
    {"IBFf", "IndexBinaryFromFloat"},
    {"IBHf", "IndexBinaryHNSW"},
    {"IBHh", "IndexBinaryHash"},
    {"IBHm", "IndexBinaryMultiHash"},
    {"IBMp", "IndexBinaryIDMap"},
    {"IBM2", "IndexBinaryIDMap2"},
};

static const char *kind_name(const char *code)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (memcmp(kinds[i].code, code, CODE) == 0)
            return kinds[i].name;
    return NULL;
}

bool faiss_looks_like(const char *bytes, size_t n)
{
    if (n < CODE + 4 || !kind_name(bytes))
        return false;
    uint32_t dim = le32_get(bytes + CODE); /* text would state a vast one */
    return dim > 0 && dim <= 1u << 20;
}

/* ---- Reading -------------------------------------------------------------------------------- */

struct head {
    int32_t dim;
    int64_t n;
    uint8_t trained;
    int32_t metric;
};

struct faiss_state {
    const struct faiss_plugin *plugin;
    struct faiss_flat *flat; /* NULL: not read yet */
    struct faiss_content content;
    bool ids;       /* the file has an id map */
    uint64_t first; /* offset of the first vector */
    struct format_reader *reader;
    mn_error failure; /* of the source, while FAISS reads */
};

static bool is_map(const char *code)
{
    return memcmp(code, "IxMp", CODE) == 0 || memcmp(code, "IxM2", CODE) == 0;
}

static bool is_flat(const char *code)
{
    return memcmp(code, "IxF", 3) == 0 && (code[3] == '2' || code[3] == 'I' || code[3] == 'l');
}

/* The code at `at`, which must be flat, or a map where one may stand. */
static mn_status check_kind(struct format_reader *r, size_t at, bool map_may, mn_error *err)
{
    const char *code = source_at(&r->src) + at, *name;
    if (source_avail(&r->src) < at + CODE)
        return mn_fail(err, MN_INVALID,
                       "%s: the file ends after %zu bytes, inside the head of a "
                       "FAISS index",
                       r->src.name, source_avail(&r->src));
    if (is_flat(code) || (map_may && is_map(code)))
        return MN_OK;
    name = kind_name(code);
    if (name)
        return mn_fail(err, MN_INVALID,
                       "%s: is a FAISS index of kind %s%s; only flat ones hold "
                       "the vectors themselves: IndexFlatL2, IndexFlatIP, or one of them inside an "
                       "IndexIDMap or IndexIDMap2",
                       r->src.name, map_may ? "" : "IndexIDMap around ", name);
    return mn_fail(err, MN_INVALID,
                   "%s: is no FAISS index that is known here: it %s with the bytes "
                   "%02x %02x %02x %02x",
                   r->src.name, map_may ? "begins" : "is an id map around one",
                   (unsigned char)code[0], (unsigned char)code[1], (unsigned char)code[2],
                   (unsigned char)code[3]);
}

static mn_status take_head(struct format_reader *r, size_t at, struct head *h, mn_error *err)
{
    const char *p = source_at(&r->src) + at;
    if (source_avail(&r->src) < at + HEAD)
        return mn_fail(err, MN_INVALID,
                       "%s: the file ends after %zu bytes, inside the head of a "
                       "FAISS index",
                       r->src.name, source_avail(&r->src));
    *h = (struct head){.dim = (int32_t)le32_get(p + 4),
                       .n = (int64_t)le64_get(p + 8),
                       .trained = (uint8_t)p[32],
                       .metric = (int32_t)le32_get(p + 33)};
    if (h->n < 0 || h->trained > 1)
        return mn_fail(err, MN_INVALID,
                       "%s: the head of the FAISS index at byte %zu is damaged: "
                       "%lld vectors, trained %u",
                       r->src.name, at, (long long)h->n, h->trained);
    if (h->metric != METRIC_IP && h->metric != METRIC_L2)
        return mn_fail(err, MN_INVALID,
                       "%s: the FAISS index has its metric number %d; only 0, the "
                       "inner product, and 1, l2, can be taken",
                       r->src.name, h->metric);
    return MN_OK;
}

/* The flat index at `at`, and that what it says of itself agrees. */
static mn_status take_flat(struct format_reader *r, size_t at, struct head *h, mn_error *err)
{
    mn_status st = take_head(r, at, h, err);
    if (st)
        return st;
    const char *p = source_at(&r->src) + at;
    if (source_avail(&r->src) < at + FLAT)
        return mn_fail(err, MN_INVALID,
                       "%s: the file ends after %zu bytes, inside the head of a "
                       "FAISS index",
                       r->src.name, source_avail(&r->src));
    if ((p[3] == '2' && h->metric != METRIC_L2) || (p[3] == 'I' && h->metric != METRIC_IP))
        return mn_fail(err, MN_INVALID, "%s: the FAISS index is damaged: %s with metric number %d",
                       r->src.name, kind_name(p), h->metric);
    uint64_t floats = le64_get(p + HEAD), want;
    if (h->dim < 1 || __builtin_mul_overflow((uint64_t)h->n, (uint64_t)h->dim, &want) ||
        floats != want)
        return mn_fail(err, MN_INVALID,
                       "%s: the FAISS index is damaged: %s numbers for %s vectors "
                       "of %d elements",
                       r->src.name, COMMAS(floats), COMMAS((uint64_t)h->n), h->dim);
    return MN_OK;
}

static mn_status check_map(struct format_reader *r, const struct head *map, const struct head *flat,
                           mn_error *err)
{
    if (map->n == flat->n && map->dim == flat->dim && map->metric == flat->metric)
        return MN_OK;
    return mn_fail(err, MN_INVALID,
                   "%s: the FAISS index is damaged: its id map is of %s vectors "
                   "of %d elements, the flat index in it of %s of %d",
                   r->src.name, COMMAS((uint64_t)map->n), map->dim, COMMAS((uint64_t)flat->n),
                   flat->dim);
}

static mn_status faiss_open(struct format_reader *r, mn_error *err)
{
    struct head map = {0}, flat;
    r->file_dtype = r->dtype = FORMAT_F32;
    mn_status st = source_fill(&r->src, HEAD + FLAT, err);
    if (!st)
        st = check_kind(r, 0, true, err);
    if (st)
        return st;
    size_t at = is_map(source_at(&r->src)) ? HEAD : 0;
    if (at && !(st = take_head(r, 0, &map, err)))
        st = check_kind(r, at, false, err);
    if (!st)
        st = take_flat(r, at, &flat, err);
    if (!st && at)
        st = check_map(r, &map, &flat, err);
    if (!st && !r->src.total_known)
        st = mn_fail(err, MN_INVALID,
                     "%s: a FAISS index is read from a file, not from a pipe: its "
                     "lengths are compared with the file's",
                     r->src.name);
    if (st)
        return st;
    r->opts.partial = false; /* FAISS reads an index whole: there is no part to take */
    r->metric_known = true;
    r->metric = flat.metric == METRIC_L2 ? MN_L2 : MN_IP;
    uint64_t others = at + FLAT, map_bytes = 0;
    if (at && (__builtin_mul_overflow((uint64_t)flat.n, sizeof(int64_t), &map_bytes) ||
               __builtin_add_overflow(map_bytes, sizeof(uint64_t) + others, &others)))
        return mn_fail(err, MN_INVALID,
                       "%s: the FAISS index is damaged: %s ids are more bytes "
                       "than a file can have",
                       r->src.name, COMMAS((uint64_t)flat.n));
    st = array_begin(r, others, (uint64_t)flat.n, (uint64_t)flat.dim, err);
    if (!st)
        st = reader_state(r, sizeof(struct faiss_state), err);
    if (st)
        return st;
    struct faiss_state *s = r->state;
    s->reader = r;
    s->ids = at != 0;
    s->first = source_offset(&r->src) + at + FLAT;
    return faiss_load(&s->plugin, err);
}

/* What FAISS reads as a FILE comes out of the source. */
static ssize_t source_read(void *cookie, char *out, size_t size)
{
    struct faiss_state *s = cookie;
    struct source *src = &s->reader->src;
    if (source_fill(src, 1, &s->failure)) {
        errno = EIO;
        return -1;
    }
    size_t n = source_avail(src) < size ? source_avail(src) : size;
    memcpy(out, source_at(src), n);
    source_take(src, n);
    return (ssize_t)n;
}

static mn_status read_all(struct format_reader *r, mn_error *err)
{
    struct faiss_state *s = r->state;
    FILE *in = fopencookie(s, "rb", (cookie_io_functions_t){.read = source_read});
    if (!in)
        return mn_fail(err, MN_NOMEM, "%s: no memory to read with", r->src.name);
    mn_status st = s->plugin->read(in, &s->flat, err);
    fclose(in);
    if (s->failure.code) {
        if (err)
            *err = s->failure;
        return s->failure.code;
    }
    if (st) {
        mn_error_context(err, "%s: ", r->src.name);
        return st;
    }
    s->plugin->content(s->flat, &s->content);
    const struct faiss_content *c = &s->content;
    if (c->dim != r->dim || c->n != r->n || c->metric != r->metric || (c->ids != NULL) != s->ids)
        return mn_fail(err, MN_INVALID,
                       "%s: FAISS read %s vectors of %u elements, the head says "
                       "%s of %u",
                       r->src.name, COMMAS(c->n), c->dim, COMMAS(r->n), r->dim);
    return MN_OK;
}

static mn_status faiss_next(struct format_reader *r, bool *got, mn_error *err)
{
    struct faiss_state *s = r->state;
    if (r->count == r->n)
        return MN_OK;
    mn_status st = s->flat ? MN_OK : read_all(r, err);
    if (st)
        return st;
    r->rec.offset = s->first + r->count * r->row_bytes;
    st = reader_take_elements(r, s->content.vectors + r->count * r->dim, err);
    if (!st && s->content.ids) {
        int64_t id = s->content.ids[r->count];
        if (id == MN_AUTO_ID)
            return reader_fail(r, err, "its id is the least int64, which no row can have");
        reader_integer_id(r, id);
    }
    *got = st == MN_OK;
    return st;
}

static void faiss_close(struct format_reader *r)
{
    struct faiss_state *s = r->state;
    if (s->plugin)
        s->plugin->destroy(s->flat);
}

const struct reader_ops faiss_ops = {faiss_open, faiss_next, faiss_close};

/* ---- Writing -------------------------------------------------------------------------------- */

mn_status faiss_writer_begin(struct format_writer *w, bool ids, mn_error *err)
{
    if (w->opts.metric != MN_L2 && w->opts.metric != MN_IP)
        return mn_fail(err, MN_INVALID, "%s: a flat FAISS index has the metric l2 or ip, not %s",
                       w->out.name, mn_metric_name(w->opts.metric));
    mn_status st = faiss_load(&w->faiss, err);
    w->faiss_ids = ids;
    return st ? st : w->faiss->create(w->dim, w->opts.metric, ids, &w->flat, err);
}

mn_status faiss_writer_put(struct format_writer *w, const struct format_record *rec, mn_error *err)
{
    if (w->faiss_ids && rec->id_kind != FORMAT_ID_INTEGER)
        return writer_fail(w, err, "has no integer id, those before have");
    return w->faiss->add(w->flat, w->vec, w->faiss_ids ? &rec->id : NULL, 1, err);
}

mn_status faiss_writer_end(struct format_writer *w, mn_error *err)
{
    mn_error why = {0};
    mn_status st = w->faiss->write(w->flat, w->out.file, &why);
    if (st && ferror(w->out.file))
        return out_check(&w->out, err); /* says it better, and that the disk is full */
    return st ? mn_fail(err, st, "%s: %s", w->out.name, why.message) : MN_OK;
}

void faiss_writer_free(struct format_writer *w)
{
    if (w->faiss)
        w->faiss->destroy(w->flat);
}
