/* The program as a person or a script meets it: each test runs the built `mneme` over small files
 * in its own folder and compares exit code, stdout and stderr. */
#include "tests/shell/run_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* n rows of dim floats: row i is (i, 0, 0, ...), so that distances are differences of i. */
static void put_fvecs(const char *name, int32_t first, int32_t n, int32_t dim)
{
    FILE *file = fopen(test_path(name), "wb");
    CHECK(file != NULL);
    for (int32_t i = 0; i < n; i++) {
        fwrite(&dim, sizeof dim, 1, file);
        for (int32_t j = 0; j < dim; j++) {
            float x = j ? 0 : (float)(first + i);
            fwrite(&x, sizeof x, 1, file);
        }
    }
    CHECK(fclose(file) == 0);
}

static void put_words(void)
{
    put_text("words.txt", "north 0 1\n"
                          "east 1 0\n"
                          "northeast 1 1\n"
                          "south 0 -1\n"
                          "west -1 0\n");
    run(0, "mneme import app.db words words.txt --metric cosine");
}

static void put_docs(void)
{
    put_text("docs.jsonl",
             "{\"id\":1,\"vector\":[0,0],\"text\":\"origin\",\"lang\":\"en\",\"year\":1990}\n"
             "{\"id\":2,\"vector\":[3,4],\"text\":\"a \\u001b[31m "
             "trap\",\"lang\":\"fr\",\"year\":2001}\n"
             "{\"id\":3,\"vector\":[6,8],\"lang\":\"en\",\"year\":2010.5}\n");
    run(0, "mneme import app.db docs docs.jsonl");
}

/* ---- Import and search ------------------------------------------------------------------------
 */

TEST(import_makes_a_collection_of_words)
{
    put_text("words.txt", "north 0 1\neast 1 0\nnortheast 1 1\nsouth 0 -1\nwest -1 0\n");
    run_shows(
        "mneme import app.db words words.txt --metric cosine --dtype f16",
        "imported 5 rows of 2 x f16 into 'words' (cosine) in ...: ... rows/s, app.db is ...\n");
    run_shows("mneme search app.db words --word north --k 2",
              "north\n"
              "rank  id         distance\n"
              "   1  northeast   0.29289\n"
              "   2  east        1.00000\n"
              "2 rows, 5 vectors compared in ...\n");
}

TEST(import_again_replaces)
{
    put_words();
    run_shows("mneme import app.db words words.txt",
              "imported 5 rows of 2 x f32 into 'words' (cosine), 5 replaced in ...\n");
    run_shows("mneme list app.db", "words\n");
}

TEST(search_prints_json_and_csv)
{
    put_docs();
    run_shows("mneme search app.db docs --vector '[3, 4]' --k 2 --format json",
              "{\"query\":0,\"rank\":1,\"id\":2,\"distance\":0,\"text\":\"a \\u001b[31m trap\","
              "\"attributes\":{\"lang\":\"fr\",\"year\":2001}}\n"
              "{\"query\":0,\"rank\":2,\"id\":1,\"distance\":5,\"text\":\"origin\","
              "\"attributes\":{\"lang\":\"en\",\"year\":1990}}\n");
    run_shows("mneme search app.db docs --vector 6,8 --k 1 --format csv",
              "query,rank,id,distance,lang,year,text\n"
              "0,1,3,0,en,2010.5,\n");
    run_shows("mneme search app.db docs --id 2 --k 9 --ids-only --format csv",
              "query,rank,id,distance\n2,1,1,5\n2,2,3,5\n");
}

TEST(search_never_sends_control_characters_to_the_table)
{
    put_docs();
    run_shows("mneme search app.db docs --id 1 --k 1",
              "1\n"
              "rank  id  distance  lang  year  text\n"
              "   1   2   5.00000  fr    2001  a \\x1b[31m trap\n"
              "1 row, 3 vectors compared in ...\n");
}

TEST(search_answers_many_queries_of_a_file)
{
    put_fvecs("base.fvecs", 0, 50, 8);
    put_fvecs("queries.fvecs", 10, 3, 8);
    run(0, "mneme import app.db base base.fvecs");
    run_shows("mneme search app.db base --queries queries.fvecs --k 1 --limit 2",
              "query 0\n"
              "rank  id  distance\n"
              "   1  10   0.00000\n"
              "\n"
              "query 1\n"
              "rank  id  distance\n"
              "   1  11   0.00000\n"
              "2 rows for 2 queries, ... vectors compared in ...\n");
    run_shows("mneme search app.db base --queries - --query-format fvecs --k 1 --format csv "
              "<queries.fvecs",
              "query,rank,id,distance,text\n0,1,10,0,\n1,1,11,0,\n2,1,12,0,\n");
}

TEST(search_shows_many_hits_within_a_small_memory)
{
    put_fvecs("base.fvecs", 0, 3000, 256);
    run(0, "mneme import app.db base base.fvecs --memory 4MiB");
    run_shows("mneme search app.db base --queries base.fvecs --limit 10 --k 3000 --memory 4MiB "
              "--format csv | tail -n 1",
              "9,3000,2999,2990,\n");
    run_shows("mneme get app.db base $(seq 0 2999) --memory 4MiB --format json | wc -l", "3000\n");
}

TEST(search_by_radius_and_conditions)
{
    put_docs();
    run_shows("mneme search app.db docs --vector 0,0 --radius 5 --format csv --ids-only",
              "query,rank,id,distance\n0,1,1,0\n0,2,2,5\n");
    run_shows("mneme search app.db docs --vector 0,0 --where lang=en --where 'year > 1990' "
              "--format csv --ids-only",
              "query,rank,id,distance\n0,1,3,10\n");
    run_shows("mneme search app.db docs --vector 0,0 --where year=1800",
              "query 0: no row\n0 rows, ... vectors compared in ...\n");
    run(3, "mneme search app.db docs --vector 0,0 --where lnag=en");
    CHECK_HAS(err, "no attribute 'lnag'; did you mean 'lang'?");
}

TEST(search_says_what_it_did)
{
    put_words();
    run(0, "mneme search app.db words --word north --word south --explain --k 1");
    CHECK_HAS(out, "north\n");
    CHECK_HAS(out, "\nsouth\n");
    shows("search --explain",
          "search    2 queries, 2 hits, cosine, exact: every vector compared\n"
          "compared  10 vectors, ... bytes, from ...\n"
          "time      ..., CPU ...\n",
          err);
}

TEST(search_for_a_word_that_is_not_there)
{
    put_words();
    run(1, "mneme search app.db words --word North");
    CHECK_STR(out, "");
    CHECK_STR(err, "mneme: no row 'North' in 'words', but 'north' is there\n");
    run(1, "mneme search app.db words --word nowhere --word east --k 1 --quiet");
    shows("search", "east\nrank  id         distance\n   1  northeast   0.29289\n", out);
}

