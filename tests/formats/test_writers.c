/* What writers write, readers read back as it was; and what cannot be written is said. */
#include "storage/base/alloc.h"
#include "tests/formats/dump.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static const float two[][2] = {{1, -0.25f}, {3.4e38f, 1e-45f}, {-0.0f, 0.1f}};

/* Writes n records; the status of what failed first. */
static mn_status write_all(const char *path, const struct format_write_opts *opts,
                           const struct format_record *recs, size_t n, mn_error *err)
{
    struct format_writer *w;
    mn_status st = format_writer_open(path, opts, &w, err);
    if (st != MN_OK)
        return st;
    for (size_t i = 0; i < n && st == MN_OK; i++)
        st = format_writer_put(w, &recs[i], err);
    if (st != MN_OK) {
        mn_error ignored;
        CHECK(format_writer_close(w, &ignored) != MN_OK); /* a failed put fails the file */
        return st;
    }
    return format_writer_close(w, err);
}

static struct format_record vector(const float *x, uint32_t dim)
{
    return (struct format_record){.dtype = FORMAT_F32, .dim = dim, .vector = x};
}

static size_t count_files(const char *folder)
{
    size_t n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

TEST(binary_formats_read_back_as_written)
{
    static const float whole[][2] = {{0, 127}, {5, 6}};
    static const struct {
        const char *name;
        enum format_dtype dtype;
        bool native;
        const char *want;
    } cases[] = {
        {"a.fvecs", 0, true, "- [0 127]\n- [5 6]"},
        {"a.bvecs", 0, true, "- [0 127]u8\n- [5 6]u8"},
        {"a.ivecs", 0, true, "- [0 127]i32\n- [5 6]i32"},
        {"a.fbin", 0, false, "- [0 127]\n- [5 6]"},
        {"a.u8bin", 0, true, "- [0 127]u8\n- [5 6]u8"},
        {"a.i8bin", 0, true, "- [0 127]i8\n- [5 6]i8"},
        {"a.npy", FORMAT_F32, false, "- [0 127]\n- [5 6]"},
        {"b.npy", FORMAT_F16, false, "- [0 127]\n- [5 6]"},
        {"c.npy", FORMAT_I8, true, "- [0 127]i8\n- [5 6]i8"},
        {"d.npy", FORMAT_U8, true, "- [0 127]u8\n- [5 6]u8"},
    };
    static struct dump d;
    mn_error err;
    struct format_record recs[2] = {vector(whole[0], 2), vector(whole[1], 2)};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = test_path(cases[i].name);
        struct format_write_opts opts = {.dtype = cases[i].dtype};
        CHECK_OK(write_all(path, &opts, recs, 2, &err), err);
        dump_file(&d, path, &(struct format_opts){.native = cases[i].native});
        CHECKF(d.status == MN_OK, "%s: %s", cases[i].name, d.err.message);
        CHECKF(strcmp(d.text, cases[i].want) == 0, "%s: read\n%s", cases[i].name, d.text);
    }
    CHECK_EQ(count_files(test_dir()), sizeof cases / sizeof *cases); /* no temporary file stays */
}

