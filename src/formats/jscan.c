#include "src/formats/jscan.h"
#include "src/formats/formats.h"
#include "src/formats/text.h"

#include <string.h>

static bool fail(struct jscan *j, const char *where, const char *why)
{
    j->where = where;
    j->why = why;
    return false;
}

static void skip_blanks(struct jscan *j)
{
    while (j->at < j->end && (*j->at == ' ' || *j->at == '\t' || *j->at == '\n' || *j->at == '\r'))
        j->at++;
}

enum jscan_type jscan_peek(struct jscan *j)
{
    skip_blanks(j);
    if (j->at == j->end)
        return JSCAN_END;
    switch (*j->at) {
    case 'n':
        return JSCAN_NULL;
    case 'f':
        return JSCAN_FALSE;
    case 't':
        return JSCAN_TRUE;
    case '"':
        return JSCAN_STRING;
    case '[':
        return JSCAN_ARRAY;
    case '{':
        return JSCAN_OBJECT;
    default:
        return *j->at == '-' || (*j->at >= '0' && *j->at <= '9') ? JSCAN_NUMBER : JSCAN_OTHER;
    }
}

bool jscan_char(struct jscan *j, char c)
{
    skip_blanks(j);
    if (j->at < j->end && *j->at == c) {
        j->at++;
        return true;
    }
    switch (c) {
    case ':':
        return fail(j, j->at, "a colon is missing after a name");
    case '{':
        return fail(j, j->at, "an object, {...}, is expected");
    case '[':
        return fail(j, j->at, "an array, [...], is expected");
    default:
        return fail(j, j->at, "a bracket or comma is missing");
    }
}

bool jscan_next(struct jscan *j, char close, bool first, bool *more)
{
    *more = false;
    skip_blanks(j);
    if (j->at == j->end)
        return fail(j, j->at, close == ']' ? "the text ends inside an array"
                                           : "the text ends inside an object");
    if (*j->at == close) {
        j->at++;
        return true;
    }
    *more = true;
    if (first)
        return true;
    if (*j->at != ',')
        return fail(j, j->at, close == ']' ? "a comma or ] is expected"
                                           : "a comma or } is expected");
    j->at++;
    if (jscan_peek(j) == JSCAN_OTHER && j->at < j->end && (*j->at == ']' || *j->at == '}'))
        return fail(j, j->at, "a comma stands before a closing bracket");
    return true;
}

static bool hex4(const char *p, const char *end, uint32_t *out)
{
    unsigned char bytes[2];
    if (end - p < 4 || !hex_decode(p, 4, bytes))
        return false;
    *out = (uint32_t)bytes[0] << 8 | bytes[1];
    return true;
}

/* Reads the escape at p, behind its backslash; returns where it ends, NULL having failed. */
static char *read_escape(struct jscan *j, char *p, uint32_t *code)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *found = p < j->end && *p ? strchr(letters, *p) : NULL;
    if (found) {
        *code = (unsigned char)values[found - letters];
        return p + 1;
    }
    if (p >= j->end || *p != 'u' || !hex4(p + 1, j->end, code)) {
        fail(j, p, "a backslash begins no escape that JSON knows");
        return NULL;
    }
    if (*code < 0xD800 || *code > 0xDFFF)
        return p + 5;
    uint32_t low;
    if (*code > 0xDBFF || j->end - p < 11 || p[5] != '\\' || p[6] != 'u' ||
        !hex4(p + 7, j->end, &low) || low < 0xDC00 || low > 0xDFFF) {
        fail(j, p, "a \\u escape is half of a surrogate pair");
        return NULL;
    }
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
    return p + 11;
}

/* Reads a string; with `to` writes its decoded bytes there (it may be the string's own place: they
 * never become more) and *len. */
