#include "src/shell/complete.h"

#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "src/shell/dots.h"
#include "src/shell/sqltext.h"

struct asked {
    struct repl *repl;
    const char *text, *after;
    size_t len;
    const char *prefix; /* the word so far, in text */
    size_t prefix_len;
    struct completion *out;
};

void completion_free(struct completion *c)
{
    words_free(&c->words);
}

size_t completion_common(const struct completion *c)
{
    size_t common = c->words.n ? strlen(c->words.items[0]) : 0;
    for (size_t i = 1; i < c->words.n; i++)
        for (size_t j = 0; j < common; j++)
            if (tolower((unsigned char)c->words.items[i][j]) !=
                tolower((unsigned char)c->words.items[0][j]))
                common = j;
    /* Not in the middle of a character. */
    while (common && c->words.n && (c->words.items[0][common] & 0xc0) == 0x80)
        common--;
    return common;
}

static int characters(const char *s, size_t n)
{
    int count = 0;
    for (size_t i = 0; i < n; i++)
        count += (s[i] & 0xc0) != 0x80;
    return count;
}

static void offer(struct asked *a, const char *word, const char *suffix)
{
    if (strncasecmp(word, a->prefix, a->prefix_len) != 0)
        return;
    struct text t = {0};
    text_puts(&t, word);
    text_puts(&t, suffix);
    words_add(&a->out->words, t.data, t.len);
    text_free(&t);
}

static bool is_plain_name(const char *name)
{
    if (isdigit((unsigned char)name[0]) || !name[0])
        return false;
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '_' && !((unsigned char)*p & 0x80))
            return false;
    return !sqlite3_keyword_check(name, (int)strlen(name));
}

static void offer_name(struct asked *a, const char *name, const char *suffix)
{
    if (is_plain_name(name)) {
        offer(a, name, suffix);
        return;
    }
    /* Quoted, and found by what was typed without the quote. */
    if (strncasecmp(name, a->prefix, a->prefix_len) != 0)
        return;
    char *quoted = need(sqlite3_mprintf("\"%w\"%s", name, suffix));
    words_add(&a->out->words, quoted, strlen(quoted));
    sqlite3_free(quoted);
}

static void offer_names(struct asked *a, const struct words *names, const char *suffix)
{
    for (size_t i = 0; i < names->n; i++)
        offer_name(a, names->items[i], suffix);
}

/* ---- SQL ------------------------------------------------------------------------------------ */

static void offer_tables(struct asked *a)
{
    struct words w = {0};
    schema_tables(a->repl->db, &w);
    offer_names(a, &w, "");
    words_free(&w);
}

static bool begins_table(const char *sql, const struct sql_token *t)
{
    return sql_token_is(sql, t, "from") || sql_token_is(sql, t, "join") ||
           sql_token_is(sql, t, "into") || sql_token_is(sql, t, "update") ||
           sql_token_is(sql, t, "table");
}

/* The tables of the statement, or the one that `alias` stands for: "FROM docs d, words AS w". */
static void tables_in(struct asked *a, const char *alias, struct words *tables)
{
    struct text all = {0};
    struct words known = {0};
    char name[256] = "", other[256];
    text_add(&all, a->text, a->len);
    text_puts(&all, " ");
    text_puts(&all, a->after);
    schema_tables(a->repl->db, &known);
    struct sql_token t = sql_token_next(all.data, all.len, 0);
    bool at_table = false;
    for (; t.kind != SQL_END && t.kind != SQL_OPEN; t = sql_token_next(all.data, all.len, t.end)) {
        bool named = t.kind == SQL_WORD || t.kind == SQL_NAME;
        sql_token_name(all.data, &t, other, sizeof other);
        if (named && at_table) {
            snprintf(name, sizeof name, "%s", other);
            if (!alias || strcasecmp(alias, name) == 0)
                words_add(tables, name, strlen(name));
        } else if (named && name[0] && alias && strcasecmp(alias, other) == 0) {
            words_add(tables, name, strlen(name));
        }
        at_table = begins_table(all.data, &t) ||
                   (name[0] && t.kind == SQL_SIGN && all.data[t.start] == ',');
    }
    words_free(&known);
    text_free(&all);
}

static void offer_columns(struct asked *a, const char *alias)
{
    struct words tables = {0}, columns = {0};
    tables_in(a, alias, &tables);
    for (size_t i = 0; i < tables.n; i++)
        schema_columns(a->repl->db, tables.items[i], &columns);
    if (!tables.n && !alias && a->prefix_len)
        schema_columns(a->repl->db, NULL, &columns);
    offer_names(a, &columns, "");
    words_free(&tables);
    words_free(&columns);
}

