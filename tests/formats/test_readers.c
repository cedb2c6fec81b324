/* Each format: what good files read as, and what is said about damaged ones and where. Every row is
 * read with a large buffer and with one of 16 bytes, and must come out the same. */
#include "storage/base/alloc.h"
#include "tests/formats/dump.h"

#include <sys/stat.h>
#include <unistd.h>

struct row {
    const char *label, *name; /* name: the file's, which tells the format */
    const char *data;
    size_t len;
    const char *want; /* the dump of all records, or of those before the damage */
    const char *says; /* NULL: no damage */
    struct format_opts opts;
};

static void check_row(const struct row *row, size_t buffer)
{
    static struct dump d;
    struct format_opts opts = row->opts;
    opts.buffer = buffer;
    dump_memory(&d, row->data, row->len, row->name, &opts);
    if (!row->says)
        CHECKF(d.status == MN_OK, "%s (buffer %zu): %s", row->label, buffer, d.err.message);
    else
        CHECKF(d.status == MN_INVALID && strstr(d.err.message, row->says) &&
                   strncmp(d.err.message, row->name, strlen(row->name)) == 0,
               "%s (buffer %zu): status %d, \"%s\" lacks \"%s\"", row->label, buffer, d.status,
               d.err.message, row->says);
    CHECKF(strcmp(d.text, row->want) == 0, "%s (buffer %zu): read\n%s\nnot\n%s", row->label, buffer,
           d.text, row->want);
}

static void check_rows(const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        check_row(&rows[i], 0);
        check_row(&rows[i], 16);
    }
}
#define CHECK_ROWS(rows) check_rows(rows, sizeof(rows) / sizeof *(rows))

TEST(vecs_are_read_and_their_damage_told_by_record_and_byte)
{
    static const struct row rows[] = {
        {"fvecs", "a.fvecs", BYTES(I32("\2") F_1 F_2 I32("\2") F_HALF F_MINUS_1),
         "- [1 2]\n- [0.5 -1]", NULL, {0}},
        {"bvecs as f32", "a.bvecs", BYTES(I32("\3") "\0\x7F\xFF"), "- [0 127 255]", NULL, {0}},
        {"bvecs as u8", "a.bvecs", BYTES(I32("\2") "\0\xFF"), "- [0 255]u8", NULL,
         {.native = true}},
        {"ivecs as f32", "a.ivecs", BYTES(I32("\2") I32("\5") "\xFF\xFF\xFF\xFF"), "- [5 -1]",
         NULL, {0}},
        {"ivecs as i32", "a.ivecs", BYTES(I32("\1") "\x01\0\0\x01"), "- [16777217]i32", NULL,
         {.native = true}},
        {"upper case extension", "A.FVECS", BYTES(I32("\1") F_1), "- [1]", NULL, {0}},
        {"format given", "x.dat", BYTES(I32("\1") F_1), "- [1]", NULL, {.format = FORMAT_FVECS}},
        {"empty", "a.fvecs", BYTES(""), "", "is empty, 0 bytes", {0}},
        {"cut in the first dimension", "a.fvecs", BYTES("\2\0"), "",
         "record 1 at byte 0: the file ends inside the 4 bytes of its dimension", {0}},
        {"cut in a vector", "a.fvecs", BYTES(I32("\2") F_1 F_2 I32("\2") F_1 "\0"), "- [1 2]",
         "record 2 at byte 12: 3 bytes missing, dimension says 8", {0}},
        {"cut in a dimension", "a.fvecs", BYTES(I32("\1") F_1 "\1"), "- [1]",
         "record 2 at byte 8: the file ends inside the 4 bytes of its dimension: 3 missing", {0}},
        {"dimension changes", "a.fvecs", BYTES(I32("\1") F_1 I32("\2") F_1 F_1), "- [1]",
         "record 2 at byte 8: its dimension is 2, that of the records before is 1", {0}},
        {"dimension turns negative", "a.fvecs", BYTES(I32("\1") F_1 "\xFF\xFF\xFF\xFF" F_1),
         "- [1]", "its dimension is -1, that of the records before is 1", {0}},
        {"absurd dimension", "a.fvecs", BYTES("\1\0\0\x40" F_1), "",
         "dimension 1,073,741,825, which is not within 1 .. 16,384", {0}},
        {"negative dimension", "a.fvecs", BYTES("\xFE\xFF\xFF\xFF" F_1), "",
         "the dimension is negative, -2", {0}},
        {"dimension zero", "a.fvecs", BYTES(I32("\0")), "", "has dimension 0", {0}},
        {"NaN", "a.fvecs", BYTES(I32("\2") F_1 F_NAN), "",
         "record 1 at byte 0: element 1 (counted from 0) is NaN", {0}},
        {"infinity", "a.fvecs", BYTES(I32("\1") F_1 I32("\1") F_INF), "- [1]",
         "record 2 at byte 8: element 0 (counted from 0) is infinite", {0}},
        {"ivecs too large for f32", "a.ivecs", BYTES(I32("\1") "\x01\0\0\x01"), "", "beyond 2^24",
         {0}},
        {"other dimension asked for", "a.fvecs", BYTES(I32("\1") F_1), "",
         "has dimension 1, 3 is expected", {.dim = 3}},
        {"the dimension asked for", "a.fvecs", BYTES(I32("\1") F_1), "- [1]", NULL, {.dim = 1}},
    };
    CHECK_ROWS(rows);
}

TEST(bin_headers_are_compared_with_the_size)
{
    static const struct row rows[] = {
        {"fbin", "a.fbin", BYTES(I32("\2") I32("\1") F_1 F_2), "- [1]\n- [2]", NULL, {0}},
        {"u8bin", "a.u8bin", BYTES(I32("\1") I32("\2") "\x80\xFF"), "- [128 255]", NULL, {0}},
        {"u8bin as u8", "a.u8bin", BYTES(I32("\1") I32("\2") "\x80\xFF"), "- [128 255]u8", NULL,
         {.native = true}},
        {"i8bin", "a.i8bin", BYTES(I32("\1") I32("\2") "\x80\x7F"), "- [-128 127]", NULL, {0}},
        {"i8bin as i8", "a.i8bin", BYTES(I32("\1") I32("\2") "\x80\x7F"), "- [-128 127]i8", NULL,
         {.native = true}},
        {"no vectors", "a.fbin", BYTES(I32("\0") I32("\4")), "", NULL, {0}},
        {"n that looks like gzip", "a.u8bin", BYTES("\x1F\x8B\x08\0" I32("\1") "\1"), "",
         "the header says 559,903 vectors of 1 u8 elements, which is 559,911 bytes in all; the "
         "file has 9: 559,902 are missing", {0}},
        {"header cut", "a.fbin", BYTES(I32("\2") "\1"), "",
         "the file ends inside its header, after 5 of 8 bytes", {0}},
        {"too few", "a.fbin", BYTES(I32("\3") I32("\1") F_1 F_2), "",
         "20 bytes in all; the file has 16: 4 are missing", {0}},
        {"too many", "a.fbin", BYTES(I32("\1") I32("\1") F_1 F_2), "",
         "the file has 16: 4 too many", {0}},
        {"too few, partly", "a.fbin", BYTES(I32("\3") I32("\1") F_1 F_2 "\0"), "- [1]\n- [2]",
         "record 3 at byte 16: 3 bytes missing: the header says 3 vectors of 4 bytes",
         {.partial = true}},
        {"too many, partly", "a.fbin", BYTES(I32("\1") I32("\1") F_1 F_2), "- [1]",
         "bytes follow the last of 1 vectors, at byte 12", {.partial = true}},
        {"dimension zero", "a.fbin", BYTES(I32("\1") I32("\0")), "", "has dimension 0", {0}},
        {"absurd dimension", "a.fbin", BYTES(I32("\1") "\xFF\xFF\xFF\xFF"), "",
         "has dimension 4,294,967,295, which is not within", {0}},
        {"absurd both", "a.fbin", BYTES("\xFF\xFF\xFF\xFF\0\x40\0\0"), "",
         "281,474,976,645,128 bytes in all; the file has 8", {0}},
        {"NaN", "a.fbin", BYTES(I32("\1") I32("\1") F_NAN), "", "record 1 at byte 8: element 0",
         {0}},
    };
    CHECK_ROWS(rows);
}

