/* Reading: digits are gathered as a 64-bit integer. If it is below 2^53 and the power of ten is
 * exact in a double (up to 10^22), one division or multiplication rounds correctly to double
 * (Clinger 1990). From there to float the only danger is a double exactly between two floats, where
 * the digits that the double lost decide: those few, and all longer numbers, go to strtof_l.
 *
 * Writing: the fewest decimals k for which round(x * 10^k) / 10^k reads back as x; else %.9g. */
#include "storage/base/number.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
enum { MAX_POWER = 22 };

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Gathers digits; leading zeros don't count towards the 19 that a uint64_t holds. */
static const char *scan_digits(const char *p, const char *end, struct number *n, int *count)
{
    for (; p < end && is_digit(*p); p++) {
        if (*count > 0 || *p != '0')
            ++*count;
        if (*count <= 19)
            n->digits = n->digits * 10 + (uint64_t)(*p - '0');
    }
    return p;
}

static const char *scan_exponent(const char *p, const char *end, struct number *n)
{
    const char *e = p + 1;
    bool minus = e < end && *e == '-';
    if (e < end && (*e == '-' || *e == '+'))
        e++;
    if (e >= end || !is_digit(*e))
        return NULL;
    int value = 0;
    for (; e < end && is_digit(*e); e++)
        value = value < 100000 ? value * 10 + (*e - '0') : value;
    n->exponent += minus ? -value : value;
    n->integer = false;
    return e;
}

const char *number_scan(const char *p, const char *end, bool lax, struct number *out)
{
    *out = (struct number){.text = p, .integer = true};
    if (p < end && (*p == '-' || (lax && *p == '+')))
        out->negative = *p++ == '-';
    int count = 0;
    const char *first = p;
    p = scan_digits(p, end, out, &count);
    size_t whole = (size_t)(p - first), fraction = 0;
    if (!lax && (whole == 0 || (whole > 1 && *first == '0')))
        return NULL;
    if (p < end && *p == '.') {
        const char *point = ++p;
        p = scan_digits(p, end, out, &count);
        fraction = (size_t)(p - point);
        if (fraction == 0 && !lax)
            return NULL;
        out->integer = false;
    }
    if (whole + fraction == 0 || fraction > NUMBER_MAX_CHARS)
        return NULL;
    out->exponent = -(int)fraction;
    if (p < end && (*p == 'e' || *p == 'E'))
        p = scan_exponent(p, end, out);
    if (!p || p - out->text > NUMBER_MAX_CHARS)
        return NULL;
    out->len = (size_t)(p - out->text);
    out->exact = count <= 19;
    return p;
}

/* True and the correctly rounded double if the short way serves. */
static bool quick_f64(const struct number *n, double *out)
{
    if (!n->exact || n->digits >= (UINT64_C(1) << 53) || n->exponent < -MAX_POWER ||
        n->exponent > MAX_POWER)
        return false;
    double d = (double)n->digits;
    d = n->exponent < 0 ? d / powers[-n->exponent] : d * powers[n->exponent];
    *out = n->negative ? -d : d;
    return true;
}

/* Rounding d to float cannot differ from rounding the number that d came from. */
static bool safe_to_round(double d)
{
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    double a = fabs(d);
    return (bits & 0x1FFFFFFF) != 0x10000000 && (a == 0 || (a > 2 * FLT_MIN && a < FLT_MAX / 2));
}

