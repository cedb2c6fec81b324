#include "src/shell/options.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/shell/print.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"

static const struct option common_options[] = {
    {"memory", 0, OPTION_SIZE, offsetof(struct common, memory), "SIZE",
     "Cap over the memory that grows with data, as 512MB, 64MiB or 1g. Default 256MiB.", NULL,
     4 << 20, 1e19},
    {"threads", 't', OPTION_COUNT, offsetof(struct common, threads), "N",
     "Threads that one search or build may use. Default 1.", NULL, 1, 256},
    {"timeout", 0, OPTION_TIME, offsetof(struct common, timeout), "TIME",
     "How long to wait for another writer, as 500ms or 10s. Default 5s.", NULL, 0, 4e12},
    {"quiet", 'q', OPTION_FLAG, offsetof(struct common, quiet), NULL, "No progress and no summary.",
     NULL, 0, 0},
    {"help", 'h', OPTION_FLAG, offsetof(struct common, help), NULL, "This page.", NULL, 0, 0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

/* ---- Nearest words -------------------------------------------------------------------------- */

enum { WORD_MAX_BYTES = 64 };

/* Edits (insert, delete, replace, swap neighbours) from a to b; words beyond the limit are far. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    if (na >= WORD_MAX_BYTES || nb >= WORD_MAX_BYTES)
        return WORD_MAX_BYTES;
    size_t rows[3][WORD_MAX_BYTES];
    size_t *before = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= nb; j++)
        last[j] = before[j] = j;
    for (size_t i = 1; i <= na; i++) {
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = last[j - 1] +
                          (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
        size_t *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[nb];
}

const char *nearest_word(const char *word, const char *const *candidates, size_t n)
{
    const char *best = NULL;
    size_t len = strlen(word), best_edits = len / 3 + 1;
    if (best_edits > 3)
        best_edits = 3;
    for (size_t i = 0; i < n; i++) {
        size_t edits = edit_distance(word, candidates[i]);
        if (len >= 3 && strncmp(word, candidates[i], len) == 0)
            edits = 1; /* a beginning of it */
        if (edits <= best_edits && edits < strlen(candidates[i])) {
            best = candidates[i];
            best_edits = edits ? edits - 1 : 0;
            if (edits <= 1)
                break;
        }
    }
    return best;
}

int choice_index(const char *choices, const char *word)
{
    size_t len = strlen(word);
    int index = 0;
    for (const char *p = choices; *p; index++) {
        size_t n = strcspn(p, "|");
        if (n == len && strncmp(p, word, n) == 0)
            return index;
        p += n + (p[n] == '|');
    }
    return -1;
}

/* ---- Finding options ------------------------------------------------------------------------ */

/* Walks the command's own options, then the common ones. */
static const struct option *option_at(const struct command *command, size_t i)
{
    size_t own = 0;
    while (command->options[own].name) {
        if (own == i)
            return &command->options[own];
        own++;
    }
    const struct option *o = &common_options[i - own];
    return o->name ? o : NULL;
}

static const struct option *option_find(const struct command *command, const char *name, size_t len)
{
    const struct option *o;
    for (size_t i = 0; (o = option_at(command, i)); i++)
        if (strlen(o->name) == len && strncmp(o->name, name, len) == 0)
            return o;
    return NULL;
}

static const struct option *option_by_letter(const struct command *command, char letter)
{
    const struct option *o;
    for (size_t i = 0; (o = option_at(command, i)); i++)
        if (o->letter && o->letter == letter)
            return o;
    return NULL;
}

static int unknown_option(const struct command *command, const char *name, size_t len)
{
    enum { MOST = 64 };
    const char *names[MOST];
    size_t n = 0;
    const struct option *o;
    for (size_t i = 0; n < MOST && (o = option_at(command, i)); i++)
        names[n++] = o->name;
    char word[WORD_MAX_BYTES];
    snprintf(word, sizeof word, "%.*s", (int)len, name);
    const char *near = nearest_word(word, names, n);
    if (near)
        return usage_error("%s: unknown option --%s; did you mean --%s?", command->name, word,
                           near);
    return usage_error("%s: unknown option --%s; `mneme help %s` lists the options", command->name,
                       word, command->name);
}

/* ---- Values --------------------------------------------------------------------------------- */

static int bad_value(const struct command *command, const struct option *o, const char *value,
                     const char *wants)
{
    return usage_error("%s: --%s %s is not %s", command->name, o->name, value, wants);
}

static bool in_range(const struct option *o, double value)
{
    return o->max <= o->min || (value >= o->min && value <= o->max);
}

