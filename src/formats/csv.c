/* CSV by RFC 4180: fields apart by a separator, records by LF or CRLF; a quoted field may hold
 * separators, line ends and doubled quotes. The first record is the header, unless all its fields
 * but the first are numbers: then every record is an id (if the first field of the first record is
 * no number) and the elements.
 *
 * The vector is a column with a JSON array, [1,2] (or {1,2}, as PostgreSQL writes arrays), or the
 * columns v0, v1, ... An empty field without quotes is NULL, "" is the empty text. An unquoted
 * field that is a JSON number is one, x'0aff' is a blob; all else, and all that is quoted, is text.
 *
 * A record is scanned in the source's buffer, so one longer than FORMAT_MAX_LINE is refused. */
#include "src/formats/reader.h"
#include "src/formats/text.h"
#include "storage/base/alloc.h"
#include "storage/base/error.h"

#include <stdio.h>
#include <string.h>

enum { MAX_FIELDS = MN_MAX_DIM + MN_MAX_ATTRIBUTES + 3 };

enum role { ATTRIBUTE = 0, ID, PAYLOAD, VECTOR, ELEMENT };

struct field {
    uint32_t start, len; /* within the record, without the quotes */
    bool quoted, doubled; /* doubled: holds "" for a quote */
};

struct column {
    const char *name; /* in csv.names */
    enum role role;
};

struct csv {
    char separator;
    bool pending;           /* fields hold the first record, which is no header */
    uint64_t line;          /* of the next byte */
    char *record;           /* in the source's buffer */
    size_t n_fields;        /* of the record; beyond MAX_FIELDS they are only counted */
    struct field *fields;   /* [MAX_FIELDS] */
    size_t n_columns;       /* 0 before the header is known */
    struct column *columns; /* [n_columns] */
    char *names;            /* the header's fields, each terminated */
    size_t vector;          /* column of role VECTOR, or n_columns */
};

/* ---- Records -------------------------------------------------------------------------------- */

enum state { START, PLAIN, QUOTED, QUOTE_IN_QUOTED, CR_AFTER_QUOTE };

/* Where the scan stands in the record. */
struct scan {
    enum state state;
    size_t i;             /* bytes scanned */
    size_t line_start;    /* index of the current line's first byte */
    uint64_t line;
    uint64_t quote_line, quote_column; /* of the last opening quote */
    struct field field;   /* being scanned */
};

static uint64_t column_of(const struct scan *s)
{
    return s->i - s->line_start + 1;
}

static void end_field(struct csv *csv, struct scan *s, size_t end)
{
    s->field.len = (uint32_t)(end - s->field.start);
    if (csv->n_fields < MAX_FIELDS)
        csv->fields[csv->n_fields] = s->field;
    csv->n_fields++;
    s->state = START;
    s->field = (struct field){.start = (uint32_t)s->i + 1};
}

/* End of the field that ends before s->i. */
static size_t field_end(const struct scan *s, const char *p, char c)
{
    if (s->state == QUOTE_IN_QUOTED)
        return s->i - 1;
    if (s->state == CR_AFTER_QUOTE)
        return s->i - 2;
    bool cr = c == '\n' && s->i > s->field.start && p[s->i - 1] == '\r';
    return cr ? s->i - 1 : s->i;
}

static mn_status fail_scan(struct format_reader *r, const struct scan *s, const char *what,
                           mn_error *err)
{
    return reader_fail_at(r, s->line, column_of(s), err, "%s", what);
}

/* A character within quotes, or behind the quote that may have ended them. True: it was dealt
 * with. */
static bool scan_quoted(struct scan *s, char c)
{
    if (s->state == QUOTED) {
        if (c == '"')
            s->state = QUOTE_IN_QUOTED;
        if (c == '\n') {
            s->line++;
            s->line_start = s->i + 1;
        }
        return true;
    }
    if (s->state == QUOTE_IN_QUOTED && c == '"') {
        s->field.doubled = true;
        s->state = QUOTED;
        return true;
    }
    if (s->state == QUOTE_IN_QUOTED && c == '\r') {
        s->state = CR_AFTER_QUOTE;
        return true;
    }
    return false;
}