TEST(truth_writes_ids_and_distances)
{
    put_fvecs("base.fvecs", 0, 20, 4);
    put_fvecs("queries.fvecs", 5, 2, 4);
    run(0, "mneme import app.db base base.fvecs --first-id 100");
    run_shows("mneme truth app.db base --queries queries.fvecs --k 2 --out t.ivecs "
              "--distances d.fvecs --positions",
              "wrote 2 exact neighbours of 2 queries to t.ivecs in ...\n");
    int32_t ids[6];
    float distances[6];
    FILE *file = fopen(test_path("t.ivecs"), "rb");
    CHECK(file && fread(ids, sizeof ids, 1, file) == 1 && fgetc(file) == EOF);
    fclose(file);
    file = fopen(test_path("d.fvecs"), "rb");
    CHECK(file && fread(distances, sizeof distances, 1, file) == 1 && fgetc(file) == EOF);
    fclose(file);
    const int32_t want[6] = {2, 5, 4, 2, 6, 5};
    for (int i = 0; i < 6; i++)
        CHECKF(ids[i] == want[i], "word %d of the file is %d, want %d", i, ids[i], want[i]);
    CHECK_NEAR(distances[1], 0, 0);
    CHECK_NEAR(distances[2], 1, 0);
    run(0, "mneme truth app.db base --queries queries.fvecs --k 1 --out u.ivecs --quiet");
    file = fopen(test_path("u.ivecs"), "rb");
    CHECK(file && fread(ids, 4 * sizeof *ids, 1, file) == 1);
    fclose(file);
    CHECK_EQ(ids[1], 105);
    run(3, "mneme truth app.db base --queries queries.fvecs --k 21 --out v.ivecs");
    CHECK_HAS(err, "only 20 vectors, fewer than --k 21");
    CHECK(access(test_path("v.ivecs"), F_OK) != 0);
}

/* ---- Import: ids, types, damage ----------------------------------------------------------------
 */

TEST(import_numbers_rows_without_ids)
{
    put_fvecs("a.fvecs", 0, 3, 2);
    put_fvecs("b.fvecs", 7, 2, 2);
    run(0, "mneme import app.db c a.fvecs");
    run(3, "mneme import app.db c b.fvecs");
    CHECK_HAS(err, "--append gives new ids, --first-id 0 replaces rows from id 0 on");
    run(0, "mneme import app.db c b.fvecs --append");
    run_shows("mneme get app.db c 3 4 --format json",
              "{\"id\":3,\"version\":...,\"vector\":[7,0]}\n"
              "{\"id\":4,\"version\":...,\"vector\":[8,0]}\n");
    run(0, "mneme import app.db c b.fvecs --first-id 0");
    CHECK_HAS(out, "2 replaced");
    run_shows("mneme get app.db c 0 --format json",
              "{\"id\":0,\"version\":...,\"vector\":[7,0]}\n");
    run(2, "mneme import app.db c b.fvecs --first-id 0 --append");
}

TEST(import_takes_ids_from_a_file)
{
    put_fvecs("a.fvecs", 0, 3, 2);
    put_text("names.txt", "red\ngreen\nblue\n");
    run(0, "mneme import app.db c a.fvecs --ids names.txt");
    run_shows("mneme search app.db c --id blue --k 1 --quiet",
              "blue\nrank  id     distance\n   1  green   1.00000\n");
    put_text("names.txt", "red\ngreen\n");
    run(3, "mneme import app.db d a.fvecs --ids names.txt");
    CHECK_HAS(err, "names.txt");
    run_shows("mneme list app.db", "c\n");
}

TEST(import_takes_the_later_of_two_rows_with_one_id)
{
    put_text("twice.csv", "id,v0,v1\n7,1,2\n8,0,0\n7,3,4\n");
    run_shows("mneme import app.db c twice.csv",
              "imported 3 rows of 2 x f32 into 'c' (l2), 1 replaced in ...\n");
    run(0, "mneme get app.db c 7 --format json");
    CHECK_HAS(out, "\"vector\":[3,4]");
}

TEST(import_of_a_damaged_file_changes_nothing)
{
    put_fvecs("a.fvecs", 0, 5, 4);
    CHECK(truncate(test_path("a.fvecs"), 4 * 20 + 7) == 0);
    run(3, "mneme import app.db c a.fvecs");
    CHECK_STR(out, "");
    CHECK_HAS(err, "a.fvecs");
    CHECK_HAS(err, "nothing was imported");
    CHECK(access(test_path("app.db"), F_OK) != 0);

    put_text("d.jsonl",
             "{\"id\":1,\"vector\":[1,2]}\n{\"id\":2,\"vector\":[1,2]}\n{\"id\":3,\"vec");
    run(3, "mneme import app.db c d.jsonl");
    CHECK_HAS(err, "line 3");
    CHECK_HAS(err, "--partial takes what stands before it");
    CHECK(access(test_path("app.db"), F_OK) != 0);
    run(1, "mneme import app.db c d.jsonl --partial");
    CHECK_HAS(out, "imported 2 rows");
    CHECK_HAS(err, "line 3");
}

TEST(import_of_damaged_standard_input_changes_nothing)
{
    put_text("d.jsonl",
             "{\"id\":1,\"vector\":[1,2],\"a\":1}\n{\"id\":2,\"vector\":[1,2],\"b\":2}\n?");
    run(3, "mneme import app.db c - --format jsonl --batch 1 <d.jsonl");
    CHECK_HAS(err, "line 3");
    run(0, "mneme list app.db || true");
    CHECK_STR(out, "");
    run(1, "mneme import app.db c - --format jsonl --batch 1 --partial <d.jsonl");
    run_shows("mneme get app.db c 1 2 --format json",
              "{\"id\":1,\"version\":...,\"attributes\":{\"a\":1},\"vector\":[1,2]}\n"
              "{\"id\":2,\"version\":...,\"attributes\":{\"b\":2},\"vector\":[1,2]}\n");
}

TEST(import_refuses_zero_vectors_under_cosine_before_it_writes)
{
    put_text("z.txt", "a 1 0\nb 0 0\nc 0 1\n");
    run(3, "mneme import app.db c z.txt --metric cosine");
    CHECK_HAS(err, "1 vector of zeros, the first in record 2");
    CHECK(access(test_path("app.db"), F_OK) != 0);
    run(0, "mneme import app.db c z.txt --metric cosine --skip-zero");
    CHECK_HAS(out, "imported 2 rows");
    CHECK_HAS(out, "1 of zeros left out");
}

