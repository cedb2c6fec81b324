/* fvecs, bvecs and ivecs: the same bytes as each of them. */
#include "tests/fuzz/fuzz_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(data, size, FORMAT_FVECS);
    fuzz_format(data, size, FORMAT_BVECS);
    fuzz_format(data, size, FORMAT_IVECS);
    return 0;
}
