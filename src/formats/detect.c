/* Names of formats and element types, and how a file's format is recognised: by its extension,
 * else by its first bytes. Of the binary formats only npy and faiss have a mark that tells them. */
#include "src/formats/reader.h"
#include "storage/base/error.h"

#include <string.h>
#include <strings.h>

static const char *const names[FORMAT_COUNT] = {
#define X(name, word, extensions) [FORMAT_##name] = word,
    FORMAT_KINDS(X)
#undef X
};

static const char *const extension_lists[FORMAT_COUNT] = {
#define X(name, word, extensions) [FORMAT_##name] = extensions,
    FORMAT_KINDS(X)
#undef X
};

/* "fvecs, bvecs, ..." */
#define X(name, word, extensions) " " word
static const char all_names[] = FORMAT_KINDS(X);
#undef X

const char *format_name(enum format_kind kind)
{
    return kind > FORMAT_AUTO && kind < FORMAT_COUNT ? names[kind] : NULL;
}

const char *format_dtype_name(enum format_dtype dtype)
{
    static const char *const words[] = {"f32", "f16", "i8", "u8", "i32", "f64"};
    return dtype <= FORMAT_F64 ? words[dtype] : "unknown";
}

size_t format_dtype_bytes(enum format_dtype dtype)
{
    static const size_t sizes[] = {4, 2, 1, 1, 4, 8};
    return dtype <= FORMAT_F64 ? sizes[dtype] : 0;
}

/* True if the list ".csv .tsv" holds the extension. */
static bool list_holds(const char *list, const char *extension)
{
    size_t len = strlen(extension);
    for (; *list; list += strcspn(list, " "), list += *list == ' ')
        if (strcspn(list, " ") == len && strncasecmp(list, extension, len) == 0)
            return true;
    return false;
}

enum format_kind format_by_extension(const char *path)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    for (int kind = FORMAT_AUTO + 1; dot && kind < FORMAT_COUNT; kind++)
        if (list_holds(extension_lists[kind], dot))
            return (enum format_kind)kind;
    return FORMAT_AUTO;
}

/* What begins with these bytes is no vector file, and what to do about it. */
static const struct {
    const char *magic, *what;
    size_t len;
} foreign[] = {
    {"\x1F\x8B", "is compressed by gzip; unpack it first: gunzip -c FILE", 2},
    {"\x28\xB5\x2F\xFD", "is compressed by zstd; unpack it first: zstd -dc FILE", 4},
    {"\xFD" "7zXZ", "is compressed by xz; unpack it first: xz -dc FILE", 5},
    {"BZh", "is compressed by bzip2; unpack it first: bunzip2 -c FILE", 3},
    {"PK\x03\x04", "is a zip archive (or .npz); unpack it first: unzip FILE", 4},
    {"SQLite format 3", "is an SQLite database, not a file of vectors", 16},
};

static mn_status check_foreign(struct source *src, mn_error *err)
{
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (source_avail(src) >= foreign[i].len &&
            memcmp(source_at(src), foreign[i].magic, foreign[i].len) == 0)
            return mn_fail(err, MN_INVALID, "%s: %s", src->name, foreign[i].what);
    return MN_OK;
}

/* An object: wink's by the members that begin it, else a line of JSON. */
static enum format_kind detect_object(const char *text, size_t len)
{
    static const char norm[] = "\"l2NormIndex\"", dims[] = "\"dimensions\"";
    return memmem(text, len, norm, sizeof norm - 1) && memmem(text, len, dims, sizeof dims - 1)
               ? FORMAT_WINK
               : FORMAT_JSONL;
}

/* A line of text: words apart by blanks and then numbers, or fields apart by commas. */
static enum format_kind detect_line(const char *text, size_t len)
{
    const char *lf = memchr(text, '\n', len), *end = lf ? lf : text + len;
    if (memchr(text, ',', (size_t)(end - text)))
        return FORMAT_CSV;
    const char *blank = memchr(text, ' ', (size_t)(end - text));
    if (!blank)
        blank = memchr(text, '\t', (size_t)(end - text));
    struct number number;
    while (blank && blank < end && (*blank == ' ' || *blank == '\t'))
        blank++;
    return blank && number_scan(blank, end, true, &number) ? FORMAT_TEXT : FORMAT_AUTO;
}

enum { DETECT_BYTES = 4096 };

mn_status detect_format(struct source *src, enum format_kind *out, mn_error *err)
{
    mn_status st = source_fill(src, src->limit < DETECT_BYTES ? src->limit : DETECT_BYTES, err);
    if (st != MN_OK)
        return st;
    *out = format_by_extension(src->name);
    if (*out == FORMAT_AUTO || *out >= FORMAT_JSONL) /* a binary file may begin like anything */
        st = check_foreign(src, err);
    if (st != MN_OK || *out != FORMAT_AUTO)
        return st;
    const char *text = source_at(src);
    size_t len = source_avail(src) < DETECT_BYTES ? source_avail(src) : DETECT_BYTES;
    if (len >= 6 && memcmp(text, "\x93NUMPY", 6) == 0) {
        *out = FORMAT_NPY;
        return MN_OK;
    }
    if (faiss_looks_like(text, len)) {
        *out = FORMAT_FAISS;
        return MN_OK;
    }
    if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
        text += 3, len -= 3;
    while (len > 0 && (*text == ' ' || *text == '\t' || *text == '\r' || *text == '\n'))
        text++, len--;
    if (len > 0 && *text == '{')
        *out = detect_object(text, len);
    else if (len > 0 && !memchr(text, '\0', len))
        *out = detect_line(text, len);
    if (*out == FORMAT_AUTO)
        st = mn_fail(err, MN_INVALID, "%s: its format is told neither by its extension nor by its "
                     "first bytes; name it, one of:%s", src->name, all_names);
    return st;
}
