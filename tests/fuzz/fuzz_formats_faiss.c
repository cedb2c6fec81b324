/* Heads of flat indexes of FAISS. The right ones go on to FAISS itself, where its plugin is. */
#include "tests/fuzz/fuzz_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_format(data, size, FORMAT_FAISS);
    return 0;
}
