#include "storage/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const status_names[] = {
    [MN_OK] = "ok",
    [MN_BUSY] = "busy",
    [MN_INVALID] = "invalid",
    [MN_NOTFOUND] = "notfound",
    [MN_EXISTS] = "exists",
    [MN_CONFLICT] = "conflict",
    [MN_FULL] = "full",
    [MN_NOMEM] = "nomem",
    [MN_IO] = "io",
    [MN_CORRUPT] = "corrupt",
    [MN_NOTADB] = "notadb",
    [MN_NEWER] = "newer",
    [MN_READONLY] = "readonly",
    [MN_INTERRUPTED] = "interrupted",
    [MN_DEADLINE] = "deadline",
    [MN_FORKED] = "forked",
    [MN_POISONED] = "poisoned",
    [MN_MISUSE] = "misuse",
};

const char *mn_status_name(mn_status status)
{
    size_t i = (size_t)status;
    return i < sizeof status_names / sizeof *status_names ? status_names[i] : "unknown";
}

/* Marks a sentence that did not fit. `wanted` is what vsnprintf returned. */
static void mark_cut(mn_error *err, int wanted)
{
    if (wanted >= (int)sizeof err->message)
        memcpy(err->message + sizeof err->message - 4, "...", 4);
}

__attribute__((format(printf, 4, 0))) static mn_status
fill(mn_error *err, mn_status code, int os_error, const char *format, va_list args)
{
    if (!err || err->code != MN_OK)
        return code;
    err->code = code;
    err->os_error = os_error;
    int n = vsnprintf(err->message, sizeof err->message, format, args);
    if (os_error && n >= 0 && n < (int)sizeof err->message) {
        char text[128];
        const char *reason = strerror_r(os_error, text, sizeof text);
        size_t room = sizeof err->message - (size_t)n;
        n += snprintf(err->message + n, room, ": %s", reason);
    }
    mark_cut(err, n);
    return code;
}

mn_status mn_fail(mn_error *err, mn_status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    mn_status st = fill(err, code, 0, format, args);
    va_end(args);
    return st;
}

mn_status mn_fail_os(mn_error *err, mn_status code, int os_error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    mn_status st = fill(err, code, os_error, format, args);
    va_end(args);
    return st;
}

void mn_error_context(mn_error *err, const char *format, ...)
{
    if (!err || err->code == MN_OK)
        return;
    char old[sizeof err->message];
    memcpy(old, err->message, sizeof old);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (n >= 0 && n < (int)sizeof err->message)
        n += snprintf(err->message + n, sizeof err->message - (size_t)n, "%s", old);
    mark_cut(err, n);
}

void mn_error_clear(mn_error *err)
{
    if (!err)
        return;
    err->code = MN_OK;
    err->os_error = 0;
    err->sqlite_error = 0;
    err->message[0] = '\0';
}
