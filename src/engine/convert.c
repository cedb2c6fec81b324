/* Vectors from f32 to a collection's dtype. */
#include <math.h>

#include "src/engine/engine.h"

static mn_status to_i8(uint32_t dim, const float *from, int8_t *to, const char *what, mn_error *err)
{
    for (uint32_t i = 0; i < dim; i++) {
        float r = rintf(from[i]);
        if (!(r >= -128 && r <= 127))
            return mn_fail(err, MN_INVALID,
                           "%s: element %u is %g; i8 holds -128 to 127: scale the vector", what, i,
                           (double)from[i]);
        to[i] = (int8_t)r;
    }
    return MN_OK;
}

/* What is finite in f32 and infinite in f16 would be a silent change: it is refused. */
static mn_status to_f16(const struct kernels *kn, uint32_t dim, const float *from, uint16_t *to,
                        const char *what, mn_error *err)
{
    kn->f32_to_f16(from, dim, to);
    for (uint32_t i = 0; i < dim; i++)
        if ((to[i] & 0x7c00) == 0x7c00)
            return mn_fail(err, MN_INVALID,
                           "%s: element %u is %g, beyond f16's 65,504: scale the vector", what, i,
                           (double)from[i]);
    return MN_OK;
}

mn_status convert_f32(const struct kernels *kn, mn_dtype dtype, uint32_t dim, const float *from,
                      void *to, const char *what, mn_error *err)
{
    switch (dtype) {
    case MN_F32:
        for (uint32_t i = 0; i < dim; i++)
            ((float *)to)[i] = from[i];
        return MN_OK;
    case MN_F16:
        return to_f16(kn, dim, from, to, what, err);
    case MN_BF16:
        kn->f32_to_bf16(from, dim, to);
        return MN_OK;
    case MN_I8:
        return to_i8(dim, from, to, what, err);
    default:
        return mn_fail(err, MN_INVALID, "%s: bit vectors are not made from f32", what);
    }
}