/* An npy file of version `major` with this dict and data; returns its length. */
static size_t make_npy(char *out, int major, const char *dict, const char *data, size_t len)
{
    size_t fixed = major == 1 ? 10 : 12, total = (fixed + strlen(dict) + 1 + 63) / 64 * 64;
    memset(out, ' ', total);
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (char)major;
    memset(out + 7, 0, fixed - 7);
    out[8] = (char)((total - fixed) & 255);
    out[9] = (char)((total - fixed) >> 8);
    memcpy(out + fixed, dict, strlen(dict));
    out[total - 1] = '\n';
    memcpy(out + total, data, len);
    return total + len;
}

TEST(npy_is_read_and_what_numpy_must_do_instead_is_said)
{
    static const struct {
        const char *label;
        int major;
        const char *dict, *data;
        size_t len;
        const char *want, *says;
        struct format_opts opts;
    } cases[] = {
        {"f4", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }", BYTES(F_1 F_2),
         "- [1]\n- [2]", NULL, {0}},
        {"version 2, other order and quotes", 2,
         "{\"shape\":(1,2),\"fortran_order\":False,\"descr\":\"<f4\"}", BYTES(F_1 F_2), "- [1 2]",
         NULL, {0}},
        {"version 3", 3, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }", BYTES(F_1),
         "- [1]", NULL, {0}},
        {"f2", 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 3), }",
         BYTES("\0\x3C\xFF\x7B\1\0"), "- [1 65504 5.96046448e-08]", NULL, {0}},
        {"f2 as f16", 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1), }",
         BYTES("\0\x3C"), "- [15360]f16", NULL, {.native = true}},
        {"f8 becomes f32", 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }",
         BYTES("\0\0\0\0\0\0\xE0\x3F"), "- [0.5]", NULL, {.native = true}},
        {"i1", 1, "{'descr': '|i1', 'fortran_order': False, 'shape': (1, 2), }", BYTES("\xFF\x05"),
         "- [-1 5]", NULL, {0}},
        {"u1", 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2), }", BYTES("\xFF\x05"),
         "- [255 5]u8", NULL, {.native = true}},
        {"one axis is one vector", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
         BYTES(F_1 F_2), "- [1 2]", NULL, {0}},
        {"no rows", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 7), }", BYTES(""), "",
         NULL, {0}},
        {"Fortran order", 1, "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }",
         BYTES(F_1), "", "Fortran order, column by column; np.save(f, np.ascontiguousarray(a))",
         {0}},
        {"big-endian", 1, "{'descr': '>f4', 'fortran_order': False, 'shape': (1, 1), }", BYTES(F_1),
         "", "big-endian elements, '>f4', are not read", {0}},
        {"objects", 1, "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }", BYTES(F_1), "",
         "an array of Python objects is not read", {0}},
        {"structured", 1,
         "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1, 1), }", BYTES(F_1), "",
         "structured arrays are not read", {0}},
        {"complex", 1, "{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1), }", BYTES(F_1),
         "", "elements of type '<c8' are not read", {0}},
        {"i8 is for ids", 1, "{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1), }",
         BYTES(F_1), "", "64-bit integers are ids, not vectors", {0}},
        {"three axes", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1), }",
         BYTES(F_1), "", "the array has 3 axes", {0}},
        {"negative axis", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 1), }",
         BYTES(F_1), "", "'shape' must hold numbers below 2^64", {0}},
        {"axis beyond 2^64", 1,
         "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 1), }",
         BYTES(F_1), "", "'shape' must hold numbers below 2^64", {0}},
        {"product beyond 2^64", 1,
         "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999, 9), }",
         BYTES(F_1), "", "more bytes than a file can have", {0}},
        {"key missing", 1, "{'descr': '<f4', 'shape': (1, 1), }", BYTES(F_1), "",
         "'fortran_order' is missing", {0}},
        {"key twice", 1, "{'descr': '<f4', 'descr': '<f4', }", BYTES(F_1), "", "each once", {0}},
        {"no dict", 1, "[1]", BYTES(F_1), "", "header at byte 10: a Python dict", {0}},
        {"unknown version", 9, "{}", BYTES(""), "", "npy version 9.0 at byte 6 is unknown", {0}},
        {"data cut", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }",
         BYTES(F_1 "\0"), "", "3 are missing", {0}},
        {"NaN in f2", 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1), }",
         BYTES("\1\x7C"), "", "element 0 (counted from 0) is NaN", {0}},
        {"f8 beyond f32", 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }",
         BYTES("\0\0\0\0\0\0\xE0\x7F"), "", "beyond the range of f32", {0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char data[512];
        size_t len = make_npy(data, cases[i].major, cases[i].dict, cases[i].data, cases[i].len);
        struct row row = {cases[i].label, "a.npy", data, len, cases[i].want, cases[i].says,
                          cases[i].opts};
        check_row(&row, 0);
        check_row(&row, 16);
    }
    static const struct row rows[] = {
        {"no npy", "a.npy", BYTES("hello, world"), "", "is no npy file", {0}},
        {"cut in the header", "a.npy", BYTES("\x93NUMPY\1\0\x70\0{'descr'"), "",
         "the file ends inside its header of 122 bytes, at byte 18", {0}},
        {"absurd header", "a.npy", BYTES("\x93NUMPY\2\0\0\0\0\x7F{'descr'"), "",
         "the header's length at byte 8 is 2,130,706,432", {0}},
    };
    CHECK_ROWS(rows);
}