TEST(all_that_a_record_has_reads_back_from_text)
{
    static const unsigned char blob[] = {0, 255, 16, 7};
    const mn_attr attrs[][6] = {
        {{"n", {.type = MN_NULL}},
         {"i", {.type = MN_INTEGER, .integer = INT64_MIN}},
         {"r", {.type = MN_REAL, .real = 5}},
         {"t", {.type = MN_TEXT, .data = "a \"q\", \n\\ \xC3\xA9\x01", .len = 13}},
         {"b", {.type = MN_BLOB, .data = blob, .len = sizeof blob}},
         {"x y", {.type = MN_TEXT, .data = "12", .len = 2}}},
        {{"n", {.type = MN_INTEGER, .integer = INT64_MAX}},
         {"i", {.type = MN_REAL, .real = 0.1}},
         {"r", {.type = MN_REAL, .real = 1.7976931348623157e308}},
         {"t", {.type = MN_TEXT, .data = NULL, .len = 0}},
         {"b", {.type = MN_BLOB, .data = NULL, .len = 0}},
         {"x y", {.type = MN_TEXT, .data = "x'00'", .len = 5}}},
    };
    static const char *const names[] = {"a.jsonl", "a.csv", "a.tsv"};
    static struct dump want, got;
    struct format_record recs[3];
    mn_error err;
    memset(&want, 0, sizeof want);
    for (size_t i = 0; i < 3; i++) {
        recs[i] = vector(two[i], 2);
        recs[i].attrs = attrs[i % 2];
        recs[i].n_attrs = 6;
    }
    recs[0].id_kind = FORMAT_ID_TEXT, recs[0].id_text = "5", recs[0].id_len = 1;
    recs[1].id_kind = FORMAT_ID_INTEGER, recs[1].id = -5;
    recs[0].payload = "", recs[0].payload_len = 0;
    recs[1].payload = "two\nlines\t\xF0\x9F\x98\x80 ", recs[1].payload_len = 15;
    for (size_t i = 0; i < 3; i++)
        dump_record(&want, &recs[i]);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        CHECK_OK(write_all(test_path(names[i]), NULL, recs, 3, &err), err);
        dump_file(&got, test_path(names[i]), NULL);
        CHECKF(got.status == MN_OK, "%s: %s", names[i], got.err.message);
        CHECKF(strcmp(got.text, want.text) == 0, "%s: read\n%s\nnot\n%s", names[i], got.text,
               want.text);
    }
}

TEST(word_vectors_read_back)
{
    static struct dump d;
    mn_error err;
    struct format_record recs[2] = {vector(two[0], 2), vector(two[1], 2)};
    recs[0].id_kind = FORMAT_ID_TEXT, recs[0].id_text = ". .", recs[0].id_len = 3;
    recs[1].id_kind = FORMAT_ID_INTEGER, recs[1].id = 7;
    struct format_write_opts opts = {.header = true, .n_known = true, .n = 2};
    CHECK_OK(write_all(test_path("a.vec"), &opts, recs, 2, &err), err);
    dump_file(&d, test_path("a.vec"), NULL);
    CHECKF(d.status == MN_OK, "%s", d.err.message);
    CHECK_STR(d.text, "'. .' [1 -0.25]\n'7' [3.39999995e+38 1.40129846e-45]");
    CHECK_OK(write_all(test_path("a.txt"), NULL, recs + 1, 1, &err), err);
    dump_file(&d, test_path("a.txt"), NULL);
    CHECK_STR(d.text, "'7' [3.39999995e+38 1.40129846e-45]");
}

TEST(ids_are_written_beside_binary_vectors)
{
    static struct dump d;
    mn_error err;
    struct format_record recs[2] = {vector(two[0], 2), vector(two[2], 2)};
    recs[0].id_kind = FORMAT_ID_TEXT, recs[0].id_text = "a b", recs[0].id_len = 3;
    recs[1].id_kind = FORMAT_ID_INTEGER, recs[1].id = 7;
    struct format_write_opts opts = {.ids_path = test_path("a.ids")};
    CHECK_OK(write_all(test_path("a.fbin"), &opts, recs, 2, &err), err);
    dump_file(&d, test_path("a.fbin"), &(struct format_opts){.ids_path = test_path("a.ids")});
    CHECKF(d.status == MN_OK, "%s", d.err.message);
    CHECK_STR(d.text, "'a b' [1 -0.25]\n7 [-0 0.100000001]");
}

