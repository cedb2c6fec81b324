/* Writers of JSON lines, CSV and word vectors. What they write reads back as it was: see jsonl.c
 * and csv.c for how types show. */
#include "storage/base/number.h"
#include "src/formats/source.h"
#include "src/formats/text.h"
#include "src/formats/writer.h"
#include "storage/base/alloc.h"
#include "storage/base/error.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static void put_bytes(FILE *f, const char *text, size_t len)
{
    fwrite(text, 1, len, f);
}

static void put_vector(struct format_writer *w, const char *open, const char *comma,
                       const char *close)
{
    const float *x = w->vec;
    char text[NUMBER_TEXT];
    fputs(open, w->out.file);
    for (uint32_t i = 0; i < w->dim; i++) {
        if (i)
            fputs(comma, w->out.file);
        put_bytes(w->out.file, text, number_put_f32(text, x[i]));
    }
    fputs(close, w->out.file);
}

static mn_status check_utf8(struct format_writer *w, const char *what, const char *text, size_t len,
                            mn_error *err)
{
    size_t bad = utf8_valid_len(text, len);
    if (bad == len)
        return MN_OK;
    return writer_fail(w, err, "'%s' is not valid UTF-8: its byte %s is 0x%02x", what,
                       COMMAS(bad + 1), (unsigned char)text[bad]);
}

static void put_base64(FILE *f, const void *data, size_t len)
{
    enum { PIECE = 3072 }; /* a multiple of 3: pieces join without padding */
    char text[PIECE / 3 * 4];
    const char *from = data;
    while (len > 0) {
        size_t n = len < PIECE ? len : PIECE;
        base64_encode(from, n, text);
        put_bytes(f, text, (n + 2) / 3 * 4);
        from += n;
        len -= n;
    }
}

/* ---- JSON lines ----------------------------------------------------------------------------- */

static mn_status put_json_text(struct format_writer *w, const char *what, const char *text,
                               size_t len, mn_error *err)
{
    text = len ? text : "";
    mn_status st = check_utf8(w, what, text, len, err);
    FILE *f = w->out.file;
    size_t from = 0;
    putc_unlocked('"', f);
    for (size_t i = 0; i < len && st == MN_OK; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        put_bytes(f, text + from, i - from);
        from = i + 1;
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", f);
        else if (c == '\t')
            fputs("\\t", f);
        else
            fprintf(f, "\\u%04x", c);
    }
    if (st == MN_OK)
        put_bytes(f, text + from, len - from);
    putc_unlocked('"', f);
    return st;
}

static mn_status put_json_value(struct format_writer *w, const mn_attr *attr, mn_error *err)
{
    const mn_value *v = &attr->value;
    char text[NUMBER_TEXT];
    switch (v->type) {
    case MN_INTEGER:
        put_bytes(w->out.file, text, number_put_i64(text, v->integer));
        return MN_OK;
    case MN_REAL:
        if (!isfinite(v->real))
            return writer_fail(w, err, "'%s' is %g, which JSON cannot say", attr->name, v->real);
        put_bytes(w->out.file, text, number_put_f64(text, v->real));
        return MN_OK;
    case MN_TEXT:
        return put_json_text(w, attr->name, v->data, v->len, err);
    case MN_BLOB:
        fputs("{\"$blob\":\"", w->out.file);
        put_base64(w->out.file, v->data, v->len);
        fputs("\"}", w->out.file);
        return MN_OK;
    case MN_NULL:
        break;
    }
    fputs("null", w->out.file);
    return MN_OK;
}

/* An attribute that bears the name of another column would read back as that. */
static mn_status check_name(struct format_writer *w, const char *name, mn_error *err)
{
    if (strcmp(name, w->id_column) && strcmp(name, w->vector_column) &&
        strcmp(name, w->payload_column))
        return MN_OK;
    return writer_fail(w, err, "the attribute '%s' has the name of the column for the %s; "
                       "give that column another name", name,
                       !strcmp(name, w->id_column)       ? "id"
                       : !strcmp(name, w->vector_column) ? "vector"
                                                         : "payload");
}

static mn_status put_json_name(struct format_writer *w, const char *name, bool first, mn_error *err)
{
    putc_unlocked(first ? '{' : ',', w->out.file);
    mn_status st = put_json_text(w, "name", name, strlen(name), err);
    putc_unlocked(':', w->out.file);
    return st;
}

