/*
 * The arguments of CREATE VIRTUAL TABLE, one a column:
 *
 *   id INTEGER PRIMARY KEY
 *   embedding float[384] metric=cosine recall=0.95 rerank=rows bits=4
 *   lang TEXT                 an attribute; the type may have several words; then NOT NULL, UNIQUE
 *   tenant TEXT PARTITION KEY
 *   expires INTEGER TTL
 *   +body TEXT                auxiliary
 *   words FTS(title, body, tokenize='porter unicode61')   full text; not stored, for MATCH
 *
 * Names may be quoted as in SQL.
 */
#include "src/sql/declare.h"

#include <ctype.h>
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
    char close = *s == '"' || *s == '`' || *s == '\'' ? *s : 0;
    if (close) {
        const char *end = strchr(s + 1, close);
        if (!end)
            return false;
        *t = (struct token){s + 1, (size_t)(end - s - 1), true};
        *p = end + 1;
        return true;
    }
    size_t n = strcspn(s, " \t\r\n[]()=+,\"`'");
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
    for (size_t i = 0; i < len && len < sizeof word; i++)
        word[i] = (char)tolower((unsigned char)value[i]);
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
        if (len == strlen(words[i]) && sqlite3_strnicmp(value, words[i], (int)len) == 0) {
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
    if ((c->vector.dtype == MN_BIT) != (c->vector.metric == MN_HAMMING) ||
        (c->vector.dtype == MN_BIT && c->l1))
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
    } else if (is(t, "NULL")) {
        return true;
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

/* SQLite would take them for constraints of the rows table. */
static bool unknown_constraint(const struct token *t)
{
    static const char *const words[] = {
        "AS",         "ASC",     "AUTOINCREMENT", "CHECK",  "COLLATE",    "DEFAULT",
        "CONSTRAINT", "DESC",    "FOREIGN",       "KEY",    "GENERATED",  "NOT",
        "ON",         "PRIMARY", "PARTITION",     "STORED", "REFERENCES", "VIRTUAL"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (is(t, words[i]))
            return true;
    return false;
}

/* What a type may consist of, as DECIMAL(10, 2). */
static bool is_type(const struct token *t)
{
    for (size_t i = 0; i < t->len; i++) {
        unsigned char c = (unsigned char)t->text[i];
        if (!isalnum(c) && c < 0x80 && !strchr("_(),", c))
            return false;
    }
    return !t->quoted;
}

static mn_status parse_plain(const char *arg, const char *p, struct column *c, mn_error *err)
{
    struct token t;
    const char *type = NULL, *end = NULL;
    bool constrained = false;
    while (next_token(&p, &t)) {
        bool is_constraint = constraint(c, &p, &t);
        if (!is_constraint && (constrained || unknown_constraint(&t)))
            return mn_fail(err, MN_INVALID,
                           "column '%s': '%.*s' is not known; behind the type may stand NOT NULL, "
                           "UNIQUE, PRIMARY KEY, PARTITION KEY, TTL",
                           c->name, (int)t.len, t.text);
        constrained = is_constraint;
        if (is_constraint)
            continue;
        if (!is_type(&t))
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
    if (c->ttl && c->affinity < AFFINITY_NUMERIC)
        return mn_fail(err, MN_INVALID,
                       "column '%s': TTL is a number of seconds since 1970: declare it INTEGER",
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
        return mn_fail(err, MN_INVALID,
                       "'%s' does not begin with a column's name of at most %u bytes; an unusual "
                       "one stands in double quotes",
                       arg, MN_MAX_NAME);
    const char *behind = p;
    if (c->kind == COLUMN_ATTRIBUTE && next_token(&behind, &t) &&
        declaration_dtype(t.text, t.len, &c->vector.dtype) && next_token(&behind, &next) &&
        is(&next, "["))
        return parse_vector(arg, behind, c, err);
    return parse_plain(arg, p, c, err);
}

/* ---- Full text ------------------------------------------------------------------------------- */

/* A value in single quotes, which next_token() does not know: '' in it is one. */
static bool next_quoted(const char **p, struct token *t)
{
    const char *s = *p + strspn(*p, " \t\r\n"), *end = *s == '\'' ? strchr(s + 1, '\'') : NULL;
    while (end && end[1] == '\'')
        end = strchr(end + 2, '\'');
    if (!end)
        return false;
    *t = (struct token){s + 1, (size_t)(end - s - 1), true};
    *p = end + 1;
    return true;
}

/* "name FTS(" at the front: *behind is behind it. */
static bool is_full_text(const char *arg, struct token *name, const char **behind)
{
    struct token t;
    *behind = arg;
    return next_token(behind, name) && next_token(behind, &t) && is(&t, "FTS") &&
           next_token(behind, &t) && is(&t, "(");
}

static mn_status parse_text_option(const struct token *word, const char **p, struct declaration *d,
                                   mn_error *err)
{
    struct token value;
    mn_status st;
    if (!next_quoted(p, &value) && !next_token(p, &value))
        value = (struct token){.text = "", .len = 0};
    if (is(word, "fts") ||
        !fts_option(&d->fts, word->text, word->len, value.text, value.len, &st, err))
        return mn_fail(err, MN_INVALID,
                       "column '%s': there is no option '%.*s'; there are tokenize, prefix, "
                       "weights",
                       d->text, (int)word->len, word->text);
    return st;
}

/* What stands between the parentheses: columns, then options. */
static mn_status parse_full_text(const char *arg, const struct token *name, const char *p,
                                 struct declaration *d, mn_error *err)
{
    struct token t, sign;
    mn_status st = MN_OK;
    if (d->text)
        return mn_fail(err, MN_INVALID,
                       "two columns are FTS: '%.*s' is the second; one takes several columns, as "
                       "FTS(title, body)",
                       (int)name->len, name->text);
    d->text = sqlite3_mprintf("%.*s", (int)name->len, name->text);
    sqlite3_str *columns = sqlite3_str_new(NULL);
    bool closed = false;
    while (d->text && st == MN_OK && !closed && next_token(&p, &t)) {
        bool separator = is(&t, ","), more = next_token(&p, &sign);
        closed = is(&t, ")");
        if (closed || separator) { /* the token ahead is none of ours */
            p = t.text + 1;
        } else if (more && is(&sign, "=")) {
            st = parse_text_option(&t, &p, d, err);
        } else {
            sqlite3_str_appendf(columns, "%s%.*s", sqlite3_str_length(columns) ? "," : "",
                                (int)t.len, t.text);
            if (more)
                p = sign.quoted ? sign.text - 1 : sign.text;
        }
    }
    bool no_memory = !d->text || sqlite3_str_errcode(columns) != SQLITE_OK;
    d->fts.columns = sqlite3_str_finish(columns);
    if (st == MN_OK && no_memory)
        st = mn_fail(err, MN_NOMEM, "out of memory");
    if (st == MN_OK && (!closed || p[strspn(p, " \t\r\n")]))
        st = mn_fail(err, MN_INVALID, "'%s' is no full text: write it as words FTS(title, body)",
                     arg);
    if (st == MN_OK && !d->fts.columns)
        st = mn_fail(err, MN_INVALID, "column '%s': FTS() names no column", d->text);
    return st;
}

static const struct column *find_column(const struct declaration *d, const char *name, size_t len)
{
    for (size_t i = 0; i < d->n; i++)
        if (strlen(d->columns[i].name) == len &&
            sqlite3_strnicmp(d->columns[i].name, name, (int)len) == 0)
            return &d->columns[i];
    return NULL;
}

static mn_status check_full_text(const struct declaration *d, mn_error *err)
{
    if (find_column(d, d->text, strlen(d->text)))
        return mn_fail(err, MN_INVALID, "column '%s' stands twice", d->text);
    for (const char *p = d->fts.columns; *p; p += *p == ',') {
        size_t len = strcspn(p, ",");
        const struct column *c = find_column(d, p, len);
        if (!c || (c->kind != COLUMN_ATTRIBUTE && c->kind != COLUMN_AUXILIARY))
            return mn_fail(err, MN_INVALID,
                           "column '%s': there is no column '%.*s' with text; declare it, as +%.*s "
                           "TEXT",
                           d->text, (int)len, p, (int)len, p);
        p += len;
    }
    return MN_OK;
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
    sqlite3_free(d->text);
    fts_options_fini(&d->fts);
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
        struct token name;
        const char *behind;
        if (is_full_text(args[i], &name, &behind))
            st = parse_full_text(args[i], &name, behind, d, err);
        else
            st = parse_column(args[i], &d->columns[d->n++], err);
    }
    if (st == MN_OK)
        st = settle_id(d, err);
    if (st == MN_OK)
        st = check_all(d, err);
    if (st == MN_OK && d->text)
        st = check_full_text(d, err);
    if (st)
        declaration_fini(d);
    return st;
}
