/* The words of SQL text, as far as a shell needs them: where a statement's names stand, whether
 * there is anything but blanks and comments. Knows no grammar and no database. Any thread. */
#ifndef MN_SHELL_SQLTEXT_H
#define MN_SHELL_SQLTEXT_H

#include <stdbool.h>
#include <stddef.h>

enum sql_kind {
    SQL_END,
    SQL_WORD,   /* a keyword or a bare name */
    SQL_NAME,   /* "name", [name] or `name` */
    SQL_STRING, /* 'text', x'00' */
    SQL_NUMBER,
    SQL_PARAM, /* ?1 :a @a $a */
    SQL_SIGN,  /* one character */
    SQL_OPEN   /* a string, name or comment that does not end */
};

struct sql_token {
    enum sql_kind kind;
    size_t start, end; /* bytes, half open; a name's with its quotes */
};

/* The token at or after byte `at` of sql[len]; comments are passed over. */
struct sql_token sql_token_next(const char *sql, size_t len, size_t at);

/* Only blanks, comments and semicolons. False if a comment is still open. */
bool sql_is_blank(const char *sql, size_t len);

/* The token's name without quotes, cut to size, terminated; returns out. */
char *sql_token_name(const char *sql, const struct sql_token *t, char *out, size_t size);

/* The token is this word or name, whatever the case of ASCII letters. */
bool sql_token_is(const char *sql, const struct sql_token *t, const char *name);

/* Where the name stands in sql: byte of its token, or -1. */
long sql_find_name(const char *sql, size_t len, const char *name);

#endif