TEST(import_checks_that_the_elements_fit_the_type)
{
    put_text("big.csv", "id,v0,v1\n1,5,6\n2,200,1\n");
    run(3, "mneme import app.db c big.csv --dtype i8");
    CHECK_HAS(err, "big.csv: record 2 (line 3): an element lies outside -128 .. 127");
    run(3, "mneme import app.db c big.csv --dtype bit");
    CHECK_HAS(err, "2 elements; bit vectors have a multiple of 8");
    put_text("bits.csv", "id,v0,v1,v2,v3,v4,v5,v6,v7\n1,1,0,0,0,0,0,0,0\n2,1,1,1,0,0,0,0,0\n");
    run(0, "mneme import app.db c bits.csv --dtype bit");
    run_shows("mneme search app.db c --id 1 --quiet", "1\n"
                                                      "rank  id  distance\n"
                                                      "   1   2         2\n");
    const uint8_t bytes[] = {1, 0, 0, 0, 7, 1, 0, 0, 0, 255};
    put_file("bits.bvecs", bytes, sizeof bytes);
    run(0, "mneme import app.db c bits.bvecs --append");
    run_shows("mneme search app.db c --queries bits.bvecs --k 2 --format csv --ids-only",
              "query,rank,id,distance\n0,1,2,0\n0,2,3,0\n1,1,4,0\n1,2,2,5\n");
}

TEST(import_refuses_what_does_not_fit_the_collection)
{
    put_words();
    put_fvecs("a.fvecs", 0, 3, 3);
    run(3, "mneme import app.db words a.fvecs");
    CHECK_HAS(err, "its vectors have 3 elements, the collection's 2");
    put_fvecs("b.fvecs", 1, 3, 2);
    run(3, "mneme import app.db words b.fvecs");
    CHECK_HAS(err, "'words' has text ids");
    run(3, "mneme import app.db words words.txt --metric l2");
    CHECK_HAS(err, "'words' has the metric cosine, not l2");
    run(3, "mneme import app.db words words.txt --dtype i8");
    CHECK_HAS(err, "'words' has the type f32, not i8");
    put_text("empty.csv", "id,v0\n");
    run(3, "mneme import app.db new empty.csv");
    CHECK_HAS(err, "empty.csv holds no vector");
}

TEST(import_into_a_collection_beside_another_keeps_its_attributes)
{
    put_docs();
    run(0, "mneme create app.db titles --dim 3 --beside docs");
    put_text("titles.csv", "id,v0,v1,v2,year\n1,1,1,1,1991\n2,2,2,2,\n9,9,9,9,9\n");
    run(0, "mneme import app.db titles titles.csv");
    CHECK_HAS(out, "2 replaced");
    run_shows("mneme get app.db titles 1 2 9 --format json",
              "{\"id\":1,\"version\":...,\"text\":\"origin\",\"attributes\":{\"lang\":\"en\","
              "\"year\":1991},\"vector\":[1,1,1]}\n"
              "{\"id\":2,\"version\":...,\"text\":\"a \\u001b[31m trap\","
              "\"attributes\":{\"lang\":\"fr\"},\"vector\":[2,2,2]}\n"
              "{\"id\":9,\"version\":...,\"attributes\":{\"year\":9},\"vector\":[9,9,9]}\n");
    run(0, "mneme get app.db docs 1 --format json");
    CHECK_HAS(out, "\"vector\":[0,0]");
    run(0, "printf 'id,v0,v1\\n3,7,7\\n' | mneme import app.db docs - --format csv");
    run_shows("mneme get app.db docs 3 --format json",
              "{\"id\":3,\"version\":...,\"attributes\":{\"lang\":\"en\",\"year\":2010.5},"
              "\"vector\":[7,7]}\n");
}

TEST(import_replaces_whole_rows_unless_told_to_keep)
{
    put_docs();
    put_text("v.csv", "id,v0,v1\n1,5,5\n");
    run(0, "mneme import app.db docs v.csv --keep");
    run(0, "mneme get app.db docs 1 --format json");
    CHECK_HAS(
        out, "\"text\":\"origin\",\"attributes\":{\"lang\":\"en\",\"year\":1990},\"vector\":[5,5]");
    run(0, "mneme import app.db docs v.csv");
    run_shows("mneme get app.db docs 1 --format json",
              "{\"id\":1,\"version\":...,\"vector\":[5,5]}\n");
}

/* Waits up to ten seconds until `mneme COMMAND` prints PATTERN (an extended regular expression). */
#define UNTIL(command, pattern)                                                                    \
    "for i in $(seq 500); do mneme " command " 2>/dev/null | grep -qE '" pattern                   \
    "' && break; sleep 0.02; done; "

/* Whole batches are left by a killed import, and the same command completes it. */
TEST(a_killed_import_can_be_run_again)
{
    FILE *file = fopen(test_path("rows.csv"), "w");
    CHECK(file != NULL);
    fprintf(file, "id,v0\n");
    for (int i = 0; i < 500; i++)
        fprintf(file, "%d,%d\n", i, i);
    CHECK(fclose(file) == 0);
    run(137,
        "mkfifo pipe; mneme import app.db c - --format csv --batch 100 --partial <pipe & p=$!; "
        "exec 4>pipe; head -n 251 rows.csv >&4; " UNTIL(
            "stats app.db c --format json", "rows.:200,") "kill -KILL $p; exec 4>&-; wait $p");
    run(0, "mneme stats app.db c --format json");
    CHECK_HAS(out, "\"rows\":200,");
    run(0, "mneme verify app.db && mneme import app.db c rows.csv");
    CHECK_HAS(out, "imported 500 rows");
    CHECK_HAS(out, "200 replaced");
}

TEST(import_reads_standard_input)
{
    run(0, "printf 'a 1 2\\nb 3 4\\n' | mneme import app.db c - --format text");
    CHECK_HAS(out, "imported 2 rows of 2 x f32 into 'c'");
    run(0, "printf '' | mneme import app.db d - --format jsonl; test $? = 3");
    CHECK_HAS(err, "standard input: is empty");
}

/* ---- Rows and collections ----------------------------------------------------------------------
 */

TEST(get_shows_rows_as_table_and_json)
{
    put_docs();
    run_shows("mneme get app.db docs 3 1", "id  version  lang  year    text    vector\n"
                                           " 3        4  en    2010.5          [6, 8]\n"
                                           " 1        2  en    1990    origin  [0, 0]\n");
    run_shows("printf '2\\n' | mneme get app.db docs --from - --format json --no-vector",
              "{\"id\":2,\"version\":...,\"text\":\"a \\u001b[31m trap\","
              "\"attributes\":{\"lang\":\"fr\",\"year\":2001}}\n");
    run(1, "mneme get app.db docs 1 9 --no-vector");
    CHECK_STR(err, "mneme: no row 9 in 'docs'\n");
    CHECK_HAS(out, "origin");
    run(3, "mneme get app.db docs one");
    CHECK_HAS(err, "'docs' has integer ids; one is none");
}

TEST(delete_counts)
{
    put_words();
    run_shows("mneme delete app.db words north south", "deleted 2 of 2 rows from 'words'\n");
    run(1, "mneme delete app.db words north west");
    CHECK_STR(out, "deleted 1 of 2 rows from 'words'\n");
    run(1, "mneme search app.db words --word west");
}