TEST(random_vectors_survive_text_to_the_last_bit)
{
    enum { N = 40, DIM = 50 };
    static float x[N][DIM];
    static const char *const names[] = {"a.jsonl", "a.csv", "a.txt"};
    struct test_rng rng = {7};
    struct format_record recs[N];
    mn_error err;
    for (size_t i = 0; i < N; i++) {
        for (size_t j = 0; j < DIM; j++) {
            uint32_t bits = (uint32_t)test_rand(&rng);
            memcpy(&x[i][j], &bits, sizeof bits);
            if (!isfinite(x[i][j]))
                x[i][j] = (float)test_normal(&rng);
        }
        recs[i] = vector(x[i], DIM);
        recs[i].id_kind = FORMAT_ID_INTEGER, recs[i].id = (int64_t)i;
    }
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct format_reader *r;
        const struct format_record *rec;
        CHECK_OK(write_all(test_path(names[f]), NULL, recs, N, &err), err);
        CHECK_OK(format_reader_open(test_path(names[f]), NULL, &r, &err), err);
        for (size_t i = 0; i < N; i++) {
            CHECK_OK(format_reader_next(r, &rec, &err), err);
            CHECKF(rec && rec->dim == DIM && memcmp(rec->vector, x[i], sizeof x[i]) == 0,
                   "%s: record %zu differs (seed 7)", names[f], i + 1);
        }
        format_reader_close(r);
    }
}

