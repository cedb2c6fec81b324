/* Reads any bytes as CSV. */
#include "tests/fuzz/fuzz_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(data, size, FORMAT_CSV);
    return 0;
}
