/* Files of ids, one for each vector of another file, in its order: text with one id a line (a line
 * that is a decimal int64 is an integer), ivecs (all numbers of all records, so that one long
 * record or many of dimension 1 serve), or npy of integers, (n,) or (n, 1). */
#include "src/formats/npy.h"
#include "src/formats/reader.h"
#include "storage/base/alloc.h"
#include "storage/base/error.h"

#include <string.h>

enum form { LINES, IVECS, NPY };

struct ids {
    struct mn_alloc *alloc;
    struct source src;
    enum form form;
    uint64_t left;   /* ivecs: in the current record; npy: in all */
    uint32_t bytes;  /* npy: of an element */
    bool is_signed;
};

static mn_status begin_npy(struct ids *ids, mn_error *err)
{
    struct npy_header h;
    mn_status st = npy_read_header(&ids->src, &h, err);
    if (st != MN_OK)
        return st;
    if (h.kind != 'i' && h.kind != 'u')
        return mn_fail(err, MN_INVALID, "%s: ids must be integers; np.save(f, a.astype('<i8')) "
                       "makes them so", ids->src.name);
    if (h.n_axes == 2 && h.shape[1] != 1)
        return mn_fail(err, MN_INVALID, "%s: ids must have shape (n,) or (n, 1), not (%s, %s)",
                       ids->src.name, COMMAS(h.shape[0]), COMMAS(h.shape[1]));
    ids->form = NPY;
    ids->left = h.shape[0];
    ids->bytes = h.bytes;
    ids->is_signed = h.kind == 'i';
    return MN_OK;
}

static mn_status begin(struct ids *ids, mn_error *err)
{
    mn_status st = source_fill(&ids->src, 6, err);
    if (st != MN_OK)
        return st;
    size_t avail = source_avail(&ids->src), len = strlen(ids->src.name);
    if (avail >= 6 && memcmp(source_at(&ids->src), "\x93NUMPY", 6) == 0)
        return begin_npy(ids, err);
    if (len > 6 && strcmp(ids->src.name + len - 6, ".ivecs") == 0)
        ids->form = IVECS;
    return MN_OK;
}

static mn_status create(struct mn_alloc *alloc, struct ids **out, mn_error *err)
{
    *out = mn_alloc_array(alloc, 1, sizeof **out, MN_TAG_HANDLE);
    if (!*out)
        return mn_fail(err, MN_NOMEM, "no memory for a reader of ids");
    (*out)->alloc = alloc;
    (*out)->src.fd = -1;
    return MN_OK;
}

enum { CHUNK = 64 << 10, LIMIT = 128 << 10 };

mn_status ids_open(const char *path, const struct format_opts *opts, struct mn_alloc *alloc,
                   struct ids **out, mn_error *err)
{
    struct ids *ids;
    mn_status st = create(alloc, &ids, err);
    if (st == MN_OK)
        st = source_open(&ids->src, path, opts->buffer ? opts->buffer : CHUNK, LIMIT, alloc, err);
    if (st == MN_OK)
        st = begin(ids, err);
    if (st != MN_OK) {
        ids_close(ids);
        ids = NULL;
    }
    *out = ids;
    return st;
}

mn_status ids_open_memory(const void *data, size_t len, const char *name,
                          const struct format_opts *opts, struct mn_alloc *alloc, struct ids **out,
                          mn_error *err)
{
    struct ids *ids;
    mn_status st = create(alloc, &ids, err);
    if (st == MN_OK)
        st = source_open_memory(&ids->src, data, len, name, opts->buffer ? opts->buffer : CHUNK,
                                LIMIT, alloc, err);
    if (st == MN_OK)
        st = begin(ids, err);
    if (st != MN_OK) {
        ids_close(ids);
        ids = NULL;
    }
    *out = ids;
    return st;
}

/* Decimal without leading zeros or plus: so that the integer tells the text again. */
static bool is_canonical(const char *text, size_t len, int64_t *out)
{
    struct number number;
    return number_scan(text, text + len, false, &number) == text + len && len > 0 &&
           number_i64(&number, out) && !(number.negative && *out == 0);
}

