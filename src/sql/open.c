/*
 * mneme_open(options): opens the database with options of its own, before anything else of Mneme's
 * is used on the connection: "memory=1GiB threads=4 background=off". What the process has open
 * already must have been opened with the same.
 */
#include <stdlib.h>
#include <string.h>

#include "src/sql/sql.h"
#include "storage/base/error.h"

/* "4096", "64MiB", "1GB". */
static bool parse_size(const char *text, size_t len, uint64_t *out)
{
    static const struct {
        const char *unit;
        uint64_t bytes;
    } units[] = {{"", 1},      {"KiB", 1u << 10}, {"MiB", 1u << 20}, {"GiB", 1u << 30},
                 {"KB", 1000}, {"MB", 1000000},   {"GB", 1000000000}};
    char *end;
    unsigned long long n = strtoull(text, &end, 10);
    size_t digits = (size_t)(end - text);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t unit = strlen(units[i].unit);
        if (digits == 0 || digits > len || len - digits != unit ||
            sqlite3_strnicmp(end, units[i].unit, (int)unit) != 0 || n > INT64_MAX / units[i].bytes)
            continue;
        *out = n * units[i].bytes;
        return true;
    }
    return false;
}

static bool is(const char *text, size_t len, const char *word)
{
    return len == strlen(word) && sqlite3_strnicmp(text, word, (int)len) == 0;
}

static mn_status take_option(mn_open_opts *o, const char *word, size_t len, const char *value,
                             size_t value_len, mn_error *err)
{
    uint64_t number = 0;
    bool sized = parse_size(value, value_len, &number);
    if (is(word, len, "memory") && sized) {
        o->memory_bytes = number;
    } else if (is(word, len, "threads") && sized && number >= 1 && number <= 256) {
        o->threads = (uint32_t)number;
    } else if (is(word, len, "background") && is(value, value_len, "off")) {
        o->flags |= MN_OPEN_NO_BACKGROUND;
    } else if (!is(word, len, "background") || !is(value, value_len, "on")) {
        return mn_fail(err, MN_INVALID,
                       "mneme_open: '%.*s=%.*s'; there are memory=1GiB, threads=4 (1 to 256), "
                       "background=on or off",
                       (int)len, word, (int)value_len, value);
    }
    return MN_OK;
}

static mn_status take_options(mn_open_opts *o, const char *p, mn_error *err)
{
    mn_status st = MN_OK;
    while (st == MN_OK && *(p += strspn(p, " \t\r\n"))) {
        size_t len = strcspn(p, "= \t\r\n");
        if (p[len] != '=')
            return mn_fail(err, MN_INVALID, "mneme_open: '%.*s' is no option name=value", (int)len,
                           p);
        const char *value = p + len + 1;
        size_t value_len = strcspn(value, " \t\r\n");
        st = take_option(o, p, len, value, value_len, err);
        p = value + value_len;
    }
    return st;
}

static void call_open(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct session *s = sqlite3_user_data(ctx);
    const char *text = (const char *)sqlite3_value_text(args[0]);
    mn_open_opts opts = {0};
    mn_error err = {0};
    (void)n;
    mn_status st = take_options(&opts, text ? text : "", &err);
    if (st == MN_OK)
        st = session_begin(s, &opts, &err);
    if (st)
        session_fail(ctx, st, &err);
    else
        sqlite3_result_text(ctx, "ok", -1, SQLITE_STATIC);
}

int open_register(struct session *s)
{
    static const struct sql_function functions[] = {
        {"mneme_open", 1, SQLITE_DIRECTONLY, call_open},
    };
    return sql_register_functions(s, functions, 1);
}