TEST(delete_takes_negative_ids)
{
    put_text("a.csv", "id,v0\n-5,1\n5,2\n");
    run(0, "mneme import app.db c a.csv");
    run_shows("mneme delete app.db c -5", "deleted 1 of 1 row from 'c'\n");
}

TEST(create_list_and_drop)
{
    run_shows("mneme create app.db docs --dim 4 --metric cosine --attribute lang -a year",
              "created 'docs': 4 x f32, cosine\n");
    run_shows("mneme create app.db titles --dim 2 --beside docs --dtype f16",
              "created 'titles': 2 x f16, l2, beside docs\n");
    run_shows("mneme create app.db codes --dim 64 --metric hamming --ids text",
              "created 'codes': 64 x bit, hamming, text ids\n");
    run_shows("mneme list app.db", "codes\ndocs\ntitles\n");
    run(3, "mneme create app.db docs --dim 4");
    CHECK_HAS(err, "docs");
    run(2, "mneme drop app.db docs </dev/null");
    CHECK_HAS(err, "add --yes");
    run_shows("mneme drop app.db docs --yes", "dropped 'docs'\n");
    run_shows("mneme list app.db", "codes\ntitles\n");
}

TEST(info_and_stats_tell_what_is_there)
{
    put_docs();
    run_shows("mneme info app.db",
              "collection  dim  type  metric  ids      attributes  table.column\n"
              "docs          2  f32   l2      integer  lang,year   docs.vector\n");
    run_shows(
        "mneme info app.db docs --format json",
        "{\"collection\":\"docs\",\"dim\":2,\"type\":\"f32\",\"metric\":\"l2\","
        "\"ids\":\"integer\",\"table\":\"docs\",\"column\":\"...\","
        "\"id_column\":\"id\",\"foreign\":false,\"rerank\":\"copy\",\"bits\":0,\"recall\":0.95,"
        "\"attributes\":[\"lang\",\"year\"]}\n");
    run_shows("mneme stats app.db", "database           ...app.db\n"
                                    "file               ...iB, pages of ...iB\n"
                                    "write-ahead log    ...\n"
                                    "memory             cap 256 MiB\n"
                                    "\n"
                                    "collection         docs\n"
                                    "vectors            3 of 2 x f32, l2, 24 bytes\n"
                                    "rows               3, integer ids\n"
                                    "last version       4\n"
                                    "change log         ... entries\n"
                                    "index              none: fewer than 10,000 rows are searched "
                                    "exactly\n");
    run_shows("mneme stats app.db docs --format json",
              "{\"database\":\"...app.db\",\"db_bytes\":...,\"wal_bytes\":...,\"page_bytes\":...,"
              "\"memory_cap\":268435456}\n"
              "{\"collection\":\"docs\",\"rows\":3,\"vectors\":3,\"vector_bytes\":24,"
              "\"log_entries\":...,\"last_version\":4,\"index\":null}\n");
    run(0, "mneme info --defaults");
    CHECK_HAS(out, "metric");
    CHECK_HAS(out, "256MiB");
}

TEST(export_writes_what_import_reads)
{
    put_docs();
    run_shows("mneme export app.db docs docs.csv", "exported 3 rows to docs.csv as csv in ...\n");
    run(0, "mneme import app.db again docs.csv");
    static const char *const formats[] = {"jsonl", "csv"};
    static char first[sizeof out];
    for (size_t i = 0; i < 2; i++) {
        char command[128];
        snprintf(command, sizeof command, "mneme export app.db docs --format %s", formats[i]);
        run(0, command);
        memcpy(first, out, sizeof first);
        snprintf(command, sizeof command, "mneme export app.db again --format %s", formats[i]);
        run_shows(command, first);
    }
    run(0, "mneme export app.db docs --to docs.npy --ids ids.txt --quiet");
    run(0, "mneme import app.db third docs.npy --ids ids.txt");
    run(0, "mneme get app.db third 2 --format json");
    CHECK_HAS(out, "\"vector\":[3,4]");
    run(2, "mneme export app.db docs docs.what");
    CHECK_HAS(err, "give --format F");
    run_shows("mneme export app.db docs --limit 1 --format text", "1 0 0\n");
}

TEST(verify_finds_nothing_then_damage)
{
    put_docs();
    run_shows("mneme verify app.db", "app.db: no problem found in ...\n");
    run(0, "mneme import app.db more docs.jsonl");
    /* A vector of the wrong length, as a foreign client might write it. */
    sqlite3 *sql;
    CHECK_EQ(sqlite3_open(test_path("app.db"), &sql), SQLITE_OK);
    CHECK_EQ(sqlite3_exec(sql,
                          "PRAGMA ignore_check_constraints = 1;"
                          "UPDATE docs SET vector = x'00' WHERE id = 2",
                          NULL, NULL, NULL),
             SQLITE_OK);
    CHECK_EQ(sqlite3_close(sql), SQLITE_OK);
    run(1, "mneme verify app.db");
    CHECK_HAS(out, "docs");
    CHECK_HAS(err, "1 problem");
}

TEST(backup_makes_a_database_like_the_first)
{
    put_words();
    run_shows("mneme backup app.db copy.db", "copied app.db to copy.db, ...iB in ...\n");
    run(3, "mneme backup app.db copy.db");
    CHECK_HAS(err, "copy.db");
    run(0, "mneme search copy.db words --word north");
    CHECK_HAS(out, "northeast");
}

/* ---- The index
 * -----------------------------------------------------------------------------------
 */

/* Rows in ten dimensions around 50 points, enough for an index. */
static void put_clusters(const char *name, int32_t n, uint64_t seed)
{
    enum { CLUSTERS = 50, DIM = 10 };
    static float centre[CLUSTERS][DIM];
    const int32_t dim = DIM;
    struct test_rng rng = {7}, noise = {seed};
    FILE *file = fopen(test_path(name), "wb");
    CHECK(file != NULL);
    for (int i = 0; i < CLUSTERS * DIM; i++)
        centre[i / DIM][i % DIM] = (float)test_normal(&rng);
    for (int32_t i = 0; i < n; i++) {
        float x[DIM];
        const float *c = centre[test_below(&noise, CLUSTERS)];
        for (int j = 0; j < DIM; j++)
            x[j] = c[j] + 0.3f * (float)test_normal(&noise);
        fwrite(&dim, sizeof dim, 1, file);
        fwrite(x, sizeof x, 1, file);
    }
    CHECK(fclose(file) == 0);
}