static mn_status put_json_id(struct format_writer *w, const struct format_record *rec,
                             mn_error *err)
{
    if (rec->id_kind == FORMAT_ID_NONE)
        return MN_OK;
    mn_status st = put_json_name(w, w->id_column, true, err);
    if (st != MN_OK)
        return st;
    if (rec->id_kind == FORMAT_ID_TEXT)
        return put_json_text(w, w->id_column, rec->id_text, rec->id_len, err);
    fprintf(w->out.file, "%" PRId64, rec->id);
    return MN_OK;
}

mn_status write_jsonl(struct format_writer *w, const struct format_record *rec, mn_error *err)
{
    mn_status st = put_json_id(w, rec, err);
    if (st == MN_OK)
        st = put_json_name(w, w->vector_column, rec->id_kind == FORMAT_ID_NONE, err);
    if (st != MN_OK)
        return st;
    put_vector(w, "[", ",", "]");
    if (rec->payload || rec->n_attrs) { /* the payload's name is settled by the first record */
        st = put_json_name(w, w->payload_column, false, err);
        if (st == MN_OK && rec->payload)
            st = put_json_text(w, w->payload_column, rec->payload, rec->payload_len, err);
        else
            fputs("null", w->out.file);
    }
    for (size_t i = 0; i < rec->n_attrs && st == MN_OK; i++) {
        st = check_name(w, rec->attrs[i].name, err);
        if (st == MN_OK)
            st = put_json_name(w, rec->attrs[i].name, false, err);
        if (st == MN_OK)
            st = put_json_value(w, &rec->attrs[i], err);
    }
    fputs("}\n", w->out.file);
    return st;
}

/* ---- CSV ------------------------------------------------------------------------------------ */

/* Whether a text, unquoted, would read back as something else. */
static bool needs_quotes(const struct format_writer *w, const char *text, size_t len)
{
    struct number number;
    if (len == 0 || number_scan(text, text + len, false, &number) == text + len ||
        (len >= 3 && text[0] == 'x' && text[1] == '\''))
        return true;
    for (size_t i = 0; i < len; i++)
        if (text[i] == w->separator || text[i] == '"' || text[i] == '\n' || text[i] == '\r')
            return true;
    return text[0] == ' ' || text[len - 1] == ' ';
}

static mn_status put_csv_text(struct format_writer *w, const char *what, const char *text,
                              size_t len, mn_error *err)
{
    FILE *f = w->out.file;
    text = len ? text : "";
    if (memchr(text, '\0', len))
        return writer_fail(w, err, "'%s' holds a NUL byte, which CSV cannot say", what);
    mn_status st = check_utf8(w, what, text, len, err);
    if (st != MN_OK || !needs_quotes(w, text, len)) {
        put_bytes(f, text, len);
        return st;
    }
    putc_unlocked('"', f);
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '"')
            putc_unlocked('"', f);
        putc_unlocked(text[i], f);
    }
    putc_unlocked('"', f);
    return MN_OK;
}

static mn_status put_csv_value(struct format_writer *w, const char *name, const mn_value *v,
                               mn_error *err)
{
    char text[NUMBER_TEXT];
    const unsigned char *bytes = v->data;
    switch (v->type) {
    case MN_INTEGER:
        put_bytes(w->out.file, text, number_put_i64(text, v->integer));
        break;
    case MN_REAL:
        if (!isfinite(v->real))
            return writer_fail(w, err, "'%s' is %g, which CSV cannot say", name, v->real);
        put_bytes(w->out.file, text, number_put_f64(text, v->real));
        break;
    case MN_TEXT:
        return put_csv_text(w, name, v->data, v->len, err);
    case MN_BLOB:
        fputs("x'", w->out.file);
        for (size_t i = 0; i < v->len; i++)
            fprintf(w->out.file, "%02x", bytes[i]);
        putc_unlocked('\'', w->out.file);
        break;
    case MN_NULL:
        break;
    }
    return MN_OK;
}

/* Copies the names of the columns: the caller's, else those of the first record. */
static mn_status take_attrs(struct format_writer *w, const struct format_record *first,
                            mn_error *err)
{
    size_t n = w->opts.attrs ? w->opts.n_attrs : first ? first->n_attrs : 0;
    w->attrs = mn_alloc_array(w->alloc, n + 1, sizeof *w->attrs, MN_TAG_IO);
    mn_status st = MN_OK;
    for (size_t i = 0; w->attrs && i < n; i++) {
        const char *name = w->opts.attrs ? w->opts.attrs[i] : first->attrs[i].name;
        w->attrs[i] = mn_strdup(w->alloc, name, MN_TAG_IO);
        if (!w->attrs[i])
            break;
        w->n_attrs++;
        if (st == MN_OK)
            st = check_name(w, name, err);
    }
    if (!w->attrs || w->n_attrs < n)
        return mn_fail(err, MN_NOMEM, "%s: no memory for %zu columns", w->out.name, n);
    return st;
}