static int set_number(const struct command *command, const struct option *o, const char *value,
                      void *field)
{
    char wants[128], low[UNITS_TEXT], high[UNITS_TEXT];
    uint64_t n = 0;
    switch (o->kind) {
    case OPTION_COUNT:
        snprintf(wants, sizeof wants,
                 o->max < 1e15 ? "a whole number of %s to %s" : "a whole number of %s or more",
                 count_format(low, (uint64_t)o->min), count_format(high, (uint64_t)o->max));
        if (!count_parse(value, &n) || !in_range(o, (double)n))
            return bad_value(command, o, value, wants);
        break;
    case OPTION_SIZE:
        if (!size_parse(value, &n))
            return bad_value(command, o, value, "a size, as 512MB, 64MiB or 1g");
        if (!in_range(o, (double)n))
            return usage_error("%s: --%s %s is too small: at least %s", command->name, o->name,
                               value, size_format(low, (uint64_t)o->min));
        break;
    default:
        if (!time_parse(value, &n))
            return bad_value(command, o, value, "a time, as 500ms, 10s or 2m");
        if (!in_range(o, (double)n))
            return usage_error("%s: --%s %s is too long: at most 46 days", command->name, o->name,
                               value);
        n += n == 0; /* zero means "not given": the shortest time instead */
        break;
    }
    *(uint64_t *)field = n;
    return 0;
}

static int set_real(const struct command *command, const struct option *o, const char *value,
                    struct option_real *out)
{
    char wants[128];
    if (o->max > o->min)
        snprintf(wants, sizeof wants, "a number from %g to %g", o->min, o->max);
    else
        snprintf(wants, sizeof wants, "a number");
    if (!real_parse(value, &out->value) || !in_range(o, out->value))
        return bad_value(command, o, value, wants);
    out->given = true;
    return 0;
}

static int set_choice(const struct command *command, const struct option *o, const char *value,
                      int *out)
{
    *out = choice_index(o->choices, value) + 1;
    if (*out)
        return 0;
    char all[256], wants[300];
    size_t n = 0;
    for (const char *p = o->choices; *p && n + 3 < sizeof all; p++) {
        if (*p == '|' && !p[1])
            break;
        if (*p == '|') {
            all[n++] = ',';
            all[n++] = ' ';
        } else {
            all[n++] = *p;
        }
    }
    all[n] = 0;
    snprintf(wants, sizeof wants, "one of %s", all);
    return bad_value(command, o, value, wants);
}

static int set_option(const struct command *command, const struct option *o, const char *value,
                      void *given)
{
    void *field = (char *)given + o->field;
    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)field = true;
        return 0;
    case OPTION_TEXT:
        *(const char **)field = value;
        return 0;
    case OPTION_LIST: {
        struct option_list *list = field;
        list->items = need(realloc(list->items, (list->n + 1) * sizeof *list->items));
        list->items[list->n++] = value;
        return 0;
    }
    case OPTION_INTEGER: {
        struct option_integer *out = field;
        if (!integer_parse(value, &out->value))
            return bad_value(command, o, value, "a whole number");
        out->given = true;
        return 0;
    }
    case OPTION_REAL:
        return set_real(command, o, value, field);
    case OPTION_CHOICE:
        return set_choice(command, o, value, field);
    default:
        return set_number(command, o, value, field);
    }
}

/* ---- Arguments ------------------------------------------------------------------------------ */

/* How many arguments "DB COLLECTION [FILE] ID..." takes. */
static void argument_bounds(const char *arguments, size_t *least, size_t *most)
{
    *least = *most = 0;
    for (const char *p = arguments; *p;) {
        size_t len = strcspn(p, " ");
        if (*p != '[')
            ++*least;
        if (len > 3 && memmem(p, len, "...", 3))
            *most = SIZE_MAX;
        else if (*most != SIZE_MAX)
            ++*most;
        p += len;
        p += strspn(p, " ");
    }
}

static int check_arguments(const struct command *command, char **args, size_t n)
{
    size_t least, most;
    argument_bounds(command->arguments, &least, &most);
    if (n > most)
        return usage_error("%s: one argument too many: %s (usage: mneme %s %s)", command->name,
                           args[most], command->name, command->arguments);
    if (n >= least)
        return 0;
    const char *missing = command->arguments;
    for (size_t i = 0; i < n; i++) {
        missing += strcspn(missing, " ");
        missing += strspn(missing, " ");
    }
    return usage_error("%s: missing argument %.*s (usage: mneme %s %s)", command->name,
                       (int)strcspn(missing, " ."), missing, command->name, command->arguments);
}

/* -5 is an argument (an id), not an option. */
static bool is_negative_number(const char *word)
{
    return word[0] == '-' && isdigit((unsigned char)word[1]);
}

