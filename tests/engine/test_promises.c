/* docs/promises.md: every line names the tests that prove it, and they are there. */
#include "tests/test.h"

#include <dirent.h>

static char *read_all(const char *path)
{
    FILE *f = fopen(path, "rb");
    CHECKF(f, "%s cannot be read", path);
    char *text = calloc(1, 1 << 20);
    CHECK(text);
    size_t n = fread(text, 1, (1 << 20) - 1, f);
    CHECKF(n > 0 && n < (1 << 20) - 1, "%s is empty or too long", path);
    fclose(f);
    return text;
}

/* The test file of that name in some folder below tests/, NULL if there is none. For free(). */
static char *find_source(const char *file)
{
    char path[600];
    char *text = NULL;
    DIR *tests = opendir(test_source("tests"));
    CHECK(tests);
    for (struct dirent *d; !text && (d = readdir(tests));) {
        snprintf(path, sizeof path, "%s/%s/%s", test_source("tests"), d->d_name, file);
        FILE *f = d->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (f) {
            fclose(f);
            text = read_all(path);
        }
    }
    closedir(tests);
    return text;
}

/* Checks each `test_FILE.c NAME` between from and end; returns how many there are. */
static int check_names(const char *from, const char *end)
{
    char file[80], name[160], wanted[200];
    int n = 0, used = 0;
    for (const char *p = from; (p = strstr(p, "`test_")) && p < end; p++) {
        if (sscanf(p, "`%79[a-z_0-9.] %159[a-zA-Z_0-9]`%n", file, name, &used) != 2 || !used)
            continue; /* of the page's head */
        char *source = find_source(file);
        CHECKF(source, "there is no tests/*/%s", file);
        snprintf(wanted, sizeof wanted, "TEST(%s)", name);
        CHECKF(strstr(source, wanted), "%s has no test %s", file, name);
        free(source);
        n++;
        used = 0;
    }
    return n;
}

TEST(every_promise_names_tests_that_exist)
{
    char *text = read_all(test_source("docs/promises.md"));
    const char *not_promised = strstr(text, "## Not promised");
    int promises = 0, names = 0;
    CHECK(not_promised);
    for (const char *p = strstr(text, "\n- "); p; p = strstr(p + 1, "\n- ")) {
        const char *next = strstr(p + 1, "\n- "), *head = strstr(p + 1, "\n## ");
        const char *end = next ? next : text + strlen(text);
        if (head && head < end)
            end = head;
        int n = check_names(p, end);
        CHECKF(n > 0 || p > not_promised, "no test for: %.70s", p + 1);
        promises += p < not_promised;
        names += n;
    }
    CHECK(promises >= 30);
    test_note("%d promises, %d tests", promises, names);
    free(text);
}

TEST_MAIN