TEST(import_builds_the_index_that_searches_use)
{
    put_clusters("base.fvecs", 10000, 1);
    put_clusters("queries.fvecs", 20, 2);
    run_shows("mneme import app.db c base.fvecs --index",
              "imported 10,000 rows of 10 x f32 into 'c' (l2) in ...\n"
              "indexed 10,000 rows of 'c' in ..., ... postings, ...iB in memory, app.db-mneme is "
              "...iB\n");
    run(0, "mneme search app.db c --queries queries.fvecs --k 5 --ids-only --explain >approximate");
    shows("search --explain",
          "search    20 queries, 100 hits, l2, by the index\n"
          "loaded    ...iB of codes and centroids in ...\n"
          "probed    ... parts of postings, ... a query\n"
          "scanned   ... codes, ... a query\n"
          "reranked  ... rows by vectors in memory, ... a query\n"
          "time      ..., CPU ...\n",
          err);
    run(0, "mneme search app.db c --queries queries.fvecs --k 5 --ids-only --explain --exact");
    CHECK_HAS(err, "exact: every vector compared");
    CHECK_HAS(err, "compared  200,000 vectors");
    run(0, "mneme search app.db c --queries queries.fvecs --recall 1 --explain");
    CHECK_HAS(err, "exact: every vector compared");
    run_shows("mneme search app.db c --queries queries.fvecs --limit 1 --k 1",
              "query 0\n"
              "rank  ...id  distance\n"
              "   1  ...\n"
              "1 row, ... codes and ... vectors compared in ...\n");
}

TEST(import_without_an_index_says_how_to_build_it)
{
    put_clusters("base.fvecs", 10000, 1);
    run_shows("mneme import app.db c base.fvecs",
              "imported 10,000 rows of 10 x f32 into 'c' (l2) in ...\n"
              "searches compare every vector until `mneme fold app.db c` builds the index\n");
    CHECK(access(test_path("app.db-mneme"), F_OK) != 0);
    run(0, "mneme stats app.db c");
    CHECK_HAS(out, "index              none yet: `mneme fold app.db c` builds it\n");
    run(0, "mneme search app.db c --id 5 --explain");
    CHECK_HAS(err, "exact: every vector compared");
}

TEST(fold_builds_the_index_then_folds_what_changed)
{
    put_clusters("base.fvecs", 10000, 1);
    put_clusters("more.fvecs", 30, 3);
    run(0, "mneme import app.db c base.fvecs --quiet");
    run_shows("mneme fold app.db c", "indexed 10,000 rows of 'c' in ..., ... postings, ...\n");
    run_shows("mneme fold app.db c",
              "nothing to fold: the index of 'c' holds all 10,000 rows, ... postings, ...\n");
    run(0, "mneme import app.db c more.fvecs --append && mneme delete app.db c 17");
    run(0, "mneme search app.db c --id 10007 --explain --k 1");
    CHECK_HAS(err, "by the index\n");
    CHECK_HAS(err, "pending   ");
    run(0, "mneme stats app.db c --format json");
    CHECK_HAS(out, "\"index\":{\"generation\":1,\"rows\":10000,\"pending\":31,");
    run_shows("mneme fold app.db c",
              "folded 31 changed rows into the index of 'c' in ...: 10,029 rows, ...\n");
    run(0, "mneme stats app.db c");
    CHECK_HAS(out, "index              10,029 rows in ");
    CHECK_HAS(out, "pending            0 changed rows that are not in it yet\n");
    CHECK_HAS(out, "sidecar            app.db-mneme, ");
    run_shows("mneme verify app.db", "app.db: no problem found in ...\n");
}

TEST(fold_of_few_rows_says_that_none_is_needed)
{
    put_words();
    run_shows("mneme fold app.db words",
              "'words' has no index: fewer than 10,000 rows are searched exactly\n");
    run_shows("mneme rebuild app.db words --quiet", "");
    run(0, "mneme create app.db bits --dim 64 --metric hamming");
    run_shows("mneme fold app.db bits", "'bits' has no index: bits are searched exactly\n");
}

TEST(rebuild_replaces_an_index_that_is_lost)
{
    put_clusters("base.fvecs", 10000, 1);
    run(0, "mneme import app.db c base.fvecs --index --quiet");
    CHECK(remove(test_path("app.db-mneme")) == 0);
    run(0, "mneme search app.db c --id 5 --explain --k 1");
    CHECK_HAS(err, "exact: every vector compared");
    run_shows("mneme rebuild app.db c", "indexed 10,000 rows of 'c' in ..., ... postings, ...\n");
    run(0, "mneme search app.db c --id 5 --explain --k 1");
    CHECK_HAS(err, "by the index");
}

TEST(verify_names_a_damaged_index_and_what_mends_it)
{
    put_clusters("base.fvecs", 10000, 1);
    run(0, "mneme import app.db c base.fvecs --index --quiet");
    run(0, "head -c 300000 /dev/zero | tr '\\0' x | "
           "dd of=app.db-mneme bs=1 seek=100000 conv=notrunc iflag=fullblock obs=64K");
    run(0, "mneme search app.db c --id 5 --k 1 --format csv");
    run(1, "mneme verify app.db");
    CHECK_HAS(out, "c: ");
    CHECK_HAS(err, "`mneme verify --heal` mends an index");
    run(0, "cp app.db b.db && cp app.db-mneme b.db-mneme");
    run(0, "mneme rebuild b.db c");
    run_shows("mneme verify b.db", "b.db: no problem found in ...\n");
    run(0, "mneme verify app.db --heal");
    CHECK_HAS(out, " of indexes healed\napp.db: no problem found in ");
    run_shows("mneme verify app.db", "app.db: no problem found in ...\n");
    run_shows("mneme verify app.db --heal", "app.db: no problem found in ...\n");
}

