/* Numbers, JSON, UTF-8 and base64 against other implementations: the C library and jansson. */
#include "src/formats/jscan.h"
#include "storage/base/number.h"
#include "src/formats/text.h"
#include "tests/test.h"

#include <float.h>
#include <jansson.h>
#include <locale.h>

static bool scan_f32(const char *text, float *out)
{
    struct number n;
    const char *end = text + strlen(text);
    return number_scan(text, end, false, &n) == end && number_f32(&n, out);
}

static void check_as_strtof(const char *text)
{
    float got = 0, want = strtof(text, NULL);
    bool ok = scan_f32(text, &got);
    CHECKF(ok == (isfinite(want) != 0), "%s: read %d, strtof has %g", text, ok, (double)want);
    CHECKF(!ok || memcmp(&got, &want, sizeof got) == 0, "%s: %.9g, strtof has %.9g", text,
           (double)got, (double)want);
}

TEST(numbers_are_rounded_like_the_c_library_does)
{
    static const char *const hard[] = {
        "0", "-0", "-0.0", "1e-45", "7e-46", "0.70064923216240853e-45", "1.1754943e-38",
        "1.17549429e-38", "3.4028235e38", "3.4028236e38", "1e39", "16777217", "16777217.0000001",
        /* halfway between two floats, and just beside it beyond what a double tells */
        "1.00000005960464477539062500", "1.00000005960464477539062501",
        "1.00000005960464477539062499", "8388609.5", "8388608.5000000000000001",
        "12345678901234567890123", "0.000000000000000000000000000000000000000000001234",
        "1e-400", "1e22", "1e23", "9007199254740993", "123456789012345678e-10"};
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++)
        check_as_strtof(hard[i]);
    struct test_rng rng = {11};
    for (size_t i = 0; i < test_budget(100000); i++) {
        char text[64];
        uint32_t bits = (uint32_t)test_rand(&rng);
        float x;
        memcpy(&x, &bits, sizeof x);
        if (!isfinite(x))
            continue;
        int digits = 1 + (int)test_below(&rng, 20);
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        check_as_strtof(text);
    }
}

TEST(written_numbers_read_back)
{
    struct test_rng rng = {12};
    size_t chars = 0, n = test_budget(100000);
    for (size_t i = 0; i < n; i++) {
        char text[NUMBER_TEXT];
        uint32_t bits = (uint32_t)test_rand(&rng);
        float x, back;
        memcpy(&x, &bits, sizeof x);
        if (i % 2 || !isfinite(x))
            x = (float)test_normal(&rng);
        CHECK_EQ(number_put_f32(text, x), strlen(text));
        chars += i % 2 ? strlen(text) : 0;
        CHECKF(scan_f32(text, &back) && memcmp(&x, &back, sizeof x) == 0, "%a became %s", (double)x,
               text);
        uint64_t wide = test_rand(&rng);
        double d, d_back;
        memcpy(&d, &wide, sizeof d);
        d = isfinite(d) ? d : test_normal(&rng);
        struct number number;
        size_t len = number_put_f64(text, d);
        CHECKF(number_scan(text, text + len, false, &number) == text + len && !number.integer &&
                   number_f64(&number, &d_back) && d == d_back,
               "%a became %s", d, text);
    }
    test_note("%.1f characters a normal float", (double)chars / ((double)n / 2));
    CHECK(chars < n / 2 * 12);
}

TEST(a_comma_in_the_locale_changes_nothing)
{
    float x;
    char text[NUMBER_TEXT];
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "fr_FR.UTF-8"))
        test_skip("no locale with a decimal comma");
    bool ok = scan_f32("1.00000005960464477539062501", &x);
    number_put_f32(text, 1.5e30f);
    setlocale(LC_NUMERIC, "C");
    CHECK(ok && x > 1);
    CHECK_STR(text, "1.5e+30");
}