/* One character; sets *end at a record's last. */
static mn_status scan_char(struct format_reader *r, struct scan *s, const char *p, bool *end,
                           mn_error *err)
{
    struct csv *csv = r->state;
    char c = p[s->i];
    if (c == '\0')
        return fail_scan(r, s, "a NUL byte; is this really a CSV file?", err);
    if (s->state >= QUOTED && scan_quoted(s, c))
        return MN_OK;
    if (c == '\n' || (c == csv->separator && s->state != CR_AFTER_QUOTE)) {
        *end = c == '\n';
        end_field(csv, s, field_end(s, p, c));
        return MN_OK;
    }
    if (s->state >= QUOTED)
        return fail_scan(r, s, "text follows a closing quote; a quote inside quotes is doubled",
                         err);
    if (c == '"' && s->state == PLAIN)
        return fail_scan(r, s, "a quote inside a field that does not begin with one; such fields "
                         "are put in quotes and their quotes doubled", err);
    if (c == '"') {
        s->quote_line = s->line;
        s->quote_column = column_of(s);
        s->field.start++;
        s->field.quoted = true;
        s->state = QUOTED;
    } else {
        s->state = PLAIN;
    }
    return MN_OK;
}

/* Finds the record that begins in the buffer's start. *len counts its line end. */
static mn_status scan_record(struct format_reader *r, size_t *len, mn_error *err)
{
    struct csv *csv = r->state;
    struct source *src = &r->src;
    struct scan s = {.line = csv->line};
    bool end = false;
    csv->n_fields = 0;
    while (!end) {
        if (s.i == source_avail(src)) {
            mn_status st = source_more(src, err);
            if (st != MN_OK)
                return st;
            if (s.i == source_avail(src) && src->eof)
                break;
            continue;
        }
        if (s.i >= src->limit)
            return reader_fail(r, err, "the record, from byte %s on, is longer than %s bytes",
                               COMMAS(source_offset(src)), COMMAS(src->limit));
        mn_status st = scan_char(r, &s, source_at(src), &end, err);
        if (st != MN_OK)
            return st;
        s.i++;
    }
    if (!end && s.state == QUOTED)
        return reader_fail_at(r, s.quote_line, s.quote_column, err,
                              "this quote is not closed before the file ends");
    if (!end && s.i > 0)
        end_field(csv, &s, field_end(&s, source_at(src), '\n'));
    csv->line = s.line + (end ? 1 : 0);
    *len = s.i;
    return MN_OK;
}

/* The next record that is no blank line into csv->fields; n_fields 0 at the end. */
static mn_status next_record(struct format_reader *r, mn_error *err)
{
    struct csv *csv = r->state;
    for (;;) {
        size_t len = 0;
        r->rec.offset = source_offset(&r->src);
        r->rec.line = csv->line;
        mn_status st = scan_record(r, &len, err);
        if (st != MN_OK)
            return st;
        csv->record = source_at(&r->src);
        source_take(&r->src, len);
        bool blank = csv->n_fields == 1 && csv->fields[0].len == 0 && !csv->fields[0].quoted;
        if (len == 0 || !blank)
            return MN_OK;
    }
}

/* A field's text, its doubled quotes halved, terminated where its end was. */
static char *field_text(struct csv *csv, size_t i)
{
    struct field *f = &csv->fields[i];
    char *text = csv->record + f->start;
    if (f->doubled) {
        uint32_t n = 0;
        for (uint32_t at = 0; at < f->len; at++) {
            if (text[at] == '"')
                at++;
            text[n++] = text[at];
        }
        f->len = n;
        f->doubled = false;
    }
    text[f->len] = '\0';
    return text;
}

/* ---- Header --------------------------------------------------------------------------------- */

