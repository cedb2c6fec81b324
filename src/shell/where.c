#include "src/shell/where.h"

#include <stdlib.h>
#include <string.h>

#include "src/shell/units.h"

static size_t trim(const char *s, size_t n)
{
    while (n && s[n - 1] == ' ')
        n--;
    return n;
}

static const struct {
    const char *word;
    enum where_op op;
} ops[] = {{"==", WHERE_EQ}, {"!=", WHERE_NE}, {"<>", WHERE_NE}, {"<=", WHERE_LE},
           {">=", WHERE_GE}, {"=", WHERE_EQ},  {"<", WHERE_LT},  {">", WHERE_GT}};

static bool op_take(const char **p, enum where_op *op)
{
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        size_t len = strlen(ops[i].word);
        if (strncmp(*p, ops[i].word, len) == 0) {
            *p += len;
            *op = ops[i].op;
            return true;
        }
    }
    return false;
}

static int term_parse(struct where_term *term, const char *word, const struct names *names)
{
    const char *at = word + strspn(word, " ");
    size_t len = strcspn(at, "=<>!");
    const char *value = at + len;
    len = trim(at, len);
    if (!len || len > MN_MAX_NAME || !op_take(&value, &term->op))
        return usage_error("--where %s is no condition; write it as 'year>=1990' or 'lang=en'",
                           word);
    memcpy(term->name, at, len);
    term->name[len] = 0;
    value += strspn(value, " ");
    size_t n = trim(value, strlen(value));
    bool quoted = n >= 2 && (value[0] == '\'' || value[0] == '"') && value[n - 1] == value[0];
    term->is_number = !quoted && n == strlen(value) && real_parse(value, &term->number);
    term->text = value + quoted;
    term->text_len = n - 2 * quoted;
    for (size_t i = 0; i < names->n; i++)
        if (strcmp(names->items[i], term->name) == 0)
            return 0;
    const char *near = nearest_word(term->name, names->items, names->n);
    if (near)
        return error_exit("--where %s: no attribute '%s'; did you mean '%s'?", word, term->name,
                          near);
    return error_exit("--where %s: no attribute '%s'; `mneme info DB COLLECTION` lists them", word,
                      term->name);
}

int where_parse(struct where *w, const struct option_list *given, const struct names *names)
{
    int code = 0;
    *w = (struct where){0};
    w->terms = need(calloc(given->n + 1, sizeof *w->terms));
    for (size_t i = 0; !code && i < given->n; i++)
        code = term_parse(&w->terms[w->n++], given->items[i], names);
    return code;
}

void where_free(struct where *w)
{
    free(w->terms);
    *w = (struct where){0};
}

/* Sign of attribute minus the term's value; false if the two cannot be compared. */
static bool compare(const struct where_term *term, const mn_value *v, int *sign)
{
    if (v->type == MN_INTEGER || v->type == MN_REAL) {
        double x = v->type == MN_INTEGER ? (double)v->integer : v->real;
        *sign = (x > term->number) - (x < term->number);
        return term->is_number;
    }
    if (v->type == MN_NULL)
        return false;
    size_t shorter = v->len < term->text_len ? v->len : term->text_len;
    *sign = shorter ? memcmp(v->data, term->text, shorter) : 0;
    if (*sign == 0)
        *sign = (v->len > term->text_len) - (v->len < term->text_len);
    return true;
}

static bool term_match(const struct where_term *term, const mn_row *row)
{
    const mn_value *v = mn_row_attr(row, term->name);
    int sign = 0;
    if (!v || v->type == MN_NULL)
        return false;
    if (!compare(term, v, &sign))
        return term->op == WHERE_NE;
    switch (term->op) {
    case WHERE_EQ:
        return sign == 0;
    case WHERE_NE:
        return sign != 0;
    case WHERE_LT:
        return sign < 0;
    case WHERE_LE:
        return sign <= 0;
    case WHERE_GT:
        return sign > 0;
    case WHERE_GE:
        return sign >= 0;
    }
    return false;
}

bool where_match(void *ctx, const mn_row *row)
{
    const struct where *w = ctx;
    for (size_t i = 0; i < w->n; i++)
        if (!term_match(&w->terms[i], row))
            return false;
    return true;
}
