/* mneme_bench on tiny sizes: well-formed results, right answers, and a check that finds wrong ones.
 * It is run as a user runs it, as a program. */
#include "tests/test.h"

#include <jansson.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char output[65536]; /* of the last command, both streams */

/* Runs a shell command in the test's folder; its exit status. */
static int run(const char *command)
{
    char line[4096];
    size_t len = 0, got;
    snprintf(line, sizeof line, "cd '%s' && TMPDIR=. PATH='%s':$PATH && { %s ; } 2>&1", test_dir(),
             MNEME_BUILD_DIR, command);
    FILE *f = popen(line, "r");
    CHECK(f);
    while (len + 1 < sizeof output &&
           (got = fread(output + len, 1, sizeof output - 1 - len, f)) > 0)
        len += got;
    output[len] = 0;
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void must(const char *command)
{
    int status = run(command);
    CHECKF(status == 0, "%s: exit status %d: %s", command, status, output);
}

/* The line of a JSON file that has the case and the system; the caller drops it. */
static json_t *line_of(const char *file, const char *kase, const char *system)
{
    static char text[16384];
    json_t *found = NULL;
    FILE *f = fopen(test_path(file), "r");
    CHECK(f);
    while (fgets(text, sizeof text, f)) {
        json_error_t wrong;
        json_t *line = json_loads(text, 0, &wrong);
        CHECKF(json_is_object(line), "%s: %s: %s", file, wrong.text, text);
        if (strcmp(json_string_value(json_object_get(line, "case")), kase) == 0 &&
            strcmp(json_string_value(json_object_get(line, "system")), system) == 0)
            found = json_incref(line);
        json_decref(line);
    }
    fclose(f);
    CHECKF(found, "%s: no line of %s, %s", file, kase, system);
    return found;
}

static double number(const json_t *line, const char *name)
{
    const json_t *value = json_object_get(line, name);
    CHECKF(json_is_number(value), "%s is missing or no number", name);
    return json_number_value(value);
}

static void check_origin(const json_t *line)
{
    static const char *const names[] = {"command", "commit", "compiler", "time"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        CHECKF(json_is_string(json_object_get(line, names[i])), "%s is missing", names[i]);
    const json_t *machine = json_object_get(line, "machine");
    CHECK(json_is_string(json_object_get(machine, "cpu")));
    CHECK(json_is_string(json_object_get(machine, "kernel")));
    CHECK(number(machine, "cores") >= 1);
}

static unsigned char *read_file(const char *name, size_t *len)
{
    FILE *f = fopen(test_path(name), "rb");
    CHECK(f);
    unsigned char *bytes = malloc(1 << 20);
    CHECK(bytes);
    *len = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

TEST(synthetic_sets_are_the_same_on_every_machine)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    size_t len;
    must("mneme_bench dataset synthetic --n 50 --dim 12 --clusters 9 --intrinsic 4 --seed 3 "
         "--out-base b.fbin --queries 5 --out-queries q.fbin");
    unsigned char *bytes = read_file("b.fbin", &len);
    CHECK_EQ(len, 8 + 50 * 12 * 4);
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    free(bytes);
    /* As x86-64 with gcc and clang has it. A change of the generator changes all figures. */
    CHECKF(hash == 0x0665f9d4ae554c66u, "the set's hash is %016" PRIx64, hash);
}

TEST(a_larger_synthetic_set_begins_with_the_smaller)
{
    size_t small, large;
    must(
        "mneme_bench dataset synthetic --n 20 --dim 6 --clusters 3 --intrinsic 2 --out-base a.fbin "
        "--queries 10 --out-queries q.fbin");
    must("mneme_bench dataset synthetic --n 30 --dim 6 --clusters 3 --intrinsic 2 --out-base "
         "b.fbin");
    unsigned char *a = read_file("a.fbin", &small), *b = read_file("b.fbin", &large);
    CHECK(memcmp(a + 8, b + 8, small - 8) == 0);
    free(a);
    a = read_file("q.fbin", &small); /* rows 20 .. 29 */
    CHECK(memcmp(a + 8, b + 8 + 20 * 6 * 4, small - 8) == 0);
    free(a);
    free(b);
}

TEST(cosine_sets_have_length_1)
{
    size_t len;
    float row[6];
    must("mneme_bench dataset synthetic --n 20 --dim 6 --clusters 3 --intrinsic 2 --cosine "
         "--out-base a.fbin");
    unsigned char *bytes = read_file("a.fbin", &len);
    for (int i = 0; i < 20; i++) {
        double length = 0;
        memcpy(row, bytes + 8 + i * 24, sizeof row);
        for (int d = 0; d < 6; d++)
            length += (double)row[d] * row[d];
        CHECK_NEAR(length, 1, 1e-6);
    }
    free(bytes);
}

TEST(held_out_words_are_those_of_numpys_permutation)
{
    /* numpy 1.24: default_rng(7).permutation(20)[:6] */
    static const int want[6] = {3, 8, 12, 13, 14, 16};
    size_t len;
    float row[2];
    FILE *f = fopen(test_path("words.txt"), "w");
    CHECK(f);
    for (int i = 0; i < 20; i++) /* word i lies at i hundredths of a radian */
        fprintf(f, "w%d %.9g %.9g\n", i, 5 * cos(i * 0.01), 5 * sin(i * 0.01));
    fclose(f);
    must("mneme_bench dataset glove --in words.txt --queries 6 --seed 7 --out-base b.fbin "
         "--out-queries q.fbin");
    unsigned char *bytes = read_file("q.fbin", &len);
    CHECK_EQ(len, 8 + 6 * 8);
    for (int i = 0; i < 6; i++) {
        memcpy(row, bytes + 8 + i * 8, sizeof row);
        CHECK_NEAR(atan2(row[1], row[0]) * 100, want[i], 0.01);
    }
    free(bytes);
    bytes = read_file("b.fbin", &len);
    CHECK_EQ(len, 8 + 14 * 8);
    memcpy(row, bytes + 8 + 3 * 8, sizeof row); /* 0 1 2 4: the file's order without the held out */
    CHECK_NEAR(atan2(row[1], row[0]) * 100, 4, 0.01);
    free(bytes);
}

#define TINY_SET                                                                                   \
    "mneme_bench dataset synthetic --n 600 --dim 24 --clusters 5 --intrinsic 6 --out-base b.fbin " \
    "--queries 40 --out-queries q.fbin && "
#define TINY_EXACT                                                                                 \
    "mneme_bench exact --base b.fbin --queries q.fbin --single-queries 3 --batch 16 "              \
    "--batch-queries 32 --passes 2 --fresh-passes 1 --check 40 --json out.json "

TEST(exact_search_is_exact_in_every_metric)
{
    static const char *const metrics[] = {"l2", "ip", "cosine"};
    char command[512];
    for (size_t i = 0; i < 3; i++) {
        snprintf(command, sizeof command, TINY_SET TINY_EXACT "--metric %s", metrics[i]);
        must(command);
        static const char *const cases[] = {"single", "batch"};
        for (size_t c = 0; c < 2; c++) {
            json_t *line = line_of("out.json", cases[c], "mneme");
            CHECK_NEAR(number(line, "recall"), 1, 0);
            CHECK(number(line, "qps_wall") > 0 && number(line, "cpu_us_per_query") > 0);
            CHECK(number(line, "streaming_ratio") > 0 && number(line, "rss_peak_mb") > 1);
            CHECK(number(line, "db_bytes") > 600 * 24 * 4);
            check_origin(line);
            json_decref(line);
        }
    }
    json_t *line = line_of("out.json", "fresh", "mneme");
    CHECK(number(line, "rows_per_s") > 0 && number(line, "sqlite_ratio") > 0);
    json_decref(line);
}

static void write_peer(const char *body)
{
    FILE *f = fopen(test_path("faiss_flat"), "w");
    CHECK(f);
    fputs(body, f);
    fclose(f);
    CHECK(chmod(test_path("faiss_flat"), 0755) == 0);
}

TEST(a_peer_with_wrong_answers_is_found_out)
{
    /* Answers every query with row 0, ten times. */
    write_peer("#!/bin/sh\necho '{\"ready\": 1}'\nwhile read -r word a b c path; do\n"
               "case $word in answers) head -c $((b * 80)) /dev/zero >\"$path\" ;; esac\n"
               "case $word in quit) echo '{\"rss_peak_kb\": 1}'; exit 0 ;;\n"
               "*) echo '{\"wall_us\": 10, \"cpu_us\": 10, \"setting\": \"\"}' ;; esac; done\n");
    must(TINY_SET TINY_EXACT "--cases single --peers faiss --peers-dir .");
    json_t *line = line_of("out.json", "single", "faiss");
    CHECK(number(line, "recall") < 0.11); /* a right one at most once among ten */
    CHECK_NEAR(number(line, "cpu_us_per_query") * 3, 10, 0.01);
    json_decref(line);
    line = line_of("out.json", "single", "mneme");
    CHECK_NEAR(number(line, "recall"), 1, 0);
    json_decref(line);
}

TEST(a_peer_that_dies_or_hangs_ends_the_run_with_its_name)
{
    write_peer("#!/bin/sh\necho '{\"ready\": 1}'\nread -r line\nexit 3\n");
    CHECK_EQ(run(TINY_SET TINY_EXACT "--cases single --peers faiss --peers-dir ."), 1);
    CHECK_HAS(output, "faiss: the process ended");
    write_peer("#!/bin/sh\necho '{\"error\": \"no BLAS\"}'\n");
    CHECK_EQ(run(TINY_SET TINY_EXACT "--cases single --peers faiss --peers-dir ."), 1);
    CHECK_HAS(output, "faiss: no BLAS");
    write_peer("#!/bin/sh\nexec sleep 30\n");
    CHECK_EQ(run(TINY_SET TINY_EXACT "--cases single --peers faiss --peers-dir . --timeout 5"), 1);
    CHECK_HAS(output, "faiss: no answer for 5 s");
}

#define TINY_ANN                                                                                   \
    "mneme_bench ann --base b.fbin --queries q.fbin --recall 0.9,0.95 --passes 2 --sweep 40 "      \
    "--json out.json "

/* The line of an ann run that has the system and the recall asked for; the caller drops it. */
static json_t *ann_line(const char *system, double asked)
{
    static char text[16384];
    json_t *found = NULL;
    FILE *f = fopen(test_path("out.json"), "r");
    CHECK(f);
    while (!found && fgets(text, sizeof text, f)) {
        json_error_t wrong;
        json_t *line = json_loads(text, 0, &wrong);
        CHECKF(json_is_object(line), "%s: %s", wrong.text, text);
        if (strcmp(json_string_value(json_object_get(line, "system")), system) == 0 &&
            fabs(number(line, "asked") - asked) < 1e-9)
            found = json_incref(line);
        json_decref(line);
    }
    fclose(f);
    CHECKF(found, "no line of %s at %g", system, asked);
    return found;
}

TEST(ann_tells_every_figure_of_each_target)
{
    static const char *const figures[] = {"n",
                                          "dim",
                                          "k",
                                          "threads",
                                          "recall",
                                          "qps_wall",
                                          "p50_us",
                                          "p99_us",
                                          "db_bytes",
                                          "ios_per_query",
                                          "bytes_per_query",
                                          "rss_bytes",
                                          "sidecar_bytes",
                                          "build_wall_s",
                                          "build_cpu_s",
                                          "cpu_us_per_query"};
    must(TINY_SET TINY_ANN);
    for (int i = 0; i < 2; i++) {
        json_t *line = ann_line("mneme", i ? 0.95 : 0.9);
        for (size_t f = 0; f < sizeof figures / sizeof *figures; f++)
            CHECK(number(line, figures[f]) >= 0);
        CHECK_NEAR(number(line, "recall"), 1, 0); /* so few rows are searched exactly */
        CHECK(number(line, "cpu_us_per_query") > 0 && number(line, "db_bytes") > 600 * 24 * 4);
        CHECK_STR(json_string_value(json_object_get(line, "dataset")), "b");
        CHECK_STR(json_string_value(json_object_get(line, "param")),
                  i ? "recall=0.95" : "recall=0.9");
        CHECK(json_is_false(json_object_get(line, "cold")));
        check_origin(line);
        json_decref(line);
    }
    CHECKF(!strstr(output, "mneme_bench."), "the working folder is left behind: %s", output);
}

TEST(ann_keeps_the_truth_beside_the_base_and_checks_a_given_one)
{
    must(TINY_SET TINY_ANN "&& ls");
    CHECK_HAS(output, "b.fbin.truth-l2-k10-");
    must(TINY_ANN); /* from the file */
    CHECKF(!strstr(output, "true neighbours of"), "the truth is not kept: %s", output);
    /* One query, whose one neighbour is a row beyond the base. */
    must("printf '\\001\\000\\000\\000\\377\\377\\000\\000' > wrong.ivecs");
    CHECK_EQ(run(TINY_ANN "--max-queries 1 --k 1 --truth wrong.ivecs"), 1);
    CHECK_HAS(output, "belong to another set");
    CHECK_EQ(run(TINY_ANN "--truth wrong.ivecs"), 1);
    CHECK_HAS(output, "has 1 queries, 40 are asked");
}

/* A peer whose recall and cost grow with its knob: of each query's 10 true neighbours (int32 in the
 * ivecs file) it answers ef / 10, a query in so many one more, and claims 10 ef us a query. */
#define FAKE_PEER                                                                                  \
    "#!/usr/bin/env python3\n"                                                                     \
    "import glob, struct, sys\n"                                                                   \
    "print('{\"ready\": 1, \"build_cpu_us\": 3e6}', flush=True)\n"                                 \
    "ids = open(glob.glob('b.fbin.truth-*')[0], 'rb').read()\n"                                    \
    "for line in sys.stdin:\n"                                                                     \
    "    w = line.split()\n"                                                                       \
    "    if w[0] == 'quit': break\n"                                                               \
    "    if w[0] == 'set':\n"                                                                      \
    "        ef = min(100, int(w[1].split('=')[1]))\n"                                             \
    "        print('{\"setting\": \"\"}', flush=True)\n"                                           \
    "        continue\n"                                                                           \
    "    n = int(w[2])\n"                                                                          \
    "    with open(w[4], 'wb') as f:\n"                                                            \
    "        for q in range(n):\n"                                                                 \
    "            row = struct.unpack_from('<10i', ids, q * 44 + 4)\n"                              \
    "            have = ef // 10 + (q % 10 < ef % 10)\n"                                           \
    "            f.write(struct.pack('<10q', *[row[i] if i < have else -1 for i in range(10)]))\n" \
    "    print('{\"cpu_us\": %g, \"wall_us\": 1, \"p50_us\": 1, \"p99_us\": 2}' % (n * ef * "      \
    "10),"                                                                                         \
    " flush=True)\n"                                                                               \
    "print('{\"rss_peak_kb\": 1}', flush=True)\n"

TEST(peers_are_swept_until_they_bracket_the_recall_and_interpolated)
{
    if (run("command -v python3") != 0)
        test_skip("python3 is not there");
    FILE *f = fopen(test_path("hnswlib_ann"), "w");
    CHECK(f && fputs(FAKE_PEER, f) != EOF && fclose(f) == 0);
    CHECK(chmod(test_path("hnswlib_ann"), 0755) == 0);
    must(TINY_SET TINY_ANN "--peers hnswlib --peers-dir .");
    json_t *line = ann_line("hnswlib", 0.95);
    CHECK_NEAR(number(line, "recall"), 0.95, 1e-6);
    CHECK_NEAR(number(line, "cpu_us_per_query"), 950, 5);
    CHECK_NEAR(number(line, "build_cpu_s"), 3, 1e-6);
    CHECK_HAS(json_string_value(json_object_get(line, "param")), "M=16,efC=200,ef=");
    json_decref(line);
    line = ann_line("hnswlib", 0.9);
    CHECK_NEAR(number(line, "cpu_us_per_query"), 900, 5);
    json_decref(line);
}

TEST(churn_tells_each_step_and_a_fresh_index)
{
    must("mneme_bench dataset synthetic --n 2600 --dim 16 --clusters 5 --intrinsic 6 --out-base "
         "b.fbin --queries 10 --out-queries q.fbin && mneme_bench churn --base b.fbin --queries "
         "q.fbin --order random --json out.json && wc -l <out.json");
    CHECK_HAS(output, "\n12\n"); /* the start, ten steps, the end */
    json_t *line = line_of("out.json", "end", "mneme");
    CHECK_NEAR(number(line, "turnover"), 0.3, 1e-3);
    CHECK_NEAR(number(line, "recall"), 1, 0); /* so few rows are searched exactly */
    CHECK_NEAR(number(line, "fresh_recall"), 1, 0);
    CHECK(number(line, "write_amplification") >= 1 && number(line, "page_bytes") >= 512);
    CHECK(number(line, "inserts_per_cpu_s") > 0 && number(line, "p99_us") > 0);
    CHECK(number(line, "rss_bytes") > 0 && number(line, "db_bytes") > 2000 * 16 * 4);
    check_origin(line);
    json_decref(line);
}

TEST(filter_tells_each_selectivity_and_correlation)
{
    must("mneme_bench dataset synthetic --n 2500 --dim 8 --clusters 5 --intrinsic 4 --out-base "
         "b.fbin --queries 10 --out-queries q.fbin && mneme_bench filter --base b.fbin --queries "
         "q.fbin --selectivity 0.004,0.5 --correlated --passes 1 --json out.json && wc -l "
         "<out.json");
    CHECK_HAS(output, "\n6\n");
    FILE *f = fopen(test_path("out.json"), "r");
    char text[4000];
    CHECK(f);
    while (fgets(text, sizeof text, f)) {
        json_t *line = json_loads(text, 0, NULL);
        CHECK(line);
        CHECK_NEAR(number(line, "recall"), 1, 0); /* so few rows are searched exactly */
        CHECK_NEAR(number(line, "rows_missing"), 0, 0);
        CHECK(number(line, "cpu_us_per_query") > 0 && number(line, "cpu_us_unfiltered") > 0);
        CHECK(number(line, "cpu_us_exact") > 0 && json_object_get(line, "plan"));
        check_origin(line);
        json_decref(line);
    }
    fclose(f);
}

TEST(live_measures_search_puts_and_reopening)
{
    must("mneme_bench dataset synthetic --n 2500 --dim 8 --clusters 5 --intrinsic 4 --out-base "
         "b.fbin --queries 10 --out-queries q.fbin && mneme_bench live --base b.fbin --queries "
         "q.fbin --ms 40 --passes 1 --puts 3 --pending 50 --cases search,reopen --json out.json");
    json_t *line = line_of("out.json", "search", "mneme");
    CHECK(number(line, "p99_ratio") > 0 && number(line, "rows_per_s") > 0);
    json_decref(line);
    line = line_of("out.json", "reopen", "mneme");
    CHECK(number(line, "first_answer_ms") > 0);
    json_decref(line);
}

TEST(io_reads_at_three_depths_or_says_why_not)
{
    int status = run("mneme_bench io --size 1MiB --ms 5 --json out.json && wc -l <out.json");
    if (status != 0 && (strstr(output, "no O_DIRECT") || strstr(output, "io_uring is refused")))
        test_skip("the disk has no O_DIRECT, or there is no io_uring");
    CHECK_EQ(status, 0);
    CHECK_HAS(output, "\n3\n");
}

TEST(import_tells_cpu_bytes_disk_and_memory)
{
    must("mneme_bench put --n 700 --dim 32 --batch 100 --json out.json && ls");
    json_t *line = line_of("out.json", "bulk", "mneme");
    CHECK(number(line, "cpu_us_per_row") > 0);
    CHECK(number(line, "bytes_written_per_vector_byte") >= 1);
    CHECK(number(line, "disk_ratio") >= 1);
    CHECK(number(line, "open_ms") > 0 && number(line, "import_rss_peak_mib") > 1);
    check_origin(line);
    json_decref(line);
    CHECKF(!strstr(output, "mneme_bench."), "the working folder is left behind: %s", output);
}

TEST(import_takes_text_ids_and_element_types)
{
    must("mneme_bench put --n 300 --dim 16 --batch 64 --text-ids --dtype i8 --json out.json");
    json_t *line = line_of("out.json", "bulk", "mneme");
    CHECK_STR(json_string_value(json_object_get(line, "ids")), "text");
    CHECK_STR(json_string_value(json_object_get(line, "dtype")), "i8");
    json_decref(line);
}

TEST(single_puts_run_in_pairs_with_plain_sqlite)
{
    must("mneme_bench put --single --n 10 --dim 16 --json out.json");
    json_t *line = line_of("out.json", "single", "mneme");
    CHECK(number(line, "wall_ratio") > 0 && number(line, "cpu_ratio") > 0);
    CHECK(number(line, "sqlite_wall_us") > 0 && number(line, "page_bytes") >= 512);
    json_decref(line);
}

TEST(kernels_are_measured_beside_the_memory)
{
    static char text[4096];
    int lines = 0;
    must("mneme_bench kernels --bytes 2MiB --cache 64KiB --dim 20 --passes 1 --isa scalar "
         "--json out.json");
    FILE *f = fopen(test_path("out.json"), "r");
    CHECK(f);
    while (fgets(text, sizeof text, f)) {
        json_error_t wrong;
        json_t *line = json_loads(text, 0, &wrong);
        CHECKF(json_is_object(line), "%s: %s", wrong.text, text);
        CHECK(number(line, "gbps") > 0 && number(line, "stream_gbps") > 0);
        check_origin(line);
        json_decref(line);
        lines++;
    }
    fclose(f);
    CHECK(lines > 4);
}

TEST(wrong_options_are_named)
{
    static const struct {
        const char *command, *says;
        int status;
    } rows[] = {
        {"mneme_bench", "usage", 2},
        {"mneme_bench nonsense", "no subcommand 'nonsense'", 2},
        {"mneme_bench exact", "--base is missing", 2},
        {"mneme_bench exact --base b --queries", "--queries wants a value", 2},
        {"mneme_bench exact --base b --queries q --k 0", "--k is '0'", 2},
        {"mneme_bench exact --base b --queries q --peers fais", "--peers has 'fais'", 2},
        {"mneme_bench exact --base b --queries q --metric hamming", "--metric is 'hamming'", 2},
        {"mneme_bench exact --base none.fbin --queries q", "none.fbin", 1},
        {"mneme_bench ann --base b --queries q --recall 0.9,2", "--recall is '0.9,2'", 2},
        {"mneme_bench ann --base b --queries q --peers faiss", "--peers has 'faiss'", 2},
        {"mneme_bench churn --base b --queries q --order newest", "--order is 'newest'", 2},
        {"mneme_bench churn --base b --queries q --turnover 0", "--turnover is '0'", 2},
        {"mneme_bench live --base b --queries q --cases x", "--cases has 'x'", 2},
        {"mneme_bench io --block 100", "--block is '100'", 2},
        {"mneme_bench ann --base none.fbin --queries q", "none.fbin", 1},
        {"mneme_bench put --dim 99999", "--dim is '99999'", 2},
        {"mneme_bench put --memory 1KB", "--memory is '1KB'", 2},
        {"mneme_bench put --single --text-ids", "--single", 2},
        {"mneme_bench dataset", "usage", 2},
        {"mneme_bench dataset synthetic --n 5 --dim 4 --out-base /nowhere/b.fbin", "/nowhere/b", 1},
        {"mneme_bench dataset glove --in none.json --out-base b.fbin", "none.json", 1},
        {"mneme_bench all --json out", "--quick or --full", 2},
        {"mneme_bench all --quick --json out --only x", "--only has 'x'", 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int status = run(rows[i].command);
        CHECKF(status == rows[i].status, "%s: exit status %d: %s", rows[i].command, status, output);
        CHECKF(strstr(output, rows[i].says), "%s says %s", rows[i].command, output);
    }
}

TEST(every_subcommand_has_help)
{
    static const char *const names[] = {
        "io",  "churn", "live",    "kernels",           "exact",         "ann",
        "put", "all",   "dataset", "dataset synthetic", "dataset glove", "centroids"};
    char command[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(command, sizeof command, "mneme_bench %s --help", names[i]);
        must(command);
        CHECK_HAS(output, "usage: mneme_bench");
    }
}

TEST(the_table_tells_what_is_met_missed_and_not_measured)
{
    static const char lines[] =
        "{\"bench\":\"put\",\"case\":\"bulk\",\"system\":\"mneme\",\"label\":\"put-128\","
        "\"n\":1000000,\"cpu_us_per_row\":4.5,\"disk_ratio\":1.2,\"machine\":{\"cpu\":\"c\","
        "\"cores\":2,\"kernel\":\"k\"},\"compiler\":\"gcc\",\"commit\":\"abc\"}\n";
    if (run("command -v python3") != 0)
        test_skip("python3 is not there");
    CHECK(mkdir(test_path("results"), 0777) == 0);
    FILE *f = fopen(test_path("results/put-128.json"), "w");
    CHECK(f && fputs(lines, f) != EOF && fclose(f) == 0);
    char command[1024];
    snprintf(command, sizeof command, "'%s' results", test_source("tools/bench-table"));
    CHECK_EQ(run(command), 1);
    CHECK_HAS(output, "| at most 5 µs a row | 4.50 µs a row |");
    CHECK_HAS(output, "1.200x the vectors' bytes (missed)");
    CHECK_HAS(output, "not measured");
    CHECK_HAS(output, "Machine: c, 2 cores, k; gcc; commit abc.");
}

TEST(the_table_of_the_index_compares_with_the_better_peer)
{
#define LINE(system, asked, cpu, build)                                                            \
    "{\"label\":\"ann-128\",\"system\":\"" system "\",\"asked\":" asked                            \
    ",\"recall\":0.96,\"cpu_us_per_query\":" cpu ",\"build_cpu_s\":" build                         \
    ",\"n\":1000000,\"dim\":128,\"db_bytes\":600000000,\"sidecar_bytes\":800000000,"               \
    "\"rss_bytes\":104857600,"                                                                     \
    "\"machine\":{\"cpu\":\"c\",\"cores\":2,\"kernel\":\"k\"},\"compiler\":\"gcc\","               \
    "\"commit\":\"abc\"}\n"
    static const char lines[] =
        LINE("mneme", "0.95", "40", "30") LINE("hnswlib", "0.95", "90", "600")
            LINE("faiss-ivfpqfs", "0.95", "80", "10") LINE("mneme", "0.99", "50", "30")
                LINE("hnswlib", "0.99", "70", "600") LINE("faiss-ivfpqfs", "0.99", "99", "10");
    if (run("command -v python3") != 0)
        test_skip("python3 is not there");
    CHECK(mkdir(test_path("results"), 0777) == 0);
    FILE *f = fopen(test_path("results/ann-128.json"), "w");
    CHECK(f && fputs(lines, f) != EOF && fclose(f) == 0);
    char command[1024];
    snprintf(command, sizeof command, "'%s' --index results", test_source("tools/bench-table"));
    CHECK_EQ(run(command), 1);
    CHECK_HAS(output, "2.00x at 0.95 (40.0 µs at 0.9600; faiss-ivfpqfs 80.0 µs); 1.40x at 0.99");
    CHECK_HAS(output, "hnswlib 70.0 µs) (missed)");
    CHECK_HAS(output, "30.0 s: 3.00x FAISS (10.0 s), 1/20 of hnswlib (600 s) (missed)");
    CHECK_HAS(output, "| at most 2.6x the vectors | 2.73x (missed) |");
    CHECK_HAS(output, "0.9600 for 0.95, 0.9600 for 0.99 (missed)");
    CHECK_HAS(output, "not measured");
    CHECK_HAS(output, "| synthetic 1M x 128 | hnswlib | - | 90 µs | 70 µs (at 0.960) | 600 CPU s | "
                      "100 MiB |");
}

TEST_MAIN
