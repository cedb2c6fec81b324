/* JSON lines: one object a line. The vector is an array of numbers, or base64 of f32; the id an
 * integer or string; the payload a string. Every other member is an attribute: null, integer, real,
 * string; true and false become 1 and 0; {"$blob": "base64"} is a blob; other objects and arrays
 * stay as JSON text. Blank lines are skipped, and a byte order mark at the start.
 *
 * Where no column names are given, the first of the usual names that the file shows is taken for
 * all its records: what bears another of them later is an attribute. */
#include "src/formats/reader.h"
#include "src/formats/text.h"
#include "storage/base/error.h"

#include <string.h>

enum { VECTOR, ID, PAYLOAD, ROLES };

struct jsonl {
    const char *column[ROLES]; /* NULL: not met yet */
    bool has[ROLES];           /* in the record that is being read */
};

static const char *const usual[ROLES][4] = {
    [VECTOR] = {"vector", "embedding", NULL},
    [ID] = {"id", NULL},
    [PAYLOAD] = {"text", "payload", "body", NULL},
};

static mn_status jsonl_open(struct format_reader *r, mn_error *err)
{
    mn_status st = reader_state(r, sizeof(struct jsonl), err);
    if (st != MN_OK)
        return st;
    struct jsonl *state = r->state;
    state->column[VECTOR] = r->opts.vector_column;
    state->column[ID] = r->opts.id_column;
    state->column[PAYLOAD] = r->opts.payload_column;
    r->file_dtype = r->dtype = FORMAT_F32;
    return MN_OK;
}

/* Which role a member of this name plays; ROLES: an attribute. */
static int role_of(const struct format_reader *r, const char *name)
{
    struct jsonl *state = r->state;
    if (r->opts.plain)
        return ROLES;
    for (int role = 0; role < ROLES; role++) {
        if (state->column[role]) {
            if (strcmp(name, state->column[role]) == 0)
                return role;
            continue;
        }
        for (int i = 0; usual[role][i]; i++)
            if (strcmp(name, usual[role][i]) == 0) {
                state->column[role] = usual[role][i];
                return role;
            }
    }
    return ROLES;
}

static mn_status fail_value(struct format_reader *r, const char *line, const char *at,
                            mn_error *err, const char *name, const char *must)
{
    return reader_fail_at(r, r->rec.line, (uint64_t)(at - line) + 1, err, "'%s' must be %s",
                          name, must);
}

/* A vector of f32 in base64, as embedding services send it. */
static bool base64_floats(char *text, size_t len, float *out, size_t max, size_t *n)
{
    size_t bytes;
    if (!base64_decode(text, len, text, &bytes) || bytes % 4 != 0)
        return false;
    *n = bytes / 4;
    memcpy(out, text, (*n < max ? *n : max) * 4);
    return true;
}

static mn_status read_vector(struct format_reader *r, struct jscan *j, const char *line,
                             const char *name, mn_error *err)
{
    size_t n = 0, len;
    char *text;
    enum jscan_type type = jscan_peek(j);
    const char *at = j->at;
    if (type == JSCAN_ARRAY) {
        if (!jscan_floats(j, r->vec, MN_MAX_DIM, &n))
            return reader_fail_json(r, j, r->rec.line, line, err);
    } else if (type == JSCAN_STRING) {
        if (!jscan_string(j, &text, &len))
            return reader_fail_json(r, j, r->rec.line, line, err);
        if (!base64_floats(text, len, r->vec, MN_MAX_DIM, &n))
            return fail_value(r, line, at, err, name, "an array of numbers, or base64 of f32");
    } else {
        return fail_value(r, line, at, err, name, "an array of numbers");
    }
    return reader_take_floats(r, n, err);
}

static mn_status read_id(struct format_reader *r, struct jscan *j, const char *line,
                         const char *name, mn_error *err)
{
    static const char must[] = "a 64-bit integer or a string";
    struct number number;
    int64_t id;
    char *text;
    size_t len;
    enum jscan_type type = jscan_peek(j);
    const char *at = j->at;
    switch (type) {
    case JSCAN_NULL:
        return jscan_skip(j) ? MN_OK : reader_fail_json(r, j, r->rec.line, line, err);
    case JSCAN_NUMBER:
        if (!jscan_number(j, &number))
            return reader_fail_json(r, j, r->rec.line, line, err);
        if (!number_i64(&number, &id))
            return fail_value(r, line, at, err, name, must);
        reader_integer_id(r, id);
        return MN_OK;
    case JSCAN_STRING:
        if (!jscan_string(j, &text, &len))
            return reader_fail_json(r, j, r->rec.line, line, err);
        return reader_text_id(r, text, len, err);
    default:
        return fail_value(r, line, at, err, name, must);
    }
}

static mn_status read_payload(struct format_reader *r, struct jscan *j, const char *line,
                              const char *name, mn_error *err)
{
    enum jscan_type type = jscan_peek(j);
    char *text = NULL;
    if (type != JSCAN_NULL && type != JSCAN_STRING)
        return fail_value(r, line, j->at, err, name, "a string");
    if (type == JSCAN_NULL ? !jscan_skip(j) : !jscan_string(j, &text, &r->rec.payload_len))
        return reader_fail_json(r, j, r->rec.line, line, err);
    r->rec.payload = text;
    return MN_OK;
}

