/* fbin, u8bin and i8bin: the same bytes as each of them. */
#include "tests/fuzz/fuzz_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(data, size, FORMAT_FBIN);
    fuzz_format(data, size, FORMAT_U8BIN);
    fuzz_format(data, size, FORMAT_I8BIN);
    return 0;
}