TEST(json_lines_are_read_and_their_damage_told_by_line_and_column)
{
    static const struct row rows[] = {
        {"all members", "a.jsonl",
         BYTES("{\"id\":7,\"vector\":[1,-2.5e-1],\"text\":\"h\\u00e9\\n\",\"n\":null,\"i\":-3,"
               "\"r\":0.5,\"s\":\"x\",\"t\":true,\"o\":{\"a\":[1,{}]},\"big\":12345678901234567890}"
               "\n"),
         "7 [1 -0.25] <h\xC3\xA9\n> n=null i=-3 r=0.50000000000000000 s='x' t=1 "
         "o='{\"a\":[1,{}]}' big=1.2345678901234567e+19", NULL, {0}},
        {"embedding, text id, body, blanks, CRLF, BOM, no last line end", "a.ndjson",
         BYTES("\xEF\xBB\xBF{ \"id\" : \"a\" , \"embedding\" : [ 1 , 2 ] , \"body\" : null }\r\n\n"
               "  \n{\"embedding\":[3,4]}"),
         "'a' [1 2]\n- [3 4]", NULL, {0}},
        {"the first usual name counts", "a.jsonl",
         BYTES("{\"vector\":[1],\"embedding\":[2],\"text\":\"a\"}\n"
               "{\"payload\":\"b\",\"vector\":[2]}"),
         "- [1] <a> embedding='[2]'\n- [2] payload='b'", NULL, {0}},
        {"given columns", "a.jsonl", BYTES("{\"id\":1,\"key\":\"k\",\"v\":[1],\"about\":\"x\"}"),
         "'k' [1] <x> id=1", NULL,
         {.id_column = "key", .vector_column = "v", .payload_column = "about"}},
        {"base64", "a.jsonl", BYTES("{\"vector\":\"AACAPwAAAEA=\"}"), "- [1 2]", NULL, {0}},
        {"blob", "a.jsonl", BYTES("{\"vector\":[1],\"b\":{\"$blob\":\"AAEC\"}}"), "- [1] b=x000102",
         NULL, {0}},
        {"no blob after all", "a.jsonl", BYTES("{\"vector\":[1],\"b\":{\"$blob\":\"AA-C\"}}"),
         "- [1] b='{\"$blob\":\"AA-C\"}'", NULL, {0}},
        {"surrogate pair", "a.jsonl", BYTES("{\"vector\":[1],\"id\":\"\\ud83d\\ude00\"}"),
         "'\xF0\x9F\x98\x80' [1]", NULL, {0}},
        {"ids as text", "a.jsonl", BYTES("{\"vector\":[1],\"id\":-5}"), "'-5' [1]", NULL,
         {.ids = FORMAT_IDS_TEXT}},
        {"ids as integers", "a.jsonl", BYTES("{\"vector\":[1],\"id\":\"-5\"}"), "-5 [1]", NULL,
         {.ids = FORMAT_IDS_INTEGER}},
        {"empty", "a.jsonl", BYTES(""), "", "is empty", {0}},
        {"only blank lines", "a.jsonl", BYTES("\n \n"), "", "holds no record", {0}},
        {"no vector", "a.jsonl", BYTES("{\"id\":1}"), "",
         "line 1: there is neither 'vector' nor 'embedding'", {0}},
        {"no vector later", "a.jsonl", BYTES("{\"vector\":[1]}\n{\"embedding\":[1]}"), "- [1]",
         "line 2: there is no 'vector'", {0}},
        {"ragged", "a.jsonl", BYTES("{\"vector\":[1,2]}\n{\"vector\":[1]}"), "- [1 2]",
         "line 2: the vector has 1 elements, those before have 2", {0}},
        {"dimension asked for", "a.jsonl", BYTES("{\"vector\":[1]}"), "",
         "line 1 has dimension 1, 2 is expected", {.dim = 2}},
        {"empty vector", "a.jsonl", BYTES("{\"vector\":[]}"), "", "line 1 has dimension 0", {0}},
        {"name twice", "a.jsonl", BYTES("{\"vector\":[1],\"a\":1,\"a\":2}"), "",
         "line 1: 'a' stands twice in one record", {0}},
        {"vector twice", "a.jsonl", BYTES("{\"vector\":[1],\"vector\":[1]}"), "",
         "line 1, column 15: 'vector' stands twice", {0}},
        {"NaN", "a.jsonl", BYTES("{\"vector\":[1,NaN]}"), "",
         "line 1, column 14: NaN and Infinity are no JSON numbers", {0}},
        {"beyond f32", "a.jsonl", BYTES("{\"vector\":[1,1e39]}"), "",
         "line 1, column 14: a number is beyond the range of f32", {0}},
        {"beyond double", "a.jsonl", BYTES("{\"vector\":[1],\"a\":1e400}"), "",
         "line 1, column 19: a number is beyond the range of a double", {0}},
        {"NaN in base64", "a.jsonl", BYTES("{\"vector\":\"AADAfw==\"}"), "", "is NaN", {0}},
        {"cut", "a.jsonl", BYTES("{\"vector\":[1]}\n{\"vector\":[1,"), "- [1]",
         "line 2, column 14: a number is expected here", {0}},
        {"cut in a string", "a.jsonl", BYTES("{\"vector\":[1],\"a\":\"x"), "",
         "line 1, column 21: the text ends inside a string", {0}},
        {"cut behind a member", "a.jsonl", BYTES("{\"vector\":[1]"), "",
         "column 14: the text ends inside an object", {0}},
        {"trailing comma", "a.jsonl", BYTES("{\"vector\":[1,]}"), "",
         "column 14: a comma stands before a closing bracket", {0}},
        {"two objects on a line", "a.jsonl", BYTES("{\"vector\":[1]} {\"vector\":[1]}"), "",
         "column 16: something follows the object", {0}},
        {"no object", "a.jsonl", BYTES("[1,2]"), "", "line 1, column 1: an object, {...}", {0}},
        {"vector of text", "a.jsonl", BYTES("{\"vector\":[\"a\"]}"), "",
         "column 12: a number is expected", {0}},
        {"vector null", "a.jsonl", BYTES("{\"vector\":null}"), "",
         "column 11: 'vector' must be an array of numbers", {0}},
        {"id real", "a.jsonl", BYTES("{\"vector\":[1],\"id\":1.5}"), "",
         "'id' must be a 64-bit integer or a string", {0}},
        {"id too large", "a.jsonl", BYTES("{\"vector\":[1],\"id\":9223372036854775808}"), "",
         "'id' must be a 64-bit integer", {0}},
        {"id empty", "a.jsonl", BYTES("{\"vector\":[1],\"id\":\"\"}"), "",
         "line 1: the id is empty", {0}},
        {"id with NUL", "a.jsonl", BYTES("{\"vector\":[1],\"id\":\"a\\u0000\"}"), "",
         "holds a NUL byte", {0}},
        {"id no integer", "a.jsonl", BYTES("{\"vector\":[1],\"id\":\"x\"}"), "",
         "the id 'x' is no 64-bit integer", {.ids = FORMAT_IDS_INTEGER}},
        {"text no string", "a.jsonl", BYTES("{\"vector\":[1],\"text\":5}"), "",
         "column 22: 'text' must be a string", {0}},
        {"invalid UTF-8", "a.jsonl", BYTES("{\"vector\":[1],\"id\":\"a\xFF\"}"), "",
         "column 22: a string is not valid UTF-8", {0}},
        {"control character", "a.jsonl", BYTES("{\"vector\":[1],\"a\":\"\t\"}"), "",
         "a control character stands in a string", {0}},
        {"half a surrogate", "a.jsonl", BYTES("{\"vector\":[1],\"a\":\"\\ud800\"}"), "",
         "half of a surrogate pair", {0}},
        {"bad escape", "a.jsonl", BYTES("{\"vector\":[1],\"a\":\"\\x\"}"), "",
         "no escape that JSON knows", {0}},
        {"attribute without name", "a.jsonl", BYTES("{\"vector\":[1],\"\":1}"), "",
         "the attribute name '' must have 1 .. 127 bytes", {0}},
        {"leading zero", "a.jsonl", BYTES("{\"vector\":[01]}"), "", "column 12: a number", {0}},
        {"too long a line", "a.jsonl",
         BYTES("{\"vector\":[1]}\n{\"vector\":[1],\"text\":\"0123456789012345678901234\"}"),
         "- [1]",
         "line 2, from byte 15 on, is longer than 40 bytes", {.max_line = 40}},
        {"plain: members as they are", "a.jsonl",
         BYTES("{\"id\":1,\"vector\":[1,2],\"text\":\"t\"}\n{}\n{\"a\":{\"b\":1}}\n"),
         "-] id=1 vector='[1,2]' text='t'\n-]\n-] a='{\"b\":1}'", NULL, {.plain = true}},
    };
    CHECK_ROWS(rows);
}

