/* Whatever the bytes look like: the format is recognised by content. Then the same through other
 * columns, as an importer's options may name them. */
#include "tests/fuzz/fuzz_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_read(data, size, &(struct format_opts){0});
    fuzz_read(data, size, &(struct format_opts){.vector_column = "v", .id_column = "key",
                                                .payload_column = "about", .separator = ';',
                                                .ids = FORMAT_IDS_INTEGER});
    return 0;
}