static mn_status next_line(struct ids *ids, enum format_id_kind *kind, int64_t *id, char **text,
                           size_t *len, mn_error *err)
{
    uint64_t offset;
    mn_status st = source_line(&ids->src, text, len, &offset, err);
    if (st != MN_OK || !*text)
        return st;
    if (offset == 0 && *len >= 3 && memcmp(*text, "\xEF\xBB\xBF", 3) == 0)
        *text += 3, *len -= 3;
    if (*len == 0)
        return mn_fail(err, MN_INVALID, "%s: line %s is empty, where an id is expected",
                       ids->src.name, COMMAS(ids->src.line));
    *kind = is_canonical(*text, *len, id) ? FORMAT_ID_INTEGER : FORMAT_ID_TEXT;
    return MN_OK;
}

/* The next `bytes` of a binary file; *p is NULL at its end. */
static mn_status take(struct ids *ids, size_t bytes, const char **p, mn_error *err)
{
    *p = NULL;
    mn_status st = source_fill(&ids->src, bytes, err);
    size_t avail = source_avail(&ids->src);
    if (st != MN_OK || avail == 0)
        return st;
    if (avail < bytes)
        return mn_fail(err, MN_INVALID, "%s: the file ends inside a number, at byte %s",
                       ids->src.name, COMMAS(source_offset(&ids->src) + avail));
    *p = source_at(&ids->src);
    source_take(&ids->src, bytes);
    return MN_OK;
}

static mn_status next_ivecs(struct ids *ids, enum format_id_kind *kind, int64_t *id, mn_error *err)
{
    const char *p;
    int32_t value;
    mn_status st;
    bool begun = ids->left > 0;
    if (!begun) {
        st = take(ids, 4, &p, err);
        if (st != MN_OK || !p)
            return st;
        memcpy(&value, p, 4);
        if (value <= 0)
            return mn_fail(err, MN_INVALID, "%s: the dimension at byte %s is %d", ids->src.name,
                           COMMAS(source_offset(&ids->src) - 4), value);
        ids->left = (uint64_t)value;
    }
    st = take(ids, 4, &p, err);
    if (st == MN_OK && !p)
        st = mn_fail(err, MN_INVALID, "%s: the file ends at byte %s, %s ids short of what the "
                     "record's dimension says", ids->src.name, COMMAS(source_offset(&ids->src)),
                     COMMAS(ids->left));
    if (st != MN_OK)
        return st;
    memcpy(&value, p, 4);
    ids->left--;
    *kind = FORMAT_ID_INTEGER;
    *id = value;
    return MN_OK;
}

static int64_t integer_at(const struct ids *ids, const char *p)
{
    uint64_t bits = 0;
    memcpy(&bits, p, ids->bytes);
    unsigned unused = 64 - 8 * ids->bytes;
    /* moves the sign bit to the top and back */
    return ids->is_signed ? (int64_t)(bits << unused) >> unused : (int64_t)bits;
}

static mn_status next_npy(struct ids *ids, enum format_id_kind *kind, int64_t *id, mn_error *err)
{
    const char *p;
    bool end = ids->left == 0;
    mn_status st = take(ids, end ? 1 : ids->bytes, &p, err);
    if (st != MN_OK || (end && !p))
        return st;
    if (end)
        return mn_fail(err, MN_INVALID, "%s: bytes follow the last id, at byte %s", ids->src.name,
                       COMMAS(source_offset(&ids->src) - 1));
    if (!p)
        return mn_fail(err, MN_INVALID, "%s: the file ends at byte %s, %s ids short of what its "
                       "header says", ids->src.name, COMMAS(source_offset(&ids->src)),
                       COMMAS(ids->left));
    ids->left--;
    *kind = FORMAT_ID_INTEGER;
    *id = integer_at(ids, p);
    return MN_OK;
}

mn_status ids_next(struct ids *ids, enum format_id_kind *kind, int64_t *id, char **text,
                   size_t *len, mn_error *err)
{
    *kind = FORMAT_ID_NONE;
    *id = 0;
    *text = NULL;
    *len = 0;
    switch (ids->form) {
    case IVECS:
        return next_ivecs(ids, kind, id, err);
    case NPY:
        return next_npy(ids, kind, id, err);
    case LINES:
        break;
    }
    return next_line(ids, kind, id, text, len, err);
}

const char *ids_name(const struct ids *ids)
{
    return ids->src.name;
}

void ids_close(struct ids *ids)
{
    if (!ids)
        return;
    source_close(&ids->src);
    mn_free(ids->alloc, ids);
}