/* In the case in which the word was begun. */
static void offer_keywords(struct asked *a)
{
    struct words w = {0};
    bool upper = false;
    for (size_t i = 0; i < a->prefix_len; i++)
        upper |= isupper((unsigned char)a->prefix[i]) != 0;
    schema_keywords(&w);
    for (size_t i = 0; i < w.n; i++) {
        for (char *p = w.items[i]; upper && *p; p++)
            *p = (char)toupper((unsigned char)*p);
        offer(a, w.items[i], " ");
    }
    words_free(&w);
}

static void offer_functions(struct asked *a)
{
    struct words w = {0};
    schema_functions(a->repl->db, &w);
    for (size_t i = 0; i < w.n; i++)
        offer(a, w.items[i], "(");
    words_free(&w);
}

static void offer_query(struct asked *a, const char *sql, const char *suffix)
{
    struct words w = {0};
    schema_query(a->repl->db, sql, NULL, &w);
    for (size_t i = 0; i < w.n; i++)
        offer(a, w.items[i], suffix);
    words_free(&w);
}

/* The two tokens before the word. */
static void tokens_before(const struct asked *a, struct sql_token *last, struct sql_token *before)
{
    size_t end = (size_t)(a->prefix - a->text);
    *last = *before = (struct sql_token){.kind = SQL_END};
    struct sql_token t = sql_token_next(a->text, end, 0);
    for (; t.kind != SQL_END; t = sql_token_next(a->text, end, t.end)) {
        bool semicolon = t.kind == SQL_SIGN && a->text[t.start] == ';';
        *before = semicolon ? (struct sql_token){.kind = SQL_END} : *last;
        *last = semicolon ? (struct sql_token){.kind = SQL_END} : t;
        if (t.kind == SQL_OPEN)
            return;
    }
}

static void complete_sql(struct asked *a)
{
    struct sql_token last, before;
    char alias[256];
    tokens_before(a, &last, &before);
    if (last.kind == SQL_OPEN) /* within a string or a comment */
        return;
    bool dot = last.kind == SQL_SIGN && a->text[last.start] == '.';
    if (dot && (before.kind == SQL_WORD || before.kind == SQL_NAME)) {
        sql_token_name(a->text, &before, alias, sizeof alias);
        offer_columns(a, alias);
        if (!a->out->words.n)
            offer_tables(a); /* main.docs */
    } else if (last.kind == SQL_WORD && begins_table(a->text, &last)) {
        offer_tables(a);
        if (a->prefix_len && !a->out->words.n)
            offer_keywords(a);
    } else if (last.kind == SQL_WORD && sql_token_is(a->text, &last, "pragma")) {
        offer_query(a, "SELECT name FROM pragma_pragma_list", "");
    } else if (last.kind == SQL_WORD && sql_token_is(a->text, &last, "using")) {
        offer_query(a, "SELECT name FROM pragma_module_list", "(");
    } else {
        if (last.kind != SQL_END)
            offer_columns(a, NULL);
        if (!a->prefix_len)
            return; /* all keywords would be too many to look at */
        offer_tables(a);
        offer_keywords(a);
        offer_functions(a);
    }
}

/* ---- Dot commands --------------------------------------------------------------------------- */

static void offer_files(struct asked *a)
{
    char *path = need(strndup(a->prefix, a->prefix_len)), *slash = strrchr(path, '/');
    size_t folder = slash ? (size_t)(slash - path) + 1 : 0;
    char *where = folder ? need(strndup(path, folder)) : need(strdup("."));
    DIR *dir = opendir(where);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        const char *rest = path + folder;
        struct text full = {0};
        struct stat st;
        bool hidden = entry->d_name[0] == '.' && rest[0] != '.';
        if (hidden || strncmp(entry->d_name, rest, strlen(rest)) != 0)
            continue;
        text_add(&full, path, folder);
        text_puts(&full, entry->d_name);
        bool is_folder = stat(full.data, &st) == 0 && S_ISDIR(st.st_mode);
        text_puts(&full, is_folder ? "/" : " ");
        words_add(&a->out->words, full.data, full.len);
        text_free(&full);
    }
    if (dir)
        closedir(dir);
    free(where);
    free(path);
}

static void offer_options(struct asked *a, const char *name)
{
    const struct command *command = command_find(strcmp(name, "near") == 0 ? "search" : name);
    for (const struct option *o = command ? command->options : NULL; o && o->name; o++) {
        char word[64];
        snprintf(word, sizeof word, "--%s", o->name);
        offer(a, word, " ");
    }
}