TEST(csv_is_read_by_rfc_4180)
{
    static const struct row rows[] = {
        {"all types", "a.csv",
         BYTES("id,vector,text,n,i,r,s,q,b,e\n"
               "1,\"[1, 2]\",hello,,-3,1e2,007,\"5\",x'0aff',\"\"\n"),
         "1 [1 2] <hello> n=null i=-3 r=100.00000000000000 s='007' q='5' b=x0aff e=''", NULL, {0}},
        {"quotes, line ends, CRLF, BOM, blank lines", "a.csv",
         BYTES("\xEF\xBB\xBFid,embedding,body\r\n\r\n"
               "\"a \"\"b\"\"\",\"{1,2}\",\"two\nlines, one\r\nfield\"\r\n"
               "c,\"[3,4]\",\r\n"),
         "'a \"b\"' [1 2] <two\nlines, one\r\nfield>\n'c' [3 4]", NULL, {0}},
        {"elements in columns", "a.csv", BYTES("v0,id,v1,x\n1,7,2,a\n-1,8,.5,b"),
         "7 [1 2] x='a'\n8 [-1 0.5] x='b'", NULL, {0}},
        {"elements in columns from 1 on, given prefix", "a.csv", BYTES("id,e1,e2\n1,1,2\n"),
         "1 [1 2]", NULL, {.vector_column = "e"}},
        {"given columns", "a.csv", BYTES("id,key,x,y\n1,k,[5],t\n"), "'k' [5] <t> id=1", NULL,
         {.vector_column = "x", .id_column = "key", .payload_column = "y"}},
        {"tabs", "a.tsv", BYTES("id\tvector\n1\t[1,2]\n"), "1 [1 2]", NULL, {0}},
        {"semicolons", "a.csv", BYTES("id;vector\n1;[1,2]\n"), "1 [1 2]", NULL,
         {.separator = ';'}},
        {"no header, words", "a.csv", BYTES("the,1,2\n1984,3,4\n"), "'the' [1 2]\n1984 [3 4]", NULL,
         {0}},
        {"no header, words as text", "a.csv", BYTES("the,1,2\n1984,3,4\n"),
         "'the' [1 2]\n'1984' [3 4]", NULL, {.ids = FORMAT_IDS_TEXT}},
        {"no header, no ids", "a.csv", BYTES("1, 2\n3, 4"), "- [1 2]\n- [3 4]", NULL, {0}},
        {"quoted id is text", "a.csv", BYTES("id,v0\n\"5\",1\n,2\n"), "'5' [1]\n- [2]", NULL, {0}},
        {"plain: columns as they are", "a.csv", BYTES("id,vector,text\n1,\"[1,2]\",t\n,,\n"),
         "-] id=1 vector='[1,2]' text='t'\n-] id=null vector=null text=null", NULL,
         {.plain = true}},
        {"plain: the first line is the header", "a.csv", BYTES("1,2\n3,4\n"), "-] 1=3 2=4", NULL,
         {.plain = true}},
        {"plain: damage", "a.csv", BYTES("a,b\n1,2\n3\n"), "-] a=1 b=2",
         "line 3: 1 fields, but the header has 2", {.plain = true}},
        {"header only", "a.csv", BYTES("id,vector\n"), "", NULL, {0}},
        {"only blank lines", "a.csv", BYTES("\n\r\n"), "", "holds no record", {0}},
        {"no vector column", "a.csv", BYTES("id,x\n1,2\n"), "",
         "line 1: the header has no vector: neither a column 'vector' nor 'v0', 'v1'", {0}},
        {"column asked for is missing", "a.csv", BYTES("id,v0\n1,2\n"), "",
         "the header has no column 'key'", {.id_column = "key"}},
        {"column twice", "a.csv", BYTES("id,v0,a,a\n"), "", "column 'a' stands twice", {0}},
        {"elements with a gap", "a.csv", BYTES("id,v0,v2\n"), "",
         "column 'v2' of the vector stands where 'v1' is expected", {0}},
        {"too few fields", "a.csv", BYTES("id,v0\n1,2\n\n3\n"), "1 [2]",
         "line 4: 1 fields, but the header has 2", {0}},
        {"too many fields", "a.csv", BYTES("id,v0\n1,2,3\n"), "",
         "line 2: 3 fields, but the header has 2", {0}},
        {"ragged without header", "a.csv", BYTES("a,1,2\nb,1\n"), "'a' [1 2]",
         "line 2: 2 fields, but the first line has 3", {0}},
        {"ragged arrays", "a.csv", BYTES("vector\n\"[1,2]\"\n\"[1]\"\n"), "- [1 2]",
         "line 3: the vector has 1 elements, those before have 2", {0}},
        {"no array", "a.csv", BYTES("vector\n\"[1 2]\"\n"), "",
         "line 2: column 'vector' is no vector such as [1,2]: at its byte 4: a comma or ]", {0}},
        {"nan", "a.csv", BYTES("id,v0\n1,nan\n"), "",
         "line 2: column 'v0' is not a finite number", {0}},
        {"empty element", "a.csv", BYTES("id,v0\n1,\n"), "", "column 'v0' is empty", {0}},
        {"beyond f32", "a.csv", BYTES("id,v0\n1,1e40\n"), "", "is beyond the range of f32", {0}},
        {"open quote", "a.csv", BYTES("id,v0\n1,2\n\"a\nb,3\n"), "1 [2]",
         "line 3, column 1: this quote is not closed before the file ends", {0}},
        {"quote inside", "a.csv", BYTES("id,v0\na\"b,2\n"), "",
         "line 2, column 2: a quote inside a field that does not begin with one", {0}},
        {"text behind quotes", "a.csv", BYTES("id,v0\n\"a\"b,2\n"), "",
         "line 2, column 4: text follows a closing quote", {0}},
        {"line after a field of two lines", "a.csv", BYTES("id,v0\n\"a\nb\",1\nc,x\n"),
         "'a\nb' [1]", "line 4: column 'v0' is not a finite number", {0}},
        {"NUL byte", "a.csv", BYTES("id,v0\n1\0,2\n"), "", "line 2, column 2: a NUL byte", {0}},
        {"invalid UTF-8 in an id", "a.csv", BYTES("id,v0\nab\xC0\xAF,2\n"), "",
         "line 2: the id is not valid UTF-8: its byte 3 is 0xc0", {0}},
        {"invalid UTF-8 in an attribute", "a.csv", BYTES("a,v0\n\xFF,2\n"), "",
         "line 2: column 'a' is not valid UTF-8: its byte 1 is 0xff", {0}},
        {"too long a record", "a.csv", BYTES("id,v0\n\"0123456789\n0123456789\",1\n"), "",
         "line 2: the record, from byte 6 on, is longer than 20 bytes", {.max_line = 20}},
        {"dimension asked for", "a.csv", BYTES("id,v0\n1,1\n"), "", "1, 2 is expected",
         {.dim = 2}},
    };
    CHECK_ROWS(rows);
}

