#include "src/shell/units.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *word;
    double factor;
};

/* A bare letter counts in 1,024s, as in SQLite and dd; MB and MiB say which they mean. */
static const struct unit size_units[] = {
    {"", 1},
    {"b", 1},
    {"k", 1024.0},
    {"kb", 1e3},
    {"kib", 1024.0},
    {"m", 1048576.0},
    {"mb", 1e6},
    {"mib", 1048576.0},
    {"g", 1073741824.0},
    {"gb", 1e9},
    {"gib", 1073741824.0},
    {"t", 1099511627776.0},
    {"tb", 1e12},
    {"tib", 1099511627776.0},
    {NULL, 0},
};

static const struct unit time_units[] = {
    {"us", 1},   {"ms", 1e3},   {"s", 1e6},    {"sec", 1e6},
    {"m", 60e6}, {"min", 60e6}, {"h", 3600e6}, {NULL, 0},
};

/* A number that is not negative, blanks, then one of the units. The product must fit 63 bits. */
static bool quantity_parse(const char *text, const struct unit *units, uint64_t *out)
{
    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return false;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
        return false;
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    if (end == text || errno || !isfinite(number) || number < 0)
        return false;
    while (*end == ' ')
        end++;
    for (const struct unit *u = units; u->word; u++) {
        if (strcasecmp(end, u->word) != 0)
            continue;
        double value = number * u->factor;
        if (value >= 9.2e18)
            return false;
        *out = (uint64_t)(value + 0.5);
        return true;
    }
    return false;
}

bool size_parse(const char *text, uint64_t *bytes)
{
    return quantity_parse(text, size_units, bytes);
}

bool time_parse(const char *text, uint64_t *us)
{
    return quantity_parse(text, time_units, us);
}

bool count_parse(const char *text, uint64_t *out)
{
    uint64_t value = 0;
    bool digit = false;
    for (const char *p = text; *p; p++) {
        if ((*p == ',' || *p == '_') && digit && isdigit((unsigned char)p[1]))
            continue;
        if (!isdigit((unsigned char)*p))
            return false;
        digit = true;
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            return false;
    }
    *out = value;
    return digit;
}

bool integer_parse(const char *text, int64_t *out)
{
    bool negative = text[0] == '-';
    uint64_t magnitude;
    if (!count_parse(text + (negative || text[0] == '+'), &magnitude))
        return false;
    if (negative) {
        if (magnitude > (uint64_t)INT64_MAX + 1)
            return false;
        *out = (int64_t)(0 - magnitude);
        return true;
    }
    if (magnitude > INT64_MAX)
        return false;
    *out = (int64_t)magnitude;
    return true;
}

bool real_parse(const char *text, double *out)
{
    char *end;
    if (!*text || isspace((unsigned char)*text))
        return false;
    errno = 0;
    *out = strtod(text, &end);
    return !*end && isfinite(*out);
}

char *size_format(char *out, uint64_t bytes)
{
    static const char *const words[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof words / sizeof *words) {
        value /= 1024;
        unit++;
    }
    if (unit == 0)
        snprintf(out, UNITS_TEXT, "%" PRIu64 " bytes", bytes);
    else
        snprintf(out, UNITS_TEXT, value < 99.95 ? "%.1f %s" : "%.0f %s", value, words[unit]);
    return out;
}

char *count_format(char *out, uint64_t n)
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%" PRIu64, n);
    char *to = out;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    *to = 0;
    return out;
}

char *duration_format(char *out, double seconds)
{
    if (!(seconds >= 0))
        seconds = 0;
    if (seconds < 1e-3)
        snprintf(out, UNITS_TEXT, "%.0f us", seconds * 1e6);
    else if (seconds < 0.01)
        snprintf(out, UNITS_TEXT, "%.1f ms", seconds * 1e3);
    else if (seconds < 0.9995)
        snprintf(out, UNITS_TEXT, "%.0f ms", seconds * 1e3);
    else if (seconds < 59.95)
        snprintf(out, UNITS_TEXT, "%.1f s", seconds);
    else if (seconds < 3600) {
        long whole = lround(seconds);
        snprintf(out, UNITS_TEXT, "%ld m %02ld s", whole / 60, whole % 60);
    } else {
        long minutes = lround(fmin(seconds, 1e9) / 60);
        snprintf(out, UNITS_TEXT, "%ld h %02ld m", minutes / 60, minutes % 60);
    }
    return out;
}
