#include "storage/base/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static bool continues(const unsigned char *p, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return false;
    return true;
}

/* Length of the sequence at p of which `left` bytes are there, 0 if it is none (RFC 3629). */
static size_t sequence(const unsigned char *p, size_t left)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3
             : p[0] < 0xf5 ? 4 : 0;
    if (n < 2)
        return n;
    if (n > left || !continues(p, n))
        return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

size_t utf8_check(const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        if (n - i >= sizeof word) {
            memcpy(&word, p + i, sizeof word);
            if (!(word & 0x8080808080808080u)) { /* eight ASCII bytes */
                i += sizeof word;
                continue;
            }
        }
        size_t len = sequence(p + i, n - i);
        if (len == 0)
            return i;
        i += len;
    }
    return n;
}