TEST(word_vectors_are_read_with_and_without_a_first_line)
{
    static const struct row rows[] = {
        {"GloVe", "a.txt", BYTES("the 0.5 -1e-1\n, 1 2\n. . . 3 4\n1984 5 6"),
         "'the' [0.5 -0.100000001]\n',' [1 2]\n'. . .' [3 4]\n'1984' [5 6]", NULL, {0}},
        {"word2vec, blanks at the ends", "a.vec", BYTES("2 2\r\na 1 2 \r\nb\t3  4\r\n"),
         "'a' [1 2]\n'b' [3 4]", NULL, {0}},
        {"told by content", "vectors", BYTES("the 0.5 -1\nof 1 2\n"), "'the' [0.5 -1]\n'of' [1 2]",
         NULL, {0}},
        {"dimension given for a first word with blanks", "a.txt", BYTES("a b 1 2\n"), "'a b' [1 2]",
         NULL, {.dim = 2}},
        {"too few numbers", "a.txt", BYTES("a 1 2\nb 1\n"), "'a' [1 2]",
         "line 2: 1 numbers after the word, 2 are expected", {0}},
        {"too many numbers", "a.txt", BYTES("a 1 2\nb 1 2 3\n"), "'a' [1 2]",
         "line 2: 3 numbers after the word, 2 are expected", {0}},
        {"no number", "a.txt", BYTES("a 1 2\nb 1 x\n"), "'a' [1 2]",
         "line 2, column 5: 'x' is no finite number", {0}},
        {"nan", "a.txt", BYTES("a 1 2\nb nan 1\n"), "'a' [1 2]",
         "line 2, column 3: 'nan' is no finite number", {0}},
        {"beyond f32", "a.txt", BYTES("a 1e99\n"), "", "'1e99' is beyond the range of f32", {0}},
        {"one field", "a.txt", BYTES("hello\n"), "", "line 1: a word and its numbers", {0}},
        {"no word", "a.txt", BYTES("a 1 2\n 1 2\n"), "'a' [1 2]", "line 2: the id is empty", {0}},
        {"fewer than promised", "a.vec", BYTES("3 2\na 1 2\n"), "'a' [1 2]",
         "line 1 promises 3 vectors, the file has 1", {0}},
        {"more than promised", "a.vec", BYTES("1 1\na 1\nb 2\n"), "'a' [1]\n'b' [2]",
         "line 1 promises 1 vectors, the file has 2", {0}},
        {"absurd promise", "a.vec", BYTES("1 99999\na 1\n"), "", "has dimension 99,999", {0}},
        {"invalid UTF-8", "a.txt", BYTES("a\xED\xA0\x80 1\n"), "",
         "line 1: the id is not valid UTF-8: its byte 2 is 0xed", {0}},
        {"too long a line", "a.txt", BYTES("a 1\nb 11111111111111111111111\n"), "'a' [1]",
         "line 2, from byte 4 on, is longer than 20 bytes", {.max_line = 20}},
    };
    CHECK_ROWS(rows);
}

#define WINK "{\"precision\":8,\"l2NormIndex\":2,\"wordIndex\":3,\"size\":2,\"dimensions\":2,"    \
             "\"words\":[\"a]\",\"b\\\"\"],\"vectors\":"

TEST(wink_embeddings_are_read_piece_by_piece)
{
    static const struct row rows[] = {
        {"whole", "a.json",
         BYTES(WINK "{\"a]\":[1,2,2.2,0], \"b\\\"\" : [3,4,5,1]},\"unkVector\":[0,0,0,-1]}\n"),
         "'a]' [1 2]\n'b\"' [3 4]", NULL, {0}},
        {"told by content", "words", BYTES(WINK "{\"a\":[1,2,2.2,0],\"b\":[3,4,5,1]}}"),
         "'a' [1 2]\n'b' [3 4]", NULL, {0}},
        {"fewer than promised", "a.json", BYTES(WINK "{\"a\":[1,2]}}"), "'a' [1 2]",
         "'size' promises 2 vectors, the file has 1", {0}},
        {"cut in a vector", "a.json", BYTES(WINK "{\"a\":[1,2],\"b\":[1,"), "'a' [1 2]",
         "byte 118: the file ends inside a vector", {0}},
        {"cut in a word", "a.json", BYTES(WINK "{\"a\":[1,2],\"b"), "'a' [1 2]",
         "the file ends inside a string", {0}},
        {"cut behind the vectors", "a.json", BYTES(WINK "{\"a\":[1,2],\"b\":[1,2]}"),
         "'a' [1 2]\n'b' [1 2]", "byte 121: the file ends inside the object", {0}},
        {"too short a vector", "a.json", BYTES(WINK "{\"a\":[1]}}"), "",
         "record 1 at byte 101: the vector of 'a' has 1 elements, 'dimensions' says 2", {0}},
        {"no number", "a.json", BYTES(WINK "{\"a\":[1,x]}}"), "",
         "byte 108: a number is expected here", {0}},
        {"dimensions too late", "a.json", BYTES("{\"vectors\":{},\"dimensions\":2}"), "",
         "'dimensions' must come before 'vectors'", {0}},
        {"dimensions absurd", "a.json", BYTES("{\"dimensions\":1e9}"), "",
         "'dimensions' must be a whole number", {0}},
        {"dimensions too large", "a.json", BYTES("{\"dimensions\":20000}"), "",
         "has dimension 20,000", {0}},
        {"no vectors", "a.json", BYTES("{\"dimensions\":2}"), "", "there is no member 'vectors'",
         {0}},
        {"something behind", "a.json",
         BYTES(WINK "{\"a\":[1,2],\"b\":[1,2]}} x"), "'a' [1 2]\n'b' [1 2]",
         "something follows the object", {0}},
        {"an array", "a.json", BYTES("[1]"), "", "byte 0: '{' is expected", {0}},
        {"nested too deep", "a.json",
         BYTES("{\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["), "",
         "nested more than 64 deep", {0}},
        {"too long a vector", "a.json", BYTES(WINK "{\"a\":[1,2,3,4,5,6,7,8,9,1,2,3,4,5,6]}}"), "",
         "a vector is longer than 24 bytes", {.max_line = 24}},
    };
    CHECK_ROWS(rows);
}

