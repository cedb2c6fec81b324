#include "storage/base/json_member.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/value.h"

enum { MAX_DEPTH = 1000, NUMBER_BYTES = 1024 };

/* Text [at, end), and what is looked for. at NULL: it is no JSON. */
struct reader {
    const unsigned char *at, *end;
    const mn_value *wanted;
};

static void skip_space(struct reader *r)
{
    while (r->at < r->end &&
           (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
        r->at++;
}

static bool fail(struct reader *r)
{
    r->at = NULL;
    return false;
}

/* ---- Strings --------------------------------------------------------------------------------- */

/* Bytes of a string as they come, beside the wanted text's. */
struct matching {
    const unsigned char *at, *end;
    bool equal;
};

static void match_byte(struct matching *m, unsigned byte)
{
    if (m->at < m->end && *m->at == byte)
        m->at++;
    else
        m->equal = false;
}

static void match_code(struct matching *m, unsigned code)
{
    if (code < 0x80) {
        match_byte(m, code);
        return;
    }
    if (code < 0x800) {
        match_byte(m, 0xc0 | code >> 6);
    } else {
        if (code < 0x10000) {
            match_byte(m, 0xe0 | code >> 12);
        } else {
            match_byte(m, 0xf0 | code >> 18);
            match_byte(m, 0x80 | (code >> 12 & 63));
        }
        match_byte(m, 0x80 | (code >> 6 & 63));
    }
    match_byte(m, 0x80 | (code & 63));
}

/* The four digits of a \u escape; false if they are none. */
static bool read_hex(struct reader *r, unsigned *code)
{
    *code = 0;
    if (r->end - r->at < 4)
        return fail(r);
    for (int i = 0; i < 4; i++, r->at++) {
        unsigned c = *r->at, low = c | 32;
        if (c >= '0' && c <= '9')
            *code = *code << 4 | (c - '0');
        else if (low >= 'a' && low <= 'f')
            *code = *code << 4 | (low - 'a' + 10);
        else
            return fail(r);
    }
    return true;
}

/* Behind "\u". Half of a pair alone is no character: such a string equals no text. */
static bool read_code(struct reader *r, struct matching *m)
{
    unsigned code, low;
    if (!read_hex(r, &code))
        return false;
    if (code >= 0xd800 && code < 0xdc00 && r->end - r->at >= 6 && r->at[0] == '\\' &&
        r->at[1] == 'u') {
        r->at += 2;
        if (!read_hex(r, &low))
            return false;
        if (low >= 0xdc00 && low < 0xe000)
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        else
            m->equal = false;
    }
    if (code >= 0xd800 && code < 0xe000)
        m->equal = false;
    match_code(m, code);
    return true;
}

static bool read_escape(struct reader *r, struct matching *m)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (r->at == r->end)
        return fail(r);
    unsigned char c = *r->at++;
    if (c == 'u')
        return read_code(r, m);
    const char *p = c ? strchr(from, c) : NULL;
    if (!p)
        return fail(r);
    match_byte(m, (unsigned char)to[p - from]);
    return true;
}

/* Reads a string; *is: it is the text that is looked for. */
static bool read_string(struct reader *r, bool *is)
{
    const mn_value *w = r->wanted;
    const unsigned char *text = w->type == MN_TEXT && w->len ? w->data : NULL;
    struct matching m = {text, text ? text + w->len : NULL, w->type == MN_TEXT};
    *is = false;
    for (r->at++; r->at < r->end;) {
        unsigned char c = *r->at++;
        if (c == '"') {
            *is = m.equal && m.at == m.end;
            return true;
        }
        if (c < 0x20)
            return fail(r);
        if (c != '\\')
            match_byte(&m, c);
        else if (!read_escape(r, &m))
            return false;
    }
    return fail(r);
}

/* ---- Numbers --------------------------------------------------------------------------------- */

static const unsigned char *digits(const struct reader *r, const unsigned char *p)
{
    while (p < r->end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

/* The end of a number's text, NULL if it is none; *whole: without fraction and exponent. */
static const unsigned char *number_end(const struct reader *r, bool *whole)
{
    const unsigned char *first = r->at + (*r->at == '-'), *p = digits(r, first), *more;
    *whole = true;
    if (p == first || (p - first > 1 && *first == '0'))
        return NULL;
    if (p < r->end && *p == '.') {
        more = digits(r, p + 1);
        if (more == p + 1)
            return NULL;
        p = more;
        *whole = false;
    }
    if (p < r->end && (*p | 32) == 'e') {
        p++;
        if (p < r->end && (*p == '+' || *p == '-'))
            p++;
        more = digits(r, p);
        if (more == p)
            return NULL;
        p = more;
        *whole = false;
    }
    return p;
}

static bool whole_number(const unsigned char *p, const unsigned char *end, int64_t *out)
{
    bool minus = *p == '-';
    *out = 0;
    for (p += minus; p < end; p++)
        if (__builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, minus ? '0' - *p : *p - '0', out))
            return false;
    return true;
}

static bool read_number(struct reader *r, bool *is)
{
    char text[NUMBER_BYTES];
    bool whole;
    const unsigned char *end = number_end(r, &whole);
    mn_value v = {.type = MN_INTEGER};
    *is = false;
    if (!end)
        return fail(r);
    size_t n = (size_t)(end - r->at);
    bool wanted = r->wanted->type == MN_INTEGER || r->wanted->type == MN_REAL;
    if (!whole || !whole_number(r->at, end, &v.integer)) {
        wanted = wanted && n < sizeof text; /* equal to no number that anybody wants */
        memcpy(text, r->at, wanted ? n : 0);
        text[wanted ? n : 0] = 0;
        v.type = MN_REAL;
        /* The C locale is a constant of the C library: newlocale neither allocates nor fails. */
        v.real = wanted ? strtod_l(text, NULL, newlocale(LC_ALL_MASK, "C", (locale_t)0)) : 0;
    }
    r->at = end;
    *is = wanted && value_compare(&v, r->wanted) == 0;
    return true;
}

/* ---- Values ---------------------------------------------------------------------------------- */

static bool read_word(struct reader *r, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0)
        return fail(r);
    r->at += n;
    return true;
}

static bool read_value(struct reader *r, unsigned depth, bool *is);

/* Behind the opening bracket. *has: a member of it is what is looked for. */
static bool read_members(struct reader *r, bool object, unsigned depth, bool *has)
{
    const unsigned char close = object ? '}' : ']';
    bool is = false;
    *has = false;
    skip_space(r);
    if (r->at < r->end && *r->at == close) {
        r->at++;
        return true;
    }
    for (;;) {
        skip_space(r);
        if (object) {
            if (r->at == r->end || *r->at != '"')
                return fail(r);
            if (!read_string(r, &is))
                return false;
            skip_space(r);
            if (r->at == r->end || *r->at++ != ':')
                return fail(r);
        }
        if (!read_value(r, depth, &is))
            return false;
        *has = *has || is;
        skip_space(r);
        if (r->at == r->end)
            return fail(r);
        unsigned char c = *r->at++;
        if (c == close)
            return true;
        if (c != ',')
            return fail(r);
    }
}

/* *is: it is what is looked for. */
static bool read_value(struct reader *r, unsigned depth, bool *is)
{
    bool inside;
    *is = false;
    skip_space(r);
    if (r->at == r->end)
        return fail(r);
    switch (*r->at) {
    case '"':
        return read_string(r, is);
    case '[':
    case '{':
        if (depth == MAX_DEPTH)
            return fail(r);
        return read_members(r, *r->at++ == '{', depth + 1, &inside);
    case 'n':
        return read_word(r, "null");
    case 't':
        return read_word(r, "true");
    case 'f':
        return read_word(r, "false");
    default:
        return read_number(r, is);
    }
}

bool json_member(const void *text, size_t len, const mn_value *value)
{
    struct reader r = {.at = text, .wanted = value};
    bool has;
    if (len == 0 || (value->type != MN_TEXT && value->type != MN_INTEGER && value->type != MN_REAL))
        return false;
    r.end = r.at + len;
    skip_space(&r);
    if (r.at == r.end || *r.at++ != '[' || !read_members(&r, false, 1, &has))
        return false;
    skip_space(&r);
    return r.at == r.end && has;
}