/* Another writer holds the database, so that fold waits; the signal comes once it can be caught. */
TEST(an_interrupted_fold_leaves_the_index_as_it_was)
{
    put_clusters("base.fvecs", 10000, 1);
    run(0, "mneme import app.db c base.fvecs --quiet");
    sqlite3 *sql;
    CHECK_EQ(sqlite3_open(test_path("app.db"), &sql), SQLITE_OK);
    CHECK_EQ(sqlite3_exec(sql, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    run(130, "mneme fold app.db c & p=$!; "
             "until grep -q mneme /proc/$p/comm && "
             "grep -q '^SigCgt:.*[2367abef]$' /proc/$p/status; do sleep 0.01; done; "
             "kill -INT $p; wait $p");
    CHECK_STR(err, "mneme: interrupted; the index of 'c' is as it was\n");
    run(3, "mneme fold app.db c --timeout 10ms");
    CHECK_EQ(sqlite3_close(sql), SQLITE_OK);
    run_shows("mneme fold app.db c", "indexed 10,000 rows of 'c' in ...\n");
}

TEST(compact_gives_both_files_space_back)
{
    put_clusters("base.fvecs", 12000, 1);
    run(0, "mneme import app.db c base.fvecs --index --quiet");
    run(0, "seq 1000 11999 | mneme delete app.db c --from - --quiet && mneme rebuild app.db c");
    run_shows("mneme compact app.db", "app.db: ...iB to ...iB\n"
                                      "app.db-mneme: ...iB to ...iB\n"
                                      "compacted app.db in ...\n");
    struct stat st;
    CHECK(stat(test_path("app.db"), &st) == 0 && st.st_size < 500000);
    run(0, "mneme verify app.db && mneme get app.db c 0 999 --no-vector --quiet");
}

TEST(recall_compares_the_index_with_exact_search)
{
    put_clusters("base.fvecs", 10000, 1);
    run(0, "mneme import app.db c base.fvecs --index --quiet");
    run(0, "mneme recall app.db c --sample 100 --recall 0.5,0.99 --recall 1 --format json");
    double found[4];
    const char *line = out;
    for (int i = 0; i < 4; i++) {
        const char *at = line ? strstr(line, "\"recall\":") : NULL;
        CHECKF(at && sscanf(at, "\"recall\":%lf", &found[i]) == 1, "line %d of %s", i, out);
        line = strchr(at, '\n');
    }
    CHECKF(found[0] >= 0.4 && found[1] >= 0.95 && found[1] <= 1, "%g, %g", found[0], found[1]);
    CHECK(found[2] == 1 && found[3] == 1);
    CHECK_HAS(out, "\"param\":\"recall=0.99\",\"sample\":100,\"from_index\":true");
    CHECK_HAS(out, "\"param\":\"exact\",\"sample\":100,\"from_index\":false");
    run_shows("mneme recall app.db c --sample 20 --k 3",
              "search       recall      +- ...\n"
              "recall 0.95  ...\n"
              "exact        1.0000  0.0000 ...\n"
              "20 of 10,000 vectors drawn, k 3; time, codes, vectors and pages of one query\n");
}

/* Every vector twice: a row's twin is as near as itself, and may stand for it. */
TEST(recall_counts_ties_as_found)
{
    put_fvecs("a.fvecs", 0, 40, 4);
    run(0, "mneme import app.db c a.fvecs --quiet && mneme import app.db c a.fvecs --append -q");
    run_shows("mneme recall app.db c --sample 80 --k 1",
              "search       recall      +- ...\n"
              "recall 0.95  1.0000  0.0000 ...\n"
              "exact        1.0000  0.0000 ...\n"
              "80 of 80 vectors drawn, k 1; time, codes, vectors and pages of one query; there is "
              "no index, all are exact\n");
    run(0, "mneme delete app.db c $(seq 1 79) --quiet");
    run(3, "mneme recall app.db c");
    CHECK_HAS(err, "'c' has 1 vectors; there must be another one to be found");
}

TEST(options_of_the_index_are_kept_with_the_collection)
{
    put_clusters("base.fvecs", 10000, 1);
    run(0, "mneme import app.db c base.fvecs --rerank none --bits 2 --recall 0.9 --index --quiet");
    run(0, "mneme info app.db c --format json");
    CHECK_HAS(out, "\"rerank\":\"none\",\"bits\":2,\"recall\":0.9,");
    run(0, "mneme stats app.db c");
    CHECK_HAS(out, ": centroids and 2-bit codes");
    CHECK_HAS(out, "exact distances    none: distances are estimates\n");
    CHECK_HAS(out, "most recall        0.");
    CHECK_HAS(out, "recall             0.9 where a search does not say\n");
    run(0, "mneme recall app.db c --sample 5");
    CHECK_HAS(out, "recall 0.9 ");
    run(3, "mneme import app.db c base.fvecs --first-id 0 --bits 3");
    CHECK_HAS(err, "'c' is there already: --rerank, --bits and --recall are for a new collection");
    run(0, "mneme create app.db d --dim 4 --rerank rows --bits 8 --recall 0.8");
    run(0, "mneme info app.db d --format json");
    CHECK_HAS(out, "\"rerank\":\"rows\",\"bits\":8,\"recall\":0.8,");
}

/* ---- Tables that were there ------------------------------------------------------------------ */

TEST(a_table_that_is_there_is_indexed_looked_after_and_left_as_it_was)
{
    sqlite3 *sql;
    CHECK_EQ(sqlite3_open(test_path("app.db"), &sql), SQLITE_OK);
    CHECK_EQ(sqlite3_exec(sql,
                          "CREATE TABLE notes(k INTEGER PRIMARY KEY, lang, emb); INSERT INTO notes "
                          "VALUES (1, 'en', '[0,0]'), (2, 'de', '[3,4]'), (3, 'en', "
                          "x'0000c04000000041'), (4, 'en', '[1]'), (5, NULL, NULL)",
                          NULL, NULL, NULL),
             SQLITE_OK);
    sqlite3_close(sql);
    run(2, "mneme create app.db notes --dim 2 --table notes");
    CHECK_HAS(err, "both --table TABLE and --vector-column C");
    run_shows("mneme create app.db notes --table notes --vector-column emb --dim 2 -a lang",
              "created 'notes': 2 x f32, l2, over table notes\n");
    run(0, "mneme info app.db notes --format json");
    CHECK_HAS(out, "\"table\":\"notes\",\"column\":\"emb\",\"id_column\":\"k\",\"foreign\":true,");
    CHECK_HAS(out, "\"attributes\":[\"lang\"]");
    run(0, "mneme stats app.db");
    CHECK_HAS(out, "vectors            3 of 2 x f32, l2, 24 bytes\n");
    CHECK_HAS(out, "rows               5, integer ids\n");
    run_shows("mneme search app.db notes --id 1 --k 3 --where lang=en", "1\n"
                                                                        "rank  id  distance  lang\n"
                                                                        "   1   3  10.00000  en\n"
                                                                        "1 row, ...\n");
    run_shows("mneme get app.db notes 2 4 --format json",
              "{\"id\":2,\"version\":0,\"attributes\":{\"lang\":\"de\"},\"vector\":[3,4]}\n"
              "{\"id\":4,\"version\":0,\"attributes\":{\"lang\":\"en\"},\"vector\":null}\n");
    run(1, "mneme verify app.db");
    CHECK_HAS(out, "notes, row 4: the value is neither a blob of 8 bytes nor a JSON array of 2 "
                   "numbers\n");
    run(0, "mneme recall app.db notes");
    CHECK_HAS(out, "recall 0.95  1.0000");
    run(0, "mneme export app.db notes vectors.npy --ids ids.txt");
    CHECK_HAS(out, "exported 3 rows");
    put_text("more.jsonl", "{\"id\":9,\"vector\":[1,1],\"lang\":\"fr\"}\n");
    run(0, "mneme import app.db notes more.jsonl");
    put_text("more.jsonl", "{\"id\":9,\"vector\":[1,1],\"text\":\"a payload\"}\n");
    run(3, "mneme import app.db notes more.jsonl");
    CHECK_HAS(err, "row 0 has a payload, but collection 'notes' is over table 'notes'");
    run(0, "mneme delete app.db notes 9");
    run_shows("mneme drop app.db notes --yes", "dropped 'notes'\n");
    run(0, "mneme app.db \"SELECT count(*), total(k) FROM notes\"");
    CHECK_HAS(out, "15");
    run(0, "mneme create app.db notes --table notes --vector-column emb --dim 2");
    run(0, "mneme app.db \"DROP TABLE notes\"");
    run(3, "mneme search app.db notes --vector 0,0");
    CHECK_HAS(err, "collection 'notes' is over table 'notes', which is gone");
    run_shows("mneme drop app.db notes --yes", "dropped 'notes'\n");
}

/* ---- Wrong command lines ------------------------------------------------------------------------
 */

static const struct {
    const char *command;
    int code;
    const char *says; /* on stderr */
} wrong[] = {
    {"mneme", 2, ""},
    {"mneme serch app.db words", 2, "unknown command serch; did you mean search?"},
    {"mneme frobnicate", 2, "unknown command frobnicate; `mneme help` lists the commands"},
    {"mneme words.txt", 1, "words.txt could not be opened: file is not a database"},
    {"mneme --wat", 2, "unknown option --wat"},
    {"mneme help wat", 2, "unknown command wat"},
    {"mneme help search get", 2, "one argument too many: get"},
    {"mneme import app.db", 2,
     "missing argument COLLECTION (usage: mneme import DB COLLECTION FILE)"},
    {"mneme import app.db c f g", 2, "one argument too many: g"},
    {"mneme import app.db c words.txt --metrc l2", 2,
     "unknown option --metrc; did you mean --metric?"},
    {"mneme import app.db c words.txt --metric l3", 2,
     "--metric l3 is not one of l2, ip, cosine, hamming"},
    {"mneme import app.db c words.txt --metric", 2, "--metric needs a value"},
    {"mneme import app.db c words.txt --batch 0", 2,
     "--batch 0 is not a whole number of 1 to 1,000,000"},
    {"mneme import app.db c words.txt --partial=yes", 2, "--partial takes no value"},
    {"mneme import app.db c words.txt --format text8", 2,
     "is not one of fvecs, bvecs, ivecs, fbin, u8bin, i8bin, npy, faiss, jsonl, csv, text, wink"},
    {"mneme import app.db c none.txt", 3, "none.txt"},
    {"mneme import app.db c words.txt --metric hamming", 3, "multiple of 8"},
    {"mneme import no/such/app.db c words.txt", 3, "no/such"},
    {"mneme import app.db 'a\"b' words.txt", 3, "quote"},
    {"mneme search app.db words", 2, "give --queries FILE, --id ID, --word W or --vector"},
    {"mneme search app.db words --word a --id b", 2, "only one of"},
    {"mneme search app.db words --word a --k 0", 2, "--k 0 is not a whole number of 1 to 10,000"},
    {"mneme search app.db words --word a -k10001", 2, "--k 10001 is not a whole number"},
    {"mneme search app.db words --word a --limit 5", 2, "--limit goes with --queries"},
    {"mneme search app.db words --word a --recall 1.5", 2,
     "--recall 1.5 is not a number from 0.5 to 1"},
    {"mneme search app.db words --word a --recall 0.9 --exact", 2,
     "--exact and --recall 0.9 exclude each other"},
    {"mneme search app.db words --word a --stat", 2, "unknown option --stat"},
    {"mneme search app.db words --word a --memory lots", 2,
     "--memory lots is not a size, as 512MB"},
    {"mneme search app.db words --word a --memory 1MB", 2, "too small: at least 4.0 MiB"},
    {"mneme search app.db words --word a --timeout 10", 2, "--timeout 10 is not a time, as 500ms"},
    {"mneme search app.db words --word a --timeout 9999999h", 2, "too long"},
    {"mneme search app.db words --word a --threads 257", 2,
     "--threads 257 is not a whole number of 1 to 256"},
    {"mneme search app.db words -x", 2, "unknown option -x"},
    {"mneme search app.db wrods --word a", 3,
     "no collection 'wrods' in app.db; did you mean 'words'?"},
    {"mneme search app.db other --word a", 3, "no collection 'other' in app.db; there is 'words'"},
    {"mneme search none.db words --word a", 3, "none.db"},
    {"mneme search words.txt words --word a", 3, "words.txt"},
    {"mneme search app.db words --vector '[1'", 3, "',' or ']' expected"},
    {"mneme search app.db words --vector '[1, x]'", 3, "element 1 is no finite number, at 'x]'"},
    {"mneme search app.db words --vector 1,2,3", 3,
     "it has 3 elements, the collection's vectors 2"},
    {"mneme search app.db words --vector 1,nan", 3, "element 1 is no finite number"},
    {"mneme search app.db words --vector 0,0", 3, "cosine"},
    {"mneme search app.db words --word a --where lang", 2, "--where lang is no condition"},
    {"mneme search app.db words --queries none.npy", 3, "none.npy"},
    {"mneme get app.db words", 2, "give ids, or --from FILE"},
    {"mneme get app.db words --from none.txt", 3, "none.txt could not be opened"},
    {"mneme delete app.db words", 2, "give ids, or --from FILE"},
    {"mneme delete none.db words a", 3, "none.db"},
    {"mneme create app.db c", 2, "give --dim N"},
    {"mneme create app.db c --dim 16385", 2, "--dim 16385 is not a whole number of 1 to 16,384"},
    {"mneme create app.db c --dim 12 --dtype bit", 3, "8"},
    {"mneme create app.db c --dim 4 --rerank all", 2,
     "--rerank all is not one of copy, rows, none"},
    {"mneme create app.db c --dim 4 --bits 9", 2, "--bits 9 is not a whole number of 1 to 8"},
    {"mneme create app.db c --dim 4 --recall 0.4", 2, "--recall 0.4 is not a number from 0.5 to 1"},
    {"mneme fold app.db", 2, "missing argument COLLECTION (usage: mneme fold DB COLLECTION)"},
    {"mneme fold app.db wrods", 3, "no collection 'wrods' in app.db; did you mean 'words'?"},
    {"mneme fold none.db words", 3, "none.db"},
    {"mneme rebuild app.db words all", 2, "one argument too many: all"},
    {"mneme rebuild words.txt words", 3, "words.txt"},
    {"mneme compact app.db words", 2, "one argument too many: words"},
    {"mneme compact none.db", 3, "none.db"},
    {"mneme recall app.db", 2, "missing argument COLLECTION"},
    {"mneme recall app.db wrods", 3, "did you mean 'words'?"},
    {"mneme recall app.db words --recall 0.9,1.5", 2,
     "--recall 1.5 is not a number from 0.5 to 1, or several separated by commas"},
    {"mneme recall app.db words --recall 0.9,", 2, "--recall  is not a number"},
    {"mneme recall app.db words --sample 0", 2, "--sample 0 is not a whole number of 1 to 10,000"},
    {"mneme recall app.db words --k 1001", 2, "--k 1001 is not a whole number of 1 to 1,000"},
    {"mneme recall app.db words --seed one", 2, "--seed one is not a whole number"},
    {"mneme drop app.db none --yes", 3, "no collection 'none'"},
    {"mneme info", 2, "missing argument DB"},
    {"mneme stats none.db", 3, "none.db"},
    {"mneme verify words.txt", 3, "words.txt"},
    {"mneme truth app.db words --out t.ivecs", 2, "give --queries FILE"},
    {"mneme truth app.db words --queries words.txt", 2, "give --out FILE.ivecs"},
    {"mneme export app.db words a.npy --to b.npy", 2, "not both"},
    {"mneme export app.db words x.json", 2, "wink is only read"},
    {"mneme export app.db words --to no/such/x.npy", 3, "no/such/x.npy"},
};

TEST(wrong_command_lines_name_what_is_wrong)
{
    put_words();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char command[512];
        snprintf(command, sizeof command, "%s </dev/null", wrong[i].command);
        run(wrong[i].code, command);
        if (!strstr(err, wrong[i].says))
            test_fail(__FILE__, __LINE__, "`%s` says \"%s\", which lacks \"%s\"", wrong[i].command,
                      err, wrong[i].says);
        if (*wrong[i].says)
            CHECKF(strncmp(err, "mneme: ", 7) == 0, "`%s` says \"%s\"", wrong[i].command, err);
    }
    run_shows("mneme list app.db", "words\n");
}

/* ---- Help ---------------------------------------------------------------------------------------
 */

TEST(help_is_complete)
{
    static const char *const names[] = {"import", "search", "get",    "delete",  "export", "create",
                                        "drop",   "list",   "info",   "stats",   "verify", "backup",
                                        "truth",  "fold",   "recall", "rebuild", "compact"};
    run(0, "mneme help");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        CHECK_HAS(out, names[i]);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char command[64], usage[64], example[64];
        snprintf(command, sizeof command, "mneme %s --help", names[i]);
        snprintf(usage, sizeof usage, "usage: mneme %s ", names[i]);
        snprintf(example, sizeof example, "\n  mneme %s ", names[i]);
        run(0, command);
        CHECK_HAS(out, usage);
        CHECK_HAS(strstr(out, "Examples:"), example);
        CHECK_HAS(out, "--memory SIZE");
        for (const char *line = out; *line; line += strcspn(line, "\n") + 1)
            CHECKF(strcspn(line, "\n") <= 90, "%s: a line of %zu columns", command,
                   strcspn(line, "\n"));
    }
    run_shows("mneme --version", "mneme ... (SQLite ...)\n");
}