/* The C locale is a constant of the C library: newlocale neither allocates nor fails for it. */
static locale_t c_locale(void)
{
    return newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

bool number_f64(const struct number *n, double *out)
{
    if (quick_f64(n, out))
        return true;
    char text[NUMBER_MAX_CHARS + 1];
    memcpy(text, n->text, n->len);
    text[n->len] = '\0';
    *out = strtod_l(text, NULL, c_locale());
    return isfinite(*out);
}

bool number_f32(const struct number *n, float *out)
{
    double d;
    if (quick_f64(n, &d) && safe_to_round(d)) {
        *out = (float)d;
        return true;
    }
    char text[NUMBER_MAX_CHARS + 1];
    memcpy(text, n->text, n->len);
    text[n->len] = '\0';
    *out = strtof_l(text, NULL, c_locale());
    return isfinite(*out);
}

bool number_i64(const struct number *n, int64_t *out)
{
    uint64_t most = n->negative ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX;
    if (!n->integer || !n->exact || n->digits > most)
        return false;
    *out = n->negative ? (int64_t)(0 - n->digits) : (int64_t)n->digits;
    return true;
}

size_t number_put_i64(char out[NUMBER_TEXT], int64_t value)
{
    return (size_t)snprintf(out, NUMBER_TEXT, "%lld", (long long)value);
}

/* Writes digits / 10^decimals. */
static size_t put_fixed(char out[NUMBER_TEXT], bool negative, uint64_t digits, int decimals)
{
    char back[24];
    int n = 0;
    do {
        back[n++] = (char)('0' + digits % 10);
        digits /= 10;
    } while (digits > 0 || n <= decimals);
    char *to = out;
    if (negative)
        *to++ = '-';
    for (int i = n - 1; i >= 0; i--) {
        *to++ = back[i];
        if (i == decimals && i > 0)
            *to++ = '.';
    }
    *to = '\0';
    return (size_t)(to - out);
}

/* snprintf in the C locale, whatever the program has set. */
static size_t put_general(char out[NUMBER_TEXT], int digits, double value)
{
    locale_t old = uselocale(c_locale());
    int n = snprintf(out, NUMBER_TEXT, "%.*g", digits, value);
    uselocale(old);
    return (size_t)n;
}

size_t number_put_f32(char out[NUMBER_TEXT], float value)
{
    double a = fabs((double)value);
    if (a == 0)
        return (size_t)snprintf(out, NUMBER_TEXT, "%s", signbit(value) ? "-0.0" : "0");
    for (int k = 0; a >= 1e-4 && a < 1e9 && k <= 14; k++) {
        double digits = rint(a * powers[k]);
        if (digits >= 1e15)
            break;
        double back = digits / powers[k];
        if ((float)back == (float)a && safe_to_round(back))
            return put_fixed(out, value < 0, (uint64_t)digits, k);
    }
    size_t n = 0;
    for (int digits = 6; digits <= 9; digits++) {
        n = put_general(out, digits, (double)value);
        struct number number;
        float back;
        if (number_scan(out, out + n, false, &number) && number_f32(&number, &back) &&
            back == value)
            break;
    }
    return n;
}

size_t number_put_f64(char out[NUMBER_TEXT], double value)
{
    size_t n = 0;
    for (int digits = 15; digits <= 17; digits++) {
        n = put_general(out, digits, value);
        if (strtod_l(out, NULL, c_locale()) == value)
            break;
    }
    if (!memchr(out, '.', n) && !memchr(out, 'e', n)) {
        memcpy(out + n, ".0", 3);
        n += 2;
    }
    return n;
}

float number_from_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31,
             mantissa = half & 1023, bits;
    if (exponent == 0) {
        float tiny = (float)mantissa * 0x1p-24f; /* subnormal or zero: exact in a float */
        memcpy(&bits, &tiny, sizeof bits);
        bits |= sign;
    } else if (exponent == 31) {
        bits = sign | 0x7F800000 | mantissa << 13;
    } else {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    }
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t number_to_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7FFFFFFF;
    if (bits >= 0x47800000) /* 65,536 and above, infinities, NaN */
        return (uint16_t)(sign | (bits > 0x7F800000 ? 0x7E00 : 0x7C00));
    if (bits < 0x38800000) { /* below 2^-14: a multiple of 2^-24 */
        float a;
        memcpy(&a, &bits, sizeof a);
        return (uint16_t)(sign | (uint16_t)lrintf(a * 0x1p24f));
    }
    uint32_t rounded = bits + 0xFFF + (bits >> 13 & 1); /* ties to even; may reach infinity */
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}
