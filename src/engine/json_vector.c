#include "src/engine/json_vector.h"

#include <string.h>

#include "src/engine/engine.h"
#include "storage/base/number.h"

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

/* The numbers of an array, which must be dim. */
static bool read_array(const char *p, const char *end, uint32_t dim, float *out)
{
    struct number number;
    p = skip_blanks(p, end);
    if (p == end || *p != '[')
        return false;
    for (uint32_t i = 0; i < dim; i++) {
        p = number_scan(skip_blanks(p + 1, end), end, false, &number);
        if (!p || !number_f32(&number, &out[i]))
            return false;
        p = skip_blanks(p, end);
        if (p == end || *p != (i + 1 < dim ? ',' : ']'))
            return false;
    }
    return skip_blanks(p + 1, end) == end;
}

static bool to_bits(const float *from, uint32_t dim, unsigned char *to)
{
    memset(to, 0, dim / 8);
    for (uint32_t i = 0; i < dim; i++) {
        if (from[i] != 0 && from[i] != 1)
            return false;
        to[i / 8] = (unsigned char)(to[i / 8] | (from[i] != 0) << i % 8);
    }
    return true;
}

bool json_vector(const struct kernels *kn, mn_dtype dtype, uint32_t dim, const char *text, size_t n,
                 float *wide, void *to)
{
    if (!read_array(text, text + n, dim, wide))
        return false;
    if (dtype == MN_BIT)
        return to_bits(wide, dim, to);
    return convert_f32(kn, dtype, dim, wide, to, "", NULL) == MN_OK;
}