/* Every example of every help page has a command line that is understood: --help at its end is
 * reached only then. */
TEST(examples_in_the_help_are_understood)
{
    int n = 0;
    char names[512], *name, *rest = names;
    run(0, "mneme help | sed -n '/^Commands/,/^$/s/^  \\([a-z]*\\) .*/\\1/p'");
    snprintf(names, sizeof names, "%.500s", out);
    while ((name = strsep(&rest, "\n")) && *name) {
        char command[512];
        snprintf(command, sizeof command, "mneme help %s", name);
        run(0, command);
        static char page[sizeof out];
        memcpy(page, strstr(out, "Examples:"), strlen(strstr(out, "Examples:")) + 1);
        for (char *line, *lines = page; (line = strsep(&lines, "\n"));) {
            char *start = strstr(line, "mneme "), *end = start ? strstr(start, " ||") : NULL;
            if (!start)
                continue;
            snprintf(command, sizeof command, "%.*s --help", end ? (int)(end - start) : 400, start);
            run(0, command);
            CHECK_HAS(out, "usage: mneme ");
            n++;
        }
    }
    CHECK(n > 25);
}

/* ---- Pipes, terminals, signals ------------------------------------------------------------------
 */

TEST(a_reader_who_leaves_ends_the_program_quietly)
{
    put_fvecs("base.fvecs", 0, 2000, 2);
    run(0, "mneme import app.db base base.fvecs");
    run(0, "{ mneme search app.db base --vector 0,0 --k 2000 --format json; echo $? >&3; } 3>code "
           "| head -n 1");
    CHECK_STR(err, "");
    char code[16];
    slurp("code", code, sizeof code);
    CHECK_STR(code, "0\n");
    run(3, "mneme search app.db base --vector 0,0 --k 2000 --format json >/dev/full");
    CHECK_HAS(err, "standard output could not be written: No space left on device");
}

