/* SQL functions over vectors. Results and sentences of the functions that sqlite-vec has were
 * taken from its 0.1.9 under SQLite 3.40.1; the others follow them. */
#include "tests/test.h"

#include <sqlite3.h>

#include "mneme_sql.h"
#include "src/sql/vec.h"
#include "src/sql/vec_value.h"
#include "tests/sim/oom.h"

static sqlite3 *open_db(void)
{
    sqlite3 *db;
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    CHECK_EQ(vec_register(db), SQLITE_OK);
    return db;
}

/* The one value of "SELECT sql" as text ("NULL" for NULL), or what is wrong. */
static bool ask(sqlite3 *db, const char *sql, char *out, size_t size)
{
    sqlite3_stmt *stmt = NULL;
    char *text = sqlite3_mprintf("SELECT %s", sql);
    bool ok = text && sqlite3_prepare_v2(db, text, -1, &stmt, NULL) == SQLITE_OK &&
              sqlite3_step(stmt) == SQLITE_ROW;
    const char *got = ok ? (const char *)sqlite3_column_text(stmt, 0) : sqlite3_errmsg(db);
    snprintf(out, size, "%s", got ? got : "NULL");
    sqlite3_finalize(stmt);
    sqlite3_free(text);
    return ok;
}

struct row {
    const char *sql;
    const char *want; /* NULL: it fails */
    const char *says; /* all of the sentence */
};