mn_status write_csv_header(struct format_writer *w, const struct format_record *first,
                           mn_error *err)
{
    mn_status st = take_attrs(w, first, err);
    const char *const fixed[] = {w->id_column, w->vector_column, w->payload_column};
    for (size_t i = 0; i < 3 + w->n_attrs && st == MN_OK; i++) {
        const char *name = i < 3 ? fixed[i] : w->attrs[i - 3];
        if (i)
            putc_unlocked(w->separator, w->out.file);
        st = put_csv_text(w, "header", name, strlen(name), err);
    }
    putc_unlocked('\n', w->out.file);
    return st;
}

/* Attributes in the header's order; one that the header lacks is refused. */
static mn_status put_csv_attrs(struct format_writer *w, const struct format_record *rec,
                               mn_error *err)
{
    size_t written = 0;
    mn_status st = MN_OK;
    for (size_t i = 0; i < w->n_attrs && st == MN_OK; i++) {
        size_t k = i < rec->n_attrs && strcmp(rec->attrs[i].name, w->attrs[i]) == 0 ? i : 0;
        while (k < rec->n_attrs && strcmp(rec->attrs[k].name, w->attrs[i]) != 0)
            k++;
        putc_unlocked(w->separator, w->out.file);
        if (k < rec->n_attrs) {
            written++;
            st = put_csv_value(w, w->attrs[i], &rec->attrs[k].value, err);
        }
    }
    if (st == MN_OK && written < rec->n_attrs)
        return writer_fail(w, err, "has an attribute that is no column of the header; name all "
                           "columns before, or write jsonl");
    return st;
}

mn_status write_csv(struct format_writer *w, const struct format_record *rec, mn_error *err)
{
    mn_status st = MN_OK;
    if (rec->id_kind == FORMAT_ID_INTEGER)
        fprintf(w->out.file, "%" PRId64, rec->id);
    else if (rec->id_kind == FORMAT_ID_TEXT)
        st = put_csv_text(w, w->id_column, rec->id_text, rec->id_len, err);
    if (st != MN_OK)
        return st;
    putc_unlocked(w->separator, w->out.file);
    put_vector(w, "\"[", ",", "]\"");
    putc_unlocked(w->separator, w->out.file);
    if (rec->payload)
        st = put_csv_text(w, w->payload_column, rec->payload, rec->payload_len, err);
    if (st == MN_OK)
        st = put_csv_attrs(w, rec, err);
    putc_unlocked('\n', w->out.file);
    return st;
}

/* ---- Word vectors, ids ----------------------------------------------------------------------- */

static mn_status put_id(struct format_writer *w, FILE *f, const struct format_record *rec,
                        mn_error *err)
{
    if (rec->id_kind == FORMAT_ID_NONE)
        return writer_fail(w, err, "has no id to write");
    if (rec->id_kind == FORMAT_ID_INTEGER) {
        fprintf(f, "%" PRId64, rec->id);
        return MN_OK;
    }
    if (memchr(rec->id_text, '\n', rec->id_len) || memchr(rec->id_text, '\r', rec->id_len))
        return writer_fail(w, err, "its id holds a line end, which a line of text cannot say");
    put_bytes(f, rec->id_text, rec->id_len);
    return check_utf8(w, "id", rec->id_text, rec->id_len, err);
}

/* Words that words.c would read back otherwise. */
static mn_status check_word(struct format_writer *w, const struct format_record *rec, mn_error *err)
{
    const char *text = rec->id_text, *end = text + rec->id_len;
    struct number number;
    if (rec->id_kind != FORMAT_ID_TEXT || rec->id_len == 0)
        return MN_OK;
    const char *part = end;
    while (part > text && part[-1] != ' ' && part[-1] != '\t')
        part--;
    if (part == end || (part > text && number_scan(part, end, true, &number) == end))
        return writer_fail(w, err, "its id ends in a blank or a number, which a reader of word "
                           "vectors would take for an element; write jsonl or csv");
    return MN_OK;
}

mn_status write_words(struct format_writer *w, const struct format_record *rec, mn_error *err)
{
    mn_status st = check_word(w, rec, err);
    if (st == MN_OK)
        st = put_id(w, w->out.file, rec, err);
    put_vector(w, " ", " ", "\n");
    return st;
}

mn_status write_id_line(struct format_writer *w, const struct format_record *rec, mn_error *err)
{
    mn_status st = put_id(w, w->ids.file, rec, err);
    putc_unlocked('\n', w->ids.file);
    return st;
}