TEST(what_a_format_cannot_say_is_refused)
{
    static const float half[] = {0.5f, 1}, large[] = {70000, 1}, negative[] = {-1, 1};
    static const mn_attr clash = {"vector", {.type = MN_INTEGER}},
                         infinite = {"a", {.type = MN_REAL, .real = INFINITY}},
                         invalid = {"a", {.type = MN_TEXT, .data = "\xFF", .len = 1}},
                         nul = {"a", {.type = MN_TEXT, .data = "\0", .len = 1}};
    static const struct {
        const char *name;
        const float *x;
        const mn_attr *attr;
        const char *id, *says;
        struct format_write_opts opts;
    } cases[] = {
        {"a.bvecs", half, NULL, NULL, "record 1: element 0 (counted from 0) is 0.5, which u8", {0}},
        {"a.u8bin", negative, NULL, NULL, "is -1, which u8 does not hold", {0}},
        {"a.i8bin", large, NULL, NULL, "is 70000, which i8 does not hold", {0}},
        {"a.ivecs", half, NULL, NULL, "which i32 does not hold", {0}},
        {"a.npy", large, NULL, NULL, "is 70000, which f16 does not hold", {.dtype = FORMAT_F16}},
        {"a.jsonl", half, &clash, NULL, "the attribute 'vector' has the name of the column", {0}},
        {"a.csv", half, &clash, NULL, "the attribute 'vector' has the name of the column", {0}},
        {"a.jsonl", half, &infinite, NULL, "'a' is inf, which JSON cannot say", {0}},
        {"a.csv", half, &infinite, NULL, "'a' is inf, which CSV cannot say", {0}},
        {"a.jsonl", half, &invalid, NULL, "'a' is not valid UTF-8: its byte 1 is 0xff", {0}},
        {"a.csv", half, &nul, NULL, "'a' holds a NUL byte", {0}},
        {"a.txt", half, NULL, NULL, "has no id to write", {0}},
        {"a.txt", half, NULL, "a 5", "ends in a blank or a number", {0}},
        {"a.txt", half, NULL, "a\nb", "holds a line end", {0}},
        {"a.fvecs", half, NULL, NULL, "has no id to write", {.ids_path = "/dev/null"}},
        {"a.json", half, NULL, NULL, "format wink is only read", {0}},
        {"a.what", half, NULL, NULL, "its extension names no format", {0}},
        {"a.npy", half, NULL, NULL, "npy is written with f32, f16, i8 or u8, not i32",
         {.dtype = FORMAT_I32}},
        {"a.vec", half, NULL, "a", "text states the number of records first", {.header = true}},
        {"a.fbin", half, NULL, NULL, "5 records were promised, 1 were written",
         {.n_known = true, .n = 5}},
        {"a.fvecs", half, NULL, NULL, "its vector has 2 elements, those before have 3",
         {.dim = 3}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mn_error err = {0};
        struct format_record rec = vector(cases[i].x, 2);
        rec.attrs = cases[i].attr;
        rec.n_attrs = cases[i].attr != NULL;
        if (cases[i].id) {
            rec.id_kind = FORMAT_ID_TEXT;
            rec.id_text = cases[i].id;
            rec.id_len = strlen(cases[i].id);
        }
        mn_status st = write_all(test_path(cases[i].name), &cases[i].opts, &rec, 1, &err);
        CHECKF(st == MN_INVALID && strstr(err.message, cases[i].says), "%s: status %d, \"%s\" "
               "lacks \"%s\"", cases[i].name, st, err.message, cases[i].says);
    }
    CHECK_EQ(count_files(test_dir()), 0); /* and nothing is left behind */
}

TEST(an_older_file_stands_until_the_new_one_is_whole)
{
    static struct dump d;
    struct format_writer *w;
    mn_error err;
    struct format_record rec = vector(two[0], 2);
    write_bytes(test_path("a.fvecs"), BYTES(I32("\1") F_1));
    CHECK(symlink("a.fvecs", test_path("link.fvecs")) == 0);
    CHECK_OK(format_writer_open(test_path("link.fvecs"), NULL, &w, &err), err);
    CHECK_OK(format_writer_put(w, &rec, &err), err);
    dump_file(&d, test_path("a.fvecs"), NULL);
    CHECK_STR(d.text, "- [1]");
    CHECK_EQ(count_files(test_dir()), 3);
    format_writer_abort(w);
    CHECK_EQ(count_files(test_dir()), 2);
    CHECK_OK(write_all(test_path("link.fvecs"), NULL, &rec, 1, &err), err);
    dump_file(&d, test_path("a.fvecs"), NULL);
    CHECK_STR(d.text, "- [1 -0.25]");
    struct stat st;
    CHECK(lstat(test_path("link.fvecs"), &st) == 0 && S_ISLNK(st.st_mode));
    CHECK_EQ(count_files(test_dir()), 2);
}

TEST(a_full_disk_and_a_missing_folder_are_told)
{
    enum { N = 2000 };
    static float x[512];
    static struct format_record recs[N];
    mn_error err;
    for (size_t i = 0; i < N; i++)
        recs[i] = vector(x, 512);
    struct format_write_opts opts = {.format = FORMAT_FVECS};
    CHECK_EQ(write_all("/dev/full", &opts, recs, N, &err), MN_FULL); /* in a put */
    CHECK_HAS(err.message, "/dev/full: a write failed: No space left on device");
    CHECK_EQ(write_all("/dev/full", &opts, recs, 1, &err), MN_FULL); /* at close */
    CHECK_EQ(write_all(test_path("none/a.fvecs"), NULL, recs, 1, &err), MN_IO);
    CHECK_HAS(err.message, "none/a.fvecs: cannot be written: No such file");
    CHECK_EQ(write_all(test_dir(), &opts, recs, 1, &err), MN_INVALID);
    CHECK_HAS(err.message, "is a directory");
}

TEST(a_pipe_takes_what_needs_no_mending)
{
    int ends[2];
    char name[64], bytes[64];
    mn_error err;
    struct format_record rec = vector(two[0], 2);
    CHECK(pipe(ends) == 0);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[1]);
    struct format_write_opts opts = {.format = FORMAT_FBIN};
    CHECK_EQ(write_all(name, &opts, &rec, 1, &err), MN_INVALID);
    CHECK_HAS(err.message, "into a pipe it must be known");
    opts.n_known = true;
    opts.n = 1;
    CHECK_OK(write_all(name, &opts, &rec, 1, &err), err);
    close(ends[1]);
    CHECK_EQ(read(ends[0], bytes, sizeof bytes), 16);
    CHECK(memcmp(bytes, I32("\1") I32("\2") F_1, 12) == 0);
    close(ends[0]);
}