static void check_rows(const struct row *rows, size_t n)
{
    sqlite3 *db = open_db();
    for (size_t i = 0; i < n; i++) {
        char got[4000];
        bool ok = ask(db, rows[i].sql, got, sizeof got);
        CHECKF(ok == (rows[i].want != NULL), "%s: %s", rows[i].sql, got);
        const char *want = ok ? rows[i].want : rows[i].says;
        CHECKF(strcmp(got, want) == 0, "%s: got \"%s\", want \"%s\"", rows[i].sql, got, want);
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}
#define CHECK_ROWS(rows) check_rows(rows, sizeof(rows) / sizeof *(rows))

#define NO_ARRAY "JSON array parsing error: Input does not start with '['"
#define EMPTY "zero-length vectors are not supported."
#define NO_JSON "JSON parsing error"
#define FOUND "Input must have type BLOB (compact format) or TEXT (JSON), found "
#define CONVERT_TYPES "it may be float32, float16, bfloat16, int8 or bit"

TEST(float32_is_read_from_text_and_blobs)
{
    static const struct row rows[] = {
        {"vec_length('')", NULL, EMPTY},
        {"vec_length('[')", NULL, EMPTY},
        {"vec_length('[]')", NULL, EMPTY},
        {"vec_length('[ ]')", NULL, NO_JSON},
        {"vec_length('[,1]')", NULL, NO_JSON},
        {"vec_length('[ , 1]')", NULL, NO_JSON},
        {"vec_length('[1 2 3]')", "3", NULL},
        {"vec_length('[1,,2]')", "2", NULL},
        {"vec_length('[1,2,]')", "2", NULL},
        {"vec_length('[1 , ]')", "1", NULL},
        {"vec_length('[1,2')", "2", NULL},
        {"vec_length('[1,2]x')", "2", NULL},
        {"vec_length('  [1')", "1", NULL},
        {"vec_length('{}')", NULL, NO_ARRAY},
        {"vec_length('   ')", NULL, NO_ARRAY},
        {"vec_length(json('5'))", NULL, NO_ARRAY},
        {"vec_length('[1,x]')", NULL, NO_JSON},
        {"vec_length('[1x]')", NULL, NO_JSON},
        {"vec_length('[1[2]')", NULL, NO_JSON},
        {"vec_length('[1;2]')", NULL, NO_JSON},
        {"vec_length('[1e]')", NULL, NO_JSON},
        {"vec_length('[1-2]')", "2", NULL},
        {"vec_length('[1.5.5]')", "2", NULL},
        {"vec_length('[+1]')", "1", NULL},
        {"vec_length('[1' || char(10) || '2' || char(9) || ',3' || char(13) || ']')", "3", NULL},
        {"vec_length('[1' || char(11) || '2]')", "2", NULL},
        {"vec_length(cast(x'5b31002c325d' as text))", NULL, NO_JSON},
        {"vec_length('[1e309]')", NULL, NO_JSON},
        {"vec_length('[1e-400,1]')", NULL, NO_JSON},
        {"vec_length('[1e-309]')", "1", NULL},
        {"vec_to_json('[nan,inf,-inf,0x10]')", "[null,Inf,-Inf,16.000000]", NULL},
        {"vec_to_json('[1e39]')", "[Inf]", NULL},
        {"vec_to_json('[1.5,-2.25,0.1,1e10,123456789.123]')",
         "[1.500000,-2.250000,0.100000,10000000000.000000,123456792.000000]", NULL},
        {"vec_to_json('[1e38]')", "[99999996802856920000000000000000000000.000000]", NULL},
        {"vec_length(json_array(1, 2))", "2", NULL},
        {"vec_length(x'')", NULL, EMPTY},
        {"vec_length(x'0102')", NULL,
         "invalid float32 vector BLOB length. Must be divisible by 4, found 2"},
        {"vec_length(1)", NULL, FOUND "INTEGER"},
        {"vec_length(1.5)", NULL, FOUND "FLOAT"},
        {"vec_length(NULL)", NULL, FOUND "NULL"},
        {"hex(vec_f32('[1,-2]'))", "0000803F000000C0", NULL},
        {"vec_type('[1]')", "float32", NULL},
        {"vec_type(x'00')", NULL,
         "invalid float32 vector BLOB length. Must be divisible by 4, found 1"},
        {"vec_f32()", NULL, "wrong number of arguments to function vec_f32()"},
    };
    CHECK_ROWS(rows);
}

TEST(int8_and_bits_are_read_as_sqlite_vec_reads_them)
{
    static const struct row rows[] = {
        {"hex(vec_int8('[1,-1 ,, 3]'))", "01FF03", NULL},
        {"hex(vec_int8('[1,2'))", "0102", NULL},
        {"vec_int8('[1.5]')", NULL, NO_JSON},
        {"vec_int8('[a]')", NULL, NO_JSON},
        {"vec_int8('[0x10]')", NULL, NO_JSON},
        {"vec_int8('[99999999999999999999]')", NULL, NO_JSON},
        {"vec_int8('[128]')", NULL, "JSON parsing error: value out of range for int8"},
        {"vec_int8('[-129]')", NULL, "JSON parsing error: value out of range for int8"},
        {"vec_int8('[]')", NULL, EMPTY},
        {"vec_int8('')", NULL, EMPTY},
        {"vec_int8(x'')", NULL, EMPTY},
        {"vec_int8('x')", NULL, NO_ARRAY},
        {"vec_int8(5)", NULL, "Unknown type for int8 vector."},
        {"vec_int8(NULL)", NULL, "Unknown type for int8 vector."},
        {"vec_bit(x'')", NULL, EMPTY},
        {"vec_bit('[1]')", NULL, "Unknown type for bitvector."},
        {"vec_bit(NULL)", NULL, "Unknown type for bitvector."},
        {"vec_bit(1)", NULL, "Unknown type for bitvector."},
        {"vec_length(vec_bit(x'01ff'))", "16", NULL},
        {"vec_to_json(vec_bit(x'01ff'))", "[1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1]", NULL},
        {"vec_to_json(vec_int8('[1,-1]'))", "[1,-1]", NULL},
        {"vec_type(vec_bit(x'01'))", "bit", NULL},
        {"vec_type(vec_int8('[1]'))", "int8", NULL},
        {"hex(vec_f32(vec_int8('[1,2,3,4]')))", "01020304", NULL},
        {"hex(vec_f32(vec_int8('[1,2,3]')))", NULL,
         "invalid float32 vector BLOB length. Must be divisible by 4, found 3"},
        {"hex(vec_int8(vec_f32('[1]')))", "0000803F", NULL},
    };
    CHECK_ROWS(rows);
}

TEST(sixteen_bit_types_are_read_rounded_and_refused)
{
    static const struct row rows[] = {
        {"hex(vec_f16('[1,-2,65504]'))", "003C00C0FF7B", NULL},
        {"hex(vec_bf16('[1,-2]'))", "803F00C0", NULL},
        {"vec_type(vec_f16('[1]'))", "float16", NULL},
        {"vec_type(vec_bf16('[1]'))", "bfloat16", NULL},
        {"vec_type(vec_f16(x'003c'))", "float16", NULL},
        {"vec_to_json(vec_f16(x'003c0000'))", "[1,0]", NULL},
        {"vec_to_json(vec_f16('[0.1]'))", "[0.099975586]", NULL},
        {"vec_to_json(vec_bf16('[0.1,inf]'))", "[0.100097656,Inf]", NULL},
        {"vec_to_json(vec_f32(vec_f16('[0.5,2]')))", "[0.500000,2.000000]", NULL},
        {"vec_to_json(vec_f32(vec_bf16('[0.5,2]')))", "[0.500000,2.000000]", NULL},
        {"vec_to_json(vec_f16(vec_bf16('[3]')))", "[3]", NULL},
        {"vec_to_json(vec_f16(vec_int8('[3,-4]')))", "[3,-4]", NULL},
        {"vec_f16('[1,70000]')", NULL,
         "float16: element 1 is 70000, beyond float16's 65504: scale the vector"},
        {"vec_bf16('[3.4e38]')", NULL,
         "bfloat16: element 0 is 3.4e+38, beyond bfloat16's 3.39e38: scale the vector"},
        {"vec_f16(vec_f32('[1e5]'))", NULL,
         "vec_f16: element 0 is 100000, beyond float16's 65504: scale the vector"},
        {"vec_f16(vec_bit(x'00'))", NULL, "vec_f16: bit vectors are not turned into numbers"},
        {"vec_f16(x'00')", NULL,
         "invalid float16 vector BLOB length. Must be divisible by 2, found 1"},
        {"vec_bf16(x'000000')", NULL,
         "invalid bfloat16 vector BLOB length. Must be divisible by 2, found 3"},
        {"vec_f16(NULL)", NULL, FOUND "NULL"},
        {"vec_f16('x')", NULL, NO_ARRAY},
    };
    CHECK_ROWS(rows);
}

TEST(vectors_are_converted_between_types)
{
    static const struct row rows[] = {
        {"vec_to_json(vec_convert('[1.4,-2.5,3.5]', 'int8'))", "[1,-2,4]", NULL},
        {"vec_to_json(vec_convert(vec_int8('[1,-2]'), 'float32'))", "[1.000000,-2.000000]", NULL},
        {"vec_type(vec_convert('[1]', 'F16'))", "float16", NULL},
        {"vec_type(vec_convert('[1]', 'bf16'))", "bfloat16", NULL},
        {"vec_type(vec_convert(vec_bit(x'01'), 'bit'))", "bit", NULL},
        {"vec_convert('[200]', 'int8')", NULL,
         "vec_convert: element 0 is 200; int8 holds -128 to 127: scale the vector"},
        {"vec_convert('[nan]', 'int8')", NULL,
         "vec_convert: element 0 is nan; int8 holds -128 to 127: scale the vector"},
        {"vec_convert('[1]', 'bit')", NULL,
         "vec_convert: vec_quantize_binary() makes bit vectors of numbers"},
        {"vec_convert(vec_bit(x'01'), 'float32')", NULL,
         "vec_convert: bit vectors are not turned into numbers"},
        {"vec_convert('[1]', 'double')", NULL,
         "vec_convert: the type is 'double'; " CONVERT_TYPES},
        {"vec_convert('[1]', NULL)", NULL, "vec_convert: the type is 'NULL'; " CONVERT_TYPES},
        {"vec_convert('x', 'int8')", NULL, NO_ARRAY},
    };
    CHECK_ROWS(rows);
}

TEST(vectors_are_added_cut_scaled_and_normalised)
{
    static const struct row rows[] = {
        {"vec_to_json(vec_add('[1,2]', '[0.5,-2]'))", "[1.500000,0.000000]", NULL},
        {"vec_to_json(vec_sub('[1,2]', '[0.5,-2]'))", "[0.500000,4.000000]", NULL},
        {"vec_to_json(vec_add(vec_int8('[127]'), vec_int8('[1]')))", "[-128]", NULL},
        {"vec_to_json(vec_sub(vec_int8('[-128]'), vec_int8('[1]')))", "[127]", NULL},
        {"vec_type(vec_add(vec_f16('[1]'), vec_f16('[1]')))", "float16", NULL},
        {"vec_to_json(vec_add(vec_bf16('[1]'), vec_bf16('[2]')))", "[3]", NULL},
        {"vec_add(vec_f16('[60000]'), vec_f16('[60000]'))", NULL,
         "vec_add: element 0 is 120000, beyond float16's 65504: scale the vector"},
        {"vec_add('[1]', '[1,2]')", NULL, "Vector dimension mistmatch. First vector has 1 "
         "dimensions, while the second has 2 dimensions."},
        {"vec_add('[1]', vec_int8('[1]'))", NULL, "Vector type mistmatch. First vector has type "
         "float32, while the second has type int8."},
        {"vec_add('x', '[1]')", NULL, "Error reading 1st vector: " NO_ARRAY},
        {"vec_add('[1]', NULL)", NULL, "Error reading 2nd vector: " FOUND "NULL"},
        {"vec_add(vec_bit(x'01'), vec_bit(x'01'))", NULL, "Cannot add two bitvectors together."},
        {"vec_sub(vec_bit(x'01'), vec_bit(x'01'))", NULL,
         "Cannot subtract two bitvectors together."},
        {"vec_to_json(vec_slice('[1,2,3]', 1, 3))", "[2.000000,3.000000]", NULL},
        {"vec_to_json(vec_slice('[1,2,3]', '1', '3'))", "[2.000000,3.000000]", NULL},
        {"vec_to_json(vec_slice(vec_f16('[1,2,3]'), 1, 3))", "[2,3]", NULL},
        {"hex(vec_slice(vec_bit(x'0102'), 8, 16))", "02", NULL},
        {"vec_slice('[1,2,3]', -1, 2)", NULL, "slice 'start' index must be a postive number."},
        {"vec_slice('[1,2,3]', 0, -2)", NULL, "slice 'end' index must be a postive number."},
        {"vec_slice('[1,2,3]', 4, 2)", NULL,
         "slice 'start' index is greater than the number of dimensions"},
        {"vec_slice('[1,2,3]', 0, 4)", NULL,
         "slice 'end' index is greater than the number of dimensions"},
        {"vec_slice('[1,2,3]', 2, 1)", NULL, "slice 'start' index is greater than 'end' index"},
        {"vec_slice('[1,2,3]', 1, 1)", NULL, "slice 'start' index is equal to the 'end' index, "
         "vectors must have non-zero length"},
        {"vec_slice(vec_bit(x'0102'), 1, 8)", NULL, "start index must be divisible by 8."},
        {"vec_slice(vec_bit(x'0102'), 0, 9)", NULL, "end index must be divisible by 8."},
        {"vec_slice(NULL, 0, 1)", NULL, FOUND "NULL"},
        {"vec_to_json(vec_normalize('[3,4]'))", "[0.600000,0.800000]", NULL},
        {"vec_to_json(vec_normalize('[0,0]'))", "[null,null]", NULL},
        {"vec_to_json(vec_normalize('[1e30,1e30]'))", "[0.707107,0.707107]", NULL},
        {"vec_type(vec_normalize(vec_f16('[3,4]')))", "float16", NULL},
        {"vec_normalize(vec_int8('[1]'))", NULL,
         "only float32 vectors are supported when normalizing"},
        {"vec_normalize(NULL)", NULL, FOUND "NULL"},
        {"vec_to_json(vec_scale('[1,-2]', 0.5))", "[0.500000,-1.000000]", NULL},
        {"vec_to_json(vec_scale(vec_int8('[10,-3]'), '2'))", "[20,-6]", NULL},
        {"vec_scale(vec_int8('[100]'), 2)", NULL,
         "vec_scale: element 0 is 200; int8 holds -128 to 127: scale the vector"},
        {"vec_scale('[1]', 'x')", NULL, "vec_scale: the 2nd argument must be a number"},
        {"vec_scale('[1]', NULL)", NULL, "vec_scale: the 2nd argument must be a number"},
        {"vec_scale(vec_bit(x'01'), 2)", NULL, "Cannot scale a bitvector."},
    };
    CHECK_ROWS(rows);
}

TEST(distances_are_those_of_sqlite_vec)
{
    static const struct row rows[] = {
        {"vec_distance_l2('[1,2]', '[2,4]')", "2.2360680103302", NULL},
        {"vec_distance_L2(vec_int8('[1,2]'), vec_int8('[2,4]'))", "2.2360680103302", NULL},
        {"vec_distance_l2(vec_bit(x'01'), vec_bit(x'01'))", NULL,
         "Cannot calculate L2 distance between two bitvectors."},
        {"vec_distance_l2('[1e30]', '[-1e30]')", "Inf", NULL},
        {"vec_distance_l2(vec_f16('[1,2]'), vec_f16('[2,4]'))", "2.2360680103302", NULL},
        {"vec_distance_l2(vec_bf16('[1,2]'), vec_bf16('[2,4]'))", "2.2360680103302", NULL},
        {"vec_distance_l1('[1,2]', '[2,4.5]')", "3.5", NULL},
        {"vec_distance_l1(vec_int8('[1,2]'), vec_int8('[2,4]'))", "3", NULL},
        {"typeof(vec_distance_l1(vec_int8('[1,2]'), vec_int8('[2,4]')))", "integer", NULL},
        {"vec_distance_l1('[1e38]', '[-3e38]')", "3.99999997352633e+38", NULL},
        {"vec_distance_l1(vec_f16('[1,2]'), vec_f16('[2,4.5]'))", "3.5", NULL},
        {"vec_distance_l1(vec_bit(x'01'), vec_bit(x'01'))", NULL,
         "Cannot calculate L1 distance between two bitvectors."},
        {"vec_distance_cosine('[1,2]', '[2,4.5]')", "0.001031459774822", NULL},
        {"vec_distance_cosine('[0,0]', '[2,4.5]')", "NULL", NULL},
        {"vec_distance_cosine(vec_int8('[1,2]'), vec_int8('[2,4]'))", "2.22044604925031e-16",
         NULL},
        {"vec_distance_cosine(vec_int8('[0,0]'), vec_int8('[2,4]'))", "NULL", NULL},
        {"vec_distance_cosine(vec_bit(x'01'), vec_bit(x'01'))", NULL,
         "Cannot calculate cosine distance between two bitvectors."},
        {"vec_distance_hamming(vec_bit(x'01'), vec_bit(x'ff'))", "7.0", NULL},
        {"vec_distance_hamming('[1]', '[1]')", NULL,
         "Cannot calculate hamming distance between two float32 vectors."},
        {"vec_distance_hamming(vec_int8('[1]'), vec_int8('[1]'))", NULL,
         "Cannot calculate hamming distance between two int8 vectors."},
        {"vec_distance_hamming(vec_f16('[1]'), vec_f16('[1]'))", NULL,
         "Cannot calculate hamming distance between two float16 vectors."},
        {"vec_distance_ip('[1,2]', '[3,4]')", "-11.0", NULL},
        {"vec_distance_ip(vec_int8('[1,2]'), vec_int8('[3,4]'))", "-11.0", NULL},
        {"vec_distance_ip(vec_bit(x'01'), vec_bit(x'01'))", NULL,
         "Cannot calculate inner product between two bitvectors."},
        {"vec_dot(vec_bf16('[1,2]'), vec_bf16('[3,4]'))", "11.0", NULL},
        {"vec_dot(vec_bit(x'01'), vec_bit(x'01'))", NULL,
         "Cannot calculate dot product between two bitvectors."},
        {"vec_distance('[1,2]', '[2,4]', 'L2')", "2.2360680103302", NULL},
        {"vec_distance('[1,2]', '[2,4]', 'l1')", "3.0", NULL},
        {"vec_distance('[1,0]', '[0,4]', 'cosine')", "1.0", NULL},
        {"vec_distance('[1,2]', '[2,4]', 'ip')", "-10.0", NULL},
        {"vec_distance(vec_bit(x'01'), vec_bit(x'ff'), 'hamming')", "7.0", NULL},
        {"vec_distance('[1]', '[1]', 'chebyshev')", NULL, "vec_distance: the metric is "
         "'chebyshev'; it may be l2, l1, cosine, ip or hamming"},
        {"vec_distance('[1]', '[1]', NULL)", NULL, "vec_distance: the metric is 'NULL'; it may be "
         "l2, l1, cosine, ip or hamming"},
        {"vec_distance_l2(json_array(1,2), x'0000803f00000040')", "0.0", NULL},
        {"vec_distance_cosine('[1]', x'00')", NULL, "Error reading 2nd vector: invalid float32 "
         "vector BLOB length. Must be divisible by 4, found 1"},
        {"vec_distance_ip('[1]', '[1,2]')", NULL, "Vector dimension mistmatch. First vector has 1 "
         "dimensions, while the second has 2 dimensions."},
        {"vec_distance_l2(vec_f16('[1]'), vec_bf16('[1]'))", NULL, "Vector type mistmatch. First "
         "vector has type float16, while the second has type bfloat16."},
    };
    CHECK_ROWS(rows);
}

TEST(quantised_vectors_are_those_of_sqlite_vec)
{
    static const struct row rows[] = {
        {"hex(vec_quantize_binary('[1,-1,1,-1,0,0,0,1]'))", "85", NULL},
        {"hex(vec_quantize_binary(vec_int8('[1,2,3,4,-5,0,0,1]')))", "8F", NULL},
        {"hex(vec_quantize_binary(vec_f16('[1,-1,1,-1,0,0,0,1]')))", "85", NULL},
        {"vec_type(vec_quantize_binary('[1,-1,1,-1,0,0,0,1]'))", "bit", NULL},
        {"vec_quantize_binary('[1]')", NULL,
         "Binary quantization requires vectors with a length divisible by 8"},
        {"vec_quantize_binary(vec_bit(x'01'))", NULL,
         "Can only binary quantize float or int8 vectors"},
        {"vec_quantize_binary(NULL)", NULL, FOUND "NULL"},
        {"vec_to_json(vec_quantize_int8('[1,0.5,0,-1,2,-2,0.999,-0.999,nan,inf,-inf]', 'unit'))",
         "[126,63,0,-128,127,-128,126,-127,127,127,-128]", NULL},
        {"vec_to_json(vec_quantize_int8(vec_bf16('[1,0.5,0,-1]'), 'UNIT'))", "[126,63,0,-128]",
         NULL},
        {"vec_quantize_int8('[1]', 'x')", NULL,
         "2nd argument to vec_quantize_int8() must be 'unit'."},
        {"vec_quantize_int8('[1]', NULL)", NULL,
         "2nd argument to vec_quantize_int8() must be 'unit'."},
        {"vec_quantize_int8(NULL, 'x')", NULL, FOUND "NULL"},
        {"vec_quantize_int8(vec_int8('[1]'), 'unit')", NULL,
         "invalid float32 vector BLOB length. Must be divisible by 4, found 1"},
    };
    CHECK_ROWS(rows);
}

/* numpy's bytes: version 1.0, a header of 128 bytes. */
#define NPY(descr, shape, data)                                                                    \
    "cast(x'934e554d5059' || x'0100' || x'7600' || "                                               \
    "format('%-117s', '{''descr'': ''" descr "'', ''fortran_order'': False, ''shape'': " shape     \
    ", }') || x'0a' || " data " as blob)"

TEST(vectors_go_to_other_forms_and_back)
{
    static const struct row rows[] = {
        {"vec_to_json('[0.1,3]', 'exact')", "[0.1,3]", NULL},
        {"vec_to_json('[nan,-inf]', 'exact')", "[null,-Inf]", NULL},
        {"vec_to_json('[1]', 'short')", NULL, "2nd argument to vec_to_json() must be 'exact'."},
        {"json_extract(json_array(vec_to_json('[1,2]')), '$[0][1]')", "2.0", NULL},
        {"vec_type(vec_from_json('[1,2]'))", "float32", NULL},
        {"vec_type(vec_from_json('[1,2]', 'float16'))", "float16", NULL},
        {"hex(vec_from_json('[1,0,0,0,0,0,0,1]', 'bit'))", "81", NULL},
        {"vec_from_json('[1,0]', 'bit')", NULL,
         "vec_from_json: bit vectors have a multiple of 8 elements, this has 2"},
        {"vec_from_json('[1,0,0,0,2,0,0,1]', 'bit')", NULL,
         "vec_from_json: element 4 is 2; bits are 0 or 1"},
        {"vec_from_json('[1]', 'x')", NULL, "vec_from_json: the type is 'x'; " CONVERT_TYPES},
        {"vec_from_json(x'00000000')", NULL,
         "vec_from_json: the 1st argument must be a TEXT such as '[1, 2]'"},
        {"vec_from_json('x', 'bit')", NULL, NO_ARRAY},
        {"vec_to_base64('[1,-2]')", "AACAPwAAAMA=", NULL},
        {"vec_to_base64(vec_bit(x'ff'))", "/w==", NULL},
        {"vec_to_json(vec_from_base64('AACAPwAAAMA='))", "[1.000000,-2.000000]", NULL},
        {"vec_to_json(vec_from_base64('ADwAwA==', 'float16'))", "[1,-2]", NULL},
        {"vec_to_json(vec_from_base64('/w==', 'bit'))", "[1,1,1,1,1,1,1,1]", NULL},
        {"vec_from_base64('/w==')", NULL,
         "vec_from_base64: the text holds 1 bytes; a float32 vector needs a multiple of 4"},
        {"vec_from_base64('!')", NULL,
         "vec_from_base64: the text of 1 bytes is no base64 (RFC 4648, padded)"},
        {"vec_from_base64('')", NULL, EMPTY},
        {"vec_from_base64(x'00')", NULL, "vec_from_base64: the 1st argument must be a TEXT"},
        {"vec_from_base64('AAAA', 'y')", NULL, "vec_from_base64: the type is 'y'; " CONVERT_TYPES},
        {"vec_to_base64(1)", NULL, FOUND "INTEGER"},
        {"cast(substr(vec_to_npy('[1,2]'), 11, 61) as text)",
         "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }    ", NULL},
        {"length(vec_to_npy('[1,2]'))", "136", NULL},
        {"vec_to_json(vec_from_npy(vec_to_npy('[1,2.5]')))", "[1.000000,2.500000]", NULL},
        {"vec_to_json(vec_from_npy(vec_to_npy(vec_f16('[1,2.5]'))))", "[1,2.5]", NULL},
        {"vec_to_json(vec_from_npy(vec_to_npy(vec_bf16('[1,2.5]'))))", "[1.000000,2.500000]",
         NULL},
        {"vec_to_json(vec_from_npy(vec_to_npy(vec_int8('[1,-2]'))))", "[1,-2]", NULL},
        {"vec_to_json(vec_from_npy(vec_to_npy(vec_bit(x'81'))))", "[1,0,0,0,0,0,0,1]", NULL},
        {"vec_type(vec_from_npy(vec_to_npy(vec_bit(x'81'))))", "bit", NULL},
        {"vec_to_json(vec_from_npy(" NPY("|u1", "(2,)", "x'01ff'") "))", "[1.000000,255.000000]",
         NULL},
        {"vec_to_json(vec_from_npy(" NPY("<i4", "(1, 2)", "x'01000000feffffff'") "))",
         "[1.000000,-2.000000]", NULL},
        {"vec_to_json(vec_from_npy(" NPY("<f8", "(1,)", "x'000000000000f03f'") "))", "[1.000000]",
         NULL},
        {"vec_from_npy(" NPY("<f8", "(1,)", "x'0000000000000048'") ")", NULL,
         "vec_from_npy: element 0 is 6.80565e+38, beyond float32"},
        {"vec_from_npy(" NPY("<i8", "(1,)", "x'0000000000000048'") ")", NULL, "vec_from_npy: "
         "64-bit integers are ids, not vectors; a.astype('<f4') makes them float32"},
        {"vec_from_npy(" NPY("|i1", "(2, 2)", "x'01020304'") ")", NULL, "vec_from_npy: the array "
         "holds 2 vectors: say which, counted from 0, as 2nd argument, or read them all with "
         "vec_npy_each()"},
        {"hex(vec_from_npy(" NPY("|i1", "(2, 2)", "x'01020304'") ", 1))", "0304", NULL},
        {"vec_from_npy(" NPY("|i1", "(2, 2)", "x'01020304'") ", 2)", NULL,
         "vec_from_npy: there is no row 2; the array holds 2"},
        {"vec_from_npy(" NPY("|i1", "(2, 2)", "x'01020304'") ", -1)", NULL,
         "vec_from_npy: there is no row -1; the array holds 2"},
        {"vec_from_npy(" NPY("|i1", "(2, 2)", "x'010203'") ", 0)", NULL, "vec_from_npy: the header "
         "says 2 vectors of 2 elements of 1 bytes; 3 bytes follow it"},
        {"vec_from_npy(" NPY("|i1", "(9223372036854775807, 4)", "x''") ", 0)", NULL,
         "vec_from_npy: the header says 9223372036854775807 vectors of 4 elements of 1 bytes; 0 "
         "bytes follow it"},
        {"vec_from_npy(" NPY("|i1", "(0,)", "x''") ")", NULL, "vec_from_npy: " EMPTY},
        {"vec_from_npy(" NPY("|b1", "(2,)", "x'0101'") ")", NULL,
         "vec_from_npy: bit vectors have a multiple of 8 elements, not 2"},
        {"vec_from_npy(x'0102')", NULL, "vec_from_npy: is no npy file: it does not begin with "
         "\\x93NUMPY and a version"},
        {"vec_from_npy('[1]')", NULL,
         "vec_from_npy: the 1st argument must be a BLOB, the bytes of an .npy file"},
        {"vec_to_npy(NULL)", NULL, FOUND "NULL"},
    };
    CHECK_ROWS(rows);
}

TEST(rows_come_of_vectors_and_arrays)
{
    static const struct row rows[] = {
        {"group_concat(rowid || ':' || value || typeof(value)) FROM vec_each('[1,2.5]')",
         "0:1.0real,1:2.5real", NULL},
        {"group_concat(rowid || ':' || value || typeof(value)) FROM vec_each(vec_int8('[1,2]'))",
         "0:1integer,1:2integer", NULL},
        {"group_concat(value) FROM vec_each(vec_f16('[1,2]'))", "1.0,2.0", NULL},
        {"group_concat(value, '') FROM vec_each(vec_bit(x'0180'))", "0000000110000000", NULL},
        {"group_concat(value) FROM vec_each", NULL, "no query solution"},
        {"group_concat(value) FROM vec_each('x')", NULL, "SQL logic error"},
        {"group_concat(value) FROM vec_each(NULL)", NULL, "SQL logic error"},
        {"typeof(vector) FROM vec_each('[1]')", "null", NULL},
        {"group_concat(rowid || hex(vector)) FROM vec_npy_each("
         NPY("|i1", "(3, 2)", "x'010203040506'") ")", "00102,10304,20506", NULL},
        {"group_concat(vec_to_json(vector)) FROM vec_npy_each("
         NPY("<f2", "(2, 1)", "x'003c00c0'") ")", "[1],[-2]", NULL},
        {"count(*) FROM vec_npy_each(" NPY("<f4", "(0, 3)", "x''") ")", "0", NULL},
        {"count(*) FROM vec_npy_each", NULL, "no query solution"},
        {"count(*) FROM vec_npy_each('[1]')", NULL,
         "vec_npy_each: the 1st argument must be a BLOB, the bytes of an .npy file"},
        /* once for each row to its left */
        {"group_concat(q.value || '/' || e.value) FROM json_each('[\"[1,2]\",\"[3]\"]') q, "
         "vec_each(q.value) e", "[1,2]/1.0,[1,2]/2.0,[3]/3.0", NULL},
    };
    CHECK_ROWS(rows);
}

TEST(vectors_are_summed_over_rows)
{
    static const struct row rows[] = {
        {"vec_to_json(vec_mean(value)) FROM json_each('[\"[1,2]\",\"[3,5]\",null]')",
         "[2.000000,3.500000]", NULL},
        {"vec_to_json(vec_sum(value)) FROM json_each('[\"[1,2]\",\"[3,5]\"]')",
         "[4.000000,7.000000]", NULL},
        {"vec_mean(value) FROM json_each('[]')", "NULL", NULL},
        {"vec_sum(value) FROM json_each('[null]')", "NULL", NULL},
        {"vec_to_json(vec_mean(vec_int8(value))) FROM json_each('[\"[100]\",\"[101]\"]')",
         "[100.500000]", NULL},
        {"vec_to_json(vec_sum(vec_f16(value))) FROM json_each('[\"[60000]\",\"[60000]\"]')",
         "[120000.000000]", NULL},
        {"vec_sum(value) FROM json_each('[\"[1,2]\",\"[3]\"]')", NULL,
         "vector 2 is float32 of 1 dimensions, while the first is float32 of 2"},
        {"vec_sum(vec_bit(x'00')) FROM json_each('[1]')", NULL,
         "Cannot add two bitvectors together."},
        {"vec_mean(value) FROM json_each('[\"[1]\",\"x\"]')", NULL, NO_ARRAY},
        {"group_concat(m) FROM (SELECT vec_to_json(vec_mean(value), 'exact') m FROM "
         "json_each('[\"[1]\",\"[2]\",\"[4]\"]') GROUP BY key % 2)", "[2.5],[2]", NULL},
    };
    CHECK_ROWS(rows);
}

TEST(vectors_are_checked)
{
    static const struct row rows[] = {
        {"vec_valid('[1,2]')", "1", NULL},
        {"vec_valid('[1,2]', 2)", "1", NULL},
        {"vec_valid('[1,2]', 3)", "0", NULL},
        {"vec_valid('[1,2]', NULL, 'float32')", "1", NULL},
        {"vec_valid('[1,nan]')", "0", NULL},
        {"vec_valid('[inf]', 1)", "0", NULL},
        {"vec_valid(x'007c', 1, 'float16')", "0", NULL},
        {"vec_valid(x'003c', 1, 'float16')", "1", NULL},
        {"vec_valid(x'003c', 16, 'bit')", "1", NULL},
        {"vec_valid(vec_int8('[1]'), 1, 'float32')", "0", NULL},
        {"vec_valid('hello')", "0", NULL},
        {"vec_valid(7)", "0", NULL},
        {"vec_valid(NULL, 2)", "NULL", NULL},
        {"vec_valid('[1]', 1, 'double')", NULL, "vec_valid: the type is 'double'; " CONVERT_TYPES},
        {"vec_valid()", NULL, "vec_valid takes a vector, and optionally its dimension and type"},
        {"vec_version()", "v0.1.9+mneme.0.1.0", NULL},
        {"substr(vec_debug(), 1, 15)", "Version: v0.1.9", NULL},
    };
    CHECK_ROWS(rows);
}

TEST(json_arrays_are_asked_for_members)
{
    static const struct row rows[] = {
        {"json_contains('[\"a\",\"b\"]', 'b')", "1", NULL},
        {"json_contains('[\"a\",\"b\"]', 'c')", "0", NULL},
        {"json_contains('[1,2.0]', 2)", "1", NULL},
        {"json_contains('[1,2]', 2.0)", "1", NULL},
        {"json_contains('[\"2\"]', 2)", "0", NULL},
        {"json_contains('[2]', '2')", "0", NULL},
        {"json_contains('[[1]]', 1)", "0", NULL},
        {"json_contains(json_array('\xc3\xa9'), '\xc3\xa9')", "1", NULL},
        {"json_contains('[\"\\u00e9\"]', '\xc3\xa9')", "1", NULL},
        {"json_contains('{\"a\":1}', 1)", "0", NULL},
        {"json_contains('garbage', 'g')", "0", NULL},
        {"json_contains(5, 5)", "0", NULL},
        {"json_contains('[null]', NULL)", "NULL", NULL},
        {"json_contains(NULL, 1)", "NULL", NULL},
        {"json_contains('[1]', x'01')", "0", NULL},
    };
    CHECK_ROWS(rows);
}

TEST(functions_may_be_used_where_sqlite_wants_pure_ones)
{
    sqlite3 *db = open_db();
    char *message = NULL;
    int rc = sqlite3_exec(db,
                          "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB CHECK (vec_valid(v, 2)));"
                          "CREATE INDEX t_norm ON t (vec_distance_l2(v, '[0,0]'));"
                          "PRAGMA trusted_schema = off;"
                          "CREATE VIEW w AS SELECT id, vec_to_json(v) j FROM t;"
                          "INSERT INTO t VALUES (1, vec_f32('[3,4]')), (2, vec_f32('[1,0]'));",
                          NULL, NULL, &message);
    CHECKF(rc == SQLITE_OK, "%s", message);
    char text[200];
    CHECK(ask(db, "j FROM w WHERE id = 1", text, sizeof text));
    CHECK_STR(text, "[3.000000,4.000000]");
    CHECK(ask(db, "id FROM t WHERE vec_distance_l2(v, '[0,0]') > 4", text, sizeof text));
    CHECK_STR(text, "1");
    CHECK(sqlite3_exec(db, "INSERT INTO t VALUES (3, vec_f32('[1,2,3]'))", NULL, NULL, NULL) ==
          SQLITE_CONSTRAINT);
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

static void other_f32(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    (void)args;
    sqlite3_result_text(ctx, "another library's", -1, SQLITE_STATIC);
}

TEST(functions_of_another_library_are_replaced_or_it_is_said_why_not)
{
    sqlite3 *db;
    sqlite3_stmt *stmt;
    char *message = NULL, text[100];
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    CHECK_EQ(sqlite3_create_function_v2(db, "vec_f32", 1, SQLITE_UTF8, NULL, other_f32, NULL, NULL,
                                        NULL), SQLITE_OK);
    CHECK_EQ(sqlite3_prepare_v2(db, "SELECT 1 UNION SELECT 2", -1, &stmt, NULL), SQLITE_OK);
    CHECK_EQ(sqlite3_step(stmt), SQLITE_ROW);
    CHECK_EQ(mn_sql_register(db, &message), SQLITE_BUSY);
    CHECK_HAS(message, "functions of the same names are there (sqlite-vec's?)");
    CHECK_HAS(message, "load Mneme first, or by .load");
    sqlite3_free(message);
    sqlite3_finalize(stmt);
    CHECK_EQ(mn_sql_register(db, &message), SQLITE_OK);
    CHECK(ask(db, "vec_to_json(vec_f32('[1]'))", text, sizeof text));
    CHECK_STR(text, "[1.000000]");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* ---- Against a plain model ------------------------------------------------------------------ */

static void bind_vector(sqlite3_stmt *stmt, int at, const float *x, size_t dim)
{
    CHECK_EQ(sqlite3_bind_blob(stmt, at, x, (int)(dim * sizeof *x), SQLITE_TRANSIENT), SQLITE_OK);
}

static double evaluate(sqlite3 *db, const char *sql, const float *a, const float *b, size_t dim)
{
    sqlite3_stmt *stmt;
    CHECK_EQ(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    bind_vector(stmt, 1, a, dim);
    bind_vector(stmt, 2, b, dim);
    CHECKF(sqlite3_step(stmt) == SQLITE_ROW, "%s: %s", sql, sqlite3_errmsg(db));
    double got = sqlite3_column_double(stmt, 0);
    sqlite3_finalize(stmt);
    return got;
}

struct sums {
    double l2, l1, dot, norm_a, norm_b;
};

static struct sums model(const float *a, const float *b, size_t dim)
{
    struct sums s = {0, 0, 0, 0, 0};
    for (size_t i = 0; i < dim; i++) {
        double x = (double)a[i], y = (double)b[i];
        s.l2 += (x - y) * (x - y);
        s.l1 += fabs(x - y);
        s.dot += x * y;
        s.norm_a += x * x;
        s.norm_b += y * y;
    }
    return s;
}

static void check_distances(sqlite3 *db, const char *left, const char *right, const float *a,
                            const float *b, size_t dim)
{
    struct sums s = model(a, b, dim);
    double cosine = 1 - s.dot / sqrt(s.norm_a * s.norm_b), most = 1e-4 * (s.norm_a + s.norm_b);
    const struct {
        const char *name;
        double want, tolerance;
    } cases[] = {{"vec_distance_l2", sqrt(s.l2), 1e-5 * sqrt(s.l2)},
                 {"vec_distance_l1", s.l1, 1e-9 * s.l1},
                 {"vec_distance_cosine", cosine, 1e-4},
                 {"vec_distance_ip", -s.dot, most},
                 {"vec_dot", s.dot, most}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char sql[200];
        snprintf(sql, sizeof sql, "SELECT %s(%s, %s)", cases[i].name, left, right);
        double got = evaluate(db, sql, a, b, dim);
        CHECKF(fabs(got - cases[i].want) <= cases[i].tolerance,
               "%s of %zu: got %.9g, want %.9g", sql, dim, got, cases[i].want);
    }
}

/* Integers of a small range are the same in every type, so that one model serves all. Also beyond
 * the length that a kernel takes at once. */
TEST(distances_of_every_type_agree_with_doubles)
{
    static const char *const as[][2] = {
        {"?1", "?2"},
        {"vec_f16(vec_f32(?1))", "vec_f16(vec_f32(?2))"},
        {"vec_bf16(vec_f32(?1))", "vec_bf16(vec_f32(?2))"},
        {"vec_convert(?1, 'int8')", "vec_convert(?2, 'int8')"}};
    static const size_t dims[] = {1, 7, 8, 33, 384, 16384, 16385, 40001};
    static float a[40001], b[40001];
    struct test_rng rng = {7};
    sqlite3 *db = open_db();
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
        for (size_t i = 0; i < dims[d]; i++) {
            a[i] = (float)test_below(&rng, 61) - 30.5f;
            b[i] = (float)test_below(&rng, 61) - 30.5f;
            a[i] = a[i] < 0 ? floorf(a[i]) : ceilf(a[i]); /* not 0: cosine */
            b[i] = b[i] < 0 ? floorf(b[i]) : ceilf(b[i]);
        }
        for (size_t t = 0; t < sizeof as / sizeof *as; t++)
            check_distances(db, as[t][0], as[t][1], a, b, dims[d]);
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(hamming_counts_the_bits_that_differ)
{
    struct test_rng rng = {8};
    sqlite3 *db = open_db();
    for (size_t bytes = 1; bytes < 5000; bytes = bytes * 3 + 1) {
        unsigned char a[5000], b[5000];
        int want = 0;
        for (size_t i = 0; i < bytes; i++) {
            a[i] = (unsigned char)test_rand(&rng);
            b[i] = (unsigned char)test_rand(&rng);
            want += __builtin_popcount((unsigned)(a[i] ^ b[i]));
        }
        sqlite3_stmt *stmt;
        CHECK_EQ(sqlite3_prepare_v2(db, "SELECT vec_distance_hamming(vec_bit(?), vec_bit(?))", -1,
                                    &stmt, NULL), SQLITE_OK);
        CHECK_EQ(sqlite3_bind_blob(stmt, 1, a, (int)bytes, SQLITE_STATIC), SQLITE_OK);
        CHECK_EQ(sqlite3_bind_blob(stmt, 2, b, (int)bytes, SQLITE_STATIC), SQLITE_OK);
        CHECK_EQ(sqlite3_step(stmt), SQLITE_ROW);
        CHECK_EQ(sqlite3_column_int(stmt, 0), want);
        sqlite3_finalize(stmt);
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* Bytes at random, and texts near to vectors: an answer or a sentence, nothing else. */
TEST(any_value_is_answered_or_refused)
{
    static const char *const sql[] = {
        "SELECT vec_to_json(?)", "SELECT vec_to_json(vec_f16(?))", "SELECT vec_from_npy(?)",
        "SELECT vec_int8(?)", "SELECT vec_from_base64(?)", "SELECT count(*) FROM vec_npy_each(?)",
        "SELECT json_contains(?, 1)", "SELECT vec_from_json(?, 'bit')"};
    static const char letters[] = "[[[],,  0123456789.-+eExXnainf{}\"";
    struct test_rng rng = {9};
    sqlite3 *db = open_db();
    for (size_t k = 0; k < sizeof sql / sizeof *sql; k++) {
        sqlite3_stmt *stmt;
        CHECK_EQ(sqlite3_prepare_v2(db, sql[k], -1, &stmt, NULL), SQLITE_OK);
        for (size_t i = 0; i < test_budget(3000); i++) {
            char bytes[200] = "\x93NUMPY\1\0\x40\0{'descr': '<f4', 'fortran_order': False, "
                              "'shape': (1, 2), }            \n";
            size_t n = test_below(&rng, sizeof bytes);
            bool text = i % 2 == 0;
            for (size_t j = text ? 0 : test_below(&rng, 120); j < n; j++)
                bytes[j] = text ? letters[test_below(&rng, sizeof letters - 1)]
                                : (char)test_rand(&rng);
            if (text)
                bytes[0] = '[';
            int rc = text ? sqlite3_bind_text(stmt, 1, bytes, (int)n, SQLITE_STATIC)
                          : sqlite3_bind_blob(stmt, 1, bytes, (int)n, SQLITE_STATIC);
            CHECK_EQ(rc, SQLITE_OK);
            rc = sqlite3_step(stmt);
            CHECKF(rc == SQLITE_ROW || rc == SQLITE_ERROR, "%s: %d", sql[k], rc);
            sqlite3_reset(stmt);
        }
        sqlite3_finalize(stmt);
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* ---- Memory --------------------------------------------------------------------------------- */

static const char *const thrifty[] = {
    "vec_to_json(vec_add(vec_f16('[1,2,3]'), vec_f16('[1,2,3]')))",
    "vec_to_json(vec_convert(vec_normalize('[3,4]'), 'bfloat16'), 'exact')",
    "vec_distance_cosine(vec_bf16('[1,2]'), vec_bf16('[2,1]'))",
    "vec_distance('[1,2]', '[2,1]', 'l1')",
    "vec_to_json(vec_sub(vec_int8('[1]'), vec_int8('[2]')))",
    "hex(vec_quantize_binary('[1,2,3,4,5,6,7,-8]'))",
    "hex(vec_quantize_int8('[1,-1]', 'unit'))",
    "vec_to_json(vec_scale(vec_slice('[1,2,3]', 0, 2), 3))",
    "vec_to_base64(vec_from_base64(vec_to_base64('[1,2]')))",
    "vec_to_json(vec_from_npy(vec_to_npy(vec_bit(x'0102'))))",
    "vec_to_json(vec_from_npy(vec_to_npy(vec_bf16('[1]'))))",
    "hex(vec_from_json('[1,0,0,0,0,0,0,1]', 'bit'))",
    "vec_valid('[1,2]', 2, 'float16')",
    "vec_to_json(vec_mean(value)) FROM json_each('[\"[1]\",\"[2]\"]')",
    "sum(value) FROM vec_each('[1,2,3]')",
    "count(vector) FROM vec_npy_each(vec_to_npy('[1,2]'))",
    "json_contains('[\"a\"]', 'a')",
    "vec_version() || vec_debug()",
};

/* The statement with the n-th allocation failing; returns whether it came to that. */
static bool run_short_of_memory(sqlite3 *db, const char *sql, const char *want, uint64_t n)
{
    sqlite3_stmt *stmt = NULL;
    oom_arm(n, false);
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    const char *got = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    bool fired = oom_fired() > 0;
    oom_arm(0, false);
    if (rc == SQLITE_ROW)
        CHECKF(got ? strcmp(got, want) == 0 : fired, "%s, allocation %d: %s", sql, (int)n,
               got ? got : "NULL");
    else
        CHECKF(rc == SQLITE_NOMEM, "%s, allocation %d: code %d, %s", sql, (int)n, rc,
               sqlite3_errmsg(db));
    sqlite3_finalize(stmt);
    return fired;
}

TEST(memory_that_runs_out_is_said_and_nothing_is_lost)
{
    CHECK(oom_install());
    sqlite3 *db = open_db();
    for (size_t i = 0; i < sizeof thrifty / sizeof *thrifty; i++) {
        char want[4000], sql[300];
        CHECKF(ask(db, thrifty[i], want, sizeof want), "%s: %s", thrifty[i], want);
        snprintf(sql, sizeof sql, "SELECT %s", thrifty[i]);
        for (uint64_t n = 1; run_short_of_memory(db, sql, want, n); n++) {
        }
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST_MAIN