TEST(integers_stop_at_64_bits)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t want;
    } cases[] = {
        {"9223372036854775807", true, INT64_MAX}, {"9223372036854775808", false, 0},
        {"-9223372036854775808", true, INT64_MIN}, {"-9223372036854775809", false, 0},
        {"99999999999999999999", false, 0},       {"-0", true, 0},
        {"1.0", false, 0},                        {"1e2", false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct number n;
        int64_t got = 0;
        const char *end = cases[i].text + strlen(cases[i].text);
        CHECK(number_scan(cases[i].text, end, false, &n) == end);
        CHECKF(number_i64(&n, &got) == cases[i].ok && (!cases[i].ok || got == cases[i].want), "%s",
               cases[i].text);
    }
}

TEST(strict_and_lax_numbers_differ)
{
    static const struct {
        const char *text;
        int strict, lax; /* characters taken; 0: none is a number */
    } cases[] = {
        {"1", 1, 1},   {"+1", 0, 2},   {".5", 0, 2},  {"5.", 0, 2},  {"01", 0, 2}, {"-", 0, 0},
        {"1e", 0, 0},  {"1e+", 0, 0},  {"nan", 0, 0}, {"inf", 0, 0}, {".", 0, 0},
        {"1.5e-3x", 6, 6}, {"0x10", 1, 1}, {"", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int lax = 0; lax < 2; lax++) {
            struct number n;
            const char *text = cases[i].text;
            const char *end = number_scan(text, text + strlen(text), lax, &n);
            CHECKF((end ? (int)(end - text) : 0) == (lax ? cases[i].lax : cases[i].strict),
                   "'%s', lax %d", text, lax);
        }
}

TEST(halves_convert_like_their_definition)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint16_t half = (uint16_t)h;
        int exponent = (half >> 10) & 31, mantissa = half & 1023;
        if (exponent == 31)
            continue;
        double want = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        want = half & 0x8000 ? -want : want;
        float got = number_from_half(half);
        CHECKF((double)got == want, "0x%04x: %g, not %g", half, (double)got, want);
        CHECK_EQ(number_to_half(got), half);
        if ((half & 0x7FFF) >= 0x7BFF)
            continue;
        /* halfway to the next: to even; a little more or less: to the nearer */
        float next = number_from_half((uint16_t)(half + 1)), middle = (got + next) / 2;
        CHECK_EQ(number_to_half(middle), half & 1 ? half + 1 : half);
        CHECK_EQ(number_to_half(nextafterf(middle, got)), half);
        CHECK_EQ(number_to_half(nextafterf(middle, next)), half + 1);
    }
    CHECK_EQ(number_to_half(65519.996f), 0x7BFF);
    CHECK_EQ(number_to_half(65520), 0x7C00);
    CHECK_EQ(number_to_half(-FLT_MAX), 0xFC00);
}

/* What jscan_skip and jansson say about a text. Ours is stricter in one thing: depth. */
static void check_as_jansson(const char *text, size_t len)
{
    char copy[256];
    memcpy(copy, text, len);
    struct jscan j = {.at = copy, .end = copy + len};
    bool ours = jscan_skip(&j) && jscan_peek(&j) == JSCAN_END;
    json_error_t error;
    json_t *tree = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    bool theirs = tree != NULL;
    json_decref(tree);
    /* jansson stops at numbers beyond its types; ours do only when the value is asked for */
    if (!theirs && json_error_code(&error) == json_error_numeric_overflow)
        return;
    CHECKF(ours == theirs, "%.*s: ours %d (%s), jansson %d (%s)", (int)len, text, ours,
           j.why ? j.why : "", theirs, error.text);
}

