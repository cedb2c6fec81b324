/*
 * The arguments of CREATE VIRTUAL TABLE, one a column:
 *
 *   id INTEGER PRIMARY KEY
 *   embedding float[384] metric=cosine recall=0.95 rerank=rows bits=4
 *   lang TEXT                 an attribute; the type may have several words; then NOT NULL, UNIQUE
 *   tenant TEXT PARTITION KEY
 *   expires INTEGER TTL
 *   +body TEXT                auxiliary
 *
 * Names may be quoted as in SQL.
 */
#include "src/sql/declare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/error.h"

struct token {
    const char *text; /* without quotes */
    size_t len;
    bool quoted;
};

/* A word, a quoted name, or one of the characters [ ] ( ) = + , : the next after *p. */
static bool next_token(const char **p, struct token *t)
{
    const char *s = *p;
    while (*s == ' ' || *s == '\t' || *s == '\n' || *s == '\r')
        s++;
    *t = (struct token){.text = s};
    if (!*s)
        return false;
    char close = *s == '"' ? '"' : *s == '`' ? '`' : 0;
    if (close) {
        const char *end = strchr(s + 1, close);
        if (!end)
            return false;
        *t = (struct token){s + 1, (size_t)(end - s - 1), true};
        *p = end + 1;
        return true;
    }
    size_t n = strcspn(s, " \t\r\n[]()=+,\"`");
    t->len = n ? n : 1;
    *p = s + t->len;
    return true;
}

static bool is(const struct token *t, const char *word)
{
    return !t->quoted && t->len == strlen(word) &&
           sqlite3_strnicmp(t->text, word, (int)t->len) == 0;
}

bool declaration_dtype(const char *word, size_t len, mn_dtype *out)
{
    static const struct {
        const char *word;
        mn_dtype dtype;
    } words[] = {{"float", MN_F32}, {"float32", MN_F32},   {"f32", MN_F32},   {"float16", MN_F16},
                 {"f16", MN_F16},   {"bfloat16", MN_BF16}, {"bf16", MN_BF16}, {"int8", MN_I8},
                 {"i8", MN_I8},     {"bit", MN_BIT}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (len == strlen(words[i].word) && sqlite3_strnicmp(word, words[i].word, (int)len) == 0) {
            *out = words[i].dtype;
            return true;
        }
    }
    return false;
}

static bool parse_number(const char *text, size_t len, double *out)
{
    char copy[32], *end;
    if (len == 0 || len >= sizeof copy)
        return false;
    memcpy(copy, text, len);
    copy[len] = 0;
    *out = strtod(copy, &end);
    return *end == 0 && end != copy;
}

static mn_status option_metric(struct column *c, const char *value, size_t len, const char *what,
                               mn_error *err)
{
    char word[16] = "";
    if (len < sizeof word)
        memcpy(word, value, len);
    c->l1 = strcmp(word, "l1") == 0;
    if (!c->l1 && !mn_metric_parse(word, &c->vector.metric))
        return mn_fail(err, MN_INVALID,
                       "%s: metric '%.*s'; it must be l2, cosine, ip, l1 or hamming", what,
                       (int)len, value);
    return MN_OK;
}

static mn_status option_rerank(struct column *c, const char *value, size_t len, const char *what,
                               mn_error *err)
{
    static const char *const words[] = {
        [MN_RERANK_COPY] = "copy", [MN_RERANK_ROWS] = "rows", [MN_RERANK_NONE] = "none"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (len == strlen(words[i]) && strncmp(value, words[i], len) == 0) {
            c->rerank = (mn_rerank)i;
            return MN_OK;
        }
    }
    return mn_fail(err, MN_INVALID, "%s: rerank '%.*s'; it must be copy, rows or none", what,
                   (int)len, value);
}

bool declaration_option(struct column *c, const char *word, size_t len, const char *value,
                        size_t value_len, const char *what, mn_status *st, mn_error *err)
{
    double number = 0;
    struct token t = {.text = word, .len = len};
    *st = MN_OK;
    if (is(&t, "metric")) {
        *st = option_metric(c, value, value_len, what, err);
    } else if (is(&t, "rerank")) {
        *st = option_rerank(c, value, value_len, what, err);
    } else if (is(&t, "recall")) {
        if (!parse_number(value, value_len, &number) || !(number >= 0.5 && number <= 1))
            *st = mn_fail(err, MN_INVALID, "%s: recall '%.*s'; it must be 0.5 to 1", what,
                          (int)value_len, value);
        c->recall = number;
    } else if (is(&t, "bits")) {
        if (!parse_number(value, value_len, &number) || number < 1 || number > 8 ||
            number != (uint32_t)number)
            *st = mn_fail(err, MN_INVALID, "%s: bits '%.*s'; it must be 1 to 8", what,
                          (int)value_len, value);
        c->bits = (uint32_t)number;
    } else {
        return false;
    }
    return true;
}