TEST(empty_exports_keep_their_dimension)
{
    static struct dump d;
    struct format_probe p;
    mn_error err;
    struct format_write_opts opts = {.dim = 7};
    static const char *const names[] = {"a.npy", "a.fbin"};
    for (size_t i = 0; i < 2; i++) {
        CHECK_OK(write_all(test_path(names[i]), &opts, NULL, 0, &err), err);
        CHECK_OK(format_probe(test_path(names[i]), NULL, &p, &err), err);
        CHECK(p.dim == 7 && p.n_known && p.n == 0);
    }
    CHECK_OK(write_all(test_path("a.csv"), &opts, NULL, 0, &err), err);
    dump_file(&d, test_path("a.csv"), NULL);
    CHECK(d.status == MN_OK && d.n == 0);
    opts.dim = 0;
    CHECK_EQ(write_all(test_path("b.npy"), &opts, NULL, 0, &err), MN_INVALID);
    CHECK_HAS(err.message, "no record, and so no dimension");
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

TEST(memory_that_runs_out_leaves_no_file)
{
    const mn_attr attrs[2] = {{"a", {.type = MN_NULL}}, {"b", {.type = MN_NULL}}};
    struct format_record rec = vector(two[0], 2);
    rec.attrs = attrs;
    rec.n_attrs = 2;
    size_t nth = 0;
    for (; nth < 100; nth++) {
        size_t left = nth;
        mn_error err;
        mn_allocator hooks = {fail_nth, free_block, &left};
        struct mn_alloc *alloc = mn_alloc_create(&hooks, UINT64_MAX);
        if (!alloc)
            continue; /* the counter's own memory */
        struct format_write_opts opts = {.alloc = alloc};
        mn_status st = write_all(test_path("a.csv"), &opts, &rec, 1, &err);
        uint64_t used = mn_alloc_used(alloc) + mn_alloc_used_by(alloc, MN_TAG_HANDLE);
        mn_alloc_destroy(alloc);
        CHECKF(used == 0, "allocation %zu fails: %" PRIu64 " bytes leak", nth, used);
        if (st == MN_OK)
            break;
        CHECKF(st == MN_NOMEM && strstr(err.message, "no memory"),
               "allocation %zu fails: status %d, \"%s\"", nth, st, err.message);
        CHECK_EQ(count_files(test_dir()), 0);
    }
    CHECK(nth > 5 && nth < 100);
    CHECK_EQ(count_files(test_dir()), 1);
}

/* numpy itself writes and reads, where it is installed. */
TEST(numpy_and_we_read_each_other)
{
    static struct dump d;
    mn_error err;
    char command[1024];
    if (system("/usr/bin/python3 -c 'import numpy' 2>/dev/null") != 0)
        test_skip("no numpy for /usr/bin/python3");
    struct format_record recs[2] = {vector(two[0], 2), vector(two[2], 2)};
    CHECK_OK(write_all(test_path("ours.npy"), NULL, recs, 2, &err), err);
    snprintf(command, sizeof command,
             "cd %s && /usr/bin/python3 -c \"import numpy as np; a = np.load('ours.npy'); "
             "assert a.shape == (2, 2) and a[0, 1] == np.float32(-0.25); "
             "np.save('theirs.npy', a.astype('<f2')); "
             "np.save('turned.npy', np.asfortranarray(a))\"",
             test_dir());
    CHECK(system(command) == 0);
    dump_file(&d, test_path("theirs.npy"), NULL);
    CHECK_STR(d.text, "- [1 -0.25]\n- [-0 0.0999755859]");
    dump_file(&d, test_path("turned.npy"), NULL);
    CHECK_HAS(d.err.message, "Fortran order");
}

TEST_MAIN