TEST(json_agrees_with_jansson_on_changed_texts)
{
    static const char *const seeds[] = {
        "{\"a\":[1,-2.5e-3,0,true,false,null],\"b\":{\"c\":\"x\\u00e9\\n\\\"\"},\"d\":[],\"e\":{}}",
        "[[[]],{\"k\":[{}]}]", "\"\\ud83d\\ude00 \xC3\xA9\xF0\x9F\x98\x80\"", " [1 , 2 ]\n",
        "-0.0", "[1e5,1E+5,1.0]"};
    static const char alphabet[] = "{}[],:\"\\0123456789.eE+-truefalsn u\n\x01\x7F\x80\xC3\xE9\xF0";
    struct test_rng rng = {13};
    for (size_t i = 0; i < test_budget(60000); i++) {
        const char *seed = seeds[test_below(&rng, sizeof seeds / sizeof *seeds)];
        char text[128];
        size_t len = strlen(seed);
        memcpy(text, seed, len);
        for (uint64_t k = test_below(&rng, 4); k > 0 && len > 1; k--) {
            size_t at = (size_t)test_below(&rng, len);
            char c = alphabet[test_below(&rng, sizeof alphabet - 1)];
            switch (test_below(&rng, 3)) {
            case 0:
                text[at] = c;
                break;
            case 1:
                memmove(text + at, text + at + 1, len - at - 1);
                len--;
                break;
            default:
                memmove(text + at + 1, text + at, len - at);
                text[at] = c;
                len++;
            }
        }
        check_as_jansson(text, len);
    }
}

TEST(json_strings_decode_like_jansson)
{
    static const char *const texts[] = {"\"\"", "\"a\\u0000b\"", "\"\\ud83d\\ude00\\u20ac\\u00e9\"",
                                        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char copy[64], *text;
        size_t len;
        snprintf(copy, sizeof copy, "%s", texts[i]);
        struct jscan j = {.at = copy, .end = copy + strlen(copy)};
        json_t *want = json_loads(texts[i], JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        bool same = jscan_string(&j, &text, &len) && want && len == json_string_length(want) &&
                    memcmp(text, json_string_value(want), len + 1) == 0;
        json_decref(want);
        CHECKF(same, "%s", texts[i]);
    }
}

TEST(utf8_is_checked_to_the_byte)
{
    static const struct {
        const char *text;
        size_t len, good;
    } cases[] = {
        {"abc", 3, 3},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 9, 9},
        {"a\x80", 2, 1},             /* continuation alone */
        {"a\xC3", 2, 1},             /* cut */
        {"\xC0\xAF", 2, 0},          /* overlong */
        {"\xE0\x80\xAF", 3, 0},
        {"\xF0\x80\x80\xAF", 4, 0},
        {"\xED\xA0\x80", 3, 0},      /* surrogate */
        {"\xF4\x90\x80\x80", 4, 0},  /* beyond U+10FFFF */
        {"\xF5\x80\x80\x80", 4, 0},
        {"\xEF\xBF\xBF\xFF", 4, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECKF(utf8_valid_len(cases[i].text, cases[i].len) == cases[i].good, "case %zu", i);
    for (uint32_t code = 1; code < 0x110000; code += 7) {
        char text[4];
        if (code >= 0xD800 && code < 0xE000)
            continue;
        size_t len = utf8_put(text, code);
        CHECKF(utf8_char(text, text + len) == len, "U+%04X", code);
    }
}

TEST(base64_goes_both_ways)
{
    char data[50], text[80], back[80];
    struct test_rng rng = {14};
    for (size_t len = 0; len < sizeof data; len++) {
        size_t n = (len + 2) / 3 * 4, out = 0;
        for (size_t i = 0; i < len; i++)
            data[i] = (char)test_rand(&rng);
        base64_encode(data, len, text);
        CHECK(base64_decode(text, n, back, &out) && out == len && memcmp(data, back, len) == 0);
        CHECK(base64_decode(text, n, text, &out) && memcmp(data, text, len) == 0); /* in place */
    }
    base64_encode("any carnal pleas", 16, text);
    CHECK(memcmp(text, "YW55IGNhcm5hbCBwbGVhcw==", 24) == 0);
    static const char *const bad[] = {"A", "AAA", "A===", "====", "AA=A", "AAA*", "AA-A"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t out;
        CHECKF(!base64_decode(bad[i], strlen(bad[i]), back, &out), "%s", bad[i]);
    }
}

TEST_MAIN
