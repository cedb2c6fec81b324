#include "src/formats/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool continues(const char *p)
{
    return ((unsigned char)*p & 0xC0) == 0x80;
}

size_t utf8_char(const char *p, const char *end)
{
    const unsigned char *u = (const unsigned char *)p;
    size_t n = (size_t)(end - p);
    if (n == 0 || (u[0] >= 0x80 && u[0] < 0xC2) || u[0] > 0xF4)
        return 0;
    if (u[0] < 0x80)
        return 1;
    if (n < 2 || !continues(p + 1))
        return 0;
    if (u[0] < 0xE0)
        return 2;
    if (n < 3 || !continues(p + 2))
        return 0;
    if (u[0] < 0xF0) {
        bool overlong = u[0] == 0xE0 && u[1] < 0xA0, surrogate = u[0] == 0xED && u[1] >= 0xA0;
        return overlong || surrogate ? 0 : 3;
    }
    if (n < 4 || !continues(p + 3) || (u[0] == 0xF0 && u[1] < 0x90) ||
        (u[0] == 0xF4 && u[1] >= 0x90))
        return 0;
    return 4;
}

size_t utf8_valid_len(const char *p, size_t len)
{
    const char *end = p + len, *at = p;
    while (at < end) {
        size_t n = (unsigned char)*at < 0x80 ? 1 : utf8_char(at, end);
        if (n == 0)
            break;
        at += n;
    }
    return (size_t)(at - p);
}

size_t utf8_put(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 63));
        out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 63));
    out[2] = (char)(0x80 | (code >> 6 & 63));
    out[3] = (char)(0x80 | (code & 63));
    return 4;
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool base64_decode(const char *in, size_t len, void *out, size_t *out_len)
{
    *out_len = 0;
    if (len % 4 != 0)
        return false;
    size_t padding = len == 0 ? 0 : in[len - 1] != '=' ? 0 : in[len - 2] != '=' ? 1 : 2;
    for (size_t i = 0; i < len - padding; i++)
        if (base64_value(in[i]) < 0)
            return false;
    unsigned char *to = out;
    for (size_t i = 0; i < len; i += 4) {
        size_t given = i + 4 == len ? 4 - padding : 4;
        uint32_t bits = 0;
        for (size_t j = 0; j < 4; j++) {
            uint32_t v = j < given ? (uint32_t)base64_value(in[i + j]) : 0;
            bits = bits << 6 | v;
        }
        for (size_t j = 0; j + 1 < given; j++)
            *to++ = (unsigned char)(bits >> (16 - 8 * j));
    }
    *out_len = len / 4 * 3 - padding;
    return true;
}

void base64_encode(const void *in, size_t len, char *out)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *from = in;
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)from[i] << 16;
        if (n > 1)
            bits |= (uint32_t)from[i + 1] << 8;
        if (n > 2)
            bits |= from[i + 2];
        for (size_t j = 0; j < 4; j++)
            *out++ = j <= n ? alphabet[bits >> (18 - 6 * j) & 63] : '=';
    }
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool hex_decode(const char *in, size_t len, void *out)
{
    unsigned char *to = out;
    if (len % 2 != 0)
        return false;
    for (size_t i = 0; i < len; i += 2) {
        int high = hex_value(in[i]), low = hex_value(in[i + 1]);
        if (high < 0 || low < 0)
            return false;
        *to++ = (unsigned char)(high << 4 | low);
    }
    return true;
}

const char *text_commas(char text[27], uint64_t n)
{
    char digits[21];
    int len = snprintf(digits, sizeof digits, "%" PRIu64, n);
    char *to = text;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    *to = '\0';
    return text;
}