/* The number in [text, text + len), blanks around it apart. */
static bool whole_number(const char *text, size_t len, bool lax, struct number *out)
{
    const char *end = text + len;
    while (lax && text < end && (*text == ' ' || *text == '\t'))
        text++;
    while (lax && end > text && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    return number_scan(text, end, lax, out) == end && end > text;
}

static bool field_is_number(struct csv *csv, size_t i)
{
    struct number number;
    const struct field *f = &csv->fields[i];
    return !f->quoted && whole_number(csv->record + f->start, f->len, true, &number);
}

static bool is_header(struct csv *csv)
{
    if (csv->n_fields < 2)
        return true;
    for (size_t i = 1; i < csv->n_fields; i++)
        if (!field_is_number(csv, i))
            return true;
    return false;
}

static mn_status make_columns(struct format_reader *r, mn_error *err)
{
    struct csv *csv = r->state;
    size_t n = csv->n_fields, bytes = 0;
    if (n > MAX_FIELDS)
        return reader_fail(r, err, "%s columns, at most %s are possible", COMMAS(n),
                           COMMAS(MAX_FIELDS));
    for (size_t i = 0; i < n; i++)
        bytes += (size_t)csv->fields[i].len + 1;
    csv->columns = mn_alloc_array(r->alloc, n, sizeof *csv->columns, MN_TAG_IO);
    csv->names = mn_alloc_array(r->alloc, 1, bytes, MN_TAG_IO);
    if (!csv->columns || !csv->names)
        return mn_fail(err, MN_NOMEM, "%s: no memory for %zu columns", r->src.name, n);
    csv->n_columns = csv->vector = n;
    return MN_OK;
}

/* k if name is prefix and then the decimal k; -1 otherwise. */
static int64_t element_number(const char *name, const char *prefix)
{
    size_t len = strlen(prefix), left = strlen(name);
    struct number number;
    int64_t k;
    if (left <= len || memcmp(name, prefix, len) != 0 || name[len] == '-' ||
        !whole_number(name + len, left - len, false, &number) || !number_i64(&number, &k))
        return -1;
    return k;
}

static size_t find_column(const struct csv *csv, const char *name)
{
    size_t i = 0;
    while (i < csv->n_columns && strcmp(csv->columns[i].name, name) != 0)
        i++;
    return i;
}

/* The column given by option, which must be there, or the first of the usual names; n_columns if
 * there is none. */
static mn_status choose(struct format_reader *r, const char *given, const char *const *usual,
                        size_t *out, mn_error *err)
{
    struct csv *csv = r->state;
    *out = csv->n_columns;
    if (given) {
        *out = find_column(csv, given);
        if (*out == csv->n_columns)
            return reader_fail(r, err, "the header has no column '%s'", given);
        return MN_OK;
    }
    for (; *usual && *out == csv->n_columns; usual++)
        *out = find_column(csv, *usual);
    return MN_OK;
}

/* Columns prefix0, prefix1, ... (or from 1 on) are the elements of the vector. */
static mn_status take_elements(struct format_reader *r, const char *prefix, mn_error *err)
{
    struct csv *csv = r->state;
    uint64_t dim = 0;
    int64_t next = -1;
    for (size_t i = 0; i < csv->n_columns; i++) {
        struct column *c = &csv->columns[i];
        int64_t k = c->role == ATTRIBUTE ? element_number(c->name, prefix) : -1;
        if (k < 0)
            continue;
        if (next < 0 ? k > 1 : k != next)
            return reader_fail(r, err, "column '%s' of the vector stands where '%s%lld' is "
                               "expected", c->name, prefix, (long long)(next < 0 ? 0 : next));
        c->role = ELEMENT;
        next = k + 1;
        dim++;
    }
    if (dim == 0)
        return reader_fail(r, err, "the header has no vector: neither a column '%s' nor '%s0', "
                           "'%s1', ...; name the column that holds it",
                           r->opts.vector_column ? r->opts.vector_column : "vector", prefix,
                           prefix);
    return reader_set_dim(r, dim, "the header", err);
}

static mn_status check_names(struct format_reader *r, mn_error *err)
{
    struct csv *csv = r->state;
    size_t n_attrs = 0;
    for (size_t i = 0; i < csv->n_columns; i++) {
        const char *name = csv->columns[i].name;
        if (csv->columns[i].role == ELEMENT)
            continue;
        if (utf8_valid_len(name, strlen(name)) < strlen(name))
            return reader_fail(r, err, "the name of column %zu is not valid UTF-8", i + 1);
        if (find_column(csv, name) != i)
            return reader_fail(r, err, "column '%s' stands twice in the header", name);
        if (csv->columns[i].role != ATTRIBUTE)
            continue;
        if (name[0] == '\0' || strlen(name) > MN_MAX_NAME)
            return reader_fail(r, err, "the name of column %zu has %zu bytes, not 1 .. %u", i + 1,
                               strlen(name), MN_MAX_NAME);
        if (++n_attrs > MN_MAX_ATTRIBUTES)
            return reader_fail(r, err, "more than %u columns are attributes", MN_MAX_ATTRIBUTES);
    }
    return MN_OK;
}

static mn_status read_header(struct format_reader *r, mn_error *err)
{
    static const char *const ids[] = {"id", NULL}, *const vectors[] = {"vector", "embedding", NULL},
                      *const payloads[] = {"text", "payload", "body", NULL};
    struct csv *csv = r->state;
    size_t id = 0, payload = 0, vector = 0;
    char *name = csv->names;
    for (size_t i = 0; i < csv->n_columns; i++) {
        const char *text = field_text(csv, i);
        memcpy(name, text, (size_t)csv->fields[i].len + 1);
        csv->columns[i].name = name;
        name += csv->fields[i].len + 1;
    }
    csv->vector = csv->n_columns;
    if (r->opts.plain)
        return check_names(r, err);
    const char *given = r->opts.vector_column;
    bool prefix = given && find_column(csv, given) == csv->n_columns;
    mn_status st = choose(r, r->opts.id_column, ids, &id, err);
    if (st == MN_OK)
        st = choose(r, r->opts.payload_column, payloads, &payload, err);
    if (st == MN_OK)
        st = choose(r, prefix ? NULL : given, prefix ? vectors + 2 : vectors, &vector, err);
    if (st != MN_OK)
        return st;
    if (payload < csv->n_columns)
        csv->columns[payload].role = PAYLOAD;
    if (id < csv->n_columns)
        csv->columns[id].role = ID;
    if (vector < csv->n_columns)
        csv->columns[vector].role = VECTOR;
    else
        st = take_elements(r, prefix ? given : "v", err);
    csv->vector = vector;
    return st == MN_OK ? check_names(r, err) : st;
}

static mn_status without_header(struct format_reader *r, mn_error *err)
{
    struct csv *csv = r->state;
    bool has_id = !field_is_number(csv, 0);
    csv->pending = true;
    for (size_t i = 0; i < csv->n_columns; i++)
        csv->columns[i] = (struct column){"", i == 0 && has_id ? ID : ELEMENT};
    return reader_set_dim(r, csv->n_columns - (has_id ? 1 : 0), "line 1", err);
}

static mn_status csv_open(struct format_reader *r, mn_error *err)
{
    mn_status st = reader_state(r, sizeof(struct csv), err);
    if (st != MN_OK)
        return st;
    struct csv *csv = r->state;
    size_t len = strlen(r->src.name);
    bool tabs = len > 4 && strcmp(r->src.name + len - 4, ".tsv") == 0;
    csv->separator = r->opts.separator ? r->opts.separator : tabs ? '\t' : ',';
    csv->line = 1;
    r->file_dtype = r->dtype = FORMAT_F32;
    csv->fields = mn_alloc_array(r->alloc, MAX_FIELDS, sizeof *csv->fields, MN_TAG_IO);
    if (!csv->fields)
        return mn_fail(err, MN_NOMEM, "%s: no memory for the fields of a record", r->src.name);
    st = source_fill(&r->src, 3, err);
    if (st != MN_OK)
        return st;
    if (source_avail(&r->src) >= 3 && memcmp(source_at(&r->src), "\xEF\xBB\xBF", 3) == 0)
        source_take(&r->src, 3);
    st = next_record(r, err);
    if (st == MN_OK && csv->n_fields == 0)
        st = mn_fail(err, MN_INVALID, "%s: holds no record, only blank lines", r->src.name);
    if (st == MN_OK)
        st = make_columns(r, err);
    if (st != MN_OK)
        return st;
    return r->opts.plain || is_header(csv) ? read_header(r, err) : without_header(r, err);
}

static void csv_close(struct format_reader *r)
{
    struct csv *csv = r->state;
    mn_free(r->alloc, csv->fields);
    mn_free(r->alloc, csv->columns);
    mn_free(r->alloc, csv->names);
}

/* ---- Values --------------------------------------------------------------------------------- */

static mn_status fail_field(struct format_reader *r, size_t i, const char *what, mn_error *err)
{
    struct csv *csv = r->state;
    if (csv->columns[i].name[0] == '\0')
        return reader_fail(r, err, "field %zu %s", i + 1, what);
    return reader_fail(r, err, "column '%s' %s", csv->columns[i].name, what);
}

static mn_status check_text(struct format_reader *r, size_t i, const char *text, size_t len,
                            mn_error *err)
{
    size_t bad = utf8_valid_len(text, len);
    if (bad == len)
        return MN_OK;
    char what[80];
    snprintf(what, sizeof what, "is not valid UTF-8: its byte %s is 0x%02x", COMMAS(bad + 1),
             (unsigned char)text[bad]);
    return fail_field(r, i, what, err);
}

static mn_status read_element(struct format_reader *r, size_t i, float *out, mn_error *err)
{
    struct csv *csv = r->state;
    struct number number;
    const char *text = field_text(csv, i);
    if (!whole_number(text, csv->fields[i].len, true, &number))
        return fail_field(r, i, csv->fields[i].len ? "is not a finite number, but an element of "
                          "the vector" : "is empty, but an element of the vector", err);
    if (!number_f32(&number, out))
        return fail_field(r, i, "is beyond the range of f32", err);
    return MN_OK;
}

static mn_status read_vector(struct format_reader *r, size_t i, mn_error *err)
{
    struct csv *csv = r->state;
    char *text = field_text(csv, i);
    size_t len = csv->fields[i].len, n;
    if (len >= 2 && text[0] == '{' && text[len - 1] == '}') {
        text[0] = '[';
        text[len - 1] = ']';
    }
    struct jscan j = {.at = text, .end = text + len};
    bool ok = jscan_floats(&j, r->vec, MN_MAX_DIM, &n);
    if (ok && jscan_peek(&j) != JSCAN_END) {
        ok = false;
        j.why = "something follows the array";
        j.where = j.at;
    }
    if (!ok) {
        char what[160];
        snprintf(what, sizeof what, "is no vector such as [1,2]: at its byte %s: %s",
                 COMMAS((uint64_t)(j.where - text) + 1), j.why);
        return fail_field(r, i, what, err);
    }
    return reader_take_floats(r, n, err);
}

static mn_status read_id(struct format_reader *r, size_t i, mn_error *err)
{
    struct csv *csv = r->state;
    const struct field *f = &csv->fields[i];
    const char *text = field_text(csv, i);
    struct number number;
    int64_t id;
    if (f->len == 0 && !f->quoted)
        return MN_OK;
    if (!f->quoted && whole_number(text, f->len, false, &number) && number_i64(&number, &id)) {
        reader_integer_id(r, id);
        return MN_OK;
    }
    return reader_text_id(r, text, f->len, err);
}

static mn_status read_attribute(struct format_reader *r, size_t i, mn_error *err)
{
    struct csv *csv = r->state;
    const struct field *f = &csv->fields[i];
    char *text = field_text(csv, i);
    mn_value value = {.type = MN_NULL};
    struct number number;
    if (f->quoted || f->len > 0)
        value = (mn_value){.type = MN_TEXT, .data = text, .len = f->len};
    if (!f->quoted && whole_number(text, f->len, false, &number)) {
        if (number_i64(&number, &value.integer))
            value.type = MN_INTEGER;
        else if (number_f64(&number, &value.real))
            value.type = MN_REAL;
    } else if (!f->quoted && f->len >= 3 && text[0] == 'x' && text[1] == '\'' &&
               text[f->len - 1] == '\'' && hex_decode(text + 2, f->len - 3, text)) {
        value.type = MN_BLOB;
        value.len = (f->len - 3) / 2;
    }
    if (value.type == MN_TEXT) {
        mn_status st = check_text(r, i, text, f->len, err);
        if (st != MN_OK)
            return st;
    }
    const char *name = csv->columns[i].name;
    r->attrs[r->rec.n_attrs++] = (mn_attr){name, value}; /* names were checked in the header */
    return MN_OK;
}

static mn_status read_field(struct format_reader *r, size_t i, uint32_t *element, mn_error *err)
{
    struct csv *csv = r->state;
    const struct field *f = &csv->fields[i];
    switch (csv->columns[i].role) {
    case ID:
        return read_id(r, i, err);
    case VECTOR:
        return read_vector(r, i, err);
    case ELEMENT:
        return read_element(r, i, (float *)r->vec + (*element)++, err);
    case PAYLOAD:
        if (f->len == 0 && !f->quoted)
            return MN_OK;
        r->rec.payload = field_text(csv, i);
        r->rec.payload_len = f->len;
        return check_text(r, i, r->rec.payload, f->len, err);
    case ATTRIBUTE:
        return read_attribute(r, i, err);
    }
    return MN_OK;
}

static mn_status csv_next(struct format_reader *r, bool *got, mn_error *err)
{
    struct csv *csv = r->state;
    mn_status st = MN_OK;
    if (!csv->pending)
        st = next_record(r, err);
    else
        r->rec.line = csv->line - 1;
    csv->pending = false;
    if (st != MN_OK || csv->n_fields == 0)
        return st;
    if (csv->n_fields != csv->n_columns)
        return reader_fail(r, err, "%s fields, but %s has %s", COMMAS(csv->n_fields),
                           csv->columns[0].name[0] ? "the header" : "the first line",
                           COMMAS(csv->n_columns));
    uint32_t element = 0;
    for (size_t i = 0; i < csv->n_columns && st == MN_OK; i++)
        st = read_field(r, i, &element, err);
    if (st == MN_OK && csv->vector == csv->n_columns && !r->opts.plain)
        st = reader_take_floats(r, element, err);
    *got = st == MN_OK;
    return st;
}

const struct reader_ops csv_ops = {csv_open, csv_next, csv_close};