TEST(an_unknown_format_is_asked_for)
{
    static const struct row rows[] = {
        {"bytes", "a.dat", BYTES("\1\0\0\0\2\0\0\0"), "", "name it, one of: fvecs bvecs", {0}},
        {"prose", "README", BYTES("some words\n"), "", "name it, one of:", {0}},
        {"gzip", "a.jsonl.gz", BYTES("\x1F\x8B\x08\0"), "", "gunzip -c", {0}},
        {"zstd", "a.csv", BYTES("\x28\xB5\x2F\xFD..."), "", "zstd -dc", {0}},
        {"database", "a.db", BYTES("SQLite format 3\0..."), "", "is an SQLite database", {0}},
        {"npy by content", "a", BYTES("\x93NUMPY\7\0"), "", "is no npy file", {0}},
        {"csv by content", "a", BYTES("id,vector\n1,\"[1]\"\n"), "1 [1]", NULL, {0}},
        {"jsonl by content", "a", BYTES("{\"vector\":[1]}\n"), "- [1]", NULL, {0}},
        {"impossible dimension", "a.csv", BYTES("v0\n1\n"), "", "at most 16384 is possible",
         {.dim = 20000}},
    };
    CHECK_ROWS(rows);
}

TEST(long_ids_and_too_many_attributes_are_refused)
{
    static char line[40000];
    static struct dump d;
    memset(line, 'x', 400);
    int n = snprintf(line + 256, sizeof line - 256, " 1\n");
    dump_memory(&d, line, 256 + (size_t)n, "a.txt", NULL);
    CHECK_EQ(d.status, MN_INVALID);
    CHECK_HAS(d.err.message, "x...' has 256 bytes, at most 255 are possible");

    n = snprintf(line, sizeof line, "{\"vector\":[1]");
    for (int i = 0; i < 201; i++)
        n += snprintf(line + n, sizeof line - (size_t)n, ",\"a%d\":%d", i, i);
    n += snprintf(line + n, sizeof line - (size_t)n, "}");
    dump_memory(&d, line, (size_t)n, "a.jsonl", NULL);
    CHECK_EQ(d.status, MN_INVALID);
    CHECK_HAS(d.err.message, "more than 200 attributes");

    n = snprintf(line, sizeof line, "v0");
    for (int i = 0; i < 201; i++)
        n += snprintf(line + n, sizeof line - (size_t)n, ",a%d", i);
    dump_memory(&d, line, (size_t)n, "a.csv", NULL);
    CHECK_EQ(d.status, MN_INVALID);
    CHECK_HAS(d.err.message, "more than 200 columns are attributes");
}

TEST(a_failure_stays)
{
    struct format_reader *r;
    const struct format_record *rec;
    mn_error err;
    CHECK_OK(format_reader_open_memory(BYTES("a 1 2\nb 1\nc 1 2\n"), "a.txt", NULL, &r, &err), err);
    CHECK_OK(format_reader_next(r, &rec, &err), err);
    CHECK(rec && rec->number == 1 && rec->line == 1);
    for (int i = 0; i < 3; i++) {
        CHECK(format_reader_next(r, &rec, &err) == MN_INVALID && !rec);
        CHECK_HAS(err.message, "line 2");
    }
    CHECK(format_reader_next(r, &rec, NULL) == MN_INVALID);
    format_reader_close(r);
}

TEST(files_that_cannot_be_read_are_named)
{
    static struct dump d;
    dump_file(&d, test_path("missing.csv"), NULL);
    CHECK_EQ(d.status, MN_NOTFOUND);
    CHECK_HAS(d.err.message, "missing.csv: cannot be opened: No such file");
    dump_file(&d, test_dir(), NULL);
    CHECK_EQ(d.status, MN_INVALID);
    CHECK_HAS(d.err.message, "is a directory");
    write_bytes(test_path("secret.csv"), BYTES("v0\n1\n"));
    CHECK(chmod(test_path("secret.csv"), 0) == 0);
    bool root = geteuid() == 0; /* whom nothing is forbidden */
    CHECK(!root || seteuid(65534) == 0);
    dump_file(&d, test_path("secret.csv"), NULL);
    CHECK(!root || seteuid(0) == 0);
    CHECK_EQ(d.status, MN_IO);
    CHECK_HAS(d.err.message, "secret.csv: cannot be opened: Permission denied");
}

