/* The example programs say what their readers are told they say. */
#include <dirent.h>
#include <unistd.h>

#include "tests/test.h"

static const struct {
    const char *name, *says;
} examples[] = {
    {"search", "red      0.000\norange   0.106\npink     0.265\n"},
    {"transactions", "inside: 3 rows\ncommitted: 2 rows\nrolled back: 2 rows\nput 'a' if absent: "
                     "conflict\nput 'a' if unchanged: ok\nput 'a' if unchanged: conflict\n"},
    {"filters",
     "the 2 nearest: 1 (0.00) 2 (1.00)\nin English since 2000: 3 (2.00) 4 (3.00)\non the "
     "shelf: 2 (1.00) 5 (4.00)\nthe same within 2.5: 3 (2.00)\n"},
    {"batch", "200 queries, 1000000 distances; "},
    {"live", "reader   1\nwriter   2 1\nreader   1\na second writer: busy\nsnapshot 1\nreader   2 "
             "1\n"},
    {"backup", "again: exists\npoints.db: 999 rows, 7992 bytes of vectors, 0 findings\ncopy.db: "
               "1000 rows, 8000 bytes of vectors, 0 findings\n"}};

enum { EXAMPLES = sizeof examples / sizeof *examples };

TEST(each_example_prints_what_it_should)
{
    for (size_t i = 0; i < EXAMPLES; i++) {
        char command[1500], out[2000];
        snprintf(command, sizeof command, "cd '%s' && '%s/example_%s' 2>/dev/null", test_dir(),
                 MNEME_BUILD_DIR, examples[i].name);
        FILE *program = popen(command, "r");
        CHECK(program);
        out[fread(out, 1, sizeof out - 1, program)] = '\0';
        int status = pclose(program);
        CHECKF(status == 0, "%s: status 0x%x\n%s", examples[i].name, status, out);
        CHECKF(strncmp(out, examples[i].says, strlen(examples[i].says)) == 0, "%s says\n%s",
               examples[i].name, out);
    }
}

TEST(each_example_is_in_the_list)
{
    DIR *folder = opendir(test_source("examples"));
    size_t n = 0;
    CHECK(folder);
    for (struct dirent *e; (e = readdir(folder));) {
        char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".c") != 0)
            continue;
        *dot = '\0';
        size_t i = 0;
        while (i < EXAMPLES && strcmp(examples[i].name, e->d_name) != 0)
            i++;
        CHECKF(i < EXAMPLES, "examples/%s.c is not tested", e->d_name);
        n++;
    }
    closedir(folder);
    CHECK_EQ(n, EXAMPLES);
}

TEST_MAIN
