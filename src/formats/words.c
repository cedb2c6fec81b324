/* Word vectors as text, as GloVe and word2vec write them: a line is a word and dim numbers, apart
 * by blanks or tabs. word2vec puts a line "n dim" first. Without it, or a dimension given by the
 * caller, the first line's fields but the first are the dimension. Words may hold blanks (GloVe
 * 840B has ". . ."): the last dim fields are the numbers. But a word whose last part is a number is
 * refused, since the line then more likely has too many numbers. */
#include "src/formats/reader.h"
#include "storage/base/error.h"

#include <stdio.h>
#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Start of the last field of [line, end), where end stands behind a character that is no blank. */
static char *last_field(char *line, char *end)
{
    while (end > line && !is_blank(end[-1]))
        end--;
    return end;
}

static char *trim(char *line, char *end)
{
    while (end > line && is_blank(end[-1]))
        end--;
    return end;
}

static size_t count_fields(char *line, char *end)
{
    size_t n = 0;
    for (end = trim(line, end); end > line; end = trim(line, last_field(line, end)))
        n++;
    return n;
}

static bool is_number(const char *p, const char *end, struct number *out)
{
    return p < end && number_scan(p, end, true, out) == end;
}

/* A first line of two counts. */
static bool is_header(char *line, char *end, uint64_t *n, uint64_t *dim)
{
    struct number number;
    int64_t value;
    end = trim(line, end);
    char *second = last_field(line, end), *first_end = trim(line, second);
    if (count_fields(line, end) != 2 || !is_number(second, end, &number) ||
        !number_i64(&number, &value) || value <= 0)
        return false;
    *dim = (uint64_t)value;
    if (!is_number(last_field(line, first_end), first_end, &number) ||
        !number_i64(&number, &value) || value < 0)
        return false;
    *n = (uint64_t)value;
    return true;
}

/* The next line that is not blank, without the byte order mark that the first may begin with. */
static mn_status next_line(struct format_reader *r, char **line, char **end, mn_error *err)
{
    size_t len;
    for (;;) {
        mn_status st = source_line(&r->src, line, &len, &r->rec.offset, err);
        if (st != MN_OK || !*line)
            return st;
        r->rec.line = r->src.line;
        *end = *line + len;
        if (r->rec.offset == 0 && len >= 3 && memcmp(*line, "\xEF\xBB\xBF", 3) == 0)
            *line += 3;
        *end = trim(*line, *end);
        if (*end > *line)
            return MN_OK;
    }
}

static mn_status words_open(struct format_reader *r, mn_error *err)
{
    (void)err;
    r->file_dtype = r->dtype = FORMAT_F32;
    return MN_OK;
}

/* Takes the dimension from the first line; *header says that it is no record. */
static mn_status first_line(struct format_reader *r, char *line, char *end, bool *header,
                            mn_error *err)
{
    uint64_t n, dim;
    *header = r->opts.dim != 1 && is_header(line, end, &n, &dim);
    if (*header) {
        r->n = n;
        r->n_known = true;
        return reader_set_dim(r, dim, "line 1", err);
    }
    if (r->opts.dim)
        return reader_set_dim(r, r->opts.dim, "the option", err);
    size_t fields = count_fields(line, end);
    if (fields < 2)
        return reader_fail(r, err, "a word and its numbers are expected, apart by blanks; "
                           "there is one field");
    char what[48];
    snprintf(what, sizeof what, "line %s", COMMAS(r->rec.line));
    return reader_set_dim(r, fields - 1, what, err);
}

static mn_status fail_number(struct format_reader *r, const char *line, const char *p,
                             const char *end, const char *what, mn_error *err)
{
    int len = end - p > 40 ? 40 : (int)(end - p);
    return reader_fail_at(r, r->rec.line, (uint64_t)(p - line) + 1, err, "'%.*s' %s", len, p,
                          what);
}

static mn_status read_record(struct format_reader *r, char *line, char *end, mn_error *err)
{
    float *out = r->vec;
    struct number number;
    char *at = end; /* numbers are read from the right */
    for (uint32_t i = r->dim; i > 0; i--) {
        char *p = last_field(line, at);
        if (p == line)
            return reader_fail(r, err, "%s numbers after the word, %s are expected",
                               COMMAS(count_fields(line, end) - 1), COMMAS(r->dim));
        if (!is_number(p, at, &number))
            return fail_number(r, line, p, at, "is no finite number", err);
        if (!number_f32(&number, &out[i - 1]))
            return fail_number(r, line, p, at, "is beyond the range of f32", err);
        at = trim(line, p);
    }
    char *part = last_field(line, at);
    if (part > line && is_number(part, at, &number))
        return reader_fail(r, err, "%s numbers after the word, %s are expected",
                           COMMAS(count_fields(line, end) - 1), COMMAS(r->dim));
    mn_status st = reader_text_id(r, line, (size_t)(at - line), err);
    return st == MN_OK ? reader_take_floats(r, r->dim, err) : st;
}

static mn_status words_next(struct format_reader *r, bool *got, mn_error *err)
{
    char *line, *end;
    mn_status st = next_line(r, &line, &end, err);
    if (st == MN_OK && line && !r->dim) {
        bool header;
        st = first_line(r, line, end, &header, err);
        if (st == MN_OK && header)
            st = next_line(r, &line, &end, err);
    }
    if (st != MN_OK)
        return st;
    if (line) {
        st = read_record(r, line, end, err);
        *got = st == MN_OK;
        return st;
    }
    if (r->n_known && r->count != r->n)
        return mn_fail(err, MN_INVALID, "%s: line 1 promises %s vectors, the file has %s",
                       r->src.name, COMMAS(r->n), COMMAS(r->count));
    if (!r->n_known && r->count == 0)
        return mn_fail(err, MN_INVALID, "%s: holds no record, only blank lines", r->src.name);
    return MN_OK;
}

const struct reader_ops words_ops = {words_open, words_next, NULL};
