#include "src/shell/sqltext.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static bool is_word(char c)
{
    unsigned char u = (unsigned char)c;
    return isalnum(u) || c == '_' || c == '$' || u >= 0x80;
}

/* End of what begins with an opening quote at `at`; len + 1 if it does not end. */
static size_t quoted_end(const char *sql, size_t len, size_t at)
{
    char close = sql[at] == '[' ? ']' : sql[at];
    for (size_t i = at + 1; i < len; i++) {
        if (sql[i] != close)
            continue;
        if (close != ']' && i + 1 < len && sql[i + 1] == close)
            i++;
        else
            return i + 1;
    }
    return len + 1;
}

/* Passes blanks and comments; *open if a comment does not end. */
static size_t skip_blanks(const char *sql, size_t len, size_t at, bool *open)
{
    *open = false;
    while (at < len) {
        if (isspace((unsigned char)sql[at])) {
            at++;
        } else if (at + 1 < len && sql[at] == '-' && sql[at + 1] == '-') {
            const char *line = memchr(sql + at, '\n', len - at);
            at = line ? (size_t)(line - sql) + 1 : len;
        } else if (at + 1 < len && sql[at] == '/' && sql[at + 1] == '*') {
            const char *end = len - at > 3 ? memmem(sql + at + 2, len - at - 2, "*/", 2) : NULL;
            *open = end == NULL;
            at = end ? (size_t)(end - sql) + 2 : len;
        } else {
            break;
        }
    }
    return at;
}

static struct sql_token take(enum sql_kind kind, size_t start, size_t end)
{
    return (struct sql_token){.kind = kind, .start = start, .end = end};
}

struct sql_token sql_token_next(const char *sql, size_t len, size_t at)
{
    bool open;
    size_t start = skip_blanks(sql, len, at, &open), end = start;
    if (open)
        return take(SQL_OPEN, start, len);
    if (start >= len)
        return take(SQL_END, len, len);
    char c = sql[start];
    bool blob = (c == 'x' || c == 'X') && start + 1 < len && sql[start + 1] == '\'';
    if (c == '\'' || blob || c == '"' || c == '`' || c == '[') {
        end = quoted_end(sql, len, start + blob);
        if (end > len)
            return take(SQL_OPEN, start, len);
        return take(c == '\'' || blob ? SQL_STRING : SQL_NAME, start, end);
    }
    if (c == '?' || c == ':' || c == '@' || c == '$' || c == '#') {
        for (end = start + 1; end < len && is_word(sql[end]);)
            end++;
        return take(end > start + 1 || c == '?' ? SQL_PARAM : SQL_SIGN, start, end);
    }
    if (is_word(c)) {
        bool number = isdigit((unsigned char)c);
        while (end < len && (is_word(sql[end]) || (number && sql[end] == '.')))
            end++;
        return take(number ? SQL_NUMBER : SQL_WORD, start, end);
    }
    return take(SQL_SIGN, start, start + 1);
}

bool sql_is_blank(const char *sql, size_t len)
{
    size_t at = 0;
    for (;;) {
        struct sql_token t = sql_token_next(sql, len, at);
        if (t.kind == SQL_END)
            return true;
        if (t.kind != SQL_SIGN || sql[t.start] != ';')
            return false;
        at = t.end;
    }
}

char *sql_token_name(const char *sql, const struct sql_token *t, char *out, size_t size)
{
    size_t n = 0;
    bool quoted = t->kind == SQL_NAME;
    char close = sql[t->start] == '[' ? ']' : sql[t->start];
    size_t end = quoted ? t->end - 1 : t->end;
    for (size_t i = t->start + quoted; i < end && n + 1 < size; i++) {
        out[n++] = sql[i];
        i += quoted && sql[i] == close;
    }
    out[n] = 0;
    return out;
}

bool sql_token_is(const char *sql, const struct sql_token *t, const char *name)
{
    char buffer[256];
    if (t->kind != SQL_WORD && t->kind != SQL_NAME)
        return false;
    return strcasecmp(sql_token_name(sql, t, buffer, sizeof buffer), name) == 0;
}

long sql_find_name(const char *sql, size_t len, const char *name)
{
    struct sql_token t = sql_token_next(sql, len, 0);
    for (; t.kind != SQL_END && t.kind != SQL_OPEN; t = sql_token_next(sql, len, t.end))
        if (sql_token_is(sql, &t, name))
            return (long)t.start;
    return -1;
}
