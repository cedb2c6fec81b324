/* What the program reads and writes as text: sizes, times, numbers, cells, JSON, CSV. The units are
 * compiled in: they are no part of a library. */
#include "tests/test.h"

#include "src/shell/print.c"
#include "src/shell/units.c"

void *need(void *memory)
{
    CHECK(memory != NULL);
    return memory;
}

int error_exit(const char *format, ...)
{
    (void)format;
    return EXIT_ERROR;
}

static const struct {
    const char *text;
    bool good;
    uint64_t bytes;
} sizes[] = {
    {"0", true, 0},
    {"4096", true, 4096},
    {"512MB", true, 512000000},
    {"64MiB", true, 64 << 20},
    {"64mib", true, 64 << 20},
    {"1g", true, 1 << 30},
    {"1.5k", true, 1536},
    {"2 GB", true, 2000000000},
    {".5m", true, 1 << 19},
    {"8000000T", true, 8000000ull << 40},
    {"", false, 0},
    {"MB", false, 0},
    {"-1", false, 0},
    {"+1", false, 0},
    {"1MBx", false, 0},
    {"0x10", false, 0},
    {"1e400", false, 0},
    {"9999999999T", false, 0},
    {"inf", false, 0},
    {"1 m b", false, 0},
};

TEST(sizes_are_read)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t bytes = 0;
        bool good = size_parse(sizes[i].text, &bytes);
        CHECKF(good == sizes[i].good && bytes == sizes[i].bytes, "'%s' gives %d, %" PRIu64,
               sizes[i].text, good, bytes);
    }
}

static const struct {
    const char *text;
    bool good;
    uint64_t us;
} times[] = {
    {"500ms", true, 500000}, {"10s", true, 10000000}, {"1.5h", true, 5400000000},
    {"2m", true, 120000000}, {"7us", true, 7},        {"0s", true, 0},
    {"10", false, 0},        {"s", false, 0},         {"-1s", false, 0},
    {"1 day", false, 0},     {"", false, 0},
};

TEST(times_need_a_unit)
{
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        uint64_t us = 0;
        bool good = time_parse(times[i].text, &us);
        CHECKF(good == times[i].good && us == times[i].us, "'%s' gives %d, %" PRIu64, times[i].text,
               good, us);
    }
}

TEST(numbers_are_read_whole)
{
    int64_t i = 0;
    uint64_t n = 0;
    double x = 0;
    CHECK(integer_parse("-9223372036854775808", &i) && i == INT64_MIN);
    CHECK(integer_parse("9223372036854775807", &i) && i == INT64_MAX);
    CHECK(integer_parse("+7", &i) && i == 7);
    CHECK(!integer_parse("9223372036854775808", &i));
    CHECK(!integer_parse("-9223372036854775809", &i));
    CHECK(!integer_parse("--1", &i) && !integer_parse("", &i) && !integer_parse("1.0", &i));
    CHECK(count_parse("1,000,000", &n) && n == 1000000);
    CHECK(count_parse("1_000", &n) && n == 1000);
    CHECK(!count_parse(",1", &n) && !count_parse("1,", &n) &&
          !count_parse("18446744073709551616", &n));
    CHECK(real_parse("-1.5e3", &x) && x == -1500);
    CHECK(!real_parse("1x", &x) && !real_parse("nan", &x) && !real_parse(" 1", &x) &&
          !real_parse("", &x) && !real_parse("1e999", &x));
}

TEST(amounts_are_written_for_people)
{
    char t[UNITS_TEXT];
    CHECK_STR(size_format(t, 0), "0 bytes");
    CHECK_STR(size_format(t, 1536), "1.5 KiB");
    CHECK_STR(size_format(t, UINT64_MAX), "16384 PiB");
    CHECK_STR(count_format(t, 999), "999");
    CHECK_STR(count_format(t, UINT64_MAX), "18,446,744,073,709,551,615");
    CHECK_STR(duration_format(t, 0.0000421), "42 us");
    CHECK_STR(duration_format(t, 0.0042), "4.2 ms");
    CHECK_STR(duration_format(t, 0.42), "420 ms");
    CHECK_STR(duration_format(t, 0.9999), "1.0 s");
    CHECK_STR(duration_format(t, 59.99), "1 m 00 s");
    CHECK_STR(duration_format(t, 3725), "1 h 02 m");
    CHECK_STR(duration_format(t, NAN), "0 us");
}

static const struct {
    const char *text;
    size_t most;
    const char *shown;
} cells[] = {
    {"plain", 0, "plain"},
    {"plain", 5, "plain"},
    {"plainer", 5, "plai…"},
    {"tab\there\n", 0, "tab\\there\\n"},
    {"\x1b[31mred", 0, "\\x1b[31mred"},
    {"\xc2\x9b"
     "1m",
     0, "\\x9b1m"}, /* a control character of two bytes */
    {"bad \xff byte", 0, "bad \\xff byte"},
    {"\xed\xa0\x80", 0, "\\xed\\xa0\\x80"}, /* a surrogate is no character */
    {"\xc0\x80", 0, "\\xc0\\x80"},          /* overlong */
    {"a\xe2\x80\xae"
     "b",
     0, "a\\u202eb"}, /* would turn the direction of writing */
    {"größe", 4, "grö…"},
    {"日本語", 5, "日本…"},
    {"日本語", 6, "日本語"},
    {"日本語", 4, "日…"},
    {"", 3, ""},
};

TEST(cells_are_cut_by_width_and_hide_control_characters)
{
    setlocale(LC_CTYPE, "C.UTF-8");
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        struct text t = {0};
        text_visible(&t, cells[i].text, strlen(cells[i].text), cells[i].most);
        CHECKF(strcmp(t.data, cells[i].shown) == 0, "'%s' within %zu gives '%s', want '%s'",
               cells[i].text, cells[i].most, t.data, cells[i].shown);
        CHECK(!cells[i].most || text_width(t.data, t.len) <= cells[i].most);
        text_free(&t);
    }
}

TEST(json_and_csv_are_quoted)
{
    struct text t = {0};
    text_json(&t, "a\"\\\n\x01\xff é", 9);
    CHECK_STR(t.data, "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd é\"");
    text_clear(&t);
    text_csv(&t, "plain", 5);
    text_puts(&t, "|");
    text_csv(&t, "a,\"b\"", 5);
    text_puts(&t, "|");
    text_csv(&t, " x", 2);
    text_puts(&t, "|");
    text_csv(&t, "", 0);
    CHECK_STR(t.data, "plain|\"a,\"\"b\"\"\"|\" x\"|\"\"");
    text_free(&t);
}

TEST(numbers_are_written_shortest)
{
    struct text t = {0};
    text_real(&t, 0.1);
    text_puts(&t, " ");
    text_real(&t, 0.1 + 0.2);
    text_puts(&t, " ");
    text_float(&t, 0.1f);
    text_puts(&t, " ");
    text_float(&t, 16777217.0f);
    text_puts(&t, " ");
    text_real(&t, INFINITY);
    CHECK_STR(t.data, "0.1 0.30000000000000004 0.1 16777216 null");
    struct test_rng r = {7};
    for (int i = 0; i < 1000; i++) {
        float x = (float)(test_normal(&r) * exp(20 * test_normal(&r)));
        text_clear(&t);
        text_float(&t, x);
        CHECKF(!isfinite(x) || strtof(t.data, NULL) == x, "%s is not %.9g", t.data, (double)x);
    }
    text_free(&t);
}

TEST_MAIN