/* {"$blob": "base64"}: true if it is one; the cursor moves only then. */
static bool read_blob(struct jscan *j, mn_value *out)
{
    struct jscan try = *j;
    char *name, *text;
    size_t len, text_len;
    static const char head[] = "\"$blob\"";
    if (!jscan_char(&try, '{') || jscan_peek(&try) != JSCAN_STRING ||
        (size_t)(try.end - try.at) < sizeof head - 1 ||
        memcmp(try.at, head, sizeof head - 1) != 0)
        return false;
    /* Both strings have no escapes if they are right, and are decoded over themselves only then. */
    name = try.at;
    try.at += sizeof head - 1;
    if (!jscan_char(&try, ':') || jscan_peek(&try) != JSCAN_STRING)
        return false;
    text = try.at + 1;
    char *quote = memchr(text, '"', (size_t)(try.end - text));
    if (!quote)
        return false;
    try.at = quote + 1;
    text_len = (size_t)(quote - text);
    if (!jscan_char(&try, '}') || !base64_decode(text, text_len, name, &len))
        return false;
    *out = (mn_value){.type = MN_BLOB, .data = name, .len = len};
    *j = try;
    return true;
}

static bool read_number(struct jscan *j, mn_value *out)
{
    struct number number;
    if (!jscan_number(j, &number))
        return false;
    out->type = MN_INTEGER;
    if (number_i64(&number, &out->integer))
        return true;
    out->type = MN_REAL;
    if (number_f64(&number, &out->real))
        return true;
    j->why = "a number is beyond the range of a double";
    j->where = number.text;
    return false;
}

static bool read_value(struct jscan *j, mn_value *out)
{
    *out = (mn_value){.type = MN_NULL};
    enum jscan_type type = jscan_peek(j);
    char *text = j->at;
    switch (type) {
    case JSCAN_NUMBER:
        return read_number(j, out);
    case JSCAN_STRING:
        out->type = MN_TEXT;
        if (!jscan_string(j, &text, &out->len))
            return false;
        out->data = text;
        return true;
    case JSCAN_TRUE:
    case JSCAN_FALSE:
        out->type = MN_INTEGER;
        out->integer = type == JSCAN_TRUE;
        return jscan_skip(j);
    case JSCAN_OBJECT:
        if (read_blob(j, out))
            return true;
        break;
    default:
        break;
    }
    if (!jscan_skip(j))
        return false;
    if (type == JSCAN_ARRAY || type == JSCAN_OBJECT)
        *out = (mn_value){.type = MN_TEXT, .data = text, .len = (size_t)(j->at - text)};
    return true;
}

static mn_status read_member(struct format_reader *r, struct jscan *j, const char *line,
                             mn_error *err)
{
    struct jsonl *state = r->state;
    char *name;
    size_t len;
    jscan_peek(j);
    const char *at = j->at;
    if (!jscan_string(j, &name, &len) || !jscan_char(j, ':'))
        return reader_fail_json(r, j, r->rec.line, line, err);
    int role = strlen(name) == len ? role_of(r, name) : ROLES;
    if (role == ROLES) {
        mn_value value;
        if (!read_value(j, &value))
            return reader_fail_json(r, j, r->rec.line, line, err);
        return reader_add_attr(r, name, len, value, err);
    }
    if (state->has[role])
        return reader_fail_at(r, r->rec.line, (uint64_t)(at - line) + 1, err,
                              "'%s' stands twice in one record", name);
    state->has[role] = true;
    return role == VECTOR ? read_vector(r, j, line, name, err)
           : role == ID   ? read_id(r, j, line, name, err)
                          : read_payload(r, j, line, name, err);
}

static mn_status read_object(struct format_reader *r, char *line, size_t len, mn_error *err)
{
    struct jsonl *state = r->state;
    struct jscan j = {.at = line, .end = line + len};
    bool more;
    memset(state->has, 0, sizeof state->has);
    if (!jscan_char(&j, '{') || !jscan_next(&j, '}', true, &more))
        return reader_fail_json(r, &j, r->rec.line, line, err);
    while (more) {
        mn_status st = read_member(r, &j, line, err);
        if (st != MN_OK)
            return st;
        if (!jscan_next(&j, '}', false, &more))
            return reader_fail_json(r, &j, r->rec.line, line, err);
    }
    if (jscan_peek(&j) != JSCAN_END)
        return reader_fail_at(r, r->rec.line, (uint64_t)(j.at - line) + 1, err,
                              "something follows the object; each needs a line of its own");
    if (r->opts.plain)
        return MN_OK;
    if (!state->has[VECTOR] && state->column[VECTOR])
        return reader_fail(r, err, "there is no '%s'", state->column[VECTOR]);
    if (!state->has[VECTOR])
        return reader_fail(r, err, "there is neither 'vector' nor 'embedding'; "
                           "name the member that holds the vector");
    return MN_OK;
}

static bool is_blank(const char *line, size_t len)
{
    return strspn(line, " \t\r") >= len;
}

static mn_status jsonl_next(struct format_reader *r, bool *got, mn_error *err)
{
    char *line;
    size_t len;
    for (;;) {
        mn_status st = source_line(&r->src, &line, &len, &r->rec.offset, err);
        if (st != MN_OK)
            return st;
        if (line && r->rec.offset == 0 && len >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0)
            line += 3, len -= 3;
        if (!line && r->count == 0)
            return mn_fail(err, MN_INVALID, "%s: holds no record, only blank lines", r->src.name);
        if (!line)
            return MN_OK;
        line[len] = '\0';
        if (!is_blank(line, len))
            break;
    }
    r->rec.line = r->src.line;
    mn_status st = read_object(r, line, len, err);
    *got = st == MN_OK;
    return st;
}

const struct reader_ops jsonl_ops = {jsonl_open, jsonl_next, NULL};
