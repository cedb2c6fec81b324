/* Files of ids: by their first byte as ivecs, else as npy or lines, as their content tells. */
#include "src/formats/reader.h"
#include "tests/fuzz/fuzz_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct format_opts opts = {.buffer = data[0] & 2 ? 16 : 0};
    struct ids *ids;
    mn_error err = {0};
    struct mn_alloc *alloc = mn_alloc_create(NULL, UINT64_MAX);
    if (!alloc)
        return 0;
    const char *name = data[0] & 1 ? "input.ivecs" : "input";
    mn_status st = ids_open_memory(data + 1, size - 1, name, &opts, alloc, &ids, &err);
    enum format_id_kind kind = FORMAT_ID_TEXT;
    while (st == MN_OK && kind != FORMAT_ID_NONE) {
        int64_t id;
        char *text;
        size_t len;
        st = ids_next(ids, &kind, &id, &text, &len, &err);
        if (st == MN_OK && kind == FORMAT_ID_TEXT)
            fuzz_touch(text, len);
    }
    FUZZ_ENSURE(st == MN_OK || (st == MN_INVALID && err.message[0]));
    ids_close(ids);
    mn_alloc_destroy(alloc);
    return 0;
}