TEST(ids_come_from_their_own_file)
{
    static const struct {
        const char *label, *name, *data;
        size_t len;
        const char *want, *says;
        enum format_ids ids;
    } cases[] = {
        {"lines", "i.txt", BYTES("5\nfive\n"), "5 [1]\n'five' [2]", NULL, 0},
        {"lines as text", "i.txt", BYTES("\xEF\xBB\xBF" "5\r\n007"), "'5' [1]\n'007' [2]", NULL,
         FORMAT_IDS_TEXT},
        {"lines as integers", "i.txt", BYTES("5\n007"), "5 [1]\n7 [2]", NULL, FORMAT_IDS_INTEGER},
        {"ivecs, one record", "i.ivecs", BYTES(I32("\2") I32("\7") "\xFF\xFF\xFF\xFF"),
         "7 [1]\n-1 [2]", NULL, 0},
        {"ivecs, many records", "i.ivecs", BYTES(I32("\1") I32("\7") I32("\1") I32("\x08")),
         "7 [1]\n8 [2]", NULL, 0},
        {"too few lines", "i.txt", BYTES("5\n"), "5 [1]", "i.txt: ends after 1 ids, but", 0},
        {"too many lines", "i.txt", BYTES("5\n6\n7\n"), "5 [1]\n6 [2]",
         "i.txt: has more ids than the 2 records", 0},
        {"empty line", "i.txt", BYTES("5\n\n7\n"), "5 [1]", "i.txt: line 2 is empty", 0},
        {"no integer", "i.txt", BYTES("a\n6\n"), "", "the id 'a' is no 64-bit integer",
         FORMAT_IDS_INTEGER},
        {"ivecs cut", "i.ivecs", BYTES(I32("\2") I32("\7")), "7 [1]",
         "i.ivecs: the file ends at byte 8, 1 ids short", 0},
        {"ivecs cut in a number", "i.ivecs", BYTES(I32("\2") I32("\7") "\0"), "7 [1]",
         "ends inside a number, at byte 9", 0},
        {"ivecs negative", "i.ivecs", BYTES("\xFF\xFF\xFF\xFF"), "",
         "i.ivecs: the dimension at byte 0 is -1", 0},
    };
    static struct dump d;
    write_bytes(test_path("v.fvecs"), BYTES(I32("\1") F_1 I32("\1") F_2));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_bytes(test_path(cases[i].name), cases[i].data, cases[i].len);
        struct format_opts opts = {.ids_path = test_path(cases[i].name), .ids = cases[i].ids};
        dump_file(&d, test_path("v.fvecs"), &opts);
        CHECKF(strcmp(d.text, cases[i].want) == 0, "%s: read\n%s", cases[i].label, d.text);
        if (cases[i].says)
            CHECKF(d.status == MN_INVALID && strstr(d.err.message, cases[i].says), "%s: \"%s\"",
                   cases[i].label, d.err.message);
        else
            CHECKF(d.status == MN_OK, "%s: \"%s\"", cases[i].label, d.err.message);
    }
}

TEST(ids_come_from_npy)
{
    static const struct {
        const char *dict, *data;
        size_t len;
        const char *want, *says;
    } cases[] = {
        {"{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }",
         BYTES("\5\0\0\0\0\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), "5 [1]\n-1 [2]", NULL},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (2, 1), }",
         BYTES(I32("\5") "\xFE\xFF\xFF\xFF"), "5 [1]\n-2 [2]", NULL},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }", BYTES("\5\xFF"),
         "5 [1]\n255 [2]", NULL},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", BYTES(F_1 F_2), "",
         "ids must be integers"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2), }", BYTES(F_1 F_2), "",
         "ids must have shape (n,) or (n, 1), not (1, 2)"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", BYTES(I32("\5")), "5 [1]",
         "1 ids short of what its header says"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }", BYTES("\1\2\3"),
         "1 [1]\n2 [2]", "bytes follow the last id"},
    };
    static struct dump d;
    char data[512];
    write_bytes(test_path("v.fvecs"), BYTES(I32("\1") F_1 I32("\1") F_2));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len = make_npy(data, 1, cases[i].dict, cases[i].data, cases[i].len);
        write_bytes(test_path("i.npy"), data, len);
        struct format_opts opts = {.ids_path = test_path("i.npy")};
        dump_file(&d, test_path("v.fvecs"), &opts);
        CHECKF(strcmp(d.text, cases[i].want) == 0, "%s: read\n%s", cases[i].dict, d.text);
        CHECKF(cases[i].says ? strstr(d.err.message, cases[i].says) != NULL : d.status == MN_OK,
               "%s: \"%s\"", cases[i].dict, d.err.message);
    }
}

TEST(a_pipe_is_read_like_a_file)
{
    int ends[2], saved = dup(STDIN_FILENO);
    static struct dump d;
    static const char text[] = "{\"id\":1,\"vector\":[1,2]}\n{\"id\":2,\"vector\":[3,4]}\n";
    CHECK(pipe(ends) == 0 && write(ends[1], text, sizeof text - 1) == sizeof text - 1);
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    dump_file(&d, "-", NULL);
    dup2(saved, STDIN_FILENO);
    close(saved);
    CHECKF(d.status == MN_OK, "%s", d.err.message);
    CHECK_STR(d.text, "1 [1 2]\n2 [3 4]");
}

TEST(probe_says_what_a_file_holds)
{
    struct format_probe p;
    mn_error err;
    write_bytes(test_path("a.bvecs"), BYTES(I32("\2") "\1\2" I32("\2") "\0\0"));
    CHECK_OK(format_probe(test_path("a.bvecs"), NULL, &p, &err), err);
    CHECK(p.format == FORMAT_BVECS && p.dtype == FORMAT_U8 && p.dim == 2 && p.n_known && p.n == 2 &&
          p.bytes == 12 && p.ids == FORMAT_ID_NONE);
    write_bytes(test_path("a.jsonl"), BYTES("{\"id\":1,\"vector\":[0,0],\"a\":1}\n"
                                            "{\"id\":\"x\",\"vector\":[0,1]}\n"));
    CHECK_OK(format_probe(test_path("a.jsonl"), NULL, &p, &err), err);
    CHECK(p.format == FORMAT_JSONL && p.dim == 2 && !p.n_known && p.ids == FORMAT_ID_INTEGER);
}

TEST(every_cut_of_every_good_file_is_told_or_harmless)
{
    static const struct row files[] = {
        {"fvecs", "a.fvecs", BYTES(I32("\2") F_1 F_2 I32("\2") F_1 F_2), NULL, NULL, {0}},
        {"fbin", "a.fbin", BYTES(I32("\2") I32("\1") F_1 F_2), NULL, NULL, {0}},
        {"jsonl", "a.jsonl", BYTES("{\"id\":\"a\",\"vector\":[1,2],\"x\":{\"y\":[null]}}\n"), NULL,
         NULL, {0}},
        {"csv", "a.csv", BYTES("id,vector,x\na,\"[1,2]\",\"q\"\"q\"\n"), NULL, NULL, {0}},
        {"text", "a.txt", BYTES("2 2\na 1 2\nb 1 2\n"), NULL, NULL, {0}},
        {"wink", "a.json", BYTES(WINK "{\"a\":[1,2,2.2,0],\"b\":[3,4,5,1]}}"), NULL, NULL, {0}},
    };
    static struct dump d;
    size_t told = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char copy[256];
        for (size_t len = 0; len <= files[i].len; len++) {
            for (int flip = -1; flip < (int)len && flip < 256; flip++) {
                if (flip >= 0 && len < files[i].len)
                    break; /* bytes are changed in the whole file only */
                memcpy(copy, files[i].data, len);
                if (flip >= 0)
                    copy[flip] = (char)(copy[flip] ^ 0x41);
                dump_memory(&d, copy, len, files[i].name, &(struct format_opts){.buffer = 16});
                CHECKF(d.status == MN_OK || (d.status == MN_INVALID && d.err.message[0]),
                       "%s, %zu bytes, byte %d changed: status %d", files[i].label, len, flip,
                       d.status);
                told += d.status != MN_OK;
            }
        }
    }
    CHECK(told > 200);
}

/* An allocator whose n-th call fails. */
static void *fail_nth(void *ctx, size_t size)
{
    size_t *left = ctx;
    return (*left)-- == 0 ? NULL : malloc(size);
}

