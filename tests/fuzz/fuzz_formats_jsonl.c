/* Reads any bytes as JSON lines. */
#include "tests/fuzz/fuzz_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(data, size, FORMAT_JSONL);
    return 0;
}