static void offer_collections(struct asked *a)
{
    struct repl *r = a->repl;
    collections_load(&r->known, r->db);
    for (size_t i = 0; i < r->known.n; i++)
        offer_name(a, r->known.items[i].collection, "");
}

/* Text ids that begin so, of all collections that have them. */
static void offer_ids(struct asked *a)
{
    struct repl *r = a->repl;
    collections_load(&r->known, r->db);
    for (size_t i = 0; a->prefix_len && i < r->known.n; i++) {
        const struct vector_column *v = &r->known.items[i];
        struct words w = {0};
        if (v->id_kind != MN_ID_TEXT)
            continue;
        char *sql = need(sqlite3_mprintf("SELECT text_id FROM \"%w\" WHERE text_id >= %.*Q AND "
                                         "substr(text_id, 1, %d) = %.*Q ORDER BY text_id LIMIT 100",
                                         v->table, (int)a->prefix_len, a->prefix,
                                         characters(a->prefix, a->prefix_len), (int)a->prefix_len,
                                         a->prefix));
        schema_query(r->db, sql, NULL, &w);
        for (size_t j = 0; j < w.n; j++)
            offer(a, w.items[j], " ");
        sqlite3_free(sql);
        words_free(&w);
    }
}

static void offer_arguments(struct asked *a, const struct dot *d, size_t word)
{
    static const char *const switches[] = {"on ", "off "};
    if (a->prefix_len && a->prefix[0] == '-') {
        offer_options(a, d->name);
        return;
    }
    enum dot_completes what = d->completes;
    if (strcmp(d->name, "near") == 0 && word == 1) {
        offer_ids(a);
        return;
    }
    if (strcmp(d->name, "import") == 0 && word > 1)
        what = COMPLETES_TABLES;
    if (strcmp(d->name, "export") == 0 && word > 1)
        what = COMPLETES_FILES;
    switch (what) {
    case COMPLETES_TABLES:
        offer_collections(a);
        if (!(d->needs & DOT_PROGRAM))
            offer_tables(a);
        break;
    case COMPLETES_FILES:
        offer_files(a);
        break;
    case COMPLETES_MODES:
        for (int i = 0; i < MODE_COUNT; i++)
            offer(a, mode_name((enum mode)i), " ");
        break;
    case COMPLETES_ON_OFF:
        offer(a, switches[0], "");
        offer(a, switches[1], "");
        break;
    case COMPLETES_DOTS:
        for (size_t i = 0; i < dots_count(); i++)
            offer(a, dots[i].name, " ");
        break;
    case COMPLETES_SQL:
        complete_sql(a);
        break;
    case COMPLETES_NOTHING:
        break;
    }
}

/* ".mode js": the word begins after the last blank; SQL words begin elsewhere. */
static void complete_dot(struct asked *a, const char *line)
{
    const char *p = line + 1, *word = p;
    char name[32];
    size_t n = strcspn(p, " \t"), count = 0;
    if (!p[n]) { /* the command itself */
        a->prefix = p;
        a->prefix_len = strlen(p);
        a->out->start = (size_t)(p - a->text);
        for (size_t i = 0; i < dots_count() && line[0] == '.'; i++)
            offer(a, dots[i].name, *dots[i].arguments ? " " : "");
        return;
    }
    snprintf(name, sizeof name, "%.*s", (int)n, p);
    const struct dot *d = dot_find(name);
    if (!d || (d->completes == COMPLETES_SQL))
        return complete_sql(a);
    for (; *p; p++)
        if ((*p == ' ' || *p == '\t') && p[1] != ' ' && p[1] != '\t') {
            word = p + 1;
            count++;
        }
    a->prefix = word;
    a->prefix_len = strlen(word);
    a->out->start = (size_t)(word - a->text);
    offer_arguments(a, d, count);
}

void complete(struct repl *r, const char *text, const char *after, struct completion *out)
{
    struct asked a = {.repl = r, .text = text, .after = after, .len = strlen(text), .out = out};
    const char *line = text + strspn(text, " \t\r\n");
    *out = (struct completion){0};
    a.prefix = text + a.len;
    while (a.prefix > text && (isalnum((unsigned char)a.prefix[-1]) || a.prefix[-1] == '_' ||
                               ((unsigned char)a.prefix[-1] & 0x80)))
        a.prefix--;
    a.prefix_len = (size_t)(text + a.len - a.prefix);
    out->start = (size_t)(a.prefix - text);
    if (line[0] == '.' || line[0] == '\\')
        complete_dot(&a, line);
    else
        complete_sql(&a);
}