struct words {
    int argc, next;
    char **argv;
};

/* The value of option o: after '=' or glued to its letter (`glued`), else the next word. */
static int take_value(const struct command *command, const struct option *o, const char *glued,
                      struct words *w, const char **value)
{
    if (o->kind == OPTION_FLAG) {
        *value = NULL;
        return glued ? usage_error("%s: --%s takes no value", command->name, o->name) : 0;
    }
    if (!glued && w->next >= w->argc)
        return usage_error("%s: --%s needs a value: --%s %s", command->name, o->name, o->name,
                           o->value);
    *value = glued ? glued : w->argv[w->next++];
    return 0;
}

static int parse_long(const struct command *command, const char *word, struct words *w, void *given)
{
    size_t len = strcspn(word, "=");
    const struct option *o = option_find(command, word, len);
    if (!o)
        return unknown_option(command, word, len);
    const char *value = NULL;
    int code = take_value(command, o, word[len] ? word + len + 1 : NULL, w, &value);
    return code ? code : set_option(command, o, value, given);
}

/* -k10, -k 10, -qk10: flags may stand together. */
static int parse_short(const struct command *command, const char *letters, struct words *w,
                       void *given)
{
    for (; *letters; letters++) {
        const struct option *o = option_by_letter(command, *letters);
        if (!o)
            return usage_error("%s: unknown option -%c; `mneme help %s` lists the options",
                               command->name, *letters, command->name);
        bool flag = o->kind == OPTION_FLAG;
        const char *value = NULL;
        int code = take_value(command, o, flag || !letters[1] ? NULL : letters + 1, w, &value);
        if (!code)
            code = set_option(command, o, value, given);
        if (code || !flag)
            return code;
    }
    return 0;
}

int options_parse(const struct command *command, int argc, char **argv, void *given, char **args,
                  size_t *n_args)
{
    struct words w = {.argc = argc, .argv = argv};
    bool only_arguments = false;
    *n_args = 0;
    while (w.next < argc) {
        char *word = argv[w.next++];
        int code = 0;
        if (!only_arguments && strcmp(word, "--") == 0)
            only_arguments = true;
        else if (only_arguments || word[0] != '-' || !word[1] || is_negative_number(word))
            args[(*n_args)++] = word;
        else if (word[1] == '-')
            code = parse_long(command, word + 2, &w, given);
        else
            code = parse_short(command, word + 1, &w, given);
        if (code)
            return code;
        if (((struct common *)given)->help)
            return 0;
    }
    return check_arguments(command, args, *n_args);
}

void options_free(const struct command *command, void *given)
{
    for (const struct option *o = command->options; o->name; o++)
        if (o->kind == OPTION_LIST)
            free(((struct option_list *)(void *)((char *)given + o->field))->items);
}

/* ---- Help ----------------------------------------------------------------------------------- */

enum { HELP_COLUMN = 26, HELP_WIDTH = 80 };

/* Prints text from HELP_COLUMN on, wrapped at blanks. The cursor stands at `column`. */
static void help_wrap(const char *text, size_t column)
{
    if (column + 2 > HELP_COLUMN) {
        out_printf("\n");
        column = 0;
    }
    out_printf("%*s", (int)(HELP_COLUMN - column), "");
    column = HELP_COLUMN;
    while (*text) {
        size_t word = strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + word > HELP_WIDTH) {
            out_printf("\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        if (column > HELP_COLUMN) {
            out_printf(" ");
            column++;
        }
        out_printf("%.*s", (int)word, text);
        column += word;
        text += word;
        text += strspn(text, " ");
    }
    out_printf("\n");
}

static void help_option(const struct option *o)
{
    char left[160];
    int n = o->letter ? snprintf(left, sizeof left, "  -%c, --%s", o->letter, o->name)
                      : snprintf(left, sizeof left, "      --%s", o->name);
    const char *value = o->kind == OPTION_CHOICE && !o->value ? o->choices : o->value;
    if (value)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s", value);
    out_printf("%s", left);
    help_wrap(o->help, (size_t)n);
}

void options_help(const struct command *command)
{
    out_printf("usage: mneme %s %s%s[options]\n\n%s\n", command->name, command->arguments,
               *command->arguments ? " " : "", command->about);
    if (command->options[0].name) {
        out_heading("Options");
        for (const struct option *o = command->options; o->name; o++)
            help_option(o);
    }
    out_heading("Options of every command");
    for (const struct option *o = common_options; o->name; o++)
        help_option(o);
    out_heading("Examples");
    out_printf("%s", command->examples);
}