/* ---- One argument ---------------------------------------------------------------------------- */

/* float[384] was seen up to its '['. */
static mn_status parse_vector(const char *arg, const char *p, struct column *c, mn_error *err)
{
    struct token t, word;
    double dim = 0;
    char what[80];
    snprintf(what, sizeof what, "column '%s'", c->name);
    if (!next_token(&p, &t) || !parse_number(t.text, t.len, &dim) || dim != (uint32_t)dim ||
        dim < 1 || dim > MN_MAX_DIM || !next_token(&p, &t) || !is(&t, "]"))
        return mn_fail(err, MN_INVALID, "%s: the dimension in '%s' must be 1 to %u, as float[384]",
                       what, arg, MN_MAX_DIM);
    c->kind = COLUMN_VECTOR;
    c->vector.dim = (uint32_t)dim;
    c->vector.metric = c->vector.dtype == MN_BIT ? MN_HAMMING : MN_L2;
    while (next_token(&p, &word)) {
        mn_status st;
        if (!next_token(&p, &t) || !is(&t, "=") || !next_token(&p, &t))
            return mn_fail(err, MN_INVALID, "%s: '%.*s' in '%s' is no option word=value", what,
                           (int)word.len, word.text, arg);
        if (!declaration_option(c, word.text, word.len, t.text, t.len, what, &st, err))
            return mn_fail(err, MN_INVALID,
                           "%s: there is no option '%.*s'; there are metric, recall, rerank, bits",
                           what, (int)word.len, word.text);
        if (st)
            return st;
    }
    if (mn_vector_bytes(c->vector.dtype, c->vector.dim) == 0)
        return mn_fail(err, MN_INVALID, "%s: %u bits; it must be a multiple of 8", what,
                       c->vector.dim);
    if ((c->vector.dtype == MN_BIT) != (c->vector.metric == MN_HAMMING))
        return mn_fail(err, MN_INVALID, "%s: hamming goes with bit vectors and with nothing else",
                       what);
    return MN_OK;
}

/* The words behind the type. *used: they are no part of it. */
static bool constraint(struct column *c, const char **p, const struct token *t)
{
    const char *ahead = *p;
    struct token next;
    bool two = next_token(&ahead, &next);
    if (is(t, "NOT") && two && is(&next, "NULL")) {
        c->not_null = true;
    } else if (is(t, "PRIMARY") && two && is(&next, "KEY")) {
        c->kind = COLUMN_ID;
    } else if (is(t, "PARTITION") && two && is(&next, "KEY")) {
        c->partition = true;
    } else if (is(t, "UNIQUE")) {
        c->unique = true;
        return true;
    } else if (is(t, "TTL")) {
        c->ttl = true;
        return true;
    } else {
        return false;
    }
    *p = ahead;
    return true;
}

static mn_status parse_plain(const char *arg, const char *p, struct column *c, mn_error *err)
{
    struct token t;
    const char *type = NULL, *end = NULL;
    bool constrained = false;
    while (next_token(&p, &t)) {
        bool is_constraint = constraint(c, &p, &t);
        if (!is_constraint && constrained)
            return mn_fail(err, MN_INVALID,
                           "column '%s': '%.*s' is not known; behind the type may stand NOT NULL, "
                           "UNIQUE, PRIMARY KEY, PARTITION KEY, TTL",
                           c->name, (int)t.len, t.text);
        constrained = is_constraint;
        if (is_constraint)
            continue;
        if (t.quoted || is(&t, "=") || is(&t, "[") || is(&t, "]") || is(&t, "+"))
            return mn_fail(err, MN_INVALID,
                           "'%s' is no column: it must be a name and a type, as year INTEGER or "
                           "embedding float[384]",
                           arg);
        type = type ? type : t.text;
        end = t.text + t.len;
    }
    c->type = sqlite3_mprintf("%.*s", type ? (int)(end - type) : 0, type ? type : "");
    if (!c->type)
        return mn_fail(err, MN_NOMEM, "out of memory");
    c->affinity = affinity_of(c->type, strlen(c->type));
    if (c->kind == COLUMN_ID && sqlite3_stricmp(c->type, "INTEGER") != 0)
        return mn_fail(err, MN_INVALID,
                       "column '%s': the primary key must be INTEGER PRIMARY KEY; for texts, let "
                       "it be, and declare a column TEXT NOT NULL UNIQUE",
                       c->name);
    if (c->kind == COLUMN_AUXILIARY && (c->partition || c->ttl || c->unique))
        return mn_fail(err, MN_INVALID,
                       "column '%s': an auxiliary column is only kept; without the + it may be "
                       "UNIQUE, PARTITION KEY or TTL",
                       c->name);
    return MN_OK;
}