static void free_block(void *ctx, void *memory, size_t size)
{
    (void)ctx;
    (void)size;
    free(memory);
}

TEST(memory_that_runs_out_is_told_and_none_leaks)
{
    static const struct row files[] = {
        {"fvecs", "a.fvecs", BYTES(I32("\2") F_1 F_2), "- [1 2]", NULL, {0}},
        {"npy", "a.npy", BYTES("\x93NUMPY\1\0\x3A\0{'descr': '<f4', 'fortran_order': False, "
                               "'shape': (1, 1)} " F_1), "- [1]", NULL, {0}},
        {"jsonl", "a.jsonl", BYTES("{\"id\":\"a\",\"vector\":[1,2]}\n"), "'a' [1 2]", NULL, {0}},
        {"csv", "a.csv", BYTES("id,vector,x\na,\"[1,2]\",5\n"), "'a' [1 2] x=5", NULL, {0}},
        {"text", "a.txt", BYTES("a 1 2\n"), "'a' [1 2]", NULL, {0}},
        {"wink", "a.json", BYTES("{\"dimensions\":1,\"vectors\":{\"a\":[1]}}"), "'a' [1]",
         NULL, {0}},
    };
    static struct dump d;
    write_bytes(test_path("ids"), BYTES("x"));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        size_t nth = 0;
        for (; nth < 100; nth++) {
            size_t left = nth;
            mn_allocator hooks = {fail_nth, free_block, &left};
            struct mn_alloc *alloc = mn_alloc_create(&hooks, UINT64_MAX);
            if (!alloc)
                continue; /* the counter's own memory */
            struct format_opts opts = {.alloc = alloc, .buffer = 16, .ids_path = test_path("ids")};
            dump_memory(&d, files[i].data, files[i].len, files[i].name, &opts);
            uint64_t used = mn_alloc_used(alloc) + mn_alloc_used_by(alloc, MN_TAG_HANDLE);
            mn_alloc_destroy(alloc);
            CHECKF(used == 0, "%s, allocation %zu fails: %" PRIu64 " bytes leak", files[i].label,
                   nth, used);
            if (d.status == MN_OK)
                break;
            CHECKF(d.status == MN_NOMEM && strstr(d.err.message, "no memory"),
                   "%s, allocation %zu fails: status %d, \"%s\"", files[i].label, nth, d.status,
                   d.err.message);
        }
        CHECKF(nth > 5 && nth < 100 && d.n == 1, "%s: read after %zu failures", files[i].label,
               nth);
    }
}

TEST(a_line_of_more_than_64_mib_is_refused_in_bounded_memory)
{
    static const char *const names[] = {"a.jsonl", "a.txt"};
    for (size_t i = 0; i < 2; i++) {
        const char *path = test_path(names[i]);
        write_bytes(path, BYTES("a 1 "));
        CHECK(truncate(path, FORMAT_MAX_LINE + 100) == 0); /* the rest takes no disk */
        struct mn_alloc *alloc = mn_alloc_create(NULL, UINT64_MAX);
        static struct dump d;
        dump_file(&d, path, &(struct format_opts){.alloc = alloc});
        uint64_t peak = mn_alloc_peak(alloc);
        mn_alloc_destroy(alloc);
        CHECK_EQ(d.status, MN_INVALID);
        CHECK_HAS(d.err.message, "line 1, from byte 0 on, is longer than 67,108,864 bytes");
        test_note("peak %" PRIu64 " MiB", peak >> 20);
        CHECK(peak < 2 * (uint64_t)FORMAT_MAX_LINE); /* while it grows, an older buffer stands by */
    }
}

TEST(memory_does_not_grow_with_the_file)
{
    enum { LINES = 30000 };
    static const char line[] = "{\"id\":1,\"vector\":[0.125,0.25,0.5],\"text\":\"some words\","
                               "\"a\":1}\n";
    size_t each = sizeof line - 1, len = each * LINES;
    char *data = malloc(len);
    CHECK(data);
    for (size_t i = 0; i < LINES; i++)
        memcpy(data + i * each, line, each);
    struct mn_alloc *alloc = mn_alloc_create(NULL, UINT64_MAX);
    struct format_opts opts = {.alloc = alloc, .format = FORMAT_JSONL};
    struct format_reader *r;
    const struct format_record *rec;
    mn_error err;
    uint64_t n = 0, done, total;
    CHECK_OK(format_reader_open_memory(data, len, "lines", &opts, &r, &err), err);
    while (format_reader_next(r, &rec, &err) == MN_OK && rec)
        n++;
    format_reader_progress(r, &done, &total);
    format_reader_close(r);
    uint64_t peak = mn_alloc_peak(alloc);
    mn_alloc_destroy(alloc);
    free(data);
    CHECK_EQ(n, LINES);
    CHECK(done == len && total == len);
    test_note("%.1f MB read in %" PRIu64 " KiB", (double)len / 1e6, peak >> 10);
    CHECK(peak < 512 << 10);
}

/* The seeds of the fuzzers, without a fuzzer. */
TEST(fuzz_seeds_are_read_or_told)
{
    static const struct {
        const char *path;
        enum format_kind kind;
        uint64_t n; /* records; UINT64_MAX: a sentence */
    } seeds[] = {
        {"vecs/fvecs2", FORMAT_FVECS, 2},     {"vecs/bvecs", FORMAT_BVECS, 2},
        {"vecs/cut", FORMAT_FVECS, UINT64_MAX}, {"bin/fbin", FORMAT_FBIN, 2},
        {"bin/u8bin", FORMAT_U8BIN, 2},       {"bin/empty", FORMAT_FBIN, 0},
        {"npy/f4", FORMAT_NPY, 2},            {"npy/f2v2", FORMAT_NPY, 1},
        {"npy/f8", FORMAT_NPY, 1},            {"npy/fortran", FORMAT_NPY, UINT64_MAX},
        {"jsonl/all", FORMAT_JSONL, 2},       {"jsonl/base64", FORMAT_JSONL, 1},
        {"csv/all", FORMAT_CSV, 2},           {"csv/columns", FORMAT_CSV, 2},
        {"csv/bare", FORMAT_CSV, 2},          {"words/glove", FORMAT_TEXT, 4},
        {"words/word2vec", FORMAT_TEXT, 2},   {"wink/wink", FORMAT_WINK, 2},
    };
    static struct dump d;
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        char path[128];
        snprintf(path, sizeof path, "tests/fuzz/seeds/%s", seeds[i].path);
        dump_file(&d, test_source(path), &(struct format_opts){.format = seeds[i].kind});
        if (seeds[i].n == UINT64_MAX)
            CHECKF(d.status == MN_INVALID && d.err.message[0], "%s: status %d", path, d.status);
        else
            CHECKF(d.status == MN_OK && d.n == seeds[i].n, "%s: %" PRIu64 " records, %s", path, d.n,
                   d.err.message);
    }
}

TEST_MAIN
