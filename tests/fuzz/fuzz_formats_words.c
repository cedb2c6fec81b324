/* Reads any bytes as word vectors as text. */
#include "tests/fuzz/fuzz_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(data, size, FORMAT_TEXT);
    return 0;
}