static mn_status parse_column(const char *arg, struct column *c, mn_error *err)
{
    const char *p = arg;
    struct token t, next;
    c->kind = COLUMN_ATTRIBUTE;
    if (!next_token(&p, &t))
        return mn_fail(err, MN_INVALID, "an argument is empty");
    if (is(&t, "+")) {
        c->kind = COLUMN_AUXILIARY;
        if (!next_token(&p, &t))
            return mn_fail(err, MN_INVALID, "'%s': a name is missing behind the +", arg);
    }
    c->name = sqlite3_mprintf("%.*s", (int)t.len, t.text);
    if (!c->name)
        return mn_fail(err, MN_NOMEM, "out of memory");
    if (t.len == 0 || t.len > MN_MAX_NAME || strpbrk(c->name, "[]()=+,\"'`"))
        return mn_fail(err, MN_INVALID, "'%s': the column's name is missing, or too long", arg);
    const char *behind = p;
    if (c->kind == COLUMN_ATTRIBUTE && next_token(&behind, &t) &&
        declaration_dtype(t.text, t.len, &c->vector.dtype) && next_token(&behind, &next) &&
        is(&next, "["))
        return parse_vector(arg, behind, c, err);
    return parse_plain(arg, p, c, err);
}

bool column_has_collection(const struct column *c)
{
    return c->kind == COLUMN_VECTOR && !c->l1;
}

/* ---- All of them ----------------------------------------------------------------------------- */

void declaration_fini(struct declaration *d)
{
    for (size_t i = 0; i < d->n; i++) {
        sqlite3_free(d->columns[i].name);
        sqlite3_free(d->columns[i].type);
    }
    sqlite3_free(d->columns);
    *d = (struct declaration){0};
}

/* The id goes to the front, where the table has it. */
static mn_status settle_id(struct declaration *d, mn_error *err)
{
    size_t ids = 0, at = 0;
    for (size_t i = 0; i < d->n; i++) {
        if (d->columns[i].kind == COLUMN_ID) {
            ids++;
            at = i;
        }
    }
    if (ids > 1)
        return mn_fail(err, MN_INVALID, "two columns are PRIMARY KEY: '%s' is the second",
                       d->columns[at].name);
    if (ids == 0) {
        at = d->n++; /* there is room */
        d->columns[at] = (struct column){
            .kind = COLUMN_ID, .name = sqlite3_mprintf("id"), .type = sqlite3_mprintf("INTEGER")};
        if (!d->columns[at].name || !d->columns[at].type)
            return mn_fail(err, MN_NOMEM, "out of memory");
    }
    struct column id = d->columns[at];
    memmove(d->columns + 1, d->columns, at * sizeof id);
    d->columns[0] = id;
    return MN_OK;
}

static mn_status check_all(struct declaration *d, mn_error *err)
{
    size_t vectors = 0;
    for (size_t i = 0; i < d->n; i++) {
        const struct column *c = &d->columns[i];
        for (size_t j = 0; j < i; j++)
            if (sqlite3_stricmp(c->name, d->columns[j].name) == 0)
                return mn_fail(err, MN_INVALID, "column '%s' stands twice", c->name);
        if (c->kind != COLUMN_ID && sqlite3_stricmp(c->name, "id") == 0)
            return mn_fail(err, MN_INVALID,
                           "column 'id' must be the INTEGER PRIMARY KEY; give this one another "
                           "name");
        vectors += c->kind == COLUMN_VECTOR;
        if (column_has_collection(c) && d->first_vector == 0)
            d->first_vector = i;
        if (c->ttl && d->ttl)
            return mn_fail(err, MN_INVALID, "two columns are TTL: '%s' is the second", c->name);
        if (c->ttl)
            d->ttl = i;
    }
    if (vectors == 0)
        return mn_fail(err, MN_INVALID,
                       "the table has no vector column; declare one, as embedding float[384]");
    if (vectors > MOST_VECTOR_COLUMNS)
        return mn_fail(err, MN_INVALID, "%zu vector columns; at most %d are allowed", vectors,
                       MOST_VECTOR_COLUMNS);
    return MN_OK;
}

mn_status declaration_parse(const char *const *args, int n, struct declaration *d, mn_error *err)
{
    *d = (struct declaration){0};
    d->columns = sqlite3_malloc64(((sqlite3_uint64)n + 1) * sizeof *d->columns);
    if (!d->columns)
        return mn_fail(err, MN_NOMEM, "out of memory");
    memset(d->columns, 0, ((size_t)n + 1) * sizeof *d->columns);
    mn_status st = MN_OK;
    for (int i = 0; i < n && st == MN_OK; i++) {
        d->n++;
        st = parse_column(args[i], &d->columns[i], err);
    }
    if (st == MN_OK)
        st = settle_id(d, err);
    if (st == MN_OK)
        st = check_all(d, err);
    if (st)
        declaration_fini(d);
    return st;
}