TEST(a_pipe_gets_no_progress_and_no_colours)
{
    put_fvecs("base.fvecs", 0, 3000, 64);
    run(0, "mneme import app.db base base.fvecs --batch 10");
    CHECK_STR(err, "");
    CHECK(!strchr(out, '\x1b') && !strchr(out, '\r'));
}

/* A file that keeps the import busy for more than the half second after which progress shows. */
TEST(a_terminal_gets_progress_that_is_cleared)
{
    if (access("/usr/bin/script", X_OK) != 0)
        test_skip("script(1) is not there");
    put_fvecs("base.fvecs", 0, 100, 64);
    /* A slow pipe for standard input: records come for a second. */
    run(0, "export TERM=xterm; script -qec '(head -c 13000 base.fvecs; sleep 0.7; "
           "tail -c +13001 base.fvecs) | mneme import app.db base - --format fvecs --batch 1' "
           "/dev/null </dev/null");
    CHECK_HAS(out, "\rimporting ");
    CHECK_HAS(out, "rows/s");
    CHECK_HAS(out, "\r\x1b[K");
    CHECK_HAS(out, "imported 100 rows");
    run(0, "export TERM=xterm; script -qec 'mneme search app.db base --id 5 --k 1' /dev/null "
           "</dev/null");
    CHECK_HAS(out, "\x1b[1mrank");
    run(0, "export TERM=xterm NO_COLOR=1; script -qec 'mneme search app.db base --id 5 --k 1' "
           "/dev/null </dev/null");
    CHECK(!strchr(out, '\x1b'));
}

TEST(an_interrupted_import_says_what_it_kept)
{
    put_fvecs("base.fvecs", 0, 100, 4);
    /* Batches are committed while the pipe stays open; then SIGINT comes. */
    run(130, "mkfifo pipe; mneme import app.db base - --format fvecs --batch 10 --partial <pipe & "
             "p=$!; exec 4>pipe; cat base.fvecs >&4; " UNTIL(
                 "stats app.db base --format json",
                 "rows.:(90|100),") "kill -INT $p; exec 4>&-; wait $p");
    CHECK_HAS(err, "mneme: interrupted: ");
    CHECK_HAS(err, "0 rows are kept in 'base'");
    run(130, "mkfifo pipe2; mneme import app.db other - --format fvecs --batch 10 <pipe2 & "
             "p=$!; exec 4>pipe2; cat base.fvecs >&4; " UNTIL(
                 "list app.db", "other") "kill -INT $p; exec 4>&-; wait $p");
    CHECK_HAS(err, "interrupted: 0 rows are kept in 'other'");
    run_shows("mneme list app.db", "base\n");
}

TEST_MAIN