static bool scan_string(struct jscan *j, char *to, size_t *len)
{
    char *p = j->at + 1, *first = to;
    while (p < j->end && *p != '"') {
        unsigned char c = (unsigned char)*p;
        if (c == '\\') {
            uint32_t code = 0;
            p = read_escape(j, p + 1, &code);
            if (!p)
                return false;
            if (to)
                to += utf8_put(to, code);
            continue;
        }
        if (c < 0x20)
            return fail(j, p, "a control character stands in a string, where JSON wants an escape");
        size_t n = c < 0x80 ? 1 : utf8_char(p, j->end);
        if (n == 0)
            return fail(j, p, "a string is not valid UTF-8");
        if (to) {
            memmove(to, p, n);
            to += n;
        }
        p += n;
    }
    if (p >= j->end)
        return fail(j, j->end, "the text ends inside a string");
    if (to) {
        *to = '\0'; /* on the closing quote at most */
        *len = (size_t)(to - first);
    }
    j->at = p + 1;
    return true;
}

bool jscan_string(struct jscan *j, char **text, size_t *len)
{
    *text = NULL;
    *len = 0;
    if (jscan_peek(j) != JSCAN_STRING)
        return fail(j, j->at, "a string is expected");
    *text = j->at + 1;
    return scan_string(j, *text, len);
}

bool jscan_number(struct jscan *j, struct number *out)
{
    skip_blanks(j);
    const char *end = number_scan(j->at, j->end, false, out);
    if (!end) {
        bool word = j->at < j->end && (*j->at == 'N' || *j->at == 'I');
        return fail(j, j->at, word ? "NaN and Infinity are no JSON numbers"
                                   : "a number is expected here, of at most 400 characters");
    }
    j->at += end - j->at;
    return true;
}

bool jscan_floats(struct jscan *j, float *out, size_t max, size_t *n)
{
    *n = 0;
    bool more;
    if (!jscan_char(j, '[') || !jscan_next(j, ']', true, &more))
        return false;
    while (more) {
        struct number number;
        float value;
        if (!jscan_number(j, &number))
            return false;
        if (!number_f32(&number, &value))
            return fail(j, number.text, "a number is beyond the range of f32");
        if (*n < max)
            out[*n] = value;
        ++*n;
        if (!jscan_next(j, ']', false, &more))
            return false;
    }
    return true;
}

static bool skip_word(struct jscan *j, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(j->end - j->at) < len || memcmp(j->at, word, len) != 0)
        return fail(j, j->at, "no JSON value begins like this");
    j->at += len;
    return true;
}

static bool skip_scalar(struct jscan *j, enum jscan_type type)
{
    struct number number;
    switch (type) {
    case JSCAN_NULL:
        return skip_word(j, "null");
    case JSCAN_TRUE:
        return skip_word(j, "true");
    case JSCAN_FALSE:
        return skip_word(j, "false");
    case JSCAN_STRING:
        return scan_string(j, NULL, NULL);
    case JSCAN_NUMBER:
        return jscan_number(j, &number);
    default:
        return fail(j, j->at, "a value is expected here");
    }
}

/* Reads a member's name and colon. */
static bool skip_name(struct jscan *j)
{
    if (jscan_peek(j) != JSCAN_STRING)
        return fail(j, j->at, "a name in quotes is expected");
    return scan_string(j, NULL, NULL) && jscan_char(j, ':');
}

bool jscan_skip(struct jscan *j)
{
    char close[FORMAT_MAX_DEPTH]; /* of the brackets that are open */
    size_t depth = 0;
    for (;;) {
        enum jscan_type type = jscan_peek(j);
        bool first = type == JSCAN_ARRAY || type == JSCAN_OBJECT, more = false;
        if (first) {
            if (depth == FORMAT_MAX_DEPTH)
                return fail(j, j->at, "values are nested more than 64 deep");
            close[depth++] = type == JSCAN_ARRAY ? ']' : '}';
            j->at++;
        } else if (!skip_scalar(j, type)) {
            return false;
        }
        while (depth > 0 && !more) {
            if (!jscan_next(j, close[depth - 1], first, &more))
                return false;
            first = false;
            if (!more)
                depth--;
        }
        if (depth == 0)
            return true;
        if (close[depth - 1] == '}' && !skip_name(j))
            return false;
    }
}
